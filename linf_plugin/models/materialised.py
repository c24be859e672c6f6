"""Replaces what is there for training only: batch normalisation, and layers whose weights are computed."""

import copy

import torch
from torch import nn

from ..layers.facts import FACTS
from ..layers.potential import PotentialConv2d, PotentialLinear
from ..layers.reparametrised import Reparametrised
from .folded import fold_batch_norm
from .net import Net

ARGUMENTS: dict[type[nn.Module], tuple[str, ...]] = {  # layer that stays → its arguments in a spec, besides the bias
    nn.Linear: ("in_features", "out_features"),
    nn.Conv2d: ("in_channels", "out_channels", "kernel_size", "stride", "padding", "groups"),
    PotentialLinear: ("features", "inner"),
    PotentialConv2d: ("channels", "inner", "kernel_size"),
}


@torch.no_grad()
def materialise(net: nn.Module) -> nn.Module:
    """Returns a net of layers with stored weights that computes the same function, up to rounding.

    Batch normalisation of a ``Net`` is folded (``fold_batch_norm``).  SLL, CPL, AOL and diagonal-circulant layers,
    normalised rows, padded channels and average pools become ``PotentialLinear``, ``PotentialConv2d``, ``nn.Linear``
    and ``nn.Conv2d`` (``Reparametrised.plain``).  The new net is a float32 program of its own: measure and certify the
    one that you use.

    Args:
        net: in evaluation mode.  Of a module that is no ``Net``, the layers are replaced in a copy.

    Returns:
        A new net in evaluation mode, on the same device and of the same dtype.  A net in which nothing is to be
        replaced is returned as it is.

    Raises:
        ValueError: the net is in training mode; a weight is not finite; or as ``fold_batch_norm``.
    """
    if any(m.training for m in net.modules()):
        raise ValueError("net is in training mode: call net.eval() first")
    if isinstance(net, Net):
        net = fold_batch_norm(net)
    if not any(isinstance(m, Reparametrised) for m in net.modules()):
        return net
    if isinstance(net, Net):
        return _rebuilt(net)
    if isinstance(net, Reparametrised):
        return net.plain()
    made = copy.deepcopy(net)
    for name, m in list(made.named_modules()):
        if isinstance(m, Reparametrised):
            made.set_submodule(name, m.plain())
    return made


def _rebuilt(net: Net) -> Net:
    spec, layers, like = net.spec, [], next(net.parameters())
    for layer, entry in zip(net, spec["layers"]):
        if isinstance(layer, Reparametrised):
            layer = layer.plain().to(like)
            entry = [FACTS[type(layer)].name, _arguments(layer)]
        layers.append((layer, entry))
    with torch.random.fork_rng(devices=[]):  # the new weights are not used
        made = Net({**spec, "layers": [entry for _, entry in layers]})
    made.to(like)
    made.load_state_dict(
        {f"{i}.{key}": a for i, (layer, _) in enumerate(layers) for key, a in layer.state_dict().items()}
    )
    return made.eval()


def _arguments(layer: nn.Module) -> dict:
    held = {name: getattr(layer, name) for name in ARGUMENTS[type(layer)]}
    return {name: list(a) if isinstance(a, tuple) else a for name, a in held.items()} | {"bias": layer.bias is not None}
