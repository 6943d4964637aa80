"""The first file of a capture: what keeps it from being opened, in words that a person can act on."""

from collections.abc import Callable
from functools import partial

from capd.filters.compiler import CaptureFailed
from capd.launch import Launch
from capd.worker.output.complete_files import complete_newest
from capd.worker.output.compression.compressed_file import CompressedFile
from capd.worker.output.compression.compressor import Compressor
from capd.worker.output.files import CaptureFiles
from capd.worker.output.report import Report
from capd.worker.output.ring_index import RingIndex, RingLock
from capd.worker.output.savefile import DestinationError, WriteError, failure_of
from capd_protocol.messages import Conditions, DeletionReason, Failure, FailureCode
from capd_protocol.text import quoted


def open_files(
    launch: Launch,
    directory_fd: int,
    report: Report,
    *,
    header: Callable[[], bytes],
    statistics: Callable[[], bytes],
    compressor: Compressor | None = None,
) -> CaptureFiles:
    """Open the first file, and announce it when its header is on disk.

    Args:
        launch: what to capture, and where to.
        directory_fd: where the files go.
        report: reports files and packets to the daemon.
        header: returns what a file begins with.
        statistics: returns what a file ends with.
        compressor: compresses the files, where the capture asks for it.

    Raises:
        CaptureFailed: it cannot be opened, or there is no room for it.
    """
    try:
        files = CaptureFiles(
            directory_fd=directory_fd,
            destination=launch.destination,
            ring=launch.ring,
            header=header,
            statistics=statistics,
            report=report,
            max_disk_bytes=launch.max_disk_bytes,
            index=index_of(launch, directory_fd, launch.ring),
            lock=lock_of(launch, directory_fd, launch.ring),
            continues=launch.continues,
            # A client that is passed each file has it open.
            reuses=launch.file_format == "pcapng" and not launch.passes_files and compressor is None,
            compress=None if compressor is None else partial(CompressedFile, compressor=compressor),
        )
        try:
            obstacle = files.make_room_for_file()
            if obstacle is not None:
                raise CaptureFailed(_no_room(launch, obstacle))
            files.open_next()
        except (CaptureFailed, DestinationError, WriteError, OSError):
            files.abandon()
            raise
    except (DestinationError, WriteError, OSError) as error:
        text = str(error) if isinstance(error, DestinationError) else f"the capture file cannot be written: {error}"
        failure = Failure(code=FailureCode.DESTINATION, text=text, argument="savefile")
        raise CaptureFailed(failure_of(error, failure)) from error
    return files


def index_of(launch: Launch, directory_fd: int, kept: Conditions | None) -> RingIndex | None:
    """Open the index of a ring, or of snapshots, of a capture that has a name.

    Args:
        launch: of this capture.
        directory_fd: where the index is.
        kept: what is kept of the files; None: there is nothing to keep an index of.

    Raises:
        DestinationError: it cannot be opened, or another capture writes this ring.
        WriteError: it cannot be written.
    """
    if kept is None or launch.name is None or launch.destination.unnamed:
        return None
    destination = launch.destination
    return RingIndex(directory_fd, destination.file_name, group_access=destination.group_access)


def lock_of(launch: Launch, directory_fd: int, kept: Conditions | None) -> RingLock | None:
    """Take the lock of a ring, or of snapshots, that has no index, which would take it (``index_of``).

    Where a killed worker has left it, the file that it was writing is completed.

    Raises:
        DestinationError: another capture has it, or it cannot be taken.
    """
    if kept is None or launch.name is not None or launch.destination.unnamed:
        return None
    lock = RingLock(directory_fd, launch.destination.file_name)
    if lock.was_left:
        complete_newest(directory_fd, launch.destination.file_name)
    return lock


def _no_room(launch: Launch, obstacle: DeletionReason) -> Failure:
    """Say which limit leaves no room for a first file."""
    name, ring = quoted(launch.destination.file_name), launch.ring or Conditions()
    if obstacle == DeletionReason.FREE_SPACE:
        text = f"less than the {ring.free_kb or 0:,} kB that shall stay free are free where {name} is: make room there"
        return Failure(code=FailureCode.DISK, text=text, argument="ringbuffer_free_space")
    if obstacle == DeletionReason.TOTAL:
        text = f"the {ring.total_kb or 0:,} kB for all files of the ring are too few for the beginning of one"
        return Failure(code=FailureCode.RESOURCES, text=text, argument="ringbuffer_total_filesize")
    text = (
        f"policy allows {launch.max_disk_bytes:,} bytes on disk, and earlier captures to {name} have left as much: "
        "delete some of their files"
    )
    return Failure(code=FailureCode.RESOURCES, text=text, argument="savefile")
