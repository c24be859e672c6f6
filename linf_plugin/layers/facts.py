"""The facts of each layer type: its name and arguments in a spec, its sizes, its Lipschitz bound."""

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import nn

from ..arguments import check_k, check_p, check_rho
from . import checks, growth, sizes
from .activations import MaxMin, ParamRamp
from .aol import AOLConv2d, AOLLinear
from .circulant import DiagonalCirculant
from .cpl import UPPER_NORMS, CPLConv2d, CPLLinear
from .distance import LinfDistConv2d, LinfDistLinear
from .fixed import AveragePool, NormalizedRows, PadChannels, UnshufflePixels
from .noise import GaussianNoise, LaplaceNoise, Noise, UniformNoise
from .potential import PotentialConv2d, PotentialLinear
from .reparametrised import Reparametrised
from .shifts import CenterCrop, MeanShift, Negate, Normalize
from .sll import SLLConv2d, SLLLinear
from .sort import SortDistLinear

Checks = dict[str, Callable]


@dataclass(frozen=True)
class Facts:
    """The facts of one layer type.

    Attributes:
        name: the name of the layer in a spec.
        lipschitz: (layer, norm) → a Lipschitz bound in that norm; raises TypeError if none is known.  See ``growth``.
        needed, optional: the arguments that a spec must give and may give, each with its check.  See ``checks``.
        tensors, after: see ``sizes``.
        computes: False if the layer only moves or negates values, so that it rounds nothing.
        ends_hold: True if the interval rule, computed in float32, bounds the float32 values of the layer as it is.
            An end is then computed by the same operations as a value, and rounding to nearest is monotone.
    """

    name: str
    lipschitz: Callable[[nn.Module, float], float]
    needed: Checks = field(default_factory=dict)
    optional: Checks = field(default_factory=dict)
    tensors: Callable[[dict], dict[str, sizes.Shape]] = sizes.no_tensors
    after: Callable[[dict, sizes.Shape], tuple[sizes.Shape | None, int]] = sizes.same
    computes: bool = True
    ends_hold: bool = False


_ROWS = {"in_features": checks.count, "out_features": checks.count}
_KERNELS = {"in_channels": checks.count, "out_channels": checks.count, "kernel_size": checks.pair(1)}
_WINDOWS = {
    "stride": checks.pair(1),
    "padding": checks.pair(0),
    "dilation": checks.pair(1),
    "groups": checks.count,
    "bias": checks.flag,
}
_NORMALISED = {"num_features": checks.count}
_NORMALISING = {"eps": checks.positive, "momentum": checks.momentum}
_DISTANCE = {"bias": checks.flag, "p": check_p, "identity_init": checks.flag}
_BIAS = {"bias": checks.flag}
_INNER = {"features": checks.count, "inner": checks.count}
_INNER_CHANNELS = {"channels": checks.count, "inner": checks.count}
_ODD = {"kernel_size": checks.pair(1), **_BIAS}
_NORM = {"method": checks.only(*UPPER_NORMS), "iterations": checks.steps}

FACTS: dict[type[nn.Module], Facts] = {
    Normalize: Facts(
        "normalize",
        growth.scales,
        {"mean": checks.numbers, "std": checks.positive},
        tensors=sizes.mean,
        after=sizes.after_normalize,
        ends_hold=True,
    ),
    CenterCrop: Facts(
        "crop", growth.keeps, {"size": checks.count}, after=sizes.after_crop, computes=False, ends_hold=True
    ),
    nn.Flatten: Facts(
        "flatten",
        growth.keeps,
        optional={"start_dim": checks.dimension, "end_dim": checks.dimension},
        after=sizes.after_flattening,
        computes=False,
        ends_hold=True,
    ),
    nn.Identity: Facts("identity", growth.keeps, computes=False, ends_hold=True),
    LinfDistLinear: Facts("dist", growth.distance, _ROWS, _DISTANCE, sizes.rows, sizes.after_rows, ends_hold=True),
    LinfDistConv2d: Facts(
        "dist_conv", growth.distance, _KERNELS, _WINDOWS | _DISTANCE, sizes.kernels, sizes.after_windows, ends_hold=True
    ),
    SortDistLinear: Facts(
        "sort_dist",
        growth.sorted_sum,
        _ROWS | {"rho": check_rho},
        _DISTANCE | {"k": check_k, "group": checks.count},
        sizes.rows,
        sizes.after_rows,
    ),
    MeanShift: Facts(
        "mean_shift",
        growth.keeps,
        {"num_features": checks.count},
        {"momentum": checks.momentum},
        sizes.running_mean,
        sizes.after_channels,
        ends_hold=True,
    ),
    Negate: Facts("negate", growth.keeps, computes=False, ends_hold=True),
    nn.Linear: Facts("linear", growth.linear, _ROWS, {"bias": checks.flag}, sizes.rows, sizes.after_rows),
    nn.Conv2d: Facts(
        "conv",
        growth.convolution,
        _KERNELS,
        _WINDOWS | {"padding": checks.padding, "padding_mode": checks.only(*checks.PADDING_MODES)},
        sizes.kernels,
        sizes.after_windows,
    ),
    nn.BatchNorm1d: Facts(
        "batch_norm_rows", growth.batch_norm, _NORMALISED, _NORMALISING, sizes.normalised, sizes.after_row_features
    ),
    nn.BatchNorm2d: Facts(
        "batch_norm", growth.batch_norm, _NORMALISED, _NORMALISING, sizes.normalised, sizes.after_image_channels
    ),
    nn.ReLU: Facts("relu", growth.keeps, optional={"inplace": checks.flag}, ends_hold=True),
    nn.Tanh: Facts("tanh", growth.keeps),
    ParamRamp: Facts(
        "ramp",
        growth.in_evaluation,
        {"num_features": checks.count},
        {"top": checks.positive},
        sizes.top,
        sizes.after_channels,
        ends_hold=True,
    ),
    MaxMin: Facts("max_min", growth.keeps, after=sizes.after_pairs, ends_hold=True),
    PotentialLinear: Facts("potential", growth.potential, _INNER, _BIAS, sizes.inner_rows, sizes.after_residual_rows),
    PotentialConv2d: Facts(
        "potential_conv", growth.potential, _INNER_CHANNELS, _ODD, sizes.inner_kernels, sizes.after_residual_windows
    ),
    # Forms for training, which ``materialise`` replaces.
    SLLLinear: Facts("sll", growth.one_in_l2, _INNER, _BIAS, sizes.with_q(sizes.inner_rows), sizes.after_residual_rows),
    SLLConv2d: Facts(
        "sll_conv",
        growth.one_in_l2,
        _INNER_CHANNELS,
        _ODD,
        sizes.with_q(sizes.inner_kernels),
        sizes.after_residual_windows,
    ),
    CPLLinear: Facts("cpl", growth.one_in_l2, _INNER, _BIAS | _NORM, sizes.inner_rows, sizes.after_residual_rows),
    CPLConv2d: Facts(
        "cpl_conv", growth.one_in_l2, _INNER_CHANNELS, _ODD | _NORM, sizes.inner_kernels, sizes.after_residual_windows
    ),
    AOLLinear: Facts("aol", growth.one_in_l2, _ROWS, _BIAS, sizes.rows, sizes.after_rows),
    AOLConv2d: Facts(
        "aol_conv",
        growth.one_in_l2,
        _KERNELS,
        {name: _WINDOWS[name] for name in ("stride", "padding", "bias")},
        sizes.kernels,
        sizes.after_windows,
    ),
    DiagonalCirculant: Facts(
        "diagonal_circulant",
        growth.diagonal_circulant,
        {"features": checks.count},
        {"out_features": checks.count, **_BIAS, "normalized": checks.flag},
        sizes.circulant_rows,
        sizes.after_circulant,
    ),
    NormalizedRows: Facts("normalized_rows", growth.normalized_rows, _ROWS, _BIAS, sizes.rows, sizes.after_rows),
    PadChannels: Facts(
        "pad_channels",
        growth.keeps,
        {"in_channels": checks.count, "out_channels": checks.count},
        after=sizes.after_padding,
    ),
    UnshufflePixels: Facts(
        "unshuffle_pixels",
        growth.keeps,
        {"channels": checks.count, "size": checks.count},
        after=sizes.after_unshuffling,
    ),
    AveragePool: Facts(
        "average_pool",
        growth.pool,
        {"channels": checks.count, "size": checks.count},
        {"divisor": checks.positive},
        after=sizes.after_pool,
    ),
    # Layers whose output is random.
    GaussianNoise: Facts("gaussian_noise", growth.random, {"sigma": checks.not_negative}),
    LaplaceNoise: Facts("laplace_noise", growth.random, {"scale": checks.not_negative}),
    UniformNoise: Facts("uniform_noise", growth.random, {"radius": checks.not_negative}),
}

TRAINED = tuple(kind for kind in FACTS if issubclass(kind, Reparametrised))  # forms that are replaced after training
RANDOM = tuple(kind for kind in FACTS if issubclass(kind, Noise))

LAYERS: dict[str, type[nn.Module]] = {facts.name: kind for kind, facts in FACTS.items()}  # name in a spec → type
