"""CIFAR-10 and CIFAR-100 from Hugging Face parquet, the original pickled batches, or the Hugging Face hub."""

from __future__ import annotations

import importlib
import os
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from safa.data import images as image_files
from safa.data.cache import Arrays, cached_arrays
from safa.data.types import ByteArray, Split
from safa.errors import UserError
from safa.files import expanded

Name = Literal["cifar10", "cifar100"]

# Krizhevsky's published statistics, used for both data sets by LDAM-DRW and everything after it.
MEAN = (0.4914, 0.4822, 0.4465)
STD = (0.2023, 0.1994, 0.2010)
SIDE = 32

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
CIFAR100_CLASSES = tuple(  # the alphabetical order of the label ids
    """
    apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can
    castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin
    elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard
    lobster man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear
    pickup_truck pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal
    shark shrew skunk skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank
    telephone television tiger tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm
    """.split()  # noqa: SIM905  a hundred quoted lines would say less
)
CLASSES: dict[Name, tuple[str, ...]] = {"cifar10": CIFAR10_CLASSES, "cifar100": CIFAR100_CLASSES}
_LABEL_COLUMNS: dict[Name, tuple[str, ...]] = {"cifar10": ("label",), "cifar100": ("fine_label", "label")}
_BATCH_FOLDERS: dict[Name, str] = {"cifar10": "cifar-10-batches-py", "cifar100": "cifar-100-python"}
_BATCH_FILES: dict[Name, tuple[tuple[str, ...], str]] = {
    "cifar10": (tuple(f"data_batch_{number}" for number in range(1, 6)), "test_batch"),
    "cifar100": (("train",), "test"),
}
_HUB_NAMES: dict[Name, str] = {"cifar10": "uoft-cs/cifar10", "cifar100": "uoft-cs/cifar100"}


def load(name: Name, root: str | None) -> tuple[Split, Split]:
    """Training and test split of ``cifar10`` or ``cifar100``, 32×32, in the order of their files.

    Args:
        name: which of the two.
        root: a folder with ``NAME/*.parquet``, ``*.parquet``, or the original pickled batches; by default the
            folder that the environment variable SAFA_DATA names. Without either, the Hugging Face hub is
            asked.

    Raises:
        UserError: if no images are found, or a file is not what it should be.
    """
    named = root or os.environ.get("SAFA_DATA")
    if not named:
        return _from_hub(name)
    folder = expanded(named)
    if not folder.is_dir():
        raise UserError(f"no folder {str(folder)!r} to read {name} from; pass an existing root or set SAFA_DATA")
    return _from_parquet(name, folder) or _from_batches(name, folder) or _nothing_found(name, folder)


def _nothing_found(name: Name, folder: Path) -> tuple[Split, Split]:
    raise UserError(
        f"no {name} in {str(folder)!r}: looked for {name}/*.parquet, *.parquet and {_BATCH_FOLDERS[name]}/; "
        f"pass the folder that holds one of them as root or SAFA_DATA, or neither to ask the Hugging Face hub"
    )


# --- parquet ---


def _from_parquet(name: Name, root: Path) -> tuple[Split, Split] | None:
    for folder in (root / name, root / name / "plain_text", root, root / "plain_text"):
        train, test = (sorted(folder.glob(f"{split}*.parquet")) for split in ("train", "test"))
        if train and test:
            return _parquet_split(name, train), _parquet_split(name, test)
        if train or test:
            missing = "test" if train else "train"
            raise UserError(
                f"{str(folder)!r} holds {name} parquet files but no {missing}*.parquet; add the missing split"
            )
    return None


def _parquet_split(name: Name, files: Sequence[Path]) -> Split:
    def build() -> Arrays:
        parts = [_decoded_table(name, _read_parquet(name, file), file.name) for file in files]
        return {
            "images": np.concatenate([images for images, _ in parts]),
            "labels": np.concatenate([labels for _, labels in parts]),
        }

    arrays = cached_arrays(name, files, build)
    return _split(name, arrays["images"], arrays["labels"], files[0].parent)


def _read_parquet(name: Name, file: Path) -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise UserError(f"reading {name} from parquet needs pyarrow; install it with: pip install pyarrow") from error
    try:
        return pyarrow.parquet.read_table(file)
    except (OSError, pyarrow.ArrowException) as error:
        raise UserError(f"cannot read {str(file)!r} as parquet: {error}; download it again") from error


def _decoded_table(name: Name, table: Any, origin: str) -> tuple[ByteArray, NDArray[np.int64]]:
    """Images (n, 3, 32, 32) and labels (n,) of an arrow table with Hugging Face's columns."""
    columns = table.column_names
    label = next((column for column in _LABEL_COLUMNS[name] if column in columns), None)
    if label is None or "img" not in columns:
        raise UserError(
            f"{origin} has the columns {columns}, but {name} needs 'img' and "
            f"{' or '.join(map(repr, _LABEL_COLUMNS[name]))}; is it another data set?"
        )
    encoded = [cell["bytes"] for cell in table.column("img").to_pylist()]
    images = np.empty((len(encoded), 3, SIDE, SIDE), dtype=np.uint8)
    # One task per block: a task per 32×32 image would cost more than decoding it.
    blocks = [range(start, min(start + 512, len(encoded))) for start in range(0, len(encoded), 512)]

    def fill(rows: range) -> None:
        for row in rows:
            images[row] = _thumbnail(encoded[row], f"row {row} of {origin}")

    for outcome in image_files.in_threads(fill, blocks):
        if outcome is not None:
            raise outcome
    return images, np.asarray(table.column(label), dtype=np.int64)


def _thumbnail(data: bytes, name: str) -> ByteArray:
    image = image_files.decode_bytes(data, name)
    if image.shape != (3, SIDE, SIDE):
        raise image_files.CorruptImageError(name, f"it is {image.shape[2]}×{image.shape[1]}, not 32×32")
    return image


# --- original pickled batches ---


class _ArrayUnpickler(pickle.Unpickler):
    """Reads pickled containers and numpy arrays, and refuses everything else: a pickle can run any code."""

    _allowed = frozenset({("numpy", "ndarray"), ("numpy", "dtype"), ("_codecs", "encode")})

    def find_class(self, module: str, name: str) -> Any:
        if name in ("_reconstruct", "_frombuffer") and module.startswith(("numpy.core.", "numpy._core.")):
            return getattr(importlib.import_module(module.replace("numpy.core.", "numpy._core.")), name)
        if (module, name) not in self._allowed:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which a CIFAR batch never needs")
        return getattr(importlib.import_module(module), name)


def _from_batches(name: Name, root: Path) -> tuple[Split, Split] | None:
    train, test = _BATCH_FILES[name]
    for folder in (root / _BATCH_FOLDERS[name], root / name / _BATCH_FOLDERS[name], root / name, root):
        if (folder / test).is_file():
            return _batch_split(name, [folder / file for file in train]), _batch_split(name, [folder / test])
    return None


def _batch_split(name: Name, files: Sequence[Path]) -> Split:
    parts = [_read_batch(name, file) for file in files]
    images, labels = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return _split(name, images, labels, files[0].parent)


def _read_batch(name: Name, file: Path) -> tuple[ByteArray, NDArray[np.int64]]:
    try:
        with file.open("rb") as stream:
            # Python 2 wrote the originals, so their keys are bytes.
            batch = _ArrayUnpickler(stream, encoding="bytes").load()
        content = {key.decode() if isinstance(key, bytes) else key: value for key, value in batch.items()}
        images = np.asarray(content["data"], dtype=np.uint8).reshape(-1, 3, SIDE, SIDE)
        labels = np.asarray(content["labels" if name == "cifar10" else "fine_labels"], dtype=np.int64)
    except (
        OSError,
        EOFError,
        pickle.UnpicklingError,
        AttributeError,
        KeyError,
        ValueError,
        TypeError,
    ) as error:
        raise UserError(
            f"cannot read {str(file)!r} as a batch of {name}: {error!r}; unpack the archive again"
        ) from error
    if len(images) != len(labels):
        raise UserError(f"{str(file)!r} holds {len(images)} images but {len(labels)} labels; unpack the archive again")
    return images, labels


# --- the hub ---


def _from_hub(name: Name) -> tuple[Split, Split]:
    ways = (
        f"name a folder with its files as root or in SAFA_DATA ({name}/train*.parquet and test*.parquet, or "
        f"{_BATCH_FOLDERS[name]}/)"
    )
    try:
        import datasets
    except ImportError as error:
        raise UserError(
            f"no folder was named to read {name} from, and the hub needs: pip install datasets pyarrow; or {ways}"
        ) from error
    try:
        loaded = datasets.load_dataset(_HUB_NAMES[name])
        tables = [(split, loaded[split].data.table) for split in ("train", "test")]
    except Exception as error:  # network, proxy, hub and disk each have their own classes
        first_line = (str(error).splitlines() or [""])[0]
        raise UserError(f"cannot download {_HUB_NAMES[name]}: {type(error).__name__}: {first_line}; {ways}") from error
    train, test = (
        _split(name, *_decoded_table(name, table, f"{_HUB_NAMES[name]} {split}"), Path(_HUB_NAMES[name]))
        for split, table in tables
    )
    return train, test


def _split(name: Name, images: ByteArray, labels: NDArray[np.int64], origin: Path) -> Split:
    expected = len(CLASSES[name])
    wrong = labels[(labels < 0) | (labels >= expected)]
    if wrong.size:
        raise UserError(
            f"{str(origin)!r} holds label {wrong[0]}, which is out of range: {name} has {expected} classes; "
            f"is it another data set?"
        )
    return Split(labels=labels, images=images)
