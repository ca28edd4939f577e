"""What a recipe names, built: the network and its heads, loss, sampler, augmenter, image weights, optimizer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from safa import recipe as recipes
from safa.catalog import build, parameters, resolve
from safa.errors import UserError, closest
from safa.plugin import INPUT, PlugIn
from safa.seeding import seed_for
from safa.types import mixes

HEAD = "fc"  # the classifier's name in every network


def network(model: recipes.Model, num_classes: int, seed: int) -> nn.Module:
    """The bare network, initialised from the seed alone; float32, on the CPU.

    A network that takes no ``head`` gets another than its own linear one in its place.

    Raises:
        UserError: for an unknown name or option, or as ``new_head`` where the classifier is to be exchanged.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_for(seed, "network"))
        head = _head_factory(model.head)
        options = model.backbone.options
        built = _module("backbone", model.backbone.name, options, num_classes=num_classes, head=head)
        if model.head != recipes.Model.head and "head" not in parameters("backbone", model.backbone.name):
            built.add_module(HEAD, head(in_features(built), num_classes))
    return built


def _head_factory(spec: recipes.Named) -> Callable[[int, int], nn.Module]:
    resolve("head", spec.name)  # a wrong name is reported as one of the head, not of the backbone

    def head(in_features: int, num_classes: int) -> nn.Module:
        sizes = {"in_features": in_features, "num_classes": num_classes, "out_features": num_classes}
        return _module("head", spec.name, spec.options, **sizes)

    return head


def _module(kind: str, name: str, options: Mapping[str, Any], **offered: Any) -> nn.Module:
    """What a name of the kind makes, once it is seen to be a module; it may be the user's own."""
    made = build(kind, name, options, **offered)
    if not isinstance(made, nn.Module):
        raise UserError(
            f"{kind} {name!r} must be a torch.nn.Module, and makes {type(made).__name__}; derive the class from it, or "
            "name a function that returns one"
        )
    return made


def new_head(spec: recipes.Named, model: nn.Module, num_classes: int, seed: int) -> nn.Module:
    """Another classifier for a network that has one, not yet fitted to anything.

    Raises:
        UserError: if the network does not keep its classifier, with its number of inputs, under the name ``fc``.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _head_factory(spec)(in_features(model), num_classes)


def in_features(model: nn.Module) -> int:
    """How many features enter the network's classifier.

    Raises:
        UserError: as ``new_head``.
    """
    found = getattr(head_of(model), "in_features", None)
    if found is None:
        raise UserError(
            f"{type(model).__name__} cannot be given another head: it has no classifier {HEAD!r} with in_features"
        )
    return int(found)


def head_of(model: nn.Module) -> nn.Module | None:
    """The network's classifier; None where it has none of the usual name."""
    head = getattr(model, HEAD, None)
    return head if isinstance(head, nn.Module) else None


@contextmanager
def head_inputs(model: nn.Module) -> Iterator[list[Tensor]]:
    """What enters the classifier, (n, d) and detached, of every forward pass made meanwhile."""
    seen: list[Tensor] = []
    with model.get_submodule(HEAD).register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach())):
        yield seen


def criterion(stage: recipes.Stage, class_counts: Sequence[int], head: nn.Module | None) -> nn.Module:
    """The stage's classification loss with its class weights; of single images where they are weighted one by one.

    Raises:
        UserError: for an unknown name or option, a reduction, weights that the loss would ignore, another scale than
            the head's, or margins of cosines where the head has none.
    """
    if "reduction" in stage.loss.options:
        raise UserError(
            f"loss {stage.loss.name!r}: reduction={stage.loss.options['reduction']!r} is not a recipe's to choose; "
            "leave it out, training takes a mean, or single images where they are weighted one by one"
        )
    weight = None if stage.weighting is None else _class_weights(stage.weighting, class_counts)
    options = {**stage.loss.options, **({"reduction": "none"} if stage.reweighting is not None else {})}
    loss = _module("loss", stage.loss.name, options, class_counts=class_counts, weight=weight)
    if stage.weighting is not None and getattr(loss, "weight", None) is None:
        raise UserError(
            f"loss {stage.loss.name!r} takes no class weights, so weighting {stage.weighting.name!r} would do "
            "nothing; leave it out, or give the loss a parameter and an attribute 'weight'"
        )
    scale, head_scale = getattr(loss, "scale", None), getattr(head, "scale", None)
    if getattr(loss, "of_cosines", False) and getattr(type(head), "forward", None) is nn.Linear.forward:
        raise UserError(
            f"loss {stage.loss.name!r} takes its margins off cosines times {scale:g}, and the head is a linear one; "
            f"set model.head to {{name: cosine, scale: {scale:g}}}, or name another loss for the stage"
        )
    if isinstance(scale, float | int) and isinstance(head_scale, float | int) and scale != head_scale:
        raise UserError(
            f"loss {stage.loss.name!r} has scale {scale} but the cosine head has {head_scale}; make them equal"
        )
    return loss


def _class_weights(spec: recipes.Named, class_counts: Sequence[int]) -> Tensor:
    made = build("weighting", spec.name, spec.options, class_counts=class_counts)
    if isinstance(made, Tensor) and made.shape == (len(class_counts),):
        return made
    raise UserError(
        f"weighting {spec.name!r} must give one number per class, a tensor of shape ({len(class_counts)},); it gives "
        f"{kind_of(made)}"
    )


def kind_of(made: object) -> str:
    """What a message says of a thing that should be a tensor of another shape."""
    return f"shape {tuple(made.shape)}" if isinstance(made, Tensor) else type(made).__name__


def augmenter(
    spec: recipes.Augmenter, shape: Sequence[int], *, class_counts: Sequence[int], head_ratio: float, seed: int
) -> nn.Module:
    """The augmenter for features of a shape, as ``entering`` finds it.

    Raises:
        UserError: for an unknown name or option, or an augmenter that is no module.
    """
    channels = shape[1] if len(shape) == 2 else shape[0]  # of tokens (t, c); of maps (c, h, w) and of vectors
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _module(
            "augmenter", spec.name, spec.options, channels=channels, class_counts=class_counts, head_ratio=head_ratio
        )


def entering(spec: recipes.Augmenter, model: nn.Module, image_size: int) -> tuple[int, ...]:
    """The shape of what enters the augmenter's layer, of one image.

    Raises:
        UserError: for a layer that the network lacks, or that not every path crosses once, or if none is named.
    """
    before = spec.before or (INPUT if mixes(resolve("augmenter", spec.name)) else str(getattr(model, "before", "")))
    if not before:
        fitting = ", ".join(place.name for place in PlugIn.probe(model, image_size))
        raise UserError(
            f"augmenter {spec.name!r} needs a place in {type(model).__name__}, which names none as its attribute "
            f"'before'; set the augmenter's before to one of {fitting}"
        )
    PlugIn(model, before, _Anything())  # it explains a wrong name better
    shapes = {place.name: place.shape for place in PlugIn.probe(model, image_size, only=before)}
    if before not in shapes:
        raise UserError(f"nothing can be augmented before {before!r}: not every path crosses it exactly once")
    return shapes[before]


class _Anything:
    """Stands in for an augmenter while only the layer's name is checked."""

    active, learns_while_idle = False, False

    def __call__(self, features: Tensor, labels: Tensor) -> Any:
        raise NotImplementedError


def reweighter(stage: recipes.Stage, class_counts: Sequence[int], seed: int) -> nn.Module:
    """What weighs the stage's images one by one.

    Raises:
        UserError: for an unknown name or option, beside an augmenter, whose rows no image stands behind, or where
            classes would be weighted twice.
    """
    assert stage.reweighting is not None
    if stage.augmenter is not None:
        raise UserError(
            f"reweighting {stage.reweighting.name!r} weighs single images and cannot weigh the rows of augmenter "
            f"{stage.augmenter.name!r}; put them into different stages"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        spec = stage.reweighting
        built = _module("reweighting", spec.name, spec.options, class_counts=class_counts)
    if stage.weighting is not None and hasattr(built, "class_weights"):
        raise UserError(
            f"reweighting {stage.reweighting.name!r} has class weights of its own, so weighting "
            f"{stage.weighting.name!r} would weigh the classes twice; leave it out"
        )
    return built


def sampler(spec: recipes.Named, labels: Any, batch_size: int, *, seed: int, rank: int = 0, world_size: int = 1) -> Any:
    """The order of the images for one of ``world_size`` processes; ``batch_size`` counts the images of all.

    Raises:
        UserError: for an unknown name or option, a batch that cannot be split, or a sampler that knows of one process
            alone where there are several.
    """
    if batch_size % world_size:
        raise UserError(f"batch_size {batch_size} cannot be split over {world_size} processes; make it a multiple")
    if world_size > 1 and not {"rank", "world_size"} <= parameters("sampler", spec.name).keys():
        raise UserError(
            f"sampler {spec.name!r} takes no rank and world_size, so all {world_size} processes would train on the "
            "same batches; let it take both, or run without torchrun"
        )
    return build(
        "sampler",
        spec.name,
        spec.options,
        labels=labels,
        batch_size=batch_size // world_size,
        seed=seed,
        rank=rank,
        world_size=world_size,
    )


def optimizer(settings: recipes.Optimizer, lr: float, groups: Iterable[Mapping[str, Any]]) -> torch.optim.Optimizer:
    """SGD over groups of parameters, each with its ``lr_scale``; a group with nothing to learn is left out."""
    return torch.optim.SGD(
        [dict(group) for group in groups if group["params"]],
        lr=lr,
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
        nesterov=settings.nesterov,
    )


def set_trainable(model: nn.Module, names: Sequence[str]) -> None:
    """Let only the named layers, and what is inside them, learn; all where no name is given.

    Raises:
        UserError: if there is no such layer, with the closest name.
    """
    known = dict(model.named_modules())
    for name in names:
        if not name or name not in known:
            raise UserError(
                f"trainable names {name!r}, which is no layer of {type(model).__name__}{closest(name, known)}; "
                f"its top-level modules are {', '.join(child for child, _ in model.named_children())}"
            )
    model.requires_grad_(not names)
    for name in names:
        known[name].requires_grad_(True)


def train_mode(model: nn.Module, names: Sequence[str]) -> None:
    """Training mode for what learns. The rest stands still, so its batch norm keeps its statistics too."""
    model.train(not names)
    for name in names:
        model.get_submodule(name).train()
