"""Certificates for a batch: Lipschitz, interval, CROWN, and the best of all."""

import copy
import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from tqdm import tqdm

from .. import compat, rounding
from ..certificates import certified_radius
from ..layers import lipschitz_bound
from . import noisy

# name → auto_LiRPA's method; in order of cost
LIRPA_METHODS = {"ibp": "IBP", "crown-ibp": "CROWN-IBP", "crown": "CROWN"}
CERTIFICATES = ("lipschitz", *LIRPA_METHODS)


def specification(labels: Tensor, classes: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """auto_LiRPA's C for margins: rows e_y − e_j for every j ≠ y, (N,) → (N, classes − 1, classes)."""
    eye = torch.eye(classes, dtype=dtype, device=labels.device)
    rows = eye[labels].unsqueeze(1) - eye.unsqueeze(0)
    others = torch.arange(classes, device=labels.device) != labels.unsqueeze(1)
    return rows[others].view(len(labels), classes - 1, classes)


@torch.no_grad()
def margin_bound(
    model: nn.Module, x: Tensor, labels: Tensor, eps: float, method: str, *,
    low: float = 0.0, high: float = 1.0, batch_size: int = 256, progress: bool = False, sound: bool = True,
) -> Tensor:
    """A lower bound of min_{j≠y} (z_y − z_j) over all inputs within eps of x, by auto_LiRPA in float64.

    Positive means certified.  With ``sound`` that is so for the float32 program: its largest logit is the
    label's for every float32 input in the ball (docs/math.md has the assumptions).  Without, the bound is about
    the exact function of the weights, up to the rounding of auto_LiRPA in float64.

    Args:
        model: in evaluation mode; maps (N, C, H, W) to (N, classes).  With ``sound`` a sequential float32 net of
            layers in ``rounding.RULES``.
        x: (N, C, H, W) pixels in [low, high].
        labels: (N,) int64.
        eps: ℓ∞ radius in units of x, ≥ 0.
        method: a key of ``LIRPA_METHODS``.
        low, high: the pixel range; perturbed inputs stay inside it.
        batch_size: samples bounded at a time.
        progress: whether to show a progress bar.
        sound: whether to cover rounding.

    Returns:
        (N,) float64; −∞ where an activation may overflow, or an intermediate bound is far looser than an
        interval bound.

    Raises:
        ValueError: the method is unknown, eps is negative, the model is in training mode.
        TypeError, RuntimeError: with ``sound``, as ``rounding.check_program``.
    """
    from auto_LiRPA import BoundedModule, BoundedTensor, PerturbationLpNorm

    if method not in LIRPA_METHODS:
        raise ValueError(f"method must be one of {', '.join(LIRPA_METHODS)}, got {method!r}")
    _check(model, eps)
    if len(x) == 0:
        return x.new_zeros(0, dtype=torch.float64)
    exact = copy.deepcopy(model).double()
    classes = exact(x[:1].double()).shape[1]
    if sound:
        rounding.check_program(model, x)
        noisy.register()
        exact = noisy.Noisy(exact).eval()
    bounds, bounded = [], None
    with compat.float64_by_default():
        for i in tqdm(range(0, len(x), batch_size), desc=f"{method} ε={eps:g}", disable=not progress, leave=False):
            part = x[i : i + batch_size]
            C = specification(labels[i : i + batch_size], classes, torch.float64)
            lower, upper = rounding.box(part, eps, low, high)
            noises = exact.noises(lower, upper) if sound else None
            amounts = noises.between if sound else ()
            if bounded is None:
                first = (part[:1].double(), *(a[:1] for a in amounts))
                bounded = BoundedModule(exact, first, device=x.device, verbose=False)
            ball = BoundedTensor(part.double(), PerturbationLpNorm(norm=math.inf, x_L=lower, x_U=upper))
            bound, _ = bounded.compute_bounds(
                x=(ball, *amounts), C=C, method=LIRPA_METHODS[method], bound_upper=False
            )
            if sound:
                bound = bound - torch.where(C == 0, 0, noises.slack(bounded).unsqueeze(1)).sum(2)
            bounds.append(bound.amin(1))
    return torch.cat(bounds)


@torch.no_grad()
def certify(
    model: nn.Module, x: Tensor, labels: Tensor, eps: float, methods: Iterable[str] = CERTIFICATES, *,
    low: float = 0.0, high: float = 1.0, batch_size: int = 256, progress: bool = False, sound: bool = True,
) -> dict[str, Tensor]:
    """Which samples are certified: correctly classified, with the same prediction everywhere within eps.

    No single method is best: on a distance net a linear bound can be looser than an interval bound.

    Args:
        model: in evaluation mode; for "lipschitz" every layer needs a Lipschitz bound.
        methods: of ``CERTIFICATES``.
        others: as ``margin_bound``.

    Returns:
        (N,) bool for each method, and for "best", which is true where any of them is.

    Raises:
        ValueError: a method is unknown, eps is negative, the model is in training mode.
        TypeError, RuntimeError: with ``sound``, as ``rounding.check_program``.
    """
    methods = list(methods)
    unknown = [m for m in methods if m not in CERTIFICATES]
    if unknown:
        raise ValueError(f"methods must be among {', '.join(CERTIFICATES)}, got {unknown[0]!r}")
    _check(model, eps)
    logits = torch.cat([model(part) for part in x.split(batch_size)]) if len(x) else x.new_zeros(0, 2)
    correct = logits.argmax(1) == labels
    certified = {}
    for method in methods:
        if method == "lipschitz":
            if sound:
                radius = rounding.sound_radius(model, x, labels, batch_size=batch_size)
            else:
                radius = certified_radius(logits, labels, lipschitz_bound(model))
            certified[method] = radius.double() > eps
        else:
            bound = margin_bound(
                model, x, labels, eps, method, low=low, high=high, batch_size=batch_size, progress=progress,
                sound=sound,
            )
            certified[method] = correct & (bound > 0)
    certified["best"] = torch.stack(list(certified.values())).any(0) if methods else torch.zeros_like(correct)
    return certified


def _check(model: nn.Module, eps: float) -> None:
    if model.training:
        raise ValueError("model is in training mode: call model.eval() before certifying it")
    if not 0 <= eps < math.inf:
        raise ValueError(f"eps must be finite and at least 0, got {eps}")
