"""What is claimed of a net: bounds of margins, radii and rounding, for balls around the inputs of a case.

A claim is a number b ≤ z_y − z_j for every j ≠ y and every float32 input of a ball, z what float32 computes.
``margin_bound`` and ``certify`` claim their bound, whether positive or not.  A radius, of ``sound_radius`` or of an
ONNX file, claims that the label's logit is the largest: the difference of two float32 numbers is a multiple of 2⁻¹⁴⁹,
so b = 2⁻¹⁴⁹.  ``reach`` claims how far each logit is from the same net in float64, whose own rounding is 2²⁹ times
finer, and ``error_in_l2`` how far all of them together are, in ℓ2.
"""

import copy
import math
import random
from dataclasses import dataclass

import torch
from torch import Tensor

from linf_plugin import norms, sound_radius
from linf_plugin.certificates.cascade import certify, margin_bound
from linf_plugin.certificates.problem import Problem
from linf_plugin.certificates.table import CERTIFICATES, LIRPA_METHODS
from linf_plugin.float32 import euclid
from linf_plugin.float32 import reach as reading
from linf_plugin.layers.lipschitz import lipschitz_bound

from .ball import Box, at_most
from .cases import Case
from .families import FAMILIES
from .sphere import Sphere
from .tally import ROUNDING
from .ways import ways

RADIUS = {math.inf: "lipschitz", 2.0: "lipschitz-l2"}  # norm → the certificate that has radii
FILE, VERIFY = "file", "verify"  # the radius in an ONNX file, and what ``verify`` finds in the file
REACH_IN_L2, REACH = ROUNDING
BALLS = {math.inf: Box, 2.0: Sphere}
LEAST = 2.0**-149
SEARCH = 5  # bounds computed for a limit
PUBLIC = 0.1  # the share of claims about traced nets that come from ``margin_bound`` itself


def methods(norm: float) -> list[str]:
    """The certificates for balls of a norm."""
    return [RADIUS[norm], *(LIRPA_METHODS if norm == math.inf else ())]


@dataclass(frozen=True)
class Ball:
    """Around each input, what is claimed of it, and the points of the ball."""

    labels: Tensor  # (N,)
    claims: dict[str, Tensor]  # (N,) float64 each; −∞ claims nothing
    region: Box | Sphere

    @property
    def eps(self) -> Tensor:
        """(N,) float64."""
        return self.region.eps


class Subject:
    """A case with its float64 copy, and what is known of it."""

    def __init__(self, case: Case):
        self.case, self.norm = case, FAMILIES[case.family].norm
        program = reading.check_program(case.net, case.x)
        self.exact = copy.deepcopy(case.net).double() if program is None else program
        self.radius = RADIUS[self.norm]
        try:
            lipschitz_bound(self.exact, self.norm)
            self.has_radius = True
        except TypeError:  # no Lipschitz bound of a product of two values
            self.has_radius = False
        self.problem: Problem | None = None
        self.bounds = euclid.l2_bounds(self.exact) if self.norm == 2 else None
        self.hints = case.kinks if self.norm == math.inf else ways(self.exact, case.x)

    def bound(self, x: Tensor, labels: Tensor, eps: float, method: str, batch_size: int = 256) -> Tensor:
        """What ``margin_bound`` returns."""
        low, high = self.case.low, self.case.high
        return margin_bound(self.case.net, x, labels, eps, method, low=low, high=high, batch_size=batch_size)

    def certified_bound(self, x: Tensor, labels: Tensor, eps: float, method: str, batch_size: int = 256) -> Tensor:
        """The bounds of ``certify`` with one method: −∞ of samples that it does not bound."""
        pixels = {"low": self.case.low, "high": self.case.high}
        found = certify(self.case.net, x, labels, eps, [method], norm=self.norm, batch_size=batch_size, **pixels)
        return torch.where(found.certified, found.bound.clamp_min(LEAST), found.bound)

    def quick_bound(self, x: Tensor, labels: Tensor, eps: float, method: str, batch_size: int = 256) -> Tensor:
        """What ``margin_bound`` returns, by one problem for all ε, so that the net is read once, as in ``certify``."""
        ball = norms.Ball(eps, self.norm, self.case.low, self.case.high)
        if self.problem is None:
            some = torch.zeros(len(self.case.x), dtype=torch.long)  # each bound is given its own labels
            self.problem = Problem(self.case.net, self.case.x, some, ball, True)
        self.problem.ball = ball
        bound = CERTIFICATES[method].bound(self.problem)
        return torch.cat([bound(*part) for part in zip(x.split(batch_size), labels.split(batch_size))])

    def limit(self, x: Tensor, label: Tensor, method: str) -> float:
        """About the largest ε at which the method certifies the sample x (1, *)."""
        least, most = 0.0, self.case.high - self.case.low
        eps = sound_radius(self.case.net, x, label, norm=self.norm).item() if self.has_radius else most / 1000
        for _ in range(SEARCH):
            if not least < eps < most:
                eps = (least + most) / 2
            if self.quick_bound(x, label, eps, method).item() > 0:
                least, eps = eps, 2 * eps
            else:
                most, eps = eps, (least + eps) / 2
        return least

    def draw_eps(self, r: random.Random, labels: Tensor, source: str) -> float:
        """ε in the pixel range; "limit" is 0.3 to 4 times what some method certifies for some sample."""
        if source == "drawn":
            return min(r.choice((0.0, *(10 ** r.uniform(-6, 1) for _ in range(3)))), self.case.high - self.case.low)
        i = r.randrange(len(labels))
        if self.norm == math.inf:
            names = list(LIRPA_METHODS)[: None if self.case.family == "layers" else -1]  # the last one takes long
        else:
            names = [self.radius]
        method = names[int(len(names) * r.random())]  # what is drawn next depends on no method
        part = r.choice((0.3, 0.9, 0.999, 1.0, 1.05, 1.5, 4.0))
        limit = self.limit(self.case.x[i : i + 1], labels[i : i + 1], method)
        return min(part * limit, self.case.high - self.case.low)

    def within_radii(self, radii: Tensor, labels: Tensor, method: str) -> Ball:
        """The open balls of radii (N,), 0 where nothing is claimed."""
        eps = radii.double()
        claims = {method: torch.where(eps > 0, LEAST, -math.inf)}
        return Ball(labels, claims, BALLS[self.norm](self.case.x, eps, strict=True))

    @torch.no_grad()
    def ball(self, r: random.Random, source: str) -> Ball:
        """A ball around the inputs of the case, ε from ``source``, and what each method claims of it."""
        case, x = self.case, self.case.x
        logits = case.net(x.clone())
        predicted = logits.argmax(1)
        if source == "radius":
            given = r.choice(([], [predicted]))
            radii = sound_radius(case.net, x, *given, norm=self.norm, batch_size=r.choice((1, 4, 256)))
            return self.within_radii(radii, predicted, self.radius)
        labels = torch.where(torch.rand(len(x)) < 0.15, torch.randint_like(predicted, logits.shape[1]), predicted)
        eps = self.draw_eps(r, labels, source)
        claims = self._claims(r, labels, eps)
        eps = torch.full((len(x),), eps, dtype=torch.float64)
        return Ball(labels, claims, BALLS[self.norm](x, eps, case.low, case.high))

    def _claims(self, r: random.Random, labels: Tensor, eps: float) -> dict[str, Tensor]:
        """The bounds of all methods."""
        x = self.case.x
        if self.norm != math.inf:
            asked = r.choice((self.bound, self.certified_bound))
            return {self.radius: asked(x, labels, eps, self.radius, r.choice((1, 4, 256)))}
        layers = self.case.family == "layers"
        batch_size = r.choice((1, 4, 256) if layers else (1, 4, *[256] * 6))
        names = [*([self.radius] if self.has_radius and not layers else []), *LIRPA_METHODS]
        public = names if layers else [name for name in names if r.random() < PUBLIC]
        return {
            method: (self.bound if method in public else self.quick_bound)(x, labels, eps, method, batch_size)
            for method in names
        }

    def rounding(self, region: Box | Sphere) -> dict[str, Tensor]:
        """Bounds of the rounding of each logit, (N, classes), and in ℓ2 of all together, (N, 1)."""
        found = {REACH: reading.reach(self.exact, region.lower.double(), region.upper.double()).error}
        if self.norm == 2:
            error = euclid.error_in_l2(self.exact, self.bounds, region.x.double(), region.eps)
            found[REACH_IN_L2] = error.unsqueeze(1)
        return found


def moves(method: str, z: Tensor, exact: Tensor) -> Tensor:
    """How far float32 logits (M, N, classes) are from exact ones, in the shape of the bounds of ``rounding``."""
    d = z.double() - exact
    return d.abs() if method == REACH else torch.linalg.vector_norm(d, dim=-1, keepdim=True)


def broken(d: Tensor, error: Tensor, claim: Tensor) -> Tensor:
    """(M, N): whether a margin is below its claim (N,), exactly; −∞ claims nothing, and NaN is always wrong.

    d, error: (M, N, classes) of ``margins``.
    """
    b = claim.unsqueeze(-1)
    holds = at_most(-d, -error, -b)
    return (~holds & (b != -math.inf)).any(-1)
