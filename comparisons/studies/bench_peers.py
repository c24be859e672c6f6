"""Our operators and their peers, which the study ``bench`` times, and a check that ours are right."""

import functools
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from linf_plugin import ops
from linf_plugin.kernels import blocked, reference

# Dynamic shapes are as fast here, and one compilation serves all sizes.  A partial graph would run as slowly as
# without compilation.
COMPILER = {"backend": "inductor", "dynamic": True, "fullgraph": True}
CHECK_PAIRS = 1 << 22  # coordinate pairs compared with the specification


# The competitors.


class _Formula(torch.autograd.Function):
    """Makes a distance differentiable.  Both it and its gradient have the signatures of ``reference``."""

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
    """Returns the distance in the usual form for a compiler: one pass, in which powers may overflow."""
    t = x[:, None] - w
    return t.abs().amax(-1) if p == math.inf else torch.linalg.vector_norm(t, p, -1)


@functools.cache
def _compiled() -> Callable:
    return torch.compile(_broadcast, **COMPILER)


def _over_windows(distance: Callable, x: Tensor, w: Tensor, p: float) -> Tensor:
    """Returns ``distance`` between every window of the images x and the kernels w.  The images keep their size."""
    windows = F.unfold(x, w.shape[2:], padding=w.shape[-1] // 2).transpose(1, 2).flatten(0, 1)
    y = distance(windows, w.flatten(1), p)
    return y.unflatten(0, (len(x), -1)).transpose(1, 2).unflatten(2, x.shape[2:])


# ``slow``: may take minutes, so only a slice of the batch is timed.  ``bytes``: memory for each coordinate pair, if a
# peer stores all pairs.
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
    """Returns the numbers of windows of a sample, coordinates of a window, and coordinate pairs of a sample."""
    windows, features = case.get("pixels", 1) ** 2, case["in"] * case.get("kernel", 1) ** 2
    return windows, features, windows * features * case["out"]


def tensors(case: dict, rows: int, device: str) -> tuple[Tensor, Tensor]:
    """Returns the first rows of x, and w.  Both are normally distributed."""
    generator = torch.Generator(device).manual_seed(0)
    images, kernel = ([case[key]] * 2 if key in case else [] for key in ("pixels", "kernel"))
    w = torch.randn(case["out"], case["in"], *kernel, device=device, generator=generator)
    return torch.randn(rows, case["in"], *images, device=device, generator=generator), w


def deviation(case: dict, p: float, device: str) -> str | None:
    """Returns what is wrong with our operator on this case, or None.

    It computes the whole case.  It compares some rows of x and w, always the first and the last, with ``reference``:
    in float64, but at p = ∞ in float32, where every bit must agree.  The incoming gradient is −1, 0 or 1 for these
    rows and 0 elsewhere.  So at p = ∞ all sums are exact.
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

    # In units of eps/2, a distance loses 4 in a difference, a division, a root and a product, and features/p in a sum
    # in any order.  A gradient is the power p − 1 of a ratio of two such numbers.  A sum has up to ``terms`` of them.
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
