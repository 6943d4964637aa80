"""What a capture file says: interfaces, and packets in batches, as arrays."""

from datetime import datetime
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from capd_protocol.batches.packet_options import OptionColumn
from capd_protocol.formats import pcapng
from capd_protocol.formats.options import NO_OPTIONS, Options, mac_text, network_text
from capd_protocol.times import datetime_of, time_text


class FileStatistics(NamedTuple):
    """What an interface's statistics say of its whole capture; None where they do not.

    Attributes:
        received: packets that passed the filter, the lost ones among them.
        drops: packets lost for lack of room, in the interface and in the operating system together.
        delivered: packets that were handed on.
        start_ns: when the capture began, since 1970-01-01 00:00 UTC.
        end_ns: when it ended, since the same moment.
        options: all that the file says, these among it; its times are in the interface's own units.
        timestamp_ns: when these were counted, since the same moment.
    """

    received: int | None
    drops: int | None
    delivered: int | None
    start_ns: int | None
    end_ns: int | None
    options: Options = NO_OPTIONS
    timestamp_ns: int | None = None

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

    @property
    def timestamp(self) -> datetime | None:
        """``timestamp_ns`` as a datetime in UTC, which keeps only microseconds.

        Raises:
            OverflowError: the file says a time after the year 9999.
        """
        return datetime_of(self.timestamp_ns)


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
        options: all that the file says of it, some of the above among it; numbers in this machine's byte order.
        section: the place of its section in the reader's ``sections``.
    """

    name: str | None
    linktype: int
    snaplen_bytes: int
    units_per_s: int
    capture_filter: str | None = None
    statistics: FileStatistics | None = None
    is_swapped: bool = False
    options: Options = NO_OPTIONS
    section: int = 0

    @property
    def description(self) -> str | None:
        """What it is, in words; None where the file does not say, and so the next ones."""
        return self.options.text(pcapng.IF_DESCRIPTION)

    @property
    def comments(self) -> tuple[str, ...]:
        """What else is said of it in words."""
        return self.options.comments

    @property
    def hardware(self) -> str | None:
        """Its hardware."""
        return self.options.text(pcapng.IF_HARDWARE)

    @property
    def operating_system(self) -> str | None:
        """The operating system of the machine that it is part of."""
        return self.options.text(pcapng.IF_OS)

    @property
    def mac_address(self) -> str | None:
        """Its hardware address, such as ``02:00:5e:10:00:01``."""
        value = self.options.value(pcapng.IF_MACADDR)
        return None if value is None else mac_text(value)

    @property
    def speed_bits_per_s(self) -> int | None:
        """How fast it is."""
        return self.options.number(pcapng.IF_SPEED, "Q")

    @property
    def addresses(self) -> tuple[str, ...]:
        """Its addresses, such as ``192.0.2.1/24``."""
        values = (each.value for each in self.options if each.code in (pcapng.IF_IPV4ADDR, pcapng.IF_IPV6ADDR))
        return tuple(text for text in map(network_text, values) if text)


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
        flags: uint32, what pcapng's ``epb_flags`` says of each: bits 0 and 1 are the direction, 2 to 4 the kind (see
            ``Direction`` and ``PacketKind``); 0 where it says nothing. None: it says nothing of any of them.
        options: what the file says of packets beside these, flags among it; None: nothing.
    """

    timestamps_ns: npt.NDArray[np.int64]
    interface_ids: npt.NDArray[np.uint32]
    captured_sizes: npt.NDArray[np.uint32]
    original_sizes: npt.NDArray[np.uint32]
    offsets: npt.NDArray[np.int64]
    data: npt.NDArray[np.uint8]
    flags: npt.NDArray[np.uint32] | None = None
    options: OptionColumn | None = None

    @property
    def timestamps(self) -> npt.NDArray[np.datetime64]:
        """``timestamps_ns`` as numpy's datetimes, ``datetime64[ns]`` in UTC, which keep the nanoseconds; no copy."""
        return self.timestamps_ns.view("datetime64[ns]")

    def within(self, start_ns: int | None, end_ns: int | None) -> npt.NDArray[np.bool_]:
        """Return which packets lie in a span.

        Args:
            start_ns: those from then on, in nanoseconds since 1970-01-01 00:00 UTC; None: from the beginning.
            end_ns: those before then; None: to the end.
        """
        mask = np.ones(len(self.timestamps_ns), np.bool_)
        if start_ns is not None:
            mask &= self.timestamps_ns >= start_ns
        if end_ns is not None:
            mask &= self.timestamps_ns < end_ns
        return mask

    def chosen(self, places: npt.NDArray[np.bool_] | npt.NDArray[np.intp] | slice) -> "Batch":
        """Return some of the packets, with the same ``data``.

        Args:
            places: a mask with an element for each packet, or the places of those that are wanted, in order. A slice
                copies nothing.
        """
        return Batch(
            self.timestamps_ns[places],
            self.interface_ids[places],
            self.captured_sizes[places],
            self.original_sizes[places],
            self.offsets[places],
            self.data,
            None if self.flags is None else self.flags[places],
            None if self.options is None else self.options.chosen(places),
        )

    def __repr__(self) -> str:
        """Return how many packets these are, and of when."""
        span = ""
        if len(self.timestamps_ns):
            first_ns, last_ns = int(self.timestamps_ns[0]), int(self.timestamps_ns[-1])
            span = f", {time_text(first_ns)} to {time_text(last_ns)}"
        return f"<Batch of {len(self.timestamps_ns)} packets{span}>"
