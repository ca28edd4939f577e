"""One self-contained HTML page for a run or a comparison: no script, no external file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from safa.files import write_atomically
from safa.report.comparison import Comparison, compare
from safa.report.headline import headline
from safa.report.markup import escaped
from safa.report.runs import read_run
from safa.report.sections import SECTIONS
from safa.report.svg import style_sheet


def write_page(runs: Sequence[Path | str], output: Path | str, baseline: str | None = None) -> Path:
    """Write the page of one or several run folders.

    Args:
        runs: run folders of one data set, imbalance factor and network. Only ``result.json`` must be there; a
            section whose file is missing says so.
        output: the HTML file, replaced as a whole.
        baseline: the method the others are compared with; otherwise the method that another extends by name
            (``LDAM-DRW`` for ``LDAM-DRW-SAFA``), otherwise the first.

    Returns:
        The path of the page.

    Raises:
        UserError: if a run cannot be read, the runs do not belong on one page, or the page cannot be written.
    """
    page = render(compare([read_run(run) for run in runs], baseline))
    output = Path(output)
    write_atomically(output, page.encode())
    return output


def render(comparison: Comparison) -> str:
    """Return the whole page as HTML."""
    first = comparison.first
    told = headline(comparison)
    place = f"{first['dataset']}, imbalance factor {first['imbalance_factor']:g}, {first['model']}"
    links = "".join(f'<a href="#{section.anchor}">{section.title}</a>' for section in SECTIONS)
    body = "".join(
        f'<section id="{section.anchor}"><h2>{section.title}</h2>{section.body(comparison)}</section>\n'
        for section in SECTIONS
    )
    style = style_sheet("colours.css") + style_sheet("page.css")
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escaped(place)}: {escaped(", ".join(comparison.methods))}</title>
<style>
{style}</style>
</head>
<body>
<main>
<header>
<p class="over">{escaped(place)}</p>
<h1>{escaped(told.claim)}</h1>
<p class="lead">{escaped(told.detail)}</p>
<nav aria-label="Sections">{links}</nav>
</header>
{body}<footer><p class="note">Written by safa report from result lines and run folders.</p></footer>
</main>
</body>
</html>
"""
