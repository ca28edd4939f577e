"""Where every figure comes from."""

from __future__ import annotations

from safa.report.comparison import Comparison
from safa.report.markup import absent, escaped, table
from safa.report.runs import Run

PROTOCOL = (
    "Every figure is of the last epoch: no epoch was chosen on the test set. The column “best on test*” "
    "breaks this rule on purpose, takes the epoch with the lowest test error, and stands there only for "
    "comparison with work that reports it."
)


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
        f"<p>{PROTOCOL}</p>{_subset_note(comparison)}{_groups_note(comparison)}"
        f"<p>{'All runs' if len(runs) > 1 else 'The run'}: {', '.join(shared)}.</p>"
        f"{table(differing, body)}{listed}"
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
        "training time (reused epochs included)": _duration(seconds) if isinstance(seconds, int | float) else "–",
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
    seen: dict[tuple[int, str], set[object]] = {}
    for run in comparison.runs:
        for kind in ("subset_sha256", "images_sha256"):  # two folders of one name may hold different images
            if kind in run.result:
                seen.setdefault((int(run.result["seed"]), kind), set()).add(run.result[kind])
    mixed = dict.fromkeys(str(seed) for (seed, _), hashes in seen.items() if len(hashes) > 1)
    if not mixed:
        return ""
    return absent(
        f"the methods did not train on the same images for seed {', '.join(mixed)}: the hashes of subset "
        "or images differ, so part of a difference may come from them"
    )


def _groups_note(comparison: Comparison) -> str:
    """Images that are held out, and bounds of a recipe's own, can put a class into another group."""
    first = comparison.runs[0]
    others = [run.name for run in comparison.runs if run.result["groups"] != first.result["groups"]]
    if not others:
        return ""
    return absent(
        f"many, medium and few are not the same classes in all runs; the charts have those of {first.name}, and no "
        f"difference of a group that is another is shown. Other groups: {', '.join(others)}"
    )
