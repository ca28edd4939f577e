from __future__ import annotations

import hashlib

import numpy as np
import pytest

from safa.data.pixels import fingerprint, image_hashes, statistics
from safa.data.types import Split
from safa.errors import UserError


def test_statistics_are_numpys_mean_and_std():
    images = np.random.RandomState(0).randint(0, 256, (1500, 3, 4, 5), dtype=np.uint8)
    images[:, 1] //= 3
    mean, std = statistics(images)
    assert mean == pytest.approx((images / 255).mean(axis=(0, 2, 3)).tolist())
    assert std == pytest.approx((images / 255).std(axis=(0, 2, 3)).tolist())


def test_a_constant_channel_can_be_divided_by():
    mean, std = statistics(np.full((2, 3, 4, 4), 51, dtype=np.uint8))
    assert mean == pytest.approx((0.2, 0.2, 0.2))
    assert std == pytest.approx((1 / 255,) * 3)


def test_a_fingerprint_changes_with_labels_and_pixels():
    labels, images = np.arange(3), np.zeros((3, 3, 2, 2), dtype=np.uint8)
    marks = {fingerprint([Split(labels, images)]), fingerprint([Split(labels[::-1], images)])}
    changed = images.copy()
    changed[2, 1, 0, 0] = 1
    marks.add(fingerprint([Split(labels, changed)]))
    assert len(marks) == 3


def test_a_fingerprint_of_files_changes_with_their_content_and_order_but_not_with_name_or_place(tmp_path):
    def mark(**files: bytes) -> str:
        folder = tmp_path / "-".join(files)
        folder.mkdir(exist_ok=True)
        for name, content in files.items():
            (folder / name).write_bytes(content)
        return fingerprint([Split(np.zeros(len(files), dtype=np.int64), paths=tuple(folder / name for name in files))])

    first = mark(a=b"x", b=b"yz")
    assert mark(c=b"x", d=b"yz") == first
    others = {mark(a=b"x", b=b"yy"), mark(a=b"y", b=b"yz"), mark(a=b"yz", b=b"x"), mark(a=b"xy", b=b"z")}
    assert len({first, *others}) == 5


def test_hashes_of_images_tell_which_are_the_same(tmp_path):
    images = np.zeros((3, 3, 2, 2), dtype=np.uint8)
    images[1, 0, 0, 1] = 1
    first, second, third = image_hashes(Split(np.arange(3), images))
    assert first == third != second
    for name, content in {"a": b"x", "b": b"y"}.items():
        (tmp_path / name).write_bytes(content)
    files = Split(np.arange(2), paths=(tmp_path / "a", tmp_path / "b"))
    assert image_hashes(files) == [hashlib.sha256(b"x").digest(), hashlib.sha256(b"y").digest()]
    assert fingerprint([files], [image_hashes(files)]) == fingerprint([files])


def test_a_file_that_is_gone_when_it_is_hashed_is_named(tmp_path):
    with pytest.raises(UserError, match=r"gone\.jpg as an image: there is no such file"):
        fingerprint([Split(np.zeros(1, dtype=np.int64), paths=(tmp_path / "gone.jpg",))])
