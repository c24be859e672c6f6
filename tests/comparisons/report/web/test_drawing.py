"""Figures of the page: SVG that can stand in it."""

import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from pages import write_run

from comparisons.report.gathered import gather
from comparisons.report.rows import rows_of, titles
from comparisons.report.web import curves, radii, spent
from comparisons.report.web.curves import lines_of, pareto
from comparisons.report.web.drawing import NARROW, WIDE, figure_of

NAMES = {"ibp": "<b>A & B</b>", "linf-dist": "_hidden $x^2$", "mine": "x" * 70}


@pytest.fixture
def rows(tmp_path):
    for seed in (0, 1):
        write_run(tmp_path / f"seed-{seed}", NAMES, seed=seed)
    return rows_of([run.results for run in gather([tmp_path])])


def elements(html: str) -> list:
    return list(ElementTree.fromstring(f"<div>{html}</div>").iter())


def named(element) -> str:
    return element.tag.rpartition("}")[2]


def figures(rows) -> dict[str, str]:
    names = titles(rows)
    tables = {i: {"radius_best": np.linspace(0, 0.3, 50)} for i in range(len(rows))}
    return {
        "curves": curves.curves(rows, names),
        "bands": curves.bands(rows, names),
        "front": curves.front(rows, names, 0.1),
        "radii": radii.radii(rows, names, tables),
        "training": spent.training(rows, names),
        "certifying": spent.certifying(rows, names),
    }


def test_figures_stand_in_a_page_together(rows):
    """Every id is there once, and what is referred to is there; nothing is loaded; nothing styles the whole page."""
    found = elements("".join(figures(rows).values()))
    ids = [element.attrib["id"] for element in found if "id" in element.attrib]
    assert len(ids) == len(set(ids)) > 50
    for element in found:
        assert named(element) not in ("style", "script", "image", "metadata")
        for key, value in element.attrib.items():
            for target in re.findall(r"url\(#([^)]+)\)", value) + [value[1:]] * (key == "href"):
                assert target in ids
            assert "http" not in value and (key != "href" or value.startswith("#"))


def test_each_is_drawn_for_two_widths_with_a_title(rows):
    for name, html in figures(rows).items():
        drawn = [element for element in elements(html) if named(element) == "svg"]
        assert [round(float(svg.attrib["viewBox"].split()[2])) for svg in drawn] == [WIDE, NARROW], name
        for svg in drawn:
            title = svg[0]
            assert named(title) == "title" and title.text and svg.attrib["aria-labelledby"] == title.attrib["id"]
            assert svg.attrib["role"] == "img" and "width" not in svg.attrib


def test_colours_follow_the_theme(rows):
    for html in figures(rows).values():
        assert "var(--m0)" in html and not re.search(r"#[0-9a-f]{6}\b", html)


@pytest.mark.parametrize("name", ["curves", "front"])
def test_every_method_is_named_as_text(rows, name):
    wide, narrow = ElementTree.fromstring(f"<div>{figures(rows)[name]}</div>")
    for drawn in (wide, narrow):
        texts = {element.text for element in drawn.iter() if named(element) == "text"}
        assert {"<b>A & B</b>", "_hidden $x^2$"} <= texts and any("xx…xx" in text for text in texts)


def test_many_methods_have_a_legend_instead_of_names_at_their_points(rows):
    many = rows * 3
    assert curves.MOST_LABELS < len(many)
    html = curves.front(many, [f"method {i}" for i in range(len(many))], 0.1)
    assert all(html.count(f">method {i}<") == 2 for i in range(len(many)))


def weaker(rows, *numbers: int) -> list:
    """The rows again; those of some methods certify half as much."""
    for i in numbers:
        for m in rows[i].measured:
            best = m.certified["best"].accuracy
            best.update({eps: 0.5 * accuracy for eps, accuracy in best.items()})
    return rows


def test_the_enlarged_front_leaves_out_methods_far_below_the_best(rows):
    html = curves.front_enlarged(weaker(rows, 0), ["first", "second", "third"], 0.1)
    assert html.count(">second<") == html.count(">third<") == 2 and ">first<" not in html
    assert "var(--m1)" in html and "var(--m2)" in html and "var(--m0)" not in html  # their colours stay


@pytest.mark.parametrize("far", [(), (0, 1)])
def test_an_enlarged_front_that_shows_nothing_new_is_left_out(rows, far):
    assert curves.front_enlarged(weaker(rows, *far), ["a", "b", "c"], 0.1) is None


def test_a_drawing_is_the_same_each_time(rows):
    assert figures(rows) == figures(rows)


def test_a_line_starts_at_the_clean_accuracy_and_its_band_ends_at_the_strongest_attack(rows):
    values, certified, attacked = lines_of(rows[0])
    assert values == [0.0, 0.05, 0.1, 0.2] and certified[0] == attacked[0]
    assert certified[0] == pytest.approx(100 * rows[0].mean(lambda m: m.clean))
    assert all(low <= high for low, high in zip(certified, attacked)) and certified[2] < attacked[2]
    for m in rows[0].measured:
        m.attacked["square"] = dict.fromkeys(values, 0.01)
    assert lines_of(rows[0])[2][1:] == [1.0] * 3
    for m in rows[0].measured:
        m.attacked.clear()
    assert lines_of(rows[0])[2] == []


def test_the_front_has_what_nothing_beats():
    assert pareto([(1, 1), (2, 2), (3, 1), (0, 3), (3, 0.5), (2, 2)]) == [1, 2, 3, 5]


def test_costs_that_nobody_recorded_are_not_drawn(tmp_path):
    (run,) = gather([write_run(tmp_path, method={"seconds": {}}, beside=False)])
    assert spent.certifying(rows_of([run.results]), ["a", "b"]) == ""


def test_seconds_are_for_one_sample_at_one_eps(rows):
    assert (
        spent.per_sample(rows[1], "ibp") == pytest.approx(1.4 / 200 / 3) and spent.per_sample(rows[0], "crown") is None
    )


def test_a_radius_curve_counts_samples_with_at_least_each_radius(rows, monkeypatch):
    drawn = []
    monkeypatch.setattr(radii, "figure_of", lambda name, title, draw, heights, methods: drawn.append(draw) or "")
    radii.radii(rows[:1], ["a"], {0: {"radius_best": np.array([0.0, 0.0, 0.1, 0.2])}})
    from matplotlib.figure import Figure

    figure = Figure()
    drawn[0](figure, True)
    (line,) = figure.axes[0].lines
    assert (
        line.get_xydata().tolist() == [[0, 50], [0.1, 50], [0.2, 25], [0.2, 0]] and line.get_drawstyle() == "steps-pre"
    )
    assert sum(bar.get_height() for bar in figure.axes[0].patches) == pytest.approx(50)


def test_text_of_a_title_is_escaped():
    html = figure_of("a", "</title><script>", lambda figure, wide: None, (100, 100), 0)
    assert "<script>" not in html and "&lt;script&gt;" in html


@pytest.mark.parametrize("seconds", [(1.0, 1.0), (1.1, 1.9), (1.0, 30.0), (0.01, 900.0)])
def test_the_axis_of_certificates_has_ticks_in_plain_numbers(rows, seconds):
    for row, s in zip(rows, seconds):
        for m in row.measured:
            m.seconds["ibp"] = s
    drawn = spent.certifying(rows, ["a", "b"])
    texts = [text.strip() for text in ElementTree.fromstring(f"<div>{drawn}</div>").itertext()]
    numbers = [text for text in texts if re.fullmatch(r"[0-9.]+(e−[0-9]+)?", text)]
    assert "\\" not in drawn and 2 * 1 < len(numbers) < 2 * 10  # of two drawings
