"""What result lines say of generated features: read, put in rows, and drawn as a GitHub table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from safa.errors import UserError
from safa.report import github
from safa.report.distinctions import by_seed, changes_note, grouped, without_shared_changes
from safa.report.lines import Line
from safa.report.spread import Spread, spread

KINDS = {"generated": "generated", "training": "training images", "test": "test images"}
COLUMNS = {
    "assigned": "network (%)",
    "nearest_mean": "nearest mean (%)",
    "distance_ratio": "own / other",
    "layer_nearest_mean": "at the layer: nearest mean (%)",
    "layer_distance_ratio": "own / other",
}
NORM_COLUMNS = {"shift": "batch norm: shift of means", "factor": "factor on deviations"}
EXPLAINED = (
    "Of unaugmented images of the classes that features are generated of, in brackets how many; classes count alike.",
    "Network and nearest mean: the share given its own class by the network, and by the nearest class mean of the test "
    "features.",
    "Own / other: distance to the nearest test feature of the own class over that to the nearest of another (geometric "
    "mean; less is nearer to the own).",
    "Neither network nor augmenter has seen a test feature, and none judges itself: where augmentation recovers the "
    "test distribution, generated features have the figures of test images.",
    "The first three are of what enters the classifier, the next two of what enters the augmented layer, averaged over "
    "positions.",
)
NORM_EXPLAINED = (
    "Of the batches that the batch norms after the generated rows work with: the shift of a channel's mean, in "
    "deviations of the real rows alone, and the factor on its deviation; means over channels"
)


@dataclass(frozen=True)
class Diagnostics:
    """What a run that generates rows says of them.

    Attributes:
        rows: kind of rows -> how many were looked at.
        figures: kind -> group of classes, or ``all`` -> figure -> value, None where there was nothing to measure.
        batch_norm: layer -> ``shift`` of its batch means and ``factor`` on its deviations.
    """

    rows: dict[str, int]
    figures: dict[str, dict[str, dict[str, float | None]]]
    batch_norm: dict[str, dict[str, float | None]]


def diagnostics(line: Line) -> Diagnostics | None:
    """What a result line says of generated features; None where its run generates none.

    Raises:
        UserError: if it is not what a run writes.
    """
    stored = line.get("diagnostics")
    if stored is None:
        return None
    try:
        return Diagnostics(
            rows={kind: int(amount) for kind, amount in stored["rows"].items()},
            figures={
                kind: {group: _numbers(figures) for group, figures in by_group.items()}
                for kind, by_group in stored["figures"].items()
            },
            batch_norm={layer: _numbers(figures) for layer, figures in stored["batch_norm"].items()},
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"the diagnostics in the result line of {line['method']}, seed {line['seed']}, are broken "
            f"({type(error).__name__}: {error}); delete them, or run it again"
        ) from None


def amount(found: Iterable[Diagnostics], kind: str) -> int:
    """How many rows of a kind were looked at, in all seeds."""
    return sum(each.rows.get(kind, 0) for each in found)


def figures(found: Iterable[Diagnostics], kind: str, group: str) -> list[Spread | None]:
    """The columns' figures over seeds, of one kind of rows and one group of classes, or ``all``."""
    known = [each.figures.get(kind, {}).get(group, {}) for each in found]
    return [spread([values.get(column) for values in known]) for column in COLUMNS]


def batch_norm(found: Iterable[Diagnostics]) -> list[Spread | None]:
    """What generated rows do to batch norm: its columns' figures over seeds, each the mean over layers."""
    layers = [each.batch_norm.values() for each in found]
    return [spread([_mean(layer.get(column) for layer in of_seed) for of_seed in layers]) for column in NORM_COLUMNS]


def to_markdown(lines: Iterable[Line]) -> str:
    """Draw what lines say of generated features as a GitHub table with its notes; empty where they say nothing.

    What was changed in all lines stands in a note, and not in every name.
    """
    body = []
    named, changed = without_shared_changes(list(lines))
    for (dataset, factor, model), methods in grouped(named).items():
        for label, group in methods.items():
            found = [known for line in by_seed(group).values() if (known := diagnostics(line)) is not None]
            for kind in KINDS if found else ():
                place = dataset, f"{factor:g}", model, label, f"{KINDS[kind]} ({amount(found, kind):,})"
                normed = batch_norm(found if kind == "generated" else ())
                body.append([*place, *_cells(figures(found, kind, "all"), 2), *_cells(normed, 3)])
    if not body:
        return ""
    names = ("data set", "network", "method", "features")
    table = github.table((names[0], "factor", *names[1:], *COLUMNS.values(), *NORM_COLUMNS.values()), body, left=names)
    return f"{table}\n\n{github.notes([*EXPLAINED, f'{NORM_EXPLAINED} and layers.', *changes_note(changed)])}"


def _mean(figures: Iterable[float | None]) -> float | None:
    known = spread(list(figures))
    return known.mean if known else None


def _cells(spreads: Iterable[Spread | None], digits: int) -> list[str]:
    return [each.text(digits) if each else "–" for each in spreads]


def _numbers(figures: Mapping[str, Any]) -> dict[str, float | None]:
    return {name: None if value is None else float(value) for name, value in figures.items()}
