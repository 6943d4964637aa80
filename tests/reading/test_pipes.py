"""What comes through a pipe is read as it comes: each packet as soon as it is whole, and all there are."""

import io
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import pytest

from capd_client import ReadError, read
from capd_client.cli.__main__ import main
from tests.cli.calling import called, called_for_bytes
from tests.reading.test_inputs import CASES, FRAME, MIB, MODIFIED, bytes_of_other, old_pcap
from tests.reading.test_reading import ORDERS, interface, packet, rows_of, section, small, write


@contextmanager
def fed(data: bytes) -> Generator[int, None, None]:
    """Give the reading end of a pipe through which some bytes come."""
    receiver, sender = os.pipe()

    def feed() -> None:
        with os.fdopen(sender, "wb", 0) as file:
            file.write(data)

    thread = threading.Thread(target=feed)
    thread.start()
    try:
        yield receiver
    finally:
        os.close(receiver)
        thread.join(20)


@contextmanager
def finishing(peer: socket.socket, data: bytes) -> Generator[None, None, None]:
    """Send, and close, a little later."""

    def finish() -> None:
        peer.sendall(data)
        peer.close()

    later = threading.Timer(0.05, finish)
    later.start()
    yield
    later.join(20)


@ORDERS
@pytest.mark.parametrize("kind", ["pcapng", "pcap", "modified"])
def test_each_packet_is_given_when_it_is_whole(order: str, kind: str) -> None:
    if kind == "pcapng":
        data, ends = small(order)
        data += section(bytes_of_other(order)) + interface(bytes_of_other(order), b"a")
        data += packet(bytes_of_other(order), 0, 9, b"other")
        ends.append(len(data))
    elif kind == "pcap":
        data, ends = old_pcap(order), [100, 156]
    else:
        data, ends = old_pcap(order, MODIFIED), [108, 172]
    receiver, sender = os.pipe()
    with os.fdopen(sender, "wb", 0) as file, read(receiver) as reader:
        os.close(receiver)
        given = iter(reader)
        for begin, end in zip([0, *ends], ends, strict=False):
            file.writelines(data[at : at + 1] for at in range(begin, end))
            # Nothing more is written before: were a byte more waited for, this would never end.
            next(given)
        file.write(b"\0\0\0\0\0")
        file.close()
        assert list(given) == []
        assert reader.rest_bytes == 5


@ORDERS
@pytest.mark.parametrize("name", [name for name in CASES if "offset before 1970" not in name])
def test_a_pipe_gives_what_a_file_gives(tmp_path: Path, name: str, order: str) -> None:
    data = CASES[name].make(order)
    path = write(tmp_path / "a", data)
    results: list[tuple[list[object], str, int]] = []
    with fed(data) as descriptor:
        for source in (path, descriptor):
            rows: list[object] = []
            text = ""
            with read(source) as reader:
                try:
                    rows.extend((each[:4], bytes(each.data)) for each in reader)
                except ReadError as error:
                    text = f"{error.offset_bytes} {error.text}"
                results.append((rows, text, reader.rest_bytes if not text else 0))
    assert results[0] == results[1]
    path.unlink()


def test_large_and_many_packets_stay_what_they_are(tmp_path: Path) -> None:
    sizes = [60, 1514, 9000, 3 * MIB, 7, 20 * MIB, 0]
    blocks = [
        packet("<", 0, number, bytes((number % 251,)) * sizes[number % 7 if number < 14 else 1])
        for number in range(9000)
    ]
    data = section("<") + interface("<", b"eth0") + b"".join(blocks)
    path = write(tmp_path / "a", data)
    with fed(data) as descriptor, read(descriptor) as reader:
        packets = list(reader)
    assert [(*each[:4], bytes(each.data)) for each in packets] == rows_of(path)
    assert all(each.data.readonly for each in packets)
    path.unlink()


def test_a_record_of_many_megabytes_takes_time_in_proportion(tmp_path: Path) -> None:
    # Each 64 KiB that come were copied and looked at again: seconds.
    data = section(">") + interface(">", b"eth0") + packet(">", 0, 1, bytes(100 * MIB))
    with fed(data) as descriptor, read(descriptor) as reader:
        assert [len(each.data) for each in reader] == [100 * MIB]


@pytest.mark.parametrize("is_blocking", [True, False])
def test_sockets_fifos_and_programs(tmp_path: Path, is_blocking: bool) -> None:
    data, ends = small("<")
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(is_blocking)
        with read(ours.fileno()) as reader:
            theirs.sendall(data[: ends[0]])
            packets = iter(reader)
            next(packets)
            with finishing(theirs, data[ends[0] :]):
                assert len(list(packets)) == 2
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    writer = threading.Thread(target=fifo.write_bytes, args=(data,))
    writer.start()
    assert [row[0] for row in rows_of(fifo)] == [0, 1, 2]
    writer.join(20)
    path = write(tmp_path / "a", data)
    with subprocess.Popen(["cat", path], stdout=subprocess.PIPE) as program:
        assert program.stdout is not None
        # Followed until its end, which is the pipe's.
        with read(program.stdout, follow=True) as reader:
            assert len(list(reader)) == 3


def test_what_cannot_be_read_is_an_error_in_words(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as unused:
        unused.bind(str(tmp_path / "socket"))
    closed = (tmp_path / "closed").open("wb")
    closed.close()
    write(tmp_path / "a", small("<")[0])
    for source, text in (
        (tmp_path, "directory"),
        (tmp_path / "none", "no such file"),
        (tmp_path / "a" / "b", "what should be its directory is a file"),
        (tmp_path / "socket", "No such device"),
        (tmp_path / "a\0b", "null"),
        ("", "no such file"),
        (closed, "closed file"),
        (io.BytesIO(b"x"), "fileno"),
        (999_999, "Bad file descriptor"),
        (-1, "Bad file descriptor"),
    ):
        with pytest.raises(ReadError, match=text), read(source) as reader:
            list(reader)
    write_only = os.open(tmp_path / "a", os.O_WRONLY)
    with pytest.raises(ReadError), read(write_only) as reader:
        list(reader)
    os.close(write_only)


# In the shell -----------------------------------------------------------------------------------------------------


@contextmanager
def standard_input(data: bytes) -> Generator[None, None, None]:
    """Have this process's standard input be a pipe with some bytes."""
    receiver, sender = os.pipe()
    kept = os.dup(0)
    os.dup2(receiver, 0)
    os.close(receiver)
    with os.fdopen(sender, "wb") as file:
        file.write(data)
    try:
        with open(0, closefd=False) as stdin, mock.patch.object(sys, "stdin", stdin):
            yield
    finally:
        os.dup2(kept, 0)
        os.close(kept)


@pytest.mark.parametrize("word", ["-", "/dev/stdin"])
def test_capctl_reads_standard_input(tmp_path: Path, word: str) -> None:
    data = section("<") + interface("<", b"eth0") + packet("<", 0, 10**18, FRAME)
    path = write(tmp_path / "a", data)
    for words in (["read"], ["read", "--info"], ["extract"], ["extract", "-w", "-"]):
        with standard_input(data):
            status, through, errors = called_for_bytes(words[0], word, *words[1:])
        assert status == 0, errors
        assert through == called_for_bytes(words[0], path, *words[1:])[1].replace(str(path).encode(), word.encode())
        assert through
    with standard_input(data + b"\6\0\0\0"):
        cut = called("read", word)
    assert (cut.returncode, cut.stderr.count("4 bytes")) == (1, 1)


def test_as_a_process_it_does_too(tmp_path: Path) -> None:
    data = section("<") + interface("<", b"eth0") + packet("<", 0, 10**18, FRAME)
    command = [sys.executable, "-m", "capd_client.cli.__main__", "read", "-"]
    done = subprocess.run(command, input=data, capture_output=True, check=True, timeout=60)
    assert done.stdout
    assert done.stdout == called_for_bytes("read", write(tmp_path / "a", data))[1]


def test_other_commands_refuse_standard_input(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["files", "-"]) == 2
    assert "standard input" in capsys.readouterr().err
