"""Checkpoints keep every bit, are safe to open, and are never half written."""

import math
import os
import pickle
import random
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import victims
from torch import nn

from linf_plugin import build, checkpoint, files, load, save, set_p
from linf_plugin.state import tensors


@pytest.fixture
def net():
    net = build("linf-mlp-head", shape=(1, 3, 3), classes=3, width=6, depth=2, hidden=5, mean=(0.5,), std=0.3)
    for a in tensors(net).values():
        nn.init.normal_(a)
    set_p(net, 8)
    return net


@pytest.fixture
def path(tmp_path):
    return tmp_path / "net.pt"


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64), ids=("float32", "float64"))
def test_round_trip(dtype, net, path):
    net = net.to(dtype)
    for a in tensors(net).values():
        nn.init.normal_(a)  # all bits of the dtype in use
    metadata = {"epochs": 3, "name": "ℓ∞", "p": math.inf, "rows": [{"loss": 0.5}], "mean": torch.ones(2)}
    save(path, net.train(), metadata)
    assert net.training  # saving leaves the model as it is
    twin, got = load(path)
    assert not twin.training
    assert twin.spec == net.spec
    assert got.pop("mean").tolist() == metadata.pop("mean").tolist() and got == metadata
    assert twin.state_dict().keys() == net.state_dict().keys()
    for key, a in tensors(net).items():
        assert twin.state_dict()[key].dtype == dtype
        assert torch.equal(twin.state_dict()[key], a)
    x = torch.rand(4, 1, 3, 3, dtype=dtype)
    assert torch.equal(twin(x), net.eval()(x))


def test_round_trip_of_sorted_sums(path):
    net = build("sortnet-mlp", shape=(1, 3, 3), classes=3, width=6, depth=3, rho=0.3, k=4, group=7)
    set_p(net, 8)
    save(path, net)
    twin, _ = load(path)
    assert twin.spec == net.spec and (twin[4].rho, twin[4].k, twin[4].group, twin[4].p) == (0.3, 4, 7, 8.0)
    x = torch.rand(4, 1, 3, 3)
    assert torch.equal(twin(x), net.eval()(x))


def test_makes_folders_and_takes_strings(net, path):
    deep = path.parent / "a" / "b" / "net.pt"
    save(str(deep), net)
    assert load(str(deep))[1] == {}
    assert os.listdir(deep.parent) == ["net.pt"]


@pytest.mark.parametrize(
    "value",
    ([1, "a", None, True], {1, 2}, torch.float32, np.float64(0.5), np.int64(3), Path("a")),
    ids=lambda value: type(value).__name__,
)
def test_what_save_accepts_load_reads(value, net, path):
    try:
        save(path, net, {"value": value})
    except (TypeError, ValueError, pickle.PicklingError):
        assert not path.exists()
    else:
        assert load(path)[1] == {"value": value}


# Files that are not checkpoints.


class _Harm:
    """A pickle that makes a folder when it is read."""

    def __init__(self, folder):
        self.folder = str(folder)

    def __reduce__(self):
        return os.mkdir, (self.folder,)


@pytest.mark.parametrize(
    "write",
    (
        lambda path, content: torch.save(content, path),
        lambda path, content: torch.save(content, path, _use_new_zipfile_serialization=False),
        lambda path, content: path.write_bytes(pickle.dumps(content, protocol=2)),
    ),
    ids=("torch", "torch-legacy", "pickle"),
)
@pytest.mark.parametrize("place", ("alone", "metadata", "state"))
def test_code_in_a_file_does_not_run(place, write, net, path, tmp_path):
    harm = _Harm(tmp_path / "harm")
    content = {"format": checkpoint.FORMAT, "spec": net.spec, "state": net.state_dict(), "metadata": {}}
    if place == "alone":
        content = harm
    else:
        content[place] = {"harm": harm}
    write(path, content)
    for read in (load, checkpoint.read):
        with pytest.raises(ValueError, match="net.pt"):
            read(path)
    assert not (tmp_path / "harm").exists()


GARBAGE = {
    "empty": b"",
    "text": b"hello",
    "zip-header": b"PK\x03\x04",
    "pickle-header": b"\x80\x02",
    "pickle-of-a-list": pickle.dumps([1, 2], protocol=2),
    "pickle-without-a-stack": b"\x80\x02.",
    "pickle-of-an-unknown-memo": b"\x80\x02h\x05.",
    **{f"noise-{seed}": random.Random(seed).randbytes(64) for seed in range(20)},
}


@pytest.mark.parametrize("content", GARBAGE.values(), ids=GARBAGE)
def test_garbage_is_refused(content, path):
    path.write_bytes(content)
    with pytest.raises(ValueError, match="net.pt"):
        load(path)


@pytest.mark.parametrize("part", (0.01, 0.3, 0.6, 0.9, 0.97, 0.99, 0.999))
def test_truncated_file_is_refused(part, net, path):
    save(path, net)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(part * len(whole))])
    with pytest.raises(ValueError, match="net.pt"):
        load(path)


def test_missing_file_is_named(path):
    with pytest.raises(FileNotFoundError, match="net.pt"):
        load(path)


def _without(key):
    return lambda content: {k: v for k, v in content.items() if k != key}


@pytest.mark.parametrize(
    "change",
    (
        lambda content: [1, 2],
        lambda content: content | {"format": 99},
        lambda content: content | {"format": torch.ones(2)},
        lambda content: content | {"spec": {"input_shape": [1]}},
        *map(_without, ("format", "spec", "state", "metadata")),
    ),
    ids=(
        "list",
        "other-format",
        "tensor-format",
        "spec-without-layers",
        "no-format",
        "no-spec",
        "no-state",
        "no-metadata",
    ),
)
def test_other_content_is_refused(change, net, path):
    content = {"format": checkpoint.FORMAT, "spec": net.spec, "state": net.state_dict(), "metadata": {}}
    checkpoint.write(path, change(content))
    with pytest.raises(ValueError, match="net.pt"):
        load(path)


# Atomic writing.


def _fail(*_):
    raise OSError("disk full")


def _half(content, file):
    file.write(b"half a checkpoint")
    _fail()


@pytest.mark.parametrize(
    "module, name, replacement",
    ((torch, "save", _half), (os, "fsync", _fail), (os, "replace", _fail)),
    ids=("save", "fsync", "replace"),
)
def test_a_failed_write_keeps_the_old_file(module, name, replacement, net, path, monkeypatch):
    save(path, net, {"run": 1})
    monkeypatch.setattr(module, name, replacement)
    with pytest.raises(OSError, match="disk full"):
        save(path, net, {"run": 2})
    assert load(path)[1] == {"run": 1}
    monkeypatch.undo()
    save(path, net, {"run": 3})  # the remains of the failure do not prevent it
    assert load(path)[1] == {"run": 3}
    assert os.listdir(path.parent) == ["net.pt"]


# A digest: a changed file is refused.


def _content(net):
    return {"format": checkpoint.FORMAT, "spec": net.spec, "state": net.state_dict(), "metadata": {"epochs": 3}}


def test_a_flipped_byte_is_refused_or_changes_nothing(net, path):
    checkpoint.write(path, _content(net))
    whole, random_bytes = path.read_bytes(), random.Random(0)
    expected, refused = files.digest(checkpoint.read(path)), 0
    for position in random_bytes.sample(range(len(whole)), 400):
        changed = bytearray(whole)
        changed[position] ^= 1 << random_bytes.randrange(8)
        path.write_bytes(changed)
        try:
            content = checkpoint.read(path)
        except ValueError as error:
            assert "net.pt" in str(error)
            refused += 1
        else:
            assert files.digest(content) == expected, position
    assert refused > 50  # the other bytes are padding, or facts that a zip file states twice


def _rename(content):
    content["spec"]["layers"][1][0] = "negate"


EDITS = {
    "weight": lambda content: next(iter(content["state"].values())).add_(1),
    "shape": lambda content: content["state"].update({"2.weight": content["state"]["2.weight"].flatten()}),
    "dtype": lambda content: content["state"].update({"2.weight": content["state"]["2.weight"].view(torch.int32)}),
    "order": lambda content: content.update(state=dict(reversed(content["state"].items()))),
    "layer": _rename,
    "number": lambda content: content["metadata"].update(epochs=4),
    "type of a number": lambda content: content["metadata"].update(epochs=3.0),
    "truth for one": lambda content: content.update(format=True),
    "one more": lambda content: content["metadata"].update(more=None),
    "one less": lambda content: content["metadata"].clear(),
}


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
def test_an_edited_file_is_refused(edit, net, path):
    checkpoint.write(path, _content(net))
    sealed = torch.load(path, weights_only=True)
    edit(sealed["content"])
    torch.save(sealed, path)  # a whole file, with the checksums that belong to it
    for read in (load, checkpoint.read):
        with pytest.raises(ValueError, match="net.pt was damaged or changed"):
            read(path)


def test_a_model_of_a_version_without_digests_is_read(net, path):
    torch.save(_content(net), path)
    assert torch.equal(load(path)[0].state_dict()["2.weight"], net.state_dict()["2.weight"])
    torch.save({"anything": 1}, path)
    with pytest.raises(ValueError, match="net.pt is not a checkpoint of linf_plugin"):
        checkpoint.read(path)


@pytest.mark.parametrize("a", (torch.eye(2).to_sparse(), torch.empty(2, device="meta")), ids=("sparse", "meta"))
def test_what_has_no_digest_is_refused(a, path):
    torch.save({"content": {"a": a}, "sha256": ""}, path)
    with pytest.raises(ValueError, match="net.pt is not a readable checkpoint of tensors and plain data"):
        checkpoint.read(path)


@pytest.mark.parametrize("dtype", (torch.float64, torch.bfloat16, torch.int64, torch.bool))
@pytest.mark.parametrize("shape", ((), (0,), (2, 0), (3, 4)), ids=str)
def test_every_kind_of_tensor_has_a_digest(dtype, shape, path):
    a = torch.ones(shape, dtype=dtype)
    checkpoint.write(path, {"a": a, "columns": torch.ones(3, 4).T})
    assert torch.equal(checkpoint.read(path)["a"], a)
    assert files.digest(a) != files.digest(torch.ones(shape, dtype=torch.float32))


# Processes that end while they save.


def test_killed_while_saving(path):
    """The existing file is whole, at whatever moment the process is killed."""
    for moment in range(8):
        first = 1_000_000 * moment
        process = victims.start(victims.save_for_ever, path, first)
        while not Path(f"{path}.{first}").exists():
            assert process.is_alive()
            time.sleep(0.001)
        time.sleep(0.005 * moment)
        victims.kill(process)
        content = checkpoint.read(path)
        assert content["number"] >= first and (content["tensor"] == content["number"]).all()


@pytest.mark.parametrize("limit", (0, 1000, 700_000))
def test_a_full_disk(limit, path):
    checkpoint.write(path, {"number": 1})
    process = victims.start(victims.save_on_a_full_disk, path, limit)
    process.join()
    assert process.exitcode == 0
    message = Path(f"{path}.error").read_text()
    assert "net.pt could not be written" in message and "File too large" in message
    assert checkpoint.read(path) == {"number": 1}
    assert sorted(os.listdir(path.parent)) == ["net.pt", "net.pt.error"]


def test_only_a_net_is_saved(net, path):
    """And the message tells the way for other modules."""
    with pytest.raises(TypeError, match=r"model must be a linf_plugin.Net, got Linear: .*torch.save.*linf-compare"):
        save(path, torch.nn.Linear(2, 2))
    with pytest.raises(TypeError, match=r"path must be a path, got Net: call save\(path, model\)"):
        save(net, path)
    assert not path.exists()
