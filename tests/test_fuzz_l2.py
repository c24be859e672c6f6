"""What the fuzzer does in ℓ2: its points lie in the balls exactly, and it finds certificates that are wrong."""

import math
from fractions import Fraction

import pytest
import torch
from fuzz import campaign, lipschitz_nets, program
from fuzz.claims import FILE, RADIUS, REACH_IN_L2, VERIFY, Subject
from fuzz.sphere import FAR, Sphere
from fuzz.tally import Tally
from fuzz.ways import ways
from torch import nn

from linf_plugin.certificates import lipschitz
from linf_plugin.float32 import euclid
from linf_plugin.layers.potential import PotentialLinear
from onnx_export.running import verify
from onnx_export.writing import radius_l2

L2 = RADIUS[2.0]
KINDS = list(lipschitz_nets.KINDS)


def _wrong(*indices):
    """The methods that are found to be wrong on a few nets."""
    return {v["method"] for i in indices for v in campaign.fuzz_net("l2", 1, i, points=600, attacks=20, tally=Tally())}


def test_lipschitz_bounds_of_half_the_size_are_found(monkeypatch):
    bounds = lipschitz.pair_bounds
    for module in (lipschitz, radius_l2):
        monkeypatch.setattr(module, "pair_bounds", lambda *a: bounds(*a) / 2)
    assert _wrong(37, 52) == {L2, FILE}


def test_a_radius_that_is_a_little_too_large_is_found(monkeypatch):
    radius = lipschitz.pairwise_radius
    monkeypatch.setattr(lipschitz, "pairwise_radius", lambda *a: 1.001 * radius(*a))
    assert _wrong(17, 53) == {L2}


def test_rounding_of_a_residual_layer_that_is_left_out_is_found(monkeypatch):
    nothing = {PotentialLinear: lambda layer, bound, at, within: torch.zeros_like(within)}
    monkeypatch.setattr(euclid, "RULES_IN_L2", euclid.RULES_IN_L2 | nothing)
    assert REACH_IN_L2 in _wrong(KINDS.index("potentials"))


def test_a_file_with_which_verify_does_not_agree_is_found(monkeypatch):
    allowed = verify._allowed_radii
    monkeypatch.setattr(verify, "_allowed_radii", lambda *a: 0.999 * allowed(*a))
    assert _wrong(37) == {VERIFY}


def _square(a, b):
    return sum((Fraction(v) - Fraction(w)) ** 2 for v, w in zip(a.flatten().tolist(), b.flatten().tolist()))


@pytest.mark.parametrize("strict", (False, True), ids=("closed", "open"))
def test_a_ball_holds_what_fractions_say(strict):
    """Also where the distance is the radius, or differs from it by less than float64 can tell."""
    x = torch.tensor([[0.0, 0.0, 1.0], [0.0, 0.5, 2.0**-30], [1.0, 1.0, 1.0], [0.3, 0.7, 0.1]])
    steps = torch.tensor([[3.0, 4.0, 0.0], [3.0, 4.0, 2.0**-70], [2.0**-60, 0.0, 0.0], [0.0, 0.0, 0.0]])
    moved = torch.cat([(x + s).unsqueeze(0) for s in steps])
    moved = torch.cat([moved, x + torch.randn(200, *x.shape)])
    for eps in (5.0, math.nextafter(5.0, 0.0), 0.0, 2.0**-60, 1.7):
        ball = Sphere(x, torch.full((len(x),), eps, dtype=torch.float64), strict=strict)
        held = ball.holds(moved)
        for k in range(len(moved)):
            for i in range(len(x)):
                square, most = _square(moved[k, i], x[i]), Fraction(eps) ** 2
                assert held[k, i] == (square < most if strict else square <= most)
    assert not ball.holds(torch.full((1, *x.shape), math.nan)).any()


@pytest.mark.parametrize(
    "eps, low, high", [(0.3, -math.inf, math.inf), (0.3, 0.0, 1.0), (3e-8, 0.0, 1.0), (2.0, 0.0, 1.0)]
)
def test_points_and_attacks_stay_in_the_ball_and_reach_its_sphere(eps, low, high):
    case, _ = lipschitz_nets.draw(1, KINDS.index("AOL conv"), campaign.SAMPLES)
    x = case.x.clamp(0.0, 1.0)
    x[0] = 0.0
    ball = Sphere(x, torch.full((len(x),), eps, dtype=torch.float64), low, high, strict=True)
    exact = Subject(case).exact
    points = ball.sample(ways(exact, x), 180)
    visited = program.attack(case.net, case.net(x).argmax(1), ball, 5)
    assert len(points) >= 180 and visited.shape[1:] == x.shape
    for a in (points, visited):
        squares = [_square(p, q) for sample in a[::9] for p, q in zip(sample, x)]
        assert max(squares) < Fraction(eps) ** 2 and low <= a.min() and a.max() <= high
        if eps < 2:
            assert math.sqrt(max(squares)) > 0.9999 * eps


def test_ways_lead_to_kinks_and_down_margins():
    case, _ = lipschitz_nets.draw(1, len(KINDS) + KINDS.index("MaxMin"), campaign.SAMPLES)
    exact, x = Subject(case).exact, case.x.double()
    first = next(i for i, layer in enumerate(exact) if isinstance(layer, nn.ReLU))
    found = ways(exact, case.x)
    far = torch.linalg.vector_norm(found.flatten(2), dim=2).amax(1) > FAR / 2
    kinks, slopes = found[~far], found[far]
    before = exact[:first](x)
    assert len(kinks) == min(8, before.shape[1]) and len(slopes) == exact(x).shape[1] - 1
    for step in kinks:
        assert (exact[:first](x + step).abs().amin(1) < 1e-9 * before.abs().amax(1)).all()
    order = exact(x).argsort(1, descending=True)
    for j, step in enumerate(slopes, 1):
        z, moved = (exact(x + s).gather(1, order) for s in (0.0, 1e-7 * step / FAR))
        assert (moved[:, 0] - moved[:, j] < z[:, 0] - z[:, j]).all()
