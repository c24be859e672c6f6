"""The initialisations that a recipe can name: (net, arguments) → None.  They change a net's weights in place."""

import math

from torch import nn

from linf_plugin import Net


def _default(model: Net) -> None:
    """Keeps the weights with which the net was built."""


def _interval(model: Net, last: bool = True) -> None:
    """Draws the weights of linear and convolutional layers from N(0, 2π/n²), and sets biases to 0.

    n is the number of inputs of a neuron.  Interval bounds then keep their mean width from one ReLU to the next: a
    layer multiplies it by n·E|w|, a ReLU by 1/2, and n·√(2/π)·(√(2π)/n)/2 = 1 (Shi et al., arXiv 2103.17268).
    ``last`` says whether the last layer is drawn so too; in that paper it is not.
    """
    layers = [layer for layer in model.modules() if isinstance(layer, (nn.Linear, nn.Conv2d))]
    for layer in layers if last else layers[:-1]:
        inputs = layer.weight[0].numel()
        nn.init.normal_(layer.weight, std=math.sqrt(2 * math.pi) / inputs)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


INITIALISATIONS = {"default": _default, "interval": _interval}
