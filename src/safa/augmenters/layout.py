"""What augmenters share that make rows of tail classes: features of three layouts seen as maps, the head classes, and a
harmless 0.
"""

from __future__ import annotations

from numbers import Integral
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from safa.classes import head_classes
from safa.errors import UserError, closest
from safa.weighting import ClassCounts, checked_counts

Layout = Literal["map", "tokens", "vector"]
"""(n, c, h, w), (n, t, c) or (n, c)."""

_DIMENSIONS = {"map": 4, "tokens": 3, "vector": 2}


class TailAugmenter(nn.Module):
    """Knows which features it is given and which classes are head; a subclass makes rows of the others.

    Args:
        channels: c of the features: (n, c, h, w), (n, t, c) or (n, c).
        class_counts: training images per class, shape (k,); see ``safa.classes.head_classes``. A class may have
            none: it is a tail class that no batch brings.
        head_ratio: share of the classes that are head; all others are tail.
        layout: ``map`` for (n, c, h, w), ``tokens`` for (n, t, c), ``vector`` for (n, c).

    Raises:
        UserError: if an option is out of range, or there are fewer than two classes.
    """

    is_head: Tensor

    def __init__(self, channels: int, class_counts: ClassCounts, *, head_ratio: float, layout: Layout) -> None:
        super().__init__()
        _check(channels, layout)
        self.channels, self.layout, self.head_ratio = channels, layout, head_ratio
        is_head = head_classes(checked_counts(class_counts, least=0), head_ratio)
        # Not saved: counts say it, and a state of other counts would say it otherwise, unnoticed.
        self.register_buffer("is_head", torch.tensor(is_head), persistent=False)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        state_dict.pop(f"{prefix}is_head", None)  # states of before 2026-12 have it
        super()._load_from_state_dict(state_dict, prefix, *rest)

    @property
    def kernel(self) -> int:
        """Side of a convolution that looks around on maps; tokens and vectors are mixed by channel alone."""
        return 3 if self.layout == "map" else 1

    def as_maps(self, features: Tensor) -> Tensor:
        """Features of any layout as (n, c, h, w); ``as_given`` is the way back.

        Raises:
            UserError: if they have another number of dimensions or channels than the augmenter was built for.
        """
        self._check_shape(features)
        if self.layout == "tokens":
            return features.transpose(1, 2).unsqueeze(-1)
        return features[:, :, None, None] if self.layout == "vector" else features

    def labels_and_heads(self, labels: Tensor, rows: int) -> tuple[Tensor, Tensor]:
        """The labels and which of them are of head classes, shape (n,), int64 and bool, both on the CPU.

        Pairs are drawn there. Another device is waited for, so a step asks once.

        Args:
            labels: shape (n,), int64.
            rows: n, of the features.

        Raises:
            UserError: if there is not one int64 label per row, or a label is negative or beyond the class counts.
        """
        if labels.shape != (rows,) or labels.dtype != torch.int64:
            raise UserError(
                f"labels must be one class id per row of the features, shape ({rows},) and int64, got "
                f"{tuple(labels.shape)} of {labels.dtype}"
            )
        classes = len(self.is_head)
        read, is_head = torch.split(torch.cat([labels, self.is_head]).cpu(), [len(labels), classes])
        if len(read) and int(read.min()) < 0:
            raise UserError(
                f"labels are class ids from 0 on, got {int(read.min())}; leave such images out of the batch"
            )
        if len(read) and int(read.max()) >= classes:
            raise UserError(
                f"{type(self).__name__} was built with the counts of {classes} classes, so labels are 0 to "
                f"{classes - 1}, got {int(read.max())}; class_counts must name every class that labels do"
            )
        return read, is_head.bool()[read]

    def as_given(self, maps: Tensor) -> Tensor:
        """(n, c, h, w) as the layout has it."""
        if self.layout == "tokens":
            return maps.squeeze(-1).transpose(1, 2)
        return maps[:, :, 0, 0] if self.layout == "vector" else maps

    def grown(self, features: Tensor, made: Tensor) -> Tensor:
        """The features as they are given, and after them made maps (m, c, h, w), in their layout and type."""
        return torch.cat([features, self.as_given(made).to(features.dtype)])

    def extra_repr(self) -> str:
        return f"channels={self.channels}, head_ratio={self.head_ratio}, layout={self.layout!r}"

    def _check_shape(self, features: Tensor) -> None:
        name, wanted, shape = type(self).__name__, _DIMENSIONS[self.layout], tuple(features.shape)
        if len(shape) != wanted:
            fitting = [f"pass layout={other!r}" for other, d in _DIMENSIONS.items() if d == len(shape)]
            raise UserError(
                f"{name} was built for layout {self.layout!r} with {wanted} dimensions but receives "
                f"shape {shape}; {fitting[0] if fitting else 'name another layer'}"
            )
        found = shape[1] if self.layout == "map" else shape[-1]
        if found == self.channels:
            return
        if shape[-1] == self.channels:
            raise UserError(
                f"{name} wants maps (n, c, h, w) but receives shape {shape}, whose {self.channels} channels are last; "
                "permute them to the second place, or name another layer"
            )
        raise UserError(f"{name} was built for {self.channels} channels but receives {found}; pass channels={found}")


def zero_of(module: nn.Module) -> Tensor:
    """A differentiable 0 that touches every parameter: DDP waits for each of them, on every rank.

    For a batch that has nothing to pair, while others have. Not for an idle augmenter: a gradient of 0 lets weight
    decay and momentum move what should stand still.
    """
    wide = (p.sum(dtype=torch.promote_types(p.dtype, torch.float32)) for p in module.parameters())
    return torch.stack([*wide]).sum().float() * 0.0


def zero_beside(x: Tensor) -> Tensor:
    """A differentiable 0 where no parameter is. Unlike ``x.sum() * 0`` it is finite whatever x is.

    It is no leaf, to which ``loss = out.loss; loss += …`` could not add.
    """
    return torch.zeros((), device=x.device, requires_grad=True) + 0


def _check(channels: Any, layout: Any) -> None:
    if not isinstance(channels, Integral) or channels < 1:
        raise UserError(f"channels is a whole number of at least 1, got {channels!r}; pass c of the features")
    if layout not in get_args(Layout):
        raise UserError(f"layout must be map, tokens or vector, got {layout!r}{closest(layout, get_args(Layout))}")
