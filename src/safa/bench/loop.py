"""Our loop: uint8 images on the device, augmented a batch at a time, with or without SAFA."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from safa import assembly
from safa import recipe as recipes
from safa.bench import setting as settings
from safa.bench.setting import COUNTS, IMAGE_SIZE, Setting
from safa.bench.turns import seconds_of
from safa.data.augmentation import CropFlip
from safa.data.batches import Batches, Normalise
from safa.data.cifar import MEAN, STD
from safa.losses import LDAMLoss
from safa.plugin import PlugIn
from safa.sampling import InstanceBalanced, PairSampler
from safa.seeding import seed_for
from safa.weighting import effective_number_weights


class Loop:
    """The steps of ``safa.learner`` without their log: LDAM, or the stage of LDAM-DRW-SAFA.

    Args:
        setting: network, batch size and precision.
        safa: same-class pairs, SAFA before the backbone's own place and DRW's weights, instead of plain LDAM.
        channels_last: memory format of the network.
        precision: instead of the setting's.
    """

    def __init__(
        self,
        setting: Setting,
        *,
        safa: bool = False,
        channels_last: bool = True,
        precision: str | None = None,
    ) -> None:
        self.device = setting.device
        self.layout = torch.channels_last if channels_last else torch.contiguous_format
        self.half = (precision or setting.precision) == "bf16"
        plug: Any = _plugged(setting, safa)  # torch's annotations do not know memory_format
        self.plug: PlugIn = plug.to(self.device, memory_format=self.layout)
        weight = effective_number_weights(COUNTS) if safa else None
        self.criterion = LDAMLoss(COUNTS, weight=weight).to(self.device)
        self.optimizer = torch.optim.SGD(
            self.plug.parameters(),
            lr=settings.LEARNING_RATE,
            momentum=settings.MOMENTUM,
            weight_decay=settings.WEIGHT_DECAY,
        )
        self.batches = self._endless(_batches(setting, safa))
        self.generated_rows: list[int] = []

    def turn(self, steps: int) -> float:
        return seconds_of(self.step, steps, self.device)

    def step(self) -> None:
        """One step as ``Learner`` does it."""
        images, labels = next(self.batches)
        torch.manual_seed(seed_for(0, "step", len(self.generated_rows)))
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.half):
            output = self.plug(images, labels)
        loss = self.criterion(output.logits, output.labels) + output.loss
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        self.generated_rows.append(len(output.logits) - len(images))

    def _endless(self, batches: Batches) -> Iterator[tuple[Tensor, Tensor]]:
        for epoch in itertools.count():
            for images, labels in batches.epoch(epoch):
                yield images.contiguous(memory_format=self.layout), labels


def _plugged(setting: Setting, safa: bool) -> PlugIn:
    model = settings.network(setting)
    if not safa:
        return PlugIn(model)
    spec = recipes.Augmenter("safa")
    shape = assembly.entering(spec, model, IMAGE_SIZE)
    ratio = recipes.Data.head_ratio
    augmenter: Any = assembly.augmenter(spec, shape, class_counts=COUNTS.tolist(), head_ratio=ratio, seed=0)
    return PlugIn(model, model.before, augmenter)


def _batches(setting: Setting, pairs: bool) -> Batches:
    split = settings.images()
    sampler = PairSampler if pairs else InstanceBalanced
    return Batches(
        split,
        sampler(split.labels, setting.batch_size),
        Normalise(MEAN, STD, setting.device),
        augmentation=CropFlip(),
        device=setting.device,
        image_size=IMAGE_SIZE,
    )
