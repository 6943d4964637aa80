"""Which files a ring has, as its index or a session's events tell, and which of them a span concerns."""

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from capd_client import InvalidArgument, ReadError, RingFile, files
from capd_client.ring.files import Span, span_of
from capd_protocol.formats.ring_index import FileWasDeleted, FileWasOpened
from capd_protocol.messages import DeletionReason
from tests.client.conftest import Bench
from tests.client.helpers import PATIENCE_S, wait_for_packets
from tests.support.rings import Frame, append_to_index, write_ring

T = 1_769_857_200 * 10**9
SECOND_NS = 10**9


def frames(*seconds: float) -> list[Frame]:
    return [Frame(T + round(each * SECOND_NS), "eth0", b"\x02" * 60) for each in seconds]


def numbers(found: tuple[RingFile, ...]) -> list[int]:
    """Return the numbers in the names of files."""
    return [int(Path(each.path).name.split("_")[1]) for each in found]


def at(second: float) -> float:
    return T / SECOND_NS + second


@pytest.fixture
def ring(tmp_path: Path) -> Path:
    path = tmp_path / "a.pcapng"
    write_ring(path, [frames(0, 9), frames(10, 19), [], frames(20, 29), frames(30)], ["eth0"], last_is_open=True)
    return path


def test_everything_that_the_index_knows_is_told(ring: Path) -> None:
    found = files(ring)
    assert numbers(found) == [1, 2, 3, 4, 5]
    first, *_, last = found
    assert first == RingFile(
        str(ring.with_name("a_00001_20260131000000.pcapng")),
        Path(first.path).stat().st_size,
        is_complete=True,
        packets=2,
        first_timestamp_ns=T,
        last_timestamp_ns=T + 9 * SECOND_NS,
        drops={"eth0": 0},
        opened_ns=T,
        closed_ns=T + 9 * SECOND_NS,
    )
    assert (last.is_complete, last.packets, last.first_timestamp_ns, last.closed_ns) == (False, None, None, None)
    with first.open() as file:
        assert len(file.read()) == first.size_bytes


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        (None, None, [1, 2, 3, 4, 5]),  # the third has no packets
        (at(9), None, [1, 2, 4, 5]),
        (at(9.5), None, [2, 4, 5]),
        (None, at(10), [1, 5]),  # the open one may have what came before it was opened
        (None, at(10.001), [1, 2, 5]),
        (at(19.5), at(19.9), [5]),
        (at(12), at(22), [2, 4, 5]),
        (at(-100), at(-50), []),
        (None, at(-29.9), [5]),
        (None, at(-30.1), []),
        ("2026-01-31T11:00:20Z", "2026-01-31T11:00:29Z", [4, 5]),
        (datetime(2026, 1, 31, 11, 0, 20, tzinfo=UTC), None, [4, 5]),
        (str(int(at(25))), "now", [4, 5]),
    ],
)
def test_a_span_concerns_those_that_may_have_packets_of_it(
    ring: Path, start: Any, end: Any, expected: list[int]
) -> None:
    assert numbers(files(ring, start, end)) == expected


def test_a_file_whose_writer_was_killed_may_have_any_packets_of_its_time(tmp_path: Path) -> None:
    killed = RingFile("a", 1, is_complete=True, opened_ns=T, closed_ns=T + 10 * SECOND_NS)
    for start_s, end_s, expected in (
        (-90, -70, False),
        (-90, -50, True),
        (0, 1, True),
        (60, 90, True),
        (71, 90, False),
    ):
        assert killed.may_have(Span(T + start_s * SECOND_NS, T + end_s * SECOND_NS)) is expected


def test_what_is_not_the_rings_is_not_told_of(ring: Path) -> None:
    first, second, _, fourth, _ = sorted(ring.parent.glob("a_*.pcapng"))
    ring.with_name("a_00009_20260131000000.pcapng").write_bytes(first.read_bytes())  # looks like one
    content = second.read_bytes()
    second.rename(second.with_suffix(".kept"))  # so that it keeps its inode
    second.write_bytes(content)  # another file with its name
    fourth.unlink()
    status = ring.parent.stat()
    append_to_index(
        ring,
        FileWasDeleted(name="never there", deleted_ns=1, reason=DeletionReason.AGE, size_bytes=1),
        FileWasOpened(name="../secret", device=status.st_dev, inode=status.st_ino, opened_ns=T),
        FileWasOpened(name="nul\0", device=status.st_dev, inode=status.st_ino, opened_ns=T),
        FileWasOpened(name=".", device=status.st_dev, inode=status.st_ino, opened_ns=T),
    )
    assert numbers(files(ring)) == [1, 3, 5]


def test_one_that_is_deleted_or_replaced_meanwhile_is_not_opened(ring: Path) -> None:
    first, second, *_ = files(ring)
    Path(first.path).unlink()
    with pytest.raises(ReadError, match="there is no such file"):
        first.open()
    ring.with_name("a_00004_20260131000000.pcapng").replace(second.path)
    with pytest.raises(ReadError, match="another one has its name"):
        second.open()


def test_a_ring_may_be_named_from_its_own_directory(ring: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ring.parent)
    assert [each.path for each in files("a.pcapng")][:1] == ["a_00001_20260131000000.pcapng"]
    assert files(Path("..") / ring.parent.name / "a.pcapng")[0].path.startswith("../")


def test_a_capture_file_is_a_ring_of_one(ring: Path, tmp_path: Path) -> None:
    (path,) = tmp_path.glob("a_00002*")
    (found,) = files(path, at(100), at(101))  # nobody knows what is in it
    assert (found.path, found.packets, found.is_complete) == (str(path), None, True)


@pytest.mark.parametrize("name", ["nothing.pcapng", "nowhere/a.pcapng"])
def test_where_there_is_nothing_it_says_what_was_looked_for(tmp_path: Path, name: str) -> None:
    with pytest.raises(ReadError, match=r"nothing\.pcapng\.index|directory"):
        files(tmp_path / name)


@pytest.mark.parametrize("kind", ["directory", "fifo", "link"])
def test_what_is_no_index_is_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.pcapng.index"
    match kind:
        case "directory":
            path.mkdir()
        case "fifo":
            os.mkfifo(path)
        case _:
            path.symlink_to("/etc/passwd")
    with pytest.raises(ReadError, match="index"):
        files(tmp_path / "a.pcapng")


@pytest.mark.parametrize(
    ("start", "end", "argument"),
    [(5, 4, "end"), ("tomorrow", None, "start"), (None, "13", "end"), (float("nan"), None, "start")],
)
def test_a_span_that_is_none_is_refused(start: Any, end: Any, argument: str) -> None:
    with pytest.raises(InvalidArgument) as raised:
        span_of(start, end)
    assert raised.value.argument == argument


def test_both_ends_of_a_span_are_of_one_moment() -> None:
    assert span_of("-10s", "now", T) == Span(T - 10 * SECOND_NS, T)
    assert span_of("now", "now", T) == Span(T, T)


def test_a_session_knows_the_files_of_its_ring(bench: Bench) -> None:
    with bench.running(ringbuffer_packets=2, ringbuffer_files=3) as capture:
        bench.send(9)
        wait_for_packets(capture, 9)
        # Deleted are those before the third last, whichever of them was announced meanwhile.
        assert numbers(capture.ring_files()) == [3, 4, 5]
        *complete, current = files(capture)
        assert [(each.is_complete, each.packets) for each in complete] == [(True, 2)] * 2
        assert (current.is_complete, current.packets) == (False, None)
        last_ns = complete[-1].last_timestamp_ns
        assert last_ns is not None
        later = files(capture, start=(last_ns + 10**6) / 1e9)
        assert numbers(later) == [5]
        with later[0].open() as file:
            assert len(file.read()) > 100
        capture.stop()
        capture.wait(PATIENCE_S)
        assert numbers(capture.ring_files()) == [3, 4, 5]
        assert all(each.is_complete for each in capture.ring_files())
        assert {each.path for each in capture.ring_files()} == {str(each) for each in bench.directory.iterdir()}
