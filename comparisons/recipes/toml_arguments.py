"""Turns tables of a TOML file into arguments of functions.  Checks every key and type, and names mistakes."""

import inspect
import math
from collections.abc import Callable
from types import NoneType
from typing import get_args

from linf_plugin import plain
from linf_plugin.plain import shown

from ..methods.parts import Part, arguments_of


def is_number(value) -> bool:
    try:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # an integer beyond float64
        return False


def _is_whole(value) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _list_of(check: Callable) -> Callable:
    return lambda value: isinstance(value, list) and all(check(v) for v in value)


# Type of an argument → what its value in a file must be: in words, and as a check
TYPES = {
    bool: ("true or false", lambda value: isinstance(value, bool)),
    str: ("a string", lambda value: isinstance(value, str)),
    dict: ("a table", lambda value: isinstance(value, dict)),
    int: ("a whole number ≥ 1", lambda value: _is_whole(value) and 1 <= value < 2**63),
    float: ("a number ≥ 0", lambda value: is_number(value) and value >= 0),
    tuple[int, ...]: ("a list of whole numbers ≥ 1", _list_of(lambda value: _is_whole(value) and value >= 1)),
    tuple[float, ...]: ("a list of numbers ≥ 0", _list_of(lambda value: is_number(value) and value >= 0)),
    tuple[str, ...]: ("a list of strings", _list_of(lambda value: isinstance(value, str))),
    tuple[dict, ...]: ("a list of tables", _list_of(lambda value: isinstance(value, dict))),
}
ANYTHING = ("anything", lambda value: True)
WHOLE_OR_0 = ("a whole number ≥ 0", lambda value: _is_whole(value) and 0 <= value < 2**63)  # if 0 is the default


def _kind(parameter: inspect.Parameter) -> tuple[str, Callable]:
    kind = parameter.annotation
    if NoneType in get_args(kind):  # an optional argument
        (kind,) = (k for k in get_args(kind) if k is not NoneType)
    if kind is inspect.Parameter.empty:  # of a function of your own
        return ANYTHING
    return WHOLE_OR_0 if kind is int and parameter.default == 0 else TYPES[kind]


def known_keys(table: dict, known, where: str) -> None:
    """Raises ValueError if a key is not known."""
    for key in table:
        if key not in known:
            raise ValueError(f"{where}: unknown key {key!r}; known: {', '.join(sorted(known))}")


def arguments(table: dict, known: dict[str, inspect.Parameter], where: str) -> dict:
    """Returns the table as arguments for these parameters.  Lists become tuples.

    Raises ValueError if a key is unknown or missing, or a value has the wrong type.
    """
    known_keys(table, known, where)
    for key, value in table.items():
        words, fits = _kind(known[key])
        if not fits(value):
            raise ValueError(f"{where}: {key} must be {words}, got {shown(value)}")
    missing = [name for name, p in known.items() if p.default is p.empty and name not in table]
    if missing:
        raise ValueError(f"{where}: {missing[0]} is missing")
    return {key: tuple(value) if isinstance(value, list) else value for key, value in table.items()}


def parameters(function: Callable, given: tuple[str, ...] = ()) -> dict[str, inspect.Parameter]:
    """Returns the arguments of a function, or the fields of a dataclass, that a file may give: all except ``given``."""
    return {name: p for name, p in inspect.signature(function).parameters.items() if name not in given}


def check_named(table, key: str, part: Part, where: str) -> None:
    """Checks that a table {"name": …, arguments…} fits the function of that name.  Raises ValueError if not."""
    if not isinstance(table, dict) or not isinstance(table.get("name"), str) or table["name"] not in part.registry:
        given = table.get("name") if isinstance(table, dict) else table
        raise ValueError(f"{where}: {key} needs a name among {', '.join(part.registry)}, got {shown(given)}")
    name = table["name"]
    arguments(arguments_of(table), part.parameters(name), f"{where} {key} {name!r}")


def eps(value, where: str, most: float = 1.0) -> float:
    """Returns the float that is nearest to a number, or to a fraction such as "8/255".

    Raises ValueError if the value is neither, or lies outside [0, most].
    """
    try:
        if isinstance(value, str):
            found = plain.fraction(value)
        elif is_number(value):
            found = float(value)
        else:
            raise ValueError
    except (ValueError, OverflowError):
        raise ValueError(f'{where} must be a number or a fraction in quotes, "8/255", got {shown(value)}') from None
    if not 0 <= found <= most:
        allowed = "lie in the pixel range [0, 1]" if most == 1 else "not be negative"
        raise ValueError(f"{where} must {allowed}, got {shown(value)}")
    return found
