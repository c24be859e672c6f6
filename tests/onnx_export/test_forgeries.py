"""Forged files: none that could change a certificate verifies.  ``python -m forge`` tries them all."""

import importlib
import os

import forge
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import helper

from onnx_export.export import export
from onnx_export.files.load import load
from onnx_export.files.seal import DIGEST, content_sha256, props_of
from onnx_export.reading.recompute import contradictions
from onnx_export.running.session import run, session
from onnx_export.running.verify import constants_of, verify

FILES = importlib.import_module("onnx_export.files.save")
EXPORT = importlib.import_module("onnx_export.export")  # the package has a function of that name

# Fields of which every one is forged, and not one of each kind: constants, nodes, metadata.
EVERY = (
    "graph/initializer/raw_data: last number",
    "graph/initializer/raw_data: zeros",
    "graph/node/op_type: longer",
    "graph/node/input: reversed",
    "metadata_props/value: empty",
    "metadata_props/value: doubled",
    "metadata_props/unknown field: is there",
)


def test_no_forgery_verifies(tmp_path):
    """One of each kind of field, and what has a meaning of its own one by one; the digest left, recomputed, deleted."""
    seen, forged, why = set(), 0, set()

    def chosen(where, kind):
        new = kind not in seen or kind in EVERY
        seen.add(kind)
        return new

    for name in forge.SPECS:
        found = forge.tried(forge.file_of(name, tmp_path), chosen)
        assert found.wrong == []
        forged, why = forged + found.forged, why | found.let_through.keys()
    assert forged >= 700
    assert why == {
        "the order of metadata",
        "the weights of another net, of which the file says what is right",
        "what a file tells of its making: run_",
        "what a file tells of its making: versions",
        "what a file tells of its making: method",
        "what a file tells of its making: dataset",
        "what a file tells of its making: seed",
        "what a file tells of its making: recipe",
        "what a file tells of its making: checkpoint",
        "what a file tells of its making: checkpoint_sha256",
        "the ε at which certified accuracy is recomputed, by the radii, when the file is run",
    }


def test_what_is_never_written_is_forged_too(made):
    kinds = set()
    assert not list(forge.forgeries(onnx.load(made.onnx), lambda where, kind: kinds.add(kind)))
    for kind in (
        "/training_info: one more",
        "graph/sparse_initializer: one more",
        "graph/quantization_annotation: one more",
        "/functions: one more",
        "/unknown field: is there",
        "graph/unknown field: is there",
    ):
        assert kind in kinds


# Weights beside the file.


@pytest.fixture
def beside(small_net, tmp_path, monkeypatch):
    """(a file whose weights lie beside it, theirs), and in another folder those of another net of that shape."""
    monkeypatch.setattr(EXPORT, "EXTERNAL_BYTES", 0)
    net = small_net(width=6, depth=2)
    export(net, tmp_path / "a.onnx", {"epsilon": 0.1}, certificate="interval")
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.randn_like(p) / 3)
    export(net, tmp_path / "other" / "a.onnx", {"epsilon": 0.1}, certificate="interval")
    (data,), (others,) = tmp_path.glob("*.data"), (tmp_path / "other").glob("*.data")
    return tmp_path / "a.onnx", data, others


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
        assert found or weights and constants_of(forged) == constants_of(load(path))
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
    refused(path, "which is no file")


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
        ({"location": ""}, "which is no file"),
        ({"location": None}, "says in no known way where it is stored"),
        ({"location": "none.data"}, "none.data, where the tensor .* is stored, is missing"),
        ({"offset": "-4"}, "which are no numbers"),
        ({"offset": "٣"}, "which are no numbers"),
        ({"offset": "99999999"}, "beyond the end"),
        ({"length": "3"}, "and is stored in 3 bytes"),
        ({"part": "3"}, "says in no known way where it is stored"),
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


def test_a_new_file_leaves_no_weights_of_the_old_one(beside, small_net, monkeypatch):
    path, data, _ = beside
    (path.parent / "b.onnx.0123456789abcdef.data").write_bytes(b"another file's")
    export(small_net(width=5, depth=2), path, force=True)
    new = set(path.parent.glob("a.onnx.*.data"))
    assert len(new) == 1 and data not in new
    export(small_net(width=5, depth=2), path, force=True)  # the same again
    assert set(path.parent.glob("a.onnx.*.data")) == new
    monkeypatch.setattr(EXPORT, "EXTERNAL_BYTES", 1 << 30)
    export(small_net(width=5, depth=2), path, force=True)
    assert sorted(p.name for p in path.parent.iterdir()) == ["a.onnx", "b.onnx.0123456789abcdef.data", "other"]
    assert contradictions(load(path)) == []


@pytest.mark.parametrize("moves", [0, 1])
def test_killed_between_weights_and_file(beside, small_net, monkeypatch, moves):
    """The old file stays with its own weights."""
    path, data, _ = beside
    before, replace, done = path.read_bytes(), os.replace, []

    def killed(a, b):
        if len(done) == moves:
            raise KeyboardInterrupt
        done.append(b)
        replace(a, b)

    monkeypatch.setattr("onnx_export.files.save.os.replace", killed)
    with pytest.raises(KeyboardInterrupt):
        export(small_net(width=5, depth=2), path, force=True)
    monkeypatch.undo()
    assert path.read_bytes() == before and contradictions(load(path)) == []


def test_written_by_two_at_once(beside, small_net, monkeypatch):
    """The weights of the file that is there in the end stay, whoever removes those of the one before."""
    path, data, _ = beside
    first, second, remove = small_net(width=5, depth=2), load(path), FILES._remove

    def late(*given):
        monkeypatch.setattr(FILES, "_remove", remove)
        FILES.save(second, path, True, 0)  # another process puts the former file back
        remove(*given)

    monkeypatch.setattr(FILES, "_remove", late)
    export(first, path, force=True)
    assert contradictions(load(path)) == [] and sorted(path.parent.glob("a.onnx.*.data")) == [data]


@pytest.mark.parametrize("links", [True, False])
def test_a_file_that_comes_meanwhile_is_kept(beside, small_net, monkeypatch, links):
    path, own = beside[0].with_name("new.onnx"), FILES._own_data

    def late(path):
        path.write_bytes(b"precious")
        return own(path)

    def no_links(a, b):
        raise PermissionError

    if not links:
        monkeypatch.setattr(os, "link", no_links)
    export(small_net(width=5, depth=2), path)
    assert contradictions(load(path)) == []
    monkeypatch.setattr(FILES, "_own_data", late)
    path = path.with_name("newer.onnx")
    with pytest.raises(FileExistsError, match="newer.onnx exists"):
        export(small_net(width=5, depth=2), path)
    assert path.read_bytes() == b"precious" and not list(path.parent.glob("newer.onnx.*"))


# Sessions.


def test_claims_are_checked_and_other_files_run(made, tmp_path):
    """Whatever of a claim is left in a file, it must be as it was written."""

    def written(change):
        model = onnx.load(made.onnx)
        change(model)
        onnx.save(model, tmp_path / "net.onnx")
        return tmp_path / "net.onnx"

    def without_metadata(model):
        model.ClearField("metadata_props")

    def without_digest(model):
        helper.set_model_props(model, {k: v for k, v in props_of(model).items() if k != DIGEST})

    def only_the_bound(model):
        helper.set_model_props(model, {"lipschitz": "1"})
        del model.graph.output[2:]

    for change in (without_metadata, without_digest, only_the_bound):
        with pytest.raises(ValueError, match="has no digest that binds it to its content"):
            session(written(change), "cpu")

    def twice(model):
        model.metadata_props.add(key=DIGEST, value="0")

    with pytest.raises(ValueError, match="'content_sha256' are there 2 times"):
        session(written(twice), "cpu")

    def foreign(model):
        without_metadata(model)
        del model.graph.output[2:]

    assert len(run(session(written(foreign), "cpu"), X)) == 2


def test_the_digest_does_not_depend_on_where_weights_lie(beside, made):
    path, *_ = beside
    model = load(path)
    assert props_of(model)[DIGEST] == content_sha256(model)
    model = onnx.load(made.onnx)
    digests = {
        content_sha256(f.model)
        for f in forge.forgeries(
            model, lambda where, kind: kind.startswith("graph/initializer/") and where[-1] != "data_location"
        )
    }
    assert len(digests) > 100 and content_sha256(model) not in digests
