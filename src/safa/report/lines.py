"""Result lines: one JSON object per line of an append-only file."""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safa.errors import UserError
from safa.files import REWRITE, read_json, readable

Line = dict[str, Any]

_TEXT = ("recipe", "dataset", "model", "method")
_NUMBER = ("imbalance_factor", "seed", "epochs", "error_last")
# A group without classes has no error, and a run that was never evaluated in between has no best epoch.
_NUMBER_OR_NULL = ("error_best", "error_many", "error_medium", "error_few", "ece")
_OF_VALIDATION = "balanced_error_validation"  # only where images were set aside
REQUIRED = (*_TEXT, *_NUMBER, *_NUMBER_OR_NULL, "error_per_class")
_WHERE_GIVEN = {
    **dict.fromkeys(("error_per_class", "changes", "class_counts", "class_names"), (list, "a list")),
    "groups": (dict, "an object"),
    "processes": (int, "a whole number"),
}


def read(path: Path | str) -> list[Line]:
    """Read and check the result lines of one file, or of every ``*.jsonl`` file of a folder by name.

    Returns:
        One dictionary per line. Keys this version does not know are kept; figures are in per cent. Lines of another
        kind, as ``safa bench`` writes them beside, are passed over.

    Raises:
        UserError: if a file cannot be read, or a line is broken or incomplete; names file and line number.
    """
    path = Path(path)
    if path.is_dir():
        return [line for file in sorted(path.glob("*.jsonl")) for line in read(file)]
    numbered = [(number, line) for number, line in read_objects(path) if line.get("kind", "result") == "result"]
    for number, line in numbered:
        check(line, where=f"{path}, line {number}")
    return [line for _, line in numbered]


def of_run(path: Path) -> Line:
    """Read and check the result line in the file ``RESULT`` of a run's folder.

    Raises:
        UserError: if the file cannot be read, is cut short, or holds anything else; it says how to write it anew.
    """
    line = read_json(path)
    try:
        check(line, str(path))
    except UserError as error:
        raise UserError(f"{error}; {REWRITE}") from None
    return line


def read_objects(path: Path | str) -> list[tuple[int, Line]]:
    """Read any JSONL file as (line number from 1, object) pairs; empty lines are passed over.

    Raises:
        UserError: if the file cannot be read or a line is not one JSON object.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"no file {path}; give a .jsonl file of result lines or a folder of them") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}: {error}") from None
    # split, not splitlines: a class name may hold a character that splitlines takes for the end of a line.
    rows = enumerate(text.split("\n"), start=1)
    return [(number, _object(row, f"{path}, line {number}")) for number, row in rows if row.strip()]


def _object(row: str, where: str) -> Line:
    try:
        value = json.loads(row)
    except json.JSONDecodeError as error:
        raise UserError(
            f"{where} is not valid JSON ({error.msg} at column {error.colno}): {_excerpt(row)}; "
            "mend or delete this line"
        ) from None
    if not isinstance(value, dict):
        raise UserError(f"{where} is not a JSON object but {_excerpt(row)}; mend or delete this line")
    return value


def _excerpt(row: str) -> str:
    row = row.strip()
    return repr(row if len(row) <= 60 else row[:59] + "…")


def check(line: Mapping[str, Any], where: str) -> None:
    """Refuse a result line that lacks a key or holds a figure of the wrong kind.

    Args:
        line: the result line.
        where: what the message calls the line, for example ``"results/digits.jsonl, line 3"``.

    Raises:
        UserError: naming ``where``, the key and the value.
    """
    missing = [key for key in REQUIRED if key not in line]
    if missing:
        raise UserError(f"{where} lacks {', '.join(missing)}; a result line has at least {', '.join(REQUIRED)}")
    for key in _TEXT:
        if not isinstance(line[key], str):
            raise UserError(f"{where}: {key} is a text, got {line[key]!r}")
    given = [_OF_VALIDATION] if _OF_VALIDATION in line else []
    for key in (*_NUMBER, *_NUMBER_OR_NULL, *given):
        if not _is_number(line[key]) and not (key in _NUMBER_OR_NULL and line[key] is None):
            raise UserError(f"{where}: {key} is a number, got {line[key]!r}")
    for key in ("error_last", "error_best", "error_many", "error_medium", "error_few", *given):
        if line[key] is not None and not 0 <= line[key] <= 100:
            raise UserError(f"{where}: {key} is an error in per cent, from 0 to 100, got {line[key]!r}")
    for key, (kind, called) in _WHERE_GIVEN.items():
        if key in line and not isinstance(line[key], kind):
            raise UserError(f"{where}: {key} is {called}, got {line[key]!r}")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def append(path: Path | str, line: Mapping[str, Any]) -> None:
    """Append one line and force it to the disk. Several processes may append to the same file.

    The line goes out in a single write to a descriptor opened with ``O_APPEND``, so lines of two processes
    do not mix. A half line left by an earlier crash is ended first. Figures that are not finite become null:
    JSON has no NaN. Names of files lose bytes that are no UTF-8.

    Raises:
        UserError: if the file cannot be written, with the reason of the operating system.
    """
    path = Path(path)
    data = (json.dumps(_writable(line), ensure_ascii=False, allow_nan=False) + "\n").encode()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            data = b"\n" + data if _ends_in_half_a_line(descriptor) else data
            if os.write(descriptor, data) != len(data):
                raise OSError("only part of the line was written; is the disk full?")
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise UserError(f"cannot append to {path}: {error.strerror or error}") from None


def append_once(path: Path, line: Mapping[str, Any]) -> None:
    """Append a line unless the file has it. What in it is no line, as a crash may leave, is passed over.

    Raises:
        UserError: if the file cannot be read or written, with the reason of the operating system.
    """
    try:
        rows = path.read_text(encoding="utf-8", errors="replace").split("\n") if path.exists() else []
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from None
    for row in rows:
        with contextlib.suppress(json.JSONDecodeError):
            if json.loads(row) == line:
                return
    append(path, line)


def _ends_in_half_a_line(descriptor: int) -> bool:
    size = os.fstat(descriptor).st_size
    if size == 0:
        return False
    os.lseek(descriptor, size - 1, os.SEEK_SET)
    return os.read(descriptor, 1) != b"\n"


def _writable(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, str):
        return readable(value)
    if isinstance(value, Mapping):
        return {key: _writable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_writable(item) for item in value]
    return value
