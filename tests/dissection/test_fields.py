"""Frames with fields that were asked for have what ``tshark -T fields`` has, typed."""

import gzip
import ipaddress
import os
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from capd_client import (
    DisplayFilterError,
    FieldFrame,
    InvalidArgument,
    ReadError,
    Restarted,
    UnknownField,
    UnsupportedError,
    fields,
    read,
    write,
)
from tests.dissection.files import HOST, http, odd, query, said_by_tshark, some_of_the_zoo
from tests.dissection.files import write as write_file

pytestmark = pytest.mark.usefixtures("leaves_nothing")

NAMES = (
    "ip.src",
    "ip.addr",
    "ipv6.dst",
    "tcp.flags",
    "tcp.flags.syn",
    "eth.type",
    "udp.length",
    "icmp.type",
    "frame.time",
)


def texts(path: Path, names: tuple[str, ...], **arguments: Any) -> list[list[str]]:
    """Return what frames have, with commas between values."""
    with read(path) as packets, packets.dissect(*names, **arguments) as frames:
        return [[",".join(frame.texts(name)) for name in names] for frame in frames]


def rows(path: Path, names: tuple[str, ...], *words: str) -> list[list[str]]:
    """Return the same of tshark."""
    asked = [word for name in names for word in ("-e", name)]
    said = said_by_tshark(path, "-T", "fields", "-E", "occurrence=a", *asked, *words).decode()
    return [line.split("\t") for line in said.split("\n")[:-1]]


@pytest.fixture
def zoo_file(tmp_path: Path) -> Path:
    return write_file(tmp_path / "zoo.pcap", some_of_the_zoo(7, 400))


@pytest.fixture
def small(tmp_path: Path) -> Path:
    return write_file(
        tmp_path / "small.pcap", [query(f"h{number}.example.org".encode(), number) for number in range(9)]
    )


@pytest.mark.parametrize("way", ["the file itself", "filtered", "compressed", "pcapng", "from a pipe"])
def test_values_are_those_of_tshark(zoo_file: Path, way: str) -> None:
    expected = rows(zoo_file, NAMES)
    match way:
        case "the file itself":
            assert texts(zoo_file, NAMES) == expected
        case "filtered":
            assert texts(zoo_file, NAMES, capture_filter="greater 0") == expected
        case "compressed":
            compressed = zoo_file.with_suffix(".gz")
            compressed.write_bytes(gzip.compress(zoo_file.read_bytes()))
            assert texts(compressed, NAMES) == expected
        case "pcapng":
            with read(zoo_file) as packets:
                write(zoo_file.with_suffix(".pcapng"), packets)
            assert texts(zoo_file.with_suffix(".pcapng"), NAMES) == expected
        case _:
            reading, writing = os.pipe()
            with os.fdopen(reading, "rb") as source, os.fdopen(writing, "wb") as target:

                def feed() -> None:
                    target.write(zoo_file.read_bytes())
                    target.close()

                feeding = threading.Thread(target=feed)
                feeding.start()
                with read(source) as packets:
                    found = [[",".join(f.texts(name)) for name in NAMES] for f in packets.dissect(*NAMES)]
                feeding.join()
            assert found == expected


def first(path: Path, *names: Any, **arguments: Any) -> FieldFrame:
    with read(path) as packets, packets.dissect(*names, **arguments) as frames:
        frame = next(frames)
        assert isinstance(frame, FieldFrame)
        return frame


def test_values_have_the_types_of_their_fields(small: Path) -> None:
    names = (
        "ip.src",
        "udp.srcport",
        "ip.flags.df",
        "eth.src",
        "dns.id",
        "frame.time",
        "frame.time_delta",
        "udp.payload",
    )
    frame = first(small, *names, "dns.qry.name", "ipv6.src", "udp", "ip.addr")
    assert frame["ip.src"] == ipaddress.IPv4Address("192.0.2.7")
    assert frame.all("ip.addr") == [ipaddress.IPv4Address("192.0.2.7"), ipaddress.IPv4Address("192.0.2.1")]
    assert (frame["udp.srcport"], frame["dns.id"]) == (53124, 0)
    assert frame["ip.flags.df"] is False
    assert frame["eth.src"] == "02:00:00:00:00:01"
    assert frame["frame.time"] == datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)
    assert frame.nanoseconds("frame.time") == 1_700_000_000 * 10**9
    assert frame["frame.time_delta"] == timedelta(0)
    payload = frame["udp.payload"]
    assert isinstance(payload, bytes)
    assert payload.endswith(b"\x07example\x03org\0\0\x01\0\x01")
    assert frame["ipv6.src"] is None
    assert (frame.nanoseconds("ipv6.src"), frame.all("ipv6.src")) == (None, [])
    assert "dns.qry.name" in frame
    assert "ipv6.src" not in frame
    assert frame.number == 1


def test_by_attributes(small: Path) -> None:
    frame = first(small, fields.ip.src, "dns.qry.name", "udp.length", "ipv6.src")
    assert frame.ip.src == ipaddress.IPv4Address("192.0.2.7")
    assert frame.dns.qry.name == "h0.example.org"
    assert frame.ipv6.src is None
    assert (bool(frame.ip), bool(frame.ipv6)) == (True, False)
    assert {"ip", "dns", "udp"} <= set(dir(frame))
    assert dir(frame.dns) == ["qry"]
    with pytest.raises(AttributeError, match="'tcp'"):
        _ = frame.tcp
    with pytest.raises(AttributeError, match=r"ip\.dst"):
        _ = frame.ip.dst
    with pytest.raises(UnknownField, match=r"nobody has asked for the field 'ip\.dst'"):
        _ = frame["ip.dst"]
    assert not hasattr(frame, "__array__")


def test_values_that_are_hard_to_pass_on_come_whole(tmp_path: Path) -> None:
    path = write_file(tmp_path / "odd.pcap", odd())
    names = ("http.host", "http.request.line", "http.request.full_uri", "dns.qry.name", "ip.src")
    with read(path) as packets, packets.dissect(*names) as frames:
        found = list(frames)
    assert [frame.number for frame in found] == list(range(1, 8))
    host = found[0]["http.host"]
    assert isinstance(host, str)
    # What is no UTF-8 is replaced by Wireshark, and \t and \f are as it shows them; all others stand as they are.
    assert host.startswith("ex\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}\x1fp\x02le")
    assert "\x1b[31m" in host
    assert host.endswith(HOST[-13:].decode())
    assert len(found[0].all("http.request.line")) == 2
    # Some that it has put together have bytes that are none of UTF-8's.
    (uri,) = found[0].texts("http.request.full_uri")
    assert uri.startswith("http://ex\\xff\\xfe\x1fp")
    assert found[1]["ip.src"] == ipaddress.IPv4Address("192.0.2.1")
    assert "a.example.org" in str(found[2]["dns.qry.name"])
    assert [str(each) for each in found[3].all("ip.src")] == ["127.0.0.1", "10.0.0.1"]


def test_columns_of_the_list(small: Path) -> None:
    titles = {"Source": "%s", "Destination": "%d", "Protocol": "%p", "Info": "%i", "Mine": "%Cus:udp.length"}
    preferences = {"gui.column.format": ",".join(f'"{title}","{form}"' for title, form in titles.items())}
    names = ("_ws.col.protocol", "_ws.col.info", "_ws.col.Source", "_ws.col.def_dst", "_ws.col.Mine")
    frame = first(small, *names, preferences=preferences)
    assert frame["_ws.col.protocol"] == "DNS"
    assert str(frame["_ws.col.info"]).startswith("Standard query")
    assert (frame["_ws.col.Source"], frame["_ws.col.def_dst"]) == ("192.0.2.7", "192.0.2.1")
    assert frame["_ws.col.Mine"] == "40"


def test_what_is_asked_changes_what_is_dissected(tmp_path: Path) -> None:
    path = write_file(tmp_path / "a.pcap", [query(b"a.example"), http(b"GET / HTTP/1.1\r\n\r\n")])
    names = ("dns.qry.name", "tcp.seq", "frame.number")
    assert texts(path, names) == [["a.example", "", "1"], ["", "1", "2"]]
    assert texts(path, names, decode_as={"udp.port==53": "syslog"}) == [["", "", "1"], ["", "1", "2"]]
    preferences = {"tcp.relative_sequence_numbers": False}
    assert texts(path, names, display_filter="frame.number == 2", preferences=preferences) == [["", "7", "2"]]


def test_two_passes_tell_of_what_comes_later(tmp_path: Path, directory: Path) -> None:
    path = write_file(directory / "a.pcap", [query(b"a.example.org")] * 2)
    path.chmod(0o644)
    assert len(texts(path, ("frame.number",), two_pass=True)) == 2
    with read(path) as packets, pytest.raises(InvalidArgument, match="two_pass needs a whole file"):
        packets.dissect(two_pass=True, capture_filter="ip")


def test_refusals_are_typed_and_in_wiresharks_words(small: Path) -> None:
    def refused(kind: type[Exception], match: str, *names: str, **arguments: Any) -> Any:
        with read(small) as packets, pytest.raises(kind, match=match) as raised:
            list(packets.dissect(*names, **arguments))
        return raised.value

    error = refused(DisplayFilterError, r"ip\.srcc.*character 9", "ip.src", display_filter="ip and (ip.srcc == 1)")
    assert error.span == (8, 15)
    assert refused(DisplayFilterError, "nexpected end", display_filter="tcp.port ==").span is None
    assert refused(InvalidArgument, r"foo\.bar:1", preferences={"foo.bar": 1}).argument == "preferences"
    assert (
        refused(InvalidArgument, 'Unknown protocol -- "foo"', decode_as={"tcp.port==1": "foo"}).argument == "decode_as"
    )
    assert refused(InvalidArgument, "Invalid selector", decode_as={"tcp.port==x": "http"}).argument == "decode_as"
    assert refused(UnknownField, r"near are ip\.src", "ip.scr").near[0] == "ip.src"
    assert refused(UnknownField, r"near are http\.host", "htpp.host").field == "htpp.host"
    refused(InvalidArgument, "twice", "ip.src", "ip.src")
    refused(InvalidArgument, "from 1", restart_packets=0)
    refused(InvalidArgument, "more than 0", timeout_s=0)
    refused(InvalidArgument, "NUL", display_filter="ip\0")
    refused(InvalidArgument, "no argument 'nonsense'", nonsense=1)
    refused(InvalidArgument, "there is no directory", configuration="/nonexistent")
    refused(InvalidArgument, "there is no such file", keylog_file="/nonexistent/keys")
    refused(UnsupportedError, "tshark on Debian, wireshark-cli on Fedora", program="/nonexistent/tshark")


def test_damage_is_an_error_behind_what_came_before(small: Path) -> None:
    data = small.read_bytes()
    small.write_bytes(data + b"\xff" * 100)
    with read(small) as packets, packets.dissect("frame.number") as frames:
        assert [frame.number for frame in (next(frames) for _ in range(9))] == list(range(1, 10))
        with pytest.raises(ReadError, match="damaged or corrupt"):
            next(frames)
    with read(small) as packets, packets.dissect("frame.number", capture_filter="ip") as frames:
        assert len([next(frames) for _ in range(9)]) == 9
        with pytest.raises(ReadError, match="a packet of"):
            next(frames)
    # What is not whole yet is not given, and no error, as everywhere.
    small.write_bytes(data[:-5])
    assert len(texts(small, ("frame.number",))) == 8


def test_no_capture_file_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"\x7fELF" + bytes(500))
    with pytest.raises(ReadError), read(path) as packets:
        list(packets.dissect("ip.src"))


def test_a_file_without_packets_has_no_frames_and_its_filter_is_checked(tmp_path: Path) -> None:
    path = write_file(tmp_path / "a.pcap", [])
    assert texts(path, ("ip.src",)) == []
    with read(path) as packets:
        assert list(packets.dissect(capture_filter="ip")) == []
    with read(path) as packets, pytest.raises(DisplayFilterError):
        list(packets.dissect(capture_filter="ip", display_filter="ip =="))


def test_what_was_read_before_is_not_dissected(small: Path) -> None:
    with read(small) as packets:
        one_by_one = iter(packets)
        next(one_by_one)
        # Batches of which packets were given are used up.
        assert list(packets.dissect("ip.src")) == []


@pytest.mark.parametrize("limit", [1, 4, 9, 100])
def test_a_restart_is_told_where_it_happens(small: Path, limit: int) -> None:
    with read(small) as packets, packets.dissect("dns.id", "frame.number", restart_packets=limit) as items:
        found = list(items)
    numbers = [item.number for item in found if isinstance(item, FieldFrame)]
    assert numbers == list(range(1, 10))
    assert [item["dns.id"] for item in found if isinstance(item, FieldFrame)] == list(range(9))
    places = [(number, item) for number, item in enumerate(found) if isinstance(item, Restarted)]
    assert [item.packets for _, item in places] == list(range(limit, 9, limit))
    for place, item in places:
        before, behind = found[place - 1], found[place + 1]
        assert isinstance(before, FieldFrame)
        assert isinstance(behind, FieldFrame)
        assert (before.number, behind.number) == (item.packets, item.packets + 1)
        assert behind["frame.number"] == 1  # the new engine's own


def test_times_before_1970_and_far_apart_are_those_of_the_file(tmp_path: Path, small: Path) -> None:
    with read(small) as packets:
        (batch,) = packets.batches()
        for number, time_ns in enumerate((-(10**18), -(10**9), 0, 2**62, -5 * 10**9)):
            batch.timestamps_ns.flags.writeable = True
            batch.timestamps_ns[number] = time_ns
        write(tmp_path / "b.pcapng", [batch], packets.interfaces)
    with read(tmp_path / "b.pcapng") as packets:
        expected = [packet.timestamp_ns for packet in packets]
    with read(tmp_path / "b.pcapng") as packets, packets.dissect("frame.time_epoch", capture_filter="ip") as frames:
        found = [frame.nanoseconds("frame.time_epoch") for frame in frames]
    assert found == expected


def test_leaving_the_block_ends_it_and_so_does_forgetting_it(small: Path) -> None:
    with read(small) as packets, packets.dissect("ip.src", capture_filter="ip") as frames:
        assert "ended" not in repr(frames)
        kept = next(frames)
    assert "ended" in repr(frames)
    assert kept["ip.src"] == ipaddress.IPv4Address("192.0.2.7")
    assert list(frames) == []
    with read(small) as packets:
        forgotten = packets.dissect("ip.src")
        next(forgotten)
        del forgotten


def test_tls_keys_are_taken_also_where_the_engine_may_not_read_them(small: Path, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("CLIENT_RANDOM " + "00" * 32 + " " + "11" * 48 + "\n")
    keys.chmod(0o600)
    assert len(texts(small, ("ip.src",), keylog_file=keys)) == 9


def test_a_configuration_of_ones_own(small: Path, directory: Path) -> None:
    (directory / "preferences").write_text("tcp.relative_sequence_numbers: FALSE\n")
    (directory / "profiles/mine").mkdir(parents=True)
    (directory / "profiles/mine/preferences").write_text('gui.column.format: "Mine", "%Cus:udp.length"\n')
    for each in (directory, directory / "profiles", directory / "profiles/mine"):
        each.chmod(0o755)
    assert texts(small, ("_ws.col.Mine",), configuration=directory, profile="mine")[0] == ["40"]
    with pytest.raises(InvalidArgument, match='"none" does not exist'):
        texts(small, ("ip.src",), configuration=directory, profile="none")
    (directory).chmod(0o700)
    with pytest.raises(InvalidArgument, match="runs as nobody"):
        texts(small, ("ip.src",), configuration=directory)
