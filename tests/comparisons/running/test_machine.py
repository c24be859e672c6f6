"""What is recorded of the machine and of the source."""

import re
import subprocess

from comparisons.running.machine import OURS, commit_of, now, processor_name


def _git(folder, *arguments: str) -> str:
    who = ("-c", "user.name=a", "-c", "user.email=a@example.com", "-c", "commit.gpgsign=false")
    command = ["git", *who, *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout.strip()


def test_the_commit_is_that_of_our_files_and_says_if_they_differ(tmp_path, monkeypatch):
    for package in OURS:
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text("")
    assert commit_of(tmp_path) is None  # no repository
    _git(tmp_path, "init", "-q")
    (tmp_path / "other.txt").write_text("a")
    _git(tmp_path, "add", "other.txt")
    _git(tmp_path, "commit", "-qm", "a repository of something else, which holds an installed copy")
    assert commit_of(tmp_path) is None
    _git(tmp_path, "add", ".")
    _git(tmp_path, "commit", "-qm", "ours")
    head = _git(tmp_path, "rev-parse", "HEAD")
    (tmp_path / "other.txt").write_text("b")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
    assert re.fullmatch("[0-9a-f]{40,64}", head) and commit_of(tmp_path) == head
    (tmp_path / OURS[0] / "__init__.py").write_text("changed")
    assert commit_of(tmp_path) == f"{head} with changes"
    monkeypatch.setenv("PATH", str(tmp_path))  # without git
    assert commit_of(tmp_path) is None and commit_of(tmp_path / "missing") is None


def test_the_date_is_utc_and_the_processor_has_a_name():
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", now()) and processor_name()
