"""Complete verifiers against what is known, at their limits, and where they fail."""

import copy
import json
import math

import numpy as np
import pytest
import torch
from torch import nn

import linf_plugin
from comparisons.verifiers import complete, marabou, verify
from comparisons.verifiers.verify import verify as ask
from linf_plugin.certificates import exact_radius
from linf_plugin.norms import Ball

pytestmark = pytest.mark.usefixtures("few_alpha_steps")

RANGE = {"low": 0.0, "high": 1.0}
GRID = torch.cartesian_prod(*[torch.linspace(-1, 1, 401, dtype=torch.float64)] * 2)


@pytest.fixture(scope="module")
def relu():
    """A ReLU net of two inputs, samples, and an ε with which some are robust: (net, x, labels, ε)."""
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(2, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)).eval()
    with torch.no_grad():
        net[0].weight.mul_(3)
        net[0].bias.sub_(net[0](torch.full((1, 2), 0.5))[0] + 0.3 * torch.randn(6))
        net[4].bias.sub_(net(torch.rand(1000, 2)).mean(0))  # no class has it all
    x = torch.rand(7, 2)
    return net, x, net(x).argmax(1), 0.12


@torch.no_grad()
def known(net, x, label, eps) -> bool | None:
    """Whether the class is the same in the ball, by a grid and a bound of the slope; None if the grid cannot tell."""
    points = (x.double() + eps * GRID).clamp(0, 1)
    logits = copy.deepcopy(net).double()(points)
    margins = logits[:, label] - logits.scatter(1, torch.full((len(logits), 1), label), -math.inf).amax(1)
    slope = 2 * math.prod(float(layer.weight.abs().sum(1).max()) for layer in net if isinstance(layer, nn.Linear))
    if margins.min() < 0:
        return False
    return True if margins.min() > slope * eps / 400 else None


@pytest.mark.parametrize("name", ["exact", "marabou"])
def test_a_small_relu_net_by_a_grid(relu, name):
    net, x, labels, eps = relu
    truth = [known(net, x[i], int(labels[i]), eps) for i in range(len(x))]
    assert truth.count(True) >= 2 and truth.count(False) >= 2
    found = ask([name], net, x, labels, Ball(eps, **RANGE), progress=False)
    assert not found.unknown.any()
    for i, robust in enumerate(truth):
        if robust is not None:
            assert bool(found.verified[i]) == robust == (not found.falsified[i]), i
    for i in found.falsified.nonzero().squeeze(1).tolist():
        point = found.last[i].point
        assert int(net(point[None]).argmax()) != labels[i] and ((0 <= point) & (point <= 1)).all()
        assert float((point.double() - x[i].double()).abs().max()) <= eps


@pytest.fixture(scope="module")
def distances():
    torch.manual_seed(0)
    net = linf_plugin.build("linf-mlp", shape=(1, 2, 2), classes=3, width=4, depth=2, mean=(0.4,), std=0.5).eval()
    x = torch.rand(3, 1, 2, 2)
    return net, x, net(x).argmax(1)


def test_distance_nets_by_their_exact_radius(distances):
    net, x, labels = distances
    radii = [exact_radius(net, each) for each in x]
    inside = Ball(0.98 * min(radius.lower for radius in radii), **RANGE)
    beyond = Ball(1.02 * max(radius.upper for radius in radii), **RANGE)
    assert ask(["marabou"], net, x, labels, inside, progress=False).verified.all()
    assert ask(["marabou"], net, x, labels, beyond, progress=False).falsified.all()
    middle = sorted(radius.upper for radius in radii)[1]
    found = ask(["exact"], net, x, labels, Ball(1.01 * middle, **RANGE), progress=False)
    assert found.falsified.tolist() == [radius.upper <= middle for radius in radii]
    assert found.verified.tolist() == [radius.lower > middle for radius in radii]


def test_a_point_that_float32_does_not_confirm_is_unknown():
    """Class 1 is above class 0 where x > 0.5, by less than float32 can tell."""
    net = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 2)).eval()
    with torch.no_grad():
        net[0].weight.fill_(1)
        net[0].bias.fill_(-0.5)
        net[1].weight.copy_(torch.tensor([[0.0], [2.0**-30]]))
        net[1].bias.fill_(1)
    found = ask(["exact"], net, torch.tensor([[0.375]]), torch.tensor([0]), Ball(0.25, **RANGE), progress=False)
    verdict = found.last[0]
    assert (verdict.status, verdict.reason, verdict.point) == ("unknown", "unconfirmed", None)
    assert found.unknown.tolist() == [True] and "float32 does not confirm the point: 1" in found.summary()


def test_each_verifier_is_asked_about_what_is_left(numbered, scripted):
    net, x, labels = numbered
    scripted.words = ["unsat", "unknown", "sat", "timeout", "sleep", "take", "abort", "unsat"]
    scripted.point = [0.7]
    labels[7] = 1  # misclassified
    undecided = torch.ones(8, dtype=torch.bool)
    undecided[0] = False
    found = ask(["scripted", "exact"], net, x, labels, Ball(0.6), undecided, time_limit=0.3, progress=False)
    first = {row: (v.status, v.reason) for row, v in found.verdicts["scripted"].items()}
    assert first == {
        1: ("unknown", "undecided"),
        2: ("falsified", ""),
        3: ("unknown", "time"),
        4: ("unknown", "time"),
        5: ("unknown", "memory"),
        6: ("unknown", "crash"),
    }
    assert (
        float(found.last[2].point) <= 0.02 + 0.6
        and found.last[2].seconds < 0.5 <= found.verdicts["scripted"][4].seconds
    )
    assert list(found.verdicts["exact"]) == [1, 3, 4, 5, 6]
    assert found.falsified.tolist() == [False] + [True] * 6 + [False]
    assert not found.verified.any() and not found.unknown.any()
    assert found.contradictions(torch.tensor([True] * 4 + [False] * 4)) == [1, 2, 3]
    assert "SIGABRT" in found.verdicts["scripted"][6].detail


def test_an_interrupted_verification_goes_on_with_the_next_sample(numbered, scripted, tmp_path, monkeypatch):
    net, x, labels = numbered
    scripted.words, scripted.point, kept = ["sat", "unsat", "unknown"] + ["unsat"] * 5, [0.55], tmp_path / "kept.jsonl"
    options = {"kept": kept, "progress": False}
    real = verify._verdict

    def interrupted(row, model, x, question, *rest):
        if question.x > 0.025:
            raise KeyboardInterrupt
        return real(row, model, x, question, *rest)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(verify, "_verdict", interrupted)
        ask(["scripted"], net, x, labels, Ball(0.6), **options)
    assert scripted.asked() == [0, 1, 2] and len(kept.read_text().splitlines()) == 4
    with open(kept, "a") as f:
        f.write('{"verifier": "scripted", "row": 3, "sta')  # as a kill leaves it
    found = ask(["scripted"], net, x, labels, Ball(0.6), **options)
    assert scripted.asked() == list(range(8))
    whole = ask(["scripted"], net, x, labels, Ball(0.6), progress=False)
    for row, verdict in whole.last.items():
        again = found.last[row]
        assert (again.status, again.reason, again.detail) == (verdict.status, verdict.reason, verdict.detail)
    assert torch.equal(found.last[0].point, whole.last[0].point)
    count = len(scripted.asked())
    ask(["scripted"], net, x, labels, Ball(0.6), **options)
    assert len(scripted.asked()) == count
    ask(["scripted"], net, x, labels, Ball(0.5), **options)  # another request
    assert len(scripted.asked()) == count + 8 and len(kept.read_text().splitlines()) == 9
    assert all(json.loads(line) for line in kept.read_text().splitlines())


def test_what_a_verifier_does_not_take_is_named(numbered, distances, scripted):
    net, x, labels = numbered
    scripted.refuses, scripted.words = "it is too round", ["unsat"] * 8
    with pytest.raises(TypeError, match="^scripted one does not take this model: it is too round$"):
        ask(["scripted"], net, x, labels, Ball(0.1))
    found = ask(["scripted", "exact"], net, x, labels, Ball(0.1), strict=False, progress=False)
    assert found.refused == {"scripted": "scripted one does not take this model: it is too round"}
    assert found.verified.all() and "it is too round" in found.summary()
    smooth = nn.Sequential(nn.Linear(1, 2), nn.Tanh()).eval()
    right = smooth(x).argmax(1)
    with pytest.raises(TypeError, match="exact radius does not take this model: .* for Tanh: it is not piecewise"):
        ask(["exact"], smooth, x, right, Ball(0.1))
    reflected = nn.Sequential(
        nn.Conv2d(1, 1, 2, padding=1, padding_mode="reflect"), nn.Flatten(), nn.Linear(9, 3)
    ).eval()
    at = distances[1], reflected(distances[1]).argmax(1)
    with pytest.raises(TypeError, match=r"exact radius does not take this model: .*padding_mode='zeros'"):
        ask(["exact"], reflected, *at, Ball(0.1))
    with pytest.raises(TypeError, match="Marabou does not take this model: NotImplementedError: Operation Pad"):
        ask(["marabou"], reflected, *at, Ball(0.1))


def test_a_file_that_marabou_reads_as_another_function_is_refused(distances, monkeypatch):
    net, x, labels = distances
    real = marabou.readable_model
    torch.manual_seed(1)
    other = linf_plugin.build("linf-mlp", shape=(1, 2, 2), classes=3, width=4, depth=2, mean=(0.4,), std=0.5).eval()
    monkeypatch.setattr(marabou, "readable_model", lambda model, x, flavour: real(other, x, flavour))
    with pytest.raises(TypeError, match="Marabou reads another function from the file"):
        ask(["marabou"], net, x, labels, Ball(0.1, **RANGE))


def test_a_net_with_a_forward_of_its_own():
    """It adds what it skips, and normalises."""

    class Skip(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.norm, self.last = nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Linear(2, 2)

        def forward(self, x):
            return self.last(torch.relu(self.norm(self.first(x))) + x)

    net, x = Skip().eval(), torch.rand(1, 2)
    labels, point = net(x).argmax(1), x[0]
    robust = known_by_sampling(net, point, int(labels[0]), 0.3)
    found = ask(["marabou"], net, x, labels, Ball(0.3, **RANGE), progress=False)
    assert found.verified.tolist() == [robust] and found.falsified.tolist() == [not robust]


@torch.no_grad()
def known_by_sampling(net, x, label, eps) -> bool:
    points = (x + eps * GRID.float()).clamp(0, 1)
    return bool((net(points).argmax(1) == label).all())


def test_nothing_to_ask(numbered, scripted):
    net, x, labels = numbered
    for rows in (x[:0], x):
        none = torch.zeros(len(rows), dtype=torch.bool)
        found = ask(["scripted"], net, rows, labels[: len(rows)], Ball(0.1), none)
        assert found.last == {} and not found.unknown.any() and scripted.asked() == []


def test_wrong_requests(numbered, monkeypatch):
    net, x, labels = numbered
    ball = Ball(0.1)
    for names, match in ((["exact", "z3"], "names must be among exact, marabou, abcrown"), ([7], "got 7")):
        with pytest.raises(ValueError, match=match):
            ask(names, net, x, labels, ball)
    with pytest.raises(ValueError, match="take ℓ∞ balls, and norm is ℓ2"):
        ask(["exact"], net, x, labels, Ball(0.1, 2.0))
    with pytest.raises(TypeError, match="x is torch.float64: points are confirmed in float32"):
        ask(["exact"], net.double(), x.double(), labels, ball)
    net.float()
    for limit in (0, -1, math.inf, math.nan):
        with pytest.raises(ValueError, match="time_limit must be positive and finite"):
            ask(["exact"], net, x, labels, ball, time_limit=limit)
    for mask, error in ((torch.ones(8), TypeError), (torch.ones(7, dtype=torch.bool), ValueError)):
        with pytest.raises(error, match="undecided must"):
            ask(["exact"], net, x, labels, ball, mask)
    with pytest.raises(ValueError, match="x must lie in"):
        ask(["exact"], net, x - 1, labels, Ball(0.1, **RANGE))
    with pytest.raises(ValueError, match="labels must lie in"):
        ask(["exact"], net, x, labels + 2, ball)


def test_what_is_not_installed_is_said(numbered, without_marabou, monkeypatch):
    net, x, labels = numbered
    with pytest.raises(ImportError, match=r"pip install 'linf-plugin\[marabou\]'"):
        ask(["exact", "marabou"], net, x, labels, Ball(0.1))
    monkeypatch.delenv("ABCROWN", raising=False)
    with pytest.raises(FileNotFoundError, match="set ABCROWN to a checkout of github.com/Verified-Intelligence"):
        complete.check_installed(["abcrown"])
    monkeypatch.setenv("ABCROWN", "/nowhere")
    with pytest.raises(FileNotFoundError, match="ABCROWN=/nowhere has no complete_verifier/abcrown.py"):
        complete.check_installed(["abcrown"])


def test_a_falsified_sample_is_moved_only_inside_the_range(numbered, scripted):
    net, x, labels = numbered
    scripted.words, scripted.point = ["sat"] * 8, [9.0]
    found = ask(["scripted"], net, x, labels, Ball(0.55, low=0.0, high=0.55), progress=False)
    points = np.array([float(verdict.point) for verdict in found.last.values()])
    assert found.falsified.all() and (points <= 0.55).all() and (points > 0.5).all()
