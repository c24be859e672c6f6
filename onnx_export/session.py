"""Running an exported model with stock onnxruntime, on the hardware that is really there."""

import ctypes
import functools
import importlib.metadata
import os
import warnings
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from google.protobuf.message import DecodeError
from onnx import ModelProto
from onnxruntime.capi import onnxruntime_pybind11_state as errors

from .arithmetic import check_arithmetic
from .files import broken_seal, claims, parse, props_of
from .functions import for_device
from .load import load
from .native import register

DEVICES = ("auto", "cpu", "cuda")

# Without TF32, which keeps 10 bits of each factor of a linear head.
CUDA = ("CUDAExecutionProvider", {"use_tf32": 0})
CPU = "CPUExecutionProvider"


LOAD_ERRORS = (
    errors.Fail, errors.InvalidGraph, errors.InvalidProtobuf, errors.NotImplemented, errors.InvalidArgument,
    errors.NoModel, errors.RuntimeException, DecodeError,
)


TYPES = {"tensor(float)": np.float32, "tensor(uint8)": np.uint8}  # of inputs


class DeviceError(RuntimeError):
    """The device that was asked for cannot be used here."""


def _has_cuda() -> bool:
    """Whether there is a GPU driver: onnxruntime lists the providers it was built with, GPU or not."""
    if torch.cuda.is_available():
        return True
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


def _installed(distribution: str) -> bool:
    try:
        importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _warn_of_two_packages() -> None:
    """onnxruntime and onnxruntime-gpu install into one folder, where the later overwrites the earlier."""
    if _installed("onnxruntime") and _installed("onnxruntime-gpu"):
        warnings.warn(
            "onnxruntime and onnxruntime-gpu are both installed and overwrite each other: uninstall both, then "
            "install the one you want",
            RuntimeWarning, stacklevel=3,
        )


@functools.cache
def _note(reason: str) -> None:
    """Said once a process."""
    warnings.warn(
        f"distances run as bodies in standard operators, several times slower than the native ones: {reason}",
        RuntimeWarning, stacklevel=3,
    )


def _beside(path: Path, options: onnxruntime.SessionOptions) -> None:
    """Has weights beside a model that is given as bytes read from there."""
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(path.parent.resolve()))


def _on_cuda(path: Path, options: onnxruntime.SessionOptions, sealed: ModelProto | None = None) -> bytes:
    """The model with bodies for a GPU; ``sealed``: what ``_sealed`` read of the file."""
    _beside(path, options)
    model = onnx.load(path, load_external_data=False) if sealed is None else sealed
    return for_device(model, "cuda").SerializeToString()


def _sealed(path: Path) -> ModelProto | None:
    """A file that claims a certificate, without the weights beside it; None for one that claims none.

    Raises:
        ValueError: it claims one and is not as it was written, the weights beside it included.
    """
    try:
        stored = parse(path)
    except ValueError:
        return None  # onnxruntime says what it is
    if not claims([o.name for o in stored.graph.output], props_of(stored)):
        return None
    wrong = broken_seal(load(path))
    if wrong is not None:
        raise ValueError(f"{path}: {wrong}")
    return stored


def session(
    path: str | os.PathLike, device: str = "auto", *, threads: int | None = None, native: bool = True
) -> onnxruntime.InferenceSession:
    """Loads an ONNX file, to run as fast as it can here.

    On a CPU distances are computed by this package's kernels, if they were built and onnxruntime takes them; else,
    with a warning, and on a GPU, by the bodies in the file: in small blocks on a CPU, in large ones on a GPU.

    A file that claims a certificate, by its metadata or its outputs, must be as it was written, the weights beside it
    included: its digest is checked.  ``verify`` recomputes what it claims.

    Args:
        path: the file.
        device: "auto" takes the GPU where there is one; "cpu"; "cuda".
        threads: how many threads compute; by default as many as there are cores.
        native: whether to use the kernels.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: device is unknown, threads is not positive, onnxruntime cannot load the file, or it claims a
            certificate and was changed since it was written.
        DeviceError: device is "cuda" and onnxruntime cannot use a GPU here.
        RuntimeError: the file has certificates and onnxruntime would compute it with less than float32 here.
    """
    if device not in DEVICES:
        raise ValueError(f"device must be one of {', '.join(DEVICES)}, got {device!r}")
    if threads is not None and threads < 1:
        raise ValueError(f"threads must be at least 1, got {threads}")
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist")
    _warn_of_two_packages()
    available = CUDA[0] in onnxruntime.get_available_providers() and _has_cuda()
    if device == "cuda" and not available:
        raise DeviceError("device is cuda, but there is no GPU here that onnxruntime can use")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    # Threads that spin while they wait take cores from those that compute, which shows in the small steps of bodies.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if threads is not None:
        options.intra_op_num_threads = threads
    on_cuda, sealed = available and device != "cpu", _sealed(path)
    try:
        if on_cuda:
            model = _on_cuda(path, options, sealed)
            result = onnxruntime.InferenceSession(model, options, providers=[CUDA, CPU])
        else:
            if native and (reason := register(options)) is not None:
                _note(reason)
            model = os.fspath(path)
            if sealed is not None:  # what was checked, and not what may lie there now
                _beside(path, options)
                model = sealed.SerializeToString()
            result = onnxruntime.InferenceSession(model, options, providers=[CPU])
    except LOAD_ERRORS as error:
        raise ValueError(f"onnxruntime cannot load {path}: {error}") from error
    if sealed is None and claims([o.name for o in result.get_outputs()], result.get_modelmeta().custom_metadata_map):
        raise ValueError(f"{path} claims a certificate and is no ONNX file that could be checked")
    if device == "cuda" and result.get_providers()[0] != CUDA[0]:
        raise DeviceError(f"device is cuda, but onnxruntime only took {', '.join(result.get_providers())}")
    check_arithmetic(path, options, [CUDA, CPU] if on_cuda else [CPU])
    return result


def run(session: onnxruntime.InferenceSession, x: np.ndarray) -> list[np.ndarray]:
    """The outputs for a batch, in the model's order: logits (N, classes), predictions (N,), certified radii (N,), ….

    Args:
        session: of a model with one input.
        x: (N, C, H, W) of the model's type: float32, pixels in [0, 1], or uint8.

    Raises:
        TypeError: x is not an array of that type.
        ValueError: the shape of x is not the model's, N = 0, or x contains NaN or infinite values.
    """
    wanted = session.get_inputs()[0]
    if not isinstance(x, np.ndarray):
        raise TypeError(f"x must be a numpy.ndarray, got {type(x).__name__}")
    dtype = TYPES.get(wanted.type)
    if x.dtype != dtype:
        raise TypeError(f"x must be {wanted.type if dtype is None else np.dtype(dtype).name}, got {x.dtype}")
    fits = [have == want for have, want in zip(x.shape, wanted.shape) if isinstance(want, int)]
    if x.ndim != len(wanted.shape) or not all(fits):
        shape = ", ".join(map(str, wanted.shape))
        raise ValueError(f"x must have shape ({shape}), got {x.shape}")
    if len(x) == 0:
        raise ValueError(f"x must hold at least one image, got shape {x.shape}")
    if dtype == np.float32 and not np.isfinite(x).all():
        raise ValueError("x contains NaN or infinite values")
    return session.run(None, {wanted.name: x})
