"""What a BoundedModule of our layers refuses, in every mode and before it computes anything, and what it does not."""

import copy
import inspect
import math
import re

import numpy as np
import pytest
import torch
from torch import nn

import linf_plugin.bounds  # noqa: F401  (before auto_LiRPA, which it makes importable)
from linf_plugin import LinfDistConv2d, LinfDistLinear, MeanShift, SortDistLinear, reestimate_means, set_p
from linf_plugin.bounds import guard, versions
from linf_plugin.certificates.cascade import certify, margin_bound

from auto_LiRPA import BoundedModule, BoundedTensor, PerturbationLpNorm
from auto_LiRPA.bounded_tensor import BoundedParameter
from auto_LiRPA.perturbations import Perturbation, PerturbationL0Norm

# The argument for intermediate bounds has another name in each version.
GIVEN = [name for name in guard.GIVEN_BOUNDS if name in inspect.signature(BoundedModule.compute_bounds).parameters]
ROUNDING = 1e-5  # of bounds in float32, which auto_LiRPA does not round outward
METHODS = ("IBP", "CROWN-IBP", "CROWN", "CROWN-Optimized", "Forward", "Forward+Backward")
each_method = pytest.mark.parametrize("method", METHODS)


class Two(nn.Module):
    """A net of two inputs: x and what is added behind the first layer."""

    def __init__(self):
        super().__init__()
        self.first, self.mean, self.sorted = LinfDistLinear(6, 5), MeanShift(5), SortDistLinear(5, 4, rho=0.5, k=3)
        self.last = nn.Linear(4, 3)

    def forward(self, x, other):
        return self.last(self.sorted(self.mean(self.first(x) + other)))


class Unknown(Perturbation):
    """Nothing that the guard has heard of, though it has a norm."""

    norm, eps, x_L, x_U = math.inf, 0.1, None, None


def make():
    """A net in evaluation mode, three inputs and their BoundedModule."""
    net = nn.Sequential(
        nn.Flatten(),
        nn.Linear(6, 6),
        nn.ReLU(),
        LinfDistLinear(6, 5),
        MeanShift(5),
        SortDistLinear(5, 4, rho=0.5, k=3),
        nn.Linear(4, 3),
    ).eval()
    x = torch.rand(3, 1, 2, 3)
    return net, x, BoundedModule(net, x[:1])


def ball(x, eps=0.05, **kwargs):
    return BoundedTensor(x, PerturbationLpNorm(norm=kwargs.pop("norm", math.inf), eps=eps, **kwargs))


def one_is(x, value):
    """x, but for one number."""
    x = x.clone()
    x[1].view(-1)[2] = value
    return x


def computes_nothing(bounded, monkeypatch):
    """Makes any rule that is asked fail, so that a refusal has come first."""
    for node in bounded._modules.values():
        for rule in ("interval_propagate", "bound_backward", "bound_forward"):
            monkeypatch.setattr(node, rule, lambda *_, **__: pytest.fail("a rule was asked"), raising=False)


NOT_BOXES = {
    "l2": lambda: PerturbationLpNorm(norm=2, eps=0.1),
    "l4": lambda: PerturbationLpNorm(norm=4, eps=0.1),
    "l2 with ends": lambda: PerturbationLpNorm(norm=2, eps=0.1, x_L=torch.zeros(3, 6), x_U=torch.ones(3, 6)),
    "l0": lambda: PerturbationL0Norm(eps=1),
    "unknown": Unknown,
}


@pytest.mark.parametrize("kind", NOT_BOXES)
@each_method
def test_other_perturbations_are_refused(kind, method, monkeypatch):
    """Also where the input first goes through a stock layer."""
    net, x, bounded = make()
    perturbation = NOT_BOXES[kind]()
    reason = f"norm={perturbation.norm}" if kind.startswith(("l2", "l4")) else type(perturbation).__name__
    computes_nothing(bounded, monkeypatch)
    with pytest.raises(ValueError, match=rf"x\[0\] .*{reason}.* ℓ∞ boxes only"):
        bounded.compute_bounds(x=(BoundedTensor(x, perturbation),), method=method)


def test_the_norms_1_and_0_are_refused():
    """auto_LiRPA divides by zero where it makes them, in NumPy or in Python."""
    net, x, bounded = make()
    with np.errstate(divide="ignore"):
        l1 = PerturbationLpNorm(norm=1, eps=0.1)
    l0 = PerturbationLpNorm(norm=2, eps=0.1)
    l0.norm = 0
    for perturbation in (l1, l0):
        with pytest.raises(ValueError, match=rf"x\[0\] .*norm={perturbation.norm}"):
            bounded.compute_bounds(x=(BoundedTensor(x, perturbation),), method="CROWN")


@pytest.mark.parametrize("method", ["IBP", "CROWN"])
def test_a_remembered_perturbation_is_checked(method):
    net, x, bounded = make()
    inside = ball(x)
    first = bounded.compute_bounds(x=(inside,), method=method)
    again = bounded.compute_bounds(method=method)
    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])
    inside.ptb.norm = 2
    with pytest.raises(ValueError, match=r"x\[0\] .*norm=2"):
        bounded.compute_bounds(method=method)
    inside.ptb.norm, inside.ptb.eps = math.inf, -1.0
    with pytest.raises(ValueError, match=r"the eps of x\[0\]"):
        bounded.compute_bounds(method=method)


@pytest.mark.parametrize("nested", [False, True])
@each_method
def test_every_input_is_checked(nested, method):
    net, x, other = Two().eval(), torch.rand(3, 6), torch.rand(3, 5)
    bounded = BoundedModule(net, (x[:1], other[:1]))

    def bounds(*inputs):
        return bounded.compute_bounds(x=(inputs,) if nested else inputs, method=method)

    for wrong, message in (
        (ball(other, norm=2), r"x\[1\] .*norm=2"),
        (ball(other, eps=-0.1), r"the eps of x\[1\]"),
        (one_is(other, math.nan), r"x\[1\] is NaN at \[1, 2\]"),
    ):
        for first in (x, ball(x)):
            with pytest.raises(ValueError, match=message):
                bounds(first, wrong)
    with pytest.raises(ValueError, match=r"x\[1\], got 1"):
        bounds(ball(x))


@pytest.mark.parametrize("of", ["weight", "bias"])
@each_method
def test_a_bounded_parameter_is_refused(of, method):
    net, x, _ = make()
    setattr(net[3], of, BoundedParameter(getattr(net[3], of).detach(), PerturbationLpNorm(norm=math.inf, eps=0.01)))
    bounded = BoundedModule(net, x[:1])
    for first in (x, ball(x)):
        with pytest.raises(ValueError, match=f"parameter '3.{of}' is perturbed"):
            bounded.compute_bounds(x=(first,), method=method)


@each_method
def test_a_parameter_that_is_perturbed_later_is_refused(method, monkeypatch):
    net, x, bounded = make()
    weight = next(n for n in bounded._modules.values() if getattr(n, "ori_name", "") == "3.weight")
    weight.perturbation = PerturbationLpNorm(norm=math.inf, eps=0.01)
    computes_nothing(bounded, monkeypatch)
    with pytest.raises(ValueError, match="parameter '3.weight' is perturbed"):
        bounded.compute_bounds(x=(ball(x),), method=method)


BAD_BOXES = {  # name → (what is wrong with x or its box, message)
    "crossed": (lambda x: ball(x, x_L=x, x_U=one_is(x, -1.0)), r"x_L ≤ x_U, got .* -1\.0 at \[1, 0, 0, 2\]"),
    "crossed with eps": (lambda x: ball(x, x_L=one_is(x, 2.0)), r"x_L ≤ x \+ eps, got 2\.0 .* at \[1, 0, 0, 2\]"),
    "x_L is NaN": (lambda x: ball(x, x_L=one_is(x, math.nan), x_U=x), "x_L is nan"),
    "x_U is NaN": (lambda x: ball(x, x_L=x, x_U=one_is(x, math.nan)), "x_U is nan"),
    "x_L is infinite": (lambda x: ball(x, x_L=one_is(x, -math.inf), x_U=x), "x_L is -inf"),
    "x_U is infinite": (lambda x: ball(x, x_L=x, x_U=one_is(x, math.inf)), "x_U is inf"),
    "x is NaN": (lambda x: ball(one_is(x, math.nan)), r"x\[0\] is NaN at \[1, 0, 0, 2\]"),
    "x is NaN within its box": (
        lambda x: ball(one_is(x, math.nan), x_L=x, x_U=x + 1),
        r"x\[0\] is NaN at \[1, 0, 0, 2\]",
    ),
    "x is NaN and a point": (lambda x: one_is(x, math.nan), r"x\[0\] is NaN"),
    "eps is negative": (lambda x: ball(x, eps=-0.1), r"the eps of x\[0\] must be at least 0, got -0\.1"),
    "eps is NaN": (lambda x: ball(x, eps=math.nan), "at least 0, got nan"),
    "eps is infinite": (lambda x: ball(x, eps=math.inf), "x − eps is -inf"),
    "one eps is negative": (lambda x: ball(x, eps=one_is(torch.zeros_like(x), -1.0)), r"at least 0, got -1\.0"),
    "one eps is NaN": (lambda x: ball(x, eps=one_is(torch.zeros_like(x), math.nan)), "at least 0, got nan"),
}


@pytest.mark.parametrize("kind", BAD_BOXES)
@each_method
def test_boxes_that_are_empty_or_not_numbers_are_refused(kind, method, monkeypatch):
    net, x, bounded = make()
    wrong, message = BAD_BOXES[kind]
    computes_nothing(bounded, monkeypatch)
    with pytest.raises(ValueError, match=message):
        bounded.compute_bounds(x=(wrong(x),), method=method)


# What auto_LiRPA says of its own calls and of a buffer, which 0.3 takes for an input.
@pytest.mark.filterwarnings("ignore:The reduce argument of torch.scatter:UserWarning")
@pytest.mark.filterwarnings("ignore:Creating a LinearBound with zero weights:UserWarning")
@pytest.mark.parametrize("how", [{"method": "Forward+Backward"}, {"method": "forward+crown"}, {"forward": True}])
def test_boxes_that_auto_lirpa_would_mistake_are_refused(how, monkeypatch):
    """Mostly points, but for a sample without any: it would take compressed ends for whole ones, on any net."""
    net, x, bounded = make()
    computes_nothing(bounded, monkeypatch)
    reach = torch.zeros_like(x)
    reach[0] = 0.1
    mistaken, point = ball(x, x_L=x - reach, x_U=x + reach), ball(x, eps=0.0)
    with pytest.raises(ValueError, match="in none of sample 0"):
        bounded.compute_bounds(x=(mistaken,), **how)
    with pytest.raises(ValueError, match="give x_L and x_U"):
        bounded.compute_bounds(x=(point,), **how)
    reach[0].view(-1)[0] = 0  # one coordinate is fixed in every sample
    for passes, mode in (
        (ball(x, x_L=x - reach, x_U=x + reach), how),
        (ball(x, x_L=x, x_U=x), how),
        (mistaken, {"method": "CROWN"}),
        (point, {"method": "CROWN"}),
        (mistaken, {"method": "Forward"}),
    ):
        with pytest.raises(pytest.fail.Exception, match="a rule was asked"):
            bounded.compute_bounds(x=(passes,), **mode)


def test_what_is_checked_once_is_not_checked_in_every_step_of_an_optimisation(monkeypatch):
    net, x, bounded = make()
    checked, check = [], guard.check_inputs
    monkeypatch.setattr(guard, "check_inputs", lambda *args: checked.append(check(*args)))
    bounded.compute_bounds(x=(ball(x),), method="CROWN-Optimized")
    assert len(checked) == 1


def test_an_eps_that_the_ends_replace_is_not_checked():
    net, x, bounded = make()
    ends = {"x_L": x - 0.1, "x_U": x + 0.1}
    for theirs, ours in zip(*(bounded.compute_bounds(x=(ball(x, eps, **ends),), method="IBP") for eps in (-1, 0.1))):
        assert torch.equal(theirs, ours)


def given_bounds(bounded, x):
    """The intermediate bounds of a CROWN call, as either version takes them."""
    bounded.compute_bounds(x=(ball(x),), method="CROWN")
    before = [n.inputs[0] for n in bounded._modules.values() if getattr(n, "requires_input_bounds", None)]
    return {node.name: (node.lower.detach(), node.upper.detach()) for node in before}


@pytest.mark.parametrize("argument", GIVEN)
@pytest.mark.parametrize("method", ["CROWN-IBP", "CROWN", "CROWN-Optimized"])
def test_given_bounds_must_be_in_order(argument, method, monkeypatch):
    net, x, bounded = make()
    given = given_bounds(bounded, x)
    assert given
    computes_nothing(bounded, monkeypatch)
    for name, (lower, upper) in given.items():
        for wrong, message in (
            ((upper + 0.1, lower), "must have lower ≤ upper"),
            ((upper + math.nan, upper), "is NaN"),
            ((lower, lower + math.nan), "is NaN"),
            ((None, lower + math.nan), "is NaN"),
            ((lower + math.inf, upper - math.inf), "must have lower ≤ upper"),
        ):
            with pytest.raises(ValueError, match=rf"{argument}\['{name}'\] {message}"):
                bounded.compute_bounds(x=(ball(x),), method=method, **{argument: given | {name: wrong}})


@pytest.mark.parametrize("argument", GIVEN)
def test_given_bounds_may_cross_by_rounding(argument):
    net, x, bounded = make()
    given = {name: (sum(ends) / 2 + 1e-6, sum(ends) / 2 - 1e-6) for name, ends in given_bounds(bounded, x).items()}
    bounded.compute_bounds(x=(ball(x),), method="CROWN", **{argument: given})


@pytest.mark.parametrize("method", guard.WITHOUT_RULES)
@pytest.mark.parametrize("spelled", [str, str.upper])
def test_modes_without_rules_are_named_and_another_is_proposed(method, spelled, monkeypatch):
    net, x, bounded = make()
    computes_nothing(bounded, monkeypatch)
    use = guard.WITHOUT_RULES[method]
    assert use.lower() in guard.LIRPA_NAMES
    with pytest.raises(NotImplementedError) as error:
        bounded.compute_bounds(x=(ball(x),), method=spelled(method))
    assert repr(spelled(method)) in str(error.value) and f"use {use!r}" in str(error.value)


@pytest.mark.parametrize("how", [{"method": "Forward"}, {"method": "Forward+Backward"}, {"forward": True}])
def test_dynamic_forward_bounds_by_an_option_are_refused(how):
    net, x, _ = make()
    bounded = BoundedModule(net, x[:1], bound_opts={"dynamic_forward": True})
    with pytest.raises(NotImplementedError, match="dynamic_forward"):
        bounded.compute_bounds(x=(ball(x),), **how)


@pytest.mark.parametrize("method", ["nonsense", "CROWN-IBP-Optimized", "", 3, None])
def test_unknown_methods_are_refused(method):
    """Without a method auto_LiRPA would return the interval bounds of the last call."""
    net, x, bounded = make()
    with pytest.raises(ValueError, match="method must be one of ibp, .* got " + repr(method)):
        bounded.compute_bounds(x=(ball(x),), method=method)


def test_every_method_of_auto_lirpa_is_either_supported_or_refused():
    """All words that it compares method with."""
    source = inspect.getsource(inspect.unwrap(BoundedModule.compute_bounds))
    names = {word for line in source.splitlines() if "method" in line for word in re.findall(r"'([a-z+-]+)'", line)}
    assert {"ibp", "crown", "forward-optimized"} <= names <= {*guard.LIRPA_NAMES, *guard.WITHOUT_RULES}


# 0.3, in forward mode, says that an input has no coefficients when it is a constant.
@pytest.mark.filterwarnings("ignore:Creating a LinearBound with zero weights:UserWarning")
@pytest.mark.parametrize(
    "method",
    [
        "IBP",
        "crown-ibp",
        "ibp+crown",
        "IBP+backward",
        "CROWN",
        "backward",
        "CROWN-Optimized",
        "alpha-CROWN",
        "Forward",
        "Forward+Backward",
        "forward+crown",
    ],
)
def test_supported_methods_pass(method):
    net, x, bounded = make()
    lower, upper = bounded.compute_bounds(x=(ball(x),), method=method)
    assert (lower <= net(x) + 1e-5).all() and (net(x) <= upper + 1e-5).all()


def test_flags_and_positions_select_modes():
    net, x, bounded = make()
    ibp = bounded.compute_bounds(x=(ball(x),), method="IBP")
    for theirs in (
        bounded.compute_bounds(x=(ball(x),), method=None, IBP=True),
        bounded.compute_bounds((ball(x),), None, None, "IBP"),
        bounded(method_opt="compute_bounds", x=(ball(x),), method="IBP"),
    ):
        assert torch.equal(theirs[0], ibp[0]) and torch.equal(theirs[1], ibp[1])


def test_an_input_without_a_tuple_keeps_its_perturbation():
    net, x, bounded = make()
    for alone, inside in zip(*(bounded.compute_bounds(x=a, method="IBP") for a in (ball(x[:1]), (ball(x[:1]),)))):
        assert torch.equal(alone, inside)


def test_coefficients_are_returned():
    """They give the bounds: lA·x + lbias at its least over the box."""
    net, x, bounded = make()
    names = bounded.output_name[0], bounded.input_name[0]
    lower, upper, A = bounded.compute_bounds(
        x=(ball(x),), method="CROWN", return_A=True, needed_A_dict={names[0]: {names[1]}}
    )
    A = A[names[0]][names[1]]
    for end, side, sign in ((lower, "l", -1), (upper, "u", 1)):
        slope = A[f"{side}A"].flatten(2)
        value = (slope * x.flatten(1)[:, None]).sum(2) + sign * 0.05 * slope.abs().sum(2) + A[f"{side}bias"]
        torch.testing.assert_close(value, end, rtol=0, atol=1e-4)


def test_a_refusal_leaves_nothing_behind():
    net, x, bounded = make()
    before = bounded.compute_bounds(x=(ball(x),), method="CROWN")
    with pytest.raises(ValueError):
        bounded.compute_bounds(x=(ball(x, norm=2),), method="CROWN")
    after = bounded.compute_bounds(method="CROWN")
    assert torch.equal(before[0], after[0]) and torch.equal(before[1], after[1])


def test_checks_come_back_after_an_error_inside():
    net, x, bounded = make()
    with pytest.raises(Exception):  # noqa: B017  (a wrong C, each version in its own words)
        bounded.compute_bounds(x=(ball(x),), C=torch.zeros(3, 1, 99), method="CROWN")
    with pytest.raises(ValueError, match="norm=2"):
        bounded.compute_bounds(x=(ball(x, norm=2),), method="CROWN")


def test_a_net_in_training_mode_is_refused():
    net, x, _ = make()
    with pytest.raises(ValueError, match="training mode"):
        BoundedModule(net.train(), x[:1])


def change_p(net, x):
    set_p(net, 8.0)


def change_means(net, x):
    reestimate_means(net, [x + 1])


def change_mode(net, x):
    net.train()


def change_rho(net, x):
    net[5].rho = 0.25


def change_k(net, x):
    net[5].k = 2


def change_mode_of_a_sorted_layer(net, x):
    net[5].train()


CHANGES = [change_p, change_means, change_mode, change_rho, change_k, change_mode_of_a_sorted_layer]


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_after_tracing_is_noticed(change):
    net, x, bounded = make()
    bounded.compute_bounds(x=(ball(x),), method="IBP")
    change(net, x)
    for stale in (lambda: bounded.compute_bounds(x=(ball(x),), method="IBP"), lambda: bounded(x)):
        with pytest.raises(RuntimeError, match="layer '[345]'"):
            stale()
    net.eval()
    fresh = BoundedModule(net, x[:1]).compute_bounds(x=(ball(x, 0.0),), method="IBP")
    torch.testing.assert_close(fresh[0], net(x), rtol=0, atol=1e-5)


def test_a_change_of_a_window_is_noticed():
    net, x = nn.Sequential(LinfDistConv2d(1, 2, 2)), torch.rand(1, 1, 4, 4)
    bounded = BoundedModule(net.eval(), x)
    net[0].stride = (2, 2)
    with pytest.raises(RuntimeError, match=r"layer '0' now has stride=\(2, 2\)"):
        bounded(x)


@pytest.mark.parametrize("rho", [0.5, 1.0])
def test_p_of_a_sorted_layer_may_change(rho):
    """It matters in training only."""
    net, x = nn.Sequential(SortDistLinear(6, 4, rho=rho)).eval(), torch.rand(3, 6)
    bounded = BoundedModule(net, x[:1])
    set_p(net, 2.0)
    lower, upper = bounded.compute_bounds(x=(ball(x),), method="IBP")
    assert (lower <= net(x) + ROUNDING).all() and (net(x) <= upper + ROUNDING).all()
    assert torch.equal(bounded(x), net(x))


def test_a_bounded_module_of_a_bounded_module_is_guarded():
    net, x, bounded = make()
    other = BoundedModule(bounded, x[:1])
    lower, upper = other.compute_bounds(x=(ball(x),), method="CROWN")
    assert (lower <= net(x) + ROUNDING).all() and (net(x) <= upper + ROUNDING).all()
    with pytest.raises(ValueError, match="norm=2"):
        other.compute_bounds(x=(ball(x, norm=2),), method="CROWN")
    set_p(net, 8.0)
    with pytest.raises(RuntimeError, match="now has p=8"):
        other.compute_bounds(x=(ball(x),), method="CROWN")


@torch.no_grad()  # else auto_LiRPA keeps tensors that cannot be copied
def test_a_copy_is_of_the_net_at_that_time_and_may_be_converted():
    net, x, bounded = make()
    copied = copy.deepcopy(bounded)
    expected = bounded.compute_bounds(x=(ball(x),), method="CROWN")
    set_p(net, 8.0)
    net[4].running_mean += 1
    same = copied.compute_bounds(x=(ball(x),), method="CROWN")
    assert torch.equal(same[0], expected[0]) and torch.equal(same[1], expected[1])
    with versions.float64_by_default():
        double = copied.to(torch.float64).compute_bounds(x=(ball(x.double()),), method="CROWN")
    assert double[0].dtype == torch.float64
    torch.testing.assert_close(double[0], expected[0].double(), rtol=0, atol=1e-4)
    with pytest.raises(ValueError, match="norm=2"):
        copied.compute_bounds(x=(ball(x.double(), norm=2),), method="CROWN")


def test_a_net_without_our_layers_notices_nothing():
    net, x = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)), torch.rand(3, 6)
    bounded = BoundedModule(net.train(), x[:1])
    y = net(x)
    for method in ("IBP", "CROWN"):
        lower, upper = bounded.compute_bounds(x=(ball(x, norm=2),), method=method)
        assert (lower <= y).all() and (y <= upper).all() and (lower < upper).any()
    lower, _ = bounded.compute_bounds(x=(ball(x, eps=-0.1),), method="IBP")
    assert lower.shape == (3, 3)
    with pytest.raises(NotImplementedError):
        bounded.compute_bounds(x=(ball(x),), method="nonsense")


def test_operators_without_our_layers_refuse_other_perturbations_too():
    """Nets that call the operators themselves are not known before they compute."""

    class Bare(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(4, 6))

        def forward(self, x):
            return torch.ops.linf.dist(x, self.weight, math.inf)

    x = torch.rand(3, 6)
    bounded = BoundedModule(Bare().eval(), x[:1])
    for kind in ("l2", "l0"):
        for method in ("IBP", "CROWN-IBP", "CROWN"):
            with pytest.raises(ValueError, match="ℓ∞ boxes only"):
                bounded.compute_bounds(x=(BoundedTensor(x, NOT_BOXES[kind]()),), method=method)


PADDINGS = {
    "same": dict(padding="same"),
    "valid": dict(padding="valid"),
    **{mode: dict(padding=1, padding_mode=mode) for mode in ("reflect", "replicate", "circular")},
}


@pytest.mark.parametrize("padding", PADDINGS.values(), ids=PADDINGS)
def test_convolutions_that_would_be_misread_are_refused(padding):
    """auto_LiRPA takes other padding for zeros, and its bounds are then wrong.  With rounding, the net is traced."""
    net = nn.Sequential(nn.Conv2d(1, 2, 3, **padding), nn.ReLU(), nn.Flatten(), nn.LazyLinear(2))
    x = torch.rand(3, 1, 4, 4)
    labels = net.eval()(x).argmax(1)
    with pytest.raises(ValueError, match=r"layer '0' \(Conv2d\) has padding"):
        certify(net, x, labels, 0.01, ["ibp"], sound=False)
    certify(net, x, labels, 0.01, ["lipschitz"], sound=False)
    near = (x + 0.01 * (2 * torch.rand(50, *x.shape) - 1)).clamp(0, 1)
    z = net(near.flatten(0, 1)).double().unflatten(0, (50, 3))
    other = z.scatter(2, labels.view(1, 3, 1).expand(50, 3, 1), -torch.inf).amax(2)
    margins = (z.gather(2, labels.view(1, 3, 1).expand(50, 3, 1)).squeeze(2) - other).amin(0)
    for method in ("lipschitz", "ibp", "crown"):
        bound = margin_bound(net, x, labels, 0.01, method)
        assert (bound <= margins).all() and (bound > margins - 0.5).all()
    with pytest.raises(ValueError, match=r"layer '0' \(Conv2d\) has padding"):
        BoundedModule(nn.Sequential(net[0], LinfDistConv2d(2, 2, 2)).eval(), x[:1])


class Bent(nn.Module):
    """A linear layer, and then another slope for each side of 0, by two ReLUs."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(6, 6)

    def forward(self, x):
        h = self.linear(x)
        return torch.relu(h) - 0.3 * torch.relu(-h)


def test_bounds_of_a_stock_net_do_not_use_the_shortcuts_of_auto_lirpa():
    """With them, version 0.3 gives CROWN bounds that points of the ball break, in two of three such nets."""
    for seed in range(12):
        torch.manual_seed(seed)
        net, x = nn.Sequential(Bent(), Bent(), Bent(), nn.Linear(6, 3)).eval(), torch.rand(2, 6)
        ball = BoundedTensor(x, PerturbationLpNorm(norm=math.inf, eps=0.1))
        lower, upper = BoundedModule(net, x).compute_bounds(x=(ball,), method="CROWN")
        y = net((x + 0.1 * (2 * torch.rand(1000, 2, 6) - 1)).view(-1, 6)).view(1000, 2, 3)
        assert (lower <= y + 1e-5).all() and (y <= upper + 1e-5).all()
