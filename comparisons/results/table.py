"""Reads a JSON object from an untrusted file, key by key.  Messages say where something is wrong."""

import math
from collections.abc import Iterator

REQUIRED = object()


class Table:
    """A JSON object, and the set of its keys that were read.

    Every method that reads takes a key, and maybe a default.  With a default, null counts as missing.  A method raises
    ValueError if a required key is missing, or if its value has the wrong type.
    """

    def __init__(self, content: dict, where: str = "it"):
        self.content, self.where, self.taken = content, where[:80], set()

    def _take(self, key: str, default, kinds: tuple[type, ...], words: str):
        self.taken.add(key)
        value = self.content.get(key)
        if value is None and default is not REQUIRED:
            return default
        if key not in self.content:
            raise ValueError(f"{self.where} lacks {key!r}")
        if not isinstance(value, kinds) or isinstance(value, bool):
            raise ValueError(f"{self._of(key)} must be a {words}, got {type(value).__name__}")
        return value

    def _of(self, key: str) -> str:
        return key[:80] if self.where == "it" else f"{key[:80]} of {self.where}"

    def text(self, key: str, default=REQUIRED):
        return self._take(key, default, (str,), "str")

    def whole(self, key: str, default=REQUIRED):
        return self._take(key, default, (int,), "int")

    def number(self, key: str, default=REQUIRED):
        value = self._take(key, default, (int, float), "number")
        if isinstance(value, int) and abs(value) > 2**63:
            raise ValueError(f"{self._of(key)} is too large")
        return value

    def mapping(self, key: str, default=REQUIRED):
        return self._take(key, default, (dict,), "dict")

    def sequence(self, key: str, default=REQUIRED):
        return self._take(key, default, (list,), "list")

    def texts(self, key: str, default=REQUIRED):
        values = self.sequence(key, default)
        if not all(isinstance(value, str) for value in values):
            raise ValueError(f"{self._of(key)} must be a list of str")
        return values

    def flag(self, key: str) -> bool:
        self.taken.add(key)
        if not isinstance(value := self.content.get(key), bool):
            raise ValueError(f"{self._of(key)} must be a bool, got {type(value).__name__}")
        return value

    def rows(self, key: str) -> tuple[int, ...]:
        """Returns a list of numbers of images."""
        values = self.sequence(key)
        if not all(isinstance(value, int) and not isinstance(value, bool) and value >= 0 for value in values):
            raise ValueError(f"{self._of(key)} must be a list of int, none negative")
        return tuple(values)

    def table(self, key: str) -> "Table":
        return Table(self.mapping(key), self._of(key))

    def tables(self, key: str, required: tuple[str, ...] = ()) -> Iterator[tuple[str, "Table"]]:
        """Yields the entries of an object of objects.  Raises ValueError if a ``required`` entry is missing."""
        table = self.table(key)
        if missing := [name for name in required if name not in table.content]:
            raise ValueError(f"{table.where} lacks {missing[0]!r}")
        for name in table.content:
            each = table.mapping(name)
            yield name, Table(each, name if self.where == "it" else table._of(name))

    def eps(self, key: str) -> float:
        return _eps(self.number(key), self._of(key))

    def list_of_eps(self, key: str) -> list[float]:
        values = self.sequence(key)
        for value in values:
            if not isinstance(value, (int, float)) or isinstance(value, bool):
                raise ValueError(f"{self._of(key)} must be a list of numbers")
        return [_eps(value, self._of(key)) for value in values]

    def numbers_by_eps(self) -> dict[float, float]:
        """Returns every entry as ε → number.  A key is ε as text."""
        return {self._eps_of(key): self.number(key) for key in self.content}

    def tables_by_eps(self) -> Iterator[tuple[float, list["Table"]]]:
        """Yields every entry, a list of objects, as (ε, its objects).  A key is ε as text."""
        for key in self.content:
            eps, values = self._eps_of(key), self.sequence(key)
            if not all(isinstance(value, dict) for value in values):
                raise ValueError(f"{self._of(key)} must be a list of dict")
            yield eps, [Table(value, self._of(key)) for value in values]

    def _eps_of(self, key: str) -> float:
        try:
            eps = float(key)
        except ValueError:
            raise ValueError(f"{self.where} has the key {key[:80]!r}, which is not an ε") from None
        return _eps(eps, self._of(key))

    def rest(self) -> dict:
        """Returns the entries that were not read."""
        return {key: value for key, value in self.content.items() if key not in self.taken}


def _eps(value: float, where: str) -> float:
    if not 0 <= value < math.inf:
        raise ValueError(f"{where} must not be negative, got {value}")
    return float(value)
