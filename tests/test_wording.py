"""The command line's words: options and values as they are typed, no keys, types or places of the library."""

from __future__ import annotations

import re
import sys
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

from safa import cli, runs
from safa.errors import UserError
from safa.job import Job
from safa.machine import Machine
from safa.tracking import TensorBoard

EXTRAS = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"][
    "optional-dependencies"
]


@pytest.fixture
def told(capsys):
    """Run a command that is a user's mistake; the sentence on standard error."""

    def run(call: str) -> str:
        assert cli.main(call.split()) == 2
        return capsys.readouterr().err.removeprefix("safa: ")

    return run


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("data", "name a data set, an image folder or a CSV file\nTry 'safa data --help'\n"),
        ("evaluate", "name the folder of a run\nTry 'safa evaluate --help'\n"),
        ("predict", "name the folder of a run and image files or folders\nTry 'safa predict --help'\n"),
        ("predict runs/x", "name image files or folders\nTry 'safa predict --help'\n"),
        ("export", "name the folder of a run\nTry 'safa export --help'\n"),
    ],
)
def test_what_is_missing_is_asked_for_in_words(call, message, told):
    assert told(call) == message


@pytest.mark.parametrize("command", ["data digits", "predict runs/x a.png"])
@pytest.mark.parametrize(("value", "meant"), [("skp", "; did you mean 'skip'?"), ("x", "")])
def test_a_value_beside_the_choices_names_them_and_the_closest(command, value, meant, told):
    first = told(f"{command} --on_corrupt {value}").splitlines()[0]
    assert first == f"--on_corrupt must be one of stop, skip, got {value!r}{meant}"


def test_a_profile_that_there_is_not_names_those_there_are(told):
    wanted = "--profile must be one of exponential, step, as_found, got 'stp'; did you mean 'step'?"
    assert told("data digits --profile stp").startswith(wanted)


@pytest.mark.parametrize("options", ["--profile step", "--profile exponential", "--largest 50"])
def test_a_tail_is_not_drawn_to_a_length_that_nobody_named(options, told):
    assert told(f"data digits {options}").startswith("to draw a tail, name its length, too: --imbalance_factor X")


def test_a_tail_that_wants_more_images_than_there_are_can_be_lowered_as_the_message_says(told, capsys):
    assert "lower largest" in told("data digits --profile step --imbalance_factor 10")
    assert cli.main(["data", "digits", "--profile", "step", "--imbalance_factor", "10", "--largest", "100"]) == 0
    assert "550 images, 10 classes, 100 to 10 each" in capsys.readouterr().out


def test_a_format_that_there_is_not_is_refused_before_the_run_is_read(told):
    assert told("export absent --format pt3").startswith("no format is called 'pt3'; did you mean 'pt2'?")


def test_a_milestone_out_of_reach_is_told_once_for_each_recipe(tiny_recipe, tmp_path, monkeypatch):
    said: list[str] = []
    monkeypatch.setattr(runs, "_train", lambda *_: {})
    short = replace(tiny_recipe, stages=(replace(tiny_recipe.stages[0], epochs=2),))
    machine = Machine(cache=tmp_path / "cache", say=said.append)
    jobs = [Job(name, replace(short, seed=seed), tmp_path / f"{name}{seed}") for seed in (0, 1) for name in "ab"]
    told = "schedule.milestones has 3, beyond the last epoch, 1: the learning rate does not fall there; "
    told += "set the list to fit, or to [] for one rate"
    runs.compare(jobs, machine)
    assert said[:-1] == [f"a: {told}", f"b: {told}"]
    said.clear()
    runs.run(jobs[0], machine)
    assert said == [f"a: {told}"]


def test_tracking_without_tensorboard_names_what_the_extra_installs(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    packages = " ".join(re.split(r"[<>=\[]", package)[0] for package in EXTRAS["track"])
    with pytest.raises(UserError, match=f"pip install {packages}, or leave --track out"):
        TensorBoard(tmp_path)
