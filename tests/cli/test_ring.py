"""``capctl files`` and ``capctl extract``, as they are typed."""

import json
import os
import stat
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from capd_client import CaptureSession, list_captures, stop_capture
from capd_client.cli.packets.dissect import dissect, to_text
from capd_protocol.formats import pcapng
from capd_protocol.formats.ring_index import FileWasClosed
from tests.cli.calling import called, called_for_bytes
from tests.client.conftest import Bench
from tests.client.helpers import PATIENCE_S, wait_until
from tests.support.daemon import as_user
from tests.support.rings import Frame, append_to_index, opened_files, write_ring
from tests.support.tools import capinfos, packets_of, tshark_fields
from tests.support.traffic import build_frames

CAPCTL = (sys.executable, "-m", "capd_client.cli")
T = 1_769_857_200 * 10**9  # 2026-01-31 11:00 UTC
UDP = build_frames((64,))[0]
SECOND_NS = 10**9
ALICE = 4321


@pytest.fixture
def ring(tmp_path: Path) -> Path:
    """Three files of ten packets, one each second, on two interfaces in turn."""
    frames = [Frame(T + number * SECOND_NS, f"eth{number % 2}", UDP) for number in range(30)]
    path = tmp_path / "a.pcapng"
    write_ring(path, [frames[at : at + 10] for at in (0, 10, 20)], ["eth0", "eth1"])
    return path


# files ------------------------------------------------------------------------------------------------------------


def test_files_are_listed_with_what_is_in_them(ring: Path) -> None:
    listed = called("files", ring, "--utc")
    assert (listed.returncode, listed.stderr) == (0, "")
    header, first, *_, last = listed.stdout.splitlines()
    assert header.split() == ["FIRST", "LAST", "PACKETS", "DROPPED", "SIZE", "FILE"]
    size = f"{ring.with_name('a_00001_20260131000000.pcapng').stat().st_size / 1000:.1f} kB".split()
    path = str(ring.with_name("a_00001_20260131000000.pcapng"))
    assert first.split() == ["2026-01-31", "11:00:00.000", "2026-01-31", "11:00:09.000", "10", "0", *size, path]
    assert last.split()[:2] == ["2026-01-31", "11:00:20.000"]
    some = called("files", ring, "--from", "2026-01-31T11:00:10Z", "--to", "2026-01-31T11:00:20Z", "--json")
    (line,) = map(json.loads, some.stdout.splitlines())
    assert line == {
        "path": str(ring.with_name("a_00002_20260131000000.pcapng")),
        "size_bytes": ring.with_name("a_00002_20260131000000.pcapng").stat().st_size,
        "is_complete": True,
        "packets": 10,
        "first_timestamp_ns": T + 10 * SECOND_NS,
        "last_timestamp_ns": T + 19 * SECOND_NS,
        "drops": {"eth0": 0, "eth1": 0},
        "opened_ns": T + 10 * SECOND_NS,
        "closed_ns": T + 19 * SECOND_NS,
    }


def test_one_that_is_being_written_is_shown_as_such(tmp_path: Path) -> None:
    write_ring(tmp_path / "a.pcapng", [[Frame(T, "eth0", UDP)]], ["eth0"], last_is_open=True)
    listed = called("files", tmp_path / "a.pcapng")
    assert "(being written)" in listed.stdout
    assert "?" in listed.stdout


def test_an_empty_file_is_one_of_the_files_but_of_no_span(tmp_path: Path) -> None:
    _, empty = write_ring(tmp_path / "a.pcapng", [[Frame(T, "eth0", UDP)], []], ["eth0"])
    listed = called("files", tmp_path / "a.pcapng", "--utc")
    assert (listed.returncode, len(listed.stdout.splitlines())) == (0, 3)
    assert listed.stdout.splitlines()[2].split() == ["-", "-", "0", "0", str(empty.stat().st_size), "B", str(empty)]
    assert str(empty) not in called("files", tmp_path / "a.pcapng", "--from", "2026-01-01").stdout


@pytest.mark.parametrize("cut_bytes", [0, 5])
def test_of_one_whose_writer_was_killed_is_shown_what_can_be_read(tmp_path: Path, cut_bytes: int) -> None:
    frames = [Frame(T + number * SECOND_NS, "eth0", UDP) for number in range(5)]
    (cut,) = write_ring(tmp_path / "a.pcapng", [frames], ["eth0"], last_is_open=True)
    os.truncate(cut, cut.stat().st_size - cut_bytes)
    size_bytes = cut.stat().st_size
    unknown = FileWasClosed(
        name=cut.name,
        closed_ns=T + 5 * SECOND_NS,
        size_bytes=size_bytes,
        packets=None,
        first_timestamp_ns=None,
        last_timestamp_ns=None,
        drops={},
    )
    append_to_index(tmp_path / "a.pcapng", unknown)
    listed = called("files", tmp_path / "a.pcapng", "--utc")
    packets, last = (4, "11:00:03.000") if cut_bytes else (5, "11:00:04.000")
    assert (listed.returncode, listed.stderr) == (0, "")
    row = ["2026-01-31", "11:00:00.000", "2026-01-31", last, str(packets), "?", str(size_bytes), "B", str(cut)]
    assert listed.stdout.splitlines()[1].split() == [*row, "(not", "closed)"]
    assert json.loads(called("files", tmp_path / "a.pcapng", "--json").stdout)["packets"] == packets
    if not cut_bytes:
        assert packets_of(cut) == packets


def test_one_that_was_cut_when_its_ring_went_on_is_shown_without_being_read(tmp_path: Path) -> None:
    (cut,) = write_ring(tmp_path / "a.pcapng", [[Frame(T, "eth0", UDP)]], ["eth0"], last_is_open=True)
    size_bytes = cut.stat().st_size
    completed = FileWasClosed(
        name=cut.name,
        closed_ns=T + 5 * SECOND_NS,
        size_bytes=size_bytes,
        packets=9,
        first_timestamp_ns=T,
        last_timestamp_ns=T + 3 * SECOND_NS,
        drops={},
    )
    append_to_index(tmp_path / "a.pcapng", completed)
    listed = called("files", tmp_path / "a.pcapng", "--utc")
    row = ["2026-01-31", "11:00:00.000", "2026-01-31", "11:00:03.000", "9", "?", str(size_bytes), "B", str(cut)]
    assert listed.stdout.splitlines()[1].split() == [*row, "(not", "closed)"]


@pytest.mark.parametrize("command", ["files", "extract"])
@pytest.mark.parametrize(
    ("words", "status", "complaint"),
    [
        (("--from", "2026-01-31T12:00Z"), 1, "span"),  # there is nothing
        (("--to", "2020-01-01"), 1, "span"),
        (("--from", "12:00:01", "--to", "12:00"), 2, "the span ends before it begins: from 12:00:01 to 12:00 (option"),
        (("--from", "-1m", "--to", "-1h30m"), 2, "(option --to)"),
        (("--from", "soon"), 2, "'soon' is no time: possible are"),
        (("--to", "soon"), 2, "(option --to)"),
    ],
)
def test_a_span_that_is_empty_or_none_is_told(
    ring: Path, command: str, words: tuple[str, ...], status: int, complaint: str
) -> None:
    found = called(command, ring, *words)
    assert (found.returncode, found.stdout) == (status, "")
    assert complaint in found.stderr
    assert found.stderr.count("\n") == 1


def test_times_ago_are_no_options(tmp_path: Path) -> None:
    now_ns = int(datetime.now(UTC).timestamp() * 10**9)
    frames = [Frame(now_ns - seconds * SECOND_NS, "eth0", UDP) for seconds in (7000, 4000, 100)]
    write_ring(tmp_path / "a.pcapng", [frames], ["eth0"])
    for words, packets in ((("--from", "-1h30m"), 2), (("--from", "-1h30m", "--to", "-30m"), 1), (("--to=-1h",), 2)):
        found = called("extract", *words, tmp_path / "a.pcapng")
        assert (found.returncode, found.stderr) == (0, "")
        assert len(found.stdout.splitlines()) == packets


# Paths ------------------------------------------------------------------------------------------------------------

ODD_PATHS = [
    ("", "''", {"read": "there is no such file", "*": "it is a directory: name a file in it"}),
    (
        "./nowhere.pcapng",
        "./nowhere.pcapng",
        {"read": "there is no such file", "*": "there is no file, and no "},
    ),
    ("nowhere/a.pcapng", "nowhere/a.pcapng", {"read": "there is no such file", "*": "there is no such directory"}),
    ("dir", "dir", {"*": "it is a directory: name a file in it"}),
    ("dir/", "dir/", {"*": "it is a directory: name a file in it"}),
    ("file/a.pcapng", "file/a.pcapng", {"*": "what should be its directory is a file"}),
    ("loop/a.pcapng", "loop/a.pcapng", {"*": "its links lead in a circle"}),
    ("roots.pcapng", "roots.pcapng", {"*": "you may not read it: it is root's"}),
    ("ring.pcapng", "ring.pcapng.index", {"read": "", "*": "you may not read it: it is root's"}),
    ("closed/a.pcapng", "closed/a.pcapng", {"*": "you may not enter its directory"}),
]


@pytest.mark.parametrize(
    ("command", "path", "shown", "expected"),
    [
        (command, path, shown, expected)
        for command in ("read", "files", "extract")
        for path, shown, complaint in ODD_PATHS
        if (expected := complaint.get(command, complaint["*"]))
    ],
)
def test_what_is_no_file_of_yours_is_told_in_a_sentence(
    user_dir: Path, command: str, path: str, shown: str, expected: str
) -> None:
    (user_dir / "dir").mkdir()
    (user_dir / "closed").mkdir(mode=0o700)
    (user_dir / "file").write_bytes(b"")
    (user_dir / "loop").symlink_to("loop")
    for name in ("roots.pcapng", "ring.pcapng.index"):
        (user_dir / name).write_bytes(pcapng.section_header(application="test"))
        (user_dir / name).chmod(0o600)
    refused = as_user(lambda: called(command, path, cwd=user_dir), ALICE)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr.replace(".index: you may not enter", ": you may not enter").startswith(
        f"capctl: {shown}: {expected}"
    )
    assert refused.stderr.count("\n") == 1


@pytest.mark.parametrize("command", ["files", "extract"])
def test_neither_a_file_nor_a_capture_is_told_as_both(bench: Bench, tmp_path: Path, command: str) -> None:
    there = called("--socket", bench.daemon.socket_path, command, "nothing", cwd=tmp_path)
    assert (there.returncode, there.stderr) == (
        1,
        "capctl: there is no file nothing here, and there is no capture nothing\n",
    )
    gone = called("--socket", tmp_path / "none", command, "nothing", cwd=tmp_path)
    assert gone.returncode == 3
    assert gone.stderr.startswith(
        "capctl: there is no file nothing here, and for a capture of that name there is no capd"
    )


# By name ----------------------------------------------------------------------------------------------------------


def test_a_capture_that_runs_is_named_or_numbered(bench: Bench, tmp_path: Path) -> None:
    ring = {"ringbuffer_packets": 4, "ringbuffer_files": 4}
    with bench.running(name="kept", detach=True, **ring) as capture:
        capture_id = capture.capture_id
    socket = ("--socket", bench.daemon.socket_path)
    try:
        bench.send(18)
        with CaptureSession.attach("kept", socket_path=bench.daemon.socket_path) as attached:
            attached.flush()
            # Also those that were there before anybody attached.
            assert [each.packets for each in attached.ring_files()] == [4, 4, 4, None]
        for word in ("kept", str(capture_id)):
            listed = [json.loads(line) for line in called("files", *socket, word, "--json").stdout.splitlines()]
            assert [each["packets"] for each in listed] == [4, 4, 4, None]
            assert all(Path(each["path"]).parent == bench.directory for each in listed)
            shown = called("extract", *socket, word)
            assert (shown.returncode, shown.stderr) == (0, "")
            assert len(shown.stdout.splitlines()) == 14
        # Where there is such a path, that is meant.
        write_ring(tmp_path / "kept", [[Frame(T, "eth0", UDP)]], ["eth0"])
        assert len(called("extract", *socket, "kept", cwd=tmp_path).stdout.splitlines()) == 1
    finally:
        stop_capture("kept", socket_path=bench.daemon.socket_path)
    wait_until(lambda: list_captures(socket_path=bench.daemon.socket_path) == (), "it has ended")
    gone = called("files", *socket, "kept")
    assert (gone.returncode, gone.stdout) == (1, "")
    assert "there is no capture kept" in gone.stderr
    assert len(called("extract", bench.directory / "a.pcapng").stdout.splitlines()) == 14


# extract ----------------------------------------------------------------------------------------------------------

SPAN = ("--from", "2026-01-31T11:00:05Z", "--to", "2026-01-31T11:00:25Z")


def test_packets_are_shown_as_read_shows_them(ring: Path) -> None:
    shown = called("extract", ring, *SPAN, "--utc")
    text = to_text(dissect(UDP, 1))
    assert shown.stdout.splitlines() == [f"11:00:{second:02}.000000 eth{second % 2} {text}" for second in range(5, 25)]
    assert (shown.returncode, shown.stderr) == (0, "")
    as_json = called("extract", ring, *SPAN, "--json")
    lines = [json.loads(line) for line in as_json.stdout.splitlines()]
    assert [line["timestamp_ns"] for line in lines] == [T + second * SECOND_NS for second in range(5, 25)]
    assert lines[0].keys() >= {"interface", "interface_id", "captured_size_bytes", "protocol"}


def test_packets_are_written_as_pcapng_that_others_read(ring: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.pcapng"
    written = called("extract", ring, *SPAN, "-w", out)
    assert (written.returncode, written.stdout, written.stderr) == (0, f"{out}: 20 packets\n", "")
    found = tshark_fields(out, "frame.time_epoch", "frame.interface_name", "frame.len")
    assert [(round(float(time)), name, size) for time, name, size in found] == [
        (T // SECOND_NS + second, f"eth{second % 2}", "64") for second in range(5, 25)
    ]
    assert capinfos(out, "-o")["Strict time order"] == "True"
    assert called_for_bytes("extract", ring, *SPAN, "-w", "-") == (0, out.read_bytes(), "")


def test_no_file_is_overwritten_without_being_asked(ring: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.pcapng"
    out.write_text("precious")
    refused = called("extract", ring, "-w", out)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "is there already" in refused.stderr
    assert "--overwrite" in refused.stderr
    assert out.read_text() == "precious"
    nothing = called("extract", ring, "-w", out, "--overwrite", "--to", "2020-01-01")
    assert nothing.returncode == 1
    assert out.read_text() == "precious"
    assert called("extract", ring, "-w", out, "--overwrite").returncode == 0
    assert capinfos(out, "-c")["Number of packets"] == "30"
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "elsewhere")
    assert called("extract", ring, "-w", link).returncode == 1
    assert not (tmp_path / "elsewhere").exists()
    assert not list(tmp_path.glob(".*"))


def test_no_device_is_replaced_and_a_fifo_is_written(ring: Path, tmp_path: Path) -> None:
    null, zero, fifo = tmp_path / "null", tmp_path / "zero", tmp_path / "fifo"
    os.mknod(null, 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    os.mknod(zero, 0o666 | stat.S_IFCHR, os.makedev(1, 5))
    os.mkfifo(fifo)
    for words in ((null,), (null, "--overwrite")):
        written = called("extract", ring, "-w", *words)
        assert (written.returncode, written.stdout) == (0, f"{null}: 30 packets\n")
    refused = called("extract", ring, "-w", zero, "--overwrite")
    assert (refused.returncode, refused.stderr) == (1, f"capctl: {zero} is no regular file: name another one\n")
    assert null.is_char_device()
    assert zero.is_char_device()
    with subprocess.Popen(["tcpdump", "-nr", fifo], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as reader:
        assert called("extract", ring, "-w", fifo, "--overwrite").returncode == 0
        assert reader.stdout is not None
        assert len(reader.stdout.read().splitlines()) == 30
    assert fifo.is_fifo()


def test_words_of_a_filter_behind_a_ring_are_told_where_they_stand(ring: Path) -> None:
    done = called("extract", ring, "udp", "port", "53", environment={"CAPD_SOCKET": "/nowhere/capd.sock"})
    assert (done.returncode, done.stdout) == (2, "")
    assert "there is no file udp, nor a capture of that name: a filter stands behind -f" in done.stderr


def test_a_file_is_there_when_it_is_whole_or_not_at_all(ring: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.pcapng"
    bad = called("extract", ring, "-w", out, "-f", "udp prot 53")
    assert (bad.returncode, bad.stdout) == (1, "")
    assert "capture filter" in bad.stderr
    nothing = called("extract", ring, "-w", out, "-f", "tcp")
    assert (nothing.returncode, nothing.stdout) == (1, "")
    assert nothing.stderr == "capctl: there are no such packets in this span\n"
    nowhere = called("extract", ring, "-w", tmp_path / "nowhere" / "out.pcapng")
    assert nowhere.returncode == 1
    assert "cannot be written: No such file or directory" in nowhere.stderr
    assert {each.name for each in tmp_path.iterdir()} == {
        "a.pcapng.index",
        *(each.name for each in tmp_path.glob("a_*")),
    }


def test_a_filter_chooses(ring: Path) -> None:
    assert len(called("extract", ring, "-f", "udp port 50001").stdout.splitlines()) == 30


def test_several_rings_and_files_come_as_one(ring: Path, tmp_path: Path) -> None:
    path = tmp_path / "b.pcapng"
    write_ring(path, [[Frame(T + number * SECOND_NS + 1, "wlan0", UDP) for number in range(30)]], ["wlan0"])
    (single,) = tmp_path.glob("b_*")
    for other in (path, single):
        lines = [json.loads(line) for line in called("extract", ring, other, *SPAN, "--json").stdout.splitlines()]
        times = [line["timestamp_ns"] for line in lines]
        assert len(times) == 20 + 20
        assert times == sorted(times)
        assert {line["interface"] for line in lines} == {"eth0", "eth1", "wlan0"}


def test_what_cannot_be_read_is_told_and_the_rest_comes(ring: Path) -> None:
    second = ring.with_name("a_00002_20260131000000.pcapng")
    data = bytearray(second.read_bytes())
    data[-8:] = b"\xff" * 8
    second.write_bytes(data)
    found = called("extract", ring)
    assert found.returncode == 1
    assert str(second) in found.stderr
    assert "at byte" in found.stderr
    assert 20 < len(found.stdout.splitlines()) < 30


@pytest.mark.parametrize(
    ("words", "option"),
    [
        (("--overwrite",), "--overwrite"),
        (("-w", "-", "--overwrite"), "--overwrite"),
        (("-w", "x", "--json"), "--json"),
    ],
)
def test_options_that_do_not_go_together_are_refused(ring: Path, words: tuple[str, ...], option: str) -> None:
    refused = called("extract", ring, *words, cwd=ring.parent)
    assert refused.returncode == 2
    assert f"(option {option})" in refused.stderr
    assert not (ring.parent / "x").exists()


@pytest.mark.parametrize("command", ["files", "extract"])
def test_where_there_is_no_ring_it_says_so(tmp_path: Path, command: str) -> None:
    found = called(command, tmp_path / "none.pcapng")
    assert (found.returncode, found.stdout) == (1, "")
    assert "there is no file, and no none.pcapng.index" in found.stderr


def test_it_takes_what_others_leave_of_processor_and_disk(tmp_path: Path) -> None:
    frames = [Frame(T + number, "eth0", bytes(1000)) for number in range(3000)]
    write_ring(tmp_path / "a.pcapng", [frames], ["eth0"])
    # More than a pipe takes: it waits there.
    with subprocess.Popen(
        [*CAPCTL, "extract", str(tmp_path / "a.pcapng"), "-w", "-"], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.read(1)
        wait_until(lambda: os.sched_getscheduler(process.pid) == os.SCHED_IDLE, "its scheduling class")
        assert os.getpriority(os.PRIO_PROCESS, process.pid) == 19
        found = subprocess.run(
            ["ionice", "-p", str(process.pid)], capture_output=True, text=True, check=True, timeout=10
        )
        assert found.stdout.strip() == "idle"
        process.stdout.read()
        assert process.wait(PATIENCE_S) == 0


def packets_in(path: Path) -> list[tuple[int, str, bytes]]:
    """Return time, interface and bytes of each packet."""
    found: list[tuple[int, str, bytes]] = []
    names: list[str] = []
    for block in pcapng.read_blocks(path.read_bytes()):
        match block:
            case pcapng.InterfaceDescription(options=options):
                names.append(dict(options)[pcapng.IF_NAME].decode())
            case pcapng.EnhancedPacket():
                found.append((block.timestamp, names[block.interface_id], bytes(block.data)))
            case _:
                pass
    return found


@pytest.mark.long
def test_ten_seconds_out_of_two_hundred_files_are_what_tshark_finds_in_all_of_them(tmp_path: Path) -> None:
    # A file every three seconds, 60 MB in all, on two interfaces that are not quite in step.
    files, packets, size_bytes = 200, 200, 1_430
    step_ns = 3 * SECOND_NS // packets
    body = bytes(range(256)) * 6
    path = tmp_path / "big" / "a.pcapng"
    path.parent.mkdir()
    written: list[Path] = []
    for at in range(0, files, 20):  # not all in memory at once
        contents = [
            [
                Frame(
                    T + (file * packets + number) * step_ns + (number * 7919) % 999,
                    f"eth{number * 7 % 3 % 2}",
                    (UDP + file.to_bytes(2, "big") + number.to_bytes(2, "big") + body)[: size_bytes - number % 3],
                )
                for number in range(packets)
            ]
            for file in range(at, at + 20)
        ]
        written += write_ring(path, contents, ["eth0", "eth1"], first_number=at + 1)
    begin_ns = T + 300 * SECOND_NS + SECOND_NS // 2
    end_ns = begin_ns + 10 * SECOND_NS
    out, merged, expected = tmp_path / "out.pcapng", tmp_path / "merged.pcapng", tmp_path / "expected.pcapng"
    with opened_files(path.parent) as names:
        span = ("--from", f"{begin_ns / 1e9:.9f}", "--to", f"{end_ns / 1e9:.9f}")
        done_ = called("extract", path, *span, "-w", out)
    assert (done_.returncode, done_.stderr) == (0, "")
    # 300.5 s to 310.5 s: the files from 300 s to 312 s, numbered from 1.
    assert names == {"a.pcapng.index", *(each.name for each in written[100:104])}
    subprocess.run(["mergecap", "-w", merged, *written], check=True, timeout=PATIENCE_S)
    wanted = f"frame.time_epoch >= {begin_ns / 1e9:.9f} && frame.time_epoch < {end_ns / 1e9:.9f}"
    command = ["tshark", "-n", "-r", str(merged), "-Y", wanted, "-w", str(expected)]
    subprocess.run(command, check=True, capture_output=True, timeout=50)
    found = packets_in(out)
    assert len(found) == pytest.approx(10 * packets / 3, abs=3)
    assert [each[0] for each in found] == sorted(each[0] for each in found)
    assert sorted(found) == sorted(packets_in(expected))
