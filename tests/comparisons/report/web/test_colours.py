"""Colours of the page: readable in both themes."""

import pytest
from pages import write_run

from comparisons.methods.kinds import METHODS
from comparisons.report.gathered import gather
from comparisons.report.rows import rows_of
from comparisons.report.web import colours
from comparisons.report.web.colours import PALETTE, contrast, in_variables, luminance, themes, with_contrast


def test_contrast_is_that_of_wcag():
    assert (luminance("#000000"), luminance("#ffffff")) == (0.0, pytest.approx(1.0))
    assert contrast("#000000", "#ffffff") == contrast("#ffffff", "#000000") == pytest.approx(21.0)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.005)


@pytest.mark.parametrize("theme", [0, 1])
def test_text_can_be_read_on_the_page_and_on_panels(theme):
    for role in ("ink", "soft", "accent"):
        for behind in ("page", "panel"):
            assert contrast(PALETTE[role][theme], PALETTE[behind][theme]) >= 4.5, (role, behind)


def test_a_colour_with_enough_contrast_stays():
    assert with_contrast("#0072b2", "#ffffff", 4.5) == "#0072b2"
    found = with_contrast("#f0e442", "#ffffff", 4.5)
    assert 4.5 <= contrast(found, "#ffffff") < 5


def test_methods_can_be_seen_and_their_names_read_in_both_themes(tmp_path):
    (run,) = gather([write_run(tmp_path, dict.fromkeys([*METHODS, "of-my-own"]), beside=False)])
    rows = rows_of([run.results])
    for theme in themes(rows):
        for i in range(len(rows)):
            assert contrast(theme[f"m{i}"], theme["page"]) >= 3 and contrast(theme[f"t{i}"], theme["page"]) >= 4.5
    marks = colours.markers(rows)
    assert len(set(marks)) == len(rows)


def test_colours_of_drawings_become_variables():
    drawn = f"{colours.mark(0)} {colours.text(11)} {colours.DRAWN['ink']} #123456"
    assert in_variables(drawn, 12) == "var(--m0) var(--t11) var(--ink) #123456"
    assert colours.text_of(colours.mark(11)) == colours.text(11)
