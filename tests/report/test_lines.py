"""Result lines: what is read is checked, what is appended is whole."""

from __future__ import annotations

import json
import multiprocessing
import os
from pathlib import Path

import pytest

from safa.errors import UserError
from safa.report import lines

LINE = {
    "recipe": "digits-ce",
    "dataset": "digits",
    "imbalance_factor": 20,
    "model": "resnet8",
    "method": "CE",
    "seed": 0,
    "epochs": 30,
    "error_last": 21.5,
    "error_best": 21.0,
    "error_many": 3.0,
    "error_medium": 20.0,
    "error_few": 55.0,
    "error_per_class": [3.0, 20.0, 55.0],
    "ece": 4.2,
}


def test_appended_lines_come_back_in_order(tmp_path):
    file = tmp_path / "results" / "digits.jsonl"
    lines.append(file, LINE)
    lines.append(file, LINE | {"seed": 1})
    assert lines.read(file) == [LINE, LINE | {"seed": 1}]


def test_a_folder_is_read_file_by_file_in_the_order_of_names(tmp_path):
    lines.append(tmp_path / "b.jsonl", LINE | {"method": "second"})
    lines.append(tmp_path / "a.jsonl", LINE | {"method": "first"})
    assert [line["method"] for line in lines.read(tmp_path)] == ["first", "second"]


def test_a_broken_line_is_named_with_file_and_number(tmp_path):
    file = tmp_path / "digits.jsonl"
    file.write_text(f'{json.dumps(LINE)}\n\n{{"recipe": "half\n')
    with pytest.raises(UserError, match=r"digits\.jsonl, line 3 is not valid JSON"):
        lines.read(file)


@pytest.mark.parametrize("text", ["[1, 2]", "17", '"text"'])
def test_a_line_that_is_no_object_is_refused(tmp_path, text):
    file = tmp_path / "digits.jsonl"
    file.write_text(text)
    with pytest.raises(UserError, match="line 1 is not a JSON object"):
        lines.read(file)


@pytest.mark.parametrize("key", lines.REQUIRED)
def test_a_missing_key_is_named(tmp_path, key):
    file = tmp_path / "digits.jsonl"
    file.write_text(json.dumps({name: value for name, value in LINE.items() if name != key}))
    with pytest.raises(UserError, match=rf"line 1 lacks {key};"):
        lines.read(file)


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("method", 3, "method is a text"),
        ("seed", "0", "seed is a number"),
        ("error_last", None, "error_last is a number"),
        ("error_last", True, "error_last is a number"),
        ("error_few", 101, "from 0 to 100"),
        ("error_per_class", 3.0, "error_per_class is a list"),
        ("changes", None, "changes is a list"),
        ("groups", [], "groups is an object"),
        ("processes", "2", "processes is a whole number"),
        ("balanced_error_validation", "12", "balanced_error_validation is a number"),
        ("balanced_error_validation", -1, "from 0 to 100"),
    ],
)
def test_a_figure_of_the_wrong_kind_is_refused(tmp_path, key, value, reason):
    file = tmp_path / "digits.jsonl"
    file.write_text(json.dumps(LINE | {key: value}))
    with pytest.raises(UserError, match=reason):
        lines.read(file)


def test_a_group_without_classes_may_have_no_error(tmp_path):
    file = tmp_path / "digits.jsonl"
    lines.append(file, LINE | {"error_few": float("nan")})
    assert "NaN" not in file.read_text()
    assert lines.read(file)[0]["error_few"] is None


def test_a_half_line_of_a_crash_does_not_swallow_the_next(tmp_path):
    file = tmp_path / "digits.jsonl"
    file.write_text('{"recipe": "cut o')
    lines.append(file, LINE)
    first, second = file.read_text().splitlines()
    assert first == '{"recipe": "cut o'
    assert json.loads(second) == LINE


def test_a_line_is_appended_once_whatever_else_the_file_holds(tmp_path):
    path = tmp_path / "lines.jsonl"
    path.write_bytes(b'{"half": \n\xff\n')
    for _ in range(2):
        lines.append_once(path, {"seed": 1})
    assert path.read_bytes() == b'{"half": \n\xff\n{"seed": 1}\n'


def test_names_in_any_script_survive(tmp_path):
    file = tmp_path / "birds.jsonl"
    lines.append(file, LINE | {"method": "方法\u2028ß"})
    assert lines.read(file)[0]["method"] == "方法\u2028ß"


def test_names_of_files_lose_what_cannot_be_written(tmp_path):
    lines.append(tmp_path / "x.jsonl", LINE | {"recipe": os.fsdecode(b"caf\xe9"), "changes": [os.fsdecode(b"a=\xe9")]})
    (line,) = lines.read(tmp_path / "x.jsonl")
    assert (line["recipe"], line["changes"]) == ("caf", ["a="])


def test_a_missing_file_and_a_folder_in_the_way_are_clear_errors(tmp_path):
    with pytest.raises(UserError, match="no file"):
        lines.read(tmp_path / "absent.jsonl")
    with pytest.raises(UserError, match="cannot append to"):
        lines.append(tmp_path, LINE)


def _append_twenty(path: Path, seed: int) -> None:
    for _ in range(20):
        lines.append(path, LINE | {"seed": seed, "error_per_class": [50.0] * 2000})


def test_lines_of_two_processes_do_not_mix(tmp_path):
    file = tmp_path / "shared.jsonl"
    spawn = multiprocessing.get_context("spawn")
    writers = [spawn.Process(target=_append_twenty, args=(file, seed)) for seed in range(2)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert sorted(line["seed"] for line in lines.read(file)) == [0] * 20 + [1] * 20
