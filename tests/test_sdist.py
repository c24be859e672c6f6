"""The source distribution holds every file of the repository: it builds, tests and documents itself."""

import os
import subprocess
from fnmatch import fnmatch
from pathlib import Path

import pytest
from setuptools.command.egg_info import FileList

ROOT = Path(__file__).parents[1]
WRITTEN = {"PKG-INFO"}  # by setuptools


def _ignored(name: str, folder: str) -> bool:
    """Whether a line of .gitignore takes a file or a folder."""
    for line in (ROOT / ".gitignore").read_text(encoding="utf-8").split():
        path = os.path.join("/", folder, name) if line.startswith("/") else name
        if fnmatch(path, line.rstrip("/")):
            return True
    return False


def _repository() -> set[str]:
    """The files of the repository, new ones among them.  In an unpacked distribution there is no git: what is there."""
    if (ROOT / ".git").exists():
        command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, text=True, encoding="utf-8")
        return {name for name in done.stdout.split("\0") if (ROOT / name).is_file()}
    found = set()
    for top, folders, files in os.walk(ROOT):
        folder = os.path.relpath(top, ROOT) if top != str(ROOT) else ""
        folders[:] = [name for name in folders if not _ignored(name, folder)]
        found |= {os.path.join(folder, name) for name in files if not _ignored(name, folder)}
    return found - WRITTEN


@pytest.fixture
def listed(monkeypatch) -> set[str]:
    """The files that MANIFEST.in names."""
    monkeypatch.chdir(ROOT)
    files = FileList()
    for line in Path("MANIFEST.in").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            files.process_template_line(line)
    return {os.path.normpath(name) for name in files.files}


def test_every_file_is_in_the_source_distribution(listed):
    repository = _repository()
    assert {
        "setup.py",
        "Makefile",
        "CHANGELOG.md",
        "linf_plugin/kernels/gpu_kernels.cu",
        "tests/cases.py",
    } <= repository
    assert repository - listed == {"MANIFEST.in"} & repository - listed  # setuptools adds it
    assert {name for name in listed if not _ignored(os.path.basename(name), os.path.dirname(name))} <= repository


def test_each_line_of_the_manifest_finds_something():
    for line in (ROOT / "MANIFEST.in").read_text(encoding="utf-8").splitlines():
        word, *names = line.split()
        if word in ("include", "graft"):
            assert all((ROOT / name).exists() for name in names), line
