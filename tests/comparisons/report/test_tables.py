"""How figures are shown."""

import dataclasses
import math
from fractions import Fraction

import pytest
from runs import made_up

from comparisons.certificates import in_norm
from comparisons.report.seeds import over_seeds
from comparisons.report.tables import table
from comparisons.report.words import eps_text, markdown_rows, mean, radius_text
from comparisons.results.file import from_plain
from comparisons.results.schema import Results


@pytest.mark.parametrize(
    ("eps", "text"),
    [
        (8 / 255, "8/255"),
        (1 / 255, "1/255"),
        (16 / 255, "16/255"),
        (24 / 255, "24/255"),
        (0.3, "0.3"),
        (0.1, "0.1"),
        (0.2, "0.2"),
        (0.4, "0.4"),  # 0.2 is 51/255 and 0.4 is 102/255
        (0.0, "0.0"),
        (1.0, "1.0"),
        (0.03137, "0.03137"),
        (0.0313725490196, "0.0313725490196"),
    ],
)
def test_epsilon_is_shown_as_its_shorter_form_and_never_rounded(eps, text):
    assert eps_text(eps) == text


def test_columns_of_text_are_aligned_to_the_left():
    lines = markdown_rows(["a", "b", "c"], [["x", "1", "y"]], ("c",)).split("\n")
    assert lines == ["| a | b | c |", "| --- | ---: | --- |", "| x | 1 | y |"]
    assert markdown_rows(["a", "b"], []).endswith("| --- | ---: |")


def test_one_figure_has_no_spread():
    assert (mean([0.5]), mean([0.5, 0.6])) == ("50.00", "55.00 ± 7.07")


def _run(seed: int, clean: float) -> Results:
    key, content = repr(8 / 255), made_up({"ibp": clean}, dataset="cifar10", eps=8 / 255, seed=seed, test_samples=10)
    content["eps_values"].append(0.1)
    accuracies = {"attacked": {"pgd": {key: 0.4, "0.1": 0.2}}}
    proved = {"norm": "linf", "failure": 0.0, "accuracy": {key: 0.3, "0.1": 0.1}}
    content["methods"]["ibp"] |= accuracies | {"certified": {"ibp": proved, "best": proved}}
    return from_plain(content)


def test_tables_show_fractions_and_read_keys_of_decimals():
    text = table(_run(0, 0.5))
    assert "## cifar10, ε = 8/255 (" in text and "Each certificate, with those that it contains, at ε = 8/255:" in text
    assert "| method | ε = 8/255 | ε = 0.1 |" in text and "0.0313" not in text
    assert "| IBP | 30.00 (40.00) | 10.00 (20.00) |" in text
    assert "| r: IBP | 8/255 | 0, 1 |" in over_seeds([_run(0, 0.5), _run(1, 0.6)])


def _changed(**change) -> Results:
    content = made_up({"ibp": 0.9})
    content["attacks"] |= {"salt": {"norm": "linf", "arguments": {"queries": 500}}}
    m = content["methods"]["ibp"]
    m["attacked"]["salt"] = {"0.25": 0.85}
    m["certified"]["smoothing"] = {"norm": "linf", "failure": 0.001, "accuracy": {"0.25": 0.6}}
    m["certified"]["ibp"]["accuracy"] = {"0.25": 0.7}
    m |= change
    return from_plain(content)


def test_each_attack_has_a_column_and_its_arguments_in_words():
    text = table(_changed())
    assert "| method | clean | PGD | all attacks | certified |" in text
    assert "| IBP | 90.00 | 80.00 | 80.00 | 70.00 |" in text
    assert "PGD: 100 steps, 2 random starts; salt: 500 queries. Certified:" in text
    assert "Certified (all attacks) over ε:" in text and "| IBP | 70.00 (80.00) |" in text
    assert "No image is certified at an ε at which PGD or salt broke it." in text
    both = over_seeds([_changed(), _run_of(1)])
    assert "| clean % | PGD % | all attacks % | certified % |" in both


def _run_of(seed: int) -> Results:
    """Without the second attack."""
    return from_plain(made_up({"ibp": 0.8}, seed=seed))


def test_certificates_are_in_order_of_cost_and_the_best_is_last():
    assert "| method | interval | smoothing | best of all |" in table(_changed())
    assert "| IBP | 70.00 | 60.00 | 70.00 |" in table(_changed())


def test_what_may_fail_is_said_with_its_probability():
    text = table(_changed(broken={"smoothing": 4}))
    *_, verdict, line = text.strip().split("\n\n")
    assert verdict == "No image is certified at an ε at which PGD or salt broke it."
    assert line == (
        "smoothing may be wrong about an image with a probability of 0.001: PGD or salt broke 4 that it certifies."
    )
    assert "may be wrong" not in table(_run(0, 0.5))


def test_a_contradicted_theorem_is_said():
    text = table(_changed(contradictions=2))
    assert "**2 certificates are contradicted by PGD or salt: a bound is wrong.**" in text
    assert "No image is certified" not in text


def test_rows_of_numbers_are_called_samples():
    results = dataclasses.replace(_changed(broken={"smoothing": 4}), shape=(30,))
    text = table(results)
    assert "Percent of 10000 test samples. ε in the range [0, 1] of the inputs." in text and "| pairs/sample |" in text
    assert "Certified: by the best certificate of each sample." in text
    assert "No sample is certified at an ε" in text and "smoothing may be wrong about a sample with" in text
    assert table(dataclasses.replace(results, shape=(1, 8, 8))) == table(dataclasses.replace(results, shape=None))


def test_another_norm_is_in_the_title():
    content = made_up({"ibp": 0.9}, norm="l2")
    assert table(from_plain(content)).startswith("## digits, ε = 0.25 in ℓ2 (recipe")


def test_rows_in_l2_show_the_radii_in_both_norms():
    content = made_up({"sll": 0.9, "cpl": 0.8}, norm="l2", eps=36 / 255, shape=[3, 32, 32])
    text = table(from_plain(content))
    assert "| method | clean | PGD | certified | ℓ∞ radius | ℓ2 radius | minutes | epochs |" in text
    assert "| sll | 90.00 | 80.00 | 70.00 | 0.002547 | 36/255 | 2.00 | 6 |" in text
    assert "| cpl | 80.00 | 70.00 | 60.00 | 0.002547 | 36/255 | 2.00 | 6 |" in text
    assert "An ℓ2 ball of radius r holds the ℓ∞ ball of radius r/√d" in text
    del content["shape"]  # as early versions wrote it: d is not known
    assert "| 70.00 | – | 36/255 |" in table(from_plain(content))


def test_a_table_in_linf_shows_both_radii_beside_tables_in_l2_only():
    run = from_plain(made_up({"ibp": 0.9}, shape=[1, 8, 8]))
    assert "radius" not in table(run).partition("Each certificate")[0]
    assert "| IBP | 90.00 | 80.00 | 70.00 | 0.25 | 0.25 | 2.00 | 6 |" in table(run, both=True)


@pytest.mark.parametrize("size", [1, 2, 3, 64, 784, 3072, 12288])
@pytest.mark.parametrize("eps", [0.5, 1.58, 36 / 255, 1e-9])
def test_a_converted_radius_is_that_of_a_ball_inside(size, eps):
    """Exactly: r∞²·d ≤ r₂², for the number and for its text."""
    found = in_norm(eps, 2.0, math.inf, size)
    shown = Fraction(radius_text(found, eps)) if size > 1 else Fraction(found)
    for radius in (Fraction(found), shown):
        assert radius**2 * size <= Fraction(eps) ** 2
    assert found == pytest.approx(eps / math.sqrt(size), rel=1e-12) and float(shown) > 0.998 * found
    assert in_norm(eps, math.inf, 2.0, size) == in_norm(eps, math.inf, 2.0, None) == eps
    assert in_norm(eps, 1.0, 2.0, size) == pytest.approx(eps / math.sqrt(size), rel=1e-12)
    assert in_norm(eps, 1.0, math.inf, size) == pytest.approx(eps / size, rel=1e-12)


def test_seeds_in_two_norms_have_two_tables():
    runs = [from_plain(made_up({"ibp": clean}, seed=seed, shape=[1, 8, 8])) for seed, clean in enumerate((0.9, 0.8))]
    assert "radius" not in over_seeds(runs)
    l2 = {"norm": "l2", "recipe": "other", "shape": [1, 8, 8]}
    runs += [from_plain(made_up({"sll": clean}, seed=seed, **l2)) for seed, clean in enumerate((0.7, 0.6))]
    linf, second = over_seeds(runs[::-1]).split("## Over seeds")[1:]
    assert linf.startswith(": mean ±") and "| r: IBP |" in linf and "sll" not in linf
    assert second.startswith(" in ℓ2: mean ±") and "| other: sll |" in second and "IBP" not in second
    assert linf.count("| 0.25 | 0.25 |") == 1 and second.count("| 0.03125 | 0.25 |") == 1


def _verified(**change) -> Results:
    exact = {"verified": [1, 2], "falsified": [4], "unknown": {"time": [5, 6], "memory": [7]}, "seconds": 61.25}
    marabou = {"verified": [5], "falsified": [], "unknown": {"time": [6, 7]}, "seconds": 120}
    later = {"verified": [], "falsified": [], "unknown": {}, "seconds": 0, "refused": "it is a|b"}
    said = {
        "eps": 0.25,
        "time_limit": 30,
        "samples": 100,
        "certified": 70,
        "broken": 24,
        "asks_certified": False,
        "contradictions": [],
        "verifiers": {"exact": exact, "marabou": marabou, "later": later},
    }
    return from_plain(made_up({"ibp": 0.9}, method={"verification": said | change}))


def test_what_verifiers_said_has_a_table_of_its_own():
    text = table(_verified())
    assert "those of the first images that theorems and attacks leave undecided, for at most 30 s each.\n" in text
    lines = text.splitlines()
    at = next(i for i, line in enumerate(lines) if "| verifier |" in line)
    assert lines[at] == (
        "| method | images | certified | broken | verifier | asked | verified | falsified | unknown | s | why unknown |"
    )
    assert lines[at + 2 : at + 5] == [
        "| IBP | 100 | 70 | 24 | exact radius | 6 | 2 | 1 | 3 | 61.2 | the time limit: 2, the memory limit: 1 |",
        "| IBP | 100 | 70 | 24 | Marabou | 3 | 1 | 0 | 2 | 120.0 | the time limit: 2 |",
        "| IBP | 100 | 70 | 24 | later | – | – | – | – | – | it is a/b |",
    ]
    assert "Verified is not counted as certified." in text and "exact radius: proved for the exact function" in text
    assert "No image is certified at an ε at which PGD broke it." in text
    assert "verifier" not in table(_run(0, 0.5))


def test_a_verifier_that_falsifies_what_a_theorem_certifies_is_said():
    wrong = _verified(asks_certified=True, contradictions=[4])
    assert wrong.contradictions == 1
    by = "PGD or exact radius or Marabou or later"
    assert f"**1 certificates are contradicted by {by}: a bound is wrong.**" in table(wrong)
    right = _verified(asks_certified=True)
    assert f"No image is certified at an ε at which {by} broke it." in table(right)
    assert "for at most 30 s each. Certified images are asked about too." in table(right)
