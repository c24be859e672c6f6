"""Interval and linear bounds of margins by auto_LiRPA, in float64.

To cover rounding, they are bounds of the net with noise after its layers.  Importing this module imports auto_LiRPA.
"""

import functools
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..bounds import rounded, versions
from ..bounds.compute import compute_bounds
from ..bounds.decides import check_values
from ..bounds.guard import check_padding, default_options
from ..bounds.pieces import for_net
from ..bounds.readable import readable
from ..bounds.refused import check_version
from ..bounds.specification import specification
from ..norms import Ball
from .problem import Problem


def bound(problem: Problem, method: str) -> Callable[[Tensor, Tensor], Tensor]:
    """Returns the function (samples, labels) → lower bounds of their margins, by this method of auto_LiRPA.

    The BoundedModule is made at the first batch.  All methods and balls that work on the problem share it.
    """
    return functools.partial(problem.once(_Traced), method, ball=problem.ball)


class _Traced:
    """The BoundedModule of a problem, and the noise of the last boxes."""

    def __init__(self, problem: Problem):
        self.problem, self.bounded, self.noisy = problem, None, None
        self.last: tuple[Tensor, Tensor, rounded.Noises] | None = None
        if problem.sound:
            rounded.register()
            self.noisy = rounded.Noisy(problem.exact).eval()

    def _trace(self, inputs: tuple[Tensor, ...]):
        from auto_LiRPA import BoundedModule

        problem = self.problem
        check_version(problem.sound)
        check_padding(problem.exact)
        if not problem.sound:
            check_values(problem.exact, *inputs)
        net = self.noisy if problem.sound else readable(problem.exact)
        options = default_options(problem.exact)
        bounded = BoundedModule(net, inputs, bound_opts=options, device=problem.x.device, verbose=False)
        bounded.eval()  # in training mode it asks for gradients of parameters
        if next(bounded.parameters(), None) is None:  # auto_LiRPA reads the dtype from the first one
            bounded.register_parameter("linf_dtype", nn.Parameter(inputs[0].new_zeros(()), requires_grad=False))
        return bounded

    def _noises(self, lower: Tensor, upper: Tensor) -> rounded.Noises:
        """Returns the noise between these ends.  Methods that bound the same boxes in turn share it."""
        if self.last is None or not (_equal(lower, self.last[0]) and _equal(upper, self.last[1])):
            self.last = lower, upper, self.noisy.noises(lower, upper)
        return self.last[2]

    def __call__(self, method: str, x: Tensor, labels: Tensor, *, ball: Ball) -> Tensor:
        from auto_LiRPA import BoundedTensor, PerturbationLpNorm

        problem = self.problem
        C = specification(labels, problem.classes, torch.float64)
        lower, upper = ball.box(x)
        pieces = for_net(problem.exact, x.numel() * problem.classes)
        with pieces:
            noises = self._noises(lower, upper) if problem.sound else None
        amounts = noises.between if problem.sound else ()
        with versions.float64_by_default():
            if self.bounded is None:
                self.bounded = self._trace((x[:1].double(), *(a[:1] for a in amounts)))
            inputs = BoundedTensor(x.double(), PerturbationLpNorm(norm=math.inf, x_L=lower, x_U=upper))
            with pieces:
                found, _ = compute_bounds(
                    self.bounded, (inputs, *amounts), C, method, bound_upper=False, output_only=True
                )
        if problem.sound:
            found = found - torch.where(C == 0, 0, noises.slack(self.bounded).unsqueeze(1)).sum(2)
        # A bound that is ∞ or NaN certifies nothing.
        return torch.where(found < math.inf, found, -math.inf).amin(1)


def _equal(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.equal(a, b)
