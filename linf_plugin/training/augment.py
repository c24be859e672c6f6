"""Random shifts with repeated edge pixels, and random flips."""

import torch
import torch.nn.functional as F
from torch import Tensor


def shift_and_flip(x: Tensor, generator: torch.Generator, pixels: int = 0, flip: bool = False) -> Tensor:
    """Moves each image by up to ``pixels`` in each direction and mirrors half of them.

    Edge pixels are repeated outwards, so that no pixel value appears that the image did not have.

    Args:
        x: (N, C, H, W).
        generator: of random numbers, on the CPU.
        pixels: largest shift.
        flip: whether to mirror left and right.

    Returns:
        (N, C, H, W).
    """
    n, _, height, width = x.shape
    if pixels:
        padded = F.pad(x, (pixels,) * 4, mode="replicate")
        top, left = (torch.randint(0, 2 * pixels + 1, (n, 1), generator=generator) for _ in range(2))
        rows = (top + torch.arange(height)).to(x.device)
        columns = (left + torch.arange(width)).to(x.device)
        sample = torch.arange(n, device=x.device)[:, None, None]
        # indexing around the slice puts the channels last
        x = padded[sample, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
    if flip:
        chosen = (torch.rand(n, generator=generator) < 0.5).to(x.device)
        x = torch.where(chosen[:, None, None, None], x.flip(3), x)
    return x.contiguous()
