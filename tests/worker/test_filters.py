"""Two filters joined take what both take: checked by running them, packet by packet, in an interpreter of our own."""

import ctypes
import functools
import operator
import socket
import struct
from collections.abc import Callable, Sequence

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from capd.libpcap import Handle, PcapError
from capd.worker.cooked import HEADER_SIZE_BYTES, cook, without_looped_back
from capd.worker.filters import both
from capd_protocol.linktypes import DLT_EN10MB, DLT_LINUX_SLL, DLT_LINUX_SLL2, from_dlt

SNAPLEN_BYTES = 96
_WORD = 0xFFFFFFFF
#: linux/filter.h: what the kernel tells beside the packet, by offsets from here.
_AD_OFF = 0xFFFFF000
_AD_PROTOCOL, _AD_PKTTYPE, _AD_IFINDEX, _AD_HATYPE = 0, 4, 8, 28
_MOST_INSTRUCTIONS = 4096

_ALU: dict[int, Callable[[int, int], int]] = {
    0x00: operator.add,
    0x10: operator.sub,
    0x20: operator.mul,
    0x30: operator.floordiv,
    0x40: operator.or_,
    0x50: operator.and_,
    0x60: operator.lshift,
    0x70: operator.rshift,
    0x80: lambda a, _: -a,
    0x90: operator.mod,
    0xA0: operator.xor,
}
_JUMPS: dict[int, Callable[[int, int], object]] = {
    0x10: operator.eq,
    0x20: operator.gt,
    0x30: operator.ge,
    0x40: operator.and_,
}


def run(program: bytes, packet: bytes, aside: dict[int, int] | None = None) -> int:
    """Return how many bytes a classic BPF program takes of a packet, as the kernel would."""
    instructions = list(struct.iter_unpack("=HBBI", program))
    a = x = 0
    memory = [0] * 16

    def load(at: int, size: int) -> int:
        if at >= _AD_OFF and aside is not None:
            return aside[at - _AD_OFF]
        if at + size > len(packet):
            raise IndexError
        return int.from_bytes(packet[at : at + size], "big")

    def value_of(mode: int, size: int, k: int) -> int:
        match mode:
            case 0x00:
                return k
            case 0x20:
                return load(k, size)
            case 0x40:
                return load((x + k) & _WORD, size)
            case 0x60:
                return memory[k]
            case 0x80:
                return len(packet)
            case _:
                return 4 * (load(k, 1) & 0xF)

    at = 0
    while True:
        code, jump_true, jump_false, k = instructions[at]
        at += 1
        operand = x if code & 8 else k
        try:
            match code & 7:
                case 0:
                    a = value_of(code & 0xE0, {0: 4, 8: 2, 16: 1}[code & 0x18], k)
                case 1:
                    x = value_of(code & 0xE0, 1, k)
                case 2 | 3:
                    memory[k] = a if code & 7 == 2 else x
                case 4:
                    a = _ALU[code & 0xF0](a, operand) & _WORD
                case 5 if code & 0xF0 == 0:
                    at += k
                case 5:
                    at += jump_true if _JUMPS[code & 0xF0](a, operand) else jump_false
                case 6:
                    return a if code & 0x18 else k
                case _:
                    a, x = (x, x) if code & 0xF8 else (a, a)
        except (IndexError, ZeroDivisionError):
            return 0


@functools.cache
def compiled(text: str, dlt: int = DLT_EN10MB, snaplen_bytes: int = SNAPLEN_BYTES) -> bytes | None:
    handle = Handle.dead(from_dlt(dlt), snaplen_bytes)
    try:
        return handle.compile(text)
    except PcapError:  # no packet can match, or such a link has none of these
        return None
    finally:
        handle.close()


#: Far more than the 255 instructions that a conditional jump passes over.
LONG = " or ".join(f"host 192.0.2.{number} or tcp port {number}" for number in range(1, 40))
#: They use the registers and the memory that the kernel clears once only.
CALCULATED = [
    "ip[8] + ip[9] * 2 > ether[20] - 3",
    "udp[ip[0] & 0xf] = 0",
    "ip[ip[8] % 7 : 2] ^ 5 != len",
    "ip[2:2] = len - 14",
]
SIMPLE = ["", "ip", "udp port 53", "tcp", "not tcp", "vlan", "vlan and ip", "ip6", "host 192.0.2.7", "net 192.0.2.0/28"]
SIZES = ["greater 60", "less 60", "len = 64"]

_texts = st.recursive(
    st.sampled_from([*SIMPLE, *CALCULATED, LONG]).map(lambda text: text or "len >= 0"),
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(["and", "or"]), inner).map(
            lambda parts: f"({parts[0]}) {parts[1]} ({parts[2]})"
        ),
        inner.map(lambda text: f"not ({text})"),
    ),
    max_leaves=4,
)


@st.composite
def _ip_packets(draw: st.DrawFn) -> bytes:
    protocol = draw(st.sampled_from([1, 6, 17]))
    addresses = bytes([192, 0, 2, draw(st.integers(0, 210)), 192, 0, 2, draw(st.integers(0, 210))])
    ports = struct.pack("!HH", draw(st.sampled_from([53, 80, 7])), draw(st.sampled_from([53, 150, 9])))
    rest = draw(st.binary(max_size=60))
    start = bytes([draw(st.sampled_from([0x45, 0x46, 0x60])), 0])
    length = struct.pack("!H", draw(st.sampled_from([24 + len(rest), 0])))
    fragment = struct.pack("!HHBBH", 0, draw(st.sampled_from([0, 0x4000, 3])), draw(st.integers(0, 255)), protocol, 0)
    whole = start + length + fragment + addresses + ports + rest
    return whole[: draw(st.sampled_from([len(whole), 21, 9, 0]))]


_types = st.sampled_from([0x0800, 0x86DD, 0x0806])
_frames = st.tuples(st.sampled_from([b"", b"\x81\0\0\x07"]), _types, _ip_packets()).map(
    lambda parts: bytes(12) + parts[0] + parts[1].to_bytes(2, "big") + parts[2]
)


@settings(deadline=None, max_examples=150)
@given(_texts, _texts | st.sampled_from(SIZES), st.lists(_frames, min_size=4, max_size=8))
def test_joined_they_take_what_both_take_and_as_much_as_the_second(
    first: str, second: str, packets: list[bytes]
) -> None:
    one, other = compiled(first), compiled(second, snaplen_bytes=60)
    assume(one and other)
    assert one
    assert other
    joined = both(one, other)
    for packet in packets:
        assert run(joined, packet) == (run(other, packet) if run(one, packet) else 0)


@settings(deadline=None, max_examples=100)
@given(
    st.sampled_from([*SIMPLE, "inbound", LONG]),
    st.sampled_from([*SIMPLE, "outbound", LONG]),
    st.sampled_from([DLT_LINUX_SLL, DLT_LINUX_SLL2]),
    st.lists(st.tuples(_types, _ip_packets(), st.integers(0, 4), st.sampled_from([1, 2])), min_size=4, max_size=8),
)
def test_cooked_they_take_what_they_take_of_whole_headers(
    first: str, second: str, dlt: int, packets: list[tuple[int, bytes, int, int]]
) -> None:
    one, other = compiled(first, dlt), compiled(second, dlt)
    assume(one and other)
    assert one
    assert other
    made = cook(both(one, other), dlt)
    assert made is not None
    for protocol, packet, kind, index in packets:
        if dlt == DLT_LINUX_SLL:
            header = struct.pack("!HHH8sH", kind, 1, 6, bytes(8), protocol)
        else:
            header = struct.pack("!HHIHBB8s", protocol, 0, index, 1, kind, 6, bytes(8))
        assert len(header) == HEADER_SIZE_BYTES[dlt]
        aside = {_AD_PROTOCOL: protocol, _AD_PKTTYPE: kind, _AD_IFINDEX: index, _AD_HATYPE: 1}
        expected = run(other, header + packet) if run(one, header + packet) else 0
        assert run(made, packet, aside) == expected
        # What goes out on the loopback interface comes in there as well.
        is_twice = index == 1 and kind == 4
        assert run(without_looped_back(made, 1), packet, aside) == (0 if is_twice else expected)


def _attach(program: bytes) -> None:
    code = ctypes.create_string_buffer(program, len(program))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as some:
        some.setsockopt(socket.SOL_SOCKET, 26, struct.pack("@HP", len(program) // 8, ctypes.addressof(code)))


def _padded(program: bytes, instructions: int) -> bytes:
    """Return a program of so many instructions that does the same."""
    nothing = struct.pack("=HBBI", 0x05, 0, 0, 0)
    return nothing * (instructions - len(program) // 8) + program


@pytest.mark.parametrize("second", ["udp port 53", LONG])
@pytest.mark.parametrize("first", ["tcp", LONG])
def test_the_kernel_takes_them_up_to_its_limit(first: str, second: str) -> None:
    one, other = compiled(first), compiled(second)
    assert one
    assert other
    count = _MOST_INSTRUCTIONS - len(other) // 8
    joined = both(_padded(one, count), other)
    _attach(joined)
    packets: Sequence[bytes] = [bytes(12) + b"\x08\0\x45" + bytes(8) + bytes([p]) + bytes(50) for p in (6, 17)]
    assert all(run(joined, p) == (run(other, p) if run(one, p) else 0) for p in packets)
    with pytest.raises(OSError, match="Invalid argument"):
        _attach(both(_padded(one, count + 1), other))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "udp port 53",
        "host 192.0.2.1 and not tcp",
        "ip6 and icmp6",
        "ether proto 0x8100",
        "ether broadcast or multicast",
        "net 198.51.100.0/24 and portrange 1000-2000",
        "tcp[tcpflags] & tcp-syn != 0 and greater 100",
        "mpls 5",
        "pppoes 7 and udp",
        "geneve and udp",
        "ip protochain 17",
        "inbound and arp",
        "outbound or ifindex 3",
    ],
)
def test_only_vlan_is_another_filter_on_a_live_handle(veth: tuple[str, str], text: str) -> None:
    live, dead = Handle(veth[1]), Handle.dead(from_dlt(DLT_EN10MB), SNAPLEN_BYTES)
    try:
        live.activate(snaplen_bytes=SNAPLEN_BYTES)
        assert live.compile(text) == dead.compile(text)
        assert live.compile("vlan 1") != dead.compile("vlan 1"), "what a live handle is for"
    finally:
        live.close()
        dead.close()
