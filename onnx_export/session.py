"""Running an exported model with stock onnxruntime, on the hardware that is really there."""

import ctypes
import importlib.metadata
import os
import warnings
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from onnxruntime.capi import onnxruntime_pybind11_state as errors

DEVICES = ("auto", "cpu", "cuda")

# Without TF32, which keeps 10 bits of each factor of a linear head.
CUDA = ("CUDAExecutionProvider", {"use_tf32": 0})
CPU = "CPUExecutionProvider"


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


def session(path: str | os.PathLike, device: str = "auto") -> onnxruntime.InferenceSession:
    """Loads an ONNX file.

    Args:
        path: the file.
        device: "auto" takes the GPU where there is one; "cpu"; "cuda".

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: device is unknown, or onnxruntime cannot load the file.
        DeviceError: device is "cuda" and onnxruntime cannot use a GPU here.
    """
    if device not in DEVICES:
        raise ValueError(f"device must be one of {', '.join(DEVICES)}, got {device!r}")
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path} does not exist")
    _warn_of_two_packages()
    available = CUDA[0] in onnxruntime.get_available_providers() and _has_cuda()
    if device == "cuda" and not available:
        raise DeviceError("device is cuda, but there is no GPU here that onnxruntime can use")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    providers = [CUDA, CPU] if available and device != "cpu" else [CPU]
    try:
        result = onnxruntime.InferenceSession(os.fspath(path), options, providers=providers)
    except (errors.Fail, errors.InvalidGraph, errors.InvalidProtobuf, errors.NotImplemented) as error:
        raise ValueError(f"onnxruntime cannot load {path}: {error}") from error
    if device == "cuda" and result.get_providers()[0] != CUDA[0]:
        raise DeviceError(f"device is cuda, but onnxruntime only took {', '.join(result.get_providers())}")
    return result


def run(session: onnxruntime.InferenceSession, x: np.ndarray) -> list[np.ndarray]:
    """The outputs for a batch, in the model's order: logits (N, classes) and certified radii (N,).

    Args:
        session: of a model with one input.
        x: (N, C, H, W) float32, pixels in [0, 1].

    Raises:
        TypeError: x is not a float32 array.
        ValueError: the shape of x is not the model's, N = 0, or x contains NaN or infinite values.
    """
    wanted = session.get_inputs()[0]
    if not isinstance(x, np.ndarray):
        raise TypeError(f"x must be a numpy.ndarray, got {type(x).__name__}")
    if x.dtype != np.float32:
        raise TypeError(f"x must be float32, got {x.dtype}")
    fits = [have == want for have, want in zip(x.shape, wanted.shape) if isinstance(want, int)]
    if x.ndim != len(wanted.shape) or not all(fits):
        shape = ", ".join(map(str, wanted.shape))
        raise ValueError(f"x must have shape ({shape}), got {x.shape}")
    if len(x) == 0:
        raise ValueError(f"x must hold at least one image, got shape {x.shape}")
    if not np.isfinite(x).all():
        raise ValueError("x contains NaN or infinite values")
    return session.run(None, {wanted.name: x})
