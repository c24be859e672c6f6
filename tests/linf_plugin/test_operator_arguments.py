"""Operators check their arguments before compiled code runs: each argument of each operator is changed in every way.

Runs under the sanitizers too (``make sanitize``): a change that is not refused must be computed rightly, within the
memory of its arguments.
"""

import math
import random

import pytest
import torch
from cases import CONVS, box, rows
from torch import Tensor

import linf_plugin.bounds.rounded  # noqa: F401  (its operators are checked too)
from linf_plugin import LinfDistConv2d, LinfDistLinear
from linf_plugin.kernels import blocked, cpu

linf = torch.ops.linf


def _arguments() -> dict[str, tuple]:
    """Arguments that each operator takes."""
    torch.manual_seed(0)
    x, w = rows((3, 4, 5))
    lower, upper = box(x)
    y, index = linf.dist_with_index(x, w)
    near, far = linf.box_dist(lower, upper, w, 3.0)
    shape, w_shape, conv = CONVS["everything"]
    images, kernels = torch.randn(shape), torch.randn(w_shape)
    low, high = box(images)
    maps, places = linf.dist_conv2d_with_index(images, kernels, *conv)
    nears, fars = linf.box_conv2d(low, high, kernels, 3.0, *conv)
    sizes, points = (shape[1:], w_shape[1:]), torch.randn(2, 3, 5)
    return {
        "dist": (x, w, 3.0),
        "dist_with_index": (x, w),
        "index_backward": (torch.rand_like(y), index, 5, True, True),
        "dist_backward": (torch.rand_like(y), x, w, linf.dist(x, w, 3.0), 3.0, True, True),
        "box_dist": (lower, upper, w, 3.0),
        "box_dist_backward": (near, far, lower, upper, w, near, far, 3.0, True, True, True),
        "dist_conv2d": (images, kernels, 3.0, *conv),
        "dist_conv2d_with_index": (images, kernels, *conv),
        "index_conv2d_backward": (maps, places, *sizes, *conv, True, True),
        "dist_conv2d_backward": (
            maps,
            images,
            kernels,
            linf.dist_conv2d(images, kernels, 3.0, *conv),
            3.0,
            *conv,
            True,
            True,
        ),
        "box_conv2d": (low, high, kernels, 3.0, *conv),
        "box_conv2d_backward": (nears, fars, low, high, kernels, nears, fars, 3.0, *conv, True, True, True),
        "sorted_dist": (x, w, 0.5, 3),
        "sorted_dist_backward": (torch.rand_like(y), x, w, 0.5, 3, True, True),
        "box_sorted_dist": (lower, upper, w, 0.5, 3),
        "box_sorted_dist_backward": (near, far, lower, upper, w, 0.5, 3, True, True, True),
        "shift": (images, torch.rand(4), -1.0, 2.0),
        "max_min": (images,),
        "dist_last": (points, w, 3.0),
        "sorted_dist_last": (points, w, 0.5, 3),
        "shift_last": (points, torch.rand(5), -1.0, 2.0),
        "within": (x, torch.rand_like(x)),
        "tanh": (x,),
    }


GOOD = _arguments()


def _changed_tensor(a: Tensor) -> dict[str, Tensor]:
    changes = {
        "float64": a.double(),
        "float16": a.half(),
        "int32": a.int(),
        "complex": a.to(torch.complex64),
        "bool": a.bool(),
        "meta": a.to("meta"),
        "sparse": a.to_sparse(),
        "scalar": a.new_zeros(()),
        "one more dimension": a[None],
        "one dimension less": a[0],
        "nothing": a.new_zeros(0),
    }
    for d in range(a.dim()):
        for name, size in (
            ("longer", a.shape[d] + 1),
            ("much longer", 4000),
            ("shorter", a.shape[d] - 1),
            ("empty", 0),
        ):
            shape = list(a.shape)
            shape[d] = size
            changes[f"{name} in {d}"] = a.new_zeros(shape)
    if a.dtype == torch.int32:
        changes |= {f"index {i}": a.clone().fill_(i) for i in (20, 1 << 20, 2**31 - 1, 4 * 2**29 - 4)}
        changes["one index"] = a.clone().index_put_(
            (torch.tensor(a.numel() // 2),) if a.dim() == 1 else tuple(torch.tensor(s // 2) for s in a.shape),
            torch.tensor(2**31 - 1, dtype=torch.int32),
        )
    return changes


NUMBERS = {
    float: (0.5, 0.0, -1.0, math.nan, -math.inf, math.inf, 1e300),
    int: (0, -1, 2, 5, 7, 1 << 31, 1 << 62, -(1 << 62)),
    tuple: ([0, 0], [-1, 1], [1], [], [1, 1, 1], [1 << 31, 1], [1 << 62, 1 << 62], [-(1 << 62), 1], [3, 1 << 40]),
    bool: (False,),
}


PLACES = [(name, i) for name, arguments in GOOD.items() for i in range(len(arguments))]


def _changes_of(a) -> list:
    return list(_changed_tensor(a).values()) if isinstance(a, Tensor) else list(NUMBERS[type(a)])


def _agrees_with_blocked(name: str, arguments: tuple, monkeypatch) -> None:
    """The same operator without compiled code."""
    got = getattr(linf, name)(*arguments)
    with monkeypatch.context() as without:
        without.setattr(cpu, "takes", lambda p, *tensors: False)
        expected = getattr(linf, name)(*arguments)
    for y, z in zip(
        (got,) if isinstance(got, Tensor) else got, (expected,) if isinstance(expected, Tensor) else expected
    ):
        torch.testing.assert_close(y, z, rtol=1e-4, atol=1e-4, equal_nan=True)


def test_every_operator_is_changed():
    operators = {
        name.removeprefix("linf::") for name in torch._C._dispatch_get_all_op_names() if name.startswith("linf::")
    }
    # The others are made of PyTorch's own operators only, which check their arguments themselves.
    assert operators - {"affine", "gathered", "largest", "elu", "softplus"} == set(GOOD)


@pytest.mark.parametrize("name, place", PLACES, ids=[f"{name}-{i}" for name, i in PLACES])
def test_a_changed_argument_is_refused_or_computed_rightly(name, place, monkeypatch):
    for value in _changes_of(GOOD[name][place]):
        _refused_or_right(name, place, value, monkeypatch)


def _refused_or_right(name: str, place: int, value, monkeypatch) -> None:
    arguments = list(GOOD[name])
    arguments[place] = value
    try:
        got = getattr(linf, name)(*arguments)
    except (ValueError, TypeError) as error:
        assert len(str(error)) > 10
        refused = True
    else:
        refused = False
        if name.startswith("box") and "backward" in name and isinstance(value, float) and value == math.inf:
            assert got[0].shape == arguments[2].shape  # it needs outputs at p = ∞; these are none
        elif not any(isinstance(a, Tensor) and a.is_meta for a in arguments):
            _agrees_with_blocked(name, arguments, monkeypatch)
        else:  # the only tensor is on the meta device
            assert name in ("tanh", "max_min") and got.is_meta
    # The answer is the same under tracing, with only shapes, and for a gradient.
    if any(isinstance(a, Tensor) and a.layout is not torch.strided for a in arguments):
        assert refused
        return
    metas = [a.to("meta") if isinstance(a, Tensor) else a for a in arguments]
    on_devices = isinstance(value, Tensor) and value.is_meta
    wrong_index = (name, place) == ("index_backward", 2) or (
        isinstance(value, Tensor) and value.dtype == torch.int32 and value.shape == GOOD[name][place].shape
    )
    if not on_devices and not wrong_index:
        if refused:
            with pytest.raises((ValueError, TypeError)):
                getattr(linf, name)(*metas)
        else:
            getattr(linf, name)(*metas)
    leaves = [a.clone().requires_grad_() if isinstance(a, Tensor) and a.is_floating_point() else a for a in arguments]
    without_data = (name, place) == ("index_backward", 2)  # it has no coordinates, so nothing is scattered
    if refused and not without_data and any(isinstance(a, Tensor) and a.requires_grad for a in leaves):
        # On this way, PyTorch's own scatter checks the entries of an index.
        with pytest.raises((ValueError, TypeError, *((RuntimeError,) if wrong_index else ()))):
            getattr(linf, name)(*leaves)


def test_random_combinations_of_changes():
    """Several arguments change at once, as when a caller confuses tensors."""
    choose = random.Random(0)
    refused = 0
    for _ in range(400):
        name = choose.choice(list(GOOD))
        arguments = list(GOOD[name])
        for i in choose.sample(range(len(arguments)), choose.randint(1, min(3, len(arguments)))):
            a = arguments[i]
            arguments[i] = choose.choice(_changes_of(a))
        try:
            getattr(linf, name)(*arguments)
        except (ValueError, TypeError):
            refused += 1
    assert refused > 300


FAULTS = {
    "w of other columns": (lambda: linf.dist(torch.rand(2, 4_000_000), torch.rand(3, 4), math.inf), "w has 4 columns"),
    "rows of other columns": (lambda: linf.dist(torch.rand(2, 4), torch.rand(3, 5), math.inf), "w has 5 columns"),
    "two dtypes": (lambda: linf.dist(torch.rand(2, 4), torch.rand(3, 4).double(), math.inf), "w is torch.float64"),
    "p below 1": (lambda: linf.dist(torch.rand(2, 4), torch.rand(3, 4), 0.5), "p must"),
    "unequal ends": (
        lambda: linf.box_dist(torch.rand(2, 4), torch.rand(1, 4), torch.rand(3, 4), math.inf),
        "upper must",
    ),
}


@pytest.mark.parametrize("call, message", FAULTS.values(), ids=FAULTS)
def test_calls_that_read_elsewhere_are_refused(call, message):
    with pytest.raises((ValueError, TypeError), match=message):
        call()


def test_layers_whose_weights_were_exchanged_are_refused():
    conv = LinfDistConv2d(4, 3, 3)
    conv.weight = torch.nn.Parameter(torch.rand(3, 2, 3, 3))
    linear = LinfDistLinear(4, 3)
    linear.weight = torch.nn.Parameter(torch.rand(3, 2))
    for layer, x in ((conv, torch.rand(2, 4, 5, 5)), (linear, torch.rand(2, 4))):
        with pytest.raises(ValueError, match="w"):
            layer(x)
        with pytest.raises(ValueError, match="w"):
            torch.export.export(layer, (x,))
        with pytest.raises(Exception, match="w"):
            torch.jit.trace(layer, x)


@pytest.mark.parametrize("name", [name for name in GOOD if "index" in name and "backward" in name])
def test_an_index_that_names_no_coordinate_is_refused_by_every_kernel(name, monkeypatch):
    arguments = list(GOOD[name])
    features = 5 if name == "index_backward" else math.prod(arguments[3])
    for wrong in (4 * features, 4 * features + 1, 2**31 - 1):
        arguments[1] = GOOD[name][1].clone()
        arguments[1].flatten()[-1:].fill_(wrong)
        with pytest.raises(ValueError, match="index must hold values below"):
            getattr(linf, name)(*arguments)
        with monkeypatch.context() as without:
            without.setattr(cpu, "takes", lambda p, *tensors: False)
            with pytest.raises(ValueError, match="index must hold values below"):
                getattr(linf, name)(*arguments)


def test_views_of_every_kind_are_read_as_they_are():
    """Negative, conjugate and broadcast views, and storages with an offset."""
    z = torch.randn(6, 5, dtype=torch.complex64).conj()
    x, w = z.imag[:3], z.real[3:]
    assert x.is_neg()
    assert torch.equal(linf.dist(x, w, math.inf), blocked.dist(x.clone(), w.clone(), math.inf))
    row = torch.rand(1, 5)
    assert torch.equal(linf.dist(row.expand(3, 5), w, math.inf)[0], linf.dist(row, w, math.inf)[0])
    shape, w_shape, conv = CONVS["everything"]
    image = torch.rand(1, *shape[1:]).expand(shape)
    kernels = torch.rand(w_shape)
    y = linf.dist_conv2d(image, kernels, math.inf, *conv)
    assert torch.equal(y[0], y[1]) and y.shape == conv.output_shape(shape, w_shape)
