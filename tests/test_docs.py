"""What README and the pages of docs show can be pasted: Python twice, and commands are understood."""

import re
import shlex
from pathlib import Path

import pytest
import torch

import comparisons as compare_package
from comparisons import cli as compare
from onnx_export import cli as export

ROOT = Path(__file__).parent.parent
PAGES = {page.name: page.read_text(encoding="utf-8") for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md"))}
BLOCK = re.compile(r"```(\w*)\n(.*?)```", re.DOTALL)
# A shorter training, and a device that there is.
SHORTER = {
    "epochs=60": "epochs=2",
    "p_end=53": "p_end=1",
    'parallel.join("cuda")': 'parallel.join("cpu")',
    '"epochs": 20': '"epochs": 2',
}
TABLES = (compare_package.ARCHITECTURES, compare_package.LOSSES, compare_package.METHODS)  # pages add rows
PARSERS = {"linf-compare": compare._parser, "linf-export": export._parser}


def python(page: str) -> list[str]:
    """Returns the Python of a page, block by block."""
    return [code for language, code in BLOCK.findall(PAGES[page]) if language == "python"]


# A page → what its reader has pasted before: docs/training.md says so.
BEFORE = {"training.md": python("README.md")[:1]}
COMMANDS = sorted(
    {
        line
        for text in PAGES.values()
        for language, block in BLOCK.findall(text)
        for line in block.splitlines()
        if not language and line.startswith(tuple(PARSERS))
    }
)


@pytest.mark.filterwarnings("ignore:# The axis name:UserWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("page", [page for page in PAGES if python(page)])
def test_python_of_a_page_runs_twice(page, tmp_path, monkeypatch):
    """Each block twice, and then each once more in the same folder, where its files are."""
    monkeypatch.chdir(tmp_path)
    before = [dict(table) for table in TABLES]
    try:
        _run_twice(page)
    finally:
        for table, rows in zip(TABLES, before):
            table.clear()
            table.update(rows)


def _run_twice(page):
    for times in (2, 1):
        names = {"__name__": "pasted"}
        for code in [*BEFORE.get(page, []), *python(page)]:
            for words, fewer in SHORTER.items():
                code = code.replace(words, fewer)
            for _ in range(times):
                with torch.random.fork_rng():
                    exec(compile(code, page, "exec"), names)
        torch.set_default_dtype(torch.float32)  # custom_op.md changes it


def test_trainings_are_shortened():
    text = "".join(code for page in PAGES for code in python(page))
    assert all(words in text for words in SHORTER)


@pytest.mark.parametrize("line", COMMANDS)
def test_commands_are_understood(line):
    name, *arguments = shlex.split(line.partition(" > ")[0], comments=True)
    PARSERS[name]().parse_args(arguments)
