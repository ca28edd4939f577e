"""Files that are whole or absent, whatever goes wrong while they are written. No torch: reports are quick."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from safa.errors import UserError


def write_atomically(path: Path, content: bytes | memoryview) -> None:
    """Write beside the file, flush to the disk, then take its name: a reader sees the old content or the new one.

    Raises:
        UserError: for a full disk or a folder that cannot be written; what stood at ``path`` is untouched.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with beside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"cannot write {path}: {reason}; what was there before is untouched") from error
    finally:
        with contextlib.suppress(OSError):  # there is none any more when all went well
            beside.unlink()


def remove_halves(folder: Path) -> None:
    """Remove what a process that was killed while it wrote has left in a folder that nobody else writes to."""
    for half in folder.glob(".*.part"):
        half.unlink(missing_ok=True)
