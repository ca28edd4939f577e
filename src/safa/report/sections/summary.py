"""Errors by group for every method, and the paired differences to the baseline."""

from __future__ import annotations

from collections.abc import Sequence

from safa.report.comparison import Comparison
from safa.report.headline import CLEAR_NOTE, describe_group
from safa.report.markup import escaped, figure, table
from safa.report.rows import Row
from safa.report.tables import BEST_NOTE, ECE_NOTE, VALIDATION_NOTE, unlike_notes


def summary(comparison: Comparison) -> str:
    """Errors by group for every method, and the paired differences to the baseline."""
    rows = comparison.rows
    columns = [
        ("error, all", "last"),
        *((group, group) for group in ("many", "medium", "few")),
        ("ECE", "ece"),
        ("val.", "validation"),
    ]
    best = ("best on test*", "best")
    shown = [*[column for column in columns if any(getattr(row, column[1]) for row in rows)], best]
    body = [[escaped(row.label), str(row.n), *_errors(row, rows, shown)] for row in rows]
    grouped = "; ".join(describe_group(comparison, group) for group in comparison.groups)
    changes = ", ".join(comparison.changes)
    note = (
        f"Top-1 error in per cent of the test set at the last epoch, lower is better; mean ± sample "
        f"standard deviation over seeds; lowest mean in bold. Groups: {grouped}. {BEST_NOTE}"
        f"{f' {ECE_NOTE}' if any(row.ece for row in rows) else ''}"
        f"{f' {VALIDATION_NOTE}' if any(row.validation for row in rows) else ''}"
        f"{f' Changed in all runs: {changes}.' if changes else ''}"
    )
    return (
        table(["method", "seeds", *(title for title, _ in shown)], body, figures_from=1)
        + f'<p class="note">{escaped(note)}</p>'
        + _paired(comparison)
    )


def _errors(row: Row, rows: Sequence[Row], columns: Sequence[tuple[str, str]]) -> list[str]:
    cells = []
    for _, name in columns:
        own = getattr(row, name)
        means = [getattr(other, name).mean for other in rows if getattr(other, name)]
        least = own is not None and len(set(means)) > 1 and own.mean == min(means)
        style = "aside" if name == "best" else "least" if least else ""
        cells.append(figure(own, style=style))
    return cells


def _paired(comparison: Comparison) -> str:
    if comparison.baseline is None:
        return ""
    names = [("all", "last"), *((group, group) for group in comparison.groups)]
    body = []
    for pair in comparison.pairs:
        gaps = [figure(getattr(pair, name), signed=True) for _, name in names]
        wins = f"{pair.last.wins} of {pair.last.n}" if pair.last else "no common seed"
        body.append([escaped(pair.method), str(len(pair.seeds)), *gaps, wins])
    headings = ["method", "seeds", *(title for title, _ in names), "lower error in"]
    note = " ".join([CLEAR_NOTE, *unlike_notes(comparison.pairs)])
    return (
        f"<h3>Against {escaped(comparison.baseline)}, seed by seed</h3>"
        + table(headings, body, figures_from=1)
        + '<p class="note">Difference of errors in percentage points over common seeds, mean ± sample '
        f"standard deviation; negative is better. {escaped(note)}</p>"
    )
