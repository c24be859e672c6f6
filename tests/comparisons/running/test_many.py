"""Several seeds of a recipe, in turn and in several processes: folders, tables, refusals, and equal figures."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from comparisons.cli import main
from comparisons.results.file import read
from comparisons.running import jobs, many, run
from linf_plugin import load

RECIPE = """
description = "two small nets"
dataset = "digits"
eps = 0.05
eps_values = [0.02, 0.05]
certificates = ["lipschitz", "ibp"]
attack = { steps = 1, restarts = 1 }
[methods.linf-dist]
architecture = { name = "linf-mlp", width = 8, depth = 2 }
loss = { name = "clipped-hinge", ce_first = 0.1, ce_last = 0.01 }
optimizer = { name = "distance-adam", lr = 0.05, scalar_lr = 0.006 }
batch_size = 256
schedule = { epochs = 2, eps = 0.1, p_end = 1 }
[methods.small]
kind = "ibp"
architecture = { name = "relu-mlp", width = 8, depth = 1 }
loss = { name = "plain" }
optimizer = { name = "adam", lr = 3e-3 }
batch_size = 256
schedule = { epochs = 2, eps = 0.05, eps_end = 1 }
"""
METHODS = ["linf-dist", "small"]
ENDINGS = ("md", "tex", "csv", "png")
REAL = subprocess.Popen


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    path = tmp_path_factory.mktemp("recipe") / "small.toml"
    path.write_text(RECIPE)
    return path


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Here:
    """A process that does its work in this one, at once."""

    def __init__(self, arguments, *, stdout, **_):
        with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stdout):
            self.returncode = main(arguments[3:])
        HERE.append(arguments)

    def poll(self):
        return self.returncode


HERE: list[list[str]] = []


@pytest.fixture
def here(monkeypatch):
    HERE.clear()
    monkeypatch.setattr(
        jobs.subprocess, "Popen", lambda a, **how: (Here if a[1:3] == ["-m", "comparisons"] else REAL)(a, **how)
    )
    return HERE


def command(recipe, out, *more) -> list[str]:
    return ["run", str(recipe), "--out", str(out), "--quiet", *map(str, more)]


@pytest.fixture(scope="module")
def in_turn(recipe, tmp_path_factory):
    out = tmp_path_factory.mktemp("in_turn")
    assert main(command(recipe, out, "--seeds", 2, "--seed", 4)) == 0
    return out


@pytest.fixture(scope="module")
def in_processes(recipe, tmp_path_factory):
    """The first seed by real processes, which run at once."""
    out = tmp_path_factory.mktemp("in_processes")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    line = [sys.executable, "-m", "comparisons", *command(recipe, out, "--seeds", 1, "--seed", 4, "--jobs", 2)]
    done = subprocess.run(line, env=environment, capture_output=True, text=True, check=False, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    return out


def figures(folder: Path) -> dict:
    """All of results.json that is no time and no date."""
    plain = json.loads((folder / "results.json").read_text())
    for m in plain["methods"].values():
        for name in ("training", "seconds", "date", "certify_seconds", "attack_seconds"):
            del m[name]
    return plain


def test_each_seed_has_a_folder_and_all_have_one_table(in_turn):
    assert sorted(path.name for path in in_turn.iterdir()) == sorted(
        ["seed-4", "seed-5", *(f"comparison.{ending}" for ending in ENDINGS)]
    )
    text = (in_turn / "comparison.md").read_text()
    assert text.startswith("## Over seeds: mean ± standard deviation") and "| 4, 5 | 360 test images |" in text
    for seed in (4, 5):
        results = read(in_turn / f"seed-{seed}")
        assert results.seed == seed and list(results.methods) == METHODS
        assert (in_turn / f"seed-{seed}" / "table.md").exists()
    first, second = (load(in_turn / f"seed-{seed}" / "small.pt")[0].state_dict() for seed in (4, 5))
    assert not all(torch.equal(first[name], second[name]) for name in first)


def test_processes_give_the_figures_of_one_process(in_turn, in_processes):
    """With equal numbers of threads: the same bits of the nets and of what is measured, but other times."""
    one, two = in_turn / "seed-4", in_processes / "seed-4"
    assert figures(one) == figures(two)
    for method in METHODS:
        assert (one / f"{method}.samples.csv").read_bytes() == (two / f"{method}.samples.csv").read_bytes()
        nets = [load(folder / f"{method}.pt")[0].state_dict() for folder in (one, two)]
        assert all(torch.equal(a, nets[1][name]) for name, a in nets[0].items())
        with np.load(one / f"{method}.points.npz") as a, np.load(two / f"{method}.points.npz") as b:
            assert all(np.array_equal(a[name], b[name]) for name in a.files)
        assert (two / f"{method}.out").read_text() == "" and not (two / f"{method}.state.pt").exists()


def test_a_report_of_the_folder_has_all_seeds(in_turn, tmp_path, capsys):
    assert main(["report", str(in_turn), "--out", str(tmp_path), "--html", str(tmp_path / "a.html")]) == 0
    assert (tmp_path / "comparison.md").read_text() == (in_turn / "comparison.md").read_text()
    assert "| 4, 5 |" in capsys.readouterr().out and (tmp_path / "a.html").exists()


def test_one_seed_has_a_folder_too(recipe, tmp_path, capsys):
    assert main(command(recipe, tmp_path, "--seeds", 1, "--methods", "small")) == 0
    assert {path.name for path in tmp_path.iterdir()} == {
        "seed-0",
        "table.md",
        "table.tex",
        "table.csv",
        "certified.png",
    }
    out = capsys.readouterr().out
    assert f"Written to {tmp_path}: table.md, .tex, .csv and a picture; seed-0 with the results of each seed" in out


def test_jobs_without_seeds_write_to_the_folder_itself(recipe, tmp_path, here, capsys):
    """With the methods in the order of the recipe, whichever was asked for first."""
    assert main(command(recipe, tmp_path, "--jobs", 2, "--methods", "small,linf-dist")) == 0
    assert [a for line in here for a in line if a.startswith("--methods")] == ["--methods=small", "--methods=linf-dist"]
    assert list(read(tmp_path).methods) == METHODS and (tmp_path / "table.md").exists()
    assert f"Written to {tmp_path}: results.json, table.md" in capsys.readouterr().out
    assert main(command(recipe, tmp_path, "--jobs", 2)) == 0
    assert len(here) == 2 and capsys.readouterr().err.count("already in") == 2  # nothing is left to do


def test_without_a_report_nothing_is_printed(recipe, tmp_path, capsys):
    assert main(command(recipe, tmp_path, "--no-report", "--methods", "small")) == 0
    assert capsys.readouterr().out == "" and not (tmp_path / "table.md").exists() and read(tmp_path).methods


@pytest.mark.parametrize("how", [(), ("--jobs", "2")], ids=["in turn", "in processes"])
def test_all_that_would_be_replaced_is_named_before_any_work(how, in_turn, tmp_path, here, monkeypatch, capsys):
    out, changed = tmp_path / "out", tmp_path / "small.toml"
    shutil.copytree(in_turn, out)
    changed.write_text(RECIPE.replace("width = 8, depth = 1", "width = 9, depth = 1"))
    (out / "seed-6").mkdir()
    (out / "seed-6" / "linf-dist.state.pt").write_bytes(b"half")
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    monkeypatch.setattr(many, "run", None)
    assert main(command(changed, out, "--seeds", 4, "--seed", 3, *how)) == 2
    error = capsys.readouterr().err
    changes = "small (finished, with other settings (architecture.width: 8 → 9))"
    assert error == (
        f"linf-compare: error: {out}/seed-4 holds work that would be replaced: {changes}; "
        f"{out}/seed-5 holds work that would be replaced: {changes}; "
        f"{out}/seed-6 holds work that would be replaced: linf-dist (interrupted, with other settings "
        "(linf-dist.state.pt cannot be read)): --force replaces it\n"
    )
    assert not here and {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_forced_jobs_replace_what_cannot_share_a_table(recipe, in_turn, tmp_path, here, capsys):
    """Results of another seed, and a file that is not one of ours: each process knows only its own method."""
    shutil.copytree(in_turn / "seed-4", tmp_path / "out")
    assert main(command(recipe, tmp_path / "out", "--jobs", 2)) == 2 and "seed: 4 → 0" in capsys.readouterr().err
    assert main(command(recipe, tmp_path / "out", "--jobs", 2, "--force")) == 0
    found = read(tmp_path / "out")
    assert found.seed == 0 and list(found.methods) == METHODS and "done again: small" in capsys.readouterr().err
    assert all(m.identity.seed == 0 for m in found.methods.values())
    (tmp_path / "out" / "results.json").write_text("{}")
    assert main(command(recipe, tmp_path / "out", "--jobs", 2, "--force")) == 0
    assert list(read(tmp_path / "out").methods) == METHODS
    here.clear()
    assert main(command(recipe, tmp_path / "out", "--jobs", 2, "--force", "--methods", "small")) == 0
    assert len(here) == 1 and list(read(tmp_path / "out").methods) == METHODS  # the other one stays


def test_resumed_jobs_do_what_is_left(recipe, in_turn, tmp_path, here, capsys):
    out = tmp_path / "out"
    shutil.copytree(in_turn, out)
    shutil.rmtree(out / "seed-5")
    assert main(command(recipe, out, "--seeds", 2, "--seed", 4, "--jobs", 2, "--resume")) == 0
    assert [[a for a in line if a.startswith(("--seed", "--methods"))] for line in here] == [
        [f"--methods={method}", "--seed=5"] for method in METHODS
    ]
    assert all("--resume" in line and "--force" not in line for line in here)
    assert figures(out / "seed-5") == figures(in_turn / "seed-5") and "4, 5" in capsys.readouterr().out


@pytest.mark.parametrize("how", [(), ("--jobs", "2")], ids=["in turn", "in processes"])
def test_a_method_that_fails_leaves_the_others(how, recipe, tmp_path, here, monkeypatch, capsys):
    train = run.train

    def failing(wanted, key, *arguments, **options):
        if key == "small":
            raise FloatingPointError("the loss is nan")
        return train(wanted, key, *arguments, **options)

    monkeypatch.setattr(run, "train", failing)
    assert main(command(recipe, tmp_path / "out", "--seeds", 2, *how)) == 1
    out, error = capsys.readouterr()
    assert "| 0, 1 | 360 test images |" in out and "linf-dist" not in error
    for seed in (0, 1):
        assert list(read(tmp_path / "out" / f"seed-{seed}").methods) == ["linf-dist"]
        said = tmp_path / "out" / f"seed-{seed}" / "small.out"
        assert (
            f"small, seed {seed} failed with status 1; {said} ends" if how else f"seed {seed}: small failed"
        ) in error
        assert not how or f"    {said.read_text().splitlines()[-1]}" in error


def test_a_missing_verifier_is_named_before_any_process_starts(tmp_path, here, monkeypatch, capsys):
    monkeypatch.delenv("ABCROWN", raising=False)
    path = tmp_path / "verified.toml"
    path.write_text(RECIPE.replace("[methods.linf-dist]", '[verify]\nmethods = ["abcrown"]\n[methods.linf-dist]'))
    assert main(command(path, tmp_path / "out", "--jobs", 2)) == 2
    assert "set ABCROWN to" in capsys.readouterr().err and not here and not (tmp_path / "out").exists()


def test_the_trials_behind_settings_stand_in_tables_and_change_nothing(recipe, in_turn, tmp_path, capsys):
    path, out = tmp_path / "small.toml", tmp_path / "out"
    path.write_text(RECIPE.replace('kind = "ibp"', 'kind = "ibp"\ntrials = 12'))
    assert main(command(path, out, "--seed", 4)) == 0
    assert (
        "| epochs | trials |" in (text := (out / "table.md").read_text())
        and "| 2 | 12 |" in text
        and "| 2 | – |" in text
    )
    assert main(["report", str(out), "--html", str(tmp_path / "a.html")]) == 0
    assert ">trials<" in (tmp_path / "a.html").read_text()
    capsys.readouterr()
    assert main(command(recipe, out, "--seed", 4)) == 0 and capsys.readouterr().err.count("already in") == 2
    with_trials, without = figures(out), figures(in_turn / "seed-4")
    assert with_trials["methods"]["small"].pop("trials") == 12 and with_trials == without


def test_seeds_do_not_go_below_a_run_of_one_seed(recipe, in_turn, tmp_path, capsys):
    shutil.copytree(in_turn / "seed-4", tmp_path / "out")
    assert main(command(recipe, tmp_path / "out", "--seeds", 2)) == 2
    assert f"{tmp_path / 'out'} has the results.json of a run without --seeds" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--seeds", "0"], "--seeds must be at least 1, got 0"),
        (["--jobs", "0"], "--jobs must be at least 1, got 0"),
        (["--seed", "-1"], "--seed must be at least 0, got -1"),
        (["--seeds", "3", "--seed", str(2**32 - 2)], "the last seed, --seed + --seeds - 1, must be below 2^32"),
    ],
    ids=lambda value: "" if isinstance(value, str) else " ".join(value),
)
def test_wrong_numbers_are_named_by_their_flags(more, words, recipe, tmp_path, capsys):
    assert main(command(recipe, tmp_path / "out", *more)) == 2
    assert words in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_jobs_and_torchrun_do_not_go_together(recipe, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    assert main(command(recipe, tmp_path, "--jobs", 2)) == 2
    assert "--jobs starts processes of its own, so it cannot be used with torchrun" in capsys.readouterr().err


RACE = """
import os, sys, time
from pathlib import Path
from comparisons.cli import main
from comparisons.running import run
out, (method, other) = Path(sys.argv[2]), sys.argv[3:]
child = os.fork()  # two processes for one import
if child == 0:
    method, other = other, method
store, results_in = run._store, run.results_in

def together(*arguments):  # both come here at the same moment
    (out / f"{method}.ready").touch()
    while not (out / f"{other}.ready").exists():
        time.sleep(0.001)
    run.results_in = slow
    return store(*arguments)

def slow(folder):  # and read before the other one writes, unless they take turns
    found = results_in(folder)
    time.sleep(1)
    return found

run._store = together
status = main(["run", sys.argv[1], "--methods", method, "--out", str(out), "--quiet", "--no-report"])
if child:
    status = max(status, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
sys.exit(status)
"""


def test_two_processes_that_finish_together_are_both_in_the_results(recipe, tmp_path):
    process = REAL([sys.executable, "-c", RACE, str(recipe), str(tmp_path), *METHODS], stderr=subprocess.PIPE)
    _, error = process.communicate(timeout=200)
    assert process.returncode == 0, error
    found = read(tmp_path)
    assert list(found.methods) == METHODS
    for method in METHODS:
        assert load(tmp_path / f"{method}.pt")[1]["results"]["clean"] == found.methods[method].clean
