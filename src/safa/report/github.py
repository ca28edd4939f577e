"""Cells and sentences as GitHub draws them."""

from __future__ import annotations

from collections.abc import Collection, Sequence


def table(headings: Sequence[str], body: Sequence[Sequence[str]], *, left: Collection[str]) -> str:
    """A table; columns whose heading is not in ``left`` are aligned to the right. Ends without a newline."""
    rule = ["---" if heading in left else "---:" for heading in headings]
    rows = [escaped(headings), rule, *(escaped(cells) for cells in body)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in rows)


def notes(sentences: Sequence[str]) -> str:
    """Each sentence on a line of its own."""
    # Two spaces at the end of a line are a line break in Markdown.
    return "  \n".join(escaped(sentences))


def escaped(texts: Sequence[str]) -> list[str]:
    """Names are names: what Markdown would read as markup is escaped, and a line stays one line."""
    special = str.maketrans({character: f"\\{character}" for character in "\\|*_<`$&~"})
    return [" ".join(text.split()).translate(special).replace("](", "]\\(") for text in texts]
