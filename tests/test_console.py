"""What the commands print on."""

from __future__ import annotations

import os
import subprocess
import sys

CODE = """
from pathlib import Path
from safa.console import out, say, warn
say("first")
warn("first")
out.print("second")
Path("done").touch()
"""


def test_a_reader_that_leaves_ends_what_is_shown_and_not_the_work(tmp_path):
    reading, writing = os.pipe()
    os.close(reading)
    try:
        ended = subprocess.run([sys.executable, "-c", CODE], cwd=tmp_path, stdout=writing, stderr=writing, check=False)
    finally:
        os.close(writing)
    assert ended.returncode == 0
    assert (tmp_path / "done").exists()
