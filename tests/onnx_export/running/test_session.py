"""Choosing a device, loading a file, checking a batch."""

import ctypes
import importlib
from types import SimpleNamespace

import numpy as np
import onnxruntime
import pytest
import torch
from graphs import chain

from onnx_export.exporting import export
from onnx_export.running.session import DeviceError, run, session

EXPORT = importlib.import_module("onnx_export.exporting")
SESSION = importlib.import_module("onnx_export.running.session")  # the package has functions of these names


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
    """Sessions get no further than the providers that they are asked for; ``asked.taken``: those that are in use."""
    asked = SimpleNamespace(taken={"CUDAExecutionProvider", "CPUExecutionProvider"}, registered=[])

    class Session:
        def __init__(self, model, options, providers):
            self.asked, self.model, self.options = providers, model, options

        def get_providers(self):
            return [name for p in self.asked if (name := p if isinstance(p, str) else p[0]) in asked.taken]

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    monkeypatch.setattr(SESSION, "register", asked.registered.append)
    return asked


CPU = ["CPUExecutionProvider"]
CUDA_THEN_CPU = [("CUDAExecutionProvider", {"use_tf32": 0}), *CPU]


def test_providers(made, driver, asked):
    assert session(made.onnx).asked == (CUDA_THEN_CPU if driver else CPU)
    assert session(made.onnx, "cpu").asked == CPU
    if driver:
        assert session(made.onnx, "cuda").asked == CUDA_THEN_CPU
    else:
        with pytest.raises(DeviceError, match="device is cuda"):
            session(made.onnx, "cuda")


def test_a_gpu_that_is_not_taken(made, asked, monkeypatch):
    """The CPU in its place has the native operators, and its arithmetic is checked."""
    checked = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(SESSION, "check_arithmetic", lambda *given: checked.append(given[-1]))
    asked.taken = {"CPUExecutionProvider"}
    with pytest.warns(RuntimeWarning, match="net.onnx runs on the CPU and not on the GPU: onnxruntime only took CPU"):
        found = session(made.onnx)
    assert found.asked == CPU and asked.registered[0] is found.options and checked == [CPU]
    with pytest.raises(DeviceError, match="device is cuda, but onnxruntime only took CPUExecutionProvider"):
        session(made.onnx, "cuda")


def test_certified_convolutions_are_left_to_the_cpu(small_net, asked, monkeypatch, tmp_path):
    net, path = small_net("relu-conv", channels=(2,), strides=(2,), width=4), tmp_path / "net.onnx"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(SESSION, "check_arithmetic", lambda *given: None)
    export(net, path)
    with pytest.warns(RuntimeWarning, match="not on the GPU: it has certificates and convolutions, which cuDNN"):
        found = session(path)
    assert found.asked == CPU and asked.registered[0] is found.options
    export(net, path, certificate="none", force=True)
    assert session(path).asked == CUDA_THEN_CPU  # nothing rests on it


def test_bodies_for_a_gpu(made, asked, monkeypatch, tmp_path):
    """In large blocks, to the same bits; weights are read from beside the file."""
    (tmp_path / "net.onnx").write_bytes(made.onnx.read_bytes())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    loaded = session(tmp_path / "net.onnx")
    assert isinstance(loaded.model, bytes) and loaded.model != (tmp_path / "net.onnx").read_bytes()
    key = "session.model_external_initializers_file_folder_path"
    assert loaded.options.get_session_config_entry(key) == str(tmp_path.resolve())


@torch.no_grad()
def test_bodies_for_a_gpu_on_a_cpu(made, tmp_path, monkeypatch):
    monkeypatch.setattr(EXPORT, "EXTERNAL_BYTES", 0)
    export(made.net, tmp_path / "net.onnx")
    path, x = tmp_path / "net.onnx", GOOD + np.random.default_rng(0).random(GOOD.shape, np.float32) / 2
    monkeypatch.setattr(SESSION, "PROVIDERS", dict.fromkeys(("cuda", "cpu"), CPU))
    s = SESSION._open(SESSION._checked(path.read_bytes(), path), "cuda", onnxruntime.SessionOptions())
    for y, z in zip(run(s, x), run(session(made.onnx, "cpu"), x), strict=True):
        assert np.array_equal(y, z)


@torch.no_grad()
def test_with_and_without_the_native_operators(made):
    x = np.random.default_rng(0).random((70, 1, 8, 8), np.float32)
    right = run(session(made.onnx, "cpu", native=False), x)
    assert np.array_equal(right[0], made.net(torch.from_numpy(x)).numpy())
    for threads in (1, 2, None):
        for y, z in zip(run(session(made.onnx, "cpu", threads=threads), x), right, strict=True):
            assert np.array_equal(y, z)


def test_a_note_where_there_are_no_native_operators(made, monkeypatch):
    """Once a process."""
    SESSION._note.cache_clear()
    monkeypatch.setattr(SESSION, "register", lambda options: "it was not built")
    with pytest.warns(RuntimeWarning, match="several times slower than the native ones: it was not built"):
        session(made.onnx, "cpu")
    logits = run(session(made.onnx, "cpu"), GOOD)[0]  # a second warning would be an error
    assert np.array_equal(logits, run(session(made.onnx, "cpu", native=False), GOOD)[0])
    SESSION._note.cache_clear()


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
    content = made.onnx.read_bytes()
    parts = {"text": b"text", "empty": b"", "half": content[: len(content) // 2], "short": content[:-1]}
    for name, part in parts.items():
        (tmp_path / f"{name} file.onnx").write_bytes(part)
        with pytest.raises(ValueError, match=f"cannot load .*{name} file.onnx"):
            session(tmp_path / f"{name} file.onnx", "cpu")
    with pytest.raises(ValueError, match="threads must be at least 1, got 0"):
        session(made.onnx, threads=0)
    with pytest.raises(ValueError, match="device must be one of auto, cpu, cuda"):
        session(made.onnx, "gpu")


GOOD = np.full((3, 1, 8, 8), 0.5, np.float32)


def _with(value: float) -> np.ndarray:
    x = GOOD.copy()
    x[1, 0, 3, 5] = value
    return x


@pytest.mark.parametrize(
    "x, error, match",
    [
        (torch.from_numpy(GOOD), TypeError, "x must be a numpy.ndarray, got Tensor"),
        (GOOD.astype(np.float64), TypeError, "x must be float32, got float64"),
        (GOOD[0], ValueError, r"x must have shape \(batch, 1, 8, 8\), got \(1, 8, 8\)"),
        (GOOD[..., :7], ValueError, r"x must have shape \(batch, 1, 8, 8\), got \(3, 1, 8, 7\)"),
        (GOOD[:0], ValueError, "x must hold at least one image"),
        (_with(np.nan), ValueError, "x contains NaN"),
        (_with(-np.inf), ValueError, "x contains NaN or infinite"),
    ],
    ids=["tensor", "float64", "one-image", "narrow", "empty", "nan", "inf"],
)
def test_refused_batches(made, x, error, match):
    with pytest.raises(error, match=match):
        run(session(made.onnx, "cpu"), x)


def test_weights_that_are_missing(made, tmp_path, monkeypatch):
    monkeypatch.setattr(EXPORT, "EXTERNAL_BYTES", 0)
    export(made.net, tmp_path / "net.onnx")
    (data,) = tmp_path.glob("net.onnx.*.data")
    data.rename(tmp_path / "elsewhere")
    with pytest.raises(FileNotFoundError, match="where the tensor .* is stored, is missing"):
        session(tmp_path / "net.onnx", "cpu")
    data.write_bytes((tmp_path / "elsewhere").read_bytes()[:100])
    with pytest.raises(ValueError, match="net.onnx cannot be read: .* beyond the end of"):
        session(tmp_path / "net.onnx", "cpu")


def test_what_was_checked_is_run(made, tmp_path, monkeypatch):
    """Not what lies there later, the weights beside the file included."""
    path, x = tmp_path / "net.onnx", GOOD + np.random.default_rng(0).random(GOOD.shape, np.float32) / 2
    check = SESSION.broken_seal

    def replaced(model):
        for part in tmp_path.iterdir():
            part.write_bytes(bytes(part.stat().st_size))
        return check(model)

    for beside in (1 << 30, 0):
        monkeypatch.setattr(EXPORT, "EXTERNAL_BYTES", beside)
        export(made.net, path, force=True)
        expected = run(session(path, "cpu"), x)
        monkeypatch.setattr(SESSION, "broken_seal", replaced)
        for y, z in zip(run(session(path, "cpu"), x), expected, strict=True):
            assert np.array_equal(y, z)
        monkeypatch.setattr(SESSION, "broken_seal", check)


def test_what_onnxruntime_cannot_run_is_one_sentence(tmp_path):
    """Loads, since its shapes are not known before it runs."""
    model = chain(("MatMul", ["·", "w"], {}), shape=("N", "F"), w=np.ones((6, 2), np.float32))
    (tmp_path / "net.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ValueError, match="onnxruntime cannot run the ONNX file: .*MatMul") as error:
        run(session(tmp_path / "net.onnx", "cpu"), np.ones((3, 5), np.float32))
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("name", ["net.json", "net.onnxtxt", "net.pbtxt", "net"])
def test_a_file_is_what_is_in_it(made, tmp_path, name):
    """Whatever it is called."""
    (tmp_path / name).write_bytes(made.onnx.read_bytes())
    assert len(run(session(tmp_path / name, "cpu"), GOOD)) == 3


def test_any_layout(made):
    """Outputs in order; an array that is not contiguous means the same."""
    s, x = session(made.onnx, "cpu"), np.random.default_rng(0).random((4, 1, 8, 8), np.float32)
    logits, prediction, radii = run(s, x)
    assert logits.shape == (4, 10) and prediction.shape == radii.shape == (4,)
    other = np.asfortranarray(x)
    assert not other.flags.c_contiguous
    assert np.array_equal(run(s, other)[0], logits)
