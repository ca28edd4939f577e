"""Files that are whole or absent, whatever goes wrong while they are written."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from safa import checkpoint
from safa.checkpoint import StageCache, remove_halves, write_atomically
from safa.errors import UserError

STATE = {
    "model": {"weight": torch.arange(6.0).reshape(2, 3)},
    "done": 3,
    "history": [{"loss": 0.5, "test": None}],
    "key": "k",
}

# A process that may write files of at most 1,000 bytes: the disk is full for anything longer.
FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from safa import checkpoint
from safa.errors import UserError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    checkpoint.write_atomically(Path(sys.argv[1]), b"new" * 1000)
except UserError as error:
    print(error)
"""


@pytest.fixture
def file(tmp_path) -> Path:
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(b"old")
    return path


def assert_untouched(file: Path) -> None:
    assert file.read_bytes() == b"old"
    assert os.listdir(file.parent) == [file.name]


# --- writing -----------------------------------------------------------------------------------------------


def test_what_is_saved_is_loaded(tmp_path):
    checkpoint.save(tmp_path / "new" / "folder" / "state.pt", STATE)
    loaded = checkpoint.load(tmp_path / "new" / "folder" / "state.pt")
    assert torch.equal(loaded["model"].pop("weight"), STATE["model"]["weight"])
    assert loaded == {**STATE, "model": {}}


def test_new_content_replaces_the_old_and_leaves_nothing_beside(file):
    write_atomically(file, b"new")
    assert file.read_bytes() == b"new"
    assert os.listdir(file.parent) == [file.name]


def test_the_content_is_on_the_disk_before_it_takes_the_name(file, monkeypatch):
    order = []
    fsync, replace = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda descriptor: (order.append("fsync"), fsync(descriptor)))
    monkeypatch.setattr(Path, "replace", lambda self, target: (order.append("replace"), replace(self, target)))
    write_atomically(file, b"new")
    assert order == ["fsync", "replace"]


@pytest.mark.parametrize("step", ["open", "write", "fsync", "replace"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EIO])
def test_a_failure_at_any_step_keeps_the_old_content_and_leaves_no_half_file(step, code, file, monkeypatch):
    def fail(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    opened = Path.open
    target, name, change = {
        "open": (Path, "open", fail),
        "write": (Path, "open", lambda self, mode: _Failing(opened(self, mode), fail)),
        "fsync": (os, "fsync", fail),
        "replace": (Path, "replace", fail),
    }[step]
    with monkeypatch.context() as broken, pytest.raises(UserError) as error:
        broken.setattr(target, name, change)
        write_atomically(file, b"new")
    assert str(error.value) == f"cannot write {file}: {os.strerror(code)}; what was there before is untouched"
    assert_untouched(file)


class _Failing:
    """A file whose ``write`` fails after half of the content, as on a disk that is full."""

    def __init__(self, file, fail) -> None:
        self.file, self.fail = file, fail

    def __enter__(self):
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def write(self, content: bytes) -> None:
        self.file.write(content[: len(content) // 2])
        self.file.flush()
        self.fail()


def test_a_disk_that_is_really_full_is_a_clear_error(file):
    pytest.importorskip("resource")
    done = subprocess.run([sys.executable, "-c", FULL_DISK, str(file)], capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"cannot write {file}: File too large; what was there before is untouched")
    assert_untouched(file)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_a_clear_error(file):
    file.parent.chmod(0o500)
    try:
        with pytest.raises(UserError, match="Permission denied"):
            write_atomically(file, b"new")
    finally:
        file.parent.chmod(0o700)
    assert_untouched(file)


def test_a_file_in_the_place_of_a_folder_is_a_clear_error(file):
    with pytest.raises(UserError, match="cannot write"):
        write_atomically(file / "inside.pt", b"new")
    assert_untouched(file)


def test_an_interruption_leaves_no_half_file(file, monkeypatch):
    def interrupted(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(file, b"new")
    assert_untouched(file)


def test_what_a_killed_process_left_half_written_is_removed(file):
    (file.parent / ".checkpoint.pt.4711.part").write_bytes(b"ha")
    remove_halves(file.parent)
    assert_untouched(file)
    remove_halves(file.parent / "absent")


# --- reading -----------------------------------------------------------------------------------------------


def test_a_missing_checkpoint_is_named(tmp_path):
    with pytest.raises(UserError, match=r"there is no checkpoint at .*absent\.pt"):
        checkpoint.load(tmp_path / "absent.pt")


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_a_checkpoint_that_is_cut_short_is_called_damaged(share, tmp_path):
    path = tmp_path / "state.pt"
    checkpoint.save(path, STATE)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(UserError, match=r"state\.pt is no checkpoint of safa, or is damaged"):
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
