"""Class weights from class counts: ``criterion.weight = effective_number_weights(class_counts)``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from safa.errors import UserError

ClassCounts = Sequence[int] | NDArray[Any] | Tensor
"""Training images per class, by class id: shape (k,), whole numbers."""


def checked_counts(class_counts: ClassCounts, *, least: int = 1) -> list[int]:
    """Class counts as plain integers, by class id.

    Args:
        class_counts: shape (k,); floats are taken where they are whole numbers.
        least: 1, or 0 where a class without training images does no harm.

    Raises:
        UserError: if they are not one whole number per class, each at least ``least``.
    """
    counts = _array(class_counts)
    if counts.ndim != 1 or counts.size == 0:
        raise UserError(f"class_counts needs one whole number per class, got shape {counts.shape}")
    if counts.dtype.kind not in "iuf":
        raise UserError(f"class_counts must be whole numbers, got {counts.dtype}; pass numbers of images")
    for class_id, count in enumerate(counts.tolist()):
        if not float(count).is_integer():
            raise UserError(
                f"class_counts must be whole numbers, got {count} for class {class_id}; "
                "pass numbers of images, not shares"
            )
        if count < least:
            way_out = "pass numbers of images" if count else "leave out classes without training images"
            raise UserError(f"class_counts must be at least {least}, got {count} for class {class_id}; {way_out}")
    return [int(count) for count in counts.tolist()]


def counts_tensor(class_counts: ClassCounts) -> Tensor:
    """A checked copy of the class counts, shape (k,), int64, where they are.

    Raises:
        UserError: if they are not one whole number per class, each at least 1.
    """
    device = class_counts.device if isinstance(class_counts, Tensor) else None
    return torch.tensor(checked_counts(class_counts), dtype=torch.int64, device=device)


def inverse_frequency_weights(class_counts: ClassCounts, power: float = 1.0) -> Tensor:
    """Weights in proportion to ``n_c ** -power``, with mean 1.  [Huang et al. 2016; Mikolov et al. 2013]

    Args:
        class_counts: shape (k,).
        power: 0 is uniform, 0.5 the square root, 1 gives every class the same say.

    Returns:
        Shape (k,), float32, sum k.

    Raises:
        UserError: if ``power`` is negative, or so large that no weight is left of a count.

    ``effective_number_weights`` lies between uniform (beta 0) and power 1 (beta towards 1).
    """
    if not power >= 0:
        raise UserError(f"power must be at least 0, got {power}; negative powers would favour large classes")
    counts = counts_tensor(class_counts)
    weights = counts.cpu().double() ** -power  # not every device has float64
    if not weights.any():
        raise UserError(f"power {power} is too large: n ** -power is 0 for every class; 1 gives all the same say")
    return _with_mean_one(weights).to(counts.device)


def effective_number_weights(class_counts: ClassCounts, beta: float = 0.9999) -> Tensor:
    """Weights in proportion to ``(1 - beta) / (1 - beta ** n_c)``, with mean 1.  [Cui et al. 2019, section 4]

    Args:
        class_counts: shape (k,).
        beta: in [0, 1). Classes much larger than ``1 / (1 - beta)`` are weighted alike. LDAM-DRW uses 0.9999.

    Returns:
        Shape (k,), float32, sum k.

    Raises:
        UserError: if ``beta`` is outside [0, 1).

    ``inverse_frequency_weights`` is the limit of beta towards 1; ``sampling.EffectiveNumber`` draws images
    with the same numbers instead of weighting their loss.
    """
    counts = counts_tensor(class_counts)
    effective = torch.from_numpy(effective_numbers(counts.numpy(force=True), beta))
    return _with_mean_one(1 / effective).to(counts.device)


def effective_numbers(class_counts: NDArray[Any], beta: float) -> NDArray[np.float64]:
    """What n_c images amount to: ``(1 - beta ** n_c) / (1 - beta)`` different ones.  [Cui et al. 2019]

    Returns:
        Shape (k,), float64, from 1 (beta 0) to n_c (beta towards 1).

    Raises:
        UserError: if ``beta`` is outside [0, 1).
    """
    if not 0 <= beta < 1:
        raise UserError(f"beta must be at least 0 and below 1, got {beta}; 0.9999 is usual")
    effective: NDArray[np.float64] = (1 - beta ** class_counts.astype(np.float64)) / (1 - beta)
    return effective


def _with_mean_one(weights: Tensor) -> Tensor:
    return (weights / weights.mean()).float()


def _array(class_counts: Any) -> NDArray[Any]:
    if isinstance(class_counts, Mapping):
        raise UserError(
            f"class_counts is a {type(class_counts).__name__}, whose order need not be that of the class ids; "
            "pass a list by class id"
        )
    try:
        return np.array(class_counts.tolist() if isinstance(class_counts, Tensor) else class_counts)
    except (TypeError, ValueError) as error:  # rows of unequal lengths, a list of tensors on a GPU
        raise UserError(f"class_counts needs one whole number per class, got no array of numbers: {error}") from error
