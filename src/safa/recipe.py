"""What a run is, as data: frozen dataclasses to and from YAML. Imports no torch, so that help stays instant."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import yaml

from safa.errors import UserError, closest

Precision = Literal["float32", "bf16", "fp16"]

QUOTED = '"'  # PyYAML's style of a text in double quotes, with escapes


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
    head_ratio: float = 0.2


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


def load(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe from a YAML file, with ``key=value`` overrides such as ``data.imbalance_factor=50``.

    Raises:
        UserError: for a missing file, broken YAML, an unknown key (with the closest existing one), a wrong type, or
            an override that would change nothing.
    """
    try:
        plain = _parsed(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read the recipe {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not a text file in UTF-8, so it is no recipe") from error
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(plain, dict):
        raise UserError(f"{path} holds no recipe; it must be a mapping with at least 'method' and 'stages'")
    for override in overrides:
        _override(plain, override)
    recipe = from_plain(plain, str(path))
    asked = [override.partition("=")[0].removeprefix("data.") for override in overrides if override.startswith("data.")]
    refuse_idle_cuts(recipe.data, asked)
    return recipe


def override(key: str, value: str | float) -> str:
    """``key=value`` as ``load`` takes it, for a value that must come back as it is: a path of any characters, too."""
    if not isinstance(value, str):
        return f"{key}={json.dumps(value)}"
    # YAML's own quoting: of what lies beyond U+FFFF, JSON makes two characters that YAML does not put together.
    return f"{key}={yaml.safe_dump(value, default_style=QUOTED, width=math.inf).rstrip()}"


def from_plain(plain: Mapping[str, Any], where: str = "recipe") -> Recipe:
    """Recipe from nested mappings, lists and scalars, as YAML gives them."""
    recipe = _read(Recipe, plain, where)
    assert isinstance(recipe, Recipe)
    _check(recipe, where)
    return recipe


def to_plain(value: Any, defaults: bool = False) -> Any:
    """Nested mappings, lists and scalars, without whatever stands at its default.

    Leaving defaults out keeps recipes short, and keeps the address of a cached stage when a later version adds a key.
    With ``defaults`` they are kept: what a run's own folder must say, since a later version may change one.
    """
    if isinstance(value, (Named, Augmenter)):
        rest = {f.name: getattr(value, f.name) for f in dataclasses.fields(value) if f.name not in ("name", "options")}
        rest = {key: item for key, item in rest.items() if defaults or item != _default(type(value), key)}
        return {"name": value.name, **rest, **to_plain(dict(value.options), defaults)}
    if dataclasses.is_dataclass(value):
        items = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        kept = {n: item for n, item in items.items() if defaults or item != _default(type(value), n)}
        return {key: to_plain(item, defaults) for key, item in kept.items()}
    if isinstance(value, Mapping):
        return {key: to_plain(item, defaults) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_plain(item, defaults) for item in value]
    return value


def dump(recipe: Recipe, defaults: bool = False) -> str:
    """The recipe as YAML, with or without what stands at its default; ``load`` gives it back."""
    return yaml.dump(to_plain(recipe, defaults), Dumper=_Dumper, sort_keys=False, width=110)


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


def refuse_idle_cuts(data: Data, asked: Sequence[str], profile: str = "data.profile=exponential") -> None:
    """Refuse settings of a tail that were asked for where none is cut.

    A recipe may name them beside ``as_found``, as that of a run does, which names everything.

    Args:
        data: what the recipe says.
        asked: keys of ``data``; those that decide how a tail is cut count.
        profile: how to ask for a tail.

    Raises:
        UserError: if the classes keep the images they have.
    """
    cutting = {key: getattr(data, key) for key in asked if key in ("imbalance_factor", "largest", "order")}
    for key, value in cutting.items():
        if value is not None and data.profile == "as_found":
            shown = f"{value:g}" if isinstance(value, float) else value
            raise UserError(
                f"{key} {shown} cuts nothing where data.profile is as_found; leave it out, or cut a tail with {profile}"
            )


class _Loader(yaml.SafeLoader):
    """YAML 1.1 reads ``2e-4`` as a string, since it wants a dot; recipes follow YAML 1.2 here.

    As YAML wants it, and PyYAML does not, a key comes once: of two blocks of stages, which one is meant?
    """

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        # Not in construct_mapping: by then, "<<" may have put another mapping's keys among the node's own.
        node = super().compose_mapping_node(anchor)
        lines: dict[str, int] = {}
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            line = key.start_mark.line + 1
            if key.value in lines:
                where = f"lines {lines[key.value]} and {line}" if line > lines[key.value] else f"line {line}"
                raise yaml.YAMLError(f"the key {key.value!r} stands twice in one mapping, in {where}")
            lines[key.value] = line
        return node


class _Dumper(yaml.SafeDumper):
    """Quotes a folder called ``1e3``, which the loader would take for a number."""


# A date is a text, whether a folder is called so or an option is given it by mistake: no recipe has use for one.
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in found if tag != "tag:yaml.org,2002:timestamp"]
    for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _kind in (_Loader, _Dumper):
    _kind.add_implicit_resolver(
        "tag:yaml.org,2002:float",
        re.compile(r"^[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+$"),
        list("-+0123456789."),
    )


def _parsed(text: str) -> Any:
    """A copy without YAML's aliases, so that an override changes one place alone."""
    try:
        return to_plain(yaml.load(text, Loader=_Loader))
    except RecursionError as error:
        raise yaml.YAMLError("something in it holds itself, or is nested too deeply") from error
    except ValueError as error:  # a tag that does not fit its text, as in "!!float many"
        raise yaml.YAMLError(str(error)) from error


def _override(plain: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator:
        raise UserError(f"an override is KEY=VALUE, such as data.imbalance_factor=50, got {override!r}")
    *parents, last = key.split(".")
    place: Any = plain
    name = "items"  # of the list that ``place`` is
    for parent in parents:
        if isinstance(place, list):
            place = _item(place, parent, key, name)
        else:
            if isinstance(place.get(parent), str):  # "loss: ldam" becomes "loss: {name: ldam}" to take an option
                place[parent] = {"name": place[parent]}
            place = place.setdefault(parent, {})
        if not isinstance(place, (dict, list)):
            raise UserError(f"cannot set {key!r}: {parent!r} is a single value")
        name = parent
    try:
        value = _parsed(text)
    except yaml.YAMLError as error:
        raise UserError(f"cannot set {key!r}: {text!r} is not valid YAML") from error
    if isinstance(place, list):
        _item(place, last, key, name)
        place[int(last)] = value
    else:
        place[last] = value


def _item(items: list[Any], index: str, key: str, name: str) -> Any:
    if not re.fullmatch(r"-?\d+", index) or not -len(items) <= int(index) < len(items):
        raise UserError(f"cannot set {key!r}: {index!r} is not the number of one of {len(items)} {name}, 0-based")
    return items[int(index)]


def _default(kind: type, name: str) -> Any:
    spec = next(f for f in dataclasses.fields(kind) if f.name == name)
    if spec.default_factory is not dataclasses.MISSING:
        return spec.default_factory()
    return spec.default


def _read(kind: Any, plain: Any, where: str) -> Any:
    """One value of the annotated type ``kind``, or an error that says where it stood."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        if plain is None and type(None) in arguments:
            return None
        return _read(next(a for a in arguments if a is not type(None)), plain, where)
    if origin is Literal:
        if plain not in arguments:
            raise UserError(
                f"{where} must be one of {', '.join(map(str, arguments))}, got {plain!r}{closest(plain, arguments)}"
            )
        return plain
    if origin is tuple:
        if not isinstance(plain, (list, tuple)):
            raise UserError(f"{where} must be a list, got {plain!r}")
        return tuple(_read(arguments[0], item, f"{where}[{i}]") for i, item in enumerate(plain))
    if kind in (Named, Augmenter):
        return _read_named(kind, plain, where)
    if dataclasses.is_dataclass(kind):
        return _read_mapping(kind, plain, where)
    return _read_scalar(kind, plain, where)


def _read_scalar(kind: Any, plain: Any, where: str) -> Any:
    if kind is float and isinstance(plain, int) and not isinstance(plain, bool):
        return float(plain)
    if kind is Any or (isinstance(plain, kind) and not (isinstance(plain, bool) and kind is not bool)):
        return plain
    raise UserError(f"{where} must be of type {kind.__name__}, got {plain!r}")


def _read_named(kind: Any, plain: Any, where: str) -> Any:
    if isinstance(plain, str):
        return kind(plain)
    if not isinstance(plain, Mapping) or not isinstance(plain.get("name"), str):
        raise UserError(f"{where} must be a name or a mapping with a 'name', got {plain!r}")
    hints = typing.get_type_hints(kind)
    own = {f.name for f in dataclasses.fields(kind)} - {"options"}
    known = {key: _read(hints[key], value, f"{where}.{key}") for key, value in plain.items() if key in own}
    return kind(**known, options={key: value for key, value in plain.items() if key not in own})


def _read_mapping(kind: Any, plain: Any, where: str) -> Any:
    if not isinstance(plain, Mapping):
        raise UserError(f"{where} must be a mapping, got {plain!r}")
    hints = typing.get_type_hints(kind)
    for key in plain:
        if key not in hints:
            raise UserError(f"{where} has no key {key!r}{closest(key, hints)}; its keys are {', '.join(hints)}")
    required = [f.name for f in dataclasses.fields(kind) if _default(kind, f.name) is dataclasses.MISSING]
    for key in required:
        if key not in plain:
            raise UserError(f"{where} lacks the key {key!r}")
    return kind(**{key: _read(hints[key], value, f"{where}.{key}") for key, value in plain.items()})


def _check(recipe: Recipe, where: str) -> None:
    """What types cannot say."""
    if not recipe.stages:
        raise UserError(f"{where}.stages is empty; a run needs at least one stage")
    for index, stage in enumerate(recipe.stages):
        if stage.epochs < 0:
            raise UserError(f"{where}.stages[{index}].epochs must be at least 0, got {stage.epochs}")
        if stage.evaluate_every < 1:
            raise UserError(f"{where}.stages[{index}].evaluate_every must be at least 1, got {stage.evaluate_every}")
        if stage.averaged_epochs is not None and not 0 < stage.averaged_epochs < math.inf:
            raise UserError(
                f"{where}.stages[{index}].averaged_epochs is how many epochs an average of the weights reaches back, "
                f"above 0, got {stage.averaged_epochs:g}"
            )
        if stage.augmenter is not None:
            _check_from_0(stage.augmenter, ("lr_scale",), f"{where}.stages[{index}].augmenter")
        if stage.optimizer is not None:
            _check_optimizer(stage.optimizer, f"{where}.stages[{index}].optimizer")
        if stage.schedule is not None:
            _check_schedule(stage.schedule, f"{where}.stages[{index}].schedule")
    _check_optimizer(recipe.optimizer, f"{where}.optimizer")
    _check_schedule(recipe.schedule, f"{where}.schedule")
    if recipe.clip is not None and not recipe.clip > 0:
        raise UserError(f"{where}.clip is the largest norm of the gradient, above 0, got {recipe.clip:g}")
    if recipe.batch_size < 2:
        raise UserError(
            f"{where}.batch_size must be at least 2, since batch norm needs two images, got {recipe.batch_size}"
        )
    _check_data(recipe.data, where)


def _check_from_0(settings: Augmenter | Optimizer | Schedule, names: Sequence[str], where: str) -> None:
    for name in names:
        value = getattr(settings, name)
        if not 0 <= value < math.inf:
            raise UserError(f"{where}.{name} must be at least 0, got {value:g}")


def _check_optimizer(optimizer: Optimizer, where: str) -> None:
    _check_from_0(optimizer, ("momentum", "weight_decay"), where)
    if optimizer.nesterov and not optimizer.momentum:
        raise UserError(f"{where}.nesterov needs a momentum above 0")


def _check_schedule(schedule: Schedule, where: str) -> None:
    _check_from_0(schedule, ("lr", "factor", "warmup_epochs", "final"), where)


def _check_data(data: Data, where: str) -> None:
    if not data.imbalance_factor >= 1:
        factor = data.imbalance_factor
        meant = f"; did you mean {1 / factor:g}?" if factor > 0 else ""
        raise UserError(f"imbalance_factor is largest over smallest class, so at least 1, got {factor:g}{meant}")
    if not 0 <= data.validation < 1:
        raise UserError(f"{where}.data.validation is a fraction in [0, 1), got {data.validation:g}")
    if not 0 < data.head_ratio < 1:
        raise UserError(
            f"{where}.data.head_ratio is the share of classes that are head, in (0, 1), got {data.head_ratio:g}"
        )
    if data.image_size is not None and data.image_size < 1:
        raise UserError(f"{where}.data.image_size is a number of pixels, got {data.image_size}")
