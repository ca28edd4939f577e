"""Rows: the means are means, the differences are paired, and what is not alike is told apart."""

from __future__ import annotations

import statistics

import pytest

from safa.errors import UserError
from safa.report.rows import against_paper, alike_within_seeds, paired, paired_with_first, summarise
from tests.report.test_lines import LINE

PLACE = {"dataset": "cifar100", "imbalance_factor": 100.0, "model": "resnet32", "epochs": 200}
# Overall and few-shot errors of five seeds.
ERRORS = {"CE": [61.0, 62.5, 60.2, 61.9, 61.4], "CE-SAFA": [58.0, 60.1, 60.9, 57.5, 58.8]}


def results(name: str, seeds: range | list[int] = range(5), **changes) -> list[dict]:
    return [
        LINE
        | {
            "method": name,
            "recipe": f"digits-{name}",
            "seed": seed,
            "error_last": ERRORS[name][seed],
            "error_few": ERRORS[name][seed] + 10 + seed,
        }
        | changes
        for seed in seeds
    ]


def test_mean_and_sd_are_those_of_the_statistics_module():
    (row,) = summarise(results("CE"))
    assert row.n == 5
    assert row.last.mean == pytest.approx(statistics.mean(ERRORS["CE"]))
    assert row.last.sd == pytest.approx(statistics.stdev(ERRORS["CE"]))
    few = [error + 10 + seed for seed, error in enumerate(ERRORS["CE"])]
    assert row.few.mean == pytest.approx(statistics.mean(few))
    assert row.few.sd == pytest.approx(statistics.stdev(few))


def test_a_single_seed_has_no_sd():
    (row,) = summarise(results("CE", [3]))
    assert row.last.sd is None
    assert row.last.text() == "61.90"


def test_data_sets_factors_and_models_are_not_averaged():
    lines = [*results("CE"), *results("CE", imbalance_factor=50), *results("CE", model="resnet14")]
    rows = summarise([*lines, *results("CE", dataset="fashion-mnist")])
    assert [(row.dataset, row.imbalance_factor, row.model, row.n) for row in rows] == [
        ("digits", 20, "resnet8", 5),
        ("digits", 50, "resnet8", 5),
        ("digits", 20, "resnet14", 5),
        ("fashion-mnist", 20, "resnet8", 5),
    ]


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


def test_runs_of_two_precisions_are_not_averaged_and_both_have_the_papers_figure():
    place = PLACE | {"method": "LDAM-DRW"}
    given = [line for p in ("bf16", "float32") for line in results("CE", [0], **place | {"precision": p})]
    rows = against_paper(summarise(given))
    assert [(row.label, row.paper) for row in rows] == [("LDAM-DRW (bf16)", 57.11), ("LDAM-DRW (float32)", 57.11)]
    assert [row.label for row in summarise(given[:1])] == ["LDAM-DRW"]


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


def test_runs_of_another_number_of_processes_are_told_apart():
    """Each process pairs its own rows, so they are not the same run on another machine."""
    lines = [*results("CE", [0, 1], processes=1), *results("CE", [0], processes=4)]
    assert [(row.label, row.n) for row in summarise(lines)] == [("CE (1 process)", 2), ("CE (4 processes)", 1)]


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


def test_the_same_changes_in_another_order_are_one_row():
    lines = [*results("CE", [0], changes=["a=1", "b=2"]), *results("CE", [1], changes=["b=2", "a=1"])]
    (row,) = summarise([*lines, *results("CE-SAFA")])[:1]
    assert (row.label, row.seeds) == ("CE (a=1, b=2)", (0, 1))


def test_data_sets_of_one_name_are_told_apart():
    lines = [*results("CE", [0], images_sha256="a" * 64), *results("CE", [0], images_sha256="b" * 64)]
    assert [row.label for row in summarise(lines)] == ["CE (images aaaaaa)", "CE (images bbbbbb)"]
    assert [row.label for row in summarise([*lines[:1], *results("CE", [1])])] == ["CE"]  # a line from before the key


def test_seeds_of_other_training_images_are_marked():
    lines = [*results("CE", [0], subset_sha256="a"), *results("CE", [1], subset_sha256="b")]
    assert [row.mixed for row in summarise([*lines, *results("CE-SAFA", [0, 1], subset_sha256="a")])] == [True, False]


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


def test_a_run_shorter_than_the_papers_is_no_row_of_the_paper():
    (row,) = against_paper(summarise(results("CE", [0], **PLACE | {"method": "LDAM-DRW", "epochs": 30})))
    assert (row.epochs, row.paper) == (30, None)


def test_a_run_whose_recipe_was_changed_is_no_row_of_the_paper():
    changed = results("CE", [0], **PLACE | {"method": "LDAM-DRW", "changes": ["batch_size=64"]})
    (row,) = against_paper(summarise(changed))
    assert (row.label, row.paper) == ("LDAM-DRW (batch_size=64)", None)


def test_a_run_with_changed_settings_is_a_row_of_its_own():
    changed = {**LINE, "changes": ["stages.1.augmenter.start=random"], "error_last": 99.0}
    rows = summarise([LINE, changed])
    assert [(row.variant, row.superseded) for row in rows] == [("", 0), ("stages.1.augmenter.start=random", 0)]
