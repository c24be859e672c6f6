"""One net after the other: certify, sample, attack, and compare exactly.

A claim is a number b ≤ z_y − z_j for every j ≠ y and every float32 input of a ball, z what float32 computes.
``margin_bound`` claims its bound, whether positive or not.  ``sound_radius`` claims that the label's logit is the
largest: the difference of two float32 numbers is a multiple of 2⁻¹⁴⁹, so b = 2⁻¹⁴⁹.  ``reach`` claims how far each
logit is from the same net in float64, whose own rounding is 2²⁹ times finer.
"""

import contextlib
import copy
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple
from unittest import mock

import torch
from torch import Tensor, nn

from linf_plugin import norms, sound_radius
from linf_plugin.certificates.cascade import margin_bound
from linf_plugin.certificates.problem import Problem
from linf_plugin.certificates.table import CERTIFICATES, LIRPA_METHODS
from linf_plugin.float32 import reach as reading
from linf_plugin.graphs import capture as captured
from linf_plugin.layers.lipschitz import lipschitz_bound
from linf_plugin.state import constants, tensors

from .ball import at_most, ends, sample
from .cases import Case
from .exported import Exported, draw_exported, onnx_file
from .families import FAMILIES
from .program import Program, attack, draw_program, margins

RADIUS = "lipschitz"
REACH = "reach"
LEAST = 2.0**-149
SAMPLES = 6  # inputs of a net, most
ROUNDS = ("radius", "drawn", "limit")  # where ε comes from
SEARCH = 5  # bounds computed for a limit
KEPT = 3  # violations described in full, of each method and batch of points
UNIT = 2.0**-24
UNLIKE = 1e-3  # a file whose logits differ from those of the net by more than this part computes another function
PUBLIC = 0.1  # the share of claims about traced nets that come from ``margin_bound`` itself
EXPORTED = 0.4  # the share of batches of points that onnxruntime computes, if it can


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


def _like(a: Tensor, x: Tensor) -> Tensor:
    """a (N,) in the shape that broadcasts over x (N, *)."""
    return a.view(-1, *[1] * (x.dim() - 1))


class Subject:
    """A case with its float64 copy, and what is known of it."""

    def __init__(self, case: Case):
        self.case = case
        program = reading.check_program(case.net, case.x)
        self.exact = copy.deepcopy(case.net).double() if program is None else program
        try:
            lipschitz_bound(self.exact, math.inf)
            self.has_radius = True
        except TypeError:  # no Lipschitz bound of a product of two values
            self.has_radius = False
        self.problem: Problem | None = None

    def bound(self, x: Tensor, labels: Tensor, eps: float, method: str, batch_size: int = 256) -> Tensor:
        """What ``margin_bound`` returns."""
        low, high = self.case.low, self.case.high
        return margin_bound(self.case.net, x, labels, eps, method, low=low, high=high, batch_size=batch_size)

    def quick_bound(self, x: Tensor, labels: Tensor, eps: float, method: str, batch_size: int = 256) -> Tensor:
        """The same by one problem for all ε, so that auto_LiRPA reads the net once, as in ``certify``."""
        ball = norms.Ball(eps, math.inf, self.case.low, self.case.high)
        if self.problem is None:
            some = torch.zeros(len(self.case.x), dtype=torch.long)  # each bound is given its own labels
            self.problem = Problem(self.case.net, self.case.x, some, ball, True)
        self.problem.ball = ball
        bound = CERTIFICATES[method].bound(self.problem)
        return torch.cat([bound(*part) for part in zip(x.split(batch_size), labels.split(batch_size))])

    def limit(self, x: Tensor, label: Tensor, method: str) -> float:
        """About the largest ε at which the method certifies the sample x (1, *)."""
        least, most = 0.0, self.case.high - self.case.low
        eps = sound_radius(self.case.net, x, label).item() if self.has_radius else most / 1000
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
        methods = list(LIRPA_METHODS)[: None if self.case.family == "layers" else -1]  # the last one takes long
        method = methods[int(len(methods) * r.random())]  # what is drawn next depends on no method
        part = r.choice((0.3, 0.9, 0.999, 1.0, 1.05, 1.5, 4.0))
        limit = self.limit(self.case.x[i : i + 1], labels[i : i + 1], method)
        return min(part * limit, self.case.high - self.case.low)

    @torch.no_grad()
    def ball(self, r: random.Random, source: str) -> Ball:
        """A ball around the inputs of the case, ε from ``source``, and what each method claims of it."""
        case, x = self.case, self.case.x
        logits = case.net(x.clone())
        predicted = logits.argmax(1)
        if source == "radius":
            radius = sound_radius(case.net, x, *r.choice(([], [predicted])), batch_size=r.choice((1, 4, 256)))
            eps = radius.double()
            held = torch.where(eps > 0, eps, math.inf)  # an empty ball has no ends
            lower, upper = ends(x, _like(held, x), strict=True)
            nothing = _like(eps == 0, x)
            claims = {RADIUS: torch.where(eps > 0, LEAST, -math.inf)}
            return Ball(eps, predicted, claims, torch.where(nothing, x, lower), torch.where(nothing, x, upper))
        labels = torch.where(torch.rand(len(x)) < 0.15, torch.randint_like(predicted, logits.shape[1]), predicted)
        eps = self.draw_eps(r, labels, source)
        batch_size = r.choice((1, 4, 256) if case.family == "layers" else (1, 4, *[256] * 6))
        names = [*([RADIUS] if self.has_radius and case.family != "layers" else []), *LIRPA_METHODS]
        public = names if case.family == "layers" else [name for name in names if r.random() < PUBLIC]
        claims = {
            method: (self.bound if method in public else self.quick_bound)(x, labels, eps, method, batch_size)
            for method in names
        }
        eps = torch.full((len(x),), eps, dtype=torch.float64)
        return Ball(eps, labels, claims, *ends(x, _like(eps, x), case.low, case.high))


def broken(d: Tensor, error: Tensor, claim: Tensor) -> Tensor:
    """(M, N): whether a margin is below its claim (N,), exactly; −∞ claims nothing, and NaN is always wrong.

    d, error: (M, N, classes) of ``margins``.
    """
    b = claim.unsqueeze(-1)
    holds = at_most(-d, -error, -b)
    return (~holds & (b != -math.inf)).any(-1)


class Tally:
    """Counts of a campaign, in groups: all nets of a family, a kind of net, a second way to group them."""

    def __init__(self):
        self.groups: dict[str, dict] = {}

    def _of(self, case: Case) -> list[dict]:
        return [self.groups.setdefault(name, {"methods": {}}) for name in ("all", case.kind, case.sort)]

    def add(self, case: Case, **amounts: int) -> None:
        for group in self._of(case):
            _increase(group, amounts)

    def add_method(self, case: Case, method: str, **amounts: int) -> None:
        for group in self._of(case):
            _increase(group["methods"].setdefault(method, {}), amounts)

    def approach(self, case: Case, method: str, units: float) -> None:
        """A margin was found that is so far above its claim, in units of float32; or an error is such a part of it."""
        for group in self._of(case):
            counts = group["methods"][method]
            if method == REACH:
                counts["nearest"] = max(counts.get("nearest", 0.0), units)
            else:
                counts["nearest"] = min(counts.get("nearest", math.inf), units)

    def join(self, other: dict[str, dict]) -> None:
        """Adds the groups of another tally."""
        for name, group in other.items():
            here = self.groups.setdefault(name, {"methods": {}})
            _increase(here, {key: amount for key, amount in group.items() if key != "methods"})
            for method, counts in group["methods"].items():
                mine = here["methods"].setdefault(method, {})
                nearest = [c["nearest"] for c in (mine, counts) if "nearest" in c]
                _increase(mine, {key: amount for key, amount in counts.items() if key != "nearest"})
                if nearest:
                    mine["nearest"] = (max if method == REACH else min)(nearest)


def _increase(counts: dict[str, int], amounts: dict[str, int]) -> None:
    for key, amount in amounts.items():
        counts[key] = counts.get(key, 0) + amount


def plain(value):
    """For JSON, which has no infinity: exact numbers, and text for what is not finite."""
    if isinstance(value, Tensor):
        return plain(value.tolist())
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


class Claim(NamedTuple):
    """What is said to be broken: a margin below ``least``, or a logit farther than ``most`` from its float64 value."""

    method: str
    value: Tensor


def _describe(case: Case, ball: Ball, claim: Claim, i: int, moved: Tensor, logits: Tensor, program) -> dict:
    """Everything about a violation."""
    return plain(
        {
            "method": claim.method,
            "family": case.family,
            "kind": case.kind,
            "p": case.p,
            "weights": case.weights,
            "eps": ball.eps[i],
            "low": case.low,
            "high": case.high,
            "label": ball.labels[i],
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


class Runs:
    """The ways in which a net is run: by PyTorch, and by onnxruntime if PyTorch can export it."""

    def __init__(self, subject: Subject, tally: Tally):
        self.subject, self.tally = subject, tally
        self.files: dict[str, bytes | None] = {}
        self.unlike: list[dict] = []

    def draw(self, r: random.Random) -> tuple[Program | Exported, object]:
        """A way to run the net, and the function that does so."""
        case = self.subject.case
        program, exported = draw_program(r), draw_exported(r)
        if case.family == "layers" or r.random() > EXPORTED:
            return program, lambda x: program.run(case.net, x)
        session = self.session(exported)
        if session is None:
            return program, lambda x: program.run(case.net, x)
        return exported, lambda x: exported.logits(session, x)

    def session(self, exported: Exported):
        """A session that computes the function of the net; None if there is none."""
        case = self.subject.case
        try:
            if exported.exporter not in self.files:
                self.files[exported.exporter] = None
                self.files[exported.exporter] = onnx_file(case.net, case.x, exported.exporter)
            if self.files[exported.exporter] is None:
                return None
            session = exported.session(self.files[exported.exporter])
            z = exported.logits(session, case.x)
        except Exception as error:  # exporters and onnxruntime raise errors of many types
            self.tally.add(case, unexported=1)
            self.unlike.append({"kind": case.kind, "why": f"{type(error).__name__}: {str(error).strip()[:200]}"})
            return None
        if not self._alike(z):
            self.files[exported.exporter] = None
            self.tally.add(case, unlike=1)
            self.unlike.append({"kind": case.kind, "why": "other", "program": exported.describe()})
            return None
        return session

    @torch.no_grad()
    def _alike(self, z: Tensor) -> bool:
        """Whether logits at x are those of the net, up to any rounding."""
        case = self.subject.case
        y, exact = case.net(case.x.clone()), self.subject.exact(case.x.double())
        if z.shape != y.shape:
            return False
        error = reading.reach(self.subject.exact, case.x.double(), case.x.double()).error
        near = (z - y).abs() <= UNLIKE * y.abs().amax(1, keepdim=True)
        return bool((near | ((z - exact).abs() <= error) | ~y.isfinite()).all())


@torch.no_grad()
def _check(
    subject: Subject, ball: Ball, errors: Tensor, points: Tensor, runs: Runs, r: random.Random, tally: Tally
) -> list[dict]:
    """Compares float32 margins at points (M, N, *), the first of them x, with the claims; returns what is wrong."""
    case = subject.case
    program, run = runs.draw(r)
    flat = points.flatten(0, 1)
    z = run(flat).unflatten(0, points.shape[:2])
    d, error = margins(z, ball.labels)
    least, size = d.amin(-1).amin(0), UNIT * z.double().abs().amax((0, 2)).clamp_min(LEAST)
    by_onnx = isinstance(program, Exported)
    tally.add(case, flipped=int(((least <= 0) & (d[0].amin(-1) > 0)).sum()), onnxruntime=by_onnx * len(flat))
    found = []
    for method, claim in ball.claims.items():
        wrong = broken(d, error, claim)
        tally.add_method(case, method, checks=wrong.numel(), violations=int(wrong.sum()))
        distance = (least - claim) / size
        for units in distance[distance.isfinite()].tolist():
            tally.approach(case, method, units)
        found += [(Claim(method, claim), *at) for at in wrong.nonzero()[:KEPT].tolist()]
    moved = (z.double() - subject.exact(flat.double()).unflatten(0, points.shape[:2])).abs()
    wrong = (~(moved <= errors) & (errors < math.inf)).any(-1)
    tally.add_method(case, REACH, checks=wrong.numel(), violations=int(wrong.sum()))
    parts = (moved / errors)[:, errors.isfinite()]
    if parts.numel() and not wrong.any():
        tally.approach(case, REACH, parts.max().item())
    found += [(Claim(REACH, errors), *at) for at in wrong.nonzero()[:KEPT].tolist()]
    return [_describe(case, ball, claim, i, points[k, i], z[k, i], program) for claim, k, i in found]


@contextlib.contextmanager
def _read_once() -> Iterator[None]:
    """The program of a net is read only once: the net does not change, and each certificate reads it."""
    read, known = captured.capture, {}

    def capture(model: nn.Module, x: Tensor):
        if id(model) not in known:
            known[id(model)] = model, read(model, x)
        return known[id(model)][1]

    with mock.patch.object(captured, "capture", capture):
        yield


def fuzz_net(family: str, seed: int, index: int, points: int, attacks: int, tally: Tally) -> list[dict]:
    """Fuzzes one net with at least so many points and starts of attacks; returns violations, and counts."""
    with _read_once():
        return _fuzz_net(family, seed, index, points, attacks, tally)


def _fuzz_net(family: str, seed: int, index: int, points: int, attacks: int, tally: Tally) -> list[dict]:
    case, r = FAMILIES[family].draw(seed, index, SAMPLES)
    subject, found, count = Subject(case), [], len(case.x)
    runs = Runs(subject, tally)
    rounds = ROUNDS if subject.has_radius else ("limit", *ROUNDS[1:])
    each, starts = (-(-amount // (len(rounds) * count)) for amount in (points, attacks))
    tally.add(case, nets=1)
    for source in rounds:
        ball = subject.ball(r, source)
        lower, upper = ball.lower.double(), ball.upper.double()
        errors = reading.reach(subject.exact, lower, upper).error
        for method, claim in ball.claims.items():
            tally.add_method(case, method, balls=count, certified=int((claim > 0).sum()))
        drawn = sample(case.x, ball.lower, ball.upper, case.kinks, each)
        visited = attack(case.net, case.x, ball.labels, ball.lower, ball.upper, starts)
        tally.add(case, balls=count, points=len(drawn) * count, attacks=starts * count)
        for part in (drawn, visited):
            found += _check(subject, ball, errors, torch.cat((case.x.unsqueeze(0), part)), runs, r, tally)
    return [{"seed": seed, "index": index, **violation} for violation in found]
