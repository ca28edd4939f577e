"""Rows as a GitHub table or as a table for the terminal; both draw the same columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Group
from rich.table import Table
from rich.text import Text

from safa.report import github
from safa.report.distinctions import changes_note
from safa.report.pairs import Paired
from safa.report.rows import Row
from safa.report.spread import Spread

NOTE = "Top-1 error in per cent of the test set at the last epoch, mean ± sample sd over n seeds."
BEST_NOTE = "Best on test*: the epoch was chosen on the test set itself; shown for comparison only."
ECE_NOTE = "ECE: mean gap between confidence and accuracy, in per cent; lower is better calibrated."
VALIDATION_NOTE = "Val.: mean over classes of the error on the images set aside to choose by."
MIXED_NOTE = "Not all seeds were trained and validated on the same images"
DIFFERENCE_NOTE = "Difference: ours minus the paper's figure, in percentage points."
PAIRED_NOTE = (
    "Difference of errors in percentage points over common seeds, mean ± sample sd; negative is better. "
    "Wins: seeds with a lower overall error than the baseline."
)

NARROWEST = 80
"""Columns of a terminal that every table fits."""

_PLACE = ("data set", "factor", "network")
_NAMES = (*_PLACE, "method")
_LEFT_ALIGNED = ("data set", "network", "method", "baseline")
_FIGURE_WIDTH = len("±12.34")
_UNBROKEN = ("paper", "wins")
_GAPS = ("error", "many", "medium", "few")
_FIGURES = {
    "error": "last",
    "many": "many",
    "medium": "medium",
    "few": "few",
    "ECE": "ece",
    "val.": "validation",
    "best on test*": "best",
}


def to_markdown(rows: Sequence[Row]) -> str:
    """Draw the rows as a GitHub table with its notes below; ends without a newline.

    What was changed in all rows stands in a note, and not in every name.
    """
    named, changed = _without_shared_distinctions(rows)
    headings = _headings(named)
    table = github.table(headings, [_cells(row, headings) for row in named], left=_LEFT_ALIGNED)
    return f"{table}\n\n{github.notes([*_notes(rows), *changed])}"


def paired_to_markdown(pairs: Sequence[Paired]) -> str:
    """Draw paired differences as a GitHub table; ends without a newline."""
    headings = (*_NAMES, "baseline", "n", *_GAPS, "wins")
    body = [
        [pair.dataset, f"{pair.imbalance_factor:g}", pair.model, pair.method, pair.baseline, *_paired_cells(pair)]
        for pair in pairs
    ]
    return f"{github.table(headings, body, left=_LEFT_ALIGNED)}\n\n{github.notes(_paired_notes(pairs))}"


def to_rich(rows: Sequence[Row], width: int = NARROWEST) -> Group:
    """Draw the rows for the terminal: a table for each data set, factor and network, the notes below the last.

    No figure is cut. Where room is short, figures break before ±, columns stand closer, and names of methods wrap.
    What was changed in all rows stands in a note, and not in every name.

    Args:
        width: columns of the terminal; fewer than 80 count as 80.
    """
    named, changed = _without_shared_distinctions(rows)
    places: dict[str, list[Row]] = {}
    for row in named:
        places.setdefault(f"{row.dataset}, factor {row.imbalance_factor:g}, {row.model}", []).append(row)
    drawn = []
    for place, here in places.items():
        headings = [heading for heading in _headings(here) if heading not in _PLACE]
        drawn.append(_rich(place, headings, [_cells(row, headings) for row in here], width))
    return _below_each_other(drawn, [*_notes(rows), *changed])


def paired_to_rich(pairs: Sequence[Paired], width: int = NARROWEST) -> Group:
    """Draw paired differences for the terminal, as ``to_rich`` draws rows."""
    places: dict[str, list[Paired]] = {}
    for pair in pairs:
        place = f"{pair.dataset}, factor {pair.imbalance_factor:g}, {pair.model}: against {pair.baseline}"
        places.setdefault(place, []).append(pair)
    headings = ["method", "n", *_GAPS, "wins"]
    drawn = [
        _rich(place, headings, [[pair.method, *_paired_cells(pair)] for pair in here], width)
        for place, here in places.items()
    ]
    return _below_each_other(drawn, _paired_notes(pairs))


def _without_shared_distinctions(rows: Sequence[Row]) -> tuple[list[Row], list[str]]:
    """The rows by shorter names, and the note that says what is left out of all of them."""
    first = rows[0].distinctions if rows else ()
    shared = [part for part in first if all(part in row.distinctions for row in rows)]
    named = [replace(row, distinctions=tuple(part for part in row.distinctions if part not in shared)) for row in rows]
    return named, changes_note(shared)


def _below_each_other(drawn: Sequence[Table], notes: Sequence[str]) -> Group:
    drawn[-1].caption = Text("\n".join(notes))
    return Group(*[part for table in drawn for part in (table, "")][:-1])


def _rich(place: str, headings: Sequence[str], body: Sequence[Sequence[str]], width: int) -> Table:
    """Names of methods, numbers of seeds, then figures."""
    columns = list(zip(*body, strict=True))
    longest = max(map(cell_len, (headings[0], *columns[0])))
    needed = [
        max(_FIGURE_WIDTH, *map(len, cells)) if heading in _UNBROKEN else _FIGURE_WIDTH
        for heading, cells in zip(headings[2:], columns[2:], strict=True)
    ]
    # What is left for the names, when every figure is as narrow as it can be and two columns stand one apart.
    room = max(width, NARROWEST) - max(map(len, columns[1])) - sum(needed) - (len(headings) - 1)
    gap = 2 if longest <= room - (len(headings) - 1) else 1
    # Text, not str: a data set or a method called "[red]" is a name, not markup.
    table = Table(title=Text(place), box=SIMPLE_HEAD, padding=(0, gap - 1, 0, 0))
    table.show_edge = table.pad_edge = False
    table.title_justify = table.caption_justify = "left"
    table.add_column(headings[0], width=min(longest, room), overflow="fold")
    table.add_column(headings[1], justify="right", no_wrap=True)
    for heading in headings[2:]:
        title = "ours − paper" if heading == "difference" else heading  # breaks where the column is narrow
        may_break = heading not in _UNBROKEN
        table.add_column(title, justify="right", no_wrap=not may_break, min_width=_FIGURE_WIDTH if may_break else None)
    for cells in body:
        # Where the terminal is narrow a cell breaks at its one space, before ±.
        table.add_row(*(Text(cell.replace("± ", "±")) for cell in cells))
    return table


def _headings(rows: Sequence[Row]) -> list[str]:
    headings = [*_NAMES, "n", *(title for title in _FIGURES if title != "val." or _any_validation(rows))]
    if any(row.paper is not None for row in rows):
        after_error = headings.index("error") + 1
        headings[after_error:after_error] = ["paper", "difference"]
    return headings


def _any_validation(rows: Sequence[Row]) -> bool:
    return any(row.validation for row in rows)


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
        cells[heading] = _text(figure, row.n)
    return [cells[heading] for heading in headings]


def _text(figure: Spread | None, n: int) -> str:
    """With the number of seeds behind it where that is not the row's."""
    if figure is None:
        return "–"
    return figure.text() if figure.n == n else f"{figure.text()} (n = {figure.n})"


def _paired_cells(pair: Paired) -> list[str]:
    """Seeds, differences and wins."""
    gaps = [gap.text(signed=True) if gap else "–" for gap in (pair.last, pair.many, pair.medium, pair.few)]
    wins = f"{pair.last.wins} of {pair.last.n}" if pair.last else "–"
    return [str(len(pair.seeds)), *gaps, wins]


def _paired_notes(pairs: Sequence[Paired]) -> list[str]:
    return [PAIRED_NOTE, *unlike_notes(pairs)]


def unlike_notes(pairs: Sequence[Paired]) -> list[str]:
    """Which differences are not of the methods alone: a note for each thing that is another than the baseline has."""
    methods: dict[str, list[str]] = {}
    for pair in pairs:
        for what in pair.unlike:
            methods.setdefault(what, []).append(pair.method)
    return [
        f"Of other {what} than the baseline, which may be part of the difference: {', '.join(dict.fromkeys(names))}."
        for what, names in methods.items()
    ]


def _notes(rows: Sequence[Row]) -> list[str]:
    notes = [NOTE, BEST_NOTE, ECE_NOTE, *([VALIDATION_NOTE] if _any_validation(rows) else [])]
    if any(row.paper is not None for row in rows):
        notes.append(DIFFERENCE_NOTE)
    notes += [f"† {remark}" for remark in dict.fromkeys(row.remark for row in rows if row.remark)]
    mixed = [f"{row.label} on {row.dataset}" for row in rows if row.mixed]
    if mixed:
        notes.append(f"{MIXED_NOTE}: {', '.join(mixed)}.")
    left_out = sum(row.superseded for row in rows)
    if left_out:
        notes.append(f"{left_out} earlier {'line' if left_out == 1 else 'lines'} of the same seed left out.")
    return notes
