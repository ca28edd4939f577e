"""CSV files with the columns ``path``, ``label`` and, if there are fixed splits, ``split``."""

from __future__ import annotations

import csv
import os
from pathlib import Path
from typing import Any

import numpy as np

from safa.data.listing import SPLIT_NAMES, Listing, first_few, look_alikes
from safa.data.types import Split
from safa.errors import UserError

Row = tuple[int, str, str, str]  # line, path, label, split


def list_table(file: Path, name: str, base: Path) -> Listing:
    """List the images of a CSV file without opening them.

    Labels are class names, sorted; when all of them are integers they are class ids, counted from 0, and ``01``
    is another spelling of 1.

    Args:
        file: the CSV file, UTF-8 with a header line, in upper or lower case.
        name: as the data set was asked for.
        base: the folder that relative paths start from.

    Raises:
        UserError: if a column is missing or comes twice, a row has too many cells, a value is empty, a
            label out of range, a split unknown, or a file in two splits.
    """
    rows = _read_rows(file)
    _check_unique(file, rows, base)
    class_names, ids = _classes(file, rows)
    splits = {}
    for kind in ("train", "validation", "test"):
        chosen = [row for row in rows if row[3] == kind]
        if chosen or kind == "train":
            labels = np.array([ids[label] for _, _, label, _ in chosen], dtype=np.int64)
            splits[kind] = Split(labels, paths=tuple(base / path for _, path, _, _ in chosen))
    return Listing(name=name, base=base, class_names=class_names, splits=splits, notes=_merged(ids))


def _read_rows(file: Path) -> list[Row]:
    rows: list[Row] = []
    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream, skipinitialspace=True, strict=True)
            reader.fieldnames = [column.strip().lower() for column in reader.fieldnames or ()]
            _check_columns(file, list(reader.fieldnames))
            rows.extend(_row(file, reader.line_num, cells) for cells in reader)
    except (OSError, UnicodeDecodeError) as error:
        way_out = "; save it as UTF-8" if isinstance(error, UnicodeDecodeError) else ""
        raise UserError(f"cannot read {str(file)!r} as a CSV file in UTF-8: {error}{way_out}") from error
    except csv.Error as error:
        line = rows[-1][0] + 1 if rows else 1
        raise UserError(
            f"cannot read {str(file)!r} as a CSV file from line {line} on: {error}; is a quote there not closed?"
        ) from error
    if not rows:
        raise UserError(f"{str(file)!r} has a header but no rows; add one line per image")
    return rows


def _check_columns(file: Path, columns: list[str]) -> None:
    missing = [column for column in ("path", "label") if column not in columns]
    if missing:
        raise UserError(
            f"{str(file)!r} has no column {missing[0]!r}; its columns are {columns}, "
            f"needed are path,label and, if wanted, split" + ("" if len(columns) > 1 else ", with commas between them")
        )
    twice = [column for column in ("path", "label", "split") if columns.count(column) > 1]
    if twice:
        raise UserError(f"{str(file)!r} has more than one column {twice[0]!r}; leave one of them")


def _row(file: Path, line: int, cells: dict[str | None, Any]) -> Row:
    surplus = [cell for cell in cells.get(None, ()) if cell.strip()]
    if surplus:
        raise UserError(
            f"line {line} of {str(file)!r} has more cells than the header, {surplus[0]!r} is one too many; put a value "
            'with a comma in quotes, as in "Panthera, leo"'
        )
    path, label = ((cells[column] or "").strip() for column in ("path", "label"))
    if not path or not label:
        raise UserError(f"line {line} of {str(file)!r} has no {'label' if path else 'path'}; add it or drop the line")
    split = (cells.get("split") or "train").strip().lower() if "split" in cells else "train"
    if split not in SPLIT_NAMES:
        raise UserError(f"line {line} of {str(file)!r} has the split {split!r}; there are train, val and test")
    return line, path, label, SPLIT_NAMES[split]


def _check_unique(file: Path, rows: list[Row], base: Path) -> None:
    first: dict[str, Row] = {}
    for row in rows:
        # a.png, ./a.png and /home/me/a.png may be one file.
        known = first.setdefault(os.path.abspath(base / row[1]), row)  # noqa: PTH100  (resolve() asks the disk)
        if known is not row:
            spelt = "" if row[1] == known[1] else f" as {row[1]!r}"
            raise UserError(
                f"{known[1]!r} is on line {known[0]} ({known[3]}) and again{spelt} on line {row[0]} ({row[3]}) of "
                f"{str(file)!r}; an image may be listed once"
            )


def _classes(file: Path, rows: list[Row]) -> tuple[tuple[str, ...], dict[str, int]]:
    """Class names in the order of their ids, and the id of every label as it is written."""
    written = sorted({label for _, _, label, _ in rows})
    _refuse_twins(file, written)
    if not all(map(_is_integer, written)):
        return tuple(written), {label: class_id for class_id, label in enumerate(written)}
    ids = {label: int(label) for label in written}
    negative = next((row for row in rows if ids[row[2]] < 0), None)
    if negative is not None:
        raise UserError(f"label {negative[2]} on line {negative[0]} of {str(file)!r} is out of range; ids start at 0")
    known = set(ids.values())
    gap = next((expected for expected in range(len(known)) if expected not in known), None)
    if gap is not None:
        raise UserError(
            f"no image of {str(file)!r} has the label {gap}, yet labels go up to {max(known)}: class ids "
            f"count from 0 without a gap (class names may be anything)"
        )
    return tuple(map(str, range(len(known)))), ids


def _refuse_twins(file: Path, labels: list[str]) -> None:
    if twins := look_alikes(labels):
        raise UserError(
            f"{str(file)!r} writes the label {twins[1]!r} in two ways, {twins[0]!a} and {twins[1]!a}; write it in one"
        )


def _merged(ids: dict[str, int]) -> tuple[str, ...]:
    """A note if an id is written in more than one way."""
    written: dict[int, list[str]] = {}
    for label, class_id in ids.items():
        written.setdefault(class_id, []).append(label)
    merged = [" = ".join(labels) for labels in written.values() if len(labels) > 1]
    return (f"labels of the same number are one class: {first_few(merged)}",) if merged else ()


def _is_integer(label: str) -> bool:
    digits = label.removeprefix("-")
    return digits.isascii() and digits.isdigit()
