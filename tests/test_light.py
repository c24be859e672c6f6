"""What must be quick imports nothing that is large: help, the version, and the faces of the commands' packages."""

import argparse
import subprocess
import sys

import pytest

import linf_plugin
from comparisons import cli as compare
from linf_plugin.datasets import SOURCES
from onnx_export import cli as export
from onnx_export import console
from onnx_export.parsers.common import DATA_SETS
from onnx_export.running.session import DEVICES
from onnx_export.verifiers.generate_properties import PROPERTY_KINDS
from onnx_export.version import version
from onnx_export.writing.settings import CERTIFICATE_CHOICES, FLAVOURS, PIXELS, VERIFIER_FLAVOURS

LARGE = ("torch", "numpy", "matplotlib", "onnx", "onnxruntime", "linf_plugin")
COMMANDS = {"comparisons": compare.COMMANDS, "onnx_export": export.EXPORT_COMMANDS}
QUICK = [
    *((module, (flag,)) for module in COMMANDS for flag in ("--help", "--version")),
    *((module, (name, "--help")) for module, commands in COMMANDS.items() for name in commands),
    ("comparisons", ("study", "--list")),
]


@pytest.mark.parametrize(
    "module, arguments", QUICK, ids=lambda value: value if isinstance(value, str) else "-".join(value)
)
def test_help_imports_nothing_large(module, arguments):
    code = f"""
import sys
from {module}.cli import main
try:
    main({list(arguments)})
except SystemExit as end:
    assert not end.code
print("large:", *({set(LARGE)} & sys.modules.keys()))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, encoding="utf-8")
    if arguments == ("study", "--list"):  # a command that runs may import torch
        assert "tightness" in done.stdout
    else:
        assert done.stdout.endswith("large:\n") and len(done.stdout.splitlines()) > 1


@pytest.mark.parametrize("main, prog", [(compare.main, "linf-compare"), (export.main, "linf-export")])
def test_the_version_is_that_of_the_package(main, prog, capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert capsys.readouterr().out == f"{prog} {linf_plugin.__version__}\n"
    assert version() == linf_plugin.__version__


def _choices(command: str, flag: str) -> list[str]:
    """The choices of an argument of ``linf-export``."""
    parser = argparse.ArgumentParser()
    export.EXPORT_COMMANDS[command].add_arguments(parser)
    (action,) = (action for action in parser._actions if flag in action.option_strings)
    return list(action.choices)


def test_choices_are_those_of_the_tables():
    """The arguments do not import the modules of some tables."""
    assert set(DATA_SETS) == SOURCES.keys()
    assert _choices("check", "--device") == _choices("verify", "--device") == list(DEVICES)
    assert _choices("vnnlib", "--kind") == list(PROPERTY_KINDS)
    assert _choices("abcrown", "--data") == _choices("import", "--data") == list(SOURCES)
    assert _choices("model", "--flavour") == list(FLAVOURS)
    assert _choices("model", "--certificate") == list(CERTIFICATE_CHOICES)
    assert _choices("model", "--pixels") == list(PIXELS)
    assert _choices("vnnlib", "--flavour") == _choices("cross-check", "--flavour") == list(VERIFIER_FLAVOURS)


@pytest.mark.parametrize("name", export.EXPORT_COMMANDS)
def test_each_command_has_arguments_and_what_runs(name):
    """They are two modules of the same name; the second one imports torch."""
    parser = export._parser()
    with pytest.raises(SystemExit):
        parser.parse_args([name, "--help"])
    module = export.EXPORT_COMMANDS[name].__name__.rpartition(".")[2]
    done = __import__(f"onnx_export.commands.{module}", fromlist=["run"])
    assert callable(done.run) and export.EXPORT_COMMANDS[name].SUMMARY


@pytest.mark.parametrize("cli", [compare, export], ids=["linf-compare", "linf-export"])
def test_help_fits_80_columns(cli, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    parser = cli._parser()
    (commands,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    for one in (parser, *commands.choices.values()):
        long = [line for line in one.format_help().splitlines() if len(line) > 80]
        assert not long, (one.prog, long)


def test_paragraphs_are_filled_and_examples_stay():
    text = "One sentence that is\nbroken.\n\nexamples:\n  a short line\n  a line that is too long for it"
    found = console.Help("x", width=30)._fill_text(text, 28, "")
    assert found == (
        "One sentence that is broken.\n\nexamples:\n  a short line\n  a line that is too long\n      for it"
    )
