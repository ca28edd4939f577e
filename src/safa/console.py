"""What the commands print on, and how."""

from __future__ import annotations

import os
from typing import Any

from rich.console import Console

from safa.processes import is_first_process


class _Console(Console):
    """Where names are names, one called ":cat:" or "[red]" as well; of the output a reader takes what it wants."""

    def __init__(self, **options: Any) -> None:
        super().__init__(highlight=False, markup=False, emoji=False, **options)

    def on_broken_pipe(self) -> None:
        """In ``safa train … | head`` the end of ``head`` ends what is shown, not the training."""
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), self.file.fileno())


out = _Console()
out.width = max(out.width, 80)  # a narrower terminal breaks the lines of a table, and loses no figure


def say(text: str) -> None:
    """On one line whatever the width, since it may be copied or read by a program; once under torchrun."""
    if is_first_process():
        out.print(text, soft_wrap=True)


def warn(sentence: str) -> None:
    """To standard error, since standard output may be a CSV."""
    _Console(stderr=True).print(sentence, soft_wrap=True)
