"""Judges of classic BPF programs: libpcap's own interpreter, the kernel, and one of ours, which knows what the kernel
tells beside a packet. And filters and packets to try.
"""

import contextlib
import ctypes
import functools
import operator
import socket
import struct
from collections.abc import Callable, Generator, Sequence
from random import Random

from hypothesis import strategies as st

from capd.linux import libpcap
from capd.linux.libpcap import Handle, PcapError
from capd.linux.packet_socket import attach_filter
from capd_protocol.formats.linktypes import DLT_EN10MB, from_dlt

_WORD = 0xFFFFFFFF
#: linux/filter.h: what the kernel tells beside the packet, by offsets from here.
AD_OFF = 0xFFFFF000
AD_PROTOCOL, AD_PKTTYPE, AD_IFINDEX, AD_HATYPE, AD_VLAN_TAG, AD_VLAN_TAG_PRESENT = 0, 4, 8, 28, 44, 48

_ALU: dict[int, Callable[[int, int], int]] = {
    0x00: operator.add,
    0x10: operator.sub,
    0x20: operator.mul,
    0x30: operator.floordiv,
    0x40: operator.or_,
    0x50: operator.and_,
    0x60: lambda a, by: a << by if by < 32 else 0,
    0x70: lambda a, by: a >> by if by < 32 else 0,
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


def run(program: bytes, packet: bytes, aside: dict[int, int] | None = None, original_bytes: int | None = None) -> int:
    """Return how many bytes a classic BPF program takes of a packet, as the kernel would.

    Args:
        program: to run.
        packet: what there is of it.
        aside: what the kernel tells beside it.
        original_bytes: how long it was, if it was longer.
    """
    instructions = list(struct.iter_unpack("=HBBI", program))
    a = x = 0
    memory = [0] * 16

    def load(at: int, size: int) -> int:
        if at >= AD_OFF and aside is not None:
            return aside[at - AD_OFF]
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
                return len(packet) if original_bytes is None else original_bytes
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
def _bpf_filter() -> Callable[..., int]:
    function = libpcap.load().bpf_filter
    function.restype, function.argtypes = (
        ctypes.c_uint,
        (ctypes.c_char_p, ctypes.c_char_p, ctypes.c_uint, ctypes.c_uint),
    )
    return function


def run_by_libpcap(program: bytes, packet: bytes, original_bytes: int | None = None) -> int:
    """Return the same, as libpcap's own interpreter says. It knows nothing beside the packet."""
    return _bpf_filter()(program, packet, len(packet) if original_bytes is None else original_bytes, len(packet))


@contextlib.contextmanager
def run_by_kernel(program: bytes) -> Generator[Callable[[bytes], int], None, None]:
    """Have the kernel say the same while the block lasts: how many bytes it takes of a packet, at most all there are.

    Raises:
        OSError: it does not take the program.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)

    def run_it(packet: bytes) -> int:
        ours.send(packet)
        with contextlib.suppress(BlockingIOError):
            return len(theirs.recv(65536, socket.MSG_DONTWAIT))
        return 0

    with ours, theirs:
        attach_filter(theirs, program)
        yield run_it


@functools.cache
def compiled(text: str, dlt: int = DLT_EN10MB, snaplen_bytes: int = 262144, *, optimize: bool = True) -> bytes | None:
    """Return what libpcap makes of a filter; None where it makes nothing."""
    handle = Handle.dead(from_dlt(dlt), snaplen_bytes)
    try:
        return handle.compile(text, optimize=optimize)
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


def one_of(texts: Sequence[str]) -> st.SearchStrategy[str]:
    """Return one of these. (``sampled_from`` would have all of them in its name.)"""
    return st.integers(0, len(texts) - 1).map(lambda number: texts[number])


def combined(texts: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """Return filters that are put together from these."""
    return st.recursive(
        texts,
        lambda inner: st.one_of(
            st.tuples(inner, st.sampled_from(["and", "or"]), inner).map(
                lambda parts: f"({parts[0]}) {parts[1]} ({parts[2]})"
            ),
            inner.map(lambda text: f"not ({text})"),
        ),
        max_leaves=4,
    )


ordinary_filters = combined(one_of([*(text or "len >= 0" for text in SIMPLE), *CALCULATED, LONG]))

_numbers = st.integers(0, 255) | st.sampled_from([0x0800, 0x0806, 0x86DD, 53, 1500, _WORD, AD_OFF, 0xFFF00000])
_sizes = st.sampled_from(["", ":1", ":2", ":4"])


def _deeper(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    loaded_from = st.sampled_from(["ether", "link", "ip", "tcp", "udp", "icmp", "ip6", "arp"])
    calculated = st.tuples(inner, st.sampled_from("+ - * & | ^ / % << >>".split()), inner).map(
        lambda parts: f"({parts[0]} {parts[1]} {parts[2]})"
    )
    return calculated | st.tuples(loaded_from, inner, _sizes).map(lambda parts: f"{parts[0]}[{parts[1]}{parts[2]}]")


_expressions = st.recursive(st.integers(0, 70).map(str) | _numbers.map(str) | st.just("len"), _deeper, max_leaves=4)
_compared = st.tuples(
    _deeper(_expressions), st.sampled_from("= != > < >= <=".split()), _numbers.map(str) | _expressions
).map(" ".join)
#: What looks at many places of a packet, known ones and calculated ones.
curious_filters = combined(
    _compared
    | one_of(
        [
            *SIMPLE[1:],
            *SIZES,
            "tcp port 80",
            "ip6 and tcp port 53",
            "vlan 7 and udp port 53",
            "mpls and ip",
            "mpls 1 and tcp",
            "pppoes and ip",
            "geneve and ip",
            "tcp[tcpflags] & tcp-syn != 0",
            "portrange 50-100",
            "ether host 02:00:00:00:00:01 or multicast",
            "arp host 192.0.2.1",
            LONG,
        ]
    )
)


#: What a strategy makes of one draw: to have hypothesis choose each field takes twenty times as long.
_chances = st.randoms(use_true_random=True)


def _ip_packet(chance: Random) -> bytes:
    protocol = chance.choice([1, 6, 17])
    addresses = bytes([192, 0, 2, chance.randint(0, 210), 192, 0, 2, chance.randint(0, 210)])
    ports = struct.pack("!HH", chance.choice([53, 80, 7]), chance.choice([53, 150, 9]))
    rest = chance.randbytes(chance.randint(0, 60))
    start = bytes([chance.choice([0x45, 0x46, 0x60]), 0])
    length = struct.pack("!H", chance.choice([24 + len(rest), 0]))
    fragment = struct.pack("!HHBBH", 0, chance.choice([0, 0x4000, 3]), chance.randint(0, 255), protocol, 0)
    whole = start + length + fragment + addresses + ports + rest
    return whole[: chance.choice([len(whole), 21, 9, 0])]


def _frame(chance: Random) -> bytes:
    before_type = chance.choice([b"", b"\x81\0\0\x07", b"\x88\x47\0\0\x11\x40"])
    kind = b"" if before_type[:1] == b"\x88" else chance.choice(_ETHERTYPES).to_bytes(2, "big")
    return bytes(12) + before_type + kind + _ip_packet(chance)


_ETHERTYPES = [0x0800, 0x86DD, 0x0806]
ethertypes = st.sampled_from(_ETHERTYPES)
#: What may be an IP packet.
ip_packets = _chances.map(_ip_packet)
frames = _chances.map(_frame)
