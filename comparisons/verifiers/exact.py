"""The exact radius by branch and bound, as a complete verifier for small nets."""

import numpy as np
import torch
from torch import Tensor, nn

from linf_plugin.arguments import check_model
from linf_plugin.certificates.exact.radius import ExactRadius
from linf_plugin.certificates.exact.steps import STEPS
from linf_plugin.float32.program import check_sequence
from linf_plugin.layers.lipschitz import flat_layers
from linf_plugin.refusal import rule_of
from onnx_export.verifiers import query_exact
from onnx_export.verifiers.child import Child, Ended

from .question import Answer, Asked, refused
from .verdict import FALSIFIED, UNKNOWN, VERIFIED

PROGRAM = query_exact.__file__
READING = 60.0  # seconds to write a net as steps


def installed() -> None:
    """Is always there."""


def prepared(model: nn.Module, x: Tensor, child: Child) -> nn.Sequential:
    """Returns the layers.  Raises TypeError or RuntimeError if the model cannot be written as exact steps."""
    check_model(model)
    check_sequence(model)
    layers = flat_layers(model)
    for layer in layers:
        rule_of(STEPS, layer, "encoding as exact steps")
    # The layers alone are sent: their classes are known in the other process.
    plain = nn.Sequential(*layers).eval()
    try:
        child.ask({"model": plain, "x": x[0]}, READING)
    except Ended as ended:
        raise refused(ended) from ended
    return plain


def question(layers: nn.Sequential, asked: Asked) -> dict:
    x, ball = asked.x[0], asked.ball
    reach = 2 * (float(abs(x).max()) + ball.eps + 1)  # exact_radius needs a finite range, and this holds the ball
    return {
        "model": layers,
        "x": x,
        "label": asked.label,
        "low": max(ball.low, -reach),
        "high": min(ball.high, reach),
        "time_limit": asked.seconds,
        "decide": ball.eps,
    }


def answer(found: ExactRadius, asked: Asked) -> Answer:
    eps = asked.ball.eps
    if found.lower > eps:
        return Answer(VERIFIED)
    if found.upper <= eps:
        return Answer(FALSIFIED, _flat(found.adversarial))
    if found.status == "time limit":
        return Answer(UNKNOWN, reason="time")
    return Answer(UNKNOWN, reason="undecided", detail=f"radius in [{found.lower:.6g}, {found.upper:.6g}]")


def _flat(point: Tensor) -> np.ndarray:
    return point.detach().to("cpu", torch.float64).numpy().ravel()
