"""Plain data from files of which nothing is trusted."""

import json
import re
import reprlib
from fractions import Fraction
from typing import Any

DEEPEST = 100  # arrays and objects within each other
_TEXT = re.compile(r'"(?:[^"\\]|\\.)*"?', re.DOTALL)
_PART = re.compile(r"[+-]?[\d.]{1,100}(e[+-]?\d{1,3})?", re.ASCII | re.IGNORECASE)
_EDGE = re.compile(r"[\[\]{}]")


def loads(text: str, **options: Any) -> Any:
    """``json.loads`` of text that may be hostile.

    Python ends a parser that goes too deep by RecursionError, but where auto_LiRPA was imported its limit is a million,
    and the process dies of its stack.

    Raises:
        ValueError: it is no JSON, or nested deeper than ``DEEPEST``.
    """
    check_nesting(text)
    return json.loads(text, **options)


def check_nesting(text: str, deepest: int = DEEPEST) -> None:
    """That brackets and braces outside of texts in double quotes are not nested deeper.  Raises ValueError."""
    depth = 0
    for edge in _EDGE.finditer(_TEXT.sub("", text)):
        depth += 1 if edge[0] in "[{" else -1
        if depth > deepest:
            raise ValueError(f"it is nested deeper than {deepest} times")


def fraction(text: str) -> float:
    """The float nearest to a number that is written out, or to a fraction such as 8/255.  Raises ValueError."""
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
    """``repr`` of a value from a file, as a message shows it: short, however large and deep the value is."""
    text = _SHORT.repr(value)
    return text if len(text) <= 200 else text[:197] + "…"
