"""All that the function of a net can depend on, found by walking it."""

import collections
import enum
import functools
import hashlib
import logging
import os
import types
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from ..layers import MeanShift, SortDistLinear

# What these read in training mode only.  A subclass may read it elsewhere.
FOR_TRAINING = {
    SortDistLinear: {"_p", "group"},
    MeanShift: {"momentum", "samples_seen", "sum_over_ranks"},
}
MODULE = vars(nn.Module()).keys() | {"_compiled_call_impl"}  # what every module has
HOOKS = sorted(key for key in MODULE if key.startswith("_forward"))  # those of backward passes change no value
PLAIN = {bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device, torch.Size}
SEQUENCES = (list, tuple, collections.deque)
CODE = (types.FunctionType, types.MethodType, functools.partial)
OUTSIDE = (logging.Logger, logging.Handler, torch.optim.Optimizer)  # these have more than the net, and are not in it
INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # bytes → a dtype of as many

Path = tuple[str, str, str]  # of a module, of its attribute, of what is inside that


class Plain(NamedTuple):
    """Numbers and text, compared by type and by what they are written as: NaN is NaN, 2 is not 2.0."""

    kind: type
    text: str


class Same:
    """Something that is compared by identity."""

    def __init__(self, value):
        self.value = value

    def __eq__(self, other) -> bool:
        return isinstance(other, Same) and self.value is other.value


class Fixed(Same):
    """Something that a copy of the net shares with it: a class, and what belongs to it."""

    def __deepcopy__(self, memo: dict) -> "Fixed":
        return self


class Content:
    """The bits of a tensor, and where they lie."""

    def __init__(self, tensor: Tensor):
        self.tensor = tensor

    def kept(self) -> "Content":
        """The same, of what the tensor holds now."""
        return Content(self.tensor.detach().clone())

    def __eq__(self, other) -> bool:
        if not isinstance(other, Content):
            return False
        ours, theirs = self.tensor.detach(), other.tensor.detach()
        return (
            ours.dtype == theirs.dtype and ours.device == theirs.device and ours.shape == theirs.shape
            and torch.equal(_bits(ours), _bits(theirs))
        )


def _bits(a: Tensor) -> Tensor:
    a = a.to_dense() if a.layout != torch.strided else a
    a = torch.view_as_real(a.resolve_conj()) if a.is_complex() else a
    return a.contiguous().view(INTEGERS[a.element_size()])


# The walk: all that the function of a net can depend on, as (path, Plain, Same or Tensor).


def walk(model: nn.Module) -> Iterator[tuple[Path, object]]:
    """Every module, its class, children, parameters, buffers, forward hooks and further attributes, and the mode of
    those that have another function in training mode."""
    seen, classes = {}, {}
    yield from _module("", model, seen, classes)
    for kind in list(classes):
        for key, value in list(vars(kind).items()):
            if not (key.startswith("__") and key.endswith("__")) or key == "__call__":
                place = (f"class {kind.__qualname__}", key, "")
                yield from _inside(place, value, seen, classes) if _is_data(value) else [(place, Fixed(value))]


def _is_data(value) -> bool:
    """Whether an attribute of a class is one of the numbers, tensors and containers that can be changed in place."""
    return type(value) in PLAIN or isinstance(value, (Tensor, np.ndarray, dict, set, *SEQUENCES))


def _module(name: str, module: nn.Module, seen: dict, classes: dict) -> Iterator[tuple[Path, object]]:
    if id(module) in seen:
        return
    seen[id(module)] = module  # kept, so that no other object gets its id during the walk
    kind = type(module)
    classes |= dict.fromkeys(_own_classes(kind))
    yield (name, "class", ""), Fixed(kind)
    if depends_on_mode(module):
        yield (name, "training", ""), Plain(bool, repr(module.training))
    attributes = {key: value for key, value in vars(module).items() if key not in MODULE}
    attributes |= {slot: getattr(module, slot) for slot in _slots(kind) if hasattr(module, slot)}
    hooks = {key: vars(module)[key] for key in HOOKS if vars(module).get(key)}
    skipped = FOR_TRAINING.get(kind, ())
    for part in (module._parameters, module._buffers, attributes, hooks):
        for key, value in list(part.items()):
            if key in skipped:
                continue
            path = (name, _shown(kind, key), "")
            if type(value) in PLAIN:
                yield path, Plain(type(value), repr(value))
            else:
                yield from _inside(path, value, seen, classes)
    for key, child in list(module._modules.items()):
        below = f"{name}.{key}" if name else key
        yield (name, "layers", f"[{key!r}]"), Same(child)
        if child is not None:
            yield from _module(below, child, seen, classes)
    yield (name, "layers", ""), Plain(list, repr(list(module._modules)))


@functools.lru_cache(1024)
def _own_classes(kind: type) -> tuple[type, ...]:
    return tuple(c for c in kind.__mro__ if c not in (nn.Module, object))


@functools.lru_cache(1024)
def _slots(kind: type) -> tuple[str, ...]:
    """Where objects of a class keep what is not in ``vars``."""
    slots = [vars(c).get("__slots__", ()) for c in kind.__mro__]
    named = [slot for some in slots for slot in ((some,) if isinstance(some, str) else some)]
    return tuple(slot for slot in named if slot not in ("__dict__", "__weakref__"))


@functools.lru_cache(4096)
def _shown(kind: type, key: str) -> str:
    """The name of the property that an attribute stands behind, if it does."""
    return key[1:] if key.startswith("_") and isinstance(getattr(kind, key[1:], None), property) else key


def _inside(path: Path, value, seen: dict, classes: dict) -> Iterator[tuple[Path, object]]:
    """A value, and what is inside it."""
    name, attribute, inner = path

    def further(step: str, part) -> Iterator[tuple[Path, object]]:
        return _inside((name, attribute, inner + step), part, seen, classes)

    kind = type(value)
    if kind in PLAIN or isinstance(value, (np.generic, os.PathLike)):
        yield path, Plain(kind, repr(value))
    elif isinstance(value, Tensor):
        yield path, value
    elif isinstance(value, SEQUENCES) and set(map(type, value)) <= PLAIN:
        yield path, Plain(kind, repr(value))
    elif isinstance(value, dict) and {*map(type, value), *map(type, value.values())} <= PLAIN:
        yield path, Plain(kind, repr(list(value.items())))
    elif isinstance(value, (set, frozenset)):
        yield path, Plain(kind, repr(sorted(map(repr, value))))
    elif isinstance(value, (enum.Enum, type, types.ModuleType)):
        yield path, Fixed(value)
    elif isinstance(value, nn.Module):  # kept in a list or a function, where PyTorch does not see it
        yield path, Same(value)
        yield from _module(f"{name}.{attribute}{inner}".lstrip("."), value, seen, classes)
    elif id(value) in seen:
        yield path, Same(value)
    else:
        yield from _composed(path, value, seen, further)


def _composed(path: Path, value, seen: dict, further) -> Iterator[tuple[Path, object]]:
    """Of something that has parts; each is walked once, however it is reached."""
    seen[id(value)] = value
    if isinstance(value, SEQUENCES):
        yield path, Plain(type(value), f"{len(value)} items")
        for i, part in enumerate(value):
            yield from further(f"[{i}]", part)
    elif isinstance(value, dict):
        yield path, Plain(type(value), f"the keys {list(value)}")
        for key, part in list(value.items()):
            yield from further(f"[{key!r}]", part)
    elif isinstance(value, np.ndarray) and value.dtype.hasobject:
        yield from further("", value.tolist())
    elif isinstance(value, np.ndarray):
        yield path, Plain(np.ndarray, f"{value.dtype}{list(value.shape)} {hashlib.sha256(value.tobytes()).hexdigest()}")
    else:
        yield path, Same(value)
        for step, part in _parts(value):
            yield from further(step, part)


def _parts(value) -> Iterator[tuple[str, object]]:
    """Of a function, or of an object of any other class."""
    if isinstance(value, functools.partial):
        yield from ((".func", value.func), (".args", value.args), (".keywords", value.keywords))
    elif isinstance(value, types.MethodType):
        yield from ((".__func__", value.__func__), (".__self__", value.__self__))
    elif isinstance(value, types.FunctionType):
        for key, cell in zip(value.__code__.co_freevars, value.__closure__ or ()):
            try:
                yield f" (its {key})", cell.cell_contents
            except ValueError:  # not assigned yet
                pass
        yield from ((".__defaults__", value.__defaults__), (".__kwdefaults__", value.__kwdefaults__))
        yield ".__code__", value.__code__
    elif not isinstance(value, OUTSIDE):
        yield from ((f".{key}", part) for key, part in list(getattr(value, "__dict__", {}).items()))
        yield from ((f".{slot}", getattr(value, slot)) for slot in _slots(type(value)) if hasattr(value, slot))


def depends_on_mode(module: nn.Module) -> bool:
    """Whether anything that is written in Python about a module asks for ``training``."""
    own = [value for key, value in vars(module).items() if key not in MODULE]
    hooks = [hook for key in HOOKS for hook in vars(module).get(key, {}).values()]
    return _class_asks(type(module)) or any(_asks(value) for value in (*own, *hooks) if isinstance(value, CODE))


@functools.lru_cache(1024)
def _class_asks(kind: type) -> bool:
    if issubclass(kind, torch.jit.ScriptModule):  # what it is compiled from is not at hand
        return True
    return any(_asks(value) for c in _own_classes(kind) for value in vars(c).values())


def _asks(value) -> bool:
    if isinstance(value, property):
        return any(_asks(f) for f in (value.fget, value.fset) if f is not None)
    if isinstance(value, functools.partial):
        return _asks(value.func)
    value = getattr(value, "__func__", value)
    code = getattr(value, "__code__", None)
    pending = [code] if isinstance(code, types.CodeType) else []
    while pending:
        code = pending.pop()
        if "training" in code.co_names or "training" in code.co_consts:
            return True
        pending += [c for c in code.co_consts if isinstance(c, types.CodeType)]
    return False
