"""``torchrun -m comparisons run``: two processes give one set of results, and go on after they were killed."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from comparisons.recipes.recipe import load_recipe
from comparisons.results import trials
from comparisons.results.file import read as results_of
from comparisons.results.samples import read
from comparisons.running.evaluate import asked_of
from comparisons.running.measure import measure
from comparisons.running.rows import rows_of
from linf_plugin import load
from linf_plugin.datasets import load_dataset

RECIPE = """
description = "two processes"
dataset = "digits"
eps = 0.05
eps_values = [0.05]
certificates = ["lipschitz", "ibp"]
attack = { steps = 2, restarts = 1 }
[methods.linf-dist]
architecture = { name = "linf-mlp", width = 16, depth = 2 }
loss = { name = "clipped-hinge", ce_first = 0.1, ce_last = 0.01 }
optimizer = { name = "distance-adam", lr = 0.05, scalar_lr = 0.006 }
batch_size = 99
select = 0.1
schedule = { epochs = 25, eps = 0.1, p_end = 20 }
[methods.ibp]
architecture = { name = "relu-mlp", width = 24, depth = 2 }
loss = { name = "ibp" }
optimizer = { name = "adam", lr = 3e-3 }
batch_size = 128
clip = 10
schedule = { epochs = 3, eps = 0.05, eps_end = 2 }
"""
ROOT = Path(__file__).parents[2]
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "comparisons"]
# As torchrun starts two processes and ends them, where torchrun is not what is tested: both are forks of one process,
# because each import of everything takes longer than the work.
FORKS = """
import os, signal, socket, sys
import torch.distributed
from comparisons.cli import main
from comparisons.running import run, search

with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
os.environ.update(TORCHELASTIC_RUN_ID="forks", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
os.environ.update(WORLD_SIZE="2", LOCAL_WORLD_SIZE="2")
children = []
signal.signal(signal.SIGTERM, lambda *_: [os.kill(child, signal.SIGTERM) for child in children])
for rank in "01":
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.environ.update(RANK=rank, LOCAL_RANK=rank)
        sys.exit(main(sys.argv[1:]))
    children.append(child)
sys.exit(max(abs(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])) for child in children))
"""
WAIT = 300  # seconds, for a machine that has other things to do; ten are enough


def start(folder: Path, *arguments: str, command: str = "run", by: Sequence[str] = ("-c", FORKS)) -> subprocess.Popen:
    """Two processes that write to ``folder/out``."""
    (folder / "pair.toml").write_text(RECIPE)
    line = [sys.executable, *by, command, "pair.toml", "--out", "out", "--device", "cpu", *arguments]
    return subprocess.Popen(
        line,
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """(folder, what was printed) of a run that nothing interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    process = start(folder, by=TORCHRUN)
    output, errors = process.communicate(timeout=WAIT)
    assert process.returncode == 0, errors
    return folder / "out", output, errors


def test_two_processes_write_one_set_of_results(whole):
    out, output, errors = whole
    results = json.loads((out / "results.json").read_text())
    assert results["device"].endswith("2 processes")
    assert {name: m["training"]["epochs"] for name, m in results["methods"].items()} == {"linf-dist": 25, "ibp": 3}
    m = results["methods"]["linf-dist"]
    certified, attacked = m["certified"]["best"]["accuracy"]["0.05"], m["attacked"]["pgd"]["0.05"]
    assert 0.5 < certified <= attacked <= m["clean"] and m["contradictions"] == 0
    assert len((out / "linf-dist.log.jsonl").read_text().splitlines()) == 25
    assert output.count("Written to") == 1 and not list(out.glob("*.state.pt"))
    assert "IBP:   0%" not in errors  # a bar begins with it, and there is no terminal


def test_two_processes_certify_and_attack_what_one_does(whole):
    out, *_ = whole
    recipe, data = load_recipe(str(out.parent / "pair.toml")), load_dataset("digits")
    for key in recipe.methods:
        model, there = load(out / f"{key}.pt")[0].eval(), read(out / f"{key}.samples.csv").frame
        here = rows_of(measure(model, data.x_test, data.y_test, asked_of(recipe, key, 0))).frame
        assert len(there) == 360 and there["sample"].tolist() == list(range(360))
        for name in here.columns.drop(["margin", "broken_eps", "broken_by"]):
            np.testing.assert_allclose(there[name], here[name], rtol=1e-5, err_msg=name)
        np.testing.assert_allclose(there["margin"], here["margin"], rtol=1e-4, atol=1e-5)
        # Another number of threads rounds otherwise, and an attack may break a sample that hardly survives.
        assert (there["broken_by"] != here["broken_by"]).sum() <= 2


def test_a_killed_run_goes_on_and_ends_with_the_same_bits(whole, tmp_path):
    process = start(tmp_path, "--quiet", "--methods", "linf-dist")
    log, late = tmp_path / "out/linf-dist.log.jsonl", time.monotonic() + WAIT
    while not (log.exists() and len(log.read_text().splitlines()) > 3):
        assert process.poll() is None and time.monotonic() < late
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)  # the processes are then ended, as by torchrun
    process.communicate(timeout=WAIT)
    assert (tmp_path / "out/linf-dist.state.pt").exists() and not (tmp_path / "out/results.json").exists()

    process = start(tmp_path, "--quiet", "--methods", "linf-dist", "--resume")
    output, errors = process.communicate(timeout=WAIT)
    assert process.returncode == 0, errors
    one, two = (load(folder / "linf-dist.pt")[0].state_dict() for folder in (whole[0], tmp_path / "out"))
    assert all(torch.equal(value, two[key]) for key, value in one.items())
    assert len(log.read_text().splitlines()) == 25


def test_a_rank_that_fails_says_why(tmp_path):
    (tmp_path / "out/ibp.pt/full").mkdir(parents=True)  # where the model is to be written
    process = start(tmp_path, "--quiet", "--methods", "ibp", "--force", by=TORCHRUN)
    _, errors = process.communicate(timeout=WAIT)
    assert process.returncode != 0
    assert "linf-compare (rank 0): error: out/ibp.pt could not be written" in errors
    assert "[rank1]: Traceback" not in errors  # which only saw that rank 0 ended


def test_two_processes_search_together(tmp_path):
    """Both train with the same settings.  Only the first process chooses them, writes and prints."""
    vary = "--vary=loss.kappa=0..1", "--vary=optimizer.lr=1e-3..1e-2:log"
    process = start(tmp_path, "--method=ibp", "--trials=3", "--set=methods.ibp.loss.kappa=0.5", *vary, command="search")
    output, errors = process.communicate(timeout=WAIT)
    assert process.returncode == 0, errors
    found = trials.read(tmp_path / "out" / "search.json")
    assert [trial.number for trial in found.trials] == [0, 1, 2]
    assert output.count("Written to") == 1 and errors.count("trial 0: clean") == 1
    for trial in found.trials:
        m = results_of(tmp_path / "out" / f"trial-{trial.number:04}").methods["ibp"]
        assert (m.clean, m.device[-11:]) == (trial.clean, "2 processes")
        assert m.settings["method"]["optimizer"]["lr"] == trial.settings["optimizer.lr"]
