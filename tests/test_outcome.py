"""The commit that a result line names; the line itself is tested with the runs that write it."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from safa import outcome


@pytest.mark.skipif(not (Path(outcome.__file__).parents[2] / ".git").exists(), reason="this is no checkout")
def test_the_commit_is_that_of_the_checkout_and_says_when_files_differ():
    assert re.fullmatch(r"[0-9a-f]{40}(\+changes)?", str(outcome.commit()))


@pytest.mark.parametrize("place", ["safa", "project/.venv/lib/safa", "project/src/other/safa"])
def test_outside_a_checkout_of_its_own_there_is_no_commit(place, tmp_path, monkeypatch):
    git = ["git", "-C", str(tmp_path / "project"), "-c", "user.name=x", "-c", "user.email=x@y.z"]
    (tmp_path / "project").mkdir()
    (tmp_path / place).mkdir(parents=True)
    for arguments in (["init", "--quiet"], ["commit", "--quiet", "--allow-empty", "--message", "not ours"]):
        subprocess.run([*git, *arguments], check=True)
    monkeypatch.setattr(outcome, "__file__", str(tmp_path / place / "outcome.py"))
    assert outcome.commit() is None
