"""Classes from frequent to rare, and which are head. Plain Python: the torch core and the torch-free data side ask."""

from __future__ import annotations

from collections.abc import Sequence

from safa.errors import UserError

HEAD_RATIO = 0.2  # beta, the paper's
SHOWN_HEADS, SHOWN_TAILS = 3, 2  # classes of Fig. 1
REAL, GENERATED, TEST = 0, 1, 2  # its kinds of points, as a run stores them: of training images, made, of test images
SHOWN_PER_CLASS = 100  # points of each and of each kind: 1,500 at most, some seconds of t-SNE


def by_count(class_counts: Sequence[int]) -> list[int]:
    """Class ids by decreasing count; of equal counts the lower id first."""
    return sorted(range(len(class_counts)), key=lambda c: -class_counts[c])


def head_classes(class_counts: Sequence[int], head_ratio: float = HEAD_RATIO) -> list[bool]:
    """Mask over classes: the top ``int(k * head_ratio)`` of k by count, at least one.  [SAFA section 4.1]

    Args:
        class_counts: training images per class, in any order.
        head_ratio: beta, in (0, 1).

    Reading:
        RSG's code takes the first classes for CIFAR and repeats an arg-max for the large sets. Both are the
        top by count, with ties to the lower index.

    Raises:
        UserError: if there are fewer than two classes, or ``head_ratio`` is outside (0, 1).
    """
    if not 0 < head_ratio < 1:
        raise UserError(f"head_ratio is the share of classes that are head, in (0, 1), got {head_ratio}")
    if len(class_counts) < 2:
        raise UserError(f"head and tail need at least two classes, got class_counts of {len(class_counts)}")
    head = set(by_count(class_counts)[: max(1, int(round(len(class_counts) * head_ratio, 6)))])
    return [c in head for c in range(len(class_counts))]
