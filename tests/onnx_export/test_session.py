"""Choosing a device, loading a file, checking a batch."""

import ctypes
import importlib

import numpy as np
import onnxruntime
import pytest
import torch

from onnx_export.session import DeviceError, run, session

SESSION = importlib.import_module("onnx_export.session")  # the package has a function of that name


@pytest.fixture(params=[False, True], ids=["no-driver", "driver"])
def driver(request, monkeypatch):
    """Whether libcuda loads; PyTorch sees no GPU in either case."""

    def load(name):
        assert name.startswith("libcuda.so")
        if not request.param:
            raise OSError(name)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(ctypes, "CDLL", load)
    return request.param


@pytest.fixture
def asked(monkeypatch):
    """Sessions get no further than the providers that they are asked for, of which the CPU is in use."""

    class Session:
        def __init__(self, path, options, providers):
            self.asked = providers

        def get_providers(self):
            return ["CPUExecutionProvider"]

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)


CUDA_THEN_CPU = [("CUDAExecutionProvider", {"use_tf32": 0}), "CPUExecutionProvider"]


def test_providers(made, driver, asked):
    assert session(made.onnx).asked == (CUDA_THEN_CPU if driver else ["CPUExecutionProvider"])
    assert session(made.onnx, "cpu").asked == ["CPUExecutionProvider"]
    with pytest.raises(DeviceError, match="device is cuda"):  # no driver; or a driver, but not in use
        session(made.onnx, "cuda")


def test_pytorch_knows_the_gpu(made, asked, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert session(made.onnx).asked == CUDA_THEN_CPU


def test_onnxruntime_without_cuda(made, asked, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    assert session(made.onnx).asked == ["CPUExecutionProvider"]


def test_two_packages_at_once(made, monkeypatch):
    monkeypatch.setattr(SESSION.importlib.metadata, "version", lambda name: "1.0")
    with pytest.warns(RuntimeWarning, match="onnxruntime-gpu are both installed"):
        session(made.onnx, "cpu")


def test_refused_files(made, tmp_path):
    with pytest.raises(FileNotFoundError, match="none.onnx does not exist"):
        session(tmp_path / "none.onnx")
    (tmp_path / "text.onnx").write_text("text")
    with pytest.raises(ValueError, match="cannot load .*text.onnx"):
        session(tmp_path / "text.onnx", "cpu")
    with pytest.raises(ValueError, match="device must be one of auto, cpu, cuda"):
        session(made.onnx, "gpu")


GOOD = np.full((3, 1, 8, 8), 0.5, np.float32)


def _with(value: float) -> np.ndarray:
    x = GOOD.copy()
    x[1, 0, 3, 5] = value
    return x


@pytest.mark.parametrize("x, error, match", [
    (torch.from_numpy(GOOD), TypeError, "x must be a numpy.ndarray, got Tensor"),
    (GOOD.astype(np.float64), TypeError, "x must be float32, got float64"),
    (GOOD[0], ValueError, r"x must have shape \(batch, 1, 8, 8\), got \(1, 8, 8\)"),
    (GOOD[..., :7], ValueError, r"x must have shape \(batch, 1, 8, 8\), got \(3, 1, 8, 7\)"),
    (GOOD[:0], ValueError, "x must hold at least one image"),
    (_with(np.nan), ValueError, "x contains NaN"),
    (_with(-np.inf), ValueError, "x contains NaN or infinite"),
], ids=["tensor", "float64", "one-image", "narrow", "empty", "nan", "inf"])
def test_refused_batches(made, x, error, match):
    with pytest.raises(error, match=match):
        run(session(made.onnx, "cpu"), x)


def test_any_layout(made):
    """Outputs in order; an array that is not contiguous means the same."""
    s, x = session(made.onnx, "cpu"), np.random.default_rng(0).random((4, 1, 8, 8), np.float32)
    logits, radii = run(s, x)
    assert logits.shape == (4, 10) and radii.shape == (4,)
    other = np.asfortranarray(x)
    assert not other.flags.c_contiguous
    assert np.array_equal(run(s, other)[0], logits)
