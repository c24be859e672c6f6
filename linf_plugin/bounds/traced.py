"""The facts about each layer type that tracing a net for auto_LiRPA needs."""

from typing import NamedTuple

from torch import nn

from ..layers.activations import MaxMin, ParamRamp
from ..layers.distance import LinfDistConv2d, LinfDistLinear
from ..layers.facts import RANDOM, TRAINED
from ..layers.noise import DRAWS
from ..layers.potential import PotentialConv2d, PotentialLinear
from ..layers.reparametrised import MATERIALISE
from ..layers.shifts import CenterCrop, MeanShift, Negate, Normalize
from ..layers.sort import SortDistLinear
from ..refusal import Refusal, rule_of


class Traced(NamedTuple):
    """The facts of one layer type.

    Attributes:
        guarded: whether ``guard_bounded_module`` checks every net with such a layer, and refuses it in training mode.
        in_training: attributes that the layer reads only in training mode, so that the traced graph does not depend on
            them.  This does not hold for subclasses, which may read them in evaluation mode too.
    """

    guarded: bool = False
    in_training: frozenset[str] = frozenset()


TRACED: dict[type[nn.Module], Traced | Refusal] = {
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
    nn.BatchNorm1d: Traced(),
    nn.BatchNorm2d: Traced(),
    ParamRamp: Traced(),  # its leak counts in training mode, in which it may be traced too
    MaxMin: Traced(),
    PotentialLinear: Traced(),
    PotentialConv2d: Traced(),
    **dict.fromkeys(TRAINED, Refusal(MATERIALISE)),
    **dict.fromkeys(RANDOM, Refusal(DRAWS)),
}


def check_traced(model: nn.Module) -> None:
    """Raises TypeError for a net with a layer that is not traced on purpose.  The message names the layer."""
    for module in model.modules():
        if isinstance(TRACED.get(type(module)), Refusal):
            rule_of(TRACED, module, "bound by auto_LiRPA")
