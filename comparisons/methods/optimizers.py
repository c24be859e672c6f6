"""The optimisers that a recipe can name."""

import torch
from torch import nn

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


OPTIMIZERS = {"distance-adam": _distance_adam, "adam": _plain_adam}
