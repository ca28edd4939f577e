"""One progress bar per run, on a terminal; nothing elsewhere."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars


class Progress:
    """Epoch, images per second, last test error and time left.

    Args:
        shown: whether to draw; by default where standard error is a terminal.
    """

    def __init__(self, shown: bool | None = None) -> None:
        console = Console(stderr=True)
        self.shown = console.is_terminal if shown is None else shown
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[note]}"),
            TimeRemainingColumn(),
        )
        self.bars = Bars(*columns, console=console, disable=not self.shown, transient=True)
        self.error, self.steps = "", 1

    def __enter__(self) -> Progress:
        self.bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bars.stop()

    def start(self, name: str, epochs: int, done: int) -> None:
        self.task = self.bars.add_task(escape(name), total=epochs, completed=done, note="")
        self.epochs = epochs

    def epoch(self, index: int, steps: int, step: int) -> None:
        self.index, self.steps, self.at = index, steps, step
        self.images: int | None = None

    def step(self, images: int) -> None:
        """Called after every step with the images of the epoch so far; costs nothing where nothing is drawn."""
        self.at += 1
        if self.shown:
            speed = self._images_per_second(images)
            done = self.index + self.at / self.steps
            self.bars.update(self.task, completed=done, note=f"epoch {self.index + 1}/{self.epochs}{speed}{self.error}")

    def _images_per_second(self, images: int) -> str:
        """Since the first step of the epoch, whose own time is left out: it may include a wait for the first images."""
        if self.images is None:
            self.started, self.images = time.perf_counter(), images
            return ""
        seconds = max(time.perf_counter() - self.started, 1e-9)
        return f" {(images - self.images) / seconds:.0f} img/s"

    def finish_epoch(self, entry: dict[str, Any]) -> None:
        if entry.get("test"):
            self.error = f" · test error {entry['test']['error']:.1f} %"
        if self.shown:
            speed = f"{entry['images_per_second']:.0f} img/s" if entry["images_per_second"] else ""
            self.bars.update(
                self.task,
                completed=entry["epoch"] + 1,
                note=f"epoch {entry['epoch'] + 1}/{self.epochs} {speed}{self.error}",
            )
