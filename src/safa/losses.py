"""Classification losses for long-tailed data, each as a function and as a module that holds its settings.

All of them read final logits (n, k) and labels, and return a scalar. Labels are class ids, shape (n,), int64,
or soft labels, shape (n, k), floating point: one probability per class, rows summing to 1, as mixup makes them.
Half-precision logits are lifted to float32 first. ``criterion.weight`` may be replaced at any time, which is all
that deferred re-weighting (DRW) does::

    criterion = LDAMLoss(class_counts)
    criterion.weight = effective_number_weights(class_counts).to(device)      # from the second stage on

A criterion has an empty ``state_dict``: it is rebuilt from its settings.

Reading, for soft labels p and class weights w:

- Row i loses ``sum_c p_ic w_c l_ic``, where l_ic is the loss it would have had with the label c. So the loss of
  a mixed image is the mixture of two losses, as in the released mixup, also where a loss is not linear in its
  label (LDAM, focal).
- The weighted mean divides by ``sum_i sum_c p_ic w_c``. A mixture of two weighted means, each divided by the weights
  of its own labels, is the same: a batch mixed with a permutation of itself has these sums alike. imbalanced-DL,
  whose mixup-DRW is public, divides by n instead, and its steps under DRW's weights are shorter.

``reduction="none"`` returns what the mean sums up, one loss per row with its weight in it, shape (n,).

Logits, labels or weights of another shape raise ``UserError``. Class ids out of range do not, for looking at them would
wait for the device. Torch refuses them, but for -100, its ``ignore_index``: in cross-entropy, balanced softmax and
logit adjustment such a row counts for nothing, silently. LDAM has no margin for it and ends in torch's error; focal
loss divides by it as well. Leave such rows out.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from safa.errors import UserError
from safa.precision import lifted
from safa.weighting import ClassCounts, counts_tensor

Reduction = Literal["mean", "none"]
"""A scalar, or one loss per row, shape (n,)."""


def focal_loss(
    logits: Tensor,
    labels: Tensor,
    *,
    gamma: float = 1.0,
    released: bool = False,
    weight: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Cross-entropy with easy images turned down: ``w_y (1 - p_y)^gamma (-log p_y)``.  [Lin et al. 2017]

    Args:
        logits, labels: shapes (n, k) and (n,) or (n, k); p is the softmax over classes.
        gamma: 0 is cross-entropy; LDAM-DRW uses 1, Lin et al. (with sigmoids) 2.
        released: as LDAM-DRW's code computes it; differs where there are weights.
        weight: shape (k,) or None.
        reduction: mean over images, or none.

    Reading:
        LDAM-DRW's code computes p as exp(-w_y ce), so that a class weight also changes what counts as easy; here
        p is the model's probability unless ``released``. The mean is over images, not over weights, as there.
    """
    logits = lifted(logits)
    soft = _soft(logits, labels, weight)
    ce = -logits.log_softmax(1) if soft else F.cross_entropy(logits, labels, reduction="none")
    weighted = ce
    if weight is not None:
        weighted = (weight.to(ce) if soft else weight.to(ce)[labels]) * ce
    # 1 - exp(-ce) without cancellation. Floored: with gamma < 1 its slope at p = 1 is inf and inf * 0 is nan.
    difficulty = (-torch.expm1(-(weighted if released else ce))).clamp_min(torch.finfo(ce.dtype).tiny)
    loss = difficulty**gamma * weighted
    if soft:
        loss = (labels.to(loss) * loss).sum(1)
    return loss if _known(reduction) == "none" else loss.mean()


def ldam_margins(class_counts: ClassCounts, max_margin: float = 0.5) -> Tensor:
    """Margins in proportion to ``n_c^(-1/4)``, at most ``max_margin``.  [Cao et al. 2019, section 3.2]

    Returns:
        Shape (k,), float32, in units of cosine.

    Raises:
        UserError: if ``max_margin`` is negative or infinite, or counts are not one whole number per class, each at
            least 1.
    """
    if not 0 <= max_margin < math.inf:
        raise UserError(f"max_margin must be at least 0, got {max_margin}; LDAM-DRW uses 0.5 on CIFAR")
    counts = counts_tensor(class_counts)
    exact = counts.cpu().double()  # not every device has it
    return (max_margin * (exact.min() / exact) ** 0.25).float().to(counts.device)


def ldam_loss(
    logits: Tensor,
    labels: Tensor,
    margins: Tensor,
    *,
    scale: float = 30.0,
    weight: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Cross-entropy after taking ``scale * margin_y`` off the true class's logit.  [Cao et al. 2019]

    Args:
        logits, labels: shapes (n, k) and (n,) or (n, k); logits of a ``CosineHead`` with the same scale.
        margins: shape (k,), from ``ldam_margins``.
        scale: the factor between cosines and logits.
        weight: shape (k,) or None; the mean divides by the sum of w_y.
        reduction: mean or none.

    Reading:
        The released loss takes cosines and computes CE(s (cos - m)). Our logits are s cos already, so this is
        the same. With soft labels a row is every class in turn: l_ic has the margin of class c on logit c alone.
    """
    logits = lifted(logits)
    if _soft(logits, labels, weight):
        losses = -F.logsigmoid(_log_odds(logits) - scale * margins.to(logits))
        shares = _shares(labels, weight, losses)
        return _reduced((shares * losses).sum(1), shares, reduction)
    of_true = labels.unsqueeze(1)
    margin = scale * margins.to(logits)[of_true]
    return _weighted_cross_entropy(logits.scatter_add(1, of_true, -margin), labels, weight, reduction)


def balanced_softmax_loss(
    logits: Tensor,
    labels: Tensor,
    class_counts: Tensor,
    *,
    weight: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Cross-entropy of ``logits + log n``; evaluate with the bare logits.  [Ren et al. 2020, Theorem 1]

    Shapes: logits (n, k), labels (n,) or (n, k), class_counts (k,), weight (k,) or None.
    """
    logits = lifted(logits)
    return _weighted_cross_entropy(logits + class_counts.to(logits).log(), labels, weight, reduction)


def logit_adjustment_loss(
    logits: Tensor,
    labels: Tensor,
    class_counts: Tensor,
    *,
    tau: float = 1.0,
    weight: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Cross-entropy of ``logits + tau log(n / sum n)``; evaluate with the bare logits.  [Menon et al. 2021]

    Shapes: logits (n, k), labels (n,) or (n, k), class_counts (k,), weight (k,) or None.
    """
    logits = lifted(logits)
    counts = class_counts.to(logits)
    return _weighted_cross_entropy(logits + tau * (counts / counts.sum()).log(), labels, weight, reduction)


class CrossEntropyLoss(nn.Module):
    """Softmax cross-entropy; with weights the mean divides by the sum of w_y, as torch does.

    Args:
        weight: class weights, shape (k,), or None.
        label_smoothing: in [0, 1]; soft labels are smoothed as they are.
        reduction: mean or none.

    Raises:
        UserError: if ``label_smoothing`` is outside [0, 1].

    ``nn.CrossEntropyLoss`` is the same, but keeps its weight in the ``state_dict`` and half-precision logits
    as they are.
    """

    weight: Tensor | None

    def __init__(
        self, *, weight: Tensor | None = None, label_smoothing: float = 0.0, reduction: Reduction = "mean"
    ) -> None:
        super().__init__()
        if not 0 <= label_smoothing <= 1:
            raise UserError(f"label_smoothing is a share, so in [0, 1], got {label_smoothing}")
        self.label_smoothing = label_smoothing
        self.reduction = _known(reduction)
        self.register_buffer("weight", weight, persistent=False)

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        return _weighted_cross_entropy(
            lifted(logits), labels, self.weight, self.reduction, label_smoothing=self.label_smoothing
        )

    def extra_repr(self) -> str:
        return f"label_smoothing={self.label_smoothing}, {_shown(self.weight, self.reduction)}"


class FocalLoss(nn.Module):
    """``focal_loss`` with its settings.  [Lin et al. 2017]

    Args:
        gamma: 1 as in LDAM-DRW.
        released: as LDAM-DRW's code treats class weights, see ``focal_loss``.
        weight: class weights, shape (k,), or None.
        reduction: mean or none.

    Raises:
        UserError: if ``gamma`` is negative or infinite.

    Focal loss turns down easy *images*; class weights turn down large *classes*.
    """

    weight: Tensor | None

    def __init__(
        self,
        *,
        gamma: float = 1.0,
        released: bool = False,
        weight: Tensor | None = None,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__()
        if not 0 <= gamma < math.inf:
            raise UserError(f"gamma must be at least 0, got {gamma}; 0 is cross-entropy")
        self.gamma, self.released = gamma, released
        self.reduction = _known(reduction)
        self.register_buffer("weight", weight, persistent=False)

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        return focal_loss(
            logits, labels, gamma=self.gamma, released=self.released, weight=self.weight, reduction=self.reduction
        )

    def extra_repr(self) -> str:
        released = ", released" if self.released else ""
        return f"gamma={self.gamma}{released}, {_shown(self.weight, self.reduction)}"


class LDAMLoss(nn.Module):
    """``ldam_loss`` with its margins: the rarer the class, the wider its margin.  [Cao et al. 2019]

    Args:
        class_counts: shape (k,), positive integers.
        max_margin: the smallest class's margin, in units of cosine. 0.5 on CIFAR; RSG takes 0.3 on
            ImageNet-LT, 0.2 on Places-LT and 0.1 on iNaturalist.
        scale: the ``CosineHead``'s scale.
        weight: class weights, shape (k,), or None.
        reduction: mean or none.

    Raises:
        UserError: if a count is not positive, or ``scale`` or ``max_margin`` out of range; on a call, if the
            logits have another number of classes.

    LDAM moves the true class's logit by n^(-1/4); balanced softmax moves every logit by log n.
    """

    weight: Tensor | None
    margins: Tensor

    of_cosines = True
    """Its logits are to be those of a ``CosineHead``: a margin of plain logits is another loss."""

    def __init__(
        self,
        class_counts: ClassCounts,
        *,
        max_margin: float = 0.5,
        scale: float = 30.0,
        weight: Tensor | None = None,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__()
        if not 0 < scale < math.inf:
            raise UserError(f"scale must be positive, got {scale}; use the scale of the CosineHead")
        self.max_margin = max_margin
        self.scale = scale
        self.reduction = _known(reduction)
        self.register_buffer("margins", ldam_margins(class_counts, max_margin), persistent=False)
        self.register_buffer("weight", weight, persistent=False)

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        _same_classes(self, logits, self.margins)
        return ldam_loss(logits, labels, self.margins, scale=self.scale, weight=self.weight, reduction=self.reduction)

    def extra_repr(self) -> str:
        return f"max_margin={self.max_margin}, scale={self.scale}, {_shown(self.weight, self.reduction)}"


class BalancedSoftmaxLoss(nn.Module):
    """``balanced_softmax_loss`` with its class counts: softmax under the training prior.  [Ren et al. 2020]

    Args:
        class_counts: shape (k,), positive integers.
        weight: class weights, shape (k,), or None.
        reduction: mean or none.

    Raises:
        UserError: if a count is not positive; on a call, if the logits have another number of classes.

    The same as logit adjustment with tau = 1, because softmax does not see the constant log(sum n).
    """

    weight: Tensor | None
    class_counts: Tensor

    def __init__(
        self, class_counts: ClassCounts, *, weight: Tensor | None = None, reduction: Reduction = "mean"
    ) -> None:
        super().__init__()
        self.reduction = _known(reduction)
        self.register_buffer("class_counts", counts_tensor(class_counts), persistent=False)
        self.register_buffer("weight", weight, persistent=False)

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        _same_classes(self, logits, self.class_counts)
        return balanced_softmax_loss(logits, labels, self.class_counts, weight=self.weight, reduction=self.reduction)

    def extra_repr(self) -> str:
        return _shown(self.weight, self.reduction)


class LogitAdjustmentLoss(nn.Module):
    """``logit_adjustment_loss`` with its class counts.  [Menon et al. 2021]

    Args:
        class_counts: shape (k,), positive integers.
        tau: strength of the prior: 0 is cross-entropy, 1 is consistent for the balanced error.
        weight: class weights, shape (k,), or None.
        reduction: mean or none.

    Raises:
        UserError: if a count is not positive or ``tau`` is out of range; on a call, if the logits have another
            number of classes.

    This adjusts the logits in training; the post-hoc variant trains with cross-entropy and subtracts at test
    time.
    """

    weight: Tensor | None
    class_counts: Tensor

    def __init__(
        self,
        class_counts: ClassCounts,
        *,
        tau: float = 1.0,
        weight: Tensor | None = None,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__()
        if not 0 <= tau < math.inf:
            raise UserError(f"tau must be at least 0, got {tau}; 0 is cross-entropy")
        self.tau = tau
        self.reduction = _known(reduction)
        self.register_buffer("class_counts", counts_tensor(class_counts), persistent=False)
        self.register_buffer("weight", weight, persistent=False)

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        _same_classes(self, logits, self.class_counts)
        return logit_adjustment_loss(
            logits, labels, self.class_counts, tau=self.tau, weight=self.weight, reduction=self.reduction
        )

    def extra_repr(self) -> str:
        return f"tau={self.tau}, {_shown(self.weight, self.reduction)}"


def _soft(logits: Tensor, labels: Tensor, weight: Tensor | None) -> bool:
    """Whether these are soft labels; refuses labels and weights whose shape or type is not theirs."""
    if logits.dim() != 2:
        raise UserError(f"logits have one row per label, shape (n, k), got {tuple(logits.shape)}; flatten them to that")
    n, k = logits.shape
    if weight is not None and weight.shape != (k,):
        raise UserError(
            f"weight holds one number per class, shape ({k},) for logits with {k} columns, got {tuple(weight.shape)}; "
            "pass the class weights of this data set"
        )
    if labels.is_floating_point() and labels.shape != (n, k):
        raise UserError(
            f"soft labels hold one probability per row and class, shape ({n}, {k}) like the logits, got "
            f"{tuple(labels.shape)}; class ids have shape (n,) and are int64"
        )
    if not labels.is_floating_point() and labels.shape != (n,):
        raise UserError(
            f"class ids have one number per row, shape ({n},), got {labels.dtype} of shape {tuple(labels.shape)}; "
            "soft labels, one-hot ones too, are floating point"
        )
    if not labels.is_floating_point() and labels.dtype != torch.int64:  # bytes would index as a mask
        raise UserError(f"class ids are int64, got {labels.dtype}; pass labels.long()")
    return labels.is_floating_point()


def _weighted_cross_entropy(
    logits: Tensor, labels: Tensor, weight: Tensor | None, reduction: Reduction, *, label_smoothing: float = 0.0
) -> Tensor:
    weight = None if weight is None else weight.to(logits)
    if not _soft(logits, labels, weight):
        reduction = _known(reduction)  # torch knows more of them
        return F.cross_entropy(logits, labels, weight=weight, reduction=reduction, label_smoothing=label_smoothing)
    shares = _shares(labels, weight, logits)  # those of the labels as given: torch divides by w_y, smoothed or not
    labels = labels.to(logits)
    rows = F.cross_entropy(logits, labels, weight=weight, reduction="none", label_smoothing=label_smoothing)
    return _reduced(rows, shares, reduction)


def _log_odds(logits: Tensor) -> Tensor:
    """``z_c - log sum_{j != c} exp(z_j)``: each class against all the others together, shape (n, k).

    It is ``log p - log(1 - p)``; where p is near 1, which only the largest logit's can be, 1 - p has no digits
    left, and the others are summed up without it.
    """
    largest = logits.argmax(1, keepdim=True)
    # Filled with the lowest number: with -inf, the gradient of a sum over nothing (one class) would be nan.
    others = logits.scatter(1, largest, torch.finfo(logits.dtype).min).logsumexp(1, keepdim=True)
    log_p = logits.log_softmax(1)
    # Not p = 1 either: its infinite slope would reach the gradient as 0 * inf, though its place is overwritten.
    log_rest = torch.log1p(-log_p.exp().scatter(1, largest, 0))
    return (log_p - log_rest).scatter(1, largest, logits.gather(1, largest) - others)


def _shares(labels: Tensor, weight: Tensor | None, like: Tensor) -> Tensor:
    """How much each class counts in each row: p_ic w_c, shape (n, k)."""
    return labels.to(like) if weight is None else labels.to(like) * weight.to(like)


def _reduced(rows: Tensor, shares: Tensor, reduction: Reduction) -> Tensor:
    return rows if _known(reduction) == "none" else rows.sum() / shares.sum()


def _known(reduction: Reduction) -> Reduction:
    if reduction not in ("mean", "none"):
        raise UserError(f"reduction must be 'mean' or 'none', got {reduction!r}")
    return reduction


def _same_classes(criterion: nn.Module, logits: Tensor, per_class: Tensor) -> None:
    if logits.shape[-1] != len(per_class):
        raise UserError(
            f"{type(criterion).__name__} was built for {len(per_class)} classes but the logits have "
            f"{logits.shape[-1]} columns; pass the class_counts of this data set"
        )


def _shown(weight: Tensor | None, reduction: Reduction) -> str:
    """What all criteria show of themselves: the mean is not worth a word."""
    weighted = "unweighted" if weight is None else "weighted"
    return weighted if reduction == "mean" else f"{weighted}, reduction={reduction!r}"
