"""JSON of any depth is read, or refused with one sentence, also if Python's recursion limit is raised."""

import json
import sys

import pytest

from linf_plugin import plain


@pytest.fixture
def no_limit():
    """Sets the recursion limit that the import of auto_LiRPA sets."""
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(1_000_000)
    yield
    sys.setrecursionlimit(before)


@pytest.mark.parametrize(
    "text",
    ["[" * 200_000, '{"a":' * 200_000, '[{"a":' * 60 + "1", "[" * 101 + "]" * 101, '"\\""' + "[" * 200_000],
    ids=["lists", "dicts", "both", "just too deep", "behind a text"],
)
def test_deep_json_is_refused(text, no_limit):
    with pytest.raises(ValueError, match="nested deeper than 100 times"):
        plain.loads(text)


@pytest.mark.parametrize(
    "value",
    ["[[[[" * 100, '"[' * 200, "\\[" * 200, [[["["]]], {"{": [1, 2.5, None, True]}, "\"[{'\\" * 60],
    ids=["text", "quotes", "escapes", "lists", "dict", "all of it"],
)
def test_other_json_is_read(value):
    assert plain.loads(json.dumps(value)) == value


@pytest.mark.parametrize(
    "text, value",
    [("8/255", 8 / 255), ("0.1", 0.1), ("1e-3", 1e-3), (" 8.8 / 255 ", 88 / 2550), ("-.5", -0.5), ("1/3", 1 / 3)],
)
def test_fractions(text, value):
    assert plain.fraction(text) == value


@pytest.mark.parametrize(
    "text",
    [
        "",
        "/",
        "1/0",
        "1/2/3",
        "nan",
        "inf",
        "1e999999999",
        "1e-999999999",
        "1/1e9999",
        "9" * 1000,
        "١",
        "1_0",
        "0x1",
        ".",
    ],
)
def test_what_is_no_fraction_is_refused(text):
    with pytest.raises(ValueError, match="must be a number or a fraction such as 8/255, got "):
        plain.fraction(text)


@pytest.mark.parametrize("text", ["", "[", "]", '"', "nan", "9" * 10_000])
def test_what_is_no_json_is_refused(text):
    with pytest.raises(ValueError):
        plain.loads(text)
