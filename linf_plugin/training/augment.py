"""Random shifts and flips of images.  A shift repeats the edge pixels or moves zeros in."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ..arguments import check_count, check_number, check_samples

PADDINGS = {"edge": "replicate", "zero": "constant"}  # → mode of F.pad


def shift_and_flip(
    x: Tensor,
    generator: torch.Generator,
    pixels: int = 0,
    flip: bool = False,
    padding: str = "edge",
    share: float = 1.0,
) -> Tensor:
    """Moves images by up to ``pixels`` in each direction and mirrors half of them.

    Args:
        x: (N, C, H, W).
        generator: a generator of random numbers on the CPU.
        pixels: the largest shift.
        flip: whether to mirror left and right.
        padding: which pixels move in.  "edge" repeats the pixels of the edge, so that only values of the image appear;
            "zero" gives black pixels, as in random crops of the padded image.
        share: the probability, in [0, 1], that an image is shifted.

    Returns:
        (N, C, H, W).

    Raises:
        TypeError: x is not a floating-point tensor, generator is not a ``torch.Generator``, pixels is not an integer,
            or share is not a number.
        ValueError: x does not have four dimensions, pixels is negative, padding is unknown, or share lies outside
            [0, 1].
    """
    check_samples(x)
    if x.dim() != 4:
        raise ValueError(f"x must have shape (N, C, H, W), got {tuple(x.shape)}")
    if not isinstance(generator, torch.Generator):
        raise TypeError(f"generator must be a torch.Generator, got {type(generator).__name__}")
    check_count("pixels", pixels, least=0)
    check_number("share", share)
    if not 0 <= share <= 1:
        raise ValueError(f"share must lie in [0, 1], got {share}")
    if padding not in PADDINGS:
        raise ValueError(f"padding must be one of {', '.join(PADDINGS)}, got {padding!r}")
    n, _, height, width = x.shape
    if pixels:
        padded = F.pad(x, (pixels,) * 4, mode=PADDINGS[padding])
        top, left = (torch.randint(0, 2 * pixels + 1, (n, 1), generator=generator) for _ in range(2))
        if share < 1:
            stays = torch.rand(n, 1, generator=generator) >= share
            top, left = (torch.where(stays, pixels, offset) for offset in (top, left))
        rows = (top + torch.arange(height)).to(x.device)
        columns = (left + torch.arange(width)).to(x.device)
        sample = torch.arange(n, device=x.device)[:, None, None]
        # the two index tensors stand on both sides of a slice, so the channels come last
        x = padded[sample, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
    if flip:
        chosen = (torch.rand(n, generator=generator) < 0.5).to(x.device)
        x = torch.where(chosen[:, None, None, None], x.flip(3), x)
    return x.contiguous()
