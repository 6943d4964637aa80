"""Streams as sources: packets that come on a descriptor, as pcap or pcapng, of one interface or several.

The client has opened it, with its own rights: a pipe, a FIFO, a socket, a file. Nothing of it is looked at before this
process is the user's. What is not read yet waits with who writes it: nothing is dropped here.
"""

import socket
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from capd.filters.compiler import CaptureFailed
from capd.worker.packets.arrays import I64, U8
from capd.worker.packets.merge import Waiting
from capd.worker.packets.stream_records import Chosen, UnwritableTimeError, make_records
from capd.worker.sources.input import Input, SuccessiveInputs
from capd.worker.sources.source import Declare, Listener, Statistics, Taken
from capd_protocol.batches.batch_filter import BatchFilter
from capd_protocol.batches.model import Batch, FileInterface
from capd_protocol.batches.pcap_parser import PcapParser
from capd_protocol.batches.pcapng_parser import distinct
from capd_protocol.batches.recognition import MAGIC_BYTES, Parser, recognize
from capd_protocol.batches.record_offsets import Damage
from capd_protocol.formats import pcapng
from capd_protocol.formats.options import NO_OPTIONS
from capd_protocol.messages import MAX_SNAPLEN_BYTES, Failure, FailureCode, InterfaceRequest
from capd_protocol.text import counted, escaped, numbered, quoted

#: Read at once. As much as a pipe may have for an ordinary user (/proc/sys/fs/pipe-max-size).
_READ_BYTES = 1024 * 1024
#: Where less is left of a piece of memory, the next one is begun: parsing little at a time takes several times as long.
_LEAST_ROOM_BYTES = 256 * 1024
#: What has been read and not been written. Chosen: several reads, so that other sources can be waited for.
_CAPACITY_BYTES = 8 * 1024 * 1024
#: A longer record ends the stream. Chosen: many times what networks and buses carry.
_MAX_RECORD_BYTES = 16 * 1024 * 1024
#: How long a packet may be under way in a program that writes a stream: packets of other sources are kept waiting for
#: it so long. Chosen: as long as tcpdump keeps one at most.
_ALLOWANCE_NS = 1_000_000_000
#: A stream whose first packet is older than this when the capture begins is one of the past: nothing live waits for it.
_PAST_NS = 60_000_000_000
#: Of an interface's name in a stream. Chosen: the system's own have up to 15.
_MAX_NAME_CHARACTERS = 64
#: With other programs' interfaces in one stream, or a stream that wants to fill memory. Chosen: what a machine with
#: containers has.
_MAX_INTERFACES = 1024
#: Link types of which packets begin with numbers in the byte order of who wrote them, and libpcap swaps them on reading
#: (pcap-util.c): USB, with and without padding, and NFLOG.
_IN_WRITERS_ORDER = {189, 220, 239}

#: Of descriptions in all sections of a stream, with those that only come again. Chosen: some MB in memory.
_MAX_DESCRIPTIONS = 100_000

#: Compiles the filter for a link type, of packets that a machine of the other byte order may have written; None: there
#: is no filter. Raises CaptureFailed where it does not compile.
CompileFor = Callable[[int, bool], BatchFilter | None]


@dataclass(slots=True)
class StreamInterface:
    """An interface that a stream describes (``source.CapturedInterface``)."""

    name: str
    linktype: int
    snaplen_bytes: int
    description: bytes
    #: None: all pass.
    filter: BatchFilter | None
    #: Among those of the capture.
    number: int = -1
    written_total: int = 0
    passed_total: int = 0
    #: As far as the stream has said.
    drops_total: int = 0

    def statistics(self) -> Statistics:
        """Return what came and passed the filter, and what had been dropped before it came, as the stream says."""
        return Statistics(self.passed_total + self.drops_total, self.drops_total)


class StreamSource:
    """A stream (``source.PacketSource``)."""

    trigger: socket.socket | None = None
    interface_index: int | None = None
    ring_number: int | None = None
    was_down = False

    def __init__(
        self,
        request: InterfaceRequest,
        descriptor: int,
        compile_for: CompileFor,
        *,
        file_format: Literal["pcapng", "pcap"],
    ) -> None:
        """Take over a descriptor that is open for reading.

        Args:
            request: what it is called, its filter, and how much of each packet is kept.
            descriptor: this one.
            compile_for: compiles the filter.
            file_format: of the capture's files.
        """
        self.name = request.name
        self._request = request
        self._file_format: Literal["pcapng", "pcap"] = file_format
        self._compile_for = compile_for
        make_input = SuccessiveInputs if request.comes_again else Input
        self._input: Input | SuccessiveInputs = make_input(descriptor)
        #: What comes until its end is left out, since it is damaged.
        self._is_skipping = False
        #: It has ended, and may come again.
        self._is_away = False
        self.is_lost = False
        self._loss: Failure | None = None
        #: Nothing more is read.
        self._is_over = False
        self._declare: Declare | None = None
        self._listener: Listener | None = None
        # What was read:
        self._memory: U8 = np.empty(0, np.uint8)
        self._begin = self._end = 0
        #: From the stream's beginning to ``_begin``.
        self._offset_bytes = 0
        self._parser: Parser | None = None
        self._wanted_bytes = MAGIC_BYTES
        # What it describes, in the order of its own numbers, which begin anew in each section:
        self._described: list[StreamInterface] = []
        self._numbers: I64 = np.empty(0, np.int64)
        self._drops: list[int] = []
        self._known: dict[FileInterface, StreamInterface] = {}
        # What was found:
        self._waiting: deque[tuple[Waiting, float]] = deque()
        self._held_bytes = 0
        self._began_ns = time.time_ns()
        self._is_of_the_past = False

    @property
    def is_armed(self) -> bool:
        """Whether packets can come: it was not let go, and is not waited for."""
        return self._input.is_open and not self._is_away

    @property
    def may_return(self) -> bool:
        """Whether it is waited for when it has ended."""
        return self._request.comes_again and not self._is_over

    @property
    def loss(self) -> Failure | None:
        """What is wrong with it; None where it has ended well."""
        return self._loss

    @property
    def size_bytes(self) -> int:
        """Whatever comes waits with who writes it."""
        return sys.maxsize

    @property
    def is_drained(self) -> bool:
        """Whether everything was taken, and nothing more is read."""
        return self._is_over and not self._waiting

    @property
    def has_interface(self) -> bool:
        """Whether it has described one."""
        return bool(self._described)

    @property
    def is_over(self) -> bool:
        """Whether nothing more is read of it."""
        return self._is_over

    def without_interface(self) -> Failure:
        """Return what to say where it has ended well, and has described none."""
        text = f"{self._shown} has ended, and has described no interface: a pcap file begins with its link type"
        return Failure(code=FailureCode.SOURCE_DAMAGED, text=text, interface=self.name)

    def read_ahead(self) -> None:
        """Read what is there, and keep it."""
        self._receive()

    def begin(self, declare: Declare, listener: Listener) -> None:
        """Have interfaces that are found from now on declared."""
        self._declare, self._listener = declare, listener

    def fileno(self) -> int:
        """Return the descriptor; -1 for a file, which is always ready."""
        return self._input.fileno()

    def take(self) -> Taken | None:
        """Return the next packets that passed the filter.

        Raises:
            SinkFailed: an interface cannot be declared.
        """
        if not self._waiting:
            self._receive()
        if not self._waiting:
            return None
        waiting, share = self._waiting.popleft()
        return Taken(waiting, share)

    def is_ready(self) -> bool:
        """Whether something was read, or can be."""
        return bool(self._waiting) or (self._may_read and self._input.is_ready())

    @property
    def _may_read(self) -> bool:
        return not self._is_over and self._held_bytes < _CAPACITY_BYTES

    def caught_up_ns(self, looked_ns: int) -> int:
        """Return until when packets have come, at the latest: who writes them may keep them for a while."""
        waits_for_none = self._is_over or self._is_away or self._is_of_the_past
        return looked_ns if waits_for_none else looked_ns - _ALLOWANCE_NS

    def look(self) -> bool:
        """Nothing: its end is found on reading."""
        return False

    def statistics(self) -> Statistics:
        """Return the totals of all its interfaces."""
        each = [interface.statistics() for interface in self._known.values()]
        return Statistics(sum(of.received_total for of in each), sum(of.drops_total for of in each))

    def disarm(self) -> None:
        """Close it."""
        self._is_over = True
        self._input.close()
        self.is_lost = False

    # Reading --------------------------------------------------------------------------------------------------------

    def _receive(self) -> None:
        if not self._may_read:
            return
        try:
            came_bytes = self._input.read_into(self._room())
        except OSError as error:
            self._lose(f"{self._shown} cannot be read: {error.strerror}")
            return
        if came_bytes and not self._is_skipping:
            self._is_back()
            self._end += came_bytes
            self._parse(came_bytes / _READ_BYTES)
        elif came_bytes == 0:
            self._end_of_stream()
        if self.is_lost:  # and this was what had come by then
            self._is_over = True

    def _room(self) -> memoryview:
        if len(self._memory) - self._end < _LEAST_ROOM_BYTES:
            rest = self._memory[self._begin : self._end]
            # Where nobody holds what is in it, it is used again: new memory costs as much as reading.
            if self._held_bytes or len(self._memory) - len(rest) < _READ_BYTES:
                self._memory = np.empty(max(2 * _READ_BYTES, 2 * len(rest) + _READ_BYTES), np.uint8)
            self._memory[: len(rest)] = rest
            self._begin, self._end = 0, len(rest)
        return self._memory.data[self._end : self._end + _READ_BYTES]

    @property
    def _shown(self) -> str:
        return f"the stream {quoted(self.name)}"

    def _is_back(self) -> None:
        if self._is_away:
            self._is_away = False
            if self._listener is not None:
                self._listener.interface_attached(self.name)

    def _go_away(self, text: str) -> None:
        """Begin anew with what comes next under this name."""
        self._begin = self._end = 0
        self._is_skipping = False
        self._read_anew()
        if not self._is_away:
            self._is_away = True
            if self._listener is not None:
                self._listener.interface_lost(self.name, text)

    def _read_anew(self) -> None:
        """Read what comes next as a stream of its own, which has a header."""
        self._offset_bytes = 0
        self._parser, self._wanted_bytes = None, MAGIC_BYTES
        self._described, self._drops, self._numbers = [], [], np.empty(0, np.int64)

    def _end_of_stream(self) -> None:
        if self._request.comes_again:
            rest = self._end - self._begin
            self._go_away(f"{self._shown} has ended" + (", within a record" if rest and not self._is_skipping else ""))
            return
        if self._end > self._begin:
            at = self._offset_bytes
            what = f"what begins at byte {at:,}; all before that is captured" if at else "its header"
            self._lose(f"{self._shown} is cut: it ends within {what}")
        elif self._parser is None:
            self._lose(f"{self._shown} has ended before anything came, not even the header of a pcap or pcapng file")
        self._is_over = self.is_lost = True

    def _lose(self, text: str, code: FailureCode = FailureCode.SOURCE_DAMAGED) -> None:
        self._lose_for(Failure(code=code, text=text, interface=self.name))

    def _lose_for(self, failure: Failure) -> None:
        if self._request.comes_again and failure.code == FailureCode.SOURCE_DAMAGED:
            self._go_away(f"{failure.text}; what follows until its end is left out")
            self._is_skipping = True
            return
        self._loss = failure
        self._is_over = self.is_lost = True

    # Packets --------------------------------------------------------------------------------------------------------

    def _parse(self, share: float) -> None:
        try:
            while self._end - self._begin >= self._wanted_bytes:
                self._parse_once(share)
        except Damage as error:
            at = self._offset_bytes + error.offset_bytes
            rest = "; all before that is captured" if self._described else ""
            self._lose(f"{self._shown} is damaged at byte {at:,}: {error}{rest}")
        except UnwritableTimeError as error:
            self._lose(f"{self._shown} has {error}: all before that is captured", FailureCode.UNSUPPORTED)
        except CaptureFailed as error:
            self._lose_for(error.failure)

    def _parse_once(self, share: float) -> None:
        window = self._memory[: self._end]
        if self._parser is None:
            self._parser = recognize(window[self._begin : self._begin + MAGIC_BYTES].tobytes())
        parser = self._parser
        assert parser is not None  # there are enough bytes to know
        batches, stop = parser.parse(window, self._begin)
        header_at = parser.header_among(batches[-1]) if batches and isinstance(parser, PcapParser) else None
        if header_at is not None:  # another program has begun to write before the one before had left
            batches[-1], stop = batches[-1].chosen(np.arange(len(batches[-1].offsets) - 1)), header_at
        self._describe(parser.interfaces)
        for batch in batches:
            self._prepare(batch, share, are_native_blocks=parser.are_native_blocks)
        self._offset_bytes += stop - self._begin
        self._begin = stop
        if header_at is not None:
            self._read_anew()
            return
        self._wanted_bytes = parser.record_bytes(window, stop)
        if self._wanted_bytes > _MAX_RECORD_BYTES:
            raise Damage(0, f"a record of {self._wanted_bytes:,} bytes; one may have {_MAX_RECORD_BYTES:,}")

    def _prepare(self, batch: Batch, share: float, *, are_native_blocks: bool) -> None:
        """Make records of a batch's packets that pass."""
        if not len(batch.timestamps_ns):
            return
        if not self._held_bytes and not self._offset_bytes:
            self._is_of_the_past = int(batch.timestamps_ns[0]) < self._began_ns - _PAST_NS
        passed = self._passed(batch)
        if passed is not None:
            batch = batch.chosen(passed)
        count = len(batch.timestamps_ns)
        if not count:
            return
        numbers = self._numbers[batch.interface_ids]
        chosen = Chosen(batch, numbers, are_native_blocks)
        records = make_records(chosen, file_format=self._file_format, snaplen_bytes=self._request.snaplen_bytes)
        for place, packets in enumerate(np.bincount(batch.interface_ids).tolist()):
            self._described[place].passed_total += packets
        size_bytes = int(records.vectors[:, 1].sum())
        self._held_bytes += size_bytes
        memory = batch.data  # as long as records are in it

        def release() -> None:
            nonlocal memory
            del memory
            self._held_bytes -= size_bytes

        self._waiting.append((Waiting(records, release, keeps_order=True), share))

    def _passed(self, batch: Batch) -> I64 | None:
        """Return which packets pass the filter; None: all."""
        places: list[int] = distinct(batch.interface_ids)[0].tolist()
        filters = {place: self._described[place].filter for place in places}
        if all(each is None for each in filters.values()):
            return None
        passes = np.zeros(len(batch.timestamps_ns), np.bool_)
        for place, each in filters.items():
            mine = np.flatnonzero(batch.interface_ids == place)
            passes[mine] = each is None or _matches(each, batch.chosen(mine))
        return np.flatnonzero(passes)

    # Interfaces -----------------------------------------------------------------------------------------------------

    def _describe(self, interfaces: list[FileInterface]) -> None:
        """Declare the interfaces that are new, and note what the stream says of drops.

        Raises:
            CaptureFailed: one cannot be declared, or filtered.
            Damage: there are too many.
        """
        if len(interfaces) > _MAX_DESCRIPTIONS:
            raise Damage(0, f"more than {_MAX_DESCRIPTIONS:,} descriptions of interfaces")
        for described in interfaces[len(self._described) :]:
            kind = described._replace(statistics=None, options=NO_OPTIONS, section=0)
            if kind not in self._known:
                self._known[kind] = self._declared(kind)
            self._described.append(self._known[kind])
            self._drops.append(0)
        if len(self._numbers) != len(self._described):
            self._numbers = np.array([each.number for each in self._described], np.int64)
        for place, described in enumerate(interfaces):
            if described.statistics is not None and described.statistics.drops is not None:
                self._described[place].drops_total += described.statistics.drops - self._drops[place]
                self._drops[place] = described.statistics.drops

    def _declared(self, described: FileInterface) -> StreamInterface:
        if len(self._known) >= _MAX_INTERFACES:
            raise Damage(0, f"more than {counted(_MAX_INTERFACES, 'interface')}")
        if described.is_swapped and described.linktype in _IN_WRITERS_ORDER:
            text = (
                f"{self._shown} has packets of link type {described.linktype} from a machine of the other byte order, "
                "in which their headers are: write it to a file, and read that"
            )
            raise CaptureFailed(Failure(code=FailureCode.UNSUPPORTED, text=text, interface=self.name))
        request = self._request
        snaplen_bytes = min(described.snaplen_bytes or MAX_SNAPLEN_BYTES, request.snaplen_bytes)
        own_name = (described.name or "")[:_MAX_NAME_CHARACTERS]
        filters = [text for text in (described.capture_filter, request.capture_filter) if text]
        interface = StreamInterface(
            name=self._name_of(own_name),
            linktype=described.linktype,
            snaplen_bytes=snaplen_bytes,
            description=pcapng.interface_description(
                linktype=described.linktype,
                snaplen_bytes=snaplen_bytes,
                name=own_name or self.name,
                capture_filter=filters[0] if len(filters) == 1 else " and ".join(f"({text})" for text in filters),
            ),
            filter=self._compile_for(described.linktype, described.is_swapped),
        )
        assert self._declare is not None  # it takes part
        interface.number = self._declare(interface)
        return interface

    def _name_of(self, own_name: str) -> str:
        """Return what counters and events call an interface: never what one of this system is called."""
        name = f"{self.name}/{escaped(own_name)}" if own_name else self.name
        return numbered(name, {each.name for each in self._known.values()})


def _matches(batch_filter: BatchFilter, batch: Batch) -> "npt.NDArray[np.bool_]":
    return batch_filter.matches(batch.data, batch.offsets, batch.captured_sizes, batch.original_sizes)
