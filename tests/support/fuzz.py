"""Inputs that are nearly right, for decoders: lengths, counts and codes are changed, records cut, moved and repeated.

A decoder may refuse with its own typed errors, and with nothing else, in bounded time and memory. Run for longer:
``python -m tests.support.fuzz SECONDS --seed N [--only NAME]``.
"""

import argparse
import contextlib
import os
import random
import re
import resource
import struct
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple
from unittest import mock

from capd import launch
from capd.config.reader import ConfigError
from capd.config.reader import decode as decode_configuration
from capd_client import ReadError, read
from capd_client.cli.files.ring import _write
from capd_client.editing.extraction import Extraction
from capd_client.reading.files import opening
from capd_client.ring.files import RingFile, Span
from capd_protocol.arguments import ARGUMENTS
from capd_protocol.errors import RemoteProtocolError
from capd_protocol.formats.ring_index import FileWasClosed, FileWasDeleted, FileWasOpened, Line, encode_line, read_index
from capd_protocol.frames import Frame, FrameDecoder
from capd_protocol.messages import decode, encode

#: For one input of some kilobytes; on a busy machine there is little that takes a hundredth of it.
BOUND_S = 2.0
#: A pipe's buffer, and what is made of an input: so much memory more than there is before.
BOUND_BYTES = 64 * 1024 * 1024
#: What lengths, counts and numbers become, as far as there is room.
_VALUES = (0, 1, 2, 3, 4, 7, 8, 11, 12, 16, 28, 32, 127, 128, 255, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFC, 0xFFFFFFFF)
_MOST_CHANGES = 4


class Decoder(NamedTuple):
    """What is given inputs.

    Attributes:
        run: takes one input.
        errors: what it may raise.
        seeds: inputs that are right.
        records: where the records of an input begin, in order; as far as they can be followed.
        fields: offset and size of numbers within a record that begins at an offset.
        changed: a record with a change; None: one of its fields becomes another number.
    """

    run: Callable[[bytes], object]
    errors: tuple[type[Exception], ...]
    seeds: Callable[[], Sequence[bytes]]
    records: Callable[[bytes], list[int]]
    fields: Callable[[bytes, int], list[tuple[int, int]]]
    changed: Callable[[bytes, random.Random], bytes] | None = None


class Finding(NamedTuple):
    """An input that did what none may.

    Attributes:
        decoder: its name.
        what: the exception and where it was raised, or the bound.
        data: the input.
    """

    decoder: str
    what: str
    data: bytes


# Inputs -----------------------------------------------------------------------------------------------------------


def mutated(decoder: Decoder, seeds: Sequence[bytes], chance: random.Random) -> bytes:
    """Return one of the seeds with some changes."""
    data = bytearray(chance.choice(seeds))
    for _ in range(chance.randint(1, _MOST_CHANGES)):
        begins = decoder.records(bytes(data)) or [0]
        number = chance.randrange(len(begins))
        begin, end = begins[number], [*begins, len(data)][number + 1]
        match chance.randrange(8):
            case 0 | 1 | 2 | 3 if decoder.changed is not None:
                data[begin:end] = decoder.changed(bytes(data[begin:end]), chance)
            case 0 | 1 | 2 | 3:
                fields = [each for each in decoder.fields(bytes(data), begin) if sum(each) <= len(data)]
                if fields:
                    _change(data, *chance.choice(fields), chance)
            case 4:
                del data[begin:end]
            case 5:
                other = chance.choice(begins)
                data[other:other] = data[begin:end] * chance.choice((1, 1, 2, 50))
            case 6 if data:
                data[chance.randrange(len(data))] = chance.randrange(256)
            case _:
                del data[chance.randint(begin, len(data)) :]
    return bytes(data)


def _change(data: bytearray, at: int, size: int, chance: random.Random) -> None:
    order: Literal["little", "big"] = "little" if chance.randrange(2) else "big"
    old = int.from_bytes(data[at : at + size], order)
    value = chance.choice((*_VALUES, old + 1, old - 1, old + 4, old - 4, old * 2, chance.getrandbits(8 * size)))
    data[at : at + size] = (value % (1 << 8 * size)).to_bytes(size, order)


# Decoders ---------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _file_of(data: bytes) -> Iterator[str]:
    descriptor = os.memfd_create("fuzz")
    try:
        os.write(descriptor, data)
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


def _rows_of(source: str | int) -> tuple[list[object], ReadError | None]:
    rows: list[object] = []
    # Wireshark's parsers are not what is tried here.
    with mock.patch.object(opening, "is_foreign", return_value=False):
        return _rows_of_ours(source, rows)


def _rows_of_ours(source: str | int, rows: list[object]) -> tuple[list[object], ReadError | None]:
    with read(source) as reader:
        try:
            rows.extend((*each[:4], bytes(each.data)) for each in reader)
        except ReadError as error:
            return rows, error
    return rows, None


def _read_file(data: bytes) -> None:
    """Read from a file and through a pipe, which must agree, and write what was read."""
    with _file_of(data) as path:
        rows, error = _rows_of(path)
        receiver, sender = os.pipe()
        with os.fdopen(receiver, "rb") as pipe:
            with os.fdopen(sender, "wb", 0) as file:
                file.write(data[:_PIPE_BYTES])
            if len(data) <= _PIPE_BYTES:
                assert _rows_of(pipe.fileno())[0] == rows, "a pipe gives something else than a file"
        file_of_ring = RingFile(path, len(data), is_complete=True)
        unknown = mock.patch.object(opening, "is_foreign", return_value=False)
        with unknown, Path(os.devnull).open("wb") as nowhere:
            assert _write(Extraction([file_of_ring], Span()), nowhere, overwrite=False) == len(rows), (
                "extraction gives others"
            )
    if error is not None:
        raise error


#: That a pipe holds without a reader.
_PIPE_BYTES = 64 * 1024


def _captures() -> Sequence[bytes]:
    # The tests' own inputs: what is wrong with some of them meets what is wrong with others.
    from tests.reading.test_inputs import CASES  # noqa: PLC0415  # pytest, else not needed
    from tests.reading.test_reading import small  # noqa: PLC0415

    made = [case.make(order) for case in CASES.values() for order in "<>"]
    return [each for each in made if len(each) < _PIPE_BYTES // 4] + [small(order)[0] for order in "<>"]


def _order_of(data: bytes) -> str:
    return ">" if b"\x1a\x2b\x3c\x4d" in data[8:12] or data[:2] == b"\xa1\xb2" else "<"


def _capture_records(data: bytes) -> list[int]:
    order, begins = _order_of(data), list[int]()
    is_pcapng = data[:4] == b"\x0a\x0d\x0d\x0a"
    at = 0 if is_pcapng else 24
    while at + 16 <= len(data):
        begins.append(at)
        field = at + (4 if is_pcapng else 8)
        (length,) = struct.unpack_from(order + "I", data, field)
        at += max(12, length) if is_pcapng else 16 + length
    return begins if is_pcapng else [0, *begins]


def _capture_fields(data: bytes, begin: int) -> list[tuple[int, int]]:
    """Return words of the header, its halves, and each option's code and length; the last word is the length again."""
    order = _order_of(data)
    fields = [(begin + at, size) for at in range(0, 28, 4) for size in (2, 4)]
    if data[:4] != b"\x0a\x0d\x0d\x0a" or begin + 8 > len(data):
        return fields
    kind, length = struct.unpack_from(order + "II", data, begin)
    end = min(len(data), begin + length) - 4
    at = begin + {0x0A0D0D0A: 24, 1: 16, 5: 20}.get(kind, length)
    while at + 4 <= end:
        fields += [(at, 2), (at + 2, 2), (at + 4, 1)]
        at += 4 + -(-struct.unpack_from(order + "H", data, at + 2)[0] // 4) * 4
    return [*fields, (end, 4)]


def _decode_frames(data: bytes, decode_one: Callable[[Frame], object]) -> None:
    frames = FrameDecoder()
    frames.feed(data)
    while (frame := frames.next_frame()) is not None:
        decode_one(frame)
    frames.check_end()


def _messages() -> Sequence[bytes]:
    from tests.protocol.test_messages import DUMPCAP, OURS  # noqa: PLC0415  # pytest, else not needed

    return [row[1] for row in DUMPCAP] + [encode(row[0]) for row in OURS]


def _controls() -> Sequence[bytes]:
    from tests.daemon.test_launch import EACH  # noqa: PLC0415  # pytest, else not needed

    return [launch.encode(each) for each in EACH]


def _frame_records(data: bytes) -> list[int]:
    begins, at = list[int](), 0
    while at + 4 <= len(data):
        begins.append(at)
        at += 4 + int.from_bytes(data[at + 1 : at + 4], "big")
    return begins


def _frame_fields(data: bytes, begin: int) -> list[tuple[int, int]]:
    end = begin + 4 + int.from_bytes(data[begin + 1 : begin + 4], "big")
    return [(begin, 1), (begin + 1, 3), (begin + 3, 1), *((at, 1) for at in range(begin + 4, min(end, len(data))))]


def _lines() -> Sequence[bytes]:
    name = "a_00001_20260131235959.pcapng"
    opened = FileWasOpened(name=name, device=1, inode=2, opened_ns=3)
    closed = FileWasClosed(
        name=name, closed_ns=4, size_bytes=5, packets=6, first_timestamp_ns=7, last_timestamp_ns=8, drops={"eth0": 9}
    )
    deleted = FileWasDeleted(name=name, deleted_ns=10, reason=None, size_bytes=5)
    files: list[list[Line]] = [[opened, closed], [opened, closed, deleted, opened]]
    return [b"".join(map(encode_line, lines)) for lines in files]


_LINE_FIELD = re.compile(rb'[0-9{}\[\]":,]')


def _line_records(data: bytes) -> list[int]:
    return [0, *(found.end() for found in re.finditer(rb"\n", data[:-1]))] if data else []


def _line_fields(data: bytes, begin: int) -> list[tuple[int, int]]:
    return [(found.start(), 1) for found in _LINE_FIELD.finditer(data, begin)]


#: A line of TOML: what stands before a value, and the value.
_TOML_LINE = re.compile(rb"([^=]*)= *(.*)", re.DOTALL)
_TOML_VALUES = (
    *(b"0", b"1", b"-1", b"4294967295", b"9223372036854775808", b"9" * 30, b"9" * 5000, b"0x7fffffff", b"1e400"),
    *(b"0.1", b"-0.0", b"inf", b"-inf", b"nan", b"true", b"false", b"1979-05-27T07:32:00Z", b"07:32:00", b"1979-05-27"),
    *(b'""', b'"*"', b'"any"', b'"root"', b'"a\\u0000b"', b'"a\\nb"', b'"\\u202e"', b"'''a\nb'''", b"'%300d'" % 0),
    *(b"[]", b"[[]]", b"[1, 'a', true]", b'["any", "any"]', b'["a", "\\u0000"]', b'[""]', b"[" * 3000, b"{a.b = {}}"),
    *(b"[" * 50 + b"]" * 50, b"{name = 'x', users = [0]}", b"[{name = 'x'}]", b"\xff", b"nothing", b"{}"),
)
_TOML_TABLES = (
    *(b"[[rule]]", b"[rule]", b"[captures]", b"[captures.dns]", b"[captures.'a/b']", b'[captures."\\u0000"]'),
    *(b"[metrics]", b"[[metrics]]", b"[captures." + b"x" * 300 + b"]", b"[]", b"[[captures.dns]]", b"[captures.a.b]"),
)
_RECORDER_AND_METRICS = b"""
[captures.recorder]
interfaces = ["any"]
group = 0
recorder_duration = 30
recorder_memory = 64
recorder_after = 1.5
recorder_trigger_filter = "icmp"
recorder_trigger_rate = 1000
recorder_trigger_link_down = true
recorder_cool_down = 60
ringbuffer_files = 3

[metrics]
address = "[::1]:9105"
"""


def _configurations() -> Sequence[bytes]:
    from tests.policy.test_config import WHOLE  # noqa: PLC0415  # pytest, else not needed

    return [WHOLE.encode(), _RECORDER_AND_METRICS, b'[metrics]\nsocket = "/run/capd/metrics"\ngroup = "root"\n']


def _changed_toml(line: bytes, chance: random.Random) -> bytes:
    """Return a line with another value or another key, or the name of a table in its place."""
    found = _TOML_LINE.match(line)
    if found is None or not chance.randrange(6):
        return chance.choice(_TOML_TABLES) + b"\n"
    if chance.randrange(4):
        return found[1] + b"= " + chance.choice(_TOML_VALUES) + b"\n"
    key = chance.choice((*(each.name for each in ARGUMENTS), "users", "groups", "filter", "name", "captures", "a.b"))
    return key.encode() + b" = " + found[2]


#: Another decoder is another row.
DECODERS = {
    "captures": Decoder(_read_file, (ReadError,), _captures, _capture_records, _capture_fields),
    "messages": Decoder(
        lambda data: _decode_frames(data, decode), (RemoteProtocolError,), _messages, _frame_records, _frame_fields
    ),
    "launch": Decoder(
        lambda data: _decode_frames(data, launch.decode),
        (RemoteProtocolError,),
        _controls,
        _frame_records,
        _frame_fields,
    ),
    "configuration": Decoder(
        lambda data: decode_configuration(Path("capd.toml"), data),
        (ConfigError,),
        _configurations,
        _line_records,
        _line_fields,
        _changed_toml,
    ),
    "index": Decoder(lambda data: read_index(data, "a.pcapng"), (), _lines, _line_records, _line_fields),
}


# Running ----------------------------------------------------------------------------------------------------------


def fault_of(name: str, data: bytes) -> Finding | None:
    """Give a decoder an input; return what it did that it may not."""
    decoder = DECODERS[name]
    began_s = time.process_time()
    try:
        with _bounded_memory():
            decoder.run(data)
    except decoder.errors as error:
        if not str(error) or "unpack" in str(error):
            return Finding(name, f"no sentence: {error}", data)
    except Exception as error:  # what it is and where is what is reported
        frames = traceback.extract_tb(error.__traceback__)
        return Finding(name, f"{error!r} in {Path(frames[-1].filename).name}:{frames[-1].lineno}", data)
    taken_s = time.process_time() - began_s
    if taken_s > BOUND_S:
        return Finding(name, f"took {taken_s:.1f} s", data)
    return None


@contextlib.contextmanager
def _bounded_memory() -> Iterator[None]:
    """Have this process get no more memory than the bound: a ``MemoryError``. To trace it takes three times as long."""
    before = resource.getrlimit(resource.RLIMIT_DATA)
    # What the limit counts; statm(5) adds the stack, which tests that go deep have made long.
    data_kib = int(Path("/proc/self/status").read_text().partition("VmData:")[2].split()[0])
    resource.setrlimit(resource.RLIMIT_DATA, (data_kib * 1024 + BOUND_BYTES, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


def fuzz(name: str, seed: int, is_over: Callable[[int], bool]) -> tuple[int, list[Finding]]:
    """Give a decoder inputs until it is over; return how many, and of each kind of finding the first.

    Args:
        name: of the decoder.
        seed: the same one gives the same inputs.
        is_over: asked before each input, with the number of those before.
    """
    chance = random.Random(f"{seed} {name}")
    seeds = DECODERS[name].seeds()
    findings: dict[str, Finding] = {}
    executions = 0
    while not is_over(executions):
        found = fault_of(name, mutated(DECODERS[name], seeds, chance))
        executions += 1
        if found is not None:
            findings.setdefault(found.what, found)
    return executions, list(findings.values())


def _for(duration_s: float) -> Callable[[int], bool]:
    end_s = time.monotonic() + duration_s
    return lambda _: time.monotonic() >= end_s


def main() -> int:
    """Fuzz for some time, shared evenly by the decoders; print what was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.support.fuzz", description=__doc__)
    parser.add_argument("seconds", type=float, metavar="SECONDS", help="how long, all decoders together")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="the same one gives the same inputs (0)")
    parser.add_argument("--only", choices=DECODERS, action="append", metavar="NAME", help=f"of {', '.join(DECODERS)}")
    options = parser.parse_args()
    names = options.only or list(DECODERS)
    failed = 0
    for name in names:
        executions, findings = fuzz(name, options.seed, _for(options.seconds / len(names)))
        print(f"{name}: {executions:,} executions, {len(findings)} findings", flush=True)
        for each in findings:
            print(f"  {each.what}\n    {each.data.hex()}")
        failed += len(findings)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
