"""A line of ``safa bench`` as rows; the terminal and the documents draw the same ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from safa.report import github

KINDS = ("bench", "steps")
"""Kinds of lines: our training against the ordinary loop; every method against plain cross-entropy."""

HEADINGS = ("measured", "median", "min–max", "aim")
STEP_HEADINGS = ("method", "step", "min–max", "peak memory", "inference", "min–max", "peak memory")
_UNTRAINED = "–"

Row = tuple[str, ...]


def headings(line: Mapping[str, Any]) -> Row:
    """What stands above the columns of ``rows``."""
    return STEP_HEADINGS if line["kind"] == "steps" else HEADINGS


def rows(line: Mapping[str, Any]) -> list[Row]:
    """Medians with the range over rounds."""
    return _step_rows(line["figures"]) if line["kind"] == "steps" else _bench_rows(line["figures"], line["precision"])


def where(line: Mapping[str, Any]) -> str:
    """What the figures hold for, in a sentence or two."""
    measured = (
        f"{line['model']}, {line['batch_size']} images of 32 x 32 per step, n = {line['n']} rounds of "
        f"{line['steps']} steps; {line['device']}, {line['cores']} cores, {line['threads']} threads, torch "
        f"{line['versions']['torch']}"
    )
    if line["kind"] == "steps":
        return f"{_units(line)} {measured}; memory: {line['memory_of']}"
    return f"{measured}; {line['figures']['workers']} workers feed the ordinary loop; memory: {line['memory_of']}"


def to_markdown(line: Mapping[str, Any]) -> str:
    """The rows as a GitHub table with ``where`` below; ends without a newline."""
    return f"{github.table(headings(line), rows(line), left=(HEADINGS[0], STEP_HEADINGS[0]))}\n\n{where(line)}."


def _bench_rows(figures: Mapping[str, Any], precision: str) -> list[Row]:
    """In the last column stands what the project asks of itself."""
    ours = list(figures["speed"])[-1]
    speeds = figures["images_per_second"].items()
    made: list[Row] = [(f"plain training, {name}", *_cells(spread, " images/s", 0), "") for name, spread in speeds]
    for name, spread in figures["speed"].items():
        made.append((f"speed-up, {name}", *_cells(spread, "×", 2), "≥ 2.0×" if name == ours else ""))
    made.append((f"SAFA step / plain step, {precision}", *_cells(figures["safa_step"], "×", 2), "≤ 1.6×"))
    made.append(("generated rows per SAFA step", f"{figures['generated_rows']:.0f}", "", ""))
    for name, spread in figures["memory"].items():
        made.append((f"peak memory, {name}", *_cells(spread, " MiB", 0), ""))
    ratio = figures["memory"]["SAFA"]["median"] / figures["memory"]["plain"]["median"]
    made.append(("peak memory, SAFA / plain", f"{ratio:.2f}×", "", ""))
    made.append(("inference, with plug-in / without", *_cells(figures["inference"], "×", 2), "1.00×"))
    made.append(("outputs of both", "bit-identical" if figures["identical"] else "different", "", "bit-identical"))
    return made


def _step_rows(figures: Mapping[str, Any]) -> list[Row]:
    """One per method; a method that trains nothing has no step."""
    plain = figures["methods"][figures["base"]]
    made = []
    for name, cost in figures["methods"].items():
        trained: Row = (_UNTRAINED, "", _UNTRAINED)
        if cost["step"] is not None:
            trained = (*_cells(cost["step"], "×", 2), f"{cost['step_memory'] / plain['step_memory']:.2f}×")
        answered = (*_cells(cost["inference"], "×", 2), f"{cost['inference_memory'] / plain['inference_memory']:.2f}×")
        made.append((name, *trained, *answered))
    return made


def _units(line: Mapping[str, Any]) -> str:
    """What 1.00× is."""
    figures = line["figures"]
    step, image = figures["step_milliseconds"], figures["image_milliseconds"]["median"]
    plain = figures["methods"][figures["base"]]
    return (
        f"1.00× is {figures['base']}: {step['median']:.0f} ms ({step['low']:.0f}–{step['high']:.0f}) and "
        f"{plain['step_memory']:.0f} MiB per step in {line['precision']}, {image:.3g} "
        f"ms per image and {plain['inference_memory']:.0f} MiB per batch at inference in float32."
    )


def _cells(spread: Mapping[str, float], unit: str, digits: int) -> tuple[str, str]:
    return f"{spread['median']:.{digits}f}{unit}", f"{spread['low']:.{digits}f}–{spread['high']:.{digits}f}"
