"""What one page compares: runs of several methods and seeds on one data set at one imbalance factor."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from safa.classes import head_classes
from safa.errors import UserError
from safa.report.distinctions import labels, shorter_label, without_shared_changes
from safa.report.lines import Line
from safa.report.pairs import Paired, paired
from safa.report.rows import Row, summarise
from safa.report.runs import BoolArray, FloatArray, IntArray, Run

GROUPS = ("many", "medium", "few")


@dataclass(frozen=True)
class Comparison:
    """Runs that may stand on one page, and what they agree on.

    Attributes:
        runs: the run folders, as given.
        labels: for each run the name of its method, unambiguous.
        methods: the distinct labels in order of appearance.
        baseline: the method the others are compared with; None for a single method.
        class_names: by class id, length k.
        counts: training images by class id, shape (k,).
        groups: group name -> class ids, for the groups that have classes, from many to few.
        changes: ``key=value`` that all runs set otherwise than their recipes.
    """

    runs: tuple[Run, ...]
    labels: tuple[str, ...]
    methods: tuple[str, ...]
    baseline: str | None
    class_names: tuple[str, ...]
    counts: IntArray
    groups: dict[str, IntArray]
    changes: tuple[str, ...] = ()

    @property
    def first(self) -> Line:
        """The first result line, for what all lines share: data set, imbalance factor, model."""
        return self.runs[0].result

    @property
    def lines(self) -> list[Line]:
        """The result lines with unambiguous method names, so that every method becomes one row."""
        # The labels tell recipes and lengths apart already; blanks keep them from being told apart again.
        blank = {"recipe": "", "epochs": 0, "changes": []}
        pairs = zip(self.runs, self.labels, strict=True)
        return [{**run.result, "method": label, **blank} for run, label in pairs]

    @cached_property
    def rows(self) -> list[Row]:
        """A row of errors for each method."""
        return summarise(self.lines)

    @cached_property
    def pairs(self) -> list[Paired]:
        """Every other method against the baseline, over common seeds; none without a baseline."""
        return [] if self.baseline is None else paired(self.lines, self.baseline)

    @property
    def order(self) -> IntArray:
        """Class ids by decreasing number of training images; ties by class id."""
        order: IntArray = np.argsort(-self.counts, kind="stable")
        return order

    @property
    def rare_group(self) -> str:
        """The rarest group with a test image: few, if a few-shot class has one; the rarest at all where none has."""
        errors = self.first["error_per_class"]
        tested = [name for name, ids in self.groups.items() if any(errors[c] is not None for c in ids)]
        return (tested or list(self.groups))[-1]

    @property
    def rarest_is_tested(self) -> bool:
        """Whether no group is rarer than ``rare_group``."""
        return self.rare_group == list(self.groups)[-1]

    def test_images(self, group: str) -> int | None:
        """How many test images the classes of a group have together; None where no run tells."""
        known = [run.predictions.labels for run in self.runs if run.predictions is not None]
        return int(np.isin(known[0], self.groups[group]).sum()) if known else None

    def ink(self, method: str) -> int:
        """The method's number in the palette: 0 for the baseline, then 1 to 7, 1, …"""
        return 0 if method == self.baseline else 1 + self._turn(method) % 7

    def shape(self, method: str) -> int:
        """The number of its marker, which moves on where the palette starts over: no two of 50 methods look alike."""
        turn = self._turn(method)
        return 0 if method == self.baseline else 1 + (turn + turn // 7) % 7

    def _turn(self, method: str) -> int:
        """How many methods come before it, the baseline not counted."""
        before = self.methods[: self.methods.index(method)]
        return len([name for name in before if name != self.baseline])

    def runs_of(self, method: str) -> list[Run]:
        """The runs of one method, by seed."""
        own = [run for run, label in zip(self.runs, self.labels, strict=True) if label == method]
        return sorted(own, key=lambda run: int(run.result["seed"]))

    def accuracy(self, method: str) -> FloatArray:
        """Accuracy per class in per cent, mean over seeds, shape (k,); NaN without test images."""
        # Through float, null becomes NaN.
        listed = [run.result["error_per_class"] for run in self.runs_of(method)]
        return _over_seeds(100 - np.array(listed, dtype=np.float64))

    def gain(self, method: str) -> FloatArray:
        """Accuracy per class less the baseline's, in points, mean over the seeds that both have, shape (k,).

        NaN without test images, and without a common seed.
        """
        assert self.baseline is not None
        ours, theirs = (
            {
                run.result["seed"]: np.array(run.result["error_per_class"], dtype=np.float64)
                for run in self.runs_of(name)
            }
            for name in (method, self.baseline)
        )
        common = sorted(ours.keys() & theirs.keys())
        return _over_seeds(np.array([theirs[seed] - ours[seed] for seed in common]).reshape(-1, len(self.counts)))

    @property
    def head_ratios(self) -> dict[float, list[str]]:
        """Share of the classes that is called head -> the methods with such a run; mostly there is one share."""
        ratios: dict[float, list[str]] = {}
        for run, label in zip(self.runs, self.labels, strict=True):
            methods = ratios.setdefault(run.head_ratio, [])
            methods += [label] if label not in methods else []
        return ratios

    def head_classes(self) -> BoolArray:
        """Which classes are head classes in every run, by class id: SAFA takes directions from them."""
        # Head goes by count, so the smallest share is part of every other.
        return np.array(head_classes(self.counts.tolist(), min(self.head_ratios)))

    @cached_property
    def group_of(self) -> list[str]:
        """The group of each class, by class id; empty where a class belongs to none."""
        names = [""] * len(self.counts)
        for group, ids in self.groups.items():
            for class_id in ids:
                names[class_id] = group
        return names


def compare(runs: Sequence[Run], baseline: str | None = None) -> Comparison:
    """Check that runs may stand on one page.

    Raises:
        UserError: if there is no run, if data set, imbalance factor, network or classes differ, if a seed of
            a method comes twice, or if no run belongs to the baseline.
    """
    if not runs:
        raise UserError("no run to report on; give at least one run folder")
    _refuse_mixture(runs)
    results = [run.result for run in runs]
    told_apart, changes = without_shared_changes(results)
    names = labels(told_apart)
    baseline = None if baseline is None else shorter_label(baseline, results)
    _refuse_twice(runs, names)
    methods = tuple(dict.fromkeys(names))
    if baseline is not None and baseline not in methods:
        raise UserError(f"no run of the baseline {baseline!r}; there are {', '.join(methods)}")
    result = runs[0].result
    groups = {name: np.array(result["groups"].get(name, []), dtype=np.int64) for name in GROUPS}
    return Comparison(
        runs=tuple(runs),
        labels=tuple(names),
        methods=methods,
        baseline=(baseline or likely_baseline(methods)) if len(methods) > 1 else None,
        class_names=tuple(_on_one_line(str(name)) for name in result["class_names"]),
        counts=np.array(result["class_counts"], dtype=np.int64),
        groups={name: ids for name, ids in groups.items() if len(ids)},
        changes=changes,
    )


def _over_seeds(values: FloatArray) -> FloatArray:
    """Means of (seeds, k) over the seeds that know a class's value, shape (k,); NaN where none does."""
    seeds = np.isfinite(values).sum(axis=0)
    mean: FloatArray = np.nansum(values, axis=0) / np.where(seeds > 0, seeds, np.nan)
    return mean


def _on_one_line(name: str) -> str:
    """The name with a mark in place of each character that no page and no SVG may hold."""
    return re.sub(r"[\x00-\x1f\x7f\ud800-\udfff\ufffe\uffff]", "\N{REPLACEMENT CHARACTER}", " ".join(name.split()))


def likely_baseline(methods: Sequence[str]) -> str:
    """The method that another one extends by name, the longest such; otherwise the first.

    ``LDAM-DRW-SAFA`` extends ``LDAM-DRW``, which extends ``LDAM``: the baseline is ``LDAM-DRW``. What stands in
    brackets behind a name is no part of it.
    """
    bare = {name: re.split(r" [\[(]", name, maxsplit=1)[0] for name in methods}
    extended = [name for name in methods if any(other.startswith(f"{bare[name]}-") for other in bare.values())]
    return max(extended, key=lambda name: len(bare[name])) if extended else methods[0]


def _refuse_mixture(runs: Sequence[Run]) -> None:
    first = runs[0]
    for run in runs[1:]:
        for key in ("dataset", "imbalance_factor", "model", "class_names"):
            ours, theirs = first.result[key], run.result[key]
            if ours != theirs:
                places = f"{_short(ours)} in {first.name}, {_short(theirs)} in {run.name}"
                raise UserError(f"{key} differs: {places}; write one page for each")


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:79]}…"


def _refuse_twice(runs: Sequence[Run], labels: Sequence[str]) -> None:
    seen: dict[tuple[str, int], str] = {}
    for run, label in zip(runs, labels, strict=True):
        key = (label, int(run.result["seed"]))
        if key in seen:
            raise UserError(f"seed {key[1]} of {label} comes twice, in {seen[key]} and {run.name}; give one of them")
        seen[key] = run.name
