"""Files that are sent again: each packet as it was captured, in its order and at its time; by capctl, too."""

import asyncio
import json
import math
import os
import signal
import struct
import subprocess
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import anyio
import pytest
import trio

from capd_client import Injector, InvalidArgument, PacketSizeError, ReadError, Reason, aio, read
from tests.cli.calling import called
from tests.sending.helpers import frame, mac_of, outside_of, seen_in
from tests.support.attack import PATIENCE_S
from tests.support.daemon import Daemon
from tests.worker.test_streams import Frame, block, description, enhanced, section

_Main = Callable[[], Coroutine[Any, Any, None]]
RUN: dict[str, Callable[[_Main], None]] = {"trio": trio.run, "asyncio": lambda main: asyncio.run(main())}


def pcap(path: Path, packets: list[tuple[float, bytes]], *, linktype: int = 1, cut: int = 65535) -> Path:
    """Write a file as others write it: pcap, with times in microseconds."""
    records = [
        struct.pack("=IIII", 1_700_000_000 + int(time_s), round(time_s % 1 * 1e6), min(len(data), cut), len(data))
        + data[:cut]
        for time_s, data in packets
    ]
    path.write_bytes(struct.pack("=IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, linktype) + b"".join(records))
    return path


def steady(source: bytes, count: int, gap_s: float) -> list[tuple[float, bytes]]:
    return [(number * gap_s, frame(source, number, 60 + number % 900)) for number in range(count)]


@pytest.mark.parametrize(
    ("arguments", "duration_s"),
    [({}, 0.4), ({"speed": 2}, 0.2), ({"rate": 1000}, 0.2), ({"speed": math.inf}, None)],
    ids=["as captured", "twice as fast", "at a rate", "as fast as possible"],
)
def test_each_packet_of_a_file_is_sent_at_its_time(
    sending: Daemon, veth: tuple[str, str], tmp_path: Path, arguments: dict[str, float], duration_s: float | None
) -> None:
    packets = steady(mac_of(veth[0]), 201, 0.002)
    path = pcap(tmp_path / "a.pcap", packets)
    with outside_of(veth[1]) as outside, Injector(veth[0], socket_path=sending.socket_path) as injector:
        report = injector.replay(path, **arguments)  # type: ignore[arg-type]
        assert (report.sent, report.refused) == (201, 0)
        assert outside.take(201) == [data for _, data in packets]
        if duration_s is None:
            assert report.lateness is None
            assert report.duration_ns < 400_000_000
        else:
            assert report.lateness is not None
            assert abs(report.duration_ns - duration_s * 1e9) <= report.lateness.max_ns


def test_a_file_is_sent_several_times_and_only_so_many_packets(
    sending: Daemon, veth: tuple[str, str], tmp_path: Path
) -> None:
    path = pcap(tmp_path / "a.pcap", steady(mac_of(veth[0]), 11, 0.01))
    with outside_of(veth[1]) as outside, Injector(veth[0], socket_path=sending.socket_path) as injector:
        report = injector.replay(path, loop=3, count=30)
        assert report.sent == 30
        assert seen_in(outside.take(30)) == [*range(11), *range(11), *range(8)]
        # As long after the last packet as packets are apart: 29 gaps.
        assert report.lateness is not None
        assert abs(report.duration_ns - 290_000_000) <= report.lateness.max_ns
        with read(path) as reader:
            assert injector.replay(reader, speed=math.inf, count=4).sent == 4
        with path.open("rb") as file:
            assert injector.replay(file, speed=math.inf).sent == 11
            with pytest.raises(InvalidArgument, match="loop is for files"):
                injector.replay(file, loop=2)


def test_packets_that_are_not_in_order_are_not_held_back(
    sending: Daemon, veth: tuple[str, str], tmp_path: Path
) -> None:
    source = mac_of(veth[0])
    path = pcap(
        tmp_path / "a.pcap", [(each, frame(source, at)) for at, each in enumerate((0.1, 0.05, 0.0, 0.15, 0.12))]
    )
    with outside_of(veth[1]) as outside, Injector(veth[0], socket_path=sending.socket_path) as injector:
        report = injector.replay(path)
        assert seen_in(outside.take(5)) == [0, 1, 2, 3, 4]
        assert report.lateness is not None
        assert abs(report.duration_ns - 50_000_000) <= report.lateness.max_ns


def test_packets_without_a_time_are_sent_at_once(sending: Daemon, veth: tuple[str, str], tmp_path: Path) -> None:
    packets = [frame(mac_of(veth[0]), number) for number in range(4)]
    path = tmp_path / "a.pcapng"
    simple = [block(3, struct.pack("=I", len(each)) + each, "=") for each in packets]
    timed = [enhanced(Frame(packets[at], 1_700_000_000 * 10**9 + at * 10**8)) for at in (1, 2)]
    path.write_bytes(section() + description() + simple[0] + timed[0] + timed[1] + simple[3])
    with outside_of(veth[1]) as outside, Injector(veth[0], socket_path=sending.socket_path) as injector:
        report = injector.replay(path, loop=2)
        assert outside.take(8) == packets * 2
        # Twice 0.1 s, and between the rounds a third of that.
        assert report.lateness is not None
        assert abs(report.duration_ns - 233_333_333) <= report.lateness.max_ns


def test_packets_that_the_file_has_in_part_are_left_out(sending: Daemon, veth: tuple[str, str], tmp_path: Path) -> None:
    source = mac_of(veth[0])
    packets = [(at / 1000, frame(source, at, size)) for at, size in enumerate((60, 200, 60, 10, 300, 60, 12))]
    path = pcap(tmp_path / "a.pcap", packets, cut=100)
    with outside_of(veth[1]) as outside, Injector(veth[0], socket_path=sending.socket_path) as injector:
        report = injector.replay(path)
        assert [(each.reason, each.frames, each.first_index) for each in report.refusals] == [
            (Reason.CUT, 2, 1),
            (Reason.TOO_SHORT, 2, 3),
        ]
        assert seen_in(outside.take(3)) == [0, 2, 5]


def test_what_is_no_file_of_ethernet_frames_is_refused(sending: Daemon, veth: tuple[str, str], tmp_path: Path) -> None:
    packets = steady(mac_of(veth[0]), 3, 0.001)
    with outside_of(veth[1]) as outside, Injector(veth[0], socket_path=sending.socket_path) as injector:
        with pytest.raises(InvalidArgument, match="only Ethernet frames are sent"):
            injector.replay(pcap(tmp_path / "sll.pcap", packets, linktype=113))
        with pytest.raises(ReadError):
            injector.replay(tmp_path / "none.pcap")
        for arguments in ({"speed": 0}, {"speed": -1}, {"speed": 2, "rate": 5}, {"loop": 0}, {"count": 0}):
            with pytest.raises(InvalidArgument):
                injector.replay(tmp_path / "none.pcap", **arguments)  # type: ignore[arg-type]
        damaged = pcap(tmp_path / "a.pcap", packets)
        damaged.write_bytes(damaged.read_bytes() + b"\xff" * 40)
        with pytest.raises(ReadError):
            injector.replay(damaged)
        assert seen_in(outside.take(3)) == [0, 1, 2]
        assert outside.is_quiet()


# Asynchronous programs ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", RUN)
def test_asynchronous_programs_send(backend: str, sending: Daemon, veth: tuple[str, str], tmp_path: Path) -> None:
    source = mac_of(veth[0])
    path = pcap(tmp_path / "a.pcap", steady(source, 100, 0.001))
    reports: list[int] = []

    async def main() -> None:
        async with aio.Injector(veth[0], socket_path=sending.socket_path) as injector:
            await injector.send(frame(source, 7))
            with pytest.raises(PacketSizeError):
                await injector.send(b"short")
            report = await injector.send_many(frame(source, at) for at in range(3000))
            assert report.sent == 3000
            report = await injector.replay(path, progress=lambda each: reports.append(each.sent))
            assert report.sent == 100
            assert report.lateness is not None
            async with anyio.create_task_group() as tasks:
                for number in (1, 2):
                    tasks.start_soon(injector.send, frame(source, number))

    with outside_of(veth[1]) as outside:
        RUN[backend](main)
        assert seen_in(outside.take(3101)) == [7, *range(3000), *range(100)]
        assert sorted(seen_in(outside.take(2))) == [1, 2]
        assert outside.is_quiet()
    assert reports[-1] == 100


@pytest.mark.parametrize("backend", RUN)
def test_a_call_that_is_cancelled_is_stopped(backend: str, sending: Daemon, veth: tuple[str, str]) -> None:
    source = mac_of(veth[0])

    async def main() -> None:
        async with aio.Injector(veth[0], socket_path=sending.socket_path) as injector:
            with anyio.move_on_after(0.3):
                await injector.send_many((frame(source, at) for at in range(1000)), rate=50)
            report = await injector.stop()
            assert 0 < report.sent < 100
            sent.append(report.sent)

    sent: list[int] = []
    with outside_of(veth[1]) as outside:
        RUN[backend](main)
        assert seen_in(outside.take(sent[0])) == list(range(sent[0]))
        assert outside.is_quiet()


async def test_an_asynchronous_program_without_the_right_is_refused(sending: Daemon) -> None:
    with pytest.raises(InvalidArgument):
        async with aio.Injector("any", socket_path=sending.socket_path):
            pass
    with pytest.raises(RuntimeError, match="async with"):
        await aio.Injector("lo", socket_path=sending.socket_path).send(b"")


# capctl ---------------------------------------------------------------------------------------------------------------


def test_capctl_sends_a_file(sending: Daemon, veth: tuple[str, str], tmp_path: Path) -> None:
    path = pcap(tmp_path / "a.pcap", steady(mac_of(veth[0]), 50, 0.001))
    words = ("--socket", sending.socket_path, "send", path, "-i", veth[0])
    with outside_of(veth[1]) as outside:
        done = called(*words, "--speed", "2", "--loop", "2", "-c", "90")
        assert (done.returncode, done.stderr) == (0, "")
        first, second = done.stdout.splitlines()
        assert first.startswith(f"{veth[0]}: 90 packets sent, ")
        assert second.startswith("late by ")
        assert seen_in(outside.take(90)) == [*range(50), *range(40)]
        done = called(*words, "--topspeed", "--json")
        fields = json.loads(done.stdout)
        assert (fields["sent"], fields["refused"], fields["lateness"]) == (50, 0, None)


def test_capctl_says_which_packets_were_not_sent(sending: Daemon, veth: tuple[str, str], tmp_path: Path) -> None:
    source = mac_of(veth[0])
    path = pcap(tmp_path / "a.pcap", [(0, frame(source)), (0, b"short"), (0, frame(source, 0, 3000)), (0, b"short")])
    done = called("--socket", sending.socket_path, "send", path, "-i", veth[0], "--topspeed")
    assert done.returncode == 1
    assert done.stdout.splitlines()[1:] == [
        "not sent: 2 packets shorter than an Ethernet header (from packet 2 on)",
        "not sent: 1 packet longer than the interface takes (packet 3)",
    ]


@pytest.mark.parametrize(
    ("words", "refusal"),
    [
        (("-i", "none0"), (1, "capctl: there is no interface 'none0'")),
        (("-i", "any"), (2, "any stands for all interfaces")),
        (("-i", "{tx}", "--rate", "0"), (2, "--rate must be a number of packets a second above 0")),
        (("-i", "{tx}", "--speed", "0"), (2, "--speed must be above 0")),
        (("-i", "{tx}", "--loop", "0"), (2, "--loop must be 1 or more")),
        (("-i", "{tx}", "-c", "0"), (2, "must be 1 or more")),
        (("-i", "{tx}", "--rate", "5", "--topspeed"), (2, "not allowed with")),
        ((), (2, "-i")),
    ],
)
def test_capctl_refuses_in_a_sentence(
    sending: Daemon, veth: tuple[str, str], tmp_path: Path, words: tuple[str, ...], refusal: tuple[int, str]
) -> None:
    status, text = refusal
    path = pcap(tmp_path / "a.pcap", [])
    done = called("--socket", sending.socket_path, "send", path, *(each.format(tx=veth[0]) for each in words))
    assert done.returncode == status
    assert text in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(("by", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 1)])
def test_a_signal_ends_capctl_with_its_report(
    sending: Daemon, veth: tuple[str, str], tmp_path: Path, by: signal.Signals, status: int
) -> None:
    path = pcap(tmp_path / "a.pcap", steady(mac_of(veth[0]), 2, 3000))
    command = [sys.executable, "-P", "-m", "capd_client.cli", "send", str(path), "-i", veth[0], "--json"]
    environment = {**os.environ, "CAPD_SOCKET": sending.socket_path}
    with outside_of(veth[1]) as outside:
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert seen_in(outside.take(1)) == [0]
        process.send_signal(by)
        stdout, stderr = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, stderr) == (status, "")
    assert json.loads(stdout)["sent"] == 1
