"""Image folders: ``train/CLASS/*.jpg``, with or without ``val/`` and ``test/``."""

from __future__ import annotations

import os
import re
import sys
import unicodedata
from collections import ChainMap, Counter
from collections.abc import Iterator, MutableMapping
from functools import partial
from pathlib import Path

import numpy as np

from safa.data.images import EXTENSIONS
from safa.data.listing import SPLIT_NAMES, Listing, first_few, look_alikes
from safa.data.types import Split
from safa.errors import UserError
from safa.files import CARD, RECIPE

_NO_ONES = ("__MACOSX", "@eaDir")  # what a Mac's archives and Synology's storage put beside one's own files

Identity = tuple[int, int]  # of a folder, whatever path leads there


def list_folder(root: Path, name: str) -> Listing:
    """List an image folder without opening a file.

    Folders of splits go by any name of ``SPLIT_NAMES``, in upper or lower case. Class names are the sorted
    names of the folders in ``train/``; images may lie deeper inside. Files that are no images by their
    extension are passed over with a note, hidden files, ``__MACOSX`` and ``@eaDir`` without one, and no folder is
    entered twice. A folder without ``train/`` that holds class folders is itself taken as the training split.

    Raises:
        UserError: if a folder cannot be read, a link leads nowhere, two folders are for one split or one class, one
            folder is for two classes, the name of a class is not UTF-8, a class has no image, or a class of ``val/`` or
            ``test/`` is not in ``train/``.
    """
    found = _split_folders(root)
    notes: tuple[str, ...] = ()
    runs: list[Path] = []
    train = found.pop("train", None)
    if train is None:
        present = [folder.name for folder in found.values()]
        if present:
            lacking = f"{str(root)!r} has {' and '.join(present)} but no train/CLASS/ folders; add train/"
            raise UserError(lacking + _if_a_class(present))
        train, notes = root, ("there is no train/ folder: the class folders are taken as the training split",)
        runs = [folder for folder in _folders(root) if _holds_runs(folder)]
        if runs:
            notes = (*notes, f"folders that hold runs are no classes: {first_few([folder.name for folder in runs])}")
    class_folders = [folder for folder in _folders(train) if folder not in runs]
    if train is root:
        notes = (*notes, *_folders_of_classes(root, class_folders))
    class_names = _names(train, class_folders)
    others = Counter[str]()
    notes = (*notes, *_beside(root, [train, *found.values()]))
    splits = {"train": _list_split(train, class_folders, root, class_names, others)}
    for kind in ("validation", "test"):
        if kind in found:
            splits[kind] = _list_split(found[kind], _folders(found[kind]), root, class_names, others)
            _require_images(found[kind], splits[kind])
    notes = (*notes, *_passed_over(others))
    return Listing(name=name, base=root, class_names=class_names, splits=splits, notes=notes)


def images_in(
    folder: Path, entered: MutableMapping[Identity, Path] | None = None, others: Counter[str] | None = None
) -> Iterator[Path]:
    """Files that are images by their extension, in a folder and deep down, sorted within each folder.

    Hidden ones, ``__MACOSX`` and ``@eaDir`` are passed over.

    Args:
        folder: where to look.
        entered: the folders not to enter, which grow by those that are: a link may lead back.
        others: grows by the files that are no images, counted by their extensions.

    Raises:
        UserError: if a folder cannot be read.
    """
    entered = {_identity(folder): folder} if entered is None else entered
    for entry in _entries(folder):
        path = Path(entry.path)
        if _is_folder(entry):
            if _identity(path) not in entered:
                entered[_identity(path)] = path
                yield from images_in(path, entered, others)
        elif path.suffix.lower() in EXTENSIONS:
            yield path
        elif others is not None:
            others[path.suffix.lower() or "without an ending"] += 1


def _split_folders(root: Path) -> dict[str, Path]:
    """``train``, ``validation`` and ``test``, as far as there are, and their folders."""
    found: dict[str, Path] = {}
    for folder in _folders(root):
        kind = SPLIT_NAMES.get(folder.name.lower())
        if kind in found:
            raise UserError(
                f"{str(root)!r} has {found[kind].name!r} and {folder.name!r}, two folders for the {kind} split; "
                f"put their images into one of them, or move one elsewhere"
            )
        if kind is not None:
            found[kind] = folder
    return found


def _holds_runs(folder: Path) -> bool:
    """Whether it is a run, or what ``--out`` named: either may lie beside the folders of the classes."""
    within = [Path(entry.path) for entry in _entries(folder) if _is_folder(entry)]
    return any((run / RECIPE).is_file() and (run / CARD).is_file() for run in (folder, *within))


def _folders_of_classes(root: Path, classes: list[Path]) -> Iterator[str]:
    """A note where all folders hold folders of the same names: these may be the classes, and those splits.

    Raises:
        UserError: if the names of the folders speak of splits, if all hold a split, or if there is one folder, which
            holds several.
    """
    if any(map(_holds_images, classes)):
        return
    inside = [{folder.name for folder in _folders(within)} for within in classes]
    shared = sorted(set.intersection(*inside)) if inside else []
    splits = [name for name in shared if name.lower() in SPLIT_NAMES]
    if len(shared) < 2 and not splits:
        return
    if len(classes) == 1:
        raise UserError(
            f"{str(root)!r} has one folder, {classes[0].name!r}, which holds {first_few(shared)}; if these are the "
            f"classes or splits, give {str(classes[0])!r}"
        )
    names = [folder.name for folder in classes]
    if splits:
        raise UserError(
            f"{str(root)!r} has no train/ folder, so {first_few(names)} would be its classes, but each of them holds "
            f"{first_few(splits)}; if they are data sets, name one of them, and if they are classes, put their images "
            f"into folders like {splits[0]}/{names[0]}"
        )
    if any(part in SPLIT_NAMES for name in names for part in re.split(r"[^a-z]+", name.lower())):
        raise UserError(
            f"{str(root)!r} has no train/ folder, so {first_few(names)} would be its classes, but each of them holds "
            f"{first_few(shared)}; if they are splits, call them train, val and test"
        )
    yield f"the classes are {first_few(names)}, each of which holds {first_few(shared)}, which are none"


def _if_a_class(names: list[str]) -> str:
    """How folders that are taken for splits can be classes."""
    return f"; where {first_few(names)} is a class, put all class folders into a folder called train"


def _names(train: Path, classes: list[Path]) -> tuple[str, ...]:
    if not classes:
        a_class = _holds_images(train) and train.name.lower() in SPLIT_NAMES
        raise UserError(
            f"no class folders in {str(train)!r}; expected one folder per class with its images inside"
            + (_if_a_class([train.name]) if a_class else "")
        )
    for folder in classes:
        try:
            folder.name.encode()
        except UnicodeEncodeError as error:  # a report or a model file could not hold it
            raise UserError(f"the name of the class folder {str(folder)!r} is not UTF-8; {_mended(folder)}") from error
    names = tuple(folder.name for folder in classes)
    if twins := look_alikes(names):
        raise UserError(
            f"{str(train)!r} has two class folders {twins[1]!r}, written {twins[0]!a} and {twins[1]!a}; put their "
            "images into one of them"
        )
    return names


def _mended(folder: Path) -> str:
    """How a name can be read that Python could not."""
    try:
        os.fsencode(folder.name).decode()
    except UnicodeDecodeError:
        return "rename the folder"
    return f"Python takes names of files for {sys.getfilesystemencoding()} here; set PYTHONUTF8=1"


def _folders(folder: Path) -> list[Path]:
    """The folders in a folder, by name.

    Raises:
        UserError: if a link leads nowhere: without its folder a class, or a split, would be missing unnoticed.
    """
    entries = _entries(folder)
    for entry in entries:
        if entry.is_symlink() and not Path(entry.path).exists():
            raise UserError(f"the link {entry.path!r} leads nowhere; mend it or remove it")
    return [Path(entry.path) for entry in entries if _is_folder(entry)]


def _list_split(
    folder: Path, classes: list[Path], root: Path, class_names: tuple[str, ...], others: Counter[str]
) -> Split:
    ids = {name: label for label, name in enumerate(class_names)}
    unknown = [path.name for path in classes if path.name not in ids]
    if unknown:
        raise UserError(
            f"{str(folder)!r} has the class {unknown[0]!r}, which is not among the training classes "
            f"{first_few(class_names)}; the folders of all splits need the same names{_spellings(unknown, class_names)}"
        )
    own: dict[Identity, Path] = {}
    for class_folder in classes:
        first = own.setdefault(_identity(class_folder), class_folder)
        if first is not class_folder:
            raise _one_folder(first, class_folder)
    # Links that lead back here must not pour other classes' images into this one.
    known = {_identity(root): root, _identity(folder): folder, **own}
    inside: dict[Identity, Path] = {}
    paths, labels = list[Path](), list[int]()
    for class_folder in classes:
        deeper: dict[Identity, Path] = {}
        found = list(images_in(class_folder, ChainMap(deeper, known), others))
        for identity in deeper.keys() & inside.keys():
            raise _one_folder(inside[identity], deeper[identity])
        inside |= deeper
        paths += found
        labels += [ids[class_folder.name]] * len(found)
    return Split(np.array(labels, dtype=np.int64), paths=tuple(paths))


def _one_folder(first: Path, second: Path) -> UserError:
    return UserError(
        f"{str(first)!r} and {str(second)!r} are one folder, reached from two classes; remove the link that leads to "
        "another class"
    )


def _spellings(unknown: list[str], class_names: tuple[str, ...]) -> str:
    """Two names that look alike, as they are written: a Mac may take letters and their accents apart."""
    form = partial(unicodedata.normalize, "NFC")
    alike = [(ours, theirs) for ours in unknown for theirs in class_names if form(ours) == form(theirs)]
    return f" to the letter: {alike[0][0]!a} is not {alike[0][1]!a}" if alike else ""


def _beside(root: Path, splits: list[Path]) -> Iterator[str]:
    """Notes on images that lie in no class folder, and on folders beside those of the splits, if there are any."""
    for folder in splits:
        loose = [entry.name for entry in _entries(folder) if _is_image(entry)]
        if loose:
            place = f"{folder.name}/" if folder != root else "the folder itself"
            yield f"{len(loose)} images in {place} are in no class folder, and not used: {first_few(loose)}"
    further = [folder.name for folder in _folders(root) if folder not in splits] if root not in splits else []
    if further:
        yield f"folders that are no split by their names are not used: {first_few(further)}"


def _holds_images(folder: Path) -> bool:
    """Whether images lie in the folder itself."""
    return any(map(_is_image, _entries(folder)))


def _is_image(entry: os.DirEntry[str]) -> bool:
    return not _is_folder(entry) and Path(entry.name).suffix.lower() in EXTENSIONS


def _passed_over(others: Counter[str]) -> Iterator[str]:
    """A note on the files that are no images by their endings, if there are any."""
    if others:
        listed = first_few([f"{number} {ending}" for ending, number in others.most_common()])
        yield f"files that are no images by their endings are passed over: {listed}"


def _require_images(folder: Path, split: Split) -> None:
    if not len(split):
        raise UserError(f"{str(folder)!r} holds no image in a class folder; add images or remove the folder")


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            visible = [entry for entry in entries if not entry.name.startswith(".") and entry.name not in _NO_ONES]
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


def _identity(path: Path) -> Identity:
    status = path.stat()
    return status.st_dev, status.st_ino
