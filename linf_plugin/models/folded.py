"""Folds batch normalisation into the layers before it."""

import torch
from torch import Tensor, nn

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
        A new net in evaluation mode, on the same device and of the same dtype.  A net without batch normalisation is
        returned as it is.

    Raises:
        ValueError: the net is in training mode; a normalisation does not follow a layer that can take it up; it has no
            running statistics; or a layer of the net was added, removed or replaced.
    """
    if any(layer.training for layer in net):
        raise ValueError("net is in training mode: call net.eval() first")
    if not any(isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d)) for layer in net):
        return net
    spec, state = net.spec, net.state_dict()
    kept, tensors = [], {}
    for i, (layer, (name, arguments)) in enumerate(zip(net, spec["layers"])):
        if name not in FOLDED:
            tensors |= {f"{len(kept)}{key[len(str(i)) :]}": a for key, a in state.items() if key.startswith(f"{i}.")}
            kept.append([name, arguments])
            continue
        if not kept or kept[-1][0] != FOLDED[name]:
            raise ValueError(f"layer {i} of net, {name}, does not follow a {FOLDED[name]} layer")
        if layer.running_mean is None:
            raise ValueError(f"layer {i} of net, {name}, has no running statistics: it normalises by its batch")
        kept[-1] = [FOLDED[name], {**kept[-1][1], "bias": True}]
        _fold(layer, tensors, f"{len(kept) - 1}.")
    with torch.random.fork_rng(devices=[]):  # the new weights are not used
        folded = Net({**spec, "layers": kept})
    folded.to(next(a for a in net.parameters()))
    folded.load_state_dict(tensors)
    return folded.eval()


def _fold(layer: nn.BatchNorm1d | nn.BatchNorm2d, tensors: dict[str, Tensor], before: str) -> None:
    """Replaces the weight and the bias of the layer whose tensors begin with ``before``."""
    weight, bias = tensors[before + "weight"], tensors.get(before + "bias")
    scale = (layer.running_var.double() + layer.eps).rsqrt()
    scale = scale if layer.weight is None else layer.weight.double() * scale
    offset = (0 if bias is None else bias.double()) - layer.running_mean.double()
    shift = 0 if layer.bias is None else layer.bias.double()
    by_row = scale.view(-1, *[1] * (weight.dim() - 1))
    tensors[before + "weight"] = (weight.double() * by_row).to(weight.dtype)
    tensors[before + "bias"] = (offset * scale + shift).to(weight.dtype)
