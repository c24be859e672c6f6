"""Results files: what is written is read, earlier forms too; all else is refused by what is wrong in it."""

import copy
import dataclasses
import json
from pathlib import Path

import pytest
from runs import DOCS, RUNS, form_1, made_up

from comparisons.report.seeds import over_seeds
from comparisons.report.tables import table
from comparisons.results import file
from comparisons.results.file import from_plain, read, to_plain, write
from comparisons.results.schema import same_settings
from comparisons.results.upgrade import upgraded
from linf_plugin.norms import NORMS

WHOLE = json.loads((Path(__file__).parents[2] / "early" / "results.json").read_text(encoding="utf-8"))
FORMS = {"1": WHOLE, "2": upgraded(WHOLE)}
VALUES = (None, "text", -1, [], {}, True, 1.5)
COMMITTED = [*RUNS, *(p for kind in ("recipes", "snap") for p in sorted((DOCS / kind).rglob("*.json")))]


def _places(value, found: list, path: tuple = ()) -> list:
    for key, part in value.items() if isinstance(value, dict) else enumerate(value):
        found.append((*path, key))
        if isinstance(part, (dict, list)):
            _places(part, found, (*path, key))
    return found


@pytest.mark.parametrize("form", FORMS)
def test_every_part_changed_is_refused_in_a_sentence_or_shown(form, tmp_path):
    """Whatever stands in its place, and where it is missing."""
    whole, path, refused = FORMS[form], tmp_path / "results.json", 0
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
                assert from_plain(json.loads(json.dumps(to_plain(results)))) == results
    assert refused > len(places)


NO_JSON = [b"", b"[1, 2]", b"{", b"\xff\xfe", b"[" * 100_000, b"9" * 10_000]


@pytest.mark.parametrize("content", NO_JSON, ids=lambda c: str(c[:6]))
def test_what_is_no_json_is_refused(content, tmp_path):
    (tmp_path / "results.json").write_bytes(content)
    with pytest.raises(ValueError, match="results.json is not a results file of linf-compare"):
        read(tmp_path)


@pytest.mark.parametrize("path", COMMITTED, ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_committed_files_are_read_and_nothing_of_them_is_lost(path, tmp_path):
    old, results = json.loads(path.read_text(encoding="utf-8")), read(path)
    write(tmp_path / "results.json", results)
    assert read(tmp_path) == results and results.methods
    written = json.loads((tmp_path / "results.json").read_text())
    assert written == old if "schema" in old else form_1(written) == _without_null(old)
    norm = old.get("norm", "linf")  # the first form had none
    assert results.norm == NORMS[norm] and {"linf": "pgd", "l2": "pgd-l2"}[norm] in results.attacks
    assert all(c.failure == 0 for m in results.methods.values() for c in m.certified.values())


def _without_null(old: dict) -> dict:
    """A value that is not known is not written any more; the loss is a list in every file."""
    methods = {key: {k: v for k, v in m.items() if v is not None} for key, m in old["methods"].items()}
    return old | {"methods": {key: {"validation": [], **m} for key, m in methods.items()}}


def test_a_file_of_today_says_its_norm_its_attacks_and_what_may_fail(tmp_path):
    content = made_up({"ibp": 0.9})
    content["norm"] = content["attacks"]["pgd"]["norm"] = "l2"
    content["methods"]["ibp"]["certified"]["ibp"] = {"norm": "l2", "failure": 0.001, "accuracy": {"0.25": 0.5}}
    content["methods"]["ibp"]["broken"] = {"ibp": 3}
    results = from_plain(content)
    m = results.methods["ibp"]
    assert (results.norm, results.attacks["pgd"].norm, m.certified["ibp"].norm) == (2, 2, 2)
    assert (m.certified["ibp"].failure, m.broken, m.contradictions) == (0.001, {"ibp": 3}, 0)
    again = to_plain(results)
    assert again["schema"] == file.SCHEMA == 2
    assert {key: again[key] for key in ("norm", "attacks")} == {key: content[key] for key in ("norm", "attacks")}
    assert again["methods"]["ibp"]["certified"] == content["methods"]["ibp"]["certified"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 3}, "schema must be at most 2, which this version reads, got 3"),
        ({"schema": "2"}, "schema must be at most 2"),
        ({"schema": True}, "schema must be at most 2"),
        ({"norm": "l3"}, "it: norm must be one of linf, l2, l1, got 'l3'"),
        ({"attacks": {}}, "attacks must not be empty"),
        ({"attacks": {"pgd": {"norm": "linf"}}}, "pgd lacks 'arguments'"),
        ({"eps_values": [0.25, 0.5]}, "pgd of attacked of ibp lacks ε = 0.5"),
        ({"eps_values": [-1.0]}, "eps_values must not be negative"),
        ({"methods": {"ibp": 3}}, "ibp of methods must be a dict, got int"),
        ({"shape": [3, True]}, "shape must be a list of positive whole numbers, got [3, True]"),
        ({"shape": []}, "shape must be a list of positive whole numbers, got []"),
        ({"shape": "30"}, "shape must be a list, got str"),
    ],
    ids=str,
)
def test_what_is_wrong_is_named(change, message):
    with pytest.raises(ValueError) as error:
        from_plain(made_up({"ibp": 0.9}) | change)
    assert message in str(error.value)


@pytest.mark.parametrize("shape, thing", (([30], "sample"), ([1, 8, 8], "image"), (None, "image")), ids=str)
def test_the_shape_of_a_sample_says_what_it_is(shape, thing):
    """Files of versions that knew only images say nothing."""
    content = made_up({"ibp": 0.9}, **({} if shape is None else {"shape": shape}))
    results = from_plain(content)
    assert results.thing == thing and to_plain(results).get("shape") == shape


RECORD = {
    "architecture": {"input_shape": [1, 8, 8], "layers": [["LinfDistLinear", {"p": "inf"}]]},
    "seconds": {"ibp": 1.5, "pgd": 2},
    "date": "2026-01-31T12:00:00Z",
    "processor": "one",
    "commit": "abc with changes",
}


def test_a_record_is_read_and_written_and_may_be_missing():
    whole, without = (from_plain(made_up({"ibp": 0.5}, method=more)) for more in (RECORD, {}))
    plain = to_plain(whole)["methods"]["ibp"]
    assert {key: plain[key] for key in RECORD} == RECORD and from_plain(to_plain(whole)) == whole
    assert not RECORD.keys() & to_plain(without)["methods"]["ibp"].keys()
    timed = to_plain(whole)
    del timed["methods"]["ibp"]["seconds"]  # a column of the table has them
    assert table(from_plain(timed)) == table(without) and same_settings([*whole.methods.values()]) == same_settings(
        [*without.methods.values()]
    )


@pytest.mark.parametrize("key, value", [(key, 3) for key in RECORD] + [("seconds", {"ibp": "1"}), ("seconds", [])])
def test_a_wrong_record_is_named(key, value):
    with pytest.raises(ValueError, match=f"{key}.* must be a "):
        from_plain(made_up({"ibp": 0.5}, method={key: value}))


def test_what_is_not_known_is_kept_but_for_the_identity():
    """A later version may add a key without a new number; what must agree it may not hide."""
    content = made_up({"ibp": 0.9}, method={"colour": "red"}, room=[1])
    again = to_plain(from_plain(content))
    assert again["room"] == [1] and again["methods"]["ibp"]["colour"] == "red"
    content["methods"]["ibp"]["identity"]["weather"] = "rain"
    with pytest.raises(ValueError, match="identity of ibp has an unknown key 'weather'"):
        from_plain(content)


def test_digests_of_different_versions_are_told_to_be_the_same_by_an_entry_that_has_both():
    def entry(seed: int, settings: str, *earlier: str):
        m = from_plain(made_up({"ibp": 0.9}, seed=seed)).methods["ibp"]
        return dataclasses.replace(m, identity=dataclasses.replace(m.identity, settings=settings, earlier=earlier))

    first, second, now = entry(0, "one"), entry(1, "two"), entry(2, "two", "one")
    assert len(set(same_settings([first, second]))) == 2
    for some in ([first, second, now], [now, second, first]):
        assert len(set(same_settings(some))) == 1
    assert len(set(same_settings([first, entry(3, "three", "other")]))) == 2


VERIFICATION = {
    "eps": 0.25,
    "time_limit": 60,
    "samples": 100,
    "certified": 70,
    "broken": 20,
    "asks_certified": False,
    "contradictions": [],
    "verifiers": {
        "exact": {"verified": [3, 5], "falsified": [9], "unknown": {"time": [1, 2]}, "seconds": 12.5},
        "marabou": {"verified": [], "falsified": [], "unknown": {}, "seconds": 0, "refused": "it has a softplus"},
    },
}


def test_what_verifiers_said_is_read_and_written():
    content = made_up({"ibp": 0.9}, method={"verification": VERIFICATION})
    found = from_plain(content)
    m = found.methods["ibp"].verification
    assert (m.eps, m.samples, m.certified, m.broken, m.asks_certified) == (0.25, 100, 70, 20, False)
    exact, marabou = m.verifiers.values()
    assert (exact.verified, exact.falsified, exact.unknown) == ((3, 5), (9,), {"time": (1, 2)})
    assert (exact.asked, exact.undecided, marabou.refused) == (5, 2, "it has a softplus")
    again = json.loads(json.dumps(to_plain(found)))
    assert again["methods"]["ibp"]["verification"] == VERIFICATION and from_plain(again) == found
    assert from_plain(made_up({"ibp": 0.9})).methods["ibp"].verification is None


def test_every_part_of_it_changed_is_refused_in_a_sentence_or_shown(tmp_path):
    path, refused = tmp_path / "results.json", 0
    places = _places(VERIFICATION, [])
    for place in places:
        for value in (*VALUES, ...):
            content = copy.deepcopy(made_up({"ibp": 0.9}, method={"verification": VERIFICATION}))
            parent = content["methods"]["ibp"]["verification"]
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
                refused += 1
            else:
                assert table(results) and from_plain(json.loads(json.dumps(to_plain(results)))) == results
    assert refused > 4 * len(places)
