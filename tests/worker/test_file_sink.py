"""The sink of files: where the next one is due, what ends a capture, and what is noted before a file is ended."""

import errno
import os
import select
import signal
import socket
from collections.abc import Generator
from pathlib import Path

import msgspec
import numpy as np
import pytest

from capd.filters.compiler import CaptureFailed
from capd.launch import Answer as LaunchAnswer
from capd.launch import Rotate, Snapshot, decode
from capd.worker.output.file_sink import FileSink
from capd.worker.output.files import CaptureFiles
from capd.worker.output.recycling import Openers
from capd.worker.output.report import Report
from capd.worker.output.savefile import SaveFile, WriteError
from capd.worker.output.sink import Ending, SinkFailed
from capd.worker.packets.merge import Slice
from capd.worker.sources.af_packet import RingSource
from capd_protocol.formats.linktypes import from_dlt
from capd_protocol.frames import FrameDecoder
from capd_protocol.messages import Conditions, Destination, EndReason, FailureCode
from tests.daemon.test_rings import interface, launch

RECORD_BYTES = 1000
HEADER = b"h" * 100
STATISTICS = b"s" * 60


class Bench:
    """A sink in a directory, and what it has reported."""

    def __init__(
        self, directory: Path, ring: Conditions | None, autostop: Conditions, max_disk_bytes: int | None = None
    ) -> None:
        self.directory = directory
        self.directory_fd = os.open(directory, os.O_PATH | os.O_DIRECTORY)
        self.heard, self._control = socket.socketpair()
        self.heard.setblocking(False)
        self.report = Report(self._control)
        self.noted: list[int] = []
        #: How many files were there when records were noted.
        self.files_then: list[int] = []
        self.files = CaptureFiles(
            directory_fd=self.directory_fd,
            destination=Destination(file_name="a.pcapng"),
            ring=ring,
            header=lambda: HEADER,
            statistics=lambda: STATISTICS,
            report=self.report,
            max_disk_bytes=max_disk_bytes,
        )
        assert self.files.make_room_for_file() is None
        self.files.open_next()
        self.openers = Openers()
        wanted = msgspec.structs.replace(launch(interface()), ring=ring, autostop=autostop)
        self.sink = FileSink(self.files, wanted, self.report, self.openers, drops=dict)
        self.epoll, self.urgent = select.epoll(), select.epoll()
        self.sink.begin(self.epoll, self.urgent, [], lambda _: True, self._note)
        self._memory = np.zeros(RECORD_BYTES, np.uint8)

    def _note(self, records: Slice) -> None:
        self.noted.append(len(records.timestamps_ns))
        self.files_then.append(len(self.paths()) if self.directory.exists() else 0)

    def records(self, count: int) -> Slice:
        vectors = np.tile(np.array([self._memory.ctypes.data, RECORD_BYTES], np.uint64), (count, 1))
        return Slice(vectors, np.ones(count, np.uint64), 0)

    def paths(self) -> list[Path]:
        return sorted(self.directory.iterdir())

    def answers(self) -> list[LaunchAnswer]:
        self.report.flush_all()
        decoder = FrameDecoder()
        decoder.feed(self.heard.recv(1 << 20))
        messages = [decode(frame) for frame in iter(decoder.next_frame, None)]
        return [message for message in messages if isinstance(message, LaunchAnswer)]

    def close(self) -> None:
        os.close(self.directory_fd)
        self.heard.close()
        self._control.close()
        self.epoll.close()
        self.urgent.close()
        self.openers.socket.close()
        # They are a process's own: trio, in other tests, has its signals sent elsewhere.
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGIO, signal.SIG_DFL)
        os.close(self.openers.signalled_fd)


@pytest.fixture
def made() -> Generator[list[Bench], None, None]:
    """Benches that are closed afterwards."""
    benches: list[Bench] = []
    yield benches
    for bench in benches:
        bench.close()


def make(
    made: list[Bench],
    directory: Path,
    *,
    ring: Conditions | None = None,
    autostop: Conditions | None = None,
    max_disk_bytes: int | None = None,
) -> Bench:
    made.append(Bench(directory, ring, autostop or Conditions(), max_disk_bytes))
    return made[-1]


def test_files_are_switched_at_each_packet_that_fills_one_and_records_noted_before(
    made: list[Bench], tmp_path: Path
) -> None:
    bench = make(made, tmp_path, ring=Conditions(packets=3))
    assert bench.sink.write(bench.records(8)) is None
    assert bench.noted == [3, 3, 2]
    assert bench.files_then == [1, 2, 3], "a file is ended, and the next one opened, when its records were noted"
    assert [path.stat().st_size for path in bench.paths()] == [3160, 3160, 2100]


def test_the_packet_that_reaches_a_size_is_the_last_of_a_file(made: list[Bench], tmp_path: Path) -> None:
    bench = make(made, tmp_path, ring=Conditions(filesize_kb=2))
    assert bench.sink.write(bench.records(4)) is None
    assert bench.noted == [2, 2]


@pytest.mark.parametrize(
    ("limits", "noted", "reason"),
    [
        ((Conditions(packets=5), None), [5], EndReason.PACKETS),
        ((Conditions(packets=5), Conditions(packets=3)), [3, 2], EndReason.PACKETS),
        ((Conditions(filesize_kb=3), None), [3], EndReason.FILESIZE),
        ((Conditions(files=2), Conditions(packets=3)), [3, 3], EndReason.FILES),
    ],
    ids=["packets", "packets of a ring", "size", "files"],
)
def test_a_limit_ends_the_capture_exactly(
    made: list[Bench],
    tmp_path: Path,
    limits: tuple[Conditions, Conditions | None],
    noted: list[int],
    reason: EndReason,
) -> None:
    autostop, ring = limits
    bench = make(made, tmp_path, ring=ring, autostop=autostop)
    assert bench.sink.write(bench.records(20)) == Ending(reason)
    assert bench.noted == noted


def test_policys_bytes_end_a_single_file(made: list[Bench], tmp_path: Path) -> None:
    bench = make(made, tmp_path, max_disk_bytes=3200)
    assert bench.sink.write(bench.records(20)) == Ending(EndReason.DISK_LIMIT)
    assert bench.noted == [3]
    assert bench.sink.close({}) is None
    assert bench.paths()[0].stat().st_size == 3160


def test_a_directory_that_is_gone_is_a_failure_that_says_so(made: list[Bench], tmp_path: Path) -> None:
    directory = tmp_path / "gone"
    directory.mkdir()
    bench = make(made, directory, ring=Conditions(packets=3))
    for path in directory.iterdir():
        path.unlink()
    directory.rmdir()
    ending = bench.sink.write(bench.records(5))
    assert ending is not None
    assert ending.reason == EndReason.FAILED
    assert ending.failure is not None
    assert ending.failure.code == FailureCode.DESTINATION
    assert ending.failure.text.startswith("the next file cannot be opened: ")
    assert bench.noted == [3], "what is in the file before counts"


def test_a_rotation_is_answered_when_the_next_file_is_there(made: list[Bench], tmp_path: Path) -> None:
    bench = make(made, tmp_path, ring=Conditions(packets=100), autostop=Conditions(files=2))
    assert bench.sink.order(Rotate(number=7)) is None
    assert len(bench.paths()) == 2
    assert bench.sink.order(Rotate(number=8)) is None
    done, refused = bench.answers()
    assert (done.number, done.failure) == (7, None)
    assert refused.failure is not None
    assert "this is the last of the 2 files" in refused.failure.text


@pytest.mark.parametrize(
    ("order", "text"),
    [(Rotate(number=1), "only a ring is rotated"), (Snapshot(number=1, after_s=0), "the capture is no recorder")],
    ids=["rotate", "snapshot"],
)
def test_what_a_single_file_cannot_do_is_refused(
    made: list[Bench], tmp_path: Path, order: Rotate | Snapshot, text: str
) -> None:
    bench = make(made, tmp_path)
    assert bench.sink.order(order) is None
    (answer,) = bench.answers()
    assert answer.failure is not None
    assert answer.failure.code == FailureCode.INVALID
    assert text in answer.failure.text


def source() -> RingSource:
    ring, maker = None, None
    return RingSource(
        name="eth1",
        launch=interface(),
        ring_number=1,
        link_layer_type=from_dlt(1),
        description=b"d" * 40,
        ring=ring,
        maker=maker,  # type: ignore[arg-type]  # nothing is taken from it
    )


def test_an_interface_more_is_described_where_there_is_room(made: list[Bench], tmp_path: Path) -> None:
    bench = make(made, tmp_path, max_disk_bytes=270)
    bench.sink.describe(source(), 60)
    assert bench.paths()[0].stat().st_size == 140
    with pytest.raises(CaptureFailed) as failed:
        bench.sink.describe(source(), 60)
    assert failed.value.failure.interface == "eth1"
    assert "no room to describe eth1" in failed.value.failure.text


def test_a_disk_that_takes_no_description_ends_the_capture(
    made: list[Bench], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = make(made, tmp_path)

    def write(*_: object) -> None:
        raise WriteError(OSError(errno.ENOSPC, "No space left on device"))

    monkeypatch.setattr(SaveFile, "write", write)
    with pytest.raises(SinkFailed) as failed:
        bench.sink.describe(source(), 60)
    assert failed.value.ending.reason == EndReason.FAILED
    assert failed.value.ending.failure is not None
    assert failed.value.ending.failure.code == FailureCode.DISK
    assert failed.value.ending.failure.text.endswith(
        "No space left on device; what counts as written is in it: make room there"
    )


def test_a_file_whose_time_is_up_is_switched_on_time(
    made: list[Bench], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = make(made, tmp_path, ring=Conditions(duration_s=10.0))
    now_s = 1000.0
    monkeypatch.setattr("time.monotonic", lambda: now_s)
    bench.files._opened_s = 995.0
    assert bench.sink.deadline_s == pytest.approx(1005.0)
    assert bench.sink.on_time(now_s) is None
    assert len(bench.paths()) == 1
    now_s = 1005.0
    assert bench.sink.on_time(now_s) is None
    assert len(bench.paths()) == 2
    assert bench.sink.deadline_s == pytest.approx(1015.0)


def test_events_of_others_are_not_its_own(made: list[Bench], tmp_path: Path) -> None:
    bench = make(made, tmp_path)
    assert not bench.sink.on_event(bench.heard.fileno(), select.EPOLLIN)
    os.write(bench.openers.signalled_fd, b"x")
    for epoll in (bench.epoll, bench.urgent):
        assert epoll.poll(5) == [(bench.openers.socket.fileno(), select.EPOLLIN)]
    assert bench.sink.on_event(bench.openers.socket.fileno(), select.EPOLLIN)
    assert bench.epoll.poll(0) == []
