"""``savefile`` that is no file by its name: standard output, a FIFO, an open file; blocking and asynchronous."""

import asyncio
import contextlib
import gzip
import io
import os
import pty
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import anyio
import pytest
import trio

from capd_client import (
    CaptureSession,
    DestinationError,
    EndReason,
    InterfaceError,
    InvalidArgument,
    ReadError,
    aio,
    list_captures,
    read,
    stream,
)
from capd_client.conversation.capture import Conversation
from capd_client.conversation.events import CaptureEvent
from capd_client.request.options import make_request
from capd_protocol.messages import FileOpened, Lagged, PacketCount, encode
from tests.client.conftest import Bench
from tests.client.helpers import PATIENCE_S, nothing_left, wait_until
from tests.client.test_streams import data_of, many
from tests.worker.test_streams import pcap

PACKETS = many(2000)


@pytest.fixture(autouse=True)
def _nothing_left() -> Generator[None, None, None]:
    """Have no thread and no pipe left."""
    with nothing_left(lambda each: each.startswith(("pipe:", "socket:")) or each.endswith("fifo")):
        yield


@pytest.fixture
def source(bench: Bench) -> Path:
    """A file of packets, to be captured from."""
    path = bench.directory / "in.pcap"
    path.write_bytes(pcap(PACKETS))
    return path


@pytest.fixture
def fifo(bench: Bench) -> Path:
    path = bench.directory / "fifo"
    os.mkfifo(path)
    return path


class Reader:
    """Reads a descriptor, or a FIFO, to its end."""

    def __init__(self, file: int | Path) -> None:
        self.data = b""
        self._file = file
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        with open(self._file, "rb") as file:  # noqa: PTH123  # or a descriptor
            self.data = file.read()

    def end(self) -> bytes:
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()
        return self.data


def packets_in(data: bytes) -> list[tuple[int, bytes]]:
    with os.fdopen(os.memfd_create("out"), "w+b") as file:
        file.write(data)
        file.seek(0)
        return data_of(read(file))


def as_pipe(_: Bench) -> tuple[Any, Callable[[], bytes]]:
    reading, writing = os.pipe()
    reader, file = Reader(reading), os.fdopen(writing, "wb")

    def end() -> bytes:
        file.close()
        return reader.end()

    return file, end


def as_socket(_: Bench) -> tuple[Any, Callable[[], bytes]]:
    ours, theirs = socket.socketpair()
    reader, file = Reader(os.dup(theirs.fileno())), ours.makefile("wb", buffering=0)
    theirs.close()

    def end() -> bytes:
        file.close()
        ours.close()
        return reader.end()

    return file, end


def as_process(_: Bench) -> tuple[Any, Callable[[], bytes]]:
    process = subprocess.Popen(("cat",), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    stdin, stdout = process.stdin, process.stdout
    assert stdin is not None
    assert stdout is not None
    reader = Reader(os.dup(stdout.fileno()))

    def end() -> bytes:
        stdin.close()
        process.wait(PATIENCE_S)
        stdout.close()
        return reader.end()

    return stdin, end


def as_memory(_: Bench) -> tuple[Any, Callable[[], bytes]]:
    file = io.BytesIO()
    return file, file.getvalue


def as_gzip(bench: Bench) -> tuple[Any, Callable[[], bytes]]:
    file = gzip.open(bench.directory / "out.gz", "wb")  # noqa: SIM115

    def end() -> bytes:
        file.close()
        return subprocess.run(("gzip", "-dc", bench.directory / "out.gz"), capture_output=True, check=True).stdout

    return file, end


def as_disk_file(bench: Bench) -> tuple[Any, Callable[[], bytes]]:
    file = (bench.directory / "out").open("w+b")
    file.write(b"before")

    def end() -> bytes:
        file.seek(0)
        with file:
            assert file.read(6) == b"before"
            return file.read()

    return file, end


def as_fifo(bench: Bench) -> tuple[Any, Callable[[], bytes]]:
    path = bench.directory / "fifo"
    os.mkfifo(path)
    return path, Reader(path).end


KINDS = [as_pipe, as_socket, as_process, as_memory, as_gzip, as_disk_file, as_fifo]


def captured(bench: Bench, source: Path, savefile: Any, **more: Any) -> CaptureSession:
    with bench.session(interfaces=str(source), savefile=savefile, **more) as capture:
        capture.wait(PATIENCE_S)
    return capture


async def captured_async(bench: Bench, source: Path, savefile: Any) -> aio.CaptureSession:
    async with aio.CaptureSession(**bench.arguments(interfaces=str(source), savefile=savefile)) as capture:
        await capture.wait()
    return capture


def in_trio(bench: Bench, source: Path, savefile: Any) -> aio.CaptureSession:
    return trio.run(captured_async, bench, source, savefile)


def in_asyncio(bench: Bench, source: Path, savefile: Any) -> aio.CaptureSession:
    return asyncio.run(captured_async(bench, source, savefile))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("run", [captured, in_trio, in_asyncio])
def test_packets_go_there_and_no_file_is_written(
    bench: Bench, source: Path, kind: Callable[[Bench], tuple[Any, Callable[[], bytes]]], run: Callable[..., Any]
) -> None:
    savefile, end = kind(bench)
    before = set(bench.directory.iterdir())
    capture = run(bench, source, savefile)
    assert capture.end_reason == EndReason.SOURCE_ENDED
    assert (capture.packetcount, capture.missed_packets, capture.files, capture.ring_files()) == (2000, 0, (), ())
    assert set(bench.directory.iterdir()) == before
    assert packets_in(end()) == data_of(PACKETS)


PROGRAM = """
import sys
from capd_client import CaptureSession
with CaptureSession(interfaces=sys.argv[1], savefile="-", socket_path=sys.argv[2], use_libpcap=True) as capture:
    for event_type, message in capture:
        print(event_type.name, message, file=sys.stderr)
    capture.wait()
"""


def test_standard_output_is_a_file_to_tcpdump(bench: Bench, source: Path) -> None:
    words = (sys.executable, "-c", PROGRAM, str(source), bench.daemon.socket_path)
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as program:
        shown = subprocess.run(
            ("tcpdump", "-nr", "-", "-q", "--count"), stdin=program.stdout, capture_output=True, text=True, check=True
        )
        assert program.stderr is not None
        events = program.stderr.read().decode().splitlines()
    assert "2000 packets" in shown.stdout
    assert events[0] == "SP_FILE -"
    assert sum(int(line.split()[1]) for line in events if line.startswith("SP_PACKET_COUNT")) == 2000
    assert [line for line in events if "FILE" in line] == ["SP_FILE -"]


def test_packets_are_written_though_the_program_looks_at_no_event(bench: Bench, fifo: Path) -> None:
    # Nobody takes an event: they are received all the same.
    reading = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    with bench.session(savefile=fifo) as capture, os.fdopen(reading, "rb") as reader:
        os.set_blocking(reading, True)
        bench.send(50)
        header_and_packets = b""
        while len(header_and_packets) < 50 * 100:
            header_and_packets += os.read(reading, 65536)
        capture.terminate()
        rest = reader.read()
        assert len(packets_in(header_and_packets + rest)) == 50
        assert capture.packetcount == 50


def test_each_reader_of_a_fifo_has_a_header_and_what_comes_between_is_counted(bench: Bench, fifo: Path) -> None:
    first = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    with bench.session(savefile=fifo) as capture:
        bench.send(10)
        wait_until(lambda: capture.packetcount == 10, "the first packets are announced")
        os.set_blocking(first, True)
        data = b""
        while len(data) < 1000:
            data += os.read(first, 65536)
        os.close(first)
        bench.send(7)
        wait_until(lambda: capture.missed_packets == 7, "what nobody reads is counted")
        second = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
        os.set_blocking(second, True)
        found = os.read(second, 65536)  # its header, at once
        bench.send(5)
        capture.flush()
        capture.terminate()
        with os.fdopen(second, "rb") as reader:
            assert len(packets_in(found + reader.read())) == 5
        assert (capture.packetcount, capture.missed_packets) == (22, 7)


def test_a_reader_that_leaves_ends_the_capture(bench: Bench) -> None:
    reading, writing = os.pipe()
    with os.fdopen(writing, "wb") as file, bench.session(savefile=file) as capture:
        os.close(reading)
        events = list(capture.events())
    assert events
    assert capture.end_reason == EndReason.STOPPED


def test_a_reader_that_takes_nothing_is_left_at_the_end(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("capd_client.output.live_writer.PATIENCE_S", 0.2)
    reading, writing = os.pipe()
    packets = many(5000)
    path = bench.directory / "long.pcap"
    path.write_bytes(pcap(packets))
    with os.fdopen(writing, "wb") as file:
        capture = captured(bench, path, file)
    with os.fdopen(reading, "rb") as reader:
        data = reader.read()
    assert capture.packetcount == 5000
    # What the pipe took is whole packets, but for the last one; all others are counted.
    assert 0 < capture.missed_packets < 5000
    found = packets_until_cut(data)
    assert len(found) == 5000 - capture.missed_packets
    assert found == data_of(packets)[: len(found)]


def packets_until_cut(data: bytes) -> list[tuple[int, bytes]]:
    packets: list[tuple[int, bytes]] = []
    with os.fdopen(os.memfd_create("out"), "w+b") as file:
        file.write(data)
        file.seek(0)
        with contextlib.suppress(ReadError), read(file) as reader:
            packets.extend((packet.timestamp_ns, bytes(packet.data)) for packet in reader)
    return packets


def test_a_slow_reader_costs_the_capture_nothing(bench: Bench, source: Path) -> None:
    reading, writing = os.pipe()
    with os.fdopen(writing, "wb") as file, bench.session(interfaces=str(source), savefile=file) as capture:
        capture.wait(PATIENCE_S)  # it is over though nobody has read
        assert capture.packetcount == 2000
        reader = Reader(reading)
    assert packets_in(reader.end()) == data_of(PACKETS)
    assert capture.missed_packets == 0


@pytest.mark.parametrize("savefile", ["fifo", "file"])
def test_ctrl_c_while_the_rest_is_written_leaves_it(bench: Bench, fifo: Path, savefile: str) -> None:
    packets = many(5000)
    path = bench.directory / "long.pcap"
    path.write_bytes(pcap(packets))
    reading, writing = os.pipe()
    if savefile == "fifo":
        os.close(reading)
        reading = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    with os.fdopen(writing, "wb") as file, os.fdopen(reading, "rb"):
        capture = bench.session(interfaces=str(path), savefile=fifo if savefile == "fifo" else file)
        capture.wait(PATIENCE_S)
        interrupt = threading.Timer(0.3, signal.pthread_kill, (threading.main_thread().ident, signal.SIGINT))
        interrupt.start()
        began_s = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            capture.terminate()
        assert time.monotonic() - began_s < 3
        interrupt.join()


def test_what_is_abandoned_has_nothing_left(bench: Bench) -> None:
    reading, writing = os.pipe()
    with os.fdopen(writing, "wb") as file, os.fdopen(reading, "rb") as reader:
        capture = bench.session(savefile=file)
        capture.wait_started(PATIENCE_S)
        bench.send(5)
        capture.abandon()
        file.close()
        reader.read()
    wait_until(lambda: not list_captures(socket_path=bench.daemon.socket_path), "the capture has ended")


def test_ctrl_c_ends_the_wait_for_a_reader(bench: Bench, fifo: Path, source: Path) -> None:
    program = "import sys; from capd_client import CaptureSession\nwith CaptureSession(interfaces=sys.argv[1], "
    program += "savefile=sys.argv[2], socket_path=sys.argv[3]): pass"
    words = (sys.executable, "-c", program, str(source), str(fifo), bench.daemon.socket_path)
    with subprocess.Popen(words, stderr=subprocess.PIPE) as process:
        wait_until(lambda: "wait_for_partner" in stack_of(process.pid), "it waits for a reader")
        process.send_signal(2)
        assert process.stderr is not None
        assert "KeyboardInterrupt" in process.stderr.read().decode()
        assert process.wait(PATIENCE_S) != 0


def stack_of(process_id: int) -> str:
    """Return where in the kernel a process waits."""
    try:
        return Path(f"/proc/{process_id}/wchan").read_text() + Path(f"/proc/{process_id}/stack").read_text()
    except OSError:
        return ""


def test_waiting_for_a_reader_can_be_cancelled(bench: Bench, fifo: Path, source: Path) -> None:
    async def wait() -> None:
        with trio.move_on_after(0.2) as waiting:
            async with aio.CaptureSession(**bench.arguments(interfaces=str(source), savefile=fifo)):
                raise AssertionError("nobody reads")
        assert waiting.cancelled_caught

    trio.run(wait)


def test_cancelled_it_writes_what_was_captured(bench: Bench, fifo: Path) -> None:
    reader = Reader(fifo)

    async def capture_for_a_while() -> aio.CaptureSession:
        with anyio.CancelScope() as scope:
            async with aio.CaptureSession(**bench.arguments(savefile=fifo)) as capture:
                await anyio.to_thread.run_sync(bench.send, 20)
                await capture.flush()
                scope.cancel()
                await anyio.sleep_forever()
        return capture

    capture = trio.run(capture_for_a_while)
    assert len(packets_in(reader.end())) == capture.packetcount == 20


def test_a_full_disk_is_an_error_when_it_is_left(bench: Bench, source: Path) -> None:
    with Path("/dev/full").open("wb", buffering=0) as file:
        with pytest.raises(DestinationError, match="No space left"):
            captured(bench, source, file)
        # An error of the block's own is the one that is raised.
        with pytest.raises(ZeroDivisionError) as raised, bench.session(interfaces=str(source), savefile=file):
            _ = 1 / 0
    assert any("packets cannot be written" in note for note in raised.value.__notes__)


class Odd(io.RawIOBase):
    """An open file whose writes end as a test wants."""

    def __init__(self, outcome: Callable[[memoryview], int | None]) -> None:
        self.outcome = outcome
        self.data = b""

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int | None:
        count = self.outcome(memoryview(data))
        self.data += bytes(memoryview(data)[: count or 0])
        return count


def test_a_file_takes_as_much_as_it_likes(bench: Bench, source: Path) -> None:
    calls = 0

    def some(data: memoryview) -> int | None:
        nonlocal calls
        calls += 1
        return None if calls % 3 == 0 else min(len(data), 40_000)

    def nothing_more(_: memoryview) -> int:
        raise ValueError("I/O operation on closed file")

    file = Odd(some)
    captured(bench, source, file)
    assert packets_in(file.data) == data_of(PACKETS)
    with pytest.raises(DestinationError, match="takes nothing: I/O operation on closed file"):
        captured(bench, source, Odd(nothing_more))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ringbuffer_filesize", 1000),
        ("ringbuffer_files", 3),
        ("autostop_files", 3),
        ("group_access", True),
        ("detach", True),
        ("recorder_memory", 8),
    ],
)
def test_what_is_about_files_is_refused(bench: Bench, name: str, value: object) -> None:
    with pytest.raises(InvalidArgument, match=f"{name} is about files on a disk") as refused:
        bench.session(savefile=io.BytesIO(), **{name: value})
    assert refused.value.argument == name
    with pytest.raises(InvalidArgument, match="about files"):
        aio.CaptureSession(**bench.arguments(savefile="/dev/null", **{name: value}))


def test_what_takes_no_bytes_is_refused(bench: Bench, source: Path) -> None:
    closed = io.BytesIO()
    closed.close()
    main, terminal = pty.openpty()
    with (
        source.open("rb") as reading,
        io.StringIO() as text,
        os.fdopen(main, "wb", buffering=0),
        os.fdopen(terminal, "wb", buffering=0) as at_terminal,
    ):
        for wrong, says in ((text, "open for text"), (closed, "closed"), (reading, "for reading only")):
            with pytest.raises(InvalidArgument, match=says):
                bench.session(savefile=wrong)
        with pytest.raises(DestinationError, match="is a terminal"):
            bench.session(savefile=at_terminal)
        for no_path in (3, b"a", ["x"], Path):
            with pytest.raises(InvalidArgument, match="savefile"):
                bench.session(savefile=no_path)


def test_a_refused_capture_leaves_nothing(bench: Bench, fifo: Path) -> None:
    reading = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    with os.fdopen(reading, "rb") as reader:
        with pytest.raises(InterfaceError), bench.session(interfaces="nope0", savefile=fifo):
            raise AssertionError("it runs")
        os.set_blocking(reading, True)
        assert reader.read() == b""


def test_its_packets_cannot_be_had_from_files(bench: Bench, source: Path) -> None:
    with bench.session(interfaces=str(source), savefile=io.BytesIO()) as capture:
        with pytest.raises(InvalidArgument, match="no file is kept"):
            capture.open_file("x")
        with pytest.raises(InvalidArgument, match="no file is kept"):
            list(stream(capture))


def test_dev_null_keeps_nothing_and_counts(bench: Bench, source: Path) -> None:
    capture = captured(bench, source, "/dev/null")
    assert (capture.packetcount, capture.missed_packets, capture.files) == (2000, 0, ())


def test_events_that_nobody_takes_are_merged() -> None:
    prepared = make_request({"interfaces": "lo", "in_memory": True})
    conversation = Conversation(prepared.request, prepared.place)
    seen: list[CaptureEvent] = []

    def observe(event: CaptureEvent) -> CaptureEvent:
        seen.append(event)
        return event

    conversation.observe = observe
    for number in range(30_000):
        conversation.receive(encode(PacketCount(2)) + encode(FileOpened(f"{number}.pcapng")))
    shown: list[CaptureEvent] = []
    while (event := conversation.next_event()) is not None:
        shown.append(event)
    assert len(seen) == 60_000
    assert len(shown) <= 10_000
    assert sum(each.packets_delta for each in shown if isinstance(each, PacketCount)) == 60_000
    opened = [each for each in shown if isinstance(each, FileOpened)]
    assert opened == [FileOpened(f"{number}.pcapng") for number in range(30_000 - len(opened), 30_000)]
    assert sum(each.events for each in shown if isinstance(each, Lagged)) == 30_000 - len(opened)


def test_several_threads_wait_for_events_beside_it(bench: Bench, source: Path) -> None:
    # Whoever waits is woken, though another thread receives.
    with bench.session(interfaces=str(source), savefile=io.BytesIO()) as capture:
        found: list[CaptureEvent] = []
        threads = [threading.Thread(target=lambda: found.extend(capture.events())) for _ in range(3)]
        begin_s = time.monotonic()
        for each in threads:
            each.start()
        for each in threads:
            each.join(PATIENCE_S)
        assert time.monotonic() - begin_s < PATIENCE_S
    assert sum(each.packets_delta for each in found if isinstance(each, PacketCount)) == 2000
