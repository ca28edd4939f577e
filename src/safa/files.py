"""Files that are whole or absent, whatever goes wrong while they are written. No torch: reports are quick."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shlex
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safa.errors import UserError

# What a run's folder holds. From its beginning on: its recipe, what its images are, and which of them it trains on.
RECIPE, CARD, SUBSET = "recipe.yaml", "data.json", "subset.json"
CHECKPOINT, LOG = "checkpoint.pt", "log.jsonl"  # the state to go on from, and a line per epoch
PREDICTIONS, FEATURES = "predictions.npz", "features.npz"  # of the test images; of some images, for Fig. 1
RESULT = "result.json"  # its result line: a run is finished when it is there
MODEL, PAGE = "model.safetensors", "report.html"  # the bare network, and the page of this run alone

# Seconds to wait for a folder: processes that decode images for a killed one hold it until they notice, within five.
LOCK_TIMEOUT = 6.0

REWRITE = (
    f"delete the run's {RESULT} and train its recipe again, without --resume: the run goes on from its checkpoint "
    "and writes its files anew"
)


def resumed_by(run: Path) -> str:
    """The command that goes on with a run, for a message to end with; a shell can read it whatever the name is."""
    return f"safa train --resume {shlex.quote(str(run))}"


def write_atomically(path: Path, content: bytes | memoryview) -> None:
    """Write beside the file, flush to the disk, then take its name: a reader sees the old content or the new one.

    Of a link the file it leads to is written; what is no file, or a descriptor as ``/dev/stdout``, is written into.

    Raises:
        UserError: for a full disk or a folder that cannot be written; what stood at ``path`` is untouched.
    """
    _refuse_folder(path)
    if _is_written_into(path):
        _write_into(path, content)
        return
    if path.is_symlink():
        path = path.resolve()
    # Not the number of the process: containers that share a disk count theirs alike.
    beside = path.with_name(f".{path.name}.{secrets.token_hex(8)}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with beside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError as error:
        kept = "; what was there before is untouched" if path.exists() else ""
        raise UserError(f"cannot write {path}: {error.strerror or error}{kept}") from error
    finally:
        with contextlib.suppress(OSError):  # there is none any more when all went well
            beside.unlink()


def _is_written_into(path: Path) -> bool:
    """Whether it is no file that another can take the place of."""
    return _is_descriptor(path) or (path.exists() and not path.is_file())


def _is_descriptor(path: Path) -> bool:
    """Whether it is what a process has open; a file behind it may have been written to by others."""
    descriptors = Path("/dev/stdout"), Path("/dev/stderr"), Path("/dev/fd"), Path("/proc")
    return any(path.is_relative_to(place) for place in descriptors)  # /dev has folders of files, too, as /dev/shm


def _write_into(device: Path, content: bytes | memoryview) -> None:
    try:
        with device.open("ab") as stream:
            stream.write(content)
    except OSError as error:
        raise UserError(f"cannot write {device}: {error.strerror or error}") from error


def expanded(path: str | Path) -> Path:
    """The path with a leading ``~`` in place of a home folder, as it is where there is no such home."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def readable(name: str) -> str:
    """A name of a file without the bytes that are no UTF-8, which nothing could print or write."""
    return name.encode("utf-8", "ignore").decode()


def remove_halves(folder: Path, age: float = 0) -> None:
    """Remove what a process that was killed while it wrote has left in a folder.

    Args:
        folder: where to look.
        age: seconds since it was written to; in a folder that others write to, more than a write takes.
    """
    for half in folder.glob(".*.part"):
        with contextlib.suppress(OSError):  # another process has removed it, or it is not ours to remove
            if time.time() - half.stat().st_mtime >= age:
                half.unlink()


def refuse_unwritable_file(path: Path) -> None:
    """Say before the work what can be said of a file that is written after it; nothing is made.

    Raises:
        UserError: if it is a folder, or nothing can be written in the folder it is to lie in.
    """
    _refuse_folder(path)
    if not _is_written_into(path):
        refuse_unwritable(path.resolve().parent)


def refuse_unappendable_file(path: Path) -> None:
    """Say before the work what can be said of a file that is appended to after it; nothing is made.

    Raises:
        UserError: if it is a folder, may not be written, or is not there and nothing can be written in its folder.
    """
    _refuse_folder(path)
    if not path.exists():
        refuse_unwritable_file(path)
    elif not (path.is_file() and os.access(path, os.W_OK)):
        raise UserError(f"cannot append to {path}: it is no file that may be written; name another file")


def _refuse_folder(path: Path) -> None:
    if path.is_dir():
        raise UserError(f"cannot write {path}: it is a folder; name a file in it")


def refuse_unwritable(folder: Path) -> None:
    """Say before the work what can be said of a folder that is written to after it; nothing is made.

    Raises:
        UserError: if there is a file in its place, or no permission.
    """
    nearest = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if not nearest.is_dir():
        raise UserError(f"cannot write in {folder}: {nearest} is a file, not a folder; name another place")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise UserError(f"cannot write in {folder}: no permission to write in {nearest}; name another place")


@contextlib.contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Hold a folder, which is made if need be, against other processes; a process that is killed holds it no more.

    Raises:
        UserError: if another process holds it, or it cannot be written.
    """
    from filelock import FileLock, Timeout  # only what trains needs it

    path = folder / ".lock"
    lock = FileLock(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=LOCK_TIMEOUT)
    except Timeout as error:
        raise UserError(f"another process trains in {folder}; wait for its end, or name another folder") from error
    except OSError as error:
        raise UserError(f"cannot write in {folder}: {error.strerror or error}; name another place") from error
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # Windows deletes no file that is open
            path.unlink()  # while it is held: whoever waits for it looks again
        lock.release()


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file of a run.

    Raises:
        UserError: if the file cannot be read, is cut short, or holds anything else.
    """
    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path}: {error}; {REWRITE}") from error
    if not isinstance(plain, dict):
        raise UserError(f"{path} is not a JSON object; {REWRITE}")
    return plain
