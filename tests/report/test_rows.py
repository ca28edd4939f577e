"""Rows: the means are means, and the paper's figure stands beside what is comparable."""

from __future__ import annotations

import statistics

import pytest

from safa.report.rows import against_paper, summarise
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


def test_runs_of_two_precisions_are_not_averaged_and_both_have_the_papers_figure():
    place = PLACE | {"method": "LDAM-DRW"}
    given = [line for p in ("bf16", "float32") for line in results("CE", [0], **place | {"precision": p})]
    rows = against_paper(summarise(given))
    assert [(row.label, row.paper) for row in rows] == [("LDAM-DRW (bf16)", 57.11), ("LDAM-DRW (float32)", 57.11)]
    assert [row.label for row in summarise(given[:1])] == ["LDAM-DRW"]


def test_seeds_of_other_training_images_are_marked():
    lines = [*results("CE", [0], subset_sha256="a"), *results("CE", [1], subset_sha256="b")]
    assert [row.mixed for row in summarise([*lines, *results("CE-SAFA", [0, 1], subset_sha256="a")])] == [True, False]
    again = results("CE", [1], subset_sha256="a")  # of the seed whose earlier line had others
    assert [row.mixed for row in summarise([*lines, *again])] == [False]


def test_a_run_shorter_than_the_papers_is_no_row_of_the_paper():
    (row,) = against_paper(summarise(results("CE", [0], **PLACE | {"method": "LDAM-DRW", "epochs": 30})))
    assert (row.epochs, row.paper) == (30, None)


def test_a_run_whose_recipe_was_changed_is_no_row_of_the_paper():
    changed = results("CE", [0], **PLACE | {"method": "LDAM-DRW", "changes": ["batch_size=64"]})
    (row,) = against_paper(summarise(changed))
    assert (row.label, row.paper) == ("LDAM-DRW (batch_size=64)", None)
