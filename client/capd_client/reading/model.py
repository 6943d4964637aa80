"""Packets of capture files one by one, and the interfaces of a file that is being read."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from functools import partial
from itertools import repeat
from typing import NamedTuple, Protocol, cast, overload

from capd_protocol.batches.model import Batch, FileInterface
from capd_protocol.formats.packet_flags import Direction, PacketKind, direction_of, kind_of
from capd_protocol.times import datetime_of, time_text


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
        flags: what the file says of its direction and kind (``epb_flags`` of pcapng); 0 where it says nothing.
    """

    timestamp_ns: int
    interface: str | None
    interface_id: int
    original_size_bytes: int
    data: memoryview
    flags: int = 0

    @property
    def direction(self) -> Direction:
        """Whether it came in or went out; ``Direction.UNKNOWN`` where the file does not say."""
        return direction_of(self.flags)

    @property
    def kind(self) -> PacketKind:
        """To whom it was sent; ``PacketKind.UNKNOWN`` where the file does not say, as of what went out."""
        return kind_of(self.flags)

    @property
    def timestamp(self) -> datetime:
        """``timestamp_ns`` as a datetime in UTC, which keeps only microseconds."""
        return datetime_of(self.timestamp_ns)

    def __repr__(self) -> str:
        """Return when, where and how long it is; its bytes are in ``data``."""
        sizes = f"{len(self.data)} of {self.original_size_bytes} bytes"
        return f"<Packet {time_text(self.timestamp_ns)} {self.interface or self.interface_id}, {sizes}>"


def packets_of(batch: Batch, names: Sequence[str | None]) -> Iterator[Packet]:
    """Return a batch's packets, one by one.

    Args:
        batch: the packets.
        names: of the interfaces.
    """
    ids = batch.interface_ids.tolist()
    rows = zip(
        batch.timestamps_ns.tolist(),
        map(names.__getitem__, ids),
        ids,
        batch.original_sizes.tolist(),
        contents_of(batch),
        repeat(0, len(ids)) if batch.flags is None else batch.flags.tolist(),
        strict=True,
    )
    # Without Packet's own constructor, which takes as long as everything else.
    return cast("Iterator[Packet]", map(partial(tuple.__new__, Packet), rows))  # pyright: ignore[reportUnknownMemberType]


def contents_of(batch: Batch) -> Iterator[memoryview]:
    """Return the bytes of a batch's packets, one by one, without a copy."""
    ends = batch.offsets + batch.captured_sizes
    return map(batch.data.data.__getitem__, map(slice, batch.offsets.tolist(), ends.tolist()))
