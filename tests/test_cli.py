"""The command line: every command on the tiny recipe, and every mistake in one sentence without a traceback."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import safa
from safa import cli, commands, console, library
from safa import recipe as recipes
from safa.commands import trained, training
from safa.data import digits
from safa.files import CHECKPOINT
from safa.recipe import Named
from safa.report import lines
from safa.report.sections import SECTIONS
from tests.report.test_lines import LINE

pytestmark = pytest.mark.usefixtures("pages_without_charts")


@pytest.fixture
def call(capsys):
    """Run a command; (exit status, standard output, standard error)."""

    def run(*arguments: object) -> tuple[int, str, str]:
        status = cli.main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return status, out, err

    return run


@pytest.fixture
def mistake(call):
    """Run a command that is a user's mistake; the sentence on standard error."""

    def run(*arguments: object) -> str:
        status, _, err = call(*arguments)
        assert status == 2
        assert "Traceback" not in err
        assert err.startswith("safa: ")
        return err.removeprefix("safa: ")

    return run


@pytest.fixture(scope="module")
def files(tiny_recipe, tmp_path_factory) -> list[str]:
    """LDAM-DRW and LDAM-DRW-SAFA in a stage of one epoch each, as files of a user."""
    folder = tmp_path_factory.mktemp("recipes")
    first, second = (replace(stage, epochs=1) for stage in tiny_recipe.stages)
    drw = replace(second, sampler=Named("instance"), augmenter=None)
    for name, method, last in (("drw", "LDAM-DRW", drw), ("safa", "LDAM-DRW-SAFA", second)):
        recipe = replace(tiny_recipe, method=method, stages=(first, last))
        (folder / f"{name}.yaml").write_text(recipes.dump(recipe))
    return [str(folder / "drw.yaml"), str(folder / "safa.yaml")]


@pytest.fixture(scope="module")
def compared(files, tmp_path_factory, pages_without_charts) -> tuple[Path, str]:
    """Folder and standard output of a comparison over two seeds."""
    out, printed = tmp_path_factory.mktemp("runs"), io.StringIO()
    console.out.file = printed
    try:
        arguments = ["compare", *files, "--seeds", "0,1", "--out", str(out), "--results", str(out / "lines.jsonl")]
        assert cli.main(arguments) == 0
    finally:
        console.out.file = None
    return out, printed.getvalue()


RUNS = ("drw-seed0", "safa-seed0", "drw-seed1", "safa-seed1")


@pytest.fixture(scope="module")
def run(compared) -> Path:
    return compared[0] / "safa-seed0"


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for index, image in enumerate(digits.load()[1].images[:3]):
        Image.fromarray(image[0]).save(folder / f"{index}.png")
    return folder


# --- train and compare -------------------------------------------------------------------------------------


def test_train_leaves_a_run_a_page_and_a_model_and_says_where(call, files, tmp_path):
    status, out, err = call("train", files[1], "--out", tmp_path / "runs", "--seed", 3)
    folder = tmp_path / "runs" / "safa-seed3"
    assert (status, err) == (0, "")
    assert f"page:  {folder / 'report.html'}\nmodel: {folder / 'model.safetensors'}\n" in out
    made = "checkpoint.pt data.json features.npz log.jsonl model.safetensors predictions.npz"
    made += " recipe.yaml report.html result.json subset.json"
    assert {path.name for path in folder.iterdir()} == set(made.split())
    assert json.loads((folder / "result.json").read_text())["seed"] == 3


def test_compare_trains_every_recipe_under_every_seed(compared):
    out, printed = compared
    found = lines.read(out / "lines.jsonl")
    assert [(line["method"], line["seed"]) for line in found] == [
        ("LDAM-DRW", 0), ("LDAM-DRW-SAFA", 0), ("LDAM-DRW", 1), ("LDAM-DRW-SAFA", 1),
    ]  # fmt: skip
    assert [line["reused_epochs"] for line in found] == [0, 1, 0, 1]
    assert (out / "comparison.html").is_file()


def test_compare_says_what_was_shared_and_shows_table_and_differences(compared):
    out, printed = compared
    assert "safa: 1 of 2 epochs came from the cache" in printed
    assert "4 runs of 8 epochs together; 2 of them were shared and trained once" in printed
    assert re.search(r"\ndigits, factor 20, resnet8: against LDAM-DRW *\n", printed)
    assert re.search(r"\nLDAM-DRW-SAFA +2 +[+−]?\d+\.\d\d ±\d+\.\d\d .* [012] of 2 *\n", printed)
    assert "|" not in printed
    models = "".join(f"model: {out / name / 'model.safetensors'}\n" for name in RUNS)
    assert f"page:  {out / 'comparison.html'}\n{models}" in printed


def test_compare_of_one_recipe_has_no_differences(call, compared, files):
    status, printed, _ = call("compare", files[0], "--seeds", "0,1", "--out", compared[0])
    assert status == 0
    assert "against" not in printed
    assert "wins" not in printed


def test_compare_takes_a_folder_of_recipes_and_the_baseline_before_it(call, compared, files):
    folder = Path(files[1]).parent
    status, printed, _ = call("compare", files[1], folder, "--seeds", "0,1", "--out", compared[0])
    assert status == 0
    assert printed.count("was finished before") == 4
    assert "against LDAM-DRW-SAFA" in printed


def test_a_finished_run_whose_checkpoint_was_deleted_keeps_its_model_and_its_place_on_the_page(
    call, run, tmp_path, files
):
    copied = tmp_path / "out" / run.name
    shutil.copytree(run, copied)
    (copied / "checkpoint.pt").unlink()
    model = (copied / "model.safetensors").read_bytes()
    status, printed, _ = call("train", files[1], "--out", tmp_path / "out")
    assert status == 0
    assert "was finished before" in printed and f"model: {copied / 'model.safetensors'}" in printed
    assert (copied / "model.safetensors").read_bytes() == model
    (copied / "model.safetensors").unlink()
    status, printed, said = call("train", files[1], "--out", tmp_path / "out")
    assert status == 2
    assert "page: " in printed
    assert "delete result.json there, too, and train the recipe again" in said


def test_the_models_of_many_runs_are_named_in_one_line():
    models = [Path("runs", f"ce-seed{seed}", "model.safetensors") for seed in range(9)]
    assert training._listed(models) == "models: model.safetensors in the folder of each of the 9 runs, in runs"
    assert training._listed(models[:8]).count("\n") == 7


def test_compare_again_trains_nothing_and_leaves_the_models_of_the_finished_runs(call, compared, files):
    out, _ = compared
    before = {path: path.stat().st_mtime_ns for path in out.rglob("checkpoint.pt")}
    first, second, *_ = models = sorted(out.rglob("model.safetensors"))
    weights = [load_file(model)["conv1.weight"].clone() for model in models]  # of its own: the file is mapped
    first.write_bytes(second.read_bytes())  # as one exported before its run was finished, it holds other weights
    status, printed, _ = call("compare", *files, "--seeds", "0..1", "--out", out)
    assert not torch.equal(weights[0], weights[1])
    assert all(torch.equal(load_file(model)["conv1.weight"], was) for model, was in zip(models, weights, strict=True))
    assert status == 0
    assert printed.count("was finished before") == 4
    assert {path: path.stat().st_mtime_ns for path in out.rglob("checkpoint.pt")} == before


def test_what_the_command_line_says_otherwise_goes_into_the_recipe_and_the_folders_name(call, files, tmp_path):
    changes = ["--set", "stages.1.augmenter.start=random", "batch_size=32", "--imbalance_factor", "10"]
    status, _, err = call("train", files[1], *changes, "--out", tmp_path, "--data", "digits", "--threads", "1")
    assert (status, err) == (0, "")
    (folder,) = [path for path in tmp_path.iterdir() if path.name != ".cache"]
    assert re.fullmatch(r"safa-digits-seed0-[0-9a-f]{6}", folder.name)
    recipe = recipes.load(folder / "recipe.yaml")
    assert recipe.stages[1].augmenter.options == {"start": "random"}
    assert (recipe.batch_size, recipe.data.imbalance_factor) == (32, 10)


def test_a_run_in_another_precision_has_its_own_folder_and_is_a_row_of_the_recipe_all_the_same(call, files, tmp_path):
    status, _, err = call("train", files[0], "--precision", "bf16", "--out", tmp_path, "--threads", "1")
    assert (status, err) == (0, "")
    (folder,) = [path for path in tmp_path.iterdir() if path.name != ".cache"]
    assert re.fullmatch(r"drw-seed0-[0-9a-f]{6}", folder.name)
    assert recipes.load(folder / "recipe.yaml").precision == "bf16"
    line = json.loads((folder / "result.json").read_text())
    assert (line["precision"], line["changes"]) == ("bf16", [])


@pytest.fixture(scope="module")
def changed(tiny_recipe, tmp_path_factory) -> tuple[Path, str]:
    """Folder and standard output of a comparison of one epoch each, with a setting that was changed."""
    folder = tmp_path_factory.mktemp("changed")
    for name, method in (("t1", "TINY"), ("t2", "TINY-TOO")):
        recipe = replace(tiny_recipe, method=method, seed=5, stages=(replace(tiny_recipe.stages[0], epochs=1),))
        (folder / f"{name}.yaml").write_text(recipes.dump(recipe))
    printed = io.StringIO()
    console.out.file = printed
    try:
        given = [str(folder / "t1.yaml"), str(folder / "t2.yaml"), "--seeds", "0,1", "--out", str(folder / "runs")]
        assert cli.main(["compare", *given, "--set", "batch_size=32"]) == 0
    finally:
        console.out.file = None
    return folder, printed.getvalue()


def test_a_comparison_with_a_changed_setting_has_its_page_and_its_differences(changed):
    folder, printed = changed
    assert re.search(r"\ndigits, factor 20, resnet8: against TINY *\n", printed)
    assert re.search(r"\nTINY-TOO +2 +0\.00 ±0\.00 ", printed)
    assert "Against TINY, seed by seed" in (folder / "runs" / "comparison.html").read_text()


def test_a_setting_changed_in_all_rows_stands_below_the_table_and_not_in_its_names(changed):
    table = changed[1][: changed[1].index("page:")]
    assert re.search(r"\nTINY +2 +\d+\.\d\d", table)
    assert table.count("batch_size=32") == 1
    assert "Changed in all rows: batch_size=32." in table


def seeds_of(monkeypatch, call, *arguments: object) -> list[tuple[str, int]]:
    """Folder's name and seed of the runs that a comparison would make; none is trained."""
    from safa import runs
    from safa.job import Job

    jobs: list[Job] = []

    def noted(given: list[Job], _: object) -> list[dict]:
        jobs.extend(given)
        return [{}]

    monkeypatch.setattr(runs, "compare", noted)
    monkeypatch.setenv("RANK", "1")  # the process that has no table to print
    assert call("compare", *arguments)[0] == 0
    return [(job.folder.name, job.recipe.seed) for job in jobs]


def test_a_comparison_without_seeds_has_those_of_its_recipes(monkeypatch, call, changed, tmp_path):
    first = changed[0] / "t1.yaml"
    assert seeds_of(monkeypatch, call, first, "--out", tmp_path) == [("t1-seed5", 5)]
    ((name, seed),) = seeds_of(monkeypatch, call, first, "--out", tmp_path, "--set", "seed=3")
    assert (name[:8], seed) == ("t1-seed3", 3)
    named = seeds_of(monkeypatch, call, first, "--out", tmp_path, "--seeds", "0..1")
    assert named == [("t1-seed0", 0), ("t1-seed1", 1)]


def test_a_run_resumed_from_within_its_folder_keeps_its_name_and_the_cache_beside_it(
    call, changed, tmp_path, monkeypatch
):
    from safa import runs

    resumed: list[tuple[str, Path]] = []
    monkeypatch.setattr(runs, "run", lambda job, machine: resumed.append((job.folder.name, machine.cache)))
    monkeypatch.setenv("RANK", "1")  # the process that has no table to print
    source = next((changed[0] / "runs").glob("t1-seed0-*"))
    folder = shutil.copytree(source, tmp_path / "runs" / "t1")
    monkeypatch.chdir(folder)
    assert call("train", "--resume", ".")[0] == 0
    assert resumed == [("t1", tmp_path / "runs" / ".cache")]


def test_a_stopped_comparison_says_how_to_go_on(call, files, tmp_path, monkeypatch):
    from safa import runs, train
    from safa.stop import StopRequest

    def stopped(*_: object) -> None:
        raise train.Stopped("stopped after epoch 1 of 4", StopRequest())

    monkeypatch.setattr(runs, "compare", stopped)
    status, out, _ = call("compare", *files, "--out", tmp_path)
    assert (status, out) == (143, "stopped after epoch 1 of 4; the same command goes on from there\n")


def test_a_stopped_run_says_how_to_go_on_with_the_options_that_it_does_not_keep(call, files, tmp_path, monkeypatch):
    from safa import runs, train
    from safa.stop import StopRequest

    def stopped(*_: object) -> None:
        raise train.Stopped("stopped after epoch 1 of 4", StopRequest())

    monkeypatch.setattr(runs, "run", stopped)
    out, command = tmp_path / "my runs", "stopped after epoch 1 of 4; go on with: safa train --resume"
    assert call("train", files[0], "--out", out)[1] == f"{command} '{out / 'drw-seed0'}'\n"
    options = ["--results", "lines.jsonl", "--track", "--cache", "my cache", "--device", "cpu", "--workers", "0"]
    said = call("train", files[0], "--out", tmp_path, *options)[1]
    assert said == f"{command} {tmp_path / 'drw-seed0'} --cache 'my cache' --device cpu --workers 0\n"


def test_a_run_keeps_where_its_line_goes_and_whether_it_is_tracked(call, files, tmp_path, monkeypatch):
    """Killed, it says no command to go on with; the one of the documents has neither option."""
    pytest.importorskip("tensorboard")
    monkeypatch.chdir(tmp_path)
    assert call("train", files[0], "--out", "runs", "--results", "lines.jsonl", "--track")[0] == 0
    run = tmp_path / "runs" / "drw-seed0"
    for lost in (run / "result.json", tmp_path / "lines.jsonl", *(run / "tensorboard").iterdir()):
        lost.unlink()
    (run / "tensorboard").rmdir()
    monkeypatch.chdir(run)
    assert call("train", "--resume", ".")[0] == 0
    assert lines.read(tmp_path / "lines.jsonl") == [lines.of_run(run / "result.json")]
    assert list((run / "tensorboard").iterdir())


def test_what_an_end_while_writing_left_is_removed_and_an_older_network_told(call, files, tmp_path):
    train = "train", files[0], "--out", tmp_path
    assert call(*train)[0] == 0
    run = tmp_path / "drw-seed0"
    half, fresh, older = run / ".report.html.0.part", run / ".model.onnx.1.part", run / "model.pt2"
    for file in (half, fresh, older):
        file.touch()
    for file in (half, older):
        os.utime(file, (1, 1))
    status, said, _ = call("train", "--resume", run)
    assert (status, half.exists(), fresh.exists()) == (0, False, True)
    assert f"{older} was exported before the run was finished, and holds an earlier network; export it anew\n" in said


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_the_end_of_memory_is_one_sentence_and_a_defect_is_not_hidden(error, call, files, tmp_path, monkeypatch):
    from safa import runs

    def fails(error: Exception):
        def run(*_: object) -> None:
            raise error

        return run

    monkeypatch.setattr(runs, "run", fails(error))
    status, _, said = call("train", files[0], "--out", tmp_path)
    assert (status, said.startswith("safa: memory has ended; take smaller batches")) == (2, True)
    monkeypatch.setattr(runs, "run", fails(RuntimeError("mat1 and mat2 shapes cannot be multiplied")))
    with pytest.raises(RuntimeError, match="shapes"):
        call("train", files[0], "--out", tmp_path)


def test_your_own_folder_trains_with_a_word_on_what_was_decided(call, files, tmp_path):
    for name, number in (("cat", 20), ("dog", 10)):
        (tmp_path / "photos" / "train" / name).mkdir(parents=True)
        for i in range(number):
            pixels = np.random.RandomState(i).randint(0, 256, (32, 32, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / "train" / name / f"{i}.png")
    own = ["--data", tmp_path / "photos", "--set", "data.profile=as_found", "data.largest=null", "data.head_ratio=0.5"]
    own.append(f"data.root={tmp_path}")
    status, out, err = call("train", files[1], *own, "--out", tmp_path / "runs")
    assert (status, err) == (0, "")
    assert "no test split: 6 training images (20% of each class) are kept for it" in out
    (folder,) = [path.parent for path in (tmp_path / "runs").glob("*/result.json")]
    line = json.loads((folder / "result.json").read_text())
    assert (line["class_names"], line["class_counts"]) == (["cat", "dog"], [16, 8])
    # Of the path only its end is told, as tables and pages are passed on.
    assert (line["dataset"], line["changes"]) == ("photos", own[3:-1])
    assert re.search(r"\nphotos, factor 2, resnet8 *\n", out)
    assert str(tmp_path) not in (folder / "report.html").read_text()
    assert "name: …/photos\n" in (folder / "report.html").read_text()
    own[1] = f"{tmp_path}/./photos/"  # is no other run
    _, out, _ = call("train", files[1], *own, "--out", tmp_path / "runs")
    assert f"{folder} was finished before" in out


@pytest.mark.parametrize(
    ("given", "path"),
    [
        ("photos/", "photos"),
        ("./photos", "photos"),
        ("a//b/../photos", "a/photos"),
        ("digits", "digits"),
        ("./digits", "./digits"),
        ("", ""),
    ],
)
def test_a_path_written_otherwise_is_the_same_data_set_and_a_folder_is_not_taken_for_a_built_in_one(given, path):
    assert training.spelled_once(given) == path


def test_a_path_back_from_behind_a_link_is_left_as_it_is(tmp_path, monkeypatch):
    """There ``..`` is the folder that holds what the link leads to."""
    for place in ("far/away", "far/photos", "here/photos"):
        (tmp_path / place).mkdir(parents=True)
    (tmp_path / "here" / "link").symlink_to(tmp_path / "far" / "away")
    monkeypatch.chdir(tmp_path / "here")
    assert training.spelled_once("link/../photos") == "link/../photos"
    assert training.spelled_once("./photos/../photos/") == "photos"
    (tmp_path / "here" / "photos").rmdir()
    assert training.spelled_once("link/../photos") == "link/../photos"


def test_predictions_are_utf_8_wherever_they_are_piped_to(run, tmp_path):
    """On Windows a pipe has the encoding of an old code page, which has no sign for most names."""
    names = json.loads((run / "data.json").read_text())["class_names"]
    named = shutil.copytree(run, tmp_path / "run")
    card = (named / "data.json").read_text()
    (named / "data.json").write_text(card.replace(json.dumps(names), json.dumps(["\u87fb"] * len(names))))
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    arguments = ["predict", str(named), str(tmp_path / "a.png")]
    code = f"from safa import cli; raise SystemExit(cli.main({arguments!r}))"
    environment = {**os.environ, "PYTHONIOENCODING": "cp1252"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=True)
    assert "\u87fb" in done.stdout.decode("utf-8")


# --- looking -----------------------------------------------------------------------------------------------


def test_evaluate_as_json_is_one_object_with_the_figures_of_the_line(call, run):
    status, out, _ = call("evaluate", run, "--json")
    found, line = json.loads(out), json.loads((run / "result.json").read_text())
    assert status == 0
    assert found["error"] == line["error_last"]
    assert found["error_per_class"] == line["error_per_class"]


def test_evaluate_shows_groups_classes_and_best_on_test_in_its_own_row(call, run):
    status, out, _ = call("evaluate", run)
    assert status == 0
    line = json.loads((run / "result.json").read_text())
    keys = {
        "top-1 error": "error_last",
        "many-shot error": "error_many",
        "medium-shot error": "error_medium",
        "few-shot error": "error_few",
        "balanced error": "balanced_error",
        "expected calibration error": "ece",
    }
    for name, key in keys.items():
        figure = "–" if line[key] is None else f"{line[key]:.2f}"
        assert re.search(rf"{name}\s+│\s+{figure}\s", out), name
    for name, count, error in zip(line["class_names"], line["class_counts"], line["error_per_class"], strict=True):
        assert re.search(rf"│\s+{name}\s+│\s+{count}\s+│\s+{error:.1f}\s", out), name
    assert "best epoch on test*" in out
    assert "* chosen on the test set itself; for comparison only" in " ".join(out.split())


def test_evaluate_reads_the_images_it_is_told_to(call, monkeypatch):
    seen = []
    monkeypatch.setattr("safa.runs.evaluate_run", lambda *given: seen.append(given) or {})
    call("evaluate", "r", "--split", "validation", "--root", "x", "--json")
    assert seen == [(Path("r"), "validation", "x")]


def test_what_is_said_of_the_machine_reaches_it():
    given = {"device": "cpu", "cache": "c", "out": None, "results": "f", "workers": 3, "track": True, "threads": None}
    machine = training._machine(given)
    assert (machine.device, machine.workers, machine.track) == ("cpu", 3, True)
    assert (machine.cache, machine.results) == (Path("c"), Path("f"))


def test_classes_are_shown_as_they_are_called(capsys):
    figures = dict.fromkeys(("error", "error_many", "error_medium", "error_few", "balanced_error", "ece", "error_best"))
    names = {"class_names": [":cat:", "[red]"], "class_counts": [2, 1], "error_per_class": [0.0, None]}
    trained._show({**figures, **names, "run": "[v2]", "split": "test", "epochs": 1, "error_best_epoch": 0})
    shown = capsys.readouterr().out
    assert all(name in shown for name in (":cat:", "[red]", "[v2], test images"))
    assert "best epoch" not in shown  # none was tested


def test_the_other_processes_of_torchrun_print_and_write_nothing_when_runs_were_finished_before(
    call, compared, files, tmp_path, monkeypatch
):
    """They have the lines of those runs alone, for only the first process has the line of one that it trains."""
    line = lines.read(compared[0] / "lines.jsonl")[0]
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr("safa.runs.compare", lambda jobs, machine: [line, {}])
    assert call("compare", *files, "--out", tmp_path) == (0, "", "")
    monkeypatch.setattr("safa.runs.run", lambda job, machine: line)
    assert call("train", files[0], "--out", tmp_path) == (0, "", "")
    assert [*tmp_path.iterdir()] == []


def test_a_path_that_cannot_be_looked_at_is_one_sentence(mistake):
    assert mistake("data", "x" * 300) == f"cannot reach {'x' * 300}: File name too long\n"
    assert mistake("report", f"{'x' * 300}/runs") == f"cannot reach {'x' * 300}/runs: File name too long\n"


def test_a_folder_of_runs_that_holds_lines_too_is_one_of_runs(call, compared, tmp_path):
    out, _ = compared
    for name in ("drw-seed0", "safa-seed0"):
        shutil.copytree(out / name, tmp_path / name)
    (tmp_path / "all.jsonl").write_text((out / "drw-seed0" / "result.json").read_text() + "\n")
    status, printed, _ = call("report", tmp_path, "--output", tmp_path / "page.html")
    assert status == 0
    assert "LDAM-DRW-SAFA" in printed
    assert (tmp_path / "page.html").exists()


def test_a_recipe_under_two_names_is_run_once(tiny_recipe):
    other = replace(tiny_recipe, batch_size=8)
    named = [("a/drw", tiny_recipe), ("b/drw", tiny_recipe), ("c/drw", other), ("mine", tiny_recipe)]
    assert training._once_each(named) == [named[0], named[2], named[3]]


def test_the_folder_of_a_run_does_not_depend_on_where_the_images_lie(tiny_recipe):
    options = {"set": ["batch_size=8"], "data": None, "imbalance_factor": None, "precision": None, "out": None}
    roots = [replace(tiny_recipe, data=replace(tiny_recipe.data, root=root)) for root in (None, "/a", "/b")]
    assert len({training._folder("x", recipe, options) for recipe in roots}) == 1


def test_a_name_with_bytes_that_are_no_utf8_is_printed_escaped(monkeypatch):
    printed = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="strict")
    monkeypatch.setattr(sys, "stdout", printed)
    cli._let_every_name_be_printed()
    print("caf\udce9", flush=True)
    assert printed.buffer.getvalue() == b"caf\\udce9\n"


def test_report_of_lines_is_a_table(call, compared):
    out, _ = compared
    status, printed, _ = call("report", out / "lines.jsonl")
    assert status == 0
    assert "LDAM-DRW-SAFA" in printed


def test_report_of_a_folder_of_runs_is_one_of_the_runs_in_it(call, compared, tmp_path):
    out, _ = compared
    runs = tmp_path / "runs"
    for name in ("drw-seed0", "safa-seed0", "safa-seed1"):
        shutil.copytree(out / name, runs / name)
    named = [runs / "drw-seed0", runs / "safa-seed0"]
    (runs / "safa-seed1" / "result.json").unlink()
    status, printed, err = call("report", runs, "--baseline", "LDAM-DRW")
    assert (status, err) == (0, f"{runs / 'safa-seed1'} is not finished, and left out\n")
    assert printed == call("report", *named, "--baseline", "LDAM-DRW")[1]
    call("report", runs, "--output", tmp_path / "page.html")
    call("report", *named, "--output", tmp_path / "same.html")
    assert (tmp_path / "page.html").read_text() == (tmp_path / "same.html").read_text()
    for name in ("drw-seed0", "safa-seed0"):
        (runs / name / "result.json").unlink()
    command = f"safa train --resume {runs / 'drw-seed0'}"
    assert call("report", runs) == (2, "", f"safa: no run in {runs} is finished; go on with the first: {command}\n")
    error = f"safa: {runs / 'drw-seed0'} is a run that is not finished; go on with: {command}\n"
    assert call("report", runs / "drw-seed0") == (2, "", error)


def test_what_is_set_twice_is_shown_as_it_was_set_last():
    given = ["model.backbone=resnet8", "batch_size=8", "model.backbone=resnet14"]
    assert training._changes({"set": given}) == ("model.backbone=resnet14", "batch_size=8")


def test_the_only_row_of_a_method_is_a_baseline_under_the_methods_name(call, tmp_path, compared):
    lines = [json.loads(line) for line in (compared[0] / "lines.jsonl").read_text().splitlines()]
    for line in lines:
        line["changes"] = ["batch_size=8"] if line["method"] == "LDAM-DRW" else []
    (tmp_path / "lines.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    under = [
        call("report", tmp_path / "lines.jsonl", "--baseline", f"LDAM-DRW{more}")[1] for more in ("", " (batch_size=8)")
    ]
    assert under[0] == under[1]
    assert "against LDAM-DRW (batch_size=8)" in under[0]


@pytest.mark.parametrize(
    "words",
    [
        ("predict", "nowhere", "nothing.png", "--output"),
        ("report", "nowhere", "--output"),
        ("report", "nowhere", "--features"),
        ("report", "nowhere", "--tradeoff"),
        ("data", "nowhere", "--png"),
    ],
)
def test_a_folder_where_a_file_is_to_be_written_is_refused_before_anything_is_read(call, words, tmp_path):
    error = f"safa: cannot write {tmp_path}: it is a folder; name a file in it\n"
    assert call(*words, tmp_path) == (2, "", error)
    (tmp_path / "file").write_text("")
    status, _, err = call(*words, tmp_path / "file" / "inside")
    assert (status, "is a file, not a folder; name another place" in err) == (2, True)


def test_report_as_markdown_keeps_a_row_on_a_line(call, compared):
    out, _ = compared
    status, printed, _ = call("report", out / "lines.jsonl", "--markdown", "--baseline", "LDAM-DRW")
    rows = [row for row in printed.splitlines() if row.startswith("| digits")]
    assert status == 0
    assert len(rows) == 2 + 3 + 1  # errors, kinds of features, and a difference
    assert all(row.endswith("|") for row in rows)


def test_report_draws_differences_in_the_terminal_as_its_other_tables(call, compared):
    status, printed, _ = call("report", compared[0] / "lines.jsonl", "--baseline", "LDAM-DRW")
    assert status == 0
    assert re.search(r"\ndigits, factor 20, resnet8: against LDAM-DRW *\n", printed)
    assert "|" not in printed


def test_report_of_a_baseline_alone_names_the_rows_that_share_its_method(call, tmp_path, compared):
    lines = [json.loads(line) for line in (compared[0] / "lines.jsonl").read_text().splitlines()]
    alone = {**lines[0], "dataset": "cifar10"}
    changed = [{**line, "changes": ["batch_size=8"]} for line in lines]
    (tmp_path / "lines.jsonl").write_text("".join(json.dumps(line) + "\n" for line in (alone, *changed)))
    printed = call("report", tmp_path / "lines.jsonl", "--baseline", "LDAM-DRW")[1]
    others = "rows of that method with other settings are LDAM-DRW (batch_size=8)"
    assert printed.endswith(f"nothing was run beside LDAM-DRW to compare with it; {others}\n")


@pytest.mark.parametrize("options", [[], ["--markdown"]])
def test_report_of_a_baseline_alone_has_no_empty_table(options, call, compared):
    out, _ = compared
    printed = call("report", out / "drw-seed0", out / "drw-seed1", "--baseline", "LDAM-DRW", *options)[1]
    assert printed.endswith("nothing was run beside LDAM-DRW to compare with it\n")
    assert "wins" not in printed


def test_report_draws_a_page_of_run_folders(call, compared, tmp_path, monkeypatch):
    monkeypatch.setattr("safa.report.page.SECTIONS", SECTIONS)
    out, _ = compared
    status, printed, _ = call("report", out / "drw-seed0", out / "safa-seed0", "--output", tmp_path / "page.html")
    assert status == 0
    assert f"page: {tmp_path / 'page.html'}\n" in printed
    page = (tmp_path / "page.html").read_text()
    assert "<html" in page
    assert "<svg" in page


def test_report_fills_the_tables_of_a_text(call, compared, tmp_path):
    out, _ = compared
    text = tmp_path / "README.md"
    names = ("lines", "lines-differences")
    markers = "".join(f"<!-- safa:table {name} -->\n<!-- /safa:table -->\n" for name in names)
    text.write_text(f"# Results\n{markers}The end.\n")
    status, _, _ = call("report", out / "lines.jsonl", "--into", text)
    assert status == 0
    errors, differences = text.read_text().split("<!-- /safa:table -->")[:2]
    assert "| LDAM-DRW-SAFA | 2 |" in errors
    assert "network (%)" not in errors  # which has a marker of its own
    assert "| LDAM-DRW-SAFA | LDAM-DRW | 2 |" in differences
    assert text.read_text().endswith("The end.\n")


def test_report_keeps_the_line_ends_of_the_text_it_fills(call, compared, tmp_path):
    unix, windows = tmp_path / "unix.md", tmp_path / "windows.md"
    marked = b"# Results\n<!-- safa:table lines -->\n<!-- /safa:table -->\nThe end.\n"
    unix.write_bytes(marked)
    windows.write_bytes(marked.replace(b"\n", b"\r\n"))
    for text in (unix, windows):
        assert call("report", compared[0] / "lines.jsonl", "--into", text)[0] == 0
    assert b"| LDAM-DRW-SAFA | 2 |" in windows.read_bytes()
    assert windows.read_bytes() == unix.read_bytes().replace(b"\n", b"\r\n")


# --- tables of the paper -----------------------------------------------------------------------------------


@pytest.fixture
def results(tmp_path, monkeypatch) -> Path:
    """Result lines in a folder of the working directory, with a line of ``safa bench`` among them, as in a checkout."""
    monkeypatch.chdir(tmp_path)
    place = {"dataset": "cifar100", "imbalance_factor": 100.0, "model": "resnet32", "epochs": 200}
    lines.append("results/cifar100.jsonl", LINE | place | {"recipe": "ldam", "method": "LDAM", "error_last": 59.9})
    lines.append("results/bench.jsonl", {"kind": "bench"})
    return tmp_path / "results"


def test_report_table1_shows_the_papers_rows_ours_and_what_was_not_run(call, results):
    status, out, err = call("report", "table1")
    assert (status, err) == (0, "")
    assert re.search(r"LDAM loss +1 +59\.90 +59\.40 +\+0\.50 +21\.00\n", out)
    assert re.search(r"CE-DRW +– +not run +– +– +–\n", out)
    assert out.count("imbalance factor 100, resnet32") == 2
    assert "* chosen" not in out.replace("Best on test*: the epoch was chosen", "")


def test_report_of_a_table_takes_its_lines_from_files_folders_and_runs_that_are_named(call, results, run, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    for sources, told in (
        ([results / "cifar100.jsonl", results / "bench.jsonl"], "1 of the 150"),
        ([results], "1 of the 150"),
        ([run], "0 of the 150"),
        ([empty], "0 of the 150"),
    ):
        assert told in call("report", "table1", *sources)[1]


def test_report_of_several_tables_at_one_factor(call, results):
    status, out, _ = call("report", "table1", "table6", "--imbalance_factor", "50")
    assert status == 0
    assert out.count("imbalance factor 50") == 4
    assert "Table 1 of the paper" in out
    assert "LDAM-DRW-SAFA w/o L_r" in out


def test_report_of_a_table_as_markdown_goes_between_the_markers_of_a_text(call, results, tmp_path):
    markdown = call("report", "table5", "--markdown")[1]
    assert "| resnext29 | LDAM-DRW-SAFA | – | not run | 54.79 | – | – |" in markdown
    text = tmp_path / "results.md"
    text.write_text("# Results\n<!-- safa:table table5 -->\n<!-- /safa:table -->\nThe end.\n")
    assert call("report", "table5", "--into", text) == (0, "", "")
    assert text.read_text() == f"# Results\n<!-- safa:table table5 -->\n{markdown}<!-- /safa:table -->\nThe end.\n"


def test_report_writes_first_lines_of_recipes_and_nothing_else_into_them(call, results, tmp_path):
    recipe = tmp_path / "recipes" / "table1" / "cifar100" / "ldam.yaml"
    shutil.copytree(library.folder() / "table1", tmp_path / "recipes" / "table1")
    recipe.write_text(recipe.read_text().replace("# ", "# old: ", 1))
    (tmp_path / "recipes" / "mine.yaml").write_text("# mine\nmethod: x\nstages: [{epochs: 1}]\n")
    before = recipe.read_text().splitlines()
    status, out, _ = call("report", "--recipes", tmp_path / "recipes")
    assert status == 0
    assert re.fullmatch(r".*recipes: \d+ of \d+ recipes have a new first line\n", out)
    first, *rest = recipe.read_text().splitlines()
    assert first == "# CIFAR-100-LT, imbalance 100, ResNet-32, LDAM: paper 59.40 %, ours 59.90 % (n = 1)."
    assert rest == before[1:]
    assert (tmp_path / "recipes" / "mine.yaml").read_text().startswith("# mine\n")
    assert "recipes: 0 of" in call("report", "--recipes", tmp_path / "recipes")[1]


def test_list_shows_every_name_with_its_source(call):
    status, out, _ = call("list")
    assert status == 0
    for word in ("ldam", "effective_number", "pairs", "safa", "resnet32", "cosine", "fashion-mnist", "digits/ldam-drw"):
        assert re.search(rf"\s{re.escape(word)}\s", out), word
    assert "ECCV 2022" in out


def test_list_shows_names_whole_that_they_may_be_typed(call):
    _, out, _ = call("list", "recipe")
    assert set(library.names()) <= set(out.split())


def test_list_of_a_folder_shows_its_recipes_with_their_titles(call):
    _, out, _ = call("list", "table6")
    shown = out.splitlines()
    assert [name.strip() for name in shown[::2]] == [name for name in library.names() if name.startswith("table6/")]
    assert shown[1].strip() == library.title(library.find(shown[0].strip())[1])


def test_the_help_of_list_names_every_kind(capsys):
    from safa.catalog import CATALOG

    with pytest.raises(SystemExit):
        cli.main(["list", "--help"])
    assert set(CATALOG) <= set(re.findall(r"\w+", capsys.readouterr().out))


def test_list_of_one_kind_shows_no_other(call):
    _, out, _ = call("list", "loss")
    assert {row.split()[0] for row in out.splitlines()[1:] if not row.startswith("  ")} == {"loss"}


def test_data_shows_the_tail_and_draws_it(call, tmp_path):
    status, out, _ = call("data", "digits", "--imbalance_factor", "20", "--png", tmp_path / "tail.png")
    assert status == 0
    assert "10 classes" in out
    assert "imbalance factor" in out
    assert f"picture: {tmp_path / 'tail.png'}\n" in out
    with Image.open(tmp_path / "tail.png") as picture:
        assert picture.format == "PNG"


def test_data_as_found_needs_no_factor(call):
    status, out, _ = call("data", "digits")
    assert status == 0
    assert "1,397 images" in out
    assert "\n400 test images, 40 in a class; no validation images\n" in out


@pytest.mark.parametrize(("largest", "of_few"), [(9, ""), (20, ", 1 in the few-shot ones together")])
def test_data_shows_test_and_validation_images_by_class(largest, of_few, call, tmp_path):
    for split, numbers in {"train": (largest, 4), "test": (3, 1), "val": (1, 1)}.items():
        for name, number in zip("ab", numbers, strict=True):
            (tmp_path / split / name).mkdir(parents=True)
            for i in range(number):
                pixels = np.random.RandomState([*split.encode(), ord(name), i]).randint(0, 256, (8, 8, 3))
                Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / split / name / f"{i}.png")
    _, out, _ = call("data", tmp_path)
    assert f"\n4 test images, 1 to 3 in a class{of_few}; 2 validation images\n" in out


# --- deploying ---------------------------------------------------------------------------------------------


def test_predict_writes_one_row_per_image(call, run, photos):
    status, out, err = call("predict", run, photos)
    rows = list(csv.DictReader(io.StringIO(out)))
    assert (status, len(rows)) == (0, 3), err
    assert {"0.png", "1.png", "2.png"} == {Path(next(iter(row.values()))).name for row in rows}


def test_predict_writes_json_to_a_file(call, run, photos, tmp_path):
    status, out, _ = call(
        "predict", run, photos / "0.png", "--format", "json", "--top", "3", "--output", tmp_path / "labels.json"
    )
    assert (status, out) == (0, "")
    assert [len(row["top"]) for row in json.loads((tmp_path / "labels.json").read_text())] == [3]


def test_predict_passes_over_a_file_that_is_no_image_if_told_to(call, run, photos, tmp_path):
    (tmp_path / "x.png").write_bytes(b"")
    given = ("predict", run, photos / "0.png", tmp_path / "x.png")
    assert call(*given)[0] == 2
    assert call(*given, "--on_corrupt", "skip")[0] == 0


def test_export_writes_the_bare_network_and_the_difference(call, run, tmp_path):
    status, out, _ = call("export", run, "--output", tmp_path / "model.safetensors")
    assert status == 0
    assert f"{tmp_path / 'model.safetensors'}: " in out
    assert "largest difference to the original" in out


# --- help --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", [[], *([name] for name in cli._COMMANDS)])
def test_help_teaches_and_ends_well(command, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main([*command, "--help"])
    assert end.value.code == 0
    out = capsys.readouterr().out
    assert "safa" in out
    assert ("examples:" in out) == (command == [])


def test_every_command_has_its_function_and_its_word():
    assert set(cli._COMMANDS) == {
        "train",
        "compare",
        "evaluate",
        "predict",
        "export",
        "report",
        "data",
        "list",
        "bench",
    }
    for name, (_, text) in cli._COMMANDS.items():
        assert callable(getattr(commands, {"list": "list_names"}.get(name, name)))
        assert text.endswith(".")


def test_the_version_is_told(capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(["--version"])
    assert end.value.code == 0
    assert safa.__version__ in capsys.readouterr().out


def test_a_closed_pipe_is_no_mistake():
    done = subprocess.run(
        f"{sys.executable} -m safa list | head -1", shell=True, capture_output=True, text=True, check=False
    )
    assert done.stderr == ""
    assert "kind" in done.stdout


# --- mistakes ----------------------------------------------------------------------------------------------


def test_a_mistake_is_one_sentence_in_a_real_process_too():
    done = subprocess.run([sys.executable, "-m", "safa", "train", "digits/ldam-drv"], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("safa: no recipe is called 'digits/ldam-drv'; did you mean 'digits/ldam-drw'?")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("train", "name a recipe to train, or a folder with --resume RUN"),
        (
            "train digits/ce --resume runs/x",
            "runs/x has its recipe in its folder; leave digits/ce out to go on with it",
        ),
        ("train absent.yaml", "there is no recipe file absent.yaml"),
        ("train --resume absent", "absent does not exist; give the folder that a training run wrote"),
        ("train --resume absent --seed 1", "--seed cannot change a run that is resumed"),
        ("train --resume absent --set seed=1", "--set cannot change a run that is resumed"),
        ("train digits/ce --set sede=1", "has no key 'sede'; did you mean 'seed'?"),
        ("train digits/ce --set seed", "--set takes all that follows as KEY=VALUE, got 'seed'"),
        ("compare digits/ce --set seed=1 digits/ldam", "KEY=VALUE, got 'digits/ldam'; name recipes before it"),
        ("compare --set seed=1 digits/ce", "name the recipes to compare, before any --set"),
        ("train --set seed=1 digits/ce", "name a recipe to train, or a folder with --resume RUN; --set takes all"),
        ("compare digits/ce --seeds 0,1 --set seed=3", "seed is set twice, by --set seed=3 and by its own option"),
        ("train digits/ce --seed 1 --set seed=3", "seed is set twice, by --set seed=3 and by its own option"),
        ("train digits/ce --data x --set data.name=y", "data.name is set twice, by --set data.name=y and by its own"),
        ("train --resume absent --out runs", "--out cannot change a run that is resumed"),
        ("train digits/ce --imbalance_factor 100 --set data.profile=as_found", "imbalance_factor 100 cuts nothing"),
        (
            "data digits --imbalance_factor 50 --profile as_found",
            "imbalance_factor 50 cuts nothing where data.profile is as_found; leave it out, or cut a tail with --pr",
        ),
        ("train digits/ce --seed -1", "--seed must be a whole number of at least 0, got '-1'"),
        ("train digits/ce --seed one", "--seed must be a whole number of at least 0, got 'one'"),
        ("train digits/ce --threads 0", "--threads must be a whole number of at least 1, got '0'"),
        ("train digits/ce --imbalance_factor many", "--imbalance_factor must be a number, got 'many'"),
        (
            "train digits/ce --precision bf61",
            "precision must be one of float32, bf16, fp16, got 'bf61'; did you mean 'bf16'",
        ),
        ("train digits/ce --precision bf16 --set precision=float32", "precision is set twice"),
        ("train digits/ce --imbalance_factor 0.01", "at least 1, got 0.01; did you mean 100?"),
        ("train digits/ce --set stages.0.loss=ldma", "no loss is called 'ldma'; did you mean 'ldam'?"),
        ("train digits/ce --set model.backbone=resnet33", "no backbone is called 'resnet33'"),
        ("train digits/ce --set precision=fp16 --device cpu", "precision fp16 needs a GPU"),
        ("train digits/ce --set optimizer.momentum=-1", "momentum must be at least 0"),
        ("train digits/ce --set schedule.lr=-1", "lr must be at least 0"),
        ("train digits/ce --data absent_photos", "no data set named 'absent_photos'"),
        ("train digits/ce --device gpu", "device must be auto, cpu or cuda"),
        ("train digits/ce --sed 3", "there is no option --sed; did you mean '--seed'?\nTry 'safa train --help'"),
        (
            "train digits/ce --epochs 3",
            "there is no option --epochs; what is in a recipe is changed by --set, as in --set data.on_corrupt=skip st",
        ),
        ("list --epochs 3", "there is no option --epochs\nTry 'safa list --help'"),
        # Abbreviations are refused.
        ("train digits/ce --thread=3", "there is no option --thread; did you mean '--threads'?"),
        (
            "data digits --imbalance-factor 20",
            "there is no option --imbalance-factor; did you mean '--imbalance_factor'?",
        ),
        ("list loss head", "unrecognized arguments: head"),
        ("compare digits/ce --seeds 3..1", "seeds are different numbers of at least 0"),
        ("compare digits/ce --seeds one", "seeds are numbers, as in 0,1,2 or 0..9, got 'one'"),
        ("compare digits/ce --seeds 0,0", "seeds are different numbers"),
        ("compare", "name the recipes to compare, before any --set\nTry 'safa compare --help'"),
        ("compare --sed 3", "Try 'safa compare --help'"),
        ("evaluate", "name the folder of a run\nTry 'safa evaluate --help'"),
        ("predict", "name the folder of a run and image files or folders\nTry 'safa predict --help'"),
        ("evaluate absent", "absent does not exist; give the folder that a training run wrote"),
        ("evaluate absent --split training", "split must be test or validation, got 'training'"),
        ("predict absent x.png", "absent does not exist"),
        ("predict absent x.png --format xml", "format must be csv or json, got 'xml'"),
        ("export absent", "absent does not exist"),
        ("report absent.jsonl", "no file absent.jsonl"),
        ("report", "name run folders, files of result lines, or a table of the paper such as table1"),
        ("report table1", "there is no folder 'results' here to read result lines from"),
        ("report table9", "no table 'table9' of the paper; there are table1, table5, table6"),
        ("report table1 absent.jsonl", "no file absent.jsonl"),
        ("report table1 --output page.html", "table1 has no page, baseline or chart; leave out --output"),
        ("report table1 --features f.svg", "table1 has no page, baseline or chart; leave out --features"),
        ("report table1 --recipes absent", "--recipes takes result lines, not table1"),
        (
            "report x.jsonl --tradeoff t.svg --into R.md",
            "--tradeoff writes one thing and nothing else",
        ),
        ("report absent.jsonl --features f.svg", "no run folder absent.jsonl"),
        ("report absent.jsonl --imbalance_factor 50", "--imbalance_factor chooses columns of a table of the paper"),
        ("report --recipes absent --markdown", "--recipes writes one thing and nothing else; leave out --markdown"),
        ("report --recipes absent", "there is no folder 'results' here"),
        ("data absent_photos", "no data set named 'absent_photos'"),
        ("data digits --imbalance_factor 0.05", "did you mean 20?"),
        ("data digits --profile flat", "profile must be one of exponential, step, as_found, got 'flat'"),
        ("list losses", "nothing is listed under 'losses'; did you mean 'loss'?"),
        ("list table1/cifar", "nothing is listed under 'table1/cifar'; did you mean 'table1/cifar1"),
        ("trian digits/ce", "no command is called 'trian'; did you mean 'train'?; there are train, compare"),
        ("", "name a command; there are train, compare"),
    ],
)
def test_a_users_mistake_is_a_sentence_with_the_value_and_the_way_out(
    arguments, message, mistake, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert message in mistake(*arguments.split())
    assert not any(tmp_path.rglob(CHECKPOINT))


@pytest.mark.parametrize(
    ("arguments", "after"),
    [
        (("train", "digits/ce", "--data", ""), "--data"),
        (("train", "digits/ce", "--out="), "--out"),
        (("data", ""), "data"),
        (("report", "", "--markdown"), "report"),
        (("predict", "runs/x", "", "new"), "runs/x"),
        (("",), "safa"),
    ],
)
def test_a_variable_that_the_shell_does_not_know_is_not_taken_for_the_folder_one_is_in(arguments, after, mistake):
    assert mistake(*arguments) == f"what follows {after} is empty; is it a variable of the shell that is not set?\n"


def test_a_place_that_cannot_be_written_is_a_users_mistake(mistake, files, tmp_path):
    (tmp_path / "taken").write_text("a file")
    assert "cannot write" in mistake("train", files[0], "--out", tmp_path / "taken")


def test_a_report_into_a_missing_text_is_a_users_mistake(mistake, compared, tmp_path):
    assert "cannot read" in mistake("report", compared[0] / "lines.jsonl", "--into", tmp_path / "absent.md")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("report table9", "no table 'table9' of the paper; there are table1, table5, table6"),
        ("report table5 --imbalance_factor 100", "table5 of the paper has the imbalance factors 200, 10, got 100"),
        ("report table1 --into absent.md", "cannot read absent.md"),
        ("report . --into absent.md", "--into takes files NAME.jsonl, by whose names markers go; . is a folder"),
        ("report --recipes results", "results holds no recipes of tables"),
        ("report results/bench.jsonl", "there is no result line in results/bench.jsonl"),
    ],
)
def test_a_mistake_about_a_table_of_the_paper_says_what_there_is(arguments, message, mistake, results):
    assert message in mistake(*arguments.split())


def test_a_page_of_lines_alone_is_a_users_mistake(mistake, compared, tmp_path):
    assert "a page is drawn from run folders" in mistake(
        "report", compared[0] / "lines.jsonl", "--output", tmp_path / "x.html"
    )


def test_a_run_with_a_damaged_checkpoint_is_a_users_mistake(mistake, tiny_recipe, files, tmp_path, call):
    assert call("train", files[0], "--out", tmp_path, "--set", "stages=[{epochs: 1}]")[0] == 0
    run = next(tmp_path.glob("drw-*"))
    (run / CHECKPOINT).write_bytes(b"PK")
    for command in (["evaluate", run], ["export", run, "--output", tmp_path / "m"], ["predict", run, tmp_path]):
        assert "is no checkpoint of safa, or is damaged" in mistake(*command)
    (run / "result.json").unlink()
    assert "is no checkpoint of safa, or is damaged" in mistake("train", "--resume", run)


def test_an_interruption_after_the_last_epoch_says_how_to_go_on(call, files, tmp_path, monkeypatch):
    from safa import runs

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    for name in ("run", "compare"):
        monkeypatch.setattr(runs, name, interrupted)
    train = "train", files[0], "--out", tmp_path
    assert call(*train) == (130, "", "safa: interrupted\n")  # before there is a folder to go on with
    run = tmp_path / "drw-seed0"
    run.mkdir()
    (run / "recipe.yaml").write_text("")
    assert call(*train)[:2] == (130, f"interrupted; go on with: safa train --resume {run}\n")
    assert call("compare", *files, "--out", tmp_path)[:2] == (130, "interrupted; the same command goes on from there\n")


def test_an_interruption_while_the_page_is_drawn_says_how_to_go_on(call, files, tmp_path, monkeypatch):
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("safa.report.page.write_page", interrupted)
    run = tmp_path / "drw-seed0"
    status, out, _ = call("train", files[0], "--out", tmp_path)
    assert (status, out.endswith(f"interrupted; go on with: safa train --resume {run}\n")) == (130, True)
    status, out, _ = call("compare", files[0], "--out", tmp_path)
    assert (status, out.endswith("interrupted; the same command goes on from there\n")) == (130, True)


def test_an_interruption_outside_training_is_no_traceback(call, monkeypatch):
    def interrupted(**_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(commands, "data", interrupted)
    assert call("data", "digits") == (130, "", "safa: interrupted\n")
