from __future__ import annotations

import numpy as np
from sklearn.datasets import load_digits

from safa.data import digits
from safa.data.sources import load_source


def test_the_test_split_has_40_images_of_each_class_and_the_rest_is_for_training():
    train, test = digits.load()
    assert np.bincount(test.labels).tolist() == [40] * 10
    assert np.bincount(train.labels).tolist() == [138, 142, 137, 143, 141, 142, 141, 139, 134, 140]
    for split in (train, test):
        assert split.images.shape == (len(split), 3, 8, 8)
        assert split.images.dtype == np.uint8
        assert split.labels.dtype == np.int64


def test_both_splits_together_are_the_digits_scaled_to_bytes():
    train, test = digits.load()
    bunch = load_digits()
    literal = sorted(
        (int(label), np.rint(image * 255 / 16).astype(np.uint8).tobytes())
        for image, label in zip(bunch.images, bunch.target, strict=True)
    )
    ours = [
        (int(label), image[0].tobytes())
        for split in (train, test)
        for image, label in zip(split.images, split.labels, strict=True)
    ]
    assert sorted(ours) == literal
    assert all((split.images == split.images[:, :1]).all() for split in (train, test))


def test_the_test_split_is_frozen():
    assert load_source("digits").fingerprint == "024d4528d985768f686625f81821c2a8a26a61f8d29e00f5965ada36de2747eb"


def test_digits_are_shifted_never_mirrored():
    source = load_source("digits")
    assert source.default_augmentation == "shift"
    assert (source.image_size, source.class_names, source.validation) == (8, tuple("0123456789"), None)
