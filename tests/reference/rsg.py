"""RSG written out: loops over rows, centres, positions and channels, plain floats, nothing shared with safa.

Only convolutions and the linear layer are torch's. ``weights`` is the state dict of an ``RSG``; maps are
tensors (n, c, h, w) in float64.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, log, sqrt

import torch
import torch.nn.functional as F
from torch import Tensor

Weights = dict[str, Tensor]
Pairs = list[tuple[int, int]]


def softmax(values: list[float]) -> list[float]:
    largest = max(values)
    total = sum(exp(value - largest) for value in values)
    return [exp(value - largest) / total for value in values]


def cross_entropy(logits: Tensor, target: int) -> float:
    return -log(softmax(logits.tolist())[target])


def convolution(weights: Weights, name: str, one: Tensor) -> Tensor:
    kernel = weights[f"{name}.weight"]
    return F.conv2d(one[None], kernel, weights[f"{name}.bias"], padding=kernel.shape[-1] // 2)[0]


def same_class_logits(weights: Weights, first: Tensor, second: Tensor) -> Tensor:
    """Q of one pair: 1x1 convolution, ReLU, convolution, mean over positions, linear layer."""
    hidden = convolution(weights, "pair_classifier.first", torch.cat([first, second]))
    hidden = convolution(weights, "pair_classifier.second", hidden * (hidden > 0))
    pooled = torch.stack([channel.sum() / channel.numel() for channel in hidden])
    return weights["pair_classifier.fc.weight"] @ pooled + weights["pair_classifier.fc.bias"]


def assignment(weights: Weights, one: Tensor, y: int) -> list[float]:
    """gamma: softmax over the class's centres of a linear function of the pooled map."""
    matrix, bias = weights["assignment_weight"][y], weights["assignment_bias"][y]
    scores = []
    for k in range(matrix.shape[1]):
        score = float(bias[k])
        for c in range(matrix.shape[0]):
            score += float(one[c].sum() / one[c].numel() * matrix[c, k])
        scores.append(score)
    return softmax(scores)


def center_estimation(weights: Weights, maps: Tensor, labels: list[int], pairs: Pairs) -> float:
    """L_cesc; without pairs (the generating phase) only its first half."""
    total = 0.0
    for one, y in zip(maps, labels, strict=True):
        for k, gamma in enumerate(assignment(weights, one, y)):
            distance = 0.0
            for c in range(one.shape[0]):
                for value in one[c].flatten().tolist():
                    distance += (value - float(weights["centers"][y, k, c])) ** 2
            total += gamma * distance
    total /= len(labels)
    losses = []
    for i, j in pairs:
        losses.append(cross_entropy(same_class_logits(weights, maps[i], maps[j]), int(labels[i] == labels[j])))
    return total + (sum(losses) / len(losses) if losses else 0.0)


def segments(heads: list[int], tails: list[int], strength: float) -> list[Pairs]:
    """Which rows meet, segment by segment, as the released loop cuts them at a strength of at most 1."""
    many, few = (heads, tails) if len(heads) >= len(tails) else (tails, heads)
    cut = []
    for j in range(max(1, int(len(many) * strength / len(few)))):
        chunk = many[j * len(few) : (j + 1) * len(few)]
        cut.append(list(zip(chunk, few, strict=True)))
    return cut if len(heads) >= len(tails) else [[(h, t) for t, h in segment] for segment in cut]


@dataclass(frozen=True)
class Active:
    """The generating phase on one batch."""

    weights: Weights
    maps: Tensor
    labels: list[int]
    head_classes: set[int]
    strength: float = 1.0

    def met(self) -> list[Pairs]:
        heads = [row for row, y in enumerate(self.labels) if y in self.head_classes]
        tails = [row for row, y in enumerate(self.labels) if y not in self.head_classes]
        return segments(heads, tails, self.strength)

    def deviation(self, row: int) -> Tensor:
        """The row without the centre it belongs to most."""
        gamma = assignment(self.weights, self.maps[row], self.labels[row])
        center = self.weights["centers"][self.labels[row], gamma.index(max(gamma))]
        return torch.stack([channel - value for channel, value in zip(self.maps[row], center, strict=True)])

    def moved(self, head: int) -> Tensor:
        return convolution(self.weights, "transformation", self.deviation(head))

    def generated(self) -> tuple[Tensor, list[int]]:
        pairs = [pair for segment in self.met() for pair in segment]
        rows = torch.stack([self.maps[tail] + self.moved(head) for head, tail in pairs])
        return rows, [self.labels[tail] for _, tail in pairs]

    def maximized_vector(self, released: bool = False) -> float:
        """L_mv, the mean over segments of each segment's mean over pairs."""
        means = []
        for segment in self.met():
            total = 0.0
            for head, tail in segment:
                moved = self.moved(head)
                total += cross_entropy(same_class_logits(self.weights, self.maps[head], moved), 0)
                total += vector_terms(self.deviation(head), moved, self.deviation(tail), released)
            means.append(total / len(segment))
        return sum(means) / len(means)


def vectors(one: Tensor, released: bool) -> list[list[float]]:
    """Channel vectors of all positions; as released, c numbers that follow each other in memory."""
    c, h, w = one.shape
    if released:
        flat = one.flatten().tolist()
        return [flat[start : start + c] for start in range(0, len(flat), c)]
    return [[float(one[k, y, x]) for k in range(c)] for y in range(h) for x in range(w)]


def length(vector: list[float]) -> float:
    return sqrt(sum(value**2 for value in vector))


def vector_terms(variation: Tensor, moved: Tensor, direction: Tensor, released: bool = False) -> float:
    """Differences of lengths and of directions of one pair, summed."""
    total = 0.0
    parts = (vectors(one, released) for one in (variation, moved, direction))
    for of_variation, of_moved, of_direction in zip(*parts, strict=True):
        total += abs(length(of_moved) - length(of_variation))
        scale = length(of_moved) * length(of_direction)
        products = [a * b / scale for a, b in zip(of_moved, of_direction, strict=True)]
        total += sum(abs(product - 1) for product in products) if released else abs(sum(products) - 1)
    return total
