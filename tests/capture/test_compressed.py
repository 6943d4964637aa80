"""Files that are written compressed: what is announced can be read, by us and by others, whatever happens meanwhile."""

import os
import random
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from capd.worker.output.compression.compressed_file import CompressedFile
from capd.worker.output.compression.compressor import Compressor
from capd.worker.output.compression.waiting import PLACE_BYTES, WaitingRoom
from capd.worker.output.savefile import create_file
from capd_client import CaptureSession, files, read
from capd_client.editing.extraction import Extraction
from capd_client.errors import ChildError, DiskError
from capd_client.reading.files.incoming import Stored
from capd_client.ring.files import Span
from capd_protocol.formats.compression import Compression
from capd_protocol.formats.frame_index import Frame, read_index
from capd_protocol.messages import EndReason
from tests.capture.helpers import (
    END_TIMEOUT_S,
    all_events,
    capturing,
    end,
    local_frame,
    messages,
    until_packets,
    until_received,
)
from tests.capture.test_files import small_disk
from tests.support.daemon import Daemon
from tests.support.tools import capinfos, packets_of, packets_of_each, tshark_fields
from tests.support.traffic import send

KINDS: list[Compression] = ["gzip", "zstd"]
FRAMES = [local_frame(300 + number, number) for number in range(400)]
#: Which cannot be made smaller.
NOISE = [local_frame(60, number)[:14] + random.Random(number).randbytes(1400) for number in range(1000)]


def by_tool(kind: str, path: Path) -> bytes:
    """Return what the program of that name makes of a file, which is whole to it."""
    with path.open("rb") as file:
        return subprocess.run([kind, "-dc"], stdin=file, check=True, capture_output=True, timeout=30).stdout


def frames_of(path: Path, kind: str) -> list[Frame] | None:
    data = path.read_bytes()
    return read_index(kind, len(data), lambda at, size_bytes: data[at : at + size_bytes])


@pytest.mark.parametrize("file_format", ["pcapng", "pcap"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_announced_can_be_read_while_the_capture_runs(
    daemon: Daemon, veth: tuple[str, str], user_dir: Path, kind: str, file_format: str
) -> None:
    path = user_dir / "a"
    arguments: dict[str, Any] = {"compress_type": kind, "use_libpcap": file_format == "pcap"}
    with capturing(daemon, interfaces=veth[1], savefile=path, **arguments) as capture:
        for count in (1, 3, 396):
            before = capture.packetcount
            send(veth[0], FRAMES[before : before + count], count)
            until_packets(capture, count)
            assert [bytes(each.data) for each in read(path)] == FRAMES[: before + count]
            if kind == "zstd":  # of a gzip file that has not ended, capinfos says at its end that it was cut
                assert packets_of(path) == before + count
        end(capture)
        events, _ = all_events(capture)
    (closed,) = messages(events, capture.SP_FILE_CLOSED)
    assert (closed.packets, closed.size_bytes) == (len(FRAMES), path.stat().st_size)
    assert path.stat().st_size < sum(map(len, FRAMES)) // 4
    assert by_tool(kind, path)
    found = tshark_fields(path, "frame.len")
    assert [int(each) for (each,) in found] == [len(each) for each in FRAMES]
    (counters,) = capture.interface_counters
    assert counters.written_total == len(FRAMES)
    if file_format == "pcapng":
        assert "Capture oper-sys" not in capinfos(path, "-c")
        assert [each.statistics.received for each in read_whole(path) if each.statistics is not None] == [len(FRAMES)]


def read_whole(path: Path) -> list[Any]:
    with read(path) as reader:
        for _ in reader:
            pass
        assert reader.rest_bytes == 0
        return list(reader.interfaces)


@pytest.mark.parametrize("kind", KINDS)
def test_a_ring_switches_by_what_is_captured_and_keeps_to_what_is_on_the_disk(
    daemon: Daemon, veth: tuple[str, str], user_dir: Path, kind: str
) -> None:
    arguments: dict[str, Any] = {"ringbuffer_filesize": 100, "ringbuffer_total_filesize": 150, "compress_type": kind}
    with capturing(daemon, interfaces=veth[1], savefile=user_dir / "a.pcapng.z", name="packed", **arguments) as capture:
        for _ in range(20):
            send(veth[0], FRAMES, len(FRAMES))
        until_packets(capture, 20 * len(FRAMES))
        end(capture)
    found = files(user_dir / "a.pcapng.z")
    assert sum(each.size_bytes for each in found) <= 150_000
    assert 5 < len(found) < 30
    # Each of them is small, but has packets of 100 kB.
    for each in found[:-1]:
        assert each.size_bytes < 25_000
        assert 99_000 <= sum(len(packet.data) + 32 for packet in read(each.path)) <= 105_000
    assert packets_of_each([Path(each.path) for each in found]) == [each.packets for each in found]


@pytest.mark.parametrize("kind", KINDS)
def test_a_span_is_taken_out_of_the_middle_without_what_is_before(
    daemon: Daemon, veth: tuple[str, str], user_dir: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = user_dir / "a.pcapng"
    with capturing(daemon, interfaces=veth[1], savefile=path, compress_type=kind, kernel_buffer_size=64) as capture:
        for _ in range(20):
            send(veth[0], NOISE, len(NOISE))
        until_packets(capture, 20_000)
        end(capture)
    frames = frames_of(path, kind)
    assert frames is not None
    assert len(frames) >= 4
    assert sum(each.size_bytes for each in frames) > 20_000 * 1414
    assert packets_of(path) == 20_000
    packets = list(read(path))
    assert [each.latest_ns >= each.earliest_ns for each in frames[:-1]] == [True] * (len(frames) - 1)
    read_bytes: list[int] = []
    receive = Stored.receive

    def counting(self: Stored, room: Any) -> int:
        read_bytes.append(receive(self, room))
        return read_bytes[-1]

    monkeypatch.setattr(Stored, "receive", counting)
    # In the last frame but one; all of them; across two; none.
    middle = frames[-2]
    for first_ns, end_ns, most_frames in (
        (middle.latest_ns - 1000, middle.latest_ns + 1, 2),
        (None, None, len(frames)),
        (frames[1].latest_ns, frames[2].earliest_ns + 1, 3),
        (packets[0].timestamp_ns - 10, packets[0].timestamp_ns, 1),
    ):
        read_bytes.clear()
        expected = [
            each.timestamp_ns
            for each in packets
            if (first_ns is None or each.timestamp_ns >= first_ns) and (end_ns is None or each.timestamp_ns < end_ns)
        ]
        span = Span(first_ns, end_ns)
        assert [each.timestamp_ns for each in Extraction(files(path), span)] == expected
        assert sum(read_bytes) <= most_frames * max(each.stored_bytes for each in frames) or most_frames == len(frames)


@pytest.mark.parametrize("kind", KINDS)
def test_a_killed_writer_leaves_what_it_has_announced_and_the_ring_goes_on(
    daemon: Daemon, veth: tuple[str, str], user_dir: Path, kind: str
) -> None:
    arguments: dict[str, Any] = {
        "interfaces": veth[1],
        "savefile": user_dir / "a.pcapng",
        "ringbuffer_filesize": 10_000,
        "compress_type": kind,
        "name": "killed",
    }
    with capturing(daemon, **arguments) as capture:
        send(veth[0], FRAMES, len(FRAMES))
        until_packets(capture, len(FRAMES))
        (worker,) = (each for each in daemon.workers() if Path(f"/proc/{each}/comm").read_text() == "capd-worker\n")
        os.kill(worker, signal.SIGKILL)
        capture.wait(END_TIMEOUT_S)
        assert isinstance(all_events(capture)[1], ChildError)
    with capturing(daemon, **arguments) as capture:
        send(veth[0], FRAMES, 7)
        until_packets(capture, 7)
        end(capture)
    found = files(user_dir / "a.pcapng")
    assert [each.packets for each in found] == [len(FRAMES), 7]
    assert [len(list(read(each.path))) for each in found] == [len(FRAMES), 7]
    if kind == "zstd":  # of a member that has no end, capinfos says that it was cut
        assert packets_of_each([Path(each.path) for each in found]) == [len(FRAMES), 7]


@pytest.mark.parametrize("kind", KINDS)
def test_on_a_full_disk_all_that_counts_as_written_can_be_read(
    daemon: Daemon, veth: tuple[str, str], user_dir: Path, kind: str
) -> None:
    with small_disk(user_dir, 512) as disk:
        path = disk / "full.pcapng"
        with capturing(daemon, interfaces=veth[1], savefile=path, compress_type=kind) as capture:
            send(veth[0], NOISE, len(NOISE))
            capture.wait(END_TIMEOUT_S)
            events, error = all_events(capture)
        assert isinstance(error, DiskError)
        assert capture.end_reason == EndReason.FAILED
        (counters,) = capture.interface_counters
        assert counters.received_total == counters.written_total + counters.drops_total
        assert counters.writer_drops_total > 0
        assert sum(messages(events, capture.SP_PACKET_COUNT)) == counters.written_total
        (closed,) = messages(events, capture.SP_FILE_CLOSED)
        assert (closed.packets, closed.size_bytes) == (counters.written_total, path.stat().st_size)
        assert [bytes(each.data) for each in read(path)] == NOISE[: counters.written_total]


def test_a_disk_without_room_for_the_header_is_no_destination(
    daemon: Daemon, veth: tuple[str, str], user_dir: Path
) -> None:
    with small_disk(user_dir, 64) as disk:
        (disk / "filler").write_bytes(bytes(64 * 1024))
        session = CaptureSession(
            interfaces=veth[1], savefile=disk / "a.zst", compress_type="zstd", socket_path=daemon.socket_path
        )
        with pytest.raises(Exception, match="No space left"), session:
            pass
        assert [each.name for each in disk.iterdir()] == ["filler"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_header_longer_than_what_is_compressed_at_once_is_whole(tmp_path: Path, kind: Compression) -> None:
    told_fd = os.eventfd(0, os.EFD_NONBLOCK)
    compressor = Compressor(WaitingRoom(), told_fd, kind)
    compressor.begin(lambda: None)
    directory_fd = os.open(tmp_path, os.O_RDONLY)
    parts = [b"short", random.Random(1).randbytes(3 * PLACE_BYTES + 17), b"", b"x" * PLACE_BYTES, b"last"]
    for _ in range(2):
        plain = create_file(directory_fd, "a", group_access=False, exclusive=False)
        file = CompressedFile(plain, compressor)
        for each in parts:
            file.write(each)
            file.settle()
            assert file.saved_bytes == file.size_bytes
        file.close()
        assert file.size_bytes == (tmp_path / "a").stat().st_size
        assert by_tool(kind, tmp_path / "a") == b"".join(parts)
    os.close(directory_fd)
    os.close(told_fd)


def test_limits_end_it_exactly(daemon: Daemon, veth: tuple[str, str], user_dir: Path) -> None:
    path = user_dir / "a.zst"
    with capturing(daemon, interfaces=veth[1], savefile=path, max_packet_count=123) as capture:
        send(veth[0], FRAMES, len(FRAMES))
        capture.wait(END_TIMEOUT_S)
        assert capture.end_reason == EndReason.PACKETS
    assert packets_of(path) == 123 == len(list(read(path)))


def test_a_pipe_may_bring_what_is_compressed(daemon: Daemon, veth: tuple[str, str], user_dir: Path) -> None:
    path = user_dir / "a.zst"
    with capturing(daemon, interfaces=veth[1], savefile=path) as capture:
        send(veth[0], FRAMES, len(FRAMES))
        until_received(capture, len(FRAMES))
        end(capture)
    with subprocess.Popen(["cat", path], stdout=subprocess.PIPE) as cat:
        assert cat.stdout is not None
        assert [bytes(each.data) for each in read(cat.stdout)] == FRAMES


def test_a_flush_is_done_when_all_can_be_read(daemon: Daemon, veth: tuple[str, str], user_dir: Path) -> None:
    path = user_dir / "a.zst"
    with capturing(daemon, interfaces=veth[1], savefile=path, update_interval=60.0) as capture:
        send(veth[0], FRAMES, 50)
        capture.flush()
        assert len(list(read(path))) == 50
