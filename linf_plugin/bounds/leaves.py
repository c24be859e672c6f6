"""What a walk of a net ends at, and how each is compared with what it was."""

from typing import NamedTuple

import torch
from torch import Tensor

OF_BYTES = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # bytes → a dtype of as many

AGAIN = "′"  # the last step of a path that is one already, of two classes of the same name for instance
Path = tuple[str, str, tuple[str, ...]]  # of a module, of its attribute, of what is inside that


class Plain(NamedTuple):
    """Numbers and text, compared by type and by what they are written as: NaN is NaN, 2 is not 2.0."""

    kind: type
    text: str


class Items(NamedTuple):
    """A container of numbers and text alone."""

    kind: type
    keys: tuple[str, ...]  # of a dictionary
    texts: tuple[str, ...]

    @property
    def text(self) -> str:
        inner = ", ".join(map(": ".join, zip(self.keys, self.texts)) if self.keys else self.texts)
        return f"({inner})" if issubclass(self.kind, tuple) else f"{{{inner}}}" if self.keys else f"[{inner}]"

    def is_alike(self, other: "Items") -> bool:
        """Whether it has as many, under the same keys; a tuple changes as a whole, a set has no places."""
        fixed = issubclass(self.kind, (tuple, set, frozenset))
        return not fixed and self[:2] == other[:2] and len(self.texts) == len(other.texts)


def differing(then: Items, now: Items) -> list[tuple[str, Plain, Plain]]:
    """(step, then, now) of the items that differ, of two that are alike."""
    items = zip(then.keys or range(len(then.texts)), then.texts, now.texts)
    return [(f"[{key}]", Plain(str, a), Plain(str, b)) for key, a, b in items if a != b]


class Digest(NamedTuple):
    """Bytes, of which there may be many."""

    kind: type
    digest: bytes


class Same:
    """Something that is compared by identity."""

    def __init__(self, value):
        self.value = value

    def __eq__(self, other) -> bool:
        return isinstance(other, Same) and self.value is other.value


class Fixed(Same):
    """Something that a copy of the net shares with it: code, and what is reached through it."""

    def __deepcopy__(self, memo: dict) -> "Fixed":
        return self


class Content:
    """The bits of a tensor, and where they lie."""

    def __init__(self, tensor: Tensor):
        self.tensor = tensor

    def kept(self) -> "Content":
        """The same, of what the tensor holds now."""
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
