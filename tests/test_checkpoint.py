"""What is saved is loaded, and whatever else lies there is refused in a sentence."""

from __future__ import annotations

import os
import time

import pytest
import torch

from safa import checkpoint
from safa.checkpoint import StageCache
from safa.errors import UserError

STATE = {
    "model": {"weight": torch.arange(6.0).reshape(2, 3)},
    "done": 3,
    "history": [{"loss": 0.5, "test": None}],
    "key": "k",
}

# --- writing -----------------------------------------------------------------------------------------------


def test_what_is_saved_is_loaded(tmp_path):
    checkpoint.save(tmp_path / "new" / "folder" / "state.pt", STATE)
    loaded = checkpoint.load(tmp_path / "new" / "folder" / "state.pt")
    assert torch.equal(loaded["model"].pop("weight"), STATE["model"]["weight"])
    assert loaded == {**STATE, "model": {}}


# --- reading -----------------------------------------------------------------------------------------------


def test_a_missing_checkpoint_is_named(tmp_path):
    with pytest.raises(UserError, match=r"there is no checkpoint at .*absent\.pt"):
        checkpoint.load(tmp_path / "absent.pt")


def test_what_cannot_be_read_is_not_called_damaged(tmp_path):
    """Nobody must be told to delete a checkpoint that may be whole."""
    (tmp_path / "state.pt").mkdir()
    with pytest.raises(UserError) as error:
        checkpoint.load(tmp_path / "state.pt")
    assert str(error.value) == f"cannot read {tmp_path / 'state.pt'}: Is a directory"


@pytest.mark.parametrize(
    "error",
    [MemoryError(), RuntimeError("[alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory")],
)
def test_what_does_not_fit_in_memory_is_not_called_damaged(error, tmp_path, monkeypatch):
    def no_room(*_, **__):
        raise error

    checkpoint.save(tmp_path / "state.pt", STATE)
    monkeypatch.setattr(torch, "load", no_room)
    with pytest.raises(UserError, match=r"too little memory to read .*state\.pt, which may be whole; free some"):
        checkpoint.load(tmp_path / "state.pt")


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_a_checkpoint_that_is_cut_short_is_called_damaged(share, tmp_path):
    path = tmp_path / "state.pt"
    checkpoint.save(path, STATE)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(UserError, match=r"state\.pt is no checkpoint of safa, or is damaged"):
        checkpoint.load(path)


def test_a_hole_in_a_tensor_is_not_taken_for_weights(tmp_path):
    """As after a power cut; the archive around it is whole."""
    path, weights = tmp_path / "state.pt", torch.full((100,), 0.1)
    checkpoint.save(path, {"model": {"weight": weights}})
    content, held = path.read_bytes(), weights.numpy().tobytes()
    assert held in content
    path.write_bytes(content.replace(held, held[:200] + bytes(200)))
    with pytest.raises(UserError, match=r"state\.pt is no checkpoint of safa, or is damaged; .*checksum .* is wrong"):
        checkpoint.load(path)


def test_a_file_that_would_run_code_is_refused(tmp_path):
    path = tmp_path / "state.pt"
    torch.save({"model": Runs()}, path)
    with pytest.raises(UserError, match="is no checkpoint of safa") as error:
        checkpoint.load(path)
    assert "\n" not in str(error.value)


class Runs:
    def __reduce__(self):
        return print, ("code ran",)


def test_a_tensor_alone_is_no_checkpoint(tmp_path):
    torch.save(torch.zeros(3), tmp_path / "state.pt")
    with pytest.raises(UserError, match="it holds a Tensor"):
        checkpoint.load(tmp_path / "state.pt")


# --- the cache ---------------------------------------------------------------------------------------------


def test_the_cache_finds_a_state_by_its_key(tmp_path):
    cache = StageCache(tmp_path / "cache")
    assert "abc" not in cache
    cache.save("abc", STATE)
    assert "abc" in cache
    assert cache.load("abc")["done"] == 3


def test_the_cache_never_rewrites_a_state(tmp_path):
    cache = StageCache(tmp_path)
    cache.save("abc", STATE)
    cache.save("abc", {**STATE, "done": 4})
    assert cache.load("abc")["done"] == 3


def test_what_was_left_half_written_a_day_ago_is_removed_and_what_another_process_writes_is_not(tmp_path):
    old, new = tmp_path / ".abc.pt.1.part", tmp_path / ".def.pt.2.part"
    for half in (old, new):
        half.write_bytes(b"ha")
    os.utime(old, (time.time() - 2 * checkpoint.DAY,) * 2)
    StageCache(tmp_path).save("ghi", STATE)
    assert sorted(path.name for path in tmp_path.iterdir()) == [new.name, "ghi.pt"]


def test_a_cache_that_can_no_longer_be_written_is_told_of_once(tmp_path):
    said: list[str] = []
    cache = StageCache(tmp_path / "cache", said.append)
    (tmp_path / "cache").touch()
    for key in ("abc", "def"):
        cache.save(key, STATE)
    (sentence,) = said
    assert sentence.startswith(f"cannot write {tmp_path / 'cache' / 'abc.pt'}: ")
    assert sentence.endswith("; training goes on, and other runs will train these epochs anew")
    (tmp_path / "cache").unlink()
    cache.save("def", STATE)  # it may have room again
    assert cache.load("def")["done"] == 3
