"""What an augmenter takes and gives back, and what a forward pass with one returns."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from torch import Tensor


@dataclass(frozen=True)
class Augmented:
    """A batch of features after an augmenter saw it.

    Attributes:
        features: shape (b + a, …). Rows ``[0, b)`` are the real features in input order, the rest generated.
        labels: shape (b + a,), int64; the labels of these rows.
        loss: scalar, the augmenter's own weighted loss; 0 when nothing was augmented.
        terms: name -> unweighted scalar of every term in ``loss``, detached, for logging.
    """

    features: Tensor
    labels: Tensor
    loss: Tensor
    terms: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Output:
    """What ``PlugIn`` returns for one batch.

    Attributes:
        logits: shape (b + a, k). Rows ``[0, b)`` belong to the real images in input order.
        labels: shape (b + a,), int64, one per row of ``logits``; None when the call had no labels.
        loss: scalar to add to the classification loss (Eq. 1 without L_cls); 0 when idle.
        terms: name -> unweighted scalar, detached, for logging.
    """

    logits: Tensor
    labels: Tensor | None
    loss: Tensor
    terms: dict[str, Tensor] = field(default_factory=dict)


@runtime_checkable
class Augmenter(Protocol):
    """Anything that can sit on the input of a layer: usually an ``nn.Module``.

    ``active`` says whether rows may be generated. An augmenter that also learns while it generates nothing
    (RSG learns its class centres from the first epoch) sets ``learns_while_idle`` and is then called too.
    """

    active: bool
    learns_while_idle: bool

    def __call__(self, features: Tensor, labels: Tensor) -> Augmented:
        """Return the real rows, in order, followed by any generated ones."""
        ...
