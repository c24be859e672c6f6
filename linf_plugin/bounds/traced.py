"""What tracing a net for auto_LiRPA has to know of each layer type."""

from typing import NamedTuple

from torch import nn

from ..layers.distance import LinfDistConv2d, LinfDistLinear
from ..layers.shifts import CenterCrop, MeanShift, Negate, Normalize
from ..layers.sort import SortDistLinear


class Traced(NamedTuple):
    """Of one layer type.

    guarded: whether ``guard_bounded_module`` checks every net with such a layer, and refuses it in training mode.
    in_training: attributes that the layer reads in training mode only; the traced graph does not depend on them, and a
        subclass may read them elsewhere.
    """

    guarded: bool = False
    in_training: frozenset[str] = frozenset()


TRACED: dict[type[nn.Module], Traced] = {
    Normalize: Traced(),
    CenterCrop: Traced(),
    nn.Flatten: Traced(),
    nn.Identity: Traced(),
    LinfDistLinear: Traced(guarded=True),
    LinfDistConv2d: Traced(guarded=True),
    SortDistLinear: Traced(guarded=True, in_training=frozenset({"_p", "group"})),
    MeanShift: Traced(guarded=True, in_training=frozenset({"momentum", "samples_seen", "sum_over_ranks"})),
    Negate: Traced(),
    nn.Linear: Traced(),
    nn.Conv2d: Traced(),
    nn.ReLU: Traced(),
    nn.Tanh: Traced(),
}
