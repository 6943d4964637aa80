"""The contract between daemon and worker: what to capture, as whom, where to.

The daemon writes one ``Launch`` frame on the worker's control socket; the worker answers with the messages of
``capd_protocol.messages`` and takes ``StopCapture`` from it. When the socket closes, the capture ends.
"""

from typing import Literal

import msgspec

from capd_protocol.frames import Frame, encode_frame
from capd_protocol.messages import Conditions, Destination, InterfaceRequest

INDICATOR = ord("l")


class LaunchInterface(msgspec.Struct, frozen=True, kw_only=True):
    """An interface that the daemon has looked up and found permitted."""

    request: InterfaceRequest
    #: What to open: the interface itself, or the monitor interface that was made for it.
    device: str
    index: int
    loopback: bool
    mac_address: bytes | None = None
    speed_bits_per_s: int | None = None
    #: What an administrator called it (``ip link set NAME alias …``).
    alias: str = ""
    driver: str = ""


class Launch(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that a worker needs to know."""

    user_id: int
    group_id: int
    groups: tuple[int, ...]
    interfaces: tuple[LaunchInterface, ...]
    #: Descriptor, in the worker, of the directory that the client passed.
    directory_fd: int
    destination: Destination
    file_format: Literal["pcapng", "pcap"]
    ring: Conditions | None
    autostop: Conditions
    update_interval_s: float


_decoder = msgspec.json.Decoder(Launch)


def encode_launch(launch: Launch) -> bytes:
    """Return the frame that starts a worker."""
    return encode_frame(INDICATOR, msgspec.json.encode(launch))


def decode_launch(frame: Frame) -> Launch:
    """Return what the first frame on a worker's control socket asks for.

    Raises:
        ValueError: it is no launch frame.
    """
    if frame.indicator != INDICATOR:
        raise ValueError(f"expected a launch frame, got {chr(frame.indicator)!r}")
    return _decoder.decode(frame.payload)
