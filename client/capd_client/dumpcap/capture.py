"""A capture, as dumpcap does it: through the daemon, or with this program's own rights where there is none."""

import contextlib
import os
import select
import signal
import tempfile
import threading
from collections.abc import Generator, Sequence
from types import FrameType
from typing import Any, cast

import msgspec

from capd_client.blocking.session import CaptureSession
from capd_client.dumpcap.command_line import CommandLine, InterfaceOptions
from capd_client.dumpcap.failures import words_of
from capd_client.dumpcap.filter_listing import NoSuchFilter, lines_of
from capd_client.dumpcap.interfaces import chosen
from capd_client.dumpcap.speech import ParentGone, Speech, ToParent
from capd_client.errors import CaptureEnded, CaptureError, ChildError
from capd_client.output.destinations import live_destination_of
from capd_client.request.options import CaptureArguments, CaptureInterface
from capd_protocol.arguments import MAX_RING_FILES, RANGES
from capd_protocol.formats.linktypes import DLT_EN10MB
from capd_protocol.messages import (
    EndReason,
    Failure,
    FailureCode,
    FileClosed,
    FileOpened,
    InterfaceCounters,
    PacketCount,
)

EXIT_FAILED = 1
_STANDARD_ERROR = 2
#: dumpcap's: so many seconds, at the earliest, lie between two counts (4.0; 0.1 later).
_UPDATE_INTERVAL_S = 0.5
#: Between two looks for a parent that has gone.
_LOOK_S = 0.5
#: A ring that never switches.
_NEVER_S = RANGES["ringbuffer_duration"].greatest
#: A duration of 0: dumpcap looks at the time once, and so does the capture.
_SHORTEST_S = RANGES["autostop_duration"].least
_CONFLICT = "Ring buffer requested, but capture isn't being saved to a permanent file."
_TO_A_PIPE = "Ring buffer requested, but capture is being written to standard output or to a named pipe."
_NO_CRITERION = "Ring buffer requested, but no maximum capture file size, duration interval, or packets were specified."


def run(line: CommandLine, speech: Speech) -> int:
    """Capture to the end, and say what comes; return the exit status."""
    if line.has_many_files and line.savefile is None:
        speech.complaint(_CONFLICT)
        if not _criteria(line):
            speech.complaint(_NO_CRITERION)
        _fall_back_to_one_file(line)
    elif line.has_many_files and not _criteria(line):
        speech.complaint(_NO_CRITERION)
    interfaces = chosen(line)
    speech.beginning([each.file_name or each.name for each in interfaces])
    if line.ring_files is not None and line.ring_files > MAX_RING_FILES:
        speech.complaint(f"Too many ring buffer files ({line.ring_files}). Reducing to {MAX_RING_FILES}.\n")
        line.ring_files = MAX_RING_FILES
    if line.has_many_files and line.savefile == "-":
        speech.complaint(_TO_A_PIPE)
        return EXIT_FAILED
    capture = _Capture(line, interfaces, speech)
    try:
        return capture.run()
    except ParentGone:
        return 0


def _fall_back_to_one_file(line: CommandLine) -> None:
    """Have one file, which ends where the first of several would have."""
    line.has_many_files = False
    line.packets = min(filter(None, (line.packets, line.ring_packets)), default=None)
    line.stop_duration_s = min(
        (each for each in (line.stop_duration_s, line.ring_duration_s) if each is not None), default=None
    )
    line.ring_duration_s = line.ring_interval_s = line.ring_packets = line.ring_files = line.stop_files = None


def _criteria(line: CommandLine) -> bool:
    return any(
        each is not None for each in (line.filesize_kb, line.ring_duration_s, line.ring_interval_s, line.ring_packets)
    )


def arguments_of(line: CommandLine, interfaces: Sequence[InterfaceOptions]) -> CaptureArguments:
    """Return the arguments of the same capture."""
    arguments: dict[str, Any] = {
        "interfaces": [_interface(each) for each in interfaces],
        "savefile": line.savefile,
        # Temporary files are the user's alone, as dumpcap's; and what is no file has no mode.
        "group_access": line.group_access and line.savefile is not None and live_destination_of(line.savefile) is None,
        # Several interfaces are a matter of pcapng, whatever was asked for.
        "use_libpcap": line.file_format == "pcap" and len(interfaces) == 1,
        "comments": line.comments or None,
        "compress_type": line.compression,
        "max_packet_count": line.packets,
        "autostop_duration": None if line.stop_duration_s is None else max(line.stop_duration_s, _SHORTEST_S),
        "update_interval": _UPDATE_INTERVAL_S if line.update_interval_ms is None else line.update_interval_ms / 1000,
    }
    if line.has_many_files:
        arguments |= {
            "ringbuffer_filesize": line.filesize_kb,
            "ringbuffer_duration": line.ring_duration_s if _criteria(line) else _NEVER_S,
            "ringbuffer_interval": line.ring_interval_s,
            "ringbuffer_packets": line.ring_packets,
            "ringbuffer_files": line.ring_files,
            # 1: the number comes first.
            "ringbuffer_time_first": (line.name_time_number or 0) > 1,
            "autostop_files": line.stop_files,
        }
    else:
        arguments["autostop_filesize"] = line.filesize_kb
    return cast(CaptureArguments, {name: value for name, value in arguments.items() if value is not None})


def _interface(options: InterfaceOptions) -> CaptureInterface:
    return CaptureInterface(
        name=options.name,
        capture_filter=options.capture_filter or None,
        snaplen=options.snaplen_bytes,
        # What is a wish there, is not more here: where policy forbids it, it is not.
        promiscuous=None if options.promiscuous else False,
        monitor_mode=options.monitor_mode or None,
        kernel_buffer_size=options.buffer_size_mib,
        link_layer_type=options.link_type,
        label=options.file_name,
        description=options.description,
    )


class _Capture:
    """One capture, and what is said of it."""

    def __init__(self, line: CommandLine, interfaces: Sequence[InterfaceOptions], speech: Speech) -> None:
        self._line = line
        self._interfaces = interfaces
        self._speech = speech
        self._ending = Ending()
        self._ending.install()
        self._total = 0
        self._is_begun = False
        #: Where names of finished files go, or nowhere.
        self._names_fd: int | None = None

    def run(self) -> int:
        """Capture; return the exit status."""
        with self._names():
            try:
                session = self._asked()
                with _ended_with(self._speech, session):
                    return self._follow(session)
            except CaptureError as error:
                self._refuse(error)
                return EXIT_FAILED

    def _asked(self) -> CaptureSession:
        if self._line.temporary_directory is not None:
            tempfile.tempdir = self._line.temporary_directory
        session = CaptureSession(events="all", **arguments_of(self._line, self._interfaces))
        self._ending.end(session)
        try:
            session.wait_started()
        except BaseException:
            with contextlib.suppress(CaptureError):
                session.terminate()
            raise
        return session

    def _follow(self, session: CaptureSession) -> int:
        failed: CaptureError | None = None
        try:
            while True:
                try:
                    self._take(session.next_event())
                except CaptureEnded:
                    break
        except ParentGone:
            session.stop()
            session.terminate()
            raise
        except CaptureError as error:
            failed = error
        session.terminate()
        if failed is not None:
            self._refuse(failed)
        if self._is_begun:
            self._speech.end(self._total, self._shown(session.interface_counters))
        return 0 if failed is None and session.end_reason != EndReason.FAILED else EXIT_FAILED

    def _take(self, event: object) -> None:
        match event:
            case FileOpened(name=name):
                self._open_names()
                self._speech.file(self._said(name))
                self._is_begun = True
            case PacketCount(packets_delta=delta):
                self._total += delta
                self._speech.packets(delta, self._total)
            case FileClosed():
                self._print_name(self._said(event.name))
            case _:
                pass

    def _said(self, path: str) -> str:
        """Return a file as the command line's words lead to it: relative, where they are."""
        savefile = self._line.savefile
        if savefile is None or path == savefile:
            return path
        directory, typed = os.path.split(savefile)  # what was typed, to the letter
        name = os.path.basename(path)  # noqa: PTH119
        if not directory:
            # dumpcap's, for the files of a ring whose name has a suffix (ringbuffer.c).
            return f"./{name}" if "." in typed else name
        return f"{directory.rstrip('/')}/{name}"

    def _shown(self, counters: Sequence[InterfaceCounters]) -> list[InterfaceCounters]:
        """Return the counts by the names that files have of the interfaces."""
        called = {each.name: each.file_name for each in self._interfaces if each.file_name}
        return [
            msgspec.structs.replace(each, interface=called.get(each.interface, each.interface)) for each in counters
        ]

    def _refuse(self, error: CaptureError) -> None:
        failure = error.failure if isinstance(error, ChildError) else None
        if failure is not None and failure.code == FailureCode.BAD_FILTER:
            self._speech.bad_filter(*self._filter_of(failure))
            return
        words = words_of(error, self._line)
        self._speech.complaint(words.text, advice=words.advice)

    def _filter_of(self, failure: Failure) -> tuple[int, str, str, str]:
        index = failure.interface_index or 0
        options = self._interfaces[min(index, len(self._interfaces) - 1)]
        # libpcap's own words, where it has some: capd's say more, and are not dumpcap's.
        try:
            lines_of(options.capture_filter, DLT_EN10MB)
        except NoSuchFilter as error:
            return index, options.name, options.capture_filter, str(error)
        return index, options.name, options.capture_filter, failure.text

    # Names of files ---------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _names(self) -> Generator[None, None, None]:
        """Have the file closed at the end in which names of finished files are."""
        try:
            yield
        finally:
            if self._names_fd is not None and self._names_fd > _STANDARD_ERROR:
                os.close(self._names_fd)

    def _open_names(self) -> None:
        """Open the file that gets names of finished files, where one is wanted; as dumpcap, not before one begins."""
        wanted = self._line.print_name
        if wanted is None or not self._line.has_many_files or self._names_fd is not None:
            return
        standard = {"stdout": 1, "-": 1, "stderr": _STANDARD_ERROR}
        if wanted in standard:
            self._names_fd = standard[wanted]
        else:
            self._names_fd = os.open(wanted, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)

    def _print_name(self, name: str) -> None:
        if self._names_fd is not None:
            with contextlib.suppress(OSError):
                os.write(self._names_fd, os.fsencode(name) + b"\n")


class Ending:
    """What ends a capture well: SIGINT, SIGTERM, SIGPIPE, and SIGHUP unless it is ignored, as nohup does."""

    def __init__(self) -> None:
        self._session: CaptureSession | None = None
        self._is_wanted = False

    def install(self) -> None:
        """Take the signals, to the end of the program."""
        numbers = [signal.SIGINT, signal.SIGTERM, signal.SIGPIPE]
        if signal.getsignal(signal.SIGHUP) == signal.SIG_DFL:
            numbers.append(signal.SIGHUP)
        for number in numbers:
            signal.signal(number, self._note)

    def _note(self, _number: int, _frame: FrameType | None) -> None:
        self._is_wanted = True
        self._end()

    def end(self, session: CaptureSession) -> None:
        """Have this capture end with the next signal, or at once where one has come."""
        self._session = session
        if self._is_wanted:
            self._end()

    def _end(self) -> None:
        if self._session is not None:
            with contextlib.suppress(OSError):  # it has ended meanwhile
                self._session.stop()


@contextlib.contextmanager
def _ended_with(speech: Speech, session: CaptureSession) -> Generator[None, None, None]:
    """Have the capture end when its parent has gone: dumpcap notices at the next message, which may never come."""
    if not isinstance(speech, ToParent):
        yield
        return
    is_over = threading.Event()
    descriptor = speech.descriptor

    def look() -> None:
        poll = select.poll()
        poll.register(descriptor, 0)
        while not is_over.is_set():
            if any(events & (select.POLLERR | select.POLLHUP) for _, events in poll.poll(1000 * _LOOK_S)):
                session.stop()
                return

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
