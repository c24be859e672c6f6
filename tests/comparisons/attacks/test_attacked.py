"""Every attack of the table: what it breaks, where its points lie, what it leaves alone, and what it refuses."""

import copy
import math
import random

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from comparisons.attacks.attack import ATTACKS, Attack, of_norm
from comparisons.attacks.attacked import attack_all
from linf_plugin import build, materialise, sound_radius
from linf_plugin.certificates import certify_each

FAST_LINF = {
    "pgd": {"steps": 5, "restarts": 1},
    "pgd-margin": {"steps": 5, "restarts": 2},
    "apgd": {"steps": 5},
    "square": {"queries": 40},
}
FAST = FAST_LINF | {f"{name}-l2": table for name, table in FAST_LINF.items()}
DUAL = {math.inf: 1, 2.0: 2}
SHAPES = {
    "images": (3, 6, 6),
    "wide images": (1, 2, 9),
    "tiny images": (2, 1, 1),
    "rows": (7,),
    "a number": (1,),
    "volumes": (2, 3, 2, 2),
}


def tables(*names: str, norm: float = math.inf) -> list[dict]:
    """The tables of these attacks; by default of all those in a norm."""
    return [{"name": name, **FAST[name]} for name in names or of_norm(norm)]


def length(moves: Tensor, norm: float) -> Tensor:
    """(N,) float64."""
    return torch.linalg.vector_norm(moves.double().flatten(1), norm, dim=1)


class Linear(nn.Sequential):
    """A linear net of samples of any shape.  All its logits are 0 where every pixel is 1/2."""

    def __init__(self, shape: tuple[int, ...], classes: int = 3):
        torch.manual_seed(1)
        super().__init__(nn.Flatten(), nn.Linear(int(np.prod(shape)), classes))
        with torch.no_grad():
            self[1].bias.copy_(-self[1].weight.sum(1) / 2)
        self.eval()

    def weakest(self, x: Tensor, norm: float = math.inf) -> tuple[Tensor, Tensor]:
        """Returns the classes (N,), and the exact robust radii (N,) in a norm, without the pixel range."""
        with torch.no_grad():
            logits = self(x)
            labels, weight = logits.argmax(1), self[1].weight
            gaps = logits.gather(1, labels[:, None]) - logits
            reach = torch.linalg.vector_norm(weight[labels][:, None] - weight, DUAL[norm], dim=2)
            radii = gaps / reach
            radii[reach == 0] = torch.inf
        return labels, radii.min(1).values


def test_the_settings_above_name_every_attack():
    assert set(FAST) == set(ATTACKS)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("name", ATTACKS)
def test_it_breaks_a_weak_net_inside_the_ball(name, shape):
    """The points lie in the ball and in the pixel range exactly, and the net itself misclassifies them."""
    norm = ATTACKS[name].norm
    net, x = Linear(shape), 0.3 + 0.4 * torch.rand(60, *shape)
    eps = 0.1 if norm == math.inf else 0.1 * math.sqrt(x[0].numel())
    labels, radii = net.weakest(x, norm)
    kept = copy.deepcopy(net.state_dict()), x.clone()
    found = attack_all(net, x, labels, eps, tables(name), seed=0)
    broken = found.by >= 0
    assert (length(found.points.double() - x.double(), norm) <= eps).all()
    assert found.points.min() >= 0 and found.points.max() <= 1 and found.points.dtype == torch.float32
    assert torch.equal(net(found.points).argmax(1) != labels, broken) and torch.equal(~broken, found.survives)
    assert torch.equal(found.points[~broken], x[~broken])
    weak = broken[radii < (0.2 if name == "square-l2" else 0.4) * eps]
    assert not broken[radii > eps + 1e-5].any() and len(weak) > 5
    if name == "square-l2" and x[0].numel() < 3:
        return  # it sees 100 pixels, of which the net has one or two
    assert weak.double().mean() > (0.5 if name.startswith("square") else 0.8)
    assert found.names == (name,) and set(found.by.tolist()) <= {-1, 0} and found.seconds[name] > 0
    assert torch.equal(x, kept[1]) and all(torch.equal(a, net.state_dict()[k]) for k, a in kept[0].items())
    assert all(p.grad is None and p.requires_grad for p in net.parameters())


@pytest.mark.parametrize("eps", [0.05, 0.2])
@pytest.mark.parametrize("clip", [0.0, 0.3])
def test_no_attack_breaks_what_a_theorem_certifies(eps, clip):
    torch.manual_seed(0)
    net = build("linf-mlp", shape=(1, 5, 5), classes=3, width=12, depth=2, clip=clip).eval()
    x = torch.rand(80, 1, 5, 5)
    labels = net(x).argmax(1)
    proved = certify_each(net, x, labels, eps, ["lipschitz", "ibp"])["best"]
    found = attack_all(net, x, labels, eps, tables(), seed=0)
    assert found.survives[proved].all() and not found.survives.all()


@pytest.mark.parametrize("eps", [0.5, 2.0])
def test_no_attack_in_l2_breaks_what_a_theorem_certifies(eps):
    """Also in balls that are wider than the pixel range."""
    torch.manual_seed(0)
    net = build("sll-mlp", shape=(1, 5, 5), classes=3, depth=3, hidden=12)
    net = materialise(net.eval())
    with torch.no_grad():
        net[-1].weight.mul_(4.0)
        net[-1].bias.sub_(net(torch.full((1, 1, 5, 5), 0.5))[0])
    x = torch.rand(80, 1, 5, 5)
    labels = net(x).argmax(1)
    radii = sound_radius(net, x, labels, norm="l2")
    found = attack_all(net, x, labels, eps, tables(norm=2.0), seed=0)
    assert found.survives[radii >= eps].all() and not found.survives.all() and (eps > 1 or (radii >= eps).any())
    assert (length(found.points - x, 2.0) <= eps).all() and (eps < 1 or (length(found.points - x, 2.0) > 1).any())


def gives(point: float, only: int | None = None) -> Attack:
    """An attack that moves all samples, or those of one class, to a point."""

    def find(model, x, labels, eps, *, seed, batch_size=512):
        moved = torch.full_like(x, point)
        return moved if only is None else torch.where((labels == only)[:, None], moved, x)

    return Attack("", float("inf"), find)


@pytest.fixture
def known(monkeypatch):
    """Attacks "one" and "two" that break samples of class 1, and of every class; a net and samples."""
    monkeypatch.setitem(ATTACKS, "one", gives(0.0, only=1))
    monkeypatch.setitem(ATTACKS, "two", gives(0.0))
    net = nn.Sequential(nn.Linear(1, 3)).eval()
    with torch.no_grad():  # class 0 below 0.1, then class 1 to 0.5, then class 2
        net[0].weight.copy_(torch.tensor([[0.0], [1.0], [2.0]]))
        net[0].bias.copy_(torch.tensor([0.0, -0.1, -0.6]))
    x = torch.tensor([[0.3], [0.7], [0.4], [0.8], [0.05], [0.3]])
    return net, x, torch.tensor([1, 2, 1, 2, 0, 0])


ONE, TWO = {"name": "one"}, {"name": "two"}


def test_what_broke_a_sample_is_the_first_that_did(known):
    found = attack_all(*known, 1.0, [ONE, TWO], seed=0)
    assert found.names == ("one", "two") and found.by.tolist() == [0, 1, 0, 1, -1, -1]
    assert found.survives.tolist() == [False] * 4 + [True, False]  # the last one is misclassified
    assert found.tried.tolist() == [True] * 5 + [False]
    assert found.broken_by() == {"one": 2, "two": 2}
    assert found.survives_until("one").tolist() == [False, True, False, True, True, False]
    assert torch.equal(found.survives_until("two"), found.survives)
    assert found.points.flatten().tolist() == pytest.approx([0, 0, 0, 0, 0.05, 0.3])
    assert attack_all(*known, 1.0, [TWO, ONE], seed=0).by.tolist() == [0, 0, 0, 0, -1, -1]


def test_only_what_stands_is_attacked(known, monkeypatch):
    seen, two = [], ATTACKS["two"].find

    def watched(model, x, labels, eps, *, seed, batch_size=512):
        seen.append((labels.tolist(), batch_size))
        return two(model, x, labels, eps, seed=seed)

    monkeypatch.setitem(ATTACKS, "two", Attack("", float("inf"), watched))
    among = torch.tensor([True, True, True, False, False, True])
    found = attack_all(*known, 1.0, [ONE, {**TWO, "batch_size": 7}], seed=0, among=among, batch_size=2)
    assert seen == [([2], 7)] and found.by.tolist() == [0, 1, 0, -1, -1, -1]
    assert found.survives.tolist() == [False, False, False, True, True, False]
    assert found.tried.tolist() == [True, True, True, False, False, False]


def test_attacks_along_surrogates_are_named():
    torch.manual_seed(3)
    net = build("linf-mlp", shape=(1, 4, 4), classes=3, width=8, depth=2, clip=0.2).eval()
    x = torch.rand(40, 1, 4, 4)
    found = attack_all(net, x, net(x).argmax(1), 0.2, tables("square", "pgd"), seed=0)
    assert found.names == ("square", "pgd", "pgd along leaky", "pgd along p16", "pgd along p64")
    assert list(found.seconds) == ["square", "pgd"]
    assert sum(found.broken_by().values()) == int((~found.survives).sum()) > 0


def states() -> tuple:
    return np.random.get_state()[1].tolist(), torch.get_rng_state().tolist(), random.getstate()


@pytest.mark.parametrize("name", ATTACKS)
def test_the_seed_decides_and_global_generators_stay(name):
    torch.manual_seed(0)
    net, x = build("linf-mlp", shape=(6,), classes=3, width=8, depth=2).eval(), torch.rand(50, 6)
    labels, before = net(x).argmax(1), states()
    one = attack_all(net, x, labels, 0.2, tables(name), seed=4)
    assert states() == before
    np.random.seed(99)
    torch.manual_seed(99)
    two = attack_all(net, x, labels, 0.2, tables(name), seed=4)
    other = attack_all(net, x, labels, 0.2, tables(name), seed=5)
    assert torch.equal(one.points, two.points) and torch.equal(one.by, two.by)
    assert not torch.equal(one.points, other.points)


def test_global_generators_stay_where_an_attack_fails():
    class Failing(nn.Flatten):
        def forward(self, x):
            if torch.is_grad_enabled():
                raise RuntimeError("no gradient today")
            return super().forward(x)

    net, x = Failing().eval(), torch.rand(4, 3)
    labels, before = x.argmax(1), states()
    with pytest.raises(RuntimeError, match="no gradient today"):
        attack_all(net, x, labels, 0.1, tables("pgd"), seed=0)
    assert states() == before


@pytest.mark.parametrize("batch_size", [1, 7, 512])
def test_batches_of_any_size(batch_size):
    net, x = Linear((4,)), torch.rand(15, 4)
    for norm in DUAL:
        labels, radii = net.weakest(x, norm)
        found = attack_all(net, x, labels, 0.3, tables(norm=norm), seed=0, batch_size=batch_size)
        assert not found.survives[radii < 0.1].any() and found.survives[radii > 0.31].all()


@pytest.mark.parametrize("shape", [(4,), (1, 3, 3)])
def test_no_samples_and_radius_zero(shape):
    net = Linear(shape)
    empty = attack_all(net, torch.rand(0, *shape), torch.zeros(0, dtype=torch.long), 0.1, tables(*FAST), seed=0)
    assert empty.survives.shape == empty.by.shape == empty.tried.shape == (0,)
    assert empty.points.shape == (0, *shape) and empty.names == tuple(FAST)
    x = torch.rand(9, *shape)
    labels, _ = net.weakest(x)
    wrong = torch.where(torch.arange(9) == 2, (labels + 1) % 3, labels)
    still = attack_all(net, x, wrong, 0.0, tables(*FAST), seed=0)
    assert still.survives.tolist() == [i != 2 for i in range(9)] and torch.equal(still.points, x)


def test_margins_are_climbed_towards_each_class_in_turn():
    """Class 1 has the larger logit at x, but only class 2 can win within ε."""
    net = nn.Sequential(nn.Linear(2, 3)).eval()
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([[0.0, 0.0], [0.01, 0.0], [0.0, 1.0]]))
        net[0].bias.copy_(torch.tensor([0.0, -0.055, -0.65]))
    x, labels = torch.full((5, 2), 0.5), torch.zeros(5, dtype=torch.long)
    one, two, most = (
        attack_all(net, x, labels, 0.2, [{"name": "pgd-margin", "steps": 8, "targets": n}], seed=0) for n in (1, 2, 9)
    )
    assert one.survives.any() and not two.survives.any() and torch.equal(two.points, most.points)


class Steps(nn.Module):
    """A net without any gradient, with outputs that look like probabilities: whether the first half is bright."""

    def forward(self, x):
        half = x.flatten(1)[:, : x[0].numel() // 2]
        total = (half.mean(1) > 0.5).float()
        return torch.stack([1 - total, total], 1)


@pytest.mark.parametrize("name", ATTACKS)
def test_a_net_without_gradient_is_attacked_by_what_needs_none(name):
    x = torch.full((20, 1, 6, 6), 0.48)
    eps = 0.2 if ATTACKS[name].norm == math.inf else 0.8
    found = attack_all(Steps().eval(), x, torch.zeros(20, dtype=torch.long), eps, tables(name), seed=0)
    assert found.names == (name,) and (not name.startswith("square") or not found.survives.all())


@pytest.mark.parametrize("name", ATTACKS)
def test_a_first_layer_that_works_in_place_changes_no_sample(name):
    net = nn.Sequential(nn.Hardtanh(0.25, 0.75, inplace=True), *Linear((6,))).eval()
    x = torch.rand(20, 6)
    before, labels = x.clone(), net(x.clone()).argmax(1)
    attack_all(net, x, labels, 0.2, tables(name), seed=0)
    assert torch.equal(x, before)


@pytest.mark.parametrize("name", ATTACKS)
def test_it_runs_without_gradients_in_inference_mode_and_in_float64(name):
    net, x = Linear((6,)), torch.rand(20, 6)
    labels, _ = net.weakest(x)
    usual = attack_all(net, x, labels, 0.2, tables(name), seed=0)
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            found = attack_all(net, x.clone(), labels, 0.2, tables(name), seed=0)
        assert torch.equal(found.points, usual.points)
    precise = attack_all(net.double(), x.double(), labels, 0.2, tables(name), seed=0)
    assert precise.points.dtype == torch.float64
    assert (length(precise.points - x.double(), ATTACKS[name].norm) <= 0.2).all()
    assert int((precise.survives ^ usual.survives).sum()) <= 2


WRONG = {
    "unknown": (
        ValueError,
        {"tables": [{"name": "fgsm"}]},
        "name must be one of pgd, pgd-margin, apgd, square, pgd-l2, .*, got 'fg",
    ),
    "list as name": (ValueError, {"tables": [{"name": ["pgd"]}]}, r"name must be one of .*, got \['pgd'\]"),
    "without name": (ValueError, {"tables": [{"steps": 3}]}, "name must be one of"),
    "twice": (ValueError, {"tables": tables("pgd", "pgd")}, "tables: pgd stands twice"),
    "key": (ValueError, {"tables": [{"name": "square", "steps": 3}]}, "square has no argument 'steps'; it has queries"),
    "norm": (ValueError, {"tables": [{"name": "pgd-l2", "norm": 1}]}, "pgd-l2 has no argument 'norm'"),
    "climbed": (ValueError, {"tables": [{"name": "pgd", "climbed": None}]}, "pgd has no argument 'climbed'"),
    "a table": (TypeError, {"tables": {"name": "pgd"}}, "tables must be a list of dictionaries"),
    "steps": (ValueError, {"tables": [{"name": "pgd", "steps": 0}]}, "steps must be at least 1"),
    "targets": (ValueError, {"tables": [{"name": "pgd-margin", "targets": 0}]}, "targets must be at least 1"),
    "margin steps": (TypeError, {"tables": [{"name": "pgd-margin", "steps": 2.5}]}, "steps must be an integer"),
    "restarts": (ValueError, {"tables": [{"name": "apgd", "restarts": -1}]}, "restarts must be at least 1"),
    "queries": (ValueError, {"tables": [{"name": "square", "queries": 0}]}, "queries must be at least 1"),
    "own batch": (ValueError, {"tables": [{"name": "square", "batch_size": 0}]}, "batch_size must be at least 1"),
    "batch": (ValueError, {"batch_size": 0}, "batch_size must be at least 1"),
    "seed": (ValueError, {"seed": -1}, "seed must be at least 0"),
    "eps": (ValueError, {"eps": -0.1}, "eps must be finite and at least 0"),
    "wide in linf": (ValueError, {"eps": 1.5}, "eps must be at most high − low = 1"),
    "pixels": (ValueError, {"x": torch.full((3, 4), 1.5)}, r"x must lie in \[low, high\]"),
    "labels": (ValueError, {"labels": torch.tensor([0, 1, 3])}, r"labels must lie in \[0, 2\]"),
    "among": (TypeError, {"among": [True] * 3}, "among must be a tensor of bool, got list"),
    "among of numbers": (TypeError, {"among": torch.ones(3)}, "among must be a tensor of bool, got torch.float32"),
    "among shape": (ValueError, {"among": torch.ones(2, dtype=torch.bool)}, r"among must have shape \(3,\)"),
    "one class": (ValueError, {"model": Linear((4,), classes=1)}, "model must map x to"),
    "training": (ValueError, {"model": Linear((4,)).train()}, "model is in training mode"),
}


@pytest.mark.parametrize("case", WRONG)
@pytest.mark.parametrize("samples", [3, 0])
def test_a_wrong_argument_is_named(case, samples):
    """Also without samples, except what is wrong with the samples themselves."""
    error, wrong, words = WRONG[case]
    usual = {"model": Linear((4,)), "x": torch.rand(3, 4), "labels": torch.arange(3), "eps": 0.1, "tables": tables()}
    given = {**usual, "seed": 0, **wrong}
    if samples == 0 and not wrong.keys() & {"x", "labels", "among"} and case != "one class":
        given |= {"x": torch.rand(0, 4), "labels": torch.arange(0)}
    with pytest.raises(error, match=words):
        attack_all(**given)
