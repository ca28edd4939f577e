"""A line of ``safa bench`` as rows; the terminal and the documents draw the same ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

HEADINGS = ("measured", "median", "min–max", "aim")

BenchRow = tuple[str, str, str, str]


def rows(line: Mapping[str, Any]) -> list[BenchRow]:
    """Medians with the range over rounds, and in the last column what the project asks of itself."""
    figures, precision = line["figures"], line["precision"]
    ours = list(figures["speed"])[-1]
    speeds = figures["images_per_second"].items()
    made = [(f"plain training, {name}", *_cells(spread, " images/s", 0), "") for name, spread in speeds]
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


def where(line: Mapping[str, Any]) -> str:
    """What the figures hold for, in a sentence."""
    return (
        f"{line['model']}, {line['batch_size']} images of 32 x 32 per step, n = {line['n']} rounds of "
        f"{line['steps']} steps; {line['device']}, {line['cores']} cores, {line['threads']} threads, torch "
        f"{line['versions']['torch']}; {line['figures']['workers']} workers feed the ordinary loop; memory: "
        f"{line['memory_of']}"
    )


def to_markdown(line: Mapping[str, Any]) -> str:
    """The rows as a GitHub table with ``where`` below; ends without a newline."""
    table = [HEADINGS, ("---", "---:", "---:", "---:"), *rows(line)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in table) + f"\n\n{where(line)}."


def _cells(spread: Mapping[str, float], unit: str, digits: int) -> tuple[str, str]:
    return f"{spread['median']:.{digits}f}{unit}", f"{spread['low']:.{digits}f}–{spread['high']:.{digits}f}"
