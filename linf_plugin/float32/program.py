"""Checks that a net is a float32 program to which the theorems of docs/math.md apply.

Such a program runs the net's layers in sequence, and each layer computes what its class says.  The device and the
settings round each operation as docs/math.md assumes.
"""

import torch
from torch import Tensor, nn
from torch.nn.modules import module as every_module

from ..arguments import check_forward, check_own
from ..layers.shifts import Normalize

LARGEST = 2.0**127  # a larger float32 number may overflow
SMALLEST = 2.0**-126  # a smaller float32 number may be flushed to zero


def _check_plain(name: str, module: nn.Module) -> None:
    """Raises if a call of this layer or container may run anything but the ``forward`` of its class.

    A ``Normalize`` must also have a scale that is a float32 number.
    """
    check_forward(name, module)
    _check_eager(name, module)
    check_own(name, module, [a for a in vars(module) if a != "_compiled_call_impl" and hasattr(type(module), a)])
    if isinstance(module, Normalize):
        scale = module.scale
        # Any other scale would be one number in the float32 program and another in its float64 copy.
        if not SMALLEST <= scale < LARGEST or torch.tensor(scale, dtype=torch.float32).item() != scale:
            raise TypeError(f"the scale of {name} is {scale}, not a positive normal float32 number: round it to one")


def check_hooks(model: nn.Module) -> None:
    """Raises TypeError if the model is compiled, and RuntimeError if it has forward hooks or was compiled in place."""
    _check_global(model)
    for path, module in model.named_modules():
        name = f"layer {path!r} ({type(module).__name__})" if path else f"the {type(module).__name__}"
        check_forward(name, module)
        _check_eager(name, module)


def _check_eager(name: str, module: nn.Module) -> None:
    if module._compiled_call_impl is not None:
        raise RuntimeError(
            f"{name} was compiled in place, and a compiler may change the arithmetic: certify a model on which "
            "compile() was not called"
        )


def _check_global(model: nn.Module) -> None:
    if type(model).__name__ == "OptimizedModule":
        raise TypeError("the model is compiled, and a compiler may change the arithmetic: certify the original model")
    for hooks in (every_module._global_forward_hooks, every_module._global_forward_pre_hooks):
        if hooks:
            raise RuntimeError("forward hooks of all modules are set (torch.nn.modules.module): remove them first")


def check_sequence(model: nn.Module) -> None:
    """Raises unless the model runs the sequence of its layers, and each layer computes what its class says.

    Raises:
        TypeError: the model is compiled, a module hides a method or attribute of its class, or a scale is no normal
            float32 number.
        RuntimeError: there are forward hooks, or a module was compiled in place.
    """
    _check_global(model)
    for path, module in model.named_modules():
        _check_plain(f"layer {path!r} ({type(module).__name__})" if path else f"the {type(module).__name__}", module)


def check_arithmetic(model: nn.Module, parts: list[nn.Module], x: Tensor) -> None:
    """Raises unless the model is a float32 program in evaluation mode, on this machine and with its settings.

    Args:
        model: the net.
        parts: its layers.
        x: (N, *).

    Raises:
        ValueError: the model is in training mode.
        TypeError: x, a parameter or a buffer is not a float32 tensor.
        RuntimeError: the device is neither a CPU nor a CUDA GPU, or autocast is on.
    """
    if model.training or any(layer.training for layer in parts):
        raise ValueError("model is in training mode: call model.eval() before certifying it")
    for name, a in (("x", x), *model.named_parameters(), *model.named_buffers()):
        if name != "x" and not (a.is_floating_point() or a.is_complex() or a.is_quantized):
            continue  # such as a count of batches
        if a.dtype != torch.float32:
            raise TypeError(f"{name} is {a.dtype}: certificates with sound=True are about float32 programs")
        if type(a) not in (Tensor, nn.Parameter):  # quantised tensors say that they are float32
            raise TypeError(f"{name} is a {type(a).__name__}, which may compute in its own way: give a torch.Tensor")
    if x.device.type not in ("cpu", "cuda"):
        raise RuntimeError(
            f"x is on {x.device}, and nothing is assumed about its arithmetic: certify on a CPU or a CUDA GPU, or with "
            "sound=False"
        )
    if torch.is_autocast_enabled(x.device.type):
        raise RuntimeError("autocast is on: it computes in 16 bits, and no bound of the rounding error covers that")
