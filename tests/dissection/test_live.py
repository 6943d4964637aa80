"""Live streams are dissected as packets come, in order with their gaps, by programs that block and that do not."""

import contextlib
import os
import random
import signal
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

from capd_client import (
    CaptureSession,
    DisplayFilterError,
    EngineFailed,
    FieldFrame,
    Gap,
    InvalidArgument,
    Restarted,
    UnknownField,
    WholeFrame,
    aio,
    read,
    stream,
)
from capd_client.conversation.events import CaptureEvent
from capd_client.errors import CaptureEnded, NoEvents
from capd_protocol.messages import FileClosed, FileOpened
from tests.capture.helpers import capturing, silence
from tests.dissection.files import engine, query, write
from tests.dissection.processes import engines
from tests.support.daemon import Daemon
from tests.support.traffic import send

PATIENCE_S = 60


@pytest.fixture
def quiet(veth: tuple[str, str]) -> tuple[str, str]:
    for interface in veth:
        silence(interface)
    return veth


def arguments(interface: str, directory: Path, **more: Any) -> dict[str, Any]:
    savefile = directory / "live.pcapng"
    return {"interfaces": interface, "savefile": savefile, "update_interval": 0.02, "pass_files": True, **more}


def test_each_frame_comes_while_the_capture_runs(daemon: Daemon, quiet: tuple[str, str], user_dir: Path) -> None:
    with (
        capturing(daemon, **arguments(quiet[1], user_dir)) as capture,
        stream(capture) as packets,
        packets.dissect("dns.id", "frame.interface_name") as items,
    ):
        for number in range(1, 6):
            send(quiet[0], [query(b"a.example.org", number)], 1)
            frame = next(items)
            assert isinstance(frame, FieldFrame)
            assert (frame.number, frame["dns.id"], frame["frame.interface_name"]) == (number, number, quiet[1])
        capture.stop()
        assert list(items) == []


def test_all_come_in_order_through_files_and_engines(daemon: Daemon, quiet: tuple[str, str], user_dir: Path) -> None:
    frames = [query(b"%d.example.org" % number, number) for number in range(3000)]
    more = {"ringbuffer_filesize": 100, "ringbuffer_files": 3, "max_packet_count": len(frames)}
    with (
        capturing(daemon, **arguments(quiet[1], user_dir, **more)) as capture,
        stream(capture) as packets,
        packets.dissect("dns.id", restart_packets=1000) as items,
    ):
        sending = threading.Thread(target=send, args=(quiet[0], frames, len(frames), 5_000), daemon=True)
        sending.start()
        found = list(items)
        sending.join(PATIENCE_S)
    assert len(capture.files) > 2
    assert [item["dns.id"] for item in found if isinstance(item, FieldFrame)] == list(range(3000))
    assert [item for item in found if not isinstance(item, FieldFrame)] == [Restarted(1000), Restarted(2000)]


def test_what_it_refuses(daemon: Daemon, quiet: tuple[str, str], user_dir: Path) -> None:
    with capturing(daemon, **arguments(quiet[1], user_dir)) as capture:
        with stream(capture) as packets:
            with pytest.raises(DisplayFilterError):
                next(packets.dissect(display_filter="ip =="))
            with pytest.raises(UnknownField):
                packets.dissect("ip.scr")
            with pytest.raises(InvalidArgument, match="two_pass"):
                packets.dissect(two_pass=True)
        with stream(capture, as_bytes=True) as of_bytes, pytest.raises(InvalidArgument, match="as_bytes"):
            of_bytes.dissect()


class Told:
    """A session that tells of files that were written before, some of which are gone."""

    def __init__(self, files: list[tuple[Path, int]]) -> None:
        self._events: list[CaptureEvent] = []
        for path, packets in files:
            self._events += [
                FileOpened(str(path)),
                FileClosed(str(path), packets, 1, 0, 0, 0),
            ]
        self.packetcount, self.packetcount_before = sum(packets for _, packets in files), 0

    def open_file(self, path: str) -> Any:
        return Path(path).open("rb")

    def next_event(self, block: bool = True, timeout: float | None = None) -> CaptureEvent:
        if self._events:
            return self._events.pop(0)
        raise CaptureEnded("it has ended")

    def fileno(self) -> int:
        return -1


@pytest.fixture
def gappy(tmp_path: Path) -> Told:
    """A session of two packets, seven that are gone, three packets, and one that is gone."""
    first = write(tmp_path / "1.pcap", [query(b"a.example.org", number) for number in (1, 2)])
    third = write(tmp_path / "3.pcap", [query(b"a.example.org", number) for number in (3, 4, 5)])
    return Told([(first, 2), (tmp_path / "2.pcap", 7), (third, 3), (tmp_path / "4.pcap", 1)])


def told(item: object) -> object:
    """Return what a test looks at: of a frame the number that its packet was made with."""
    return item["dns.id"] if isinstance(item, FieldFrame | WholeFrame) else item


@pytest.mark.parametrize("names", [("dns.id",), ()], ids=["fields", "whole"])
def test_gaps_stand_where_packets_are_missing(gappy: Told, names: tuple[str, ...]) -> None:
    with stream(gappy) as packets, packets.dissect(*names) as items:
        found = list(map(told, items))
    assert found == [1, 2, Gap(7, "deleted"), 3, 4, 5, Gap(1, "deleted")]


@pytest.mark.parametrize(
    ("display_filter", "expected"),
    [
        ("dns.id == 2 || dns.id == 4", [2, Gap(7, "deleted"), 4, Gap(1, "deleted")]),
        ("dns.id == 1", [1, Gap(7, "deleted"), Gap(1, "deleted")]),
        ("dns.id == 99", [Gap(7, "deleted"), Gap(1, "deleted")]),
    ],
)
def test_gaps_among_frames_that_match(gappy: Told, display_filter: str, expected: list[object]) -> None:
    with stream(gappy) as packets, packets.dissect("dns.id", display_filter=display_filter) as items:
        assert list(map(told, items)) == expected


@pytest.mark.parametrize("limit", [1, 2, 4])
def test_gaps_and_restarts(gappy: Told, limit: int) -> None:
    with stream(gappy) as packets, packets.dissect("dns.id", restart_packets=limit) as items:
        found = list(map(told, items))
    assert [item for item in found if not isinstance(item, Restarted)] == [
        *(1, 2),
        Gap(7, "deleted"),
        *(3, 4, 5),
        Gap(1, "deleted"),
    ]
    assert [item.packets for item in found if isinstance(item, Restarted)] == list(range(limit, 5, limit))


def test_an_engine_that_is_idle_does_not_stand_still(
    daemon: Daemon, quiet: tuple[str, str], user_dir: Path, directory: Path
) -> None:
    with (
        capturing(daemon, **arguments(quiet[1], user_dir)) as capture,
        stream(capture) as packets,
        packets.dissect("dns.id", timeout_s=2) as items,
    ):
        send(quiet[0], [query(b"a.example.org")], 1)
        assert isinstance(next(items), FieldFrame)
        threading.Timer(2.5, capture.stop).start()
        assert list(items) == []
    hanging = engine(directory, "cat >/dev/null & exec sleep 61.3")
    with (
        capturing(daemon, **arguments(quiet[1], user_dir)) as capture,
        stream(capture) as packets,
        packets.dissect("dns.id", program=hanging, timeout_s=0.3) as items,
    ):
        send(quiet[0], [query(b"a.example.org")], 1)
        with pytest.raises(EngineFailed, match="stands still"):
            next(items)


# Asynchronous programs ------------------------------------------------------------------------------------------------


@pytest.fixture
def small(tmp_path: Path) -> Path:
    return write(tmp_path / "small.pcap", [query(b"a.example.org", number) for number in range(9)])


BACKENDS = pytest.mark.parametrize("backend", ["trio", "asyncio"])


def run(backend: str, main: Callable[..., Any], *arguments: Any) -> None:
    async def limited() -> None:
        with anyio.fail_after(PATIENCE_S):
            await main(*arguments)

    anyio.run(limited, backend=backend)


@BACKENDS
@pytest.mark.parametrize("given", [{}, {"capture_filter": "ip"}], ids=["the file itself", "fed"])
def test_files_for_asynchronous_programs(backend: str, small: Path, given: Any) -> None:
    async def main() -> None:
        async with aio.dissect(small, "dns.id", **given) as frames:
            assert [frame["dns.id"] async for frame in frames] == list(range(9))
            assert [frame async for frame in frames] == []
        async with aio.dissect(small, restart_packets=4, **given) as items:
            found = [item async for item in items]
        assert [item["dns.id"] for item in found if isinstance(item, WholeFrame)] == list(range(9))
        assert found.count(Restarted(4)) == 1
        with pytest.raises(DisplayFilterError):
            await anext(aio.dissect(small, display_filter="ip =="))
        with pytest.raises(UnknownField):
            async with aio.dissect(small, "ip.scr"):
                pass
        with pytest.raises(InvalidArgument, match="pipe"):
            await anext(aio.dissect("/dev/null"))

    run(backend, main)


@BACKENDS
def test_live_for_asynchronous_programs(backend: str, daemon: Daemon, quiet: tuple[str, str], user_dir: Path) -> None:
    async def main() -> None:
        socket_path = daemon.socket_path
        async with (
            aio.CaptureSession(**arguments(quiet[1], user_dir), socket_path=socket_path) as capture,
            aio.stream(capture) as packets,
            packets.dissect("dns.id") as items,
        ):
            for number in range(1, 4):
                # Nothing is lost where somebody gives up waiting.
                with anyio.move_on_after(0.02):
                    await anext(items)
                    raise AssertionError
                await anyio.to_thread.run_sync(send, quiet[0], [query(b"a.example.org", number)], 1)
                frame = await anext(items)
                assert isinstance(frame, FieldFrame)
                assert (frame.number, frame["dns.id"]) == (number, number)
            await capture.stop()
            assert [item async for item in items] == []

    run(backend, main)


class ToldLater:
    """The same session for asynchronous programs."""

    def __init__(self, told: Told) -> None:
        self._told = told
        self.packetcount, self.packetcount_before = told.packetcount, 0
        self.open_file = told.open_file

    async def next_event(self, block: bool = True, timeout: float | None = None) -> CaptureEvent:  # noqa: ASYNC109
        await anyio.lowlevel.checkpoint()
        if not block:
            raise NoEvents("not now")
        return self._told.next_event()


@BACKENDS
def test_gaps_for_asynchronous_programs(backend: str, gappy: Told) -> None:
    async def main() -> None:
        session: Any = ToldLater(gappy)
        async with aio.stream(session) as packets, packets.dissect("dns.id") as items:
            found = [told(item) async for item in items]
        assert found == [1, 2, Gap(7, "deleted"), 3, 4, 5, Gap(1, "deleted")]

    run(backend, main)


@BACKENDS
@pytest.mark.usefixtures("leaves_nothing")
def test_cancelled_or_killed_at_any_time_nothing_is_lost_and_nothing_stays(
    backend: str, small: Path, directory: Path
) -> None:
    rng = random.Random(7)
    program = engine(directory, 'exec tshark "$@"')

    async def numbers(items: AsyncIterator[Any], found: list[int]) -> None:
        async for item in items:
            found.append(item.number)  # noqa: PERF401  # it may be cancelled between

    async def main() -> None:
        for kind in ("cancel", "leave", "kill") * 4:
            given: Any = rng.choice(({}, {"capture_filter": "ip"}))
            found: list[int] = []
            async with aio.dissect(small, "ip.src", program=program, **given) as items:
                for _ in range(rng.randrange(1, 4)):
                    with anyio.move_on_after(rng.random() * 0.3):
                        await numbers(items, found)
                if kind == "kill" and (running := engines()):
                    os.kill(rng.choice(running)[0], signal.SIGKILL)
                if kind != "leave":
                    with contextlib.suppress(EngineFailed) if kind == "kill" else contextlib.nullcontext():
                        await numbers(items, found)
            assert found == list(range(1, len(found) + 1))
            assert kind != "cancel" or len(found) == 9
            assert engines() == []

    run(backend, main)


def test_a_session_is_dissected_through_read(daemon: Daemon, quiet: tuple[str, str], user_dir: Path) -> None:
    with capturing(daemon, **arguments(quiet[1], user_dir, max_packet_count=3)) as capture:
        send(quiet[0], [query(b"a.example.org", number) for number in range(3)], 3)
        with read(capture) as packets, packets.dissect("dns.id") as frames:
            assert [frame["dns.id"] for frame in frames] == [0, 1, 2]
    assert isinstance(capture, CaptureSession)
