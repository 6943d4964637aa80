"""A recorder keeps the last packets in memory, and a snapshot has each of its window, before the trigger and after."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Generator
from pathlib import Path

import numpy as np
import pytest

from capd_client import (
    CaptureSession,
    ChildError,
    DestinationError,
    DiskError,
    InvalidArgument,
    NoSuchCapture,
    ResourceError,
    aio,
    files,
    list_captures,
    snapshot_capture,
    stop_capture,
)
from capd_client.errors import NoEvents
from capd_client.reading import read
from capd_client.ring.files import RingFile
from capd_protocol.messages import (
    DEFAULT_COOL_DOWN_S,
    DeletionReason,
    FileClosed,
    Recorder,
    Recording,
    TriggerReason,
)
from tests.capture.helpers import (
    all_events,
    capturing,
    end,
    in_background,
    ip,
    local_frame,
    messages,
    read_file,
    until,
    until_received,
)
from tests.client.helpers import PATIENCE_S, wait_until
from tests.support.daemon import Daemon, as_user, running_daemon, status_of
from tests.support.namespace import veth_pair
from tests.support.tools import capinfos, descriptors_of, tshark_fields, unmount
from tests.support.traffic import build_frames, send

MIB = 1024 * 1024
#: Where the sequence number of a frame without meaning begins: behind its Ethernet header.
SEQUENCE_AT = 14
FRAMES = [local_frame(100)]
USER = 54_321


def sequences(path: Path | str) -> np.ndarray:
    """Return the sequence number of each packet of a file, in its order."""
    found: list[np.ndarray] = []
    with read(path) as packets:
        for batch in packets.batches():
            places = batch.offsets[:, None] + np.arange(SEQUENCE_AT, SEQUENCE_AT + 8)
            found.append(np.ascontiguousarray(batch.data[places]).view(">u8")[:, 0])
    return np.concatenate(found) if found else np.empty(0, np.uint64)


def times_ns(path: Path | str) -> tuple[int, int]:
    """Return when the first and the last packet of a file came."""
    with read(path) as packets:
        stamps = np.concatenate([batch.timestamps_ns.copy() for batch in packets.batches()])
    assert (np.diff(stamps.astype(np.int64)) >= 0).all()
    return int(stamps[0]), int(stamps[-1])


def check_window(path: Path | str, start_ns: int, end_ns: int, duration_s: float) -> None:
    """Check that nothing is missing, whoever reads it, and that the window is there."""
    numbers = sequences(path)
    assert (np.diff(numbers.astype(np.int64)) == 1).all(), "packets are missing, or in disorder"
    first_ns, last_ns = times_ns(path)
    assert first_ns <= start_ns
    assert last_ns >= end_ns
    # A little more than was asked for: two segments at most, and what a busy machine keeps waiting.
    assert first_ns >= start_ns - (duration_s / 16 + 0.5) * 1e9
    shown = capinfos(path)
    assert int(shown["Number of packets"]) == len(numbers)
    assert shown["Strict time order"] == "True"


def memory_bytes(process_id: int) -> int:
    """Return what a process has in files of its own in memory, as the kernel counts it."""
    total = 0
    for link in Path(f"/proc/{process_id}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            if "memfd:capd-recorder" in os.readlink(link):  # noqa: PTH115
                total += os.stat(link).st_blocks * 512  # noqa: PTH116
    return total


@contextlib.contextmanager
def recorded(daemon: Daemon, interface: str, path: Path, **arguments: object) -> Generator[CaptureSession, None, None]:
    with capturing(daemon, interfaces=[interface], savefile=path, **arguments) as capture:  # type: ignore[arg-type]
        yield capture


def under_load(daemon: Daemon, veth: tuple[str, str], directory: Path, seconds: float, memory: int) -> None:
    """Record so many seconds at 100,000 packets a second, and take a snapshot of them and of one second more."""
    tx, rx = veth
    count = round((seconds + 3.0) * 100_000)
    with recorded(daemon, rx, directory / "r.pcapng", recorder_duration=seconds, recorder_memory=memory) as capture:
        (worker,) = daemon.workers()[-1:]
        args = (tx, FRAMES, count, 100_000)
        with in_background(lambda: send(*args, sequence_at=SEQUENCE_AT)):
            time.sleep(seconds + 0.7)
            asked_ns = time.time_ns()
            path = capture.snapshot(after=1)
            assert memory_bytes(worker) <= memory * MIB
        check_window(path, round(asked_ns - seconds * 1e9), asked_ns + 10**9, seconds)
        end(capture)
        (counters,) = capture.interface_counters
        assert (counters.received_total, counters.drops_total) == (count, 0)
        (closed,) = capture.files
        assert (closed.packets, closed.drops) == (len(sequences(path)), 0)
        assert (closed.first_timestamp_ns, closed.last_timestamp_ns) == times_ns(path)
        assert closed.size_bytes == Path(path).stat().st_size


def test_a_snapshot_has_all_of_two_seconds_at_100_000_packets_a_second(
    daemon: Daemon, veth: tuple[str, str], tmp_path: Path
) -> None:
    under_load(daemon, veth, tmp_path, 2, 64)


@pytest.mark.long
def test_a_snapshot_has_all_of_eight_seconds_at_100_000_packets_a_second(
    daemon: Daemon, veth: tuple[str, str], tmp_path: Path
) -> None:
    under_load(daemon, veth, tmp_path, 8, 160)


def test_other_programs_read_the_same(daemon: Daemon, veth: tuple[str, str], tmp_path: Path) -> None:
    tx, rx = veth
    with recorded(daemon, rx, tmp_path / "r.pcapng", recorder_memory=4) as capture:
        send(tx, FRAMES, 5000, 50_000, sequence_at=SEQUENCE_AT)
        path = capture.snapshot()
        numbers = [int(data[:16], 16) for (data,) in tshark_fields(path, "data.data")]
        assert numbers == list(range(5000))
        assert read_file(path).counts(0) == (5000, 0, 5000)
        assert Path(path).name.startswith("r_00001_20")
        assert Path(path).stat().st_mode & 0o777 == 0o600
        end(capture)


def test_memory_stays_within_its_bounds_and_has_the_newest_packets(
    daemon: Daemon, veth: tuple[str, str], tmp_path: Path
) -> None:
    tx, rx = veth
    with recorded(daemon, rx, tmp_path / "r.pcapng", recorder_memory=8) as capture:
        (worker,) = daemon.workers()[-1:]
        most, resident_kb = 0, int(status_of(worker)["VmRSS"].split()[0])
        for _ in range(4):
            send(tx, [local_frame(1000)], 10_000, 100_000)
            most = max(most, memory_bytes(worker))
        assert 6 * MIB < most <= 8 * MIB
        assert int(status_of(worker)["VmRSS"].split()[0]) < resident_kb + 8192
        send(tx, [local_frame(1000)], 10_000, 50_000, sequence_at=SEQUENCE_AT)
        capture.flush()  # else what was still in the ring comes on top
        numbers = sequences(capture.snapshot())
        # Of 10 MB, the last ones: all of the memory but the segment that is written over next.
        assert numbers[-1] == 9999
        assert (np.diff(numbers.astype(np.int64)) == 1).all()
        assert 7 * MIB < len(numbers) * 1032 <= 8 * MIB
        assert memory_bytes(worker) <= 8 * MIB
        end(capture)


def test_what_is_older_than_the_window_is_not_in_it(daemon: Daemon, veth: tuple[str, str], tmp_path: Path) -> None:
    tx, rx = veth
    with recorded(daemon, rx, tmp_path / "r.pcapng", recorder_duration=1) as capture:
        send(tx, FRAMES, 100)
        capture.flush()
        time.sleep(1.2)
        send(tx, [local_frame(100, mark=9)], 10)
        assert read_file(capture.snapshot()).frames == [local_frame(100, mark=9)] * 10
        time.sleep(1.2)
        empty = capture.snapshot()
        assert read_file(empty).frames == []
        assert capture.files[-1].first_timestamp_ns is None
        end(capture)


def test_a_recorder_tells_that_it_runs_and_writes_no_file(
    daemon: Daemon, veth: tuple[str, str], tmp_path: Path
) -> None:
    tx, rx = veth
    with recorded(daemon, rx, tmp_path / "r.pcapng", recorder_duration=5, recorder_memory=16) as capture:
        recording = Recording(memory_bytes=16 * MIB, duration_s=5.0)
        assert capture.wait_for_event(timeout=PATIENCE_S) == (capture.SP_RECORDING, recording)
        send(tx, FRAMES, 100)
        capture.flush()
        assert list(tmp_path.iterdir()) == []
        with pytest.raises(InvalidArgument, match="recorder"):
            capture.rotate()
        end(capture)
        events, _ = all_events(capture)
        assert messages(events, capture.SP_FILE) == []
    assert list(tmp_path.iterdir()) == []


def test_snapshots_of_two_recorders_of_one_name_do_not_meet(
    daemon: Daemon, veth: tuple[str, str], tmp_path: Path
) -> None:
    with (
        recorded(daemon, veth[1], tmp_path / "r.pcapng", recorder_memory=4) as one,
        recorded(daemon, veth[1], tmp_path / "r.pcapng", recorder_memory=4) as other,
    ):
        paths = [capture.snapshot() for _ in range(3) for capture in (one, other)]
        assert len(set(paths)) == 6 == len(list(tmp_path.iterdir()))
        assert [closed.name for closed in one.files] == paths[::2]
        end(one)
        end(other)


def test_a_further_snapshot_is_refused_while_one_is_written(
    daemon: Daemon, veth: tuple[str, str], tmp_path: Path
) -> None:
    tx, rx = veth
    with recorded(daemon, rx, tmp_path / "r.pcapng", recorder_duration=5, name="twice") as capture:
        with in_background(capture.snapshot, 1.0):
            until(capture, capture.SP_FILE)
            with pytest.raises(ResourceError, match="being written already"):
                snapshot_capture("twice", socket_path=daemon.socket_path)
            send(tx, FRAMES, 10)
        assert capture.files[0].packets == 10
        assert snapshot_capture("twice", socket_path=daemon.socket_path).startswith("r_00002_")
        end(capture)


def test_a_stop_completes_the_snapshot_with_what_there_is(
    daemon: Daemon, veth: tuple[str, str], tmp_path: Path
) -> None:
    tx, rx = veth
    with recorded(daemon, rx, tmp_path / "r.pcapng", recorder_duration=5, recorder_after=60) as capture:
        send(tx, FRAMES, 500)
        paths: list[str] = []
        with in_background(lambda: paths.append(capture.snapshot())):
            until(capture, capture.SP_FILE)
            send(tx, FRAMES, 500)
            capture.stop()
        assert len(read_file(paths[0]).packets) == 1000
        capture.wait(PATIENCE_S)


def test_an_interface_that_comes_during_a_snapshot_is_described_before_its_packets(
    daemon: Daemon, tmp_path: Path
) -> None:
    with (
        veth_pair("rca0", "rca1"),
        recorded(daemon, "rc[ab]1", tmp_path / "r.pcapng", recorder_duration=20) as capture,
    ):
        send("rca0", [local_frame(60, mark=1)], 20)
        capture.flush()
        paths: list[str] = []
        with in_background(lambda: paths.append(capture.snapshot(after=3))):
            until(capture, capture.SP_FILE)
            with veth_pair("rcb0", "rcb1"):
                until(capture, capture.SP_INTERFACE_ATTACHED)
                send("rcb0", [local_frame(60, mark=2)], 20)
                time.sleep(0.3)
        with read(paths[0]) as packets:
            found = [(packet.interface, bytes(packet.data)[8]) for packet in packets]
        assert found == [("rca1", 1)] * 20 + [("rcb1", 2)] * 20
        # The next one has both at its beginning.
        later = read_file(capture.snapshot())
        assert [packet.interface_id for packet in later.packets] == [0] * 20 + [1] * 20
        end(capture)


# Triggers -------------------------------------------------------------------------------------------------------


def events_within(capture: CaptureSession, seconds: float) -> list[tuple[int, object]]:
    """Take the events that come before there is none for so long."""
    events: list[tuple[int, object]] = []
    with contextlib.suppress(NoEvents):
        while True:
            events.append(capture.wait_for_event(timeout=seconds))
    return events


def closed_file(capture: CaptureSession) -> FileClosed:
    closed = until(capture, capture.SP_FILE_CLOSED)
    assert isinstance(closed, FileClosed)
    return closed


def test_a_packet_triggers_a_snapshot_also_one_that_is_not_captured(
    daemon: Daemon, veth: tuple[str, str], tmp_path: Path
) -> None:
    tx, rx = veth
    with recorded(
        daemon,
        rx,
        tmp_path / "r.pcapng",
        recorder_duration=10,
        recorder_after=0.3,
        recorder_cool_down=1,
        recorder_trigger_filter="udp port 50001",
        capture_filter="not udp",
    ) as capture:
        send(tx, FRAMES, 50)
        send(tx, build_frames((64,)), 1)
        triggered = until(capture, capture.SP_TRIGGERED)
        assert (triggered.reason, triggered.interface) == (TriggerReason.FILTER, rx)
        send(tx, FRAMES, 50)
        assert read_file(closed_file(capture).name).frames == FRAMES * 100
        # What comes within the next second triggers nothing, later packets do.
        send(tx, build_frames((64,)), 20)
        assert capture.SP_TRIGGERED not in dict(events_within(capture, 1.5))
        send(tx, build_frames((64,)), 1)
        until(capture, capture.SP_TRIGGERED)
        closed_file(capture)
        end(capture)


@pytest.mark.parametrize(
    "trigger", [{"recorder_trigger_filter": "ether[12:2] = 0x88b5"}, {"recorder_trigger_rate": 50}]
)
def test_a_trigger_that_stays_true_is_followed_by_a_cool_down(
    veth: tuple[str, str], user_dir: Path, trigger: dict[str, object]
) -> None:
    tx, rx = veth
    arguments = {"recorder_duration": 1, **trigger}
    with running_daemon(user_dir) as daemon, recorded(daemon, rx, user_dir / "r.pcapng", **arguments) as capture:
        send(tx, FRAMES, 300, 100)
        capture.flush()
        time.sleep(1.2)  # the last cool-down
        end(capture)
        events, _ = all_events(capture)
        triggered = messages(events, capture.SP_TRIGGERED)
        assert 1 <= len(triggered) <= 3
        assert daemon.log.count("a snapshot is triggered") == len(triggered)
        # What the snapshots are about, and what came meanwhile, are all.
        ignored = sum(messages(events, capture.SP_TRIGGERS_IGNORED))
        assert ignored >= (2 if "recorder_trigger_rate" in trigger else 200)
        assert ignored + len(triggered) <= 300


def runs(name: str, daemon: Daemon) -> bool:
    """Whether a recorder has begun: before, nobody can attach to it."""
    try:
        with CaptureSession.attach(name, socket_path=daemon.socket_path, events="all") as session:
            until(session, session.SP_RECORDING)
    except (NoSuchCapture, ResourceError):
        return False
    return True


def test_one_of_the_configuration_writes_snapshots_for_its_group(veth: tuple[str, str], user_dir: Path) -> None:
    tx, rx = veth
    state, configuration = user_dir / "state", user_dir / "capd.toml"
    configuration.write_text(
        f"""
        [captures.black-box]
        interfaces = ["{rx}"]
        group = {USER}
        capture_filter = "ether proto 0x88b5"
        recorder_duration = 60
        recorder_after = 0.3
        recorder_cool_down = 0.1
        recorder_trigger_filter = "udp dst port 50001"
        ringbuffer_files = 2
        """
    )

    def snapshots() -> list[RingFile]:
        return [each for each in files(state / "black-box" / "black-box.pcapng") if each.is_complete]

    with running_daemon(user_dir, "--config", str(configuration), "--state-directory", str(state)) as daemon:
        wait_until(lambda: runs("black-box", daemon), "it runs")
        send(tx, FRAMES, 50)
        assert not list((state / "black-box").glob("*.pcapng")), "nothing has asked for a snapshot"
        # What triggers it is not captured, and what comes within recorder_after is.
        send(tx, build_frames((64,)), 1)
        send(tx, FRAMES, 50)
        wait_until(lambda: len(snapshots()) == 1, "the snapshot that was triggered")
        (triggered,) = snapshots()
        assert read_file(triggered.path).frames == FRAMES * 100
        assert tshark_fields(triggered.path, "eth.type") == [("0x88b5",)] * 100
        shown = capinfos(triggered.path)
        assert (shown["Number of packets"], shown["Strict time order"]) == ("100", "True")
        send(tx, FRAMES, 1)
        asked, last = (
            str(state / "black-box" / snapshot_capture("black-box", after=0, socket_path=daemon.socket_path))
            for _ in range(2)
        )
        assert int(capinfos(asked)["Number of packets"]) == 101
        # ringbuffer_files holds for snapshots; its group reads them, and others do not.
        assert [each.path for each in snapshots()] == [asked, last]
        assert not Path(triggered.path).exists()
        as_user(lambda: Path(last).read_bytes(), USER + 1, groups=(USER,))
        with pytest.raises(PermissionError):
            as_user(lambda: Path(last).read_bytes(), USER + 1)


def test_snapshots_are_kept_as_the_files_of_a_ring_are(daemon: Daemon, veth: tuple[str, str], tmp_path: Path) -> None:
    tx, rx = veth
    options = {"recorder_duration": 60, "ringbuffer_files": 2, "name": "kept"}
    with recorded(daemon, rx, tmp_path / "r.pcapng", **options) as capture:
        paths = []
        for packets in (1, 2, 3, 4):
            send(tx, FRAMES, 1)
            paths.append(capture.snapshot())
            assert int(capinfos(paths[-1])["Number of packets"]) == packets
        # The index knows of them, too.
        assert [each.path for each in files(tmp_path / "r.pcapng")] == paths[2:]
        end(capture)
        events, _ = all_events(capture)
    deleted = messages(events, capture.SP_FILE_DELETED)
    assert [(each.name, each.reason) for each in deleted] == [(path, DeletionReason.FILES) for path in paths[:2]]
    assert sorted(map(str, tmp_path.glob("r_*"))) == paths[2:]


def test_snapshots_have_no_more_than_all_of_them_may(daemon: Daemon, veth: tuple[str, str], tmp_path: Path) -> None:
    tx, rx = veth
    options = {"recorder_duration": 60, "ringbuffer_total_filesize": 25}
    with recorded(daemon, rx, tmp_path / "r.pcapng", **options) as capture:
        for _ in range(3):
            send(tx, [local_frame(1000)], 4)  # so that all of them are 4, 8 and 12 kB, and the last two fit
            last = capture.snapshot()
        assert len(list(tmp_path.glob("r_*"))) == 2
        send(tx, [local_frame(1000)], 15)
        until_received(capture, 27)  # else the snapshot begins, and ends whole where there is no more room
        with pytest.raises(ResourceError, match="the 25 kB for all snapshots are too few"):
            capture.snapshot()
        assert [str(path) for path in tmp_path.glob("r_*")] in ([last], [])
        end(capture)


def test_a_cool_down_is_as_long_as_the_window_unless_it_is_said() -> None:
    assert Recorder(duration_s=7).effective_cool_down_s == 7
    assert Recorder(duration_s=7, cool_down_s=2).effective_cool_down_s == 2
    assert Recorder().effective_cool_down_s == DEFAULT_COOL_DOWN_S


def test_so_many_packets_within_a_second_trigger_a_snapshot(
    daemon: Daemon, veth: tuple[str, str], tmp_path: Path
) -> None:
    tx, rx = veth
    with recorded(daemon, rx, tmp_path / "r.pcapng", recorder_duration=10, recorder_trigger_rate=1000) as capture:
        send(tx, FRAMES, 800, 400)  # two seconds
        send(tx, FRAMES, 1500, 5000)
        triggered = until(capture, capture.SP_TRIGGERED)
        assert (triggered.reason, triggered.interface) == (TriggerReason.RATE, None)
        # Some of the 800 may be within the second, so this is all that can be checked: alone they trigger nothing.
        assert closed_file(capture).packets >= 1000
        end(capture)


@pytest.mark.parametrize("how", ["down", "carrier", "away"])
def test_a_link_that_is_lost_triggers_a_snapshot(daemon: Daemon, tmp_path: Path, how: str) -> None:
    with veth_pair("rcl0", "rcl1"), veth_pair("rck0", "rck1"):
        with CaptureSession(
            interfaces=["rcl1", "rck1"],
            socket_path=daemon.socket_path,
            savefile=tmp_path / "r.pcapng",
            recorder_duration=10,
            recorder_trigger_link_down=True,
        ) as capture:
            capture.wait_started(PATIENCE_S)
            send("rcl0", FRAMES, 10)
            capture.flush()
            time.sleep(0.3)
            match how:
                case "down":
                    ip("link", "set", "rcl1", "down")
                case "carrier":
                    ip("link", "set", "rcl0", "down")
                case _:
                    ip("link", "delete", "rcl1")
            triggered = until(capture, capture.SP_TRIGGERED)
            assert (triggered.reason, triggered.interface) == (TriggerReason.LINK_DOWN, "rcl1")
            assert closed_file(capture).packets == 10
            end(capture)
        if how == "away":
            ip("link", "add", "rcl0", "type", "veth", "peer", "name", "rcl1")


def test_the_last_interface_that_goes_away_leaves_a_snapshot(daemon: Daemon, tmp_path: Path) -> None:
    ip("link", "add", "rcm0", "type", "veth", "peer", "name", "rcm1")
    for name in ("rcm0", "rcm1"):
        ip("link", "set", name, "up")
    with recorded(
        daemon, "rcm1", tmp_path / "r.pcapng", recorder_duration=10, recorder_trigger_link_down=True, recorder_after=9
    ) as capture:
        capture.flush()
        send("rcm0", FRAMES, 10)
        capture.flush()
        ip("link", "delete", "rcm1")
        events, error = all_events(capture)
        assert isinstance(error, ChildError)
    (closed,) = messages(events, capture.SP_FILE_CLOSED)
    assert [frame for frame in read_file(closed.name).frames if frame == FRAMES[0]] == FRAMES * 10


RULE = f"""
[[rule]]
name = "bound"
users = [{USER}]
max_disk_bytes = 1_000_000
"""
CONFIGURATION = RULE + 'filter = "udp port 53"'


@contextlib.contextmanager
def sending(script: str) -> Generator[None, None, None]:
    """Have a process of its own send meanwhile: users' processes are forked, so that there are no threads here."""
    beginning = (
        f"import sys, time; sys.path.insert(0, {os.fspath(Path.cwd())!r})\n"
        "from pathlib import Path\n"
        "from tests.capture.helpers import local_frame\n"
        "from tests.support.traffic import build_frames, send\n"
        "def wait_for(path):\n"
        "    while not Path(path).exists(): time.sleep(0.01)\n"
    )
    with subprocess.Popen([sys.executable, "-c", beginning + script]) as process:
        try:
            yield
            assert process.wait(PATIENCE_S) == 0
        finally:
            process.kill()


@contextlib.contextmanager
def daemon_with(configuration: str, directory: Path) -> Generator[Daemon, None, None]:
    directory.mkdir(mode=0o755)
    (directory / "capd.toml").write_text(configuration)
    with running_daemon(directory, "--config", f"{directory}/capd.toml") as running:
        yield running


@pytest.mark.parametrize(
    ("configuration", "trigger_filter"),
    [
        (CONFIGURATION, "udp or len > 0"),
        (RULE + "max_snaplen_bytes = 54", "udp dst port 53 or ether[60] & 1 = 0 or ether[60] & 1 = 1"),
    ],
    ids=["filter", "snaplen"],
)
def test_a_trigger_sees_nothing_that_policy_does_not_allow(
    veth: tuple[str, str], user_dir: Path, configuration: str, trigger_filter: str
) -> None:
    tx, rx = veth
    ready, allowed = user_dir / "ready", user_dir / "allowed"
    with daemon_with(configuration, user_dir / "daemon") as daemon:

        def record() -> list[bool]:
            seen: list[bool] = []
            with capturing(
                daemon,
                interfaces=[rx],
                savefile=user_dir / "r.pcapng",
                recorder_duration=10,
                recorder_trigger_filter=trigger_filter,
            ) as capture:
                ready.touch()
                until(capture, capture.SP_TRIGGERED)
                seen.append(allowed.exists())
                end(capture)
            return seen

        script = (
            f"wait_for({os.fspath(ready)!r})\n"
            f"send({tx!r}, build_frames((64,)), 100, 1000)\n"
            "time.sleep(1)\n"
            f"Path({os.fspath(allowed)!r}).touch()\n"
            "(frame,) = build_frames((64,))\n"
            f"send({tx!r}, [frame[:36] + bytes([0, 53]) + frame[38:]], 1)\n"
        )
        with sending(script):
            assert as_user(record, USER) == [True]


# What goes wrong ------------------------------------------------------------------------------------------------

BAD = [
    ({"recorder_duration": 0.01}, "recorder_duration"),
    ({"recorder_duration": 1, "recorder_memory": 1}, "recorder_memory"),
    ({"recorder_memory": 10**9}, "recorder_memory"),
    ({"recorder_memory": 1.5}, "recorder_memory"),
    ({"recorder_after": 1}, "recorder_after"),
    ({"recorder_cool_down": 1}, "recorder_cool_down"),
    ({"recorder_duration": 1, "recorder_cool_down": 0}, "recorder_cool_down"),
    ({"recorder_duration": 1, "ringbuffer_files": 0}, "ringbuffer_files"),
    ({"recorder_trigger_rate": 5}, "recorder_trigger_rate"),
    ({"recorder_duration": 1, "recorder_after": -1}, "recorder_after"),
    ({"recorder_duration": 1, "recorder_trigger_rate": 0}, "recorder_trigger_rate"),
    ({"recorder_duration": 1, "recorder_trigger_filter": "é"}, "recorder_trigger_filter"),
    ({"recorder_duration": 1, "ringbuffer_packets": 5}, "recorder_memory"),
    ({"recorder_duration": 1, "autostop_filesize": 5}, "autostop_filesize"),
    ({"recorder_duration": 1, "autostop_files": 5}, "autostop_files"),
    ({"recorder_duration": 1, "max_packet_count": 5}, "max_packet_count"),
    ({"recorder_duration": 1, "use_libpcap": True}, "use_libpcap"),
    ({"recorder_duration": 1, "savefile": None}, "savefile"),
]


@pytest.mark.parametrize(("arguments", "argument"), BAD)
def test_what_a_recorder_cannot_be(
    daemon: Daemon, veth: tuple[str, str], tmp_path: Path, arguments: dict[str, object], argument: str
) -> None:
    with pytest.raises(InvalidArgument) as refused:
        CaptureSession(
            **{  # type: ignore[arg-type]
                "interfaces": [veth[1]],
                "savefile": tmp_path / "r.pcapng",
                "socket_path": daemon.socket_path,
                **arguments,
            }
        )
    assert refused.value.argument == argument


def test_a_trigger_filter_that_does_not_compile_is_refused(
    daemon: Daemon, veth: tuple[str, str], tmp_path: Path
) -> None:
    with (
        pytest.raises(ChildError) as refused,
        recorded(daemon, veth[1], tmp_path / "r.pcapng", recorder_duration=1, recorder_trigger_filter="no filter"),
    ):
        pass
    assert refused.value.failure is not None
    assert refused.value.failure.argument == "recorder_trigger_filter"


def test_a_recorder_larger_than_the_machine_is_refused(daemon: Daemon, veth: tuple[str, str], tmp_path: Path) -> None:
    half_mib = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // MIB // 2
    with (
        pytest.raises(ResourceError, match="smaller"),
        recorded(daemon, veth[1], tmp_path / "r.pcapng", recorder_memory=min(half_mib + 1, 65_536)),
    ):
        pass


def test_a_capture_that_is_no_recorder_has_no_snapshots(daemon: Daemon, veth: tuple[str, str], tmp_path: Path) -> None:
    with recorded(daemon, veth[1], tmp_path / "a.pcapng") as capture:
        with pytest.raises(InvalidArgument, match="no recorder"):
            capture.snapshot()
        for after in (-1, 10**6, float("nan"), "1"):
            with pytest.raises(InvalidArgument):
                capture.snapshot(after)  # type: ignore[arg-type]
        end(capture)


def test_a_directory_where_nothing_can_be_written_is_refused_at_once(
    daemon: Daemon, veth: tuple[str, str], tmp_path: Path
) -> None:
    mount = tmp_path / "ro"
    mount.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "none", str(mount)], check=True, timeout=10)
    try:
        with pytest.raises(DestinationError), recorded(daemon, veth[1], mount / "r.pcapng", recorder_duration=1):
            pass
    finally:
        unmount(mount)


@contextlib.contextmanager
def tiny_disk(directory: Path, size_bytes: int) -> Generator[Path, None, None]:
    mount = directory / "tiny"
    mount.mkdir()
    options = f"size={size_bytes},mode=777"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", str(mount)], check=True, timeout=10)
    try:
        yield mount
    finally:
        unmount(mount)


def test_a_full_disk_ends_a_snapshot_with_a_whole_record_and_the_recorder_goes_on(
    daemon: Daemon, veth: tuple[str, str], tmp_path: Path
) -> None:
    tx, rx = veth
    with (
        tiny_disk(tmp_path, 1_000_000) as disk,
        recorded(daemon, rx, disk / "r.pcapng", recorder_memory=16) as capture,
    ):
        send(tx, [local_frame(999)], 5000, 100_000, sequence_at=SEQUENCE_AT)
        with pytest.raises(DiskError, match="make room"):
            capture.snapshot()
        (closed,) = capture.files
        numbers = sequences(closed.name)
        assert numbers.tolist() == list(range(closed.packets))
        assert 800 < closed.packets < 1000
        assert closed.size_bytes == Path(closed.name).stat().st_size
        assert closed.last_timestamp_ns == times_ns(closed.name)[1]
        Path(closed.name).unlink()
        subprocess.run(["mount", "-o", "remount,size=20000000", str(disk)], check=True, timeout=10)
        assert sequences(capture.snapshot()).tolist() == list(range(5000))
        end(capture)
        assert capture.dropcount == 0


def test_a_disk_that_takes_nothing_costs_the_snapshot_and_not_the_recorder(
    daemon: Daemon, veth: tuple[str, str], tmp_path: Path
) -> None:
    tx, rx = veth
    with (
        ext4(tmp_path) as disk,
        recorded(daemon, rx, disk / "r.pcapng", recorder_memory=4, recorder_after=30) as capture,
    ):
        (worker,) = daemon.workers()[-1:]
        send(tx, [local_frame(1000)], 1000, 100_000)
        raised: list[ChildError] = []

        def take() -> None:
            try:
                capture.snapshot()
            except ChildError as error:
                raised.append(error)

        with in_background(take):
            until(capture, capture.SP_FILE)
            with frozen(disk):
                for number in range(10):  # 20 MB
                    send(tx, [local_frame(1000)], 2000, 50_000, sequence_at=SEQUENCE_AT)
                    assert memory_bytes(worker) <= 2 * 4 * MIB + MIB, number
        assert [type(error) for error in raised] == [ResourceError]
        assert "faster disk" in str(raised[0])
        (closed,) = capture.files
        assert len(read_file(closed.name).packets) == closed.packets >= 1000
        # The recorder has gone on, with the memory that it may have.
        assert sequences(capture.snapshot(after=0))[-1] == 1999
        assert memory_bytes(worker) <= 4 * MIB
        end(capture)
        assert capture.dropcount == 0


@contextlib.contextmanager
def ext4(directory: Path) -> Generator[Path, None, None]:
    image, mount = directory / "image", directory / "ext4"
    mount.mkdir()
    with image.open("wb") as file:
        file.truncate(100_000_000)
    subprocess.run(["mkfs.ext4", "-q", "-m", "0", str(image)], check=True, timeout=30)
    subprocess.run(["mount", "-o", "loop", str(image), str(mount)], check=True, timeout=30)
    try:
        yield mount
    finally:
        unmount(mount)


@contextlib.contextmanager
def frozen(mount: Path) -> Generator[None, None, None]:
    """Have whoever writes to a file system wait."""
    subprocess.run(["fsfreeze", "--freeze", str(mount)], check=True, timeout=30)
    try:
        yield
    finally:
        subprocess.run(["fsfreeze", "--unfreeze", str(mount)], check=True, timeout=30)


def test_policy_bounds_all_snapshots_together(veth: tuple[str, str], user_dir: Path) -> None:
    tx, rx = veth
    ready, sent = user_dir / "ready", user_dir / "sent"
    configuration = f'[[rule]]\nname = "little"\nusers = [{USER}]\nmax_disk_bytes = 1_000_000\n'
    with daemon_with(configuration, user_dir / "daemon") as daemon:

        def record() -> tuple[list[int], str]:
            with capturing(daemon, interfaces=[rx], savefile=user_dir / "r.pcapng", recorder_duration=60) as capture:
                ready.touch()
                wait_until(sent.exists, "packets were sent")
                sizes = [Path(capture.snapshot()).stat().st_size for _ in range(2)]
                with pytest.raises(ResourceError) as refused:
                    capture.snapshot()
                end(capture)
                return sizes, str(refused.value)

        script = (
            f"wait_for({os.fspath(ready)!r})\n"
            f"send({tx!r}, [local_frame(1000)], 400, 10_000)\n"
            f"Path({os.fspath(sent)!r}).touch()\n"
        )
        with sending(script):
            sizes, text = as_user(record, USER)
    assert [400_000 < size < 450_000 for size in sizes] == [True, True]
    assert "policy allows 1,000,000 bytes" in text
    assert len(list(user_dir.glob("r_*.pcapng"))) == 2


def test_a_user_may_have_so_much_memory(veth: tuple[str, str], user_dir: Path) -> None:
    quarter_mib = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // MIB // 4
    configuration = f'[[rule]]\nname = "user"\nusers = [{USER}]\n'
    with daemon_with(configuration, user_dir / "daemon") as daemon:

        def record(name: str, memory: int) -> None:
            path = user_dir / f"{name}.pcapng"
            with capturing(daemon, interfaces=[veth[1]], savefile=path, recorder_memory=memory) as capture:
                if memory < quarter_mib:
                    record("further", quarter_mib)
                end(capture)

        with pytest.raises(ResourceError, match="the recorder and the kernel's rings"):
            as_user(lambda: record("one", quarter_mib), USER)
        with pytest.raises(ResourceError, match="smaller recorder_memory"):
            as_user(lambda: record("two", 64), USER)


def test_a_worker_that_is_killed_leaves_nothing(daemon: Daemon, veth: tuple[str, str], tmp_path: Path) -> None:
    tx, rx = veth
    with recorded(
        daemon, rx, tmp_path / "r.pcapng", recorder_memory=16, recorder_trigger_filter="udp", name="killed"
    ) as capture:
        (worker,) = daemon.workers()[-1:]
        send(tx, FRAMES, 10_000, 100_000)
        capture.flush()
        os.kill(worker, signal.SIGKILL)
        with pytest.raises(ChildError):
            capture.snapshot()
    wait_until(lambda: not Path(f"/proc/{worker}").exists(), "the worker is gone")
    assert not any("capd-recorder" in each for each in descriptors_of(daemon.process.pid))
    assert list(tmp_path.iterdir()) == []
    assert list_captures(socket_path=daemon.socket_path) == ()


# One that stays -------------------------------------------------------------------------------------------------


def test_a_recorder_that_stays_is_asked_for_snapshots_by_others(
    daemon: Daemon, veth: tuple[str, str], tmp_path: Path
) -> None:
    tx, rx = veth
    with recorded(daemon, rx, tmp_path / "r.pcapng", recorder_duration=30, name="staying", detach=True) as capture:
        assert capture.capture_id is not None
    try:
        send(tx, FRAMES, 100)
        with CaptureSession.attach("staying", socket_path=daemon.socket_path) as attached:
            kind, message = attached.wait_for_event(timeout=PATIENCE_S)
            assert kind == attached.SP_RECORDING
            assert message.duration_s == 30
            path = attached.snapshot()
            assert path == os.fspath(tmp_path / Path(path).name)
            assert len(read_file(path).packets) == 100
        (summary,) = list_captures(socket_path=daemon.socket_path)
        assert (summary.name, summary.files_total) == ("staying", 1)
    finally:
        stop_capture("staying", socket_path=daemon.socket_path)
    wait_until(lambda: list_captures(socket_path=daemon.socket_path) == (), "it has ended")


async def test_an_async_session_takes_snapshots(daemon: Daemon, veth: tuple[str, str], tmp_path: Path) -> None:
    tx, rx = veth
    async with aio.CaptureSession(
        interfaces=[rx], savefile=tmp_path / "r.pcapng", recorder_duration=5, socket_path=daemon.socket_path
    ) as capture:
        send(tx, FRAMES, 100)
        path = await capture.snapshot(after=0.1)
        assert len(read_file(path).packets) == 100
        assert [closed.name for closed in capture.files] == [path]
        with pytest.raises(InvalidArgument):
            await capture.snapshot(after=-1)


# On the command line --------------------------------------------------------------------------------------------


def capctl(daemon: Daemon, *words: str) -> list[str]:
    return [sys.executable, "-m", "capd_client.cli", "--socket", daemon.socket_path, *words]


def test_capctl_records_and_takes_snapshots(daemon: Daemon, veth: tuple[str, str], tmp_path: Path) -> None:
    tx, rx = veth
    words = ["capture", "-i", rx, "-w", "r.pcapng", "--record", "duration:30", "--record", "memory:16"]
    words += ["--record", "after:0.1", "--trigger", "filter:udp", "--name", "typed"]
    with subprocess.Popen(
        capctl(daemon, *words), cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "Recording: the last 30 s, in up to 16 MiB of memory\n"
            send(tx, FRAMES, 100)
            words = capctl(daemon, "snapshot", "typed", "--after", "0.2")
            asked = subprocess.run(words, capture_output=True, text=True, timeout=20, check=False)
            assert (asked.returncode, asked.stderr) == (0, "")
            assert Path(asked.stdout).name.startswith("r_00001_")
            assert len(read_file(tmp_path / asked.stdout.strip()).packets) == 100
            assert process.stdout.readline() == f"File: {Path(asked.stdout).name}"
            assert process.stdout.readline().startswith("  complete: 100 packets, ")
            process.send_signal(signal.SIGUSR1)
            assert process.stdout.readline().startswith("File: r_00002_")
            assert process.stdout.readline().startswith("  complete: 100 packets, ")
            wait_until(lambda: triggered(tx, process, daemon), "a packet triggers")
            process.send_signal(signal.SIGINT)
            rest, errors = process.communicate(timeout=20)
            assert f"Triggered: {rx}: a packet that matches\nFile: r_00003_" in rest
            assert errors == ""
            assert process.returncode == 0
        finally:
            process.kill()


def triggered(interface: str, process: subprocess.Popen[str], daemon: Daemon) -> bool:
    """Whether a packet has led to a third snapshot: not within a second of the last one."""
    assert process.poll() is None
    send(interface, build_frames((64,)), 1)
    (summary,) = list_captures(socket_path=daemon.socket_path)
    return summary.files_total == 3


@pytest.mark.parametrize(
    "words", [["--trigger", "filter:"], ["--trigger", "rate:x"], ["--trigger", "link-down:1"], ["--record", "size:1"]]
)
def test_capctl_refuses_what_it_does_not_know(daemon: Daemon, words: list[str]) -> None:
    done = subprocess.run(
        capctl(daemon, "capture", "-i", "eth0", *words), capture_output=True, text=True, timeout=20, check=False
    )
    assert done.returncode == 2
    assert words[1] in done.stderr
