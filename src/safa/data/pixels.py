"""What is computed from all pixels of a data set: mean and deviation of the channels, hashes, and a fingerprint."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from safa.data.images import CorruptImageError, content_hash, in_threads
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


def image_hashes(split: Split) -> list[bytes]:
    """SHA-256 of each image: of its pixels in memory, of the content of its file on disk.

    Raises:
        CorruptImageError: if a file cannot be read.
    """
    if split.images is not None:
        return [hashlib.sha256(np.ascontiguousarray(image).data).digest() for image in split.images]
    hashes = list[bytes]()
    for outcome in in_threads(content_hash, split.paths):
        if isinstance(outcome, CorruptImageError):
            raise outcome
        hashes.append(outcome)
    return hashes


def fingerprint(splits: Sequence[Split], hashes: Sequence[Sequence[bytes]] | None = None) -> str:
    """SHA-256 (hex) that changes when labels or images change, or their order, and not when files get another place.

    Of images in memory it covers the pixels, of images on disk the content of their files. To read these once
    more is little beside decoding them in every epoch.

    Args:
        splits: what it covers.
        hashes: ``image_hashes`` of each split; files are read for them where they are not given.

    Raises:
        CorruptImageError: if a file cannot be read.
    """
    digest = hashlib.sha256()
    for index, split in enumerate(splits):
        digest.update(np.ascontiguousarray(split.labels, dtype="<i8").tobytes())
        if split.images is not None:
            digest.update(np.ascontiguousarray(split.images).data)
        else:
            digest.update(b"".join(image_hashes(split) if hashes is None else hashes[index]))
    return digest.hexdigest()


def _channels(values: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> Channels:
    red, green, blue = values.tolist()
    return red, green, blue
