"""Training curves: one figure of the log over epochs, mean and range over the seeds of a method."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from safa.report.comparison import Comparison
from safa.report.lines import Line
from safa.report.runs import FloatArray, Run

Figure = Callable[[Line], object]

DIAGNOSTICS = {
    "delta_size": "adapted delta / tail feature, mean size",
    "delta_cosine": "cosine of delta and adapted delta",
    "pair_accuracy_real": "Q right on real pairs (%)",
    "pair_accuracy_generated": "Q right on pairs with a generated one (%)",
    "assigned_real": "real rows given their class (%)",
    "assigned_generated": "generated rows given their class (%)",
    "reach": "share of the way that generated rows go",
    "images_weighing": "images that a step learns from, in effect (%)",
}


@dataclass(frozen=True)
class Curve:
    """One figure over epochs, shape (epochs,) each.

    Attributes:
        epochs: epochs done, so the last is the length of the run.
        mean, low, high: over the seeds that logged the figure at that epoch.
    """

    epochs: FloatArray
    mean: FloatArray
    low: FloatArray
    high: FloatArray


@dataclass(frozen=True)
class Panel:
    """The curves of all methods for one figure.

    Attributes:
        title: what is drawn.
        curves: method -> curve, for the methods that logged it.
        logarithmic: whether the axis is.
    """

    title: str
    curves: dict[str, Curve]
    logarithmic: bool = False


def panels(comparison: Comparison) -> list[Panel]:
    """The panels worth drawing: test error, error of the rare classes, loss, its terms, learning rate."""
    group = comparison.rare_group
    wanted: list[tuple[str, Figure, bool]] = [
        ("test error, all classes (%)", lambda line: _inside(line, "test", "error"), False),
        (
            f"test error, {group}-shot classes (%)",
            lambda line: _inside(line, "test", f"error_{group}"),
            False,
        ),
        ("training loss", lambda line: line.get("loss"), False),
    ]
    wanted += [
        (f"term: {term.replace('_', ' ')}", _logged("terms", term), False) for term in _names(comparison, "terms")
    ]
    wanted.append(("learning rate", lambda line: line.get("lr"), True))
    drawn = [Panel(title, _curves(comparison, figure), log) for title, figure, log in wanted]
    return [panel for panel in drawn if panel.curves]


def diagnostics(comparison: Comparison) -> list[Panel]:
    """A panel for each diagnostic that was logged."""
    names = _names(comparison, "diagnostics")
    figures = {DIAGNOSTICS.get(name, name.replace("_", " ")): _logged("diagnostics", name) for name in names}
    drawn = [Panel(title, _curves(comparison, figure)) for title, figure in figures.items()]
    return [panel for panel in drawn if panel.curves]


def boundaries(comparison: Comparison) -> list[tuple[int, str]]:
    """Where stages begin after the first: (epochs done before, the stages' names), over all methods."""
    names: dict[int, dict[str, None]] = {}
    for run in comparison.runs:
        for before, after in zip(run.log, run.log[1:], strict=False):
            if after.get("stage") != before.get("stage"):
                names.setdefault(int(after["epoch"]), {})[_stage_name(after.get("stage"))] = None
    return [(epoch, " / ".join(names[epoch])) for epoch in sorted(names)]


def _stage_name(stage: object) -> str:
    # Trainers log an index from 0.
    return f"stage {stage + 1}" if isinstance(stage, int) else str(stage)


def _names(comparison: Comparison, part: str) -> list[str]:
    return list(dict.fromkeys(name for run in comparison.runs for line in run.log for name in _mapping(line, part)))


def _logged(part: str, name: str) -> Figure:
    return lambda line: _inside(line, part, name)


def _inside(line: Line, part: str, key: str) -> object:
    return _mapping(line, part).get(key)


def _mapping(line: Line, part: str) -> Line:
    """A part of a line of the log; empty where there is none."""
    inner = line.get(part)
    return inner if isinstance(inner, dict) else {}


def _curves(comparison: Comparison, figure: Figure) -> dict[str, Curve]:
    curves = {method: curve(comparison.runs_of(method), figure) for method in comparison.methods}
    return {method: drawn for method, drawn in curves.items() if drawn is not None}


def curve(runs: Sequence[Run], figure: Figure) -> Curve | None:
    """Gather one figure over the epochs of several seeds; None where nothing was logged."""
    by_epoch: dict[int, list[float]] = {}
    for run in runs:
        for line in run.log:
            value = figure(line)
            if isinstance(value, int | float) and np.isfinite(value):
                by_epoch.setdefault(int(line["epoch"]) + 1, []).append(float(value))
    if not by_epoch:
        return None
    epochs = sorted(by_epoch)
    return Curve(
        epochs=np.array(epochs, dtype=np.float64),
        mean=np.array([np.mean(by_epoch[epoch]) for epoch in epochs]),
        low=np.array([min(by_epoch[epoch]) for epoch in epochs]),
        high=np.array([max(by_epoch[epoch]) for epoch in epochs]),
    )
