"""A recipe with everything in it, and recipes read from text."""

from __future__ import annotations

import pytest

from safa import recipe as recipes
from safa.recipe import Augmenter, Data, Named, Optimizer, Recipe, Schedule, Stage

FULL = Recipe(
    method="LDAM-DRW-SAFA",
    data=Data(
        "cifar100", root="images", imbalance_factor=50.0, largest=400, augmentation=Named("shift", {"padding": 2})
    ),
    model=recipes.Model(Named("resnet56"), Named("cosine", {"scale": 30})),
    optimizer=Optimizer(weight_decay=5e-4, nesterov=True),
    schedule=Schedule(lr=0.05, milestones=(10, 20), factor=0.1),
    stages=(
        Stage(30, loss=Named("ldam", {"max_margin": 0.3})),
        Stage(
            10,
            weighting=Named("effective_number", {"beta": 0.999}),
            sampler=Named("pairs"),
            augmenter=Augmenter("safa", before="layer2", lr_scale=0.1, options={"start": "random"}),
            optimizer=Optimizer(momentum=0.8),
            schedule=Schedule(kind="cosine", lr=1e-5, warmup_epochs=0),
            evaluate_every=5,
        ),
    ),
    batch_size=64,
    precision="bf16",
    clip=1.5,
    seed=7,
)


@pytest.fixture
def load(tmp_path):
    """Read a recipe from text."""

    def read(text: str, *overrides: str) -> Recipe:
        path = tmp_path / "recipe.yaml"
        path.write_text(text, encoding="utf-8")
        return recipes.load(path, overrides)

    return read


def with_keys(text: str = "") -> str:
    return "method: CE\nstages: [{epochs: 3}]\n" + text
