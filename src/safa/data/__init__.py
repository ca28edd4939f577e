"""Data sets, long-tailed subsets of them, and what their tails look like."""

from safa.data.counts import exponential_counts, step_counts
from safa.data.groups import shot_groups
from safa.data.longtail import draw_subset
from safa.data.sources import load_source
from safa.data.subset import Subset
from safa.data.types import Source, Split

__all__ = [
    "Source",
    "Split",
    "Subset",
    "draw_subset",
    "exponential_counts",
    "load_source",
    "shot_groups",
    "step_counts",
]
