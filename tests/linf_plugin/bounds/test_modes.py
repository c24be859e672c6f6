"""Every method of auto_LiRPA on every kind of net: bounds hold, gradients are right, none is looser than intervals."""

import functools
import math
from inspect import signature

import pytest
import torch
from nets import NETS, ball, each_net, make, perturbed, within
from torch import nn

from linf_plugin import LinfDistLinear, SortDistLinear, set_p
from linf_plugin.bounds import compute_bounds, versions
from linf_plugin.bounds.guard import WITHOUT_SHORTCUTS

from auto_LiRPA import BoundedModule

METHODS = ("IBP", "CROWN-IBP", "CROWN", "CROWN-Optimized", "Forward", "Forward+Backward")
DIFFERENTIABLE = ("IBP", "CROWN-IBP", "CROWN", "Forward", "Forward+Backward")  # by themselves
each_method = pytest.mark.parametrize("method", METHODS)
WITHOUT_P = ("ramp", "max-min", "relu")
each_p = pytest.mark.parametrize(
    "name, p",
    [(name, p) for name in NETS for p in (2.0, math.inf) if name not in WITHOUT_P or p == math.inf],
    ids=lambda value: value if isinstance(value, str) else f"p={value:g}",
)
# Few iterations are enough to move every weight.
OPTIONS = {"optimize_bound_args": {"iteration": 3}}
ROUNDING = 1e-9

# auto_LiRPA 0.7.1 says that p = 2 leaves a tanh with loose bounds, as it does; 0.3, in forward mode, that an input
# has no coefficients, when it is a constant, and it scatters in a way that torch deprecates.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Pre-activation bounds are too loose:UserWarning"),
    pytest.mark.filterwarnings("ignore:Creating a LinearBound with zero weights:UserWarning"),
    pytest.mark.filterwarnings("ignore:The reduce argument of torch.scatter:UserWarning"),
]


@pytest.fixture(autouse=True)
def float64():
    """Rounding then is far below what the tests look for."""
    with versions.float64_by_default():
        yield


def bounded_module(net, x, **options):
    """Without shortcuts, which nets of ours leave out by themselves: one of the nets is not."""
    return BoundedModule(net, x[:1], bound_opts={**OPTIONS, **WITHOUT_SHORTCUTS, **options})


def holds(lower, upper, net, x, C=None):
    assert within(lower, upper, net, x, C, rounding=ROUNDING)


@functools.cache
def traced(name):
    """A net, its inputs and its graph, for tests that need no fresh one."""
    torch.manual_seed(0)
    net, x = make(name)
    return net, x, bounded_module(net, x)


def test_no_net_without_p_has_one():
    for name in NETS:
        exponents = {layer.p for layer in make(name, 2.0)[0].modules() if hasattr(layer, "p")}
        assert (2.0 in exponents) == (name not in WITHOUT_P)


@each_method
@each_p
def test_bounds_hold(name, method, p):
    net, x = make(name, p)
    lower, upper = bounded_module(net, x).compute_bounds(x=(ball(x),), method=method)
    assert lower.shape == upper.shape == (3, 4)
    holds(lower, upper, net, x)


@each_net
@each_method
def test_a_specification_bounds_differences(name, method):
    net, x, bounded = traced(name)
    C = torch.tensor([[1.0, -1, 0, 0], [0, 1, 0, -2]]).expand(3, 2, 4)
    lower, upper = bounded.compute_bounds(x=(ball(x),), C=C, method=method)
    assert lower.shape == upper.shape == (3, 2)
    holds(lower, upper, net, x, C)


@each_net
@each_method
def test_a_ball_of_radius_zero_gives_the_output(name, method):
    net, x, bounded = traced(name)
    lower, upper = bounded.compute_bounds(x=(ball(x, 0.0),), method=method)
    torch.testing.assert_close(lower, net(x), rtol=0, atol=ROUNDING)
    torch.testing.assert_close(upper, net(x), rtol=0, atol=ROUNDING)


@each_net
@pytest.mark.parametrize("method", DIFFERENTIABLE)
def test_bounds_of_a_batch_are_those_of_its_samples(name, method):
    _, x, bounded = traced(name)
    together = bounded.compute_bounds(x=(ball(x),), method=method)
    for i in range(3):
        alone = bounded.compute_bounds(x=(ball(x[i : i + 1]),), method=method)
        for ours, theirs in zip(alone, together):
            torch.testing.assert_close(ours[0], theirs[i], rtol=0, atol=ROUNDING)


@each_net
@pytest.mark.parametrize("C", [None, "differences"])
def test_nothing_is_looser_than_intervals_and_optimising_never_hurts(name, C):
    net, x, bounded = traced(name)
    if C:
        C = torch.tensor([[1.0, -1, 0, 0], [0, 1, 0, -1]]).expand(3, 2, 4)
    bounds = {method: compute_bounds(bounded, (ball(x),), C, method) for method in METHODS}
    for lower, upper in bounds.values():
        assert (lower >= bounds["IBP"][0]).all() and (upper <= bounds["IBP"][1]).all()
        holds(lower, upper, net, x, C)
    assert (bounds["CROWN-Optimized"][0] >= bounds["CROWN"][0] - ROUNDING).all()
    assert (bounds["CROWN-Optimized"][1] <= bounds["CROWN"][1] + ROUNDING).all()


def test_optimising_helps():
    """Nets of the table in docs/bounds.md, of which one is enough here."""
    net = nn.Sequential(LinfDistLinear(48, 32), LinfDistLinear(32, 24), nn.Linear(24, 10)).eval()
    x = torch.rand(4, 48)
    bounded = BoundedModule(net, x[:1])
    widths = {}
    for method in ("IBP", "CROWN", "CROWN-Optimized"):
        lower, upper = compute_bounds(bounded, (ball(x, 0.1),), method=method)
        widths[method] = (upper - lower).mean()
    assert widths["CROWN"] < 0.85 * widths["IBP"] and widths["CROWN-Optimized"] < 0.7 * widths["IBP"]


@pytest.mark.parametrize("side", ["lower", "upper"])
@each_method
def test_one_side_alone(side, method):
    net, x = make("head")
    bounded = bounded_module(net, x)
    both = compute_bounds(bounded, (ball(x),), method=method)
    lower, upper = compute_bounds(
        bounded, (ball(x),), method=method, bound_lower=side == "lower", bound_upper=side == "upper"
    )
    found, wanted, other = (lower, both[0], upper) if side == "lower" else (upper, both[1], lower)
    assert other is None
    torch.testing.assert_close(found, wanted, rtol=0, atol=ROUNDING)


@pytest.mark.parametrize("name", [name for name in NETS if name != "groups"])  # one relaxed layer, at the input
@pytest.mark.parametrize("method", ["CROWN", "CROWN-Optimized"])
def test_intermediate_bounds_that_are_passed_in_are_used(name, method):
    net, x = make(name)
    bounded = bounded_module(net, x)
    plain = bounded.compute_bounds(x=(ball(x),), method="CROWN")
    read = {node.inputs[0] for node in bounded._modules.values() if getattr(node, "requires_input_bounds", [])}
    given = {
        node.name: [node.lower.detach(), node.upper.detach()]
        for node in read
        if node.perturbed and type(node).__name__ != "BoundInput"
    }
    assert given
    (keyword,) = {"intermediate_layer_bounds", "interm_bounds"} & set(signature(bounded.compute_bounds).parameters)
    again = bounded.compute_bounds(x=(ball(x),), method=method, **{keyword: given})
    holds(*again, net, x)
    if method == "CROWN":
        for ours, theirs in zip(again, plain):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=ROUNDING)
    wider = {k: [lower - 1, upper + 1] for k, (lower, upper) in given.items()}
    loose = bounded.compute_bounds(x=(ball(x),), method="CROWN", **{keyword: wider})
    assert ((loose[1] - loose[0]) > (plain[1] - plain[0])).any()


@pytest.mark.parametrize("name", ["distance-conv", "conv-distance", "conv-distance-conv", "groups"])
@pytest.mark.parametrize("p", [2.0, math.inf], ids=["p=2", "p=inf"])
@pytest.mark.parametrize("method", ["CROWN-IBP", "CROWN", "Forward+Backward"])
def test_both_forms_of_coefficients_give_the_same_bounds(name, p, method):
    net, x = make(name, p)
    bounds = [
        bounded_module(net, x, conv_mode=mode).compute_bounds(x=(ball(x),), method=method)
        for mode in ("patches", "matrix")
    ]
    for ours, theirs in zip(*bounds):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=ROUNDING)


# Training on bounds.


def width_of(bounded, x, method, **options):
    lower, upper = bounded.compute_bounds(x=(ball(x),), method=method, **options)
    return (upper - lower).sum()


@each_net
@pytest.mark.parametrize("method", DIFFERENTIABLE)
def test_gradients_are_those_of_the_bounds(name, method):
    """Against a difference quotient in a random direction of all parameters."""
    net, x = make(name)
    bounded = bounded_module(net, x)
    parameters = list(net.parameters())
    direction = [torch.randn_like(a) for a in parameters]
    grads = torch.autograd.grad(width_of(bounded, x, method), parameters, allow_unused=True)
    slope = sum((g * d).sum() for g, d in zip(grads, direction) if g is not None)
    step = 1e-6

    def moved(sign):
        with torch.no_grad():
            for a, d in zip(parameters, direction):
                a += sign * step * d
            width = width_of(bounded, x, method)
            for a, d in zip(parameters, direction):
                a -= sign * step * d
        return width

    quotient = (moved(1) - moved(-1)) / (2 * step)
    torch.testing.assert_close(slope.detach(), quotient, rtol=1e-4, atol=1e-4)
    for layer in net.modules():
        if isinstance(layer, (LinfDistLinear, SortDistLinear)) and "head" in name:
            assert any(g is not None and g.shape == layer.weight.shape and g.abs().sum() > 0 for g in grads)


@pytest.mark.parametrize("name", ["head", "sortnet-head"])
def test_optimised_weights_serve_training_when_they_are_reused(name):
    """The optimised bound itself comes without a gradient, from auto_LiRPA; CROWN with its weights has one."""
    net, x = make(name)
    bounded = bounded_module(net, x)
    only = {"bound_upper": False}
    best, _ = bounded.compute_bounds(x=(ball(x),), method="CROWN-Optimized", **only)
    plain, _ = bounded.compute_bounds(x=(ball(x),), method="CROWN", **only)
    lower, _ = bounded.compute_bounds(x=(ball(x),), method="CROWN", reuse_alpha=True, **only)
    assert (lower <= best + ROUNDING).all() and lower.sum() > plain.sum()  # auto_LiRPA keeps one α of all iterations
    holds(lower, torch.full_like(lower, math.inf), net, x)
    lower.sum().backward()
    assert all(m.weight.grad.isfinite().all() for m in net.modules() if isinstance(m, LinfDistLinear))


class Loss(nn.Module):
    """Cross-entropy as auto_LiRPA fuses it with a net's last layer: the sum of exp(z_j − z_y)."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x, labels):
        y = self.net(x)
        return torch.exp(y - torch.gather(y, 1, labels.unsqueeze(1))).sum(1, keepdim=True)


@pytest.mark.parametrize("name", ["mlp", "head", "sortnet", "distance-conv", "conv-distance"])
@pytest.mark.parametrize("method", ["IBP", "CROWN-IBP", "CROWN"])
def test_loss_fusion(name, method):
    net, x = make(name)
    labels = torch.tensor([0, 2, 3])
    loss = Loss(net).eval()
    # In patches mode, 0.3 cannot start from the difference of two vectors, in any net.
    bounded = BoundedModule(loss, (x, labels), bound_opts={"loss_fusion": True, "conv_mode": "matrix"})
    _, upper = bounded.compute_bounds(x=(ball(x), labels), method=method, bound_lower=False)
    exp = [node for node in bounded._modules.values() if type(node).__name__ == "BoundExp"]
    assert len(exp) == 1
    # with loss fusion auto_LiRPA takes the largest exponent out of the sum, and leaves it to its user
    upper = torch.log(upper).view(3) + exp[0].max_input.view(3)
    with torch.no_grad():
        for point in perturbed(x):
            assert (torch.log(loss(point, labels)).view(3) <= upper + ROUNDING).all()
    (grad,) = torch.autograd.grad(upper.sum(), net[-2].weight if hasattr(net[-2], "weight") else net[-1].weight)
    assert grad.isfinite().all() and grad.abs().sum() > 0


def test_modes_after_one_another_do_not_disturb_each_other():
    net, x = make("head")
    shared = bounded_module(net, x)
    for method in (*METHODS, *reversed(METHODS)):
        ours = shared.compute_bounds(x=(ball(x),), method=method)
        theirs = bounded_module(net, x).compute_bounds(x=(ball(x),), method=method)
        for a, b in zip(ours, theirs):
            torch.testing.assert_close(a, b, rtol=0, atol=ROUNDING)


def test_a_layer_of_finite_p_keeps_its_p():
    """p is read from the trace, not from the rule's default."""
    net, x = make("mlp", 2.0)
    lower, upper = bounded_module(net, x).compute_bounds(x=(ball(x),), method="CROWN")
    set_p(net, math.inf)
    other = bounded_module(net, x).compute_bounds(x=(ball(x),), method="CROWN")
    assert not torch.allclose(lower, other[0]) and not torch.allclose(upper, other[1])
