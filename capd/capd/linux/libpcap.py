"""The system's libpcap, through ctypes: devices, what they can do, and compiled filters.

It is the library of the system, which gets the distribution's security updates. Only on a device's handle does it know
that the kernel sets VLAN tags aside; on any other handle it compiles ``vlan`` wrongly.
"""

import ctypes
import ctypes.util
import enum
import errno
import functools
import os
import socket
import struct
from collections.abc import Iterator
from typing import Any, NamedTuple

from capd.linux.packet_socket import attach_filter, lock_filter
from capd_protocol.formats.linktypes import LinkLayerType, from_dlt
from capd_protocol.formats.pcapng import pcap_header
from capd_protocol.messages import MAX_SNAPLEN_BYTES

_ERRBUF_SIZE = 256
_NETMASK_UNKNOWN = 0xFFFFFFFF
_TIMESTAMP_HOST = 0
#: struct sock_filter: BPF_RET | BPF_K, which takes nothing of a packet.
_TAKE_NOTHING = struct.pack("=HBBI", 0x06, 0, 0, 0)


class Status(enum.IntEnum):
    """Why a handle was not activated (pcap/pcap.h)."""

    NO_SUCH_DEVICE = -5
    RFMON_NOTSUP = -6
    PERM_DENIED = -8
    IFACE_NOT_UP = -9


class PcapError(Exception):
    """libpcap's words, its status where it gave one, and whether it was for want of memory."""

    def __init__(self, words: str, status: int | None = None, *, is_out_of_memory: bool = False) -> None:
        super().__init__(words)
        self.status = status
        self.is_out_of_memory = is_out_of_memory


class DeviceFlag(enum.IntFlag):
    """PCAP_IF_… (pcap/pcap.h)."""

    LOOPBACK = 1
    UP = 2
    RUNNING = 4
    WIRELESS = 8


class Device(NamedTuple):
    """Something to capture on."""

    name: str
    description: str
    flags: DeviceFlag


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_uint), ("instructions", ctypes.c_void_p))


class _Interface(ctypes.Structure):
    pass


_Interface._fields_ = (  # pyright: ignore[reportAttributeAccessIssue]  # it points to itself
    ("next", ctypes.POINTER(_Interface)),
    ("name", ctypes.c_char_p),
    ("description", ctypes.c_char_p),
    ("addresses", ctypes.c_void_p),
    ("flags", ctypes.c_uint32),
)


def _signature(library: ctypes.CDLL, name: str, result: Any, *arguments: Any) -> None:
    function = getattr(library, name)
    function.restype, function.argtypes = result, arguments


@functools.cache
def load() -> ctypes.CDLL:
    """Load libpcap, while its file can be read.

    Raises:
        OSError: it is not installed.
    """
    library = ctypes.CDLL(ctypes.util.find_library("pcap") or "libpcap.so.0.8", use_errno=True)
    handle, text, number = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int
    numbers = ctypes.POINTER(ctypes.c_int)
    interfaces = ctypes.POINTER(_Interface)
    _signature(library, "pcap_findalldevs", number, ctypes.POINTER(interfaces), text)
    _signature(library, "pcap_freealldevs", None, interfaces)
    _signature(library, "pcap_create", handle, text, text)
    _signature(library, "pcap_open_dead", handle, number, number)
    _signature(library, "pcap_fopen_offline", handle, handle, text)
    # Of the C library, which it needs.
    _signature(library, "fmemopen", handle, handle, ctypes.c_size_t, text)
    _signature(library, "pcap_set_snaplen", number, handle, number)
    _signature(library, "pcap_set_buffer_size", number, handle, number)
    _signature(library, "pcap_set_rfmon", number, handle, number)
    _signature(library, "pcap_can_set_rfmon", number, handle)
    _signature(library, "pcap_list_tstamp_types", number, handle, ctypes.POINTER(numbers))
    _signature(library, "pcap_free_tstamp_types", None, numbers)
    _signature(library, "pcap_tstamp_type_val_to_name", text, number)
    _signature(library, "pcap_tstamp_type_val_to_description", text, number)
    _signature(library, "pcap_activate", number, handle)
    _signature(library, "pcap_fileno", number, handle)
    _signature(library, "pcap_geterr", text, handle)
    _signature(library, "pcap_statustostr", text, number)
    _signature(library, "pcap_datalink", number, handle)
    _signature(library, "pcap_set_datalink", number, handle, number)
    _signature(library, "pcap_list_datalinks", number, handle, ctypes.POINTER(numbers))
    _signature(library, "pcap_free_datalinks", None, numbers)
    _signature(library, "pcap_compile", number, handle, ctypes.POINTER(_Program), text, number, ctypes.c_uint32)
    _signature(library, "pcap_freecode", None, ctypes.POINTER(_Program))
    _signature(library, "pcap_close", None, handle)
    return library


def _decode(words: bytes | None) -> str:
    return (words or b"").decode(errors="replace")


def find_all_devices() -> list[Device]:
    """Return what can be captured on, in libpcap's order. Needs no privilege.

    Raises:
        PcapError: libpcap cannot find out.
    """
    first, error = ctypes.POINTER(_Interface)(), ctypes.create_string_buffer(_ERRBUF_SIZE)
    if load().pcap_findalldevs(ctypes.byref(first), error) < 0:
        raise PcapError(_decode(error.value))
    try:
        return list(_devices(first))
    finally:
        load().pcap_freealldevs(first)


def _devices(at: Any) -> Iterator[Device]:
    while at:
        device = at.contents
        yield Device(os.fsdecode(device.name), _decode(device.description), DeviceFlag(device.flags))
        at = device.next


class Handle:
    """A libpcap handle of one device, for what libpcap knows; it captures nothing for us."""

    def __init__(self, device: str) -> None:
        """Create the handle; it opens nothing yet.

        Raises:
            PcapError: libpcap does not take the name.
        """
        self._pcap = load()
        #: Of a file's, which must stay while it is open.
        self._contents: Any = None
        error = ctypes.create_string_buffer(_ERRBUF_SIZE)
        self._handle = self._pcap.pcap_create(os.fsencode(device), error)
        if not self._handle:
            raise PcapError(_decode(error.value), Status.NO_SUCH_DEVICE)

    @classmethod
    def dead(cls, link_layer_type: LinkLayerType, snaplen_bytes: int) -> "Handle":
        """Return a handle without a device, which only compiles, and ``vlan`` not as a live one."""
        handle = cls.__new__(cls)
        handle._pcap = load()
        handle._handle = handle._pcap.pcap_open_dead(link_layer_type.dlt, snaplen_bytes)
        return handle

    @classmethod
    def of_file(cls, linktype: int, *, is_swapped: bool) -> "Handle":
        """Return a handle of a file without packets, which only compiles.

        For a file libpcap compiles otherwise than for a capture here: tags of VLANs are in its packets, and some
        headers have numbers of the system that wrote them.

        Args:
            linktype: LINKTYPE_ number of its packets.
            is_swapped: whether a machine of the other byte order has written it.

        Raises:
            PcapError: libpcap does not know the type.
        """
        header = pcap_header(linktype=linktype, snaplen_bytes=MAX_SNAPLEN_BYTES, is_swapped=is_swapped)
        contents = ctypes.create_string_buffer(header, len(header))
        handle = cls.__new__(cls)
        handle._pcap = load()
        error = ctypes.create_string_buffer(_ERRBUF_SIZE)
        file = handle._pcap.fmemopen(contents, len(header), b"r")
        handle._handle = handle._pcap.pcap_fopen_offline(file, error) if file else None
        if not handle._handle:
            raise PcapError(_decode(error.value))
        handle._contents = contents
        return handle

    def activate(self, *, snaplen_bytes: int, monitor_mode: bool = False) -> None:
        """Open the device. Needs CAP_NET_RAW; CAP_NET_ADMIN for monitor mode.

        Raises:
            PcapError: libpcap cannot; its status gives the reason.
        """
        self._pcap.pcap_set_snaplen(self._handle, snaplen_bytes)
        self._pcap.pcap_set_buffer_size(self._handle, 1)  # libpcap takes the least that it can work with
        if monitor_mode:
            self._pcap.pcap_set_rfmon(self._handle, 1)
        status = self._pcap.pcap_activate(self._handle)
        if status < 0:
            raise PcapError(f"{_decode(self._pcap.pcap_statustostr(status))}: {self._words()}", status)

    def disarm(self) -> None:
        """Have a network interface's handle receive nothing, for good, whoever gets hold of its socket.

        What is asked of it afterwards needs no packets.

        Raises:
            OSError: the kernel does not take the filter that says so.
        """
        packet_socket = socket.socket(fileno=self._pcap.pcap_fileno(self._handle))
        try:
            attach_filter(packet_socket, _TAKE_NOTHING)
            lock_filter(packet_socket)
        finally:
            packet_socket.detach()

    def _words(self) -> str:
        return _decode(self._pcap.pcap_geterr(self._handle))

    def can_set_rfmon(self) -> bool:
        """Whether the device has a monitor mode. Before activation.

        Raises:
            PcapError: libpcap cannot find out.
        """
        status = self._pcap.pcap_can_set_rfmon(self._handle)
        if status < 0:
            raise PcapError(f"{_decode(self._pcap.pcap_statustostr(status))}: {self._words()}", status)
        return bool(status)

    def timestamp_types(self) -> list[tuple[str, str]]:
        """Return names and descriptions of the device's sources of timestamps. Before activation."""
        numbers = ctypes.POINTER(ctypes.c_int)()
        count = self._pcap.pcap_list_tstamp_types(self._handle, ctypes.byref(numbers))
        # None means that there is no choice.
        found = [numbers[i] for i in range(count)] if count > 0 else [_TIMESTAMP_HOST]
        if count > 0:
            self._pcap.pcap_free_tstamp_types(numbers)
        name, description = self._pcap.pcap_tstamp_type_val_to_name, self._pcap.pcap_tstamp_type_val_to_description
        return [(_decode(name(value)), _decode(description(value))) for value in found]

    def link_layer_types(self) -> list[LinkLayerType]:
        """Return the types that the device can be captured with, its default first. After activation."""
        numbers = ctypes.POINTER(ctypes.c_int)()
        default = self._pcap.pcap_datalink(self._handle)
        count = self._pcap.pcap_list_datalinks(self._handle, ctypes.byref(numbers))
        if count < 0:
            return [from_dlt(default)]
        try:
            found = [numbers[i] for i in range(count)]
        finally:
            self._pcap.pcap_free_datalinks(numbers)
        return [from_dlt(dlt) for dlt in sorted(found, key=lambda dlt: dlt != default)]

    def set_link_layer_type(self, link_layer_type: LinkLayerType) -> None:
        """Choose the type that filters are compiled for.

        Raises:
            PcapError: the device does not have it.
        """
        if self._pcap.pcap_set_datalink(self._handle, link_layer_type.dlt) < 0:
            raise PcapError(self._words())

    def compile(self, text: str, *, optimize: bool = True) -> bytes:
        """Return a filter as an array of struct sock_filter. An empty one takes all, up to the snaplen.

        Optimizing takes many seconds for some of the longest ones.

        Raises:
            PcapError: libpcap does not understand it, or has no memory for it.
        """
        program = _Program()
        ctypes.set_errno(0)
        status = self._pcap.pcap_compile(
            self._handle, ctypes.byref(program), text.encode("ascii"), optimize, _NETMASK_UNKNOWN
        )
        if status < 0:
            raise PcapError(self._words(), is_out_of_memory=ctypes.get_errno() == errno.ENOMEM)
        try:
            return ctypes.string_at(program.instructions, program.length * 8)
        finally:
            self._pcap.pcap_freecode(ctypes.byref(program))

    def close(self) -> None:
        """Close the handle. Once only. For one of a device it takes 20 ms, in which other threads run."""
        self._pcap.pcap_close(self._handle)
