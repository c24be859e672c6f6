"""Compiles and launches the kernels of ``gpu_kernels.cu`` with NVIDIA's package cuda-bindings and its compiler NVRTC.

Each instance of a template is compiled for the GPU in use when it is first needed.  It is then kept.  Every launch
goes to the current stream of the device.  A CUDA graph can capture a kernel that has run once before.
"""

import ctypes
import functools
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

SOURCE = Path(__file__).with_name("gpu_kernels.cu")
OPTIONS = ("--std=c++17", "--device-as-default-execution-space", "-diag-suppress=177")  # 177: unused constants
THREADS = 256  # in a block; they form 16 × 16 if the block computes a tile


def _checked(result: tuple) -> Any:
    """Returns the values of a function of cuda-bindings without its error code.  Raises RuntimeError for an error."""
    error, *values = result
    if int(error):
        raise RuntimeError(error.name)
    return values[0] if len(values) == 1 else values


def compile_kernel(kernel: str, target: str, *options: str) -> tuple[bytes, bytes, str]:
    """Compiles ``kernel``, an instance of a template of ``SOURCE``, for ``target`` (such as sm_90).

    Returns the binary, the kernel's name in it, and the compiler's log.  Raises RuntimeError if it does not compile.
    """
    from cuda.bindings import nvrtc

    def read(size: Callable, get: Callable) -> bytes:
        data = bytes(_checked(size(program)))  # the library writes to it
        _checked(get(program, data))
        return data

    program = _checked(nvrtc.nvrtcCreateProgram(SOURCE.read_bytes(), SOURCE.name.encode(), 0, [], []))
    try:
        _checked(nvrtc.nvrtcAddNameExpression(program, kernel.encode()))
        arguments = [option.encode() for option in (f"--gpu-architecture={target}", *OPTIONS, *options)]
        (error,) = nvrtc.nvrtcCompileProgram(program, len(arguments), arguments)
        log = read(nvrtc.nvrtcGetProgramLogSize, nvrtc.nvrtcGetProgramLog).rstrip(b"\0").decode()
        if int(error):
            raise RuntimeError(f"{kernel} for {target}: {error.name}; {' '.join(log.split())}")
        name = _checked(nvrtc.nvrtcGetLoweredName(program, kernel.encode()))
        return read(nvrtc.nvrtcGetCUBINSize, nvrtc.nvrtcGetCUBIN), name, log
    finally:
        nvrtc.nvrtcDestroyProgram(program)


def capturing() -> bool:
    """Returns whether a CUDA graph captures the current stream."""
    return torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()


class Device:
    """A GPU with its context and the kernels that were compiled for it."""

    def __init__(self, index: int | None):
        from cuda.bindings import driver

        self.driver, self.index = driver, index
        self.target = "sm_{}{}".format(*torch.cuda.get_device_capability(index))
        self.multiprocessors = torch.cuda.get_device_properties(index).multi_processor_count
        _checked(driver.cuInit(0))
        self.context = _checked(driver.cuDevicePrimaryCtxRetain(_checked(driver.cuDeviceGet(index))))
        self.functions: dict[str, Any] = {}
        self.lock = threading.Lock()

    def function(self, kernel: str) -> Any:
        """Returns the compiled kernel.  The context must be current.

        Raises RuntimeError if the kernel is new and a CUDA graph is being captured: to load a binary would break the
        capture.
        """
        with self.lock:
            if kernel not in self.functions:
                if capturing():
                    raise RuntimeError("not compiled yet: run the same call once before a CUDA graph captures it")
                binary, name, _ = compile_kernel(kernel, self.target)
                module = _checked(self.driver.cuModuleLoadData(binary))
                self.functions[kernel] = _checked(self.driver.cuModuleGetFunction(module, name))
            return self.functions[kernel]

    def launch(self, kernel: str, blocks: int, parameters: ctypes.Array) -> None:
        """Launches blocks of ``THREADS`` threads.  ``parameters`` holds the addresses of the kernel's arguments."""
        stream = torch.cuda.current_stream(self.index).cuda_stream
        _checked(self.driver.cuCtxPushCurrent(self.context))
        try:
            _checked(
                self.driver.cuLaunchKernel(
                    self.function(kernel), blocks, 1, 1, THREADS, 1, 1, 0, stream, ctypes.addressof(parameters), 0
                )
            )
        except RuntimeError as error:
            raise RuntimeError(f"{kernel}, {blocks} blocks, GPU {self.index} ({self.target}): {error}") from None
        finally:
            _checked(self.driver.cuCtxPopCurrent())


@functools.cache
def device(index: int | None) -> Device:
    return Device(index)


def launch(kernel: str, blocks: int, *arguments: Tensor | int | float | None) -> None:
    """Launches a kernel.  A tensor becomes a pointer, None a null pointer, and a number takes 64 bits."""
    tensor = next(a for a in arguments if isinstance(a, Tensor))
    values = [
        ctypes.c_double(a)
        if isinstance(a, float)
        else ctypes.c_int64(a)
        if isinstance(a, int)
        else ctypes.c_void_p(None if a is None else a.data_ptr())
        for a in arguments
    ]
    parameters = (ctypes.c_void_p * len(values))(*map(ctypes.addressof, values))
    device(tensor.device.index).launch(kernel, blocks, parameters)
