"""ONNX graphs back to nets: what ``export`` writes, what the exporter of torch writes, and layers one by one."""

import copy
import math

import numpy as np
import onnx
import pytest
import torch
from graphs import NETS, W, chain, each_form, model_of, run
from onnx import TensorProto, helper
from onnx.inliner import inline_local_functions

from linf_plugin.bounds import specification
from linf_plugin.layers.lipschitz import lipschitz_bound
from onnx_export.exporting import export
from onnx_export.functions.bodies import check_bodies
from onnx_export.functions.library import for_device
from onnx_export.reading.fuse import fuse_distance
from onnx_export.reading.net import to_net
from onnx_export.writing.record import fold_means


@torch.no_grad()
@each_form
@pytest.mark.parametrize("name", NETS)
def test_round_trip(exported, name, form):
    net, model = exported(name)
    model = form(model)
    back, x = to_net(model), torch.rand(9, *net.input_shape)
    assert torch.equal(back(x), net(x)) and lipschitz_bound(back, math.inf) == lipschitz_bound(net, math.inf)
    assert [layer for layer, _ in back.spec["layers"]] == [layer for layer, _ in fold_means(net).spec["layers"]]
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


# Layers one by one.

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
    "Gemm with one bias for all": ([("Gemm", ["·", "w", "b"], {})], {"w": W.T.copy(), "b": W[0, :1]}),
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


def test_reading_does_not_touch_random_numbers():
    state = torch.get_rng_state()
    to_net(chain(("Gemm", ["·", "w"], {"transB": 1}), w=W))
    assert torch.equal(torch.get_rng_state(), state)


BRANCH = helper.make_graph(
    [helper.make_node("RandomUniform", [], ["r"], shape=[1, 6])],
    "b",
    [],
    [helper.make_tensor_value_info("r", TensorProto.FLOAT, [1, 6])],
)
WRONG = {
    "operator": ([("Relu", ["·"], {}), ("Sigmoid", ["·"], {})], {}, r"node 'n1' \(Sigmoid\): this operator"),
    "constant minus x": ([("Sub", ["b", "·"], {})], {"b": W[0]}, r"node 'n0' \(Sub\): a constant minus"),
    "a matrix of offsets": (
        [("Add", ["·", "b"], {})],
        {"b": np.ones((2, 6), np.float32)},
        "not one number for each channel",
    ),
    "negative factor": ([("Mul", ["·", "s"], {})], {"s": np.float32(-1)}, "one positive number"),
    "factors": ([("Mul", ["·", "s"], {})], {"s": W[0]}, "one positive number"),
    "used twice": ([("Relu", ["·"], {}), ("Add", ["·", "x"], {})], {}, r"node 'n1' \(Add\): only a chain"),
    "alpha": ([("Gemm", ["·", "w"], {"transB": 1, "alpha": 2.0})], {"w": W}, "x·W"),
    "weights that do not fit": ([("Gemm", ["·", "w"], {})], {"w": W}, r"does not fit a value of shape"),
    "a bias for each sample": (
        [("Gemm", ["·", "w", "b"], {"transB": 1})],
        {"w": W, "b": W[:, :1].copy()},
        "not one number for each channel",
    ),
    "a random constant": (
        [("RandomUniform", [], {"shape": [1, 6]}), ("Add", ["x", "·"], {})],
        {},
        r"node 'n0' \(RandomUniform\): .* random",
    ),
    "random numbers like a constant": (
        [("RandomNormalLike", ["b"], {}), ("Add", ["x", "·"], {})],
        {"b": W[0]},
        r"\(RandomNormalLike\): .* random",
    ),
    "a constant with a branch": (
        [("If", ["b"], {"then_branch": BRANCH, "else_branch": BRANCH}), ("Add", ["x", "·"], {})],
        {"b": np.bool_(True)},
        r"node 'n0' \(If\): this operator",
    ),
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
        with pytest.raises(ValueError, match="equal padding on both sides"):
            to_net(chain(("Conv", ["·", "w"], attributes), shape=("N", 1, 5, 5), w=w))

    for bias in (np.ones(5, np.float32), np.ones((2, 1), np.float32)):
        with pytest.raises(ValueError, match=r"\(Conv\): a bias of shape .* does not fit kernels of shape \(2, 1"):
            to_net(chain(("Conv", ["·", "w", "b"], {}), shape=("N", 1, 5, 5), w=w, b=bias))


@pytest.mark.parametrize(
    "op, inputs, outputs, p, message",
    [
        (
            "LinfDist",
            ["x", ""],
            ["y"],
            {},
            r"'d' \(LinfDist\): it must have 2 inputs, 1 output and the attributes none",
        ),
        ("LinfDist", ["x", "w"], ["y", "z"], {}, r"\(LinfDist\): it must have 2 inputs, 1 output"),
        ("LpDist", ["x", "w"], ["y"], {"p": math.inf}, r"\(LpDist\): p must be at least 1 and finite, got inf"),
    ],
    ids=["no weight", "two outputs", "p = ∞"],
)
def test_refuses_distances(op, inputs, outputs, p, message):
    model = model_of([helper.make_node(op, inputs, outputs, "d", domain="linf", **p)], opset=20, w=W)
    model.opset_import.append(helper.make_opsetid("linf", 1))
    with pytest.raises(ValueError, match=message):
        to_net(model)


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


@torch.no_grad()
def test_a_crop_to_all_of_an_image_is_no_layer(small_net, tmp_path):
    net = small_net(width=5, depth=2, shape=(1, 6, 6), crop=6)
    export(net, tmp_path / "net.onnx")
    back, x = to_net(onnx.load(tmp_path / "net.onnx")), torch.rand(3, 1, 6, 6)
    assert "crop" not in [name for name, _ in back.spec["layers"]] and torch.equal(back(x), net(x))


def _slices(*ends, shape=("N", 1, 6, 5)):
    """Slices of images one after the other, each (axis, start, end, step)."""
    names, constants = "starts ends axes steps".split(), {}
    nodes = []
    for i, (axis, *rest) in enumerate(ends):
        constants |= {f"{n}{i}": np.int64([a]) for n, a in zip(names, (*rest[:2], axis, rest[2]))}
        nodes.append(("Slice", ["·", *(f"{n}{i}" for n in names)], {}))
    return chain(*nodes, ("Relu", ["·"], {}), shape=shape, **constants)


@torch.no_grad()
@pytest.mark.parametrize(
    "ends",
    [[(2, 1, 5, 1), (3, 0, 4, 1)], [(-1, 0, -1, 1), (-2, -5, 5, 1)], [(2, 1, 6, 1), (3, 0, 4, 1), (2, 0, 4, 1)]],
    ids=["ends", "from the end", "twice along one axis"],
)
def test_slices_to_the_middle_are_a_crop(ends):
    model, x = _slices(*ends), torch.randn(2, 1, 6, 5)
    net = to_net(model)
    assert net.spec["layers"] == [["crop", {"size": 4}], ["relu", {}]]
    assert torch.equal(net(x), torch.from_numpy(run(model, x)[0]))


@pytest.mark.parametrize(
    "ends, message",
    [
        ([(2, 1, 5, 1)], "middle square"),
        ([(2, 0, 4, 1), (3, 0, 4, 1)], "middle square"),
        ([(2, 0, 6, 2)], "in steps of 2"),
        ([(3, 4, -9, -1)], "in steps of -1"),
        ([(1, 0, 0, 1)], "along axis 1"),
        ([(0, 1, 9, 1)], "along axis 0"),
        ([(4, 0, 1, 1)], "axes must be"),
        ([(2, 3, 3, 1)], "from 3 to 3"),
    ],
    ids=str,
)
def test_other_slices_are_refused(ends, message):
    with pytest.raises(ValueError, match=rf"node 'n\d' \((Slice|Relu)\): .*{message}"):
        to_net(_slices(*ends))


@pytest.mark.parametrize(
    "start, end, right",
    [(0, 2**31 - 1, True), (0, 2**63 - 1, True), (0, 7919, False), (0, 2**31 - 2, False), (-8000, 2**63 - 1, False)],
)
def test_of_a_batch_of_any_size_all_is_taken(start, end, right):
    """And not as many as stand for it here."""
    model = _slices((0, start, end, 1))
    if right:
        assert to_net(model).spec["layers"] == [["relu", {}]]
    else:
        with pytest.raises(ValueError, match="along axis 0 from .* does not keep all of a batch"):
            to_net(model)
    assert to_net(_slices((0, 0, 5, 1), shape=(5, 1, 6, 5))).spec["layers"] == [["relu", {}]]


def test_slices_of_unequal_lists_are_refused():
    model = chain(("Slice", ["·", "a", "b"], {}), shape=("N", 1, 6, 5), a=np.int64([0, 0]), b=np.int64([1]))
    with pytest.raises(ValueError, match="starts, ends, axes and steps must have the same length"):
        to_net(model)


# Functions.


def _operators(nodes):
    for node in nodes:
        yield node
        for a in node.attribute:
            yield from _operators(a.g.node)


@pytest.mark.parametrize("name, p", [("head", math.inf), ("convolution", math.inf), ("convolution", 8.0)])
def test_another_body_is_refused_wherever_it_differs(exported, name, p):
    """Each operator in each function, changed one at a time, and each constant."""
    model = copy.deepcopy(exported(name, p)[1])
    for function in model.functions:
        for node in _operators(function.node):
            before = copy.deepcopy(node)
            if node.op_type == "Constant":
                (a,) = node.attribute
                if a.ref_attr_name:
                    a.ref_attr_name = "other"
                elif a.type == a.INT:
                    a.i += 1
                elif a.type == a.INTS:
                    a.ints[0] += 1
                else:
                    node.op_type = "Shape"
            else:
                node.op_type = "Relu"
            with pytest.raises(ValueError, match=f"the function linf::{function.name} has another body"):
                check_bodies(model)
            node.CopyFrom(before)
    to_net(model)


def test_a_body_with_other_names_is_the_same(exported):
    net, model = exported("head")
    model = copy.deepcopy(model)
    for function in model.functions:
        function.doc_string = "noted"
        for node in _operators(function.node):
            node.name = "other"
            node.input[:] = [n and f"a.{n}" for n in node.input]
            node.output[:] = [n and f"a.{n}" for n in node.output]
            for a in node.attribute:
                for value in (*a.g.input, *a.g.output):
                    value.name = f"a.{value.name}"
        function.input[:] = [f"a.{n}" for n in function.input]
        function.output[:] = [f"a.{n}" for n in function.output]
    onnx.checker.check_model(model)
    x = torch.rand(2, *net.input_shape)
    assert torch.equal(to_net(model)(x), net(x))
    assert torch.equal(to_net(for_device(model, "cuda"))(x), net(x))


def _of(model, name):
    return next(f for f in model.functions if f.name == name)


FORGED = {
    "without what it calls": (lambda m: m.functions.remove(_of(m, "DistBlocks")), "calls linf::DistBlocks, which"),
    "twice": (lambda m: m.functions.append(_of(m, "LinfDist")), "linf::LinfDist is there twice"),
    "unknown": (lambda m: setattr(_of(m, "CertifiedRadius"), "name", "Radius"), "linf::Radius is not one that"),
    "version": (lambda m: setattr(m.opset_import[1], "version", 2), "linf must be of version 1, got 2"),
    "opset": (lambda m: setattr(_of(m, "LinfDist").opset_import[0], "version", 19), "linf::LinfDist has another body"),
    "standard": (
        lambda m: m.functions.append(
            helper.make_function(
                "", "Neg", ["x"], ["y"], [helper.make_node("Identity", ["x"], ["y"])], [helper.make_opsetid("", 20)]
            )
        ),
        "the function Neg takes the name of a standard operator",
    ),
    "overload": (lambda m: setattr(_of(m, "LinfDist"), "overload", "o"), "linf::LinfDist has another body"),
    "cycle": (lambda m: _of(m, "LinfDist").node[0].input.__setitem__(0, "y"), "linf::LinfDist: 'y' is used before"),
}


@pytest.mark.parametrize("change, message", FORGED.values(), ids=FORGED)
def test_forged_functions_are_refused(exported, change, message):
    model = copy.deepcopy(exported("distances")[1])
    change(model)
    with pytest.raises(ValueError, match=message):
        check_bodies(model)
    for take in (to_net, fuse_distance):
        with pytest.raises(ValueError):
            take(model)


def test_a_node_without_a_function_is_the_operator_of_its_name(exported):
    """As in a file whose nodes native operators compute."""
    net, model = exported("distances")
    model, x = copy.deepcopy(model), torch.rand(2, *net.input_shape)
    model.ClearField("functions")
    assert torch.equal(to_net(model)(x), net(x))


# Sorted sums and bytes.


@torch.no_grad()
@each_form
@pytest.mark.parametrize("rho, k", [(0.8, 10), (1 / 3, 3), (0.137, 4), (0.5, 1), (1.0, 5)], ids=str)
def test_a_sorted_sum_is_read_by_its_coefficients(small_net, tmp_path, form, rho, k):
    """Whichever ρ and k are found, the layer's coefficients are those of the file."""
    net = small_net("sortnet-mlp", width=6, depth=3, rho=rho, k=k)
    export(net, tmp_path / "net.onnx")
    back, x = to_net(form(onnx.load(tmp_path / "net.onnx"))), torch.rand(9, *net.input_shape)
    assert torch.equal(back(x), net(x)) and lipschitz_bound(back, math.inf) == lipschitz_bound(net, math.inf)


def test_other_coefficients_are_refused(small_net, tmp_path):
    net = small_net("sortnet-mlp", width=6, depth=2, rho=0.3, k=4)
    export(net, tmp_path / "net.onnx")
    for change in (lambda c: c.__setitem__(2, c[3]), lambda c: c.extend(c), lambda c: c.pop(), lambda c: c.reverse()):
        model = onnx.load(tmp_path / "net.onnx")
        (node,) = (n for n in model.graph.node if n.op_type == "SortDist")
        change(node.attribute[0].floats)
        with pytest.raises(ValueError, match=r"\(SortDist\): its \d coefficients are not"):
            to_net(model)


@torch.no_grad()
def test_a_net_of_bytes_is_read_as_one_of_pixels(small_net, tmp_path):
    net = small_net(width=6, depth=2)
    export(net, tmp_path / "net.onnx", pixels="byte")
    back = to_net(onnx.load(tmp_path / "net.onnx"))
    x = torch.randint(0, 256, (9, 1, 8, 8), dtype=torch.uint8)
    assert torch.equal(back(x / 255), net(x / 255))
    assert np.array_equal(back(x / 255), run(onnx.load(tmp_path / "net.onnx"), x)[0])


@pytest.mark.parametrize(
    "levels, nodes, message",
    [
        (np.float32(254), "Cast Div", r"\(Div\): only the division"),
        (np.float32(255), "Cast Mul", r"\(Mul\): pixels in bytes"),
        (np.float32(255), "Cast", "does not depend"),
        (np.float32(255), "Relu", r"\(Relu\): pixels in bytes"),
    ],
    ids=str,
)
def test_other_ways_with_bytes_are_refused(levels, nodes, message):
    made = [(n, ["·", "c"] if n in ("Div", "Mul") else ["·"], {"to": 1} if n == "Cast" else {}) for n in nodes.split()]
    model = chain(*made, c=levels)
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.UINT8
    with pytest.raises(ValueError, match=message):
        to_net(model)
