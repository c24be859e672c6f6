"""What auto_LiRPA bounds wrongly: mended, refused by name, or stopped where bounds contradict each other."""

import contextlib
import math
import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from nets import ball
from operators import report
from torch import nn

import linf_plugin as lp
from linf_plugin import LinfDistConv2d, LinfDistLinear
from linf_plugin.bounds import compute_bounds, refused, versions
from linf_plugin.bounds.compute import CrossedBounds, _check_order
from linf_plugin.certificates import margin_bound
from linf_plugin.certificates.cascade import certify

import auto_LiRPA
from auto_LiRPA import BoundedModule

VERSION = auto_LiRPA.__version__
ROOT = Path(__file__).parents[3]
METHODS = ("IBP", "CROWN-IBP", "CROWN", "Forward", "Forward+Backward", "CROWN-Optimized")
each_method = pytest.mark.parametrize("method", METHODS)
FEW = {"optimize_bound_args": {"iteration": 3}}
pytestmark = [
    pytest.mark.filterwarnings("ignore:Creating a LinearBound with zero weights:UserWarning"),
    pytest.mark.filterwarnings("ignore:The reduce argument of torch.scatter:UserWarning"),
]


@pytest.fixture(autouse=True)
def float64():
    with versions.float64_by_default():
        yield


class Steps(nn.Module):
    """A function, and a distance layer behind it or none."""

    def __init__(self, function, *after):
        super().__init__()
        self.function, self.after = function, nn.Sequential(*after)

    def forward(self, *x):
        return self.after(self.function(*x))


def holds(net, inputs, lower, upper, eps=0.05):
    with torch.no_grad():
        for i in range(200):
            at = [x + eps * (2 * (t.round() if i % 2 else t) - 1) for x in inputs for t in [torch.rand_like(x)]]
            y = net(*(a.clamp(0, 1) for a in at))
            assert (lower <= y + 1e-9).all() and (y <= upper + 1e-9).all()


def bound(net, inputs, method, **options):
    """Bounds by BoundedModule, or None where auto_LiRPA has none."""
    bounded = BoundedModule(net.eval(), inputs if len(inputs) > 1 else inputs[0], bound_opts={**FEW, **options})
    try:
        return bounded.compute_bounds(x=tuple(ball(x) for x in inputs), method=method)
    except NotImplementedError as error:
        assert "is not supported yet" in str(error)
        return None


# What is mended.


@pytest.mark.parametrize("mode", ["patches", "matrix"])
@pytest.mark.parametrize("after", ["conv", "flatten", "dist"])
@each_method
def test_padding_with_a_number_keeps_it(mode, after, method):
    layers = {
        "conv": [nn.Conv2d(2, 2, 3), nn.Flatten(), LinfDistLinear(18, 3)],
        "flatten": [nn.Flatten(), LinfDistLinear(50, 3)],
        "dist": [LinfDistConv2d(2, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(48, 3)],
    }[after]
    net, x = nn.Sequential(nn.ConstantPad2d((1, 0, 0, 2), 2.0), *layers), torch.rand(2, 2, 3, 4)
    found = bound(net, (x,), method, conv_mode=mode)
    if found is not None:
        holds(net, (x,), *found)
    assert found is not None or method.startswith("Forward")


@pytest.mark.parametrize("after", ["distance", "relu"])
@pytest.mark.parametrize("conv", [{"groups": 2}, {"dilation": 2}, {"groups": 2, "dilation": 2}], ids=str)
@each_method
def test_convolutions_with_groups_or_a_dilation_are_bounded_in_matrix_mode(after, conv, method):
    """In patches mode auto_LiRPA forgets both."""
    x, last = torch.rand(2, 1, 4, 5), LinfDistConv2d(2, 2, 2, padding=1) if after == "distance" else nn.ReLU()
    layers = LinfDistConv2d(1, 2, 2), nn.Conv2d(2, 4, 2, padding=1, **conv), nn.ReLU(), nn.Conv2d(4, 2, 1), last
    size = nn.Sequential(*layers)(x)[0].numel()
    net = nn.Sequential(*layers, nn.Flatten(), nn.Linear(size, 3))
    found = bound(net, (x,), method)
    if found is not None:
        holds(net, (x,), *found)
    if method.startswith("CROWN"):
        assert found is not None
        with pytest.raises(NotImplementedError, match="bounds Conv .* groups or a dilation: .*'conv_mode': 'matrix'"):
            BoundedModule(net, x, bound_opts={"conv_mode": "patches"}).compute_bounds(x=(ball(x),), method=method)
    stock = nn.Sequential(nn.Conv2d(1, 2, 2), nn.ReLU(), *layers[1:4], nn.Flatten(), nn.Linear(size, 3)).eval()
    if after == "relu":
        assert margin_bound(stock, x, stock(x).argmax(1), 0.01, "crown", sound=False).isfinite().all()


FLAT_IMAGES = {
    "distance": lambda: nn.Sequential(
        nn.Conv2d(2, 2, 2, padding=(1, 2)), LinfDistConv2d(2, 2, 3, stride=2, padding=1), nn.Conv2d(2, 2, 2, padding=1)
    ),
    "norm": lambda: nn.Sequential(LinfDistConv2d(2, 2, 2, padding=1), nn.Conv2d(2, 2, 2, padding=1), nn.BatchNorm2d(2)),
    "stock": lambda: nn.Sequential(
        nn.Conv2d(2, 2, 2, padding=(1, 2)),
        nn.ReLU(),
        nn.Conv2d(2, 2, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(2, 2, 2, padding=1),
    ),
}


@pytest.mark.parametrize("size", [(3, 6), (5, 2), (4, 4)], ids=str)
@pytest.mark.parametrize("kind", FLAT_IMAGES)
@pytest.mark.parametrize("method", ["CROWN-IBP", "CROWN"])
def test_patches_of_images_that_are_not_square(size, kind, method):
    """auto_LiRPA took their height for their width where it wrote patches as a matrix."""
    body, x = FLAT_IMAGES[kind](), torch.rand(2, 2, *size)
    net = nn.Sequential(body, nn.ReLU(), nn.Flatten(), nn.Linear(body(x)[0].numel(), 3)).eval()
    patches, matrix = (bound(net, (x,), method, conv_mode=mode) for mode in ("patches", "matrix"))
    holds(net, (x,), *patches)
    for ours, theirs in zip(patches, matrix):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9)


@pytest.mark.parametrize("fixed", [(), (0,), (1,)])
@each_method
def test_two_perturbed_inputs(fixed, method):
    a, last = LinfDistLinear(4, 5), nn.Linear(5, 3)
    net = Steps(lambda x, other: a(x) + other, last)
    net.a = a
    x, other = torch.rand(3, 4), torch.rand(3, 5)
    bounded = BoundedModule(net.eval(), (x, other), bound_opts=FEW)
    boxes = [ball(x, 0.0 if 0 in fixed else 0.05), ball(other, 0.0 if 1 in fixed else 0.05)]
    lower, upper = bounded.compute_bounds(x=tuple(boxes), method=method)
    for _ in range(100):
        at = [e.ptb.x_L + torch.rand_like(e) * (e.ptb.x_U - e.ptb.x_L) for e in boxes]
        y = net(*at).detach()
        assert (lower <= y + 1e-9).all() and (y <= upper + 1e-9).all()


@pytest.mark.parametrize("how", ["dist", "sorted", "linear", "conv"])
@each_method
def test_a_weight_that_is_computed_in_the_graph(how, method):
    image = torch.rand(2, 1, 2, 3)
    w = torch.randn(4, 1, 2, 2) if how == "conv" else torch.randn(4, 6)
    one = {
        "dist": lambda x: lp.dist(x.flatten(1), net.w * 2, math.inf),
        "sorted": lambda x: lp.sorted_dist(x.flatten(1), net.w * net.w, 0.5),
        "linear": lambda x: lp.dist(F.linear(x.flatten(1), net.w * 2), net.w[:, :4] + 1, 2.0),
        "conv": lambda x: lp.dist(F.conv2d(x, net.w * 2).flatten(1), net.v * net.v, math.inf),
    }[how]
    net = Steps(one)
    net.w, net.v = nn.Parameter(w), nn.Parameter(torch.randn(3, 8))
    found = bound(net, (image,), method)
    if found is not None:
        holds(net, (image,), *found)
    assert found is not None or how in ("linear", "conv")


WITH_AN_OPERAND = {
    "add": lambda x, a: x + a,
    "add twice": lambda x, a: torch.add(x, a, alpha=2),
    "sub": lambda x, a: a - x,
    "mul": lambda x, a: x * a,
    "div": lambda x, a: x / a,
    "div by computed": lambda x, a: x / (2 * a),
}


@pytest.mark.parametrize("kind", ["buffer", "parameter"])
@pytest.mark.parametrize("operation", WITH_AN_OPERAND)
@pytest.mark.parametrize("method", [m for m in METHODS if "Forward" not in m])
def test_an_operand_with_as_many_channels_as_there_are_samples(operation, kind, method):
    """auto_LiRPA 0.3 took its channels for samples."""
    net = Steps(lambda x: WITH_AN_OPERAND[operation](x, net.operand), nn.Flatten(), LinfDistLinear(12, 3))
    operand, x = 0.5 + torch.rand(2, 2, 3), torch.rand(2, 2, 2, 3)
    if kind == "buffer":
        net.register_buffer("operand", operand)
    else:
        net.operand = nn.Parameter(operand)
    holds(net, (x,), *bound(net, (x,), method, conv_mode="matrix"))


@pytest.mark.parametrize("method", [m for m in METHODS if "Forward" not in m])
def test_logarithms_of_small_numbers(method):
    """auto_LiRPA took them for that of 1e-12."""
    net, x = (
        Steps(lambda x: torch.log(torch.exp(-100 * x)), nn.Flatten(), LinfDistLinear(3, 2)),
        torch.rand(2, 3) / 2 + 0.5,
    )
    lower, upper = bound(net, (x,), method)
    holds(net, (x,), lower - 1e-7, upper + 1e-7)


@pytest.mark.parametrize("size", [1, 30, 1000])
@pytest.mark.parametrize("eps", [0.01, 0.05, 0.3])
@pytest.mark.parametrize("method", ["IBP", "CROWN-IBP", "CROWN"])
def test_softmax_of_numbers_far_apart(method, eps, size):
    net, x = Steps(lambda x: torch.softmax(size * x, -1)), torch.rand(20, 4) * 0.4 + 0.3
    bounded = BoundedModule(net.eval(), x, bound_opts={"softmax": "simple"} if VERSION == "0.3" else {"softmax": "lse"})
    try:
        lower, upper = bounded.compute_bounds(x=(ball(x, eps),), method=method)
    except NotImplementedError:  # of BoundSoftmax, in 0.3
        assert VERSION == "0.3" and method != "IBP"
        return
    holds(net, (x,), lower, upper, eps)


# What is refused.


def refused_net(operator, version, dilation=1, slope=1.5, pool=None):
    """A small net for which a row of the table holds, and its inputs."""
    image, vector = torch.rand(2, 1, 4, 5), torch.rand(2, 4)
    return {
        "BoundSqrt": (lambda x: torch.sqrt(x + 1), vector),
        "BoundDiv": (lambda x: (x - 0.5) / (x + 1), vector),
        "BoundPow": (lambda x: (x + 1) ** (-3 if version == "0.3" else 4), vector),
        "BoundGather": (lambda x: x[:, torch.tensor([0, 0, 1, 3])], vector),
        "BoundGatherElements": (lambda x: x.gather(1, torch.tensor([[0, 0, 1, 3]] * 2)), vector),
        "BoundLinear": (lambda x: torch.addmm(torch.ones(4), x, torch.ones(4, 4), alpha=2), vector),
        "BoundAveragePool": (nn.AvgPool2d(3, 2, padding=1) if version == "0.3" else nn.AvgPool2d(2), image),
        "BoundLeakyRelu": (nn.LeakyReLU(slope), vector),
        "BoundSin": (torch.sin, vector),
        "BoundCos": (torch.cos, vector),
        "BoundMaxPool": (pool, image),
        "BoundTile": (lambda x: x.repeat(1, 2), vector),
        "BoundAdd": (lambda x: F.conv2d(x + torch.ones(1, 1, 1), torch.ones(1, 1, 2, 2)), image),
        "BoundSub": (lambda x: F.conv2d(x - torch.ones(1, 1, 1), torch.ones(1, 1, 2, 2)), image),
        "BoundATenHeaviside": (lambda x: torch.heaviside(x, torch.zeros(())), vector),
        "BoundConv": (lambda x: F.conv2d(x, torch.ones(2, 1, 2, 2), dilation=dilation), image),
        "BoundCast": (lambda x: (3 * x).long().float(), vector),
    }[operator]


ROWS = [row for row in refused.TABLE if VERSION in row.versions]


def net_of(row, after):
    dilation = 1 if is_batched(row) else (1, 2) if "differ" in row.where else 2
    slope = {"its slope is negative": -0.5, "always": 0.5}.get(row.where, 1.5)
    pool = nn.MaxPool2d(2, padding=1) if row.where == "windows are padded" else nn.MaxPool2d(2, 1)
    function, x = refused_net(row.operator, VERSION, dilation, slope, pool)
    size = function(x).flatten(1).shape[1]
    layers = [nn.Flatten(), LinfDistLinear(size, 3) if after == "distance" else nn.Linear(size, 3)]
    net = Steps(function, *layers).eval()
    return net.float() if row.operator == "BoundCast" else net, x


def is_batched(row):
    return "crown_batch_size" in row.where


def options_of(row):
    batch = {"crown_batch_size": 3} if is_batched(row) else {}
    return {"conv_mode": "patches", **batch} if "groups" in row.where else batch  # or else nets of ours avoid patches


def method_of(row):
    return {refused.INTERVALS: "IBP", refused.BACKWARD: "CROWN", refused.FORWARD: "Forward"}[row.passes[0]]


each_row = pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.operator} {row.passes[0]} {len(row.where)}")


@each_row
def test_nets_of_ours_refuse_it_by_name(row):
    net, x = net_of(row, "distance")
    bounded, method = BoundedModule(net, x, bound_opts=options_of(row)), method_of(row)
    name = row.operator.removeprefix("Bound")
    message = rf"auto_LiRPA {re.escape(VERSION)} bounds {name} \(node .* where {re.escape(row.where)}"
    for compute in (bounded.compute_bounds, lambda x, method: compute_bounds(bounded, x, None, method)):
        with pytest.raises(NotImplementedError, match=message):
            compute(x=(ball(x),), method=method)


@each_row
def test_stock_nets_refuse_it_in_our_functions_and_notice_nothing_elsewhere(row):
    net, x = net_of(row, "linear")
    bounded, method = BoundedModule(net, x, bound_opts=options_of(row)), method_of(row)
    with pytest.raises(NotImplementedError, match=row.operator.removeprefix("Bound")):
        compute_bounds(bounded, (ball(x),), None, method)
    certificate = {"IBP": "ibp", "CROWN": "crown"}.get(method)
    # Certificates are of nets in float64, traced with one sample, without options.
    if certificate and row.operator not in ("BoundCast", "BoundGatherElements") and not is_batched(row):
        with pytest.raises(NotImplementedError, match=row.operator.removeprefix("Bound")):
            margin_bound(net, x, torch.tensor([0, 1]), 0.05, certificate, sound=False)
    try:
        bounded.compute_bounds(x=(ball(x),), method=method)
    except Exception as error:
        assert "bounds " + row.operator.removeprefix("Bound") not in str(error)


@each_row
def test_methods_that_do_not_come_there_are_let_through(row):
    """Interval bounds, where only linear ones are wrong."""
    net, x = net_of(row, "distance")
    bounded = BoundedModule(net, x, bound_opts=options_of(row))
    for method in METHODS:
        if not set(row.passes) & set(refused.passes_of(method)):
            assert refused.reason(bounded, (ball(x),), method) is None
    assert refused.reason(bounded, (x,), method_of(row)) is None  # nothing is perturbed


def test_the_operators_in_the_documentation_are_those_of_the_table():
    text = (ROOT / "docs/bounds.md").read_text(encoding="utf-8")
    assert text.split("<!-- refused -->\n")[1].split("<!-- /refused -->")[0] == report.refusals()


def test_another_version_warns_and_is_refused_where_bounds_are_to_be_sound(monkeypatch):
    net = nn.Sequential(nn.Flatten(), LinfDistLinear(4, 3)).float().eval()
    x = torch.rand(2, 1, 2, 2, dtype=torch.float32)
    labels = net(x).argmax(1)
    monkeypatch.setattr(auto_LiRPA, "__version__", "0.9")
    with pytest.raises(RuntimeError, match="auto_LiRPA 0.9 has not been searched"):
        certify(net, x, labels, 0.01, ["ibp"])
    with pytest.warns(UserWarning, match="auto_LiRPA 0.9 has not been searched"):
        certify(net, x, labels, 0.01, ["ibp"], sound=False)
    row = ROWS[0]
    net, x = net_of(row, "linear")
    with pytest.warns(UserWarning, match="0.9"), pytest.raises(NotImplementedError):
        compute_bounds(BoundedModule(net, x), (ball(x),), None, method_of(row))


# What is asked for wrongly.

WRONG_REQUESTS = {
    "x": ({"x": 3}, TypeError, "x must be a tuple of tensors, got int"),
    "method": ({"method": 3}, TypeError, "method must be a string, got 3"),
    "node": ({"final_node_name": "/nope"}, ValueError, "final_node_name must be one of /.*, got '/nope'"),
    "C-kind": ({"C": [1.0]}, TypeError, "C must be a floating-point tensor, got list"),
    "C-dtype": ({"C": torch.ones(2, 1, 3, dtype=torch.float32)}, TypeError, "C must be torch.float64, as x is"),
    "C-dimensions": ({"C": torch.ones(1, 3)}, ValueError, r"C must have shape \(B, S, outputs\)"),
    "C-samples": ({"C": torch.ones(3, 1, 3).double()}, ValueError, "C must have 2 samples, as x has, got 3"),
    "C-outputs": ({"C": torch.ones(2, 1, 4).double()}, ValueError, "C must have 3 outputs, as the net has, got 4"),
}


@pytest.mark.parametrize("wrong, error, message", WRONG_REQUESTS.values(), ids=WRONG_REQUESTS)
def test_wrong_requests_are_named(wrong, error, message):
    net, x = nn.Sequential(LinfDistLinear(4, 3)).eval(), torch.rand(2, 4)
    bounded = BoundedModule(net, x)
    with pytest.raises(error, match=message):
        compute_bounds(bounded, **{"x": (ball(x),), "method": "CROWN", **wrong})


def test_no_samples():
    bounded = BoundedModule(nn.Sequential(LinfDistLinear(4, 3)).eval(), torch.rand(2, 4))
    ends = compute_bounds(bounded, (ball(torch.rand(0, 4)),), method="IBP")
    assert [end.shape for end in ends] == [(0, 3), (0, 3)]


# What computes another function than the net.

OTHER_FUNCTIONS = {
    "reflect": lambda x: F.pad(x, (1, 1, 1, 1), mode="reflect"),
    "replicate": lambda x: F.pad(x, (1, 1, 1, 1), mode="replicate"),
    "ceil mode": nn.MaxPool2d(2, ceil_mode=True),
    "count_include_pad": nn.AvgPool2d(2, padding=1, count_include_pad=False),
    "dilation": nn.MaxPool2d(2, stride=1, dilation=2),
}


SHAPES_DIFFER = ("ceil mode", "dilation")


@pytest.mark.parametrize("kind", OTHER_FUNCTIONS)
def test_a_graph_that_computes_another_function_is_refused(kind):
    function, x = OTHER_FUNCTIONS[kind], torch.rand(2, 1, 5, 5)
    size = function(x).flatten(1).shape[1]
    for head in (LinfDistLinear(size, 3), nn.Linear(size, 3)):
        net = Steps(function, nn.Flatten(), head).eval()
        try:
            lower, upper = compute_bounds(BoundedModule(net, x), (ball(x),), None, "IBP")
        except (ValueError, RuntimeError, AssertionError) as error:  # of another shape it fails by itself
            found = str(error)
        else:
            found = "holds"
            holds(net, (x,), lower, upper)
        assert found == "holds" or kind in SHAPES_DIFFER or "reads this net as another function" in found


def test_random_numbers_are_drawn_apart():
    state = torch.get_rng_state()
    net = nn.Sequential(LinfDistLinear(4, 3)).eval()
    wanted = torch.get_rng_state()
    BoundedModule(net, torch.ones(1, 4))
    assert torch.equal(torch.get_rng_state(), wanted) and not torch.equal(state, wanted)


# Bounds that contradict each other.


@pytest.fixture
def wrong_relu(monkeypatch):
    """ReLU whose linear bounds are off by 3."""
    relu = auto_LiRPA.bound_ops.BoundRelu
    backward = relu.bound_backward

    def shifted(self, *args, **kwargs):
        A, lower, upper = backward(self, *args, **kwargs)
        return A, lower + 3, upper + 3

    monkeypatch.setattr(relu, "bound_backward", shifted)


def small_net():
    return nn.Sequential(
        nn.Flatten(), nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 5), nn.ReLU(), LinfDistLinear(5, 3)
    ).eval(), torch.rand(3, 1, 2, 2)


@pytest.mark.parametrize("method", ["CROWN-IBP", "CROWN", "Forward+Backward", "CROWN-Optimized"])
def test_bounds_that_cross_intervals_stop_with_the_node_and_the_method(method, wrong_relu):
    net, x = small_net()
    message = rf"the {re.escape(method)} bounds of node '.*' \(Bound\w+\) cross its interval bounds"
    with pytest.raises(CrossedBounds, match=message):
        compute_bounds(BoundedModule(net, x, bound_opts=FEW), (ball(x),), None, method)


@pytest.mark.parametrize("sound", [True, False])
@pytest.mark.parametrize("method", ["crown-ibp", "crown", "alpha-crown"])
def test_certify_stops_there_too(sound, method, wrong_relu):
    net, x = small_net()
    net, x = net.float(), x.float()
    with pytest.raises(CrossedBounds):
        certify(net, x, net(x).argmax(1), 0.05, [method], sound=sound)


def test_intervals_that_are_crossed_stop(monkeypatch):
    relu = auto_LiRPA.bound_ops.BoundRelu
    monkeypatch.setattr(relu, "interval_propagate", lambda self, v: (v[1].relu() + 1, v[0].relu()))
    net, x = small_net()
    with pytest.raises(CrossedBounds, match="the IBP bounds of node .* cross each other"):
        compute_bounds(BoundedModule(net, x), (ball(x),), None, "IBP")


@pytest.mark.parametrize(
    "lower, upper, crossed",
    [
        (1.0, 1.0 - 1e-9, False),
        (1.0, 1.0 - 1e-6, True),
        (-1e68, -1e68 * (1 + 1e-15), False),
        (1e68, 0.9e68, True),
        (math.inf, 5.0, True),
        (5.0, -math.inf, True),
        (-math.inf, 5.0, False),
        (-math.inf, math.inf, False),
    ],
)
def test_how_far_bounds_may_cross(lower, upper, crossed):
    """By rounding of numbers as large as they are, whatever they come from."""
    node, ends = nn.ReLU(), [torch.tensor([end]) for end in (lower, upper)]
    node.name = "y"
    with pytest.raises(CrossedBounds) if crossed else contextlib.nullcontext():
        _check_order(node, "CROWN", *ends, 0.0, "its interval bounds")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [1e-6, 1.0, 1e6])
@each_method
def test_points_cross_by_rounding_alone(method, size, dtype):
    """Their bounds differ from the value by what the largest numbers in play are rounded by."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        before = torch.get_default_dtype()
        torch.set_default_dtype(dtype)
        try:
            net, x = small_net()
            net, x = net.to(dtype), x.to(dtype) * size
            lower, upper = compute_bounds(BoundedModule(net, x, bound_opts=FEW), (ball_at(x),), None, method)
        finally:
            torch.set_default_dtype(before)
    rounding = torch.finfo(dtype).eps ** 0.5 * (1 + size)
    assert (lower <= net(x) + rounding).all() and (net(x) <= upper + rounding).all()


def ball_at(x):
    from auto_LiRPA import BoundedTensor, PerturbationLpNorm

    return BoundedTensor(x, PerturbationLpNorm(norm=math.inf, x_L=x, x_U=x))


@pytest.mark.parametrize("method", ["CROWN-IBP", "CROWN"])
def test_linear_bounds_that_are_not_numbers_leave_the_intervals(method, monkeypatch):
    linear = auto_LiRPA.bound_ops.BoundRelu
    backward = linear.bound_backward

    def unknown(self, *args, **kwargs):
        A, lower, upper = backward(self, *args, **kwargs)
        return A, lower * math.nan, upper * math.nan

    monkeypatch.setattr(linear, "bound_backward", unknown)
    net, x = small_net()
    bounded = BoundedModule(net, x)
    intervals = compute_bounds(bounded, (ball(x),), None, "IBP")
    for ours, theirs in zip(compute_bounds(bounded, (ball(x),), None, method), intervals):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("method", ["IBP", "CROWN-IBP", "CROWN"])
@pytest.mark.filterwarnings("ignore:There is an inf value:UserWarning")
def test_samples_whose_intervals_are_unknown_get_no_bound(method):
    """exp of 800 is infinite, and 0·∞ is not a number."""
    net = Steps(lambda x: torch.exp(x) @ torch.tensor([[1.0, 0.0], [0.0, 1.0]]), LinfDistLinear(2, 2)).eval()
    x = torch.tensor([[0.2, 0.3], [800.0, 0.1]])
    from auto_LiRPA import BoundedTensor, PerturbationLpNorm

    box = BoundedTensor(x, PerturbationLpNorm(norm=math.inf, eps=0.01))
    lower, upper = compute_bounds(BoundedModule(net, x), (box,), None, method)
    assert (lower[1] <= 0).all() and (upper[1] == math.inf).all()
    y = net(x)
    assert (lower[0] <= y[0]).all() and (y[0] <= upper[0]).all() and lower[0].isfinite().all()


def test_a_hidden_node_can_be_bounded():
    net, x = small_net()
    bounded = BoundedModule(net, x)
    hidden = next(node for node in bounded._modules.values() if type(node).__name__ == "BoundRelu")
    h = net[:3](x)
    for method in ("IBP", "CROWN-IBP", "CROWN"):
        lower, upper = compute_bounds(bounded, (ball(x),), None, method, final_node_name=hidden.name)
        assert lower.shape == h.shape and (lower <= h).all() and (h <= upper).all()


def test_dropout_in_evaluation_mode_is_left_out_and_the_net_stays_in_it():
    net, x = nn.Sequential(LinfDistLinear(4, 5), nn.Dropout(0.5), LinfDistLinear(5, 3)).eval(), torch.rand(2, 4)
    lower, upper = BoundedModule(net, x).compute_bounds(x=(ball(x),), method="CROWN")
    assert not any(m.training for m in net.modules())
    holds(net, (x,), lower, upper)
