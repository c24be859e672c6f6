"""What other rooms tell reports of their layer types.  They stand above this room, so they add themselves here."""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor, nn

from .geometry import Convolution


class Told(NamedTuple):
    """What a room tells of a layer with a weight.

    Attributes:
        shape: of the weight.
        map_: the linear map with this weight; or why no norm is bounded, a sentence without its full stop.
    """

    shape: tuple[int, ...]
    map_: Tensor | Convolution | str


class Room(NamedTuple):
    """What a room knows.

    Attributes:
        tells: layer → what is told of it; None if its type has no weight, or is not of this room.
        constant: layer → its Lipschitz constant in ℓ2.  Raises TypeError or RuntimeError if none is known.
    """

    tells: Callable[[nn.Module], Told | None]
    constant: Callable[[nn.Module], float]


ROOMS: list[Room] = []  # linf_plugin/layers/reported.py adds the layers of this package


def told_of(layer: nn.Module) -> tuple[Told, Room] | None:
    """Returns what a room tells of a layer, and the room."""
    for room in ROOMS:
        if (told := room.tells(layer)) is not None:
            return told, room
    return None


def constant_of(layer: nn.Module) -> float:
    """Returns the ℓ2 Lipschitz constant of a layer that a room knows.

    Raises:
        TypeError, RuntimeError: none is known; the message says why.
    """
    reason: Exception = TypeError(f"no ℓ2 Lipschitz constant is known for {type(layer).__name__}")
    for room in ROOMS:
        try:
            return room.constant(layer)
        except (TypeError, RuntimeError) as error:
            reason = error
    raise reason
