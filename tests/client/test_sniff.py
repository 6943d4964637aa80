"""``sniff`` takes the arguments of scapy's function of that name, and returns a list of packets."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from capd_client import (
    BadFilterError,
    DaemonUnavailable,
    InvalidArgument,
    ReadError,
    SniffedPacket,
    SniffedPackets,
    sniff,
)
from tests.capture.helpers import local_frame
from tests.client.conftest import Bench
from tests.client.helpers import PATIENCE_S
from tests.support.traffic import send

FRAMES = [local_frame(60 + number, number) for number in range(10)]


def sniffed(bench: Bench, **arguments: Any) -> SniffedPackets:
    """Sniff while frames are sent."""
    return sniff(
        **{
            "interfaces": bench.interface,
            "socket_path": bench.daemon.socket_path,
            "update_interval": 0.01,
            "started_callback": lambda: send(bench.sender, FRAMES, len(FRAMES)),
            "timeout": PATIENCE_S,
            **arguments,
        }
    )


def test_it_returns_copies_of_as_many_packets_as_are_wanted(bench: Bench) -> None:
    before_s = time.time()
    packets = sniffed(bench, count=4)
    assert [bytes(each) for each in packets] == FRAMES[:4]
    assert [type(each.data) for each in packets] == [bytes] * 4
    assert [len(each) for each in packets] == [each.wirelen for each in packets] == [60, 61, 62, 63]
    assert {each.sniffed_on for each in packets} == {bench.interface}
    assert before_s - 1 < packets[0].time <= packets[3].time <= time.time()
    assert packets[0].timestamp.timestamp() == pytest.approx(packets[0].time, abs=2e-6)
    assert packets.drops == 0
    assert repr(packets[0]).startswith("<SniffedPacket 20")
    assert repr(packets[0]).endswith(f" {bench.interface}, 60 of 60 bytes, OTHER_HOST>")


def test_scapy_s_names_for_interface_and_filter_mean_the_same(bench: Bench) -> None:
    packets = sniffed(bench, interfaces=None, iface=bench.interface, filter="greater 66", count=4)
    assert [bytes(each) for each in packets] == FRAMES[6:]


def test_it_prints_what_prn_returns_unless_that_is_none(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    packets = sniffed(bench, count=3, prn=lambda packet: None if len(packet) == 61 else f"{len(packet)} bytes")
    assert len(packets) == 3
    assert capsys.readouterr().out == "60 bytes\n62 bytes\n"


def test_without_store_the_list_is_empty(bench: Bench) -> None:
    seen: list[SniffedPacket] = []
    assert sniffed(bench, count=10, store=False, prn=seen.append) == []
    assert [bytes(each) for each in seen] == FRAMES


def test_stop_filter_says_which_packet_is_the_last(bench: Bench) -> None:
    seen: list[SniffedPacket] = []
    packets = sniffed(bench, prn=seen.append, stop_filter=lambda packet: len(packet) == 63)
    assert [len(each) for each in packets] == [len(each) for each in seen] == [60, 61, 62, 63]


def test_lfilter_leaves_packets_out_uncounted(bench: Bench) -> None:
    seen: list[SniffedPacket] = []
    packets = sniffed(bench, count=3, prn=seen.append, lfilter=lambda packet: len(packet) % 2)
    assert packets == seen
    assert [len(each) for each in packets] == [61, 63, 65]


def test_it_ends_with_its_time(bench: Bench) -> None:
    before_s = time.monotonic()
    packets = sniffed(bench, timeout=0.3)
    assert 0.3 <= time.monotonic() - before_s < PATIENCE_S
    assert [bytes(each) for each in packets] == FRAMES


def test_a_capture_that_ends_by_itself_ends_it(bench: Bench) -> None:
    assert len(sniffed(bench, max_packet_count=5, timeout=None)) == 5


def test_packets_that_are_lost_are_counted(bench: Bench) -> None:
    frames = [local_frame(1000)]

    def slow(_: object) -> None:
        if not sent.is_set():
            send(bench.sender, frames, 5000, 20_000)
            sent.set()

    sent = threading.Event()
    packets = sniffed(bench, max_waiting_bytes=1_000_000, prn=slow, timeout=3)
    assert packets.drops > 2000
    assert len(packets) + packets.drops == len(FRAMES) + 5000


def test_what_a_function_raises_is_raised(bench: Bench) -> None:
    def fail(_: object) -> None:
        raise ZeroDivisionError("in prn")

    with pytest.raises(ZeroDivisionError, match="in prn"):
        sniffed(bench, prn=fail)
    assert bench.daemon.workers() == []


def test_ctrl_c_ends_it_with_the_packets_so_far(bench: Bench) -> None:
    program = """
        import sys
        from capd_client import sniff

        packets = sniff(
            iface=sys.argv[1], socket_path=sys.argv[2], update_interval=0.01,
            prn=lambda packet: "packet", started_callback=lambda: print("begun"),
        )
        print(len(packets), "packets")
    """
    with subprocess.Popen(
        [sys.executable, "-u", "-c", textwrap.dedent(program), bench.interface, bench.daemon.socket_path],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        bench.send(1)
        assert process.stdout.readline() == "packet\n"
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, output, errors) == (0, "1 packets\n", "")


# Files ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def file(bench: Bench) -> Path:
    with bench.running(max_packet_count=len(FRAMES)) as capture:
        send(bench.sender, FRAMES, len(FRAMES))
        capture.wait(PATIENCE_S)
    return bench.savefile


def test_offline_packets_come_from_a_file(bench: Bench, file: Path) -> None:
    started: list[bool] = []
    packets = sniff(offline=file, started_callback=lambda: started.append(True))
    assert [bytes(each) for each in packets] == FRAMES
    assert packets[0].sniffed_on == bench.interface
    assert started == [True]
    assert packets.drops == 0


def test_offline_the_same_arguments_count(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    packets = sniff(
        offline=os.fspath(file), filter="greater 62", count=3, lfilter=lambda packet: len(packet) % 2, prn=len
    )
    assert [len(each) for each in packets] == [63, 65, 67]
    assert capsys.readouterr().out == "63\n65\n67\n"
    assert sniff(offline=file, capture_filter="less 62", store=False) == []
    assert len(sniff(offline=file, stop_filter=lambda packet: len(packet) == 64)) == 5
    assert 1 <= len(sniff(offline=file, timeout=0.1, prn=lambda _: time.sleep(0.06))) <= 2


# What is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argument", "changes", "words"),
    [
        ("iface", {"iface": "eth0"}, "iface and interfaces are the same"),
        ("filter", {"filter": "udp", "capture_filter": "udp"}, "filter and capture_filter are the same"),
        ("count", {"count": -1}, "whole number from 1"),
        ("timeout", {"timeout": 0}, "positive number of seconds"),
        ("savefile", {"savefile": "x.pcapng"}, "about files"),
        ("interfaces", {"offline": "x.pcapng"}, "offline reads a file"),
        (
            "snaplen",
            {"offline": "x", "interfaces": None, "update_interval": None, "snaplen": 5},
            "offline reads a file",
        ),
        ("nonsense", {"nonsense": 1}, "there is no argument nonsense"),
    ],
)
def test_what_is_impossible_is_refused(bench: Bench, argument: str, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidArgument, match=words) as refused:
        sniffed(bench, **changes)
    assert refused.value.argument == argument


def test_errors_are_those_of_captures_and_files(bench: Bench) -> None:
    with pytest.raises(DaemonUnavailable):
        sniffed(bench, socket_path="/nowhere")
    with pytest.raises(BadFilterError):
        sniffed(bench, filter="nonsense")
    with pytest.raises(ReadError):
        sniff(offline="/nowhere")
