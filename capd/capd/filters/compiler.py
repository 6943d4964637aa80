"""Capture filters and link-layer types: libpcap's knowledge, our typed failures.

Each text is compiled once for a link-layer type. libpcap needs a device's handle for that only where a filter says
``vlan``, and to know which other types there are to choose from. Such handles are opened while CAP_NET_RAW is there,
filters are looked at only after it is gone, and then the handles are closed, before the capture begins.
"""

import contextlib
from typing import NamedTuple

from capd.filters import bpf
from capd.filters.bounds import too_much
from capd.linux.libpcap import Handle, PcapError, Status
from capd_protocol.filter_words import find_host_name, find_position, host_name_complaint, says_vlan, words
from capd_protocol.formats.linktypes import DLT_EN10MB, DLT_LINUX_SLL, DLT_LINUX_SLL2, LinkLayerType, from_dlt
from capd_protocol.messages import MAX_SNAPLEN_BYTES, Failure, FailureCode

_ACTIVATE_FAILURES: dict[int | None, tuple[FailureCode, str]] = {
    Status.NO_SUCH_DEVICE: (FailureCode.NO_SUCH_INTERFACE, "there is no interface {name}: see 'capctl interfaces'"),
    Status.IFACE_NOT_UP: (FailureCode.INTERFACE_DOWN, "the interface {name} is down: 'ip link set {name} up'"),
    Status.PERM_DENIED: (FailureCode.NOT_PERMITTED, "capd itself may not capture on {name}: it lacks CAP_NET_RAW"),
    Status.RFMON_NOTSUP: (FailureCode.UNSUPPORTED, "{name} has no monitor mode"),
}

#: Of a filter that libpcap compiles quickly without its optimizer, whatever it says. Chosen: the worst of so many words
#: takes 0.1 s, which a ring outlasts; 4000 words take 13 s.
_MOST_QUICK_WORDS = 200
#: Before a filter is optimized while a capture runs. Chosen: this takes 10 ms at most, and no ring is full by then.
_MOST_QUICK_INSTRUCTIONS = 1000

#: And what to say where libpcap makes another program.
_WHAT_THE_KERNEL_WANTS = (
    (bpf.is_without_loops, "the kernel runs no filter with a loop, which 'protochain' is: use 'proto'"),
    (
        bpf.is_self_contained,
        "libpcap makes a program of the filter that reads memory which it has not written: put 'geneve' last",
    ),
)


class CaptureFailed(Exception):
    """The capture cannot be, or cannot go on; carries the typed reason."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.text)
        self.failure = failure


class FilterError(Exception):
    """A filter cannot be compiled: what to say, and where it goes wrong, if that could be found."""

    def __init__(self, complaint: str, position: int | None = None, code: FailureCode = FailureCode.BAD_FILTER) -> None:
        super().__init__(complaint)
        self.position = position
        self.code = code

    def failure(self, interface: str, interface_index: int, argument: str = "capture_filter") -> Failure:
        """Return the failure of an interface that has this filter, which was given as an argument of this name."""
        return Failure(
            code=self.code,
            text=str(self),
            argument=argument,
            interface=interface,
            interface_index=interface_index,
            position=self.position,
        )


class Kind(NamedTuple):
    """Interfaces that are alike to libpcap: what it offers for one of them, it does for all."""

    #: ARPHRD_… (linux/if_arp.h).
    hardware_type: int
    #: Of what the kernel delivers.
    default_dlt: int


def activation_failure(interface: str, error: PcapError) -> Failure:
    """Return why libpcap did not open an interface."""
    code, text = _ACTIVATE_FAILURES.get(error.status, (FailureCode.UNSUPPORTED, "libpcap cannot open {name}: {words}"))
    return Failure(code=code, text=text.format(name=interface, words=error), interface=interface)


def find_names() -> None:
    """Have the C library find out how it looks up names of ports and protocols: it is the same for all filters."""
    handle = Handle.dead(from_dlt(DLT_EN10MB), MAX_SNAPLEN_BYTES)
    for text in ("port domain", "ip proto icmp"):
        with contextlib.suppress(PcapError):  # there may be none of this name
            handle.compile(text)
    handle.close()


class Compiler:
    """Compiles filters for the interfaces of a capture, and knows which link-layer types these have."""

    def __init__(self) -> None:
        self._live: dict[Kind, Handle] = {}
        #: The default first; of kinds that had a live handle.
        self._types: dict[Kind, list[LinkLayerType]] = {}
        self._compiled: dict[tuple[str, int], bytes | FilterError] = {}
        #: By text, link type, and whether the byte order is the other one.
        self._for_streams: dict[tuple[str, int, bool], bytes] = {}
        self._is_running = False

    # While CAP_NET_RAW is there ------------------------------------------------------------------------------------

    def open_handle(self, kind: Kind, device: str) -> None:
        """Open a live handle for a kind of interfaces, if it has none yet. Needs CAP_NET_RAW.

        Raises:
            CaptureFailed: libpcap cannot open the interface.
            OSError: the kernel does not keep packets from it.
        """
        if kind in self._types:
            return
        try:
            handle = Handle(device)
            handle.activate(snaplen_bytes=MAX_SNAPLEN_BYTES)
        except PcapError as error:
            raise CaptureFailed(activation_failure(device, error)) from error
        try:
            handle.disarm()
        except OSError:
            handle.close()
            raise
        self._live[kind] = handle
        self._types[kind] = handle.link_layer_types()

    # When it is gone -----------------------------------------------------------------------------------------------

    def choose_link_layer_type(self, kind: Kind, wanted: LinkLayerType | None, interface: str) -> LinkLayerType:
        """Return the type that an interface's packets are called.

        Without one that is wanted it is the one of what the kernel delivers, whatever a handle says.

        Raises:
            CaptureFailed: the interface does not have it.
        """
        default = from_dlt(kind.default_dlt)
        if wanted is None or wanted == default:
            return default
        possible = self._types.get(kind, [])
        if default not in possible:  # there was no handle, or it is for something else than what the ring delivers
            possible = [default]
            if kind.default_dlt == DLT_LINUX_SLL:
                possible.append(from_dlt(DLT_LINUX_SLL2))
        if wanted not in possible:
            names = ", ".join(map(str, possible))
            text = f"{interface} has no link-layer type {wanted}; it has {names}"
            raise CaptureFailed(
                Failure(code=FailureCode.UNSUPPORTED, text=text, interface=interface, argument="link_layer_type")
            )
        return wanted

    def compile(self, text: str, dlt: int) -> bytes:
        """Return the filter as an array of struct sock_filter. An empty one takes all.

        Raises:
            FilterError: with libpcap's words and, where it can be found, the position.
        """
        key = text, dlt
        if key not in self._compiled:
            try:
                self._compiled[key] = self._compile(text, dlt)
            except FilterError as error:
                self._compiled[key] = error
        compiled = self._compiled[key]
        if isinstance(compiled, FilterError):
            raise compiled.with_traceback(None)
        return compiled

    def compile_for_stream(self, text: str, linktype: int, *, is_swapped: bool) -> bytes:
        """Return the filter for packets that come in a stream, as an array of struct sock_filter; it may have loops.

        Args:
            text: of the filter.
            linktype: LINKTYPE_ number of the packets.
            is_swapped: whether a machine of the other byte order writes them.

        Raises:
            FilterError: with libpcap's words and, where it can be found, the position.
        """
        # What an Ethernet frame begins with is in network byte order.
        key = text, linktype, is_swapped and linktype != DLT_EN10MB
        if key not in self._for_streams:
            self._refuse_host_name(text)
            try:
                handle = Handle.of_file(linktype, is_swapped=is_swapped)
            except PcapError as error:
                complaint = f"libpcap compiles no filter for link type {linktype}: {error}"
                raise FilterError(complaint, code=FailureCode.UNSUPPORTED) from error
            try:
                self._for_streams[key] = self._compile_on(handle, text)
            finally:
                handle.close()
        return self._for_streams[key]

    @staticmethod
    def _refuse_host_name(text: str) -> None:
        name = find_host_name(text)
        if name is not None:
            raise FilterError(host_name_complaint(name), name.position)

    def _compile(self, text: str, dlt: int) -> bytes:
        program = self._compile_somewhere(text, dlt)
        for is_right, complaint in _WHAT_THE_KERNEL_WANTS:
            if not is_right(program):
                raise FilterError(complaint)
        return program

    def _compile_somewhere(self, text: str, dlt: int) -> bytes:
        self._refuse_host_name(text)
        if says_vlan(text):
            handle = self._live_handle(dlt)
            if handle is None:
                advice = "'vlan' needs an interface of its kind that was up when the capture began"
                raise FilterError(advice, code=FailureCode.UNSUPPORTED)
            return self._compile_on(handle, text)
        handle = Handle.dead(from_dlt(dlt), MAX_SNAPLEN_BYTES)
        try:
            return self._compile_on(handle, text)
        finally:
            handle.close()

    def _live_handle(self, dlt: int) -> Handle | None:
        """Return a live handle that compiles for a link-layer type. It does so for all kinds that have it."""
        for kind, handle in self._live.items():
            if from_dlt(dlt) in self._types[kind]:
                handle.set_link_layer_type(from_dlt(dlt))
                return handle
        return None

    def _compile_on(self, handle: Handle, text: str) -> bytes:
        is_quick = sum(1 for _ in words(text)) <= _MOST_QUICK_WORDS
        if self._is_running and not is_quick:
            advice = (
                "the filter is too long to compile it while the capture runs: begin when such an interface is there"
            )
            raise FilterError(advice, code=FailureCode.UNSUPPORTED)

        def complain(part: str) -> str | None:
            try:
                handle.compile(part, optimize=False)
            except PcapError as error:
                return str(error)
            return None

        try:
            if self._is_running:
                program = handle.compile(text, optimize=False)
                if bpf.count(program) > _MOST_QUICK_INSTRUCTIONS:
                    return program
            return handle.compile(text)
        except PcapError as error:
            if error.is_out_of_memory:
                raise FilterError(too_much().text) from error
            raise FilterError(str(error), find_position(text, complain) if is_quick else None) from error

    # Before the capture begins -------------------------------------------------------------------------------------

    def close_handles(self) -> None:
        """Close the live handles. What is compiled from now on keeps a capture waiting, so it is what takes no time.

        For each of them the kernel waits for grace periods, 20 ms in all; rings hold what comes meanwhile.
        """
        self._is_running = True
        while self._live:
            self._live.popitem()[1].close()
