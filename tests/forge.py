"""Forgeries of ONNX files: each differs from a right one in one field of one message, wherever that is.

The walk is over the descriptors of protobuf, so that what ONNX has and this package never writes is forged too.
``python -m forge`` tries all of them on some files, a few minutes; ``test_forgeries`` some of each kind.
"""

import contextlib
import struct
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from onnx import ModelProto, NodeProto, TensorProto
from torch import nn

import linf_plugin
from onnx_export.exporting import export
from onnx_export.files.load import load
from onnx_export.files.save import reseal
from onnx_export.files.seal import DIGEST, content_sha256, props_of
from onnx_export.reading.recompute import contradictions
from onnx_export.running.verify import Verification, check_accuracies
from onnx_export.writing.compose import compose
from onnx_export.writing.metadata import FROM_RUN, Accuracy, accuracy_properties, is_told
from onnx_export.writing.record import TENSORS, written
from onnx_export.writing.traced import describe
from onnx_export.writing.traced.read import TENSORS as CONSTANTS

# Nets of every layer that is exported, as small as can be, and how they are written.
SPECS = {
    "distances": (
        [
            ["normalize", {"mean": [0.3], "std": 0.4}],
            ["crop", {"size": 2}],
            ["flatten", {}],
            ["dist", {"in_features": 4, "out_features": 2, "bias": False}],
            ["mean_shift", {"num_features": 2}],
            ["dist", {"in_features": 2, "out_features": 2}],
            ["negate", {}],
        ],
        {},
    ),
    "interval": (
        [
            ["dist_conv", {"in_channels": 1, "out_channels": 2, "kernel_size": 2, "bias": False}],
            ["relu", {}],
            ["conv", {"in_channels": 2, "out_channels": 2, "kernel_size": 2, "groups": 2, "padding": 1}],
            ["flatten", {}],
            ["tanh", {}],
            ["linear", {"in_features": 18, "out_features": 2}],
        ],
        {"certificate": "interval", "epsilon": 0.03, "pixels": "byte"},
    ),
    "sorted": (
        [["flatten", {}], ["sort_dist", {"in_features": 9, "out_features": 3, "rho": 0.5, "k": 3}]],
        {"certificate": "interval", "epsilon": 0.1},
    ),
    "inlined": ([["flatten", {}], ["dist", {"in_features": 9, "out_features": 2}]], {"flavour": "inlined"}),
    "l2": (
        [
            ["normalize", {"mean": [0.3], "std": 1.0}],
            ["potential_conv", {"channels": 1, "inner": 2, "kernel_size": 3}],
            ["flatten", {}],
            ["potential", {"features": 9, "inner": 2}],
            ["linear", {"in_features": 9, "out_features": 3}],
        ],
        {"norm": "l2", "epsilon": 1.5},
    ),
    "l2 of bytes, one bound": (
        [["flatten", {}], ["linear", {"in_features": 9, "out_features": 4}], ["max_min", {}]],
        {"norm": "l2", "pixels": "byte", "flavour": "inlined"},
    ),
}
SHAPE = [1, 3, 3]


class Traced(nn.Module):
    """A net of plain PyTorch, with an index that has no form."""

    def __init__(self):
        super().__init__()
        self.first, self.skip = nn.Conv2d(1, 2, 2, padding=1), nn.ConvTranspose2d(1, 2, 2)
        self.last = nn.Linear(8, 2)

    def forward(self, x):
        y = torch.relu(self.first(x) + self.skip(x)) * 0.5
        y = nn.functional.max_pool2d(y, 2).flatten(1)[:, [5, 1, 1, 7, 0, 2, 6, 4]]
        return self.last(y.view(-1, 2, 4).permute(0, 2, 1).flatten(1).sigmoid())


TRACED = {"traced": (Traced, {"input_shape": tuple(SHAPE), "epsilon": 0.05})}
FILES = (*SPECS, *TRACED)


def net_of(name: str) -> nn.Module:
    torch.manual_seed(0)
    if name in TRACED:
        return TRACED[name][0]().eval()
    net = linf_plugin.Net({"input_shape": SHAPE, "layers": SPECS[name][0]})
    for layer in net:
        if hasattr(layer, "running_mean"):
            layer.running_mean.normal_()
    return net.eval()


def file_of(name: str, folder: Path) -> Path:
    """The file of that net in a folder, with a word for all that it can tell."""
    settings, path = (TRACED[name] if name in TRACED else SPECS[name])[1], folder / f"{name}.onnx"
    metadata = {"epsilon": 0.1, "method": "linf-dist", "dataset": "digits", "seed": 3, "recipe": "digits"}
    metadata["results"] = {"clean": 0.5, "certified": {"lipschitz": {str(settings.get("epsilon", 0.1)): 0.25}}}
    if name in TRACED:
        torch.save(net_of(name).state_dict(), folder / "net.pt")
    else:
        linf_plugin.save(folder / "net.pt", net_of(name), {})
    export(net_of(name), path, metadata, folder / "net.pt", force=True, **settings)
    reseal(path, accuracy_properties(accuracy_in(load(path))))
    return path


def accuracy_in(model: ModelProto) -> Accuracy:
    """What the file is taken to give: it is not run here."""
    by = "interval" if any(o.name == "certified" for o in model.graph.output) else "lipschitz"
    return Accuracy(40, 30, 20, by)


class Verifier:
    """``verify`` without the run of the file, whose outputs are those of the right one where nothing is wrong; a net
    is composed once."""

    def __init__(self, model: ModelProto):
        self.accuracy, self.composed = accuracy_in(model), {}

    def compose(self, net, settings):
        module, words = (
            (net, written(net))
            if isinstance(net, linf_plugin.Net)
            else (net.graph, describe.written(net.graph, net.input_shape))
        )
        key = words, settings, *(a.numpy().tobytes() for a in (*module.parameters(), *module.buffers()))
        if key not in self.composed:
            self.composed[key] = compose(net, settings)
        model, props = self.composed[key]
        return ModelProto.FromString(model.SerializeToString()), props

    def failures(self, model: ModelProto) -> list[str]:
        wrong = contradictions(model, self.compose)
        if wrong:
            return wrong
        found = Verification(self.accuracy, None)
        check_accuracies(props_of(model), found)
        return found.failures


def unsealed(model: ModelProto) -> ModelProto:
    """The same without its digest."""
    result = ModelProto.FromString(model.SerializeToString())
    kept = [p for p in result.metadata_props if p.key != DIGEST]
    result.ClearField("metadata_props")
    result.metadata_props.extend(kept)
    return result


def resealed(model: ModelProto) -> ModelProto:
    """The same with the digest that it has now."""
    result = unsealed(model)
    result.metadata_props.add(key=DIGEST, value=content_sha256(result))
    return result


def harmless(forgery: "Forgery", interval: bool) -> str | None:
    """Why a forgery may verify, where it changes what no certificate rests on; else None."""
    first, *more = forgery.where
    key = first.removeprefix("metadata_props ")
    if first == "metadata_props" and forgery.what == "first last":
        return "the order of metadata"
    if key != first and more == ["value"] and is_told(key):
        return f"what a file tells of its making: {'run_' if key.startswith(FROM_RUN) else key}"
    if key != first and key.startswith(FROM_RUN) and more == ["key"] and forgery.what == "longer":
        return "what a file tells of its making: the name of a certificate of the training run"
    if first == "graph net" and more[1:] == ["raw_data"] and more[0].rpartition(".")[2] in {*TENSORS, *CONSTANTS}:
        return "the weights of another net, of which the file says what is right"
    if key == "epsilon" and more == ["value"] and not interval:
        return "the ε at which certified accuracy is recomputed, by the radii, when the file is run"
    return None


NUMBERS = {
    FieldDescriptor.CPPTYPE_INT32,
    FieldDescriptor.CPPTYPE_INT64,
    FieldDescriptor.CPPTYPE_UINT32,
    FieldDescriptor.CPPTYPE_UINT64,
    FieldDescriptor.CPPTYPE_ENUM,
}
FLOATS = {FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE}


class Forgery(NamedTuple):
    where: tuple[str, ...]  # the path to the field: names of fields, and of parts where they have one
    kind: str  # of the field, without what the parts are called: forgeries of one kind are alike
    what: str
    model: ModelProto


class _Place(NamedTuple):
    steps: tuple[tuple[str, int | None], ...]  # field, index
    where: tuple[str, ...]

    def of(self, model: ModelProto) -> Message:
        message = model
        for name, index in self.steps:
            message = getattr(message, name) if index is None else getattr(message, name)[index]
        return message


def places(message: Message, place: _Place = _Place((), ())) -> Iterator[_Place]:
    """Of every message in a message, itself first."""
    yield place
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        parts = [(None, value)] if isinstance(value, Message) else list(enumerate(value))
        for index, part in parts:
            title = getattr(part, "name", "") or getattr(part, "key", "") or ("" if index is None else str(index))
            where = (*place.where, f"{field.name} {title}".strip())
            yield from places(part, _Place((*place.steps, (field.name, index)), where))


def _forged(field: FieldDescriptor, value, filled: bool) -> Iterator[tuple[str, object]]:
    """(what is done, other value) of a field that is no message."""
    if field.cpp_type in FLOATS:
        yield "doubled", 2 * value if value else 0.5
        yield "a little less", value * (1 - 1e-6) if value else -1e-9
    elif field.cpp_type == FieldDescriptor.CPPTYPE_ENUM:
        numbers = [v.number for v in field.enum_type.values if v.number != value]
        yield "another", numbers[-1]
    elif field.cpp_type in NUMBERS:
        yield "one more", value + 1
    elif field.type == FieldDescriptor.TYPE_STRING:
        yield "longer", value + "x"
        with contextlib.suppress(ValueError):
            yield "doubled", str(2 * float(value))
        if filled:
            yield "empty", ""
    else:
        yield "longer", value + bytes(4)
        if filled:
            yield "first bit", bytes([value[0] ^ 1]) + value[1:]
            if len(value) % 4 == 0:
                (number,) = struct.unpack("<f", value[-4:])
                other = struct.pack("<f", number * 2 + 1e-3) if abs(number) < 1e30 else bytes(4)
                yield "last number", value[:-4] + (other if other != value[-4:] else bytes(4))
            yield "zeros", bytes(len(value)) if any(value) else b"\x01" + value[1:]


def _changes(message: Message) -> Iterator[tuple[str, str, object]]:
    """(field, what is done, function that does it to a message like this one)."""
    for field in message.DESCRIPTOR.fields:
        name, value = field.name, getattr(message, field.name)
        single = isinstance(value, (Message, str, bytes, int, float))
        if not single:
            if field.message_type is not None:
                yield name, "one more", lambda m, n=name: _add(getattr(m, n))
                if len(value):
                    yield name, "last is gone", lambda m, n=name: getattr(m, n).pop()
                    yield name, "first twice", lambda m, n=name: getattr(m, n).append(getattr(m, n)[0])
                if len(value) > 1:
                    yield name, "first last", lambda m, n=name: _turn(getattr(m, n))
                continue
            empty = {"string": "", "bytes": b"", "float": 0.0}.get(_kind(field), 0)
            yield name, "one more", lambda m, n=name, e=empty: getattr(m, n).append(e)
            if len(value):
                yield name, "last is gone", lambda m, n=name: getattr(m, n).pop()
                for what, other in _forged(field, value[0], True):
                    yield name, what, lambda m, n=name, o=other: getattr(m, n).__setitem__(0, o)
            if len(value) > 1:
                yield name, "reversed", lambda m, n=name: _reverse(getattr(m, n))
        elif field.message_type is not None:
            if message.HasField(name):
                yield name, "is gone", lambda m, n=name: m.ClearField(n)
            else:
                yield name, "is there", lambda m, n=name: getattr(m, n).SetInParent()
        else:
            there = message.HasField(name)
            if there:
                yield name, "is gone", lambda m, n=name: m.ClearField(n)
            for what, other in _forged(field, value, bool(value)):
                yield name, what, lambda m, n=name, o=other: setattr(m, n, o)
    yield "unknown field", "is there", lambda m: m.MergeFromString(b"\xfa\xff\x03\x01x")  # number 8191


def _kind(field: FieldDescriptor) -> str:
    if field.cpp_type in FLOATS:
        return "float"
    return {FieldDescriptor.TYPE_STRING: "string", FieldDescriptor.TYPE_BYTES: "bytes"}.get(field.type, "int")


def _add(parts) -> None:
    """One more message, of which as much is filled in as makes it one."""
    part = parts.add()
    if isinstance(part, NodeProto):
        part.CopyFrom(parts[0])
        part.output[0] += " again"
    elif isinstance(part, TensorProto):
        part.name, part.data_type, part.raw_data = "more", TensorProto.FLOAT, bytes(4)
    elif hasattr(part, "key"):
        part.key, part.value = "more", "value"
    elif hasattr(part, "name"):
        part.name = "more"


def _turn(parts) -> None:
    first = type(parts[0])()
    first.CopyFrom(parts[0])
    del parts[0]
    parts.append(first)


def _reverse(values) -> None:
    values[:] = list(values)[::-1]


def forgeries(model: ModelProto, chosen=lambda where, kind: True) -> Iterator[Forgery]:
    """Those that are chosen of all that differ in one field, in the order of the walk; the digest is as it was."""
    original = model.SerializeToString(deterministic=True)
    for place in places(model):
        message = place.of(model)
        for name, what, change in _changes(message):
            where, kind = (*place.where, name), "/".join(field for field, _ in place.steps) + f"/{name}: {what}"
            if not chosen(where, kind):
                continue
            forged = ModelProto.FromString(original)
            change(place.of(forged))
            if forged.SerializeToString(deterministic=True) != original:
                yield Forgery(where, kind, what, forged)


class Tried(NamedTuple):
    forged: int  # forgeries, each with its digest left, recomputed and deleted
    let_through: Counter  # why → how many that verify
    wrong: list[str]  # those that verify and must not


def tried(path: Path, chosen=lambda where, kind: True) -> Tried:
    """What ``verify`` makes of the forgeries of a file that are chosen."""
    model = load(path)
    verifier, original = Verifier(model), model.SerializeToString()
    if verifier.failures(model):
        raise AssertionError(f"{path} is refused as it is: {verifier.failures(model)}")
    interval = any(o.name == "certified" for o in model.graph.output)
    forged, through, wrong = 0, Counter(), []
    for forgery in forgeries(model, chosen):
        forged += 1
        for digest, other in (
            ("left", forgery.model),
            ("recomputed", resealed(forgery.model)),
            ("deleted", unsealed(forgery.model)),
        ):
            if other.SerializeToString() == original or verifier.failures(other):
                continue
            reason = harmless(forgery, interval)
            if reason is None:
                wrong.append(f"{'/'.join(forgery.where)}: {forgery.what}, digest {digest}")
            else:
                through[reason] += 1
    return Tried(forged, through, wrong)


def main() -> int:
    total, wrong = 0, []
    with tempfile.TemporaryDirectory() as folder:
        for name in FILES:
            found = tried(file_of(name, Path(folder)))
            total, wrong = total + found.forged, wrong + found.wrong
            forged, false = found.forged, len(found.wrong)
            print(f"{name}: {forged} forgeries, each with 3 digests; {false} verify and must not", flush=True)
            for reason, count in found.let_through.items():
                print(f"  {count} verify: {reason}")
    for line in wrong:
        print(f"WRONG: {line}", file=sys.stderr)
    print(f"{3 * total} files, {len(wrong)} that verify and must not")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
