"""Colours and marks: they follow the kind, and tell methods of one kind apart."""

import json
import re

import pytest
from matplotlib.lines import Line2D
from runs import made_up

from comparisons.methods.kinds import METHODS
from comparisons.report.looks import MARKERS, STARS, for_text, looks, shade
from comparisons.report.plots import certified_against_eps
from comparisons.results.file import from_plain

COLORS = {kind: method.color for kind, method in METHODS.items()}


def test_every_kind_has_a_colour_and_a_mark_of_its_own():
    assert len(set(COLORS.values())) == len(COLORS) == len({method.marker for method in METHODS.values()})
    assert all(re.fullmatch("#[0-9a-f]{6}", color) for color in COLORS.values())
    marks = {*MARKERS, *(method.marker for method in METHODS.values())}
    assert all(mark in Line2D.filled_markers or mark in STARS for mark in marks)


def test_the_first_of_a_kind_has_its_colour_and_mark_and_the_next_another_shade():
    found = looks([("linf-dist", "linf-dist"), ("ibp", "ibp"), ("wide", "linf-dist"), ("wider", "linf-dist")])
    for kind in ("linf-dist", "ibp"):
        assert found[kind] == {"color": COLORS[kind], "marker": METHODS[kind].marker}
    same = [found[name] for name in ("linf-dist", "wide", "wider")]
    assert len({look["color"] for look in same}) == 3


@pytest.mark.parametrize("kind", ("linf-dist", "ibp", "given"))
def test_no_two_methods_of_a_picture_share_a_mark(kind):
    methods = [*((name, name) for name in METHODS), *((f"{kind} {i}", kind) for i in range(5))]
    marks = [look["marker"] for look in looks(methods).values()]
    assert len(marks) == len(METHODS) + 5 == len(set(marks))


def test_a_name_that_comes_twice_looks_the_same():
    found = looks([("a", "ibp"), ("b", "ibp"), ("a", "ibp")])
    assert list(found) == ["a", "b"] and found["a"]["color"] == COLORS["ibp"]


def test_a_kind_that_is_not_known_is_grey():
    assert looks([("new", "another kind")])["new"]["color"] == "#444444"


def test_shades_are_paler_and_letters_darker():
    assert shade("#d62728", 0) == "#d62728" and shade("#000000", 1) == "#595959" and shade("#ffffff", 2) == "#ffffff"
    assert for_text("#ffffff") == "#999999"


@pytest.mark.parametrize("kind", METHODS)
def test_letters_in_the_colour_of_a_kind_are_read_on_white(kind):
    """By the contrast that WCAG asks of text, 4.5 : 1."""
    text = for_text(COLORS[kind])
    light = [int(text[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    light = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in light]
    assert 1.05 / (0.2126 * light[0] + 0.7152 * light[1] + 0.0722 * light[2] + 0.05) >= 4.5


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
    assert (one.get_color(), one.get_marker()) == (COLORS["linf-dist"], "o") and two.get_marker() != "o"
    assert one.get_color() != two.get_color() and list(one.get_ydata()) == pytest.approx([90, 70])
