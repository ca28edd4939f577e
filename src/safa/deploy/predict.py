"""Image files to class names, as CSV or JSON."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Literal, TextIO

import numpy as np
import torch

from safa.data.folder import images_in
from safa.data.images import EXTENSIONS, CorruptImageError, decode, in_threads
from safa.data.listing import first_few
from safa.data.types import ByteArray
from safa.deploy.network import Deployed
from safa.errors import UserError

Say = Callable[[str], None]

_DECIMALS = 6  # float32 holds no more


@dataclass(frozen=True)
class Prediction:
    """What the network says of one file.

    Attributes:
        path: the file, as it was asked for or found.
        labels: names of the likeliest classes, the best first.
        probabilities: their softmax probabilities.
    """

    path: str
    labels: tuple[str, ...]
    probabilities: tuple[float, ...]

    @property
    def label(self) -> str:
        """The predicted class."""
        return self.labels[0]

    @property
    def probability(self) -> float:
        """Probability of the predicted class."""
        return self.probabilities[0]


def predict_paths(
    deployed: Deployed,
    paths: Iterable[Path | str],
    *,
    batch_size: int = 64,
    top: int = 1,
    on_corrupt: Literal["stop", "skip"] = "stop",
    say: Say = lambda _: None,
) -> Iterator[Prediction]:
    """Predict files and whole folders, one batch at a time.

    Args:
        deployed: the network, from ``load_run`` or ``load_exported``.
        paths: files, in this order, and folders, whose images are taken by extension, deep down and sorted.
            A file that comes up twice is predicted once.
        batch_size: images at a time; the result does not depend on it, but for the last bit.
        top: how many classes to name per image.
        on_corrupt: at a file that cannot be read, stop, or skip it and ``say`` so.
        say: takes one sentence per skipped file, and one with their number.

    Returns:
        Predictions as they are made, in the order of the files.

    Raises:
        UserError: at once, for a missing path, a folder without images or a wrong ``top`` or ``batch_size``;
            on the way, for a corrupt file when ``on_corrupt`` is ``stop``; at the end, if no file could be read.
    """
    classes = len(deployed.card.class_names)
    if not 1 <= top <= classes:
        raise UserError(f"top must lie between 1 and the number of classes, {classes}, got {top}")
    if batch_size < 1:
        raise UserError(f"batch_size must be at least 1, got {batch_size}")
    if on_corrupt not in ("stop", "skip"):
        raise UserError(f"on_corrupt must be stop or skip, got {on_corrupt!r}")
    files = list(dict.fromkeys(chain.from_iterable(map(_files, paths))))
    if not files:
        raise UserError("no image to predict; give image files or folders")
    # A generator would check its arguments only when the first prediction is taken from it.
    return _predictions(deployed, files, batch_size, top, on_corrupt == "skip", say)


def to_csv(predictions: Iterable[Prediction], stream: TextIO, top: int = 1) -> None:
    """Write the columns ``path, label, probability``, and for more classes ``label_2, probability_2, …``.

    A file to write into is opened with ``newline=""``, as always for the csv module.

    Args:
        predictions: from ``predict_paths``.
        stream: takes the text.
        top: how many classes each prediction names, for the header.
    """
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(_header(top))
    for prediction in predictions:
        guesses = zip(prediction.labels, prediction.probabilities, strict=True)
        cells = chain.from_iterable((label, f"{value:.{_DECIMALS}f}") for label, value in guesses)
        writer.writerow([prediction.path, *cells])


def to_json(predictions: Iterable[Prediction], stream: TextIO) -> None:
    """Write an array of objects ``{"path", "label", "probability"}``, one a line.

    With more than one class per image, ``"top"`` lists them all, the best first.
    """
    stream.write("[")
    separator = "\n"
    for prediction in predictions:
        stream.write(separator + json.dumps(_plain(prediction), ensure_ascii=False))
        separator = ",\n"
    stream.write("\n]\n")


def _predictions(
    deployed: Deployed, files: Sequence[Path], batch_size: int, top: int, skip: bool, say: Say
) -> Iterator[Prediction]:
    size, skipped = deployed.card.image_size, 0
    for start in range(0, len(files), batch_size):
        batch = files[start : start + batch_size]
        outcomes = in_threads(lambda path: decode(path, size), batch)
        errors = [outcome for outcome in outcomes if isinstance(outcome, CorruptImageError)]
        if errors and not skip:
            raise UserError(_stop_message(errors))
        for error in errors:
            say(f"{error}; skipped")
        skipped += len(errors)
        read = [(path, image) for path, image in zip(batch, outcomes, strict=True) if isinstance(image, np.ndarray)]
        if read:
            yield from _predict_batch(deployed, read, top)
    if skipped == len(files):
        raise UserError(f"none of the {skipped} files could be read as an image, so there is nothing to predict")
    if skipped:
        say(f"{skipped} of {len(files)} files could not be read and were skipped")


def _predict_batch(deployed: Deployed, read: Sequence[tuple[Path, ByteArray]], top: int) -> list[Prediction]:
    images = torch.from_numpy(np.stack([image for _, image in read])).float() / 255
    # A stable order: of equally likely classes the lower id comes first, whatever the batch.
    ordered = deployed.probabilities(images).sort(dim=1, descending=True, stable=True)
    names = deployed.card.class_names
    return [
        Prediction(_shown(path), tuple(names[i] for i in classes), tuple(values))
        for (path, _), classes, values in zip(
            read, ordered.indices[:, :top].tolist(), ordered.values[:, :top].tolist(), strict=True
        )
    ]


def _files(given: Path | str) -> list[Path]:
    """The file itself, whatever its extension, or the images in a folder."""
    if given == "":  # as a path it would be the folder that one is in
        raise UserError("one of the paths is empty; give image files or folders")
    path = Path(given)
    if path.is_dir():
        found = list(images_in(path))
        if not found:
            endings = ", ".join(sorted(EXTENSIONS))
            raise UserError(f"the folder {str(path)!r} holds no image; images end in {endings}")
        return found
    if not path.exists():
        raise UserError(f"there is no file or folder {str(path)!r}")
    return [path]


def _stop_message(errors: Sequence[CorruptImageError]) -> str:
    listed = first_few([f"{error.file} ({error.reason})" for error in errors])
    ways = "mend or remove them, or skip them with --on_corrupt skip (in Python on_corrupt='skip')"
    return f"cannot read as an image: {listed}; {ways}"


def _shown(path: Path) -> str:
    """The path as text that any UTF-8 stream takes: bytes of no encoding become \\udcXX."""
    return str(path).encode("utf-8", "backslashreplace").decode()


def _header(top: int) -> list[str]:
    rest = chain.from_iterable((f"label_{rank}", f"probability_{rank}") for rank in range(2, top + 1))
    return ["path", "label", "probability", *rest]


def _plain(prediction: Prediction) -> dict[str, object]:
    guesses = [
        {"label": label, "probability": round(value, _DECIMALS)}
        for label, value in zip(prediction.labels, prediction.probabilities, strict=True)
    ]
    return {"path": prediction.path, **guesses[0], **({"top": guesses} if len(guesses) > 1 else {})}
