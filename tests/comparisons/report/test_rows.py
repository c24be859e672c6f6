"""Rows over seeds: their names, their intervals, their costs, and equal times of training."""

import pytest
from runs import made_up

from comparisons.report.costs import cost_table, times
from comparisons.report.rows import minutes_of, rows_of, said_uneven, times_baseline, titles, uneven
from comparisons.report.statistics import interval
from comparisons.report.tables import table
from comparisons.results.file import from_plain
from comparisons.results.schema import NO_RECIPE


def run(clean: dict[str, float], seconds: dict[str, float] | None = None, **change):
    content = made_up(clean, **change)
    for name, s in (seconds or {}).items():
        content["methods"][name]["training"] |= {"seconds": s, "seconds_per_epoch": s}
    return from_plain(content)


def per_epoch(m):
    return m.training.seconds_per_epoch


def test_seeds_are_one_row_in_their_order():
    (row,) = rows_of([run({"ibp": 0.9}, seed=2), run({"ibp": 0.7}, seed=0)])
    assert row.seeds == "0, 2" and row.m.clean == 0.7 and row.percent(lambda m: m.clean) == "80.00 ± 14.14"


def test_the_interval_of_several_seeds_reaches_over_those_of_all():
    (row,) = rows_of([run({"ibp": 0.9}, seed=2), run({"ibp": 0.7}, seed=0)])
    found = row.interval(lambda m: m.clean)
    assert found == (interval(0.7, 10_000)[0], interval(0.9, 10_000)[1])


def test_equal_labels_are_told_apart():
    runs = [run({"ibp": 0.9}), run({"ibp": 0.8}, recipe="other"), run({"linf-dist": 0.8})]
    assert titles(rows_of(runs)) == ["IBP (r)", "IBP (other)", "ℓ∞-dist net"]
    two = [run({"ibp": 0.9}), run({"ibp": 0.8}, method={"identity": {"seed": 0, "settings": "others", "recipe": "r"}})]
    assert titles(rows_of(two)) == ["IBP (r) no. 1", "IBP (r) no. 2"]


def test_minutes_are_those_of_training_or_of_its_epochs():
    first = run({"ibp": 0.9}, {"ibp": 90.0}).methods["ibp"]
    assert minutes_of(first) == 1.5 and minutes_of(run({"ibp": 0.9}).methods["ibp"]) == 2.0
    unknown = run({"ibp": 0.9}, recipe=NO_RECIPE, method={"training": {}})
    assert minutes_of(unknown.methods["ibp"]) is None


def test_times_are_compared_with_ibp_in_the_same_run_only():
    runs = [
        run({"ibp": 0.9, "a": 0.9}, {"ibp": 2.0, "a": 4.0}),
        run({"ibp": 0.9, "a": 0.9}, {"ibp": 1.0, "a": 4.0}, seed=1),
    ]
    first, second = rows_of(runs)
    assert times_baseline(first, per_epoch) == 1.0 and times_baseline(second, per_epoch) == 3.0
    (without,) = rows_of([run({"a": 0.9})])
    assert times_baseline(without, per_epoch) is None
    content = made_up({"ibp": 0.9, "a": 0.9})
    content["methods"]["a"]["device"] = "another"
    assert times_baseline(rows_of([from_plain(content)])[1], per_epoch) is None
    assert [times(r) for r in (None, 0.5, 12.3)] == ["–", "0.50 ×", "12 ×"]


def test_trainings_that_took_longer_are_marked():
    rows = rows_of([run({"a": 0.9, "b": 0.9, "c": 0.9}, {"a": 60.0, "b": 90.0, "c": 91.0})])
    assert uneven(rows) == {2: pytest.approx(91 / 60)}
    assert "the longest took 1.5 times as long as the shortest." in said_uneven(rows)
    apart = rows_of([run({"a": 0.9}, {"a": 60.0}), run({"b": 0.9}, {"b": 600.0}, recipe="other")])
    assert uneven(apart) == {} and said_uneven(apart) == ""


def test_the_table_marks_them_and_says_it_below():
    text = table(run({"ibp": 0.9, "a": 0.9}, {"ibp": 60.0, "a": 600.0}))
    assert "| IBP | 90.00 | 80.00 | 70.00 | 1.00 | 6 |" in text
    assert "| a | 90.00 | 80.00 | 70.00 | 10.0 † | 6 |\n\n† This training took more than 1.5 times" in text
    assert "†" not in table(run({"ibp": 0.9, "a": 0.9}))


def test_the_table_has_the_intervals_of_all_accuracies():
    text = table(run({"ibp": 0.9}, test_samples=360))
    low, high = interval(0.9, 360)
    before, after = text.split("95 % Clopper–Pearson intervals of these accuracies, in percent:\n\n")
    assert after.startswith("| method | clean | PGD | certified |\n") and "| IBP | 90.00 |" in before
    assert after.split("\n")[2].startswith(f"| IBP | {100 * low:.2f} – {100 * high:.2f} |")


def test_trials_have_a_column_if_they_are_known():
    assert "trials" not in table(run({"ibp": 0.9}))
    assert "| epochs | trials |" in (text := table(run({"ibp": 0.9}, method={"trials": 20}))) and "| 6 | 20 |" in text


def test_given_nets_have_no_columns_about_training():
    text = table(run({"a": 0.9}, recipe=NO_RECIPE, method={"training": {}}))
    assert "| method | clean | PGD | certified |\n| --- | ---: | ---: | ---: |\n| a | 90.00 | 80.00 | 70.00 |" in text


def test_costs_have_columns_for_what_is_known():
    seconds = {"ibp": 1.5, "pgd": 2.0}
    title, found = cost_table(run({"ibp": 0.9, "a": 0.9}, {"ibp": 2.0, "a": 5.0}, method={"seconds": seconds}))
    header, _, first, second = found.split("\n")
    assert header == "| method | parameters | pairs/image | s/epoch | to IBP | certify s | interval s |"
    assert first == "| IBP | 25.9k | 25.9k | 2.00 | 1.00 × | 5.0 | 1.5 |" and "| 5.00 | 2.50 × |" in second
    assert "To IBP: s/epoch as a multiple of IBP's in the same run." in title and "10000 images" in title
    title, found = cost_table(run({"a": 0.9}, recipe=NO_RECIPE, method={"training": {}}))
    assert found.startswith("| method | parameters | pairs/image | certify s |\n") and "IBP" not in title
