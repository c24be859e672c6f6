"""Architectures as data: a model is a list of ``[layer, arguments]``, and one function builds it."""

import copy
import inspect
import math

from torch import nn

from .kernels.windows import output_size
from .layers import (
    CenterCrop,
    LinfDistConv2d,
    LinfDistLinear,
    MeanShift,
    Negate,
    Normalize,
    SortDistLinear,
    lipschitz_bound,
)
from .spec import check_spec

LAYERS = {
    "normalize": Normalize,
    "crop": CenterCrop,
    "flatten": nn.Flatten,
    "dist": LinfDistLinear,
    "dist_conv": LinfDistConv2d,
    "sort_dist": SortDistLinear,
    "mean_shift": MeanShift,
    "negate": Negate,
    "linear": nn.Linear,
    "conv": nn.Conv2d,
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
}


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
        """ℓ∞ Lipschitz bound, logits per unit of pixel range: the product of the layers' bounds."""
        return lipschitz_bound(self[:])

    def split_head(self) -> tuple[nn.Sequential, nn.Sequential]:
        """(distance features, head from the first linear layer on); the head is empty where there is none."""
        layers = list(self)
        first = next((i for i, layer in enumerate(layers) if isinstance(layer, nn.Linear)), len(layers))
        return self[:first], self[first:]

    def pairs_per_sample(self) -> int:
        """Coordinate pairs (multiply-adds of a linear layer) that one sample costs."""
        return sum(pairs for _, pairs, _ in _shapes(self._spec))


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


def _shapes(spec: dict):
    """(layer name, pairs, output shape) of each layer."""
    shape = tuple(spec["input_shape"])
    for name, a in spec["layers"]:
        pairs = 0
        if name == "flatten":
            shape = (math.prod(shape),)
        elif name == "crop":
            shape = (shape[0], a["size"], a["size"])
        elif name in ("dist", "sort_dist", "linear"):
            pairs = a["in_features"] * a["out_features"]
            shape = (a["out_features"],)
        elif name in ("dist_conv", "conv"):
            k, s, q, d = (
                v if isinstance(v, (list, tuple)) else (v, v)
                for v in (a["kernel_size"], a.get("stride", 1), a.get("padding", 0), a.get("dilation", 1))
            )
            side = [output_size(shape[1 + i], k[i], s[i], q[i], d[i]) for i in (0, 1)]
            pairs = a["in_channels"] // a.get("groups", 1) * a["out_channels"] * math.prod((*k, *side))
            shape = (a["out_channels"], *side)
        yield name, pairs, shape


def _start(shape, mean, std, crop: int = 0, clip: float = 0.0) -> dict:
    """Normalised pixels, with ``crop`` the middle crop × crop of them.

    ``clip`` c first takes pixels below c to 0 and above 1 − c to 1, and what lies between to (x − c)/(1 − 2c).  A pixel
    that is c − ε from black or white does not move when it is moved by ε, which intervals see and the Lipschitz bound,
    1/(1 − 2c) times as large, does not.
    """
    if not 0 <= clip < 0.5:
        raise ValueError(f"clip must lie in [0, 0.5), got {clip}")
    spec = {"input_shape": list(shape), "layers": []}
    if clip:  # 1 − max(0, 1 − max(0, a)), less 1, which the mean makes good
        _append(spec, "normalize", mean=[clip], std=1 - 2 * clip)
        _append(spec, "relu")
        _append(spec, "negate")
        _append(spec, "normalize", mean=[-1.0], std=1.0)
        _append(spec, "relu")
        _append(spec, "negate")
        mean = [m - 1 for m in mean]
    _append(spec, "normalize", mean=list(mean), std=std)
    if crop:
        _append(spec, "crop", size=crop)
    return spec


def _append(spec: dict, name: str, **arguments) -> None:
    spec["layers"].append([name, arguments])


def _features(spec: dict) -> int:
    """Size of the flattened output so far."""
    return math.prod(list(_shapes(spec))[-1][2])


def _dist_features(spec: dict, widths, layer: str = "dist", identity_init: bool = True, **arguments) -> None:
    for width in widths:
        _append(
            spec,
            layer,
            in_features=_features(spec),
            out_features=width,
            bias=False,
            identity_init=identity_init,
            **arguments,
        )
        _append(spec, "mean_shift", num_features=width)


def _head(spec: dict, classes: int, hidden: int | None, normal: bool = False, layer: str = "dist", **arguments) -> None:
    """Logits: the negated distances of ``layer``, or with ``hidden`` a Linear–tanh–Linear head, which ``normal``
    has start as ``Net`` describes."""
    features = _features(spec)
    if hidden is None:
        _append(spec, layer, in_features=features, out_features=classes, **arguments)
        _append(spec, "negate")
    else:
        _append(spec, "linear", in_features=features, out_features=hidden)
        _append(spec, "tanh")
        _append(spec, "linear", in_features=hidden, out_features=classes)
        if normal:
            spec["normal_head"] = True


def _check_strides(channels, strides) -> None:
    if len(channels) != len(strides):
        raise ValueError(f"strides must be as many as channels: got {len(strides)} and {len(channels)}")


# Arguments of all architectures: shape (C, H, W) and number of classes, mean and std of the pixels, and for images
# larger than what the net is to see, crop; some have clip.  ``_start`` says what these do.


def linf_mlp(
    shape, classes: int, width: int, depth: int, mean=(0.0,), std=1.0, crop: int = 0, clip: float = 0.0
) -> dict:
    """ℓ∞-dist net: (depth − 1) × [distance, mean shift], then a distance layer with bias, negated."""
    spec = _start(shape, mean, std, crop, clip)
    _append(spec, "flatten")
    _dist_features(spec, [width] * (depth - 1))
    _head(spec, classes, None)
    return spec


def linf_mlp_head(
    shape,
    classes: int,
    width: int,
    depth: int,
    hidden: int,
    mean=(0.0,),
    std=1.0,
    normal_head: bool = False,
    crop: int = 0,
) -> dict:
    """ℓ∞-dist net+MLP: depth × [distance, mean shift], then Linear–tanh–Linear."""
    spec = _start(shape, mean, std, crop)
    _append(spec, "flatten")
    _dist_features(spec, [width] * depth)
    _head(spec, classes, hidden, normal_head)
    return spec


def linf_conv(
    shape,
    classes: int,
    mean=(0.0,),
    std=1.0,
    channels: tuple[int, ...] = (96, 96, 192, 192, 192),
    strides: tuple[int, ...] = (1, 1, 2, 1, 1),
    width: int = 1024,
    hidden: int | None = None,
    normal_head: bool = False,
    crop: int = 0,
) -> dict:
    """Convolutional ℓ∞-dist net: 3×3 distances with mean shift, one wide distance layer, then logits."""
    _check_strides(channels, strides)
    spec = _start(shape, mean, std, crop)
    before = shape[0]
    for after, stride in zip(channels, strides):
        _append(
            spec,
            "dist_conv",
            in_channels=before,
            out_channels=after,
            kernel_size=3,
            stride=stride,
            padding=1,
            bias=False,
            identity_init=True,
        )
        _append(spec, "mean_shift", num_features=after)
        before = after
    _append(spec, "flatten")
    _dist_features(spec, [width])
    _head(spec, classes, hidden, normal_head)
    return spec


def sortnet_mlp(
    shape,
    classes: int,
    width: int,
    depth: int,
    rho: float,
    k: int = 10,
    group: int = 32,
    identity_init: bool = False,
    hidden: int | None = None,
    mean=(0.0,),
    std=1.0,
    identity_first: bool = True,
    normal_head: bool = False,
    crop: int = 0,
) -> dict:
    """SortNet: ``linf_mlp``, or with ``hidden`` ``linf_mlp_head``, with sorted sums after the first layer, whose
    inputs are pixels.  Zhang et al. (arXiv 2210.01787).

    ``identity_init`` is that of the sorted sums: an output that starts as a copy falls by about 10 whenever its
    input is dropped.  ``identity_first`` is that of the first layer.
    """
    spec = _start(shape, mean, std, crop)
    _append(spec, "flatten")
    sort = {"layer": "sort_dist", "rho": rho, "k": k, "group": group}
    kinds = [{}, *[sort] * depth]
    features = depth - 1 if hidden is None else depth
    for i, kind in enumerate(kinds[:features]):
        _dist_features(spec, [width], identity_init=identity_init if i else identity_first, **kind)
    _head(spec, classes, hidden, normal_head, **kinds[features])
    return spec


def relu_mlp(shape, classes: int, width: int, depth: int, mean=(0.0,), std=1.0, crop: int = 0) -> dict:
    """Baseline: (depth − 1) × [Linear, ReLU], then Linear."""
    spec = _start(shape, mean, std, crop)
    _append(spec, "flatten")
    for _ in range(depth - 1):
        _append(spec, "linear", in_features=_features(spec), out_features=width)
        _append(spec, "relu")
    _append(spec, "linear", in_features=_features(spec), out_features=classes)
    return spec


def relu_conv(
    shape,
    classes: int,
    channels: tuple[int, ...],
    strides: tuple[int, ...],
    width: int,
    mean=(0.0,),
    std=1.0,
    kernel: int | None = None,
    crop: int = 0,
) -> dict:
    """Baseline: convolutions with ReLU, one wide Linear, then Linear.  ``kernel`` is their size; without it they
    are 3×3, and 4×4 where the stride is 2."""
    _check_strides(channels, strides)
    spec = _start(shape, mean, std, crop)
    before = shape[0]
    for after, stride in zip(channels, strides):
        _append(
            spec,
            "conv",
            in_channels=before,
            out_channels=after,
            kernel_size=kernel or 2 + stride,
            stride=stride,
            padding=1,
        )
        _append(spec, "relu")
        before = after
    _append(spec, "flatten")
    _append(spec, "linear", in_features=_features(spec), out_features=width)
    _append(spec, "relu")
    _append(spec, "linear", in_features=width, out_features=classes)
    return spec


ARCHITECTURES = {
    "linf-mlp": linf_mlp,
    "linf-mlp-head": linf_mlp_head,
    "linf-conv": linf_conv,
    "sortnet-mlp": sortnet_mlp,
    "relu-mlp": relu_mlp,
    "relu-conv": relu_conv,
}


def build(name: str, **arguments) -> Net:
    """The model of that name: ``build("linf-mlp", shape=(1, 8, 8), classes=10, width=128, depth=3)``.

    Raises:
        ValueError: the name is not in ``ARCHITECTURES``.
        TypeError: an argument is missing or unknown.
    """
    if name not in ARCHITECTURES:
        raise ValueError(f"name must be one of {', '.join(ARCHITECTURES)}, got {name!r}")
    return Net(ARCHITECTURES[name](**arguments))
