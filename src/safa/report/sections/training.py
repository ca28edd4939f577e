"""Test error, loss terms and learning rate over epochs."""

from __future__ import annotations

from safa.files import LOG
from safa.report import charts, curves
from safa.report.comparison import Comparison
from safa.report.markup import absent
from safa.report.sections.pieces import method_keys, missing, over_epochs
from safa.report.svg import responsive


def training(comparison: Comparison) -> str:
    """Test error, loss terms and learning rate over epochs."""
    panels = curves.panels(comparison)
    gaps = missing(comparison.runs, LOG)
    if not panels:
        return absent(f"no curves: {gaps or 'the logs hold no figures'}")
    stages = curves.boundaries(comparison)
    chart = responsive(lambda width: charts.training(comparison, panels, stages, width), over_epochs(panels))
    caption = (
        "Lines are means over the seeds of a method, bands span lowest to highest seed, the dot is the last "
        "epoch. A dotted line marks where a stage begins. Terms are shown before weighting. The test error "
        "is only watched."
    )
    note = absent(f"without {gaps}") if gaps else ""
    return f"{method_keys(comparison)}<figure>{chart}<figcaption>{caption}</figcaption></figure>{note}"
