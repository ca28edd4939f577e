"""Generated features in figures: who takes them for their class, where they lie, what they do to batch norm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from safa.report import charts, curves
from safa.report.comparison import Comparison
from safa.report.diagnostics import (
    COLUMNS,
    EXPLAINED,
    KINDS,
    NORM_COLUMNS,
    NORM_EXPLAINED,
    Diagnostics,
    amount,
    diagnostics,
    figures,
)
from safa.report.markup import absent, escaped, figure, table
from safa.report.sections.pieces import method_keys, over_epochs
from safa.report.spread import spread
from safa.report.svg import responsive

Stored = Mapping[str, Sequence[Diagnostics]]

LARGEST_DELTA = 10  # in sizes of the features; about 1 where the modules learn


def generated(comparison: Comparison) -> str:
    """Figures on generated features: at the end of training, and over its epochs."""
    stored: dict[str, list[Diagnostics]] = {}
    for method in comparison.methods:
        found = [known for run in comparison.runs_of(method) if (known := diagnostics(run.result)) is not None]
        if found:
            stored[method] = found
    end = _end(stored, list(comparison.groups)) if stored else ""
    parts = _astray(comparison) + end + _epochs(comparison)
    return parts or absent("no run on this page has figures on generated features")


def _astray(comparison: Comparison) -> str:
    """Word of modules that have diverged: the loss of the network may look well beside the noise that they make."""
    title = curves.DIAGNOSTICS["delta_size"]
    sizes = [panel.curves for panel in curves.diagnostics(comparison) if panel.title == title]
    last = {method: float(curve.mean[-1]) for found in sizes for method, curve in found.items()}
    return "".join(
        f"<p><strong>The modules of {escaped(method)} have diverged</strong>: in the last epoch adapted deltas are "
        f"{size:,.0f} times as large as the features that they are added to, so what is generated is noise. Lower "
        f"their rate, <code>augmenter.lr_scale</code>, or the weights of their terms.</p>"
        for method, size in last.items()
        if size > LARGEST_DELTA
    )


def _end(stored: Stored, groups: Sequence[str]) -> str:
    return (
        f'{_listing(stored, ["all"])}<p class="note">{" ".join(EXPLAINED)}</p>'
        f"<details><summary>The same by group of classes</summary>{_listing(stored, groups)}</details>"
        f"<details><summary>What they do to batch norm, layer by layer</summary>{_batch_norm(stored)}</details>"
    )


def _listing(stored: Stored, groups: Sequence[str]) -> str:
    rows = []
    for method, found in stored.items():
        for kind, title in KINDS.items():
            name = f"{escaped(method)}: {title}"
            for group in groups:
                cells = figures(found, kind, group)
                if group == "all":
                    rows.append([f"{name} ({amount(found, kind):,})", *map(figure, cells)])
                elif any(cells):
                    rows.append([f'{name}, <span class="{group}">{group}</span>', *map(figure, cells)])
    return table(["features", *COLUMNS.values()], rows, figures_from=1)


def _batch_norm(stored: Stored) -> str:
    rows = []
    for method, found in stored.items():
        for layer in dict.fromkeys(layer for each in found for layer in each.batch_norm):
            known = [each.batch_norm.get(layer, {}) for each in found]
            cells = [figure(spread([values.get(column) for values in known]), digits=3) for column in NORM_COLUMNS]
            rows.append([f"{escaped(method)}: {escaped(layer)}", *cells])
    listing = table(["layer", *NORM_COLUMNS.values()], rows, figures_from=1)
    return f'{listing}<p class="note">{NORM_EXPLAINED}.</p>'


def _epochs(comparison: Comparison) -> str:
    panels = curves.diagnostics(comparison)
    if not panels:
        return ""
    methods = [method for method in comparison.methods if any(method in panel.curves for panel in panels)]
    chart = responsive(lambda width: charts.training(comparison, panels, (), width), over_epochs(panels))
    caption = "In training, on augmented images: means over the steps of an epoch. The band spans the seeds."
    return (
        f"<h3>Epoch by epoch</h3>{method_keys(comparison, methods)}"
        f"<figure>{chart}<figcaption>{caption}</figcaption></figure>"
    )
