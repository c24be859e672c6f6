"""Reads files of ``torch.save`` without trusting them: it returns tensors and plain data or raises a short ValueError.

``torch.load`` with ``weights_only=True`` runs no code.  But it takes the sizes of tensors and of compressed parts from
the file, so a small file can fill the memory.  This module compares every size with the bytes in the file.
"""

import math
import os
import pickletools
import stat
import zipfile
from typing import Any

import torch
from torch import Tensor

MOST_ENTRIES = 100_000  # parts of one archive
MOST_STEPS = 500_000  # steps of the pickle program that builds the content: about one for each object
DEEPEST = 100  # levels of containers within containers
LARGEST_INT = 2**64  # an attacker can choose larger ints that all have the same hash

# The steps that protocol 2 of pickle writes for plain data and for torch's tensors.
PICKLE_STEPS = frozenset(
    """
    PROTO STOP MARK NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 BINFLOAT BINUNICODE EMPTY_DICT EMPTY_LIST
    EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 APPEND APPENDS SETITEM SETITEMS BINPUT LONG_BINPUT BINGET LONG_BINGET GLOBAL
    REDUCE BUILD BINPERSID
""".split()
)

DTYPES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
}


def load(path: str | os.PathLike) -> Any:
    """Returns what ``torch.save`` wrote, with its tensors on the CPU.

    Plain data are None, bool, int, float, str, and lists, tuples and dicts of these.  Time and memory are proportional
    to the size of the file.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is not one of ``torch.save``, is cut off, holds something else, or states sizes that do not
            match its bytes.  The message says what is wrong, but does not name the file.
    """
    with open(path, "rb") as f:
        if not stat.S_ISREG(os.fstat(f.fileno()).st_mode):
            raise ValueError("it is a folder or a device, not a file")
        size = os.fstat(f.fileno()).st_size
        try:
            with zipfile.ZipFile(f) as archive:
                entries = _entries(archive, size)
                content = _Reader(archive, entries).load()
        except ValueError:
            raise
        except Exception as error:  # on damaged bytes zipfile and pickle can raise any exception
            raise ValueError(f"it is not a complete file of torch.save ({type(error).__name__})") from error
    _check(content, size)
    return content


def _entries(archive: zipfile.ZipFile, size: int) -> dict[str, zipfile.ZipInfo]:
    """Returns the entries by their path within the one folder that holds them all."""
    infos = archive.infolist()
    if not 0 < len(infos) <= MOST_ENTRIES:
        raise ValueError(f"it has {len(infos)} parts")
    if any(i.compress_type != zipfile.ZIP_STORED or i.file_size != i.compress_size or i.flag_bits & 1 for i in infos):
        raise ValueError("it has compressed parts, which torch.save does not write")
    if sum(i.file_size for i in infos) > size:
        raise ValueError("its parts are larger than the file")
    folder = infos[0].filename.partition("/")[0]
    entries = {i.filename.removeprefix(f"{folder}/"): i for i in infos if i.filename.startswith(f"{folder}/")}
    if len(entries) != len(infos) or "data.pkl" not in entries:
        raise ValueError("it does not have the parts that torch.save writes")
    return entries


class _Name(str):
    """The name of a function or a type in a pickle.  ``_Reader.call`` and ``DTYPES`` say what it stands for."""


class _Storage:
    """The numbers of which tensors are views."""

    def __init__(self, numbers: Tensor):
        self.numbers = numbers


class _Reader:
    """Builds the content of an archive with a stack and a memo, as pickle does, but knows only ``PICKLE_STEPS``.

    It imports and calls nothing by name.  It builds only plain data, tensors and the classes of this module.
    """

    MARK = object()

    def __init__(self, archive: zipfile.ZipFile, entries: dict[str, zipfile.ZipInfo]):
        self.archive, self.entries = archive, entries
        self.storages: dict[str, Tensor] = {}
        self.stack: list = []
        self.memo: dict[int, object] = {}
        if self._bytes("byteorder", b"little") != b"little":
            raise ValueError("its numbers have the byte order of another machine")

    def _bytes(self, name: str, default: bytes | None = None) -> bytes:
        if name not in self.entries:
            if default is None:
                raise ValueError(f"its part {name!r} is missing")
            return default
        return self.archive.read(self.entries[name])  # this compares the checksum of the part

    def load(self) -> Any:
        for count, (step, argument, _) in enumerate(pickletools.genops(self._bytes("data.pkl"))):
            if step.name not in PICKLE_STEPS:
                raise ValueError(f"it contains the step {step.name} of pickle")
            if count > MOST_STEPS:
                raise ValueError(f"it has more than {MOST_STEPS:,} objects")
            self._step(step.name, argument)
        if len(self.stack) != 1:
            raise ValueError("its program is not a pickle of plain data")
        return self.stack[0]

    def _step(self, name: str, argument: Any) -> None:
        push, pop = self.stack.append, self.stack.pop
        if name in PUSHED:
            push(PUSHED[name])
        elif name in ("BININT", "BININT1", "BININT2", "BINFLOAT", "BINUNICODE", "LONG1"):
            if name == "LONG1" and abs(argument) > LARGEST_INT:
                raise ValueError("it contains a whole number of more than 64 bits")
            push(argument)
        elif name in ("EMPTY_DICT", "EMPTY_LIST"):
            push({} if name == "EMPTY_DICT" else [])
        elif name in ("BINPUT", "LONG_BINPUT"):
            self.memo[argument] = self.stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            push(self.memo[argument])
        elif name == "MARK":
            push(self.MARK)
        elif name == "TUPLE":
            push(tuple(self._since_mark()))
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            parts = [pop() for _ in range(int(name[-1]))]
            push(tuple(parts[::-1]))
        elif name in ("APPEND", "APPENDS"):
            parts = self._since_mark() if name == "APPENDS" else [pop()]
            self._top(list).extend(parts)
        elif name in ("SETITEM", "SETITEMS"):
            parts = self._since_mark() if name == "SETITEMS" else [pop(), pop()][::-1]
            self._set(parts[::2], parts[1::2])
        elif name == "GLOBAL":
            push(_Name(argument.replace(" ", ".")))
        elif name == "REDUCE":
            arguments = pop()
            push(self.call(pop(), arguments))
        elif name == "BUILD":  # torch notes the versions of its layers with it; they are not needed
            pop()
            self._top(dict)
        elif name == "BINPERSID":
            push(self.storage(pop()))

    def _since_mark(self) -> list:
        parts = []
        while (value := self.stack.pop()) is not self.MARK:
            parts.append(value)
        return parts[::-1]

    def _top(self, kind: type) -> Any:
        if type(self.stack[-1]) is not kind:
            raise ValueError("its program is not a pickle of plain data")
        return self.stack[-1]

    def _set(self, keys: list, values: list) -> None:
        for key in keys:
            if not all(type(k) in PLAIN_TYPES for k in (key if type(key) is tuple else [key])):
                raise ValueError(f"it contains a dict with a key of type {type(key).__name__}")
        self._top(dict).update(zip(keys, values, strict=True))

    def call(self, function: Any, arguments: Any) -> Any:
        """Returns the result of one of the functions that torch.save writes."""
        if not isinstance(function, _Name):
            raise ValueError("its program is not a pickle of plain data")
        if function == "collections.OrderedDict" and arguments == ():
            return {}
        if function == "torch._utils._rebuild_tensor_v2" and isinstance(arguments, tuple) and 4 <= len(arguments) <= 7:
            return _tensor(*arguments[:4])
        if function == "torch.Size" and isinstance(arguments, tuple) and len(arguments) == 1:
            return arguments[0]
        parts = [type(a) for a in arguments] if isinstance(arguments, tuple) else []
        if function == "torch._utils._rebuild_parameter" and parts == [Tensor, bool, dict]:
            return arguments[0]  # the tensor of an nn.Parameter; then whether it is trained, and its hooks
        raise ValueError(f"it contains {str(function)[:100]}")

    def storage(self, pid: Any) -> _Storage:
        """Returns the numbers to which pid = ("storage", type, part, device, count) refers."""
        if not (isinstance(pid, tuple) and len(pid) == 5 and pid[0] == "storage"):
            raise ValueError("it refers to a part in an unknown way")
        _, kind, key, _, numel = pid
        if not isinstance(kind, _Name) or kind.removeprefix("torch.") not in DTYPES:
            raise ValueError(f"it contains {str(kind)[:100]}")
        if type(key) is not str or not key.isalnum() or type(numel) is not int:
            raise ValueError("it refers to a part in an unknown way")
        dtype = DTYPES[kind.removeprefix("torch.")]
        if key not in self.storages:
            self.storages[key] = _numbers(self._bytes(f"data/{key}"), dtype, key)
        numbers = self.storages[key]
        if numbers.dtype != dtype or len(numbers) != numel:
            raise ValueError(f"its part data/{key} does not have the {numel} numbers that the file states")
        return _Storage(numbers)


PUSHED = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
PLAIN_TYPES = (str, int, float, bool, type(None))


def _numbers(data: bytes, dtype: torch.dtype, key: str) -> Tensor:
    if len(data) % dtype.itemsize:
        raise ValueError(f"its part data/{key} is cut off")
    if dtype == torch.bool and data.translate(None, b"\0\1"):
        raise ValueError(f"its part data/{key} holds bytes that are neither true nor false")
    return torch.frombuffer(bytearray(data), dtype=dtype) if data else torch.empty(0, dtype=dtype)


def _tensor(storage: Any, offset: Any, size: Any, stride: Any) -> Tensor:
    """Returns the view that ``torch._utils._rebuild_tensor_v2`` gives, if the storage has all its numbers."""
    whole = isinstance(size, tuple) and isinstance(stride, tuple) and len(size) == len(stride) <= 64
    if not whole or any(type(n) is not int or not 0 <= n < 2**62 for n in (offset, *size, *stride)):
        raise ValueError("a tensor has invalid sizes")
    if not isinstance(storage, _Storage):
        raise ValueError("a tensor has no numbers")
    numbers, numel = storage.numbers, math.prod(size)
    if numel == 0:
        return numbers.new_empty(size)
    last = offset + sum((n - 1) * step for n, step in zip(size, stride))
    if numel > len(numbers) or last >= len(numbers):
        raise ValueError(f"a tensor of shape {size} has only {len(numbers)} numbers")
    return numbers.as_strided(size, stride, offset)


def _check(content: Any, size: int) -> None:
    """Checks that the content consists of tensors and plain data and is not much larger than its file.

    Parts may occur more than once, but not so often that a walk through them takes too long.
    """
    left, numbers = MOST_STEPS, 8 * size + 2**20
    waiting = [(content, 0)]
    while waiting:
        value, depth = waiting.pop()
        left -= 1
        if type(value) is Tensor:
            numbers -= value.numel() * value.element_size()
        elif type(value) is str:
            numbers -= len(value)
        elif type(value) is dict:
            waiting += [(part, depth + 1) for pair in value.items() for part in pair]
        elif type(value) in (list, tuple):
            waiting += [(part, depth + 1) for part in value]
        elif type(value) not in PLAIN_TYPES:
            raise ValueError(f"it contains {str(value)[:100] if isinstance(value, _Name) else 'a part of a tensor'}")
        if left < 0 or numbers < 0 or len(waiting) > MOST_STEPS or depth > DEEPEST:
            raise ValueError("its parts contain each other too often or too deeply")
