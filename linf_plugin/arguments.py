"""What is checked of arguments; every message names the argument.  Imports torch alone."""

import torch
from torch import Tensor


def check_p(p: float) -> float:
    """p as a float.  Raises TypeError where it is not a number, ValueError where it is not in [1, ∞]."""
    if isinstance(p, (bool, Tensor)) or not isinstance(p, (int, float)):
        raise TypeError(f"p must be a number, got {type(p).__name__}")
    if not p >= 1:
        raise ValueError(f"p must be at least 1 (math.inf included), got {p}")
    return float(p)


def check_rho(rho: float) -> float:
    """ρ as a float.  Raises TypeError where it is not a number, ValueError where it is not in (0, 1]."""
    if isinstance(rho, (bool, Tensor)) or not isinstance(rho, (int, float)):
        raise TypeError(f"rho must be a number, got {type(rho).__name__}")
    if not 0 < rho <= 1:
        raise ValueError(f"rho must lie in (0, 1], got {rho}")
    return float(rho)


def check_k(k: int) -> int:
    """k.  Raises TypeError where it is not an int, ValueError where it is below 1."""
    if isinstance(k, bool) or not isinstance(k, int):
        raise TypeError(f"k must be an int, got {type(k).__name__}")
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    return k


def check_tensors(check_finite: bool = False, **tensors: Tensor) -> None:
    """float32 or float64 (16-bit under autocast only), of one dtype and device; finite if asked."""
    first_name, first = next(iter(tensors.items()))
    for name, a in tensors.items():
        if not isinstance(a, Tensor):
            raise TypeError(f"{name} must be a torch.Tensor, got {type(a).__name__}")
        if a.dtype not in (torch.float32, torch.float64):
            if not (a.is_floating_point() and torch.is_autocast_enabled(a.device.type)):
                raise TypeError(f"{name} must be float32 or float64, got {a.dtype}")
        elif a.dtype != first.dtype and not (
            torch.is_autocast_enabled(a.device.type) and torch.float64 not in (a.dtype, first.dtype)
        ):
            raise TypeError(f"{name} is {a.dtype} but {first_name} is {first.dtype}: they must agree")
        if a.device != first.device:
            raise ValueError(f"{name} is on {a.device} but {first_name} is on {first.device}")
        if check_finite and not a.isfinite().all():
            raise ValueError(f"{name} contains NaN or infinite values")


def check_rows(x: Tensor, w: Tensor, check_finite: bool = False) -> None:
    """``check_tensors`` of x (N, in) and w (out, in), and their shapes."""
    check_tensors(check_finite, x=x, w=w)
    for name, a, shape in (("x", x, "(N, in)"), ("w", w, "(out, in)")):
        if a.dim() != 2:
            raise ValueError(f"{name} must have shape {shape}, got {tuple(a.shape)}")
    # Tracing turns sizes into tensors, on which a comparison cannot be decided.
    if not torch.jit.is_tracing() and x.shape[1] != w.shape[1]:
        raise ValueError(f"w has {w.shape[1]} columns but x has {x.shape[1]}: they must agree")
