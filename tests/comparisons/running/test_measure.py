"""The order of the work: what is bounded, what is attacked, what is checked by chance, and by which process."""

import dataclasses
import math
from types import SimpleNamespace

import pytest
import torch
from ranks import Ranks as Pool
from torch import nn

import comparisons.running.measure as module
from comparisons.running.asked import Asked
from comparisons.running.contradiction import Contradiction, check_contradictions
from comparisons.running.measure import AUDIT, measure
from comparisons.running.rows import points_of, rows_of
from linf_plugin import build
from linf_plugin.certificates import CERTIFICATES
from linf_plugin.training.parallel import Ranks

EPS = (0.02, 0.01, 0.04)  # the headline first
ASKED = Asked(EPS, math.inf, ("ibp", "crown"), False, ({"name": "pgd"},), 7)


class Positive(nn.Module):
    """Class 0 for positive inputs."""

    def forward(self, x):
        return torch.cat([x, torch.zeros_like(x)], 1)


@pytest.fixture
def fakes(monkeypatch):
    """Samples k = 0 … 99 with x = k/100; the attack breaks k at ε ≥ its ``breaks(k)``.  Nothing is certified.

    Gives what certificates bounded, (name, ε, k), and what was attacked, (ε, seed, [k, …]).
    """
    bounded, attacked = [], []

    def row(name):
        def bound(problem):
            def bounds(x, labels):
                bounded.extend((name, problem.ball.eps, int(k)) for k in (100 * x.flatten()).round())
                return torch.full((len(x),), -1.0, dtype=torch.float64)

            return bounds

        return dataclasses.replace(CERTIFICATES[name], bound=bound)

    def attack_all(model, x, labels, eps, tables, *, seed, among):
        k = (100 * x.flatten()).round().long()
        attacked.append((eps, seed, k[among].tolist()))
        by = torch.where(among & (eps >= breaks(k)), 1, -1)
        return SimpleNamespace(by=by, names=("pgd", "pgd along a copy"), points=x - eps, seconds={"pgd": 0.0})

    for name in ("ibp", "crown"):
        monkeypatch.setitem(CERTIFICATES, name, row(name))
    monkeypatch.setattr(module, "attack_all", attack_all)
    return SimpleNamespace(bounded=bounded, attacked=attacked)


def breaks(k):
    """Even samples at 0.01, those that 3 divides at 0.04, the others never."""
    return torch.where(k % 2 == 0, 0.01, torch.where(k % 3 == 0, 0.04, math.inf))


X = torch.arange(100).float().view(-1, 1) / 100
Y = torch.zeros(100, dtype=torch.long)
Y[90:] = 1  # these are misclassified


def test_each_sample_is_attacked_until_it_is_broken(fakes, monkeypatch):
    monkeypatch.setattr(module, "BLOCK", 30)
    found = measure(Positive().eval(), X, Y, ASKED, first=60)
    assert [(eps, seed) for eps, seed, _ in fakes.attacked] == [
        (eps, 7 + block) for block in (2, 3, 4) for eps in (0.01, 0.02, 0.04)
    ]
    assert fakes.attacked[0][2] == list(range(30)) and fakes.attacked[1][2] == list(range(1, 30, 2))
    right = torch.arange(100) < 90
    assert torch.equal(found.correct, right) and found.sample.tolist() == list(range(60, 160))
    expected = torch.where(right, breaks(torch.arange(100)), math.inf)
    assert torch.equal(found.broken.float(), expected.float())
    assert {found.by[k] for k in range(0, 90, 2)} == {"pgd along a copy"} and found.by[1] == found.by[95] == ""
    assert found.broken_by(0.02) == {"pgd along a copy": 45} and found.broken_by(0.005) == {}
    assert sorted(found.points) == list(range(60, 60 + 48, 2))  # the first 24 that were broken at the headline
    rows = rows_of(found).frame
    assert rows["broken_by"][90:].eq("clean").all() and rows["broken_eps"][90:].eq(0).all()
    assert rows["broken_eps"].isna().sum() == 30 and (rows["radius_best"] == 0).all()


def test_later_attacks_try_a_random_part_of_what_is_certified(monkeypatch):
    """The first attack tries everything; samples from 0.5 on are certified by intervals, and no attack breaks any."""
    tried = []

    def certified(problem):
        return lambda x, labels: torch.where(x.flatten() >= 0.5, 1.0, -1.0).double()

    def attack_all(model, x, labels, eps, tables, *, seed, among):
        names = tuple(table["name"] for table in tables)
        tried.append((names, set((1000 * x.flatten()[among]).round().int().tolist())))
        by = torch.full((len(x),), -1)
        return SimpleNamespace(by=by, names=names, points=x, seconds=dict.fromkeys(names, 0.0))

    monkeypatch.setitem(CERTIFICATES, "ibp", dataclasses.replace(CERTIFICATES["ibp"], bound=certified))
    monkeypatch.setattr(module, "attack_all", attack_all)
    tables = ({"name": "pgd"}, {"name": "square"}, {"name": "apgd"})
    asked = Asked((0.02,), math.inf, ("ibp",), False, tables, 7)
    x = torch.arange(1, 1000).float().view(-1, 1) / 1000
    measure(Positive().eval(), x, torch.zeros(999, dtype=torch.long), asked)
    every = {k for names, some in tried if names == ("pgd",) for k in some}
    later = {k for names, some in tried if names == ("square", "apgd") for k in some}
    assert every == set(range(1, 1000)) and set(range(1, 500)) <= later
    assert 500 / AUDIT / 3 < len(later - set(range(1, 500))) < 3 * 500 / AUDIT
    before, tried[:] = list(tried), []
    measure(Positive().eval(), x, torch.zeros(999, dtype=torch.long), asked)
    assert tried == before


def test_expensive_certificates_leave_out_what_was_broken_except_for_a_check(fakes):
    measure(Positive().eval(), X, Y, ASKED)
    tried = {(name, eps): {k for n, e, k in fakes.bounded if (n, e) == (name, eps)} for name, eps, _ in fakes.bounded}
    for eps in EPS:
        assert tried["ibp", eps] == set(range(90))
        left = {k for k in range(90) if breaks(torch.tensor(k)) > eps}
        assert left <= tried["crown", eps]
        checked = tried["crown", eps] - left
        assert len(checked) <= math.ceil(60 / AUDIT)
    every = set().union(*(tried["crown", eps] - {k for k in range(90) if breaks(torch.tensor(k)) > eps} for eps in EPS))
    assert len(every) == math.ceil(60 / AUDIT) == 3
    again, fakes.bounded[:] = set(fakes.bounded), []
    measure(Positive().eval(), X, Y, ASKED)
    assert set(fakes.bounded) == again  # the seed decides what is checked
    fakes.bounded.clear()
    measure(Positive().eval(), X, Y, dataclasses.replace(ASKED, seed=8))
    assert set(fakes.bounded) != again


def test_a_wrong_linear_bound_is_found_by_the_check(fakes, monkeypatch, tmp_path):
    """It certifies what the attack broke, and would never be asked about that without the check."""

    def lie(problem):
        return lambda x, labels: torch.ones(len(x), dtype=torch.float64)

    monkeypatch.setitem(CERTIFICATES, "crown", dataclasses.replace(CERTIFICATES["crown"], bound=lie))
    asked = dataclasses.replace(ASKED, eps_values=(0.01,))
    found = measure(Positive().eval(), X, Y, asked)
    assert len(found.contradicted()) == math.ceil(45 / AUDIT) and set(found.contradicted().values()) == {"crown"}
    with pytest.raises(
        Contradiction, match=r"mine: sample \d+ is certified by CROWN at ε = 0.01, and PGD along a copy"
    ):
        check_contradictions(found, Positive(), X, tmp_path, "mine", seed=7, recipe="r")
    assert len(list(tmp_path.iterdir())) == 3


def test_without_an_attack_everything_is_bounded(fakes):
    found = measure(Positive().eval(), X, Y, dataclasses.replace(ASKED, attacks=()))
    assert fakes.attacked == [] and (found.broken == math.inf).all() and found.attack_seconds == {}
    assert {k for name, eps, k in fakes.bounded if name == "crown"} == set(range(90))
    assert points_of(found, X, 0.04) is None


def test_cheap_certificates_alone_are_attacked_too(fakes):
    found = measure(Positive().eval(), X, Y, dataclasses.replace(ASKED, methods=("ibp",)))
    assert fakes.attacked and (found.broken < math.inf).sum() == 60


# Two processes.


@pytest.fixture(scope="module")
def ranks():
    pool = Pool(__file__)
    yield pool
    pool.close()


def problem():
    torch.manual_seed(3)
    net = build("relu-mlp", shape=(1, 4, 4), classes=3, width=8, depth=2).eval()
    x = torch.rand(100, 1, 4, 4)
    with torch.no_grad():
        net[-1].bias -= net(x).mean(0)
        labels = net(x).argmax(1)
    labels[::9] = (labels[::9] + 1) % 3
    return net, x, labels


def measured(ranks: Ranks, block: int):
    net, x, labels = problem()
    attacks = ({"name": "pgd", "steps": 3, "restarts": 1},)
    asked = Asked((0.1, 0.01, 0.03), math.inf, ("lipschitz", "ibp", "crown"), True, attacks, 1)
    module.BLOCK = block
    try:
        found = measure(net, x, labels, asked, ranks=ranks)
    finally:
        module.BLOCK = 256
    content = found.plain()
    for timing in ("attack_seconds", "tried"):
        content.pop(timing)
    return {**content, "tried": {e: {n: t for n, (t, _) in each.items()} for e, each in found.tried.items()}}


@pytest.mark.parametrize("block", (16, 256))  # of 256 samples the second process has none
def test_two_processes_measure_what_one_does(ranks, block):
    one, (first, second) = measured(Ranks(), block), ranks(measured, block)
    assert 0 < (one["broken"] < math.inf).sum() < 100 and len(set(one["proved"]["crown"].tolist())) >= 3
    for found in (first, second):
        assert found.keys() == one.keys() and found["by"] == one["by"] and found["tried"] == one["tried"]
        assert one["points"] and found["points"].keys() >= one["points"].keys()  # 24 of each process
        for row, point in one["points"].items():
            torch.testing.assert_close(found["points"][row], point, rtol=0, atol=1e-6)
        for name in ("sample", "labels", "prediction", "margin", "broken"):
            torch.testing.assert_close(found[name], one[name], rtol=1e-5, atol=1e-6)
        for name, radii in one["proved"].items():
            assert torch.equal(found["proved"][name], radii)
            torch.testing.assert_close(found["bound"][name], one["bound"][name], rtol=1e-9, atol=1e-9)


def failing(ranks: Ranks, error: type, where: str) -> str:
    """The message of an error of rank 1, on each rank."""
    net, x, labels = problem()

    def fails(*_, **__):
        raise error("it is full")

    real = getattr(module, where)
    if ranks.rank == 1:
        setattr(module, where, fails)
    module.BLOCK = 16
    try:
        measure(net, x, labels, Asked((0.1,), math.inf, ("ibp", "crown"), True, ({"name": "pgd"},), 1), ranks=ranks)
    except Exception as found:
        return f"{type(found).__name__}: {found}"
    finally:
        module.BLOCK = 256
        setattr(module, where, real)
    return "nothing"


@pytest.mark.parametrize("where", ("certify_curve", "attack_all", "PerSample"))
@pytest.mark.parametrize("error, elsewhere", [(ImportError, ImportError), (KeyError, RuntimeError)])
def test_an_error_of_one_process_is_one_of_all(ranks, where, error, elsewhere):
    there, here = ranks(failing, error, where)
    assert here.startswith(error.__name__) and there.startswith(f"{elsewhere.__name__}: {error.__name__}: ")
    assert "it is full" in there
