"""The live output of a session: while its capture runs, packets go to standard output, a FIFO or an open file."""

import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, BinaryIO, cast

from capd_client.conversation.events import CaptureEvent
from capd_client.errors import DestinationError, InvalidArgument
from capd_client.output.destinations import LiveDestination, goes_nowhere, live_destination_of
from capd_client.request.options import CaptureArguments, HasWrite, Savefile
from capd_protocol.arguments import ARGUMENTS
from capd_protocol.messages import FileClosed, FileDeleted, FileOpened

if TYPE_CHECKING:
    from capd_client.output.live_writer import LiveWriter  # numpy, which others need not

#: What leaves no packets to follow, or nobody to follow them.
NEVER_LIVE = ("detach", *(spec.name for spec in ARGUMENTS if spec.part == "recorder"))
#: What is about files on a disk.
OF_FILES = frozenset(
    {*NEVER_LIVE, "group_access", "autostop_filesize", "autostop_files"}
    | {spec.name for spec in ARGUMENTS if spec.part == "ring"}
)
#: How far a reader may be behind. Chosen: less than is kept for it (``in_memory``), so that it is left out file by
#: file, before the files go.
MAX_BEHIND_BYTES = 48_000_000
#: How often a session looks whether its reader has left, where nothing comes from the capture. Chosen: nobody notices.
LOOK_S = 0.1


def with_live_output(arguments: CaptureArguments) -> "tuple[CaptureArguments, LiveOutput | None]":
    """Return the arguments of a capture whose packets stay in memory, and what writes them.

    Where files are asked for, these are the same arguments, and None.

    Raises:
        InvalidArgument: an argument is about files on a disk, and none is written; or the open file takes no bytes.
        DestinationError: what packets are to go to is a terminal, or a device.
    """
    savefile = arguments.get("savefile")
    if not isinstance(savefile, str | os.PathLike | HasWrite):
        return arguments, None  # it is said there what it must be
    destination = live_destination_of(savefile)
    if destination is None and not goes_nowhere(savefile):
        return arguments, None
    name = _name_of(savefile)
    for each in sorted(OF_FILES):
        if cast("Mapping[str, object]", arguments).get(each):
            text = f"{each} is about files on a disk, and savefile {name!r} is none: leave it out, or name a file"
            raise InvalidArgument(text, argument=each)
    live = cast("CaptureArguments", {**arguments, "savefile": None, "in_memory": True})
    return live, LiveOutput(destination, name)


def add_to_error(not_written: DestinationError, exc_info: Sequence[object]) -> None:
    """Raise that packets could not be written; but where a block has raised something else, add it to that as a note.

    Args:
        not_written: what is raised.
        exc_info: what ``__exit__`` was given.

    Raises:
        DestinationError: the block has raised nothing.
    """
    if not exc_info or not isinstance(exc_info[1], BaseException):
        raise not_written
    exc_info[1].add_note(str(not_written))


def _name_of(savefile: Savefile) -> str:
    name = savefile if isinstance(savefile, str | os.PathLike) else getattr(savefile, "name", None)
    return os.fspath(name) if isinstance(name, str | os.PathLike) else "-"


class LiveOutput:
    """Packets to one destination, and what a session's user sees of that."""

    def __init__(self, destination: LiveDestination | None, name: str) -> None:
        """Write nothing yet.

        Args:
            destination: where packets go; None: nowhere.
            name: of that.
        """
        self.destination = destination
        self.name = name
        self._writer: LiveWriter | None = None
        self._is_announced = False
        self._is_finished = False

    def wait_for_reader(self) -> None:
        """Return when there is the first reader.

        Raises:
            DestinationError: there can be none.
        """
        if self.destination is not None:
            self.destination.wait_for_reader()

    def has_reader(self) -> bool:
        """Whether there is the first reader; what has only one, once, has it.

        Raises:
            DestinationError: there can be none.
        """
        return self.destination is None or not self.destination.has_readers or self.destination.connect()

    def begin(self, open_file: Callable[[str], BinaryIO]) -> None:
        """Begin to write.

        Args:
            open_file: opens what the capture keeps in memory, by its name.
        """
        if self.destination is None:
            return
        from capd_client.output.live_writer import LiveWriter  # noqa: PLC0415  # numpy

        self._writer = LiveWriter(open_file, self.destination, max_behind_bytes=MAX_BEHIND_BYTES)

    def take(self, event: CaptureEvent) -> CaptureEvent | None:
        """Learn of an event; return what is shown of it: the output as one file, and not what is kept in memory."""
        if self._writer is not None:
            self._writer.take(event)
        if isinstance(event, FileOpened):
            is_first, self._is_announced = not self._is_announced, True
            return FileOpened(self.name) if is_first else None
        return None if isinstance(event, FileClosed | FileDeleted) else event

    @property
    def is_left(self) -> bool:
        """Whether nobody will read any more."""
        return self._writer is not None and self._writer.is_left

    @property
    def missed_packets(self) -> int:
        """Packets that were captured and not written so far."""
        return 0 if self._writer is None else self._writer.missed_packets

    def give_up(self) -> None:
        """Have what is not written yet left out."""
        if self.destination is not None:
            self.destination.give_up()

    def close(self) -> None:
        """End before anything was written."""
        if self.destination is not None:
            self.destination.close()

    def finish(self, packets_total: int) -> None:
        """Wait until all is written, after the last event, but not for a reader that takes nothing any more. Once.

        Args:
            packets_total: that the capture has.

        Raises:
            DestinationError: it cannot be written.
            CaptureError: what was captured cannot be read.
        """
        if self._is_finished or self._writer is None or self.destination is None:
            return
        self._is_finished = True
        from capd_client.output.live_writer import PATIENCE_S  # noqa: PLC0415  # numpy

        try:
            self._writer.finish(packets_total, PATIENCE_S)
        except OSError as error:
            raise DestinationError(f"packets cannot be written to {self.name!r}: {error.strerror}") from error
        finally:
            # Also where Ctrl-C ended the wait: nothing is closed that is still written to.
            self.destination.give_up()
            if self._writer.close():
                self.destination.close()
