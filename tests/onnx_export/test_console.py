"""Output of commands: any encoding, closed pipes, progress bars."""

import io
import os
import subprocess
import sys

import pytest

from onnx_export import console

ENCODINGS = {
    "ascii": {"PYTHONIOENCODING": "ascii"},
    "latin-1": {"PYTHONIOENCODING": "latin-1"},
    "C locale": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
}
COMMANDS = {"linf-compare": "comparisons", "linf-export": "onnx_export"}


def _run(module, *arguments, **more):
    env = {**os.environ, **more}
    return subprocess.run([sys.executable, "-m", module, *arguments], env=env, capture_output=True, check=False)


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("module", COMMANDS.values())
def test_help_is_written_in_every_encoding(module, encoding):
    done = _run(module, "--help", **ENCODINGS[encoding])
    assert done.returncode == 0 and done.stderr == b"" and b"usage:" in done.stdout
    assert b"\\u" not in done.stdout


def test_signs_have_a_plain_form():
    raw = io.BytesIO()
    with io.TextIOWrapper(raw, "ascii", errors="strict") as stream, pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", stream)
        console.any_encoding()
        print("ε ≤ 8/255, ℓ∞, 5–6 × 中")
        stream.flush()
        assert raw.getvalue().decode() == "eps <= 8/255, linf, 5-6 x \\u4e2d\n"


@pytest.mark.parametrize("arguments", [["list"], ["run", "--help"], ["nothing"]])
def test_a_closed_pipe_ends_a_command_without_a_message(arguments):
    reading, writing = os.pipe()
    os.close(reading)
    run = [sys.executable, "-m", "comparisons", *arguments]
    try:
        done = subprocess.run(run, stdout=writing, stderr=subprocess.PIPE, check=False)
    finally:
        os.close(writing)
    if arguments == ["nothing"]:  # it writes to standard error only
        assert done.returncode == 2 and b"invalid choice" in done.stderr
    else:  # argparse itself ignores that nobody reads its help
        assert done.returncode == (0 if "--help" in arguments else console.PIPE_CLOSED) and done.stderr == b""


def test_an_interrupted_export_has_the_usual_status(monkeypatch, capsys):
    from onnx_export import cli
    from onnx_export.commands import show

    def interrupt(args):
        raise KeyboardInterrupt

    monkeypatch.setattr(show, "run", interrupt)
    assert cli.main(["show", "net.onnx"]) == 130
    assert capsys.readouterr().err == "linf-export: interrupted\n"
