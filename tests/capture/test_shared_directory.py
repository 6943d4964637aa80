"""In a directory that others use too, a ring harms nothing but its own files, and nobody keeps it from running."""

import contextlib
import fcntl
import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from capd.worker.output.files import CaptureFiles
from capd.worker.output.report import Report
from capd.worker.output.ring_index import RingIndex
from capd.worker.output.savefile import DestinationError as WorkerDestinationError
from capd_client import CaptureSession, DestinationError, files
from capd_protocol.formats.ring_index import FileWasClosed, FileWasOpened, encode_line
from capd_protocol.messages import Conditions, Destination
from tests.capture.helpers import capturing, end, local_frame, until_packets
from tests.client.helpers import wait_until
from tests.support.daemon import Daemon, as_user, running_daemon
from tests.support.traffic import send

#: Who captures, and who wants the other's files gone.
VICTIM, MALLORY, READERS = 23473, 23474, 23475
RING = Conditions(packets=1, files=3)


@pytest.fixture
def shared(user_dir: Path) -> Path:
    """A directory where everybody may rename and delete what others have made."""
    directory = user_dir / "shared"
    directory.mkdir()
    directory.chmod(0o777)
    return directory


@pytest.fixture
def precious(user_dir: Path) -> list[Path]:
    """Files of the victim's, elsewhere; one that a ring could write over."""
    home = user_dir / "home"
    home.mkdir(mode=0o755)
    paths = [home / "precious.txt", home / "id_key"]
    for path in paths:
        path.write_text("precious" * 10)
        path.chmod(0o600)
        os.chown(path, VICTIM, VICTIM)
    os.chown(home, VICTIM, VICTIM)
    return paths


def lines_about(paths: list[Path], names: list[str]) -> bytes:
    """Return lines of an index that say that files of these names are complete."""
    lines: list[bytes] = []
    for path, name in zip(paths, names, strict=True):
        status = path.stat()
        lines.append(
            encode_line(FileWasOpened(name=name, device=status.st_dev, inode=status.st_ino, opened_ns=1))
            + encode_line(
                FileWasClosed(
                    name=name,
                    closed_ns=1,
                    size_bytes=status.st_size,
                    packets=1,
                    first_timestamp_ns=1,
                    last_timestamp_ns=1,
                    drops={},
                )
            )
        )
    return b"".join(lines)


def go_on(directory: Path, switches: int = 5) -> list[str]:
    """Go on with a ring of three files as its worker does; return what it had of the runs before."""
    ours, theirs = socket.socketpair()
    directory_fd = os.open(directory, os.O_PATH | os.O_DIRECTORY)
    with ours, theirs, contextlib.ExitStack() as stack:
        stack.callback(os.close, directory_fd)
        index = RingIndex(directory_fd, "ring.pcapng", group_access=False)
        stack.callback(index.close)
        before = [file.name for file in index.files]
        capture = CaptureFiles(
            directory_fd=directory_fd,
            destination=Destination(file_name="ring.pcapng"),
            ring=RING,
            header=lambda: b"h" * 100,
            statistics=lambda: b"s" * 100,
            report=Report(ours),
            index=index,
            continues=True,
            reuses=True,
        )
        assert capture.make_room_for_file() is None
        capture.open_next()
        for _ in range(switches):
            assert capture.switch({}) is None
        capture.close({})
        return before


def all_at(paths: list[Path]) -> list[str]:
    return [path.read_text() for path in paths]


@pytest.mark.parametrize("are_absolute", [True, False], ids=["absolute", "upwards"])
def test_an_index_of_somebody_else_is_not_followed(shared: Path, precious: list[Path], are_absolute: bool) -> None:
    as_user(lambda: go_on(shared), VICTIM)
    index = shared / "ring.pcapng.index"
    names = [str(each) if are_absolute else f"../home/{each.name}" for each in precious]
    newest = max(shared.glob("ring_*"))
    forged = lines_about([*precious, newest], [*names, newest.name])  # so many as there may be: one goes at a time

    def forge() -> None:
        index.unlink()
        index.write_bytes(forged)
        index.chmod(0o666)

    before = all_at(precious)
    as_user(forge, MALLORY)
    with pytest.raises(WorkerDestinationError, match=r"ring\.pcapng\.index is another user's: remove it"):
        as_user(lambda: go_on(shared), VICTIM)
    assert all_at(precious) == before
    as_user(index.unlink, VICTIM)
    as_user(lambda: go_on(shared), VICTIM)


def test_names_that_are_none_of_the_rings_are_not_followed_whoever_wrote_them(
    shared: Path, precious: list[Path]
) -> None:
    as_user(lambda: go_on(shared), VICTIM)
    other = shared / "other_00001_20260131000000.pcapng"
    other.write_text("of another ring")
    os.chown(other, VICTIM, VICTIM)
    index = shared / "ring.pcapng.index"
    targets = [*precious, *precious, other]
    names = [*map(str, precious), "../home/precious.txt", "../home/id_key", other.name]
    newest = max(shared.glob("ring_*"))
    index.write_bytes(lines_about([*targets, newest], [*names, newest.name]))
    before = all_at(targets)
    known = as_user(lambda: go_on(shared), VICTIM)
    assert known == [newest.name]
    assert all_at(targets) == before


def test_a_file_of_somebody_else_under_a_rings_name_stays(shared: Path) -> None:
    """Its inode number may be the one that a file of the ring had."""
    as_user(lambda: go_on(shared), VICTIM)
    first, *others = sorted(shared.glob("ring_*"))
    os.chown(first, MALLORY, MALLORY)
    text = first.read_bytes()
    assert as_user(lambda: go_on(shared), VICTIM) == [first.name, *(other.name for other in others)]
    assert first.read_bytes() == text
    assert not any(other.exists() for other in others)


def test_hard_links_of_the_victims_own_files_are_not_written_over(shared: Path, precious: list[Path]) -> None:
    """Where the kernel allows such links to everybody, one may have the inode number of a file of the ring."""
    as_user(lambda: go_on(shared), VICTIM)
    first, *_ = sorted(shared.glob("ring_*"))
    first.unlink()
    first.hardlink_to(precious[0])
    with (shared / "ring.pcapng.index").open("ab") as file:
        file.write(lines_about([first], [first.name]))
    before = all_at(precious)
    as_user(lambda: go_on(shared), VICTIM)
    assert not first.exists()
    assert all_at(precious) == before


# With a daemon --------------------------------------------------------------------------------------------------


def test_a_capture_of_the_configuration_follows_no_forged_index_and_goes_on_when_it_is_gone(
    veth: tuple[str, str], user_dir: Path
) -> None:
    state, home = user_dir / "state", user_dir / "home"
    home.mkdir()
    precious = [home / "precious.txt", home / "id_key"]
    for path in precious:
        path.write_text("precious" * 10)
        path.chmod(0o600)
    (user_dir / "capd.toml").write_text(
        f"""
        [captures.ring]
        interfaces = ["{veth[1]}"]
        group = {READERS}
        ringbuffer_packets = 1
        ringbuffer_files = 3
        update_interval = 0.02
        """
    )
    options = ("--config", str(user_dir / "capd.toml"), "--state-directory", str(state))
    index = state / "ring" / "ring.pcapng.index"
    before = all_at(precious)

    def runs(number: int) -> Callable[[], bool]:
        return lambda: any(state.glob(f"ring/ring_{number:05}_*"))

    with running_daemon(user_dir, *options):
        wait_until(runs(1), "it runs")
        send(veth[0], [local_frame(100)], 2)
        wait_until(runs(3), "its third file")
    newest = max(state.glob("ring/ring_*"))
    forged = lines_about([*precious, newest], [*map(str, precious), newest.name])
    for path in set(state.glob("ring/ring_*")) - {newest}:
        path.unlink()
    index.unlink()
    index.write_bytes(forged)
    index.chmod(0o666)
    os.chown(index, MALLORY, MALLORY)
    with running_daemon(user_dir, *options) as daemon:
        wait_until(lambda: "capture ring: ring.pcapng.index is another user's: remove it" in daemon.log, "why not")
        index.unlink()
        wait_until(runs(1), "it begins anew")
        send(veth[0], [local_frame(100)], 4)
        wait_until(runs(5), "its fifth file")
    assert all_at(precious) == before


def test_a_reader_who_locks_the_index_keeps_no_capture_from_starting(veth: tuple[str, str], user_dir: Path) -> None:
    state = user_dir / "state"
    limits = "ringbuffer_packets = 1\nringbuffer_files = 3\nupdate_interval = 0.02"
    (user_dir / "capd.toml").write_text(f'[captures.ring]\ninterfaces = ["{veth[1]}"]\ngroup = {READERS}\n{limits}\n')
    options = ("--config", str(user_dir / "capd.toml"), "--state-directory", str(state))
    ring = state / "ring"
    with running_daemon(user_dir, *options):
        wait_until(lambda: any(ring.glob("ring_00001_*")), "it runs")
        send(veth[0], [local_frame(100)], 1)
        wait_until(lambda: any(ring.glob("ring_00002_*")), "its second file")
    ours, theirs = socket.socketpair()
    with ours, theirs:

        def lock() -> None:
            descriptor = os.open(ring / "ring.pcapng.index", os.O_RDONLY)
            fcntl.flock(descriptor, fcntl.LOCK_SH)
            socket.send_fds(theirs, [b"x"], [descriptor])
            with pytest.raises(PermissionError):
                os.open(ring / "ring.pcapng.index.lock", os.O_RDONLY)

        as_user(lock, MALLORY, groups=(READERS,))
        _, (held,), _, _ = socket.recv_fds(ours, 1, 1)
    try:
        with running_daemon(user_dir, *options) as daemon:
            wait_until(lambda: any(ring.glob("ring_00003_*")), "it goes on")
            assert "another capture" not in daemon.log
        # Nor is the lock one of the ring's files.
        assert [Path(each.path).name[:10] for each in files(ring / "ring.pcapng") if each.packets] == ["ring_00001"]
    finally:
        os.close(held)


def test_a_lock_that_was_left_open_to_others_is_closed_to_them(
    daemon: Daemon, veth: tuple[str, str], user_dir: Path
) -> None:
    savefile, lock = user_dir / "ring.pcapng", user_dir / "ring.pcapng.index.lock"
    for _ in range(2):
        with CaptureSession(
            interfaces=veth[1], savefile=savefile, name="ring", ringbuffer_packets=1, socket_path=daemon.socket_path
        ) as capture:
            capture.wait_started(20)
            assert stat.S_IMODE(lock.stat().st_mode) == 0o600
        lock.chmod(0o666)


def test_a_file_of_another_user_is_not_written_and_the_refusal_says_what_to_do(
    daemon: Daemon, veth: tuple[str, str], shared: Path
) -> None:
    theirs = shared / "a.pcapng"
    theirs.write_text("of another user")
    theirs.chmod(0o666)
    os.chown(theirs, MALLORY, MALLORY)
    with (
        pytest.raises(DestinationError, match=r"another user's.*remove it, or name another"),
        CaptureSession(interfaces=veth[1], savefile=theirs, socket_path=daemon.socket_path),
    ):
        raise AssertionError("entered")
    assert theirs.read_text() == "of another user"
    theirs.unlink()
    own = shared / "own"
    own.write_text("ours, with two names")
    theirs.hardlink_to(own)
    with capturing(daemon, interfaces=veth[1], savefile=theirs) as capture:
        send(veth[0], [local_frame(100)], 1)
        until_packets(capture, 1)
        end(capture)
    assert own.read_bytes()[:4] == b"\n\r\r\n"
