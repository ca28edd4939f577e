"""The page's first sentence: which method helps the rare classes, by how much, and whether that is settled."""

from __future__ import annotations

from dataclasses import dataclass

from safa.report.comparison import Comparison
from safa.report.rows import Paired, Row, paired, summarise
from safa.report.spread import Difference, Spread

CLEAR_NOTE = "A difference counts as clear when its mean exceeds twice its standard error over seeds."


@dataclass(frozen=True)
class Headline:
    """Plain text, not yet escaped: a claim, and the figures behind it."""

    claim: str
    detail: str


def headline(comparison: Comparison) -> Headline:
    """Say in plain words what the page shows for the rare classes."""
    rows = {row.label: row for row in summarise(comparison.lines)}
    if comparison.baseline is None:
        return _single(comparison, rows[comparison.methods[0]])
    pairs = paired(comparison.lines, comparison.baseline)
    known = [pair for pair in pairs if _rare(comparison, pair) is not None]
    if not known:
        return _unpaired(comparison, rows)
    closest = min(known, key=lambda pair: _rare_gap(comparison, pair).mean)
    return Headline(_claim(comparison, closest, len(pairs)), _detail(comparison, closest, rows))


def _rare(comparison: Comparison, pair: Paired) -> Difference | None:
    gap: Difference | None = getattr(pair, comparison.rare_group)
    return gap


def _rare_gap(comparison: Comparison, pair: Paired) -> Difference:
    gap = _rare(comparison, pair)
    assert gap is not None
    return gap


def _claim(comparison: Comparison, pair: Paired, rivals: int) -> str:
    gap = _rare_gap(comparison, pair)
    gain = -gap.mean
    more = f"{abs(gain):.1f} points {'more' if gain > 0 else 'fewer'} of the rare classes’ images right"
    if gain <= 0:
        subject = f"{pair.method} does" if rivals == 1 else f"No method does; {pair.method} comes closest and"
        ending = "the same share right" if f"{gain:.1f}" in ("0.0", "-0.0") else more
        verb = "not help the rare classes: it gets" if rivals == 1 else "gets"
        if rivals > 1:
            return f"No method helps the rare classes: {pair.method} comes closest and {verb} {ending}"
        return f"{subject} {verb} {ending} as {pair.baseline}" if ending != more else (
            f"{subject} {verb} {more} than {pair.baseline}"
        )
    if gap.sd is None:
        return f"On one seed, {pair.method} gets {more} than {pair.baseline}"
    if not gap.is_clear:
        return f"No clear gain for the rare classes: {pair.method} gets {more}, within the spread over seeds"
    return f"{pair.method} gets {more} than {pair.baseline}"


def _detail(comparison: Comparison, pair: Paired, rows: dict[str, Row]) -> str:
    ours, theirs = rows[pair.method], rows[pair.baseline]
    return ""


def _single(comparison: Comparison, row: Row) -> Headline:
    raise NotImplementedError


def _unpaired(comparison: Comparison, rows: dict[str, Row]) -> Headline:
    raise NotImplementedError
