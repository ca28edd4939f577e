"""The benchmark: what the ordinary loop does to an image, fair turns, every method, and figures that are all there."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from safa import checkpoint, cli, runs
from safa import recipe as recipes
from safa.bench import command, costs, memory, run, run_methods
from safa.bench import figures as measured
from safa.bench import setting as settings
from safa.bench.inference import gives_the_same_bits, with_and_without
from safa.bench.loop import Loop
from safa.bench.methods import Method, methods
from safa.bench.ordinary import OrdinaryLoop, PillowImages
from safa.bench.setting import COUNTS, Setting
from safa.bench.stage import Stage
from safa.bench.turns import Spread, ratios, take_turns
from safa.catalog import CATALOG
from safa.commands.reporting import tables_of
from safa.errors import UserError
from safa.files import CHECKPOINT
from safa.job import Job
from safa.machine import Machine

TINY = Setting("resnet8", batch_size=16)
ROOT = Path(__file__).parents[1]

# Python 3.12 and later warn that a forked worker may inherit a lock; torch's loader forks on Linux.
pytestmark = pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")


def literal_transforms(image: np.ndarray) -> list[np.ndarray]:
    """Everything RandomCrop(32, 4), RandomHorizontalFlip, ToTensor and Normalize can make of an image."""
    mean, std = np.array([0.4914, 0.4822, 0.4465]), np.array([0.2023, 0.1994, 0.2010])
    padded = np.zeros((40, 40, 3))
    padded[4:36, 4:36] = image
    crops = [padded[top : top + 32, left : left + 32] for top in range(9) for left in range(9)]
    both = [pixels for crop in crops for pixels in (crop, crop[:, ::-1])]
    return [((pixels / 255 - mean) / std).transpose(2, 0, 1) for pixels in both]


def test_the_ordinary_transform_is_one_of_all_crops_mirrored_or_not_and_all_of_them_occur():
    images = PillowImages()
    ways = literal_transforms(images.arrays[0])
    middle = np.stack([way[:, 14:18, 14:18] for way in ways])
    torch.manual_seed(0)
    seen = np.zeros(len(ways), dtype=int)
    for _ in range(2500):
        result = images[0][0].numpy()
        found = abs(middle - result[:, 14:18, 14:18]).max(axis=(1, 2, 3)).argmin()
        np.testing.assert_allclose(result, ways[found], atol=1e-5)
        seen[found] += 1
    assert seen.min() > 0
    assert abs(seen[1::2].sum() / seen.sum() - 0.5) < 0.05


def test_the_ordinary_loop_trains_on_contiguous_float32_batches_of_the_long_tail():
    loop = OrdinaryLoop(TINY)
    loop.workers = 0
    assert np.array_equal(np.bincount(loop.dataset.labels), COUNTS)
    images, labels = next(iter(loop._loader(2)))
    assert images.shape == (16, 3, 32, 32) and images.dtype == torch.float32 and images.is_contiguous()
    assert labels.shape == (16,)
    before = loop.model.conv1.weight.clone()
    assert loop.turn(1) > 0
    assert not torch.equal(loop.model.conv1.weight, before)
    assert loop.model.conv1.weight.dtype == torch.float32


def test_our_loop_generates_rows_with_safa_and_none_without():
    plain, with_safa = Loop(TINY), Loop(TINY, safa=True)
    for loop in (plain, with_safa):
        for _ in range(4):
            loop.step()
    assert sum(plain.generated_rows) == 0
    assert sum(with_safa.generated_rows) > 0


class Counted:
    """A variant that takes a second per step and notes that it had its turn."""

    def __init__(self, name: str, turns: list[str]) -> None:
        self.name, self.turns = name, turns

    def turn(self, steps: int) -> float:
        self.turns.append(self.name)
        return float(steps)


def test_variants_take_turns_there_and_back():
    turns: list[str] = []
    seconds = take_turns({name: Counted(name, turns) for name in "abc"}, rounds=3, steps=5)
    assert "".join(turns) == "abccbaabc"
    assert seconds == {name: [1.0, 1.0, 1.0] for name in "abc"}


def test_ratios_are_taken_round_by_round_so_that_drift_cancels():
    assert ratios([2.0, 4.0, 30.0], [1.0, 2.0, 10.0]) == Spread(median=2.0, low=2.0, high=3.0)


def test_a_single_changed_bit_is_told():
    trained = Loop(TINY)
    assert gives_the_same_bits(with_and_without(TINY, trained))

    class Changed(nn.Module):
        model = trained.plug.model

        def forward(self, images):
            logits = self.model(images)
            logits.view(torch.int32)[3, 5] ^= 1
            return SimpleNamespace(logits=logits)

    trained.plug = Changed()
    assert not gives_the_same_bits(with_and_without(TINY, trained))


@pytest.mark.skipif(sys.platform != "linux", reason="other systems count a process from its own start")
def test_peak_memory_does_not_count_what_the_parent_held():
    held = np.ones(2**27)  # 1 GiB
    assert memory.resident_peak() > 2**10
    assert 100 < memory.peak(TINY, safa=False) < 2**10
    assert held.all()


@pytest.mark.parametrize("measure", [run, run_methods])
def test_a_file_that_cannot_be_written_is_found_before_the_minutes_of_measuring(measure, tmp_path, monkeypatch):
    monkeypatch.setattr("safa.bench.command.Setting", lambda *_: pytest.fail("the measuring has begun"))
    with pytest.raises(UserError, match="it is a folder; name a file in it"):
        measure(1, 1, 16, "resnet8", "bf16", str(tmp_path))


def test_every_figure_is_measured_printed_and_appended(tmp_path, capsys):
    path = tmp_path / "bench.jsonl"
    line = run(steps=1, rounds=1, batch_size=16, model="resnet8", precision="bf16", results=str(path))
    assert json.loads(path.read_text()) == line
    assert line["kind"] == "bench" and line["n"] == 1
    figures = line["figures"]
    assert list(figures["speed"]) == ["our batches, float32", "+ channels-last", "+ bf16"]
    assert len(figures["images_per_second"]) == 4
    spreads = [figures["safa_step"], figures["inference"], *figures["memory"].values()]
    for spread in [*spreads, *figures["speed"].values(), *figures["images_per_second"].values()]:
        assert 0 < spread["low"] <= spread["median"] <= spread["high"]
    assert figures["identical"] is True
    assert figures["generated_rows"] > 0
    printed = capsys.readouterr().out
    for words in ("SAFA step / plain step, bf16", "peak memory, SAFA", "bit-identical", "n = 1 rounds"):
        assert words in printed


def test_speed_is_that_of_the_other_over_ours_and_cost_that_of_the_addition_over_the_plain(monkeypatch):
    seconds = {
        measured.ORDINARY: 8.0,
        "our batches, float32": 4.0,
        "+ channels-last": 3.0,
        "+ bf16": 2.0,
        "SAFA": 3.0,
        "with": 2.0,
        "without": 1.0,
    }

    def turns(variants, *_):
        if "SAFA" in variants:
            variants["SAFA"].step()  # or there is no number of generated rows to be averaged
        return {name: [seconds[name]] for name in variants}

    monkeypatch.setattr(measured, "take_turns", turns)
    monkeypatch.setattr(measured.memory, "peak", lambda _, *, safa: 600.0 if safa else 500.0)
    found = measured.measure(TINY, 1, 1)
    assert {name: spread.median for name, spread in found.speed.items()} == {
        "our batches, float32": 2,
        "+ channels-last": 8 / 3,
        "+ bf16": 4,
    }
    assert found.images_per_second["+ bf16"].median == 16 / 2
    assert (found.safa_step.median, found.inference.median) == (1.5, 2)
    assert (found.memory["plain"].median, found.memory["SAFA"].median) == (500, 600)


def test_the_ways_of_plain_training_differ_by_one_change_at_a_time():
    ways = [(loop.half, loop.layout) for loop in measured._plain_loops(TINY).values()]
    assert ways == [
        (False, torch.contiguous_format),
        (False, torch.channels_last),
        (True, torch.channels_last),
    ]


def test_the_cost_of_a_method_is_its_time_over_that_of_the_first(monkeypatch):
    rows = methods(["ce", "ldam"])
    first, other = (row.name for row in rows)
    monkeypatch.setattr(costs, "take_turns", lambda variants, *_: {n: [2.0 if n == first else 6.0] for n in variants})
    monkeypatch.setattr(costs.memory, "peak_of_steps", lambda _, name: 20.0 if name == first else 30.0)
    monkeypatch.setattr(costs.memory, "peak_of_inference", lambda _, name: 10.0 if name == first else 15.0)
    found = costs.measure(TINY, rows, 1, 1)
    cost = found.methods[other]
    assert (cost.step.median, cost.inference.median) == (3, 3)
    assert (cost.step_memory, cost.inference_memory) == (30, 15)
    assert (found.step_milliseconds.median, found.image_milliseconds.median) == (2000, 2000 / 16)


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"precision": "fp16"}, "precision must be float32 or bf16, got 'fp16'"),
        ({"batch_size": 7}, "batch_size must be even"),
        ({"model": "resnet33"}, "no backbone is called 'resnet33'"),
    ],
)
def test_settings_that_cannot_be_run_are_refused(choice, message):
    with pytest.raises(UserError, match=message):
        Loop(Setting(**choice))


# --- methods -----------------------------------------------------------------------------------------------


def stage_of(name: str) -> Stage:
    return Stage(TINY, next(method for method in methods() if method.name == name))


def test_everything_of_the_catalog_that_has_a_cost_of_its_own_is_measured():
    stages = [(method.recipe, method.stage, method.recipe.stages[method.stage]) for method in methods()]
    used = {
        "loss": {stage.loss.name for _, _, stage in stages},
        "augmenter": {stage.augmenter.name for _, _, stage in stages if stage.augmenter},
        "reweighting": {stage.reweighting.name for _, _, stage in stages if stage.reweighting},
        "head": {recipe.model_in(index).head.name for recipe, index, _ in stages},
    }
    controls = {"repeat", "raw_delta", "noise", "tail_mixup"}  # no methods: they stand in SAFA's place to be beaten
    assert used == {kind: set(CATALOG[kind]) - controls for kind in used}


def test_plain_cross_entropy_comes_first_and_every_row_has_a_name_of_its_own():
    rows = methods()
    assert (rows[0].name, rows[0].trains) == ("CE", True)
    assert len({row.name for row in rows}) == len(rows)


def test_a_row_is_the_last_stage_of_its_recipe_after_those_in_which_its_augmenter_is_idle():
    assert [(row.name, row.stage) for row in methods(["ldam-drw-rsg", "ldam-drw-safa", "ncm"])] == [
        ("LDAM-DRW-RSG, idle", 0),
        ("LDAM-DRW-RSG", 1),
        ("LDAM-DRW-SAFA", 1),
        ("NCM", 2),
    ]
    assert [row.trains for row in methods(["crt", "ncm"])] == [True, False]


def test_a_stage_takes_the_steps_that_training_takes(tiny_recipe, tiny_data, tmp_path, monkeypatch):
    recipe = dataclasses.replace(tiny_recipe, stages=(dataclasses.replace(tiny_recipe.stages[1], epochs=1),))
    runs.run(Job("x", recipe, tmp_path), Machine(), tiny_data)
    trained = checkpoint.load(tmp_path / CHECKPOINT)["model"]
    monkeypatch.setattr(settings, "long_tailed", lambda _: tiny_data)
    stage = Stage(Setting("resnet8", 16, "float32"), Method("x", recipe, 0))
    for _ in range(len(stage.learner.batches)):
        stage.step()
    found = stage.network.state_dict()
    assert all(torch.equal(found[name].cpu(), value) for name, value in trained.items())
    stage.step()  # and the epoch begins anew
    assert not torch.equal(stage.network.conv1.weight.cpu(), trained["conv1.weight"])


def test_the_images_are_the_long_tail_with_ten_more_of_every_class_as_the_meta_set():
    data = settings.long_tailed(recipes.Data())
    assert np.array_equal(np.bincount(data.train.labels), COUNTS)
    assert data.class_counts == COUNTS.tolist()
    assert np.array_equal(np.bincount(data.meta.labels), np.full(100, 10))
    assert not set(data.subset.train) & set(data.subset.meta)


@pytest.mark.parametrize(("name", "generates"), [("LDAM-DRW-RSG, idle", False), ("LDAM-DRW-RSG", True)])
def test_a_stage_is_entered_as_its_recipe_says(name, generates):
    stage = stage_of(name)
    assert (type(stage.learner.augmenter).__name__, stage.learner.augmenter.active) == ("RSG", generates)


def test_where_the_backbone_stands_still_only_the_classifier_learns():
    stage = stage_of("cRT")
    before = {name: value.clone() for name, value in stage.network.state_dict().items()}
    stage.step()
    changed = {name for name, value in stage.network.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"fc.weight", "fc.bias"}


def test_image_weights_are_learnt_in_every_step():
    stage = stage_of("Meta-Weight-Net")
    before = [parameter.clone() for parameter in stage.learner.reweighter.parameters()]
    stage.step()
    after = list(stage.learner.reweighter.parameters())
    assert any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_methods_are_measured_printed_and_appended(tmp_path, capsys, monkeypatch):
    path = tmp_path / "steps.jsonl"
    monkeypatch.setattr(command, "methods", lambda: methods(["ce", "tau-norm"]))
    line = run_methods(steps=1, rounds=1, batch_size=16, model="resnet8", precision="bf16", results=str(path))
    assert json.loads(path.read_text()) == line
    assert (line["kind"], line["n"], line["figures"]["base"]) == ("steps", 1, "CE")
    plain, untrained = line["figures"]["methods"]["CE"], line["figures"]["methods"]["tau-norm"]
    assert plain["step"] == plain["inference"] == {"median": 1.0, "low": 1.0, "high": 1.0}
    assert 0 < plain["inference_memory"] < plain["step_memory"] < 2**10  # training keeps what it goes back through
    assert untrained["step"] is untrained["step_memory"] is None
    assert untrained["inference"]["median"] > 0 and untrained["inference_memory"] > 0
    assert line["figures"]["step_milliseconds"]["median"] > 0 < line["figures"]["image_milliseconds"]["median"]
    assert "tau-norm" in capsys.readouterr().out
    assert "| tau-norm | – |  | – |" in tables_of([str(path)])[0]["steps"]


@pytest.mark.parametrize(
    ("bench", "module", "kind", "file"),
    [(run, measured, measured.Figures, "bench"), (run_methods, costs, costs.Costs, "steps")],
)
def test_a_line_names_the_commit_that_the_measuring_began_with(bench, module, kind, file, monkeypatch):
    last = (ROOT / "results" / f"{file}.jsonl").read_text().splitlines()[-1]
    commits, found = ["before"], kind(**json.loads(last)["figures"])

    def measured_meanwhile(*_):
        commits.append("after")
        return found

    monkeypatch.setattr(command, "commit_of_process", lambda: commits[-1])
    monkeypatch.setattr(module, "measure", measured_meanwhile)
    line = bench(steps=1, rounds=1, batch_size=16, model="resnet8", precision="float32", results=None)
    assert (line["commit"], commits[-1]) == ("before", "after")


def test_what_cannot_be_measured_is_refused(capsys):
    assert cli.main(["bench", "method"]) == 2
    assert capsys.readouterr().err == "safa: bench measures loop or methods, got 'method'; did you mean 'methods'?\n"


class Placeless(nn.Sequential):
    """A network of one's own that does not say where an augmenter belongs."""

    def __init__(self, num_classes: int, head) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flat = nn.Flatten()
        self.fc = head(4, num_classes)


def test_a_network_that_names_no_layer_for_an_augmenter_is_refused_in_words():
    with pytest.raises(UserError, match="set the augmenter's before to one of input, conv, pool, flat, fc"):
        Loop(Setting("tests.test_bench:Placeless", batch_size=16), safa=True)
