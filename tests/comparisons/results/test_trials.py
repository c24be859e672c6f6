"""search.json: what is written is what is read, and files of something else are refused."""

import json

import pytest

from comparisons.results.trials import Found, Trial, read, write

FOUND = Found(
    recipe="digits",
    method="ibp",
    label="IBP",
    eps=0.1,
    held_out=0.1,
    seed=3,
    trials=(
        Trial(0, {"optimizer.lr": 1e-3, "loss.kappa": 0.5}, 0.9, 0.5, 12.5),
        Trial(2, {"optimizer.lr": 3.7123456789012345e-05, "loss.kappa": 0.0}, 0.8, 0.6, 11.0),
        Trial(3, {"optimizer.lr": 2e-3, "loss.kappa": 1.0}, 0.7, 0.4, 10.0),
    ),
    front=(0, 2),
    failed=1,
)


def test_what_is_written_is_read(tmp_path):
    write(tmp_path / "search.json", FOUND)
    assert read(tmp_path / "search.json") == FOUND


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda c: [], "its content must be a dict, got list"),
        (lambda c: c | {"trials": {}}, "trials must be a list, got dict"),
        (lambda c: c | {"trials": [1]}, "trials must be a list of dict"),
        (lambda c: c | {"front": [0, 7]}, "front has trial 7, which is not one of the trials"),
        (lambda c: c | {"eps": "x"}, "eps must be a number, got str"),
        (
            lambda c: c | {"trials": [c["trials"][0] | {"settings": {"lr": "x"}}], "front": []},
            "must be a number, got str",
        ),
        (lambda c: {k: v for k, v in c.items() if k != "label"}, "it lacks 'label'"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_file_of_something_else_is_refused(change, words, tmp_path):
    path = tmp_path / "search.json"
    write(path, FOUND)
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with pytest.raises(ValueError) as error:
        read(path)
    assert f"{path} is not a file of linf-compare search: " in str(error.value) and words in str(error.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="search.json"):
        read(tmp_path / "search.json")
