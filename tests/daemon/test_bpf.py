"""What is done to programs, checked by running them: joined, they take what both take; bounded, they see no further."""

import errno
import struct
from collections.abc import Sequence

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from capd.filters.bpf import bounded, count, is_self_contained, is_without_loops, joined, keeping, kernel_bytes, parse
from capd.filters.cooked_filters import HEADER_SIZE_BYTES, cook, without_looped_back
from capd.linux.libpcap import Handle
from capd_protocol.formats.linktypes import DLT_EN10MB, DLT_LINUX_SLL, DLT_LINUX_SLL2, from_dlt
from tests.support.bpf import (
    AD_HATYPE,
    AD_IFINDEX,
    AD_OFF,
    AD_PKTTYPE,
    AD_PROTOCOL,
    AD_VLAN_TAG,
    AD_VLAN_TAG_PRESENT,
    LONG,
    SIMPLE,
    SIZES,
    compiled,
    curious_filters,
    ethertypes,
    frames,
    ip_packets,
    ordinary_filters,
    run,
    run_by_kernel,
    run_by_libpcap,
)
from tests.support.namespace import room_for_filters

SNAPLEN_BYTES = 96
_MOST_INSTRUCTIONS = 4096
#: BPF_LD | BPF_LEN, BPF_LDX | BPF_LEN.
_LENGTH_CODES = (0x80, 0x81)
_TAG_BYTES = 4


# Joined -----------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=150)
@given(ordinary_filters, ordinary_filters | st.sampled_from(SIZES), st.lists(frames, min_size=4, max_size=8))
def test_joined_they_take_what_both_take_and_as_much_as_the_second(
    first: str, second: str, packets: list[bytes]
) -> None:
    one, other = compiled(first), compiled(second, snaplen_bytes=60)
    assume(one and other)
    assert one
    assert other
    program = joined(one, other)
    for packet in packets:
        assert run(program, packet) == (run(other, packet) if run(one, packet) else 0)


def _cooked_header(dlt: int, protocol: int, kind: int, index: int) -> tuple[bytes, dict[int, int]]:
    """Return a packet's header, and what the kernel tells in its place."""
    if dlt == DLT_LINUX_SLL:
        header = struct.pack("!HHH8sH", kind, 1, 6, bytes(8), protocol)
    else:
        header = struct.pack("!HHIHBB8s", protocol, 0, index, 1, kind, 6, bytes(8))
    assert len(header) == HEADER_SIZE_BYTES[dlt]
    return header, {AD_PROTOCOL: protocol, AD_PKTTYPE: kind, AD_IFINDEX: index, AD_HATYPE: 1}


@settings(deadline=None, max_examples=100)
@given(
    st.sampled_from([*SIMPLE, "inbound", LONG]),
    st.sampled_from([*SIMPLE, "outbound", LONG]),
    st.sampled_from([DLT_LINUX_SLL, DLT_LINUX_SLL2]),
    st.lists(st.tuples(ethertypes, ip_packets, st.integers(0, 4), st.sampled_from([1, 2])), min_size=4, max_size=8),
)
def test_cooked_they_take_what_they_take_of_whole_headers(
    first: str, second: str, dlt: int, packets: list[tuple[int, bytes, int, int]]
) -> None:
    one, other = compiled(first, dlt), compiled(second, dlt)
    assume(one and other)
    assert one
    assert other
    made = cook(joined(one, other), dlt)
    assert made is not None
    for protocol, packet, kind, index in packets:
        header, aside = _cooked_header(dlt, protocol, kind, index)
        expected = run(other, header + packet) if run(one, header + packet) else 0
        assert run(made, packet, aside) == expected
        # What goes out on the loopback interface comes in there as well.
        is_twice = index == 1 and kind == 4
        assert run(without_looped_back(made, 1), packet, aside) == (0 if is_twice else expected)


def _padded(program: bytes, instructions: int) -> bytes:
    """Return a program of so many instructions that does the same."""
    nothing = struct.pack("=HBBI", 0x05, 0, 0, 0)
    return nothing * (instructions - count(program)) + program


@pytest.mark.parametrize("second", ["udp port 53", LONG])
@pytest.mark.parametrize("first", ["tcp", LONG])
def test_the_kernel_takes_them_up_to_its_limit(first: str, second: str) -> None:
    one, other = compiled(first), compiled(second)
    assert one
    assert other
    room = _MOST_INSTRUCTIONS - count(other)
    program = joined(_padded(one, room), other)
    packets: Sequence[bytes] = [bytes(12) + b"\x08\0\x45" + bytes(8) + bytes([p]) + bytes(50) for p in (6, 17)]
    with run_by_kernel(program) as judge:
        assert all(judge(p) == min(run(other, p) if run(one, p) else 0, len(p)) for p in packets)
    with (
        pytest.raises(OSError, match="Invalid argument"),
        run_by_kernel(joined(_padded(one, room + 1), other)),
    ):
        pass


def _is_taken(program: bytes) -> bool:
    try:
        with run_by_kernel(program):
            return True
    except OSError as error:
        if error.errno != errno.ENOMEM:
            raise
        return False


@pytest.mark.parametrize(
    ("instruction", "least"),
    [
        *(((code, 0, 0, 12), 0.75) for code in (0x20, 0x28, 0x30, 0x40, 0x48, 0x50, 0xB1)),
        ((0x20, 0, 0, 70_000), 0.75),
        *(((code, 0, 0, 1), 0.75) for code in (0x00, 0x01, 0x02, 0x04, 0x05, 0x07, 0x15, 0x3C, 0x54, 0x80, 0x9C)),
        ((0x15, 1, 1, 1), 0.75),
        ((0x15, 0, 0, 2**32 - 1), 0.75),
        # What the kernel tells beside the packet: a fifth of a load from it, and of many kinds.
        *(((0x20, 0, 0, AD_OFF + offset), 0.2) for offset in (0, 4, 8, 28, 40, 44, 48, 56, 60)),
    ],
)
def test_what_a_program_takes_in_the_kernel(instruction: tuple[int, int, int, int], least: float) -> None:
    first, last = struct.pack("=HBBI", 0x02, 0, 0, 1), struct.pack("=HBBI", 0x06, 0, 0, 1) * 3
    program = first + struct.pack("=HBBI", *instruction) * 500 + last
    needed_bytes = kernel_bytes(program)
    with room_for_filters(needed_bytes):
        assert _is_taken(program)
    with room_for_filters(int(needed_bytes * least)):
        assert not _is_taken(program)


@pytest.mark.parametrize("text", [*SIMPLE, LONG])
def test_what_a_filter_takes_in_the_kernel(text: str) -> None:
    program = compiled(text)
    assert program
    with room_for_filters(kernel_bytes(program)):
        assert _is_taken(program)
    with room_for_filters(kernel_bytes(program) // 4):
        assert not _is_taken(program)


# Bounded ----------------------------------------------------------------------------------------------------------

_limits = st.integers(1, 110) | st.sampled_from([14, 34, 54])


@settings(deadline=None, max_examples=300)
@given(curious_filters, st.booleans(), _limits, st.lists(frames | st.binary(max_size=100), min_size=4, max_size=8))
def test_bounded_a_program_does_to_a_packet_what_it_does_to_one_that_is_cut(
    text: str, optimize: bool, limit_bytes: int, packets: list[bytes]
) -> None:
    program = compiled(text, optimize=optimize)
    assume(program and is_self_contained(program))
    assert program
    made = bounded(program, limit_bytes)
    for packet in packets:
        cut = packet[:limit_bytes]
        assert run_by_libpcap(made, packet) == run_by_libpcap(program, cut, len(packet))
        # The kernel adds up places modulo 2^32, and libpcap does not.
        assert run(made, packet) == run(program, cut, original_bytes=len(packet))


def _is_taken_by_kernel(program: bytes) -> bool:
    try:
        with run_by_kernel(program):
            return True
    except OSError:  # it shifts by a number that is too great, say
        return False


@settings(deadline=None, max_examples=100)
@given(curious_filters, _limits, st.lists(frames, min_size=4, max_size=8))
def test_so_says_the_kernel(text: str, limit_bytes: int, packets: list[bytes]) -> None:
    program = compiled(text)
    # Numbers as large as these mean other places of the packet to the kernel, where nobody asked has come before.
    assume(program and all(each.k < 0xFF000000 for each in parse(program)))
    assert program
    assume(count(program) < _MOST_INSTRUCTIONS // 5)
    assume(all(each.code not in _LENGTH_CODES for each in parse(program)))
    assume(_is_taken_by_kernel(program))
    with run_by_kernel(bounded(program, limit_bytes)) as judge, run_by_kernel(program) as judge_of_cut:
        for packet in packets:
            assume(packet[:limit_bytes])
            assert bool(judge(packet)) == bool(judge_of_cut(packet[:limit_bytes]))


@settings(deadline=None, max_examples=100)
@given(ordinary_filters, curious_filters, _limits, st.lists(frames, min_size=4, max_size=8))
def test_policy_sees_all_of_a_packet_whose_beginning_the_user_sees(
    policy: str, own: str, limit_bytes: int, packets: list[bytes]
) -> None:
    first, second = compiled(policy), compiled(own)
    assume(first and second and is_self_contained(second))
    assert first
    assert second
    made = joined(first, bounded(keeping(second, SNAPLEN_BYTES), limit_bytes))
    for packet in packets:
        both = run_by_libpcap(first, packet) and run_by_libpcap(second, packet[:limit_bytes], len(packet))
        assert run_by_libpcap(made, packet) == (SNAPLEN_BYTES if both else 0)


#: Of "geneve", libpcap keeps in memory where the inner packet begins, and reads that also where there is none.
_FAULTY = ["(geneve and ip) or not ip6", "not ((geneve and ip) or tcp port 80)"]


@settings(deadline=None, max_examples=100)
@given(curious_filters, st.booleans())
def test_only_some_filters_with_geneve_read_what_they_have_not_written(text: str, optimize: bool) -> None:
    program = compiled(text, optimize=optimize)
    assume(program and all(each.k < 0xFF000000 for each in parse(program)))
    assert program
    assert is_self_contained(program) or "geneve" in text
    assert is_self_contained(bounded(program, 40, tag_bytes=_TAG_BYTES)) or "geneve" in text


@pytest.mark.parametrize("text", _FAULTY)
def test_what_another_program_has_seen_is_not_read_behind_it(text: str) -> None:
    program = compiled(text)
    assert program
    assert not is_self_contained(program)
    with pytest.raises(OSError, match="Invalid argument"), run_by_kernel(program):
        pass
    # All words of memory, as a filter with sums in it may use them.
    first = b"".join(struct.pack("=HBBI", 0x02, 0, 0, word) for word in range(16)) + (compiled("") or b"")
    with run_by_kernel(joined(first, program)):
        pass  # the kernel is content with that


@pytest.mark.parametrize(
    ("instructions", "expected"),
    [
        ([(0x28, 12), (0x06, 1)], True),
        ([(0x16, 0)], False),  # ret a
        ([(0x87, 0), (0x16, 0)], False),  # txa
        ([(0x00, 5), (0x07, 0), (0x48, 3), (0x06, 1)], True),  # tax; ldh [x + 3]
        ([(0x00, 5), (0x0C, 0), (0x06, 1)], False),  # add x
        ([(0x00, 5), (0x02, 3), (0x61, 3), (0x06, 1)], True),  # st M[3]; ldx M[3]
        ([(0x00, 5), (0x02, 3), (0x61, 4), (0x06, 1)], False),
        ([(0x03, 3), (0x06, 1)], False),  # stx M[3]
        ([(0x20, 0xFFFFF028), (0x06, 1)], False),  # A ^= X
    ],
)
def test_what_is_read_before_it_is_written(instructions: list[tuple[int, int]], expected: bool) -> None:
    assert is_self_contained(b"".join(struct.pack("=HBBI", code, 0, 0, k) for code, k in instructions)) == expected


@pytest.mark.parametrize(("text", "expected"), [("ip protochain 17", False), ("tcp", True), (LONG, True), ("", True)])
def test_what_has_a_loop(text: str, expected: bool) -> None:
    program = compiled(text)
    assert program
    assert is_without_loops(program) == expected


# A way on which M[3] is written, and one on which it is not.
def test_on_all_ways_it_must_have_been_written() -> None:
    ways = [(0x00, 0, 0, 5), (0x15, 0, 1, 5), (0x02, 0, 0, 3), (0x61, 0, 0, 3), (0x06, 0, 0, 1)]
    assert not is_self_contained(b"".join(struct.pack("=HBBI", *each) for each in ways))


@pytest.mark.parametrize("optimize", [True, False])
def test_jumps_that_become_too_long_go_on_where_they_went(optimize: bool) -> None:
    text = " or ".join(f"tcp[{number}] = {number}" for number in range(60))
    program = compiled(text, optimize=optimize)
    assert program
    made = bounded(program, 60)
    assert max(max(each.jump_true, each.jump_false) for each in parse(made)) <= 255
    assert any(each.code == 0x05 for each in parse(made)), "one that had to be made longer"
    for number in range(60):
        segment = bytearray(b"\xff" * 60)
        segment[number] = number
        packet = bytes(12) + b"\x08\0" + b"\x45" + bytes(8) + b"\x06" + bytes(10) + segment
        assert bool(run_by_libpcap(program, packet))
        assert bool(run_by_libpcap(made, packet)) == (34 + number < 60)


@settings(deadline=None, max_examples=100)
@given(
    curious_filters,
    st.sampled_from([DLT_LINUX_SLL, DLT_LINUX_SLL2]),
    _limits,
    st.lists(st.tuples(ethertypes, ip_packets, st.integers(0, 4), st.sampled_from([1, 2])), min_size=4, max_size=8),
)
def test_cooked_they_see_no_further_than_cooked_headers_and_what_follows_them(
    text: str, dlt: int, limit_bytes: int, packets: list[tuple[int, bytes, int, int]]
) -> None:
    program = compiled(text, dlt)
    # The length that the kernel tells is that without a header, with libpcap too.
    assume(program and is_self_contained(program))
    assert program
    # Nor does the whole header have what the kernel tells where the filter itself asks for such a place.
    assume(all(each.k < AD_OFF for each in parse(program) if each.is_load_from_packet))
    assume(all(each.code not in _LENGTH_CODES for each in parse(program)))
    made = cook(bounded(program, limit_bytes), dlt)
    assume(made)
    assert made
    for protocol, packet, kind, index in packets:
        header, aside = _cooked_header(dlt, protocol, kind, index)
        expected = run(program, (header + packet)[:limit_bytes])
        assert bool(run(made, packet, aside)) == bool(expected)


class Aside(dict[int, int]):
    """What the kernel tells beside a packet, and what it was asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: set[int] = set()

    def __missing__(self, offset: int) -> int:
        self.asked.add(offset)
        return 1


@pytest.mark.parametrize("offset", range(0, 64, 4))
def test_beside_the_packet_they_see_what_the_file_tells_too(offset: int) -> None:
    program = compiled(f"ether[{AD_OFF + offset}:4] = 1")
    assert program
    # Protocol, kind of packet, interface, its type, xor (which is no question), tag, random numbers, the tag's type.
    is_told = offset in (0, 4, 8, 28, 40, 44, 48, 56, 60)
    for limit_bytes in (1500, 14, 13):
        aside = Aside()
        run(bounded(program, limit_bytes), bytes(100), aside)
        is_in_file = is_told and (limit_bytes >= 14 or offset not in (0, 44, 48, 60))
        assert aside.asked == ({offset} if is_in_file else set())


def test_a_tag_that_the_kernel_has_set_aside_counts_among_the_first_bytes() -> None:
    packet = bytes(range(100))
    for limit_bytes in (20, 2):
        for is_tagged in (0, 1):
            aside = {AD_VLAN_TAG_PRESENT: is_tagged, AD_VLAN_TAG: 7}
            for at in range(30):
                program = compiled(f"ether[{at}] = {at}")
                assert program
                made = bounded(program, limit_bytes, tag_bytes=_TAG_BYTES)
                sees = at < limit_bytes - is_tagged * _TAG_BYTES
                assert bool(run(made, packet, aside)) == sees


def test_a_live_handles_vlan_filter_is_bounded_too(veth: tuple[str, str]) -> None:
    handle = Handle(veth[1])
    handle.activate(snaplen_bytes=SNAPLEN_BYTES)
    try:
        program = handle.compile("vlan 7 and udp port 53")
    finally:
        handle.close()
    udp = bytes(12) + b"\x08\0\x45" + bytes(8) + b"\x11" + bytes(10) + struct.pack("!HHI", 53, 9, 0)
    for limit_bytes, sees in ((100, True), (42, True), (39, False), (20, False)):
        made = bounded(program, limit_bytes, tag_bytes=_TAG_BYTES)
        assert bool(run(made, udp, {AD_VLAN_TAG_PRESENT: 1, AD_VLAN_TAG: 7})) == sees
        assert not run(made, udp, {AD_VLAN_TAG_PRESENT: 1, AD_VLAN_TAG: 8})


# On live handles --------------------------------------------------------------------------------------------------


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
