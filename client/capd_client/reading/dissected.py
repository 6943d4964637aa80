"""Files and live streams, dissected: what the packets of each come from."""

import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

from capd_client.dissection.beginning import begun
from capd_client.dissection.blocking import Over, Supply
from capd_client.dissection.dissecting import Dissecting
from capd_client.dissection.options import DissectionArguments
from capd_client.errors import CaptureEnded, InvalidArgument
from capd_client.reading.files.file import File
from capd_client.reading.gap import Gap
from capd_client.reading.reader import FileReader, Reader
from capd_protocol.batches.model import Batch, FileInterface

if TYPE_CHECKING:
    from capd_client.reading.live import LiveFiles, Stream

_NOT_WHOLE: Final = "two_pass needs a whole file: no pipe, compressed file, filter, restart or running capture"


class _ReaderSupply:
    """The packets of a reader."""

    def __init__(self, reader: Reader, batches: Iterator[Batch]) -> None:
        self._reader = reader
        self._batches = batches

    @property
    def interfaces(self) -> Sequence[FileInterface]:
        return self._reader.interfaces

    def next_now(self) -> Batch:
        while True:
            batch = next(self._batches, None)
            if batch is None:
                raise Over
            if len(batch.offsets):
                return batch

    def fileno(self) -> int:
        return -1

    @property
    def rest_bytes(self) -> int:
        return self._reader.rest_bytes

    def close(self) -> None:
        self._reader.close()


def begun_reader(
    reader: Reader,
    names: tuple[object, ...],
    capture_filter: str | None,
    restart_packets: int | None,
    arguments: DissectionArguments,
) -> tuple[Dissecting, Supply | None]:
    """Return what dissects what a reader has not given yet, and what packets come from, where it is given them.

    Args:
        reader: whose packets these are.
        names: of fields.
        capture_filter: only packets that match.
        restart_packets: begin with a new engine after so many packets.
        arguments: the others.
    """
    file = reader.whole_file() if isinstance(reader, FileReader) else None
    name = "the capture" if file is None else file.name
    if file is not None and capture_filter is None and restart_packets is None and _is_read_by_engines(file):
        # From its beginning, wherever the descriptor that was given stands.
        source_fd = os.open(f"/proc/self/fd/{file.descriptor}", os.O_RDONLY | os.O_CLOEXEC)
        dissecting = begun(names, None, arguments, source=name, source_fd=source_fd)
        file.at = file.size_bytes()  # nothing of it is left for others
        reader.close()
        return dissecting, None
    if arguments.get("two_pass"):
        raise InvalidArgument(_NOT_WHOLE, argument="two_pass")
    batches = reader.batches(capture_filter)
    dissecting = begun(names, restart_packets, arguments, source=name)
    return dissecting, _ReaderSupply(reader, batches)


def _is_read_by_engines(file: File) -> bool:
    """Whether all of a file is left, and engines take no other for one of packets, as they do whatever is not."""
    return type(file) is File and file.is_open and not file.at and file.size_bytes() > 0


class _StreamSupply:
    """What a live stream gives: batches and gaps."""

    def __init__(self, stream: "Stream[Batch | Gap]") -> None:
        self._stream = stream

    @property
    def interfaces(self) -> Sequence[FileInterface]:
        return self._stream.interfaces

    def next_now(self) -> Batch | Gap | None:
        try:
            return self._stream.next_now()
        except CaptureEnded:
            raise Over from None

    def fileno(self) -> int:
        return self._stream.fileno()

    @property
    def rest_bytes(self) -> int:
        return 0

    def close(self) -> None:
        """Leave the stream as it is: it is its owner's."""


def begun_stream(
    stream: "Stream[Any]",
    files: "LiveFiles",
    names: tuple[object, ...],
    restart_packets: int | None,
    arguments: DissectionArguments,
) -> tuple[Dissecting, Supply]:
    """Return what dissects a live stream, and what packets come from.

    Args:
        stream: this one.
        files: what it gives.
        names: of fields.
        restart_packets: begin with a new engine after so many packets.
        arguments: the others.
    """
    return begun_live(files, names, restart_packets, arguments), _StreamSupply(stream)


def begun_live(
    files: "LiveFiles", names: tuple[object, ...], restart_packets: int | None, arguments: DissectionArguments
) -> Dissecting:
    """Return what dissects a live stream.

    Raises:
        InvalidArgument: the stream is one of bytes, or another argument is not possible.
    """
    if files.gives_bytes:
        raise InvalidArgument("a stream of bytes is not dissected: leave out as_bytes", argument="as_bytes")
    if arguments.get("two_pass"):
        raise InvalidArgument(_NOT_WHOLE, argument="two_pass")
    return begun(names, restart_packets, arguments, source="the capture", is_live=True)
