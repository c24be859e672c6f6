"""Recipes: ours load, and mistakes are named."""

import copy
import datetime
import importlib
import math
import random
import re
import tomllib
from fractions import Fraction
from pathlib import Path

import pytest

from comparisons import certificates
from comparisons.methods.parts import ATTACKING, PARTS
from comparisons.recipes.recipe import available, load_recipe, recipe_from
from comparisons.results.file import eps_key
from comparisons.results.settings import settings_of
from comparisons.verifiers.request import Request

GOOD = """
description = "test"
dataset = "digits"
eps = 0.1
eps_values = [0.05, 0.1]
certificates = ["ibp"]
attack = { steps = 2, restarts = 1 }
[methods.ibp]
architecture = { name = "relu-mlp", width = 8, depth = 2 }
loss = { name = "ibp" }
optimizer = { name = "adam", lr = 1e-3 }
batch_size = 64
schedule = { epochs = 1, eps = 0.1, lr_drops = [1] }
"""


def write(tmp_path, text):
    path = tmp_path / "mine.toml"
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize("name", available())
def test_ours_load(name):
    recipe = load_recipe(name)
    assert recipe.name == name and recipe.methods and recipe.eps in recipe.evaluation.eps_values


def test_a_file_is_read(tmp_path):
    recipe = load_recipe(write(tmp_path, GOOD))
    assert recipe.name == "mine" and recipe.evaluation.eps_values == (0.05, 0.1)
    method = recipe.methods["ibp"]
    assert method.schedule.lr_drops == (1,)
    assert (method.select, method.average, method.validate_every) == (0, 0, 1)
    text = GOOD.replace("batch_size = 64", "batch_size = 64\nselect = 0.1\naverage = 0.99\nvalidate_every = 5")
    method = load_recipe(write(tmp_path, text.replace("lr_drops", "average_start = 0.5, lr_drops"))).methods["ibp"]
    assert (method.select, method.average, method.validate_every) == (0.1, 0.99, 5)
    assert method.schedule.average_start == 0.5


VERIFY = '[verify]\nmethods = ["exact"]\n'
MISTAKES = {  # a line of GOOD, what stands in its place, what the message says
    "missing": ("eps = 0.1\n", "", "mine.toml: eps is missing"),
    "unknown": ("eps = 0.1\n", "epsilon = 0.1\n", "unknown key 'epsilon'; known: attack, attacks, certificates"),
    "not in the curve": ("[0.05, 0.1]", "[0.05]", "eps_values must contain eps=0.1"),
    "data set": ("digits", "svhn", "dataset must be one of digits, mnist.*'svhn'"),
    "certificate": ('["ibp"]', '["milp"]', "certificates must be among lipschitz, lipschitz-l2, ibp.*milp"),
    "certificate of others": ('["ibp"]', '["lipschitz"]', "none of the certificates applies to ibp"),
    "type": ('description = "test"', "description = 3", "description must be a string, got 3"),
    "type of a list": ('["ibp"]', '"ibp"', "certificates must be a list of strings, got 'ibp'"),
    "type of eps": ("eps = 0.1\n", "eps = true\n", "mine.toml: eps must be a number or a fraction.*True"),
    "eps": ("eps = 0.1\n", 'eps = "a/255"\n', "mine.toml: eps must be a number or a fraction.*'a/255'"),
    "eps of two bars": ("eps = 0.1\n", 'eps = "1/255/2"\n', "eps must be a number or a fraction.*'1/255/2'"),
    "eps by nothing": ("eps = 0.1\n", 'eps = "0/"\n', "mine.toml: eps must be a number or a fraction.*'0/'"),
    "eps by zero": ("[0.05, 0.1]", '[0.1, "1/0"]', "eps_values must be a number or a fraction.*'1/0'"),
    "eps range": ("[0.05, 0.1]", "[0.1, 1.5]", r"eps_values must lie in the pixel range \[0, 1\], got 1.5"),
    "eps nan": ("[0.05, 0.1]", "[0.1, nan]", "eps_values must be a number"),
    "attack": (
        "restarts = 1",
        "restart = 1",
        "attack 'pgd': unknown key 'restart'; known: batch_size, restarts, steps",
    ),
    "attack value": ("steps = 2", "steps = 0", "attack 'pgd': steps must be a whole number ≥ 1, got 0"),
    "method": ("methods.ibp]", "methods.colt]", "unknown method; known: linf-dist"),
    "evaluation type": ("eps_values = [0.05, 0.1]", "evaluation = 1", "mine.toml: evaluation must be a table, got 1"),
    "evaluation key": ("eps_values", "evaluation = { images = 3 }\neps_values", "mine.toml: unknown key 'images'"),
    "evaluation twice": (
        "eps_values = ",
        "evaluation = { eps_values = [0.1] }\neps_values = ",
        "mine.toml: eps_values stands twice: by itself and in evaluation",
    ),
    "attacks twice": (
        "attack = {",
        'evaluation = { attacks = [{ name = "pgd" }] }\nattack = {',
        "mine.toml: attacks stands twice: by itself and in evaluation",
    ),
    "attacks type": ("attack = { ", "evaluation = { attacks = 3 } # ", "attacks must be a list of tables, got 3"),
    "attack type": ("attack = {", "attack = 3 # {", "mine.toml: attack must be a table, got 3"),
    "no attack": ("attack = {", "evaluation = { attacks = [] } # {", "attacks must have at least one, and none twice"),
    "attack missing": ("attack = {", "# {", "mine.toml: attacks is missing"),
    "attack name": (
        "attack = {",
        'evaluation = { attacks = [{ name = "fgsm" }] } # {',
        "mine.toml: attack needs a name among pgd",
    ),
    "attack repeated": (
        "attack = {",
        'evaluation = { attacks = [{ name = "pgd" }, { name = "pgd" }] } # {',
        "attacks must have at least one, and none twice",
    ),
    "norm": (
        "eps_values",
        'evaluation = { norm = "l1" }\neps_values',
        "mine.toml: norm must be one of l2, linf, got 'l1'",
    ),
    "norm type": ("eps_values", 'norm = ["l2"]\neps_values', "mine.toml: norm must be a string"),
    "norm twice": ("eps_values", 'norm = "l2"\nevaluation = { norm = "l2" }\neps_values', "norm stands twice"),
    "certificate in l2": (
        "eps_values",
        'norm = "l2"\neps_values',
        "mine.toml: ibp does not certify balls of the norm l2; those that do: lipschitz-l2$",
    ),
    "attack in l2": (
        'certificates = ["ibp"]',
        'norm = "l2"\ncertificates = ["lipschitz-l2"]',
        "the attack pgd moves samples in ℓ∞, and the balls of the recipe are those of ℓ2; attacks in ℓ2: pgd-l2, ",
    ),
    "attack of l2": (
        "attack = {",
        'attacks = [{ name = "pgd-l2" }] # {',
        "the attack pgd-l2 moves samples in ℓ2, and the balls of the recipe are those of ℓ∞; attacks in ℓ∞: pgd, ",
    ),
    "certificate of l2": (
        '["ibp"]',
        '["ibp", "lipschitz-l2"]',
        "mine.toml: lipschitz-l2 does not certify balls of the norm linf; those that do: lipschitz, ibp, ",
    ),
    "norm of an attack": (
        "attack = {",
        'attacks = [{ name = "pgd", norm = 2 }] # {',
        "attack 'pgd': unknown key 'norm'",
    ),
    "eps in l2": ("eps = 0.1\n", 'norm = "l2"\neps = -0.1\n', "mine.toml: eps must not be negative, got -0.1"),
    "kind": ("methods.ibp]", 'methods.mine]\nkind = "colt"', "methods.mine.: kind must be one of linf-dist.*'colt'"),
    "kind type": ("methods.ibp]", "methods.mine]\nkind = 3", "methods.mine.: kind must be one of linf-dist.*got 3"),
    "no kind": (
        "methods.ibp]",
        "methods.mine]",
        "methods.mine.: unknown method; known: linf.*needs one of these kinds",
    ),
    "kind of another": (
        "methods.ibp]",
        'methods.sortnet]\nkind = "ibp"',
        "methods.sortnet.: sortnet is a kind itself; a method of kind ibp needs another name",
    ),
    "certificate of the kind": (
        'certificates = ["ibp"]',
        'certificates = ["lipschitz"] #',
        "none of the certificates applies to ibp, only ibp, crown-ibp",
    ),
    "name of a path": ("methods.ibp]", 'methods."a/b"]\nkind = "ibp"', "a method's name has letters, digits, - and _"),
    "name of a state": ("methods.ibp]", 'methods."a.state"]\nkind = "ibp"', "a method's name has letters, digits"),
    "trials": ("methods.ibp]", "methods.ibp]\ntrials = 0", "methods.ibp.: trials must be a whole number ≥ 1, got 0"),
    "trials of a float": ("methods.ibp]", "methods.ibp]\ntrials = 1.5", "trials must be a whole number ≥ 1, got 1.5"),
    "label": ("methods.ibp]", "methods.ibp]\nlabel = 3", "methods.ibp.: label must be a string of one line.*got 3"),
    "label of a table": ("methods.ibp]", 'methods.ibp]\nlabel = "a|b"', "label must be a string of one line without"),
    "label of lines": ("methods.ibp]", 'methods.ibp]\nlabel = "a\\nb"', "label must be a string of one line"),
    "initialisation": (
        "batch_size = 64",
        'batch_size = 64\ninitialisation = { name = "he" }',
        "methods.ibp.: initialisation needs a name among default, interval",
    ),
    "initialisation key": (
        "batch_size = 64",
        'batch_size = 64\ninitialisation = { name = "interval", gain = 1 }',
        "initialisation 'interval': unknown key 'gain'",
    ),
    "augmentation": (
        "batch_size = 64",
        'batch_size = 64\naugmentation = { name = "mixup" }',
        "methods.ibp.: augmentation needs a name among none, shift-flip",
    ),
    "augmentation type": (
        "batch_size = 64",
        "batch_size = 64\naugmentation = 1",
        "augmentation needs a name among none, shift-flip",
    ),
    "augmentation key": (
        "batch_size = 64",
        'batch_size = 64\naugmentation = { name = "none", shift = 1 }',
        "augmentation 'none': unknown key 'shift'",
    ),
    "augmentation twice": (
        "batch_size = 64",
        "batch_size = 64\nshift = 1\naugmentation = { shift = 1 }",
        "methods.ibp.: shift stands twice: by itself and in augmentation",
    ),
    "shift_share": (
        "batch_size = 64",
        "batch_size = 64\nshift_share = 1.5",
        r"shift_share must lie in .0, 1., got 1.5",
    ),
    "no method": (GOOD[GOOD.index("[methods") :], "", "no .methods"),
    "method type": (GOOD[GOOD.index("[methods") :], "[methods]\nibp = 1\n", "methods.ibp must be a table, got 1"),
    "methods type": (GOOD[GOOD.index("[methods") :], "methods = 1\n", "methods must be a table, got 1"),
    "defaults type": ("[methods", "defaults = 1\n[methods", "defaults must be a table, got 1"),
    "defaults key": ("[methods", "[defaults]\nflips = true\n[methods", "methods.ibp.: unknown key 'flips'"),
    "method key": ("batch_size = 64", "batch = 64", "methods.ibp.: unknown key 'batch'; known: arch.*batch_size"),
    "method missing": ("batch_size = 64", "", "methods.ibp.: batch_size is missing"),
    "method value": ("batch_size = 64", "batch_size = 0", "batch_size must be a whole number ≥ 1, got 0"),
    "method bool": ("batch_size = 64", "batch_size = 64\nflip = 1", "flip must be true or false, got 1"),
    "method number": ("batch_size = 64", "batch_size = 64\ndecay = -1", "decay must be a number ≥ 0, got -1"),
    "method huge": ("batch_size = 64", f"batch_size = 64\ndecay = {10**400}", "decay must be a number ≥ 0, got 1000"),
    "huge": ("batch_size = 64", f"batch_size = 1{5000 * '0'}", "mine.toml is not valid TOML"),
    "padding": ("batch_size = 64", 'batch_size = 64\npadding = "mirror"', "padding must be one of edge, zero"),
    "architecture": ('"relu-mlp"', '"resnet"', "architecture needs a name among linf-mlp"),
    "no architecture": ("architecture", "architectur", "unknown key 'architectur'"),
    "architecture key": (
        "depth = 2",
        "depths = 2",
        "architecture 'relu-mlp': unknown key 'depths'; known: activation, batch_norm, crop, depth, width$",
    ),
    "architecture value": ("width = 8", "width = 0", "width must be a whole number ≥ 1, got 0"),
    "architecture given": ("width = 8", "width = 8, classes = 9", "unknown key 'classes'"),
    "strides": (
        '"relu-mlp", width = 8, depth = 2',
        '"relu-conv", width = 8, channels = [2], strides = [1, 2]',
        "methods.ibp.: strides must be as many as channels",
    ),
    "channels": (
        '"relu-mlp", width = 8, depth = 2',
        '"relu-conv", width = 8, channels = [0], strides = [1]',
        "channels must be a list of whole numbers ≥ 1",
    ),
    "loss": ('"ibp" }', '"trades" }', "loss needs a name among clipped-hinge"),
    "loss key": ('"ibp" }', '"ibp", mix = 1 }', "loss 'ibp': unknown key 'mix'; known: kappa"),
    "loss value": ('"ibp" }', '"ibp", kappa = "1" }', "loss 'ibp': kappa must be a number ≥ 0, got '1'"),
    "optimizer": ('"adam"', '"lion"', "optimizer needs a name among distance-adam, adam"),
    "optimizer key": ("lr = 1e-3", "rate = 1e-3", "optimizer 'adam': unknown key 'rate'; known: lr"),
    "optimizer missing": (", lr = 1e-3", "", "optimizer 'adam': lr is missing"),
    "epochs": ("epochs = 1", "epochs = 0", "schedule: epochs must be a whole number ≥ 1, got 0"),
    "schedule key": ("epochs = 1", "epoch = 1", "schedule: unknown key 'epoch'; known: average_start, epochs, eps"),
    "schedule eps": ("eps = 0.1, lr", 'eps = "1/x", lr', "methods.ibp. schedule: eps must be a number or a frac"),
    "schedule list": ("[1]", "1", "lr_drops must be a list of numbers ≥ 0, got 1"),
    "schedule order": ("lr_drops = [1]", "p_start = 1", "methods.ibp.: p_end=0.0 lies before p_start"),
    "schedule type": ("schedule = {", "schedule = 1 #", "schedule must be a table, got 1"),
    "select": ("batch_size = 64", "batch_size = 64\nselect = 1.0", "select"),
    "average": ("batch_size = 64", "batch_size = 64\naverage = -0.1", "average must be a number ≥ 0"),
    "average range": ("batch_size = 64", "batch_size = 64\naverage = 1.0", "average"),
    "validate_every": ("batch_size = 64", "batch_size = 64\nvalidate_every = 0", "validate_every"),
    "average_start": ("epochs = 1,", "epochs = 1, average_start = -1,", "average_start"),
    "toml": ("[methods", "methods", "not valid TOML"),
    "verify": ("[methods", "verify = 3\n[methods", "verify must be a table, got 3"),
    "verify key": (
        "[methods",
        VERIFY + "seconds = 3\n[methods",
        r"\[verify\]: unknown key 'seconds'; known: certified",
    ),
    "verify methods": ("[methods", "[verify]\n[methods", r"\[verify\]: methods is missing"),
    "verify name": (
        "[methods",
        '[verify]\nmethods = ["z3"]\n[methods',
        "methods must be among exact, marabou, abcrown",
    ),
    "verify none": ("[methods", "[verify]\nmethods = []\n[methods", "methods must have at least one name"),
    "verify twice": ("[methods", '[verify]\nmethods = ["exact", "exact"]\n[methods', "and none twice"),
    "verify time": ("[methods", VERIFY + "time_limit = 0\n[methods", r"\[verify\]: time_limit must be positive"),
    "verify samples": ("[methods", VERIFY + "samples = 0\n[methods", r"\[verify\]: samples must be a whole number ≥ 1"),
    "verify memory": ("[methods", VERIFY + "memory = 0\n[methods", r"\[verify\]: memory must be positive"),
    "verify in l2": (
        'certificates = ["ibp"]\nattack = { steps = 2, restarts = 1 }',
        'norm = "l2"\ncertificates = ["lipschitz-l2"]\nattacks = [{ name = "pgd-l2" }]\n'
        'verify = { methods = ["exact"] }',
        "complete verifiers take balls of the norm linf only, got norm = l2",
    ),
    "verify certified": ("[methods", VERIFY + "certified = 1\n[methods", "certified must be true or false"),
}


@pytest.mark.parametrize(("old", "new", "message"), MISTAKES.values(), ids=MISTAKES)
def test_mistakes_are_named(tmp_path, old, new, message):
    assert old in GOOD
    with pytest.raises(ValueError, match=message):
        load_recipe(write(tmp_path, GOOD.replace(old, new)))


def test_own_data_are_named_by_a_path_that_is_relative_to_the_recipe(tmp_path, monkeypatch):
    (tmp_path / "animals").mkdir()
    for path in ("mine.npz", "data/mine.npz", "animals", "../" + tmp_path.name + "/animals", str(tmp_path / "a.npz")):
        recipe = load_recipe(write(tmp_path, GOOD.replace("digits", path)))
        assert recipe.dataset == path and recipe.data == tmp_path / path
    recipe = load_recipe(write(tmp_path, GOOD))
    assert recipe.data == "digits"
    monkeypatch.chdir(tmp_path / "animals")
    with pytest.raises(
        ValueError, match="dataset must be .*the path of a folder of images; a path is relative to the r"
    ):
        load_recipe(write(tmp_path, GOOD.replace("digits", "plants")))


def test_the_folder_of_a_recipe_is_none_of_its_keys(tmp_path):
    with pytest.raises(ValueError, match="unknown key 'folder'"):
        load_recipe(write(tmp_path, 'folder = "x"\n' + GOOD))
    (tmp_path / "other").mkdir()
    here, there = (load_recipe(write(folder, GOOD)) for folder in (tmp_path, tmp_path / "other"))
    assert here == there and here.folder != there.folder


def test_complete_verifiers_are_asked_as_the_table_says(tmp_path):
    assert load_recipe(write(tmp_path, GOOD)).evaluation.verify is None
    text = GOOD.replace("[methods", VERIFY + "time_limit = 2.5\nmemory = 0.5\n[methods")
    found = load_recipe(write(tmp_path, text)).evaluation.verify
    assert found == Request(("exact",), time_limit=2.5, samples=100, memory=0.5, certified=False)
    assert found.bytes == 2**29
    inside = GOOD.replace("[methods", '[evaluation.verify]\nmethods = ["marabou", "exact"]\n[methods')
    assert load_recipe(write(tmp_path, inside)).evaluation.verify == Request(("marabou", "exact"))


def test_a_file_that_is_no_text_is_named(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="mine.toml is not valid TOML"):
        load_recipe(str(path))


@pytest.mark.parametrize(
    "text, eps",
    [
        ('"8/255"', 8 / 255),
        ('"1/255"', 1 / 255),
        ('"8.8/255"', float(Fraction(88, 2550))),
        ('"0.1"', 0.1),
        ("0", 0.0),
        ("1", 1.0),
        ('"1/3"', 1 / 3),
    ],
)
def test_an_eps_is_the_float_nearest_to_its_fraction(tmp_path, text, eps):
    recipe = load_recipe(write(tmp_path, GOOD.replace("0.1", text)))
    assert recipe.eps == recipe.evaluation.eps_values[1] == recipe.methods["ibp"].schedule.eps == eps
    assert eps_key(recipe.eps) == repr(eps)


def test_defaults_are_what_a_method_does_not_say_itself(tmp_path):
    defaults = "[defaults]\nbatch_size = 32\nshift = 1\nflip = true\nschedule = { epochs = 9, snap = false }\n"
    shared = GOOD.replace("batch_size = 64", "shift = 2").replace("[methods", defaults + "[methods")
    method = load_recipe(write(tmp_path, shared)).methods["ibp"]
    assert method.batch_size == 32
    assert method.augmentation == {"name": "shift-flip", "shift": 2, "flip": True}
    assert (method.schedule.epochs, method.schedule.snap, method.schedule.eps) == (1, False, 0.1)


def test_defaults_are_not_those_of_a_table_of_another_name(tmp_path):
    defaults = """[defaults]
optimizer = { name = "distance-adam", lr = 0.5, beta2 = 0.95 }
initialisation = { name = "interval" }
shift = 1
[methods"""
    recipe = load_recipe(write(tmp_path, GOOD.replace("[methods", defaults)))
    method = recipe.methods["ibp"]
    assert method.optimizer == {"name": "adam", "lr": 1e-3} and method.initialisation == {"name": "interval"}
    assert method.augmentation == {"name": "shift-flip", "shift": 1}
    text = GOOD.replace("[methods", defaults).replace("batch_size", 'augmentation = { name = "none" }\nbatch_size')
    assert load_recipe(write(tmp_path, text)).methods["ibp"].augmentation == {"name": "none"}


TWO_WIDTHS = """
[methods.ibp-wide]
kind = "ibp"
architecture = { name = "relu-mlp", width = 16, depth = 2 }
loss = { name = "ibp" }
optimizer = { name = "adam", lr = 1e-3 }
batch_size = 64
schedule = { epochs = 1, eps = 0.1 }
"""


def test_labels_tell_methods_apart(tmp_path):
    with pytest.raises(ValueError, match="mine.toml: two methods have the label 'IBP'"):
        load_recipe(write(tmp_path, GOOD + TWO_WIDTHS.replace('kind = "ibp"', 'kind = "ibp"\nlabel = "IBP"')))


IN_L2 = {
    'certificates = ["ibp"]': 'norm = "l2"\ncertificates = ["lipschitz-l2"]',
    "attack = {": 'attacks = [{ name = "pgd-l2", ',
    "restarts = 1 }": "restarts = 1 }]",
    "eps = 0.1\n": "eps = 1.58\n",
    "[0.05, 0.1]": '["36/255", 1.58, 3]',
}


def test_a_recipe_in_l2_has_radii_above_1_and_settings_with_its_norm(tmp_path):
    text = GOOD
    for old, new in IN_L2.items():
        assert old in text
        text = text.replace(old, new, 1)
    recipe = load_recipe(write(tmp_path, text))
    assert recipe.eps == 1.58 and recipe.evaluation.eps_values == (36 / 255, 1.58, 3.0)
    assert recipe.evaluation.norm == settings_of(recipe, "ibp")["evaluation"]["norm"] == "l2"
    table = 'evaluation = { norm = "l2" }\n' + text.replace('norm = "l2"\n', "")
    assert load_recipe(write(tmp_path, table)) == recipe
    with pytest.raises(ValueError, match=r"schedule: eps must lie in the pixel range \[0, 1\], got 1.58"):
        load_recipe(
            write(tmp_path, text.replace("schedule = {", "schedule = { eps = 1.58, ").replace(", eps = 0.1", ""))
        )


def test_a_certificate_of_another_norm_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(certificates, "norm_of", lambda name: 2.0)
    with pytest.raises(ValueError, match="mine.toml: ibp does not certify balls of the norm linf"):
        load_recipe(write(tmp_path, GOOD))


def test_one_kind_stands_in_a_recipe_at_two_widths(tmp_path):
    recipe = load_recipe(write(tmp_path, GOOD + TWO_WIDTHS))
    assert {name: (m.kind, m.label) for name, m in recipe.methods.items()} == {
        "ibp": ("ibp", "IBP"),
        "ibp-wide": ("ibp", "IBP (ibp-wide)"),
    }
    named = load_recipe(write(tmp_path, GOOD + TWO_WIDTHS.replace('kind = "ibp"', 'kind = "ibp"\nlabel = "IBP, 16"')))
    assert named.methods["ibp-wide"].label == "IBP, 16"


DOCS = (Path(__file__).parents[3] / "docs" / "training.md").read_text(encoding="utf-8")


def test_the_recipe_in_the_docs_is_one():
    table = tomllib.loads(DOCS.split("```toml\n")[1].split("```")[0])
    recipe = recipe_from("docs", "docs", table)
    assert {name: m.kind for name, m in recipe.methods.items()} == {"linf-dist": "linf-dist", "wide": "linf-dist"}


@pytest.mark.parametrize("name", [*PARTS, "attacks"])
def test_the_docs_name_the_registry_of_every_part(name):
    (line,) = (line for line in DOCS.splitlines() if line.startswith(f"| `{name}`"))
    module, registry = re.search(r"`([\w.]+)\.([A-Z]+)`", line).groups()
    part = PARTS.get(name, ATTACKING)
    assert getattr(importlib.import_module(module), registry) is part.registry


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(FileNotFoundError, match="no recipe or file 'imagenet'; recipes: cifar10.*digits"):
        load_recipe("imagenet")


def _places(value, found):
    for key, part in value.items() if isinstance(value, dict) else enumerate(value):
        found.append((value, key))
        if isinstance(part, (dict, list)):
            _places(part, found)
    return found


def test_whatever_stands_in_a_file_is_taken_or_refused_by_name():
    """Values of every kind in every place, and places without their values."""
    date = datetime.date(2000, 1, 1)
    values = (0, -1, 1.5, True, "", [], {}, [[]], {"name": []}, math.nan, 10**30, 2**62, "1/0", date)
    for i in range(400):
        rng = random.Random(i)
        table = tomllib.loads(GOOD)
        for _ in range(rng.choice((1, 1, 2))):
            parent, key = rng.choice(_places(table, []))
            if rng.random() < 0.8:
                parent[key] = copy.deepcopy(rng.choice(values))
            else:
                del parent[key]
        try:
            recipe_from("mine", "mine.toml", table)
        except ValueError as error:
            assert str(error).startswith("mine.toml") and len(str(error).splitlines()) == 1


@pytest.mark.parametrize(
    "text", ["a = " + "[" * 100_000, "eps = " + "[" * 50_000 + "]" * 50_000, "a." * 5_000 + "b = 1"], ids=len
)
def test_deep_files_are_refused(tmp_path, text):
    with pytest.raises(ValueError, match="mine.toml") as error:
        load_recipe(write(tmp_path, text))
    assert len(str(error.value)) < 500
