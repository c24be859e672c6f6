"""A model is described by a list of ``[layer, arguments]``.  One class builds it from this list."""

import copy
import inspect
import math

from torch import nn

from ..layers.facts import LAYERS
from ..layers.lipschitz import lipschitz_bound
from ..layers.shifts import Normalize
from ..moved import warn_once
from .spec import check_spec, values


class Net(nn.Sequential):
    """A model built from ``spec``: ``{"input_shape": [C, H, W], "layers": [[name, arguments], …]}``.

    If the spec has ``"normal_head": True``, linear layers start with weights N(0, 1/fan_in) and biases 0, as the heads
    of Zhang et al. (arXiv 2102.05363) do.  Otherwise they start as ``nn.Linear`` does, with a third of this variance.

    The model maps (N, C, H, W) with pixels in [0, 1] to logits (N, classes).  A net for rows of F numbers in [0, 1] has
    the input_shape [F] and maps (N, F).  Its first dimension, the columns, takes the place of channels.

    Raises:
        ValueError, TypeError: as ``spec.check_spec``: a layer or an argument is unknown, missing or out of its range.
    """

    def __init__(self, spec: dict):
        check_spec(spec)
        super().__init__(*(LAYERS[name](**arguments) for name, arguments in spec["layers"]))
        self._spec = copy.deepcopy(spec)
        if spec.get("normal_head", False):
            for layer in self:
                if isinstance(layer, nn.Linear):
                    nn.init.normal_(layer.weight, std=1 / math.sqrt(layer.in_features))
                    if layer.bias is not None:
                        nn.init.zeros_(layer.bias)

    def __getitem__(self, index):
        """Returns a layer, or for a slice a plain ``Sequential`` of layers."""
        return nn.Sequential(*list(self)[index]) if isinstance(index, slice) else super().__getitem__(index)

    @property
    def spec(self) -> dict:
        """The spec from which this model can be rebuilt, with the current p, strides and the like.

        Raises:
            ValueError: a layer was added, removed or replaced, so no spec rebuilds the model.
        """
        spec = copy.deepcopy(self._spec)
        kinds, made = [type(layer) for layer in self], [LAYERS[name] for name, _ in spec["layers"]]
        if kinds != made:
            common = min(len(kinds), len(made))
            at = next((i for i in range(common) if kinds[i] is not made[i]), common)
            raise ValueError(
                f"the layers of this Net are no longer those it was built from, from layer {at} on: build a new Net "
                "from a spec with these layers"
            )
        for (_, arguments), layer in zip(spec["layers"], self):
            _follow(arguments, layer)
        return spec

    @property
    def input_shape(self) -> tuple[int, ...]:
        """(C, H, W) or (F,)."""
        return tuple(self._spec["input_shape"])

    @property
    def lipschitz(self) -> float:
        """``lipschitz_bound(net, math.inf)``, in logits per unit of pixel range.

        Deprecated, because the attribute does not name its norm.
        """
        warn_once("the attribute lipschitz", "lipschitz_bound(module, math.inf), with the norm")
        return lipschitz_bound(self[:], math.inf)

    def split_head(self) -> tuple[nn.Sequential, nn.Sequential]:
        """Returns (distance features, head).  The head begins with the first linear layer; without one it is empty."""
        layers = list(self)
        first = next((i for i, layer in enumerate(layers) if isinstance(layer, nn.Linear)), len(layers))
        return self[:first], self[first:]

    def pairs_per_sample(self) -> int:
        """Returns how many coordinate pairs (for linear layers: multiply-adds) one sample costs."""
        return sum(pairs for _, pairs in values(self._spec))


# Arguments that describe how a layer starts, or that its state holds.
OF_THE_START = ("bias", "identity_init", "mean", "top")


def _follow(arguments: dict, layer: nn.Module) -> None:
    """Updates the arguments with which a layer was built, where the layer has other values now."""
    if isinstance(layer, Normalize):
        if type(layer)((0.0,), arguments["std"]).scale != layer.scale:
            arguments["std"] = 1 / layer.scale
        return
    for name, parameter in inspect.signature(type(layer)).parameters.items():
        if name in OF_THE_START or not hasattr(layer, name):
            continue
        now, then = getattr(layer, name), arguments.get(name, parameter.default)
        if isinstance(now, tuple):  # a pair of a convolution, such as its stride
            now, then = list(now), list(then) if isinstance(then, (tuple, list)) else [then, then]
        if name == "p" or now != then:
            arguments[name] = now
