"""The command line: every command is a file, and help needs no torch."""

import importlib
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import comparisons.commands
from comparisons import cli
from comparisons.attacks.attack import ATTACKS
from comparisons.certificates import names
from comparisons.verifiers.complete import COMPLETE
from linf_plugin.datasets import SOURCES
from linf_plugin.norms import NORMS


def test_every_file_of_the_folder_is_a_command():
    folder = Path(comparisons.commands.__file__).parent
    modules = {path.stem for path in folder.glob("*.py") if path.stem != "__init__"}
    assert {command.__name__.rsplit(".", 1)[1] for command in cli.COMMANDS.values()} == modules


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_each_command_says_what_it_does(name, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main([name, "--help"])
    assert end.value.code == 0 and capsys.readouterr().out.startswith(f"usage: linf-compare {name} ")
    command = cli.COMMANDS[name]
    assert command.SUMMARY and command.DESCRIPTION.strip() and importlib.import_module(command.__name__) is command


def test_the_help_of_certify_names_every_method_and_attack(capsys):
    with pytest.raises(SystemExit):
        cli.main(["certify", "--help"])
    text = re.sub(r"-\s+", "-", capsys.readouterr().out)  # argparse breaks lines after hyphens
    shown = set(re.findall(r"[\w-]+", text))
    assert {*names(), *COMPLETE, *ATTACKS, *NORMS, *SOURCES} <= shown


@pytest.mark.parametrize("page", ["docs/own_nets.md", "README.md", "comparisons/commands/certify.py"])
def test_the_commands_that_a_page_shows_are_understood(page):
    text = (Path(cli.__file__).parents[1] / page).read_text()
    lines = re.findall(r"^ *linf-compare ((?:certify|report) -*[\w/.]+ .*?)(?:  .*)?$", text, re.MULTILINE)
    assert len(lines) >= 2
    for line in lines:
        assert cli._parser().parse_args(shlex.split(line, comments=True)).command == line.split()[0]


def test_help_imports_no_torch():
    code = (
        "import sys\nfrom comparisons.cli import main\n"
        "try: main(['study', '--help'])\n"
        "except SystemExit as e: print('status', e.code, {'torch', 'matplotlib', 'linf_plugin'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.endswith("status 0 set()\n"), done.stdout + done.stderr


@pytest.mark.parametrize(
    "arguments, hint",
    [
        (["run", "digits"], "; --resume goes on from the last finished epoch"),
        (["certify", "--onnx", "a", "--data", "b", "--eps", "0"], "; --resume goes on from the last finished part"),
        (["list"], ""),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_an_interruption_says_how_to_go_on(arguments, hint, monkeypatch, capsys):
    def interrupted(args):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli.COMMANDS[arguments[0]], "run", interrupted)
    assert cli.main(arguments) == 130
    assert capsys.readouterr().err == f"linf-compare: interrupted{hint}\n"
