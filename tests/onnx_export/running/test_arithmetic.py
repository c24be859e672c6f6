"""Sessions that would compute certified files with less than float32 are refused, by what they are seen to do."""

import functools

import onnx
import onnxruntime
import pytest
import torch
import traced_nets
from onnx import TensorProto, helper

from linf_plugin.float32.operations import ELU_UNITS, SIGMOID_UNITS, SOFTPLUS_UNITS
from linf_plugin.float32.rules import POWER_UNITS, TANH_UNITS, UNIT
from linf_plugin.kernels import reference
from onnx_export.exporting import export
from onnx_export.functions.library import attach
from onnx_export.running import arithmetic
from onnx_export.running.arithmetic import LessThanFloat32
from onnx_export.running.session import run, session

NETS = {  # operators whose products are probed → net
    "Gemm": ("linf-mlp-head", {"width": 12, "depth": 2, "hidden": 6}),
    "MatMul": ("linf-mlp-head", {"width": 12, "depth": 2, "hidden": 6}),
    "Conv": ("relu-conv", {"shape": (3, 8, 8), "channels": (6, 8), "strides": (1, 2), "width": 10}),
}


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    """Nothing has been probed yet."""
    monkeypatch.setattr(arithmetic, "_passed", set())


@pytest.fixture(scope="module")
def files(small_net, tmp_path_factory):
    """Operator → a file with certificates, the same without, and pixels."""
    made = {}
    for name, arguments in NETS.values():
        if name not in made:
            net, folder = small_net(name, **arguments), tmp_path_factory.mktemp(name)
            export(net, folder / "net.onnx", epsilon=0.01, certificate="interval")
            export(net, folder / "bare.onnx", certificate="none")
            made[name] = folder / "net.onnx", folder / "bare.onnx", torch.rand(3, *net.input_shape).numpy()
    return {operator: made[name] for operator, (name, _) in NETS.items()}


def _with_casts(model, operators, to):
    """Factors rounded to another type, by onnxruntime itself, in the models of the probes."""
    graph = model.graph
    if graph.node[0].op_type in operators:
        casts = []
        for i, name in enumerate(graph.node[0].input):
            casts += [
                helper.make_node("Cast", [name], [f"{name}-less"], to=to),
                helper.make_node("Cast", [f"{name}-less"], [f"{name}-again"], to=TensorProto.FLOAT),
            ]
            graph.node[0].input[i] = f"{name}-again"
        nodes = [*casts, *graph.node]
        del graph.node[:]
        graph.node.extend(nodes)
    return model


@pytest.mark.parametrize("to", (TensorProto.FLOAT16, TensorProto.BFLOAT16), ids=("float16", "bfloat16"))
@pytest.mark.parametrize("operator", NETS)
def test_each_product_is_probed(operator, to, files, monkeypatch):
    path, bare, x = files[operator]
    session(path, "cpu")
    made = arithmetic._Trial.model
    monkeypatch.setattr(arithmetic, "_passed", set())
    monkeypatch.setattr(
        arithmetic._Trial, "model", lambda self, *given: _with_casts(made(self, *given), (operator,), to)
    )
    with pytest.raises(LessThanFloat32, match=rf"{operator} '\w+' in .*net.onnx is not computed in float32 by.*batch"):
        session(path, "cpu")
    assert len(run(session(bare, "cpu"), x)) == 2  # nothing rests on it


@pytest.mark.parametrize(
    "name, operator", [("line", "Conv"), ("line", "ConvTranspose"), ("functions", "ConvTranspose"), ("cnn", "Conv")]
)
def test_each_product_of_a_traced_net_is_probed(name, operator, tmp_path, monkeypatch):
    """Of one dimension and of two, and transposed."""
    net, shape = traced_nets.net_of(name)
    export(net, tmp_path / "net.onnx", input_shape=shape, epsilon=0.01)
    session(tmp_path / "net.onnx", "cpu")
    made = arithmetic._Trial.model
    monkeypatch.setattr(arithmetic, "_passed", set())
    monkeypatch.setattr(
        arithmetic._Trial,
        "model",
        lambda self, *given: _with_casts(made(self, *given), (operator,), TensorProto.BFLOAT16),
    )
    with pytest.raises(LessThanFloat32, match=rf"{operator} '\w+' in .*net.onnx is not computed in float32 by.*batch"):
        session(tmp_path / "net.onnx", "cpu")


def test_a_product_is_probed_once(files, monkeypatch):
    path, *_ = files["Conv"]
    opened = []
    trial = arithmetic._Trial.model
    monkeypatch.setattr(arithmetic._Trial, "model", lambda self, *given: opened.append(1) or trial(self, *given))
    session(path, "cpu", threads=1)
    products = len(opened)
    graph = onnx.load(path).graph
    assert (
        2 < products < sum(node.op_type in arithmetic.PRODUCT_TRIALS for node in graph.node)
    )  # those of intervals repeat
    session(path, "cpu", threads=1)
    assert len(opened) == products
    session(path, "cpu", threads=2)
    assert len(opened) == 2 * products


def test_weights_beside_the_file(files, tmp_path):
    path, _, x = files["Conv"]
    onnx.save(
        onnx.load(path), tmp_path / "net.onnx", save_as_external_data=True, location="net.onnx.data", size_threshold=64
    )
    assert len(run(session(tmp_path / "net.onnx", "cpu"), x)) == 4


def test_convolutions_and_variables_of_a_gpu_are_refused(files, monkeypatch):
    path, *_ = files["Conv"]
    check = functools.partial(arithmetic.check_arithmetic, path, onnx.load(path), onnxruntime.SessionOptions())
    with pytest.raises(LessThanFloat32, match="cuDNN.*device='cpu'"):
        check([("CUDAExecutionProvider", {}), "CPUExecutionProvider"])
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "1")
    with pytest.raises(LessThanFloat32, match="NVIDIA_TF32_OVERRIDE=1"):
        check(["CUDAExecutionProvider", "CPUExecutionProvider"])
    check(["CPUExecutionProvider"])


@pytest.mark.parametrize(
    "name, operator, change, match",
    [
        ("cnn", "Conv", {"auto_pad": "SAME_UPPER"}, "Conv '.*' has auto_pad or 2 dimensions"),
        ("line", "ConvTranspose", {"output_shape": [13]}, "ConvTranspose '.*' has an output_shape or uneven pads"),
        ("line", "ConvTranspose", {"pads": [0, 2]}, "ConvTranspose '.*' has an output_shape or uneven pads"),
    ],
)
def test_convolutions_that_cannot_be_probed_are_refused(name, operator, change, match, tmp_path):
    net, shape = traced_nets.net_of(name)
    export(net, tmp_path / "net.onnx", input_shape=shape, epsilon=0.01)
    model = onnx.load(tmp_path / "net.onnx")
    for node in model.graph.node:
        if node.op_type == operator:
            kept = [a for a in node.attribute if a.name not in change and a.name != "pads"]
            del node.attribute[:]
            node.attribute.extend([*kept, *(helper.make_attribute(key, value) for key, value in change.items())])
    del model.graph.value_info[:]
    with pytest.raises(LessThanFloat32, match=match):
        arithmetic.check_arithmetic("net.onnx", model, onnxruntime.SessionOptions(), ["CPUExecutionProvider"])


@pytest.mark.parametrize("operator", ["Sigmoid", "Tanh", "Elu", "Softplus"])
def test_functions_err_as_assumed(operator):
    """docs/math.md: in units of 1 (a sigmoid, an ELU), of the value (tanh), and of the value plus 1 (a softplus)."""
    generator = torch.Generator().manual_seed(0)
    x = torch.cat([torch.linspace(-120, 120, 200_001), torch.randn(200_000, generator=generator)])
    x[200_001:] *= 10 ** (8 * torch.rand(200_000, generator=generator) - 7)
    value = functools.partial(helper.make_tensor_value_info, elem_type=TensorProto.FLOAT, shape=[None])
    graph = helper.make_graph([helper.make_node(operator, ["x"], ["y"])], "g", [value("x")], [value("y")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    s = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    y, t = torch.from_numpy(s.run(None, {"x": x.numpy()})[0]).double(), x.double()
    exact, units, of = {
        "Sigmoid": (t.sigmoid(), SIGMOID_UNITS, torch.ones_like(t)),
        "Tanh": (t.tanh(), TANH_UNITS, t.tanh().abs()),
        "Elu": (torch.where(t >= 0, t, torch.expm1(t)), ELU_UNITS, torch.ones_like(t)),
        "Softplus": (t.clamp_min(0) + torch.log1p(torch.exp(-t.abs())), SOFTPLUS_UNITS, None),
    }[operator]
    of = exact + 1 if of is None else of
    assert ((y - exact).abs() <= units * UNIT * of + 2.0**-126).all()
    assert operator != "Elu" or torch.equal(y[t >= 0], t[t >= 0])


def test_what_cannot_be_probed_is_refused(files):
    path, *_ = files["Gemm"]
    model = onnx.load(path)
    gemm = next(node for node in model.graph.node if node.op_type == "Gemm")
    next(a for a in gemm.attribute if a.name == "alpha").f = 2
    with pytest.raises(LessThanFloat32, match="Gemm '.*' has transA or alpha"):
        arithmetic.check_arithmetic(path, model, onnxruntime.SessionOptions(), ["CPUExecutionProvider"])


@pytest.mark.parametrize("flush", ("0", "1"), ids=("kept", "flushed"))
@pytest.mark.parametrize("p", (1.0, 1.5, 8.0, 64.5, 1000.0))
def test_bodies_of_finite_p_err_as_assumed_near_the_ends_of_the_range(p, flush):
    """docs/math.md, assumption 4."""
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("LpDist", ["x", "w"], ["y"], domain="linf", p=p)],
        "distance",
        [value(name, TensorProto.FLOAT, [None, None]) for name in "xw"],
        [value("y", TensorProto.FLOAT, None)],
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("linf", 1)]
    model = attach(helper.make_model(graph, opset_imports=opsets, ir_version=10))
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.set_denormal_as_zero", flush)
    distance = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    for place in (-149, -140, -128.5, -127.3, -126, -121, 121, 126.3, 126.9):
        x, w = (torch.rand(n, 9, dtype=torch.float64) - 0.5 for n in (5, 20))
        w[::3] = x[:1] + (w[::3] - x[:1]) * 2.0**-6
        x, w = ((2.0**place * a).float() for a in (x, w))
        y = torch.from_numpy(distance.run(None, {"x": x.numpy(), "w": w.numpy()})[0])
        exact = reference.dist(x.double(), w.double(), p)  # but for 2⁻⁵⁰ of itself
        spare = 64 * 9 ** (1 / p) * 2.0**-126 if flush == "1" else 2.0**-149
        right = (y - exact).abs() <= (POWER_UNITS + 9 / p) * UNIT * exact + spare
        assert right[exact < 2.0**127].all()
