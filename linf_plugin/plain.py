"""Reads plain data from files that are not trusted."""

import json
import re
import reprlib
from fractions import Fraction
from typing import Any

DEEPEST = 100  # levels of arrays and objects within each other
_TEXT = re.compile(r'"(?:[^"\\]|\\.)*"?', re.DOTALL)
_PART = re.compile(r"[+-]?[\d.]{1,100}(e[+-]?\d{1,3})?", re.ASCII | re.IGNORECASE)
_EDGE = re.compile(r"[\[\]{}]")


def loads(text: str, **options: Any) -> Any:
    """Does ``json.loads`` on text that may be hostile.

    Python stops a parser that goes too deep with a RecursionError.  But auto_LiRPA sets the recursion limit to a
    million, and then the stack overflows first and the process dies.

    Raises:
        ValueError: the text is not JSON, or is nested deeper than ``DEEPEST``.
    """
    check_nesting(text)
    return json.loads(text, **options)


def check_nesting(text: str, deepest: int = DEEPEST) -> None:
    """Raises ValueError if brackets and braces, outside of double quotes, are nested deeper than ``deepest``."""
    depth = 0
    for edge in _EDGE.finditer(_TEXT.sub("", text)):
        depth += 1 if edge[0] in "[{" else -1
        if depth > deepest:
            raise ValueError(f"it is nested deeper than {deepest} times")


def fraction(text: str) -> float:
    """Returns the float nearest to a number or a fraction, such as 0.03 or 8/255.  Raises ValueError for other text."""
    numerator, *denominator = text.split("/", 1)
    try:
        if not all(_PART.fullmatch(part.strip()) for part in (numerator, *denominator)):
            raise ValueError
        return float(Fraction(numerator) / Fraction(*denominator or (1,)))
    except (ValueError, ArithmeticError):
        raise ValueError(f"must be a number or a fraction such as 8/255, got {shown(text)}") from None


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 80
_SHORT.maxlist = _SHORT.maxtuple = _SHORT.maxdict = 20


def shown(value: object) -> str:
    """Returns the ``repr`` of a value from a file for a message.  It is short even if the value is large and deep."""
    text = _SHORT.repr(value)
    return text if len(text) <= 200 else text[:197] + "…"
