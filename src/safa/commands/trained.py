"""``safa evaluate``, ``predict`` and ``export``: what is done with a finished run."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any, Literal, TextIO

from rich.table import Table

from safa.classes import by_count
from safa.console import out, say, warn
from safa.errors import UserError, closest

Writer = Callable[[Iterable[Any], TextIO], None]


def evaluate(run: str, split: str, root: str | None, json: bool) -> int:
    """Test a run's network anew."""
    from safa.runs import evaluate_run

    if split not in ("test", "validation"):
        raise UserError(f"split must be test or validation, got {split!r}")
    figures = evaluate_run(Path(run), split, root)
    if json:
        out.print_json(data=figures, ensure_ascii=True)  # JSON in whatever the terminal can show
    else:
        _show(figures)
    return 0


def predict(
    run: str, paths: list[str], format: str, output: str | None, top: int, on_corrupt: Literal["stop", "skip"]
) -> int:
    """Classify files, to a file or to standard output."""
    from safa.deploy import network, predict
    from safa.files import refuse_unwritable_file, write_atomically

    writers: dict[str, Writer] = {"csv": partial(predict.to_csv, top=top), "json": predict.to_json}
    if format not in writers:
        raise UserError(f"format must be csv or json, got {format!r}{closest(format, writers)}")
    if output is not None:
        refuse_unwritable_file(Path(output))
    deployed = network.load_run(Path(run))
    for note in deployed.notes:
        warn(note)
    found = predict.predict_paths(deployed, [Path(path) for path in paths], top=top, on_corrupt=on_corrupt, say=warn)
    if output is None:
        if isinstance(sys.stdout, io.TextIOWrapper):  # names are data here, whatever the terminal can show
            sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")
        writers[format](found, sys.stdout)
        return 0
    text = io.StringIO(newline="")
    writers[format](found, text)
    write_atomically(Path(output), text.getvalue().encode())
    return 0


def export(run: str, format: str, output: str | None) -> int:
    """Write the bare network, checked against the original."""
    from safa.deploy import export, formats, network

    suffix = formats.format_called(format).suffix
    deployed = network.load_run(Path(run))
    for note in deployed.notes:
        warn(note)
    written = export.export(deployed, format, Path(output) if output else (Path(run) / "model").with_suffix(suffix))
    say(f"{written.path}: {written.size:,} bytes, largest difference to the original {written.largest_difference:.1e}")
    return 0


def _show(figures: dict[str, Any]) -> None:
    """One table of the figures, one of the classes from frequent to rare."""
    total = Table(
        "figure",
        "per cent",
        title=f"{figures['run']}, {figures['split']} images, after {figures['epochs']} epochs",
    )
    names = {
        "top-1 error": "error", "many-shot error": "error_many", "medium-shot error": "error_medium",
        "few-shot error": "error_few", "balanced error": "balanced_error", "expected calibration error": "ece",
        f"best epoch on test* ({figures['error_best_epoch']})": "error_best",
    }  # fmt: skip
    for name, key in names.items():
        if key == "error_best" and figures[key] is None:
            continue  # no epoch was tested
        total.add_row(name, "–" if figures[key] is None else f"{figures[key]:.2f}")
    classes = Table(
        "class", "training images", "error %", caption="* chosen on the test set itself; for comparison only"
    )
    for c in by_count(figures["class_counts"]):
        error = figures["error_per_class"][c]
        classes.add_row(
            figures["class_names"][c],
            str(figures["class_counts"][c]),
            "–" if error is None else f"{error:.1f}",
        )
    out.print(total, classes)
