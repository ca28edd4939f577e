"""Result lines -> rows: mean ± sample sd over seeds, paired differences, the paper's figure beside ours."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import Any

from safa.errors import UserError
from safa.report import paper
from safa.report.lines import Line
from safa.report.spread import Difference, Spread, difference, spread

Block = tuple[str, float, str]  # data set, imbalance factor, model: what a comparison holds fixed

# What else a difference should hold fixed, with the line's key for it; early lines have not all of them.
_ALIKE = {"precision": "precision", "training images": "subset_sha256", "images": "images_sha256"}
_ANY_PRECISION = "any precision"  # a mark in a line, see _without_precision


@dataclass(frozen=True)
class Row:
    """One method on one data set at one imbalance factor with one network. Errors in per cent.

    Attributes:
        method: as the lines say, the paper's name.
        distinctions: what tells this row from another of the same method: recipe and which edit of it, number of
            epochs, precision, and each ``key=value`` that was set otherwise than in the recipe; often empty. Also the
            number of processes, which pair their own rows, and which images they are where several data sets have one
            name.
        epochs: how long each run was.
        changed: whether something was set otherwise than in the recipe.
        seeds: the seeds behind the row, in order.
        last: error at the last epoch, the figure that counts.
        best: lowest error of any epoch, picked on the test set; for comparison only.
        many, medium, few: error of the classes with many, a medium number of, and few training images.
        ece: expected calibration error.
        validation: mean over classes of the error on validation images, where some were set aside.
        superseded: lines left out because a later line has the same seed.
        mixed: whether the seeds were not all trained and validated on the same images of the data set.
        paper: the paper's figure, after ``against_paper``.
        remark: why the paper's figure is doubtful.
    """

    dataset: str
    imbalance_factor: float
    model: str
    method: str
    distinctions: tuple[str, ...]
    epochs: int
    changed: bool
    seeds: tuple[int, ...]
    last: Spread
    best: Spread | None
    many: Spread | None
    medium: Spread | None
    few: Spread | None
    ece: Spread | None
    validation: Spread | None = None
    superseded: int = 0
    mixed: bool = False
    paper: float | None = None
    remark: str = ""

    @property
    def n(self) -> int:
        """Number of seeds."""
        return len(self.seeds)

    @property
    def variant(self) -> str:
        """The distinctions as one text."""
        return ", ".join(self.distinctions)

    @property
    def label(self) -> str:
        """The method, with its variant where there is one."""
        return _label(self.method, self.distinctions)

    @property
    def gap_to_paper(self) -> float | None:
        """Our mean minus the paper's figure, in percentage points; None without a figure of the paper."""
        return None if self.paper is None else self.last.mean - self.paper


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


def summarise(lines: Iterable[Line]) -> list[Row]:
    """Group lines by data set, imbalance factor, model and method, one row each.

    Rows stand in the order in which data set, factor and model, then method, first appear. Lines of one
    method whose recipe, number of epochs, precision or number of processes differ are not averaged: they become
    rows of their own, told apart by ``distinctions``. Of two lines with the same seed the later counts, as result
    files are append-only.
    """
    blocks = grouped(list(lines))
    return [_row(block, group) for block, methods in blocks.items() for group in methods.values()]


def labels(lines: Sequence[Line]) -> list[str]:
    """Name the row of each line: its method, with recipe or epochs where the method alone is ambiguous."""
    return [_label(line["method"], found) for line, found in zip(lines, _distinctions(lines), strict=True)]


def without_shared_changes(lines: Sequence[Line]) -> tuple[list[Line], tuple[str, ...]]:
    """The lines without the changes to their recipes that all of them share, and these: they tell nothing apart."""
    first = lines[0].get("changes", []) if lines else []
    shared = tuple(change for change in first if all(change in line.get("changes", []) for line in lines))
    kept = [[change for change in line.get("changes", []) if change not in shared] for line in lines]
    return [{**line, "changes": changes} for line, changes in zip(lines, kept, strict=True)], shared


def changes_note(shared: Sequence[str]) -> list[str]:
    """What stands below a table whose names leave out what is changed in all of its rows."""
    return [f"Changed in all rows: {', '.join(shared)}."] if shared else []


def shorter_label(label: str, lines: Sequence[Line]) -> str:
    """What a label of ``lines`` is without the changes that all of them share; any other text as it is."""
    return dict(zip(labels(lines), labels(without_shared_changes(lines)[0]), strict=True)).get(label, label)


def _label(method: str, distinctions: Sequence[str]) -> str:
    return f"{method} ({', '.join(distinctions)})" if distinctions else method


def _distinctions(lines: Sequence[Line]) -> list[tuple[str, ...]]:
    def method(line: Line) -> object:
        return (*block_of(line), line["method"])

    def recipe(line: Line) -> object:
        return method(line), _recipe(line)

    def named(line: Line) -> object:
        return recipe(line), line["epochs"], frozenset(line.get("changes", []))

    def images(line: Line) -> object:
        return recipe(line), frozenset(line.get("changes", []))

    def known(line: Line) -> bool:
        return line.get("images_sha256") is not None

    of_recipes = _with_several(lines, method, _recipe)
    of_edits = _with_several([line for line in lines if "recipe_sha256" in line], named, _edit)
    of_lengths = _with_several(lines, recipe, lambda line: line["epochs"])
    of_precisions = _with_several(lines, recipe, _precision)
    of_processes = _with_several(lines, recipe, _processes)
    of_images = _with_several([line for line in lines if known(line)], images, _images)
    in_order: dict[frozenset[str], list[str]] = {}  # the same changes in another order are the same row
    found = []
    for line in lines:
        parts = [_recipe(line)] if method(line) in of_recipes else []
        parts += [_edit(line)] if named(line) in of_edits and "recipe_sha256" in line else []
        parts += [f"{line['epochs']} epochs"] if recipe(line) in of_lengths else []
        parts += [_precision(line)] if recipe(line) in of_precisions and _precision(line) else []
        parts += [_processes(line)] if recipe(line) in of_processes else []
        parts += [_images(line)] if images(line) in of_images and known(line) else []
        changes = line.get("changes", [])
        parts += in_order.setdefault(frozenset(changes), changes)
        found.append(tuple(parts))
    return found


def _with_several(lines: Sequence[Line], of: Callable[[Line], object], what: Callable[[Line], object]) -> set[object]:
    """The groups ``of`` lines in which ``what`` is not the same everywhere."""
    found: dict[object, set[object]] = {}
    for line in lines:
        found.setdefault(of(line), set()).add(what(line))
    return {group for group, values in found.items() if len(values) > 1}


def _recipe(line: Line) -> str:
    return PurePath(line["recipe"]).stem


def _edit(line: Line) -> str:
    """Which of the texts that a recipe's file has had."""
    return f"edit {line['recipe_sha256'][:6]}"


def _precision(line: Line) -> str:
    """Empty where it tells nothing apart."""
    return "" if _ANY_PRECISION in line else str(line.get("precision", "unknown precision"))


def _images(line: Line) -> str:
    """Which of several data sets of one name: two folders may be called alike."""
    return f"images {line['images_sha256'][:6]}"


def _processes(line: Line) -> str:
    number = int(line.get("processes", 1))
    return "1 process" if number == 1 else f"{number} processes"


def block_of(line: Mapping[str, Any]) -> Block:
    """Data set, imbalance factor and model of a line."""
    return str(line["dataset"]), float(line["imbalance_factor"]), str(line["model"])


def grouped(lines: Sequence[Line]) -> dict[Block, dict[str, list[Line]]]:
    """block -> label -> lines, each level in order of first appearance."""
    blocks: dict[Block, dict[str, list[Line]]] = {}
    for line, found in zip(lines, _distinctions(lines), strict=True):
        methods = blocks.setdefault(block_of(line), {})
        methods.setdefault(_label(line["method"], found), []).append({**line, "distinctions": found})
    return blocks


def by_seed(group: Sequence[Line]) -> dict[int, Line]:
    return {int(line["seed"]): line for line in group}


def _row(block: Block, group: Sequence[Line]) -> Row:
    runs = by_seed(group)
    seeds = tuple(sorted(runs))

    def over_seeds(key: str) -> Spread | None:
        return spread([runs[seed].get(key) for seed in seeds])

    last = over_seeds("error_last")
    assert last is not None  # reading refuses a line without it
    return Row(
        *block,
        method=group[0]["method"],
        distinctions=group[0]["distinctions"],
        epochs=int(group[0]["epochs"]),
        changed=bool(group[0].get("changes")),
        seeds=seeds,
        last=last,
        best=over_seeds("error_best"),
        many=over_seeds("error_many"),
        medium=over_seeds("error_medium"),
        few=over_seeds("error_few"),
        ece=over_seeds("ece"),
        validation=over_seeds("balanced_error_validation"),
        superseded=len(group) - len(seeds),
        mixed=len({run["subset_sha256"] for run in runs.values() if run.get("subset_sha256")}) > 1,
    )


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
            alike = alike_within_seeds(here, labels(_without_precision(here))[of_first[0]])
            found += _pairs(block, grouped(alike)[block], labels(alike)[of_first[0]])
    return found


def alike_within_seeds(lines: Sequence[Line], baseline: str) -> list[Line]:
    """The lines for ``paired``, without their precision where the baseline's run of the seed has the same.

    Errors of several precisions are not averaged. Their differences may be: each is of two runs of one seed, and there
    the precision tells nothing apart. Where the baseline has a seed in two precisions, they stay told apart.

    Args:
        baseline: its label where no precision is told apart.
    """
    without = _without_precision(lines)
    of_baseline: dict[object, set[str]] = {}
    for line, label in zip(lines, labels(without), strict=True):
        if label == baseline:
            of_baseline.setdefault((block_of(line), line["seed"]), set()).add(_precision(line))
    return [
        blank if of_baseline.get((block_of(line), line["seed"]), {_precision(line)}) == {_precision(line)} else line
        for line, blank in zip(lines, without, strict=True)
    ]


def _without_precision(lines: Sequence[Line]) -> list[Line]:
    """The lines with a mark that their precision tells nothing apart."""
    return [{**line, _ANY_PRECISION: True} for line in lines]


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


def against_paper(rows: Sequence[Row], table: str = "table1") -> list[Row]:
    """Put the paper's figure beside each row, where the paper has one.

    A shorter run, or one whose recipe was changed, is no row of the paper.

    Args:
        table: ``"table1"``, ``"table5"`` or ``"table6"``.

    Raises:
        UserError: if there is no such table.
    """
    epochs = paper.table(table)["epochs"]
    compared = []
    for row in rows:
        figure = paper.figure(
            table,
            model=row.model,
            method=row.method,
            dataset=row.dataset,
            imbalance_factor=row.imbalance_factor,
        )
        if row.epochs >= epochs and not row.changed:
            row = replace(row, paper=figure.error, remark=figure.remark)
        compared.append(row)
    return compared
