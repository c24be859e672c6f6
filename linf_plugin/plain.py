"""JSON from files of which nothing is trusted."""

import json
import re

DEEPEST = 100  # arrays and objects within each other
_TEXT = re.compile(r'"(?:[^"\\]|\\.)*"?', re.DOTALL)
_EDGE = re.compile(r"[\[\]{}]")


def loads(text: str):
    """``json.loads`` of text that may be hostile.

    Python ends a parser that goes too deep by RecursionError, but where auto_LiRPA was imported its limit is a million, and
    the process dies of its stack.

    Raises:
        ValueError: it is no JSON, or nested deeper than ``DEEPEST``.
    """
    depth = 0
    for edge in _EDGE.finditer(_TEXT.sub("", text)):
        depth += 1 if edge[0] in "[{" else -1
        if depth > DEEPEST:
            raise ValueError(f"it is nested deeper than {DEEPEST} times")
    return json.loads(text)
