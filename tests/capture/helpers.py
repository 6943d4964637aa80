"""What the tests of captures share: sessions, frames, files read back, other people's capture programs."""

import contextlib
import ctypes
import errno
import os
import platform
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Unpack

from capd_client import CaptureSession
from capd_client.errors import CaptureError, NoEvents
from capd_client.request.options import CaptureArguments
from capd_protocol.formats import pcapng
from tests.support.daemon import Daemon
from tests.support.namespace import private_network_namespace

START_TIMEOUT_S = 20.0
END_TIMEOUT_S = 30.0
EVENT_TIMEOUT_S = 20.0

Event = tuple[int, Any]

# Sessions -------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def capturing(daemon: Daemon, **arguments: Unpack[CaptureArguments]) -> Generator[CaptureSession, None, None]:
    """A capture that runs; it ends with the context."""
    with CaptureSession(socket_path=daemon.socket_path, **arguments) as capture:
        capture.wait_started(START_TIMEOUT_S)
        yield capture


def end(capture: CaptureSession) -> None:
    """Stop a capture and wait until its files are complete."""
    capture.stop()
    capture.wait(END_TIMEOUT_S)


def until_packets(capture: CaptureSession, packets: int) -> list[Event]:
    """Take events until so many packets are announced since the beginning; return them."""
    events: list[Event] = []
    seen = 0
    deadline_s = time.monotonic() + EVENT_TIMEOUT_S
    while seen < packets:
        event = capture.wait_for_event(timeout=max(0, deadline_s - time.monotonic()))
        events.append(event)
        if event[0] == capture.SP_PACKET_COUNT:
            seen += event[1]
    return events


def until_received(capture: CaptureSession, packets: int) -> None:
    """Take events until so many packets were received since the beginning, dropped ones among them."""
    deadline_s = time.monotonic() + EVENT_TIMEOUT_S
    while sum(one.written_total + one.drops_total for one in capture.interface_counters) < packets:
        assert time.monotonic() < deadline_s
        with contextlib.suppress(NoEvents):
            capture.wait_for_event(timeout=0.05)  # counters are no event


def until(capture: CaptureSession, event_type: int) -> Any:
    """Take events until one of this type comes; return its message."""
    deadline_s = time.monotonic() + EVENT_TIMEOUT_S
    while True:
        found, message = capture.wait_for_event(timeout=max(0, deadline_s - time.monotonic()))
        if found == event_type:
            return message


def all_events(capture: CaptureSession) -> tuple[list[Event], CaptureError]:
    """Take the events that are left until the capture has ended; return them and what is raised then."""
    events: list[Event] = []
    deadline_s = time.monotonic() + END_TIMEOUT_S
    while True:
        try:
            events.append(capture.wait_for_event(timeout=max(0, deadline_s - time.monotonic())))
        except CaptureError as error:
            return events, error


def messages(events: Sequence[Event], event_type: int) -> list[Any]:
    """Return the messages of the events of one type."""
    return [message for found, message in events if found == event_type]


# Frames ---------------------------------------------------------------------------------------------------------

_ADDRESSES = bytes.fromhex("020000000002 0200")
#: For experiments on one network (IEEE 802): nobody dissects what is inside.
ETHERTYPE_LOCAL = 0x88B5


def local_frame(size: int, number: int = 0, mark: int = 0) -> bytes:
    """An Ethernet frame that no other one equals: its source address holds a mark and a number."""
    header = _ADDRESSES + struct.pack("!BBHH", mark, number >> 16, number & 0xFFFF, ETHERTYPE_LOCAL)
    # 251 is a prime: neither frames nor blocks repeat at the same place.
    body = bytes((number + at) % 251 for at in range(min(size - 14, 251)))
    return header + (body * (size // 251 + 1))[: size - 14]


def tagged(frame: bytes, *tags: tuple[int, int]) -> bytes:
    """The frame with VLAN tags (protocol identifier, control information), the outer one first."""
    return frame[:12] + b"".join(struct.pack("!HH", *tag) for tag in tags) + frame[12:]


def ip(*arguments: str) -> None:
    """Run the ``ip`` program."""
    subprocess.run(["ip", *arguments], check=True, timeout=10)


def silence(interface: str) -> None:
    """Keep a new interface from sending anything of its own accord."""
    ip("link", "set", "dev", interface, "addrgenmode", "none")
    switch = Path("/proc/sys/net/ipv6/conf", interface, "disable_ipv6")
    if switch.exists():
        switch.write_text("1")


@contextlib.contextmanager
def kernel_setting(name: str, value: str) -> Generator[None, None, None]:
    """Have a setting below /proc/sys, of this network namespace, while the context lasts."""
    path = Path("/proc/sys", name)
    before = path.read_text()
    path.write_text(value)
    try:
        yield
    finally:
        path.write_text(before)


def send_queued(interface: str, frames: Sequence[bytes]) -> None:
    """Send frames the way of all of the machine's packets; ``tests.support.traffic`` takes a short cut."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as sender:
        for frame in frames:
            assert sender.sendto(frame, (interface, 0)) == len(frame)


@contextlib.contextmanager
def in_background(function: Any, *arguments: Any) -> Generator[None, None, None]:
    """Run a function in a thread while the context lasts, and until it ends; what it raises is raised here.

    The thread is in the network namespace of the caller.
    """
    raised: list[BaseException] = []

    def run() -> None:
        try:
            function(*arguments)
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        thread.join(END_TIMEOUT_S)
    assert not thread.is_alive()
    if raised:
        raise raised[0]


_BPF_PROG_LOAD, _BPF_LINK_CREATE = 5, 28
_BPF_PROG_TYPE_SCHED_CLS = 3
_BPF_TCX_EGRESS = 47
_BPF_SKB_VLAN_PUSH = 18
_SYS_BPF = {"x86_64": 321, "aarch64": 280, "riscv64": 280}

_libc = ctypes.CDLL(None, use_errno=True)


def _bpf(command: int, attributes: bytes) -> int:
    number = _SYS_BPF.get(platform.machine())
    if number is None:
        raise OSError(errno.ENOSYS, "no number for bpf(2) on this machine")
    result: int = _libc.syscall(number, command, attributes, len(attributes))
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


@contextlib.contextmanager
def tagging(interface: str, *tags: tuple[int, int]) -> Generator[None, None, None]:
    """Have the kernel tag what an interface sends while the context lasts, the outer tag first.

    The outer tag is set aside, as it is by VLAN interfaces and by hardware; the inner ones are in the frame.

    Raises:
        OSError: this kernel cannot (before Linux 6.6, or without NET_CLS_ACT).
    """
    # An array of struct bpf_insn (linux/bpf.h): what to do, registers, offset, number.
    code = [(0xBF, 0x16, 0)]  # r6 = r1, the packet
    for protocol, control in reversed(tags):
        code += [(0xBF, 0x61, 0), (0xB7, 2, socket.htons(protocol)), (0xB7, 3, control)]
        code += [(0x85, 0, _BPF_SKB_VLAN_PUSH)]
    code += [(0xB7, 0, 0), (0x95, 0, 0)]  # return TCX_PASS
    program = b"".join(struct.pack("=BBhi", operation, registers, 0, number) for operation, registers, number in code)
    instructions, licence = ctypes.create_string_buffer(program), ctypes.create_string_buffer(b"Apache-2.0")
    addresses = ctypes.addressof(instructions), ctypes.addressof(licence)
    load = struct.pack("=IIQQ", _BPF_PROG_TYPE_SCHED_CLS, len(code), *addresses)
    with contextlib.ExitStack() as stack:
        program_fd = _bpf(_BPF_PROG_LOAD, load)
        stack.callback(os.close, program_fd)
        index = socket.if_nametoindex(interface)
        link = struct.pack("=IIII", program_fd, index, _BPF_TCX_EGRESS, 0)
        stack.callback(os.close, _bpf(_BPF_LINK_CREATE, link))
        yield


# Files ----------------------------------------------------------------------------------------------------------


class Packet(NamedTuple):
    """A packet as a file holds it."""

    interface_id: int
    timestamp_ns: int
    original_size_bytes: int
    data: bytes


@dataclass
class Contents:
    """What is in a pcapng file."""

    section: pcapng.SectionHeader
    interfaces: list[pcapng.InterfaceDescription] = field(default_factory=list)
    packets: list[Packet] = field(default_factory=list)
    statistics: list[pcapng.InterfaceStatistics] = field(default_factory=list)
    #: Of everything before the statistics.
    size_bytes: int = 0

    @property
    def frames(self) -> list[bytes]:
        """The bytes of each packet."""
        return [packet.data for packet in self.packets]

    @property
    def timestamps_ns(self) -> list[int]:
        """When each packet came."""
        return [packet.timestamp_ns for packet in self.packets]

    def counts(self, interface_id: int) -> tuple[int, int, int]:
        """Received, dropped and delivered packets, as an interface's statistics say."""
        (statistics,) = (one for one in self.statistics if one.interface_id == interface_id)
        options = {code: int.from_bytes(value, "little") for code, value in statistics.options}
        assert pcapng.ISB_OSDROP not in options  # whoever adds them up counts them once
        return options[pcapng.ISB_IFRECV], options[pcapng.ISB_IFDROP], options[pcapng.ISB_USRDELIV]


def text_option(options: Sequence[pcapng.Option], code: int) -> str | None:
    """Return the text of an option that may be there once."""
    values = [value for found, value in options if found == code]
    assert len(values) <= 1
    return values[0].decode() if values else None


def read_file(path: Path | str) -> Contents:
    """Read a file that is complete: one section, all interfaces, packets, statistics of each interface, no more."""
    data = Path(path).read_bytes()
    blocks = pcapng.read_blocks(data)
    section = next(blocks)
    assert isinstance(section, pcapng.SectionHeader)
    contents = Contents(section)
    for block in blocks:
        match block:
            case pcapng.InterfaceDescription():
                assert not contents.packets
                assert not contents.statistics
                contents.interfaces.append(block)
            case pcapng.EnhancedPacket():
                assert not contents.statistics
                assert block.interface_id < len(contents.interfaces)
                contents.packets.append(_packet(block))
            case pcapng.InterfaceStatistics():
                contents.statistics.append(block)
                (length,) = struct.unpack_from("=I", data, len(data) - 4)
                contents.size_bytes = len(data) - length * len(contents.statistics)
            case _:
                raise AssertionError(f"{path} has a {type(block).__name__}")
    assert [one.interface_id for one in contents.statistics] == list(range(len(contents.interfaces)))
    # Byte for byte, padding too, the packets are what the format's plain encoder makes of them.
    encoded = b"".join(
        pcapng.enhanced_packet(one.interface_id, one.timestamp_ns, one.data, one.original_size_bytes)
        for one in contents.packets
    )
    assert encoded in data
    return contents


def _packet(block: pcapng.EnhancedPacket) -> Packet:
    return Packet(block.interface_id, block.timestamp, block.original_size_bytes, bytes(block.data))


def last_record_size_bytes(packet: Packet) -> int:
    """Return how many bytes a packet takes in its file."""
    return 32 + len(packet.data) + -len(packet.data) % 4


def tshark_options(path: Path, *names: str) -> list[list[str]]:
    """Return what tshark finds in the blocks of a file itself: for each name of an option, its texts in order."""
    fields = [part for name in names for part in ("-e", f"pcapng.options.option.data.{name}")]
    command: list[str | Path] = [
        "tshark",
        "-n",
        "-r",
        path,
        "-X",
        "read_format:MIME Files Format",
        "-T",
        "fields",
        *fields,
    ]
    found = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    return [column.split(",") if column else [] for column in found.rstrip("\n").split("\t")]


def readable_packets(path: Path | str) -> int:
    """Return how many packets can be read from a file that is being written."""
    packets = 0
    with contextlib.suppress(pcapng.MalformedFileError):
        for block in pcapng.read_blocks(Path(path).read_bytes()):
            packets += isinstance(block, pcapng.EnhancedPacket)
    return packets


@dataclass
class Pcap:
    """What is in a pcap file."""

    snaplen_bytes: int
    linktype: int
    packets: list[Packet]


def read_pcap(path: Path | str) -> Pcap:
    """Read a pcap file with nanoseconds."""
    data = Path(path).read_bytes()
    magic, major, minor, zone, accuracy, snaplen, linktype = struct.unpack_from("=IHHiIII", data)
    assert (magic, major, minor, zone, accuracy) == (pcapng.PCAP_NANOSECOND_MAGIC, 2, 4, 0, 0)
    packets: list[Packet] = []
    at = 24
    while at < len(data):
        seconds, nanoseconds, captured, original = struct.unpack_from("=IIII", data, at)
        at += 16 + captured
        assert at <= len(data)
        packets.append(Packet(0, seconds * 10**9 + nanoseconds, original, data[at - captured : at]))
    return Pcap(snaplen, linktype, packets)


# Other people's capture programs --------------------------------------------------------------------------------


@contextlib.contextmanager
def also_capturing(*command: str | Path, ready: str) -> Generator[None, None, None]:
    """Have another program capture, from when its stderr says a word until it ends by itself."""
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process:
        assert process.stderr is not None
        printed = ""
        try:
            while ready not in printed:
                line = process.stderr.readline()
                assert line, printed
                printed += line
            yield
            printed += process.communicate(timeout=END_TIMEOUT_S)[1]
            assert process.returncode == 0, printed
        finally:
            if process.poll() is None:
                process.kill()


@contextlib.contextmanager
def tcpdump(interface: str, path: Path, packets: int) -> Generator[None, None, None]:
    """Have tcpdump capture so many packets meanwhile."""
    options: list[str | Path] = [
        "-i",
        interface,
        "-w",
        path,
        "-c",
        str(packets),
        "--nano",
        "--immediate-mode",
        "-Z",
        "root",
    ]
    with also_capturing("tcpdump", *options, ready="listening on"):
        yield


@contextlib.contextmanager
def dumpcap(interface: str, path: Path, *options: str) -> Generator[None, None, None]:
    """Have dumpcap capture meanwhile, with options that end it."""
    with also_capturing("dumpcap", "-i", interface, "-w", path, "-q", *options, ready="File: "):
        yield


# Another host ---------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def other_namespace(near: str, far: str) -> Generator[None, None, None]:
    """Be in another namespace, whose interface ``far`` is connected to ``near`` in the namespace before.

    Both are still down. Sockets made in the context stay connected to it; leave them open only as long as needed.
    """
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        with private_network_namespace():
            here = f"/proc/{os.getpid()}/fd/{before}"
            ip("link", "add", "name", far, "type", "veth", "peer", "name", near, "netns", here)
            yield
    finally:
        os.close(before)
