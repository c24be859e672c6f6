"""What a recipe can name to change a net's weights before training: (net, arguments) → None, in place."""

import math

from torch import nn

from linf_plugin import Net


def _default(model: Net) -> None:
    """The weights stay as the net starts with them."""


def _interval(model: Net) -> None:
    """Weights of linear and convolutional layers from N(0, 2π/n²), n inputs of a neuron; biases 0.

    The mean width of interval bounds then stays what it is from a ReLU to the next: a layer makes it n·E|w| times as
    large, and a ReLU half as large, n·√(2/π)·(√(2π)/n)/2 = 1 (Shi et al., arXiv 2103.17268).
    """
    for layer in model.modules():
        if isinstance(layer, (nn.Linear, nn.Conv2d)):
            inputs = layer.weight[0].numel()
            nn.init.normal_(layer.weight, std=math.sqrt(2 * math.pi) / inputs)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


INITIALISATIONS = {"default": _default, "interval": _interval}
