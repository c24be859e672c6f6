"""Images of the page."""

import base64
import io

import numpy as np
import pytest
from pages import write_run
from PIL import Image

from comparisons.report.gathered import gather
from comparisons.report.web.gallery import MOST, gallery, png, read_points


def opened(url: str) -> np.ndarray:
    head, _, content = url.partition(",")
    assert head == "data:image/png;base64"
    with Image.open(io.BytesIO(base64.b64decode(content))) as picture:
        return np.asarray(picture)


def points(broken: list[bool], shape=(1, 2, 2), eps: float = 0.1) -> dict:
    n = len(broken)
    x = np.full((n, *shape), 0.5, np.float32)
    adversarial = x + eps * np.reshape(broken, (n, *[1] * len(shape))).astype(np.float32)
    by = np.where(broken, "pgd", "")
    return {"sample": np.arange(n), "x": x, "adversarial": adversarial, "eps": np.full(n, eps), "by": by}


def test_an_image_is_the_same_image():
    pixels = np.random.default_rng(0).random((3, 5, 4))
    assert (opened(png(pixels)) == np.round(255 * np.moveaxis(pixels, 0, -1))).all()
    assert opened(png(pixels[:1])).shape == (5, 4)
    assert opened(png(np.array([[[-1.0, 2.0, np.nan]]]))).tolist() == [[0, 255, 0]]


def test_a_broken_image_has_the_adversarial_one_and_their_difference():
    kept, hit = gallery(points([False, True]), None)
    assert (kept.adversarial, kept.difference, kept.by) == (None, None, "")
    assert opened(kept.image).tolist() == opened(hit.image).tolist() == [[128, 128]] * 2
    assert opened(hit.adversarial).tolist() == [[153, 153]] * 2 and opened(hit.difference).tolist() == [[255, 255]] * 2
    assert (hit.sample, hit.label, hit.radius, hit.by, hit.eps) == (1, None, None, "PGD", "0.1")


@pytest.mark.parametrize(("broken", "kept"), [(0, 20), (20, 0), (2, 20), (20, 2), (20, 20)])
def test_half_of_the_images_are_broken_if_there_are_so_many(broken, kept):
    found = gallery(points([True] * broken + [False] * kept), None)
    assert len(found) == MOST
    hit = sum(shown.adversarial is not None for shown in found)
    assert hit == min(broken, max(MOST // 2, MOST - kept)) and [s.sample for s in found] == sorted(
        s.sample for s in found
    )


def test_labels_and_radii_come_from_the_samples_file(tmp_path):
    (run,) = gather([write_run(tmp_path)])
    frame = run.samples("ibp").frame
    for shown in gallery(read_points(run.points("ibp")), frame):
        row = frame[frame["sample"] == shown.sample].iloc[0]
        assert shown.label == row["label"] and shown.radius == f"{row['radius_best']:.4g}"
        assert (shown.adversarial is not None) == (row["broken_eps"] <= 0.1)


@pytest.mark.parametrize(
    "change",
    [
        {"eps": np.zeros(3)},
        {"adversarial": np.zeros((2, 1, 2, 3), np.float32)},
        {"x": np.zeros((2, 2, 2, 2), np.float32), "adversarial": np.zeros((2, 2, 2, 2), np.float32)},
        {"x": np.zeros((2, 1, 2, 2), int)},
    ],
    ids=["lengths", "shapes", "channels", "type"],
)
def test_arrays_that_do_not_fit_are_refused(tmp_path, change):
    np.savez(tmp_path / "a.npz", **points([False, True]) | change)
    with pytest.raises(ValueError, match="a.npz is not a file of points of linf-compare"):
        read_points(tmp_path / "a.npz")
