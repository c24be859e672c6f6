"""What the random graphs are made of: operands, and steps from one tensor to the next.

A step is a module ``(h, others) → h``; ``others`` are the net's further inputs.  Its text says what it computes.
"""

import random
from collections.abc import Callable

import torch
from torch import Tensor, nn


class Operand(nn.Module):
    """A second operand: where it comes from is ``kind``."""

    def __init__(self, kind: str, value: Tensor, index: int = 0):
        super().__init__()
        self.kind, self.index = kind, index
        if kind == "buffer":
            self.register_buffer("value", value)
        elif kind in ("parameter", "computed"):
            self.value = nn.Parameter(value)

    def forward(self, h: Tensor, others: tuple[Tensor, ...]) -> Tensor:
        if self.kind == "input":
            return others[self.index]
        if self.kind == "itself":
            return h
        if self.kind == "branch":
            return torch.relu(h)
        return self.value * 2 if self.kind == "computed" else self.value


class Step(nn.Module):
    """``function(h, *operands)``; a module that it calls is passed as ``module``."""

    def __init__(self, text: str, function: Callable, *operands: Operand, module: nn.Module | None = None):
        super().__init__()
        self.text = text + "".join(f" [{o.kind}]" for o in operands)
        self.function, self.operands, self.module = function, nn.ModuleList(operands), module

    def forward(self, h: Tensor, others: tuple[Tensor, ...]) -> Tensor:
        return self.function(h, *(o(h, others) for o in self.operands))


class Graph(nn.Module):
    """Steps one after the other, at last flattened.  ``x`` and ``others`` are its inputs."""

    def __init__(self, steps: list[Step]):
        super().__init__()
        self.steps = nn.ModuleList(steps)

    def forward(self, x: Tensor, *others: Tensor) -> Tensor:
        for step in self.steps:
            x = step(x, others)
        return x

    def __str__(self) -> str:
        return " → ".join(step.text for step in self.steps)


class Builder:
    """A graph while it is drawn: ``h`` is what its steps make of two random inputs.

    ``kinds`` says where operands may come from; ``p`` is that of every distance; ``size`` the first input's largest
    number.
    """

    def __init__(self, r: random.Random, shape: tuple[int, ...], kinds: tuple[str, ...], p: float, size: float):
        self.r, self.kinds, self.p, self.size = r, kinds, p, size
        self.inputs, self.steps = [size * (torch.rand(2, *shape) if size <= 1 else 2 * torch.rand(2, *shape) - 1)], []
        self.h = self.inputs[0]
        self.options: dict | None = None  # of auto_LiRPA, where an operator asks for some

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.h.shape[1:])

    def operand(
        self, *shapes: tuple[int, ...], least: float | None = None, kinds: tuple[str, ...] = (), broadcast: bool = True
    ) -> Operand:
        """An operand of one of the shapes, with numbers of at least ``least``.  Shapes are without the batch, which
        only what depends on inputs has; an input that is to ``broadcast`` has as many dimensions as h."""
        shape = self.r.choice(shapes)
        kind = self.r.choice(kinds or self.kinds)
        if kind in ("itself", "branch") and shape != self.shape:
            kind = "parameter"
        if kind == "input" and broadcast:
            shape = (1,) * (len(self.shape) - len(shape)) + shape
        value = torch.randn(shape) if least is None else least + torch.rand(shape)
        if kind == "input":
            value = torch.randn(2, *shape) if least is None else least + torch.rand(2, *shape)
            self.inputs.append(value)
        return Operand(kind, value, len(self.inputs) - 2)

    @torch.no_grad()
    def add(self, text: str, function: Callable, *operands: Operand, module: nn.Module | None = None) -> None:
        """Raises what the step raises of ``h``."""
        step = Step(text, function, *operands, module=module)
        if module is not None:
            module.eval().requires_grad_(False)
        h = step(self.h, tuple(self.inputs[1:]))
        if not isinstance(h, Tensor) or h.shape[:1] != (2,) or h.numel() == 0:
            raise ValueError("no batch")
        self.h = h
        self.steps.append(step)

    def layer(self, module: nn.Module) -> None:
        self.add(repr(module).replace("\n", ""), module, module=module)

    def flatten(self) -> None:
        if self.h.dim() != 2:
            self.add("flatten", lambda h: h.flatten(1))
