"""The files of traced nets: what they compute, and whether their bounds hold for it."""

import copy
import functools
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import traced_nets
from onnx.reference import ReferenceEvaluator
from torch import nn

import linf_plugin.bounds  # noqa: F401  (before auto_LiRPA, which it makes importable)
from linf_plugin.certificates import margin_bound
from linf_plugin.float32.reach import check_program, reach
from linf_plugin.graphs.capture import capture
from linf_plugin.graphs.ends import ends
from linf_plugin.graphs.operations import Add, Affine, Average, Softplus
from linf_plugin.intervals import apply_affine
from linf_plugin.layers.sort import SortDistLinear
from onnx_export.exporting import export
from onnx_export.functions.library import attach
from onnx_export.running.session import run, session
from onnx_export.writing.certificate import BOX_ROUNDING
from onnx_export.writing.settings import Settings
from onnx_export.writing.traced.compose import model_of_traced, traced
from onnx_export.writing.traced.folding import steps
from onnx_export.writing.traced.widths import widths

each_net = pytest.mark.parametrize("name", traced_nets.NETS)
LEVELS = [getattr(onnxruntime.GraphOptimizationLevel, f"ORT_{level}") for level in ("ENABLE_ALL", "DISABLE_ALL")]


@functools.cache
def net_of(name: str) -> SimpleNamespace:
    """A net, its graph in a file, and an ε at which about half of the images are certified.  Not to be changed."""
    net, shape = traced_nets.net_of(name)
    found = SimpleNamespace(net=net, shape=shape, traced=traced(net, shape))
    x, low, high = images(shape, 40), 1e-6, 0.5
    for _ in range(12):
        found.epsilon = (low * high) ** 0.5
        (session_,) = sessions(found, LEVELS[:1])
        certified = outputs(session_, x)["certified"].mean()
        low, high = (found.epsilon, high) if certified > 0.5 else (low, found.epsilon)
    return found


def model_of(found: SimpleNamespace, epsilon: float) -> onnx.ModelProto:
    model, _ = model_of_traced(found.traced, Settings(certified=False, interval=True, epsilon=epsilon))
    return model


def sessions(found: SimpleNamespace, levels=LEVELS) -> list[onnxruntime.InferenceSession]:
    """Sessions of stock onnxruntime, which fuses nodes or leaves them as they are."""
    made, content = [], attach(model_of(found, found.epsilon)).SerializeToString()
    for level in levels:
        options = onnxruntime.SessionOptions()
        options.log_severity_level, options.graph_optimization_level = 3, level
        made.append(onnxruntime.InferenceSession(content, options))
    return made


def outputs(session_: onnxruntime.InferenceSession, x: torch.Tensor) -> dict[str, np.ndarray]:
    return dict(zip([o.name for o in session_.get_outputs()], session_.run(None, {"x": x.numpy()})))


def images(shape: tuple[int, ...], count: int) -> torch.Tensor:
    x = torch.rand(count, *shape, generator=torch.Generator().manual_seed(3))
    x[: count // 10] = x[: count // 10].round()  # at the ends of the range
    return x


def around(net: nn.Module, x: torch.Tensor, eps: float) -> list[torch.Tensor]:
    """Points of the balls: random ones, corners, and corners along the gradient of each logit."""
    generator, points = torch.Generator().manual_seed(4), [x]
    for _ in range(5):
        step = 2 * torch.rand(x.shape, generator=generator) - 1
        points += [x + eps * step, x + eps * step.sign()]
    z = x.clone().requires_grad_()
    logits = net(z)
    for k in range(logits.shape[1]):
        (slope,) = torch.autograd.grad(logits[:, k].sum(), z, retain_graph=True)
        points += [x + eps * slope.sign(), x - eps * slope.sign()]
    return [p.clamp(0, 1).detach() for p in points]


@torch.no_grad()
@each_net
def test_logits_are_those_of_pytorch_up_to_rounding(name):
    found = net_of(name)
    x = images(found.shape, 40)
    program = check_program(found.net, x) or capture(found.net, x)
    allowed = 2 * reach(program, x.double(), x.double()).error
    for session_ in sessions(found):
        off = (torch.from_numpy(outputs(session_, x)["logits"]).double() - found.net(x).double()).abs()
        assert (off <= allowed).all() and (allowed < 1e-3).all()


@each_net
def test_logits_of_all_points_lie_between_the_ends(name):
    """However onnxruntime computes them: each session's logits, and each session's ends.  Predictions stay."""
    found = net_of(name)
    x = images(found.shape, 40)
    made = sessions(found)
    bounds = [outputs(s, x) for s in made]
    assert all(0 < b["certified"].sum() < len(x) for b in bounds)
    for point in around(found.net, x, found.epsilon):
        for s in made:
            logits = s.run(["logits"], {"x": point.numpy()})[0]
            for b in bounds:
                assert (b["lower"] <= logits).all() and (logits <= b["upper"]).all()
                assert (logits.argmax(1) == b["prediction"])[b["certified"]].all()


def exact_ends(found: SimpleNamespace, x: torch.Tensor, eps: float, times: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Intervals of the graph in the file in float64, moved outwards by ``times`` the widths."""
    graph, wide = copy.deepcopy(found.traced.graph).double(), widths(found.traced.graph, found.shape)
    x = x.double()
    values = [((x - eps).clamp(0), (x + eps).clamp(None, 1))]
    for (module, inputs, _), width in zip(graph.nodes, wide):
        given = [values[i] for i in inputs]
        lower, upper = ends(module, *given)
        size = [torch.maximum(-low, high) for low, high in given]
        by = width.added + width.times * magnitude(module, size, upper) if width.rounds else 0.0
        if width.spread > 1:
            radius = (given[0][1] - given[0][0]) / 2
            by = by + (width.spread - 1) * apply_affine(module, radius, module.weight.abs(), None)
        values.append((lower - times * by, upper + times * by))
    return values[-1]


def magnitude(module: nn.Module, size: list[torch.Tensor], upper: torch.Tensor):
    """The sizes of the terms that an operation adds, from the sizes of its inputs."""
    if isinstance(module, Add):
        return size[0] + size[1]
    if isinstance(module, Average):
        return module(*size)
    if isinstance(module, Affine):
        return module.factor.abs() * (size[0] + module.centre.abs()) + module.offset.abs()
    if isinstance(module, (Softplus, SortDistLinear)):
        return upper
    if getattr(module, "weight", None) is not None and not type(module).__module__.startswith("linf_plugin"):
        return apply_affine(module, size[0], module.weight.abs(), None if module.bias is None else module.bias.abs())
    return 0.0


@torch.no_grad()
@each_net
def test_ends_are_the_exact_interval_moved_by_the_widths(name):
    found = net_of(name)
    x, eps = images(found.shape, 40), 0.05
    found = SimpleNamespace(traced=found.traced, shape=found.shape, epsilon=eps)
    inner, outer = exact_ends(found, x, eps, 0.0), exact_ends(found, x, eps + BOX_ROUNDING * 1.01, 1.6)
    for session_ in sessions(found):
        given = outputs(session_, x)
        lower, upper = (torch.from_numpy(given[end]).double() for end in ("lower", "upper"))
        assert (lower <= inner[0]).all() and (upper >= inner[1]).all()
        assert (lower >= outer[0]).all() and (upper <= outer[1]).all()
    assert ((outer[1] - outer[0]) < 1.05 * (inner[1] - inner[0])).all()


@torch.no_grad()
@each_net
def test_only_what_interval_bounds_in_float64_certify_is_certified(name):
    found = net_of(name)
    x = images(found.shape, 40)
    (session_,) = sessions(found, LEVELS[:1])
    given = outputs(session_, x)
    certified = torch.from_numpy(given["certified"])
    labels = found.net(x).argmax(1)
    theirs, twice = (margin_bound(found.net, x, labels, e, "ibp") > 0 for e in (found.epsilon, 2 * found.epsilon))
    assert 0 < certified.sum() < len(x)
    assert theirs[certified].all() and certified[twice].all()
    assert (certified != theirs).sum() <= 3


@each_net
def test_valid_for_onnx_and_its_own_evaluator(name, tmp_path):
    found = net_of(name)
    path = tmp_path / "net.onnx"
    export(found.net, path, input_shape=found.shape, epsilon=found.epsilon, flavour="inlined")
    onnx.checker.check_model(path, full_check=True)
    model = onnx.load(path)
    onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    assert all(node.domain == "" for node in model.graph.node)
    x = images(found.shape, 4).numpy()
    ours, theirs = run(session(path, "cpu"), x), ReferenceEvaluator(model).run(None, {"x": x})
    for y, z in zip(ours, theirs, strict=True):
        assert y.dtype == z.dtype
        np.testing.assert_allclose(y, z, rtol=0, atol=1e-5 * max(1, np.abs(z).max()))


@each_net
def test_batches_of_any_size(name, tmp_path):
    found = net_of(name)
    path = tmp_path / "net.onnx"
    export(found.net, path, input_shape=found.shape, epsilon=found.epsilon)
    s, x = session(path, "cpu"), images(found.shape, 7).numpy()
    whole = s.run(None, {"x": x})
    for y, z in zip(whole, zip(*(s.run(None, {"x": x[i : i + 1]}) for i in range(7))), strict=True):
        np.testing.assert_allclose(y, np.concatenate(z), rtol=1e-5, atol=1e-5)
    empty = s.run(None, {"x": x[:0]})
    assert [y.shape[1:] for y in empty] == [y.shape[1:] for y in whole] and all(len(y) == 0 for y in empty)


def test_what_is_not_an_image_is_not_certified(tmp_path):
    found = net_of("cnn")
    path = tmp_path / "net.onnx"
    export(found.net, path, input_shape=found.shape, epsilon=1e-4)
    s = session(path, "cpu")
    names = [o.name for o in s.get_outputs()]
    assert names == ["logits", "prediction", "certified_radius", "certified", "lower", "upper"]
    x = images(found.shape, 5)
    x[1, 0, 3, 3], x[2, 0, 0, 0], x[3, 0, 7, 7] = torch.nan, -torch.inf, torch.nextafter(*torch.tensor([1.0, 2.0]))
    given = outputs(s, x)
    assert given["certified"].tolist() == [True, False, False, False, True]
    assert (given["certified_radius"][[1, 2, 3]] == 0).all()


def test_ties_are_not_certified():
    net = nn.Sequential(nn.Linear(3, 3)).eval()
    with torch.no_grad():
        net[0].weight[1], net[0].bias[1] = net[0].weight[0], net[0].bias[0]
        net[0].bias[:2] += 100
    found = SimpleNamespace(traced=traced(net, (3,)), epsilon=1e-6)
    for session_ in sessions(found):
        given = outputs(session_, torch.rand(5, 3))
        assert (given["prediction"] < 2).all() and not given["certified"].any()


@torch.no_grad()
def test_a_residual_sum_that_becomes_one_with_its_convolution():
    """onnxruntime begins the sum of the convolution at the other value, and rounds this several times."""

    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.small, self.large = nn.Conv2d(64, 16, 3, padding=1), nn.Conv2d(64, 16, 1)
            self.small.weight.uniform_(0, 0.01)
            self.small.bias.zero_()
            self.large.weight.zero_()
            self.large.bias.fill_(1024 + 1 / 3)
            self.head = nn.Linear(1024, 2)
            self.head.weight.zero_()
            self.head.weight[0, 0] = self.head.weight[1, 100] = 1

        def forward(self, x):
            return self.head(torch.relu(self.small(x) + self.large(x)).flatten(1))

    net = Residual().eval()
    found = SimpleNamespace(traced=traced(net, (64, 8, 8)), epsilon=1e-6)
    (add,) = (m for m in found.traced.graph.parts if isinstance(m, Add))
    assert add.fused == 9 * 64 + 2
    x = images((64, 8, 8), 30)
    graph = copy.deepcopy(found.traced.graph).double()
    exact, error = graph(x.double()), reach(graph, x.double(), x.double()).error
    for session_ in sessions(found):
        given = outputs(session_, x)
        assert ((torch.from_numpy(given["logits"]).double() - exact).abs() <= error).all()
        assert (given["lower"] <= given["logits"]).all() and (given["logits"] <= given["upper"]).all()


@torch.no_grad()
def test_scales_are_folded_into_products():
    """Where they follow one, if there is one number for each output, and if nobody else takes the product."""
    graph = net_of("resnet").traced.graph
    assert [type(m).__name__ for m in graph.parts].count("Affine") == 2  # of the pixels
    shared = net_of("shared").traced.graph
    kept = [m for m in shared.parts if isinstance(m, Affine)]
    assert [steps(m) for m in kept] == [(False, False, True), (True, True, True)]
    assert [m.roundings for m in kept] == [1, 3]
    assert all(m.fused > 0 for m in kept)  # onnxruntime may fold both: rows become samples by a move only
    assert not any(isinstance(m, Affine) for m in net_of("rows").traced.graph.parts)  # biases of zeros


class Opposite(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(4, 6), nn.Linear(6, 3, bias=False)

    def forward(self, x):
        y = self.first(x) / 3
        return 1 - self.last(torch.relu(y) - y)


def test_what_is_negated():
    """A minus before a constant is folded; one that nothing precedes is exact."""
    found = SimpleNamespace(traced=traced(Opposite().eval(), (4,)), shape=(4,), epsilon=0.05)
    parts = found.traced.graph.parts
    assert [type(m).__name__ for m in parts] == ["Linear", "ReLU", "Add", "Linear"]
    negative = traced(nn.Sequential(Negative(), nn.Linear(4, 3)).eval(), (4,))
    assert negative.graph.parts[0].roundings == 0
    assert not widths(negative.graph, (4,))[0].rounds
    for one, shape in ((found.traced, (4,)), (negative, (4,))):
        x = images(shape, 30)
        for session_ in sessions(SimpleNamespace(traced=one, epsilon=0.05)):
            given = outputs(session_, x)
            for point in (x, (x + 0.05).clamp(0, 1), (x - 0.05).clamp(0, 1)):
                logits = outputs(session_, point)["logits"]
                assert (given["lower"] <= logits).all() and (logits <= given["upper"]).all()


class Negative(nn.Module):
    def forward(self, x):
        return -x


@torch.no_grad()
@pytest.mark.parametrize("groups", [1, 2])
def test_a_scale_is_folded_into_a_transposed_convolution(groups):
    torch.manual_seed(0)
    net = traced_nets.settled(
        nn.Sequential(
            nn.ConvTranspose2d(4, 6, (3, 2), (2, 3), (1, 0), (1, 0), groups, dilation=(1, 2)),
            nn.BatchNorm2d(6),
            nn.Flatten(),
            nn.Linear(1080, 3),
        )
    )
    found = traced(net, (4, 5, 6))
    assert [type(m).__name__ for m in found.graph.parts] == ["ConvTranspose2d", "Gather", "Linear"]
    x = torch.rand(3, 4, 5, 6)
    for session_ in sessions(SimpleNamespace(traced=found, epsilon=1e-3)):
        logits = torch.from_numpy(outputs(session_, x)["logits"])
        torch.testing.assert_close(logits, net(x), rtol=1e-5, atol=1e-5)


def test_the_net_is_left_alone(tmp_path):
    net, shape = traced_nets.net_of("resnet")
    before = {name: a.clone() for name, a in net.state_dict().items()}
    export(net, tmp_path / "net.onnx", input_shape=shape, epsilon=0.01)
    assert all(torch.equal(a, before[name]) for name, a in net.state_dict().items())
    assert all(p.requires_grad for p in net.parameters()) and not net.training
