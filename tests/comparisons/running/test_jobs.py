"""Methods × seeds in several processes: their order, their number, what they get, how they fail and are stopped."""

import contextlib
import io
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from comparisons import cli
from comparisons.commands import run as command
from comparisons.running import jobs
from comparisons.running.jobs import Job, run_jobs

REAL = subprocess.Popen
HERE = Path("seed-0")


class Fake:
    """A process that ends at the third look.  It says its method, and fails if ``failing`` has the method."""

    failing: dict[str, int] = {}
    started: list["Fake"] = []

    def __init__(self, arguments, *, stdout, env, **others):
        self.arguments, self.env, self.others, self.looks, self.returncode = arguments, env, others, 0, None
        self.method = self.option("--methods")
        stdout.write("".join(f"{self.method} says {i}\n" for i in range(5)))
        self.at_once = 1 + sum(process.returncode is None for process in self.started)
        self.signals = []
        self.started.append(self)

    def option(self, name: str) -> str:
        (found,) = [a.partition("=")[2] for a in self.arguments if a.startswith(f"{name}=")]
        return found

    def poll(self):
        self.looks += 1
        if self.looks == 3:
            self.returncode = self.failing.get(self.method, 0)
        return self.returncode

    def send_signal(self, number):
        self.signals.append(number)
        self.returncode = -number

    def wait(self, timeout):
        return self.returncode


@pytest.fixture
def fake(monkeypatch):
    monkeypatch.setattr(Fake, "started", [])
    monkeypatch.setattr(Fake, "failing", {})
    monkeypatch.setattr(jobs.subprocess, "Popen", Fake)
    monkeypatch.setattr(jobs, "LOOK_EVERY", 0.0)
    return Fake


def some(out: Path, methods: str = "abcde") -> list[Job]:
    return [Job(method, 0, out / HERE) for method in methods]


@pytest.mark.parametrize("at_once", [1, 2, 3, 9])
def test_jobs_start_in_order_and_at_most_so_many_at_once(at_once, fake, tmp_path):
    assert run_jobs("digits", some(tmp_path), [], at_once=at_once, progress=False) == []
    assert [process.method for process in fake.started] == list("abcde")
    assert max(process.at_once for process in fake.started) == min(at_once, 5)


def test_no_jobs_are_done_at_once(fake):
    assert run_jobs("digits", [], [], at_once=2) == [] == fake.started


def test_a_failure_leaves_the_others_and_is_told_with_its_last_lines(fake, tmp_path, capsys):
    fake.failing = {"b": 2, "d": -9}
    b, d = run_jobs("digits", some(tmp_path), [], at_once=2, progress=False)
    assert len(fake.started) == 5 and not any(process.signals for process in fake.started)
    said = tmp_path / HERE / "b.out"
    assert str(b) == f"b, seed 0 failed with status 2; {said} ends with:\n    b says 2\n    b says 3\n    b says 4"
    assert said.read_text().splitlines() == [f"b says {i}" for i in range(5)]
    assert str(d).startswith("d, seed 0 was ended by SIGKILL; ") and not b.stops and not d.stops
    assert capsys.readouterr().err == "".join(
        f"linf-compare: {method}, seed 0 failed; the other jobs go on\n" for method in "bd"
    )


def test_a_job_that_said_nothing_and_an_unknown_signal_have_words(tmp_path):
    assert (
        str(jobs.Failed(Job("a", 3, tmp_path), 1, ())) == f"a, seed 3 failed with status 1; {tmp_path}/a.out is empty"
    )
    assert "was ended by signal 99;" in str(jobs.Failed(Job("a", 3, tmp_path), -99, ()))


def test_a_contradiction_stops_all_jobs(fake, tmp_path, monkeypatch, capsys):
    """One that an earlier call left does not."""
    fake.failing = {"a": 1, "b": 1}
    (tmp_path / HERE).mkdir()
    (tmp_path / HERE / "contradiction-a-7.npz").write_bytes(b"old")
    poll = Fake.poll

    def poll_and_write(self):
        if self.looks == 1 and self.method == "b":
            (tmp_path / HERE / "contradiction-b-7.npz").write_bytes(b"new")
        return poll(self)

    monkeypatch.setattr(Fake, "poll", poll_and_write)
    monkeypatch.setitem(fake.failing, "c", 0)
    a, b = run_jobs("digits", some(tmp_path), [], at_once=3, progress=False)
    assert (a.job.method, a.stops, b.job.method, b.stops) == ("a", False, "b", True)
    assert [process.method for process in fake.started] == list("abc")  # d and e do not start
    assert "b, seed 0 found a contradiction, which stops all jobs" in capsys.readouterr().err


def test_ctrl_c_stops_what_runs(fake, tmp_path, monkeypatch):
    def interrupted(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(jobs.time, "sleep", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_jobs("digits", some(tmp_path), [], at_once=2, progress=False)
    assert [process.signals for process in fake.started] == [[signal.SIGINT]] * 2


STUBBORN = "import signal, time\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nprint(1, flush=True)\ntime.sleep(100)"


def _real(monkeypatch, code: str) -> list[subprocess.Popen]:
    """Has jobs run a program of ours."""
    started = []

    def start(arguments, **options):
        started.append(REAL([sys.executable, "-c", code], **options))
        return started[-1]

    monkeypatch.setattr(jobs.subprocess, "Popen", start)
    return started


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_real_processes_are_stopped_also_if_they_ignore_ctrl_c(ending, tmp_path, monkeypatch):
    started = _real(monkeypatch, STUBBORN)
    monkeypatch.setattr(jobs, "PATIENCE", {signal.SIGINT: 0.2, signal.SIGTERM: 10.0, signal.SIGKILL: 10.0})
    handler, job, sent = signal.getsignal(signal.SIGTERM), Job("a", 0, tmp_path), []
    at_ctrl_c = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it

    def sleep(_):  # that of subprocess as well
        if job.said.read_text() and not sent:
            sent.append(ending)
            os.kill(os.getpid(), ending)

    monkeypatch.setattr(jobs.time, "sleep", sleep)
    try:
        with pytest.raises(KeyboardInterrupt if ending == signal.SIGINT else SystemExit) as ended:
            run_jobs("digits", [job], [], at_once=1, progress=False)
    finally:
        signal.signal(signal.SIGINT, at_ctrl_c)
    assert started[0].returncode == -signal.SIGTERM and signal.getsignal(signal.SIGTERM) is handler
    assert ending == signal.SIGINT or ended.value.code == 143


def test_jobs_also_run_outside_the_main_thread(tmp_path, monkeypatch):
    _real(monkeypatch, "print('ε')")
    found = []
    thread = threading.Thread(
        target=lambda: found.append(run_jobs("x", [Job("a", 0, tmp_path)], [], at_once=1, progress=False))
    )
    thread.start()
    thread.join()
    assert found == [[]] and (tmp_path / "a.out").read_text(encoding="utf-8") == "ε\n"


def test_the_cores_are_divided_unless_the_environment_says_otherwise(fake, tmp_path, monkeypatch):
    for name in ("OMP_NUM_THREADS", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(jobs.os, "sched_getaffinity", lambda _: range(8), raising=False)
    for at_once, threads in ((1, "8"), (3, "2"), (100, "4"), (2, "4")):
        run_jobs("digits", some(tmp_path, "ab" if at_once == 100 else "abcdefgh"), [], at_once=at_once, progress=False)
        assert fake.started[-1].env["OMP_NUM_THREADS"] == threads
    assert fake.started[-1].env["OMP_WAIT_POLICY"] == "passive"
    assert fake.started[-1].env["PYTHONIOENCODING"] == "utf-8" and fake.started[-1].env["PATH"] == os.environ["PATH"]
    monkeypatch.setattr(jobs.os, "sched_getaffinity", lambda _: range(2), raising=False)
    run_jobs("digits", some(tmp_path), [], at_once=5, progress=False)
    assert fake.started[-1].env["OMP_NUM_THREADS"] == "1"
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    run_jobs("digits", some(tmp_path), [], at_once=2, progress=False)
    assert fake.started[-1].env["OMP_NUM_THREADS"] == "7"


OWN = {"recipe", "methods", "seed", "seeds", "jobs", "out", "quiet", "no_report", "command"}  # of each process
GIVEN = {  # an option of the parent → its value
    "--data-dir": "some where",
    "--data-name": "-mine",
    "--device": "cpu",
    "--set": "eps=8/255",
    "--epochs": "7",
    "--held-out": "0.25",
    "--budget": "1h30m",
    "--resume": None,
    "--force": None,
}


def _parsed(arguments: list[str]):
    with contextlib.redirect_stderr(io.StringIO()):
        return cli._parser().parse_args(["run", *arguments])


def test_a_job_gets_the_options_that_were_given(fake, tmp_path):
    words = [flag if value is None else f"{flag}={value}" for flag, value in GIVEN.items()]
    asked = _parsed(["my recipe.toml", *words, "--set=a.b='x y'", "--jobs", "2", "--seeds", "2", "--seed", "3"])
    run_jobs(asked.recipe, [Job("-a", 4, tmp_path)], command._options(asked), at_once=1, progress=False)
    (process,) = fake.started
    assert process.arguments[:3] == [sys.executable, "-m", "comparisons"] and process.arguments[3] == "run"
    got = _parsed(process.arguments[4:])
    assert vars(got).keys() == vars(asked).keys()
    plain = vars(_parsed(["my recipe.toml"]))
    for name in vars(asked).keys() - OWN:
        assert getattr(got, name) == getattr(asked, name) != plain[name], name
    assert (got.recipe, got.methods, got.seed, got.out) == ("my recipe.toml", "-a", 4, tmp_path)
    assert got.quiet and got.no_report and (got.jobs, got.seeds) == (1, None)
    assert process.others["stdin"] is subprocess.DEVNULL and process.others["stderr"] is subprocess.STDOUT


def test_a_job_gets_no_option_that_was_not_given(fake, tmp_path):
    asked = _parsed(["digits", "--jobs", "2"])
    run_jobs("digits", [Job("a", 0, tmp_path)], command._options(asked), at_once=2, progress=False)
    got, plain = _parsed(fake.started[0].arguments[4:]), _parsed(["digits"])
    assert all(getattr(got, name) == getattr(plain, name) for name in vars(plain).keys() - OWN)
