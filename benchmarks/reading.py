"""What reading capture files costs: ``capd_client.read`` beside programs that only go through a file."""

import shutil
import struct
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dpkt as untyped_dpkt
import numpy as np

from benchmarks.cases import IMIX, Place, Reading, WrongCountError, new_directory
from capd_client import read
from capd_protocol.formats import pcapng

#: It has no types.
dpkt: Any = untyped_dpkt

#: In this order over and over, in a file: enough that no reader can know what comes next.
_PATTERN = 12_000
_TIME_NS = 1_700_000_000_123_456_789
#: Packets of a file for those that do millions in a second, hundreds of thousands, and fewer.
_MANY, _SOME, _FEW = 3_000_000, 300_000, 24_000
_TIMEOUT_S = 120


@dataclass(frozen=True)
class FileReader:
    """Something that reads a file.

    Attributes:
        name: for the tables.
        packets: of its file.
        read: goes through a file, and returns how many packets it found; None: it does not count them.
        program: without it this one is not measured; None: it is a library, and always there.
        write: makes the file of so many packets; None: packets of the IMIX, of one interface.
    """

    name: str
    packets: int
    read: Callable[[Path], int | None]
    program: str | None = None
    write: Callable[[Path, int], None] | None = None

    def is_installed(self) -> bool:
        """Whether it can be measured here."""
        return self.program is None or shutil.which(self.program) is not None


def _in_batches(path: Path) -> int:
    packets = 0
    with read(path) as reader:
        for batch in reader.batches():
            packets += len(batch.timestamps_ns)
    return packets


def _filtered(path: Path) -> int:
    with read(path) as reader:
        return sum(len(batch.timestamps_ns) for batch in reader.batches(_FILTER))


def _columns(path: Path) -> int:
    with read(path) as reader:
        return sum(len(columns) for columns in reader.columns(*_FIELDS))


def _one_by_one(path: Path) -> int:
    packets = 0
    with read(path) as reader:
        for _ in reader:
            packets += 1
    return packets


def _with_dpkt(path: Path) -> int:
    packets = 0
    with path.open("rb") as file:
        for _ in dpkt.pcapng.Reader(file):
            packets += 1
    return packets


def _with(*command: str) -> Callable[[Path], None]:
    def run(path: Path) -> None:
        words = [str(path) if word == "FILE" else word for word in command]
        subprocess.run(words, check=True, timeout=_TIMEOUT_S, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    return run


def write_file(path: Path, packets: int, begin: bytes | Callable[[np.random.Generator], bytes] = b"") -> None:
    """Write packets of the IMIX in random order, with random bytes behind what all begin with, or each by itself."""
    random = np.random.default_rng(1)
    sizes, shares = IMIX
    contents = random.bytes(1 << 20)
    blocks: list[bytes] = []
    for number, size in enumerate(random.permutation(np.resize(np.repeat(sizes, shares), _PATTERN)).tolist()):
        at = number * 7919 % (len(contents) - size)
        head = begin(random)[:size] if callable(begin) else begin
        packet = head + contents[at + len(head) : at + size]
        blocks.append(pcapng.enhanced_packet(0, _TIME_NS + number * 1000, packet, size))
    with path.open("wb") as file:
        file.write(pcapng.section_header())
        file.write(pcapng.interface_description(linktype=1, snaplen_bytes=0, name="eth0"))
        whole = b"".join(blocks)
        for _ in range(packets // _PATTERN):
            file.write(whole)
        file.write(b"".join(blocks[: packets % _PATTERN]))


def _dissectable(random: np.random.Generator) -> bytes:
    """Return what a packet begins with: Ethernet, in a third of them a VLAN, IPv4 or in a third IPv6, TCP or UDP."""
    head = bytes(12)
    if random.random() < 1 / 3:
        head += struct.pack(">HH", 0x8100, random.integers(1, 4095))
    addresses, ports = random.bytes(8), random.bytes(4)
    is_tcp = random.random() < 0.6
    upper = ports + (random.bytes(8) + b"\x50\x10" + random.bytes(6) if is_tcp else struct.pack(">HH", 26, 0))
    if random.random() < 1 / 3:
        ip = struct.pack(">IHBB", 6 << 28, 26, 6 if is_tcp else 17, 64) + random.bytes(32)
        return head + b"\x86\xdd" + ip + upper
    ip = struct.pack(">BBHHHBBH", 0x45, 0, 46, 1, 0, 64, 6 if is_tcp else 17, 0) + addresses
    return head + b"\x08\x00" + ip + upper


def _write_dissectable(path: Path, packets: int) -> None:
    write_file(path, packets, _dissectable)


def _write_to_port_53(path: Path, packets: int) -> None:
    write_file(path, packets, _TO_PORT_53)


def _interface(number: int) -> bytes:
    return pcapng.interface_description(linktype=1, snaplen_bytes=0, name=f"eth{number}")


def _packet(number: int, interface_id: int) -> bytes:
    return pcapng.enhanced_packet(interface_id, _TIME_NS + number * 1000, bytes(_SMALL_BYTES), _SMALL_BYTES)


def _write_interfaces(path: Path, packets: int) -> None:
    """Write as many interfaces as packets, each with one."""
    with path.open("wb") as file:
        file.write(pcapng.section_header())
        file.writelines(_interface(number) + _packet(number, number) for number in range(packets))


def _write_sections(path: Path, packets: int) -> None:
    """Write as many sections as packets, each with one."""
    with path.open("wb") as file:
        file.write(pcapng.section_header())
        file.writelines(pcapng.section_header() + _interface(0) + _packet(number, 0) for number in range(packets))


def _write_merged(path: Path, packets: int) -> None:
    """Write what a merger of many files leaves: packets of all interfaces in turn, of two resolutions."""
    with path.open("wb") as file:
        file.write(pcapng.section_header())
        for number in range(_MERGED):
            description = bytearray(_interface(number))
            if number % 2:
                at = description.index(struct.pack("=HH", pcapng.IF_TSRESOL, 1)) + 4
                description[at] = _MICROSECONDS
            file.write(description)
        file.writelines(_packet(number, number % _MERGED) for number in range(packets))


#: Packets of files whose interfaces or sections are what takes time; of such files the interfaces; of such packets the
#: bytes; and if_tsresol of every other interface.
_MANY_INTERFACES, _MANY_SECTIONS, _MERGED_PACKETS = 70_000, 20_000, 300_000
_MERGED = 757
_SMALL_BYTES = 60
_MICROSECONDS = 6
#: 20 instructions, and what all packets of a file for it begin with: Ethernet, IPv4, UDP.
_FILTER = "udp port 53"
_TO_PORT_53 = bytes(12) + bytes.fromhex("0800 4500 0032 0000 0000 4011 0000 c6120001 c6120002 c350 0035 001e 0000")
#: Ten, of which five need the whole way through a packet.
_FIELDS = (
    "frame.time_epoch",
    "frame.len",
    "eth.src",
    "vlan.id",
    "ip.src",
    "ip.dst",
    "ipv6.src",
    "tcp.srcport",
    "tcp.flags",
    "udp.dstport",
)
_TCPDUMP = FileReader("tcpdump", _MANY, _with("tcpdump", "-r", "FILE", "-w", "/dev/null"), "tcpdump")
_DPKT = FileReader("dpkt", _SOME, _with_dpkt)
#: By case: the first is capd's.
READING_CASES = {
    "read-batches": (
        FileReader("capd", _MANY, _in_batches),
        FileReader("capinfos", _MANY, _with("capinfos", "-c", "FILE"), "capinfos"),
        _TCPDUMP,
        _DPKT,
    ),
    "read-filter": (
        FileReader("capd", _MANY, _filtered, write=_write_to_port_53),
        FileReader(
            "tcpdump",
            _MANY,
            _with("tcpdump", "-r", "FILE", "-w", "/dev/null", _FILTER),
            "tcpdump",
            _write_to_port_53,
        ),
    ),
    "read-columns": (
        FileReader("capd", _MANY, _columns, write=_write_dissectable),
        FileReader(
            "tshark",
            _SOME,
            _with("tshark", "-n", "-r", "FILE", "-T", "fields", *(word for name in _FIELDS for word in ("-e", name))),
            "tshark",
            _write_dissectable,
        ),
    ),
    "read-packets": (
        FileReader("capd", _MANY // 3, _one_by_one),
        _TCPDUMP,
        _DPKT,
        FileReader("tshark", _FEW, _with("tshark", "-n", "-r", "FILE"), "tshark"),
    ),
    **{
        name: (
            FileReader("capd", packets, _one_by_one, write=write),
            FileReader("capinfos", packets, _with("capinfos", "-c", "FILE"), "capinfos", write),
        )
        for name, packets, write in (
            ("read-interfaces", _MANY_INTERFACES, _write_interfaces),
            ("read-sections", _MANY_SECTIONS, _write_sections),
            ("read-merged", _MERGED_PACKETS, _write_merged),
        )
    },
}


def measure_reading(reader: FileReader, place: Place, packets: int | None = None) -> Reading:
    """Measure how fast a file in memory is read; a program's start, without a packet, is left out.

    Raises:
        WrongCountError: it has found another number of packets.
    """
    wanted = min(packets or reader.packets, reader.packets)
    with new_directory(place.tmpfs) as directory:
        path, empty = directory / "packets", directory / "empty"
        write = reader.write or write_file
        write(path, wanted)
        write(empty, 0)
        reader.read(empty)
        start_s, _ = _timed(reader, empty)
        taken_s, found = _timed(reader, path)
    if found is not None and found != wanted:
        raise WrongCountError(f"{found} packets read of {wanted}")
    return {"read_pps": wanted / max(1e-9, taken_s - start_s)}


def _timed(reader: FileReader, path: Path) -> tuple[float, int | None]:
    began_s = time.perf_counter()
    found = reader.read(path)
    return time.perf_counter() - began_s, found
