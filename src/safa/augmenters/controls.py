"""Controls in SAFA's place: the rows that SAFA would generate, made by something simpler.

Each draws as SAFA does, so with the same seed it grows a batch by as many rows, of the same tail samples in the
same order. What a network then learns otherwise than with SAFA comes from the features of these rows alone. None
has a parameter or a loss, and all cut the features from the layers below, which is SAFA's default.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Literal, get_args

import torch
from torch import Tensor

from safa.augmenters.layout import Layout, TailAugmenter, zero_beside
from safa.augmenters.pairing import Match, match_tail_to_head, rows_of
from safa.classes import HEAD_RATIO
from safa.devices import CPU, placed
from safa.errors import UserError, closest
from safa.precision import lifted
from safa.types import Augmented
from safa.weighting import ClassCounts

Partner = Literal["head", "class"]
"""What a tail feature is mixed with: a feature of its head pair, or the other one of its class."""


class Control(TailAugmenter, ABC):
    """Draws the rows; a subclass makes their features.

    Args:
        channels: c of the features: (n, c, h, w), (n, t, c) or (n, c).
        class_counts: training images per class, shape (k,); see ``safa.classes.head_classes``.
        head_ratio: share of the classes that are head; all others are tail.
        layout: ``map`` for (n, c, h, w), ``tokens`` for (n, t, c), ``vector`` for (n, c).

    Raises:
        UserError: if an option is out of range, or there are fewer than two classes.
    """

    learns_while_idle = False

    def __init__(
        self, channels: int, class_counts: ClassCounts, *, head_ratio: float = HEAD_RATIO, layout: Layout = "map"
    ) -> None:
        super().__init__(channels, class_counts, head_ratio=head_ratio, layout=layout)
        self.active = True

    @abstractmethod
    def make(self, source: Tensor, match: Match) -> Tensor:
        """Features of the generated rows.

        Args:
            source: features of the batch, shape (b, c, h, w), detached and at least float32.
            match: n head pairs, m of which have two tail rows.

        Returns:
            Shape (n + m, c, h, w), in the order of ``match.rows``.
        """

    def forward(self, features: Tensor, labels: Tensor) -> Augmented:
        """Real rows in order, then the generated ones: none in evaluation, or without head pair or tail row.

        Args:
            features: shape (n, c, h, w), (n, t, c) or (n, c), as ``layout`` says.
            labels: shape (n,), int64.

        Raises:
            UserError: if the features have another number of channels or dimensions than this was built for.
        """
        maps = self.as_maps(features)
        nothing = zero_beside(features)
        if not (self.active and self.training):
            return Augmented(features, labels, nothing)
        match = match_tail_to_head(*self.labels_and_heads(labels, len(features)), maps.shape[2] * maps.shape[3])
        if match is None:
            return Augmented(features, labels, nothing)
        match = match.to(features.device)
        rows = self.grown(features, self.make(lifted(maps.detach()), match))
        return Augmented(rows, torch.cat([labels, labels[match.rows]]), nothing)


class Repeat(Control):
    """The tail features once more, as they are: what SAFA's number of rows alone does.

    Arguments as in ``Control``.

    Over-sampling by a sampler repeats images, each time with another crop, through the whole network; this
    repeats features, for the layers above.
    """

    def make(self, source: Tensor, match: Match) -> Tensor:
        return rows_of(source, match.rows)


class RawDelta(Control):
    """Add to a tail feature what sets the second feature of a head pair apart from the first: SAFA without E, D and G.

    Arguments as in ``Control``.

    Reading:
        The generated row is ``F_t + F_h^j - F_h^i``, not below the smallest real feature. With ``start="identity"``,
        ``direction="to_partner"`` and ``rectify=True``, its defaults, this is what SAFA's first step generates.

    SAFA with ``lr_scale: 0`` generates these rows for ever too, but keeps its terms and their cost. RSG's
    difference is that of a head feature and a centre of its class, in a direction that it learns.
    """

    def make(self, source: Tensor, match: Match) -> Tensor:
        return _moved(rows_of(source, match.rows), _raw_deltas(source, match), source.amin())


class Noise(Control):
    """Add Gaussian noise that moves a tail feature as far as SAFA does, in no direction in particular.

    Args:
        size: mean ``|made - F_t|`` of a row: ``delta``, that of ``RawDelta`` on the same draw, or a number, in units
            of the row's mean ``|F_t|``.
        others: as in ``Control``.

    Reading:
        - ``delta`` needs no figure of another network or layer. It is the size of SAFA's shift at its identity
          start; SAFA may learn another. On one batch of CIFAR-100-LT before ``layer3`` of ResNet-32 it was 0.78, and
          SAFA's own 0.65 after 40 epochs at the paper's rates: 0.7 is between the two.
        - Size is what is left above the floor, which is the smallest real feature as in SAFA, and is set row by
          row. On that batch, noise of 0.7 before the floor left 0.5.
        - Noise is drawn for every element on its own, and a convolution averages some of it away. Of a delta, in
          which neighbours go together, more comes through.

    Raises:
        UserError: if ``size`` is negative, infinite or another word; and as ``Control``.

    The hallucinator learns what to make of its noise.
    """

    def __init__(
        self,
        channels: int,
        class_counts: ClassCounts,
        *,
        head_ratio: float = HEAD_RATIO,
        layout: Layout = "map",
        size: float | Literal["delta"] = "delta",
    ) -> None:
        super().__init__(channels, class_counts, head_ratio=head_ratio, layout=layout)
        number = isinstance(size, (int, float)) and not isinstance(size, bool) and 0 <= size < math.inf
        if not number and size != "delta":
            raise UserError(
                f"size is a share of the tail feature's own, at least 0, or the word delta, got {size!r}; try 0.7"
            )
        self.size = size

    def make(self, source: Tensor, match: Match) -> Tensor:
        tail, floor = rows_of(source, match.rows), source.amin()
        if self.size == "delta":
            wanted = _size(_moved(tail, _raw_deltas(source, match), floor) - tail)
        else:
            wanted = float(self.size) * _size(tail)
        noise = torch.randn_like(tail)
        noise = noise * (wanted / _size(noise))
        for _ in range(_STEPS):
            made = _moved(tail, noise, floor)
            # Guarded: a short vector may get noise that is below the floor in every element, and moves nothing.
            slope = _size(noise * (made > floor)).clamp(min=torch.finfo(tail.dtype).eps)
            noise = noise * (1 + (wanted - _size(made - tail)) / slope)
        return _moved(tail, noise, floor)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, size={self.size!r}"


class TailMixup(Control):
    """Mix a tail feature with a head feature, or with one of its own class, and keep its label.

    ``u F_t + (1 - u) F_p`` with u uniform in [``least``, 1].

    Args:
        partner: ``head``: the row of ``tail_i`` is mixed with ``head_i``, that of ``tail_k`` with ``head_j``, so that
            the rows come from the features that SAFA's come from. ``class``: the two tail rows of a pair are
            mixed with each other; one without a partner is repeated.
        least: smallest share of the tail feature; 0.5 as in Remix.
        others: as in ``Control``.

    Reading:
        - Manifold mixup labels by share. Generated rows have whole labels here, and Remix says which: of a class
          at least three times as large, all of the label goes to the smaller one where its share is above
          ``1 - tau`` = 0.5. The share is drawn from there, and three times as large is read as head.
        - u is that of Beta(1, 1), with which long-tailed CIFAR is mixed up, given that it is at least ``least``.
          It is drawn anew for each row; released mixup draws one for a batch.
        - CMO pastes the tail into images drawn as they come and labels by area; H2T replaces whole channels by
          those of a head feature and keeps the label. Both mix, as this does, and neither is copied here.
        - With ``least`` 0.5 a row moves by about 0.3 of its mean magnitude, less than half as far as SAFA's
          (one batch of CIFAR-100-LT before ``layer3`` of ResNet-32). ``least: 0`` moves it further.

    Raises:
        UserError: if ``least`` is outside [0, 1] or there is no such partner; and as ``Control``.

    ``Mixup`` and ``Remix`` mix the real rows, all of them, and put the mixtures in their place. With
    ``partner="class"`` this is SMOTE with any neighbour of the class instead of a near one.
    """

    def __init__(
        self,
        channels: int,
        class_counts: ClassCounts,
        *,
        head_ratio: float = HEAD_RATIO,
        layout: Layout = "map",
        partner: Partner = "head",
        least: float = 0.5,
    ) -> None:
        super().__init__(channels, class_counts, head_ratio=head_ratio, layout=layout)
        if partner not in get_args(Partner):
            raise UserError(f"partner must be head or class, got {partner!r}{closest(partner, get_args(Partner))}")
        if not 0 <= least <= 1:
            raise UserError(f"least is a share, so in [0, 1], got {least}; Remix uses 0.5")
        self.partner, self.least = partner, least

    def make(self, source: Tensor, match: Match) -> Tensor:
        of_head = self.partner == "head"
        of_i, of_k = (match.head_i, match.head_j) if of_head else (match.tail_k, match.tail_i)
        partner = rows_of(source, torch.cat([of_i, of_k[match.partnered]]))
        share = torch.empty(len(partner), 1, 1, 1, dtype=source.dtype, device=CPU).uniform_(self.least, 1)
        return torch.lerp(partner, rows_of(source, match.rows), *placed(source.device, share))

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, partner={self.partner!r}, least={self.least}"


# The larger the noise, the more of it the floor takes: what is left is a concave function of the noise's scale. So
# Newton's steps, from a scale that would fit without a floor, come near the one that fits without passing it.
_STEPS = 3


def _raw_deltas(source: Tensor, match: Match) -> Tensor:
    """``F_h^j - F_h^i`` of the head pair of every generated row, shape (n + m, c, h, w)."""
    return rows_of(source, match.head_j[match.pairs]) - rows_of(source, match.head_i[match.pairs])


def _moved(tail: Tensor, shift: Tensor, floor: Tensor) -> Tensor:
    """Tail features after a shift, not below the floor, a scalar."""
    return torch.maximum(tail + shift, floor)


def _size(rows: Tensor) -> Tensor:
    """Mean magnitude of each row, shape (n, 1, 1, 1)."""
    return rows.abs().mean(dim=(1, 2, 3), keepdim=True)
