"""Compares the operators with the specification; tests tracing, autocast and the checks of ``linf_plugin.dist``."""

import math

import pytest
import torch
import torch.nn.functional as F
from cases import (
    CONVS,
    INF,
    Calls,
    assert_agrees,
    box,
    box_dist,
    box_sorted_dist,
    by_windows,
    dist,
    each_conv,
    each_device,
    each_dtype,
    each_layout,
    each_p,
    each_shape,
    each_sort,
    few_p,
    gradient_tolerance,
    rows,
    sorted_dist,
    value_tolerance,
)

import linf_plugin
from linf_plugin import ops
from linf_plugin.kernels import cpu, reference

linf = torch.ops.linf
NAN = math.nan
poisoned = pytest.mark.usefixtures("poisoned_memory")


# Values and gradients.


@poisoned
@each_device
@each_dtype
@each_p
@each_shape
def test_dist(shape, p, dtype, device):
    tensors = rows(shape, dtype=dtype, device=device)
    assert_agrees(
        lambda x, w: linf_plugin.dist(x, w, p),
        lambda x, w: dist(x, w, p),
        tensors,
        p,
        features=shape[2],
        terms=max(shape[:2]),
    )


@poisoned
@each_device
@each_dtype
@each_p
@each_shape
def test_box_dist(shape, p, dtype, device):
    x, w = rows(shape, dtype=dtype, device=device)
    assert_agrees(
        lambda *a: linf.box_dist(*a, p),
        lambda *a: box_dist(*a, p),
        (*box(x), w),
        p,
        features=shape[2],
        terms=2 * max(shape[:2]),
    )


@poisoned
@each_device
@few_p
@each_layout
def test_any_strides(layout, p, device):
    x, w = (layout(a) for a in rows((3, 5, 7), dtype=torch.float64, device=device))
    assert_agrees(lambda x, w: linf_plugin.dist(x, w, p), lambda x, w: dist(x, w, p), (x, w), p, features=7, terms=5)
    lower, upper = (layout(a) for a in box(x))
    assert_agrees(
        lambda *a: linf.box_dist(*a, p), lambda *a: box_dist(*a, p), (lower, upper, w), p, features=7, terms=10
    )


@poisoned
@each_device
@each_p
def test_rows_against_themselves(p, device):
    x, _ = rows((6, 0, 9), dtype=torch.float64, device=device)
    assert_agrees(lambda x: linf_plugin.dist(x, x, p), lambda x: dist(x, x, p), (x,), p, features=9, terms=12)


@each_device
@each_dtype
@each_p
@pytest.mark.parametrize("decades", ((-30, -30), (30, 30), (-30, 30)), ids=("1e-30", "1e30", "both"))
def test_no_power_over_or_underflows(decades, p, dtype, device):
    scale = torch.logspace(*decades, 65, dtype=torch.float64).to(device, dtype)
    tensors = tuple(a * scale for a in rows((3, 5, 65), dtype=dtype, device=device))
    assert_agrees(lambda x, w: linf_plugin.dist(x, w, p), lambda x, w: dist(x, w, p), tensors, p, features=65, terms=5)


@each_device
@each_p
@pytest.mark.parametrize("where", ("inside", "ends", "middle", "outside"))
def test_box_dist_at_the_kinks(where, p, device):
    """The weights lie where the nearest or the farthest point of the box changes sides."""
    centre, width = torch.randint(-4, 5, (3, 7)).double(), torch.randint(0, 3, (3, 7)).double()
    place = {"inside": width / 2, "ends": width, "middle": 0 * width, "outside": width + 1}[where]
    tensors = [a.to(device) for a in (centre - width, centre + width, torch.cat((centre + place, centre - place)))]
    assert_agrees(lambda *a: linf.box_dist(*a, p), lambda *a: box_dist(*a, p), tensors, p, features=7, terms=12)


def _conv_terms(w, y) -> int:
    """Returns the largest number of products in a sum of a gradient: over a pixel's windows, or over all windows."""
    return 2 * max(w[:, 0].numel(), y[:, 0].numel())


@poisoned
@each_device
@pytest.mark.parametrize("p", (1.0, 1.5, 8.0, INF), ids=lambda p: f"p={p:g}")
@each_conv
def test_conv2d(conv_case, p, device):
    shape, w_shape, conv = conv_case
    x, w = (torch.randn(s, dtype=torch.float64, device=device) for s in (shape, w_shape))
    y = linf.dist_conv2d(x, w, p, *conv)
    assert y.shape == F.conv2d(x, w, None, *conv).shape
    assert torch.equal(ops.dist_conv2d(x, w, p, conv), y)
    features, terms = w[0].numel(), _conv_terms(w, y)
    assert_agrees(
        lambda x, w: linf.dist_conv2d(x, w, p, *conv),
        lambda x, w: by_windows(lambda a, b: dist(a, b, p), (x,), w, conv),
        (x, w),
        p,
        features,
        terms,
    )
    assert_agrees(
        lambda lower, upper, w: linf.box_conv2d(lower, upper, w, p, *conv),
        lambda lower, upper, w: by_windows(lambda *a: box_dist(*a, p), (lower, upper), w, conv),
        (*box(x), w),
        p,
        features,
        terms,
    )


@pytest.mark.parametrize("strides", ("channels-last", "transposed"))
def test_conv2d_any_strides(strides):
    shape, w_shape, conv = CONVS["everything"]
    relayout = {
        "channels-last": lambda a: a.to(memory_format=torch.channels_last),
        "transposed": lambda a: a.transpose(0, 3).contiguous().transpose(0, 3),
    }[strides]
    x, w = (relayout(torch.randn(s, dtype=torch.float64)) for s in (shape, w_shape))
    assert not x.is_contiguous() and not w.is_contiguous()
    assert_agrees(
        lambda x, w: linf.dist_conv2d(x, w, 3.0, *conv),
        lambda x, w: by_windows(lambda a, b: dist(a, b, 3.0), (x,), w, conv),
        (x, w),
        3.0,
        w[0].numel(),
        _conv_terms(w, linf.dist_conv2d(x, w, 3.0, *conv)),
    )


SHIFTED = {"rows": (4, 3), "images": (2, 3, 4, 5), "one": (1, 1), "no-rows": (0, 3), "no-images": (0, 3, 2, 2)}
each_shifted = pytest.mark.parametrize("shape", SHIFTED.values(), ids=SHIFTED)


@poisoned
@each_device
@each_dtype
@pytest.mark.parametrize("sign, scale", ((1.0, 1.0), (-1.0, 1.0), (-1.0, 3.7)))
@each_shifted
def test_shift(shape, sign, scale, dtype, device):
    x = torch.randn(shape, dtype=dtype, device=device, requires_grad=True)
    offset = torch.randn(shape[1], dtype=dtype, device=device, requires_grad=True)
    expected = (x + sign * offset.view(-1, *(1 for _ in shape[2:]))) * scale
    grad = torch.randn_like(expected)
    g_expected = torch.autograd.grad(expected, (x, offset), grad)
    for function in (linf.shift, ops.shift):
        y = function(x, offset, sign, scale)
        assert torch.equal(y, expected)
        for g, h in zip(torch.autograd.grad(y, (x, offset), grad), g_expected):
            torch.testing.assert_close(g, h, rtol=0, atol=1e3 * torch.finfo(dtype).eps)  # sums of 40 numbers


def test_shift_as_one_operator_ends_with_its_context():
    x, offset = torch.rand(2, 3), torch.rand(3)

    def operators():
        with Calls() as calls:
            ops.shift(x, offset)
        return calls.names

    assert operators() == {"aten::view", "aten::add.Tensor"}
    with pytest.raises(KeyError), ops.shift_as_one_operator():
        assert operators() == {"linf::shift"}
        raise KeyError
    assert operators() == {"aten::view", "aten::add.Tensor"}


@each_dtype
@pytest.mark.parametrize("shape", [(3, 4), (2, 6, 5), (2, 2, 3, 2), (0, 4, 3), (3, 0)], ids=str)
def test_max_min_sorts_pairs_of_channels(shape, dtype):
    x = torch.randn(shape, dtype=dtype).requires_grad_()
    pairs = x.unflatten(1, (shape[1] // 2, 2)) if x.numel() else x
    wanted = pairs.sort(2, descending=True).values.flatten(1, 2) if x.numel() else x
    grad = torch.rand(shape, dtype=dtype)
    (g_wanted,) = torch.autograd.grad(wanted, x, grad)
    with ops.shift_as_one_operator():
        inside = ops.max_min(x)
    for y in (ops.max_min(x), linf.max_min(x), inside):
        assert torch.equal(y, wanted) and torch.equal(torch.autograd.grad(y, x, grad)[0], g_wanted)
    with torch.no_grad(), ops.shift_as_one_operator(), Calls() as calls:
        ops.max_min(x)
    assert calls.names == {"linf::max_min"}
    for wrong in (torch.rand(2, 3), torch.rand(2), torch.ones(2, 4, dtype=torch.long)):
        with pytest.raises((TypeError, ValueError), match="x must"):
            linf.max_min(wrong)


@each_dtype
@pytest.mark.parametrize("shape", [(4, 7), (2, 3, 7), (2, 1, 3, 7), (0, 3, 7), (3, 0, 7)], ids=str)
def test_operators_over_the_last_dimension_are_those_of_its_rows(shape, dtype):
    x, w, offset = torch.randn(shape, dtype=dtype), torch.randn(5, 7, dtype=dtype), torch.randn(7, dtype=dtype)
    flat, wanted = x.reshape(-1, 7), (*shape[:-1], 5)
    for p in (2.0, math.inf):
        assert torch.equal(linf.dist_last(x, w, p), linf.dist(flat, w, p).view(wanted))
        assert torch.equal(ops.dist_along(x, w, p), linf.dist_last(x, w, p))
    assert torch.equal(linf.sorted_dist_last(x, w, 0.4, 3), linf.sorted_dist(flat, w, 0.4, 3).view(wanted))
    assert torch.equal(ops.sorted_dist_along(x, w, 0.4, 3), linf.sorted_dist_last(x, w, 0.4, 3))
    assert torch.equal(linf.shift_last(x, offset, -1.0, 2.0), (x - offset) * 2)
    assert torch.equal(ops.shift_along(x, offset), x + offset)


def test_layers_keep_the_dimensions_of_their_inputs_while_shift_is_one_operator():
    x = torch.randn(2, 3, 7)
    for layer, name in (
        (linf_plugin.LinfDistLinear(7, 5), "linf::dist_last"),
        (linf_plugin.SortDistLinear(7, 5, rho=0.5).eval(), "linf::sorted_dist_last"),
    ):
        with torch.no_grad():
            wanted = layer(x)
            with Calls() as outside:
                layer(x)
            with ops.shift_as_one_operator(), Calls() as inside:
                found = layer(x)
        assert torch.equal(found, wanted)
        assert {name, "linf::shift_last"} <= inside.names and not {name, "linf::shift_last"} & outside.names


# The promises of the specification, checked without it.


@each_device
@each_dtype
@each_p
def test_gradient_is_0_where_the_distance_is(p, dtype, device):
    x = torch.randn(1, 7, dtype=dtype, device=device, requires_grad=True)
    w = x.detach().clone().requires_grad_()
    y = linf_plugin.dist(x, w, p)
    assert y.item() == 0
    for grad in torch.autograd.grad(y.sum(), (x, w)):
        assert torch.equal(grad, torch.zeros_like(grad))


@each_device
@each_dtype
@each_p
def test_coordinates_that_agree_get_no_gradient(p, dtype, device):
    x, w = rows((1, 1, 9), dtype=dtype, device=device)
    w[:, ::2] = x[:, ::2]
    for grad in torch.autograd.grad(linf_plugin.dist(x.requires_grad_(), w.requires_grad_(), p).sum(), (x, w)):
        assert torch.equal(grad[:, ::2], torch.zeros_like(grad[:, ::2]))
        assert grad.isfinite().all() and grad.abs().max() > 0.5  # the gradient has ℓq norm 1 over 4 coordinates


@each_device
@each_dtype
@pytest.mark.parametrize("first, second, features", ((0, 1, 2), (2, 6, 7), (15, 16, 64), (3, 2047, 2048)))
@pytest.mark.parametrize("signs", ((1, 1), (1, -1), (-1, 1)), ids=str)
def test_ties_go_to_the_lowest_coordinate(signs, first, second, features, dtype, device):
    w = torch.rand(1, features, dtype=dtype, device=device)
    w[0, first], w[0, second] = 3.0 * signs[0], 3.0 * signs[1]
    x = torch.zeros(1, features, dtype=dtype, device=device, requires_grad=True)
    expected = torch.zeros_like(x).detach()
    expected[0, first] = -signs[0]
    g_x, g_w = torch.autograd.grad(linf_plugin.dist(x, w.requires_grad_()).sum(), (x, w))
    assert torch.equal(g_x, expected) and torch.equal(g_w, -expected)


@each_device
@each_p
@pytest.mark.parametrize("column", (0, 20, 32), ids=lambda i: f"column-{i}")
def test_nan_reaches_every_output_of_its_row(column, p, device):
    x, w = rows((3, 4, 33), device=device)
    x[1, column] = NAN
    expected = torch.tensor([[False], [True], [False]], device=device).expand(3, 4)
    assert torch.equal(linf_plugin.dist(x, w, p).isnan(), expected)
    assert torch.equal(linf_plugin.dist(w, x, p).isnan(), expected.t())
    for ends in ((x, torch.full_like(x, 9.0)), (torch.full_like(x, -9.0), x)):
        for y in linf.box_dist(*ends, w, p):
            assert torch.equal(y.isnan(), expected)
    images = x.unflatten(1, (3, 11, 1))
    y = linf.dist_conv2d(images, w.unflatten(1, (3, 11, 1)), p, [1, 1], [0, 0], [1, 1], 1)
    assert torch.equal(y.flatten(1).isnan(), expected)


@each_device
@each_dtype
@few_p
def test_box_dist_is_the_range_over_the_box(p, dtype, device):
    """No point of the box gives a value outside [near, far], and some point attains each end."""
    x, w = rows((4, 6, 5), dtype=dtype, device=device)
    lower, upper = box(x)
    near, far = linf.box_dist(lower, upper, w, p)
    slack = 2 * value_tolerance(dtype, p, features=5)  # 0 at p = ∞: rounding x − w is monotone

    corner = torch.randint(0, 2, (200, 4, 5), device=device, dtype=torch.bool)
    weight = torch.rand(200, 4, 5, dtype=dtype, device=device)
    for points in (torch.where(corner, lower, upper), lower.lerp(upper, weight).clamp(lower, upper)):
        y = reference.dist(points.flatten(0, 1), w, p).unflatten(0, (200, 4))
        assert (y >= near * (1 - slack)).all() and (y <= far * (1 + slack)).all()

    nearest = w.clamp(lower[:, None], upper[:, None])
    farthest = torch.where(w - lower[:, None] > upper[:, None] - w, lower[:, None], upper[:, None])
    for end, witness in ((near, nearest), (far, farthest)):
        torch.testing.assert_close(end, reference.norm((witness - w).abs(), p), rtol=slack, atol=0)


@each_device
@each_p
def test_a_box_of_width_0_is_its_point(p, device):
    x, w = rows((3, 4, 6), dtype=torch.float64, device=device)
    w[0] = x[0]
    lower, upper = x.clone().requires_grad_(), x.clone().requires_grad_()
    near, far = linf.box_dist(lower, upper, w, p)
    y = linf_plugin.dist(x.requires_grad_(), w, p)
    tolerance = dict(rtol=value_tolerance(torch.float64, p, features=6), atol=0)
    torch.testing.assert_close(near, y, **tolerance)
    torch.testing.assert_close(far, y, **tolerance)
    grad = torch.rand_like(y)
    for end in (near, far):  # only one end has a gradient
        g_box = sum(torch.autograd.grad(end, (lower, upper), grad, retain_graph=True))
        (g_point,) = torch.autograd.grad(y, x, grad, retain_graph=True)
        tolerance = gradient_tolerance(torch.float64, p, features=6, terms=4)
        torch.testing.assert_close(g_box, g_point, rtol=0, atol=tolerance)


def _least_gap(*differences) -> float:
    """Returns the smallest distance of a difference from 0, or of a row's largest from its second largest."""
    gaps = [d.abs().min() for d in differences]
    for d in differences:
        top = d.abs().topk(2).values
        gaps.append((top[..., 0] - top[..., 1]).min())
    return float(min(gaps))


@each_p
def test_gradcheck(p):
    x, w = rows((2, 3, 5), dtype=torch.float64)
    assert _least_gap(x[:, None] - w) > 1e-3  # gradcheck steps by 1e-6
    assert torch.autograd.gradcheck(lambda x, w: linf.dist(x, w, p), (x.requires_grad_(), w.requires_grad_()))


@each_p
def test_gradcheck_box(p):
    x, w = rows((2, 3, 5), dtype=torch.float64)
    lower, upper = x - torch.rand_like(x), x + torch.rand_like(x)
    above, below = lower[:, None] - w, w - upper[:, None]
    assert _least_gap(above, below, above - below, torch.maximum(above, below)) > 1e-3
    tensors = tuple(a.requires_grad_() for a in (lower, upper, w))
    assert torch.autograd.gradcheck(lambda *a: linf.box_dist(*a, p), tensors)


@pytest.mark.parametrize("p", (1.5, 8.0), ids=lambda p: f"p={p:g}")
def test_gradcheck_conv2d(p):
    conv = ([2, 1], [1, 0], [1, 2], 2)
    x, w = torch.randn(2, 2, 4, 3, dtype=torch.float64), torch.randn(4, 1, 2, 2, dtype=torch.float64)
    lower, upper, w = (a.requires_grad_() for a in (*box(x), w))
    assert torch.autograd.gradcheck(lambda x, w: linf.dist_conv2d(x, w, p, *conv), (lower, w))
    lower, upper = (x - 1).detach().requires_grad_(), (x + 1).detach().requires_grad_()
    assert torch.autograd.gradcheck(lambda *a: linf.box_conv2d(*a, p, *conv), (lower, upper, w))


LINEAR = (torch.randn(6, 5), torch.randn(4, 5))
IMAGES = (torch.randn(2, 4, 5, 6), torch.randn(6, 2, 2, 3))
GEOMETRY = ([1, 2], [1, 0], [1, 1], 2)
PARTIAL = {  # function of tensors
    "dist": (lambda x, w: linf.dist(x, w, 3.0), LINEAR),
    "dist-index": (lambda x, w: linf.dist(x, w, INF), LINEAR),
    "box_dist": (lambda a, b, w: torch.stack(linf.box_dist(a, b, w, 3.0)), (*box(LINEAR[0]), LINEAR[1])),
    "dist_conv2d": (lambda x, w: linf.dist_conv2d(x, w, 3.0, *GEOMETRY), IMAGES),
    "dist_conv2d-index": (lambda x, w: linf.dist_conv2d(x, w, INF, *GEOMETRY), IMAGES),
    "box_conv2d": (lambda a, b, w: torch.stack(linf.box_conv2d(a, b, w, 3.0, *GEOMETRY)), (*box(IMAGES[0]), IMAGES[1])),
}


@pytest.mark.parametrize("function, tensors", PARTIAL.values(), ids=PARTIAL)
def test_gradients_that_are_not_wanted_are_not_computed(function, tensors, monkeypatch):
    y = function(*tensors)
    grad = torch.rand_like(y)
    inputs = [a.clone().requires_grad_() for a in tensors]
    everything = torch.autograd.grad(function(*inputs), inputs, grad)
    asked = []
    for name in ("dist_vjp", "index_vjp", "box_dist_vjp"):

        def recorded(*args, original=getattr(cpu, name), **options):
            grads = original(*args, **options)
            asked.append([g is not None for g in grads])
            return grads

        monkeypatch.setattr(cpu, name, recorded)
    for wanted in range(len(tensors)):
        inputs = [a.clone().requires_grad_(i == wanted) for i, a in enumerate(tensors)]
        (g,) = torch.autograd.grad(function(*inputs), inputs[wanted], grad)
        assert torch.equal(g, everything[wanted])
        assert asked and all(made == [i == wanted for i in range(len(tensors))] for made in asked)
        asked.clear()


# Sorted sums: all bits of the values are equal, because the reference rounds in the same order.


@poisoned
@each_device
@each_dtype
@each_sort
@each_shape
def test_sorted_dist(shape, sort, dtype, device):
    x, w = rows(shape, dtype=dtype, device=device)
    assert_agrees(
        lambda x, w: linf_plugin.sorted_dist(x, w, *sort),
        lambda x, w: sorted_dist(x, w, *sort),
        (x, w),
        INF,
        features=shape[2],
        terms=max(shape[:2]),
    )
    assert_agrees(
        lambda *a: linf.box_sorted_dist(*a, *sort),
        lambda *a: box_sorted_dist(*a, *sort),
        (*box(x), w),
        INF,
        features=shape[2],
        terms=2 * max(shape[:2]),
    )


@poisoned
@each_device
@each_layout
def test_sorted_dist_of_any_strides(layout, device):
    x, w = (layout(a) for a in rows((3, 5, 7), dtype=torch.float64, device=device))
    ends = [layout(a) for a in box(x)]
    assert_agrees(
        lambda x, w: linf.sorted_dist(x, w, 0.4, 4), lambda x, w: sorted_dist(x, w, 0.4, 4), (x, w), INF, 7, terms=5
    )
    assert_agrees(
        lambda *a: linf.box_sorted_dist(*a, 0.4, 4),
        lambda *a: box_sorted_dist(*a, 0.4, 4),
        (*ends, w),
        INF,
        7,
        terms=10,
    )


@each_device
@each_dtype
@pytest.mark.parametrize("sort", ((1.0, 10), (0.5, 1)), ids=("rho=1", "k=1"))
def test_a_sum_of_one_is_the_distance_at_infinity(sort, dtype, device):
    x, w = (a.requires_grad_() for a in rows((5, 6, 33), dtype=dtype, device=device))
    lower, upper = (a.detach().requires_grad_() for a in box(x.detach()))
    for ours, theirs, tensors in (
        (linf.sorted_dist(x, w, *sort), linf.dist(x, w, INF), (x, w)),
        (
            torch.cat(linf.box_sorted_dist(lower, upper, w, *sort)),
            torch.cat(linf.box_dist(lower, upper, w, INF)),
            (lower, upper, w),
        ),
    ):
        assert torch.equal(ours, theirs)
        grad = torch.rand_like(ours)
        pairs = zip(torch.autograd.grad(ours, tensors, grad), torch.autograd.grad(theirs, tensors, grad))
        for g, h in pairs:
            torch.testing.assert_close(g, h, rtol=0, atol=gradient_tolerance(dtype, INF, 33, terms=12))


@each_device
@each_dtype
@pytest.mark.parametrize("features", (5, 64, 2048))
def test_ties_of_a_sorted_sum_are_in_order_of_index(features, dtype, device):
    """Four coordinates are equal, and the last one does not count; many equal boxes lie around their weights."""
    w = torch.rand(1, features, dtype=dtype, device=device)
    at = [0, features // 2, features - 2, features - 1]
    w[0, at] = torch.tensor([3.0, -3.0, -3.0, 3.0], dtype=dtype, device=device)
    x = torch.zeros_like(w, requires_grad=True)
    a, b, c = reference.coefficients(0.4, 3, features)
    expected = torch.zeros_like(w)
    expected[0, at] = torch.tensor([-a, b, c, 0], dtype=dtype, device=device)
    g_x, g_w = torch.autograd.grad(linf.sorted_dist(x, w.requires_grad_(), 0.4, 3).sum(), (x, w))
    assert torch.equal(g_x, expected) and torch.equal(g_w, -expected)
    upper = torch.ones_like(w).requires_grad_()
    near, far = linf.box_sorted_dist(x - 1, upper, torch.zeros_like(w), 0.4, 3)
    assert near.item() == 0
    (g,) = torch.autograd.grad(far.sum(), upper)
    assert g[0, :4].tolist() == [a, b, c, 0] and not g[0, 4:].any()


@each_device
@pytest.mark.parametrize("column", (0, 20, 32), ids=lambda i: f"column-{i}")
def test_nan_reaches_every_sorted_sum_of_its_row(column, device):
    x, w = rows((3, 4, 33), device=device)
    x[1, column] = NAN
    expected = torch.tensor([[False], [True], [False]], device=device).expand(3, 4)
    assert torch.equal(linf_plugin.sorted_dist(x, w, 0.5, 3).isnan(), expected)
    assert torch.equal(linf_plugin.sorted_dist(w, x, 0.5, 3).isnan(), expected.t())
    for ends in ((x, torch.full_like(x, 9.0)), (torch.full_like(x, -9.0), x)):
        for y in linf.box_sorted_dist(*ends, w, 0.5, 3):
            assert torch.equal(y.isnan(), expected)


@each_device
@each_dtype
@each_sort
def test_sorted_sums_stay_in_their_range(sort, dtype, device):
    """No value is outside [near, far], even by one bit, because every rounding is monotone.  Both ends are attained."""
    x, w = rows((4, 6, 13), dtype=dtype, device=device)
    lower, upper = box(x)
    near, far = linf.box_sorted_dist(lower, upper, w, *sort)
    corner = torch.randint(0, 2, (200, 4, 13), device=device, dtype=torch.bool)
    weight = torch.rand(200, 4, 13, dtype=dtype, device=device)
    for points in (torch.where(corner, lower, upper), lower.lerp(upper, weight).clamp(lower, upper)):
        y = linf.sorted_dist(points.flatten(0, 1), w, *sort).unflatten(0, (200, 4))
        assert (y >= near).all() and (y <= far).all()
    nearest = w.clamp(lower[:, None], upper[:, None])
    farthest = torch.where(w - lower[:, None] > upper[:, None] - w, lower[:, None], upper[:, None])
    for end, witness in ((near, nearest), (far, farthest)):
        assert torch.equal(end, reference.sorted_sum((witness - w).abs(), *sort))


@each_device
@each_sort
def test_sorted_sums_change_by_at_most_the_input(sort, device):
    """In float32, equal up to the rounding of two sums of at most 40 terms."""
    x, w = rows((50, 6, 40), device=device)
    for size in (1e-3, 1.0, 100.0):
        for step in (torch.randn_like(x), torch.randn_like(x).sign(), torch.ones_like(x)):
            moved = x + size * step
            before, after = linf.sorted_dist(x, w, *sort), linf.sorted_dist(moved, w, *sort)
            reach = (moved.double() - x.double()).abs().amax(1, keepdim=True)
            rounding = 42 * torch.finfo(torch.float32).eps / 2 * (before + after)
            assert ((after.double() - before.double()).abs() <= reach + rounding).all()


@each_sort
def test_gradcheck_of_sorted_sums(sort):
    x, w = rows((2, 3, 5), dtype=torch.float64)
    lower, upper = x - torch.rand_like(x), x + torch.rand_like(x)
    above, below = lower[:, None] - w, w - upper[:, None]
    for z in ((x[:, None] - w).abs(), torch.maximum(above, below).clamp_min(0), torch.maximum(-above, -below)):
        z = z.sort(-1).values
        gaps = (z[..., 1:] - z[..., :-1])[z[..., 1:] > 0]
        assert gaps.min() > 1e-4  # gradcheck steps by 1e-6
    assert _least_gap(x[:, None] - w, above, below, above - below) > 1e-4
    tensors = tuple(a.requires_grad_() for a in (x, w))
    assert torch.autograd.gradcheck(lambda *a: linf.sorted_dist(*a, *sort), tensors)
    tensors = tuple(a.detach().requires_grad_() for a in (lower, upper, w))
    assert torch.autograd.gradcheck(lambda *a: linf.box_sorted_dist(*a, *sort), tensors)


# Registration, tracing, autocast.


def _images(name: str, ends: int, maps: int = 0) -> tuple:
    """``maps`` maps, ``ends`` images, kernels, ``maps`` maps again, p and geometry, as an operator takes them."""
    shape, w_shape, conv = CONVS[name]
    x, w = torch.randn(shape), torch.randn(w_shape)
    y = torch.rand_like(linf.dist_conv2d(x, w, 3.0, *conv))
    return *[y] * maps, *((x,) if ends == 1 else box(x)), w, *[y] * maps, 3.0, *conv


def _index(*shape: int, features: int = 5) -> torch.Tensor:
    return torch.randint(-1, 2 * features, shape).mul(2).clamp_min(-1).int()  # −1, 4·i, 4·i + 2: any valid entry


def _indexed_images() -> tuple[tuple, tuple]:
    """Returns the arguments of the operator that saves an index and of the operator that uses it."""
    shape, w_shape, conv = CONVS["everything"]
    x, w = torch.randn(shape), torch.randn(w_shape)
    y, index = linf.dist_conv2d_with_index(x, w, *conv)
    return (x, w, *conv), (torch.rand_like(y), index, list(shape[1:]), list(w_shape[1:]), *conv)


def _strided(a: torch.Tensor) -> torch.Tensor:
    return a.transpose(0, 1).contiguous().transpose(0, 1)


OPCHECKS = {  # operator, its arguments
    "dist": (linf.dist, lambda: (*rows((3, 4, 5)), 3.0)),
    "dist-strided": (linf.dist, lambda: (*map(_strided, rows((3, 4, 5))), INF)),
    "dist-no-rows": (linf.dist, lambda: (*rows((0, 4, 5)), INF)),
    "dist_backward": (linf.dist_backward, lambda: (torch.rand(3, 4), *rows((3, 4, 5)), torch.rand(3, 4), 3.0)),
    "box_dist": (linf.box_dist, lambda: (*box(torch.rand(3, 5)), torch.rand(4, 5), 3.0)),
    "box_dist_backward": (
        linf.box_dist_backward,
        lambda: (*torch.rand(2, 3, 4), *box(torch.rand(3, 5)), torch.rand(4, 5), *torch.rand(2, 3, 4), 3.0),
    ),
    "dist_conv2d": (linf.dist_conv2d, lambda: _images("everything", 1)),
    "dist_conv2d-no-images": (linf.dist_conv2d, lambda: _images("no-images", 1)),
    "dist_conv2d_backward": (linf.dist_conv2d_backward, lambda: _images("everything", 1, 1)),
    "dist_conv2d_backward-strided": (
        linf.dist_conv2d_backward,
        lambda: tuple(_strided(a) if isinstance(a, torch.Tensor) else a for a in _images("one-pixel", 1, 1)),
    ),
    "dist_with_index": (linf.dist_with_index, lambda: rows((3, 4, 5))),
    "index_backward": (linf.index_backward, lambda: (torch.rand(3, 4), _index(3, 4), 5)),
    "dist_conv2d_with_index": (linf.dist_conv2d_with_index, lambda: _indexed_images()[0]),
    "index_conv2d_backward": (linf.index_conv2d_backward, lambda: _indexed_images()[1]),
    "box_conv2d": (linf.box_conv2d, lambda: _images("everything", 2)),
    "box_conv2d_backward": (linf.box_conv2d_backward, lambda: _images("everything", 2, 2)),
    "sorted_dist": (linf.sorted_dist, lambda: (*rows((3, 4, 5)), 0.5, 3)),
    "sorted_dist-strided": (linf.sorted_dist, lambda: (*map(_strided, rows((3, 4, 5))), 0.5, 10)),
    "sorted_dist-no-rows": (linf.sorted_dist, lambda: (*rows((0, 4, 5)), 0.5, 3)),
    "sorted_dist_backward": (linf.sorted_dist_backward, lambda: (torch.rand(3, 4), *rows((3, 4, 5)), 0.5, 3)),
    "box_sorted_dist": (linf.box_sorted_dist, lambda: (*box(torch.rand(3, 5)), torch.rand(4, 5), 0.5, 3)),
    "box_sorted_dist_backward": (
        linf.box_sorted_dist_backward,
        lambda: (*torch.rand(2, 3, 4), *box(torch.rand(3, 5)), torch.rand(4, 5), 0.5, 3),
    ),
    "shift": (linf.shift, lambda: (torch.rand(2, 3, 4, 5), torch.rand(3), -1.0, 2.0)),
    "shift-strided": (linf.shift, lambda: (_strided(torch.rand(2, 3, 4, 5)), torch.rand(3), -1.0, 2.0)),
}


@pytest.mark.parametrize("op, arguments", OPCHECKS.values(), ids=OPCHECKS)
def test_opcheck(op, arguments):
    """Schema, fake shapes and strides, autograd registration, dynamic shapes."""
    differentiable = not str(op).endswith(("_backward", "_with_index"))
    torch.library.opcheck(
        op.default,
        tuple(a.detach().requires_grad_(differentiable) if isinstance(a, torch.Tensor) else a for a in arguments()),
    )


NETS = {  # name, arguments
    "linf-mlp": dict(shape=(1, 4, 4), classes=3, width=8, depth=3),
    "linf-conv": dict(shape=(1, 6, 6), classes=3, channels=(2, 3), strides=(1, 2), width=5),
    "sortnet-mlp": dict(shape=(1, 4, 4), classes=3, width=8, depth=3, rho=0.6, k=3),
}
each_net = pytest.mark.parametrize("name", NETS)


def _net_and_input(name, n):
    net = linf_plugin.build(name, **NETS[name]).eval()
    return net, torch.rand(n, *NETS[name]["shape"], requires_grad=True)


@each_net
def test_compiles_without_graph_breaks(name):
    torch._dynamo.reset()
    net, x = _net_and_input(name, 3)
    compiled = torch.compile(net, fullgraph=True, backend="aot_eager")
    for n in (3, 5):  # 5 recompiles, with a dynamic batch
        x = torch.rand(n, *x.shape[1:], requires_grad=True)
        inputs = (x, *net.parameters())
        y, z = compiled(x), net(x)
        assert torch.equal(y, z)
        for g, h in zip(torch.autograd.grad(y.sum(), inputs), torch.autograd.grad(z.sum(), inputs)):
            assert torch.equal(g, h)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")  # inductor's own imports
@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method:DeprecationWarning")
def test_compiles_with_inductor():
    torch._dynamo.reset()
    x, w = rows((3, 4, 5))
    y = torch.compile(lambda x, w: linf_plugin.dist(x, w, 3.0), fullgraph=True)(x.requires_grad_(), w)
    z = linf_plugin.dist(x, w, 3.0)
    assert torch.equal(y, z)
    assert torch.equal(*(torch.autograd.grad(a.sum(), x)[0] for a in (y, z)))


@each_net
def test_exports_with_a_dynamic_batch(name):
    net, x = _net_and_input(name, 3)
    program = torch.export.export(net, (x.detach(),), dynamic_shapes=({0: torch.export.Dim("batch", max=64)},))
    for n in (1, 7):
        x = torch.rand(n, *x.shape[1:])
        assert torch.equal(program.module()(x), net(x))


@pytest.mark.parametrize(
    "device, half", (("cpu", torch.bfloat16), pytest.param("cuda", torch.float16, marks=pytest.mark.gpu))
)
def test_autocast_computes_in_float32(device, half):
    x, w = rows((2, 3, 4), device=device)
    x_half = x.to(half).requires_grad_()
    image, kernels = x_half.unflatten(1, (1, 2, 2)), w.unflatten(1, (1, 2, 2))
    _, _, conv = CONVS["plain"]
    with torch.autocast(device, half):
        outputs = [
            linf_plugin.dist(x_half, w, 8),
            *linf.box_dist(x_half, x_half, w, 8.0),
            linf.dist_conv2d(image, kernels, 8.0, *conv),
            *linf.box_conv2d(image, image, kernels, 8.0, *conv),
        ]
        sums = [linf_plugin.sorted_dist(x_half, w, 0.5), *linf.box_sorted_dist(x_half, x_half, w, 0.5, 10)]
    for y in sums:
        assert torch.equal(y, linf_plugin.sorted_dist(x_half.float(), w, 0.5))
    expected = linf_plugin.dist(x_half.float(), w, 8)
    for y in outputs:
        assert y.dtype == torch.float32
        torch.testing.assert_close(y.flatten(1), expected, rtol=value_tolerance(torch.float32, 8, features=4), atol=0)
        assert torch.autograd.grad(y.sum(), x_half, retain_graph=True)[0].dtype == half


def test_autocast_refuses_float64_with_float32():
    """Autocast does not change float64, so the kernel would get both dtypes."""
    x, w = rows((2, 3, 4))
    for a, b in ((x.double(), w), (x, w.double())):
        with torch.autocast("cpu", torch.bfloat16), pytest.raises(TypeError, match="w is torch.float"):
            linf_plugin.dist(a, b)


# The checked entry.


def _bad(**changes):
    return {"x": torch.rand(2, 3), "w": torch.rand(4, 3), **changes}


def _with(value):
    a = torch.rand(2, 3)
    a[1, 2] = value
    return a


BAD = {  # arguments, exception, what the message names
    "p-nan": (_bad(p=NAN), ValueError, "p must"),
    "p-below-1": (_bad(p=0.999), ValueError, "p must"),
    "p-minus-inf": (_bad(p=-INF), ValueError, "p must"),
    "p-string": (_bad(p="2"), TypeError, "p must"),
    "p-bool": (_bad(p=True), TypeError, "p must"),
    "p-tensor": (_bad(p=torch.tensor(2.0)), TypeError, "p must"),
    "p-none": (_bad(p=None), TypeError, "p must"),
    "x-list": (_bad(x=[[1.0]]), TypeError, "x must"),
    "w-list": (_bad(w=[[1.0]]), TypeError, "w must"),
    "x-0d": (_bad(x=torch.tensor(1.0)), ValueError, "x must"),
    "x-1d": (_bad(x=torch.rand(3)), ValueError, "x must"),
    "x-3d": (_bad(x=torch.rand(1, 2, 3)), ValueError, "x must"),
    "w-1d": (_bad(w=torch.rand(3)), ValueError, "w must"),
    "w-3d": (_bad(w=torch.rand(1, 2, 3)), ValueError, "w must"),
    "columns": (_bad(w=torch.rand(3, 4)), ValueError, "w has 4 columns but x has 3"),
    "x-int": (_bad(x=torch.ones(2, 3, dtype=torch.int64)), TypeError, "x must be float"),
    "w-int": (_bad(w=torch.ones(2, 3, dtype=torch.int64)), TypeError, "w must be float"),
    "x-bool": (_bad(x=torch.ones(2, 3, dtype=torch.bool)), TypeError, "x must be float"),
    "x-complex": (_bad(x=torch.rand(2, 3).cfloat()), TypeError, "x must be float"),
    "x-float16": (_bad(x=torch.rand(2, 3).half()), TypeError, "x must be float"),
    "w-bfloat16": (_bad(w=torch.rand(2, 3).bfloat16()), TypeError, "w must be float"),
    "mixed": (_bad(w=torch.rand(4, 3).double()), TypeError, "w is torch.float64 but x is torch.float32"),
    "devices": (_bad(w=torch.rand(4, 3, device="meta")), ValueError, "w is on meta but x is on cpu"),
    "check-x-nan": (_bad(x=_with(NAN), check=True), ValueError, "x contains"),
    "check-x-inf": (_bad(x=_with(-INF), check=True), ValueError, "x contains"),
    "check-w-nan": (_bad(w=_with(NAN), check=True), ValueError, "w contains"),
    "check-w-inf": (_bad(w=_with(INF), check=True), ValueError, "w contains"),
}


@pytest.mark.parametrize("arguments, error, names", BAD.values(), ids=BAD)
def test_bad_input_is_named(arguments, error, names):
    with pytest.raises(error, match=f"^{names}"):
        linf_plugin.dist(**arguments)


BAD_SORTED = {
    "rho-0": (_bad(rho=0), ValueError, "rho must"),
    "rho-2": (_bad(rho=2.0), ValueError, "rho must"),
    "rho-nan": (_bad(rho=NAN), ValueError, "rho must"),
    "rho-string": (_bad(rho="0.5"), TypeError, "rho must"),
    "rho-bool": (_bad(rho=True), TypeError, "rho must"),
    "k-0": (_bad(rho=0.5, k=0), ValueError, "k must"),
    "k-float": (_bad(rho=0.5, k=3.0), TypeError, "k must"),
    "k-bool": (_bad(rho=0.5, k=True), TypeError, "k must"),
    "x-1d": (_bad(rho=0.5, x=torch.rand(3)), ValueError, "x must"),
    "columns": (_bad(rho=0.5, w=torch.rand(3, 4)), ValueError, "w has 4 columns but x has 3"),
    "mixed": (_bad(rho=0.5, w=torch.rand(4, 3).double()), TypeError, "w is torch.float64 but x is torch.float32"),
    "check-x-nan": (_bad(rho=0.5, x=_with(NAN), check=True), ValueError, "x contains"),
}


@pytest.mark.parametrize("arguments, error, names", BAD_SORTED.values(), ids=BAD_SORTED)
def test_bad_input_of_a_sorted_sum_is_named(arguments, error, names):
    with pytest.raises(error, match=f"^{names}"):
        linf_plugin.sorted_dist(**arguments)


@pytest.mark.parametrize("p, error", ((NAN, ValueError), (0.5, ValueError), ("2", TypeError)), ids=str)
def test_a_bad_exponent_of_windows_is_named(p, error):
    shape, w_shape, geometry = CONVS["plain"]
    with pytest.raises(error, match="^p must"):
        ops.dist_conv2d(torch.rand(shape), torch.rand(w_shape), p, geometry)


@pytest.mark.parametrize("half", (False, True), ids=("float32", "bfloat16"))
def test_autocast_still_refuses_integers(half):
    x = torch.rand(2, 3, dtype=torch.bfloat16 if half else torch.float32)
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(TypeError, match="^w must be float"):
        linf_plugin.dist(x, torch.ones(4, 3, dtype=torch.int32))


def test_good_input():
    x, w = rows((2, 3, 4))
    assert torch.equal(linf_plugin.dist(x, w), linf.dist(x, w, INF))  # p = ∞ by default
    assert torch.equal(linf_plugin.dist(x, w, 2, check=True), linf.dist(x, w, 2.0))
    assert linf_plugin.dist(x.to("meta"), w.to("meta")).shape == (2, 3)
