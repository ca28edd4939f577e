"""What every head asks of its features: that there are some, and full precision."""

from __future__ import annotations

import torch
from torch import Tensor

from safa.errors import UserError


def check_sizes(in_features: int, num_classes: int) -> None:
    """Raises ``UserError`` if a size is below 1."""
    if min(in_features, num_classes) < 1:
        raise UserError(f"a head needs at least 1 feature and 1 class, got {in_features} and {num_classes}")


def lifted(features: Tensor) -> Tensor:
    """Half types to float32; float32 and float64 as they are."""
    return features.to(torch.promote_types(features.dtype, torch.float32))
