"""Streams as sources: what comes on a descriptor, as records of a capture's files."""

import ctypes
import os
import random
import select
import socket
import struct
from collections.abc import Callable, Generator, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from capd.filters.compiler import CaptureFailed, Compiler
from capd.worker.sources import stream as stream_module
from capd.worker.sources.source import CapturedInterface
from capd.worker.sources.stream import StreamSource
from capd.worker.sources.stream_filter import StreamFilter
from capd_client import Packet, read
from capd_protocol.formats import pcapng
from capd_protocol.messages import Failure, FailureCode, InterfaceRequest

#: LINKTYPE_ETHERNET, LINKTYPE_RAW, LINKTYPE_NFLOG.
ETHERNET, RAW, NFLOG = 1, 101, 239
BEGIN_NS = 1_700_000_000_000_000_000
#: A second section of another byte order, and what must not be in a stream that is whole, is found at each cut.
MICROSECOND, NANOSECOND, MODIFIED = 0xA1B2C3D4, 0xA1B23C4D, 0xA1B2CD34


class Frame(NamedTuple):
    """A packet."""

    data: bytes
    time_ns: int
    original_bytes: int = 0
    interface: int = 0


def frames(count: int = 20, interfaces: int = 1) -> list[Frame]:
    """Return packets of many lengths, the times of which go back now and then."""
    chance = random.Random(5)
    return [
        Frame(
            chance.randbytes(chance.choice((0, 1, 2, 3, 14, 60, 61, 62, 63, 1514))),
            BEGIN_NS + n * 1000 - (n % 5) * 1500 // 1000 * 1000,
            2000 if n % 3 else 0,
            n % interfaces,
        )
        for n in range(count)
    ]


def pcap(packets: Iterable[Frame], *, order: str = "=", magic: int = NANOSECOND, linktype: int = ETHERNET) -> bytes:
    """Return packets in a pcap file."""
    units_per_s = 10**9 if magic == NANOSECOND else 10**6
    parts = [struct.pack(order + "IHHiIII", magic, 2, 4, 0, 0, 262_144, linktype)]
    for packet in packets:
        seconds, rest_ns = divmod(packet.time_ns, 10**9)
        size = len(packet.data)
        fraction = rest_ns * units_per_s // 10**9
        parts.append(struct.pack(order + "IIII", seconds, fraction, size, packet.original_bytes or size))
        if magic == MODIFIED:
            parts.append(struct.pack(order + "IHBB", 3, 0x0800, 4, 0))
        parts.append(packet.data)
    return b"".join(parts)


def block(kind: int, body: bytes, order: str) -> bytes:
    """Return a block of pcapng."""
    body += bytes(-len(body) % 4)
    size = struct.pack(order + "I", len(body) + 12)
    return struct.pack(order + "I", kind) + size + body + size


def option(code: int, value: bytes, order: str) -> bytes:
    """Return an option of a block."""
    return struct.pack(order + "HH", code, len(value)) + value + bytes(-len(value) % 4)


def section(order: str = "=") -> bytes:
    """Return a section header."""
    return block(0x0A0D0D0A, struct.pack(order + "IHHq", 0x1A2B3C4D, 1, 0, -1), order)


def description(
    name: str = "", *, order: str = "=", linktype: int = ETHERNET, resolution: int = 9, text: str = ""
) -> bytes:
    """Return an interface description."""
    body = struct.pack(order + "HHI", linktype, 0, 0)
    if name:
        body += option(2, name.encode(), order)
    body += option(9, bytes((resolution,)), order)
    if text:
        body += option(11, b"\0" + text.encode(), order)
    return block(1, body + option(0, b"", order), order)


def enhanced(packet: Frame, *, order: str = "=", resolution: int = 9, comment: str = "") -> bytes:
    """Return an enhanced packet block."""
    units = packet.time_ns * 10**resolution // 10**9
    size = len(packet.data)
    original = packet.original_bytes or size
    body = struct.pack(order + "IIIII", packet.interface, units >> 32, units & 0xFFFFFFFF, size, original)
    body += packet.data + bytes(-size % 4)
    if comment:
        body += option(1, comment.encode(), order) + option(0, b"", order)
    return block(6, body, order)


def capture_file(
    packets: Iterable[Frame], *, order: str = "=", resolution: int = 9, names: Sequence[str] = ("eth0",)
) -> bytes:
    """Return packets in a pcapng file."""
    descriptions = [description(name, order=order, resolution=resolution) for name in names]
    blocks = [enhanced(packet, order=order, resolution=resolution) for packet in packets]
    return section(order) + b"".join((*descriptions, *blocks))


class Outcome(NamedTuple):
    """What a stream has come to."""

    source: StreamSource
    interfaces: list[CapturedInterface]
    records: bytes

    def packets(self, tmp_path: Path) -> list[Packet]:
        """Return the packets of a file with these records."""
        path = tmp_path / "out.pcapng"
        header = pcapng.section_header(hardware="", operating_system="", application="test")
        path.write_bytes(header + b"".join(each.description for each in self.interfaces) + self.records)
        with read(path) as reader:
            return [packet._replace(data=memoryview(bytes(packet.data))) for packet in reader]


class Stream:
    """A stream through a pipe, and the source that reads it."""

    def __init__(self, capture_filter: str = "", *, file_format: str = "pcapng", snaplen_bytes: int = 262_144) -> None:
        self._reading, self.writing = os.pipe()
        self.begin(self._reading, capture_filter, file_format, snaplen_bytes)

    def begin(
        self,
        descriptor: int,
        capture_filter: str,
        file_format: str,
        snaplen_bytes: int,
        *,
        comes_again: bool = False,
    ) -> None:
        """Read a descriptor."""
        request = InterfaceRequest(
            name="-",
            capture_filter=capture_filter,
            snaplen_bytes=snaplen_bytes,
            is_stream=True,
            comes_again=comes_again,
        )
        compile_for = StreamFilter(Compiler(), request, 0).compile_for
        self.source = StreamSource(request, descriptor, compile_for, file_format=file_format)  # type: ignore[arg-type]
        self.interfaces: list[CapturedInterface] = []
        self.records = b""
        self.heard: list[str] = []
        self.source.begin(self.declare, self)

    def declare(self, interface: CapturedInterface) -> int:
        """Take note of an interface."""
        self.interfaces.append(interface)
        return len(self.interfaces) - 1

    def interface_lost(self, name: str, text: str) -> None:
        """Take note that it has ended."""
        self.heard.append(f"{name}: {text}")

    def interface_attached(self, name: str) -> None:
        """Take note that it has come again."""
        self.heard.append(f"{name} is back")

    def take(self) -> None:
        """Take what is there."""
        while (taken := self.source.take()) is not None or self.source.is_ready():
            if taken is None:
                continue
            assert taken.waiting is not None
            records = taken.waiting.records
            for address, size in records.vectors.tolist():
                self.records += ctypes.string_at(address, size)
            for number, packets in enumerate(np.bincount(np.broadcast_to(records.interface_ids, len(records.vectors)))):
                self.interfaces[number].written_total += int(packets)
            taken.waiting.release()

    def write(self, data: bytes) -> None:
        """Send bytes, and take what they make whole."""
        for at in range(0, len(data), 4096):
            os.write(self.writing, data[at : at + 4096])
            self.take()

    def close(self) -> None:
        """End the stream."""
        os.close(self.writing)
        self.writing = -1
        self.take()

    def outcome(self) -> Outcome:
        """Return what has come of it."""
        return Outcome(self.source, self.interfaces, self.records)


@pytest.fixture
def streams() -> Generator[Callable[..., Stream], None, None]:
    made: list[Stream] = []

    def make(*arguments: object, **options: object) -> Stream:
        made.append(Stream(*arguments, **options))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for each in made:
        each.source.disarm()
        if each.writing >= 0:
            os.close(each.writing)


Make = Callable[..., Stream]


def captured(make: Make, data: bytes, capture_filter: str = "", **options: object) -> Outcome:
    """Return what comes of a stream of these bytes."""
    stream = make(capture_filter, **options)
    stream.write(data)
    stream.close()
    return stream.outcome()


def as_frames(packets: Iterable[Packet]) -> list[Frame]:
    """Return packets that were read."""
    return [
        Frame(
            bytes(packet.data),
            packet.timestamp_ns,
            0 if packet.original_size_bytes == len(packet.data) else packet.original_size_bytes,
            packet.interface_id,
        )
        for packet in packets
    ]


def expected(packets: Iterable[Frame], unit_ns: int = 1) -> list[Frame]:
    """Return packets as a stream with times of so many nanoseconds has them."""
    return [
        packet._replace(
            time_ns=packet.time_ns // unit_ns * unit_ns,
            original_bytes=0 if packet.original_bytes == len(packet.data) else packet.original_bytes,
        )
        for packet in packets
    ]


PCAPS = [(order, magic) for order in "<>" for magic in (MICROSECOND, NANOSECOND, MODIFIED)]


@pytest.mark.parametrize(("order", "magic"), PCAPS)
def test_pcap_of_any_byte_order_and_resolution(streams: Make, tmp_path: Path, order: str, magic: int) -> None:
    sent = frames()
    came = captured(streams, pcap(sent, order=order, magic=magic))
    assert as_frames(came.packets(tmp_path)) == expected(sent, 1 if magic == NANOSECOND else 1000)
    assert came.source.loss is None
    assert came.source.is_drained
    assert [each.name for each in came.interfaces] == ["-"]


@pytest.mark.parametrize("resolution", [3, 6, 9, 10])
@pytest.mark.parametrize("order", "<>")
def test_pcapng_of_any_byte_order_and_resolution(streams: Make, tmp_path: Path, order: str, resolution: int) -> None:
    sent = frames(interfaces=3)
    data = capture_file(sent, order=order, resolution=resolution, names=("eth0", "eth1", ""))
    came = captured(streams, data)
    assert as_frames(came.packets(tmp_path)) == expected(sent, 10 ** max(9 - resolution, 0))
    assert [each.name for each in came.interfaces] == ["-/eth0", "-/eth1", "-"]
    assert [each.interface for each in read_names(came, tmp_path)] == ["eth0", "eth1", "-"]


def read_names(came: Outcome, tmp_path: Path) -> list[Packet]:
    """Return one packet of each interface."""
    found = {packet.interface_id: packet for packet in came.packets(tmp_path)}
    return [found[number] for number in sorted(found)]


@pytest.mark.parametrize("data", [pcap(frames(6)), capture_file(frames(6)), capture_file(frames(6), order=">")])
def test_a_stream_that_comes_byte_by_byte_is_the_same(streams: Make, tmp_path: Path, data: bytes) -> None:
    stream = streams()
    for byte in data:
        os.write(stream.writing, bytes((byte,)))
        stream.take()
    stream.close()
    assert as_frames(stream.outcome().packets(tmp_path)) == expected(frames(6))
    assert stream.source.loss is None


@pytest.mark.parametrize("make", [pcap, capture_file])
def test_wherever_a_stream_is_cut_all_whole_packets_are_there_and_the_rest_is_reported(
    streams: Make, tmp_path: Path, make: Callable[[list[Frame]], bytes]
) -> None:
    # Of each length of padding; not long, since each place is one more stream.
    sent = [packet._replace(data=packet.data[:20] + bytes(count)) for count, packet in enumerate(frames(4))]
    whole = [len(make(sent[:count])) for count in range(5)]
    data = make(sent)
    for size in range(len(data)):
        came = captured(streams, data[:size])
        packets = sum(size >= each for each in whole[1:])
        assert as_frames(came.packets(tmp_path)) == expected(sent[:packets])
        loss = came.source.loss
        # Behind each of pcapng's blocks it may end, also before the first packet.
        if size in whole or (make is capture_file and size == len(section())):
            assert loss is None
        else:
            assert loss is not None
            assert loss.code == FailureCode.SOURCE_DAMAGED
            assert "ended before anything" in loss.text if not size else "is cut" in loss.text


def test_options_of_packets_stay(streams: Make, tmp_path: Path) -> None:
    packet = frames(1)[0]
    data = section() + description("eth0") + enhanced(packet, comment="hello")
    came = captured(streams, data)
    assert came.records == enhanced(packet, comment="hello")


def test_each_section_has_interfaces_of_its_own_and_one_that_comes_again_is_the_same(
    streams: Make, tmp_path: Path
) -> None:
    first, second, third, fourth = (packet._replace(interface=0) for packet in frames(4))
    data = (
        section()
        + description("eth0")
        + enhanced(first)
        + section(">")
        + description("eth1", order=">")
        + enhanced(second, order=">")
        + section()
        + description("eth0")
        + enhanced(third)
        + description("eth1", linktype=RAW)
        + enhanced(fourth._replace(interface=1))
    )
    came = captured(streams, data)
    assert [packet.interface for packet in came.packets(tmp_path)] == ["eth0", "eth1", "eth0", "eth1"]
    assert [packet.interface_id for packet in came.packets(tmp_path)] == [0, 1, 0, 2]
    assert [each.name for each in came.interfaces] == ["-/eth0", "-/eth1", "-/eth1 (2)"]


def damaged() -> dict[str, tuple[bytes, int, str]]:
    """Return streams that are damaged, from which byte on, and what is said of it."""
    good_pcap, good = pcap(frames(2)), capture_file(frames(2))
    beyond = Frame(b"x" * 20, BEGIN_NS, interface=7)
    longer = bytearray(enhanced(Frame(b"x" * 20, BEGIN_NS)))
    longer[20:24] = struct.pack("=I", 1000)
    other_end = bytearray(enhanced(Frame(b"x" * 20, BEGIN_NS)))
    other_end[-4:] = struct.pack("=I", 99)
    return {
        "neither": (b"hello, world", 0, "neither pcapng nor pcap"),
        "gzip": (b"\x1f\x8b" + bytes(20), 0, "gzip"),
        "a huge record": (
            good_pcap + struct.pack("=IIII", 1, 1, 2**31, 2**31) + bytes(99),
            len(good_pcap),
            "a packet of",
        ),
        "a long record": (
            good_pcap + struct.pack("=IIII", 1, 1, 2**25, 2**25) + bytes(99),
            len(good_pcap),
            "may have 16,777,216",
        ),
        "an interface that is none": (good + enhanced(beyond), len(good), "interface 7"),
        "a packet longer than its block": (good + bytes(longer), len(good), "longer than its block"),
        "another length at the end": (good + bytes(other_end), len(good), "another length"),
        "a length of no block": (good + struct.pack("=III", 6, 13, 0), len(good), "a block of 13 bytes"),
    }


@pytest.mark.parametrize("name", damaged())
def test_damage_is_reported_with_its_place_behind_all_whole_packets(streams: Make, tmp_path: Path, name: str) -> None:
    data, at, words = damaged()[name]
    came = captured(streams, data)
    loss = came.source.loss
    assert loss is not None
    assert loss.code == FailureCode.SOURCE_DAMAGED
    assert loss.interface == "-"
    assert f"at byte {at:,}" in loss.text
    assert words in loss.text
    assert len(came.packets(tmp_path)) == (2 if at else 0)


def test_a_packet_of_before_1970_cannot_be_written(streams: Make) -> None:
    offset = option(9, b"\x09", "=") + option(14, struct.pack("=q", -(2**40)), "=")
    data = section() + block(1, struct.pack("=HHI", ETHERNET, 0, 0) + offset, "=") + enhanced(frames(1)[0])
    loss = captured(streams, data).source.loss
    assert loss is not None
    assert loss.code == FailureCode.UNSUPPORTED
    assert "before 1970" in loss.text


def test_headers_in_the_byte_order_of_another_machine_are_refused(streams: Make) -> None:
    swapped = "<" if struct.pack("=H", 1) == struct.pack(">H", 1) else ">"
    loss = captured(streams, pcap(frames(1), order=swapped, linktype=NFLOG)).source.loss
    assert loss is not None
    assert loss.code == FailureCode.UNSUPPORTED
    assert captured(streams, pcap(frames(1), linktype=NFLOG)).source.loss is None


def test_what_the_stream_says_was_dropped_counts_as_dropped(streams: Make) -> None:
    data = capture_file(frames(3))
    for drops in (5, 7):
        options = option(5, struct.pack("=Q", drops), "=")
        data += block(5, struct.pack("=III", 0, 0, 0) + options, "=")
    came = captured(streams, data)
    assert came.interfaces[0].statistics() == (10, 7)
    assert came.source.statistics() == (10, 7)


ARP, IPV4 = bytes(12) + b"\x08\x06" + bytes(40), bytes(12) + b"\x08\x00\x45" + bytes(40)


def test_a_filter_takes_packets_by_the_link_type_of_each_interface(streams: Make, tmp_path: Path) -> None:
    packets = [
        Frame(ARP, BEGIN_NS),
        Frame(IPV4, BEGIN_NS + 1),
        Frame(IPV4[14:], BEGIN_NS + 2, interface=1),
        Frame(IPV4, BEGIN_NS + 3, interface=1),
    ]
    data = section() + description("a") + description("b", linktype=RAW) + b"".join(map(enhanced, packets))
    came = captured(streams, data, "ip")
    assert as_frames(came.packets(tmp_path)) == packets[1:3]
    assert [each.statistics() for each in came.interfaces] == [(1, 0), (1, 0)]


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("ip and", FailureCode.BAD_FILTER),
        ("inbound", FailureCode.BAD_FILTER),
        ("ether proto 0x800 and ip protochain 6", FailureCode.BAD_FILTER),
        ("host example.org", FailureCode.BAD_FILTER),
    ],
)
def test_a_filter_that_cannot_be_is_a_failure_once_the_link_type_is_known(
    streams: Make, text: str, code: FailureCode
) -> None:
    came = captured(streams, pcap(frames(3)), text)
    loss = came.source.loss
    assert loss is not None
    assert loss.code == code
    assert loss.argument == "capture_filter"
    assert came.records == b""


@pytest.mark.parametrize("make", [pcap, capture_file])
def test_no_more_is_kept_of_a_packet_than_was_asked_for(
    streams: Make, tmp_path: Path, make: Callable[[list[Frame]], bytes]
) -> None:
    sent = frames()
    came = captured(streams, make(sent), snaplen_bytes=61)
    cut = [each._replace(data=each.data[:61], original_bytes=each.original_bytes or len(each.data)) for each in sent]
    assert as_frames(came.packets(tmp_path)) == expected(cut)


@pytest.mark.parametrize("make", [pcap, capture_file])
def test_records_of_a_pcap_file(streams: Make, make: Callable[[list[Frame]], bytes]) -> None:
    sent = frames()
    came = captured(streams, make(sent), file_format="pcap")
    assert pcap([])[:24] + came.records == pcap(sent)


def test_a_time_that_pcap_cannot_say(streams: Make) -> None:
    data = capture_file([Frame(b"x", 2**32 * 10**9)])
    loss = captured(streams, data, file_format="pcap").source.loss
    assert loss is not None
    assert "after 2106" in loss.text
    assert captured(streams, data).source.loss is None


def test_interfaces_beyond_the_greatest_number_are_damage(streams: Make) -> None:
    data = section() + b"".join(description(f"if{number}") for number in range(1025))
    came = captured(streams, data)
    loss = came.source.loss
    assert loss is not None
    assert "1,024 interfaces" in loss.text
    assert len(came.interfaces) == 1024


def test_descriptions_that_only_come_again_are_bounded_too(streams: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    assert stream_module._MAX_DESCRIPTIONS <= 100_000, "some MB in memory"
    monkeypatch.setattr(stream_module, "_MAX_DESCRIPTIONS", 5_000)
    stream = streams()
    stream.write(section())
    many = description("eth0") * 100
    for _ in range(50):
        assert not stream.source.is_over
        stream.write(many)
    stream.write(many)
    assert stream.source.is_over
    assert stream.source.loss is not None
    assert "descriptions of interfaces" in stream.source.loss.text
    assert len(stream.interfaces) == 1


def test_an_interface_that_cannot_be_declared_ends_the_stream(streams: Make) -> None:
    stream = streams()
    failure = Failure(code=FailureCode.RESOURCES, text="no room")

    def declare(_: CapturedInterface) -> int:
        raise CaptureFailed(failure)

    stream.source.begin(declare, stream)
    stream.write(pcap(frames(3)))
    assert stream.source.loss == failure
    assert stream.source.is_drained


def test_names_from_the_stream_are_printable_short_and_never_those_of_this_system(streams: Make) -> None:
    data = section() + description("\x1b[2J" + "x" * 100) + description("lo")
    came = captured(streams, data)
    assert [each.name for each in came.interfaces] == [r"-/\x1b[2J" + "x" * 60, "-/lo"]


def test_what_is_not_written_yet_is_bounded_and_the_writer_waits(streams: Make) -> None:
    stream = streams()
    data = capture_file([Frame(bytes(1500), BEGIN_NS)] * 20_000)
    os.set_blocking(stream.writing, False)
    held = []
    sent = 0
    for _ in range(2_000):
        try:
            sent += os.write(stream.writing, data[sent : sent + 65536])
        except BlockingIOError:
            break
        if (taken := stream.source.take()) is not None:
            held.append(taken.waiting)
    else:
        pytest.fail("the writer never waited")
    assert 8_000_000 < sent < 12_000_000
    assert not stream.source.is_ready()
    for waiting in held:
        assert waiting is not None
        waiting.release()
    assert stream.source.is_ready()


def test_what_has_come_is_taken_when_the_capture_ends_and_no_more_is_waited_for(streams: Make, tmp_path: Path) -> None:
    stream = streams()
    sent = frames(3)
    os.write(stream.writing, pcap(sent) + b"half a record")
    stream.source.is_lost = True  # as the loop has it
    stream.take()
    assert stream.source.is_drained
    assert stream.source.loss is None
    assert as_frames(stream.outcome().packets(tmp_path)) == expected(sent)


def through(descriptor: int, *, comes_again: bool = False) -> Stream:
    """Return a stream on a descriptor."""
    stream = Stream.__new__(Stream)
    stream.writing = -1
    stream.begin(descriptor, "", "pcapng", 262_144, comes_again=comes_again)
    return stream


def test_a_file_and_a_socket_are_streams_too(tmp_path: Path) -> None:
    data = pcap(sent := frames(3))
    path = tmp_path / "in.pcap"
    path.write_bytes(data)
    ours, theirs = socket.socketpair()
    theirs.sendall(data)
    theirs.close()
    for descriptor in (os.open(path, os.O_RDONLY), ours.detach()):
        stream = through(descriptor)
        stream.take()
        assert stream.source.is_drained
        assert as_frames(stream.outcome().packets(tmp_path)) == expected(sent)
        stream.source.disarm()
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(descriptor)


@pytest.mark.parametrize("flags", [os.O_RDONLY | os.O_DIRECTORY, os.O_PATH], ids=["directory", "path"])
def test_what_cannot_be_read_is_said_so(tmp_path: Path, flags: int) -> None:
    stream = through(os.open(tmp_path, flags))
    stream.take()
    loss = stream.source.loss
    assert loss is not None
    assert "cannot be read" in loss.text
    stream.source.disarm()


def test_a_fifo_without_a_writer_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    stream = through(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
    stream.take()
    assert not stream.source.is_over
    assert not stream.source.is_ready()
    path.write_bytes(pcap(sent := frames(2)))
    stream.take()
    assert as_frames(stream.outcome().packets(tmp_path)) == expected(sent)
    assert stream.source.is_drained
    stream.source.disarm()


# Streams that come again ----------------------------------------------------------------------------------------------


class Channel:
    """Passes one stream after another."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket = ours
        self.stream = through(theirs.detach(), comes_again=True)

    def send(self, data: bytes) -> int:
        """Pass a stream that has this; return where more of it is written."""
        reading, writing = os.pipe()
        os.write(writing, data)
        socket.send_fds(self.socket, [b"s"], [reading])
        os.close(reading)
        return writing


@pytest.fixture
def channel() -> Generator[Channel, None, None]:
    made = Channel()
    with made.socket:
        yield made
    made.stream.source.disarm()


def wakes(stream: Stream) -> bool:
    """Whether the loop wakes up for it, edge-triggered."""
    with select.epoll() as epoll:
        epoll.register(stream.source.fileno(), select.EPOLLIN | select.EPOLLET)
        return bool(epoll.poll(0))


def test_streams_come_one_after_another_and_each_end_is_told(channel: Channel, tmp_path: Path) -> None:
    stream, sent = channel.stream, frames(6, 2)
    assert not stream.source.is_ready()
    assert not wakes(stream)
    for data in (capture_file(sent[:2], names=("a", "b")), pcap(sent[2:4], order=">")):
        writing = channel.send(data)
        assert wakes(stream)
        stream.take()
        armed = [stream.source.is_armed]
        os.close(writing)
        assert wakes(stream)
        stream.take()
        assert [*armed, stream.source.is_armed] == [True, False]
        assert not stream.source.is_drained
        assert stream.source.may_return
    os.close(channel.send(capture_file(sent[4:], names=("a", "b"))))
    stream.take()
    came = stream.outcome()
    assert [(bytes(each.data), each.timestamp_ns, each.interface) for each in came.packets(tmp_path)] == [
        (each.data, each.time_ns, "-" if 2 <= number < 4 else "ab"[each.interface]) for number, each in enumerate(sent)
    ]
    ended = "-: the stream - has ended"
    assert stream.heard == [ended, "- is back", ended, "- is back", ended]
    assert stream.source.loss is None


def test_what_is_damaged_or_cut_ends_one_of_them_and_not_the_next(channel: Channel, tmp_path: Path) -> None:
    stream, sent = channel.stream, frames(3)
    writing = channel.send(pcap(sent[:1]) + b"\xff" * 40)
    stream.take()
    assert len(stream.heard) == 1
    assert "is damaged at byte" in stream.heard[0]
    assert "what follows until its end is left out" in stream.heard[0]
    os.write(writing, bytes(1000))
    os.close(writing)
    os.close(channel.send(pcap(sent[1:2]) + b"\0" * 10))
    os.close(channel.send(pcap(sent[2:])))
    stream.take()
    assert as_frames(stream.outcome().packets(tmp_path)) == expected(sent)
    ended = "-: the stream - has ended"
    assert stream.heard[1:] == ["- is back", f"{ended}, within a record", "- is back", ended]


def test_a_channel_that_closes_waits_for_nothing_more_and_nothing_spins(channel: Channel) -> None:
    channel.socket.close()
    channel.stream.take()
    assert not channel.stream.source.is_ready()
    assert not wakes(channel.stream)


@pytest.mark.parametrize("make", [pcap, capture_file])
def test_a_program_that_begins_to_write_before_the_other_has_left(
    streams: Make, tmp_path: Path, make: Callable[[list[Frame]], bytes]
) -> None:
    sent = frames(9)
    data = b"".join(make(sent[at : at + 3]) for at in (0, 3, 6))
    for piece_bytes in (len(data), 7):
        stream = streams()
        for at in range(0, len(data), piece_bytes):
            os.write(stream.writing, data[at : at + piece_bytes])
            stream.take()
        stream.close()
        assert stream.source.loss is None
        assert as_frames(stream.outcome().packets(tmp_path)) == expected(sent)
