"""One net after the other: certify, sample, attack, and compare exactly."""

import contextlib
import math
import random
from collections.abc import Iterator
from unittest import mock

import torch
from torch import Tensor, nn

from linf_plugin.graphs import capture as captured

from .claims import FILE, LEAST, VERIFY, Ball, Subject, broken, moves
from .exported import Exported
from .families import FAMILIES
from .program import attack, margins
from .runs import Runs
from .tally import Tally
from .violation import Claim, describe

SAMPLES = 6  # inputs of a net, most
ROUNDS = {  # norm → where ε comes from
    math.inf: ("radius", "drawn", "limit"),
    2.0: ("radius", FILE, "drawn", "limit"),
}
KEPT = 3  # violations described in full, of each method and batch of points
UNIT = 2.0**-24


@torch.no_grad()
def _check(
    runs: Runs, ball: Ball, rounding: dict[str, Tensor], points: Tensor, r: random.Random, tally: Tally
) -> list[dict]:
    """Compares float32 margins at points (M, N, *), the first of them x, with the claims; returns what is wrong."""
    subject, case = runs.subject, runs.subject.case
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
    exact = subject.exact(flat.double()).unflatten(0, points.shape[:2])
    for method, errors in rounding.items():
        moved = moves(method, z, exact)
        wrong = (~(moved <= errors) & (errors < math.inf)).any(-1)
        tally.add_method(case, method, checks=wrong.numel(), violations=int(wrong.sum()))
        parts = (moved / errors)[:, errors.isfinite()]
        if parts.numel() and not wrong.any():
            tally.approach(case, method, parts.max().item())
        found += [(Claim(method, errors), *at) for at in wrong.nonzero()[:KEPT].tolist()]
    return [
        describe(case, ball.eps[i], ball.labels[i], claim, i, points[k, i], z[k, i], program) for claim, k, i in found
    ]


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


def _filed(runs: Runs, r: random.Random, tally: Tally) -> tuple[Ball, list[dict]] | None:
    """The balls of the radii in a file, and a violation if ``verify`` does not agree; None if there is no file."""
    case = runs.subject.case
    if not (case.low >= 0 and case.high <= 1) or (made := runs.filed(r)) is None:  # elsewhere a file has no radius
        return None
    exported, z, ball, failures = made
    tally.add_method(case, VERIFY, checks=1, violations=int(bool(failures)))
    if not failures:
        return ball, []
    claim = Claim(VERIFY, ball.eps)
    return ball, [describe(case, ball.eps[0], ball.labels[0], claim, 0, case.x[0], z[0], exported) | {"why": failures}]


def _fuzz_net(family: str, seed: int, index: int, points: int, attacks: int, tally: Tally) -> list[dict]:
    case, r = FAMILIES[family].draw(seed, index, SAMPLES)
    subject, found, count = Subject(case), [], len(case.x)
    runs, rounds = Runs(subject, tally), ROUNDS[subject.norm]
    if not subject.has_radius:
        rounds = ("limit", *rounds[1:])
    each, starts = (-(-amount // (len(rounds) * count)) for amount in (points, attacks))
    tally.add(case, nets=1)
    for source in rounds:
        ball = None
        if source == FILE and (filed := _filed(runs, r, tally)) is not None:
            ball, wrong = filed
            found += wrong
        ball = ball or subject.ball(r, "radius" if source == FILE else source)
        rounding = subject.rounding(ball.region)
        for method, claim in ball.claims.items():
            tally.add_method(case, method, balls=count, certified=int((claim > 0).sum()))
        drawn = ball.region.sample(subject.hints, each)
        visited = attack(case.net, ball.labels, ball.region, starts)
        tally.add(case, balls=count, points=len(drawn) * count, attacks=starts * count)
        for part in (drawn, visited):
            found += _check(runs, ball, rounding, torch.cat((case.x.unsqueeze(0), part)), r, tally)
    return [{"seed": seed, "index": index, **violation} for violation in found]
