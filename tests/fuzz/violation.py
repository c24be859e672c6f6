"""A violation as JSON, from which it can be repeated."""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from linf_plugin.state import constants, tensors

from .cases import Case
from .exported import Exported
from .families import FAMILIES
from .program import Program


class Claim(NamedTuple):
    """What is said to be broken: a margin below ``value``, or rounding beyond it; (N,) or (N, classes)."""

    method: str
    value: Tensor


def plain(value):
    """For JSON, which has no infinity: exact numbers, and text for what is not finite."""
    if isinstance(value, Tensor):
        return plain(value.tolist())
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def describe(
    case: Case, eps: Tensor, label: Tensor, claim: Claim, i: int, moved: Tensor, logits: Tensor, program
) -> dict:
    """Everything about a violation at a point ``moved`` of the ball around the input number i."""
    return plain(
        {
            "method": claim.method,
            "family": case.family,
            "kind": case.kind,
            "p": case.p,
            "weights": case.weights,
            "eps": eps,
            "low": case.low,
            "high": case.high,
            "label": label,
            "claim": claim.value[i],
            "logits": logits,
            "x": case.x[i],
            "moved": moved,
            "program": program.describe(),
            "source": case.source,
            "state": tensors(case.net),
        }
    )


def rebuild(violation: dict) -> nn.Module:
    """The net of a violation, from its JSON."""
    net = FAMILIES[violation["family"]].build(violation["source"])
    given = {name: torch.tensor(values) for name, values in violation["state"].items()}
    net.load_state_dict(constants(net) | given)  # the source says the constants
    return net


def program_of(violation: dict) -> Program | Exported:
    """How the net of a violation was run, from its JSON."""
    made = violation["program"]
    return Exported(**made) if "exporter" in made else Program(**made)
