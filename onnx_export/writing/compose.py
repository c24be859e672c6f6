"""A net with its certificates as an ONNX model: a function of the net and of some settings, and of nothing else."""

import math
from dataclasses import dataclass

import onnx
import torch
from onnx.inliner import inline_local_functions

from linf_plugin.float32.program import check_sequence
from linf_plugin.models.net import Net

from ..functions.domain import LINF
from ..functions.library import attach
from .certificate import check_certifiable, radius_constants
from .graph import graph_of
from .metadata import claimed
from .plain import verifier_model
from .record import describe

VERIFIER_FLAVOURS = ("maxpool", "relu")


@dataclass(frozen=True)
class Settings:
    """``epsilon``: of the metadata; of the interval bound too, where ``interval``."""

    flavour: str = "function"
    pixels: str = "float"
    certified: bool = True
    interval: bool = False
    epsilon: float | None = None


def check_net(model: Net) -> None:
    """That it is a float32 net that can be exported.  Raises as ``export`` says."""
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
    if not 0 < model.lipschitz < math.inf:
        raise ValueError(f"model.lipschitz must be positive and finite, got {model.lipschitz}")
    with torch.no_grad():
        device = next(model.parameters(), torch.zeros(())).device
        classes = model(torch.zeros(1, *model.input_shape, device=device)).shape[1]
    if classes < 2:
        raise ValueError("model must have at least two classes")


def compose(net: Net, settings: Settings) -> tuple[onnx.ModelProto, dict[str, str]]:
    """The model without metadata, and those metadata that a certificate rests on.

    Args:
        net: as ``check_net`` wants it and ``record.fold_means`` gives it.

    Raises:
        ValueError: as ``export``.
    """
    s = settings
    if s.flavour in VERIFIER_FLAVOURS:
        claims = claimed(None, flavour=s.flavour, pixels="float", constants=None, interval=False, epsilon=s.epsilon)
        return verifier_model(net, s.flavour), claims
    if s.certified:
        check_certifiable(net)
    constants = radius_constants(net, s.pixels) if s.certified else None
    model = attach(graph_of(net, s.pixels, constants, s.epsilon if s.interval else None))
    claims = claimed(
        net, flavour=s.flavour, pixels=s.pixels, constants=constants, interval=s.interval, epsilon=s.epsilon
    )
    return (_inlined(model) if s.flavour == "inlined" else model), claims


def _inlined(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with its functions inlined; weights, for which the inliner has no room beyond 2 GiB, are kept back."""
    weights = list(model.graph.initializer)
    model.graph.ClearField("initializer")
    model = inline_local_functions(model)
    model.graph.initializer.extend(weights)
    standard = [o for o in model.opset_import if o.domain != LINF.domain]
    model.ClearField("opset_import")
    model.opset_import.extend(standard)
    return model
