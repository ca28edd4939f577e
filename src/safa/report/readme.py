"""Tables between markers of a text file: no figure of the README is typed by hand."""

from __future__ import annotations

import re
from collections.abc import Mapping

from safa.errors import UserError

_OPENING = re.compile(r"<!-- safa:table (?P<name>\S+) -->")
_CLOSING = "<!-- /safa:table -->"


def names_of(name: str) -> set[str]:
    """What the tables of a file can be called: its name, and those of its further tables."""
    return {name, f"{name}-differences", f"{name}-features"}


def update(text: str, tables: Mapping[str, str], further: Mapping[str, str] | None = None) -> str:
    """Replace what stands between the markers of each table by ``tables[NAME]``.

    A table stands between ``<!-- safa:table NAME -->`` and ``<!-- /safa:table -->``. Markers without a
    table of that name stay as they are, and updating twice changes nothing more.

    Args:
        further: tables of the same files, under their other ``names_of``.

    Raises:
        UserError: if neither a table of ``tables`` nor a further one of its name has a marker, or one is not closed.
    """
    made = {**(further or {}), **tables}
    pieces, end, filled = [], 0, set()
    for opening in _OPENING.finditer(text):
        name = opening["name"]
        closing = text.find(_CLOSING, opening.end())
        following = _OPENING.search(text, opening.end())
        if closing < 0 or (following and following.start() < closing):
            raise UserError(f"the marker {opening[0]} is not closed; put {_CLOSING} after the table")
        if name in made:
            pieces += [text[end : opening.end()], f"\n{made[name].strip()}\n"]
            end = closing
            filled.add(name)
    absent = sorted(name for name in tables if filled.isdisjoint(names_of(name)))
    if absent:
        raise UserError(f"no marker for table {absent[0]!r}; put <!-- safa:table {absent[0]} --> and {_CLOSING} there")
    return "".join([*pieces, text[end:]])
