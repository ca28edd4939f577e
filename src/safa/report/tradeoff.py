"""Accuracy of frequent classes against that of rarer ones: who moves the trade between them, and who moves along it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from safa.errors import UserError
from safa.files import write_atomically
from safa.report.distinctions import without_shared_changes
from safa.report.lines import Line
from safa.report.rows import Row, summarise
from safa.report.svg import MARKERS, WIDE, blank, colour, shortened, standalone, themed

_SETTING = re.compile(r"(?P<method>.*) \[(?P<knob>[^\]]*?)\s*(?P<value>-?\d+(?:\.\d+)?)\](?P<more>( \[[^\]]*\])*)")


@dataclass(frozen=True)
class Curve:
    """Rows that differ by one setting, after the row they vary; or a single row.

    Attributes:
        name: of the method and the setting.
        rows: by increasing value of the setting.
        values: of the setting, as the methods write them; empty for the row that is varied.
    """

    name: str
    rows: tuple[Row, ...]
    values: tuple[str, ...]


def write_tradeoff(lines: Sequence[Line], output: Path | str) -> Path:
    """Draw accuracy on medium- and few-shot classes, where there are any, against that on many-shot ones, as an SVG.

    Rows named ``METHOD [SETTING VALUE]``, such as ``LDAM-DRW [adjusted 0.5]``, become a curve that starts at the row
    of the method; what else is in brackets may stand before or after.

    Args:
        lines: of one data set, imbalance factor and network.
        output: the SVG file, replaced as a whole.

    Raises:
        UserError: if no line has many-shot and rarer classes, or there are lines of several data sets, or the file
            cannot be written.
    """
    rows = [row for row in summarise(without_shared_changes(lines)[0]) if row.many and (row.medium or row.few)]
    if not rows:
        raise UserError("no line has an error of many-shot classes and of rarer ones, so there is no trade to draw")
    places = {(row.dataset, row.imbalance_factor, row.model) for row in rows}
    if len(places) > 1:
        named = "; ".join(f"{data}, factor {factor:g}, {model}" for data, factor, model in sorted(places))
        raise UserError(f"a trade is drawn of one data set, factor and network, got {named}; name files of one")
    dataset, factor, model = places.pop()
    described = f"Accuracy of rarer classes against that of many-shot classes: {dataset}, factor {factor:g}, {model}"
    write_atomically(Path(output), standalone(_drawn(curves(rows), WIDE), described).encode())
    return Path(output)


def curves(rows: Sequence[Row]) -> list[Curve]:
    """Rows joined by what they vary; a method that is varied has no point of its own beside its curves."""
    varied: dict[tuple[str, str], list[tuple[float, str, Row]]] = {}
    single: dict[str, Row] = {}
    for row in rows:
        found = _SETTING.fullmatch(row.label)
        if found:
            entry = float(found["value"]), found["value"], row
            varied.setdefault((found["method"] + found["more"], found["knob"]), []).append(entry)
        else:
            single[row.label] = row
    joined = []
    for (method, knob), entries in varied.items():
        start = [(single[method], "")] if method in single else []
        points = start + [(row, value) for _, value, row in sorted(entries, key=lambda entry: entry[0])]
        joined.append(Curve(f"{method}, {knob}".rstrip(", "), *zip(*points, strict=True)))
    starts = {method for method, _ in varied}
    return joined + [Curve(name, (row,), ("",)) for name, row in single.items() if name not in starts]


@themed
def _drawn(drawn: Sequence[Curve], width: int) -> Figure:
    groups = [group for group in ("medium", "few") if any(getattr(row, group) for curve in drawn for row in curve.rows)]
    figure = blank(width, 330 + 18 * -(-len(drawn) // 3))
    panels = figure.subplots(1, len(groups), squeeze=False)[0]
    for axes, group in zip(panels, groups, strict=True):
        handles = [_trace(axes, curve, group, number) for number, curve in enumerate(drawn)]
        axes.set(xlabel="accuracy on many-shot classes, %", title=f"accuracy on {group}-shot classes, %")
        axes.grid(True)
    # Named here: matplotlib leaves out a line whose label begins with "_".
    names = [shortened(curve.name, 40) for curve in drawn]
    figure.legend(handles, names, loc="outside lower center", ncols=3, frameon=False, fontsize=10)
    return figure


def _trace(axes: Any, curve: Curve, group: str, number: int) -> Any:
    """A filled marker on the row itself, hollow ones where its setting is changed; none for a row without the group."""
    ink = colour(f"method-{number % 8}")
    marker = MARKERS[(number + number // 8) % len(MARKERS)]  # so that no two of 64 look alike
    shown = [(row, value) for row, value in zip(curve.rows, curve.values, strict=True) if getattr(row, group)]
    points = [(_accuracy(row, "many"), _accuracy(row, group)) for row, _ in shown]
    x, y = zip(*points, strict=True) if points else ((), ())
    (line,) = axes.plot(x, y, color=ink, linewidth=1.2, marker=marker, markersize=5)
    for point, (_, value) in zip(points, shown, strict=True):
        if value:
            axes.plot(*point, marker=marker, markersize=5, color=ink, markerfacecolor=colour("paper"))
            axes.annotate(value, point, xytext=(5, 3), textcoords="offset points", fontsize=9, color=colour("muted"))
    return line


def _accuracy(row: Row, group: str) -> float:
    return 100 - float(getattr(row, group).mean)
