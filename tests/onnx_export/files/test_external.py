"""Weights beside a file: those of the file are read, and no others."""

import forge
import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from onnx_export.files.load import load
from onnx_export.reading.recompute import contradictions
from onnx_export.running.session import run, session
from onnx_export.running.verify import constants_of, verify

X = np.random.default_rng(0).random((40, 1, 8, 8), np.float32)


def refused(path, match):
    """By everything that reads it."""
    for call in (lambda: session(path, "cpu"), lambda: load(path)):
        with pytest.raises((ValueError, FileNotFoundError), match=match):
            call()
    with pytest.raises((ValueError, FileNotFoundError), match=match):
        verify(path, torch.from_numpy(X), torch.zeros(40), "cpu")


def test_weights_of_another_net(beside):
    """Stock onnxruntime runs them, and with them the constants of their own certificates; session and verify do not."""
    path, data, others = beside
    own = session(path, "cpu")
    assert contradictions(load(path)) == []
    expected = run(session(others.parent / "a.onnx", "cpu"), X)
    data.write_bytes(others.read_bytes())
    with pytest.raises(ValueError, match="it was changed since it was written"):
        session(path, "cpu")
    found = verify(path, torch.from_numpy(X), torch.zeros(40), "cpu")
    assert found.accuracy is None and "it was changed since" in found.failures[0]
    stock = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    for y, z in zip(stock.run(None, {"x": X}), expected, strict=True):
        np.testing.assert_allclose(y, z, rtol=1e-6, atol=1e-6)
    assert own.get_outputs()[2].name == "certified_radius"


def test_every_tensor_beside_the_file(beside):
    """One bit, with the digest left and recomputed."""
    path, data, _ = beside
    content, stored = data.read_bytes(), onnx.load(path, load_external_data=False)
    checked = 0
    for tensor in stored.graph.initializer:
        place = {e.key: e.value for e in tensor.external_data}
        if not place:
            continue
        end = int(place["offset"]) + int(place["length"])
        data.write_bytes(content[: end - 1] + bytes([content[end - 1] ^ 1]) + content[end:])  # sign, exponent
        with pytest.raises(ValueError, match="changed since it was written"):
            session(path, "cpu")
        forged = forge.resealed(load(path))
        found = contradictions(forged)
        weights = tensor.name.partition(".")[2] in ("weight", "bias", "mean")
        assert found or (weights and constants_of(forged) == constants_of(load(path)))
        checked += 1
    assert checked >= 12


def test_too_short_or_missing(beside):
    path, data, _ = beside
    content = data.read_bytes()
    data.write_bytes(content[:-1])
    refused(path, "a.onnx cannot be read: .* is stored beyond the end of")
    data.unlink()
    refused(path, "is stored, is missing")
    data.mkdir()
    refused(path, "which is not a file")


def test_links_are_not_followed(beside):
    path, data, others = beside
    data.rename(data.with_name("elsewhere"))
    data.symlink_to(data.with_name("elsewhere"))
    refused(path, "which is a link")


def placed(path, **entries):
    """The file, with other words on where its first tensor lies."""
    model = onnx.load(path, load_external_data=False)
    tensor = model.graph.initializer[0]
    kept = {e.key: e.value for e in tensor.external_data} | entries
    tensor.ClearField("external_data")
    for key, value in kept.items():
        if value is not None:
            tensor.external_data.add(key=key, value=value)
    path.write_bytes(model.SerializeToString())


@pytest.mark.parametrize(
    "entries, match",
    [
        ({"location": "../a.data"}, "'../a.data', which is not within the folder of the file"),
        ({"location": "/etc/hostname"}, "'/etc/hostname', which is not within the folder"),
        ({"location": "other/../../a"}, "which is not within the folder"),
        ({"location": "..\\a"}, "which is not within the folder"),
        ({"location": ""}, "which is not a file"),
        ({"location": None}, "does not say where it is stored, in the way that ONNX defines"),
        ({"location": "none.data"}, "none.data, where the tensor .* is stored, is missing"),
        ({"offset": "-4"}, "which are not both numbers"),
        ({"offset": "٣"}, "which are not both numbers"),
        ({"offset": "99999999"}, "beyond the end"),
        ({"length": "3"}, "and is stored in 3 bytes"),
        ({"part": "3"}, "does not say where it is stored, in the way that ONNX defines"),
    ],
    ids=lambda a: "" if isinstance(a, str) else str(a),
)
def test_where_weights_may_not_lie(beside, entries, match):
    path, *_ = beside
    placed(path, **entries)
    refused(path, match)


def test_a_small_file_does_not_fill_the_memory(beside):
    """With a size beyond the file."""
    path, data, _ = beside
    model = onnx.load(path, load_external_data=False)
    model.graph.initializer[0].dims[:] = [1 << 40]
    path.write_bytes(model.SerializeToString())
    refused(path, "and is stored in")
