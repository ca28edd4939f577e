"""Imports run one way, and what should be quick imports nothing heavy."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import safa

SOURCE = Path(safa.__file__).parent

# A unit may import units of the rows above its own, and none of its own row.
ROWS = [
    {"devices", "errors", "precision", "processes", "seeding", "stop", "types"},
    {"averaging", "classes", "console", "crossing", "files", "sums", "tracking"},
    {"recipe", "progress", "weighting", "heads", "plugin", "report", "catalog", "library", "checkpoint"},
    {"losses", "sampling", "augmenters", "backbones", "methods", "plan", "assembly", "data"},
    {"evaluate", "machine", "provenance"},
    {"parts", "job"},
    {"learner", "rehearsal"},
    {"train", "clouds"},
    {"diagnosis", "deploy"},
    {"outcome"},
    {"runs"},
    {"bench"},
    {"commands"},
    {"cli"},
]
METHODS = {"augmenters", "losses", "weighting", "sampling", "heads", "backbones", "methods"}
NEVER = {
    "plugin": METHODS,  # it does not know SAFA
    "augmenters": {"backbones", "losses", "plugin", "sampling"},
    "losses": {"recipe", "plan", "augmenters"},  # a loss does not know epochs
    "assembly": METHODS,  # it knows names, no method
    "parts": METHODS,  # as assembly
    "rehearsal": METHODS,
    "learner": METHODS,  # it knows protocols and names, no method
    "train": METHODS,
    "deploy": {"parts", "learner", "train"},  # a network in use knows nothing of training
    "report": {"recipe", "checkpoint", "data", *METHODS},  # it reads files
}
HEAVY = ("torch", "matplotlib", "sklearn", "accelerate", "datasets", "pandas", "onnx", "PIL")


def imports_of(file: Path) -> Iterator[str]:
    """Modules that a file imports at whatever place, but for those that only type checking needs."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    only_types = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for statement in node.body
        for inner in ast.walk(statement)
    }
    for node in ast.walk(tree):
        if id(node) in only_types:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative imports hide where things are"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@cache
def units() -> dict[str, set[str]]:
    """Unit (a module, or a package as a whole) -> units it imports."""
    found: dict[str, set[str]] = {}
    for file in SOURCE.rglob("*.py"):
        unit = file.relative_to(SOURCE).with_suffix("").parts[0]
        if unit in ("__init__", "__main__"):
            continue
        names = {name.split(".")[1] for name in imports_of(file) if name.startswith("safa.")}
        found.setdefault(unit, set()).update(names - {unit, "__version__"})
    return found


def test_every_unit_has_its_row():
    assert set(units()) == set().union(*ROWS)


def test_imports_run_one_way():
    row_of = {unit: index for index, row in enumerate(ROWS) for unit in row}
    wrong = [
        f"{unit} imports {other}"
        for unit, others in units().items()
        for other in others
        if row_of[other] >= row_of[unit]
    ]
    assert wrong == []


def test_the_design_says_what_every_unit_imports():
    page = (SOURCE.parents[1] / "docs" / "design.md").read_text(encoding="utf-8").partition("## Modules")[2]
    above: set[str] = set()
    for named, said in re.findall(r"^\| (`.+?) \| .+ \| (.+?) \|$", page, re.MULTILINE):
        row, imports = (set(re.findall(r"`(\w+)", cell)) for cell in (named, said))
        real = set().union(*(units()[unit] for unit in row)) - row
        if "…" in said:
            assert imports <= real, f"{named} does not import {imports - real}"
        elif said != "all of the above":
            assert imports == real, named
        assert real <= above, f"{named} imports from below: {real - above}"
        above |= row
    assert above == set(units())


@pytest.mark.parametrize("unit", NEVER)
def test_a_unit_does_not_know_what_it_need_not(unit):
    assert not units()[unit] & NEVER[unit]


def test_only_the_command_line_knows_how_it_is_called():
    assert {unit for unit, others in units().items() if others & {"cli", "commands"}} == {"cli"}


def test_no_file_is_called_after_nothing_in_particular():
    assert not {"utils", "helpers", "common", "misc"} & {path.stem for path in SOURCE.rglob("*.py")}


def imported_by(code: str) -> set[str]:
    """Top-level packages that are loaded after running the code in a fresh process."""
    report = "\nimport json, sys; print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    done = subprocess.run([sys.executable, "-c", code + report], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize(
    "code",
    [
        "import safa",
        "import safa.recipe, safa.plan, safa.catalog, safa.library",
        "from safa.cli import parser; parser()",
        "from safa.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass",
        "from safa.cli import main\ntry: main(['train', '--help'])\nexcept SystemExit: pass",
        "from safa.cli import main\nmain(['list'])",
        "from safa.cli import main\nmain(['train', 'digits/ldam-drv'])",
    ],
)
def test_what_should_be_quick_imports_nothing_heavy(code):
    assert imported_by(code) & set(HEAVY) == set()


def test_reading_images_needs_no_torch():
    assert "torch" not in imported_by("import safa.data; safa.data.load_source('digits')")


def test_importing_the_library_imports_none_of_its_parts():
    assert not imported_by("import safa") & {"numpy", "yaml", "rich"}


def test_every_name_of_the_table_of_contents_is_there():
    for name in safa.__all__:
        assert getattr(safa, name) is not None
    assert set(safa.__all__) <= set(dir(safa))
    with pytest.raises(AttributeError, match="module 'safa' has no attribute 'nothing'"):
        _ = safa.nothing
