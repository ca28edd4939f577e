"""The paper's Fig. 1 as one picture: the features of several runs side by side."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from safa.classes import TEST
from safa.errors import UserError
from safa.files import write_atomically
from safa.report import charts, embedding
from safa.report.comparison import Comparison, compare
from safa.report.embedding import Embedding
from safa.report.runs import read_run
from safa.report.svg import WIDE, blank, colour, shortened, standalone, themed

COLUMNS = 3
ACROSS = 34  # letters of a method's name that fit above a panel


def write_features(runs: Sequence[Path | str], output: Path | str) -> Path:
    """Draw a t-SNE of the features that each method's first run stored, a panel each, as an SVG file.

    Args:
        runs: run folders of one data set, imbalance factor and network.
        output: the SVG file, replaced as a whole.

    Raises:
        UserError: if a run cannot be read, the runs do not belong in one picture, none stored enough features, or
            the file cannot be written.
    """
    comparison = compare([read_run(run) for run in runs])
    found = embedding.stored(comparison, comparison.methods)
    if not found:
        raise UserError("no run stored features, so there is nothing to draw; features.npz is written when a run ends")
    inks = embedding.inks(*embedding.shown_classes(comparison))
    panels = {method: embedding.embed(features, list(inks)) for method, features in found.items()}
    drawn = {method: panel for method, panel in panels.items() if isinstance(panel, Embedding)}
    if not drawn:
        raise UserError("; ".join(f"{method}: {reason}" for method, reason in panels.items()))
    place = f"{comparison.first['dataset']}, factor {comparison.first['imbalance_factor']:g}"
    described = f"t-SNE of what enters the classifier, {place}: {', '.join(drawn)}"
    write_atomically(Path(output), standalone(_drawn(comparison, drawn, inks), described).encode())
    return Path(output)


@themed
def _drawn(comparison: Comparison, panels: Mapping[str, Embedding], inks: Mapping[int, str]) -> Figure:
    columns = min(COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    figure = blank(WIDE, rows * (WIDE / columns + 20) + 60)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid[len(panels) :]:
        axes.set_visible(False)
    for axes, (method, panel) in zip(grid, panels.items(), strict=False):
        charts.scatter(axes, panel, inks)
        axes.set_title(textwrap.fill(shortened(method, 2 * ACROSS), ACROSS))
    figure.legend(handles=_keys(comparison, inks), loc="outside lower center", ncols=4, frameon=False, fontsize=10)
    return figure


def _keys(comparison: Comparison, inks: Mapping[int, str]) -> list[Line2D]:
    """Of the classes, with their numbers of training images, and of the kinds of rows."""
    classes = [
        (f"{name}, {comparison.counts[class_id]:,} images", "o", colour(ink), colour(ink))
        for class_id, ink in inks.items()
        for name in [shortened(comparison.class_names[class_id], 16)]
    ]
    kinds = [
        (name, charts.KIND_MARKERS[kind], colour("ink"), "none" if kind == TEST else colour("ink"))
        for kind, name in embedding.KINDS.items()
    ]
    return [
        Line2D([], [], linestyle="none", marker=marker, label=name, markeredgecolor=ink, markerfacecolor=fill)
        for name, marker, ink, fill in classes + kinds
    ]
