"""Rows hold for the net in exact arithmetic, and what dual values prove holds whatever they are."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import nn

from linf_plugin import LinfDistConv2d, LinfDistLinear, MeanShift, Negate, Normalize
from linf_plugin.certificates.exact.relaxation import Relaxation, rounded_down, rounded_up
from linf_plugin.certificates.exact.search import Part, Question, branch, intervals, masks_at, open_masks
from linf_plugin.certificates.exact.steps import Maximum, steps_of

NETS = {  # (input shape, layers)
    "distances": (
        (2, 1, 2),
        lambda: [
            Normalize((0.2, 0.5), 0.3),
            LinfDistConv2d(2, 4, (1, 2), padding=(0, 1), groups=2),
            MeanShift(4),
            nn.Flatten(),
            LinfDistLinear(12, 3),
            Negate(),
        ],
    ),
    "linear": ((3,), lambda: [nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 4, bias=False), nn.ReLU(), nn.Linear(4, 2)]),
    "both": ((3,), lambda: [LinfDistLinear(3, 5), nn.Linear(5, 4), nn.ReLU(), LinfDistLinear(4, 3)]),
}


def exact_layers(steps, x):
    values = [[Fraction(v) for v in x.tolist()]]
    for step in steps:
        values.append(step.evaluate(values[-1]))
    return values


def drawn_masks(steps, x, draw):
    """Some options closed, but for one that attains at x, exactly."""
    masks = list(open_masks(steps))
    for s, (step, values) in enumerate(zip(steps, exact_layers(steps, x))):
        if masks[s] is None:
            continue
        closed, values = draw.random(masks[s].shape) < 0.4, [Fraction(0), *values]
        for k, (index, weight) in enumerate(zip(step.index.tolist(), step.weight.tolist())):
            t = [values[i] - Fraction(w) for i, w in zip(index, weight)]
            options = [*t, *(-v for v in t)] if step.both else t
            closed[k, options.index(max(options))] = False
        masks[s] = masks[s] & ~closed
    return tuple(masks)


def test_the_pattern_at_a_point_is_its_own():
    net = nn.Sequential(LinfDistLinear(3, 5), nn.Linear(5, 4), nn.ReLU(), LinfDistLinear(4, 3)).eval()
    steps = steps_of(net, (3,))
    x = np.array([0.2, 0.5, 0.9])
    for (low, high), exact in zip(intervals(steps, (x, x), masks_at(steps, x)), exact_layers(steps, x)):
        assert low == pytest.approx([float(v) for v in exact]) and high == pytest.approx([float(v) for v in exact])


@pytest.mark.parametrize("scale", [1.0, 1e-30, 1e30])
@pytest.mark.parametrize("radius", [1e-6, 0.05, 0.4])
@pytest.mark.parametrize("name", NETS)
@torch.no_grad()
def test_every_row_holds_for_the_net(name, radius, scale):
    """In rational arithmetic, but for the last row, which asks for another class."""
    shape, layers = NETS[name]
    net = nn.Sequential(*layers()).eval()
    for layer in net:
        for weight in (getattr(layer, a, None) for a in ("bias", "running_mean")):
            if weight is not None:
                weight.normal_(std=0.3)
    if scale != 1:  # weights of the first layer that has some
        next(layer for layer in net if hasattr(layer, "weight")).weight.mul_(scale)
    steps = steps_of(net, shape)
    draw = np.random.default_rng(0)
    for i in range(4):
        point = draw.random(math.prod(shape))
        question = Question(steps, point, 0, 0.0, 1.0)
        x = (point + radius * draw.uniform(-1, 1, point.shape)).clip(*question.box(radius))
        masks = open_masks(steps) if i == 0 else drawn_masks(steps, x, draw)
        boxes = intervals(steps, question.box(radius), masks)
        part = Part(question, radius, boxes, masks, other=1)
        program, layers_at_x = part.program, exact_layers(steps, x)
        values = [Fraction(0)] * len(program.low)
        values[part.distance] = max(abs(Fraction(a) - Fraction(b)) for a, b in zip(x.tolist(), point.tolist()))
        if values[part.distance] > radius:
            continue  # the box is a little larger
        for variables, at_x in zip(part.layers, layers_at_x):
            for variable, value in zip(variables.tolist(), at_x):
                values[variable] = value
        assert all(Fraction(a) <= v <= Fraction(b) for a, v, b in zip(program.low, values, program.high))
        for row in range(len(program.bounds) - 1):
            used = slice(program.starts[row], program.starts[row + 1])
            total = sum(Fraction(a) * values[j] for a, j in zip(program.coefficients[used], program.columns[used]))
            assert total == Fraction(program.bounds[row]) if program.equations[row] else total <= program.bounds[row]


def random_program(draw, scale=1.0):
    program = Relaxation()
    low = scale * draw.uniform(-1, 0, 4)
    variables = program.variables(low, low + scale * draw.uniform(0, 2, 4)).tolist()
    inside = [draw.uniform(program.low[j], program.high[j]) for j in variables]  # it has a solution
    for k in range(6):
        columns = draw.choice(4, 3).tolist()  # one may come twice
        coefficients = draw.standard_normal(3).tolist()
        total = sum(Fraction(a) * Fraction(inside[j]) for a, j in zip(coefficients, columns))
        if k == 0 and len(set(columns)) == 3:
            continue
        program.at_most(columns, coefficients, rounded_up(total + Fraction(scale * draw.exponential(0.2))))
    return program, inside


@pytest.mark.parametrize("scale", [1.0, 1e-300, 1e-38, 1e30, 1e300])
def test_bounds_hold_and_are_those_of_the_solver(scale):
    draw = np.random.default_rng(1)
    for _ in range(10):
        program, inside = random_program(draw, scale)
        solution = program.solve(0, 10.0)
        assert solution.bound <= Fraction(inside[0])
        assert float(solution.bound / Fraction(scale)) == pytest.approx(solution.values[0] / scale, abs=1e-7)


def test_any_multipliers_prove_something_true():
    draw = np.random.default_rng(2)
    for _ in range(30):
        program, inside = random_program(draw)
        multipliers = np.abs(draw.standard_normal(len(program.bounds))) * (draw.random(len(program.bounds)) < 0.7)
        exponents = draw.integers(-80, 80, len(program.bounds))
        assert program._proved(0, multipliers, exponents) <= Fraction(inside[0])
        assert program._proved(None, multipliers, exponents) <= 0  # a program with a solution is not empty


def test_what_is_proved_is_the_formula_in_rationals():
    draw = np.random.default_rng(3)
    for variable in (0, 2, None):
        program, _ = random_program(draw, 1e-20)
        y = np.abs(draw.standard_normal(len(program.bounds)))
        exponents = draw.integers(-5, 5, len(program.bounds))
        exact = [Fraction(v) * Fraction(2) ** int(e) for v, e in zip(y.tolist(), exponents)]
        g = [Fraction(int(j == variable)) for j in range(4)]
        for row, multiplier in enumerate(exact):
            for k in range(program.starts[row], program.starts[row + 1]):
                g[program.columns[k]] += multiplier * Fraction(program.coefficients[k])
        expected = sum(min(s * Fraction(a), s * Fraction(b)) for s, a, b in zip(g, program.low, program.high))
        expected -= sum(m * Fraction(b) for m, b in zip(exact, program.bounds))
        assert program._proved(variable, y, exponents) == expected


def test_an_empty_program_is_proved_empty():
    program = Relaxation()
    x, y = program.variables(np.array([0.0, 0.0]), np.array([1.0, 1.0])).tolist()
    program.at_most([x, y], [-1.0, -1.0], -2.0 - 1e-6)  # x + y ≥ 2.000001
    assert program.solve(None, 10.0).bound > 0
    program.bounds[0] = -2.0
    assert program.solve(None, 10.0).bound <= 0


def test_equations_may_be_multiplied_by_anything():
    program = Relaxation()
    x, y = program.variables(np.array([-1.0, -3.0]), np.array([1.0, 5.0])).tolist()
    program.equal([y, x], [1.0, -2.0], 1.0)  # y = 2x + 1
    program.at_most([x], [-1.0], -0.25)
    assert program.solve(y, 10.0).bound == pytest.approx(1.5)
    assert program._proved(y, np.array([-1.0, 2.0]), np.zeros(2, int)) == Fraction(3, 2)


def test_numbers_beyond_float64_have_no_solution():
    program = Relaxation()
    x, y = program.variables(np.array([0.0, 0.0]), np.array([1.0, math.inf])).tolist()
    program.at_most([x, y], [1.0, 1.0], 0.5)
    assert program.solve(x, 10.0) is None


@pytest.mark.parametrize(
    "value",
    [Fraction(1, 3), Fraction(-1, 3), Fraction(1, 2), Fraction(10**400), -Fraction(10**400)],
    ids=("third", "minus third", "half", "huge", "minus huge"),
)
def test_rounding_has_a_direction(value):
    assert rounded_down(value) == -math.inf or Fraction(rounded_down(value)) <= value
    assert rounded_up(value) == math.inf or Fraction(rounded_up(value)) >= value
    if abs(value) < 1:
        assert rounded_up(value) - rounded_down(value) <= 2.0**-53


def test_parts_of_a_branch_cover_it():
    """Each option is in one of them, and nothing else changes."""
    steps = steps_of(nn.Sequential(LinfDistLinear(3, 2), Negate()).eval(), (3,))
    point = np.array([0.2, 0.5, 0.9])
    question, masks = Question(steps, point, 0, 0.0, 1.0), open_masks(steps)
    part = Part(question, 0.5, intervals(steps, question.box(0.5), masks), masks, 1)
    choice, first, _ = part.loosest(part.solve(10.0))
    at = next(s for s, step in enumerate(steps) if isinstance(step, Maximum))
    one, other = (m[at][choice.neuron] for m in branch(masks, choice, first))
    assert not (one & other).any() and set(np.flatnonzero(one | other)) == set(choice.options)
    kept = np.arange(2) != choice.neuron
    assert all((m[at][kept] == masks[at][kept]).all() for m in branch(masks, choice, first))
