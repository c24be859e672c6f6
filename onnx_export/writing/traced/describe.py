"""The description of a traced net in a file: its operations as JSON, with what the weights do not show.

The net is read back from it.  The description is only a claim.  ``verify`` writes a new file from the net that it
reads, and every node, constant and word of the old file must be the same.
"""

import json
import math
from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor, nn

from linf_plugin.graphs.graph import Graph
from linf_plugin.graphs.operations import (
    Add,
    Affine,
    Average,
    Clamp,
    Elu,
    Gather,
    Largest,
    Limit,
    Multiply,
    Slope,
    Softplus,
)
from linf_plugin.layers.distance import LinfDistConv2d, LinfDistLinear
from linf_plugin.layers.sort import SortDistLinear
from linf_plugin.refusal import rule_of

from .folding import steps
from .forms import Shape, group_form, move_form
from .shapes import shapes_of


class Described(NamedTuple):
    """An operation in words.

    Attributes:
        name: what it is.
        arguments: plain data.
        tensors: its constants, by the names under which the file holds them.
    """

    name: str
    arguments: dict[str, Any]
    tensors: dict[str, Tensor]


def _plain(name: str) -> Callable[..., Described]:
    return lambda module, shapes: Described(name, {}, {})


def _weights(module: nn.Module) -> dict[str, Tensor]:
    return {"weight": module.weight} | ({} if module.bias is None else {"bias": module.bias})


def _product(name: str, *arguments: str) -> Callable[..., Described]:
    def describe(module: nn.Module, shapes: list[Shape]) -> Described:
        values = {key: getattr(module, key) for key in arguments}
        exponent = getattr(module, "p", math.inf)
        return Described(
            name,
            {key: list(a) if isinstance(a, tuple) else a for key, a in values.items()}
            | ({} if exponent == math.inf else {"p": exponent}),
            _weights(module),
        )

    return describe


def _sorted_sum(module: SortDistLinear, shapes: list[Shape]) -> Described:
    return Described("sort_dist", {"rho": module.rho, "k": min(module.k, module.weight.shape[1])}, _weights(module))


def _gather(module: Gather, shapes: list[Shape]) -> Described:
    form = move_form(module.index, shapes)
    return Described("gather", {}, {"index": module.index}) if form is None else Described(*form, {})


def average_form(module: Average, shapes: list[Shape]) -> tuple[str, dict[str, Any]] | None:
    """Returns the form of a sum or a mean over whole dimensions or windows, or None.

    ``mean`` tells whether it divides by the number of terms; in a window, by those inside the image (``inside``).
    """
    form = group_form(module.gather.index, shapes)
    if form is None:
        return None
    divisor, inside = module.divisor.double(), (module.gather.index >= 0).sum(-1).double()
    if form[0] == "over":
        for mean, terms in ((True, module.terms), (False, 1)):
            if bool((divisor == terms).all()):
                return "over", form[1] | {"mean": mean}
    elif form[0] == "window" and form[1]["dilation"] == [1] * len(form[1]["dilation"]):
        for outside, terms in ((True, module.terms), (False, inside)):
            if bool((divisor == terms).all()):
                return "window", form[1] | {"inside": not outside}
    return None


def _average(module: Average, shapes: list[Shape]) -> Described:
    form = average_form(module, shapes)
    if form is None:
        return Described("average", {}, {"index": module.gather.index, "divisor": module.divisor})
    return Described(f"average {form[0]}", form[1], {})


def largest_form(module: Largest, shapes: list[Shape]) -> tuple[str, dict[str, Any]] | None:
    """Returns the form of a maximum over whole dimensions or windows, or of a minimum over dimensions, or None."""
    form = group_form(module.gather.index, shapes, fill=True)
    if form is None or (form[0] == "window" and module.sign < 0):
        return None
    return form


def _largest(module: Largest, shapes: list[Shape]) -> Described:
    form = largest_form(module, shapes)
    if form is None:
        return Described("largest", {"sign": module.sign}, {"index": module.gather.index})
    return Described(f"largest {form[0]}", form[1] | {"sign": module.sign}, {})


def _affine(module: Affine, shapes: list[Shape]) -> Described:
    names = ("centre", "factor", "offset")
    return Described("affine", {}, {n: getattr(module, n) for n, there in zip(names, steps(module)) if there})


def _clamp(module: Clamp, shapes: list[Shape]) -> Described:
    ends = {"low": module.low, "high": module.high}
    return Described("clamp", {name: end for name, end in ends.items() if math.isfinite(end)}, {})


_SLIDING = ("stride", "padding", "dilation", "groups")

# Type of an operation → (module, shapes of its inputs) → the operation in words.
IN_WORDS: dict[type[nn.Module], Callable[..., Described]] = {
    nn.Identity: _plain("identity"),
    Gather: _gather,
    Average: _average,
    Largest: _largest,
    Add: lambda module, shapes: Described("add", {"sign": module.sign}, {}),
    Multiply: _plain("multiply"),
    Affine: _affine,
    Clamp: _clamp,
    Limit: lambda module, shapes: Described("limit", {"sign": module.sign}, {"end": module.end}),
    Slope: lambda module, shapes: Described("slope", {}, {"slope": module.slope}),
    Elu: lambda module, shapes: Described("elu", {"alpha": module.alpha}, {}),
    Softplus: lambda module, shapes: Described("softplus", {"beta": module.beta, "threshold": module.threshold}, {}),
    nn.ReLU: _plain("relu"),
    nn.Tanh: _plain("tanh"),
    nn.Sigmoid: _plain("sigmoid"),
    nn.Linear: _product("linear"),
    LinfDistLinear: _product("dist"),
    SortDistLinear: _sorted_sum,
    nn.Conv1d: _product("conv", *_SLIDING),
    nn.Conv2d: _product("conv", *_SLIDING),
    LinfDistConv2d: _product("dist_conv", *_SLIDING),
    nn.ConvTranspose1d: _product("conv_transpose", *_SLIDING, "output_padding"),
    nn.ConvTranspose2d: _product("conv_transpose", *_SLIDING, "output_padding"),
}


def described(graph: Graph, shapes: list[Shape]) -> list[Described]:
    """Returns the operations of a graph in words.

    Args:
        graph: as ``folding.folded`` returns it.
        shapes: of each value for one sample, that of the input included.

    Raises:
        TypeError: an operation is not written to files.
    """
    return [
        rule_of(IN_WORDS, module, "description")(module, [shapes[i] for i in inputs])
        for module, inputs, _ in graph.nodes
    ]


def written(graph: Graph, shape: Shape) -> str:
    """Returns the description from which, with the constants of the file, ``read.read`` makes the graph again."""
    words = described(graph, shapes_of(graph, shape))
    nodes = [[one.name, list(inputs), one.arguments] for one, inputs in zip(words, graph.inputs)]
    spec = {"input_shape": list(shape), "operations": nodes}
    return json.dumps(spec, separators=(",", ":"), allow_nan=False)
