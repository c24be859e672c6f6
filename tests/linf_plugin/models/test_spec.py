"""The table of what a spec may hold agrees with the layers that it describes."""

import inspect
import math

import pytest
import torch
from torch import nn

from linf_plugin import Net, build, state
from linf_plugin.layers.facts import FACTS, LAYERS
from linf_plugin.models.architectures import ARCHITECTURES
from linf_plugin.models.spec import check_size, check_spec, tensor_shapes, values

SMALL = {"convs": 1, "dense": 1, "width": 3, "inner": 2, "hidden": 4}
NETS = {
    "linf-mlp": {"width": 4, "depth": 2, "clip": 0.1, "crop": 3},
    "linf-mlp-head": {"width": 4, "depth": 2, "hidden": 3, "normal_head": True},
    "linf-conv": {"channels": (3, 2), "strides": (1, 2), "width": 4},
    "sortnet-mlp": {"width": 4, "depth": 2, "rho": 0.3},
    "relu-mlp": {"width": 4, "depth": 2},
    "relu-conv": {"channels": (3, 2), "strides": (1, 2), "width": 4, "batch_norm": True},
    "dm-small": {"width": 2, "hidden": (4,), "activation": "ramp"},
    "dm-large": {"width": 2, "hidden": (4,), "activation": "max-min"},
    "cnn3": {"width": 2},
    "cnn5": {"width": 2, "hidden": (4,), "crop": 6},
    "cnn7": {"width": 2, "hidden": (4,), "activation": "ramp"},
    "sll-mlp": {"depth": 2, "hidden": 4},
    "cpl-mlp": {"depth": 2, "hidden": 4},
    "aol-mlp": {"depth": 3, "width": 4},
    "circulant-mlp": {"depth": 3, "activation": "max-min"},
    "sll-conv": SMALL,
    "cpl-conv": SMALL | {"method": "norm2toep"},
    "aol-conv": {"channels": (4, 2), "strides": (1, 2), "width": 4},
    **{f"sll-{size}": SMALL for size in ("s", "m", "l", "xl")},
}
LEFT_OUT = {"batch_norm": {"affine", "bias", "track_running_stats"}}  # of a spec: layers always have the defaults
LEFT_OUT["batch_norm_rows"] = LEFT_OUT["batch_norm"]


@torch.no_grad()
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_sizes_are_those_of_the_net(name):
    shape = (2, 16, 17) if name.startswith("dm-") else (2, 6, 7)
    net = build(name, shape=shape, classes=3, **NETS[name])
    check_spec(net.spec)
    check_size(net.spec)
    assert {key: tuple(a.shape) for key, a in state.tensors(net).items()} == tensor_shapes(net.spec)
    x, pairs = torch.rand(2, *shape), 0
    for layer, (shape, more) in zip(net.eval(), values(net.spec), strict=True):
        x, pairs = layer(x), pairs + more
        assert x.shape[1:] == shape
    assert pairs == net.pairs_per_sample()


@pytest.mark.parametrize("name", LAYERS)
def test_every_argument_of_a_layer_is_known(name):
    """But for where it is made, and what spoils a bound."""
    taken = inspect.signature(LAYERS[name].__init__).parameters.keys() - {"self", "device", "dtype", "args", "kwargs"}
    taken -= LEFT_OUT.get(name, set())
    facts = FACTS[LAYERS[name]]
    assert taken == facts.needed.keys() | facts.optional.keys()
    assert not facts.needed.keys() & facts.optional.keys()


WRONG = [
    ("spec", [], "spec must be a dict"),
    ("spec", {"layers": []}, "input_shape and layers"),
    ("shape", [], "input_shape of spec"),
    ("shape", [0], "input_shape of spec must be at least 1"),
    ("shape", [True], "input_shape of spec must be an int"),
    ("shape", "3", "input_shape of spec must be a list"),
    ("layers", {}, "layers of spec must be a list"),
    ("layers", [["relu"]], "layer 0 of spec must be a name and a dict"),
    ("layers", [["relu", []]], "layer 0 of spec must be a name and a dict"),
    ("layers", [[3, {}]], "unknown layer '3'"),
    ("layers", [["relu", {"slope": 1}]], "layer 0 of spec, relu, has the unknown argument 'slope'"),
    ("layers", [["dist", {"in_features": 3}]], "layer 0 of spec, dist, lacks the argument 'out_features'"),
    ("layers", [["crop", {"size": 2.0}]], "size of layer 0 of spec, crop, must be an int, got float"),
    ("layers", [["normalize", {"mean": [], "std": 1.0}]], "mean of layer 0 of spec, normalize, must be a list of num"),
    ("layers", [["normalize", {"mean": [math.nan], "std": 1.0}]], "mean of layer 0 of spec, normalize, must be finite"),
    ("layers", [["mean_shift", {"num_features": 3, "momentum": 0}]], "momentum of layer 0 of spec, mean_shift, must"),
    ("layers", [["flatten", {"start_dim": "1"}]], "start_dim of layer 0 of spec, flatten, must be a dimension"),
    ("layers", [["conv", {"in_channels": 1, "out_channels": 1, "kernel_size": [1, 2, 3]}]], "kernel_size of layer 0"),
    (
        "layers",
        [["conv", {"in_channels": 1, "out_channels": 1, "kernel_size": 1, "padding_mode": "mirror"}]],
        "padding_mode of layer 0",
    ),
    (
        "layers",
        [["linear", {"in_features": 1, "out_features": 1, "bias": 1}]],
        "bias of layer 0 of spec, linear, must be",
    ),
    ("more", {"heads": 3}, "spec has the unknown part 'heads'"),
    ("more", {"normal_head": "yes"}, "normal_head of spec must be True or False"),
]


@pytest.mark.parametrize("part, value, message", WRONG, ids=[m for *_, m in WRONG])
def test_wrong_parts_are_named(part, value, message):
    spec = {"input_shape": [1], "layers": []}
    change = value if part == "more" else {"input_shape" if part == "shape" else "layers": value}
    spec = value if part == "spec" else spec | change
    for take in (check_spec, Net):
        with pytest.raises((TypeError, ValueError), match=message):
            take(spec)


def test_a_net_without_a_limit_of_its_own_is_still_built_in_memory():
    """Limits on sizes are of files alone."""
    net = Net({"input_shape": [1, 2**14, 2**14], "layers": [["crop", {"size": 2}]]})
    with pytest.raises(ValueError, match="input_shape of spec has more than"):
        check_size(net.spec)
    assert isinstance(net[0], nn.Module)
