"""Packets that are sent come out at the other end, byte by byte and in order; what may not be sent does not."""

import contextlib
import itertools
import math
import multiprocessing
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from capd_client import (
    BrokenPipe,
    CaptureError,
    ChildError,
    Injector,
    InterfaceError,
    InvalidArgument,
    NotPermitted,
    PacketSizeError,
    RateExceeded,
    Reason,
    ResourceError,
    SendReport,
    SourceAddressError,
    UnsupportedError,
)
from capd_protocol.messages import FailureCode, Refused, Sending, StartSending
from capd_protocol.sending import MAX_MESSAGE_BYTES, ReportWanted, encode_frames, encode_wanted
from tests.client.helpers import wait_until
from tests.sending.helpers import MAC, OTHER, SENDER, frame, ip, mac_of, outside_of, seen_in
from tests.support.attack import (
    PATIENCE_S,
    Channel,
    RawClient,
    User,
    await_end,
    eventually,
    leaving_nothing,
    process_of,
    with_limits,
)
from tests.support.daemon import Daemon, MakeDir, running_daemon, status_of
from tests.support.namespace import veth_pair
from tests.support.tools import numbered_descriptors_of

_Result = TypeVar("_Result")


def as_sender(function: Callable[[], _Result], user: User = SENDER) -> _Result:
    """Return what a function returns in a process of the user who may send; what it raises is raised."""

    def run(channel: Channel) -> None:
        channel.send(function())

    with process_of(user, run) as process:
        result: _Result = process.hear()
        return result


def only_sender(daemon: Daemon) -> int:
    """Return the process that sends, once it has its name.

    A list of children that is read while one of them ends may lack others.
    """
    found: list[int] = []

    def is_there() -> bool:
        found[:] = senders_of(daemon)
        return bool(found)

    wait_until(is_there, "a process sends")
    (sender,) = found
    return sender


def senders_of(daemon: Daemon) -> list[int]:
    found: list[int] = []
    for each in daemon.workers():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
            if status_of(each)["Name"] == "capd-sender":
                found.append(each)
    return found


# What goes out --------------------------------------------------------------------------------------------------------


def test_a_user_whom_a_rule_names_sends_a_packet(sending: Daemon, veth: tuple[str, str]) -> None:
    packet = frame(mac_of(veth[0]))

    def send() -> str:
        with Injector(veth[0], socket_path=sending.socket_path) as injector:
            injector.send(packet)
            return injector.rule

    with leaving_nothing(sending), outside_of(veth[1]) as outside:
        assert as_sender(send) == "send"
        assert outside.take(1) == [packet]
        assert outside.is_quiet()


def test_each_packet_comes_whole_and_in_order(sending: Daemon, veth: tuple[str, str]) -> None:
    source = mac_of(veth[0])
    packets = [frame(source, number, 14 + number * 37 % 1501) for number in range(5000)]
    with outside_of(veth[1]) as outside, Injector(veth[0], socket_path=sending.socket_path) as injector:
        kinds = (bytes, bytearray, memoryview)
        report = injector.send_many(kinds[number % 3](each) for number, each in enumerate(packets))
        assert (report.sent, report.sent_bytes, report.refused) == (5000, sum(map(len, packets)), 0)
        assert report.lateness is None
        assert outside.take(5000) == packets
        assert outside.is_quiet()


def test_the_longest_packets_go_and_longer_ones_do_not(sending: Daemon, veth: tuple[str, str]) -> None:
    source = mac_of(veth[0])
    tagged = b"\xff" * 6 + source + b"\x81\x00\x00\x05\x88\xb5"
    longest, longest_tagged = frame(source, 1, 1514), tagged.ljust(1518, b"t")
    packets = [frame(source, 0, 14), longest, longest + b"x", longest_tagged, longest_tagged + b"x", b"x" * 13, b""]
    with outside_of(veth[1]) as outside, Injector(veth[0], socket_path=sending.socket_path) as injector:
        assert injector.max_packet_bytes == 1514
        report = injector.send_many(packets)
        assert report.sent == 3
        assert [(each.reason, each.frames, each.first_index) for each in report.refusals] == [
            (Reason.TOO_LONG, 2, 2),
            (Reason.TOO_SHORT, 2, 5),
        ]
        assert [len(each) for each in outside.take(2)] == [14, 1514]
        # The kernel has taken the tag out of it.
        assert len(outside.take(1)[0]) == 1514
        assert outside.is_quiet()


def test_more_than_a_message_holds_is_refused_in_its_place(sending: Daemon, veth: tuple[str, str]) -> None:
    packet = frame(mac_of(veth[0]))
    with Injector(veth[0], socket_path=sending.socket_path) as injector:
        report = injector.send_many([packet, bytes(200_000), packet, packet + bytes(2000), packet])
        assert report.sent == 3
        assert [(each.reason, each.frames, each.first_index) for each in report.refusals] == [(Reason.TOO_LONG, 2, 1)]
        # The process has not seen the first one, and counts without it.
        report = injector.send_many([bytes(200_000), packet, b"short", bytes(200_000), b"short"])
        assert [(each.reason, each.frames, each.first_index) for each in report.refusals] == [
            (Reason.TOO_LONG, 2, 0),
            (Reason.TOO_SHORT, 2, 2),
        ]


def test_only_source_addresses_of_the_rule_are_sent(sending: Daemon, veth: tuple[str, str]) -> None:
    own, allowed, foreign = mac_of(veth[0]), bytes.fromhex(MAC.replace(":", "")), b"\x02\0\0\0\0\1"

    def send() -> tuple[SendReport, tuple[str, ...], str]:
        with Injector(veth[0], socket_path=sending.socket_path) as injector:
            report = injector.send_many([frame(own, 1), frame(foreign, 2), frame(allowed, 3), frame(foreign, 4)])
            with pytest.raises(SourceAddressError) as raised:
                injector.send(frame(foreign))
            injector.send(frame(own, 5))
            return report, injector.source_macs, str(raised.value)

    with outside_of(veth[1]) as outside:
        report, macs, text = as_sender(send)
        assert report.sent == 2
        assert [(each.reason, each.frames, each.first_index) for each in report.refusals] == [
            (Reason.FOREIGN_SOURCE, 2, 1)
        ]
        assert macs == (own.hex(":"), MAC)
        assert "02:00:00:00:00:01" in text
        assert MAC in text
        assert seen_in(outside.take(3)) == [1, 3, 5]
        assert outside.is_quiet()


def test_one_packet_that_may_not_be_sent_is_an_error(sending: Daemon, veth: tuple[str, str]) -> None:
    packet = frame(mac_of(veth[0]))
    with outside_of(veth[1]) as outside, Injector(veth[0], socket_path=sending.socket_path) as injector:
        with pytest.raises(PacketSizeError, match="13 bytes"):
            injector.send(packet[:13])
        with pytest.raises(PacketSizeError, match=r"1,515 bytes, and tx\d+ takes 1,514"):
            injector.send(packet + bytes(1451))
        with pytest.raises(PacketSizeError, match="200,000 bytes"):
            injector.send(bytes(200_000))
        injector.send(packet)
        assert outside.take(1) == [packet]
        assert outside.is_quiet()


def test_what_fails_while_packets_are_made_loses_none_before_it(sending: Daemon, veth: tuple[str, str]) -> None:
    source = mac_of(veth[0])

    def packets() -> Iterator[bytes]:
        for number in range(2500):
            yield frame(source, number)
        raise KeyError("made up")

    with outside_of(veth[1]) as outside, Injector(veth[0], socket_path=sending.socket_path) as injector:
        with pytest.raises(KeyError):
            injector.send_many(packets())
        assert injector.report.sent == 2500
        assert seen_in(outside.take(2500)) == list(range(2500))
        injector.send(frame(source))


# Who may --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("user", "interface", "text"),
    [
        (OTHER, "tx", "may not send packets here: ask netops for a rule with 'send = true'"),
        (SENDER, "rx", r"may not send on rx\d+, only on slow\*, tx\*: ask netops for a rule with 'send = true'"),
        (SENDER, "lo", "loopback interface is allowed by its own name alone"),
    ],
    ids=["no right", "another interface", "loopback"],
)
def test_whom_no_rule_lets_send_is_refused_and_reads_whom_to_ask(
    sending: Daemon, veth: tuple[str, str], user: User, interface: str, text: str
) -> None:
    name = {"tx": veth[0], "rx": veth[1]}.get(interface, interface)
    with leaving_nothing(sending), pytest.raises(NotPermitted, match=text) as raised:
        as_sender(lambda: Injector(name, socket_path=sending.socket_path), user)
    assert raised.value.failure is not None
    assert raised.value.failure.code == FailureCode.NOT_PERMITTED


def test_all_interfaces_at_once_are_none_to_send_on(sending: Daemon) -> None:
    with pytest.raises(InvalidArgument, match="any stands for all interfaces"):
        Injector("any", socket_path=sending.socket_path)


@pytest.mark.parametrize("name", ["none0", "x" * 300, "a\0b", "tx*", ""])
def test_where_there_is_no_interface_there_is_an_error(sending: Daemon, name: str) -> None:
    with pytest.raises(InterfaceError, match="there is no interface"):
        Injector(name, socket_path=sending.socket_path)


def test_an_interface_that_is_down_is_refused(sending: Daemon, veth: tuple[str, str]) -> None:
    ip("link", "set", veth[0], "down")
    with pytest.raises(InterfaceError, match=f"ip link set {veth[0]} up"):
        Injector(veth[0], socket_path=sending.socket_path)


def test_an_interface_without_ethernet_frames_is_refused(sending: Daemon) -> None:
    ip("tuntap", "add", "dev", "txtun", "mode", "tun")
    try:
        ip("link", "set", "txtun", "up")
        with pytest.raises(UnsupportedError, match="no Ethernet frames"):
            Injector("txtun", socket_path=sending.socket_path)
    finally:
        ip("link", "delete", "txtun")


def test_root_sends_on_the_loopback_interface(sending: Daemon, loopback: str) -> None:
    packet = frame(bytes(6), size=14 + 40_000)
    with outside_of(loopback) as outside, Injector(loopback, socket_path=sending.socket_path) as injector:
        injector.send(packet)
        assert outside.take(1) == [packet]


# How fast -------------------------------------------------------------------------------------------------------------


def test_a_rate_is_held_and_lateness_is_reported(sending: Daemon, veth: tuple[str, str]) -> None:
    source = mac_of(veth[0])
    with outside_of(veth[1]) as outside, Injector(veth[0], socket_path=sending.socket_path) as injector:
        begun_s = time.monotonic()
        report = injector.send_many((frame(source, number) for number in range(1001)), rate=2000)
        took_s = time.monotonic() - begun_s
        assert report.sent == 1001
        assert report.lateness is not None
        assert 0 < report.lateness.median_ns <= report.lateness.p99_ns <= report.lateness.max_ns
        # Each has its time: the last one's is half a second behind the first one's, and it is not sooner than that.
        spread_ns = report.duration_ns - 500_000_000
        assert -report.lateness.max_ns <= spread_ns <= report.lateness.max_ns
        assert took_s >= 0.5
        assert seen_in(outside.take(1001)) == list(range(1001))


def test_no_more_a_second_is_sent_than_the_rule_allows(sending: Daemon) -> None:
    with veth_pair("slow-tx", "slow-rx"), outside_of("slow-rx") as outside:
        packet = frame(mac_of("slow-tx"))

        def send() -> SendReport:
            with Injector("slow-tx", socket_path=sending.socket_path) as injector:
                assert injector.max_pps == 1000
                with pytest.raises(RateExceeded, match="1,000 packets a second"):
                    injector.send_many([packet], rate=1001)
                return injector.send_many([packet] * 601)

        report = as_sender(send)
        assert report.sent == 601
        # 600 gaps of a millisecond, less what it may catch up.
        assert report.duration_ns >= 600_000_000 - 51_000_000
        assert len(outside.take(601)) == 601


def test_one_rate_is_not_had_twice(sending: Daemon) -> None:
    with veth_pair("slow-tx", "slow-rx"):

        def send() -> str:
            with Injector("slow-tx", socket_path=sending.socket_path):
                with pytest.raises(ResourceError) as raised:
                    Injector("slow-tx", socket_path=sending.socket_path)
                return str(raised.value)

        assert "sends already" in str(as_sender(send))


@pytest.mark.parametrize("rate", [0, -1, math.inf, math.nan])
def test_what_is_no_rate_is_refused(sending: Daemon, veth: tuple[str, str], rate: float) -> None:
    with Injector(veth[0], socket_path=sending.socket_path) as injector, pytest.raises(InvalidArgument, match="rate"):
        injector.send_many([], rate=rate)


# How it ends ----------------------------------------------------------------------------------------------------------


def test_it_ends_with_its_client(sending: Daemon, veth: tuple[str, str]) -> None:
    def hold(channel: Channel) -> None:
        with Injector(veth[0], socket_path=sending.socket_path) as injector:
            channel.send("ready")
            # Far more than is sent before the end, most of it in an hour.
            injector.send_many(itertools.repeat(frame(own)), rate=10)

    own = mac_of(veth[0])
    with leaving_nothing(sending), process_of(SENDER, hold) as process:
        assert process.hear() == "ready"
        sender = only_sender(sending)
        assert status_of(sender)["Uid"].split() == [str(SENDER.user_id)] * 4
        process.kill()
        await_end([sender])


def test_an_injector_that_is_closed_leaves_nothing(sending: Daemon, veth: tuple[str, str]) -> None:
    with leaving_nothing(sending):
        injector = Injector(veth[0], socket_path=sending.socket_path)
        sender = only_sender(sending)
        injector.terminate()
        injector.terminate()
        await_end([sender])
        with pytest.raises(BrokenPipe):
            injector.send(frame(mac_of(veth[0])))
    eventually(lambda: "ended: user 0" in sending.log, "its line")


def test_what_was_passed_on_is_not_sent_after_it_was_stopped(sending: Daemon, veth: tuple[str, str]) -> None:
    source = mac_of(veth[0])

    def packets() -> Iterator[bytes]:
        for number in range(100):
            yield frame(source, number)
        raise KeyboardInterrupt

    with outside_of(veth[1]) as outside, Injector(veth[0], socket_path=sending.socket_path) as injector:
        with pytest.raises(KeyboardInterrupt):
            injector.send_many(packets(), rate=20)
        report = injector.stop()
        assert 0 < report.sent < 100
        assert seen_in(outside.take(report.sent)) == list(range(report.sent))
        assert outside.is_quiet()
    eventually(lambda: f"sent={report.sent} refused=0" in sending.log, "its line")


def test_a_call_behind_one_that_was_interrupted_has_its_own_report(sending: Daemon, veth: tuple[str, str]) -> None:
    source = mac_of(veth[0])

    def packets() -> Iterator[bytes]:
        yield from (frame(source, number) for number in range(2000))
        raise KeyboardInterrupt

    with outside_of(veth[1]) as outside, Injector(veth[0], socket_path=sending.socket_path) as injector:
        with pytest.raises(KeyboardInterrupt):
            injector.send_many(packets())
        assert injector.send_many([frame(source, 7), b"short"]).sent == 1
        assert [each.first_index for each in injector.report.refusals] == [1]
        # What the interrupted call had passed on went out before.
        seen = seen_in(outside.take(1025))
        assert seen == [*range(1024), 7]


@pytest.mark.parametrize("what", ["down", "gone"])
def test_it_ends_with_its_interface(sending: Daemon, what: str) -> None:
    with leaving_nothing(sending), veth_pair("txgone", "rxgone"):
        source = mac_of("txgone")

        def packets() -> Iterator[bytes]:
            for number in itertools.count():
                if number == 50:
                    outside.take(1)
                    if what == "down":
                        ip("link", "set", "txgone", "down")
                    else:
                        ip("link", "delete", "txgone")
                yield frame(source, number)

        with outside_of("rxgone") as outside, Injector("txgone", socket_path=sending.socket_path) as injector:
            with pytest.raises(InterfaceError, match=r"txgone (is down|has gone)") as raised:
                injector.send_many(packets(), rate=500)
            # One that is deleted is taken down before, which may be noticed first.
            codes = [FailureCode.INTERFACE_DOWN, *([FailureCode.INTERFACE_LOST] if what == "gone" else [])]
            assert raised.value.failure is not None
            assert raised.value.failure.code in codes
            assert 0 < injector.report.sent <= 50 + 500
            with pytest.raises(InterfaceError):
                injector.send(frame(source))


def test_an_injector_that_does_nothing_ends_with_its_interface(sending: Daemon) -> None:
    with veth_pair("txgone", "rxgone"), Injector("txgone", socket_path=sending.socket_path) as injector:
        sender = only_sender(sending)
        ip("link", "delete", "txgone")
        await_end([sender])
        with pytest.raises(InterfaceError, match="has gone"):
            injector.send(bytes(60))


def test_an_interface_that_gets_a_name_without_a_rule_is_sent_on_no_more(sending: Daemon) -> None:
    with veth_pair("txname", "rxname"):
        source = mac_of("txname")

        def send() -> str:
            with Injector("txname", socket_path=sending.socket_path) as injector:
                injector.send(frame(source))
                ready.set()
                # On a slow machine one may fall into the moment in which the interface is down.
                with pytest.raises((NotPermitted, InterfaceError)) as raised:
                    injector.send_many(itertools.repeat(frame(source)), rate=1)
                return str(raised.value)

        ready = multiprocessing.Event()

        def run(channel: Channel) -> None:
            channel.send(send())

        with process_of(SENDER, run) as process:
            assert ready.wait(PATIENCE_S)
            ip("link", "set", "txname", "down")
            ip("link", "set", "txname", "name", "other0")
            ip("link", "set", "other0", "up")
            try:
                text = process.hear()
            finally:
                ip("link", "delete", "other0")
            assert "is called other0 now" in text or "is down" in text


def test_a_process_that_was_killed_is_an_error(sending: Daemon, veth: tuple[str, str]) -> None:
    with leaving_nothing(sending), Injector(veth[0], socket_path=sending.socket_path) as injector:
        injector.send(frame(mac_of(veth[0])))
        sender = only_sender(sending)
        os.kill(sender, signal.SIGKILL)
        with pytest.raises(ChildError, match="ended without a word") as raised:
            injector.send_many([frame(mac_of(veth[0]))] * 5000)
        assert raised.value.failure is not None
        assert raised.value.failure.code == FailureCode.WORKER_DIED


@pytest.mark.parametrize("by", [signal.SIGTERM, signal.SIGKILL])
def test_it_ends_with_the_daemon(make_dir: MakeDir, veth: tuple[str, str], by: signal.Signals) -> None:
    with running_daemon(make_dir("ending")) as daemon, Injector(veth[0], socket_path=daemon.socket_path) as injector:
        (sender,) = senders_of(daemon)
        daemon.process.send_signal(by)
        with pytest.raises(CaptureError) as raised:
            injector.send_many(itertools.repeat(frame(mac_of(veth[0]))), rate=100)
        assert isinstance(raised.value, ResourceError if by == signal.SIGTERM else BrokenPipe)
        await_end([sender])
        daemon.process.wait(PATIENCE_S)


def test_a_user_who_stops_the_process_keeps_no_daemon_waiting(make_dir: MakeDir, veth: tuple[str, str]) -> None:
    short = with_limits(END_TIMEOUT_S=0.5)
    with (
        running_daemon(make_dir("stopped"), prefix=short) as daemon,
        Injector(veth[0], socket_path=daemon.socket_path) as injector,
    ):
        (sender,) = senders_of(daemon)
        os.kill(sender, signal.SIGSTOP)
        assert daemon.terminate() == 0
        with pytest.raises(CaptureError):
            injector.send(bytes(60))


# Clients that do not keep to the protocol -----------------------------------------------------------------------------


def raw(injector: Injector) -> socket.socket:
    """Return the socket to the process that sends."""
    return injector._channel


@pytest.mark.parametrize(
    "message",
    [b"x", b"f" + bytes(7 + 5), encode_frames([bytes(60)])[:-1], bytes(MAX_MESSAGE_BYTES + 1)],
    ids=["cut", "longer than it says", "a batch that is cut", "too long"],
)
def test_what_is_no_message_ends_it_with_a_failure(sending: Daemon, veth: tuple[str, str], message: bytes) -> None:
    packet = frame(mac_of(veth[0]))
    with (
        leaving_nothing(sending),
        outside_of(veth[1]) as outside,
        Injector(veth[0], socket_path=sending.socket_path) as injector,
    ):
        injector.send(packet)
        raw(injector).send(message)
        with pytest.raises(ChildError, match="did not understand") as raised:
            injector.send_many([packet] * 5000)
        assert raised.value.failure is not None
        assert raised.value.failure.code == FailureCode.PROTOCOL
        assert outside.take(1) == [packet]
        assert outside.is_quiet()


def test_who_asks_for_reports_and_reads_none_is_cut_off(sending: Daemon, veth: tuple[str, str]) -> None:
    with leaving_nothing(sending), Injector(veth[0], socket_path=sending.socket_path) as injector:
        sender = only_sender(sending)
        wanted = encode_wanted(ReportWanted(1, False))
        with contextlib.suppress(OSError):  # however it is noticed
            while True:
                raw(injector).send(wanted)
        await_end([sender])


def test_a_descriptor_for_the_process_is_not_taken(sending: Daemon, veth: tuple[str, str], tmp_path: Path) -> None:
    packet = frame(mac_of(veth[0]))
    with Injector(veth[0], socket_path=sending.socket_path) as injector, (tmp_path / "x").open("wb") as file:
        sender = only_sender(sending)
        before = numbered_descriptors_of(sender)
        with contextlib.suppress(PermissionError):  # since Linux 6.16 the kernel refuses it
            socket.send_fds(raw(injector), [encode_frames([packet])], [file.fileno()])
        injector.send(packet)
        assert numbered_descriptors_of(sender) == before


def test_a_request_on_a_connection_that_sends_ends_it(sending: Daemon, veth: tuple[str, str]) -> None:
    with leaving_nothing(sending), RawClient(sending.socket_path) as client:
        client.send(StartSending(interface=veth[0]))
        assert isinstance(client.receive(Sending), Sending)
        sender = only_sender(sending)
        client.send(StartSending(interface=veth[0]))
        assert isinstance(refused := client.receive(Refused), Refused)
        assert "while its connection sends" in refused.failure.text
        await_end([sender])


def test_no_more_programs_of_a_user_send_than_may(make_dir: MakeDir, veth: tuple[str, str]) -> None:
    with running_daemon(make_dir("many"), prefix=with_limits(MAX_SENDERS_PER_USER=2)) as daemon:
        path = daemon.socket_path
        with Injector(veth[0], socket_path=path), Injector(veth[1], socket_path=path) as second:
            with pytest.raises(ResourceError, match="2 programs of this user send already"):
                Injector(veth[0], socket_path=path)
            second.terminate()
            eventually(lambda: "ended: user 0" in daemon.log, "its end")
            Injector(veth[0], socket_path=path).terminate()
