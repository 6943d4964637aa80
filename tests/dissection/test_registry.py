"""The registry has what ``tshark -G`` reports, in files of the user's that nobody else can have written."""

import os
from pathlib import Path

import pytest

from capd_client import EngineFailed, Fields, KnownField, UnknownField, fields
from capd_client.dissection.registry import cache
from capd_client.dissection.registry.lines import SortedLines, sorted_lines
from capd_client.dissection.registry.reports import fields_of, values_of
from tests.dissection.files import engine


def test_fields_have_names_types_and_descriptions() -> None:
    assert fields["ip.src"] == KnownField("ip.src", "FT_IPv4", "ip", "Source Address", "")
    assert fields["http.host"].description == "HTTP Host"
    assert fields["http"].is_protocol
    assert fields["http"].title == "Hypertext Transfer Protocol"
    assert ("ip.src" in fields, "ip.scr" in fields, "" in fields) == (True, False, False)
    names = list(fields)
    assert len(names) > 200_000
    assert names == sorted(names, key=str.encode)
    assert next(fields.beginning_with("udp.checksum")) == "udp.checksum"


def test_every_field_is_found() -> None:
    for number, name in enumerate(fields):
        if number % 997 == 0:
            assert fields[name].name == name


def test_by_attributes_with_completion() -> None:
    assert str(fields.http.host) == "http.host"
    assert str(fields.icmp.type) == "icmp.type"
    assert {"src", "dst", "flags"} <= set(dir(fields.ip))
    assert {"syn", "ack"} <= set(dir(fields.tcp.flags))
    assert {"ip", "tcp", "dns"} <= set(dir(fields))
    assert "Source Address" in repr(fields.ip.src)
    with pytest.raises(AttributeError, match=r"near are ip\.src"):
        _ = fields.ip.scr


@pytest.mark.parametrize(
    ("name", "near"),
    [("ip.scr", "ip.src"), ("IP.SRC", "ip.src"), ("htpp.host", "http.host"), ("tcp.flag.syn", "tcp.flags.syn")],
)
def test_near_names_are_offered(name: str, near: str) -> None:
    with pytest.raises(UnknownField) as raised:
        _ = fields[name]
    assert near in raised.value.near
    assert near in str(raised.value)


def test_value_names() -> None:
    assert fields.label_of("ip.proto", 6) == "TCP"
    assert fields.label_of("tcp.flags.syn", 1) == "Set"
    assert fields.label_of("dns.qry.type", 28) == "AAAA (IPv6 Address)"
    assert fields.label_of("ip.proto", 999) is None
    assert fields.value_names("ip.src") == []
    ranges = [each for each in fields.value_names("ieee1722.subtype") if each.first != each.last]
    assert ranges
    with pytest.raises(UnknownField):
        fields.value_names("ip.scr")


def test_the_names_of_all_values_can_be_read() -> None:
    protocols = ("ip", "tcp", "dns", "tls", "http2", "icmp", "wlan", "bgp", "smb2", "ieee1722", "_ws.ftypes", "rtcp")
    assert sum(len(fields.value_names(name)) for each in protocols for name in fields.beginning_with(f"{each}.")) > 5000


def test_it_is_kept_for_the_user_alone_and_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))  # others may have had theirs taken away by newer ones
    assert Fields()["ip.src"] == fields["ip.src"]
    place = cache.directory()
    assert place == tmp_path / "capd"
    (kept,) = place.iterdir()
    assert kept.name.startswith("wireshark-fields-")
    assert place.stat().st_mode & 0o777 == 0o700
    assert kept.stat().st_mode & 0o777 == 0o600
    inode = kept.stat().st_ino
    assert Fields()["ip.src"] == fields["ip.src"]
    assert [(path, path.stat().st_ino) for path in place.iterdir()] == [(kept, inode)]


def test_what_was_used_last_is_kept_longest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    calls: list[int] = []
    place = tmp_path / "capd"
    for number in range(12):
        cache.kept(str(number), lambda: make_count(calls))
        os.utime(place / f"wireshark-{number}", (number, number))
    cache.kept("0", lambda: make_count(calls))
    cache.kept("new", lambda: make_count(calls))
    names = {path.name.removeprefix("wireshark-") for path in place.iterdir()}
    assert names == {"0", *map(str, range(2, 12)), "new"}


def make_count(calls: list[int], data: bytes = b"a\tb\n") -> bytes:
    calls.append(1)
    return data


def test_what_others_could_have_written_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    calls: list[int] = []
    assert cache.kept("x", lambda: make_count(calls))[0:1] == b"a"
    assert cache.kept("x", lambda: make_count(calls))[0:1] == b"a"
    assert len(calls) == 1
    path = tmp_path / "capd/wireshark-x"
    path.chmod(0o666)
    cache.kept("x", lambda: make_count(calls))
    assert len(calls) == 2
    assert path.stat().st_mode & 0o777 == 0o600  # it was written anew
    os.chown(path, 12345, 12345)
    cache.kept("x", lambda: make_count(calls))
    assert len(calls) == 3
    path.unlink()
    path.symlink_to("/etc/passwd")
    assert cache.kept("x", lambda: make_count(calls))[0:1] == b"a"
    assert len(calls) == 4
    assert not path.is_symlink()
    (tmp_path / "capd").chmod(0o777)
    cache.kept("x", lambda: make_count(calls))
    assert len(calls) == 5
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nowhere")
    assert cache.directory() is None
    assert cache.kept("x", lambda: make_count(calls)) == b"a\tb\n"


def test_few_versions_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for number in range(20):
        cache.kept(f"{number}", lambda: b"a\tb\n")
    assert len(list((tmp_path / "capd").iterdir())) == 12


def test_another_program_is_asked_anew(directory: Path) -> None:
    program = engine(directory, "")
    asked = directory / "asked"
    asked.touch(0o666)
    asked.chmod(0o666)
    program.write_text(
        f"#!/bin/sh\necho $2 >> {asked}\nprintf 'F\\tOne\\tx.one\\tFT_UINT8\\tx\\t\\t0x0\\tThe first\\nP\\tEx\\tx\\n'\n"
    )
    assert Fields(program)["x.one"] == KnownField("x.one", "FT_UINT8", "x", "One", "The first")
    assert Fields(program)["x"].is_protocol
    assert asked.read_text() == "fields\n"
    program.write_text(f"#!/bin/sh\necho $2 >> {asked}\nprintf 'P\\tNew\\tnew\\n'\n")
    assert "new" in Fields(program)
    assert asked.read_text() == "fields\nfields\n"


@pytest.mark.parametrize("script", ["exit 1", "exit 0", "kill -9 $$", "echo what is wrong >&2; exit 2"])
def test_a_program_that_gives_no_report(directory: Path, script: str) -> None:
    program = engine(directory, "")
    program.write_text(f"#!/bin/sh\n{script}\n")
    with pytest.raises(EngineFailed, match="gives no report"):
        Fields(program).load()


def test_lines_are_found_by_bisection() -> None:
    lines = {b"%d" % number: b"v%d" % number for number in range(500)}
    found = SortedLines(sorted_lines(lines))
    for key, value in lines.items():
        assert found.find(key) == [key, value]
    assert (found.find(b"500"), found.find(b""), found.find(b"zzz")) == (None, None, None)
    assert list(found.beginning_with(b"49")) == [b"49", *(b"49%d" % number for number in range(10))]
    assert list(SortedLines(b"").beginning_with(b"")) == []


def test_reports_with_strange_lines() -> None:
    assert fields_of(b"") == b""
    assert fields_of(b"F\n\nP\tx\nF\ta\tb\tc\nnonsense\tx\n\xff\t\xfe") == b""
    report = b"V\ta\t1\tone\nR\ta\t2\t5\tsome\nT\tb\tYes\tNo\nE\tc\t1\td\nX\n"
    assert values_of(report) == b"15\na\t0\t16\nb\t16\t14\n1\t1\tone\n2\t5\tsome1\t1\tYes\n0\t0\tNo"


def test_what_stands_between_values_is_tried(directory: Path, tmp_path: Path) -> None:
    assert fields.aggregator == b"\r"
    # As versions do that escape all that they print.
    other = engine(directory, "")
    other.write_text("#!/bin/sh\nprintf '0.0.0.0\\\\r0.0.0.0\\t1\\n'\n")
    assert Fields(other).aggregator == b"\xff"
