"""How a kernel slides over an image.  Every convolution of this package takes this beside x and w."""

from typing import NamedTuple


def output_size(size: int, kernel: int, stride: int, padding: int, dilation: int) -> int:
    """Returns the number of windows along one spatial dimension."""
    return (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1


class Geometry(NamedTuple):
    """The four arguments of ``torch.nn.Conv2d`` that say where its windows lie, in the order of ``F.conv2d``.

    The first three are pairs: one number for rows, one for columns.  ``*geometry`` gives an operator its last four
    arguments.
    """

    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int

    def output_shape(self, x: tuple[int, ...], w: tuple[int, ...]) -> tuple[int, int, int, int]:
        """Returns (N, out, H', W') for the shapes x (N, C, H, W) and w (out, C/groups, kh, kw)."""
        height, width = (
            output_size(x[2 + d], w[2 + d], self.stride[d], self.padding[d], self.dilation[d]) for d in (0, 1)
        )
        return x[0], w[0], height, width
