"""How far the difference of two logits can move: a Lipschitz bound for each pair of classes."""

import math

import torch
from torch import Tensor, nn

from ..arguments import check_forward
from ..layers.circulant import DiagonalCirculant
from ..layers.fixed import NormalizedRows
from ..layers.lipschitz import is_plain, lipschitz_bound
from ..norms import apart, check_norm

SPARE = 1 + 2.0**-30  # covers the float64 rounding of products of bounds and of norms of rows
LEAST, MOST = 2.0**-900, 2.0**900  # a bound outside of them is of no use: radii are float32 numbers
DUAL = {math.inf: 1.0, 2.0: 2.0, 1.0: math.inf}


@torch.no_grad()
def pair_bounds(model: nn.Module, norm: float | str = math.inf, bounds: list[float] | None = None) -> Tensor:
    """Returns Lipschitz bounds of the differences of two logits: K with |Δ(z_i − z_j)| ≤ K_ij·‖Δx‖.

    If the last layer is linear with rows w, z_i − z_j = (w_i − w_j)·h + b_i − b_j with the features h, which move by at
    most L(features)·‖Δx‖.  By Hölder the difference moves by at most L(features)·‖w_i − w_j‖_*·‖Δx‖ in the dual norm.
    Singla et al. (arXiv 2108.04062).  The bound is the lower one of this and of apart(norm)·L(model), which holds for
    every pair and every net.

    Args:
        model: a net whose Lipschitz bound in this norm is known, with weights as float32 or float64.
        norm: of Δx and of the features: ``math.inf``, 2 or 1, or a key of ``norms.NORMS``.
        bounds: the Lipschitz bounds of the layers of a sequential net in this norm, if they are known already.

    Returns:
        (classes, classes) float64 if the last layer is linear, else (1, 1).  The bounds are rounded up, and lie between
        2^-900 and 2^900.  Those of a class and itself have no meaning.

    Raises:
        TypeError, ValueError, RuntimeError: as ``lipschitz_bound``.
    """
    norm = check_norm(norm)
    before, head = _split(model)
    if bounds is None:
        bounds = [lipschitz_bound(layer, norm) for layer in (*before, *(() if head is None else (head,)))]
    whole = math.prod(bounds)
    device = next((a.device for a in model.parameters()), torch.device("cpu"))
    every = torch.full((1, 1), apart(norm) * whole, dtype=torch.float64, device=device)
    if head is None:
        return (every * SPARE).clamp(LEAST, MOST)
    rows = head.weight.detach().double()
    features = math.prod(bounds[:-1])
    distances = torch.stack([torch.linalg.vector_norm(rows - row, DUAL[norm], dim=1) for row in rows])
    return (torch.minimum(features * distances, every) * SPARE).clamp(LEAST, MOST)


def _split(model: nn.Module) -> tuple[list[nn.Module], nn.Linear | None]:
    """Returns the layers before the last one, and the last one if it is linear.  Otherwise all layers, and None."""
    if type(model) is nn.Linear:
        return [], model
    if type(model) in (NormalizedRows, DiagonalCirculant):
        return [], model.plain()
    if not is_plain(model) or not len(model):
        return [model], None
    check_forward(f"the {type(model).__name__}", model)
    *before, last = model
    more, head = _split(last)
    return [*before, *more], head


def of_labels(pairs: Tensor, labels: Tensor) -> Tensor:
    """Returns the bounds of the differences to the label of each sample: (N, classes), or (N, 1)."""
    pairs = pairs.to(labels.device)
    return pairs.expand(len(labels), 1) if len(pairs) == 1 else pairs[labels.long()]
