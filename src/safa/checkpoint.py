"""Checkpoints of a run, and the cache of states that runs share."""

from __future__ import annotations

import contextlib
import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from safa.errors import UserError, is_out_of_memory
from safa.files import remove_halves, write_atomically

DAY = 24 * 60 * 60.0  # seconds; no process writes one state for as long


class DamagedError(UserError):
    """A file that holds no state, or no longer a whole one."""


def save(path: Path, state: dict[str, Any]) -> None:
    """Write tensors and plain containers atomically; ``load`` reads them back.

    torch writes into memory first: its own file writer reports a full disk as an internal error.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_atomically(path, buffer.getvalue())


def load(path: Path) -> dict[str, Any]:
    """Read what ``save`` wrote, on the CPU.

    Raises:
        UserError: if the file is missing or cannot be read.
        DamagedError: if it is cut short or damaged, or holds anything but tensors and plain containers.
    """
    try:
        _refuse_torn(path)
        state: Any = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise UserError(f"there is no checkpoint at {path}") from error
    except OSError as error:  # the file may be whole
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    except Exception as error:  # torch raises many kinds for a broken file, and a RuntimeError where memory ends
        if is_out_of_memory(error):
            raise UserError(
                f"there is too little memory to read {path}, which may be whole; free some and try again"
            ) from error
        reason = str(error).partition("\n")[0]
        raise DamagedError(
            f"{path} is no checkpoint of safa, or is damaged; delete it to train anew ({reason})"
        ) from error
    if not isinstance(state, dict):
        raise DamagedError(
            f"{path} is no checkpoint of safa: it holds a {type(state).__name__}; delete it to train anew"
        )
    return dict(state)


def _refuse_torn(path: Path) -> None:
    """torch does not look at the checksums that it wrote beside its tensors, so a hole in the file would be weights."""
    with zipfile.ZipFile(path) as archive:
        torn = archive.testzip()
    if torn is not None:
        raise zipfile.BadZipFile(f"the checksum of {torn} is wrong")


class StageCache:
    """States that more than one run passes through, each under the hash of everything that led to it.

    Args:
        folder: where they lie.
        say: takes a sentence at the first state that cannot be written, and at each that is damaged.
    """

    def __init__(self, folder: Path, say: Callable[[str], None] = lambda _: None) -> None:
        self.folder, self.say = folder, say
        self._failed = False

    def __contains__(self, key: str) -> bool:
        return self._path(key).is_file()

    def load(self, key: str) -> dict[str, Any] | None:
        """The state, or None where there is none, or it is damaged: a cache only saves time."""
        path = self._path(key)
        if key not in self:
            return None
        try:
            return load(path)
        except DamagedError:
            self.say(f"{path} is damaged, and is removed; what it would have saved is trained anew")
            with contextlib.suppress(OSError):
                path.unlink()
            return None

    def save(self, key: str, state: dict[str, Any]) -> None:
        """Keep a state that is not there. One that cannot be written costs other runs time, this one nothing."""
        if key in self:
            return
        remove_halves(self.folder, DAY)
        try:
            save(self._path(key), state)
        except UserError as error:
            if not self._failed:
                self.say(f"{error}; training goes on, and other runs will train these epochs anew")
            self._failed = True

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.pt"
