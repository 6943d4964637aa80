"""Other hosts whose capd captures for Wireshark, over ssh: which there are, what they have, and a capture there."""

import contextlib
import os
import re
import shlex
import subprocess
import time
from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from capd_client.errors import CaptureError, InvalidArgument
from capd_client.extcap.configuration import REMOTE_INTERFACE, Words, words_of
from capd_client.extcap.watching import Signals, Toolbar, Watch
from capd_protocol.text import counted, quoted

#: Of a person's own, a host a line.
_FILE = "capd/extcap-hosts"
#: Chosen: a list that is longer is read by nobody.
_MAX_HOSTS, _MAX_FILE_BYTES = 100, 65_536
#: A name of 253, as DNS has it, and what may stand beside it.
_MAX_TEXT_CHARACTERS = 300
_HOST = re.compile(
    r"(?:ssh://)?(?:(?P<user>\w[\w.+-]*)@)?(?P<host>\w[\w.-]*|\[[0-9A-Fa-f:.]+(?:%\w+)?\])(?::(?P<port>\d{1,5}))?/?",
    re.ASCII,
)
#: Nobody is asked for a password: there is no terminal. What must be known of the host, its user's configuration says.
_SSH = ("ssh", "-T", "-o", "BatchMode=yes", "-o", "ConnectTimeout=10")
#: There, what is started ends well as soon as nobody is here any more; packets come on standard output.
_ENDING = 'exec 3<&0; { cat <&3; kill -INT $$; } >/dev/null 2>&1 & exec "$@" 3<&- </dev/null'
#: How long a host may take to say what it has. Chosen: somebody waits for it.
_ANSWER_S = 15.0
#: How long a capture there may take to end. Chosen: some times what the longest way takes; it ends by itself then.
_END_S = 3.0
_READ_BYTES = 65_536
#: Of what is not understood, for a sentence.
_MAX_SAID_BYTES = 1000


# What is looked at, of the lines of JSON that capctl prints.


class _Interface(msgspec.Struct):
    name: str
    may_capture: bool


class _Packets(msgspec.Struct, tag_field="event", tag="packets"):
    packets_total: int


class _Counters(msgspec.Struct):
    kernel_drops_total: int
    writer_drops_total: int


class _Ended(msgspec.Struct, tag_field="event", tag="ended"):
    interfaces: list[_Counters]


class _Error(msgspec.Struct, tag_field="event", tag="error"):
    text: str


_Event = _Packets | _Ended | _Error


class Host(NamedTuple):
    """A host.

    Attributes:
        name: its name or address.
        user: at that host; None: as ssh has it.
        port: of its ssh server; None: as ssh has it.
    """

    name: str
    user: str | None
    port: str | None

    def command(self, *words: str) -> list[str]:
        """Return the command that runs another one there."""
        login = ["-l", self.user] if self.user else []
        port = ["-p", self.port] if self.port else []
        return [*_SSH, *login, *port, "--", self.name.strip("[]"), shlex.join(words)]


def host_of(text: str) -> Host | None:
    """Return the host that ``ssh://[USER@]HOST[:PORT]`` names, with or without the beginning; None: it names none."""
    found = _HOST.fullmatch(text) if len(text) <= _MAX_TEXT_CHARACTERS else None
    return Host(found["host"], found["user"], found["port"]) if found is not None else None


def checked_host(text: str) -> Host:
    """Return the host that a text names.

    Raises:
        InvalidArgument: it names none.
    """
    found = host_of(text)
    if found is None:
        raise InvalidArgument(f"{quoted(text)} is no host: one is written ssh://USER@HOST, or ssh://USER@HOST:PORT")
    return found


def hosts_file(environment: Mapping[str, str]) -> str:
    """Return where a person's hosts are."""
    home = environment.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")  # noqa: PTH111
    return os.path.join(home, _FILE)  # noqa: PTH118


def listed_hosts(path: str) -> list[str]:
    """Return the hosts of a file, as ``[USER@]HOST[:PORT]``; what is none is left out, and so is a file that is not."""
    try:
        with open(path, "rb") as file:  # noqa: PTH123  # pathlib takes a while, which Wireshark waits for
            text = file.read(_MAX_FILE_BYTES).decode("utf-8", "replace")
    except OSError:
        return []
    lines = (line.partition("#")[0].strip() for line in text.splitlines())
    found = (line.removeprefix("ssh://").rstrip("/") for line in lines if host_of(line) is not None)
    return list(dict.fromkeys(found))[:_MAX_HOSTS]


def interfaces_there(host: Host) -> list[tuple[str, str]]:
    """Return the interfaces of a host that can be captured on there, each with what people read.

    Raises:
        CaptureError: it does not say.
    """
    command = host.command("capctl", "interfaces", "--json")
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_ANSWER_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise CaptureError(f"{quoted(host.name)} did not answer within {_ANSWER_S:g} s") from error
    except OSError as error:
        raise CaptureError(f"ssh cannot be run: {error.strerror}") from error
    found: list[tuple[str, str]] = []
    for line in done.stdout.splitlines():
        with contextlib.suppress(msgspec.DecodeError):
            known = msgspec.json.decode(line, type=_Interface)
            found += [(known.name, known.name)] if known.may_capture else []
    if not found and done.returncode:
        said = done.stderr[:_MAX_SAID_BYTES].decode("utf-8", "replace").strip()
        raise CaptureError(f"{quoted(host.name)} does not say what it has: {said}")
    return found


def run(host: Host, words: Words, fifo: int, toolbar: Toolbar, signals: Signals) -> str | None:
    """Capture there until somebody ends it; return what is to be said at its end, if anything.

    Args:
        host: where.
        words: how.
        fifo: where packets go; it has a reader.
        toolbar: Wireshark's.
        signals: what ends it.

    Raises:
        CaptureError: it was refused, or has failed.
    """
    interface = words.settings.get(REMOTE_INTERFACE)
    wanted = words_of(words.settings, interface, words.capture_filter)
    command = host.command("sh", "-c", _ENDING, "sh", *wanted)
    try:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=fifo, stderr=subprocess.PIPE)
    except OSError as error:
        raise CaptureError(f"ssh cannot be run: {error.strerror}") from error
    capture = _There(host, process, toolbar)
    try:
        capture.follow(Watch(signals, fifo, toolbar, _press_nothing))
    finally:
        process.kill()
        process.wait()
    return capture.said()


def _press_nothing(_control: int) -> None:
    """Do nothing: no button is for a capture that nobody else has."""


class _There:
    """A capture on another host, and what is heard of it."""

    def __init__(self, host: Host, process: "subprocess.Popen[bytes]", toolbar: Toolbar) -> None:
        self._host = host
        self._process = process
        self._toolbar = toolbar
        self._waiting = b""
        #: What was not understood: ssh's own words, or a shell's.
        self._other = b""
        self._error: str | None = None
        self._packets = self._drops = 0
        self._is_asked_to_end = False
        toolbar.allow()

    def follow(self, watch: Watch) -> None:
        """Wait for the end.

        Raises:
            CaptureError: it was refused, or has failed.
        """
        assert self._process.stderr is not None
        descriptor = self._process.stderr.fileno()
        os.set_blocking(descriptor, False)
        watch.add(descriptor)
        deadline_s: float | None = None
        while self._hear(descriptor):
            shown_in_s = self._toolbar.show_counts(self._packets, self._drops)
            if watch.is_left or (deadline_s is not None and time.monotonic() >= deadline_s):
                return
            if watch.is_over and deadline_s is None:
                self._end()
                deadline_s = time.monotonic() + _END_S
            watch.wait(None if deadline_s is None else deadline_s - time.monotonic(), shown_in_s)
        self._toolbar.show_counts(self._packets, self._drops, is_last=True)
        status = self._process.wait()
        if self._error is not None:
            raise CaptureError(f"{quoted(self._host.name)}: {self._error}")
        if status and not self._is_asked_to_end:
            said = self._other.decode("utf-8", "replace").strip() or f"ssh has ended with status {status}"
            raise CaptureError(f"{quoted(self._host.name)}: {said}")

    def _end(self) -> None:
        """Have it end well there: nobody is here any more, as it sees that."""
        self._is_asked_to_end = True
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()

    def _hear(self, descriptor: int) -> bool:
        """Take what was said; return whether there may be more."""
        try:
            while data := os.read(descriptor, _READ_BYTES):
                *lines, self._waiting = (self._waiting + data).split(b"\n")
                for line in lines:
                    self._take(line)
        except BlockingIOError:
            return True
        return False

    def _take(self, line: bytes) -> None:
        try:
            event = msgspec.json.decode(line, type=_Event)
        except msgspec.ValidationError:
            return  # another event
        except msgspec.DecodeError:
            self._other = (self._other + line + b"\n")[-_MAX_SAID_BYTES:]
            return
        match event:
            case _Packets():
                self._packets = event.packets_total
            case _Ended():
                self._drops = sum(each.kernel_drops_total + each.writer_drops_total for each in event.interfaces)
            case _Error():
                self._error = event.text

    def said(self) -> str | None:
        """Return what is to be said at the end: what was lost."""
        if not self._drops:
            return None
        return f"{counted(self._drops, 'packet')} dropped, {self._packets:,} captured"
