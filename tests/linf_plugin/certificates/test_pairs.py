"""Certificates from Lipschitz bounds of the differences of two logits, in every norm."""

import copy
import math

import pytest
import torch
from torch import nn

import linf_plugin as lp
from linf_plugin.certificates import certify, certify_curve, certify_each, margin_bound, pair_bounds, pairwise_radius
from linf_plugin.certificates.lipschitz import sound_margin
from linf_plugin.float32.euclid import error_in_l2, l2_bounds
from linf_plugin.float32.reach import reach
from linf_plugin.models.architectures import build
from linf_plugin.norms import NORMS, Ball, box

each_norm = pytest.mark.parametrize("norm", NORMS.values(), ids=NORMS)
NETS = {
    "relu": dict(name="relu-mlp", shape=(1, 3, 3), classes=4, width=8, depth=3, mean=(0.5,), std=0.5),
    "dist": dict(name="linf-mlp", shape=(1, 3, 3), classes=4, width=8, depth=2),
    "head": dict(name="linf-mlp-head", shape=(1, 3, 3), classes=4, width=8, depth=2, hidden=5),
    "sll": dict(name="sll-mlp", shape=(1, 3, 3), classes=4, depth=4, hidden=12),
    "cpl": dict(name="cpl-mlp", shape=(1, 3, 3), classes=4, depth=3, hidden=12),
    "aol": dict(name="aol-mlp", shape=(1, 3, 3), classes=4, depth=3, width=12),
    "circulant": dict(name="circulant-mlp", shape=(1, 3, 3), classes=4, depth=3, mean=(0.5,), std=0.5),
    "conv": dict(name="sll-conv", shape=(1, 6, 6), classes=4, convs=2, dense=1, width=3, inner=3, hidden=8, pool=2),
}


def net_of(name):
    torch.manual_seed(0)
    net = build(**NETS[name]).eval()
    for key, a in net.named_parameters():
        if key.endswith("bias"):
            nn.init.normal_(a, std=0.3)
    return lp.materialise(net)


def steepest(gradient, norm, radius):
    """The step of this length that raises a linear function most."""
    g = gradient.flatten(1)
    if norm == math.inf:
        step = g.sign()
    elif norm == 2:
        step = g / g.norm(dim=1, keepdim=True).clamp_min(1e-30)
    else:
        step = torch.zeros_like(g).scatter(1, (at := g.abs().argmax(1, keepdim=True)), g.gather(1, at).sign())
    return (radius.view(-1, 1) * step).view_as(gradient)


def lowest_margins(net, x, y, norm, radius, steps=6):
    """(N,): the least float32 margin that steps along the gradient find inside of balls."""
    found = torch.full((len(x),), math.inf)
    for other in range(1, net(x).shape[1]):
        at = x.clone()
        for k in range(steps):
            at = at.detach().requires_grad_()
            z = net(at)
            target = (y + other) % z.shape[1]
            rise = (z.gather(1, target[:, None]) - z.gather(1, y[:, None])).sum()
            step = steepest(torch.autograd.grad(rise, at)[0], norm, 0.999 * radius)
            at = x + step if k == 0 else x + (at.detach() - x) / 2 + step / 2  # stays in the convex ball
            found = torch.minimum(found, lp.margin(net(at).detach(), y).float())
    return found


@each_norm
@pytest.mark.parametrize("name", NETS)
def test_no_attack_breaks_a_radius_and_no_radius_is_smaller_than_the_one_of_all_logits(name, norm):
    net, x = net_of(name), torch.rand(20, *NETS[name]["shape"])
    y = net(x).argmax(1)
    try:
        whole = lp.lipschitz_bound(net, norm)
    except TypeError:
        assert norm != math.inf
        with pytest.raises(TypeError, match="Lipschitz bound is known"):
            pair_bounds(net, norm)
        return
    with torch.no_grad():
        z, pairs = net.double()(x.double()), pair_bounds(net, norm)
        net = net.float()
        pairwise, old = pairwise_radius(z, pairs, y), lp.certified_radius(z, y, whole, norm)
        assert (pairwise >= old * (1 - 1e-8)).all()
        if name != "dist":
            assert (pairwise > old * 1.05).any()
        sound = lp.sound_radius(net, x, y, norm=norm)
    assert (sound <= pairwise.float()).all() and (sound >= 0.99 * pairwise - 1e-4).all() and (sound > 0).any()
    lowest = lowest_margins(net, x, y, norm, sound)
    assert (lowest[sound > 0] > 0).all()
    eps = sound.median().item()
    bound = sound_margin(copy.deepcopy(net).double(), x, y, Ball(eps, norm))
    assert ((bound > 0) >= (sound > eps * (1 + 1e-5))).all()
    assert (lowest_margins(net, x, y, norm, torch.full((20,), eps)) >= bound).all()


@torch.no_grad()
@each_norm
def test_the_radius_of_a_linear_net_is_its_distance_to_the_border(norm):
    torch.manual_seed(1)
    net, x = nn.Linear(5, 3).double(), torch.randn(30, 5, dtype=torch.float64)
    z, y = net(x), net(x).argmax(1)
    radius = pairwise_radius(z, pair_bounds(net, norm))
    dual = {math.inf: 1, 2: 2, 1: math.inf}[norm]
    rows = net.weight[y].unsqueeze(1) - net.weight
    distance = (z.gather(1, y[:, None]) - z) / torch.linalg.vector_norm(rows, dual, dim=2)
    exact = distance.scatter(1, y[:, None], math.inf).amin(1)
    assert (radius <= exact).all() and torch.allclose(radius, exact, rtol=1e-8)


@torch.no_grad()
def test_equal_rows_ties_and_what_is_misclassified():
    net = nn.Sequential(nn.Flatten(), nn.Linear(2, 3)).eval()
    net[1].weight[:] = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    net[1].bias[:] = torch.tensor([0.0, -1.0, 0.0])
    x = torch.tensor([[3.0, 0.0], [2.0, 2.0], [0.0, 1.0]])
    for norm in NORMS.values():
        radius = pairwise_radius(net(x), pair_bounds(net, norm), torch.tensor([0, 0, 0]))
        assert radius[0] > 0 and radius[1] == radius[2] == 0
    logits = torch.tensor([[1.0, math.nan, 0.0], [1.0, 0.0, -math.inf]])
    assert pairwise_radius(logits, torch.ones(1, 1)).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("pairs", (torch.ones(2, 2), torch.zeros(1, 1), torch.ones(3), torch.full((3, 3), math.nan)))
def test_bounds_that_do_not_fit_are_refused(pairs):
    with pytest.raises(ValueError, match="pairs must be positive, of shape"):
        pairwise_radius(torch.rand(4, 3), pairs)


def test_a_sequence_with_hooks_or_a_forward_of_its_own_has_no_bounds():
    net = nn.Sequential(nn.Sequential(nn.ReLU(), nn.Linear(2, 2)))
    assert pair_bounds(net).shape == (2, 2) and pair_bounds(net[0][:1]).shape == (1, 1)
    net[0].register_forward_hook(lambda *_: None)
    with pytest.raises(RuntimeError, match="hook"):
        pair_bounds(net)


@torch.no_grad()
def test_certificates_of_l2_balls_are_found_by_name_and_by_norm():
    net, x = net_of("sll"), torch.rand(10, 1, 3, 3)
    y = net(x).argmax(1)
    radius = lp.sound_radius(net, x, y, norm=2)
    eps = radius.median().item() * 0.999
    found = certify(net, x, y, eps, norm="l2")
    assert torch.equal(found.certified, radius > eps)
    assert (margin_bound(net, x, y, eps, "lipschitz-l2")[found.certified] > 0).all()
    with pytest.raises(ValueError, match="lipschitz-l2 certifies ℓ2 balls, and norm is ℓ∞"):
        certify(net, x, y, eps, ["lipschitz-l2"])


def test_balls_in_l2_may_be_wider_than_the_pixel_range():
    """ε₂ = 1.58 is usual on MNIST.  What is certified there is what has a larger radius, and attacks fail inside."""
    eps, n = 1.58, 100
    torch.manual_seed(0)
    net = lp.build("sll-mlp", shape=(1, 10, 10), classes=2, depth=2, hidden=24).eval()
    with torch.no_grad():  # the residual layers stay near the identity, so the halves of an image are told apart
        net[-1].weight.copy_(torch.tensor([[1.0] * 50 + [-1.0] * 50, [-1.0] * 50 + [1.0] * 50]))
    net = lp.materialise(net)
    x = 0.1 * torch.rand(40, 1, 10, 10)
    x[:20, :, :5] += torch.linspace(0.1, 0.9, 20).view(-1, 1, 1, 1)
    x[20:, :, 5:] += torch.linspace(0.1, 0.9, 20).view(-1, 1, 1, 1)
    with torch.no_grad():
        y = net(x).argmax(1)
    radius = lp.sound_radius(net, x, y, norm="l2")
    found = certify(net, x, y, eps, norm="l2")
    assert torch.equal(found.certified, radius > eps) and 5 < found.certified.sum() < 35
    assert torch.equal(margin_bound(net, x, y, eps, "lipschitz-l2") > 0, radius > eps)
    assert torch.equal(certify_each(net, x, y, eps, norm=2)["lipschitz-l2"], radius > eps)
    curve = certify_curve(net, x, y, [0.1, 1.0, eps, 9.0], norm="l2")
    assert torch.equal(curve.proved["lipschitz-l2"] >= eps, radius > eps)
    assert not (curve.proved["lipschitz-l2"] > n**0.5).any()  # no image is further away than another class
    inside = lowest_margins(net, x, y, 2.0, torch.full((40,), eps))
    assert (inside[found.certified] > 0).all() and (inside[~found.certified] <= 0).any()
    with pytest.raises(ValueError, match="eps must be at most high − low = 1"):
        certify(net, x, y, eps)


@torch.no_grad()
def test_rounding_of_a_deep_residual_net_costs_little_in_l2():
    """Bounds of each number by itself grow at each layer, and certify nothing here."""
    torch.manual_seed(0)
    net = lp.materialise(build("sll-mlp", shape=(1, 4, 4), classes=5, depth=25, hidden=16).eval())
    x = torch.rand(8, 1, 4, 4)
    exact = copy.deepcopy(net).double()
    naive = pairwise_radius(exact(x.double()), pair_bounds(exact, 2))
    sound = lp.sound_radius(net, x, norm=2)
    assert (sound <= naive).all() and (sound > 0.995 * naive).all()
    radius = torch.full((8,), 0.1, dtype=torch.float64)
    error = error_in_l2(exact, l2_bounds(exact), x.double(), radius)
    assert (error < 2e-4).all() and (error < reach(exact, *box(x, radius)).error.amax(1) / 1e6).all()
    step = torch.randn(200, *x.shape)
    moved = x + 0.0999 * step / step.flatten(2).norm(dim=2)[..., None, None, None]
    for inputs in (x, *moved):
        off = (net(inputs).double() - exact(inputs.double())).norm(dim=1)
        assert (off <= error).all()


@torch.no_grad()
def test_an_overflow_certifies_nothing():
    net = nn.Sequential(lp.PotentialLinear(3, 2), nn.Linear(3, 2)).eval()
    net[1].weight *= 1e38
    x = torch.full((2, 3), 1e3)
    assert lp.sound_radius(net, x, norm=2).tolist() == [0.0, 0.0]
    bound = sound_margin(copy.deepcopy(net).double(), x, torch.zeros(2, dtype=torch.long), Ball(0.1, 2.0))
    assert (bound == -math.inf).all()
