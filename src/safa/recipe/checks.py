"""What types cannot say of a recipe: ranges, and settings that would do nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence

from safa.errors import UserError
from safa.recipe.fields import Augmenter, Data, Optimizer, Recipe, Schedule


def check(recipe: Recipe, where: str) -> None:
    """Refuse a recipe with a value out of range.

    Raises:
        UserError: with the value's place, which begins with ``where``.
    """
    if not recipe.method.strip():
        raise UserError(f"{where}.method is what tables call the run, so it cannot be empty")
    if not recipe.stages:
        raise UserError(f"{where}.stages is empty; a run needs at least one stage")
    for index, stage in enumerate(recipe.stages):
        if stage.epochs < 0:
            raise UserError(f"{where}.stages[{index}].epochs must be at least 0, got {stage.epochs}")
        if stage.evaluate_every < 1:
            raise UserError(f"{where}.stages[{index}].evaluate_every must be at least 1, got {stage.evaluate_every}")
        if stage.averaged_epochs is not None and not 0 < stage.averaged_epochs < math.inf:
            raise UserError(
                f"{where}.stages[{index}].averaged_epochs is how many epochs an average of the weights reaches back, "
                f"above 0, got {stage.averaged_epochs:g}"
            )
        if stage.augmenter is not None:
            _check_from_0(stage.augmenter, ("lr_scale",), f"{where}.stages[{index}].augmenter")
        if stage.optimizer is not None:
            _check_optimizer(stage.optimizer, f"{where}.stages[{index}].optimizer")
        if stage.schedule is not None:
            _check_schedule(stage.schedule, f"{where}.stages[{index}].schedule")
    _check_optimizer(recipe.optimizer, f"{where}.optimizer")
    _check_schedule(recipe.schedule, f"{where}.schedule")
    if recipe.clip is not None and not recipe.clip > 0:
        raise UserError(f"{where}.clip is the largest norm of the gradient, above 0, got {recipe.clip:g}")
    if recipe.batch_size < 2:
        raise UserError(
            f"{where}.batch_size must be at least 2, since batch norm needs two images, got {recipe.batch_size}"
        )
    _check_data(recipe.data, where)


def refuse_idle_cuts(data: Data, asked: Sequence[str], profile: str = "data.profile=exponential") -> None:
    """Refuse settings of a tail that were asked for where none is cut.

    A recipe may name them beside ``as_found``, as that of a run does, which names everything.

    Args:
        data: what the recipe says.
        asked: keys of ``data``; those that decide how a tail is cut count.
        profile: how to ask for a tail.

    Raises:
        UserError: if the classes keep the images they have.
    """
    cutting = {key: getattr(data, key) for key in asked if key in ("imbalance_factor", "largest", "order")}
    for key, value in cutting.items():
        if value is not None and data.profile == "as_found":
            shown = f"{value:g}" if isinstance(value, float) else value
            raise UserError(
                f"{key} {shown} cuts nothing where data.profile is as_found; leave it out, or cut a tail with {profile}"
            )


def _check_from_0(settings: Augmenter | Data | Optimizer | Schedule, names: Sequence[str], where: str) -> None:
    for name in names:
        value = getattr(settings, name)
        if not 0 <= value < math.inf:
            raise UserError(f"{where}.{name} must be at least 0, got {value:g}")


def _check_optimizer(optimizer: Optimizer, where: str) -> None:
    _check_from_0(optimizer, ("momentum", "weight_decay"), where)
    if optimizer.nesterov and not optimizer.momentum:
        raise UserError(f"{where}.nesterov needs a momentum above 0")


def _check_schedule(schedule: Schedule, where: str) -> None:
    _check_from_0(schedule, ("lr", "factor", "warmup_epochs", "final"), where)


def _check_data(data: Data, where: str) -> None:
    if not data.imbalance_factor >= 1:
        factor = data.imbalance_factor
        meant = f"; did you mean {1 / factor:g}?" if factor > 0 else ""
        raise UserError(f"imbalance_factor is largest over smallest class, so at least 1, got {factor:g}{meant}")
    _check_from_0(data, ("many_above", "few_below"), f"{where}.data")
    if not 0 <= data.validation < 1:
        raise UserError(f"{where}.data.validation is a fraction in [0, 1), got {data.validation:g}")
    if not 0 < data.head_ratio < 1:
        raise UserError(
            f"{where}.data.head_ratio is the share of classes that are head, in (0, 1), got {data.head_ratio:g}"
        )
    if data.image_size is not None and data.image_size < 1:
        raise UserError(f"{where}.data.image_size is a number of pixels, got {data.image_size}")
