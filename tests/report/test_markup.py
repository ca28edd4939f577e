"""The pieces of a page that are drawn by hand."""

from __future__ import annotations

import re

import pytest

from safa.report.markup import key


@pytest.mark.parametrize("shape", ["s", "^", "D", "v", "P", "X", "p"])
def test_the_markers_of_a_legend_are_mirror_images_of_themselves(shape):
    path = re.search(r'<path d="(.+?)"', key("a method", shape, "method-0"))[1]
    x = y = 0.0
    points = set()
    for command, numbers in re.findall(r"([MLHV])([-\d. ]+)", path):
        values = [float(number) for number in re.findall(r"-?[\d.]+", numbers)]
        x = values[0] if command in "MLH" else x
        y = values[-1] if command in "MLV" else y
        points.add((x, y))
    assert points == {(-x, y) for x, y in points}
