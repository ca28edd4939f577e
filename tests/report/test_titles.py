"""First lines of recipes: from the paper's tables and the result lines, and in step with those committed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from safa import library
from safa.commands import reporting
from safa.report import lines, titles
from safa.report.paper_table import Setting
from tests.report.test_paper_table import line

ROOT = Path(__file__).parents[2]
DRW = Setting("table1/cifar100/ldam-drw", "cifar100", 100.0, "resnet32", "LDAM-DRW", 200)


def test_a_title_has_the_papers_figure_and_ours_with_n():
    what = "CIFAR-100-LT, imbalance 100, ResNet-32, LDAM-DRW"
    assert titles.title(DRW, [line(error=56.38)]) == f"{what}: paper 57.11 %, ours 56.38 % (n = 1)."
    two = [line(error=56.0), line(error=58.0, seed=1)]
    assert titles.title(DRW, two) == f"{what}: paper 57.11 %, ours 57.00 ± 1.41 % (n = 2)."


def test_a_title_has_a_figure_for_each_precision_of_its_recipe():
    both = [line(error=56.38) | {"precision": "bf16"}, line(error=57.0) | {"precision": "float32"}]
    assert titles.title(DRW, both).endswith(": paper 57.11 %, ours 56.38 % (n = 1, bf16), 57.00 % (n = 1, float32).")


def test_a_title_says_what_was_not_run_and_what_is_not_in_the_paper():
    assert titles.title(DRW, []).endswith("paper 57.11 %, ours not run.")
    own = replace(DRW, recipe="table1/cifar100/ce-drw", method="CE-DRW")
    assert titles.title(own, [line("CE-DRW", 58.0)]).endswith("CE-DRW: not in the paper, ours 58.00 % (n = 1).")


@pytest.mark.parametrize(
    "other",
    [
        {"imbalance_factor": 50.0},
        {"dataset": "cifar10"},
        {"model": "resnet56"},
        {"epochs": 30},
        {"recipe": "mine"},
        {"method": "LDAM"},
    ],
)
def test_a_line_of_anything_else_is_not_ours(other):
    assert "ours not run" in titles.title(DRW, [line(**other)])


def test_a_line_from_before_a_recipe_was_moved_is_ours():
    assert "ours 56.00 %" in titles.title(DRW, [line(recipe="cifar100/ldam-drw")])


def test_a_title_takes_the_figure_of_its_own_table_and_says_where_another_differs():
    safa = replace(DRW, recipe="table5/cifar10/resnet32/ldam-drw-safa", dataset="cifar10", method="LDAM-DRW-SAFA")
    safa = replace(safa, imbalance_factor=200.0)
    assert "CIFAR-10-LT" in titles.title(safa, [])
    assert "paper 23.42 % (22.47 in Tables 1 and 6)" in titles.title(safa, [])
    assert "paper 22.47 %," in titles.title(replace(safa, recipe="table6/cifar10/ldam-drw-safa"), [])


@pytest.mark.parametrize(("name", "written"), [("densenet40", "DenseNet-40"), ("resnext29", "ResNeXt-29"), ("x", "x")])
def test_networks_are_written_as_in_the_paper(name, written):
    assert f", {written}, " in titles.title(replace(DRW, model=name), [])


def test_a_recipe_of_no_table_of_the_paper_has_no_figure_of_it():
    assert "not in the paper" in titles.title(replace(DRW, recipe="insertion/cifar100/ldam-drw"), [])


def test_a_new_title_replaces_the_first_comment_line_alone():
    assert library.retitled("# old\n# kept\nmethod: x\n", "new") == "# new\n# kept\nmethod: x\n"
    assert library.retitled("method: x\n", "new") == "# new\nmethod: x\n"


def test_every_recipe_of_a_table_says_what_the_committed_lines_say():
    """If this fails, run ``safa report --recipes recipes`` at the top of the checkout."""
    found = reporting.titled(ROOT / "recipes", lines.read(ROOT / "results"))
    assert len(found) > 100
    assert [path.name for path, text in found.items() if path.read_text(encoding="utf-8") != text] == []
