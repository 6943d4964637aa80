"""A worker's start, in order: open, drop privileges, verify, compile filters, bind, first file, capture.

Run by the daemon with one argument: the number of the descriptor of its control socket. Everything that is
imported is imported here, at the beginning: after the drop the interpreter's own files may be unreadable.
"""

import contextlib
import errno
import gc
import os
import platform
import signal
import socket
import sys
import time
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

# Read by numpy's OpenBLAS at import: its threads would be of no use.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from capd import libpcap, privileges
from capd.version import SOFTWARE
from capd.worker.files import CaptureFiles
from capd.worker.filters import CaptureFailed, Compiler
from capd.worker.launch import Launch, LaunchInterface, decode_launch
from capd.worker.loop import WATCHDOG_S, Capture, Source, retire_ms, statistics_blocks
from capd.worker.records import RecordMaker
from capd.worker.report import Report
from capd.worker.ring import Ring, RingError
from capd.worker.savefile import DestinationError, WriteError
from capd_protocol import pcapng
from capd_protocol.frames import FrameDecoder
from capd_protocol.linktypes import LinkLayerType, by_name, dlt_to_linktype
from capd_protocol.messages import Failure, FailureCode

_DLT_EN10MB = 1
_ETHERNET_HEADER_BYTES = 14
#: Link-layer types whose header the kernel does not deliver as it was on the wire.
_COOKED = ("LINUX_SLL", "LINUX_SLL2")


@dataclass
class _Opened:
    """What needed the privilege, for one interface."""

    launch: LaunchInterface
    ring: Ring
    compiler: Compiler


def _read_launch(control: socket.socket) -> tuple[Launch, FrameDecoder]:
    decoder = FrameDecoder()
    while (frame := decoder.next_frame()) is None:
        data = control.recv(65536)
        if not data:
            raise SystemExit(0)  # the daemon changed its mind
        decoder.feed(data)
    return decode_launch(frame), decoder


#: What the kernel says of an interface that has changed since the daemon looked; all else is unsupported.
_CODES = {
    errno.ENODEV: FailureCode.NO_SUCH_INTERFACE,
    errno.ENXIO: FailureCode.NO_SUCH_INTERFACE,
    errno.ENETDOWN: FailureCode.INTERFACE_DOWN,
}


def _failure_of(error: OSError, interface: str) -> Failure:
    return Failure(
        code=_CODES.get(error.errno or 0, FailureCode.UNSUPPORTED),
        text=f"the kernel does not capture on {interface}: {error.strerror}",
        interface=interface,
    )


@contextlib.contextmanager
def _typed(interface: str) -> Generator[None, None, None]:
    """Turn what the kernel says about an interface into the typed failure."""
    try:
        yield
    except RingError as error:
        raise CaptureFailed(
            Failure(code=FailureCode.RESOURCES, text=f"{error}: ask for a smaller kernel_buffer_size")
        ) from error
    except PermissionError as error:
        text = "capd itself may not open a packet socket: it lacks CAP_NET_RAW"
        raise CaptureFailed(Failure(code=FailureCode.NOT_PERMITTED, text=text, interface=interface)) from error
    except OSError as error:
        raise CaptureFailed(_failure_of(error, interface)) from error


def _open(launch: Launch) -> list[_Opened]:
    opened: list[_Opened] = []
    for interface in launch.interfaces:
        with _typed(interface.device):
            ring = Ring()
        opened.append(_Opened(interface, ring, Compiler(interface.device, interface.request.snaplen_bytes)))
    return opened


def _choose_link_layer_type(one: _Opened) -> LinkLayerType:
    request = one.launch.request
    wanted = by_name(request.link_layer_type) if request.link_layer_type else None
    chosen = one.compiler.choose_link_layer_type(wanted)
    if chosen.name in _COOKED:
        text = f"{request.name} can only be captured cooked ({chosen}), which capd does not do yet"
        raise CaptureFailed(Failure(code=FailureCode.UNSUPPORTED, text=text, interface=request.name))
    return chosen


def _prepare(launch: Launch, one: _Opened, number: int, link_layer_type: LinkLayerType) -> Source:
    """Compile the filter, make the ring; the socket is still inert."""
    request = one.launch.request
    program = one.compiler.compile(request.capture_filter, number)
    one.compiler.close()
    is_ethernet = link_layer_type.dlt == _DLT_EN10MB
    with _typed(request.name):
        one.ring.configure(
            size_bytes=request.kernel_buffer_size_bytes,
            retire_ms=retire_ms(launch.update_interval_s),
            header_bytes=_ETHERNET_HEADER_BYTES if is_ethernet else 0,
            loopback=one.launch.loopback,
        )
        one.ring.attach_filter(program)
    maker = RecordMaker(
        ring=one.ring,
        file_format=launch.file_format,
        interface_id=number,
        snaplen_bytes=request.snaplen_bytes,
        ethernet=is_ethernet,
    )
    return Source(request.name, one.ring, maker)


def _arm(one: _Opened) -> None:
    request = one.launch.request
    with _typed(request.name):
        one.ring.arm(one.launch.index, one.launch.device, promiscuous=request.promiscuous)


def _is_gone(control: socket.socket) -> bool:
    try:
        return not control.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False


def _cpu_name() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    return platform.machine()


def _header(launch: Launch, types: list[LinkLayerType], hardware: str) -> bytes:
    if launch.file_format == "pcap":
        snaplen_bytes = launch.interfaces[0].request.snaplen_bytes
        return pcapng.pcap_header(linktype=dlt_to_linktype(types[0].dlt), snaplen_bytes=snaplen_bytes)
    operating_system = f"{platform.system()} {platform.release()}"
    blocks = [pcapng.section_header(hardware=hardware, operating_system=operating_system, application=SOFTWARE)]
    for interface, link_layer_type in zip(launch.interfaces, types, strict=True):
        blocks.append(
            pcapng.interface_description(
                linktype=dlt_to_linktype(link_layer_type.dlt),
                snaplen_bytes=interface.request.snaplen_bytes,
                name=interface.request.name,
                description=interface.alias,
                capture_filter=interface.request.capture_filter,
                operating_system=operating_system,
                hardware=interface.driver,
                mac_address=interface.mac_address,
                speed_bits_per_s=interface.speed_bits_per_s,
            )
        )
    return b"".join(blocks)


def _capture(launch: Launch, control: socket.socket, decoder: FrameDecoder, report: Report) -> None:
    # 1. Open what needs CAP_NET_RAW: sockets of protocol 0, which receive nothing, and libpcap's handles.
    libpcap.load()
    opened = _open(launch)
    hardware = _cpu_name()
    # 2. Become the user who asked. What comes after is that user's own doing, and is checked as such.
    # 3. The same call verifies it.
    privileges.become(launch.user_id, launch.group_id, launch.groups)
    os.umask(0)  # the mode of files is said in full where they are made
    # 4. Compile the filters: the first text of the user that is looked at.
    types = [_choose_link_layer_type(one) for one in opened]
    sources = [_prepare(launch, one, number, types[number]) for number, one in enumerate(opened)]
    # 5. Bind: from here on packets come and are counted.
    start_ns = time.time_ns()
    for one in opened:
        _arm(one)
    # 6. The first file, which is announced when its header is on disk.
    files = CaptureFiles(
        directory_fd=launch.directory_fd,
        destination=launch.destination,
        ring=launch.ring,
        header=_header(launch, types, hardware),
        statistics=(lambda: statistics_blocks(sources, start_ns)) if launch.file_format == "pcapng" else bytes,
        report=report,
    )
    try:
        files.open_next()
    except (DestinationError, WriteError) as error:
        text = str(error) if isinstance(error, DestinationError) else f"no room for the capture file: {error}"
        failure = Failure(code=FailureCode.DESTINATION, text=text, argument="savefile")
        raise CaptureFailed(failure) from error
    if _is_gone(control):
        files.abandon()  # whoever asked left before hearing of it
        return
    # 7. Capture.
    gc.freeze()
    Capture(
        sources=sources,
        files=files,
        report=report,
        control=control,
        decoder=decoder,
        ring=launch.ring,
        autostop=launch.autostop,
        update_interval_s=launch.update_interval_s,
    ).run()


def main() -> None:
    """Run one capture for the daemon."""
    signal.alarm(WATCHDOG_S)
    # A service manager that signals every process of a service would end captures in the middle of a packet:
    # a worker ends well when the daemon says so, or is gone.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    control = socket.socket(fileno=int(sys.argv[1]))
    launch, decoder = _read_launch(control)
    report = Report(control)
    try:
        _capture(launch, control, decoder, report)
    except CaptureFailed as error:
        report.failed(error.failure)
        report.flush_all()


if __name__ == "__main__":
    main()
