"""The contract between daemon and worker: what to capture, as whom, where to.

On the control socket the worker sends its process id (``HELLO``). The daemon writes one ``Launch`` frame. The worker
asks for rings with its filters (``Arm``), and gets a ``RingMade`` for each; it gives them back with ``LetGo``, and in
the end asks the daemon to have all of them receive nothing more (``Disarm``). It sends the messages of
``capd_protocol.messages``, and takes ``Attach`` for interfaces that come later, ``Detach`` and ``Stop``. Each
``Rotate``, ``Flush`` and ``Snapshot`` has its ``Answer``, unless the capture ends before. ``DirectoryTaken`` says where
the files go. When the socket closes, it ends.
"""

import enum
import struct
from typing import Literal

import msgspec

from capd.linux.packet_ring import RingMemory
from capd_protocol import messages
from capd_protocol.errors import RemoteProtocolError
from capd_protocol.formats.compression import Compression
from capd_protocol.formats.linktypes import DLT_EN10MB, DLT_LINUX_SLL, LinkLayerType, by_name
from capd_protocol.frames import Frame, encode_frame
from capd_protocol.messages import (
    MAX_SNAPLEN_BYTES,
    Conditions,
    Destination,
    Failure,
    InterfaceRequest,
    Message,
    Recorder,
)


class Job(bytes, enum.Enum):
    """What the spawner is asked to fork a process for: the one byte of a message."""

    CAPTURE = b"f"
    #: Closing what clients have opened (``capd.worker.helpers.closing``).
    CLOSING = b"c"
    #: Passing a capture's files to those who are attached to it (``capd.worker.helpers.serving``).
    SERVING = b"s"
    #: Sending a client's packets (``capd.worker.sending``).
    SENDING = b"p"
    #: Capturing from a device of a capture module (``capd.worker.helpers.device``).
    DEVICE = b"d"


#: Orders to a process that closes: take these descriptors; and, close them now, which it answers with a byte.
HOLD, CLOSE = b"h", b"c"
#: Sent to a process that passes files where there is no current one.
NO_FILE = b"\0"
#: The worker's process id; or, negative, why there is none: an error number.
HELLO = struct.Struct("=i")

_ETHERNET_HEADER_BYTES = 14

#: All messages between daemon and worker are JSON objects with their type, in frames of this indicator.
_CONTROL = ord("l")


class _Tagged(msgspec.Struct, frozen=True, tag_field="type"):
    pass


class LaunchInterface(msgspec.Struct, frozen=True, kw_only=True):
    """An interface that the daemon has looked up and found permitted."""

    request: InterfaceRequest
    #: Only packets that match it too are captured, and nothing that the request says changes that.
    policy_filter: str = ""
    #: How much of a packet policy lets the user see; the request's own snaplen may be less.
    policy_snaplen_bytes: int = MAX_SNAPLEN_BYTES
    #: What to open: the interface itself, or the monitor interface that was made for it.
    device: str
    #: 0 stands for all interfaces.
    index: int
    #: ARPHRD_… (linux/if_arp.h). Interfaces of one hardware type share a compiler.
    hardware_type: int
    #: The link-layer type that libpcap gives it.
    default_dlt: int
    loopback: bool
    #: A pattern matched it: if it cannot be captured, the others are.
    is_optional: bool = False
    #: Whether libpcap can open it now.
    is_up: bool = True
    mac_address: bytes | None = None
    speed_bits_per_s: int | None = None
    #: What files say of it beside its name, such as what an administrator called it (``ip link set NAME alias …``).
    description: str = ""
    driver: str = ""

    @property
    def wanted_type(self) -> LinkLayerType | None:
        """The link-layer type that was asked for."""
        return by_name(self.request.link_layer_type) if self.request.link_layer_type else None

    @property
    def is_cooked(self) -> bool:
        """Whether its packets come without their link-layer headers; whatever was asked for does not change that."""
        return self.default_dlt == DLT_LINUX_SLL

    @property
    def header_bytes(self) -> int:
        """How long its link-layer header is, as far as it matters to how packets lie in memory."""
        return _ETHERNET_HEADER_BYTES if self.default_dlt == DLT_EN10MB else 0


class DirectoryComes(enum.StrEnum):
    """How a worker gets the directory for its files, and streams: on a socket, which comes with the launch."""

    #: A client sends it there. A second socket comes along, into which the worker puts it for later processes.
    PASSED = "passed"
    #: It lies there, and is to stay for later ones.
    KEPT = "kept"


class Launch(_Tagged, frozen=True, kw_only=True, tag="launch"):
    """Everything that a worker needs to know. With the frame comes the socket on which the directory comes."""

    user_id: int
    group_id: int
    groups: tuple[int, ...]
    interfaces: tuple[LaunchInterface, ...]
    #: Their descriptors come along with the directory, in this order.
    streams: tuple[InterfaceRequest, ...] = ()
    destination: Destination
    directory_comes: DirectoryComes
    file_format: Literal["pcapng", "pcap"]
    ring: Conditions | None
    recorder: Recorder | None = None
    autostop: Conditions
    update_interval_s: float
    packet_flags: bool = False
    #: What files say of themselves.
    comments: tuple[str, ...] = ()
    #: How files are compressed; None: they are not.
    compression: Compression | None = None
    #: What the files of this destination may take on disk, with those that earlier captures left; None: no limit.
    max_disk_bytes: int | None = None
    #: Of the capture, if it has one: a ring that has one leaves an index of its files
    #: (``capd_protocol.formats.ring_index``).
    name: str | None = None
    #: Files of earlier runs that the index knows belong to the ring, of a capture that goes on where it was
    #: interrupted: they are kept and deleted with its own.
    continues: bool = False
    #: On the socket on which the directory comes it passes its files to who asked.
    passes_files: bool = False
    #: Open live handles to compile filters, which takes 10 ms for each: for ``vlan``, and where a link-layer type is
    #: asked for.
    needs_live_handles: bool = True
    #: Where interfaces may come later: all filters that they could come under, the user's and policy's.
    later_filters: tuple[str, ...] = ()
    #: Go on without any interface: others will be attached.
    waits: bool = False

    @property
    def trigger_filter(self) -> str:
        """Of a recorder: what triggers a snapshot; empty where no packet does."""
        return self.recorder.trigger_filter if self.recorder is not None else ""


class ServeLaunch(msgspec.Struct, frozen=True, kw_only=True):
    """What a process needs to know that passes a capture's files. With it comes the socket in which the directory lies.

    Then a message comes for each reader: the name of the current file, or a NUL where there is none, and with it the
    socket on which files are asked for. It is answered with a byte.
    """

    user_id: int
    group_id: int
    groups: tuple[int, ...]
    #: What the capture's files are called.
    file_name: str


class SendLaunch(msgspec.Struct, frozen=True, kw_only=True):
    """What a process needs to know that sends packets.

    With it come two sockets: the packet socket, which is bound, and the one to the client. The process answers with
    ``SenderReport`` when it is ready, then at most each second in which something has changed, and in the end. The
    daemon sends one byte to have it end, or closes its side.
    """

    user_id: int
    group_id: int
    groups: tuple[int, ...]
    #: For messages.
    interface: str
    #: The longest frame that it takes, less a VLAN tag.
    max_frame_bytes: int
    #: Packets a second; None: as many as the interface takes.
    max_pps: int | None
    #: Source addresses that frames may have; None: any.
    source_macs: tuple[bytes, ...] | None


class SenderReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a process that sends has done since its beginning."""

    sent_total: int = 0
    refused_total: int = 0
    #: Why it has ended by itself.
    failure: Failure | None = None
    #: It is the last one.
    is_last: bool = False


class DeviceLaunch(msgspec.Struct, frozen=True, kw_only=True):
    """What a process needs to know that becomes a capture module's.

    With it comes the end of a pipe for the packets. What the module's process sends is in ``capd_protocol.devices``. It
    ends when the daemon closes its side.
    """

    user_id: int
    group_id: int
    groups: tuple[int, ...]
    #: What is executed; the descriptors of its socket and of the pipe follow.
    command: tuple[str, ...]


class RingFilter(msgspec.Struct, frozen=True, kw_only=True):
    """What the user wants of an interface's packets: programs, as arrays of struct sock_filter."""

    #: Of the interface: its place in the launch, or as it was attached.
    number: int
    program: bytes
    #: Of a recorder's trigger.
    trigger_program: bytes = b""


class Arm(_Tagged, frozen=True, kw_only=True, tag="arm"):
    """Have rings receive what these filters take, of what policy's take."""

    rings: tuple[RingFilter, ...]


class LetGo(_Tagged, frozen=True, kw_only=True, tag="let_go"):
    """A ring is not read any more: its interface is gone."""

    number: int


class Disarm(_Tagged, frozen=True, kw_only=True, tag="disarm"):
    """Have all rings receive nothing more."""


#: What a worker asks for.
RingRequest = Arm | LetGo | Disarm


class RingMade(_Tagged, frozen=True, kw_only=True, tag="ring_made"):
    """What came of an interface's ring. The frame comes with its packet socket, which has its filter and is bound."""

    #: As it was asked for.
    number: int
    memory: RingMemory | None = None
    #: Why there is none.
    failure: Failure | None = None
    #: A second socket comes along, for the recorder's trigger.
    has_trigger: bool = False


class Disarmed(_Tagged, frozen=True, kw_only=True, tag="disarmed"):
    """No ring receives anything more: the kernel's counts are final."""


class Attach(_Tagged, frozen=True, kw_only=True, tag="attach"):
    """An interface that has come, or come back; its ring is there when it is asked for."""

    number: int
    interface: LaunchInterface


class Detach(_Tagged, frozen=True, kw_only=True, tag="detach"):
    """An interface that the capture may not have under the name that it has by now."""

    index: int


class Stop(_Tagged, frozen=True, kw_only=True, tag="stop"):
    """End the capture well."""


class Rotate(_Tagged, frozen=True, kw_only=True, tag="rotate"):
    """Go on in the next file of the ring."""

    number: int


class Flush(_Tagged, frozen=True, kw_only=True, tag="flush"):
    """Write and announce every packet that the kernel has by now."""

    number: int


class Snapshot(_Tagged, frozen=True, kw_only=True, tag="snapshot"):
    """Write what the recorder has, and what comes within so many seconds."""

    number: int
    after_s: float


#: What is answered.
NumberedOrder = Rotate | Flush | Snapshot


class Answer(_Tagged, frozen=True, kw_only=True, tag="answer"):
    """To the order of this number: done, or why not. What was done has been announced before."""

    number: int
    failure: Failure | None = None
    #: Of the snapshot that was asked for.
    file_name: str = ""


class DirectoryTaken(_Tagged, frozen=True, kw_only=True, tag="directory_taken"):
    """The directory for the files has come. Nothing is done with its path but to show it."""

    #: As the kernel calls it now, in the mount namespace of who has opened it.
    path: str


#: What a worker tells that is for the daemon alone.
Told = Answer | DirectoryTaken

#: What the daemon sends to a worker, and what a worker sends beside the messages of ``capd_protocol.messages``.
ToWorker = Launch | Attach | Detach | RingMade | Rotate | Flush | Snapshot | Stop | Disarmed
FromWorker = Arm | LetGo | Disarm | Answer | DirectoryTaken
Control = ToWorker | FromWorker

_decoder: msgspec.json.Decoder[Control] = msgspec.json.Decoder(Control)


def encode(message: Control) -> bytes:
    """Return the frame of a message between daemon and worker."""
    return encode_frame(_CONTROL, msgspec.json.encode(message))


def decode(frame: Frame) -> Control | Message:
    """Return the message in a frame on a control socket.

    Raises:
        RemoteProtocolError: it is no message.
    """
    if frame.indicator != _CONTROL:
        return messages.decode(frame)
    try:
        return _decoder.decode(frame.payload)
    # JSON nested too deep is a RecursionError. The reason may quote what was sent, and goes into logs: it is left out.
    except (ValueError, RecursionError) as error:
        raise RemoteProtocolError("bytes on the control socket that are no message") from error
