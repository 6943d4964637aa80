"""What a module's process is asked for, and what it answers; as JSON."""

import msgspec

from capd_client.modules.contract import Device, Options
from capd_protocol.formats.packet_flags import Direction
from capd_protocol.messages.failures import FailureCode

#: Of ``python -m capd_client.modules``: the first argument.
CAPTURE, LIST, DESCRIBE = "capture", "list", "describe"


class Asked(msgspec.Struct, frozen=True):
    """A capture.

    Attributes:
        name: of the device.
        options: as the module gets them.
        linktype: its number in files; None: the module's default.
        direction: unknown: both.
        capture_filter: for modules that filter; empty: there is none, or it must not be applied yet.
    """

    name: str
    options: Options = Options()
    linktype: int | None = None
    direction: Direction = Direction.UNKNOWN
    capture_filter: str = ""


class Answer(msgspec.Struct, frozen=True):
    """What was asked, or why it cannot be answered.

    Attributes:
        devices: of one module.
        linktypes: of one device, the default first.
        has_monitor_mode: whether that device has.
        code: of a failure; None: there is none.
        text: of that failure.
    """

    devices: tuple[Device, ...] = ()
    linktypes: tuple[int, ...] = ()
    has_monitor_mode: bool = False
    code: FailureCode | None = None
    text: str = ""
