"""Sessions of onnxruntime for exported models, on the hardware of this machine."""

import ctypes
import functools
import importlib.metadata
import os
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from google.protobuf.message import DecodeError
from onnx import ModelProto, numpy_helper
from onnxruntime.capi import onnxruntime_pybind11_state as errors

from ..files.load import content_of, parsed, unchecked
from ..files.seal import broken_seal, claims, props_of
from ..files.text import first_line
from ..functions.library import for_device
from .arithmetic import CUDA, check_arithmetic, unfit_for_cuda
from .native import register

DEVICES = ("auto", "cpu", "cuda")

CPU = "CPUExecutionProvider"
# Without TF32, which keeps only 10 bits of each factor of a product.
PROVIDERS = {"cuda": [(CUDA, {"use_tf32": 0}), CPU], "cpu": [CPU]}

LOAD_ERRORS = (
    errors.Fail,
    errors.InvalidGraph,
    errors.InvalidProtobuf,
    errors.NotImplemented,
    errors.InvalidArgument,
    errors.NoModel,
    errors.RuntimeException,
    errors.EPFail,
    DecodeError,
)

INPUT_TYPES = {"tensor(float)": np.float32, "tensor(uint8)": np.uint8}


class DeviceError(RuntimeError):
    """The requested device cannot be used on this machine."""


def _has_cuda() -> bool:
    """Whether there is a GPU driver.  (onnxruntime lists the providers that it was built with, also without a GPU.)"""
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
    """Warns where onnxruntime and onnxruntime-gpu are both installed: they use one folder, and overwrite each other."""
    if _installed("onnxruntime") and _installed("onnxruntime-gpu"):
        warnings.warn(
            "onnxruntime and onnxruntime-gpu are both installed and overwrite each other: uninstall both, then "
            "install the one you want",
            RuntimeWarning,
            stacklevel=4,
        )


@functools.cache
def _note(reason: str) -> None:
    """Warns once in a process that the native operators are not used."""
    warnings.warn(
        f"distances run as bodies in standard operators, several times slower than the native ones: {reason}",
        RuntimeWarning,
        stacklevel=5,
    )


@dataclass(frozen=True)
class _File:
    """A file as it was read.

    Attributes:
        model: what is run; None where protobuf cannot read the file.
        sealed: whether the file claims a certificate and is as it was written.
        weights: those beside a sealed file: the weights that were checked are those that run.  Of other files
            onnxruntime reads them.
    """

    path: Path
    model: ModelProto | None
    sealed: bool
    weights: dict[str, np.ndarray]


def _checked(content: bytes, path: Path) -> _File:
    """The file, after its seal was checked.  Raises ValueError where it claims a certificate and was changed."""
    try:
        stored = unchecked(content, path)
    except ValueError:
        return _File(path, None, False, {})  # onnxruntime reports the error
    if not claims([o.name for o in stored.graph.output], props_of(stored)):
        return _File(path, stored, False, {})
    model, weights = parsed(content, path), {}
    if (wrong := broken_seal(model)) is not None:
        raise ValueError(f"{path}: {wrong}")
    for tensor, place in zip(model.graph.initializer, stored.graph.initializer):
        if place.external_data:
            weights[tensor.name] = numpy_helper.to_array(tensor)
            tensor.CopyFrom(place)
    return _File(path, model, True, weights)


def _options(device: str, threads: int | None, native: bool) -> onnxruntime.SessionOptions:
    """The options of sessions on a device, "cpu" or "cuda"."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    # Threads that spin while they wait take cores from threads that compute.  The small steps of bodies become slower.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if threads is not None:
        options.intra_op_num_threads = threads
    if device == "cpu" and native and (reason := register(options)) is not None:
        _note(reason)
    return options


def _open(file: _File, device: str, options: onnxruntime.SessionOptions) -> onnxruntime.InferenceSession:
    model, folder = os.fspath(file.path), str(file.path.parent.resolve())
    if file.model is not None and (file.sealed or device == "cuda"):
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", folder)
        model = (for_device(file.model, device) if device == "cuda" else file.model).SerializeToString()
    if file.weights:
        values = [onnxruntime.OrtValue.ortvalue_from_numpy(a) for a in file.weights.values()]
        options.add_external_initializers(list(file.weights), values)
    return onnxruntime.InferenceSession(model, options, providers=PROVIDERS[device])


def session(
    path: str | os.PathLike, device: str = "auto", *, threads: int | None = None, native: bool = True
) -> onnxruntime.InferenceSession:
    """Opens an ONNX file so that it runs as fast as possible on this machine.

    On a CPU the kernels of this package compute distances, if they were built and onnxruntime accepts them.  Otherwise
    there is a warning, and the bodies in the file compute them in small blocks.  On a GPU the bodies compute them in
    large blocks.

    If a file claims a certificate by its metadata or its outputs, its digest is checked, with the weights beside the
    file, and what was checked is run.  (``verify`` recomputes the claims.)

    Args:
        path: of the file.
        device: "cpu"; "cuda"; or "auto", the GPU where there is one.  With "auto" the CPU is taken, with a warning,
            where onnxruntime does not accept the GPU or the certificates do not cover its arithmetic.
        threads: how many threads compute; by default as many as there are cores.
        native: whether to use the kernels.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: device is unknown, threads is not positive, onnxruntime cannot load the file, or the file claims a
            certificate and was changed since it was written.
        DeviceError: device is "cuda", and onnxruntime cannot use a GPU on this machine.
        LessThanFloat32: the file has certificates, and onnxruntime would compute it with less than float32.
    """
    return session_of(content_of(path), path, device, threads=threads, native=native)


def session_of(
    content: bytes, path: str | os.PathLike, device: str = "auto", *, threads: int | None = None, native: bool = True
) -> onnxruntime.InferenceSession:
    """Does what ``session`` does, with the bytes that were read from the file."""
    if device not in DEVICES:
        raise ValueError(f"device must be one of {', '.join(DEVICES)}, got {device!r}")
    if threads is not None and threads < 1:
        raise ValueError(f"threads must be at least 1, got {threads}")
    path = Path(path)
    _warn_of_two_packages()
    available = CUDA in onnxruntime.get_available_providers() and _has_cuda()
    if device == "cuda" and not available:
        raise DeviceError("device is cuda, but there is no GPU here that onnxruntime can use")
    file, chosen = _checked(content, path), "cuda" if available and device != "cpu" else "cpu"
    if chosen == "cuda" and device == "auto" and file.sealed and (reason := unfit_for_cuda(file.model)) is not None:
        chosen = _instead(path, reason)
    try:
        result = _open(file, chosen, _options(chosen, threads, native))
        if chosen == "cuda" and result.get_providers()[0] != CUDA:
            taken = f"onnxruntime only took {', '.join(result.get_providers())}"
            if device == "cuda":
                raise DeviceError(f"device is cuda, but {taken}")
            chosen = _instead(path, taken)
            result = _open(file, chosen, _options(chosen, threads, native))
        if file.sealed:
            check_arithmetic(path, file.model, _options(chosen, threads, native), PROVIDERS[chosen])
    except LOAD_ERRORS as error:
        raise ValueError(f"onnxruntime cannot load {path}: {error}") from error
    if not file.sealed and claims([o.name for o in result.get_outputs()], result.get_modelmeta().custom_metadata_map):
        raise ValueError(f"{path} claims a certificate, and it is not an ONNX file that could be checked")
    return result


def _instead(path: Path, reason: str) -> str:
    """Warns that the file does not run on the GPU; returns the device on which it runs."""
    warnings.warn(f"{path} runs on the CPU and not on the GPU: {reason}", RuntimeWarning, stacklevel=4)
    return "cpu"


def run(session: onnxruntime.InferenceSession, x: np.ndarray) -> list[np.ndarray]:
    """Runs a batch.

    Args:
        session: of a model with one input.
        x: (N, C, H, W), of the type of the model: float32, pixels in [0, 1]; or uint8.

    Returns:
        The outputs in the order of the model: logits (N, classes), predictions (N,), certified radii (N,), and so on.

    Raises:
        TypeError: x is not an array of that type.
        ValueError: x has not the shape that the model takes, N = 0, x contains NaN or infinite values, or onnxruntime
            cannot run the model.
    """
    wanted = session.get_inputs()[0]
    if not isinstance(x, np.ndarray):
        raise TypeError(f"x must be a numpy.ndarray, got {type(x).__name__}")
    dtype = INPUT_TYPES.get(wanted.type)
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
    try:
        return session.run(None, {wanted.name: x})
    except LOAD_ERRORS as error:
        raise ValueError(f"onnxruntime cannot run the ONNX file: {first_line(error)}") from error
