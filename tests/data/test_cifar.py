"""CIFAR from every kind of folder, tiny ones made here and the real one where it is at hand."""

from __future__ import annotations

import io
import json
import pickle
import sys
import types
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from safa.data import cifar
from safa.data.groups import shot_groups
from safa.data.longtail import draw_subset
from safa.data.sources import load_source
from safa.errors import UserError

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data"
needs_shared_data = pytest.mark.skipif(
    not (SHARED / "cifar100").is_dir(), reason="the real CIFAR images are not at ../shared/data"
)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SAFA_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("SAFA_DATA", raising=False)


def tiny(num_classes: int, each: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Noise images (n, 3, 32, 32) and labels (n,)."""
    labels = np.repeat(np.arange(num_classes), each)
    return np.random.RandomState(seed).randint(0, 256, (len(labels), 3, 32, 32), dtype=np.uint8), labels


def encoded(image: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image.transpose(1, 2, 0)).save(stream, "PNG")
    return stream.getvalue()


def write_parquet(path: Path, images: np.ndarray, labels: np.ndarray, column: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cells = [{"bytes": encoded(image), "path": f"{row}.png"} for row, image in enumerate(images)]
    pq.write_table(pa.table({"img": cells, column: labels}), path)


def write_batch(path: Path, images: np.ndarray, labels: np.ndarray, key: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    batch = {b"data": images.reshape(len(images), -1), key: labels.tolist(), b"batch_label": b"tiny"}
    path.write_bytes(pickle.dumps(batch, protocol=2))


@pytest.mark.parametrize("folder", ["", "cifar100", "cifar10-is-not-here"])
def test_parquet_is_found_in_the_folder_or_in_one_of_its_name(tmp_path, folder):
    images, labels = tiny(100, 2)
    for split in ("train", "test"):
        write_parquet(tmp_path / "data" / folder / f"{split}-0.parquet", images, labels, "fine_label")
    if folder == "cifar10-is-not-here":
        with pytest.raises(UserError, match="no cifar100 in"):
            load_source("cifar100", root=str(tmp_path / "data"))
        return
    source = load_source("cifar100", root=str(tmp_path / "data"))
    assert np.array_equal(source.train.images, images)
    assert source.train.labels.tolist() == labels.tolist()
    assert len(source.class_names) == 100


def test_several_parquet_files_are_joined_in_the_order_of_their_names(tmp_path):
    images, labels = tiny(10, 4)
    for part in (0, 1):
        rows = slice(20 * part, 20 * part + 20)
        write_parquet(tmp_path / f"train-{part}.parquet", images[rows], labels[rows], "label")
    write_parquet(tmp_path / "test-0.parquet", images[:10], labels[:10], "label")
    source = load_source("cifar10", root=str(tmp_path))
    assert np.array_equal(source.train.images, images)


def test_images_are_normalised_and_augmented_as_in_the_released_code(tmp_path):
    for split in ("train", "test"):
        write_parquet(tmp_path / f"{split}.parquet", *tiny(10, 1), "label")
    source = load_source("cifar10", root=str(tmp_path))
    assert source.mean == (0.4914, 0.4822, 0.4465)
    assert source.std == (0.2023, 0.1994, 0.2010)
    assert source.default_augmentation == "crop_flip"
    assert source.class_names[3] == "cat"


def test_the_folder_is_taken_from_safa_data(tmp_path, monkeypatch):
    images, labels = tiny(10, 1)
    for split in ("train", "test"):
        write_parquet(tmp_path / f"{split}.parquet", images, labels, "label")
    monkeypatch.setenv("SAFA_DATA", str(tmp_path))
    assert len(load_source("cifar10").train) == 10


def test_pickled_batches_of_cifar10(tmp_path):
    images, labels = tiny(10, 5)
    folder = tmp_path / "cifar-10-batches-py"
    for part in range(5):
        write_batch(folder / f"data_batch_{part + 1}", images[part::5], labels[part::5], b"labels")
    write_batch(folder / "test_batch", images[:10], labels[:10], b"labels")
    source = load_source("cifar10", root=str(tmp_path))
    assert np.array_equal(source.train.images, np.concatenate([images[part::5] for part in range(5)]))
    assert source.train.labels.tolist() == np.concatenate([labels[part::5] for part in range(5)]).tolist()
    assert source.test.labels.dtype == np.int64
    assert np.array_equal(load_source("cifar10", root=str(folder)).test.images, images[:10])


def test_pickled_batches_of_cifar100(tmp_path):
    images, labels = tiny(100, 1)
    for split in ("train", "test"):
        write_batch(tmp_path / "cifar-100-python" / split, images, labels, b"fine_labels")
    source = load_source("cifar100", root=str(tmp_path))
    assert np.array_equal(source.train.images, images)


class Attack:
    def __reduce__(self):
        return (print, ("code from a pickle was run",))


def test_a_pickle_that_wants_to_run_code_is_refused(tmp_path, capsys):
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    for split in ("train", "test"):
        (folder / split).write_bytes(pickle.dumps({b"data": Attack(), b"fine_labels": []}))
    with pytest.raises(UserError, match="which a CIFAR batch never needs"):
        load_source("cifar100", root=str(tmp_path))
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("content", [b"", b"not a pickle", pickle.dumps([1]), pickle.dumps({b"data": 1})])
def test_a_damaged_batch_is_named(tmp_path, content):
    (tmp_path / "train").write_bytes(content)
    (tmp_path / "test").write_bytes(content)
    with pytest.raises(UserError, match=r"train' as a batch of cifar100"):
        load_source("cifar100", root=str(tmp_path))


def test_a_damaged_parquet_file_is_named(tmp_path):
    for split in ("train", "test"):
        (tmp_path / f"{split}.parquet").write_bytes(b"PAR1 and then nothing")
    with pytest.raises(UserError, match=r"train\.parquet' as parquet"):
        load_source("cifar10", root=str(tmp_path))


def test_a_corrupt_image_inside_parquet_is_named_by_its_row(tmp_path):
    cells = [{"bytes": encoded(tiny(1, 1)[0][0]), "path": ""}, {"bytes": b"broken", "path": ""}]
    for split in ("train", "test"):
        pq.write_table(pa.table({"img": cells, "label": [0, 1]}), tmp_path / f"{split}.parquet")
    with pytest.raises(UserError, match=r"row 1 of train\.parquet"):
        load_source("cifar10", root=str(tmp_path))


def test_an_image_of_another_size_is_refused(tmp_path):
    for split in ("train", "test"):
        write_parquet(tmp_path / f"{split}.parquet", np.zeros((10, 3, 28, 32), np.uint8), np.arange(10), "label")
    with pytest.raises(UserError, match="it is 32×28, not 32×32"):
        load_source("cifar10", root=str(tmp_path))


@pytest.mark.parametrize(
    ("name", "column", "labels", "message"),
    [
        ("cifar10", "fine_label", np.arange(10), "needs 'img' and 'label'"),
        ("cifar100", "coarse", np.arange(100), "needs 'img' and 'fine_label' or 'label'"),
        ("cifar10", "label", np.arange(11), "label 10, which is out of range"),
        ("cifar100", "label", np.arange(10), "90 of 100 classes .* have no training image"),
    ],
)
def test_another_data_set_in_the_folder_is_noticed(tmp_path, name, column, labels, message):
    for split in ("train", "test"):
        write_parquet(tmp_path / f"{split}.parquet", np.zeros((len(labels), 3, 32, 32), np.uint8), labels, column)
    with pytest.raises(UserError, match=message):
        load_source(name, root=str(tmp_path))


def test_a_missing_split_is_named(tmp_path):
    write_parquet(tmp_path / "train.parquet", *tiny(10, 1), "label")
    with pytest.raises(UserError, match=r"no test\*\.parquet"):
        load_source("cifar10", root=str(tmp_path))


def test_a_folder_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(UserError, match=r"no folder .*nowhere"):
        load_source("cifar10", root=str(tmp_path / "nowhere"))


def test_another_image_size_is_refused(tmp_path):
    for split in ("train", "test"):
        write_parquet(tmp_path / f"{split}.parquet", *tiny(10, 1), "label")
    with pytest.raises(UserError, match="cifar10 has images of 32×32, got image_size 64"):
        load_source("cifar10", root=str(tmp_path), image_size=64)


def hub(monkeypatch, load_dataset) -> None:
    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))


def test_without_a_folder_the_hub_is_asked(monkeypatch):
    images, labels = tiny(10, 1)
    cells = [{"bytes": encoded(image), "path": ""} for image in images]
    table = pa.table({"img": cells, "label": labels})
    split = types.SimpleNamespace(data=types.SimpleNamespace(table=table))
    asked = []
    hub(monkeypatch, lambda name: asked.append(name) or {"train": split, "test": split})
    assert np.array_equal(load_source("cifar10").train.images, images)
    assert asked == ["uoft-cs/cifar10"]


def test_without_a_folder_and_a_network_the_ways_out_are_named(monkeypatch):
    def offline(name: str) -> None:
        raise ConnectionError("no route\nto host")

    hub(monkeypatch, offline)
    with pytest.raises(UserError, match=r"cannot download uoft-cs/cifar100: ConnectionError: no route; name a folder"):
        load_source("cifar100")


def test_without_a_folder_and_datasets_the_ways_out_are_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match="pip install datasets pyarrow; or name a folder"):
        load_source("cifar100")


def test_decoded_parquet_is_kept_for_the_next_run(tmp_path, monkeypatch):
    for split in ("train", "test"):
        write_parquet(tmp_path / f"{split}.parquet", *tiny(10, 1), "label")
    first = load_source("cifar10", root=str(tmp_path))
    monkeypatch.setattr(cifar, "_read_parquet", lambda *_: pytest.fail("decoded twice"))
    again = load_source("cifar10", root=str(tmp_path))
    assert again.fingerprint == first.fingerprint


@needs_shared_data
@pytest.mark.slow
@pytest.mark.parametrize(("name", "total", "largest"), [("cifar100", 19573, 500), ("cifar10", 20431, 5000)])
def test_the_real_images_hold_the_factor_10_superset_and_the_whole_test_set(name, total, largest):
    source = load_source(name, root=str(SHARED))
    num_classes = len(source.class_names)
    assert source.train.images.shape == (total, 3, 32, 32)
    assert np.bincount(source.train.labels)[[0, -1]].tolist() == [largest, largest // 10]
    assert np.bincount(source.test.labels).tolist() == [10000 // num_classes] * num_classes
    # The published statistics are of the whole training set; the superset's are close.
    pixels = source.train.images[::10].astype(float) / 255
    assert np.abs(pixels.mean(axis=(0, 2, 3)) - source.mean).max() < 0.04


@needs_shared_data
def test_every_published_factor_can_be_drawn_from_the_real_labels():
    file = next((SHARED / "cifar100").glob("train*.parquet"))
    train = np.asarray(pq.read_table(file, columns=["fine_label"]).column(0))
    totals = {f: draw_subset(train, 100, imbalance_factor=f).class_counts for f in (200, 100, 50, 20, 10)}
    assert {f: int(counts.sum()) for f, counts in totals.items()} == {
        200: 9502, 100: 10847, 50: 12608, 20: 15907, 10: 19573,
    }  # fmt: skip
    assert [int(mask.sum()) for mask in shot_groups(totals[100]).values()] == [35, 35, 30]


@needs_shared_data
def test_class_names_are_in_the_order_of_the_label_ids():
    for name, column in (("cifar10", "label"), ("cifar100", "fine_label")):
        schema = pq.read_schema(next((SHARED / name).glob("train*")))
        stored = json.loads(schema.metadata[b"huggingface"])["info"]["features"][column]["names"]
        assert tuple(stored) == cifar.CLASSES[name]
