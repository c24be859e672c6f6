"""ONNX graphs back to distance nodes and to nets: written by ``export``, inlined, and in the broadcast form."""

import functools
import math

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx.inliner import inline_local_functions

import linf_plugin
from linf_plugin.bounds import specification
from onnx_export import attach
from onnx_export.export import export
from onnx_export.fuse import fuse_distance, to_net

NETS = {
    "one-distance": ("linf-mlp", {"width": 4, "depth": 1}),
    "distances": ("linf-mlp", {"width": 6, "depth": 3}),
    "head": ("linf-mlp-head", {"width": 6, "depth": 2, "hidden": 4}),
    "convolution": ("linf-conv", {"shape": (2, 8, 8), "channels": (2, 3), "strides": (1, 2), "width": 5}),
    "two-means": ("linf-conv", {"shape": (2, 8, 8), "mean": (0.3, 0.4), "std": 1.0, "channels": (4,), "strides": (2,)}),
    "relu": ("relu-mlp", {"width": 6, "depth": 2}),
    "relu-convolution": ("relu-conv", {"channels": (2, 3), "strides": (1, 2), "width": 6}),
}
each_form = pytest.mark.parametrize("form", [lambda m: m, inline_local_functions], ids=["nodes", "inlined"])


def run(model: onnx.ModelProto, x: torch.Tensor) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x.numpy()})


def operators(model: onnx.ModelProto) -> list[str]:
    return [n.op_type for n in model.graph.node]


@pytest.fixture(scope="module")
def exported(small_net, tmp_path_factory):
    """``exported(name, p)``: a net of ``NETS`` and the file that ``export`` writes, parsed; not to be changed."""
    @functools.cache
    def make(name: str, p: float = math.inf):
        architecture, arguments = NETS[name]
        net, path = small_net(architecture, **arguments), tmp_path_factory.mktemp("fuse") / "net.onnx"
        linf_plugin.set_p(net, p)
        export(net, path)
        return net, onnx.load(path)

    return make


@torch.no_grad()
@each_form
@pytest.mark.parametrize("name", NETS)
def test_round_trip(exported, name, form):
    net, model = exported(name)
    model = form(model)
    back, x = to_net(model), torch.rand(9, *net.input_shape)
    assert torch.equal(back(x), net(x)) and back.lipschitz == net.lipschitz
    assert [layer for layer, _ in back.spec["layers"]] == [layer for layer, _ in net.spec["layers"]]
    logits = torch.from_numpy(run(model, x)[0])
    if "linear" in [layer for layer, _ in net.spec["layers"]]:  # each runtime adds in an order of its own
        torch.testing.assert_close(logits, back(x), rtol=1e-5, atol=1e-5)
    else:
        assert torch.equal(logits, back(x))


@torch.no_grad()
@pytest.mark.parametrize("p", [8.0, 100.5], ids=lambda p: f"p={p:g}")
@each_form
@pytest.mark.parametrize("name", ["distances", "convolution"])
def test_finite_p(exported, name, form, p):
    net, model = exported(name, p)
    back, x = to_net(form(model)), torch.rand(9, *net.input_shape)
    assert torch.equal(back(x), net(x))


@each_form
@pytest.mark.parametrize("name", ["distances", "convolution"])
def test_fused_models_run(exported, name, form):
    """With bodies again, logits and radii are what they were."""
    net, model = exported(name)
    x = torch.rand(3, *net.input_shape)
    fused = attach(fuse_distance(form(model)))
    onnx.checker.check_model(fused, full_check=True)
    expected = [n.op_type for n in model.graph.node if n.domain == "linf" and n.op_type != "CertifiedRadius"]
    assert [n.op_type for n in fused.graph.node if n.domain == "linf"][: len(expected)] == expected
    assert "Scan" not in operators(fused)
    for before, after in zip(run(model, x), run(fused, x), strict=True):
        assert np.array_equal(before, after)


@pytest.mark.parametrize("name", ["distances", "head", "convolution"])
def test_bounds_are_those_of_the_net(exported, name):
    from auto_LiRPA import BoundedModule, BoundedTensor, PerturbationLpNorm

    net, model = exported(name)
    back = to_net(inline_local_functions(model))
    x = torch.rand(2, *net.input_shape)
    ball = BoundedTensor(x, PerturbationLpNorm(norm=math.inf, eps=0.1))
    bounded = [BoundedModule(model, x) for model in (net, back)]
    c = specification(torch.tensor([1, 7]), 10)
    for method in ("IBP", "CROWN-IBP", "CROWN"):
        for theirs, ours in zip(*(b.compute_bounds(x=(ball,), C=c, method=method) for b in bounded)):
            assert torch.equal(ours, theirs)
            assert ours.isfinite().all()


# The broadcast form.

W = np.random.default_rng(0).standard_normal((5, 6)).astype(np.float32)
V = np.random.default_rng(1).standard_normal((3, 5)).astype(np.float32)


def model_of(nodes, opset=18, shape=("N", 6), outputs=("y",), **constants) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(o, TensorProto.FLOAT, None) for o in outputs],
        [numpy_helper.from_array(np.asarray(a), name) for name, a in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def distance(x, w, y, opset, order=1, axis=1, last=-1) -> list[onnx.NodeProto]:
    """ReduceMax(|Unsqueeze(x) − w|), axes as the opset wants them; the constants are named one and last."""
    node = helper.make_node
    pair = [f"{y}.x", w][::order]
    return [
        node("Unsqueeze", [x], [f"{y}.x"], axes=[axis]) if opset < 13 else node("Unsqueeze", [x, "one"], [f"{y}.x"]),
        node("Sub", pair, [f"{y}.t"]), node("Abs", [f"{y}.t"], [f"{y}.z"]),
        node("ReduceMax", [f"{y}.z"], [y], keepdims=0, axes=[last]) if opset < 18 else
        node("ReduceMax", [f"{y}.z", "last"], [y], keepdims=0),
    ]


@torch.no_grad()
@pytest.mark.parametrize("opset", [11, 13, 18, 20])
@pytest.mark.parametrize("order", [1, -1], ids=["x−w", "w−x"])
@pytest.mark.parametrize("axis, last", [(1, -1), (-2, 2)])
def test_broadcast(opset, order, axis, last):
    nodes = distance("x", "w", "h", opset, order, axis, last) + distance("h", "v", "y", opset, order, axis, last)
    axes = {"one": np.int64([axis]), "last": np.int64([last])}
    model = model_of(nodes, opset, w=W[None], v=V, **axes)
    fused, x = fuse_distance(model), torch.randn(4, 6)
    assert operators(fused) == ["LinfDist", "LinfDist"] and len(fused.graph.initializer) == 2
    net = to_net(model)
    assert net.input_shape == (6,) and torch.equal(net(x), torch.from_numpy(run(model, x)[0]))


def test_weights_that_are_computed():
    """A constant by way of nodes: what exporters make of ``w[None]`` or of a transposed weight."""
    nodes = [
        helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(W.T.copy())),
        helper.make_node("Transpose", ["c"], ["t"]), helper.make_node("Unsqueeze", ["t", "zero"], ["w"]),
    ] + distance("x", "w", "y", 18)
    model = model_of(nodes, one=np.int64([1]), last=np.int64([-1]), zero=np.int64([0]))
    fused = fuse_distance(model)
    assert operators(fused) == ["LinfDist"]
    assert np.array_equal(numpy_helper.to_array(fused.graph.initializer[0]), W)


@pytest.mark.filterwarnings(r"ignore:`isinstance\(treespec, LeafSpec\)` is deprecated:FutureWarning")
@torch.no_grad()
def test_by_the_exporter():
    """A module that knows nothing of this package, with a flattening whose shape is computed."""
    class Broadcast(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.w = torch.nn.Parameter(torch.from_numpy(W))

        def forward(self, x):
            x = x.reshape(x.shape[0], -1)
            return -(x[:, None] - self.w).abs().amax(2)

    x = torch.randn(4, 1, 2, 3)
    program = torch.onnx.export(
        Broadcast().eval(), (x,), dynamic_shapes=({0: "batch"},), opset_version=18, verbose=False
    )
    net = to_net(program.model_proto)
    assert [name for name, _ in net.spec["layers"]] == ["flatten", "dist", "negate"]
    assert torch.equal(net(x), Broadcast()(x))


def look_alikes():
    """name → (nodes, shape of x): not a distance of rows, though nearly."""
    def change(i, op_type=None, **attributes):
        nodes = distance("x", "w", "y", 18)
        nodes[i] = helper.make_node(op_type or nodes[i].op_type, nodes[i].input, nodes[i].output, **attributes)
        return nodes

    yield "ReduceMin", change(3, "ReduceMin", keepdims=0), ("N", 6)
    yield "keepdims", change(3), ("N", 6)
    yield "no Abs", change(2, "Neg"), ("N", 6)
    yield "Add", change(1, "Add"), ("N", 6)
    yield "one feature", distance("x", "w", "y", 18), ("N", 1)
    yield "unknown features", distance("x", "w", "y", 18), ("N", "F")
    yield "three dimensions", distance("x", "w", "y", 18), (1, 5, 6)


@pytest.mark.parametrize("nodes, shape", [c[1:] for c in look_alikes()], ids=[c[0] for c in look_alikes()])
def test_look_alikes_stay(nodes, shape):
    model = model_of(nodes, shape=shape, w=W, one=np.int64([1]), last=np.int64([-1]))
    assert operators(fuse_distance(model)) == operators(model)


def test_a_body_that_was_changed_stays(exported):
    """One operator differs from what ``export`` writes: another function."""
    model = inline_local_functions(exported("one-distance")[1])
    assert "LinfDist" in operators(fuse_distance(model))
    graph = model.graph
    for op_type in ("Scan", "Scan", "ReduceMin"):
        (node,) = (n for n in graph.node if n.op_type == op_type)
        graph = next((a.g for a in node.attribute if a.name == "body"), None)
    node.op_type = "ReduceMax"
    assert "LinfDist" not in operators(fuse_distance(model))
    with pytest.raises(ValueError, match="node "):
        to_net(model)


# Layers one by one.

def chain(*nodes, opset=18, shape=("N", 6), **constants) -> onnx.ModelProto:
    """x → the nodes, one after the other → y; each is (operator, further inputs, attributes)."""
    names = ["x", *(f"h{i}" for i in range(1, len(nodes))), "y"]
    made = [
        helper.make_node(op, [names[i] if n == "·" else n for n in inputs], [names[i + 1]], name=f"n{i}", **attributes)
        for i, (op, inputs, attributes) in enumerate(nodes)
    ]
    return model_of(made, opset, shape, **constants)


RIGHT = {
    "Add": ([("Add", ["b", "·"], {})], {"b": W[0]}),
    "Add of one number": ([("Add", ["·", "b"], {})], {"b": np.float32([[0.3]])}),
    "Sub then Mul": ([("Sub", ["·", "b"], {}), ("Mul", ["s", "·"], {})], {"b": W[0], "s": np.float32(1 / 0.3081)}),
    "Mul": ([("Mul", ["·", "s"], {})], {"s": np.float32([0.7])}),
    "Mul twice": ([("Mul", ["·", "s"], {}), ("Mul", ["·", "s"], {})], {"s": np.float32([0.7])}),
    "MatMul, Add, Add": (
        [("MatMul", ["·", "w"], {}), ("Add", ["·", "b"], {}), ("Add", ["·", "c"], {})],
        {"w": np.ascontiguousarray(W.T), "b": W[:, 0], "c": W[:, 1]},
    ),
    "Gemm": ([("Gemm", ["·", "w", "b"], {})], {"w": W.T.copy(), "b": W[:, 0]}),
    "Gemm without bias": ([("Gemm", ["·", "w"], {"transB": 1}), ("Relu", ["·"], {})], {"w": W}),
    "Identity, Flatten": ([("Identity", ["·"], {}), ("Flatten", ["·"], {}), ("Tanh", ["·"], {})], {}),
    "Reshape": ([("Reshape", ["·", "s"], {})], {"s": np.int64([0, -1])}),
}


@torch.no_grad()
@pytest.mark.parametrize("nodes, constants", RIGHT.values(), ids=RIGHT)
def test_layers(nodes, constants):
    model, x = chain(*nodes, **constants), torch.randn(4, 6)
    got, expected = to_net(model)(x), torch.from_numpy(run(model, x)[0])
    exact = nodes[0][0] not in ("MatMul", "Gemm", "Identity")
    torch.testing.assert_close(got, expected, rtol=0 if exact else 1e-5, atol=0 if exact else 1e-6)


WRONG = {
    "operator": ([("Relu", ["·"], {}), ("Sigmoid", ["·"], {})], {}, r"node 'n1' \(Sigmoid\): this operator"),
    "constant minus x": ([("Sub", ["b", "·"], {})], {"b": W[0]}, r"node 'n0' \(Sub\): a constant minus"),
    "a matrix of offsets": ([("Add", ["·", "b"], {})], {"b": np.ones((2, 6), np.float32)}, "not one number a channel"),
    "negative factor": ([("Mul", ["·", "s"], {})], {"s": np.float32(-1)}, "one positive number"),
    "factors": ([("Mul", ["·", "s"], {})], {"s": W[0]}, "one positive number"),
    "used twice": ([("Relu", ["·"], {}), ("Add", ["·", "x"], {})], {}, r"node 'n1' \(Add\): only a chain"),
    "alpha": ([("Gemm", ["·", "w"], {"transB": 1, "alpha": 2.0})], {"w": W}, "x·W"),
    "weights that do not fit": ([("Gemm", ["·", "w"], {})], {"w": W}, r"does not fit a value of shape"),
    "reshape": ([("Reshape", ["·", "s"], {})], {"s": np.int64([-1, 3])}, "other than flattening"),
    "flatten": ([("Flatten", ["·"], {"axis": 0})], {}, "other than flattening"),
    "only constants": ([("Identity", ["b"], {})], {"b": W}, "does not depend on the input"),
}


@pytest.mark.parametrize("nodes, constants, message", WRONG.values(), ids=WRONG)
def test_refuses(nodes, constants, message):
    with pytest.raises(ValueError, match=message):
        to_net(chain(*nodes, **constants))


def test_refuses_convolutions():
    w = np.ones((2, 1, 3, 3), np.float32)
    for attributes in ({"pads": [0, 0, 1, 1]}, {"auto_pad": "SAME_UPPER"}):
        with pytest.raises(ValueError, match="same padding on both sides"):
            to_net(chain(("Conv", ["·", "w"], attributes), shape=("N", 1, 5, 5), w=w))


def test_refuses_models():
    relu = ("Relu", ["·"], {})
    with pytest.raises(ValueError, match="sizes that are known"):
        to_net(chain(relu, shape=("N", "F")))
    two = chain(relu, shape=("N", 6))
    two.graph.input.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, [1]))
    with pytest.raises(ValueError, match="one input, it has 2"):
        to_net(two)
    outputs = model_of([helper.make_node("Relu", ["x"], ["a"]), helper.make_node("Tanh", ["x"], ["b"])], outputs="ab")
    with pytest.raises(ValueError, match="it has a, b"):
        to_net(outputs)


def test_a_sorted_sum_is_refused_by_name(small_net, tmp_path):
    """Its file holds the coefficients, from which neither ρ nor k can be read back exactly."""
    export(small_net("sortnet-mlp", width=4, depth=2, rho=0.8), tmp_path / "net.onnx")
    with pytest.raises(ValueError, match="SortDist"):
        to_net(onnx.load(tmp_path / "net.onnx"))
