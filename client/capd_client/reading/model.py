"""Packets of capture files one by one, and the interfaces of a file that is being read."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from functools import partial
from itertools import repeat
from typing import NamedTuple, Protocol, cast, overload

import numpy as np

from capd_protocol.batches.model import Batch, FileInterface
from capd_protocol.batches.packet_options import StoredOptions, column_of
from capd_protocol.formats.metadata import BlockLog, Section
from capd_protocol.formats.options import (
    EPB_DROPCOUNT,
    EPB_HASH,
    EPB_PACKETID,
    EPB_QUEUE,
    EPB_VERDICT,
    NO_OPTIONS,
    Options,
)
from capd_protocol.formats.packet_flags import Direction, PacketKind, direction_of, kind_of
from capd_protocol.times import datetime_of, time_text


class Described(Protocol):
    """A file that is being read: what it has said so far."""

    @property
    def interfaces(self) -> list[FileInterface]:
        """The interfaces of all sections."""
        ...

    @property
    def sections(self) -> list[Section]:
        """Its sections, if it is pcapng."""
        ...

    @property
    def blocks(self) -> BlockLog:
        """What else is in it."""
        ...


class Interfaces(Sequence[FileInterface]):
    """The interfaces of a file that is being read, without a copy of them at each look."""

    def __init__(self, file: Described) -> None:
        #: Whoever writes its packets finds there what else it says.
        self.file = file

    @overload
    def __getitem__(self, place: int) -> FileInterface: ...
    @overload
    def __getitem__(self, place: slice) -> list[FileInterface]: ...
    def __getitem__(self, place: int | slice) -> FileInterface | list[FileInterface]:
        return self.file.interfaces[place]

    def __len__(self) -> int:
        return len(self.file.interfaces)


class Packet(NamedTuple):
    """A packet as the file has it.

    Attributes:
        timestamp_ns: since 1970-01-01 00:00 UTC; 0 in simple packet blocks, which have none.
        interface: its name, if the file has one.
        interface_id: its place in the reader's ``interfaces``.
        original_size_bytes: how long the packet was, however much of it is here.
        data: its bytes in the mapped file, no copy.
        flags: what the file says of its direction and kind (``epb_flags`` of pcapng); 0 where it says nothing.
        stored_options: what else the file says of it, not looked into yet: see ``options``; None: nothing.
    """

    timestamp_ns: int
    interface: str | None
    interface_id: int
    original_size_bytes: int
    data: memoryview
    flags: int = 0
    stored_options: StoredOptions | None = None

    @property
    def options(self) -> Options:
        """All that the file says of it beside its bytes, by pcapng's codes; numbers in this machine's byte order."""
        return NO_OPTIONS if self.stored_options is None else self.stored_options.read()

    @property
    def comments(self) -> tuple[str, ...]:
        """What is said of it in words."""
        return self.options.comments

    @property
    def drop_count(self) -> int | None:
        """How many packets were lost between the one before it and this one; None where the file does not say."""
        return self.options.number(EPB_DROPCOUNT, "Q")

    @property
    def packet_id(self) -> int | None:
        """A number that it shares with what was captured of it on other interfaces; None where it has none."""
        return self.options.number(EPB_PACKETID, "Q")

    @property
    def queue(self) -> int | None:
        """The interface's queue that it came through; None where the file does not say."""
        return self.options.number(EPB_QUEUE, "I")

    @property
    def hashes(self) -> tuple[bytes, ...]:
        """Hashes of it: each the algorithm's number, a byte, and the hash."""
        return self.options.values(EPB_HASH)

    @property
    def verdicts(self) -> tuple[bytes, ...]:
        """What was decided about it: each the number of who has decided, a byte, and the verdict."""
        return self.options.values(EPB_VERDICT)

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
        repeat(None, len(ids)) if batch.options is None else batch.options.each(),
        strict=True,
    )
    # Without Packet's own constructor, which takes as long as everything else.
    return cast("Iterator[Packet]", map(partial(tuple.__new__, Packet), rows))  # pyright: ignore[reportUnknownMemberType]


def contents_of(batch: Batch) -> Iterator[memoryview]:
    """Return the bytes of a batch's packets, one by one, without a copy."""
    ends = batch.offsets + batch.captured_sizes
    return map(batch.data.data.__getitem__, map(slice, batch.offsets.tolist(), ends.tolist()))


def batch_of(packets: Sequence[Packet]) -> Batch:
    """Return packets together."""
    sizes = np.fromiter((len(each.data) for each in packets), np.int64, len(packets))
    flags = np.fromiter((each.flags for each in packets), np.uint32, len(packets))
    return Batch(
        np.fromiter((each.timestamp_ns for each in packets), np.int64, len(packets)),
        np.fromiter((each.interface_id for each in packets), np.uint32, len(packets)),
        sizes.astype(np.uint32),
        np.fromiter((each.original_size_bytes for each in packets), np.uint32, len(packets)),
        np.cumsum(sizes) - sizes,
        np.frombuffer(b"".join(each.data for each in packets), np.uint8),
        flags if flags.any() else None,
        column_of([each.stored_options for each in packets], flags),
    )
