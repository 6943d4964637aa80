"""What a capture leaves behind: which files, called what, when the next one begins, and what is around the packets."""

import contextlib
import itertools
import os
import platform
import re
import signal
import stat
import subprocess
import tempfile
import threading
import time
from collections.abc import Generator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from capd_client import CaptureSession
from capd_client.errors import CaptureEnded, DestinationError, DiskError
from capd_protocol.formats import pcapng
from capd_protocol.messages import EndReason, FileClosed
from tests.capture.helpers import (
    END_TIMEOUT_S,
    Contents,
    Event,
    all_events,
    capturing,
    dumpcap,
    end,
    in_background,
    ip,
    last_record_size_bytes,
    local_frame,
    messages,
    read_file,
    read_pcap,
    readable_packets,
    text_option,
    tshark_options,
    until,
    until_packets,
)
from tests.support.daemon import Daemon, running_daemon
from tests.support.namespace import veth_pair
from tests.support.tools import capinfos, ip_json, packets_of, tshark_fields
from tests.support.traffic import send

RING_NAME = re.compile(r"(?P<base>.+)_(?P<number>\d{5})_(?P<time>\d{14})(?P<suffix>(\.[^.]+)?)")


def frames_of(count: int) -> list[bytes]:
    sizes = (64, 64, 64, 576, 14, 1500, 61, 99)
    return [local_frame(sizes[number % len(sizes)], number) for number in range(count)]


def ring_files(directory: Path) -> list[Path]:
    """Return the files of a ring in the order of their numbers."""
    return sorted(directory.glob("ring_*"), key=lambda path: path.name)


def joined(files: list[Contents]) -> list[bytes]:
    return [frame for contents in files for frame in contents.frames]


# One file -------------------------------------------------------------------------------------------------------


def test_the_events_tell_of_one_file_from_its_header_to_its_end(
    daemon: Daemon, veth: tuple[str, str], user_dir: Path
) -> None:
    path, frames = user_dir / "one.pcapng", frames_of(100)
    with capturing(daemon, interfaces=veth[1], savefile=path) as capture:
        send(veth[0], frames, len(frames))
        end(capture)
        events, error = all_events(capture)
    assert isinstance(error, CaptureEnded)
    types = [event_type for event_type, _ in events]
    assert events[0] == (capture.SP_FILE, str(path))
    assert types.count(capture.SP_FILE) == 1
    assert sum(messages(events, capture.SP_PACKET_COUNT)) == len(frames) == capture.packetcount
    (closed,) = messages(events, capture.SP_FILE_CLOSED)
    assert types.index(capture.SP_FILE_CLOSED) > max(
        at for at, one in enumerate(types) if one == capture.SP_PACKET_COUNT
    )
    assert messages(events, capture.SP_DROPS) == [0]
    assert events[-1] == (capture.SP_ENDED, EndReason.STOPPED)
    assert capture.files == (closed,)
    contents = read_file(path)
    assert contents.frames == frames
    assert contents.counts(0) == (len(frames), 0, len(frames))


def assert_closed_is_right(closed: FileClosed) -> None:
    """Compare what was announced of a finished file with what capinfos finds in it."""
    found = capinfos(closed.name, "-S")
    assert str(closed.packets) == found["Number of packets"]
    assert f"{closed.size_bytes} bytes" == found["File size"]
    assert closed.size_bytes == Path(closed.name).stat().st_size
    for time_ns, label in (
        (closed.first_timestamp_ns, "First packet time"),
        (closed.last_timestamp_ns, "Last packet time"),
    ):
        if time_ns is None:
            assert found[label] == "n/a"
        else:
            assert f"{time_ns // 10**9}.{time_ns % 10**9:09}" == found[label]
    assert closed.drops == 0


@pytest.mark.parametrize("packets", [0, 1, 100])
def test_a_closed_file_is_announced_as_capinfos_finds_it(
    daemon: Daemon, veth: tuple[str, str], user_dir: Path, packets: int
) -> None:
    path = user_dir / "closed.pcapng"
    with capturing(daemon, interfaces=veth[1], savefile=path) as capture:
        send(veth[0], frames_of(packets) or [b""], packets, 2000)
        end(capture)
    (closed,) = capture.files
    assert closed.packets == packets
    assert (closed.first_timestamp_ns is None) == (closed.last_timestamp_ns is None) == (packets == 0)
    assert_closed_is_right(closed)


def test_the_file_has_exactly_the_packets_that_were_announced(
    daemon: Daemon, veth: tuple[str, str], user_dir: Path
) -> None:
    path = user_dir / "now.pcapng"
    with capturing(daemon, interfaces=veth[1], savefile=path, update_interval=0.02) as capture:
        assert until(capture, capture.SP_FILE) == str(path)
        assert packets_of(path) == 0  # the header is there already
        sent = 0
        for burst in (1, 2, 1, 50, 1, 7, 300, 1):
            send(veth[0], frames_of(burst), burst)
            sent += burst
            until_packets(capture, burst)
            assert capture.packetcount == readable_packets(path) == sent
        assert packets_of(path) == sent
        assert capture.file_size_bytes <= path.stat().st_size
        end(capture)


def test_the_file_never_has_less_than_what_was_announced(daemon: Daemon, veth: tuple[str, str], user_dir: Path) -> None:
    path = user_dir / "ahead.pcapng"
    sent, announced, events = 3000, 0, 0
    with (
        capturing(daemon, interfaces=veth[1], savefile=path, update_interval=0.005) as capture,
        in_background(send, veth[0], frames_of(8), sent, 3000),
    ):
        while announced < sent:
            event_type, message = capture.wait_for_event(timeout=20)
            if event_type == capture.SP_PACKET_COUNT:
                announced, events = announced + message, events + 1
                assert readable_packets(path) >= announced
    assert announced == sent
    assert events > 10


def test_without_a_savefile_a_temporary_one_is_made(
    daemon: Daemon, veth: tuple[str, str], user_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(user_dir))
    paths: list[Path] = []
    for use_libpcap in (False, False, True):
        with capturing(daemon, interfaces=veth[1], use_libpcap=use_libpcap) as capture:
            send(veth[0], frames_of(3), 3)
            paths.append(Path(until(capture, capture.SP_FILE)))
            until_packets(capture, 3)
    assert len(set(paths)) == 3
    assert sorted(user_dir.iterdir()) == sorted(paths)
    assert [path.suffix for path in paths] == [".pcapng", ".pcapng", ".pcap"]
    for path in paths:
        assert path.name.startswith(f"capd_{veth[1]}_")
        assert packets_of(path) == 3
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_longer_file_of_the_same_name_leaves_nothing(daemon: Daemon, veth: tuple[str, str], user_dir: Path) -> None:
    path, frames = user_dir / "again.pcapng", frames_of(5)
    path.write_bytes(b"x" * 1_000_000)
    for _ in range(2):
        with capturing(daemon, interfaces=veth[1], savefile=path) as capture:
            send(veth[0], frames, len(frames))
            end(capture)
        assert read_file(path).frames == frames
        assert packets_of(path) == len(frames)


@pytest.mark.parametrize("umask", ["0000", "0777"])
def test_the_modes_of_files_do_not_depend_on_the_umask(veth: tuple[str, str], user_dir: Path, umask: str) -> None:
    command = ("sh", "-c", f'umask {umask}; exec "$@"', "sh")
    socket_dir = user_dir / "daemon"
    socket_dir.mkdir()
    with running_daemon(socket_dir, prefix=command) as daemon:
        for group_access, mode in ((False, 0o600), (None, 0o600), (True, 0o640)):
            path = user_dir / f"mode-{group_access}.pcapng"
            with capturing(daemon, interfaces=veth[1], savefile=path, group_access=group_access):
                assert stat.S_IMODE(path.stat().st_mode) == mode
        ring = user_dir / "ring"
        with capturing(daemon, interfaces=veth[1], savefile=ring, ringbuffer_packets=1, group_access=True) as capture:
            send(veth[0], frames_of(2), 2)
            until_packets(capture, 2)
            end(capture)
        assert [stat.S_IMODE(path.stat().st_mode) for path in ring_files(user_dir)] == [0o640] * 3


# What stands around the packets ---------------------------------------------------------------------------------


def test_the_file_tells_where_its_packets_come_from(daemon: Daemon, user_dir: Path) -> None:
    path = user_dir / "told.pcapng"
    with veth_pair("meta-a", "meta-b"):
        ip("link", "set", "dev", "meta-b", "alias", "uplink, room 7")
        addresses = [ip_json("link", "show", "dev", name)[0]["address"] for name in ("meta-a", "meta-b")]
        with capturing(
            daemon, interfaces=["meta-b", "meta-a"], savefile=path, capture_filter="ether proto 0x88b5 or udp"
        ) as capture:
            send("meta-a", frames_of(3), 3)
            until_packets(capture, 3)
            end(capture)
    found = capinfos(path)
    operating_system = f"{platform.system()} {platform.release()}"
    assert found["Capture oper-sys"] == operating_system
    assert found["Capture application"] == f"capd {version('capd')}"
    model = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    assert found["Capture hardware"] == (model.group(1) if model else platform.machine())
    names = ("interface.name", "mac", "interface.speed", "interface.filter.string", "interface.os", "os")
    assert tshark_options(path, *names) == [
        ["meta-b", "meta-a"],
        addresses[::-1],
        ["10000000000"] * 2,  # what veth says
        ["ether proto 0x88b5 or udp"] * 2,
        [operating_system] * 2,
        [operating_system],
    ]
    contents = read_file(path)
    descriptions = [text_option(one.options, pcapng.IF_DESCRIPTION) for one in contents.interfaces]
    assert descriptions == ["uplink, room 7", None]
    assert (
        tshark_fields(path, "frame.interface_name", "frame.interface_description") == [("meta-b", "uplink, room 7")] * 3
    )
    assert contents.counts(0) == (3, 0, 3)
    assert contents.counts(1) == (0, 0, 0)


def test_what_was_dropped_is_told_by_file_and_events_alike(
    daemon: Daemon, veth: tuple[str, str], user_dir: Path
) -> None:
    path, sent = user_dir / "drops.pcapng", 20_000
    with capturing(daemon, interfaces=veth[1], savefile=path, kernel_buffer_size=1) as capture:
        (worker,) = daemon.workers()
        os.kill(worker, signal.SIGSTOP)
        try:
            assert send(veth[0], [local_frame(1000)], sent) == sent
        finally:
            os.kill(worker, signal.SIGCONT)
        end(capture)
        events, _ = all_events(capture)
    (counters,) = capture.interface_counters
    assert counters.received_total == sent == counters.written_total + counters.kernel_drops_total
    assert counters.kernel_drops_total > sent / 2
    assert packets_of(path) == counters.written_total
    assert read_file(path).counts(0) == (sent, counters.kernel_drops_total, counters.written_total)
    assert messages(events, capture.SP_DROPS) == [counters.kernel_drops_total]
    (closed,) = messages(events, capture.SP_FILE_CLOSED)
    assert closed.drops == counters.kernel_drops_total == capture.dropcount
    names = ("interface.received", "interface.dropped", "interface.dropped_by_os", "interface.delivered_to_user")
    drops = [str(counters.kernel_drops_total)]
    # Once: what the interface and the system dropped are added up.
    assert tshark_options(path, *names) == [[str(sent)], drops, [], [str(counters.written_total)]]


@pytest.mark.parametrize(("update_interval", "late_s"), [(None, 0.8), (0.005, 0.2)])
def test_sparse_packets_are_not_dropped_while_the_worker_is_kept_waiting(
    daemon: Daemon, veth: tuple[str, str], user_dir: Path, update_interval: float | None, late_s: float
) -> None:
    # By a disk or by other processes. In bytes there is room for a thousand times as much.
    path, sent = user_dir / "late.pcapng", int(1000 * late_s)
    with capturing(daemon, interfaces=veth[1], savefile=path, update_interval=update_interval) as capture:
        (worker,) = daemon.workers()
        os.kill(worker, signal.SIGSTOP)
        try:
            assert send(veth[0], frames_of(1), sent, 1000) == sent
        finally:
            os.kill(worker, signal.SIGCONT)
        end(capture)
    (counters,) = capture.interface_counters
    assert (counters.written_total, counters.drops_total) == (sent, 0)
    assert packets_of(path) == sent


# pcap -----------------------------------------------------------------------------------------------------------


def test_tcpdump_reads_pcap_files_with_their_nanoseconds(daemon: Daemon, veth: tuple[str, str], user_dir: Path) -> None:
    path, copy, frames = user_dir / "ring.pcap", user_dir / "copy.pcap", frames_of(25)
    with capturing(daemon, interfaces=veth[1], savefile=path, use_libpcap=True, ringbuffer_packets=10) as capture:
        send(veth[0], frames, len(frames))
        until_packets(capture, len(frames))
        end(capture)
    files = ring_files(user_dir)
    assert [closed.packets for closed in capture.files] == [10, 10, 5]
    found: list[bytes] = []
    for file, closed in zip(files, capture.files, strict=True):
        subprocess.run(["tcpdump", "-r", file, "-w", copy, "--nano", "-Z", "root"], check=True, timeout=20)
        # tcpdump writes what it has read: its own header, the same packets.
        assert read_pcap(copy).packets == read_pcap(file).packets
        found += [packet.data for packet in read_pcap(file).packets]
        printed = subprocess.run(
            ["tcpdump", "-n", "-tt", "--nano", "-r", file], capture_output=True, text=True, check=True, timeout=20
        ).stdout.splitlines()
        times_ns = [int(line.split()[0].replace(".", "")) for line in printed if " 88b5 " in line or "0x88b5" in line]
        assert (times_ns[0], times_ns[-1]) == (closed.first_timestamp_ns, closed.last_timestamp_ns)
        assert_closed_is_right(closed)
    assert found == frames


# Rings ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("filesize_kb", [5, 64])
def test_a_ring_switches_with_the_packet_that_reaches_the_size(
    daemon: Daemon, veth: tuple[str, str], user_dir: Path, filesize_kb: int
) -> None:
    frames = frames_of(900)
    with capturing(
        daemon, interfaces=veth[1], savefile=user_dir / "ring.pcapng", ringbuffer_filesize=filesize_kb
    ) as capture:
        send(veth[0], frames, len(frames))
        until_packets(capture, len(frames))
        end(capture)
    paths = ring_files(user_dir)
    files = [read_file(path) for path in paths]
    assert len(files) > 4
    for contents in files[:-1]:
        without_last = contents.size_bytes - last_record_size_bytes(contents.packets[-1])
        assert without_last < filesize_kb * 1000 <= contents.size_bytes
    assert files[-1].size_bytes < filesize_kb * 1000
    assert joined(files) == frames
    assert [closed.name for closed in capture.files] == list(map(str, paths))


def test_each_file_of_a_ring_is_complete_in_itself(daemon: Daemon, user_dir: Path) -> None:
    names = ["full-b", "full-d", "full-f"]
    events: list[Event] = []
    with contextlib.ExitStack() as stack:
        for pair in zip(["full-a", "full-c", "full-e"], names, strict=True):
            stack.enter_context(veth_pair(*pair))
        capture = stack.enter_context(
            capturing(
                daemon, interfaces=names, savefile=user_dir / "ring.pcapng", ringbuffer_packets=20, update_interval=0.02
            )
        )
        for number in range(15):
            send("full-a", [local_frame(100, number, mark=0)], 4)
            send("full-c", [local_frame(100, number, mark=1)], 2)
            events += until_packets(capture, 6)
        end(capture)
        counters = capture.interface_counters
        events += all_events(capture)[0]
    paths = ring_files(user_dir)
    assert [packets_of(path) for path in paths] == [20, 20, 20, 20, 10]
    written = [0, 0, 0]
    for path, closed in zip(paths, capture.files, strict=True):
        assert_closed_is_right(closed)
        contents = read_file(path)
        assert [text_option(one.options, pcapng.IF_NAME) for one in contents.interfaces] == names
        assert [text_option(contents.section.options, code) is not None for code in (2, 3, 4)] == [True] * 3
        for packet in contents.packets:
            assert packet.data[8] == packet.interface_id  # the frame's mark
            written[packet.interface_id] += 1
        for interface_id in range(3):
            received, dropped, delivered = contents.counts(interface_id)
            assert (delivered, dropped) == (written[interface_id], 0)
            assert received >= delivered
        if closed in (capture.files[0], capture.files[-1]):
            assert tshark_options(path, "interface.delivered_to_user") == [list(map(str, written))]
    assert written == [60, 30, 0] == [one.written_total for one in counters]
    assert tshark_options(paths[-1], "interface.received") == [list(map(str, written))]
    assert_events_of_ring(capture, events, [20, 20, 20, 20, 10])


def assert_events_of_ring(capture: CaptureSession, events: list[Event], packets: list[int]) -> None:
    """Of each file: it is opened, then its packets are announced, then it is closed, then the next one."""
    order = [
        event for event in events if event[0] in (capture.SP_FILE, capture.SP_PACKET_COUNT, capture.SP_FILE_CLOSED)
    ]
    for closed in capture.files:
        assert order.pop(0) == (capture.SP_FILE, closed.name)
        announced = 0
        while order[0][0] == capture.SP_PACKET_COUNT:
            announced += order.pop(0)[1]
        assert announced == closed.packets
        assert order.pop(0) == (capture.SP_FILE_CLOSED, closed)
    assert order == []
    assert [closed.packets for closed in capture.files] == packets


def test_the_packets_of_each_file_are_announced_between_its_two_events(
    daemon: Daemon, veth: tuple[str, str], user_dir: Path
) -> None:
    with capturing(daemon, interfaces=veth[1], savefile=user_dir / "ring.pcapng", ringbuffer_packets=7) as capture:
        send(veth[0], frames_of(60), 60, 1000)
        end(capture)
        events, _ = all_events(capture)
    assert_events_of_ring(capture, events, [7] * 8 + [4])


@pytest.mark.parametrize("name", ["ring.pcapng", "ring", "ring.two.dots"])
def test_ring_files_are_called_as_dumpcap_calls_them(
    daemon: Daemon, veth: tuple[str, str], user_dir: Path, name: str
) -> None:
    ours, theirs = user_dir / "ours", user_dir / "theirs"
    for directory in (ours, theirs):
        directory.mkdir()
    started_s = time.time()
    with (
        capturing(daemon, interfaces=veth[1], savefile=ours / name, ringbuffer_packets=5, autostop_files=3) as capture,
        dumpcap(veth[1], theirs / name, "-b", "packets:5", "-a", "files:3"),
    ):
        send(veth[0], frames_of(15), 15)
        capture.wait(END_TIMEOUT_S)
    found: list[list[tuple[str, str, str, int]]] = []
    for directory in (ours, theirs):
        names: list[tuple[str, str, str, int]] = []
        for path in sorted(directory.iterdir()):
            match = RING_NAME.fullmatch(path.name)
            assert match, path
            opened_s = time.mktime(time.strptime(match["time"], "%Y%m%d%H%M%S"))
            assert started_s - 1 <= opened_s <= time.time()
            names.append((match["base"], match["number"], match["suffix"], packets_of(path)))
        found.append(names)
    assert found[0] == found[1]
    assert [number for _, number, _, _ in found[0]] == ["00001", "00002", "00003"]


def test_a_ring_switches_by_the_clock_without_any_packet(daemon: Daemon, veth: tuple[str, str], user_dir: Path) -> None:
    with capturing(
        daemon, interfaces=veth[1], savefile=user_dir / "ring.pcapng", ringbuffer_duration=0.3, autostop_files=4
    ) as capture:
        started_s = time.monotonic()
        opened_s: list[float] = []
        for _ in range(4):
            until(capture, capture.SP_FILE)
            opened_s.append(time.monotonic() - started_s)
        capture.wait(END_TIMEOUT_S)
        opened_s.append(time.monotonic() - started_s)
    assert capture.end_reason == EndReason.FILES
    for number, at_s in enumerate(opened_s):
        assert 0.3 * number - 0.1 < at_s < 0.3 * number + 2.0
    assert [closed.packets for closed in capture.files] == [0] * 4
    for closed in capture.files:
        assert_closed_is_right(closed)
    for path in ring_files(user_dir):
        assert read_file(path).packets == []


def test_a_ring_switches_by_the_clock_with_packets_too(daemon: Daemon, veth: tuple[str, str], user_dir: Path) -> None:
    frames = frames_of(300)
    with capturing(daemon, interfaces=veth[1], savefile=user_dir / "ring.pcapng", ringbuffer_duration=0.4) as capture:
        assert send(veth[0], frames, len(frames), 200) == len(frames)
        until_packets(capture, len(frames))
        end(capture)
    files = [read_file(path) for path in ring_files(user_dir)]
    assert 4 <= len(files) <= 7
    assert joined(files) == frames
    starts_ns = [contents.timestamps_ns[0] for contents in files if contents.packets]
    apart_s = [(later - earlier) / 1e9 for earlier, later in itertools.pairwise(starts_ns)]
    # A file begins when the one before ends; packets come every 5 ms.
    assert all(0.2 < each_s < 1.5 for each_s in apart_s), apart_s


@contextlib.contextmanager
def watched(directory: Path) -> Generator[list[int], None, None]:
    """Look again and again how many files of a ring there are; the greatest number is in the list afterwards."""
    most = [0]
    stop = threading.Event()

    def watch() -> None:
        while not stop.is_set():
            most[0] = max(most[0], sum(name.startswith("ring_") for name in os.listdir(directory)))  # noqa: PTH208

    with in_background(watch):
        try:
            yield most
        finally:
            stop.set()


def test_a_ring_never_has_more_files_than_asked_for_and_keeps_the_newest(
    daemon: Daemon, veth: tuple[str, str], user_dir: Path
) -> None:
    frames = frames_of(205)
    with (
        capturing(
            daemon, interfaces=veth[1], savefile=user_dir / "ring.pcapng", ringbuffer_packets=10, ringbuffer_files=3
        ) as capture,
        watched(user_dir) as most,
    ):
        send(veth[0], frames, len(frames), 1000)
        until_packets(capture, len(frames))
        end(capture)
    assert most == [3]
    paths = ring_files(user_dir)
    assert [str(path) for path in paths] == [closed.name for closed in capture.files[-3:]]
    assert [closed.packets for closed in capture.files] == [10] * 20 + [5]
    assert joined([read_file(path) for path in paths]) == frames[180:]


def test_a_ring_deletes_nothing_that_is_not_its_own(daemon: Daemon, veth: tuple[str, str], user_dir: Path) -> None:
    foreign = [
        "ring.pcapng",
        "ring_00001_20200101000000.pcapng",
        "ring_00002_20200101000000.pcapng",
        "ring_00099_20380101000000.pcapng",
        "ring_00001.pcapng",
    ]
    for name in foreign:
        (user_dir / name).write_text("somebody else's")
    with capturing(
        daemon, interfaces=veth[1], savefile=user_dir / "ring.pcapng", ringbuffer_packets=2, ringbuffer_files=2
    ) as capture:
        first = Path(until(capture, capture.SP_FILE))
        send(veth[0], frames_of(2), 2)
        second = Path(until(capture, capture.SP_FILE))
        # One file is replaced by its user, one is deleted.
        first.rename(user_dir / "kept.pcapng")
        first.write_text("replaced")
        second.unlink()
        send(veth[0], frames_of(9), 9)
        until_packets(capture, 9)
        end(capture)
    assert [closed.packets for closed in capture.files] == [2, 2, 2, 2, 2, 1]
    assert {(user_dir / name).read_text() for name in foreign} == {"somebody else's"}
    assert first.read_text() == "replaced"
    assert packets_of(user_dir / "kept.pcapng") == 2
    own = {Path(closed.name) for closed in capture.files[-2:]}
    assert set(user_dir.iterdir()) == {user_dir / name for name in [*foreign, "kept.pcapng"]} | {first} | own


# Ends -----------------------------------------------------------------------------------------------------------


def test_a_capture_ends_after_its_duration(daemon: Daemon, veth: tuple[str, str], user_dir: Path) -> None:
    path, frames = user_dir / "duration.pcapng", frames_of(20)
    with capturing(daemon, interfaces=veth[1], savefile=path, autostop_duration=0.6) as capture:
        started_s = time.monotonic()
        send(veth[0], frames, len(frames))
        capture.wait(END_TIMEOUT_S)
        took_s = time.monotonic() - started_s
    assert capture.end_reason == EndReason.DURATION
    assert 0.4 < took_s < 2
    assert read_file(path).frames == frames


def test_a_capture_ends_with_the_packet_that_reaches_the_file_size(
    daemon: Daemon, veth: tuple[str, str], user_dir: Path
) -> None:
    path, frames = user_dir / "size.pcapng", frames_of(500)
    with capturing(daemon, interfaces=veth[1], savefile=path, autostop_filesize=20) as capture:
        send(veth[0], frames, len(frames))
        capture.wait(END_TIMEOUT_S)
        events, error = all_events(capture)
    assert capture.end_reason == EndReason.FILESIZE
    assert isinstance(error, CaptureEnded)
    contents = read_file(path)
    assert contents.size_bytes - last_record_size_bytes(contents.packets[-1]) < 20_000 <= contents.size_bytes
    assert contents.frames == frames[: len(contents.frames)]
    (counters,) = capture.interface_counters
    assert counters.written_total == len(contents.frames) == sum(messages(events, capture.SP_PACKET_COUNT))
    assert counters.received_total == counters.written_total + counters.excess_total
    assert counters.drops_total == 0


@pytest.mark.parametrize("max_packet_count", [1, 100])
def test_a_capture_ends_with_exactly_so_many_packets(
    daemon: Daemon, veth: tuple[str, str], user_dir: Path, max_packet_count: int
) -> None:
    path, frames = user_dir / "packets.pcapng", frames_of(1000)
    with capturing(daemon, interfaces=veth[1], savefile=path, max_packet_count=max_packet_count) as capture:
        send(veth[0], frames, len(frames))
        capture.wait(END_TIMEOUT_S)
    assert capture.end_reason == EndReason.PACKETS
    assert read_file(path).frames == frames[:max_packet_count]
    assert capture.packetcount == max_packet_count
    (counters,) = capture.interface_counters
    assert counters.written_total == max_packet_count
    assert counters.received_total == counters.written_total + counters.excess_total
    assert messages(all_events(capture)[0], capture.SP_DROPS) == [0]


def test_so_many_packets_are_those_of_all_interfaces(daemon: Daemon, user_dir: Path) -> None:
    path = user_dir / "packets.pcapng"
    with (
        veth_pair("sum-a", "sum-b"),
        veth_pair("sum-c", "sum-d"),
        capturing(daemon, interfaces=["sum-b", "sum-d"], savefile=path, max_packet_count=50) as capture,
    ):
        for number in range(10):
            send("sum-a", [local_frame(60, number, mark=0)], 4)
            send("sum-c", [local_frame(60, number, mark=1)], 4)
        capture.wait(END_TIMEOUT_S)
    assert capture.end_reason == EndReason.PACKETS
    contents = read_file(path)
    assert len(contents.packets) == 50 == sum(one.written_total for one in capture.interface_counters)
    assert contents.timestamps_ns == sorted(contents.timestamps_ns)
    for one in capture.interface_counters:
        assert one.received_total == one.written_total + one.excess_total


@pytest.mark.parametrize(
    ("arguments", "packets"),
    [
        ({"autostop_files": 3}, [10, 10, 10]),
        ({"autostop_files": 1}, [10]),
        ({"autostop_files": 3, "ringbuffer_files": 2}, [10, 10, 10]),
        ({"max_packet_count": 25}, [10, 10, 5]),
        ({"max_packet_count": 20}, [10, 10]),
    ],
)
def test_a_ring_ends_with_exactly_so_many_files_or_packets(
    daemon: Daemon, veth: tuple[str, str], user_dir: Path, arguments: Any, packets: list[int]
) -> None:
    frames = frames_of(200)
    with capturing(
        daemon, interfaces=veth[1], savefile=user_dir / "ring.pcapng", ringbuffer_packets=10, **arguments
    ) as capture:
        send(veth[0], frames, len(frames))
        capture.wait(END_TIMEOUT_S)
    assert capture.end_reason == (EndReason.FILES if "autostop_files" in arguments else EndReason.PACKETS)
    assert [closed.packets for closed in capture.files] == packets
    kept = arguments.get("ringbuffer_files", len(packets))
    files = [read_file(path) for path in ring_files(user_dir)]
    assert [len(contents.packets) for contents in files] == packets[-kept:]
    assert joined(files) == frames[sum(packets[:-kept]) : sum(packets)]


@pytest.mark.parametrize("update_interval", [1, 30])
def test_what_was_captured_before_the_end_is_in_the_file_however_long_the_interval(
    daemon: Daemon, veth: tuple[str, str], user_dir: Path, update_interval: float
) -> None:
    path, frames = user_dir / "slow.pcapng", frames_of(10)
    with capturing(daemon, interfaces=veth[1], savefile=path, update_interval=update_interval) as capture:
        send(veth[0], frames, len(frames))
        end(capture)
    (counters,) = capture.interface_counters
    assert (counters.written_total, counters.drops_total) == (len(frames), 0)
    assert read_file(path).frames == frames


# Disks ----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def small_disk(directory: Path, size_kib: int) -> Generator[Path, None, None]:
    """Have a file system of a fixed size; it must not be in use any more when the context ends."""
    mount = directory / "disk"
    mount.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size_kib}k,mode=1777", "none", mount], check=True, timeout=10)
    try:
        yield mount
        deadline_s = time.monotonic() + 10
        while subprocess.run(["umount", mount], check=False, timeout=10, capture_output=True).returncode:
            assert time.monotonic() < deadline_s, "something is still open there"
            time.sleep(0.05)
    finally:
        if mount.is_mount():
            subprocess.run(["umount", "--lazy", mount], check=True, timeout=10)


@pytest.mark.parametrize("size", [61, 1500])
def test_on_a_full_disk_the_file_is_whole_and_what_is_missing_is_counted(
    daemon: Daemon, veth: tuple[str, str], user_dir: Path, size: int
) -> None:
    frames = [local_frame(size, number) for number in range(1_500_000 // size)]
    with small_disk(user_dir, 1024) as disk:
        path = disk / "full.pcapng"
        with capturing(daemon, interfaces=veth[1], savefile=path) as capture:
            assert send(veth[0], frames, len(frames)) == len(frames)
            capture.wait(END_TIMEOUT_S)
            events, error = all_events(capture)
        assert isinstance(error, DiskError)
        assert capture.end_reason == EndReason.FAILED
        (counters,) = capture.interface_counters
        written = counters.written_total
        assert counters.received_total == written + counters.kernel_drops_total + counters.writer_drops_total
        assert counters.writer_drops_total > 0
        assert counters.excess_total == 0
        assert sum(messages(events, capture.SP_PACKET_COUNT)) == written == packets_of(path)
        assert messages(events, capture.SP_DROPS) == [counters.drops_total]
        (closed,) = messages(events, capture.SP_FILE_CLOSED)
        assert (closed.packets, closed.size_bytes) == (written, path.stat().st_size)
        blocks = list(pcapng.read_blocks(path.read_bytes()))
        found = [bytes(block.data) for block in blocks if isinstance(block, pcapng.EnhancedPacket)]
        assert found == frames[:written]
        assert written > 1_000_000 / (size + 40)
        del blocks


def test_a_ring_on_a_full_disk_leaves_whole_files(daemon: Daemon, veth: tuple[str, str], user_dir: Path) -> None:
    frames = [local_frame(1000, number) for number in range(1500)]
    with small_disk(user_dir, 1024) as disk:
        with capturing(daemon, interfaces=veth[1], savefile=disk / "ring.pcapng", ringbuffer_filesize=100) as capture:
            assert send(veth[0], frames, len(frames)) == len(frames)
            capture.wait(END_TIMEOUT_S)
            events, error = all_events(capture)
        assert isinstance(error, DiskError)
        (counters,) = capture.interface_counters
        assert sum(map(packets_of, ring_files(disk))) == counters.written_total
        assert counters.received_total == counters.written_total + counters.drops_total
        assert sum(messages(events, capture.SP_PACKET_COUNT)) == counters.written_total
        assert [closed.name for closed in capture.files] == list(map(str, ring_files(disk)))


def test_a_disk_that_has_no_room_for_the_header_is_no_destination(
    daemon: Daemon, veth: tuple[str, str], user_dir: Path
) -> None:
    with small_disk(user_dir, 64) as disk:
        (disk / "filler").write_bytes(bytes(64 * 1024))
        with (
            pytest.raises(DestinationError) as caught,
            capturing(daemon, interfaces=veth[1], savefile=disk / "none.pcapng"),
        ):
            pass
        assert "No space left" in str(caught.value)
        assert [path.name for path in disk.iterdir()] == ["filler"]
