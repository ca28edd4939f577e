"""What a run is, as data: frozen dataclasses to and from YAML. Imports no torch, so that help stays instant."""

from safa.recipe.checks import refuse_idle_cuts
from safa.recipe.fields import (
    Augmenter,
    Data,
    Model,
    Named,
    Optimizer,
    Precision,
    Recipe,
    Schedule,
    Stage,
    learning_rate,
)
from safa.recipe.loading import dump, from_plain, load
from safa.recipe.overrides import override
from safa.recipe.plain import to_plain

__all__ = [
    "Augmenter",
    "Data",
    "Model",
    "Named",
    "Optimizer",
    "Precision",
    "Recipe",
    "Schedule",
    "Stage",
    "dump",
    "from_plain",
    "learning_rate",
    "load",
    "override",
    "refuse_idle_cuts",
    "to_plain",
]
