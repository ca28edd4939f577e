"""What an augmenter takes and gives back, and what a forward pass with one returns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from typing import Protocol, runtime_checkable

from torch import Tensor, nn
from torch.utils._pytree import register_pytree_node


@dataclass(frozen=True)
class Augmented:
    """A batch of features after an augmenter saw it.

    Attributes:
        features: shape (b + a, …). Rows ``[0, b)`` are the real features in input order, the rest generated. A
            mixing augmenter puts b mixed rows in place of the real ones, and a is 0: row i is the real row i
            with its part of another.
        labels: shape (b + a,), int64; the labels of these rows. Mixed rows have soft labels, shape (b, k): one
            probability per class, floating point, each row with sum 1.
        loss: scalar, the augmenter's own weighted loss; 0 when nothing was augmented.
        terms: name -> unweighted scalar of every term in ``loss``, detached, for logging.
        diagnostics: name -> scalar of what is only looked at, detached, for logging. It is in no loss, and NaN where
            the batch has nothing to measure it on.
    """

    features: Tensor
    labels: Tensor
    loss: Tensor
    terms: dict[str, Tensor] = field(default_factory=dict)
    diagnostics: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Output:
    """What ``PlugIn`` returns for one batch.

    Attributes:
        logits: shape (b + a, k). Rows ``[0, b)`` belong to the real images in input order, or to their mixtures.
        labels: one per row of ``logits``: class ids, shape (b + a,), int64, or soft labels, shape (b, k), where
            rows were mixed. Where the augmenter was not called, as they were given, class ids as int64, or None.
        loss: scalar to add to the classification loss (Eq. 1 without L_cls); 0 when idle.
        terms: name -> unweighted scalar, detached, for logging.
        diagnostics: name -> scalar of what is only looked at, detached, for logging; as in ``Augmented``.
    """

    logits: Tensor
    labels: Tensor | None
    loss: Tensor
    terms: dict[str, Tensor] = field(default_factory=dict)
    diagnostics: dict[str, Tensor] = field(default_factory=dict)


# DDP hands a module's output to autograd by way of the tensors that it finds in it. One in which it finds none it takes
# for constant: with static_graph it would then add no gradients up, and say nothing.
register_pytree_node(
    Output,
    lambda output: ([getattr(output, member.name) for member in fields(Output)], None),
    lambda members, _: Output(*members),
)


@runtime_checkable
class Augmenter(Protocol):
    """Anything that can sit on the input of a layer: usually an ``nn.Module``.

    ``active`` says whether rows may be generated. An augmenter that also learns while it generates nothing
    (RSG learns its class centres from the first epoch) sets ``learns_while_idle`` and is then called too.

    One that mixes rows with each other (Mixup) has an attribute ``mixes = True`` besides. It returns as many rows
    as it is given, with soft labels, and takes soft labels too; all others are given class ids alone.
    """

    active: bool
    learns_while_idle: bool

    def __call__(self, features: Tensor, labels: Tensor) -> Augmented:
        """Return the real rows, in order, followed by any generated ones; or as many rows, mixed.

        Class ids are int64 and, on the CPU, not negative.
        """
        ...


def mixes(augmenter: object) -> bool:
    """Whether an augmenter, or its class, mixes rows with each other; see ``Augmenter``."""
    return bool(getattr(augmenter, "mixes", False))


@dataclass(frozen=True)
class Fitting:
    """The data a head is fitted to, in features: what enters the classifier.

    Attributes:
        class_counts: training images per class, shape (k,).
        train: computes, on call, features (n, d) and labels (n,) of the training images, as they are (not
            augmented), by the network in evaluation mode, in float32.
        validation: the same of the validation images; None where the data have none.
    """

    class_counts: Sequence[int]
    train: Callable[[], tuple[Tensor, Tensor]]
    validation: Callable[[], tuple[Tensor, Tensor]] | None = None


@runtime_checkable
class Refitted(Protocol):
    """A head that starts from the one before it, or from the features: an ``nn.Module`` besides."""

    def refit(self, former: nn.Module, fitting: Fitting) -> None:
        """Take over what is wanted; called once, when the head's stage begins. A restored head is not refitted."""
        ...


@dataclass(frozen=True)
class Lookahead:
    """All that is seen when images are weighed by looking one training step ahead.

    Attributes:
        network: maps images to logits (n, k), in training mode; parameters, buffers and gradients stay untouched.
        losses: logits (n, k), labels (n,) -> loss of each row (n,).
        images, labels: the batch of the step.
        meta_images, meta_labels: a batch of the balanced meta set.
        lr: learning rate of the step.
    """

    network: nn.Module
    losses: Callable[[Tensor, Tensor], Tensor]
    images: Tensor
    labels: Tensor
    meta_images: Tensor
    meta_labels: Tensor
    lr: float
