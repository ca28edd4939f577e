"""What tells the rows of a table apart: lines of one method that must not be averaged, and the names they get."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import PurePath
from typing import Any

from safa.report.lines import Line

Block = tuple[str, float, str]  # data set, imbalance factor, model: what a comparison holds fixed

_ANY_PRECISION = "any precision"  # a mark in a line, see without_precision


def block_of(line: Mapping[str, Any]) -> Block:
    """Data set, imbalance factor and model of a line."""
    return str(line["dataset"]), float(line["imbalance_factor"]), str(line["model"])


def grouped(lines: Sequence[Line]) -> dict[Block, dict[str, list[Line]]]:
    """block -> label -> lines, each level in order of first appearance."""
    blocks: dict[Block, dict[str, list[Line]]] = {}
    for line, found in zip(lines, _distinctions(lines), strict=True):
        methods = blocks.setdefault(block_of(line), {})
        methods.setdefault(label_of(line["method"], found), []).append({**line, "distinctions": found})
    return blocks


def by_seed(group: Sequence[Line]) -> dict[int, Line]:
    return {int(line["seed"]): line for line in group}


def labels(lines: Sequence[Line]) -> list[str]:
    """Name the row of each line: its method, with recipe or epochs where the method alone is ambiguous."""
    return [label_of(line["method"], found) for line, found in zip(lines, _distinctions(lines), strict=True)]


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


def without_precision(lines: Sequence[Line]) -> list[Line]:
    """The lines with a mark that their precision tells nothing apart."""
    return [{**line, _ANY_PRECISION: True} for line in lines]


def label_of(method: str, distinctions: Sequence[str]) -> str:
    """The name of a row: its method, and what tells it apart in brackets."""
    return f"{method} ({', '.join(distinctions)})" if distinctions else method


def precision_of(line: Line) -> str:
    """The precision of a line; empty where it tells nothing apart."""
    return "" if _ANY_PRECISION in line else str(line.get("precision", "unknown precision"))


def _distinctions(lines: Sequence[Line]) -> list[tuple[str, ...]]:
    """For each line what tells it from others of its method, in the order of ``_PARTS``, then its changes."""
    parts: list[list[str]] = [[] for _ in lines]
    for of, what in _PARTS:
        values = [what(line) for line in lines]
        told: dict[object, set[str]] = {}
        for line, value in zip(lines, values, strict=True):
            if value is not None:
                told.setdefault(of(line), set()).add(value)
        for part, line, value in zip(parts, lines, values, strict=True):
            part += [value] if value and len(told[of(line)]) > 1 else []
    in_order: dict[frozenset[str], list[str]] = {}  # the same changes in another order are the same row
    return [
        (*part, *in_order.setdefault(_changes(line), line.get("changes", [])))
        for part, line in zip(parts, lines, strict=True)
    ]


def _of_method(line: Line) -> object:
    return *block_of(line), line["method"]


def _of_recipe(line: Line) -> object:
    return _of_method(line), _recipe(line)


def _changes(line: Line) -> frozenset[str]:
    return frozenset(line.get("changes", []))


def _recipe(line: Line) -> str:
    return PurePath(line["recipe"]).stem


def _edit(line: Line) -> str | None:
    """Which of the texts that a recipe's file has had."""
    return f"edit {line['recipe_sha256'][:6]}" if "recipe_sha256" in line else None


def _images(line: Line) -> str | None:
    """Which of several data sets of one name: two folders may be called alike."""
    return f"images {line['images_sha256'][:6]}" if line.get("images_sha256") is not None else None


def _processes(line: Line) -> str:
    number = int(line.get("processes", 1))
    return "1 process" if number == 1 else f"{number} processes"


# Lines of which something must not differ, and what; "" tells a line apart from others without a word, None does not.
_PARTS: tuple[tuple[Callable[[Line], object], Callable[[Line], str | None]], ...] = (
    (_of_method, _recipe),
    (lambda line: (_of_recipe(line), line["epochs"], _changes(line)), _edit),
    (_of_recipe, lambda line: f"{line['epochs']} epochs"),
    (_of_recipe, precision_of),
    (_of_recipe, _processes),
    (lambda line: (_of_recipe(line), _changes(line)), _images),
)
