"""A traced net with its certificates as an ONNX model.  The model depends only on the net and the settings."""

import math
from dataclasses import dataclass

import torch
from onnx import ModelProto, TensorProto
from torch import nn

from linf_plugin.float32.program import check_arithmetic, check_hooks
from linf_plugin.float32.reach import check_equal
from linf_plugin.graphs.capture import capture
from linf_plugin.graphs.graph import Graph
from linf_plugin.layers.lipschitz import lipschitz_bound

from .. import builder
from ..certificate import BOX_ROUNDING, RadiusConstants, above, check_certifiable, radius_constants
from ..faces import Output, input_of, logits_of, pixels_of, radius_of
from ..interval_graph import least_differences, predicted, verdict
from ..settings import Settings
from .ends import Ends, ends_of_operation
from .folding import folded
from .forms import Shape
from .nodes import nodes_of_operation
from .shapes import shapes_of
from .widths import Width, margin_width, widths

UNSOUND = ". sound=False leaves rounding out"  # the advice of errors about programs that cannot be read


@dataclass(frozen=True)
class Traced:
    """A net as a file holds it.

    Attributes:
        graph: as ``folding.folded`` returns it.
        input_shape: of a sample.
    """

    graph: Graph
    input_shape: Shape


def traced(model: nn.Module, input_shape: Shape) -> Traced:
    """Reads the program of a module, and returns it as a file holds it.

    Args:
        model: float32, in evaluation mode; takes (N, *input_shape) and returns (N, classes).
        input_shape: of a sample.

    Raises:
        TypeError: the model is compiled, an operator has no rule, or weights are no plain tensors.
        ValueError: the model is in training mode, its weights are not finite or not float32, it cannot run on samples
            of this shape, or ``check`` refuses what it returns.
        RuntimeError: it has forward hooks, autocast is on, or it does not compute what was read of its program.
    """
    _check_weights(model)
    device = next((a.device for a in (*model.parameters(), *model.buffers())), torch.device("cpu"))
    x = torch.zeros(1, *input_shape, device=device)
    check_hooks(model)
    check_arithmetic(model, [m for m in model.modules() if next(m.children(), None) is None], x)
    _check_runs(model, x.clone())
    try:
        graph = capture(model, x)
    except TypeError as error:  # a file has no bounds without rounding
        raise TypeError(str(error).removesuffix(UNSOUND)) from error
    check_equal(model, graph, x)
    net = Traced(folded(graph.cpu(), shapes_of(graph, input_shape)), tuple(input_shape))
    check(net)
    return net


def _check_weights(model: nn.Module) -> None:
    if any(m.training for m in model.modules()):
        raise ValueError("model is in training mode: call model.eval() first")
    for name, a in (*model.named_parameters(), *model.named_buffers()):
        if a.is_floating_point() and a.dtype != torch.float32:
            raise ValueError(f"{name} of model must be float32, got {a.dtype}")
        if not a.isfinite().all():
            raise ValueError(f"{name} of model contains NaN or infinite values")


@torch.no_grad()
def _check_runs(model: nn.Module, x: torch.Tensor) -> None:
    try:
        model(x)
    except Exception as error:  # the code of the model may raise anything
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"model cannot run on samples of shape {tuple(x.shape[1:])}: {reason}") from error


def check(net: Traced) -> None:
    """Checks that a traced net gives logits of two classes or more, and that its constants are finite.

    Raises:
        TypeError, ValueError: the message says what is wrong.
    """
    shape = shapes_of(net.graph, net.input_shape)[-1]
    if len(shape) != 1:
        raise ValueError(f"model must give logits (N, classes), gives {('N', *shape)}")
    if shape[0] < 2:
        raise ValueError("model must have at least two classes")
    for name, a in (*net.graph.named_parameters(), *net.graph.named_buffers()):
        if not a.isfinite().all():
            raise ValueError(f"{name} of the net in the file is not finite: a scale of model is too large for float32")


def why_no_radius(net: Traced, norm: str = "linf") -> str | None:
    """Returns why a traced net gets no certified radius in a norm, or None if it gets one.  In ℓ2 it gets none."""
    try:
        lipschitz = lipschitz_bound(net.graph, norm)
        if not 0 < lipschitz < math.inf:
            return f"the Lipschitz bound of model must be positive and finite, got {lipschitz}"
        radius_constants(net.graph, "float", net.input_shape)
    except (TypeError, ValueError) as error:
        return str(error)
    return None


@torch.no_grad()
def model_of_traced(net: Traced, settings: Settings) -> tuple[ModelProto, RadiusConstants | None]:
    """Returns the model without functions and metadata, and the constants of its radius.

    Its input is x; its outputs are logits and prediction, with a radius certified_radius, and with an interval bound
    certified, lower and upper.

    Raises:
        TypeError, ValueError: an operation has no rule, ``widths`` and ``radius_constants`` raise it, or the norm of
            the radius is not ℓ∞.
    """
    if settings.norm != "linf":
        raise ValueError(f"a traced net has no radius in the norm {settings.norm}")
    graph, shapes, g = net.graph, shapes_of(net.graph, net.input_shape), builder.Graph()
    x = pixels_of(g, net.input_shape, settings.pixels)
    values = [x]
    for i, (module, inputs, _) in enumerate(graph.nodes):
        values.append(nodes_of_operation(g, i, module, [values[j] for j in inputs], shapes[i + 1]))
    outputs, constants = logits_of(g, values[-1], shapes[-1]), None
    if settings.certified or settings.interval:
        check_certifiable(graph)
    if settings.certified:
        constants = radius_constants(graph, settings.pixels, net.input_shape)
        outputs.append(radius_of(g, x, constants))
    if settings.interval:
        outputs += _interval(g, net, x, shapes, settings.epsilon)
    return builder.model_of(g, [input_of(net.input_shape, settings.pixels)], outputs), constants


def _interval(g: builder.Graph, net: Traced, x: str, shapes: list[Shape], epsilon: float) -> list[Output]:
    """Adds the interval bound of the logits for an ε, and returns the outputs.  ``x``: the name of the pixels."""
    zero, one = g.constant("zero", 0.0), g.constant("one", 1.0)
    reach = g.constant("reach", above(epsilon + BOX_ROUNDING))
    ends = [Ends(g.same("Max", g.same("Sub", x, reach), zero), g.same("Min", g.same("Add", x, reach), one), True)]
    graph, wide = net.graph, widths(net.graph, net.input_shape)
    for i, (module, inputs, _) in enumerate(graph.nodes):
        ends.append(ends_of_operation(g, i, module, [ends[j] for j in inputs], shapes[i + 1], wide[i]))
    lower, upper = (g.called(end, name) for end, name in zip((ends[-1].lower, ends[-1].upper), ("lower", "upper")))
    label, last = predicted(g), len(graph.parts) - 1
    layer, (first, *_) = graph.parts[last], graph.inputs[last]
    if isinstance(layer, nn.Linear):
        above_others = _differences(g, last, layer, ends[first], label, wide[last])
    else:
        above_others = g.node("Greater", g.node("GatherElements", lower, label, axis=1), upper)
    verdict(g, x, above_others, label, shapes[-1])
    outputs = [("certified", TensorProto.BOOL, ())]
    return outputs + [(name, TensorProto.FLOAT, shapes[-1]) for name in (lower, upper)]


def _differences(g: builder.Graph, i: int, layer: nn.Linear, x: Ends, label: str, width: Width) -> str:
    """Adds nodes that tell whether the predicted logit of the last layer stays above each other one."""
    weight, bias = f"{i}.weight", () if layer.bias is None else (f"{i}.bias",)
    least = least_differences(g, weight, bias, (x.lower, x.upper))
    inputs = x.size(g), g.node("Abs", weight), *(g.node("Abs", b) for b in bias)
    size = g.node("Gemm", *inputs, shape=(layer.out_features,), alpha=1.0, beta=1.0, transA=0, transB=1)
    sizes = g.same("Add", size, g.node("GatherElements", size, label, axis=1))
    needed = margin_width(layer, width)
    times, added = g.constant(f"{i}.margin times", needed.times), g.constant(f"{i}.margin added", needed.added)
    return g.node("Greater", least, g.same("Add", g.same("Mul", sizes, times), added))
