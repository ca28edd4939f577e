"""From a recipe to its epochs, each with the hash of everything that led to it."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from safa import recipe as recipes
from safa.catalog import with_own_code

# Raise this when a change of the code changes what a recipe computes: it makes every cached prefix unknown.
SEMANTICS = 1

# The share of a stage's average that may still be the weights it began with, before a user is told.
MUCH_OF_THE_START = 0.1

Trained = Sequence[tuple[int, recipes.Stage]]  # the stages that train, each with its place among all


@dataclass(frozen=True)
class Epoch:
    """One epoch of a run, or the whole of a stage that trains for none and only changes the classifier.

    Attributes:
        index: 0-based, over all stages.
        stage_index, stage: the stage it belongs to.
        first, last: whether it is the first and the last of its stage.
        trains: whether it has training steps.
        lr: learning rate; 0 without training.
        evaluate: whether the network is tested after it. That changes no weight and is no part of ``key``: an epoch
            taken over from another run has been tested where that run says.
        key: address of the state after it: two runs with the same key are asked for the same computation. Device,
            number of threads and version of torch are not in it, and may change the last bits of the weights.
    """

    index: int
    stage_index: int
    stage: recipes.Stage
    first: bool
    last: bool
    trains: bool
    lr: float
    evaluate: bool
    key: str


def epochs_of(recipe: recipes.Recipe, data_facts: Mapping[str, Any], world_size: int = 1) -> list[Epoch]:
    """Every epoch of the run in order.

    Args:
        recipe: what to run.
        data_facts: what the training images are (hash of the drawn subset, normalisation, …), and ``validation``,
            which ones are held out, if any; ``LongTailed.facts``.
        world_size: processes; part of the address, since each has its own batch-norm statistics, class weights add up
            to 1 within each, and each pairs its own rows.
    """
    key, held_out = start_key(recipe, data_facts, world_size), data_facts.get("validation")
    epochs: list[Epoch] = []
    trained = 0  # epochs before the stage, as the schedule counts them
    for stage_index, stage in enumerate(recipe.stages):
        trains = stage.epochs > 0
        for local in range(_items(stage)):
            lr = _learning_rate(recipe, stage, local, trained + local) if trains else 0.0
            first, last = local == 0, local + 1 >= stage.epochs
            regime = _regime(recipe, stage_index, lr, first, last)
            if first and stage.head is not None:
                regime["head_of_stage"] = stage_index  # its first weights are drawn by it
                if held_out is not None:
                    regime["validation"] = held_out  # a new classifier may choose a setting on it
            key = _digest([key, with_own_code(regime)])
            evaluate = (local + 1) % stage.evaluate_every == 0 or last
            epochs.append(Epoch(len(epochs), stage_index, stage, first, last, trains, lr, evaluate, key))
        trained += stage.epochs
    return epochs


def _items(stage: recipes.Stage) -> int:
    return stage.epochs or int(stage.head is not None)


def epochs_trained(recipe: recipes.Recipe, done: int) -> int:
    """How many of the first ``done`` items of the plan are epochs that train."""
    trains = [stage.epochs > 0 for stage in recipe.stages for _ in range(_items(stage))]
    return sum(trains[:done])


def start_key(recipe: recipes.Recipe, data_facts: Mapping[str, Any], world_size: int = 1) -> str:
    """Address of the untrained network on these images."""
    settings: dict[str, Any] = {
        "semantics": SEMANTICS,
        "data": {name: fact for name, fact in data_facts.items() if name != "validation"},
        "model": recipes.to_plain(recipe.model),
        "batch_size": recipe.batch_size,
        "precision": recipe.precision,
        "seed": recipe.seed,
    }
    if recipe.clip is not None:
        settings["clip_of_each"] = recipe.clip  # "clip" was the norm of network and augmenter together
    if world_size != 1:
        settings["world_size"] = world_size
    return _digest(with_own_code(settings))


def shared_epochs(first: list[Epoch], second: list[Epoch]) -> int:
    """How many epochs two runs have in common."""
    length = 0
    for a, b in zip(first, second, strict=False):
        if a.key != b.key:
            break
        length += 1
    return length


def _learning_rate(recipe: recipes.Recipe, stage: recipes.Stage, local: int, index: int) -> float:
    if stage.schedule is not None:
        return recipes.learning_rate(stage.schedule, local, stage.epochs)
    return recipes.learning_rate(recipe.schedule, index, recipe.epochs)


def _regime(recipe: recipes.Recipe, stage_index: int, lr: float, first: bool, last: bool) -> dict[str, Any]:
    """What one epoch does to the network; epochs of different stages with the same regime are the same."""
    stage = recipe.stages[stage_index]
    plain = recipes.to_plain(stage)
    for beside in ("epochs", "schedule", "evaluate_every", "optimizer"):
        plain.pop(beside, None)
    plain["lr"] = lr
    plain["optimizer"] = recipes.to_plain(optimizer_of(recipe, stage_index))
    if stage.epochs > 0 and lr == 0:
        plain["trains"] = True  # as a stage of no epochs does not: batch norm moves
    if first and (stage.optimizer is not None or stage.head is not None):
        plain["restart"] = True
    if last and stage.averaged_epochs is not None:
        plain["becomes_average"] = True
    if stage.trainable and recipe.clip is not None:
        plain["clips_what_learns_alone"] = True  # once gradients of the stage before were counted with it
    return dict(plain)


def remarks(recipe: recipes.Recipe) -> list[str]:
    """What a user may not have meant in stages that can be trained, a sentence each."""
    trained = [(index, stage) for index, stage in enumerate(recipe.stages) if stage.epochs > 0]
    return [*_unreached_milestones(recipe, trained), *_long_averages(trained), *_dropped_augmenters(recipe.stages)]


def _unreached_milestones(recipe: recipes.Recipe, trained: Trained) -> list[str]:
    """Milestones after the last epoch.

    The run's schedule counts only where the last stage that trains follows it: a stage with a schedule of its own may
    be meant to take over before the run's milestones, as in the recipes of the hot second stage.
    """
    followed = [(f"stages.{index}.schedule", s.schedule, s.epochs) for index, s in trained if s.schedule is not None]
    if trained and trained[-1][1].schedule is None:
        followed.append(("schedule", recipe.schedule, recipe.epochs))
    found = []
    for key, schedule, epochs in followed:
        unreached = [str(milestone) for milestone in schedule.milestones if milestone >= epochs]
        if schedule.kind == "multistep" and unreached:
            found.append(
                f"{key}.milestones has {', '.join(unreached)}, beyond the last epoch, {epochs - 1}: the learning rate "
                "does not fall there; set the list to fit, or to [] for one rate"
            )
    return found


def _long_averages(trained: Trained) -> list[str]:
    found = []
    for index, stage in trained:
        if stage.averaged_epochs is None:
            continue
        left = math.exp(-stage.epochs / stage.averaged_epochs)  # (1 - 1 / s n) ** (s epochs), for s steps an epoch
        if left > MUCH_OF_THE_START:
            found.append(
                f"stages.{index}.averaged_epochs is {stage.averaged_epochs:g} in a stage of {stage.epochs} epochs: "
                f"{left:.0%} of the average is still what the stage begins with; {stage.epochs / 3:.2g} would leave 5%"
            )
    return found


def _dropped_augmenters(stages: Sequence[recipes.Stage]) -> list[str]:
    """An augmenter stays only while its recipe stays the same to the letter, in every stage."""
    named = [(index, stage.augmenter) for index, stage in enumerate(stages) if stage.augmenter is not None]
    found = []
    for (before, old), (after, new) in pairwise(named):
        if old.name != new.name or (old == new and after == before + 1):
            continue
        how = "with other settings than in the stage before"
        if old == new:
            how = "as before, but not in the stage between"
        found.append(
            f"stages.{after}.augmenter is {new.name} {how}, so it begins anew: what the former one learnt is dropped"
        )
    return found


def ends_of_stages(epochs: list[Epoch]) -> set[str]:
    """Addresses of the states that stages end with."""
    return {epoch.key for epoch in epochs if epoch.last}


def optimizer_of(recipe: recipes.Recipe, stage_index: int) -> recipes.Optimizer:
    """Settings in force in a stage: those of the last stage up to it that named an optimizer, else the run's."""
    named = [s.optimizer for s in recipe.stages[: stage_index + 1] if s.optimizer is not None]
    return named[-1] if named else recipe.optimizer


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:32]
