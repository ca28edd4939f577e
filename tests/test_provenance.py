"""What stands beside the weights of a state: who made them, and what their log was measured on."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from safa import provenance

ERRORS = {"error": 30.0, "error_many": 10.0, "error_medium": 30.0, "error_few": 50.0}


@pytest.fixture
def state(tiny_data):
    history = [{"epoch": 0, "test": None}, {"epoch": 1, "test": dict(ERRORS), "validation": dict(ERRORS)}]
    return {"tested_on": provenance.tested_on(tiny_data), "history": history}


def test_a_state_says_what_its_last_bits_depend_on():
    expected = {
        "device": "cpu",
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "torch": str(torch.__version__),
        "commit": provenance.commit_of_process(),
    }
    assert provenance.made_with(torch.device("cpu")) == expected


def test_what_another_machine_made_is_told_and_what_this_one_made_is_not():
    here = torch.device("cpu")
    ours = provenance.made_with(here)
    assert provenance.other_than_here(ours, here) == ""
    assert provenance.other_than_here({}, here) == ""  # earlier versions said nothing
    assert provenance.other_than_here({**ours, "torch": "1.0", "threads": 64}, here) == "threads 64, torch 1.0"


def test_validation_errors_are_left_out_where_there_are_no_validation_images_and_the_state_is_untouched(
    state, tiny_data
):
    assert provenance.own_log(state, tiny_data) == [{"epoch": 0, "test": None}, {"epoch": 1, "test": ERRORS}]
    assert "validation" in state["history"][1]


def test_errors_of_groups_with_other_bounds_are_unknown_and_the_error_of_all_is_not(state, tiny_data):
    other = replace(tiny_data, spec=replace(tiny_data.spec, many_above=10, few_below=5))
    unknown = {"error": 30.0, "error_many": None, "error_medium": None, "error_few": None}
    assert provenance.own_log(state, other)[1] == {"epoch": 1, "test": unknown}


def test_a_state_that_does_not_say_what_it_was_tested_on_had_the_usual_groups(state, tiny_data):
    del state["tested_on"]
    usual = replace(tiny_data, spec=replace(tiny_data.spec, many_above=100, few_below=20))
    assert provenance.own_log(state, usual)[1]["test"] == ERRORS
    other = replace(tiny_data, spec=replace(tiny_data.spec, many_above=99, few_below=20))
    assert provenance.own_log(state, other)[1]["test"]["error_few"] is None


# --- the commit ----------------------------------------------------------------------------------------------


def git_in(folder: Path) -> Callable[..., str]:
    command = ["git", "-C", str(folder), "-c", "user.name=x", "-c", "user.email=x@y.z"]
    return lambda *words: subprocess.run([*command, *words], check=True, capture_output=True, text=True).stdout.strip()


def test_the_commit_is_that_of_the_checkout_and_says_when_files_differ(tmp_path, monkeypatch):
    code = tmp_path / "src" / "safa" / "provenance.py"
    code.parent.mkdir(parents=True)
    code.write_text("# as committed\n")
    git = git_in(tmp_path)
    git("init", "--quiet")
    git("add", ".")
    git("commit", "--quiet", "--message", "ours")
    monkeypatch.setattr(provenance, "__file__", str(code))
    assert provenance.commit() == git("rev-parse", "HEAD")
    (tmp_path / "notes.txt").write_text("beside the code, and nothing that runs")
    assert provenance.commit() == git("rev-parse", "HEAD")
    code.write_text("# changed\n")
    assert provenance.commit() == git("rev-parse", "HEAD") + "+changes"


def test_a_line_names_the_commit_that_was_there_when_its_process_began(monkeypatch):
    provenance.commit_of_process.cache_clear()
    monkeypatch.setattr(provenance, "commit", lambda: "first")
    assert provenance.commit_of_process() == "first"
    monkeypatch.setattr(provenance, "commit", lambda: "second")
    assert provenance.commit_of_process() == "first"
    provenance.commit_of_process.cache_clear()


@pytest.mark.parametrize("place", ["safa", "project/.venv/lib/safa", "project/src/other/safa"])
def test_outside_a_checkout_of_its_own_there_is_no_commit(place, tmp_path, monkeypatch):
    (tmp_path / "project").mkdir()
    (tmp_path / place).mkdir(parents=True)
    git = git_in(tmp_path / "project")
    git("init", "--quiet")
    git("commit", "--quiet", "--allow-empty", "--message", "not ours")
    monkeypatch.setattr(provenance, "__file__", str(tmp_path / place / "provenance.py"))
    assert provenance.commit() is None
