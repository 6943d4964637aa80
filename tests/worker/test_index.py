"""The index of a ring on the disk: whole at any time, written by one, and never much longer than what it says."""

import fcntl
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Generator
from pathlib import Path

import pytest

from capd.worker.output import savefile
from capd.worker.output.ring_index import RingIndex
from capd.worker.output.savefile import DestinationError
from capd_protocol.formats.ring_index import FileWasClosed, FileWasOpened, Line, encode_line, read_index
from capd_protocol.messages import DeletionReason
from tests.support.daemon import as_user


@pytest.fixture
def directory_fd(tmp_path: Path) -> Generator[int, None, None]:
    descriptor = os.open(tmp_path, os.O_PATH | os.O_DIRECTORY)
    yield descriptor
    os.close(descriptor)


def opened(directory_fd: int) -> RingIndex:
    return RingIndex(directory_fd, "a.pcapng", group_access=False)


def name(number: int) -> str:
    return f"a_{number:05}_20260131235959.pcapng"


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


def lock_in(directory: Path) -> Path:
    return directory / "a.pcapng.index.lock"


def names_in(data: bytes) -> list[str]:
    return [file.name for file in read_index(data, "a.pcapng").files]


def names(index: RingIndex) -> list[str]:
    return [file.name for file in index.files]


def test_what_was_noted_is_there_the_next_time(tmp_path: Path, directory_fd: int) -> None:
    index = opened(directory_fd)
    assert (names(index), index.last) == ([], None)
    for number in range(4):
        index.opened(name(number), number)
        index.closed(closed_line(name(number)))
    index.deleted(name(0), DeletionReason.FILES, 6)
    index.opened(name(4), 4)
    index.close()
    again = opened(directory_fd)
    assert names(again) == [name(1), name(2), name(3), name(4)]
    assert [file.closed for file in again.files] == [*(closed_line(name(n)) for n in (1, 2, 3)), None]
    assert again.last is not None
    assert (again.last.name, again.device) == (name(4), tmp_path.stat().st_dev)
    again.close()
    assert path_in(tmp_path).stat().st_mode & 0o777 == 0o600


def test_it_goes_on_behind_a_torn_line(tmp_path: Path, directory_fd: int) -> None:
    index = opened(directory_fd)
    index.opened(name(0), 0)
    index.close()
    with path_in(tmp_path).open("ab") as file:
        file.write(b'{"type":"clos')
    again = opened(directory_fd)
    again.closed(closed_line(name(0)))
    again.close()
    (file_0,) = read_index(path_in(tmp_path).read_bytes(), "a.pcapng").files
    assert file_0.closed == closed_line(name(0))


def test_it_stays_short_while_files_come_and_go(tmp_path: Path, directory_fd: int) -> None:
    index = opened(directory_fd)
    longest = 0
    for number in range(1000):
        index.opened(name(number), number)
        index.closed(closed_line(name(number)))
        if number >= 3:
            index.deleted(name(number - 3), DeletionReason.FILES, 6)
        size_bytes = path_in(tmp_path).stat().st_size
        longest = max(longest, size_bytes)
        assert size_bytes <= index.size_bytes
    assert longest < 2 * 16 * 1024
    assert names_in(path_in(tmp_path).read_bytes()) == [name(997), name(998), name(999)]
    assert set(tmp_path.iterdir()) == {path_in(tmp_path), lock_in(tmp_path)}
    for number in (997, 998, 999):
        index.deleted(name(number), None, 6)
    index.close()
    again = opened(directory_fd)
    assert again.last is not None
    assert again.last.name == name(999)
    again.close()


def test_what_is_set_aside_holds_a_rewrite_and_the_next_lines(tmp_path: Path, directory_fd: int) -> None:
    index = opened(directory_fd)
    for number in range(100):
        index.opened(name(number), number)
        before = index.size_bytes
        index.closed(closed_line(name(number)))
        assert path_in(tmp_path).stat().st_size <= before
    assert index.size_bytes >= 2 * path_in(tmp_path).stat().st_size
    index.close()


def test_a_rewrite_that_cannot_be_leaves_the_old_one(tmp_path: Path, directory_fd: int) -> None:
    (tmp_path / "a.pcapng.index.new").mkdir()
    index = opened(directory_fd)
    for number in range(200):
        index.opened(name(number), number)
        index.deleted(name(number), DeletionReason.AGE, 6)
    index.opened(name(200), 200)
    index.close()
    assert path_in(tmp_path).stat().st_size > 2 * 16 * 1024
    again = opened(directory_fd)
    assert names(again) == [name(200)]
    again.close()


def test_two_captures_do_not_write_one_ring(directory_fd: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(savefile, "_LOCK_S", 0.1)
    first = opened(directory_fd)
    with pytest.raises(DestinationError, match="another capture writes this ring"):
        opened(directory_fd)
    first.close()
    opened(directory_fd).close()


def test_the_lock_goes_with_a_rewritten_index(directory_fd: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(savefile, "_LOCK_S", 0.1)
    first = opened(directory_fd)
    before = os.fstat(first._fd).st_ino
    while os.fstat(first._fd).st_ino == before:
        first.opened(name(1), 1)
        first.deleted(name(1), None, 0)
    with pytest.raises(DestinationError, match="another capture"):
        opened(directory_fd)
    first.close()


def test_one_that_is_about_to_end_is_waited_for(directory_fd: int) -> None:
    first = opened(directory_fd)
    first.opened(name(0), 0)

    def end() -> None:
        first.closed(closed_line(name(0)))
        first.close()

    timer = threading.Timer(0.3, end)
    timer.start()
    second = opened(directory_fd)
    assert [file.closed for file in second.files] == [closed_line(name(0))]
    second.close()
    timer.join()


def test_a_link_that_leads_nowhere_is_not_followed(tmp_path: Path, directory_fd: int) -> None:
    path_in(tmp_path).symlink_to(tmp_path / "nothing")
    with pytest.raises(DestinationError, match=r"a\.pcapng\.index"):
        opened(directory_fd)
    assert not (tmp_path / "nothing").exists()


def test_a_line_that_does_not_fit_on_the_disk_is_not_there_at_all(tmp_path: Path) -> None:
    # A limit of the size of files stands for a full disk; it is a process's own.
    code = """
import os, resource, signal, sys
from capd.worker.output.ring_index import RingIndex
from capd.worker.output.savefile import WriteError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
index = RingIndex(os.open(sys.argv[1], os.O_PATH | os.O_DIRECTORY), "a.pcapng", group_access=False)
first, second = sys.argv[2:]
index.opened(first, 0)
resource.setrlimit(resource.RLIMIT_FSIZE, (160, 160))
try:
    index.opened(second, 1)
except WriteError:
    print(*(file.name for file in index.files))
index.deleted(first, None, 0)
print(*(file.name for file in index.files))
"""
    command = [sys.executable, "-c", code, str(tmp_path), name(0), name(1)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout == f"{name(0)}\n\n"
    data = path_in(tmp_path).read_bytes()
    assert data.endswith(b"}\n")
    # That it was deleted has found no room.
    assert names_in(data) == [name(0)]


def test_an_index_that_was_made_for_nothing_goes_again(tmp_path: Path, directory_fd: int) -> None:
    index = opened(directory_fd)
    index.abandon()
    index.close()
    assert list(tmp_path.iterdir()) == []
    index = opened(directory_fd)
    index.opened(name(1), 1)
    index.close()
    index = opened(directory_fd)
    index.abandon()
    index.close()
    index = opened(directory_fd)
    assert names(index) == [name(1)]
    index.close()


STRANGER = 23471


def of_user(function: Callable[[], int], user_id: int = STRANGER, groups: tuple[int, ...] = ()) -> int:
    """Return a descriptor that another user has opened."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        as_user(lambda: socket.send_fds(theirs, [b"x"], [function()]), user_id, groups=groups)
        _, (descriptor,), _, _ = socket.recv_fds(ours, 1, 1)
    return descriptor


def test_who_may_read_the_index_keeps_nobody_from_writing_it(user_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(savefile, "_LOCK_S", 0.1)
    directory_fd = os.open(user_dir, os.O_PATH | os.O_DIRECTORY)
    opened(directory_fd).close()
    path_in(user_dir).chmod(0o644)
    lock_in(user_dir).chmod(0o644)  # as if somebody had thought that this is better
    reader = of_user(lambda: os.open(path_in(user_dir), os.O_RDONLY))
    fcntl.flock(reader, fcntl.LOCK_SH)
    index = opened(directory_fd)
    index.opened(name(0), 0)
    assert names_in(os.read(reader, 1000)) == [name(0)]
    with pytest.raises(PermissionError):
        of_user(lambda: os.open(lock_in(user_dir), os.O_RDONLY))
    # That one writes it is known all the same.
    with pytest.raises(DestinationError, match="another capture writes this ring"):
        opened(directory_fd)
    index.close()
    for descriptor in (reader, directory_fd):
        os.close(descriptor)


@pytest.mark.parametrize("what", [path_in, lock_in])
@pytest.mark.parametrize("kind", ["of another user", "a hard link", "a link", "a fifo", "a directory"])
def test_nothing_is_believed_that_others_may_have_put_there(
    tmp_path: Path, directory_fd: int, what: Callable[[Path], Path], kind: str
) -> None:
    path, victim = what(tmp_path), tmp_path / "victim"
    victim.write_text("precious")
    match kind:
        case "of another user":
            path.touch()
            os.chown(path, STRANGER, STRANGER)
        case "a hard link":
            path.hardlink_to(victim)
        case "a link":
            path.symlink_to(victim)
        case "a fifo":
            os.mkfifo(path)
        case _:
            path.mkdir()
    before = path.lstat()
    with pytest.raises(DestinationError, match=path.name):
        opened(directory_fd)
    assert path.lstat() == before
    assert victim.read_text() == "precious"


@pytest.mark.parametrize("mode", [0o660, 0o602, 0o666])
def test_an_index_that_others_may_write_says_nothing(tmp_path: Path, directory_fd: int, mode: int) -> None:
    index = opened(directory_fd)
    index.opened(name(0), 0)
    index.close()
    path_in(tmp_path).chmod(mode)
    with pytest.raises(DestinationError, match="chmod go-w"):
        opened(directory_fd)
    path_in(tmp_path).chmod(0o640)
    index = opened(directory_fd)
    assert names(index) == [name(0)]
    index.close()


NOT_OURS = [
    "/etc/passwd",
    "../a_00007_20260131235959.pcapng",
    "b_00007_20260131235959.pcapng",
    "a.pcapng",
    "id_key",
    ".",
]


@pytest.mark.parametrize("other", NOT_OURS)
def test_lines_about_files_of_other_names_are_as_if_they_were_not_there(
    tmp_path: Path, directory_fd: int, other: str
) -> None:
    index = opened(directory_fd)
    index.opened(name(3), 3)
    index.close()
    lines: list[Line] = [FileWasOpened(name=other, device=1, inode=7, opened_ns=1), closed_line(other)]
    with path_in(tmp_path).open("ab") as file:
        file.writelines(map(encode_line, lines))
    index = opened(directory_fd)
    assert names(index) == [name(3)]
    assert index.last is not None
    assert index.last.name == name(3)  # from which numbers go on
    index.close()


def test_a_rewrite_touches_nothing_of_others(tmp_path: Path, directory_fd: int) -> None:
    theirs = tmp_path / "a.pcapng.index.new"
    theirs.write_text("of another user")
    os.chown(theirs, STRANGER, STRANGER)
    index = opened(directory_fd)
    rewritten(index)
    assert theirs.read_text() == "of another user"
    theirs.unlink()
    # Nor does it replace what somebody has put in the index's own place.
    path_in(tmp_path).unlink()
    path_in(tmp_path).write_text("of another user")
    os.chown(path_in(tmp_path), STRANGER, STRANGER)
    rewritten(index)
    assert path_in(tmp_path).read_text() == "of another user"
    assert not theirs.exists()
    path_in(tmp_path).unlink()
    rewritten(index)
    assert names_in(path_in(tmp_path).read_bytes()) == names(index)
    index.close()


def rewritten(index: RingIndex) -> None:
    """Note so much that the index is worth a rewrite."""
    for number in range(400):
        index.opened(name(number), number)
        index.deleted(name(number), DeletionReason.AGE, 6)
