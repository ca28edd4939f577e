"""What the log holds of each epoch, written to TensorBoard as well."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from safa.errors import UserError


class TensorBoard:
    """A run's figures as scalars, by epoch.

    Args:
        folder: the run's; the files go into ``tensorboard`` in it.
        history: entries of the log so far, written if that is not there yet.

    Raises:
        UserError: if TensorBoard is not installed.
    """

    def __init__(self, folder: Path, history: Iterable[Mapping[str, Any]] = ()) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise UserError("TensorBoard is not installed; pip install tensorboard, or leave --track out") from error
        place = folder / "tensorboard"
        missing = () if place.exists() else history
        self.writer: Any = SummaryWriter(str(place))
        for entry in missing:
            self.add(entry)

    def add(self, entry: Mapping[str, Any]) -> None:
        """Write one entry of the log; figures that it lacks are left out."""
        for name, value in _figures(entry):
            if value is not None:
                self.writer.add_scalar(name, value, entry["epoch"])
        self.writer.flush()


def _figures(entry: Mapping[str, Any]) -> Iterator[tuple[str, float | None]]:
    yield from (("train/loss", entry["loss"]), ("train/lr", entry["lr"]))
    groups = {"train": "terms", "diagnostics": "diagnostics", "test": "test", "validation": "validation"}
    for group, key in groups.items():
        for name, value in (entry.get(key) or {}).items():
            yield f"{group}/{name}", value
