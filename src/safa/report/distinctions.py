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
    of_precisions = _with_several(lines, recipe, precision_of)
    of_processes = _with_several(lines, recipe, _processes)
    of_images = _with_several([line for line in lines if known(line)], images, _images)
    in_order: dict[frozenset[str], list[str]] = {}  # the same changes in another order are the same row
    found = []
    for line in lines:
        parts = [_recipe(line)] if method(line) in of_recipes else []
        parts += [_edit(line)] if named(line) in of_edits and "recipe_sha256" in line else []
        parts += [f"{line['epochs']} epochs"] if recipe(line) in of_lengths else []
        parts += [precision_of(line)] if recipe(line) in of_precisions and precision_of(line) else []
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


def _images(line: Line) -> str:
    """Which of several data sets of one name: two folders may be called alike."""
    return f"images {line['images_sha256'][:6]}"


def _processes(line: Line) -> str:
    number = int(line.get("processes", 1))
    return "1 process" if number == 1 else f"{number} processes"
