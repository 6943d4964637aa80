"""Who keeps a ring's files open costs it no more than a file or two, and hears in words what has become of them."""

import contextlib
import mmap
import os
import socket
import time
from collections.abc import Callable, Generator
from functools import partial
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
import pytest

from capd.worker.output.files import CaptureFiles
from capd.worker.output.report import Report
from capd.worker.packets.merge import Slice
from capd_client import Gap, ReadError, read
from capd_client.blocking.session import CaptureSession
from capd_client.reading.files.opening import open_passed
from capd_client.reading.live import LiveFiles
from capd_protocol.messages import Conditions, Destination, FileClosed, FileOpened
from tests.capture.helpers import capturing, local_frame, until, until_packets
from tests.capture.test_retention import FREE_KB, free_bytes, small_disk
from tests.support.daemon import Daemon
from tests.support.rings import Frame, pcapng_bytes
from tests.support.traffic import send

MB = 1_000_000
#: With the one that is open they take what the ring may have, at most.
FILES = 18


class Ring:
    """A ring of files of one megabyte, as its worker has it, on a disk of its own."""

    def __init__(self, disk: Path, report: Report, conditions: Conditions) -> None:
        self._directory_fd = os.open(disk, os.O_PATH | os.O_DIRECTORY)
        self._disk = disk
        self.files = CaptureFiles(
            directory_fd=self._directory_fd,
            destination=Destination(file_name="a.pcapng"),
            ring=conditions,
            header=lambda: b"h" * 100,
            statistics=lambda: b"s" * 100,
            report=report,
        )
        memory = np.zeros(1000, np.uint8)
        self._memory = memory
        vectors = np.tile(np.array([memory.ctypes.data, 1000], np.uint64), (999, 1))
        self._records = Slice(vectors, np.ones(999, np.uint64), np.zeros(999, np.int64))
        assert self.files.make_room_for_file() is None
        self.files.open_next()

    def close(self) -> None:
        """End the capture."""
        self.files.close({})
        os.close(self._directory_fd)

    def fill(self, files: int) -> None:
        """Fill so many files, and begin with one more."""
        for _ in range(files):
            assert self.files.make_room(999_000) is None
            self.files.write(self._records)
            assert self.files.switch({}) is None

    def paths(self) -> list[Path]:
        """Return its files, oldest first."""
        return sorted(self._disk.glob("a_*"))

    def others_take(self, size_bytes: int) -> None:
        """Have so many bytes less free than the ring is to leave, and have it look."""
        with (self._disk / "filler").open("ab") as filler:
            filler.write(bytes(free_bytes(self._disk) - FREE_KB * 1000 + size_bytes))
        self.files.keep_limits()

    def is_room(self) -> bool:
        """Whether so much is free as it is to leave."""
        return free_bytes(self._disk) >= FREE_KB * 1000


@contextlib.contextmanager
def ring_on(disk: Path, **conditions: int) -> Generator[Ring, None, None]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ring = Ring(disk, Report(ours), Conditions(packets=999, free_kb=FREE_KB, **conditions))
        try:
            yield ring
        finally:
            ring.close()


@contextlib.contextmanager
def held(paths: list[Path]) -> Generator[dict[str, int], None, None]:
    """Keep files open for reading, and half of them mapped too."""
    with contextlib.ExitStack() as stack:
        descriptors: dict[str, int] = {}
        for path in paths:
            descriptors[path.name] = os.open(path, os.O_RDONLY)
            stack.callback(os.close, descriptors[path.name])
        for descriptor in list(descriptors.values())[::2]:
            stack.enter_context(mmap.mmap(descriptor, 0, mmap.MAP_SHARED, mmap.PROT_READ))
        yield descriptors


def sizes(descriptors: dict[str, int]) -> list[int]:
    return [os.fstat(each).st_size for each in descriptors.values()]


@pytest.fixture(params=["tmpfs", "ext4"])
def disk(request: pytest.FixtureRequest, user_dir: Path) -> Generator[Path, None, None]:
    with small_disk(user_dir, request.param) as mounted:
        yield mounted


def test_who_holds_every_file_costs_the_ring_no_more_than_others_take(disk: Path) -> None:
    with ring_on(disk) as ring:
        ring.fill(FILES)
        with held(ring.paths()[:-1]) as descriptors:
            ring.others_take(8 * MB)
            assert ring.is_room()
            # One for each that is taken, one for what is set aside, and the one that is left to whoever has it.
            assert FILES - 10 <= len(ring.paths()) - 1 <= FILES - 8
            # Of the first one, which a reader that follows is at, nothing is missing.
            assert sizes(descriptors)[0] > 999_000
            assert sizes(descriptors)[2:8] == [0] * 6
            # And on: a ring of few files leaves none to anybody.
            ring.others_take(2 * MB)
            assert ring.is_room()
            assert FILES - 12 <= len(ring.paths()) - 1 <= FILES - 10
            assert sizes(descriptors)[0] == 0


def test_a_single_reader_is_left_what_it_reads(disk: Path) -> None:
    with ring_on(disk) as ring:
        ring.fill(FILES)
        first = ring.paths()[0]
        with held([first]) as descriptors:
            ring.others_take(1)
            # At the cost of one more.
            assert len(ring.paths()) - 1 in (FILES - 2, FILES - 3)
            ring.others_take(3 * MB)
            assert ring.is_room()
            assert os.pread(descriptors[first.name], 100, 0) == b"h" * 100
            assert sizes(descriptors)[0] > 999_000
        before = len(ring.paths())
        # What it gives back is not deleted once more.
        ring.others_take(MB // 2)
        assert len(ring.paths()) == before
        assert ring.is_room()


def test_what_is_held_since_another_limit_has_deleted_it_is_freed_before_more_goes(disk: Path) -> None:
    with ring_on(disk, files=10) as ring, contextlib.ExitStack() as stack:
        for _ in range(15):
            ring.fill(1)
            stack.enter_context(held(ring.paths()[:-1]))
        assert len(ring.paths()) == 10
        before = ring.paths()
        ring.others_take(2 * MB)
        assert ring.is_room()
        assert ring.paths() == before


def test_a_file_with_a_further_name_is_not_emptied(disk: Path) -> None:
    with ring_on(disk) as ring:
        ring.fill(FILES)
        paths = ring.paths()
        kept = disk / "kept"
        kept.hardlink_to(paths[4])
        with held(paths[:7]) as descriptors:
            ring.others_take(5 * MB)
            assert sizes(descriptors)[3] == sizes(descriptors)[5] == 0
        assert not paths[4].exists()
        assert kept.stat().st_size > 999_000


def test_who_has_only_named_a_file_when_it_is_deleted_keeps_no_room(disk: Path) -> None:
    with ring_on(disk) as ring, contextlib.ExitStack() as stack:
        ring.fill(FILES)
        # As the client library begins to open a file: no lease tells of it, and it may be opened by that later.
        named = [os.open(path, os.O_PATH) for path in ring.paths()[:-1]]
        for each in named:
            stack.callback(os.close, each)
        ring.others_take(3 * MB)
        assert ring.is_room()
        assert FILES - 5 <= len(ring.paths()) - 1 <= FILES - 3
        late = os.open(f"/proc/self/fd/{named[0]}", os.O_RDONLY)
        stack.callback(os.close, late)
        assert os.fstat(late).st_size == 0


def tell_late(disk: Path, late_s: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have free room seen so much later, as of a file system that frees behind our back."""
    fstatvfs, seen = os.fstatvfs, [(time.monotonic(), free_bytes(disk))]

    def late(descriptor: int) -> os.statvfs_result:
        now, now_s = fstatvfs(descriptor), time.monotonic()
        seen.append((now_s, now.f_bavail * now.f_frsize))
        fields = list(now)
        fields[4] = min(size_bytes for at_s, size_bytes in seen if at_s >= now_s - late_s) // now.f_frsize
        return os.statvfs_result(fields)

    monkeypatch.setattr(os, "fstatvfs", late)


@pytest.mark.parametrize("are_held", [True, False])
def test_what_a_file_system_frees_late_is_waited_for_before_more_goes(
    user_dir: Path, monkeypatch: pytest.MonkeyPatch, are_held: bool
) -> None:
    with small_disk(user_dir, "tmpfs") as disk, ring_on(disk) as ring:
        ring.fill(FILES)
        with held(ring.paths()[:-1] if are_held else []):
            tell_late(disk, 0.02, monkeypatch)
            ring.others_take(3 * MB)
            assert FILES - 5 <= len(ring.paths()) - 1 <= FILES - 3


def test_the_room_of_the_last_file_is_waited_for_before_a_ring_ends(
    user_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with small_disk(user_dir, "tmpfs") as disk, ring_on(disk) as ring:
        ring.fill(1)
        tell_late(disk, 0.2, monkeypatch)
        ring.others_take(MB // 2)
        assert ring.files.make_room(1000) is None


# Readers --------------------------------------------------------------------------------------------------------

FRAMES = [Frame(10**18 + number, "eth0", bytes(1400)) for number in range(1000)]


def cut(path: Path) -> None:
    """Do to a file what a ring does whose room is needed."""
    with path.open("r+b") as file:
        path.unlink()
        file.truncate(0)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "a_00001_20260131000000.pcapng"
    path.write_bytes(pcapng_bytes(FRAMES, ["eth0"]))
    return path


def test_a_reader_is_told_that_the_rest_is_gone(path: Path) -> None:
    with read(path) as packets:
        batches = packets.batches()
        first = len(next(batches).offsets)
        assert 0 < first < len(FRAMES)
        cut(path)
        with pytest.raises(ReadError, match="was deleted by its ring and cut to free its room while it was read"):
            next(batches)


def test_a_reader_that_has_not_begun_is_told_too(path: Path) -> None:
    with read(path) as packets:
        cut(path)
        with pytest.raises(ReadError, match="deleted by its ring"):
            next(packets.batches())


def test_a_file_that_was_passed_and_is_gone_cannot_be_opened(path: Path) -> None:
    with path.open("rb") as passed:
        cut(path)
        with pytest.raises(FileNotFoundError, match="deleted by its ring"):
            open_passed(lambda _: os.fdopen(os.dup(passed.fileno()), "rb"), str(path))


@pytest.mark.parametrize("has_begun", [True, False])
def test_a_stream_is_told_how_many_packets_it_misses(path: Path, has_begun: bool) -> None:
    opener = cast("Callable[[str], BinaryIO]", partial(open, mode="rb"))
    stream = LiveFiles(opener, max_behind_bytes=10**9, overflow="wait", as_bytes=False)
    stream.take(FileOpened(str(path)))
    given = 0
    if has_begun:
        batch = stream.next_item()
        assert batch is not None
        assert not isinstance(batch, Gap | memoryview)
        given = len(batch.offsets)
    cut(path)
    closed = FileClosed(
        name=str(path), packets=len(FRAMES), size_bytes=1, first_timestamp_ns=None, last_timestamp_ns=None, drops=0
    )
    stream.take(closed)
    assert stream.next_item() == Gap(len(FRAMES) - given, "deleted")
    assert stream.next_item() is None


def test_an_empty_file_without_a_name_is_only_empty() -> None:
    with os.fdopen(os.open("/tmp", os.O_TMPFILE | os.O_RDWR), "w+b") as file, read(file) as packets:
        assert list(packets) == []


def test_a_reader_of_a_ring_that_needs_room_hears_of_it(daemon: Daemon, veth: tuple[str, str], user_dir: Path) -> None:
    with (
        small_disk(user_dir, "tmpfs") as disk,
        capturing(
            daemon,
            interfaces=veth[1],
            savefile=disk / "a.pcapng",
            ringbuffer_filesize=1000,
            ringbuffer_free_space=FREE_KB,
        ) as capture,
    ):
        send(veth[0], [local_frame(1000, number) for number in range(8)], 5000)
        until_packets(capture, 5000)
        # A ring of so few files leaves none to its readers.
        (first, first_text), (second, second_text), *_, (last, last_text) = read_while_room_is_needed(capture, disk)
        for packets, text in ((first, first_text), (second, second_text)):
            assert 0 < packets < 900
            assert "was deleted by its ring and cut to free its room" in text
        assert last > 900
        assert not last_text


def read_while_room_is_needed(capture: CaptureSession, disk: Path) -> list[tuple[int, str]]:
    """Begin to read each complete file, have two deleted, read on; return how many packets came, and what is wrong."""
    found: list[tuple[int, str]] = []
    with contextlib.ExitStack() as stack:
        readers = [stack.enter_context(read(each)).batches() for each in sorted(disk.glob("a_*"))[:-1]]
        begun = [len(next(batches).offsets) for batches in readers]
        (disk / "filler").write_bytes(bytes(free_bytes(disk) - FREE_KB * 1000 + 3 * MB // 2))
        for _ in range(2):
            until(capture, capture.SP_FILE_DELETED)
        for packets, batches in zip(begun, readers, strict=True):
            try:
                found.append((packets + sum(len(batch.offsets) for batch in batches), ""))
            except ReadError as error:
                found.append((packets, str(error)))
    return found
