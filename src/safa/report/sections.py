"""The sections of the page, each from a comparison to HTML."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from safa.report import charts, class_charts, confusion, curves, embedding
from safa.report.comparison import Comparison
from safa.report.headline import CLEAR_NOTE, describe_group
from safa.report.markup import absent, escaped, figure, key, keys, panel, table
from safa.report.rows import Row, paired, summarise
from safa.report.runs import Run
from safa.report.svg import MARKERS, responsive
from safa.report.tables import BEST_NOTE

MOST_PANELS = 4
MOST_CLASSES_LISTED = 1000

PROTOCOL = (
    "Every figure is of the last epoch: no epoch was chosen on the test set. The column “best on test*” breaks this "
    "rule on purpose, takes the epoch with the lowest test error, and stands there only for comparison with "
    "work that reports it."
)


@dataclass(frozen=True)
class Section:
    """A section of the page: its anchor, its title, and what it is made of."""

    anchor: str
    title: str
    body: Callable[[Comparison], str]


def summary(comparison: Comparison) -> str:
    """Errors by group for every method, and the paired differences to the baseline."""
    rows = summarise(comparison.lines)
    columns = [("error, all", "last"), ("many", "many"), ("medium", "medium"), ("few", "few"), ("ECE", "ece")]
    best = ("best on test*", "best")
    shown = [*[column for column in columns if any(getattr(row, column[1]) for row in rows)], best]
    body = [[escaped(row.label), str(row.n), *_errors(row, rows, shown)] for row in rows]
    grouped = "; ".join(describe_group(comparison, group) for group in comparison.groups)
    note = (
        f"Top-1 error in per cent of the test set at the last epoch, lower is better; mean ± sample "
        f"standard deviation over seeds; lowest mean in bold. Groups: {grouped}. {BEST_NOTE}"
    )
    return (
        table(["method", "seeds", *(title for title, _ in shown)], body, figures_from=1)
        + f'<p class="note">{escaped(note)}</p>'
        + _paired(comparison)
    )


def _errors(row: Row, rows: Sequence[Row], columns: Sequence[tuple[str, str]]) -> list[str]:
    cells = []
    for _, name in columns:
        own = getattr(row, name)
        means = [getattr(other, name).mean for other in rows if getattr(other, name)]
        least = own is not None and len(rows) > 1 and own.mean == min(means)
        style = "aside" if name == "best" else "least" if least else ""
        cells.append(figure(own, style=style))
    return cells


def _paired(comparison: Comparison) -> str:
    if comparison.baseline is None:
        return ""
    names = [("all", "last"), *((group, group) for group in comparison.groups)]
    body = []
    for pair in paired(comparison.lines, comparison.baseline):
        gaps = [figure(getattr(pair, name), signed=True) for _, name in names]
        wins = f"{pair.last.wins} of {pair.last.n}" if pair.last else "no common seed"
        body.append([escaped(pair.method), str(len(pair.seeds)), *gaps, wins])
    headings = ["method", "seeds", *(title for title, _ in names), "lower error in"]
    return (
        f"<h3>Against {escaped(comparison.baseline)}, seed by seed</h3>"
        + table(headings, body, figures_from=1)
        + '<p class="note">Difference of errors in percentage points over common seeds, mean ± sample standard '
        f"deviation; negative is better. {escaped(CLEAR_NOTE)}</p>"
    )


def tail(comparison: Comparison) -> str:
    """Training images per class."""
    counts = comparison.counts
    _, ratio = comparison.head_classes()
    text = (
        f"{counts.sum():,} training images in {len(counts)} classes; the largest class has {counts.max():,}, "
        f"the smallest {counts.min():,}. Head classes, from which SAFA takes its directions, are the largest "
        f"{100 * ratio:g} % of the classes by count."
    )
    chart = responsive(
        lambda width: class_charts.tail(comparison, width), "Training images per class, largest first"
    )
    return f"<p>{escaped(text)}</p>{_group_keys(comparison)}<figure>{chart}</figure>"


def _group_keys(comparison: Comparison) -> str:
    return keys(
        key(
            f"{group}-shot",
            "s",
            group,
            group=describe_group(comparison, group).partition(" (")[2].rstrip(")"),
        )
        for group in comparison.groups
    )


def _method_keys(comparison: Comparison, methods: Sequence[str] | None = None) -> str:
    entries = []
    for method in comparison.methods if methods is None else methods:
        index = comparison.ink(method)
        role = "baseline" if method == comparison.baseline else ""
        entries.append(key(method, MARKERS[index], f"method-{index}", group=role))
    return keys(entries)


def accuracy(comparison: Comparison) -> str:
    """Accuracy per class, sorted by frequency."""
    many_classes = len(comparison.counts) > class_charts.NAMED_CLASSES
    how = (
        "A point is a class, the line a running mean over a tenth of the classes."
        if many_classes
        else "The figure beside a name is the number of training images."
    )
    seeds = " Mean over the seeds of a method." if len(comparison.runs) > len(comparison.methods) else ""
    chart = responsive(
        lambda width: class_charts.accuracy(comparison, width), "Accuracy per class by frequency"
    )
    return (
        f"{_method_keys(comparison)}<figure>{chart}<figcaption>{how}{seeds}</figcaption></figure>"
        f"{_class_table(comparison)}"
    )


def _class_table(comparison: Comparison) -> str:
    order = comparison.order
    if len(order) > MOST_CLASSES_LISTED:
        return f'<p class="note">{len(order)} classes are too many to list; result.json has them all.</p>'
    columns = [comparison.accuracy(method) for method in comparison.methods]
    groups = comparison.group_of()
    body = [
        [
            escaped(comparison.class_names[c]),
            f'<span class="{groups[c]}">{groups[c] or "–"}</span>',
            f"{comparison.counts[c]:,}",
            *(f"{column[c]:.1f}" if np.isfinite(column[c]) else "–" for column in columns),
        ]
        for c in order
    ]
    headings = ["class", "group", "images", *(escaped(method) for method in comparison.methods)]
    listing = table(headings, body, figures_from=2, full=False)
    return f"<details><summary>Accuracy of every class in figures (%)</summary>{listing}</details>"


def changes(comparison: Comparison) -> str:
    """Accuracy per class minus the baseline's."""
    if comparison.baseline is None:
        return absent(
            f"only {comparison.methods[0]} is on this page; give a second method's run to compare with"
        )
    chart = responsive(lambda width: class_charts.changes(comparison, width), "Change of accuracy per class")
    others = [method for method in comparison.methods if method != comparison.baseline]
    told = "".join(f"<li>{_told_changes(comparison, method)}</li>" for method in others)
    return (
        f"<p>Points of accuracy above or below {escaped(comparison.baseline)}, class by class, most frequent "
        f"first. Bars take the colour of the group.</p><figure>{chart}</figure><ul>{told}</ul>"
    )


def _told_changes(comparison: Comparison, method: str) -> str:
    assert comparison.baseline is not None
    gain = comparison.accuracy(method) - comparison.accuracy(comparison.baseline)
    rare = gain[comparison.groups[comparison.rare_group]]
    up, down = int((rare > 0).sum()), int((rare < 0).sum())
    ranked = [int(c) for c in np.argsort(-np.nan_to_num(gain), kind="stable")]
    most = [c for c in ranked[:3] if gain[c] > 0]
    least = [c for c in ranked[::-1][:3] if gain[c] < 0]
    sentence = (
        f"<strong>{escaped(method)}</strong>: of {len(rare)} {comparison.rare_group}-shot classes {up} gain, "
        f"{down} lose, {len(rare) - up - down} stay."
    )
    gains = f" Largest gains: {_listed(comparison, most, gain)}." if most else ""
    losses = f" Largest losses: {_listed(comparison, least, gain)}." if least else ""
    return sentence + gains + losses


def _listed(comparison: Comparison, ids: Sequence[int], gain: np.ndarray) -> str:
    signed = [f"{gain[c]:+.1f}".replace("-", "−") for c in ids]
    return ", ".join(f"{_coloured(comparison, c)} {text}" for c, text in zip(ids, signed, strict=True))


def _coloured(comparison: Comparison, class_id: int) -> str:
    group = comparison.group_of()[class_id]
    return f'<span class="{group}">{escaped(comparison.class_names[class_id])}</span>'


def training(comparison: Comparison) -> str:
    """Test error, loss terms and learning rate over epochs."""
    panels = curves.panels(comparison)
    gaps = _missing(comparison.runs, "log.jsonl")
    if not panels:
        return absent(f"no curves: {gaps or 'the logs hold no figures'}")
    stages = curves.boundaries(comparison)
    chart = responsive(
        lambda width: charts.training(comparison, panels, stages, width), "Training curves by epoch"
    )
    caption = (
        "Lines are means over the seeds of a method, bands span lowest to highest seed, the dot is the last "
        "epoch. A dotted line marks where a stage begins. Terms are shown before weighting. The test error is "
        "only watched."
    )
    note = absent(f"without {gaps}") if gaps else ""
    return f"{_method_keys(comparison)}<figure>{chart}<figcaption>{caption}</figcaption></figure>{note}"


def mistakes(comparison: Comparison) -> str:
    """What the rare classes are mistaken for."""
    classes = confusion.rare_classes(comparison)
    methods = _focus(comparison)
    found = {
        method: confusion.mistakes(comparison.runs_of(method), classes, len(comparison.counts))
        for method in comparison.methods
    }
    drawn = {method: part for method in methods if (part := found[method]) is not None}
    gaps = _missing(comparison.runs, "predictions.npz")
    if not drawn:
        return absent(f"no confusions: {gaps or 'no predictions are stored'}")
    note = absent(f"without {gaps}") if gaps else ""
    return _destinations(comparison) + _matrices(comparison, drawn) + _mistake_table(comparison, drawn) + note


def _focus(comparison: Comparison) -> list[str]:
    """The methods there is room for: the baseline and those with the lowest error on the rare classes."""
    if len(comparison.methods) <= MOST_PANELS:
        return list(comparison.methods)
    rows = {row.label: getattr(row, comparison.rare_group) for row in summarise(comparison.lines)}
    others = [method for method in comparison.methods if method != comparison.baseline]
    others.sort(key=lambda method: rows[method].mean if rows[method] else np.inf)
    chosen = {comparison.baseline, *others[: MOST_PANELS - 1]}
    return [method for method in comparison.methods if method in chosen]


def _destinations(comparison: Comparison) -> str:
    shares = {method: confusion.destinations(comparison, method) for method in comparison.methods}
    known = {method: share for method, share in shares.items() if share is not None}
    if not known:
        return absent(f"no test image belongs to the {comparison.rare_group}-shot classes")
    group = describe_group(comparison, comparison.rare_group)
    chart = responsive(lambda width: charts.destinations(known, width), "Where the rare classes' images go")
    names = [key("right", "s", "right")]
    for name in reversed(comparison.groups):
        wrong = f"another {name}-shot class" if name == comparison.rare_group else f"a {name}-shot class"
        names.append(key(f"taken for {wrong}", "s", name))
    return f"<p>Where the test images of {escaped(group)} go.</p>{keys(names)}<figure>{chart}</figure>"


def _matrices(comparison: Comparison, drawn: dict[str, confusion.Mistakes]) -> str:
    panels = "".join(
        panel(method, charts.mistaken(comparison, found), f"Confusion matrix of {method}")
        for method, found in drawn.items()
    )
    rows = len(next(iter(drawn.values())).classes)
    caption = (
        f"The {rows} rarest classes by row, what they are taken for by column. Grey is right, colour is the "
        "group of the mistake; the fuller, the larger the share of the row."
    )
    left_out = len(comparison.methods) - len(drawn)
    more = f" {left_out} further methods are in the bars above only." if left_out > 0 else ""
    return f'<div class="panels">{panels}</div><p class="note">{caption}{more}</p>'


def _mistake_table(comparison: Comparison, drawn: dict[str, confusion.Mistakes]) -> str:
    headings = ["class", "images", *(escaped(method) for method in drawn)]
    classes = next(iter(drawn.values())).classes
    body = [
        [
            _coloured(comparison, class_id),
            f"{comparison.counts[class_id]:,}",
            *(_mistake_cell(comparison, found, row) for found in drawn.values()),
        ]
        for row, class_id in enumerate(classes.tolist())
    ]
    listing = table(headings, body, figures_from=99)
    title = "Share right, and the most common mistakes, class by class (%)"
    return f"<details open><summary>{title}</summary>{listing}</details>"


def _mistake_cell(comparison: Comparison, found: confusion.Mistakes, row: int) -> str:
    right = found.share[row, found.classes[row]]
    if not np.isfinite(right):
        return '<span class="share">no test image</span>'
    common = [
        f'{_coloured(comparison, class_id)} <span class="share">{share:.0f}</span>'
        for class_id, share in found.most_common(row)
    ]
    return f"<strong>{right:.0f}</strong> · {', '.join(common) or 'no mistake'}"


def features(comparison: Comparison) -> str:
    """t-SNE of stored features, as the paper's Fig. 1."""
    gaps = _missing(comparison.runs, "features.npz")
    stored = {
        method: run
        for method in _focus(comparison)
        if (run := next((run for run in comparison.runs_of(method) if run.features is not None), None))
    }
    if not stored:
        return absent(f"no picture of the features: {gaps or 'no features are stored'}")
    heads, tails = embedding.shown_classes(comparison)
    panels = "".join(_embedding_panel(method, run, [*heads, *tails]) for method, run in stored.items())
    caption = (
        "t-SNE of the penultimate features, one per network, first seed; at most 100 features per class and "
        "kind. Distances between panels mean nothing. Shown are the largest head classes, and the tail classes "
        "with the most generated features."
    )
    note = absent(f"without {gaps}") if gaps else ""
    return (
        f'{_class_keys(comparison, heads, tails)}<div class="panels">{panels}</div>'
        f'<p class="note">{caption}</p>{note}'
    )


def _class_keys(comparison: Comparison, heads: Sequence[int], tails: Sequence[int]) -> str:
    entries = []
    for number, class_id in enumerate([*heads, *tails]):
        role = f"{'head' if class_id in heads else 'tail'}, {comparison.counts[class_id]:,} images"
        entries.append(key(comparison.class_names[class_id], "o", f"class-{number}", group=role))
    kinds = [
        key(name, charts.KIND_MARKERS[kind], "ink", hollow=kind == 2)
        for kind, name in embedding.KINDS.items()
    ]
    return keys(entries) + keys(kinds)


def _embedding_panel(method: str, run: Run, classes: list[int]) -> str:
    assert run.features is not None
    drawn = embedding.embed(run.features, classes)
    if isinstance(drawn, str):
        return f"<figure><h3>{escaped(method)}</h3>{absent(drawn)}</figure>"
    return panel(method, charts.features(drawn, classes), f"t-SNE of the features of {method}")


def settings(comparison: Comparison) -> str:
    """Where every figure comes from: what all runs share in one sentence, what differs in a table."""
    runs = [_provenance(label, run) for label, run in zip(comparison.labels, comparison.runs, strict=True)]
    always = ("method", "seed", "run folder")
    differing = [name for name in runs[0] if name in always or len({run[name] for run in runs}) > 1]
    shared = [f"{name} {runs[0][name]}" for name in runs[0] if name not in differing]
    body = [[run[name] for name in differing] for run in runs]
    recipes = {label: run.recipe for label, run in zip(comparison.labels, comparison.runs, strict=True)}
    listed = "".join(
        f"<details><summary>recipe.yaml of {escaped(label)}</summary><pre>{escaped(text)}</pre></details>"
        for label, text in recipes.items()
        if text
    )
    return (
        f"<p>{PROTOCOL}</p>{_subset_note(comparison)}"
        f"<p>{'All runs' if len(runs) > 1 else 'The run'}: {', '.join(shared)}.</p>"
        f"{table(differing, body, figures_from=99)}{listed}"
    )


def _provenance(label: str, run: Run) -> dict[str, str]:
    line = run.result
    known = {key: escaped(value) for key, value in line.items() if value not in (None, "")}
    seconds = line.get("seconds")
    return {
        "method": escaped(label),
        "seed": known["seed"],
        "run folder": escaped(run.name),
        "recipe": known.get("recipe", "–"),
        "epochs": known["epochs"],
        "reused epochs": known.get("reused_epochs", "–"),
        "time": _duration(seconds) if isinstance(seconds, int | float) else "–",
        "device": known.get("device", "–"),
        "precision": known.get("precision", "–"),
        "torch": known.get("torch", "–"),
        "safa": known.get("version", "–"),
        "commit": _hash(line.get("commit")),
        "subset": _hash(line.get("subset_sha256")),
    }


def _hash(value: object) -> str:
    if not value:
        return "–"
    return f'<span class="hash" title="{escaped(value)}">{escaped(str(value)[:10])}</span>'


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60}:{minutes % 60:02d} h" if minutes >= 60 else f"{minutes} min"


def _subset_note(comparison: Comparison) -> str:
    """A comparison is only paired if the methods saw the same images."""
    by_seed: dict[int, set[object]] = {}
    for run in comparison.runs:
        by_seed.setdefault(int(run.result["seed"]), set()).add(run.result.get("subset_sha256"))
    mixed = [str(seed) for seed, hashes in by_seed.items() if len(hashes) > 1]
    if not mixed:
        return ""
    return absent(
        f"the methods did not train on the same images for seed {', '.join(mixed)}: the subset hashes "
        "differ, so part of a difference may come from the draw"
    )


def _missing(runs: Sequence[Run], file: str) -> str:
    """``LDAM-0 (the run wrote no log.jsonl), …`` for the runs that lack the file."""
    return "; ".join(f"{run.name} ({run.missing[file]})" for run in runs if file in run.missing)


SECTIONS = (
    Section("summary", "Error by group", summary),
    Section("tail", "The tail", tail),
    Section("classes", "Accuracy per class", accuracy),
    Section("changes", "What changed per class", changes),
    Section("training", "Training", training),
    Section("mistakes", "What the rare classes are mistaken for", mistakes),
    Section("features", "Features, real and generated", features),
    Section("settings", "Settings and provenance", settings),
)
