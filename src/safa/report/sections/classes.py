"""Accuracy per class by frequency, and what changed per class against the baseline."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from safa.report import class_charts
from safa.report.comparison import Comparison
from safa.report.markup import absent, escaped, table
from safa.report.sections.pieces import coloured, method_keys
from safa.report.spread import EQUAL
from safa.report.svg import responsive

MOST_CLASSES_LISTED = 1000


def accuracy(comparison: Comparison) -> str:
    """Accuracy per class, sorted by frequency."""
    many_classes = len(comparison.counts) > class_charts.NAMED_CLASSES
    how = (
        "A point is a class, the line a running mean over a tenth of the classes."
        if many_classes
        else "In brackets the number of training images."
    )
    seeds = " Mean over the seeds of a method." if len(comparison.runs) > len(comparison.methods) else ""
    described = f"Accuracy of {', '.join(comparison.methods)} on every class, most frequent class first"
    chart = responsive(lambda width: class_charts.accuracy(comparison, width), described)
    return (
        f"{method_keys(comparison)}<figure>{chart}<figcaption>{how}{seeds}</figcaption></figure>"
        f"{_class_table(comparison)}"
    )


def _class_table(comparison: Comparison) -> str:
    order = comparison.order
    if len(order) > MOST_CLASSES_LISTED:
        return f'<p class="note">{len(order)} classes are too many to list; result.json has them all.</p>'
    columns = [comparison.accuracy(method) for method in comparison.methods]
    groups = comparison.group_of
    body = [
        [
            escaped(comparison.class_names[c]),
            f'<span class="{groups[c]}">{groups[c] or "–"}</span>',
            f"{comparison.counts[c]:,}",
            *(f"{column[c]:.1f}" if np.isfinite(column[c]) else "–" for column in columns),
        ]
        for c in order
    ]
    headings = ["class", "group", "images", *(escaped(method) for method in comparison.methods)]
    listing = table(headings, body, figures_from=2, style="")
    return f"<details><summary>Accuracy of every class in figures (%)</summary>{listing}</details>"


def changes(comparison: Comparison) -> str:
    """Accuracy per class minus the baseline's."""
    if comparison.baseline is None:
        return absent(f"only {comparison.methods[0]} is on this page; give a second method's run to compare with")
    others = [method for method in comparison.methods if method != comparison.baseline]
    described = f"Change of accuracy of {', '.join(others)} against {comparison.baseline} on every class"
    chart = responsive(lambda width: class_charts.changes(comparison, width), described)
    told = "".join(f"<li>{_told_changes(comparison, method)}</li>" for method in others)
    return (
        f"<p>Points of accuracy above or below {escaped(comparison.baseline)}, class by class, most frequent "
        f"first, over the seeds that both have. Bars take the colour of the group.</p>"
        f"<figure>{chart}</figure><ul>{told}</ul>"
    )


def _told_changes(comparison: Comparison, method: str) -> str:
    assert comparison.baseline is not None
    gain = comparison.gain(method)
    gain = np.where(np.abs(gain) < EQUAL, 0.0, gain)
    rare = gain[comparison.groups[comparison.rare_group]]
    up, down, same = (int(kind.sum()) for kind in (rare > 0, rare < 0, rare == 0))
    untested = len(rare) - up - down - same
    ranked = [int(c) for c in np.argsort(-np.nan_to_num(gain), kind="stable")]
    most = [c for c in ranked[:3] if gain[c] > 0]
    least = [c for c in ranked[::-1][:3] if gain[c] < 0]
    sentence = (
        f"<strong>{escaped(method)}</strong>: of {len(rare)} {comparison.rare_group}-shot classes {up} gain, "
        f"{down} lose, {same} stay{f', {untested} without test images' if untested else ''}."
    )
    gains = f" Largest gains: {_listed(comparison, most, gain)}." if most else ""
    losses = f" Largest losses: {_listed(comparison, least, gain)}." if least else ""
    return sentence + gains + losses


def _listed(comparison: Comparison, ids: Sequence[int], gain: np.ndarray) -> str:
    signed = [f"{gain[c]:+.1f}".replace("-", "−") for c in ids]
    return ", ".join(f"{coloured(comparison, c)} {text}" for c, text in zip(ids, signed, strict=True))
