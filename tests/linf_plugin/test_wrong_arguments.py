"""Tests every public function that takes a model, samples, labels, a radius or counts.

Errors name each wrong argument.  Unusual but right arguments are accepted.
"""

import contextlib
import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import nn

from comparisons.attacks.attacked import pgd_survives
from linf_plugin import (
    LinfDistLinear,
    MeanShift,
    Negate,
    build,
    certified_radius,
    margin,
    reestimate_means,
    sound_radius,
)
from linf_plugin.bounds import compute_bounds, specification
from linf_plugin.certificates import lipschitz
from linf_plugin.certificates.cascade import certify, certify_each, margin_bound
from linf_plugin.certificates.exact.radius import exact_radius
from linf_plugin.float32 import allowance, reach
from linf_plugin.layers.lipschitz import lipschitz_bound
from linf_plugin.norms import Ball
from linf_plugin.training import (
    Schedule,
    adam,
    clipped_hinge,
    fit,
    hinge,
    interval_cross_entropy,
    interval_hinge,
    ramp,
    shift_and_flip,
)

from auto_LiRPA import BoundedModule

N = 3


def net(classes=3):
    return build("linf-mlp", shape=(1, 2, 2), classes=classes, width=4, depth=2).eval()


def x(n=N):
    return torch.linspace(0.1, 0.9, 4 * n).reshape(n, 1, 2, 2)


def labels(n=N):
    return torch.arange(n) % 3


def head():
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))


def _fit(model, x, y, schedule=Schedule(epochs=1, eps=0.1), **options):
    def loss(model, x, y, step):
        return hinge(model(x), y, step.eps)

    optimizer = torch.optim.SGD([torch.zeros(1)] if model in (torch.relu, nn.ReLU) else model.parameters(), lr=0.1)
    return fit(model, loss, optimizer, schedule, x, y, progress=False, **options)


def _samples():
    return {"model": net(), "x": x(), "labels": labels()}


def _sound_margin(exact, x, labels, eps, low, high):
    return lipschitz.sound_margin(exact, x, labels, Ball(eps, math.inf, low, high))


FUNCTIONS = {  # name → the function, and right arguments
    "margin": (margin, lambda: {"logits": torch.rand(N, 3), "labels": labels()}),
    "certified_radius": (
        certified_radius,
        lambda: {"logits": torch.rand(N, 3), "labels": labels(), "lipschitz": 2.0, "norm": 2},
    ),
    "sound_radius": (sound_radius, lambda: {**_samples(), "batch_size": 2}),
    "check_program": (reach.check_program, lambda: {"model": net(), "x": x()}),
    "sound_margin": (
        _sound_margin,
        lambda: {"exact": net().double(), "x": x(), "labels": labels(), "eps": 0.1, "low": 0.0, "high": 1.0},
    ),
    "reach": (reach.reach, lambda: {"model": net().double(), "lower": x().double() - 0.1, "upper": x().double() + 0.1}),
    "noise": (
        allowance.noise,
        lambda: {"model": net().double(), "lower": x().double() - 0.1, "upper": x().double() + 0.1},
    ),
    "Ball": (Ball, lambda: {"eps": 0.1, "norm": math.inf, "low": 0.0, "high": 1.0}),
    "lipschitz_bound": (lipschitz_bound, lambda: {"module": nn.Linear(2, 2), "norm": "linf"}),
    "margin_bound": (margin_bound, lambda: {**_samples(), "eps": 0.1, "method": "crown-ibp", "batch_size": 2}),
    "certify": (certify, lambda: {**_samples(), "eps": 0.1, "methods": ["lipschitz", "crown-ibp"], "batch_size": 2}),
    "certify_each": (certify_each, lambda: {**_samples(), "eps": 0.1, "methods": ["lipschitz", "ibp"]}),
    "specification": (specification, lambda: {"labels": labels(), "classes": 3}),
    "exact_radius": (
        exact_radius,
        lambda: {"model": net(), "x": x()[0], "label": None, "low": 0.0, "high": 1.0, "time_limit": 60.0},
    ),
    "reestimate_means": (reestimate_means, lambda: {"model": net(), "batches": [x()]}),
    "pgd_survives": (
        pgd_survives,
        lambda: {**_samples(), "eps": 0.1, "steps": 1, "restarts": 1, "seed": 0, "batch_size": 2},
    ),
    "fit": (_fit, lambda: {"model": net(), "x": x(), "y": labels(), "batch_size": 2, "seed": 0}),
    "hinge": (hinge, lambda: {"logits": torch.rand(N, 3), "labels": labels(), "radius": 0.1, "mix": 0.5}),
    "clipped_hinge": (
        clipped_hinge,
        lambda: {"logits": torch.rand(N, 3), "labels": labels(), "radius": 0.1, "weight": 0.5},
    ),
    "ramp": (ramp, lambda: {"worst": torch.rand(N, 3), "labels": labels(), "width": 0.1}),
    "interval_cross_entropy": (
        interval_cross_entropy,
        lambda: {"head": head(), "features": torch.rand(N, 4), "labels": labels(), "radius": 0.1, "kappa": 0.5},
    ),
    "interval_hinge": (
        interval_hinge,
        lambda: {"head": head(), "features": torch.rand(N, 4), "labels": labels(), "radius": 0.1, "weight": 0.5},
    ),
    "Schedule": (Schedule, lambda: {"epochs": 2, "eps": 0.1, "p_first": 8.0, "p_end": 1.0}),
    "adam": (adam, lambda: {"model": net(), "lr": 0.1}),
    "shift_and_flip": (shift_and_flip, lambda: {"x": x(), "generator": torch.Generator(), "pixels": 1, "share": 0.5}),
}


class Pair(nn.Module):
    def forward(self, x):
        return x.flatten(1), x


def _spoilt(a, value):
    a = a.clone()
    a.view(-1)[0] = value
    return a


NUMBERS = {
    "a string": lambda a: "0.1",
    "a bool": lambda a: True,
    "a tensor": lambda a: torch.tensor(0.1),
    "NaN": lambda a: math.nan,
    "infinite": lambda a: math.inf,
    "None": lambda a: None,
}
RADIUS = NUMBERS | {
    "a string": lambda a: "wide",
    "two fractions": lambda a: "1/2/3",
    "negative": lambda a: -0.1,
    "beyond the range": lambda a: 8,
}
NORM = {
    "a bool": lambda a: True,
    "a tensor": lambda a: torch.tensor(2.0),
    "a list": lambda a: [2],
    "three": lambda a: 3.0,
    "NaN": lambda a: math.nan,
    "an unknown name": lambda a: "max",
}
NEGATIVE = {"negative": lambda a: -0.1}
COUNTS = {
    "a string": lambda a: "2",
    "a bool": lambda a: True,
    "a fraction": lambda a: 2.5,
    "negative": lambda a: -1,
    "a list": lambda a: [],
}
LABELS = {
    "a list": lambda a: a.tolist(),
    "floats": lambda a: a.float(),
    "bools": lambda a: a.bool(),
    "twice as many": lambda a: torch.cat([a, a]),
    "too few": lambda a: a[:-1],
    "two dimensions": lambda a: a[:, None],
    "elsewhere": lambda a: a.to("meta"),
}
RANGED = {"negative": lambda a: a - 1, "too high": lambda a: a + 3}
SAMPLES = {
    "a list": lambda a: a.tolist(),
    "an array": lambda a: a.numpy(),
    "integers": lambda a: a.long(),
    "without a batch": lambda a: a[0],
    "a vector": lambda a: a.flatten(),
    "a number": lambda a: a.sum(),
    "another shape": lambda a: a.flatten(1),
    "no values": lambda a: a[:, :, :0],
    "NaN": lambda a: _spoilt(a, math.nan),
    "infinite": lambda a: _spoilt(a, math.inf),
    "elsewhere": lambda a: a.to("meta"),
}
LOGITS = {
    "a list": lambda a: a.tolist(),
    "integers": lambda a: a.long(),
    "one dimension": lambda a: a[0],
    "three dimensions": lambda a: a[None],
}
MODELS = {"a function": lambda a: torch.relu, "a class": lambda a: nn.ReLU}
EVALUATED = {
    "in training mode": lambda a: a.train(),
    "one class": lambda a: nn.Sequential(nn.Flatten(), nn.Linear(4, 1)).eval().to(next(a.parameters()).dtype),
    "NaN weights": lambda a: (a[2].weight.data.view(-1)[0].fill_(math.nan), a)[1],
}
ENDS = {
    "a list": lambda a: a.tolist(),
    "float32": lambda a: a.float(),
    "a vector": lambda a: a.flatten(),
    "other samples": lambda a: a[:-1],
    "NaN": lambda a: _spoilt(a, math.nan),
}
WRONG = {  # function → argument → kinds of wrong values
    "margin": {"logits": LOGITS, "labels": LABELS | RANGED},
    "certified_radius": {"logits": LOGITS, "labels": LABELS | RANGED, "lipschitz": NUMBERS | NEGATIVE, "norm": NORM},
    "sound_radius": {
        "model": MODELS | EVALUATED,
        "x": SAMPLES,
        "labels": LABELS | RANGED,
        "batch_size": COUNTS | {"zero": lambda a: 0},
    },
    "check_program": {"model": MODELS, "x": {k: v for k, v in SAMPLES.items() if k not in ("NaN", "infinite")}},
    "sound_margin": {
        "exact": {"in training mode": EVALUATED["in training mode"]},
        "x": SAMPLES,
        "labels": LABELS | RANGED,
        "eps": RADIUS,
        "low": {"above": lambda a: 2.0, "NaN": lambda a: math.nan, "a string": lambda a: "0"},
        "high": {"a bool": lambda a: True},
    },
    "Ball": {
        "eps": RADIUS,
        "norm": NORM,
        "low": {"above": lambda a: 2.0, "NaN": lambda a: math.nan, "a string": lambda a: "0"},
        "high": {"a bool": lambda a: True},
    },
    "lipschitz_bound": {"norm": NORM},
    "reach": {"lower": ENDS | {"above": lambda a: a + 1}, "upper": ENDS | {"below": lambda a: a - 1}},
    "noise": {"lower": ENDS, "upper": ENDS},
    "exact_radius": {
        "model": MODELS | EVALUATED,
        "label": {
            "a string": lambda a: "1",
            "a bool": lambda a: True,
            "negative": lambda a: -1,
            "too high": lambda a: 3,
            "a float": lambda a: torch.tensor(1.0),
            "two": lambda a: torch.tensor([0, 1]),
        },
        "x": {k: v for k, v in SAMPLES.items() if k in ("a list", "an array", "integers", "NaN", "infinite", "vector")},
        "low": NUMBERS | {"above": lambda a: 2.0},
        "high": NUMBERS | {"below": lambda a: -1.0},
        "time_limit": {k: v for k, v in (NUMBERS | NEGATIVE).items() if k != "infinite"},
    },
    "specification": {
        "labels": {k: v for k, v in (LABELS | RANGED).items() if k not in ("twice as many", "too few", "elsewhere")},
        "classes": COUNTS | {"one": lambda a: 1},
    },
    "reestimate_means": {
        "model": MODELS,
        "batches": {"a tensor": lambda a: a[0], "no batch": lambda a: [], "a number": lambda a: 3}
        | {k: lambda a, v=v: [v(a[0])] for k, v in SAMPLES.items()},
    },
    "fit": {
        "model": MODELS,
        "x": SAMPLES,
        "y": LABELS | {"negative": lambda a: a - 1},
        "batch_size": COUNTS | {"zero": lambda a: 0},
        "seed": COUNTS,
    },
    "hinge": {
        "logits": LOGITS,
        "labels": LABELS,
        "radius": NUMBERS | NEGATIVE,
        "mix": NUMBERS | {"above": lambda a: 1.1},
    },
    "clipped_hinge": {
        "logits": LOGITS,
        "labels": LABELS,
        "radius": NUMBERS | NEGATIVE | {"zero": lambda a: 0.0},
        "weight": NUMBERS,
    },
    "ramp": {"worst": LOGITS, "labels": LABELS, "width": NUMBERS | NEGATIVE | {"zero": lambda a: 0.0}},
    "interval_cross_entropy": {
        "head": {"one layer": lambda a: a[0], "no tanh": lambda a: a[::2]},
        "features": LOGITS,
        "labels": LABELS,
        "radius": {k: v for k, v in NUMBERS.items() if k != "a tensor"},
        "kappa": NUMBERS,
    },
    "interval_hinge": {
        "head": {"one layer": lambda a: a[0]},
        "features": LOGITS,
        "labels": LABELS,
        "radius": {k: v for k, v in NUMBERS.items() if k != "a tensor"},
        "weight": NUMBERS,
    },
    "Schedule": {"epochs": COUNTS | {"zero": lambda a: 0}, "eps": RADIUS, "p_first": NUMBERS, "p_end": NUMBERS},
    "adam": {"model": MODELS, "lr": NUMBERS | NEGATIVE},
    "shift_and_flip": {
        "x": {k: SAMPLES[k] for k in ("a list", "an array", "integers", "without a batch", "another shape")},
        "generator": {"a number": lambda a: 3},
        "pixels": COUNTS,
        "share": NUMBERS,
    },
    "pgd_survives": {
        "model": MODELS | {k: EVALUATED[k] for k in ("in training mode", "one class")},
        "x": SAMPLES,
        "labels": LABELS | RANGED,
        "eps": RADIUS,
        **dict.fromkeys(("steps", "restarts", "seed", "batch_size"), COUNTS),
    },
}
_BALLS = {"model": MODELS | EVALUATED, "x": SAMPLES, "labels": LABELS | RANGED, "eps": RADIUS}
_METHODS = {"unknown": lambda a: ["ipb"], "a number": lambda a: 3}
WRONG |= {
    "margin_bound": _BALLS | {"batch_size": COUNTS, "method": {"unknown": lambda a: "ipb", "a number": lambda a: 3}},
    "certify": _BALLS | {"batch_size": COUNTS, "methods": _METHODS},
    "certify_each": {"x": SAMPLES, "labels": LABELS | RANGED, "methods": _METHODS},
}
NAMES = {"exact": "model", "batches": "batches", "methods": "methods?"}
REQUESTS = [
    pytest.param(function, argument, spoil, id=f"{function}-{argument}-{how}".replace(" ", "-"))
    for function, arguments in WRONG.items()
    for argument, kinds in arguments.items()
    for how, spoil in kinds.items()
]


def test_every_function_is_put_wrong_arguments():
    assert WRONG.keys() == FUNCTIONS.keys()


@pytest.mark.parametrize("function, argument, spoil", REQUESTS)
def test_a_wrong_argument_is_named(function, argument, spoil):
    call, right = FUNCTIONS[function]
    arguments = right()
    arguments[argument] = spoil(arguments[argument])
    with pytest.raises((TypeError, ValueError), match=rf"\b{NAMES.get(argument, argument)}\b"):
        call(**arguments)


@pytest.mark.parametrize("sound", (True, False), ids=("sound", "exact"))
def test_what_does_not_return_logits_is_named(sound):
    """A pair and three dimensions.  With sound=True there is no rule for such a model, and the error says so."""
    for model in (Pair(), nn.Identity()):
        with pytest.raises((TypeError, ValueError), match="model must|the model returns|known for Identity"):
            margin_bound(model.eval(), x(), labels(), 0.1, "ibp", sound=sound)


@pytest.mark.parametrize(
    "wrong",
    (
        {"bounded": net()},
        {"method": 3},
        {"method": None},
        {"C": [[[1.0, 0.0, 0.0]]]},
        {"C": torch.eye(3)},
        {"C": torch.eye(3, dtype=torch.long)[None]},
    ),
    ids=lambda wrong: next(iter(wrong)),
)
def test_a_wrong_request_for_bounds_is_named(wrong):
    with pytest.raises((TypeError, ValueError), match=f"{next(iter(wrong))} must"):
        compute_bounds(**{"bounded": BoundedModule(net(), x(1)), "x": (x(1),), "C": None, "method": "IBP"} | wrong)


def test_right_arguments_are_taken():
    for call, right in FUNCTIONS.values():
        call(**right())


UNUSUAL = {  # what is unusual, and the same in plain
    "int32 labels": (lambda a: a["labels"].int(), "labels"),
    "uint8 labels": (lambda a: a["labels"].byte(), "labels"),
    "not contiguous": (lambda a: a["x"].transpose(2, 3).contiguous().transpose(2, 3), "x"),
    "every second sample": (lambda a: a["x"].repeat_interleave(2, 0)[::2], "x"),
    "a NumPy number": (lambda a: np.float64(a["eps"]), "eps"),
    "a fraction": (lambda a: Fraction(a["eps"]), "eps"),
    "ε as text": (lambda a: str(a["eps"]), "eps"),
    "ε as a fraction in text": (lambda a: f"{Fraction(a['eps'])}", "eps"),
    "a model in a wrapper": (lambda a: nn.DataParallel(a["model"]), "model"),
    "large batches": (lambda a: 10**9, "batch_size"),
    "a NumPy batch size": (lambda a: np.int64(2), "batch_size"),
}


@pytest.mark.parametrize("name", ("sound_radius", "margin_bound", "certify"))
@pytest.mark.parametrize("change, argument", UNUSUAL.values(), ids=UNUSUAL)
def test_what_is_unusual_and_right_gives_the_same(name, change, argument):
    call, right = FUNCTIONS[name]
    arguments = right()
    if argument not in arguments:
        return
    expected = call(**arguments)
    found = call(**arguments | {argument: change(arguments)})
    if name == "certify":
        expected, found = expected.bound, found.bound
    assert torch.equal(found, expected)


def test_two_classes_and_no_samples():
    for n in (0, 2):
        model, inputs, y = net(2), x(n), labels(n) % 2
        assert sound_radius(model, inputs, y).shape == (n,)
        assert certify(model, inputs, y, 0.01).certified.shape == (n,)
        assert pgd_survives(model, inputs, y, 0.01, steps=1).shape == (n,)
        assert margin(model(inputs).detach(), y).shape == (n,)
        for sound in (True, False):
            assert margin_bound(model, inputs, y, 0.01, "crown", sound=sound).shape == (n,)


def test_radius_zero_certifies_the_prediction():
    model, inputs = net(), x()
    with torch.no_grad():
        y = model(inputs).argmax(1)
    assert certify(model, inputs, y, 0).certified.all()


def test_a_net_without_an_input_shape_takes_what_its_layers_take():
    plain = nn.Sequential(LinfDistLinear(4, 5), MeanShift(5), LinfDistLinear(5, 3), Negate()).eval()
    assert sound_radius(plain, torch.rand(6, 4), torch.zeros(6, dtype=torch.long)).shape == (6,)
    with pytest.raises(ValueError, match="x must have shape"):
        sound_radius(plain, torch.rand(4))


def test_a_failed_request_leaves_the_model_alone():
    model = net().train()
    with contextlib.suppress(ValueError):
        reestimate_means(model, [x()[0]])
    assert model.training and all(m.training for m in model.modules())


@pytest.mark.parametrize("name", ("sound_radius", "margin_bound", "certify"))
def test_a_wrapper_with_a_hook_is_not_the_net_inside(name):
    call, right = FUNCTIONS[name]
    arguments = right()
    arguments["model"] = nn.DataParallel(arguments["model"]).eval()
    arguments["model"].register_forward_hook(lambda module, given, y: -y)
    with pytest.raises(RuntimeError, match=r"model \(DataParallel\) has forward hooks"):
        call(**arguments)
