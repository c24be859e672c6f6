"""One net after the other: certify, sample, attack, and compare exactly.

A claim is a number b ≤ z_y − z_j for every j ≠ y and every float32 input of a ball, z what float32 computes.
``margin_bound`` claims its bound, whether positive or not.  ``sound_radius`` claims that the label's logit is the
largest: the difference of two float32 numbers is a multiple of 2⁻¹⁴⁹, so b = 2⁻¹⁴⁹.
"""

import math
import random
from dataclasses import dataclass

import torch
from torch import Tensor

from linf_plugin import Net, sound_radius
from linf_plugin.certificates.cascade import margin_bound
from linf_plugin.certificates.table import LIRPA_METHODS
from linf_plugin.state import constants, tensors

from . import nets
from .ball import at_most, ends, sample
from .program import Program, attack, draw_program, margins

RADIUS = "lipschitz"
LEAST = 2.0**-149
SAMPLES = 6  # inputs of a net, most
ROUNDS = ("radius", "drawn", "limit")  # where ε comes from
SEARCH = 5  # bounds computed for a limit
KEPT = 3  # violations described in full, of each method and batch of points
UNIT = 2.0**-24


def methods() -> list[str]:
    return [RADIUS, *LIRPA_METHODS]


@dataclass(frozen=True)
class Ball:
    """Around each input, what is claimed of it, and the float32 numbers at its ends."""

    eps: Tensor  # (N,) float64
    labels: Tensor  # (N,)
    claims: dict[str, Tensor]  # (N,) float64 each; −∞ claims nothing
    lower: Tensor
    upper: Tensor


def _bound(case: nets.Case, x: Tensor, labels: Tensor, eps: float, method: str, batch_size: int = 256) -> Tensor:
    return margin_bound(case.net, x, labels, eps, method, low=case.low, high=case.high, batch_size=batch_size)


def _limit(case: nets.Case, x: Tensor, label: Tensor, method: str) -> float:
    """About the largest ε at which the method certifies the sample x (1, *)."""
    least, most = 0.0, case.high - case.low
    eps = sound_radius(case.net, x, label).item()
    for _ in range(SEARCH):
        if not least < eps < most:
            eps = (least + most) / 2
        if _bound(case, x, label, eps, method).item() > 0:
            least, eps = eps, 2 * eps
        else:
            most, eps = eps, (least + eps) / 2
    return least


def _draw_eps(case: nets.Case, r: random.Random, labels: Tensor, source: str) -> float:
    """ε in the pixel range; "limit" is 0.3 to 4 times what some method certifies for some sample."""
    if source == "drawn":
        return r.choice((0.0, *(10 ** r.uniform(-6, 1) for _ in range(3))))
    i = r.randrange(len(labels))
    method = list(LIRPA_METHODS)[int(len(LIRPA_METHODS) * r.random())]  # what is drawn next depends on no method
    return r.choice((0.3, 0.9, 0.999, 1.0, 1.05, 1.5, 4.0)) * _limit(case, case.x[i : i + 1], labels[i : i + 1], method)


@torch.no_grad()
def make_ball(case: nets.Case, r: random.Random, source: str) -> Ball:
    """A ball around the inputs of a case, ε from ``source``, and what each method claims of it."""
    x = case.x
    predicted = case.net(x).argmax(1)
    if source == "radius":
        radius = sound_radius(case.net, x, *r.choice(([], [predicted])), batch_size=r.choice((1, 4, 256)))
        eps = radius.double()
        held = torch.where(eps > 0, eps, math.inf)  # an empty ball has no ends
        lower, upper = ends(x, held.view(-1, 1, 1, 1), strict=True)
        nothing = (eps == 0).view(-1, 1, 1, 1)
        claims = {RADIUS: torch.where(eps > 0, LEAST, -math.inf)}
        return Ball(eps, predicted, claims, torch.where(nothing, x, lower), torch.where(nothing, x, upper))
    labels = torch.where(torch.rand(len(x)) < 0.15, torch.randint_like(predicted, case.net(x).shape[1]), predicted)
    eps = _draw_eps(case, r, labels, source)
    batch_size = r.choice((1, 4, 256))
    claims = {method: _bound(case, x, labels, eps, method, batch_size) for method in LIRPA_METHODS}
    return Ball(torch.full((len(x),), eps, dtype=torch.float64), labels, claims, *ends(x, eps, case.low, case.high))


def broken(d: Tensor, error: Tensor, claim: Tensor) -> Tensor:
    """(M, N): whether a margin is below its claim (N,), exactly; −∞ claims nothing, and NaN is always wrong.

    d, error: (M, N, classes) of ``margins``.
    """
    b = claim.unsqueeze(-1)
    holds = at_most(-d, -error, -b)
    return (~holds & (b != -math.inf)).any(-1)


class Tally:
    """Counts of a campaign, in groups: all nets, a kind of net, an exponent."""

    def __init__(self):
        self.groups: dict[str, dict] = {}

    def _of(self, case: nets.Case) -> list[dict]:
        names = ("all", case.kind, "no p" if case.p is None else f"p = {case.p:g}")
        return [self.groups.setdefault(name, {"methods": {}}) for name in names]

    def add(self, case: nets.Case, **amounts: int) -> None:
        for group in self._of(case):
            _increase(group, amounts)

    def add_method(self, case: nets.Case, method: str, **amounts: int) -> None:
        for group in self._of(case):
            _increase(group["methods"].setdefault(method, {}), amounts)

    def approach(self, case: nets.Case, method: str, units: float) -> None:
        """A margin was found that is so far above its claim, in units of float32."""
        for group in self._of(case):
            counts = group["methods"][method]
            counts["nearest"] = min(counts.get("nearest", math.inf), units)


def _increase(counts: dict[str, int], amounts: dict[str, int]) -> None:
    for key, amount in amounts.items():
        counts[key] = counts.get(key, 0) + amount


def _plain(value):
    """For JSON, which has no infinity: exact numbers, and text for what is not finite."""
    if isinstance(value, Tensor):
        return _plain(value.tolist())
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _describe(case, ball, method, i, moved, logits, program: Program) -> dict:
    """Everything about a violation."""
    return _plain(
        {
            "method": method,
            "kind": case.kind,
            "p": case.p,
            "weights": case.weights,
            "eps": ball.eps[i],
            "low": case.low,
            "high": case.high,
            "label": ball.labels[i],
            "claim": ball.claims[method][i],
            "logits": logits,
            "program": program.describe(),
            "x": case.x[i],
            "moved": moved,
            "spec": case.net.spec,
            "state": tensors(case.net),
        }
    )


def rebuild(violation: dict) -> Net:
    """The net of a violation, from its JSON."""
    spec = {
        **violation["spec"],
        "layers": [
            [name, {key: float(v) if key == "p" else v for key, v in arguments.items()}]
            for name, arguments in violation["spec"]["layers"]
        ],
    }
    net = Net(spec).eval().requires_grad_(False)
    given = {name: torch.tensor(values) for name, values in violation["state"].items()}
    net.load_state_dict(constants(net) | given)  # the spec says the constants
    return net


def _check(case: nets.Case, ball: Ball, points: Tensor, program: Program, tally: Tally) -> list[dict]:
    """Compares float32 margins at points (M, N, *), the first of them x, with the claims; returns what is wrong."""
    z = program.run(case.net, points.flatten(0, 1)).unflatten(0, points.shape[:2])
    d, error = margins(z, ball.labels)
    least, size = d.amin(-1).amin(0), UNIT * z.double().abs().amax((0, 2)).clamp_min(LEAST)
    tally.add(case, flipped=int(((least <= 0) & (d[0].amin(-1) > 0)).sum()))
    found = []
    for method, claim in ball.claims.items():
        wrong = broken(d, error, claim)
        tally.add_method(case, method, checks=wrong.numel(), violations=int(wrong.sum()))
        distance = (least - claim) / size
        for units in distance[distance.isfinite()].tolist():
            tally.approach(case, method, units)
        found += [
            _describe(case, ball, method, i, points[k, i], z[k, i], program) for k, i in wrong.nonzero()[:KEPT].tolist()
        ]
    return found


def fuzz_net(seed: int, index: int, points: int, attacks: int, tally: Tally) -> list[dict]:
    """Fuzzes one net with at least so many points and starts of attacks; returns violations, and counts."""
    case, r = nets.draw(seed, index, SAMPLES)
    kinks, found, count = nets.weight_images(case.net), [], len(case.x)
    each, starts = (-(-amount // (len(ROUNDS) * count)) for amount in (points, attacks))
    tally.add(case, nets=1)
    for source in ROUNDS:
        ball = make_ball(case, r, source)
        for method, claim in ball.claims.items():
            tally.add_method(case, method, balls=count, certified=int((claim > 0).sum()))
        drawn = sample(case.x, ball.lower, ball.upper, kinks, each)
        visited = attack(case.net, case.x, ball.labels, ball.lower, ball.upper, starts)
        tally.add(case, balls=count, points=len(drawn) * count, attacks=starts * count)
        for part in (drawn, visited):
            found += _check(case, ball, torch.cat((case.x.unsqueeze(0), part)), draw_program(r), tally)
    return [{"seed": seed, "index": index, **violation} for violation in found]
