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
from safa.report import bench, lines
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
    console.print(_table(line), bench.where(line), sep="\n", markup=False)
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


def _table(line: Line) -> Table:
    table = Table(*bench.HEADINGS, box=None)
    for row in bench.rows(line):
        table.add_row(*row)
    return table
