"""The ends of every operation hold all values over the box, and some input attains each of them."""

import pytest
import torch
from graph_operations import NAMES, made

from linf_plugin.float32.operations import OF_OPERATIONS
from linf_plugin.graphs.ends import ENDS, ends
from linf_plugin.intervals import INTERVALS
from linf_plugin.refusal import Refusal

ROUNDING = 1e-12  # of float64


def _boxes(shapes, width):
    """(lower, upper) of each value, for four samples; every third coordinate has width 0."""
    found = []
    for shape in shapes:
        centre = 2 * torch.randn(4, *shape, dtype=torch.float64)
        radius = width * torch.rand_like(centre)
        radius.view(-1)[::3] = 0
        found.append((centre - radius, centre + radius))
    return found


def _inside(boxes, count=300):
    """Points of the boxes: both ends, corners, points between."""
    yield [low for low, _ in boxes]
    yield [high for _, high in boxes]
    for k in range(count):
        t = [torch.rand_like(low) for low, _ in boxes]
        yield [low + (a.round() if k % 2 else a) * (high - low) for a, (low, high) in zip(t, boxes)]


@pytest.mark.parametrize("width", (0.0, 1e-3, 3.0), ids=lambda w: f"width={w}")
@pytest.mark.parametrize("name", NAMES)
def test_values_lie_between_the_ends(name, width):
    module, shapes = made()[name]
    boxes = _boxes(shapes, width)
    lower, upper = ends(module, *boxes)
    assert (lower <= upper).all() and lower.dtype == torch.float64
    slack = ROUNDING * (1 + lower.abs() + upper.abs())
    for values in _inside(boxes):
        y = module(*values)
        assert y.shape == lower.shape and (lower - slack <= y).all() and (y <= upper + slack).all()


def _flat(module, boxes):
    """The module as a function of (points, numbers of all values) to (points, outputs), and the ends of the numbers."""
    low, high = (torch.cat([box[k].flatten(1) for box in boxes], 1)[0] for k in (0, 1))
    sizes = [box[0][0].numel() for box in boxes]

    def run(points):
        parts = points.split(sizes, -1)
        return module(*(part.reshape(-1, *box[0].shape[1:]) for part, box in zip(parts, boxes))).flatten(1)

    return run, low, high


def _largest(run, low, high, sign, kinks):
    """The largest sign·output that is found, for each output: its coordinates in turn take the best of some places."""
    outputs, best = run(low.unsqueeze(0)).shape[1], None
    each = torch.arange(outputs)
    for start in range(8):
        x = low + torch.rand(outputs, len(low), dtype=low.dtype).round() * (high - low)
        x = [low.expand_as(x), high.expand_as(x), (low + high).expand_as(x) / 2, x][min(start, 3)].clone()
        for i in [*range(len(low))] * 2:
            places = torch.cat([low[i : i + 1], high[i : i + 1], kinks[(low[i] < kinks) & (kinks < high[i])]])
            moved = x.repeat(len(places), 1, 1)
            moved[:, :, i] = places.unsqueeze(1)
            y = sign * run(moved.flatten(0, 1)).view(len(places), outputs, outputs)[:, each, each]
            x[:, i] = places[y.argmax(0)]
        y = (sign * run(x))[each, each]
        best = y if best is None else torch.maximum(best, y)
    return best


@pytest.mark.parametrize("name", NAMES)
def test_each_end_is_attained(name):
    module, shapes = made()[name]
    boxes = [(low[:1], high[:1]) for low, high in _boxes(shapes, 1.0)]
    lower, upper = (end.flatten() for end in ends(module, *boxes))
    of_distances = hasattr(module, "identity_init") or hasattr(module, "rho")
    kinks = module.weight.flatten() if of_distances else torch.zeros(0, dtype=torch.float64)
    run, low, high = _flat(module, boxes)
    torch.testing.assert_close(_largest(run, low, high, 1, kinks), upper, rtol=ROUNDING, atol=ROUNDING)
    torch.testing.assert_close(-_largest(run, low, high, -1, kinks), lower, rtol=ROUNDING, atol=ROUNDING)


def test_every_operation_has_a_case():
    tried = {type(module) for module, _ in made().values()}
    ruled = {kind for kind, rule in INTERVALS.items() if not isinstance(rule, Refusal)}
    missing = {kind.__name__ for kind in (ENDS.keys() | OF_OPERATIONS.keys()) - tried}
    assert not missing, f"{missing}: add one to tests/graph_operations.py"
    assert tried <= ENDS.keys() | ruled
