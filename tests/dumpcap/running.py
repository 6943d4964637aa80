"""Both programs with the same words, on the same packets: what each has said, and the files that it has left."""

import gzip
import os
import re
import select
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from capd_protocol.errors import RemoteProtocolError
from capd_protocol.formats import pcapng
from capd_protocol.frames import FrameDecoder
from capd_protocol.messages import FileOpened, PacketCount, decode
from tests.support.traffic import send

DUMPCAP = ("dumpcap",)
OURS = (sys.executable, "-P", "-m", "capd_client.dumpcap")
#: Of an experimental EtherType; each of another size.
FRAMES = [b"\x02\0\0\0\0\x01\x02\0\0\0\0\x02\x88\xb5" + bytes([number]) * (40 + 17 * number) for number in range(12)]
#: How long a capture may take to begin, and to notice a limit; dumpcap looks each half a second.
_BEGIN_S, _NOTICE_S, _PATIENCE_S = 10.0, 0.7, 20.0
#: The same where a limit of 4 s is to be noticed.
_NOTICE_TIME_S = 7.0
#: Of pcapng, and of pcap in micro- and nanoseconds.
_MAGICS = (b"\x0a\x0d\x0d\x0a", b"\xd4\xc3\xb2\xa1", b"\x4d\x3c\xb2\xa1")
_TIME = re.compile(r"(?<!\d)20\d{12}(?!\d)")
_TEMPORARY = re.compile(r"[^\s\"']*/?(?:wireshark_|capd_)([^\s\"'/]*?)(?:[A-Za-z0-9_-]{6}|_[0-9a-f]{8})(\.pcap(?:ng)?)")


class Outcome(NamedTuple):
    """What has come of one run.

    Attributes:
        status: with which it has ended.
        output: standard output, where that is no file; without times and the names of temporary files.
        said: standard error in the same way; messages to a parent one by one, counts of packets added up.
        files: by their names, what each has.
    """

    status: int
    output: str
    said: str
    files: "dict[str, FileContents]"


class FileContents(NamedTuple):
    """What a capture file has that both programs decide alike.

    Attributes:
        format: pcap or pcapng.
        interfaces: of each its link-layer type, snaplen, name and filter.
        packets: of each, its bytes and its original size.
        mode: its permissions.
    """

    format: str
    interfaces: tuple[tuple[object, ...], ...]
    packets: tuple[tuple[bytes, int], ...]
    mode: int


class Running:
    """A program that is running."""

    def __init__(self, program: Sequence[str], words: Sequence[str], directory: Path) -> None:
        (directory / "d").mkdir(parents=True)
        self._directory = directory
        self._program = program
        self._words = words
        with (directory / ".out").open("wb") as out, (directory / ".err").open("wb") as err:
            environment = {**os.environ, "TMPDIR": str(directory)}
            self.process = subprocess.Popen(
                [*program, *words], stdin=subprocess.DEVNULL, stdout=out, stderr=err, cwd=directory, env=environment
            )

    def has_begun(self) -> bool:
        """Whether it captures, or has ended."""
        return self.process.poll() is not None or b"File: " in self.errors or b"F\0" in self.errors

    @property
    def errors(self) -> bytes:
        """What it has written to standard error."""
        return (self._directory / ".err").read_bytes()

    def outcome(self) -> Outcome:
        """Return what has come of it; it has ended."""
        output = (self._directory / ".out").read_bytes()
        files = {
            _TEMPORARY.sub(r"TEMPORARY_\1\2", _TIME.sub("TIME", path.relative_to(self._directory).as_posix())): path
            for path in sorted(self._directory.rglob("*"))
            if path.is_file() and not path.name.startswith(".")
        }
        contents = {name: contents_of(path) for name, path in files.items()}
        if output[:4] in _MAGICS:
            (self._directory / ".packets").write_bytes(output)
            contents["-"] = contents_of(self._directory / ".packets")._replace(mode=0)
            output = b""
        status = self.process.returncode
        shown = output.decode("utf-8", "replace")
        return Outcome(status, self._steady(shown), self._steady(said_of(self.errors)), contents)

    def _steady(self, text: str) -> str:
        text = text.replace(f"{self._directory}/", "")
        return _TEMPORARY.sub(r"TEMPORARY_\1\2", _TIME.sub("TIME", text))


def said_of(errors: bytes) -> str:
    """Return what was said, as lines."""
    if errors[:2] in (b"E\0", b"F\0", b"B\0", b"S\0", b"D\0", b"P\0"):
        return _messages(errors)
    text = errors.decode("utf-8", "replace")
    text = text.partition("\nUsage: ")[0]  # what follows is help, in words of each program's own
    return "\n".join(line for each in text.split("\n") if (line := each.rpartition("\r")[2]).strip())


def _messages(errors: bytes) -> str:
    # How to use it is written without a frame, also to a parent.
    # And dumpcap has crashed now and then, with words of the C library behind its messages.
    decoder = FrameDecoder()
    decoder.feed(errors.partition(b"\nUsage: ")[0])
    lines: list[str] = []
    packets = 0
    while True:
        try:
            frame = decoder.next_frame()
        except RemoteProtocolError as error:
            lines.append(f"no message: {error}")
            break
        if frame is None:
            break
        message = decode(frame)
        if isinstance(message, PacketCount):
            packets += message.packets_delta
            continue
        if packets:
            lines.append(f"P {packets}")
            packets = 0
        lines.append(f"F {message.name}" if isinstance(message, FileOpened) else repr(message))
    return "\n".join([*lines, f"P {packets}"] if packets else lines)


def run_both(words: Sequence[str], directory: Path, sender: str) -> tuple[Outcome, Outcome]:
    """Run both programs at the same time; packets are sent once both capture. What does not end is ended by SIGINT."""
    directory.mkdir(parents=True)
    both = [Running(program, words, directory / name) for name, program in (("theirs", DUMPCAP), ("ours", OURS))]
    try:
        _wait(lambda: all(each.has_begun() for each in both), _BEGIN_S)
        if any(each.process.poll() is None for each in both):
            send(sender, FRAMES, len(FRAMES))
        is_about_time = "duration:4" in words
        deadline_s = time.monotonic() + (_NOTICE_TIME_S if is_about_time else _NOTICE_S)
        for each in both:
            try:
                each.process.wait(max(0.0, deadline_s - time.monotonic()))
            except subprocess.TimeoutExpired:
                each.process.send_signal(signal.SIGINT)
        for each in both:
            each.process.wait(_PATIENCE_S)
    finally:
        for each in both:
            if each.process.poll() is None:
                each.process.kill()
                each.process.wait()
    theirs, ours = (each.outcome() for each in both)
    return theirs, ours


def _wait(condition: Callable[[], bool], timeout_s: float) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not condition() and time.monotonic() < deadline_s:
        select.select([], [], [], 0.01)


# Files ----------------------------------------------------------------------------------------------------------------


def contents_of(path: Path) -> FileContents:
    """Return what a file has. Read by hand: this is about what is in it, and not about our reader."""
    data = path.read_bytes()
    if data[:2] == b"\x1f\x8b":
        data = gzip.decompress(data)
    mode = path.stat().st_mode & 0o777
    if data[:4] == _MAGICS[0]:
        return FileContents("pcapng", *_pcapng(data), mode)
    if data[:4] in _MAGICS[1:]:
        return FileContents("pcap", *_pcap(data), mode)
    return FileContents("text" if data else "empty", (), ((_TIME.sub("TIME", data.decode()).encode(), 0),), mode)


def _pcap(data: bytes) -> tuple[tuple[tuple[object, ...], ...], tuple[tuple[bytes, int], ...]]:
    snaplen, linktype = struct.unpack_from("=II", data, 16)
    packets: list[tuple[bytes, int]] = []
    at = 24
    while at < len(data):
        _, _, size, original = struct.unpack_from("=IIII", data, at)
        packets.append((data[at + 16 : at + 16 + size], original))
        at += 16 + size
    return ((linktype, snaplen),), tuple(packets)


def _pcapng(data: bytes) -> tuple[tuple[tuple[object, ...], ...], tuple[tuple[bytes, int], ...]]:
    interfaces: list[tuple[object, ...]] = []
    packets: list[tuple[bytes, int]] = []
    at = 0
    while at < len(data):
        kind, size = struct.unpack_from("=II", data, at)
        body = data[at + 8 : at + size - 4]
        if kind == pcapng.INTERFACE_DESCRIPTION_BLOCK:
            linktype, _, snaplen = struct.unpack_from("=HHI", body)
            options = _options(body[8:])
            # if_name, if_description, if_tsresol, if_filter
            interfaces.append((linktype, snaplen, *(options.get(each) for each in (2, 3, 9, 11))))
        elif kind == pcapng.ENHANCED_PACKET_BLOCK:
            captured, original = struct.unpack_from("=II", body, 12)
            packets.append((body[20 : 20 + captured], original))
        at += size
    return tuple(interfaces), tuple(packets)


def _options(data: bytes) -> dict[int, bytes]:
    options: dict[int, bytes] = {}
    at = 0
    while at + 4 <= len(data):
        code, size = struct.unpack_from("=HH", data, at)
        if not code:
            break
        options[code] = data[at + 4 : at + 4 + size]
        at += 4 + size + -size % 4
    return options
