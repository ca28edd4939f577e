"""The losses written out from their definitions: loops, plain floats, nothing shared with safa.

Logits and cosines are lists of lists (n, k), labels lists of n, soft labels lists of lists (n, k), counts and
weights lists of k.
"""

from __future__ import annotations

from collections.abc import Callable
from math import exp, log


def softmax(row: list[float]) -> list[float]:
    total = sum(exp(value) for value in row)
    return [exp(value) / total for value in row]


def weighted_mean(losses: list[float], weights: list[float]) -> float:
    """As torch: divided by the sum of the weights, not by the number of images."""
    return sum(w * loss for w, loss in zip(weights, losses, strict=True)) / sum(weights)


def cross_entropy(logits: list[list[float]], labels: list[int], weight: list[float]) -> float:
    losses = []
    for row, y in zip(logits, labels, strict=True):
        losses.append(-log(softmax(row)[y]))
    return weighted_mean(losses, [weight[y] for y in labels])


def focal(logits: list[list[float]], labels: list[int], gamma: float, weight: list[float]) -> float:
    """Lin et al. 2017, Eq. 5, with the softmax in place of the sigmoid; mean over images."""
    total = 0.0
    for row, y in zip(logits, labels, strict=True):
        p = softmax(row)[y]
        total += -weight[y] * (1 - p) ** gamma * log(p)
    return total / len(labels)


def ldam_from_cosines(
    cosines: list[list[float]],
    labels: list[int],
    counts: list[int],
    max_margin: float,
    scale: float,
    weight: list[float],
) -> float:
    """Cao et al. 2019 as released: margins off the cosines, then the scale, then cross-entropy."""
    unscaled = [1 / count**0.25 for count in counts]
    margins = [value * max_margin / max(unscaled) for value in unscaled]
    logits = []
    for row, y in zip(cosines, labels, strict=True):
        logits.append([scale * (c - margins[j] if j == y else c) for j, c in enumerate(row)])
    return cross_entropy(logits, labels, weight)


def balanced_softmax(logits: list[list[float]], labels: list[int], counts: list[int], weight: list[float]) -> float:
    """Ren et al. 2020: p_y = n_y exp(z_y) / sum_j n_j exp(z_j)."""
    losses = []
    for row, y in zip(logits, labels, strict=True):
        total = sum(n * exp(value) for n, value in zip(counts, row, strict=True))
        losses.append(-log(counts[y] * exp(row[y]) / total))
    return weighted_mean(losses, [weight[y] for y in labels])


def logit_adjustment(
    logits: list[list[float]], labels: list[int], counts: list[int], tau: float, weight: list[float]
) -> float:
    """Menon et al. 2021 in pairwise form: log(1 + sum_{j != y} (pi_j / pi_y)^tau exp(z_j - z_y))."""
    losses = []
    for row, y in zip(logits, labels, strict=True):
        others = [(counts[j] / counts[y]) ** tau * exp(value - row[y]) for j, value in enumerate(row) if j != y]
        losses.append(log(1 + sum(others)))
    return weighted_mean(losses, [weight[y] for y in labels])


def soft_rows(loss_if: Callable[[int, int], float], labels: list[list[float]], weight: list[float]) -> list[float]:
    """One loss per row; ``loss_if(i, c)`` is the unweighted loss of row i had its label been class c."""
    rows = []
    for i, shares in enumerate(labels):
        total = 0.0
        for c, share in enumerate(shares):
            total += share * weight[c] * loss_if(i, c)
        rows.append(total)
    return rows


def soft_mean(rows: list[float], labels: list[list[float]], weight: list[float]) -> float:
    """Divided by the weight that the soft labels have together."""
    total = 0.0
    for shares in labels:
        for c, share in enumerate(shares):
            total += share * weight[c]
    return sum(rows) / total
