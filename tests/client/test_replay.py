"""Capture files that are replayed: their bytes, at their own pace or another one, and nothing left of it."""

import contextlib
import os
import random
import select
import struct
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from capd_client import CaptureSession, EndReason, InterfaceError, SourceError, aio, read
from capd_client.request.streams import open_stream, stream_of
from capd_client.sources.opened import Feeder, OpenedStream, Outcome
from capd_client.sources.pacing import Schedule
from capd_client.sources.replay import Replay
from tests.client.conftest import Bench
from tests.client.helpers import PATIENCE_S, nothing_left, open_here, wait_until
from tests.client.test_streams import USER_ID, checksums, data_of, many, prepared, read_back, typed
from tests.worker.test_streams import (
    MICROSECOND,
    Frame,
    block,
    capture_file,
    description,
    enhanced,
    frames,
    pcap,
    section,
)

BEGIN_NS = 1_600_000_000_000_000_000
#: How late a packet may come on a busy machine, and how early by rounding.
LATE_S, EARLY_S = 0.4, 0.001


@pytest.fixture(autouse=True)
def _nothing_left() -> Generator[None, None, None]:
    """Have no thread and no descriptor left."""
    with nothing_left(is_pipe_or_replayed):
        yield


def is_pipe_or_replayed(name: str) -> bool:
    return name.startswith("pipe:") or Path(name).name in ("in", "in.pcap", "in.pcapng")


def spaced(*times_s: float, size_bytes: int = 60) -> list[Frame]:
    """Return packets of these times."""
    return [Frame(bytes([n]) * size_bytes, BEGIN_NS + round(at * 10**9)) for n, at in enumerate(times_s)]


@contextlib.contextmanager
def replayed(path: Path, speed: str = "") -> Generator[OpenedStream, None, None]:
    """Have a file replayed."""
    stream = stream_of(f"replay{speed}:{path}")
    assert stream is not None
    opened = open_stream(stream)
    try:
        yield opened
    finally:
        os.close(opened.descriptor)
        ended(opened.feeder)


def ended(feeder: Feeder | None) -> None:
    """Have what feeds a stream end."""
    assert feeder is not None
    feeder.end()
    feeder.wait()


def all_of(descriptor: int) -> bytes:
    """Return what comes, to its end."""
    return b"".join(iter(lambda: os.read(descriptor, 1 << 20), b""))


# Bytes ---------------------------------------------------------------------------------------------------------------


def with_all_blocks(order: str) -> bytes:
    """Return a section with every kind of block of packets, and blocks that are none."""
    packet = Frame(b"0123456789", BEGIN_NS)
    simple = block(3, struct.pack(order + "I", 10) + b"9876543210\0\0", order)
    # What looks like the header of an enhanced block, before a simple one.
    looks = block(3, struct.pack(order + "I", 28) + struct.pack(order + "7I", 6, 44, 0, 0, 0, 0, 0), order)
    old = block(2, struct.pack(order + "HHIIII", 0, 0, 0, 0, 10, 10) + b"abcdefghij\0\0", order)
    unknown = block(0x0BAD, b"1234", order)
    parts = [section(order), description(order=order), unknown, simple, looks, simple, old, unknown]
    return b"".join([*parts, enhanced(packet, order=order, comment="of it"), simple, unknown])


CHANCE = random.Random(3)
FILES = {
    "pcap": pcap(frames(200)),
    "swapped pcap": pcap(frames(200), order=">", magic=MICROSECOND),
    "pcapng": capture_file(frames(200, 3), names=("a", "b", "c")),
    "blocks": with_all_blocks("<") + with_all_blocks(">") + with_all_blocks("<"),
    "long": pcap([Frame(CHANCE.randbytes(3_000_000), BEGIN_NS + n) for n in range(3)]),
    "header": pcap([]),
    "empty": b"",
    "neither": b"GET / HTTP/1.0\r\n\r\n" * 100_000,
    "short": b"\n\r",
    "compressed": b"\x1f\x8b" + bytes(100),
    "cut": pcap(frames(200))[:-5],
    "damaged": pcap(frames(100)) + b"\xff" * 2_000_000,
    "damaged pcapng": capture_file(frames(20, 1), names=("a",)) + b"\xff" * 2_000_000,
    "too long": pcap(frames(5)) + struct.pack("=IIII", 1_600_000_000, 0, 20_000_000, 20_000_000) + bytes(20_000_000),
}


@pytest.mark.parametrize("name", FILES)
def test_the_bytes_are_those_of_the_file(tmp_path: Path, name: str) -> None:
    path = tmp_path / "in"
    path.write_bytes(FILES[name])
    with replayed(path, "@1e12") as opened:
        assert all_of(opened.descriptor) == FILES[name]
        assert opened.feeder is not None
        assert opened.feeder.outcome() is None


# Pace ----------------------------------------------------------------------------------------------------------------

PACES = {
    "even": [0.0, 0.1, 0.2, 0.3],
    "bursts": [0.0, 0.0, 0.15, 0.15, 0.15, 0.3],
    "back": [0.2, 0.3, 0.0, 0.25, 0.4],
}


@pytest.mark.parametrize("kind", ["pcap", "pcapng", "swapped"])
@pytest.mark.parametrize("speed", [1.0, 4.0, 0.5])
@pytest.mark.parametrize("pace", PACES)
def test_each_packet_comes_when_it_is_due(tmp_path: Path, kind: str, speed: float, pace: str) -> None:
    packets = spaced(*PACES[pace])
    make: dict[str, Callable[[], bytes]] = {
        "pcap": lambda: pcap(packets),
        "pcapng": lambda: capture_file(packets, names=("a",)),
        "swapped": lambda: (
            section(">") + description(order=">") + b"".join(enhanced(each, order=">") for each in packets)
        ),
    }
    path = tmp_path / "in"
    path.write_bytes(make[kind]())
    came: list[tuple[float, bytes]] = []
    with replayed(path, f"@{speed}") as opened:
        began_s = time.monotonic()
        while data := os.read(opened.descriptor, 1 << 20):
            came.append((time.monotonic(), data))
    latest_s = 0.0
    for packet in packets:
        latest_s = max(latest_s, (packet.time_ns - packets[0].time_ns) / 10**9 / speed)
        assert -EARLY_S <= arrival_of(packet, came) - began_s - latest_s < LATE_S


def arrival_of(packet: Frame, came: list[tuple[float, bytes]]) -> float:
    """Return when a packet, and not only a part of it, had come."""
    data = b""
    for at_s, part in came:
        data += part
        if packet.data in data:
            return at_s
    raise AssertionError("it has not come")


def test_the_schedule_is_absolute_whatever_parts_packets_come_in() -> None:
    chance = np.random.default_rng(7)
    times_ns = BEGIN_NS + np.cumsum(chance.integers(-(10**5), 10**6, 100_000))
    at_once = Schedule(1).due_ns(times_ns)
    parts = Schedule(1)
    assert np.array_equal(np.concatenate([parts.due_ns(each) for each in np.array_split(times_ns, 77)]), at_once)
    assert np.array_equal(at_once, np.maximum(np.maximum.accumulate(times_ns) - times_ns[0], 0))
    # Nanoseconds in a day, and a tenth of them.
    assert np.abs(Schedule(10).due_ns(times_ns) - at_once / 10).max() <= 1


def test_packets_without_a_time_wait_for_nothing() -> None:
    times_ns = np.array([0, BEGIN_NS, 0, BEGIN_NS + 5, -(2**63), 2**63 - 1, BEGIN_NS + 7], np.int64)
    due_ns = Schedule(1e-6).due_ns(times_ns)
    assert due_ns[:5].tolist() == [0, 0, 0, 5_000_000, 5_000_000]
    assert due_ns[5] == due_ns[6] >= 2**61
    assert Schedule(1).due_ns(np.zeros(3, np.int64)).tolist() == [0, 0, 0]


@pytest.mark.parametrize("first_ns", [1, -1, -(10**18), -(2**63), 2**63 - 1 - 10**9, 10**9])
def test_packets_of_any_year_are_as_far_apart_as_they_were(first_ns: int) -> None:
    times_ns = np.array([first_ns, first_ns + 7 * 10**8, 0, first_ns + 10**9 - 10**8], np.int64)
    assert Schedule(1).due_ns(times_ns).tolist() == [0, 7 * 10**8, 7 * 10**8, 9 * 10**8]


def test_the_first_packet_waits_for_the_reader(tmp_path: Path) -> None:
    path = tmp_path / "in"
    path.write_bytes(pcap(spaced(0, 0.05, 0.1)))
    with replayed(path) as opened:
        time.sleep(0.3)  # nothing announces that nothing comes
        header = os.read(opened.descriptor, 1 << 20)
        assert header == pcap([])
        assert all_of(opened.descriptor) == path.read_bytes()[len(header) :]


def test_a_reader_that_is_slow_keeps_the_rest_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "in"
    path.write_bytes(pcap([Frame(bytes(100_000), BEGIN_NS + n) for n in range(100)]))
    with replayed(path) as opened:
        begin = os.read(opened.descriptor, 24)
        wait_until(lambda: position_in(path) > 1 << 20, "the pipe is full")
        assert not select.select([], [opened.descriptor], [], 0.2)[1]
        assert position_in(path) < 3 << 20
        assert begin + all_of(opened.descriptor) == path.read_bytes()


def position_in(path: Path) -> int:
    """Return how far a file that is open here was read."""
    for each in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            if each.readlink() == path:
                text = Path(f"/proc/self/fdinfo/{each.name}").read_text()
                return int(text.splitlines()[0].split()[1])
    return 0


def test_a_file_that_cannot_be_read_is_reported(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    feeder = Replay(os.open(tmp_path, os.O_RDONLY), 1, writing)
    assert all_of(reading) == b""
    assert feeder.outcome() == Outcome(
        "the file that is replayed cannot be read any further: Is a directory", is_failure=True
    )
    os.close(reading)
    ended(feeder)


# Captures ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["in.pcap", "in.pcapng"])
def test_packets_in_the_file_are_those_that_tshark_has_of_the_replayed_one(bench: Bench, name: str) -> None:
    path = prepared(bench.directory, name)
    began_s = time.monotonic()
    with bench.session(interfaces=f"replay@6:{path}") as capture:
        assert capture.interfaces == (f"replay@6:{path}",)
        capture.wait(PATIENCE_S)
    assert time.monotonic() - began_s >= 0.5
    assert capture.end_reason == EndReason.SOURCE_ENDED
    assert checksums(bench.savefile, bench.directory) == checksums(path, bench.directory)


def test_interfaces_and_comments_are_kept_as_without_a_pace(bench: Bench) -> None:
    path = bench.directory / "in.pcapng"
    path.write_bytes(capture_file(frames(60, 3), names=("a", "b", "c")) + with_all_blocks(">"))
    files: list[list[Any]] = []
    for name in (f"replay@1000:{path}", str(path)):
        with bench.session(interfaces=name, savefile=bench.directory / f"out{len(files)}.pcapng") as capture:
            capture.wait(PATIENCE_S)
        assert capture.end_reason == EndReason.SOURCE_ENDED
        packets = list(read(capture.files[0].name))
        files.append(
            [(each.timestamp_ns, bytes(each.data), each.interface_id, each.original_size_bytes) for each in packets]
        )
    assert files[0] == files[1]
    assert len(files[0]) == 66


def test_one_is_beside_an_interface_and_an_async_session_has_it(bench: Bench) -> None:
    import trio  # noqa: PLC0415

    path = prepared(bench.directory, packets=many(100))
    with bench.session(interfaces=[bench.interface, f"replay:{path}"]) as capture:
        bench.send(30)
        wait_until(lambda: sum(counters(capture)) == 130, "all are in the file")
    assert counters(capture) == [30, 100]

    async def main() -> EndReason | None:
        words: dict[str, Any] = {"savefile": bench.savefile, "socket_path": bench.daemon.socket_path}
        async with aio.CaptureSession(interfaces=f"replay:{path}", **words) as capture:
            await capture.wait()
        return capture.end_reason

    assert trio.run(main) == EndReason.SOURCE_ENDED
    assert data_of(read(bench.savefile)) == data_of(many(100))


def counters(capture: CaptureSession) -> list[int]:
    """Return how many packets of each interface were written, as of now."""
    with contextlib.suppress(Exception):
        capture.wait_for_event(timeout=0.05)
    return [each.written_total for each in capture.interface_counters]


@pytest.mark.parametrize("arguments", [{"autostop_duration": 0.5}, {"max_packet_count": 2}, {}])
def test_hours_without_a_packet_end_with_the_capture(bench: Bench, arguments: dict[str, Any]) -> None:
    path = prepared(bench.directory, packets=spaced(0, 0.1, 20_000, 20_001))
    with bench.session(interfaces=f"replay:{path}", **arguments) as capture:
        if arguments:
            capture.wait(PATIENCE_S)
        else:
            wait_until(lambda: counters(capture) == [2], "two are there")
    assert read_back(capture) == data_of(spaced(0, 0.1))


def test_nothing_is_left_of_one_whose_capture_is_refused_or_abandoned(bench: Bench) -> None:
    path = prepared(bench.directory, packets=spaced(0, 1000))
    for arguments in ({"capture_filter": "tcp and"}, {"savefile": "/nowhere/a"}, {"socket_path": "/nowhere"}):
        with pytest.raises(Exception, match=r"tcp and|nowhere|filter"):
            bench.running(interfaces=f"replay:{path}", **arguments)
    bench.running(interfaces=f"replay:{path}").abandon()


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_nothing_is_left_of_one_whose_session_is_dropped(bench: Bench) -> None:
    path = prepared(bench.directory, packets=spaced(0, 1000))
    capture: CaptureSession | None = bench.running(interfaces=f"replay:{path}")
    assert len(open_here(is_pipe_or_replayed)) >= 3
    capture = None
    assert capture is None


@pytest.mark.parametrize(
    ("data", "words", "packets"),
    [
        (
            pcap(many(40)) + b"\xff" * 40,
            rf"is damaged at byte {len(pcap(many(40))):,}: .*; all before that is captured",
            40,
        ),
        (pcap(many(40))[:-1], "is cut: it ends within what begins at byte", 39),
    ],
    ids=["damaged", "cut"],
)
def test_damage_is_found_at_its_place_behind_all_before(bench: Bench, data: bytes, words: str, packets: int) -> None:
    path = bench.directory / "in.pcap"
    path.write_bytes(data)
    with (
        pytest.raises(SourceError, match=words) as raised,
        bench.session(interfaces=f"replay:{path}") as capture,
    ):
        list(capture)
    assert raised.value.failure is not None
    assert raised.value.failure.interface == f"replay:{path}"
    assert read_back(capture) == data_of(many(packets))


@pytest.mark.parametrize(
    ("data", "words"),
    [(b"", "has ended before anything came"), (b"GET / HTTP/1.0\r\n\r\n", "neither pcapng nor pcap")],
    ids=["empty", "neither"],
)
def test_what_is_no_capture_file_refuses_the_capture(bench: Bench, data: bytes, words: str) -> None:
    path = bench.directory / "in.pcap"
    path.write_bytes(data)
    with pytest.raises(SourceError, match=words):
        bench.running(interfaces=f"replay:{path}")
    assert not bench.savefile.exists()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("replay:./nowhere", "No such file"),
        ("replay:/", "Is a directory"),
        ("replay:", "No such file"),
        ("replay:/dev/null", "only a file is replayed"),
        ("replay@fast:./a", "'fast' is no speed: it has to be a number above 0, as in replay@10:FILE"),
        ("replay@0:./a", "'0' is no speed"),
        ("replay@-1:./a", "'-1' is no speed"),
        ("replay@nan:./a", "'nan' is no speed"),
        ("replay@inf:./a", "'inf' is no speed"),
        ("replay@:./a", "'' is no speed"),
    ],
)
def test_what_cannot_be_replayed_is_refused_by_name(bench: Bench, name: str, words: str) -> None:
    with pytest.raises(InterfaceError, match=words) as raised:
        bench.session(interfaces=name)
    assert raised.value.failure is not None
    assert raised.value.failure.interface == name


def test_an_ordinary_user_replays_a_file_to_the_next_program(user_dir: Path) -> None:
    directory = user_dir / "own"
    directory.mkdir()
    os.chown(directory, USER_ID, USER_ID)
    prepared(directory, packets=[Frame(each.data, each.time_ns // 1000 * 1000) for each in many(300)])
    done = typed("capctl capture -i replay:in.pcap -w - | tshark -r - -t e -P -x", directory)
    assert done.returncode == 0, done.stderr
    assert done.stdout == checksums(directory / "in.pcap", directory)
    done = typed("capctl capture -i replay@0.001:in.pcap -a duration:0.5 -w a.pcapng", directory)
    assert (done.returncode, "(time is up)" in done.stdout) == (0, True), done
    assert len(list(read(directory / "a.pcapng"))) == 1
    done = typed("capctl capture -i replay@x:in.pcap -w b.pcapng", directory)
    assert (done.returncode, "'x' is no speed" in done.stderr) == (1, True), done
