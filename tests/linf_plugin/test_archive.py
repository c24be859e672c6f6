"""Files of ``torch.save`` are read as ``torch.load`` reads them.  Hostile files are refused with the fault."""

import collections
import os
import tracemalloc
import warnings

import pytest
import torch
from hostile import checkpoints

from linf_plugin import archive, checkpoint, load

CONTENTS = {
    "transposed": torch.rand(3, 4).T,
    "a part": torch.rand(5, 6)[1:3, 2:5],
    "every second": torch.rand(9)[::2],
    "no elements": torch.empty(2, 0),
    "a number": torch.tensor(3.0),
    "two views": (lambda a: [a[:3], a[1:]])(torch.rand(4)),
    "ordered": collections.OrderedDict(b=1, a=torch.ones(2)),
    "a layer": torch.nn.Linear(3, 2).state_dict(),
    "plain": {
        "a": [1, -1, 2**40, -(2**63), 2.5, float("inf"), None, True, "ℓ∞", (), (1,), (1, 2, 3, 4), {}],
        3: {None: 1},
        (1, "a"): 2,
    },
    "a size": torch.ones(2, 3).shape,
    "an optimiser": torch.optim.AdamW([torch.nn.Parameter(torch.ones(2))]).state_dict(),
}
DTYPES = (
    torch.float32,
    torch.float64,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint8,
    torch.bool,
    torch.complex64,
    torch.complex128,
)


def _equal(a, b) -> bool:
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b)
    if isinstance(a, dict):
        return list(a) == list(b) and all(_equal(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(_equal, a, b))
    return type(a) is type(b) and a == b


@pytest.mark.parametrize("content", CONTENTS.values(), ids=CONTENTS)
def test_as_torch_reads_it(content, tmp_path):
    torch.save(content, tmp_path / "a.pt")
    theirs, ours = torch.load(tmp_path / "a.pt", weights_only=True), archive.load(tmp_path / "a.pt")
    assert _equal(theirs, ours) and _equal(content, ours)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_type_of_numbers(dtype, tmp_path):
    a = (4 * torch.rand(3, 5)).to(dtype)
    torch.save({"a": a}, tmp_path / "a.pt")
    assert _equal(archive.load(tmp_path / "a.pt"), {"a": a})


def test_what_is_written_is_read(tmp_path):
    """The test includes shared memory, and subclasses of dict, list and tuple."""
    Pair = collections.namedtuple("Pair", "a b")
    content = {"expanded": torch.rand(3, 1).expand(3, 100), "pair": Pair(1, 2), "ordered": collections.OrderedDict(a=1)}
    checkpoint.write(tmp_path / "a.pt", content)
    back = checkpoint.read(tmp_path / "a.pt")
    assert torch.equal(back["expanded"], content["expanded"]) and back["pair"] == (1, 2) and back["ordered"] == {"a": 1}
    with pytest.raises(TypeError, match=r"content\['n'\] must be a whole number of at most 64 bits"):
        checkpoint.write(tmp_path / "a.pt", {"n": 2**65})
    deep = []
    for _ in range(200):
        deep = [deep]
    with pytest.raises(TypeError, match="nested deeper than 100 times"):
        checkpoint.write(tmp_path / "a.pt", deep)
    with pytest.raises(TypeError, match="uint16"):
        checkpoint.write(tmp_path / "a.pt", torch.ones(2, dtype=torch.uint16))


# Name in ``checkpoints.TABLE`` → what the message says.
REFUSED = {
    "empty": "not a complete file",
    "text": "not a complete file",
    "a zip's header": "not a complete file",
    "a list": "not a complete file",
    "of an older torch": "not a complete file",
    "a net of 1 GB": "its state lacks '1.weight'",
    "a net of 1 TB": "layer 0 of spec, linear, gives",
    "a convolution of 1 GB": "its state lacks '0.weight'",
    "layers that do not fit": r"layer 0 of spec, dist, does not take .* \(1, 3, 3\)",
    "a huge image": "input_shape of spec has more than",
    "a huge padding": "layer 1 of spec, dist_conv: its padded input",
    "a huge padding and stride": "layer 1 of spec, dist_conv: its padded input",
    "many layers": "at most 10,000",
    "many means": "layer 0 of spec, normalize, does not take",
    "negative sizes": "in_features of layer 0 of spec, dist, must be at least 1",
    "sizes of text": "in_features of layer 0 of spec, dist, must be an int, got str",
    "a device": "layer 0 of spec, dist, has the unknown argument 'device'",
    "unknown layer": "unknown layer 'Dropout'",
    "layers of text": "layer 0 of spec must be a name and",
    "p below 1": "p of layer 3 of spec, dist",
    "NaN as p": "p of layer 3 of spec, dist",
    "rho of 2": "rho of layer 4 of spec, sort_dist",
    "stride of 0": "stride of layer 1 of spec, dist_conv, must",
    "groups of 7": "groups of layer 1 of spec, dist_conv, must divide",
    "std of 0": "std of layer 0 of spec, normalize, must be positive",
    "std of NaN": "std of layer 0 of spec, normalize, must be finite",
    "no metadata": "its metadata are not a dict",
    "a state of text": "its state is not a dict",
    "keys of all kinds": "its state is not a dict",
    "extra state": "_extra_state",
    "one deflated part": "compressed parts",
    "storage beyond its part": "data/0 does not have the 1073741824 numbers",
    "storage below its part": "data/0 does not have the 2 numbers",
    "view beyond the storage": r"shape \(4,\) has only 4 numbers",
    "strides beyond the storage": "has only 4 numbers",
    "an expanded view": "has only 4 numbers",
    "negative strides": "invalid sizes",
    "a negative offset": "invalid sizes",
    "no elements, huge": "invalid sizes",
    "an odd part": "data/0 is cut off",
    "a missing part": "data/0' is missing",
    "bool of other bytes": "neither true nor false",
    "quantised": "it contains torch.QInt8Storage",
    "of a big-endian machine": "byte order",
    "parts within parts": "too often or too deeply",
    "deep": "too often or too deeply",
    "deep tuples as a key": "a key of type tuple",
    "a list in itself": "too often or too deeply",
    "a text that ends": "expected 2147483647 bytes",
    "a long number": "the step LONG4 of pickle",
    "a set as a key": "a key of type list",
    "no stack": "not a pickle of plain data",
    "bytes of protocol 5": "1099511627776 bytes",
    "bytearray": "it contains builtins.bytearray",
    "torch.Tensor": "it contains torch.Tensor",
    "os.mkdir": "it contains os.mkdir",
    "Counter": "it contains collections.Counter",
    "expand by name": "it contains torch.zeros",
    "a state for a tensor": "not a pickle of plain data",
    "a huge memo": "is not a checkpoint of linf_plugin",
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_by_what_is_wrong(name, tmp_path):
    path = tmp_path / "net.pt"
    path.write_bytes(checkpoints.TABLE[name]())
    with pytest.raises(ValueError, match=REFUSED[name]) as error:
        load(path)
    assert "net.pt" in str(error.value) and len(str(error.value).splitlines()) == 1
    assert os.listdir(tmp_path) == ["net.pt"]


def test_sizes_that_a_file_states_are_not_allocated(tmp_path):
    """The limit is on the memory that Python and NumPy count."""
    path = tmp_path / "net.pt"
    for name in (
        "a huge memo",
        "a text that ends",
        "bytes of protocol 5",
        "bytearray",
        "one deflated part",
        "an expanded view",
    ):
        path.write_bytes(checkpoints.TABLE[name]())
        tracemalloc.start()
        with pytest.raises(ValueError):
            load(path)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 2**20, name


@pytest.mark.parametrize("name", checkpoints.NETS)
def test_whole_checkpoints_are_read(name, tmp_path):
    path = tmp_path / "net.pt"
    content = checkpoints.content_of(name)
    path.write_bytes(checkpoints.sealed(content))
    assert _equal(dict(load(path)[0].state_dict()), content["state"])
    torch.save(content, path)  # as versions without digests did
    assert _equal(dict(load(path)[0].state_dict()), content["state"])


@pytest.mark.parametrize("how, spoil", checkpoints.SPOILT, ids=[how for how, _ in checkpoints.SPOILT])
def test_spoilt_tensors_are_refused_by_name(how, spoil, tmp_path):
    content = checkpoints.content_of("mlp")
    content["state"]["3.weight"] = spoil(content["state"]["3.weight"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch, that complex numbers lose a part
        (tmp_path / "net.pt").write_bytes(checkpoints.sealed(content))
    if how == "transposed":
        assert torch.equal(load(tmp_path / "net.pt")[0].state_dict()["3.weight"], content["state"]["3.weight"])
    else:
        message = "has only 1 numbers" if how == "expanded" else r"3\.weight|mixes float32 and float64"
        with pytest.raises(ValueError, match=message):
            load(tmp_path / "net.pt")
