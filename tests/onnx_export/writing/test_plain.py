"""Nets as plain graphs for other verifiers: what they compute, in which nodes, and what is refused."""

import math

import numpy as np
import onnx
import pytest
import torch
from graphs import operators, run
from onnx.reference import ReferenceEvaluator
from torch import nn

import linf_plugin
from linf_plugin.layers.shifts import MeanShift
from onnx_export.writing.plain import verifier_model
from onnx_export.writing.settings import VERIFIER_FLAVOURS

COLOUR = {"shape": (3, 8, 8), "mean": (0.3, 0.2, 0.1), "std": 0.2}
ARCHITECTURES = {
    "mlp": ("linf-mlp", {"width": 16, "depth": 3}),
    "one-layer": ("linf-mlp", {"width": 16, "depth": 1}),
    "one-pixel": ("linf-mlp", {"shape": (1, 1, 1), "width": 3, "depth": 3, "classes": 2}),
    "three-pixels": ("linf-mlp", {"shape": (3, 1, 1), "mean": (0.3, 0.2, 0.1), "width": 1, "depth": 2}),
    "five-pixels": ("linf-mlp", {"shape": (1, 5, 1), "width": 7, "depth": 4}),
    "one-class": ("linf-mlp", {"width": 5, "depth": 2, "classes": 1}),
    "conv": ("linf-conv", {"channels": (6, 8), "strides": (1, 2), "width": 16} | COLOUR),
    "conv-head": ("linf-conv", {"channels": (3,), "strides": (2,), "width": 9, "hidden": 5} | COLOUR),
    "head": ("linf-mlp-head", {"width": 16, "depth": 2, "hidden": 8}),
    "crop": ("linf-mlp", {"width": 16, "depth": 2, "crop": 3} | COLOUR),
    "clip": ("linf-mlp", {"width": 16, "depth": 2, "clip": 0.3}),
    "clip-conv": ("linf-mlp", {"width": 6, "depth": 2, "clip": 0.2} | COLOUR),
    "sortnet": ("sortnet-mlp", {"width": 16, "depth": 3, "rho": 0.6, "k": 5}),
    "sortnet-odd": ("sortnet-mlp", {"width": 37, "depth": 2, "rho": 0.2, "k": 10}),
    "sortnet-k-above-width": ("sortnet-mlp", {"width": 7, "depth": 3, "rho": 0.2, "k": 100}),
    "sortnet-one-input": ("sortnet-mlp", {"width": 1, "depth": 3, "rho": 0.5, "k": 3}),
    "sortnet-rho-1": ("sortnet-mlp", {"width": 16, "depth": 3, "rho": 1.0}),
    "sortnet-head": ("sortnet-mlp", {"width": 6, "depth": 2, "rho": 0.4, "k": 3, "hidden": 4}),
    "relu-mlp": ("relu-mlp", {"width": 16, "depth": 3}),
    "relu-conv": ("relu-conv", {"channels": (6, 8), "strides": (1, 2), "width": 16} | COLOUR),
    "ramp": ("relu-mlp", {"width": 16, "depth": 3, "activation": "ramp"}),
    "ramp-conv": ("relu-conv", {"channels": (6, 8), "strides": (1, 2), "width": 16, "activation": "ramp"} | COLOUR),
    "max-min": ("relu-mlp", {"width": 16, "depth": 3, "activation": "max-min"}),
    "max-min-conv": (
        "relu-conv",
        {"channels": (6, 8), "strides": (1, 2), "width": 6, "activation": "max-min"} | COLOUR,
    ),
    "batch-norm": ("relu-conv", {"channels": (6, 8), "strides": (1, 2), "width": 16, "batch_norm": True} | COLOUR),
}
EVERYTHING = {"kernel_size": [2, 3], "stride": [2, 1], "padding": [1, 2], "dilation": [2, 1], "groups": 2}
FLAT = ["flatten", {}]
SPECS = {  # input shape, layers
    "residual": (
        (2, 4, 5),
        [
            ["normalize", {"mean": [0.2, 0.4], "std": 0.5}],
            ["potential_conv", {"channels": 2, "inner": 3, "kernel_size": [3, 1]}],
            ["potential_conv", {"channels": 2, "inner": 1, "bias": False}],
            FLAT,
            ["potential", {"features": 40, "inner": 6}],
            ["linear", {"in_features": 40, "out_features": 3}],
        ],
    ),
    "dist-conv-everything": (
        (4, 7, 5),
        [
            ["mean_shift", {"num_features": 4}],
            ["dist_conv", {"in_channels": 4, "out_channels": 6} | EVERYTHING],
            ["mean_shift", {"num_features": 6}],
            ["relu", {}],
            ["negate", {}],
            FLAT,
            ["linear", {"in_features": 168, "out_features": 3}],
        ],
    ),
    "dist-conv-depthwise": (
        (3, 4, 4),
        [
            ["normalize", {"mean": [0.1, 0.2, 0.3], "std": 0.5}],
            ["dist_conv", {"in_channels": 3, "out_channels": 6, "kernel_size": 3, "groups": 3}],
            ["mean_shift", {"num_features": 6}],
            ["dist_conv", {"in_channels": 6, "out_channels": 2, "kernel_size": 2}],
            FLAT,
        ],
    ),
    "dist-conv-one-pixel": ((2, 1, 1), [["dist_conv", {"in_channels": 2, "out_channels": 3, "kernel_size": 1}], FLAT]),
    "conv-everything": (
        (4, 7, 5),
        [
            ["dist_conv", {"in_channels": 4, "out_channels": 4, "kernel_size": 1}],
            ["negate", {}],
            ["mean_shift", {"num_features": 4}],
            ["conv", {"in_channels": 4, "out_channels": 6} | EVERYTHING],
            ["mean_shift", {"num_features": 6}],
            ["negate", {}],
            ["tanh", {}],
            ["conv", {"in_channels": 6, "out_channels": 2, "kernel_size": 3, "bias": False}],
            ["relu", {}],
            ["relu", {}],
            FLAT,
        ],
    ),
    "crop-inside": (
        (2, 5, 6),
        [
            ["dist_conv", {"in_channels": 2, "out_channels": 3, "kernel_size": 1}],
            ["crop", {"size": 3}],
            ["mean_shift", {"num_features": 3}],
            ["crop", {"size": 3}],
            FLAT,
            ["mean_shift", {"num_features": 27}],
            ["tanh", {}],
            ["dist", {"in_features": 27, "out_features": 2, "bias": False}],
        ],
    ),
    "sorted-then-tanh": (
        (1, 3, 3),
        [
            FLAT,
            ["sort_dist", {"in_features": 9, "out_features": 5, "rho": 0.3, "k": 4}],
            ["negate", {}],
            ["mean_shift", {"num_features": 5}],
            ["tanh", {}],
            ["sort_dist", {"in_features": 5, "out_features": 2, "rho": 0.3, "k": 5}],
        ],
    ),
    "linear-after": (
        (1, 2, 2),
        [FLAT, ["linear", {"in_features": 4, "out_features": 3}], ["mean_shift", {"num_features": 3}], ["negate", {}]],
    ),
    "ramp-of-distances": (
        (2, 2, 2),
        [
            ["ramp", {"num_features": 2, "top": 0.6}],
            ["negate", {}],
            ["max_min", {}],
            FLAT,
            ["dist", {"in_features": 8, "out_features": 4}],
            ["max_min", {}],
            ["ramp", {"num_features": 4, "top": 1.5}],
        ],
    ),
    "pixels": ((2, 1, 2), [FLAT]),
}
each_flavour = pytest.mark.parametrize("flavour", VERIFIER_FLAVOURS)


def from_spec(shape, layers):
    torch.manual_seed(0)
    net = linf_plugin.Net({"input_shape": list(shape), "layers": layers}).eval()
    for layer in net:
        if isinstance(layer, MeanShift):
            layer.running_mean.normal_()
    return net


@pytest.fixture(scope="module", params=[*ARCHITECTURES, *SPECS])
def net(request, small_net):
    if request.param in SPECS:
        return from_spec(*SPECS[request.param])
    architecture, arguments = ARCHITECTURES[request.param]
    return small_net(architecture, **arguments)


def sizes(model):
    """Of every value, without the batch."""
    inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True).graph
    return {
        v.name: [d.dim_value for d in v.type.tensor_type.shape.dim]
        for v in (*inferred.input, *inferred.value_info, *inferred.output)
    }


def relus(model):
    of = sizes(model)
    return sum(math.prod(of[n.output[0]]) for n in model.graph.node if n.op_type == "Relu")


@each_flavour
@torch.no_grad()
def test_computes_the_net(net, flavour):
    """Within 1e-6 of the largest activation, by two runtimes."""
    model = verifier_model(net, flavour)
    onnx.checker.check_model(model, full_check=True)
    reference = ReferenceEvaluator(model)
    for x in (*torch.rand(5, 1, *net.input_shape), torch.zeros(1, *net.input_shape)):
        activations = [x]
        for layer in net:
            activations.append(layer(activations[-1]))
        allowed = 1e-6 * max(float(a.abs().max()) for a in activations)
        for logits in (run(model, x)[0], reference.run(None, {"x": x.numpy()})[0]):
            assert logits.dtype == np.float32
            torch.testing.assert_close(torch.from_numpy(logits), activations[-1], rtol=0, atol=allowed)


@each_flavour
def test_one_chain_of_known_shapes(net, flavour):
    model = verifier_model(net, flavour)
    nodes, of = model.graph.node, sizes(model)
    assert [(i.name, of[i.name]) for i in model.graph.input] == [("x", [1, *net.input_shape])]
    assert [o.name for o in model.graph.output] == ["logits"] and of["logits"][0] == 1
    assert [n.input[0] for n in nodes] == ["x", *(n.output[0] for n in nodes[:-1])]
    for n in nodes:
        assert n.domain == "" and len(of[n.output[0]]) in (2, 4) and 0 not in of[n.output[0]]
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in n.attribute}
        assert not {"group", "dilations"} & attributes.keys()
        if n.op_type == "MaxPool":
            assert attributes["kernel_shape"] == attributes["strides"]
    assert [(o.domain, o.version) for o in model.opset_import] == [("", 13)]
    assert {t.data_type for t in model.graph.initializer} <= {onnx.TensorProto.FLOAT, onnx.TensorProto.INT64}
    allowed = {"Add", "Conv", "Gemm", "Relu", "Reshape", "Tanh"}
    assert set(operators(model)) <= allowed | {"maxpool": {"MaxPool"}, "relu": {"Transpose"}}[flavour]


def test_few_nodes(small_net):
    net = small_net(shape=(1, 28, 28), width=16, depth=2)
    layer = ["Reshape", "Conv", "Add", "Reshape"]
    pooled = verifier_model(net, "maxpool")
    assert operators(pooled) == [*layer, "MaxPool", *layer, "MaxPool", "Reshape", "Gemm"]
    compared = operators(verifier_model(net, "relu"))
    assert compared == [
        *layer[:3],
        "Relu",
        "Reshape",
        *["Conv", "Relu"] * 10,
        *layer[:3],
        "Relu",
        "Reshape",
        *["Conv", "Relu"] * 4,
        "Reshape",
        "Gemm",
    ]


@pytest.mark.parametrize("side, count, size", [(4, 1612, 8_000), (28, 50_892, 108_000)])
def test_sizes(small_net, side, count, size):
    """A maximum of n takes a ReLU a coordinate and sign, then two a pair that is compared."""
    net = small_net(shape=(1, side, side), width=16, depth=2)
    compared, pooled = verifier_model(net, "relu"), verifier_model(net, "maxpool")
    assert relus(compared) == count and relus(pooled) == 0
    assert pooled.ByteSize() < compared.ByteSize() < size


@each_flavour
def test_linear_layers_take_in_what_follows(flavour):
    assert operators(verifier_model(from_spec(*SPECS["linear-after"]), flavour)) == ["Reshape", "Gemm", "Gemm"]
    shape, layers = SPECS["linear-after"]
    net = from_spec(shape, [*layers, ["relu", {}]])
    assert operators(verifier_model(net, flavour)) == ["Reshape", "Gemm", "Relu"]


@each_flavour
def test_the_net_is_left_alone(small_net, flavour):
    net = small_net(width=4, depth=2)
    before = {name: a.clone() for name, a in net.state_dict().items()}
    first, second = (verifier_model(net, flavour).SerializeToString() for _ in range(2))
    assert first == second
    assert all(torch.equal(a, before[name]) for name, a in net.state_dict().items())


# What is refused.


def _with_nan(net):
    net[2].weight.data[0, 0] = math.nan
    return net


def _with_p(net, p=8.0):
    linf_plugin.set_p(net, p)
    return net


@pytest.mark.parametrize(
    "change, error, match",
    [
        (lambda net: net.train(), ValueError, "net is in training mode"),
        (lambda net: net[3].train() and net, ValueError, "training mode"),
        (lambda net: net.double(), ValueError, "float32"),
        (_with_nan, ValueError, "2.weight of net contains NaN"),
        (_with_p, ValueError, "LinfDistLinear has p=8"),
        (lambda net: nn.Sequential(*net), TypeError, "net must be a linf_plugin.Net"),
    ],
    ids=["training", "partly-training", "float64", "nan", "p", "no-net"],
)
@each_flavour
def test_refused(small_net, flavour, change, error, match):
    with pytest.raises(error, match=match):
        verifier_model(change(small_net(width=4, depth=2)), flavour)


def test_refused_flavour(small_net):
    with pytest.raises(ValueError, match="flavour must be one of maxpool, relu, got 'max'"):
        verifier_model(small_net(width=4, depth=2), "max")


@pytest.mark.parametrize(
    "layers, match",
    [
        ([["dist_conv", {"in_channels": 1, "out_channels": 2, "kernel_size": 2, "p": 3.0}], FLAT], "Conv2d has p=3"),
        ([["dist", {"in_features": 4, "out_features": 2}], FLAT], "LinfDistLinear takes flat values"),
        ([FLAT, ["conv", {"in_channels": 1, "out_channels": 2, "kernel_size": 2}]], r"Conv2d takes images \(C, H, W\)"),
        ([["conv", {"in_channels": 1, "out_channels": 2, "kernel_size": 1, "padding": "same"}], FLAT], "in numbers"),
        ([["flatten", {"start_dim": 2}]], "must flatten all"),
        ([["batch_norm", {"num_features": 1}], FLAT], "layer 0 of net, batch_norm, does not follow a conv layer"),
        ([["relu", {}]], r"net must give logits \(N, classes\), gives \('N', 1, 4, 4\)"),
    ],
    ids=["p", "dist-of-image", "conv-of-flat", "padding", "flatten", "batch-norm", "image"],
)
def test_refused_layers(layers, match):
    with pytest.raises(ValueError, match=match):
        verifier_model(from_spec((1, 4, 4), layers), "maxpool")


def test_a_sorted_sum_at_evaluation_has_no_p(small_net):
    net = small_net("sortnet-mlp", width=4, depth=2, rho=0.5)
    before = verifier_model(net, "relu").SerializeToString()
    net[-2].p = 8.0
    assert verifier_model(net, "relu").SerializeToString() == before
