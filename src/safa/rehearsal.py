"""What every stage of a run names, built and tried before the first one trains."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from safa import assembly
from safa import recipe as recipes
from safa.catalog import parameters, resolve
from safa.errors import UserError
from safa.parts import Parts
from safa.plugin import PlugIn, refuse_other_than_augmenter
from safa.types import Fitting, Refitted, mixes


def rehearse(parts: Parts) -> None:
    """Build what every stage names once, so that a mistake in the last stage does not wait for its turn.

    Raises:
        UserError: for a mistake in the recipe, or in a class of the user's own.
    """
    if parts.recipe.epochs == 0:
        raise UserError("the stages train for 0 epochs together; a stage of 0 can only follow one that trains")
    parts.data.groups  # noqa: B018  (bounds of many and few that overlap are refused)
    with _explained(f"backbone {parts.recipe.model.backbone.name!r} cannot be made"):
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
            _refuse_a_confusion(parts, stage.head)
            with _explained(f"head {stage.head.name!r} cannot be made"):
                model.add_module(assembly.HEAD, _tried_head(parts, stage.head, model, index))
        with _explained(f"loss {stage.loss.name!r} cannot be made"):
            criterion = assembly.criterion(stage, parts.data.class_counts, assembly.head_of(model))
        _try_network(parts, stage, model, criterion)
        assembly.set_trainable(model, stage.trainable)
        if not any(parameter.requires_grad for parameter in model.parameters()):
            raise UserError(f"nothing learns in stage {index}: {', '.join(stage.trainable)} has no parameter")
        _try_last_batch(parts, stage, model)
        _try_augmenter(parts, stage, model, criterion)
        if stage.reweighting is not None:
            with _explained(f"reweighting {stage.reweighting.name!r} cannot be made"):
                parts.reweighter(stage, 0)


def _refuse_a_confusion(parts: Parts, head: recipes.Named) -> None:
    """A restored network must have the classifier it was saved with, and ``linear`` stands for the backbone's own, too.

    Where that is a ``torch.nn.Linear`` with a bias, the two have the same weights and compute the same.
    """
    backbone = parts.recipe.model.backbone.name
    if head != recipes.Model.head or "head" in parameters("backbone", backbone):
        return
    bare = recipes.Model(parts.recipe.model.backbone)
    own = assembly.head_of(assembly.network(bare, parts.data.num_classes, parts.recipe.seed))
    if type(own) is not nn.Linear or own.bias is None:
        raise UserError(
            f"a head 'linear' of a stage cannot be told from the classifier of backbone {backbone!r}, "
            f"{type(own).__name__}, when a run is resumed or tested; let the backbone take head and make its "
            "classifier by it, or name a head of your own"
        )


def _try_network(parts: Parts, stage: recipes.Stage, model: nn.Module, criterion: nn.Module) -> None:
    """Give the network two black images, and the loss what comes out, with soft labels where a stage has them."""
    untouched = copy.deepcopy(criterion.state_dict())
    size, name = parts.data.source.image_size, type(model).__name__
    images = torch.zeros(2, 3, size, size)
    labels = {"class ids": torch.zeros(2, dtype=torch.long)}
    if stage.augmenter is not None and mixes(resolve("augmenter", stage.augmenter.name)):
        labels["soft labels"] = torch.full((2, parts.data.num_classes), 1 / parts.data.num_classes)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        with _explained(f"{name} cannot take images of {size} x {size} pixels"):
            logits = model.eval()(images)
        if getattr(logits, "shape", None) != (2, parts.data.num_classes):
            raise UserError(
                f"{name} must give one logit per image and class, shape (2, {parts.data.num_classes}) for two "
                f"images; it gives {assembly.kind_of(logits)}"
            )
        losses = []
        for kind, given in labels.items():
            with _explained(f"loss {stage.loss.name!r} cannot be computed from logits and {kind}"):
                losses.append(criterion(logits, given))
    _refuse_memory(stage.loss.name, criterion, untouched)
    expected = () if stage.reweighting is None else (2,)
    for loss in losses:
        if getattr(loss, "shape", None) != expected:
            raise UserError(
                f"loss {stage.loss.name!r} must give a tensor of shape {expected}; it gives {assembly.kind_of(loss)}"
            )


def _refuse_memory(name: str, criterion: nn.Module, before: Mapping[str, Any]) -> None:
    """A stage makes its loss anew, also when it is resumed: what a loss has learnt, or counted, would be lost."""
    if next(criterion.parameters(), None) is not None:
        raise UserError(
            f"loss {name!r} has parameters, which nothing trains or saves; put what learns into the network"
        )
    changed = [key for key, value in criterion.state_dict().items() if not _same(value, before[key])]
    if changed:
        raise UserError(
            f"loss {name!r} changes its {changed[0]!r} when it is called, which is neither saved nor known to a run "
            "that is resumed; compute it from what the loss is given"
        )


def _same(value: Any, other: Any) -> bool:
    return torch.equal(value, other) if isinstance(value, Tensor) else bool(value == other)


def _try_last_batch(parts: Parts, stage: recipes.Stage, model: nn.Module) -> None:
    """Take a batch, and where an epoch ends with a single image, see that the network can train on one."""
    with _explained(f"sampler {stage.sampler.name!r} gives no batch"):
        sampler, size = parts.sampler(stage), parts.data.source.image_size
        sampler.set_epoch(0)
        len(sampler)  # the steps of an epoch, which one of the user's own may not tell
        first = np.asarray(next(iter(sampler)))
    images = len(parts.data.train)
    if first.ndim != 1 or first.dtype.kind not in "iu" or not 0 <= first.min() <= first.max() < images:
        raise UserError(
            f"sampler {stage.sampler.name!r} must give lists of indices of the {images} training images; it gives "
            f"{str(first.tolist())[:80]}"
        )
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


def _try_augmenter(parts: Parts, stage: recipes.Stage, model: nn.Module, criterion: nn.Module) -> None:
    """Train on a few made-up images of a head and of a tail class, without a step."""
    if stage.augmenter is None:
        return
    shape = assembly.entering(stage.augmenter, model, parts.data.source.image_size)
    built = parts.augmenter_of_shape(stage.augmenter, shape, 0)
    refuse_other_than_augmenter(built)
    built.active = stage.generate
    plug = PlugIn(model, stage.augmenter.before, built.cpu()).train()
    images = torch.randn(8, 3, *(2 * (parts.data.source.image_size,)), generator=torch.Generator().manual_seed(0))
    counts = np.asarray(parts.data.class_counts)
    head, tail = int(counts.argmax()), int(counts.argmin())
    labels = torch.tensor([head, tail]).repeat_interleave(4)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        with _explained(f"augmenter {stage.augmenter.name!r} cannot take features of shape {shape}"):
            output = plug(images, labels)
        if output.labels is not None:
            with _explained(f"loss {stage.loss.name!r} cannot be computed from the rows of {stage.augmenter.name!r}"):
                criterion(output.logits, output.labels)


@contextmanager
def _explained(what: str) -> Iterator[None]:
    """Name the part of the recipe that fails, in place of a traceback; it may be the user's own."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{what}: {type(error).__name__}: {error}") from error
