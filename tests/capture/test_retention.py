"""A ring keeps what it may, to the byte and to the second, over restarts and kills, and deletes nothing sooner."""

import contextlib
import os
import re
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from capd.worker.output.files import CaptureFiles
from capd.worker.output.report import Report
from capd.worker.output.retention import LOOK_BYTES
from capd.worker.output.ring_index import RingIndex
from capd.worker.packets.merge import Slice
from capd_client import CaptureEnded
from capd_protocol.formats import pcapng
from capd_protocol.formats.ring_index import FileWasClosed, FileWasDeleted, FileWasOpened, Line, read_index
from capd_protocol.formats.ring_index import _decode as decode_line
from capd_protocol.messages import Conditions, DeletionReason, Destination, EndReason
from tests.capture.helpers import all_events, capturing, local_frame, messages, until, until_packets
from tests.support.daemon import Daemon, running_daemon
from tests.support.tools import packets_of, unmount
from tests.support.traffic import send

DISK_BYTES = 48_000_000
FILE_KB, TOTAL_KB, FREE_KB, AGE_S = 400, 6_000, 20_000, 4.0
#: What may be sent while the observer looks away, on a busy machine.
SLACK_BYTES = 700_000
PATIENCE_S = 20.0
OWN = re.compile(r"ring_(\d{5})_20[23]\d{11}\.pcapng")
FRAMES = [local_frame(1000, number) for number in range(8)]
#: Packets a second, some 5 MB.
RATE_PPS = 5_000


@contextlib.contextmanager
def small_disk(directory: Path, kind: str) -> Generator[Path, None, None]:
    """A file system of its own."""
    mount = directory / "disk"
    mount.mkdir()
    if kind == "tmpfs":
        command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES},mode=755", "none", str(mount)]
    else:
        image = directory / "image"
        with image.open("wb") as file:
            file.truncate(DISK_BYTES)
        subprocess.run(["mkfs.ext4", "-q", "-m", "0", str(image)], check=True, timeout=30)
        command = ["mount", "-t", "ext4", "-o", "loop", str(image), str(mount)]
    subprocess.run(command, check=True, timeout=30)
    try:
        yield mount
    finally:
        unmount(mount)


def free_bytes(directory: Path) -> int:
    status = os.statvfs(directory)
    return status.f_bavail * status.f_frsize


def names_in(directory: Path) -> list[str]:
    return [path.name for path in directory.iterdir()]


@dataclass
class Observer:
    """Looks at a directory again and again, in a thread, and notes what it must not see."""

    directory: Path
    limit_bytes: int
    free_limit_bytes: int
    faults: list[str] = field(default_factory=list[str])
    #: Time, bytes and free bytes, as of each look at which a file was gone: those of the look before.
    before_deletions: list[tuple[float, int, int]] = field(default_factory=list[tuple[float, int, int]])
    looks: int = 0
    used_bytes: int = 0
    most_bytes: int = 0
    least_free_bytes: int = 2**62

    @contextlib.contextmanager
    def running(self) -> Generator[None, None, None]:
        is_over = threading.Event()
        thread = threading.Thread(target=self._look_until, args=(is_over,))
        thread.start()
        try:
            yield
        finally:
            is_over.set()
            thread.join(PATIENCE_S)
        assert self.faults == []

    def _look_until(self, is_over: threading.Event) -> None:
        names: set[str] = set()
        free = free_bytes(self.directory)
        while not is_over.wait(0.002):
            now_names = {name for name in names_in(self.directory) if OWN.fullmatch(name)}
            if names - now_names:
                self.before_deletions.append((time.time(), self.used_bytes, free))
            names = now_names
            free = free_bytes(self.directory)
            self.used_bytes = self._used_bytes(names)
            self.most_bytes = max(self.most_bytes, self.used_bytes)
            self.least_free_bytes = min(self.least_free_bytes, free)
            self.looks += 1
            if self.used_bytes > self.limit_bytes:
                self.faults.append(f"{self.used_bytes} bytes in {sorted(names)}")
            if free < self.free_limit_bytes:
                self.faults.append(f"{free} bytes free")

    def _used_bytes(self, names: set[str]) -> int:
        """The newest first: what is deleted meanwhile is then missing, and never what replaces it counted too."""
        used_bytes = 0
        for name in [*sorted(names, reverse=True), "ring.pcapng.index"]:
            with contextlib.suppress(FileNotFoundError):
                used_bytes += (self.directory / name).stat().st_size
        return used_bytes


def index_lines(directory: Path) -> list[Line]:
    return [decode_line(line) for line in (directory / "ring.pcapng.index").read_bytes().splitlines()]


def eventually(condition: Callable[[], bool], what: str) -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline_s, f"not in time: {what}"
        time.sleep(0.01)


def numbers(directory: Path) -> list[int]:
    return sorted(int(match[1]) for match in map(OWN.fullmatch, names_in(directory)) if match)


def deletions(daemon: Daemon) -> list[str]:
    """Return the reasons that a daemon has logged."""
    return re.findall(r"deleted '[^']*' \((\w+),", daemon.log)


@pytest.mark.long
@pytest.mark.timeout(180)
@pytest.mark.parametrize("kind", ["tmpfs", "ext4"])
def test_a_ring_keeps_to_its_limits_over_restarts_and_a_kill(veth: tuple[str, str], user_dir: Path, kind: str) -> None:
    with small_disk(user_dir, kind) as disk:
        (user_dir / "capd.toml").write_text(
            f"""
            [captures.ring]
            interfaces = ["{veth[1]}"]
            group = 1
            ringbuffer_filesize = {FILE_KB}
            ringbuffer_total_filesize = {TOTAL_KB}
            ringbuffer_age = {AGE_S}
            ringbuffer_free_space = {FREE_KB}
            update_interval = 0.02
            """
        )
        options = ("--config", str(user_dir / "capd.toml"), "--state-directory", str(disk))
        ring = disk / "ring"
        ring.mkdir(mode=0o755)
        foreign = [ring / name for name in ("ring_00001_20260101000000.txt", "ring_00002_19990101000000.pcapng")]
        foreign.append(ring / "ring_99999_19990101000000.pcapng")
        for path in foreign:
            path.write_bytes(b"not the ring's" * 1000)
        before = [path.stat() for path in foreign]
        # So little is free that the ring may have 2 MB, and not its 6.
        filler = disk / "filler"
        filler.write_bytes(b"x" * (free_bytes(disk) - FREE_KB * 1000 - 2_000_000))
        observer = Observer(ring, TOTAL_KB * 1000, FREE_KB * 1000)
        seen = 0
        with observer.running():
            with running_daemon(user_dir, *options) as daemon:
                eventually(lambda: numbers(ring) == [1], "it runs")
                assert send(veth[0], FRAMES, 6_000, RATE_PPS) == 6_000
                eventually(lambda: max(numbers(ring), default=0) >= 14, "files of 6 MB")
                assert set(deletions(daemon)) == {"free_space"}
                # To the end: what is free is what shall be, but for the rest of a file and the room for blocks.
                assert free_bytes(disk) < FREE_KB * 1000 + SLACK_BYTES
                seen = numbers(ring)[-1]
            filler.unlink()
            kept = numbers(ring)
            with running_daemon(user_dir, *options) as daemon:
                eventually(lambda: numbers(ring)[-1:] == [seen + 1], "it goes on")
                # There is room, so nothing was deleted but for its age.
                assert set(deletions(daemon)) <= {"age"}
                assert send(veth[0], FRAMES, 12_000, 3 * RATE_PPS) == 12_000
                eventually(lambda: max(numbers(ring), default=0) >= seen + 28, "files of 12 MB")
                assert "total" in deletions(daemon)
                assert not set(kept) & set(numbers(ring)), "the oldest went first"
                assert observer.used_bytes > TOTAL_KB * 1000 - FILE_KB * 1000 - SLACK_BYTES
                # Both at once: nothing reports the end, and the current file has none.
                (worker,) = daemon.workers()
                seen = numbers(ring)[-1]
                os.kill(worker, 9)
                daemon.process.kill()
                daemon.process.wait()
            killed = next(ring.glob(f"ring_{seen:05}_*"))
            with running_daemon(user_dir, *options) as daemon:
                eventually(lambda: numbers(ring)[-1:] == [seen + 1], "it goes on after the kill")
                ended = {line.name: line for line in index_lines(ring) if isinstance(line, FileWasClosed)}
                assert killed.name in ended
                assert ended[killed.name].packets == packets_of(killed)
                assert ended[killed.name].size_bytes == killed.stat().st_size
                assert send(veth[0], FRAMES, 1_000, RATE_PPS) == 1_000
                eventually(lambda: max(numbers(ring), default=0) >= seen + 3, "further files")
                # Nobody sends any more: all that is complete goes when its time has come.
                eventually(lambda: len(numbers(ring)) == 1, "everything is too old")
                assert "age" in deletions(daemon)
                seen = numbers(ring)[-1]
            with running_daemon(user_dir, *options) as daemon:
                eventually(lambda: numbers(ring)[-1:] == [seen + 1], "it goes on once more")
                assert send(veth[0], FRAMES, 100) == 100
                eventually(lambda: observer.used_bytes > 100_000, "packets are there")
        assert observer.looks > 1_000
        lines = index_lines(ring)
        assert_nothing_went_too_soon(lines, observer)
        for path, status in zip(foreign, before, strict=True):
            now = path.stat()
            assert (now.st_ino, now.st_mtime_ns, now.st_size) == (status.st_ino, status.st_mtime_ns, status.st_size)
        left = {each.name for each in read_index((ring / "ring.pcapng.index").read_bytes(), "ring.pcapng").files}
        assert left == {name for name in names_in(ring) if OWN.fullmatch(name)}
        assert all(packets_of(ring / name) >= 0 for name in left)


def assert_nothing_went_too_soon(lines: list[Line], observer: Observer) -> None:
    """Check each deletion: the oldest first; too old, or something was full at the observer's look just before."""
    opened: list[str] = []
    ended: dict[str, FileWasClosed] = {}
    checked = 0
    for line in lines:
        match line:
            case FileWasOpened(name=name):
                opened.append(name)
            case FileWasClosed(name=name):
                ended[name] = line
            case FileWasDeleted(name=name, reason=reason, deleted_ns=deleted_ns):
                assert opened.pop(0) == name, "the oldest went first"
                assert name in ended, "only complete ones go"
                since_ns = ended[name].last_timestamp_ns or ended[name].closed_ns
                age_s = (deleted_ns - since_ns) / 1e9
                if reason == DeletionReason.AGE:
                    # Not sooner, and not much later. (Between two runs nobody looks.)
                    assert AGE_S <= age_s < AGE_S + 15
                else:
                    assert age_s < AGE_S + 1.5
                    looks = [each for each in observer.before_deletions if each[0] > deleted_ns / 1e9 - 0.001]
                    _, used_bytes, free = looks[0]
                    if reason == DeletionReason.TOTAL:
                        assert used_bytes > TOTAL_KB * 1000 - SLACK_BYTES
                    else:
                        assert reason == DeletionReason.FREE_SPACE
                        assert free < FREE_KB * 1000 + SLACK_BYTES
                checked += 1
    assert checked > 10


def test_where_nothing_complete_is_left_the_capture_ends_within_its_limit(
    daemon: Daemon, veth: tuple[str, str], user_dir: Path
) -> None:
    # One file an hour: it is the open one that reaches the limit.
    with capturing(
        daemon,
        interfaces=veth[1],
        savefile=user_dir / "ring.pcapng",
        ringbuffer_duration=3600,
        ringbuffer_total_filesize=100,
    ) as capture:
        send(veth[0], FRAMES, 300)
        events, error = all_events(capture)
    assert isinstance(error, CaptureEnded)
    assert capture.end_reason == EndReason.DISK_LIMIT
    assert messages(events, capture.SP_FILE_DELETED) == []
    (path,) = user_dir.glob("ring_*")
    assert 100_000 - 2_000 < path.stat().st_size <= 100_000
    (counters,) = capture.interface_counters
    assert counters.received_total == counters.written_total + counters.excess_total
    assert packets_of(path) == counters.written_total == capture.packetcount


def test_a_disk_that_others_fill_ends_the_capture_before_it_is_full(
    daemon: Daemon, veth: tuple[str, str], user_dir: Path
) -> None:
    with small_disk(user_dir, "tmpfs") as disk:
        with capturing(
            daemon,
            interfaces=veth[1],
            savefile=disk / "ring.pcapng",
            ringbuffer_filesize=100,
            ringbuffer_free_space=FREE_KB,
        ) as capture:
            send(veth[0], FRAMES, 1500)
            until_packets(capture, 1500)
            files = len(list(disk.glob("ring_*")))
            assert files == 16
            # Nobody sends: it is found out by looking.
            (disk / "filler").write_bytes(b"x" * (free_bytes(disk) - FREE_KB * 1000 + 200_000))
            deleted = [until(capture, capture.SP_FILE_DELETED) for _ in range(3)]
            while free_bytes(disk) < FREE_KB * 1000:
                deleted.append(until(capture, capture.SP_FILE_DELETED))
            assert {each.reason for each in deleted} == {DeletionReason.FREE_SPACE}
            assert [Path(each.name).name.split("_")[1] for each in deleted[:3]] == ["00001", "00002", "00003"]
            # No more than needed: the session itself keeps the last two on the disk that have gone.
            left = len(list(disk.glob("ring_*")))
            assert files - 6 <= left <= files - 3
            with (disk / "filler").open("ab") as filler:
                filler.write(b"x" * 5_000_000)
            send(veth[0], FRAMES, 500)
            events, error = all_events(capture)
        assert isinstance(error, CaptureEnded)
        assert capture.end_reason == EndReason.DISK_LIMIT
        assert len(deleted) + len(messages(events, capture.SP_FILE_DELETED)) == len(capture.files) - 1
        (last,) = disk.glob("ring_*")
        packets_of(last)
        (counters,) = capture.interface_counters
        assert counters.received_total == counters.written_total + counters.excess_total


def test_the_disk_is_not_looked_at_for_each_batch(user_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[int] = []
    fstatvfs = os.fstatvfs

    def counted(descriptor: int) -> os.statvfs_result:
        looks.append(descriptor)
        return fstatvfs(descriptor)

    monkeypatch.setattr(os, "fstatvfs", counted)
    ours, theirs = socket.socketpair()
    directory_fd = os.open(user_dir, os.O_PATH | os.O_DIRECTORY)
    with ours, theirs:
        files = CaptureFiles(
            directory_fd=directory_fd,
            destination=Destination(file_name="a.pcapng"),
            ring=Conditions(filesize_kb=1_000_000, free_kb=1, total_kb=2_000_000, age_s=60),
            header=lambda: b"h" * 100,
            statistics=lambda: b"s" * 100,
            report=Report(ours),
        )
        assert files.make_room_for_file() is None
        files.open_next()
        before = len(looks)
        memory = np.zeros(1000, np.uint8)
        vectors = np.tile(np.array([memory.ctypes.data, 1000], np.uint64), (100, 1))
        for _ in range(500):  # 50 MB
            assert files.make_room(1000) is None
            count = files.fitting(vectors[:, 1])
            assert count > 0
            files.write(Slice(vectors[:count], np.ones(count, np.uint64), np.zeros(count, np.int64)))
        # Once for each 4 MiB, and no more.
        assert len(looks) - before <= 50_000_000 // LOOK_BYTES + 2
        files.close({})
    os.close(directory_fd)


def test_a_ring_that_goes_on_with_fewer_files_leaves_none_of_the_others(user_dir: Path) -> None:
    directory_fd = os.open(user_dir, os.O_PATH | os.O_DIRECTORY)
    header = pcapng.section_header() + pcapng.interface_description(linktype=1, snaplen_bytes=100)
    for kept in (6, 2):
        ours, theirs = socket.socketpair()
        index = RingIndex(directory_fd, "ring.pcapng", group_access=False)
        with ours, theirs:
            files = CaptureFiles(
                directory_fd=directory_fd,
                destination=Destination(file_name="ring.pcapng"),
                ring=Conditions(packets=1, files=kept),
                header=lambda: header,
                statistics=lambda: b"s" * 100,
                report=Report(ours),
                index=index,
                continues=True,
                reuses=True,
            )
            assert files.make_room_for_file() is None
            files.open_next()
            for _ in range(6):
                assert files.switch({}) is None
                assert len(list(user_dir.glob("ring_*"))) <= kept
            files.close({})
        index.close()
        assert len(list(user_dir.glob("ring_*"))) == kept
    os.close(directory_fd)


@pytest.mark.parametrize("kind", ["tmpfs", "ext4"])
@pytest.mark.parametrize("is_enough", [True, False])
def test_where_others_fill_the_disk_a_ring_of_one_file_gives_that_up_if_it_makes_room(
    daemon: Daemon, veth: tuple[str, str], user_dir: Path, kind: str, is_enough: bool
) -> None:
    with small_disk(user_dir, kind) as disk:
        with capturing(
            daemon,
            interfaces=veth[1],
            savefile=disk / "ring.pcapng",
            ringbuffer_filesize=20_000,
            ringbuffer_free_space=FREE_KB,
        ) as capture:
            send(veth[0], FRAMES, 3000)
            until_packets(capture, 3000)
            short_bytes = 1_000_000 if is_enough else 8_000_000
            (disk / "filler").write_bytes(b"x" * (free_bytes(disk) - FREE_KB * 1000 + short_bytes))
            send(veth[0], FRAMES, 3000)
            if is_enough:
                until(capture, capture.SP_FILE_DELETED)
                capture.stop()
            _, error = all_events(capture)
            assert not is_enough or free_bytes(disk) >= FREE_KB * 1000
        assert isinstance(error, CaptureEnded)
        assert capture.end_reason == (EndReason.STOPPED if is_enough else EndReason.DISK_LIMIT)
        # The last one stays, whole: where it is no use, nothing of it goes.
        (last,) = disk.glob("ring_*")
        assert [packets_of(last)] == [each.packets for each in capture.files][int(is_enough) :]
        (counters,) = capture.interface_counters
        assert counters.written_total == sum(each.packets for each in capture.files)
        assert counters.written_total + counters.excess_total == counters.received_total
        # It may have ended while some were still being sent.
        assert counters.received_total == 6000 or (not is_enough and counters.received_total > 3000)
