"""What the tail of a data set looks like: in numbers, in the terminal, as a picture."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from safa.classes import HEAD_RATIO, by_count, head_classes
from safa.data.groups import shot_groups
from safa.errors import UserError
from safa.files import write_atomically

Group = Literal["many", "medium", "few"]

MAX_ROWS = 20
BAR_WIDTH = 40
# Blue, orange and vermilion of Okabe and Ito's palette, which colour-blind readers can tell apart.
COLOURS: dict[Group, str] = {"many": "#0072B2", "medium": "#E69F00", "few": "#D55E00"}
_EIGHTHS = " ▏▎▍▌▋▊▉"
_LABEL_WIDTH = 24
_LISTED_HEADS = 8


@dataclass(frozen=True)
class Description:
    """A class distribution in numbers.

    Attributes:
        class_names, class_counts: by class id.
        groups: ``many``, ``medium`` or ``few`` of each class.
        head_classes: names of the head classes, by decreasing count.
        head_ratio, many_above, few_below: the settings that made them so.
    """

    class_names: tuple[str, ...]
    class_counts: tuple[int, ...]
    groups: tuple[Group, ...]
    head_classes: tuple[str, ...]
    head_ratio: float
    many_above: int
    few_below: int

    @property
    def total(self) -> int:
        """Images of all classes."""
        return sum(self.class_counts)

    @property
    def imbalance_factor(self) -> float:
        """Largest over smallest class; infinite when a class has no image."""
        smallest = min(self.class_counts)
        return max(self.class_counts) / smallest if smallest else float("inf")

    @property
    def head_share(self) -> float:
        """Fraction of the images that belong to head classes."""
        largest_first = sorted(self.class_counts, reverse=True)
        return sum(largest_first[: len(self.head_classes)]) / max(self.total, 1)

    @property
    def ranking(self) -> tuple[int, ...]:
        """Class ids by decreasing count; equal counts by id."""
        return tuple(by_count(self.class_counts))

    def number(self, group: Group) -> int:
        """How many classes a group has."""
        return self.groups.count(group)


def describe(
    class_names: Sequence[str],
    class_counts: Sequence[int] | NDArray[np.int64],
    head_ratio: float = HEAD_RATIO,
    *,
    many_above: int = 100,
    few_below: int = 20,
) -> Description:
    """Put a class distribution into numbers.

    Args:
        class_names: one name per class.
        class_counts: training images per class, in the same order.
        head_ratio: fraction of the classes, by count, that are head.
        many_above, few_below: a class is many-shot above, few-shot below so many images, else medium.

    Raises:
        UserError: if there are not as many names as counts.
    """
    counts = np.asarray(class_counts, dtype=np.int64)
    if len(class_names) != len(counts):
        raise UserError(f"got {len(class_names)} class names for {len(counts)} class counts; give one per class")
    masks = shot_groups(counts, many_above=many_above, few_below=few_below)
    is_head = head_classes(counts.tolist(), head_ratio)
    return Description(
        class_names=tuple(class_names),
        class_counts=tuple(counts.tolist()),
        groups=tuple(_group_of(c, masks) for c in range(len(counts))),
        head_classes=tuple(class_names[c] for c in by_count(counts.tolist()) if is_head[c]),
        head_ratio=head_ratio,
        many_above=many_above,
        few_below=few_below,
    )


def render(description: Description) -> str:
    """A few lines of text and a bar plot of at most 20 rows, most frequent class first.

    With more classes a row is the mean of neighbours in that order. Bars are to scale.
    """
    rows = _rows(description)
    longest = max((label for label, _, _ in rows), key=len, default="")
    width = min(len(longest), _LABEL_WIDTH)
    top = max(max((count for _, count, _ in rows), default=0.0), 1.0)
    digits = len(f"{round(top):,}")
    bars = []
    for label, count, group in rows:
        plot = f"{_bar(count / top):<{BAR_WIDTH}} {group}"
        bars.append(f"{_shortened(label, width):<{width}} {round(count):>{digits},} {plot}")
    return "\n".join([*_summary(description), "", *bars])


def save_png(description: Description, path: str | Path) -> None:
    """Draw the class counts, most frequent first, on a logarithmic axis, coloured by group.

    Raises:
        UserError: if the file cannot be written.
    """
    # A figure of its own, without pyplot: no display is needed and nothing stays open.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    counts = np.array(description.class_counts)[list(description.ranking)]
    groups = np.array(description.groups)[list(description.ranking)]
    for group, colour in COLOURS.items():
        places = np.flatnonzero(groups == group)
        if places.size:
            label = f"{group}: {_bounds(description, group)} images, {_plural(places.size, 'class', 'classes')}"
            axes.bar(places, counts[places], width=1.0 if len(counts) > 50 else 0.85, color=colour, label=label)
    axes.axvline(len(description.head_classes) - 0.5, color="0.3", linewidth=1, linestyle="--", label="head | tail")
    axes.set_yscale("log")
    # A logarithmic axis has no zero to start from: leave the rarest class a bar that can be seen.
    axes.set_ylim(bottom=max(0.7, counts.min() / 3))
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.set(xlabel="classes, most frequent first", ylabel="training images", title=_summary(description)[0])
    if len(counts) <= MAX_ROWS:
        # Between two dollar signs matplotlib would read a formula.
        names = [_shortened(description.class_names[c], _LABEL_WIDTH).replace("$", r"\$") for c in description.ranking]
        axes.set_xticks(range(len(counts)), names, rotation=45, ha="right")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    drawn = io.BytesIO()
    with warnings.catch_warnings():
        # Names in scripts that matplotlib's own font lacks are boxes here; the numbers beside them are not.
        warnings.filterwarnings("ignore", message=r"(?s)Glyph .* missing from")
        figure.savefig(drawn, format="png", dpi=150)
    write_atomically(Path(path), drawn.getvalue())


def _summary(description: Description) -> list[str]:
    counts, heads = description.class_counts, description.head_classes
    sizes = [f"{description.number(group)} {group} ({_bounds(description, group)})" for group in COLOURS]
    names = ", ".join(_shortened(name, _LABEL_WIDTH) for name in heads[:_LISTED_HEADS])
    return [
        f"{description.total:,} images, {_plural(len(counts), 'class', 'classes')}, {max(counts):,} to "
        f"{min(counts):,} each, imbalance factor {description.imbalance_factor:.4g}",
        f"classes: {', '.join(sizes)}",
        f"head: {_plural(len(heads), 'class', 'classes')} with {description.head_share:.0%} of the images: "
        f"{names}{', …' if len(heads) > _LISTED_HEADS else ''}",
    ]


def _group_of(class_id: int, masks: dict[str, NDArray[np.bool_]]) -> Group:
    return next(group for group in COLOURS if masks[group][class_id])


def _bounds(description: Description, group: Group) -> str:
    few, many = description.few_below, description.many_above
    return {"many": f"> {many}", "medium": f"{few} to {many}", "few": f"< {few}"}[group]


def _rows(description: Description) -> list[tuple[str, float, str]]:
    """Label, mean count and groups of each row of the plot."""
    rows, first = [], 1
    for members in np.array_split(np.array(description.ranking), min(MAX_ROWS, len(description.ranking))):
        last = first + len(members) - 1
        label = description.class_names[members[0]] if len(members) == 1 else f"ranks {first} to {last}"
        groups = dict.fromkeys(description.groups[c] for c in members)
        rows.append((label, float(np.mean([description.class_counts[c] for c in members])), ", ".join(groups)))
        first = last + 1
    return rows


def _bar(fraction: float) -> str:
    eighths = round(fraction * BAR_WIDTH * 8)
    if fraction > 0:
        eighths = max(eighths, 1)  # a class with one image is not a class with none
    return ("█" * (eighths // 8) + _EIGHTHS[eighths % 8]).rstrip()


def _shortened(label: str, width: int) -> str:
    return label if len(label) <= width else label[: width - 1] + "…"


def _plural(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"
