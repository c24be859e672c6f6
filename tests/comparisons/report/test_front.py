"""The table and the picture of what a search found."""

from dataclasses import replace

import pytest
from PIL import Image

from comparisons.report.front import draw, table_of
from comparisons.results.trials import Found, Trial

FOUND = Found(
    recipe="digits",
    method="ibp",
    label="IBP $a$",
    eps=8 / 255,
    held_out=0.1,
    seed=3,
    trials=(
        Trial(0, {"optimizer.lr": 1e-3, "loss.kappa": 0.5}, 0.9, 0.5, 12.4),
        Trial(2, {"optimizer.lr": 3.7123e-05, "loss.kappa": 0.0}, 0.8, 0.6, 11.0),
        Trial(3, {"optimizer.lr": 2e-3, "loss.kappa": 1.0}, 0.7, 0.4, 10.0),
    ),
    front=(0, 2),
    failed=2,
)


def test_the_table_has_the_front_with_its_settings():
    assert table_of(FOUND) == (
        "## IBP $a$: the front of 3 trials\n\n"
        "Recipe `digits`, ε = 8/255, seed 3. Accuracies are percent of held-out images: 10 % of the training set. No "
        "trial saw the test set. Trial 0 has the settings of the recipe. 2 more failed.\n\n"
        "| trial | clean | certified | seconds | optimizer.lr | loss.kappa |\n"
        "| --- | ---: | ---: | ---: | ---: | ---: |\n"
        "| 2 | 80.00 | 60.00 | 11 | 3.712e-05 | 0 |\n"
        "| 0 | 90.00 | 50.00 | 12 | 0.001 | 0.5 |\n"
    )


def test_the_table_of_one_trial():
    text = table_of(replace(FOUND, trials=FOUND.trials[:1], front=(0,), failed=0))
    assert "the front of 1 trial\n" in text and "failed" not in text and text.count("\n| ") == 3


@pytest.mark.parametrize("number", [1, 3])
def test_the_picture_shows_all_trials(number, tmp_path, monkeypatch):
    """And the settings of the recipe, if that trial did not fail."""
    drawn = {}

    def save(figure, path, dpi):
        (axis,) = figure.axes
        for line in axis.lines:
            drawn[line.get_label()] = [tuple(map(float, point)) for point in line.get_xydata()]
        drawn["texts"] = [text.get_text() for text in axis.texts]
        drawn["words"] = axis.get_xlabel(), axis.get_ylabel(), axis.get_title("left")
        figure.canvas.draw()

    monkeypatch.setattr("comparisons.report.front.save", save)
    found = FOUND if number == 3 else replace(FOUND, trials=FOUND.trials[1:2], front=(2,))
    draw(found, tmp_path / "a.png")
    assert drawn["front"] == ([(80, 60), (90, 50)] if number == 3 else [(80, 60)])
    assert drawn["trial"] == ([(70, 40)] if number == 3 else [])
    assert drawn["settings of the recipe"] == ([(90, 50)] if number == 3 else [])
    assert drawn["texts"] == (["2", "0"] if number == 3 else ["2"])
    x, y, title = drawn["words"]
    assert (x, y) == ("clean accuracy (%)", "certified accuracy at ε = 8/255 (%)") and "IBP $a$" in title


def test_the_picture_is_a_png(tmp_path):
    draw(FOUND, tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.size[0] > 500
