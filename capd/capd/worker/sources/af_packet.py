"""AF_PACKET sources: planned and compiled, then made of packet sockets and rings that come armed."""

import contextlib
import socket
from collections.abc import Generator
from dataclasses import dataclass
from typing import NamedTuple

import msgspec

from capd.filters import bpf, cooked_filters
from capd.filters.compiler import CaptureFailed, Compiler, FilterError, Kind
from capd.launch import Launch, LaunchInterface, RingFilter
from capd.linux.packet_ring import RingMemory, kernel_failure
from capd.worker.packets.merge import Waiting
from capd.worker.packets.records import RecordMaker
from capd.worker.sources.ring_reader import PacketRingReader
from capd.worker.sources.source import Declare, Listener, Statistics, Taken
from capd_protocol.formats import pcapng
from capd_protocol.formats.linktypes import DLT_EN10MB, DLT_LINUX_SLL, LinkLayerType, dlt_to_linktype
from capd_protocol.messages import MAX_SNAPLEN_BYTES, Failure, FailureCode


@contextlib.contextmanager
def _typed(interface: str) -> Generator[None, None, None]:
    """Turn what the kernel says about an interface into the typed failure."""
    try:
        yield
    except OSError as error:
        raise CaptureFailed(kernel_failure(error, interface)) from error


_NOTHING = Statistics(0, 0)
#: What a VLAN tag takes of a packet where records have it put back (``records``), and filters do not see it.
_TAG_BYTES = {DLT_EN10MB: 4, DLT_LINUX_SLL: 4}


class PacketSockets(NamedTuple):
    """What an interface takes of CAP_NET_RAW: packet sockets, with its ring and for a recorder's trigger.

    They have their filters, and are bound.
    """

    ring: socket.socket
    memory: RingMemory
    trigger: socket.socket | None = None

    def close(self) -> None:
        """Close them."""
        self.ring.close()
        if self.trigger is not None:
            self.trigger.close()


@dataclass(slots=True)
class RingSource:
    """An interface and its packet socket, with its ring (``source.PacketSource``, ``source.CapturedInterface``)."""

    name: str
    launch: LaunchInterface
    #: By which the daemon knows the ring.
    ring_number: int
    link_layer_type: LinkLayerType
    #: The block that declares it in a pcapng file.
    description: bytes
    #: None while the interface is gone.
    ring: PacketRingReader | None
    #: What makes records of the ring's blocks.
    maker: RecordMaker
    trigger: socket.socket | None = None
    taken_total: int = 0
    written_total: int = 0
    #: Of rings that it had before.
    past: Statistics = _NOTHING
    is_lost: bool = False
    was_down: bool = False

    @property
    def interface_index(self) -> int:
        """Of the interface; 0 stands for all."""
        return self.launch.index

    @property
    def is_armed(self) -> bool:
        """Whether it has a ring."""
        return self.ring is not None

    @property
    def size_bytes(self) -> int:
        """The ring's size."""
        return self.ring.size_bytes if self.ring is not None else 0

    @property
    def is_drained(self) -> bool:
        """Whether every packet that the kernel has counted has been taken."""
        received, drops = self.statistics()
        return self.taken_total >= received - drops

    @property
    def linktype(self) -> int:
        """LINKTYPE_ number of its packets."""
        return dlt_to_linktype(self.link_layer_type.dlt)

    @property
    def snaplen_bytes(self) -> int:
        """How much of a packet is kept."""
        return self.launch.request.snaplen_bytes

    @property
    def may_return(self) -> bool:
        """Yes, by its name."""
        return True

    @property
    def loss(self) -> Failure:
        """It is gone: an interface does not end otherwise."""
        text = f"{self.name} is no longer there"
        return Failure(code=FailureCode.INTERFACE_LOST, text=text, interface=self.name)

    def begin(self, declare: Declare, listener: Listener) -> None:
        """Nothing: its only interface is declared with it."""

    def fileno(self) -> int:
        """Return the packet socket's descriptor."""
        return self.ring.socket.fileno() if self.ring is not None else -1

    def take(self) -> Taken | None:
        """Return the packets of the next blocks; once it is lost, also of one that the kernel has not closed."""
        ring, maker = self.ring, self.maker
        if ring is None:
            return None
        blocks = ring.take()
        if blocks is None and self.is_lost:
            blocks = ring.take_open()
        if blocks is None:
            return None
        share = blocks.total / ring.blocks
        packets = blocks.packets
        if not packets:
            ring.release(blocks)
            return Taken(None, share)
        self.taken_total += packets
        records = maker.make(blocks)

        def release() -> None:
            ring.release(blocks)
            maker.done_with(records)

        return Taken(Waiting(records, release), share)

    def is_ready(self) -> bool:
        """Whether the kernel has closed a further block."""
        return self.ring is not None and self.ring.is_ready()

    def caught_up_ns(self, looked_ns: int) -> int:
        """Return the present, or when the kernel opened the block that it is filling."""
        open_since_ns = self.ring.open_since_ns() if self.ring is not None else None
        return looked_ns if open_since_ns is None else min(looked_ns, open_since_ns)

    def look(self) -> bool:
        """Take the socket's error; return whether the interface is gone, and was there before."""
        if self.ring is None:
            return False
        self.ring.clear_error()
        self.was_down = True
        if self.is_lost or self.ring.is_attached():
            return False
        self.is_lost = True
        return True

    def statistics(self) -> Statistics:
        """Return the kernel's totals, of all rings that it has had."""
        if self.ring is None:
            return self.past
        now = self.ring.statistics()
        return Statistics(self.past.received_total + now.received_total, self.past.drops_total + now.drops_total)

    def disarm(self) -> None:
        """Give up the ring; what it has counted stays."""
        self.past = self.statistics()
        if self.ring is not None:
            self.ring.close()
            self.ring = None
        if self.trigger is not None:
            self.trigger.close()
            self.trigger = None
        self.is_lost = self.was_down = False

    def take_over(self, other: "RingSource") -> None:
        """Go on with the interface and the ring of another one, which nobody uses any more."""
        self.launch, self.description, self.ring_number = other.launch, other.description, other.ring_number
        self.ring, self.maker, self.trigger = other.ring, other.maker, other.trigger


class Plan(NamedTuple):
    """How an interface is captured: all that can be known without its ring."""

    interface: LaunchInterface
    link_layer_type: LinkLayerType
    #: What the user wants; policy's is put before it by the daemon.
    filter: RingFilter
    #: The block that declares it in a pcapng file.
    description: bytes


class SourceMaker:
    """Makes sources; holds what that takes from the privileged beginning to the end.

    The user's filter is compiled for what the user calls the packets; policy's is the daemon's affair. Interfaces that
    come later may have all filters that were compiled in the beginning, for whatever interface.
    """

    def __init__(self, launch: Launch, operating_system: str, compiler: Compiler) -> None:
        self._launch = launch
        self._operating_system = operating_system
        self._trigger_filter = launch.trigger_filter
        self._compiler = compiler
        #: By all that they are made of.
        self._programs: dict[tuple[str | int, ...], bytes] = {}

    def open_handles(self) -> None:
        """Open libpcap's live handles, where they are needed: this takes CAP_NET_RAW.

        Raises:
            CaptureFailed: one cannot be opened.
        """
        if not self._launch.needs_live_handles:
            return
        for interface in self._launch.interfaces:
            if interface.is_up:
                try:
                    with _typed(interface.request.name):
                        self._compiler.open_handle(_kind_of(interface), interface.device)
                except CaptureFailed:
                    if not interface.is_optional:
                        raise  # one that has gone already is found out again when it is bound

    @property
    def link_layer_types(self) -> set[int]:
        """What filters are compiled for: what the interfaces have, and where others may come, Ethernet's."""
        later = [DLT_EN10MB] if self._launch.waits else []
        return {*later, *(interface.default_dlt for interface in self._launch.interfaces)}

    def compile_ahead(self) -> None:
        """Compile what interfaces that come later may need. Faults are reported when there is one that needs it."""
        for dlt in self.link_layer_types:
            for text in self._launch.later_filters:
                with contextlib.suppress(FilterError):
                    self._compiler.compile(text, dlt)

    def close_handles(self) -> None:
        """Close libpcap's handles. Interfaces that come from now on get what has been compiled, or is so at once."""
        self._compiler.close_handles()

    def plan(self, interface: LaunchInterface, number: int) -> Plan:
        """Compile the filters of an interface; an error about one of them has the interface's number.

        Raises:
            CaptureFailed: one does not compile, or the interface has no such link-layer type.
        """
        request = interface.request
        wanted = interface.wanted_type
        link_layer_type = self._compiler.choose_link_layer_type(_kind_of(interface), wanted, request.name)
        program = self._program(request.capture_filter, interface, number, link_layer_type)
        if request.direction != "inout":
            program = bpf.of_direction(program, is_outgoing=request.direction == "out")
        trigger_program = b""
        if self._trigger_filter:
            try:
                trigger_program = self._program(self._trigger_filter, interface, number, link_layer_type)
            except CaptureFailed as error:
                if error.failure.argument != "capture_filter":
                    raise
                raise CaptureFailed(_of_trigger(error.failure)) from error
        filters = RingFilter(number=number, program=program, trigger_program=trigger_program)
        return Plan(interface, link_layer_type, filters, self._describe(interface, link_layer_type))

    def make(self, plan: Plan, sockets: PacketSockets, interface_id: int) -> RingSource:
        """Map the ring that was armed for a plan.

        Raises:
            CaptureFailed: there is no room for it; the sockets are closed.
        """
        interface, link_layer_type = plan.interface, plan.link_layer_type
        request = interface.request
        try:
            with _typed(request.name):
                ring = PacketRingReader(sockets.ring, sockets.memory, interface.index)
        except BaseException:
            sockets.close()
            raise
        return RingSource(
            name=request.name,
            launch=interface,
            ring_number=plan.filter.number,
            link_layer_type=link_layer_type,
            description=plan.description,
            ring=ring,
            trigger=sockets.trigger,
            maker=RecordMaker(
                memory=ring.bytes,
                address=ring.address,
                file_format=self._launch.file_format,
                has_flags=self._launch.packet_flags,
                interface_id=interface_id,
                snaplen_bytes=request.snaplen_bytes,
                dlt=link_layer_type.dlt,
            ),
        )

    def _describe(self, interface: LaunchInterface, link_layer_type: LinkLayerType) -> bytes:
        return pcapng.interface_description(
            linktype=dlt_to_linktype(link_layer_type.dlt),
            snaplen_bytes=interface.request.snaplen_bytes,
            name=interface.request.label or interface.request.name,
            description=interface.request.description or interface.description,
            capture_filter=_filter_text(interface),
            operating_system=self._operating_system,
            hardware=interface.driver,
            mac_address=interface.mac_address,
            speed_bits_per_s=interface.speed_bits_per_s,
        )

    def _program(self, text: str, interface: LaunchInterface, number: int, link_layer_type: LinkLayerType) -> bytes:
        """Return a filter of the user's, as the kernel can run it."""
        request, most_bytes = interface.request, interface.policy_snaplen_bytes
        made_of = text, link_layer_type.dlt, request.snaplen_bytes, most_bytes, interface.is_cooked
        if made_of not in self._programs:
            try:
                program = self._users(text, interface, link_layer_type)
            except FilterError as error:
                raise CaptureFailed(error.failure(request.name, number)) from error
            self._programs[made_of] = program
        return self._programs[made_of]

    def _users(self, text: str, interface: LaunchInterface, link_layer_type: LinkLayerType) -> bytes:
        """Return the user's filter, which sees no more of a packet than policy lets the user keep."""
        dlt, most_bytes = link_layer_type.dlt, interface.policy_snaplen_bytes
        program = bpf.keeping(self._compiler.compile(text, dlt), interface.request.snaplen_bytes)
        if most_bytes < MAX_SNAPLEN_BYTES:
            program = bpf.bounded(program, most_bytes, tag_bytes=_TAG_BYTES.get(dlt, 0))
        return _as_delivered(program, link_layer_type, interface)


def _kind_of(interface: LaunchInterface) -> Kind:
    return Kind(interface.hardware_type, interface.default_dlt)


def _as_delivered(program: bytes, link_layer_type: LinkLayerType, interface: LaunchInterface) -> bytes:
    """Return a filter as the kernel can run it on what it delivers."""
    if not interface.is_cooked:
        return program
    made = cooked_filters.cook(program, link_layer_type.dlt)
    if made is None:
        name = interface.request.name
        text = f"the filter looks at a part of the {link_layer_type} header of {name} that the kernel does not know"
        raise FilterError(text, code=FailureCode.UNSUPPORTED)
    return made


def _filter_text(interface: LaunchInterface) -> str:
    texts = [text for text in (interface.policy_filter, interface.request.capture_filter) if text]
    return texts[0] if len(texts) == 1 else " and ".join(f"({text})" for text in texts)


def _of_trigger(failure: Failure) -> Failure:
    return msgspec.structs.replace(failure, argument="recorder_trigger_filter")
