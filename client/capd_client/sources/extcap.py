"""Extcap programs as streams: one is started for a capture, by a guardian that ends it with the capture."""

import contextlib
import errno
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

from capd_client.errors import InvalidArgument
from capd_client.sources.opened import EXTCAP, OpenedStream, Outcome
from capd_client.sources.programs import ExtcapInterface, answer_of, interface_of, interfaces
from capd_client.sources.sentences import WrongOptionError, arguments_of, data_links_of, options_of, split
from capd_protocol.messages import Capabilities
from capd_protocol.messages.interfaces import InterfaceInfo, InterfaceType, LinkLayer
from capd_protocol.text import escaped, quoted

#: How long a program may take to open its FIFO. Chosen: as long as anything else that is waited for before a capture
#: begins. What it connects to may take longer: it opens the FIFO before that.
_OPEN_S = 10.0
#: How long a guardian may take beyond that, on a busy machine; and at the end, when it has killed the program.
_GUARDIAN_S = 10.0
_GUARDIAN = str(Path(__file__).with_name("guardian.py"))
#: Of a guardian: the last part of what a program wrote, as JSON.
_MAX_MESSAGE_BYTES = 65536


class RunningProgram:
    """A program that writes a stream (``opened.Feeder``)."""

    def __init__(
        self, interface: ExtcapInterface, guardian: "subprocess.Popen[bytes]", lifeline: socket.socket
    ) -> None:
        self._interface = interface
        self._guardian = guardian
        self._lifeline = lifeline
        self._outcome: Outcome | None = None
        #: So that nobody has to wait for the guardian, and it is no zombie nevertheless.
        self._waiting = threading.Thread(target=guardian.wait, daemon=True)

    def outcome(self) -> Outcome | None:
        """Return how the program has ended by itself: badly, or with a complaint."""
        if self._outcome is None and self._lifeline.fileno() >= 0:
            with contextlib.suppress(OSError):
                data = self._lifeline.recv(_MAX_MESSAGE_BYTES, socket.MSG_DONTWAIT)
                self._outcome = _outcome(self._interface, json.loads(data)) if data else None
        return self._outcome

    def end(self) -> None:
        """Have it end."""
        if self._lifeline.fileno() >= 0:
            self._lifeline.close()
            self._waiting.start()

    def wait(self) -> None:
        """Wait until it has ended."""
        self._waiting.join(_GUARDIAN_S)
        if self._waiting.is_alive():
            self._guardian.kill()
            self._waiting.join()


def open_extcap(text: str) -> OpenedStream:
    """Start a program, and return where its packets are read.

    Args:
        text: an interface's name, and options of it behind commas: ``randpkt,count=5``.

    Raises:
        InterfaceError: there is no such interface.
        InvalidArgument: an option is not possible, or is missing.
        OSError: the program does not start, or does not open its FIFO.
    """
    name, given = split(text)
    interface = interface_of(name)
    try:
        options = arguments_of(options_of(answer_of(interface, "--extcap-config")), given)
    except WrongOptionError as error:
        raise InvalidArgument(f"{EXTCAP}{quoted(name)}: {error}", argument="interfaces") from error
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        with theirs:
            program = RunningProgram(interface, _guardian(interface, options, theirs.fileno()), ours)
    except BaseException:
        ours.close()
        raise
    try:
        return OpenedStream(_reading_end(interface, ours), program)
    except BaseException:
        program.end()
        program.wait()
        raise


def _guardian(interface: ExtcapInterface, options: list[str], lifeline_fd: int) -> "subprocess.Popen[bytes]":
    words = [str(lifeline_fd), tempfile.gettempdir(), str(_OPEN_S), interface.program, interface.name, *options]
    return subprocess.Popen(
        # Without what is not the standard library's: nothing more has to be found and loaded.
        [sys.executable, "-I", "-S", _GUARDIAN, *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        pass_fds=(lifeline_fd,),
        # A Ctrl-C at our terminal is ours to handle.
        start_new_session=True,
    )


def _reading_end(interface: ExtcapInterface, lifeline: socket.socket) -> int:
    """Return the descriptor that the guardian passes when the program has opened its FIFO.

    Raises:
        OSError: it has not.
    """
    lifeline.settimeout(_OPEN_S + _GUARDIAN_S)
    data, ancillary, _, _ = lifeline.recvmsg(_MAX_MESSAGE_BYTES, socket.CMSG_SPACE(4), socket.MSG_CMSG_CLOEXEC)
    for level, kind, payload in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            return int.from_bytes(payload[:4], sys.byteorder)
    message = json.loads(data) if data else {"error": "its guardian has ended"}
    raise ChildProcessError(errno.ECHILD, _text(interface, message))


def _outcome(interface: ExtcapInterface, message: dict[str, Any]) -> Outcome | None:
    if not message["status"] and not message["stderr"].strip():
        return None
    return Outcome(_text(interface, message), is_failure=bool(message["status"]))


def _text(interface: ExtcapInterface, message: dict[str, Any]) -> str:
    """Return what people are to know of a program that has ended, or that is no use."""
    program, status = quoted(os.path.basename(interface.program)), message.get("status")  # noqa: PTH119
    if (error := message.get("error")) is not None:
        return f"{program} cannot be started: {error}"
    if message.get("is_late"):
        text = f"{program} has not opened the FIFO that it is to write to within {_OPEN_S:g} s"
    elif status is not None and status < 0:
        text = f"{program} was ended by {_signal_name(-status)}"
    else:
        text = f"{program} has ended with status {status}"
    complaint = message.get("stderr", "").strip()
    return f"{text}: {escaped(complaint)}" if complaint else text


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"


def extcap_interfaces() -> tuple[InterfaceInfo, ...]:
    """Return the interfaces of all programs."""
    found, _ = interfaces()
    kind = InterfaceType.EXTCAP
    return tuple(
        InterfaceInfo(
            name=EXTCAP + each.name, number=0, description=each.display, interface_type=kind, may_capture=True
        )
        for each in found
    )


def extcap_capabilities(name: str, monitor_mode: bool) -> Capabilities:
    """Return the link-layer types of an interface.

    Raises:
        InterfaceError: there is no such interface, or its program does not answer.
        InvalidArgument: it has no monitor mode.
    """
    if monitor_mode:
        raise InvalidArgument(f"{quoted(name)} has no monitor mode: leave it out", argument="monitor_mode")
    interface = interface_of(split(name.removeprefix(EXTCAP))[0])
    found = data_links_of(answer_of(interface, "--extcap-dlts"))
    layers = tuple(LinkLayer(dlt=each.dlt, name=each.name, description=each.display) for each in found)
    return Capabilities(can_rfmon=False, link_layers=layers, timestamp_types=())
