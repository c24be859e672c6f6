"""Results files that are not as ``run`` writes them: refused by what is wrong in them."""

import copy
import json
from pathlib import Path

import pytest

from comparisons.report.tables import over_seeds, read, table

WHOLE = Path(__file__).parents[2] / "docs" / "results" / "digits" / "results.json"
VALUES = (None, "text", -1, [], {}, True, 1.5)


def _places(value, found: list, path: tuple = ()) -> list:
    for key, part in value.items() if isinstance(value, dict) else enumerate(value):
        found.append((*path, key))
        if isinstance(part, (dict, list)):
            _places(part, found, (*path, key))
    return found


def test_every_part_changed_is_refused_in_a_sentence_or_shown(tmp_path):
    """Whatever stands in its place, and where it is missing."""
    whole, path, refused = json.loads(WHOLE.read_text(encoding="utf-8")), tmp_path / "results.json", 0
    places = [p for p in _places(whole, []) if "loss" not in p and "versions" not in p]
    for i, place in enumerate(places):
        for value in (VALUES[i % len(VALUES)], VALUES[(i + 3) % len(VALUES)], ...):
            content = copy.deepcopy(whole)
            parent = content
            for key in place[:-1]:
                parent = parent[key]
            if value is ...:
                del parent[place[-1]]
            else:
                parent[place[-1]] = value
            path.write_text(json.dumps(content), encoding="utf-8")
            try:
                results = read(path)
            except ValueError as error:
                assert "results.json is not a results file of linf-compare: " in str(error)
                assert len(str(error).splitlines()) == 1
                refused += 1
            else:
                assert table(results) and over_seeds([results]) == ""
    assert refused > len(places)


NO_JSON = [b"", b"[1, 2]", b"{", b"\xff\xfe", b"[" * 100_000, b"9" * 10_000]


@pytest.mark.parametrize("content", NO_JSON, ids=lambda c: str(c[:6]))
def test_what_is_no_json_is_refused(content, tmp_path):
    (tmp_path / "results.json").write_bytes(content)
    with pytest.raises(ValueError, match="results.json is not a results file of linf-compare"):
        read(tmp_path)
