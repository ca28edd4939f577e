"""Result lines -> differences of two methods, seed by seed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from safa.errors import UserError
from safa.report.distinctions import (
    Block,
    block_of,
    by_seed,
    grouped,
    labels,
    precision_of,
    shorter_label,
    without_precision,
    without_shared_changes,
)
from safa.report.lines import Line
from safa.report.spread import Difference, difference

# What else a difference should hold fixed, with the line's key for it; early lines have not all of them.
_ALIKE = {"precision": "precision", "training images": "subset_sha256", "images": "images_sha256"}


@dataclass(frozen=True)
class Paired:
    """A method against a baseline over the seeds both have: differences of errors, so negative is better.

    Attributes:
        method, baseline: labels of the two rows.
        seeds: the common seeds; empty when there is none, and then every difference is None.
        many, medium, few: None, too, where the two do not mean the same classes by it.
        unlike: what runs of one seed differ in besides, of ``precision``, ``training images`` (which of them) and
            ``images`` (the data set's): part of a difference may come from it.
    """

    dataset: str
    imbalance_factor: float
    model: str
    method: str
    baseline: str
    seeds: tuple[int, ...]
    last: Difference | None
    many: Difference | None
    medium: Difference | None
    few: Difference | None
    unlike: tuple[str, ...] = ()


def paired(lines: Iterable[Line], baseline: str) -> list[Paired]:
    """Compare every other method with ``baseline``, seed by seed, wherever the baseline was run.

    Changes to the recipe that all lines share are in no name.

    Args:
        baseline: a method, or a label with its variant where the method alone is ambiguous.

    Raises:
        UserError: if no line belongs to the baseline, with the names there are.
    """
    lines = list(lines)
    baseline, blocks = shorter_label(baseline, lines), grouped(without_shared_changes(lines)[0])
    if not any(baseline in methods for methods in blocks.values()):
        known = ", ".join(sorted({label for methods in blocks.values() for label in methods}))
        raise UserError(f"no result of the baseline {baseline!r}; there are {known or 'no results'}")
    return [
        pair for block, methods in blocks.items() if baseline in methods for pair in _pairs(block, methods, baseline)
    ]


def paired_with_first(lines: Sequence[Line]) -> list[Paired]:
    """Compare every other method with that of the first line, wherever this was run, as ``paired`` does.

    In each block the baseline is its first row of that method; runs of one seed count ``alike_within_seeds``.
    """
    told_apart = without_shared_changes(lines)[0]
    found = []
    for block in dict.fromkeys(map(block_of, told_apart)):
        here = [line for line in told_apart if block_of(line) == block]
        of_first = [index for index, line in enumerate(here) if line["method"] == lines[0]["method"]]
        if of_first:
            alike = alike_within_seeds(here, labels(without_precision(here))[of_first[0]])
            found += _pairs(block, grouped(alike)[block], labels(alike)[of_first[0]])
    return found


def alike_within_seeds(lines: Sequence[Line], baseline: str) -> list[Line]:
    """The lines for ``paired``, without their precision where the baseline's run of the seed has the same.

    Errors of several precisions are not averaged. Their differences may be: each is of two runs of one seed, and there
    the precision tells nothing apart. Where the baseline has a seed in two precisions, they stay told apart.

    Args:
        baseline: its label where no precision is told apart.
    """
    without = without_precision(lines)
    of_baseline: dict[object, set[str]] = {}
    for line, label in zip(lines, labels(without), strict=True):
        if label == baseline:
            of_baseline.setdefault((block_of(line), line["seed"]), set()).add(precision_of(line))
    return [
        blank if of_baseline.get((block_of(line), line["seed"]), {precision_of(line)}) == {precision_of(line)} else line
        for line, blank in zip(lines, without, strict=True)
    ]


def _pairs(block: Block, methods: Mapping[str, Sequence[Line]], baseline: str) -> list[Paired]:
    theirs = by_seed(methods[baseline])
    return [_pair(block, name, by_seed(group), baseline, theirs) for name, group in methods.items() if name != baseline]


def _pair(block: Block, label: str, ours: dict[int, Line], baseline: str, theirs: dict[int, Line]) -> Paired:
    seeds = tuple(sorted(set(ours) & set(theirs)))

    def gap(key: str) -> Difference | None:
        return difference([ours[seed][key] for seed in seeds], [theirs[seed][key] for seed in seeds])

    def gap_of(group: str) -> Difference | None:
        same = all(_classes(ours[seed], group) == _classes(theirs[seed], group) for seed in seeds)
        return gap(f"error_{group}") if same else None

    return Paired(
        *block,
        method=label,
        baseline=baseline,
        seeds=seeds,
        last=gap("error_last"),
        many=gap_of("many"),
        medium=gap_of("medium"),
        few=gap_of("few"),
        unlike=tuple(
            name for name, key in _ALIKE.items() if any(_contradict(ours[seed], theirs[seed], key) for seed in seeds)
        ),
    )


def _contradict(ours: Line, theirs: Line, key: str) -> bool:
    return ours.get(key) != theirs.get(key) and None not in (ours.get(key), theirs.get(key))


def _classes(line: Line, group: str) -> object:
    return line.get("groups", {}).get(group)
