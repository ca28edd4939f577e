"""IDX files, tiny ones made here and Debian's Fashion-MNIST where it is installed."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

from safa.data.idx import DEBIAN_FOLDER, read_idx
from safa.data.sources import load_source
from safa.errors import UserError

needs_fashion_mnist = pytest.mark.skipif(
    not DEBIAN_FOLDER.is_dir(), reason="Debian's package dataset-fashion-mnist is not installed"
)


def write_idx(path: Path, array: np.ndarray) -> Path:
    content = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def write_fashion(folder: Path, ending: str = ".gz", number: int = 20) -> np.ndarray:
    images = np.random.RandomState(0).randint(0, 256, (number, 28, 28), dtype=np.uint8)
    for split in ("train", "t10k"):
        write_idx(folder / f"{split}-images-idx3-ubyte{ending}", images)
        write_idx(folder / f"{split}-labels-idx1-ubyte{ending}", (np.arange(number) % 10).astype(np.uint8))
    return images


@pytest.mark.parametrize("name", ["a.gz", "a"])
def test_an_idx_file_has_the_shape_in_its_header(tmp_path, name):
    array = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    assert np.array_equal(read_idx(write_idx(tmp_path / name, array)), array)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0\0",
        b"\0\0\x0d\1\0\0\0\1\0",
        b"\0\0\x08\2\0\0\0\2",
        b"\0\0\x08\1\0\0\0\3\1\2",
        b"PK\3\4 a zip file",
    ],
)
def test_a_file_that_is_not_idx_is_named(tmp_path, content):
    (tmp_path / "broken").write_bytes(content)
    with pytest.raises(UserError, match="broken'"):
        read_idx(tmp_path / "broken")


def test_a_file_cut_short_while_zipped_is_named(tmp_path):
    path = write_idx(tmp_path / "a.gz", np.arange(200, dtype=np.uint8))
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UserError, match=r"cannot read .*a\.gz"):
        read_idx(path)


@pytest.mark.parametrize("ending", [".gz", ""])
@pytest.mark.parametrize("below", ["", "fashion-mnist"])
def test_fashion_mnist_is_read_from_a_named_folder(tmp_path, ending, below):
    images = write_fashion(tmp_path / below, ending)
    source = load_source("fashion-mnist", root=str(tmp_path))
    assert source.train.images.shape == (20, 3, 28, 28)
    assert all(np.array_equal(source.train.images[:, channel], images) for channel in range(3))
    assert source.train.labels.tolist() == [*range(10), *range(10)]
    assert (source.image_size, source.default_augmentation) == (28, "crop_flip")


def test_fashion_mnist_is_read_from_safa_data(tmp_path, monkeypatch):
    write_fashion(tmp_path / "fashion-mnist")
    monkeypatch.setenv("SAFA_DATA", str(tmp_path))
    assert len(load_source("fashion-mnist").train) == 20


def test_a_missing_folder_says_how_to_get_the_files(tmp_path):
    with pytest.raises(UserError, match="apt-get install dataset-fashion-mnist"):
        load_source("fashion-mnist", root=str(tmp_path))


def test_a_missing_file_is_named(tmp_path):
    write_fashion(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(UserError, match="no t10k-labels-idx1-ubyte"):
        load_source("fashion-mnist", root=str(tmp_path))


def test_images_and_labels_of_different_number_are_refused(tmp_path):
    write_fashion(tmp_path)
    write_idx(tmp_path / "train-labels-idx1-ubyte.gz", np.zeros(3, dtype=np.uint8))
    with pytest.raises(UserError, match=r"images \(20, 28, 28\) and labels \(3,\)"):
        load_source("fashion-mnist", root=str(tmp_path))


@needs_fashion_mnist
def test_debians_fashion_mnist_has_6000_training_and_1000_test_images_of_each_class(monkeypatch):
    monkeypatch.delenv("SAFA_DATA", raising=False)
    source = load_source("fashion-mnist")
    assert np.bincount(source.train.labels).tolist() == [6000] * 10
    assert np.bincount(source.test.labels).tolist() == [1000] * 10
    # The statistics every Fashion-MNIST example uses.
    assert source.mean[0] == pytest.approx(0.2860, abs=1e-4)
    assert source.std[0] == pytest.approx(0.3530, abs=1e-4)
