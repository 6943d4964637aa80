"""Opening a device as it is asked for: created, activated, its link-layer type, direction and filter set."""

import contextlib
import signal
from collections.abc import Callable, Generator
from types import FrameType
from typing import NamedTuple, NoReturn

from capd_client.modules.contract import Capture, Module, ModuleFailed, NotSupported, Options
from capd_client.modules.pump import ReaderGone
from capd_protocol.formats.linktypes import by_name, dlt_to_linktype
from capd_protocol.formats.packet_flags import Direction
from capd_protocol.messages import InterfaceRequest

_DIRECTIONS = {"in": Direction.IN, "out": Direction.OUT}


class OpenedDevice(NamedTuple):
    """A device that can be read.

    Attributes:
        capture: activated; its maker's.
        linktype: of its packets.
    """

    capture: Capture
    linktype: int


@contextlib.contextmanager
def typed(name: str) -> Generator[None, None, None]:
    """Have everything that a module raises be a ``ModuleFailed``.

    Raises:
        ModuleFailed: in place of what was raised.
    """
    try:
        yield
    except (ModuleFailed, ReaderGone):
        raise
    except Exception as error:  # whatever somebody else's code raises
        text = f"the module of {name} has failed: {type(error).__name__}: {error}"
        raise ModuleFailed(text) from error


@contextlib.contextmanager
def created(module: Module, name: str) -> Generator[Capture, None, None]:
    """Make a capture, which is closed when the block is left, however that is."""
    capture = module.create(name)
    try:
        yield capture
    finally:
        capture.close()


def end_by_sigterm(capture: Capture) -> None:
    """Have SIGTERM end this process, and its capture be closed, also in the middle of reading."""

    def end(_number: int, _frame: FrameType | None) -> NoReturn:
        capture.break_off()
        raise SystemExit(0)

    signal.signal(signal.SIGTERM, end)


def options_of(request: InterfaceRequest) -> Options:
    """Return what a module is told of a request."""
    return Options(
        snaplen_bytes=request.snaplen_bytes,
        promiscuous=request.promiscuous,
        monitor_mode=request.monitor_mode,
        buffer_size_bytes=request.kernel_buffer_size_bytes,
    )


def opened(capture: Capture, request: InterfaceRequest, when_active: Callable[[], None] = lambda: None) -> OpenedDevice:
    """Open a device.

    Args:
        capture: is activated.
        request: how to capture from it.
        when_active: is called once it is active, before anything else is looked at that the user has written.

    Raises:
        ModuleFailed: it cannot be done.
    """
    linktype = capture.activate(options_of(request))
    when_active()
    if request.link_layer_type is not None and (wanted := _linktype(request.link_layer_type)) != linktype:
        capture.set_link_type(wanted)
        linktype = wanted
    if request.direction in _DIRECTIONS:
        capture.set_direction(_DIRECTIONS[request.direction])
    if request.capture_filter:
        capture.set_filter(request.capture_filter)
    capture.set_blocking(False)
    return OpenedDevice(capture, linktype)


def _linktype(name: str) -> int:
    found = by_name(name)
    if found is None:
        raise NotSupported(f"there is no link-layer type {name!r:.80}: 'capctl linktypes' shows which a device has")
    return dlt_to_linktype(found.dlt)
