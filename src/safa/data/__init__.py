"""Data sets, long-tailed subsets of them, and what their tails look like."""

from safa.data.longtail import Subset, draw_subset, exponential_counts, head_classes, shot_groups, step_counts
from safa.data.sources import load_source
from safa.data.types import Source, Split

__all__ = [
    "Source",
    "Split",
    "Subset",
    "draw_subset",
    "exponential_counts",
    "head_classes",
    "load_source",
    "shot_groups",
    "step_counts",
]
