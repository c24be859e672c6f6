"""The leaves at which a walk of a net ends, and how each is compared with what it was before."""

from typing import NamedTuple

import torch
from torch import Tensor

OF_BYTES = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # number of bytes → dtype of that size

AGAIN = "′"  # added to a path that is taken already, for example by another class of the same name
Path = tuple[str, str, tuple[str, ...]]  # the names of a module, of its attribute, and of the steps inside that


class Plain(NamedTuple):
    """A number or a text.  It is compared by its type and by how it is written: NaN equals NaN, and 2 is not 2.0."""

    kind: type
    text: str


class Items(NamedTuple):
    """A container that holds only numbers and text."""

    kind: type
    keys: tuple[str, ...]  # of a dictionary
    texts: tuple[str, ...]

    @property
    def text(self) -> str:
        inner = ", ".join(map(": ".join, zip(self.keys, self.texts)) if self.keys else self.texts)
        return f"({inner})" if issubclass(self.kind, tuple) else f"{{{inner}}}" if self.keys else f"[{inner}]"

    def is_alike(self, other: "Items") -> bool:
        """Whether both have as many items, under the same keys, so that they can be compared item by item.

        Tuples and sets are never alike: a tuple changes as a whole, and the items of a set have no places.
        """
        fixed = issubclass(self.kind, (tuple, set, frozenset))
        return not fixed and self[:2] == other[:2] and len(self.texts) == len(other.texts)


def differing(then: Items, now: Items) -> list[tuple[str, Plain, Plain]]:
    """Returns (step, then, now) of the items that differ between two containers that are alike."""
    items = zip(then.keys or range(len(then.texts)), then.texts, now.texts)
    return [(f"[{key}]", Plain(str, a), Plain(str, b)) for key, a, b in items if a != b]


class Digest(NamedTuple):
    """The digest of bytes, of which there may be many."""

    kind: type
    digest: bytes


class Same:
    """A value that is compared by identity."""

    def __init__(self, value):
        self.value = value

    def __eq__(self, other) -> bool:
        return isinstance(other, Same) and self.value is other.value


class Fixed(Same):
    """A value that a copy of the net shares with the net: code, and what is reached through code."""

    def __deepcopy__(self, memo: dict) -> "Fixed":
        return self


class Content:
    """The bits of a tensor, with its dtype, device and shape."""

    def __init__(self, tensor: Tensor):
        self.tensor = tensor

    def kept(self) -> "Content":
        """Returns a copy, which keeps what the tensor holds now."""
        return Content(self.tensor.detach().clone())

    def __eq__(self, other) -> bool:
        if not isinstance(other, Content):
            return False
        ours, theirs = self.tensor.detach(), other.tensor.detach()
        return (
            ours.dtype == theirs.dtype
            and ours.device == theirs.device
            and ours.shape == theirs.shape
            and torch.equal(_bits(ours), _bits(theirs))
        )


def _bits(a: Tensor) -> Tensor:
    a = a.to_dense() if a.layout != torch.strided else a
    a = torch.view_as_real(a.resolve_conj()) if a.is_complex() else a
    return a.contiguous().view(OF_BYTES[a.element_size()])
