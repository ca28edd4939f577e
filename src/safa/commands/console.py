"""What the commands print on, and how."""

from __future__ import annotations

from rich.console import Console

from safa.processes import is_first_process

# Names are names: a class called ":cat:" or "[red]" is printed as it is called.
out = Console(soft_wrap=False, highlight=False, markup=False, emoji=False)
out.width = max(out.width, 80)  # a narrower terminal breaks the lines of a table, and loses no figure


def say(text: str) -> None:
    """On one line whatever the width, since it may be copied or read by a program; once under torchrun."""
    if is_first_process():
        out.print(text, soft_wrap=True)


def warn(sentence: str) -> None:
    """To standard error, since standard output may be a CSV."""
    Console(stderr=True, highlight=False, markup=False, emoji=False).print(sentence, soft_wrap=True)
