"""Files that are whole or absent, whatever goes wrong while they are written."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from safa import files
from safa.errors import UserError
from safa.files import (
    alone_in,
    expanded,
    read_json,
    refuse_unappendable_file,
    refuse_unwritable,
    refuse_unwritable_file,
    remove_halves,
    write_atomically,
)

# A process that may write files of at most 1,000 bytes: the disk is full for anything longer.
FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from safa.errors import UserError
from safa.files import write_atomically
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    write_atomically(Path(sys.argv[1]), b"new" * 1000)
except UserError as error:
    print(error)
"""

# A process that holds a folder until it is killed.
HOLDING = """
import sys, time
from pathlib import Path
from safa.files import alone_in
with alone_in(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def file(tmp_path) -> Path:
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(b"old")
    return path


def assert_untouched(file: Path) -> None:
    assert file.read_bytes() == b"old"
    assert os.listdir(file.parent) == [file.name]


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


def test_where_there_was_nothing_before_nothing_is_said_of_it(tmp_path, monkeypatch):
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(UserError) as error:
        write_atomically(tmp_path / "new", b"new")
    assert str(error.value) == f"cannot write {tmp_path / 'new'}: No space left on device"


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


def test_two_processes_of_one_number_write_beside_the_file_under_two_names(file, monkeypatch):
    """As the first processes of two containers that share a disk do."""
    names, opened = [], Path.open
    monkeypatch.setattr(os, "getpid", lambda: 1)
    monkeypatch.setattr(Path, "open", lambda self, mode: (names.append(self.name), opened(self, mode))[1])
    for content in (b"first", b"second"):
        write_atomically(file, content)
    assert len(set(names)) == 2
    assert all(name.startswith(".checkpoint.pt.") and name.endswith(".part") for name in names)


# --- before and beside the writing -------------------------------------------------------------------------


def test_a_folder_that_is_to_be_made_where_a_file_lies_is_refused_beforehand(file):
    with pytest.raises(
        UserError, match=r"cannot write in .*checkpoint\.pt/a/b: .*checkpoint\.pt is a file, not a folder"
    ):
        refuse_unwritable(file / "a" / "b")
    refuse_unwritable(file.parent / "a" / "b")
    assert_untouched(file)


def test_a_folder_without_permission_is_refused_beforehand(file, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: path != file.parent)
    with pytest.raises(UserError, match="cannot write in .*inside: no permission to write in"):
        refuse_unwritable(file.parent / "inside")


def test_a_file_is_looked_for_where_it_will_be_written(tmp_path, monkeypatch):
    """Of a link that is the folder it leads to; a device or what is open has none."""
    for folder in ("ours", "theirs"):
        (tmp_path / folder).mkdir()
    (tmp_path / "ours" / "link").symlink_to(tmp_path / "theirs" / "file")
    (tmp_path / "theirs" / "link").symlink_to(tmp_path / "ours" / "file")
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name == "ours")
    refuse_unwritable_file(tmp_path / "theirs" / "link")
    for place in ("ours/link", "theirs/file"):
        with pytest.raises(UserError, match="no permission to write in .*theirs; name another place"):
            refuse_unwritable_file(tmp_path / place)
    for device in ("/dev/stdout", "/dev/null"):
        refuse_unwritable_file(Path(device))


def test_a_file_is_appended_to_without_a_permission_for_its_folder(file, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: path == file)
    refuse_unappendable_file(file)
    with pytest.raises(UserError, match="no permission to write in"):
        refuse_unappendable_file(file.with_name("new"))
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(UserError, match=f"cannot append to {file}: it is no file that may be written"):
        refuse_unappendable_file(file)
    with pytest.raises(UserError, match=f"cannot write {file.parent}: it is a folder; name a file in it"):
        refuse_unappendable_file(file.parent)


def test_the_command_that_resumes_a_run_can_be_pasted_whatever_the_name(tmp_path):
    assert files.resumed_by(Path("runs/my photos' seed0")) == """safa train --resume 'runs/my photos'"'"' seed0'"""


def test_a_folder_is_held_by_one_process_alone_and_a_killed_one_holds_it_no_more(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "LOCK_TIMEOUT", 0.0)
    folder = tmp_path / "run"
    with subprocess.Popen([sys.executable, "-c", HOLDING, str(folder)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(UserError, match="another process trains in .*run; wait for its end"), alone_in(folder):
            pass
        holder.send_signal(signal.SIGKILL)
    with alone_in(folder):
        pass
    assert [*folder.iterdir()] == []


def test_of_a_link_the_file_it_leads_to_is_written(tmp_path):
    (tmp_path / "there").mkdir()
    link = tmp_path / "link.md"
    for target in (tmp_path / "there" / "text.md", tmp_path / "there" / "new.md"):
        link.unlink(missing_ok=True)
        link.symlink_to(target)
        write_atomically(link, b"new")
        assert link.is_symlink()
        assert target.read_bytes() == b"new"


def test_what_is_no_file_is_written_into_and_stays_what_it_is(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reading = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        write_atomically(pipe, b"new")
        assert os.read(reading, 100) == b"new"
    finally:
        os.close(reading)
    assert pipe.is_fifo()
    write_atomically(Path(os.devnull), b"new")
    assert not Path(os.devnull).is_file()


@pytest.mark.skipif(not Path("/dev/stdout").exists(), reason="there is no /dev/stdout")
def test_what_stands_in_a_file_that_standard_output_goes_to_stays(tmp_path):
    code = "from pathlib import Path; from safa.files import write_atomically as w; w(Path('/dev/stdout'), b'new')"
    (tmp_path / "all.csv").write_text("old ")
    with (tmp_path / "all.csv").open("a") as file:
        subprocess.run([sys.executable, "-c", code], stdout=file, check=True)
    assert (tmp_path / "all.csv").read_text() == "old new"


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="there is no /dev/shm")
def test_a_file_in_memory_is_a_file_like_any_other():
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        for content in (b"old", b"new"):
            write_atomically(Path(folder) / "state.pt", content)
        assert (Path(folder) / "state.pt").read_bytes() == b"new"


def test_a_home_that_nobody_has_is_a_name_like_any_other():
    assert expanded("~nobodyhere/photos") == Path("~nobodyhere/photos")
    assert expanded("~/photos") == Path.home() / "photos"


def test_where_a_file_that_is_open_cannot_be_deleted_the_lock_stays_and_is_free(tmp_path, monkeypatch):
    def refuse(self, missing_ok=False):
        raise PermissionError("used by another process")

    with monkeypatch.context() as windows:
        windows.setattr(Path, "unlink", refuse)
        with alone_in(tmp_path):
            pass
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]
    with alone_in(tmp_path):
        pass


def test_bytes_that_are_no_utf8_are_left_out_of_a_readable_name():
    assert files.readable(os.fsdecode(b"caf\xe9 \xf0\x9f\x98\x80")) == "caf \U0001f600"


def test_a_folder_that_cannot_be_held_is_a_clear_error(file):
    with pytest.raises(UserError, match="cannot write in .*inside: Not a directory"), alone_in(file / "inside"):
        pass


def test_an_object_is_read_and_anything_else_is_called_by_its_file(file):
    file.write_text('{"a": [1, null]}')
    assert read_json(file) == {"a": [1, None]}
    for content, reason in ((b'{"a": [1', "Expecting"), (b"[]", "is not a JSON object"), (b"\xff", "codec")):
        file.write_bytes(content)
        with pytest.raises(UserError, match=rf"checkpoint\.pt.*{reason}.*; delete the run's result\.json"):
            read_json(file)
    with pytest.raises(UserError, match=r"cannot read .*absent\.json: .*No such file"):
        read_json(file.with_name("absent.json"))


@pytest.mark.parametrize("folder", [".", "/", ""])
def test_a_folder_in_the_place_of_a_file_is_named(folder):
    with pytest.raises(UserError, match="it is a folder; name a file in it"):
        write_atomically(Path(folder), b"content")
