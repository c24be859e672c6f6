"""Data sets of arrays: which forms are taken, and that each mistake is named."""

import re

import numpy as np
import pytest
import torch

from linf_plugin.datasets import from_arrays
from linf_plugin.datasets.arrays import MOST_CLASSES

RNG = np.random.default_rng(0)
Y = np.array([0, 1, 2, 0, 1])
ROWS = RNG.random((5, 7))


def images(*shape: int) -> np.ndarray:
    return RNG.integers(0, 256, (5, *shape), dtype=np.uint8)


def of(x, y=Y, **test):
    return from_arrays(x, y, **test, name="mine")


@pytest.mark.parametrize(
    "given, axes",
    (
        ((3, 8, 6), (0, 1, 2, 3)),
        ((8, 6, 3), (0, 3, 1, 2)),
        ((8, 6, 1), (0, 3, 1, 2)),
        ((1, 8, 6), (0, 1, 2, 3)),
        ((13, 8, 6), (0, 1, 2, 3)),  # thirteen channels
        ((8, 6, 13), (0, 1, 2, 3)),  # nothing tells that the last axis has channels
        ((16, 3, 3), (0, 1, 2, 3)),  # sixteen channels of 3×3 pixels
        ((3, 8, 3), (0, 1, 2, 3)),
        ((4, 4, 1), (0, 3, 1, 2)),
    ),
    ids=str,
)
def test_images_get_their_channels_first(given, axes):
    x = images(*given)
    data = of(x)
    assert torch.equal(data.x_test, torch.tensor(x.transpose(axes)).float() / 255)
    assert data.things == "images" and data.x_test.is_contiguous()


def test_grey_images_get_one_channel():
    x = images(8, 6)
    assert torch.equal(of(x).x_test, torch.tensor(x)[:, None].float() / 255)


def test_rows_of_numbers_stay_rows():
    data = of(ROWS)
    assert torch.equal(data.x_test, torch.tensor(ROWS).float())
    assert (data.shape, data.classes, data.things, data.name) == ((7,), 3, "samples", "mine")


@pytest.mark.parametrize("dtype", ("float16", "float32", "float64", ">f8", ">f4", "longdouble"))
def test_every_floating_point_type_is_taken(dtype):
    x = ROWS.astype(dtype)
    assert torch.equal(of(x).x_test, torch.tensor(x.astype(np.float32)))


@pytest.mark.parametrize("dtype", ("int8", "uint8", "int32", ">i8", "uint64"))
def test_every_integer_type_of_labels_is_taken(dtype):
    y = of(ROWS, Y.astype(dtype)).y_test
    assert y.dtype == torch.int64 and y.tolist() == Y.tolist()


def test_tensors_are_taken_and_not_changed():
    x = torch.rand(5, 1, 4, 4, requires_grad=True)
    before = x.clone()
    data = of(x, torch.tensor(Y))
    data.x_test[:] = 0
    assert torch.equal(x, before) and of(x.bfloat16(), torch.tensor(Y)).x_test.dtype == torch.float32


def test_arrays_that_cannot_be_written_are_taken():
    x = images(4, 4)
    x.flags.writeable = False
    of(x[:, ::2, ::-1])
    assert of(np.asfortranarray(x)).digests == of(x).digests


def test_what_the_scaler_of_scikit_learn_gives_is_taken():
    """Its largest value can be one rounding above 1 in float64."""
    x = ROWS.copy()
    x[2, 3] = np.nextafter(1, 2)
    assert of(x).x_test.max() == 1


def test_without_a_test_part_everything_is_tested_and_nothing_trained():
    data = of(ROWS)
    assert len(data.x_test) == 5 and data.x_train.shape == (0, 7) and data.y_train.shape == (0,)
    assert (data.mean, data.std) == ((0.0,), 1.0)
    assert len(set(data.digests)) == 2 and data.digests[0] == of(ROWS[:3], Y[:3]).digests[0]
    assert of(ROWS[:1], Y[:1]).classes == 1  # one sample can be certified


def test_with_a_test_part_mean_and_std_are_those_of_training():
    data = of(ROWS, x_test=ROWS[:2] / 2, y_test=Y[:2])
    mean = ROWS.mean(0)
    assert data.mean == pytest.approx(mean, abs=1e-4) and len(data.mean) == 7
    assert data.std == pytest.approx(np.sqrt(((ROWS - mean) ** 2).mean()), rel=1e-3)
    assert torch.equal(data.x_test, torch.tensor(ROWS[:2] / 2).float())


NAN, LARGE, NEGATIVE = ROWS.copy(), 17 * ROWS, ROWS - 0.5
NAN[3, 2] = np.nan
WRONG = {  # arrays, and what the message says
    "float-labels": ((ROWS, Y.astype(float)), "y must hold integers, .* got float64"),
    "bool-labels": ((ROWS, Y > 0), "y must hold integers, .* got bool"),
    "words": ((ROWS, np.array(list("abcab"))), "y must hold integers, .* got <U1"),
    "one-hot": ((ROWS, np.eye(5, dtype=int)), r"y must have the shape \(N,\), .* got \(5, 5\)"),
    "negative": ((ROWS, Y - 1), "y must hold classes numbered from 0, has the label -1"),
    "too-many": ((ROWS, Y + MOST_CLASSES), "y must hold labels below 100,000, has the label 100002"),
    "unequal": ((ROWS, Y[:4]), "x has 5 samples but y has 4 labels"),
    "empty": ((ROWS[:0], Y[:0]), r"x is empty: it has the shape \(0, 7\)"),
    "no-columns": ((ROWS[:, :0], Y), r"x is empty: it has the shape \(5, 0\)"),
    "one-axis": ((ROWS[:, 0], Y), r"x must have the shape \(N, C, H, W\) .* got \(5,\)"),
    "five-axes": ((images(1, 2, 3, 4), Y), r"x must have the shape .* got \(5, 1, 2, 3, 4\)"),
    "int64": ((images(4, 4).astype(int), Y), "x must be uint8 from 0 to 255 or floating point from 0 to 1, got int64"),
    "objects": ((ROWS.astype(object), Y), "x must be uint8 .* got object"),
    "complex": ((ROWS.astype(complex), Y), "x must be uint8 .* got complex128"),
    "nan": ((NAN, Y), "x must not hold NaN, but its sample 3 does"),
    "large-rows": ((LARGE, Y), r"x must lie in \[0, 1\], has values from .*: scale each column by its smallest and la"),
    "negative-rows": ((NEGATIVE, Y), r"x must lie in \[0, 1\], has values from -0.4"),
    "infinite": ((ROWS + np.inf, Y), r"x must lie in \[0, 1\], has values from inf to inf"),
    "beyond-float32": ((ROWS * 1e300, Y), r"x must lie in \[0, 1\]"),
    "large-images": ((images(4, 4) / 1.0, Y), r"x must lie in \[0, 1\], .*: divide by the largest value that a pixel"),
}


@pytest.mark.parametrize("arrays, names", WRONG.values(), ids=WRONG)
def test_mistakes_are_named(arrays, names):
    with pytest.raises(ValueError, match=f"^{names}"):
        of(*arrays)
    with pytest.raises(ValueError, match=re.sub(r"\b([xy]) ", r"\1_test ", f"^{names}")):
        of(ROWS, x_test=arrays[0], y_test=arrays[1])


def test_parts_must_fit_each_other():
    with pytest.raises(ValueError, match=r"mine: training samples have the shape \(7,\) but test samples \(6,\)"):
        of(ROWS, x_test=ROWS[:, 1:], y_test=Y)
    with pytest.raises(ValueError, match="x_test and y_test must be given together"):
        of(ROWS, x_test=ROWS)


def test_equal_samples_cannot_be_normalised():
    same = np.full((5, 7), 0.1)
    with pytest.raises(ValueError, match="mine: all samples are equal"):
        of(same, x_test=ROWS, y_test=Y)
    assert of(same).std == 1


@pytest.mark.parametrize("x", ([[0.5]], None, "x.npz", 3))
def test_what_is_no_array_is_named(x):
    with pytest.raises(TypeError, match="x must be an array or a tensor, got "):
        of(x)
