"""Files in formats that only Wireshark knows, and those that are none: read through its editcap."""

import os
import subprocess
import threading
from pathlib import Path

import pytest

from capd_client import ReadError, read, write
from capd_client.reading.files import foreign
from tests.cli.calling import called
from tests.client.test_extcap import processes_with
from tests.interfaces.helpers import wait_until
from tests.reading.test_writing import rows, some_file

FORMATS = ("snoop", "netmon1", "ngsniffer", "lanalyzer")


def converted(source: Path, file_format: str) -> Path:
    target = source.with_name(f"as.{file_format}")
    subprocess.run(["editcap", "-F", file_format, source, target], check=True, capture_output=True, timeout=60)
    return target


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = some_file(tmp_path / "all.pcapng", 700, interfaces=1)
    # Some of these formats know no packets of no bytes, nor times that go back.
    with read(path) as reader:
        packets = sorted(reader.matching("greater 60"), key=lambda each: each.timestamp_ns)[:300]
    write(tmp_path / "source.pcapng", packets, reader.interfaces)
    return tmp_path / "source.pcapng"


@pytest.mark.parametrize("file_format", FORMATS)
def test_packets_are_those_that_were_converted(source: Path, file_format: str) -> None:
    found = converted(source, file_format)
    assert [each[2] for each in rows(found)] == [each[2] for each in rows(source)]
    with read(found) as reader:
        list(reader)
        assert [each.linktype for each in reader.interfaces] == [1]
        assert reader.rest_bytes == 0


def test_in_the_shell_and_through_descriptors(source: Path) -> None:
    found = converted(source, "snoop")
    assert len(called("read", found).stdout.splitlines()) == 300
    with found.open("rb") as file:
        file.read(100)  # files are read from their beginning
        assert len(list(read(file))) == 300
    merged = called("merge", "-w", source.with_name("m.pcapng"), found, source)
    assert "600 packets" in merged.stdout


@pytest.mark.parametrize("data", [b"what is no capture file\n" * 50, b"\x7fELF" + bytes(500)])
def test_what_is_no_capture_file_is_an_error(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "a"
    path.write_bytes(data)
    with pytest.raises(ReadError, match="neither pcapng nor pcap; Wireshark's editcap says: "):
        list(read(path))


def test_without_editcap_the_packages_are_named(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = converted(source, "snoop")
    monkeypatch.setattr(foreign, "EDITCAP", "no-such-editcap")
    with pytest.raises(ReadError, match=r"which is not there \(wireshark-common on Debian"):
        list(read(found))


def program(directory: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a program in editcap's place."""
    path = directory / "bin" / "editcap"
    path.parent.mkdir()
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    for each in (path, *path.parents):
        if str(each).startswith("/tmp/"):
            each.chmod(0o755)
    monkeypatch.setenv("PATH", f"{path.parent}:{os.environ['PATH']}")


def test_it_runs_as_nobody_where_we_are_root(source: Path, user_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = converted(source, "snoop")
    program(user_dir, 'id -u >&2; grep -h "^\\(Groups\\|CapEff\\)" /proc/self/status >&2; exit 1', monkeypatch)
    with pytest.raises(ReadError, match=r"says: 65534 Groups: CapEff: 0000000000000000$"):
        list(read(found))


def test_the_program_ends_with_its_reader(source: Path, user_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = converted(source, "snoop")
    mark = "sleep 61.7"
    readable = user_dir / "source"
    readable.write_bytes(source.read_bytes())
    readable.chmod(0o644)
    program(user_dir, f"cat {readable}; exec {mark}", monkeypatch)
    with read(found) as reader:
        assert next(iter(reader)).data is not None
        # Its shell becomes what waits only after the packets were written.
        wait_until(lambda: processes_with("61.7"))
        assert processes_with("61.7") != []
    assert processes_with("61.7") == []


def test_words_of_the_program_are_escaped_and_cut(
    source: Path, user_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = converted(source, "snoop")
    program(user_dir, "printf '\\033[31mred%s' \"$(head -c 5000 /dev/zero | tr '\\0' x)\" >&2; exit 1", monkeypatch)
    with pytest.raises(ReadError) as raised:
        list(read(found))
    assert "\033" not in raised.value.text
    assert "red" in raised.value.text
    assert len(raised.value.text) < 500


def test_many_are_read_at_once(source: Path) -> None:
    found = converted(source, "snoop")
    counts: list[int] = []
    threads = [threading.Thread(target=lambda: counts.append(len(list(read(found))))) for _ in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join(60)
    assert counts == [300] * 4
