"""The published figures: complete, possible, and refused where they are not."""

import math
import re
from fractions import Fraction

import pytest

from comparisons.report.published import FAMILIES, load, parse

ROWS = load().rows


@pytest.mark.parametrize("row", ROWS, ids=lambda r: f"{r.dataset}-{r.eps}-{r.source}-{r.method}-{r.net}")
def test_a_row_is_complete_and_possible(row):
    known = load()
    assert row.dataset in known.datasets and row.source in known.sources and row.family in FAMILIES
    assert isinstance(row.eps, Fraction) and 0 < row.eps <= (Fraction(1, 2) if row.norm == math.inf else 2)
    assert row.norm == (2.0 if known.sources[row.source].get("note", "").startswith("Rows in ℓ2") else math.inf)
    attacked = row.clean if row.pgd is None else row.pgd
    assert 0 < row.certified <= attacked <= row.clean <= 100
    assert row.table and row.method
    assert (row.spread is not None) == (row.runs > 1)
    assert row.spread is None or (len(row.spread) == 3 and all(0 < s < 5 for s in row.spread))
    assert row.flops is None or re.fullmatch(r"[\d.]+[MG]", row.flops)
    assert row.seconds is None or 0 < row.seconds < 1000
    own = row.source in ("bronet", "lipnext", "bcp") and row.by is None
    assert own or (row.by is None) == (row.family == "distance")  # others' methods name their paper


def test_no_row_stands_twice():
    keys = [(row.dataset, row.eps, row.norm, row.method, row.source, row.net) for row in ROWS]
    assert len(set(keys)) == len(keys)


def test_each_headline_has_a_distance_net_and_interval_training():
    known = load()
    for name, (_, eps) in known.datasets.items():
        assert {"distance", "interval"} <= {row.family for row in known.at(name, float(eps))}, name
    assert [name for name, eps, norm in known.headlines() if norm == 2.0] == ["mnist", "cifar10"]
    for setting in known.headlines():
        assert known.at(*setting), setting
        assert not {"distance", "interval"} & {row.family for row in known.at(*setting)} or setting[2] == math.inf


def test_figures_of_the_documents():
    """One row of each table, digit by digit."""
    figures = {(r.dataset, str(r.eps), r.method, r.source, r.net): (r.clean, r.pgd, r.certified) for r in ROWS}
    for key, want in {
        ("mnist", "3/10", "CROWN-IBP", "dist", None): "98.18 93.95 92.98",
        ("cifar10", "8/255", "ℓ∞-dist net+MLP", "dist", "5×5120+512"): "50.80 37.06 35.42",
        ("tinyimagenet", "1/255", "CROWN-IBP, loss fusion", "dist", "WideResNet"): "27.86 20.52 15.86",
        ("cifar10", "8/255", "ℓ∞-dist net", "boosting", "6×5120"): "54.30 41.84 40.06",
        ("mnist", "3/10", "SortNet", "sortnet", "5×5120"): "98.59 94.63 93.33",
        ("mnist", "79/50", "BCP", "bcp", None): "92.54 66.23 48.20",
        ("cifar10", "12/85", "SLL", "compared", "X-Large, 236M parameters"): "73.3 None 65.8",
        ("cifar10", "24/85", "CPL", "compared", "XL, 236M parameters"): "78.5 None 48.0",
        ("cifar10", "36/85", "SOC+CRC", "compared", "LipConvnet-15, 21M parameters"): "79.4 None 38.3",
        ("cifar10", "12/85", "BRONet", "bronet", "BRONet-L, 68M parameters"): "81.6 None 70.6",
    }.items():
        assert " ".join(map(str, figures[key])) == want


def test_epsilon_is_found_as_the_float_of_a_recipe():
    assert load().at("cifar10", 8 / 255) and load().at("mnist", 0.3)
    assert not load().at("cifar10", 0.03137) and not load().at("cifar10", 0.3)
    assert load().at("cifar10", 36 / 255, 2.0) and load().at("mnist", 1.58, 2.0)
    assert not load().at("cifar10", 36 / 255) and not load().at("cifar10", 8 / 255, 2.0)


def test_results_in_l2_are_shown_at_more_than_one_radius():
    known = load()
    values = [36 / 255, 72 / 255, 0.3, 72 / 255]
    assert known.shown_at("cifar10", 2.0, 36 / 255, values) == [36 / 255, 72 / 255]
    assert known.shown_at("cifar10", math.inf, 8 / 255, [2 / 255, 8 / 255]) == [8 / 255]
    assert known.shown_at("digits", 2.0, 0.5, [0.5, 1.58]) == [0.5]


def test_a_source_without_arxiv_has_a_name_and_a_link():
    known = load()
    assert known.name_of("bcp") == "Lee et al., 2020"
    assert known.link("bcp").startswith("[Lee et al., 2020](https://papers.nips.cc/paper/2020/")
    assert known.link("dist") == "[2102.05363](https://arxiv.org/abs/2102.05363)"


GOOD = """
[datasets]
mnist = { title = "MNIST", headline = "3/10" }
[copies."MNIST again"]
of = "mnist"
note = "a copy"
[sources.one]
title = "A paper"
arxiv = "2000.00000"
repository = "https://example.org"
[methods]
Plain = { family = "other", by = "Someone, 2000" }
[[settings]]
dataset = "mnist"
eps = "3/10"
source = "one"
table = "Table 1"
rows = [{ method = "Plain", clean = 90.0, pgd = 80.50, certified = 70.25 }]
"""


def test_a_copy_stands_beside_the_published_rows():
    known = parse(GOOD)
    assert (known.of("MNIST again"), known.of("mnist"), known.of("mine")) == ("mnist", "mnist", "mine")


def test_digits_stay_as_published():
    (row,) = parse(GOOD).rows
    assert [str(f) for f in (row.clean, row.pgd, row.certified)] == ["90.0", "80.50", "70.25"]


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("clean = 90.0", "clean = 79.0", "certified ≤ pgd ≤ clean"),
        ("certified = 70.25", "certified = 80.6", "certified ≤ pgd ≤ clean"),
        ("clean = 90.0", "clean = 190.0", "≤ 100"),
        ("certified = 70.25", "certifed = 70.25", "unknown key 'certifed'"),
        (", certified = 70.25", "", "certified"),
        ('source = "one"', 'source = "two"', "source must be one of one, got 'two'"),
        ('method = "Plain"', 'method = "Fancy"', "method must be one of Plain, got 'Fancy'"),
        ('dataset = "mnist"', 'dataset = "mnst"', "dataset must be one of mnist"),
        ('family = "other"', 'family = "odd"', "family must be one of distance, interval, lipschitz, other"),
        ('eps = "3/10"', 'eps = "a third"', "a third"),
        ("clean = 90.0", 'clean = "90.0"', "must be numbers"),
        ("clean = 90.0", "clean = nan", "must be numbers"),
        ("clean = 90.0", "clean = true", "must be numbers"),
        ("[[settings]]", "[[setting]]", "settings is missing"),
        ('of = "mnist"', 'of = "mnst"', "copies, MNIST again: needs a note, and of, one of mnist"),
        ('note = "a copy"', "", "copies, MNIST again: needs a note"),
        ('eps = "3/10"', 'eps = "3/10"\nnorm = "l3"', "norm must be one of linf, l2, l1, got 'l3'"),
        ('arxiv = "2000.00000"', 'name = "Someone"', "sources, one: needs a title, and arxiv, or a name and a url"),
        ('note = "a copy"', 'note = "a copy"\nnot = 1', "copies, MNIST again: needs a note"),
    ],
)
def test_a_wrong_entry_is_refused_by_name(old, new, words):
    assert old in GOOD
    with pytest.raises(ValueError, match=re.escape(words)):
        parse(GOOD.replace(old, new))
