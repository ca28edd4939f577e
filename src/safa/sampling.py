"""Batch samplers for ``DataLoader(batch_sampler=...)``: which images make up each batch of an epoch.

The order of an epoch is a pure function of (seed, epoch) and the share of a process of (rank, world_size) as
well, so ``set_epoch`` is all that a run needs, a resumed one too:

    for epoch in range(epochs):
        sampler.set_epoch(epoch)  # else every epoch has the batches of the first
        for images, labels in loader:
            ...

``batch_size`` counts the images of one process. The order of all processes is padded by starting over until it
divides by ``world_size``, and rank r takes every ``world_size``-th item from r on: all ranks get equally many batches
of equal sizes, and, but for the padding, their batches together hold the images of one process with a ``world_size``
times larger batch. Training on them is not the same: batch norm, class weights and same-class pairs see the rows of
one process.
"""

from __future__ import annotations

import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator
from numbers import Integral
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch.utils.data import Sampler

from safa.errors import UserError
from safa.weighting import effective_numbers

Indices = NDArray[np.int64]


class EpochSampler(Sampler[list[int]], ABC):
    """Cuts the order of an epoch, which each subclass defines, into batches for one of several processes.

    Args:
        labels: class ids of all training images, shape (n,), integers; those that occur are the classes.
        batch_size: images per batch and process.
        seed: at least 0; together with the epoch it fixes the order.
        rank, world_size: which of how many processes this is.
        drop_last: leave out a last batch that is not full.

    Raises:
        UserError: if labels are not a non-empty list of integers, a number is out of range, or ``drop_last``
            leaves no batch at all.
    """

    images_per_item: ClassVar[int] = 1

    def __init__(
        self,
        labels: ArrayLike,
        batch_size: int,
        *,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        drop_last: bool = False,
    ) -> None:
        self.labels = _checked_labels(labels)
        _check_whole(batch_size=batch_size, seed=seed, rank=rank, world_size=world_size)
        if batch_size < 1 or batch_size % self.images_per_item:
            raise UserError(
                f"batch_size of {type(self).__name__} must be a positive multiple of {self.images_per_item}, "
                f"got {batch_size}"
            )
        if seed < 0:
            raise UserError(f"seed must be at least 0, got {seed}")
        if not 0 <= rank < world_size:
            raise UserError(f"rank must be in [0, world_size), got rank {rank} and world_size {world_size}")
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.drop_last = drop_last
        self.set_epoch(0)
        if len(self) == 0:
            raise UserError(
                f"drop_last leaves no batch of {batch_size} from {len(self.labels)} images in "
                f"{world_size} process(es); use a smaller batch_size or drop_last=False"
            )

    @abstractmethod
    def order(self, generator: np.random.Generator) -> Indices:
        """Items of one epoch over all processes, shape (items, images_per_item)."""

    def items_per_epoch(self) -> int:
        """Length of ``order``: the number of images, unless a subclass draws them in groups."""
        return len(self.labels)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, counted from 0, whose batches are yielded from the next iteration on."""
        self.epoch, self._begun = epoch, False

    def __len__(self) -> int:
        """Batches per epoch of this process."""
        full, left = self._full_batches_and_rest()
        return full if self.drop_last or not left else full + 1

    @property
    def smallest_batch(self) -> int:
        """Images of the last batch, the only one that may not be full."""
        _, left = self._full_batches_and_rest()
        return left * self.images_per_item if left and not self.drop_last else self.batch_size

    def _full_batches_and_rest(self) -> tuple[int, int]:
        """Full batches of this process, and the items that are left over."""
        items = math.ceil(self.items_per_epoch() / self.world_size)
        return divmod(items, self.batch_size // self.images_per_item)

    def __iter__(self) -> Iterator[list[int]]:
        """Batches of dataset indices; a UserWarning when an epoch is begun a second time."""
        if self._begun:
            warnings.warn(
                f"{type(self).__name__} begins epoch {self.epoch} again, with the same batches; "
                "call set_epoch(epoch) before every epoch",
                stacklevel=2,
            )
        self._begun = True
        order = self.order(np.random.default_rng((self.seed, self.epoch)))
        padded = math.ceil(len(order) / self.world_size) * self.world_size
        share = np.resize(order, (padded, self.images_per_item))[self.rank :: self.world_size]
        items_per_batch = self.batch_size // self.images_per_item
        for batch in range(len(self)):
            items = share[batch * items_per_batch : (batch + 1) * items_per_batch]
            yield items.T.ravel().tolist()


class InstanceBalanced(EpochSampler):
    """Every image once per epoch, so a class comes up as often as it has images.

    Arguments as in ``EpochSampler``.

    ``DataLoader(shuffle=True)`` does the same, but its order cannot be recomputed from the epoch.
    """

    def order(self, generator: np.random.Generator) -> Indices:
        return generator.permutation(len(self.labels))[:, None]


class _WithReplacement(EpochSampler):
    """As many independent draws as images, P(image) in proportion to ``image_weights`` of its class."""

    @abstractmethod
    def image_weights(self, class_counts: Indices) -> NDArray[np.float64]:
        """Weight of one image of each class, shape (k,)."""

    def order(self, generator: np.random.Generator) -> Indices:
        _, class_of_image, class_counts = np.unique(self.labels, return_inverse=True, return_counts=True)
        weights = self.image_weights(class_counts)[class_of_image]
        n = len(self.labels)
        return generator.choice(n, size=(n, 1), p=weights / weights.sum())


class ClassBalanced(_WithReplacement):
    """Every class equally often; images with replacement.  [Kang et al. 2020, q = 0]

    Arguments as in ``EpochSampler``.

    ``EffectiveNumber`` stops short of this for large classes. Kang et al.'s own sampler draws four images of
    a class at a time; here draws are independent.
    """

    def image_weights(self, class_counts: Indices) -> NDArray[np.float64]:
        return 1.0 / class_counts


class SquareRoot(_WithReplacement):
    """P(class) in proportion to ``sqrt(n_c)``; images with replacement.  [Kang et al. 2020, q = 1/2]

    Arguments as in ``EpochSampler``.

    Halfway between ``InstanceBalanced`` (q = 1) and ``ClassBalanced`` (q = 0).
    """

    def image_weights(self, class_counts: Indices) -> NDArray[np.float64]:
        weights: NDArray[np.float64] = class_counts.astype(np.float64) ** -0.5
        return weights


class EffectiveNumber(_WithReplacement):
    """P(image) in proportion to ``(1 - beta) / (1 - beta ** n_y)``: the sampler of DRS.  [Cao et al. 2019]

    Args:
        beta: in [0, 1); 0.9999 in LDAM-DRW.
        others: as in ``EpochSampler``.

    Reading:
        The released LDAM-DRW builds this sampler after its loader, which never uses it; RSG's scripts do
        re-sample.

    Raises:
        UserError: as ``EpochSampler``, and if ``beta`` is outside [0, 1).

    DRS draws images with these numbers; DRW multiplies the loss by them
    (``weighting.effective_number_weights``).
    """

    def __init__(
        self,
        labels: ArrayLike,
        batch_size: int,
        *,
        beta: float = 0.9999,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        drop_last: bool = False,
    ) -> None:
        super().__init__(labels, batch_size, seed=seed, rank=rank, world_size=world_size, drop_last=drop_last)
        effective_numbers(np.ones(1), beta)  # so that a bad beta is reported here, not in the first epoch
        self.beta = beta

    def image_weights(self, class_counts: Indices) -> NDArray[np.float64]:
        return 1.0 / effective_numbers(class_counts, self.beta)


class PairSampler(EpochSampler):
    """Half a batch of images as usual, then one more image of the same class for each.  [SAFA section 3.2]

    Args:
        batch_size: even; rows ``[0, b/2)`` are anchors, row ``b/2 + i`` is the partner of row i.
        others: as in ``EpochSampler``.

    Reading:
        "We sample same-class pairs" leaves open how. Anchors are the first half of a permutation of the
        images, rounded up, so an epoch has as many steps as without pairs and two epochs on average visit
        every image once as an anchor. The partner is any other image of the class, uniformly; an image alone
        in its class is its own partner. The shares of the classes are those of ``InstanceBalanced``.

    Raises:
        UserError: as ``EpochSampler``, and if ``batch_size`` is odd.

    Pairs that happen to meet in ordinary batches need no sampler. SAFA did at least as well with them
    (``docs/results.md``), though few pairs of rare classes are among them.
    """

    images_per_item: ClassVar[int] = 2

    def items_per_epoch(self) -> int:
        return math.ceil(len(self.labels) / 2)

    def order(self, generator: np.random.Generator) -> Indices:
        anchors = generator.permutation(len(self.labels))[: self.items_per_epoch()]
        return np.stack((anchors, self._partners(anchors, generator)), axis=1)

    def _partners(self, anchors: Indices, generator: np.random.Generator) -> Indices:
        _, class_of_image, counts = np.unique(self.labels, return_inverse=True, return_counts=True)
        by_class = np.argsort(class_of_image, kind="stable")  # the images of class c are one run of this
        start = np.cumsum(counts) - counts
        place = np.empty_like(by_class)
        place[by_class] = np.arange(len(by_class))
        classes = class_of_image[anchors]
        # A step of 1 to n_c - 1 around the ring of a class never comes back; in a ring of one, step 1 does.
        step = generator.integers(1, np.maximum(counts[classes], 2))
        ring_place = (place[anchors] - start[classes] + step) % counts[classes]
        return by_class[start[classes] + ring_place]


def _checked_labels(labels: ArrayLike) -> Indices:
    checked = np.asarray(labels)
    if checked.ndim != 1 or checked.size == 0:
        raise UserError(f"labels need one class id per training image, got shape {checked.shape}")
    if not np.issubdtype(checked.dtype, np.integer):
        raise UserError(f"labels must be integers, got {checked.dtype}; map class names to ids first")
    return checked.astype(np.int64)


def _check_whole(**numbers: Any) -> None:
    for name, number in numbers.items():
        if not isinstance(number, Integral):
            raise UserError(f"{name} must be a whole number, got {number!r}; pass an int")
