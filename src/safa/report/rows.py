"""Result lines -> rows: mean ± sample sd over seeds, the paper's figure beside ours."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from safa.report import paper
from safa.report.distinctions import Block, by_seed, grouped, label_of
from safa.report.lines import Line
from safa.report.spread import Spread, spread


@dataclass(frozen=True)
class Row:
    """One method on one data set at one imbalance factor with one network. Errors in per cent.

    Attributes:
        method: as the lines say, the paper's name.
        distinctions: what tells this row from another of the same method: recipe and which edit of it, number of
            epochs, precision, and each ``key=value`` that was set otherwise than in the recipe; often empty. Also the
            number of processes, which pair their own rows, and which images they are where several data sets have one
            name.
        epochs: how long each run was.
        changed: whether something was set otherwise than in the recipe.
        seeds: the seeds behind the row, in order.
        last: error at the last epoch, the figure that counts.
        best: lowest error of any epoch, picked on the test set; for comparison only.
        many, medium, few: error of the classes with many, a medium number of, and few training images.
        ece: expected calibration error.
        validation: mean over classes of the error on validation images, where some were set aside.
        superseded: lines left out because a later line has the same seed.
        mixed: whether the seeds were not all trained and validated on the same images of the data set.
        paper: the paper's figure, after ``against_paper``.
        remark: why the paper's figure is doubtful.
    """

    dataset: str
    imbalance_factor: float
    model: str
    method: str
    distinctions: tuple[str, ...]
    epochs: int
    changed: bool
    seeds: tuple[int, ...]
    last: Spread
    best: Spread | None
    many: Spread | None
    medium: Spread | None
    few: Spread | None
    ece: Spread | None
    validation: Spread | None = None
    superseded: int = 0
    mixed: bool = False
    paper: float | None = None
    remark: str = ""

    @property
    def n(self) -> int:
        """Number of seeds."""
        return len(self.seeds)

    @property
    def variant(self) -> str:
        """The distinctions as one text."""
        return ", ".join(self.distinctions)

    @property
    def label(self) -> str:
        """The method, with its variant where there is one."""
        return label_of(self.method, self.distinctions)

    @property
    def gap_to_paper(self) -> float | None:
        """Our mean minus the paper's figure, in percentage points; None without a figure of the paper."""
        return None if self.paper is None else self.last.mean - self.paper


def summarise(lines: Iterable[Line]) -> list[Row]:
    """Group lines by data set, imbalance factor, model and method, one row each.

    Rows stand in the order in which data set, factor and model, then method, first appear. Lines of one
    method whose recipe, number of epochs, precision or number of processes differ are not averaged: they become
    rows of their own, told apart by ``distinctions``. Of two lines with the same seed the later counts, as result
    files are append-only.
    """
    blocks = grouped(list(lines))
    return [_row(block, group) for block, methods in blocks.items() for group in methods.values()]


def _row(block: Block, group: Sequence[Line]) -> Row:
    runs = by_seed(group)
    seeds = tuple(sorted(runs))

    def over_seeds(key: str) -> Spread | None:
        return spread([runs[seed].get(key) for seed in seeds])

    last = over_seeds("error_last")
    assert last is not None  # reading refuses a line without it
    return Row(
        *block,
        method=group[0]["method"],
        distinctions=group[0]["distinctions"],
        epochs=int(group[0]["epochs"]),
        changed=bool(group[0].get("changes")),
        seeds=seeds,
        last=last,
        best=over_seeds("error_best"),
        many=over_seeds("error_many"),
        medium=over_seeds("error_medium"),
        few=over_seeds("error_few"),
        ece=over_seeds("ece"),
        validation=over_seeds("balanced_error_validation"),
        superseded=len(group) - len(seeds),
        mixed=len({run["subset_sha256"] for run in runs.values() if run.get("subset_sha256")}) > 1,
    )


def against_paper(rows: Sequence[Row]) -> list[Row]:
    """Put the figure of the paper's Table 1 beside each row, where it has one.

    A shorter run, or one whose recipe was changed, is no row of the paper.
    """
    epochs = paper.table("table1")["epochs"]
    compared = []
    for row in rows:
        figure = paper.figure(
            "table1",
            model=row.model,
            method=row.method,
            dataset=row.dataset,
            imbalance_factor=row.imbalance_factor,
        )
        if row.epochs >= epochs and not row.changed:
            row = replace(row, paper=figure.error, remark=figure.remark)
        compared.append(row)
    return compared
