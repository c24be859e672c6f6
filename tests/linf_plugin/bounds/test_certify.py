"""Certificates per sample: sound against sampling, ordered, and clear about wrong requests."""

import pytest
import torch

from linf_plugin import build, certified_radius
from linf_plugin.bounds import CERTIFICATES, certify, margin_bound, specification


@pytest.fixture(params=({}, {"rho": 0.5, "k": 4}), ids=("linf-mlp", "sortnet-mlp"))
def net(request):
    name = "sortnet-mlp" if request.param else "linf-mlp"
    common = dict(shape=(1, 4, 4), classes=3, width=10, depth=2, mean=(0.5,), std=0.5)
    return build(name, **common, **request.param).eval()


@pytest.fixture
def x():
    return torch.rand(20, 1, 4, 4)


def test_specification_rows_are_differences_with_the_label():
    C = specification(torch.tensor([0, 2]), 3)
    expected = [[[1, -1, 0], [1, 0, -1]], [[-1, 0, 1], [0, -1, 1]]]
    assert torch.equal(C, torch.tensor(expected, dtype=torch.float32))


def test_best_is_any_and_certified_samples_keep_their_class(net, x):
    labels = net(x).argmax(1)
    eps = certified_radius(net(x), labels, net.lipschitz).median().item()
    proofs = certify(net, x, labels, eps)
    assert tuple(proofs) == (*CERTIFICATES, "best")
    assert torch.equal(proofs["best"], torch.stack([proofs[c] for c in CERTIFICATES]).any(0))
    assert 0 < proofs["best"].sum() < len(x)
    assert (proofs["ibp"] >= proofs["lipschitz"]).all()  # never weaker on a pure distance net
    for _ in range(300):
        moved = (x + eps * (2 * torch.rand_like(x) - 1).sign()).clamp(0, 1)
        assert (net(moved).argmax(1) == labels)[proofs["best"]].all()


@pytest.mark.parametrize("method", ["ibp", "crown-ibp", "crown"])
def test_margin_bounds_hold_and_are_exact_at_radius_zero(net, x, method):
    labels = torch.arange(20) % 3
    logits = net(x).double()
    others = logits.scatter(1, labels.unsqueeze(1), -torch.inf).amax(1)
    margin = logits.gather(1, labels.unsqueeze(1)).squeeze(1) - others
    at_zero = margin_bound(net, x, labels, 0.0, method, batch_size=7)
    # intervals of two logits meet at radius 0; the rest is float32 against float64
    torch.testing.assert_close(at_zero, margin, rtol=0, atol=1e-5)
    assert (margin_bound(net, x, labels, 0.05, method) <= margin + 1e-5).all()


def test_a_misclassified_sample_is_never_certified(net, x):
    wrong = (net(x).argmax(1) + 1) % 3
    assert not certify(net, x, wrong, 0.0)["best"].any()


def test_a_tie_certifies_nothing(x):
    net = build("linf-mlp", shape=(1, 4, 4), classes=3, width=10, depth=2).eval()
    last = net[-2]
    last.weight.data[:] = last.weight.data[:1].clone()
    last.bias.data.zero_()
    assert not certify(net, x, torch.zeros(20, dtype=torch.long), 0.0)["best"].any()


def test_an_empty_batch_gives_empty_answers(net, x):
    labels = torch.zeros(0, dtype=torch.long)
    assert all(proof.shape == (0,) for proof in certify(net, x[:0], labels, 0.1).values())


def test_a_finite_p_uses_its_true_bound(x):
    """±ε would be wrong: a layer of n inputs can stretch by n^{1/p}."""
    net = build("linf-mlp", shape=(1, 4, 4), classes=3, width=10, depth=2)
    for layer in net:
        if hasattr(layer, "p"):
            layer.p = 2.0
    net.eval()
    labels = net(x).argmax(1)
    eps = certified_radius(net(x), labels, net.lipschitz).median().item()
    naive = certified_radius(net(x), labels, 1.0).median().item()
    assert eps < naive / 10
    assert certify(net, x, labels, eps, ["lipschitz"])["best"].any()
    assert not certify(net, x, labels, naive, ["lipschitz"])["best"].any()


def test_wrong_requests_name_the_argument(net, x):
    labels = torch.zeros(20, dtype=torch.long)
    with pytest.raises(ValueError, match="methods"):
        certify(net, x, labels, 0.1, ["ipb"])
    with pytest.raises(ValueError, match="method must"):
        margin_bound(net, x, labels, 0.1, "lipschitz")
    with pytest.raises(ValueError, match="eps"):
        certify(net, x, labels, -0.1)
    with pytest.raises(ValueError, match="training mode"):
        certify(net.train(), x, labels, 0.1)


def test_certifying_leaves_model_and_precision_alone(net, x):
    before = {k: v.clone() for k, v in net.state_dict().items()}
    certify(net, x, net(x).argmax(1), 0.01)
    assert all(torch.equal(v, before[k]) and v.dtype == before[k].dtype for k, v in net.state_dict().items())
    assert torch.get_default_dtype() == torch.float32
