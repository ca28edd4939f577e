"""From lists of image files to a data set: check, decode, leave corrupt files out, measure the pixels."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from safa.data import images as image_files
from safa.data.counts import count_labels
from safa.data.images import CorruptImageError
from safa.data.longtail import stratified_split
from safa.data.pixels import fingerprint, image_hashes, statistics
from safa.data.types import ByteArray, IntArray, Source, Split
from safa.errors import UserError

OnCorrupt = Literal["stop", "skip"]

SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
    "testing": "test",
}
"""What people call the splits, in lower case, and what they are called here."""

TEST_FRACTION = 0.2
# Fixed for good, as the test split must not change from run to run.
TEST_SEED = 2022
_STATISTICS_SAMPLE = 2000
_LISTED_NAMES = 5


@dataclass(frozen=True, eq=False)
class Listing:
    """Labelled files, not opened yet.

    Attributes:
        name: as the data set was asked for.
        base: the folder that ``paths`` are shown relative to.
        class_names: one per class id.
        splits: ``train`` and, as far as there are, ``validation`` and ``test``.
        notes: what was decided so far.
    """

    name: str
    base: Path
    class_names: tuple[str, ...]
    splits: dict[str, Split]
    notes: tuple[str, ...] = ()

    def shown(self, path: Path) -> str:
        """The path as a message shows it: relative to ``base`` where that is possible."""
        return path.relative_to(self.base).as_posix() if path.is_relative_to(self.base) else str(path)


def load(listing: Listing, *, image_size: int | None, on_corrupt: OnCorrupt, in_memory_limit: int) -> Source:
    """Check and, when they fit into ``in_memory_limit`` bytes together, decode all files of a listing.

    Without a test split, 20 % of each class are cut from the training images with a constant seed. Without
    ``image_size``, it is 224, or less where the images are smaller: see ``_fitting_size``.

    Raises:
        UserError: if a class has no training image, nothing is left to test on, or files are corrupt and
            ``on_corrupt`` is ``stop``.
    """
    _check_classes(listing, listing.splits["train"])
    listing = _with_test_split(listing)
    if image_size is None:
        image_size = _fitting_size(listing.splits["train"].paths)
        listing = replace(listing, notes=(*listing.notes, f"images are read at {image_size}×{image_size}"))
    read, sample, errors = _read(listing.splits, image_size, in_memory_limit, thorough=on_corrupt == "skip")
    skipped = _report(listing, errors, on_corrupt)
    _check_classes(listing, read["train"])
    for kind, split in read.items():
        if not len(split):
            raise UserError(f"no image of the {kind} split of {listing.name!r} could be read; mend its files")
    mean, std = statistics(sample)
    hashes = {kind: image_hashes(split) for kind, split in read.items()}
    return Source(
        name=listing.name,
        class_names=listing.class_names,
        image_size=image_size,
        train=read["train"],
        test=read["test"],
        validation=read.get("validation"),
        mean=mean,
        std=std,
        # Cutting a random part out of a small image leaves nothing to recognise.
        default_augmentation="resized_crop" if image_size >= 96 else "crop_flip",
        skipped=skipped,
        fingerprint=fingerprint([*read.values()], [*hashes.values()]),
        notes=(*listing.notes, *_case(listing.class_names), *_dark(sample), *_overlaps(listing, read, hashes)),
    )


def first_few(names: Sequence[str]) -> str:
    """The first five names and the number of the others, as messages list them."""
    rest = len(names) - _LISTED_NAMES
    return ", ".join(names[:_LISTED_NAMES]) + (f", and {rest} more" if rest > 0 else "")


def look_alikes(names: Sequence[str]) -> tuple[str, str] | None:
    """Two of the names that look alike and are not, if there are any.

    Letters with accents, and letters and accents apart, as a Mac may write.
    """
    first: dict[str, str] = {}
    for name in names:
        known = first.setdefault(unicodedata.normalize("NFC", name), name)
        if known != name:
            return known, name
    return None


def _check_classes(listing: Listing, train: Split) -> None:
    names = listing.class_names
    if len(names) < 2:
        raise UserError(f"{listing.name!r} has one class, {names[0]!r}; classification needs at least two")
    empty = [names[c] for c in np.flatnonzero(count_labels(train.labels, len(names)) == 0)]
    if empty:
        found = f"{len(empty)} of {len(names)} classes of {listing.name!r} have no training image: {first_few(empty)}"
        raise UserError("; ".join((found, "add images or leave the class out", *listing.notes)))


def _with_test_split(listing: Listing) -> Listing:
    if "test" in listing.splits:
        return listing
    train, num_classes = listing.splits["train"], len(listing.class_names)
    kept, cut = stratified_split(train.labels, num_classes, TEST_FRACTION, TEST_SEED)
    if not len(cut):
        raise UserError(
            f"{listing.name!r} has no test split, and no class has the {round(1 / TEST_FRACTION)} images it "
            f"takes to cut one; add a test split"
        )
    note = f"no test split: {len(cut)} training images ({TEST_FRACTION:.0%} of each class) are kept for it"
    if "validation" in listing.splits:  # as ImageNet comes, whose val/ papers test on
        note += "; the validation split is for choosing settings: to test on it, and train on all images, call it test"
    splits = {**listing.splits, "train": train.take(kept), "test": train.take(cut)}
    return replace(listing, splits=splits, notes=(*listing.notes, note))


def _fitting_size(paths: Sequence[Path]) -> int:
    """224, or the multiple of 32 (at least 32) below the median short side of up to 200 training images."""
    sides = []
    for index in _seeded_choice(len(paths), 200):
        try:
            with Image.open(paths[index]) as image:
                sides.append(min(image.size))
        except Exception:  # whatever is wrong with the file is reported by name when it is read in full
            continue
    return min(224, max(32, int(np.median(sides)) // 32 * 32)) if sides else 224


def _read(
    splits: dict[str, Split], image_size: int, in_memory_limit: int, *, thorough: bool
) -> tuple[dict[str, Split], ByteArray, list[CorruptImageError]]:
    """The splits without their corrupt files, the images to take statistics from, and what was corrupt.

    Of a set that does not fit into memory, training images are decoded beforehand only if it is to be ``thorough``: the
    first epoch finds what is damaged. Test images are decoded in any case, for the epochs before the first test would
    be lost.
    """
    total = sum(map(len, splits.values()))
    in_memory = total * 3 * image_size * image_size <= in_memory_limit
    read, errors = dict[str, Split](), list[CorruptImageError]()
    for kind, split in splits.items():
        if in_memory:
            read[kind], failed = _decoded(split, image_size)
        else:
            read[kind], failed = _checked(split, image_size if thorough or kind != "train" else None)
        errors += failed
    sample, failed = _sample(read["train"], image_size)
    read["train"] = _without(read["train"], failed)
    return read, sample, errors + failed


def _decoded(split: Split, image_size: int) -> tuple[Split, list[CorruptImageError]]:
    images = np.empty((len(split), 3, image_size, image_size), dtype=np.uint8)

    def fill(index: int) -> None:
        images[index] = image_files.decode(split.paths[index], image_size)

    outcomes = image_files.in_threads(fill, range(len(split)))
    errors = [outcome for outcome in outcomes if outcome is not None]
    if not errors:
        return Split(split.labels, images, split.paths), errors
    good = np.flatnonzero([outcome is None for outcome in outcomes])
    return Split(split.labels, images, split.paths).take(good), errors


def _checked(split: Split, image_size: int | None) -> tuple[Split, list[CorruptImageError]]:
    """The files that can be read, by their headers, or with a size by all that is in them."""

    def check(path: Path) -> None:
        if image_size is None:
            image_files.check_header(path)
        else:
            image_files.decode(path, image_size)

    outcomes = image_files.in_threads(check, split.paths)
    errors = [outcome for outcome in outcomes if outcome is not None]
    return _without(split, errors), errors


def _sample(train: Split, image_size: int) -> tuple[ByteArray, list[CorruptImageError]]:
    """At most 2,000 training images, decoded, to take the pixel statistics from."""
    chosen = _seeded_choice(len(train), _STATISTICS_SAMPLE)
    if train.images is not None:
        return train.images[chosen], []
    outcomes = image_files.in_threads(
        lambda path: image_files.decode(path, image_size), [train.paths[index] for index in chosen]
    )
    errors = [outcome for outcome in outcomes if isinstance(outcome, CorruptImageError)]
    images = [outcome for outcome in outcomes if not isinstance(outcome, CorruptImageError)]
    return np.stack(images) if images else np.empty((0, 3, 1, 1), dtype=np.uint8), errors


def _case(names: Sequence[str]) -> Iterator[str]:
    """A note if two classes differ in upper and lower case alone, as they do when two people wrote the labels."""
    first: dict[str, str] = {}
    alike = [f"{known} and {name}" for name in names if (known := first.setdefault(name.casefold(), name)) != name]
    if alike:
        yield f"classes that differ in upper and lower case alone stay two: {first_few(alike)}"


def _dark(sample: ByteArray) -> tuple[str, ...]:
    """A note if the brightest pixel is dark, as it is when files of 16 bits hold values of 12."""
    brightest = int(sample.max())
    if brightest >= 64:
        return ()
    return (f"no pixel is brighter than {brightest} of 255; scale values of 12 bits in 16-bit files to 65535",)


def _overlaps(listing: Listing, splits: Mapping[str, Split], hashes: Mapping[str, Sequence[bytes]]) -> Iterator[str]:
    """A note on each split that has images of the training split in it: what is measured on them flatters.

    So does what is measured on a validation split that is cut from training images of which there are copies.
    """
    yield from _copies(listing, splits["train"], hashes["train"])
    known = {kind: set(found) for kind, found in hashes.items() if kind != "test"}
    called = {"train": "training", "validation": "validation"}
    for kind, other in (("validation", "train"), ("test", "train"), ("test", "validation")):
        twice = [place for place, image in enumerate(hashes.get(kind, ())) if image in known.get(other, ())]
        if twice:
            names = first_few([listing.shown(splits[kind].paths[place]) for place in twice])
            yield (
                f"{len(twice)} of {len(splits[kind])} {kind} images are {called[other]} images, too, so errors look "
                f"smaller than they are; keep one copy of each: {names}"
            )


def _copies(listing: Listing, train: Split, hashes: Sequence[bytes]) -> Iterator[str]:
    """A note on training images that are copies of others, and one on those whose copies are of another class."""
    first: dict[bytes, int] = {}
    pairs = [(place, first.setdefault(image, place)) for place, image in enumerate(hashes)]
    copies = [(place, known) for place, known in pairs if place != known]
    if copies:
        yield (
            f"{len(copies)} of {len(train)} training images are copies of others; keep one of each, or a validation "
            f"split that is cut from them has images that are trained on: {_told(listing, train, copies)}"
        )
    torn = [(place, known) for place, known in copies if train.labels[place] != train.labels[known]]
    if torn:
        yield (
            f"{len(torn)} of these copies are in another class than the first, so the network is taught both; keep the "
            f"one that is right: {_told(listing, train, torn)}"
        )


def _told(listing: Listing, split: Split, pairs: Sequence[tuple[int, int]]) -> str:
    return first_few([" = ".join(listing.shown(split.paths[place]) for place in pair) for pair in pairs])


def _seeded_choice(total: int, number: int) -> IntArray:
    return np.sort(np.random.RandomState(0).permutation(total)[:number])


def _report(listing: Listing, errors: Sequence[CorruptImageError], on_corrupt: OnCorrupt) -> tuple[str, ...]:
    if errors and on_corrupt == "stop":
        listed = first_few([f"{listing.shown(Path(error.file))} ({error.reason})" for error in errors])
        raise UserError(
            f"{len(errors)} of the image files of {listing.name!r} cannot be read: {listed}; "
            f"mend or remove them, or skip them with --on_corrupt skip, in training with --set data.on_corrupt=skip "
            f"(in Python on_corrupt='skip'); a run that was trained on them wants them back as they were"
        )
    return tuple(listing.shown(Path(error.file)) for error in errors)


def _without(split: Split, errors: Sequence[CorruptImageError]) -> Split:
    if not errors:
        return split
    bad = {error.file for error in errors}
    return split.take(np.array([i for i, path in enumerate(split.paths) if str(path) not in bad], dtype=np.int64))
