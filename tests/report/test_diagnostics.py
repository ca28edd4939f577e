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
    head, _, first, *further = to_markdown([line(assigned=70.0), line(seed=1, assigned=80.0)]).splitlines()
    assert head.startswith("| data set | factor | network | method | features | network (%) | nearest mean (%) |")
    place, figures = ["digits", "20", "resnet8"], ["75.00 ± 7.07", "50.00 ± 0.00", "0.90 ± 0.00", "–"]
    assert first.strip("| ").split(" | ")[:9] == [*place, "LDAM-DRW-SAFA", "generated (2,400)", *figures]
    assert [row.split(" | ")[4] for row in further[:2]] == ["training images (4,000)", "test images (6,000)"]


def test_what_generated_rows_do_to_batch_norm_is_a_mean_over_layers_then_over_seeds():
    first, second = line(), line(seed=1)
    first["diagnostics"]["batch_norm"] = {"a": {"shift": 0.1, "factor": 1.0}, "b": {"shift": 0.3, "factor": 1.2}}
    second["diagnostics"]["batch_norm"] = {"a": {"shift": 0.5, "factor": 1.1}, "b": {"shift": 0.5, "factor": None}}
    head, _, generated, training, *_ = to_markdown([first, second]).splitlines()
    assert head.endswith("| batch norm: shift of means | factor on deviations |")
    assert generated.endswith("| 0.350 ± 0.212 | 1.100 ± 0.000 |")  # of 0.2 and 0.5, and of 1.1 and 1.1
    assert training.endswith("| – | – |")
    assert to_markdown([line()]).splitlines()[2].endswith("| – | – |")  # no batch norm comes after the rows


def test_rows_of_one_method_on_two_data_sets_are_told_apart():
    rows = to_markdown([line(), line(dataset="cifar10", assigned=60.0)]).splitlines()[2:]
    assert [row.split(" | ")[0] for row in rows[:6]] == ["| digits"] * 3 + ["| cifar10"] * 3


def test_a_later_line_of_the_same_seed_is_the_one_that_counts():
    assert "| 80.00 |" in to_markdown([line(assigned=70.0), line(assigned=80.0)])


def test_lines_of_runs_that_generate_nothing_have_no_table():
    without = {name: value for name, value in line("LDAM").items() if name != "diagnostics"}
    assert to_markdown([without]) == ""
    assert "| LDAM |" not in to_markdown([without, line()])


def test_what_was_changed_in_all_lines_is_a_note():
    both = line(changes=["batch_size=8"]), line("Mine", changes=["batch_size=8", "a=[b]"])
    text = to_markdown(both)
    assert "| LDAM-DRW-SAFA | generated" in text
    assert "| Mine (a=[b]) | generated" in text
    assert text.endswith("Changed in all rows: batch\\_size=8.")
    assert "Changed in all rows" not in to_markdown([line(), both[0]])


@pytest.mark.parametrize(
    "broken", [{"rows": {}}, {"rows": {}, "figures": []}, {"figures": {}, "batch_norm": {}}, "none"]
)
def test_broken_diagnostics_are_named_with_their_run(broken):
    with pytest.raises(UserError, match="diagnostics in the result line of LDAM-DRW-SAFA, seed 3, are broken"):
        diagnostics(line(seed=3, diagnostics=broken))
