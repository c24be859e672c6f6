"""Projected gradient descent (PGD), an attack, by the Adversarial Robustness Toolbox (ART)."""

import copy
import math
import warnings

import numpy as np
import torch
from torch import Tensor, nn

from linf_plugin import extras
from linf_plugin.arguments import (
    check_count,
    check_labels,
    check_logits,
    check_model,
    check_pixels,
    check_samples,
    check_seed,
)
from linf_plugin.layers.base import distance_layers, set_p
from linf_plugin.norms import Ball

SURROGATE_P = 64.0  # at p = ∞ an input gradient touches few pixels; a large finite p sees more


def _targets(model: nn.Module) -> list[nn.Module]:
    """Returns the models whose gradients PGD follows: the model, and for a distance net also a copy at a finite p."""
    if not distance_layers(model):
        return [model]
    smooth = copy.deepcopy(model)
    set_p(smooth, SURROGATE_P)
    return [model, smooth]


def _inside(x: Tensor, adversarial: Tensor, eps: float) -> Tensor:
    """Moves ``adversarial`` into the ball around x, also where the rounding of x ± ε to float32 left the ball."""
    low, high = x.double() - eps, x.double() + eps
    inward = torch.minimum(torch.maximum(adversarial.double(), low), high).float().clamp(0, 1)
    over = (inward.double() - x.double()).abs() > eps
    return torch.where(over, torch.nextafter(inward, x), inward)


def pgd_survives(
    model: nn.Module,
    x: Tensor,
    labels: Tensor,
    eps: float,
    *,
    steps: int = 20,
    restarts: int = 2,
    seed: int = 0,
    batch_size: int = 512,
) -> Tensor:
    """Returns which samples are classified correctly both unperturbed and after every attack.

    PGD climbs the cross-entropy from random starts, with step ε/4, inside the pixel range (Madry et al., arXiv
    1706.06083).  On distance nets it also follows the gradients of a copy at p = 64.  The accuracy under attack is
    an upper bound of the robust accuracy, not a certificate.

    Args:
        model: in evaluation mode.
        x: (N, C, H, W) or (N, F), in [0, 1].
        labels: (N,) int64.
        eps: ℓ∞ radius in the pixel range.
        steps: number of gradient steps from each start.
        restarts: number of random starts for each model whose gradients are followed.
        seed: seed of the random starts.
        batch_size: number of samples at a time.

    Returns:
        (N,) bool.

    Raises:
        TypeError, ValueError: an argument is not as described; the message names it.
    """
    check_model(model)
    check_samples(x, model)
    check_pixels(x, 0.0, 1.0)
    eps = Ball(eps, math.inf, 0.0, 1.0).eps
    check_count("steps", steps)
    check_count("restarts", restarts)
    check_seed(seed)
    check_count("batch_size", batch_size)
    with torch.no_grad():
        classes = check_logits(model(x[:1].clone()), 1) if len(x) else None
    labels = check_labels(labels, x, classes)
    if len(x) == 0:
        return torch.zeros(0, dtype=torch.bool, device=x.device)
    with warnings.catch_warnings():
        # ART's arrays predate NumPy 2's copy keyword.
        warnings.filterwarnings("ignore", "__array__ implementation doesn't accept a copy", DeprecationWarning)
        return _pgd_survives(model, x, labels, eps, steps, restarts, seed, batch_size)


def _pgd_survives(model, x, labels, eps, steps, restarts, seed, batch_size) -> Tensor:
    with extras.named():
        from art.attacks.evasion import ProjectedGradientDescentPyTorch
        from art.estimators.classification import PyTorchClassifier

    def correct(inputs: Tensor) -> Tensor:  # of copies: a first layer that works in place would change the images
        with torch.no_grad():
            return torch.cat([model(part.clone()).argmax(1) for part in inputs.split(batch_size)]) == labels

    survives = correct(x)
    if eps == 0:
        return survives
    state = np.random.get_state()
    np.random.seed(seed)  # ART draws its starts from NumPy's global generator
    try:
        for target in _targets(model):
            classifier = PyTorchClassifier(
                target,
                loss=nn.CrossEntropyLoss(),
                input_shape=tuple(x.shape[1:]),
                nb_classes=model(x[:1].clone()).shape[1],
                clip_values=(0.0, 1.0),
                device_type="cpu" if x.device.type == "cpu" else "gpu",
            )
            attack = ProjectedGradientDescentPyTorch(
                classifier,
                norm=math.inf,
                eps=eps,
                eps_step=eps / 4,
                max_iter=steps,
                num_random_init=restarts,
                batch_size=batch_size,
                verbose=False,
            )
            rows = survives.nonzero().squeeze(1)
            if len(rows) == 0:
                break
            found = attack.generate(x[rows].cpu().numpy(), labels[rows].cpu().numpy())
            moved = x.clone()
            moved[rows] = _inside(x[rows], torch.from_numpy(found).to(x.device), eps)
            survives &= correct(moved)
    finally:
        np.random.set_state(state)
    return survives
