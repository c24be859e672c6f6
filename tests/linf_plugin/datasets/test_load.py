"""What ``load_dataset`` takes: known names, paths, arrays; and the names of data."""

import numpy as np
import pytest
from PIL import Image

from linf_plugin.datasets import load_dataset

X, Y = np.random.default_rng(0).random((6, 3)), np.arange(6) % 2


def test_arrays_are_taken():
    one, both = load_dataset((X, Y), own_name="rows"), load_dataset((X, Y, X[:2], Y[:2]), own_name="rows")
    assert (len(one.x_train), len(one.x_test), len(both.x_train), len(both.x_test)) == (0, 6, 6, 2)
    assert one.digests[1] == both.digests[0] and one.name == both.name == "rows"


@pytest.mark.parametrize(
    "data, options, error, names",
    (
        ((X, Y), {}, ValueError, "own_name is needed for arrays"),
        ((X,), {"own_name": "a"}, ValueError, r"data must be \(x, y\) or \(x, y, x_test, y_test\), got 1 parts"),
        ((X, Y, X), {"own_name": "a"}, ValueError, "got 3 parts"),
        ((X, Y), {"own_name": "mnist"}, ValueError, "own_name must be one line, and none of digits"),
        (X, {"own_name": "a"}, TypeError, "data must be a name, a path or a tuple of arrays, got ndarray"),
        (None, {}, TypeError, "data must be a name, .* got NoneType"),
        ("imagenet", {}, ValueError, "data must be one of digits, .* the path of an .npz file, or .* got 'imagenet'"),
        ("gone.npz", {}, FileNotFoundError, "gone.npz does not exist"),
        ("a\0.npz", {}, FileNotFoundError, "does not exist"),
        (9000 * "a", {}, ValueError, "data must be one of digits"),
    ),
    ids=("unnamed", "one", "three", "known-name", "array", "none", "unknown", "missing", "nul", "long"),
)
def test_mistakes_are_named(data, options, error, names):
    with pytest.raises(error, match=names):
        load_dataset(data, **options)


def test_other_files_are_refused(tmp_path):
    np.save(tmp_path / "x.npy", X)
    with pytest.raises(ValueError, match="data must be one of digits, .*x.npy"):
        load_dataset(tmp_path / "x.npy")


def test_a_folder_for_known_data_says_nothing_about_own_data(tmp_path):
    np.savez(tmp_path / "mine.npz", x=X, y=Y)
    with pytest.raises(ValueError, match="data_dir is only for digits, mnist"):
        load_dataset(tmp_path / "mine.npz", tmp_path)


def test_own_data_never_get_a_known_name(tmp_path, monkeypatch):
    """A known name is never a path.  A folder of that name needs another name for its data."""
    for label in "ab":
        (tmp_path / "digits" / label).mkdir(parents=True)
        Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "digits" / label / "0.png")
    monkeypatch.chdir(tmp_path)
    assert load_dataset("digits").shape == (1, 8, 8)
    with pytest.raises(ValueError, match="own_name is needed for digits, because 'digits' is no name of own data"):
        load_dataset("./digits")
    assert load_dataset("./digits", own_name="my digits").shape == (1, 4, 4)
    monkeypatch.chdir(tmp_path / "digits" / "a")
    with pytest.raises(ValueError, match="own_name is needed for .*, because 'digits'"):
        load_dataset("..")
