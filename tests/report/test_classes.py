"""What is told of single classes."""

from __future__ import annotations

import re
import warnings

from safa.report import class_charts
from safa.report.comparison import compare
from safa.report.sections.classes import changes
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
