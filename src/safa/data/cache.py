"""Decoded arrays kept between runs, so that a packed data set is decoded once."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from safa.errors import UserError
from safa.files import expanded, write_atomically

Arrays = dict[str, NDArray[Any]]


def cache_folder() -> Path | None:
    """``SAFA_CACHE`` if set, else ``.cache/safa`` in the home folder; None where there is no home."""
    named = os.environ.get("SAFA_CACHE")
    if named:
        return expanded(named)
    home = expanded("~")
    return None if home == Path("~") else home / ".cache" / "safa"


def cached_arrays(name: str, files: Sequence[Path], build: Callable[[], Arrays]) -> Arrays:
    """Return ``build()``, or what it returned for the same files before.

    The entry is addressed by ``name`` and by path, size and modification time of every file. A damaged entry
    is built again; a folder that cannot be written costs only the time of the next build.
    """
    folder = cache_folder()
    if folder is None:
        return build()
    entry = folder / f"{name}-{_state_of(files)}.npz"
    stored = _read(entry)
    if stored is not None:
        return stored
    arrays = build()
    _write(entry, arrays)
    return arrays


def _state_of(files: Sequence[Path]) -> str:
    digest = hashlib.sha256(b"1")  # raise with the layout of the arrays
    for file in files:
        status = file.stat()
        digest.update(f"\n{file.resolve()}\t{status.st_size}\t{status.st_mtime_ns}".encode())
    return digest.hexdigest()[:24]


def _read(entry: Path) -> Arrays | None:
    try:
        # Opened here, as numpy leaves the file open when it turns out to be damaged.
        with entry.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            return {key: stored[key] for key in stored.files}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error):
        return None


def _write(entry: Path, arrays: Arrays) -> None:
    content = io.BytesIO()
    np.savez(content, allow_pickle=False, **arrays)
    with contextlib.suppress(UserError):
        write_atomically(entry, content.getbuffer())  # two runs that start together both leave a whole entry
