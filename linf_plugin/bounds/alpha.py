"""α-CROWN: auto_LiRPA optimises the weights of candidate lines, one set for each start of a backward pass."""

import functools
import math

import torch
from torch import Tensor

from . import linear

MOST_WEIGHTS = 1 << 24  # the most of one layer and start; if there were more, the neurons of a start share one set


class WithWeights:
    """The methods that auto_LiRPA 0.3 and 0.7.1 require of a layer whose relaxation has parameters.

    ``self.alpha[start]`` has shape (2·J, S, B, *out): the weights of the J candidates for the lower bound and then
    those for the upper bound.  S is the number of specifications, or 1 if all share their weights.  This class is mixed
    into a subclass of BoundOptimizableActivation that has ``blocks`` and ``fit``.
    """

    def __init__(self, *args):
        super().__init__(*args)
        self.alpha_batch_dim = 2

    def init_opt_parameters(self, start_nodes) -> None:
        x, *weights = self.inputs
        with torch.no_grad():
            blocks = self.blocks(x, *(w.forward_value for w in weights))
            start, self.below = linear.starting_weights(blocks)
        start = torch.cat([start, start]).unsqueeze(1)  # (2·J, 1, B, neurons), or rows for samples
        self.alpha = {}
        for name, size, *_ in start_nodes:
            if name == "_forward":
                raise NotImplementedError(
                    "distance layers have no parameters in method='forward-optimized': use 'CROWN-Optimized'"
                )
            count = size if isinstance(size, int) else math.prod(size)
            count = count if count * start.numel() <= MOST_WEIGHTS else 1
            weights = start.expand(-1, count, -1, -1).clone()
            shape = (len(start), count, len(x.lower), *self.output_shape[1:])
            self.alpha[name] = weights.reshape(shape).requires_grad_()

    def weights_for(self, start_node, A: Tensor, unstable_idx) -> Tensor | None:
        """Returns (2, J, S, B, neurons); None if there are no weights for these specifications, which take defaults.

        A has shape (S, B, neurons).  There may be rows in the place of samples (``shapes.AlongLast``).
        """
        if self.opt_stage not in ("opt", "reuse") or start_node is None or start_node.name not in self.alpha:
            return None
        weights = self.alpha[start_node.name]
        if unstable_idx is not None and weights.shape[1] > 1:
            if not (isinstance(unstable_idx, Tensor) and unstable_idx.dim() == 1):
                return None
            weights = weights.index_select(1, unstable_idx)
        weights = self.fit.neurons(weights, 2)
        if weights.shape[1] not in (1, A.shape[0]) or weights.shape[2] != A.shape[1]:
            return None
        return weights.unflatten(0, (2, -1))

    def clip_alpha(self) -> None:
        """Puts the weights of each side back on the simplex."""
        for weights in self.alpha.values():
            for half in weights.data.chunk(2):
                for side in half.split([self.below, len(half) - self.below]):
                    side.clamp_min_(0)
                    side.div_(side.sum(0).clamp_min(1e-30))

    clip_alpha_ = clip_alpha


def pass_gradients(bounded_module: type) -> None:
    """Makes ``BoundedModule.compare_with_IBP``, which 0.3 does not have, pass the gradient to the linear bound.

    That method returns the better one of the linear and the interval bound.  Where this is the interval bound, the
    weights would have no gradient, and a linear bound that starts as the worse one could never become the better one.
    The values stay the same to the last bit.  Nothing changes for models without distance layers.
    """
    compare = getattr(bounded_module, "compare_with_IBP", None)
    if compare is None:
        return

    def with_gradient(better: Tensor | None, bound: Tensor | None) -> Tensor | None:
        if better is None or not bound.requires_grad:
            return better
        return better.detach() + torch.where(bound.isfinite(), bound - bound.detach(), 0)

    @functools.wraps(compare)
    def compared(self, node, lower, upper, C=None):
        better = compare(self, node, lower, upper, C=C)
        if not getattr(self, "_linf_baked", ()):
            return better
        return tuple(map(with_gradient, better, (lower, upper)))

    bounded_module.compare_with_IBP = compared
