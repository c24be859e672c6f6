"""Rounding of operations: what is assumed of functions, and each rule against exact arithmetic.  No tolerance."""

import itertools
import math
from fractions import Fraction

import mpmath
import numpy as np
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from graph_operations import made
from onnx import TensorProto, helper
from torch import Tensor, nn

from linf_plugin.float32.operations import ELU_UNITS, OF_OPERATIONS, SIGMOID_UNITS, SOFTPLUS_UNITS
from linf_plugin.float32.program import SMALLEST
from linf_plugin.float32.reach import reach, rule
from linf_plugin.float32.rules import TANH_FLUSHED, TANH_UNITS, UNIT, Reach
from linf_plugin.graphs.capture import capture
from linf_plugin.graphs.operations import (
    Add,
    Affine,
    Average,
    Clamp,
    Elu,
    Gather,
    Largest,
    Limit,
    Multiply,
    Slope,
    Softplus,
)
from linf_plugin.intervals import apply_affine

mpmath.mp.dps = 60
ALPHAS = (1.0, 0.75, 0.1, 0.0)
SOFTPLUS = [(beta, threshold) for beta in (1.0, 0.5, 5.3, 2.0**-20, 2.0**20) for threshold in (10.0, 20.0, 80.0)]


def _float32(value: float) -> float:
    return torch.tensor(value, dtype=torch.float32).item()


@pytest.fixture(scope="module")
def x() -> Tensor:
    """float32 numbers of both signs and all exponents."""
    positive = torch.arange(0, 0x7F000000, 4999, dtype=torch.int32).view(torch.float32)
    return torch.cat([positive, -positive])


# What is assumed of functions (docs/math.md, assumption 5): float64 is exact enough to tell.


def _sigmoid(x: Tensor, flush: bool) -> Tensor:
    return torch.full_like(x, SIGMOID_UNITS * UNIT)


def _tanh(x: Tensor, flush: bool) -> Tensor:
    return TANH_UNITS * UNIT * x.tanh().abs() + TANH_FLUSHED * SMALLEST


def _elu(x: Tensor, alpha: float) -> Tensor:
    return torch.where(x >= 0, x, alpha * torch.expm1(x.clamp_max(0)))


def _softplus(x: Tensor, beta: float) -> Tensor:
    t = beta * x
    return (t.clamp_min(0) + torch.log1p(torch.exp(-t.abs()))) / beta


def _near(found: Tensor, exact: Tensor, bound: Tensor | float) -> None:
    assert ((found.double() - exact).abs() <= bound - 2.0**-40 * (bound + exact.abs() * 2.0**-10)).all()


def test_a_sigmoid_errs_less_than_assumed(x):
    _near(torch.sigmoid(x), torch.sigmoid(x.double()), SIGMOID_UNITS * UNIT)


@pytest.mark.parametrize("alpha", [_float32(a) for a in ALPHAS])
def test_an_elu_errs_less_than_assumed(x, alpha):
    bound = torch.where(x < 0, ELU_UNITS * UNIT * alpha + 2.0**-149, 0)
    assert ((F.elu(x, alpha).double() - _elu(x.double(), alpha)).abs() <= bound).all()


@pytest.mark.parametrize("beta, threshold", SOFTPLUS)
def test_a_softplus_errs_less_than_assumed(x, beta, threshold):
    """Below its threshold; above it the program returns x."""
    beta = _float32(beta)
    exact, found = _softplus(x.double(), beta), F.softplus(x, beta, threshold).double()
    below = beta * x.double() <= threshold * (1 - 4 * UNIT)
    assert ((found - exact).abs() <= SOFTPLUS_UNITS * UNIT * (exact + 1 / beta))[below].all()
    above = beta * x.double() > threshold * (1 + 4 * UNIT)
    assert torch.equal(found[above], x.double()[above])


DOUBLE = {"tanh": mpmath.tanh, "exp": mpmath.exp, "expm1": mpmath.expm1, "log1p": mpmath.log1p}


@pytest.mark.parametrize("name", DOUBLE)
def test_functions_in_float64_err_less_than_assumed(name):
    """Assumption 6: by 2⁻⁴⁸ of themselves, at all exponents."""
    exponents = torch.arange(-1000, 9).repeat(4)
    some = torch.ldexp(1 + torch.rand(len(exponents), dtype=torch.float64), exponents)
    some = torch.cat([some, -some]) if name != "log1p" else torch.cat([some, -torch.rand(2000, dtype=torch.float64)])
    some = some[some.abs() < 700]
    for a, b in zip(some.tolist(), getattr(torch, name)(some).tolist()):
        exact = DOUBLE[name](mpmath.mpf(a))
        assert abs(exact - b) <= 2.0**-48 * abs(exact) + 2.0**-1070, a


def test_a_sigmoid_in_float64_errs_less_than_assumed():
    some = torch.cat([torch.linspace(-700, 700, 4001), torch.randn(2000)]).double()
    for a, b in zip(some.tolist(), torch.sigmoid(some).tolist()):
        assert abs(1 / (1 + mpmath.exp(-mpmath.mpf(a))) - b) <= 2.0**-48


RUNTIME = {  # operator → attributes, exact function, bound (x, flush)
    "Sigmoid": ({}, torch.sigmoid, _sigmoid),
    "Tanh": ({}, torch.tanh, _tanh),
    "Softplus": ({}, lambda x: _softplus(x, 1.0), lambda x, _: SOFTPLUS_UNITS * UNIT * (_softplus(x, 1.0) + 1)),
    **{
        f"Elu-{alpha}": (
            {"alpha": alpha},
            lambda x, alpha=_float32(alpha): _elu(x, alpha),
            lambda x, _, alpha=alpha: torch.where(x < 0, ELU_UNITS * UNIT * alpha + 4 * SMALLEST, SMALLEST),
        )
        for alpha in ALPHAS
    },
}


@pytest.mark.parametrize("flush", (False, True), ids=("", "flushing"))
@pytest.mark.parametrize("name", RUNTIME)
def test_functions_of_onnxruntime_err_less_than_assumed(x, name, flush):
    attributes, exact, bound = RUNTIME[name]
    (ends,) = [[helper.make_tensor_value_info(v, TensorProto.FLOAT, ["n"]) for v in ("x", "y")]]
    node = helper.make_node(name.split("-")[0], ["x"], ["y"], **attributes)
    model = helper.make_model(
        helper.make_graph([node], "g", ends[:1], ends[1:]), opset_imports=[helper.make_opsetid("", 18)], ir_version=8
    )
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.set_denormal_as_zero", str(int(flush)))
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    found = torch.from_numpy(session.run(None, {"x": x.numpy()})[0]).double()
    assert ((found - exact(x.double())).abs() <= bound(x.double(), flush)).all()


# Each rule.


def _numbers(a: Tensor, number=Fraction) -> np.ndarray:
    """The numbers of a tensor exactly, as fractions or as numbers of 60 digits."""
    flat = np.array([number(v) for v in a.detach().double().reshape(-1).tolist()], dtype=object)
    return flat.reshape(a.shape)


def _mpf(value) -> mpmath.mpf:
    return mpmath.mpf(value.numerator) / value.denominator if isinstance(value, Fraction) else mpmath.mpf(value)


def _each(function) -> np.ufunc:
    return np.vectorize(lambda v: function(_mpf(v)), otypes=[object])


def _matrix(layer: nn.Module, shape: tuple[int, ...]) -> np.ndarray:
    """The weights of a linear operation as (inputs, *outputs): each is one weight, so float64 knows it exactly."""
    eye = torch.eye(math.prod(shape), dtype=torch.float64).view(-1, *shape)
    return _numbers(apply_affine(layer, eye, layer.weight, None))


def _exact(module: nn.Module, *values: np.ndarray) -> np.ndarray:
    """The operation on values (N, *) of fractions."""
    x = values[0]
    if isinstance(module, (Gather, Largest, Average)):
        index = (module if isinstance(module, Gather) else module.gather).index.numpy()
        flat = np.concatenate([v.reshape(len(v), -1) for v in values], 1)
        taken = np.where(index < 0, Fraction(0), flat[:, index])
        if isinstance(module, Gather):
            return taken
        if isinstance(module, Largest):
            return taken.max(-1) if module.sign > 0 else taken.min(-1)
        return taken.sum(-1) / _numbers(module.divisor)
    if isinstance(module, Add):
        return x + values[1] * module.sign
    if isinstance(module, Multiply):
        return x * values[1]
    if isinstance(module, Affine):
        factor, centre, offset = (_numbers(a) for a in (module.factor, module.centre, module.offset))
        return factor * (x - centre) + offset
    if isinstance(module, Clamp):
        low = x if module.low == -math.inf else np.maximum(x, Fraction(module.low))
        return low if module.high == math.inf else np.minimum(low, Fraction(module.high))
    if isinstance(module, Limit):
        return (np.maximum if module.sign > 0 else np.minimum)(x, _numbers(module.end))
    if isinstance(module, Slope):
        return np.where(x >= 0, x, _numbers(module.slope) * x)
    if isinstance(module, Elu):
        return np.where(x >= 0, x, _each(lambda v: module.alpha * mpmath.expm1(min(v, 0)))(x))
    if isinstance(module, Softplus):
        return _each(lambda v: mpmath.log1p(mpmath.exp(module.beta * v)) / module.beta)(x)
    if isinstance(module, nn.Sigmoid):
        return _each(lambda v: 1 / (1 + mpmath.exp(-v)))(x)
    w = _matrix(module, x.shape[1:])
    y = np.tensordot(x.reshape(len(x), -1), w, 1)
    bias = 0 if module.bias is None else _numbers(module.bias).reshape(-1, *[1] * (y.ndim - 2))
    return y + bias


def _sum(a: Tensor) -> Tensor:
    """One term after the other, the last one first."""
    total = torch.zeros_like(a[..., 0])
    for term in a.flip(-1).unbind(-1):
        total = total + term
    return total


def _programs(module: nn.Module) -> list:
    """Ways in which float32 computes the operation."""
    if isinstance(module, Average):
        d = module.divisor.float()
        return [
            lambda *v: module.gather(*v).sum(-1) / d,
            lambda *v: _sum(module.gather(*v)) / d,
            lambda *v: module.gather(*v).sum(-1) * (1 / d),
            lambda *v: (module.gather(*v) * (1 / d).unsqueeze(-1)).sum(-1),
        ]
    if isinstance(module, Affine):
        factor, centre, offset = (a.float() for a in (module.factor, module.centre, module.offset))
        if module.roundings == 3:
            return [lambda x: x / (1 / module.factor).float(), lambda x: x * (1 / (1 / module.factor).float())]
        if module.roundings == 12:
            return [
                lambda x: factor * (x - centre) + offset,
                lambda x: factor * x + (offset - factor * centre),
                lambda x: torch.addcmul(offset - centre * factor, x, factor.expand_as(x)),
            ]
        return [lambda x: factor * x + offset] if module.roundings == 1 else [lambda x: factor * x]
    if isinstance(module, Elu):
        return [lambda x: F.elu(x, module.alpha), lambda x: torch.where(x >= 0, x, module.alpha * (x.exp() - 1))]
    if isinstance(module, Softplus):
        return [lambda x: F.softplus(x, module.beta, module.threshold)]
    if hasattr(module, "weight"):
        layer = made()[next(name for name, (m, _) in made().items() if type(m) is type(module))][0]
        layer.weight.data = module.weight.data
        layer.bias = module.bias
        return [layer.float()]
    return [lambda *v: module(*v)]


RULED = [name for name, (module, _) in made().items() if type(module) in OF_OPERATIONS]
SCALES = ((1.0, 1.0), (1e4, 1e4), (1e-6, 1e-6), (1e-38, 1e-38), ("mixed", "mixed"), (1e4, 1e-38), (1e-38, 1e4))
EXACT = (
    Gather,
    Largest,
    Clamp,
    Limit,
    Slope,
    Elu,
)  # they do not round some numbers, and compare numbers that are flushed


def _scaled(a: Tensor, scale: float | str) -> Tensor:
    return a * 10.0 ** torch.randint(-6, 5, a.shape) if scale == "mixed" else a * scale


def _float32_numbers(module: nn.Module, scale: float | str) -> nn.Module:
    """Gives a module other constants: float32 numbers of this scale."""
    for name, a in (*module.named_parameters(), *module.named_buffers()):
        if not a.is_floating_point() or "divisor" in name:
            continue
        drawn = _scaled(torch.randn(a.shape), scale).float().double()
        if isinstance(module, Affine) and name == "factor" and module.roundings in (0, 1):
            continue
        if isinstance(module, Affine) and module.roundings < 12 and name == "centre":
            continue
        if isinstance(module, Affine) and module.roundings in (0, 3) and name == "offset":
            continue
        if isinstance(module, Affine) and module.roundings == 3:
            drawn = 1 / torch.where(drawn.abs() < 2.0**-90, 1.0, drawn)
        a.copy_(drawn.abs() if isinstance(module, Slope) else drawn)
    return module


def _input(shape: tuple[int, ...], scale: float | str, flush: bool) -> tuple[Tensor, Tensor, Reach]:
    """An exact input (N, *), one that is off, and what is known of them.

    If numbers are flushed, two subnormal numbers are as good as equal: a maximum may be either.
    """
    x = _scaled(torch.randn(12, *shape, dtype=torch.float64), scale)
    moved = torch.where(torch.rand(x.shape) < 0.5, x, x * (1 + 1e-5 * torch.randn(x.shape).double())).float()
    error = (moved.double() - x).abs() * (1 + 2.0**-50)
    found = Reach(torch.minimum(x, moved.double()), torch.maximum(x, moved.double()), error)
    if flush:
        other = (2 * torch.rand(x.shape) - 1) * SMALLEST
        moved = torch.where((moved.abs() < SMALLEST) & (torch.rand(x.shape) < 0.5), other, moved)
    return x, moved, found


@pytest.mark.parametrize("flush", (False, True), ids=("", "flushing"))
@pytest.mark.parametrize("scales", SCALES, ids=lambda s: f"constants={s[0]},inputs={s[1]}")
@pytest.mark.parametrize("name", RULED)
@torch.no_grad()
def test_a_rule_holds(name, scales, flush):
    """For inputs that are already off, in every way to compute the operation."""
    module, shapes = made()[name]
    module = _float32_numbers(module, scales[0])
    inputs, computed_inputs, reaches = zip(*(_input(shape, scales[1], flush) for shape in shapes))
    found = rule(module)(module, *reaches)
    exact = _exact(module, *map(_numbers, inputs))
    number = mpmath.mpf if any(isinstance(v, mpmath.mpf) for v in exact.flat) else Fraction
    assert found.error.isfinite().all()
    as_it_is = isinstance(module, EXACT) or (isinstance(module, Affine) and module.roundings == 0)
    slack = number(2 * SMALLEST if flush and as_it_is else 0)  # what the next operation, or the last line, adds
    lower, upper, error = (_numbers(a, number) for a in found)
    lower, upper, error = lower - slack, upper + slack, error + slack
    exact = np.vectorize(lambda v: v if isinstance(v, number) else _mpf(v), otypes=[object])(exact)
    assert (lower <= exact).all() and (exact <= upper).all()
    for program, flushed in itertools.product(_programs(module), {flush, False}):
        torch.set_flush_denormal(flushed)
        try:
            computed = program(*computed_inputs)
        finally:
            torch.set_flush_denormal(False)
        assert computed.dtype == torch.float32 and computed.shape == found.error.shape
        values = _numbers(computed, number)
        assert (abs(values - exact) <= error).all()
        assert (lower <= values).all() and (values <= upper).all()


def test_every_operation_with_a_rule_is_tried():
    tried = {type(module) for module, _ in made().values()}
    missing = {kind.__name__ for kind in OF_OPERATIONS.keys() - tried}
    assert not missing, f"{missing}: add one to tests/graph_operations.py"


# Batch normalisation and what is folded into products.


class Normalised(nn.Module):
    def __init__(self, product: nn.Module, norm: nn.Module):
        super().__init__()
        self.product, self.norm = product, norm

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.product(x)).flatten(1)


def _normalised(r: torch.Generator, scale: float, mean: float) -> Normalised:
    """Means that are large beside the values, so that they cancel."""
    net = Normalised(nn.Linear(6, 4), nn.BatchNorm1d(4))
    for name, a in net.state_dict().items():
        if name.endswith("running_var"):
            a.copy_(scale**2 * torch.rand(a.shape, generator=r) + 1e-12)
        elif a.is_floating_point():
            a.copy_(torch.randn(a.shape, generator=r) * (mean if "mean" in name else 1.0))
    net.product.weight.data *= scale
    net.norm.eps = _float32(1e-5)
    return net.eval().requires_grad_(False)


def _forms(net: Normalised):
    """float32 programs of a product and a normalisation: PyTorch's, by steps, and folded."""
    p, n = net.product, net.norm
    root = torch.sqrt(n.running_var + torch.tensor(n.eps))
    inverse = 1 / root
    yield net
    yield lambda x: (p(x) - n.running_mean) * inverse * n.weight + n.bias
    yield lambda x: n.weight * (p(x) - n.running_mean) / root + n.bias
    factor = n.weight / root
    yield lambda x: F.linear(x, p.weight * factor.unsqueeze(1), (p.bias - n.running_mean) * factor + n.bias)
    yield lambda x: F.linear(x, factor.unsqueeze(1) * p.weight) + (n.bias + factor * (p.bias - n.running_mean))


@pytest.mark.parametrize("mean", (0.0, 1.0, 1e4))
@pytest.mark.parametrize("scale", (1.0, 1e-6, 1e6))
@torch.no_grad()
def test_every_form_of_a_batch_normalisation_is_covered(scale, mean):
    r = torch.Generator().manual_seed(0)
    for _ in range(4):
        net = _normalised(r, scale, mean)
        x = torch.randn(10, 6, generator=r)
        error = reach(capture(net, x), x.double(), x.double()).error
        p, n = net.product, net.norm
        product = _numbers(x, mpmath.mpf) @ _numbers(p.weight, mpmath.mpf).T + _numbers(p.bias, mpmath.mpf)
        root = np.vectorize(mpmath.sqrt, otypes=[object])(_numbers(n.running_var, mpmath.mpf) + mpmath.mpf(n.eps))
        weight, mean_, bias = (_numbers(a, mpmath.mpf) for a in (n.weight, n.running_mean, n.bias))
        exact = weight * (product - mean_) / root + bias
        for form in _forms(net):
            assert (abs(_numbers(form(x), mpmath.mpf) - exact) <= _numbers(error, mpmath.mpf)).all()


@torch.no_grad()
def test_weights_that_become_subnormal_when_they_are_folded_are_covered():
    net = Normalised(nn.Linear(3, 2, bias=False), nn.BatchNorm1d(2)).eval()
    net.product.weight.data = 1e-30 * torch.tensor([[1.0, 2.0, 3.0], [1.5, 2.5, 3.5]])
    net.norm.weight.data[:] = 1e-14
    x = 1e30 * torch.rand(5, 3)
    graph = capture(net, x)
    error, exact = reach(graph, x.double(), x.double()).error, graph(x.double())
    factor = net.norm.weight / torch.sqrt(net.norm.running_var + 1e-5)
    folded = F.linear(x, net.product.weight * factor.unsqueeze(1))
    assert ((folded - exact).abs() > 1e-3 * exact.abs()).any() and ((folded - exact).abs() <= error).all()


@torch.no_grad()
def test_weights_that_overflow_when_they_are_folded_certify_nothing():
    net = Normalised(nn.Linear(3, 2, bias=False), nn.BatchNorm1d(2)).eval()
    net.product.weight.data[:] = 1e30
    net.norm.weight.data[:] = 1e10
    x = 1e-30 * torch.rand(5, 3)
    assert net(x).isfinite().all()
    assert reach(capture(net, x), x.double(), x.double()).error.isinf().all()


@torch.no_grad()
def test_channels_of_weight_zero_do_not_loosen_the_others():
    """Trained nets have channels whose weight is zero or almost zero."""
    net = Normalised(nn.Linear(3, 4), nn.BatchNorm1d(4)).eval()
    x = torch.rand(5, 3)
    before = reach(capture(net, x), x.double(), x.double()).error
    net.norm.weight.data[:2] = torch.tensor([0.0, 1e-40])
    after = reach(capture(net, x), x.double(), x.double()).error
    assert torch.equal(before[:, 2:], after[:, 2:]) and (after[:, :2] < 1e-10).all()
