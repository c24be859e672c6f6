"""A net with its certificates as an ONNX model.  The model depends only on the net and the settings."""

import math

import numpy as np
import onnx
import torch
from onnx import TensorProto
from onnx.inliner import inline_local_functions
from torch import nn

from linf_plugin.float32.program import check_sequence
from linf_plugin.layers.lipschitz import lipschitz_bound
from linf_plugin.models.net import Net

from ..functions.domain import LINF
from ..functions.library import attach
from .builder import Graph, model_of
from .certificate import PIXELS, CertifiedNet, check_certifiable, radius_constants
from .graph import nodes_of_layer
from .interval_graph import certified
from .metadata import claimed
from .plain import verifier_model
from .record import describe
from .settings import FLAVOURS, Settings


def check_net(model: Net) -> None:
    """Checks that a model is a float32 net that can be exported.  Raises as ``export``."""
    if not isinstance(model, Net):
        raise TypeError(f"model must be a linf_plugin.Net, got {type(model).__name__}")
    if any(m.training for m in model.modules()):
        raise ValueError("model is in training mode: call model.eval() first")
    for name, a in (*model.named_parameters(), *model.named_buffers()):
        if a.dtype != torch.float32:
            raise ValueError(f"{name} of model must be float32, got {a.dtype}")
        if not a.isfinite().all():
            raise ValueError(f"{name} of model contains NaN or infinite values")
    check_sequence(model)
    describe(model)
    lipschitz = lipschitz_bound(model, math.inf)
    if not 0 < lipschitz < math.inf:
        raise ValueError(f"the Lipschitz bound of model must be positive and finite, got {lipschitz}")
    with torch.no_grad():
        device = next(model.parameters(), torch.zeros(())).device
        classes = model(torch.zeros(1, *model.input_shape, device=device)).shape[1]
    if classes < 2:
        raise ValueError("model must have at least two classes")


def _shapes(net: nn.Sequential, shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    """The shape of the output of each layer, without the batch."""
    x, found = torch.zeros(1, *shape), []
    for layer in net:
        x = layer(x)
        found.append(tuple(x.shape[1:]))
    return found


@torch.no_grad()
def graph_of(net: Net, pixels: str, constants=None, epsilon: float | None = None) -> onnx.ModelProto:
    """The model without functions and metadata.

    Its input is x; its outputs are logits and prediction, and certified_radius and certified where they are asked for.

    Args:
        net: on the CPU, in evaluation mode; its layers have rules in ``graph.NODES``.
        pixels: a key of ``certificate.PIXELS``.
        constants: those of the radius (``certificate.RadiusConstants``); None: the model has no radius.
        epsilon: of the interval bound; None: the model has no interval bound.

    Raises:
        ValueError: the net does not give logits (N, classes), or ``certificate.CertifiedNet`` raises it.
        TypeError: a layer has no rule.
    """
    certified_net, shapes, g = CertifiedNet(net, epsilon), _shapes(net, net.input_shape), Graph()
    if not shapes or len(shapes[-1]) != 1:
        raise ValueError(f"model must give logits (N, classes), gives {('N', *(shapes or [net.input_shape])[-1])}")
    x = "x"
    g.shapes[x] = net.input_shape
    if pixels == "byte":
        floats = g.same("Cast", x, to=TensorProto.FLOAT)
        x = g.called(g.same("Div", floats, g.constant("levels", float(PIXELS[pixels][1]))), "pixels")
    value = x
    for i, (layer, shape) in enumerate(zip(net, shapes)):
        value = nodes_of_layer(g, i, layer, value, shape)
    logits = g.called(value, "logits")
    g.called(g.node("ArgMax", logits, axis=1, keepdims=0), "prediction")
    outputs = [(logits, TensorProto.FLOAT, shapes[-1]), ("prediction", TensorProto.INT64, ())]
    if constants is not None:
        names = ("lipschitz", "slack", "most")
        numbers = [g.constant(name, np.array(getattr(constants, name), np.float64)) for name in names]
        g.called(g.node("CertifiedRadius", x, logits, *numbers, domain=LINF.domain), "certified_radius")
        outputs.append(("certified_radius", TensorProto.FLOAT, ()))
    if epsilon is not None:
        outputs.append((certified(g, certified_net, x, shapes), TensorProto.BOOL, ()))
    kind = TensorProto.UINT8 if pixels == "byte" else TensorProto.FLOAT
    return model_of(g, [("x", kind, net.input_shape)], outputs)


def compose(net: Net, settings: Settings) -> tuple[onnx.ModelProto, dict[str, str]]:
    """The model without metadata, and the metadata that a certificate rests on.

    Args:
        net: one that ``check_net`` accepts, after ``record.fold_means``.

    Raises:
        ValueError: as ``export``.
    """
    s = settings
    if FLAVOURS[s.flavour].for_verifiers:
        return verifier_model(net, s.flavour), claimed(s)
    if s.certified:
        check_certifiable(net)
    constants = radius_constants(net, s.pixels) if s.certified else None
    model = attach(graph_of(net, s.pixels, constants, s.epsilon if s.interval else None))
    return (_inlined(model) if s.flavour == "inlined" else model), claimed(s, net, constants)


def _inlined(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with its functions inlined.  The inliner does not see the weights: it takes at most 2 GiB."""
    weights = list(model.graph.initializer)
    model.graph.ClearField("initializer")
    model = inline_local_functions(model)
    model.graph.initializer.extend(weights)
    standard = [o for o in model.opset_import if o.domain != LINF.domain]
    model.ClearField("opset_import")
    model.opset_import.extend(standard)
    return model
