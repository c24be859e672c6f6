"""Whether a net is a float32 program that the theorems of docs/math.md speak of: the sequence of its layers, each as
its class says, on a device and with settings by which each operation is rounded as assumed there."""

import torch
from torch import Tensor, nn
from torch.nn.modules import module as every_module

from ..arguments import check_forward, check_own
from ..layers.shifts import Normalize
from .products import check_products

LARGEST = 2.0**127  # beyond it a float32 may overflow
SMALLEST = 2.0**-126  # below it a float32 may be flushed to zero


def _check_plain(name: str, module: nn.Module) -> None:
    """That calling a layer or a container runs the ``forward`` of its class and nothing else."""
    check_forward(name, module)
    if module._compiled_call_impl is not None:
        raise RuntimeError(
            f"{name} was compiled in place, and a compiler may change the arithmetic: certify a model on which "
            "compile() was not called"
        )
    check_own(name, module, [a for a in vars(module) if a != "_compiled_call_impl" and hasattr(type(module), a)])
    if isinstance(module, Normalize):
        scale = module.scale
        # Not of float32, it would be one number to the program and another to its float64 copy.
        if not SMALLEST <= scale < LARGEST or torch.tensor(scale, dtype=torch.float32).item() != scale:
            raise TypeError(f"the scale of {name} is {scale}, not a positive normal float32 number: round it to one")


def check_sequence(model: nn.Module) -> None:
    """That the model computes the sequence of its ``layers``, each as its class says."""
    if type(model).__name__ == "OptimizedModule":
        raise TypeError("the model is compiled, and a compiler may change the arithmetic: certify what it was made of")
    for hooks in (every_module._global_forward_hooks, every_module._global_forward_pre_hooks):
        if hooks:
            raise RuntimeError("forward hooks of all modules are set (torch.nn.modules.module): remove them first")
    for path, module in model.named_modules():
        _check_plain(f"layer {path!r} ({type(module).__name__})" if path else f"the {type(module).__name__}", module)


def check_arithmetic(model: nn.Module, parts: list[nn.Module], x: Tensor) -> None:
    """That it is a float32 program in evaluation mode, on this machine and with these settings.  parts: its layers."""
    if model.training or any(layer.training for layer in parts):
        raise ValueError("model is in training mode: call model.eval() before certifying it")
    for name, a in (("x", x), *model.named_parameters(), *model.named_buffers()):
        if a.dtype != torch.float32:
            raise TypeError(f"{name} is {a.dtype}: certificates with sound=True are about float32 programs")
        if type(a) not in (Tensor, nn.Parameter):  # quantised ones call themselves float32
            raise TypeError(f"{name} is a {type(a).__name__}, whose arithmetic is its own: give a torch.Tensor")
    if x.device.type not in ("cpu", "cuda"):
        raise RuntimeError(
            f"x is on {x.device}, of whose arithmetic nothing is assumed: certify on a CPU or a CUDA GPU, or by "
            "sound=False"
        )
    if torch.is_autocast_enabled(x.device.type):
        raise RuntimeError("autocast is on: it computes in 16 bits, which no bound of the rounding error covers")
    check_products(model, parts, x)
