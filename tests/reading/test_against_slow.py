"""Batches say what a reader says that goes block by block, also of files that are made to lead them astray."""

import os
import struct
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from capd_client import ReadError, read
from tests.reading.slow import Found, Row, read_pcap, read_pcapng
from tests.reading.test_reading import block, interface, packet, pcap, section

#: Enough for chains side by side, and for more than one window.
_LARGE_BYTES = 700_000
_ORDERS = st.sampled_from("<>")


def batches_of(data: bytes) -> Found:
    rows: list[Row] = []
    descriptor = os.memfd_create("capture")
    with Path(f"/proc/self/fd/{descriptor}").open("r+b") as file:
        os.close(descriptor)
        file.write(data)
        file.flush()
        with read(file) as reader:
            try:
                for batch in reader.batches():
                    columns = (batch.timestamps_ns, batch.interface_ids, batch.captured_sizes, batch.original_sizes)
                    ends = batch.offsets + batch.captured_sizes
                    contents = map(slice, batch.offsets.tolist(), ends.tolist())
                    packets = [batch.data[each].tobytes() for each in contents]
                    rows += zip(*(each.tolist() for each in columns), packets, strict=True)
            except ReadError as error:
                return Found(rows, error.offset_bytes, True)
            return Found(rows, len(data) - reader.rest_bytes, False)


def fakes(order: str) -> list[bytes]:
    """Return what a packet may hold to look like blocks: whole ones, unlinked ones, and beginnings."""
    one = packet(order, 0, 1, b"fake")
    return [
        b"",
        one,
        one[4:],
        packet(order, 0, 1, bytes(500)),
        struct.pack(order + "II", 6, 0) * 3,
        struct.pack(order + "II", 6, 32) + bytes(20),
        struct.pack(order + "II", 6, 0xFFFFFFFC),
        struct.pack(order + "II", 6, 0x00400000),
        struct.pack(order + "I", 6) * 8,
        struct.pack(order + "I", 32) * 8,
        section(order),
    ]


@st.composite
def _blocks(draw: st.DrawFn, order: str, number: int) -> bytes:
    kind = draw(st.sampled_from(["packet"] * 12 + ["simple", "old", "statistics", "interface", "unknown"]))
    fake = draw(st.sampled_from(fakes(draw(_ORDERS))))
    size = draw(st.one_of(st.integers(0, 70), st.sampled_from([60, 64, 576, 1500, 1514, 9000])))
    contents = (bytes(draw(st.integers(0, 8))) + fake * (size // max(1, len(fake)) + 1))[:size]
    match kind:
        case "packet":
            return packet(order, 0, number << 20, contents, size + draw(st.integers(0, 3)))
        case "simple":
            return block(order, 3, struct.pack(order + "I", size) + contents)
        case "old":
            return block(order, 2, struct.pack(order + "HHIIII", 0, 7, 0, number, size, size) + contents)
        case "statistics":
            return block(order, 5, struct.pack(order + "III", 0, 0, 5))
        case "interface":
            return interface(order, b"more", snaplen=draw(st.sampled_from([0, 40])))
        case _:
            return block(order, 0xBAD, contents)


@st.composite
def _files(draw: st.DrawFn) -> bytes:
    """Make sections of a random pattern, over and over, most of them larger than a window."""
    data = b""
    for _ in range(draw(st.integers(1, 2))):
        order = draw(_ORDERS)
        pattern = b"".join(draw(_blocks(order, number)) for number in range(draw(st.integers(1, 30))))
        wanted = draw(st.sampled_from([100, 100_000, _LARGE_BYTES, _LARGE_BYTES]))
        snaplen = draw(st.sampled_from([0, 0, 50]))
        repeat = min(wanted // len(pattern) + 1, 3000 if pattern.count(b"more") else wanted)
        data += section(order) + interface(order, b"eth0", snaplen=snaplen) + pattern * repeat
    return data


@given(_files())
@settings(derandomize=True, deadline=None, max_examples=80)
def test_whole_files(data: bytes) -> None:
    assert batches_of(data) == read_pcapng(data)


@given(_files(), st.integers(0, _LARGE_BYTES))
@settings(derandomize=True, deadline=None, max_examples=40)
def test_cut_files(data: bytes, size: int) -> None:
    cut = data[: size % len(data)]
    assert batches_of(cut) == read_pcapng(cut)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("place", [0, 4, 8, 12, 20, 24, 28, -4], ids=lambda place: f"byte {place}")
@given(
    which=st.integers(0, 2000),
    sizes=st.lists(st.sampled_from([0, 60, 61, 576, 1500]), min_size=1, max_size=12),
    fake=st.sampled_from(fakes("<")),
    value=st.one_of(st.integers(0, 64), st.integers(0, 0xFFFFFFFF), st.sampled_from([92, 1 << 24, (1 << 24) + 4])),
)
@settings(derandomize=True, deadline=None, max_examples=12)
def test_damaged_files(*, order: str, place: int, which: int, sizes: list[int], fake: bytes, value: int) -> None:
    blocks = [
        packet(order, 0, number, (fake * 1500)[: sizes[number % len(sizes)]])
        for number in range(min(2500, 1_000_000 // (sum(sizes) // len(sizes) + 32)))
    ]
    # Interfaces and sections are no random words: of these the slow reader does not look at everything.
    assume(place != 0 or value not in {1, 0x0A0D0D0A})
    number = which % len(blocks)
    victim = blocks[number]
    at = place % len(victim)
    blocks[number] = victim[:at] + struct.pack(order + "I", value) + victim[at + 4 :]
    data = section(order) + interface(order, b"eth0") + b"".join(blocks)
    assert batches_of(data) == read_pcapng(data)


@given(
    sizes=st.lists(st.integers(0, 300), min_size=1, max_size=30),
    repeat=st.integers(1, 100),
    order=_ORDERS,
    missing=st.integers(0, 40),
    is_damaged=st.booleans(),
)
@settings(derandomize=True, deadline=None, max_examples=60)
def test_pcap(sizes: list[int], repeat: int, order: str, missing: int, is_damaged: bool) -> None:
    rows = [(number, number % 7, bytes((number % 256,)) * size) for number, size in enumerate(sizes * repeat)]
    data = pcap(order, 0xA1B23C4D, rows)
    data = data[: max(24, len(data) - missing)]
    if is_damaged:
        data += struct.pack(order + "4I", 0, 0, 0x7FFFFFFF, 0)
    assert batches_of(data) == read_pcap(data, order)
