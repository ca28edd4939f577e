"""What the tests of single augmenters share: features to give them, a seeded call, and modules that have moved."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from safa.types import Augmented

Module = TypeVar("Module", bound=nn.Module)


def post_relu(rows: int, channels: int = 3, size: tuple[int, int] = (2, 3), seed: int = 1) -> Tensor:
    """Features as they enter a stage of a ResNet, different for every row, in float64."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn((rows, channels, *size), generator=generator, dtype=torch.float64).relu()


def run(module: nn.Module, features: Tensor, labels: Sequence[int], seed: int = 2) -> Augmented:
    """What the augmenter makes of these rows, with its draws seeded."""
    torch.manual_seed(seed)
    return module(features, torch.tensor(labels, dtype=torch.int64))


def moved(module: Module) -> Module:
    """The module in float64 with every parameter away from its start, as if trained."""
    module.double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return module
