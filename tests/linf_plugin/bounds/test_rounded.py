"""Bounds that cover rounding: of nets with explicit noise, and of the float32 program.  No tolerance anywhere."""

import copy
import math

import mpmath
import pytest
import torch
from torch import nn

from linf_plugin import build, set_p
from linf_plugin.bounds import compute_bounds, lines, rounded, specification, versions
from linf_plugin.bounds.guard import WITHOUT_SHORTCUTS
from linf_plugin.certificates import margin_bound
from linf_plugin.certificates.cascade import certify
from linf_plugin.certificates.table import LIRPA_METHODS
from linf_plugin.float32 import allowance, reach
from linf_plugin.kernels import reference
from linf_plugin.layers.facts import FACTS
from linf_plugin.layers.shifts import MeanShift
from linf_plugin.norms import box

from auto_LiRPA import BoundedModule, BoundedTensor, PerturbationLpNorm

pytestmark = pytest.mark.usefixtures("few_alpha_steps")

INF = math.inf
NETS = {
    "mlp": dict(name="linf-mlp", shape=(1, 3, 3), classes=4, width=9, depth=3, mean=(0.5,), std=0.3),
    "p=2": dict(name="linf-mlp", shape=(1, 3, 3), classes=4, width=9, depth=3, p=2.0),
    "p=100": dict(name="linf-mlp", shape=(1, 3, 3), classes=4, width=9, depth=2, p=100.0),
    "head": dict(name="linf-mlp-head", shape=(1, 3, 3), classes=4, width=9, depth=2, hidden=6, std=0.3),
    "conv": dict(name="linf-conv", shape=(2, 4, 4), classes=3, channels=(3, 4), strides=(1, 2), width=8, hidden=5),
    "sort": dict(name="sortnet-mlp", shape=(1, 3, 3), classes=4, width=9, depth=3, rho=0.5, k=4, mean=(0.5,), std=0.3),
    "sort-head": dict(name="sortnet-mlp", shape=(1, 3, 3), classes=4, width=9, depth=2, rho=0.2, hidden=6),
    "relu": dict(name="relu-mlp", shape=(1, 3, 3), classes=4, width=9, depth=3, mean=(0.5,), std=0.3),
    "relu-conv": dict(name="relu-conv", shape=(1, 5, 5), classes=3, channels=(3, 4), strides=(1, 2), width=8),
}
each_net = pytest.mark.parametrize("arguments", NETS.values(), ids=NETS)
each_method = pytest.mark.parametrize("method", LIRPA_METHODS)


def _net(arguments, scale=1.0):
    arguments = dict(arguments)
    p = arguments.pop("p", INF)
    net = build(**arguments).eval()
    set_p(net, p)
    for a in (*net.parameters(), *(m.running_mean for m in net.modules() if isinstance(m, MeanShift))):
        nn.init.normal_(a, std=scale)
    return net


@torch.no_grad()
def _worst_margin(net, x, labels, eps, steps=3, restarts=2):
    """The smallest float32 margin found in the ball, with pixels in [0, 1]: corners, x, and gradient signs."""
    lower, upper = ((x.double() + sign * eps).clamp(0, 1) for sign in (-1, 1))

    def inside(a):  # float32 numbers within the ball
        a = a.float()
        a = torch.where(a.double() > upper, torch.nextafter(a, torch.full_like(a, -INF)), a)
        return torch.where(a.double() < lower, torch.nextafter(a, torch.full_like(a, INF)), a)

    def margins(z):
        others = z.scatter(1, labels.unsqueeze(1), -INF)
        return z.gather(1, labels.unsqueeze(1)).squeeze(1).double() - others.amax(1).double()

    worst = margins(net(x))
    for _ in range(restarts):
        a = inside(torch.where(torch.rand(x.shape) < 0.5, lower, upper))
        for _ in range(steps):
            worst = torch.minimum(worst, margins(net(a)))
            with torch.enable_grad():
                leaf = a.clone().requires_grad_()
                (grad,) = torch.autograd.grad(margins(net(leaf)).sum(), leaf)
            a = inside(torch.where(grad > 0, lower, torch.where(grad < 0, upper, a.double())))
    return worst


# 0.7.1 says so of a tanh head, whose bounds are the test's subject.
@pytest.mark.filterwarnings("ignore:Pre-activation bounds are too loose:UserWarning")
@each_method
@each_net
def test_no_float32_margin_is_below_its_bound(arguments, method):
    """In a tiny ball, where rounding matters most, and in turn with large weights or a ball that holds all pixels."""
    turn = list(NETS.values()).index(arguments) + list(LIRPA_METHODS).index(method)
    for scale, eps in ((1.0, 1e-6), ((1e3, 0.01), (1e-3, 1.0))[turn % 2]):
        net = _net(arguments, scale)
        x = torch.rand(10, *net.input_shape)
        labels = net(x).argmax(1)
        bound = margin_bound(net, x, labels, eps, method, batch_size=7)
        assert bound.isfinite().all()
        assert (bound <= _worst_margin(net, x, labels, eps)).all()


@each_method
@each_net
def test_the_bound_loses_little(arguments, method):
    net = _net(arguments)
    x = torch.rand(4, *net.input_shape)
    labels = net(x).argmax(1)
    sound, exact = (margin_bound(net, x, labels, 0.01, method, sound=flag) for flag in (True, False))
    size = reach.reach(net, *box(x, 0.01)).largest.amax()
    assert (sound < exact).all()
    assert ((exact - sound) / size).median() < 1e-4


def test_without_it_bounds_are_above_the_program():
    """At radius 0 the bound is the exact margin, and rounding takes some computed margins below it."""
    net = _net(NETS["mlp"], 1e3)
    x = torch.rand(200, *net.input_shape)
    labels = net(x).argmax(1)
    margin = _worst_margin(net, x, labels, 0.0, restarts=0)
    assert (margin_bound(net, x, labels, 0.0, "ibp", sound=False) > margin).any()
    assert (margin_bound(net, x, labels, 0.0, "ibp") <= margin).all()


@each_method
@each_net
def test_bounds_of_a_noisy_net_hold_whatever_the_noise(arguments, method):
    """Noise of the size of the activations, drawn at random and from the ends."""
    exact = _net(arguments).double()
    net = rounded.Noisy(exact).eval()
    x = torch.rand(5, *exact.input_shape).double()
    lower, upper = box(x, 0.1)
    amounts, _, last = net.noises(lower, upper)
    amounts = [torch.rand_like(a) / 5 for a in amounts]
    parts = [(2 * torch.rand(40, *a.shape) - 1) * a for a in amounts]
    t = torch.rand(40, *x.shape)
    for a, n in zip(parts, amounts):
        a[1::2] = a[1::2].sign() * n
    t[1::2] = t[1::2].round()
    rest = iter(parts)
    h = (lower + t * (upper - lower)).flatten(0, 1)
    with torch.no_grad():
        for i, node in enumerate(net.nodes):
            h = node.module(h)
            h = h + next(rest).flatten(0, 1) if i in net.noisy.values() else h
    y = h.unflatten(0, (40, len(x)))
    rounded.register()
    with versions.float64_by_default(), torch.no_grad():
        bounded = BoundedModule(
            net, (x[:1], *(a[:1] for a in amounts)), bound_opts=dict(WITHOUT_SHORTCUTS), verbose=False
        )
        ball = BoundedTensor(x, PerturbationLpNorm(norm=INF, x_L=lower, x_U=upper))
        low, high = compute_bounds(bounded, (ball, *amounts), method=LIRPA_METHODS[method])
    assert ((low - last <= y) & (y <= high + last)).all()


def test_noise_is_computed_as_nothing():
    net = _net(NETS["conv"])
    program = rounded.Noisy(net).eval()
    x = torch.rand(3, *net.input_shape)
    amounts, limits, last = program.noises(*box(x, 0.1))
    assert torch.equal(program(x, *amounts), net(x))
    assert len(amounts) == sum(FACTS[type(layer)].computes for layer in net) - 1
    assert (
        last.shape == (3, 3)
        and (last > 0).all()
        and len(limits) == len(amounts) + 1
        and all(limit.shape == (3,) for limit in limits)
    )


@each_method
def test_intermediate_bounds_beyond_their_limit_prove_nothing(method):
    """Layers of very different size, so that limits in another order would be exceeded."""
    net = _net(dict(NETS["relu"], depth=4))
    for k, layer in enumerate(m for m in net if isinstance(m, nn.Linear)):
        layer.weight.data *= 0.01
        layer.bias.data += 10.0 ** (3 - k)
    program = rounded.Noisy(net.double()).eval()
    x = torch.rand(3, *net.input_shape).double()
    lower, upper = box(x, 0.1)
    noises = program.noises(lower, upper)
    rounded.register()
    with versions.float64_by_default(), torch.no_grad():
        bounded = BoundedModule(
            program, (x[:1], *(a[:1] for a in noises.between)), bound_opts=dict(WITHOUT_SHORTCUTS), verbose=False
        )
        ball = BoundedTensor(x, PerturbationLpNorm(norm=INF, x_L=lower, x_U=upper))
        compute_bounds(bounded, (ball, *noises.between), method=LIRPA_METHODS[method])
    assert noises.slack(bounded).isfinite().all()
    limits = list(noises.limits)
    limits[1] = limits[1] * torch.tensor([1.0, 0.4, 1.0])  # of the first Linear
    assert noises._replace(limits=tuple(limits)).slack(bounded).isfinite().all(1).tolist() == [True, False, True]


def _bounded(net, x, eps, method):
    """Noises, and a BoundedModule of a float64 net with noise after ``compute_bounds``."""
    program = rounded.Noisy(net).eval()
    lower, upper = box(x, eps)
    noises = program.noises(lower, upper)
    rounded.register()
    with versions.float64_by_default(), torch.no_grad():
        first = (x[:1].double(), *(a[:1] for a in noises.between))
        bounded = BoundedModule(program, first, bound_opts=dict(WITHOUT_SHORTCUTS), verbose=False)
        ball = BoundedTensor(x.double(), PerturbationLpNorm(norm=INF, x_L=lower, x_U=upper))
        compute_bounds(bounded, (ball, *noises.between), method=method)
    return noises, bounded


LINES = {  # kind → make lines below and above, exact value of x − w, what n and p are to κ
    "p=inf": (lambda *box: lines.linf(*box, many=True), lambda t: max(map(abs, t)), lambda n: (min(n, 5), 0)),
    "p=1": (lambda *box: lines.finite(*box, 1.0, many=True), lambda t: sum(map(abs, t)), lambda n: (n, 1)),
    "p=2.5": (
        lambda *box: lines.finite(*box, 2.5, many=True),
        lambda t: sum(abs(a) ** mpmath.mpf(2.5) for a in t) ** (1 / mpmath.mpf(2.5)),
        lambda n: (n, 2.5),
    ),
    "p=100": (
        lambda *box: lines.finite(*box, 100.0, many=True),
        lambda t: sum(abs(a) ** 100 for a in t) ** (1 / mpmath.mpf(100)),
        lambda n: (n, 100),
    ),
    "sorted": (
        lambda *box: lines.sorted_sum(*box, 0.4, 4, many=True),
        lambda t: sum(a * b for a, b in zip(reference.coefficients(0.4, 4, len(t)), sorted(map(abs, t))[::-1])),
        lambda n: (n, 0),
    ),
}


def _values(side, x, exact):
    """(J,) exact values of one neuron's candidate lines, side of shape (1, 1, …), at one x."""
    index = range(len(x)) if side.index is None else side.index[0, 0].tolist()
    return [
        sum((exact(s) * x[i] for s, i in zip(slopes, index)), exact(const))
        for slopes, const in zip(side.slopes[0, 0].tolist(), side.consts[0, 0].tolist())
    ]


@pytest.mark.parametrize("kind", LINES)
def test_lines_err_less_than_is_allowed(kind):
    """One neuron's: at corners, in the middle and at the weight, compared in 60 digits."""
    make, value, constants = LINES[kind]
    mpmath.mp.dps, generator = 60, torch.Generator().manual_seed(0)
    for features in (1, 2, 3, 7, 20):
        for size, width in ((1.0, 1.0), (1e4, 1e-12), (1e4, 1.0), (1e-3, 10.0), (1.0, 1e-17), (1.0, 0.0)):
            w, middle, radius = torch.randn(3, features, dtype=torch.float64, generator=generator)
            w, middle, radius = size * w, size * middle, width * radius.abs()
            radius[::3] = 0
            lower, upper = middle - radius, middle + radius
            below, above = make(lower[None], upper[None], w[None])
            largest = torch.maximum(-lower, upper).max() + w.abs().max()
            n, p = constants(features)
            allowed = mpmath.mpf((allowance.DOUBLE_UNITS * (n + 9) * (n + p + 8) * (largest + 2.0**-20)).item())
            ends = torch.rand(6, features, generator=generator) < 0.5
            points = [*torch.where(ends, lower, upper), (lower + upper) / 2, w.clamp(lower, upper)]
            for x in ([mpmath.mpf(a) for a in point.tolist()] for point in points):
                y = value([a - mpmath.mpf(b) for a, b in zip(x, w.tolist())])
                assert max(_values(below, x, mpmath.mpf)) <= y + allowed
                assert min(_values(above, x, mpmath.mpf)) >= y - allowed


def test_lines_of_tanh_err_less_than_is_allowed():
    mpmath.mp.dps, generator = 60, torch.Generator().manual_seed(0)
    middle = torch.randn(40, dtype=torch.float64, generator=generator) * torch.logspace(-8, 3, 40).double()
    for radius in (0.0, 1e-18, 1e-9, 1e-3, 1.0, 30.0, 1e4):
        lower, upper = middle - radius, middle + radius
        below, above = lines.tanh(lower[None], upper[None], many=True)
        for k, (low, high) in enumerate(zip(lower.tolist(), upper.tolist())):
            allowed = allowance.DOUBLE_UNITS * 10 * 9 * (max(-low, high) + 2.0**-20)
            sides = [
                [[mpmath.mpf(a[0, k, j].item()) for a in (side.slopes[..., 0], side.consts)] for j in range(3)]
                for side in (below, above)
            ]
            for x in (mpmath.mpf(low) + (mpmath.mpf(high) - mpmath.mpf(low)) * t / 8 for t in range(9)):
                y = mpmath.tanh(x)
                assert max(s * x + c for s, c in sides[0]) <= y + allowed
                assert min(s * x + c for s, c in sides[1]) >= y - allowed


def test_lines_have_as_few_slopes_as_is_allowed_for():
    assert lines.STEEPEST <= allowance.MOST_SLOPES


def test_limits_are_those_of_interval_bounds():
    """CROWN's intermediate bounds of a linear net are tighter: a limit between the two proves nothing."""
    net = nn.Sequential(nn.Flatten(), *(nn.Linear(6, 6) for _ in range(3)), nn.ReLU(), nn.Linear(6, 3)).eval()
    noises, bounded = _bounded(net.double(), torch.rand(2, 1, 2, 3), 0.5, "CROWN")
    assert noises.slack(bounded).isfinite().all()
    node = [node for node in bounded._modules.values() if type(node).__name__ == "BoundWithin"][-2]  # which ReLU reads
    sizes = [
        torch.maximum(upper, -lower).amax(1)
        for lower, upper in ((node.lower, node.upper), bounded._linf_intervals[node.name])
    ]
    assert (sizes[0] < sizes[1]).all()
    between = noises._replace(limits=(*noises.limits[:-3], (sizes[0] + sizes[1]) / 2, *noises.limits[-2:]))
    assert between.slack(bounded).isinf().all()


@pytest.mark.parametrize("method", LIRPA_METHODS.values())
def test_logits_of_a_distance_have_a_limit(method):
    """At finite p the size of its lines is that of its values."""
    net = _net(NETS["p=2"])
    noises, bounded = _bounded(net.double(), torch.rand(2, *net.input_shape), 0.1, method)
    assert noises.slack(bounded).isfinite().all()
    tight = noises._replace(limits=(*noises.limits[:-1], noises.limits[-1] * torch.tensor([1.0, 0.4])))
    assert tight.slack(bounded).isinf().all(1).tolist() == [False, True]


@pytest.mark.parametrize("method", LIRPA_METHODS.values())
@pytest.mark.parametrize("arguments", [dict(NETS["mlp"], depth=5), NETS["sort-head"], NETS["relu"]], ids=str)
def test_no_intermediate_bound_is_ever_looser_than_its_interval_bound(arguments, method, monkeypatch):
    """Of whatever a relaxation reads, in any iteration."""
    seen, compute = [], BoundedModule.compute_intermediate_bounds

    def look(self, node, *args, **kwargs):
        compute(self, node, *args, **kwargs)
        if node.perturbed and type(node).__name__ == "BoundWithin":
            least, most = self._linf_intervals[node.name]
            seen.append((node.lower >= least).all() and (node.upper <= most).all())

    monkeypatch.setattr(BoundedModule, "compute_intermediate_bounds", look)
    monkeypatch.setattr("alpha.STEPS", 20)
    net = _net(arguments)
    _, bounded = _bounded(net.double(), torch.rand(4, *net.input_shape), 0.2, method)
    assert all(seen) and (seen or method in ("IBP", "CROWN-IBP"))
    for name, node in bounded._modules.items():
        if type(node).__name__ == "BoundWithin" and getattr(node, "lower", None) is not None:
            least, most = bounded._linf_intervals[name]
            assert (node.lower >= least).all() and (node.upper <= most).all()
    if method == "CROWN-Optimized":
        assert len(seen) > 50  # iterations


@pytest.mark.parametrize("first, last", [(-1e-8, 1e8), (1e-8, 1e8), (2000.0, 1.0), (1e4, 1.0)])
@each_method
def test_tanh_on_tiny_and_on_distant_intervals(first, last, method):
    """auto_LiRPA's own lines of tanh are wrong there, so they are not used."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(1, 2, bias=False), nn.Tanh(), nn.Linear(2, 2, bias=False)).eval()
    net[1].weight.data = torch.tensor([[first], [1e-3]])
    net[3].weight.data = torch.tensor([[last, 0.0], [0.0, -1800 * last]])
    x, labels = torch.rand(64, 1, 1, 1), torch.zeros(64, dtype=torch.long)
    for eps in (0.01, 0.1, 0.3):
        bound = margin_bound(net, x, labels, eps, method)
        assert (bound <= _worst_margin(net, x, labels, eps, restarts=8)).all()


def test_bounds_are_looked_at_where_relaxations_read_them():
    """Behind what only moves values: Flatten and Negate."""
    net = _net(NETS["conv"])
    x = torch.rand(3, *net.input_shape)
    labels = net(x).argmax(1)
    program = rounded.Noisy(net.double()).eval()
    moved = [i for i, at in program.noisy.items() if at > i]
    assert moved and all(not FACTS[type(net[at])].computes for at in (program.noisy[i] for i in moved))
    noises = program.noises(*box(x, 0.1))
    rounded.register()
    with versions.float64_by_default():
        bounded = BoundedModule(program, (x[:1].double(), *(a[:1] for a in noises.between)), verbose=False)
        ball = BoundedTensor(x.double(), PerturbationLpNorm(norm=INF, x_L=x.double() - 0.1, x_U=x.double() + 0.1))
        compute_bounds(bounded, (ball, *noises.between), specification(labels, 3, torch.float64), "CROWN")
    readers = [node.inputs[0] for node in bounded._modules.values() if type(node).__name__.startswith("BoundLinfDist")]
    assert len(readers) >= 2
    assert all(type(node).__name__ in ("BoundWithin", "BoundInput") for node in readers[1:])


def test_what_may_overflow_certifies_nothing():
    net = _net(NETS["mlp"], 8e37)
    x = torch.rand(3, *net.input_shape)
    labels = net(x).argmax(1)
    assert margin_bound(net, x, labels, 0.1, "ibp").tolist() == [-INF] * 3
    assert not certify(net, x, labels, 0.0).certified.any()


def test_a_net_that_is_not_covered_needs_sound_false():
    net = nn.Sequential(*_net(NETS["relu"]), nn.Softmax(1)).eval()
    x = torch.rand(3, 1, 3, 3)
    labels = net(x).argmax(1)
    for function, arguments in ((margin_bound, ("ibp",)), (certify, (["ibp"],))):
        with pytest.raises(TypeError, match="softmax at layer.*sound=False"):
            function(net, x, labels, 0.1, *arguments)
        function(net, x, labels, 0.1, *arguments, sound=False)


def test_the_model_is_left_alone():
    net = _net(NETS["head"])
    before = copy.deepcopy(net.state_dict())
    x = torch.rand(3, *net.input_shape)
    certify(net, x, net(x).argmax(1), 0.01)
    assert all(torch.equal(v, before[k]) and v.dtype == before[k].dtype for k, v in net.state_dict().items())
    assert not net.training and all(p.grad is None for p in net.parameters())
