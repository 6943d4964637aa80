"""Capture filters: from text to the kernel's instructions, by the system's libpcap, through ctypes.

Compiled on a live handle: without one libpcap does not know that the kernel sets VLAN tags aside, and ``vlan``
never matches. The handle must be opened while CAP_NET_RAW is there; the text is looked at only after it is gone.
"""

import ctypes
import ctypes.util
import functools
import os
from typing import Any

from capd.worker.filter_text import find_host_name, find_position
from capd_protocol.linktypes import LinkLayerType, from_dlt
from capd_protocol.messages import Failure, FailureCode

_ERRBUF_SIZE = 256
_NETMASK_UNKNOWN = 0xFFFFFFFF

# pcap/pcap.h
_ERROR_NO_SUCH_DEVICE = -5
_ERROR_PERM_DENIED = -8
_ERROR_IFACE_NOT_UP = -9

_ACTIVATE_FAILURES = {
    _ERROR_NO_SUCH_DEVICE: (FailureCode.NO_SUCH_INTERFACE, "there is no interface {name}: see 'ip link'"),
    _ERROR_IFACE_NOT_UP: (FailureCode.INTERFACE_DOWN, "the interface {name} is down: 'ip link set {name} up'"),
    _ERROR_PERM_DENIED: (FailureCode.NOT_PERMITTED, "capd itself may not capture on {name}: it lacks CAP_NET_RAW"),
}


class CaptureFailed(Exception):
    """The capture cannot be, or cannot go on; carries the typed reason."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.text)
        self.failure = failure


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_uint), ("instructions", ctypes.c_void_p))


def _signature(library: ctypes.CDLL, name: str, result: Any, *arguments: Any) -> None:
    function = getattr(library, name)
    function.restype, function.argtypes = result, arguments


@functools.cache
def _libpcap() -> ctypes.CDLL:
    library = ctypes.CDLL(ctypes.util.find_library("pcap") or "libpcap.so.0.8")
    handle, text, number = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int
    numbers = ctypes.POINTER(ctypes.c_int)
    _signature(library, "pcap_create", handle, text, text)
    _signature(library, "pcap_set_snaplen", number, handle, number)
    _signature(library, "pcap_set_buffer_size", number, handle, number)
    _signature(library, "pcap_activate", number, handle)
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


def load() -> None:
    """Load libpcap, while its file can still be read.

    Raises:
        OSError: it is not installed.
    """
    _libpcap()


class Compiler:
    """A live libpcap handle of one interface; it captures nothing for us."""

    def __init__(self, interface: str, snaplen_bytes: int) -> None:
        """Open the handle. Needs CAP_NET_RAW.

        Raises:
            CaptureFailed: libpcap cannot open the interface.
        """
        self._interface = interface
        self._pcap = _libpcap()
        error = ctypes.create_string_buffer(_ERRBUF_SIZE)
        self._handle = self._pcap.pcap_create(os.fsencode(interface), error)
        if not self._handle:
            raise CaptureFailed(self._failure(FailureCode.NO_SUCH_INTERFACE, error.value.decode(errors="replace")))
        self._pcap.pcap_set_snaplen(self._handle, snaplen_bytes)
        self._pcap.pcap_set_buffer_size(self._handle, 1)  # libpcap takes the least that it can work with
        status = self._pcap.pcap_activate(self._handle)
        if status < 0:
            failure = self._activation_failure(status)
            self.close()
            raise CaptureFailed(failure)

    def _failure(self, code: FailureCode, text: str) -> Failure:
        return Failure(code=code, text=text, interface=self._interface)

    def _activation_failure(self, status: int) -> Failure:
        if status in _ACTIVATE_FAILURES:
            code, text = _ACTIVATE_FAILURES[status]
            return self._failure(code, text.format(name=self._interface))
        words = self._pcap.pcap_statustostr(status).decode() + ": " + self._words()
        return self._failure(FailureCode.UNSUPPORTED, f"libpcap cannot open {self._interface}: {words}")

    def _words(self) -> str:
        return str(self._pcap.pcap_geterr(self._handle).decode(errors="replace"))

    def link_layer_types(self) -> list[LinkLayerType]:
        """Return the types that the interface can be captured with, its default first."""
        numbers = ctypes.POINTER(ctypes.c_int)()
        count = self._pcap.pcap_list_datalinks(self._handle, ctypes.byref(numbers))
        if count < 0:
            return [from_dlt(self._pcap.pcap_datalink(self._handle))]
        try:
            found = [numbers[i] for i in range(count)]
        finally:
            self._pcap.pcap_free_datalinks(numbers)
        default = self._pcap.pcap_datalink(self._handle)
        return [from_dlt(dlt) for dlt in sorted(found, key=lambda dlt: dlt != default)]

    def choose_link_layer_type(self, wanted: LinkLayerType | None) -> LinkLayerType:
        """Set the type that filters are compiled for, and return it.

        Raises:
            CaptureFailed: the interface does not have it.
        """
        possible = self.link_layer_types()
        chosen = wanted or possible[0]
        if chosen not in possible or self._pcap.pcap_set_datalink(self._handle, chosen.dlt) < 0:
            names = ", ".join(map(str, possible))
            text = f"{self._interface} has no link-layer type {chosen}; it has {names}"
            failure = Failure(
                code=FailureCode.UNSUPPORTED, text=text, interface=self._interface, argument="link_layer_type"
            )
            raise CaptureFailed(failure)
        return chosen

    def compile(self, text: str, interface_index: int) -> bytes:
        """Return the filter as an array of struct sock_filter. An empty one takes all, up to the snaplen.

        Raises:
            CaptureFailed: with libpcap's words and, where it can be found, the position.
        """
        name = find_host_name(text)
        if name is not None:
            words = f"host names are not looked up: give the address of {name.text!r}"
            raise CaptureFailed(self._bad_filter(words, interface_index, name.position))
        program = self._try(text)
        if program is None:
            words = self._words()
            position = find_position(text, lambda candidate: self._try(candidate) is not None)
            raise CaptureFailed(self._bad_filter(words, interface_index, position))
        return program

    def _bad_filter(self, words: str, interface_index: int, position: int | None) -> Failure:
        return Failure(
            code=FailureCode.BAD_FILTER,
            text=words,
            argument="capture_filter",
            interface=self._interface,
            interface_index=interface_index,
            position=position,
        )

    def _try(self, text: str) -> bytes | None:
        program = _Program()
        optimize = 1
        status = self._pcap.pcap_compile(
            self._handle, ctypes.byref(program), text.encode("ascii"), optimize, _NETMASK_UNKNOWN
        )
        if status < 0:
            return None
        try:
            return ctypes.string_at(program.instructions, program.length * 8)
        finally:
            self._pcap.pcap_freecode(ctypes.byref(program))

    def close(self) -> None:
        """Close the handle."""
        self._pcap.pcap_close(self._handle)
