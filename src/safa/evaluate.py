"""What a network gets right: overall, by many/medium/few, by class, and how far its confidence can be trusted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from safa import assembly
from safa.data.batches import Batches

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Predictions:
    """One row per image: true class, predicted class, and the softmax probability of the prediction."""

    labels: Ints
    predictions: Ints
    confidence: NDArray[np.float32]

    @property
    def correct(self) -> NDArray[np.bool_]:
        return np.asarray(self.labels == self.predictions)


@torch.no_grad()
def predict(model: nn.Module, batches: Batches) -> Predictions:
    """Run the bare network over a split, in evaluation mode and in the precision of its weights."""
    training = model.training
    model.eval()
    labels, predictions, confidence = [], [], []
    for images, truth in batches.epoch(0):
        best = model(images).float().softmax(dim=1).max(dim=1)
        labels.append(truth)
        predictions.append(best.indices)
        confidence.append(best.values)
    model.train(training)
    return Predictions(*(torch.cat(rows).cpu().numpy() for rows in (labels, predictions, confidence)))


@torch.no_grad()
def features(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """What enters the classifier for all images of batches, in evaluation mode: (n, d) float32, and labels (n,)."""
    training = model.training
    model.eval()
    truth = []
    with assembly.head_inputs(model) as seen:
        for images, labels in batches:
            model(images)
            truth.append(labels)
    model.train(training)
    return torch.cat(seen).float(), torch.cat(truth)


def percent(share: float) -> float:
    """A share as per cent, to four places: what ten thousand images resolve."""
    return round(100 * float(share), 4)


def error(predicted: Predictions) -> float:
    """Top-1 error over all images, in per cent."""
    return percent(1 - predicted.correct.mean())


def error_per_class(predicted: Predictions, num_classes: int) -> Floats:
    """Top-1 error of each class, in per cent, shape (num_classes,); NaN for a class without images."""
    images = np.bincount(predicted.labels, minlength=num_classes).astype(float)
    right = np.bincount(predicted.labels[predicted.correct], minlength=num_classes)
    return np.asarray(100 * (1 - right / np.where(images == 0, np.nan, images)))


def error_per_group(predicted: Predictions, groups: Mapping[str, NDArray[np.bool_]]) -> dict[str, float | None]:
    """Top-1 error over the images of each group of classes, in per cent; None for a group without images.

    The groups are those of OLTR. Its figure is the mean over a group's classes, which is the same where they have
    equally many test images, as in the data sets known by name.
    """
    errors: dict[str, float | None] = {}
    for name, classes in groups.items():
        chosen = classes[predicted.labels]
        errors[name] = percent(1 - predicted.correct[chosen].mean()) if chosen.any() else None
    return errors


def expected_calibration_error(predicted: Predictions, bins: int = 15) -> float:
    """Mean gap between confidence and accuracy over equal-width bins, in per cent.  [Guo et al. 2017, Eq. 3]

    Bins are half-open to the left, (0, 1/15], …, as in the paper.
    """
    bin_of = np.clip(np.ceil(predicted.confidence.astype(float) * bins).astype(int) - 1, 0, bins - 1)
    surplus = np.bincount(bin_of, weights=predicted.correct - predicted.confidence.astype(float), minlength=bins)
    return percent(np.abs(surplus).sum() / len(bin_of))


def summary(predicted: Predictions, groups: Mapping[str, NDArray[np.bool_]]) -> dict[str, float | None]:
    """The figures logged after an epoch: ``error, error_many, error_medium, error_few``, in per cent."""
    by_group = error_per_group(predicted, groups)
    return {"error": error(predicted), **{f"error_{name}": value for name, value in by_group.items()}}
