"""The tables of README and docs are those that the committed result lines give: no figure is typed by hand."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from safa.commands import _markdown_of
from safa.report import readme

ROOT = Path(__file__).parents[1]
DOCUMENTS = (ROOT / "README.md", ROOT / "docs" / "results.md")
RESULTS = sorted((ROOT / "results").glob("*.jsonl"))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_table_is_drawn_from_the_committed_lines(document):
    text = document.read_text(encoding="utf-8")
    assert readme.update(text, {path.stem: _markdown_of(str(path)) for path in RESULTS}) == text


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_marker_has_its_lines(document):
    markers = re.findall(r"<!-- safa:table (\S+) -->", document.read_text(encoding="utf-8"))
    assert markers
    assert set(markers) == {path.stem for path in RESULTS}


@pytest.mark.parametrize("document", [*DOCUMENTS, *sorted((ROOT / "docs").glob("*.md"))], ids=lambda path: path.name)
def test_every_local_link_leads_somewhere(document):
    links = re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", document.read_text(encoding="utf-8"))
    for link in links:
        if "://" not in link:
            assert (document.parent / link).exists(), link
