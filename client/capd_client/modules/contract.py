"""The contract of a capture module: what capd asks of it, as libpcap asks it of its own modules.

A module knows devices by their names. It makes a ``Capture`` of one, which is activated, read, and closed. All of this
happens in a process of its own with the rights of the user who asks, one for each device that is captured from, and
with capabilities of the daemon's where a rule allows it. What capd does itself, a module need not do: filters,
``snaplen``, files, limits, time order.

Methods that have a body here may be left as they are by classes that are derived from these.
"""

import enum
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Protocol

from capd_protocol.formats.packet_flags import Direction
from capd_protocol.messages import MAX_SNAPLEN_BYTES
from capd_protocol.messages.failures import FailureCode
from capd_protocol.messages.interfaces import MissingRight

# What can go wrong ---------------------------------------------------------------------------------------------------


class ModuleFailed(Exception):
    """A device cannot be captured from, or no further. The text is one sentence, which says what to do about it.

    Raise one of those below that fits; this one where none does.
    """

    #: What the user's program gets; and by which exit status it hears of it (those of sysexits.h where one fits).
    code: ClassVar[FailureCode] = FailureCode.SOURCE_DAMAGED
    status: ClassVar[int] = 70


class NoSuchDevice(ModuleFailed):
    """There is no device of that name. Say which there are."""

    code = FailureCode.NO_SUCH_INTERFACE
    status = 68


class NoPermission(ModuleFailed):
    """The user may not. Name the right that is missing, such as CAP_NET_ADMIN."""

    code = FailureCode.NOT_PERMITTED
    status = 77


class NotSupported(ModuleFailed):
    """The device, or this module, cannot do what was asked for. Say what to leave out."""

    code = FailureCode.UNSUPPORTED
    status = 69


class WrongName(ModuleFailed):
    """What stands in the name behind the prefix is not possible. Say what is."""

    code = FailureCode.INVALID
    status = 64


class DeviceBusy(ModuleFailed):
    """Somebody else has the device, or there is no room for one more. Say who."""

    code = FailureCode.RESOURCES
    status = 75


class DeviceGone(ModuleFailed):
    """The device went away while it was captured from."""

    code = FailureCode.INTERFACE_LOST
    status = 74


FAILURES: tuple[type[ModuleFailed], ...] = (
    *(ModuleFailed, NoSuchDevice, NoPermission, NotSupported, WrongName, DeviceBusy, DeviceGone),
)


# Values --------------------------------------------------------------------------------------------------------------


class DeviceFlag(enum.Flag):
    """What is known of a device (``PCAP_IF_…``)."""

    NONE = 0
    LOOPBACK = 1
    UP = 2
    RUNNING = 4
    WIRELESS = 8


class Device(NamedTuple):
    """A device that can be captured from.

    Attributes:
        name: what the module takes.
        description: a few words for people.
        flags: what is known of it.
        missing_right: what this user lacks to capture from it; None: nothing.
    """

    name: str
    description: str = ""
    flags: DeviceFlag = DeviceFlag.NONE
    missing_right: MissingRight | None = None


@dataclass(frozen=True)
class Options:
    """How a device is to be captured from.

    Attributes:
        snaplen_bytes: of a packet, no more is needed. More may be given: capd cuts it.
        promiscuous: also what is for others; None: the user has not said.
        monitor_mode: all that a radio receives.
        buffer_size_bytes: what waits until it is read, if the device has a buffer for that; None: the module's default.
        timeout_s: how long packets may be kept back so that more are read at once.
        immediate: none are kept back at all.
        timestamp_type: where times come from, by libpcap's names, such as ``host``; None: the device's default.
        nanoseconds: precision of times, if the device has a choice; else microseconds.
    """

    snaplen_bytes: int = MAX_SNAPLEN_BYTES
    promiscuous: bool | None = None
    monitor_mode: bool = False
    buffer_size_bytes: int | None = None
    timeout_s: float = 0.1
    immediate: bool = False
    timestamp_type: str | None = None
    nanoseconds: bool = True


class Packet(NamedTuple):
    """A packet.

    Attributes:
        timestamp_ns: since 1970, UTC.
        data: as the link-layer type says.
        original_size_bytes: where ``data`` was cut: how much there was.
        flags: ``epb_flags`` of pcapng: direction, and to whom it was sent; 0: neither is known
            (``capd_protocol.formats.packet_flags``).
    """

    timestamp_ns: int
    data: bytes
    original_size_bytes: int
    flags: int = 0


class Statistics(NamedTuple):
    """Counts since activation.

    Attributes:
        received: packets that passed the filter, if the module filters; those that were dropped among them.
        dropped: of these, those that were lost before they could be read.
    """

    received: int
    dropped: int


# What a module is ----------------------------------------------------------------------------------------------------


class Capture(Protocol):
    """An opened device: made by ``Module.create``, activated once, read until it is closed.

    What is known of one opened device belongs here, and not into the module: a device may be captured from several
    times at once.
    """

    def activate(self, options: Options) -> int:
        """Set the device up, and return its link-layer type, by its number in files (``LINKTYPE_…``).

        What came before this returns is not captured; all that comes later is.

        Raises:
            NoSuchDevice: there is none of this name.
            NoPermission: the user may not.
            NotSupported: an option is not possible. An option that merely has nothing to do here is no fault, such as
                ``promiscuous`` of a bus; ``monitor_mode`` is one where there is no radio.
            DeviceBusy: it is taken.
            ModuleFailed: all else.
        """
        ...

    def read(self, max_packets: int) -> Sequence[Packet]:
        """Return packets that are there, in order, and at most so many; none where there are none. Do not wait.

        Raises:
            DeviceGone: the device went away.
            ModuleFailed: it cannot be read.
        """
        ...

    def close(self) -> None:
        """Give everything back. Called once at the end, also if ``activate`` has failed, at any point of it."""
        ...

    def fileno(self) -> int | None:
        """Return the descriptor that is readable when packets are there; None: there is none (see ``poll_s``).

        Asked before each wait: it may change.
        """
        return None

    def poll_s(self) -> float | None:
        """Return how long to wait at most until the next ``read``; None: until the descriptor is readable."""
        return None

    def statistics(self) -> Statistics | None:
        """Return the counts since activation; None: they are not known. Asked after ``read``, and each second."""
        return None

    def link_types(self) -> Sequence[int]:
        """Return the link-layer types that it can have, the default first; none: only activation shows them."""
        return ()

    def set_link_type(self, linktype: int) -> None:
        """Have packets of another one of ``link_types`` from now on. Called after ``activate``, and before ``read``.

        Raises:
            NotSupported: it is none of them.
        """
        raise NotSupported("its link-layer type cannot be chosen: leave it out")

    def set_filter(self, expression: str) -> bool:
        """Leave out packets that do not match, if the device itself can do that; return whether it does.

        capd filters what comes in any case, so most modules do nothing here: it is worth it where the device saves
        the work of passing packets on.

        Args:
            expression: in libpcap's language, as the user has written it.
        """
        del expression
        return False

    def set_direction(self, direction: Direction) -> None:
        """Have only those packets that come in, or go out.

        Raises:
            NotSupported: the device cannot tell.
        """
        raise NotSupported("it cannot tell what comes in from what goes out: leave the direction out")

    def has_monitor_mode(self) -> bool:
        """Return whether ``Options.monitor_mode`` is possible. May be called before ``activate``."""
        return False

    def set_blocking(self, is_blocking: bool) -> None:
        """Have ``read`` wait for the first packet, for ``Options.timeout_s`` at most, or not wait, as it does at first.

        Raises:
            NotSupported: it never waits.
        """
        if is_blocking:
            raise NotSupported("it never waits on reading: wait for its descriptor")

    def break_off(self) -> None:
        """Have a ``read`` that is running return at once. Called from a signal handler; ``close`` follows."""
        return

    def inject(self, data: bytes) -> int:
        """Send a packet, and return how many bytes were sent.

        Raises:
            NotSupported: the device does not do that.
            ModuleFailed: it has failed.
        """
        raise NotSupported("packets cannot be sent to it")


class Module(Protocol):
    """Devices of one kind."""

    def owns(self, name: str) -> bool:
        """Return whether a name is that of a device of this module: its prefix, and a number where there are several.

        A prefix has lower-case letters and digits, and ends with a letter: ``mydevice``, ``mydevice0``. Behind a colon
        may stand what no number can say: ``nflog:5,6``.
        """
        ...

    def create(self, name: str) -> Capture:
        """Return a device that is not activated yet. Touches nothing.

        Raises:
            WrongName: what stands behind the prefix is not possible.
        """
        ...

    def devices(self) -> Sequence[Device]:
        """Return the devices that there are; none where that cannot be known. Needs no privilege."""
        return ()

    def capabilities(self) -> Collection[str]:
        """Return which capabilities ``activate`` takes: CAP_NET_ADMIN, CAP_NET_RAW, both or none.

        Where a rule of the daemon's allows a user the device, ``create`` and ``activate`` have them, if the daemon has;
        before any other method is called, they are gone.
        """
        return ()
