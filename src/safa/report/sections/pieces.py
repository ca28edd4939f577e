"""What several sections share: the methods' legend, a class name in its colour, which files are missing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from safa.report.comparison import Comparison
from safa.report.curves import Panel
from safa.report.markup import escaped, key, keys
from safa.report.runs import Run
from safa.report.svg import MARKERS

MOST_PANELS = 4


def method_keys(comparison: Comparison, methods: Sequence[str] | None = None) -> str:
    entries = []
    for method in comparison.methods if methods is None else methods:
        index = comparison.ink(method)
        role = "baseline" if method == comparison.baseline else ""
        entries.append(key(method, MARKERS[comparison.shape(method)], f"method-{index}", group=role))
    return keys(entries)


def coloured(comparison: Comparison, class_id: int) -> str:
    group = comparison.group_of[class_id]
    return f'<span class="{group}">{escaped(comparison.class_names[class_id])}</span>'


def in_focus(comparison: Comparison) -> list[str]:
    """The methods there is room for: the baseline and those with the lowest error on the rare classes."""
    if len(comparison.methods) <= MOST_PANELS:
        return list(comparison.methods)
    rows = {row.label: getattr(row, comparison.rare_group) for row in comparison.rows}
    others = [method for method in comparison.methods if method != comparison.baseline]
    others.sort(key=lambda method: rows[method].mean if rows[method] else np.inf)
    chosen = {comparison.baseline, *others[: MOST_PANELS - 1]}
    return [method for method in comparison.methods if method in chosen]


def over_epochs(panels: Sequence[Panel]) -> str:
    """What the curves of these panels show of whom, for readers who do not see them."""
    methods = dict.fromkeys(method for panel in panels for method in panel.curves)
    return f"Over the epochs of {', '.join(methods)}: {'; '.join(panel.title for panel in panels)}"


def missing(runs: Sequence[Run], file: str) -> str:
    """``LDAM-0 (the run wrote no log.jsonl), …`` for the runs that lack the file."""
    return "; ".join(f"{run.name} ({run.missing[file]})" for run in runs if file in run.missing)
