"""What the recipe of one run names, built for its images, its device and its place among the processes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from safa import assembly, evaluate
from safa import recipe as recipes
from safa.catalog import build, resolve
from safa.data.batches import Batches, InOrder, Normalise
from safa.data.dataset import LongTailed
from safa.data.types import Split
from safa.errors import UserError
from safa.plugin import refuse_other_than_augmenter
from safa.seeding import seed_for
from safa.types import Fitting, Refitted, mixes

EVALUATION_BATCH = 500  # images, of up to 64 x 64 pixels; of larger ones as many as have the same number of pixels


@contextmanager
def _explained(what: str) -> Iterator[None]:
    """Name the part of the recipe that fails, in place of a traceback; it may be the user's own."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{what}: {type(error).__name__}: {error}") from error


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

    def try_all(self) -> None:
        """Build what every stage names once, so that a mistake in the last stage does not wait for its turn."""
        if self.recipe.epochs == 0:
            raise UserError("the stages train for 0 epochs together; a stage of 0 can only follow one that trains")
        self.data.groups  # noqa: B018  (bounds of many and few that overlap are refused)
        model = assembly.network(self.recipe.model, self.data.num_classes, self.recipe.seed)
        if assembly.head_of(model) is None:
            raise UserError(
                f"{type(model).__name__} has no classifier {assembly.HEAD!r}; call its last layer so, that a recipe's "
                "head can be found"
            )
        if isinstance(assembly.head_of(model), Refitted):
            raise UserError(
                f"head {self.recipe.model.head.name!r} starts from a head learnt before it; name it in a later stage"
            )
        self._try_augmentation()
        for index, stage in enumerate(self.recipe.stages):
            if stage.epochs == 0 and stage.head is None:  # its optimizer would still be that of the stages after it
                raise UserError(f"stage {index} trains for 0 epochs and names no head; name one or leave it out")
            if stage.head is not None:
                model.add_module(assembly.HEAD, self._tried_head(stage.head, model, index))
            self._try_network(stage, model)
            assembly.set_trainable(model, stage.trainable)
            if not any(parameter.requires_grad for parameter in model.parameters()):
                raise UserError(f"nothing learns in stage {index}: {', '.join(stage.trainable)} has no parameter")
            self._try_last_batch(stage, model)
            self._try_augmenter(stage, model)
            self.reweighter(stage, 0)

    def _try_network(self, stage: recipes.Stage, model: nn.Module) -> None:
        """Give the network two black images, and the loss what comes out, with soft labels where a stage has them."""
        criterion = assembly.criterion(stage, self.data.class_counts, assembly.head_of(model))
        size, name = self.data.source.image_size, type(model).__name__
        images = torch.zeros(2, 3, size, size)
        labels = {"class ids": torch.zeros(2, dtype=torch.long)}
        if stage.augmenter is not None and mixes(resolve("augmenter", stage.augmenter.name)):
            labels["soft labels"] = torch.full((2, self.data.num_classes), 1 / self.data.num_classes)
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            with _explained(f"{name} cannot take images of {size} x {size} pixels"):
                logits = model.eval()(images)
            if getattr(logits, "shape", None) != (2, self.data.num_classes):
                got = f"shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else type(logits).__name__
                raise UserError(
                    f"{name} must give one logit per image and class, shape (2, {self.data.num_classes}) for two "
                    f"images; it gives {got}"
                )
            losses = []
            for kind, given in labels.items():
                with _explained(f"loss {stage.loss.name!r} cannot be computed from logits and {kind}"):
                    losses.append(criterion(logits, given))
        expected = () if stage.reweighting is None else (2,)
        for loss in losses:
            if getattr(loss, "shape", None) != expected:
                raise UserError(f"loss {stage.loss.name!r} must give a tensor of shape {expected}; it gives {loss!r}")

    def _try_last_batch(self, stage: recipes.Stage, model: nn.Module) -> None:
        """Where an epoch ends with a single image, the network must be able to train on one."""
        sampler, size = self.sampler(stage), self.data.source.image_size
        if stage.epochs == 0 or getattr(sampler, "smallest_batch", 2) > 1:
            return
        left = f"batches of {self.recipe.batch_size} leave one image at the end"
        way_out = "try another batch_size, or drop_last of the sampler"
        with torch.random.fork_rng(devices=[]), torch.no_grad(), _explained(f"{left}; {way_out}"):
            assembly.train_mode(model, stage.trainable)
            model(torch.zeros(1, 3, size, size))

    def _try_augmentation(self) -> None:
        size, name = self.data.source.image_size, self.data.augmentation.name
        images = torch.zeros(2, size, size, 3, dtype=torch.uint8)
        augmentation = self._augmentation()
        with _explained(f"augmentation {name!r} cannot take images of shape {tuple(images.shape)}"):
            made = augmentation(images, torch.Generator())
        if not (isinstance(made, Tensor) and made.shape == images.shape and made.dtype == images.dtype):
            got = f"{tuple(made.shape)} of {made.dtype}" if isinstance(made, Tensor) else type(made).__name__
            raise UserError(
                f"augmentation {name!r} must give images as it is given them, shape {tuple(images.shape)} of "
                f"{images.dtype}; it gives {got}"
            )

    def _tried_head(self, spec: recipes.Named, model: nn.Module, index: int) -> nn.Module:
        """A stage's classifier that has taken over the one before it, if it does that, on made-up features."""
        head, former = self.head(spec, model, index), assembly.head_of(model)
        if isinstance(head, Refitted) and former is not None:
            labels = torch.arange(self.data.num_classes).repeat(2)
            features = torch.randn(len(labels), assembly.in_features(model), generator=torch.Generator().manual_seed(0))
            validation = None if self.data.validation is None else lambda: (features, labels)
            head.refit(former, Fitting(self.data.class_counts, train=lambda: (features, labels), validation=validation))
        return head

    def _try_augmenter(self, stage: recipes.Stage, model: nn.Module) -> None:
        if stage.augmenter is None:
            return
        shape = assembly.entering(stage.augmenter, model, self.data.source.image_size)
        built = self._augmenter_of(stage.augmenter, shape, 0)
        refuse_other_than_augmenter(built)
        built.active = stage.generate
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            labels = torch.zeros(2, dtype=torch.long, device=self.device)
            with _explained(f"augmenter {stage.augmenter.name!r} cannot take features of shape {shape}"):
                built(torch.randn(2, *shape, device=self.device), labels)

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
            return evaluate.features(model, self.in_order(split))

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
        return self._augmenter_of(spec, assembly.entering(spec, model, self.data.source.image_size), index)

    def _augmenter_of(self, spec: recipes.Augmenter, shape: Sequence[int], index: int) -> Any:
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
        return self._batches(split, sampler, self._augmentation())

    def _augmentation(self) -> Any:
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
