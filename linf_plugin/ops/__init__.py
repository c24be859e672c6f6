"""The operators ``torch.ops.linf.*``, one family a file, each with a function to call it by.

``dist``           (N, in) × (out, in) → (N, out)
``dist_conv2d``    (N, C, H, W) × (out, C/groups, kh, kw) → (N, out, H', W')
``sorted_dist``    as ``dist``: weighted sums of the largest coordinates
``box_dist``, ``box_conv2d``, ``box_sorted_dist``   their exact ranges over a box; what interval bounds need
``shift``          (x + sign·offset)·scale, a channel at a time

``operator.define`` makes each: it checks its arguments whoever calls it, and has every derivative of PyTorch.

A file tells of one operator after the other, of each in the same order: the kernel, whose signature is the schema; the
check; its gradient, an operator too; the operator with its shapes; the function to call it by.
"""

from .conv import dist_conv2d
from .distance import dist
from .shifts import shift, shift_as_one_operator
from .sorted import sorted_dist

__all__ = ["dist", "dist_conv2d", "shift", "shift_as_one_operator", "sorted_dist"]
