"""Certificates per sample: sound against sampling, ordered, and clear about wrong requests."""

import copy
import functools
import math

import pytest
import torch
from torch import nn

from linf_plugin import (
    LinfDistConv2d,
    LinfDistLinear,
    MeanShift,
    Negate,
    Normalize,
    PotentialConv2d,
    PotentialLinear,
    build,
    certified_radius,
    margin,
    sound_radius,
)
from linf_plugin.bounds.readable import readable
from linf_plugin.bounds.specification import specification
from linf_plugin.certificates import linear
from linf_plugin.certificates.cascade import certify, certify_each, margin_bound
from linf_plugin.certificates.pairs import SPARE, of_labels, pair_bounds
from linf_plugin.certificates.problem import Problem
from linf_plugin.certificates.result import Certified, Tally
from linf_plugin.certificates.table import CERTIFICATES, LIRPA_METHODS, theorems
from linf_plugin.float32 import reach
from linf_plugin.layers.lipschitz import lipschitz_bound
from linf_plugin.layers.shifts import CenterCrop
from linf_plugin.norms import Ball, box

pytestmark = pytest.mark.usefixtures("few_alpha_steps")
LINF = theorems(math.inf)


@pytest.fixture(params=({}, {"rho": 0.5, "k": 4}), ids=("linf-mlp", "sortnet-mlp"))
def net(request):
    name = "sortnet-mlp" if request.param else "linf-mlp"
    common = dict(shape=(1, 4, 4), classes=3, width=10, depth=2, mean=(0.5,), std=0.5)
    return build(name, **common, **request.param).eval()


@pytest.fixture
def x():
    return torch.rand(20, 1, 4, 4)


CASES = {  # architecture and ε: some samples are certified by each of several methods, some by none
    "linf-mlp": (dict(shape=(1, 4, 4), classes=3, width=10, depth=2), 0.03),
    "linf-mlp-head": (dict(shape=(1, 4, 4), classes=4, width=12, depth=2, hidden=8), 0.03),
    "relu-mlp": (dict(shape=(1, 4, 4), classes=5, width=20, depth=3), 0.001),
    "relu-conv": (dict(shape=(1, 5, 5), classes=4, channels=(3, 4), strides=(1, 2), width=8), 0.01),
}


@pytest.fixture(params=CASES)
def case(request):
    return made(request.param)


@functools.cache
def made(name):
    """Net, samples, labels of which some are wrong, ε.  Not to be changed."""
    torch.manual_seed(0)
    arguments, eps = CASES[name]
    net = build(name, mean=(0.5,), std=0.25, **arguments).eval()
    x = torch.rand(50, *net.input_shape)
    with torch.no_grad():
        if isinstance(net[-1], nn.Linear):
            net[-1].bias -= net(x).mean(0)  # else one class has all samples
        labels = net(x).argmax(1)
    labels[::10] = (labels[::10] + 1) % 3
    return net, x, labels, eps


@functools.cache
def decided(name):
    """The certificates of a case."""
    return certify(*made(name))


@functools.cache
def bound_of(name, method):
    net, x, labels, eps = made(name)
    return margin_bound(net, x, labels, eps, method, batch_size=len(x))


@pytest.fixture
def name(case):
    return next(name for name in CASES if made(name) is case)


def test_specification_rows_are_differences_with_the_label():
    C = specification(torch.tensor([0, 2]), 3)
    expected = [[[1, -1, 0], [1, 0, -1]], [[-1, 0, 1], [0, -1, 1]]]
    assert torch.equal(C, torch.tensor(expected, dtype=torch.float32))


@pytest.mark.parametrize("sound", (True, False), ids=("sound", "exact"))
def test_the_cascade_finds_what_any_method_alone_finds(case, sound):
    net, x, labels, eps = case
    found = certify(net, x, labels, eps, sound=sound, batch_size=20)
    each = certify_each(net, x, labels, eps, sound=sound, batch_size=20)
    assert tuple(each) == (*LINF, "best") and found.methods == LINF
    assert torch.equal(found.certified, each["best"])
    assert torch.equal(each["best"], torch.stack([each[c] for c in LINF]).any(0))
    alone = margin_bound(net, x, labels, eps, "lipschitz", sound=sound)  # also where certify sees no hope
    assert torch.equal(each["lipschitz"], alone > 0)
    assert 0 < found.certified.sum() < found.correct.sum() < len(x)
    left = found.correct.clone()
    for name, tally in zip(found.methods, found.tallies):
        assert torch.equal(found.certified_by(name), left & each[name])
        assert tally.certified == found.certified_by(name).sum() and tally.seconds >= 0
        if name == "lipschitz" and sound:
            assert tally.certified <= tally.tried <= left.sum()
        else:
            assert tally.tried == left.sum()
        left &= ~each[name]
    assert torch.equal(found.certified, found.bound > 0)


def test_bounds_of_the_cascade_are_those_of_the_methods(case, name):
    """Sharing the net in float64 and one BoundedModule changes no bit."""
    net, x, labels, eps = case
    found = decided(name)
    for method in found.methods:
        rows = found.certified_by(method)
        if rows.any():
            alone = margin_bound(net, x[rows], labels[rows], eps, method)
            torch.testing.assert_close(found.bound[rows], alone, rtol=1e-12, atol=1e-12)
    problem = Problem(net, x, labels, Ball(eps, math.inf, 0.0, 1.0), True)
    with torch.no_grad():
        shared = [linear.bound(problem, LIRPA_METHODS[m])(x, labels) for m in (*LIRPA_METHODS, *LIRPA_METHODS)]
    for method, first, again in zip(LIRPA_METHODS, shared, shared[len(LIRPA_METHODS) :]):
        assert torch.equal(first, again)
        assert torch.equal(first, bound_of(name, method))


def test_undecided_samples_keep_their_best_bound(name):
    found = decided(name)
    undecided = found.correct & ~found.certified
    best = torch.stack([bound_of(name, method) for method in LIRPA_METHODS]).amax(0)
    torch.testing.assert_close(found.bound[undecided], best[undecided], rtol=1e-12, atol=1e-12)
    assert (found.bound[~found.correct] == -torch.inf).all()


def test_what_is_skipped_or_misclassified_is_never_bounded(case, name, monkeypatch):
    net, x, labels, eps = case
    seen, lirpa = [], linear._Traced.__call__

    def recorded(self, method, part, part_labels, **more):
        seen.append(part)
        return lirpa(self, method, part, part_labels, **more)

    monkeypatch.setattr(linear._Traced, "__call__", recorded)
    plain = decided(name)
    skip = torch.arange(len(x)) % 3 == 0
    seen.clear()
    found = certify(net, x, labels, eps, skip=skip)
    assert torch.equal(found.skipped, skip) and torch.equal(found.correct, plain.correct)
    assert torch.equal(found.certified, plain.certified & ~skip)
    allowed = x[found.correct & ~skip].flatten(1)
    assert all((row == allowed).all(1).any() for part in seen for row in part.flatten(1))
    assert (found.bound[skip] == -torch.inf).all() and (found.method[skip] == -1).all()
    assert f"{int((skip & found.correct).sum())} skipped" in found.summary()
    seen.clear()
    assert not certify(net, x, labels, eps, skip=torch.ones_like(skip)).certified.any() and not seen
    certify_each(net, x, labels, eps)
    assert all((row == x[found.correct].flatten(1)).all(1).any() for part in seen for row in part.flatten(1))


def test_certified_samples_keep_their_class(case, name):
    net, x, labels, eps = case
    found = decided(name)
    for _ in range(300):
        moved = (x + eps * (2 * torch.rand_like(x) - 1).sign()).clamp(0, 1)
        assert (net(moved).argmax(1) == labels)[found.certified].all()


def test_intervals_are_never_weaker_than_lipschitz_on_a_distance_net(net, x):
    labels = net(x).argmax(1)
    eps = certified_radius(net(x), labels, lipschitz_bound(net, math.inf)).median().item()
    each = certify_each(net, x, labels, eps)
    assert 0 < each["lipschitz"].sum() < len(x)
    assert (each["ibp"] >= each["lipschitz"]).all()


def test_the_order_of_methods_is_that_of_their_cost(net, x):
    labels = net(x).argmax(1)
    found = certify(net, x, labels, 0.01, ["crown", "lipschitz", "crown"])
    assert found.methods == ("lipschitz", "crown") and len(found.tallies) == 2
    assert certify(net, x, labels, 0.01, "ibp").methods == ("ibp",)
    seconds = {"ibp": 1000.0}
    found = certify_each(net, x, labels, 0.01, ["ibp", "lipschitz"], seconds=seconds)
    assert tuple(found) == ("lipschitz", "ibp", "best")
    assert tuple(seconds) == ("ibp", "lipschitz") and seconds["ibp"] > 1000 and 0 < seconds["lipschitz"] < 1000
    nothing = certify(net, x, labels, 0.01, [])
    assert not nothing.certified.any() and (nothing.bound == -torch.inf).all()
    assert not certify_each(net, x, labels, 0.01, [])["best"].any()


def test_an_ordinary_net_works_as_it_is(x):
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 3)).eval()
    labels = net(x).argmax(1)
    found = certify(net, x, labels, 0.005)
    assert found.methods == LINF and found.certified.sum() > len(x) / 2
    unknown = nn.Sequential(*net[:2], nn.Sigmoid(), net[3]).eval()
    labels = unknown(x).argmax(1)
    found = certify(unknown, x, labels, 0.005, sound=False)
    assert found.methods == tuple(LIRPA_METHODS) and found.certified.sum() > len(x) / 2
    assert tuple(certify_each(unknown, x, labels, 0.005, sound=False)) == (*LIRPA_METHODS, "best")
    for request in (certify, certify_each):
        with pytest.raises(TypeError, match="Sigmoid"):
            request(unknown, x, labels, 0.005, ["ibp", "lipschitz"], sound=False)
    with pytest.raises(TypeError, match="Sigmoid"):
        margin_bound(unknown, x, labels, 0.005, "lipschitz", sound=False)


def test_the_summary_can_be_read():
    found = Certified(
        ball=Ball(0.1),
        methods=("lipschitz", "ibp"),
        correct=torch.tensor([True] * 4 + [False]),
        skipped=torch.tensor([False, False, False, True, True]),
        bound=torch.tensor([0.5, -0.25, 1.0, 0.0, 0.0]),
        method=torch.tensor([0, -1, 1, -1, -1]),
        tallies=(Tally(3, 1, 0.25), Tally(2, 1, 12.5)),
    )
    assert found.certified.tolist() == [True, False, True, False, False]
    assert found.certified_by("ibp").tolist() == [False, False, True, False, False]
    assert str(found) == found.summary() and len(repr(found)) < 60
    assert found.summary().splitlines() == [
        "ε = 0.1: 2 of 5 certified (40.00 %); 1 misclassified, 1 skipped, 1 undecided",
        "method          tried  certified   seconds",
        "lipschitz           3          1      0.25",
        "ibp                 2          1     12.50",
    ]


@pytest.mark.parametrize("method", ["lipschitz", *LIRPA_METHODS])
def test_margin_bounds_hold_and_are_exact_at_radius_zero(net, x, method):
    labels = torch.arange(20) % 3
    true = margin(net(x), labels)
    at_zero = margin_bound(net, x, labels, 0.0, method, batch_size=7)
    # intervals of two logits meet at radius 0; the rest is float32 against float64
    torch.testing.assert_close(at_zero, true, rtol=0, atol=1e-5)
    assert (margin_bound(net, x, labels, 0.05, method) <= true + 1e-5).all()


def test_the_lipschitz_bound_is_what_each_difference_keeps(case):
    net, x, labels, eps = case
    double = copy.deepcopy(net).double()
    with torch.no_grad():
        z = double(x.double())
        kept = z.gather(1, labels.unsqueeze(1)) - z - of_labels(pair_bounds(double), labels) * eps
        expected = kept.scatter(1, labels.unsqueeze(1), math.inf).amin(1)
        assert (expected >= margin(z, labels) - 2 * lipschitz_bound(double, math.inf) * eps * SPARE).all()
    exact, sound = (margin_bound(net, x, labels, eps, "lipschitz", sound=s, batch_size=7) for s in (False, True))
    assert exact.dtype == sound.dtype == torch.float64 and exact.shape == sound.shape == (50,)
    torch.testing.assert_close(exact, expected, rtol=0, atol=1e-12)  # K is rounded up in both
    error = reach.reach(double, *box(x, eps, 0.0, 1.0)).error.amax(1)  # of each of two logits
    assert (sound < exact).all() and (sound >= exact - 2.001 * error).all()


def test_the_lipschitz_bound_and_the_radius_agree(case):
    """Up to rounding: the radius covers that of a slightly larger ball."""
    net, x, labels, _ = case
    radii = sound_radius(net, x, labels).double()
    assert (radii > 0).any()
    for eps in radii[radii > 0].tolist():
        positive = margin_bound(net, x, labels, eps, "lipschitz") > 0
        assert positive[radii > eps * (1 + 1e-6)].all() and not positive[radii < eps * (1 - 1e-4)].any()


def test_a_misclassified_sample_is_never_certified(net, x):
    wrong = (net(x).argmax(1) + 1) % 3
    found = certify(net, x, wrong, 0.0)
    assert not found.certified.any() and not found.correct.any() and sum(t.tried for t in found.tallies) == 0
    assert not certify_each(net, x, wrong, 0.0)["best"].any()


def test_a_tie_certifies_nothing(x):
    net = build("linf-mlp", shape=(1, 4, 4), classes=3, width=10, depth=2).eval()
    last = net[-2]
    last.weight.data[:] = last.weight.data[:1].clone()
    last.bias.data.zero_()
    assert not certify(net, x, torch.zeros(20, dtype=torch.long), 0.0).certified.any()


def test_an_empty_batch_gives_empty_answers(net, x):
    labels = torch.zeros(0, dtype=torch.long)
    found = certify(net, x[:0], labels, 0.1)
    assert found.certified.shape == found.bound.shape == found.correct.shape == (0,)
    assert "0 of 0 certified" in found.summary()
    assert all(proof.shape == (0,) for proof in certify_each(net, x[:0], labels, 0.1).values())
    assert all(margin_bound(net, x[:0], labels, 0.1, m).shape == (0,) for m in LINF)


def test_a_finite_p_uses_its_true_bound(x):
    """±ε would be wrong: a layer of n inputs can stretch by n^{1/p}."""
    net = build("linf-mlp", shape=(1, 4, 4), classes=3, width=10, depth=2)
    for layer in net:
        if hasattr(layer, "p"):
            layer.p = 2.0
    net.eval()
    labels = net(x).argmax(1)
    eps = certified_radius(net(x), labels, lipschitz_bound(net, math.inf)).median().item()
    naive = certified_radius(net(x), labels, 1.0).median().item()
    assert eps < naive / 10
    assert certify(net, x, labels, eps, ["lipschitz"]).certified.any()
    assert not certify(net, x, labels, naive, ["lipschitz"]).certified.any()


def test_one_bar_shows_each_method_and_what_is_undecided(case, capsys):
    net, x, labels, eps = case
    certify(net, x, labels, eps, progress=True, batch_size=5)
    shown = capsys.readouterr().err
    assert "undecided=" in shown and all(f"{m} ε={eps:g}" in shown for m in LINF)
    certify(net, x, labels, eps, ["lipschitz", "ibp"])
    assert capsys.readouterr().err == ""


BAD = {  # what is wrong with the arguments: exception, what the message names
    "labels-float": (lambda a: a.update(labels=a["labels"].float()), TypeError, "labels.*float32"),
    "labels-bool": (lambda a: a.update(labels=a["labels"].bool()), TypeError, "labels.*bool"),
    "labels-list": (lambda a: a.update(labels=a["labels"].tolist()), TypeError, "labels.*list"),
    "labels-short": (lambda a: a.update(labels=a["labels"][:-1]), ValueError, r"labels.*\(20,\).*\(19,\)"),
    "labels-high": (lambda a: a.update(labels=a["labels"] + 3), ValueError, r"labels.*\[0, 2\]"),
    "labels-negative": (lambda a: a.update(labels=a["labels"] - 3), ValueError, r"labels.*\[0, 2\]"),
    "x-nan": (lambda a: a["x"].view(-1)[3:4].fill_(torch.nan), ValueError, "x must lie in .*NaN"),
    "x-above": (lambda a: a["x"].view(-1)[3:4].fill_(1.001), ValueError, r"x must lie in \[low, high\] = \[0.0, 1.0\]"),
    "x-below": (lambda a: a["x"].view(-1)[3:4].fill_(-0.001), ValueError, "x must lie in"),
    "x-integer": (lambda a: a.update(x=(255 * a["x"]).byte()), TypeError, "x must be.*uint8"),
    "x-array": (lambda a: a.update(x=a["x"].numpy()), TypeError, "x must be.*ndarray"),
    "x-vector": (lambda a: a.update(x=a["x"][:, 0, 0, 0]), ValueError, "x must have shape"),
    "low-high": (lambda a: a.update(low=1.0, high=1.0), ValueError, "low must be less than high"),
    "low-nan": (lambda a: a.update(low=float("nan")), ValueError, "low"),
    "high-string": (lambda a: a.update(high="1"), TypeError, "high"),
    "eps-negative": (lambda a: a.update(eps=-0.1), ValueError, "eps.*-0.1"),
    "eps-nan": (lambda a: a.update(eps=float("nan")), ValueError, "eps.*nan"),
    "eps-infinite": (lambda a: a.update(eps=float("inf")), ValueError, "eps.*inf"),
    "eps-bool": (lambda a: a.update(eps=True), TypeError, "eps.*True"),
    "eps-word": (lambda a: a.update(eps="small"), ValueError, "eps.*'small'"),
    "eps-levels": (lambda a: a.update(eps=8), ValueError, "eps must be at most high − low = 1.* 8/255"),
    "eps-tensor": (lambda a: a.update(eps=torch.tensor(0.1)), TypeError, "eps.*tensor"),
    "batch-size-0": (lambda a: a.update(batch_size=0), ValueError, "batch_size.*0"),
    "batch-size-float": (lambda a: a.update(batch_size=2.5), TypeError, "batch_size.*2.5"),
    "training": (lambda a: a["model"].train(), ValueError, "training mode"),
    "a layer in training": (lambda a: a["model"][1].train(), ValueError, r"training mode, at layer '1' \("),
    "one-logit": (lambda a: a.update(model=nn.Sequential(nn.Flatten(), nn.Linear(16, 1)).eval()), ValueError, "model"),
}


@pytest.mark.parametrize("spoil, error, names", BAD.values(), ids=BAD)
def test_wrong_arguments_are_named(x, spoil, error, names):
    model = build("linf-mlp", shape=(1, 4, 4), classes=3, width=10, depth=2).eval()
    arguments = dict(model=model, x=x, labels=torch.arange(20) % 3, eps=0.1)
    spoil(arguments)
    for request, more in ((certify, {}), (certify_each, {}), (margin_bound, {"method": "ibp"})):
        with pytest.raises(error, match=names):
            request(**arguments, **more)


@pytest.mark.parametrize("method", ["lipschitz", "ibp"])
def test_hooked_layers_are_refused_where_the_class_alone_is_known(method):
    """Not where the net itself is traced: there they are part of it."""
    net = nn.Sequential(nn.Conv2d(2, 4, 2, groups=2), nn.Flatten(), LinfDistLinear(36, 3)).eval()
    x, labels = torch.rand(4, 2, 4, 4), torch.zeros(4, dtype=torch.int64)
    margin_bound(net, x, labels, 0.1, method, sound=False)
    net[0].register_forward_hook(lambda layer, x, y: 10 * y)
    with pytest.raises(RuntimeError, match="Conv2d.* has forward hooks"):
        margin_bound(net, x, labels, 0.1, method, sound=False)
    assert "lipschitz" not in certify(net, x, labels, 0.1, skip=torch.ones(4, dtype=torch.bool), sound=False).methods


@pytest.mark.parametrize(
    "skip, error, names",
    (
        (torch.zeros(20), TypeError, "skip.*float32"),
        ([False] * 20, TypeError, "skip.*list"),
        (torch.zeros(19, dtype=torch.bool), ValueError, r"skip.*\(20,\)"),
    ),
    ids=("float", "list", "short"),
)
def test_a_wrong_skip_is_named(net, x, skip, error, names):
    with pytest.raises(error, match=names):
        certify(net, x, torch.arange(20) % 3, 0.1, skip=skip)


def test_an_unknown_method_is_named_with_those_that_exist(net, x):
    labels, known = torch.arange(20) % 3, ", ".join(CERTIFICATES)
    for request in (certify, certify_each):
        with pytest.raises(ValueError, match=f"each of methods must be one of {known}, got 'ipb'"):
            request(net, x, labels, 0.1, ["ibp", "ipb"])
    with pytest.raises(ValueError, match=f"method must be one of {known}, got 'best'"):
        margin_bound(net, x, labels, 0.1, "best")
    with pytest.raises(ValueError, match="method must be one of ibp, crown, got 'lipschitz'"):
        certify(net, x, labels, 0.1, ["ibp", "crown"]).certified_by("lipschitz")


def test_any_kind_of_number_and_of_integer_labels_will_do(net, x):
    np = pytest.importorskip("numpy")
    labels = net(x).argmax(1)
    expected = certify(net, x, labels, 0.0078125).bound
    assert torch.equal(certify(net, x, labels.int(), np.float32(0.0078125)).bound, expected)
    assert certify(net, x, labels, 0).eps == 0.0


def test_a_range_whose_ends_are_no_float32_numbers():
    """0.1 and 0.7 are, in float32, above and below themselves: x at an end of the range is in it."""
    net = build("linf-mlp", shape=(1, 4, 4), classes=3, width=10, depth=2).eval()
    x = (0.1 + 0.6 * torch.rand(20, 1, 4, 4)).clamp(torch.tensor(0.1), torch.tensor(0.7))
    x[:, :, 0], x[:, :, 1] = 0.1, 0.7
    with torch.no_grad():
        labels = net(x).argmax(1)
    for method in LINF:
        bound = margin_bound(net, x, labels, 1e-9, method, low=0.1, high=0.7)
        assert (bound <= margin(net(x), labels)).all() and (bound > 0).any()


def test_certifying_leaves_model_and_precision_alone(net, x):
    before = {k: v.clone() for k, v in net.state_dict().items()}
    certify(net, x, net(x).argmax(1), 0.01)
    assert all(torch.equal(v, before[k]) and v.dtype == before[k].dtype for k, v in net.state_dict().items())
    assert all(p.requires_grad for p in net.parameters())
    assert torch.get_default_dtype() == torch.float32


UNCOMMON = {  # name → (input shape, layers): nothing to relax; crops behind the last layer; convolutions of all kinds
    "linear": ((6,), lambda: [nn.Linear(6, 3)]),
    "linear twice": ((6,), lambda: [nn.Linear(6, 4), nn.Linear(4, 3)]),
    "normalised": ((1, 2, 3), lambda: [Normalize((0.5,), 0.5), nn.Flatten(), nn.Linear(6, 3)]),
    "moved": ((3,), lambda: [Negate(), MeanShift(3)]),
    "cropped": ((3, 4, 4), lambda: [CenterCrop(1), nn.Flatten()]),
    "crop last": ((1, 4, 4), lambda: [LinfDistConv2d(1, 3, 3, padding=1), CenterCrop(1), nn.Flatten()]),
    "crop and negate": (
        (1, 4, 4),
        lambda: [LinfDistConv2d(1, 3, 3, padding=1), CenterCrop(1), Negate(), nn.Flatten(), nn.Identity()],
    ),
    "crop behind ReLU": (
        (1, 4, 4),
        lambda: [nn.Conv2d(1, 3, 3, padding=1), nn.ReLU(), nn.Conv2d(3, 3, 1), CenterCrop(1), nn.Flatten()],
    ),
    "dilations": ((1, 5, 6), lambda: [nn.Conv2d(1, 2, 2, dilation=(1, 2)), nn.ReLU(), nn.Flatten(), nn.Linear(32, 3)]),
    "dilations behind distances": (
        (1, 5, 6),
        lambda: [LinfDistConv2d(1, 2, 2), nn.Conv2d(2, 2, 2, dilation=(2, 1)), nn.Flatten(), nn.Linear(16, 3)],
    ),
    "residual": ((5,), lambda: [PotentialLinear(5, 4), PotentialLinear(5, 3, bias=False), nn.Linear(5, 3)]),
    "residual convolution": (
        (2, 3, 4),
        lambda: [PotentialConv2d(2, 3), PotentialConv2d(2, 2, (1, 3)), nn.Flatten(), nn.Linear(24, 3)],
    ),
    "groups": (
        (2, 4, 4),
        lambda: [
            nn.Conv2d(2, 2, 2, groups=2),
            nn.ReLU(),
            nn.Conv2d(2, 4, 2, groups=2),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(16, 3),
        ],
    ),
}


@pytest.mark.parametrize("name", UNCOMMON)
def test_uncommon_nets_have_sound_bounds_by_every_method(name):
    """At random points and corners of the ball, of the net in float64."""
    shape, layers = UNCOMMON[name]
    net, x, eps = nn.Sequential(*layers()).eval(), torch.rand(2, *shape), 0.02
    for layer in net:
        if isinstance(layer, LinfDistConv2d):
            nn.init.normal_(layer.weight, std=0.5)
    labels, exact = net(x).argmax(1), copy.deepcopy(net).double()
    at = torch.rand(2000, *x.shape, dtype=torch.float64)
    at[::2] = at[::2].round()
    low, high = (x.double() - eps).clamp(0, 1), (x.double() + eps).clamp(0, 1)
    margins = margin(exact((low + at * (high - low)).flatten(0, 1)).detach(), labels.repeat(2000)).view(2000, 2).amin(0)
    for sound in (True, False):
        bounds = {method: margin_bound(net, x, labels, eps, method, sound=sound) for method in LINF}
        assert all((bound <= margins + 1e-12).all() for bound in bounds.values())
        if name.startswith("linear"):  # there is nothing to optimise
            assert torch.equal(bounds["alpha-crown"], bounds["crown"])
    assert certify(net, x, labels, 1e-6).certified.any()


def test_convolutions_are_rewritten_as_the_same_function():
    for options in (
        {"groups": 2},
        {"dilation": (2, 1)},
        {"groups": 4, "dilation": 3, "stride": (1, 2), "padding": (1, 0)},
    ):
        conv = nn.Conv2d(4, 8, 2, **options).double()
        (plain,) = readable(nn.Sequential(conv))
        x = torch.rand(3, 4, 7, 8, dtype=torch.float64)
        assert plain.groups == 1 and plain.dilation == (1, 1)
        torch.testing.assert_close(plain(x), conv(x), rtol=0, atol=1e-14)
    conv = nn.Conv2d(4, 8, 2, stride=2)
    assert readable(nn.Sequential(conv))[0].weight.equal(conv.weight)


class _Mixed(nn.Module):
    """Makes a float32 tensor in each call."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x):
        return self.layer(torch.zeros(len(x), 4) + 1) + x


def test_a_net_that_makes_float32_tensors_is_told_how_not_to():
    x = torch.rand(2, 3)
    with pytest.raises(TypeError, match=r"cannot run in float64.*x\.new_zeros"):
        margin_bound(_Mixed().eval(), x, torch.tensor([0, 1]), 0.1, "ibp", sound=False)
