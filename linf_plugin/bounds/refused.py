"""Stock operators that auto_LiRPA bounds wrongly, by version.  ``compute_bounds`` and nets of our layers refuse them.

``TABLE`` has all of them.  ``python -m operators`` (tests/operators) found them: it draws small graphs of every
operator that auto_LiRPA claims to support, and compares the bounds of every method with what the graph computes.  An
operator whose bounds can be corrected from outside is not refused: ``mended`` corrects it.
"""

import math
import warnings
from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

VERSIONS = ("0.3", "0.7.1")  # the versions that have been searched
SEARCH = "PYTHONPATH=tests python -m operators"

INTERVALS, BACKWARD, FORWARD = "intervals", "backward", "forward"
MATRIX_MODE = "make the BoundedModule with bound_opts={'conv_mode': 'matrix'}"
ALWAYS, LINEAR = (INTERVALS, BACKWARD, FORWARD), (BACKWARD, FORWARD)


class Refusal(NamedTuple):
    """An operator whose bounds are wrong."""

    operator: str  # auto_LiRPA's class
    versions: tuple[str, ...]
    passes: tuple[str, ...]  # which are wrong: interval bounds, from the output backward, from the input forward
    where: str  # the cases with wrong bounds, as a text
    applies: Callable  # (node, _Perturbed) → bool
    instead: str


class _Perturbed(set):
    """Names of the nodes that depend on a perturbed input."""

    def __init__(self, bounded, given: tuple | None):
        super().__init__()
        self.bounded, pending = bounded, []
        index_of = dict(zip(bounded.input_name, bounded.input_index))
        for node in bounded._modules.values():
            index = index_of.get(node.name)
            value = None if index is None or given is None or index >= len(given) else given[index]
            perturbation = getattr(node, "perturbation", None) if value is None else getattr(value, "ptb", None)
            if perturbation is not None:
                pending.append(node)
        while pending:
            node = pending.pop()
            if node.name not in self and type(node).__name__ != "BoundShape":  # a shape depends on no values
                self.add(node.name)
                pending += (bounded[name] for name in node.output_name)

    def operand(self, node, index: int) -> bool:
        return index < len(node.inputs) and node.inputs[index].name in self

    def value(self, node, index: int) -> Tensor:
        """Returns the value of an operand.  If it is not perturbed, it has this value for all inputs."""
        return self.bounded.get_forward_value(node.inputs[index])

    def patches(self) -> bool:
        return self.bounded.conv_mode == "patches"


def _always(node, perturbed) -> bool:
    return True


def _repeats(node, perturbed) -> bool:
    index = perturbed.value(node, 1)
    if index.dim() == 0:
        return False
    axis = node.axis if type(node).__name__ == "BoundGatherElements" else 0
    index = index.movedim(axis, 0) if type(node).__name__ == "BoundGatherElements" else index.flatten()
    return bool((index.sort(0).values.diff(dim=0) == 0).any())


NOT_NEGATIVE = ("BoundExp", "BoundSigmoid", "BoundRelu", "BoundAbs", "BoundSoftplus", "BoundSqrt")


def _divides(node, perturbed) -> bool:
    return perturbed.operand(node, 1) and type(node.inputs[0]).__name__ not in NOT_NEGATIVE


def _negative_power(node, perturbed) -> bool:
    return perturbed.operand(node, 1) or bool((perturbed.value(node, 1) < 0).any())


def _even_power(node, perturbed) -> bool:
    exponent = perturbed.value(node, 1)
    return bool(((exponent > 2) & (exponent % 2 == 0)).any())


def _converts(node, perturbed) -> bool:
    return node.type != perturbed.value(node, 0).dtype


def _scaled(node, perturbed) -> bool:
    return node.attr.get("alpha", 1.0) != 1.0


def _falls(node, perturbed) -> bool:
    return node.attr.get("alpha", 0.01) < 0


def _steepens(node, perturbed) -> bool:
    return node.attr.get("alpha", 0.01) > 1


def _pads(node, perturbed) -> bool:
    return any(node.padding)


def _overlaps(node, perturbed) -> bool:
    return list(node.stride) != list(node.kernel_size) or any(node.padding)


def _leaves_over(node, perturbed) -> bool:
    """Whether there are pixels that no window covers.  0.3 and 0.7.1 then take the width for the height."""
    (height, width), (kh, kw) = node.inputs[0].output_shape[-2:], node.kernel_size
    return bool(height % kh or width % kw) and (height, kh) != (width, kw)


def _overlaps_or_leaves_over(node, perturbed) -> bool:
    return _overlaps(node, perturbed) or _leaves_over(node, perturbed)


def _broadcasts_patches(node, perturbed) -> bool:
    shapes = [tuple(n.output_shape) for n in node.inputs]
    return perturbed.patches() and len(node.output_shape) == 4 and any(s[1:] != node.output_shape[1:] for s in shapes)


def _groups_or_dilates(node, perturbed) -> bool:
    return perturbed.patches() and (node.groups != 1 or any(d != 1 for d in node.dilation))


def _dilates_unequally(node, perturbed) -> bool:
    return len(set(node.dilation)) > 1


def _batched_patches(node, perturbed) -> bool:
    return perturbed.patches() and perturbed.bounded.bound_opts["crown_batch_size"] < math.inf


def _repeats_blocks(node, perturbed) -> bool:
    counts, sizes = perturbed.value(node, 1).tolist(), node.inputs[0].output_shape
    return any(count > 1 and size > 1 for count, size in zip(counts, sizes))


TABLE = (
    Refusal("BoundSqrt", ("0.3",), LINEAR, "always", _always, "use IBP"),
    Refusal(
        "BoundDiv",
        ("0.3",),
        ALWAYS,
        "the denominator depends on the input, and the numerator may be negative",
        _divides,
        "use 0.7.1",
    ),
    Refusal("BoundPow", ("0.3",), ALWAYS, "the exponent is negative", _negative_power, "use torch.reciprocal"),
    Refusal(
        "BoundPow",
        ("0.7.1",),
        LINEAR,
        "the exponent is even and above 2",
        _even_power,
        "use squares of squares, or IBP",
    ),
    Refusal("BoundSin", ("0.3",), LINEAR, "always", _always, "use IBP"),
    Refusal("BoundCos", ("0.3",), LINEAR, "always", _always, "use IBP"),
    Refusal("BoundATenHeaviside", VERSIONS, LINEAR, "always", _always, "use IBP"),
    Refusal("BoundLeakyRelu", ("0.3",), ALWAYS, "its slope is negative", _falls, "use torch.relu twice"),
    Refusal("BoundLeakyRelu", VERSIONS, LINEAR, "its slope is above 1", _steepens, "use IBP"),
    Refusal("BoundLeakyRelu", ("0.7.1",), (FORWARD,), "always", _always, "use CROWN"),
    Refusal("BoundCast", VERSIONS, LINEAR, "the result has another dtype", _converts, "use IBP"),
    Refusal(
        "BoundLinear",
        VERSIONS,
        (BACKWARD,),
        "its product is scaled (alpha of torch.addmm)",
        _scaled,
        "scale the weights",
    ),
    Refusal(
        "BoundConv",
        VERSIONS,
        (BACKWARD,),
        "its two dilations differ",
        _dilates_unequally,
        "use IBP, or equal dilations",
    ),
    Refusal(
        "BoundConv",
        VERSIONS,
        (BACKWARD,),
        "in patches mode, it has groups or a dilation",
        _groups_or_dilates,
        MATRIX_MODE,
    ),
    Refusal(
        "BoundConv",
        ("0.3",),
        (BACKWARD,),
        "in patches mode, bound_opts have a crown_batch_size",
        _batched_patches,
        f"leave crown_batch_size out, or {MATRIX_MODE}",
    ),
    *(
        Refusal(
            name,
            VERSIONS,
            (BACKWARD,),
            "in patches mode, an operand of an image is broadcast",
            _broadcasts_patches,
            f"{MATRIX_MODE}, or use linf_plugin.ops.shift",
        )
        for name in ("BoundAdd", "BoundSub")
    ),
    Refusal(
        "BoundAveragePool",
        ("0.3",),
        LINEAR,
        "windows are padded, their stride is not their size, or an image that is not square is no multiple of them",
        _overlaps_or_leaves_over,
        "use a convolution",
    ),
    Refusal(
        "BoundAveragePool",
        ("0.7.1",),
        LINEAR,
        "an image that is not square is no multiple of the windows",
        _leaves_over,
        "crop the image before the pool",
    ),
    Refusal(
        "BoundMaxPool", ("0.3",), LINEAR, "windows are padded, or their stride is not their size", _overlaps, "use IBP"
    ),
    Refusal("BoundMaxPool", ("0.7.1",), LINEAR, "windows are padded", _pads, "use IBP"),
    Refusal("BoundMaxPool", ("0.7.1",), (FORWARD,), "the stride of windows is not their size", _overlaps, "use CROWN"),
    Refusal("BoundGather", ("0.3",), LINEAR, "an index comes twice", _repeats, "use torch.cat of slices"),
    Refusal("BoundGatherElements", VERSIONS, LINEAR, "an index comes twice", _repeats, "use torch.cat of slices"),
    Refusal(
        "BoundTile",
        ("0.7.1",),
        (BACKWARD,),
        "a dimension of more than one number is repeated",
        _repeats_blocks,
        "use torch.cat",
    ),
)

# Version → classes that no graph of the search reaches.
NOT_SEARCHED: dict[str, tuple[str, ...]] = {
    "0.3": ("BoundATenDiag", "BoundDropout", "BoundRNN", "BoundSqr"),
    "0.7.1": (
        "BoundATenDiag",
        "BoundConcatGrad",
        "BoundConv2dGrad",
        "BoundDiv",
        "BoundJacobianInit",
        "BoundJacobianOP",
        "BoundLayerNormalization",
        "BoundMultiPiecewiseNonlinear",
        "BoundRNN",
        "BoundReluGrad",
        "BoundSigmoidGrad",
        "BoundSignMerge",
        "BoundSliceGrad",
        "BoundTanhGrad",
    ),
}


def passes_of(method: str | None) -> tuple[str, ...]:
    """Returns the passes that auto_LiRPA makes for a method.

    Interval bounds are always among them, because all other bounds are cut to them.
    """
    name = "ibp" if method is None else method.lower()
    found = [INTERVALS]
    if name != "ibp" and name != "forward":
        found.append(BACKWARD)
    if name.startswith("forward"):
        found.append(FORWARD)
    return tuple(found)


def _applies(row: Refusal, node, perturbed: _Perturbed) -> bool:
    try:
        return row.applies(node, perturbed)
    except Exception:  # auto_LiRPA cannot compute the operands on which the answer depends
        return True


def _without_samples(bounded, perturbed: _Perturbed) -> str | None:
    """Returns why linear bounds would fail: a node does not keep the samples in its first dimension."""
    shapes = {name: shape for name, shape in getattr(bounded, "_linf_shapes", {}).items() if name in perturbed}
    count = next((shape[0] for name, shape in shapes.items() if name in bounded.input_name), None)
    for name, shape in shapes.items():
        if shape[0] != count:
            return (
                f"node {name!r} ({type(bounded[name]).__name__.removeprefix('Bound')}) has shape {shape} for {count} "
                "samples, but linear bounds need the samples in the first dimension: give inputs (N, …), keep N in the "
                "first dimension, as in x.flatten(1) or x.view(x.size(0), -1), or use IBP"
            )
    return None


def reason(bounded, x, method: str | None) -> str | None:
    """Returns why these bounds would be wrong, or None.  x is as ``BoundedModule.compute_bounds`` takes it."""
    from auto_LiRPA import __version__ as version
    from auto_LiRPA.utils import unpack_inputs

    perturbed = _Perturbed(bounded, None if x is None else tuple(unpack_inputs(x)))
    passes = passes_of(method)
    if set(passes) != {INTERVALS} and (moved := _without_samples(bounded, perturbed)):
        return moved
    for node in bounded._modules.values():
        if node.name not in perturbed or not type(node).__module__.startswith("auto_LiRPA"):
            continue
        name, at = type(node).__name__, f"{type(node).__name__.removeprefix('Bound')} (node {node.name!r})"
        if name == "BoundDropout":  # a trace in evaluation mode has none
            return f"{at} draws random numbers: call eval() on the net before its BoundedModule is made"
        if name in NOT_SEARCHED.get(version, ()):
            return f"bounds of {at} by auto_LiRPA {version} have not been searched for faults: leave it out"
        for row in TABLE:
            known = version in row.versions or version not in VERSIONS
            if name == row.operator and known and set(row.passes) & set(passes) and _applies(row, node, perturbed):
                where = f"in its {' and '.join(row.passes)} passes, where {row.where}"
                return f"auto_LiRPA {version} bounds {at} wrongly {where}: {row.instead}"
    return None


def check_operators(bounded, x, method: str | None) -> None:
    """Raises NotImplementedError if the bounds would be wrong.  Warns if the version has not been searched."""
    check_version(sound=False)
    found = reason(bounded, x, method)
    if found:
        raise NotImplementedError(found)


def check_version(sound: bool) -> None:
    """Raises RuntimeError with ``sound``, and else warns, if the version of auto_LiRPA has not been searched.

    Such a version may bound any operator wrongly.  All that is wrong in one of ``VERSIONS`` is refused for it too.
    """
    from auto_LiRPA import __version__ as version

    if version in VERSIONS:
        return
    message = (
        f"auto_LiRPA {version} has not been searched for operators that it bounds wrongly, unlike "
        f"{' and '.join(VERSIONS)}: `{SEARCH}` searches it"
    )
    if sound:
        raise RuntimeError(f"{message}. Use one of these versions, or sound=False")
    warnings.warn(message, UserWarning, stacklevel=3)
