"""Where a file that is written goes: a path, which has it when it is whole, or a file that somebody has opened."""

import abc
import contextlib
import io
import os
from pathlib import Path

from capd_client.errors import DestinationError
from capd_client.output.destinations import goes_nowhere
from capd_client.request.options import HasWrite
from capd_client.writing.gathering import gathered, write_gathered
from capd_protocol.batches.records import U64
from capd_protocol.formats.compression import Compression
from capd_protocol.formats.frame_index import NO_TIMES
from capd_protocol.formats.framing import Framing

#: Compressed together. Chosen: so much compresses as well as more does.
_PIECE_BYTES = 1024 * 1024


class Target(abc.ABC):
    """What takes the bytes of a capture file, compressed or as they are."""

    def __init__(self, compression: Compression | None) -> None:
        """Begin a file."""
        self._framing = None if compression is None else Framing(compression)
        self._waiting = bytearray()
        self._describes = False
        self._times_ns = NO_TIMES

    def add(self, data: bytes, times_ns: tuple[int, int] | None = None) -> None:
        """Append whole records: packets, or where no times are given something else.

        Raises:
            DestinationError: they cannot be written.
        """
        if self._framing is None:
            self._write(data)
            return
        self._waiting += data
        if times_ns is None:
            self._describes = True
        else:
            self._times_ns = min(self._times_ns[0], times_ns[0]), max(self._times_ns[1], times_ns[1])
        if len(self._waiting) >= _PIECE_BYTES:
            self._write(self._compressed(self._framing))

    def add_gathered(self, vectors: U64, sizes: U64, times_ns: tuple[int, int]) -> None:
        """Append packets whose parts lie here and there.

        Args:
            vectors: for each record a row of parts, each an address and a size in bytes.
            sizes: of the records.
            times_ns: when the first packet came, and the last one.

        Raises:
            DestinationError: they cannot be written.
            ResourceError: there is no memory to gather them in.
        """
        with contextlib.closing(gathered(vectors, sizes)) as pieces:
            for data in pieces:
                self.add(data, times_ns)

    def _compressed(self, framing: Framing, *, is_last: bool = False) -> bytes:
        data = framing.add(bytes(self._waiting), times_ns=self._times_ns, describes=self._describes, is_last=is_last)
        self._waiting.clear()
        self._describes, self._times_ns = False, NO_TIMES
        return data

    def end(self) -> None:
        """Have all of it where it goes.

        Raises:
            DestinationError: it cannot be written.
        """
        if self._framing is not None:
            self._write(self._compressed(self._framing, is_last=True) + self._framing.index())

    def abandon(self) -> None:  # noqa: B027  # most have nothing to do
        """Leave what was there before as it was."""

    @abc.abstractmethod
    def _write(self, data: bytes) -> None:
        """Write some bytes."""


class OpenTarget(Target):
    """A binary file that somebody else has opened, and closes."""

    def __init__(self, file: HasWrite, compression: Compression | None) -> None:
        """Write to it from where it is."""
        super().__init__(compression)
        self._file = file

    def _write(self, data: bytes) -> None:
        rest = memoryview(data)
        try:
            while rest:
                written = self._file.write(rest)
                if written is None and isinstance(self._file, io.RawIOBase):
                    raise DestinationError("the file takes nothing now: have it block")
                rest = rest[written if isinstance(written, int) else len(rest) :]
        except BrokenPipeError:
            raise
        except OSError as error:
            raise DestinationError(f"the file cannot be written: {error.strerror}") from error


class PathTarget(Target):
    """A file that comes to its name when it is whole; until then it has one of its own beside it."""

    def __init__(self, path: str | os.PathLike[str], compression: Compression | None, *, overwrite: bool) -> None:
        """Begin a file.

        Args:
            path: its name; a FIFO and /dev/null are written to as they are.
            compression: how it is compressed.
            overwrite: whether it replaces one that is there.

        Raises:
            DestinationError: it cannot be made there, or is there already.
        """
        super().__init__(compression)
        self._path = Path(path)
        self._overwrite = overwrite
        self._partial: Path | None = self._path.with_name(f".{self._path.name}.{os.getpid()}.part")
        try:
            if self._path.is_fifo() or goes_nowhere(path):
                self._partial = None
                self._file = self._path.open("wb")
                return
            if self._path.exists() and not self._path.is_file():
                raise DestinationError(f"{path} is no regular file: name another one")
            if not overwrite and (self._path.exists() or self._path.is_symlink()):
                raise self._is_there()
            self._file = self._partial.open("xb")
        except (OSError, ValueError) as error:
            raise self._failed(error) from error

    def _is_there(self) -> DestinationError:
        return DestinationError(f"{self._path} is there already: name another file, or have it replaced (overwrite)")

    def _failed(self, error: Exception) -> DestinationError:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        return DestinationError(f"{self._path} cannot be written: {reason}")

    def _write(self, data: bytes) -> None:
        try:
            self._file.write(data)
        except BrokenPipeError:
            raise
        except OSError as error:
            raise self._failed(error) from error

    def add_gathered(self, vectors: U64, sizes: U64, times_ns: tuple[int, int]) -> None:
        """Append packets whose parts lie here and there; into a file of our own the kernel gathers them at once."""
        if self._framing is not None or self._partial is None:
            super().add_gathered(vectors, sizes, times_ns)
            return
        try:
            self._file.flush()
            written_bytes = write_gathered(self._file.fileno(), vectors.reshape(-1, 2), self._file.tell())
            self._file.seek(written_bytes, os.SEEK_CUR)
        except OSError as error:
            raise self._failed(error) from error

    def end(self) -> None:
        """Have all of it there, under its name.

        Raises:
            DestinationError: it cannot be.
        """
        super().end()
        try:
            self._file.close()
            if self._partial is None:
                return
            if self._overwrite:
                self._partial.replace(self._path)
            else:
                self._path.hardlink_to(self._partial)  # fails if it has come meanwhile
                self._partial.unlink()
            self._partial = None
        except FileExistsError as error:
            raise self._is_there() from error
        except OSError as error:
            raise self._failed(error) from error

    def abandon(self) -> None:
        """Leave what was there before as it was."""
        with contextlib.suppress(OSError):
            self._file.close()
        if self._partial is not None:
            with contextlib.suppress(OSError):
                self._partial.unlink()


class AppendedTarget(Target):
    """A file that is there, and goes on; where writing fails, it ends where it did before."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Go on at its end.

        Raises:
            DestinationError: it cannot be written.
        """
        super().__init__(None)
        self._path = Path(path)
        try:
            self._file = self._path.open("r+b", buffering=0)
            self._end = self._file.seek(0, os.SEEK_END)
        except OSError as error:
            raise self._failed(error) from error
        self._is_ended = False

    def _failed(self, error: OSError) -> DestinationError:
        return DestinationError(f"{self._path} cannot be written: {error.strerror}")

    def _write(self, data: bytes) -> None:
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            raise self._failed(error) from error

    def end(self) -> None:
        """Have all of it there."""
        super().end()
        self._is_ended = True

    def abandon(self) -> None:
        """Have the file end where it did before, unless all of it is there."""
        with contextlib.suppress(OSError):
            if not self._is_ended and not self._file.closed:
                self._file.truncate(self._end)
            self._file.close()
