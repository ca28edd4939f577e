"""Small pieces of HTML: escaped text, tables, legends, the note on something missing."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

from safa.report.spread import Spread

# The markers of svg.MARKERS and charts.KIND_MARKERS, as paths in a box from -6 to 6.
_SHAPES = {
    "o": "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0z",
    "s": "M-4-4H4V4H-4z",
    "^": "M0-5L5 4H-5z",
    "D": "M0-5.5L5.5 0L0 5.5L-5.5 0z",
    "v": "M0 5L5-4H-5z",
    "P": "M-1.8-5H1.8V-1.8H5V1.8H1.8V5H-1.8V1.8H-5V-1.8H-1.8z",
    "X": "M-5-2.5L-2.5-5L0-2.5L2.5-5L5-2.5L2.5 0L5 2.5L2.5 5L0 2.5L-2.5 5L-5 2.5L-2.5 0z",
    "p": "M0-5.2L5-1.6L3 4.4L-3 4.4L-5-1.6z",
    "+": "M-5 0H5M0-5V5",
}


def escaped(text: object) -> str:
    """Any text as HTML, quotes included."""
    return html.escape(str(text))


def key(name: str, shape: str, colour: str, *, hollow: bool = False, group: str = "") -> str:
    """One entry of a legend; ``colour`` is a variable of the style sheet."""
    fill = "none" if hollow or shape == "+" else f"var(--{colour})"
    stroke = f"var(--{colour})" if hollow or shape == "+" else "none"
    path = f'<path d="{_SHAPES[shape]}" fill="{fill}" stroke="{stroke}" stroke-width="1.4"/>'
    after = f' <span class="group">{escaped(group)}</span>' if group else ""
    return f'<li><svg viewBox="-7 -7 14 14" aria-hidden="true">{path}</svg>{escaped(name)}{after}</li>'


def keys(entries: Iterable[str]) -> str:
    """A legend."""
    return f'<ul class="keys">{"".join(entries)}</ul>'


def table(
    headings: Sequence[str], rows: Iterable[Sequence[str]], *, figures_from: int = 99, style: str = "full"
) -> str:
    """A table of ready HTML cells; the first cell of a row is its heading, figures are flush right.

    Args:
        figures_from: the first column that holds figures.
        style: classes of the style sheet: ``full`` width, ``stack`` for cells below each other on a phone.
    """
    head = "".join(_cell("th", text, column >= figures_from, scope="col") for column, text in enumerate(headings))
    body = "".join(f"<tr>{_row(cells, headings, figures_from)}</tr>" for cells in rows)
    return (
        f'<div class="scroll"><table class="{style}"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
    )


def _row(cells: Sequence[str], headings: Sequence[str], figures_from: int) -> str:
    first, *others = cells
    named = zip(others, headings[1:], strict=True)
    return _cell("th", first, False, scope="row") + "".join(
        _cell("td", text, column >= figures_from, label=heading)
        for column, (text, heading) in enumerate(named, start=1)
    )


def _cell(tag: str, text: str, is_figure: bool, *, scope: str = "", label: str = "") -> str:
    style = ' class="figure"' if is_figure else ""
    heads = f' scope="{scope}"' if scope else ""
    # A stacked table has no head, so every cell carries its heading along.
    named = f' data-label="{label}"' if label else ""
    return f"<{tag}{heads}{style}{named}>{text}</{tag}>"


def figure(spread: Spread | None, *, digits: int = 2, signed: bool = False, style: str = "") -> str:
    """Mean ± sd as a table cell's content, the spread lighter than the mean."""
    if spread is None:
        return "–"
    mean, _, sd = spread.text(digits, signed=signed).partition(" ± ")
    mean = f'<span class="{style}">{mean}</span>' if style else mean
    return f'{mean} <span class="sd">± {sd}</span>' if sd else mean


def panel(title: str, chart: str, description: str) -> str:
    """A chart under its title, for a grid of panels."""
    plot = f'<div class="plot" role="img" aria-label="{escaped(description)}">{chart}</div>'
    return f"<figure><h3>{escaped(title)}</h3>{plot}</figure>"


def absent(reason: str) -> str:
    """Say what a section lacks and why."""
    return f'<p class="absent">{escaped(reason[:1].upper() + reason[1:])}.</p>'
