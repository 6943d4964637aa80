"""Sends frames from memory through an AF_PACKET socket, fast or at an even rate.

For interfaces in a test's private namespace only. Also a program; ``--help`` says how to run it.

What counts as sent is what the kernel took: the socket bypasses the queueing discipline, which
would hide a drop behind a success, and a frame the kernel refuses because the peer's queue is full
is offered again. On a veth pair the number is therefore that by which both the sender's tx and the
peer's rx ``packets`` grow. A refused frame adds only to ``dropped`` counters.
"""

import argparse
import ctypes
import errno
import json
import math
import os
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

MAX_COUNT: Final = 10_000_000
"""The most frames one call sends."""

MAX_SECONDS: Final = 60.0
"""How long one call sends for by default."""

_SOL_PACKET: Final = 263
_PACKET_QDISC_BYPASS: Final = 20

_MAX_BURST: Final = 1024  # UIO_MAXIOV: sendmmsg takes no more at once.
_TICK_SECONDS: Final = 0.0005
_STUCK_SECONDS: Final = 1.0
_BACK_OFF_SECONDS: Final = 0.00005


class _IoVec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


class _MsgHdr(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_void_p),
        ("name_length", ctypes.c_uint32),
        ("iov", ctypes.c_void_p),
        ("iov_count", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("control_length", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    )


class _MMsgHdr(ctypes.Structure):
    _fields_ = (("header", _MsgHdr), ("length", ctypes.c_uint))


_sendmmsg: Final = ctypes.CDLL(None, use_errno=True).sendmmsg
_sendmmsg.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int)
_sendmmsg.restype = ctypes.c_int


@dataclass(frozen=True, slots=True)
class Report:
    """What came of one transmission.

    Attributes:
        sent: Frames the kernel took.
        bytes: Bytes in those frames, Ethernet headers included.
        seconds: How long sending took, without the preparations.
        refused: How often the kernel took no frame: a queue was full or the peer was down.
        complete: Whether all the frames asked for were sent. False: the time was up.
    """

    sent: int
    bytes: int
    seconds: float
    refused: int
    complete: bool


def sequence_offset(vlan: int | None = None) -> int:
    """Return where in a frame of `build_frames` its 8-byte sequence number begins."""
    return 42 if vlan is None else 46


def build_frames(
    sizes: Sequence[int] = (64,), ratio: Sequence[int] | None = None, vlan: int | None = None
) -> list[bytes]:
    """Return one cycle of UDP datagrams over IPv4 over Ethernet, of mixed sizes.

    The payload begins with a 64-bit big-endian sequence number, here the frame's place in the
    cycle. Bytes 0, 1, 2, ... 255, 0, ... follow it. The IP header's checksum is right; the UDP
    checksum is 0, which means none, so that other sequence numbers can be written into the frame.
    Addresses are 198.18.0.1 (port 50000) to 198.18.0.2 (port 50001), for benchmarks, and
    02:00:00:00:00:01 to 02:00:00:00:00:02, which no interface has.

    Args:
        sizes: Bytes in each kind of frame, from the Ethernet header on, without the frame check
            sequence.
        ratio: How many frames of each size make a cycle. They are spread evenly over it. Default:
            one of each.
        vlan: The VLAN in an 802.1Q tag in each frame; the tag counts in the frame's size.

    Raises:
        ValueError: a size is too small to hold the headers and the sequence number or too large
            for IPv4, or the sizes and the ratio do not match.
    """
    ratio = [1] * len(sizes) if ratio is None else ratio
    if not sizes or len(ratio) != len(sizes) or min(ratio) < 1:
        raise ValueError(f"sizes {list(sizes)} and ratio {list(ratio)} do not match")
    if vlan is not None and not 0 <= vlan <= 4095:
        raise ValueError(f"no VLAN: {vlan}")
    headers = sequence_offset(vlan)
    for size in sizes:
        if not headers + 8 <= size <= headers - 28 + 65535:
            raise ValueError(f"no frame of this kind has {size} bytes")
    cycle = sum(ratio)
    # Each size claims its share of every place; the one that is owed most gets the place.
    owed = [0] * len(sizes)
    frames: list[bytes] = []
    for place in range(cycle):
        owed = [due + share for due, share in zip(owed, ratio, strict=True)]
        chosen = owed.index(max(owed))
        owed[chosen] -= cycle
        frames.append(_udp_frame(sizes[chosen], place, vlan))
    return frames


def with_sequence(frame: bytes, sequence: int, offset: int) -> bytes:
    """Return the frame with this sequence number at this offset."""
    return frame[:offset] + sequence.to_bytes(8, "big") + frame[offset + 8 :]


def send(
    interface: str,
    frames: Sequence[bytes],
    count: int,
    rate_pps: float | None = None,
    *,
    sequence_at: int | None = None,
    max_seconds: float = MAX_SECONDS,
) -> int:
    """Send frames on an interface, over and over in their order.

    As `transmit`, which says more.

    Returns:
        How many frames the kernel took: fewer than ``count`` only if ``max_seconds`` were over.
    """
    return transmit(interface, frames, count, rate_pps, sequence_at=sequence_at, max_seconds=max_seconds).sent


def transmit(
    interface: str,
    frames: Sequence[bytes],
    count: int,
    rate_pps: float | None = None,
    *,
    sequence_at: int | None = None,
    max_seconds: float = MAX_SECONDS,
    until: Callable[[int, float], bool] | None = None,
) -> Report:
    """Send frames on an interface, over and over in their order, and tell how it went.

    Args:
        interface: A virtual interface that is up.
        frames: Whole Ethernet frames, without frame check sequence.
        count: How many to send, at most `MAX_COUNT`.
        rate_pps: Frames a second. They are sent in bursts of at most a millisecond's worth, two
            thousand times a second at most; after a delay it catches up at no more than twice the
            rate. Default: as fast as the kernel takes them.
        sequence_at: Write the number of frames sent before it (64 bits, big-endian) into each
            frame at this offset, so that no two are the same. Default: send the frames unchanged.
        max_seconds: Stop after this long.
        until: Asked after each burst whether to stop; gets how many frames were sent so far, and when the last of
            them was (`time.monotonic`). With it, there may be any number. Default: never.

    Raises:
        ValueError: an argument is out of range, or the interface is not virtual or leads out of
            the machine.
        OSError: the interface is down (ENETDOWN) or not there, a frame is larger than its MTU
            (EMSGSIZE), the process may not open packet sockets, or the kernel took nothing for a
            second (ENOBUFS, such as when the veth's peer is down). The message says how many
            frames were sent before.
    """
    if count < 0 or (count > MAX_COUNT and until is None):
        raise ValueError(f"{count} frames: not within 0 to {MAX_COUNT}")
    if not frames:
        raise ValueError("no frames")
    if rate_pps is not None and rate_pps <= 0:
        raise ValueError(f"no rate: {rate_pps}")
    if sequence_at is not None and not 0 <= sequence_at <= min(map(len, frames)) - 8:
        raise ValueError(f"no room for a sequence number at {sequence_at} in the shortest frame")
    _refuse_real(interface)
    ring = _Ring(frames, count, sequence_at)
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as packet_socket:
        packet_socket.bind((interface, 0))
        packet_socket.setsockopt(_SOL_PACKET, _PACKET_QDISC_BYPASS, 1)
        packet_socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("@ll", int(_STUCK_SECONDS), 0))
        return _run(packet_socket.fileno(), ring, count, rate_pps, max_seconds, until=until)


class _Ring:
    """Message headers for sendmmsg that point at the frames, prepared once."""

    def __init__(self, frames: Sequence[bytes], count: int, sequence_at: int | None) -> None:
        self._frame_lengths = [len(frame) for frame in frames]
        # Full bursts need that many slots even when there are few frames.
        self.slots = len(frames) * math.ceil(max(1, min(count, _MAX_BURST)) / len(frames))
        self._stamped = sequence_at is not None
        self._data = ctypes.create_string_buffer(b"".join(frames), sum(self._frame_lengths))
        self._sequences = ctypes.create_string_buffer(8 * self.slots)
        parts = 1 if sequence_at is None else 3
        self._parts = (_IoVec * (parts * self.slots))()
        self._messages = (_MMsgHdr * self.slots)()
        self._first = ctypes.addressof(self._messages)
        starts: list[int] = []
        start = ctypes.addressof(self._data)
        for length in self._frame_lengths:
            starts.append(start)
            start += length
        parts_at = ctypes.addressof(self._parts)
        sequences_at = ctypes.addressof(self._sequences)
        for slot in range(self.slots):
            start = starts[slot % len(frames)]
            length = self._frame_lengths[slot % len(frames)]
            if sequence_at is None:
                pieces = [(start, length)]
            else:
                # The kernel gathers the number from an array of its own, where a burst's numbers
                # are written at once; rewriting each frame would cost more than sending it.
                behind = sequence_at + 8
                pieces = [
                    (start, sequence_at),
                    (sequences_at + 8 * slot, 8),
                    (start + behind, length - behind),
                ]
            for part, piece in enumerate(pieces, parts * slot):
                self._parts[part] = _IoVec(*piece)
            header = self._messages[slot].header
            header.iov = parts_at + parts * slot * ctypes.sizeof(_IoVec)
            header.iov_count = parts

    def offer(self, fileno: int, sent: int, burst: int) -> int:
        """Offer the kernel up to ``burst`` frames, with numbers from ``sent`` on.

        Returns:
            How many it took; 0 if a queue was full or a signal came first.

        Raises:
            OSError: it will not take the next frame at all.
        """
        slot = sent % self.slots
        burst = min(burst, _MAX_BURST, self.slots - slot)
        if self._stamped:
            struct.pack_into(f">{burst}Q", self._sequences, 8 * slot, *range(sent, sent + burst))
        taken = int(_sendmmsg(fileno, self._first + slot * ctypes.sizeof(_MMsgHdr), burst, 0))
        if taken >= 0:
            return taken
        error = ctypes.get_errno()
        if error in {errno.ENOBUFS, errno.EAGAIN, errno.EINTR}:
            return 0
        raise OSError(error, f"{os.strerror(error)} ({sent} frames sent)")

    def bytes_in(self, sent: int) -> int:
        """Return how many bytes the first ``sent`` frames hold."""
        cycles, rest = divmod(sent, len(self._frame_lengths))
        return cycles * sum(self._frame_lengths) + sum(self._frame_lengths[:rest])


def _run(
    fileno: int,
    ring: _Ring,
    count: int,
    rate_pps: float | None,
    max_seconds: float,
    *,
    until: Callable[[int, float], bool] | None,
) -> Report:
    sent = 0
    refused = 0
    start = now = progress = time.monotonic()
    end = start + max_seconds
    most = _MAX_BURST if rate_pps is None else math.ceil(rate_pps / 1000)
    while sent < count and now < end:
        tick = now
        goal = min(count, sent + most)
        if rate_pps is not None:
            goal = min(goal, 1 + int((now - start) * rate_pps))
        while sent < goal and now < end:
            taken = ring.offer(fileno, sent, goal - sent)
            now = time.monotonic()
            if taken > 0:
                sent += taken
                progress = now
                continue
            refused += 1
            if now - progress > _STUCK_SECONDS:
                raise OSError(errno.ENOBUFS, f"the kernel takes no more frames ({sent} frames sent)")
            time.sleep(_BACK_OFF_SECONDS)
        if until is not None and until(sent, now):
            break
        if rate_pps is not None and sent < count:
            # Half the time a full burst stands for: that leaves room to catch up in.
            wake = max(tick + most / rate_pps / 2, start + sent / rate_pps)
            time.sleep(max(0.0, min(wake, end) - time.monotonic()))
            # Time in which nothing was due does not count as being stuck.
            now = progress = time.monotonic()
    return Report(sent, ring.bytes_in(sent), now - start, refused, sent == count)


def _udp_frame(size: int, place: int, vlan: int | None) -> bytes:
    ethernet = bytes.fromhex("020000000002 020000000001")
    if vlan is not None:
        ethernet += struct.pack("!HH", 0x8100, vlan)
    ethernet += struct.pack("!H", 0x0800)
    addresses = bytes((198, 18, 0, 1, 198, 18, 0, 2))
    length = size - len(ethernet)
    fixed = struct.pack("!BBHHHBB", 0x45, 0, length, place & 0xFFFF, 0x4000, 64, 17)
    total = sum(struct.unpack("!9H", fixed + addresses))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    ip = fixed + struct.pack("!H", total ^ 0xFFFF) + addresses
    udp = struct.pack("!HHHH", 50000, 50001, length - 20, 0)
    fill = bytes(range(256)) * (length // 256 + 1)
    return ethernet + ip + udp + struct.pack("!Q", place) + fill[: length - 36]


def _refuse_real(interface: str) -> None:
    socket.if_nametoindex(interface)
    shown = subprocess.run(
        ["ip", "-d", "-j", "link", "show", "dev", interface],
        capture_output=True,
        check=True,
        timeout=10,
    )
    details: dict[str, Any] = json.loads(shown.stdout)[0]
    if "info_kind" not in details.get("linkinfo", {}):
        raise ValueError(f"{interface} is not a virtual interface: nothing may be sent there")
    # In a container even a veth leads out.
    for line in Path("/proc/thread-self/net/route").read_text().splitlines()[1:]:
        name, destination, *_ = line.split()
        if name == interface and destination == "00000000":
            raise ValueError(f"{interface} has a default route: nothing may be sent there")


def _numbers(separator: str, text: str) -> list[int]:
    return [int(number) for number in text.split(separator)]


def _main() -> int:
    parser = argparse.ArgumentParser(description="Sends UDP frames with sequence numbers on a virtual interface.")
    parser.add_argument("--interface", required=True)
    parser.add_argument("--count", type=int, required=True, help=f"frames, at most {MAX_COUNT}")
    parser.add_argument("--sizes", default="64", help="bytes in each kind of frame: 64,576,1500")
    parser.add_argument("--ratio", help="frames of each size in a cycle: 7:4:1 (default: one)")
    parser.add_argument("--rate", type=float, default=0, help="frames a second; 0: full speed")
    parser.add_argument("--cpu", type=int, help="run on this CPU only")
    parser.add_argument("--vlan", type=int, help="put an 802.1Q tag with this VLAN in each frame")
    parser.add_argument("--max-seconds", type=float, default=MAX_SECONDS)
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    arguments = parser.parse_args()
    try:
        if arguments.cpu is not None:
            os.sched_setaffinity(0, {arguments.cpu})
        report = transmit(
            arguments.interface,
            build_frames(
                _numbers(",", arguments.sizes),
                None if arguments.ratio is None else _numbers(":", arguments.ratio),
                arguments.vlan,
            ),
            arguments.count,
            arguments.rate or None,
            sequence_at=sequence_offset(arguments.vlan),
            max_seconds=arguments.max_seconds,
        )
    except ValueError as error:
        parser.error(str(error))
    except OSError as error:
        sys.stderr.write(f"{arguments.interface}: {error}\n")
        return 1
    pps = report.sent / report.seconds if report.seconds else 0.0
    if arguments.json:
        sys.stdout.write(json.dumps({**asdict(report), "pps": pps}) + "\n")
    else:
        sys.stdout.write(f"{report.sent} frames in {report.seconds:.3f} s ({pps:,.0f} a second)\n")
    return 0


if __name__ == "__main__":
    sys.exit(_main())
