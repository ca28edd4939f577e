"""The page's first sentence: which method helps the rare classes, by how much, and how surely."""

from __future__ import annotations

from dataclasses import dataclass

from safa.report.comparison import Comparison
from safa.report.pairs import Paired
from safa.report.rows import Row
from safa.report.spread import Difference, Spread

RARE = "the rare classes"
TIE = 0.05  # points; less is 0.0 in print
FEW_TEST_IMAGES = 100  # below, one image is more than a point
CLEAR_NOTE = (
    "A difference is called clear when the 95 % confidence interval of its mean, by Student's t over seeds, leaves "
    "out 0; where all seeds differ by the same, when there are six of them."
)


@dataclass(frozen=True)
class Headline:
    """Plain text, not yet escaped: a claim, and the figures behind it."""

    claim: str
    detail: str


def headline(comparison: Comparison) -> Headline:
    """Say in plain words what the page shows for the rare classes."""
    rows = {row.label: row for row in comparison.rows}
    if comparison.baseline is None:
        return _single(comparison, rows[comparison.methods[0]])
    pairs = comparison.pairs
    gaps = {pair.method: gap for pair in pairs if (gap := _gap(pair, comparison.rare_group)) is not None}
    if not gaps:
        return _unpaired(comparison, rows, paired_at_all=any(pair.seeds for pair in pairs))
    best = min(gaps, key=lambda method: gaps[method].mean)
    pair = next(pair for pair in pairs if pair.method == best)
    claim = _claim(pair, gaps[best], _whom(comparison), rivals=len(pairs))
    detail = _detail(comparison, pair, rows[pair.baseline], rows[pair.method])
    return Headline(claim, " ".join(filter(None, (detail, _untested(comparison), _chosen(len(gaps))))))


def _whom(comparison: Comparison) -> str:
    """The classes that a claim speaks of: rare ones only where none is rarer than those that were tested."""
    if not comparison.rarest_is_tested:
        return f"the {comparison.rare_group}-shot classes"
    return RARE if comparison.rare_group != "many" else "the classes"


def _untested(comparison: Comparison) -> str:
    """What no figure tells, from the rarest group on; nothing where every class has a test image."""
    sentences = []
    for group in reversed(comparison.groups):
        ids = comparison.groups[group]
        unseen = sum(comparison.first["error_per_class"][c] is None for c in ids)
        if unseen:
            share = (
                f"{unseen} of the {len(ids)} {group}-shot classes" if len(ids) > 1 else f"The one {group}-shot class"
            )
            have, them = ("have", "them") if unseen > 1 else ("has", "it")
            sentences.append(f"{share} {have} no test image: nothing is known of {them}.")
    return " ".join(sentences)


def _gap(pair: Paired, group: str) -> Difference | None:
    gap: Difference | None = getattr(pair, group)
    return gap


def _claim(pair: Paired, gap: Difference, whom: str, rivals: int) -> str:
    amount = f"{abs(gap.mean):.1f} points {'more' if gap.mean < 0 else 'fewer'}"
    ending = f"of {whom}’ images right than {pair.baseline}"
    seen = _seen(gap)
    if abs(gap.mean) < TIE:
        return f"{seen}{pair.method} gets as many of {whom}’ images right as {pair.baseline}"
    if gap.mean < 0:
        return f"{seen}{pair.method} gets {amount} {ending}"
    if rivals == 1:
        return f"{seen}{pair.method} does not help {whom}: it gets {amount} {ending}"
    nobody = f"{seen}no method" if seen else "No method"
    return f"{nobody} helps {whom}: the closest, {pair.method}, gets {amount} {ending}"


def _seen(gap: Difference) -> str:
    """How sure the claim is, in front of it; nothing where it is clear."""
    if gap.sd is None:
        return "On one seed, "
    if gap.is_clear:
        return ""
    return f"On only {gap.n} seeds, though alike, " if gap.is_alike else "Within the seeds’ spread, "


def _detail(comparison: Comparison, pair: Paired, theirs: Row, ours: Row) -> str:
    group = comparison.rare_group
    rare = _gap(pair, group)
    sentences = [
        f"Test error on {describe_group(comparison, group)}: {_from_to(pair, theirs, ours, group)}.",
        f"Over all classes: {_from_to(pair, theirs, ours, 'last')}.",
    ]
    many = _gap(pair, "many") if group != "many" else None
    if many is not None:
        sentences.append(_price(many))
    beside = [name for name in comparison.groups if name not in (group, "many")]
    sentences += [_beside(name, gap) for name in beside if (gap := _gap(pair, name)) is not None]
    tested = comparison.test_images(group)
    if tested is not None and tested < FEW_TEST_IMAGES:
        sentences.append(f"These classes have {tested} test images in all: a difference of a few may be chance.")
    if rare is not None and rare.sd is None:
        sentences.append("One seed: the spread is unknown, so read small differences as noise.")
    return " ".join(sentences)


def _chosen(rivals: int) -> str:
    """The best of several looks better than it is, and more so the more there are."""
    if rivals == 1:
        return ""
    return f"It is the best of {rivals} methods by this very figure, so part of the difference may be the choice."


def _price(many: Difference) -> str:
    amount = f"{many.text(signed=True)} points of error"
    if many.sd is not None and not many.is_clear:
        return f"On the frequent classes no clear change: {amount}."
    return f"The frequent classes {'pay for it' if many.mean > 0 else 'do not pay for it'}: {amount}."


def _beside(group: str, gap: Difference) -> str:
    """What happens to a group that the claim does not speak of."""
    seen = "" if gap.sd is None else ", a clear change" if gap.is_clear else ", no clear change"
    return f"On the {group}-shot classes: {gap.text(signed=True)} points of error{seen}."


def _from_to(pair: Paired, theirs: Row, ours: Row, figure: str) -> str:
    before, after = getattr(theirs, figure), getattr(ours, figure)
    gap = _gap(pair, figure)
    if before is None or after is None or gap is None:
        return "not known"
    # The means are over each method's own seeds, the difference over the common ones.
    over = "" if gap.n == before.n == after.n == 1 else f" over {_common(gap.n)}, lower in {gap.wins}"
    return (
        f"{before.mean:.2f} % with {pair.baseline}, {after.mean:.2f} % with {pair.method}, "
        f"a difference of {gap.text(signed=True)} points{over}"
    )


def _common(seeds: int) -> str:
    return "the one common seed" if seeds == 1 else f"{seeds} common seeds"


def _single(comparison: Comparison, row: Row) -> Headline:
    rare: Spread | None = getattr(row, comparison.rare_group)
    whom = _whom(comparison)
    right = f"{100 - rare.mean:.1f} % of {whom} right" if rare else "an unknown share of the rare right"
    others = (
        f", {100 - row.many.mean:.1f} % of the frequent ones" if row.many and comparison.rare_group != "many" else ""
    )
    seeds = "one seed" if row.n == 1 else f"{row.n} seeds"
    sentences = (
        f"Its test error over all classes is {row.last.text()} % ({seeds}).",
        f"{'Rare means' if whom == RARE else 'These are'} {describe_group(comparison, comparison.rare_group)}.",
        _untested(comparison),
        "With a second method on this page, the same sections show what it changes.",
    )
    return Headline(f"{row.label} gets {right}{others}", " ".join(filter(None, sentences)))


def _unpaired(comparison: Comparison, rows: dict[str, Row], paired_at_all: bool) -> Headline:
    group = comparison.rare_group
    errors = {label: getattr(row, group) for label, row in rows.items()}
    listed = ", ".join(f"{figure.text()} % with {label}" for label, figure in errors.items() if figure)
    if paired_at_all:
        claim = f"The {group}-shot classes are not the same in {comparison.baseline} and the others"
        reason = "Bounds or held-out images differ; run the methods with the same ones."
    else:
        claim = f"No method shares a seed with {comparison.baseline}"
        reason = "Differences between different seeds mix the method with chance; run the methods on the same seeds."
    return Headline(
        f"{claim}, so nothing is compared",
        f"Test error on {describe_group(comparison, group)}: {listed or 'not known'}. {reason}",
    )


def describe_group(comparison: Comparison, group: str) -> str:
    """Words such as ``the 30 few-shot classes (5–19 training images each)``."""
    counts = comparison.counts[comparison.groups[group]]
    least, most = int(counts.min()), int(counts.max())
    images = f"{least}" if least == most else f"{least}–{most}"
    classes = "class" if len(counts) == 1 else "classes"
    number = "one" if len(counts) == 1 else len(counts)
    return f"the {number} {group}-shot {classes} ({images} training images each)"
