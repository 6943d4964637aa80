import json
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import namespace, traffic


@pytest.fixture
def pair() -> Iterator[tuple[str, str]]:
    with namespace.private_network_namespace(), namespace.veth_pair("t0", "t1"):
        yield "t0", "t1"


def test_the_peer_receives_exactly_what_was_sent(pair: tuple[str, str]) -> None:
    sender, receiver = pair
    frames = traffic.build_frames([64])
    sent = traffic.send(sender, frames, 10_000)
    assert sent == 10_000
    tx = namespace.link_counters(sender)["tx"]
    rx = namespace.link_counters(receiver)["rx"]
    # Absolute, not differences: the pair has sent nothing of its own accord.
    assert (tx["packets"], tx["bytes"]) == (sent, 64 * sent)
    assert (rx["packets"], rx["bytes"]) == (sent, 64 * sent)
    assert namespace.link_counters(sender)["rx"]["packets"] == 0


@pytest.mark.parametrize("vlan", [None, 42])
def test_frames_arrive_whole_in_order_and_numbered(pair: tuple[str, str], vlan: int | None) -> None:
    sender, receiver = pair
    frames = traffic.build_frames([64, 576, 1500], [7, 4, 1], vlan)
    offset = traffic.sequence_offset(vlan)
    count = 1500  # More than one ring of prepared messages.
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)) as tap:
        # SO_RCVBUFFORCE: enough for all of them, whatever the system's limit.
        tap.setsockopt(socket.SOL_SOCKET, 33, 16 * 1024 * 1024)
        tap.bind((receiver, 0))
        tap.settimeout(5)
        assert traffic.send(sender, frames, count, sequence_at=offset) == count
        received = [tap.recv(2048) for _ in range(count)]
    for sequence, frame in enumerate(received):
        expected = traffic.with_sequence(frames[sequence % len(frames)], sequence, offset)
        # The kernel takes the tag out of the bytes it gives to packet sockets.
        assert frame == (expected if vlan is None else expected[:12] + expected[16:])


def test_a_cycle_holds_the_sizes_in_their_ratio() -> None:
    frames = traffic.build_frames([64, 576, 1500], [7, 4, 1])
    assert sorted(map(len, frames)) == [64] * 7 + [576] * 4 + [1500]
    assert len(set(frames)) == 12
    # Spread over the cycle: the large kinds are not next to each other.
    assert all(64 in pair for pair in zip(map(len, frames), map(len, frames[1:]), strict=False))
    for frame in frames:
        total = sum(struct.unpack("!10H", frame[14:34]))
        assert (total & 0xFFFF) + (total >> 16) == 0xFFFF
        assert struct.unpack("!H", frame[16:18]) == (len(frame) - 14,)
        assert struct.unpack("!H", frame[38:40]) == (len(frame) - 34,)


def test_the_rate_is_kept(pair: tuple[str, str]) -> None:
    report = traffic.transmit(pair[0], traffic.build_frames(), 2_000, 10_000)
    assert report.sent == 2_000
    assert report.complete
    # Never faster; how much slower depends on what else the machine does.
    assert report.seconds >= 0.199


def test_it_stops_when_the_time_is_up(pair: tuple[str, str]) -> None:
    report = traffic.transmit(pair[0], traffic.build_frames(), 10_000, 1_000, max_seconds=0.2)
    assert 1 <= report.sent <= 201
    assert not report.complete
    assert namespace.link_counters(pair[1])["rx"]["packets"] == report.sent


def test_it_runs_as_a_program(pair: tuple[str, str]) -> None:
    options = f"--interface {pair[0]} --count 1200 --sizes 64,576,1500 --ratio 7:4:1 --json"
    done = subprocess.run(
        [sys.executable, traffic.__file__, *options.split()],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    report = json.loads(done.stdout)
    assert report["sent"] == 1200
    assert report["bytes"] == 100 * (7 * 64 + 4 * 576 + 1500)
    rx = namespace.link_counters(pair[1])["rx"]
    assert (rx["packets"], rx["bytes"]) == (1200, report["bytes"])


def test_a_peer_that_is_down_is_an_error_not_a_success(pair: tuple[str, str]) -> None:
    subprocess.run(["ip", "link", "set", "dev", pair[1], "down"], timeout=10, check=True)
    with pytest.raises(OSError, match=r"\(0 frames sent\)"):
        traffic.send(pair[0], traffic.build_frames(), 10)


def test_what_must_not_be_sent_is_refused(pair: tuple[str, str]) -> None:
    frames = traffic.build_frames()
    with pytest.raises(ValueError, match="frames: not within"):
        traffic.send(pair[0], frames, traffic.MAX_COUNT + 1)
    with pytest.raises(ValueError, match="not a virtual interface"):
        traffic.send("lo", frames, 1)
    with pytest.raises(OSError, match="Message too long"):
        traffic.send(pair[0], traffic.build_frames([1515]), 1)
    assert namespace.link_counters(pair[0])["tx"]["packets"] == 0


def test_the_namespace_is_left_again() -> None:
    def current() -> Path:
        return Path("/proc/thread-self/ns/net").readlink()

    before = current()
    with namespace.private_network_namespace():
        assert current() != before
    assert current() == before
