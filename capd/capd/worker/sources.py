"""An interface of a capture: its ring, how its packets become records, and what has become of them."""

import contextlib
import errno
import os
import socket
from collections.abc import Generator
from dataclasses import dataclass
from typing import NamedTuple

import msgspec

from capd.libpcap import Handle
from capd.packet_ring import RingMemory, kernel_failure
from capd.packet_socket import ETH_P_ALL, attach_filter, bind, lock_filter
from capd.worker import bpf, cooked
from capd.worker.filter_text import words
from capd.worker.filters import CaptureFailed, Compiler, bad_filter
from capd.worker.launch import Launch, LaunchInterface
from capd.worker.records import RecordMaker
from capd.worker.ring import Blocks, Ring, Statistics
from capd_protocol import pcapng
from capd_protocol.linktypes import LinkLayerType, dlt_to_linktype, from_dlt
from capd_protocol.messages import Failure, FailureCode, InterfaceCounters


@contextlib.contextmanager
def _typed(interface: str) -> Generator[None, None, None]:
    """Turn what the kernel says about an interface into the typed failure."""
    try:
        yield
    except OSError as error:
        raise CaptureFailed(kernel_failure(error, interface)) from error


_NOTHING = Statistics(0, 0)
#: Of a trigger's socket. Chosen: the least that the kernel gives; one packet says it all.
_TRIGGER_BUFFER_BYTES = 2048


class PacketSockets(NamedTuple):
    """What an interface takes of CAP_NET_RAW: inert packet sockets, with its ring and for a recorder's trigger."""

    ring: socket.socket
    memory: RingMemory
    trigger: socket.socket | None = None

    def close(self) -> None:
        """Close them."""
        self.ring.close()
        if self.trigger is not None:
            self.trigger.close()


@dataclass(slots=True)
class Source:
    """One interface of the capture. Without a ring while the interface is gone."""

    name: str
    launch: LaunchInterface
    link_layer_type: LinkLayerType
    interface_id: int
    #: The block that declares it in a pcapng file.
    description: bytes
    ring: Ring | None
    #: What makes records of the ring's blocks.
    maker: RecordMaker
    #: Becomes readable when a packet comes that triggers a snapshot.
    trigger: socket.socket | None = None
    taken_total: int = 0
    written_total: int = 0
    #: Of rings that it had before.
    past: Statistics = _NOTHING
    is_lost: bool = False
    #: The kernel has told once that it went down; it does not tell what happens to it then.
    was_down: bool = False

    def arm(self) -> None:
        """Begin to receive.

        Raises:
            CaptureFailed: the interface is not there any more, or not under its name; nothing of it may be read.
        """
        if self.ring is None:
            raise AssertionError("no ring to arm")
        index = self.launch.index
        with _typed(self.name):
            self.ring.arm(index, promiscuous=bool(self.launch.request.promiscuous))
            if self.trigger is not None:
                bind(self.trigger.fileno(), ETH_P_ALL, index)
            # It was granted by its name, and may have got another one since, or another interface its index.
            if index and os.fsencode(socket.if_indextoname(index)) != self.launch.device.encode():
                raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))
            if self.launch.is_up and not self.launch.is_optional:
                self.ring.check_error()  # it may have gone down since the daemon looked

    def statistics(self) -> Statistics:
        """Return the kernel's totals, of all rings that it has had."""
        if self.ring is None:
            return self.past
        now = self.ring.statistics()
        return Statistics(self.past.received_total + now.received_total, self.past.drops_total + now.drops_total)

    def take(self) -> Blocks | None:
        """Return the next blocks; once nothing more comes, also one that the kernel has not closed yet."""
        if self.ring is None:
            return None
        blocks = self.ring.take()
        return self.ring.take_open() if blocks is None and self.is_lost else blocks

    @property
    def is_drained(self) -> bool:
        """Whether every packet that the kernel has counted has been taken."""
        received, drops = self.statistics()
        return self.taken_total >= received - drops

    def detach(self) -> None:
        """Give up the ring of an interface that is gone; what it has counted stays."""
        self.past = self.statistics()
        if self.ring is not None:
            self.ring.close()
            self.ring = None
        if self.trigger is not None:
            self.trigger.close()
            self.trigger = None

    def take_over(self, other: "Source") -> None:
        """Go on with the interface and the ring of another one, which nobody uses any more."""
        self.launch, self.description = other.launch, other.description
        self.ring, self.maker, self.trigger = other.ring, other.maker, other.trigger

    def counters(self, *, unwritten: str | None = None) -> InterfaceCounters:
        """Where its packets are; ``unwritten`` names the counter of those that are in no file at the end."""
        received, drops = self.statistics()
        rest = {unwritten: received - drops - self.written_total} if unwritten else {}
        return InterfaceCounters(
            interface=self.name,
            received_total=received,
            written_total=self.written_total,
            kernel_drops_total=drops,
            **rest,
        )


class Plan(NamedTuple):
    """How an interface is captured: all that can be known without its ring."""

    interface: LaunchInterface
    link_layer_type: LinkLayerType
    #: Its filters.
    program: bytes
    trigger_program: bytes
    #: The block that declares it in a pcapng file.
    description: bytes


class SourceMaker:
    """Makes sources; holds what that takes from the privileged beginning to the end.

    Interfaces of one hardware type share a libpcap handle: what it compiles is the same for all of them. For those
    that come later and are of a new type, there is no live one, which matters for ``vlan`` alone.
    """

    def __init__(self, launch: Launch, operating_system: str) -> None:
        self._launch = launch
        self._operating_system = operating_system
        self._trigger_filter = launch.trigger_filter
        self._compilers: dict[tuple[int, int], Compiler] = {}

    def open_handles(self) -> None:
        """Open libpcap's live handles, where they are needed: this takes CAP_NET_RAW.

        Raises:
            CaptureFailed: one cannot be opened.
        """
        if not self._launch.needs_live_handles:
            return
        for interface in self._launch.interfaces:
            key = interface.hardware_type, interface.request.snaplen_bytes
            if key not in self._compilers and interface.is_up:
                try:
                    self._compilers[key] = Compiler(interface.device, interface.request.snaplen_bytes)
                except CaptureFailed:
                    if not interface.is_optional:
                        raise  # one that has gone already is found out again when it is bound

    def plan(self, interface: LaunchInterface, interface_id: int) -> Plan:
        """Compile the filters of an interface; ``interface_id`` is told with what is wrong with them.

        Raises:
            CaptureFailed: one does not compile.
        """
        request = interface.request
        compiler = self._compiler_for(interface)
        link_layer_type = compiler.choose_link_layer_type(interface.wanted_type, request.name)
        program = self._compile(compiler, request.capture_filter, interface, interface_id, link_layer_type)
        trigger_program = b""
        if self._trigger_filter:
            try:
                text = self._trigger_filter
                trigger_program = self._compile(compiler, text, interface, interface_id, link_layer_type)
            except CaptureFailed as error:
                if error.failure.argument != "capture_filter":
                    raise
                raise CaptureFailed(_of_trigger(error.failure)) from error
        description = self._describe(interface, link_layer_type)
        return Plan(interface, link_layer_type, program, trigger_program, description)

    def make(self, plan: Plan, sockets: PacketSockets, interface_id: int) -> Source:
        """Give the sockets their filters, and map the ring; they are still inert.

        Raises:
            CaptureFailed: the kernel does not take a filter; the sockets are closed.
        """
        try:
            return self._make(plan, sockets, interface_id)
        except BaseException:
            sockets.close()
            raise

    def _make(self, plan: Plan, sockets: PacketSockets, interface_id: int) -> Source:
        interface, link_layer_type = plan.interface, plan.link_layer_type
        request = interface.request
        if sockets.trigger is not None:
            _prepare_trigger(sockets.trigger, plan.trigger_program, request.name, interface_id)
        with _typed(request.name):
            ring = Ring(sockets.ring, sockets.memory)
        _attach(ring, plan.program, request.name, interface_id)
        if interface.policy_filter:
            ring.lock_filter()
        return Source(
            name=request.name,
            launch=interface,
            link_layer_type=link_layer_type,
            interface_id=interface_id,
            description=plan.description,
            ring=ring,
            trigger=sockets.trigger,
            maker=RecordMaker(
                ring=ring,
                file_format=self._launch.file_format,
                interface_id=interface_id,
                snaplen_bytes=request.snaplen_bytes,
                dlt=link_layer_type.dlt,
            ),
        )

    def _describe(self, interface: LaunchInterface, link_layer_type: LinkLayerType) -> bytes:
        return pcapng.interface_description(
            linktype=dlt_to_linktype(link_layer_type.dlt),
            snaplen_bytes=interface.request.snaplen_bytes,
            name=interface.request.name,
            description=interface.alias,
            capture_filter=_filter_text(interface),
            operating_system=self._operating_system,
            hardware=interface.driver,
            mac_address=interface.mac_address,
            speed_bits_per_s=interface.speed_bits_per_s,
        )

    def _compile(
        self,
        compiler: Compiler,
        text: str,
        interface: LaunchInterface,
        interface_id: int,
        link_layer_type: LinkLayerType,
    ) -> bytes:
        """Return a filter of the user's, and of what it takes, what policy takes too."""
        program = compiler.compile(text, interface.request.name, interface_id)
        if interface.policy_filter:
            program = bpf.joined(_compile_policy(compiler, interface, interface_id), program)
        if link_layer_type.dlt in cooked.HEADER_SIZE_BYTES:
            program = _cook(program, link_layer_type, interface)
        return program

    def _compiler_for(self, interface: LaunchInterface) -> Compiler:
        request = interface.request
        key = interface.hardware_type, request.snaplen_bytes
        if key in self._compilers:
            return self._compilers[key]
        texts = f"{request.capture_filter} {interface.policy_filter} {self._trigger_filter}"
        if any(word.text == "vlan" for word in words(texts)):
            text = f"'vlan' on {request.name} needs an interface of its kind that was up when the capture began"
            raise CaptureFailed(Failure(code=FailureCode.UNSUPPORTED, text=text, interface=request.name))
        handle = Handle.dead(interface.wanted_type or from_dlt(interface.default_dlt), request.snaplen_bytes)
        return Compiler.of(handle)


def _compile_policy(compiler: Compiler, interface: LaunchInterface, interface_id: int) -> bytes:
    try:
        return compiler.compile(interface.policy_filter, interface.request.name, interface_id)
    except CaptureFailed as error:
        name = interface.request.name
        text = f"policy's own filter does not compile on {name}: {error}: tell an administrator"
        raise CaptureFailed(Failure(code=FailureCode.UNSUPPORTED, text=text, interface=name)) from error


def _filter_text(interface: LaunchInterface) -> str:
    texts = [text for text in (interface.policy_filter, interface.request.capture_filter) if text]
    return texts[0] if len(texts) == 1 else " and ".join(f"({text})" for text in texts)


def _prepare_trigger(trigger: socket.socket, program: bytes, interface: str, interface_id: int) -> None:
    """Give a trigger's socket its filter, for good: what policy keeps from the user triggers nothing either."""
    try:
        attach_filter(trigger, program)
    except OSError as error:
        raise CaptureFailed(_of_trigger(bad_filter(_too_long(program), interface, interface_id))) from error
    lock_filter(trigger)
    trigger.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _TRIGGER_BUFFER_BYTES)


def _attach(ring: Ring, program: bytes, interface: str, interface_id: int) -> None:
    try:
        ring.attach_filter(program)
    except OSError as error:
        raise CaptureFailed(bad_filter(_too_long(program), interface, interface_id)) from error


def _too_long(program: bytes) -> str:
    instructions = len(program) // 8
    return f"the kernel takes filters of up to 4096 instructions, and this one has {instructions}: write it shorter"


def _of_trigger(failure: Failure) -> Failure:
    return msgspec.structs.replace(failure, argument="recorder_trigger_filter")


def _cook(program: bytes, link_layer_type: LinkLayerType, interface: LaunchInterface) -> bytes:
    made = cooked.cook(program, link_layer_type.dlt)
    if made is None:
        name = interface.request.name
        text = f"the filter looks at a part of the {link_layer_type} header of {name} that the kernel does not know"
        raise CaptureFailed(Failure(code=FailureCode.UNSUPPORTED, text=text, argument="capture_filter", interface=name))
    with contextlib.suppress(OSError):  # without a loopback interface there is nothing to leave out
        made = cooked.without_looped_back(made, socket.if_nametoindex("lo"))
    return made
