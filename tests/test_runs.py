"""Runs: the result line and the folder, prefixes that are trained once, and looking at a run again."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from safa import __version__, catalog, checkpoint, evaluate, files, provenance, runs
from safa import recipe as recipes
from safa.data.dataset import LongTailed
from safa.data.subset import Subset
from safa.deploy.network import load_run
from safa.errors import UserError
from safa.files import CHECKPOINT
from safa.job import Job, recipe_sha256
from safa.machine import Machine
from safa.recipe import Augmenter, Data, Model, Named, Recipe, Schedule, Stage
from safa.report import lines
from tests.test_resume import assert_same_state

ISSUE_KEYS = [
    "recipe",
    "dataset",
    "imbalance_factor",
    "model",
    "method",
    "seed",
    "epochs",
    "error_last",
    "error_best",
    "error_many",
    "error_medium",
    "error_few",
    "error_per_class",
    "ece",
    "commit",
    "torch",
    "device",
    "seconds",
]


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def machine(tmp_path, said) -> Machine:
    return Machine(cache=tmp_path / "cache", results=tmp_path / "results.jsonl", say=said.append)


def result_of(folder: Path) -> dict[str, object]:
    return json.loads((folder / "result.json").read_text())


def variants(tiny: Recipe) -> dict[str, Recipe]:
    """LDAM in one stage, LDAM-DRW, and both with SAFA: 2 of 4 epochs are common to all."""
    first, second = tiny.stages
    plain = Stage(2, loss=Named("ldam"), weighting=Named("effective_number"))
    return {
        "ldam": replace(tiny, method="LDAM", stages=(replace(first, epochs=4),)),
        "drw": replace(tiny, method="LDAM-DRW", stages=(first, plain)),
        "safa": replace(tiny, stages=(first, second)),
    }


# --- one run -----------------------------------------------------------------------------------------------


def test_a_result_line_has_every_key_that_was_asked_for(tiny_run):
    line = result_of(tiny_run)
    assert set(ISSUE_KEYS) <= set(line)
    lines.check(line, "here")


def test_a_result_line_says_what_was_run(tiny_run, tiny_recipe, tiny_data):
    line = result_of(tiny_run)
    expected = {
        "recipe": "tiny", "dataset": "digits", "imbalance_factor": 20, "model": "resnet8", "method": "LDAM-DRW-SAFA",
        "seed": 0, "epochs": 4, "precision": "float32", "batch_size": 16, "processes": 1, "reused_epochs": 0,
        "images_sha256": tiny_data.source.fingerprint,
        "torch": torch.__version__, "version": __version__, "run": "run", "subset_sha256": tiny_data.subset.sha256,
        "class_counts": tiny_data.class_counts, "class_names": [str(digit) for digit in range(10)],
    }  # fmt: skip
    assert {key: line[key] for key in expected} == expected
    assert line["device"] == "cpu" or torch.cuda.is_available()
    assert line["seconds"] > 0


def test_the_figures_are_those_of_the_predictions_left_beside(tiny_run, tiny_data):
    line = result_of(tiny_run)
    with np.load(tiny_run / "predictions.npz") as stored:
        predicted = evaluate.Predictions(**stored)
    wrong = predicted.labels != predicted.predictions
    assert len(wrong) == len(tiny_data.source.test)
    assert line["error_last"] == pytest.approx(100 * wrong.mean(), abs=1e-4)
    per_class = [100 * wrong[predicted.labels == c].mean() for c in range(10)]
    assert line["error_per_class"] == pytest.approx(per_class, abs=1e-4)
    assert line["balanced_error"] == pytest.approx(np.mean(per_class), abs=1e-4)
    for name, ids in line["groups"].items():
        rows = np.isin(predicted.labels, ids)
        assert line[f"error_{name}"] == (pytest.approx(100 * wrong[rows].mean(), abs=1e-4) if rows.any() else None)


def test_the_last_epoch_and_the_best_on_test_are_told_apart(tiny_run):
    line = result_of(tiny_run)
    log = [json.loads(text) for text in (tiny_run / "log.jsonl").read_text().splitlines()]
    errors = [entry["test"]["error"] for entry in log]
    assert line["error_last"] == errors[-1]
    assert line["error_best"] == min(errors)
    assert line["error_best_epoch"] == errors.index(min(errors))


def test_the_best_epoch_is_one_of_the_final_networks_classifier(tmp_path, tiny_recipe, machine):
    adjusted = Stage(epochs=0, head=Named("adjusted", {"tau": 100.0}))
    recipe = replace(tiny_recipe, stages=(*tiny_recipe.stages, adjusted))
    line = runs.run(Job("adjusted", recipe, tmp_path / "run"), machine)
    log = [json.loads(text) for text in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert line["error_last"] > min(entry["test"]["error"] for entry in log)  # so strong a prior leaves one class
    assert (line["error_best"], line["error_best_epoch"]) == (line["error_last"], log[-1]["epoch"])


def test_the_folder_says_what_it_takes_to_repeat_the_run(tiny_run, tiny_recipe, tiny_data):
    assert recipes.load(tiny_run / "recipe.yaml") == tiny_recipe
    subset = Subset.from_json((tiny_run / "subset.json").read_text())
    assert subset.train.tolist() == tiny_data.subset.train.tolist()
    described = json.loads((tiny_run / "data.json").read_text())
    assert described["images_sha256"] == tiny_data.source.fingerprint
    keys = [
        "recipe",
        "changes",
        "results",
        "track",
        "own_code",
        "name",
        "class_names",
        "class_counts",
        "image_size",
        "mean",
        "std",
        "subset_sha256",
        "images_sha256",
        "skipped",
        "notes",
    ]
    assert set(described) == set(keys)


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({"seed": 1}, True),
        ({"precision": "bf16"}, True),
        ({"data": Data(name="elsewhere", root="there", imbalance_factor=20)}, True),
        ({"batch_size": 8}, False),
        ({"data": Data(imbalance_factor=30)}, False),
        ({"stages": (Stage(4, loss=Named("focal")),)}, False),
    ],
)
def test_a_line_tells_an_edited_recipe_from_the_one_before(change, same):
    recipe = Recipe("x", (Stage(4),), data=Data(imbalance_factor=20))
    assert (recipe_sha256(replace(recipe, **change)) == recipe_sha256(recipe)) is same


def test_how_often_a_run_is_tested_makes_no_other_recipe_of_it():
    often, seldom = (Recipe("x", (Stage(4, evaluate_every=every),)) for every in (1, 4))
    assert recipe_sha256(often) == recipe_sha256(seldom)


@pytest.fixture
def own_loss(tmp_path, monkeypatch):
    """Writes a module with a loss of one's own; returns how a recipe names it."""

    def write(code: str) -> str:
        (tmp_path / "losses_of_test_runs.py").write_text(f"from safa.losses import CrossEntropyLoss\n{code}\n")
        catalog.source_hash.cache_clear()
        return "losses_of_test_runs:Mine"

    monkeypatch.syspath_prepend(tmp_path)
    return write


def test_a_line_tells_edited_code_of_ones_own_from_that_before(own_loss):
    recipe = Recipe("x", (Stage(4), Stage(4, loss=Named(own_loss("Mine = CrossEntropyLoss")))))
    before = recipe_sha256(recipe)
    own_loss("class Mine(CrossEntropyLoss): ...")
    assert recipe_sha256(recipe) != before
    own_loss("Mine = CrossEntropyLoss")
    assert recipe_sha256(recipe) == before


def test_a_run_goes_on_once_a_file_is_gone_that_an_option_names_and_that_was_not_there_when_it_began(
    tiny_recipe, tmp_path, monkeypatch
):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "losses_that_log.py").write_text(
        "def plain(log):\n    from torch import nn; return nn.CrossEntropyLoss()"
    )
    log = tmp_path / "log.txt"
    loss = Named("losses_that_log:plain", {"log": str(log)})
    job = Job("own", replace(tiny_recipe, stages=(Stage(1, loss=loss),)), tmp_path / "run")
    line = runs.run(job, Machine())
    log.write_text("one epoch")
    catalog._content_hash.cache_clear()
    with pytest.raises(UserError, match=r"names the file .*log\.txt, which was not there when the run .* began; move"):
        runs.run(job, Machine())
    log.unlink()
    catalog._content_hash.cache_clear()
    assert runs.run(job, Machine()) == line


def test_a_finished_run_is_not_taken_for_one_with_edited_code(own_loss, tiny_recipe, tmp_path):
    loss = Named(own_loss("Mine = CrossEntropyLoss"))
    job = Job("own", replace(tiny_recipe, stages=(Stage(1, loss=loss),)), tmp_path / "run")
    line = runs.run(job, Machine())
    assert runs.run(job, Machine()) == line
    own_loss("class Mine(CrossEntropyLoss): ...")
    with pytest.raises(
        UserError, match=r"a run with another losses_of_test_runs:Mine, which was changed since; name another"
    ):
        runs.run(job, Machine())


def test_a_network_whose_own_code_was_edited_is_told_where_it_is_used_and_is_not_tested(
    tiny_recipe, tmp_path, monkeypatch
):
    file = tmp_path / "networks_of_test_runs.py"
    code = (
        "from safa.backbones import resnet8\n\n\n"
        "def mine(num_classes, head):\n    return resnet8(num_classes=num_classes, head=head)\n"
    )
    file.write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    model = replace(tiny_recipe.model, backbone=Named("networks_of_test_runs:mine"))
    folder = tmp_path / "run"
    runs.run(Job("own", replace(tiny_recipe, model=model, stages=(Stage(1),)), folder), Machine())
    assert load_run(folder).notes == ()
    assert runs.evaluate_run(folder, "test")["epochs"] == 1
    file.write_text(code.replace("return", "print('edited')\n    return"))
    catalog.source_hash.cache_clear()
    said = f"the file of networks_of_test_runs:mine was changed since {folder} was trained"
    (note,) = load_run(folder).notes
    assert note.startswith(f"{said}; if the network computes otherwise now")
    with pytest.raises(UserError, match=f"{re.escape(said)}; put it back, or train again"):
        runs.evaluate_run(folder, "test")


def test_changes_that_have_a_key_of_their_own_in_the_line_make_no_other_row(tiny_recipe, tmp_path):
    recipe = replace(tiny_recipe, seed=2, batch_size=8, stages=(Stage(1),))
    changes = "seed=2", "batch_size=8", "data.imbalance_factor=2e1", "precision=float32"
    line = runs.run(Job("tiny", recipe, tmp_path, changes), Machine())
    assert (line["changes"], line["seed"], line["imbalance_factor"]) == (["batch_size=8"], 2, 20)


def test_a_finished_run_is_not_run_again(tiny_run, tiny_recipe, said):
    before = {path.name: path.stat().st_mtime_ns for path in tiny_run.iterdir()}
    machine = Machine(say=said.append)
    assert runs.run(Job("tiny", tiny_recipe, tiny_run), machine) == result_of(tiny_run)
    assert said == [f"{tiny_run} was finished before; delete it to train anew"]
    assert {path.name: path.stat().st_mtime_ns for path in tiny_run.iterdir()} == before


def test_a_result_that_is_no_line_is_called_so(tiny_run, tiny_recipe, tmp_path):
    copied = shutil.copytree(tiny_run, tmp_path / "tiny")
    (copied / "result.json").write_text(json.dumps({**result_of(tiny_run), "recipe": None}))
    with pytest.raises(UserError, match=r"result\.json: recipe is a text, got None; delete the run's result\.json"):
        runs.run(Job("tiny", tiny_recipe, copied), Machine())


def test_a_folder_belongs_to_one_recipe(tiny_run, tiny_recipe):
    with pytest.raises(UserError, match="holds a run of another recipe; name another folder with --out, or delete it"):
        runs.run(Job("tiny", replace(tiny_recipe, seed=3), tiny_run), Machine())


def test_where_images_lie_and_how_often_it_is_tested_is_not_another_recipe(tiny_run, tiny_recipe, tiny_data):
    moved = replace(
        tiny_recipe,
        data=replace(tiny_recipe.data, root="elsewhere"),
        stages=tuple(replace(stage, evaluate_every=9) for stage in tiny_recipe.stages),
    )
    assert runs.run(Job("tiny", moved, tiny_run), Machine(), tiny_data) == result_of(tiny_run)


def write_photos(folder: Path, seed: int) -> None:
    """Random images of eight pixels for a data set with its own test images."""
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            (folder / split / name).mkdir(parents=True, exist_ok=True)
            for i in range(6):
                pixels = np.random.RandomState([seed, *split.encode(), i]).randint(0, 256, (8, 8, 3)).astype(np.uint8)
                Image.fromarray(pixels).save(folder / split / name / f"{i}.png")


def test_a_finished_run_is_not_taken_for_one_on_the_images_that_came_in_the_place_of_its_own(tmp_path, said):
    data = Data(str(tmp_path / "photos"), profile="as_found", head_ratio=0.5)
    job = Job("x", Recipe("CE", (Stage(1),), data, Model(Named("resnet8")), batch_size=6), tmp_path / "run")
    write_photos(tmp_path / "photos", seed=0)
    line = runs.run(job, Machine())
    assert runs.run(job, Machine(say=said.append)) == line
    write_photos(tmp_path / "photos", seed=1)
    way_out = "put them back, name their folder with --root, or train anew into another folder, with --out"
    for finished in (True, False):
        with pytest.raises(UserError, match=f"differ from those .* was trained on; {way_out}"):
            runs.run(job, Machine())
        if finished:
            (job.folder / "result.json").unlink()


def of_letters(data: LongTailed) -> LongTailed:
    """The same labels on images of something else."""
    return replace(data, source=replace(data.source, fingerprint="0" * 64, class_names=tuple("abcdefghij")))


def test_a_folder_keeps_what_it_says_of_its_images_when_a_run_on_others_is_refused(copied, tiny_recipe, tiny_data):
    (copied / "result.json").unlink()
    before = {path.name: path.read_bytes() for path in copied.iterdir()}
    with pytest.raises(
        UserError, match="the images of digits differ from those .*copied was trained on; put them back"
    ):
        runs.run(Job("tiny", tiny_recipe, copied), Machine(), of_letters(tiny_data))
    assert {path.name: path.read_bytes() for path in copied.iterdir()} == before


@pytest.mark.parametrize("content", ['{"error_last": 12', "[]", ""])
@pytest.mark.parametrize("name", ["result.json", "data.json"])
def test_a_file_of_a_run_that_is_cut_short_is_called_so(name, content, copied, tiny_recipe, tiny_data):
    (copied / name).write_text(content)
    with pytest.raises(UserError, match=rf"{name}.* delete the run's result\.json and train its recipe again"):
        runs.run(Job("tiny", tiny_recipe, copied), Machine(), tiny_data)
    (copied / "result.json").unlink()
    line = runs.run(Job("tiny", tiny_recipe, copied), Machine(), tiny_data)  # as the message says
    assert (line["epochs"], line["reused_epochs"]) == (4, 0)


def test_another_process_that_trains_in_the_folder_is_told_of_in_a_sentence(
    tmp_path, tiny_recipe, tiny_data, monkeypatch
):
    monkeypatch.setattr(files, "LOCK_TIMEOUT", 0.0)
    job = Job("tiny", tiny_recipe, tmp_path / "run")
    with (
        files.alone_in(job.folder),
        pytest.raises(UserError, match="another process trains in .*run; wait for its end, or name another folder"),
    ):
        runs.run(job, Machine(), tiny_data)
    assert [*job.folder.iterdir()] == []


# --- the file of result lines ------------------------------------------------------------------------------


def test_a_line_that_a_kill_kept_from_the_file_of_results_is_appended_by_the_next_call(tiny_run, tiny_recipe, machine):
    for _ in range(2):
        line = runs.run(Job("tiny", tiny_recipe, tiny_run), machine)
        assert lines.read(machine.results) == [line]


@pytest.mark.parametrize("place", ["file/results.jsonl", "folder", "/dev/full"])
def test_a_file_of_results_that_cannot_be_written_is_found_before_training(place, tmp_path, tiny_recipe, tiny_data):
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    if not (tmp_path / place).parent.exists():
        pytest.skip("this system has no such device")
    with pytest.raises(UserError, match="cannot (write|append to)"):
        runs.run(Job("tiny", tiny_recipe, tmp_path / "run"), Machine(results=tmp_path / place), tiny_data)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("device", "message"),
    [("gpu", "device must be auto, cpu or cuda, got 'gpu'"), ("cuda", "device cuda was asked for")],
)
def test_a_device_that_is_not_there_is_refused(device, message, tiny_recipe, tiny_data, tmp_path):
    if device == "cuda" and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(UserError, match=message):
        runs.run(Job("tiny", tiny_recipe, tmp_path / "run"), Machine(device=device), tiny_data)
    assert not (tmp_path / "run").exists()


# --- several runs ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def compared(tiny_recipe, tmp_path_factory):
    """Folders, result lines and what was said of the three variants."""
    out = tmp_path_factory.mktemp("compared")
    said: list[str] = []
    jobs = [Job(name, recipe, out / name) for name, recipe in variants(tiny_recipe).items()]
    machine = Machine(cache=out / "cache", results=out / "results.jsonl", say=said.append)
    return jobs, runs.compare(jobs, machine), said, out


def test_a_shared_prefix_is_trained_once(compared):
    jobs, found, said, out = compared
    assert [line["reused_epochs"] for line in found] == [0, 2, 2]
    assert said[-3:] == [
        "drw: 2 of 4 epochs came from the cache",
        "safa: 2 of 4 epochs came from the cache",
        "3 runs of 12 epochs together; 4 of them were shared and trained once",
    ]
    assert [line["method"] for line in found] == ["LDAM", "LDAM-DRW", "LDAM-DRW-SAFA"]


def test_a_run_on_a_shared_prefix_has_the_bits_of_one_from_scratch(compared, tiny_run):
    jobs, _, _, _ = compared
    assert_same_state(jobs[2].folder, tiny_run)
    alone, shared = (result_of(folder) for folder in (tiny_run, jobs[2].folder))
    assert alone["reused_of"] == {}
    assert shared["reused_of"] == provenance.made_with(torch.device("cpu"))
    own = {"recipe", "run", "seconds", "reused_epochs", "reused_of"}
    assert {key: alone[key] for key in alone.keys() - own} == {key: shared[key] for key in shared.keys() - own}


def test_every_run_appends_one_result_line(compared):
    _, found, _, out = compared
    assert lines.read(out / "results.jsonl") == found


def test_the_logs_of_a_shared_prefix_agree(compared):
    jobs, _, _, _ = compared
    logs = [(job.folder / "log.jsonl").read_text().splitlines() for job in jobs]
    assert logs[0][:2] == logs[1][:2] == logs[2][:2]
    assert [len(log) for log in logs] == [4, 4, 4]


def test_a_data_set_that_runs_draw_from_in_ways_of_their_own_is_read_once(
    tmp_path, machine, tiny_recipe, said, monkeypatch
):
    read, source_of = [], runs.source_of
    monkeypatch.setattr(runs, "source_of", lambda spec: read.append(spec.name) or source_of(spec))
    write_photos(tmp_path / "photos", seed=0)
    (tmp_path / "photos" / "other").mkdir()  # no split by its name, which is a remark
    photos = recipes.Data(str(tmp_path / "photos"), profile="as_found", image_size=8)
    short = replace(tiny_recipe, stages=(Stage(1),), batch_size=4)
    specs = {"as it is": photos, "shifted": replace(photos, augmentation=Named("shift"), many_above=3, few_below=2)}
    jobs = [Job(name, replace(short, data=spec, method=name), tmp_path / name) for name, spec in specs.items()]
    runs.compare(jobs, machine)
    assert len(read) == 1
    assert sum("folders that are no split by their names" in sentence for sentence in said) == 1
    runs.compare(
        [*jobs, Job("c", replace(short, data=replace(photos, image_size=9), method="c"), tmp_path / "c")], machine
    )
    assert len(read) == 3


def test_a_comparison_that_is_finished_trains_nothing(compared, said):
    jobs, found, _, out = compared
    again = runs.compare(jobs, Machine(cache=out / "cache", results=out / "results.jsonl", say=said.append))
    assert again == found
    assert sum("was finished before" in sentence for sentence in said) == 3
    assert len(lines.read(out / "results.jsonl")) == 3


def test_the_log_of_epochs_from_the_cache_has_the_stages_of_the_run_at_hand(tmp_path, machine, tiny_recipe, tiny_data):
    """Else the best epoch is looked for among those of another classifier."""
    recipe = replace(tiny_recipe, schedule=Schedule(milestones=()))
    cut = (Stage(1), Stage(2), Stage(1, head=Named("linear"), trainable=("fc",)))
    runs.run(Job("whole", replace(recipe, stages=(Stage(3),)), tmp_path / "whole"), machine, tiny_data)
    line = runs.run(Job("cut", replace(recipe, stages=cut), tmp_path / "cut"), machine, tiny_data)
    assert line["reused_epochs"] == 3
    log = [json.loads(text) for text in (tmp_path / "cut" / "log.jsonl").read_text().splitlines()]
    assert [entry["stage"] for entry in log] == [0, 1, 1, 2]
    assert line["error_best_epoch"] == 3


def test_epochs_that_were_trained_otherwise_are_told_of(tmp_path, machine, tiny_recipe, tiny_data, said):
    recipe = replace(tiny_recipe, stages=(Stage(1),), schedule=Schedule(milestones=()))
    runs.run(Job("first", recipe, tmp_path / "first"), machine, tiny_data)
    for path in machine.cache.iterdir():
        state = checkpoint.load(path)
        checkpoint.save(path, {**state, "made_with": {**state["made_with"], "torch": "1.0", "threads": 64}})
    runs.run(Job("second", recipe, tmp_path / "second"), machine, tiny_data)
    assert said == [
        "second: 1 of 1 epochs came from the cache; they were trained with threads 64, torch 1.0, "
        "which may change the last bits"
    ]


def test_a_damaged_state_in_the_cache_is_trained_anew(tmp_path, machine, tiny_recipe, tiny_data, said):
    recipe = replace(tiny_recipe, stages=(Stage(1), Stage(1)), schedule=Schedule(milestones=()))
    first = runs.run(Job("first", recipe, tmp_path / "first"), machine, tiny_data)
    states = sorted(machine.cache.iterdir(), key=lambda path: checkpoint.load(path)["done"])
    states[-1].write_bytes(states[-1].read_bytes()[:1000])
    second = runs.run(Job("second", recipe, tmp_path / "second"), machine, tiny_data)
    assert said[0] == f"{states[-1]} is damaged, and is removed; what it would have saved is trained anew"
    assert (second["reused_epochs"], second["error_per_class"]) == (len(states) - 1, first["error_per_class"])
    assert checkpoint.load(states[-1])["done"] == 2


def test_a_finished_run_whose_classes_were_called_otherwise_is_told_of_before_anything_is_trained(
    tmp_path, machine, tiny_recipe, tiny_data, monkeypatch
):
    one = replace(tiny_recipe, stages=(Stage(1),), schedule=Schedule(milestones=()))
    old, new = Job("old", one, tmp_path / "old"), Job("new", replace(one, method="other"), tmp_path / "new")
    runs.run(old, machine, tiny_data)
    renamed = replace(tiny_data, source=replace(tiny_data.source, class_names=("zero", *"123456789")))
    monkeypatch.setattr(
        runs, "_load_each_once", lambda jobs, machine: dict.fromkeys(map(runs._data_key, jobs), renamed)
    )
    with pytest.raises(
        UserError, match=r"the class 'zero' of digits was called '0' when .*old was trained; call it so"
    ):
        runs.compare([old, new], machine)
    assert not new.folder.exists()


def test_a_run_that_another_machine_began_is_told_of(tmp_path, machine, tiny_recipe, tiny_data, said):
    job = Job("run", replace(tiny_recipe, stages=(Stage(1),), schedule=Schedule(milestones=())), tmp_path / "run")
    runs.run(job, machine, tiny_data)
    (job.folder / "result.json").unlink()
    runs.run(job, machine, tiny_data)
    assert said == []
    path = job.folder / CHECKPOINT
    state = checkpoint.load(path)
    checkpoint.save(path, {**state, "made_with": {**state["made_with"], "threads": 64}})
    (job.folder / "result.json").unlink()
    runs.run(job, machine, tiny_data)
    assert said == [f"{job.folder} was last trained with threads 64; to go on without may change the last bits"]


def test_a_stage_that_trains_for_no_epoch_is_not_counted_as_one(tmp_path, machine, tiny_recipe, tiny_data, said):
    stages = Stage(1), Stage(0, head=Named("nearest_mean"))
    recipe = replace(tiny_recipe, stages=stages, model=Model(Named("resnet8")), schedule=Schedule(milestones=()))
    for name in ("first", "second"):
        runs.run(Job(name, recipe, tmp_path / name), machine, tiny_data)
    assert said == ["second: 1 of 1 epochs came from the cache"]
    assert runs.evaluate_run(tmp_path / "second")["epochs"] == result_of(tmp_path / "second")["epochs"] == 1


def wrong(recipe: Recipe, **changes: object) -> Recipe:
    """The recipe with a mistake in its last stage."""
    return replace(recipe, stages=(*recipe.stages[:-1], replace(recipe.stages[-1], **changes)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tiny: wrong(tiny, loss=Named("ldam", {"margin": 1})), "loss 'ldam' has no option 'margin'"),
        (lambda tiny: wrong(tiny, augmenter=Augmenter("saffa")), "no augmenter is called 'saffa'"),
        (lambda tiny: replace(tiny, data=replace(tiny.data, few_below=500)), "few_below=500 exceeds many_above"),
        (lambda tiny: replace(tiny, data=replace(tiny.data, imbalance_factor=10)), "compare runs on one"),
        (lambda tiny: replace(tiny, data=Data("absent_photos")), "no data set named 'absent_photos'"),
    ],
)
def test_a_mistake_in_the_last_of_several_runs_is_found_before_the_first_is_trained(
    change, message, tmp_path, tiny_recipe, machine
):
    jobs = [Job("good", tiny_recipe, tmp_path / "good"), Job("bad", change(tiny_recipe), tmp_path / "bad")]
    with pytest.raises(UserError, match=message):
        runs.compare(jobs, machine)
    assert [*tmp_path.iterdir()] == []


def test_two_runs_of_one_folder_are_refused(tmp_path, tiny_recipe, machine):
    jobs = [Job(name, replace(tiny_recipe, method=name), tmp_path / "same") for name in "ab"]
    with pytest.raises(UserError, match="two of the runs would share the folder .*same"):
        runs.compare(jobs, machine)


def test_two_recipes_that_would_be_one_row_of_the_table_are_refused(tmp_path, tiny_recipe, machine):
    other = replace(tiny_recipe, batch_size=8)
    jobs = [Job(name, recipe, tmp_path / name) for name, recipe in {"a/drw": tiny_recipe, "drw": other}.items()]
    with pytest.raises(UserError, match="a/drw and drw differ, and would be one row of a table, LDAM-DRW-SAFA; give"):
        runs.compare(jobs, machine)
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    ("name", "recipe", "changes"),
    [("b/other", {}, ()), ("b/drw", {"method": "x"}, ()), ("b/drw", {"seed": 1}, ()), ("b/drw", {}, ("batch_size=8",))],
)
def test_what_a_row_is_told_apart_by_makes_two_of_them(name, recipe, changes, tmp_path, tiny_recipe):
    first = Job("a/drw", tiny_recipe, tmp_path / "first")
    runs._refuse_shared_row([first, Job(name, replace(tiny_recipe, **recipe), tmp_path / "second", changes)])


def test_a_recipe_is_tried_once_whatever_the_number_of_its_seeds(tmp_path, tiny_recipe, machine, monkeypatch):
    tried = []
    monkeypatch.setattr(runs, "rehearse", lambda parts: tried.append(parts.recipe.method))
    monkeypatch.setattr(runs, "_train", lambda *_: {"reused_epochs": 0})
    recipes_of = {name: replace(recipe, seed=s) for s in range(3) for name, recipe in variants(tiny_recipe).items()}
    runs.compare(
        [Job(n, replace(r, seed=s), tmp_path / f"{n}{s}") for s in range(3) for n, r in recipes_of.items()], machine
    )
    assert tried == ["LDAM", "LDAM-DRW", "LDAM-DRW-SAFA"]


def test_a_cache_that_cannot_be_written_is_found_before_training(tmp_path, tiny_recipe, tiny_data):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write in .*file/cache: .* is a file, not a folder; name another place"):
        runs.run(Job("tiny", tiny_recipe, tmp_path / "run"), Machine(cache=tmp_path / "file" / "cache"), tiny_data)
    assert not (tmp_path / "run").exists()


def test_a_run_that_is_wholly_shared_is_a_run_all_the_same(machine, tmp_path, tiny_recipe):
    """The same recipe but for its name and evaluation, and one that ends where the others part."""
    first, second = tiny_recipe.stages
    short = Job("short", replace(tiny_recipe, stages=(first,)), tmp_path / "short")
    twin = Job("twin", replace(tiny_recipe, stages=(replace(first, evaluate_every=2), second)), tmp_path / "twin")
    long = Job("long", tiny_recipe, tmp_path / "long")
    found = runs.compare([long, short, twin], machine)
    assert [line["reused_epochs"] for line in found] == [0, 2, 4]
    assert found[0]["error_last"] == found[2]["error_last"]
    assert_same_state(long.folder, twin.folder)
    for job in (short, twin):
        assert runs.evaluate_run(job.folder)["error"] == result_of(job.folder)["error_last"]


def test_runs_of_two_precisions_can_be_compared(machine, tiny_recipe, tmp_path):
    short = replace(tiny_recipe, stages=(Stage(1),))
    jobs = [Job(p, replace(short, precision=p), tmp_path / p) for p in ("float32", "bf16")]
    found = runs.compare(jobs, machine)
    assert [line["precision"] for line in found] == ["float32", "bf16"]
    assert [line["reused_epochs"] for line in found] == [0, 0]


@pytest.mark.parametrize(
    ("wanted", "cost", "said"),
    [("bf16", 11.2, True), ("bf16", 0.5, False), ("float32", 11.2, False)],
)
def test_a_cpu_that_is_slow_in_bf16_is_told_of_once_before_training(
    wanted, cost, said, tiny_recipe, tiny_data, tmp_path, monkeypatch
):
    monkeypatch.setattr("safa.precision.bf16_cost", lambda: cost)
    heard: list[str] = []
    jobs = [Job(n, replace(tiny_recipe, stages=(Stage(1),), precision=wanted), tmp_path / n) for n in ("one", "two")]
    runs.compare(jobs, Machine(device="cpu", cache=tmp_path / "cache", say=heard.append))
    trained = next(i for i, sentence in enumerate(heard) if "shared and trained once" in sentence)
    told = [sentence for sentence in heard[:trained] if "precision" in sentence]
    sentence = (
        "precision bf16 is slow on this CPU: a convolution takes 11.2 times as long as in float32; "
        "--precision float32 trains in that"
    )
    assert told == ([sentence] if said else [])


def test_bf16_is_not_even_timed_for_a_run_that_has_begun_and_keeps_its_precision(
    machine, tiny_recipe, tiny_data, tmp_path, monkeypatch
):
    job = Job("tiny", replace(tiny_recipe, stages=(Stage(1),), precision="bf16"), tmp_path / "run")
    runs.run(job, machine, tiny_data)
    monkeypatch.setattr("safa.precision.bf16_cost", lambda: pytest.fail("timed again"))
    runs.run(job, machine, tiny_data)
    (job.folder / "result.json").unlink()
    runs.run(job, machine, tiny_data)


def test_forks_are_the_epochs_after_which_two_runs_part(tiny_recipe, tiny_data):
    jobs = [Job(name, recipe, Path(name)) for name, recipe in variants(tiny_recipe).items()]
    loaded = {runs._data_key(jobs[0]): tiny_data}
    plan = runs.epochs_of(tiny_recipe, tiny_data.facts())
    assert runs.forks_of(jobs, loaded) == {plan[1].key}
    assert runs.forks_of(jobs, loaded, world_size=2) == {runs.epochs_of(tiny_recipe, tiny_data.facts(), 2)[1].key}
    assert runs.forks_of([jobs[0], replace(jobs[0], recipe=replace(tiny_recipe, seed=1))], loaded) == set()


def test_a_comparison_needs_a_cache(tiny_recipe, tmp_path):
    with pytest.raises(UserError, match="compare needs a cache folder"):
        runs.compare([Job("tiny", tiny_recipe, tmp_path)], Machine())


# --- looking at a run again --------------------------------------------------------------------------------


@pytest.fixture
def copied(tiny_run, tmp_path) -> Path:
    return Path(shutil.copytree(tiny_run, tmp_path / "copied"))


def change_recipe(folder: Path, **changes: object) -> None:
    plain = yaml.safe_load((folder / "recipe.yaml").read_text())
    (folder / "recipe.yaml").write_text(yaml.safe_dump({**plain, **changes}))


def test_evaluating_a_run_gives_the_figures_of_its_result_line(tiny_run):
    found, line = runs.evaluate_run(tiny_run), result_of(tiny_run)
    assert found["error"] == line["error_last"]
    shared = set(found) & set(line) - {"run"}
    assert {
        "error_many",
        "error_medium",
        "error_few",
        "error_per_class",
        "balanced_error",
        "ece",
        "error_best",
    } <= shared
    assert {key: found[key] for key in shared} == {key: line[key] for key in shared}


def test_a_run_that_is_not_finished_can_be_evaluated(copied):
    (copied / "result.json").unlink()
    assert runs.evaluate_run(copied)["epochs"] == 4


def test_a_run_of_several_processes_can_be_evaluated_in_one(copied):
    state = checkpoint.load(copied / CHECKPOINT)
    checkpoint.save(copied / CHECKPOINT, {**state, "key": "of two processes"})
    assert runs.evaluate_run(copied)["error"] == result_of(copied)["error_last"]


def test_fp16_on_the_cpu_is_refused_with_a_way_out(tiny_recipe, tiny_data, tmp_path):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    job = Job("x", replace(tiny_recipe, precision="fp16"), tmp_path)
    with pytest.raises(UserError, match="precision fp16 needs a GPU; use bf16 or float32 on the CPU"):
        runs.run(job, Machine(), tiny_data)


def test_a_run_in_fp16_can_be_evaluated_without_a_gpu(copied):
    change_recipe(copied, precision="fp16")
    assert runs.evaluate_run(copied)["error"] == result_of(copied)["error_last"]


@pytest.mark.parametrize(
    ("former", "head", "learns"),
    [
        (Named("linear"), Named("linear"), True),
        (Named("linear"), Named("cosine", {"scale": 16}), True),
        (Named("cosine", {"scale": 30}), Named("cosine", {"scale": 5}), True),
        (Named("linear"), Named("scaled"), True),
        (Named("linear"), Named("tau_normalised", {"tau": 0.7}), False),
        (Named("cosine", {"scale": 30}), Named("nearest_mean"), False),
        (Named("linear"), Named("adjusted"), False),
    ],
)
def test_a_run_is_evaluated_with_the_classifier_of_its_last_stage(
    former, head, learns, tmp_path, tiny_recipe, tiny_data
):
    stages = Stage(1), Stage(int(learns), head=head, trainable=("fc",) * learns)
    recipe = replace(tiny_recipe, model=Model(Named("resnet8"), former), stages=stages)
    line = runs.run(Job("x", recipe, tmp_path), Machine(), tiny_data)
    found = runs.evaluate_run(tmp_path)
    assert (found["error"], found["ece"]) == (line["error_last"], line["ece"])


def test_a_run_is_not_evaluated_on_the_same_images_under_other_names(tiny_run, tiny_data, monkeypatch):
    renamed = replace(tiny_data, source=replace(tiny_data.source, class_names=("zero", *"123456789")))
    monkeypatch.setattr(runs, "load", lambda _: renamed)
    with pytest.raises(
        UserError, match=r"the class 'zero' of digits was called '0' when .* was trained; call it so again$"
    ):
        runs.evaluate_run(tiny_run)


def test_a_run_without_a_checkpoint_is_not_evaluated_as_if_it_were_trained(copied):
    (copied / CHECKPOINT).unlink()
    with pytest.raises(
        UserError,
        match="has no checkpoint.pt: it was deleted; delete result.json there, too, and train the recipe again",
    ):
        runs.evaluate_run(copied)


def test_validation_images_are_evaluated_where_there_are_some(tiny_recipe, tmp_path):
    recipe = replace(tiny_recipe, stages=(Stage(1),), data=replace(tiny_recipe.data, validation=0.2))
    line = runs.run(Job("x", recipe, tmp_path / "run"), Machine())
    found = runs.evaluate_run(tmp_path / "run", "validation")
    assert (found["error"], found["balanced_error"]) == (line["error_validation"], line["balanced_error_validation"])


def test_validation_images_that_there_are_not_are_an_error(tiny_run):
    with pytest.raises(UserError, match=r"has no validation images; set data\.validation in the recipe to cut some"):
        runs.evaluate_run(tiny_run, "validation")


def test_a_run_is_not_evaluated_on_other_images(copied):
    change_recipe(copied, data={"name": "digits", "imbalance_factor": 10, "largest": 30})
    with pytest.raises(
        UserError, match="the images of digits differ from those .* was trained on; name their folder with --root"
    ):
        runs.evaluate_run(copied)
