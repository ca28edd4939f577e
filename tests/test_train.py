"""A run: what is logged and saved, and what happens when a loss breaks."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace

import pytest
import torch
from torch import nn

from safa import checkpoint, evaluate
from safa.assembly import network
from safa.data import dataset
from safa.errors import UserError
from safa.files import CHECKPOINT
from safa.losses import CrossEntropyLoss
from safa.machine import Machine, accelerator_for
from safa.progress import Progress
from safa.recipe import Augmenter, Named, Recipe, Stage
from safa.train import Trainer
from safa.types import Augmented
from tests.conftest import RESNET8, STEPS

SAFA = Augmenter("safa")


class Breaking(CrossEntropyLoss):
    """Not a number from a step on, or a number whose gradient is none."""

    def __init__(self, at: int, gradient: bool = False, weight=None) -> None:
        super().__init__(weight=weight)
        self.at, self.gradient, self.seen = at, gradient, 0

    def forward(self, logits, labels):
        self.seen += 1
        loss = super().forward(logits, labels)
        if self.seen <= self.at:
            return loss
        return loss + (logits.sum() * 0).sqrt() if self.gradient else loss * math.nan


class Odd(nn.Module):
    """An augmenter with one broken term that generates nothing."""

    active, learns_while_idle = True, False

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))

    def forward(self, features, labels):
        loss = self.weight.sum() * math.nan
        return Augmented(features, labels, loss, {"fine": torch.tensor(1.0), "odd": loss.detach()})


class Bent(Odd):
    """An augmenter whose one term is 0, with a gradient that is no number."""

    def forward(self, features, labels):
        return Augmented(features, labels, (self.weight.sum() * 0).sqrt())


def refused(trainer: Trainer) -> str:
    with pytest.raises(UserError) as error:
        trainer.run()
    assert not (trainer.folder / CHECKPOINT).exists()
    return str(error.value)


def weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    return trainer.learner.model.state_dict()


def equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


# --- what breaks in training --------------------------------------------------------------------------------


def test_a_loss_that_is_not_a_number_stops_the_run_and_keeps_the_last_good_state(trainer_of):
    loss = Named("tests.test_train:Breaking", {"at": STEPS + 2})
    trainer = trainer_of(Stage(3, loss=loss))
    with pytest.raises(UserError) as error:
        trainer.run()
    path = trainer.folder / CHECKPOINT
    reached = "is not finite in epoch 2 of 3, after 2 steps"
    assert f"the loss term 'classification' {reached}; the last good state is in {path}" in str(error.value)
    state = checkpoint.load(path)
    assert (state["done"], state["step"]) == (1, 0)
    assert all(torch.isfinite(value).all() for value in state["model"].values())


def test_no_good_state_is_promised_where_there_is_none(trainer_of):
    message = refused(trainer_of(Stage(1, loss=Named("tests.test_train:Breaking", {"at": 0}))))
    assert "epoch 1 of 1, after 0 steps; no state was saved before" in message


def test_a_broken_term_of_the_augmenter_is_named_rather_than_the_total(trainer_of):
    message = refused(trainer_of(Stage(1, augmenter=Augmenter("tests.test_train:Odd"))))
    assert "the loss term 'odd' is not finite in epoch 1 of 1, after 0 steps" in message


def test_an_update_that_breaks_the_augmenter_is_not_saved(trainer_of):
    one_step_an_epoch = trainer_of(Stage(1, augmenter=Augmenter("tests.test_train:Bent")), batch_size=128)
    assert "'weight' of the augmenter is not finite in epoch 1 of 1, after 1 steps" in refused(one_step_an_epoch)
    assert not (one_step_an_epoch.folder / CHECKPOINT).exists()


@pytest.mark.parametrize("at", [STEPS - 1, 2 * STEPS - 1])
def test_an_update_that_breaks_the_weights_in_an_epochs_last_step_is_not_saved(at, trainer_of):
    loss = Named("tests.test_train:Breaking", {"at": at, "gradient": True})
    trainer = trainer_of(Stage(3, loss=loss))
    with pytest.raises(UserError, match="of the network is not finite in epoch"):
        trainer.run()
    path = trainer.folder / CHECKPOINT
    assert path.exists() == (at > STEPS)
    if path.exists():
        assert all(torch.isfinite(value).all() for value in checkpoint.load(path)["model"].values())


def test_a_full_disk_stops_the_run_and_loses_no_earlier_checkpoint(trainer_of, monkeypatch):
    trainer, saved = trainer_of(Stage(3)), checkpoint.save

    def save(path, state):
        if state["done"] == 2:
            raise UserError(f"cannot write {path}: No space left on device; what was there before is untouched")
        saved(path, state)

    monkeypatch.setattr(checkpoint, "save", save)
    with pytest.raises(UserError, match="No space left on device") as error:
        trainer.run()
    assert str(error.value).endswith(f"; once it can be written, go on with: safa train --resume {trainer.folder}")
    assert checkpoint.load(trainer.folder / CHECKPOINT)["done"] == 1


# --- what is written ----------------------------------------------------------------------------------------


def test_the_log_has_a_line_per_epoch_with_every_term_of_eq_1_and_the_diagnostics(trained):
    safa = Stage(1, loss=Named("ldam"), sampler=Named("pairs"), augmenter=SAFA)
    trainer = trained(Stage(2, loss=Named("ldam"), evaluate_every=2), safa)
    log = [json.loads(line) for line in (trainer.folder / "log.jsonl").read_text().splitlines()]
    assert log == trainer.history
    assert [(entry["epoch"], entry["stage"]) for entry in log] == [(0, 0), (1, 0), (2, 1)]
    assert [entry["test"] is None for entry in log] == [True, False, False]
    assert set(log[0]["terms"]) == {"classification"}
    assert set(log[2]["terms"]) == {
        "classification",
        "reconstruction",
        "mode_seeking_tail",
        "mode_seeking_head",
        "contrastive",
    }
    assert log[0]["diagnostics"] == log[1]["diagnostics"] == {}
    assert set(log[2]["diagnostics"]) == {
        "delta_size",
        "delta_cosine",
        "pair_accuracy_real",
        "pair_accuracy_generated",
        "assigned_real",
        "assigned_generated",
    }
    assert all(entry["images_per_second"] > 0 and entry["seconds"] > 0 for entry in log)


def test_validation_images_are_tested_beside_the_test_images(trained, tiny_data):
    data = dataset.load(replace(tiny_data.spec, validation=0.2))
    trainer = trained(Stage(1), data=data)
    (entry,) = trainer.history
    assert set(entry["validation"]) == set(entry["test"]) == {"error", "error_many", "error_medium", "error_few"}
    for split in ("validation", "test"):
        assert entry[split] == evaluate.summary(trainer.predict(split), data.groups)
    assert len(trainer.predict("validation").labels) == len(data.validation)


@pytest.fixture
def taking_over(trainer_of, tmp_path):
    """A trainer with nothing left to train, since the cache has the epochs of a run on other data."""

    def build(data, theirs, state=lambda state: state) -> Trainer:
        cache = checkpoint.StageCache(tmp_path / "cache")
        first = trainer_of(Stage(1), data=theirs, folder=tmp_path / "first")
        second = trainer_of(Stage(1), data=data, folder=tmp_path / "second")
        assert first.plan[-1].key == second.plan[-1].key
        first.run()
        cache.save(first.plan[-1].key, state(checkpoint.load(first.folder / CHECKPOINT)))
        second.cache = cache
        second.run()
        assert second.reused_epochs == 1
        return second

    return build


def test_groups_of_other_bounds_are_not_taken_over_into_the_log(taking_over, tiny_data):
    few = replace(tiny_data, spec=replace(tiny_data.spec, many_above=10, few_below=5))
    trainer = taking_over(few, tiny_data)
    entry = trainer.history[0]["test"]
    assert entry["error"] == checkpoint.load(trainer.folder / CHECKPOINT)["history"][0]["test"]["error"] > 0
    assert entry == {"error": entry["error"], "error_many": None, "error_medium": None, "error_few": None}


def without_its_tests(state):
    """A state as versions wrote it that did not say what it was tested on and made with."""
    return {key: value for key, value in state.items() if key not in ("tested_on", "made_with")}


@pytest.mark.parametrize("state", [lambda state: state, without_its_tests])
def test_the_log_is_taken_over_as_it_is_where_groups_and_validation_images_are_the_same(state, taking_over, tiny_data):
    trainer = taking_over(tiny_data, tiny_data, state)
    first = checkpoint.load(trainer.folder.with_name("first") / CHECKPOINT)["history"]
    assert trainer.history == first
    assert first[0]["test"]["error_few"] is not None


@pytest.mark.parametrize("state", [lambda state: state, without_its_tests])
def test_validation_figures_of_another_run_are_not_taken_over_into_the_log(state, taking_over, tiny_data):
    """Images that the tail leaves out are validated on without changing an address."""
    theirs = dataset.load(replace(tiny_data.spec, validation_per_class=2, validation_from="left_out"))
    trainer = taking_over(tiny_data, theirs, state)
    assert "validation" in checkpoint.load(trainer.folder.with_name("first") / CHECKPOINT)["history"][0]
    assert "validation" not in trainer.history[0]
    assert "validation" not in (trainer.folder / "log.jsonl").read_text()


def test_a_checkpoint_holds_tensors_and_plain_containers(trained):
    def plain(value: object) -> bool:
        if isinstance(value, dict):
            return all(isinstance(key, (str, int)) and plain(item) for key, item in value.items())
        if isinstance(value, (list, tuple)):
            return all(map(plain, value))
        return value is None or isinstance(value, (torch.Tensor, str, int, float))

    trainer = trained(Stage(1, sampler=Named("pairs"), augmenter=SAFA))
    state = torch.load(trainer.folder / CHECKPOINT, weights_only=True)
    assert plain(state)
    bare = network(trainer.recipe.model, trainer.data.num_classes, trainer.recipe.seed)
    bare.load_state_dict(state["model"])  # strict: the network alone, without the plug-in's names


def test_tensorboard_gets_what_the_log_has(tiny_data, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    recipe = Recipe("x", (Stage(2),), tiny_data.spec, RESNET8, batch_size=64)
    trainer = Trainer(recipe, tiny_data, tmp_path, accelerator_for(recipe, Machine()), track=True)
    trainer.run()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert {"train/loss", "train/lr", "train/classification", "test/error"} <= set(events.Tags()["scalars"])
    losses = [event.value for event in events.Scalars("train/loss")]
    assert losses == pytest.approx([entry["loss"] for entry in trainer.history], rel=1e-6)


def test_tensorboard_gets_what_was_trained_before_it_was_asked_for(trainer_of):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    trainer_of(Stage(2)).run()
    again = trainer_of(Stage(2))
    again.track = True
    again.run()
    events = EventAccumulator(str(again.folder / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("train/loss")] == [0, 1]


# --- the whole ----------------------------------------------------------------------------------------------


def test_the_same_recipe_gives_the_same_bits_twice(trained, tmp_path):
    stages = Stage(1), Stage(1, sampler=Named("pairs"), augmenter=SAFA)
    first = trained(*stages, folder=tmp_path / "first")
    torch.manual_seed(5)
    second = trained(*stages, folder=tmp_path / "second")
    assert equal(weights(first), weights(second))
    assert equal(first.learner.augmenter.state_dict(), second.learner.augmenter.state_dict())


def test_progress_shows_epoch_speed_and_last_error():
    progress = Progress(shown=True)
    progress.start("LDAM[x]", epochs=3, done=0)
    progress.epoch(0, steps=4, step=0)
    for images in (16, 32):
        progress.step(images)
    (task,) = progress.bars.tasks
    assert re.fullmatch(r"epoch 1/3 \d+ img/s", task.fields["note"])
    assert task.completed == 0.5
    progress.finish_epoch({"epoch": 0, "images_per_second": 7.0, "test": {"error": 12.34}})
    assert task.fields["note"] == "epoch 1/3 7 img/s · test error 12.3 %"
    assert task.completed == 1


def test_progress_draws_nothing_where_there_is_no_terminal(capsys):
    with Progress() as progress:
        assert not progress.shown
        progress.start("x", epochs=1, done=0)
        progress.epoch(0, steps=1, step=0)
        progress.step(16)
    assert capsys.readouterr() == ("", "")
