"""Checks of arguments.  Every message names the argument.  This module imports no other module of the package."""

import math
import numbers
from typing import Any

import torch
from torch import Tensor, nn


def check_p(p: float) -> float:
    """Returns p as a float.  Raises TypeError if it is not a number, ValueError if it is not in [1, ∞]."""
    if isinstance(p, (bool, Tensor)) or not isinstance(p, (int, float)):
        raise TypeError(f"p must be a number, got {type(p).__name__}")
    check_exponent(p)
    return float(p)


def check_rho(rho: float) -> float:
    """Returns ρ as a float.  Raises TypeError if it is not a number, ValueError if it is not in (0, 1]."""
    if isinstance(rho, (bool, Tensor)) or not isinstance(rho, (int, float)):
        raise TypeError(f"rho must be a number, got {type(rho).__name__}")
    if not 0 < rho <= 1:
        raise ValueError(f"rho must lie in (0, 1], got {rho}")
    return float(rho)


def check_k(k: int) -> int:
    """Returns k.  Raises TypeError if it is not an int, ValueError if it is below 1."""
    if isinstance(k, bool) or not isinstance(k, int):
        raise TypeError(f"k must be an int, got {type(k).__name__}")
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    return k


FLOATS = (torch.float32, torch.float64)
MOST_FEATURES = 1 << 29  # coordinates of a row: an int32 names one of them, and two of its bits hold signs
MOST_STEP = 1 << 31  # strides, paddings, dilations and kernels stay below it, so that no sum of them overflows


def check_operands(**tensors: Tensor) -> None:
    """Checks that compiled code can take the tensors: dense, float32 or float64, all of one dtype and on one device.

    Raises TypeError for a wrong dtype or layout, ValueError for a wrong device.
    """
    first_name, first = next(iter(tensors.items()))
    dtype, device = first.dtype, first.device
    for name, a in tensors.items():
        if a.dtype not in FLOATS:
            raise TypeError(f"{name} must be float32 or float64, got {a.dtype}")
        if a.layout is not torch.strided:
            raise TypeError(f"{name} must be a dense tensor, got layout {a.layout}")
        if a.dtype is not dtype:
            raise TypeError(f"{name} is {a.dtype} but {first_name} is {dtype}: they must agree")
        if a.device != device:
            raise ValueError(f"{name} is on {a.device} but {first_name} is on {device}")


def check_shape(name: str, a: Tensor, shape: tuple[int, ...]) -> None:
    """Raises ValueError unless a has this shape."""
    if a.shape != shape:
        raise ValueError(f"{name} must have shape {tuple(shape)}, got {tuple(a.shape)}")


def check_pairs(x: Tensor, w: Tensor, name: str = "x") -> None:
    """Raises ValueError unless x is (N, in) and w (out, in)."""
    if x.dim() != 2:
        raise ValueError(f"{name} must have shape (N, in), got {tuple(x.shape)}")
    if w.dim() != 2:
        raise ValueError(f"w must have shape (out, in), got {tuple(w.shape)}")
    if x.shape[1] != w.shape[1]:
        raise ValueError(f"w has {w.shape[1]} columns but {name} has {x.shape[1]}: they must agree")


def check_exponent(p: float) -> None:
    """Raises ValueError unless the number p is at least 1."""
    if not p >= 1:
        raise ValueError(f"p must be at least 1 (math.inf included), got {p}")


def check_windows(
    x: tuple[int, ...],
    w: tuple[int, ...],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    name: str = "x",
) -> None:
    """Raises ValueError unless kernels of shape w fit images of shape x, with at least one window in each image."""
    if len(x) != 4:
        raise ValueError(f"{name} must have shape (N, C, H, W), got {tuple(x)}")
    if len(w) != 4:
        raise ValueError(f"w must have shape (out, C/groups, kh, kw), got {tuple(w)}")
    for what, pair, least in (
        ("stride", stride, 1),
        ("padding", padding, 0),
        ("dilation", dilation, 1),
        ("the kernel of w", w[2:], 1),
    ):
        if len(pair) != 2 or min(pair) < least or max(pair) >= MOST_STEP:
            raise ValueError(f"{what} must be two whole numbers from {least} to {MOST_STEP - 1}, got {list(pair)}")
    if groups < 1 or w[0] % groups or w[1] * groups != x[1]:
        raise ValueError(
            f"groups={groups}: {name} must have groups times the channels of w, and w a multiple of groups outputs, "
            f"got {tuple(x)} and {tuple(w)}"
        )
    if min(x[2:]) < 1:
        raise ValueError(f"{name} must have pixels, got {tuple(x)}")
    for d in (0, 1):
        if x[2 + d] + 2 * padding[d] < dilation[d] * (w[2 + d] - 1) + 1:
            raise ValueError(f"{name} of {tuple(x[2:])} pixels is smaller than the kernel {tuple(w[2:])}")


def check_index(index: Tensor, grad: Tensor, features: int) -> None:
    """Raises TypeError or ValueError unless index can name a coordinate for each entry of grad.

    The values of the entries are not checked here: the kernels check them when they read them.
    """
    if index.dtype is not torch.int32 or index.layout is not torch.strided:
        raise TypeError(f"index must be a dense tensor of int32, got {index.dtype}, {index.layout}")
    if index.device != grad.device:
        raise ValueError(f"index is on {index.device} but grad is on {grad.device}")
    check_shape("index", index, grad.shape)
    if not 0 <= features < MOST_FEATURES:
        raise ValueError(f"an index can name one of fewer than {MOST_FEATURES} coordinates, got {features}")


def check_tensors(check_finite: bool = False, **tensors: Tensor) -> None:
    """Checks that the tensors are float32 or float64, of one dtype and on one device; 16 bits pass only under autocast.

    With ``check_finite`` their values must be finite too.  Raises TypeError for a wrong type, else ValueError.
    """
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
    """Does ``check_tensors`` on x (N, in) and w (out, in), and checks their shapes."""
    check_tensors(check_finite, x=x, w=w)
    if not torch.jit.is_tracing():  # tracing warns of comparisons of sizes; the operator checks the shapes in any case
        check_pairs(x, w)


# Arguments of functions that certify, train and attack: a model, samples x, labels, a radius, the pixel range, counts.

ON_SEVERAL_DEVICES = (nn.DataParallel, nn.parallel.DistributedDataParallel)
INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


def kind(value: object) -> str:
    """Returns the dtype of a tensor or the type of another value, for a message."""
    return str(value.dtype) if isinstance(value, Tensor) else type(value).__name__


def check_number(name: str, value: Any) -> None:
    """Raises TypeError unless the value is a real number: not a bool, a string or a tensor.  NaN passes."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be a number, got {value!r}")


def check_not_negative(name: str, value: Any) -> None:
    """Raises TypeError as ``check_number``, and ValueError unless the value is finite and at least 0."""
    check_number(name, value)
    if not 0 <= value < math.inf:
        raise ValueError(f"{name} must be finite and at least 0, got {value}")


def check_positive(name: str, value: Any) -> None:
    """Raises TypeError as ``check_number``, and ValueError unless the value is positive and finite."""
    check_number(name, value)
    if not 0 < value < math.inf:
        raise ValueError(f"{name} must be positive and finite, got {value}")


def check_range(low: Any, high: Any) -> None:
    """Raises TypeError as ``check_number`` for both, and ValueError unless low < high."""
    check_number("low", low)
    check_number("high", high)
    if not low < high:
        raise ValueError(f"low must be less than high, got low={low}, high={high}")


def check_count(name: str, value: Any, least: int = 1) -> None:
    """Raises TypeError unless the value is an integer, and ValueError if it is below ``least``."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")


def check_seed(value: Any, name: str = "seed") -> None:
    """Raises TypeError unless the value is an integer, and ValueError unless it lies in [0, 2³²): NumPy takes no other
    seeds."""
    check_count(name, value, 0)
    if value >= 2**32:
        raise ValueError(f"{name} must be below 2^32 = {2**32}, got {value}")


def unwrapped(model: Any) -> Any:
    """Returns the net inside wrappers that run it on several devices; any other model as it is.

    Raises RuntimeError or TypeError, as ``check_forward``, if a call of a wrapper runs more than the net.
    """
    while type(model) in ON_SEVERAL_DEVICES:
        check_forward(f"model ({type(model).__name__})", model)
        model = model.module
    return model


def check_model(model: Any, evaluation: bool = True) -> None:
    """Raises TypeError unless the model is a module.

    With ``evaluation`` it raises ValueError if the model or one of its layers is in training mode.  The mode of a
    wrapper for several devices does not matter, only that of the net inside.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    for path, module in model.named_modules() if evaluation else ():
        if module.training and type(module) not in ON_SEVERAL_DEVICES:
            at = f", at layer {path!r} ({type(module).__name__})" if path else ""
            raise ValueError(f"model is in training mode{at}: call model.eval() before")


def check_forward(name: str, module: nn.Module) -> None:
    """Raises TypeError or RuntimeError unless a call of the module runs only the ``forward`` of its class."""
    if module._forward_hooks or module._forward_pre_hooks:
        raise RuntimeError(
            f"{name} has forward hooks (weight_norm and spectral_norm of torch.nn.utils set such hooks too), but "
            "certificates know only what its class computes: remove the hooks before certifying"
        )
    check_own(name, module, [a for a in vars(module) if a == "forward"])


def check_own(name: str, module: nn.Module, own: list[str]) -> None:
    """Raises TypeError if ``own``, the attributes that the module has instead of those of its class, is not empty."""
    if own:
        raise TypeError(
            f"{name} has a {own[0]} of its own instead of that of its class, but certificates know only the class: "
            "delete it before certifying"
        )


def check_weights(model: nn.Module) -> None:
    """Raises ValueError if a parameter or buffer has NaN or infinite values."""
    for name, a in model.state_dict().items():
        if isinstance(a, Tensor) and a.is_floating_point() and not a.isfinite().all():
            raise ValueError(f"model has NaN or infinite values in {name}")


def check_samples(x: Any, model: nn.Module | None = None, name: str = "x") -> None:
    """Checks that x is a floating-point tensor (N, *).

    With a model, x must have the shape of the model's ``input_shape``, where it has one, and be on its device.
    Raises TypeError or ValueError.
    """
    if not isinstance(x, Tensor) or not x.is_floating_point():
        raise TypeError(f"{name} must be a floating-point tensor, got {kind(x)}")
    shape = getattr(model, "input_shape", None)
    if x.dim() < 2 or (isinstance(shape, tuple) and tuple(x.shape[1:]) != shape):
        expected = "C, H, W" if not isinstance(shape, tuple) else ", ".join(map(str, shape))
        raise ValueError(f"{name} must have shape (N, {expected}), got {tuple(x.shape)}")
    if 0 in x.shape[1:]:
        raise ValueError(f"{name} must have samples of at least one value, got {tuple(x.shape)}")
    weight = None if model is None else next(iter([*model.parameters(), *model.buffers()]), None)
    if weight is not None and weight.device != x.device:
        raise ValueError(f"{name} is on {x.device} but model is on {weight.device}")


def check_finite(**tensors: Tensor) -> None:
    """Raises ValueError if one of the tensors has NaN or infinite values."""
    for name, a in tensors.items():
        if not a.isfinite().all():
            raise ValueError(f"{name} must not hold NaN or infinite values")


def check_pixels(x: Tensor, low: float, high: float) -> None:
    """Raises ValueError unless all values of x lie in [low, high]."""
    if not ((low <= x) & (x <= high)).all():
        raise ValueError(f"x must lie in [low, high] = [{low}, {high}] and not be NaN")


def check_labels(labels: Any, x: Tensor, classes: int | None = None) -> Tensor:
    """Returns the labels as int64.  Raises TypeError or ValueError unless they are one integer in [0, classes) for each
    sample of x."""
    if not isinstance(labels, Tensor) or labels.dtype not in INTEGERS:
        raise TypeError(f"labels must be a tensor of integers, got {kind(labels)}")
    if labels.shape != x.shape[:1]:
        raise ValueError(f"labels must have shape ({len(x)},), got {tuple(labels.shape)}")
    if labels.device != x.device:
        raise ValueError(f"labels is on {labels.device} but x is on {x.device}")
    most = math.inf if classes is None else classes - 1
    if labels.numel() and not (0 <= labels.min() and labels.max() <= most):
        raise ValueError(f"labels must lie in [0, {most}], got {labels.min()} to {labels.max()}")
    return labels.long()


def check_box(lower: Any, upper: Any) -> None:
    """Raises TypeError or ValueError unless the ends of boxes (N, *) are float64, not NaN, and lower ≤ upper."""
    for name, end in (("lower", lower), ("upper", upper)):
        if not isinstance(end, Tensor) or end.dtype != torch.float64:
            raise TypeError(f"{name} must be a float64 tensor, got {kind(end)}")
        if end.dim() < 2 or end.shape != lower.shape:
            raise ValueError(f"{name} must have shape (N, *), lower and upper the same, got {tuple(end.shape)}")
    if not (lower <= upper).all():
        raise ValueError("lower must be at most upper everywhere, and neither may be NaN")


def check_logits(logits: Any, samples: int, least: int = 2) -> int:
    """Returns the number of classes in the output of a model.  Raises TypeError or ValueError for a wrong output."""
    if not isinstance(logits, Tensor):
        raise TypeError(f"model must return a tensor of logits, got {type(logits).__name__}")
    if logits.dim() != 2 or len(logits) != samples or logits.shape[1] < least:
        raise ValueError(
            f"model must map x to (N, classes ≥ {least}), got {tuple(logits.shape)} for "
            + ("one sample" if samples == 1 else f"{samples} samples")
        )
    return logits.shape[1]
