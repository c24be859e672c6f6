"""Bounds of what rounding does to a whole net: of |float32 output − exact output|, over all inputs in a box."""

import torch
from torch import Tensor, nn

from .. import arguments
from ..graphs.graph import Graph, Node, chain, expanded, last_uses
from ..moved import former
from ..refusal import Refusal, rule_of
from .operations import OF_OPERATIONS
from .products import check_products
from .program import SMALLEST, check_arithmetic, check_hooks, check_sequence
from .rules import ROUNDING, Reach, rows, samples

__getattr__ = former(__name__)  # the rules were here

CALLED = ("forward", "__call__", "_call_impl")  # what a call of a module runs


def layers(model: nn.Module) -> list[nn.Module]:
    """Returns the layers of a sequential net, in order.  Raises TypeError if a layer has no rule."""
    if type(model) in ROUNDING:
        rule_of(ROUNDING, model, "bound of the rounding error")
        return [model]
    if isinstance(model, nn.Sequential) and all(getattr(type(model), a) is getattr(nn.Sequential, a) for a in CALLED):
        return [layer for child in model for layer in layers(child)]
    raise TypeError(
        f"no bound of the rounding error is known for {type(model).__name__}; sound=False leaves rounding out"
    )


def is_sequence(model: nn.Module) -> bool:
    """Returns whether a net is a sequence of layers that have rules, so that its program need not be traced.

    A convolution that pads with other values than zeros is traced: its graph has the padding as an operation.  So is
    batch normalisation without running statistics, which tracing refuses by its place.
    """
    try:
        parts = layers(model)
    except TypeError:
        return False
    return all(
        a.running_mean is not None
        if isinstance(a, (nn.BatchNorm1d, nn.BatchNorm2d))
        else isinstance(a.padding, tuple) and a.padding_mode == "zeros"
        for a in parts
        if isinstance(a, (nn.Conv2d, nn.BatchNorm1d, nn.BatchNorm2d))
    )


def nodes(model: nn.Module) -> list[Node]:
    """Returns the nodes of a graph, or of a sequential net.  Raises TypeError if a layer of that has no rule."""
    return model.nodes if isinstance(model, Graph) else chain(layers(model)).nodes


def rule(module: nn.Module):
    """Returns the rule (module, *reaches) → reach of a layer or an operation.  Raises TypeError if there is none."""
    table = ROUNDING if type(module) in ROUNDING else OF_OPERATIONS
    return rule_of(table, module, "bound of the rounding error")


def check_program(model: nn.Module, x: Tensor) -> Graph | None:
    """Raises unless the theorems of docs/math.md apply to this net on this machine.

    Args:
        model: the net.
        x: (N, *) float32.

    Returns:
        None for a sequence of layers with rules, which is its own program; else the program that ``capture`` reads.

    Raises:
        TypeError: an operator has no rule; a ``forward`` or another attribute hides that of a layer's class; weights or
            x are not float32; a scale is no float32 number; the model is compiled, or is no module.
        ValueError: the net is in training mode; x has no batch dimension, has another shape than the net's
            ``input_shape``, or is on another device.
        RuntimeError: a module has forward hooks or is compiled in place; x is neither on a CPU nor on a CUDA GPU;
            settings or environment variables let this process compute in less than float32 (autocast, TF32 or
            bfloat16 products, cuDNN, NNPACK), or a probe of its products shows it (``products``); or the program that
            was read does not compute what the model computes.
    """
    arguments.check_model(model, evaluation=False)
    if is_sequence(model):
        check_sequence(model)
        arguments.check_samples(x, model)
        parts = layers(model)
        check_arithmetic(model, parts, x)
        check_products(model, Graph(expanded(chain(parts).nodes)), x)
        return None
    for module in model.modules():
        if isinstance(ROUNDING.get(type(module)), Refusal):
            rule_of(ROUNDING, module, "bound of the rounding error")
    from ..graphs.capture import capture  # its readers are many modules, and sequences do not need them

    check_hooks(model)
    arguments.check_samples(x, model)
    check_arithmetic(model, [m for m in model.modules() if next(m.children(), None) is None], x)
    program = capture(model, x if len(x) else x.new_zeros(1, *x.shape[1:]))
    check_products(model, program, x)
    check_equal(model, program, x)
    return program


@torch.no_grad()
def check_equal(model: nn.Module, program: Graph, x: Tensor) -> None:
    """Raises RuntimeError if the program that was read is off by more than rounding at some samples."""
    generator = torch.Generator().manual_seed(0)
    drawn = torch.rand(2, *x.shape[1:], generator=generator).to(x)
    for some in (x[:1], torch.cat([x[1:3], drawn])):
        if not len(some):
            continue
        expected, exact = model(some.clone()).double(), program(some.double())
        error = reach(program, some.double(), some.double()).error
        wrong = (expected - exact).abs() > error
        if expected.shape != exact.shape or wrong.any():
            raise RuntimeError(
                "the program that torch.export reads does not compute what the model computes: nothing is proved about "
                "it. Does the model have a state, or random numbers?"
            )


@torch.no_grad()
def reach(model: nn.Module, lower: Tensor, upper: Tensor) -> Reach:
    """Returns bounds of the exact and the float32 outputs of a net over all float32 inputs in a box.

    Args:
        model: a graph, or a sequential net, in evaluation mode, with float32 weights or their float64 copies.
        lower, upper: (N, *) float64, the ends of the box.

    Returns:
        (N, classes) float64 each; the error is infinite where an activation may overflow.

    Raises:
        TypeError, ValueError: a layer has no rule; lower or upper is not as described.
    """
    arguments.check_box(lower, upper)
    parts = nodes(model)
    last = last_uses(parts)
    values = [Reach(lower, upper, torch.zeros_like(lower))]
    finite = torch.ones(len(lower), dtype=torch.bool, device=lower.device)
    for i, (module, inputs, _) in enumerate(parts):
        y = rule(module)(module, *(values[j] for j in inputs))
        finite &= rows(y.error).isfinite().all(1)
        values.append(y)
        for j in inputs:
            if last[j] == i:
                values[j] = None  # nobody reads it again
    y = values[-1]
    error = y.error + 2 * SMALLEST  # a comparison may read a tiny logit as 0
    return y._replace(error=torch.where(samples(finite, error), error, torch.inf))
