"""The index of a ring on the disk: whole at any time, written by one, and never much longer than what it says."""

import fcntl
import os
import subprocess
import sys
import threading
from collections.abc import Generator
from pathlib import Path

import pytest

from capd.worker import index as index_module
from capd.worker.index import RingIndex
from capd.worker.savefile import DestinationError
from capd_protocol.index import FileWasClosed, read_index
from capd_protocol.messages import DeletionReason


@pytest.fixture
def directory_fd(tmp_path: Path) -> Generator[int, None, None]:
    descriptor = os.open(tmp_path, os.O_PATH | os.O_DIRECTORY)
    yield descriptor
    os.close(descriptor)


def opened(directory_fd: int) -> RingIndex:
    return RingIndex(directory_fd, "a.pcapng", group_access=False)


def closed_line(name: str) -> FileWasClosed:
    return FileWasClosed(
        name=name,
        closed_ns=5,
        size_bytes=6,
        packets=1,
        first_timestamp_ns=3,
        last_timestamp_ns=4,
        drops={"eth0": 0},
    )


def path_in(directory: Path) -> Path:
    return directory / "a.pcapng.index"


def names(index: RingIndex) -> list[str]:
    return [file.name for file in index.files]


def test_what_was_noted_is_there_the_next_time(tmp_path: Path, directory_fd: int) -> None:
    index = opened(directory_fd)
    assert (names(index), index.last) == ([], None)
    for number in range(4):
        index.opened(f"a{number}", number)
        index.closed(closed_line(f"a{number}"))
    index.deleted("a0", DeletionReason.FILES, 6)
    index.opened("a4", 4)
    index.close()
    again = opened(directory_fd)
    assert names(again) == ["a1", "a2", "a3", "a4"]
    assert [file.closed for file in again.files] == [*(closed_line(f"a{n}") for n in (1, 2, 3)), None]
    assert again.last is not None
    assert (again.last.name, again.device) == ("a4", tmp_path.stat().st_dev)
    again.close()
    assert path_in(tmp_path).stat().st_mode & 0o777 == 0o600


def test_it_goes_on_behind_a_torn_line(tmp_path: Path, directory_fd: int) -> None:
    index = opened(directory_fd)
    index.opened("a0", 0)
    index.close()
    with path_in(tmp_path).open("ab") as file:
        file.write(b'{"type":"clos')
    again = opened(directory_fd)
    again.closed(closed_line("a0"))
    again.close()
    (file_0,) = read_index(path_in(tmp_path).read_bytes()).files
    assert file_0.closed == closed_line("a0")


def test_it_stays_short_while_files_come_and_go(tmp_path: Path, directory_fd: int) -> None:
    index = opened(directory_fd)
    longest = 0
    for number in range(1000):
        index.opened(f"a{number}", number)
        index.closed(closed_line(f"a{number}"))
        if number >= 3:
            index.deleted(f"a{number - 3}", DeletionReason.FILES, 6)
        size_bytes = path_in(tmp_path).stat().st_size
        longest = max(longest, size_bytes)
        assert size_bytes <= index.size_bytes
    assert longest < 2 * 16 * 1024
    assert [file.name for file in read_index(path_in(tmp_path).read_bytes()).files] == ["a997", "a998", "a999"]
    assert list(tmp_path.iterdir()) == [path_in(tmp_path)]
    for number in (997, 998, 999):
        index.deleted(f"a{number}", None, 6)
    index.close()
    again = opened(directory_fd)
    assert again.last is not None
    assert again.last.name == "a999"
    again.close()


def test_what_is_set_aside_holds_a_rewrite_and_the_next_lines(tmp_path: Path, directory_fd: int) -> None:
    index = opened(directory_fd)
    for number in range(100):
        index.opened(f"a{number}", number)
        before = index.size_bytes
        index.closed(closed_line(f"a{number}"))
        assert path_in(tmp_path).stat().st_size <= before
    assert index.size_bytes >= 2 * path_in(tmp_path).stat().st_size
    index.close()


def test_a_rewrite_that_cannot_be_leaves_the_old_one(tmp_path: Path, directory_fd: int) -> None:
    (tmp_path / "a.pcapng.index.new").mkdir()
    index = opened(directory_fd)
    for number in range(200):
        index.opened(f"a{number}", number)
        index.deleted(f"a{number}", DeletionReason.AGE, 6)
    index.opened("a200", 200)
    index.close()
    assert path_in(tmp_path).stat().st_size > 2 * 16 * 1024
    again = opened(directory_fd)
    assert names(again) == ["a200"]
    again.close()


def test_two_captures_do_not_write_one_ring(directory_fd: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_module, "_LOCK_S", 0.1)
    first = opened(directory_fd)
    with pytest.raises(DestinationError, match="another capture writes this ring"):
        opened(directory_fd)
    first.close()
    opened(directory_fd).close()


def test_the_lock_goes_with_a_rewritten_index(directory_fd: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_module, "_LOCK_S", 0.1)
    first = opened(directory_fd)
    before = os.fstat(first._fd).st_ino
    while os.fstat(first._fd).st_ino == before:
        first.opened("a", 1)
        first.deleted("a", None, 0)
    with pytest.raises(DestinationError, match="another capture"):
        opened(directory_fd)
    first.close()


def test_one_that_is_about_to_end_is_waited_for(directory_fd: int) -> None:
    first = opened(directory_fd)
    first.opened("a0", 0)

    def end() -> None:
        first.closed(closed_line("a0"))
        first.close()

    timer = threading.Timer(0.3, end)
    timer.start()
    second = opened(directory_fd)
    assert [file.closed for file in second.files] == [closed_line("a0")]
    second.close()
    timer.join()


@pytest.mark.parametrize("kind", ["directory", "fifo", "link", "dangling link"])
def test_what_is_no_file_of_ones_own_is_not_opened(tmp_path: Path, directory_fd: int, kind: str) -> None:
    path, victim = path_in(tmp_path), tmp_path / "victim"
    victim.write_text("precious")
    match kind:
        case "directory":
            path.mkdir()
        case "fifo":
            os.mkfifo(path)
        case "link":
            path.symlink_to(victim)
        case _:
            path.symlink_to(tmp_path / "nothing")
    with pytest.raises(DestinationError, match=r"a\.pcapng\.index"):
        opened(directory_fd)
    assert victim.read_text() == "precious"
    assert not (tmp_path / "nothing").exists()


def test_a_line_that_does_not_fit_on_the_disk_is_not_there_at_all(tmp_path: Path) -> None:
    # A limit of the size of files stands for a full disk; it is a process's own.
    code = """
import os, resource, signal, sys
from capd.worker.index import RingIndex
from capd.worker.savefile import WriteError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
index = RingIndex(os.open(sys.argv[1], os.O_PATH | os.O_DIRECTORY), "a.pcapng", group_access=False)
index.opened("a0", 0)
resource.setrlimit(resource.RLIMIT_FSIZE, (120, 120))
try:
    index.opened("a1", 1)
except WriteError:
    print([file.name for file in index.files])
index.deleted("a0", None, 0)
print([file.name for file in index.files])
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True, timeout=30
    )
    assert done.stdout == "['a0']\n[]\n"
    data = path_in(tmp_path).read_bytes()
    assert data.endswith(b"}\n")
    # That it was deleted has found no room.
    assert [file.name for file in read_index(data).files] == ["a0"]


def test_an_index_that_was_made_for_nothing_goes_again(tmp_path: Path, directory_fd: int) -> None:
    index = opened(directory_fd)
    index.opened("a0", 0)
    index.abandon("a0")
    index.close()
    assert list(tmp_path.iterdir()) == []
    index = opened(directory_fd)
    index.opened("a1", 1)
    index.close()
    index = opened(directory_fd)
    index.opened("a2", 2)
    index.abandon("a2")
    index.close()
    index = opened(directory_fd)
    assert names(index) == ["a1"]
    index.close()


def test_the_lock_is_no_obstacle_to_readers(tmp_path: Path, directory_fd: int) -> None:
    index = opened(directory_fd)
    index.opened("a0", 0)
    with path_in(tmp_path).open("rb") as file:
        assert len(read_index(file.read()).files) == 1
        with pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    index.close()
