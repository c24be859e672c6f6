"""What a search varies by default."""

from pathlib import Path

import pytest

from comparisons.methods.losses import LOSSES
from comparisons.methods.optimizers import OPTIMIZERS
from comparisons.methods.parts import PARTS
from comparisons.recipes.recipe import available, load_recipe
from comparisons.recipes.spaces import SPACES, Space, spaces_of, value_of
from linf_plugin.training import Schedule


def test_a_space_contains_the_value_of_the_recipe():
    assert Space(0.25, 4.0, times=True, log=True).around(0.01) == pytest.approx((0.0025, 0.04))
    assert Space(0.1, 1.0).around(0.5) == (0.1, 1.0)
    assert Space(0.1, 1.0).around(0.05) == (0.05, 1.0) and Space(0.1, 1.0).around(3.0) == (0.1, 3.0)


@pytest.mark.parametrize("path", SPACES)
def test_each_setting_is_an_argument_of_something(path):
    table, key = path.split(".")
    names = {"loss": LOSSES, "optimizer": OPTIMIZERS}.get(table)
    if names is None:
        assert table == "schedule" and key in Schedule.__dataclass_fields__
    else:
        assert any(
            key in PARTS[table].filled({"name": name, key: 0.5}) and key in _arguments(names[name]) for name in names
        )


def _arguments(function) -> tuple[str, ...]:
    code = getattr(function, "__init__", function) if isinstance(function, type) else function
    return code.__code__.co_varnames[: code.__code__.co_argcount]


@pytest.mark.parametrize("name", available())
def test_every_method_has_something_to_vary(name):
    recipe = load_recipe(name)
    for method in recipe.methods:
        found = list(spaces_of(recipe, method))
        assert {"optimizer.lr", "schedule.eps"} <= {path for path, *_ in found}
        for path, low, high, log in found:
            assert 0 <= low <= value_of(recipe, method, path) <= high and low < high and (low > 0 or not log)


def test_what_is_absent_or_no_number_has_no_value():
    recipe = load_recipe(str(Path(__file__).parents[2] / "early" / "digits.toml"))
    assert value_of(recipe, "ibp", "loss.kappa") == 0.5 and value_of(recipe, "ibp", "schedule.epochs") == 80.0
    for path in ("loss.name", "loss.nothing", "nothing.kappa", "kappa", "", "schedule.snap", "optimizer"):
        with pytest.raises(
            ValueError, match=r"is no number that the recipe gives for ibp; it gives loss\.kappa, optimizer\.lr"
        ):
            value_of(recipe, "ibp", path)
