"""``capctl`` where no daemon runs, where nobody reads what it prints, and where Ctrl-C comes at once: it ends quietly.

Each command is run in a few ways; with ``CAPD_ROUNDS=50`` in the environment, 50 times in each.
"""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Generator
from pathlib import Path

import pytest

from tests.client.helpers import PATIENCE_S

#: As it is installed: what is about its first moments is not to be seen with "python -m".
CAPCTL = Path(sys.executable).with_name("capctl")
ROUNDS = int(os.environ.get("CAPD_ROUNDS", "0"))
#: Chosen: a command has begun with its work by then.
_LATEST_S = 0.1

#: Every command, with words with which it does something; there is no daemon.
COMMANDS: dict[str, tuple[str, ...]] = {
    "capture": ("-i", "any", "-w", "c.pcapng", "-a", "duration:0.1"),
    "read": ("no.pcapng",),
    "columns": ("no.pcapng", "ip.src"),
    "dissect": ("no.pcapng",),
    "decode": ("02:00:5e:00:00:01 02:00:5e:00:00:02 88b5" + 46 * "00",),
    "files": ("no.pcapng",),
    "extract": ("no.pcapng",),
    "merge": ("no.pcapng", "-w", "merged.pcapng"),
    "cut": ("no.pcapng", "-w", "cut.pcapng"),
    "list": (),
    "attach": ("1",),
    "stop": ("1",),
    "rotate": ("1",),
    "flush": ("1",),
    "snapshot": ("1",),
    "revoke": (),
    "whoami": (),
    "send": ("no.pcapng", "-i", "any"),
    "interfaces": (),
    "linktypes": ("any",),
    "stats": ("--once", "--interval", "0.1"),
    "watch": ("--socket", "/nowhere"),
    "install-extcap": (),
    "completion": ("bash",),
    "help": (),
}
#: Where Ctrl-C shall find it at work, if it comes so late.
ENDLESS = {"capture": ("-i", "any", "-w", "c.pcapng"), "stats": (), "watch": ()}


#: What is done to the standard streams, and what a shell says for that; the other ones are read.
STREAMS = {
    "as they are": "",
    "no output": ">&-",
    "output that nobody reads": ">&{unread}",
    "no errors": "2>&-",
    "errors that nobody reads": "2>&{unread}",
    "no input": "<&-",
    "no stream": "<&- >&- 2>&-",
    "input and output that were left": "<&{unwritten} >&{unread}",
}

#: What the interpreter says of a Ctrl-C before it has come to a line of a program.
INTERPRETERS_OWN = ("Fatal Python error: init_", "python: failed to set __main__.__loader__")
#: And goes on: whether what is to be run can be imported from was not found out.
LOOKING_FOR_A_PACKAGE = re.compile(
    r"Failed checking if argv\[0\] is an import path entry\n.*?KeyboardInterrupt\n", re.DOTALL
)
BEFORE_THE_FIRST_LINE = re.compile(
    r'Traceback \(most recent call last\):\n  File "[^"]*/capctl", line 0, in <module>\nKeyboardInterrupt\n'
)


@contextlib.contextmanager
def run(directory: Path, *words: str, redirections: str = "") -> Generator[subprocess.Popen[str], None, None]:
    """Run a command as a shell does."""
    without = {name: value for name, value in os.environ.items() if name not in ("CAPD_SOCKET", "XDG_CONFIG_HOME")}
    unwritten, gone = os.pipe()
    os.close(gone)
    gone, unread = os.pipe()
    os.close(gone)
    redirected = redirections.format(unwritten=unwritten, unread=unread)
    try:
        with subprocess.Popen(
            ["bash", "-c", f'exec "$@" {redirected}', "bash", CAPCTL, *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=directory,
            env={**without, "HOME": str(directory)},
            start_new_session=True,
            pass_fds=(unwritten, unread),
        ) as process:
            try:
                yield process
            finally:
                process.kill()
    finally:
        os.close(unwritten)
        os.close(unread)


def check(process: subprocess.Popen[str]) -> None:
    """Check that a process ended by itself or by Ctrl-C, and how."""
    output, errors = process.communicate(timeout=PATIENCE_S)
    # The interpreter's own first milliseconds, in which there is no code of anybody's: it has no other way to end.
    if (process.returncode == 1 and errors.startswith(INTERPRETERS_OWN)) or BEFORE_THE_FIRST_LINE.fullmatch(errors):
        return
    for text in (output, LOOKING_FOR_A_PACKAGE.sub("", errors)):
        assert "Traceback" not in text, errors
        assert "Exception ignored" not in text, errors
        assert "Error" not in text, errors
    assert process.returncode in (0, 1, 2, 3, 130, -signal.SIGINT), (process.returncode, errors)


@pytest.mark.parametrize("way", range(ROUNDS * len(STREAMS) or 1))
@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_ends_quietly_whatever_its_streams_are(tmp_path: Path, command: str, way: int) -> None:
    streams = list(STREAMS.values())
    # In a single round, each command has another of them.
    at = way if ROUNDS else list(COMMANDS).index(command)
    with run(tmp_path, command, *COMMANDS[command], redirections=streams[at % len(streams)]) as process:
        check(process)


@pytest.mark.parametrize("number", range(ROUNDS or 1))
@pytest.mark.parametrize("command", COMMANDS)
def test_ctrl_c_ends_a_command_quietly_at_any_moment(tmp_path: Path, command: str, number: int) -> None:
    delay_s = _LATEST_S * (number + list(COMMANDS).index(command) / len(COMMANDS)) / (ROUNDS or 1)
    with run(tmp_path, command, *ENDLESS.get(command, COMMANDS[command])) as process:
        time.sleep(delay_s)  # it is a moment that is meant
        os.killpg(process.pid, signal.SIGINT)
        check(process)


def test_every_command_is_there() -> None:
    """None is left out of what is tested."""
    shown = subprocess.run([CAPCTL, "--help"], capture_output=True, text=True, check=True, timeout=PATIENCE_S).stdout
    assert re.findall(r"^    ([a-z-]+)(?:  |$)", shown, re.MULTILINE) == list(COMMANDS)
