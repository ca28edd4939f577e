"""``safa bench``: measure, print as ratios, append a line."""

from __future__ import annotations

import dataclasses
import datetime
import platform
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

import safa
from safa.bench.figures import Figures, measure
from safa.bench.memory import kind
from safa.bench.setting import Setting, cores
from safa.bench.turns import Spread
from safa.report import lines
from safa.runs import commit

Line = dict[str, Any]


def run(steps: int, rounds: int, batch_size: int, model: str, precision: str, results: str | None) -> Line:
    """Measure and print; append to ``results`` where given.

    Args:
        steps: timed steps of each variant and round.
        rounds: how often every variant has its turn.
        batch_size, model, precision: as ``Setting``.
        results: a JSONL file of its own, for ``safa report`` draws tables of runs only.

    Returns:
        The line: figures as ``{median, low, high}`` and what they were measured on.

    Raises:
        UserError: for a setting that cannot be run, or a file that cannot be written.
    """
    setting = Setting(model, batch_size, precision)
    console = Console(soft_wrap=True, highlight=False)
    with console.status("variants take turns"):
        figures = measure(setting, rounds, steps)
    line = _line(setting, steps, rounds, figures)
    console.print(_table(figures, setting), _where(line), sep="\n", markup=False)
    if results is not None:
        lines.append(Path(results), line)
    return line


def _line(setting: Setting, steps: int, rounds: int, figures: Figures) -> Line:
    on_gpu = setting.device.type == "cuda"
    return {
        "kind": "bench",
        **dataclasses.asdict(setting),
        "steps": steps,
        "n": rounds,
        "figures": dataclasses.asdict(figures),
        "memory_of": kind(setting.device),
        "device": torch.cuda.get_device_name() if on_gpu else "cpu",
        "processor": f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}",
        "cores": cores(),
        "threads": torch.get_num_threads(),
        "versions": {
            "safa": safa.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
        "commit": commit(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }


def _table(figures: Figures, setting: Setting) -> Table:
    """Medians with the range over rounds; what the project asks of itself in the last column."""
    table = Table("measured", "median", "min–max", "aim", box=None)
    ours = list(figures.speed)[-1]
    for name, spread in figures.images_per_second.items():
        table.add_row(f"plain training, {name}", *_cells(spread, " images/s", 0))
    for name, spread in figures.speed.items():
        table.add_row(f"  speed-up, {name}", *_cells(spread, "×", 2), "≥ 2.0×" if name == ours else "")
    step = f"SAFA step / plain step, {setting.precision}"
    table.add_row(step, *_cells(figures.safa_step, "×", 2), "≤ 1.6×")
    table.add_row("  generated rows per SAFA step", f"{figures.generated_rows:.0f}")
    for name, spread in figures.memory.items():
        table.add_row(f"peak memory, {name}", *_cells(spread, " MiB", 0))
    ratio = figures.memory["SAFA"].median / figures.memory["plain"].median
    table.add_row("  SAFA / plain", f"{ratio:.2f}×")
    table.add_row("inference, with plug-in / without", *_cells(figures.inference, "×", 2), "1.00×")
    table.add_row("  outputs", "bit-identical" if figures.identical else "different", "", "bit-identical")
    return table


def _cells(spread: Spread, unit: str, digits: int) -> tuple[str, str]:
    return f"{spread.median:.{digits}f}{unit}", f"{spread.low:.{digits}f}–{spread.high:.{digits}f}"


def _where(line: Line) -> str:
    """What the figures hold for."""
    return (
        f"{line['model']}, {line['batch_size']} images of 32 x 32 per step, n = {line['n']} rounds of "
        f"{line['steps']} steps; {line['device']}, {line['cores']} cores, {line['threads']} threads, torch "
        f"{line['versions']['torch']}; {line['figures']['workers']} workers feed the ordinary loop; memory: "
        f"{line['memory_of']}"
    )
