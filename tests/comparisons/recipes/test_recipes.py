"""Every method of every recipe runs from its file to its certificates: few neurons, random images."""

import dataclasses
import json
import math

import pytest
import torch

from comparisons.methods.parts import PARTS
from comparisons.recipes.recipe import Recipe, available, load_recipe
from comparisons.results.file import eps_key
from comparisons.running.run import run
from linf_plugin import load
from linf_plugin.datasets import SOURCES, Dataset
from linf_plugin.layers.base import distance_layers
from linf_plugin.models.lipschitz import SIZES
from linf_plugin.models.relu import LAYOUTS

pytestmark = pytest.mark.usefixtures("few_alpha_steps")

SHAPES = {  # (C, H, W), classes
    "digits": ((1, 8, 8), 10),
    "mnist": ((1, 28, 28), 10),
    "fashion-mnist": ((1, 28, 28), 10),
    "cifar10": ((3, 32, 32), 10),
    "tinyimagenet": ((3, 64, 64), 200),
}
EPOCHS, BATCH, BATCHES = 3, 3, 3
SMALL = {"width": 12, "hidden": 5, "convs": 1, "dense": 1, "inner": 2}
IN_L2 = {"digits-l2", "mnist-l2-small", "cifar10-l2-small", "cifar10-l2"}  # no settings in ℓ2 are published for MNIST


def images(dataset: str) -> Dataset:
    """Random, a few; the last class occurs."""
    shape, classes = SHAPES[dataset]
    generator = torch.Generator().manual_seed(0)
    train, test = (torch.rand(n, *shape, generator=generator) for n in (BATCH * BATCHES, 2))
    labels = torch.randint(classes, (len(train),), generator=generator)
    return Dataset(
        dataset, train, labels, test, torch.tensor([0, classes - 1]), SOURCES[dataset].mean, SOURCES[dataset].std
    )


def pgd_of(recipe: Recipe) -> str:
    return {"linf": "pgd", "l2": "pgd-l2"}[recipe.evaluation.norm]


def miniature(recipe: Recipe) -> Recipe:
    """The recipe with few neurons and epochs; its schedules keep their proportions, but reach p = ∞ in time."""
    methods = {}
    for key, method in recipe.methods.items():
        s = method.schedule
        scaled = {
            name: getattr(s, name) * EPOCHS / s.epochs
            for name in ("p_start", "p_end", "eps_start", "eps_end", "lr_start")
        }
        scaled["p_end"] = min(scaled["p_end"], 0.75 * EPOCHS)
        drops = tuple(drop * EPOCHS / s.epochs for drop in s.lr_drops)
        architecture = {name: SMALL.get(name, value) for name, value in method.architecture.items()}
        for name in ("channels", "strides"):
            if method.architecture["name"] == "linf-conv":
                architecture[name] = (2, 2) if name == "channels" else (1, 2)
            elif name == "channels" and name in architecture:
                architecture[name] = [2] * len(architecture[name])
        if architecture["name"] in LAYOUTS:
            architecture |= {"width": 2, "hidden": [5]}
        if architecture["name"] in {f"sll-{size}" for size in SIZES}:
            architecture |= SMALL
        methods[key] = dataclasses.replace(
            method,
            architecture=architecture,
            batch_size=BATCH,
            schedule=dataclasses.replace(s, epochs=EPOCHS, lr_drops=drops, **scaled),
        )
    attacks = ({"name": pgd_of(recipe), "steps": 1, "restarts": 1},)
    evaluation = dataclasses.replace(recipe.evaluation, eps_values=(recipe.eps,), attacks=attacks)
    return dataclasses.replace(recipe, methods=methods, evaluation=evaluation)


# The published settings as the authors' programs take them: five epochs, ε in training, learning rate, decay.
PUBLISHED = {
    # arXiv 2102.05363: ε rises from epoch a over c epochs, p from b to d, the learning rate falls from b to T
    ("mnist", "linf-dist"): ("v1", (0, 50, 0, 350, 400), 0.45, 0.02, 0.005),
    ("mnist", "linf-dist-mlp"): ("v1", (0, 50, 50, 350, 400), 0.35, 0.02, 0.005),
    ("fashion", "linf-dist"): ("v1", (0, 50, 0, 350, 400), 0.225, 0.02, 0.005),
    ("fashion", "linf-dist-mlp"): ("v1", (0, 50, 50, 350, 400), 0.11, 0.02, 0.005),
    ("cifar10", "linf-dist"): ("v1", (0, 100, 0, 750, 800), 0.1568, 0.02, 0.005),
    ("cifar10", "linf-dist-mlp"): ("v1", (0, 100, 100, 750, 800), 0.03451, 0.02, 0.005),
    ("cifar10", "linf-conv-mlp"): ("v1", (0, 100, 100, 750, 800), 0.03451, 0.02, 0.005),
    ("tinyimagenet", "linf-dist-mlp"): ("v1", (0, 100, 200, 450, 500), 0.005, 0.04, 0.005),
    # arXiv 2110.06850 and 2210.01787: ε rises from epoch a to b, p from c to d, the learning rate falls from 0
    ("mnist-0.1", "linf-dist-v2"): ("v2", (0, 0, 25, 400, 450), 0.3, 0.03, 0),
    ("mnist", "linf-dist-v2"): ("v2", (0, 0, 25, 400, 450), 0.45, 0.03, 0),
    ("cifar10-2", "linf-dist-v2"): ("v2", (0, 0, 100, 1250, 1300), 0.03922, 0.03, 0),
    ("cifar10", "linf-dist-v2"): ("v2", (0, 0, 100, 1250, 1300), 0.09411, 0.03, 0),
    ("cifar10-16", "linf-dist-v2"): ("v2", (0, 0, 100, 1250, 1300), 0.15685, 0.03, 0),
    ("mnist-0.1", "sortnet"): ("v2", (0, 0, 100, 1450, 1500), 0.3, 0.02, 0),
    ("mnist", "sortnet"): ("v2", (0, 0, 100, 1450, 1500), 0.45, 0.02, 0),
    ("cifar10-2", "sortnet"): ("v2", (0, 0, 200, 2950, 3000), 0.03137, 0.02, 0),
    ("cifar10", "sortnet"): ("v2", (0, 0, 200, 2950, 3000), 0.09411, 0.02, 0),
    ("cifar10-2", "sortnet-mlp"): ("v2", (0, 500, 200, 2950, 3000), 0.008627, 0.02, 0),
    ("cifar10", "sortnet-mlp"): ("v2", (0, 500, 200, 2950, 3000), 0.03451, 0.02, 0),
    ("tinyimagenet", "sortnet-mlp"): ("v2", (0, 500, 100, 980, 1000), 0.00431, 0.02, 0),
}


@pytest.mark.parametrize("recipe, key", PUBLISHED, ids="-".join)
def test_published_schedules(recipe, key):
    kind, (a, b, c, d, total), eps, lr, decay = PUBLISHED[recipe, key]
    method = load_recipe(recipe).methods[key]
    eps_end, p_start, lr_start = (a + c, b, b) if kind == "v1" else (b, c, 0)
    s = method.schedule
    assert s.epochs == total and method.batch_size == 512 and not s.snap
    assert (method.optimizer["lr"], method.decay) == (lr, decay)
    assert s.eps == pytest.approx(eps, abs=2e-5)  # some are fractions that the programs round
    assert s.at(p_start).p == 8 < s.at(p_start + 1).p and s.at(d - 1).p < s.at(d).p == math.inf
    middle = (p_start + d) / 2
    assert s.at(middle).p == pytest.approx(math.sqrt(8 * 1000)) and s.at(middle).progress == 0.5
    assert s.at(eps_end).eps == s.eps and (s.at(a).eps == 0) == (eps_end > a)
    if kind == "v1" and eps_end > a:
        assert s.at((a + eps_end) / 2).eps == pytest.approx(s.eps / 2)
    assert s.at(lr_start).lr_factor == 1 and s.at((lr_start + total) / 2).lr_factor == pytest.approx(0.5)


# Their losses: the hinge's mix, κ of the interval cross-entropy, or the first and last λ; and ρ of a SortNet.
LOSSES = {
    ("mnist", "linf-dist"): (("hinge", 0.75), None),
    ("mnist", "linf-dist-mlp"): (("interval-ce", 0.5), None),
    ("fashion", "linf-dist"): (("hinge", 1.0), None),
    ("fashion", "linf-dist-mlp"): (("interval-ce", 0.5), None),
    ("cifar10", "linf-dist"): (("hinge", 0.75), None),
    ("cifar10", "linf-dist-mlp"): (("interval-ce", 1.0), None),
    ("cifar10", "linf-conv-mlp"): (("interval-ce", 1.0), None),
    ("tinyimagenet", "linf-dist-mlp"): (("interval-ce", 1.0), None),
    ("mnist-0.1", "linf-dist-v2"): (("clipped-hinge", 0.05, 0.0002), None),
    ("mnist", "linf-dist-v2"): (("clipped-hinge", 0.05, 0.0002), None),
    ("cifar10-2", "linf-dist-v2"): (("clipped-hinge", 0.05, 0.002), None),
    ("cifar10", "linf-dist-v2"): (("clipped-hinge", 0.1, 0.0005), None),
    ("cifar10-16", "linf-dist-v2"): (("clipped-hinge", 0.1, 0.0002), None),
    ("mnist-0.1", "sortnet"): (("clipped-hinge", 0.1, 0.001), 0.7),
    ("mnist", "sortnet"): (("clipped-hinge", 0.02, 0.0002), 0.75),
    ("cifar10-2", "sortnet"): (("clipped-hinge", 1.0, 0.01), 0.75),
    ("cifar10", "sortnet"): (("clipped-hinge", 0.2, 0.002), 0.85),
    ("cifar10-2", "sortnet-mlp"): (("interval-hinge", 1.0, 0.01), 0.7),
    ("cifar10", "sortnet-mlp"): (("interval-hinge", 1.0, 0.01), 0.6),
    ("tinyimagenet", "sortnet-mlp"): (("interval-hinge", 1.0, 0.01), 0.7),
}


@pytest.mark.parametrize("recipe, key", PUBLISHED, ids="-".join)
def test_published_losses(recipe, key):
    method = load_recipe(recipe).methods[key]
    loss, rho = LOSSES[recipe, key]
    assert tuple(method.loss.values()) == loss
    assert method.architecture.get("rho") == rho


def test_every_distance_method_of_a_published_recipe_is_checked():
    full = [name for name in available() if not name.endswith(("-small", "-fast", "-tiny")) and name != "digits"]
    methods = {(name, key) for name in full for key in load_recipe(name).methods}
    assert {(name, key) for name, key in methods if key.startswith(("linf", "sortnet"))} == set(PUBLISHED)
    assert set(LOSSES) == set(PUBLISHED)


def test_every_set_comes_in_three_sizes():
    sizes = {name for name in available() if name not in ("digits", "mnist-tiny")} - IN_L2
    full = {name for name in sizes if not name.endswith(("-small", "-fast"))}
    assert sizes == full | {f"{name}-{size}" for name in full for size in ("small", "fast")}


def test_recipes_in_l2_are_those_that_are_named_so():
    assert {name for name in available() if load_recipe(name).evaluation.norm == "l2"} == IN_L2
    assert {name for name in available() if "-l2" in name} == IN_L2


# What the authors' programs take by default: layers (convolutions, dense), channels, rows inside, epochs, batch, rate.
PUBLISHED_L2 = {
    "sll-s": ((20, 7), 45, (5, 2048), 1000, 64, 0.01),
    "sll-m": ((30, 10), 60, (5, 2048), 1000, 64, 0.01),
    "sll-l": ((50, 10), 90, (5, 2048), 1000, 64, 0.01),
    "sll-xl": ((70, 15), 120, (5, 2048), 1000, 64, 0.01),
    "cpl-s": ((20, 7), 45, (5, 2048), 200, 256, 0.001),
    "cpl-m": ((30, 10), 60, (5, 2048), 200, 256, 0.001),
    "cpl-l": ((50, 10), 90, (5, 2048), 200, 256, 0.001),
    "cpl-xl": ((70, 15), 120, (5, 2048), 200, 256, 0.001),
}


@pytest.mark.parametrize("key", PUBLISHED_L2)
def test_published_settings_in_l2(key):
    layers, channels, inner, epochs, batch, rate = PUBLISHED_L2[key]
    method = load_recipe("cifar10-l2").methods[key]
    spec = PARTS["architecture"].resolve(method.architecture, shape=(3, 32, 32), classes=10)["layers"]
    convs = [layer[1] for layer in spec if layer[0] == f"{method.kind}_conv"]
    dense = [layer[1] for layer in spec if layer[0] == method.kind]
    assert (len(convs), len(dense)) == layers and method.label.startswith(method.kind.upper())
    assert {(c["channels"], c["inner"], c["kernel_size"]) for c in convs} == {(channels, inner[0], 3)}
    assert {(d["features"], d["inner"]) for d in dense} == {(channels * 64, inner[1])}
    assert (method.schedule.epochs, method.batch_size, method.optimizer["lr"]) == (epochs, batch, rate)
    loss = PARTS["loss"].filled(method.loss)
    if method.kind == "sll":
        assert (loss["temperature"], loss["offset"]) == (0.25, 1.5 * math.sqrt(2))
        assert (method.optimizer["beta1"], method.optimizer["beta2"]) == (0.5, 0.9)
    else:
        assert loss["margin"] == 0.7
    assert set(load_recipe("cifar10-l2").methods) == set(PUBLISHED_L2)


def test_every_data_set_has_a_recipe():
    assert {load_recipe(name).dataset for name in available()} == set(SHAPES) == set(SOURCES)


@pytest.mark.parametrize("name", available())
def test_every_recipe_runs(name, tmp_path):
    recipe = miniature(load_recipe(name))
    data = dataclasses.replace(images(recipe.dataset), name="made here")
    run(recipe, data, tmp_path, progress=False)
    results = json.loads((tmp_path / "results.json").read_text())
    assert list(results["methods"]) == list(recipe.methods)
    for m in results["methods"].values():
        losses, eps = m["training"]["loss"], eps_key(recipe.eps)
        assert m["certified"]["best"]["norm"] == results["norm"] == recipe.evaluation.norm
        assert all(math.isfinite(value) for value in losses) and len(losses) == EPOCHS
        assert m["certified"]["best"]["accuracy"][eps] <= m["attacked"][pgd_of(recipe)][eps] <= m["clean"]
        model, _ = load(tmp_path / m["checkpoint"])
        assert all(layer.p == math.inf for layer in distance_layers(model))
        assert model(data.x_test).isfinite().all() and model(data.x_test).shape == (2, SHAPES[recipe.dataset][1])
