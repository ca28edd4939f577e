"""Training images per class."""

from __future__ import annotations

from safa.report import class_charts
from safa.report.comparison import Comparison
from safa.report.headline import describe_group
from safa.report.markup import escaped, key, keys
from safa.report.svg import responsive


def tail(comparison: Comparison) -> str:
    """Training images per class."""
    counts = comparison.counts
    _, ratio = comparison.head_classes()
    text = (
        f"{counts.sum():,} training images in {len(counts)} classes; the largest class has {counts.max():,}, "
        f"the smallest {counts.min():,}. Head classes, from which SAFA takes its directions, are the largest "
        f"{100 * ratio:g} % of the classes by count."
    )
    chart = responsive(lambda width: class_charts.tail(comparison, width), "Training images per class, largest first")
    return f"<p>{escaped(text)}</p>{_group_keys(comparison)}<figure>{chart}</figure>"


def _group_keys(comparison: Comparison) -> str:
    return keys(
        key(
            f"{group}-shot",
            "s",
            group,
            group=describe_group(comparison, group).partition(" (")[2].rstrip(")"),
        )
        for group in comparison.groups
    )
