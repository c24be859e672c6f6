"""Operators that only move numbers.  Each is called on numbers that name their places."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from ..values import Builder, Unknown, Value, resolve

Arguments = dict  # of one call: name → value


def _same(b: Builder, a: Arguments) -> Value:
    return next(iter(a.values()))


def _dropout(b: Builder, a: Arguments) -> Value:
    if a.get("train", a.get("training")):
        raise Unknown("it drops values at random: call model.eval(), and give F.dropout training=self.training")
    return a["input"]


def _call(function: Callable, names: tuple[str, ...], first: str = "self") -> Callable[[Builder, Arguments], Value]:
    """Returns the reader of an operator with one tensor and some other arguments."""

    def read(b: Builder, a: Arguments) -> Value:
        return b.move(lambda samples, xs: function(xs[0], *(resolve(a[n], samples) for n in names)), a[first])

    return read


def _values(b: Builder, given: list) -> tuple[Value, ...]:
    if not all(isinstance(value, Value) for value in given):
        raise Unknown("it joins values with constants: give it values that depend on the input only")
    return tuple(given)


def _join(function: Callable) -> Callable[[Builder, Arguments], Value]:
    return lambda b, a: b.move(lambda samples, xs: function(xs, a["dim"]), *_values(b, a["tensors"]))


def _parts(function: Callable, *names: str) -> Callable[[Builder, Arguments], list[Value]]:
    """Returns the reader of an operator that gives several tensors."""

    def read(b: Builder, a: Arguments) -> list[Value]:
        def pieces(samples: int, x: Tensor):
            return function(x, *(resolve(a[n], samples) for n in names))

        count = len(pieces(2, torch.zeros(a["self"].of(2))))
        return [b.move(lambda samples, xs, k=k: pieces(samples, xs[0])[k], a["self"]) for k in range(count)]

    return read


def _pad(b: Builder, a: Arguments) -> Value:
    mode, value = a.get("mode", "constant"), a["value"] or 0
    if mode == "constant" and value != 0:
        raise Unknown(f"it pads with {value}: pad with zeros")
    pads = a["pad"]
    if mode == "constant":  # −1 names a zero
        return b.move(lambda samples, xs: F.pad(xs[0], pads, value=-1.0), a["self"])
    return b.move(lambda samples, xs: F.pad(xs[0], pads, mode=mode), a["self"])


def _index(b: Builder, a: Arguments) -> Value:
    indices = [slice(None) if i is None else i for i in a["indices"]]
    if any(isinstance(i, Value) for i in indices):
        raise Unknown("its indices depend on the input: nothing is proved about that")
    return b.move(lambda samples, xs: xs[0][tuple(indices)], a["self"])


def _scatter(function: Callable, *names: str) -> Callable[[Builder, Arguments], Value]:
    """Returns the reader of an operator that replaces a part of one value by another value."""

    def read(b: Builder, a: Arguments) -> Value:
        given = _values(b, [a["self"], a["src"]])
        return b.move(lambda samples, xs: function(*xs, *(resolve(a[n], samples) for n in names)), *given)

    return read


def _copy(b: Builder, a: Arguments) -> Value:
    if not isinstance(a["src"], Value):
        raise Unknown("it replaces values by constants: nothing is known of that")
    shape = a["self"].of
    return b.move(lambda samples, xs: xs[0].expand(shape(samples)), a["src"])


def _interpolate(b: Builder, a: Arguments) -> Value:
    sizes, factors = a.get("output_size"), a.get("scale_factors")
    return b.move(lambda samples, xs: F.interpolate(xs[0], sizes, factors, mode="nearest"), a["input"])


MOVES: dict[str, Callable] = {
    **{
        f"aten.{name}": _same
        for name in (
            "clone",
            "detach",
            "alias",
            "contiguous",
            "lift_fresh_copy",
            "to",
            "_to_copy",
            "type_as",
            "positive",
        )
    },
    **{f"aten.{name}": _dropout for name in ("dropout", "alpha_dropout", "feature_dropout", "feature_alpha_dropout")},
    "aten.native_dropout": lambda b, a: [_dropout(b, a)],
    "aten.view": _call(torch.reshape, ("size",)),
    "aten.view_as": lambda b, a: b.move(lambda samples, xs: xs[0].reshape(a["other"].of(samples)), a["self"]),
    "aten._unsafe_view": _call(torch.reshape, ("size",)),
    "aten.reshape": _call(torch.reshape, ("shape",)),
    "aten.flatten": _call(torch.flatten, ("start_dim", "end_dim")),
    "aten.unflatten": _call(torch.unflatten, ("dim", "sizes")),
    "aten.permute": _call(torch.permute, ("dims",)),
    "aten.transpose": _call(torch.transpose, ("dim0", "dim1")),
    "aten.swapaxes": _call(torch.swapaxes, ("axis0", "axis1")),
    "aten.movedim": _call(torch.movedim, ("source", "destination")),
    "aten.t": _call(torch.t, ()),
    "aten.squeeze": lambda b, a: b.move(
        lambda samples, xs: xs[0].squeeze(a["dim"]) if "dim" in a else xs[0].squeeze(), a["self"]
    ),
    "aten.unsqueeze": _call(torch.unsqueeze, ("dim",)),
    "aten.slice": _call(torch.ops.aten.slice, ("dim", "start", "end", "step")),
    "aten.select": _call(torch.select, ("dim", "index")),
    "aten.narrow": _call(torch.narrow, ("dim", "start", "length")),
    "aten.index_select": _call(torch.index_select, ("dim", "index")),
    "aten.index": _index,
    "aten.expand": _call(torch.Tensor.expand, ("size",)),
    "aten.expand_as": lambda b, a: b.move(lambda samples, xs: xs[0].expand(a["other"].of(samples)), a["self"]),
    "aten.repeat": _call(torch.Tensor.repeat, ("repeats",)),
    "aten.flip": _call(torch.flip, ("dims",)),
    "aten.roll": _call(torch.roll, ("shifts", "dims")),
    "aten.unfold": _call(torch.Tensor.unfold, ("dimension", "size", "step")),
    "aten.pixel_shuffle": _call(F.pixel_shuffle, ("upscale_factor",)),
    "aten.pixel_unshuffle": _call(F.pixel_unshuffle, ("downscale_factor",)),
    "aten.channel_shuffle": _call(torch.channel_shuffle, ("groups",)),
    "aten.cat": _join(torch.cat),
    "aten.concat": _join(torch.cat),
    "aten.stack": _join(torch.stack),
    "aten.split": _parts(torch.split, "split_size", "dim"),
    "aten.split_with_sizes": _parts(torch.split, "split_sizes", "dim"),
    "aten.tensor_split": lambda b, a: _parts(torch.tensor_split, "sections" if "sections" in a else "indices", "dim")(
        b, a
    ),
    "aten.hsplit": lambda b, a: _parts(torch.hsplit, "sections" if "sections" in a else "indices")(b, a),
    "aten.vsplit": lambda b, a: _parts(torch.vsplit, "sections" if "sections" in a else "indices")(b, a),
    "aten.chunk": _parts(torch.chunk, "chunks", "dim"),
    "aten.unbind": _parts(torch.unbind, "dim"),
    "aten.pad": _pad,
    "aten.constant_pad_nd": _pad,
    **{
        f"aten.{kind}_pad{n}d": lambda b, a, mode=mode: _pad(
            b, {"self": a["self"], "pad": a["padding"], "mode": mode, "value": 0}
        )
        for kind, mode in (("reflection", "reflect"), ("replication", "replicate"))
        for n in (1, 2, 3)
    },
    "aten.upsample_nearest1d": _interpolate,
    "aten.upsample_nearest2d": _interpolate,
    "aten.select_scatter": _scatter(torch.select_scatter, "dim", "index"),
    "aten.slice_scatter": _scatter(torch.slice_scatter, "dim", "start", "end", "step"),
    "aten.copy": _copy,
}
