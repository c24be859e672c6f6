"""The fronts of several searches, in one table and one picture."""

from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from comparisons.cli import main
from comparisons.report.fronts import check_alike, draw, table_of
from comparisons.results import trials
from comparisons.results.trials import Found, Trial

COMMITTED = Path(__file__).parents[3] / "docs" / "results" / "search" / "digits"


def found(method: str, *accuracies: tuple[float, float], front: tuple[int, ...]) -> Found:
    """A search whose trials have (clean, certified) accuracies and take 10, 11, … seconds."""
    ran = tuple(Trial(i, {"optimizer.lr": 0.1}, *pair, 10.0 + i) for i, pair in enumerate(accuracies))
    return Found("digits", method, f"{method} $a$", 8 / 255, 0.2, 3, ran, front)


IBP = found("ibp", (0.9, 0.5), (0.8, 0.6), (0.7, 0.4), front=(0, 1))
MINE = found("mine", (0.85, 0.7), front=(0,))


def test_the_table_has_a_row_a_search_the_best_first():
    lines = table_of([IBP, MINE]).splitlines()
    assert lines[0] == "## digits: the fronts of 2 searches"
    assert "ε = 8/255, seed 3." in lines[2] and "20 % of the training set" in lines[2]
    assert lines[-2] == "| mine $a$ | 1 | 70.00, 85.00 | 70.00, 85.00 | 10 |"
    assert lines[-1] == "| ibp $a$ | 3 | 60.00, 80.00 | 50.00, 90.00 | 11 |"


def test_the_picture_has_each_front_and_an_enlarged_part(tmp_path, monkeypatch):
    drawn = []

    def save(figure, path, dpi):
        for axis in figure.axes:
            lines = [[tuple(map(float, point)) for point in line.get_xydata()] for line in axis.lines]
            drawn.append((lines, axis.get_ylim()))
        drawn.append([text.get_text() for text in figure.legends[0].get_texts()])
        figure.canvas.draw()

    monkeypatch.setattr("comparisons.report.fronts.save", save)
    draw([IBP, MINE], tmp_path / "a.png")
    (whole, _), (part, (low, high)), names = drawn
    assert whole == part == [[(70, 40)], [(90, 50), (80, 60)], [], [(85, 70)]]
    assert low == 60 and 70 < high < 72
    assert names == ["ibp $a$", "mine $a$"]


def test_methods_that_no_kind_names_have_different_colours(tmp_path, monkeypatch):
    colours = []
    monkeypatch.setattr(
        "comparisons.report.fronts.save",
        lambda figure, path, dpi: colours.extend(line.get_color() for line in figure.axes[0].lines[1::2]),
    )
    draw([MINE, replace(MINE, method="other"), IBP], tmp_path / "a.png")
    assert len(set(colours)) == 3


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"recipe": "mnist"}, "recipe: digits in the search of ibp; mnist in the search of mine"),
        ({"eps": 0.25}, "ε: 8/255 in the search of ibp; 0.25 in the search of mine"),
        ({"held_out": 0.1}, "held-out part: 0.2 in the search of ibp; 0.1 in"),
        ({"seed": 0}, "seed: 3 in the search of ibp; 0 in"),
        ({"method": "ibp"}, "two searches are of ibp"),
        ({"trials": (), "front": ()}, "no trial of mine ended"),
    ],
)
def test_searches_that_differ_are_refused(change, words):
    check_alike([IBP, MINE])
    with pytest.raises(ValueError, match=words):
        check_alike([IBP, replace(MINE, **change)])


def test_the_command_writes_both_and_replaces_nothing(tmp_path, capsys):
    folders = [tmp_path / "a b", tmp_path / "c"]
    for folder, each in zip(folders, (IBP, MINE)):
        folder.mkdir()
        trials.write(folder / trials.FILE, each)
    call = ["fronts", str(folders[0]), str(folders[1] / trials.FILE), "--out", str(tmp_path / "out")]
    assert main(call) == 0
    text = (tmp_path / "out" / "fronts.md").read_text(encoding="utf-8")
    assert text == table_of([IBP, MINE]) and text in capsys.readouterr().out
    with Image.open(tmp_path / "out" / "fronts.png") as picture:
        assert picture.size[0] > 1000
    assert main(call) == 2 and "--force" in capsys.readouterr().err
    assert main([*call, "--force"]) == 0


def test_a_folder_without_a_search_is_named(tmp_path, capsys):
    assert main(["fronts", str(tmp_path)]) == 2
    assert "search.json" in capsys.readouterr().err


def test_the_committed_table_is_what_the_committed_searches_give():
    searches = [trials.read(path) for path in sorted(COMMITTED.glob(f"*/{trials.FILE}"))]
    check_alike(searches)
    assert table_of(searches) == (COMMITTED / "fronts.md").read_text(encoding="utf-8")
