"""A writer that is killed while it writes over an old file leaves nothing of the old one behind the new packets."""

import contextlib
import ctypes
import errno
import itertools
import os
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from capd.linux import libc
from capd.worker.output import recycling, savefile
from capd.worker.output.recycling import reuse
from capd.worker.output.savefile import KeptFile, SaveFile, WriteError
from capd_client import ReadError, read
from capd_protocol.formats import pcapng

SECTION = pcapng.section_header(hardware="h", operating_system="o", application="a")
DESCRIPTION = pcapng.interface_description(linktype=1, snaplen_bytes=65535, name="i")
HEADER = SECTION + DESCRIPTION
STATISTICS = pcapng.interface_statistics(0, timestamp_ns=9, start_ns=1, end_ns=9, received=1, dropped=0, delivered=1)
#: The kernel looks for a deadly signal between two pages (mm/filemap.c, generic_perform_write).
PAGE = 4096
OLD, NEW = 1_600_000_000_000_000_000, 1_700_000_000_000_000_000


def packets(start_ns: int, sizes: Sequence[int]) -> list[bytes]:
    """Return records that each have another time and content."""
    return [
        pcapng.enhanced_packet(0, start_ns + number, bytes([number % 251]) * size, size)
        for number, size in enumerate(sizes)
    ]


def vectors_of(records: Sequence[bytes], *, side_by_side: bool) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return where records lie in memory, and what keeps them there."""
    if side_by_side:
        whole = np.frombuffer(b"".join(records), np.uint8)
        begins = itertools.accumulate((len(each) for each in records[:-1]), initial=whole.ctypes.data)
        rows = zip(begins, map(len, records), strict=True)
        return np.array(list(rows), np.uint64), [whole]
    arrays = [np.frombuffer(each, np.uint8) for each in records]
    return np.array([(each.ctypes.data, len(each)) for each in arrays], np.uint64), arrays


@dataclass
class Written:
    """What was asked of the system, in order."""

    #: (position, bytes), or (new size, None).
    calls: list[tuple[int, bytes | None]] = field(default_factory=list)
    #: How many calls there were when it got its new name.
    renamed: int = 0
    #: How many calls there were when so many packets were written, and might be announced.
    announced: list[tuple[int, int]] = field(default_factory=list)

    def ends_before(self, number: int, end: int) -> bool:
        """Whether a call has written nothing beyond a position."""
        at, data = self.calls[number]
        return at + len(data or b"") <= end

    def after_each_page(self, before: bytes) -> Iterator[tuple[int, bool, bytes]]:
        """Give what is in the file whenever its writer may be killed: the number of the call, whether it is over."""
        image = bytearray(before)
        for number, (at, data) in enumerate(self.calls):
            if data is None:
                image[at:] = bytes(max(at - len(image), 0))
            else:
                for stop in range(at - at % PAGE + PAGE, at + len(data), PAGE):
                    image[at:stop] = data[: stop - at]
                    yield number, False, bytes(image)
                image[at : at + len(data)] = data
            yield number, True, bytes(image)


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> Written:
    """Note what the writer asks of the system, beside doing it."""
    calls = Written()
    pwrite, truncate, call = os.pwrite, os.ftruncate, libc.call

    def noting_pwrite(descriptor: int, data: bytes, at: int) -> int:
        calls.calls.append((at, bytes(data)))
        return pwrite(descriptor, data, at)

    def noting_truncate(descriptor: int, size_bytes: int) -> None:
        calls.calls.append((size_bytes, None))
        truncate(descriptor, size_bytes)

    def noting_call(name: str, *arguments: Any, **how: Any) -> int:
        if name == "renameat2":
            calls.renamed = len(calls.calls)
        return call(name, *arguments, **how)

    monkeypatch.setattr(os, "pwrite", noting_pwrite)
    monkeypatch.setattr(os, "ftruncate", noting_truncate)
    monkeypatch.setattr(libc, "call", noting_call)
    writing(monkeypatch, noting_pwrite)
    return calls


def writing(monkeypatch: pytest.MonkeyPatch, write: Callable[[int, bytes, int], int]) -> None:
    """Have what is gathered from memory written by something else: it has descriptor, bytes and position."""

    def one(descriptor: int, address: int, size_bytes: int, at: int) -> int:
        return write(descriptor, ctypes.string_at(address, size_bytes), at)

    def several(descriptor: int, address: int, count: int, at: int) -> int:
        rows = np.frombuffer(ctypes.string_at(address, count * 16), np.uint64).reshape(-1, 2).tolist()
        return write(descriptor, b"".join(itertools.starmap(ctypes.string_at, rows)), at)

    monkeypatch.setattr(savefile, "_pwrite", one)
    monkeypatch.setattr(savefile, "_pwritev", several)


@pytest.fixture
def divided(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have what is left divided also where it is not long."""
    division_bytes = {"by 8 MiB": 8 << 20, "by 4096 B": 4096, "by 2052 B": 2052}[request.param]
    monkeypatch.setattr(recycling, "_DIVISION_BYTES", division_bytes)


def kept(directory: Path, data: bytes) -> KeptFile:
    path = directory / "old"
    path.write_bytes(data)
    path.chmod(0o600)
    return KeptFile(os.open(directory, os.O_PATH), "old", len(data), path.stat())


def write_over(
    directory: Path, written: Written, old: bytes, batches: Sequence[Sequence[bytes]], *, side_by_side: bool
) -> None:
    """Write a file over an old one, and close it."""
    file = reuse(kept(directory, old), "new", header=HEADER, group_access=False)
    assert file is not None
    file.write(HEADER[file.size_bytes :])
    total = 0
    for batch in batches:
        vectors, alive = vectors_of(batch, side_by_side=side_by_side)
        before = vectors.copy()
        file.write_records(vectors)
        assert (vectors == before).all()
        del alive
        total += len(batch)
        written.announced.append((len(written.calls), total))
    file.write(STATISTICS)
    file.close()


def read_by_hand(data: bytes) -> tuple[list[bytes], bool]:
    """Return the packets before the first thing that is damaged, and whether there is none."""
    found: list[bytes] = []
    try:
        for block in pcapng.read_blocks(data):
            if isinstance(block, pcapng.EnhancedPacket):
                assert block.options == ()
                record = pcapng.enhanced_packet(0, block.timestamp, bytes(block.data), block.original_size_bytes)
                found.append(record)
    except pcapng.MalformedFileError:
        return found, False
    return found, True


def read_by_client(path: Path) -> list[int]:
    times: list[int] = []
    with contextlib.suppress(ReadError), read(path) as reader:
        for packet in reader:
            times.append(packet.timestamp_ns)  # noqa: PERF401  # those before the damage, too
    return times


def counted_by_capinfos(paths: Sequence[Path]) -> dict[str, int]:
    """Return how many packets capinfos finds; of a file in which it finds damage, how many before that."""
    done = subprocess.run(["capinfos", "-M", "-T", "-r", "-c", *paths], capture_output=True, text=True, check=False)
    rows = (line.rsplit("\t", 1) for line in done.stdout.splitlines())
    found = {Path(name).name: int(count) for name, count in rows}
    for line in done.stderr.splitlines():
        if line.startswith("capinfos: An error occurred after reading "):
            count, _, name = line.removeprefix("capinfos: An error occurred after reading ").partition(" packets from ")
            found[Path(name.strip('".')).name] = int(count)
    return found


SIZES = [60, 61, 62, 63, 1500, 9000, 0, 333]
CASES = {
    # Old and new ones begin at the same places.
    "one size": ([60] * 400, [[60] * 90] * 5),
    "one size, longer": ([60] * 300, [[60] * 90] * 5),
    "one by one": ([60] * 200, [[60]] * 150),
    "many sizes": (SIZES * 6, [SIZES, SIZES[3:], SIZES[5:] + SIZES, SIZES[:3]]),
    "nothing in it": ([], [[60] * 20]),
    # The header of the second batch would be on two pages.
    "from page to page": ([60] * 200, [[PAGE - 4 - len(HEADER) - 32], [60] * 60, [60] * 9]),
    # The last ones end so many bytes before the end of the old one.
    **{
        f"{left} bytes left": ([100] * 100, [[100] * 40, [100] * 58, [264 + len(STATISTICS) - 32 - left]])
        for left in (-4, 0, 4, 8, 12, 16)
    },
}


@pytest.mark.parametrize("side_by_side", [True, False])
@pytest.mark.parametrize("divided", ["by 8 MiB", "by 4096 B", "by 2052 B"], indirect=True)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.usefixtures("divided")
def test_whenever_it_is_killed_its_packets_are_read_in_order_and_no_old_ones(
    tmp_path: Path,
    written: Written,
    case: str,
    side_by_side: bool,
) -> None:
    old_sizes, new_sizes = CASES[case]
    old = HEADER + b"".join(packets(OLD, old_sizes)) + STATISTICS
    records = packets(NEW, list(itertools.chain(*new_sizes)))
    take = iter(records)
    batches = [list(itertools.islice(take, len(sizes))) for sizes in new_sizes]
    write_over(tmp_path, written, old, batches, side_by_side=side_by_side)
    assert (tmp_path / "new").read_bytes() == HEADER + b"".join(records) + STATISTICS
    calls_announced = {calls for calls, _ in written.announced}
    states: dict[bytes, int] = {}
    for number, is_over, image in written.after_each_page(old):
        if number + is_over < written.renamed:
            continue
        found, is_whole = read_by_hand(image)
        assert found == records[: len(found)], f"call {number}"
        announced = max((count for calls, count in written.announced if calls <= number + is_over), default=0)
        assert len(found) >= announced, f"call {number}"
        if (is_over and number + 1 in calls_announced) or (
            not is_over and written.ends_before(number, len(image) - 12)
        ):
            assert is_whole, f"call {number}"
        states[image] = len(found)
    # Other readers agree, those that a person would take.
    paths = [tmp_path / f"{number}.pcapng" for number in range(0, len(states), 1 + len(states) // 60)]
    images = list(states)
    for path in paths:
        path.write_bytes(images[int(path.stem)])
        assert read_by_client(path) == [NEW + number for number in range(states[images[int(path.stem)]])]
    assert counted_by_capinfos(paths) == {path.name: states[images[int(path.stem)]] for path in paths}


def begun_over_an_old_one(directory: Path, records: list[bytes]) -> SaveFile:
    """Return a file with these records, behind which a longer one is left."""
    file = reuse(kept(directory, HEADER + b"".join(packets(OLD, [60] * 100))), "new", header=HEADER, group_access=False)
    assert file is not None
    file.write(DESCRIPTION)
    vectors, _alive = vectors_of(records, side_by_side=True)
    file.write_records(vectors)
    return file


@pytest.mark.parametrize("side_by_side", [True, False])
@pytest.mark.parametrize("taken_bytes", [0, 4, 83, 84, 85, 84 + 5 * 92, 84 + 5 * 92 + 91])
def test_on_a_full_disk_it_ends_after_the_last_whole_packet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, taken_bytes: int, side_by_side: bool
) -> None:
    records = packets(NEW, [60] * 20)
    file = begun_over_an_old_one(tmp_path, records[:10])
    left_bytes = taken_bytes

    def take(descriptor: int, data: bytes, at: int) -> int:
        nonlocal left_bytes
        if not left_bytes:
            ctypes.set_errno(errno.ENOSPC)
            return -1
        taken = os.pwrite(descriptor, data[:left_bytes], at)
        left_bytes -= taken
        return taken

    writing(monkeypatch, take)
    vectors, _alive = vectors_of(records[10:], side_by_side=side_by_side)
    with pytest.raises(WriteError) as raised:
        file.write_records(vectors)
    # The first one's header, 8 bytes, is written when all else is there.
    whole = (taken_bytes + 8) // 92
    assert raised.value.records_written == whole
    assert (tmp_path / "new").read_bytes() == HEADER + b"".join(records[: 10 + whole])
    file.close()
    assert (tmp_path / "new").stat().st_size == file.size_bytes


def test_a_file_with_another_section_header_is_not_written_over(tmp_path: Path) -> None:
    data = HEADER + b"".join(packets(OLD, [60] * 3))
    other = pcapng.section_header(hardware="another", operating_system="o", application="a") + DESCRIPTION
    assert reuse(kept(tmp_path, data), "new", header=other, group_access=False) is None
    assert (tmp_path / "old").read_bytes() == data
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("left_bytes", [0, 4, 8])
def test_a_file_without_room_for_a_block_is_not_written_over(tmp_path: Path, left_bytes: int) -> None:
    data = HEADER[: len(SECTION) + left_bytes]
    assert reuse(kept(tmp_path, data), "new", header=HEADER, group_access=False) is None
    assert (tmp_path / "old").read_bytes() == data


@pytest.mark.parametrize(
    ("failing", "cut_fails", "written_packets"),
    [
        ("what is left begins", False, 20),
        ("a header", False, None),
        ("what is left ends", False, 20),
        ("what is left ends", True, 20),
    ],
)
def test_on_a_broken_disk_it_is_whole_and_says_what_is_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str, cut_fails: bool, written_packets: int | None
) -> None:
    records = packets(NEW, [60] * 20)
    file = begun_over_an_old_one(tmp_path, records[:10])
    calls = iter(["what is left begins", "a header", "what is left ends"])
    pwrite = os.pwrite

    def broken(descriptor: int, data: bytes, at: int) -> int:
        if next(calls) == failing:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return pwrite(descriptor, data, at)

    def no_cut(descriptor: int, size_bytes: int) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    vectors, _alive = vectors_of(records[10:], side_by_side=True)
    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", broken)
        if cut_fails:
            patched.setattr(os, "ftruncate", no_cut)
        failed = None
        try:
            file.write_records(vectors)
        except WriteError as error:
            failed = error.records_written
    assert failed == (0 if written_packets is None else 10 if cut_fails else None)
    found, is_whole = read_by_hand((tmp_path / "new").read_bytes())
    assert found == records[: written_packets or 10]
    assert is_whole is not cut_fails
    assert file.size_bytes == len(HEADER) + sum(map(len, found))
