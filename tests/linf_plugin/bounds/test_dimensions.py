"""Layers over the last dimension of (N, *, in), in every method; inputs without samples are refused by name."""

import math

import pytest
import torch
from nets import ball, within
from torch import nn

from linf_plugin import LinfDistConv2d, LinfDistLinear, MeanShift, SortDistLinear
from linf_plugin.bounds import compute_bounds, linear, versions

from auto_LiRPA import BoundedModule

METHODS = ("IBP", "CROWN-IBP", "CROWN", "CROWN-Optimized", "Forward", "Forward+Backward")
each_method = pytest.mark.parametrize("method", METHODS)
FEW = {"optimize_bound_args": {"iteration": 3}}
ROUNDING = 1e-9
pytestmark = [
    pytest.mark.filterwarnings("ignore:Pre-activation bounds are too loose:UserWarning"),
    pytest.mark.filterwarnings("ignore:The reduce argument of torch.scatter:UserWarning"),
]

BODIES = {  # name → layers (*, 6) → (*, 3), none of which joins indices of the other dimensions
    "distances": lambda: (LinfDistLinear(6, 5), LinfDistLinear(5, 3)),
    "p=2": lambda: (LinfDistLinear(6, 5, p=2.0), LinfDistLinear(5, 3, bias=False, p=2.0)),
    "sorted": lambda: (SortDistLinear(6, 5, rho=0.5, k=3), SortDistLinear(5, 3, rho=0.4, bias=False)),
    "sorted, rho=1": lambda: (SortDistLinear(6, 3, rho=1.0),),
    "stock layers": lambda: (nn.Linear(6, 5), nn.ReLU(), LinfDistLinear(5, 4), nn.Linear(4, 3, bias=False), nn.Tanh()),
}
SHAPES = {"points": (2,), "grid": (2, 3), "nothing more": ()}
each_body = pytest.mark.parametrize("body", BODIES)
each_shape = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)


@pytest.fixture(autouse=True)
def float64():
    """Rounding then is far below what the tests look for."""
    with versions.float64_by_default():
        yield


def holds(lower, upper, net, x, C=None):
    assert within(lower, upper, net, x, C, samples=40, rounding=ROUNDING)


@each_body
@each_shape
@each_method
def test_each_index_is_bounded_as_a_sample_of_its_own(body, shape, method):
    net = nn.Sequential(*BODIES[body]()).eval()
    x = torch.rand(3, *shape, 6)
    rows = x.reshape(-1, 6)
    lower, upper = compute_bounds(BoundedModule(net, x[:1], bound_opts=FEW), (ball(x),), method=method)
    assert lower.shape == upper.shape == (3, *shape, 3)
    holds(lower, upper, net, x)
    if not shape:  # they are the rows
        return
    theirs = compute_bounds(BoundedModule(net, rows[:1], bound_opts=FEW), (ball(rows),), method=method)
    for end, wanted in zip((lower, upper), theirs):
        if method == "CROWN-Optimized":  # it stops when all bounds of a sample are good enough
            assert (end.flatten(0, -2) - wanted).abs().max() < 0.1 * (theirs[1] - theirs[0]).max()
        else:
            torch.testing.assert_close(end.flatten(0, -2), wanted, rtol=0, atol=ROUNDING)


@each_body
@each_method
def test_a_head_joins_the_indices(body, method):
    net = nn.Sequential(*BODIES[body](), nn.Flatten(), MeanShift(6), LinfDistLinear(6, 5), nn.Linear(5, 4)).eval()
    x = torch.rand(3, 2, 6)
    C = torch.tensor([[1.0, -1, 0, 0], [0, 1, 0, -2]]).expand(3, 2, 4)
    bounded = BoundedModule(net, x[:1], bound_opts=FEW)
    least, most = compute_bounds(bounded, (ball(x),), method="IBP")
    lower, upper = compute_bounds(bounded, (ball(x),), method=method)
    assert (lower >= least).all() and (upper <= most).all()
    holds(lower, upper, net, x)
    lower, upper = bounded.compute_bounds(x=(ball(x),), C=C, method=method)
    holds(lower, upper, net, x, C)
    for end in compute_bounds(bounded, (ball(x, 0.0),), method=method):
        torch.testing.assert_close(end, net(x), rtol=0, atol=ROUNDING)


@pytest.mark.parametrize("side", ["lower", "upper"])
@each_method
def test_one_side_alone(side, method):
    net, x = nn.Sequential(*BODIES["distances"](), nn.Flatten()).eval(), torch.rand(3, 2, 6)
    bounded = BoundedModule(net, x[:1], bound_opts=FEW)
    both = compute_bounds(bounded, (ball(x),), method=method)
    sides = {"bound_lower": side == "lower", "bound_upper": side == "upper"}
    found = compute_bounds(bounded, (ball(x),), method=method, **sides)
    i = int(side == "upper")
    assert found[1 - i] is None
    torch.testing.assert_close(found[i], both[i], rtol=0, atol=ROUNDING)


def test_the_weights_of_lines_of_each_index_are_optimised():
    net, x = nn.Sequential(LinfDistLinear(12, 8), LinfDistLinear(8, 6), nn.Linear(6, 3)).eval(), torch.rand(2, 3, 12)
    bounded = BoundedModule(net, x[:1])
    widths = {}
    for method in ("CROWN", "CROWN-Optimized"):
        lower, upper = compute_bounds(bounded, (ball(x, 0.1),), method=method)
        widths[method] = (upper - lower).mean((0, 2))
        holds(lower, upper, net, x)
    assert (widths["CROWN-Optimized"] < 0.99 * widths["CROWN"]).all()


def test_blocks_do_not_change_the_result(monkeypatch):
    net, x = nn.Sequential(*BODIES["p=2"](), nn.Flatten()).eval(), torch.rand(2, 3, 6)
    bounded = BoundedModule(net, x[:1])
    whole = [bounded.compute_bounds(x=(ball(x),), method=method) for method in ("CROWN", "Forward")]
    monkeypatch.setattr(linear, "BLOCK_BYTES", 1)
    parts = [bounded.compute_bounds(x=(ball(x),), method=method) for method in ("CROWN", "Forward")]
    for ours, theirs in zip(parts, whole):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=ROUNDING)


@pytest.mark.parametrize("method", ["IBP", "CROWN-IBP", "CROWN", "Forward", "Forward+Backward"])
def test_gradients_are_those_of_the_bounds(method):
    """Against a difference quotient in a random direction of all parameters."""
    net, x = nn.Sequential(*BODIES["distances"](), nn.Flatten(), nn.Linear(6, 2)).eval(), torch.rand(2, 2, 6)
    bounded, parameters = BoundedModule(net, x[:1]), list(net.parameters())

    def width():
        lower, upper = bounded.compute_bounds(x=(ball(x),), method=method)
        return (upper - lower).sum()

    direction, step = [torch.randn_like(a) for a in parameters], 1e-6
    grads = torch.autograd.grad(width(), parameters, allow_unused=True)
    slope = sum((g * d).sum() for g, d in zip(grads, direction) if g is not None)

    def moved(sign):
        with torch.no_grad():
            for a, d in zip(parameters, direction):
                a += sign * step * d
            found = width()
            for a, d in zip(parameters, direction):
                a -= sign * step * d
        return found

    torch.testing.assert_close(slope.detach(), (moved(1) - moved(-1)) / (2 * step), rtol=1e-4, atol=1e-4)


@each_method
def test_images_may_go_through_layers_over_their_last_dimension(method):
    net = nn.Sequential(
        nn.Conv2d(2, 3, 2), LinfDistLinear(3, 4), nn.ReLU(), LinfDistConv2d(3, 2, 2), nn.Flatten(), nn.Linear(18, 3)
    ).eval()
    x = torch.rand(3, 2, 5, 4)
    lower, upper = compute_bounds(BoundedModule(net, x[:1], bound_opts=FEW), (ball(x),), method=method)
    holds(lower, upper, net, x)


# Inputs without samples.


@pytest.mark.parametrize("kind", ["distance", "sorted"])
def test_a_net_traced_without_samples_is_refused_by_name(kind, capsys):
    layer = LinfDistLinear(6, 4) if kind == "distance" else SortDistLinear(6, 4, rho=0.5)
    for net, x in ((layer, torch.rand(6)), (nn.Sequential(nn.Flatten(0), layer), torch.rand(1, 2, 3))):
        with pytest.raises(ValueError, match=r"x must have shape \(N, …, 6\) for bounds, got \(6,\): .*unsqueeze"):
            BoundedModule(net.eval(), x)
    assert capsys.readouterr().out == ""


@each_method
@pytest.mark.parametrize("kind", [LinfDistLinear, nn.Linear])
def test_an_input_without_samples_is_refused_by_name(kind, method):
    net, x = nn.Sequential(kind(6, 4)).eval(), torch.rand(1, 6)
    bounded = BoundedModule(net, x)
    with pytest.raises(ValueError, match=r"x\[0\] must have 2 dimensions, .* got shape \(6,\)"):
        compute_bounds(bounded, (ball(x[0]),), method=method)
    if kind is LinfDistLinear:
        with pytest.raises(ValueError, match=r"x\[0\] must have 2 dimensions, .* got shape \(6,\)"):
            bounded.compute_bounds(x=(ball(x[0]),), method=method)


class Joined(nn.Module):
    """It makes rows of all samples."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(3, 3), LinfDistLinear(6, 4)

    def forward(self, x):
        return self.last(torch.relu(self.first(x.reshape(-1, 3))).view(-1, 6))


@pytest.mark.parametrize("traced", [1, 3])
@each_method
def test_linear_bounds_of_a_net_that_joins_samples_are_refused_by_name(traced, method):
    net, x = Joined().eval(), torch.rand(3, 2, 3)
    bounded = BoundedModule(net, x[:traced], bound_opts=FEW)
    for compute in (bounded.compute_bounds, lambda x, method: compute_bounds(bounded, x, None, method)):
        if method == "IBP":
            holds(*compute(x=(ball(x),), method=method), net, x)
            continue
        with pytest.raises(
            NotImplementedError, match=rf"\(Reshape\) has shape .* for {traced} samples.*x.flatten\(1\)"
        ):
            compute(x=(ball(x),), method=method)


def test_a_layer_takes_any_dimensions_outside_of_traces():
    """Without samples too; and a shape that is refused before is refused after a trace."""
    layer, x = LinfDistLinear(6, 4).eval(), torch.rand(3, 2, 6)
    rows = layer(x.view(-1, 6))
    BoundedModule(nn.Sequential(layer).eval(), x)
    assert torch.equal(layer(x), rows.view(3, 2, 4)) and torch.equal(layer(x[0, 0]), rows[0])
    with pytest.raises(ValueError, match=r"x must have shape \(..., 6\)"):
        layer(torch.tensor(math.pi))
