"""What the recipe of one run names, built for its images, its device and its place among the processes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from safa import assembly, evaluate
from safa import recipe as recipes
from safa.catalog import build
from safa.data.batches import Batches, InOrder, Normalise
from safa.data.dataset import LongTailed
from safa.data.types import Split
from safa.errors import UserError
from safa.seeding import seed_for
from safa.types import Fitting

EVALUATION_BATCH = 500  # images, of up to 64 x 64 pixels; of larger ones as many as have the same number of pixels


class Parts:
    """Builds what stages name. It keeps nothing of what it built, so the same call gives the same part.

    Args:
        recipe: of the run.
        data: its images.
        accelerator: device and processes.
        workers: processes that decode images which do not fit in memory.
    """

    def __init__(self, recipe: recipes.Recipe, data: LongTailed, accelerator: Accelerator, workers: int = 0) -> None:
        self.recipe, self.data, self.accelerator, self.workers = recipe, data, accelerator, workers
        self.device = accelerator.device
        self.normalise = Normalise(data.source.mean, data.source.std, self.device)

    # -- modules -------------------------------------------------------------------------------------------------

    def network(self) -> nn.Module:
        """The untrained network of the first stage."""
        return self.placed(assembly.network(self.recipe.model, self.data.num_classes, self.recipe.seed))

    def head(self, spec: recipes.Named, model: nn.Module, stage_index: int) -> nn.Module:
        """A stage's own classifier for the network, not yet fitted to anything."""
        head = assembly.new_head(spec, model, self.data.num_classes, seed_for(self.recipe.seed, "head", stage_index))
        if getattr(head, "needs_validation", False) and self.data.validation is None:
            raise UserError(
                f"head {spec.name!r} chooses a setting on validation images and there are none; "
                "set data.validation to cut some from the training images, or give it the value"
            )
        return head

    def fitting(self, model: nn.Module) -> Fitting:
        """What a head is fitted to: the network's features of the images, computed when they are asked for."""

        def features(split: Split) -> tuple[Tensor, Tensor]:
            return evaluate.features(model, self.in_order(split).epoch(0))

        validation = self.data.validation
        return Fitting(
            self.data.class_counts,
            train=lambda: features(self.data.train),
            validation=(lambda: features(validation)) if validation is not None else None,
        )

    def augmenter(self, spec: recipes.Augmenter | None, model: nn.Module, index: int) -> Any:
        """The augmenter for its layer of the network, if one is named; ``index`` is the epoch it begins with."""
        if spec is None:
            return None
        return self.augmenter_of_shape(spec, assembly.entering(spec, model, self.data.source.image_size), index)

    def augmenter_of_shape(self, spec: recipes.Augmenter, shape: Sequence[int], index: int) -> Any:
        """The augmenter for features of this shape, of one image; ``index`` as of ``augmenter``."""
        built = assembly.augmenter(
            spec,
            shape,
            class_counts=self.data.class_counts,
            head_ratio=self.data.spec.head_ratio,
            seed=seed_for(self.recipe.seed, "augmenter", index),
        )
        return self.placed(built)

    def reweighter(self, stage: recipes.Stage, index: int) -> Any:
        """What learns the weights of single images, if the stage names it; ``index`` is the epoch it begins with."""
        if stage.reweighting is None:
            return None
        if self.data.meta is None:
            raise UserError(
                f"reweighting {stage.reweighting.name!r} steers by a balanced meta set; set data.meta_per_class, "
                "e.g. to 10, to take one out of the training images"
            )
        if self.accelerator.num_processes > 1:
            raise UserError("image weights are learnt in one process; run without torchrun")
        if self.recipe.precision == "fp16":  # its scaler does not reach the gradients of the look ahead, which end as 0
            raise UserError("image weights cannot be learnt in fp16; set precision to bf16 or float32")
        seed = seed_for(self.recipe.seed, "reweighting", index)
        return assembly.reweighter(stage, self.data.class_counts, seed).to(self.device)

    def placed(self, module: nn.Module) -> nn.Module:
        """On the device, channels-last: what convolutions on CPU and tensor cores want."""
        moved: nn.Module = module.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        return moved

    # -- images --------------------------------------------------------------------------------------------------

    def sampler(self, stage: recipes.Stage) -> Any:
        """Which images make the stage's batches in this process."""
        return assembly.sampler(
            stage.sampler,
            self.data.train.labels,
            self.recipe.batch_size,
            seed=self.recipe.seed,
            rank=self.accelerator.process_index,
            world_size=self.accelerator.num_processes,
        )

    def training_batches(self, stage: recipes.Stage) -> Batches:
        """Augmented batches of the training images."""
        return self._augmented(self.data.train, self.sampler(stage))

    def meta_batches(self, first: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Augmented batches of the meta set without end, from the given one on."""
        assert self.data.meta is not None
        sampler = assembly.sampler(
            recipes.Named("instance"), self.data.meta.labels, self.recipe.batch_size, seed=self.recipe.seed
        )
        batches = self._augmented(self.data.meta, sampler)
        epoch, step = divmod(first, len(batches))
        while True:
            yield from batches.epoch(epoch, step)
            epoch, step = epoch + 1, 0

    def in_order(self, split: Split) -> Batches:
        """Unaugmented batches of a whole split, for evaluation."""
        return self._batches(split, InOrder(len(split), self.evaluation_batch))

    @property
    def evaluation_batch(self) -> int:
        """Images that are tested at once: memory is as much as of small ones, whatever their size."""
        return max(1, min(EVALUATION_BATCH, EVALUATION_BATCH * 64**2 // self.data.source.image_size**2))

    def images_of(self, split: Split, rows: Any) -> tuple[Tensor, Tensor]:
        """Some images of a split as the network wants them, unaugmented, with their labels."""
        chosen = split.take(rows)
        images, labels = next(self._batches(chosen, InOrder(len(chosen), len(chosen))).epoch(0))
        return images, labels

    def _augmented(self, split: Split, sampler: Any) -> Batches:
        return self._batches(split, sampler, self.augmentation())

    def augmentation(self) -> Any:
        """What is done to training images."""
        return build("augmentation", self.data.augmentation.name, self.data.augmentation.options)

    def _batches(self, split: Split, sampler: Any, augmentation: Any = None) -> Batches:
        return Batches(
            split,
            sampler,
            self.normalise,
            augmentation=augmentation,
            device=self.device,
            image_size=self.data.source.image_size,
            seed=self.recipe.seed,
            rank=self.accelerator.process_index,
            workers=self.workers,
        )
