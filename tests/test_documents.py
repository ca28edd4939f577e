"""The tables of README and docs are those that the committed result lines give: no figure is typed by hand."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from safa.cli import parser
from safa.commands.reporting import markdown_of
from safa.report import lines, readme
from safa.report.tradeoff import write_tradeoff

ROOT = Path(__file__).parents[1]
DOCUMENTS = (ROOT / "README.md", ROOT / "docs" / "results.md")
COMMAND_LINE = ROOT / "docs" / "command_line.md"
RESULTS = sorted((ROOT / "results").glob("*.jsonl"))


def markers(document: Path) -> set[str]:
    return set(re.findall(r"<!-- safa:table (\S+) -->", document.read_text(encoding="utf-8")))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_table_is_drawn_from_the_committed_lines(document):
    text, named = document.read_text(encoding="utf-8"), markers(document)
    assert readme.update(text, {path.stem: markdown_of(str(path)) for path in RESULTS if path.stem in named}) == text


def test_the_results_page_has_the_table_of_every_file_and_the_readme_of_some():
    readme_s, page_s = (markers(document) for document in DOCUMENTS)
    assert page_s == {path.stem for path in RESULTS}
    assert readme_s
    assert readme_s <= page_s


def test_the_chart_of_the_trade_is_drawn_from_the_committed_lines(tmp_path):
    sources = [line for name in ("cifar100", "controls") for line in lines.read(ROOT / "results" / f"{name}.jsonl")]
    drawn = write_tradeoff(sources, tmp_path / "tradeoff.svg")
    assert drawn.read_text(encoding="utf-8") == (ROOT / "docs" / "tradeoff.svg").read_text(encoding="utf-8")


@pytest.mark.parametrize("document", [*DOCUMENTS, *sorted((ROOT / "docs").glob("*.md"))], ids=lambda path: path.name)
def test_every_local_link_leads_somewhere(document):
    links = re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", document.read_text(encoding="utf-8"))
    for link in links:
        if "://" not in link:
            assert (document.parent / link).exists(), link


@pytest.mark.parametrize(
    "command", ["train", "compare", "evaluate", "predict", "export", "report", "data", "list", "bench"]
)
def test_the_command_line_page_has_every_option_and_no_other(command, capsys):
    with pytest.raises(SystemExit):
        parser().parse_args([command, "--help"])
    offered = set(re.findall(r"^ {2,}(--\w+)", capsys.readouterr().out, re.MULTILINE)) - {"--help"}
    sections = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", COMMAND_LINE.read_text(encoding="utf-8"), re.M | re.S))
    shared = "".join(
        sections[title] for title in ("Which images and which settings", "On which machine, and what is left")
    )
    page = sections[f"`safa {command}`"] + (shared if command in ("train", "compare") else "")
    assert set(re.findall(r"^\| `(--\w+)", page, re.MULTILINE)) == offered
