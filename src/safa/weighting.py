"""Class weights from class counts: ``criterion.weight = effective_number_weights(class_counts)``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from safa.errors import UserError

ClassCounts = Sequence[int] | NDArray[Any] | Tensor
"""Training images per class, by class id: shape (k,), integers, all positive."""


def counts_tensor(class_counts: ClassCounts) -> Tensor:
    """A checked copy of the class counts, shape (k,), int64.

    Raises:
        UserError: if they are not one positive integer per class.
    """
    given = class_counts.detach().clone() if isinstance(class_counts, Tensor) else np.array(class_counts)
    counts = torch.as_tensor(given)
    if counts.ndim != 1 or counts.numel() == 0:
        raise UserError(f"class_counts needs one integer per class, got shape {tuple(counts.shape)}")
    if counts.dtype == torch.bool or counts.is_floating_point() or counts.is_complex():
        raise UserError(f"class_counts must be integers, got {counts.dtype}; pass numbers of images, not shares")
    empty = torch.nonzero(counts < 1).flatten().tolist()
    if empty:
        raise UserError(
            f"class_counts must be positive, got {int(counts[empty[0]])} for class {empty[0]}; "
            "leave out classes without training images"
        )
    return counts.to(torch.int64)


def uniform_weights(class_counts: ClassCounts) -> Tensor:
    """Weight 1 for every class, shape (k,), float32: the mean over images, as without weights."""
    return torch.ones_like(counts_tensor(class_counts), dtype=torch.float32)


def inverse_frequency_weights(class_counts: ClassCounts, power: float = 1.0) -> Tensor:
    """Weights in proportion to ``n_c ** -power``, with mean 1.  [Huang et al. 2016; Mikolov et al. 2013]

    Args:
        class_counts: shape (k,).
        power: 0 is uniform, 0.5 the square root, 1 gives every class the same say.

    Returns:
        Shape (k,), float32, sum k.

    Raises:
        UserError: if ``power`` is negative.

    ``effective_number_weights`` lies between uniform (beta 0) and power 1 (beta towards 1).
    """
    if not power >= 0:
        raise UserError(f"power must be at least 0, got {power}; negative powers would favour large classes")
    return _with_mean_one(counts_tensor(class_counts).double() ** -power)


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
