"""Meta re-weighting written out: a network of plain operations, a virtual step that keeps its graph, two backwards.

Nothing is shared with safa. A network is convolution, batch norm, ReLU, mean over positions, linear layer; its
parameters are a dict with the names of ``nn.Sequential``.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

Parameters = dict[str, Tensor]
Batch = tuple[Tensor, Tensor]


def logits(parameters: Parameters, images: Tensor) -> Tensor:
    features = F.conv2d(images, parameters["0.weight"], parameters["0.bias"])
    mean = features.mean(dim=(0, 2, 3), keepdim=True)
    variance = ((features - mean) ** 2).mean(dim=(0, 2, 3), keepdim=True)
    features = (features - mean) / torch.sqrt(variance + 1e-5)
    features = features * parameters["1.weight"][:, None, None] + parameters["1.bias"][:, None, None]
    pooled = (features * (features > 0)).mean(dim=(2, 3))
    return pooled @ parameters["5.weight"].T + parameters["5.bias"]


def losses(parameters: Parameters, batch: Batch) -> Tensor:
    """Cross-entropy of each row."""
    images, labels = batch
    rows = logits(parameters, images)
    return torch.stack([-(row - row.exp().sum().log())[y] for row, y in zip(rows, labels.tolist(), strict=True)])


def stepped(parameters: Parameters, batch: Batch, weights: Tensor, lr: float, learning: set[str]) -> Parameters:
    """Parameters after a step on the weighted sum of losses, still attached to the weights."""
    names = [name for name in parameters if name in learning]
    leaves = {name: p.detach().clone().requires_grad_(name in learning) for name, p in parameters.items()}
    loss = torch.zeros((), dtype=weights.dtype)
    for weight, one in zip(weights, losses(leaves, batch), strict=True):
        loss = loss + weight * one
    gradients = torch.autograd.grad(loss, [leaves[name] for name in names], create_graph=True)
    return {**leaves, **{name: leaves[name] - lr * g for name, g in zip(names, gradients, strict=True)}}


def meta_loss(
    parameters: Parameters, batch: Batch, meta: Batch, weights: Tensor, lr: float, learning: set[str]
) -> Tensor:
    """Mean loss on the meta batch after the step; differentiable in the weights."""
    return losses(stepped(parameters, batch, weights, lr, learning), meta).sum() / len(meta[1])


def influence(
    parameters: Parameters, batch: Batch, meta: Batch, weights: Tensor, lr: float, learning: set[str]
) -> Tensor:
    """Gradient of the meta loss by the weights, by a second backward through the first."""
    leaf = weights.detach().clone().requires_grad_()
    return torch.autograd.grad(meta_loss(parameters, batch, meta, leaf, lr, learning), leaf)[0]


def finite_differences(function: Callable[[Tensor], Tensor], at: Tensor, width: float) -> Tensor:
    """Central differences, one coordinate after the other."""
    slopes = []
    for i in range(len(at)):
        aside = torch.zeros_like(at)
        aside[i] = width
        slopes.append((function(at + aside).detach() - function(at - aside).detach()) / (2 * width))
    return torch.stack(slopes)


def normalised(weights: Tensor) -> Tensor:
    total = weights.sum()
    return weights / total if total != 0 else weights


def rule(parameters: list[Tensor], of_losses: Tensor) -> Tensor:
    """Meta-Weight-Net's network, loss -> weight, divided by the sum over the batch."""
    first_weight, first_bias, second_weight, second_bias = parameters
    hidden = (of_losses[:, None] @ first_weight.T + first_bias).clamp(min=0)
    return normalised(torch.sigmoid(hidden @ second_weight.T + second_bias)[:, 0])
