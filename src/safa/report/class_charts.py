"""Charts over the classes by frequency, each for a width in CSS pixels: the tail, accuracy, change."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from safa.report.comparison import Comparison
from safa.report.runs import FloatArray, IntArray
from safa.report.svg import MARKERS, NARROW, blank, colour, shortened, themed

MOST_ABREAST = 3  # panels of a wide page; a title needs the width of a third
NAMED_CLASSES = 30  # up to so many, every class gets its own named line
MOST_BARS = 250  # above that, neighbours in frequency are averaged


def blocks(order: IntArray) -> list[IntArray]:
    """Class ids by frequency, in at most 250 blocks of neighbours."""
    return np.array_split(order, min(len(order), MOST_BARS))


@themed
def tail(comparison: Comparison, width: int) -> Figure:
    """Training images per class, largest first; groups shaded, head classes marked above where all runs agree."""
    order = comparison.order
    classes = len(order)
    named = classes <= NAMED_CLASSES
    figure = blank(width, 300 if not named or width > NARROW else 340)
    axes = figure.subplots()
    starts, heights = _steps(comparison.counts.astype(np.float64), order)
    for group in comparison.groups:
        inside = _inside(comparison, group, starts)
        # Gaps between few bars; the edge of many closes the seams that a browser leaves between them.
        gap, edge = (0.86, 0.0) if classes <= MOST_BARS / 2 else (1.0, 0.5)
        style: dict[str, Any] = {"color": colour(group), "edgecolor": colour(group), "linewidth": edge}
        width_of_bars = np.diff(starts)[inside] * gap
        axes.bar(starts[:-1][inside], heights[inside], width=width_of_bars, align="edge", **style)
    top = float(comparison.counts.max())
    _shade(axes, comparison, top * 1.3)
    if len(comparison.head_ratios) == 1:
        heads = int(comparison.head_classes().sum())
        axes.plot([0, heads], [top * 1.06] * 2, color=colour("ink"), linewidth=2, solid_capstyle="butt")
        axes.text(0, top * 1.085, f"head classes ({heads})", va="bottom", fontsize=11)
    axes.set(xlim=(0, classes), ylim=(0, top * 1.3), ylabel="training images")
    axes.grid(axis="y")
    _class_axis(axes, comparison, width, named)
    return figure


@themed
def accuracy(comparison: Comparison, width: int) -> Figure:
    """Accuracy per class, most frequent class first, one colour and marker per method."""
    if len(comparison.counts) <= NAMED_CLASSES:
        return _accuracy_named(comparison, width)
    return _accuracy_ranked(comparison, width)


def _accuracy_named(comparison: Comparison, width: int) -> Figure:
    order = comparison.order
    figure = blank(width, 24 * len(order) + 60)
    axes = figure.subplots()
    rows = np.arange(len(order))
    table = np.array([comparison.accuracy(method)[order] for method in comparison.methods])
    known = np.isfinite(table)
    low, high = np.where(known, table, np.inf).min(axis=0), np.where(known, table, -np.inf).max(axis=0)
    drawn = known.any(axis=0)
    axes.hlines(rows[drawn], low[drawn], high[drawn], color=colour("rule"), linewidth=3)
    for method, values in zip(comparison.methods, table, strict=True):
        index = comparison.ink(method)
        axes.plot(
            values,
            rows,
            MARKERS[comparison.shape(method)],
            color=colour(f"method-{index}"),
            markersize=7 if index else 11,  # the baseline behind the others shows where they are equal
            markeredgecolor=colour("paper"),
            markeredgewidth=0.8,
            clip_on=False,
        )
    _shade_rows(axes, comparison)
    axes.set(xlim=(0, 100), xlabel="accuracy (%)")
    axes.grid(axis="x")
    return figure


def _accuracy_ranked(comparison: Comparison, width: int) -> Figure:
    figure = blank(width, 380 if width > NARROW else 320)
    axes = figure.subplots()
    for method in comparison.methods:
        index = comparison.ink(method)
        starts, values = _steps(comparison.accuracy(method), comparison.order)
        middles = (starts[:-1] + starts[1:]) / 2
        ink = colour(f"method-{index}")
        axes.plot(
            middles, values, MARKERS[comparison.shape(method)], color=ink, alpha=0.38, markersize=4, markeredgewidth=0
        )
        axes.plot(middles, _running_mean(values), color=ink, linewidth=2.2)
    _shade(axes, comparison, 110)
    axes.set(xlim=(0, len(comparison.counts)), ylim=(0, 110), ylabel="accuracy (%)")
    axes.set_yticks(range(0, 101, 20))
    axes.grid(axis="y")
    _class_axis(axes, comparison, width, named=False)
    return figure


@themed
def changes(comparison: Comparison, width: int) -> Figure:
    """Accuracy less the baseline's per class, one panel per method, bars in the colour of the group."""
    assert comparison.baseline is not None
    others = [method for method in comparison.methods if method != comparison.baseline]
    gains = {method: comparison.gain(method) for method in others}
    largest = max(1.0, *(float(np.nanmax(np.abs(gain), initial=0)) for gain in gains.values())) * 1.08
    if len(comparison.counts) <= NAMED_CLASSES:
        return _changes_named(comparison, width, gains, largest)
    return _changes_ranked(comparison, width, gains, largest)


def _changes_named(comparison: Comparison, width: int, gains: Mapping[str, FloatArray], largest: float) -> Figure:
    columns = min(MOST_ABREAST, len(gains)) if width > NARROW else 1
    rows = -(-len(gains) // columns)
    height = 22 * len(comparison.counts) + 70
    figure = blank(width, height * rows)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    groups = comparison.group_of
    for axes in grid[len(gains) :]:
        axes.set_axis_off()
    for number, (axes, (method, gain)) in enumerate(zip(grid, gains.items(), strict=False)):
        inks = [colour(groups[class_id] or "muted") for class_id in comparison.order]
        axes.barh(np.arange(len(gain)), np.nan_to_num(gain[comparison.order]), height=0.7, color=inks)
        axes.axvline(0, color=colour("ink"), linewidth=0.8)
        axes.set(xlim=(-largest, largest), xlabel="points of accuracy", title=shortened(method, 34))
        axes.grid(axis="x")
        _shade_rows(axes, comparison, named=number % columns == 0)
    return figure


def _changes_ranked(comparison: Comparison, width: int, gains: Mapping[str, FloatArray], largest: float) -> Figure:
    figure = blank(width, (210 if width > NARROW else 190) * len(gains) + 30)
    grid = figure.subplots(len(gains), 1, squeeze=False, sharex=True).ravel()
    for number, (axes, (method, gain)) in enumerate(zip(grid, gains.items(), strict=True)):
        starts, values = _steps(gain, comparison.order)
        for group in comparison.groups:
            inside = _inside(comparison, group, starts)
            widths = np.diff(starts)[inside] * 0.8
            heights = np.nan_to_num(values[inside])
            axes.bar(starts[:-1][inside], heights, width=widths, align="edge", color=colour(group))
        axes.axhline(0, color=colour("ink"), linewidth=0.8)
        _shade(axes, comparison, largest * 1.2, labels=number == 0)
        axes.set(xlim=(0, len(gain)), ylim=(-largest, largest * 1.2), ylabel="points", title=shortened(method, 40))
        axes.grid(axis="y")
    _class_axis(grid[-1], comparison, width, named=False)
    return figure


def _steps(values: FloatArray, order: IntArray) -> tuple[FloatArray, FloatArray]:
    """Edges (b + 1,) on the axis of ranks and means (b,) of the blocks between them."""
    parts = blocks(order)
    edges = np.concatenate([[0], np.cumsum([len(part) for part in parts])]).astype(np.float64)
    known = [values[part][np.isfinite(values[part])] for part in parts]
    return edges, np.array([part.mean() if len(part) else np.nan for part in known])


def _inside(comparison: Comparison, group: str, edges: FloatArray) -> Any:
    first, last = _span(comparison, group)
    return (edges[:-1] >= first) & (edges[:-1] < last)


def _span(comparison: Comparison, group: str) -> tuple[int, int]:
    """The ranks a group spans; groups are cut by count, so they are contiguous."""
    ranks = np.flatnonzero(np.isin(comparison.order, comparison.groups[group]))
    return int(ranks.min()), int(ranks.max()) + 1


def _shade(axes: Any, comparison: Comparison, top: float, labels: bool = True) -> None:
    for group in comparison.groups:
        first, last = _span(comparison, group)
        axes.axvspan(first, last, color=colour(group), alpha=0.09, linewidth=0, zorder=0)
        if labels:
            middle = (first + last) / 2
            axes.text(middle, top * 0.985, group, ha="center", va="top", color=colour(group), weight="bold")


def _shade_rows(axes: Any, comparison: Comparison, *, named: bool = True) -> None:
    order = comparison.order
    for group in comparison.groups:
        first, last = _span(comparison, group)
        axes.axhspan(first - 0.5, last - 0.5, color=colour(group), alpha=0.09, linewidth=0, zorder=0)
    names = [f"{shortened(comparison.class_names[c], 18)} ({comparison.counts[c]})" for c in order]
    axes.set_yticks(range(len(order)), names if named else [""] * len(order))
    groups = comparison.group_of
    for label, class_id in zip(axes.get_yticklabels(), order, strict=True):
        label.set_color(colour(groups[class_id] or "ink"))
    axes.set_ylim(len(order) - 0.5, -0.5)
    axes.spines["left"].set_visible(False)


def _class_axis(axes: Any, comparison: Comparison, width: int, named: bool) -> None:
    if named:
        names = [shortened(comparison.class_names[c], 16) for c in comparison.order]
        steep = width <= NARROW
        axes.set_xticks(np.arange(len(names)) + 0.43, names, rotation=90 if steep else 40)
        for label in axes.get_xticklabels():
            label.set(
                horizontalalignment="center" if steep else "right",
                rotation_mode="anchor" if not steep else None,
            )
    else:
        averaged = len(comparison.counts) > MOST_BARS
        note = ", averaged over neighbours" if averaged else ""
        axes.set_xlabel(f"classes, most frequent first{note}")


def _running_mean(values: FloatArray) -> FloatArray:
    """Mean over a window of a tenth of the classes, narrower at both ends."""
    window = np.ones(max(5, len(values) // 10) | 1)
    known = np.isfinite(values)
    total = np.convolve(np.where(known, values, 0), window, mode="same")
    amount = np.convolve(known.astype(np.float64), window, mode="same")
    return total / np.where(amount > 0, amount, np.nan)
