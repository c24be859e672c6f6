"""Runs that share their images stand in one table; others do not."""

from runs import made_up

from comparisons.report.beside import beside
from comparisons.results.file import from_plain
from comparisons.results.schema import NO_RECIPE

DATA = {"dataset": "digits", "train_data_sha256": "a", "test_data_sha256": "b"}


def _run(clean, recipe="r", seed=0, data=DATA, method=None, **change):
    return from_plain(made_up(clean, recipe=recipe, seed=seed, method={"data": data} | (method or {}), **change))


def test_recipes_and_given_nets_that_share_their_images_are_in_one_table():
    given = _run({"mine": 0.7}, recipe=NO_RECIPE, test_samples=500, attacks={}, method={"attacked": {}})
    text = beside([_run({"ibp": 0.9, "linf-dist": 0.8}), _run({"ibp": 0.6}, recipe="other"), given])
    assert text == (
        "## digits, ε = 0.25 in ℓ∞: side by side\n\n"
        "| method | from | of | clean % | PGD % | certified % | parameters |\n"
        "| --- | --- | --- | ---: | ---: | ---: | ---: |\n"
        "| IBP | recipe `r` | 10000 test images | 90.00 | 80.00 | 70.00 | 25.9k |\n"
        "| ℓ∞-dist net | recipe `r` | 10000 test images | 80.00 | 70.00 | 60.00 | 25.9k |\n"
        "| IBP | recipe `other` | 10000 test images | 60.00 | 50.00 | 40.00 | 25.9k |\n"
        "| mine | given net | 500 test images | 70.00 | – | 50.00 | 25.9k |\n"
    )


def test_each_norm_has_a_table_with_the_radii_in_both():
    l2 = {"norm": "l2", "eps": 0.5, "shape": [1, 8, 8]}
    runs = [_run({"ibp": 0.9}), _run({"ibp": 0.6}, recipe="other")]
    runs += [_run({"sll": 0.9}, recipe="a", **l2), _run({"cpl": 0.8}, recipe="b", **l2)]
    linf, second = beside(runs).split("\n\n## ")
    assert "| IBP |" in linf and "sll" not in linf and second.startswith("digits, ε = 0.5 in ℓ2: side by side")
    assert "| certified % | ℓ∞ radius | ℓ2 radius | parameters |" in linf
    assert linf.count("| 0.25 | 0.25 | 25.9k |") == 2 and second.count("| 0.0625 | 0.5 | 25.9k |") == 2
    assert "| sll |" in second and "| cpl |" in second and "IBP" not in second


def test_seeds_of_a_recipe_are_one_row():
    text = beside([_run({"ibp": 0.9}), _run({"ibp": 0.7}, seed=1), _run({"ibp": 0.6}, recipe="other")])
    assert "| IBP | recipe `r`, seeds 0, 1 | 10000 test images | 80.00 ± 14.14 |" in text and text.count("| IBP |") == 2


def test_a_recipe_with_changed_settings_is_another_one():
    text = beside([_run({"ibp": 0.9}), _run({"ibp": 0.8}, changed=["epochs = 5"])])
    assert "| IBP | recipe `r` | 10000" in text and "| IBP | recipe `r` with `epochs = 5` | 10000" in text


def test_only_what_can_be_compared_is_put_side_by_side():
    first = _run({"ibp": 0.9})
    assert beside([first]) == ""
    assert beside([first, _run({"ibp": 0.7}, seed=1)]) == ""
    assert beside([first, _run({"ibp": 0.7}, recipe="other", data=DATA | {"test_data_sha256": "c"})]) == ""
    assert beside([first, _run({"ibp": 0.7}, recipe="other", eps=0.5)]) == ""
    assert beside([first, _run({"ibp": 0.7}, recipe="other", held_out=0.2)]) == ""
    assert beside([first, _run({"ibp": 0.7}, recipe="other", norm="l2")]) == ""
    assert beside([_run({"a": 0.9}, recipe=NO_RECIPE), _run({"b": 0.9}, recipe=NO_RECIPE)]) != ""
