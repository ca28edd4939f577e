"""The parts of a recipe: what they are by themselves, and the rates of the schedules."""

from __future__ import annotations

import dataclasses

import pytest

from safa.recipe import Model, Named, Recipe, Schedule, Stage, learning_rate
from tests.recipe.conftest import FULL


def test_a_recipe_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        FULL.seed = 3


def test_epochs_of_all_stages_add_up():
    assert FULL.epochs == 40


def test_the_rates_are_those_of_the_released_ldam_code():
    # adjust_learning_rate of LDAM-DRW counts from 1: epoch <= 5: lr * epoch / 5; > 180: lr * 1e-4; > 160: lr * 1e-2.
    def released(epoch: int) -> float:
        counted = epoch + 1
        if counted <= 5:
            return 0.1 * counted / 5
        if counted > 180:
            return 0.1 * 0.0001
        return 0.1 * 0.01 if counted > 160 else 0.1

    rates = [learning_rate(Schedule(), epoch, 200) for epoch in range(200)]
    assert rates == pytest.approx([released(epoch) for epoch in range(200)], rel=1e-12)


@pytest.mark.parametrize(
    ("epoch", "lr"), [(0, 0.02), (4, 0.1), (5, 0.1), (159, 0.1), (160, 1e-3), (179, 1e-3), (180, 1e-5)]
)
def test_the_default_schedule_epoch_by_epoch(epoch, lr):
    assert learning_rate(Schedule(), epoch, 200) == pytest.approx(lr, rel=1e-12)


def test_cosine_falls_from_lr_to_final_by_half_a_cosine():
    schedule = Schedule(lr=0.4, kind="cosine", warmup_epochs=0, final=0.2)
    assert learning_rate(schedule, 0, 10) == pytest.approx(0.4)
    assert learning_rate(schedule, 5, 10) == pytest.approx(0.3)  # cos(pi / 2) = 0
    assert learning_rate(schedule, 10, 10) == pytest.approx(0.2)


def test_cosine_starts_where_the_warm_up_ends():
    schedule = Schedule(lr=0.4, kind="cosine", warmup_epochs=2)
    assert [learning_rate(schedule, epoch, 10) for epoch in range(3)] == pytest.approx([0.2, 0.4, 0.4])


def test_cosine_after_a_warm_up_ends_where_it_would_without_one():
    schedule = Schedule(lr=0.4, kind="cosine", warmup_epochs=2, final=0.2)
    assert [learning_rate(schedule, epoch, 10) for epoch in (6, 10)] == pytest.approx([0.3, 0.2])


def test_a_run_that_is_all_warm_up_has_rates():
    assert learning_rate(Schedule(kind="cosine", warmup_epochs=5), 4, 5) == pytest.approx(0.1)


def test_the_head_in_force_is_that_of_the_last_stage_that_named_one():
    recipe = Recipe("x", (Stage(1), Stage(1, head=Named("cosine")), Stage(1)), model=Model(Named("resnet8")))
    assert [recipe.model_in(index).head.name for index in range(3)] == ["linear", "cosine", "cosine"]
    assert recipe.model_in(2).backbone == Named("resnet8")
