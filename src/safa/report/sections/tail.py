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
    text = (
        f"{counts.sum():,} training images in {len(counts)} classes; the largest class has {counts.max():,}, "
        f"the smallest {counts.min():,}. Head classes, from which SAFA takes its directions, are {_heads(comparison)}."
    )
    described = f"Training images of {len(counts)} classes, from {counts.max():,} to {counts.min():,}, largest first"
    chart = responsive(lambda width: class_charts.tail(comparison, width), described)
    return f"<p>{escaped(text)}</p>{_group_keys(comparison)}<figure>{chart}</figure>"


def _heads(comparison: Comparison) -> str:
    """Their share, with the methods that take it where it is not that of all."""
    (ratio, _), *others = comparison.head_ratios.items()
    if not others:
        return f"the largest {100 * ratio:g} % of the classes by count"
    shares = [f"{100 * ratio:g} % in {', '.join(methods)}" for ratio, methods in comparison.head_ratios.items()]
    return f"the largest classes by count: {'; '.join(shares)}"


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
