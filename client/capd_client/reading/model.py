"""What a capture file says: interfaces, packets one by one, packets in batches."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from functools import partial
from typing import NamedTuple, Protocol, cast, overload

import numpy as np
import numpy.typing as npt

from capd_protocol.times import datetime_of, time_text


class FileStatistics(NamedTuple):
    """What an interface's statistics say of its whole capture; None where they do not.

    Attributes:
        received: packets that passed the filter, the lost ones among them.
        drops: packets lost for lack of room, in the interface and in the operating system together.
        delivered: packets that were handed on.
        start_ns: when the capture began, since 1970-01-01 00:00 UTC.
        end_ns: when it ended, since the same moment.
    """

    received: int | None
    drops: int | None
    delivered: int | None
    start_ns: int | None
    end_ns: int | None

    @property
    def start(self) -> datetime | None:
        """``start_ns`` as a datetime in UTC, which keeps only microseconds.

        Raises:
            OverflowError: the file says a time after the year 9999.
        """
        return datetime_of(self.start_ns)

    @property
    def end(self) -> datetime | None:
        """``end_ns`` as a datetime in UTC, which keeps only microseconds.

        Raises:
            OverflowError: the file says a time after the year 9999.
        """
        return datetime_of(self.end_ns)


class FileInterface(NamedTuple):
    """An interface that a file describes.

    Attributes:
        name: as the file says; None where it does not, as in pcap.
        linktype: ``LINKTYPE_`` number, what packets begin with.
        snaplen_bytes: no packet was kept longer; 0: no limit is known.
        units_per_s: the resolution of its timestamps, such as 10**9.
        capture_filter: what was captured; None where the file does not say.
        statistics: the latest ones that were read; None before.
        is_swapped: written on a machine of the other byte order, in which some link types' headers are too.
    """

    name: str | None
    linktype: int
    snaplen_bytes: int
    units_per_s: int
    capture_filter: str | None = None
    statistics: FileStatistics | None = None
    is_swapped: bool = False


class HasInterfaces(Protocol):
    """A file that is being read."""

    @property
    def interfaces(self) -> list[FileInterface]:
        """What it has described so far."""
        ...


class Interfaces(Sequence[FileInterface]):
    """The interfaces of a file that is being read, without a copy of them at each look."""

    def __init__(self, file: HasInterfaces) -> None:
        self._file = file

    @overload
    def __getitem__(self, place: int) -> FileInterface: ...
    @overload
    def __getitem__(self, place: slice) -> list[FileInterface]: ...
    def __getitem__(self, place: int | slice) -> FileInterface | list[FileInterface]:
        return self._file.interfaces[place]

    def __len__(self) -> int:
        return len(self._file.interfaces)


class Packet(NamedTuple):
    """A packet as the file has it.

    Attributes:
        timestamp_ns: since 1970-01-01 00:00 UTC; 0 in simple packet blocks, which have none.
        interface: its name, if the file has one.
        interface_id: its place in the reader's ``interfaces``.
        original_size_bytes: how long the packet was, however much of it is here.
        data: its bytes in the mapped file, no copy.
    """

    timestamp_ns: int
    interface: str | None
    interface_id: int
    original_size_bytes: int
    data: memoryview

    @property
    def timestamp(self) -> datetime:
        """``timestamp_ns`` as a datetime in UTC, which keeps only microseconds."""
        return datetime_of(self.timestamp_ns)

    def __repr__(self) -> str:
        """Return when, where and how long it is; its bytes are in ``data``."""
        sizes = f"{len(self.data)} of {self.original_size_bytes} bytes"
        return f"<Packet {time_text(self.timestamp_ns)} {self.interface or self.interface_id}, {sizes}>"


class Batch(NamedTuple):
    """Packets that follow one another; arrays with an element for each.

    Attributes:
        timestamps_ns: int64, since 1970-01-01 00:00 UTC; 0 in simple packet blocks. Times before 1678 and after
            2262, for which 64 bits are too few, become the earliest and the latest.
        interface_ids: uint32, places in the reader's ``interfaces``.
        captured_sizes: uint32, bytes that are in the file.
        original_sizes: uint32, bytes that the packets had.
        offsets: int64, where in ``data`` each packet begins.
        data: uint8, a part of the mapped file; read-only.
    """

    timestamps_ns: npt.NDArray[np.int64]
    interface_ids: npt.NDArray[np.uint32]
    captured_sizes: npt.NDArray[np.uint32]
    original_sizes: npt.NDArray[np.uint32]
    offsets: npt.NDArray[np.int64]
    data: npt.NDArray[np.uint8]

    @property
    def timestamps(self) -> npt.NDArray[np.datetime64]:
        """``timestamps_ns`` as numpy's datetimes, ``datetime64[ns]`` in UTC, which keep the nanoseconds; no copy."""
        return self.timestamps_ns.view("datetime64[ns]")

    def __repr__(self) -> str:
        """Return how many packets these are, and of when."""
        span = ""
        if len(self.timestamps_ns):
            first_ns, last_ns = int(self.timestamps_ns[0]), int(self.timestamps_ns[-1])
            span = f", {time_text(first_ns)} to {time_text(last_ns)}"
        return f"<Batch of {len(self.timestamps_ns)} packets{span}>"


def packets_of(batch: Batch, names: Sequence[str | None]) -> Iterator[Packet]:
    """Return a batch's packets, one by one.

    Args:
        batch: the packets.
        names: of the interfaces.
    """
    ids = batch.interface_ids.tolist()
    ends = batch.offsets + batch.captured_sizes
    rows = zip(
        batch.timestamps_ns.tolist(),
        map(names.__getitem__, ids),
        ids,
        batch.original_sizes.tolist(),
        map(batch.data.data.__getitem__, map(slice, batch.offsets.tolist(), ends.tolist())),
        strict=True,
    )
    # Without Packet's own constructor, which takes as long as everything else.
    return cast("Iterator[Packet]", map(partial(tuple.__new__, Packet), rows))  # pyright: ignore[reportUnknownMemberType]
