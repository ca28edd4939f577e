"""Which of the processes of a distributed run this is. No torch, so that commands can ask before they load it."""

from __future__ import annotations

import os


def is_first_process() -> bool:
    """Whether this is the process that prints and writes; torchrun says which one it is."""
    return os.environ.get("RANK", "0") == "0"
