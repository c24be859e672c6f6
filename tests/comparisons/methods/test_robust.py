"""The baselines' losses: what they are at both ends of ε, that they bound, and that they train the given net."""

import math

import pytest
import torch
import torch.nn.functional as F

from comparisons.methods import warmup
from comparisons.methods.bounded import BoxBounds
from comparisons.methods.losses import LOSSES
from comparisons.methods.robust import RobustCrossEntropy, _smaller_box, box_around
from comparisons.methods.searched import adversarial
from linf_plugin import build
from linf_plugin.certificates import margin_bound
from linf_plugin.intervals import interval
from linf_plugin.layers.lipschitz import flat_layers, lipschitz_bound
from linf_plugin.models.folded import fold_batch_norm
from linf_plugin.spectral import bound
from linf_plugin.training import Schedule

EPS = 0.1
SCHEDULE = Schedule(epochs=10, eps=EPS, eps_start=1, eps_end=9)
CLEAN, HALF, FULL = (SCHEDULE.at(epoch) for epoch in (0, 5, 9))
NETS = {
    "plain": {"name": "relu-conv", "channels": (8,), "strides": (2,), "width": 16},
    "normalised": {"name": "cnn3", "width": 2},
    "normalised-rows": {"name": "relu-mlp", "width": 6, "depth": 2, "batch_norm": True},
    "ramp": {"name": "relu-mlp", "width": 8, "depth": 3, "activation": "ramp"},
}
SHAPE = (1, 12, 12)


def make(kind):
    torch.manual_seed(0)
    arguments = dict(NETS[kind])
    return build(arguments.pop("name"), shape=SHAPE, classes=3, **arguments)


@pytest.fixture(params=NETS)
def net(request):
    return make(request.param)


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(1)
    return torch.rand(8, *SHAPE, generator=generator), torch.arange(8) % 3


@pytest.mark.parametrize("linear", [0.0, 1.0], ids=["ibp", "crown-ibp"])
def test_at_radius_zero_it_is_the_clean_loss(net, batch, linear):
    loss = RobustCrossEntropy(net.eval(), SCHEDULE, linear=linear)
    net.train()
    torch.testing.assert_close(loss(net, *batch, CLEAN), F.cross_entropy(net(batch[0]), batch[1]))


def by_hand(net, x, y, eps):
    """Returns the worst margins (N, classes − 1) by the intervals of layers, of a net in evaluation mode."""
    ends = box_around(x, eps)
    layers = flat_layers(net)
    for layer in layers[:-1]:
        ends = interval(layer, ends)
    rows, bias = layers[-1].weight, layers[-1].bias
    others = torch.tensor([[j for j in range(3) if j != label] for label in y])
    difference, offset = rows[y].unsqueeze(1) - rows[others], bias[y].unsqueeze(1) - bias[others]
    middle, radius = (ends[0] + ends[1]) / 2, (ends[1] - ends[0]) / 2
    return (difference @ middle.unsqueeze(2) - difference.abs() @ radius.unsqueeze(2)).squeeze(2) + offset


@pytest.mark.parametrize("kind", ["plain", "ramp"])
@pytest.mark.parametrize("linear", [0.0, 1.0], ids=["ibp", "crown-ibp"])
def test_at_full_radius_both_are_the_interval_cross_entropy(kind, batch, linear):
    net, (x, y) = make(kind), batch
    loss = RobustCrossEntropy(net.eval(), SCHEDULE, linear=linear)
    worst = torch.cat([torch.zeros(8, 1), -by_hand(net, x, y, EPS)], 1)
    expected = F.cross_entropy(worst, torch.zeros(8, dtype=torch.long))
    torch.testing.assert_close(loss(net.train(), x, y, FULL), expected)


def test_normalised_nets_are_bounded_with_the_statistics_of_the_clean_batch(batch):
    net, (x, y) = make("normalised"), batch
    loss = RobustCrossEntropy(net.eval(), SCHEDULE)
    value = loss(net.train(), x, y, FULL)
    for layer in net:  # running statistics that are those of this batch
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.momentum = 1.0
    net(x)
    net.eval()
    for layer in net:
        if isinstance(layer, torch.nn.BatchNorm2d):  # the batch's variance is taken without Bessel's correction
            values = net[: list(net).index(layer)](x)
            layer.running_var.copy_(values.detach().var((0, 2, 3), unbiased=False))
    worst = torch.cat([torch.zeros(8, 1), -by_hand(net, x, y, EPS)], 1)
    torch.testing.assert_close(value, F.cross_entropy(worst, torch.zeros(8, dtype=torch.long)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["mtl-ibp", "sabr"])
@pytest.mark.parametrize("kind", ["normalised", "normalised-rows"])
def test_adversarial_inputs_do_not_move_the_running_statistics(batch, name, kind):
    """Certificates use them: with others the interval bounds of a trained net would not be those of training."""
    net, alone, (x, y) = make(kind), make(kind), batch
    loss = LOSSES[name](net.eval(), SCHEDULE, **VARIANTS[name])
    loss(net.train(), x, y, FULL)
    alone.train()(x)
    for layer, other in zip(net, alone):
        assert layer.training
        for key in ("running_mean", "running_var"):
            if hasattr(other, key):
                torch.testing.assert_close(getattr(layer, key), getattr(other, key))


@pytest.mark.parametrize("kind", ["plain", "normalised", "normalised-rows"])
def test_adversarial_logits_lie_in_the_bounds_of_the_clean_batch(batch, kind):
    """One function is bounded and attacked.  With statistics of their own, adversarial logits would be another's."""
    net, (x, y) = make(kind), batch
    bounds, box = RobustCrossEntropy(net.eval(), SCHEDULE).bounds, box_around(x, EPS)
    net.train()
    _, worst = bounds.entropies(x, y, box, 0.0)
    before = {key: a.clone() for key, a in net.state_dict().items()}
    torch.testing.assert_close(F.cross_entropy(bounds.logits(net, x), y), bounds.entropies(x, y, box, 0.0)[0])
    for key, a in before.items():
        net.state_dict()[key].copy_(a)
    for point in (box[0], box[1], *(box[0] + torch.rand(20, *x.shape) * (box[1] - box[0]))):
        assert F.cross_entropy(bounds.logits(net, point), y) < worst
    assert all(torch.equal(a, before[key]) for key, a in net.state_dict().items()) and net.training


def test_half_way_crown_ibp_is_the_mean_of_both_bounds(batch):
    net, (x, y) = make("plain"), batch
    bounds, box = RobustCrossEntropy(net.eval(), SCHEDULE, linear=1.0).bounds, box_around(x, HALF.eps)
    bounds.entropies(x, y, box, 0.5)
    mixed, ibp = bounds._margins(y, 0.5), bounds._margins(y, 0.0)
    better = torch.maximum(2 * mixed - ibp, ibp).amin(
        1
    )  # a certificate is never looser than intervals; the loss may be
    assert (better.double() - margin_bound(net, x, y, HALF.eps, "crown-ibp")).abs().max() < 1e-4


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_the_fused_loss_bounds_the_cross_entropy_of_every_point(batch, share):
    net, (x, y) = make("plain"), batch
    bounds = RobustCrossEntropy(net.eval(), SCHEDULE, linear=1.0, fused=True).bounds
    box = box_around(x, EPS)
    clean, bound = bounds.entropies(x, y, box, share)
    torch.testing.assert_close(clean, F.cross_entropy(net(x), y))
    worst = 0.0
    for point in (*torch.rand(50, *x.shape), *torch.randint(2, (50, *x.shape)).float()):
        worst = max(worst, F.cross_entropy(net(box[0] + point * (box[1] - box[0])), y).item())
    assert worst < bound
    _, separate = RobustCrossEntropy(net, SCHEDULE, linear=1.0).bounds.entropies(x, y, box, share)
    assert bound < 1.2 * separate  # looser by little, if at all


VARIANTS = {
    "plain": {},
    "pgd": {"steps": 2},
    "ibp": {"warmup": 0.5, "l1": 1e-5},
    "crown-ibp": {"kappa": 0.0, "fused": True},
    "mtl-ibp": {"alpha": 0.5},
    "sabr": {"part": 0.4, "steps": 2},
    "pgd-l2": {"steps": 2},
    "rat": {"steps": 2, "sigma": 0.05},
    "mat-max": {"steps": 2},
    "mat-rand": {"steps": 2, "eps_l2": 0.3},
}


@pytest.mark.parametrize("name", VARIANTS)
def test_gradients_reach_the_given_net_and_lower_the_loss(net, batch, name):
    loss = LOSSES[name](net.eval(), SCHEDULE, **VARIANTS[name])
    net.train()

    optimizer, values = torch.optim.Adam(net.parameters(), 6e-3), []
    for _ in range(15):
        optimizer.zero_grad()
        torch.manual_seed(5)
        value = loss(net, *batch, HALF)
        value.backward()
        weights = {key: p for key, p in net.named_parameters() if p.requires_grad}
        assert all(p.grad is not None and p.grad.isfinite().all() for p in weights.values())
        assert values or all(p.grad.abs().sum() > 0 for key, p in weights.items() if key.endswith("weight"))
        optimizer.step()
        values.append(value.item())
    assert min(values[-5:]) < values[0] - 0.01


def test_building_a_loss_leaves_the_net_as_it_is(net, batch):
    net.train()
    net(batch[0])
    before = {key: a.clone() for key, a in net.state_dict().items()}
    RobustCrossEntropy(net.eval(), SCHEDULE, fused=True)
    assert not net.training and before.keys() == net.state_dict().keys()
    assert all(torch.equal(a, before[key]) for key, a in net.state_dict().items())


def test_folding_keeps_what_was_trained(batch):
    net, (x, y) = make("normalised"), batch
    loss = RobustCrossEntropy(net.eval(), SCHEDULE, warmup=0.5)
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    net.train()
    for epoch in range(10):
        optimizer.zero_grad()
        loss(net, x, y, SCHEDULE.at(epoch)).backward()
        optimizer.step()
    net.eval()
    folded = fold_batch_norm(net)
    torch.testing.assert_close(folded(x), net(x), rtol=1e-4, atol=1e-4)
    assert not any(isinstance(layer, torch.nn.BatchNorm2d) for layer in folded)


# Adversarial inputs.


def test_adversarial_inputs_stay_in_their_box_and_raise_the_loss(net, batch):
    x, y = batch
    box = box_around(x, EPS)
    net.train()
    before = {key: a.clone() for key, a in net.state_dict().items()}
    torch.manual_seed(3)
    moved = adversarial(net, y, box, steps=5, size=0.5)
    assert net.training and all(torch.equal(a, before[key]) for key, a in net.state_dict().items())
    assert (moved >= box[0]).all() and (moved <= box[1]).all() and not moved.requires_grad
    net.eval()
    assert F.cross_entropy(net(moved), y) > F.cross_entropy(net(x), y)


def test_a_smaller_box_lies_inside_the_ball(batch):
    x, _ = batch
    low, high = box_around(x, EPS)
    moved = low + torch.rand_like(x) * (high - low)
    ends = _smaller_box(x, moved, EPS, 0.3)
    assert (ends[0] >= low - 1e-6).all() and (ends[1] <= high + 1e-6).all()
    width = ends[1] - ends[0]
    inner = (ends[0] > 0) & (ends[1] < 1)
    torch.testing.assert_close(width[inner], torch.full_like(width[inner], 2 * 0.3 * EPS))


# Warm-up.


def test_tightness_is_zero_for_intervals_that_do_not_grow():
    first = (torch.zeros(4, 3), torch.full((4, 3), 0.2))
    same, wide = (torch.zeros(4, 5), torch.full((4, 5), 0.2)), (torch.zeros(4, 5), torch.full((4, 5), 2.0))
    assert warmup.tightness(first, [same], 0.5) == 0
    # the wide one is ten times as wide: (0.5 − 0.1)/0.5, and its mean with the other
    torch.testing.assert_close(warmup.tightness(first, [same, wide], 0.5), torch.tensor(0.4))


def test_balance_is_zero_for_equally_many_active_and_inactive_units():
    low = torch.tensor([[1.0, -2.0, -0.5], [3.0, -4.0, -0.5]])
    even = (low, low + 1)
    assert warmup.balance([even], 0.5) == 0
    assert warmup.balance([(torch.ones(2, 3), torch.full((2, 3), 2.0))], 0.5) == 0  # no unit is inactive
    many = torch.tensor([[1.0, 1.0, 1.0, -1.1]])
    assert warmup.balance([(many, many + 0.05)], 0.5) > 0


@pytest.mark.parametrize("kind", ["plain", "ramp"])
def test_both_interval_bounds_agree(kind, batch):
    """Those of auto_LiRPA and of this package, with their gradients and what the warm-up reads."""
    net, found = make(kind), []
    box = box_around(batch[0], EPS)
    for bounds in (RobustCrossEntropy(net.eval(), SCHEDULE).bounds, BoxBounds(net)):
        net.zero_grad()
        clean, worst = bounds.entropies(*batch, box, 0.0)
        first, hidden = bounds.hidden()
        wide = warmup.tightness(first, hidden, 0.5) if kind == "plain" else 0.0  # auto_LiRPA has two ReLUs for a ramp
        (clean + worst + wide).backward()
        found.append([clean, worst, *first, *(p.grad for p in net.parameters())])
    for ours, theirs in zip(*found):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_leak_falls_with_the_rise_of_the_radius(batch):
    net = make("ramp")
    loss = RobustCrossEntropy(net.eval(), SCHEDULE, leak=0.01)
    net.train()
    found = []
    for step, leak in ((CLEAN, 0.01), (HALF, 0.005), (FULL, 0.0)):
        loss(net, *batch, step)
        assert [layer.leak.item() for layer in net if hasattr(layer, "leak")] == pytest.approx([leak] * 2)
        found.append(loss.bounds.entropies(*batch, box_around(batch[0], EPS), 0.0)[1])
    assert not torch.equal(found[0], found[1])


@pytest.mark.parametrize("kind", ["plain", "normalised-rows"])
def test_the_spectral_regulariser_is_the_logarithm_of_a_lipschitz_bound(kind, batch):
    """LipBound of convolutions and the norms of linear layers; its gradient makes the norms smaller."""
    net, schedule = make(kind).eval(), Schedule(epochs=10, eps=0.0)
    layers = [layer for layer in net if isinstance(layer, (torch.nn.Linear, torch.nn.Conv2d))]
    methods = {torch.nn.Linear: "svd", torch.nn.Conv2d: "lipbound"}
    expected = sum(math.log(bound(layer, methods[type(layer)], certify=False).value) for layer in layers)
    plain, ours = LOSSES["pgd"](net, schedule), LOSSES["pgd"](net, schedule, spectral=0.5)
    added = ours(net, *batch, schedule.at(0)) - plain(net, *batch, schedule.at(0))
    assert added.item() == pytest.approx(0.5 * expected, rel=0.05)
    assert lipschitz_bound(torch.nn.Sequential(*layers), 2.0) <= math.exp(expected) * 1.001
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
    for _ in range(5):
        optimizer.zero_grad()
        (ours(net, *batch, schedule.at(0)) - plain(net, *batch, schedule.at(0))).backward()
        optimizer.step()
    assert all(bound(layer, certify=False).value < norm for layer, norm in zip(layers, before_of(kind)))


def before_of(kind) -> list[float]:
    """The norms of the layers of a net that did not train."""
    layers = [layer for layer in make(kind) if isinstance(layer, (torch.nn.Linear, torch.nn.Conv2d))]
    return [bound(layer, certify=False).value for layer in layers]


def test_the_spectral_regulariser_of_weights_that_are_0_is_finite(batch):
    net = make("plain").eval()
    with torch.no_grad():
        net[-1].weight.zero_()
    loss = LOSSES["pgd"](net, SCHEDULE, spectral=1.0, steps=1)(net, *batch, FULL)
    loss.backward()
    assert loss.isfinite() and all(p.grad is None or p.grad.isfinite().all() for p in net.parameters())


@pytest.mark.parametrize(
    "arguments, name",
    [
        ({"alpha": 1.5}, "alpha"),
        ({"kappa": -0.1}, "kappa"),
        ({"part": 0.0}, "part"),
        ({"part": 0.5}, "steps"),
        ({"alpha": 0.5}, "steps"),
        ({"tolerance": 0.0}, "tolerance"),
        ({"l1": -1.0}, "l1"),
        ({"spectral": -1.0}, "spectral"),
        ({"leak": 0.1, "fused": True}, "leak"),
    ],
)
def test_wrong_arguments_are_named(arguments, name):
    with pytest.raises(ValueError, match=f"^{name} must|, {name}[, ]|and {name} must|^{name} is only"):
        RobustCrossEntropy(make("plain").eval(), SCHEDULE, **arguments)


def test_projected_rows_keep_the_lipschitz_bound_of_a_net():
    from comparisons.methods.optimizers import OPTIMIZERS, into_ball
    from linf_plugin import lipschitz_bound

    rows = torch.tensor([[3.0, -1.0, 0.0], [0.2, 0.3, -0.1], [0.0, 0.0, 0.0], [1.0, 1.0, 1.0]])
    expected = torch.tensor([[1.0, 0.0, 0.0], [0.2, 0.3, -0.1], [0.0, 0.0, 0.0], [1 / 3, 1 / 3, 1 / 3]])
    torch.testing.assert_close(into_ball(rows, 1.0), expected)
    net = build("relu-mlp", shape=(6,), classes=3, width=8, depth=3, activation="max-min")
    optimizer = OPTIMIZERS["projected-adam"](net, None, lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        F.cross_entropy(net(torch.rand(5, 6)), torch.arange(5) % 3).backward()
        optimizer.step()
        assert lipschitz_bound(net, math.inf) <= 1 + 1e-5


def test_the_nearest_point_of_the_ball_is_nearer_than_others():
    from comparisons.methods.optimizers import into_ball

    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(20, 7, generator=generator)
    near = into_ball(rows, 1.0)
    assert (near.abs().sum(1) <= 1 + 1e-5).all()
    for _ in range(50):
        other = torch.randn(20, 7, generator=generator)
        other /= other.abs().sum(1, keepdim=True).clamp_min(1)
        assert ((rows - near).norm(dim=1) <= (rows - other).norm(dim=1) + 1e-5).all()
