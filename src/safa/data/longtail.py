"""Draw a long-tailed subset of a data set: a pure function of its labels, which reads no image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from safa.data.counts import count_labels, exponential_counts, step_counts
from safa.data.subset import Subset
from safa.data.types import IntArray
from safa.errors import UserError

Profile = Literal["exponential", "step", "as_found"]
Order = Literal["ldam", "rsg"]
ValidationFrom = Literal["any", "left_out"]


def draw_subset(
    labels: NDArray[Any],
    num_classes: int,
    *,
    profile: Profile = "exponential",
    imbalance_factor: float | None = None,
    largest: int | None = None,
    order: Order = "ldam",
    seed: int = 0,
    validation: float = 0.0,
    validation_per_class: int = 0,
    validation_from: ValidationFrom = "any",
    meta_per_class: int = 0,
    class_names: Sequence[str] | None = None,
) -> Subset:
    """Draw the long-tailed subset that a run trains on.

    Args:
        labels: labels of all available training images, shape (n,).
        num_classes: C, the number of classes.
        profile: ``exponential`` or ``step`` counts, given to the classes in order of decreasing available
            count (equal counts by class id), or ``as_found`` to take every image; ``as_found`` ignores the
            next two arguments.
        imbalance_factor: largest over smallest class, at least 1.
        largest: images of the most frequent class; by default as many as the largest class has, the meta set
            taken out.
        order: which images of a class are taken. ``ldam`` shuffles each class as LDAM-DRW does, with one
            ``np.random.RandomState(seed)`` for class 0, class 1, …; ``rsg`` takes the first ones in file
            order, as RSG's copy of that code does: the counts agree, the images differ.
        seed: of the shuffle and of the validation images.
        validation: fraction in [0, 1) of each drawn class to set aside: ``int(fraction * count)``, never the
            last image.
        validation_per_class: in its place, as many images of every class. The images that the tail leaves out come
            first; where a class has fewer of them, the rest is taken from its training images.
        validation_from: ``any``, or ``left_out`` to take none from the training images: a class of which the tail
            leaves out fewer has fewer, and the training images are those of a run without validation.
        meta_per_class: images of each class taken out before the profile is laid over the rest, as the
            balanced set of meta re-weighting; 10 on CIFAR-LT.  [Shu et al. 2019]
        class_names: what errors call the classes; their ids by default.

    Returns:
        A frozen ``Subset`` whose ``class_counts`` are those of the images left for training.

    Reading:
        The released code of Shu et al. and of Jamal et al. shuffles a class, takes the meta set off the front
        and shuffles the rest anew. Here the meta set is the end of the class, in the order of which training
        takes the front: as random, and a run with a meta set trains on the images of the run without, less a
        few. For that, ``ldam`` order shuffles ``as_found`` too once there is a meta set. Validation images of
        every class alike lie between the two, for the same reason.

        A fraction of a long tail has one image of a rare class, and says nothing of that class. The same number of
        every class costs training little on a tail drawn from a balanced set: drawn from all of CIFAR-100 at imbalance
        100, 40 of every class take 57 of the 10,847 training images, all of the two most frequent classes.

    Raises:
        UserError: if a class has fewer images than its place in the profile asks for, or none left beside those
            held out, naming the class.
    """
    _check_choices(profile, order, seed, validation, validation_per_class, meta_per_class)
    spared = _spared(validation_from, validation_per_class, profile)
    labels = np.asarray(labels)
    available = count_labels(labels, num_classes)
    names = [str(c) for c in range(num_classes)] if class_names is None else [repr(name) for name in class_names]
    _check_left(available, 0 if spared else validation_per_class, meta_per_class, names)
    wanted = _wanted_counts(available - meta_per_class, profile, imbalance_factor, largest)
    _check_available(wanted, available - meta_per_class, meta_per_class, names)
    shuffled = order == "ldam" and (profile != "as_found" or validation_per_class + meta_per_class > 0)
    shuffle = np.random.RandomState(seed) if shuffled else None
    # Another stream than the shuffle's, so a validation split does not change which images are drawn.
    cut = np.random.RandomState([seed, 1])
    train, held_out, meta = [], [], []
    for indices, count in zip(_indices_by_class(labels, available), wanted, strict=True):
        if shuffle is not None:
            shuffle.shuffle(indices)
        indices, steering = np.split(indices, [len(indices) - meta_per_class])
        if validation_per_class:
            count = count if spared else min(count, len(indices) - validation_per_class)
            kept, aside = indices[:count], indices[count : count + validation_per_class]
        else:
            kept, aside = _set_aside(indices[:count], validation, cut)
        train.append(kept)
        held_out.append(aside)
        meta.append(steering)
    counts = [len(kept) for kept in train]
    return Subset.of(np.concatenate(train), np.concatenate(held_out), counts, np.concatenate(meta))


def stratified_split(labels: NDArray[Any], num_classes: int, fraction: float, seed: int) -> tuple[IntArray, IntArray]:
    """Cut ``fraction`` of every class, never its last image.

    Returns:
        Two sorted, disjoint index lists that cover ``labels``: what remains, and what was cut.
    """
    subset = draw_subset(labels, num_classes, profile="as_found", seed=seed, validation=fraction)
    return np.sort(subset.train), np.sort(subset.validation)


def _check_choices(
    profile: str, order: str, seed: int, validation: float, validation_per_class: int, meta_per_class: int
) -> None:
    if profile not in ("exponential", "step", "as_found"):
        raise UserError(f"no profile named {profile!r}; there are exponential, step and as_found")
    if order not in ("ldam", "rsg"):
        raise UserError(f"no order named {order!r}; there are ldam and rsg")
    if not 0 <= seed < 2**32:
        raise UserError(f"the seed of a subset lies in [0, 2**32), got {seed}")
    if not 0 <= validation < 1:
        raise UserError(f"validation is the fraction of each class to set aside, in [0, 1), got {validation}")
    for name, number in {"validation_per_class": validation_per_class, "meta_per_class": meta_per_class}.items():
        if number < 0:
            raise UserError(f"{name} is a number of images of each class, so at least 0, got {number}")
    if validation and validation_per_class:
        raise UserError(
            f"validation={validation:g} and validation_per_class={validation_per_class} both say what to hold out; "
            "leave one of them out"
        )


def _spared(validation_from: str, validation_per_class: int, profile: str) -> bool:
    """Whether validation takes no training image."""
    if validation_from not in ("any", "left_out"):
        raise UserError(f"validation_from is any or left_out, got {validation_from!r}")
    if validation_from == "any":
        return False
    if not validation_per_class:
        raise UserError("validation_from='left_out' needs validation_per_class, the most images of one class")
    if profile == "as_found":
        raise UserError("profile 'as_found' leaves no image out to validate on; leave out validation_from='left_out'")
    return True


def _wanted_counts(
    available: IntArray, profile: Profile, imbalance_factor: float | None, largest: int | None
) -> IntArray:
    if profile == "as_found":
        return available
    if imbalance_factor is None:
        raise UserError(f"profile {profile!r} needs an imbalance_factor, such as 100; or use profile 'as_found'")
    counts = exponential_counts if profile == "exponential" else step_counts
    by_rank = counts(int(available.max()) if largest is None else largest, len(available), imbalance_factor)
    wanted = np.empty_like(by_rank)
    wanted[np.argsort(-available, kind="stable")] = by_rank
    return wanted


def _check_left(available: IntArray, validation_per_class: int, meta_per_class: int, names: Sequence[str]) -> None:
    if not available.all():
        raise UserError(
            f"class {names[int(np.argmin(available))]} has no training image; leave the class out or add images"
        )
    asked = {"validation_per_class": validation_per_class, "meta_per_class": meta_per_class}
    short = np.flatnonzero(available <= sum(asked.values()))
    if short.size:
        held_out = " and ".join(f"{name}={number}" for name, number in asked.items() if number)
        raise UserError(
            f"class {names[short[0]]} has {available[short[0]]} images: with {held_out} none is left to train on "
            f"({short.size} of {len(available)} classes are short); lower it or add images"
        )


def _check_available(wanted: IntArray, available: IntArray, meta_per_class: int, names: Sequence[str]) -> None:
    short = np.flatnonzero(wanted > available)
    if short.size:
        worst = short[0]
        beside = f" beside the {meta_per_class} of the meta set" if meta_per_class else ""
        raise UserError(
            f"class {names[worst]} needs {wanted[worst]} images for this profile but has {available[worst]}{beside} "
            f"({short.size} of {len(wanted)} classes are short); raise imbalance_factor, lower largest"
            f"{' or meta_per_class' if meta_per_class else ''}, or use profile 'as_found'"
        )


def _indices_by_class(labels: NDArray[Any], available: IntArray) -> list[IntArray]:
    """``np.where(labels == c)[0]`` for every class c, in one sort."""
    return [part.copy() for part in np.split(np.argsort(labels, kind="stable"), np.cumsum(available)[:-1])]


def _set_aside(indices: IntArray, fraction: float, random: np.random.RandomState) -> tuple[IntArray, IntArray]:
    number = min(int(round(len(indices) * fraction, 9)), len(indices) - 1)
    if number < 1:
        return indices, indices[:0]
    is_aside = np.zeros(len(indices), dtype=np.bool_)
    is_aside[random.permutation(len(indices))[:number]] = True
    return indices[~is_aside], indices[is_aside]
