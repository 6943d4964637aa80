"""The index of a ring says what is left of it, however its writer ended."""

import json
import time

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capd_protocol.arguments import MAX_FILE_NAME_BYTES, RING_SUFFIX_BYTES
from capd_protocol.formats.ring_index import (
    Contents,
    FileWasClosed,
    FileWasDeleted,
    FileWasOpened,
    Line,
    compacted,
    encode_line,
    index_name,
    lock_name,
    number_of,
    read_index,
    ring_file_name,
    ring_of,
)
from capd_protocol.messages import DeletionReason

OPENED = FileWasOpened(name="a_00001_20260131235959.pcapng", device=2049, inode=7, opened_ns=10**18)
CLOSED = FileWasClosed(
    name=OPENED.name,
    closed_ns=10**18 + 5,
    size_bytes=1000,
    packets=3,
    first_timestamp_ns=10**18 + 1,
    last_timestamp_ns=10**18 + 4,
    drops={"eth0": 1, "eth1": 0},
)
DELETED = FileWasDeleted(name=OPENED.name, deleted_ns=10**18 + 9, reason=DeletionReason.AGE, size_bytes=1000)
OTHER = FileWasOpened(name="a_00002_20260131235959.pcapng", device=2049, inode=8, opened_ns=10**18 + 5)


def text(*lines: Line) -> bytes:
    return b"".join(map(encode_line, lines))


def read(data: bytes) -> Contents:
    return read_index(data, "a.pcapng")


def numbered(number: int) -> str:
    return f"a_{number:05}_20260131235959.pcapng"


def test_lines_are_json_that_others_can_read() -> None:
    assert [json.loads(line) for line in text(OPENED, CLOSED, DELETED).splitlines()] == [
        {"type": "opened", "name": OPENED.name, "device": 2049, "inode": 7, "opened_ns": 10**18},
        {
            "type": "closed",
            "name": OPENED.name,
            "closed_ns": 10**18 + 5,
            "size_bytes": 1000,
            "packets": 3,
            "first_timestamp_ns": 10**18 + 1,
            "last_timestamp_ns": 10**18 + 4,
            "drops": {"eth0": 1, "eth1": 0},
        },
        {"type": "deleted", "name": OPENED.name, "deleted_ns": 10**18 + 9, "reason": "age", "size_bytes": 1000},
    ]


def test_what_was_opened_and_not_deleted_is_there() -> None:
    assert read(b"").files == ()
    assert read(b"").last is None
    (file,) = read(text(OPENED)).files
    assert (file.opened, file.closed, file.name) == (OPENED, None, OPENED.name)
    first, second = read(text(OPENED, CLOSED, OTHER)).files
    assert (first.closed, second.closed) == (CLOSED, None)
    gone = read(text(OPENED, CLOSED, OTHER, DELETED))
    assert [each.opened for each in gone.files] == [OTHER]
    everything_gone = read(text(OPENED, CLOSED, DELETED))
    assert (everything_gone.files, everything_gone.last) == ((), OPENED)  # numbers go on


def test_a_file_takes_the_place_of_one_that_had_its_name() -> None:
    again = FileWasOpened(name=OPENED.name, device=2049, inode=99, opened_ns=10**18 + 7)
    contents = read(text(OPENED, CLOSED, OTHER, again))
    assert [each.opened for each in contents.files] == [OTHER, again]
    assert contents.files[1].closed is None


@pytest.mark.parametrize(
    ("inode", "device", "index_device", "expected"),
    [
        (7, 2049, 2049, True),
        (8, 2049, 2049, False),
        (7, 2050, 2049, False),
        (7, 2050, 2050, True),  # the machine was started anew, and the disk has another number
    ],
)
def test_a_file_is_known_by_its_inode_on_the_device_of_the_index(
    inode: int, device: int, index_device: int, expected: bool
) -> None:
    (file,) = read(text(OPENED)).files
    assert file.is_file(inode, device, index_device) is expected


def test_a_torn_last_line_does_not_count() -> None:
    whole, torn = text(OPENED, CLOSED), text(OTHER)
    for cut in range(len(torn)):
        contents = read(whole + torn[:cut])
        assert contents.size_bytes == len(whole)
        assert [each.opened for each in contents.files] == [OPENED]
    assert len(read(whole + torn).files) == 2


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{}",
        b"\xff\0",
        b'{"type":"renamed","name":"x"}',
        b'{"type":"opened","name":7}',
        b'{"type":"opened","x":' + b"[" * 10_000,
        b'{"type":"closed","name":"a_00009_20260131235959.pcapng","closed_ns":1,"size_bytes":1,"packets":null,'
        b'"first_timestamp_ns":null,"last_timestamp_ns":null,"drops":{}}',
    ],
)
def test_a_line_that_is_not_understood_harms_no_other(line: bytes) -> None:
    contents = read(text(OPENED) + line + b"\n" + text(CLOSED))
    assert [each.closed for each in contents.files] == [CLOSED]


def test_a_later_version_may_say_more() -> None:
    line = json.dumps({**json.loads(encode_line(OPENED)), "colour": "blue"}).encode()
    assert [each.opened for each in read(line + b"\n").files] == [OPENED]


_lines = st.lists(
    st.builds(
        lambda kind, number: {
            "opened": FileWasOpened(name=numbered(number), device=1, inode=number, opened_ns=number),
            "closed": FileWasClosed(
                name=numbered(number),
                closed_ns=1,
                size_bytes=1,
                packets=None,
                first_timestamp_ns=None,
                last_timestamp_ns=None,
                drops={},
            ),
            "deleted": FileWasDeleted(name=numbered(number), deleted_ns=1, reason=None, size_bytes=1),
        }[kind],
        st.sampled_from(["opened", "opened", "closed", "deleted"]),
        st.integers(0, 8),
    ),
    max_size=60,
)


@settings(derandomize=True, deadline=None, max_examples=300)
@given(_lines)
def test_compacted_it_says_the_same(lines: list[Line]) -> None:
    before = read(text(*lines))
    data = compacted(before.files, before.last)
    after = read(data)
    assert (after.files, after.last) == (before.files, before.last)
    assert len(data) <= len(text(*lines)) + len(text(DELETED))


@pytest.mark.parametrize(
    ("name", "ring"),
    [
        ("a_00001_20260131235959.pcapng", "a.pcapng"),
        ("a_00001_20260131235959", "a"),
        (".a_00001_20260131235959", ".a"),
        ("a.b_12345_20260131235959.pcapng", "a.b.pcapng"),
        ("a_00001_20260131235959_00002_20260131235959.", "a_00001_20260131235959."),
        ("a.pcapng", None),
        ("_00001_20260131235959.pcapng", None),
        ("a_0001_20260131235959.pcapng", None),
    ],
)
def test_the_name_of_a_file_says_which_ring_it_may_belong_to(name: str, ring: str | None) -> None:
    assert ring_of(name) == ring


NAMES_OF_A = ["a_00007_20260131235959.pcapng", "a_99999_00000000000000.pcapng"]
NAMES_OF_OTHERS = [
    "",
    ".",
    "..",
    "a.pcapng",
    "a.pcapng.index",
    "a.pcapng.index.lock",
    "/a_00007_20260131235959.pcapng",
    "../a_00007_20260131235959.pcapng",
    "a/../a_00007_20260131235959.pcapng",
    "a_00007_20260131235959.pcapng/",
    "a_00007_20260131235959.pcapng\0",
    "a_00007_20260131235959.pcapng\n",
    "a_00007_20260131235959",
    "a_00007_20260131235959.pcapng.pcapng",
    "a_0007_20260131235959.pcapng",
    "a_0000\u0667_20260131235959.pcapng",
    "aa_00007_20260131235959.pcapng",
    "b_00007_20260131235959.pcapng",
    "/etc/passwd",
]


@pytest.mark.parametrize("name", NAMES_OF_A)
def test_the_number_of_a_file_is_in_its_name(name: str) -> None:
    assert number_of("a.pcapng", name) == int(name[2:7])


@pytest.mark.parametrize("name", NAMES_OF_OTHERS)
def test_what_is_no_name_of_this_ring_has_no_number_and_no_file(name: str) -> None:
    assert number_of("a.pcapng", name) is None
    line = FileWasOpened(name=name, device=2049, inode=7, opened_ns=1)
    contents = read(text(OPENED, line, FileWasClosed(**{**msgspec.structs.asdict(CLOSED), "name": name})))
    assert ([each.opened for each in contents.files], contents.last) == ([OPENED], OPENED)


@settings(derandomize=True, max_examples=300)
@given(st.text(st.sampled_from("a._0\n"), min_size=1, max_size=8), st.integers(0, 99_999))
def test_every_name_that_a_ring_gives_is_known_again(file_name: str, number: int) -> None:
    name = ring_file_name(file_name, number, time.struct_time((2026, 1, 31, 3, 4, 5, 5, 31, 0)))
    assert number_of(file_name, name) == number
    assert number_of(f"x{file_name}", name) is None


def test_names_of_indexes_are_never_too_long() -> None:
    longest = "x" * (MAX_FILE_NAME_BYTES - RING_SUFFIX_BYTES)
    assert index_name("dns.pcapng") == "dns.pcapng.index"
    assert len(index_name(longest) + ".new") <= MAX_FILE_NAME_BYTES
    assert lock_name("dns.pcapng") == "dns.pcapng.index.lock"
    assert len(lock_name(longest)) <= MAX_FILE_NAME_BYTES
