"""Sampling and whole certificates: coverage, reproducibility, and input that must not give a certificate."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from linf_plugin.smoothing import certify, draw_counts, gaussian_radius, least_draws, lower, several_radius, upper


class HalfSpace(nn.Module):
    """Class 1 where the first coordinate exceeds 0; elementwise, so that the size of a batch changes no bit."""

    def forward(self, x):
        first = x.flatten(1)[:, 0]
        return torch.stack([-first, first], dim=1)


class Same(nn.Module):
    def forward(self, x):
        return torch.tensor([[0.0, 1.0, 0.5]]).expand(len(x), 3)


class Broken(nn.Module):
    """NaN where the first coordinate exceeds the limit."""

    def __init__(self, limit):
        super().__init__()
        self.limit = limit

    def forward(self, x):
        first = x.flatten(1)[:, :1]
        logits = torch.cat([-first - 9, first + 9], dim=1)
        return torch.where(first > self.limit, math.nan, logits)


def _points(n, d=5):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(1))


def test_one_noise_is_the_certificate_of_cohen():
    x = torch.full((1, 3), 0.3)
    found = certify(HalfSpace().eval(), x, 0.5, n0=50, n=2000, alpha=0.01)
    count = int(found.counts[0, 0])
    assert found.prediction.tolist() == [1] and found.norm == 2.0 and found.failure == 0.01 and found.draws == 2050
    assert found.radius[0] == gaussian_radius(float(lower(count, 2000, 0.01)), 0.5)
    assert 0 < found.radius[0] < 0.3  # the true radius is the distance to the plane
    row = found.rows()[0]
    assert (row["norm"], row["failure"], row["draws"], row["abstained"], row["method"]) == (
        "l2", 0.01, 2050, False, "one noise",
    )  # fmt: skip
    assert "1 of 1 samples certified" in str(found)
    assert found.certified(torch.tensor([1])).tolist() == [True]
    assert found.certified(torch.tensor([1]), 0.3).tolist() == found.certified(torch.tensor([0])).tolist() == [False]


def test_several_noises_split_the_error_probability():
    x = torch.tensor([[0.3, 0.0], [-0.6, 0.0], [0.001, 0.0]])
    found = certify(HalfSpace().eval(), x, (0.5, 0.6), n0=50, n=2000, alpha=0.01)
    assert found.prediction.tolist() == [1, 0, -1]
    assert found.abstained.tolist() == [False, False, True] and found.radius[2] == 0 and found.method[2] == 0
    counts = found.counts.numpy()
    assert (found.lower.numpy() == lower(counts, 2000, 0.01 / 4)).all()
    assert (found.upper.numpy() == upper(counts, 2000, 0.01 / 4)).all()
    ends = {s: (float(found.lower[1, j]), float(found.upper[1, j])) for j, s in enumerate((0.5, 0.6))}
    assert found.radius[1] == max(several_radius(ends, 2), gaussian_radius(ends[0.5][0], 0.5))
    assert (found.radius < x[:, 0].abs()).all()


@pytest.mark.parametrize("sigmas", [(0.5,), (0.5, 0.6)])
def test_coverage(sigmas):
    """10⁴ certificates of a half-space at alpha = .05.  Its true radius is known, so each failure shows."""
    alpha, n, distance, runs = 0.05, 500, 0.4, 10_000
    rng = np.random.default_rng(0)
    share = alpha if len(sigmas) == 1 else alpha / 4
    p = [0.5 * (1 + math.erf(distance / s / math.sqrt(2))) for s in sigmas]
    counts = np.stack([rng.binomial(n, q, runs) for q in p], axis=1)
    low, high = lower(counts, n, share), upper(counts, n, share)
    if len(sigmas) == 1:
        failed = sum(gaussian_radius(float(a), 0.5) > distance for a in low[:, 0])
    else:
        # A false radius needs a false end: weak duality.  So samples with a false end are counted.
        false = ((low > p) | (high < p)).any(axis=1)
        failed = false.sum()
        for i in np.flatnonzero(~false)[:5]:
            assert several_radius({s: (low[i, j], high[i, j]) for j, s in enumerate(sigmas)}, 3) <= distance
    assert 0 < failed <= runs * alpha + 3 * math.sqrt(runs * alpha * (1 - alpha))


def test_coverage_of_the_sampler():
    """The same through the net: 10⁴ samples at one point, each with its own draws."""
    alpha, runs, distance = 0.05, 10_000, 0.4
    found = certify(HalfSpace().eval(), torch.full((runs, 1), distance), 0.5, 5, 60, alpha, batch_size=1 << 16)
    failed = int(((found.radius > distance) | (found.prediction == 0)).sum())
    assert 0 < failed <= runs * alpha + 3 * math.sqrt(runs * alpha * (1 - alpha))


@pytest.mark.parametrize("noise", ["gaussian", "uniform"])
def test_counts_do_not_depend_on_batches_or_neighbours(noise):
    x, net = _points(6), HalfSpace().eval()
    whole = draw_counts(net, x, 0.7, 300, noise=noise, seed=3)
    assert whole.shape == (6, 2) and (whole.sum(dim=1) == 300).all()
    for size in (1, 7, 300, 4096):
        assert torch.equal(draw_counts(net, x, 0.7, 300, noise=noise, seed=3, batch_size=size), whole)
    assert torch.equal(draw_counts(net, x[4:], 0.7, 300, noise=noise, seed=3, offset=4), whole[4:])
    assert not torch.equal(draw_counts(net, x, 0.7, 300, noise=noise, seed=4), whole)
    assert not torch.equal(draw_counts(net, x, 0.7, 300, noise=noise, seed=3, stream=1), whole)


def test_a_run_can_be_resumed():
    x, net = 0.2 * _points(4), HalfSpace().eval()
    options = {"sigmas": (0.5, 0.55), "n0": 20, "n": 500, "alpha": 0.01, "seed": 9}
    whole = certify(net, x, **options)
    parts = [certify(net, x[:2], **options), certify(net, x[2:], offset=2, batch_size=77, **options)]
    assert [row for part in parts for row in part.rows()] == whole.rows()


def test_non_contiguous_and_double_samples():
    x, net = _points(8, 6), HalfSpace().eval()
    assert torch.equal(draw_counts(net, x.T.contiguous().T, 0.5, 100), draw_counts(net, x, 0.5, 100))
    assert torch.equal(draw_counts(net, x[::2], 0.5, 100), draw_counts(net, x[::2].clone(), 0.5, 100))
    images = torch.rand(2, 1, 3, 3, dtype=torch.float64)
    assert draw_counts(net, images, 0.5, 10).sum() == 20


def test_an_empty_batch():
    found = certify(HalfSpace().eval(), torch.empty(0, 4), (0.5, 0.6), n=100)
    assert found.rows() == [] and found.prediction.shape == found.radius.shape == (0,)
    assert found.counts.shape == (0, 2)
    assert draw_counts(HalfSpace().eval(), torch.empty(0, 4), 0.5, 10).shape == (0, 2)


def test_uniform_noise_has_two_norms():
    x = torch.full((1, 4), 0.2)
    options = {"sigmas": 0.5, "n0": 20, "n": 5000, "alpha": 0.01, "noise": "uniform"}
    l1, linf = certify(HalfSpace().eval(), x, **options), certify(HalfSpace().eval(), x, norm="linf", **options)
    assert l1.norm == 1.0 and linf.norm == math.inf
    assert 0 < linf.radius[0] < l1.radius[0] < 0.2


@pytest.mark.parametrize("limit", [-100.0, 0.0, 1.2])
def test_nan_never_gives_a_certificate(limit):
    found = certify(Broken(limit).eval(), torch.zeros(2, 3), (0.5, 0.6), n0=100, n=2000, alpha=0.05)
    assert (found.lost > 0).all() and found.abstained.all() and (found.radius == 0).all()


def test_a_net_without_nan_there_is_certified():
    found = certify(Broken(50.0).eval(), torch.zeros(1, 3), (0.5, 0.6), n0=100, n=2000, alpha=0.05)
    assert found.lost[0] == 0 and found.prediction[0] == 1
    assert found.radius[0] < 9  # 2000 of 2000 draws bound it


def test_a_net_that_ignores_its_input_is_refused():
    with pytest.raises(ValueError, match="model ignores its input"):
        certify(Same().eval(), torch.zeros(1, 3), 0.5)


def test_too_few_draws_are_named():
    least = least_draws(0.001 / 4)
    with pytest.raises(ValueError, match=f"n must be at least {least} "):
        certify(HalfSpace().eval(), torch.zeros(1, 3), (0.5, 0.6), n=least - 1, alpha=0.001)
    x = torch.full((1, 3), 50.0)
    assert certify(HalfSpace().eval(), x, (0.5, 0.6), n=least, alpha=0.001).prediction[0] == 1


NET, X = HalfSpace().eval(), torch.zeros(2, 3)


@pytest.mark.parametrize(
    "changed, error, text",
    [
        ({"sigmas": 0.0}, ValueError, "sigmas must be positive"),
        ({"sigmas": (0.5, -1.0)}, ValueError, "sigmas must be positive"),
        ({"sigmas": math.nan}, ValueError, "sigmas must be positive"),
        ({"sigmas": "0.5"}, TypeError, "sigmas must be a number"),
        ({"sigmas": (0.5, 0.5)}, ValueError, "sigmas must not hold equal"),
        ({"sigmas": ()}, ValueError, "sigmas must hold at least one"),
        ({"sigmas": (0.5, 0.6), "noise": "uniform"}, ValueError, "sigmas must hold one"),
        ({"alpha": 0.0}, ValueError, "alpha must lie"),
        ({"alpha": 1.0}, ValueError, "alpha must lie"),
        ({"alpha": math.nan}, ValueError, "alpha must lie"),
        ({"alpha": None}, TypeError, "alpha must be a number"),
        ({"n": 0}, ValueError, "n must be at least"),
        ({"n": 10.0}, TypeError, "n must be an integer"),
        ({"n0": 0}, ValueError, "n0 must be at least"),
        ({"noise": "cauchy"}, ValueError, "noise must be one of"),
        ({"norm": "linf"}, ValueError, "norm must be one of l2"),
        ({"seed": -1}, ValueError, "seed must be"),
        ({"offset": -1}, ValueError, "offset must be"),
        ({"batch_size": 0}, ValueError, "batch_size must be"),
        ({"x": X.int()}, TypeError, "x must be a floating-point"),
        ({"x": X.half()}, TypeError, "x must be float32"),
        ({"x": X / 0}, ValueError, "x must not hold NaN"),
        ({"x": torch.zeros(3)}, ValueError, "x must have shape"),
        ({"model": HalfSpace().train()}, ValueError, "model is in training mode"),
        ({"model": lambda x: x}, TypeError, "model must be"),
        ({"model": nn.Flatten(0).eval()}, ValueError, "model must return"),
    ],
)
def test_wrong_arguments(changed, error, text):
    arguments = {"model": NET, "x": X, "n": 100, **changed}
    with pytest.raises(error, match=text):
        certify(**arguments)
