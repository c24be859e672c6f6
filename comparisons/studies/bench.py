"""Times the distance operators beside their peers and refuses to time one that is wrong.

``run`` returns plain data; ``bench_report.table`` and ``plots.cost`` read that alone.
"""

import functools
import math
import os
import platform
import re
import timeit
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch._functorch.config
import torch.nn.functional as F
from torch import Tensor
from torch.utils import benchmark
from tqdm import tqdm

from linf_plugin import ops
from linf_plugin.kernels import blocked, cpu, gpu, reference

# ``pixels`` makes a convolution, of images of that height and width, padded so that they keep it.
CASES = {
    "overhead": {"batch": 16, "in": 16, "out": 16},
    "small": {"batch": 128, "in": 64, "out": 256},
    "medium": {"batch": 512, "in": 1024, "out": 1024},
    "large": {"batch": 512, "in": 5120, "out": 5120},
    "conv": {"batch": 32, "in": 64, "out": 64, "pixels": 32, "kernel": 3},
}
SWEEPS = {  # what the picture shows
    "width": [{"batch": 128, "in": 2**k, "out": 2**k} for k in range(6, 14)],
    "batch": [{"batch": 4**k, "in": 1024, "out": 1024} for k in range(7)],
}
SWEEP_PEERS = ("ours", "cdist", "matmul")
KERNELS = {"cpu": cpu, "cuda": gpu}  # what ours are
DIRECTIONS = ("forward", "training", "backward")  # training: a forward pass that prepares the backward one

# Dynamic is as fast here, and one compilation serves all sizes.  A partial graph would run as if not compiled.
COMPILER = {"backend": "inductor", "dynamic": True, "fullgraph": True}
READING_SECONDS = 0.01  # calls shorter than this are timed several at a time
FIRST_PAIRS = 1 << 22  # coordinate pairs of the first call of a slow peer
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


def _function(peer: str, case: dict) -> Callable:
    if "pixels" not in case:
        return PEERS[peer]["dense"]
    return PEERS[peer].get("conv") or functools.partial(_over_windows, PEERS[peer]["dense"])


# The problem.


def size_of(case: dict) -> str:
    if "pixels" in case:
        return f"conv {case['batch']}×{case['in']}→{case['out']}, {case['pixels']}², k{case['kernel']}"
    return f"{case['batch']}×{case['in']}×{case['out']}"


def _counts(case: dict) -> tuple[int, int, int]:
    """Windows of a sample, coordinates of a window, coordinate pairs of a sample."""
    windows, features = case.get("pixels", 1) ** 2, case["in"] * case.get("kernel", 1) ** 2
    return windows, features, windows * features * case["out"]


def _tensors(case: dict, rows: int, device: str) -> tuple[Tensor, Tensor]:
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
    x, w = (a.requires_grad_() for a in _tensors(case, case["batch"], device))
    y = _function("ours", case)(x, w, p)
    windows, features, _ = _counts(case)
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


# The clock.


def _free_bytes(device: str) -> float:
    """Memory that can still be had: of the GPU, or of the machine and the container this runs in."""
    if device == "cuda":
        return torch.cuda.mem_get_info()[0]
    free = [math.inf]
    try:
        free.append(1024 * int(re.search(r"MemAvailable:\s+(\d+)", Path("/proc/meminfo").read_text())[1]))
        group = Path("/sys/fs/cgroup")
        free.append(int((group / "memory.max").read_text()) - int((group / "memory.current").read_text()))
    except (OSError, TypeError, ValueError):  # another system, or no limit
        pass
    return min(free)


def _seconds(call: Callable, number: int = 1) -> float:
    return timeit.timeit(call, number=number, timer=benchmark.timer)  # this clock waits for a GPU


def _call(peer: str, case: dict, p: float, direction: str, rows: int, device: str) -> Callable:
    """What is timed."""
    x, w = _tensors(case, rows, device)
    function = _function(peer, case)
    if direction != "forward":
        x.requires_grad_(), w.requires_grad_()
    if direction != "backward":
        return lambda: function(x, w, p)
    y = function(x, w, p)
    grad = torch.randn_like(y)
    return lambda: torch.autograd.grad(y, (x, w), grad, retain_graph=True)


def _prepare(peer: str, case: dict, p: float, direction: str, device: str, seconds: float, full: bool) -> dict:
    """A call on the whole batch, or of a slow peer on a slice that takes ``2·seconds``.

    ``first`` has the rows and seconds of a call on at most a quarter of that slice.  Raises MemoryError where the
    whole batch would not fit.
    """
    batch, pairs = case["batch"], _counts(case)[2]
    needed = batch * pairs * (PEERS[peer]["bytes"](p, direction, device) if "bytes" in PEERS[peer] else 0)
    if needed > (free := _free_bytes(device)):
        raise MemoryError(f"needs {needed / 1e9:.0f} GB of memory, {free / 1e9:.0f} GB are free")
    rows = min(batch, max(2, FIRST_PAIRS // pairs)) if PEERS[peer].get("slow") else batch
    call = _call(peer, case, p, direction, rows, device)
    result = call()  # compiles and warms up
    once = min(_seconds(call) for _ in range(3 if rows < batch else 1))
    first = rows, once
    while rows < batch and (full or once < 2 * seconds or rows == first[0]):
        rows = math.ceil(rows * min(16, max(4, 2.5 * seconds / once)))
        rows = batch if full or 2 * rows > batch else rows
        call = _call(peer, case, p, direction, rows, device)
        once = _seconds(call)
    finite = all(a.isfinite().all().item() for a in (result if isinstance(result, tuple) else (result,)))
    return {"call": call, "rows": rows, "first": first, "finite": finite, "readings": [once]}


def _whole(reading: float, job: dict, batch: int) -> float:
    """The time of the whole batch from that of a slice.

    Further rows cost what the slice cost beyond the first few: what does not depend on the rows, as writing the
    gradient of w, is spent once.  That is at most half of the slice, whatever the noise says.
    """
    rows, (few, first) = job["rows"], job["first"]
    each = reading / rows if rows == few else max((reading - first) / (rows - few), reading / rows / 2)
    return reading + (batch - rows) * each


def _measure(
    peers: tuple[str, ...], case: dict, p: float, direction: str, device: str, seconds: float, full: bool
) -> dict[str, dict]:
    """Times each peer for about ``seconds``, in turns.  One that cannot run says why."""
    jobs, times = {}, {}
    for peer in peers:
        try:
            jobs[peer] = _prepare(peer, case, p, direction, device, seconds, full)
        except (RuntimeError, MemoryError) as error:  # no compiler, no memory
            if peer == "ours":
                raise
            reason, _, _ = str(error).partition("\n\n")  # what follows is advice
            times[peer] = {"median": None, "reason": " ".join(reason.split()) or type(error).__name__}
    left = {peer: seconds if job["readings"][0] < 10 * seconds else 0 for peer, job in jobs.items()}
    while active := [peer for peer in jobs if left[peer] > 0]:
        for peer in active:
            readings = jobs[peer]["readings"]
            number = math.ceil(READING_SECONDS / readings[-1])
            left[peer] -= (spent := _seconds(jobs[peer]["call"], number))
            readings.append(spent / number)
    for peer, job in jobs.items():
        readings = job["readings"][1:] or job["readings"]
        low, median, high = (_whole(q, job, case["batch"]) for q in np.quantile(readings, (0.25, 0.5, 0.75)).tolist())
        times[peer] = {
            "median": median,
            "quartiles": [low, high],
            "readings": readings,
            "rows": job["rows"],
            "first": job["first"],
            "scaled": job["rows"] < case["batch"],
            "finite": job["finite"],
        }
    return {peer: times[peer] for peer in peers}


def _ceiling(p: float, direction: str, device: str) -> float | None:
    """Coordinate pairs a second of a loop on registers alone; None where there is no arithmetic or no kernel."""
    kernels, backward = KERNELS[device], direction == "backward"
    if not kernels.available()[0] or (backward and p == math.inf):
        return None
    return kernels.ceiling(p, backward=backward)


def _machine(device: str) -> dict:
    """What the times depend on."""
    try:
        processor = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())[1]
    except (OSError, TypeError):
        processor = platform.processor() or platform.machine()
    usable, kernels = KERNELS[device].available()
    return {
        "device": device,
        "processor": torch.cuda.get_device_name() if device == "cuda" else processor,
        "kernels": kernels if usable else f"blocked PyTorch ({kernels})",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": platform.system(),
        "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY"),
    }


def run(
    cases: list[dict],
    exponents: list[float],
    *,
    sweeps: bool = False,
    device: str = "cpu",
    seconds: float = 0.5,
    full: bool = False,
    progress: bool = True,
    peers: tuple[str, ...] | None = None,
) -> dict:
    """A row for each p, case and direction, and what was refused as wrong: plain data.

    peers: of ``PEERS``, "ours" among them, those that the cases are timed with; all by default.
    """
    work = [("table", case, peers or tuple(PEERS)) for case in cases]
    if sweeps:
        work += [(kind, case, SWEEP_PEERS) for kind, sweep in SWEEPS.items() for case in sweep]
    results = {
        "machine": _machine(device),
        "seconds": seconds,
        "full": full,
        "wrong": [],
        "rows": [],
        "titles": {peer: about["title"] for peer, about in PEERS.items()},
    }
    # Buffers that a compiled backward pass gives away could not be used a second time.
    with (
        tqdm(total=len(exponents) * len(work), disable=not progress, leave=False) as bar,
        torch._functorch.config.patch(donated_buffer=False),
    ):
        for p in exponents:
            torch.compiler.reset()  # one function is compiled only so many times
            for kind, case, beside in work:
                bar.set_description(f"p = {p:g}, {size_of(case)}")
                wrong = deviation(case, p, device)
                results["wrong"] += [wrong] if wrong else []
                for direction in () if wrong else DIRECTIONS:
                    if direction == "training" and (p < math.inf or kind != "table"):
                        continue  # the same as forward
                    some = ("ours",) if direction == "training" else beside
                    results["rows"].append(
                        {
                            "kind": kind,
                            "p": f"{p:g}",
                            "size": size_of(case),
                            "case": case,
                            "direction": direction,
                            "pairs": case["batch"] * _counts(case)[2],
                            "times": _measure(some, case, p, direction, device, seconds, full),
                            "ceiling": _ceiling(p, direction, device),
                        }
                    )
                bar.update()
    return results
