"""Mixup, CutMix and Remix: every row becomes a mixture with another row of its batch, and so does its label.

Unlike the other augmenters these add no rows: b rows go in, b mixed rows with soft labels (b, k) come out. On
the network's input they are the published methods; before a named layer they are Manifold Mixup. One share
lambda and one permutation per batch are drawn from torch's global generator, on the CPU: a seed gives the same ones
on every device, and reading lambda waits for none.
"""

from __future__ import annotations

import math
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from safa.devices import CPU, placed
from safa.errors import UserError
from safa.precision import lifted
from safa.types import Augmented
from safa.weighting import ClassCounts, checked_counts, counts_tensor


class Mixup(nn.Module):
    """Mix two rows and their labels by the same share.  [Zhang et al. 2018; Verma et al. 2019]

    ``lambda x_i + (1 - lambda) x_j`` is labelled ``lambda y_i + (1 - lambda) y_j``, with lambda from
    Beta(alpha, alpha).

    Args:
        class_counts: training images per class, shape (k,); only their number is used.
        alpha: 1, a uniform lambda, is what long-tailed CIFAR is trained with; smaller mixes less.

    Reading:
        - Before a layer this is Manifold Mixup at that layer alone. Verma et al. draw a layer anew for every
          batch; BagofTricks-LT mixes at one layer, in its published setting the input of the classifier.
        - Every row is mixed with the row that the permutation names, perhaps itself, as in the released code.

    Raises:
        UserError: if ``alpha`` is below 0.01 or a count not positive.

    Mixup blends whole rows, CutMix pastes a box; Remix blends as Mixup does and labels in favour of the tail.
    """

    mixes = True
    learns_while_idle = False

    def __init__(self, class_counts: ClassCounts, *, alpha: float = 1.0) -> None:
        super().__init__()
        self.num_classes = len(checked_counts(class_counts))
        self.alpha, self.active = _positive(alpha), True

    def forward(self, features: Tensor, labels: Tensor) -> Augmented:
        """Mixed rows and soft labels; features and labels as they are in evaluation or while inactive.

        Args:
            features: shape (b, …), images or what enters a layer.
            labels: shape (b,), int64, or (b, k), soft.

        Raises:
            UserError: if the features are whole numbers, or soft labels have another number of classes than this was
                built for.
        """
        if not (self.active and self.training):
            return _with_no_loss(features, labels)
        share, partner = _share(self.alpha), _partners(features)
        soft = soft_labels(labels, self.num_classes)
        return _with_no_loss(_blended(features, partner, share), torch.lerp(soft[partner], soft, share))

    def extra_repr(self) -> str:
        return f"num_classes={self.num_classes}, alpha={self.alpha}"


class CutMix(nn.Module):
    """Paste a box of one row into another, and label by area.  [Yun et al. 2019]

    Args:
        class_counts: training images per class, shape (k,); only their number is used.
        alpha: of Beta(alpha, alpha), from which the share of the area outside the box is drawn.
        probability: share of the batches that are mixed.

    Reading:
        - The box is the released code's: its centre is uniform, its half sides are rounded down, and what sticks
          out is cut off. The label then goes by the area that was pasted in fact.
        - Every batch is mixed. The authors leave every other batch as it is on CIFAR (``cutmix_prob`` 0.5, which is
          ``probability=0.5``), and none on ImageNet.

    Raises:
        UserError: if ``alpha`` is below 0.01 or a count not positive, or ``probability`` is outside [0, 1]; on a
            call, if the features are no maps.

    Mixup blends whole rows and works on any features; CutMix needs a height and a width.
    """

    mixes = True
    learns_while_idle = False

    def __init__(self, class_counts: ClassCounts, *, alpha: float = 1.0, probability: float = 1.0) -> None:
        super().__init__()
        if not 0 <= probability <= 1:
            raise UserError(f"probability is a share of the batches, so in [0, 1], got {probability}")
        self.num_classes = len(checked_counts(class_counts))
        self.alpha, self.probability, self.active = _positive(alpha), probability, True

    def forward(self, features: Tensor, labels: Tensor) -> Augmented:
        """Mixed rows and soft labels; features and labels as they are in evaluation or while inactive.

        Args:
            features: shape (b, c, h, w), images or what enters a layer.
            labels: shape (b,), int64, or (b, k), soft.

        Raises:
            UserError: if the features have no height and width, or soft labels another number of classes.
        """
        if features.dim() != 4:
            raise UserError(
                f"CutMix cuts maps (b, c, h, w) but receives shape {tuple(features.shape)}; name another layer, "
                "or use Mixup"
            )
        if not (self.active and self.training):
            return _with_no_loss(features, labels)
        share, partner = _share(self.alpha), _partners(features)
        if self.probability < 1 and float(torch.rand((), device=CPU)) >= self.probability:
            share = 1.0  # a box without area
        height, width = features.shape[2:]
        centre = [int(torch.randint(side, (), device=CPU)) for side in (height, width)]
        rows, columns = _cut(height, centre[0], share), _cut(width, centre[1], share)
        mixed = features.clone()
        mixed[:, :, rows, columns] = features[partner, :, rows, columns]
        area = (rows.stop - rows.start) * (columns.stop - columns.start)
        soft = soft_labels(labels, self.num_classes)
        return _with_no_loss(mixed, torch.lerp(soft[partner], soft, 1 - area / (height * width)))

    def extra_repr(self) -> str:
        return f"num_classes={self.num_classes}, alpha={self.alpha}, probability={self.probability}"


class Remix(nn.Module):
    """Mix as Mixup does, but give the whole label to the much smaller class if it has share enough.  [Chou et al. 2020]

    With n_i images in the class of row i and n_j in that of row j, Eq. 10 labels ``lambda x_i + (1 - lambda) x_j``
    by lambda_y: 0 if ``n_i / n_j >= kappa`` and ``lambda < tau``, 1 if ``n_i / n_j <= 1 / kappa`` and
    ``1 - lambda < tau``, else lambda.

    Args:
        class_counts: training images per class, shape (k,).
        alpha: of Beta(alpha, alpha).
        kappa: how many times larger a class must be to leave its part of the label to the other; 3 in the paper.
        tau: share below which the larger class leaves it; 0.5 in the paper.

    Reading:
        - BagofTricks-LT multiplies a lambda_y per row with a loss averaged over the batch, which leaves nothing
          but the mean of lambda_y. Here, as in the paper and in ntucllab's imbalanced-DL, every row has its own.
        - A row with a soft label counts as large as its classes on average, ``sum_c p_c n_c``.

    Raises:
        UserError: if ``alpha`` is below 0.01 or a count not positive, ``kappa`` is below 1 or ``tau`` outside [0, 1].

    Mixup labels by the share of each row, whatever its class.
    """

    mixes = True
    learns_while_idle = False

    def __init__(self, class_counts: ClassCounts, *, alpha: float = 1.0, kappa: float = 3.0, tau: float = 0.5) -> None:
        super().__init__()
        if not 1 <= kappa < math.inf:
            raise UserError(f"kappa says how many times larger a class is, so at least 1, got {kappa}; Remix uses 3")
        if not 0 <= tau <= 1:
            raise UserError(f"tau is a share, so in [0, 1], got {tau}; 0 is Mixup")
        self.class_counts: Tensor
        self.register_buffer("class_counts", counts_tensor(class_counts), persistent=False)
        self.alpha, self.kappa, self.tau, self.active = _positive(alpha), kappa, tau, True

    def forward(self, features: Tensor, labels: Tensor) -> Augmented:
        """Mixed rows and soft labels; features and labels as they are in evaluation or while inactive.

        Args:
            features: shape (b, …), images or what enters a layer.
            labels: shape (b,), int64, or (b, k), soft.

        Raises:
            UserError: if the features are whole numbers, or soft labels have another number of classes than this was
                built for.
        """
        if not (self.active and self.training):
            return _with_no_loss(features, labels)
        share, partner = _share(self.alpha), _partners(features)
        soft = soft_labels(labels, len(self.class_counts))
        size = (soft * self.class_counts).sum(1)  # no product of matrices: autocast would round the counts
        label_share = self._label_share(size, size[partner], share).unsqueeze(1)
        return _with_no_loss(_blended(features, partner, share), torch.lerp(soft[partner], soft, label_share))

    def extra_repr(self) -> str:
        return f"num_classes={len(self.class_counts)}, alpha={self.alpha}, kappa={self.kappa}, tau={self.tau}"

    def _label_share(self, size: Tensor, other: Tensor, share: float) -> Tensor:
        """lambda_y of every row, shape (b,), from the class sizes of both rows.  [Chou et al. 2020, Eq. 10]"""
        label_share = torch.full_like(size, share)
        if 1 - share < self.tau:
            label_share = label_share.masked_fill(self.kappa * size <= other, 1)
        if share < self.tau:
            label_share = label_share.masked_fill(size >= self.kappa * other, 0)
        return label_share


def soft_labels(labels: Tensor, num_classes: int) -> Tensor:
    """Labels (b,) or (b, k) as probabilities (b, k), at least float32: a share of 0.7 is none in half precision.

    Raises:
        UserError: if they are soft already, with another number of classes.
    """
    if not labels.is_floating_point():
        return F.one_hot(labels, num_classes).float()
    if labels.dim() != 2 or labels.shape[1] != num_classes:
        raise UserError(
            f"soft labels hold one probability per class, shape (b, {num_classes}), got {tuple(labels.shape)}; "
            "pass the class_counts of this data set"
        )
    return lifted(labels)


def _share(alpha: float) -> float:
    """lambda, the share of the row itself, from Beta(alpha, alpha)."""
    return float(_beta(float(alpha)).sample())


@cache
def _beta(alpha: float) -> torch.distributions.Beta:
    concentration = torch.tensor(alpha, device=CPU)
    return torch.distributions.Beta(concentration, concentration)


def _partners(features: Tensor) -> Tensor:
    """For every row the row it is mixed with: a permutation, shape (b,)."""
    (partner,) = placed(features.device, torch.randperm(len(features), device=CPU))
    return partner


def _blended(features: Tensor, partner: Tensor, share: float) -> Tensor:
    if not features.is_floating_point():
        raise UserError(f"{features.dtype} cannot be blended; pass images as numbers with a fraction, images.float()")
    return torch.lerp(features[partner], features, share)


def _cut(side: int, centre: int, share: float) -> slice:
    """What the box covers of one side, when it leaves ``share`` of the area.  [Yun et al. 2019, as released]"""
    half = int(side * math.sqrt(1 - share)) // 2
    return slice(max(centre - half, 0), min(centre + half, side))


def _with_no_loss(features: Tensor, labels: Tensor) -> Augmented:
    return Augmented(features, labels, features.new_zeros((), dtype=torch.float32))


def _positive(alpha: float) -> float:
    if not 0 < alpha < math.inf:
        raise UserError(f"alpha must be positive, got {alpha}; to mix nothing, leave the augmenter out")
    if alpha < 0.01:
        raise UserError(f"with alpha {alpha}, lambda is too often 1/2 by underflow; 0.01 mixes next to nothing already")
    return alpha
