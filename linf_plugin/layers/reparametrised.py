"""Layers for training whose weights are computed from other parameters, and what replaces them after training."""

import torch
from torch import Tensor, nn

from . import growth

# Where a table has no row for such a layer.
MATERIALISE = "it is a form for training: replace it first, with linf_plugin.materialise(net)"
SHRINKS = 4  # how often a weight is made a little smaller until its bound is 1
NEARLY = 1 + 2.0**-12  # a larger excess is no matter of rounding, so the weight is left as it is
ROOM = 1 - 2.0**-22  # covers the rounding of a weight to float32 in most cases


class Reparametrised:
    """A layer that is replaced after training.  It is no float32 program with stored weights."""

    def plain(self) -> nn.Module:
        """Returns the layer that replaces it: the same function up to rounding, with weights that are stored.

        The weights are computed in float64 and rounded once.  If the certified ℓ2 bound of the result is above 1 by
        rounding only, the weight is made smaller by some units of its last digit until the bound is 1.
        """
        raise NotImplementedError


@torch.no_grad()
def fitted(made: nn.Module, weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> nn.Module:
    """Returns a layer with these parameters.  Its ℓ2 bound is at most 1 if that is only a matter of rounding.

    Args:
        made: the layer, on the device "meta".
        weight, bias: float64, where the layer shall be.
        dtype: of its parameters.
    """
    factor = 1.0
    for _ in range(SHRINKS):
        made.weight = nn.Parameter((weight * factor).to(dtype))
        excess = growth.excess(made)
        if not 1 < excess <= NEARLY:
            break
        factor *= ROOM / excess
    if bias is not None:
        made.bias = nn.Parameter(bias.to(dtype))
    return made.eval()
