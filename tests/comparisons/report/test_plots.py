"""Pictures: panels, bands, axes, and labels that never cover each other."""

import itertools
import random

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text
from PIL import Image
from runs import DOCS, made_up

from comparisons.methods.kinds import METHODS
from comparisons.report import page, plots, published
from comparisons.report.labels import MOST_LETTERS, short, spread
from comparisons.report.panels import panels_of
from comparisons.results.file import from_plain, read
from comparisons.results.schema import NO_RECIPE
from comparisons.studies.bench_picture import PEER_LOOKS

SEEDS = sorted((DOCS / "recipes").rglob("*.json"))
PICTURES = sorted(DOCS.rglob("*.png"))


def run(clean: dict[str, float], **change):
    return from_plain(made_up(clean, **change))


@pytest.fixture
def drawn(monkeypatch):
    """The figures, instead of files."""
    found = []
    monkeypatch.setattr(plots, "save", lambda figure, path, dpi: found.append(figure))
    return found


def labels(axis) -> list:
    return [text for text in axis.texts if text.get_text() != "ε of the table"]


def assert_readable(figure) -> None:
    """No two texts of an axis overlap, no line to a label crosses another label, and all are inside the figure."""
    renderer = FigureCanvasAgg(figure).get_renderer()  # the figure was closed
    figure.draw_without_rendering()
    for axis in figure.axes:
        texts = [*axis.texts, axis._left_title]
        boxes = [Text.get_window_extent(text, renderer) for text in texts if text.get_text()]
        for (one, a), (two, b) in itertools.combinations(zip(texts, boxes), 2):
            assert not a.overlaps(b), (one, two)
        for box in boxes:
            assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= figure.bbox.width and box.y1 <= figure.bbox.height
        for one, text in enumerate(axis.texts):
            if text.arrow_patch is not None:
                line = text.arrow_patch.get_path().interpolated(50)
                points = text.arrow_patch.get_transform().transform(line.vertices)
                for two, box in enumerate(boxes[: len(axis.texts)]):
                    assert one == two or not any(box.contains(*point) for point in points), (text, axis.texts[two])


def test_labels_move_as_little_as_they_must():
    assert spread([], 1, 0, 10) == [] and spread([3.0], 1, 0, 10) == [3] and spread([1.0, 5.0], 2, 0, 10) == [1, 5]
    assert spread([5.0, 5.0], 2, 0, 10) == [4, 6] and spread([9.9, 9.9], 2, 0, 10) == [8, 10]
    assert spread([0.0, 0.0, 0.0], 10, 0, 4) == [0, 2, 4]  # too many: they share the room
    make = random.Random(0)
    for _ in range(200):
        wanted, gap = [make.choice((0, 1, 3, make.random() * 10)) for _ in range(make.randint(1, 7))], make.random()
        found = spread(wanted, gap, 0, 10)
        order = sorted(range(len(wanted)), key=lambda i: (wanted[i], i))
        placed = [found[i] for i in order]
        assert all(b - a >= gap - 1e-9 for a, b in itertools.pairwise(placed))
        assert -1e-9 <= min(found) and max(found) <= 10 + 1e-9
        cost = sum((a - b) ** 2 for a, b in zip(found, wanted))
        for _ in range(20):  # no allowed placement near it is better
            other = sorted(f + make.gauss(0, 0.2) for f in placed)
            if other[0] >= 0 and other[-1] <= 10 and all(b - a >= gap for a, b in itertools.pairwise(other)):
                assert sum((a - wanted[i]) ** 2 for a, i in zip(other, order)) >= cost - 1e-9


def test_a_long_label_keeps_its_two_ends():
    assert short("IBP") == "IBP"
    text = short("a/very/long/path/of/some/file.py:function (rounding not covered)")
    assert len(text) == MOST_LETTERS and text.startswith("a/very") and text.endswith("(rounding not covered)")


def test_seeds_of_a_recipe_are_one_panel():
    first, second = run({"ibp": 0.9, "linf-dist": 0.8}), run({"ibp": 0.7}, seed=1)
    (panel,) = panels_of([first, second])
    assert {name: list(of_seed) for name, of_seed in panel.lines.items()} == {"ibp": [0, 1], "linf-dist": [0]}
    assert panel.title == "digits: r" and panel.subtitle == "10000 test images, seeds 0, 1"
    others = [
        run({"ibp": 0.7}, seed=1, recipe="other"),
        run({"ibp": 0.7}, seed=1, changed=["epochs = 5"]),
        run({"ibp": 0.7}, seed=1, eps=0.5),
        run({"ibp": 0.7}, seed=1, held_out=0.2),
        run({"ibp": 0.7}, seed=1, method={"data": {"train_data_sha256": "a", "test_data_sha256": "b"}}),
        run({"ibp": 0.7}, seed=1, method={"identity": {"seed": 1, "settings": "others"}}),
    ]
    for other in others:
        assert len(panels_of([first, other])) == 2
    assert panels_of([others[1]])[0].title == "digits: r with epochs = 5"
    given = [run({"a": 0.9}, recipe=NO_RECIPE), run({"b": 0.9}, recipe=NO_RECIPE)]
    assert [panel.title for panel in panels_of(given)] == ["digits: given nets"] * 2


def test_a_band_reaches_from_the_least_to_the_largest_and_the_line_is_the_mean(drawn):
    plots.certified_against_eps([run({"ibp": c}, seed=i) for i, c in enumerate((0.9, 0.5, 0.7))], "a.png")
    (axis,), (legend,) = drawn[0].axes, drawn[0].legends
    assert list(axis.lines[0].get_ydata()) == pytest.approx([70, 50])
    (band,) = axis.collections
    assert np.ptp(band.get_paths()[0].vertices[:, 1]) == pytest.approx(60)  # 90 % clean to 30 % certified
    words = [text.get_text() for text in legend.get_texts()]
    assert words == ["certified (mean over seeds)", "under PGD attack", "least to largest over seeds"]
    assert axis.get_title("left").endswith("seeds 0, 1, 2")


def test_one_seed_has_no_band(drawn):
    plots.certified_against_eps([run({"ibp": 0.9})], "a.png")
    (axis,), (legend,) = drawn[0].axes, drawn[0].legends
    assert not axis.collections and [t.get_text() for t in legend.get_texts()] == ["certified", "under PGD attack"]


def test_a_line_with_fewer_seeds_than_its_panel_says_so(drawn):
    plots.certified_against_eps([run({"ibp": 0.9, "linf-dist": 0.8}), run({"ibp": 0.7}, seed=1)], "a.png")
    assert [t.get_text() for t in labels(drawn[0].axes[0])] == ["IBP", "ℓ∞-dist net (seed 0)"]


@pytest.mark.parametrize(("clean", "low", "high"), ((0.98, 76, 99.5), (0.3, 8.9, 31.5), (1.0, 78, 100.5)))
def test_axes_start_where_the_data_are(drawn, clean, low, high):
    plots.certified_against_eps([run({"ibp": clean})], "a.png")
    (axis,) = drawn[0].axes
    bottom, top = axis.get_ylim()
    assert low <= bottom < 100 * (clean - 0.2) and 100 * clean < top <= high
    left, right = axis.get_xlim()
    assert -0.02 < left < 0 and 0.25 < right < 0.27


def test_coinciding_lines_have_labels_apart(drawn):
    """Seven methods with nearly one accuracy, two of which have names that TeX or a legend would read otherwise."""
    names = ("ibp", "linf-dist", "a$b$", "_hidden", "x" * 70, "e", "f")
    plots.certified_against_eps([run({name: 0.9 + i / 1e4 for i, name in enumerate(names)})], "a.png")
    assert len(labels(drawn[0].axes[0])) == 7
    assert_readable(drawn[0])


def test_one_eps_of_zero_is_drawn(drawn):
    plots.certified_against_eps([run({"ibp": 0.9}, eps=0.0)], "a.png")
    assert_readable(drawn[0])


def test_panels_stand_two_in_a_row_and_those_of_committed_results_are_readable(drawn):
    runs = [read(path) for path in (*SEEDS, *sorted((DOCS / "digits").glob("seed-*")), DOCS / "mnist-tiny")]
    plots.certified_against_eps(runs, "a.png")
    (figure,) = drawn
    shown = {(r.dataset, r.recipe) for r in runs}
    assert len(figure.axes) == len(shown) > 2 and figure.axes[0].get_subplotspec().get_gridspec().ncols == 2
    assert_readable(figure)


def test_published_levels_have_their_names_and_ours_their_recipes(drawn):
    groups, _ = page.collect(page.result_files([DOCS / "recipes", DOCS / "mnist-tiny"]))
    panels = page.panels(groups, published.load())
    plots.beside_published(panels, "a.png")
    (figure,) = drawn
    assert_readable(figure)
    for axis, panel in zip(figure.axes[1::2], panels):
        texts = [text.get_text() for text in axis.texts]
        levels = [f"{row['certified']:.1f} {row['label']}" for row in panel["published"]]
        assert len(set(levels)) == len(levels) and texts[: len(levels)] == levels
        assert texts[len(levels) :] == [ours["recipe"] for ours in panel["ours"]]
        assert axis.get_xlabel() == "minutes of training (CPU)"
    marks = {}
    for line in (
        line for axis in figure.axes[::2] for line in axis.lines if line.get_marker() not in ("|", "_", "None")
    ):
        if line.get_markerfacecolor() != "white":
            marks.setdefault(line.get_marker(), set()).add(line.get_color())
    kinds = {ours["kind"] for panel in panels for ours in panel["ours"]}
    assert set(marks) == {METHODS[kind].marker for kind in kinds}
    assert all(len(colors) == 1 for colors in marks.values())


def test_peers_have_marks_of_their_own():
    assert len({marker for _, marker in PEER_LOOKS.values()}) == len(PEER_LOOKS)


@pytest.mark.parametrize("path", PICTURES, ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_committed_pictures_are_small_and_white_behind(path):
    assert path.stat().st_size < 300_000
    with Image.open(path) as picture:
        assert "transparency" not in picture.info
        corner = picture.convert("RGBA").getpixel((0, 0))
        assert picture.width < 1800 and corner == (255, 255, 255, 255)  # readable on a dark page
