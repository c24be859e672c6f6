"""What chooses a model while it is trained: its figures on a part of the training set, by the cheapest certificate."""

from collections.abc import Callable

import torch
from torch import Tensor

from linf_plugin import Net, lipschitz_bound
from linf_plugin.bounds.certify import margin_bound
from linf_plugin.certificates import margin

from .methods import METHODS

BATCH = 512


def certificate(key: str, model: Net) -> str:
    """The cheapest one that says something about the method: "lipschitz", or "ibp" where there are linear layers."""
    return "lipschitz" if "lipschitz" in METHODS[key].certificates and len(model.split_head()[1]) == 0 else "ibp"


def validation(key: str, x: Tensor, y: Tensor, eps: float) -> Callable[[Net], dict[str, float]]:
    """``validate`` of ``linf_plugin.training.fit`` for a method.

    It returns fractions in [0, 1]: {"certified": at eps, "clean": …}.  These choose a model and are no certificate:
    they ignore the rounding of float32, which takes far less than choosing adds by chance.

    Args:
        x: (N, C, H, W), pixels in [0, 1], of the training set but not trained on.
        y: (N,) labels.
        eps: ℓ∞ radius in the pixel range.
    """

    @torch.no_grad()
    def validate(model: Net) -> dict[str, float]:
        logits = torch.cat([model(part) for part in x.split(BATCH)])
        if certificate(key, model) == "lipschitz":
            certified = margin(logits, y) > 2 * lipschitz_bound(model) * eps
        else:
            certified = margin_bound(model, x, y, eps, "ibp", sound=False) > 0
        clean = logits.argmax(1) == y
        return {"certified": (clean & certified).double().mean().item(), "clean": clean.double().mean().item()}

    return validate
