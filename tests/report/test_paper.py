"""The paper's figures, spot-checked against its printed tables."""

from __future__ import annotations

import pytest

from safa.errors import UserError
from safa.report import paper


def error(table="table1", model="resnet32", method="LDAM-DRW-SAFA", dataset="cifar100", imbalance_factor=100):
    return paper.figure(table, model=model, method=method, dataset=dataset, imbalance_factor=imbalance_factor)


@pytest.mark.parametrize(
    ("expected", "place"),
    [
        (53.96, {}),
        (22.47, {"dataset": "cifar10", "imbalance_factor": 200}),
        (57.11, {"method": "LDAM-DRW"}),
        (26.45, {"method": "LDAM loss", "dataset": "cifar10"}),
        (15.26, {"method": "CB-RSG", "dataset": "cifar10", "imbalance_factor": 20}),
        (44.08, {"method": "Focal loss-SAFA", "imbalance_factor": 20.0}),
        (38.15, {"table": "table5", "model": "resnext29", "imbalance_factor": 10}),
        (20.56, {"table": "table5", "model": "densenet40", "dataset": "cifar10", "imbalance_factor": 200}),
        (62.41, {"table": "table6", "method": "LDAM-DRW-SAFA w/o L_r"}),
        (45.92, {"table": "table6", "method": "LDAM-DRW-SAFA w/o L_ms^t", "imbalance_factor": 20}),
    ],
)
def test_figures_are_those_printed(expected, place):
    assert error(**place)[0] == expected


@pytest.mark.parametrize(
    ("ours", "theirs"), [("CE", "CE loss"), ("CB-Focal", "CB Focal loss"), ("CB-CE-SAFA", "CB-SAFA")]
)
def test_our_names_find_the_papers(ours, theirs):
    assert error(method=ours)[0] == error(method=theirs)[0] is not None


def test_what_the_paper_does_not_have_is_none():
    assert error(method="Mine") == (None, "")
    assert error(imbalance_factor=30) == (None, "")
    assert error(model="resnet110") == (None, "")


def test_the_duplicated_row_of_cifar100_carries_a_remark():
    duplicated, remark = error(method="CE")
    assert duplicated == error(method="CB-CE")[0] == 61.23
    assert "copying slip" in remark
    assert error(method="CE", dataset="cifar10")[1] == ""


def test_table_5_says_that_it_disagrees_with_table_1():
    figure, remark = error("table5", imbalance_factor=200)
    assert figure == 58.31
    assert error(imbalance_factor=200)[0] == 57.53
    assert "disagrees" in remark


def test_every_row_of_table_1_is_complete():
    rows = paper.tables()["table1"]["errors"]["resnet32"]
    assert len(rows) == 15
    for by_dataset in rows.values():
        assert [list(errors) for errors in by_dataset.values()] == [["200", "100", "50", "20", "10"]] * 2
        assert all(9 < error < 70 for errors in by_dataset.values() for error in errors.values())


def test_an_unknown_table_is_answered_with_the_names_there_are():
    with pytest.raises(UserError, match="there are table1, table5, table6"):
        error("table9")
