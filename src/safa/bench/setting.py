"""What is timed on what: images in the number and size of CIFAR-100-LT, one network, one machine."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import nn

from safa import recipe as recipes
from safa.catalog import build
from safa.data.cifar import MEAN, STD
from safa.data.counts import exponential_counts
from safa.data.dataset import LongTailed
from safa.data.subset import Subset
from safa.data.types import IntArray, Source, Split
from safa.errors import UserError, closest
from safa.heads import CosineHead

COUNTS = exponential_counts(500, 100, imbalance_factor=100.0)
META_PER_CLASS = 10
IMAGE_SIZE = 32
LEARNING_RATE = 1e-3  # of the stage with SAFA; timings do not depend on it as long as nothing diverges
MOMENTUM, WEIGHT_DECAY = 0.9, 2e-4
PRECISIONS = ("float32", "bf16")


@dataclass(frozen=True)
class Setting:
    """What all variants have in common.

    Attributes:
        model: backbone, as in ``safa list backbone``.
        batch_size: images per step, even since SAFA's batches are pairs.
        precision: float32 or bf16.

    Raises:
        UserError: if a value is not one of these.
    """

    model: str = "resnet32"
    batch_size: int = 128
    precision: str = "bf16"

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            hint = closest(self.precision, PRECISIONS)
            raise UserError(f"precision must be float32 or bf16, got {self.precision!r}{hint}")
        if self.batch_size < 2 or self.batch_size % 2:
            raise UserError(f"batch_size must be even, for SAFA's batches are pairs, got {self.batch_size}")

    @property
    def device(self) -> torch.device:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def network(setting: Setting) -> Any:
    """The network with LDAM's cosine classifier on the setting's device, the same weights at every call."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: nn.Module = build("backbone", setting.model, {}, num_classes=len(COUNTS), head=CosineHead)
    return model.to(setting.device)


def images() -> Split:
    """Noise with the labels of CIFAR-100-LT at imbalance factor 100: 10,847 images of 32 x 32 pixels."""
    return _noise(np.repeat(np.arange(len(COUNTS)), COUNTS))


@cache
def _tail_and_meta() -> Split:
    """The images of a long tail, then those of a meta set, class after class."""
    classes = np.arange(len(COUNTS))
    return _noise(np.concatenate([np.repeat(classes, COUNTS), np.repeat(classes, META_PER_CLASS)]))


def _noise(labels: IntArray) -> Split:
    shape = (len(labels), 3, IMAGE_SIZE, IMAGE_SIZE)
    return Split(labels, np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8))


def long_tailed(spec: recipes.Data) -> LongTailed:
    """The same noise whatever the recipe draws, with a meta set beside it, in the place of CIFAR-100-LT."""
    split = _tail_and_meta()
    tail, everything = int(COUNTS.sum()), np.arange(len(split))
    subset = Subset.of(everything[:tail], (), COUNTS, meta=everything[tail:])
    names = tuple(f"class {index}" for index in range(len(COUNTS)))
    source = Source(
        "noise", names, IMAGE_SIZE, split, split.take(everything[:0]), None, MEAN, STD, "crop_flip", (), "noise"
    )
    return LongTailed(source, subset, spec)


def cores() -> int:
    """Processor cores this process may use."""
    usable = getattr(os, "sched_getaffinity", None)
    return len(usable(0)) if usable else os.cpu_count() or 1
