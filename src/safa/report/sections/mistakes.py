"""What the rare classes are mistaken for."""

from __future__ import annotations

import numpy as np

from safa.files import PREDICTIONS
from safa.report import charts, confusion
from safa.report.comparison import Comparison
from safa.report.headline import describe_group
from safa.report.markup import absent, escaped, key, keys, panel, table
from safa.report.sections.pieces import coloured, in_focus, missing
from safa.report.svg import responsive


def mistakes(comparison: Comparison) -> str:
    """What the rare classes are mistaken for."""
    classes = confusion.rare_classes(comparison)
    found = {
        method: confusion.mistakes(comparison.runs_of(method), classes, len(comparison.counts))
        for method in in_focus(comparison)
    }
    drawn = {method: part for method, part in found.items() if part is not None}
    gaps = missing(comparison.runs, PREDICTIONS)
    if not drawn:
        return absent(f"no confusions: {gaps or 'no predictions are stored'}")
    note = absent(f"without {gaps}") if gaps else ""
    return _destinations(comparison) + _matrices(comparison, drawn) + _mistake_table(comparison, drawn) + note


def _destinations(comparison: Comparison) -> str:
    shares = {method: confusion.destinations(comparison, method) for method in comparison.methods}
    known = {method: share for method, share in shares.items() if share is not None}
    if not known:
        return absent(f"no test image belongs to the {comparison.rare_group}-shot classes")
    group = describe_group(comparison, comparison.rare_group)
    described = f"Where the test images of {group} go with {', '.join(known)}"
    chart = responsive(lambda width: charts.destinations(known, width), described)
    names = [key("right", "s", "right")]
    for name in reversed(comparison.groups):
        wrong = f"another {name}-shot class" if name == comparison.rare_group else f"a {name}-shot class"
        names.append(key(f"taken for {wrong}", "s", name))
    return f"<p>Where the test images of {escaped(group)} go.</p>{keys(names)}<figure>{chart}</figure>"


def _matrices(comparison: Comparison, drawn: dict[str, confusion.Mistakes]) -> str:
    panels = "".join(
        panel(method, charts.mistaken(comparison, found), f"Confusion matrix of {method}")
        for method, found in drawn.items()
    )
    rows = len(next(iter(drawn.values())).classes)
    which = "classes" if comparison.rarest_is_tested else f"{comparison.rare_group}-shot classes"
    caption = (
        f"The {rows} rarest {which} by row, what they are taken for by column. Grey is right, colour is the "
        "group of the mistake; the fuller, the larger the share of the row."
    )
    focus = in_focus(comparison)
    left_out = [method for method in comparison.methods if method not in focus]
    more = f" Only in the bars above: {escaped(', '.join(left_out))}." if left_out else ""
    return f'<div class="panels">{panels}</div><p class="note">{caption}{more}</p>'


def _mistake_table(comparison: Comparison, drawn: dict[str, confusion.Mistakes]) -> str:
    headings = ["class", "images", *(escaped(method) for method in drawn)]
    classes = next(iter(drawn.values())).classes
    body = [
        [
            coloured(comparison, class_id),
            f"{comparison.counts[class_id]:,}",
            *(_mistake_cell(comparison, found, row) for found in drawn.values()),
        ]
        for row, class_id in enumerate(classes.tolist())
    ]
    listing = table(headings, body, style="full stack")
    title = "Share right, and the most common mistakes, class by class (%)"
    return f"<details open><summary>{title}</summary>{listing}</details>"


def _mistake_cell(comparison: Comparison, found: confusion.Mistakes, row: int) -> str:
    right = found.share[row, found.classes[row]]
    if not np.isfinite(right):
        return '<span class="share">no test image</span>'
    common = [
        f'{coloured(comparison, class_id)} <span class="share">({share:.0f})</span>'
        for class_id, share in found.most_common(row)
    ]
    return f"<strong>{right:.0f}</strong> · {', '.join(common) or 'no mistake'}"
