"""``safa bench``: measure, print as ratios, append a line."""

from __future__ import annotations

import dataclasses
import datetime
import platform
from pathlib import Path
from typing import Any

import torch
from rich.table import Table

import safa
from safa.bench import costs, figures
from safa.bench.memory import kind, kind_beyond
from safa.bench.methods import methods
from safa.bench.setting import Setting, cores
from safa.console import out
from safa.files import refuse_unappendable_file
from safa.provenance import commit_of_process
from safa.report import bench, lines

Line = dict[str, Any]


def run(steps: int, rounds: int, batch_size: int, model: str, precision: str, results: str | None) -> Line:
    """Measure the ordinary loop against ours, and SAFA against plain training; print, and append to ``results``.

    Args:
        steps: timed steps of each variant and round.
        rounds: how often every variant has its turn.
        batch_size, model, precision: as ``Setting``.
        results: a JSONL file of its own, for a table is drawn from its last line only.

    Returns:
        The line: figures as ``{median, low, high}`` and what they were measured on.

    Raises:
        UserError: for a setting that cannot be run, or a file that cannot be written.
    """
    setting = _checked(model, batch_size, precision, results)
    begun = _begun("bench", setting, rounds, steps)
    with out.status("variants take turns"):
        found = figures.measure(setting, rounds, steps)
    return _finished({**begun, "figures": dataclasses.asdict(found), "memory_of": kind(setting.device)}, results)


def run_methods(steps: int, rounds: int, batch_size: int, model: str, precision: str, results: str | None) -> Line:
    """Measure every method's step and inference against plain cross-entropy; arguments and line as of ``run``."""
    setting = _checked(model, batch_size, precision, results)
    begun = _begun("steps", setting, rounds, steps)
    with out.status("methods take turns"):
        found = costs.measure(setting, methods(), rounds, steps)
    return _finished({**begun, "figures": dataclasses.asdict(found), "memory_of": kind_beyond(setting.device)}, results)


def _checked(model: str, batch_size: int, precision: str, results: str | None) -> Setting:
    """The setting, once it is known that the line can be appended after the minutes of measuring."""
    if results is not None:
        refuse_unappendable_file(Path(results))
    return Setting(model, batch_size, precision)


def _begun(kind: str, setting: Setting, rounds: int, steps: int) -> Line:
    """What is known of a line before anything is measured; later the commit may be another."""
    on_gpu = setting.device.type == "cuda"
    return {
        "kind": kind,
        **dataclasses.asdict(setting),
        "steps": steps,
        "n": rounds,
        "device": torch.cuda.get_device_name() if on_gpu else "cpu",
        "processor": f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}",
        "cores": cores(),
        "threads": torch.get_num_threads(),
        "versions": {
            "safa": safa.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
        "commit": commit_of_process(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }


def _finished(line: Line, results: str | None) -> Line:
    """The line, printed as a table and appended."""
    out.print(_table(line), bench.where(line), sep="\n", soft_wrap=True)
    if results is not None:
        lines.append(Path(results), line)
    return line


def _table(line: Line) -> Table:
    table = Table(*bench.headings(line), box=None)
    for row in bench.rows(line):
        table.add_row(*row)
    return table
