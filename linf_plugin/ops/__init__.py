"""The operators ``torch.ops.linf.*``.  Each file holds one family and the function that calls it.

``dist``           (N, in) × (out, in) → (N, out)
``dist_conv2d``    (N, C, H, W) × (out, C/groups, kh, kw) → (N, out, H', W')
``sorted_dist``    shapes as ``dist``; weighted sums of the largest coordinates
``box_dist``, ``box_conv2d``, ``box_sorted_dist``   their exact ranges over a box, for interval bounds
``shift``          (x + sign·offset)·scale, with one offset for each channel
``max_min``        the larger and the smaller number of each pair of channels
``dist_last``, ``sorted_dist_last``, ``shift_last``   the same over the last dimension of (N, *, in)

``operator.define`` makes each operator.  An operator always checks its arguments, and has every derivative of PyTorch.

A file describes its operators one after the other.  Each has the same parts in the same order: the kernel, whose
signature is the schema; the check; the gradient, which is an operator too; the operator with its shapes; the function
that calls it.
"""

from .conv import dist_conv2d
from .distance import dist
from .last import dist_along, shift_along, sorted_dist_along
from .pairs import max_min
from .shifts import is_one_operator, shift, shift_as_one_operator
from .sorted import sorted_dist

__all__ = [
    "dist",
    "dist_along",
    "dist_conv2d",
    "is_one_operator",
    "max_min",
    "shift",
    "shift_along",
    "shift_as_one_operator",
    "sorted_dist",
    "sorted_dist_along",
]
