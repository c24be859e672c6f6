"""The CUDA kernels: ``reference``'s distances on float32 and float64 tensors of any strides, on any CUDA GPU.

``takes`` says whether the kernels accept given tensors.  If they do not, ``blocked`` computes the same more slowly.
It always computes the distances of boxes.  torch for CUDA brings the compiler and the launcher; see ``cuda``.
"""

import functools
import math
import warnings

import torch
import torch.nn.functional as F
from torch import Tensor

from ..arguments import MOST_FEATURES
from . import blocked, cuda

box_dist, box_dist_vjp = blocked.box_dist, blocked.box_dist_vjp  # so this module has every function of cpu

RANGE = 4096  # coordinates that a block of ``scatter`` takes
MOST_WHOLE = 1024  # whole exponents up to here are computed by products
MOST_P = 1e30  # finite in float32; for a larger p, the distance equals that at p = ∞
MOST_BLOCKS, LEAST_PART = 256, 512  # limits for how ``_splits`` splits a sum

_TYPES = {torch.float32: "float", torch.float64: "double"}
# The results that one thread computes: the estimated time for a pair, as a multiple of the time of its arithmetic.
# Smaller tiles read more often.
TILES = {torch.float32: {(8, 8): 1.08, (8, 4): 1.15, (4, 4): 1.4, (2, 2): 2.5}, torch.float64: {(2, 2): 2.5}}


def available(index: int | None = None) -> tuple[bool, str]:
    """Returns whether the kernels can be used on a GPU, and their target or the reason why they cannot be used.

    The default is the current GPU.  The kernels can be used if a few distances at p = ∞ and their gradients are equal
    to those of ``blocked``.
    """
    if not torch.cuda.is_available():
        return False, "no CUDA device"
    try:
        device = cuda.device(torch.cuda.current_device() if index is None else index)
        wrong = _probe(f"cuda:{device.index}")
        return (False, wrong) if wrong else (True, f"compiled for {device.target}")
    except Exception as error:  # any fault of packages, compiler or driver; blocked needs none of them
        return False, " ".join(str(error).split())


def _probe(device: str) -> str | None:
    """Returns None if the kernels give the same bits as ``blocked`` on the CPU, else what is wrong."""
    x, w = (torch.arange(n * 37, device="cpu").remainder(m).float().view(n, 37) for n, m in ((5, 11), (7, 13)))
    y, index = dist_with_index(x.to(device), w.to(device))
    found = y, index, *index_vjp(y, index, x.shape[1])  # these are whole numbers, so their sums are exact
    y, index = blocked.dist_with_index(x, w)
    expected = y, index, *blocked.index_vjp(y, index, x.shape[1])
    if not all(a is not None and torch.equal(a.cpu(), b) for a, b in zip(found, expected)):
        return "the kernels compute wrong results on this GPU"
    return None


@functools.cache
def _usable(index: int) -> bool:
    """Returns what ``available`` says, and warns once if the kernels cannot be used.

    Raises RuntimeError while a CUDA graph is captured.  A graph cannot capture a call that compiles and reads results,
    and that failure must not look like a GPU without kernels.
    """
    if cuda.capturing():
        raise RuntimeError("a CUDA graph cannot capture the first distance on a GPU: compute one before the capture")
    usable, reason = available(index)
    if not usable:
        warnings.warn(
            f"linf_plugin runs many times slower, without its GPU kernels: {reason}", RuntimeWarning, stacklevel=2
        )
    return usable


def takes(p: float, *tensors: Tensor) -> bool:
    """Returns whether the kernels take these tensors: they must be on one GPU, all float32 or all float64, and p ≥ 1.

    It is also False if the kernels cannot be compiled, or if the rows are too long for an index.
    """
    first = tensors[0]
    return (
        first.device.type == "cuda"
        and first.dtype in _TYPES
        and all(a.device == first.device and a.dtype == first.dtype for a in tensors)
        and p >= 1
        and first.shape[-1] < MOST_FEATURES
        and _usable(first.device.index)
    )


# What to launch.


def _parts(n: int, step: int) -> int:
    return -(-n // step)


def tile(rows: int, columns: int, tiles: dict[tuple[int, int], float], processors: int) -> tuple[int, int, int]:
    """Returns the height and the width of the best tile, and the number of blocks for rows × columns results.

    The best tile is the one with which the busiest multiprocessor finishes earliest.  No result depends on the tile.
    """
    blocks = {t: _parts(rows, 16 * t[0]) * _parts(columns, 16 * t[1]) for t in tiles}
    best = min(tiles, key=lambda t: _parts(blocks[t], processors) * math.prod(t) * tiles[t])
    return *best, blocks[best]


def _tiles(dtype: torch.dtype, largest: bool) -> dict[tuple[int, int], float]:
    return {t: cost for t, cost in TILES[dtype].items() if largest or t != (8, 8)}


def _power(p: float) -> str:
    return "Maximum" if p == math.inf else f"Whole<{int(p)}>" if p <= MOST_WHOLE and p == int(p) else "Real"


def _packed(a: Tensor) -> Tensor:
    """Pads the rows of a with 0, so the kernels can read four numbers at a time: (R, C) → (R, C + 0…3)."""
    if a.shape[1] % 4:
        return F.pad(a, (0, -a.shape[1] % 4))
    a = a.contiguous()
    return a if a.data_ptr() % 16 == 0 else a.clone()


def _dist(x: Tensor, w: Tensor, p: float, y: Tensor, index: Tensor | None = None) -> None:
    """Fills y and, at p = ∞, the index.  No tensor may be empty.

    A finite p first needs the distance at p = ∞, by which it scales.  The kernel ``again`` then repeats the pairs that
    this cannot scale.
    """
    n, out, kind = len(x), len(w), _TYPES[x.dtype]
    x, w = _packed(x), _packed(w)
    for power in dict.fromkeys(("Maximum", _power(p))):
        # The scale, or the numbers that locate needs, take registers that the largest tile would need.
        tiles = _tiles(x.dtype, largest=power == "Maximum" and index is None)
        tm, tn, blocks = tile(n, out, tiles, cuda.device(x.device.index).multiprocessors)
        kernel = f"dist<{kind}, {power}, {tm}, {tn}, {str(index is not None).lower()}>"
        cuda.launch(kernel, blocks, x, w, y, index, n, out, x.shape[1], float(min(p, MOST_P)))
    if p < math.inf:
        blocks = _parts(n * out, cuda.THREADS)
        cuda.launch(f"again<{kind}, {_power(p)}>", blocks, x, w, y, n, out, x.shape[1], float(min(p, MOST_P)))
    if index is not None:
        cuda.launch(f"locate<{kind}>", _parts(n * out, cuda.THREADS // 32), x, w, y, index, n, out, x.shape[1])


def dist(x: Tensor, w: Tensor, p: float) -> Tensor:
    """``reference.dist``."""
    y = x.new_empty(len(x), len(w))
    if x.shape[1] == 0:
        return y.zero_()
    if y.numel():
        _dist(x, w, p, y)
    return y


def dist_with_index(x: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    """``cpu.dist_with_index``."""
    y = x.new_empty(len(x), len(w))
    index = torch.empty_like(y, dtype=torch.int32)
    if x.shape[1] == 0:
        return y.zero_(), index.fill_(-1)
    if y.numel():
        _dist(x, w, math.inf, y, index)
    return y, index


def _scatter(grad: Tensor, index: Tensor, features: int, sign: float) -> Tensor:
    """Returns the gradient (R, features) for the rows of grad and index (R, K)."""
    (rows, count), grad, index = grad.shape, grad.contiguous(), index.contiguous()
    to = grad.new_empty(rows, features)
    if to.numel():
        blocks = rows * _parts(features, RANGE)
        cuda.launch(f"scatter<{_TYPES[grad.dtype]}>", blocks, grad, index, to, rows, count, features, sign)
    return to


def index_vjp(
    grad: Tensor, index: Tensor, features: int, wanted: tuple[bool, bool] = (True, True)
) -> tuple[Tensor | None, Tensor | None]:
    """``cpu.index_vjp``."""
    return (
        _scatter(grad, index, features, 1.0) if wanted[0] else None,
        _scatter(grad.t(), index.t(), features, -1.0) if wanted[1] else None,
    )


def _splits(rows: int, width: int, count: int) -> int:
    """Returns into how many sums to split a sum of ``count`` terms, so that a few results also keep a GPU busy.

    It depends only on the sizes, because it decides the order of additions.
    """
    return max(1, min(count // LEAST_PART, MOST_BLOCKS // (_parts(rows, 64) * _parts(width, 64))))


def _gradient(own: Tensor, other: Tensor, grad: Tensor, y: Tensor, p: float) -> Tensor:
    """Returns the gradient of own (R, in), from other (K, in) and from grad and y (K, R) of their pairs."""
    (rows, features), count = own.shape, len(other)
    if 0 in (rows, features, count):
        return torch.zeros_like(own)
    own, other, grad, y = map(_packed, (own, other, grad, y))
    width, splits = own.shape[1], _splits(rows, own.shape[1], count)
    to = own.new_empty(splits, rows, width)
    processors = max(1, cuda.device(own.device.index).multiprocessors // splits)
    tm, tn, blocks = tile(rows, width, _tiles(own.dtype, largest=False), processors)
    kernel = f"dist_vjp<{_TYPES[own.dtype]}, {_power(p)}, {tm}, {tn}>"
    sizes = (rows, count, width, grad.shape[1], splits)
    cuda.launch(kernel, blocks * splits, own, other, grad, y, to, *sizes, float(min(p, MOST_P)))
    to = to[0] if splits == 1 else to.sum(0)
    return to[:, :features].contiguous()


def dist_vjp(
    grad: Tensor, x: Tensor, w: Tensor, y: Tensor, p: float, wanted: tuple[bool, bool] = (True, True)
) -> tuple[Tensor | None, Tensor | None]:
    """``reference.dist_vjp``; a gradient is None if it is not wanted."""
    if p == math.inf:
        return index_vjp(grad, dist_with_index(x, w)[1], x.shape[1], wanted)
    return (
        _gradient(x, w, grad.t(), y.t(), p) if wanted[0] else None,
        _gradient(w, x, grad, y, p) if wanted[1] else None,
    )


def ceiling(p: float, backward: bool = False) -> float:
    """Measures how many coordinate pairs a second the current GPU computes in float32 with data in registers only.

    The arithmetic is that of ``dist`` (both passes for a finite p) or of ``dist_vjp`` (both gradients).  The
    measurement takes some tenths of a second.

    Raises ValueError for p < 1, and for the gradient at p = ∞, which is a scatter without arithmetic.
    """
    if not p >= 1:
        raise ValueError(f"p must be at least 1, got {p}")
    if backward and p == math.inf:
        raise ValueError("backward: at p = ∞ the gradient is a scatter, which has no arithmetic to measure")
    powers = [_power(p)] if backward else list(dict.fromkeys(("Maximum", _power(p))))
    blocks, steps = 8 * torch.cuda.get_device_properties().multi_processor_count, 4096
    to, seconds = torch.rand(blocks * cuda.THREADS, device="cuda"), 0.0
    for power in powers:
        kernel, times = f"ceiling<float, {power}, {str(backward).lower()}>", []
        for _ in range(6):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            cuda.launch(kernel, blocks, to, steps, 0.0, float(min(p, MOST_P)))
            end.record()
            end.synchronize()
            times.append(start.elapsed_time(end) / 1e3)
        seconds += sorted(times[1:])[len(times[1:]) // 2]  # the median, without the first, which compiles
    return blocks * cuda.THREADS * 64 * steps / (2 * seconds if backward else seconds)
