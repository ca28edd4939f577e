"""Charts of training, mistakes and features, each for a width in CSS pixels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from safa.classes import GENERATED, REAL, TEST
from safa.report.comparison import Comparison
from safa.report.confusion import Mistakes
from safa.report.curves import Panel
from safa.report.embedding import Embedding
from safa.report.runs import FloatArray
from safa.report.svg import NARROW, blank, colour, shortened, themed

KIND_MARKERS = {REAL: "o", GENERATED: "+", TEST: "^"}


@themed
def training(comparison: Comparison, panels: Sequence[Panel], stages: Sequence[tuple[int, str]], width: int) -> Figure:
    """One panel per figure of the log; the band spans the seeds, a dotted line starts a stage."""
    columns = 2 if width > NARROW and len(panels) > 1 else 1
    rows = -(-len(panels) // columns)
    figure = blank(width, 190 * rows + 20)
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True).ravel()
    for axes, panel in zip(grid, panels, strict=False):
        for method, curve in panel.curves.items():
            ink = colour(f"method-{comparison.ink(method)}")
            axes.plot(curve.epochs, curve.mean, color=ink, linewidth=1.5)
            axes.plot(curve.epochs[-1:], curve.mean[-1:], "o", color=ink, markersize=4, clip_on=False)
            axes.fill_between(curve.epochs, curve.low, curve.high, color=ink, alpha=0.18, linewidth=0)
        if panel.logarithmic and all((curve.low > 0).all() for curve in panel.curves.values()):
            axes.set_yscale("log")
            # Plain figures: matplotlib's own exponents are set as mathematics.
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _plain(value)))
            axes.yaxis.set_minor_locator(NullLocator())
        for epoch, name in stages:
            axes.axvline(epoch, color=colour("muted"), linewidth=0.9, linestyle=(0, (1, 2)))
            if panel is panels[0]:
                top = axes.get_xaxis_transform()
                axes.text(epoch, 0.97, f"{shortened(name, 24)} ", ha="right", va="top", fontsize=10, transform=top)
        axes.set_title(panel.title, fontsize=11)
        axes.grid(axis="y")
    for axes in grid[len(panels) :]:
        axes.set_axis_off()
    for axes in grid[max(0, len(panels) - columns) : len(panels)]:
        axes.set_xlabel("epochs done")
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.tick_params(labelbottom=True)
    return figure


def _plain(value: float) -> str:
    """0.00001, not 1e-05; a power of ten on a logarithmic axis is off by rounding."""
    return np.format_float_positional(float(f"{value:.6g}"), trim="-")


@themed
def destinations(shares: Mapping[str, Mapping[str, float]], width: int) -> Figure:
    """Where the rare classes' test images go: one stacked bar per method."""
    figure = blank(width, 46 * len(shares) + 44)
    axes = figure.subplots()
    for row, share in enumerate(shares.values()):
        start = 0.0
        for name, amount in share.items():
            axes.barh(row, amount, left=start, height=0.62, color=colour(name))
            if amount >= (4 if width > NARROW else 9):
                middle = start + amount / 2
                axes.text(middle, row, f"{amount:.0f}", ha="center", va="center", color=colour("paper"))
            start += amount
    axes.set_yticks(range(len(shares)), [shortened(method, 40 if width > NARROW else 15) for method in shares])
    axes.set(xlim=(0, 100), xlabel="per cent of their test images")
    axes.invert_yaxis()
    axes.tick_params(axis="y", labelcolor=colour("ink"))
    axes.spines["left"].set_visible(False)
    return figure


@themed
def mistaken(comparison: Comparison, mistakes: Mistakes, width: int = 420) -> Figure:
    """A matrix: rare class by row; what it is taken for by column, the frequent classes summed by group."""
    values, names = _columns(comparison, mistakes)
    rows = [shortened(comparison.class_names[class_id], 15) for class_id in mistakes.classes]
    columns = [shortened(name, 15) for name in names]
    margin = 14 + 6.2 * max(len(name) for name in (*rows, *columns))  # what the names need, in pixels
    side = min((width - margin) / len(columns), 34)
    height = margin + side * len(rows)
    figure = Figure(figsize=(width / 72, height / 72))
    axes = figure.add_axes((margin / width, 0, side * len(columns) / width, side * len(rows) / height))
    groups = [_group(comparison, name) for name in names]
    _squares(axes, list(np.ndindex(values.shape)), facecolors="none", edgecolors=colour("rule"))
    taken = [(row, column) for row, column in np.argwhere(values > 0).tolist()]
    # The root keeps a share of 5 % visible beside one of 80 %.
    strengths = [min(1.0, float(values[cell] / 100) ** 0.5) for cell in taken]
    inks = [colour("right" if row == column else groups[column]) for row, column in taken]
    _squares(axes, taken, facecolors=[to_rgba(*ink) for ink in zip(inks, strengths, strict=True)], edgecolors="none")
    axes.set(xlim=(0, len(columns)), ylim=(len(rows), 0))
    axes.set_yticks(np.arange(len(rows)) + 0.5, rows)
    axes.set_xticks(np.arange(len(columns)) + 0.5, columns, rotation=90)
    axes.tick_params(top=True, labeltop=True, bottom=False, labelbottom=False, length=0, labelsize=10)
    axes.spines[:].set_visible(False)
    return figure


def _squares(axes: Any, cells: Sequence[tuple[int, ...]], **style: Any) -> None:
    """Squares at (row, column) in one collection: a thousand patches of their own take seconds."""
    corners = [[(column, row), (column + 1, row), (column + 1, row + 1), (column, row + 1)] for row, column in cells]
    axes.add_collection(PolyCollection(corners, linewidths=0.5, **style))


def _columns(comparison: Comparison, mistakes: Mistakes) -> tuple[FloatArray, list[str]]:
    shares = np.nan_to_num(mistakes.share)
    columns = [shares[:, class_id] for class_id in mistakes.classes]
    names = [comparison.class_names[class_id] for class_id in mistakes.classes]
    for group in reversed(comparison.groups):
        others = [c for c in comparison.groups[group].tolist() if c not in set(mistakes.classes.tolist())]
        if others:
            columns.append(shares[:, others].sum(axis=1))
            names.append(f"all {group}" if len(others) == len(comparison.groups[group]) else f"other {group}")
    return np.stack(columns, axis=1), names


def _group(comparison: Comparison, column: str) -> str:
    group = column.removeprefix("all ").removeprefix("other ")
    return group if group in comparison.groups else comparison.rare_group


@themed
def features(embedding: Embedding, inks: Mapping[int, str], width: int = 420) -> Figure:
    """The points of one embedding: colour by class (class id -> name of a colour), marker by kind."""
    figure = blank(width, width * 0.86)
    scatter(figure.subplots(), embedding, inks)
    return figure


def scatter(axes: Any, embedding: Embedding, inks: Mapping[int, str]) -> None:
    """Put these points into axes without a scale."""
    for class_id, ink in inks.items():
        for kind in (GENERATED, TEST, REAL):  # the few real images of a tail class come last, on top
            rows = (embedding.labels == class_id) & (embedding.kind == kind)
            axes.scatter(*embedding.points[rows].T, alpha=0.85, **_style(kind, colour(ink)))
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(True)
    axes.spines[:].set_color(colour("rule"))


def _style(kind: int, ink: str) -> dict[str, Any]:
    styles: dict[int, dict[str, Any]] = {
        REAL: {"s": 24, "color": ink, "linewidths": 0},
        GENERATED: {"s": 36, "color": ink, "linewidths": 1.2},
        TEST: {"s": 20, "facecolors": "none", "edgecolors": ink, "linewidths": 0.9},
    }
    return {"marker": KIND_MARKERS[kind], **styles[kind]}
