"""Random requests and bytes: what a client could mean, and what nobody could. Pure: chances in, values out."""

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from capd_protocol.frames import MAX_REQUEST_SIZE_BYTES, encode_frame
from capd_protocol.messages import (
    MAX_SNAPLEN_BYTES,
    AttachCapture,
    Conditions,
    Destination,
    FlushCapture,
    GetCapabilities,
    GetDriverCounters,
    Indicator,
    InterfaceRequest,
    ListCaptures,
    ListInterfaces,
    Message,
    OpenDevice,
    Recorder,
    RevokeCaptures,
    RotateCapture,
    SnapshotCapture,
    StartCapture,
    StartSending,
    StopCapture,
    WatchInterfaces,
    WatchStatistics,
    WhoAmI,
    encode,
)

_MIB = 1024 * 1024

_NUMBERS = (0, 1, -1, 2, 255, 2**31 - 1, 2**31, 2**32, 2**63 - 1, 2**63, -(2**63), 10**30, 10**400)
_REALS = (0.0, -0.0, -1.0, 1e-300, 0.004, 0.005, 0.05, 0.5, 3600.5, 1e18, 1e308, float("inf"), float("nan"))
_TEXTS = (
    *("", " ", ".", "..", "/", "../../etc/passwd", "x\0y", "x\ny", "\x1b[2J", "a\u202eb", "%s%n", "-n", "any", "*"),
    *("\ud800", "ä" * 200, "\U0010ffff" * 300, "a" * 5000, "'; reboot #", '"}{"', "None", "0", "1e999"),
)

GOOD_FILTERS = (
    "",
    "",
    "",
    "udp",
    "tcp",
    "udp port 50001",
    "not tcp port 22",
    "vlan",
    "vlan and udp",
    "len < 100",
    "ip6",
)
BAD_FILTERS = (
    *("udp and and", "port", "host www.example.org", "(((", "ip[", "udp\0", "ü", "port 99999999", "ether host 1"),
    *("ether proto 0x1234567890", "gateway nowhere", "inbound", "type mgt", "ifname eth0", "1 = 0", "len > -1"),
)
#: libpcap takes 0.01 s, 1 s, 4 s and more than a minute for so many ports: it is killed before.
_COSTLY_PORTS = (50, 200, 300, 1300)


def costly_filter(choose: random.Random) -> str:
    """Return a filter that takes libpcap long, or very long."""
    return " or ".join(f"port {number + 1}" for number in range(choose.choice(_COSTLY_PORTS)))


def long_filter(choose: random.Random) -> str:
    """Return a filter that is long, or longer than one may be."""
    return "udp" + " and udp" * choose.choice((100, 500, 1500, 2100, 10_000)) + " " * choose.randrange(4000)


#: Of values in values; what is there has none in it.
_LEAF_DEPTH = 3


def any_json(choose: random.Random, depth: int = 0) -> Any:
    """Return some value that JSON has, or Python writes as if it had."""
    kind = choose.randrange(8 if depth < _LEAF_DEPTH else 5)
    if kind == 0:
        return choose.choice((None, True, False))
    if kind == 1:
        return choose.choice(_NUMBERS)
    if kind == 2:
        return choose.choice(_REALS)
    if kind in (3, 4):
        return choose.choice(_TEXTS)
    if kind == 5:
        return [any_json(choose, depth + 1) for _ in range(choose.randrange(4))]
    if kind == 6:
        return [any_json(choose, _LEAF_DEPTH)] * choose.choice((1, 65, 2000))
    return {choose.choice(_TEXTS): any_json(choose, depth + 1) for _ in range(choose.randrange(4))}


def _change_somewhere(choose: random.Random, value: Any) -> Any:
    """Return the value with one thing in it that is other than it was."""
    if isinstance(value, dict) and value and choose.random() < 0.85:
        changed = dict(value)
        key = choose.choice(list(changed))
        what = choose.random()
        if what < 0.1:
            del changed[key]
        elif what < 0.2:
            changed[choose.choice(_TEXTS)] = any_json(choose)
        else:
            changed[key] = _change_somewhere(choose, changed[key])
        return changed
    if isinstance(value, list) and value and choose.random() < 0.85:
        at = choose.randrange(len(value))
        return [*value[:at], _change_somewhere(choose, value[at]), *value[at + 1 :]]
    return any_json(choose)


def changed_frame(choose: random.Random, message: Message) -> bytes:
    """Return the frame of a request in which something is other than it should be."""
    value = msgspec.to_builtins(message)
    for _ in range(choose.choice((1, 1, 2, 5))):
        value = _change_somewhere(choose, value)
    # What msgspec would refuse to write: NaN, infinite numbers, half a surrogate pair as such.
    text = json.dumps(value, ensure_ascii=choose.random() < 0.7)
    return encode_frame(Indicator.REQUEST, text.encode("utf-8", "surrogatepass")[:MAX_REQUEST_SIZE_BYTES])


def nonsense(choose: random.Random) -> bytes:
    """Return bytes that are no conversation, though some begin as one."""
    payload = choose.randbytes(choose.choice((0, 1, 3, 64, 1000, 70_000)))
    frame = bytes([choose.randrange(256)]) + len(payload).to_bytes(3, "big") + payload
    known = encode_frame(choose.choice(list(Indicator)), payload[:10_000])
    nested = encode_frame(Indicator.REQUEST, choose.choice((b"[", b'{"a":')) * choose.choice((10, 1000, 40_000)))
    return choose.choice((payload, frame, known, nested, b"GET / HTTP/1.1\r\n\r\n", bytes(64), b"\xff" * 4))


def oversized(choose: random.Random) -> bytes:
    """Return the beginning of a frame that is longer than it may be."""
    size_bytes = choose.choice((MAX_REQUEST_SIZE_BYTES + 1, 512_001, 2**24 - 1))
    return bytes([choose.choice((Indicator.REQUEST, Indicator.HELLO))]) + size_bytes.to_bytes(3, "big") + bytes(5000)


@dataclass(frozen=True)
class Chooser:
    """Makes requests of every kind.

    Attributes:
        choose: where the chances come from.
        own_interfaces: names and patterns that the account may ask for, if it may capture at all.
        interfaces: names and patterns that are worth to be asked for.
        captures: numbers of captures that there are, whosever.
    """

    choose: random.Random
    own_interfaces: Sequence[str]
    interfaces: Sequence[str]
    captures: Sequence[int]

    def name(self) -> str:
        """Return one of few names, so that some are taken."""
        return self.choose.choice(("one", "two", "three"))

    def capture(self) -> int | str:
        """Return what may be a capture."""
        some: tuple[int | str, ...] = (self.choose.randrange(10_000, 100_000), self.name(), "alice", 0, -1)
        return self.choose.choice((*self.captures, *self.captures, *some))

    def interface(self) -> InterfaceRequest:
        """Return what to capture on one interface, which may be impossible in one or two ways."""
        choose = self.choose
        return InterfaceRequest(
            name=choose.choice(self.interfaces if choose.random() < 0.2 else self.own_interfaces),
            capture_filter=choose.choice(GOOD_FILTERS if choose.random() < 0.9 else BAD_FILTERS),
            snaplen_bytes=choose.choice((MAX_SNAPLEN_BYTES, MAX_SNAPLEN_BYTES, 96, 64, 1)),
            promiscuous=choose.choice((None, None, False, True)),
            monitor_mode=choose.random() < 0.03,
            wifi_channel="2412" if choose.random() < 0.02 else None,
            link_layer_type=choose.choice((None,) * 25 + ("EN10MB", "RAW", "LINUX_SLL2", "DOCSIS", "NO_SUCH")),
            kernel_buffer_size_bytes=choose.choice((*[_MIB] * 24, *[4 * _MIB] * 8, 64 * _MIB, None, 2**40)),
        )

    def start(self, **changes: Any) -> StartCapture:
        """Return a request for a capture, which can mostly be granted to those who may capture at all."""
        choose = self.choose
        kind = choose.choice(("file", "ring", "ring", "recorder"))
        interfaces = {each.name: each for each in (self.interface() for _ in range(choose.choice((1, 1, 1, 2, 3))))}
        fields: dict[str, Any] = {
            "interfaces": tuple(interfaces.values()),
            "destination": Destination(
                file_name=f"{kind}-{choose.randrange(8)}.pcapng", exclusive=choose.random() < 0.1
            ),
            "file_format": "pcap" if choose.random() < 0.05 else "pcapng",
            "update_interval_s": choose.choice((0.005, 0.05, 0.1, 1.0, 60.0)),
            "wait_for_interfaces": choose.random() < 0.3,
            "pass_files": choose.random() < 0.3,
            "autostop": Conditions(
                duration_s=choose.choice((None, 0.5, 5.0)),
                packets=choose.choice((None, None, 1000)),
                filesize_kb=choose.choice((1000, 5000)) if kind == "file" else None,
            ),
        }
        if kind == "ring":
            fields["ring"] = Conditions(
                packets=choose.choice((1, 10, 500)),
                files=choose.choice((1, 2, 5)),
                filesize_kb=choose.choice((100, 1000)),
                total_kb=choose.choice((None, 2000)),
                duration_s=choose.choice((None, 0.05, 1.0)),
                age_s=choose.choice((None, None, 0.2)),
                free_kb=choose.choice((None, None, 10_000)),
            )
        if kind == "recorder":
            fields["autostop"] = Conditions(duration_s=choose.choice((None, 5.0)))
            fields["recorder"] = Recorder(
                duration_s=choose.choice((None, 1.0)),
                memory_bytes=choose.choice((4, 4, 16)) * _MIB,
                after_s=choose.choice((0.0, 0.5)),
                trigger_filter=choose.choice(("", "", "udp", "port")),
                trigger_pps=choose.choice((None, 100)),
                trigger_link_down=choose.random() < 0.3,
            )
        return StartCapture(**(fields | changes))

    def order(self) -> Message:
        """Return something that is asked of a capture."""
        capture = self.capture() if self.choose.random() < 0.95 else None
        return self.choose.choice(
            (
                StopCapture(capture=capture),
                RotateCapture(capture=capture),
                FlushCapture(capture=capture),
                SnapshotCapture(capture=capture, after_s=self.choose.choice((None, 0.0, 0.5, -1.0, 1e9))),
            )
        )

    def question(self) -> Message:
        """Return something that everybody may ask, and that is answered once."""
        choose = self.choose
        interface = choose.choice((*self.interfaces, *_TEXTS[:14]))
        return choose.choice(
            (
                ListCaptures(),
                WhoAmI(),
                WhoAmI(),
                ListInterfaces(),
                GetDriverCounters(interface=interface),
                GetCapabilities(interface=interface, monitor_mode=choose.random() < 0.2),
                RevokeCaptures(user_id=choose.choice((None, 0, *_NUMBERS[:5])), dry_run=choose.random() < 0.2),
            )
        )

    def watch(self) -> Message:
        """Return something that is answered again and again."""
        statistics = WatchStatistics(interval_s=self.choose.choice((0.05, 0.05, 0.1, 1.0, 3600.0, 0.0)))
        return self.choose.choice((WatchInterfaces(), statistics, statistics))

    def request(self) -> Message:
        """Return a request of any kind."""
        capture = self.capture()
        make = self.choose.choice(
            (self.start, self.order, self.question, self.question, self.watch, self.sending, self.device)
        )
        return AttachCapture(capture=capture) if self.choose.random() < 0.1 else make()

    def sending(self) -> Message:
        """Return a wish to send, which no rule of these users allows."""
        return StartSending(interface=self.choose.choice((*self.interfaces, "any", "", "\0", "x" * 20)))

    def device(self) -> Message:
        """Return a wish for a device, which no rule of these users allows."""
        name = self.choose.choice(("nflog:5", "libpcap:x", "dbus-session", "", "\0", "x" * 300))
        is_stream = self.choose.random() < 0.9
        size_bytes = self.choose.choice((None, 1, 2**20, 2**63))
        return OpenDevice(
            interface=InterfaceRequest(name=name, is_stream=is_stream, kernel_buffer_size_bytes=size_bytes)
        )

    def broken(self) -> bytes:
        """Return the bytes of a request that is not quite one."""
        request = self.request()
        return changed_frame(self.choose, request) if self.choose.random() < 0.8 else encode(request)[:-1]
