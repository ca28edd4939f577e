"""What is told of single classes."""

from __future__ import annotations

from safa.report.comparison import compare
from safa.report.sections.classes import changes
from tests.report.test_headline import run


def test_a_class_without_a_test_image_neither_gains_nor_stays():
    few = {"class_counts": [200, 5, 4], "groups": {"many": [0], "medium": [], "few": [1, 2]}}
    runs = [run("CE", error_per_class=[10, 60, None], **few), run("CE-SAFA", error_per_class=[10, 50, None], **few)]
    told = changes(compare(runs))
    assert "of 2 few-shot classes 1 gain, 0 lose, 0 stay, 1 without test images." in told
