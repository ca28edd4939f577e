"""Every method of the house as a stage of the recipe it ships with, so that nothing of a method is said twice."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from safa import library
from safa import recipe as recipes

FOLDER = "table1/cifar100"
# Plain CE first, since all are compared with it; then losses and samplers, mixing, augmenters, image weights, and what
# starts from a trained network. What only joins two of these, such as CB-SAFA, costs what they cost.
NAMES = (
    "ce", "cb-ce", "ce-drw", "ce-drs", "focal", "cb-focal", "focal-drw", "ldam", "ldam-drw", "ldam-drs",
    "balanced-softmax", "logit-adjustment", "label-smoothing",
    "mixup", "mixup-drw", "manifold-mixup", "cutmix", "remix",
    "ldam-drw-rsg", "ldam-drw-safa", "ldam-drw-deltaencoder", "ldam-drw-ftl", "ldam-drw-hallucinator",
    "l2rw", "meta-weight-net", "meta-class-weight",
    "cb-re-tuning", "crt", "lws", "logit-adjustment-post-hoc", "tau-norm", "ncm",
)  # fmt: skip


@dataclass(frozen=True)
class Method:
    """A row of the table.

    Attributes:
        name: the recipe's method; with ``, idle`` for a stage in which its augmenter generates nothing.
        recipe: what it ships as.
        stage: 0-based index of the stage that is measured.
    """

    name: str
    recipe: recipes.Recipe
    stage: int

    @property
    def trains(self) -> bool:
        """Whether there are steps to be measured: a stage of zero epochs only changes the classifier."""
        return self.recipe.stages[self.stage].epochs > 0


def methods(names: Sequence[str] = NAMES) -> list[Method]:
    """The rows of the named recipes: the last stage of each, after those in which its augmenter is idle."""
    return [method for name in names for method in _rows(name)]


def _rows(name: str) -> Iterator[Method]:
    recipe = recipes.load(library.find(f"{FOLDER}/{name}")[1])
    for index, stage in enumerate(recipe.stages):
        if stage.augmenter is not None and not stage.generate:
            yield Method(f"{recipe.method}, idle", recipe, index)
    yield Method(recipe.method, recipe, len(recipe.stages) - 1)
