"""The steps of one stage of a recipe, as the trainer does them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from accelerate import Accelerator
from torch import nn

from safa import assembly
from safa import recipe as recipes
from safa.bench import setting as settings
from safa.bench.methods import Method
from safa.bench.setting import Setting
from safa.bench.turns import seconds_of
from safa.plan import Epoch
from safa.runs import Machine, _accelerator
from safa.train import Trainer


class Stage:
    """A stage of a network that was never trained, whose first epoch is gone through over and over.

    Args:
        setting: network, batch size and precision, in the place of the recipe's.
        method: which stage of which recipe.
    """

    def __init__(self, setting: Setting, method: Method) -> None:
        recipe = _adapted(method.recipe, setting)
        self.device = setting.device
        self.trainer = Trainer(recipe, settings.long_tailed(recipe.data), Path(), accelerator(recipe, setting))
        self.epoch = _entered(self.trainer, method.stage)
        self.steps = _endless(self.trainer, self.epoch)

    @property
    def network(self) -> nn.Module:
        """What is left for inference."""
        return self.trainer.model

    def turn(self, steps: int) -> float:
        return seconds_of(self.step, steps, self.device)

    def step(self) -> None:
        next(self.steps)


def accelerator(recipe: recipes.Recipe, setting: Setting) -> Accelerator:
    """What the commands would train with."""
    return _accelerator(recipe, Machine(setting.device.type))


def _adapted(recipe: recipes.Recipe, setting: Setting) -> recipes.Recipe:
    model = replace(recipe.model, backbone=recipes.Named(setting.model))
    precision: recipes.Precision = "bf16" if setting.precision == "bf16" else "float32"
    return replace(recipe, model=model, batch_size=setting.batch_size, precision=precision)


def _entered(trainer: Trainer, stage: int) -> Epoch:
    """Begin one stage after the other up to the one that is wanted, without a step in between."""
    begun = [epoch for epoch in trainer.plan if epoch.first and epoch.stage_index <= stage]
    for epoch in begun:
        trainer._enter(epoch)
    return begun[-1]


def _endless(trainer: Trainer, epoch: Epoch) -> Iterator[None]:
    while True:
        trainer.step = 0
        trainer.plug.train()
        assembly.train_mode(trainer.model, epoch.stage.trainable)
        for group in trainer.optimizer.param_groups:
            group["lr"] = epoch.lr * group["lr_scale"]
        if trainer.reweighter is not None:
            trainer.meta_batches = trainer._meta_batches(epoch.index * len(trainer.batches))
        for images, labels in trainer.batches.epoch(epoch.index):
            trainer._train_step(epoch, images, labels)
            trainer.step += 1
            yield
