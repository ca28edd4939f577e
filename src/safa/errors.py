"""The one exception for mistakes a user can mend."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """A mistake in what was asked for. The message names the thing, the value and the way out.

    The command line prints the message alone; anything else that escapes is a defect of the library.
    """


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ended, which Python and torch say in their own ways, torch in a different one for each device."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and "alloc" in str(error) and "memory" in str(error)


def closest(word: object, words: Iterable[object]) -> str:
    """``"; did you mean 'ldam'?"`` when a known word is near, else nothing; to end an error message with."""
    found = difflib.get_close_matches(str(word), [str(w) for w in words], n=1, cutoff=0.5)
    return f"; did you mean {found[0]!r}?" if found else ""
