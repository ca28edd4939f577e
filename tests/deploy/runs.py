"""A run folder made by hand: a small network that knows the digits a little, without training."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import torch
import yaml
from torch import Tensor, nn

from safa import assembly, checkpoint
from safa import recipe as recipes
from safa.augmenters.safa import SAFA
from safa.data import digits
from safa.data.types import Split

CLASS_NAMES = ["zero", "one", "two", "three", "four", "five", "six", "se,ven", 'ei"ght', "ñine"]
MEAN, STD = [0.3, 0.31, 0.32], [0.37, 0.38, 0.39]
RECIPE = recipes.Recipe(
    method="LDAM-SAFA",
    model=recipes.Model(recipes.Named("resnet8"), recipes.Named("cosine", {"scale": 20.0})),
    stages=(recipes.Stage(epochs=2, augmenter=recipes.Augmenter("safa")),),
)


def write_run(folder: Path, recipe: recipes.Recipe = RECIPE, *, finished: bool = True, done: int = 2) -> Path:
    """What the trainer leaves, with an augmenter's weights in the checkpoint beside the network's."""
    folder.mkdir(parents=True)
    described = {"name": "digits", "class_names": CLASS_NAMES, "image_size": 8, "mean": MEAN, "std": STD}
    (folder / "recipe.yaml").write_text(recipes.dump(recipe))
    (folder / "data.json").write_text(json.dumps(described))
    state = {
        "done": done,
        "step": 0,
        "history": [],
        "model": network(recipe).state_dict(),
        "augmenter": SAFA(32, class_counts=[10] * 10).state_dict(),
    }
    checkpoint.save(folder / "checkpoint.pt", state)
    if finished:
        (folder / "result.json").write_text("{}")
    return folder


def network(recipe: recipes.Recipe = RECIPE) -> nn.Module:
    """The network whose weights the run holds: random features, a head fitted to the digits."""
    model = assembly.network(recipe.model, len(CLASS_NAMES), recipe.seed)
    model.load_state_dict(_weights(recipes.dump(recipe)))
    return model.eval()


@functools.cache
def _weights(recipe: str) -> dict[str, Tensor]:
    spec = recipes.from_plain(yaml.safe_load(recipe))
    model = assembly.network(spec.model, len(CLASS_NAMES), spec.seed)
    split = digits.load()[0]
    images, labels = torch.from_numpy(split.images).float() / 255, torch.from_numpy(split.labels)
    head, model.fc = model.fc, nn.Identity()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0  # learns all from the one pass that follows
    with torch.no_grad():
        features = nn.functional.normalize(model(normalised(images)))
        wanted = nn.functional.one_hot(labels, len(CLASS_NAMES)) - 1 / len(CLASS_NAMES)
        head.weight.copy_(torch.linalg.lstsq(features, wanted).solution.T)
    model.fc = head
    return model.state_dict()


def expected_probabilities(images: Tensor) -> Tensor:
    """By the definition: pixel values normalised per channel, the network, softmax."""
    with torch.no_grad():
        return network()(normalised(images)).softmax(dim=1)


def normalised(images: Tensor) -> Tensor:
    mean, std = torch.tensor(MEAN)[:, None, None], torch.tensor(STD)[:, None, None]
    return (images - mean) / std


def some_images(number: int = 60) -> Split:
    """Real digits, evenly from the test split."""
    split = digits.load()[1]
    step = len(split) // number
    return Split(split.labels[::step][:number], split.images[::step][:number])
