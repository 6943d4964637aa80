"""Packets are in the file as they were sent, bit for bit, with their times; by our own reader and by others'."""

import contextlib
import fcntl
import itertools
import os
import random
import socket
import struct
import subprocess
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from capd_client import read
from capd_client.request.options import CaptureArguments
from tests.capture.helpers import (
    END_TIMEOUT_S,
    Packet,
    capturing,
    dumpcap,
    end,
    in_background,
    ip,
    kernel_setting,
    local_frame,
    other_namespace,
    read_file,
    read_pcap,
    send_queued,
    silence,
    tagged,
    tagging,
    tcpdump,
    until_packets,
    until_received,
)
from tests.support.daemon import Daemon, running_daemon
from tests.support.namespace import private_network_namespace, veth_pair
from tests.support.tools import capinfos, packets_of, tshark_fields, tshark_packets
from tests.support.traffic import build_frames, send, sequence_offset, with_sequence

CTAG, STAG = 0x8100, 0x88A8
LINKTYPE_ETHERNET, LINKTYPE_RAW = 1, 101


def mixed_frames(count: int) -> list[bytes]:
    cycle = build_frames((64, 576, 1500), (7, 4, 1))
    return [with_sequence(cycle[at % len(cycle)], at, sequence_offset()) for at in range(count)]


def sent_and_captured(
    daemon: Daemon, veth: tuple[str, str], frames: list[bytes], arguments: CaptureArguments
) -> list[Packet]:
    """Send frames one after another on one end of a link and return what the file of the other end has."""
    arguments["interfaces"] = veth[1]
    with capturing(daemon, **arguments) as capture:
        assert send(veth[0], frames, len(frames)) == len(frames)
        until_packets(capture, len(frames))
        end(capture)
    path = arguments["savefile"]
    assert isinstance(path, str | os.PathLike)
    assert packets_of(os.fspath(path)) == len(frames)
    return read_pcap(os.fspath(path)).packets if arguments.get("use_libpcap") else read_file(os.fspath(path)).packets


def tshark_bytes(path: Path) -> list[bytes]:
    return [bytes.fromhex(packet["_source"]["layers"]["frame_raw"][0]) for packet in tshark_packets(path)]


def tshark_lengths(path: Path) -> list[tuple[int, int]]:
    """Return captured and original length of each packet."""
    rows = tshark_fields(path, "frame.cap_len", "frame.len")
    return [(int(captured), int(original)) for captured, original in rows]


def assert_whole(path: Path, packets: list[Packet], frames: list[bytes]) -> None:
    assert [packet.data for packet in packets] == frames
    assert [packet.original_size_bytes for packet in packets] == list(map(len, frames))
    assert tshark_bytes(path) == frames
    assert tshark_lengths(path) == [(len(frame), len(frame)) for frame in frames]


# Sizes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file_format", ["pcapng", "pcap"])
def test_packets_of_mixed_sizes_are_as_they_were_sent(
    daemon: Daemon, veth: tuple[str, str], user_dir: Path, file_format: str
) -> None:
    frames = mixed_frames(120)
    path = user_dir / "mix"
    arguments = CaptureArguments(savefile=path, use_libpcap=file_format == "pcap")
    assert_whole(path, sent_and_captured(daemon, veth, frames, arguments), frames)


@pytest.mark.parametrize("file_format", ["pcapng", "pcap"])
def test_short_packets_of_each_size_are_as_they_were_sent(
    daemon: Daemon, veth: tuple[str, str], user_dir: Path, file_format: str
) -> None:
    sizes = [*range(14, 81), *range(80, 13, -1)]
    frames = [local_frame(size, number) for number, size in enumerate(sizes)]
    path = user_dir / "short"
    arguments = CaptureArguments(savefile=path, use_libpcap=file_format == "pcap")
    assert_whole(path, sent_and_captured(daemon, veth, frames, arguments), frames)


@pytest.mark.parametrize("file_format", ["pcapng", "pcap"])
@pytest.mark.parametrize("update_interval", [0.005, 0.1])
def test_packets_at_the_ends_of_the_rings_blocks_are_as_they_were_sent(
    daemon: Daemon, user_dir: Path, file_format: str, update_interval: float
) -> None:
    # Some MB at once fill blocks to the last byte: their last packets are where the records do not fit.
    choose = random.Random(20 * update_interval)
    sizes = [choose.choice((choose.randint(16, 128), choose.randint(16, 1514), 9000)) for _ in range(4000)]
    frames = [tagged(local_frame(size, number), (CTAG, 5)) if number % 3 == 0 else local_frame(size, number)
              for number, size in enumerate(sizes)]  # fmt: skip
    path = user_dir / "blocks"
    with veth_pair("blk-tx", "blk-rx", mtu=9004):
        arguments = CaptureArguments(savefile=path, use_libpcap=file_format == "pcap", update_interval=update_interval)
        arguments["kernel_buffer_size"] = 96  # in MiB: room even if this machine keeps the worker waiting
        packets = sent_and_captured(daemon, ("blk-tx", "blk-rx"), frames, arguments)
    assert [packet.data for packet in packets] == frames
    assert [packet.original_size_bytes for packet in packets] == list(map(len, frames))


def test_nothing_of_earlier_packets_shows_beside_later_ones(
    daemon: Daemon, veth: tuple[str, str], user_dir: Path
) -> None:
    # The ring is used several times over; what it held before must not get into the padding behind short packets.
    path, many = user_dir / "reused.pcapng", 3000
    with capturing(daemon, interfaces=veth[1], savefile=path, kernel_buffer_size=1) as capture:
        assert send(veth[0], [b"\xff" * 1514], many, 10_000) == many
        until_received(capture, many)  # some may have found no room
        frames = [local_frame(size, number) for number, size in enumerate((*range(14, 81), *range(80, 13, -1)))]
        assert send(veth[0], frames, len(frames)) == len(frames)
        until_received(capture, many + len(frames))
        end(capture)
    contents = read_file(path)  # compares the padding too
    assert contents.frames[-len(frames) :] == frames
    assert len(contents.frames) > len(frames) + 1000  # one and a half times what the ring holds


def test_jumbo_frames_are_as_they_were_sent(daemon: Daemon, user_dir: Path) -> None:
    sizes = [60, *range(8998, 9015), 61, 9014, 9014]
    frames = [local_frame(size, number) for number, size in enumerate(sizes)]
    path = user_dir / "jumbo.pcapng"
    with veth_pair("jumbo-tx", "jumbo-rx", mtu=9000):
        packets = sent_and_captured(daemon, ("jumbo-tx", "jumbo-rx"), frames, CaptureArguments(savefile=path))
    assert_whole(path, packets, frames)


# VLANs ----------------------------------------------------------------------------------------------------------

#: Control information: VLAN 0 as it is used for priorities, the highest VLAN, priorities, "drop eligible".
TAG_CONTROLS = (0x0000, 0x0001, 0x0FFF, 0x2005, 0x1064, 0xFFFF, 0xE000)


@pytest.mark.parametrize("file_format", ["pcapng", "pcap"])
def test_vlan_tags_sent_in_the_frame_are_where_they_were(
    daemon: Daemon, veth: tuple[str, str], user_dir: Path, file_format: str
) -> None:
    stacks: list[tuple[tuple[int, int], ...]] = []
    for control in TAG_CONTROLS:
        stacks += [
            ((CTAG, control),),
            ((STAG, control),),
            ((STAG, 0x0064), (CTAG, control)),
            ((CTAG, control), (CTAG, 7)),
            ((0x9100, control), (CTAG, 8)),
            ((STAG, 1), (STAG, 2), (CTAG, control)),
            (),
        ]
    sizes = itertools.cycle((16, 17, 18, 19, 46, 60, 61, 62, 63, 1000))  # the kernel drops a tagged frame below 20
    frames = [
        tagged(local_frame(size, number), *stack)
        for number, (stack, size) in enumerate(zip(stacks, sizes))  # noqa: B905
    ]
    path = user_dir / "vlan"
    arguments = CaptureArguments(savefile=path, use_libpcap=file_format == "pcap")
    assert_whole(path, sent_and_captured(daemon, veth, frames, arguments), frames)


SET_ASIDE = (((CTAG, 0xA064),), ((STAG, 0x00C8),), ((CTAG, 0),), ((STAG, 0xA0C8), (CTAG, 0xAFFE)))


@pytest.mark.parametrize("file_format", ["pcapng", "pcap"])
@pytest.mark.parametrize("end_of_link", ["sent", "received"])
def test_tags_that_the_kernel_sets_aside_are_put_back(
    daemon: Daemon, veth: tuple[str, str], user_dir: Path, end_of_link: str, file_format: str
) -> None:
    frames = [local_frame(size, number) for number, size in enumerate((14, 15, 16, 17, 60, 61, 62, 63, 1400))]
    expected = [tagged(frame, *tags) for tags in SET_ASIDE for frame in frames]
    path = user_dir / "aside"
    interface = veth[0] if end_of_link == "sent" else veth[1]
    with capturing(
        daemon, interfaces=interface, savefile=path, use_libpcap=file_format == "pcap", update_interval=0.02
    ) as capture:
        for tags in SET_ASIDE:
            with contextlib.ExitStack() as stack:
                try:
                    stack.enter_context(tagging(veth[0], *tags))
                except OSError as error:
                    pytest.skip(f"this kernel runs no program that tags: {error}")
                send_queued(veth[0], frames)
            until_packets(capture, len(frames))
        end(capture)
    assert_whole(path, read_pcap(path).packets if file_format == "pcap" else read_file(path).packets, expected)


def test_frames_that_the_machine_itself_sends_are_captured_once_and_as_they_are(
    daemon: Daemon, veth: tuple[str, str], user_dir: Path
) -> None:
    plain = local_frame(61, 1)
    frames = [plain, tagged(plain, (CTAG, 0xE005)), tagged(plain, (STAG, 5), (CTAG, 6)), local_frame(14, 2)]
    path = user_dir / "own.pcapng"
    with capturing(daemon, interfaces=veth[0], savefile=path) as capture:
        send_queued(veth[0], frames)
        until_packets(capture, len(frames))
        end(capture)
    assert_whole(path, read_file(path).packets, frames)


# Snaplen --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("snaplen", [1, 13, 14, 16, 60, 100])
def test_no_more_than_the_snaplen_is_kept_and_the_original_length_with_it(
    daemon: Daemon, veth: tuple[str, str], user_dir: Path, snaplen: int
) -> None:
    plain = [local_frame(size, number) for number, size in enumerate((14, 59, 60, 61, 99, 100, 101, 104, 576))]
    frames = plain + [tagged(frame, (CTAG, 0x2005)) for frame in plain if len(frame) > 14]
    frames += [tagged(frame, (STAG, 5), (CTAG, 6)) for frame in plain if len(frame) > 14]
    path = user_dir / "cut.pcapng"
    packets = sent_and_captured(daemon, veth, frames, CaptureArguments(savefile=path, snaplen=snaplen))
    assert [packet.data for packet in packets] == [frame[:snaplen] for frame in frames]
    assert [packet.original_size_bytes for packet in packets] == list(map(len, frames))
    assert tshark_lengths(path) == [(min(len(frame), snaplen), len(frame)) for frame in frames]
    assert read_file(path).interfaces[0].snaplen_bytes == snaplen


def test_the_snaplen_holds_with_a_filter_and_in_pcap_too(daemon: Daemon, veth: tuple[str, str], user_dir: Path) -> None:
    frames = mixed_frames(24)
    others = [local_frame(100, number) for number in range(24)]
    both = [frame for pair in zip(frames, others, strict=True) for frame in pair]
    path = user_dir / "cut.pcap"
    with capturing(
        daemon, interfaces=veth[1], savefile=path, snaplen=65, capture_filter="udp", use_libpcap=True
    ) as capture:
        assert send(veth[0], both, len(both)) == len(both)
        until_packets(capture, len(frames))
        end(capture)
    contents = read_pcap(path)
    assert [packet.data for packet in contents.packets] == [frame[:65] for frame in frames]
    assert [packet.original_size_bytes for packet in contents.packets] == list(map(len, frames))
    assert (contents.snaplen_bytes, contents.linktype) == (65, LINKTYPE_ETHERNET)


def test_the_snaplen_is_262144_unless_told_otherwise(daemon: Daemon, veth: tuple[str, str], user_dir: Path) -> None:
    path = user_dir / "default.pcapng"
    sent_and_captured(daemon, veth, [local_frame(60)], CaptureArguments(savefile=path))
    (description,) = read_file(path).interfaces
    assert (description.snaplen_bytes, description.linktype) == (262_144, LINKTYPE_ETHERNET)
    assert "Capture length = 262144" in capinfos_text(path)


def capinfos_text(path: Path) -> list[str]:
    return [f"{name} = {value}" if value else name for name, value in capinfos(path).items()]


# Segments larger than what is on the wire -----------------------------------------------------------------------

TCP_PORT = 4711
#: Least, usual and most bytes of a socket's buffer: room for some of the largest segments.
TCP_MEMORY = "4096 4000000 8000000"


def tcp_segment(frame: bytes) -> tuple[int, int, bytes] | None:
    """Return source port, sequence number and payload of a TCP segment, and check the lengths in its headers."""
    match struct.unpack_from("!H", frame, 12)[0]:
        case 0x0800:
            if frame[23] != socket.IPPROTO_TCP:
                return None
            (length,) = struct.unpack_from("!H", frame, 16)
            # With a larger segment than its field can tell, the field is 0.
            assert length in (0, len(frame) - 14)
            at = 14 + (frame[14] & 15) * 4
        case 0x86DD:
            (length,) = struct.unpack_from("!H", frame, 18)
            following, at = frame[20], 54
            if following == socket.IPPROTO_HOPOPTS:  # the jumbo payload option
                following, at = frame[at], at + 8 * (1 + frame[at + 1])
            if following != socket.IPPROTO_TCP:
                return None
            assert length in (0, len(frame) - 54)
        case _:
            return None
    (port,) = struct.unpack_from("!H", frame, at)
    (sequence,) = struct.unpack_from("!I", frame, at + 4)
    return port, sequence, frame[at + (frame[at + 12] >> 4) * 4 :]


def tcp_stream(frames: list[bytes], port: int, size: int) -> bytes:
    """Return what was sent from a port, put together from the segments."""
    segments = [segment for frame in frames if (segment := tcp_segment(frame)) and segment[0] == port]
    first = segments[0][1] + 1  # behind the SYN
    stream, have = bytearray(size), bytearray(size)
    for _, sequence, payload in segments:
        at = (sequence - first) % 2**32
        if payload and at < size:
            stream[at : at + len(payload)] = payload
            have[at : at + len(payload)] = b"\1" * len(payload)
    assert all(have)
    assert len(stream) == size
    return bytes(stream)


def echo(listener: socket.socket, size: int) -> None:
    """Send back what comes, once all of it has come."""
    with listener.accept()[0] as connection:
        connection.settimeout(END_TIMEOUT_S)
        data = bytearray()
        while len(data) < size:
            data += connection.recv(1 << 20)
        connection.sendall(data)


def exchange(address: tuple[str, int], listener: socket.socket, data: bytes) -> int:
    """Send data over TCP and get it back; return the port it came from."""
    with in_background(echo, listener, len(data)), socket.create_connection(address, END_TIMEOUT_S) as connection:
        port: int = connection.getsockname()[1]
        connection.sendall(data)
        back = bytearray()
        while len(back) < len(data):
            back += connection.recv(1 << 20)
        assert back == data
    return port


@contextlib.contextmanager
def tcp_host(near: str, *link_options: str) -> Generator[tuple[socket.socket, socket.socket], None, None]:
    """Have a host behind an interface, which listens at 198.18.1.2 and fd00:c::2; the interface is .1 and ::1."""
    with contextlib.ExitStack() as stack:
        with other_namespace(near, "far"):
            if link_options:
                ip("link", "set", "dev", "far", *link_options)
            ip("link", "set", "dev", "far", "up")
            ip("address", "add", "198.18.1.2/24", "dev", "far")
            ip("address", "add", "fd00:c::2/64", "dev", "far", "nodad")
            for name in ("tcp_wmem", "tcp_rmem"):
                Path("/proc/sys/net/ipv4", name).write_text(TCP_MEMORY)
            listeners = [
                stack.enter_context(socket.create_server((address, TCP_PORT), family=family))
                for address, family in (("198.18.1.2", socket.AF_INET), ("fd00:c::2", socket.AF_INET6))
            ]
        stack.callback(ip, "link", "delete", "dev", near)
        if link_options:
            ip("link", "set", "dev", near, *link_options)
        ip("link", "set", "dev", near, "up")
        ip("address", "add", "198.18.1.1/24", "dev", near)
        ip("address", "add", "fd00:c::1/64", "dev", near, "nodad")
        yield listeners[0], listeners[1]


def test_segments_that_the_kernel_has_not_cut_yet_are_whole(daemon: Daemon, user_dir: Path) -> None:
    data = random.Random(1).randbytes(1_500_000)
    path = user_dir / "gso.pcapng"
    with (
        tcp_host("near") as (listener, _),
        capturing(daemon, interfaces="near", savefile=path, capture_filter="tcp") as capture,
    ):
        port = exchange(("198.18.1.2", TCP_PORT), listener, data)
        end(capture)
    packets = read_file(path).packets
    assert all(len(packet.data) == packet.original_size_bytes for packet in packets)
    assert max(packet.original_size_bytes for packet in packets) > 60_000
    frames = [packet.data for packet in packets]
    assert tcp_stream(frames, port, len(data)) == data
    assert tcp_stream(frames, TCP_PORT, len(data)) == data
    assert tshark_bytes(path) == frames


@contextlib.contextmanager
def big_tcp_host(near: str, segment_bytes: int) -> Generator[socket.socket, None, None]:
    """Have a host behind an interface to which TCP over IPv6 sends segments beyond 64 KiB; skip if it cannot."""
    with contextlib.ExitStack() as stack:
        try:
            sizes = ("gso_max_size", str(segment_bytes), "gro_max_size", str(segment_bytes))
            _, listener = stack.enter_context(tcp_host(near, *sizes))
        except subprocess.CalledProcessError as error:
            pytest.skip(f"this kernel makes no such segments: {error}")
        for name in ("tcp_wmem", "tcp_rmem"):
            stack.enter_context(kernel_setting(f"net/ipv4/{name}", TCP_MEMORY))
        yield listener


@pytest.mark.parametrize("update_interval", [0.005, 0.1])
@pytest.mark.parametrize("segment_bytes", [190_000, 450_000])
def test_segments_beyond_64_kib_are_whole_up_to_the_snaplen(
    daemon: Daemon, user_dir: Path, segment_bytes: int, update_interval: float
) -> None:
    data = random.Random(1).randbytes(6_000_000)
    path = user_dir / "big.pcapng"
    with (
        big_tcp_host("near", segment_bytes) as listener,
        capturing(
            daemon, interfaces="near", savefile=path, capture_filter="ip6", update_interval=update_interval
        ) as capture,
    ):
        port = exchange(("fd00:c::2", TCP_PORT), listener, data)
        end(capture)
        assert capture.end_reason == "stopped"
        (counters,) = capture.interface_counters
    packets = read_file(path).packets
    assert counters.received_total == counters.written_total == len(packets) == packets_of(path)
    assert max(packet.original_size_bytes for packet in packets) > segment_bytes * 2 // 3
    for packet in packets:
        # A ring's block may have a little less room than the largest snaplen.
        assert min(packet.original_size_bytes, 261_000) <= len(packet.data) <= 262_144
    if segment_bytes < 261_000:
        frames = [packet.data for packet in packets]
        assert tcp_stream(frames, port, len(data)) == data
        assert tcp_stream(frames, TCP_PORT, len(data)) == data


def longest(path: Path) -> int:
    """Return how many bytes the longest packet had of a file that may not be complete."""
    with read(path) as packets:
        return max(packet.original_size_bytes for packet in packets)


def test_segments_for_which_a_small_ring_has_hardly_room_are_written_or_counted(daemon: Daemon, user_dir: Path) -> None:
    path = user_dir / "big.pcapng"
    with (
        big_tcp_host("near", 450_000) as listener,
        capturing(daemon, interfaces="near", savefile=path, capture_filter="ip6", kernel_buffer_size=1) as capture,
    ):
        # How long segments are depends on how fast the other side takes them.
        for _ in range(20):
            exchange(("fd00:c::2", TCP_PORT), listener, random.Random(1).randbytes(6_000_000))
            capture.flush()
            if longest(path) > 262_144:
                break
        end(capture)
        assert capture.end_reason == "stopped"
        (counters,) = capture.interface_counters
    packets = read_file(path).packets
    assert counters.received_total == counters.written_total + counters.kernel_drops_total
    assert counters.written_total == len(packets)
    assert longest(path) > 262_144


# Other kinds of interfaces --------------------------------------------------------------------------------------

_TUNSETIFF = 0x400454CA
_IFF_TUN = 1


@contextlib.contextmanager
def tun(name: str) -> Generator[int, None, None]:
    """Have an interface that has no link-layer header; what is written to the descriptor comes in there.

    Each packet begins with 4 bytes, of which the last 2 are its Ethernet type.
    """
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.ioctl(descriptor, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TUN))
        silence(name)
        ip("link", "set", "dev", name, "up")
        yield descriptor
    finally:
        os.close(descriptor)


@pytest.mark.parametrize("file_format", ["pcapng", "pcap"])
def test_packets_without_a_link_layer_header_are_raw_ip_even_the_empty_one(
    daemon: Daemon, user_dir: Path, file_format: str
) -> None:
    frames = [frame[14:] for frame in build_frames(range(64, 81))]
    frames += [b"", b"\x45", b"", *(bytes(range(0x60, 0x60 + size)) for size in range(1, 20)), b""]
    path = user_dir / "tun"
    with (
        tun("tunnel") as descriptor,
        capturing(daemon, interfaces="tunnel", savefile=path, use_libpcap=file_format == "pcap") as capture,
    ):
        for frame in frames:
            os.write(descriptor, struct.pack("!HH", 0, 0x0800) + frame)
        until_packets(capture, len(frames))
        end(capture)
    if file_format == "pcap":
        contents = read_pcap(path)
        packets, linktype = contents.packets, contents.linktype
    else:
        file = read_file(path)
        packets, linktype = file.packets, file.interfaces[0].linktype
    assert linktype == LINKTYPE_RAW
    assert [packet.data for packet in packets] == frames
    assert [packet.original_size_bytes for packet in packets] == list(map(len, frames))
    assert tshark_lengths(path) == [(len(frame), len(frame)) for frame in frames]
    assert capinfos(path, "-E")["File encapsulation"] == "rawip"


def test_packets_of_the_loopback_interface_are_captured_once(user_dir: Path) -> None:
    payloads = [random.Random(size).randbytes(size) for size in (0, 1, 2, 3, 1000, 65_507)]
    path = user_dir / "loopback.pcapng"
    with private_network_namespace(), running_daemon(user_dir) as daemon:
        ip("link", "set", "dev", "lo", "up")
        with (
            capturing(daemon, interfaces="lo", savefile=path) as capture,
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver,
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
        ):
            receiver.bind(("127.0.0.1", 0))
            for payload in payloads:
                sender.sendto(payload, receiver.getsockname())
            until_packets(capture, len(payloads))
            end(capture)
            assert capture.packetcount == len(payloads)
    contents = read_file(path)
    assert [frame[42:] for frame in contents.frames] == payloads
    assert [packet.original_size_bytes for packet in contents.packets] == [42 + len(payload) for payload in payloads]
    assert contents.interfaces[0].linktype == LINKTYPE_ETHERNET
    assert tshark_fields(path, "udp.length") == [(str(8 + len(payload)),) for payload in payloads]


# Times, and what others capture at the same time ----------------------------------------------------------------


@pytest.mark.parametrize("file_format", ["pcapng", "pcap"])
def test_timestamps_are_the_wall_clocks_in_nanoseconds_and_in_order(
    daemon: Daemon, veth: tuple[str, str], user_dir: Path, file_format: str
) -> None:
    frames = mixed_frames(200)
    path = user_dir / "times"
    before_ns = time.time_ns()
    packets = sent_and_captured(
        daemon, veth, frames, CaptureArguments(savefile=path, use_libpcap=file_format == "pcap")
    )
    after_ns = time.time_ns()
    times_ns = [packet.timestamp_ns for packet in packets]
    assert times_ns == sorted(times_ns)
    assert before_ns < times_ns[0]
    assert times_ns[-1] < after_ns
    assert any(time_ns % 1000 for time_ns in times_ns)
    assert capinfos(path)["File timestamp precision"] == "nanoseconds (9)"
    assert capinfos(path, "-o")["Strict time order"] == "True"
    assert [int(row[0].replace(".", "")) for row in tshark_fields(path, "frame.time_epoch")] == times_ns


def test_each_packet_is_stamped_when_it_came(daemon: Daemon, veth: tuple[str, str], user_dir: Path) -> None:
    path = user_dir / "each.pcapng"
    windows_ns: list[tuple[int, int]] = []
    with capturing(daemon, interfaces=veth[1], savefile=path, update_interval=0.02) as capture:
        for number in range(5):
            before_ns = time.time_ns()
            send(veth[0], [local_frame(60, number)], 1)
            until_packets(capture, 1)
            windows_ns.append((before_ns, time.time_ns()))
        end(capture)
    for (before_ns, after_ns), time_ns in zip(windows_ns, read_file(path).timestamps_ns, strict=True):
        assert before_ns < time_ns < after_ns


def test_tcpdump_and_dumpcap_capture_the_same(daemon: Daemon, veth: tuple[str, str], user_dir: Path) -> None:
    frames = [
        tagged(frame, (CTAG, 0x2005)) if number % 5 == 0 else frame for number, frame in enumerate(mixed_frames(400))
    ]
    ours, tcpdumps, dumpcaps = user_dir / "ours.pcapng", user_dir / "tcpdump.pcap", user_dir / "dumpcap.pcapng"
    with (
        capturing(daemon, interfaces=veth[1], savefile=ours) as capture,
        tcpdump(veth[1], tcpdumps, len(frames)),
        dumpcap(veth[1], dumpcaps, "-c", str(len(frames))),
    ):
        assert send(veth[0], frames, len(frames), 2000) == len(frames)
        until_packets(capture, len(frames))
        end(capture)
    own = read_file(ours).packets
    assert [packet.data for packet in own] == frames
    for others in (read_pcap(tcpdumps).packets, read_dumpcap(dumpcaps)):
        assert [(one.data, one.original_size_bytes) for one in others] == [
            (one.data, one.original_size_bytes) for one in own
        ]
        apart_ns = [abs(one.timestamp_ns - other.timestamp_ns) for one, other in zip(own, others, strict=True)]
        assert max(apart_ns) <= 1_000_000


def read_dumpcap(path: Path) -> list[Packet]:
    rows = tshark_fields(path, "frame.time_epoch", "frame.len")
    packets: list[Any] = tshark_packets(path)
    return [
        Packet(0, int(seconds.replace(".", "")), int(original), bytes.fromhex(one["_source"]["layers"]["frame_raw"][0]))
        for (seconds, original), one in zip(rows, packets, strict=True)
    ]
