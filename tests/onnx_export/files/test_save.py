"""Files are written in one move: whatever happens meanwhile, each file keeps its own weights."""

import importlib
import os

import pytest

from onnx_export.exporting import export
from onnx_export.files import save as saving
from onnx_export.files.load import load
from onnx_export.reading.recompute import contradictions

EXPORT = importlib.import_module("onnx_export.exporting")  # the package has a function of that name


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
    first, second, remove = small_net(width=5, depth=2), load(path), saving._remove

    def late(*given):
        monkeypatch.setattr(saving, "_remove", remove)
        saving.save(second, path, True, 0)  # another process puts the former file back
        remove(*given)

    monkeypatch.setattr(saving, "_remove", late)
    export(first, path, force=True)
    assert contradictions(load(path)) == [] and sorted(path.parent.glob("a.onnx.*.data")) == [data]


@pytest.mark.parametrize("links", [True, False])
def test_a_file_that_comes_meanwhile_is_kept(beside, small_net, monkeypatch, links):
    path, own = beside[0].with_name("new.onnx"), saving._own_data

    def late(path):
        path.write_bytes(b"precious")
        return own(path)

    def no_links(a, b):
        raise PermissionError

    if not links:
        monkeypatch.setattr(os, "link", no_links)
    export(small_net(width=5, depth=2), path)
    assert contradictions(load(path)) == []
    monkeypatch.setattr(saving, "_own_data", late)
    path = path.with_name("newer.onnx")
    with pytest.raises(FileExistsError, match="newer.onnx exists"):
        export(small_net(width=5, depth=2), path)
    assert path.read_bytes() == b"precious" and not list(path.parent.glob("newer.onnx.*"))
