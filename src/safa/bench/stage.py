"""The steps of one stage of a recipe, as training does them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from torch import nn

from safa import recipe as recipes
from safa.bench import setting as settings
from safa.bench.methods import Method
from safa.bench.setting import Setting
from safa.bench.turns import seconds_of
from safa.learner import Learner
from safa.machine import Machine, accelerator_for
from safa.parts import Parts
from safa.plan import epochs_of
from safa.sums import Sums


class Stage:
    """A stage of a network that was never trained, whose first epoch is gone through over and over.

    Args:
        setting: network, batch size and precision, in the place of the recipe's.
        method: which stage of which recipe.
    """

    def __init__(self, setting: Setting, method: Method) -> None:
        recipe = _adapted(method.recipe, setting)
        self.device = setting.device
        accelerator = accelerator_for(recipe, Machine(setting.device.type))
        data = settings.long_tailed(recipe.data)
        self.learner = Learner(Parts(recipe, data, accelerator))
        self.epoch = self.learner.enter_up_to(epochs_of(recipe, data.facts()), method.stage)
        self.steps = self._endless()

    @property
    def network(self) -> nn.Module:
        """What is left for inference."""
        return self.learner.model

    def turn(self, steps: int) -> float:
        return seconds_of(self.step, steps, self.device)

    def step(self) -> None:
        next(self.steps)

    def _endless(self) -> Iterator[None]:
        while True:
            yield from self.learner.steps(self.epoch, 0, Sums())


def _adapted(recipe: recipes.Recipe, setting: Setting) -> recipes.Recipe:
    model = replace(recipe.model, backbone=recipes.Named(setting.model))
    precision: recipes.Precision = "bf16" if setting.precision == "bf16" else "float32"
    return replace(recipe, model=model, batch_size=setting.batch_size, precision=precision)
