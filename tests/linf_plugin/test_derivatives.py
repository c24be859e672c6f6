"""Compares every derivative of every operator with difference quotients, loops and reverse mode."""

import itertools
import math
from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
import torch.autograd.forward_ad as forward_ad
from cases import CONVS, Calls, box, rows
from torch import Tensor, nn
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, vjp, vmap
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.checkpoint import checkpoint

import linf_plugin
import linf_plugin.bounds.rounded  # noqa: F401  (its operators are checked too)
from linf_plugin import LinfDistConv2d, LinfDistLinear, MeanShift, SortDistLinear

pytestmark = [  # forward mode of PyTorch's own operators begins with these
    pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*torch.jit.script_method:DeprecationWarning"),
]
linf = torch.ops.linf
STEP = 1e-6  # of difference quotients
CLOSE = dict(rtol=1e-6, atol=1e-6)


class Case(NamedTuple):
    """An operator's floating-point tensors, away from kinks, and the operator as a function of them."""

    function: Callable
    tensors: tuple[Tensor, ...]


def _apart(*shapes: tuple[int, ...]) -> list[Tensor]:
    """Returns tensors whose numbers are at least 0.01 apart between tensors, so no difference is near its kink."""
    return [
        (torch.randint(-20, 20, shape) / 10 + i * 0.03 + 0.01 * torch.rand(shape)).double()
        for i, shape in enumerate(shapes)
    ]


def _boxes(x: Tensor, w: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Returns boxes around x whose ends are not near w, and a w that is further away in some coordinate."""
    return x - 0.2, x + 0.3, 5 * w


GEOMETRY = ([2, 1], [1, 0], [1, 2], 2)


def _like(y: Tensor) -> Tensor:
    return torch.randn_like(y)


def _of_outputs(backward: Callable, forward: Callable, *constants) -> Callable:
    """A backward operator of boxes.  At p = ∞ it looks for the coordinate that gives the outputs, so the outputs
    are not independent variables."""

    def function(grad_near, grad_far, lower, upper, w, *outputs):
        outputs = outputs or forward(lower, upper, w, *constants)
        return backward(grad_near, grad_far, lower, upper, w, *outputs, *constants)

    return function


def _cases() -> dict[str, Case]:
    found = {}
    torch.manual_seed(0)
    x, w, images, kernels = _apart((3, 5), (4, 5), (1, 4, 4, 4), (4, 2, 2, 2))
    lower, upper, far_w = _boxes(x, w)
    low, high, far_kernels = _boxes(images, kernels)
    conv = GEOMETRY
    for p in (1.0, 1.5, 8.0, math.inf):
        y, (near, far) = linf.dist(x, w, p), linf.box_dist(lower, upper, far_w, p)
        maps, (nears, fars) = (
            linf.dist_conv2d(images, kernels, p, *conv),
            linf.box_conv2d(low, high, far_kernels, p, *conv),
        )
        found |= {
            f"dist-{p:g}": Case(lambda x, w, p=p: linf.dist(x, w, p), (x, w)),
            f"dist_last-{p:g}": Case(lambda x, w, p=p: linf.dist_last(x, w, p), (x.view(1, 3, 5), w)),
            f"dist_backward-{p:g}": Case(lambda *a, p=p: linf.dist_backward(*a, p), (_like(y), x, w, y)),
            f"box_dist-{p:g}": Case(lambda *a, p=p: linf.box_dist(*a, p), (lower, upper, far_w)),
            f"box_dist_backward-{p:g}": Case(
                _of_outputs(linf.box_dist_backward, linf.box_dist, p),
                (_like(y), _like(y), lower, upper, far_w, *((near, far) if p < math.inf else ())),
            ),
            f"dist_conv2d-{p:g}": Case(lambda x, w, p=p: linf.dist_conv2d(x, w, p, *conv), (images, kernels)),
            f"dist_conv2d_backward-{p:g}": Case(
                lambda *a, p=p: linf.dist_conv2d_backward(*a, p, *conv), (_like(maps), images, kernels, maps)
            ),
            f"box_conv2d-{p:g}": Case(lambda *a, p=p: linf.box_conv2d(*a, p, *conv), (low, high, far_kernels)),
            f"box_conv2d_backward-{p:g}": Case(
                _of_outputs(linf.box_conv2d_backward, linf.box_conv2d, p, *conv),
                (_like(maps), _like(maps), low, high, far_kernels, *((nears, fars) if p < math.inf else ())),
            ),
        }
    y, index = linf.dist_with_index(x, w)
    maps, places = linf.dist_conv2d_with_index(images, kernels, *conv)
    sizes = list(images.shape[1:]), list(kernels.shape[1:])
    sort = 0.6, 3
    found |= {
        "dist_with_index": Case(lambda x, w: linf.dist_with_index(x, w)[0], (x, w)),
        "index_backward": Case(lambda g: linf.index_backward(g, index, 5), (_like(y),)),
        "dist_conv2d_with_index": Case(lambda x, w: linf.dist_conv2d_with_index(x, w, *conv)[0], (images, kernels)),
        "index_conv2d_backward": Case(lambda g: linf.index_conv2d_backward(g, places, *sizes, *conv), (_like(maps),)),
        "sorted_dist": Case(lambda x, w: linf.sorted_dist(x, w, *sort), (x, w)),
        "sorted_dist_backward": Case(lambda *a: linf.sorted_dist_backward(*a, *sort), (_like(y), x, w)),
        "box_sorted_dist": Case(lambda *a: linf.box_sorted_dist(*a, *sort), (lower, upper, far_w)),
        "box_sorted_dist_backward": Case(
            lambda *a: linf.box_sorted_dist_backward(*a, *sort), (_like(y), _like(y), lower, upper, far_w)
        ),
        "shift": Case(lambda x, o: linf.shift(x, o, -1.0, 1.7), (images, torch.randn(4).double())),
        "shift-one": Case(lambda x, o: linf.shift(x, o, 1.0, 1.7), (images, torch.randn(1).double())),
        "shift_last": Case(lambda x, o: linf.shift_last(x, o, -1.0, 1.7), (images, torch.randn(4).double())),
        "max_min": Case(lambda x: linf.max_min(x), (images,)),
        "sorted_dist_last": Case(lambda x, w: linf.sorted_dist_last(x, w, *sort), (x.view(3, 1, 5), w)),
        "within": Case(lambda x, a: linf.within(x, a), (x, torch.rand_like(x))),
        "tanh": Case(lambda x: linf.tanh(x), (x,)),
        "affine": Case(lambda x: linf.affine(x, torch.full((1,), 2.0), torch.full((1,), 0.5)), (x,)),
        "gathered": Case(lambda x: linf.gathered(x, torch.tensor([[0, 1], [1, -1]]), torch.ones(2)), (x,)),
        "largest": Case(lambda x: linf.largest(x, torch.tensor([[0, 1], [1, 1]])), (x,)),
        "elu": Case(lambda x: linf.elu(x, 0.5), (x,)),
        "softplus": Case(lambda x: linf.softplus(x, 2.0), (x,)),
    }
    return found


CASES = _cases()
each_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def _tuple(y) -> tuple[Tensor, ...]:
    return y if isinstance(y, tuple) else (y,)


def _tuples(function: Callable) -> Callable:
    return lambda *a: _tuple(function(*a))


def assert_close(got, expected, **tolerance) -> None:
    for a, b in zip(_tuple(got), _tuple(expected), strict=True):
        torch.testing.assert_close(a, b, **(tolerance or CLOSE))


def _quotient(function: Callable, tensors: tuple[Tensor, ...], tangents: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    ends = [_tuple(function(*(a + s * STEP * t for a, t in zip(tensors, tangents)))) for s in (1, -1)]
    return tuple((a - b) / (2 * STEP) for a, b in zip(*ends))


def test_every_operator_has_a_case():
    operators = {
        name.removeprefix("linf::") for name in torch._C._dispatch_get_all_op_names() if name.startswith("linf::")
    }
    assert operators == {name.split("-")[0] for name in CASES}


@each_case
def test_forward_mode_is_the_difference_quotient(case):
    tangents = tuple(map(torch.randn_like, case.tensors))
    expected = _quotient(case.function, case.tensors, tangents)
    y, found = jvp(_tuples(case.function), case.tensors, tangents)
    assert_close(found, expected)
    assert_close(y, case.function(*case.tensors), rtol=1e-12, atol=1e-12)
    with forward_ad.dual_level():
        duals = [forward_ad.make_dual(a, t) for a, t in zip(case.tensors, tangents)]
        assert_close(tuple(forward_ad.unpack_dual(a).tangent for a in _tuple(case.function(*duals))), expected)
    for i, tangent in enumerate(tangents):  # only of this tensor

        def of_one(a, i=i):
            return _tuple(case.function(*case.tensors[:i], a, *case.tensors[i + 1 :]))

        assert_close(jvp(of_one, (case.tensors[i],), (tangent,))[1], _quotient(of_one, (case.tensors[i],), (tangent,)))


@each_case
def test_reverse_mode_is_the_same_for_torch_func(case):
    tensors = tuple(a.clone().requires_grad_() for a in case.tensors)
    y = _tuple(case.function(*tensors))
    cotangents = tuple(map(torch.randn_like, y))
    expected = torch.autograd.grad(y, tensors, cotangents, allow_unused=True, materialize_grads=True)
    assert_close(vjp(_tuples(case.function), *case.tensors)[1](cotangents), expected)
    tangents = tuple(map(torch.randn_like, tensors))
    _, found = jvp(_tuples(case.function), case.tensors, tangents)
    products = [sum((a * b).sum() for a, b in zip(*pair)) for pair in ((found, cotangents), (tangents, expected))]
    torch.testing.assert_close(*products, rtol=1e-9, atol=1e-9)


@each_case
def test_second_order_is_the_difference_quotient(case):
    """⟨tangent, gradient of ⟨cotangent, y⟩⟩, differentiated in every possible way."""
    cotangents = tuple(map(torch.randn_like, _tuple(case.function(*case.tensors))))
    directions = tuple(map(torch.randn_like, case.tensors))

    def inner(*tensors):
        return sum((a * b).sum() for a, b in zip(_tuple(case.function(*tensors)), cotangents))

    def gradient(*tensors):
        tensors = tuple(a.detach().requires_grad_() for a in tensors)
        return torch.autograd.grad(inner(*tensors), tensors, allow_unused=True, materialize_grads=True)

    arguments = tuple(range(len(case.tensors)))
    expected = _quotient(gradient, case.tensors, directions)
    scale = dict(rtol=1e-5, atol=1e-5 * max(1.0, *(float(a.abs().max()) for a in expected)))
    assert_close(jvp(grad(inner, arguments), case.tensors, directions)[1], expected, **scale)  # forward over reverse

    def directional(*tensors):
        return jvp(inner, tensors, directions)[1]

    assert_close(grad(directional, arguments)(*case.tensors), expected, **scale)  # reverse over forward

    def along(*tensors):
        return sum((a * b).sum() for a, b in zip(grad(inner, arguments)(*tensors), directions))

    assert_close(grad(along, arguments)(*case.tensors), expected, **scale)  # reverse over reverse
    again = jvp(directional, case.tensors, directions)[1]  # forward over forward
    twice = sum((a * b).sum() for a, b in zip(expected, directions))
    torch.testing.assert_close(again, twice, rtol=1e-5, atol=scale["atol"] * 100)
    tensors = tuple(a.clone().requires_grad_() for a in case.tensors)  # without torch.func
    first = torch.autograd.grad(inner(*tensors), tensors, create_graph=True, allow_unused=True, materialize_grads=True)
    total = sum((a * b).sum() for a, b in zip(first, directions)) + 0 * sum(a.sum() for a in tensors)
    found = torch.autograd.grad(total, tensors)
    assert_close(found, expected, **scale)


def _batches(tensors: tuple[Tensor, ...], in_dims: tuple) -> tuple[Tensor, ...]:
    """Returns three of each tensor, along its batch dimension if it has one."""
    return tuple(
        a if d is None else torch.stack([a + 0.01 * i * torch.randn_like(a) for i in range(3)]).movedim(0, d)
        for a, d in zip(tensors, in_dims)
    )


def _loop(function: Callable, tensors: tuple[Tensor, ...], in_dims: tuple) -> tuple[Tensor, ...]:
    each = [_tuple(function(*(a if d is None else a.select(d, i) for a, d in zip(tensors, in_dims)))) for i in range(3)]
    return tuple(map(torch.stack, zip(*each)))


def _some_in_dims(count: int) -> list[tuple]:
    dims = [tuple(0 if i == j else None for j in range(count)) for i in range(count)]
    return [*dims, (0,) * count, tuple((1, -1, 0)[i % 3] for i in range(count))]


@each_case
def test_vmap_is_a_loop(case):
    for in_dims in _some_in_dims(len(case.tensors)):
        tensors = _batches(case.tensors, in_dims)
        assert_close(
            vmap(case.function, in_dims)(*tensors), _loop(case.function, tensors, in_dims), rtol=1e-12, atol=1e-12
        )
    empty = tuple(a[None][:0] for a in case.tensors)
    for y, one in zip(_tuple(vmap(case.function)(*empty)), _tuple(case.function(*case.tensors))):
        assert y.shape == (0, *one.shape)
    twice = tuple(a.expand(2, 3, *a.shape) for a in case.tensors)
    for y, one in zip(_tuple(vmap(vmap(case.function))(*twice)), _tuple(case.function(*case.tensors))):
        torch.testing.assert_close(y, one.expand(2, 3, *one.shape), rtol=1e-12, atol=1e-12)


@each_case
def test_vmap_and_derivatives_commute_with_loops(case):
    arguments = tuple(range(len(case.tensors)))
    for in_dims in _some_in_dims(len(case.tensors))[-2:]:
        tensors = _batches(case.tensors, in_dims)
        directions = tuple(map(torch.randn_like, tensors))

        def total(*a):
            return sum(y.sum() for y in _tuple(case.function(*a)))

        def derivative(*a):
            return jvp(total, a[: len(arguments)], a[len(arguments) :])[1]

        both = (*tensors, *directions)
        assert_close(vmap(grad(total, arguments), in_dims)(*tensors), _loop(grad(total, arguments), tensors, in_dims))
        assert_close(vmap(derivative, in_dims * 2)(*both), _loop(derivative, both, in_dims * 2))

        def summed(*a):
            return sum(y.sum() for y in _tuple(vmap(case.function, in_dims)(*a)))

        def looped(*a):
            return sum(y.sum() for y in _loop(case.function, a, in_dims))

        assert_close(grad(summed, arguments)(*tensors), grad(looped, arguments)(*tensors))
        assert_close(jvp(summed, tensors, directions)[1], jvp(looped, tensors, directions)[1])


MODES = {"reverse": jacrev, "forward": jacfwd}


@pytest.mark.parametrize("p", (1.0, 1.5, 2.0, 3.0, 8.0, math.inf), ids=lambda p: f"p={p:g}")
def test_jacobians_and_hessians_agree_however_they_are_made(p):
    x, w = _apart((3, 5), (4, 5))

    def f(x):
        return linf.dist(x, w, p).pow(2).sum()

    first = [mode(lambda x: linf.dist(x, w, p))(x) for mode in MODES.values()]
    assert_close(*first)
    for vectorize, strategy in ((False, "reverse-mode"), (True, "reverse-mode"), (True, "forward-mode")):
        assert_close(
            torch.autograd.functional.jacobian(lambda x: linf.dist(x, w, p), x, vectorize=vectorize, strategy=strategy),
            first[0],
        )
    expected = hessian(f)(x)
    for outer, inner in itertools.product(MODES.values(), repeat=2):
        assert_close(outer(inner(f))(x), expected)
    columns = [_quotient(grad(f), (x,), (e.view(x.shape),))[0] for e in torch.eye(x.numel(), dtype=x.dtype)]
    torch.testing.assert_close(torch.stack(columns, -1).view(*x.shape, *x.shape), expected, rtol=1e-5, atol=1e-5)


@each_case
def test_gradgradcheck(case):
    if case.tensors[0].dim() == 4:
        return  # many coordinates; test_second_order_is_the_difference_quotient has them all at once
    tensors = tuple(a.clone().requires_grad_() for a in case.tensors)
    assert torch.autograd.gradgradcheck(case.function, tensors, atol=1e-4, rtol=1e-4, fast_mode=True)


# Kinks: every kind of derivative follows the choices of the specification and stays finite.


@pytest.mark.parametrize("p", (1.0, 1.5, 2.0, 3.0, 8.0, math.inf), ids=lambda p: f"p={p:g}")
@pytest.mark.parametrize("kind", ("equal", "ties", "one-agrees", "boxes"))
def test_at_kinks_all_modes_are_reverse_mode_and_finite(kind, p):
    x = torch.tensor([[1.0, -2.0, 3.0, 0.5]], dtype=torch.float64)
    w = (
        x
        + {
            "equal": torch.zeros(4),
            "ties": torch.tensor([1.0, -1.0, 1.0, 0.25]),
            "one-agrees": torch.tensor([0.0, 1.0, -0.5, 0.0]),
            "boxes": torch.tensor([0.5, -0.5, 1.0, 0.0]),
        }[kind].double()
    )
    if kind == "boxes":  # a weight on an end, in the middle, outside

        def f(x, w):
            return torch.cat(linf.box_dist(x - 0.5, x + 0.5, w, p)).sum()
    else:

        def f(x, w):
            return torch.cat((linf.dist(x, w, p), linf.sorted_dist(x, w, 0.5, 2))).sum()

    leaves = x.clone().requires_grad_(), w.clone().requires_grad_()
    expected = torch.autograd.grad(f(*leaves), leaves)
    for mode in MODES.values():
        assert_close(mode(f, (0, 1))(x, w), expected)
    for outer, inner in itertools.product(MODES.values(), repeat=2):
        for block in (a for pair in outer(inner(f, (0, 1)), (0, 1))(x, w) for a in pair):
            assert block.isfinite().all()


def test_nothing_has_the_derivatives_of_nothing():
    for n, out, features in ((0, 4, 5), (3, 0, 5), (3, 4, 0), (0, 0, 0)):
        for p in (3.0, math.inf):
            x, w = rows((n, out, features), dtype=torch.float64)
            for function in (
                lambda x, w: linf.dist(x, w, p),
                lambda x, w: linf.sorted_dist(x, w, 0.5, 3),
                lambda x, w: linf.box_dist(x, x, w, p)[1],
            ):
                y, tangent = jvp(function, (x, w), (x, w))
                assert y.shape == tangent.shape == (n, out) and not tangent.any()
                found = jacrev(jacfwd(function, (0, 1)), (0, 1))(x, w)
                assert found[0][1].shape == (n, out, *x.shape, *w.shape)
    images = torch.rand(0, 2, 5, 5, dtype=torch.float64)
    kernels = torch.rand(3, 2, 3, 3, dtype=torch.float64)
    y, tangent = jvp(lambda x: linf.dist_conv2d(x, kernels, 3.0, *CONVS["plain"][2]), (images,), (images,))
    assert y.shape == tangent.shape == (0, 3, 3, 3)


# Layers and nets.


NETS = {
    "linear": lambda: nn.Sequential(LinfDistLinear(6, 5, p=3), MeanShift(5), LinfDistLinear(5, 4, p=3)),
    "infinity": lambda: nn.Sequential(LinfDistLinear(6, 5), nn.Linear(5, 4)),
    "sorted": lambda: nn.Sequential(SortDistLinear(6, 5, rho=0.7, k=3), nn.Linear(5, 4)),
    "conv": lambda: nn.Sequential(
        nn.Unflatten(1, (1, 2, 3)), LinfDistConv2d(1, 3, 2, p=8), nn.Flatten(), LinfDistLinear(6, 4)
    ),
}


@pytest.mark.parametrize("make", NETS.values(), ids=NETS)
def test_nets_under_torch_func(make):
    """functional_call, per-sample gradients and ensembles, as in the documentation of torch.func."""
    torch.manual_seed(2)
    nets = [make().double().eval() for _ in range(3)]
    net, x, labels = nets[0], torch.randn(7, 6).double(), torch.randint(0, 4, (7,))
    parameters = dict(net.named_parameters())
    buffers = dict(net.named_buffers())

    def loss(parameters, x, label):
        return nn.functional.cross_entropy(functional_call(net, {**parameters, **buffers}, (x[None],)), label[None])

    per_sample = vmap(grad(loss), (None, 0, 0))(parameters, x, labels)
    for i in range(len(x)):
        expected = torch.autograd.grad(
            nn.functional.cross_entropy(net(x[i : i + 1]), labels[i : i + 1]), net.parameters()
        )
        for name, g in zip(parameters, expected):
            torch.testing.assert_close(per_sample[name][i], g, rtol=1e-9, atol=1e-12)
    stacked, more = torch.func.stack_module_state(nets)
    y = vmap(lambda p, b: functional_call(net, {**p, **b}, (x,)))(stacked, more)
    torch.testing.assert_close(y, torch.stack([a(x) for a in nets]), rtol=1e-12, atol=1e-12)
    tangents = {name: torch.randn_like(a) for name, a in parameters.items()}
    _, found = jvp(lambda p: functional_call(net, {**p, **buffers}, (x,)), (parameters,), (tangents,))
    moved = [
        functional_call(net, {**{k: a + s * STEP * tangents[k] for k, a in parameters.items()}, **buffers}, (x,))
        for s in (1, -1)
    ]
    assert_close(found, (moved[0] - moved[1]) / (2 * STEP))


def test_the_layer_of_a_float32_net_in_forward_mode():
    layer, x = LinfDistLinear(8, 5), torch.rand(4, 8)
    assert torch.equal(jvp(layer, (x,), (torch.ones_like(x),))[1].abs(), torch.ones(4, 5))


def test_results_of_finished_transforms_can_be_used():
    x, w = _apart((3, 5), (4, 5))
    kept = []
    grad(lambda x: kept.append(x) or linf.dist(x, w, 3.0).sum())(x)
    assert torch.equal(linf.dist(kept[0], w, 3.0), linf.dist(x, w, 3.0))
    leaf = w.clone().requires_grad_()
    assert torch.equal(
        torch.autograd.grad(linf.dist(kept[0], leaf, 3.0).sum(), leaf)[0],
        torch.autograd.grad(linf.dist(x, leaf, 3.0).sum(), leaf)[0],
    )


def test_one_call_serves_a_batch_of_rows():
    """If the batch can join the rows, per-sample evaluation needs no loop."""
    x, w = torch.rand(50, 2, 5), torch.rand(4, 5)
    for function in (
        lambda x: linf.dist(x, w, math.inf),
        lambda x: linf.sorted_dist(x, w, 0.5, 3),
        lambda x: linf.box_dist(*box(x), w, 3.0)[0],
    ):
        with Calls() as calls:
            vmap(function, randomness="different")(x)
        assert sum(name.startswith("linf::") for name, _ in calls.operators) == 1


def test_transforms_compile():
    torch._dynamo.reset()
    x, w = _apart((3, 5), (4, 5))
    for p in (3.0, math.inf):

        def f(x):
            return linf.dist(x, w, p).pow(2).sum()

        for made in (grad(f), jacfwd(f), vmap(lambda a: linf.dist(a[None], w, p))):
            torch._dynamo.reset()
            assert_close(torch.compile(made, backend="aot_eager")(x), made(x), rtol=1e-9, atol=1e-9)


@pytest.mark.filterwarnings(
    "ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning"
)  # of compiled autograd
@pytest.mark.filterwarnings("ignore:Attempted to insert a get_attr Node:UserWarning")  # of linearize, for any operator
@pytest.mark.parametrize("p", (3.0, math.inf), ids=lambda p: f"p={p:g}")
def test_other_ways_into_a_derivative(p):
    """linearize, functionalize, make_fx, checkpoints, compiled autograd, products with Hessians."""
    x, w = _apart((3, 5), (4, 5))
    tangent = torch.randn_like(x)

    def f(x):
        return linf.dist(x, w, p)

    def total(x):
        return f(x).pow(2).sum()

    y, push = torch.func.linearize(f, x)
    assert_close((y, push(tangent)), jvp(f, (x,), (tangent,)))
    assert torch.equal(torch.func.functionalize(f)(x), f(x))
    assert_close(make_fx(grad(total))(x)(x), grad(total)(x))
    leaf = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(total(leaf), leaf)
    assert_close(torch.autograd.grad(checkpoint(total, leaf, use_reentrant=False), leaf)[0], expected)
    torch._dynamo.reset()
    with torch._dynamo.compiled_autograd._enable(torch.compile(backend="eager")):
        total(leaf).backward()
    assert_close(leaf.grad, expected)
    products = [getattr(torch.autograd.functional, name)(total, x, tangent)[1] for name in ("hvp", "vhp")]
    assert_close(*products)
    assert_close(products[0], jvp(grad(total), (x,), (tangent,))[1])
