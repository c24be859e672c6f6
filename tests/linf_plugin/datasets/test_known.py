"""Data sets: files in torchvision's folders are read back, and errors name missing and damaged files."""

import gzip
import hashlib
import os
import pickle
import struct
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image

from linf_plugin.datasets import SOURCES, OtherData, check_published, load_dataset

IDX_NAMES = tuple(f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1"))
CIFAR_NAMES = (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch")
FOLDERS = {"mnist": "MNIST/raw", "fashion-mnist": "FashionMNIST/raw", "cifar10": "cifar-10-batches-py"}


def _idx(array: np.ndarray) -> bytes:
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()


def _write_idx(folder, packed: bool) -> dict[str, np.ndarray]:
    """Images and labels of 5 training and 3 test samples, which are the content of each file."""
    folder.mkdir(parents=True)
    rng, arrays = np.random.default_rng(0), {}
    for name in IDX_NAMES:
        n = 5 if name.startswith("train") else 3
        arrays[name] = rng.integers(0, 256, (n, 28, 28)) if "images" in name else rng.integers(0, 10, n)
        raw = _idx(arrays[name])
        (folder / (name + ".gz" * packed)).write_bytes(gzip.compress(raw) if packed else raw)
    return arrays


def _python_2_pickle(batch: dict) -> bytes:
    """Images and labels as NumPy under Python 2 pickled them, which is how the originals are written: byte
    strings for text and pixels, and a module that NumPy has since renamed."""
    n, pixels = len(batch["data"]), batch["data"].tobytes()
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\0\x85U\1b\x87R"  # an empty array
        b"(K\1K" + bytes([n]) + b"M\0\x0c\x86"  # version 1, shape (n, 3072)
        b"cnumpy\ndtype\nU\2u1K\0K\1\x87R(K\3U\1|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb"  # bytes
        b"\x89T" + struct.pack("<I", len(pixels)) + pixels + b"tb"  # in C order
    )
    labels = b"](" + b"".join(b"K" + bytes([y]) for y in batch["labels"]) + b"e"
    return b"\x80\2}(U\4data" + array + b"U\6labels" + labels + b"u."


def _write_cifar(folder, dump=pickle.dumps) -> dict[str, dict]:
    folder.mkdir(parents=True)
    rng, batches = np.random.default_rng(0), {}
    for name in CIFAR_NAMES:
        batches[name] = {
            "batch_label": name,
            "filenames": ["a.png", "b.png"],
            "labels": rng.integers(0, 10, 2).tolist(),
            "data": rng.integers(0, 256, (2, 3072), dtype=np.uint8),
        }
        (folder / name).write_bytes(dump(batches[name]))
    return batches


@pytest.mark.parametrize("packed", (True, False), ids=("gz", "plain"))
@pytest.mark.parametrize("name", ("mnist", "fashion-mnist"))
def test_idx(name, packed, tmp_path):
    arrays = _write_idx(tmp_path / FOLDERS[name], packed)
    data = load_dataset(name, str(tmp_path), "a few of mine")
    assert data.name == "a few of mine" and data.shape == (1, 28, 28)
    for part, x, y in (("train", data.x_train, data.y_train), ("t10k", data.x_test, data.y_test)):
        assert x.dtype == torch.float32 and y.dtype == torch.int64
        assert torch.equal(x, torch.tensor(arrays[f"{part}-images-idx3-ubyte"])[:, None].float() / 255)
        assert y.tolist() == arrays[f"{part}-labels-idx1-ubyte"].tolist()
    assert data.classes == max(data.y_train.max(), data.y_test.max()) + 1
    assert (data.mean, data.std) == (SOURCES[name].mean, SOURCES[name].std)


@pytest.mark.parametrize(
    "dump",
    (_python_2_pickle, *(partial(pickle.dumps, protocol=protocol) for protocol in (2, 4, 5))),
    ids=("python-2", "protocol-2", "protocol-4", "protocol-5"),
)
def test_cifar10(dump, tmp_path):
    batches = _write_cifar(tmp_path / FOLDERS["cifar10"], dump)
    data = load_dataset("cifar10", tmp_path, own_name="a few of mine")
    assert data.shape == (3, 32, 32) and len(data.mean) == 3
    train, test = (CIFAR_NAMES[:5], data.x_train, data.y_train), (CIFAR_NAMES[5:], data.x_test, data.y_test)
    for names, x, y in (train, test):
        pixels = np.concatenate([batches[name]["data"] for name in names])
        assert torch.equal(x, torch.tensor(pixels).reshape(-1, 3, 32, 32).float() / 255)
        assert y.tolist() == [label for name in names for label in batches[name]["labels"]]
        assert y.dtype == torch.int64


def test_digits():
    data, again = load_dataset("digits"), load_dataset("digits")
    assert (len(data.x_train), len(data.x_test)) == (1437, 360) == (len(data.y_train), len(data.y_test))
    assert data.shape == (1, 8, 8) and data.classes == 10
    for name in ("x_train", "y_train", "x_test", "y_test"):
        assert torch.equal(getattr(data, name), getattr(again, name))
    pixels, labels = torch.cat((data.x_train, data.x_test)), torch.cat((data.y_train, data.y_test))
    assert pixels.dtype == torch.float32 and labels.dtype == torch.int64
    assert (pixels * 16).unique().tolist() == list(range(17))
    share = data.y_test.bincount() - labels.bincount() * 360 / 1797
    assert share.abs().max() < 1  # stratified: each class to the nearest whole sample
    assert pixels.mean().item() == pytest.approx(data.mean[0], abs=1e-4)  # the constants have four decimals
    assert pixels.std().item() == pytest.approx(data.std, abs=1e-4)


# Names.


@pytest.fixture
def published(tmp_path, monkeypatch):
    """A folder with small files under the name MNIST, which the test treats as the published ones."""
    _write_idx(tmp_path / FOLDERS["mnist"], packed=True)
    digests = load_dataset("mnist", tmp_path, "mine").digests
    monkeypatch.setitem(SOURCES, "mnist", replace(SOURCES["mnist"], published=digests))
    return tmp_path


def test_what_is_published_is_read_under_its_name(published):
    assert load_dataset("mnist", published).name == "mnist"


def test_files_of_another_data_set_are_named(published):
    """MNIST's files are in the place of Fashion-MNIST's files."""
    (published / "FashionMNIST").symlink_to(published / "MNIST")
    with pytest.raises(OtherData, match="training images and labels given as fashion-mnist are those of mnist .*own_"):
        load_dataset("fashion-mnist", published)
    assert load_dataset("fashion-mnist", published, "mnist as I have it").name == "mnist as I have it"


@pytest.mark.parametrize("file", IDX_NAMES)
def test_files_that_are_not_the_published_ones_are_named(file, published):
    path = published / FOLDERS["mnist"] / f"{file}.gz"
    raw = bytearray(gzip.decompress(path.read_bytes()))
    raw[-1] ^= 1
    path.write_bytes(gzip.compress(bytes(raw)))
    part = "training" if file.startswith("train") else "test"
    with pytest.raises(OtherData, match=f"{part} images and labels given as mnist are not the published ones"):
        load_dataset("mnist", published)


def test_cifar10_is_known_by_its_files(tmp_path, monkeypatch):
    _write_cifar(tmp_path / FOLDERS["cifar10"])
    with pytest.raises(OtherData, match="data_batch_1 is not the published file of cifar10.*own_name"):
        load_dataset("cifar10", tmp_path)
    files = [f"cifar-10-batches-py/{name}" for name in CIFAR_NAMES]
    assert list(SOURCES["cifar10"].md5) == files
    known = {file: hashlib.md5((tmp_path / file).read_bytes()).hexdigest() for file in files}
    monkeypatch.setitem(SOURCES, "cifar10", replace(SOURCES["cifar10"], md5=known))
    assert load_dataset("cifar10", tmp_path).name == "cifar10"


@pytest.mark.parametrize("name", ("mnist", "digits", "", " ", "two\nlines"))
def test_own_data_have_a_name_of_their_own(name):
    with pytest.raises(ValueError, match="own_name must be one line, and none of digits, mnist"):
        load_dataset("digits", own_name=name)


def test_data_with_a_known_name_are_the_published_ones():
    data = load_dataset("digits")
    check_published(data)
    check_published(replace(data, name="mine", x_test=data.x_test[:9]))
    with pytest.raises(OtherData, match="test images and labels given as digits are not the published ones"):
        check_published(replace(data, x_test=data.x_test[:9], y_test=data.y_test[:9]))
    with pytest.raises(OtherData, match="training images and labels given as mnist are those of digits"):
        check_published(replace(data, name="mnist"))


# Missing and damaged files.


@pytest.mark.parametrize("name", FOLDERS)
def test_missing_folder_lists_the_files_and_the_command(name, tmp_path):
    with pytest.raises(FileNotFoundError) as error:
        load_dataset(name, tmp_path)
    message = str(error.value)
    files = CIFAR_NAMES if name == "cifar10" else [f"{file}.gz" for file in IDX_NAMES]
    for file in files:
        assert str(tmp_path / FOLDERS[name] / file) in message
    assert "python -c" in message and "torchvision.datasets import" in message and "download=True" in message
    compile(message.split('python -c "')[1].rstrip('"'), "command", "exec")  # it can be pasted


def test_one_missing_file_is_the_only_one_listed(tmp_path):
    folder = tmp_path / FOLDERS["mnist"]
    _write_idx(folder, packed=True)
    (folder / f"{IDX_NAMES[3]}.gz").unlink()
    with pytest.raises(FileNotFoundError) as error:
        load_dataset("mnist", tmp_path)
    assert [name for name in IDX_NAMES if name in str(error.value)] == [IDX_NAMES[3]]


@pytest.mark.parametrize(
    "arguments, error, names",
    (
        (("tinyimagenet",), ValueError, "data_dir is needed for tinyimagenet: a folder with tiny-imagenet-200/wnids"),
        (("imagenet",), ValueError, "data must be one of digits, mnist.*'imagenet'"),
        (("mnist",), ValueError, "data_dir"),
        (("cifar10", None), ValueError, "data_dir"),
    ),
    ids=("data_dir-tiny", "name", "data_dir", "data_dir-none"),
)
def test_bad_input_is_named(arguments, error, names):
    with pytest.raises(error, match=names):
        load_dataset(*arguments)


IMAGES = _idx(np.zeros((5, 28, 28)))
PACKED = gzip.compress(np.random.default_rng(0).bytes(999))
DAMAGED_IDX = {  # content of the file of training images, packed or not
    "empty": (b"", False),
    "magic-only": (IMAGES[:3], False),
    "header-cut": (IMAGES[:9], False),
    "pixels-cut": (IMAGES[:-1], False),
    "too-long": (IMAGES + b"\0", False),
    "floats": (b"\0\0\x0d" + IMAGES[3:], False),
    "gz-empty": (b"", True),
    "gz-of-text": (gzip.compress(b"hello"), True),
    "gz-cut": (PACKED[:-100], True),
    "not-gz": (IMAGES, True),
    "gz-damaged": (PACKED[:20] + bytes(20) + PACKED[40:], True),
    "fewer-images": (_idx(np.zeros((4, 28, 28))), False),
}


@pytest.mark.parametrize("content, packed", DAMAGED_IDX.values(), ids=DAMAGED_IDX)
def test_damaged_idx_is_named(content, packed, tmp_path):
    folder = tmp_path / FOLDERS["mnist"]
    _write_idx(folder, packed)
    (folder / (IDX_NAMES[0] + ".gz" * packed)).write_bytes(content)
    with pytest.raises(ValueError, match="train-images-idx3-ubyte|4 images but 5 labels"):
        load_dataset("mnist", tmp_path)


BATCH = pickle.dumps({"data": np.zeros((2, 3072), np.uint8), "labels": [0, 1]})
DAMAGED_CIFAR = {
    "empty": b"",
    "text": b"hello",
    "cut": BATCH[:-500],
    "list": pickle.dumps([1]),
    "no-labels": pickle.dumps({"data": np.zeros((2, 3072), np.uint8)}),
    "no-images": pickle.dumps({"labels": [1]}),
    "other-size": pickle.dumps({"data": np.zeros((2, 784), np.uint8), "labels": [0, 1]}),
    "fewer-labels": pickle.dumps({"data": np.zeros((2, 3072), np.uint8), "labels": [0]}),
}


@pytest.mark.parametrize("content", DAMAGED_CIFAR.values(), ids=DAMAGED_CIFAR)
def test_damaged_cifar10_is_named(content, tmp_path):
    folder = tmp_path / FOLDERS["cifar10"]
    _write_cifar(folder)
    (folder / "test_batch").write_bytes(content)
    with pytest.raises(ValueError, match="test_batch|2 images but 1 labels"):
        load_dataset("cifar10", tmp_path)


class _Harm:
    """A pickle that calls ``function(path, …)`` when it is read."""

    def __init__(self, function, path, *more):
        self.call = function, (str(path), *more)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("call", ((os.mkdir,), (np.savetxt, [1.0])), ids=("os", "numpy"))
@pytest.mark.parametrize("key", ("data", "labels", "filenames"))
def test_code_in_a_cifar_batch_does_not_run(key, call, tmp_path):
    folder = tmp_path / FOLDERS["cifar10"]
    batch = _write_cifar(folder)["data_batch_1"]
    harm = _Harm(call[0], tmp_path / "harm", *call[1:])
    (folder / "data_batch_1").write_bytes(pickle.dumps(batch | {key: harm}))
    with pytest.raises((ValueError, pickle.UnpicklingError), match="refusing to load|data_batch_1"):
        load_dataset("cifar10", tmp_path)
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize("module", ("numpy.f2py.__main__", "numpy.ctypeslib", "numpyro", "_codecs.x"))
def test_a_cifar_batch_imports_nothing_but_arrays(module, tmp_path, monkeypatch):
    """An import can already run code: ``numpy.f2py.__main__`` is a program."""
    folder = tmp_path / FOLDERS["cifar10"]
    _write_cifar(folder)
    (folder / "test_batch").write_bytes(f"c{module}\nndarray\n.".encode())
    monkeypatch.setattr("sys.argv", ["f2py"])
    with pytest.raises((ValueError, pickle.UnpicklingError), match="refusing to load|test_batch"):
        load_dataset("cifar10", tmp_path)


TINY = ("n002", "n001", "n003")  # classes, not in alphabetical order


def _write_tiny(root, side=64):
    """Two training images of each class and four test images, each of one colour; some grey, in one channel."""
    folder = root / "tiny-imagenet-200"
    colours, annotations = {"train": [], "val": []}, []
    for label, name in enumerate(TINY):
        (folder / "train" / name / "images").mkdir(parents=True)
        for i in range(2):
            colours["train"].append(((40 * label + 100 * i, 80, 250 - 60 * label), label))
            image = Image.new("RGB", (side, side), colours["train"][-1][0])
            image.save(folder / "train" / name / "images" / f"{name}_{i}.JPEG", quality=100)
    (folder / "val" / "images").mkdir(parents=True)
    for i, label in enumerate((1, 0, 2, 1)):
        colours["val"].append(((50 * i,) * 3, label))
        Image.new("L", (side, side), 50 * i).save(folder / "val" / "images" / f"val_{i}.JPEG", quality=100)
        annotations.append(f"val_{i}.JPEG\t{TINY[label]}\t0\t0\t63\t63")
    (folder / "wnids.txt").write_text("\n".join(TINY) + "\n")
    (folder / "val" / "val_annotations.txt").write_text("\n".join(annotations) + "\n")
    return folder, colours


def test_tinyimagenet(tmp_path):
    _, colours = _write_tiny(tmp_path)
    data = load_dataset("tinyimagenet", tmp_path)
    assert data.shape == (3, 64, 64) and data.classes == 3 and len(data.mean) == 3
    for part, x, y in (("train", data.x_train, data.y_train), ("val", data.x_test, data.y_test)):
        assert x.dtype == torch.float32 and y.dtype == torch.int64
        assert y.tolist() == [label for _, label in colours[part]]
        for image, (colour, _) in zip(x, colours[part], strict=True):
            assert (image - image[:, :1, :1]).abs().max() == 0
            assert (image[:, 0, 0] * 255 - torch.tensor(colour)).abs().max() < 3  # JPEG rounds colours


def test_pixels_of_a_photograph_stand_where_they_stood(tmp_path):
    folder, _ = _write_tiny(tmp_path)
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[:16, :, 0], pixels[:, :16, 2] = 255, 255  # red on top, blue on the left
    Image.fromarray(pixels).save(folder / "train" / TINY[0] / "images" / f"{TINY[0]}_0.JPEG", quality=100)
    x = load_dataset("tinyimagenet", tmp_path).x_train[0]
    assert (x - torch.tensor(pixels).permute(2, 0, 1) / 255)[:, 2:14, 18:].abs().max() < 0.05
    assert x[0, 8, 40] > 0.9 > 0.1 > x[0, 40, 8] and x[2, 40, 8] > 0.9 > 0.1 > x[2, 8, 40]


def _cut(path):
    path.write_bytes(path.read_bytes()[:200])


NOTES = "val/val_annotations.txt"
DAMAGED_TINY = {  # what is done to the folder, error, what it names
    "no-classes": (lambda f: (f / "wnids.txt").write_text(""), ValueError, "wnids.txt is empty"),
    "class-twice": (
        lambda f: (f / "wnids.txt").write_text("n002\nn001\nn002\nn003"),
        ValueError,
        "lists a class twice",
    ),
    "no-test": (lambda f: (f / NOTES).write_text(""), ValueError, "val_annotations.txt is empty"),
    "class": (
        lambda f: (f / NOTES).write_text("val_0.JPEG n001\nval_1.JPEG n009\n"),
        ValueError,
        "val_annotations.txt is damaged: line 2 names no class .*n009",
    ),
    "line": (lambda f: (f / NOTES).write_text("val_0.JPEG\n"), ValueError, "line 1 names no class"),
    "annotations": (
        lambda f: (f / NOTES).unlink(),
        FileNotFoundError,
        "(?s)Missing:\n  [^\n]*val_annotations.txt\nThis fetches it:.*tiny-imagenet-200.zip",
    ),
    "test-image": (lambda f: (f / "val/images/val_2.JPEG").unlink(), FileNotFoundError, "Missing:\n .*val_2.JPEG"),
    "training-image": (
        lambda f: (f / "train/n001/images/n001_0.JPEG").unlink(),
        FileNotFoundError,
        "  1 images of .*n001",
    ),
    "training-class": (
        lambda f: [path.unlink() for path in (f / "train/n003/images").iterdir()],
        FileNotFoundError,
        "  2 images of .*n003",
    ),
    "all-training": (
        lambda f: [path.unlink() for path in f.glob("train/*/images/*")],
        FileNotFoundError,
        "  all images of .*n002",
    ),
    "text": (lambda f: (f / "val/images/val_1.JPEG").write_text("hello"), ValueError, "val_1.JPEG is damaged"),
    "empty": (lambda f: (f / "train/n001/images/n001_1.JPEG").write_text(""), ValueError, "n001_1.JPEG is dama"),
    "cut": (lambda f: _cut(f / "train/n001/images/n001_1.JPEG"), ValueError, "n001_1.JPEG is damaged"),
    "size": (
        lambda f: Image.new("RGB", (64, 32)).save(f / "val/images/val_1.JPEG"),
        ValueError,
        r"val_1.JPEG must have 64×64 pixels, has \(32, 64\)",
    ),
}


@pytest.mark.parametrize("damage, error, names", DAMAGED_TINY.values(), ids=DAMAGED_TINY)
def test_damaged_tinyimagenet_is_named(damage, error, names, tmp_path):
    folder, _ = _write_tiny(tmp_path)
    damage(folder)
    with pytest.raises(error, match=names):
        load_dataset("tinyimagenet", tmp_path)


def test_many_missing_images_are_not_all_listed(tmp_path):
    folder, _ = _write_tiny(tmp_path)
    (folder / "val/val_annotations.txt").write_text("".join(f"gone_{i}.JPEG n001\n" for i in range(30)))
    with pytest.raises(FileNotFoundError, match="and 20 more") as error:
        load_dataset("tinyimagenet", tmp_path)
    assert str(error.value).count("gone_") == 10
