"""A certificate is a row: its order, its norm and its failure probability follow from the row."""

import math
import subprocess
import sys

import pytest
import torch
from torch import nn

from linf_plugin import build
from linf_plugin.certificates import CERTIFICATES, Certificate, certify, certify_each, margin_bound
from linf_plugin.certificates.lipschitz import sound_margin, sound_radius
from linf_plugin.certificates.margin import certified_radius, margin
from linf_plugin.certificates.table import contained, theorems
from linf_plugin.norms import NORMS, Ball


@pytest.fixture
def case():
    torch.manual_seed(0)
    net = build("linf-mlp", shape=(1, 3, 3), classes=3, width=6, depth=2).eval()
    x = torch.rand(20, 1, 3, 3)
    return net, x, net(x).argmax(1), 1e-3


def test_rows_are_named_and_ordered_by_cost():
    costs = [row.cost for row in CERTIFICATES.values()]
    assert len(set(costs)) == len(costs), f"two rows of CERTIFICATES have the same cost: {costs}"
    assert costs == sorted(costs), f"the rows of CERTIFICATES must stand in order of cost: {costs}"
    for name, row in CERTIFICATES.items():
        assert name == row.name and row.norm in NORMS.values() and 0 <= row.failure < 1, row
        for other in map(CERTIFICATES.get, row.contains):
            assert other.cost < row.cost and (other.norm, other.failure) == (row.norm, row.failure), row
    assert contained("alpha-crown") == {"crown", "ibp"} and contained("ibp") == set()
    sure = [name for name, row in CERTIFICATES.items() if row.norm == math.inf and row.failure == 0]
    assert theorems(math.inf) == tuple(sure)


def test_a_new_row_is_asked_in_order_of_its_cost(case, monkeypatch):
    """Nothing but the row: the cascade, the comparison and the single bound know it."""
    net, x, labels, eps = case

    def bound(problem):
        return lambda x, labels: margin(problem.exact(x.double()), labels) - 100 * problem.ball.eps

    monkeypatch.setitem(CERTIFICATES, "coarse", Certificate("coarse", "Coarse", math.inf, -1, 0.25, bound, 7))
    names = (*theorems(math.inf), "coarse")
    found, each = certify(net, x, labels, eps, names), certify_each(net, x, labels, eps, names)
    assert found.methods[0] == "coarse" and found.tallies[0].tried == 20 and 0 < found.tallies[0].certified < 20
    assert torch.equal(margin_bound(net, x, labels, eps, "coarse") > 0, each["coarse"])


def test_a_certificate_that_may_fail_is_asked_by_name_and_counts_apart(case, monkeypatch):
    net, x, labels, eps = case

    def bound(problem):
        return lambda x, labels: torch.ones(len(x), dtype=torch.float64)

    monkeypatch.setitem(CERTIFICATES, "guess", Certificate("guess", "Guess", math.inf, 9, 0.25, bound))
    proved, some = certify(net, x, labels, eps), certify(net, x, labels, eps, ["guess"])
    assert "guess" not in proved.methods and proved.failure == 0 and "probability" not in proved.summary()
    assert some.certified.all() and some.failure == 0.25
    assert some.summary().endswith("Each certified sample may be wrong with a probability of at most 0.25.")
    each = certify_each(net, x, labels, 10 * eps, ["guess", "lipschitz"])
    assert each["guess"].all() and torch.equal(each["best"], each["lipschitz"]) and not each["best"].all()


def test_a_certificate_of_another_norm_is_not_asked_and_is_refused_by_name(case, monkeypatch):
    net, x, labels, eps = case

    def bound(problem):
        assert problem.ball.norm == 2
        return lambda x, labels: torch.ones(len(x), dtype=torch.float64)

    with pytest.raises(ValueError, match="no certificate for ℓ2 balls can bound this net"):
        certify(net, x, labels, eps, norm=2)
    monkeypatch.setitem(CERTIFICATES, "round", Certificate("round", "Round", 2.0, 9, 0.0, bound))
    assert "round" not in certify(net, x, labels, eps).methods
    assert certify(net, x, labels, eps, norm="l2").methods == ("round",)
    with pytest.raises(ValueError, match="round certifies ℓ2 balls, and norm is ℓ∞"):
        certify(net, x, labels, eps, ["ibp", "round"])
    with pytest.raises(ValueError, match="ibp certifies ℓ∞ balls, and norm is ℓ2"):
        certify_each(net, x, labels, eps, ["ibp"], norm=2)
    assert (margin_bound(net, x, labels, eps, "round") == 1).all()  # the norm is the certificate's


@torch.no_grad()
@pytest.mark.parametrize("norm", (1.0, math.inf), ids=str)
def test_margins_and_radii_hold_in_their_norm(norm):
    """Of a net whose Lipschitz bounds in ℓ1 and ℓ∞ differ, against float32 logits in the ball."""
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4)).eval()
    x = torch.rand(30, 6)
    y = net(x).argmax(1)
    radius, exact = sound_radius(net, x, norm=norm), net.double()
    largest = radius.max().item()
    bound = sound_margin(exact, x, y, Ball(largest, norm))
    net.float()
    step = torch.randn(400, 1, 6)
    step = torch.cat([step, torch.eye(6).unsqueeze(1), -torch.eye(6).unsqueeze(1)])
    step = step / torch.linalg.vector_norm(step, ord=norm, dim=2, keepdim=True)
    for size in (0.999 * radius.unsqueeze(1), torch.full((30, 1), largest)):
        z = net(x + size * step)
        margins = margin(z.flatten(0, 1), y.repeat(len(step))).view(len(step), -1).amin(0)
        if size[0] == largest:
            assert (margins >= bound).all() and (bound < margins).any()
        else:
            assert (margins > 0)[radius > 0].all()
    assert (radius > 0).any()


def test_the_radius_of_a_margin_in_each_norm():
    logits = torch.tensor([[3.0, 1.0, 0.0]])
    assert certified_radius(logits, None, 2.0).item() == certified_radius(logits, None, 2.0, "linf").item() == 0.5
    assert certified_radius(logits, None, 2.0, norm=1).item() == 1.0
    in_l2 = certified_radius(logits.double(), None, 2.0, norm=2).item()
    assert in_l2 == pytest.approx(1 / math.sqrt(2)) and in_l2**2 <= 0.5


def test_exact_radii_and_margins_need_no_auto_lirpa():
    """In a process where it cannot be imported."""
    program = (
        "import sys; sys.modules['auto_LiRPA'] = None\n"
        "import torch, linf_plugin as lp\n"
        "from linf_plugin.certificates import certify, exact_radius, sound_radius\n"
        "net = lp.build('linf-mlp', shape=(1, 2, 2), classes=3, width=4, depth=2).eval()\n"
        "x = torch.rand(2, 1, 2, 2)\n"
        "exact_radius(net, x[0]), sound_radius(net, x)\n"
        "certify(net, x, net(x).argmax(1), 0.01, ['lipschitz'])\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True)
