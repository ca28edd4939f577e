"""Generated features in figures: who takes them for their class, where they lie, what they do to batch norm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from safa.report import charts, curves
from safa.report.comparison import Comparison
from safa.report.markup import absent, escaped, figure, table
from safa.report.runs import Diagnostics
from safa.report.sections.pieces import method_keys, missing
from safa.report.spread import spread
from safa.report.svg import responsive

KINDS = {"generated": "generated", "training": "training images", "test": "test images"}
COLUMNS = {
    "assigned": "network (%)",
    "nearest_mean": "nearest mean (%)",
    "distance_ratio": "own / other",
    "layer_nearest_mean": "at the layer: nearest mean (%)",
    "layer_distance_ratio": "own / other",
}
EXPLAINED = (
    "Of unaugmented images of the classes that features are generated of, in brackets how many; every class counts "
    "alike. <em>Network</em> and <em>nearest mean</em> are the share given its own class by the network, and by the "
    "nearest class mean of the test features. <em>Own / other</em> is the distance to the nearest test feature of the "
    "own class over that to the nearest of another (geometric mean; less is nearer to the own). Neither network nor "
    "augmenter has seen a test feature, and none judges itself: where augmentation recovers the test distribution, "
    "generated features have the figures of test images. The first three are of what enters the classifier, the "
    "others of what enters the augmented layer, averaged over positions."
)
NORMED = {"shift": "shift of means", "factor": "factor on deviations"}
NORMED_EXPLAINED = (
    "Of the batches that the batch norms after the generated rows work with: the shift of a channel's mean, in "
    "deviations of the real rows alone, and the factor on its deviation; means over channels."
)

Stored = Mapping[str, Sequence[Diagnostics]]


def generated(comparison: Comparison) -> str:
    """Figures on generated features: at the end of training, and over its epochs."""
    stored = {
        method: found
        for method in comparison.methods
        if (found := [run.diagnostics for run in comparison.runs_of(method) if run.diagnostics is not None])
    }
    gaps = missing(comparison.runs, "diagnostics.json")
    parts = (_end(stored, list(comparison.groups)) if stored else "") + _epochs(comparison)
    note = absent(f"without {gaps}") if gaps else ""
    return parts + note or absent("no run on this page has figures on generated features")


def _end(stored: Stored, groups: Sequence[str]) -> str:
    return (
        f'{_listing(stored, ["all"])}<p class="note">{EXPLAINED}</p>'
        f"<details><summary>The same by group of classes</summary>{_listing(stored, groups)}</details>"
        f"<details><summary>What they do to batch norm, layer by layer</summary>{_batch_norm(stored)}</details>"
    )


def _listing(stored: Stored, groups: Sequence[str]) -> str:
    rows = []
    for method, found in stored.items():
        for kind, title in KINDS.items():
            name = f"{escaped(method)}: {title}"
            for group in groups:
                figures = [each.figures.get(kind, {}).get(group, {}) for each in found]
                cells = [figure(spread([known.get(column) for known in figures])) for column in COLUMNS]
                if group == "all":
                    rows.append([f"{name} ({sum(each.rows.get(kind, 0) for each in found):,})", *cells])
                elif set(cells) != {figure(None)}:
                    rows.append([f'{name}, <span class="{group}">{group}</span>', *cells])
    return table(["features", *COLUMNS.values()], rows, figures_from=1)


def _batch_norm(stored: Stored) -> str:
    rows = []
    for method, found in stored.items():
        for layer in dict.fromkeys(layer for each in found for layer in each.batch_norm):
            figures = [each.batch_norm.get(layer, {}) for each in found]
            cells = [figure(spread([known.get(column) for known in figures]), digits=3) for column in NORMED]
            rows.append([f"{escaped(method)}: {escaped(layer)}", *cells])
    listing = table(["batch norm", *NORMED.values()], rows, figures_from=1)
    return f'{listing}<p class="note">{NORMED_EXPLAINED}</p>'


def _epochs(comparison: Comparison) -> str:
    panels = curves.diagnostics(comparison)
    if not panels:
        return ""
    methods = [method for method in comparison.methods if any(method in panel.curves for panel in panels)]
    chart = responsive(lambda width: charts.training(comparison, panels, (), width), "Diagnostics by epoch")
    caption = "In training, on augmented images: means over the steps of an epoch. The band spans the seeds."
    return (
        f"<h3>Epoch by epoch</h3>{method_keys(comparison, methods)}"
        f"<figure>{chart}<figcaption>{caption}</figcaption></figure>"
    )
