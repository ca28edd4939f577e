"""Feature transfer (FTL): head classes lend the tail how they vary.  [Yin et al., CVPR 2019]"""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

from safa.augmenters.layout import Layout, TailAugmenter, zero_beside
from safa.augmenters.pairing import spread
from safa.classes import HEAD_RATIO
from safa.devices import placed
from safa.errors import UserError
from safa.precision import lifted, without_autocast
from safa.types import Augmented
from safa.weighting import ClassCounts


class FeatureTransfer(TailAugmenter):
    """Put what sets a head feature apart from its class mean on the mean of a tail class.

    A generated row is ``c_tail + Q Q^T (g_head - c_head)``: class means c, and Q the leading eigenvectors of
    the covariance within head classes, pooled over them. Nothing is learnt by gradient: there are no
    parameters, and the loss is a constant 0.

    Args:
        channels: c of the features: (n, c, h, w), (n, t, c) or (n, c).
        class_counts: training images per class, shape (k,); see ``safa.classes.head_classes``.
        head_ratio: share of the classes that are head; all others are tail.
        layout: ``map`` for (n, c, h, w), ``tokens`` for (n, t, c), ``vector`` for (n, c).
        energy: share of the variance that Q keeps, in (0, 1]; 0.95 as published.
        momentum: of the running means, per batch in which the class occurs.
        covariance_momentum: of the running covariance, per batch with head rows.
        refresh_every: training steps between two decompositions. The first is of one batch alone, and where that has
            a row or none of each head class, rows are copies of means until the next: be idle for as long.
        rectify: generated features do not fall below the smallest real one.

    Reading:
        - Published for the feature vector of a face network, with means and Q over the whole training set,
          recomputed between phases of training. Here they run along, also while inactive, since the layers
          below change; under DDP every rank uses what the first rank saw, as with batch norm.
        - On maps and tokens every position is one vector: means and covariance run over positions too, and
          the spatial layout of a generated map is that of the head sample. ``vector`` is the published case.
        - Published means leave out profile faces; images have no such sign, so all count.
        - The published regulariser and alternation of phases belong to its training, not to the transfer.
        - Every head row of the batch gives one generated row; its class is that of a tail row of the batch.

    Raises:
        UserError: if an option is out of range, or there are fewer than two classes.

    RSG moves a tail *sample* by a learnt map of the head sample's deviation; here the tail class's mean is
    moved by a projection of it, so two generated rows of one class differ by their head samples alone.
    """

    learns_while_idle = True

    def __init__(
        self,
        channels: int,
        class_counts: ClassCounts,
        *,
        head_ratio: float = HEAD_RATIO,
        layout: Layout = "map",
        energy: float = 0.95,
        momentum: float = 0.9,
        covariance_momentum: float = 0.99,
        refresh_every: int = 100,
        rectify: bool = True,
    ) -> None:
        super().__init__(channels, class_counts, head_ratio=head_ratio, layout=layout)
        _check(energy, momentum, covariance_momentum, refresh_every)
        self.energy, self.rectify, self.active = energy, rectify, True
        self.momentum, self.covariance_momentum = momentum, covariance_momentum
        self.refresh_every = refresh_every
        self.steps = 0  # kept on the host: reading a buffer every step would wait for the device
        self.means: Tensor
        self.seen: Tensor
        self.covariance: Tensor
        self.projection: Tensor
        self.register_buffer("means", torch.zeros(len(self.is_head), channels))
        self.register_buffer("seen", torch.zeros(len(self.is_head), dtype=torch.bool))
        self.register_buffer("covariance", torch.zeros(channels, channels))
        self.register_buffer("projection", torch.zeros(channels, channels))

    def forward(self, features: Tensor, labels: Tensor) -> Augmented:
        """Real rows in order, then the generated ones: none in evaluation, or without head or tail row.

        Args:
            features: shape (n, c, h, w), (n, t, c) or (n, c), as ``layout`` says.
            labels: shape (n,), int64.

        Raises:
            UserError: if the features have another number of channels or dimensions than this was built for.
        """
        maps = self.as_maps(features)
        nothing = zero_beside(features)
        if not self.training or len(labels) == 0:
            return Augmented(features, labels, nothing)
        with torch.no_grad(), without_autocast(features):
            source = maps.to(self.means.dtype)
            _, is_head = self.labels_and_heads(labels, len(features))
            self._observe(source, labels)
            head, tail = is_head.nonzero().squeeze(1), (~is_head).nonzero().squeeze(1)
            if not self.active or len(head) == 0 or len(tail) == 0:
                return Augmented(features, labels, nothing)
            head, tail = placed(features.device, head, tail[spread(len(head), len(tail))])
            classes = labels[tail]
            generated = self.transfer(source[head], labels[head], classes)
            if self.rectify:
                generated = torch.maximum(generated, source.amin())
        rows = self.grown(features, generated)
        return Augmented(rows, torch.cat([labels, classes]), nothing)

    def transfer(self, samples: Tensor, origin: Tensor, target: Tensor) -> Tensor:
        """``c_target + Q Q^T (samples - c_origin)`` at every position.

        Args:
            samples: shape (n, c, h, w).
            origin, target: shape (n,), the samples' classes and those they are carried to.
        """
        deviation = samples - self.means[origin][:, :, None, None]
        kept = F.conv2d(deviation, self.projection[:, :, None, None])
        return self.means[target][:, :, None, None] + kept

    def extra_repr(self) -> str:
        momenta = f"momentum={self.momentum}, covariance_momentum={self.covariance_momentum}"
        refresh = f"energy={self.energy}, refresh_every={self.refresh_every}, rectify={self.rectify}"
        return f"{super().extra_repr()}, {momenta}, {refresh}"

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """What ``half()`` and the like do, except to the statistics: small steps and large sums need float32."""
        kept = {name: getattr(self, name) for name in ("means", "covariance", "projection")}
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, value in kept.items():
            moved = getattr(self, name)
            wide = lifted(moved)
            if wide is not moved:  # from what it was: to lift what has been rounded would keep the rounding
                setattr(self, name, value.to(wide))
        return self

    def get_extra_state(self) -> Tensor:
        """Training steps seen; with the buffers, all that the next step depends on."""
        return torch.tensor(self.steps)

    def set_extra_state(self, state: Tensor) -> None:
        self.steps = int(state)

    def _observe(self, source: Tensor, labels: Tensor) -> None:
        """Let the running means, the covariance and, now and then, the projection follow the features."""
        classes = torch.arange(len(self.means), device=labels.device)
        member = (labels[:, None] == classes).to(source.dtype)
        times = member.sum(dim=0)[:, None]
        batch_means = member.T @ source.mean(dim=(2, 3)) / times.clamp(min=1)
        # A class's first mean is taken whole.
        rate = (1 - self.momentum * self.seen.to(source.dtype))[:, None] * (times > 0)
        self.means += rate * (batch_means - self.means)
        self.seen |= times[:, 0] > 0
        is_head = self.is_head[labels]
        deviation = (source - self.means[labels][:, :, None, None]) * is_head[:, None, None, None]
        vectors = deviation.transpose(0, 1).flatten(1)
        positions = is_head.sum() * source.shape[2] * source.shape[3]
        batch_covariance = vectors @ vectors.T / positions.clamp(min=1)
        # No correction for the zeros it starts from: the projection does not depend on the covariance's size.
        rate = (1 - self.covariance_momentum) * (positions > 0)
        self.covariance += rate * (batch_covariance - self.covariance)
        if self.steps % self.refresh_every == 0:
            self.projection.copy_(leading_projection(self.covariance, self.energy))
        self.steps += 1


def leading_projection(covariance: Tensor, energy: float) -> Tensor:
    """Q Q^T for the fewest leading eigenvectors Q that hold a share of the variance.  [Yin et al. 2019]

    Args:
        covariance: shape (c, c), symmetric and positive semi-definite.
        energy: share of its trace, in (0, 1].

    Returns:
        Shape (c, c); 0 where there is no variance. The number of eigenvectors stays on the device.
    """
    # A diverging network is reported as a loss that is not finite; here it would be an error of LAPACK's.
    values, vectors = torch.linalg.eigh(lifted(covariance).nan_to_num())
    values = values.clamp(min=0).flip(0)
    before = values.cumsum(0) - values
    kept = (before < energy * values.sum()).flip(0).to(vectors.dtype)
    projection: Tensor = (vectors * kept) @ vectors.T
    return projection


def _check(energy: float, momentum: float, covariance_momentum: float, refresh_every: int) -> None:
    if not 0 < energy <= 1:
        raise UserError(f"energy is the share of the variance kept, in (0, 1], got {energy}; try 0.95")
    for name, value in (("momentum", momentum), ("covariance_momentum", covariance_momentum)):
        if not 0 <= value < 1:
            raise UserError(f"{name} is what a running average keeps per batch, in [0, 1), got {value}")
    if refresh_every < 1:
        raise UserError(f"refresh_every is a number of steps of at least 1, got {refresh_every}")
