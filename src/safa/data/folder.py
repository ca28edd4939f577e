"""Image folders: ``train/CLASS/*.jpg``, with or without ``val/`` and ``test/``."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from safa.data.images import EXTENSIONS
from safa.data.listing import Listing
from safa.data.types import Split
from safa.errors import UserError

_SPLIT_FOLDERS = {"validation": ("val", "valid", "validation"), "test": ("test",)}


def list_folder(root: Path, name: str) -> Listing:
    """List an image folder without opening a file.

    Class names are the sorted names of the folders in ``train/``; images may lie deeper inside. Files that
    are no images by their extension, hidden files and ``__MACOSX`` are passed over, and no folder is entered
    twice. A folder without ``train/`` that holds class folders is itself taken as the training split.

    Raises:
        UserError: if a folder cannot be read, a class has no image, or a class of ``val/`` or ``test/`` is
            not in ``train/``.
    """
    found = {kind: _first_folder(root, names) for kind, names in _SPLIT_FOLDERS.items()}
    notes: tuple[str, ...] = ()
    train = root / "train"
    if not train.is_dir():
        present = [folder.name for folder in found.values() if folder]
        if present:
            raise UserError(f"{str(root)!r} has {' and '.join(present)} but no train/CLASS/ folders; add train/")
        train, notes = root, ("there is no train/ folder: the class folders are taken as the training split",)
    class_names = tuple(folder.name for folder in _class_folders(train))
    if not class_names:
        raise UserError(f"no class folders in {str(train)!r}; expected one folder per class with its images inside")
    splits = {"train": _list_split(train, root, class_names)}
    for kind, folder in found.items():
        if folder is not None:
            splits[kind] = _list_split(folder, root, class_names)
            _require_images(folder, splits[kind])
    return Listing(name=name, base=root, class_names=class_names, splits=splits, notes=notes)


def _first_folder(root: Path, names: tuple[str, ...]) -> Path | None:
    return next((root / name for name in names if (root / name).is_dir()), None)


def _class_folders(folder: Path) -> list[Path]:
    return sorted(Path(entry.path) for entry in _entries(folder) if _is_folder(entry))


def _list_split(folder: Path, root: Path, class_names: tuple[str, ...]) -> Split:
    classes = _class_folders(folder)
    unknown = [path.name for path in classes if path.name not in class_names]
    if unknown:
        raise UserError(
            f"{str(folder)!r} has the class {unknown[0]!r}, which is not among the training classes "
            f"{_some(class_names)}; the folders of all splits need the same names"
        )
    # Links that lead back here must not pour other classes' images into this one.
    entered = {_identity(path) for path in (root, folder, *classes)}
    paths, labels = list[Path](), list[int]()
    for class_folder in classes:
        found = list(_images_in(class_folder, entered))
        paths += found
        labels += [class_names.index(class_folder.name)] * len(found)
    return Split(np.array(labels, dtype=np.int64), paths=tuple(paths))


def _require_images(folder: Path, split: Split) -> None:
    if not len(split):
        raise UserError(f"{str(folder)!r} holds no image in a class folder; add images or remove the folder")


def _images_in(folder: Path, entered: set[tuple[int, int]]) -> Iterator[Path]:
    for entry in _entries(folder):
        path = Path(entry.path)
        if _is_folder(entry):
            if _identity(path) not in entered:
                entered.add(_identity(path))
                yield from _images_in(path, entered)
        elif path.suffix.lower() in EXTENSIONS:
            yield path


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            visible = [entry for entry in entries if not entry.name.startswith(".") and entry.name != "__MACOSX"]
    except OSError as error:
        raise UserError(
            f"cannot read the folder {str(folder)!r}: {error.strerror}; check the path and its permissions"
        ) from error
    return sorted(visible, key=lambda entry: entry.name)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself; with an image's extension it is reported as unreadable later
        return False


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


def _some(names: tuple[str, ...]) -> str:
    return f"{list(names[:10])}" + (f" and {len(names) - 10} more" if len(names) > 10 else "")
