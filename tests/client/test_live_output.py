"""Live output: files joined to one stream, slow readers and readers that leave, and a server of several readers."""

import contextlib
import os
import socket
import subprocess
import threading
from collections.abc import Generator, Iterable
from pathlib import Path
from typing import BinaryIO

import pytest

from capd_client.errors import DestinationError, InvalidArgument
from capd_client.output.destinations import (
    DescriptorDestination,
    FifoDestination,
    LiveDestination,
    ReaderGone,
    live_destination_of,
)
from capd_client.output.live_writer import LiveWriter
from capd_client.output.readers import ReaderChange, ReaderEvent, ReaderReport
from capd_client.output.server import LiveServer, ServingAddress, serving_address
from capd_client.reading import read
from capd_protocol.formats import pcapng
from capd_protocol.formats.linktypes import DLT_EN10MB
from capd_protocol.messages import FileClosed, FileOpened
from tests.client.helpers import wait_until

SIZE_BYTES = 60
BEHIND_BYTES = 1_000_000


def interface(name: str) -> bytes:
    return pcapng.interface_description(linktype=DLT_EN10MB, snaplen_bytes=262_144, name=name)


def packet(number: int) -> bytes:
    return number.to_bytes(4, "big") + bytes(SIZE_BYTES - 4)


def packets(first: int, last: int, interface_id: int = 0) -> bytes:
    """Return records whose packets bear numbers, in their first four bytes and as their time."""
    return b"".join(
        pcapng.enhanced_packet(
            interface_id, number * 1000, number.to_bytes(4, "big") + bytes(SIZE_BYTES - 4), SIZE_BYTES
        )
        for number in range(first, last)
    )


def pcap_packets(first: int, last: int) -> bytes:
    return b"".join(
        (1).to_bytes(4, "little")
        + number.to_bytes(4, "little")
        + SIZE_BYTES.to_bytes(4, "little") * 2
        + number.to_bytes(4, "big")
        + bytes(SIZE_BYTES - 4)
        for number in range(first, last)
    )


SECTION = pcapng.section_header(hardware="x", operating_system="y", application="z")


class Ring:
    """Files of a capture, and the events about them."""

    def __init__(self, directory: Path, *writers: "LiveWriter | LiveServer") -> None:
        self.directory = directory
        self.writers = list(writers)
        self.packets = 0
        self.files = 0
        self._name = ""
        self._file_packets = 0

    def open(self, name: str) -> BinaryIO:
        return (self.directory / name).open("rb")

    def begin(self, *blocks: bytes) -> None:
        self.files += 1
        self._name, self._file_packets = f"{self.files:05}.pcapng", 0
        self.write(0, *blocks)
        for writer in self.writers:
            writer.take(FileOpened(self._name))

    def write(self, count: int, *blocks: bytes) -> None:
        with (self.directory / self._name).open("ab") as file:
            file.write(b"".join(blocks))
        self.packets += count
        self._file_packets += count

    def end(self) -> None:
        path = self.directory / self._name
        for writer in self.writers:
            writer.take(FileClosed(self._name, self._file_packets, path.stat().st_size, None, None, 0))


class Sink:
    """A destination in memory, whose reader can be held up, and can leave."""

    has_readers = False

    def __init__(self) -> None:
        self.data = b""
        self.goes_on = threading.Event()
        self.goes_on.set()
        self.is_open = True
        self.sent_bytes = 0

    def give_up(self) -> None:
        self.is_open = False
        self.goes_on.set()

    def wait_for_reader(self) -> None:
        pass

    def connect(self) -> bool:
        return True

    def is_read(self) -> bool:
        return self.is_open

    def write(self, data: Iterable[bytes | memoryview]) -> None:
        self.goes_on.wait(20)
        if not self.is_open:
            raise ReaderGone
        self.data += b"".join(data)
        self.sent_bytes = len(self.data)

    def close(self) -> None:
        pass


def writer_to(destination: LiveDestination, ring: Ring, report: ReaderReport | None = None) -> LiveWriter:
    writer = LiveWriter(ring.open, destination, max_behind_bytes=BEHIND_BYTES, report=report)
    ring.writers.append(writer)
    return writer


def numbers(data: bytes | Path, tmp_path: Path) -> list[int]:
    """Return the numbers of a stream's packets, by tshark; they are the first bytes of the destination address."""
    path = data if isinstance(data, Path) else tmp_path / "stream"
    if isinstance(data, bytes):
        path.write_bytes(data)
    words = ("tshark", "-r", str(path), "-T", "fields", "-e", "eth.dst", "-o", "nameres.mac_name:FALSE")
    lines = subprocess.run(words, capture_output=True, text=True, check=True).stdout.split()
    return [int(line.replace(":", "")[:8], 16) for line in lines]


def drop_counts(path: Path) -> list[str]:
    words = ("tshark", "-r", str(path), "-T", "fields", "-e", "frame.drop_count")
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout.splitlines()


@pytest.fixture
def ring(tmp_path: Path) -> Ring:
    (tmp_path / "ring").mkdir()
    return Ring(tmp_path / "ring")


def test_files_are_joined_to_one_section(ring: Ring, tmp_path: Path) -> None:
    sink = Sink()
    writer = writer_to(sink, ring)
    for file in range(3):
        ring.begin(SECTION, interface("a"))
        ring.write(100, packets(file * 100, file * 100 + 100))
        ring.end()
    writer.finish(ring.packets)
    assert sink.data == SECTION + interface("a") + packets(0, 300)
    assert numbers(sink.data, tmp_path) == list(range(300))
    assert (writer.missed_packets, writer.written_packets) == (0, 300)


def test_an_interface_that_comes_later_is_described_once(ring: Ring, tmp_path: Path) -> None:
    sink = Sink()
    writer = writer_to(sink, ring)
    ring.begin(SECTION, interface("a"))
    ring.write(3, packets(0, 2), interface("b"), packets(2, 3, 1))
    ring.end()
    ring.begin(SECTION, interface("a"), interface("b"))
    ring.write(1, packets(3, 4, 1))
    ring.end()
    ring.begin(SECTION, interface("a"), interface("b"), interface("c"))
    ring.write(1, packets(4, 5, 2))
    ring.end()
    writer.finish(ring.packets)
    expected = [SECTION, interface("a"), packets(0, 2), interface("b"), packets(2, 3, 1), packets(3, 4, 1)]
    assert sink.data == b"".join([*expected, interface("c"), packets(4, 5, 2)])
    assert numbers(sink.data, tmp_path) == list(range(5))


def test_pcap_files_are_joined_behind_one_header(ring: Ring, tmp_path: Path) -> None:
    sink = Sink()
    writer = writer_to(sink, ring)
    header = pcapng.pcap_header(linktype=DLT_EN10MB, snaplen_bytes=262_144)
    for file in range(2):
        ring.begin(header)
        ring.write(2, pcap_packets(file * 2, file * 2 + 2))
        ring.end()
    writer.finish(ring.packets)
    assert sink.data == header + pcap_packets(0, 4)
    assert numbers(sink.data, tmp_path) == list(range(4))


def test_what_a_slow_reader_misses_is_counted_and_in_the_stream(ring: Ring, tmp_path: Path) -> None:
    sink = Sink()
    sink.goes_on.clear()
    writer = writer_to(sink, ring)
    each = 10_000  # more than half of what it may be behind
    for file in range(4):
        ring.begin(SECTION, interface("a"))
        ring.write(each, packets(file * each, file * each + each))
        ring.end()
    sink.goes_on.set()
    writer.finish(ring.packets)
    path = tmp_path / "stream"
    path.write_bytes(sink.data)
    got = numbers(path, tmp_path)
    assert writer.missed_packets > 0
    assert len(got) + writer.missed_packets == ring.packets == 4 * each
    assert got == sorted(set(got))
    # Before each packet as many are missing as it says.
    gaps = [number - before - 1 for before, number in zip([-1, *got], got, strict=False)]
    assert [int(count or 0) for count in drop_counts(path)] == gaps


def test_a_reader_that_leaves_ends_the_writer(ring: Ring) -> None:
    reading, writing = os.pipe()
    writer = writer_to(DescriptorDestination(writing), ring)
    ring.begin(SECTION, interface("a"))
    assert os.read(reading, 10_000) == SECTION + interface("a")
    os.close(reading)
    wait_until(lambda: writer.is_left, "the reader is missed")  # though nothing is written
    writer.finish(ring.packets)
    os.close(writing)


def test_an_error_of_writing_is_raised(ring: Ring) -> None:
    with open("/dev/full", "wb") as full:  # noqa: PTH123
        writer = writer_to(DescriptorDestination(full.fileno()), ring)
        ring.begin(SECTION, interface("a"))
        with pytest.raises(OSError, match="No space"):
            writer.finish(ring.packets)


def test_each_reader_of_a_fifo_gets_a_stream_of_its_own(ring: Ring, tmp_path: Path) -> None:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    destination = live_destination_of(path)
    assert isinstance(destination, FifoDestination)
    first = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    destination.wait_for_reader()
    os.set_blocking(first, True)
    events: list[ReaderEvent] = []
    writer = writer_to(destination, ring, events.append)
    ring.begin(SECTION, interface("a"))
    ring.write(2, packets(0, 2))
    expected = SECTION + interface("a") + packets(0, 2)
    assert read_bytes(first, len(expected)) == expected
    os.close(first)
    wait_until(lambda: not writer.is_connected, "the reader is missed")
    ring.write(3, packets(2, 5))
    wait_until(lambda: writer.missed_packets == 3, "it is counted")
    second = os.open(path, os.O_RDONLY)
    wait_until(lambda: writer.is_connected, "the reader is found")
    ring.write(1, packets(5, 6))
    ring.end()
    writer.finish(ring.packets)
    destination.close()
    with open(second, "rb") as file:  # noqa: PTH123
        (tmp_path / "second").write_bytes(file.read())
    assert numbers(tmp_path / "second", tmp_path) == [5]
    assert drop_counts(tmp_path / "second") == ["3"]
    assert not writer.is_left
    assert [(each.number, each.change) for each in events] == [
        (1, ReaderChange.CAME),
        (1, ReaderChange.LEFT),
        (2, ReaderChange.CAME),
        (2, ReaderChange.DONE),
    ]
    # What came while nobody read was missed by none of them.
    assert {each.missed_packets for each in events} == {0}


def read_bytes(descriptor: int, size_bytes: int) -> bytes:
    data = b""
    while len(data) < size_bytes and (more := os.read(descriptor, size_bytes - len(data))):
        data += more
    return data


def test_what_is_a_live_destination(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert live_destination_of(None) is None
    assert live_destination_of("a.pcapng") is None
    assert live_destination_of(tmp_path) is None
    assert live_destination_of("\0") is None
    reading, writing = os.pipe()
    assert isinstance(live_destination_of(f"/dev/fd/{writing}"), DescriptorDestination)
    os.close(reading)
    os.close(writing)
    monkeypatch.setattr(os, "isatty", lambda _: True)
    with pytest.raises(DestinationError, match="terminal"):
        live_destination_of("-")


@pytest.mark.parametrize(
    ("text", "address", "shown"),
    [
        ("19000", ServingAddress("127.0.0.1", 19000), "127.0.0.1:19000"),
        ("0.0.0.0:1", ServingAddress("0.0.0.0", 1), "0.0.0.0:1"),
        ("[::1]:65535", ServingAddress("::1", 65535), "[::1]:65535"),
        ("localhost:19000", ServingAddress("127.0.0.1", 19000), "127.0.0.1:19000"),
        ("[fe80::1%eth0]:1", ServingAddress("fe80::1%eth0", 1), "[fe80::1%eth0]:1"),
        ("unix:/tmp/a b", ServingAddress(None, path="/tmp/a b"), "unix:/tmp/a b"),
    ],
)
def test_addresses_of_servers(text: str, address: ServingAddress, shown: str) -> None:
    assert serving_address(text) == address
    assert str(address) == shown


@pytest.mark.parametrize(
    ("text", "why"),
    [
        *((text, "it has no port") for text in ("", "0", "65536", "-1", "::1:19000x", "127.0.0.1:", "²", "1.2.3.4")),
        ("9" * 10_000, "it has no port"),
        ("localhost", "it has no port"),
        ("a:1", "a is no IP address, and names are not looked up"),
        ("[::1:1", "[::1 is no IP address"),
        ("[fe80::1]:1", "the interface of fe80::1 is missing"),
        ("unix:", "there is no path"),
    ],
)
def test_what_is_no_address_of_a_server(text: str, why: str) -> None:
    with pytest.raises(InvalidArgument) as raised:
        serving_address(text)
    assert f"{text} is no address to serve at: {why}" in str(raised.value)


def test_who_can_read_is_said() -> None:
    assert "every user of this machine" in serving_address("1").readers
    assert "everybody" in serving_address("0.0.0.0:1").readers
    assert "only this user" in serving_address("unix:/a").readers


@contextlib.contextmanager
def server_of(ring: Ring, address: ServingAddress) -> Generator[tuple[LiveServer, list[str]], None, None]:
    reports: list[str] = []
    server = LiveServer(address, lambda event: reports.append(str(event)))
    try:
        server.begin(ring.open, lambda: ring.packets, max_behind_bytes=BEHIND_BYTES)
        ring.writers.append(server)
        yield server, reports
    finally:
        server.close()


def connected(path: Path) -> socket.socket:
    reader = socket.socket(socket.AF_UNIX)
    reader.connect(str(path))
    return reader


def until_eof(reader: socket.socket) -> bytes:
    with reader, reader.makefile("rb") as file:
        return file.read()


def test_each_reader_of_a_server_gets_what_comes_from_then_on(ring: Ring, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with server_of(ring, ServingAddress(None, path=str(path))) as (server, reports):
        assert path.stat().st_mode & 0o777 == 0o600
        ring.begin(SECTION, interface("a"))
        first = connected(path)
        assert read_bytes(first.fileno(), len(SECTION)) == SECTION
        ring.write(2, packets(0, 2))
        assert read_bytes(first.fileno(), len(interface("a") + packets(0, 2))) == interface("a") + packets(0, 2)
        second = connected(path)
        assert read_bytes(second.fileno(), len(SECTION)) == SECTION
        ring.write(2, packets(2, 4))
        ring.end()
        ring.begin(SECTION, interface("a"))
        ring.write(1, packets(4, 5))
        ring.end()
        server.finish(ring.packets)
        assert until_eof(first) == packets(2, 5)
        assert until_eof(second) == interface("a") + packets(2, 5)
    assert not path.exists()
    assert sorted(reports) == ["a reader has left"] * 2 + ["a reader reads"] * 2


def test_a_reader_that_takes_nothing_keeps_nobody(ring: Ring, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("capd_client.output.server.PATIENCE_S", 0.2)
    path = tmp_path / "socket"
    with server_of(ring, ServingAddress(None, path=str(path))) as (server, reports):
        ring.begin(SECTION, interface("a"))
        stuck, other = connected(path), connected(path)
        wait_until(lambda: len(reports) == 2, "both read")
        data = b""

        def read_all() -> None:
            nonlocal data
            data = until_eof(other)

        reading = threading.Thread(target=read_all)
        reading.start()
        ring.write(9_000, packets(0, 9_000))
        ring.end()
        server.finish(ring.packets)
        reading.join(20)
        stuck.close()
    assert data == SECTION + interface("a") + packets(0, 9_000)
    (said,) = [each for each in reports if "took nothing" in each]
    assert "packets not written" in said


def test_a_socket_that_is_left_over_is_replaced_and_others_are_not(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    left_over = socket.socket(socket.AF_UNIX)
    left_over.bind(str(path))
    left_over.close()
    address = ServingAddress(None, path=str(path))
    server = LiveServer(address, print)
    with pytest.raises(DestinationError, match="in use"):
        LiveServer(address, print)
    server.close()
    path.write_text("precious")
    with pytest.raises(DestinationError, match="in use"):
        LiveServer(address, print)
    assert path.read_text() == "precious"


def test_what_has_taken_the_place_of_a_socket_stays(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    server = LiveServer(ServingAddress(None, path=str(path)), print)
    path.unlink()
    path.write_text("precious")
    server.close()
    assert path.read_text() == "precious"


def test_a_path_that_is_too_long_for_a_socket_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="at most 107 bytes"):
        serving_address("unix:" + "a" * 108)


def test_readers_beyond_the_greatest_number_are_refused(
    ring: Ring, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("capd_client.output.server.MAX_READERS", 1)
    path = tmp_path / "socket"
    with server_of(ring, ServingAddress(None, path=str(path))) as (_, reports):
        ring.begin(SECTION, interface("a"))
        with connected(path):
            wait_until(lambda: bool(reports), "one reads")
            assert until_eof(connected(path)) == b""
            wait_until(lambda: len(reports) > 1, "the other is refused")
            assert reports == ["a reader reads", "a reader is refused: 1 read already"]


def test_a_stream_is_read_as_it_was_written(ring: Ring, tmp_path: Path) -> None:
    path = tmp_path / "stream"
    with path.open("wb") as file:
        writer = writer_to(DescriptorDestination(file.fileno()), ring)
        ring.begin(SECTION, interface("a"))
        ring.write(5, packets(0, 5))
        ring.end()
        writer.finish(ring.packets)
    with read(path) as reader:
        assert [packet.timestamp_ns for packet in reader] == [number * 1000 for number in range(5)]
