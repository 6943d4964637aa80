"""Packets written into several files, each as far as its limits allow."""

from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np

from capd_client.errors import InvalidArgument
from capd_client.writing.parts import Part, origin_of
from capd_client.writing.writer import Writer
from capd_protocol.batches.model import Batch, FileInterface
from capd_protocol.formats.compression import suffix_of
from capd_protocol.formats.pcapng import PACKET_BLOCK_HEADER_SIZE_BYTES, PACKET_BLOCK_TRAILER_SIZE_BYTES

_NS_PER_S = 10**9
#: Of the usual format; a record of pcap takes a little less.
_AROUND_PACKET_BYTES = PACKET_BLOCK_HEADER_SIZE_BYTES + PACKET_BLOCK_TRAILER_SIZE_BYTES
#: What padding and a flags option take at the most.
_BESIDE_PACKET_BYTES = 3 + 12


class Limits(NamedTuple):
    """Of a file; None: there is none.

    Attributes:
        packets: how many.
        duration_ns: from its first packet on.
        size_bytes: before it is compressed.
    """

    packets: int | None
    duration_ns: int | None
    size_bytes: int | None

    @classmethod
    def of(cls, packets: int | None, duration_s: float | None, size_bytes: int | None) -> Self:
        """Return limits.

        Raises:
            InvalidArgument: there is none, or one is not possible.
        """
        given = {"max_packet_count": packets, "max_duration_s": duration_s, "max_file_size_bytes": size_bytes}
        if all(each is None for each in given.values()):
            raise InvalidArgument("say what a file has at the most: packets, seconds or bytes")
        for name, limit in given.items():
            if limit is not None and not 0 < limit < 2**62 / _NS_PER_S * (1 if name == "max_duration_s" else _NS_PER_S):
                raise InvalidArgument(f"{name} is {limit}; possible are numbers above 0", argument=name)
        return cls(packets, None if duration_s is None else max(1, round(duration_s * _NS_PER_S)), size_bytes)


class Splitter:
    """Writes packets into one file after the other. A context manager: with an error, the last one is left out.

    Attributes:
        paths: those that are there.
    """

    def __init__(self, target: str, limits: Limits, opened: Callable[[str], Writer]) -> None:
        """Open nothing yet.

        Args:
            target: what names are made of.
            limits: of each file.
            opened: begins one.
        """
        self._target = target
        self._limits = limits
        self._opened = opened
        self._path = ""
        self._writer: Writer | None = None
        self._end_ns: int | None = None
        self._known_blocks = 0
        self.paths: list[Path] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *exc_info: object) -> None:
        try:
            if kind is None and self._writer is not None:
                self._close(is_last=True)
        finally:
            if self._writer is not None:
                self._writer.abandon()

    def write(self, batch: Batch, interfaces: Sequence[FileInterface], own: Sequence[FileInterface]) -> None:
        """Write some packets.

        Args:
            batch: these.
            interfaces: what their interface ids mean.
            own: the same, as the file says that they come from.
        """
        origin = origin_of(own)
        while len(batch.offsets):
            count = 1
            if self._writer is not None:
                count = self._fitting(self._writer, batch)
                if not count:
                    self._close(is_last=False)
                    self._known_blocks = 0 if origin is None else len(origin.blocks)
            if self._writer is None:
                count = 1  # the file has its beginning then, and how much it takes is known
                self._writer = self._begun(int(batch.timestamps_ns[0]))
                first = int(batch.interface_ids[0])
                section = 0
                if origin is not None and self.paths and first < len(origin.interfaces):
                    section = origin.interfaces[first].section
                self._writer.add_source(0, interfaces, origin, section, self._known_blocks)
            self._writer.write([Part(0, batch.chosen(slice(count)), interfaces, origin)])
            batch = batch.chosen(slice(count, None))

    def _fitting(self, writer: Writer, batch: Batch) -> int:
        """Return how many of the next packets fit into the file."""
        count = len(batch.offsets)
        packets, _, size_bytes = self._limits
        if packets is not None:
            count = min(count, packets - writer.packets)
        if self._end_ns is not None:
            late = batch.timestamps_ns[:count] > self._end_ns
            count = int(np.argmax(late)) if late.any() else count
        if size_bytes is not None:
            sizes = batch.captured_sizes[:count].astype(np.int64) + (_AROUND_PACKET_BYTES + _BESIDE_PACKET_BYTES)
            if batch.options is not None:
                sizes = sizes + batch.options.sizes[:count]
            count = int(np.searchsorted(np.cumsum(sizes), size_bytes - writer.size_bytes, "right"))
        return count

    def _begun(self, first_ns: int) -> Writer:
        duration_ns = self._limits.duration_ns
        if duration_ns is not None:
            # As editcap has it: what comes just at the end belongs to the file.
            end_ns = first_ns if self._end_ns is None else self._end_ns
            missing = -(-(first_ns - end_ns) // duration_ns)
            self._end_ns = end_ns + duration_ns * (1 if self._end_ns is None else max(1, missing))
        suffix = suffix_of(Path(self._target).name)
        begin = self._target.removesuffix(suffix)
        local = datetime.fromtimestamp(first_ns // _NS_PER_S).astimezone()
        self._path = f"{begin}_{len(self.paths):05}_{local:%Y%m%d%H%M%S}{suffix}"
        return self._opened(self._path)

    def _close(self, *, is_last: bool) -> None:
        assert self._writer is not None
        self._writer.close(is_last=is_last)
        self._writer = None
        self.paths.append(Path(self._path))
