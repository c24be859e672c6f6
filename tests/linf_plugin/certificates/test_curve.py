"""Radii that each certificate proves: the same as bounding everything, without bounding anything twice."""

import functools
import math

import pytest
import torch
from torch import nn

from linf_plugin import build
from linf_plugin.bounds import rounded
from linf_plugin.certificates import CERTIFICATES, Certificate, certify_curve, certify_each, linear, margin_bound
from linf_plugin.certificates.table import CHEAP, contained, theorems

LINF = theorems(math.inf)

pytestmark = pytest.mark.usefixtures("few_alpha_steps")

CASES = {  # architecture and ε: some samples are proved at each ε by each of several methods, some by none
    "linf-mlp": (dict(width=10, depth=2), (0.01, 0.03, 0.06)),
    "linf-mlp-head": (dict(width=12, depth=2, hidden=8), (0.01, 0.02, 0.04)),
    "relu-mlp": (dict(width=20, depth=3), (0.0005, 0.001, 0.003)),
}


@pytest.fixture(params=CASES)
def case(request):
    return made(request.param)


def made(name):
    """Net, samples, labels of which some are wrong, radii."""
    arguments, eps_values = CASES[name]
    net = build(name, shape=(1, 4, 4), classes=4, mean=(0.5,), std=0.25, **arguments).eval()
    x = torch.rand(40, 1, 4, 4)
    with torch.no_grad():
        if isinstance(net[-1], nn.Linear):
            net[-1].bias -= net(x).mean(0)  # else one class has all samples
        labels = net(x).argmax(1)
    labels[::10] = (labels[::10] + 1) % 3
    return net, x, labels, eps_values


def largest(net, x, labels, eps_values, **how):
    """name → what ``Curve.proved`` should be, by ``certify_each`` at each radius."""
    found = {name: torch.full((len(x),), -1.0, dtype=torch.float64) for name in LINF}
    for eps in sorted(eps_values):
        each = certify_each(net, x, labels, eps, found, **how)
        for name in found:
            for other in (name, *contained(name)):
                found[name][each[other]] = eps
    return found


@pytest.mark.parametrize("sound", (True, False), ids=("sound", "exact"))
def test_a_curve_is_what_each_certificate_proves_at_each_radius(case, sound):
    net, x, labels, eps_values = case
    curve = certify_curve(net, x, labels, eps_values, sound=sound, batch_size=16)
    expected = largest(net, x, labels, eps_values, sound=sound)
    assert curve.eps_values == tuple(sorted(eps_values, reverse=True)) and tuple(curve.proved) == LINF
    for name, radii in expected.items():
        assert torch.equal(curve.proved[name], radii), name
        own = curve.bound[name] > 0
        inside = torch.stack([curve.proved[other] for other in (name, *contained(name))]).amax(0)
        assert torch.equal(curve.proved[name], inside) and (curve.proved[name] >= 0)[own].all()
    assert len(set(curve.proved["ibp"].tolist())) >= 3
    assert torch.equal(curve.correct, net(x).argmax(1) == labels)
    for eps in eps_values:
        assert all(t.certified <= t.tried and t.seconds >= 0 for t in curve.tallies[eps].values())
    assert set(curve.seconds()) == set(LINF) and sum(curve.seconds().values()) > 0


def test_a_cascade_proves_the_same_with_less(case):
    net, x, labels, eps_values = case
    each, cascade = (certify_curve(net, x, labels, eps_values, cascade=c) for c in (False, True))
    best, ours = (torch.stack(list(curve.proved.values())).amax(0) for curve in (each, cascade))
    assert torch.equal(best, ours)
    tried = [sum(t.tried for tallies in c.tallies.values() for t in tallies.values()) for c in (each, cascade)]
    assert tried[1] < tried[0]


def test_the_bound_of_a_proof_is_that_of_its_radius(case):
    net, x, labels, eps_values = case
    curve = certify_curve(net, x, labels, eps_values, ["ibp", "crown"])
    for name in ("ibp", "crown"):
        for eps in eps_values:
            rows = (curve.proved[name] == eps) & (curve.bound[name] > 0)
            if rows.any():
                alone = margin_bound(net, x[rows], labels[rows], eps, name)
                torch.testing.assert_close(curve.bound[name][rows], alone, rtol=1e-9, atol=1e-9)


@pytest.fixture(scope="module", params=CASES)
def bounded(request):
    """A function (name, ε) → bounds of all samples, each computed once; radii."""
    torch.manual_seed(0)
    net, x, labels, eps_values = made(request.param)
    return functools.cache(functools.partial(_bound, net, x, labels)), eps_values


def _bound(net, x, labels, name, eps):
    return margin_bound(net, x, labels, eps, name)


@pytest.mark.parametrize("name", [name for name, row in CERTIFICATES.items() if row.contains])
def test_a_certificate_is_never_looser_than_what_it_contains(bounded, name):
    bounds, eps_values = bounded
    for eps in (*eps_values, 0.2):
        ours = bounds(name, eps)
        for other in CERTIFICATES[name].contains:
            theirs = bounds(other, eps)
            assert (ours >= theirs - 1e-9 * (1 + theirs.abs())).all()


@pytest.mark.parametrize("sound", (True, False), ids=("sound", "exact"))
def test_a_computed_radius_agrees_with_what_is_proved(case, sound):
    net, x, labels, eps_values = case
    curve = certify_curve(net, x, labels, eps_values, ["lipschitz", "ibp"], sound=sound)
    radius, proved = curve.radius["lipschitz"], curve.proved["lipschitz"]
    assert tuple(curve.radius) == ("lipschitz",) and (radius[~curve.correct] == 0).all()
    for eps in eps_values:
        assert torch.equal(radius >= eps, proved >= eps)
    for eps in radius[radius > 0][:5].tolist():
        assert (margin_bound(net, x, labels, 0.999 * eps, "lipschitz", sound=sound) > 0)[radius >= eps].all()


# Fake certificates, which remember what they bound.


@pytest.fixture
def fakes(monkeypatch):
    """The rows "low", "high", which contains it, "other" and "guess", and a list of (name, ε, number of the sample).

    Sample k is x = k/10.  "low" proves it up to ε = k/100, "high" up to 2k/100 and "other" up to 1.5k/100.
    """
    seen = []

    def row(name, cost, factor, **facts):
        def bound(problem):
            def bounds(x, labels):
                k = (10 * x.flatten()).round().double()
                seen.extend((name, problem.ball.eps, int(i)) for i in k)
                return factor * k / 100 - problem.ball.eps + 1e-9

            return bounds

        return Certificate(name, name, math.inf, cost, facts.pop("failure", 0.0), bound, 2, **facts)

    rows = (
        row("low", 1, 1.0),
        row("high", CHEAP + 1, 2.0, contains=("low",)),
        row("other", CHEAP + 2, 1.5),
        row("guess", CHEAP + 3, 9.0, failure=0.1),
    )
    monkeypatch.setattr("linf_plugin.certificates.table.CERTIFICATES", {r.name: r for r in rows})
    monkeypatch.setattr("linf_plugin.certificates.cascade.CERTIFICATES", {r.name: r for r in rows})
    return seen


class Zero(nn.Module):
    """Every sample is of class 0."""

    def forward(self, x):
        return torch.cat([x + 1, x], 1)


X = torch.arange(6).float().view(-1, 1) / 10
Y = torch.tensor([0, 0, 0, 0, 0, 1])  # the last one is misclassified
EPS = (0.02, 0.01, 0.04)


def curve_of(*methods, **options):
    return certify_curve(Zero().eval(), X, Y, EPS, methods, sound=False, **options)


def test_what_is_proved_at_a_larger_radius_or_by_a_contained_certificate_is_not_bounded_again(fakes):
    curve = curve_of("low", "high", "other")
    assert curve.proved["low"].tolist() == [-1, 0.01, 0.02, 0.02, 0.04, -1]
    assert curve.proved["high"].tolist() == [-1, 0.02, 0.04, 0.04, 0.04, -1]
    assert curve.proved["other"].tolist() == [-1, 0.01, 0.02, 0.04, 0.04, -1]
    assert len(fakes) == len(set(fakes))
    bounded = {(name, eps): [k for n, e, k in fakes if (n, e) == (name, eps)] for name, eps, _ in fakes}
    assert bounded == {
        ("low", 0.04): [0, 1, 2, 3, 4],
        ("low", 0.02): [0, 1, 2, 3],
        ("low", 0.01): [0, 1],
        ("high", 0.04): [0, 1, 2, 3],  # not 4, which "low" proved
        ("high", 0.02): [0, 1],
        ("high", 0.01): [0],
        ("other", 0.04): [0, 1, 2, 3, 4],
        ("other", 0.02): [0, 1, 2],
        ("other", 0.01): [0, 1],
    }
    assert [curve.tallies[eps]["high"][:2] for eps in curve.eps_values] == [(4, 2), (2, 1), (1, 0)]
    assert curve.bound["high"][4] == -math.inf and curve.bound["low"][4] > 0


def test_of_a_cascade_a_sample_is_bounded_until_anything_proves_it(fakes):
    curve_of("low", "high", "other", cascade=True)
    assert sorted(k for name, eps, k in fakes if (name, eps) == ("other", 0.04)) == [0, 1]
    assert [k for name, eps, k in fakes if (name, eps) == ("other", 0.02)] == [0]


def test_expensive_theorems_leave_out_what_an_attack_broke(fakes):
    asked = []

    def broken(curve):
        asked.append({name: radii.clone() for name, radii in curve.proved.items()})
        assert {name for name, *_ in fakes} == {"low", "guess"}  # one is cheap, one may fail
        return torch.tensor([0.01, 0.02, 0.04, math.inf, math.inf, 0.0])

    curve = curve_of("low", "high", "guess", broken=broken)
    assert len(asked) == 1 and asked[0]["low"].tolist() == curve.proved["low"].tolist()
    assert {(eps, k) for name, eps, k in fakes if name == "high"} == {(0.04, 3), (0.02, 2), (0.01, 1)} - {
        (0.02, 2),  # "low" proved it
        (0.01, 1),
    }
    assert {k for name, eps, k in fakes if (name, eps) == ("low", 0.04)} == {0, 1, 2, 3, 4}
    tensor = curve_of("low", "high", "guess", broken=torch.tensor([0.01, 0.02, 0.04, math.inf, math.inf, 0.0]))
    assert all(torch.equal(curve.proved[name], tensor.proved[name]) for name in curve.proved)


# What is shared.


def test_all_radii_and_methods_share_one_trace_and_the_noise_of_a_batch(monkeypatch):
    traces, noises = [], []
    trace, noise = linear._Traced._trace, rounded.Noisy.noises
    monkeypatch.setattr(linear._Traced, "_trace", lambda self, inputs: traces.append(1) or trace(self, inputs))
    monkeypatch.setattr(rounded.Noisy, "noises", lambda self, *ends: noises.append(len(ends[0])) or noise(self, *ends))
    net = build("relu-mlp", shape=(1, 4, 4), classes=4, width=8, depth=2).eval()
    x = torch.rand(20, 1, 4, 4)
    labels = net(x).argmax(1)
    # Nothing is proved at these radii, so all methods bound the same samples.
    curve = certify_curve(net, x, labels, (0.5, 0.4), ["crown-ibp", "crown"], batch_size=8)
    assert not (curve.bound["crown"] > 0).any()
    assert len(traces) == 1 and noises == [8, 8, 4] * 2
    certify_curve(net, x, labels, (0.5, 0.4, 0.01), batch_size=8)
    assert len(traces) == 2


@pytest.mark.parametrize(
    "change, error, words",
    [
        (dict(eps_values=[]), ValueError, "eps_values must have at least one radius"),
        (dict(eps_values=0.1), TypeError, "eps_values must be radii, got 0.1"),
        (dict(eps_values=[0.1, -1]), ValueError, "eps must"),
        (dict(methods=["none"]), ValueError, "each of methods must be one of"),
        (dict(broken=torch.zeros(3)), ValueError, r"broken must have shape \(6,\), got \(3,\)"),
        (dict(broken=torch.zeros(6, dtype=torch.bool)), TypeError, "broken must be a floating-point tensor"),
        (dict(batch_size=0), ValueError, "batch_size"),
    ],
)
def test_wrong_arguments_are_named(change, error, words):
    net = nn.Linear(1, 2).eval()
    arguments = dict(model=net, x=X, labels=Y, eps_values=EPS, methods=["ibp", "crown"]) | change
    with pytest.raises(error, match=words):
        certify_curve(**arguments)


def test_no_sample_gives_an_empty_curve():
    curve = certify_curve(nn.Linear(1, 2).eval(), X[:0], Y[:0], EPS)
    assert all(radii.shape == (0,) for radii in (*curve.proved.values(), *curve.radius.values()))
