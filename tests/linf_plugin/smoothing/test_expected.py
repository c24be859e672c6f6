"""Entropies by sampling, and the certificate in expectation, on nets whose probabilities are known."""

import math

import pytest
import torch
from torch import nn

import linf_plugin as lp
from linf_plugin.smoothing import class_counts, entropy, expected_risk

NORMAL = torch.distributions.Normal(torch.tensor(0.0, dtype=torch.float64), torch.tensor(1.0, dtype=torch.float64))
DISTRIBUTIONS = {
    "sure": [1.0, 0.0, 0.0],
    "nearly": [0.99, 0.01, 0.0],
    "two": [0.7, 0.3, 0.0],
    "even": [0.25] * 4,
    "ten": [0.55] + [0.05] * 9,
}


@pytest.mark.parametrize("draws", (1, 20, 300, 5000))
@pytest.mark.parametrize("p", DISTRIBUTIONS.values(), ids=DISTRIBUTIONS)
def test_the_interval_covers_the_entropy(p, draws):
    p, repeats, alpha = torch.tensor(p, dtype=torch.float64), 2000, 0.05
    exact = -torch.special.xlogy(p, p).sum()
    generator = torch.Generator().manual_seed(0)
    drawn = torch.multinomial(p.expand(repeats, -1), draws, replacement=True, generator=generator)
    counts = torch.zeros(repeats, len(p), dtype=torch.int64).scatter_add_(1, drawn, torch.ones_like(drawn))
    found = entropy(counts, alpha)
    assert (found.lower <= found.estimate + 1e-9).all() and (found.lower <= found.upper).all()
    missed = ((exact < found.lower) | (found.upper < exact)).double().mean()
    assert missed <= alpha + 3 * math.sqrt(alpha / repeats)
    if draws == 5000:
        assert (found.upper - found.lower).max() < 0.3


def test_the_entropy_of_a_box_is_an_upper_bound():
    """No distribution inside of random boxes has more."""
    from linf_plugin.smoothing.classes import _largest

    generator = torch.Generator().manual_seed(1)
    p = torch.randn(400, 5, generator=generator, dtype=torch.float64).mul(2).softmax(1)
    room = torch.rand(2, 400, 5, generator=generator, dtype=torch.float64) * 0.1
    low, high = (p - room[0]).clamp_min(0), (p + room[1]).clamp_max(1)
    bound = _largest(low, high)
    assert (-torch.special.xlogy(p, p).sum(1) <= bound + 1e-12).all()
    # A step along ±(e_i − e_j) inside of the box never gives more either, and one point of the box is close.
    for i in range(5):
        for j in range(5):
            q = p.clone()
            step = torch.minimum((high - q)[:, i], (q - low)[:, j]) / 2
            q[:, i] += step
            q[:, j] -= step
            assert (-torch.special.xlogy(q, q).sum(1) <= bound + 1e-12).all()
    exact = _largest(p, p)
    assert torch.allclose(exact, -torch.special.xlogy(p, p).sum(1), atol=1e-9)


def test_the_change_by_one_draw_is_the_largest():
    """The constant in McDiarmid's inequality, by trying all counts of three classes."""
    for n in (1, 2, 7, 12):
        rows = [(a, b, n - a - b) for a in range(n + 1) for b in range(n + 1 - a)]
        value = {row: -sum(c / n * math.log(c / n) for c in row if c) for row in rows}
        change = max(abs(value[row] - value[row[0] - 1, row[1] + 1, row[2]]) for row in rows if row[0])
        bound = (math.log(n) + ((n - 1) * math.log(n / (n - 1)) if n > 1 else 0)) / n
        assert change <= bound + 1e-12 and (n == 1 or change >= bound - 1e-12)


def test_clopper_pearson_ends():
    """By their definition: the binomial tail at each end is the given one."""
    from scipy.stats import binom

    from linf_plugin.smoothing.classes import _intervals

    counts = torch.tensor([[0, 10], [3, 7], [10, 0], [1, 9]], dtype=torch.float64)
    low, high = _intervals(counts, counts.sum(1), 0.02)
    for k, a, b in zip(counts[:, 0].tolist(), low[:, 0].tolist(), high[:, 0].tolist()):
        assert a == 0 if k == 0 else binom.sf(k - 1, 10, a) == pytest.approx(0.02, rel=1e-6)
        assert b == 1 if k == 10 else binom.cdf(k, 10, b) == pytest.approx(0.02, rel=1e-6)


@pytest.mark.parametrize("alpha", (0, 1, -0.1, math.nan, "0.1", None))
def test_wrong_alphas_are_refused(alpha):
    with pytest.raises((TypeError, ValueError), match="^alpha must"):
        entropy(torch.tensor([[3, 4]]), alpha)
    with pytest.raises((TypeError, ValueError), match="^alpha must"):
        expected_risk(linear()[0], torch.zeros(2, 3), torch.zeros(2, dtype=torch.long), 0.1, alpha=alpha)


@pytest.mark.parametrize(
    "counts", ([[1, 2]], torch.tensor([[0.5, 1]]), torch.tensor([[0, 0]]), torch.tensor([[-1, 3]]), torch.tensor([3]))
)
def test_wrong_counts_are_refused(counts):
    with pytest.raises((TypeError, ValueError), match="^counts must"):
        entropy(counts, 0.1)


def linear(sigma=0.4, kind=lp.GaussianNoise):
    """Two classes in three dimensions, w·x + b for the second one."""
    w, b = torch.tensor([0.6, -0.3, 0.5]), 0.1
    head = nn.Linear(3, 2)
    with torch.no_grad():
        head.weight.copy_(torch.stack([torch.zeros(3), w]))
        head.bias.copy_(torch.tensor([0.0, b]))
    return nn.Sequential(kind(sigma), head).eval(), w.double(), b


@pytest.mark.parametrize("eps", (0.0, 0.05, 0.3, 2.0))
def test_the_bound_holds_for_a_linear_classifier(eps):
    """Its risk under attack in ℓ2 is known: the mean of Φ(−(s·(w·x + b) − eps·‖w‖)/σ‖w‖), with s = ±1 by the label."""
    sigma, alpha, draws = 0.4, 0.01, 2000
    model, w, b = linear(sigma)
    generator = torch.Generator().manual_seed(0)
    x, labels = torch.randn(60, 3, generator=generator), torch.randint(2, (60,), generator=generator)
    sign, length = 2 * labels.double() - 1, torch.linalg.vector_norm(w)
    margin = sign * (x.double() @ w + b) / length
    clean, attacked = NORMAL.cdf(-margin / sigma), NORMAL.cdf(-(margin - eps) / sigma)
    found = expected_risk(model, x, labels, eps, draws=draws, alpha=alpha)
    assert abs(found.risk - clean.mean()) < 4.5 / math.sqrt(60 * draws)
    assert clean.mean() <= found.risk_upper < clean.mean() + 0.02
    assert (attacked - clean <= found.gaps + 1e-12).all() and attacked.mean() <= found.attacked
    assert found.gap <= found.gap_by_entropy and found.gap <= found.variation + 1e-12
    exact = -(torch.special.xlogy(clean, clean) + torch.special.xlogy(1 - clean, 1 - clean))
    assert (found.entropies.lower <= exact).all() and (exact <= found.entropies.upper).all()
    if eps == 0.05:  # the total variation is a bound that the boundary reaches: 2Φ(eps/2σ) − 1
        half = NORMAL.cdf(torch.tensor(eps / (2 * sigma), dtype=torch.float64))
        assert found.variation == pytest.approx(2 * half.item() - 1, abs=1e-8)
    if eps == 2.0:
        assert found.gap > 0.9 * (attacked - clean).max()


def test_the_best_attack_on_the_worst_input_reaches_the_total_variation():
    """A linear classifier at ±eps/2 from its boundary: the bound cannot be improved for nets in general."""
    sigma, eps = 0.4, 0.3
    model, w, b = linear(sigma)
    length = torch.linalg.vector_norm(w)
    x = ((eps / 2 * length - b) * w / length**2).float()[None]
    found = expected_risk(model, x, torch.ones(1, dtype=torch.long), eps, draws=4000)
    exact = 2 * NORMAL.cdf(torch.tensor(eps / 2 / sigma, dtype=torch.float64)) - 1
    assert found.gap == pytest.approx(exact.item(), abs=1e-8)


def test_laplace_noise_in_l1():
    """One coordinate counts: P(w·(x + noise) > 0) is that of one Laplace variable."""
    head = nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[0.0, 0.0], [1.0, 0.0]]))
    model, scale, eps = nn.Sequential(lp.LaplaceNoise(0.3), head).eval(), 0.3, 0.2
    x = torch.tensor([[0.1, 5.0], [0.4, -1.0], [-0.2, 0.0]])

    def risk(t):
        return torch.where(t > 0, 0.5 * (-t / scale).exp(), 1 - 0.5 * (t / scale).exp())

    first = x[:, 0].double()
    found = expected_risk(model, x, torch.ones(3, dtype=torch.long), eps, norm="l1", draws=3000, alpha=0.01)
    assert (risk(first - eps) - risk(first) <= found.gaps).all() and risk(first - eps).mean() <= found.attacked
    assert found.gaps[0] == pytest.approx(-math.expm1(-eps / (2 * scale)), abs=1e-8)


def test_a_seed_fixes_it_and_samples_do_not_depend_on_each_other():
    model, x = linear()[0], torch.rand(5, 3)
    before = torch.get_rng_state()
    counts = class_counts(model, x, 300, seed=3, batch_size=128)
    assert torch.equal(torch.get_rng_state(), before)
    assert counts.shape == (5, 3) and (counts.sum(1) == 300).all()
    assert torch.equal(class_counts(model, x[:2], 300, seed=3, batch_size=128), counts[:2])
    assert not torch.equal(class_counts(model, x, 300, seed=4, batch_size=128), counts)
    strided = x.t().contiguous().t()
    assert torch.equal(class_counts(model, strided, 300, seed=3, batch_size=128), counts)
    assert class_counts(model, x[:0], 300).shape == (0, 3)


def test_draws_with_nan_are_of_no_class():
    """They are errors, and never of use to the certificate."""

    class Sometimes(nn.Module):
        def forward(self, x):
            return torch.where(x[:, :1] > 0, x, math.nan)

        def lipschitz_in(self, norm):
            return 1.0

    model, x = nn.Sequential(lp.GaussianNoise(0.5), Sometimes()).eval(), torch.tensor([[0.0, -3.0]])
    counts = class_counts(model, x, 1000)
    assert 400 < counts[0, 2] < 600 and counts[0, 0] == 1000 - counts[0, 2]
    found = expected_risk(model, x, torch.zeros(1, dtype=torch.long), 0.1)
    assert found.risk == counts[0, 2] / 1000


@pytest.mark.parametrize(
    "change, named",
    (
        ({"draws": 0}, "draws must be at least 1"),
        ({"draws": 1.5}, "draws must be an integer"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"seed": -1}, "seed must be"),
        ({"eps": -0.1}, "eps must be"),
        ({"eps": math.nan}, "eps must be"),
        ({"norm": 3}, "norm must be"),
        ({"x": torch.full((2, 3), math.nan)}, "x must not hold NaN"),
        ({"x": torch.zeros(0, 3), "labels": torch.zeros(0, dtype=torch.long)}, "x must have at least one sample"),
        ({"labels": torch.tensor([0, 2])}, "labels must lie in"),
        ({"model": nn.Sequential(nn.Linear(3, 2)).eval()}, "model has no layer that adds noise"),
        ({"model": nn.Sequential(lp.GaussianNoise(0.1), nn.Linear(3, 2)).train()}, "model is in training mode"),
    ),
)
def test_wrong_arguments_are_refused_by_name(change, named):
    arguments = {"model": linear()[0], "x": torch.zeros(2, 3), "labels": torch.tensor([0, 1]), "eps": 0.1} | change
    with pytest.raises((TypeError, ValueError), match=named):
        expected_risk(**arguments)
