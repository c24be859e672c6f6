"""The layers that were read so far, and the value that runs through them."""

import math

import numpy as np
from onnx import NodeProto

from linf_plugin.models.spec import MOST_LAYERS, MOST_VALUES

from .fold import BATCHES, Varying
from .nodes import attribute


class Chain:
    """The layers that were read so far, and the value that runs through them.

    Attributes:
        name, shape: of the value.
        shapes: the shapes of all values that ran through the chain, by name.
        any_batch: whether the first size is that of any batch.  It is then ``BATCHES[0]``.
        bytes: whether the value is pixels in bytes, which are not yet divided by their range.
        layers: name and arguments for a spec, and tensors.
        image: the shape of the value before slices were taken from it; None where there are none.
        corner: where the slice begins, along each axis.
    """

    def __init__(self, name: str, shape: tuple[int, ...], any_batch: bool, of_bytes: bool):
        self.name, self.shapes = name, {name: shape}
        self.shape, self.any_batch, self.bytes = shape, any_batch, of_bytes
        self.layers: list[tuple[str, dict, dict]] = []
        self.image: tuple[int, ...] | None = None
        self.corner: list[int] = []

    def add(self, layer: str, tensors: dict | None = None, **arguments) -> None:
        """Adds a layer.  Raises ValueError where there are too many."""
        if len(self.layers) == MOST_LAYERS:
            raise ValueError(f"more than {MOST_LAYERS:,} layers are not read")
        self.layers.append((layer, arguments, tensors or {}))

    def slice(self, axis: int, start: int, end: int) -> None:
        """Takes the part of the value between two places along one axis of an image."""
        if self.image is None:
            self.image, self.corner = self.shape, [0] * len(self.shape)
        self.corner[axis] += start
        self.shape = (*self.shape[:axis], end - start, *self.shape[axis + 1 :])

    def end_crop(self) -> None:
        """Makes one layer of the slices so far.  Raises ValueError where they do not give the middle of an image."""
        if self.image is None:
            return
        size, sides = self.shape[-1], self.image[2:]
        if self.shape[2:] != (size, size) or self.corner[2:] != [(side - size) // 2 for side in sides]:
            raise ValueError(
                f"only slices that give the middle square of an image are supported: got {self.shape[2:]} pixels "
                f"from {tuple(self.corner[2:])} on, of {sides}"
            )
        self.image = None
        self.add("crop", size=size)

    def advance(self, name: str) -> None:
        """Goes on to the value of this name, whose shape is ``shape``.  Raises ValueError where it is too large."""
        if min(self.shape) < 1:
            raise ValueError(f"its value would have the shape {self.shape}")
        if math.prod(self.shape[1:]) > MOST_VALUES:
            raise ValueError(f"its value would have more than {MOST_VALUES:,} numbers a sample")
        self.name, self.shapes[name] = name, self.shape

    def sizes_of(self, node: NodeProto) -> np.ndarray | Varying:
        """The result of a node Shape whose input is a value of the chain."""
        which = slice(attribute(node, "start", 0), attribute(node, "end"))
        shape = self.shapes[node.input[0]]
        each = [np.array((batch, *shape[1:])[which], np.int64) for batch in BATCHES]
        return Varying(*each) if self.any_batch else np.array(shape[which], np.int64)

    def last(self, *layers: str) -> dict | None:
        """The tensors of the last layer, if it is one of these."""
        return self.layers[-1][2] if self.layers and self.layers[-1][0] in layers else None

    def per_channel(self, a: np.ndarray) -> np.ndarray:
        """a as (C,), or as (1,) if it is one number for all channels.  Raises ValueError where it is neither."""
        full = (1,) * (len(self.shape) - a.ndim) + a.shape
        if len(full) != len(self.shape) or full[1] not in (1, self.shape[1]) or a.size != full[1]:
            raise ValueError(f"a constant of shape {a.shape} is not one number for each channel of {self.shape}")
        return a.reshape(-1)
