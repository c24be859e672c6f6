"""Folds batch normalisation into the layers before it."""

import torch
from torch import nn

from .net import Net

ADVICE = "fold it into the layer before it first, with linf_plugin.fold_batch_norm(net)"  # where a table refuses it
FOLDED = {"batch_norm": "conv", "batch_norm_rows": "linear"}  # layer of a spec → the layer that takes it up


@torch.no_grad()
def fold_batch_norm(net: Net) -> Net:
    """Returns a net without batch normalisation that computes the same function, up to rounding.

    In evaluation mode a normalisation multiplies each channel by s = γ/√(variance + eps) and adds a constant.  The new
    weights W′ = s·W and b′ = s·(b − mean) + β are computed in float64 and rounded once.  So the new net is another
    float32 program: measure and certify the one that you use.  Its plain layers are easier for verifiers, and its
    bounds cost less.

    Args:
        net: in evaluation mode.

    Returns:
        A new net in evaluation mode.  A net without batch normalisation is returned as it is.

    Raises:
        ValueError: the net is in training mode, or a normalisation does not follow a layer that can take it up.
    """
    if net.training:
        raise ValueError("net is in training mode: call net.eval() first")
    spec, state = net.spec, net.state_dict()
    names = [name for name, _ in spec["layers"]]
    if not FOLDED.keys() & set(names):
        return net
    kept, tensors = [], {}
    for i, (layer, (name, arguments)) in enumerate(zip(net, spec["layers"])):
        if name in FOLDED:
            before = len(kept) - 1
            if i == 0 or names[i - 1] != FOLDED[name]:
                raise ValueError(f"layer {i} of net, {name}, does not follow a {FOLDED[name]} layer")
            kept[before] = [FOLDED[name], {**kept[before][1], "bias": True}]
            _fold(layer, tensors, f"{before}.")
            continue
        tensors |= {f"{len(kept)}{key[len(str(i)) :]}": a for key, a in state.items() if key.startswith(f"{i}.")}
        kept.append([name, arguments])
    folded = Net({**spec, "layers": kept}).to(next(net.parameters()).device)
    folded.load_state_dict(tensors)
    return folded.eval()


def _fold(layer: nn.BatchNorm1d | nn.BatchNorm2d, tensors: dict[str, torch.Tensor], before: str) -> None:
    weight, bias = tensors[before + "weight"], tensors.get(before + "bias")
    scale = layer.weight.double() * (layer.running_var.double() + layer.eps).rsqrt()
    offset = layer.running_mean.double() if bias is None else layer.running_mean.double() - bias.double()
    by_row = scale.view(-1, *[1] * (weight.dim() - 1))
    tensors[before + "weight"] = (weight.double() * by_row).to(weight.dtype)
    tensors[before + "bias"] = (layer.bias.double() - offset * scale).to(weight.dtype)
