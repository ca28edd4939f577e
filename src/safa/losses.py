"""Classification losses for long-tailed data, each as a function and as a module that holds its settings.

All of them read final logits (n, k) and labels (n,) and return a scalar. Half-precision logits are lifted to
float32 first. ``criterion.weight`` may be replaced at any time, which is all that deferred re-weighting (DRW)
does::

    criterion = LDAMLoss(class_counts)
    criterion.weight = effective_number_weights(class_counts).to(device)      # from the second stage on

A criterion has an empty ``state_dict``: it is rebuilt from its settings.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from safa.errors import UserError
from safa.weighting import ClassCounts, counts_tensor


def focal_loss(logits: Tensor, labels: Tensor, *, gamma: float = 1.0, weight: Tensor | None = None) -> Tensor:
    """Cross-entropy with easy images turned down: ``w_y (1 - p_y)^gamma (-log p_y)``.  [Lin et al. 2017]

    Args:
        logits, labels: shapes (n, k) and (n,); p is the softmax over classes.
        gamma: 0 is cross-entropy; LDAM-DRW uses 1, Lin et al. (with sigmoids) 2.
        weight: shape (k,) or None.

    Reading:
        LDAM-DRW computes p as exp(-w_y ce), so that a class weight also changes what counts as easy; here p
        is the model's probability. Without weights both agree. The mean is over images, not over weights, as
        there.
    """
    logits = _lifted(logits)
    ce = F.cross_entropy(logits, labels, reduction="none")
    # 1 - exp(-ce) without cancellation. Floored: with gamma < 1 its slope at p = 1 is inf and inf * 0 is nan.
    difficulty = (-torch.expm1(-ce)).clamp_min(torch.finfo(ce.dtype).tiny)
    loss = difficulty**gamma * ce
    if weight is not None:
        loss = weight.to(loss)[labels] * loss
    return loss.mean()


def ldam_margins(class_counts: ClassCounts, max_margin: float = 0.5) -> Tensor:
    """Margins in proportion to ``n_c^(-1/4)``, at most ``max_margin``.  [Cao et al. 2019, section 3.2]

    Returns:
        Shape (k,), float32, in units of cosine.

    Raises:
        UserError: if ``max_margin`` is negative.
    """
    if not max_margin >= 0:
        raise UserError(f"max_margin must be at least 0, got {max_margin}; LDAM-DRW uses 0.5 on CIFAR")
    counts = counts_tensor(class_counts).double()
    return (max_margin * (counts.min() / counts) ** 0.25).float()


def ldam_loss(
    logits: Tensor, labels: Tensor, margins: Tensor, *, scale: float = 30.0, weight: Tensor | None = None
) -> Tensor:
    """Cross-entropy after taking ``scale * margin_y`` off the true class's logit.  [Cao et al. 2019]

    Args:
        logits, labels: shapes (n, k) and (n,); logits of a ``CosineHead`` with the same scale.
        margins: shape (k,), from ``ldam_margins``.
        scale: the factor between cosines and logits.
        weight: shape (k,) or None; the mean divides by the sum of w_y.

    Reading:
        The released loss takes cosines and computes CE(s (cos - m)). Our logits are s cos already, so this is
        the same.
    """
    logits = _lifted(logits)
    margin = margins.to(logits)[labels].unsqueeze(1) * F.one_hot(labels, logits.shape[1])
    return _weighted_cross_entropy(logits - scale * margin, labels, weight)


def balanced_softmax_loss(
    logits: Tensor, labels: Tensor, class_counts: Tensor, *, weight: Tensor | None = None
) -> Tensor:
    """Cross-entropy of ``logits + log n``; evaluate with the bare logits.  [Ren et al. 2020, Theorem 1]

    Shapes: logits (n, k), labels (n,), class_counts (k,), weight (k,) or None.
    """
    logits = _lifted(logits)
    return _weighted_cross_entropy(logits + class_counts.to(logits).log(), labels, weight)


def logit_adjustment_loss(
    logits: Tensor, labels: Tensor, class_counts: Tensor, *, tau: float = 1.0, weight: Tensor | None = None
) -> Tensor:
    """Cross-entropy of ``logits + tau log(n / sum n)``; evaluate with the bare logits.  [Menon et al. 2021]

    Shapes: logits (n, k), labels (n,), class_counts (k,), weight (k,) or None.
    """
    logits = _lifted(logits)
    counts = class_counts.to(logits)
    return _weighted_cross_entropy(logits + tau * (counts / counts.sum()).log(), labels, weight)


class CrossEntropyLoss(nn.Module):
    """Softmax cross-entropy; with weights the mean divides by the sum of w_y, as torch does.

    Args:
        weight: class weights, shape (k,), or None.
        label_smoothing: in [0, 1].

    Raises:
        UserError: if ``label_smoothing`` is outside [0, 1].

    ``nn.CrossEntropyLoss`` is the same, but keeps its weight in the ``state_dict`` and half-precision logits
    as they are.
    """

    weight: Tensor | None

    def __init__(self, *, weight: Tensor | None = None, label_smoothing: float = 0.0) -> None:
        super().__init__()
        if not 0 <= label_smoothing <= 1:
            raise UserError(f"label_smoothing is a share, so in [0, 1], got {label_smoothing}")
        self.label_smoothing = label_smoothing
        self.register_buffer("weight", weight, persistent=False)

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        return _weighted_cross_entropy(_lifted(logits), labels, self.weight, label_smoothing=self.label_smoothing)

    def extra_repr(self) -> str:
        return f"label_smoothing={self.label_smoothing}, {_weighted(self.weight)}"


class FocalLoss(nn.Module):
    """``focal_loss`` with its settings.  [Lin et al. 2017]

    Args:
        gamma: 1 as in LDAM-DRW.
        weight: class weights, shape (k,), or None.

    Raises:
        UserError: if ``gamma`` is negative.

    Focal loss turns down easy *images*; class weights turn down large *classes*.
    """

    weight: Tensor | None

    def __init__(self, *, gamma: float = 1.0, weight: Tensor | None = None) -> None:
        super().__init__()
        if not gamma >= 0:
            raise UserError(f"gamma must be at least 0, got {gamma}; 0 is cross-entropy")
        self.gamma = gamma
        self.register_buffer("weight", weight, persistent=False)

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        return focal_loss(logits, labels, gamma=self.gamma, weight=self.weight)

    def extra_repr(self) -> str:
        return f"gamma={self.gamma}, {_weighted(self.weight)}"


class LDAMLoss(nn.Module):
    """``ldam_loss`` with its margins: the rarer the class, the wider its margin.  [Cao et al. 2019]

    Args:
        class_counts: shape (k,), positive integers.
        max_margin: the smallest class's margin, in units of cosine. 0.5 on CIFAR; RSG takes 0.3 on
            ImageNet-LT, 0.2 on Places-LT and 0.1 on iNaturalist.
        scale: the ``CosineHead``'s scale.
        weight: class weights, shape (k,), or None.

    Raises:
        UserError: if a count or ``scale`` is not positive or ``max_margin`` is negative; on a call, if the
            logits have another number of classes.

    LDAM moves the true class's logit by n^(-1/4); balanced softmax moves every logit by log n.
    """

    weight: Tensor | None
    margins: Tensor

    def __init__(
        self,
        class_counts: ClassCounts,
        *,
        max_margin: float = 0.5,
        scale: float = 30.0,
        weight: Tensor | None = None,
    ) -> None:
        super().__init__()
        if not scale > 0:
            raise UserError(f"scale must be positive, got {scale}; use the scale of the CosineHead")
        self.max_margin = max_margin
        self.scale = scale
        self.register_buffer("margins", ldam_margins(class_counts, max_margin), persistent=False)
        self.register_buffer("weight", weight, persistent=False)

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        _same_classes(self, logits, self.margins)
        return ldam_loss(logits, labels, self.margins, scale=self.scale, weight=self.weight)

    def extra_repr(self) -> str:
        return f"max_margin={self.max_margin}, scale={self.scale}, {_weighted(self.weight)}"


class BalancedSoftmaxLoss(nn.Module):
    """``balanced_softmax_loss`` with its class counts: softmax under the training prior.  [Ren et al. 2020]

    Args:
        class_counts: shape (k,), positive integers.
        weight: class weights, shape (k,), or None.

    Raises:
        UserError: if a count is not positive; on a call, if the logits have another number of classes.

    The same as logit adjustment with tau = 1, because softmax does not see the constant log(sum n).
    """

    weight: Tensor | None
    class_counts: Tensor

    def __init__(self, class_counts: ClassCounts, *, weight: Tensor | None = None) -> None:
        super().__init__()
        self.register_buffer("class_counts", counts_tensor(class_counts), persistent=False)
        self.register_buffer("weight", weight, persistent=False)

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        _same_classes(self, logits, self.class_counts)
        return balanced_softmax_loss(logits, labels, self.class_counts, weight=self.weight)

    def extra_repr(self) -> str:
        return _weighted(self.weight)


class LogitAdjustmentLoss(nn.Module):
    """``logit_adjustment_loss`` with its class counts.  [Menon et al. 2021]

    Args:
        class_counts: shape (k,), positive integers.
        tau: strength of the prior: 0 is cross-entropy, 1 is consistent for the balanced error.
        weight: class weights, shape (k,), or None.

    Raises:
        UserError: if a count is not positive or ``tau`` is negative; on a call, if the logits have another
            number of classes.

    This adjusts the logits in training; the post-hoc variant trains with cross-entropy and subtracts at test
    time.
    """

    weight: Tensor | None
    class_counts: Tensor

    def __init__(self, class_counts: ClassCounts, *, tau: float = 1.0, weight: Tensor | None = None) -> None:
        super().__init__()
        if not tau >= 0:
            raise UserError(f"tau must be at least 0, got {tau}; 0 is cross-entropy")
        self.tau = tau
        self.register_buffer("class_counts", counts_tensor(class_counts), persistent=False)
        self.register_buffer("weight", weight, persistent=False)

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        _same_classes(self, logits, self.class_counts)
        return logit_adjustment_loss(logits, labels, self.class_counts, tau=self.tau, weight=self.weight)

    def extra_repr(self) -> str:
        return f"tau={self.tau}, {_weighted(self.weight)}"


def _lifted(logits: Tensor) -> Tensor:
    """Half types to float32; float32 and float64 as they are."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def _weighted_cross_entropy(
    logits: Tensor, labels: Tensor, weight: Tensor | None, *, label_smoothing: float = 0.0
) -> Tensor:
    weight = None if weight is None else weight.to(logits)
    return F.cross_entropy(logits, labels, weight=weight, label_smoothing=label_smoothing)


def _same_classes(criterion: nn.Module, logits: Tensor, per_class: Tensor) -> None:
    if logits.shape[1] != len(per_class):
        raise UserError(
            f"{type(criterion).__name__} was built for {len(per_class)} classes but the logits have "
            f"{logits.shape[1]} columns; pass the class_counts of this data set"
        )


def _weighted(weight: Tensor | None) -> str:
    return "unweighted" if weight is None else "weighted"
