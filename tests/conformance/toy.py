"""A three-class long tail of coloured noise, the same one under other class names, and what all checks ask for.

The largest class is not the first, so that nothing is right by taking classes for head by their index. New names are
a permutation without a fixed point. Whatever a module holds per class it holds in rows, and no other tensor of the
toy has as many rows as there are classes; so ``renamed_rows`` can give a module to the classes under their new names.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TypeVar

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from safa import recipe as recipes
from safa.augmenters.pairing import same_class_pairs
from safa.data.dataset import LongTailed
from safa.data.longtail import draw_subset
from safa.data.pixels import fingerprint, statistics
from safa.data.subset import Subset
from safa.data.types import Source, Split

Module = TypeVar("Module", bound=nn.Module)
Entry = TypeVar("Entry")

CLASSES = 3
COUNTS = [26, 60, 12]
HEAD, TAIL = {1}, {0, 2}
NEW_OF_OLD, OLD_OF_NEW = torch.tensor([2, 0, 1]), torch.tensor([1, 2, 0])
RENAMED_COUNTS = [60, 12, 26]
SPEC = recipes.Data(name="toy", imbalance_factor=5, largest=60)

_COLOURS = [[140, 115, 100], [100, 140, 115], [115, 100, 140]]
_AVAILABLE = [50, 90, 40]  # of which the long tail is drawn; what is left can be a meta set
_TESTED = [20, 20, 20]


# --- images ------------------------------------------------------------------------------------------------


def split(counts: Sequence[int], seed: int) -> Split:
    """8x8 images: the colour of their class, a tint of their own, and noise."""
    random = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(counts)), counts)
    colours = np.array(_COLOURS)[labels] + random.normal(0, 15, (len(labels), 3))
    pixels = colours[:, :, None, None] + random.normal(0, 50, (len(labels), 3, 8, 8))
    return Split(labels.astype(np.int64), pixels.clip(0, 255).astype(np.uint8))


def data(spec: recipes.Data = SPEC) -> LongTailed:
    """98 training images, less those that the recipe sets aside; 60 test images."""
    train, test = split(_AVAILABLE, 0), split(_TESTED, 1)
    subset = draw_subset(
        train.labels,
        CLASSES,
        imbalance_factor=spec.imbalance_factor,
        largest=spec.largest,
        validation=spec.validation,
        validation_per_class=spec.validation_per_class,
        validation_from=spec.validation_from,
        meta_per_class=spec.meta_per_class,
    )
    mean, std = statistics(train.images)
    marks = fingerprint((train, test))
    source = Source("toy", ("red", "green", "blue"), 8, train, test, None, mean, std, "shift", (), marks)
    return LongTailed(source, subset, spec)


def renamed_data(old: LongTailed) -> LongTailed:
    """The same images in the same order under the new class names."""

    def renamed(images: Split) -> Split:
        return replace(images, labels=NEW_OF_OLD.numpy()[images.labels])

    source, subset = old.source, old.subset
    train, test = renamed(source.train), renamed(source.test)
    names = tuple(source.class_names[c] for c in OLD_OF_NEW)
    marks = fingerprint((train, test))
    counts = subset.class_counts[OLD_OF_NEW.numpy()]
    return LongTailed(
        replace(source, train=train, test=test, class_names=names, fingerprint=marks),
        Subset.of(subset.train, subset.validation, counts, subset.meta),
        old.spec,
    )


def batch(counts: Sequence[int] = (5, 8, 3), seed: int = 2) -> tuple[Tensor, Tensor]:
    """Images (n, 3, 8, 8), normalised by eye, and labels (n,), in no order."""
    drawn = split(counts, seed)
    order = np.random.default_rng(seed).permutation(len(drawn))
    images = torch.from_numpy(drawn.images[order]).float()
    return (images - 118) / 55, torch.from_numpy(drawn.labels[order])


def features(counts: Sequence[int] = COUNTS, size: int = 6, seed: int = 3) -> tuple[Tensor, Tensor]:
    """Vectors (n, size) around one centre per class, and labels (n,), class after class."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(CLASSES, size, generator=torch.Generator().manual_seed(7))
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    return 1 + centres[labels] + 0.5 * torch.randn(len(labels), size, generator=generator), labels


# --- a network ---------------------------------------------------------------------------------------------


class Network(nn.Module):
    """A stem, a stage to augment before, and a classifier."""

    before = "body"
    channels = 8

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.body = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.fc = nn.Linear(8, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.body(self.stem(images)).mean(dim=(2, 3)))
        return logits


def network(seed: int = 0) -> Network:
    torch.manual_seed(seed)
    return Network()


def hooks_of(model: nn.Module) -> list[str]:
    """Names of the hooks in force anywhere in the model."""
    kept = [(name, value) for module in model.modules() for name, value in vars(module).items()]
    return [name for name, value in kept if "hook" in name and isinstance(value, Mapping) and value]


# --- other class names -------------------------------------------------------------------------------------


@torch.no_grad()
def renamed_rows(module: Module) -> Module:
    """Every parameter with a row per class gets its rows in the order of the new names; changes the module."""
    for parameter in module.parameters():
        if parameter.dim() and len(parameter) == CLASSES:
            parameter.copy_(parameter[OLD_OF_NEW].clone())
    return module


@contextmanager
def draws_of_old_names() -> Iterator[None]:
    """Random pairs are drawn class after class, in the order of the names: let them be drawn as before."""

    def pairs(labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return same_class_pairs(OLD_OF_NEW[labels])

    users = [m for name, m in sys.modules.items() if name.startswith("safa.") and hasattr(m, "same_class_pairs")]
    with pytest.MonkeyPatch.context() as patch:
        for module in users:
            patch.setattr(module, "same_class_pairs", pairs)
        yield


# --- what is asked of everything ---------------------------------------------------------------------------


def entry(table: Mapping[str, Entry], kind: str, name: str, wanted: str) -> Entry:
    """What the table says of a name of the catalog; a name that is not there fails with what to add."""
    if name not in table:
        pytest.fail(f"{kind} {name!r} is in the catalog but not in this file; add {wanted}", pytrace=False)
    return table[name]


def assert_same(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> None:
    """Equal bit for bit."""
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


def tensors_of(module: nn.Module) -> dict[str, Tensor]:
    """Copies of all parameters and buffers, those too that the state leaves out."""
    return {name: tensor.detach().clone() for name, tensor in (*module.named_parameters(), *module.named_buffers())}


def one_hot(labels: Tensor) -> Tensor:
    return F.one_hot(labels, CLASSES).double()
