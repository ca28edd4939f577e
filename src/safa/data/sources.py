"""Every data set, by name or by path, as one kind of object."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import get_args

from safa.catalog import DATASETS
from safa.data import cifar, digits, folder, idx, listing, table
from safa.data.counts import count_labels
from safa.data.listing import OnCorrupt
from safa.data.pixels import fingerprint, statistics
from safa.data.types import Channels, Source, Split
from safa.errors import UserError, closest
from safa.files import expanded

__all__ = ["BUILT_IN", "OnCorrupt", "Source", "Split", "load_source"]

BUILT_IN = {name: DATASETS[name] for name in ("digits", "fashion-mnist", "cifar10", "cifar100")}
"""The data sets known by name, as ``safa list data`` describes them."""


def load_source(
    name: str,
    *,
    root: str | None = None,
    image_size: int | None = None,
    on_corrupt: OnCorrupt = "stop",
    in_memory_limit: int = 2**30,
) -> Source:
    """Load a data set.

    Args:
        name: one of ``BUILT_IN``, the path of an image folder (``train/CLASS/*.jpg`` with or without ``val/``
            and ``test/``), or the path of a CSV file with the columns path,label and, if wanted, split.
        root: where to look: the folder with the files of a built-in set (else SAFA_DATA), or the one that the
            path ``name`` is found in now. It is searched for the whole path, if that is relative, and for its
            last part, and may be the image folder itself. Paths in a CSV file start from the file's own
            folder; where ``root`` holds no such file, it is read from ``name`` and its paths start from
            ``root``.
        image_size: side in pixels at which folders and CSV files are read; 224, or less for smaller images,
            by default. Built-in sets have their own.
        on_corrupt: ``stop`` refuses to load when an image of a folder or CSV file cannot be read, naming the
            first few; ``skip`` leaves them out and lists them in ``Source.skipped``.
        in_memory_limit: bytes. Folders and CSV files that need more are not decoded now: their files are
            checked to open, and ``Split.paths`` is filled instead of ``Split.images``.

    Raises:
        UserError: for whatever is missing, empty, out of range or unreadable, before any training starts.
    """
    _check_options(image_size, on_corrupt)
    if not name:  # as a path it would be the folder that one is in
        raise UserError("the name of the data set is empty; name a built-in one, a folder or a CSV file")
    if name in BUILT_IN:
        return _built_in(name, root, image_size)
    found, base = _located(name, expanded(root) if root else None)
    files = folder.list_folder(found, name) if found.is_dir() else table.list_table(found, name, base)
    if root:  # of two copies, it says which
        files = replace(files, notes=(f"the data set is read from {str(found)!r}", *files.notes))
    return listing.load(files, image_size=image_size, on_corrupt=on_corrupt, in_memory_limit=in_memory_limit)


def _check_options(image_size: int | None, on_corrupt: str) -> None:
    if image_size is not None and not 1 <= image_size <= 4096:
        raise UserError(f"image_size is the side of the images in pixels, 1 to 4096, got {image_size}")
    if on_corrupt not in get_args(OnCorrupt):
        raise UserError(f"on_corrupt is 'stop' or 'skip', got {on_corrupt!r}")


def _built_in(name: str, root: str | None, image_size: int | None) -> Source:
    if name == "digits":
        if root:
            raise UserError(f"digits come with scikit-learn and lie in no folder, got root {root!r}; leave root out")
        return _source(name, *digits.load(), tuple("0123456789"), "shift", image_size)
    if name == "fashion-mnist":
        return _source(name, *idx.load_fashion_mnist(root), idx.FASHION_CLASSES, "crop_flip", image_size)
    which: cifar.Name = "cifar10" if name == "cifar10" else "cifar100"
    pixels = (cifar.MEAN, cifar.STD)
    return _source(name, *cifar.load(which, root), cifar.CLASSES[which], "crop_flip", image_size, pixels)


def _source(
    name: str,
    train: Split,
    test: Split,
    class_names: tuple[str, ...],
    augmentation: str,
    image_size: int | None,
    pixels: tuple[Channels, Channels] | None = None,
) -> Source:
    """A built-in set as a ``Source``; ``pixels`` are published mean and deviation, else they are computed."""
    if train.images is None:
        raise TypeError(f"{name} must be decoded in memory")
    side = train.images.shape[-1]
    if image_size not in (None, side):
        raise UserError(f"{name} has images of {side}×{side}, got image_size {image_size}; leave image_size out")
    empty = (count_labels(train.labels, len(class_names)) == 0).nonzero()[0]
    if empty.size:
        raise UserError(
            f"{empty.size} of {len(class_names)} classes of {name} have no training image, the first is "
            f"{class_names[empty[0]]!r}; is root the folder of another data set?"
        )
    mean, std = pixels or statistics(train.images)
    marks = fingerprint((train, test))
    return Source(name, class_names, side, train, test, None, mean, std, augmentation, (), marks)


def _located(name: str, root: Path | None) -> tuple[Path, Path]:
    """Where the data set ``name`` lies, and what the relative paths of a CSV file start from."""
    path = expanded(name)
    if root is not None and not root.is_dir():
        raise UserError(f"root is the folder to look for {name!r} in, but there is no folder {str(root)!r}")
    places = [path] if root is None else _places_in(root, path)
    found = next((place for place in places if place.is_dir() or _is_table(place)), None)
    if found is not None:
        return found, found.parent
    if root is not None and _is_table(path):  # a list that is kept apart from its images
        return path, root
    if any(place.is_file() for place in places):
        raise UserError(
            f"{name!r} is a file but no .csv; name an image folder or a CSV file with the columns path,label"
        )
    inside = f" in {str(root)!r}" if root is not None else ""
    raise UserError(
        f"no data set named {name!r} and no such path{inside}{closest(name, BUILT_IN)}; "
        f"there are {', '.join(BUILT_IN)}, or name a folder (train/CLASS/*.jpg) or a CSV file (path,label); "
        f"--root names the folder that it lies in"
    )


def _places_in(root: Path, path: Path) -> list[Path]:
    whole = [] if path.is_absolute() else [root / path]
    itself = [root] if root.absolute().name == path.name else []
    return [*whole, root / path.name, *itself]


def _is_table(path: Path) -> bool:
    return path.is_file() and path.suffix.lower() == ".csv"
