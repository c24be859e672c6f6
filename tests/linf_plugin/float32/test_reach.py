"""Bounds of rounding errors against exact arithmetic, and radii against the float32 program.  No tolerance.

Exact means fractions where every layer is rational, 60 digits elsewhere.
"""

import copy
import math
from fractions import Fraction
from functools import partial

import mpmath
import numpy as np
import pytest
import torch
from cases import INF, each_device
from torch import nn

from linf_plugin import (
    LinfDistConv2d,
    LinfDistLinear,
    MaxMin,
    MeanShift,
    Negate,
    Normalize,
    ParamRamp,
    SortDistLinear,
    build,
    certified_radius,
    margin,
    materialise,
    set_p,
    sound_radius,
)
from linf_plugin.certificates.lipschitz import sound_margin
from linf_plugin.certificates.margin import pairwise_radius
from linf_plugin.certificates.pairs import of_labels, pair_bounds
from linf_plugin.float32.reach import check_program, layers, reach
from linf_plugin.float32.rules import POWER_UNITS, ROUNDING, TANH_UNITS, UNIT, Reach
from linf_plugin.kernels import blocked, reference
from linf_plugin.layers.base import distance_layers
from linf_plugin.layers.lipschitz import lipschitz_bound
from linf_plugin.layers.potential import Potential
from linf_plugin.layers.reparametrised import Reparametrised
from linf_plugin.layers.shifts import CenterCrop
from linf_plugin.norms import Ball, box
from linf_plugin.ops import dist
from linf_plugin.refusal import Refusal

mpmath.mp.dps = 60
NORMALISATIONS = (nn.BatchNorm1d, nn.BatchNorm2d)


def _numbers(a, number):
    """The numbers of a tensor or a float, exactly, as ``number``."""
    flat = np.array([number(v) for v in torch.as_tensor(a).detach().double().reshape(-1).tolist()], dtype=object)
    return flat.reshape(torch.as_tensor(a).shape)


def _windows(x, layer):
    """(C, H, W) → (H', W', groups, C/groups, kh, kw)."""
    (p, q), (s, t), (d, e) = layer.padding, layer.stride, layer.dilation
    _, channels, kh, kw = layer.weight.shape
    x = np.pad(x, ((0, 0), (p, p), (q, q)), constant_values=x.flat[0] * 0)
    rows = range(0, x.shape[1] - d * (kh - 1), s)
    columns = range(0, x.shape[2] - e * (kw - 1), t)
    parts = [[x[:, i : i + d * (kh - 1) + 1 : d, j : j + e * (kw - 1) + 1 : e] for j in columns] for i in rows]
    return np.array(parts, dtype=object).reshape(len(rows), len(columns), layer.groups, channels, kh, kw)


def _norm(t, p, number):
    """Over the last axis."""
    t = abs(t)
    if p == INF or not t.shape[-1]:
        return t.max(-1)
    return np.vectorize(lambda s: s ** (number(1) / number(p)), otypes=[object])((t ** number(p)).sum(-1))


def _sorted_sum(t, layer, number):
    """Over the last axis."""
    c = [number(a) for a in reference.coefficients(layer.rho, layer.k, layer.in_features)]
    assert sum(c) <= 1
    return (np.sort(abs(t), axis=-1)[..., ::-1][..., : len(c)] * np.array(c, dtype=object)).sum(-1)


def _exact(layer, x, number):
    """The layer on one sample, an array of ``number``."""
    get = partial(_numbers, number=number)
    per_channel = (-1,) + (1,) * (x.ndim - 1)
    if isinstance(layer, Normalize):
        return (x - get(layer.mean).reshape(per_channel)) * number(layer.scale)
    if isinstance(layer, MeanShift):
        return x - get(layer.running_mean).reshape(per_channel)
    if isinstance(layer, Negate):
        return -x
    if isinstance(layer, CenterCrop):
        top, left = ((side - layer.size) // 2 for side in x.shape[1:])
        return x[:, top : top + layer.size, left : left + layer.size]
    if isinstance(layer, nn.Flatten):
        return x.reshape(-1)
    if isinstance(layer, nn.ReLU):
        return np.maximum(x, number(0))
    if isinstance(layer, ParamRamp):
        return np.minimum(np.maximum(x, number(0)), get(layer.top).reshape(per_channel))
    if isinstance(layer, MaxMin):
        return np.stack([np.maximum(x[::2], x[1::2]), np.minimum(x[::2], x[1::2])], 1).reshape(x.shape)
    if isinstance(layer, Potential):
        into, back = layer.branch()
        return x - _exact(back, np.maximum(_exact(into, x, number), number(0)), number)
    if isinstance(layer, NORMALISATIONS):
        mean, variance = get(layer.running_mean), get(layer.running_var) + number(layer.eps)
        factor = get(layer.weight) / np.vectorize(mpmath.sqrt, otypes=[object])(variance)
        y = (x - mean.reshape(per_channel)) * factor.reshape(per_channel)
        return y + get(layer.bias).reshape(per_channel)
    if isinstance(layer, nn.Tanh):
        return np.vectorize(mpmath.tanh, otypes=[object])(x)
    w = get(layer.weight)
    if isinstance(layer, (LinfDistConv2d, nn.Conv2d)):
        x = _windows(x, layer)
        x = np.repeat(x, len(w) // layer.groups, axis=2)  # (H', W', out, C/groups, kh, kw)
        x, w = x.reshape(*x.shape[:3], -1), w.reshape(len(w), -1)
        per_channel = (-1, 1, 1)
    if isinstance(layer, SortDistLinear):
        y = _sorted_sum(x - w, layer, number)
    else:
        y = _norm(x - w, layer.p, number) if hasattr(layer, "p") else (x * w).sum(-1)
    y = np.moveaxis(y, -1, 0)
    return y if layer.bias is None else y + get(layer.bias).reshape(per_channel[: y.ndim])


def _exact_outputs(net, x):
    number = (
        mpmath.mpf
        if any(
            isinstance(layer, (nn.Tanh, *NORMALISATIONS)) or getattr(layer, "p", INF) != INF for layer in layers(net)
        )
        else Fraction
    )
    outputs = []
    for sample in x:
        y = _numbers(sample, number)
        for layer in layers(net):
            y = _exact(layer, y, number)
        outputs.append(y)
    return np.array(outputs, dtype=object), number


NETS = {
    "shallow": dict(name="linf-mlp", shape=(1, 2, 3), classes=3, width=5, depth=1, std=0.5),
    "mlp": dict(name="linf-mlp", shape=(1, 2, 3), classes=4, width=6, depth=3, mean=(0.5,), std=0.3),
    "deep": dict(name="linf-mlp", shape=(1, 2, 2), classes=3, width=6, depth=8, mean=(0.5,), std=0.3),
    "conv": dict(
        name="linf-conv", shape=(2, 4, 4), classes=3, channels=(3, 4), strides=(1, 2), width=5, mean=(0.2, 0.4)
    ),
    "sort": dict(name="sortnet-mlp", shape=(1, 2, 3), classes=4, width=7, depth=3, rho=0.4, k=5, mean=(0.5,), std=0.3),
    "sort-all": dict(name="sortnet-mlp", shape=(1, 2, 2), classes=3, width=5, depth=4, rho=0.01, std=0.3),
    "sort-one": dict(name="sortnet-mlp", shape=(1, 2, 2), classes=3, width=5, depth=2, rho=1.0),
    "crop": dict(name="linf-mlp", shape=(2, 4, 5), classes=3, width=5, depth=2, crop=2, mean=(0.2, 0.4), std=0.3),
    "clip": dict(name="linf-mlp", shape=(2, 2, 2), classes=3, width=5, depth=3, clip=0.4, mean=(0.2, 0.4), std=0.3),
    "relu": dict(name="relu-mlp", shape=(1, 2, 3), classes=3, width=7, depth=3, mean=(0.5,), std=0.3),
    "relu-conv": dict(name="relu-conv", shape=(1, 4, 4), classes=3, channels=(3, 2), strides=(1, 2), width=5),
    "ramp": dict(
        name="relu-conv", shape=(1, 4, 4), classes=3, channels=(3, 2), strides=(1, 2), width=5, activation="ramp"
    ),
    "sll-mlp": dict(name="sll-mlp", shape=(1, 2, 3), classes=3, depth=3, hidden=5),
    "sll-conv": dict(name="sll-conv", shape=(1, 4, 4), classes=3, convs=1, dense=1, width=2, inner=3, hidden=4, pool=2),
    "max-min": dict(
        name="relu-conv", shape=(1, 4, 4), classes=3, channels=(4, 2), strides=(1, 2), width=6, activation="max-min"
    ),
}
HIGH_PRECISION = {
    "head": dict(name="linf-mlp-head", shape=(1, 2, 3), classes=3, width=5, depth=2, hidden=4, std=0.3),
    "batch-norm": dict(
        name="relu-conv", shape=(1, 4, 4), classes=3, channels=(3, 2), strides=(1, 2), width=5, batch_norm=True
    ),
    "p=1": dict(NETS["mlp"], p=1.0),
    "p=2.5": dict(NETS["mlp"], p=2.5),
    "p=8-conv": dict(NETS["conv"], p=8.0),
    "p=100-head": dict(name="linf-mlp-head", shape=(1, 2, 3), classes=3, width=5, depth=2, hidden=4, p=100.0),
    "p=1000": dict(NETS["mlp"], p=1000.0),
    "p=2.5-sort": dict(NETS["sort"], p=2.5),
    "sort-head": dict(
        name="sortnet-mlp", shape=(1, 2, 3), classes=3, width=5, depth=2, rho=0.6, k=3, hidden=4, std=0.3
    ),
}
SCALES = (1.0, 1e4, 1e-6, 1e-38, "mixed")  # of weights and means; products of 1e-38 are below the normal numbers


def _net(arguments, scale=1.0):
    arguments = dict(arguments)
    p = arguments.pop("p", INF)
    net = build(**arguments).eval()
    if any(isinstance(layer, Reparametrised) for layer in net):  # batch norm has a rule of its own: it is not folded
        net = materialise(net)
    set_p(net, p)
    with torch.no_grad():
        shifted = (MeanShift, *NORMALISATIONS)
        for a in (*net.parameters(), *(m.running_mean for m in net.modules() if isinstance(m, shifted))):
            nn.init.normal_(a)
            a *= 10.0 ** torch.randint(-6, 5, a.shape) if scale == "mixed" else scale
        for m in net.modules():
            if isinstance(m, NORMALISATIONS):
                m.running_var.uniform_(0, 2)
    return net


def _inputs_in_the_ball(x, radius, count):
    """float32 inputs with |x′ − x| < radius (N,): corners and inner points, (count, *x.shape)."""
    radius = radius.double().view(-1, *[1] * (x.dim() - 1))
    corners = torch.randint(-1, 2, (count // 2, *x.shape)).double()
    inner = torch.rand(count - count // 2, *x.shape, dtype=torch.float64) * 2 - 1
    moved = (x.double() + radius * torch.cat((corners, inner))).float()
    for _ in range(3):  # back towards x, until the ball holds it
        outside = (moved.double() - x.double()).abs() >= radius
        moved = torch.where(outside, torch.nextafter(moved, x.expand_as(moved)), moved)
    return torch.where(outside, x, moved)


def _assert_within(net, x, bounds, computed):
    """Exact and computed outputs lie where ``reach`` says, and no farther apart."""
    exact, number = _exact_outputs(net, x)
    lower, upper, error = (_numbers(a, number) for a in bounds)
    assert (abs(_numbers(computed, number) - exact) <= error).all()
    for values in (exact, _numbers(computed, number)):
        assert (lower <= values).all() and (values <= upper).all()


@pytest.mark.parametrize("radius", (0.0, 1e-3, 0.5), ids=lambda r: f"r={r}")
@pytest.mark.parametrize("scale", SCALES, ids=lambda s: f"scale={s}")
@pytest.mark.parametrize("arguments", NETS.values(), ids=NETS)
def test_rational_nets_err_less_than_the_bound(arguments, scale, radius):
    net = _net(arguments, scale)
    x = torch.rand(2, *net.input_shape)
    with torch.no_grad():
        bounds = reach(net, *box(x, radius))
        moved = _inputs_in_the_ball(x, torch.full((2,), radius), 4)
        for inputs in (x, *moved):
            _assert_within(net, inputs, bounds, net(inputs))


@pytest.mark.parametrize("scale", SCALES, ids=lambda s: f"scale={s}")
@pytest.mark.parametrize("arguments", HIGH_PRECISION.values(), ids=HIGH_PRECISION)
def test_other_nets_err_less_than_the_bound(arguments, scale):
    net = _net(arguments, scale)
    x = torch.rand(2, *net.input_shape)
    with torch.no_grad():
        bounds = reach(net, *box(x, 0.1))
        for inputs in (x, *_inputs_in_the_ball(x, torch.full((2,), 0.1), 4)):
            _assert_within(net, inputs, bounds, net(inputs))


@torch.no_grad()
def _flushing(net: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """net(x) on a processor that flushes subnormal numbers to zero."""
    assert torch.set_flush_denormal(True)
    try:
        return net(x).clone()
    finally:
        torch.set_flush_denormal(False)


def test_the_bound_also_covers_flushing_to_zero():
    net = _net(dict(NETS["relu"], depth=2), 1e-20)
    for layer in net:
        if isinstance(layer, nn.Linear):
            layer.bias.data.zero_()
    x = torch.rand(4, *net.input_shape)  # outputs near 1e-40, below the normal numbers
    bounds = reach(net, *box(x, 0.0))
    computed = _flushing(net, x)
    assert (computed != net(x)).any()
    _assert_within(net, x, bounds, computed)


def test_the_bound_of_a_sorted_sum_covers_flushing_and_overflow():
    net = nn.Sequential(SortDistLinear(20, 30, bias=False, rho=0.1)).eval()
    net[0].weight.data *= 1e-38  # differences just above the normal numbers: products below them
    x = 3e-38 * torch.rand(40, 20)
    bounds = reach(net, *box(x, 0.0))
    computed = _flushing(net, x)
    with torch.no_grad():
        assert (computed != net(x)).any()
        _assert_within(net, x, bounds, computed)
        net[0].weight.data[:] = 0
        net[0].weight.data[:, 0] = -3e38
        x = torch.zeros(1, 20)
        x[0, 0] = 1e38
        assert net(x).isinf().all()  # the difference, not the sum
        bounds = reach(net, *box(x, 0.0))
        assert (net.double()(x.double()) < 1e38).all() and (bounds.error == INF).all()


def test_the_bound_of_a_sorted_sum_is_small():
    """Each term is rounded K + 1 times; an error of one input counts as much as that input."""
    layer = SortDistLinear(20, 30, bias=False, rho=0.5, k=4).eval()
    x = torch.rand(5, 20, dtype=torch.float64)
    with torch.no_grad():
        y = layer.double()(x)
        assert (reach(layer, x, x).error <= 5.001 * UNIT * y).all()
        error = torch.zeros(5, 20, dtype=torch.float64)
        error[:, 3] = 1
        after = ROUNDING[SortDistLinear](layer, Reach(x, x, error)).error
    assert (after < 8 / 15 + 1e-5).all()  # c_1


def test_the_bound_is_about_as_small_as_it_can_be():
    """At p = ∞ each distance, mean and normalisation costs one rounding of its size, and nothing grows."""
    net = _net(NETS["deep"])
    x = torch.rand(20, *net.input_shape)
    y, total, exact = x.double(), 0.0, copy.deepcopy(net).double()
    for layer in layers(exact):
        y = layer(y)
        total += (
            2 * UNIT * y.abs().max().item() * (lipschitz_bound(net, math.inf) if isinstance(layer, Normalize) else 1)
        )
    assert reach(net, *box(x, 0.0)).error.max() <= total


def _gradient_steps(net, x, labels, radius):
    """Inputs just within the radius that lower the margin to each other class."""
    x = x.clone().requires_grad_()
    z = net(x)
    radius = radius.double().view(-1, *[1] * (x.dim() - 1))
    for other in range(z.shape[1]):
        difference = z[:, other] - z.gather(1, labels.unsqueeze(1)).squeeze(1)
        sign = torch.autograd.grad(difference.sum(), x, retain_graph=True)[0].sign()
        moved = (x.detach().double() + radius * sign).float()
        while (outside := (moved.double() - x.detach().double()).abs() >= radius).any() and (radius > 0).all():
            moved = torch.where(outside, torch.nextafter(moved, x.detach()), moved)
        yield moved


@pytest.mark.parametrize("scale", (1.0, 1e3, 1e-3), ids=lambda s: f"scale={s}")
@pytest.mark.parametrize("arguments", [*NETS.values(), *HIGH_PRECISION.values()], ids=[*NETS, *HIGH_PRECISION])
def test_float32_keeps_its_prediction_within_the_radius(arguments, scale):
    net = _net(arguments, scale)
    x = torch.rand(40, *net.input_shape)
    radius = sound_radius(net, x)
    assert radius.dtype == torch.float32 and radius.shape == (40,)
    x, radius = x[radius > 0], radius[radius > 0]
    with torch.no_grad():
        labels = net(x).argmax(1)
        assert (radius <= pairwise_radius(net(x), pair_bounds(net), labels) * 1.01 + 1e-3).all()
    inputs = (*_inputs_in_the_ball(x, radius, 100), *_gradient_steps(net, x, labels, radius))
    for moved in inputs:
        assert ((moved.double() - x.double()).abs().flatten(1).amax(1) < radius).all()
        with torch.no_grad():
            z = net(moved)
        at_label = z.gather(1, labels.unsqueeze(1)).squeeze(1)
        assert (at_label > z.scatter(1, labels.unsqueeze(1), -INF).amax(1)).all()


@pytest.mark.parametrize("scale", (1.0, 1e3, 1e-3), ids=lambda s: f"scale={s}")
@pytest.mark.parametrize("arguments", [*NETS.values(), *HIGH_PRECISION.values()], ids=[*NETS, *HIGH_PRECISION])
def test_no_float32_margin_is_below_its_bound(arguments, scale):
    """In balls that a bound just certifies, where rounding matters, in one of 0.01, and at x alone."""
    net = _net(arguments, scale)
    exact, x = copy.deepcopy(net).double(), torch.rand(20, *net.input_shape)
    with torch.no_grad():
        z = net(x)
    labels = z.argmax(1)
    radius = sound_radius(net, x).double()
    for eps in (0.0, 0.01, radius.median().item(), radius.max().item()):
        bound = sound_margin(exact, x, labels, Ball(eps))
        assert bound.dtype == torch.float64 and bound.isfinite().all()
        at, z64 = labels.unsqueeze(1), z.double()
        most = z64.gather(1, at) - z64 - of_labels(pair_bounds(exact), labels) * eps
        assert (bound <= most.scatter(1, at, INF).amin(1)).all()
        ball = torch.full((20,), eps)
        for moved in (x, *_inputs_in_the_ball(x, ball, 40), *(_gradient_steps(net, x, labels, ball) if eps else ())):
            with torch.no_grad():
                assert (margin(net(moved), labels) >= bound).all()


@pytest.mark.parametrize("ulps", (3, 11, 41))
def test_the_margin_of_float32_logits_is_wrong_for_the_program_and_its_bound_is_not(ulps):
    """The net of the next test, of ball after ball."""
    step = 2.0**-10
    net = build("linf-mlp", shape=(1, 1, 1), classes=2, width=1, depth=1).eval()
    net[2].weight.data = torch.tensor([[-10000.0], [10000 + ulps * step]])
    x, label = torch.full((1, 1, 1, 1), 0.4 * step), torch.tensor([0])
    with torch.no_grad():
        eps = (ulps / 2 - 0.2) * step
        naive = margin(net(x), label).item() - 2 * eps
        assert naive > 0 > margin(net(x + eps), label).item()
        assert sound_margin(net.double(), x, label, Ball(eps)).item() < 0
        smaller = (ulps / 2 - 4) * step  # beyond what rounding can do to two numbers near 10⁴
        assert smaller < 0 or sound_margin(net, x, label, Ball(smaller)).item() > 0


def test_a_range_of_inputs_makes_the_margin_bound_no_smaller():
    net = _net(NETS["mlp"]).double()
    x = torch.rand(20, *net[0].mean.shape, 2, 3)
    labels = net(x.double()).argmax(1)
    free, within = (sound_margin(net, x, labels, Ball(0.5, math.inf, *ends)) for ends in ((), (0.0, 1.0)))
    assert (within >= free).all() and (within > free).any()


@pytest.mark.parametrize("ulps", (3, 11, 41))
def test_the_radius_of_logits_alone_is_wrong_for_the_program_and_this_one_is_not(ulps):
    """Around 10⁴ float32 has steps of 2⁻¹⁰.  At x = .4 steps the nearer distance is rounded down and the farther
    up, so the computed margin exceeds the exact one by .8 steps."""
    step = 2.0**-10
    net = build("linf-mlp", shape=(1, 1, 1), classes=2, width=1, depth=1).eval()
    net[2].weight.data = torch.tensor([[-10000.0], [10000 + ulps * step]])
    x, label = torch.full((1, 1, 1, 1), 0.4 * step), torch.tensor([0])
    with torch.no_grad():
        naive = certified_radius(net(x), label, lipschitz_bound(net, math.inf)).item()
        sound = sound_radius(net, x, label).item()
        across = x + (ulps / 2 - 0.2) * step  # beyond the middle, but within the naive radius
        assert (across - x).item() < naive
        assert net(x).argmax(1) == 0 and net(across).argmax(1) == 1
        assert sound <= (ulps / 2 - 0.4) * step  # the exact radius
        assert (sound > 0) == (ulps > 5)
        for k in range(1, 50):
            assert net(x + 0.999 * sound * k / 49).argmax(1) == 0


def test_radii_are_little_smaller_than_without_rounding():
    net = _net(dict(name="linf-mlp", shape=(1, 8, 8), classes=10, width=64, depth=4, mean=(0.3,), std=0.37))
    x = torch.rand(50, *net.input_shape)
    with torch.no_grad():
        labels = net(x).argmax(1)
        naive = certified_radius(net(x), labels, lipschitz_bound(net, math.inf))
        sound = sound_radius(net, x, labels)
    assert (sound < naive).all() and (naive - sound).max() < 1e-5
    assert torch.equal(sound, sound_radius(net, x)) and torch.equal(sound, sound_radius(net, x, batch_size=7))


def test_misclassified_tied_and_empty_have_radius_0():
    net = _net(NETS["mlp"])
    x = torch.rand(5, *net.input_shape)
    wrong = (net(x).argmax(1) + 1) % 4
    assert sound_radius(net, x, wrong).tolist() == [0.0] * 5
    assert sound_radius(net, x[:0]).shape == (0,)
    net[-2].weight.data[:] = net[-2].weight.data[:1].clone()
    net[-2].bias.data.zero_()
    assert sound_radius(net, x).tolist() == [0.0] * 5


@pytest.mark.parametrize("arguments", (NETS["mlp"], NETS["relu"], NETS["conv"], HIGH_PRECISION["p=2.5"]))
def test_what_may_overflow_certifies_nothing(arguments):
    net = _net(arguments, 8e37)
    x = torch.rand(3, *net.input_shape)
    assert (reach(net, *box(x, 0.1)).error == INF).all()
    assert sound_radius(net, x).tolist() == [0.0] * 3
    assert sound_margin(net.double(), x, torch.arange(3), Ball(0.0)).tolist() == [-INF] * 3


POWERS = (1.0, 1.5, 2.0, 3.0, 7.3, 8.0, 10.0, 64.0, 100.5, 1000.0)
DISTANCES = {"ops": dist, "blocked": blocked.dist, "reference": reference.dist}


@pytest.mark.parametrize("distance", DISTANCES.values(), ids=DISTANCES)
@pytest.mark.parametrize("p", POWERS, ids=lambda p: f"p={p}")
@each_device
def test_distances_err_less_than_assumed(p, distance, device):
    """As docs/math.md assumes, in float32 and in float64."""
    for features in (1, 5, 100):
        for scale in (1e-30, 1.0, 1e30, "mixed"):
            x, w = torch.randn(3, features), torch.randn(4, features)
            w *= 10.0 ** torch.randint(-3, 3, w.shape) if scale == "mixed" else scale
            x *= 1.0 if scale == "mixed" else scale
            t = _numbers(x.unsqueeze(1), mpmath.mpf) - _numbers(w, mpmath.mpf)
            exact = _norm(t, p, mpmath.mpf)
            for dtype, unit in ((torch.float32, UNIT), (torch.float64, 2.0**-53)):
                units = (POWER_UNITS + features / p) * unit
                got = _numbers(distance(x.to(device, dtype), w.to(device, dtype), p), mpmath.mpf)
                assert (abs(got - exact) <= units * exact).all()


@each_device
def test_tanh_errs_less_than_assumed(device):
    bits = torch.arange(0, 0x42000000, 1021, dtype=torch.int32)  # from 0 to 32
    x = bits.view(torch.float32).to(device)
    high = x.double().tanh()
    assert ((x.tanh().double() - high).abs() <= (TANH_UNITS * UNIT - 2.0**-48) * high).all()
    assert torch.equal((-x).tanh(), -x.tanh())
    some = slice(7, None, 1009)
    for a, b in zip(x[some].tolist(), high[some].tolist()):
        exact = mpmath.tanh(mpmath.mpf(a))
        assert abs(exact - b) <= 2.0**-48 * exact


def test_every_layer_type_with_a_rule_is_in_a_net():
    ruled = {kind for kind, rule in ROUNDING.items() if not isinstance(rule, Refusal)}
    tried = {type(layer) for arguments in (*NETS.values(), *HIGH_PRECISION.values()) for layer in _net(arguments)}
    tried.add(nn.Identity)  # no architecture has one
    missing = {kind.__name__ for kind in ruled - tried}
    assert not missing, f"{missing}: add a net to NETS in this file, and the exact layer to _exact"


class _Other(nn.Sequential):
    def forward(self, x):
        y = super().forward(x)
        return -y if y.sum() > 0 else y


BAD = {  # what is wrong with a net: exception, what the message names
    "unknown-layer": (lambda net: net.append(nn.Softmax(1).eval()), TypeError, "softmax at layer '9' .Softmax"),
    "own-forward": (lambda net: _Other(*net).eval(), TypeError, "_Other"),
    "float64": (lambda net: net.double(), TypeError, "float64"),
    "training": (lambda net: net.train(), ValueError, "training mode"),
}


@pytest.mark.parametrize("spoil, error, names", BAD.values(), ids=BAD)
def test_what_is_not_covered_is_refused(spoil, error, names):
    net = spoil(nn.Sequential(*_net(HIGH_PRECISION["head"])).eval())
    with pytest.raises(error, match=names):
        sound_radius(net, torch.rand(2, 1, 2, 3))


def _hooked(where):
    def spoil(net):
        where(net).register_forward_hook(lambda module, inputs, y: -y)
        return net

    return spoil


def _shadowed(attribute, value):
    def spoil(net):
        net[-1].__dict__[attribute] = value
        return net

    return spoil


def _pre_hooked(net):
    net[2].register_forward_pre_hook(lambda module, inputs: (-inputs[0],))
    return net


def _compiled(net):
    net[2].compile(backend="eager")
    return net


def _scaled(**values):
    def spoil(net):
        vars(net[0]).update(values)
        return net

    return spoil


class _Called(nn.Sequential):
    def __call__(self, x):
        y = super().__call__(x)
        return -y if y.sum() > 0 else y


def _normed(normalise):
    def spoil(net):
        normalise(net[-1])
        return net.eval()

    return spoil


class _Own(torch.Tensor):
    """A weight with another arithmetic, as quantised ones have."""


def _quantised(net):
    net[-1].weight = nn.Parameter(net[-1].weight.data.as_subclass(_Own))
    return net


NO_SEQUENCE = {  # nets that are not the sequence of their layers, or whose layers are not what their class says
    "hook": (_hooked(lambda net: net[1]), RuntimeError, "layer '1'.*hooks"),
    "hook-of-model": (_hooked(lambda net: net), RuntimeError, "Sequential has forward hooks"),
    "hook-of-container": (
        lambda net: nn.Sequential(_hooked(lambda net: net)(net)),
        RuntimeError,
        "layer '0' .Sequential. has.*hooks",
    ),
    "pre-hook": (_pre_hooked, RuntimeError, "layer '2'.*hooks"),
    "weight_norm": (_normed(nn.utils.weight_norm), RuntimeError, "Linear.*hooks.*weight_norm"),
    "spectral_norm": (_normed(nn.utils.spectral_norm), RuntimeError, "Linear.*hooks.*spectral_norm"),
    "parametrisation": (
        _normed(nn.utils.parametrizations.spectral_norm),
        TypeError,
        "computes with constants and rounds",
    ),
    "forward": (_shadowed("forward", lambda x: x), TypeError, "Linear.*forward of its own"),
    "lipschitz": (lambda net: _shadowed("lipschitz", 0.5)(net.append(Negate())), TypeError, "lipschitz of its own"),
    "call": (lambda net: _Called(*net), TypeError, "_Called"),
    "compile": (_compiled, RuntimeError, "layer '2'.*compiled in place"),
    "torch.compile": (lambda net: torch.compile(net, backend="eager"), TypeError, "the model is compiled"),
    "layer-compiled": (
        lambda net: nn.Sequential(*net[:2], torch.compile(net[2], backend="eager"), *net[3:]),
        TypeError,
        "Optimized",
    ),
    "scale": (_scaled(scale=1 / 3), TypeError, "scale of layer '0'.*float32"),
    "tiny-scale": (_scaled(scale=2.0**-130), TypeError, "scale of layer '0'.*normal"),
    "own-tensor": (_quantised, TypeError, "weight is a _Own"),
}


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
@pytest.mark.parametrize("spoil, error, names", NO_SEQUENCE.values(), ids=NO_SEQUENCE)
def test_what_is_not_the_sequence_of_its_layers_is_refused(spoil, error, names):
    net = nn.Sequential(*_net(HIGH_PRECISION["head"])).eval()
    x = torch.rand(2, 1, 2, 3)
    check_program(net, x)
    net = spoil(net).eval()
    with pytest.raises(error, match=names):
        check_program(net, x)


@pytest.mark.parametrize("register", ("forward_hook", "forward_pre_hook"))
def test_hooks_of_all_modules_are_refused(register):
    net, x = _net(NETS["mlp"]), torch.rand(2, 1, 2, 3)
    handle = getattr(nn.modules.module, f"register_module_{register}")(lambda *_: None)
    try:
        with pytest.raises(RuntimeError, match="hooks of all modules"):
            sound_radius(net, x)
    finally:
        handle.remove()
    check_program(net, x)


def test_a_hook_that_swaps_classes_certifies_nothing():
    net = nn.Sequential(nn.Flatten(), LinfDistLinear(2, 2), Negate()).eval()
    x, label = torch.tensor([[0.6, 0.5]]), torch.tensor([0])
    with torch.no_grad():
        net[1].weight.copy_(torch.tensor([[0.6, 0.5], [0.1, 0.1]]))
    handle = net[1].register_forward_hook(lambda _, inputs, y: torch.where(inputs[0][:, :1] > 0.65, -y, y))
    assert net(x).argmax(1) == 0 and net(x + 0.06).argmax(1) == 1
    with pytest.raises(RuntimeError, match="hooks"):
        sound_radius(net, x, label)
    handle.remove()
    assert sound_radius(net, x, label) > 0.1 and net(x + 0.06).argmax(1) == 0


def test_devices_of_unknown_arithmetic_are_refused():
    net = nn.Sequential(nn.Linear(2, 2)).eval()
    with pytest.raises(RuntimeError, match="x is on meta"):
        check_program(net.to("meta"), torch.rand(2, 2, device="meta"))


def test_less_than_float32_is_refused():
    net, plain = _net(HIGH_PRECISION["head"]), _net(NETS["mlp"])
    x = torch.rand(2, 1, 2, 3)
    with pytest.raises(TypeError, match="x is torch.float64"):
        sound_radius(net, x.double())
    with torch.autocast("cpu"), pytest.raises(RuntimeError, match="autocast"):
        check_program(plain, x)
    try:
        torch.set_float32_matmul_precision("medium")
        with pytest.raises(RuntimeError, match="Linear.*bf16"):
            check_program(net, x)
        check_program(plain, x)  # no products
    finally:
        torch.set_float32_matmul_precision("highest")


@pytest.fixture
def no_onednn():
    before, *_ = torch.backends.mkldnn.set_flags(_enabled=False, _fp32_precision=None)
    yield
    torch.backends.mkldnn.set_flags(_enabled=before, _fp32_precision=None)


@torch.no_grad()
def test_convolutions_by_transforms_are_refused(no_onednn):
    """NNPACK's error is of the size of the brightest pixel of a tile, also where a kernel sees only dark ones."""
    net = nn.Sequential(nn.Conv2d(1, 1, 3, padding=1, bias=False), nn.Flatten(), nn.Linear(64, 2, bias=False)).eval()
    net[2].weight.zero_()
    net[2].weight[0, 0] = 1
    x = torch.zeros(16, 1, 8, 8)  # a smaller batch is a matrix product
    x[..., 4:, 4:] = torch.rand(16, 1, 4, 4)
    x[..., :2, :2] = 1e-9 * net[0].weight[..., 1:, 1:].sign()
    with torch.backends.nnpack.flags(enabled=False):
        assert (sound_radius(net, x, torch.zeros(16, dtype=torch.long)) > 0).all() and (net(x).argmax(1) == 0).all()
    with torch.backends.nnpack.flags(enabled=True):
        if torch.backends.nnpack.is_available():
            with pytest.raises(RuntimeError, match="NNPACK"):
                sound_radius(net, x)
            assert (net(x).argmax(1) != 0).any()
        check_program(_net(NETS["conv"]), torch.rand(2, 2, 4, 4))  # distances are not transformed


def test_too_many_terms_are_refused():
    from linf_plugin.float32.rules import MOST_TERMS, gamma

    assert 0 < gamma(1) <= 1.0000001 * UNIT and math.isfinite(gamma(MOST_TERMS))
    with pytest.raises(ValueError, match="terms"):
        gamma(MOST_TERMS + 1)


def test_layers_of_any_shape():
    """A distance over the last of several dimensions, and groups with dilation."""
    for layer in (LinfDistLinear(4, 3), SortDistLinear(4, 3, rho=0.5)):
        x = torch.rand(2, 5, 4)
        bounds = reach(nn.Sequential(layer, Negate()).eval(), *box(x, 0.1))
        assert bounds.error.shape == (2, 5, 3) and bounds.error.isfinite().all()
    conv = nn.Sequential(
        LinfDistConv2d(4, 6, 2, stride=2, padding=1, dilation=2, groups=2, p=3.0), nn.Flatten(), nn.Identity()
    ).eval()
    assert len(distance_layers(conv)) == 1
    x = torch.rand(2, 4, 5, 5)
    bounds = reach(conv[:2], *box(x, 0.1))
    with torch.no_grad():
        for inputs in (x, *_inputs_in_the_ball(x, torch.full((2,), 0.1), 2)):
            _assert_within(conv[:2], inputs, bounds, conv(inputs))
