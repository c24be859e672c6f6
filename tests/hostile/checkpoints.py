"""Hostile checkpoints and states of runs: whole ones, of which a seed changes something, and kinds that do harm."""

import copy
import io
import math
import pickle
import random
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

import linf_plugin
from linf_plugin import checkpoint, files
from linf_plugin.training import Schedule, adam, clipped_hinge, fit

X, Y = torch.linspace(0, 1, 20 * 9).sin().abs().view(20, 1, 3, 3), torch.arange(20) % 2
METADATA = {
    "dataset": "digits",
    "epsilon": 0.1,
    "seed": 0,
    "results": {"clean": 0.5, "certified": {"best": {"0.1": 0.2}}},
}


def content_of(name: str) -> dict:
    """What a whole checkpoint holds."""
    torch.manual_seed(0)
    net = linf_plugin.build(
        *{"mlp": ("linf-mlp-head",), "conv": ("linf-conv",), "sortnet": ("sortnet-mlp",)}[name],
        **{
            "mlp": {"shape": (1, 4, 4), "classes": 3, "width": 5, "depth": 2, "hidden": 4, "crop": 2},
            "conv": {"shape": (2, 6, 6), "classes": 3, "channels": (3, 2), "strides": (1, 2), "width": 5},
            "sortnet": {"shape": (1, 3, 3), "classes": 3, "width": 5, "depth": 2, "rho": 0.3, "k": 3},
        }[name],
    )
    return {
        "format": checkpoint.FORMAT,
        "spec": net.spec,
        "state": dict(net.state_dict()),
        "metadata": copy.deepcopy(METADATA),
    }


NETS = ("mlp", "conv", "sortnet")


def train(path: Path, resume: bool) -> None:
    """A short run, or the rest of the one whose state lies at path."""
    torch.manual_seed(0)
    model = linf_plugin.build("linf-mlp", shape=(1, 3, 3), classes=2, width=4, depth=2)
    fit(
        model,
        lambda net, x, y, step: clipped_hinge(net(x), y, 0.1, 0.1),
        adam(model, 0.05),
        Schedule(epochs=2, eps=0.1, p_end=1.5),
        X,
        Y,
        batch_size=10,
        average=0.5,
        seed=0,
        state_path=path,
        resume=resume,
        validate=lambda net: {"certified": 0.5},
        progress=False,
    )


def sealed(content) -> bytes:
    """A file whose digest is right, whatever it holds."""
    try:
        digest = files.digest(content)
    except (TypeError, ValueError, RecursionError):
        digest = ""
    file = io.BytesIO()
    torch.save({"content": content, "sha256": digest}, file)
    return file.getvalue()


# Changes of one part, chosen by a seed.

VALUES = (
    0,
    1,
    -1,
    3,
    2**31,
    2**63,
    10**18,
    0.0,
    -0.5,
    1e300,
    math.nan,
    math.inf,
    True,
    None,
    "",
    "dist",
    "ℓ" * 10_000,
    [],
    {},
    [1, 2],
    (),
    [[]],
    {"a": 1},
    torch.ones(2),
    torch.tensor(1.0),
    torch.ones(1).expand(10),
    torch.ones(2, 3, dtype=torch.int8),
)


def _places(value, found: list) -> list:
    """(container, key) of everything within."""
    for key, part in value.items() if isinstance(value, dict) else enumerate(value):
        found.append((value, key))
        if isinstance(part, (dict, list)):
            _places(part, found)
    return found


def change_a_part(content: dict, rng: random.Random) -> str:
    """Sets, deletes or renames something in it, or spoils a tensor; says what."""
    value, key = rng.choice(_places(content, []))
    part = value[key]
    if isinstance(part, Tensor) and rng.random() < 0.7:
        how, new = rng.choice(SPOILT)
        value[key] = new(part)
        return f"a tensor {how}"
    how = rng.choice(("set", "set", "set", "deleted", "renamed" if isinstance(value, dict) else "doubled"))
    if how == "set":
        value[key] = copy.deepcopy(rng.choice(VALUES))
    elif how == "deleted":
        del value[key]
    elif how == "renamed":
        value[rng.choice(("weight", 0, "0.weight", "", "device", None, "x._extra_state"))] = value.pop(key)
    else:
        value.insert(key, copy.deepcopy(part))
    return f"{'an entry' if isinstance(value, dict) else 'an element'} {how}"


SPOILT = (
    ("of NaN", lambda a: a * math.nan),
    ("infinite", lambda a: a + math.inf),
    ("of float64", lambda a: a.double()),
    ("of float16", lambda a: a.half()),
    ("of int64", lambda a: a.long()),
    ("complex", lambda a: a.to(torch.complex64)),
    ("of bool", lambda a: a > 0),
    ("flat", lambda a: a.flatten()),
    ("with one more", lambda a: torch.cat([a.flatten(), a.flatten()])),
    ("without elements", lambda a: a.flatten()[:0]),
    ("transposed", lambda a: a.T.contiguous().T if a.dim() == 2 else a),
    ("expanded", lambda a: torch.ones(1, dtype=a.dtype).expand(a.shape)),
)


# Kinds that do harm: each gives the bytes of a file.


def _archive(program: bytes, parts: dict[str, bytes] | None = None, compress=False, byteorder=b"little") -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED) as z:
        z.writestr("a/data.pkl", program)
        z.writestr("a/byteorder", byteorder)
        for name, content in (parts or {}).items():
            z.writestr(f"a/{name}", content)
        z.writestr("a/version", b"3\n")
    return file.getvalue()


def _text(text: str) -> bytes:
    return b"X" + struct.pack("<I", len(text.encode())) + text.encode()


def _int(n: int) -> bytes:
    return pickle.dumps(n, 2)[2:-1]


def _storage(kind: str, key: str, numel: int) -> bytes:
    return b"(" + _text("storage") + f"ctorch\n{kind}\n".encode() + _text(key) + _text("cpu") + _int(numel) + b"tQ"


def _tensor(storage: bytes, size: tuple[int, ...], stride: tuple[int, ...], offset: int = 0) -> bytes:
    def pair(numbers) -> bytes:
        return b"(" + b"".join(map(_int, numbers)) + b"t"

    rest = b"\x89" + b"ccollections\nOrderedDict\n)R"
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + _int(offset) + pair(size) + pair(stride) + rest + b"tR"


def _called(module: str, name: str, *arguments: bytes) -> bytes:
    return b"\x80\x02c" + f"{module}\n{name}\n".encode() + b"(" + b"".join(arguments) + b"tR."


def _one(*tensor, data: bytes = bytes(16), **more) -> bytes:
    return _archive(b"\x80\x02" + _tensor(*tensor) + b".", {"data/0": data, **more})


FLOATS = _storage("FloatStorage", "0", 4)


def _spec(layers: list, shape=(1, 3, 3), state: dict | None = None, **more) -> bytes:
    return sealed(
        {
            "format": checkpoint.FORMAT,
            "spec": {"input_shape": list(shape), "layers": layers, **more},
            "state": state or {},
            "metadata": {},
        }
    )


def _of(name: str, change: Callable[[dict], None]) -> bytes:
    content = content_of(name)
    change(content)
    return sealed(content)


def _dag(levels: int) -> bytes:
    """Lists of the list before, twice: 2^levels parts in a few bytes."""
    program = b"\x80\x02(]q\x00"
    for i in range(levels):
        program += b"]q" + bytes([i + 1]) + b"(h" + bytes([i]) + b"h" + bytes([i]) + b"e"
    return _archive(program + b"t.")


def _harm(module: str, name: str, *arguments) -> bytes:
    return _archive(_called(module, name, *(pickle.dumps(a, 2)[2:-1] for a in arguments)))


def _twice() -> bytes:
    file = io.BytesIO(sealed(content_of("mlp")))
    with zipfile.ZipFile(file, "a") as z:
        z.comment = b"x" * 100
    return file.getvalue()


def _legacy() -> bytes:
    file = io.BytesIO()
    torch.save({"content": {}, "sha256": ""}, file, _use_new_zipfile_serialization=False)
    return file.getvalue()


TABLE: dict[str, Callable[[], bytes]] = {
    "empty": lambda: b"",
    "text": lambda: b"hello\n",
    "a zip's header": lambda: b"PK\3\4",
    "a list": lambda: pickle.dumps([1], 2),
    "of an older torch": _legacy,
    "with a comment": _twice,
    "a net of 1 GB": lambda: _spec(
        [["flatten", {}], ["dist", {"in_features": 16384, "out_features": 16384}]], (1, 128, 128)
    ),
    "a net of 1 TB": lambda: _spec([["linear", {"in_features": 2**19, "out_features": 2**19}]], (2**19,)),
    "a convolution of 1 GB": lambda: _spec(
        [["conv", {"in_channels": 16384, "out_channels": 16384, "kernel_size": 1}]], (16384, 1, 1)
    ),
    "layers that do not fit": lambda: _spec([["dist", {"in_features": 4, "out_features": 4}]]),
    "a huge image": lambda: _spec([["relu", {}]], (1, 2**20, 2**20)),
    "a huge padding": lambda: _of("conv", lambda c: c["spec"]["layers"][1][1].update(padding=2**15)),
    "a huge padding and stride": lambda: _of(
        "conv", lambda c: c["spec"]["layers"][1][1].update(padding=2**15, stride=2**15)
    ),
    "many layers": lambda: _spec([["relu", {}]] * 20_000),
    "many means": lambda: _of("mlp", lambda c: c["spec"]["layers"][0][1].update(mean=[0.0] * 20_000)),
    "negative sizes": lambda: _spec([["dist", {"in_features": -1, "out_features": 3}]]),
    "sizes of text": lambda: _spec([["dist", {"in_features": "9", "out_features": 3}]]),
    "a device": lambda: _spec([["dist", {"in_features": 9, "out_features": 3, "device": "cuda"}]]),
    "unknown layer": lambda: _spec([["Dropout", {}]]),
    "layers of text": lambda: _spec(["relu"]),
    "p below 1": lambda: _of("mlp", lambda c: c["spec"]["layers"][3][1].update(p=0.5)),
    "NaN as p": lambda: _of("mlp", lambda c: c["spec"]["layers"][3][1].update(p=math.nan)),
    "rho of 2": lambda: _of("sortnet", lambda c: c["spec"]["layers"][4][1].update(rho=2.0)),
    "stride of 0": lambda: _of("conv", lambda c: c["spec"]["layers"][1][1].update(stride=0)),
    "groups of 7": lambda: _of("conv", lambda c: c["spec"]["layers"][1][1].update(groups=7)),
    "std of 0": lambda: _of("mlp", lambda c: c["spec"]["layers"][0][1].update(std=0.0)),
    "std of NaN": lambda: _of("mlp", lambda c: c["spec"]["layers"][0][1].update(std=math.nan)),
    "no metadata": lambda: _of("mlp", lambda c: c.update(metadata=[])),
    "a state of text": lambda: _of("mlp", lambda c: c.update(state="weights")),
    "keys of all kinds": lambda: _of("mlp", lambda c: c["state"].update({3: torch.ones(1), None: 1, "x": "y"})),
    "extra state": lambda: _of("mlp", lambda c: c["state"].update({"3._extra_state": {"p": "eight"}})),
    "one deflated part": lambda: _archive(
        b"\x80\x02" + _tensor(FLOATS, (4,), (1,)) + b".", {"data/0": bytes(2**24)}, compress=True
    ),
    "storage beyond its part": lambda: _one(_storage("FloatStorage", "0", 2**30), (2**30,), (1,)),
    "storage below its part": lambda: _one(_storage("FloatStorage", "0", 2), (2,), (1,)),
    "view beyond the storage": lambda: _one(FLOATS, (4,), (1,), 1),
    "strides beyond the storage": lambda: _one(FLOATS, (2, 2), (2**40, 1)),
    "an expanded view": lambda: _one(FLOATS, (2**20, 2**20), (0, 0)),
    "negative strides": lambda: _one(FLOATS, (4,), (-1,)),
    "a negative offset": lambda: _one(FLOATS, (2,), (1,), -2),
    "no elements, huge": lambda: _one(FLOATS, (0, 2**62, 2**62), (1, 1, 1)),
    "an odd part": lambda: _one(FLOATS, (4,), (1,), data=bytes(15)),
    "a missing part": lambda: _archive(b"\x80\x02" + _tensor(FLOATS, (4,), (1,)) + b"."),
    "bool of other bytes": lambda: _one(_storage("BoolStorage", "0", 4), (4,), (1,), data=b"\7\2\1\0"),
    "quantised": lambda: _one(_storage("QInt8Storage", "0", 16), (16,), (1,)),
    "of a big-endian machine": lambda: _archive(b"\x80\x02N.", byteorder=b"big"),
    "parts within parts": lambda: _dag(60),
    "deep": lambda: _archive(b"\x80\x02" + b"]" * 20_000 + b"a" * 19_999 + b"."),
    "deep tuples as a key": lambda: _archive(b"\x80\x02})" + b"\x85" * 20_000 + b"K\1s."),
    "a list in itself": lambda: _archive(b"\x80\x02]q\0h\0a."),
    "a huge memo": lambda: _archive(b"\x80\x02Nr\xff\xff\xff\x7f."),
    "a text that ends": lambda: _archive(b"\x80\x02X\xff\xff\xff\x7fabc."),
    "a long number": lambda: _archive(b"\x80\x02" + b"\x8b\xff\xff\0\0" + b"\1" * 65535 + b"."),
    "a set as a key": lambda: _archive(b"\x80\x02}]K\1s."),
    "no stack": lambda: _archive(b"\x80\x02."),
    "bytes of protocol 5": lambda: _archive(b"\x80\x05\x96" + struct.pack("<Q", 2**40) + b"a."),
    "bytearray": lambda: _harm("builtins", "bytearray", 2**38),
    "torch.Tensor": lambda: _harm("torch", "Tensor", 2**36),
    "os.mkdir": lambda: _harm("os", "mkdir", "harm"),
    "Counter": lambda: _harm("collections", "Counter", {"a": 1}),
    "expand by name": lambda: _harm("torch", "zeros", 2**36),
    "a state for a tensor": lambda: _archive(
        b"\x80\x02"
        + _tensor(FLOATS, (4,), (1,))
        + b"("
        + FLOATS
        + _int(0)
        + b"("
        + _int(2**40)
        + b"t("
        + _int(1)
        + b"ttb.",
        {"data/0": bytes(16)},
    ),
}
