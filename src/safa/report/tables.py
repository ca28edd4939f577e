"""Rows as a GitHub table or as a table for the terminal; both draw the same columns.

``summarise``, ``against_paper`` and ``paired`` make the rows. They live in ``rows`` and are re-exported here.
"""

from __future__ import annotations

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import JustifyMethod
from rich.table import Table
from rich.text import Text

from safa.report import github
from safa.report.rows import Paired, Row, against_paper, paired, summarise
from safa.report.spread import Spread

__all__ = [
    "BEST_NOTE",
    "DIFFERENCE_NOTE",
    "NOTE",
    "Paired",
    "Row",
    "against_paper",
    "paired",
    "paired_to_markdown",
    "summarise",
    "to_markdown",
    "to_rich",
]

NOTE = "Top-1 error in per cent of the test set at the last epoch, mean ± sample sd over n seeds."
BEST_NOTE = "Best on test*: the epoch was chosen on the test set itself; shown for comparison only."
DIFFERENCE_NOTE = "Difference: ours minus the paper's figure, in percentage points."
PAIRED_NOTE = (
    "Difference of errors in percentage points over common seeds, mean ± sample sd; negative is better. "
    "Wins: seeds with a lower overall error than the baseline."
)

_PLACE = ("data set", "factor", "network")
_NAMES = (*_PLACE, "method")
_LEFT_ALIGNED = ("data set", "network", "method", "baseline")
_FIGURES = {
    "error": "last",
    "many": "many",
    "medium": "medium",
    "few": "few",
    "ECE": "ece",
    "best on test*": "best",
}


def to_markdown(rows: Sequence[Row]) -> str:
    """Draw the rows as a GitHub table with its notes below; ends without a newline."""
    headings = _headings(rows)
    table = github.table(headings, [_cells(row, headings) for row in rows], left=_LEFT_ALIGNED)
    return f"{table}\n\n{github.notes(_notes(rows))}"


def paired_to_markdown(pairs: Sequence[Paired]) -> str:
    """Draw paired differences as a GitHub table; ends without a newline."""
    headings = (*_NAMES, "baseline", "n", "error", "many", "medium", "few", "wins")
    table = github.table(headings, [_paired_cells(pair) for pair in pairs], left=_LEFT_ALIGNED)
    return f"{table}\n\n{github.notes([PAIRED_NOTE])}"


def to_rich(rows: Sequence[Row]) -> Table:
    """Draw the rows as a table for the terminal; what all rows share stands in the title.

    Fits 80 columns; several data sets beside the paper's figures need 95.
    """
    places = [f"{row.dataset}, factor {row.imbalance_factor:g}, {row.model}" for row in rows]
    shared = len(set(places)) == 1
    headings = [heading for heading in _headings(rows) if heading not in _PLACE]
    notes = "\n".join(_notes(rows))
    table = Table(title=places[0] if shared else None, caption=notes, box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.show_edge = table.pad_edge = False
    table.title_justify = table.caption_justify = "left"
    if not shared:
        table.add_column("data set\nfactor\nnetwork", no_wrap=True)
    for heading in headings:
        _add_column(table, heading)
    for place, row in zip(places, rows, strict=True):
        # Where the terminal is narrow a cell breaks at its one space, before ±.
        cells = [cell.replace("± ", "±") for cell in _cells(row, headings)]
        # Text, not str: a method called "[red]" is a name, not markup.
        table.add_row(*(Text(cell) for cell in (cells if shared else [place.replace(", ", "\n"), *cells])))
    return table


def _add_column(table: Table, heading: str) -> None:
    justify: JustifyMethod = "left" if heading in _LEFT_ALIGNED else "right"
    may_break = heading in _FIGURES or heading == "difference"
    title = "ours − paper" if heading == "difference" else heading  # breaks where the column is narrow
    table.add_column(title, justify=justify, no_wrap=not may_break, min_width=6 if may_break else None)


def _headings(rows: Sequence[Row]) -> list[str]:
    headings = [*_NAMES, "n", *_FIGURES]
    if any(row.paper is not None for row in rows):
        after_error = headings.index("error") + 1
        headings[after_error:after_error] = ["paper", "difference"]
    return headings


def _cells(row: Row, headings: Sequence[str]) -> list[str]:
    gap = row.gap_to_paper
    cells = {
        "data set": row.dataset,
        "factor": f"{row.imbalance_factor:g}",
        "network": row.model,
        "method": row.label,
        "n": str(row.n),
        "paper": "–" if row.paper is None else f"{row.paper:.2f}{'†' if row.remark else ''}",
        "difference": "–" if gap is None else f"{gap:+.2f}".replace("-", "−"),
    }
    for heading, attribute in _FIGURES.items():
        figure: Spread | None = getattr(row, attribute)
        cells[heading] = figure.text() if figure else "–"
    return [cells[heading] for heading in headings]


def _paired_cells(pair: Paired) -> list[str]:
    names = [pair.dataset, f"{pair.imbalance_factor:g}", pair.model, pair.method, pair.baseline]
    gaps = [gap.text(signed=True) if gap else "–" for gap in (pair.last, pair.many, pair.medium, pair.few)]
    wins = f"{pair.last.wins} of {pair.last.n}" if pair.last else "–"
    return [*names, str(len(pair.seeds)), *gaps, wins]


def _notes(rows: Sequence[Row]) -> list[str]:
    notes = [NOTE, BEST_NOTE]
    if any(row.paper is not None for row in rows):
        notes.append(DIFFERENCE_NOTE)
    notes += [f"† {remark}" for remark in dict.fromkeys(row.remark for row in rows if row.remark)]
    left_out = sum(row.superseded for row in rows)
    if left_out:
        notes.append(f"{left_out} earlier {'line' if left_out == 1 else 'lines'} of the same seed left out.")
    return notes
