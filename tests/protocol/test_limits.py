"""Every wish of a capture has a range, and a wish outside it gets a fault that names it and says what is possible."""

import math
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capd_protocol.arguments import (
    RANGES,
    Fault,
    find_faults,
    find_interval_faults,
    find_revocation_faults,
    find_snapshot_faults,
)
from capd_protocol.frames import Frame
from capd_protocol.messages import Conditions, Destination, InterfaceRequest, Recorder, StartCapture, decode

LO = InterfaceRequest(name="lo")
MIB = 1024 * 1024


def request(**changes: Any) -> StartCapture:
    return StartCapture(**{"interfaces": (LO,), "destination": Destination(file_name="a"), **changes})


def interface(**changes: Any) -> StartCapture:
    return request(interfaces=(InterfaceRequest(**{"name": "lo", **changes}),))


def autostop(**changes: Any) -> StartCapture:
    return request(autostop=Conditions(**changes))


def ring(**changes: Any) -> StartCapture:
    return request(ring=Conditions(**{"packets": 1, **changes}))


def recorder(**changes: Any) -> StartCapture:
    return request(recorder=Recorder(**changes))


def file(name: str) -> StartCapture:
    return request(destination=Destination(file_name=name))


def ring_file(name: str) -> StartCapture:
    return request(destination=Destination(file_name=name), ring=Conditions(packets=1))


# Names ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a", "Z9", "dns.of-eth0_2", "a" * 64])
def test_a_name_may_be(name: str) -> None:
    assert find_faults(request(name=name, detached=True)) == []


@pytest.mark.parametrize("name", ["", "1", "12345", "-a", ".a", "_a", "a/b", "a b", "a\n", "ä", "a" * 65, "\ud800"])
def test_a_name_is_no_number_and_no_path(name: str) -> None:
    (fault,) = find_faults(request(name=name))
    assert fault.argument == "name"


def test_what_is_detached_has_a_name_and_a_file_of_its_own() -> None:
    (nameless,) = find_faults(request(detached=True))
    assert nameless.argument == "name"
    temporary = Destination(file_name="a", exclusive=True)
    (nobodys,) = find_faults(request(detached=True, name="a", destination=temporary))
    assert nobodys.argument == "savefile"


# Numbers --------------------------------------------------------------------------------------------------------


class Number(NamedTuple):
    """A number that a client sends: the least and the greatest that is possible, and what is just outside."""

    faults: Callable[[Any], list[Fault]]
    least: float
    greatest: float
    below: float
    above: float
    #: One of what the fault's text counts.
    unit: int = 1


ABOUT_TEN_YEARS_S = 315_360_000
MORE_S = math.nextafter(ABOUT_TEN_YEARS_S, math.inf)

NUMBERS = {
    "snaplen": Number(lambda n: find_faults(interface(snaplen_bytes=n)), 1, 262_144, 0, 262_145),
    "kernel_buffer_size": Number(
        lambda n: find_faults(interface(kernel_buffer_size_bytes=n)), MIB, 1024 * MIB, MIB - 1, 1024 * MIB + 1, unit=MIB
    ),
    "max_packet_count": Number(lambda n: find_faults(autostop(packets=n)), 1, 2**63 - 1, 0, 2**63),
    "autostop_duration": Number(
        lambda s: find_faults(autostop(duration_s=s)), 0.001, ABOUT_TEN_YEARS_S, 0.0009, MORE_S
    ),
    "autostop_filesize": Number(lambda n: find_faults(autostop(filesize_kb=n)), 1, 2_000_000_000, 0, 2_000_000_001),
    "autostop_files": Number(
        lambda n: find_faults(request(ring=Conditions(packets=1), autostop=Conditions(files=n))), 1, 2**31 - 1, 0, 2**31
    ),
    "ringbuffer_duration": Number(lambda s: find_faults(ring(duration_s=s)), 0.001, ABOUT_TEN_YEARS_S, 0.0009, MORE_S),
    "ringbuffer_filesize": Number(lambda n: find_faults(ring(filesize_kb=n)), 1, 2_000_000_000, 0, 2_000_000_001),
    "ringbuffer_packets": Number(lambda n: find_faults(ring(packets=n)), 1, 2**63 - 1, 0, 2**63),
    "ringbuffer_files": Number(lambda n: find_faults(ring(files=n)), 1, 100_000, 0, 100_001),
    "ringbuffer_interval": Number(lambda s: find_faults(ring(interval_s=s)), 1, ABOUT_TEN_YEARS_S, 0.9999, MORE_S),
    "ringbuffer_total_filesize": Number(
        lambda n: find_faults(ring(total_kb=n)), 1, 2_000_000_000_000, 0, 2_000_000_000_001
    ),
    "ringbuffer_age": Number(lambda s: find_faults(ring(age_s=s)), 0.001, ABOUT_TEN_YEARS_S, 0.0009, MORE_S),
    "ringbuffer_free_space": Number(lambda n: find_faults(ring(free_kb=n)), 1, 2_000_000_000_000, 0, 2_000_000_000_001),
    "recorder_duration": Number(
        lambda s: find_faults(recorder(duration_s=s)), 0.1, 86_400, 0.0999, math.nextafter(86_400, math.inf)
    ),
    "recorder_memory": Number(
        lambda n: find_faults(recorder(memory_bytes=n)), 4 * MIB, 65_536 * MIB, 4 * MIB - 1, 65_536 * MIB + 1, unit=MIB
    ),
    "recorder_after": Number(
        lambda s: find_faults(recorder(after_s=s)), 0, 3600, -0.001, math.nextafter(3600, math.inf)
    ),
    "recorder_cool_down": Number(
        lambda s: find_faults(recorder(cool_down_s=s)), 0.1, ABOUT_TEN_YEARS_S, 0.0999, MORE_S
    ),
    "recorder_trigger_rate": Number(lambda n: find_faults(recorder(trigger_pps=n)), 1, 2**31 - 1, 0, 2**31),
    "after": Number(find_snapshot_faults, 0, 3600, -0.001, math.nextafter(3600, math.inf)),
    "update_interval": Number(
        lambda s: find_faults(request(update_interval_s=s)), 0.005, 60, 0.0049, math.nextafter(60, math.inf)
    ),
    "interval": Number(find_interval_faults, 0.05, 3600, 0.0499, math.nextafter(3600, math.inf)),
    "user": Number(find_revocation_faults, 0, 2**32 - 2, -1, 2**32 - 1),
}

SECONDS = [name for name in NUMBERS if RANGES[name].unit == "seconds"]
WHOLE = [name for name in NUMBERS if name not in SECONDS]


def only(faults: list[Fault]) -> Fault:
    (fault,) = faults
    return fault


def words_of_range(fault: Fault) -> tuple[str, str, str]:
    """Return the value, the least and the greatest one that a fault's text tells."""
    unit = RANGES[fault.argument].unit
    parts = re.fullmatch(rf"{fault.argument} is (.+); possible are (\S+) to (\S+) {unit}", fault.text)
    assert parts
    return parts[1], parts[2], parts[3]


def test_the_table_holds_every_range() -> None:
    assert NUMBERS.keys() == RANGES.keys()


@pytest.mark.parametrize("name", NUMBERS)
def test_what_is_just_inside_is_possible(name: str) -> None:
    number = NUMBERS[name]
    assert number.faults(number.least) == []
    assert number.faults(number.greatest) == []


@pytest.mark.parametrize("side", ["below", "above"])
@pytest.mark.parametrize("name", NUMBERS)
def test_what_is_just_outside_is_named_with_what_is_possible(name: str, side: str) -> None:
    number = NUMBERS[name]
    value = number.below if side == "below" else number.above
    fault = only(number.faults(value))
    assert fault.argument == name
    shown, least, greatest = words_of_range(fault)
    assert float(least) == number.least / number.unit
    assert float(greatest) == number.greatest / number.unit
    # A reader sees that it is outside: no rounding hides it.
    assert float(shown) == value / number.unit
    if name in WHOLE and number.unit == 1:
        assert (shown, greatest) == (str(value), str(number.greatest))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -1.0, 0.0, -0.0, 1e300])
@pytest.mark.parametrize("name", SECONDS)
def test_seconds_are_numbers(name: str, value: float) -> None:
    if value == 0 and NUMBERS[name].least == 0:
        assert NUMBERS[name].faults(value) == []
        return
    fault = only(NUMBERS[name].faults(value))
    assert fault.argument == name
    shown = float(words_of_range(fault)[0])
    assert shown == value or (math.isnan(shown) and math.isnan(value))


@pytest.mark.parametrize("value", [-1, -(2**63) - 1, 2**64, 10**400 + 1, -(10**400) - 1], ids=range(5))
@pytest.mark.parametrize("name", WHOLE)
def test_whole_numbers_may_be_of_any_size(name: str, value: int) -> None:
    fault = only(NUMBERS[name].faults(value))
    assert fault.argument == name
    assert len(fault.text) < 1000


def test_a_client_can_send_a_number_of_any_size() -> None:
    # JSON has no bounds.
    start = b'{"type":"start","interfaces":[{"name":"lo","snaplen_bytes":%s}],"destination":{"file_name":"a"}}'
    sent = decode(Frame(ord("r"), start % (b"9" * 400)))
    assert isinstance(sent, StartCapture)
    assert only(find_faults(sent)).argument == "snaplen"


# Words ----------------------------------------------------------------------------------------------------------

POSSIBLE = {
    "defaults": request(),
    "64 interfaces": request(interfaces=tuple(InterfaceRequest(name=f"eth{i}") for i in range(64))),
    "interface: longest name": interface(name="x" * 15),
    "interface: longest name in bytes": interface(name="ü" * 7),
    "interface: dots in its name": interface(name="eth0.100"),
    "interface: three dots": interface(name="..."),
    "filter: longest": interface(capture_filter="tcp".ljust(16_384)),
    "filter: several lines": interface(capture_filter="tcp\nor\tudp"),
    "link-layer type: name": interface(link_layer_type="EN10MB"),
    "link-layer type: lower case": interface(link_layer_type="dlt_raw"),
    "link-layer type: number": interface(link_layer_type="147"),
    "wifi: frequency": interface(wifi_channel="2412"),
    "wifi: least": interface(wifi_channel="2000"),
    "wifi: greatest": interface(wifi_channel="8000"),
    **{f"wifi: {kind}": interface(wifi_channel=f"2437,{kind}") for kind in ("NOHT", "HT20", "HT40-", "HT40+")},
    "file: one letter": file("a"),
    "file: hidden": file(".a"),
    "file: three dots": file("..."),
    "file: longest name": file("x" * 255),
    "file: longest name in bytes": file("ü" * 127),
    "file: longest name of a ring": ring_file("x" * 234),
    "pcap": request(file_format="pcap"),
    "ring: by duration": request(ring=Conditions(duration_s=1)),
    "ring: by size": request(ring=Conditions(filesize_kb=1)),
    "ring: by packets": request(ring=Conditions(packets=1)),
    "ring: all": request(
        ring=Conditions(duration_s=1, filesize_kb=1, packets=1, files=2),
        autostop=Conditions(duration_s=1, packets=1, files=1),
    ),
    "autostop: all for one file": autostop(duration_s=1, filesize_kb=1, packets=1),
}


@pytest.mark.parametrize("wish", POSSIBLE.values(), ids=POSSIBLE)
def test_what_is_possible_has_no_fault(wish: StartCapture) -> None:
    assert find_faults(wish) == []


TWO = (LO, InterfaceRequest(name="eth0"))

# What is asked for, the argument at fault, and what its text must say.
IMPOSSIBLE = {
    "no interfaces": (request(interfaces=()), "interfaces", ["0 interfaces", "1 to 64"]),
    "65 interfaces": (
        request(interfaces=tuple(InterfaceRequest(name=f"eth{i}") for i in range(65))),
        "interfaces",
        ["65 interfaces", "1 to 64"],
    ),
    "interface: twice": (request(interfaces=(LO, TWO[1], LO)), "interfaces", ["lo", "twice"]),
    "interface: no name among others": (
        request(interfaces=(InterfaceRequest(name="lo"), InterfaceRequest(name=""))),
        "interfaces",
        ["''", "1 to 15 bytes"],
    ),
    "interface: long name": (interface(name="x" * 16), "interfaces", ["x" * 16, "1 to 15 bytes"]),
    "interface: long name in bytes": (interface(name="ü" * 8), "interfaces", ["ü" * 8, "1 to 15 bytes"]),
    **{
        f"interface: {name!r}": (interface(name=name), "interfaces", [repr(name), "no interface name"])
        for name in (".", "..", "a/b", "a:b", "a b", "a\tb", "a\nb", "a\0b", "a\x1b[m", "\x7f", "a\xa0b", "\u202ea")
    },
    "interface: not UTF-8": (interface(name="\udcff"), "interfaces", [r"\udcff", "no interface name"]),
    "interface: half a character": (interface(name="\ud800"), "interfaces", [r"\ud800", "no interface name"]),
    "filter: too long": (interface(capture_filter="x" * 16_385), "capture_filter", ["longer than 16384 bytes"]),
    "filter: NUL": (interface(capture_filter="tcp\0"), "capture_filter", ["NUL"]),
    "filter: not ASCII": (interface(capture_filter="host ü"), "capture_filter", ["ASCII"]),
    "filter: not UTF-8": (interface(capture_filter="\udcff"), "capture_filter", ["ASCII"]),
    "filter: half a character": (interface(capture_filter="\ud800"), "capture_filter", ["ASCII"]),
    **{
        f"link-layer type: {name!r}": (
            interface(link_layer_type=name),
            "link_layer_type",
            [repr(name), "such as EN10MB"],
        )
        for name in ("", "ethernet", "-1", str(2**31))
    },
    **{
        f"wifi: {channel!r}": (interface(wifi_channel=channel), "wifi_channel", [repr(channel), "MHz"])
        for channel in (
            "",
            "x",
            "1999",
            "8001",
            "-2412",
            "2412.0",
            "20000",
            "9" * 9,
            ",HT20",
            "\uff12\uff14\uff11\uff12",
        )
    },
    **{
        f"wifi: type {kind!r}": (
            interface(wifi_channel=f"2412,{kind}"),
            "wifi_channel",
            [repr(kind), "NOHT", "HT20", "HT40-", "HT40+"],
        )
        for kind in ("HT80", "ht20", " HT20", "HT20,HT20")
    },
    **{
        f"file: {name!r}": (file(name), "savefile", [repr(name), "not the name of a file"])
        for name in ("", ".", "..", "/", "a/b", "../a", "a\0b")
    },
    "file: not UTF-8": (file("\udcff"), "savefile", [r"\udcff", "not UTF-8"]),
    "file: long name": (file("x" * 256), "savefile", ["256 bytes", "at most 255"]),
    "file: long name in bytes": (file("ü" * 128), "savefile", ["256 bytes", "at most 255"]),
    "file: long name of a ring": (ring_file("x" * 235), "savefile", ["235 bytes", "at most 234"]),
    "ring: never switches": (
        request(ring=Conditions(files=2)),
        "ringbuffer_files",
        ["ringbuffer_duration", "ringbuffer_interval", "ringbuffer_filesize", "ringbuffer_packets"],
    ),
    "ring: what is kept does not switch": (
        request(ring=Conditions(total_kb=2, age_s=1, free_kb=1)),
        "ringbuffer_files",
        ["when to switch"],
    ),
    "ring: no room for two files": (
        request(ring=Conditions(filesize_kb=1000, total_kb=1000)),
        "ringbuffer_total_filesize",
        ["1000 kB", "first file"],
    ),
    **{
        f"end: {name}": (request(autostop=Conditions(**{name: 1})), "autostop", ["conditions of a ring"])
        for name in ("interval_s", "total_kb", "age_s", "free_kb")
    },
    "ring: autostop_filesize": (
        request(ring=Conditions(packets=1), autostop=Conditions(filesize_kb=1)),
        "autostop_filesize",
        ["autostop_files", "autostop_duration", "max_packet_count"],
    ),
    "autostop_files without a ring": (
        autostop(files=1),
        "autostop_files",
        ["ringbuffer_duration", "ringbuffer_filesize", "ringbuffer_packets"],
    ),
    "pcap of two interfaces": (request(interfaces=TWO, file_format="pcap"), "use_libpcap", ["pcapng"]),
}


@pytest.mark.parametrize(("wish", "argument", "says"), IMPOSSIBLE.values(), ids=IMPOSSIBLE)
def test_what_is_impossible_is_named_with_its_reason(wish: StartCapture, argument: str, says: list[str]) -> None:
    fault = only(find_faults(wish))
    assert fault.argument == argument
    for words in says:
        assert words in fault.text


def test_all_faults_come_at_once_in_the_order_of_the_request() -> None:
    wish = StartCapture(
        interfaces=(InterfaceRequest(name="", snaplen_bytes=0), InterfaceRequest(name="lo", capture_filter="\0")),
        destination=Destination(file_name=""),
        file_format="pcap",
        ring=Conditions(files=0),
        autostop=Conditions(packets=0),
        update_interval_s=0,
    )
    assert [fault.argument for fault in find_faults(wish)] == [
        "interfaces",
        "snaplen",
        "capture_filter",
        "savefile",
        "update_interval",
        "max_packet_count",
        "ringbuffer_files",
        "ringbuffer_files",
        "use_libpcap",
    ]


def test_a_ring_makes_no_name_too_long() -> None:
    wish = ring_file("x" * 234)
    assert find_faults(wish) == []
    assert len(wish.destination.file_name + "_00001_20260131235959") == 255


#: Longer where it is quoted than where it was sent.
UNPRINTABLE = "\U000e0001" * 60_000

LONG = {
    "interface": interface(name=UNPRINTABLE),
    "interfaces": request(interfaces=tuple(InterfaceRequest(name=f"{i}{UNPRINTABLE[:999]}") for i in range(100))),
    "filter": interface(capture_filter=UNPRINTABLE),
    "link-layer type": interface(link_layer_type=UNPRINTABLE),
    "wifi": interface(wifi_channel=UNPRINTABLE),
    "wifi: type": interface(wifi_channel="2412," + UNPRINTABLE),
    "file": file(UNPRINTABLE),
    "file: slash": file("/" + UNPRINTABLE),
    "file: not UTF-8": file("\udcff" + UNPRINTABLE),
}


@pytest.mark.parametrize("wish", LONG.values(), ids=LONG)
def test_a_text_is_short_whatever_was_sent(wish: StartCapture) -> None:
    faults = find_faults(wish)
    assert faults
    assert max(len(fault.text) for fault in faults) < 1000


def test_a_text_holds_nothing_that_a_terminal_obeys() -> None:
    escape = InterfaceRequest(name="\x1b[m")
    faults = find_faults(request(interfaces=(escape, escape)))
    assert len(faults) == 3
    assert all(fault.text.isprintable() for fault in faults)


# Anything -------------------------------------------------------------------------------------------------------

ARGUMENTS = {*NUMBERS, "interfaces", "capture_filter", "link_layer_type", "wifi_channel", "savefile", "use_libpcap"}

# Surrogates too: Python programs have them in the names of files that are not UTF-8.
texts = st.text(st.characters(codec=None, categories=None, exclude_categories=()), max_size=20)
optional_whole = st.none() | st.integers()
optional_seconds = st.none() | st.floats()
conditions = st.builds(
    Conditions, duration_s=optional_seconds, filesize_kb=optional_whole, packets=optional_whole, files=optional_whole
)
wishes = st.builds(
    StartCapture,
    interfaces=st.lists(
        st.builds(
            InterfaceRequest,
            name=texts,
            capture_filter=texts,
            snaplen_bytes=st.integers(),
            wifi_channel=st.none() | texts,
            link_layer_type=st.none() | texts,
            kernel_buffer_size_bytes=st.integers(),
        ),
        max_size=3,
    ).map(tuple),
    destination=st.builds(Destination, file_name=texts),
    file_format=st.sampled_from(["pcap", "pcapng"]),
    ring=st.none() | conditions,
    autostop=conditions,
    update_interval_s=st.floats(),
)


@settings(derandomize=True, deadline=None, max_examples=200)
@given(wishes)
def test_any_request_has_its_faults_told(wish: StartCapture) -> None:
    for fault in find_faults(wish):
        assert fault.argument in ARGUMENTS
        assert fault.text
        assert fault.text.isprintable()
