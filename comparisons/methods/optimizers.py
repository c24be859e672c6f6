"""The optimisers that a recipe can name."""

import torch
from torch import Tensor, nn

from linf_plugin import Net
from linf_plugin.training import adam


def _distance_adam(
    model: Net,
    loss,
    lr: float,
    scalar_lr: float = 0.0,
    head_decay: float = 0.0,
    scalar_decay: float = 0.0,
    beta1: float = 0.9,
    beta2: float = 0.99,
):
    module = loss if isinstance(loss, nn.Module) else None
    return adam(model, lr, module, scalar_lr, head_decay, scalar_decay, betas=(beta1, beta2))


def _plain_adam(model: Net, loss, lr: float):
    return torch.optim.Adam(model.parameters(), lr=lr)


def _projected_adam(model: Net, loss, lr: float, scalar_lr: float = 0.0, radius: float = 1.0):
    """Adam that moves every row of a linear layer into the ℓ1 ball of this radius after each step.

    Then the layer's Lipschitz bound in ℓ∞ is at most the radius.  Anil et al. (arXiv 1811.05381), section 4.2.
    """
    groups = [{"params": list(model.parameters()), "lr": lr}]
    if isinstance(loss, nn.Module):
        groups.append({"params": list(loss.parameters()), "lr": scalar_lr})
    rows = [layer.weight for layer in model.modules() if isinstance(layer, nn.Linear)]

    @torch.no_grad()
    def project(*_) -> None:
        for weight in rows:
            weight.copy_(into_ball(weight, radius))

    optimizer = torch.optim.Adam(groups)
    optimizer.register_step_post_hook(project)
    project()
    return optimizer


def into_ball(rows: Tensor, radius: float) -> Tensor:
    """Returns the point nearest to each row in the ℓ1 ball of this radius: (N, F) → (N, F).

    Duchi et al. (ICML 2008), figure 1: it subtracts a number t from all |w|, down to 0, where t is such that the rest
    sums to the radius.  Rounding may leave a sum above the radius by a few units in the last place.
    """
    size = rows.abs()
    falling = size.sort(1, descending=True).values
    counts = torch.arange(1, rows.shape[1] + 1, device=rows.device)
    thresholds = (falling.cumsum(1) - radius) / counts
    kept = (falling > thresholds).sum(1, keepdim=True).clamp_min(1)
    threshold = thresholds.gather(1, kept - 1).clamp_min(0)
    return rows.sign() * (size - threshold).clamp_min(0)


OPTIMIZERS = {"distance-adam": _distance_adam, "adam": _plain_adam, "projected-adam": _projected_adam}
