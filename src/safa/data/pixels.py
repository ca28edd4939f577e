"""What is computed from all pixels of a data set: mean and deviation of the channels, and a fingerprint."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from safa.data.types import ByteArray, Channels, Split


def statistics(images: ByteArray) -> tuple[Channels, Channels]:
    """Mean and standard deviation of each channel over all images, of pixel values in [0, 1].

    A channel of one value gets the deviation 1/255, so that dividing by it is safe.

    Args:
        images: shape (n, 3, h, w), uint8, n at least 1.
    """
    histogram = np.zeros((3, 256))
    for start in range(0, len(images), 1024):  # bincount works on int64, eight times the memory of the images
        for channel in range(3):
            histogram[channel] += np.bincount(images[start : start + 1024, channel].ravel(), minlength=256)
    values = np.arange(256) / 255
    share = histogram / histogram.sum(axis=1, keepdims=True)
    mean = share @ values
    std = np.sqrt((share * (values - mean[:, None]) ** 2).sum(axis=1))
    std[std == 0] = 1 / 255
    return _channels(mean), _channels(std)


def fingerprint(splits: Sequence[Split], base: Path | None = None) -> str:
    """SHA-256 (hex) that changes when the data set changes.

    Of images in memory it covers labels and pixels; of images on disk labels, paths relative to ``base`` and
    file sizes, as reading every file again would take too long.
    """
    digest = hashlib.sha256()
    for split in splits:
        digest.update(np.ascontiguousarray(split.labels, dtype="<i8").tobytes())
        if split.images is not None:
            digest.update(np.ascontiguousarray(split.images).data)
            continue
        for path in split.paths:
            shown = path.relative_to(base).as_posix() if base and path.is_relative_to(base) else str(path)
            digest.update(f"{shown}\t{path.stat().st_size}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _channels(values: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> Channels:
    red, green, blue = values.tolist()
    return red, green, blue
