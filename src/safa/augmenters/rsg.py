"""RSG: rare-class sample generator.  [Wang et al., CVPR 2021; released code, commit 3c50745]"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from safa.augmenters.layout import Layout, TailAugmenter, zero_beside, zero_of
from safa.augmenters.pairing import random_pairs
from safa.classes import HEAD_RATIO
from safa.devices import CPU, placed
from safa.errors import UserError
from safa.precision import lifted, without_autocast
from safa.types import Augmented
from safa.weighting import ClassCounts


class RSG(TailAugmenter):
    """Move tail features by what is left of a head feature when the centre nearest to it is taken away.

    Every class has a few centres, learnt from the first epoch. A generated row is ``F_t + T(F_h - c_h)``.

    Args:
        channels: c of the features: (n, c, h, w), (n, t, c) or (n, c).
        class_counts: training images per class, shape (k,); see ``safa.classes.head_classes``.
        head_ratio: share of the classes that are head; all others are tail.
        layout: ``map`` for (n, c, h, w), the published case, ``tokens`` for (n, t, c), ``vector`` for (n, c).
        num_centers: per class; 15 in the authors' networks.
        contrastive_dim: width of Q; 256 in the authors' networks.
        transfer_strength: generated rows per head row (or tail row, if there are more of these), about.
        cesc: weight of the centre-estimation and sample-contrastive loss, at every training step.
        mv: weight of the maximised-vector loss, while rows are generated.
        released: compute L_mv as the released code does; see ``maximized_vector``.

    Reading:
        - ``active`` stands for the code's "epoch above the threshold". Idle, L_cesc trains the centres and Q,
          and T stands still; active, T learns, and Q is frozen. What stands still has ``requires_grad`` off,
          so that weight decay leaves it alone: set ``active`` before the module is wrapped in DDP, and wrap
          it anew when it changes. Give the optimizer all parameters, not those that require gradients just then.
        - The authors' command has two GPUs under DataParallel: rows are paired there, and batch norm sees them, in
          halves of the batch.
        - Pairs for Q are random. The code pairs row i with row i + n/2, which is the same in a shuffled batch
          but gives same-class pairs alone under a pair sampler.
        - Head and tail rows meet as in the code: the fewer are used ``int(more * strength / fewer)`` times,
          at least once, with the more in order. At a strength above 1 the code runs out of rows and fails;
          here they are used again.
        - Gradients stop where the code stops them: at the features, and in L_mv at centres and assignments.

    Raises:
        UserError: if an option is out of range, or there are fewer than two classes.

    SAFA takes the difference of two head features where RSG takes the difference to a learnt centre, and its
    D sees the tail feature, which RSG's T does not.
    """

    learns_while_idle = True

    def __init__(
        self,
        channels: int,
        class_counts: ClassCounts,
        *,
        head_ratio: float = HEAD_RATIO,
        layout: Layout = "map",
        num_centers: int = 15,
        contrastive_dim: int = 256,
        transfer_strength: float = 1.0,
        cesc: float = 0.1,
        mv: float = 0.01,
        released: bool = False,
    ) -> None:
        super().__init__(channels, class_counts, head_ratio=head_ratio, layout=layout)
        _check(num_centers, contrastive_dim, transfer_strength, cesc, mv)
        self.transfer_strength, self.cesc, self.mv, self.released = transfer_strength, cesc, mv, released
        classes = len(self.is_head)
        self.assignment_weight = nn.Parameter(torch.randn(classes, channels, num_centers))
        self.assignment_bias = nn.Parameter(torch.ones(classes, num_centers))
        self.centers = nn.Parameter(torch.zeros(classes, num_centers, channels))
        self.transformation = _conv(channels, channels, self.kernel)  # T
        self.pair_classifier = _PairClassifier(2 * channels, contrastive_dim, self.kernel)  # Q
        self.active = True

    @property
    def active(self) -> bool:
        """Whether rows are generated. Setting it decides what learns: T while active, Q while idle."""
        return self._active

    @active.setter
    def active(self, value: bool) -> None:
        self._active = value
        for module, learns in ((self.transformation, value), (self.pair_classifier, not value)):
            for parameter in module.parameters():
                parameter.requires_grad_(learns)
                if not learns:  # a loop may set gradients to 0, by which momentum and decay would go on
                    parameter.grad = None

    def forward(self, features: Tensor, labels: Tensor) -> Augmented:
        """Real rows in order, then the generated ones: none in evaluation, or without head or tail row.

        Args:
            features: shape (n, c, h, w), (n, t, c) or (n, c), as ``layout`` says.
            labels: shape (n,), int64.

        Raises:
            UserError: if the features have another number of channels or dimensions than RSG was built for.
        """
        maps = self.as_maps(features)
        if not self.training:
            return Augmented(features, labels, zero_beside(features))
        if len(labels) == 0:
            return Augmented(features, labels, zero_of(self))
        source, (_, is_head) = maps.detach(), self.labels_and_heads(labels, len(features))
        assignment = self.assign(source, labels)
        values = {"cesc": self._center_estimation(source, labels, assignment)} if self.cesc else {}
        head, tail = placed(features.device, *self._meet(is_head if self.active else is_head[:0]))
        rows, new_labels = features, labels
        if len(head):
            center = self.centers.detach()[labels, assignment.argmax(dim=1)]
            deviation = lifted(source) - center[:, :, None, None]
            variation = deviation[head]
            moved = self.transformation(variation.to(self.transformation.weight.dtype))
            if self.mv:
                values["mv"] = self._maximized_vector(source[head], variation, moved, deviation[tail])
            rows = self.grown(features, source[tail] + moved)
            new_labels = torch.cat([labels, labels[tail]])
        loss = sum((getattr(self, name) * value for name, value in values.items()), zero_of(self))
        return Augmented(rows, new_labels, loss, {name: value.detach() for name, value in values.items()})

    def assign(self, maps: Tensor, labels: Tensor) -> Tensor:
        """How much of each row belongs to each centre of its class: softmax over centres, (n, centres)."""
        with without_autocast(maps):
            pooled = lifted(maps).mean(dim=(2, 3))
            logits = torch.einsum("nc,nck->nk", pooled, lifted(self.assignment_weight[labels]))
            return (logits + self.assignment_bias[labels]).softmax(dim=1)

    def extra_repr(self) -> str:
        strength = f"num_centers={self.centers.shape[1]}, transfer_strength={self.transfer_strength}"
        return f"{super().extra_repr()}, {strength}, cesc={self.cesc}, mv={self.mv}, released={self.released}"

    def _center_estimation(self, source: Tensor, labels: Tensor, assignment: Tensor) -> Tensor:
        """L_cesc: centres near the rows they are assigned, and, while idle, Q on pairs of the batch."""
        term = centers_loss(source, self.centers[labels], assignment)
        if not self.active and len(labels) > 1:
            first, second = placed(labels.device, *random_pairs(len(labels)))
            logits = self.pair_classifier(torch.cat([source[first], source[second]], dim=1))
            term = term + F.cross_entropy(lifted(logits), (labels[first] == labels[second]).long())
        return term

    def _maximized_vector(self, head: Tensor, variation: Tensor, moved: Tensor, direction: Tensor) -> Tensor:
        """L_mv: Q must find nothing of the head class in T's output, whose length and direction are given."""
        logits = lifted(self.pair_classifier(torch.cat([head, moved.to(head.dtype)], dim=1)))
        no_class_left = F.cross_entropy(logits, torch.zeros(len(head), dtype=torch.long, device=head.device))
        return no_class_left + maximized_vector(variation, moved, direction, self.released)

    def _meet(self, is_head: Tensor) -> tuple[Tensor, Tensor]:
        """Rows (head, tail) to be combined, on the CPU; both empty when either is missing."""
        head, tail = is_head.nonzero().squeeze(1), (~is_head).nonzero().squeeze(1)
        fewer, more = sorted((len(head), len(tail)))
        if fewer == 0:
            return head[:0], tail[:0]
        segments = max(1, int(more * self.transfer_strength / fewer))
        row = torch.arange(segments * fewer, device=CPU)
        return head[row % len(head)], tail[row % len(tail)]


def centers_loss(maps: Tensor, centers: Tensor, assignment: Tensor) -> Tensor:
    """Squared distance of maps to their classes' centres, weighed by the assignment.  [RSG, L_cesc]

    Args:
        maps: shape (n, c, h, w).
        centers: shape (n, k, c), those of each row's class; a centre is the same at every position.
        assignment: shape (n, k), rows sum to 1.

    Returns:
        Scalar: the mean over rows of ``sum_k assignment_k |map - center_k|^2``, summed over (c, h, w).
    """
    maps = lifted(maps)
    pooled = maps.mean(dim=(2, 3))
    # To every position the distance is that of the mean plus a spread about it that no centre can change, so
    # the (n, k, c, h, w) differences of the released code are never built.
    spread = (maps - pooled[:, :, None, None]).square().sum(dim=(1, 2, 3))
    distance = (pooled[:, None] - centers).square().sum(dim=2) * (maps.shape[2] * maps.shape[3])
    return ((assignment * distance).sum(dim=1) + spread * assignment.sum(dim=1)).mean()


def maximized_vector(variation: Tensor, moved: Tensor, direction: Tensor, released: bool = False) -> Tensor:
    """Keep the length of a variation while turning it to the tail sample's own deviation.  [RSG, L_mv]

    Args:
        variation: F_h - c_h, shape (n, c, h, w).
        moved: T(variation), same shape.
        direction: F_t - c_t, same shape.
        released: as the released code computes it.

    Returns:
        Scalar: the mean over pairs of the sum over positions p, whose vectors run over channels, of
        ``| |moved_p| - |variation_p| | + |cos(moved_p, direction_p) - 1|``.

    Reading:
        The released code writes ``.view(-1, c)`` on (n, c, h, w), which groups c values in memory order, most
        of them of one channel, and compares products of elements of unit vectors with 1, not their sum. The
        second adds c - 1 per vector and nothing to the gradient, for no product exceeds 1; the first differs.
    """
    c = variation.shape[1]

    def vectors(maps: Tensor) -> Tensor:
        return lifted(maps).reshape(len(maps), -1, c) if released else lifted(maps).flatten(2).transpose(1, 2)

    variation, moved, direction = vectors(variation), vectors(moved), vectors(direction)
    norm = torch.linalg.vector_norm
    length = (norm(moved, dim=2) - norm(variation, dim=2)).abs()
    products = F.normalize(direction, dim=2) * F.normalize(moved, dim=2)
    turned = (products - 1).abs() if released else (products.sum(dim=2) - 1).abs()
    total: Tensor = (length.sum() + turned.sum()) / len(variation)
    return total


class _PairClassifier(nn.Module):
    """Q: do two features, concatenated by channel, belong to one class? Logits of no and yes."""

    def __init__(self, channels: int, width: int, kernel: int) -> None:
        super().__init__()
        self.first = _conv(channels, width, 1)
        self.second = _conv(width, width, kernel)
        self.fc = nn.Linear(width, 2)
        nn.init.normal_(self.fc.weight)
        nn.init.zeros_(self.fc.bias)

    def forward(self, pairs: Tensor) -> Tensor:
        """(n, 2c, h, w) -> (n, 2)."""
        logits: Tensor = self.fc(self.second(F.relu(self.first(pairs))).mean(dim=(2, 3)))
        return logits


def _conv(inputs: int, outputs: int, kernel: int) -> nn.Conv2d:
    """With the start of the released code."""
    layer = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2)
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    nn.init.kaiming_normal_(layer.weight)
    return layer


def _check(num_centers: int, contrastive_dim: int, transfer_strength: float, cesc: float, mv: float) -> None:
    for name, size in (("num_centers", num_centers), ("contrastive_dim", contrastive_dim)):
        if size < 1:
            raise UserError(f"{name} must be at least 1, got {size}")
    if not 0 < transfer_strength < math.inf:
        raise UserError(f"transfer_strength is generated rows per row, above 0, got {transfer_strength}")
    for name, weight in (("cesc", cesc), ("mv", mv)):
        if not 0 <= weight < math.inf:
            raise UserError(f"{name} is a weight of at least 0, got {weight}")
