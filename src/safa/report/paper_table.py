"""A table of the paper with our results beside it: all of its rows, our further ones, and what was not run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from safa.errors import UserError
from safa.report import github, paper
from safa.report.lines import Line
from safa.report.paper import Figure
from safa.report.rows import Row, summarise
from safa.report.tables import BEST_NOTE, DIFFERENCE_NOTE, NOTE

_LEFT_ALIGNED = ("network", "method")


@dataclass(frozen=True)
class Setting:
    """What a recipe runs, in the words of its result line.

    Attributes:
        recipe: its name; ``table1/cifar100/ce`` is a row of Table 1.
        dataset, imbalance_factor, model, method, epochs: as in the line.
    """

    recipe: str
    dataset: str
    imbalance_factor: float
    model: str
    method: str
    epochs: int

    @property
    def group(self) -> str:
        """The table the recipe belongs to, or another folder of recipes."""
        return self.recipe.partition("/")[0]


@dataclass(frozen=True)
class Entry:
    """A row of the table: the paper's figure, and ours where it was run.

    Attributes:
        method: the paper's word for a row of the paper, ours for a row of our own.
        paper: ``Figure()`` for a row of our own.
        ours: None for what was not run.
    """

    model: str
    method: str
    paper: Figure
    ours: Row | None = None

    @property
    def difference(self) -> float | None:
        """Our mean minus the paper's figure, in percentage points."""
        return None if self.ours is None or self.paper.error is None else self.ours.last.mean - self.paper.error


@dataclass(frozen=True)
class Block:
    """All rows of a table on one data set at one imbalance factor."""

    dataset: str
    imbalance_factor: float
    entries: tuple[Entry, ...]

    @property
    def title(self) -> str:
        """Data set, factor and, where all rows have the same, network."""
        network = "" if self.has_several_networks else f", {self.entries[0].model}"
        return f"{self.dataset}, imbalance factor {self.imbalance_factor:g}{network}"

    @property
    def has_several_networks(self) -> bool:
        """Whether a row needs its network named."""
        return len({entry.model for entry in self.entries}) > 1


@dataclass(frozen=True)
class PaperTable:
    """What is shown of a table of the paper, and the sentences below it."""

    caption: str
    blocks: tuple[Block, ...]
    notes: tuple[str, ...]


def beside_paper(
    name: str, lines: Sequence[Line], settings: Sequence[Setting] = (), imbalance_factor: float | None = None
) -> PaperTable:
    """Put what was run beside a table of the paper.

    Further rows are the methods of ``settings`` that belong to the table, and methods of ``lines`` that belong to no
    other. Lines of fewer epochs than the paper's, and of runs whose recipe was changed, are left out: they are no
    rows of its table.

    Args:
        name: ``table1``, ``table5`` or ``table6``.
        lines: result lines, whatever they are of.
        settings: what the recipes run, of all tables.
        imbalance_factor: what to show; the columns of the table's own settings and all that have a line when empty.

    Raises:
        UserError: for a table or a factor that the paper does not have.
    """
    content = paper.table(name)
    columns = paper.columns(name)
    factors = list(dict.fromkeys(factor for _, factor in columns))
    if imbalance_factor is not None and imbalance_factor not in factors:
        known = ", ".join(f"{factor:g}" for factor in factors)
        raise UserError(f"{name} of the paper has the imbalance factors {known}, got {imbalance_factor:g}")
    ours = _Own(name, settings)
    within = [line for line in lines if ours.has(line["model"], line["method"]) and _column(line) in columns]
    whole = [line for line in within if line["epochs"] >= content["epochs"]]
    unchanged = [line for line in whole if not line.get("changes")]
    rows = summarise(unchanged)
    run = {(row.dataset, row.imbalance_factor) for row in rows} | ours.columns
    shown = [c for c in columns if (c in run if imbalance_factor is None else c[1] == imbalance_factor)]
    blocks = tuple(ours.block(rows, *column) for column in shown)
    left_out = {
        f"of fewer than {content['epochs']} epochs": len(within) - len(whole),
        "of changed recipes (--set)": len(whole) - len(unchanged),
    }
    return PaperTable(
        f"Table {name.removeprefix('table')} of the paper. {content['caption']}",
        blocks,
        tuple(_notes(name, blocks, rows, left_out)),
    )


class _Own:
    """Which rows a table has: the paper's, those of its recipes, and those of lines that no other table claims."""

    def __init__(self, name: str, settings: Sequence[Setting]) -> None:
        self.name = name
        self.settings = [setting for setting in settings if setting.group == name]
        self.columns = {(setting.dataset, setting.imbalance_factor) for setting in self.settings}
        named = [*paper.rows(name), *((setting.model, setting.method) for setting in self.settings)]
        self.known = {(model, paper.key(method)) for model, method in named}
        self.models = {model for model, _ in paper.rows(name)}
        others = [setting.method for setting in settings if setting.group != name]
        others += [method for other in paper.names() if other != name for _, method in paper.rows(other)]
        self.elsewhere = {paper.key(method) for method in others}

    def has(self, model: str, method: str) -> bool:
        """Whether a line is of this table."""
        key = paper.key(method)
        return (model, key) in self.known or (model in self.models and key not in self.elsewhere)

    def names(self, rows: Sequence[Row], dataset: str) -> list[tuple[str, str]]:
        """Model and method of all rows: the paper's in its order, those of recipes, those of lines alone."""
        named = [*paper.rows(self.name), *((s.model, s.method) for s in self.settings if s.dataset == dataset)]
        unique: dict[tuple[str, str], tuple[str, str]] = {}
        for model, method in [*named, *((row.model, row.method) for row in rows)]:
            unique.setdefault((model, paper.key(method)), (model, method))
        return list(unique.values())

    def block(self, rows: Sequence[Row], dataset: str, imbalance_factor: float) -> Block:
        """All rows on one data set at one factor; a row that was not run has one entry, too."""
        here = [row for row in rows if (row.dataset, row.imbalance_factor) == (dataset, imbalance_factor)]
        entries: list[Entry] = []
        for model, method in self.names(here, dataset):
            place = {"model": model, "method": method, "dataset": dataset}
            figure = paper.figure(self.name, **place, imbalance_factor=imbalance_factor)
            found = [row for row in here if (row.model, paper.key(row.method)) == (model, paper.key(method))]
            if found:
                entries += [Entry(model, _with_variant(method, row), figure, row) for row in found]
            else:
                entries.append(Entry(model, method, figure))
        return Block(dataset, imbalance_factor, tuple(entries))


def _column(line: Line) -> tuple[str, float]:
    return str(line["dataset"]), float(line["imbalance_factor"])


def _with_variant(method: str, row: Row) -> str:
    return f"{method} ({row.variant})" if row.variant else method


def to_markdown(table: PaperTable) -> str:
    """One GitHub table per block, then the notes; ends without a newline."""
    parts = [" ".join(github.escaped([table.caption]))]
    for block in table.blocks:
        headings = _headings(block)
        body = [_cells(entry, headings) for entry in block.entries]
        parts += [f"**{block.title}**", github.table(headings, body, left=_LEFT_ALIGNED)]
    return "\n\n".join([*parts, github.notes(table.notes)])


def to_rich(table: PaperTable) -> list[Table]:
    """One table for the terminal per block; the notes stand below the last. Fits 80 columns."""
    return [_rich(block) for block in table.blocks]


def _rich(block: Block) -> Table:
    drawn = Table(title=block.title, box=SIMPLE_HEAD, padding=(0, 1, 0, 0), title_justify="left")
    drawn.show_edge = drawn.pad_edge = False
    headings = _headings(block)
    for heading in headings:
        drawn.add_column(heading, justify="left" if heading in _LEFT_ALIGNED else "right", no_wrap=heading != "method")
    for entry, following in zip(block.entries, [*block.entries[1:], None], strict=True):
        ends = following is not None and following.paper.error is None and entry.paper.error is not None
        # Text, not str: a method called "[red]" is a name, not markup.
        drawn.add_row(*(Text(cell) for cell in _cells(entry, headings)), end_section=ends)
    return drawn


def _headings(block: Block) -> list[str]:
    network = ["network"] if block.has_several_networks else []
    return [*network, "method", "n", "ours", "paper", "difference", "best on test*"]


def _cells(entry: Entry, headings: Sequence[str]) -> list[str]:
    ours, figure, gap = entry.ours, entry.paper, entry.difference
    cells = {
        "network": entry.model,
        "method": entry.method,
        "n": str(ours.n) if ours else "–",
        "ours": ours.last.text() if ours else "not run",
        "paper": "–" if figure.error is None else f"{figure.error:.2f}{'†' if figure.remark else ''}",
        "difference": "–" if gap is None else f"{gap:+.2f}".replace("-", "−"),
        "best on test*": ours.best.text() if ours and ours.best else "–",
    }
    return [cells[heading] for heading in headings]


def _notes(name: str, blocks: Sequence[Block], rows: Sequence[Row], left_out: Mapping[str, int]) -> list[str]:
    entries = [entry for block in blocks for entry in block.entries]
    notes = [f"Ours: {NOTE[0].lower()}{NOTE[1:]}", BEST_NOTE, DIFFERENCE_NOTE]
    notes += [f"† {remark}" for remark in dict.fromkeys(entry.paper.remark for entry in entries) if remark]
    superseded = sum(entry.ours.superseded for entry in entries if entry.ours)
    if superseded:
        notes.append(f"{superseded} earlier {'line' if superseded == 1 else 'lines'} of the same seed left out.")
    notes += [f"{n} {'line' if n == 1 else 'lines'} {which} left out." for which, n in left_out.items() if n]
    return [*notes, _coverage(name, rows)]


def _coverage(name: str, rows: Sequence[Row]) -> str:
    """How much of the table was run at all, shown or not."""
    figures = len(paper.rows(name)) * len(paper.columns(name))
    run = {(row.model, paper.key(row.method), row.dataset, row.imbalance_factor) for row in rows}
    known = {(model, paper.key(method)) for model, method in paper.rows(name)}
    return f"Run so far: {sum(place[:2] in known for place in run)} of the {figures} figures of the paper's table."
