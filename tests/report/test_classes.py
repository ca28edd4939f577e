"""What is told of single classes."""

from __future__ import annotations

import re
import warnings

import numpy as np
import pytest
from matplotlib.axes import Axes

from safa.report import class_charts
from safa.report.comparison import Comparison, compare
from safa.report.sections.classes import accuracy, changes
from tests.report.test_headline import run


def test_changes_of_any_number_of_methods_stand_three_abreast():
    names = ["CE", *(f"LDAM-DRW-SAFA [variant {number}]" for number in range(14))]
    few = {"class_counts": [200, 5, 4], "groups": {"many": [0], "medium": [], "few": [1, 2]}}
    runs = [run(name, error_per_class=[10, 60, 70], **few) for name in names]
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # matplotlib warns where panels have no room
        drawn = class_charts.changes(compare(runs, "CE"), 860)
    width, height = map(float, re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', drawn).groups())
    assert (width, height) == (860, 5 * (22 * 3 + 70))  # 14 panels in five rows


def test_a_class_without_a_test_image_neither_gains_nor_stays():
    few = {"class_counts": [200, 5, 4], "groups": {"many": [0], "medium": [], "few": [1, 2]}}
    runs = [run("CE", error_per_class=[10, 60, None], **few), run("CE-SAFA", error_per_class=[10, 50, None], **few)]
    told = changes(compare(runs))
    assert "of 2 few-shot classes 1 gain, 0 lose, 0 stay, 1 without test images." in told


def test_what_changed_is_of_the_seeds_that_both_methods_have():
    few = {"class_counts": [200, 5, 4], "groups": {"many": [0], "medium": [], "few": [1, 2]}}
    errors = {("CE", 0): [10, 60, 33.3333], ("CE", 1): [10, 10, 10], ("CE-SAFA", 0): [10, 50, 33.3334]}
    found = compare([run(name, seed, error_per_class=listed, **few) for (name, seed), listed in errors.items()])
    assert found.gain("CE-SAFA").tolist() == pytest.approx([0, 10, 0], abs=1e-3)
    assert "of 2 few-shot classes 1 gain, 0 lose, 1 stay." in changes(found)


def test_without_a_common_seed_no_class_gains():
    found = compare([run("CE", 0), run("CE-SAFA", 1)])
    assert np.isnan(found.gain("CE-SAFA")).all()


def out_of_order() -> Comparison:
    """The rarest class comes first, as the alphabet may have it."""
    three = {"class_counts": [5, 200, 50], "groups": {"many": [1], "medium": [2], "few": [0]}}
    plain = run("CE", error_per_class=[70.0, 10.0, 30.0], **three)
    return compare([plain, run("CE-SAFA", error_per_class=[60.0, 15.0, 30.0], **three)])


def test_the_table_has_the_accuracy_of_every_class_the_most_frequent_first():
    listing = accuracy(out_of_order()).partition("<details>")[2]
    shown = " ".join(re.sub("<[^>]+>", " ", listing).split())
    assert shown.endswith("b many 200 90.0 85.0 c medium 50 70.0 70.0 a few 5 30.0 40.0")


def test_bars_of_changes_are_of_the_classes_they_stand_beside(monkeypatch):
    drawn, plain = [], Axes.barh

    def noting(axes, places, widths, **options):
        drawn.append(dict(zip(places, widths, strict=True)))
        return plain(axes, places, widths, **options)

    monkeypatch.setattr(Axes, "barh", noting)
    class_charts.changes(out_of_order(), 860)
    assert drawn == [{0: -5, 1: 0, 2: 10}]


@pytest.mark.parametrize(
    ("draw", "expected"),
    [(class_charts.tail, {0: 200, 1: 50, 2: 5}), (class_charts.changes, {0: -5, 1: 0, 2: 10})],
    ids=["tail", "changes"],
)
def test_bars_of_more_classes_than_are_named_are_of_the_classes_they_stand_at(draw, expected, monkeypatch):
    monkeypatch.setattr(class_charts, "NAMED_CLASSES", 2)
    drawn, plain = {}, Axes.bar

    def noting(axes, places, heights, **options):
        drawn.update(zip(places, heights, strict=True))
        return plain(axes, places, heights, **options)

    monkeypatch.setattr(Axes, "bar", noting)
    draw(out_of_order(), 860)
    assert drawn == expected


@pytest.mark.parametrize("named", [30, 2], ids=["named", "ranked"])
def test_marks_of_accuracy_are_of_the_classes_they_stand_at(named, monkeypatch):
    monkeypatch.setattr(class_charts, "NAMED_CLASSES", named)
    drawn, plain = [], Axes.plot

    def noting(axes, x, y, *rest, **options):
        drawn.append(list(x if named == 30 else y))
        return plain(axes, x, y, *rest, **options)

    monkeypatch.setattr(Axes, "plot", noting)
    five = {"class_names": list("abcde"), "class_counts": [5, 200, 50, 40, 30]}
    groups = {"many": [1], "medium": [2, 3, 4], "few": [0]}
    class_charts.accuracy(compare([run("CE", error_per_class=[70, 10, 30, 35, 40], groups=groups, **five)]), 860)
    assert drawn[0] == [90, 70, 65, 60, 30]  # of classes that come b, c, d, e, a by frequency
