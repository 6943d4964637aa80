"""``capctl dissect`` and ``capctl decode``: what they print is what Wireshark knows."""

import csv
import io
import json
from pathlib import Path

import pytest

from tests.cli.calling import called
from tests.dissection.files import odd, query, said_by_tshark, write


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write(tmp_path / "x.pcap", [query(b"a.example.org", 1), query(b"b.example.org", 2), *odd()[:1]])


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))


def test_trees_are_those_of_tshark(file: Path) -> None:
    done = called("dissect", file)
    assert (done.returncode, done.stderr) == (0, "")
    expected = said_by_tshark(file, "-V", "-Y", "dns").decode().splitlines()
    # Of what it has worked out, which is the same text, tshark shows brackets around it.
    found, told = ([line.strip(" []") for line in lines if line] for lines in (done.stdout.splitlines(), expected))
    assert found[: len(told)] == told
    assert "\x1b" not in done.stdout


def test_fields_are_lines_csv_and_json(file: Path) -> None:
    names = ("frame.number", "ip.addr", "dns.qry.name")
    assert called("dissect", "-Y", "dns", file, *names).stdout.splitlines() == [
        "1  192.0.2.7,192.0.2.1  a.example.org",
        "2  192.0.2.7,192.0.2.1  b.example.org",
    ]
    done = called("dissect", "--csv", "-c", "1", file, *names)
    rows = [list(names), ["1", "192.0.2.7,192.0.2.1", "a.example.org"]]
    assert list(csv.reader(io.StringIO(done.stdout))) == rows
    done = called("dissect", "--json", "-f", "tcp", file, *names)
    assert [json.loads(line) for line in done.stdout.splitlines()] == [
        {"frame.number": ["1"], "ip.addr": ["192.0.2.1", "192.0.2.2"], "dns.qry.name": []}
    ]


def test_whole_frames_as_json(file: Path) -> None:
    done = called("dissect", "--json", "-c", "1", file)
    frame = json.loads(done.stdout)
    assert frame["number"] == 1
    assert [layer["name"] for layer in frame["layers"]] == ["frame", "eth", "ip", "udp", "dns"]
    (ttl,) = [item for item in frame["layers"][2]["children"] if item["name"] == "ip.ttl"]
    assert (ttl["label"], ttl["text"], ttl["hex"], ttl["offset_bytes"]) == ("Time to Live: 64", "64", "40", 22)


def test_a_packet_in_hexadecimal() -> None:
    packet = query(b"a.example.org")
    for words in ((packet.hex(),), (packet.hex(":"),), ("-y", "101", packet[14:].hex(" "))):
        done = called("decode", *words)
        assert (done.returncode, done.stderr) == (0, "")
        assert "Name: a.example.org" in done.stdout
    done = called("decode", "--json", "-o", "ip.defragment:FALSE", "--decode-as", "udp.port==53,syslog", packet.hex())
    assert [layer["name"] for layer in json.loads(done.stdout)["layers"]][-1] == "syslog"


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("dissect", "FILE", "ip.scr"), "near are ip.src"),
        (("dissect", "FILE", "-Y", "ip =="), "display filter"),
        (("dissect", "FILE", "--csv"), "name some"),
        (("dissect", "FILE", "-c", "0"), "from 1"),
        (("dissect", "FILE", "-o", "nothing"), "has no ':'"),
        (("dissect", "FILE", "-o", "no.such:1"), "no.such:1"),
        (("dissect", "FILE", "--decode-as", "x"), "has no ','"),
        (("dissect", "FILE", "--keylog-file", "/nonexistent"), "no such file"),
        (("dissect", "FILE", "--profile", "none"), "profile"),
        (("decode", "0x0"), "no hexadecimal"),
        (("decode", ""), "1 to 262,144 bytes"),
        (("decode", "-y", "99999", "00"), "65535"),
    ],
    ids=lambda words: " ".join(words) if isinstance(words, tuple) else None,
)
def test_what_is_refused(file: Path, words: tuple[str, ...], text: str) -> None:
    done = called(*(str(file) if word == "FILE" else word for word in words))
    assert done.returncode in (1, 2)
    assert done.stdout == ""
    assert text in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("words", [(), ("-f", "ip"), ("ip.src",)], ids=str)
def test_a_file_that_is_cut_is_shown_as_far_as_it_goes(file: Path, words: tuple[str, ...]) -> None:
    file.write_bytes(file.read_bytes()[:-5])
    done = called("dissect", *words[:2] if len(words) > 1 else (), file, *words[:1] if len(words) == 1 else ())
    assert done.returncode == 1
    assert done.stderr == f"capctl: {file}: the last record is not whole\n"
    assert "192.0.2.7" in done.stdout
