"""Other devices of the system's libpcap, such as USB and Bluetooth monitors, through ctypes.

libpcap's own ``pcap_dump`` writes packets into memory: no call of Python's is needed for a packet.
"""

import ctypes
import functools
import os
import socket
import struct
from collections.abc import Collection, Sequence

from capd_client.modules.contract import (
    Capture,
    Device,
    DeviceGone,
    Module,
    ModuleFailed,
    NoPermission,
    NoSuchDevice,
    NotSupported,
    Options,
    Packet,
    Statistics,
    WrongName,
)
from capd_client.pcap_library import ERROR_BYTES, NETMASK_UNKNOWN, Program, Signature, load
from capd_protocol.formats.linktypes import dlt_to_linktype, linktype_to_dlt
from capd_protocol.formats.packet_flags import Direction
from capd_protocol.formats.pcapng import PCAP_HEADER_SIZE_BYTES, PCAP_RECORD_HEADER_SIZE_BYTES
from capd_protocol.messages.interfaces import MissingRight

_PREFIX = "libpcap:"
#: Devices of libpcap's for which capd has modules of its own; and the first words of their names.
_OWN = ("nflog", "nfqueue", "dbus")
_PRECISION_NANOSECONDS = 1
_RECORD = struct.Struct("=IIII")
#: What the statuses of ``pcap_activate`` mean (pcap/pcap.h); all others have words only.
_NO_SUCH_DEVICE, _NO_MONITOR_MODE, _NOT_PERMITTED, _IS_DOWN, _NOT_PROMISCUOUS = -5, -6, -8, -9, -11
_DIRECTIONS = {Direction.IN: 1, Direction.OUT: 2}


class _Counts(ctypes.Structure):
    _fields_ = (("received", ctypes.c_uint), ("dropped", ctypes.c_uint), ("interface_dropped", ctypes.c_uint))


class _Time(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("microseconds", ctypes.c_long))


class _Interface(ctypes.Structure):
    pass


_Interface._fields_ = (  # pyright: ignore[reportAttributeAccessIssue]  # it points to itself
    ("next", ctypes.POINTER(_Interface)),
    ("name", ctypes.c_char_p),
    ("description", ctypes.c_char_p),
    ("addresses", ctypes.c_void_p),
    ("flags", ctypes.c_uint32),
)

_HANDLE, _TEXT, _NUMBER = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int
_NUMBERS = ctypes.POINTER(ctypes.c_int)
_SIGNATURES: tuple[Signature, ...] = (
    # Two of the C library, which libpcap needs.
    ("fdopen", _HANDLE, (_NUMBER, _TEXT)),
    ("fseek", _NUMBER, (_HANDLE, ctypes.c_long, _NUMBER)),
    ("pcap_findalldevs", _NUMBER, (ctypes.POINTER(ctypes.POINTER(_Interface)), _TEXT)),
    ("pcap_freealldevs", None, (ctypes.POINTER(_Interface),)),
    ("pcap_create", _HANDLE, (_TEXT, _TEXT)),
    *((f"pcap_set_{name}", _NUMBER, (_HANDLE, _NUMBER)) for name in ("snaplen", "promisc", "rfmon", "timeout")),
    *((f"pcap_set_{name}", _NUMBER, (_HANDLE, _NUMBER)) for name in ("immediate_mode", "buffer_size", "datalink")),
    *((f"pcap_set_tstamp_{name}", _NUMBER, (_HANDLE, _NUMBER)) for name in ("type", "precision")),
    ("pcap_get_tstamp_precision", _NUMBER, (_HANDLE,)),
    ("pcap_tstamp_type_name_to_val", _NUMBER, (_TEXT,)),
    ("pcap_can_set_rfmon", _NUMBER, (_HANDLE,)),
    ("pcap_activate", _NUMBER, (_HANDLE,)),
    ("pcap_setnonblock", _NUMBER, (_HANDLE, _NUMBER, _TEXT)),
    ("pcap_get_selectable_fd", _NUMBER, (_HANDLE,)),
    ("pcap_get_required_select_timeout", ctypes.POINTER(_Time), (_HANDLE,)),
    ("pcap_datalink", _NUMBER, (_HANDLE,)),
    ("pcap_list_datalinks", _NUMBER, (_HANDLE, ctypes.POINTER(_NUMBERS))),
    ("pcap_free_datalinks", None, (_NUMBERS,)),
    ("pcap_setdirection", _NUMBER, (_HANDLE, _NUMBER)),
    ("pcap_setfilter", _NUMBER, (_HANDLE, ctypes.POINTER(Program))),
    ("pcap_dump_fopen", _HANDLE, (_HANDLE, _HANDLE)),
    ("pcap_dump_flush", _NUMBER, (_HANDLE,)),
    ("pcap_dump_ftell", ctypes.c_long, (_HANDLE,)),
    ("pcap_dump_close", None, (_HANDLE,)),
    ("pcap_dispatch", _NUMBER, (_HANDLE, _NUMBER, ctypes.c_void_p, _HANDLE)),
    ("pcap_stats", _NUMBER, (_HANDLE, ctypes.POINTER(_Counts))),
    ("pcap_inject", _NUMBER, (_HANDLE, ctypes.c_char_p, ctypes.c_size_t)),
    ("pcap_breakloop", None, (_HANDLE,)),
    ("pcap_statustostr", _TEXT, (_NUMBER,)),
)


@functools.cache
def _library() -> ctypes.CDLL:
    try:
        return load(_SIGNATURES)
    except OSError as error:
        raise NotSupported("libpcap is not installed: install it") from error


class LibpcapCapture(Capture):
    """A device of libpcap's."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._pcap = _library()
        self._dumper: int | None = None
        self._memory_fd = -1
        self._file: int | None = None
        self._units_ns = 1
        error = ctypes.create_string_buffer(ERROR_BYTES)
        self._handle = self._pcap.pcap_create(os.fsencode(name.removeprefix(_PREFIX)), error)
        if not self._handle:
            raise ModuleFailed(f"{name} cannot be opened: {error.value.decode('utf-8', 'replace')}")
        self._is_active = False

    def has_monitor_mode(self) -> bool:
        """Return what libpcap says."""
        return not self._is_active and self._pcap.pcap_can_set_rfmon(self._handle) == 1

    def activate(self, options: Options) -> int:
        """Activate it with all options."""
        pcap, handle = self._pcap, self._handle
        pcap.pcap_set_snaplen(handle, options.snaplen_bytes)
        pcap.pcap_set_promisc(handle, options.promiscuous is not False)
        pcap.pcap_set_rfmon(handle, options.monitor_mode)
        pcap.pcap_set_timeout(handle, max(1, round(options.timeout_s * 1000)))
        pcap.pcap_set_immediate_mode(handle, options.immediate)
        if options.buffer_size_bytes is not None:
            pcap.pcap_set_buffer_size(handle, options.buffer_size_bytes)
        if options.timestamp_type is not None:
            number = pcap.pcap_tstamp_type_name_to_val(options.timestamp_type.encode())
            if number < 0 or pcap.pcap_set_tstamp_type(handle, number) != 0:
                raise NotSupported(f"{self._name} has no timestamps of the type {options.timestamp_type}: leave it out")
        if options.nanoseconds:
            pcap.pcap_set_tstamp_precision(handle, _PRECISION_NANOSECONDS)  # one that has none keeps microseconds
        status = pcap.pcap_activate(handle)
        if status < 0:
            self._refuse(status)
        self._is_active = True
        self._units_ns = 1 if pcap.pcap_get_tstamp_precision(handle) == _PRECISION_NANOSECONDS else 1000
        error = ctypes.create_string_buffer(ERROR_BYTES)
        if pcap.pcap_setnonblock(handle, 1, error) < 0:
            raise NotSupported(f"{self._name} cannot be read without waiting: {error.value.decode('utf-8', 'replace')}")
        self._open_dumper()
        return dlt_to_linktype(pcap.pcap_datalink(handle))

    def _refuse(self, status: int) -> None:
        words = self._words() or self._pcap.pcap_statustostr(status).decode("utf-8", "replace")
        match status:
            case number if number == _NO_SUCH_DEVICE:
                raise NoSuchDevice(f"libpcap has no device {self._name.removeprefix(_PREFIX)}: {words}")
            case number if number in (_NOT_PERMITTED, _NOT_PROMISCUOUS):
                raise NoPermission(f"{self._name} takes CAP_NET_RAW, which this user has not: become root ({words})")
            case number if number == _NO_MONITOR_MODE:
                raise NotSupported(f"{self._name} has no monitor mode: leave it out")
            case number if number == _IS_DOWN:
                raise NoSuchDevice(f"{self._name} is down: bring it up")
            case _:
                raise ModuleFailed(f"{self._name} cannot be activated: {words}")

    def _words(self) -> str:
        return (self._pcap.pcap_geterr(self._handle) or b"").decode("utf-8", "replace")

    def _open_dumper(self) -> None:
        self._memory_fd = os.memfd_create("capd-libpcap")
        self._file = self._pcap.fdopen(os.dup(self._memory_fd), b"wb")
        self._dumper = self._pcap.pcap_dump_fopen(self._handle, self._file)
        if not self._dumper:
            raise NotSupported(f"packets of {self._name} have no link-layer type for files: {self._words()}")

    def read(self, max_packets: int) -> Sequence[Packet]:
        """Return what one call of ``pcap_dispatch`` gives."""
        pcap = self._pcap
        dump = ctypes.cast(pcap.pcap_dump, ctypes.c_void_p)
        count = pcap.pcap_dispatch(self._handle, max_packets, dump, self._dumper)
        if count < 0:
            raise DeviceGone(f"{self._name} cannot be read any further: {self._words()}")
        if count == 0:
            return []
        pcap.pcap_dump_flush(self._dumper)
        end = pcap.pcap_dump_ftell(self._dumper)
        data = os.pread(self._memory_fd, end - PCAP_HEADER_SIZE_BYTES, PCAP_HEADER_SIZE_BYTES)
        pcap.fseek(self._file, PCAP_HEADER_SIZE_BYTES, os.SEEK_SET)
        return self._packets(data)

    def _packets(self, data: bytes) -> list[Packet]:
        found: list[Packet] = []
        at = 0
        while at < len(data):
            seconds, fraction, captured, original = _RECORD.unpack_from(data, at)
            at += PCAP_RECORD_HEADER_SIZE_BYTES
            timestamp_ns = seconds * 1_000_000_000 + fraction * self._units_ns
            found.append(Packet(timestamp_ns, data[at : at + captured], original))
            at += captured
        return found

    def fileno(self) -> int | None:
        """Return what libpcap waits for."""
        descriptor = self._pcap.pcap_get_selectable_fd(self._handle)
        return None if descriptor < 0 else int(descriptor)

    def poll_s(self) -> float | None:
        """Return what libpcap asks for, which may change."""
        timeout = self._pcap.pcap_get_required_select_timeout(self._handle)
        return timeout.contents.seconds + timeout.contents.microseconds / 1e6 if timeout else None

    def statistics(self) -> Statistics | None:
        """Return libpcap's counts."""
        counts = _Counts()
        if self._pcap.pcap_stats(self._handle, ctypes.byref(counts)) < 0:
            return None
        return Statistics(counts.received, counts.dropped)

    def link_types(self) -> Sequence[int]:
        """Return them, once it is active."""
        numbers = _NUMBERS()
        if not self._is_active:
            return ()
        count = self._pcap.pcap_list_datalinks(self._handle, ctypes.byref(numbers))
        default = self._pcap.pcap_datalink(self._handle)
        found = numbers[: max(0, count)]
        if count >= 0:
            self._pcap.pcap_free_datalinks(numbers)
        return [dlt_to_linktype(each) for each in dict.fromkeys([default, *found])]

    def set_link_type(self, linktype: int) -> None:
        """Have libpcap change it."""
        if self._pcap.pcap_set_datalink(self._handle, linktype_to_dlt(linktype)) < 0:
            raise NotSupported(f"{self._name} has no such link-layer type: 'capctl linktypes' shows which it has")

    def set_filter(self, expression: str) -> bool:
        """Have the kernel filter, where libpcap can do that; what does not compile, capd refuses."""
        program = Program()
        text = expression.encode("utf-8", "surrogateescape")
        if self._pcap.pcap_compile(self._handle, ctypes.byref(program), text, 1, NETMASK_UNKNOWN) < 0:
            return False
        status = self._pcap.pcap_setfilter(self._handle, ctypes.byref(program))
        self._pcap.pcap_freecode(ctypes.byref(program))
        return bool(status == 0)

    def set_direction(self, direction: Direction) -> None:
        """Have libpcap leave out the other one."""
        if self._pcap.pcap_setdirection(self._handle, _DIRECTIONS[direction]) < 0:
            super().set_direction(direction)

    def inject(self, data: bytes) -> int:
        """Have libpcap send it."""
        count = int(self._pcap.pcap_inject(self._handle, data, len(data)))
        if count < 0:
            raise ModuleFailed(f"{self._name} has not taken a packet: {self._words()}")
        return count

    def break_off(self) -> None:
        """Have libpcap return."""
        self._pcap.pcap_breakloop(self._handle)

    def close(self) -> None:
        """Close everything."""
        if self._dumper:
            self._pcap.pcap_dump_close(self._dumper)
        if self._memory_fd >= 0:
            os.close(self._memory_fd)
        self._pcap.pcap_close(self._handle)


class LibpcapModule(Module):
    """What libpcap has, but for what capd has itself."""

    def owns(self, name: str) -> bool:
        """Return whether it has the prefix."""
        return name.startswith(_PREFIX)

    def create(self, name: str) -> Capture:
        """Return one of libpcap's devices."""
        device = name.removeprefix(_PREFIX)
        if not device or "\0" in device:
            raise WrongName("libpcap: has a device behind it, such as libpcap:usbmon1: name one")
        if device.startswith(_OWN):
            raise WrongName(f"{device} is not captured from through libpcap: leave its prefix out")
        return LibpcapCapture(name)

    def capabilities(self) -> Collection[str]:
        """Return what libpcap's devices may take."""
        return ("CAP_NET_ADMIN", "CAP_NET_RAW")

    def devices(self) -> Sequence[Device]:
        """Return the devices that are neither network interfaces nor those of other modules."""
        first, error = ctypes.POINTER(_Interface)(), ctypes.create_string_buffer(ERROR_BYTES)
        if _library().pcap_findalldevs(ctypes.byref(first), error) < 0:
            return ()
        interfaces = {name for _, name in socket.if_nameindex()} | {"any"}
        missing = None if _may_open_sockets() else MissingRight.CAP_NET_RAW
        found: list[Device] = []
        each = first
        while each:  # type: ignore[truthy-bool]  # false is a null pointer
            name = (each.contents.name or b"").decode("utf-8", "surrogateescape")
            description = (each.contents.description or b"").decode("utf-8", "replace")
            if name not in interfaces and not name.startswith(_OWN):
                found.append(Device(_PREFIX + name, description, missing_right=missing))
            each = each.contents.next
        _library().pcap_freealldevs(first)
        return found


def _may_open_sockets() -> bool:
    try:
        socket.socket(socket.AF_PACKET, socket.SOCK_RAW).close()
    except OSError:
        return False
    return True


MODULE = LibpcapModule()
