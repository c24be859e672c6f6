"""The compiled CPU kernels: ``reference``'s functions on float32 and float64 CPU tensors of any strides.

They are in a library with a plain C interface.  This module calls it through ctypes, and the first call loads it.
``takes`` says whether the library accepts given tensors.  If it does not, ``blocked`` computes the same more slowly.

The environment variable ``LINF_CPU_LEVEL`` names the instruction set to use (``avx512``, ``avx2``, ``baseline``).
Without it, the best one is used.
"""

import contextlib
import ctypes
import functools
import math
import os
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from ..arguments import MOST_FEATURES
from .geometry import Geometry

ABI = 3
LIBRARY = Path(__file__).with_name("libcpu.so")
REBUILD = "reinstall the package (pip install .) on a machine that has a C++ compiler"

_DTYPES = {torch.float32: 0, torch.float64: 1}
_POINTERS = {  # function: the number of tensors that it takes after its sizes
    "linf_dist": 4,
    "linf_dist_vjp": 6,
    "linf_scatter": 4,
    "linf_box_dist": 5,
    "linf_box_dist_vjp": 10,
}


class _Kernels:
    """The loaded library, and the number of the instruction set in use."""

    def __init__(self) -> None:
        if not LIBRARY.exists():
            raise OSError(f"{LIBRARY.name} was not built; {REBUILD}")
        self.lib = ctypes.CDLL(str(LIBRARY))
        abi = self.lib.linf_abi()
        if abi != ABI:
            raise OSError(f"{LIBRARY.name} has interface {abi}, this package needs {ABI}; {REBUILD}")
        self.lib.linf_level.restype = ctypes.c_char_p
        for name, pointers in _POINTERS.items():
            p = [] if name == "linf_scatter" else [ctypes.c_double]
            getattr(self.lib, name).argtypes = [
                *[ctypes.c_int] * 3,
                *[ctypes.c_int64] * 3,
                *p,
                *[ctypes.c_void_p] * pointers,
            ]
        for name in ("linf_unfold", "linf_add_folded"):
            function = getattr(self.lib, name)
            function.argtypes = [*[ctypes.c_int] * 2, *[ctypes.c_void_p] * 3]
            function.restype = None
        self.functions = {name: getattr(self.lib, name) for name in _POINTERS}
        self.lib.linf_ceiling.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_double, ctypes.c_int]
        self.lib.linf_ceiling.restype = ctypes.c_double
        self.levels = self._levels()
        self.level = self.check(os.environ.get("LINF_CPU_LEVEL") or next(iter(self.levels)))

    def check(self, level: str) -> str:
        if level not in self.levels:
            raise OSError(f"this machine has kernels for {', '.join(self.levels)}, but not for {level}")
        return level

    def _levels(self) -> dict[str, int]:
        """Returns the instruction sets of this machine and their numbers, best first."""
        names, level = {}, 0
        while (name := self.lib.linf_level(level)) is not None:
            if name:
                names[name.decode()] = level
            level += 1
        return names


@functools.cache
def _load() -> _Kernels | OSError:
    try:
        return _Kernels()
    except (OSError, AttributeError) as error:  # AttributeError: the file is another library
        return error if isinstance(error, OSError) else OSError(str(error))


@functools.cache
def _loaded() -> _Kernels:
    """Returns the kernels.  Raises OSError if they cannot be loaded."""
    kernels = _load()
    if isinstance(kernels, OSError):
        raise kernels
    return kernels


def available() -> tuple[bool, str]:
    """Returns whether the kernels can be used, and the instruction set in use or the reason why they cannot."""
    kernels = _load()
    return (False, str(kernels)) if isinstance(kernels, OSError) else (True, kernels.level)


def levels() -> list[str]:
    """Returns the instruction sets that this machine has and that the kernels were compiled for, best first."""
    kernels = _load()
    return [] if isinstance(kernels, OSError) else list(kernels.levels)


@contextlib.contextmanager
def using(level: str) -> Iterator[None]:
    """Makes the kernels of the whole process use this one of ``levels()`` until the context closes."""
    kernels = _loaded()
    before, kernels.level = kernels.level, kernels.check(level)
    try:
        yield
    finally:
        kernels.level = before


def ceiling(p: float, backward: bool = False, threads: int | None = None) -> float:
    """Measures how many coordinate pairs a second the inner loop for float32 computes with data in registers only.

    No kernel for p is faster, unless it leaves out terms.  The measurement takes some tens of milliseconds.
    The default of ``threads`` is torch's number of threads.

    Raises ValueError for p < 1, and for the gradient at p = ∞, which is a scatter without arithmetic.
    """
    if not p >= 1:
        raise ValueError(f"p must be at least 1, got {p}")
    if backward and p == math.inf:
        raise ValueError("backward: at p = ∞ the gradient is a scatter, which has no arithmetic to measure")
    kernels = _loaded()
    return kernels.lib.linf_ceiling(kernels.levels[kernels.level], threads or torch.get_num_threads(), p, backward)


@functools.cache
def _usable() -> bool:
    """Returns what ``available`` says, and warns once if the kernels cannot be used."""
    usable, reason = available()
    if not usable:
        warnings.warn(
            f"linf_plugin runs several times slower, without its CPU kernels: {reason}", RuntimeWarning, stacklevel=2
        )
    return usable


def takes(p: float, *tensors: Tensor) -> bool:
    """Returns whether the kernels take these tensors: they must be on the CPU, all float32 or all float64, and p ≥ 1.

    It is also False if the kernels were not built, or if the rows are too long for an index.
    """
    dtype = tensors[0].dtype
    if dtype not in _DTYPES or not p >= 1 or tensors[0].shape[-1] >= MOST_FEATURES:
        return False
    for a in tensors:  # a loop is fast, and this runs in every call
        if not a.is_cpu or a.dtype != dtype:
            return False
    return _usable()


def _call(name: str, sizes: tuple[int, int, int], p: tuple[float, ...], first: Tensor, *others: Tensor | None) -> None:
    """Calls ``name`` with contiguous tensors; None becomes a null pointer.  ``sizes`` is (N, out, in).

    Raises ValueError for an index that is too large, and MemoryError if the kernel gets no memory.
    """
    kernels = _loaded()
    failed = kernels.functions[name](
        kernels.levels[kernels.level],
        _DTYPES[first.dtype],
        torch.get_num_threads(),
        *sizes,
        *p,
        *[None if a is None else a.data_ptr() for a in (first, *others)],
    )
    if failed == 2:
        raise ValueError(f"index must hold values below 4·{sizes[2]}, for {sizes[2]} coordinates")
    if failed:
        raise MemoryError(f"{name}: no memory for (N, out, in) = {sizes}")


def _sizes(x: Tensor, w: Tensor) -> tuple[int, int, int]:
    return x.shape[0], w.shape[0], x.shape[1]


def dist(x: Tensor, w: Tensor, p: float) -> Tensor:
    """``reference.dist``."""
    x, w = x.contiguous(), w.contiguous()
    y = x.new_empty(x.shape[0], w.shape[0])
    _call("linf_dist", _sizes(x, w), (p,), x, w, y, None)
    return y


def dist_with_index(x: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    """Returns ``reference.dist`` at p = ∞, and the place and the sign of each maximum for ``index_vjp``.

    The second result is int32 (N, out).  An entry is 4·i, plus 1 if x_i < w_i.  It is −1 if y is 0 or NaN.  In a tie, i
    is the lowest index.
    """
    x, w = x.contiguous(), w.contiguous()
    y = x.new_empty(x.shape[0], w.shape[0])
    index = torch.empty(y.shape, dtype=torch.int32)
    _call("linf_dist", _sizes(x, w), (math.inf,), x, w, y, index)
    return y, index


def index_vjp(
    grad: Tensor, index: Tensor, features: int, wanted: tuple[bool, bool] = (True, True)
) -> tuple[Tensor | None, Tensor | None]:
    """``reference.dist_vjp`` at p = ∞ from the index of ``dist_with_index``; a gradient is None if it is not wanted."""
    grad, index = grad.contiguous(), index.contiguous()
    n, out = grad.shape
    grads = _empty(wanted, grad, (n, features), (out, features))
    _call("linf_scatter", (n, out, features), (), grad, index, *grads)
    return grads


def dist_vjp(
    grad: Tensor, x: Tensor, w: Tensor, y: Tensor, p: float, wanted: tuple[bool, bool] = (True, True)
) -> tuple[Tensor | None, Tensor | None]:
    """``reference.dist_vjp``; a gradient is None if it is not wanted."""
    if p == math.inf:
        return index_vjp(grad, dist_with_index(x, w)[1], x.shape[1], wanted)
    grad, x, w, y = (a.contiguous() for a in (grad, x, w, y))
    grads = _empty(wanted, x, x.shape, w.shape)
    _call("linf_dist_vjp", _sizes(x, w), (p,), grad, x, w, y, *grads)
    return grads


def box_dist(lower: Tensor, upper: Tensor, w: Tensor, p: float) -> tuple[Tensor, Tensor]:
    """``reference.box_dist``."""
    lower, upper, w = lower.contiguous(), upper.contiguous(), w.contiguous()
    near, far = (lower.new_empty(lower.shape[0], w.shape[0]) for _ in range(2))
    _call("linf_box_dist", _sizes(lower, w), (p,), lower, upper, w, near, far)
    return near, far


def box_dist_vjp(
    grad_lower: Tensor,
    grad_upper: Tensor,
    lower: Tensor,
    upper: Tensor,
    w: Tensor,
    near: Tensor,
    far: Tensor,
    p: float,
    wanted: tuple[bool, bool, bool] = (True, True, True),
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """``reference.box_dist_vjp``; a gradient is None if it is not wanted."""
    tensors = [a.contiguous() for a in (grad_lower, grad_upper, lower, upper, w, near, far)]
    grads = _empty(wanted, w, lower.shape, upper.shape, w.shape)
    _call("linf_box_dist_vjp", _sizes(lower, w), (p,), *tensors, *grads)
    return grads


def _c_geometry(
    image: tuple[int, ...], out: tuple[int, ...], w: tuple[int, ...], geometry: Geometry, rows: slice
) -> ctypes.Array:
    """Returns the struct ``Geometry`` of cpu_windows.cpp."""
    stride, padding, dilation, groups = geometry
    numbers = (*image, groups, out[3], rows.start, rows.stop, *w[2:], *stride, *padding, *dilation)
    return (ctypes.c_int64 * len(numbers))(*numbers)


def unfold(x: Tensor, out: tuple[int, ...], w: tuple[int, ...], geometry: Geometry, rows: slice) -> Tensor:
    """``windows.unfold``; ``out`` is the shape of the output."""
    x = x.contiguous()
    windows = len(x) * (rows.stop - rows.start) * out[3]
    columns = x.new_empty(geometry.groups, windows, w[1] * w[2] * w[3])
    threads = torch.get_num_threads() if columns.numel() > 50_000 else 1
    _loaded().lib.linf_unfold(
        _DTYPES[x.dtype], threads, _c_geometry(x.shape, out, w, geometry, rows), x.data_ptr(), columns.data_ptr()
    )
    return columns


def add_folded(
    gx: Tensor, columns: Tensor, out: tuple[int, ...], w: tuple[int, ...], geometry: Geometry, rows: slice
) -> None:
    """``windows.add_folded``; gx must be contiguous."""
    columns = columns.contiguous()
    threads = torch.get_num_threads() if columns.numel() > 50_000 else 1
    _loaded().lib.linf_add_folded(
        _DTYPES[gx.dtype], threads, _c_geometry(gx.shape, out, w, geometry, rows), columns.data_ptr(), gx.data_ptr()
    )


def _empty(wanted: tuple[bool, ...], like: Tensor, *shapes: tuple[int, ...]) -> tuple[Tensor | None, ...]:
    return tuple(like.new_empty(shape) if want else None for want, shape in zip(wanted, shapes, strict=True))
