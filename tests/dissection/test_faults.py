"""Engines that die, hang, write garbage or leave out packets are typed errors; and nothing is left of them."""

import contextlib
import itertools
import os
import random
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from capd_client import EngineFailed, FieldFrame, ResourceError, read
from tests.dissection.files import engine, query, write
from tests.dissection.processes import descriptors, engines

pytestmark = pytest.mark.usefixtures("leaves_nothing")

#: A row, as it is asked for: a value, and the frame's number.
_ROW = r"printf '192.0.2.7\t%d\n'"


@pytest.fixture
def small(tmp_path: Path) -> Path:
    return write(tmp_path / "small.pcap", [query(b"a.example.org", number) for number in range(9)])


def numbers_until_failure(path: Path, program: Path, **arguments: Any) -> tuple[list[int], EngineFailed]:
    """Return the numbers of the frames that come, and what is raised behind them."""
    found: list[int] = []
    with read(path) as packets, packets.dissect("ip.src", program=program, **arguments) as frames:
        with pytest.raises(EngineFailed) as raised:
            found.extend(map(number_of, frames))
        assert list(frames) == []
    assert str(raised.value).isprintable()
    return found, raised.value


def number_of(item: object) -> int:
    assert isinstance(item, FieldFrame)
    return item.number


def sleeping() -> int:
    """Return the number of the engine's process, which sleeps, when it does."""
    until(lambda: any(words.startswith("sleep") for _, words in engines()))
    return next(number for number, words in engines() if words.startswith("sleep"))


def until(is_so: Callable[[], bool]) -> None:
    """Wait until something is so: of processes that are others' children it can only be looked for."""
    deadline_s = time.monotonic() + 30
    while not is_so():
        assert time.monotonic() < deadline_s
        time.sleep(0.005)


@pytest.mark.parametrize("given", [{}, {"capture_filter": "ip"}], ids=["the file itself", "fed"])
@pytest.mark.parametrize(
    "case",
    [
        ("exit 3", 0, "status 3"),
        ("echo 'what is wrong' >&2; exit 3", 0, "status 3: what is wrong"),
        (f"{_ROW} 1; kill -SEGV $$", 1, "signal 11"),
        (f"{_ROW} 1; {_ROW} 2; exit 1", 2, "status 1"),
        ("echo hello; exit 0", 0, "no answer: hello"),
        (f"{_ROW} 1; printf 'a\\tb\\tc\\n'; sleep 61.3", 1, "no answer"),
        (f"{_ROW} 2; {_ROW} 1; sleep 61.3", 1, "no answer: frame 1"),
        (f"{_ROW} 1; printf '192.0'; exit 0", 1, "no answer: 192.0"),
        ("head -c 200000 /dev/urandom | tr '\\t' x; exit 0", 0, "no answer"),
        (f"{_ROW} 1; exec cat /dev/zero", 1, "no answer"),
    ],
)
def test_an_engine_that_fails(small: Path, directory: Path, given: dict[str, str], case: tuple[str, int, str]) -> None:
    script, frames, text = case
    found, error = numbers_until_failure(small, engine(directory, script), **given)
    assert len(found) == frames
    assert text in str(error)


def test_one_that_leaves_packets_out(small: Path, directory: Path) -> None:
    script = f"{_ROW} 1; cat >/dev/null; exit 0"
    found, error = numbers_until_failure(small, engine(directory, script), capture_filter="ip")
    assert (found, str(error)) == ([1], "tshark has ended early, with 1 frames of 9 packets")


@pytest.mark.parametrize("script", ["exec sleep 61.3", f"{_ROW} 1; exec sleep 61.3", "sleep 61.3 & exec sleep 61.4"])
@pytest.mark.parametrize("given", [{}, {"capture_filter": "ip"}], ids=["the file itself", "fed"])
def test_one_that_stands_still(small: Path, directory: Path, script: str, given: dict[str, str]) -> None:
    begin_s = time.monotonic()
    found, error = numbers_until_failure(small, engine(directory, script), timeout_s=0.3, **given)
    assert len(found) == script.count("192.0.2.7")
    assert str(error) == "tshark stands still: nothing came of it within 0.3 s"
    assert time.monotonic() - begin_s < 20


def test_one_that_closes_its_output_and_stays(small: Path, directory: Path) -> None:
    _, error = numbers_until_failure(small, engine(directory, "exec sleep 61.3 >/dev/null"), timeout_s=0.3)
    assert "stands still" in str(error)


def test_what_it_says_is_not_kept_without_end(small: Path, directory: Path) -> None:
    script = f"{_ROW} 1; head -c 5000000 /dev/zero >&2; {_ROW} 2; ls -l /proc/self/fd/ >&2; exec sleep 61.3"
    with read(small) as packets, packets.dissect("ip.src", program=engine(directory, script)) as frames:
        assert [next(frames).number for _ in range(2)] == [1, 2]
        number = sleeping()
        said = Path(f"/proc/{number}/fd/2").stat()
        assert said.st_size == 1024 * 1024
        # Nothing of ours is open there but its streams.
        assert {path.name for path in Path(f"/proc/{number}/fd").iterdir()} <= {"0", "1", "2"}


def test_one_that_is_killed(small: Path, directory: Path) -> None:
    program = engine(directory, f"{_ROW} 1; exec sleep 61.3")
    with read(small) as packets, packets.dissect("ip.src", program=program) as frames:
        assert next(frames).number == 1
        os.kill(sleeping(), signal.SIGKILL)
        with pytest.raises(EngineFailed, match="signal 9"):
            next(frames)


def test_one_whose_guardian_is_killed(small: Path, directory: Path) -> None:
    program = engine(directory, f"{_ROW} 1; exec sleep 61.3")
    with read(small) as packets, packets.dissect("ip.src", program=program) as frames:
        assert next(frames).number == 1
        sleeping()
        (guardian,) = [number for number, words in engines() if "guardian.py" in words]
        os.kill(guardian, signal.SIGKILL)
        with pytest.raises(EngineFailed, match="signal 9"):
            next(frames)


def test_what_cannot_be_run(small: Path, directory: Path) -> None:
    program = engine(directory, "")
    with read(small) as packets, packets.dissect("ip.src", program=program) as frames:
        program.write_bytes(b"\x7fELF")
        with pytest.raises(EngineFailed, match="cannot be started"):
            next(frames)


def test_it_runs_as_nobody_without_a_configuration(small: Path, directory: Path) -> None:
    script = (
        "id -u >&2; grep -h '^Groups' /proc/self/status >&2; grep -h '^CapEff' /proc/self/status >&2;"
        "ulimit -c >&2; env | sort >&2; exit 1"
    )
    _, error = numbers_until_failure(small, engine(directory, script))
    text = str(error)
    assert "65534 Groups: CapEff: 0000000000000000 0 " in text
    assert "HOME=/nonexistent" in text
    assert "XDG_CACHE_HOME" not in text


_OWNER = """
import os, sys, threading
from capd_client import read

with read(sys.argv[1]) as packets, packets.dissect("ip.src", program=sys.argv[2]) as frames:
    next(frames)
    print("runs", flush=True)
    {how}
"""


@pytest.mark.parametrize(
    "how",
    ["os.kill(os.getpid(), 9)", "os._exit(1)", "raise SystemExit(1)", "threading.Event().wait()"],
    ids=["killed", "at once", "in order", "by Ctrl-C"],
)
def test_it_ends_with_its_owner_however_that_ends(small: Path, directory: Path, how: str) -> None:
    program = engine(directory, f"{_ROW} 1; exec sleep 61.3")
    words = [sys.executable, "-c", _OWNER.format(how=how), str(small), str(program)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as owner:
        try:
            assert owner.stdout is not None
            assert owner.stdout.readline() == b"runs\n"
            if "wait" in how:
                sleeping()
                owner.send_signal(signal.SIGINT)
            owner.wait(30)
        finally:
            owner.kill()
    until(lambda: not engines())


def test_it_does_not_end_with_the_thread_that_has_begun_it(small: Path) -> None:
    with read(small) as packets, packets.dissect("ip.src", capture_filter="ip") as frames:
        first: list[int] = []
        thread = threading.Thread(target=lambda: first.append(next(frames).number))
        thread.start()
        thread.join()
        assert first == [1]
        assert [frame.number for frame in frames] == list(range(2, 10))


def test_without_room_for_descriptors_it_is_an_error_and_none_is_left(small: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    for more in range(1, 14):
        with read(small) as packets, packets.dissect("ip.src", capture_filter="ip") as frames:
            highest = max(map(int, descriptors()))
            resource.setrlimit(resource.RLIMIT_NOFILE, (highest + more, before[1]))
            try:
                assert next(frames).number == 1
            except ResourceError:
                assert list(frames) == []
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_left_at_any_time_nothing_stays(small: Path, directory: Path) -> None:
    """Randomly: given up, or with the engine or its guardian killed meanwhile."""
    rng = random.Random(20)
    program = engine(directory, 'exec tshark "$@"')
    for _ in range(12):
        given: dict[str, Any] = rng.choice(({}, {"capture_filter": "ip"}, {"restart_packets": 2}))
        names = rng.choice((("ip.src",), ()))
        with read(small) as packets, packets.dissect(*names, program=program, **given) as frames:
            list(itertools.islice(frames, rng.randrange(6)))
            if rng.random() < 0.5 and (running := engines()):
                os.kill(rng.choice(running)[0], signal.SIGKILL)
                with contextlib.suppress(EngineFailed):  # it may have been done
                    list(frames)
        assert engines() == []
