"""Which filter an interface gets: policy's is for what the kernel delivers there, whatever the user calls it.

Asked of the worker's own code in this process, for all hardware types and all link-layer types, and judged by running
what it makes.
"""

import socket
import struct
from collections.abc import Iterator

import pytest

from capd.filters.compiler import CaptureFailed, Compiler
from capd.launch import DirectoryComes, Launch, LaunchInterface
from capd.linux.libpcap import Handle
from capd.supervisor import armed_rings
from capd.supervisor.packet_rings import NewPacketRing
from capd.supervisor.policy_filters import PolicyFilters, joined
from capd.worker.sources.af_packet import SourceMaker
from capd_protocol.formats.linktypes import DLT_EN10MB, DLT_LINUX_SLL, DLT_RAW, KNOWN, from_dlt
from capd_protocol.messages import MAX_SNAPLEN_BYTES, Conditions, Destination, FailureCode, InterfaceRequest, Recorder
from tests.support.bpf import AD_HATYPE, AD_IFINDEX, AD_PKTTYPE, AD_PROTOCOL, compiled, run, run_by_libpcap

NOT_SSH = "not tcp port 22"
#: linux/if_arp.h, by what libpcap gives it (map_arphrd_to_dlt() in pcap-linux.c): DLT_….
HARDWARE_TYPES = {
    1: [1, 23, 772],
    2: [2],
    202: [3],
    4: [4],
    5: [5],
    227: [280],
    6: [6, 800],
    129: [7],
    10: [774],
    # Those that it does not know, or does not trust: cooked.
    DLT_LINUX_SLL: [19, 512, 769, 777, 778, 783, 822, 823, 825, 0xFFFF],
    105: [801],
    119: [802],
    127: [803],
    104: [513],
    DLT_RAW: [15, 256, 257, 258, 259, 264, 518, 519, 768, 776, 0xFFFE],
    107: [770],
    114: [773],
    122: [18],
    224: [784, 785, 786, 787],
    230: [804],
    271: [826],
}
KINDS = [(hardware_type, dlt) for dlt, hardware_types in HARDWARE_TYPES.items() for hardware_type in hardware_types]


def interface(hardware_type: int, dlt: int, wanted: str | None = None, **options: object) -> LaunchInterface:
    """Return one that is not up, so that libpcap is not asked about it."""
    policy = {name: options.pop(name) for name in ("policy_filter", "policy_snaplen_bytes") if name in options}
    return LaunchInterface(
        request=InterfaceRequest(name="some0", link_layer_type=wanted, **options),  # type: ignore[arg-type]
        device="some0",
        index=7,
        hardware_type=hardware_type,
        default_dlt=dlt,
        loopback=False,
        is_up=False,
        **policy,  # type: ignore[arg-type]
    )


def maker_for(
    *interfaces: LaunchInterface, trigger_filter: str = "", later_filters: tuple[str, ...] = ()
) -> SourceMaker:
    recorder = Recorder(memory_bytes=1, duration_s=1, trigger_filter=trigger_filter) if trigger_filter else None
    launch = Launch(
        user_id=0,
        group_id=0,
        groups=(),
        interfaces=interfaces,
        destination=Destination(file_name="x.pcapng"),
        directory_comes=DirectoryComes.PASSED,
        file_format="pcapng",
        ring=None,
        recorder=recorder,
        autostop=Conditions(),
        update_interval_s=0.1,
        later_filters=later_filters,
        waits=bool(later_filters),
    )
    return SourceMaker(launch, "Linux", Compiler())


def armed(of: LaunchInterface, users: bytes) -> bytes:
    """Return a filter of the user's as the daemon gives it to a ring: behind policy's."""
    policys = PolicyFilters()._compile(of) if of.policy_filter else b""
    return joined(policys, users, loopback_index=None)


def program_of(of: LaunchInterface) -> bytes:
    return armed(of, maker_for(of).plan(of, 0).filter.program)


# Frames -----------------------------------------------------------------------------------------------------------


def segment(port: int, ports_at: bytes = b"") -> bytes:
    """Return an IPv4 packet with a TCP segment."""
    tcp = struct.pack("!HHIIBBHHH", 40000, port, 1, 1, 0x50, 0x10, 1000, 0, 0) + ports_at
    return struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(tcp), 1, 0, 64, 6, 0, b"\x0a\0\0\1", b"\x0a\0\0\2") + tcp


_SNAP = bytes.fromhex("aaaa030000000800")
_ADDRESSES = bytes.fromhex("020000000002020000000001")
#: What may stand before an IP packet, by kind of link.
LINK_HEADERS = {
    "none": b"",
    "Ethernet": _ADDRESSES + b"\x08\0",
    "experimental Ethernet": b"\1\2\x08\0",
    "802.2": _ADDRESSES + b"\0\x40" + _SNAP,
    "token ring": b"\x10\x40" + _ADDRESSES + _SNAP,
    "FDDI": b"\x50" + _ADDRESSES + _SNAP,
    "ARCNET": bytes([1, 2, 0, 0, 0xD4]),
    "PPP": b"\xff\x03\0\x21",
    "C_HDLC": b"\x0f\0\x08\0",
    "frame relay": b"\x18\x41\x03\xcc",
    "IP over FC": bytes(16) + _SNAP,
    "802.11": bytes.fromhex("08000000") + _ADDRESSES + bytes(6) + b"\0\0" + _SNAP,
    "radiotap": bytes.fromhex("0000080000000000 08000000") + _ADDRESSES + bytes(6) + b"\0\0" + _SNAP,
    "AX.25": b"\0" + bytes(14) + b"\x03\xcc",
    "NULL": b"\2\0\0\0",
}


def frames() -> Iterator[bytes]:
    """Return frames to SSH and others, behind all link-layer headers, and with bytes before them that are none."""
    for port in (22, 80):
        packet = segment(port)
        for header in LINK_HEADERS.values():
            yield header + packet
        for size in range(40):
            yield bytes(size) + packet
            yield bytes(range(size)) + packet


# The table --------------------------------------------------------------------------------------------------------


def forbidden_and_taken(kind: tuple[int, int], program: bytes) -> tuple[int, int]:
    """Return how many frames policy does not allow, as what the kernel delivers, and how many of these are taken."""
    hardware_type, dlt = kind
    policy = compiled(NOT_SSH, dlt)
    if policy is None:
        return 0, 0
    forbidden = taken = 0
    for frame in frames():
        if dlt == DLT_LINUX_SLL:
            # The kernel says beside it what a header would say.
            aside = {AD_PROTOCOL: 0x0800, AD_PKTTYPE: 0, AD_IFINDEX: 7, AD_HATYPE: hardware_type}
            is_forbidden = not run(policy, struct.pack("!HHH8sH", 0, hardware_type, 6, bytes(8), 0x0800) + frame)
            is_taken = bool(run(program, frame, aside))
        else:
            is_forbidden = not run_by_libpcap(policy, frame)
            is_taken = bool(run_by_libpcap(program, frame))
        forbidden += is_forbidden
        taken += is_forbidden and is_taken
    return forbidden, taken


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: f"{kind[0]}-{from_dlt(kind[1])}")
def test_no_wish_for_a_link_layer_type_gets_around_policy(kind: tuple[int, int]) -> None:
    default = from_dlt(kind[1])
    possible = {default.name, "LINUX_SLL2"} if default.dlt == DLT_LINUX_SLL else {default.name}
    for wanted in (None, *(each.name for each in KNOWN)):
        wish = interface(*kind, wanted, policy_filter=NOT_SSH)
        if wanted is None or wanted in possible:
            if compiled(NOT_SSH, default.dlt) is None:
                # libpcap compiles nothing for such packets, so nobody gets any.
                with pytest.raises(CaptureFailed):
                    program_of(wish)
                continue
            plan = maker_for(wish).plan(wish, 0)
            assert plan.link_layer_type.name == (wanted or default.name)
            forbidden, taken = forbidden_and_taken(kind, armed(wish, plan.filter.program))
            assert taken == 0
            if default.dlt in (DLT_EN10MB, DLT_RAW, DLT_LINUX_SLL, 6, 7, 10, 104, 105, 127):
                assert forbidden, "one of the frames is SSH there"
        else:
            with pytest.raises(CaptureFailed) as raised:
                maker_for(wish).plan(wish, 0)
            failure = raised.value.failure
            assert (failure.code, failure.argument) == (FailureCode.UNSUPPORTED, "link_layer_type")
            assert failure.text == f"some0 has no link-layer type {wanted}; it has " + ", ".join(
                sorted(possible, key=lambda name: name != default.name)
            )


def test_cooked_packets_are_filtered_alike_under_both_names() -> None:
    # What of a header policy means does not change with what the user calls it.
    for policy_filter in ("link[0:2] = 4", "ifindex 7", "outbound"):
        taken: list[list[bool]] = []
        for name in ("LINUX_SLL", "LINUX_SLL2"):
            program = program_of(interface(0xFFFF, DLT_LINUX_SLL, name, policy_filter=policy_filter))
            taken.append(
                [
                    bool(run(program, segment(22), {AD_PROTOCOL: 4, AD_PKTTYPE: kind, AD_IFINDEX: index, AD_HATYPE: 1}))
                    for kind in (0, 4)
                    for index in (7, 8)
                ]
            )
        assert taken[0] == taken[1]
        assert set(taken[0]) == {True, False}


@pytest.mark.parametrize("text", ["link[link[20]] = 1", "ether[0] & ether[ether[1]] = 1"])
def test_a_place_of_a_cooked_header_that_is_calculated_is_refused(text: str) -> None:
    for name in ("LINUX_SLL", "LINUX_SLL2"):
        with pytest.raises(CaptureFailed) as raised:
            program_of(interface(0xFFFF, DLT_LINUX_SLL, name, capture_filter=text))
        assert raised.value.failure.code == FailureCode.UNSUPPORTED


def test_a_program_that_reads_what_policys_has_left_is_refused() -> None:
    with pytest.raises(CaptureFailed, match="'geneve' last") as raised:
        program_of(interface(1, DLT_EN10MB, capture_filter="(geneve and ip) or not ip6"))
    assert raised.value.failure.code == FailureCode.BAD_FILTER
    assert program_of(interface(1, DLT_EN10MB, capture_filter="not ip6 or (geneve and ip)"))


@pytest.mark.parametrize("limit_bytes", [MAX_SNAPLEN_BYTES, 60])
@pytest.mark.parametrize("text", ["ip protochain 17", "ip6 protochain 17 or tcp"])
def test_a_filter_with_a_loop_is_refused(text: str, limit_bytes: int) -> None:
    for capture_filter, policy_filter, code in (
        (text, "", FailureCode.BAD_FILTER),
        ("", text, FailureCode.UNSUPPORTED),
    ):
        wish = interface(
            1,
            DLT_EN10MB,
            capture_filter=capture_filter,
            policy_filter=policy_filter,
            policy_snaplen_bytes=limit_bytes,
        )
        with pytest.raises(CaptureFailed, match="protochain") as raised:
            program_of(wish)
        assert raised.value.failure.code == code


# The bound on what a user sees ------------------------------------------------------------------------------------


def takes(program: bytes, payload: bytes) -> bool:
    return bool(run_by_libpcap(program, LINK_HEADERS["Ethernet"] + segment(22, payload)))


def test_policys_snaplen_bounds_the_users_filter_and_not_policys() -> None:
    secret_at = 14 + 40 + 6
    of_secret = f"ether[{secret_at}] = 0x73"
    (secret, other) = (b"......secret", b"......nothing")
    for own, policy, snaplen, expected in (
        (of_secret, "", MAX_SNAPLEN_BYTES, (True, False)),
        (of_secret, "", secret_at + 1, (True, False)),
        (of_secret, "", secret_at, (False, False)),
        (f"not {of_secret}", "", secret_at, (False, False)),
        (f"tcp[26] = 0x73 or {of_secret}", "", secret_at, (False, False)),
        ("", of_secret, secret_at, (True, False)),
        ("tcp", of_secret, secret_at, (True, False)),
    ):
        program = program_of(
            interface(1, DLT_EN10MB, capture_filter=own, policy_filter=policy, policy_snaplen_bytes=snaplen)
        )
        # There is no tag set aside; libpcap's interpreter takes that question for a load from beyond the end.
        aside = dict.fromkeys(range(0, 64, 4), 0)
        frame = LINK_HEADERS["Ethernet"] + segment(22, b"")
        assert tuple(bool(run(program, frame + payload, aside)) for payload in (secret, other)) == expected, own


def test_a_smaller_snaplen_of_the_users_own_bounds_nothing() -> None:
    program = program_of(interface(1, DLT_EN10MB, capture_filter="tcp[26] = 0x73", snaplen_bytes=20))
    assert takes(program, b"......secret")
    assert not takes(program, b"......nothing")


def test_a_triggers_filter_is_bounded_too() -> None:
    wish = interface(1, DLT_EN10MB, policy_snaplen_bytes=54)
    aside = dict.fromkeys(range(0, 64, 4), 0)
    for text, expected in (("ether[60] = 0x73", False), ("ether[60] != 0x73", False), ("tcp port 22", True)):
        program = maker_for(wish, trigger_filter=text).plan(wish, 0).filter.trigger_program
        assert bool(run(program, LINK_HEADERS["Ethernet"] + segment(22, b"......secret"), aside)) == expected


def test_cooked_the_header_counts() -> None:
    for name, header_bytes in (("LINUX_SLL", 16), ("LINUX_SLL2", 20)):
        for limit_bytes, expected in ((header_bytes + 20, True), (header_bytes + 19, False)):
            wish = interface(0xFFFF, DLT_LINUX_SLL, name, capture_filter="ip[19] = 2", policy_snaplen_bytes=limit_bytes)
            aside = dict.fromkeys(range(0, 64, 4), 0) | {AD_PROTOCOL: 0x0800}
            assert bool(run(program_of(wish), segment(22), aside)) == expected


# What is compiled, and how often ----------------------------------------------------------------------------------


def test_a_program_for_which_the_kernel_has_no_room_is_refused_as_such() -> None:
    # Loads take 14 times as much in the kernel as they do here.
    program = struct.pack("=HBBI", 0x28, 0, 0, 12) * 4000 + struct.pack("=HBBI", 0x06, 0, 0, 1)
    wanted = armed_rings._Wanted(0, interface(1, DLT_EN10MB), NewPacketRing())
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as some, pytest.raises(CaptureFailed) as raised:
        armed_rings._attach(some, program, wanted, argument="recorder_trigger_filter")
    failure = raised.value.failure
    assert (failure.code, failure.argument) == (FailureCode.BAD_FILTER, "recorder_trigger_filter")
    assert "no room for a filter of 4001 instructions: it needs some 512,2" in failure.text
    assert "of the sysctl net.core.optmem_max" in failure.text


LONG = " or ".join(f"host 10.0.{number // 256}.{number % 256}" for number in range(150))
ORDINARY = [
    "",
    "tcp port 80 and host 10.0.0.1",
    "not tcp port 22",
    "ip6 and udp portrange 1000-2000",
    "ether broadcast or multicast",
    "tcp[tcpflags] & tcp-syn != 0",
    LONG,
]


@pytest.mark.parametrize("snaplen_bytes", [MAX_SNAPLEN_BYTES, 96])
@pytest.mark.parametrize("text", ORDINARY, ids=lambda text: text[:40])
def test_an_ordinary_filter_is_as_libpcap_makes_it(text: str, snaplen_bytes: int) -> None:
    wish = interface(1, DLT_EN10MB, capture_filter=text, snaplen_bytes=snaplen_bytes)
    assert program_of(wish) == compiled(text, DLT_EN10MB, snaplen_bytes)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The texts that libpcap was asked to compile."""
    texts: list[str] = []
    compile_it = Handle.compile

    def listed(self: Handle, text: str, *, optimize: bool = True) -> bytes:
        texts.append(text)
        return compile_it(self, text, optimize=optimize)

    monkeypatch.setattr(Handle, "compile", listed)
    return texts


def test_the_same_filter_is_compiled_once_for_all_interfaces(asked: list[str]) -> None:
    wishes = [
        interface(1, DLT_EN10MB, capture_filter="udp", policy_filter=NOT_SSH, snaplen_bytes=100 + number)
        for number in range(64)
    ]
    maker = maker_for(*wishes)
    for number, wish in enumerate(wishes):
        maker.plan(wish, number)
    assert asked == ["udp"]
    assert maker.plan(interface(0xFFFE, DLT_RAW, capture_filter="udp"), 64)
    assert asked == ["udp", "udp"]


def test_a_wrong_filter_is_looked_into_once_and_told_for_each_interface(asked: list[str]) -> None:
    maker = maker_for()
    failures = []
    for number in range(5):
        with pytest.raises(CaptureFailed) as raised:
            maker.plan(interface(1, DLT_EN10MB, capture_filter="udp port and"), number)
        failures.append(raised.value.failure)
    assert len(asked) <= 10
    assert [each.interface_index for each in failures] == [0, 1, 2, 3, 4]
    assert {(each.code, each.position) for each in failures} == {(FailureCode.BAD_FILTER, 9)}


def test_where_a_long_filter_goes_wrong_is_not_looked_for(asked: list[str]) -> None:
    text = " or ".join(f"port {number + 1}" for number in range(800)) + " or port"
    with pytest.raises(CaptureFailed) as raised:
        program_of(interface(1, DLT_EN10MB, capture_filter=text))
    assert raised.value.failure.code == FailureCode.BAD_FILTER
    assert raised.value.failure.position is None
    assert asked == [text]


def test_interfaces_that_come_later_have_what_was_compiled_in_the_beginning(asked: list[str]) -> None:
    maker = maker_for(interface(0xFFFE, DLT_RAW), later_filters=(LONG, "ether proto 9", NOT_SSH))
    maker.compile_ahead()
    maker.close_handles()
    asked.clear()
    for kind in ((1, DLT_EN10MB), (0xFFFE, DLT_RAW)):
        wish = interface(*kind, capture_filter=LONG, policy_filter=NOT_SSH)
        assert maker.plan(wish, 0).filter.program
    assert asked == []


def test_of_what_was_not_only_what_takes_no_time_is_compiled_later(asked: list[str]) -> None:
    maker = maker_for()
    maker.close_handles()
    assert maker.plan(interface(1, DLT_EN10MB, capture_filter=ORDINARY[1]), 0).filter.program == compiled(ORDINARY[1])
    # This fits into the kernel without libpcap's optimizer, and is not worth keeping a capture waiting.
    ports = " or ".join(f"port {number + 1}" for number in range(30))
    assert maker.plan(interface(1, DLT_EN10MB, capture_filter=ports), 0).filter.program == compiled(
        ports, optimize=False
    )
    asked.clear()
    with pytest.raises(CaptureFailed) as raised:
        maker.plan(interface(1, DLT_EN10MB, capture_filter=LONG), 0)
    assert raised.value.failure.code == FailureCode.UNSUPPORTED
    assert asked == []
