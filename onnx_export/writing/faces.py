"""What every certified model has: its pixels, its logits, the predicted class, the certified radius."""

from collections.abc import Iterable

import numpy as np
from onnx import ModelProto, TensorProto
from onnx.inliner import inline_local_functions

from ..functions.domain import LINF
from .builder import Graph
from .certificate import RadiusConstants
from .radius_l2 import PairConstants
from .settings import PIXELS

Output = tuple[str, int, tuple[int, ...]]  # name, type, shape of a sample


def pixels_of(g: Graph, shape: tuple[int, ...], kind: str) -> str:
    """Adds the input ``x``; returns the name of its pixels in [0, 1].

    Args:
        shape: of a sample.
        kind: a key of ``settings.PIXELS``.
    """
    g.shapes["x"] = shape
    if kind != "byte":
        return "x"
    floats = g.same("Cast", "x", to=TensorProto.FLOAT)
    return g.called(g.same("Div", floats, g.constant("levels", float(PIXELS[kind][1]))), "pixels")


def input_of(shape: tuple[int, ...], kind: str) -> Output:
    """The input ``x`` as ``builder.model_of`` takes it."""
    return "x", TensorProto.UINT8 if kind == "byte" else TensorProto.FLOAT, shape


def logits_of(g: Graph, value: str, shape: tuple[int, ...]) -> list[Output]:
    """Names a value the logits, adds the prediction, and returns both outputs."""
    logits = g.called(value, "logits")
    g.called(g.node("ArgMax", logits, axis=1, keepdims=0), "prediction")
    return [(logits, TensorProto.FLOAT, shape), ("prediction", TensorProto.INT64, ())]


def radius_of(g: Graph, x: str, constants: RadiusConstants | PairConstants) -> Output:
    """Adds the certified radius of the logits, and returns the output.  ``x``: the name of the pixels."""

    def numbers(names: Iterable[str]) -> list[str]:
        return [g.constant(name, np.array(getattr(constants, name), np.float64)) for name in names]

    if isinstance(constants, RadiusConstants):
        op, inputs = "CertifiedRadius", numbers(("lipschitz", "slack", "most"))
    else:
        (bounds,) = numbers(["pairs"])
        if len(constants.pairs) > 1:
            bounds = g.node("Gather", bounds, "prediction", axis=0)
        op, inputs = "PairwiseRadius", ["prediction", bounds, *numbers(("centre", "slack", "slope", "most"))]
    g.called(g.node(op, x, "logits", *inputs, domain=LINF.domain), "certified_radius")
    return "certified_radius", TensorProto.FLOAT, ()


def inlined(model: ModelProto) -> ModelProto:
    """The model with its functions inlined.  The inliner does not see the weights: it takes at most 2 GiB."""
    weights = list(model.graph.initializer)
    model.graph.ClearField("initializer")
    model = inline_local_functions(model)
    model.graph.initializer.extend(weights)
    standard = [o for o in model.opset_import if o.domain != LINF.domain]
    model.ClearField("opset_import")
    model.opset_import.extend(standard)
    return model
