"""Every argument of a session has an effect that can be seen from outside, or is refused with a reason."""

import contextlib
import math
import os
import re
import shutil
import stat
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from capd_client import (
    CaptureInterface,
    CaptureSession,
    ChildError,
    Direction,
    DiskError,
    Interface,
    InterfaceError,
    InvalidArgument,
    LinkLayerType,
    NameTaken,
    NoEvents,
    Packet,
    PacketKind,
    UnsupportedError,
    list_captures,
    read,
    stop_capture,
)
from capd_client.request.options import CaptureArguments, make_request
from capd_protocol.arguments import BY_NAME, MAX_INTERFACES, ArgumentType
from capd_protocol.formats import pcapng
from capd_protocol.formats.ring_index import number_of
from capd_protocol.messages import (
    Conditions,
    DeletionReason,
    EndReason,
    FileDeleted,
    FileOpened,
    StartCapture,
    Triggered,
    TriggerReason,
)
from capd_protocol.targets import DEFAULT
from tests.capture.helpers import readable_packets
from tests.client.conftest import Bench, mac_of
from tests.client.helpers import PATIENCE_S, drain, of_type, pcap_linktype_and_sizes, read_complete, rings, wait_until
from tests.support.namespace import veth_pair
from tests.support.tools import capinfos, ip_json, packets_of
from tests.support.traffic import build_frames, send

MIB = 1024 * 1024
LINKTYPE_ETHERNET, LINKTYPE_DOCSIS = 1, 143
RING_FILE = re.compile(r"a_(\d{5})_\d{14}\.pcapng")


def captured(bench: Bench, packets: int, size_bytes: int = 100, **arguments: Any) -> CaptureSession:
    """Return a capture that has ended, after so many packets were sent."""
    with bench.running(**arguments) as capture:
        bench.send(packets, size_bytes)
        capture.stop()
        capture.wait(PATIENCE_S)
    return capture


def ended(bench: Bench, packets: int, size_bytes: int = 100, **arguments: Any) -> CaptureSession:
    """Return a capture that has ended by itself, after or while so many packets were sent."""
    with bench.running(**arguments) as capture:
        bench.send(packets, size_bytes)
        capture.wait(PATIENCE_S)
    return capture


@contextmanager
def other_veth() -> Generator[str, None, None]:
    """Give one more interface to capture on."""
    with veth_pair("other0", "other1"):
        yield "other1"


def names_in_ring(bench: Bench) -> list[int]:
    """Return the numbers in the names of a ring's files, all of which must be well named."""
    matches = [RING_FILE.fullmatch(path.name) for path in sorted(bench.directory.iterdir()) if path.name[0] == "a"]
    return [int(match[1]) for match in matches if match] if all(matches) else []


def ring_of(bench: Bench, **arguments: Any) -> tuple[int, int]:
    """Return the size in bytes and the retire time in milliseconds of a capture's ring, as the kernel has it."""
    with bench.running(**arguments):
        (worker,) = bench.daemon.workers()
        return rings(worker)[bench.interface]


def promiscuity(interface: str) -> int:
    """Return how many have asked an interface for everybody's packets."""
    return int(ip_json("-d", "link", "show", "dev", interface)[0]["promiscuity"])


def mode_of(path: str | Path) -> int:
    """Return a file's permissions."""
    return stat.S_IMODE(Path(path).stat().st_mode)


def first_of_dumpcap() -> str:
    """Return what dumpcap captures on where nothing is named, but that it takes an interface that is down, too."""
    listed = subprocess.run(["dumpcap", "-D"], capture_output=True, text=True, check=True, timeout=20).stdout
    up = {each.get("ifname") for each in ip_json("link", "show", "up")}
    return next(name for line in listed.splitlines() if (name := line.split()[1]) in up)


# The effects ----------------------------------------------------------------------------------------------------


def interfaces(bench: Bench) -> None:
    with other_veth() as other:
        both = bench.interface, other
        own = CaptureInterface(name=other, snaplen=60)
        for given, names in (
            (bench.interface, both[:1]),
            (both, both),
            ((name for name in both), both),
            (own, (other,)),
            ((bench.interface, own), both),
            (Interface(other), (other,)),
            ((), (first_of_dumpcap(),)),
        ):
            capture = captured(bench, 2, interfaces=given)
            assert read_complete(bench.savefile).names == list(names)
            assert [each.interface for each in capture.interface_counters] == list(capture.interfaces) == list(names)
        for pattern, is_in in (("othe[qr]?", False), (["any", "nothing*"], True)):
            with bench.running(interfaces=pattern) as capture:
                (worker,) = bench.daemon.workers()
                assert other in rings(worker)
                assert (bench.interface in rings(worker)) == is_in
                assert {size for size, _ in rings(worker).values()} == {4 * MIB}


def capture_filter(bench: Bench) -> None:
    captured(bench, 3, capture_filter="udp dst port 50001")
    contents = read_complete(bench.savefile)
    assert len(contents.packets) == 3
    assert dict(contents.interfaces[0].options)[pcapng.IF_FILTER] == b"\0udp dst port 50001"
    captured(bench, 3, capture_filter="udp dst port 50002")
    assert read_complete(bench.savefile).packets == []


def snaplen(bench: Bench) -> None:
    captured(bench, 3, size_bytes=1000, snaplen=70)
    contents = read_complete(bench.savefile)
    assert [len(packet) for packet in contents.packets] == [70] * 3
    assert contents.original_sizes_bytes == [1000] * 3
    assert contents.interfaces[0].snaplen_bytes == 70
    captured(bench, 3, size_bytes=1000)
    assert [len(packet) for packet in read_complete(bench.savefile).packets] == [1000] * 3


def promiscuous(bench: Bench) -> None:
    for given, expected in ((True, 1), (False, 0)):
        with bench.running(promiscuous=given):
            assert promiscuity(bench.interface) == expected
        assert promiscuity(bench.interface) == 0


def exchanged(bench: Bench, packets: int, **arguments: Any) -> list[Packet]:
    """Return what is captured of these."""
    with bench.running(**arguments) as capture:
        bench.exchange()
        wait_until(lambda: counted_packets(capture) >= packets, "all are written")
    return list(read(bench.savefile))


def counted_packets(capture: CaptureSession) -> int:
    with contextlib.suppress(NoEvents):
        capture.wait_for_event(timeout=0.05)
    return capture.packetcount


def direction(bench: Bench) -> None:
    own = mac_of(bench.interface)
    for given, sources in (("in", [False] * 4), ("out", [True]), ("inout", [False] * 4 + [True])):
        packets = exchanged(bench, len(sources), direction=given)
        assert [bytes(packet.data[6:12]) == own for packet in packets] == sources
    with pytest.raises(InvalidArgument, match="is not one of in, out, inout"):
        bench.session(direction="sideways")


def packet_flags(bench: Bench) -> None:
    packets = exchanged(bench, 5, packet_flags=True)
    assert [(packet.direction, packet.kind) for packet in packets] == [
        (Direction.IN, PacketKind.UNICAST),
        (Direction.IN, PacketKind.BROADCAST),
        (Direction.IN, PacketKind.MULTICAST),
        (Direction.IN, PacketKind.OTHERS),
        (Direction.OUT, PacketKind.UNKNOWN),
    ]
    words = ["tshark", "-r", str(bench.savefile), "-T", "fields"]
    for name in ("packet_flags_direction", "packet_flags_reception_type"):
        words += ["-e", f"frame.{name}"]
    shown = subprocess.run(words, check=True, capture_output=True, text=True).stdout
    values = [tuple(int(value, 16) for value in line.split("\t")) for line in shown.splitlines()]
    assert values == [(packet.direction, packet.kind) for packet in packets]
    assert [packet.flags for packet in exchanged(bench, 5)] == [0] * 5
    with pytest.raises(InvalidArgument, match="packet_flags needs pcapng"):
        bench.session(packet_flags=True, use_libpcap=True)


def kernel_buffer_size(bench: Bench) -> None:
    assert ring_of(bench, kernel_buffer_size=3)[0] == 3 * MIB
    assert ring_of(bench, kernel_buffer_size=None)[0] == 32 * MIB


def max_buffered_bytes(bench: Bench) -> None:
    assert ring_of(bench, kernel_buffer_size=None, max_buffered_bytes=3 * MIB)[0] == 3 * MIB
    assert ring_of(bench, kernel_buffer_size=None, max_buffered_bytes=3 * MIB + 1)[0] == 4 * MIB
    refused("max_buffered_bytes", "same ring", max_buffered_bytes=MIB, kernel_buffer_size=1)
    refused("max_buffered_bytes", "positive", max_buffered_bytes=0)


def link_layer_type(bench: Bench) -> None:
    for given, linktype in (("DOCSIS", LINKTYPE_DOCSIS), ("EN10MB", LINKTYPE_ETHERNET)):
        captured(bench, 1, link_layer_type=given)
        assert [each.linktype for each in read_complete(bench.savefile).interfaces] == [linktype]
    refused("link_layer_type", "EN10MB", link_layer_type="BROCCOLI")
    with pytest.raises(UnsupportedError, match="has no link-layer type") as raised:
        bench.running(link_layer_type="IEEE802_11_RADIO")
    assert raised.value.failure is not None
    assert raised.value.failure.argument == "link_layer_type"


def max_packet_count(bench: Bench) -> None:
    capture = ended(bench, 10, max_packet_count=7)
    assert capture.end_reason == EndReason.PACKETS
    assert capture.packetcount == len(read_complete(bench.savefile).packets) == 7
    (counters,) = capture.interface_counters
    assert (counters.received_total, counters.written_total, counters.drops_total) == (10, 7, 0)


def autostop_duration(bench: Bench) -> None:
    with bench.running(autostop_duration=0.5) as capture:
        started_s = time.monotonic()
        bench.send(2)
        capture.wait(PATIENCE_S)
        assert 0.3 < time.monotonic() - started_s < 2.5
    assert capture.end_reason == EndReason.DURATION
    assert len(read_complete(bench.savefile).packets) == 2


def autostop_filesize(bench: Bench) -> None:
    capture = ended(bench, 100, size_bytes=1000, autostop_filesize=10)
    assert capture.end_reason == EndReason.FILESIZE
    assert 0 < capture.packetcount < 100
    # The packet that reaches the size is the last one; statistics come behind it.
    assert 10_000 <= bench.savefile.stat().st_size < 10_000 + 1100 + 200
    assert len(read_complete(bench.savefile).packets) == capture.packetcount


def autostop_files(bench: Bench) -> None:
    capture = ended(bench, 20, ringbuffer_packets=3, autostop_files=2)
    assert capture.end_reason == EndReason.FILES
    assert [each.packets for each in capture.files] == [3, 3]
    assert names_in_ring(bench) == [1, 2]
    refused("autostop_files", "ringbuffer_packets", autostop_files=2)


def savefile(bench: Bench) -> None:
    directory = bench.directory / "deeper"
    directory.mkdir()
    before = Path.cwd()
    os.chdir(bench.directory)
    try:
        for given, shown in (
            (str(directory / "a.pcapng"), str(directory / "a.pcapng")),
            (directory / "b.pcapng", str(directory / "b.pcapng")),
            ("c.pcapng", "c.pcapng"),
            ("deeper/d.pcapng", "deeper/d.pcapng"),
            (Path("deeper/../e"), "deeper/../e"),
        ):
            with bench.running(savefile=given) as capture:
                os.chdir("/")  # where the program goes later is its own affair
                assert capture.wait_for_event(timeout=PATIENCE_S) == (capture.SP_FILE, shown)
                bench.send(1)
            os.chdir(bench.directory)
            assert [each.name for each in capture.files] == [shown]
            assert len(read_complete(given).packets) == 1
    finally:
        os.chdir(before)
    refused("savefile", "names a directory", savefile=f"{directory}/")
    refused("savefile", "names a directory", savefile="")
    refused("savefile", "is not the name of a file", savefile=directory / "..")
    # Without one, a temporary file, which stays.
    capture = captured(bench, 2, savefile=None)
    (closed,) = capture.files
    path = Path(closed.name)
    try:
        assert path.parent == Path(tempfile.gettempdir())
        assert bench.interface in path.name
        assert path.suffix == ".pcapng"
        assert mode_of(path) == 0o600
        assert len(read_complete(path).packets) == 2
    finally:
        path.unlink()


def group_access(bench: Bench) -> None:
    for given, mode in ((True, 0o640), (False, 0o600)):
        captured(bench, 0, group_access=given, savefile=bench.directory / f"{given}.pcapng")
        assert mode_of(bench.directory / f"{given}.pcapng") == mode


def ringbuffer_duration(bench: Bench) -> None:
    with bench.running(ringbuffer_duration=0.2, autostop_duration=0.7) as capture:
        capture.wait(PATIENCE_S)
    assert names_in_ring(bench) == [1, 2, 3, 4]
    assert len(capture.files) == 4


def ringbuffer_filesize(bench: Bench) -> None:
    capture = captured(bench, 25, size_bytes=1000, ringbuffer_filesize=10)
    assert names_in_ring(bench) == [1, 2, 3]
    sizes = [each.size_bytes for each in capture.files]
    assert all(10_000 <= size < 10_000 + 1100 + 200 for size in sizes[:-1])
    assert sum(len(read_complete(each.name).packets) for each in capture.files) == 25


def ringbuffer_packets(bench: Bench) -> None:
    capture = captured(bench, 10, ringbuffer_packets=4)
    assert names_in_ring(bench) == [1, 2, 3]
    assert [len(read_complete(each.name).packets) for each in capture.files] == [4, 4, 2]


def ringbuffer_files(bench: Bench) -> None:
    capture = captured(bench, 10, ringbuffer_packets=2, ringbuffer_files=3)
    assert names_in_ring(bench) == [4, 5, 6]
    assert [each.packets for each in capture.files] == [2, 2, 2, 2, 2, 0]
    refused("ringbuffer_files", "when to switch", ringbuffer_files=3)
    refused("savefile", "needs a savefile", ringbuffer_packets=3, savefile=None)


def ringbuffer_time_first(bench: Bench) -> None:
    capture = captured(bench, 10, ringbuffer_packets=4, ringbuffer_time_first=True)
    pattern = re.compile(r".*_20\d{12}_(0000\d)\.pcapng")
    found = [pattern.fullmatch(Path(each.name).name) for each in capture.files]
    assert [each and each[1] for each in found] == ["00001", "00002", "00003"]
    assert [number_of(bench.savefile.name, Path(each.name).name) for each in capture.files] == [1, 2, 3]
    refused("ringbuffer_time_first", "names of a ring's files", ringbuffer_time_first=True)


def ringbuffer_interval(bench: Bench) -> None:
    with bench.running(ringbuffer_interval=1) as capture:
        opened_s = time.time()
        for _ in range(2):
            while (event := capture.wait_for_event(timeout=PATIENCE_S))[0] != capture.SP_FILE_CLOSED:
                assert event[0] in (capture.SP_FILE, capture.SP_PACKET_COUNT)
            # Whenever it was opened, it was closed at a full second.
            assert time.time() % 1 < 0.5
        assert 1 <= time.time() - opened_s < 3
        capture.stop()
        capture.wait(PATIENCE_S)
    assert names_in_ring(bench) == [1, 2, 3]


def ringbuffer_total_filesize(bench: Bench) -> None:
    with bench.running(ringbuffer_packets=5, ringbuffer_total_filesize=20) as capture:
        bench.send(40, 1000)
        capture.stop()
        events = drain(capture)
    left = [path.stat().st_size for path in bench.directory.glob("a_*.pcapng")]
    # A file of five takes nearly 6 kB.
    assert names_in_ring(bench) == [6, 7, 8, 9]
    assert 15_000 < sum(left) <= 20_000
    deleted = [each for each in of_type(events, capture.SP_FILE_DELETED) if isinstance(each, FileDeleted)]
    assert [each.reason for each in deleted] == [DeletionReason.TOTAL] * 5
    closed = {each.name: each.size_bytes for each in capture.files}
    assert [(each.name, each.size_bytes) for each in deleted] == list(closed.items())[:5]
    refused("ringbuffer_total_filesize", "first file", ringbuffer_filesize=5, ringbuffer_total_filesize=5)


def ringbuffer_age(bench: Bench) -> None:
    with bench.running(ringbuffer_packets=2, ringbuffer_age=0.5) as capture:
        for _ in range(2):
            bench.send(2)
            deleted = None
            while deleted is None:
                event_type, message = capture.wait_for_event(timeout=PATIENCE_S)
                deleted = message if event_type == capture.SP_FILE_DELETED else None
            # Nobody sends, and yet it goes; not before its time.
            closed = next(each for each in capture.files if each.name == deleted.name)
            assert deleted.reason == DeletionReason.AGE
            assert closed.last_timestamp_ns is not None
            assert 0.5 <= time.time() - closed.last_timestamp_ns / 1e9 < 2
        capture.stop()
        capture.wait(PATIENCE_S)
    assert names_in_ring(bench) == [3]


def ringbuffer_free_space(bench: Bench) -> None:
    free_kb = shutil.disk_usage(bench.directory).free // 1000
    with pytest.raises(DiskError, match="shall stay free"):
        bench.running(ringbuffer_packets=2, ringbuffer_free_space=10 * free_kb)
    assert list(bench.directory.iterdir()) == []
    capture = captured(bench, 6, ringbuffer_packets=2, ringbuffer_free_space=free_kb // 2)
    assert names_in_ring(bench) == [1, 2, 3, 4]
    assert capture.end_reason == EndReason.STOPPED


def use_pcapng(bench: Bench) -> None:
    for given, kind in ((True, "pcapng"), (False, "nsecpcap")):
        captured(bench, 1, use_pcapng=given)
        assert capinfos(bench.savefile, "-t")["File type"] == kind


def use_libpcap(bench: Bench) -> None:
    for given, kind in ((True, "nsecpcap"), (False, "pcapng")):
        captured(bench, 2, use_libpcap=given)
        assert capinfos(bench.savefile, "-t")["File type"] == kind
    captured(bench, 2, use_libpcap=True, link_layer_type="DOCSIS", snaplen=50)
    assert pcap_linktype_and_sizes(bench.savefile) == (LINKTYPE_DOCSIS, [50, 50])
    captured(bench, 2, use_libpcap=True, use_pcapng=False)
    refused("use_libpcap", "one format", use_libpcap=True, use_pcapng=True)
    refused("use_libpcap", "one format", use_libpcap=False, use_pcapng=False)
    refused("use_libpcap", "which interface", use_libpcap=True, interfaces=(bench.interface, "other"))


def update_interval(bench: Bench) -> None:
    announcements: list[int] = []
    for interval_s in (0.01, 0.3):
        with bench.running(update_interval=interval_s) as capture:
            (worker,) = bench.daemon.workers()
            # The kernel gives a block back within a part of it, but not so soon that it runs out of them.
            assert rings(worker)[bench.interface][1] == max(2, interval_s * 150)
            sender = threading.Thread(target=bench.send, args=(200,), kwargs={"rate_pps": 400})
            sender.start()
            sender.join()
            capture.stop()
            announcements.append(len(of_type(drain(capture), capture.SP_PACKET_COUNT)))
    often, seldom = announcements
    assert often > 10
    assert seldom <= 6  # a slow sender takes longer


def in_memory(bench: Bench) -> None:
    with bench.running(savefile=None, in_memory=True) as capture:
        event = capture.next_event()
        assert isinstance(event, FileOpened)
        bench.send(3)
        capture.flush()
        with capture.open_file(event.name) as file:
            assert os.fstat(file.fileno()).st_nlink == 0
            data = file.read()
        assert list(bench.directory.iterdir()) == []
        assert not list(Path("/dev/shm").glob("capd_*"))
    path = bench.directory / "a.pcapng"
    path.write_bytes(data)
    assert readable_packets(path) == 3
    for others, text in (
        ({}, "leave out one of the two"),
        ({"savefile": None, "detach": True, "name": "x"}, "a detached capture needs files"),
        ({"savefile": None, "group_access": True}, "no file for the group"),
        ({"savefile": None, "pass_files": False}, "the packets could not be read"),
        ({"savefile": None, "recorder_memory": 10}, "a recorder needs a savefile"),
    ):
        with pytest.raises(InvalidArgument, match=text):
            bench.session(in_memory=True, **others)


def pass_files(bench: Bench) -> None:
    for given in (True, False):
        with bench.running(pass_files=given, ringbuffer_packets=1, ringbuffer_files=1) as capture:
            path = str(capture.wait_for_event()[1])
            bench.send(1)
            while capture.wait_for_event(timeout=PATIENCE_S)[0] != capture.SP_FILE:
                pass
            # The ring has deleted it, or written the next one over it.
            if given:
                with capture.open_file(path) as file:
                    assert file.read(4) == b"\x0a\x0d\x0d\x0a"
            else:
                with pytest.raises(FileNotFoundError):
                    capture.open_file(path)


def wait_for_interfaces(bench: Bench) -> None:
    for given in (False, None):
        with pytest.raises(InterfaceError, match="there is no interface later1"):
            bench.running(interfaces="later1", wait_for_interfaces=given)
    with bench.running(interfaces="later1", wait_for_interfaces=True) as capture:
        for _ in range(2):
            with veth_pair("later0", "later1"):
                while capture.wait_for_event(timeout=PATIENCE_S) != (capture.SP_INTERFACE_ATTACHED, "later1"):
                    pass
                assert send("later0", build_frames((100,)), 2) == 2
        while capture.wait_for_event(timeout=PATIENCE_S) != (capture.SP_INTERFACE_LOST, "later1"):
            pass
        capture.stop()
        capture.wait(PATIENCE_S)
    assert capture.end_reason == EndReason.STOPPED
    contents = read_complete(bench.savefile)
    assert len(contents.packets) == 4
    assert set(contents.names) == {"later1"}


def monitor_mode(bench: Bench) -> None:
    captured(bench, 0, monitor_mode=False)
    with pytest.raises(UnsupportedError, match=f"{bench.interface} is not a wireless interface"):
        bench.running(monitor_mode=True)


def wifi_channel(bench: Bench) -> None:
    for given in ("2412", "2437,HT40+"):
        with pytest.raises(UnsupportedError, match=f"{bench.interface} is not a wireless interface"):
            bench.running(wifi_channel=given)
    refused("wifi_channel", "frequency in MHz", wifi_channel="six")
    refused("wifi_channel", "HT40-", wifi_channel="2412,HT80")


def max_buffered_packets(bench: Bench) -> None:
    refused("max_buffered_packets", "use max_buffered_bytes", max_buffered_packets=100)


def separate_threads(bench: Bench) -> None:
    captured(bench, 0, separate_threads=False)
    refused("separate_threads", "one process reads", separate_threads=True)


def name(bench: Bench) -> None:
    with bench.running(name="dns") as capture:
        (listed,) = list_captures(socket_path=bench.daemon.socket_path)
        assert (listed.capture_id, listed.name) == (capture.capture_id, "dns")
        with pytest.raises(NameTaken), bench.session(name="dns", savefile=bench.directory / "b"):
            raise AssertionError("entered")
    refused("name", "begins with a letter", name="1st")


def detach(bench: Bench) -> None:
    with bench.running(detach=True, name="dns"):
        pass
    (listed,) = list_captures(socket_path=bench.daemon.socket_path)
    assert listed.name == "dns"
    stop_capture("dns", socket_path=bench.daemon.socket_path)
    wait_until(lambda: list_captures(socket_path=bench.daemon.socket_path) == (), "it has ended")
    refused("name", "needs a name", detach=True)
    refused("savefile", "needs a savefile", detach=True, name="dns", savefile=None)


def snapshot_of(bench: Bench, **arguments: Any) -> int:
    """Return how many packets are in the snapshot that a recorder takes when it has got ten."""
    with bench.running(**arguments) as capture:
        bench.send(10)
        path = capture.snapshot()
    return len(read_complete(path).packets)


def recorder_duration(bench: Bench) -> None:
    assert snapshot_of(bench, recorder_duration=20) == 10
    with bench.running(recorder_duration=0.2) as capture:
        bench.send(10)
        capture.flush()
        time.sleep(0.3)
        assert read_complete(capture.snapshot()).packets == []


def comments(bench: Bench) -> None:
    exchanged(bench, 5, comments=["für später", "and more"])
    shown = subprocess.run(["capinfos", "-k", str(bench.savefile)], capture_output=True, text=True, check=True).stdout
    assert [each.partition(": ")[2].strip() for each in shown.splitlines()[1:]] == ["für später", "and more"]
    exchanged(bench, 5, comments="alone")
    assert capinfos(bench.savefile, "-k")["Capture comment"] == "alone"
    with pytest.raises(InvalidArgument, match="comments need pcapng"):
        bench.session(comments="x", use_libpcap=True)
    refused("comments", "at least one character", comments=["a", ""])
    refused("comments", "no NUL", comments="a\0b")
    refused("comments", "UTF-8", comments="\udc80")
    refused("comments", "more than 16,384 bytes", comments=["x" * 9000, "y" * 9000])
    refused("comments", "it must be a text, or several", comments=[1])


def compress_type(bench: Bench) -> None:
    for given, begin in (("zstd", b"\x28\xb5\x2f\xfd"), ("gzip", b"\x1f\x8b"), ("none", b"\x0a\x0d\x0d\x0a")):
        assert len(exchanged(bench, 5, compress_type=given)) == 5
        assert bench.savefile.read_bytes().startswith(begin)
        assert packets_of(bench.savefile) == 5
    refused("compress_type", "say none, gzip or zstd", compress_type="lz4")
    refused("compress_type", "snapshots are not compressed", compress_type="zstd", recorder_duration=1.0)
    refused("compress_type", "in memory only", compress_type="zstd", in_memory=True, savefile=None)


def netns(bench: Bench) -> None:
    # Of this process, which is where its interfaces are.
    arguments: Any = {"interfaces": bench.interface, "savefile": bench.savefile}
    with CaptureSession(netns=f"/proc/{threading.get_native_id()}/ns/net", **arguments) as capture:
        bench.send(3)
        capture.flush()
    assert capture.packetcount == len(read_complete(bench.savefile).packets) == 3
    refused("netns", "another one is named", netns="blue")


def recorder_memory(bench: Bench) -> None:
    assert snapshot_of(bench, recorder_memory=4) == 10
    with bench.running(recorder_memory=5) as capture:
        assert capture.wait_for_event(timeout=PATIENCE_S)[1].memory_bytes == 5 * MIB


def recorder_after(bench: Bench) -> None:
    with bench.running(recorder_memory=4, recorder_after=0.5) as capture:
        began_s = time.monotonic()
        capture.snapshot()
        assert 0.5 < time.monotonic() - began_s < 5
    refused("recorder_after", "say what it keeps", recorder_after=1)


def triggered(bench: Bench, packets: int, **arguments: Any) -> Triggered:
    with bench.running(recorder_memory=4, **arguments) as capture:
        bench.send(packets)
        while True:
            kind, message = capture.wait_for_event(timeout=PATIENCE_S)
            if kind == capture.SP_TRIGGERED:
                assert isinstance(message, Triggered)
                return message


def recorder_trigger_filter(bench: Bench) -> None:
    assert triggered(bench, 1, recorder_trigger_filter="udp").reason == TriggerReason.FILTER
    with pytest.raises(ChildError), bench.session(recorder_memory=4, recorder_trigger_filter="port x"):
        raise AssertionError("entered")


def recorder_trigger_rate(bench: Bench) -> None:
    assert triggered(bench, 100, recorder_trigger_rate=100).reason == TriggerReason.RATE


def recorder_trigger_link_down(bench: Bench) -> None:
    with (
        other_veth() as other,
        bench.running(
            interfaces=[bench.interface, other], recorder_memory=4, recorder_trigger_link_down=True
        ) as capture,
    ):
        subprocess.run(["ip", "link", "set", other, "down"], check=True, timeout=10)
        events = [capture.wait_for_event(timeout=PATIENCE_S) for _ in range(2)]
        assert events[1] == (capture.SP_TRIGGERED, Triggered(reason=TriggerReason.LINK_DOWN, interface=other))


def recorder_cool_down(bench: Bench) -> None:
    options = {"recorder_memory": 4, "recorder_trigger_filter": "udp", "recorder_cool_down": 0.3}
    with bench.running(**options) as capture:
        bench.send(5)
        ignored = None
        while ignored is None:
            kind, message = capture.wait_for_event(timeout=PATIENCE_S)
            ignored = message if kind == capture.SP_TRIGGERS_IGNORED else None
        assert 1 <= ignored <= 5
        bench.send(1)
        while capture.wait_for_event(timeout=PATIENCE_S)[0] != capture.SP_TRIGGERED:
            pass


EFFECTS: dict[str, Callable[[Bench], None]] = {
    function.__name__: function
    for function in (
        interfaces,
        capture_filter,
        snaplen,
        promiscuous,
        direction,
        packet_flags,
        comments,
        compress_type,
        monitor_mode,
        kernel_buffer_size,
        link_layer_type,
        wifi_channel,
        max_packet_count,
        autostop_duration,
        autostop_filesize,
        autostop_files,
        savefile,
        in_memory,
        group_access,
        ringbuffer_duration,
        ringbuffer_filesize,
        ringbuffer_packets,
        ringbuffer_files,
        ringbuffer_time_first,
        ringbuffer_interval,
        ringbuffer_total_filesize,
        ringbuffer_age,
        ringbuffer_free_space,
        recorder_duration,
        recorder_memory,
        recorder_after,
        recorder_trigger_filter,
        recorder_trigger_rate,
        recorder_trigger_link_down,
        recorder_cool_down,
        use_pcapng,
        use_libpcap,
        max_buffered_packets,
        max_buffered_bytes,
        separate_threads,
        update_interval,
        wait_for_interfaces,
        pass_files,
        netns,
        name,
        detach,
    )
}


def test_no_argument_is_forgotten() -> None:
    assert set(EFFECTS) == set(CaptureArguments.__annotations__)
    documented = set(re.findall(r"(?m)^ {8}(\w+):", str(CaptureArguments.__doc__)))
    assert documented == set(EFFECTS)


@pytest.mark.parametrize("argument", CaptureArguments.__annotations__)
def test_an_argument_has_an_effect_or_is_refused(bench: Bench, argument: str) -> None:
    EFFECTS[argument](bench)


# What one interface has for itself ------------------------------------------------------------------------------


def test_options_of_an_interface_come_before_those_of_all(bench: Bench) -> None:
    common = {"snaplen": 80, "kernel_buffer_size": 1, "link_layer_type": "DOCSIS"}
    with other_veth() as other:
        own = CaptureInterface(
            name=other,
            capture_filter="greater 90",
            snaplen=60,
            promiscuous=False,
            kernel_buffer_size=2,
            link_layer_type="EN10MB",
        )
        with bench.running(interfaces=(bench.interface, own), **common) as capture:
            assert (promiscuity(bench.interface), promiscuity(other)) == (1, 0)
            (worker,) = bench.daemon.workers()
            assert {name: size for name, (size, _) in rings(worker).items()} == {bench.interface: MIB, other: 2 * MIB}
            bench.send(2)
            assert send("other0", build_frames((80, 100)), 6) == 6
            capture.stop()
            capture.wait(PATIENCE_S)
    contents = read_complete(bench.savefile)
    assert sorted(zip(contents.interface_ids, map(len, contents.packets), strict=True)) == [(0, 80)] * 2 + [(1, 60)] * 3
    assert set(contents.original_sizes_bytes) == {100}
    assert [each.snaplen_bytes for each in contents.interfaces] == [80, 60]
    assert [each.linktype for each in contents.interfaces] == [LINKTYPE_DOCSIS, LINKTYPE_ETHERNET]
    filters = [dict(each.options).get(pcapng.IF_FILTER) for each in contents.interfaces]
    assert filters == [None, b"\0greater 90"]


def test_options_of_an_interface_are_those_of_all() -> None:
    own = {field.name for field in fields(CaptureInterface)} - {"name", "label", "description"}
    assert own < set(CaptureArguments.__annotations__)


def test_files_call_an_interface_what_it_is_to_be_called(bench: Bench) -> None:
    own = CaptureInterface(name=bench.interface, label="uplink", description="to the north; für später")
    captured(bench, 2, interfaces=own)
    assert {each.interface for each in read(bench.savefile)} == {"uplink"}
    shown = subprocess.run(["capinfos", "-I", str(bench.savefile)], capture_output=True, text=True, check=True).stdout
    assert "Name = uplink" in shown
    assert "Description = to the north; für später" in shown
    for wrong in ("x" * 513, "a\0b", "\udc80"):
        refused("interfaces", "is not possible", interfaces=CaptureInterface(name="lo", label=wrong))
        refused("interfaces", "is not possible", interfaces=CaptureInterface(name="lo", description=wrong))


def test_an_empty_filter_of_an_interface_takes_everything(bench: Bench) -> None:
    own = CaptureInterface(name=bench.interface, capture_filter="")
    captured(bench, 2, interfaces=own, capture_filter="tcp")
    assert len(read_complete(bench.savefile).packets) == 2


def test_a_radio_option_of_an_interface_is_refused_too(bench: Bench) -> None:
    for own in ({"monitor_mode": True}, {"wifi_channel": "2412"}):
        with pytest.raises(UnsupportedError, match="is not a wireless interface"):
            bench.running(interfaces=CaptureInterface(name=bench.interface, **own))


# Refusals -------------------------------------------------------------------------------------------------------


def refused(argument: str, words: str, **arguments: Any) -> None:
    """See that an argument is refused by name, and no daemon asked."""
    everything = {"interfaces": "lo", "savefile": "a.pcapng", "socket_path": "/nowhere/capd.sock", **arguments}
    with pytest.raises(InvalidArgument, match=re.escape(words)) as raised:
        CaptureSession(**everything)
    assert raised.value.argument == argument


def test_none_is_the_default_of_each_argument(bench: Bench) -> None:
    needed = {"interfaces": bench.interface, "savefile": str(bench.savefile)}
    everything: Any = {**dict.fromkeys(CaptureArguments.__annotations__), **needed}
    least: Any = needed
    assert make_request(everything) == make_request(least)
    # And the defaults are the documented ones.
    ((interface,), request) = make_request(least)[0].interfaces, make_request(least)[0]
    assert (interface.capture_filter, interface.snaplen_bytes, interface.link_layer_type) == ("", 262_144, None)
    assert (interface.promiscuous, interface.monitor_mode, interface.wifi_channel) == (None, False, None)
    assert (request.file_format, request.ring, request.autostop) == ("pcapng", None, Conditions())
    assert (request.destination.group_access, request.update_interval_s) == (False, 0.1)


#: What no argument of a type takes.
WRONG_BY_TYPE: dict[ArgumentType, tuple[str, list[Any]]] = {
    ArgumentType.TEXT: ("a text", [b"udp", 5]),
    ArgumentType.WHOLE_NUMBER: ("a whole number", [1.5, "1.5", "-1", "", "1" * 30, True, b"1", math.inf, math.nan]),
    ArgumentType.SECONDS: ("a number of seconds", ["1 s", "", True, b"1"]),
    ArgumentType.YES_OR_NO: ("True or False", ["no", "", b"1"]),
    ArgumentType.PATH: ("a path", [7, b"a.pcapng"]),
    ArgumentType.NETNS: ("ip netns", [True, 1.5, b"blue", ["blue"]]),
    ArgumentType.TEXTS: ("a text, or several", [5, b"a", [5], [b"a"], {"a": 1}]),
    ArgumentType.NAMES: ("names", [5, [5], b"lo", [None], [CaptureInterface(name=5)], ""]),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("argument", CaptureArguments.__annotations__)
def test_a_value_of_the_wrong_kind_is_refused_by_name(argument: str) -> None:
    words, values = WRONG_BY_TYPE[BY_NAME[argument].type]
    for value in values:
        refused(argument, words, **{argument: value})
        refused(argument, argument, **{argument: value})


def request_of(**arguments: Any) -> StartCapture:
    return make_request({"interfaces": "lo", "savefile": "a", **arguments})[0]  # type: ignore[typeddict-item]


def test_values_may_be_given_as_wirepys_programs_do() -> None:
    assert request_of(snaplen="96") == request_of(snaplen=96.0) == request_of(snaplen=96)
    assert request_of(snaplen=0) == request_of(snaplen="0") == request_of()
    assert request_of(max_packet_count="10").autostop.packets == 10
    assert request_of(autostop_duration="1.5").autostop.duration_s == 1.5
    assert request_of(promiscuous=1) == request_of(promiscuous=True)
    assert request_of(promiscuous=0) == request_of(promiscuous=False)
    link_layer_type = LinkLayerType(1, "EN10MB", "Ethernet")
    assert request_of(link_layer_type=link_layer_type) == request_of(link_layer_type="EN10MB")
    own = CaptureInterface(name="lo", snaplen="60", promiscuous=0)  # type: ignore[arg-type]
    assert request_of(interfaces=own) == request_of(snaplen=60, promiscuous=False)
    assert request_of(interfaces=Interface("lo")) == request_of(interfaces=[Interface("lo")]) == request_of()


def test_without_interfaces_the_daemon_chooses() -> None:
    for nothing in (None, ()):
        (interface,) = request_of(interfaces=nothing, snaplen=60).interfaces
        assert (interface.name, interface.snaplen_bytes) == (DEFAULT, 60)


RING = {"ringbuffer_packets": 5}
OUT_OF_RANGE: list[tuple[str, str, list[Any], dict[str, Any]]] = [
    ("snaplen", "possible are 1 to 262144 bytes", [-1, 262_145, 10**400], {}),
    ("kernel_buffer_size", "possible are 1 to 1024 MiB", [0, 1025, 10**400], {}),
    ("max_packet_count", "possible are 1 to", [0, 2**63], {}),
    ("autostop_duration", "possible are 0.001 to", [0, -1, float("nan"), float("inf"), 10**400], {}),
    ("autostop_filesize", "possible are 1 to 2000000000 kB", [0, 2_000_000_001], {}),
    ("autostop_filesize", "autostop_files", [5], RING),
    ("autostop_files", "possible are 1 to", [0, 2**31], RING),
    ("ringbuffer_duration", "possible are 0.001 to", [0, float("nan")], RING),
    ("ringbuffer_filesize", "possible are 1 to 2000000000 kB", [0], RING),
    ("ringbuffer_packets", "possible are 1 to", [0], {}),
    ("ringbuffer_files", "possible are 1 to 100000 files", [0, 100_001], RING),
    ("ringbuffer_interval", "possible are 1 to", [0.5, float("nan")], RING),
    ("ringbuffer_total_filesize", "possible are 1 to", [0, 10**13], RING),
    ("ringbuffer_age", "possible are 0.001 to", [0], RING),
    ("ringbuffer_free_space", "possible are 1 to", [0, -1], RING),
    ("update_interval", "possible are 0.005 to 60 seconds", [0, 0.004, 61, float("nan")], {}),
    ("interfaces", "1 to 64", [iter(()), [f"if{n}" for n in range(MAX_INTERFACES + 1)]], {}),
    ("interfaces", "no interface name", ["a:b", "x" * 16, ".."], {}),
    ("interfaces", "it takes names", ["", [""], ["lo", ""], [5]], {}),
    ("interfaces", "named twice", [["lo", "lo"]], {}),
    ("savefile", "at most 255", ["x" * 256], {}),
    ("savefile", "at most 234", ["x" * 235], RING),
]


@pytest.mark.parametrize(("argument", "words", "values", "others"), OUT_OF_RANGE)
def test_a_value_out_of_range_is_refused_with_what_is_possible(
    argument: str, words: str, values: list[Any], others: dict[str, Any]
) -> None:
    for value in values:
        refused(argument, words, **others, **{argument: value})


def test_an_argument_that_does_not_exist_is_refused_by_name() -> None:
    refused("snap_len", "there is no argument snap_len", snap_len=100)


def test_all_that_is_wrong_is_told_at_once() -> None:
    with pytest.raises(InvalidArgument) as raised:
        CaptureSession(interfaces="lo", snaplen=-1, update_interval=0, max_packet_count=0)
    assert all(name in str(raised.value) for name in ("snaplen", "update_interval", "max_packet_count"))
