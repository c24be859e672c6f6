"""Colours and marks: they follow the kind, and tell methods of one kind apart."""

import json
import re

import pytest
from runs import made_up

from comparisons.methods.kinds import METHODS
from comparisons.report.looks import MARKERS, looks, shade
from comparisons.report.plots import certified_against_eps
from comparisons.results.file import from_plain

COLORS = {kind: method.color for kind, method in METHODS.items()}


def test_every_kind_has_a_colour_of_its_own():
    assert len(set(COLORS.values())) == len(COLORS)
    assert all(re.fullmatch("#[0-9a-f]{6}", color) for color in COLORS.values())


def test_the_first_of_a_kind_has_its_colour_and_the_next_another_shade_and_mark():
    found = looks([("linf-dist", "linf-dist"), ("ibp", "ibp"), ("wide", "linf-dist"), ("wider", "linf-dist")])
    assert found["linf-dist"] == {"color": COLORS["linf-dist"], "marker": "o"}
    assert found["ibp"] == {"color": COLORS["ibp"], "marker": "o"}
    same = [found[name] for name in ("linf-dist", "wide", "wider")]
    assert len({look["color"] for look in same}) == len({look["marker"] for look in same}) == 3
    assert [look["marker"] for look in same] == list(MARKERS[:3])


def test_a_name_that_comes_twice_looks_the_same():
    found = looks([("a", "ibp"), ("b", "ibp"), ("a", "ibp")])
    assert list(found) == ["a", "b"] and found["a"]["color"] == COLORS["ibp"]


def test_a_kind_that_is_not_known_is_grey():
    assert looks([("new", "another kind")])["new"]["color"] == "#444444"


def test_shades_are_paler():
    assert shade("#d62728", 0) == "#d62728" and shade("#000000", 1) == "#737373" and shade("#ffffff", 2) == "#ffffff"


@pytest.fixture
def two_widths():
    content = made_up({"linf-dist": 0.9, "ibp": 0.8})
    wide = json.loads(json.dumps(content["methods"]["linf-dist"]))
    content["methods"]["wide"] = wide | {"label": "ℓ∞-dist net (wide)", "clean": 0.95}
    return from_plain(content)


def test_two_widths_of_one_kind_are_drawn_apart(two_widths, tmp_path, monkeypatch):
    """By what the axis holds when it is saved."""
    drawn = []
    monkeypatch.setattr("comparisons.report.plots.save", lambda figure, path, dpi: drawn.append(figure))
    certified_against_eps([two_widths], tmp_path / "a.png")
    lines = {line.get_label(): line for line in drawn[0].axes[0].lines}
    one, two = lines["ℓ∞-dist net"], lines["ℓ∞-dist net (wide)"]
    assert (one.get_color(), one.get_marker()) == (COLORS["linf-dist"], "o") and two.get_marker() == "s"
    assert one.get_color() != two.get_color() and list(one.get_ydata()) == pytest.approx([90, 70])
