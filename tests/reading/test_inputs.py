"""Files that others write, or might: what the format leaves open is read, what it forbids is an error in words.

Each is made in both byte orders, and what is right is written out beside it.
"""

import contextlib
import struct
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest

from capd_client import ReadError, read
from capd_client.cli.__main__ import main
from capd_client.reading.model import Packet
from capd_protocol.batches.model import FileStatistics
from tests.reading.test_reading import ORDERS, block, packet, section
from tests.support.rings import Frame, write_ring

MICROSECOND, NANOSECOND, MODIFIED = 0xA1B2C3D4, 0xA1B23C4D, 0xA1B2CD34
FRAME = bytes.fromhex("ffffffffffff0202020202020800") + bytes(range(46))
#: 60 of 60 bytes, and 40 of 60.
WHOLE, CUT = (60, 60), (40, 60)
MIB = 1024 * 1024


class Case(NamedTuple):
    """A file.

    Attributes:
        make: it, in a byte order.
        sizes: captured and original size of each packet.
        first_ns: timestamp of the first packet.
        name: of the first interface.
        error: what the error says behind the packets; "": there is none.
        error_at: at which byte.
        as_wireshark: its programs find as many packets.
    """

    make: Callable[[str], bytes]
    sizes: list[tuple[int, int]]
    first_ns: int = 7000
    name: str | None = None
    error: str = ""
    error_at: int = 0
    as_wireshark: bool = True


def option(order: str, code: int, value: bytes) -> bytes:
    return struct.pack(order + "HH", code, len(value)) + value + bytes(-len(value) % 4)


def described(order: str, *options: bytes, linktype: int = 1, snaplen: int = 65535) -> bytes:
    return block(order, 1, struct.pack(order + "HHI", linktype, 0, snaplen) + b"".join(options))


def with_options(order: str, *options: bytes) -> bytes:
    return section(order) + described(order, *options) + packet(order, 0, 7, FRAME)


def with_statistics(order: str, interface_id: int, *options: bytes) -> bytes:
    statistics = block(order, 5, struct.pack(order + "III", interface_id, 0, 5) + b"".join(options))
    return with_options(order) + statistics + packet(order, 0, 8, FRAME)


def version(order: str, major: int, minor: int) -> bytes:
    header = block(order, 0x0A0D0D0A, struct.pack(order + "IHHq", 0x1A2B3C4D, major, minor, -1))
    return header + with_options(order)[28:]


def bytes_of_other(order: str) -> str:
    return ">" if order == "<" else "<"


def palindromic_section(order: str) -> bytes:
    """Return a section header whose length is the same in both byte orders."""
    length = 0x00010100
    body = struct.pack(order + "IHHq", 0x1A2B3C4D, 1, 0, -1)
    for size in (0xFFF0, length - 12 - len(body) - 4 - 0xFFF0 - 8):
        body += option(order, 1, bytes(size))
    return block(order, 0x0A0D0D0A, body + bytes(length - 12 - len(body)))


def old_pcap(order: str, magic: int = MICROSECOND, *, minor: int = 4, network: int = 1, behind: bytes = b"") -> bytes:
    """Return two packets; before 2.4 the original size stands first."""
    data = struct.pack(order + "IHHiIII", magic, 2, minor, 0, 0, 65535, network)
    for fraction, (captured, original) in ((7, WHOLE), (8, CUT)):
        sizes = (captured, original) if minor > 3 else (original, captured)
        data += struct.pack(order + "4I", 0, fraction, *sizes)
        data += bytes(8 if magic == MODIFIED else 0) + FRAME[:captured]
    return data + behind


def pcap_2_3(order: str, minor: int) -> bytes:
    """Return a file that says 2.3, and is written as a version before or behind it."""
    data = old_pcap(order, minor=minor)
    return data[:6] + struct.pack(order + "H", 3) + data[8:]


def compressed(_: str, magic: str) -> bytes:
    return bytes.fromhex(magic) + bytes(60)


PCAPNG = {
    "resolution of no length": Case(lambda o: with_options(o, option(o, 9, b"")), [WHOLE]),
    "resolution of two bytes": Case(lambda o: with_options(o, option(o, 9, b"\3\3")), [WHOLE]),
    "offset of four bytes": Case(lambda o: with_options(o, option(o, 14, b"\0\0\0\1")), [WHOLE]),
    "offset before 1970": Case(
        lambda o: with_options(o, option(o, 14, struct.pack(o + "q", -100))), [WHOLE], -100 * 10**9 + 7000
    ),
    "two names": Case(lambda o: with_options(o, option(o, 2, b"a"), option(o, 2, b"b")), [WHOLE], name="a"),
    "name with a NUL": Case(lambda o: with_options(o, option(o, 2, b"eth0\0")), [WHOLE], name="eth0"),
    "name of nothing but a NUL": Case(lambda o: with_options(o, option(o, 2, b"\0eth0")), [WHOLE]),
    "name with terminal sequences": Case(
        lambda o: with_options(o, option(o, 2, b"e\x1b]0;x\x07\n1 forged")), [WHOLE], name="e\x1b]0;x\x07\n1 forged"
    ),
    "option beyond its block": Case(
        lambda o: with_options(o) + described(o, struct.pack(o + "HH", 2, 9) + b"eth0") + packet(o, 1, 8, FRAME),
        [WHOLE],
        error="an option is longer than its block",
        error_at=140,
    ),
    "description too short": Case(
        lambda o: with_options(o) + block(o, 1, bytes(4)), [WHOLE], error="too few for its type", error_at=140
    ),
    "statistics of an unknown interface": Case(lambda o: with_statistics(o, 9), [WHOLE, WHOLE]),
    "statistics of a wrong length": Case(lambda o: with_statistics(o, 0, option(o, 4, bytes(4))), [WHOLE, WHOLE]),
    "statistics of no length": Case(lambda o: with_statistics(o, 0, option(o, 2, b"")), [WHOLE, WHOLE]),
    "section of version 1.1": Case(lambda o: version(o, 1, 1), [], error="version 1.1; only 1.0", error_at=0),
    "section of version 2.0": Case(lambda o: version(o, 2, 0), [], error="version 2.0; only 1.0", error_at=0),
    "section of version 1.2": Case(lambda o: version(o, 1, 2), [WHOLE]),
    "second section of version 2.0": Case(
        lambda o: with_options(o) + version(o, 2, 0), [WHOLE], error="version 2.0; only 1.0", error_at=140
    ),
    "second section without a byte order": Case(
        lambda o: with_options(o) + with_options(o).replace(struct.pack(o + "I", 0x1A2B3C4D), b"\xde\xad\xbe\xef"),
        [WHOLE],
        error="no byte-order magic",
        error_at=148,
    ),
    "second section that claims the other byte order": Case(
        lambda o: (
            with_options(o)
            + with_options(o).replace(
                struct.pack(o + "I", 0x1A2B3C4D), struct.pack(bytes_of_other(o) + "I", 0x1A2B3C4D)
            )
        ),
        [WHOLE],
        error="a block of",
        error_at=140,
    ),
    "second section of the other byte order": Case(
        lambda o: with_options(o) + with_options(bytes_of_other(o)), [WHOLE, WHOLE]
    ),
    "second section of the other byte order, as long in both": Case(
        lambda o: with_options(o) + palindromic_section(bytes_of_other(o)) + with_options(bytes_of_other(o))[28:],
        [WHOLE, WHOLE],
    ),
    "packet of an interface of the next section": Case(
        lambda o: with_options(o) + packet(o, 1, 9, FRAME) + section(o) + described(o) * 2 + packet(o, 1, 9, FRAME),
        [WHOLE],
        error="interface 1, which is not described",
        error_at=140,
    ),
    "packet of 20 MiB": Case(
        lambda o: section(o) + described(o, linktype=231, snaplen=0) + packet(o, 0, 7, bytes(20 * MIB + 1)),
        [(20 * MIB + 1, 20 * MIB + 1)],
    ),
    "block of 20 MiB that nobody knows": Case(
        lambda o: with_options(o) + block(o, 0xBAD, bytes(20 * MIB)) + packet(o, 0, 8, FRAME), [WHOLE, WHOLE]
    ),
    "block of 129 MiB": Case(
        lambda o: with_options(o) + struct.pack(o + "II", 0xBAD, 129 * MIB) + bytes(99),
        [WHOLE],
        error=f"a block of {129 * MIB} bytes",
        error_at=140,
    ),
}
PCAP = {
    **{f"2.{minor}": Case(partial(old_pcap, minor=minor), [WHOLE, CUT]) for minor in range(5)},
    "2.3, as before": Case(partial(pcap_2_3, minor=2), [WHOLE, CUT]),
    "2.3, as behind": Case(partial(pcap_2_3, minor=4), [WHOLE, CUT]),
    "2.5": Case(lambda o: old_pcap(o, minor=5), [], error="pcap of version 2.5", error_at=4, as_wireshark=False),
    "nanoseconds": Case(lambda o: old_pcap(o, NANOSECOND), [WHOLE, CUT], 7),
    "modified": Case(lambda o: old_pcap(o, MODIFIED), [WHOLE, CUT]),
    "reserved bits of the link type": Case(lambda o: old_pcap(o, network=0xF6300001), [WHOLE, CUT], as_wireshark=False),
    "packet of 129 MiB": Case(
        lambda o: old_pcap(o, behind=struct.pack(o + "4I", 0, 9, 129 * MIB, 129 * MIB)),
        [WHOLE, CUT],
        error=f"a packet of {129 * MIB} bytes",
        error_at=156,
        as_wireshark=False,  # looks ahead, to guess whose format it is
    ),
    **{
        f"compressed with {name}": Case(
            partial(compressed, magic=magic), [], error=f"compressed with {name}", as_wireshark=False
        )
        for name, magic in {
            "gzip": "1f8b0800",
            "zstd": "28b52ffdffffffff",
            "xz": "fd377a585a00",
            "bzip2": "425a6839",
        }.items()
    },
}
CASES = {**{f"pcapng: {name}": case for name, case in PCAPNG.items()}, **{f"pcap: {n}": c for n, c in PCAP.items()}}


@ORDERS
@pytest.mark.parametrize("name", CASES)
def test_every_input(tmp_path: Path, name: str, order: str) -> None:
    case = CASES[name]
    path = tmp_path / "a"
    path.write_bytes(case.make(order))
    packets: list[Packet] = []
    error = None
    with read(path) as reader:
        try:
            packets.extend(reader)
        except ReadError as raised:
            error = raised
        assert reader.rest_bytes == 0 or error
        assert [(len(each.data), each.original_size_bytes) for each in packets] == case.sizes
        assert [each.linktype for each in reader.interfaces][:1] in ([], [1], [231])
    if case.sizes:
        assert packets[0].timestamp_ns == case.first_ns
        assert packets[0].interface == case.name == reader.interfaces[0].name
        assert all(bytes(each.data) == FRAME[: len(each.data)] for each in packets if len(each.data) < 100)
    if case.error:
        assert error is not None
        assert (case.error in error.text, error.offset_bytes) == (True, case.error_at), str(error)
    else:
        assert error is None
    path.unlink()


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.as_wireshark])
def test_wireshark_finds_as_many_packets(tmp_path: Path, name: str) -> None:
    path = tmp_path / "a"
    path.write_bytes(CASES[name].make("<"))
    done = subprocess.run(["capinfos", "-Trc", path], capture_output=True, text=True, check=False, timeout=30)
    assert (done.returncode == 0) == (not CASES[name].error), done.stderr
    if done.stdout:
        assert int(done.stdout.split("\t")[-1]) == len(CASES[name].sizes)
    path.unlink()


@ORDERS
def test_what_interface_and_system_dropped_is_added_up(tmp_path: Path, order: str) -> None:
    counts = {4: 10, 5: 2, 7: 3, 8: 5}
    options = [option(order, code, struct.pack(order + "Q", count)) for code, count in counts.items()]
    for used, drops in ((options, 5), (options[:2], 2), (options[2:], 3), (options[:1], None)):
        path = tmp_path / "a"
        path.write_bytes(with_statistics(order, 0, *used))
        with read(path) as reader:
            list(reader)
        statistics = reader.interfaces[0].statistics
        assert isinstance(statistics, FileStatistics)
        assert statistics.drops == drops


@ORDERS
def test_simple_packets_are_cut_by_the_first_interface_of_their_section(tmp_path: Path, order: str) -> None:
    simple = block(order, 3, struct.pack(order + "I", 60) + FRAME[:40])
    first = section(order) + described(order, snaplen=40) + described(order, snaplen=9) + simple
    path = tmp_path / "a"
    whole = block(order, 3, struct.pack(order + "I", 60) + FRAME)
    path.write_bytes(first + section(order) + described(order, snaplen=0) + whole)
    with read(path) as reader:
        assert [(each.interface_id, len(each.data), each.original_size_bytes) for each in reader] == [
            (0, 40, 60),
            (2, 60, 60),
        ]


# What was read is written ------------------------------------------------------------------------------------------


@ORDERS
@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.sizes])
def test_what_is_read_can_be_written(tmp_path: Path, name: str, order: str) -> None:
    path, written = tmp_path / "a", tmp_path / "b"
    path.write_bytes(CASES[name].make(order))
    assert main(["extract", str(path), "-w", str(written)]) == (1 if CASES[name].error else 0)
    rows: list[list[tuple[object, ...]]] = []
    for each in (path, written):
        with read(each) as reader, contextlib.suppress(ReadError):
            rows.append([])
            for one in reader:
                linktype = reader.interfaces[one.interface_id].linktype
                rows[-1].append((one.timestamp_ns, one.interface, linktype, one.original_size_bytes, bytes(one.data)))
    assert rows[1] == sorted(rows[0], key=lambda row: str(row[0]))
    path.unlink()
    written.unlink()


def test_times_of_all_that_can_be_are_written(tmp_path: Path) -> None:
    # From 1678 to 2262, in files that overlap: of none is known when it begins.
    order = ">"
    seconds = [-(2**63) // 10**9, -1, 0, 1, 2**63 // 10**9]
    for number, part in enumerate((seconds[2:], seconds[:2])):
        blocks = b"".join(
            described(order, option(order, 9, b"\0"), option(order, 14, struct.pack(order + "q", second)))
            + packet(order, place, second > 1, bytes([place + 1]))
            for place, second in enumerate(part)
        )
        (tmp_path / str(number)).write_bytes(section(order) + blocks)
    written = tmp_path / "b"
    assert main(["extract", str(tmp_path / "0"), str(tmp_path / "1"), "-w", str(written)]) == 0
    with read(written) as reader:
        assert [(each.timestamp_ns // 10**9, bytes(each.data)) for each in reader] == list(
            zip(seconds, (b"\1", b"\2", b"\1", b"\2", b"\3"), strict=True)
        )


def test_times_before_1970_that_come_late_are_written(tmp_path: Path) -> None:
    # The index says that the second file begins later than it does.
    path = tmp_path / "a.pcapng"
    _, late = write_ring(path, [[Frame(5, "eth0", b"1")], [Frame(9, "eth0", b"2")]], ["eth0"])
    with late.open("r+b") as file:
        file.write(with_options("<", option("<", 14, struct.pack("<q", -7))))
    written = tmp_path / "b"
    assert main(["extract", str(path), "-w", str(written)]) == 0
    with read(written) as reader:
        assert [each.timestamp_ns for each in reader] == [5, -7 * 10**9 + 7000]
