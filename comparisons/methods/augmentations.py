"""The augmentations that a recipe can name.  They change images while a method trains.

Each is a function of its arguments.  It returns a function (images, generator) → images, or None for no change.
"""

from collections.abc import Callable
from functools import partial

from linf_plugin.training import shift_and_flip
from linf_plugin.training.augment import PADDINGS


def _none() -> None:
    """Leaves images as they are."""


def _shift_flip(shift: int = 0, shift_share: float = 1.0, padding: str = "edge", flip: bool = False) -> Callable | None:
    """Shifts a share of the images at random by up to ``shift`` pixels, and mirrors images at random.

    Raises:
        ValueError: padding is not in ``PADDINGS``, or shift_share lies outside [0, 1].
    """
    if padding not in PADDINGS:
        raise ValueError(f"padding must be one of {', '.join(PADDINGS)}, got {padding!r:.80}")
    if not 0 <= shift_share <= 1:
        raise ValueError(f"shift_share must lie in [0, 1], got {shift_share}")
    if not (shift or flip):
        return None
    return partial(shift_and_flip, pixels=shift, flip=flip, padding=padding, share=shift_share)


AUGMENTATIONS = {"none": _none, "shift-flip": _shift_flip}
