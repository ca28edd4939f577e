"""Images per class: those that a profile gives a long tail, and those that labels have."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from safa.data.types import IntArray
from safa.errors import UserError


def exponential_counts(largest: int, num_classes: int, imbalance_factor: float) -> IntArray:
    """Image counts that fall exponentially from first to last class.  [Cui et al. 2019; LDAM-DRW's code]

    Args:
        largest: images of the first class.
        num_classes: C, the number of classes.
        imbalance_factor: largest over smallest class, at least 1.

    Returns:
        Counts, shape (C,), int64: ``int(largest * imbalance_factor ** (-c / (C - 1)))``, truncated as the
        released code does.

    Reading:
        Computed as a division by ``imbalance_factor ** (c / (C - 1))``. It is the same number, except that
        the last class is exactly ``int(largest / imbalance_factor)`` where the negative power would round 49
        / 49 down to 0.

    Raises:
        UserError: if the factor is below 1, or leaves the last class without an image.
    """
    _check_profile(largest, num_classes, imbalance_factor)
    exponents = np.arange(num_classes) / max(num_classes - 1, 1)
    counts = (largest / np.power(float(imbalance_factor), exponents)).astype(np.int64)
    return _without_empty_class(counts, largest, imbalance_factor)


def step_counts(largest: int, num_classes: int, imbalance_factor: float) -> IntArray:
    """Image counts of two heights: half of the classes is large, the rest small.  [Buda et al. 2018]

    Args:
        largest: images of each class of the first half.
        num_classes: C, the number of classes.
        imbalance_factor: largest over smallest class, at least 1.

    Returns:
        Counts, shape (C,), int64: ``largest`` for the first ``C // 2`` classes, ``int(largest /
        imbalance_factor)`` for the rest.

    Reading:
        With an odd C the released LDAM-DRW code forgets the last class; here the middle class is a small one.

    Raises:
        UserError: if the factor is below 1, or leaves the small classes without an image.
    """
    _check_profile(largest, num_classes, imbalance_factor)
    counts = np.full(num_classes, largest, dtype=np.int64)
    counts[num_classes // 2 :] = int(largest / imbalance_factor)
    return _without_empty_class(counts, largest, imbalance_factor)


def count_labels(labels: NDArray[Any], num_classes: int) -> IntArray:
    """Images of each class, shape (num_classes,), int64.

    Raises:
        UserError: if a label lies outside ``[0, num_classes)``.
    """
    labels = np.asarray(labels)
    wrong = labels[(labels < 0) | (labels >= num_classes)]
    if wrong.size:
        raise UserError(
            f"label {int(wrong[0])} is out of range: {num_classes} classes have labels 0 to "
            f"{num_classes - 1} ({wrong.size} of {labels.size} labels are outside)"
        )
    return np.bincount(labels, minlength=num_classes).astype(np.int64)


def _check_profile(largest: int, num_classes: int, imbalance_factor: float) -> None:
    if num_classes < 1:
        raise UserError(f"num_classes must be at least 1, got {num_classes}")
    if not 1 <= largest < 2**53:  # above, floats leave numbers out
        raise UserError(
            f"largest is the number of images of the most frequent class, at least 1 and below 2**53, got {largest}"
        )
    if not (1 <= imbalance_factor < float("inf")):
        hint = f"; did you mean {1 / imbalance_factor:g}?" if 0 < imbalance_factor < 1 else ""
        raise UserError(f"imbalance_factor is largest over smallest class, so at least 1, got {imbalance_factor}{hint}")


def _without_empty_class(counts: IntArray, largest: int, imbalance_factor: float) -> IntArray:
    if counts[-1] < 1:
        raise UserError(
            f"imbalance_factor {imbalance_factor:g} leaves the rarest class without an image when the "
            f"largest has {largest}; use at most {largest}"
        )
    return counts
