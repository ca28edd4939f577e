"""What every stage of a run names, built and tried before the first one trains."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from safa import assembly
from safa import recipe as recipes
from safa.catalog import resolve
from safa.errors import UserError
from safa.parts import Parts
from safa.plugin import refuse_other_than_augmenter
from safa.types import Fitting, Refitted, mixes


def rehearse(parts: Parts) -> None:
    """Build what every stage names once, so that a mistake in the last stage does not wait for its turn.

    Raises:
        UserError: for a mistake in the recipe, or in a class of the user's own.
    """
    if parts.recipe.epochs == 0:
        raise UserError("the stages train for 0 epochs together; a stage of 0 can only follow one that trains")
    parts.data.groups  # noqa: B018  (bounds of many and few that overlap are refused)
    model = assembly.network(parts.recipe.model, parts.data.num_classes, parts.recipe.seed)
    if assembly.head_of(model) is None:
        raise UserError(
            f"{type(model).__name__} has no classifier {assembly.HEAD!r}; call its last layer so, that a recipe's "
            "head can be found"
        )
    if isinstance(assembly.head_of(model), Refitted):
        raise UserError(
            f"head {parts.recipe.model.head.name!r} starts from a head learnt before it; name it in a later stage"
        )
    _try_augmentation(parts)
    for index, stage in enumerate(parts.recipe.stages):
        if stage.epochs == 0 and stage.head is None:  # its optimizer would still be that of the stages after it
            raise UserError(f"stage {index} trains for 0 epochs and names no head; name one or leave it out")
        if stage.head is not None:
            model.add_module(assembly.HEAD, _tried_head(parts, stage.head, model, index))
        _try_network(parts, stage, model)
        assembly.set_trainable(model, stage.trainable)
        if not any(parameter.requires_grad for parameter in model.parameters()):
            raise UserError(f"nothing learns in stage {index}: {', '.join(stage.trainable)} has no parameter")
        _try_last_batch(parts, stage, model)
        _try_augmenter(parts, stage, model)
        parts.reweighter(stage, 0)


def _try_network(parts: Parts, stage: recipes.Stage, model: nn.Module) -> None:
    """Give the network two black images, and the loss what comes out, with soft labels where a stage has them."""
    criterion = assembly.criterion(stage, parts.data.class_counts, assembly.head_of(model))
    size, name = parts.data.source.image_size, type(model).__name__
    images = torch.zeros(2, 3, size, size)
    labels = {"class ids": torch.zeros(2, dtype=torch.long)}
    if stage.augmenter is not None and mixes(resolve("augmenter", stage.augmenter.name)):
        labels["soft labels"] = torch.full((2, parts.data.num_classes), 1 / parts.data.num_classes)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        with _explained(f"{name} cannot take images of {size} x {size} pixels"):
            logits = model.eval()(images)
        if getattr(logits, "shape", None) != (2, parts.data.num_classes):
            got = f"shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else type(logits).__name__
            raise UserError(
                f"{name} must give one logit per image and class, shape (2, {parts.data.num_classes}) for two "
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


def _try_last_batch(parts: Parts, stage: recipes.Stage, model: nn.Module) -> None:
    """Where an epoch ends with a single image, the network must be able to train on one."""
    sampler, size = parts.sampler(stage), parts.data.source.image_size
    if stage.epochs == 0 or getattr(sampler, "smallest_batch", 2) > 1:
        return
    left = f"batches of {parts.recipe.batch_size} leave one image at the end"
    way_out = "try another batch_size, or drop_last of the sampler"
    with torch.random.fork_rng(devices=[]), torch.no_grad(), _explained(f"{left}; {way_out}"):
        assembly.train_mode(model, stage.trainable)
        model(torch.zeros(1, 3, size, size))


def _try_augmentation(parts: Parts) -> None:
    size, name = parts.data.source.image_size, parts.data.augmentation.name
    images = torch.zeros(2, size, size, 3, dtype=torch.uint8)
    augmentation = parts.augmentation()
    with _explained(f"augmentation {name!r} cannot take images of shape {tuple(images.shape)}"):
        made = augmentation(images, torch.Generator())
    if not (isinstance(made, Tensor) and made.shape == images.shape and made.dtype == images.dtype):
        got = f"{tuple(made.shape)} of {made.dtype}" if isinstance(made, Tensor) else type(made).__name__
        raise UserError(
            f"augmentation {name!r} must give images as it is given them, shape {tuple(images.shape)} of "
            f"{images.dtype}; it gives {got}"
        )


def _tried_head(parts: Parts, spec: recipes.Named, model: nn.Module, index: int) -> nn.Module:
    """A stage's classifier that has taken over the one before it, if it does that, on made-up features."""
    head, former = parts.head(spec, model, index), assembly.head_of(model)
    if isinstance(head, Refitted) and former is not None:
        labels = torch.arange(parts.data.num_classes).repeat(2)
        features = torch.randn(len(labels), assembly.in_features(model), generator=torch.Generator().manual_seed(0))
        validation = None if parts.data.validation is None else lambda: (features, labels)
        head.refit(former, Fitting(parts.data.class_counts, train=lambda: (features, labels), validation=validation))
    return head


def _try_augmenter(parts: Parts, stage: recipes.Stage, model: nn.Module) -> None:
    if stage.augmenter is None:
        return
    shape = assembly.entering(stage.augmenter, model, parts.data.source.image_size)
    built = parts.augmenter_of_shape(stage.augmenter, shape, 0)
    refuse_other_than_augmenter(built)
    built.active = stage.generate
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        labels = torch.zeros(2, dtype=torch.long, device=parts.device)
        with _explained(f"augmenter {stage.augmenter.name!r} cannot take features of shape {shape}"):
            built(torch.randn(2, *shape, device=parts.device), labels)


@contextmanager
def _explained(what: str) -> Iterator[None]:
    """Name the part of the recipe that fails, in place of a traceback; it may be the user's own."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{what}: {type(error).__name__}: {error}") from error
