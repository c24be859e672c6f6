"""The baselines' losses: cross-entropy on interval (IBP) or CROWN-IBP margins, through auto_LiRPA."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from linf_plugin.training import Step


class BoundedCrossEntropy:
    """The loss κ·CE(clean) + (1 − κ)·CE(worst margins within ε).  κ falls from 1 to ``kappa`` as ε rises.

    IBP is by Gowal et al. (arXiv 1810.12715), CROWN-IBP by Zhang et al. (arXiv 1906.06316).  The margins of
    CROWN-IBP are β·CROWN-IBP + (1 − β)·IBP with β = 1 − ε/ε_max.  So it ends as IBP.

    Args:
        model: is trained in place.  The BoundedModule made here shares its parameters.
        example: one input (1, C, H, W) or (1, F).
        eps_max: ε at the end of its schedule, in the pixel range.
        crown: whether to start from CROWN-IBP.
        kappa: final weight of the clean loss.
    """

    def __init__(self, model: nn.Module, example: Tensor, eps_max: float, crown: bool, kappa: float = 0.5):
        import linf_plugin.bounds  # noqa: F401  (makes auto_LiRPA importable: it comes first)

        from auto_LiRPA import BoundedModule  # isort: skip

        self.bounded = BoundedModule(model, example, device=example.device)
        self.eps_max, self.crown, self.kappa = eps_max, crown, kappa

    def __call__(self, model: nn.Module, x: Tensor, labels: Tensor, step: Step) -> Tensor:
        logits = model(x)
        clean = F.cross_entropy(logits, labels)
        if step.eps == 0:
            return clean
        kappa = 1 - (1 - self.kappa) * step.eps / self.eps_max
        margins = self._margins(x, labels, logits.shape[1], step.eps)
        worst = F.cross_entropy(torch.cat([margins.new_zeros(len(x), 1), -margins], 1), torch.zeros_like(labels))
        return kappa * clean + (1 - kappa) * worst

    def _margins(self, x: Tensor, labels: Tensor, classes: int, eps: float) -> Tensor:
        """Returns lower bounds of z_y − z_j for j ≠ y: (N, classes − 1)."""
        from linf_plugin.bounds import specification

        from auto_LiRPA import BoundedTensor, PerturbationLpNorm  # isort: skip

        low, high = (x - eps).clamp(0, 1), (x + eps).clamp(0, 1)
        ball = BoundedTensor(x, PerturbationLpNorm(norm=math.inf, x_L=low, x_U=high))
        C = specification(labels, classes)
        bound, _ = self.bounded.compute_bounds(x=(ball,), C=C, method="IBP", bound_upper=False)
        share = 1 - eps / self.eps_max
        if not self.crown or share < 1e-5:
            return bound
        linear, _ = self.bounded.compute_bounds(x=(ball,), C=C, method="CROWN-IBP", bound_upper=False)
        return share * linear + (1 - share) * bound
