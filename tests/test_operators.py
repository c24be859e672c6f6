"""The search for operators that auto_LiRPA bounds wrongly: a few graphs, and what it finds where something is wrong."""

import json
import math
import random
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from operators import __main__ as command
from operators import campaign, check, draw, registry, report
from operators.catalog import CATALOG
from operators.steps import Builder, Graph
from torch import nn

from linf_plugin import LinfDistLinear
from linf_plugin.bounds import refused, versions

import auto_LiRPA

VERSION = auto_LiRPA.__version__
RESULTS = Path(__file__).parents[1] / "docs/results/operators"
FEW = 12
quietly = pytest.mark.filterwarnings("ignore")  # of auto_LiRPA, of tracing and of torch


@quietly
def test_a_few_graphs_let_nothing_wrong_through(capsys):
    *_, found = command.search(seed=1, first=0, graphs=FEW, points=400, guarded=True, progress=False)
    assert found["graphs"] == FEW and found["violations"] == []
    assert sum(group["holds"] for group in found["methods"].values()) > 30
    assert f"# Operators of auto_LiRPA {VERSION}" in report.table(json.loads(json.dumps(found)))


def case_of(shape, *steps):
    """A graph of these steps, functions and modules, on boxes of random points."""
    b = Builder(random.Random(0), shape, ("buffer",), math.inf, 1.0)
    for step in steps:
        if isinstance(step, nn.Module):
            b.layer(step)
        else:
            b.add("step", step)
    graph = Graph(b.steps).double().eval()
    x = b.inputs[0] - 0.5
    return draw.Case(0, "by hand", graph, [x], [(x - 0.5, x + 0.5)], 2, {}, None)


@quietly
def test_a_mend_that_is_taken_back_is_found(monkeypatch):
    pad = auto_LiRPA.bound_ops.BoundPad
    with versions.float64_by_default():
        steps = lambda h: F.pad(h, (1, 1, 1, 1), value=2.0), nn.Conv2d(1, 2, 3), nn.Flatten(), LinfDistLinear(32, 3)
        case = case_of((1, 4, 4), *steps)
        mended = check.check(case, 400, guarded=False)
        monkeypatch.setattr(pad, "bound_backward", pad.bound_backward.__wrapped__)
        found = check.check(case, 400, guarded=False)
    assert not any(f.alone == check.WRONG for f in mended)
    assert {f.method for f in found if f.alone == check.WRONG} >= {"CROWN", "CROWN-IBP", "CROWN-Optimized"}


@quietly
def test_a_refusal_that_is_taken_back_is_found(monkeypatch):
    """And counted as let through where the net has operators of ours."""
    monkeypatch.setattr(refused, "TABLE", ())
    with versions.float64_by_default():
        case = case_of((4,), lambda h: F.leaky_relu(h, 1.5), nn.Linear(4, 3), LinfDistLinear(3, 2))
        found = check.check(case, 400, guarded=True)
    assert any(f.alone == check.WRONG and f.violation for f in found)


def test_points_lie_in_their_boxes_and_reach_the_corners():
    with versions.float64_by_default():
        case = draw.draw(0, 5)
        at, y = check.points(case, 400)
    assert y.shape[:2] == (400, 2)
    for points, box in zip(at, case.boxes):
        if box is not None:
            assert (box[0] <= points).all() and (points <= box[1]).all()
            assert torch.equal(points.amin(0), box[0]) and torch.equal(points.amax(0), box[1])


def test_a_case_is_the_same_whatever_was_drawn_before():
    with versions.float64_by_default():
        first = draw.draw(0, 7)
        draw.draw(0, 3)
        again = draw.draw(0, 7)
    assert str(first.graph) == str(again.graph)
    assert all(torch.equal(a, b) for a, b in zip(first.inputs, again.inputs))
    assert all(torch.equal(a, b) for a, b in zip(first.graph.parameters(), again.graph.parameters()))


def test_wrong_bounds_are_measured_beyond_rounding():
    y = torch.tensor([[[0.0, 1.0]], [[2.0, 1.0]]])
    lower, upper = torch.tensor([[0.0, 1.0]]), torch.tensor([[2.0, 1.0]])
    assert check.wrong_by(lower, upper, y) == 0.0
    assert check.wrong_by(lower + 1e-9, upper, y) == 0.0
    assert check.wrong_by(lower + 0.5, upper, y) == pytest.approx(0.5)
    assert check.wrong_by(lower, upper - 0.25, y) == pytest.approx(0.25)
    assert math.isnan(check.wrong_by(lower, upper + math.nan, y))
    assert check.wrong_by(lower, torch.ones(1, 3), y) == math.inf


def test_an_operator_that_was_not_searched_is_refused_by_name(monkeypatch):
    monkeypatch.setitem(refused.NOT_SEARCHED, VERSION, ("BoundStrange",))
    net, x = nn.Sequential(nn.Linear(3, 3), nn.ReLU()).eval(), torch.rand(2, 3)
    bounded = auto_LiRPA.BoundedModule(net, x)
    relu = next(node for node in bounded._modules.values() if type(node).__name__ == "BoundRelu")
    for missing in refused.NOT_SEARCHED[VERSION]:
        renamed = type(missing, (type(relu),), {"__module__": type(relu).__module__})
        relu.__class__ = renamed
        bounded.input_name, box = (
            bounded.input_name,
            auto_LiRPA.BoundedTensor(x, auto_LiRPA.PerturbationLpNorm(eps=0.1)),
        )
        assert "have not been searched" in refused.reason(bounded, (box,), "IBP")


@pytest.mark.parametrize("arguments", [["--graphs", "0"], ["--points", "5"], ["--first", "-1"]])
def test_wrong_requests(arguments, capsys):
    assert command.main(arguments) == 2
    assert f"{arguments[0]} must be at least" in capsys.readouterr().err


def test_counts_of_a_tally():
    tally = campaign.Tally()
    with versions.float64_by_default():
        case = draw.draw(0, 0)
    holds = check.Finding("IBP", "patches", alone=check.HOLDS, guarded=check.HOLDS, classes=["BoundRelu"])
    wrong = check.Finding(
        "CROWN",
        "patches",
        alone=check.WRONG,
        amount=0.5,
        guarded=check.CROSSED,
        lets_through=True,
        classes=["BoundRelu"],
    )
    caught = check.Finding("CROWN-IBP", "patches", alone=check.WRONG, amount=0.5, guarded=check.REFUSED)
    tally.add(case, [holds, wrong, caught])
    assert tally.graphs == 1 and len(tally.violations) == 1 and len(tally.wrong) == 2
    assert tally.violations[0]["method"] == "CROWN" and tally.violations[0]["amount"] == 0.5
    counts = tally.classes["BoundRelu"]
    assert (counts["graphs"], counts["holds"], counts["wrong"], counts["let through"]) == (1, 1, 1, 1)


@pytest.mark.parametrize("version", refused.VERSIONS)
def test_the_committed_search_let_nothing_through(version):
    found = json.loads((RESULTS / f"{version}.json").read_text(encoding="utf-8"))
    assert found["versions"]["auto_LiRPA"] == version and found["guarded"]
    assert found["graphs"] >= 2000 and found["points"] >= 2000 and found["violations"] == []
    assert (RESULTS / f"{version}.md").read_text(encoding="utf-8") == report.table(found)
    assert set(found["operators"]) == set(CATALOG) and set(found["methods"]) == set(check.METHODS)
    assert set(found["not_reached"]) == set(refused.NOT_SEARCHED[version])


def test_every_operator_that_is_claimed_was_searched_or_is_refused():
    found = json.loads((RESULTS / f"{VERSION}.json").read_text(encoding="utf-8"))
    reached = {name for name, group in found["classes"].items() if group["graphs"]}
    claimed = registry.classes() - set(command.LEAVES)
    assert claimed - reached == set(refused.NOT_SEARCHED[VERSION])
