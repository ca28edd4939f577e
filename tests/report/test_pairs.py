"""Differences: of the seeds both methods have, of the classes both mean, and of runs that are alike."""

from __future__ import annotations

import pytest

from safa.errors import UserError
from safa.report.pairs import alike_within_seeds, paired, paired_with_first
from safa.report.rows import summarise
from tests.report.test_rows import results


def test_paired_difference_by_hand():
    lines = [*results("CE", [0, 1, 2]), *results("CE-SAFA", [1, 2, 4])]
    (pair,) = paired(lines, baseline="CE")
    # Common seeds 1 and 2: 60.1 - 62.5 = -2.4 and 60.9 - 60.2 = 0.7; mean -0.85, sd 3.1 / sqrt(2).
    assert pair.seeds == (1, 2)
    assert pair.last.mean == pytest.approx(-0.85)
    assert pair.last.sd == pytest.approx(3.1 / 2**0.5)
    assert (pair.last.wins, pair.last.n) == (1, 2)
    assert not pair.last.is_clear


def test_groups_of_other_classes_are_not_subtracted():
    """As when a meta set is taken out: a class of 20 images has 10 left and is few-shot, and its error moves over."""
    ours = [line | {"groups": {"many": [0], "medium": [], "few": [1, 2]}} for line in results("CE-SAFA", [0, 1])]
    theirs = [line | {"groups": {"many": [0], "medium": [1], "few": [2]}} for line in results("CE", [0, 1])]
    (pair,) = paired([*theirs, *ours], "CE")
    assert pair.last.n == pair.many.n == 2
    assert pair.medium is None
    assert pair.few is None


def of_two_precisions(name: str, seeds: dict[int, str]) -> list[dict]:
    return [line for seed, precision in seeds.items() for line in results(name, [seed], precision=precision)]


def test_differences_of_seeds_in_different_precisions_are_averaged_where_each_is_of_one():
    seeds = {0: "bf16", 1: "float32", 2: "bf16"}
    lines = [*of_two_precisions("CE", seeds), *of_two_precisions("CE-SAFA", seeds)]
    assert [row.label for row in summarise(lines)][:2] == ["CE (bf16)", "CE (float32)"]
    (pair,) = paired(alike_within_seeds(lines, "CE"), "CE")
    assert (pair.method, pair.seeds) == ("CE-SAFA", (0, 1, 2))
    assert pair.last.mean == pytest.approx((-3.0 - 2.4 + 0.7) / 3)
    assert paired_with_first(lines) == [pair]


def test_a_run_in_another_precision_than_the_baseline_s_is_a_row_of_its_own_and_leaves_the_others_alone():
    seeds = {0: "bf16", 1: "float32"}
    lines = [*of_two_precisions("CE", seeds), *of_two_precisions("CE-SAFA", seeds)]
    further = results("CE-SAFA", [0, 1], method="LDAM", recipe="ldam", precision="bf16")
    elsewhere = [*results("CE", dataset="cifar10"), *results("CE-SAFA", dataset="cifar10")]
    found = {(pair.dataset, pair.method): pair for pair in paired_with_first([*lines, *further, *elsewhere])}
    alone = {(pair.dataset, pair.method): pair for pair in paired_with_first([*lines, *elsewhere])}
    assert alone.items() <= found.items()
    assert {pair.baseline for pair in found.values()} == {"CE"}
    added = [pair for key, pair in found.items() if key not in alone]
    assert [(pair.method, pair.seeds, pair.unlike) for pair in added] == [
        ("LDAM", (0,), ()),
        ("LDAM (bf16)", (1,), ("precision",)),
    ]


def test_a_baseline_with_a_seed_in_two_precisions_has_them_told_apart():
    lines = [*results("CE", [0], precision="bf16"), *results("CE", [0], precision="float32")]
    lines += [*results("CE-SAFA", [0], precision="bf16")]
    assert alike_within_seeds(lines, "CE") == lines
    assert [(pair.method, pair.baseline) for pair in paired_with_first(lines)] == [
        ("CE (float32)", "CE (bf16)"),
        ("CE-SAFA", "CE (bf16)"),
    ]


def test_a_baseline_that_is_told_apart_on_one_data_set_is_the_baseline_on_the_others_too():
    lines = [*results("CE", [0], recipe="a/one"), *results("CE", [0], recipe="a/two"), *results("CE-SAFA", [0])]
    elsewhere = [*results("CE", [0], dataset="cifar10"), *results("CE-SAFA", [0], dataset="cifar10")]
    found = paired_with_first([*lines, *elsewhere])
    assert [(pair.dataset, pair.method, pair.baseline) for pair in found][-1] == ("cifar10", "CE-SAFA", "CE")
    assert {pair.baseline for pair in found[:-1]} == {"CE (one)"}


@pytest.mark.parametrize(
    ("ours", "theirs", "unlike"),
    [
        ({"precision": "bf16"}, {"precision": "bf16"}, ()),
        ({"precision": "bf16"}, {"precision": "float32"}, ("precision",)),
        ({"subset_sha256": "a"}, {"subset_sha256": "b"}, ("training images",)),
        ({"subset_sha256": "a", "images_sha256": "c"}, {"subset_sha256": "a", "images_sha256": "d"}, ("images",)),
        ({"images_sha256": "c"}, {}, ()),  # lines from before the key
    ],
)
def test_a_difference_names_what_else_the_runs_of_a_seed_differ_in(ours, theirs, unlike):
    (pair,) = paired([*results("CE", [0, 1], **theirs), *results("CE-SAFA", [0, 1], **ours)], "CE")
    assert pair.unlike == unlike
    assert pair.last.n == 2


def test_a_seed_that_only_one_method_has_makes_no_difference_unlike():
    lines = [*of_two_precisions("CE", {0: "bf16", 1: "float32"}), *of_two_precisions("CE-SAFA", {0: "bf16"})]
    (pair,) = paired(alike_within_seeds(lines, "CE"), "CE")
    assert (pair.seeds, pair.unlike) == ((0,), ())


def test_a_tie_is_not_a_win():
    lines = [*results("CE", [0], error_last=50), *results("CE-SAFA", [0], error_last=50)]
    (pair,) = paired(lines, baseline="CE")
    assert (pair.last.mean, pair.last.wins) == (0, 0)


def test_an_unknown_baseline_is_answered_with_the_names_there_are():
    with pytest.raises(UserError, match="'LDAM'; there are CE, CE-SAFA"):
        paired([*results("CE"), *results("CE-SAFA")], baseline="LDAM")


@pytest.mark.parametrize("baseline", ["CE (a=[b])", "CE (batch_size=8, a=[b])"])
def test_paired_rows_are_named_without_what_was_changed_in_all_of_them(baseline):
    both, own = {"changes": ["batch_size=8", "a=[b]"]}, {"changes": ["batch_size=8", "seed=1"]}
    lines = [*results("CE", **both), *results("CE-SAFA", **own)]
    (pair,) = paired(lines, baseline)
    assert (pair.method, pair.baseline, pair.seeds) == ("CE-SAFA (seed=1)", "CE (a=[b])", (0, 1, 2, 3, 4))
    alone = [line | {"changes": ["batch_size=8"]} for line in results("CE")]
    assert paired(alone, "CE (batch_size=8)") == []


def test_one_seed_of_other_images_is_enough_to_make_a_difference_unlike():
    theirs = results("CE", [0, 1], subset_sha256="a")
    ours = [*results("CE-SAFA", [0], subset_sha256="a"), *results("CE-SAFA", [1], subset_sha256="b")]
    (pair,) = paired([*theirs, *ours], "CE")
    assert pair.unlike == ("training images",)
