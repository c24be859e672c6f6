"""A net with its certificates as an ONNX model.  The model depends only on the net and the settings."""

import math

import onnx
import torch
from onnx import TensorProto
from torch import nn

from linf_plugin.float32.program import check_sequence
from linf_plugin.layers.lipschitz import lipschitz_bound
from linf_plugin.models.net import Net

from ..functions.library import attach
from . import record
from .builder import Graph, model_of
from .certificate import CertifiedNet, check_certifiable, radius_constants
from .faces import inlined, input_of, logits_of, pixels_of, radius_of
from .graph import nodes_of_layer
from .interval_graph import certified
from .metadata import claimed
from .plain import verifier_model
from .radius_l2 import pair_constants
from .settings import FLAVOURS, Settings
from .traced import describe
from .traced.compose import Traced, model_of_traced


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
    record.describe(model)
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
        pixels: a key of ``settings.PIXELS``.
        constants: those of the radius (``certificate.RadiusConstants`` or ``radius_l2.PairConstants``); None: the model
            has no radius.
        epsilon: of the interval bound; None: the model has no interval bound.

    Raises:
        ValueError: the net does not give logits (N, classes), or ``certificate.CertifiedNet`` raises it.
        TypeError: a layer has no rule.
    """
    certified_net, shapes, g = CertifiedNet(net, epsilon), _shapes(net, net.input_shape), Graph()
    if not shapes or len(shapes[-1]) != 1:
        raise ValueError(f"model must give logits (N, classes), gives {('N', *(shapes or [net.input_shape])[-1])}")
    x = value = pixels_of(g, net.input_shape, pixels)
    for i, (layer, shape) in enumerate(zip(net, shapes)):
        value = nodes_of_layer(g, i, layer, value, shape)
    outputs = logits_of(g, value, shapes[-1])
    if constants is not None:
        outputs.append(radius_of(g, x, constants))
    if epsilon is not None:
        outputs.append((certified(g, certified_net, x, shapes), TensorProto.BOOL, ()))
    return model_of(g, [input_of(net.input_shape, pixels)], outputs)


def compose(net: Net | Traced, settings: Settings) -> tuple[onnx.ModelProto, dict[str, str]]:
    """The model without metadata, and the metadata that a certificate rests on.

    Args:
        net: one that ``check_net`` accepts, after ``record.fold_means``; or one that ``traced.compose.check`` accepts.

    Raises:
        TypeError, ValueError: as ``export``.
    """
    s = settings
    if isinstance(net, Traced):
        model, constants = model_of_traced(net, s)
        about = {"graph": describe.written(net.graph, net.input_shape)}
    elif FLAVOURS[s.flavour].for_verifiers:
        return verifier_model(net, s.flavour), claimed(s)
    else:
        if s.certified or s.interval:
            check_certifiable(net)
        constants = (radius_constants if s.norm == "linf" else pair_constants)(net, s.pixels) if s.certified else None
        model = graph_of(net, s.pixels, constants, s.epsilon if s.interval else None)
        about = {"net": record.written(net)}
    model = attach(model)
    return (inlined(model) if s.flavour == "inlined" else model), claimed(s, about, constants)
