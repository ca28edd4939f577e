"""What the rare classes are mistaken for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from safa.report.comparison import Comparison
from safa.report.runs import FloatArray, IntArray, Run

MOST_ROWS = 20


@dataclass(frozen=True)
class Mistakes:
    """Where the test images of some classes go, over all seeds of a method.

    Attributes:
        classes: class ids of the rows, shape (r,).
        share: per cent of a row's test images predicted as each class, shape (r, k); NaN without test images.
    """

    classes: IntArray
    share: FloatArray

    def most_common(self, row: int, limit: int = 3) -> list[tuple[int, float]]:
        """The classes that row is most often mistaken for, with their share in per cent; ties by class id."""
        wrong = np.nan_to_num(self.share[row])
        wrong[self.classes[row]] = 0
        ids = np.argsort(-wrong, kind="stable")[:limit]
        return [(int(class_id), float(wrong[class_id])) for class_id in ids if wrong[class_id] > 0]


def rare_classes(comparison: Comparison) -> IntArray:
    """The rarest classes of the rarest group, at most 20, by decreasing number of training images."""
    rare = set(comparison.groups[comparison.rare_group].tolist())
    ordered = [class_id for class_id in comparison.order.tolist() if class_id in rare]
    return np.array(ordered[-MOST_ROWS:], dtype=np.int64)


def mistakes(runs: Sequence[Run], classes: IntArray, num_classes: int) -> Mistakes | None:
    """Count predictions for the test images of ``classes``; None when no run has predictions."""
    stored = [run.predictions for run in runs if run.predictions is not None]
    if not stored:
        return None
    # Only the rows asked for: with thousands of classes the whole matrix would not fit.
    row_of = np.full(num_classes, -1)
    row_of[classes] = np.arange(len(classes))
    counts = np.zeros((len(classes), num_classes))
    for predictions in stored:
        rows = row_of[predictions.labels]
        np.add.at(counts, (rows[rows >= 0], predictions.predictions[rows >= 0]), 1)
    totals = counts.sum(axis=1, keepdims=True)
    share = np.divide(100 * counts, totals, out=np.full_like(counts, np.nan), where=totals > 0)
    return Mistakes(classes, share)


def destinations(comparison: Comparison, method: str) -> dict[str, float] | None:
    """Where the test images of the rarest group go, in per cent of them.

    Returns:
        ``right``, then the group of the class they are mistaken for; None when no run has predictions or no
        test image belongs to the group.
    """
    stored = [run.predictions for run in comparison.runs_of(method) if run.predictions is not None]
    rare = comparison.groups[comparison.rare_group]
    group_of = np.array(comparison.group_of)
    total, counts = 0, dict.fromkeys(("right", *reversed(comparison.groups)), 0)
    for predictions in stored:
        chosen = np.isin(predictions.labels, rare)
        labels, predicted = predictions.labels[chosen], predictions.predictions[chosen]
        total += len(labels)
        counts["right"] += int((labels == predicted).sum())
        for group in comparison.groups:
            counts[group] += int(((labels != predicted) & (group_of[predicted] == group)).sum())
    return {name: 100 * count / total for name, count in counts.items()} if total else None
