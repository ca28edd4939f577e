"""The paper's Fig. 1: where real, generated and test features lie."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from safa.classes import TEST
from safa.files import FEATURES
from safa.report import charts, embedding
from safa.report.comparison import Comparison
from safa.report.markup import absent, escaped, key, keys, panel
from safa.report.runs import Features
from safa.report.sections.pieces import in_focus, missing


def features(comparison: Comparison) -> str:
    """t-SNE of stored features, as the paper's Fig. 1."""
    gaps = missing(comparison.runs, FEATURES)
    stored = embedding.stored(comparison, in_focus(comparison))
    if not stored:
        return absent(f"no picture of the features: {gaps or 'no features are stored'}")
    heads, tails = embedding.shown_classes(comparison)
    inks = embedding.inks(heads, tails)
    panels = "".join(_embedding_panel(method, found, inks) for method, found in stored.items())
    caption = (
        "t-SNE of the penultimate features, each network by itself, its first seed; at most 100 features per "
        "class and kind. Distances between panels mean nothing. Shown are the largest head classes, and the "
        "tail classes with the most generated features."
    )
    note = absent(f"without {gaps}") if gaps else ""
    return (
        f'{_class_keys(comparison, heads, inks)}<div class="panels">{panels}</div><p class="note">{caption}</p>{note}'
    )


def _class_keys(comparison: Comparison, heads: Sequence[int], inks: Mapping[int, str]) -> str:
    entries = []
    for class_id, ink in inks.items():
        role = f"{'head' if class_id in heads else 'tail'}, {comparison.counts[class_id]:,} images"
        entries.append(key(comparison.class_names[class_id], "o", ink, group=role))
    kinds = [key(name, charts.KIND_MARKERS[kind], "ink", hollow=kind == TEST) for kind, name in embedding.KINDS.items()]
    return keys(entries) + keys(kinds)


def _embedding_panel(method: str, found: Features, inks: Mapping[int, str]) -> str:
    drawn = embedding.embed(found, list(inks))
    if isinstance(drawn, str):
        return f"<figure><h3>{escaped(method)}</h3>{absent(drawn)}</figure>"
    return panel(method, charts.features(drawn, inks), f"t-SNE of the features of {method}")
