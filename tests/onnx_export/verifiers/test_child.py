"""A program in a process of its own: it answers, and it ends at its limits and when it fails."""

import os
import pickle
import signal
import time

import pytest

from onnx_export.verifiers import child
from onnx_export.verifiers.child import Child, Ended

MEMORY = 1 << 30

PROGRAM = """
import os, subprocess, sys, time

def answer(question):
    what, value = question
    if what == "echo":
        return value
    if what == "pid":
        return os.getpid()
    if what == "sleep":
        time.sleep(value)
    if what == "take":
        return len(bytearray(value))
    if what == "start":
        return subprocess.Popen(["sleep", "60"]).pid
    if what == "raise":
        raise KeyError(value)
    if what == "exit":
        print("first", file=sys.stderr)
        print("last words", file=sys.stderr, flush=True)
        os._exit(value)
    if what == "abort":
        print(value, file=sys.stderr, flush=True)
        os.abort()
    if what == "print":
        os.write(1, b"noise")
        return None
"""


@pytest.fixture
def program(tmp_path):
    path = tmp_path / "program.py"
    path.write_text(PROGRAM)
    with Child(path, MEMORY) as found:
        yield found


def alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as f:
            return f.read().rsplit(")", 1)[1].split()[0] != "Z"  # ended, and its parent has not asked
    except FileNotFoundError:
        return False


def test_one_process_answers_several_questions(program, capfd):
    assert program.ask(("echo", {"a": [1, 2.5, b"x"]}), 10) == {"a": [1, 2.5, b"x"]}
    pid = program.ask(("pid", None), 10)
    assert pid == program.ask(("pid", None), 10) != os.getpid()
    assert program.ask(("print", None), 10) is None and capfd.readouterr().out == ""
    program.close()
    assert not alive(pid)
    assert program.ask(("pid", None), 10) != pid


def test_it_is_ended_at_its_time_limit(program):
    pid, began = program.ask(("pid", None), 10), time.perf_counter()
    with pytest.raises(Ended) as ended:
        program.ask(("sleep", 60), 0.2)
    assert ended.value.reason == "time" and time.perf_counter() - began < 5 and not alive(pid)
    assert program.ask(("echo", 1), 10) == 1


def test_it_ends_by_itself_where_nobody_asks_any_more(program):
    program.ask(("echo", 1), 10)
    program._connection.send_bytes(pickle.dumps((("sleep", 60), 0.2)))
    assert program._process.wait(10) == -signal.SIGALRM
    with pytest.raises(Ended, match="^time$"):
        program.ask(("echo", 1), 10)


def test_it_may_not_have_more_memory(program):
    pid = program.ask(("pid", None), 10)
    assert program.ask(("take", MEMORY // 2), 10) == MEMORY // 2
    with pytest.raises(Ended) as ended:
        program.ask(("take", MEMORY), 10)
    assert (ended.value.reason, ended.value.detail) == ("memory", "MemoryError:") and not alive(pid)


@pytest.mark.parametrize(
    ("question", "reason", "detail"),
    [
        (("raise", "word"), "crash", "KeyError: 'word'"),
        (("exit", 3), "crash", "exit status 3, last words"),
        (("exit", 0), "crash", "exit status 0, last words"),
        (("abort", "lost"), "crash", "signal SIGABRT, lost"),
        (("abort", "what(): std::bad_alloc"), "memory", "signal SIGABRT, what(): std::bad_alloc"),
    ],
)
def test_it_fails(program, question, reason, detail):
    with pytest.raises(Ended) as ended:
        program.ask(question, 10)
    assert (ended.value.reason, ended.value.detail) == (reason, detail)
    assert program.ask(("echo", 1), 10) == 1


def test_what_it_has_started_ends_with_it(program):
    pid = program.ask(("start", None), 10)
    assert alive(pid)
    program.close()
    deadline = time.monotonic() + 5
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not alive(pid)


def test_an_interruption_ends_it(program, monkeypatch):
    pid = program.ask(("pid", None), 10)

    def interrupted(seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr(program._connection, "poll", interrupted)
    with pytest.raises(KeyboardInterrupt):
        program.ask(("sleep", 60), 60)
    assert not alive(pid)


def test_a_program_that_cannot_start(tmp_path, monkeypatch):
    with pytest.raises(Ended, match="crash: FileNotFoundError"), Child(tmp_path / "none.py", MEMORY) as none:
        none.ask(1, 10)
    (tmp_path / "slow.py").write_text("import time\ntime.sleep(60)")
    monkeypatch.setattr(child, "STARTING", 0.2)
    with pytest.raises(Ended, match="time"), Child(tmp_path / "slow.py", MEMORY) as slow:
        slow.ask(1, 10)


def test_files_beside_a_script_do_not_hide_the_modules_of_python(tmp_path, monkeypatch):
    """A script's folder is the first place where Python looks."""
    (tmp_path / "types.py").write_text("raise ImportError('not the types of Python')")
    (tmp_path / "mine.py").write_text("number = 7")
    (tmp_path / "program.py").write_text("import mine\n\ndef answer(question):\n    return question * mine.number")
    monkeypatch.syspath_prepend(tmp_path)
    with Child(tmp_path / "program.py", MEMORY) as found:
        assert found.ask(6, 10) == 42
