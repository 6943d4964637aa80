"""Nobody but the daemon makes lines of its log, whatever they call their files, and whatever goes wrong with them."""

import logging
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest

from capd.printable import traceback_of
from capd.service.log import Formatter
from capd_client import CaptureSession, ChildError
from capd_protocol.formats.ring_index import ring_file_name
from capd_protocol.text import escaped, quoted
from tests.capture.helpers import capturing, local_frame, until
from tests.support.daemon import running_daemon
from tests.support.traffic import send

#: A line for syslog's priorities, an entry that looks like the daemon's own, and what changes a terminal.
EVIL = (
    'a\n<3>kernel: panic\ngranted: user 0 (process 1): start interfaces="eth0"\r\x1b[2J\x9b31m\u2028\u202e\u200b\x85z'
)
SHOWN = (
    r'a\n<3>kernel: panic\ngranted: user 0 (process 1): start interfaces="eth0"\r\x1b[2J\x9b31m\u2028\u202e\u200b\x85z'
)


def test_what_is_not_printable_is_escaped_and_nothing_else() -> None:
    assert escaped(EVIL) == SHOWN
    assert escaped("für später, \\n, 日本 'a'") == "für später, \\n, 日本 'a'"
    assert escaped("\udcff\ue000\U000e0001\t") == r"\udcff\ue000\U000e0001\t"
    assert quoted("für später.pcapng") == "für später.pcapng"
    assert quoted("a\nb") == r"'a\nb'"


def formatted(log: Callable[[logging.Logger], None]) -> list[str]:
    lines: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.extend(self.format(record).split("\n"))

    logger = logging.getLogger("test of the log")
    logger.propagate = False
    handler = Keep()
    handler.setFormatter(Formatter("capd: %(message)s"))
    logger.handlers = [handler]
    log(logger)
    assert all(line.isprintable() for line in lines)
    return lines


def test_a_record_is_one_line() -> None:
    assert formatted(lambda log: log.error("capture %d: %s", 7, EVIL)) == [f"capd: capture 7: {SHOWN}"]
    assert formatted(lambda log: log.error(EVIL)) == [f"capd: {SHOWN}"]


def raise_from_each_other() -> None:
    try:
        try:
            raise KeyError(EVIL)
        except KeyError:
            raise OSError(5, EVIL, EVIL)  # noqa: B904  # so that it is the context
    except OSError as error:
        last = RuntimeError(EVIL)
        last.add_note(EVIL)
        raise last from error


def raise_group() -> None:
    raise ExceptionGroup(EVIL, [ValueError(EVIL), ExceptionGroup("inner", [SyntaxError(EVIL, ("f", 1, 1, EVIL))])])


class WorseError(Exception):
    """Says what it likes, where Python looks for its name."""


WorseError.__qualname__ = EVIL


def raise_worse() -> None:
    raise WorseError(EVIL)


@pytest.mark.parametrize(("act", "expected"), [(raise_from_each_other, 3), (raise_group, 3), (raise_worse, 1)])
def test_a_traceback_has_its_own_lines_and_no_others(act: Callable[[], None], expected: int) -> None:
    def log(logger: logging.Logger) -> None:
        try:
            act()
        except Exception:
            logger.exception("the task of %s failed", EVIL)

    first, *lines = formatted(log)
    assert first == f"capd: the task of {SHOWN} failed"
    assert "Traceback (most recent call last):" in lines
    assert any(line.startswith("  File ") and line.endswith(f"in {act.__name__}") for line in lines)
    starts = ("<", "granted", "kernel", "panic")
    assert not [line for line in lines if line.lstrip(" |").startswith(starts)]
    assert sum(r"\ngranted: user 0" in line for line in lines) >= expected


def test_a_traceback_says_what_pythons_says() -> None:
    """But for the frames of groups."""
    raised: list[BaseException] = []
    try:
        try:
            raise KeyError("first")
        except KeyError as error:
            raise RuntimeError("second") from error
    except RuntimeError as error:
        raised.append(error)
    assert traceback_of(raised[0]) + "\n" == "".join(traceback.format_exception(raised[0]))


_UNCAUGHT = """
import sys, threading
from capd.service import log
log.begin(20, "capd: ")
evil = sys.argv[1]
def fail():
    raise ValueError(evil)
class Bad:
    def __del__(self):
        fail()
thread = threading.Thread(target=fail)
thread.start()
thread.join()
bad = Bad()
del bad
import warnings
warnings.warn(evil)
fail()
"""
_WORKER = """
import os, socket, sys
from capd.worker import __main__
def run(control, confinement):
    raise ValueError(sys.argv[1])
ours, theirs = socket.socketpair()
os.setsid = lambda: None
__main__._work(run, ours, None)
"""
_THREAD = """
import sys, threading
from capd.printable import escape_uncaught
escape_uncaught()
def fail():
    raise ValueError(sys.argv[1])
thread = threading.Thread(target=fail)
thread.start()
thread.join()
fail()
"""


@pytest.mark.parametrize(
    ("code", "expected"), [(_UNCAUGHT, 4), (_WORKER, 1), (_THREAD, 2)], ids=["daemon", "worker", "others"]
)
def test_what_nobody_catches_makes_no_lines_either(code: str, expected: int) -> None:
    command = [sys.executable, "-P", "-c", code, EVIL]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    assert ended.returncode == 1
    lines = ended.stderr.split("\n")
    assert sum(SHOWN in line for line in lines) == expected
    assert not [line for line in lines if line.startswith(("<", "granted")) or not line.isprintable()]


# With a daemon --------------------------------------------------------------------------------------------------


#: As a service the daemon puts nothing before its records, so that priorities would count. There is no journal here:
#: all goes to its standard error.
_AS_SERVICE = """
import os, sys
from pathlib import Path
from capd.policy import audit
from capd.__main__ import main
audit._JOURNAL = Path("/nowhere")
os.environ["JOURNAL_STREAM"] = "0:0"
sys.exit(main(sys.argv[sys.argv.index("capd", 2) + 1 :]))
"""


@pytest.mark.parametrize("as_service", [False, True], ids=["by hand", "as a service"])
def test_a_file_name_with_line_ends_makes_no_line(veth: tuple[str, str], user_dir: Path, as_service: bool) -> None:
    tx, rx = veth
    prefix = (sys.executable, "-P", "-c", _AS_SERVICE) if as_service else ()
    name = "r\n<3>kernel: panic\ngranted: user 0 (process 1): start\x1b[2J.pcapng"
    now_s = int(time.time())
    # All names that a snapshot could have for a while: it fails, and the daemon says under which.
    for second in range(now_s, now_s + 8):
        for number in range(1, 101):
            (user_dir / ring_file_name(name, number, time.localtime(second))).touch()
    with running_daemon(user_dir, prefix=prefix) as daemon:
        path = user_dir / name
        with capturing(
            daemon, interfaces=[rx], savefile=path, recorder_duration=1, recorder_trigger_filter="ether[12:2] = 0x88b5"
        ) as capture:
            send(tx, [local_frame(100)], 1)
            text = until(capture, capture.SP_SNAPSHOT_FAILED)
        assert "exist already" in text
        assert text.isprintable()
        assert "a snapshot failed: " in daemon.log
        assert daemon.terminate() == 0
        lines = daemon.log.split("\n")
    assert any(r"\ngranted: user 0 (process 1): start\x1b[2J" in line for line in lines)
    assert not [line for line in lines if not line.isprintable()]
    starts = ("<", "kernel", "granted: user 0 (process 1): start\x1b")
    assert not [line for line in lines if line.removeprefix("capd: ").startswith(starts)]


def test_a_refusal_quotes_a_name_on_one_line(veth: tuple[str, str], user_dir: Path) -> None:
    with (
        running_daemon(user_dir) as daemon,
        pytest.raises(ChildError, match="stay free") as refused,
        CaptureSession(
            interfaces=veth[1],
            savefile=user_dir / "r\nx.pcapng",
            ringbuffer_duration=1,
            ringbuffer_free_space=2**31,
            socket_path=daemon.socket_path,
        ),
    ):
        raise AssertionError("entered")
    assert r"'r\nx.pcapng'" in str(refused.value)
    assert str(refused.value).isprintable()
