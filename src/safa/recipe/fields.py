"""The parts of a recipe, as frozen dataclasses."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from safa.classes import HEAD_RATIO

Precision = Literal["float32", "bf16", "fp16"]


@dataclass(frozen=True)
class Named:
    """Something chosen by name with its options: ``ldam`` or ``{name: ldam, max_margin: 0.3}`` in YAML.

    The names are listed by ``safa list``; ``package.module:Class`` takes your own.
    """

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Augmenter:
    """A feature augmenter and the layer it sits before.

    Attributes:
        name: as in ``safa list augmenter``, or ``package.module:Class``.
        before: layer whose input is augmented; the backbone's own default when empty.
        lr_scale: factor on the learning rate of the augmenter's parameters.
        options: everything else in the mapping, given to the augmenter's constructor.
    """

    name: str
    before: str | None = None
    lr_scale: float = 1.0
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Data:
    """Which images, and how long the tail is. See ``safa.data``.

    Attributes:
        name: digits, fashion-mnist, cifar10, cifar100, or the path of an image folder or CSV file.
        root: folder of a named data set; ``SAFA_DATA`` when empty.
        profile: exponential or step tail, or the counts as found.
        imbalance_factor: images of the largest over images of the smallest class, at least 1.
        largest: images of the largest class; as many as there are when empty.
        order: which images of a class are kept: ``ldam`` shuffles, ``rsg`` takes the first.
        subset_seed: seed of that shuffle; not the seed of the training.
        validation: fraction of every class's training images set aside.
        validation_per_class: in its place, images of every class alike, first of those that the tail leaves out.
        validation_from: ``left_out`` takes none of the training images, so that classes may have fewer.
        meta_per_class: images of every class taken out of training first, as the balanced set that meta
            re-weighting steers by; see ``Stage.reweighting``.
        image_size: side of the square that files are decoded to.
        on_corrupt: stop at an unreadable image or skip it.
        augmentation: of the training images; the data set's own default when empty.
        many_above, few_below: a class is many-shot above, few-shot below so many training images.
        head_ratio: share of the classes, by count, that are called head.
    """

    name: str = "digits"
    root: str | None = None
    profile: Literal["exponential", "step", "as_found"] = "exponential"
    imbalance_factor: float = 100.0
    largest: int | None = None
    order: Literal["ldam", "rsg"] = "ldam"
    subset_seed: int = 0
    validation: float = 0.0
    validation_per_class: int = 0
    validation_from: Literal["any", "left_out"] = "any"
    meta_per_class: int = 0
    image_size: int | None = None
    on_corrupt: Literal["stop", "skip"] = "stop"
    augmentation: Named | None = None
    many_above: int = 100
    few_below: int = 20
    head_ratio: float = HEAD_RATIO


@dataclass(frozen=True)
class Model:
    """The network: a backbone and the classifier on top of it."""

    backbone: Named = Named("resnet32")
    head: Named = Named("linear")


@dataclass(frozen=True)
class Optimizer:
    """SGD as Cao et al. (2019) set it for long-tailed CIFAR."""

    momentum: float = 0.9
    weight_decay: float = 2e-4
    nesterov: bool = False


@dataclass(frozen=True)
class Schedule:
    """Learning rate per epoch: a linear warm-up by epoch, then steps or a half cosine.

    Attributes:
        lr: the rate after the warm-up.
        kind: multistep or cosine.
        milestones: 0-based epochs from which the rate is multiplied by ``factor`` once more.
        factor: see ``milestones``.
        warmup_epochs: epoch e of these trains at ``lr * (e + 1) / warmup_epochs``.
        final: rate that a cosine falls to; it would be that of the epoch after the last.
    """

    lr: float = 0.1
    kind: Literal["multistep", "cosine"] = "multistep"
    milestones: tuple[int, ...] = (160, 180)
    factor: float = 0.01
    warmup_epochs: int = 5
    final: float = 0.0


@dataclass(frozen=True)
class Stage:
    """Some epochs under one regime.

    Attributes:
        epochs: how many; with 0 only the classifier changes.
        loss: classification loss.
        weighting: class weights of the loss; none when empty (DRW: a second stage with weights).
        sampler: order of the images (DRS: a second stage with another sampler).
        augmenter: feature augmenter (SAFA: a second stage with one).
        generate: whether the augmenter may generate rows; RSG learns its centres before it does.
        reweighting: weights of the single images, learnt on a balanced meta set (``Data.meta_per_class``).
        head: another classifier from this stage on; some start from the former one or from the features.
        trainable: names of the layers that learn, as in ``named_modules()``; all when empty. The others stand
            still, batch-norm statistics included. Where it or ``head`` changes, the optimizer starts anew.
        optimizer: a new optimizer from this stage on; the former one goes on when empty.
        schedule: a learning rate counted from this stage's first epoch; the run's schedule when empty.
        averaged_epochs: n of a moving average of the weights: a step keeps 1 - 1 / (n * steps of an epoch) of it, so it
            reaches about n epochs back. It is what the stage's epochs are tested with, and what the network is when
            the stage ends; none when empty.
        evaluate_every: test the network after every so many epochs, and always after the last. It is part of no
            address: epochs taken over from another run were tested where that run says.
    """

    epochs: int
    loss: Named = Named("cross_entropy")
    weighting: Named | None = None
    sampler: Named = Named("instance")
    augmenter: Augmenter | None = None
    generate: bool = True
    reweighting: Named | None = None
    head: Named | None = None
    trainable: tuple[str, ...] = ()
    optimizer: Optimizer | None = None
    schedule: Schedule | None = None
    averaged_epochs: float | None = None
    evaluate_every: int = 1


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a run, but for the machine.

    Attributes:
        method: the row of the paper's tables this is, e.g. ``LDAM-DRW-SAFA``.
        seed: of initialisation, order, augmentation and pairing.
        batch_size: images per step, over all processes.
        precision: float32, or mixed precision with bf16 or fp16.
        clip: largest norm of the gradient, of the network and of an augmenter each; none when empty.
    """

    method: str
    stages: tuple[Stage, ...]
    data: Data = Data()
    model: Model = Model()
    optimizer: Optimizer = Optimizer()
    schedule: Schedule = Schedule()
    batch_size: int = 128
    precision: Precision = "float32"
    clip: float | None = None
    seed: int = 0

    @property
    def epochs(self) -> int:
        """Epochs of all stages together."""
        return sum(stage.epochs for stage in self.stages)

    def model_in(self, stage_index: int) -> Model:
        """The network as it is in a stage: with the head of the last stage up to it that names one."""
        heads = [stage.head for stage in self.stages[: stage_index + 1] if stage.head is not None]
        return replace(self.model, head=heads[-1]) if heads else self.model


def learning_rate(schedule: Schedule, epoch: int, epochs: int) -> float:
    """Rate of 0-based ``epoch`` out of ``epochs``.

    Cao et al. count epochs from 1 and decay where the count exceeds 160, that is from the 0-based epoch 160 on.
    """
    if epoch < schedule.warmup_epochs:
        return schedule.lr * (epoch + 1) / schedule.warmup_epochs
    if schedule.kind == "cosine":
        share = (epoch - schedule.warmup_epochs) / max(1, epochs - schedule.warmup_epochs)
        return schedule.final + (schedule.lr - schedule.final) * (1 + math.cos(math.pi * share)) / 2
    return schedule.lr * schedule.factor ** sum(epoch >= milestone for milestone in schedule.milestones)
