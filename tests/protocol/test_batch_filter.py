"""A compiled filter takes of each packet of a batch what libpcap takes of it, packet by packet."""

import functools
import struct
from collections.abc import Callable, Sequence
from itertools import product
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capd.filters.bpf import Instruction, assemble, count, parse
from capd_protocol.batches.batch_filter import BatchFilter, LoopError, UnanswerableError
from capd_protocol.formats import linktypes
from capd_protocol.formats.linktypes import DLT_EN10MB
from tests.reading.test_filters import PACKETS
from tests.support.bpf import (
    AD_OFF,
    CALCULATED,
    LONG,
    SIMPLE,
    SIZES,
    compiled,
    curious_filters,
    frames,
    ordinary_filters,
    run_by_libpcap,
)
from tests.support.traffic import build_frames

#: Bytes, and how many the packet had.
Packet = tuple[bytes, int]


def by_batch(program: bytes, packets: Sequence[Packet]) -> list[int]:
    """Return what is taken of packets that lie in one batch, with other bytes between them."""
    data = bytearray(b"\xaa\x55\xaa")
    offsets: list[int] = []
    for packet, _ in packets:
        offsets.append(len(data))
        data += packet + b"\x08\x00\x45"[: len(packet) % 4]
    # The last packet's end is that of the data.
    if packets:
        del data[offsets[-1] + len(packets[-1][0]) :]
    taken = BatchFilter(program).taken_sizes(
        np.frombuffer(bytes(data), np.uint8),
        np.array(offsets, np.int64),
        np.array([len(packet) for packet, _ in packets], np.uint32),
        np.array([original for _, original in packets], np.uint32),
    )
    return list(map(int, taken))


def by_libpcap(program: bytes, packets: Sequence[Packet]) -> list[int]:
    return [run_by_libpcap(program, packet, original) for packet, original in packets]


def whole(packets: Sequence[bytes]) -> list[Packet]:
    return [(packet, len(packet)) for packet in packets]


# Filters ------------------------------------------------------------------------------------------------------------

_PRIMITIVES = [
    *SIMPLE,
    *SIZES,
    *CALCULATED,
    LONG,
    "arp",
    "icmp or icmp6",
    "ip6 and udp",
    "ip6 host ::1",
    "ip6 net fe80::/10",
    "src host 127.0.0.1",
    "dst net 127.0.0.0/8",
    "src port 40000",
    "portrange 50-100",
    "tcp dst portrange 1-1023",
    "tcp[tcpflags] & (tcp-syn|tcp-fin) != 0",
    "tcp[0:2] = 40000 and tcp[13] = 2",
    "ip[6:2] & 0x1fff = 0",
    "ip[0] & 0xf != 5",
    "(ip[2:2] - ((ip[0] & 0xf) << 2)) != 0",
    "udp[8:4] = 0x61626364",
    "icmp[icmptype] = icmp-echo",
    "multicast",
    "broadcast",
    "link[0] & 1 != 0",
    "link[len - 1] != 0",
    "link[len] = 0",
    "link[link[0] * 4 : 4] > 7",
    "len - 60 > 20",
    "len >> 3 = 8",
    "len << 31 != 0",
    "len * len > 10000",
    "len % 3 = 1",
    "len / (len - 60) > 3",
    "ether proto 0x8100",
    "ether host 00:00:00:00:00:00",
    "vlan 7",
    "vlan 9 and vlan 7 and ip",
    "mpls",
    "mpls 17 and ip",
    "pppoes",
    "pppoed or arp",
    "llc",
    "iso proto 1",
    "ip proto 6 or ip6 proto 17",
    "tcp portrange 40000-40100 and not ip6",
    "less 90 and greater 50",
]
TEXTS = [
    *_PRIMITIVES,
    *(f"not ({text})" for text in _PRIMITIVES if text),
    *(f"({first}) and not ({second})" for first, second in product(_PRIMITIVES[1:24], _PRIMITIVES[24:44:3])),
]
LINK_PACKETS = [*whole(PACKETS), *((packet[:33], len(packet)) for packet in PACKETS[::2])]


@functools.cache
def agrees_on_link_packets(program: bytes) -> bool:
    """Whether both take the same of them. On many link types a filter is the same program."""
    return by_batch(program, LINK_PACKETS) == by_libpcap(program, LINK_PACKETS)


@pytest.mark.parametrize("known", linktypes.KNOWN, ids=lambda known: str(known.name))
def test_filters_on_every_link_type(known: linktypes.LinkLayerType) -> None:
    # On all but the usual one, some of the filters: the packets are what differs.
    texts = TEXTS if known.dlt == DLT_EN10MB else TEXTS[: len(_PRIMITIVES)]
    compared = 0
    for text in texts:
        program = compiled(text, known.dlt)
        if program is not None:
            assert agrees_on_link_packets(program), text
            compared += 1
    assert compared >= len(SIZES), "every link has lengths"
    assert compared > 200 or known.dlt != DLT_EN10MB


@settings(deadline=None, max_examples=300)
@given(ordinary_filters | curious_filters, st.booleans(), st.lists(frames | st.binary(max_size=100), max_size=8))
def test_filters_put_together(text: str, optimize: bool, packets: list[bytes]) -> None:
    program = compiled(text, optimize=optimize)
    if program is None or any(each.k >= AD_OFF for each in parse(program) if each.is_load_from_packet):
        return
    # libpcap reads words of memory that were not written: here all are.
    program = _WRITE_ALL_MEMORY + program
    cut = [(packet[: len(packet) // 2], len(packet)) for packet in packets]
    both = [*whole(packets), *cut]
    assert by_batch(program, both) == by_libpcap(program, both)


@pytest.mark.parametrize("text", [text for text in _PRIMITIVES if text != LONG])
def test_packets_that_are_cut_anywhere(text: str) -> None:
    program = compiled(text)
    assert program
    cut = [
        (packet[:size], len(packet))
        for packet in [*build_frames((64, 128)), *build_frames((68,), vlan=7), *PACKETS[:: len(PACKETS) // 9]]
        for size in range(len(packet) + 1)
    ]
    assert by_batch(program, cut) == by_libpcap(program, cut)


def test_a_batch_of_no_packets_and_of_one() -> None:
    program = compiled("udp port 50001")
    assert program
    assert by_batch(program, []) == []
    (packet,) = build_frames((64,))
    assert by_batch(program, [(packet, 64)]) == [262144]
    assert by_batch(program, [(b"", 64)]) == [0]


def test_many_packets_are_each_looked_at_in_their_place() -> None:
    packets = [build_frames((64,))[0], build_frames((64,), vlan=7)[0], b""]
    chosen: list[int] = np.random.default_rng(1).integers(0, 3, 100_000).tolist()
    many = whole([packets[each] for each in chosen])
    program = compiled("udp")
    assert program
    assert by_batch(program, many) == [262144 if each == 0 else 0 for each in chosen]


@pytest.mark.parametrize("length", [1, 2, 63, 64, 65, 128, 129, 200])
@pytest.mark.parametrize("text", ["{}", "not ({})", "ip and ({})", "({}) and ip[20] = 7"])
def test_lists_of_any_length(text: str, length: int) -> None:
    # Many comparisons that lead to the same place; packets have each of the numbers, and some that none asks for.
    numbers = [number * 7 for number in range(length)]
    program = compiled(text.format(" or ".join(f"ip[16:4] = {number}" for number in numbers)))
    assert program
    packets = [
        bytes(12) + kind + b"\x45" + bytes(15) + number.to_bytes(4, "big") + last
        for number in range(length * 7 + 7)
        for kind, last in ((b"\x08\0", b"\7"), (b"\x86\xdd", b"\7"), (b"\x08\0", b""))
    ]
    expected = by_libpcap(program, whole(packets))
    assert any(expected)
    assert not all(expected)
    assert by_batch(program, whole(packets)) == expected


def test_a_mask_has_what_anything_is_taken_of() -> None:
    data = np.frombuffer(b"\0\1\2\3", np.uint8)
    sizes = np.ones(4, np.uint32)
    kept = BatchFilter(assemble([Instruction(0x30, k=0), Instruction(0x16)])).matches(data, np.arange(4), sizes, sizes)
    assert kept.dtype == np.bool_
    assert kept.tolist() == [False, True, True, True]


# Programs -----------------------------------------------------------------------------------------------------------

_WORD = 0xFFFFFFFF
_WRITE_ALL_MEMORY = assemble([Instruction(0x02, k=word) for word in range(16)])
_ALU, _SHIFTS, _DIVISIONS = (0x04, 0x14, 0x24, 0x44, 0x54, 0xA4), (0x64, 0x74), (0x34, 0x94)
_JUMPS = [code | x for code, x in product((0x15, 0x25, 0x35, 0x45), (0, 8))]


def _place(chance: Random) -> int:
    return chance.randint(0, 70)


def _number(chance: Random) -> int:
    special = [0x7FFFFFFF, 0x80000000, _WORD, _WORD - 1, 0xFFFFEFFF, 0x0800, 0xFFFF]
    return chance.choice([_place(chance), chance.randint(0, _WORD), chance.choice(special)])


def _loaded(chance: Random) -> int:
    return chance.choice([_place(chance), chance.randint(0, AD_OFF - 1), chance.randint(AD_OFF + 64, _WORD)])


#: Codes, and what their number may be.
_OTHERS: list[tuple[Sequence[int], Callable[[Random], int]]] = [
    ((0x20, 0x28, 0x30), _loaded),
    ((0x40, 0x48, 0x50, 0xB1), lambda chance: chance.choice((_place, _number))(chance)),
    ((0x00, 0x01), _number),
    ((0x80, 0x81, 0x07, 0x87, 0x84), _number),
    ((0x60, 0x61, 0x02, 0x03), lambda chance: chance.randint(0, 15)),
    (_ALU, _number),
    # libpcap compiles none that divides by 0, or shifts by 32 or more: it does not check these.
    (_DIVISIONS, lambda chance: _number(chance) or 1),
    (_SHIFTS, lambda chance: chance.randint(0, 31)),
    ([code | 8 for code in (*_ALU, *_SHIFTS, *_DIVISIONS)], _number),
]


def _any_program(chance: Random) -> bytes:
    """Return a program that the kernel would take: all ways lead forward, to a return at the latest."""
    length = chance.randint(1, 25)
    made: list[Instruction] = []
    for at in range(length):
        left = length - at  # instructions behind it, the last one among them
        kind = chance.randint(0, 11)
        if kind < 3:
            jump_true, jump_false = (chance.randint(0, left - 1) for _ in range(2))
            made.append(Instruction(chance.choice(_JUMPS), jump_true, jump_false, _number(chance)))
        elif kind == 3:
            made.append(Instruction(0x05, k=chance.randint(0, left - 1)))
        elif kind == 4:
            made.append(Instruction(chance.choice((0x06, 0x16)), k=_number(chance)))
        else:
            codes, k_of = chance.choice(_OTHERS)
            made.append(Instruction(chance.choice(codes), k=k_of(chance)))
    made.append(Instruction(chance.choice((0x06, 0x16)), k=_number(chance)))
    return _WRITE_ALL_MEMORY + assemble(made)


def _any_packet(chance: Random) -> Packet:
    size = chance.randint(0, 72)
    data = chance.choice([chance.randbytes(size), bytes(size), b"\4" * size])
    return data, chance.choice([chance.randint(0, 90), _WORD, 0x80000000])


# Each is made of one draw: to have hypothesis choose each number takes many times as long.
_chances = st.randoms(use_true_random=True)
_packets = st.lists(_chances.map(_any_packet), max_size=12)


@settings(deadline=None, max_examples=1000)
@given(_chances.map(_any_program), _packets)
def test_any_program(program: bytes, packets: list[Packet]) -> None:
    assert by_batch(program, packets) == by_libpcap(program, packets)


@pytest.mark.parametrize("code", [*_ALU, *_SHIFTS, *_DIVISIONS])
@pytest.mark.parametrize("operand", [0, 1, 2, 31, 32, 33, 255, 0x7FFFFFFF, 0x80000000, _WORD])
def test_arithmetic_at_its_limits(code: int, operand: int) -> None:
    firsts = [0, 1, 2, 7, 0x7FFFFFFF, 0x80000000, 0x80000001, _WORD]
    packets = whole([first.to_bytes(4, "big") for first in firsts])
    load, back = Instruction(0x20, k=0), Instruction(0x16)
    with_x = assemble([Instruction(0x01, k=operand), load, Instruction(code | 8), back])
    with_k = assemble([load, Instruction(code, k=operand), back])
    expected = by_libpcap(with_x, packets)
    assert by_batch(with_x, packets) == expected
    # libpcap itself does not check the operand here.
    assert by_batch(with_k, packets) == expected


@pytest.mark.parametrize(
    "instructions",
    [
        [],  # behind the last one at once
        [Instruction(0x00, k=1)],
        [Instruction(0x05, k=1), Instruction(0x06, k=1)],
        [Instruction(0x15, 5, 5), Instruction(0x06, k=1)],
        [Instruction(0xFF), Instruction(0x06, k=1)],
        [Instruction(0x88), Instruction(0x06, k=1)],  # BPF_LD | BPF_H | BPF_LEN
        [Instruction(0x8C), Instruction(0x06, k=1)],  # BPF_ALU | BPF_NEG | BPF_X
        [Instruction(0x1E), Instruction(0x06, k=1)],  # BPF_RET with X
        [Instruction(0x60, k=16), Instruction(0x06, k=1)],
        [Instruction(0x02, k=16), Instruction(0x06, k=1)],
        [Instruction(0x03, k=_WORD), Instruction(0x06, k=1)],
        [Instruction(0x34, k=0), Instruction(0x06, k=1)],
        [Instruction(0x94, k=0), Instruction(0x06, k=1)],
        [Instruction(0x20, k=0xFFFFEFFC), Instruction(0x06, k=1)],
    ],
)
def test_what_no_program_may_have_takes_nothing(instructions: list[Instruction]) -> None:
    # libpcap of later versions checks these; earlier ones end the process, or read beside their memory.
    assert by_batch(assemble(instructions), whole([bytes(64)])) == [0]
    # A way past it takes what it takes.
    skipped = [Instruction(0x15, len(instructions), 0), *instructions, Instruction(0x06, k=7)]
    assert by_batch(assemble(skipped), whole([bytes(64)])) == [7]


# Programs that are refused ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("inbound", "the direction of packets"),
        ("outbound and udp", "the direction of packets"),
        ("udp or ifindex 3", "the interface index of packets"),
        ("ip protochain 17 and inbound", "the direction of packets"),
        (f"ether[{AD_OFF + 44}:4] = 7", "VLAN tags that a kernel has set aside"),
    ],
)
def test_what_only_the_kernel_knows_is_refused(text: str, value: str) -> None:
    program = compiled(text)
    assert program
    with pytest.raises(UnanswerableError) as raised:
        BatchFilter(program)
    assert raised.value.value == value


@pytest.mark.parametrize("text", ["ip protochain 17", "ip6 protochain 6 and port 53"])
def test_loops_are_refused(text: str) -> None:
    program = compiled(text)
    assert program
    with pytest.raises(LoopError):
        BatchFilter(program)


def test_half_an_instruction_is_no_program() -> None:
    with pytest.raises(struct.error):
        BatchFilter(bytes(12))


def test_the_longest_program_that_is_compiled() -> None:
    text = " or ".join(f"host 198.18.{number // 256}.{number % 256}" for number in range(500))
    program = compiled(text, optimize=False)
    assert program
    assert count(program) > 3_000
    packets = whole(build_frames((64, 128)))
    assert by_batch(program, packets) == by_libpcap(program, packets) == [262144, 262144]
