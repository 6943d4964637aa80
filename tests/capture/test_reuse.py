"""A ring's new file is written over its oldest one, and nobody who has a file, or opens one, is worse off for it."""

import contextlib
import fcntl
import itertools
import mmap
import os
import shutil
import signal
import threading
from pathlib import Path

import numpy as np
import pytest

from capd.worker.output import recycling as reuse_module
from capd.worker.output.recycling import reuse
from capd.worker.output.savefile import KeptFile, SaveFile
from capd_client import CaptureSession
from capd_client.request.options import CaptureArguments
from capd_protocol.formats import pcapng
from tests.capture.helpers import capturing, end, local_frame, read_file, readable_packets, until, until_packets
from tests.support.daemon import Daemon
from tests.support.tools import capinfos, packets_of_each
from tests.support.traffic import send

SECTION = pcapng.section_header(hardware="h", operating_system="o", application="a")
DESCRIPTION = pcapng.interface_description(linktype=1, snaplen_bytes=65535, name="i")
HEADER = SECTION + DESCRIPTION


# The file itself ------------------------------------------------------------------------------------------------


def record(size_bytes: int, number: int) -> bytes:
    return pcapng.enhanced_packet(0, 1_700_000_000_000_000_000 + number, bytes([number % 251]) * size_bytes, size_bytes)


def complete(directory: Path, name: str, records: int, size_bytes: int) -> KeptFile:
    """Leave a file of one size of packets."""
    data = HEADER + b"".join(record(size_bytes, number) for number in range(records))
    (directory / name).write_bytes(data)
    (directory / name).chmod(0o600)
    status = (directory / name).stat()
    return KeptFile(os.open(directory, os.O_PATH), name, len(data), status)


def vectors_of(records: list[bytes]) -> tuple[np.ndarray, list[np.ndarray]]:
    arrays = [np.frombuffer(each, np.uint8) for each in records]
    return np.array([(array.ctypes.data, len(array)) for array in arrays], np.uint64), arrays


def reused(old: KeptFile, name: str = "new") -> SaveFile | None:
    return reuse(old, name, header=HEADER, group_access=False)


@pytest.mark.parametrize("sizes", [[60], [60, 61, 62, 63, 1500], [16]])
@pytest.mark.parametrize("records", [0, 1, 40])
def test_after_each_write_the_file_is_whole_to_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sizes: list[int], records: int
) -> None:
    # So that what is left is divided also where it is not long.
    monkeypatch.setattr(reuse_module, "_DIVISION_BYTES", 1024)
    old = complete(tmp_path, "old", records, 100)
    inode = (tmp_path / "old").stat().st_ino
    file = reused(old)
    assert file is not None
    path = tmp_path / "new"
    assert path.stat().st_ino == inode
    assert not (tmp_path / "old").exists()
    file.write(DESCRIPTION)
    written = 0
    copies: dict[Path, int] = {}
    for number in range(60):
        count = 1 + number % 3
        vectors, _alive = vectors_of([record(sizes[(number + i) % len(sizes)], number) for i in range(count)])
        file.write_records(vectors)
        written += count
        take_lease_away(path)
        assert readable_packets(path) == written
        copy = tmp_path / f"copy {number}"
        shutil.copy(path, copy)
        copies[copy] = written
    file.close()
    assert packets_of_each(list(copies)) == list(copies.values())
    assert path.stat().st_size == file.size_bytes
    assert capinfos(path)["Number of packets"] == str(written)


def take_lease_away(path: Path) -> None:
    """Let others open a file whose owner would give way to them, and does not come to it."""
    for link in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError, BlockingIOError):  # closed; nothing of the old file is left
            if link.readlink() == path:
                fcntl.fcntl(int(link.name), fcntl.F_SETLEASE, fcntl.F_UNLCK)


def test_what_is_long_is_left_as_several_blocks(tmp_path: Path) -> None:
    old = complete(tmp_path, "old", 14_000, 1500)  # 21 MB
    file = reused(old)
    assert file is not None
    file.write(DESCRIPTION + record(60, 0))
    take_lease_away(tmp_path / "new")
    blocks = dict(pcapng_blocks(tmp_path / "new"))
    left = [size for kind, size in pcapng_blocks(tmp_path / "new") if kind == 0x80000001]
    assert len(left) == 3
    assert max(left) <= 8 << 20
    assert 6 in blocks
    assert readable_packets(tmp_path / "new") == 1
    file.close()
    assert (tmp_path / "new").stat().st_size == len(HEADER) + len(record(60, 0))


def pcapng_blocks(path: Path) -> list[tuple[int, int]]:
    data, at = path.read_bytes(), 0
    found: list[tuple[int, int]] = []
    while at < len(data):
        kind, size = np.frombuffer(data, np.uint32, 2, at).tolist()
        assert np.frombuffer(data, np.uint32, 1, at + size - 4)[0] == size
        found.append((kind, size))
        at += size
    return found


def test_what_somebody_has_is_left_alone(tmp_path: Path) -> None:
    def check(why: str) -> None:
        before = (tmp_path / "old").read_bytes()
        assert reused(old) is None, why
        assert (tmp_path / "old").read_bytes() == before
        assert not (tmp_path / "new").exists()

    old = complete(tmp_path, "old", 3, 100)
    with (tmp_path / "old").open("rb") as reader:
        check("open")
        mapped = mmap.mmap(reader.fileno(), 0, prot=mmap.PROT_READ)
    check("mapped")
    mapped.close()
    (tmp_path / "linked").hardlink_to(tmp_path / "old")
    check("linked")
    (tmp_path / "linked").unlink()
    (tmp_path / "old").chmod(0o644)
    check("for others to read")
    (tmp_path / "old").chmod(0o600)
    os.chown(tmp_path / "old", 23456, -1)
    check("another user's")
    os.chown(tmp_path / "old", 0, -1)
    (tmp_path / "new").write_text("foreign")
    assert reused(old) is None
    assert (tmp_path / "new").read_text() == "foreign"
    (tmp_path / "new").unlink()
    (tmp_path / "old").rename(tmp_path / "away")
    (tmp_path / "old").write_text("not the file that was meant")
    check("another file")
    (tmp_path / "old").unlink()
    assert reused(old) is None, "gone"


# In a capture ---------------------------------------------------------------------------------------------------


def ring_of(interface: str, directory: Path) -> CaptureArguments:
    return {
        "interfaces": interface,
        "savefile": directory / "ring.pcapng",
        "ringbuffer_packets": 10,
        "ringbuffer_files": 3,
        "update_interval": 0.02,
    }


def frames_of(path: Path) -> list[bytes]:
    """Return the packets of a file that is not complete yet."""
    blocks = pcapng.read_blocks(path.read_bytes())
    return [bytes(block.data) for block in blocks if isinstance(block, pcapng.EnhancedPacket)]


def fill(capture: CaptureSession, interface: str, first: int, files: int) -> list[bytes]:
    """Send what fills so many files, and wait until it is in them."""
    frames = [local_frame(64 + number % 400, number) for number in range(first, first + 10 * files)]
    send(interface, frames, len(frames))
    until_packets(capture, len(frames))
    return frames


def newest(directory: Path) -> Path:
    return max(directory.glob("ring_*"), key=lambda path: path.name)


def test_a_ring_goes_round_in_the_same_files(daemon: Daemon, veth: tuple[str, str], user_dir: Path) -> None:
    inodes: set[int] = set()
    sent: list[bytes] = []
    with capturing(daemon, **ring_of(veth[1], user_dir)) as capture:
        for round_ in range(8):
            sent += fill(capture, veth[0], 10 * round_, 1)
            inodes |= {path.stat().st_ino for path in user_dir.glob("ring_*")}
        end(capture)
    assert len(inodes) == 3
    files = sorted(user_dir.glob("ring_*"), key=lambda path: path.name)
    assert len(files) == 3
    assert [frame for path in files for frame in read_file(path).frames] == sent[-20:]
    for path in files:
        assert capinfos(path)["File size"] == f"{path.stat().st_size} bytes"
    assert [readable_packets(path) for path in files] == [10, 10, 0]


def test_who_has_a_file_open_never_sees_it_change(daemon: Daemon, veth: tuple[str, str], user_dir: Path) -> None:
    with capturing(daemon, **ring_of(veth[1], user_dir)) as capture:
        fill(capture, veth[0], 0, 3)
        oldest = min(user_dir.glob("ring_*"), key=lambda path: path.name)
        with oldest.open("rb") as reader:
            before = reader.read()
            fill(capture, veth[0], 30, 6)
            assert not oldest.exists()
            reader.seek(0)
            assert reader.read() == before
            inode = os.fstat(reader.fileno()).st_ino
            assert inode not in {path.stat().st_ino for path in user_dir.glob("ring_*")}


def test_who_opens_a_file_that_is_written_over_gets_it_soon_and_without_leftovers(
    daemon: Daemon, veth: tuple[str, str], user_dir: Path
) -> None:
    with capturing(daemon, **ring_of(veth[1], user_dir)) as capture:
        fill(capture, veth[0], 0, 5)
        frames = [local_frame(100, number) for number in range(3)]
        send(veth[0], frames, 3)
        until_packets(capture, 3)
        path = newest(user_dir)
        assert path.stat().st_size > 10 * 64, "nothing of the old file is left: this shows nothing"
        opened = threading.Event()
        contents: list[bytes] = []

        def look() -> None:
            contents.append(path.read_bytes())
            opened.set()

        thread = threading.Thread(target=look, daemon=True)
        thread.start()
        assert opened.wait(5), "who opens it waits for ever"
        assert path.stat().st_size == len(contents[0])
        assert frames_of(path) == frames
        # It goes on growing, and ends as any other.
        more = [local_frame(200, number) for number in range(7)]
        send(veth[0], more, 7)
        until(capture, capture.SP_FILE_CLOSED)
        assert read_file(path).frames == frames + more


def test_a_worker_that_is_killed_leaves_files_that_others_read(
    daemon: Daemon, veth: tuple[str, str], user_dir: Path
) -> None:
    for packets in (1, 4, 9):
        directory = user_dir / str(packets)
        directory.mkdir()
        with capturing(daemon, **ring_of(veth[1], directory)) as capture:
            fill(capture, veth[0], 0, 6)
            send(veth[0], [local_frame(60 + packets, 0)], packets)
            until_packets(capture, packets)
            path = newest(directory)
            (worker,) = daemon.workers()
            os.kill(worker, signal.SIGKILL)
            until(capture, capture.SP_ENDED)
        assert readable_packets(path) == packets
        for each in directory.glob("ring_*"):
            capinfos(each)


def test_files_that_are_passed_are_not_written_over(daemon: Daemon, veth: tuple[str, str], user_dir: Path) -> None:
    arguments = ring_of(veth[1], user_dir)
    arguments["pass_files"] = True
    with capturing(daemon, **arguments) as capture:
        paths = [until(capture, capture.SP_FILE)]
        send(veth[0], [local_frame(100, number) for number in range(60)], 60)
        paths += [until(capture, capture.SP_FILE) for _ in range(6)]
        for number, path in itertools.islice(enumerate(paths), 4, 6):
            with capture.open_file(path) as file:
                copy = user_dir / "copy"
                with copy.open("wb") as target:
                    shutil.copyfileobj(file, target)
            assert read_file(copy).frames == [local_frame(100, i) for i in range(10 * number, 10 * number + 10)]
