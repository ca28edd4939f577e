"""The commit that a result line names; the line itself is tested with the runs that write it."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from safa import outcome


def git_in(folder: Path) -> Callable[..., str]:
    command = ["git", "-C", str(folder), "-c", "user.name=x", "-c", "user.email=x@y.z"]
    return lambda *words: subprocess.run([*command, *words], check=True, capture_output=True, text=True).stdout.strip()


def test_the_commit_is_that_of_the_checkout_and_says_when_files_differ(tmp_path, monkeypatch):
    code = tmp_path / "src" / "safa" / "outcome.py"
    code.parent.mkdir(parents=True)
    code.write_text("# as committed\n")
    git = git_in(tmp_path)
    git("init", "--quiet")
    git("add", ".")
    git("commit", "--quiet", "--message", "ours")
    monkeypatch.setattr(outcome, "__file__", str(code))
    assert outcome.commit() == git("rev-parse", "HEAD")
    (tmp_path / "notes.txt").write_text("beside the code, and nothing that runs")
    assert outcome.commit() == git("rev-parse", "HEAD")
    code.write_text("# changed\n")
    assert outcome.commit() == git("rev-parse", "HEAD") + "+changes"


def test_a_line_names_the_commit_that_was_there_when_its_process_began(monkeypatch):
    outcome.commit_of_process.cache_clear()
    monkeypatch.setattr(outcome, "commit", lambda: "first")
    assert outcome.commit_of_process() == "first"
    monkeypatch.setattr(outcome, "commit", lambda: "second")
    assert outcome.commit_of_process() == "first"
    outcome.commit_of_process.cache_clear()


@pytest.mark.parametrize("place", ["safa", "project/.venv/lib/safa", "project/src/other/safa"])
def test_outside_a_checkout_of_its_own_there_is_no_commit(place, tmp_path, monkeypatch):
    (tmp_path / "project").mkdir()
    (tmp_path / place).mkdir(parents=True)
    git = git_in(tmp_path / "project")
    git("init", "--quiet")
    git("commit", "--quiet", "--allow-empty", "--message", "not ours")
    monkeypatch.setattr(outcome, "__file__", str(tmp_path / place / "outcome.py"))
    assert outcome.commit() is None
