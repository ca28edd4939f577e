"""Features of rows real, generated and unseen; those of a few head and tail classes are what Fig. 1 draws."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from safa import assembly, evaluate
from safa.classes import (
    GENERATED,
    REAL,
    SHOWN_HEADS,
    SHOWN_PER_CLASS,
    SHOWN_TAILS,
    TEST,
    by_count,
    head_classes,
)
from safa.learner import Learner
from safa.plugin import PlugIn
from safa.types import Augmented, mixes


@dataclass(frozen=True)
class Rows:
    """Rows that went through a network in evaluation mode.

    Attributes:
        labels, predictions: their classes, and those the network assigns, shape (n,).
        layer: what enters the augmented layer, (n, c): its mean over positions, where it has any.
        classifier: what enters the classifier, (n, d).
    """

    labels: Tensor
    predictions: Tensor
    layer: Tensor
    classifier: Tensor

    def take(self, index: Tensor | slice) -> Rows:
        return Rows(*(values[index] for values in vars(self).values()))

    @staticmethod
    def joined(parts: Sequence[Rows]) -> Rows:
        return Rows(*(torch.cat(values) for values in zip(*(vars(part).values() for part in parts), strict=True)))


class _Entering:
    """Keeps what enters a layer, with what another augmenter adds to it while it is active."""

    active, learns_while_idle = True, False

    def __init__(self, augmenter: Any) -> None:
        self.augmenter = augmenter

    def __call__(self, features: Tensor, labels: Tensor) -> Augmented:
        augmented = Augmented(features, labels, features.new_zeros(()))
        if self.augmenter is not None and self.augmenter.active:
            augmented = self.augmenter(features, labels)
        rows = augmented.features.float()
        positions = {3: (1,), 4: (2, 3)}.get(rows.dim())  # of tokens, of maps
        self.rows = rows if positions is None else rows.mean(positions)
        return augmented


@torch.no_grad()
def look(learner: Learner, images: Tensor, labels: Tensor, augmenter: Any = None) -> Rows:
    """Rows of images, in order, and after them those that the augmenter makes of them; before the layer of the stage.

    The network is left in evaluation mode and unchanged. The augmenter is left in training mode, and some learn while
    they look: let it be a copy.
    """
    entering = _Entering(augmenter)
    plug = PlugIn(learner.model, learner.plug_before, entering).eval()
    plug.training = True  # of this and the augmenter alone: rows are made, while no batch norm moves
    if augmenter is not None:
        augmenter.eval().training = True
    with assembly.head_inputs(learner.model) as seen:
        output = plug(images, labels)
    assert output.labels is not None
    entered = seen[-1].float()  # of this pass: before it the plug-in has looked at the layer
    # Where the layer is the classifier itself, its input is seen before rows are added to it.
    classifier = entered if len(entered) == len(output.labels) else entering.rows
    return Rows(output.labels, output.logits.argmax(dim=1), entering.rows, classifier)


def generated_rows(learner: Learner, batches: Iterable[tuple[Tensor, Tensor]], augmenter: Any) -> Rows:
    """Of batches of images and labels, the rows alone that the augmenter makes."""
    return Rows.joined([look(learner, *batch, augmenter).take(slice(len(batch[1]), None)) for batch in batches])


def features(learner: Learner) -> dict[str, NDArray[Any]]:
    """What enters the classifier for images of the three largest head and the two rarest tail classes.

    Returns:
        ``features`` (n, d) float32, ``labels`` (n,), ``kind`` (n,) uint8 (0 real training, 1 generated, 2 test) and
        ``is_head`` (n,) bool. Without an augmenter there is no row of kind 1.
    """
    head, tail = chosen_classes(learner.data.class_counts, learner.data.spec.head_ratio)
    rng = np.random.default_rng(0)
    parts = []
    for kind, split in ((REAL, learner.data.train), (TEST, learner.data.source.test)):
        rows = np.concatenate([_some(rng, split.labels, c) for c in head + tail])
        if not len(rows):  # a test set of one's own may lack these classes
            continue
        images, labels = learner.parts.images_of(split, rows)
        size = learner.parts.evaluation_batch
        batches = zip(torch.split(images, size), torch.split(labels, size), strict=True)
        parts.append((*evaluate.features(learner.model, batches), kind))
        if kind == REAL and learner.augmenter is not None and not mixes(learner.augmenter):
            parts.append((*_generated(learner, images, labels), GENERATED))
    class_ids = np.concatenate([labels.cpu().numpy() for _, labels, _ in parts])
    return {
        "features": np.concatenate([rows.float().cpu().numpy() for rows, _, _ in parts]),
        "labels": class_ids,
        "kind": np.concatenate([np.full(len(labels), kind, dtype=np.uint8) for _, labels, kind in parts]),
        "is_head": np.isin(class_ids, head),
    }


def chosen_classes(class_counts: list[int], head_ratio: float) -> tuple[list[int], list[int]]:
    """Ids of the largest head classes and of the rarest tail classes."""
    is_head = head_classes(class_counts, head_ratio)
    head = [c for c in by_count(class_counts) if is_head[c]]
    tail = [c for c in by_count(class_counts) if not is_head[c]]
    return head[:SHOWN_HEADS], tail[-SHOWN_TAILS:]


def _some(rng: np.random.Generator, labels: NDArray[np.int64], chosen: int) -> NDArray[np.int64]:
    rows = np.flatnonzero(labels == chosen)
    return np.sort(rng.permutation(rows)[:SHOWN_PER_CLASS])


@torch.no_grad()
def _generated(learner: Learner, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Rows the augmenter makes of these images, at most ``SHOWN_PER_CLASS`` of one class."""
    torch.manual_seed(0)
    augmenter, every = copy.deepcopy(learner.augmenter), math.ceil(len(images) / learner.parts.evaluation_batch)
    # The images lie class by class; so taken, each batch has some of all.
    batches = [(images[first::every], labels[first::every]) for first in range(every)]
    made = generated_rows(learner, batches, augmenter)
    chosen = [(made.labels == c).nonzero().squeeze(1)[:SHOWN_PER_CLASS] for c in torch.unique(made.labels)]
    keep = torch.cat(chosen) if chosen else made.labels
    return made.classifier[keep], made.labels[keep]
