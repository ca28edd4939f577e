"""The paper's figures, spot-checked against its printed tables."""

from __future__ import annotations

import pytest

from safa.errors import UserError
from safa.report import paper


def error(table="table1", model="resnet32", method="LDAM-DRW-SAFA", dataset="cifar100", imbalance_factor=100):
    return paper.figure(table, model=model, method=method, dataset=dataset, imbalance_factor=imbalance_factor)


def remarks(**place):
    return error(**place)[1:]


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
    ("ours", "theirs"),
    [
        ("CE", "CE loss"),
        ("CB-CE", "CB-CE"),
        ("CB-Focal", "CB Focal loss"),
        ("CB-CE-SAFA", "CB-SAFA"),
        ("Focal", "Focal loss"),
        ("Focal-RSG", "Focal loss-RSG"),
        ("Focal-SAFA", "Focal loss-SAFA"),
        ("LDAM", "LDAM loss"),
        ("Meta-Weight-Net", "Meta-weight"),  # the row cites Meta-Weight-Net
    ],
)
def test_our_names_find_the_papers(ours, theirs):
    assert error(method=ours).error == error(method=theirs).error is not None
    assert paper.key(ours) == paper.key(theirs)


def test_what_the_paper_does_not_have_is_none():
    assert error(method="Mine") == (None, "", "")
    assert error(method="L2RW [30 epochs]") == (None, "", "")
    assert error(imbalance_factor=30) == (None, "", "")
    assert error(model="resnet110") == (None, "", "")


def test_the_duplicated_row_of_cifar100_carries_a_remark():
    assert error(method="CE").error == error(method="CB-CE").error == 61.23
    assert "copying slip" in error(method="CE").remark
    assert error(method="CE").brief == "the same for CE and CB-CE"
    assert remarks(method="CE", dataset="cifar10") == ("", "")


def test_table_5_says_that_it_disagrees_with_table_1():
    assert error("table5", imbalance_factor=200).error == 58.31
    assert error(imbalance_factor=200).error == 57.53
    assert "disagrees with Tables 1 and 6, which have 57.53" in error("table5", imbalance_factor=200).remark


def test_where_table_5_agrees_with_table_1_there_is_no_remark():
    for dataset, factor in (("cifar10", 200), ("cifar10", 10), ("cifar100", 200), ("cifar100", 10)):
        figures = [error(name, dataset=dataset, imbalance_factor=factor) for name in ("table5", "table1")]
        differ = figures[0].error != figures[1].error
        assert differ == (f"{figures[1].error} " in figures[0].remark) == bool(figures[0].brief)


def test_every_row_of_table_1_is_complete():
    rows = paper.tables()["table1"]["errors"]["resnet32"]
    assert len(rows) == 15
    for by_dataset in rows.values():
        assert [list(errors) for errors in by_dataset.values()] == [["200", "100", "50", "20", "10"]] * 2
        assert all(9 < error < 70 for errors in by_dataset.values() for error in errors.values())


def test_an_unknown_table_is_answered_with_the_names_there_are():
    with pytest.raises(UserError, match="there are table1, table5, table6"):
        error("table9")


def test_rows_and_columns_stand_in_the_papers_order():
    assert paper.rows("table6")[:2] == [("resnet32", "LDAM-DRW"), ("resnet32", "LDAM-DRW-SAFA w/o L_r")]
    assert paper.columns("table5") == [("cifar10", 200), ("cifar10", 10), ("cifar100", 200), ("cifar100", 10)]
    assert [factor for _, factor in paper.columns("table1")] == [200, 100, 50, 20, 10] * 2


@pytest.mark.parametrize("name", paper.names())
def test_every_row_of_a_table_has_the_same_columns(name):
    for model, method in paper.rows(name):
        errors = paper.table(name)["errors"][model][method]
        found = [(dataset, float(factor)) for dataset, factors in errors.items() for factor in factors]
        assert found == paper.columns(name)
