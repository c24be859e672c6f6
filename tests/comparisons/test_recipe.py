"""Recipes: ours load, and mistakes are named."""

import pytest

from comparisons.recipe import available, load_recipe

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
    assert recipe.name == name and recipe.methods and recipe.eps in recipe.eps_values


def test_a_file_is_read(tmp_path):
    recipe = load_recipe(write(tmp_path, GOOD))
    assert recipe.name == "mine" and recipe.eps_values == (0.05, 0.1)
    method = recipe.methods["ibp"]
    assert method.schedule.lr_drops == (1,)
    assert (method.select, method.average, method.validate_every) == (0, 0, 1)
    text = GOOD.replace("batch_size = 64", "batch_size = 64\nselect = 0.1\naverage = 0.99\nvalidate_every = 5")
    method = load_recipe(write(tmp_path, text.replace("lr_drops", "average_start = 0.5, lr_drops"))).methods["ibp"]
    assert (method.select, method.average, method.validate_every) == (0.1, 0.99, 5)
    assert method.schedule.average_start == 0.5


@pytest.mark.parametrize(
    ("old", "new", "name"),
    [
        ("eps = 0.1\n", "", "eps"),
        ("eps = 0.1\n", "epsilon = 0.1\n", "epsilon"),
        ("[0.05, 0.1]", "[0.05]", "eps_values"),
        ("digits", "svhn", "dataset"),
        ('["ibp"]', '["milp"]', "certificates"),
        ("methods.ibp]", "methods.sabr]", "sabr"),
        ('"relu-mlp"', '"resnet"', "architecture"),
        ('"ibp" }', '"trades" }', "loss"),
        ('"adam"', '"lion"', "optimizer"),
        ("epochs = 1", "epochs = 0", "epochs"),
        ("epochs = 1", "epoch = 1", "epoch"),
        ("batch_size = 64", "", "batch_size"),
        ("batch_size = 64", "batch_size = 64\nselect = 1.0", "select"),
        ("batch_size = 64", "batch_size = 64\naverage = -0.1", "average"),
        ("batch_size = 64", "batch_size = 64\nvalidate_every = 0", "validate_every"),
        ("epochs = 1,", "epochs = 1, average_start = -1,", "average_start"),
        ("[methods", "methods", "TOML"),
    ],
)
def test_mistakes_are_named(tmp_path, old, new, name):
    assert old in GOOD
    with pytest.raises(ValueError, match=name):
        load_recipe(write(tmp_path, GOOD.replace(old, new)))


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(FileNotFoundError, match="digits"):
        load_recipe("imagenet")
