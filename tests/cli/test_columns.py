"""``capctl columns``: what it prints and writes of a file's fields."""

import csv
import io
import json
import sys
from pathlib import Path

import duckdb
import pyarrow
import pytest
from pyarrow import parquet

from capd_protocol.formats import pcapng
from tests.cli.calling import called
from tests.fields.test_columns import ARP, udp_packet, write


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write(tmp_path / "x.pcapng", [udp_packet(0xC0000201, 53), ARP, udp_packet(0xC0000202, 50_000)])


def test_columns_are_a_table(file: Path) -> None:
    done = called("columns", file, "frame.number", "ip.src", "udp.dstport")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "frame.number  ip.src     udp.dstport",
        "1             192.0.2.1  53",
        "2",
        "3             192.0.2.2  50000",
    ]


def test_columns_are_comma_separated_values(file: Path) -> None:
    done = called("columns", file, "ip.addr", "udp.dstport", "--csv", "--all")
    assert list(csv.reader(io.StringIO(done.stdout))) == [
        ["ip.addr", "udp.dstport"],
        ["192.0.2.1,198.51.100.7", "53"],
        ["", ""],
        ["192.0.2.2,198.51.100.7", "50000"],
    ]


def test_columns_are_lines_of_json(file: Path) -> None:
    done = called("columns", file, "ip.src", "udp.dstport", "frame.time_epoch", "--json", "-f", "udp port 53")
    assert list(map(json.loads, done.stdout.splitlines())) == [
        {"ip.src": "192.0.2.1", "udp.dstport": 53, "frame.time_epoch": "1700000000.000000000"}
    ]
    done = called("columns", file, "ip.ttl", "--json", "--all")
    assert list(map(json.loads, done.stdout.splitlines())) == [{"ip.ttl": [64]}, {"ip.ttl": []}, {"ip.ttl": [64]}]


@pytest.mark.parametrize("form", ["parquet", "arrow"])
def test_columns_are_written(file: Path, tmp_path: Path, form: str) -> None:
    path = tmp_path / "out"
    words = ("columns", file, "ip.src", "eth.dst", f"--{form}", path)
    assert called(*words).returncode == 0
    table = parquet.read_table(path) if form == "parquet" else pyarrow.ipc.open_file(path).read_all()
    assert table.to_pydict() == {"ip.src": [0xC0000201, None, 0xC0000202], "eth.dst": [bytes(6)] * 3}
    again = called(*words)
    assert again.returncode == 1
    assert "--overwrite" in again.stderr
    assert called(*words, "--overwrite").returncode == 0
    assert sorted(each.name for each in tmp_path.iterdir()) == ["out", "x.pcapng"]


def test_duckdb_asks_a_written_file(file: Path, tmp_path: Path) -> None:
    path = tmp_path / "packets.parquet"
    assert called("columns", file, "frame.len", "ip.src", "--parquet", path).returncode == 0
    query = f"""SELECT "ip.src", count(*), sum("frame.len") FROM '{path}' GROUP BY ALL ORDER BY 1 NULLS LAST"""
    sizes = [len(udp_packet(1, 53)), len(ARP)]
    assert duckdb.execute(query).fetchall() == [
        (0xC0000201, 1, sizes[0]),
        (0xC0000202, 1, sizes[0]),
        (None, 1, sizes[1]),
    ]


def test_nothing_is_left_of_a_file_that_could_not_be_written(file: Path, tmp_path: Path) -> None:
    file.write_bytes(file.read_bytes() + bytes.fromhex("06000000 0d000000") + bytes(40))
    done = called("columns", file, "ip.src", "--parquet", tmp_path / "out")
    assert done.returncode == 1
    assert "a block of 13 bytes" in done.stderr
    assert [each.name for each in tmp_path.iterdir()] == ["x.pcapng"]
    assert called("columns", file, "ip.src", "--arrow", tmp_path / "no" / "out").returncode == 1


@pytest.mark.parametrize(
    ("words", "status", "text"),
    [
        (("ip.srcc",), 2, "'ip.srcc': near are ip.src"),
        (("ip.src", "ip.src"), 2, "none twice"),
        (("ip.src", "--overwrite"), 2, "there is no file to overwrite"),
        (("ip.src", "-f", "nonsense here"), 1, "capture filter"),
    ],
)
def test_what_cannot_be_is_refused(file: Path, words: tuple[str, ...], status: int, text: str) -> None:
    done = called("columns", file, *words)
    assert (done.returncode, done.stdout) == (status, "")
    assert text in done.stderr


def test_without_pyarrow_the_extra_is_named(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    done = called("columns", file, "ip.src", "--parquet", tmp_path / "out")
    assert done.returncode == 1
    assert "[arrow]" in done.stderr


def test_names_of_others_are_escaped(tmp_path: Path) -> None:
    path = tmp_path / "x.pcapng"
    interface = pcapng.interface_description(linktype=1, snaplen_bytes=0, name="a\nb\x1b[2J")
    path.write_bytes(pcapng.section_header() + interface + pcapng.enhanced_packet(0, 0, ARP, len(ARP)))
    for form in ((), ("--csv",), ("--json",)):
        done = called("columns", path, "frame.interface_name", *form)
        assert done.returncode == 0
        assert "\x1b" not in done.stdout
        assert len(done.stdout.splitlines()) == (1 if form == ("--json",) else 2)


def test_a_last_record_that_is_not_whole_is_told(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-4])
    done = called("columns", file, "ip.src")
    assert done.returncode == 1
    assert "the last record is not whole" in done.stderr
    assert done.stdout.splitlines()[-1] == ""  # ARP has none
