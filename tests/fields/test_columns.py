"""Columns as programs get them: of readers and streams, with filters, in batches, and for Arrow."""

import random
import re
import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from capd_client import Columns, Gap, InvalidArgument, ReadError, UnknownField, UnsupportedError, read
from capd_client.reading.live import LiveColumns
from capd_protocol.fields.registry import FIELDS
from capd_protocol.formats import pcapng

CHECKOUT = Path(__file__).parent.parent.parent
SECOND_NS = 10**9
START_NS = 1_700_000_000 * SECOND_NS


def udp_packet(source: int, port: int, payload: bytes = b"") -> bytes:
    """Return an Ethernet frame with UDP in IPv4."""
    ip = struct.pack(">BBHHHBBHII", 0x45, 0, 28 + len(payload), 0, 0, 64, 17, 0, source, 0xC6336407)
    return bytes(12) + b"\x08\x00" + ip + struct.pack(">HHHH", 40_000, port, 8 + len(payload), 0) + payload


ARP = bytes(12) + b"\x08\x06" + struct.pack(">HHBBH", 1, 0x0800, 6, 4, 1) + bytes(20)


def write(path: Path, packets: list[bytes], end: bytes = b"") -> Path:
    """Write a pcapng file, a packet a second."""
    path.write_bytes(
        pcapng.section_header()
        + pcapng.interface_description(linktype=1, snaplen_bytes=0, name="eth0")
        + b"".join(
            pcapng.enhanced_packet(0, START_NS + number * SECOND_NS, packet, len(packet))
            for number, packet in enumerate(packets)
        )
        + end
    )
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write(
        tmp_path / "x.pcapng", [udp_packet(0xC0000201, 53), ARP, udp_packet(0xC0000202, 99), udp_packet(1, 53)]
    )


def only(path: Path, *names: str, **options: Any) -> Columns:
    with read(path) as packets:
        (columns,) = packets.columns(*names, **options)
    return columns


def test_values_are_typed_and_those_that_are_missing_are_not_valid(file: Path) -> None:
    columns = only(file, "ip.src", "udp.dstport", "eth.dst", "frame.time_epoch", "frame.interface_name")
    assert len(columns) == 4
    assert columns.names == ("ip.src", "udp.dstport", "eth.dst", "frame.time_epoch", "frame.interface_name")
    source = columns["ip.src"]
    assert (source.values.dtype, source.values.tolist()) == (np.dtype("u4"), [0xC0000201, 0, 0xC0000202, 1])
    assert source.valid is not None
    assert source.valid.tolist() == [True, False, True, True]
    assert source.texts() == ["192.0.2.1", "", "192.0.2.2", "0.0.0.1"]
    assert columns["udp.dstport"].values.dtype == np.uint16
    assert columns["eth.dst"].values.tolist() == [bytes(6)] * 4
    assert columns["frame.time_epoch"].values.tolist() == [START_NS + each * SECOND_NS for each in range(4)]
    assert columns["frame.time_epoch"].texts()[1] == "1700000001.000000000"
    assert columns["frame.interface_name"].texts() == ["eth0"] * 4


def test_all_occurrences_stand_behind_one_another(file: Path) -> None:
    addresses = only(file, "ip.addr", occurrence="all")["ip.addr"]
    assert addresses.offsets is not None
    assert addresses.valid is None
    assert addresses.offsets.tolist() == [0, 2, 2, 4, 6]
    assert addresses.values[:2].tolist() == [0xC0000201, 0xC6336407]
    assert addresses.texts()[1] == ""


def test_a_filter_leaves_packets_out_but_not_their_numbers(file: Path) -> None:
    columns = only(file, "frame.number", "frame.time_delta", "udp.dstport", capture_filter="udp port 53")
    assert columns["frame.number"].values.tolist() == [1, 4]
    assert columns["frame.time_delta"].texts() == ["0.000000000", "1.000000000"]
    assert columns["udp.dstport"].values.tolist() == [53, 53]


def test_numbers_go_on_from_batch_to_batch(tmp_path: Path) -> None:
    path = write(tmp_path / "x.pcapng", [udp_packet(each, 53, bytes(1000)) for each in range(3000)])
    with read(path) as packets:
        found = list(packets.columns("frame.number", "frame.time_relative", "ip.src"))
    assert len(found) > 1
    assert np.concatenate([each["frame.number"].values for each in found]).tolist() == list(range(1, 3001))
    assert found[-1]["frame.time_relative"].values[-1] == np.timedelta64(2999, "s")
    assert np.concatenate([each["ip.src"].values for each in found]).tolist() == list(range(3000))


def test_numbers_count_what_was_read_otherwise(tmp_path: Path) -> None:
    path = write(tmp_path / "x.pcapng", [udp_packet(each, 53, bytes(1000)) for each in range(3000)])
    with read(path) as packets:
        before = len(next(packets.batches()).offsets)
        first = next(packets.columns("frame.number"))
    assert first["frame.number"].values[0] == before + 1


@pytest.mark.parametrize(
    ("names", "near"), [(("ip.src", "ip.dts"), "ip.dst"), (("tcp.seq",), "tcp.seq_raw"), (("http.host",), None)]
)
def test_a_field_that_there_is_not_is_named(file: Path, names: tuple[str, ...], near: str | None) -> None:
    with read(file) as packets, pytest.raises(UnknownField, match=names[-1].replace(".", r"\.")) as caught:
        packets.columns(*names)
    assert caught.value.field == names[-1]
    assert (near in caught.value.near) if near else caught.value.near == ()


@pytest.mark.parametrize("names", [(), ("ip.src", "ip.src")])
def test_no_field_or_one_twice_is_refused(file: Path, names: tuple[str, ...]) -> None:
    with read(file) as packets, pytest.raises(InvalidArgument):
        packets.columns(*names)


def test_damage_is_raised_behind_the_columns_before_it(tmp_path: Path) -> None:
    path = write(tmp_path / "x.pcapng", [udp_packet(1, 53)], end=struct.pack("=II", 6, 13) + bytes(40))
    with read(path) as packets:
        found = packets.columns("ip.src")
        assert len(next(found)) == 1
        with pytest.raises(ReadError):
            next(found)


class Given:
    """What a live stream makes columns of."""

    def __init__(self, gives_bytes: bool) -> None:
        self.gives_bytes = gives_bytes
        self.interfaces: Any = ()


def test_a_stream_has_gaps_between_its_columns(file: Path) -> None:
    from capd_client.reading.columns.model import ColumnMaker  # noqa: PLC0415  # a module of its own in the others
    from capd_client.reading.selection import Selection  # noqa: PLC0415  # likewise

    files: Any = Given(gives_bytes=False)
    columns_of = LiveColumns(ColumnMaker(("frame.number",), "first", Selection()), files)
    with read(file) as packets:
        (batch,) = packets.batches()
        files.interfaces = packets.interfaces
    gap = Gap(7, "too_slow")
    before, between, after = columns_of(batch), columns_of(gap), columns_of(batch)
    assert between is gap
    assert isinstance(before, Columns)
    assert isinstance(after, Columns)
    assert after["frame.number"].values.tolist() == [12, 13, 14, 15]
    with pytest.raises(InvalidArgument, match="as_bytes"):
        LiveColumns(ColumnMaker(("frame.number",), "first", Selection()), Given(gives_bytes=True))  # type: ignore[arg-type]


def test_the_page_has_every_field_and_no_other() -> None:
    text = (CHECKOUT / "docs/columns.md").read_text(encoding="utf-8")
    table = text.partition("| layer | fields |")[2].partition("\n\n")[0]
    assert set(re.findall(r"`([^`]+)`", table)) == set(FIELDS)


# Arrow ----------------------------------------------------------------------------------------


@pytest.fixture
def pyarrow() -> Any:
    import pyarrow  # noqa: PLC0415  # slow

    return pyarrow


def of_types() -> list[str]:
    """Return a field of each type."""
    return list({field.type: name for name, field in FIELDS.items()}.values())


def test_arrow_has_the_same_values_of_each_type(file: Path, pyarrow: Any) -> None:
    columns = only(file, *of_types())
    table = pyarrow.table(columns)
    table.validate(full=True)
    assert table.column_names == list(columns.names)
    for name in columns.names:
        column = columns[name]
        assert column.valid is not None
        expected = [value if valid else None for value, valid in zip(column.values.tolist(), column.valid, strict=True)]
        found = table[name]
        if pyarrow.types.is_temporal(found.type):
            found = found.cast(pyarrow.int64())
        assert found.to_pylist() == expected, name


def test_arrow_has_all_occurrences_as_lists(file: Path, pyarrow: Any) -> None:
    columns = only(file, "ip.addr", "udp.dstport", "tcp.flags.syn", occurrence="all")
    batch = pyarrow.record_batch(columns)
    batch.validate(full=True)
    assert batch["ip.addr"].to_pylist()[:2] == [[0xC0000201, 0xC6336407], []]
    assert batch["tcp.flags.syn"].to_pylist() == [[]] * 4


def test_a_reader_is_a_stream_for_arrow(tmp_path: Path, pyarrow: Any) -> None:
    rng = random.Random(1)
    packets = [udp_packet(rng.getrandbits(32), 53, bytes(1000)) for _ in range(3000)]
    path = write(tmp_path / "x.pcapng", packets)
    with read(path) as reader:
        table = pyarrow.RecordBatchReader.from_stream(reader.columns("ip.src", "tcp.srcport")).read_all()
    assert table.num_rows == 3000
    assert table["ip.src"].to_pylist() == [int.from_bytes(each[26:30], "big") for each in packets]
    assert table["tcp.srcport"].null_count == 3000


def test_an_empty_file_is_an_empty_table(tmp_path: Path, pyarrow: Any) -> None:
    with read(write(tmp_path / "x.pcapng", [])) as packets:
        table = pyarrow.table(packets.columns(*of_types()))
    assert (table.num_rows, table.num_columns) == (0, len(of_types()))


def test_damage_is_an_error_of_arrow_with_our_text(tmp_path: Path, pyarrow: Any) -> None:
    path = write(tmp_path / "x.pcapng", [udp_packet(1, 53)], end=struct.pack("=II", 6, 13) + bytes(40))
    with read(path) as packets, pytest.raises(ValueError, match="a block of 13 bytes"):
        pyarrow.table(packets.columns("ip.src"))


def test_numbers_are_not_copied_for_arrow(file: Path, pyarrow: Any) -> None:
    columns = only(file, "ip.src")
    batch = pyarrow.record_batch(columns)
    assert batch["ip.src"].buffers()[1].address == columns["ip.src"].values.ctypes.data


def test_without_pyarrow_the_extra_is_named(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    columns = only(file, "ip.src")
    with pytest.raises(UnsupportedError, match=r"\[arrow\]"):
        columns.__arrow_c_stream__()


def test_polars_takes_a_reader(file: Path) -> None:
    import polars  # noqa: PLC0415  # slow

    with read(file) as packets:
        frame = polars.DataFrame(packets.columns("ip.src", "frame.time_epoch", "ipv6.src"))
    assert frame["ip.src"].to_list() == [0xC0000201, None, 0xC0000202, 1]
    assert frame["ipv6.src"].null_count() == 4
