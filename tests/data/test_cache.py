from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from safa.data.cache import cache_folder, cached_arrays


@pytest.fixture
def packed(tmp_path, monkeypatch):
    monkeypatch.setenv("SAFA_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "data.bin"
    path.write_bytes(b"one")
    return path


class Build:
    def __init__(self):
        self.calls = 0

    def __call__(self):
        self.calls += 1
        return {"labels": np.arange(3) + self.calls}


def test_arrays_are_built_once(packed):
    build = Build()
    for _ in range(3):
        assert cached_arrays("set", [packed], build)["labels"].tolist() == [1, 2, 3]
    assert build.calls == 1
    assert [path.suffix for path in cache_folder().iterdir()] == [".npz"]


def test_a_changed_file_is_built_again(packed):
    build = Build()
    cached_arrays("set", [packed], build)
    status = packed.stat()
    os.utime(packed, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    cached_arrays("set", [packed], build)
    packed.write_bytes(b"other")
    cached_arrays("set", [packed], build)
    assert build.calls == 3


@pytest.mark.parametrize("damage", [b"", b"PK\3\4 broken", b"\x93NUMPY"])
def test_a_damaged_entry_is_built_again(packed, damage):
    build = Build()
    cached_arrays("set", [packed], build)
    next(cache_folder().iterdir()).write_bytes(damage)
    assert cached_arrays("set", [packed], build)["labels"].tolist() == [2, 3, 4]


def test_an_entry_cut_short_is_built_again(packed):
    build = Build()
    cached_arrays("set", [packed], build)
    entry = next(cache_folder().iterdir())
    entry.write_bytes(entry.read_bytes()[:-40])
    assert cached_arrays("set", [packed], build)["labels"].tolist() == [2, 3, 4]


def test_a_folder_that_cannot_be_written_is_passed_over(packed, monkeypatch):
    (packed.parent / "file").write_text("not a folder")
    monkeypatch.setenv("SAFA_CACHE", str(packed.parent / "file"))
    assert cached_arrays("set", [packed], Build())["labels"].tolist() == [1, 2, 3]


def test_a_full_disk_leaves_no_partial_entry(packed, monkeypatch):
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert cached_arrays("set", [packed], Build())["labels"].tolist() == [1, 2, 3]
    assert list(cache_folder().iterdir()) == []


def test_without_a_home_there_is_no_cache_and_nothing_is_written(monkeypatch, tmp_path):
    def homeless(path):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("SAFA_CACHE", raising=False)
    monkeypatch.setattr(Path, "expanduser", homeless)
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    assert cache_folder() is None
    assert cached_arrays("x", [], lambda: {"a": np.arange(3)})["a"].tolist() == [0, 1, 2]
    assert sorted(tmp_path.rglob("*")) == before
