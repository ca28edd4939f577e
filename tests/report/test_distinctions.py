"""What tells rows apart: lines of one method that differ in anything are not averaged, and each row has its name."""

from __future__ import annotations

from safa.report.rows import summarise
from tests.report.test_lines import LINE
from tests.report.test_rows import results


def test_runs_of_different_length_or_recipe_are_told_apart():
    rows = summarise([*results("CE"), *results("CE", [0], epochs=5)])
    assert [(row.label, row.n) for row in rows] == [("CE (30 epochs)", 5), ("CE (5 epochs)", 1)]
    rows = summarise([*results("CE"), *results("CE", [0], recipe="recipes/other.yaml")])
    assert [(row.label, row.n) for row in rows] == [("CE (digits-CE)", 5), ("CE (other)", 1)]


def test_runs_of_a_recipe_that_was_edited_between_seeds_are_not_averaged():
    early, before, after = results("CE", [0]), results("CE", [1], recipe_sha256="a" * 64), results("CE", [2, 3])
    after = [line | {"recipe_sha256": "b" * 64} for line in after]
    rows = summarise([*early, *before, *after])
    assert [(row.label, row.n) for row in rows] == [("CE", 1), ("CE (edit aaaaaa)", 1), ("CE (edit bbbbbb)", 2)]
    assert [(row.label, row.n) for row in summarise([*early, *after])] == [("CE", 3)]


def test_runs_of_another_number_of_processes_are_told_apart():
    """Each process pairs its own rows, so they are not the same run on another machine."""
    lines = [*results("CE", [0, 1], processes=1), *results("CE", [0], processes=4)]
    assert [(row.label, row.n) for row in summarise(lines)] == [("CE (1 process)", 2), ("CE (4 processes)", 1)]


def test_the_same_changes_in_another_order_are_one_row():
    lines = [*results("CE", [0], changes=["a=1", "b=2"]), *results("CE", [1], changes=["b=2", "a=1"])]
    (row,) = summarise([*lines, *results("CE-SAFA")])[:1]
    assert (row.label, row.seeds) == ("CE (a=1, b=2)", (0, 1))


def test_data_sets_of_one_name_are_told_apart():
    lines = [*results("CE", [0], images_sha256="a" * 64), *results("CE", [0], images_sha256="b" * 64)]
    assert [row.label for row in summarise(lines)] == ["CE (images aaaaaa)", "CE (images bbbbbb)"]
    assert [row.label for row in summarise([*lines[:1], *results("CE", [1])])] == ["CE"]  # a line from before the key


def test_a_run_with_changed_settings_is_a_row_of_its_own():
    changed = {**LINE, "changes": ["stages.1.augmenter.start=random"], "error_last": 99.0}
    rows = summarise([LINE, changed])
    assert [(row.variant, row.superseded) for row in rows] == [("", 0), ("stages.1.augmenter.start=random", 0)]
