"""A net with its certificates as one float32 program, which the ONNX file of a certified model computes.

All statements are about the float32 program, with its rounding.  docs/onnx.md has the proofs.
"""

import copy
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from linf_plugin.certificates.lipschitz import lipschitz_above
from linf_plugin.float32 import reach, rules
from linf_plugin.intervals import INTERVALS, Ends, Rule, apply_affine
from linf_plugin.layers.base import distance_layers
from linf_plugin.layers.facts import FACTS
from linf_plugin.layers.potential import Potential, PotentialConv2d, PotentialLinear
from linf_plugin.layers.sort import SortDistLinear
from linf_plugin.models.net import Net
from linf_plugin.refusal import Refusal

from .settings import PIXELS

BYTE_ROUNDING = 2.0**-24  # two quotients by 255 up to 1, each rounded by at most 2⁻²⁵
BOX_ROUNDING = 2.0**-23  # of x ± ε for x in [0, 1] and ε ≤ 1, of ε itself, and BYTE_ROUNDING, are at most 2⁻²³ together
WIDENING = 6  # times a layer's rounding error: that of a value, of an end of its interval, and of this addition
LIPSCHITZ_BITS, BITS = 20, 16  # of constants that are rounded up: of the Lipschitz bound, and of what rounding costs
MARGIN_WIDENING = 12  # the same for the difference of two logits of a linear layer


@dataclass(frozen=True)
class RadiusConstants:
    """The constants of ``linf::CertifiedRadius``, in units of the input: (margin − slack) / (2·lipschitz), at most
    ``most``."""

    lipschitz: float
    slack: float
    most: float


def wants_interval(net: Net) -> bool:
    """Whether intervals say more about a net than its Lipschitz bound.

    With linear layers that bound is a product of norms, which says next to nothing.  Where ReLUs clip pixels, only
    intervals use it.
    """
    return any(isinstance(layer, (nn.Linear, nn.Conv2d, nn.ReLU, Potential)) for layer in net)


def check_certifiable(net: nn.Module) -> None:
    """Checks that no distance of a net has a finite p.  Raises ValueError otherwise."""
    finite = [layer.p for layer in distance_layers(net) if not isinstance(layer, SortDistLinear) and layer.p < math.inf]
    if finite:
        raise ValueError(
            f"the net has p = {finite[0]:g}, and certificates are for p = ∞: finish its training at p = ∞ "
            "(linf_plugin.set_p), or export it without a certificate (certificate='none')"
        )


@torch.no_grad()
def radius_constants(
    net: nn.Module, pixels: str = "float", input_shape: tuple[int, ...] | None = None
) -> RadiusConstants:
    """The constants with which ``(margin − slack) / (2·lipschitz)`` is a radius of the float32 program, for the
    ``margin`` of its float32 logits.

    Let δ bound the rounding error of every logit on [−1, 2]^d, and let L be the net's Lipschitz bound.  For x in
    [0, 1]^d, r ≤ 1 and ‖x′ − x‖∞ < r, both points lie in [−1, 2]^d, and
    ẑ(x′)_y − ẑ(x′)_j > ẑ(x)_y − ẑ(x)_j − 2L·r − 4δ.  So slack = 4δ is enough.  Bytes are divided by 255 first.  Each
    quotient is off by at most 2⁻²⁵, so 2L·2⁻²⁴ is added to the slack.

    Args:
        net: a ``Net``, or the graph of a traced net.
        pixels: a key of ``PIXELS``.
        input_shape: of a sample; by default that of the ``Net``.

    Raises:
        ValueError: an activation may overflow on [−1, 2]^d, or the net is not a float32 program in evaluation mode.
        TypeError: a layer has no rounding rule, or no Lipschitz bound.
    """
    exact = copy.deepcopy(net).double().cpu()
    lower = torch.full((1, *(input_shape or net.input_shape)), -1.0, dtype=torch.float64)
    error = float(reach.reach(exact, lower, lower + 3).error.max())
    lipschitz = lipschitz_above(exact)
    if not error < math.inf:
        raise ValueError("activations of model may overflow: no certificate holds")
    _, levels = PIXELS[pixels]
    slack = 4 * error * rules.OUTWARD + (2 * lipschitz * BYTE_ROUNDING if levels > 1 else 0)
    lipschitz = lipschitz / levels * rules.OUTWARD
    return RadiusConstants(up(lipschitz, LIPSCHITZ_BITS), up(slack * rules.OUTWARD, BITS), float(levels))


def up(value: float, bits: int) -> float:
    """The least number that is not below value ≥ 0 and has at most this many bits.

    Another machine may add in another order, so its sum may differ by 1e-13 of itself.  After this rounding the
    constant is the same there, and so is a file that is written anew.
    """
    mantissa, exponent = math.frexp(value)
    return math.ldexp(math.ceil(math.ldexp(mantissa, bits)), exponent - bits) if value < math.inf else value


# Ends of intervals, layer by layer.  Rounding to nearest is monotone, so the ends of a distance, a shift or a ReLU
# bound the float32 values exactly as computed.  The ends of all other layers are widened afterwards.


def _by_signs(layer: nn.Linear | nn.Conv2d, ends: Ends) -> Ends:
    """W₊·lower + W₋·upper + b and W₊·upper + W₋·lower + b.

    ``widenings`` bounds the rounding of this form, and the graph has its nodes.
    """
    lower, upper = ends
    up, down = layer.weight.clamp_min(0), layer.weight.clamp_max(0)
    return (
        apply_affine(layer, lower, up, layer.bias) + apply_affine(layer, upper, down, None),
        apply_affine(layer, upper, up, layer.bias) + apply_affine(layer, lower, down, None),
    )


def _potential_by_signs(layer: Potential, ends: Ends) -> Ends:
    """The same for both products of the layer: the lower end minus the upper one of the branch, and vice versa."""
    into, back = layer.branch()
    low, high = _by_signs(back, tuple(F.relu(end) for end in _by_signs(into, ends)))
    return ends[0] - high, ends[1] - low


END_RULES: dict[type[nn.Module], Rule | Refusal] = {
    **INTERVALS,
    nn.Linear: _by_signs,
    nn.Conv2d: _by_signs,
    PotentialLinear: _potential_by_signs,
    PotentialConv2d: _potential_by_signs,
}


@torch.no_grad()
def widenings(net: Net) -> list[float]:
    """By how much each layer's ends are moved outwards, so that they bound its float32 values for all inputs in
    [0, 1]^d; for a linear layer at the end, what the difference of two logits must exceed.

    With e a layer's rounding error by ``rules.ROUNDING``, on all that its input may be, the value is off by e, an
    end by at most 3·e (it sums up to twice as many products) and the widening by e: 5·e, of which ``WIDENING`` makes
    6.  A difference of two logits is off by 2·e, its bound by at most 5·e (weights are subtracted first):
    ``MARGIN_WIDENING`` makes 12.

    Raises:
        ValueError: an activation may overflow.
    """
    exact = copy.deepcopy(net).double().cpu()
    lower = torch.full((1, *net.input_shape), -BOX_ROUNDING, dtype=torch.float64)
    x, found = rules.Reach(lower, 1 - lower, torch.zeros_like(lower)), []
    for i, layer in enumerate(exact):
        y = rules.ROUNDING[type(layer)](layer, x)
        times = MARGIN_WIDENING if i == len(exact) - 1 else WIDENING
        by = times * float(y.error.max()) * rules.OUTWARD if not FACTS[type(layer)].ends_hold else 0.0
        if not by < math.inf or not y.upper.isfinite().all():
            raise ValueError("activations of model may overflow: no certificate holds")
        by = up(by, BITS)
        found.append(above(by))
        x = rules.Reach(y.lower - 2 * by, y.upper + 2 * by, torch.zeros_like(y.error))
    return found


def above(value: float) -> float:
    """The least float32 number that is not below value ≥ 0."""
    rounded = torch.tensor(value, dtype=torch.float32)
    if rounded.item() < value:
        rounded = torch.nextafter(rounded, torch.tensor(math.inf))
    return rounded.item()


class CertifiedNet(nn.Sequential):
    """A net with its interval bound: x → logits, and with ``epsilon`` x → (logits, certified).

    ``certified`` (N,) bool: the prediction is the same for every x′ in [0, 1]^d with ‖x′ − x‖∞ ≤ epsilon.  This follows
    from the intervals of each layer (Gowal et al., arXiv 1810.12715) and, where the last layer is linear, from the
    differences of its rows.  It is False where x is not in [0, 1]^d.

    Args:
        net: float32, in evaluation mode; its layers are shared.
        epsilon: in units of the pixel range; None: no interval bound.

    Raises:
        ValueError: as ``check_certifiable`` and ``widenings``.
    """

    def __init__(self, net: Net, epsilon: float | None = None):
        super().__init__(*net)
        self.reach = None
        if epsilon is not None:
            check_certifiable(net)
            self.reach = above(epsilon + BOX_ROUNDING)
            self.widenings = widenings(net)
        self.eval()

    def forward(self, x: Tensor):
        logits = super().forward(x)
        if self.reach is None:
            return logits
        return logits, self._least_difference(x, logits.argmax(1)) & ((x >= 0) & (x <= 1)).flatten(1).all(1)

    def _least_difference(self, x: Tensor, predicted: Tensor) -> Tensor:
        """(N,) bool: whether the predicted logit stays above all others."""
        layers = list(self)
        ends = (x - self.reach).clamp_min(0), (x + self.reach).clamp_max(1)
        last = layers[-1]
        for layer, by in zip(layers[:-1] if isinstance(last, nn.Linear) else layers, self.widenings):
            lower, upper = END_RULES[type(layer)](layer, ends)
            ends = (lower - by, upper + by) if by else (lower, upper)
        lower, upper = ends
        label = predicted.unsqueeze(1)
        if isinstance(last, nn.Linear):
            rows = last.weight.index_select(0, predicted).unsqueeze(1) - last.weight  # (N, classes, features)
            least = (rows.clamp_min(0) @ lower.unsqueeze(2) + rows.clamp_max(0) @ upper.unsqueeze(2)).squeeze(2)
            if last.bias is not None:
                least = least + (last.bias.index_select(0, predicted).unsqueeze(1) - last.bias)
            above = least > self.widenings[-1]
        else:
            above = lower.gather(1, label) > upper
        return (above | (torch.arange(above.shape[1]) == label)).all(1)
