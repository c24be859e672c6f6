"""The file with one row a sample: every number comes back, and what is not such a file is named."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

import comparisons
from comparisons.results import file, samples
from comparisons.results.samples import read, read_points, samples_of, write, write_points

COLUMNS = {
    "sample": [0, 1, 2, 3],
    "label": [3, 1, 0, 9],
    "prediction": [3, 1, 0, 2],
    "margin": np.array([0.1, 1e-7, 12345.678, -2.5], dtype=np.float32),
    "radius_lipschitz": [0.123456789012345678, 8 / 255, 0.0, 0.0],
    "radius_crown": [0.1, 8 / 255, 0.05, 0.0],
    "radius_best": [0.123456789012345678, 8 / 255, 0.05, 0.0],
    "broken_eps": [np.nan, 0.1, 8 / 255, 0.0],
    "broken_by": ["", "pgd", "square along leaky", "clean"],
}


@pytest.fixture
def path(tmp_path):
    write(tmp_path / "ibp.samples.csv", samples_of(COLUMNS))
    return tmp_path / "ibp.samples.csv"


def test_every_number_comes_back_in_its_shortest_form(path):
    lines = path.read_text().splitlines()
    assert lines[0] == ",".join(COLUMNS) and lines[1] == "0,3,3,0.1,0.12345678901234568,0.1,0.12345678901234568,,"
    assert lines[3] == "2,0,0,12345.678,0.0,0.05,0.05,0.03137254901960784,square along leaky"
    found = read(path)
    assert len(found) == 4 and found.certificates == ("lipschitz", "crown", "best")
    for name, values in COLUMNS.items():
        column = found.frame[name].to_numpy()
        assert column.dtype.kind == np.asarray(values).dtype.kind or name == "broken_by"
        assert all(a == b or (a != a and b != b) for a, b in zip(column.tolist(), np.asarray(values).tolist())), name
    assert found.frame["margin"].dtype == np.float32


def test_balls_are_nested(path):
    found = read(path)
    assert found.certified(8 / 255).tolist() == [True, True, True, False]
    assert found.certified(0.04, "crown").tolist() == [True, False, True, False]
    assert found.survives(8 / 255).tolist() == [True, True, False, False]
    assert found.survives(0.1).tolist() == [True, False, False, False]
    with pytest.raises(ValueError, match="the certificate must be one of lipschitz, crown, best, got 'ibp'"):
        found.certified(0.1, "ibp")


def test_no_sample_is_a_file_too(tmp_path):
    write(tmp_path / "none.csv", samples_of({name: [] for name in COLUMNS}))
    assert len(read(tmp_path / "none.csv")) == 0


BAD = {  # change of the text → what the message says
    "column": (lambda text: text.replace("broken_by", "other"), "it has no column broken_by"),
    "number": (lambda text: text.replace("12345.678", "many"), "many"),
    "label": (lambda text: text.replace("2,0,0,", "2,x,0,"), "x"),
    "missing": (lambda text: text.replace(",0.0,0.05,0.05", ",,0.05,0.05"), ""),
    "nan": (lambda text: text.replace(",0.0,0.05,0.05", ",nan,0.05,0.05"), "radius_lipschitz must not be negative or"),
    "negative": (lambda text: text.replace(",0.0,0.05,0.05", ",0.0,-1,0.05"), "radius_crown must not be negative or"),
    "twice": (lambda text: text.replace("\n1,1,1", "\n0,1,1"), "a sample stands twice"),
    "row": (lambda text: text + "4,4\n", ""),
    "empty": (lambda text: "", ""),
    "binary": (lambda text: "\0\ud800", ""),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_not_such_a_file_is_named(name, path):
    change, words = BAD[name]
    path.write_bytes(change(path.read_text()).encode(errors="surrogatepass"))
    with pytest.raises(ValueError, match="ibp.samples.csv is not a file of samples of linf-compare: ") as caught:
        read(path)
    assert words in str(caught.value)
    with pytest.raises(FileNotFoundError, match="none.csv does not exist"):
        read(path.with_name("none.csv"))


def test_points_come_back(tmp_path):
    rng = np.random.default_rng(0)
    points = {
        "sample": np.array([3, 8]),
        "x": rng.random((2, 1, 4, 4), np.float32),
        "adversarial": rng.random((2, 1, 4, 4), np.float32),
        "eps": np.array([0.1, 0.05]),
        "by": np.array(["pgd", "square"]),
    }
    write_points(tmp_path / "a.points.npz", points)
    found = read_points(tmp_path / "a.points.npz")
    assert all(np.array_equal(found[name], value) for name, value in points.items())
    assert [p.name for p in tmp_path.iterdir()] == ["a.points.npz"]
    (tmp_path / "a.points.npz").write_bytes(b"nonsense")
    with pytest.raises(ValueError, match="a.points.npz is not a file of points"):
        read_points(tmp_path / "a.points.npz")
    with pytest.raises(FileNotFoundError):
        read_points(tmp_path / "none.npz")


# What results.json says about the files.


@pytest.fixture
def content():
    path = Path(comparisons.__file__).parents[1] / "docs/results/mnist-tiny/results.json"
    return json.loads(path.read_text(encoding="utf-8"))


def test_new_facts_are_optional_and_come_back(content, tmp_path):
    old = file.from_plain(content)
    m = old.methods["ibp"]
    assert (m.samples, m.points, m.broken_by, m.trials) == (None, None, {}, None)
    facts = {"samples": "ibp.samples.csv", "points": "ibp.points.npz", "broken_by": {"pgd": 3}, "trials": 12}
    new = old.with_methods({"ibp": dataclasses.replace(m, **facts)})
    assert file.from_plain(file.to_plain(new)) == new
    assert file.to_plain(new)["methods"]["ibp"]["broken_by"] == {"pgd": 3}
    assert not facts.keys() & file.to_plain(old)["methods"]["ibp"].keys()


@pytest.mark.parametrize("name", ("../../secret.csv", "/etc/passwd", "a\\b.csv", "a/b", "", ".."))
def test_a_file_elsewhere_is_refused(content, name):
    content["methods"]["ibp"]["samples"] = name
    with pytest.raises(ValueError, match="samples must be the name of a file in the same folder"):
        file.from_plain(content)


def test_the_files_of_a_method_have_its_name():
    assert (samples.file_of("a"), samples.points_file_of("a")) == ("a.samples.csv", "a.points.npz")
