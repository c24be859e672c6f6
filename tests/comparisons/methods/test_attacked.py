"""Adversarial training in two norms and with noise: its balls, its choices, and that it is that of ``pgd`` without."""

import copy
import math
from fractions import Fraction

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from comparisons.methods.attacked import INPUT_NOISE, AttackedCrossEntropy
from comparisons.methods.losses import LOSSES
from comparisons.methods.searched import adversarial_in_ball
from linf_plugin import build
from linf_plugin.training import Schedule
from linf_plugin.volumes import equal_volume_radius

EPS = 0.1
SCHEDULE = Schedule(epochs=10, eps=EPS, eps_start=1, eps_end=9)
CLEAN, HALF, FULL = (SCHEDULE.at(epoch) for epoch in (0, 5, 9))
SHAPE = (1, 6, 6)
SIZE = math.prod(SHAPE)


def make(batch_norm=False):
    torch.manual_seed(0)
    return build("relu-mlp", shape=SHAPE, classes=3, width=12, depth=2, batch_norm=batch_norm).train()


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(1)
    return torch.rand(16, *SHAPE, generator=generator), torch.arange(16) % 3


def trained(loss, net, batch, steps=4, epoch=9):
    """Returns the weights after some steps from one seed, and the losses."""
    torch.manual_seed(7)
    optimizer, values = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9), []
    for _ in range(steps):
        optimizer.zero_grad()
        value = loss(net, *batch, SCHEDULE.at(epoch))
        value.backward()
        optimizer.step()
        values.append(value.item())
    return net.state_dict(), values


@pytest.mark.parametrize("noise", INPUT_NOISE)
@pytest.mark.parametrize("epoch", (0, 5, 9))
@pytest.mark.parametrize("batch_norm", (False, True), ids=("plain", "batch-norm"))
def test_without_noise_it_is_adversarial_training_bit_for_bit(batch, batch_norm, epoch, noise):
    states, values = zip(
        *(
            trained(loss, net, batch, epoch=epoch)
            for net, loss in (
                (net, LOSSES[name](net, SCHEDULE, steps=3, **more))
                for net, name, more in (
                    (make(batch_norm), "pgd", {}),
                    (make(batch_norm), "rat", {"sigma": 0.0, "noise": noise}),
                )
            )
        )
    )
    assert values[0] == values[1]
    assert all(torch.equal(a, states[1][key]) for key, a in states[0].items())


def test_with_noise_it_is_another_loss(batch):
    net = make()
    values = {
        sigma: trained(LOSSES["rat"](net, SCHEDULE, steps=3, sigma=sigma), copy.deepcopy(net), batch)[1]
        for sigma in (0.0, 0.2)
    }
    assert values[0.0] != values[0.2]


@pytest.mark.parametrize("name", INPUT_NOISE)
def test_the_noise_has_the_standard_deviation(name):
    torch.manual_seed(0)
    noise = INPUT_NOISE[name](0.3)(torch.zeros(200_000, dtype=torch.float64))
    assert noise.std() == pytest.approx(0.3, rel=0.02) and abs(noise.mean()) < 0.005


@pytest.mark.parametrize("norm", (math.inf, 2.0), ids=("linf", "l2"))
@pytest.mark.parametrize("eps", (1e-7, 8 / 255, 0.3, 1.7))
def test_no_adversarial_input_leaves_the_ball(norm, eps):
    """In exact arithmetic: x, the input and eps are fractions.  Pixels at and near 0 and 1 are among them."""
    net, generator = make(), torch.Generator().manual_seed(3)
    x = torch.rand(24, *SHAPE, generator=generator)
    x[:8] = x[:8].round()
    x[8:16] *= 1e-6
    moved = adversarial_in_ball(net, x, torch.arange(24) % 3, eps, 4, 0.5, norm)
    assert (moved >= 0).all() and (moved <= 1).all() and net.training
    for point, sample in zip(moved.flatten(1).tolist(), x.flatten(1).tolist()):
        steps = [abs(Fraction(a) - Fraction(b)) for a, b in zip(point, sample)]
        if norm == 2:
            assert sum(step**2 for step in steps) <= Fraction(eps) ** 2
        else:
            assert max(steps) <= Fraction(eps)
    if eps > 1e-3:
        length = torch.linalg.vector_norm((moved - x).flatten(1), ord=norm, dim=1)
        assert (length > 0.5 * eps).float().mean() > 0.5  # it goes far


@pytest.mark.parametrize("norm", (math.inf, 2.0), ids=("linf", "l2"))
def test_the_search_raises_the_loss(norm, batch):
    x, y = batch
    net, eps = make().eval(), 0.4
    before = F.cross_entropy(net(x), y)
    start = F.cross_entropy(net(adversarial_in_ball(net, x, y, eps, 0, 0.25, norm)), y)
    after = F.cross_entropy(net(adversarial_in_ball(net, x, y, eps, 10, 0.25, norm)), y)
    assert after > start + 0.02 and after > before + 0.02 and not net.training


def test_the_first_points_are_uniform_in_the_ball():
    """Without steps.  The share of points within r of the centre is (r/eps)^d."""
    x = torch.full((4000, 1, 1, 3), 0.5)
    torch.manual_seed(0)
    moved = adversarial_in_ball(nn.Flatten(), x, torch.zeros(4000, dtype=torch.long), 0.3, 0, 0.25, 2.0)
    length = (moved - x).flatten(1).norm(dim=1)
    for part in (0.5, 0.8, 0.95):
        assert (length <= part * 0.3).float().mean() == pytest.approx(part**3, abs=0.03)
    assert (moved - x).mean((0, 1, 2)).abs().max() < 0.01


def test_a_vanishing_gradient_moves_no_further():
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    nn.init.zeros_(net[1].weight)
    x = torch.rand(5, 1, 2, 2)
    moved = adversarial_in_ball(net, x, torch.zeros(5, dtype=torch.long), 0.1, 3, 0.25, 2.0)
    assert moved.isfinite().all() and ((moved - x).flatten(1).norm(dim=1) <= 0.1).all()


def test_radii_follow_the_schedule(batch):
    """At half of ε in ℓ∞, also half of the radius in ℓ2; at 0 the loss is that of clean inputs."""
    net = make().eval()
    x, y = torch.full((16, *SHAPE), 0.5), batch[1]
    for table, full in (({}, equal_volume_radius(SIZE, EPS)), ({"eps_l2": 0.2}, 0.2)):
        loss = LOSSES["pgd-l2"](net, SCHEDULE, steps=20, **table)
        for step in (HALF, FULL):
            length = (loss.moved(net, x, y, step.eps) - x).flatten(1).norm(dim=1)
            assert length.max() == pytest.approx(full * step.eps / EPS, rel=1e-4)
        assert torch.equal(loss(net, x, y, CLEAN), F.cross_entropy(net(x), y))
    nothing = LOSSES["mat-max"](net, Schedule(epochs=2, eps=0.0))
    assert torch.equal(nothing(net, x, y, Schedule(epochs=2, eps=0.0).at(1)), F.cross_entropy(net(x), y))


def test_mat_max_takes_the_worse_of_both(batch):
    x, y = batch
    net = make().eval()
    chosen = {"mat-max": None, "linf": ("linf",), "l2": ("l2",)}
    for name, norms in chosen.items():
        torch.manual_seed(2)
        if norms is None:
            loss = LOSSES[name](net, SCHEDULE, steps=3, eps_l2=0.35)
            chosen[name] = loss.moved(net, x, y, EPS)
            continue
        loss = AttackedCrossEntropy(net, SCHEDULE, norms=norms, steps=3, eps_l2=0.35)
        if name == "l2":  # the search in ℓ∞ comes first
            torch.rand_like(x)
        chosen[name] = loss.moved(net, x, y, EPS)
    losses = {name: F.cross_entropy(net(points), y, reduction="none") for name, points in chosen.items()}
    assert torch.equal(losses["mat-max"], torch.maximum(losses["linf"], losses["l2"]))
    worse = losses["linf"] >= losses["l2"]
    assert worse.any() and not worse.all()  # each norm is taken for some


def test_mat_rand_draws_a_norm_for_each_sample(batch):
    net = make().eval()
    loss = LOSSES["mat-rand"](net, SCHEDULE, steps=2)
    x, y = torch.full((400, *SHAPE), 0.5), torch.arange(400) % 3
    torch.manual_seed(0)
    in_l2 = torch.randint(2, (400,)) == 1  # the first numbers that are drawn
    torch.manual_seed(0)
    step = (loss.moved(net, x, y, EPS).double() - x.double()).flatten(1)
    assert 140 < in_l2.sum() < 260
    assert (step[~in_l2].abs().amax(1) <= EPS).all()
    assert (step[in_l2].norm(dim=1) <= equal_volume_radius(SIZE, EPS)).all()
    assert (step[in_l2].abs().amax(1) > EPS).double().mean() > 0.9  # the other ball does not have them
    for n in (0, 1):  # one of the norms has no sample
        assert loss.moved(net, x[:n], y[:n], EPS).shape == (n, *SHAPE)


@pytest.mark.parametrize("name, more", (("rat", {"sigma": 0.1}), ("mat-max", {}), ("mat-rand", {}), ("pgd-l2", {})))
@pytest.mark.parametrize("training", (True, False), ids=("training", "evaluation"))
def test_modes_and_running_statistics_stay_those_of_one_pass(batch, name, more, training):
    net = make(batch_norm=True).train(training)
    loss = LOSSES[name](net, SCHEDULE, steps=2, **more)
    loss(net, *batch, FULL)
    layers = [layer for layer in net.modules() if isinstance(layer, nn.BatchNorm1d)]
    assert layers and all(layer.training == training for layer in net.modules())
    assert all(layer.num_batches_tracked == int(training) for layer in layers)


@pytest.mark.parametrize(
    "name, table, named",
    (
        ("rat", {"sigma": -0.1}, "sigma must be finite and at least 0"),
        ("rat", {"sigma": math.nan}, "sigma must be finite"),
        ("rat", {"sigma": "0.1"}, "sigma must be a number"),
        ("rat", {"sigma": 0.1, "noise": "cauchy"}, "noise must be one of gaussian, uniform, laplace"),
        ("rat", {"sigma": 0.1, "norm": "l1"}, "norm must be linf or l2"),
        ("rat", {"sigma": 0.1, "norm": "l3"}, "norm must be one of"),
        ("mat-max", {"eps_l2": -1.0}, "eps_l2 must be finite and at least 0"),
        ("mat-rand", {"steps": 0}, "steps must be at least 1"),
        ("pgd-l2", {"size": 0.0}, "size must be positive"),
    ),
)
def test_wrong_arguments_are_refused_by_name(name, table, named):
    with pytest.raises((TypeError, ValueError), match=named):
        LOSSES[name](make(), SCHEDULE, **table)
