"""Packets that are all alike are copied, side by side; any others are not, and come out right all the same."""

import contextlib
import ctypes
import resource
from collections.abc import Generator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capd.worker.output.savefile import WriteError, create_file
from capd.worker.packets.arrays import U32
from capd.worker.packets.blocks import Block, Blocks
from capd.worker.packets.records import RecordMaker, Records
from capd_protocol.formats.linktypes import DLT_EN10MB, DLT_LINUX_SLL, DLT_RAW
from tests.support.attack import opened
from tests.worker.test_records import FileFormat, Layout, Memory, Packet, both_formats, payload, slow

COUNT = 300


def alike(count: int = COUNT, size_bytes: int = 64) -> list[Packet]:
    """Return packets that differ in their bytes and times."""
    return [
        Packet(bytes((i + j) % 256 for j in range(size_bytes)), time_ns=1_700_000_000_999_999_000 + 7 * i)
        for i in range(count)
    ]


def maker_of(
    memory: Memory, *, file_format: FileFormat = "pcapng", snaplen_bytes: int = 262_144, dlt: int = DLT_EN10MB
) -> RecordMaker:
    return RecordMaker(
        memory=memory.bytes,
        address=memory.address,
        file_format=file_format,
        interface_id=3,
        snaplen_bytes=snaplen_bytes,
        dlt=dlt,
    )


def data_of(records: Records) -> list[bytes]:
    return [ctypes.string_at(int(address), int(size)) for address, size in records.vectors]


def expected(
    packets: Sequence[Packet], *, file_format: FileFormat = "pcapng", snaplen_bytes: int = 262_144
) -> list[bytes]:
    return [slow(each, file_format=file_format, interface_id=3, snaplen_bytes=snaplen_bytes) for each in packets]


def together(blocks: Sequence[Sequence[Packet]]) -> tuple[Memory, Blocks]:
    """Lay packets out in blocks, one behind the other."""
    filled: list[Block] = []
    words: list[U32] = []
    for packets in blocks:
        layout = Layout()
        memory, laid_out = layout.lay_out(packets)
        begin = sum(map(len, words))
        (block,) = laid_out.filled
        filled.append(Block(block.first + begin, block.packets, block.end + begin, block.limit + begin))
        # A block begins on a page.
        words.append(np.pad(memory.words[: layout.end_word], (0, -layout.end_word % 1024)))
    return Memory(np.concatenate([*words, np.zeros(64, np.uint32)])), Blocks(0, len(blocks), tuple(filled))


@both_formats
@pytest.mark.parametrize("snaplen_bytes", [262_144, 60, 33])
@pytest.mark.parametrize("size_bytes", [1, 60, 61, 62, 63, 64, 768])
def test_packets_of_one_size_are_copied(size_bytes: int, snaplen_bytes: int, file_format: FileFormat) -> None:
    packets = alike(size_bytes=size_bytes)
    memory, blocks = Layout().lay_out(packets)
    before = memory.bytes.copy()
    records = maker_of(memory, file_format=file_format, snaplen_bytes=snaplen_bytes).make(blocks)
    assert data_of(records) == expected(packets, file_format=file_format, snaplen_bytes=snaplen_bytes)
    assert records.timestamps_ns.tolist() == [packet.time_ns for packet in packets]
    assert records.buffer is not None
    assert np.array_equal(memory.bytes, before), "the ring was written to"


def test_those_of_several_blocks_are_copied_together() -> None:
    packets = alike(1000)
    memory, blocks = together([packets[:300], packets[300:301], packets[301:]])
    # Of a block with one packet nobody can say how far it is to the next one.
    assert maker_of(memory).make(blocks).buffer is None
    memory, blocks = together([packets[:300], packets[300:302], packets[302:]])
    records = maker_of(memory).make(blocks)
    assert data_of(records) == expected(packets)
    assert records.buffer is not None


def test_a_block_with_others_leaves_none_copied() -> None:
    packets = [alike(), alike(size_bytes=72), alike()]
    memory, blocks = together(packets)
    records = maker_of(memory).make(blocks)
    assert data_of(records) == expected([each for some in packets for each in some])
    assert records.buffer is None


#: The first one's distance to the next is that of all the others.
_OTHERS = {
    "shorter": Packet(payload(63)),
    "cut": Packet(payload(64), captured=63),
    "longer than captured": Packet(payload(64), longer=1),
    "tagged": Packet(payload(64), tag=(0x8100, 5)),
    "tagged, priority only": Packet(payload(64), tag=(0x8100, 0)),
    "tagged, no status": Packet(payload(64), tag=(0x88A8, 5), tag_status=0),
    "larger": Packet(payload(80)),
    "much larger": Packet(payload(1500)),
    "empty": Packet(b""),
}


@both_formats
@pytest.mark.parametrize("at", [0, 1, 150, COUNT - 2, COUNT - 1])
@pytest.mark.parametrize("other", _OTHERS.values(), ids=_OTHERS)
def test_one_that_is_not_alike_is_noticed(other: Packet, at: int, file_format: FileFormat) -> None:
    packets = alike()
    packets[at] = replace(other, time_ns=packets[at].time_ns)
    memory, blocks = Layout().lay_out(packets)
    made = data_of(maker_of(memory, file_format=file_format).make(blocks))
    # Its TPID is not given, where it has no status.
    if other.tag_status == 0:
        packets[at] = replace(packets[at], tag=(0x8100, 5))
    assert made == expected(packets, file_format=file_format)


@pytest.mark.parametrize(
    "packets",
    [
        alike(size_bytes=769),
        alike(size_bytes=0),
        alike(200),
        [replace(packet, tag=(0x8100, 5)) for packet in alike()],
    ],
    ids=["large", "empty", "few", "tagged"],
)
def test_what_is_not_worth_it_is_not_copied(packets: list[Packet]) -> None:
    memory, blocks = Layout().lay_out(packets)
    records = maker_of(memory).make(blocks)
    assert records.buffer is None
    assert data_of(records) == expected(packets)


def test_packets_without_a_link_layer_header_are_copied_and_cooked_ones_are_not() -> None:
    packets = alike()
    memory, blocks = Layout(header_bytes=0).lay_out(packets)
    records = maker_of(memory, dlt=DLT_RAW).make(blocks)
    assert records.buffer is not None
    assert data_of(records) == expected(packets)
    assert maker_of(memory, dlt=DLT_LINUX_SLL).make(blocks).buffer is None


def test_copies_are_written_over_only_when_they_are_given_back() -> None:
    first, second, third = alike(), alike(COUNT - 1), alike(COUNT, size_bytes=66)
    memory, blocks = together([first, second, third])
    maker = maker_of(memory)
    parts = [Blocks(0, 1, (block,)) for block in blocks.filled]
    made = [maker.make(part) for part in parts[:2]]
    assert [data_of(records) for records in made] == [expected(first), expected(second)]
    maker.done_with(made[0])
    again = maker.make(parts[1])
    assert again.buffer is made[0].buffer
    assert data_of(again) == data_of(made[1]) == expected(second)
    maker.done_with(again)
    other = maker.make(parts[2])  # of another size
    assert other.buffer is not made[0].buffer
    assert data_of(other) == expected(third)


_sizes = st.integers(1, 200)


@settings(derandomize=True, deadline=None, max_examples=60)
@given(
    size_bytes=_sizes,
    counts=st.lists(st.integers(2, 400), min_size=1, max_size=4),
    others=st.lists(st.tuples(st.integers(0, 1599), _sizes), max_size=2),
    file_format=st.sampled_from(["pcapng", "pcap"]),
)
def test_any_blocks_become_what_the_slow_writer_makes(
    size_bytes: int, counts: list[int], others: list[tuple[int, int]], file_format: FileFormat
) -> None:
    packets = alike(sum(counts), size_bytes)
    for at, size in others:
        packets[at % len(packets)] = Packet(payload(size))
    begins = np.cumsum([0, *counts]).tolist()
    memory, blocks = together([packets[begin : begin + count] for begin, count in zip(begins, counts, strict=False)])
    records = maker_of(memory, file_format=file_format).make(blocks)
    assert data_of(records) == expected(packets, file_format=file_format)


# Written ----------------------------------------------------------------------------------------------------------


def test_records_side_by_side_are_written_as_one_piece_and_others_as_they_are(tmp_path: Path) -> None:
    memory, blocks = Layout().lay_out(alike(3000))
    records = maker_of(memory).make(blocks)
    vectors = records.vectors
    orders = [
        vectors,
        vectors[::-1],
        vectors[[1, 0, *range(2, 3000)]],
        vectors[[*range(2999), 0]],
        vectors[:1],
        vectors[:0],
    ]
    with opened(tmp_path) as directory_fd:
        for number, some in enumerate(orders):
            file = create_file(directory_fd, f"{number}", group_access=False, exclusive=True)
            file.write_records(some)
            wanted = b"".join(ctypes.string_at(int(address), int(size)) for address, size in some)
            assert file.size_bytes == len(wanted)
            file.close()
            assert (tmp_path / f"{number}").read_bytes() == wanted


@pytest.mark.parametrize("room_bytes", [0, 95, 96, 97, 96 * 1024, 96 * 2000 + 5, 96 * 2999 + 95, 96 * 3000])
def test_where_there_is_no_room_for_all_the_whole_ones_stay(tmp_path: Path, room_bytes: int) -> None:
    packets = alike(3000)
    memory, blocks = Layout().lay_out(packets)
    records = maker_of(memory).make(blocks)
    vectors = records.vectors
    with opened(tmp_path) as directory_fd:
        file = create_file(directory_fd, "file", group_access=False, exclusive=True)
        with file_size_limit(room_bytes):
            if room_bytes < 96 * 3000:
                with pytest.raises(WriteError) as refused:
                    file.write_records(vectors)
                assert refused.value.records_written == room_bytes // 96
            else:
                file.write_records(vectors)
        file.close()
    assert (tmp_path / "file").read_bytes() == b"".join(expected(packets)[: room_bytes // 96])


@contextlib.contextmanager
def file_size_limit(size_bytes: int) -> Generator[None, None, None]:
    """Have the kernel write files only so far (setrlimit(2); the signal is ignored by Python)."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
