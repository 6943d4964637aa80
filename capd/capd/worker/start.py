"""A worker's start, in order: open, drop privileges, verify, take the directory, be confined, compile, rings, capture.

Everything is imported before it is forked: after the drop the interpreter's own files may be unreadable.
"""

import contextlib
import gc
import os
import platform
import select
import signal
import socket
import time
from collections.abc import Callable, Generator, Sequence
from functools import cache, partial
from math import inf
from pathlib import Path
from typing import NamedTuple

from capd.errors import is_out_of_descriptors, no_room
from capd.filters import bounds
from capd.filters.compiler import CaptureFailed, Compiler, find_names
from capd.launch import Arm, Launch
from capd.linux import libpcap, privileges
from capd.linux.descriptors import DescriptorsDropped
from capd.version import SOFTWARE
from capd.worker.confinement.confine import Confinement
from capd.worker.confinement.lists import CONTROL, FILES, SIGNALLED, TOLD, Role
from capd.worker.control import ControlSocket, DaemonGone
from capd.worker.directory import keep_directory, path_of, take_directory
from capd.worker.heap import keep_freed_memory
from capd.worker.loop import WATCHDOG_S, CaptureLoop
from capd.worker.oom import be_killed_first
from capd.worker.output.compression.compressor import Compressor
from capd.worker.output.compression.waiting import WaitingRoom
from capd.worker.output.file_sink import FileSink
from capd.worker.output.first_file import index_of, lock_of, open_files
from capd.worker.output.passing import FilePasser
from capd.worker.output.recycling import Openers
from capd.worker.output.report import Report
from capd.worker.output.ring_index import RingIndex, RingLock
from capd.worker.output.savefile import DestinationError, WriteError, failure_of
from capd.worker.output.sink import Sink
from capd.worker.recorder.recorder import FlightRecorder
from capd.worker.recorder.snapshot import SnapshotThread
from capd.worker.sources.af_packet import Plan, RingSource, SourceMaker
from capd.worker.sources.source import (
    CapturedInterface,
    PacketSource,
    drops_by_name,
    one_interface_only,
    standing,
    statistics_blocks,
)
from capd.worker.sources.stream import StreamSource
from capd.worker.sources.stream_filter import StreamFilter
from capd_protocol.formats import pcapng
from capd_protocol.formats.compression import Compression
from capd_protocol.messages import Failure, FailureCode, Recorder

#: How long the header of a stream is waited for before there is a file. Chosen: nobody notices it, and programs that
#: write it at once have.
_HEADER_S = 0.2


@cache
def _cpu_name() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    return platform.machine()


@cache
def _operating_system() -> str:
    return f"{platform.system()} {platform.release()}"


def prepare(*, is_strict: bool) -> Confinement:
    """Do what is the same for all workers, before they are forked; return what they are held to.

    Args:
        is_strict: whether a worker ends at a system call that is refused.
    """
    libpcap.load()
    find_names()
    _cpu_name()
    _operating_system()
    return Confinement(is_strict=is_strict)


def _header(launch: Launch, interfaces: Sequence[CapturedInterface], section: bytes) -> bytes:
    if launch.file_format == "pcap":
        (interface,) = interfaces
        return pcapng.pcap_header(linktype=interface.linktype, snaplen_bytes=interface.snaplen_bytes)
    return section + b"".join(each.description for each in interfaces)


@contextlib.contextmanager
def _bounded(maker: SourceMaker) -> Generator[None, None, None]:
    """Hold this process to what compiling may take while the block lasts: it may end.

    Raises:
        CaptureFailed: there was no memory for it.
    """
    try:
        with bounds.bounded(len(maker.link_layer_types)):
            yield
    except MemoryError as error:
        raise CaptureFailed(bounds.too_much()) from error


def _compile(launch: Launch, maker: SourceMaker) -> list[Plan | CaptureFailed]:
    """Compile all filters; return how each interface is captured, or, if a pattern matched it, why it is left out.

    Raises:
        CaptureFailed: one that was named cannot be captured.
    """
    plans: list[Plan | CaptureFailed] = []
    for number, interface in enumerate(launch.interfaces):
        try:
            plans.append(maker.plan(interface, number))
        except CaptureFailed as error:
            if not interface.is_optional:
                raise
            plans.append(error)
    maker.compile_ahead()
    return plans


def _streams(launch: Launch, descriptors: Sequence[int], compiler: Compiler) -> list[StreamSource]:
    """Return the streams as sources; nothing of them is read yet."""
    first = len(launch.interfaces)
    return [
        StreamSource(
            request,
            descriptor,
            StreamFilter(compiler, request, first + place).compile_for,
            file_format=launch.file_format,
        )
        for place, (request, descriptor) in enumerate(zip(launch.streams, descriptors, strict=True))
    ]


def _read_headers(
    launch: Launch,
    streams: Sequence[StreamSource],
    interfaces: list[CapturedInterface],
    control: ControlSocket,
    report: Report,
) -> None:
    """Read what streams describe at their beginning, as far as it comes soon; for a pcap file, wait for that.

    So most of what can be wrong with a stream, or with the filter for its packets, is found before there is a file.

    Args:
        launch: what is captured.
        streams: these.
        interfaces: of the capture; those that are described are added.
        control: shows whether the capture is still wanted.
        report: is told what becomes of them.

    Raises:
        CaptureFailed: one of them can give no packets.
        DaemonGone: the capture is not wanted any more.
    """

    def declare(interface: CapturedInterface) -> int:
        if launch.file_format == "pcap" and interfaces:
            raise CaptureFailed(one_interface_only(interface))
        interfaces.append(interface)
        return len(interfaces) - 1

    deadline_s = inf if launch.file_format == "pcap" else time.monotonic() + _HEADER_S
    for stream in streams:
        stream.begin(declare, report)
        poll = select.poll()
        poll.register(control.socket, select.POLLIN)
        if stream.fileno() >= 0:
            poll.register(stream.fileno(), select.POLLIN)
        while True:
            stream.read_ahead()
            left_s = deadline_s - time.monotonic()
            if stream.has_interface or stream.is_over or left_s <= 0:
                break
            signal.alarm(WATCHDOG_S)
            ready = dict(poll.poll(min(left_s, WATCHDOG_S / 2) * 1000))
            if control.socket.fileno() in ready:
                raise DaemonGone  # whatever it says: there is nothing yet that could be ended well
        if stream.is_over and not stream.is_ready():
            failure = stream.loss or (None if stream.has_interface else stream.without_interface())
            if failure is not None:
                raise CaptureFailed(failure)


def _make_sources(
    plans: list[Plan | CaptureFailed], maker: SourceMaker, control: ControlSocket
) -> tuple[list[RingSource], list[tuple[str, str]]]:
    """Return the sources, whose rings were asked for, and which interfaces are left out, with the reason.

    Raises:
        CaptureFailed: one that was named cannot be captured, or none of those that a pattern matched.
        DaemonGone: it does not want the capture any more.
    """
    sources: list[RingSource] = []
    skipped: list[tuple[str, CaptureFailed]] = []
    for plan in plans:
        if isinstance(plan, CaptureFailed):
            skipped.append((plan.failure.interface or "", plan))
            continue
        sockets = control.read_ring()
        try:
            if isinstance(sockets, Failure):
                raise CaptureFailed(sockets)
            sources.append(maker.make(plan, sockets, len(sources)))
        except CaptureFailed as error:
            if not plan.interface.is_optional:
                raise
            skipped.append((plan.interface.request.name, error))
    if skipped and not sources:
        raise skipped[0][1]
    return sources, [(name, error.failure.text) for name, error in skipped]


def _index_or_lock(launch: Launch, recorder: Recorder, directory_fd: int) -> tuple[RingIndex | None, RingLock | None]:
    """Open the index of snapshots that have one, or take the lock of those that have none and are deleted.

    Raises:
        CaptureFailed: it cannot be opened, or written, or another capture has it.
    """
    try:
        return index_of(launch, directory_fd, recorder.kept), lock_of(launch, directory_fd, recorder.kept)
    except (DestinationError, WriteError) as error:
        failure = Failure(code=FailureCode.DESTINATION, text=str(error), argument="savefile")
        raise CaptureFailed(failure_of(error, failure)) from error


class _Held(NamedTuple):
    """What must be there before the worker is confined, since its descriptors are part of that."""

    openers: Openers
    #: Of a recorder.
    snapshot_thread: SnapshotThread | None
    #: Of files that are compressed.
    compressor: Compressor | None


def _take_directory(
    launch: Launch, control: ControlSocket, channel: socket.socket, envelope: socket.socket | None = None
) -> tuple[int, list[int]]:
    directory_fd, streams = take_directory(channel, launch.directory_comes, control, len(launch.streams))
    if not launch.passes_files:
        channel.close()
    if envelope is not None:
        keep_directory(directory_fd, envelope)
    return directory_fd, streams


def _confine(
    confinement: Confinement, launch: Launch, directory_fd: int, control: ControlSocket, passer: FilePasser | None
) -> _Held:
    """Be held to what the work takes.

    Raises:
        CaptureFailed: there can be no thread to pass files with.
    """
    openers = Openers()
    descriptors = {CONTROL: control.socket.fileno(), SIGNALLED: openers.signalled_fd}
    snapshot_thread: SnapshotThread | None = None
    compressor: Compressor | None = None
    if launch.recorder is not None or launch.compression is not None:
        descriptors[TOLD] = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
    if launch.recorder is not None:
        snapshot_thread = SnapshotThread(
            descriptors[TOLD], partial(confinement.confine_calls, Role.SNAPSHOT, descriptors)
        )
    confinement.confine_files(directory_fd)
    if launch.compression is not None:
        confine = partial(confinement.confine_calls, Role.COMPRESSING, descriptors)
        compressor = _compressor(launch.compression, descriptors[TOLD], confine)
    if passer is not None:
        try:
            passer.begin(directory_fd, lambda files_fd: confinement.confine_calls(Role.PASSING, {FILES: files_fd}))
        except RuntimeError as error:
            text = "this user has as many processes and threads as it may have: end some, or leave out pass_files"
            raise CaptureFailed(Failure(code=FailureCode.RESOURCES, text=text, argument="pass_files")) from error
    confinement.confine_calls(Role.FILES if launch.recorder is None else Role.RECORDER, descriptors)
    return _Held(openers, snapshot_thread, compressor)


def _compressor(compression: Compression, told_fd: int, confine: Callable[[], None]) -> Compressor:
    """Start the thread that compresses.

    Raises:
        CaptureFailed: there can be none.
    """
    try:
        compressor = Compressor(WaitingRoom(), told_fd, compression)
        compressor.begin(confine)
    except (RuntimeError, OSError) as error:
        text = "this user has as many processes and threads, or as much memory, as it may have: leave out compress_type"
        raise CaptureFailed(Failure(code=FailureCode.RESOURCES, text=text, argument="compress_type")) from error
    return compressor


def _capture(
    launch: Launch,
    take_directory: Callable[[], tuple[int, list[int]]],
    control: ControlSocket,
    report: Report,
    *,
    passer: FilePasser | None,
    confinement: Confinement,
) -> None:
    # 1. Open what needs CAP_NET_RAW: libpcap's handles. The daemon makes the rings meanwhile.
    compiler = Compiler()
    maker = SourceMaker(launch, _operating_system(), compiler)
    maker.open_handles()
    # 2. Become the user who asked. What comes after is that user's own doing, and is checked as such.
    # 3. The same call verifies it.
    privileges.become(launch.user_id, launch.group_id, launch.groups)
    os.umask(0)  # the mode of files is given in full where they are made
    gc.freeze()
    keep_freed_memory()
    # 4. Take the directory and the streams, which the user has passed meanwhile.
    directory_fd, descriptors = take_directory()
    if (path := path_of(directory_fd)) is not None:
        report.directory_taken(path)
    # 5. Be confined: whoever takes over this process by what comes next shall have nothing of it.
    # 6. Compile the filters: the first text of the user that is looked at.
    with _bounded(maker):
        held = _confine(confinement, launch, directory_fd, control, passer)
        plans = _compile(launch, maker)
        streams = _streams(launch, descriptors, compiler)
    # 7. Ask for the rings, which the daemon binds: from here on packets come and are counted.
    start_ns = time.time_ns()
    report.ask(Arm(rings=tuple(plan.filter for plan in plans if isinstance(plan, Plan))))
    rings, skipped = _make_sources(plans, maker, control)
    sources: list[PacketSource] = [*rings, *streams]
    interfaces: list[CapturedInterface] = [*rings]
    _read_headers(launch, streams, interfaces, control, report)
    if control.is_gone():  # the client has left: a file that is there is not replaced for nothing
        return
    report.announce(standing(interfaces, is_waiting=launch.waits and not sources))
    # 8. The first file, which is announced when its header is on disk; or the memory of a recorder.
    section = pcapng.section_header(
        hardware=_cpu_name(),
        operating_system=_operating_system(),
        application=SOFTWARE,
        comments=launch.comments,
    )
    header = partial(_header, launch, interfaces, section)
    statistics = partial(statistics_blocks, interfaces, start_ns) if launch.file_format == "pcapng" else bytes
    sink: Sink
    if launch.recorder is None or held.snapshot_thread is None:
        files = open_files(
            launch, directory_fd, report, header=header, statistics=statistics, compressor=held.compressor
        )
        sink = FileSink(files, launch, report, held.openers, held.compressor, drops=partial(drops_by_name, interfaces))
    else:
        index, lock = _index_or_lock(launch, launch.recorder, directory_fd)
        sink = FlightRecorder(
            launch,
            launch.recorder,
            directory_fd,
            report,
            held.snapshot_thread,
            header=header,
            statistics=statistics,
            drops=partial(drops_by_name, interfaces),
            index=index,
            lock=lock,
        )
    for name, text in skipped:
        report.interface_skipped(name, text)
    # 9. Capture. What is announced so far goes out first: the kernel waits for grace periods when handles are closed.
    report.flush()
    maker.close_handles()
    CaptureLoop(
        launch=launch,
        sources=sources,
        interfaces=interfaces,
        maker=maker,
        sink=sink,
        report=report,
        control=control,
    ).run()


def run(control_socket: socket.socket, confinement: Confinement) -> None:
    """Run one capture for the daemon at the other end of a socket, held to what was prepared."""
    control = ControlSocket(control_socket)
    with contextlib.suppress(DaemonGone):
        _run(control.read_launch(), control, confinement)


def _run(launch: Launch, control: ControlSocket, confinement: Confinement) -> None:
    privileges.name_process("capd-worker")
    signal.alarm(WATCHDOG_S)
    time.tzset()  # the system's time zone, which is in the names of files, may be another one by now
    be_killed_first(launch.recorder.memory_bytes if launch.recorder is not None else 0)
    try:
        channel, *envelope = control.take_sockets()
    except DescriptorsDropped as error:
        _fail(Report(control.socket), no_room(error).failure)
        return
    passer = FilePasser(channel) if launch.passes_files else None
    report = Report(control.socket, passer)
    take = partial(_take_directory, launch, control, channel, *envelope)
    try:
        _capture(launch, take, control, report, passer=passer, confinement=confinement)
    except CaptureFailed as error:
        _fail(report, error.failure)
    except OSError as error:
        if not is_out_of_descriptors(error):
            raise
        _fail(report, no_room(error).failure)


def _fail(report: Report, failure: Failure) -> None:
    report.failed(failure)
    report.flush_all()
