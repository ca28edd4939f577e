"""What every head asks of its features: that there are some."""

from __future__ import annotations

from safa.errors import UserError


def check_sizes(in_features: int, num_classes: int) -> None:
    """Raises ``UserError`` if a size is below 1."""
    if min(in_features, num_classes) < 1:
        raise UserError(f"a head needs at least 1 feature and 1 class, got {in_features} and {num_classes}")
