"""Figures on generated features in result lines."""

from __future__ import annotations

import copy

import pytest

from safa.errors import UserError
from safa.report.diagnostics import diagnostics, to_markdown
from tests.report.test_lines import LINE

FIGURES = {
    "assigned": 75.0,
    "nearest_mean": 50.0,
    "distance_ratio": 0.9,
    "layer_nearest_mean": None,
    "layer_distance_ratio": 1.25,
}
STORED = {
    "rows": {"generated": 1200, "training": 2000, "test": 3000},
    "figures": {kind: {"all": FIGURES, "few": {}} for kind in ("generated", "training", "test")},
    "batch_norm": {},
}


def line(method: str = "LDAM-DRW-SAFA", seed: int = 0, assigned: float = 75.0, **changes) -> dict:
    stored = copy.deepcopy(STORED)
    stored["figures"]["generated"]["all"]["assigned"] = assigned
    return LINE | {"recipe": method, "method": method, "seed": seed, "diagnostics": stored} | changes


def test_every_kind_of_rows_is_a_line_of_means_over_seeds():
    text = to_markdown([line(assigned=70.0), line(seed=1, assigned=80.0)]).splitlines()
    assert text[0].startswith("| method | features | network (%) | nearest mean (%) | own / other |")
    assert text[2].startswith("| LDAM-DRW-SAFA | generated (2,400) | 75.00 ± 7.07 | 50.00 ± 0.00 | 0.90 ± 0.00 | – |")
    assert [row.split(" | ")[1] for row in text[3:5]] == ["training images (4,000)", "test images (6,000)"]


def test_a_later_line_of_the_same_seed_is_the_one_that_counts():
    assert "| 80.00 |" in to_markdown([line(assigned=70.0), line(assigned=80.0)])


def test_lines_of_runs_that_generate_nothing_have_no_table():
    without = {name: value for name, value in line("LDAM").items() if name != "diagnostics"}
    assert to_markdown([without]) == ""
    assert "| LDAM |" not in to_markdown([without, line()])


@pytest.mark.parametrize(
    "broken", [{"rows": {}}, {"rows": {}, "figures": []}, {"figures": {}, "batch_norm": {}}, "none"]
)
def test_broken_diagnostics_are_named_with_their_run(broken):
    with pytest.raises(UserError, match="diagnostics in the result line of LDAM-DRW-SAFA, seed 3, are broken"):
        diagnostics(line(seed=3, diagnostics=broken))
