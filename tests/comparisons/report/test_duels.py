"""McNemar's test between the certificates of two methods."""

import pandas
import pytest
from pages import write_run

from comparisons.report.duels import Proved, duels, duels_section, p_text, proved
from comparisons.report.gathered import gather
from comparisons.report.rows import rows_of
from comparisons.report.statistics import mcnemar


def _rows(tmp_path, methods=("ibp", "linf-dist"), seeds=(0,)):
    for seed in seeds:
        write_run(tmp_path / f"seed-{seed}", dict.fromkeys(methods), seed=seed)
    runs = gather([tmp_path])
    return runs, rows_of([run.results for run in runs])


def _certified(hits: str) -> Proved:
    """One letter a sample: 1 if it is certified."""
    return Proved(pandas.Series([c == "1" for c in hits]), pandas.Series([0] * len(hits)))


def _made(rows, words: list[list[str]]) -> dict:
    """words: of each row, for each seed."""
    return {
        (id(run), name): _certified(word)
        for row, of_row in zip(rows, words)
        for (run, name), word in zip(row.runs.values(), of_row)
    }


def test_what_is_certified_comes_from_the_samples_files(tmp_path):
    runs, rows = _rows(tmp_path)
    of = proved(runs, 0.1)
    for run, name in rows[0].runs.values():
        assert of[id(run), name].certified.mean() == run.methods[name].proved(0.1)
    found = duels(rows, of)[0, 1]
    a, b = (of[id(row.first[0]), row.first[1]].certified for row in rows)
    assert (found.only_first, found.only_second) == (int((a & ~b).sum()), int((b & ~a).sum())) and found.samples == 200
    assert found.p == mcnemar(found.only_first, found.only_second)


def test_the_seed_with_the_largest_p_counts_and_seeds_are_not_pooled(tmp_path):
    _, rows = _rows(tmp_path, seeds=(0, 1))
    found = duels(rows, _made(rows, [["11111110", "11110000"], ["00000000", "11000000"]]))[0, 1]
    assert (found.only_first, found.only_second, found.samples) == (2, 0, 8) and found.p == mcnemar(2, 0)


def test_pairs_are_corrected_for_their_number(tmp_path):
    _, rows = _rows(tmp_path, ("ibp", "linf-dist", "crown-ibp"))
    found = duels(rows, _made(rows, [["1" * 10], ["0" * 10], ["0" * 9 + "1"]]))
    assert list(found) == [(0, 1), (0, 2), (1, 2)]
    assert [duel.p for duel in found.values()] == pytest.approx([3 * mcnemar(10, 0), 2 * mcnemar(9, 0), 1.0])


def test_methods_without_a_common_seed_are_compared_by_their_first_runs(tmp_path):
    write_run(tmp_path / "a", {"ibp": None}, seed=3)
    write_run(tmp_path / "b", {"linf-dist": None}, seed=4)
    runs = gather([tmp_path])
    assert list(duels(rows_of([run.results for run in runs]), proved(runs, 0.1))) == [(0, 1)]


def test_only_samples_that_both_have_count(tmp_path):
    _, rows = _rows(tmp_path)
    found = duels(rows, _made(rows, [["1111"], ["00"]]))[0, 1]
    assert (found.only_first, found.samples) == (2, 2)


def test_other_labels_are_refused(tmp_path):
    _, rows = _rows(tmp_path)
    of = _made(rows, [["11"], ["00"]])
    key = id(rows[1].first[0]), rows[1].first[1]
    of[key] = Proved(of[key].certified, of[key].labels + 1)
    with pytest.raises(ValueError, match="different labels for one sample"):
        duels(rows, of)


def test_the_matrix_names_methods_once_and_shows_both_counts(tmp_path):
    runs, rows = _rows(tmp_path, ("ibp", "linf-dist", "crown-ibp"))
    text = duels_section(rows, _made(rows, [["1" * 12], ["0" * 12], ["1" * 12]]), 0.1)
    assert text.startswith("## Which methods differ\n\np-values of McNemar's exact test")
    assert "at ε = 0.1, corrected for the number of pairs by Holm's method" in text
    *_, one, two, three = text.strip().split("\n")
    assert one == "| 1. IBP | 0.001 (12 : 0) | 1.000 (0 : 0) |"
    assert two == "| 2. ℓ∞-dist net |  | 0.001 (0 : 12) |" and three == "| 3. crown-ibp |  |  |"
    assert duels_section(rows, {}, 0.1) == "" and p_text(0.0004) == "< 0.001"
