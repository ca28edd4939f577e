"""The report reads files: it needs no torch, and its tables need no matplotlib."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import safa.report
from tests.report.test_lines import LINE


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


def test_a_report_without_a_page_does_not_wait_for_matplotlib(tmp_path):
    (tmp_path / "lines.jsonl").write_text(json.dumps(LINE))
    names = "output", "baseline", "tradeoff", "features", "into", "imbalance_factor", "recipes"
    options = {**dict.fromkeys(names), "markdown": False}
    code = f"import sys; from safa.commands.reporting import report; report(['lines.jsonl'], **{options})"
    code += "; print('matplotlib' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.splitlines()[-1] == "False"
