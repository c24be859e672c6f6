"""The fuzzer on a few nets finds nothing wrong; where certificates are broken, it does."""

import json
import math
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from fuzz import __main__ as command
from fuzz import ball, campaign, nets, program, report

from linf_plugin import norms
from linf_plugin.certificates import lipschitz
from linf_plugin.certificates.table import LIRPA_METHODS
from linf_plugin.float32 import rules

FEW = len(nets.KINDS)  # each once
# 0.7.1 says so of a tanh head, whose bounds are the test's subject.
too_loose = pytest.mark.filterwarnings("ignore:Pre-activation bounds are too loose:UserWarning")


def _fuzz(*indices):
    """Violations of a few nets, and the methods that are wrong."""
    found = [v for i in indices for v in campaign.fuzz_net(1, i, points=600, attacks=20, tally=campaign.Tally())]
    return found, {v["method"] for v in found}


@pytest.fixture(scope="module")
def results():
    return command.run(seed=1, first=0, count=FEW, points=20_000, attacks=600, progress=False)


@too_loose
def test_no_certificate_is_broken(results):
    everything = results["groups"]["all"]
    assert results["violations"] == []
    assert everything["nets"] == FEW and everything["points"] >= 20_000 and everything["attacks"] >= 600
    assert set(results["groups"]) == {"all", "no p", *nets.KINDS, *(f"p = {p:g}" for p in nets.EXPONENTS)}


@too_loose
def test_each_method_certifies_a_good_share_and_comes_near_its_limit(results):
    everything = results["groups"]["all"]
    assert set(everything["methods"]) == set(campaign.methods())
    for method, counts in everything["methods"].items():
        assert 0.25 < counts["certified"] / counts["balls"] < 1, method
        assert 0 <= counts["nearest"] < 500, method  # units in the last place
    assert everything["flipped"] > 0  # beyond certificates attacks reach other classes


def test_rounding_that_is_left_out_is_found(monkeypatch):
    monkeypatch.setattr(rules, "UNIT", 0.0)
    assert _fuzz(16, 17)[1] == set(campaign.methods())


def test_a_box_that_is_too_small_is_found(monkeypatch):
    box = norms.box
    monkeypatch.setattr(norms, "box", lambda x, radius, *pixels: box(x, 0.98 * radius, *pixels))
    assert _fuzz(3, 24)[1] == set(LIRPA_METHODS)


def test_a_radius_that_is_too_large_is_found(monkeypatch):
    radius = lipschitz.certified_radius
    monkeypatch.setattr(lipschitz, "certified_radius", lambda *a, **k: 1.05 * radius(*a, **k))
    assert _fuzz(28)[1] == {campaign.RADIUS}


def test_a_violation_holds_all_that_repeats_it(monkeypatch):
    """From the JSON alone: the net, its logits where it was wrong, and the claim about them."""
    monkeypatch.setattr(rules, "UNIT", 0.0)
    found, _ = _fuzz(14)
    violation = json.loads(json.dumps(found[0], allow_nan=False))
    case, _ = nets.draw(violation["seed"], violation["index"], campaign.SAMPLES)
    net = campaign.rebuild(violation)
    assert all(torch.equal(a, b) for a, b in zip(net.state_dict().values(), case.net.state_dict().values()))
    assert net.spec == case.net.spec
    x, moved = (torch.tensor(violation[key]) for key in ("x", "moved"))
    assert any(torch.equal(x, a) for a in case.x)
    eps = float(violation["eps"])
    assert max(abs(Fraction(a) - Fraction(b)) for a, b in zip(x.flatten().tolist(), moved.flatten().tolist())) <= eps
    z = program.Program(**violation["program"]).run(net, moved.unsqueeze(0))
    torch.testing.assert_close(z[0], torch.tensor(violation["logits"]), rtol=1e-4, atol=0)
    z = [Fraction(v) for v in violation["logits"]]
    y = violation["label"]
    assert min(z[y] - v for j, v in enumerate(z) if j != y) < Fraction(violation["claim"])


@pytest.mark.parametrize("strict", (False, True), ids=("closed", "open"))
def test_the_ends_of_a_ball_are_its_last_float32_numbers(strict):
    x = torch.randn(400) * 10.0 ** torch.randint(-8, 5, (400,))
    x[:40] = torch.rand(40) / 4
    eps = 10.0 ** torch.randint(-10, 2, (400,)).double() * torch.rand(400, dtype=torch.float64)
    eps[::2] = eps[::2].float().double()  # many sums are float32 numbers: there open and closed balls differ
    eps[:40] = 0.25
    lower, upper = ball.ends(x, eps, strict=strict)
    beyond = (torch.nextafter(end, torch.full_like(end, s * math.inf)) for end, s in ((lower, -1), (upper, 1)))

    def within(moved):
        distances = (abs(Fraction(a) - Fraction(b)) for a, b in zip(moved.tolist(), x.tolist()))
        return [d < e if strict else d <= e for d, e in zip(distances, map(Fraction, eps.tolist()))]

    assert all(within(lower)) and all(within(upper))
    assert not any(any(within(end)) for end in beyond)
    assert ball.inside(x, lower, eps, strict=strict).all()


def test_points_and_attacks_stay_in_the_ball():
    case, _ = nets.draw(1, 24, campaign.SAMPLES)
    x, eps = case.x, 0.3 * (case.high - case.low)
    lower, upper = ball.ends(x, eps, case.low, case.high)
    labels = case.net(x).argmax(1)
    points = ball.sample(x, lower, upper, nets.weight_images(case.net), 100)
    visited = program.attack(case.net, x, labels, lower, upper, 5)
    assert len(points) >= 100 and visited.shape[1:] == x.shape
    for a in (points, visited):
        assert ball.inside(x, a, eps, case.low, case.high).all()
        assert (a.amin(0) < x).any() and (a.amax(0) > x).any()


def test_claims_are_compared_exactly():
    """Logits that differ by less than float64 can tell from the claim."""
    z = torch.tensor([[[1.0, 2.0**-60, -1.0]]])
    d, error = program.margins(z, torch.tensor([0]))
    assert d[0, 0].tolist() == [math.inf, 1.0, 2.0] and error[0, 0].tolist() == [0.0, -(2.0**-60), 0.0]
    claims = [1.0, 1 - 2.0**-53, math.nan, -math.inf]
    wrong = [campaign.broken(d, error, torch.tensor([c], dtype=torch.float64)).item() for c in claims]
    assert wrong == [True, False, True, False]
    tie = program.margins(torch.tensor([[[1.0, 1.0]]]), torch.tensor([0]))
    assert campaign.broken(*tie, torch.tensor([campaign.LEAST], dtype=torch.float64)).item()
    undefined = program.margins(torch.tensor([[[math.nan, 1.0]]]), torch.tensor([0]))
    assert campaign.broken(*undefined, torch.tensor([-1.0], dtype=torch.float64)).item()


def test_the_command_writes_counts_and_a_table(tmp_path, capsys, monkeypatch):
    out = tmp_path / "made" / "fuzz.json"
    small = ["--nets", "1", "--points", "60", "--attacks", "3", "--seed", "1", "--quiet", "--out", str(out)]
    assert command.main([*small, "--first", "11"]) == 0
    results = json.loads(out.read_text())
    assert results["violations"] == [] and results["groups"]["all"]["nets"] == 1
    assert out.with_suffix(".md").read_text() == report.table(results)
    assert "No margin is below" in capsys.readouterr().out
    monkeypatch.setattr(rules, "UNIT", 0.0)
    assert command.main([*small, "--first", "16", "--points", "600", "--attacks", "20", "--force"]) == 1
    assert json.loads(out.read_text())["violations"] and "below a claim" in capsys.readouterr().out
    assert command.main(["--nets", "0"]) == 2


def test_the_committed_table_is_that_of_its_results():
    folder = Path(__file__).parents[1] / "docs" / "results" / "fuzz"
    results = json.loads((folder / "fuzz.json").read_text())
    everything = results["groups"]["all"]
    assert (folder / "table.md").read_text() == report.table(results) and results["violations"] == []
    assert everything["nets"] >= 200 and everything["points"] >= 10**6 and everything["attacks"] >= 10**4
