"""Capture filters and link-layer types of one interface: libpcap's knowledge, our typed failures.

The handle must be opened while CAP_NET_RAW is there; the filter's text is looked at only after it is gone.
"""

import contextlib

from capd.libpcap import Handle, PcapError, Status
from capd.worker.filter_text import find_host_name, find_position, host_name_complaint
from capd_protocol.linktypes import DLT_EN10MB, LinkLayerType, from_dlt
from capd_protocol.messages import MAX_SNAPLEN_BYTES, Failure, FailureCode

_ACTIVATE_FAILURES: dict[int | None, tuple[FailureCode, str]] = {
    Status.NO_SUCH_DEVICE: (FailureCode.NO_SUCH_INTERFACE, "there is no interface {name}: see 'capctl interfaces'"),
    Status.IFACE_NOT_UP: (FailureCode.INTERFACE_DOWN, "the interface {name} is down: 'ip link set {name} up'"),
    Status.PERM_DENIED: (FailureCode.NOT_PERMITTED, "capd itself may not capture on {name}: it lacks CAP_NET_RAW"),
    Status.RFMON_NOTSUP: (FailureCode.UNSUPPORTED, "{name} has no monitor mode"),
}


class CaptureFailed(Exception):
    """The capture cannot be, or cannot go on; carries the typed reason."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.text)
        self.failure = failure


def activation_failure(interface: str, error: PcapError) -> Failure:
    """Return why libpcap did not open an interface."""
    code, text = _ACTIVATE_FAILURES.get(error.status, (FailureCode.UNSUPPORTED, "libpcap cannot open {name}: {words}"))
    return Failure(code=code, text=text.format(name=interface, words=error), interface=interface)


def bad_filter(words: str, interface: str, interface_index: int, position: int | None = None) -> Failure:
    """Return what is wrong with the filter of an interface."""
    return Failure(
        code=FailureCode.BAD_FILTER,
        text=words,
        argument="capture_filter",
        interface=interface,
        interface_index=interface_index,
        position=position,
    )


def find_names() -> None:
    """Have the C library find out how it looks up names of ports and protocols: it is the same for all filters."""
    handle = Handle.dead(from_dlt(DLT_EN10MB), MAX_SNAPLEN_BYTES)
    for text in ("port domain", "ip proto icmp"):
        with contextlib.suppress(PcapError):  # there may be none of this name
            handle.compile(text)
    handle.close()


class Compiler:
    """A live handle of one interface, and what is asked of it, for that one and others of its kind."""

    def __init__(self, interface: str, snaplen_bytes: int) -> None:
        """Open the handle. Needs CAP_NET_RAW.

        Raises:
            CaptureFailed: libpcap cannot open the interface.
        """
        try:
            self._handle = Handle(interface)
            self._handle.activate(snaplen_bytes=snaplen_bytes)
            self._handle.disarm()
        except PcapError as error:
            raise CaptureFailed(activation_failure(interface, error)) from error

    @classmethod
    def of(cls, handle: Handle) -> "Compiler":
        """Return a compiler on a handle that is open already."""
        compiler = cls.__new__(cls)
        compiler._handle = handle
        return compiler

    def choose_link_layer_type(self, wanted: LinkLayerType | None, interface: str) -> LinkLayerType:
        """Set the type that filters are compiled for, and return it.

        Raises:
            CaptureFailed: the interface does not have it.
        """
        possible = self._handle.link_layer_types()
        chosen = wanted or possible[0]
        if chosen not in possible:
            names = ", ".join(map(str, possible))
            text = f"{interface} has no link-layer type {chosen}; it has {names}"
            raise CaptureFailed(
                Failure(code=FailureCode.UNSUPPORTED, text=text, interface=interface, argument="link_layer_type")
            )
        self._handle.set_link_layer_type(chosen)
        return chosen

    def compile(self, text: str, interface: str, interface_index: int) -> bytes:
        """Return the filter as an array of struct sock_filter. An empty one takes all, up to the snaplen.

        Raises:
            CaptureFailed: with libpcap's words and, where it can be found, the position.
        """
        name = find_host_name(text)
        if name is not None:
            raise CaptureFailed(bad_filter(host_name_complaint(name), interface, interface_index, name.position))
        try:
            return self._handle.compile(text)
        except PcapError as error:
            position = find_position(text, self._complain)
            raise CaptureFailed(bad_filter(str(error), interface, interface_index, position)) from error

    def _complain(self, text: str) -> str | None:
        try:
            self._handle.compile(text, optimize=False)
        except PcapError as error:
            return str(error)
        return None

    def close(self) -> None:
        """Close the handle."""
        self._handle.close()
