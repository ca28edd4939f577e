"""A table of the paper with ours beside it: every row is there, and every line is where it belongs or is counted."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from safa import library
from safa.commands.reporting import settings
from safa.errors import UserError
from safa.report import paper, paper_table
from safa.report.paper_table import Setting, beside_paper
from tests.report.test_lines import LINE


def line(method: str = "LDAM-DRW", error: float = 56.0, **changes) -> dict:
    place = {"dataset": "cifar100", "imbalance_factor": 100.0, "model": "resnet32", "epochs": 200}
    recipe = f"table1/cifar100/{method.lower()}"
    return LINE | place | {"method": method, "recipe": recipe, "error_last": error, "error_best": error - 1} | changes


def setting(recipe: str, method: str, **changes) -> Setting:
    place = {"dataset": "cifar100", "imbalance_factor": 100.0, "model": "resnet32", "epochs": 200}
    return Setting(recipe, **{**place, "method": method, **changes})


SHIPPED = (
    setting("table1/cifar100/ce", "CE"),
    setting("table1/cifar100/ce-drw", "CE-DRW"),
    setting("table5/cifar100/resnet56/ldam-drw", "LDAM-DRW", model="resnet56", imbalance_factor=200.0),
    setting("table6/cifar100/without-l-r", "LDAM-DRW-SAFA w/o L_r"),
    setting("insertion/cifar100/before-layer2", "LDAM-DRW-SAFA [before layer2]"),
)


def block(name: str = "table1", lines=(), settings=SHIPPED, index: int = 0, **options) -> paper_table.Block:
    return beside_paper(name, list(lines), settings, **options).blocks[index]


def entry(found: paper_table.Block, method: str) -> paper_table.Entry:
    (only,) = [entry for entry in found.entries if entry.method == method]
    return only


def test_every_row_of_the_paper_is_there_in_its_order_and_its_words():
    entries = block().entries
    assert [(e.model, e.method) for e in entries][:15] == paper.rows("table1")
    assert all(e.ours is None and e.paper.error is not None for e in entries[:15])


def test_our_line_stands_in_the_row_of_the_paper_that_it_is():
    found = entry(block(lines=[line("LDAM", 59.9)]), "LDAM loss")
    assert (found.ours.last.mean, found.paper.error) == (59.9, 59.4)
    assert found.difference == pytest.approx(0.5)


def test_what_was_not_run_has_no_difference():
    assert entry(block(), "LDAM loss").difference is None


def test_several_seeds_are_one_row_and_their_mean_is_compared():
    found = entry(block(lines=[line(error=56.0), line(error=58.0, seed=1)]), "LDAM-DRW")
    assert (found.ours.n, found.ours.last.mean, found.ours.last.sd) == (2, 57.0, pytest.approx(2**0.5))
    assert found.difference == pytest.approx(57.0 - 57.11)


def test_two_recipes_of_one_method_are_two_rows():
    found = block(lines=[line(recipe="table1/cifar100/ldam-drw"), line(recipe="mine", error=50.0)])
    assert entry(found, "LDAM-DRW (mine)").difference == pytest.approx(50 - 57.11)
    assert entry(found, "LDAM-DRW (ldam-drw)").ours.last.mean == 56.0


def test_rows_of_shipped_recipes_that_the_paper_lacks_follow_and_rows_of_lines_alone_come_last():
    lines = [line("Mine", 40.0), line("CE-DRW", 58.0)]
    further = block(lines=lines).entries[15:]
    assert [(e.method, e.paper.error, e.ours.last.mean) for e in further] == [("CE-DRW", None, 58), ("Mine", None, 40)]
    assert [(e.method, e.ours) for e in block().entries[15:]] == [("CE-DRW", None)]


def test_a_line_of_another_table_is_not_in_this_one():
    others = [line("LDAM-DRW-SAFA w/o L_r"), line("LDAM-DRW-SAFA [before layer2]")]
    assert [e.method for e in block(lines=others).entries[15:]] == ["CE-DRW"]
    assert entry(block("table6", others), "LDAM-DRW-SAFA w/o L_r").ours is not None
    methods = {e.method for e in block("table6", [line("CE"), line("CE-DRW")]).entries}
    assert methods == {method for _, method in paper.rows("table6")}


def test_a_control_that_was_shipped_is_no_row_of_the_paper():
    shipped = settings(library.folder(), every=True).values()
    controls = [line("LDAM-DRW [adjusted 1]"), line("LDAM-DRW-Repeat [averaged]")]
    for name in ("table1", "table6"):
        shown = [entry.method for entry in block(name, controls, shipped, imbalance_factor=100.0, index=1).entries]
        assert "LDAM-DRW" in shown
        assert not {control["method"] for control in controls} & set(shown)


def test_a_method_that_two_tables_have_is_in_both():
    lines = [line("LDAM-DRW-SAFA", 55.0)]
    for name in ("table1", "table6"):
        assert entry(block(name, lines), "LDAM-DRW-SAFA").difference == pytest.approx(55 - 53.96)


def test_table_5_names_the_network_of_each_row():
    lines = [line(model="resnet56", dataset="cifar10", imbalance_factor=200.0, error=23.0)]
    found = block("table5", lines)
    assert found.title == "cifar10, imbalance factor 200"
    (row,) = [e for e in found.entries if e.ours]
    assert (row.model, row.paper.error) == ("resnet56", 23.59)
    assert "| network | method | n |" in paper_table.to_markdown(beside_paper("table5", lines, SHIPPED))


def test_by_default_the_columns_of_the_recipes_and_all_with_a_line_are_shown():
    shown = beside_paper("table1", [line(dataset="cifar10", imbalance_factor=50.0)], SHIPPED).blocks
    assert [(b.dataset, b.imbalance_factor) for b in shown] == [("cifar10", 50), ("cifar100", 100)]


def test_a_factor_that_is_named_is_shown_alone_for_both_data_sets():
    shown = beside_paper("table1", [line()], SHIPPED, imbalance_factor=20).blocks
    assert [b.title for b in shown] == [f"{name}, imbalance factor 20, resnet32" for name in ("cifar10", "cifar100")]


def test_other_data_sets_factors_and_networks_are_nowhere():
    lines = [line(dataset="digits"), line(imbalance_factor=30.0), line("Mine", model="resnet14")]
    found = beside_paper("table1", lines, SHIPPED)
    assert not any(e.ours for b in found.blocks for e in b.entries)
    assert found.notes[-1] == "Run so far: 0 of the 150 figures of the paper's table."


def test_a_shorter_run_is_left_out_and_counted():
    found = beside_paper("table1", [line(epochs=30), line(epochs=230, method="cRT")], SHIPPED)
    assert entry(found.blocks[0], "LDAM-DRW").ours is None
    assert entry(found.blocks[0], "cRT").ours is not None
    assert "1 line of fewer than 200 epochs left out." in found.notes


def test_a_run_whose_recipe_was_changed_is_left_out_and_counted():
    changed = [line(changes=["batch_size=64"], seed=seed) for seed in range(2)]
    found = beside_paper("table1", [*changed, line("LDAM", changes=[])], SHIPPED)
    assert entry(found.blocks[0], "LDAM-DRW").ours is None
    assert entry(found.blocks[0], "LDAM loss").ours is not None
    assert "2 lines of changed recipes (--set) left out." in found.notes
    assert found.notes[-1] == "Run so far: 1 of the 150 figures of the paper's table."


def test_the_notes_say_how_much_was_run_what_is_doubtful_and_what_was_superseded():
    lines = [line("CE"), line("CE", 60.0), line("LDAM"), line("CE", dataset="cifar10"), line("Mine")]
    notes = beside_paper("table1", lines, SHIPPED, imbalance_factor=100).notes
    assert "Run so far: 3 of the 150 figures of the paper's table." in notes
    assert "1 earlier line of the same seed left out." in notes
    assert sum(note.startswith("† The paper prints the same five") for note in notes) == 1
    assert any("best on test*" in note.lower() for note in notes)


def test_a_factor_or_table_that_the_paper_lacks_is_answered_with_those_it_has():
    with pytest.raises(UserError, match="table5 of the paper has the imbalance factors 200, 10, got 100"):
        beside_paper("table5", [], imbalance_factor=100)
    with pytest.raises(UserError, match="no table 'table9' of the paper; there are table1, table5, table6"):
        beside_paper("table9", [])


def test_markdown_is_the_golden_text():
    found = beside_paper("table6", [line("LDAM-DRW-SAFA", 55.08)], SHIPPED)
    assert paper_table.to_markdown(found) == (
        "Table 6 of the paper. Top-1 test error (%) of ResNet-32 with SAFA and LDAM-DRW, without each loss term of "
        "Eq. 1.\n\n"
        "**cifar100, imbalance factor 100, resnet32**\n\n"
        "| method | n | ours | paper | difference | best on test\\* |\n"
        "| --- | ---: | ---: | ---: | ---: | ---: |\n"
        "| LDAM-DRW | – | not run | 57.11 | – | – |\n"
        "| LDAM-DRW-SAFA w/o L\\_r | – | not run | 62.41 | – | – |\n"
        "| LDAM-DRW-SAFA w/o L\\_ms^t | – | not run | 54.38 | – | – |\n"
        "| LDAM-DRW-SAFA w/o L\\_ms^h | – | not run | 55.09 | – | – |\n"
        "| LDAM-DRW-SAFA w/o L\\_c | – | not run | 54.13 | – | – |\n"
        "| LDAM-DRW-SAFA | 1 | 55.08 | 53.96 | +1.12 | 54.08 |\n\n"
        "Ours: top-1 error in per cent of the test set at the last epoch, mean ± sample sd over n seeds.  \n"
        "Best on test\\*: the epoch was chosen on the test set itself; shown for comparison only.  \n"
        "Difference: ours minus the paper's figure, in percentage points.  \n"
        "Run so far: 1 of the 60 figures of the paper's table."
    )


def test_no_figure_is_cut_in_a_terminal_of_80_columns():
    lines = [line("CE", 61.4), line("CE", 62.0, seed=1), line("LDAM-DRW-Hallucinator [long variant]")]
    console = Console(file=io.StringIO(), width=80)
    for drawn in paper_table.to_rich(beside_paper("table1", lines, SHIPPED)):
        console.print(drawn)
    text = console.file.getvalue()
    assert "…" not in text
    assert re.search(r"CE loss +2 +61\.70 ± 0\.42 +61\.23† +\+0\.47 +60\.70 ± 0\.42", text)
    assert "cifar100, imbalance factor 100, resnet32" in text
