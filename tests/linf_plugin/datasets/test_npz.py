"""Data sets of .npz files: what is written is read, and a damaged or hostile file is named and does nothing."""

import io
import zipfile
import zlib

import numpy as np
import pytest
import torch

from linf_plugin.datasets import from_arrays, load_dataset

RNG = np.random.default_rng(0)
X, Y = RNG.integers(0, 256, (20, 8, 6), dtype=np.uint8), np.arange(20) % 4
ROWS = RNG.random((20, 5))


@pytest.mark.parametrize("save", (np.savez, np.savez_compressed))
@pytest.mark.parametrize("suffix", ("", "_train"))
def test_both_parts_are_read(save, suffix, tmp_path):
    path = tmp_path / "mine.npz"
    save(path, **{f"x{suffix}": X[5:], f"y{suffix}": Y[5:]}, x_test=X[:5], y_test=Y[:5], names=np.array(["a", "b"]))
    data = load_dataset(path)
    assert data.name == "mine.npz" and data.shape == (1, 8, 6) and data.classes == 4
    assert torch.equal(torch.cat([data.x_test, data.x_train]), torch.tensor(X)[:, None].float() / 255)
    assert torch.cat([data.y_test, data.y_train]).tolist() == Y.tolist()
    assert load_dataset(str(path), own_name="another").digests == data.digests


def test_one_part_is_for_tests(tmp_path):
    np.savez(tmp_path / "mine.npz", x=ROWS.astype(np.float32), y=Y.astype(np.uint8))
    data = load_dataset(tmp_path / "mine.npz", own_name="rows")
    assert data.name == "rows" and len(data.x_train) == 0
    assert torch.equal(data.x_test, torch.tensor(ROWS).float()) and data.y_test.tolist() == Y.tolist()


def test_the_order_of_axes_in_the_file_does_not_matter(tmp_path):
    np.savez(tmp_path / "c.npz", x=ROWS, y=Y)
    np.savez(tmp_path / "f.npz", x=np.asfortranarray(ROWS), y=Y)
    assert load_dataset(tmp_path / "c.npz").digests == load_dataset(tmp_path / "f.npz").digests


class Harm:
    """A pickle that makes a folder when it is read."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        import os

        return os.mkdir, (self.path,)


def objects(folder) -> np.ndarray:
    found = np.empty(20, object)
    found[:] = [Harm(folder / "harm")] * 20
    return found


ARRAYS = {  # arrays of the file, and what the message says after the name of the file or of the array
    "no-labels": (dict(x=X), r"mine.npz lacks y or y_train; it has \['x'\]"),
    "no-samples": (dict(y=Y), "mine.npz lacks x or x_train; it has"),
    "other-keys": (dict(images=X, labels=Y), r"mine.npz lacks x or x_train; it has \['images', 'labels'\]"),
    "nothing": ({}, r"mine.npz lacks x or x_train; it has \[\]"),
    "no-test-labels": (dict(x=X, y=Y, x_test=X), "mine.npz lacks y_test; it has"),
    "no-test-samples": (dict(x=X, y=Y, y_test=Y), "mine.npz lacks x_test; it has"),
    "twice": (dict(x=X, x_train=X, y=Y), "mine.npz has both x and x_train"),
    "unequal": (dict(x=X, y=Y[1:]), "x of .*mine.npz has 20 samples but y of .*mine.npz has 19 labels"),
    "synonym": (dict(x_train=X, y_train=Y - 3), "y_train of .*mine.npz must hold classes numbered from 0, .* -3"),
    "floats": (dict(x=X, y=Y / 1), "y of .*mine.npz must hold integers"),
    "negative": (dict(x=X, y=Y - 1), "y of .*mine.npz must hold classes numbered from 0, has the label -1"),
    "large": (dict(x=X, y=Y + 10**6), "y of .*mine.npz must hold labels below 100,000, has the label 1000003"),
    "nan": (dict(x=ROWS * np.nan, y=Y), "x of .*mine.npz must not hold NaN, but its sample 0 does"),
    "range": (dict(x=ROWS * 9, y=Y), r"x of .*mine.npz must lie in \[0, 1\], has values from"),
    "test-range": (dict(x=X, y=Y, x_test=X / 1, y_test=Y), r"x_test of .*mine.npz must lie in \[0, 1\]"),
    "empty": (dict(x=X[:0], y=Y[:0]), "x of .*mine.npz is empty"),
    "unlike": (
        dict(x=X, y=Y, x_test=ROWS, y_test=Y),
        r"mine.npz: training samples have the shape \(1, 8, 6\) but test",
    ),
    "structured": (dict(x=np.zeros(20, "f4,f4"), y=Y), "x of .*mine.npz must be uint8"),
}


@pytest.mark.parametrize("arrays, names", ARRAYS.values(), ids=ARRAYS)
def test_mistakes_name_the_file_and_the_array(arrays, names, tmp_path):
    np.savez(tmp_path / "mine.npz", **arrays)
    with pytest.raises(ValueError, match=names) as error:
        load_dataset(tmp_path / "mine.npz")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("key", ("x", "y", "x_test"))
def test_objects_are_not_read(key, tmp_path):
    arrays = dict(x=X, y=Y, x_test=X, y_test=Y) | {key: objects(tmp_path)}
    np.savez(tmp_path / "mine.npz", **arrays)
    with pytest.raises(ValueError, match=f"{key} of .*mine.npz must .* got object"):
        load_dataset(tmp_path / "mine.npz")
    assert not (tmp_path / "harm").exists()


def test_objects_under_other_names_are_not_read(tmp_path):
    np.savez(tmp_path / "mine.npz", x=X, y=Y, more=objects(tmp_path))
    assert load_dataset(tmp_path / "mine.npz").classes == 4
    assert not (tmp_path / "harm").exists()


def npy(array: np.ndarray, shape: tuple[int, ...] | None = None) -> bytes:
    """The content of an .npy file, with a shape in the header that may be wrong."""
    f = io.BytesIO()
    header = np.lib.format.header_data_from_array_1_0(array) | ({} if shape is None else {"shape": shape})
    np.lib.format.write_array_header_1_0(f, header)
    return f.getvalue() + array.tobytes()


def archive(path, method=zipfile.ZIP_STORED, **members: bytes) -> None:
    with zipfile.ZipFile(path, "w", method) as f:
        for name, content in members.items():
            f.writestr(f"{name}.npy", content)


CLAIMS = {  # content of x, and what the message says
    "more-rows": (npy(ROWS, (10**12, 5)), r"its header says \(1000000000000, 5\) of float64, which would take"),
    "fewer-rows": (npy(ROWS, (19, 5)), r"its header says \(19, 5\) of float64"),
    "negative": (npy(ROWS, (-20, 5)), "its header says"),
    "cut": (npy(ROWS)[:-1], "its header says"),
    "no-header": (b"hello", "magic string"),
    "nothing": (b"", "EOF"),
    "version-3": (npy(ROWS).replace(b"NUMPY\1", b"NUMPY\3", 1), "it is not an array of numbers"),
    "python": (npy(ROWS).replace(b"'<f8'", b"__nam", 1), "x of .*mine.npz is damaged"),
}


@pytest.mark.parametrize("content, says", CLAIMS.values(), ids=CLAIMS)
@pytest.mark.parametrize("method", (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED), ids=("stored", "deflated"))
def test_a_header_that_does_not_match_its_bytes_is_named(content, says, method, tmp_path):
    """Nothing is allocated by what a header says."""
    archive(tmp_path / "mine.npz", method, x=content, y=npy(Y))
    with pytest.raises(ValueError, match=f"x of .*mine.npz is damaged: .*{says}|{says}"):
        load_dataset(tmp_path / "mine.npz")


@pytest.mark.parametrize("method", (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA), ids=("bzip2", "lzma"))
def test_other_compressions_are_refused(method, tmp_path):
    """They can make gigabytes of some bytes."""
    archive(tmp_path / "mine.npz", method, x=npy(ROWS), y=npy(Y))
    with pytest.raises(ValueError, match="x of .*mine.npz is damaged: it is compressed in a way that NumPy does not"):
        load_dataset(tmp_path / "mine.npz")


def test_a_stated_size_that_deflate_cannot_have_is_refused(tmp_path):
    path = tmp_path / "mine.npz"
    archive(path, zipfile.ZIP_DEFLATED, x=npy(ROWS), y=npy(Y))
    size, large = len(npy(ROWS)).to_bytes(4, "little"), (2**31).to_bytes(4, "little")
    path.write_bytes(path.read_bytes().replace(size, large))
    with pytest.raises(ValueError, match="x of .*mine.npz is damaged: it states a size that its bytes cannot have"):
        load_dataset(path)


def test_a_changed_byte_is_noticed(tmp_path):
    path = tmp_path / "mine.npz"
    archive(path, x=npy(ROWS), y=npy(Y))
    content = bytearray(path.read_bytes())
    content[content.index(ROWS.tobytes()[-80:])] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="x of .*mine.npz is damaged: Bad CRC-32"):
        load_dataset(path)


@pytest.mark.parametrize(
    "content", (b"", b"hello", zlib.compress(b"hello"), npy(ROWS)), ids=("empty", "text", "z", "npy")
)
def test_what_is_no_npz_file_is_named(content, tmp_path):
    (tmp_path / "mine.npz").write_bytes(content)
    with pytest.raises(ValueError, match="mine.npz is damaged: File is not a zip file"):
        load_dataset(tmp_path / "mine.npz")


@pytest.mark.parametrize("kept", (0.3, 0.7, 0.99))
def test_a_file_that_is_cut_off_is_named(kept, tmp_path):
    path = tmp_path / "mine.npz"
    np.savez_compressed(path, x=X, y=Y)
    path.write_bytes(path.read_bytes()[: int(kept * path.stat().st_size)])
    with pytest.raises(ValueError, match="mine.npz is damaged"):
        load_dataset(path)


@pytest.mark.parametrize("save", (np.savez, np.savez_compressed))
def test_changed_bytes_are_read_or_named_in_one_line(save, tmp_path):
    path, refused = tmp_path / "mine.npz", 0
    save(path, x=X, y=Y)
    whole, rng = path.read_bytes(), np.random.default_rng(1)
    for _ in range(300):
        content = bytearray(whole)
        for place in rng.integers(len(whole), size=rng.integers(1, 4)):
            content[place] = rng.choice([0, 255, content[place] ^ 1, rng.integers(256)])
        path.write_bytes(content)
        try:
            assert load_dataset(path).digests == from_arrays(X, Y, name="whole").digests
        except ValueError as error:
            refused += 1
            assert "mine.npz" in str(error) and len(str(error).splitlines()) == 1
    assert 100 < refused
