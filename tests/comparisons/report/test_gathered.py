"""Which results a report reads, and which it puts on one page."""

import json

import pytest
from pages import DATA, write_run

from comparisons.report.gathered import check_comparable, gather


def test_a_folder_without_results_stands_for_its_subfolders(tmp_path):
    for seed in (10, 2, 0):
        write_run(tmp_path / f"seed-{seed}", seed=seed, beside=False)
    (tmp_path / "notes").mkdir()
    found = gather([tmp_path])
    assert [run.folder.name for run in found] == ["seed-0", "seed-2", "seed-10"]
    assert [run.results.seed for run in found] == [0, 2, 10]
    assert [run.folder for run in gather([tmp_path, tmp_path / "seed-2"])] == [run.folder for run in found]
    write_run(tmp_path, seed=5, beside=False)
    assert [run.results.seed for run in gather([tmp_path])] == [5]
    (copy,) = gather([tmp_path / "results.json"])
    assert copy.folder == tmp_path and copy.name == str(tmp_path / "results.json")


def test_a_folder_without_any_results_is_refused(tmp_path):
    for path in (tmp_path, tmp_path / "none", tmp_path / "none.json"):
        with pytest.raises(FileNotFoundError, match="results.json does not exist|none.json does not exist"):
            gather([path])


def test_results_without_methods_are_refused(tmp_path):
    write_run(tmp_path, {}, beside=False)
    with pytest.raises(ValueError, match="has no results of a method"):
        gather([tmp_path])


def test_files_beside_the_results_are_found_by_the_names_in_them(tmp_path):
    (run,) = gather([write_run(tmp_path)])
    assert len(run.samples("ibp")) == 200 and run.points("ibp") == tmp_path / "ibp.points.npz"
    (tmp_path / "ibp.samples.csv").unlink()
    (tmp_path / "ibp.points.npz").unlink()
    assert run.samples("ibp") is None and run.points("ibp") is None
    (old,) = gather([write_run(tmp_path / "old", beside=False)])
    assert old.samples("ibp") is None and old.points("ibp") is None


def test_results_name_no_file_elsewhere(tmp_path):
    folder = write_run(tmp_path / "a")
    content = json.loads((folder / "results.json").read_text())
    (tmp_path / "ibp.samples.csv").write_text((folder / "ibp.samples.csv").read_text())
    content["methods"]["ibp"]["samples"] = "../ibp.samples.csv"
    (folder / "results.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="samples"):
        gather([folder])


def _two(tmp_path, **change):
    write_run(tmp_path / "a", beside=False)
    write_run(tmp_path / "b", seed=1, beside=False, **change)
    return gather([tmp_path])


def test_seeds_recipes_and_methods_may_differ(tmp_path):
    check_comparable(_two(tmp_path))
    check_comparable(_two(tmp_path, recipe="other", methods={"ibp": "another"}))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"dataset": "mnist"}, "data set: digits in {a}; mnist in {b}"),
        ({"eps": 8 / 255}, "ε: 0.1 in {a}; 8/255 in {b}"),
        ({"norm": "l2"}, "norm: ℓ∞ in {a}; ℓ2 in {b}"),
        ({"held_out": 0.2}, "held-out part: none, the test set in {a}; 0.2 in {b}"),
        (
            {"method": {"data": DATA | {"test_data_sha256": "c" * 64}}},
            "digests of the data: bbbbbbbbbbbb in {a}; cccccccccccc in {b}",
        ),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_differs_is_refused_with_the_list(tmp_path, change, words):
    runs = _two(tmp_path, **change)
    with pytest.raises(ValueError) as refused:
        check_comparable(runs)
    assert words.format(a=tmp_path / "a", b=tmp_path / "b") in str(refused.value)


def test_all_that_differs_is_listed(tmp_path):
    with pytest.raises(ValueError, match=r"They differ in data set: .* They differ in ε: ") as refused:
        check_comparable(_two(tmp_path, dataset="mnist", eps=0.2))
    assert "digests" not in str(refused.value)


def test_other_training_images_are_no_other_data(tmp_path):
    check_comparable(_two(tmp_path, method={"data": DATA | {"train_data_sha256": "c" * 64}}))


def test_one_method_and_seed_twice_is_refused(tmp_path):
    write_run(tmp_path / "a", beside=False)
    write_run(tmp_path / "b", beside=False)
    with pytest.raises(ValueError, match="both have seed 0 of ibp"):
        check_comparable(gather([tmp_path]))
