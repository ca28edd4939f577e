"""What a loaded data set is: labelled splits, class names, and what training needs to know of the pixels."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

ByteArray = NDArray[np.uint8]
IntArray = NDArray[np.int64]
Channels = tuple[float, float, float]


@dataclass(frozen=True, eq=False)
class Split:
    """A labelled collection of images: decoded in memory, or files to decode on demand.

    Attributes:
        labels: shape (n,), int64.
        images: shape (n, 3, h, w), uint8, RGB; None when they stay on disk.
        paths: the n files they come from, or none for images that had no file each. Where ``images`` is None,
            decode one with ``safa.data.images.decode(path, image_size)``.
    """

    labels: IntArray
    images: ByteArray | None = None
    paths: tuple[Path, ...] = ()

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: IntArray) -> Split:
        """The images at ``indices``, in that order."""
        images = None if self.images is None else self.images[indices]
        paths = tuple(self.paths[i] for i in indices) if self.paths else ()
        return Split(self.labels[indices], images, paths)


@dataclass(frozen=True, eq=False)
class Source:
    """A data set, ready to draw a long-tailed subset from.

    Attributes:
        name: as it was asked for.
        class_names: one per class id.
        image_size: side of the square images, in pixels.
        train, test, validation: the splits; ``validation`` is None when the data set has none of its own.
        mean, std: per RGB channel, of pixel values in [0, 1], over the training images.
        default_augmentation: ``crop_flip``, ``shift``, ``resized_crop`` or ``none`` (a mirrored digit is
            another digit).
        skipped: corrupt files that were left out because the user chose to.
        fingerprint: SHA-256 (hex) of labels and pixels, or of labels and the content of the files for images on
            disk.
        notes: what was decided on the way, one sentence each, for the user to read.
    """

    name: str
    class_names: tuple[str, ...]
    image_size: int
    train: Split
    test: Split
    validation: Split | None
    mean: Channels
    std: Channels
    default_augmentation: str
    skipped: tuple[str, ...]
    fingerprint: str
    notes: tuple[str, ...] = ()
