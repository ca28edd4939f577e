"""What all augmenters share: features of three layouts seen as maps, the head classes, and a harmless 0."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from safa.classes import head_classes
from safa.errors import UserError, closest

Layout = Literal["map", "tokens", "vector"]
"""(n, c, h, w), (n, t, c) or (n, c)."""

ClassCounts = Sequence[int] | NDArray[Any] | Tensor
"""Training images per class, shape (k,)."""

_DIMENSIONS = {"map": 4, "tokens": 3, "vector": 2}


def head_mask(class_counts: ClassCounts, head_ratio: float) -> Tensor:
    """``safa.classes.head_classes`` as a tensor of bool, shape (k,)."""
    return torch.tensor(head_classes([int(count) for count in class_counts], head_ratio))


def kernel_of(layout: Layout) -> int:
    """Side of a convolution that looks around on maps; tokens and vectors are mixed by channel alone.

    Raises:
        UserError: if there is no such layout.
    """
    if layout not in _DIMENSIONS:
        hint = closest(layout, _DIMENSIONS)
        raise UserError(f"layout must be map, tokens or vector, got {layout!r}{hint}")
    return 3 if layout == "map" else 1


def as_maps(augmenter: nn.Module, features: Tensor, layout: Layout, channels: int) -> Tensor:
    """Features of any layout as (n, c, h, w); ``as_given`` is the way back.

    Raises:
        UserError: if they have another number of dimensions or channels than the augmenter was built for.
    """
    name = type(augmenter).__name__
    if features.dim() != _DIMENSIONS[layout]:
        fitting = [f"pass layout={other!r}" for other, d in _DIMENSIONS.items() if d == features.dim()]
        raise UserError(
            f"{name} was built for layout {layout!r} with {_DIMENSIONS[layout]} dimensions but receives "
            f"shape {tuple(features.shape)}; {fitting[0] if fitting else 'name another layer'}"
        )
    found = features.shape[1] if layout == "map" else features.shape[-1]
    if found != channels:
        raise UserError(f"{name} was built for {channels} channels but receives {found}; pass channels={found}")
    if layout == "tokens":
        return features.transpose(1, 2).unsqueeze(-1)
    return features[:, :, None, None] if layout == "vector" else features


def as_given(maps: Tensor, layout: Layout) -> Tensor:
    """(n, c, h, w) as the layout has it."""
    if layout == "tokens":
        return maps.squeeze(-1).transpose(1, 2)
    return maps[:, :, 0, 0] if layout == "vector" else maps


def zero_of(module: nn.Module) -> Tensor:
    """A differentiable 0 that touches every parameter: DDP waits for each of them, on every rank."""
    return torch.stack([p.sum() for p in module.parameters()]).sum().float() * 0.0


def zero_beside(x: Tensor) -> Tensor:
    """A differentiable 0 where no parameter is. Unlike ``x.sum() * 0``, a leaf is finite whatever x is."""
    return torch.zeros((), device=x.device, requires_grad=True)


def full(x: Tensor) -> Tensor:
    """At least float32: sums and norms in half precision lose the small differences of features."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
