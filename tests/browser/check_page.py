"""What only a browser can tell of the page: at the width of a phone and of a desk, in both themes.

``make test-browser`` names this file: pytest finds it in no other way.
"""

import re

import pytest
from pages import write_run
from PIL import Image

from browser import chromium
from browser.__main__ import THEMES, WIDTHS, shots
from comparisons.report.gathered import gather
from comparisons.report.web.colours import PALETTE
from comparisons.report.web.document import document

NAMES = {
    "ibp": None,
    "linf-dist": "<script>alert(1)</script>",
    "crown-ibp": "A method with a rather long label & more, wide 512",
    "sortnet": None,
    "mine": "_hidden $x^2$",
    "a": "x" * 60,
    "linf-dist-v2": None,
    "b": "CROWN-IBP with loss fusion",
}
LEAST_TEXT = 10.5  # CSS pixels of the smallest text of a figure

LOOK = """
const root = document.documentElement, tables = [...document.querySelectorAll("table.sortable")];
const shown = (e) => e.getClientRects().length > 0;
const figures = [...document.querySelectorAll("figure svg")].filter(shown);
function size(text) {
  const { a, b } = text.getScreenCTM();
  return parseFloat(getComputedStyle(text).fontSize) * Math.hypot(a, b);
}
function covered(svg) {
  const texts = [...svg.querySelectorAll("text")].map((e) => [e.textContent, e.getBoundingClientRect()]);
  const found = [];
  texts.forEach(([one, a], i) => texts.slice(i + 1).forEach(([two, b]) => {
    const across = Math.min(a.right, b.right) - Math.max(a.left, b.left);
    const down = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
    if (across > 2 && down > 4) found.push([svg.querySelector("title").textContent, one, two]);
  }));
  return found;
}
function outside(svg) {
  const box = svg.getBoundingClientRect();
  return [...svg.querySelectorAll("text")].filter((e) => {
    const b = e.getBoundingClientRect();
    return b.left < box.left - 1 || b.right > box.right + 1 || b.top < box.top - 1 || b.bottom > box.bottom + 1;
  }).map((e) => e.textContent);
}
const first = () => [...tables[0].tBodies[0].rows].map((row) => row.cells[0].textContent);
const header = [...tables[0].tHead.rows[0].cells];
const column = header.findIndex((cell) => cell.textContent === "certified %");
const values = () => [...tables[0].tBodies[0].rows].map((row) => parseFloat(row.cells[column].dataset.value));
const sorted = () => header.map((cell) => cell.getAttribute("aria-sort"));
const background = () => getComputedStyle(root).backgroundColor;
const before = { order: first(), background: background(), button: document.getElementById("theme").textContent };
const layout = { width: innerWidth, content: root.scrollWidth, figures: figures.length,
  wide: figures.filter((svg) => svg.closest(".wide")).length,
  least: Math.min(...figures.flatMap((svg) => [...svg.querySelectorAll("text")].map(size))),
  covered: figures.flatMap(covered), outside: figures.flatMap(outside) };
header[column].firstElementChild.focus();
const focused = document.activeElement === header[column].firstElementChild;
header[column].firstElementChild.click();
const down = { values: values(), sorted: sorted() };
header[column].firstElementChild.click();
const up = { values: values(), sorted: sorted() };
header[0].firstElementChild.click();
const byName = { order: first(), sorted: sorted() };
document.getElementById("theme").click();
const other = { background: background(), button: document.getElementById("theme").textContent };
const fill = getComputedStyle(figures[0].querySelector("text")).fill;
return { before, ...layout, focused, column, down, up, byName, other, fill };
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    for seed in (0, 1):
        write_run(folder / f"seed-{seed}", NAMES, seed=seed)
    file = folder / "report.html"
    file.write_text(document(gather([folder])), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with chromium.running(tmp_path_factory.mktemp("chromium")) as found:
        yield found


@pytest.fixture(scope="module", params=[(w, t) for w in WIDTHS for t in THEMES], ids=lambda p: f"{p[0]}-{p[1]}")
def seen(request, page, browser):
    """(width, theme, what ``LOOK`` found, with faults and addresses)."""
    width, theme = request.param
    browser.open(page, width=width, dark=theme == "dark")
    found = browser.run(LOOK)
    return width, theme, found | {"faults": browser.faults, "loaded": browser.loaded}


def test_the_console_is_silent_and_nothing_is_loaded(seen, page):
    *_, found = seen
    assert found["faults"] == [] and found["loaded"] == [page.as_uri()]


def test_only_tables_scroll_sideways(seen):
    width, _, found = seen
    assert found["width"] == width and found["content"] <= width


def test_each_figure_is_shown_once_in_the_drawing_for_the_width(seen):
    width, _, found = seen
    assert found["figures"] == 6 and found["wide"] == (6 if width == 1400 else 0)


def test_texts_of_figures_are_large_enough_apart_and_inside(seen):
    *_, found = seen
    assert found["least"] >= LEAST_TEXT and found["covered"] == [] and found["outside"] == []


def test_a_click_on_a_header_sorts(seen):
    *_, found = seen
    column, down, up = found["column"], found["down"], found["up"]
    assert found["focused"] and len(down["values"]) == len(NAMES)
    assert down["values"] == sorted(down["values"], reverse=True) and up["values"] == sorted(up["values"])
    others = [None] * (len(down["sorted"]) - 1)
    assert down["sorted"] == [*others[:column], "descending", *others[column:]]
    assert up["sorted"] == [*others[:column], "ascending", *others[column:]]
    by_name = found["byName"]
    assert sorted(by_name["order"]) == sorted(found["before"]["order"]) and by_name["sorted"][0] == "ascending"
    assert by_name["order"] != found["before"]["order"] and set(by_name["sorted"][1:]) == {None}


def test_the_theme_is_that_of_the_system_until_the_button_changes_it(seen):
    _, theme, found = seen
    here, there = THEMES.index(theme), 1 - THEMES.index(theme)
    assert found["before"]["background"] == rgb(PALETTE["page"][here]) and found["fill"] == rgb(PALETTE["ink"][there])
    assert found["before"]["button"] == f"{THEMES[there].capitalize()} theme"
    assert found["other"]["background"] == rgb(PALETTE["page"][there]) != found["before"]["background"]
    assert found["other"]["button"] == f"{THEMES[here].capitalize()} theme"


def rgb(color: str) -> str:
    return f"rgb({', '.join(str(int(part, 16)) for part in re.findall('..', color[1:]))})"


def test_faults_would_be_seen(page, browser, tmp_path):
    """A page with an error, a script of others and a wide element fails the checks above."""
    bad, other = tmp_path / "bad.html", "https://example.org/a.js"
    wrong = f'<div style="width: 2000px">a</div><script src="{other}"></script><script>nothing()</script>'
    bad.write_text(page.read_text(encoding="utf-8").replace("</main>", wrong + "</main>"), encoding="utf-8")
    browser.open(bad, width=375, dark=False)
    assert browser.run(LOOK)["content"] > 375
    assert any("nothing is not defined" in fault for fault in browser.faults)
    assert any("Content Security Policy" in fault and other in fault for fault in browser.faults)


def test_pictures_of_the_page_are_written(page, tmp_path):
    paths = shots(page, tmp_path / "shots")
    assert [path.name for path in paths] == ["375-light.png", "375-dark.png", "1400-light.png", "1400-dark.png"]
    corners = []
    for path, width in zip(paths, (375, 375, 1400, 1400)):
        with Image.open(path) as picture:
            assert picture.width == width and picture.height > 3000
            corners.append(picture.convert("RGB").getpixel((2, picture.height - 2)))
    assert corners == [(255, 255, 255), (20, 23, 27)] * 2


def test_without_chromium_the_test_fails_and_names_the_package(monkeypatch):
    monkeypatch.setattr(chromium.shutil, "which", lambda name: None)
    with pytest.raises(pytest.fail.Exception, match="apt-get install chromium"):
        chromium.program()
