"""What the study ``bench`` times: our operators, their peers, and whether ours are right."""

import functools
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from linf_plugin import ops
from linf_plugin.kernels import blocked, reference

# Dynamic is as fast here, and one compilation serves all sizes.  A partial graph would run as if not compiled.
COMPILER = {"backend": "inductor", "dynamic": True, "fullgraph": True}
CHECK_PAIRS = 1 << 22  # coordinate pairs compared with the specification


# The competitors.


class _Formula(torch.autograd.Function):
    """A distance and its gradient, functions with the signatures of ``reference``, made differentiable."""

    @staticmethod
    def forward(ctx, dist, vjp, x, w, p):
        y = dist(x, w, p)
        ctx.save_for_backward(x, w, y)
        ctx.p, ctx.vjp = p, vjp
        return y

    @staticmethod
    def backward(ctx, grad):
        return None, None, *ctx.vjp(grad, *ctx.saved_tensors, ctx.p), None


def _broadcast(x: Tensor, w: Tensor, p: float) -> Tensor:
    """The distance as one writes it for a compiler: one pass, whose powers may overflow."""
    t = x[:, None] - w
    return t.abs().amax(-1) if p == math.inf else torch.linalg.vector_norm(t, p, -1)


@functools.cache
def _compiled() -> Callable:
    return torch.compile(_broadcast, **COMPILER)


def _over_windows(distance: Callable, x: Tensor, w: Tensor, p: float) -> Tensor:
    """``distance`` between every window of the images x and the kernels w; the images keep their size."""
    windows = F.unfold(x, w.shape[2:], padding=w.shape[-1] // 2).transpose(1, 2).flatten(0, 1)
    y = distance(windows, w.flatten(1), p)
    return y.unflatten(0, (len(x), -1)).transpose(1, 2).unflatten(2, x.shape[2:])


# ``slow``: may take minutes, so that a slice of the batch stands for it.  ``bytes``: of memory for each coordinate
# pair, where a peer materialises them.
PEERS = {
    "ours": {
        "title": "ours",
        "dense": lambda x, w, p: ops.dist(x, w, p),
        "conv": lambda x, w, p: torch.ops.linf.dist_conv2d(x, w, p, [1, 1], [w.shape[-1] // 2] * 2, [1, 1], 1),
    },
    "cdist": {
        "title": "torch.cdist",
        "dense": lambda x, w, p: torch.cdist(x, w, p),
        "slow": True,
        "bytes": lambda p, direction, device: 4 * (direction == "backward" and device == "cuda"),
    },
    "blocked": {
        "title": "blocked",
        "slow": True,
        "dense": functools.partial(_Formula.apply, blocked.dist, blocked.dist_vjp),
    },
    "compile": {
        "title": "torch.compile",
        "dense": lambda x, w, p: _compiled()(x, w, p),
        "slow": True,
        "bytes": lambda p, direction, device: 4 * (direction == "backward" and p == math.inf),
    },
    "matmul": {
        "title": "matrix product",
        "dense": lambda x, w, p: F.linear(x, w),
        "conv": lambda x, w, p: F.conv2d(x, w, padding=w.shape[-1] // 2),
    },
}


def function_of(peer: str, case: dict) -> Callable:
    if "pixels" not in case:
        return PEERS[peer]["dense"]
    return PEERS[peer].get("conv") or functools.partial(_over_windows, PEERS[peer]["dense"])


# The problem.


def size_of(case: dict) -> str:
    if "pixels" in case:
        return f"conv {case['batch']}×{case['in']}→{case['out']}, {case['pixels']}², k{case['kernel']}"
    return f"{case['batch']}×{case['in']}×{case['out']}"


def counts(case: dict) -> tuple[int, int, int]:
    """Windows of a sample, coordinates of a window, coordinate pairs of a sample."""
    windows, features = case.get("pixels", 1) ** 2, case["in"] * case.get("kernel", 1) ** 2
    return windows, features, windows * features * case["out"]


def tensors(case: dict, rows: int, device: str) -> tuple[Tensor, Tensor]:
    """The first rows of x, and w, normally distributed."""
    generator = torch.Generator(device).manual_seed(0)
    images, kernel = ([case[key]] * 2 if key in case else [] for key in ("pixels", "kernel"))
    w = torch.randn(case["out"], case["in"], *kernel, device=device, generator=generator)
    return torch.randn(rows, case["in"], *images, device=device, generator=generator), w


def deviation(case: dict, p: float, device: str) -> str | None:
    """What is wrong with our operator on this case, or None.

    It computes the whole case.  Some rows of x and w, the first and the last among them, are compared with
    ``reference``: in float64, but in float32 at p = ∞, where every bit must agree.  The gradient that is fed in
    is −1, 0 or 1 there and 0 elsewhere, so that at p = ∞ all sums are exact.
    """
    x, w = (a.requires_grad_() for a in tensors(case, case["batch"], device))
    y = function_of("ours", case)(x, w, p)
    windows, features, _ = counts(case)
    n = min(len(x), math.isqrt(CHECK_PAIRS // (windows * features)) or 1)
    k = min(len(w), CHECK_PAIRS // (windows * features * n) or 1)
    i, k = (torch.linspace(0, len(a) - 1, count, device=device).long() for a, count in ((x, n), (w, k)))
    grad, some = torch.zeros_like(y), (i[:, None], k)
    grad[some] = torch.randint(-1, 2, y[some].shape, device=device).to(y)
    gx, gw = torch.autograd.grad(y, (x, w), grad)

    dtype = torch.float32 if p == math.inf else torch.float64
    xs, ws = (a.detach()[at].to(dtype).requires_grad_() for a, at in ((x, i), (w, k)))
    formula = functools.partial(_Formula.apply, reference.dist, reference.dist_vjp)
    ys = _over_windows(formula, xs, ws, p) if "pixels" in case else formula(xs, ws, p)
    gxs, gws = torch.autograd.grad(ys, (xs, ws), grad[some].to(dtype))

    # In units of eps/2, a distance loses 4 by difference, division, root and product, and features/p by a sum in
    # any order.  A gradient is the power p − 1 of a ratio of two such numbers; up to ``terms`` of them are added.
    eps = 0.0 if p == math.inf else torch.finfo(y.dtype).eps
    terms = max(len(i) * windows, len(k) * case.get("kernel", 1) ** 2)
    value = eps * (4 + features / p)
    gradient = terms * (p * (value + 2 * eps) + eps * terms) if eps else 0.0
    for name, ours, exact, allowed in (
        ("distance", y[some], ys, value * ys.abs()),
        ("gradient of x", gx, torch.zeros_like(gx, dtype=dtype).index_copy(0, i, gxs), gradient),
        ("gradient of w", gw, torch.zeros_like(gw, dtype=dtype).index_copy(0, k, gws), gradient),
    ):
        error = (ours.to(dtype) - exact).abs()
        if not (error <= allowed).all():  # NaN is an error too
            return f"p = {p:g}, {size_of(case)}: the {name} is off by up to {error.max().item():.3g}; not timed"
    return None
