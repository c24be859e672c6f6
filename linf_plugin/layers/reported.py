"""What the layers of this package tell the reports of ``spectral``."""

from torch import nn

from ..spectral.told import ROOMS, Room, Told
from .facts import TRAINED
from .growth import inner_map
from .lipschitz import lipschitz_bound
from .potential import PotentialConv2d, PotentialLinear
from .reparametrised import MATERIALISE

INNER_MAPS = {PotentialLinear: inner_map, PotentialConv2d: inner_map}  # layer type → layer → the linear map in it


def _tells(layer: nn.Module) -> Told | None:
    if type(layer) in INNER_MAPS:
        return Told(tuple(layer.weight.shape), INNER_MAPS[type(layer)](layer))
    if type(layer) in TRAINED and any(True for _ in layer.parameters()):
        weight = getattr(layer, "weight", None)  # diagonal-circulant layers have none
        shape = (layer.out_features, layer.features) if weight is None else tuple(weight.shape)
        return Told(shape, f"{type(layer).__name__} {MATERIALISE.removeprefix('it ')}")
    return None


def _constant(layer: nn.Module) -> float:
    return lipschitz_bound(layer, 2)


ROOMS.append(Room(_tells, _constant))
