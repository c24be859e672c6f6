"""Finds all that the function of a net depends on, by a walk through the net.

The walk sees the modules, the objects that they hold, and the user's code with the global variables that it names.  It
does not see names that are made while a net runs (``globals()[name]``, ``eval``, imports in a function), private data
of objects of compiled extensions, global variables of installed packages, the content of data sets, optimizers and
loggers (``OUTSIDE``), and PyTorch's own settings."""

import collections
import contextlib
import dis
import functools
import hashlib
import logging
import pathlib
import sys
import sysconfig
import types
import weakref
from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch import Tensor, nn

from .leaves import AGAIN, Digest, Fixed, Items, Path, Plain, Same
from .traced import TRACED, Traced

MODULE = vars(nn.Module()).keys() | {"_compiled_call_impl"}  # what every module has
HOOKS = sorted(key for key in MODULE if key.startswith("_forward"))  # hooks of backward passes change no value
PLAIN = {bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device, torch.Size}
SEQUENCES, SETS = (list, tuple, collections.deque), (set, frozenset)
MAPPINGS = (dict, types.MappingProxyType)
CONTAINERS = {*SEQUENCES, *SETS, *MAPPINGS}  # these have entries and nothing else
DATA = (*PLAIN, *SEQUENCES, *SETS, *MAPPINGS, Tensor, np.ndarray)  # these may be changed in place in a library's class
BOUND = (types.MethodType, types.BuiltinMethodType, types.MethodWrapperType)
CODE = (types.FunctionType, property, staticmethod, classmethod)

# These hold more than the net and change as it is trained, and no net computes with them.
OUTSIDE = (
    logging.Logger,
    logging.Handler,
    torch.optim.Optimizer,
    torch.optim.lr_scheduler.LRScheduler,
    torch.utils.data.Dataset,
    torch.utils.data.DataLoader,
    torch.utils.data.Sampler,
)
WRITERS = ("torch.utils.tensorboard.", "auto_LiRPA.")  # the same for classes of packages that may not be installed
# The code of these packages never changes, unless it is replaced.
LIBRARIES = {*sys.stdlib_module_names, "torch", "numpy", "scipy", "auto_LiRPA", "linf_plugin"} - {"__main__"}
INSTALLED, STANDARD = {"site-packages", "dist-packages"}, sysconfig.get_paths()["stdlib"]
GLOBAL = {"LOAD_GLOBAL", "LOAD_NAME"}

# The walk: all that the function of a net can depend on, as path → Plain, Items, Digest, Same or Tensor.


def walk(model: nn.Module) -> dict[Path, object]:
    """Returns every module with its class, children, parameters, buffers, forward hooks and further attributes, the
    mode of modules that compute another function in training mode, and what the code of all these holds and names."""
    return _Walk(model).found


def depend_on_mode(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """Returns the modules, with their names, whose ``training`` some Python code may ask for."""
    return _Walk(model).asking()


class _Walk:
    """What is found, and what is still to be looked into.  Each object is looked into once.

    ``same`` is ``Fixed`` for what is reached through code, because a copy of the net shares it, and else ``Same``.
    """

    def __init__(self, model: nn.Module):
        self.found, self.pending = {}, collections.deque()
        self.seen = {}  # objects by id, kept alive so that no other object gets an id of theirs
        self.modules, self.classes, self.asked = [], {}, False
        self.module("", model, Same)
        while self.pending:
            self.value(*self.pending.popleft())
        for name, module in self.asking():
            self.add((name, "training", ()), Plain(bool, repr(module.training)))

    def asking(self) -> list[tuple[str, nn.Module]]:
        """Returns the modules that are asked.  A function that is not of a module's class may ask any module."""
        kinds = {type(module) for _, module in self.modules}
        asks = {kind for kind in kinds if self.asked or any(map(_class_asks, _own_classes(kind)))}
        return [(name, module) for name, module in self.modules if type(module) in asks]

    def add(self, path: Path, leaf) -> None:
        while path in self.found:  # for example classes of the same name, or keys that are written alike
            path = *path[:2], (*path[2], AGAIN)
        self.found[path] = leaf

    def module(self, name: str, module: nn.Module, same: type[Same]) -> None:
        """Adds a module and all modules below it, before anything else that refers to them."""
        for below, m in module.named_modules(prefix=name):
            if id(m) not in self.seen:
                self.seen[id(m)] = m
                self.modules.append((below, m))
                self._module(below, m, same)

    def _module(self, name: str, module: nn.Module, same: type[Same]) -> None:
        kind, own = type(module), vars(module)
        self.kind(kind)
        self.add((name, "__class__", ()), Fixed(kind))
        children = module._modules.items()  # ``_modules`` of a ScriptModule is no full dictionary
        self.add((name, "sub-layers", ()), Plain(list, repr([key for key, _ in children])))
        for key, child in children:
            self.add((name, "sub-layers", (f"[{key!r}]",)), same(child))
        row = TRACED.get(kind)
        skipped = row.in_training if isinstance(row, Traced) else ()
        parts = [(key, value) for part in (module._parameters, module._buffers) for key, value in part.items()]
        parts += [(key, value) for key, value in own.items() if key not in MODULE]
        parts += [(slot, getattr(module, slot)) for slot in _slots(kind) if hasattr(module, slot)]
        parts += [(key, own[key]) for key in HOOKS if own.get(key)]
        for key, value in parts:
            if key not in skipped:
                path = (name, _shown(kind, key), ())
                if type(value) in PLAIN:
                    self.add(path, Plain(type(value), repr(value)))
                else:
                    self.pending.append((path, value, same))

    def value(self, path: Path, value, same: type[Same]) -> None:
        """Adds a value, and what is inside it."""
        kind = type(value)
        if kind in PLAIN or isinstance(value, (np.generic, pathlib.PurePath)):
            self.add(path, Plain(kind, repr(value)))
        elif isinstance(value, Tensor):
            self.add(path, value)
            if vars(value) and id(value) not in self.seen:
                self.seen[id(value)] = value
                self.further(path, _attributes(value), same)
        elif kind in CONTAINERS and _is_flat(value):
            self.add(path, _items(value))
        elif isinstance(value, types.FunctionType):
            self.function(path, value)
        elif isinstance(value, (type, types.ModuleType)):
            self.add(path, Fixed(value))
            self.namespace(value)
        elif id(value) in self.seen or _is_outside(kind):
            self.add(path, same(value))
        elif isinstance(value, nn.Module):  # kept in a list or a function, where PyTorch does not see it
            self.add(path, same(value))
            self.module(f"{path[0]}.{path[1]}{''.join(path[2])}".lstrip("."), value, same)
        else:
            self.seen[id(value)] = value
            self.kind(kind)
            self.composed(path, value, same)

    def further(self, path: Path, parts: Iterable[tuple[str, object]], same: type[Same]) -> None:
        name, attribute, inner = path
        self.pending.extend(((name, attribute, (*inner, step)), part, same) for step, part in parts)

    def composed(self, path: Path, value, same: type[Same]) -> None:
        """Adds a value that has parts."""
        kind = type(value)
        if isinstance(value, (*SEQUENCES, *MAPPINGS, *SETS)):
            if _is_flat(value):
                self.add(path, _items(value))
            else:
                self.add(path, Plain(kind, f"{len(value)} items"))
                self.further(path, _entries(value), same)
        elif isinstance(value, np.ndarray) and value.dtype.hasobject:
            self.further(path, [("", value.tolist())], same)
        elif (data := _bytes(value)) is not None:
            self.add(path, Digest(kind, hashlib.sha256(data).digest()))
        else:
            self.add(path, same(value))
        self.further(path, _parts(value), same)

    def function(self, path: Path, function: types.FunctionType, asks: bool = True) -> None:
        """Adds what a function holds and, if it is the user's code, the global variables that it names."""
        code = function.__code__
        self.add(path, Fixed(function))
        self.add((*path[:2], (*path[2], ".__code__")), Fixed(code))
        if id(function) in self.seen or (_is_library(function.__module__) and "<locals>" not in function.__qualname__):
            return
        self.seen[id(function)] = function
        self.asked |= asks and _code_asks(code)
        self.further(path, _held(function), Fixed)
        if _is_own(code.co_filename):
            self.globals(function.__globals__, *_names(code))

    def globals(self, namespace: dict, names: frozenset[str], attributes: frozenset[str]) -> None:
        """Adds the global variables that a function names, also of the user's own modules that it names."""
        key = f"module {namespace.get('__name__')}"
        for name in sorted(names & namespace.keys()):
            value = namespace[name]
            if (id(namespace), name) not in self.seen:
                self.seen[id(namespace), name] = namespace
                if isinstance(value, types.ModuleType):
                    self.add((key, name, ()), Fixed(value))
                else:
                    self.pending.append(((key, name, ()), value, Fixed))
            place = (id(value), attributes)
            if isinstance(value, types.ModuleType) and _is_own_module(value) and place not in self.seen:
                self.seen[place] = value
                self.globals(vars(value), attributes, attributes)

    def namespace(self, value: type | types.ModuleType) -> None:
        """Adds a class or a module that is used as a namespace."""
        if isinstance(value, type):
            self.kind(value)
        elif id(value) not in self.seen and _is_own_module(value):
            self.seen[id(value)] = value
            names = frozenset(key for key in vars(value) if not _is_dunder(key))
            self.globals(vars(value), names, frozenset())

    def kind(self, kind: type) -> None:
        """Adds a class and its bases: all bases if it is a module's class, else those that are of no library."""
        if kind in self.classes:
            return
        self.classes[kind] = None
        self.asked |= _library_asks(kind)
        for c in _own_classes(kind):
            if c is kind or c not in self.classes:
                self.classes[c] = None
                self._class(c)
        self.kind(type(kind))

    def _class(self, kind: type) -> None:
        where, library, module = f"class {kind.__qualname__}", _is_library(kind.__module__), issubclass(kind, nn.Module)
        self.add((where, "__bases__", ()), Fixed(kind.__bases__))
        for key, value in list(vars(kind).items()):
            path = (where, key, ())
            if _is_dunder(key) and not (key == "__call__" if library else isinstance(value, CODE)):
                continue
            if library and not isinstance(value, DATA):
                self.add(path, Fixed(value))
            elif isinstance(value, types.FunctionType):
                self.function(path, value, asks=not module)
            else:
                self.pending.append((path, value, Fixed))


@functools.lru_cache(1024)
def _own_classes(kind: type) -> tuple[type, ...]:
    """Returns a class and its bases: all of them if it is a module's class, else those that the user wrote."""
    if issubclass(kind, nn.Module):
        return tuple(c for c in kind.__mro__ if c not in (nn.Module, object))
    return tuple(c for c in kind.__mro__ if not _is_library(c.__module__))


@functools.lru_cache(1024)
def _is_outside(kind: type) -> bool:
    return issubclass(kind, OUTSIDE) or any(f"{c.__module__}.".startswith(WRITERS) for c in kind.__mro__)


@functools.lru_cache(4096)
def _is_library(module: str | None) -> bool:
    return (module or "").partition(".")[0] in LIBRARIES


@functools.lru_cache(4096)
def _is_own(file: str) -> bool:
    """Whether the file holds the user's own code."""
    return not INSTALLED & set(pathlib.PurePath(file).parts) and not file.startswith((STANDARD, "<frozen"))


def _is_own_module(module: types.ModuleType) -> bool:
    return not _is_library(module.__name__) and _is_own(getattr(module, "__file__", None) or "")


def _is_dunder(key: str) -> bool:
    return key.startswith("__") and key.endswith("__")


@functools.lru_cache(1024)
def _slots(kind: type) -> tuple[str, ...]:
    """Returns the attributes of objects of a class that are not in ``vars``."""
    slots = [vars(c).get("__slots__", ()) for c in kind.__mro__]
    named = [slot for some in slots for slot in ((some,) if isinstance(some, str) else some)]
    return tuple(slot for slot in named if slot not in ("__dict__", "__weakref__"))


@functools.lru_cache(4096)
def _shown(kind: type, key: str) -> str:
    """Returns the name of the property behind which an attribute stands; without one, the attribute's own name."""
    return key[1:] if key.startswith("_") and isinstance(getattr(kind, key[1:], None), property) else key


def _is_flat(value) -> bool:
    kinds = {*map(type, value), *map(type, value.values())} if isinstance(value, MAPPINGS) else {*map(type, value)}
    return kinds <= PLAIN


def _items(value) -> Items:
    if isinstance(value, MAPPINGS):
        return Items(type(value), tuple(map(repr, value)), tuple(map(repr, value.values())))
    texts = tuple(map(repr, value))
    return Items(type(value), (), tuple(sorted(texts)) if isinstance(value, SETS) else texts)


def _entries(value) -> Iterator[tuple[str, object]]:
    """Yields the entries of a container, in order.  A key that is an object is an entry itself."""
    if not isinstance(value, MAPPINGS):
        yield from ((f"[{i}]", part) for i, part in enumerate(value))
        return
    for i, (key, part) in enumerate(list(value.items())):
        step = f"[{key!r}]" if type(key) in PLAIN else f"[the {type(key).__name__} {i}]"
        yield from (((f" (key {i})", key), (step, part)))


def _bytes(value) -> bytes | None:
    """Returns the content of an array or of another object with a buffer; None if there is no buffer."""
    if isinstance(value, np.ndarray):
        return f"{value.dtype}{list(value.shape)}".encode() + value.tobytes()
    try:
        view = memoryview(value)
    except TypeError:
        return None
    return f"{view.format}{view.shape}".encode() + view.tobytes()


def _parts(value) -> Iterator[tuple[str, object]]:
    """Yields the parts of an object that are not its entries."""
    if type(value) in CONTAINERS:
        return
    if isinstance(value, functools.partial):
        yield from ((".func", value.func), (".args", value.args), (".keywords", value.keywords))
    elif isinstance(value, BOUND):
        yield from ((".__func__", getattr(value, "__func__", None)), (".__self__", value.__self__))
    elif isinstance(value, property):
        yield from ((".fget", value.fget), (".fset", value.fset))
    elif isinstance(value, (staticmethod, classmethod)):
        yield ".__func__", value.__func__
    elif isinstance(value, collections.defaultdict):
        yield ".default_factory", value.default_factory
    elif isinstance(value, weakref.ReferenceType):
        yield "()", value()
    yield from _attributes(value)


def _attributes(value) -> Iterator[tuple[str, object]]:
    yield from [(f".{key}", part) for key, part in getattr(value, "__dict__", {}).items()]
    yield from ((f".{slot}", getattr(value, slot)) for slot in _slots(type(value)) if hasattr(value, slot))


def _held(function: types.FunctionType) -> Iterator[tuple[str, object]]:
    for key, cell in zip(function.__code__.co_freevars, function.__closure__ or ()):
        with contextlib.suppress(ValueError):  # not assigned yet
            yield f" (its {key})", cell.cell_contents
    if function.__defaults__:
        yield ".__defaults__", function.__defaults__
    if function.__kwdefaults__:
        yield ".__kwdefaults__", function.__kwdefaults__
    yield from ((f".{key}", part) for key, part in list(vars(function).items()))


# What code names.


@functools.lru_cache(4096)
def _codes(code: types.CodeType) -> tuple[types.CodeType, ...]:
    """Returns the code, and that of the functions in it."""
    inner = (c for c in code.co_consts if isinstance(c, types.CodeType))
    return code, *(below for c in inner for below in _codes(c))


@functools.lru_cache(4096)
def _names(code: types.CodeType) -> tuple[frozenset[str], frozenset[str]]:
    """Returns the names that the code reads as global variables, and all names in it."""
    read = {step.argval for c in _codes(code) for step in dis.get_instructions(c) if step.opname in GLOBAL}
    return frozenset(read), frozenset(name for c in _codes(code) for name in c.co_names if not _is_dunder(name))


@functools.lru_cache(4096)
def _code_asks(code: types.CodeType) -> bool:
    return any("training" in c.co_names or "training" in c.co_consts for c in _codes(code))


def _class_asks(kind: type) -> bool:
    if issubclass(kind, torch.jit.ScriptModule):  # its source is not available
        return True
    return any(map(_asks, list(vars(kind).values())))


@functools.lru_cache(1024)
def _library_asks(kind: type) -> bool:
    """Whether library code of a class that is no module's, such as a hook's, may ask a module for its mode."""
    return not issubclass(kind, nn.Module) and any(_class_asks(c) for c in kind.__mro__ if _is_library(c.__module__))


def _asks(value) -> bool:
    if isinstance(value, property):
        return any(_asks(f) for f in (value.fget, value.fset) if f is not None)
    code = getattr(getattr(value, "__func__", value), "__code__", None)
    return isinstance(code, types.CodeType) and _code_asks(code)
