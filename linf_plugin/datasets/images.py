"""Reads image files into one tensor.  Pillow decodes them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .. import extras
from ..progress import bar

CHANNELS = {"L": 1, "RGB": 3}  # Pillow's mode → channels


def opened(path: Path) -> tuple[str, tuple[int, int]]:
    """Returns Pillow's mode of an image and its size (height, width).  It reads only the beginning of the file.

    Raises:
        ValueError: the file is not an image, or the image is suspiciously large.
    """
    with extras.named():
        from PIL import Image

    try:
        with Image.open(path) as image:
            return image.mode, (image.height, image.width)
    except _errors() as error:
        raise ValueError(f"{path} is damaged: {error}") from error


def read_images(paths: Sequence[Path], mode: str, size: tuple[int, int], description: str) -> Tensor:
    """Returns images (N, channels of the mode, H, W) float32 in [0, 1], and shows a progress bar on a terminal.

    Each image goes straight into the tensor that is returned, so no second copy is made.

    Args:
        paths: of the N files.
        mode: "L" or "RGB"; Pillow converts other modes.
        size: (height, width) of every image.
        description: what the progress bar says.

    Raises:
        ValueError: a file is not an image, or has another size.
    """
    with extras.named():
        from PIL import Image

    x = torch.empty(len(paths), CHANNELS[mode], *size)
    for i, path in enumerate(bar(paths, desc=description, unit="image", disable=None)):
        try:
            with Image.open(path) as image:
                pixels = torch.from_numpy(np.array(image.convert(mode)))
        except _errors() as error:
            raise ValueError(f"{path} is damaged: {error}") from error
        if pixels.shape[:2] != size:
            raise ValueError(f"{path} must have {size[0]}×{size[1]} pixels, has {tuple(pixels.shape[:2])}")
        x[i] = pixels.reshape(*size, -1).permute(2, 0, 1)
    return x.div_(255)


def _errors() -> tuple[type[Exception], ...]:
    """Returns what Pillow raises for files that are not images, or that claim to be very large."""
    with extras.named():
        from PIL import Image

    return OSError, SyntaxError, ValueError, Image.DecompressionBombError
