"""The description of a net in a file: its layers as JSON, with what the weights do not show (p, ρ, k, strides).

The net is read back from it.  The description is only a claim.  ``verify`` writes a new file from the net that it
reads, and every node, constant and word of the old file must be the same.
"""

import json
import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from linf_plugin import plain
from linf_plugin.layers.activations import MaxMin, ParamRamp
from linf_plugin.layers.distance import LinfDistConv2d, LinfDistLinear
from linf_plugin.layers.facts import RANDOM, TRAINED
from linf_plugin.layers.noise import DRAWS
from linf_plugin.layers.potential import Potential, PotentialConv2d, PotentialLinear
from linf_plugin.layers.reparametrised import MATERIALISE
from linf_plugin.layers.shifts import CenterCrop, MeanShift, Negate, Normalize
from linf_plugin.layers.sort import SortDistLinear
from linf_plugin.models.folded import ADVICE
from linf_plugin.models.net import Net
from linf_plugin.models.spec import check_size, check_spec, tensor_shapes, values
from linf_plugin.refusal import Refusal, rule_of

Layer = tuple[str, dict, dict[str, Tensor]]  # name in a spec, arguments, weights


def _linear(layer: LinfDistLinear | nn.Linear) -> dict:
    out, features = layer.weight.shape
    return {"in_features": features, "out_features": out, "bias": layer.bias is not None}


def _exponent(layer: LinfDistLinear | LinfDistConv2d) -> dict:
    return {} if layer.p == math.inf else {"p": layer.p}


def _conv(layer: LinfDistConv2d | nn.Conv2d) -> dict:
    out, depth, *kernel = layer.weight.shape
    pairs = {name: getattr(layer, name) for name in ("stride", "padding", "dilation")}
    pairs = {name: a if isinstance(a, str) else list(a) for name, a in pairs.items()}
    mode = getattr(layer, "padding_mode", "zeros")
    return {
        "in_channels": depth * layer.groups,
        "out_channels": out,
        "kernel_size": kernel,
        **pairs,
        "groups": layer.groups,
        "bias": layer.bias is not None,
        **({} if mode == "zeros" else {"padding_mode": mode}),
    }


def _flatten(layer: nn.Flatten) -> dict:
    ends = layer.start_dim, layer.end_dim
    return {} if ends == (1, -1) else dict(zip(("start_dim", "end_dim"), ends))


def _potential(layer: Potential) -> dict:
    sizes = {"features": layer.weight.shape[1]}
    if isinstance(layer, PotentialConv2d):
        sizes = {"channels": layer.weight.shape[1], "kernel_size": list(layer.weight.shape[2:])}
    return sizes | {"inner": len(layer.weight), "bias": layer.bias is not None}


def _sorted_sum(layer: SortDistLinear) -> dict:
    """What the sum depends on at evaluation.  It has at most as many terms as there are coordinates."""
    return _linear(layer) | {"rho": layer.rho, "k": min(layer.k, layer.weight.shape[1])}


# Class of a layer → its name in a spec and its arguments, which make a layer that evaluates to the same.
DESCRIBED: dict[type[nn.Module], tuple[str, Callable[[nn.Module], dict]] | Refusal] = {
    Normalize: ("normalize", lambda layer: {"mean": layer.mean.tolist(), "std": 1 / layer.scale}),
    CenterCrop: ("crop", lambda layer: {"size": layer.size}),
    nn.Flatten: ("flatten", _flatten),
    nn.Identity: ("identity", lambda layer: {}),
    LinfDistLinear: ("dist", lambda layer: _linear(layer) | _exponent(layer)),
    LinfDistConv2d: ("dist_conv", lambda layer: _conv(layer) | _exponent(layer)),
    SortDistLinear: ("sort_dist", _sorted_sum),
    MeanShift: ("mean_shift", lambda layer: {"num_features": len(layer.running_mean)}),
    Negate: ("negate", lambda layer: {}),
    nn.Linear: ("linear", _linear),
    nn.Conv2d: ("conv", _conv),
    nn.ReLU: ("relu", lambda layer: {}),
    nn.Tanh: ("tanh", lambda layer: {}),
    **dict.fromkeys((nn.BatchNorm1d, nn.BatchNorm2d), Refusal(ADVICE)),
    ParamRamp: ("ramp", lambda layer: {"num_features": layer.num_features}),
    MaxMin: ("max_min", lambda layer: {}),
    PotentialLinear: ("potential", _potential),
    PotentialConv2d: ("potential_conv", _potential),
    **dict.fromkeys(TRAINED, Refusal(MATERIALISE)),
    **dict.fromkeys(RANDOM, Refusal(DRAWS)),
}


def _kept(layer: nn.Module, name: str) -> bool:
    """Whether a parameter or buffer is a part of the state.  The others count only in training mode."""
    return name not in layer._non_persistent_buffers_set


def describe(net: nn.Sequential) -> list[Layer]:
    """The layers as they are now.  The spec that the net was built from does not matter.

    Raises:
        TypeError: a layer cannot be exported, or the net has a forward of its own.
    """
    if type(net).forward is not nn.Sequential.forward:
        raise TypeError(
            f"model, a {type(net).__name__}, has a forward of its own, and only its layers would be exported"
        )
    found = []
    for i, layer in enumerate(net):
        try:
            name, arguments = rule_of(DESCRIBED, layer, "description")
        except TypeError as error:
            kind = type(layer).__name__
            raise TypeError(f"layer {i} of model is a {kind}, which cannot be exported: {error}") from error
        if isinstance(layer, SortDistLinear) and layer.rho == 1:  # it then computes this at evaluation
            name, arguments = "dist", _linear
        tensors = {key: a for key, a in (*layer.named_parameters(), *layer.named_buffers()) if _kept(layer, key)}
        found.append((name, arguments(layer), {key: a.detach().cpu() for key, a in tensors.items()}))
    return found


def make(input_shape: tuple[int, ...], layers: list[Layer]) -> Net:
    """The net with these layers, in evaluation mode.  It shares the weights.

    Raises:
        ValueError: layers and weights do not fit each other.  The message says which.
    """
    spec = {"input_shape": list(input_shape), "layers": [[name, arguments] for name, arguments, _ in layers]}
    try:
        check_spec(spec)
        check_size(spec)  # before anything is allocated
        held = {f"{i}.{name}": a for i, (*_, tensors) in enumerate(layers) for name, a in tensors.items()}
        for name, shape in tensor_shapes(spec).items():
            if name not in held or held[name].shape != shape or held[name].dtype != torch.float32:
                raise ValueError(f"{name} must be float32 {shape}")
        with torch.random.fork_rng(devices=[]):
            net = Net(spec)
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"its layers cannot be built: {error}") from error
    for i, layer in enumerate(net):
        for name in [*layer._parameters, *layer._buffers]:
            if getattr(layer, name) is not None and _kept(layer, name):
                a = held[f"{i}.{name}"]
                setattr(layer, name, nn.Parameter(a, requires_grad=False) if name in layer._parameters else a)
    return net.eval()


def fold_means(model: Net) -> Net:
    """The net as it is exported: on the CPU, with mean shifts as biases.  At evaluation it is the same float32 program.

    A mean shift becomes the bias of the distance layer before it, if that has none: y − m = y + (−m) to the bit.  It
    stays behind a dense distance with several rows for each sample, whose bias is along another axis.
    """
    described, layers = describe(model), []
    spec = {"input_shape": model.input_shape, "layers": [layer[:2] for layer in described]}
    for (name, arguments, tensors), (shape, _) in zip(described, values(spec)):
        before = layers[-1] if layers else ("", {}, {})
        foldable = ("dist_conv", "dist", "sort_dist") if len(shape) == 1 else ("dist_conv",)
        if name == "mean_shift" and before[0] in foldable and not before[1]["bias"]:
            bias = -tensors["running_mean"]
            layers[-1] = before[0], before[1] | {"bias": True}, before[2] | {"bias": bias}
        else:
            layers.append((name, arguments, tensors))
    return make(model.input_shape, layers)


def written(net: Net) -> str:
    """The description from which, with the weights, ``read`` makes the net again."""
    layers = [[name, arguments] for name, arguments, _ in describe(net)]
    spec = {"input_shape": list(net.input_shape), "layers": layers}
    return json.dumps(spec, separators=(",", ":"), allow_nan=False)


def read(text: str, arrays: dict[str, np.ndarray]) -> Net:
    """The net that a text of ``written`` describes.

    Args:
        arrays: its weights, under their names in the net.

    Raises:
        ValueError: the text is not such a description, or the weights do not fit it.
    """

    def refuse(constant: str):
        raise ValueError(f"{constant} is not a size")

    try:
        spec = plain.loads(text, parse_constant=refuse)
        check_spec(spec)
    except (TypeError, ValueError) as error:
        raise ValueError(f"it does not describe its net: {error}") from error
    found = []
    for i, (name, arguments) in enumerate(spec["layers"]):
        tensors = {
            key: torch.from_numpy(np.array(a.reshape(-1) if key in FLAT else a))
            for key in TENSORS
            if (a := arrays.get(f"{i}.{key}")) is not None
        }
        found.append((name, arguments, tensors))
    return make(tuple(spec["input_shape"]), found)


FLAT = ("bias", "mean", "running_mean", "top")  # in the graph they have sizes of 1 behind the channels
TENSORS = ("weight", *FLAT)
