"""The terms of SAFA's loss (Eq. 4 to 7) as pure functions, computed in float32 or, given it, float64."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from safa.precision import lifted

EPSILON = 1e-5  # of Mao et al. (2019), in the denominator of a mode-seeking ratio

Reduction = Literal["mean", "sum"]


def cycle_delta(reconstructed: Tensor, delta: Tensor, reduction: Reduction = "mean") -> Tensor:
    """Distance between a delta and the same delta read back from what it generated.  [SAFA Eq. 4]

    Args:
        reconstructed, delta: shape (n, c, h, w).
        reduction: whether the norm runs over the mean or the sum of the squared elements.

    Returns:
        Scalar: the mean (or sum) over pairs of ``|reconstructed - delta|_2``.

    Reading:
        Eq. 4 sums over pairs and elements. A mean keeps the term's size when the batch or the feature map
        grows; summed over 32x16x16 elements, the same lambda would weigh 90 times more on every pair.
    """
    difference = (lifted(reconstructed) - lifted(delta)).flatten(1)
    # The norm's gradient at 0 is 0, unlike that of a square root; an identity start needs that.
    norms: Tensor = torch.linalg.vector_norm(difference, dim=1)
    return norms.mean() / difference.shape[1] ** 0.5 if reduction == "mean" else norms.sum()


def cycle_features(reconstructed: Tensor, target: Tensor, reduction: Reduction = "mean") -> Tensor:
    """Squared distance between a head feature and its reconstruction by the read-back delta.  [SAFA Eq. 5]

    Args:
        reconstructed, target: shape (n, c, h, w).
        reduction: mean or sum over pairs and elements.

    Returns:
        Scalar.
    """
    return F.mse_loss(lifted(reconstructed), lifted(target), reduction=reduction)


def contrastive(logits: Tensor, same: Tensor, balanced: bool = True) -> Tensor:
    """Binary cross-entropy of telling same-class pairs from others.  [SAFA Eq. 6]

    Args:
        logits: shape (n,), of the two features belonging to one class.
        same: shape (n,), bool.
        balanced: weigh the two kinds of pairs equally, whatever their numbers.

    Returns:
        Scalar.

    Reading:
        Random pairs over 100 classes are about 3 % positive, and Q learns to say "different". Eq. 6 as
        printed is ``balanced=False``.
    """
    logits = lifted(logits)
    losses = F.binary_cross_entropy_with_logits(logits, same.to(logits.dtype), reduction="none")
    if not balanced:
        return losses.mean()
    positives = same.sum().clamp(min=1)
    negatives = (~same).sum().clamp(min=1)
    return torch.where(same, losses / positives, losses / negatives).sum() / 2


def mode_seeking(input_a: Tensor, input_b: Tensor, output_a: Tensor, output_b: Tensor) -> Tensor:
    """Push two outputs apart in proportion to how far apart their inputs are.  [SAFA Eq. 7; Mao et al. 2019]

    Args:
        input_a, input_b, output_a, output_b: features, shape (n, c, h, w).

    Returns:
        Scalar: the mean over pairs of ``|input_a - input_b|_1 / |output_a - output_b|_1``.

    Reading:
        The text maximises output distance relative to input distance; Eq. 7 is a loss, so the inverse ratio
        is minimised. Norms are means over (c, h, w), so the term does not grow with the feature map.

    Raises:
        ValueError: if n is 0, for then the mean is undefined.
    """
    inputs, outputs = _distances(input_a, input_b), _distances(output_a, output_b)
    return (inputs / (outputs + EPSILON)).mean()


def mode_seeking_over_batch(input_a: Tensor, input_b: Tensor, output_a: Tensor, output_b: Tensor) -> Tensor:
    """As ``mode_seeking``, but one ratio of two means over the batch, as Mao et al. released it.

    Args:
        input_a, input_b, output_a, output_b: features, shape (n, c, h, w).

    Returns:
        Scalar: ``1 / (mean |output_a - output_b| / mean |input_a - input_b| + 1e-5)``.

    Raises:
        ValueError: if n is 0, for then the means are undefined.
    """
    inputs, outputs = _distances(input_a, input_b).mean(), _distances(output_a, output_b).mean()
    return inputs / (outputs + EPSILON * inputs).clamp(min=torch.finfo(inputs.dtype).tiny)


def _distances(a: Tensor, b: Tensor) -> Tensor:
    """Mean absolute difference per row, shape (n,)."""
    if len(a) == 0:
        raise ValueError("mode seeking needs at least one pair; with none, leave the term out")
    return (lifted(a) - lifted(b)).abs().mean(dim=tuple(range(1, a.dim())))
