"""Every layer that is exported: the file computes what the net computes, and is read back."""

import math

import numpy as np
import pytest
import torch
from torch import nn

import linf_plugin
from linf_plugin.layers.base import distance_layers
from linf_plugin.layers.facts import FACTS, RANDOM
from linf_plugin.layers.lipschitz import lipschitz_bound
from linf_plugin.models.net import LAYERS
from linf_plugin.refusal import rule_of
from onnx_export.exporting import export
from onnx_export.files.load import load
from onnx_export.reading.recompute import contradictions, net_of, read_back
from onnx_export.running.session import run, session
from onnx_export.writing.certificate import CertifiedNet
from onnx_export.writing.graph import NODES
from onnx_export.writing.interval_graph import INTERVAL_NODES
from onnx_export.writing.plain import VERIFIER_NODES
from onnx_export.writing.record import DESCRIBED, fold_means, make, read, written

SHAPE = [2, 7, 6]
HEAD = [["flatten", {}], ["dist", {"in_features": 84, "out_features": 3}]]


def conv(name, kernel_size=(2, 3), **arguments):
    """A convolution of these images, and distances of all that it gives."""
    arguments = {"in_channels": 2, "out_channels": 4, "kernel_size": list(kernel_size)} | arguments
    (size,) = nn.Conv2d(**arguments)(torch.zeros(1, *SHAPE)).flatten().shape
    return [[name, arguments], ["flatten", {}], ["dist", {"in_features": size, "out_features": 3}]]


CASES = {  # layers after normalisation, whether logits are exact
    "distances": (HEAD, True),
    "without biases": ([["flatten", {}], ["dist", {"in_features": 84, "out_features": 3, "bias": False}]], True),
    "mean after a bias": ([*HEAD, ["mean_shift", {"num_features": 3}], ["negate", {}]], True),
    "mean before all": ([["mean_shift", {"num_features": 2}], *HEAD], True),
    "crop": ([["crop", {"size": 4}], ["flatten", {}], ["dist", {"in_features": 32, "out_features": 3}]], True),
    "convolution": (conv("dist_conv"), True),
    "strides, padding, dilation, groups": (
        conv("dist_conv", stride=[2, 1], padding=[1, 0], dilation=[2, 2], groups=2, bias=False),
        True,
    ),
    "linear": (
        [
            ["flatten", {}],
            ["linear", {"in_features": 84, "out_features": 4}],
            ["tanh", {}],
            ["linear", {"in_features": 4, "out_features": 3, "bias": False}],
        ],
        False,
    ),
    "products": (conv("conv", bias=False), False),
    "products with all": (conv("conv", stride=[2, 1], padding=[1, 0], dilation=[2, 2], groups=2), False),
    "same padding": (conv("conv", (3, 3), dilation=2, padding="same"), False),
    "valid padding": (conv("conv", padding="valid"), False),
    "reflected": (conv("conv", padding=[1, 2], padding_mode="reflect"), False),
    "replicated": (conv("conv", padding=[1, 2], padding_mode="replicate"), False),
    "circular": (conv("conv", padding=[1, 2], padding_mode="circular"), False),
    "relu": ([["relu", {}], *HEAD], True),
    "nothing": ([["identity", {}], *HEAD, ["identity", {}]], True),
    "sorted": ([["flatten", {}], ["sort_dist", {"in_features": 84, "out_features": 3, "rho": 0.4, "k": 5}]], False),
    "sorted, of few": (
        [
            ["flatten", {}],
            ["dist", {"in_features": 84, "out_features": 3}],
            ["sort_dist", {"in_features": 3, "out_features": 3, "rho": 0.4, "k": 9}],
        ],
        False,
    ),
    "sorted, all kept": ([["flatten", {}], ["sort_dist", {"in_features": 84, "out_features": 3, "rho": 1.0}]], True),
    "rows of images": (
        [
            ["dist", {"in_features": 6, "out_features": 5}],
            ["flatten", {}],
            ["dist", {"in_features": 70, "out_features": 3}],
        ],
        True,
    ),
    "rows of images, linear": (
        [
            ["linear", {"in_features": 6, "out_features": 5}],
            ["mean_shift", {"num_features": 2}],
            ["flatten", {}],
            ["linear", {"in_features": 70, "out_features": 3}],
        ],
        False,
    ),
    "rows of images, sorted": (
        [
            ["sort_dist", {"in_features": 6, "out_features": 5, "rho": 0.5}],
            ["flatten", {}],
            ["dist", {"in_features": 70, "out_features": 3}],
        ],
        False,
    ),
    "rows of images, mean of as many channels": (
        [
            ["dist", {"in_features": 6, "out_features": 2, "bias": False}],
            ["mean_shift", {"num_features": 2}],
            ["flatten", {}],
            ["dist", {"in_features": 28, "out_features": 3}],
        ],
        True,
    ),
    "rows of images, sorted, mean of other channels": (
        [
            ["crop", {"size": 3}],
            ["sort_dist", {"in_features": 3, "out_features": 4, "rho": 0.5, "bias": False}],
            ["mean_shift", {"num_features": 2}],
            ["flatten", {}],
            ["dist", {"in_features": 24, "out_features": 3}],
        ],
        False,
    ),
    "one number a row": (
        [
            ["dist", {"in_features": 6, "out_features": 1}],
            ["flatten", {}],
            ["dist", {"in_features": 14, "out_features": 3}],
        ],
        True,
    ),
    "one number a row, linear": (
        [
            ["linear", {"in_features": 6, "out_features": 1}],
            ["flatten", {}],
            ["linear", {"in_features": 14, "out_features": 3}],
        ],
        False,
    ),
    "residual": (
        [
            ["flatten", {}],
            ["potential", {"features": 84, "inner": 5}],
            ["potential", {"features": 84, "inner": 4, "bias": False}],
            ["linear", {"in_features": 84, "out_features": 3}],
        ],
        False,
    ),
    "residual of images": (
        [
            ["potential_conv", {"channels": 2, "inner": 3, "kernel_size": [3, 1]}],
            ["flatten", {}],
            ["dist", {"in_features": 84, "out_features": 3}],
        ],
        False,
    ),
    "residual of rows": (
        [
            ["potential", {"features": 6, "inner": 3}],
            ["flatten", {}],
            ["linear", {"in_features": 84, "out_features": 3}],
        ],
        False,
    ),
    "flat pixels": (
        [
            ["flatten", {"start_dim": 2}],
            ["dist", {"in_features": 42, "out_features": 5}],
            ["flatten", {}],
            ["dist", {"in_features": 10, "out_features": 3}],
        ],
        True,
    ),
    "flat rows": (
        [
            ["flatten", {"start_dim": 1, "end_dim": 2}],
            ["dist", {"in_features": 6, "out_features": 2}],
            ["flatten", {}],
            ["dist", {"in_features": 28, "out_features": 3}],
        ],
        True,
    ),
}


CASES |= {
    "ramp": (
        [
            ["conv", {"in_channels": 2, "out_channels": 4, "kernel_size": 3}],
            ["ramp", {"num_features": 4, "top": 0.4}],
            ["flatten", {}],
            ["linear", {"in_features": 80, "out_features": 5}],
            ["ramp", {"num_features": 5, "top": 0.2}],
            ["linear", {"in_features": 5, "out_features": 3}],
        ],
        False,
    ),
    "ramp of distances": (
        [
            ["ramp", {"num_features": 2, "top": 0.7}],
            ["flatten", {}],
            ["dist", {"in_features": 84, "out_features": 3}],
            ["ramp", {"num_features": 3, "top": 1.5}],
        ],
        True,
    ),
    "larger and smaller": (
        [
            ["conv", {"in_channels": 2, "out_channels": 4, "kernel_size": 3}],
            ["max_min", {}],
            ["flatten", {}],
            ["linear", {"in_features": 80, "out_features": 6}],
            ["max_min", {}],
            ["linear", {"in_features": 6, "out_features": 3}],
        ],
        False,
    ),
    "larger and smaller distances": (
        [
            ["max_min", {}],
            ["flatten", {}],
            ["dist", {"in_features": 84, "out_features": 4}],
            ["max_min", {}],
            ["dist", {"in_features": 4, "out_features": 3}],
        ],
        True,
    ),
}
MATERIALISED = {  # nets with batch normalisation or forms for training, which the file does not have
    "forms for training": [
        ["unshuffle_pixels", {"channels": 2, "size": 1}],
        ["pad_channels", {"in_channels": 2, "out_channels": 3}],
        ["sll_conv", {"channels": 3, "inner": 2}],
        ["cpl_conv", {"channels": 3, "inner": 2, "kernel_size": [1, 3], "method": "norm2toep"}],
        ["average_pool", {"channels": 3, "size": 2}],
        ["aol_conv", {"in_channels": 3, "out_channels": 4, "kernel_size": 2, "padding": 1}],
        ["max_min", {}],
        ["flatten", {}],
        ["diagonal_circulant", {"features": 64}],
        ["sll", {"features": 64, "inner": 5}],
        ["cpl", {"features": 64, "inner": 4, "bias": False}],
        ["aol", {"in_features": 64, "out_features": 6}],
        ["max_min", {}],
        ["normalized_rows", {"in_features": 6, "out_features": 3}],
    ],
    "batch normalisation": [
        ["conv", {"in_channels": 2, "out_channels": 4, "kernel_size": 3, "bias": False}],
        ["batch_norm", {"num_features": 4}],
        ["relu", {}],
        ["flatten", {}],
        ["linear", {"in_features": 80, "out_features": 5}],
        ["batch_norm_rows", {"num_features": 5, "eps": 0.01}],
        ["ramp", {"num_features": 5}],
        ["linear", {"in_features": 5, "out_features": 3}],
    ],
}


def build(layers, normalize=True) -> linf_plugin.Net:
    torch.manual_seed(0)
    start = [["normalize", {"mean": [0.2, 0.4], "std": 0.3}]] if normalize else []
    net = linf_plugin.Net({"input_shape": SHAPE, "layers": [*start, *layers]})
    for layer in net:
        if hasattr(layer, "running_mean"):
            layer.running_mean.normal_()
        if hasattr(layer, "running_var"):
            layer.running_var.uniform_(0.3, 2)
            nn.init.normal_(layer.weight)
        if hasattr(layer, "top"):
            layer.top.data *= 0.5 + torch.rand(layer.top.shape)
        if getattr(layer, "bias", None) is not None:
            nn.init.normal_(layer.bias)
    return net.eval()


def close(y, z, exact):
    torch.testing.assert_close(torch.from_numpy(y), z, rtol=0 if exact else 1e-5, atol=0 if exact else 1e-5)


@torch.no_grad()
@pytest.mark.parametrize("layers, exact", CASES.values(), ids=CASES)
def test_every_layer(layers, exact, tmp_path):
    net, path, eps = build(layers), tmp_path / "net.onnx", 0.02
    folded = fold_means(net)
    for pixels, native in (("float", False), ("byte", True)):
        export(net, path, pixels=pixels, certificate="interval", epsilon=eps, force=True)
        s = session(path, "cpu", native=native)
        for n in (6, 0):
            x = torch.rand(n, *SHAPE)
            given = (x * 255).round().to(torch.uint8)
            if pixels == "byte":
                x = given.float() / 255
            logits, prediction, radii, certified = s.run(None, {"x": (given if pixels == "byte" else x).numpy()})
            close(logits, net(x), exact)
            assert np.array_equal(prediction, logits.argmax(1)) and (radii >= 0).all()
            assert np.array_equal(certified, CertifiedNet(folded, eps)(x)[1].numpy())  # no margin here is that close
        model = load(path)
        assert contradictions(model) == []
        for back in (net_of(model), read_back(model)):
            x = torch.rand(3, *SHAPE)
            assert written(back) == written(folded) and torch.equal(back(x), folded(x))
            assert all(torch.equal(a, b) for a, b in zip(back.parameters(), folded.parameters(), strict=True))


@torch.no_grad()
@pytest.mark.parametrize("p", [1.0, 2.5, 40.0])
@pytest.mark.parametrize("name", ["distances", "convolution", "rows of images"])
def test_finite_p(name, p, tmp_path):
    net, path = build(CASES[name][0]), tmp_path / "net.onnx"
    linf_plugin.set_p(net, p)
    for flavour in ("function", "inlined"):
        export(net, path, certificate="none", flavour=flavour, force=True)
        x = torch.rand(5, *SHAPE)
        close(run(session(path, "cpu"), x.numpy())[0], net(x), False)
        back = read_back(load(path))
        assert {layer.p for layer in distance_layers(back)} == {p} and torch.equal(back(x), net(x))


def test_every_kind_of_layer_is_tried():
    kinds = {
        name for layers in (*(layers for layers, _ in CASES.values()), *MATERIALISED.values()) for name, _ in layers
    }
    kinds |= {"normalize"}
    kinds |= {FACTS[kind].name for kind in RANDOM}  # test_random_layers_are_refused_by_name
    assert kinds == LAYERS.keys(), f"{LAYERS.keys() - kinds}: add a net to CASES in this file"


@pytest.mark.parametrize("flavour", ("function", "maxpool"))
@pytest.mark.parametrize("kind", RANDOM, ids=lambda kind: kind.__name__)
def test_random_layers_are_refused_by_name(kind, flavour, tmp_path):
    """An ONNX file is one function of its input.  Nothing is written."""
    size = next(iter(FACTS[kind].needed))
    for layers in ([[FACTS[kind].name, {size: 0.1}], *HEAD], [*HEAD, [FACTS[kind].name, {size: 0.0}]]):
        with pytest.raises(TypeError, match=f"for {kind.__name__}: it draws noise at each call"):
            export(build(layers), tmp_path / "net.onnx", flavour=flavour)
    assert not list(tmp_path.iterdir())


@torch.no_grad()
@pytest.mark.parametrize("flavour", ("function", "inlined", "maxpool", "relu"))
@pytest.mark.parametrize("layers", MATERIALISED.values(), ids=MATERIALISED)
def test_what_is_for_training_only_is_replaced(layers, flavour, tmp_path):
    net, path = build(layers), tmp_path / "net.onnx"
    folded, x = linf_plugin.materialise(net), torch.rand(1, *SHAPE)
    export(net, path, flavour=flavour)
    close(run(session(path, "cpu"), x.numpy())[0], net(x), False)
    model = load(path)
    assert contradictions(model) == []
    if flavour in ("function", "inlined"):
        assert torch.equal(net_of(model)(x), folded(x)) and written(net_of(model)) == written(folded)


def test_batch_normalisation_that_cannot_be_folded_is_named(tmp_path):
    net = build([["batch_norm", {"num_features": 2}], *HEAD], normalize=False)
    with pytest.raises(ValueError, match="layer 0 of net, batch_norm, does not follow a conv layer"):
        export(net, tmp_path / "net.onnx")
    with pytest.raises(ValueError, match="model is in training mode"):
        export(net.train(), tmp_path / "net.onnx")
    for table, what in (
        (DESCRIBED, "description"),
        (NODES, "node"),
        (INTERVAL_NODES, "node"),
        (VERIFIER_NODES, "node"),
    ):
        with pytest.raises(TypeError, match="fold_batch_norm"):
            rule_of(table, net[0], what)


@torch.no_grad()
def test_what_a_layer_is_now_is_exported(tmp_path):
    """And not what it was built from."""
    net, path, x = build(conv("dist_conv", padding=[1, 1])), tmp_path / "net.onnx", torch.rand(4, *SHAPE)
    net[1].stride, net[1].padding, net[0].mean[1], net[0].scale = (1, 1), (0, 1), 0.7, 2.0
    net[3].weight = nn.Parameter(torch.randn(3, math.prod(net[1](x).shape[1:])))
    export(net, path)
    close(run(session(path, "cpu"), x.numpy())[0], net(x), True)
    back = net_of(load(path))
    assert torch.equal(back(x), net(x)) and lipschitz_bound(back, math.inf) == lipschitz_bound(net, math.inf)


def test_layers_that_cannot_be_built():
    net = fold_means(build(HEAD))
    arrays = {f"{i}.{k}": a.numpy() for i, layer in enumerate(net) for k, a in layer.state_dict().items()}
    text = written(net)
    assert written(read(text, arrays)) == text
    for old, new, match in (
        ('"in_features":84', '"in_features":840000000', r"2.weight must be float32|does not take a value"),
        ('"in_features":84', '"in_features":-84', "in_features of layer 2 of spec, dist, must be at least 1"),
        ('"out_features":3', '"out_features":4', r"2.weight must be float32 \(4, 84\)"),
        ('"in_features":84', '"in_features":true', "must be an int, got bool"),
        ('"bias":true', '"size":true', "has the unknown argument 'size'"),
        ('"dist"', '"attention"', "names the unknown layer 'attention'"),
        ('"std":', '"std":NaN,"a":', "NaN is not a size"),
        ('"input_shape":[2,7,6]', '"input_shape":[2,0,6]', "input_shape of spec must be at least 1"),
        ('"input_shape":[2,7,6]', '"input_shape":[2,70000,60000]', "input_shape of spec has more than"),
        ('"layers":[', '"layers":[1,', "layer 0 of spec must be a name"),
        ("{", "[" * 100000, "it does not describe its net"),
        ('"mean":[', '"mean":["a",', "mean of layer 0 of spec, normalize, must be a number"),
    ):
        assert old in text
        with pytest.raises(ValueError, match=match):
            read(text.replace(old, new, 1), arrays)
    with pytest.raises(ValueError, match=r"2.weight must be float32 \(3, 84\)"):
        read(text, {k: a for k, a in arrays.items() if k != "2.weight"})


def test_building_does_not_touch_random_numbers():
    net = build(HEAD)
    state = torch.get_rng_state()
    make(net.input_shape, [("flatten", {}, {})])
    fold_means(net)
    assert torch.equal(torch.get_rng_state(), state)
