"""Fashion-MNIST from IDX files, the format of the original MNIST."""

from __future__ import annotations

import gzip
import os
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from safa.data.types import Split
from safa.errors import UserError
from safa.files import expanded

# Where Debian's package dataset-fashion-mnist puts the files.
DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
FASHION_CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
_UNSIGNED_BYTE = 8


def load_fashion_mnist(root: str | None) -> tuple[Split, Split]:
    """Training and test split of Fashion-MNIST, 28×28, three equal channels, in file order.

    Args:
        root: the folder of the four IDX files, gzipped or not, or one with a ``fashion-mnist`` folder; by
            default ``fashion-mnist`` in the folder that SAFA_DATA names, else the folder of Debian's package.

    Raises:
        UserError: if a file is missing or not what it should be.
    """
    folder = _fashion_folder(root)
    return _read_split(folder, "train"), _read_split(folder, "t10k")


def read_idx(file: Path) -> NDArray[np.uint8]:
    """Read one IDX file of unsigned bytes, gzipped if its name ends in ``.gz``.

    The header is two zero bytes, the type, the number of axes, and each axis as a big-endian 32-bit integer.

    Raises:
        UserError: if the file cannot be read, is of another type, or holds another number of bytes than it
            says.
    """
    try:
        content = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"cannot read {str(file)!r}: {error}; install or copy it again") from error
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] != _UNSIGNED_BYTE:
        raise UserError(f"{str(file)!r} is not an IDX file of unsigned bytes: it starts with {content[:4].hex()!r}")
    axes = content[3]
    start = 4 + 4 * axes
    shape = tuple(np.frombuffer(content[4:start], dtype=">u4").tolist()) if len(content) >= start else ()
    if len(shape) != axes or len(content) - start != int(np.prod(shape)):
        raise UserError(f"{str(file)!r} is cut short or too long for its shape {shape}; install or copy it again")
    return np.frombuffer(content, dtype=np.uint8, offset=start).reshape(shape)


def _fashion_folder(root: str | None) -> Path:
    data = os.environ.get("SAFA_DATA")
    if root is not None:
        candidates = [expanded(root), expanded(root) / "fashion-mnist"]
    else:
        candidates = [expanded(data) / "fashion-mnist"] if data else []
        candidates.append(DEBIAN_FOLDER)
    for folder in candidates:
        if _find(folder, "train", "images", 3) is not None:
            return folder
    looked = " and ".join(repr(str(folder)) for folder in candidates)
    raise UserError(
        f"no fashion-mnist in {looked}; on Debian and Ubuntu run: apt-get install dataset-fashion-mnist; "
        f"or pass the folder of the four IDX files as root"
    )


def _find(folder: Path, split: str, kind: str, axes: int) -> Path | None:
    stems = (f"{split}-{kind}-idx{axes}-ubyte", f"{split}-{kind}.idx{axes}-ubyte")
    files = (folder / f"{stem}{ending}" for stem in stems for ending in (".gz", ""))
    return next((file for file in files if file.is_file()), None)


def _read_split(folder: Path, split: str) -> Split:
    arrays: list[NDArray[Any]] = []
    for kind, axes in (("images", 3), ("labels", 1)):
        file = _find(folder, split, kind, axes)
        if file is None:
            raise UserError(
                f"no {split}-{kind}-idx{axes}-ubyte or .gz of it in {str(folder)!r}; install or copy it again"
            )
        arrays.append(read_idx(file))
    gray, labels = arrays
    if gray.ndim != 3 or gray.shape[1:] != (28, 28) or labels.shape != gray.shape[:1]:
        raise UserError(
            f"{split} in {str(folder)!r} has images {gray.shape} and labels {labels.shape}, "
            f"not (n, 28, 28) and (n,); install or copy the files again"
        )
    return Split(labels.astype(np.int64), np.repeat(gray[:, None], 3, axis=1))
