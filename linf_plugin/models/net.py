"""A model is a list of ``[layer, arguments]``, and one class builds it."""

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

    With ``"normal_head": True`` in it, linear layers start with weights N(0, 1/fan_in) and biases 0, as the heads
    of Zhang et al. (arXiv 2102.05363) do; else as ``nn.Linear`` does, with a third of that variance.

    Maps (N, C, H, W) with pixels in [0, 1] to logits (N, classes).

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
        """A layer, or for a slice a plain ``Sequential``."""
        return nn.Sequential(*list(self)[index]) if isinstance(index, slice) else super().__getitem__(index)

    @property
    def spec(self) -> dict:
        """What rebuilds this model, with the current p, strides and the like.

        Raises:
            ValueError: a layer was added, removed or replaced, so that no spec rebuilds it.
        """
        spec = copy.deepcopy(self._spec)
        kinds, made = [type(layer) for layer in self], [LAYERS[name] for name, _ in spec["layers"]]
        if kinds != made:
            common = min(len(kinds), len(made))
            at = next((i for i in range(common) if kinds[i] is not made[i]), common)
            raise ValueError(
                f"the layers of this Net are no longer those it was built from, from layer {at} on: build it anew from "
                "a spec with these layers"
            )
        for (_, arguments), layer in zip(spec["layers"], self):
            _follow(arguments, layer)
        return spec

    @property
    def input_shape(self) -> tuple[int, ...]:
        """(C, H, W)."""
        return tuple(self._spec["input_shape"])

    @property
    def lipschitz(self) -> float:
        """``lipschitz_bound(net, math.inf)``, logits per unit of pixel range.  Deprecated: it does not name its norm."""
        warn_once("the attribute lipschitz", "lipschitz_bound(module, math.inf), with the norm")
        return lipschitz_bound(self[:], math.inf)

    def split_head(self) -> tuple[nn.Sequential, nn.Sequential]:
        """(distance features, head from the first linear layer on); the head is empty where there is none."""
        layers = list(self)
        first = next((i for i, layer in enumerate(layers) if isinstance(layer, nn.Linear)), len(layers))
        return self[:first], self[first:]

    def pairs_per_sample(self) -> int:
        """Coordinate pairs (multiply-adds of a linear layer) that one sample costs."""
        return sum(pairs for _, pairs in values(self._spec))


# Arguments that say how a layer starts, and what its state says.
OF_THE_START = ("bias", "identity_init", "mean")


def _follow(arguments: dict, layer: nn.Module) -> None:
    """Sets the arguments that a layer was built with to what it has now, where that is something else."""
    if isinstance(layer, Normalize):
        if type(layer)((0.0,), arguments["std"]).scale != layer.scale:
            arguments["std"] = 1 / layer.scale
        return
    for name, parameter in inspect.signature(type(layer)).parameters.items():
        if name in OF_THE_START or not hasattr(layer, name):
            continue
        now, then = getattr(layer, name), arguments.get(name, parameter.default)
        if isinstance(now, tuple):  # of a convolution
            now, then = list(now), list(then) if isinstance(then, (tuple, list)) else [then, then]
        if name == "p" or now != then:
            arguments[name] = now
