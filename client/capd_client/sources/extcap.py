"""Extcap programs as streams: one is started for a capture, by a guardian that ends it with the capture."""

import os

from capd_client.errors import InvalidArgument
from capd_client.sources.guarded import Program, start
from capd_client.sources.opened import EXTCAP, OpenedStream
from capd_client.sources.programs import answer_of, interface_of, interfaces
from capd_client.sources.sentences import WrongOptionError, arguments_of, data_links_of, options_of, split
from capd_protocol.messages import Capabilities
from capd_protocol.messages.interfaces import InterfaceInfo, InterfaceType, LinkLayer
from capd_protocol.text import quoted

#: How long a program may take to open its FIFO. Chosen: as long as anything else that is waited for before a capture
#: begins. What it connects to may take longer: it opens the FIFO before that.
_OPEN_S = 10.0


def open_extcap(text: str) -> OpenedStream:
    """Start a program, and return where its packets are read.

    Args:
        text: an interface's name, and options of it behind commas: ``randpkt,count=5``.

    Raises:
        InterfaceError: there is no such interface.
        InvalidArgument: an option is not possible, or is missing.
        OSError: the program does not start, or does not open its FIFO.
    """
    name, given = split(text)
    interface = interface_of(name)
    try:
        options = arguments_of(options_of(answer_of(interface, "--extcap-config")), given)
    except WrongOptionError as error:
        raise InvalidArgument(f"{EXTCAP}{quoted(name)}: {error}", argument="interfaces") from error
    command = [interface.program, "--capture", "--extcap-interface", interface.name, "--fifo"]
    return start(
        Program(
            shown=quoted(os.path.basename(interface.program)),  # noqa: PTH119
            command=[*command, *options],
            fifo_at=len(command),
            open_s=_OPEN_S,
        )
    )


def extcap_interfaces() -> tuple[InterfaceInfo, ...]:
    """Return the interfaces of all programs."""
    found, _ = interfaces()
    kind = InterfaceType.EXTCAP
    return tuple(
        InterfaceInfo(
            name=EXTCAP + each.name, number=0, description=each.display, interface_type=kind, may_capture=True
        )
        for each in found
    )


def extcap_capabilities(name: str, monitor_mode: bool) -> Capabilities:
    """Return the link-layer types of an interface.

    Raises:
        InterfaceError: there is no such interface, or its program does not answer.
        InvalidArgument: it has no monitor mode.
    """
    if monitor_mode:
        raise InvalidArgument(f"{quoted(name)} has no monitor mode: leave it out", argument="monitor_mode")
    interface = interface_of(split(name.removeprefix(EXTCAP))[0])
    found = data_links_of(answer_of(interface, "--extcap-dlts"))
    layers = tuple(LinkLayer(dlt=each.dlt, name=each.name, description=each.display) for each in found)
    return Capabilities(can_rfmon=False, link_layers=layers, timestamp_types=())
