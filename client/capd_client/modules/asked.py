"""What a module's process is asked for, and what it answers; as JSON."""

import msgspec

from capd_client.modules.contract import Device
from capd_protocol.messages.failures import FailureCode

#: Of ``python -m capd_client.modules``: the first argument. What is captured is a ``messages.InterfaceRequest``.
CAPTURE, LIST, DESCRIBE = "capture", "list", "describe"


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
