"""Folders of images in torchvision's layout."""

import numpy as np
import pytest
import torch
from PIL import Image

from linf_plugin.datasets import from_arrays, load_dataset

RNG = np.random.default_rng(0)
NAMES = ("bird", "cat", "dog")


def write(root, images, mode: str | None = None, ending: str = "png") -> None:
    """Image i goes to the folder of class i modulo 3."""
    for i, pixels in enumerate(images):
        folder = root / NAMES[i % 3]
        folder.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(pixels)
        (image.convert(mode) if mode else image).save(folder / f"{i:02}.{ending}")


def pixels(n: int, *shape: int) -> np.ndarray:
    return RNG.integers(0, 256, (n, *shape), dtype=np.uint8)


def ordered(x: np.ndarray) -> np.ndarray:
    """The images class by class, as they are read."""
    return np.concatenate([x[label::3] for label in range(3)])


@pytest.mark.parametrize("ending", ("png", "PNG", "bmp", "tiff", "webp"))
@pytest.mark.parametrize("shape", ((8, 6), (8, 6, 3)), ids=("grey", "colour"))
def test_what_is_written_is_read(shape, ending, tmp_path):
    if ending == "webp" and len(shape) == 2:
        shape = (8, 6, 3)  # such files always have three channels
    x, root = pixels(9, *shape), tmp_path / "animals"
    if ending == "webp":
        for i, each in enumerate(x):
            (root / NAMES[i % 3]).mkdir(parents=True, exist_ok=True)
            Image.fromarray(each).save(root / NAMES[i % 3] / f"{i:02}.webp", lossless=True)
    else:
        write(root, x, ending=ending)
    data = load_dataset(root)
    same = from_arrays(ordered(x), np.repeat(range(3), 3), name="same")
    assert torch.equal(data.x_test, same.x_test) and data.y_test.tolist() == same.y_test.tolist()
    assert data.digests == same.digests
    assert (data.name, data.class_names, data.classes) == ("animals", NAMES, 3) and len(data.x_train) == 0


@pytest.mark.parametrize("test", ("test", "val"))
def test_training_and_test_images(test, tmp_path):
    x = pixels(12, 8, 6)
    write(tmp_path / "train", x[:9])
    write(tmp_path / test, x[9:11])  # no dog
    data = load_dataset(tmp_path, own_name="animals")
    assert torch.equal(data.x_train[:, 0], torch.tensor(ordered(x[:9])) / 255)
    assert torch.equal(data.x_test[:, 0], torch.tensor(x[9:11]) / 255) and data.y_test.tolist() == [0, 1]
    assert data.mean == pytest.approx((x[:9].mean() / 255,), abs=1e-4) and data.classes == 3


def test_val_is_not_read_beside_test(tmp_path):
    for part, n in (("train", 6), ("test", 3), ("val", 9)):
        write(tmp_path / part, pixels(n, 4, 4))
    assert len(load_dataset(tmp_path, own_name="animals").x_test) == 3


def test_one_colour_image_makes_all_of_them_coloured(tmp_path):
    x = pixels(6, 8, 6)
    write(tmp_path / "a", x)
    assert load_dataset(tmp_path / "a").shape == (1, 8, 6)
    Image.fromarray(x[0]).convert("RGB").save(tmp_path / "a/bird/00.png")
    data = load_dataset(tmp_path / "a")
    assert torch.equal(data.x_test, torch.tensor(ordered(x))[:, None].repeat(1, 3, 1, 1) / 255)


@pytest.mark.parametrize("mode, channels", (("1", 1), ("LA", 1), ("P", 3), ("RGBA", 3)))
def test_modes_of_pillow(mode, channels, tmp_path):
    write(tmp_path / "a", pixels(6, 8, 6), mode)
    assert load_dataset(tmp_path / "a").shape == (channels, 8, 6)


def test_classes_are_those_with_folders_and_images_those_with_their_endings(tmp_path):
    x, root = pixels(6, 8, 6), tmp_path / "a"
    write(root, x)
    for path in ("README.md", "cat/notes.txt", "cat/.hidden.png", ".git/0.png", "0.png"):
        (root / path).parent.mkdir(exist_ok=True)
        (root / path).write_text("no image")
    (root / "cat" / "more").mkdir()
    (root / "cat" / "01.png").rename(root / "cat" / "more" / "01.png")  # torchvision also looks into such folders
    data = load_dataset(root)
    assert data.class_names == NAMES and len(data.x_test) == 6
    assert torch.equal(data.x_test[2:4, 0], torch.tensor(x[[4, 1]]) / 255)


def _other_size(root):
    Image.fromarray(pixels(1, 4, 4)[0]).save(root / "cat" / "99.png")


def _deep(root):
    Image.fromarray(pixels(1, 8, 6)[0].astype(np.uint16) * 256).save(root / "cat" / "99.png")


WRONG = {  # what is done to the folder, and what the message says
    "size": (_other_size, "all images must have one size, but .*bird.00.png has 8×6 pixels and .*cat.99.png has 4×4"),
    "sixteen-bits": (_deep, "cat.99.png has more than 8 bits in a channel"),
    "no-image": (lambda root: (root / "emu").mkdir(), "emu has no image; known endings are .bmp, .jpeg"),
    "text": (lambda root: (root / "cat" / "99.png").write_text("hello"), "cat.99.png is damaged: cannot identify"),
    "empty": (lambda root: (root / "cat" / "99.png").write_bytes(b""), "cat.99.png is damaged"),
    "cut": (
        lambda root: (root / "cat" / "01.png").write_bytes((root / "cat" / "01.png").read_bytes()[:60]),
        "cat.01.png is damaged",
    ),
    "only-train": (lambda root: write(root / "train", pixels(3, 8, 6)), "must have train and test or val, .* only tra"),
    "only-tests": (lambda root: write(root / "test", pixels(3, 8, 6)), "must have train and test or val, .* only tes"),
}


@pytest.mark.parametrize("change, names", WRONG.values(), ids=WRONG)
def test_mistakes_are_named(change, names, tmp_path):
    root = tmp_path / "animals"
    write(root, pixels(9, 8, 6))
    change(root)
    with pytest.raises(ValueError, match=names) as error:
        load_dataset(root)
    assert "\n" not in str(error.value)


def test_a_test_image_of_an_unknown_class_is_named(tmp_path):
    write(tmp_path / "train", pixels(2, 8, 6))
    write(tmp_path / "test", pixels(3, 8, 6))
    with pytest.raises(ValueError, match="test has the class dog, which .*train does not have"):
        load_dataset(tmp_path, own_name="animals")


def test_a_folder_without_folders_is_named(tmp_path):
    Image.fromarray(pixels(1, 4, 4)[0]).save(tmp_path / "0.png")
    with pytest.raises(ValueError, match="has no folder with the images of a class"):
        load_dataset(tmp_path)


def test_an_image_that_claims_to_be_huge_is_not_read(tmp_path):
    root = tmp_path / "animals"
    write(root, pixels(3, 8, 6), ending="bmp")
    path = root / "cat" / "01.bmp"
    content = bytearray(path.read_bytes())
    content[18:26] = (40_000).to_bytes(4, "little") * 2  # width and height
    path.write_bytes(content)
    with pytest.raises(ValueError, match="01.bmp is damaged: Image size .* exceeds limit"):
        load_dataset(root)
