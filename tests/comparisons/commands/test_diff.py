"""``linf-compare diff``: counts, numbers, and files that cannot be compared."""

import dataclasses
from pathlib import Path

import pandas as pd
import pytest

import comparisons
from comparisons.cli import main
from comparisons.results import file, samples
from comparisons.results.samples import samples_of


def rows(ibp: list[float], lipschitz: list[float], labels=None):
    count = len(ibp)
    return samples_of(
        {
            "sample": range(count),
            "label": [k % 3 for k in range(count)] if labels is None else labels,
            "prediction": [k % 3 for k in range(count)],
            "margin": [1.0] * count,
            "radius_lipschitz": lipschitz,
            "radius_ibp": ibp,
            "radius_best": [max(a, b) for a, b in zip(ibp, lipschitz)],
            "broken_eps": [float("nan")] * count,
            "broken_by": [""] * count,
        }
    )


@pytest.fixture
def folder(tmp_path):
    """Results at ε = 0.1 of "one", which certifies samples 0 to 29, and "two", which certifies 25 to 39, of 50."""
    old = file.read(Path(comparisons.__file__).parents[1] / "docs/results/digits/seed-0")
    m = dataclasses.replace(old.methods["ibp"], samples=None, points=None)  # as early versions wrote it
    methods = {name: dataclasses.replace(m, samples=samples.file_of(name)) for name in ("one", "two")}
    file.write(tmp_path / file.FILE, old.with_methods({**methods, "old": m}))
    samples.write(tmp_path / "one.samples.csv", rows([0.1] * 30 + [0.05] * 20, [0.0] * 50))
    samples.write(tmp_path / "two.samples.csv", rows([0.0] * 50, [0.0] * 25 + [0.2] * 15 + [0.01] * 10))
    return tmp_path


def test_radii_in_two_norms_are_not_compared(folder, tmp_path_factory, capsys):
    other = tmp_path_factory.mktemp("l2")
    there = file.read(folder / file.FILE)
    file.write(other / file.FILE, dataclasses.replace(there, norm=2.0))
    for name in ("one", "two"):
        (other / f"{name}.samples.csv").write_text((folder / f"{name}.samples.csv").read_text())
    said = "one is certified in ℓ∞ balls, and two is certified in ℓ2 balls: their radii cannot be compared"
    for first, second in ((f"{folder}:one", f"{other}:two"), (folder / "one.samples.csv", other / "two.samples.csv")):
        assert diff(first, second) == 2
        assert said in capsys.readouterr().err
    assert diff(f"{other}:one", f"{other}:two", "--eps", "1.58") == 0 and "ε = 1.58" in capsys.readouterr().out


def diff(*arguments):
    return main(["diff", *map(str, arguments)])


def test_the_samples_of_each_side_are_counted_and_named(folder, capsys):
    assert diff(f"{folder}:one", f"{folder}:two") == 0
    assert capsys.readouterr().out.splitlines() == [
        "ε = 0.1, best of all: of 50 samples are certified by",
        "  both: 5",
        f"  only one: 25: {', '.join(map(str, range(20)))}, and 5 more (--all lists them)",
        f"  only two: 10: {', '.join(map(str, range(30, 40)))}",
        "  neither: 10",
    ]
    assert diff(f"{folder}:one", f"{folder}:two", "--all") == 0
    assert f"only one: 25: {', '.join(map(str, range(25)))}\n" in capsys.readouterr().out


def test_another_radius_and_one_certificate(folder, capsys):
    files = folder / "one.samples.csv", folder / "two.samples.csv"
    assert diff(*files, "--eps", "1/20", "--certificate", "ibp") == 0
    out = capsys.readouterr().out
    assert out.startswith("ε = 0.05, interval: of 50 samples") and "both: 0\n" in out and "only one: 50: " in out
    assert diff(*files) == 0 and "ε = 0.1, best of all" in capsys.readouterr().out  # results.json names the files
    assert diff(f"{folder}:two", folder / "one.samples.csv", "--eps", "0.2") == 0
    assert "only two: 15: 25, 26" in capsys.readouterr().out


def test_all_numbers_as_a_table(folder, capsys):
    table = folder / "difference.csv"
    assert diff(f"{folder}:one", f"{folder}:two", "--csv", table) == 0
    assert capsys.readouterr().out.endswith(f"Written to {table}\n")
    found = pd.read_csv(table)
    assert list(found.columns) == ["sample", "label", "certified_by", "radius_a", "radius_b"]
    assert found["sample"].tolist() == [*range(25), *range(30, 40)]
    assert found["certified_by"].tolist() == ["A"] * 25 + ["B"] * 10
    assert found.iloc[30].tolist() == [35, 35 % 3, "B", 0.05, 0.2]
    assert diff(f"{folder}:one", f"{folder}:two", "--csv", table) == 2
    assert "--force replaces it" in capsys.readouterr().err
    assert diff(f"{folder}:one", f"{folder}:one", "--csv", table, "--force") == 0
    assert "only A (one): 0\n  only B (one): 0\n" in capsys.readouterr().out and len(pd.read_csv(table)) == 0


def test_a_folder_with_one_method_needs_no_name(folder, tmp_path, capsys):
    results = file.read(folder)
    file.write(folder / file.FILE, results.with_methods({"two": results.methods["two"]}))
    assert diff(folder, f"{folder}:two") == 0 and "both: 15" in capsys.readouterr().out
    assert diff(f"{folder}/results.json", f"{folder}:two") == 0


BAD = {  # → arguments, what the message says
    "labels": (lambda f: [f"{f}:one", _other(f, labels=[0] * 50)], "one and other are not of the same data: in row 1 "),
    "count": (lambda f: [f"{f}:one", _other(f, count=49)], "are not of the same data: 50 and 49 rows"),
    "method": (lambda f: [f"{f}:three", f"{f}:two"], "has no method three; its methods: one, two, old"),
    "no-method": (lambda f: [f, f"{f}:two"], "has the methods one, two, old: name one, as"),
    "older": (lambda f: [f"{f}:old", f"{f}:two"], "has no file of samples: it was measured by an earlier version"),
    "eps": (lambda f: [f"{f}:one", f"{f}:two", "--eps", "0"], "--eps must be positive, got 0"),
    "eps-word": (lambda f: [f"{f}:one", f"{f}:two", "--eps", "small"], "--eps: must be a number or a fraction"),
    "certificate": (
        lambda f: [f"{f}:one", f"{f}:two", "--certificate", "crown"],
        "one: the certificate must be one of lipschitz, ibp, best, got 'crown'",
    ),
    "no-folder": (lambda f: [f"{f}/none:one", f"{f}:two"], "none/results.json does not exist"),
    "no-file": (lambda f: [f"{f}/none.csv", f"{f}:two"], "none.csv does not exist"),
    "no-headline": (lambda f: [_other(f), _other(f)], "no results name these files: give --eps"),
    "headlines": (lambda f: [f"{f}:one", _with_headline(f)], "the headlines are 0.1 and 0.3: give --eps"),
}


def _other(folder, count=50, labels=None):
    (folder / "b").mkdir(exist_ok=True)
    samples.write(folder / "b/other.samples.csv", rows([0.1] * count, [0.1] * count, labels))
    return folder / "b/other.samples.csv"


def _with_headline(folder):
    place, results = folder / "c", file.read(folder)
    place.mkdir()
    samples.write(place / "one.samples.csv", rows([0.1] * 50, [0.1] * 50))
    m = results.methods["one"]
    at = {0.1: 0.5, 0.3: 0.5}
    m = dataclasses.replace(
        m,
        attacked=dict.fromkeys(m.attacked, at),
        certified={"best": dataclasses.replace(m.certified["best"], accuracy=at)},
    )
    file.write(place / file.FILE, dataclasses.replace(results, eps=0.3, eps_values=(0.1, 0.3), methods={"one": m}))
    return f"{place}:one"


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_compared_is_one_line(name, folder, capsys):
    make, words = BAD[name]
    assert diff(*make(folder)) == 2
    error = capsys.readouterr().err
    assert error.startswith("linf-compare: error: ") and error.count("\n") == 1 and words in error


def test_help_shows_examples(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["diff", "--help"])
    assert "linf-compare diff results/digits:linf-dist results/digits:ibp" in capsys.readouterr().out
