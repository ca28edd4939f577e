"""The report reads files: it needs no torch, and its tables need no matplotlib."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import safa.report


def test_nothing_in_the_report_imports_torch_or_what_needs_it():
    for file in Path(safa.report.__file__).parent.rglob("*.py"):
        imported = re.findall(r"^\s*(?:from|import)\s+([\w.]+)", file.read_text(encoding="utf-8"), re.MULTILINE)
        own = {name for name in imported if name.startswith("safa")}
        assert own <= {name for name in own if name.startswith("safa.report")} | {
            "safa.classes",
            "safa.errors",
            "safa.files",
        }, file
        assert not any(name.split(".")[0] == "torch" for name in imported), file


def test_tables_do_not_wait_for_matplotlib_or_sklearn():
    heavy = "{'matplotlib', 'sklearn'} & set(sys.modules)"
    code = f"import sys, safa.report.tables, safa.report.readme; print({heavy})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
