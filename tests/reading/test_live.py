"""A live stream gives every packet of the capture or tells of it, and costs nobody else anything."""

import contextlib
import subprocess
import threading
import time
from collections.abc import AsyncIterator, Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, cast

import anyio
import pytest

from capd_client import CaptureSession, Columns, Gap, NoEvents, StreamOverrun, aio, read, stream
from capd_client.reading.live import LiveFiles
from capd_protocol.batches.model import Batch
from capd_protocol.messages import FileClosed, FileOpened, Lagged
from tests.capture.helpers import capturing, local_frame, silence, until_packets
from tests.support.daemon import Daemon
from tests.support.traffic import send

PATIENCE_S = 60


def counts(items: Iterable[object]) -> tuple[int, int]:
    """Return how many packets were given, and how many reported as missing."""
    given = missing = 0
    for item in items:
        if isinstance(item, Gap):
            assert item.packets > 0
            missing += item.packets
        else:
            assert isinstance(item, Batch)
            given += len(item.timestamps_ns)
    return given, missing


def frames_of(batch: Batch) -> list[bytes]:
    ends = batch.offsets + batch.captured_sizes
    return [batch.data[start:end].tobytes() for start, end in zip(batch.offsets, ends, strict=True)]


@contextmanager
def sending(interface: str, frames: list[bytes], count: int, rate_pps: int | None) -> Generator[None, None, None]:
    thread = threading.Thread(target=send, args=(interface, frames, count, rate_pps), daemon=True)
    thread.start()
    yield
    thread.join(PATIENCE_S)
    assert not thread.is_alive()


@pytest.fixture
def quiet(veth: tuple[str, str]) -> tuple[str, str]:
    for interface in veth:
        silence(interface)
    return veth


def ring(interface: str, directory: Path, **more: Any) -> dict[str, Any]:
    return {
        "interfaces": interface,
        "savefile": directory / "live.pcapng",
        "ringbuffer_filesize": 200,
        "ringbuffer_files": 3,
        "update_interval": 0.02,
        "pass_files": True,
        **more,
    }


def test_all_packets_come_in_order_through_many_files(daemon: Daemon, quiet: tuple[str, str], user_dir: Path) -> None:
    frames = [local_frame(60 + number % 900, number) for number in range(3000)]
    got: list[bytes] = []
    with (
        capturing(daemon, **ring(quiet[1], user_dir, max_packet_count=len(frames))) as capture,
        sending(quiet[0], frames, len(frames), 5_000),
        stream(capture) as packets,
    ):
        for item in packets:
            assert isinstance(item, Batch), item
            got += frames_of(item)
            assert packets.interfaces[0].name == quiet[1]
    assert len(capture.files) > 5
    assert got == frames


def test_they_come_while_the_capture_runs(daemon: Daemon, quiet: tuple[str, str], user_dir: Path) -> None:
    with capturing(daemon, **ring(quiet[1], user_dir)) as capture, stream(capture) as packets:
        items = iter(packets)
        for number in range(5):
            send(quiet[0], [local_frame(100, number)], 1)
            item = next(items)
            assert isinstance(item, Batch)
            assert frames_of(item) == [local_frame(100, number)]
        capture.stop()
        assert list(items) == []


@pytest.mark.long
@pytest.mark.parametrize("overflow", ["drop_oldest", "wait"])
def test_a_slow_reader_misses_only_what_it_is_told_of(
    daemon: Daemon, quiet: tuple[str, str], user_dir: Path, overflow: Any
) -> None:
    frames = [local_frame(400, number) for number in range(100)]
    with capturing(daemon, **ring(quiet[1], user_dir, max_packet_count=40_000)) as capture:
        with (
            sending(quiet[0], frames, 40_000, 40_000),
            stream(capture, overflow=overflow, max_behind_bytes=1_000_000) as packets,
        ):
            seen: list[object] = []
            for item in packets:
                seen.append(item)
                time.sleep(0.1)  # so slow that the ring goes round in the meantime
        given, missing = counts(seen)
        counters = capture.interface_counters[0]
    assert counters.written_total == 40_000, "the capture was disturbed"
    assert given + missing == 40_000
    assert missing > 0
    if overflow == "drop_oldest":
        assert "too_slow" in {item.reason for item in seen if isinstance(item, Gap)}


def test_who_wants_to_be_told_is(daemon: Daemon, quiet: tuple[str, str], user_dir: Path) -> None:
    with capturing(daemon, **ring(quiet[1], user_dir, ringbuffer_files=20)) as capture:
        send(quiet[0], [local_frame(400)], 2000)
        until_packets(capture, 2000)
        path = capture.files[0].name
        with stream(capture, overflow="disconnect", max_behind_bytes=100_000) as packets:
            # As if the stream had been there from the beginning, and not read.
            packets._files.take(FileOpened(path))
            with pytest.raises(StreamOverrun, match="behind") as overrun:
                next(iter(packets))
        assert overrun.value.behind_bytes > overrun.value.max_behind_bytes == 100_000
        # The session goes on.
        capture.stop()
        capture.wait(PATIENCE_S)
        assert capture.interface_counters[0].drops_total == 0


@pytest.mark.long
def test_two_hundred_thousand_packets_a_second(daemon: Daemon, quiet: tuple[str, str], user_dir: Path) -> None:
    """A reader that counts gets all; beside it one that is ten times slower than the packets loses only its own."""
    count, rate_pps = 1_000_000, 200_000
    results: dict[str, tuple[int, int]] = {}

    def consume(name: str, pause_s: float) -> None:
        with (
            CaptureSession.attach("live", socket_path=daemon.socket_path) as session,
            stream(session, max_behind_bytes=20_000_000) as packets,
        ):

            def paused() -> Iterator[object]:
                for item in packets:
                    if isinstance(item, Batch):
                        time.sleep(pause_s * len(item.timestamps_ns))
                    yield item

            results[name] = counts(paused())

    arguments = ring(quiet[1], user_dir, name="live", detach=True, ringbuffer_filesize=10_000, ringbuffer_files=8)
    with capturing(daemon, **arguments) as capture:
        readers = [
            threading.Thread(target=consume, args=("fast", 0)),
            threading.Thread(target=consume, args=("slow", 10 / rate_pps)),
        ]
        for reader in readers:
            reader.start()
        send(quiet[0], [local_frame(64, number) for number in range(100)], count, rate_pps)
        counted = capture.interface_counters
        while sum(one.written_total + one.drops_total for one in counted) < count:
            with contextlib.suppress(NoEvents):
                capture.wait_for_event(timeout=0.1)
            counted = capture.interface_counters
        capture.stop()
        for reader in readers:
            reader.join(PATIENCE_S)
            assert not reader.is_alive()
    (counters,) = counted
    assert counters.drops_total == 0
    assert results["fast"] == (count, 0)
    assert sum(results["slow"]) == count
    assert results["slow"][1] > count // 4


def test_bytes_are_files_that_others_read(daemon: Daemon, quiet: tuple[str, str], user_dir: Path) -> None:
    frames = [local_frame(60 + number % 900, number) for number in range(2000)]
    copy = user_dir / "copy.pcapng"
    with (
        capturing(daemon, **ring(quiet[1], user_dir, max_packet_count=len(frames))) as capture,
        sending(quiet[0], frames, len(frames), 20_000),
        stream(capture, as_bytes=True) as chunks,
        copy.open("wb") as file,
    ):
        for chunk in chunks:
            assert isinstance(chunk, memoryview)
            file.write(chunk)
    shown = subprocess.run(
        ["tshark", "-n", "-r", copy, "-T", "fields", "-e", "frame.len"], capture_output=True, text=True, check=True
    )
    assert [int(line) for line in shown.stdout.split()] == [len(frame) for frame in frames]


Got = TypeVar("Got")


def collected(
    backend: str,
    sender: str,
    frames: list[bytes],
    arguments: dict[str, Any],
    items_of: Callable[["aio.Stream[Batch | Gap]"], AsyncIterator[Got]],
) -> list[Got]:
    """Return what a stream gives to an asynchronous program while frames are sent."""

    async def send_in_thread() -> None:
        await anyio.to_thread.run_sync(send, sender, frames, len(frames), 20_000)

    async def run() -> list[Got]:
        got: list[Got] = []
        with anyio.fail_after(PATIENCE_S):
            async with (
                aio.CaptureSession(**arguments) as capture,
                anyio.create_task_group() as tasks,
                aio.stream(capture) as packets,
            ):
                tasks.start_soon(send_in_thread)
                got += [item async for item in items_of(packets)]
        return got

    return anyio.run(run, backend=backend)


@pytest.mark.parametrize("backend", ["trio", "asyncio"])
def test_the_same_for_async_programs(daemon: Daemon, quiet: tuple[str, str], user_dir: Path, backend: str) -> None:
    frames = [local_frame(60 + number % 900, number) for number in range(2000)]
    arguments = {**ring(quiet[1], user_dir, max_packet_count=len(frames)), "socket_path": daemon.socket_path}
    got: list[bytes] = []
    for item in collected(backend, quiet[0], frames, arguments, lambda packets: packets):
        assert isinstance(item, Batch), item
        got += frames_of(item)
    assert got == frames


def sources_of(columns: Columns) -> list[bytes]:
    found: list[bytes] = columns["eth.src"].values.tolist()
    return found


def test_columns_of_all_packets_come_in_order(daemon: Daemon, quiet: tuple[str, str], user_dir: Path) -> None:
    frames = [local_frame(60 + number % 900, number) for number in range(3000)]
    got: list[bytes] = []
    numbers: list[int] = []
    with (
        capturing(daemon, **ring(quiet[1], user_dir, max_packet_count=len(frames))) as capture,
        sending(quiet[0], frames, len(frames), 5_000),
        stream(capture) as packets,
    ):
        for columns in packets.columns("eth.src", "frame.number"):
            assert isinstance(columns, Columns), columns
            got += sources_of(columns)
            numbers += columns["frame.number"].values.tolist()
    assert got == [frame[6:12] for frame in frames]
    assert numbers == list(range(1, 3001))


def test_columns_of_a_reader_follow_a_capture(daemon: Daemon, quiet: tuple[str, str], user_dir: Path) -> None:
    frames = [local_frame(60 + number % 900, number) for number in range(1000)]
    with (
        capturing(daemon, **ring(quiet[1], user_dir, max_packet_count=len(frames))) as capture,
        sending(quiet[0], frames, len(frames), 5_000),
        read(capture) as packets,
    ):
        got = [each for columns in packets.columns("eth.src") for each in sources_of(columns)]
    assert got == [frame[6:12] for frame in frames]


@pytest.mark.parametrize("backend", ["trio", "asyncio"])
def test_columns_for_async_programs(daemon: Daemon, quiet: tuple[str, str], user_dir: Path, backend: str) -> None:
    frames = [local_frame(60 + number % 900, number) for number in range(1000)]
    arguments = {**ring(quiet[1], user_dir, max_packet_count=len(frames)), "socket_path": daemon.socket_path}
    got: list[bytes] = []
    for columns in collected(backend, quiet[0], frames, arguments, lambda packets: packets.columns("eth.src")):
        assert isinstance(columns, Columns), columns
        got += sources_of(columns)
    assert got == [frame[6:12] for frame in frames]


def test_others_are_not_disturbed(daemon: Daemon, quiet: tuple[str, str], user_dir: Path) -> None:
    # A stream that nobody reads from, and one that is read, of the same capture.
    with (
        capturing(daemon, **ring(quiet[1], user_dir, name="live", detach=True, pass_files=False)) as capture,
        CaptureSession.attach("live", socket_path=daemon.socket_path) as idle,
        CaptureSession.attach("live", socket_path=daemon.socket_path) as busy,
        stream(idle) as _,
        stream(busy) as packets,
    ):
        frames = [local_frame(100, number) for number in range(1000)]
        items = iter(packets)
        got: list[bytes] = []
        with sending(quiet[0], frames, len(frames), 20_000):
            while len(got) < len(frames):
                item = next(items)
                assert isinstance(item, Batch)
                got += frames_of(item)
        assert got == frames
        capture.stop()


# Without a daemon -------------------------------------------------------------------------------------------------


def live_files() -> LiveFiles:
    return LiveFiles(
        cast("Callable[[str], BinaryIO]", partial(open, mode="rb")),
        max_behind_bytes=10**6,
        overflow="wait",
        as_bytes=False,
    )


def closed(path: Path, packets: int) -> FileClosed:
    return FileClosed(
        name=str(path), packets=packets, size_bytes=0, first_timestamp_ns=None, last_timestamp_ns=None, drops=0
    )


def test_a_file_that_is_gone_is_a_gap_of_its_size(tmp_path: Path) -> None:
    files = live_files()
    files.take(FileOpened(str(tmp_path / "gone")))
    assert files.next_item() is None
    files.take(closed(tmp_path / "gone", 17))
    assert files.next_item() == Gap(17, "deleted")
    assert files.next_item() is None


def test_what_events_did_not_tell_is_told_at_the_end(tmp_path: Path) -> None:
    files = live_files()
    assert files.last_gap(100) is None
    files.take(Lagged(events=3))
    assert files.last_gap(100) == Gap(100, "too_slow")
    assert files.last_gap(100) is None
