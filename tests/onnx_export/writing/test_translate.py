"""A model of one's own, exported with ``linf_onnx_kwargs`` and ``attach``."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from cases import INF, value_tolerance
from onnx.reference import ReferenceEvaluator
from torch import nn

from linf_plugin import Net, sorted_dist
from linf_plugin.layers.distance import LinfDistConv2d, LinfDistLinear
from linf_plugin.layers.shifts import MeanShift
from linf_plugin.layers.sort import SortDistLinear
from onnx_export import attach, linf_onnx_kwargs
from onnx_export.reading.net import to_net

# PyTorch's own exporter uses what PyTorch deprecates.
pytestmark = pytest.mark.filterwarnings(r"ignore:`isinstance\(treespec, LeafSpec\)` is deprecated:FutureWarning")


class Own(nn.Module):
    """Branches, a grouped dilated convolution, a distance of three-dimensional input."""

    def __init__(self, p: float):
        super().__init__()
        self.first = LinfDistConv2d(4, 6, (3, 2), stride=(2, 1), padding=(0, 2), dilation=(1, 2), groups=2, p=p)
        self.second = LinfDistConv2d(6, 6, 3, padding=1, bias=False, p=p)
        self.last = LinfDistLinear(6, 5, p=p)

    def forward(self, x):
        x = self.first(x)
        x = self.second(x) - x.relu()
        return self.last(x.flatten(2).transpose(1, 2))


def exported(model: nn.Module, x: torch.Tensor, sizes: dict[int, str]) -> onnx.ModelProto:
    """Checked, with open ``sizes`` of x."""
    program = torch.onnx.export(
        model.eval(), (x,), input_names=["x"], dynamic_shapes=(sizes,), verbose=False, **linf_onnx_kwargs(inline=False)
    )
    model = attach(program.model_proto)
    onnx.checker.check_model(model, full_check=True)
    return model


def run(model: onnx.ModelProto, x: torch.Tensor) -> torch.Tensor:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {"x": x.numpy()})[0])


@pytest.mark.parametrize("p", [1.0, 3.5, 100.0, INF])
@torch.no_grad()
def test_own_model(p):
    model = Own(p)
    onnx_model = exported(model, torch.randn(2, 4, 9, 8), {0: "n"})
    name = "LinfDist" if p == INF else "LpDist"
    nodes = [node.op_type for node in onnx_model.graph.node if node.domain == "linf"]
    assert nodes == [f"{name}Conv", f"{name}Conv", name]
    for n in (1, 2, 5):
        x = torch.randn(n, 4, 9, 8)
        expected = model(x)
        allowed = 0 if p == INF else 1e-6 * float(expected.abs().max())
        torch.testing.assert_close(run(onnx_model, x), expected, rtol=0, atol=allowed)


@torch.no_grad()
def test_every_size_may_be_open():
    model = Own(INF).double()
    onnx_model = exported(model, torch.randn(2, 4, 9, 8, dtype=torch.float64), {0: "n", 2: "h", 3: "w"})
    for shape in ((2, 4, 9, 8), (3, 4, 12, 5), (0, 4, 9, 8)):
        x = torch.randn(shape, dtype=torch.float64)
        y = run(onnx_model, x)
        assert y.dtype == torch.float64 and torch.equal(y, model(x))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@torch.no_grad()
def test_sorted_sums(dtype):
    """Of three-dimensional input, after a distance, in both dtypes with the same coefficients."""
    model = nn.Sequential(LinfDistLinear(6, 9), SortDistLinear(9, 5, rho=0.3, k=4), SortDistLinear(5, 4, rho=1))
    onnx_model = exported(model.to(dtype), torch.randn(2, 3, 6, dtype=dtype), {0: "n"})
    nodes = [node.op_type for node in onnx_model.graph.node if node.domain == "linf"]
    assert nodes == ["LinfDist", "SortDist", "LinfDist"]
    x = torch.randn(7, 3, 6, dtype=dtype)
    torch.testing.assert_close(run(onnx_model, x), model(x), rtol=4 * torch.finfo(dtype).eps, atol=0)


def test_a_sorted_sum_of_an_open_number_of_coordinates_is_refused():
    class Both(nn.Module):
        def forward(self, x, w):
            return sorted_dist(x, w, 0.5)

    with pytest.raises(Exception, match="fixed number of columns"):
        torch.onnx.export(
            Both().eval(),
            (torch.rand(3, 5), torch.rand(4, 5)),
            dynamic_shapes=({1: "in"}, {1: "in"}),
            verbose=False,
            **linf_onnx_kwargs(inline=False),
        )


class Ranges(nn.Module):
    """Of a convolution, a distance and a sorted sum, one after the other, over a box."""

    def __init__(self):
        super().__init__()
        self.conv = LinfDistConv2d(4, 6, (3, 2), stride=(2, 1), padding=(0, 2), dilation=(1, 2), groups=2)
        self.dist, self.sort = LinfDistLinear(6, 5), SortDistLinear(5, 3, rho=0.3, k=4)

    def forward(self, lower, upper):
        conv = ([2, 1], [0, 2], [1, 2], 2)
        ends = torch.ops.linf.box_conv2d(lower, upper, self.conv.weight, INF, *conv)
        ends = torch.ops.linf.box_dist(*(end.amax((2, 3)) for end in ends), self.dist.weight, INF)
        return torch.ops.linf.box_sorted_dist(*ends, self.sort.weight, 0.3, 4)


@pytest.mark.filterwarnings(
    "ignore:# The axis name:UserWarning"
)  # both ends have the same batch, which the operator says
@torch.no_grad()
def test_ranges_over_boxes():
    model, x = Ranges().eval(), torch.randn(2, 4, 9, 8)
    program = torch.onnx.export(
        model,
        (x, x + 1),
        input_names=["lower", "upper"],
        dynamic_shapes=({0: "n"}, {0: "n"}),
        verbose=False,
        **linf_onnx_kwargs(inline=False),
    )
    onnx_model = attach(program.model_proto)
    onnx.checker.check_model(onnx_model, full_check=True)
    nodes = [node.op_type for node in onnx_model.graph.node if node.domain == "linf"]
    assert nodes == ["LinfBoxDistConv", "LinfBoxDist", "SortBoxDist"]
    session = onnxruntime.InferenceSession(onnx_model.SerializeToString(), providers=["CPUExecutionProvider"])
    for n in (1, 2, 5):
        lower = torch.randn(n, 4, 9, 8)
        upper = lower + torch.rand(n, 4, 9, 8)
        got = session.run(None, {"lower": lower.numpy(), "upper": upper.numpy()})
        for y, expected in zip(got, model(lower, upper), strict=True):
            torch.testing.assert_close(torch.from_numpy(y), expected, rtol=6 * torch.finfo(torch.float32).eps, atol=0)


@pytest.mark.parametrize("name", ["box_dist", "box_conv2d"])
def test_ranges_at_a_finite_p_are_refused(name):
    class Range(nn.Module):
        def forward(self, lower, upper):
            conv = ([1, 1], [0, 0], [1, 1], 1) if name == "box_conv2d" else ()
            return getattr(torch.ops.linf, name)(lower, upper, upper, 2.0, *conv)

    x = torch.rand(2, 3, 4, 4) if name == "box_conv2d" else torch.rand(2, 3)
    with pytest.raises(Exception, match="at p = ∞ only, got p = 2.0"):
        torch.onnx.export(Range().eval(), (x, x + 1), verbose=False, **linf_onnx_kwargs(inline=False))


@torch.no_grad()
def test_factors_close_to_one_stay():
    """The exporter's optimiser would drop them, and with them part of the Lipschitz bound."""

    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("scale", torch.tensor(1.000005))

        def forward(self, x):
            return x * self.scale

    x = torch.rand(2, 3) + 1
    y = run(exported(Scaled(), x, {0: "n"}), x)
    assert torch.equal(y, Scaled()(x)) and not torch.equal(y, x)


# In one call.


class Mixed(nn.Module):
    """A convolution, a mean, finite p, a sorted sum; a branch."""

    def __init__(self):
        super().__init__()
        self.conv = LinfDistConv2d(2, 3, (3, 2), stride=(1, 2), padding=(1, 0))
        self.mean, self.finite = MeanShift(3), LinfDistLinear(3 * 5 * 3, 8, p=3.5)
        self.sort, self.last = SortDistLinear(8, 7, rho=0.3, k=4), LinfDistLinear(7, 4)
        self.mean.running_mean.normal_()

    def first(self, x):
        return self.finite(self.mean(self.conv(x)).flatten(1))

    def forward(self, x):
        x = self.first(x)
        return self.last(self.sort(x) - x[:, :7].relu())

    def allowed(self, x) -> float:
        """The error of the finite distance, which reaches the output twice at most, and as much for the sums."""
        return 4 * value_tolerance(torch.float32, 3.5, 45) * float(self.first(x).abs().max())


def written(model: nn.Module, given: tuple[torch.Tensor, ...], path, **arguments) -> onnx.ModelProto:
    """By the exporter alone, with a batch of any size; checked."""
    torch.onnx.export(
        model.eval(),
        given,
        path,
        dynamic_shapes=tuple({0: "n"} for _ in given),
        verbose=False,
        **linf_onnx_kwargs() | arguments,
    )
    onnx_model = onnx.load(path)
    onnx.checker.check_model(onnx_model, full_check=True)
    onnx.shape_inference.infer_shapes(onnx_model, check_type=True, strict_mode=True, data_prop=True)
    assert {o.domain for o in onnx_model.opset_import} == {""} and not onnx_model.functions
    return onnx_model


@pytest.mark.parametrize("opset", [18, 20, 21])
@torch.no_grad()
def test_written_by_the_exporter_alone(tmp_path, opset):
    model, path = Mixed(), tmp_path / "mine.onnx"
    onnx_model = written(model, (torch.randn(2, 2, 5, 6),), path, input_names=["x"], opset_version=opset)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for n in (1, 2, 5):
        x = torch.randn(n, 2, 5, 6)
        y = torch.from_numpy(session.run(None, {"x": x.numpy()})[0])
        torch.testing.assert_close(y, model(x), rtol=0, atol=model.allowed(x))
        with np.errstate(divide="ignore"):  # log 0 is −∞, as it should
            z = torch.from_numpy(ReferenceEvaluator(onnx_model).run(None, {"x": x.numpy()})[0])
        torch.testing.assert_close(z, model(x), rtol=0, atol=model.allowed(x))


@pytest.mark.filterwarnings(
    "ignore:# The axis name:UserWarning"
)  # both ends have the same batch, which the operator says
@torch.no_grad()
def test_ranges_written_by_the_exporter_alone(tmp_path):
    model, path, lower = Ranges(), tmp_path / "mine.onnx", torch.randn(2, 4, 9, 8)
    written(model, (lower, lower + 1), path, input_names=["lower", "upper"])
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    lower = torch.randn(5, 4, 9, 8)
    got = session.run(None, {"lower": lower.numpy(), "upper": lower.numpy() + 1})
    for y, expected in zip(got, model(lower, lower + 1), strict=True):
        torch.testing.assert_close(torch.from_numpy(y), expected, rtol=6 * torch.finfo(torch.float32).eps, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@torch.no_grad()
def test_what_the_exporter_alone_wrote_runs_without_a_warning(tmp_path, dtype, capfd):
    """onnxruntime warns of each CastLike that it cannot fold."""
    model, path, x = Mixed().to(dtype), tmp_path / "mine.onnx", torch.randn(2, 2, 5, 6, dtype=dtype)
    written(model, (x,), path, input_names=["x"])
    capfd.readouterr()
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    y = torch.from_numpy(session.run(None, {"x": x.numpy()})[0])
    assert capfd.readouterr().err == ""
    torch.testing.assert_close(y, model(x), rtol=0, atol=model.allowed(x))


@torch.no_grad()
def test_what_the_exporter_alone_wrote_is_read_and_attach_leaves_it(tmp_path):
    layers = [
        ["dist_conv", {"in_channels": 2, "out_channels": 3, "kernel_size": 3}],
        ["mean_shift", {"num_features": 3}],
        ["flatten", {}],
        ["dist", {"in_features": 48, "out_features": 4, "p": 3.0}],
    ]
    model, x = Net({"input_shape": [2, 6, 6], "layers": layers}).eval(), torch.randn(3, 2, 6, 6)
    onnx_model = written(model, (x,), tmp_path / "mine.onnx")
    assert torch.equal(to_net(onnx_model)(x), model(x))
    before = onnx_model.SerializeToString()
    assert attach(onnx_model).SerializeToString() == before


@torch.no_grad()
def test_an_exporter_without_functions_leaves_nodes(monkeypatch):
    """Then ``attach`` adds the bodies, as without ``inline``."""
    monkeypatch.setattr("onnx_export.writing.translate.give_functions", lambda protos: None)
    model, x = Mixed().eval(), torch.randn(3, 2, 5, 6)
    program = torch.onnx.export(model, (x,), input_names=["x"], verbose=False, **linf_onnx_kwargs())
    y = run(attach(program.model_proto), x)
    torch.testing.assert_close(y, model(x), rtol=0, atol=model.allowed(x))
