"""The constants of the certified radius in ℓ2: a Lipschitz bound of each pair of classes, and what rounding costs."""

import copy
import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from linf_plugin.certificates.pairs import LEAST, MOST, SPARE, pair_bounds
from linf_plugin.float32.reach import layers
from linf_plugin.float32.rules import OUTWARD
from linf_plugin.layers.lipschitz import lipschitz_bound
from linf_plugin.layers.potential import Potential
from linf_plugin.layers.shifts import Normalize
from linf_plugin.models.net import Net
from linf_plugin.norms import apart

from .certificate import BITS, BYTE_ROUNDING, LIPSCHITZ_BITS, up
from .rounding_l2 import error_line
from .settings import PIXELS

MOST_PAIRED = 1024  # classes; with more of them one bound holds for all pairs, because a file would hold 8 MB of bounds
MOST_ROWS, MOST_PRODUCTS = 1 << 13, 1 << 42  # of the matrices whose norms are bounded; of all products that this takes
L2 = 2.0


@dataclass(frozen=True)
class PairConstants:
    """The constants of ``linf::PairwiseRadius``.

    Attributes:
        lipschitz: the ℓ2 Lipschitz bound of the net, in units of the input.  It is only for the metadata.
        pairs: bounds of the differences of two logits, with rounding, in units of the input: (classes, classes), or
            (1, 1) for all pairs.
        centre: the image from which distances are measured, in pixels; broadcasts to a sample.
        slack, slope: what is subtracted from a difference: slack + slope·‖x − centre‖₂, with x in pixels.
        most: the largest radius, in units of the input.
    """

    lipschitz: float
    pairs: np.ndarray
    centre: np.ndarray
    slack: float
    slope: float
    most: float


@torch.no_grad()
def pair_constants(net: Net, pixels: str = "float") -> PairConstants:
    """The constants with which min_j (ẑ_y − ẑ_j − slack − slope·‖x − centre‖₂) / pairs_yj is a radius in ℓ2 of the
    float32 program, for its float32 logits ẑ.

    Let K_yj bound how fast the exact f_y − f_j changes (``pair_bounds``), and let fixed + slope·R bound the ℓ2 norm of
    the rounding error of all logits within R of the centre (``error_line``).  The difference of two logits is then off
    by at most e(R) = √2·(fixed + slope·R).  For x in [0, 1]^d at a distance t from the centre, r ≤ √d and
    ‖x′ − x‖₂ < r, ẑ(x′)_y − ẑ(x′)_j > ẑ(x)_y − ẑ(x)_j − K_yj·r − e(t) − e(t + r).  This is not negative if
    (K_yj + √2·slope)·r ≤ ẑ(x)_y − ẑ(x)_j − 2√2·(fixed + slope·t).  Bytes are divided by 255 first.  Each quotient is
    off by at most 2⁻²⁵, so ‖x′ − x‖₂ grows by at most √d·2⁻²⁴.  The largest bound times this is added to the slack.

    Args:
        net: the net.
        pixels: a key of ``PIXELS``.

    Raises:
        ValueError: an activation may overflow, the net is not a float32 program in evaluation mode, or its matrices are
            too large (``check_cost``).
        TypeError: a layer has no rounding rule, or no ℓ2 Lipschitz bound.
    """
    check_cost(net)
    exact = copy.deepcopy(net).double().cpu()
    bounds = [lipschitz_bound(layer, L2) for layer in layers(exact)]
    centre = _centre(exact)
    whole = centre.expand(net.input_shape)
    diagonal = math.sqrt(whole.numel())  # of the cube of images
    reached = float(torch.linalg.vector_norm(torch.maximum(whole.abs(), (1 - whole).abs()))) + diagonal
    line = error_line(exact, bounds, whole.unsqueeze(0), reached * OUTWARD)
    if not line.fixed < math.inf:
        raise ValueError("activations of model may overflow: no certificate holds")
    pairs = _pairs(exact, bounds).numpy() + apart(L2) * line.slope
    _, levels = PIXELS[pixels]
    slack = 2 * apart(L2) * line.fixed + (float(pairs.max()) * diagonal * BYTE_ROUNDING if levels > 1 else 0)
    return PairConstants(
        up(math.prod(bounds) / levels * OUTWARD, LIPSCHITZ_BITS),
        np.vectorize(up, otypes=[np.float64])(pairs / levels * OUTWARD, LIPSCHITZ_BITS),
        centre.numpy(),
        up(slack * OUTWARD, BITS),
        up(2 * apart(L2) * line.slope * OUTWARD, BITS),
        diagonal * (1 - 2.0**-50) * levels,
    )


def check_cost(net: Net) -> None:
    """Checks that ℓ2 bounds of the layers of a net can be computed: a small file can hold a layer that needs terabytes.

    Bounds are made from |WWᵀ|, or from the same of the shorter side of W, with all shifts of two kernels.

    Raises:
        ValueError: a matrix or all products together are too large.
    """
    products = 0
    for i, layer in enumerate(net):
        if not isinstance(layer, (nn.Linear, nn.Conv2d, Potential)):
            continue
        out, columns, *kernel = layer.weight.shape
        rows = out if isinstance(layer, Potential) else columns if isinstance(layer, nn.Conv2d) else min(out, columns)
        products += rows**2 * (out * columns // rows * math.prod(kernel) ** 2 + 300)  # and steps of power iteration
        if rows > MOST_ROWS or products > MOST_PRODUCTS:
            raise ValueError(
                f"layer {i} of model has a weight of shape {tuple(layer.weight.shape)}, and its ℓ2 norm would take too "
                "long to bound"
            )


def _centre(exact: Net) -> Tensor:
    """The image that the first layer maps to 0, if it subtracts a mean, with one number for each channel; otherwise ½.

    Most images are nearer to it than to a corner of the cube.  The radius holds for every centre.
    """
    first, dims = exact[0], len(exact.input_shape)
    if isinstance(first, Normalize):
        return first.mean.reshape(-1, *[1] * (dims - 1))
    return torch.full([1] * dims, 0.5, dtype=torch.float64)


def _pairs(exact: Net, bounds: list[float]) -> Tensor:
    """``pair_bounds``, or (1, 1) if there are too many classes.  The first of these may come from a file of anyone."""
    last = exact[-1]
    if isinstance(last, nn.Linear) and last.out_features > MOST_PAIRED:
        whole = min(max(apart(L2) * math.prod(bounds) * SPARE, LEAST), MOST)
        return torch.full((1, 1), whole, dtype=torch.float64)
    return pair_bounds(exact, L2, bounds)
