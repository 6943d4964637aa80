"""What reading capture files costs: ``capd_client.read`` beside programs that only go through a file."""

import shutil
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
        read: goes through a file, and returns how many packets it found; None: it does not tell.
        program: without it this one is not measured; None: it is a library, and always there.
    """

    name: str
    packets: int
    read: Callable[[Path], int | None]
    program: str | None = None

    def is_installed(self) -> bool:
        """Whether it can be measured here."""
        return self.program is None or shutil.which(self.program) is not None


def _in_batches(path: Path) -> int:
    packets = 0
    with read(path) as reader:
        for batch in reader.batches():
            packets += len(batch.timestamps_ns)
    return packets


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
    "read-packets": (
        FileReader("capd", _MANY // 3, _one_by_one),
        _TCPDUMP,
        _DPKT,
        FileReader("tshark", _FEW, _with("tshark", "-n", "-r", "FILE"), "tshark"),
    ),
}


def write_file(path: Path, packets: int) -> None:
    """Write packets of the IMIX in random order, with random bytes."""
    random = np.random.default_rng(1)
    sizes, shares = IMIX
    contents = random.bytes(1 << 20)
    blocks: list[bytes] = []
    for number, size in enumerate(random.permutation(np.resize(np.repeat(sizes, shares), _PATTERN)).tolist()):
        at = number * 7919 % (len(contents) - size)
        blocks.append(pcapng.enhanced_packet(0, _TIME_NS + number * 1000, contents[at : at + size], size))
    with path.open("wb") as file:
        file.write(pcapng.section_header())
        file.write(pcapng.interface_description(linktype=1, snaplen_bytes=0, name="eth0"))
        whole = b"".join(blocks)
        for _ in range(packets // _PATTERN):
            file.write(whole)
        file.write(b"".join(blocks[: packets % _PATTERN]))


def measure_reading(reader: FileReader, place: Place, packets: int | None = None) -> Reading:
    """Measure how fast a file in memory is read; a program's start, without a packet, is left out.

    Raises:
        WrongCountError: it has found another number of packets.
    """
    wanted = min(packets or reader.packets, reader.packets)
    with new_directory(place.tmpfs) as directory:
        path, empty = directory / "packets", directory / "empty"
        write_file(path, wanted)
        write_file(empty, 0)
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
