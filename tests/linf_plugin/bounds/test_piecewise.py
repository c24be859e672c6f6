"""Steps: their intervals, their rational values and their programs agree; programs of all magnitudes."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import nn

from linf_plugin import LinfDistConv2d, LinfDistLinear, MeanShift, Negate, Normalize
from linf_plugin.bounds import piecewise
from linf_plugin.bounds.piecewise import Program, evaluate, interval, steps_of

NETS = {  # (input shape, layers)
    "distances": (
        (2, 1, 2),
        lambda: [
            Normalize((0.2, 0.5), 0.3), LinfDistConv2d(2, 4, (1, 2), padding=(0, 1), groups=2), MeanShift(4),
            nn.Flatten(), LinfDistLinear(12, 3), Negate(),
        ],
    ),
    "linear": ((3,), lambda: [nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 4, bias=False), nn.ReLU(), nn.Linear(4, 2)]),
    "both": ((3,), lambda: [LinfDistLinear(3, 5), nn.Linear(5, 4), nn.ReLU(), LinfDistLinear(4, 3)]),
}


@pytest.mark.parametrize("radius", [0.01, 0.2])
@pytest.mark.parametrize("name", NETS)
@torch.no_grad()
def test_steps_say_what_the_net_says(name, radius):
    """At a point of a box: the rational logits are the net's, intervals hold them, and they are the one solution of
    the program in which the input is fixed to the point."""
    shape, layers = NETS[name]
    net = nn.Sequential(*layers()).double().eval()
    steps = steps_of(net, shape)
    for _ in range(3):
        centre, n = torch.rand(shape, dtype=torch.float64), math.prod(shape)
        point = centre + radius * (2 * torch.rand(shape, dtype=torch.float64) - 1)
        logits = [float(z) for z in evaluate(steps, point.flatten().numpy())]
        assert logits == pytest.approx(net(point[None])[0].tolist(), abs=1e-12)

        box = (centre.flatten() - radius).numpy(), (centre.flatten() + radius).numpy()
        low, high = interval(steps, *box)
        assert (low <= logits).all() and (logits <= high).all()

        program = Program()
        x = variables = program.variables(*box)
        for step in steps:
            variables, box = step.encode(program, variables, *box)
        program.low[x[0] : x[0] + n] = program.high[x[0] : x[0] + n] = point.flatten().tolist()
        for variable, z in zip(variables, logits):
            status, bound, solution = program.minimise(variable, math.inf)
            assert status == "optimal" and solution[x] == pytest.approx(point.flatten().numpy(), abs=1e-9)
            assert bound == pytest.approx(z, abs=1e-5) and solution[variable] == pytest.approx(z, abs=1e-5)


@pytest.mark.parametrize("scale", [1e-30, 1e-9, 1.0, 1e9, 1e30])
def test_tolerances_are_parts_of_intervals(scale):
    """min y where y ≥ 3x, x ≥ scale, and its size does not matter."""
    program = Program()
    (x,), (y,) = program.variables([scale], [2 * scale]), program.variables([0.0], [9 * scale])
    program.require([y, x], [1, -3], low=0.0)
    status, bound, solution = program.minimise(y, 10.0)
    assert status == "optimal" and bound == pytest.approx(3 * scale, rel=1e-5)
    assert solution[x] == pytest.approx(scale, rel=1e-5)


def test_a_coefficient_that_highs_takes_for_0_widens_its_row():
    """min t where x + 1.9e-9·t = 0 and y = x ≤ −3.5e-9: t = 1.84; with t in its middle there is no solution."""
    program = Program()
    x, t, y = program.variables([-1.0, 1.0, -6e-9], [1.0, 2.0, -3.5e-9])
    program.require([x, t], [1, 1.9e-9], 0.0, 0.0)
    program.require([x, y], [1, -1], 0.0, 0.0)
    status, bound, _ = program.minimise(t, 10.0)
    assert status == "optimal" and bound <= 3.5 / 1.9


def test_answers_that_differ_are_unsettled(monkeypatch):
    """The bound is the lower one, the solution the better one."""
    solve = piecewise._solve

    def denies(arguments, seconds, presolve):
        return ("optimal", math.inf, None) if presolve == wrong else solve(arguments, seconds, presolve)

    monkeypatch.setattr(piecewise, "_solve", denies)
    for wrong in (False, True):
        program = Program()
        (y,), (b,) = program.variables([0.0], [4.0]), program.variables([0.0], [1.0], integer=True)
        program.require([y, b], [1, 2], low=3.0)
        status, bound, solution = program.minimise(y, 10.0)
        assert status == "unsettled" and bound == pytest.approx(1.0) and solution[y] == pytest.approx(1.0)


def test_numbers_beyond_float64_are_unsettled():
    program = Program()
    x, y = program.variables([0.0, 0.0], [1.0, math.inf])
    program.require([x, y], [1, 1], low=0.5)
    assert program.minimise(x, 10.0) == ("unsettled", -math.inf, None)


def test_rational_values_are_exact():
    net = nn.Sequential(nn.Linear(1, 2)).eval()
    net[0].weight.data[:], net[0].bias.data[:] = torch.tensor([[3.0], [1.0]]), torch.tensor([2.0**-70, -0.75])
    assert evaluate(steps_of(net, (1,)), np.array([0.1])) == [
        3 * Fraction(0.1) + Fraction(1, 2**70), Fraction(0.1) - Fraction(3, 4)
    ]
