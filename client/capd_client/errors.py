"""Exceptions, by what the caller can do about them.

``CaptureError``, ``NoEvents``, ``BrokenPipe``, ``ChildError`` and ``BadFilterError`` are wirepy's; the others are
more precise kinds of these, so that programs written for wirepy catch them too.
"""

from capd_protocol.messages import Failure, FailureCode


class CaptureError(Exception):
    """Base of all that this library raises on purpose."""


#: wirepy's name.
DumpcapError = CaptureError


class NoEvents(CaptureError):
    """No event came in the time given. Wait again, or do something else meanwhile."""


class DaemonUnavailable(CaptureError):
    """There is no daemon to talk to, and no privilege to do without. Start one, or name its socket."""


class BrokenPipe(CaptureError):
    """Nothing more comes from the daemon. The files up to the last event can be read."""


class CaptureEnded(BrokenPipe):
    """The capture has ended as it should, and all its events have been given."""


class ReadError(CaptureError):
    """A capture file cannot be read, or no further. What came before was given.

    Attributes:
        file: its path, or what is known of it.
        offset_bytes: where in it.
        text: what is wrong.
    """

    def __init__(self, file: str, offset_bytes: int, text: str) -> None:
        super().__init__(file, offset_bytes, text)
        self.file = file
        self.offset_bytes = offset_bytes
        self.text = text

    def __str__(self) -> str:
        where = f"at byte {self.offset_bytes}: " if self.offset_bytes else ""
        return f"{self.file or repr(self.file)}: {where}{self.text}"


class SessionClosed(CaptureError):
    """The session was closed. Make another one."""


class LoopRunning(CaptureError):
    """The session's packet loop runs already. End it first, or make another session."""


class StreamOverrun(CaptureError):
    """The reader of a live stream was too slow, and has asked for this error. Begin anew, or allow for more.

    Attributes:
        behind_bytes: how far behind it was.
        max_behind_bytes: how far it may be.
    """

    def __init__(self, behind_bytes: int, max_behind_bytes: int) -> None:
        super().__init__(behind_bytes, max_behind_bytes)
        self.behind_bytes = behind_bytes
        self.max_behind_bytes = max_behind_bytes

    def __str__(self) -> str:
        return f"the reader is {self.behind_bytes:,} bytes behind, and may be {self.max_behind_bytes:,}"


class ChildError(CaptureError):
    """The daemon refused the capture, or the capture failed.

    Attributes:
        failure: the typed reason, with what it is about; None where only a text is known.
    """

    def __init__(self, text: str, failure: Failure | None = None) -> None:
        super().__init__(text)
        self.failure = failure

    def __reduce__(self) -> tuple[object, ...]:
        """Be the same after copying and pickling: what is raised has its final text."""
        return _restore, (type(self), self.args, vars(self))


def _restore(kind: type[ChildError], args: tuple[object, ...], attributes: dict[str, object]) -> ChildError:
    error = kind.__new__(kind)
    error.args = args
    vars(error).update(attributes)
    return error


class DaemonGone(ChildError, BrokenPipe):
    """The daemon closed the connection without a word: it has ended, or was killed.

    The files of a capture can be read up to the last event.
    """


class BadFilterError(ChildError):
    """The capture filter does not compile. Correct it.

    Attributes:
        interface: on which interface; the same filter may be right on another one.
        position: how many characters come before the place where it goes wrong; None if that is not known.
    """

    def __init__(self, text: str, failure: Failure | None = None) -> None:
        self.interface = failure.interface if failure else None
        self.position = failure.position if failure else None
        where = f" (at character {self.position + 1})" if self.position is not None else ""
        super().__init__(f"capture filter: {text}{where}", failure)


class EngineFailed(CaptureError):
    """A program of Wireshark's that dissects has failed: it died, was ended, stands still, or gives no answers.

    What it had answered was given. Begin anew, perhaps behind the packet that it failed at.

    Attributes:
        status: its exit status, or the number of a signal below zero; None: it has not ended by itself.
    """

    def __init__(self, text: str, status: int | None) -> None:
        super().__init__(text, status)
        self.text = text
        self.status = status

    def __str__(self) -> str:
        return self.text


class InvalidArgument(ChildError, ValueError):
    """An argument is impossible, or excludes another one. The text states what is possible.

    Attributes:
        argument: its name.
    """

    def __init__(self, text: str, failure: Failure | None = None, *, argument: str | None = None) -> None:
        super().__init__(text, failure)
        self.argument = argument or (failure.argument if failure else None)


class UnknownField(InvalidArgument):
    """There is no such field. Ask for one that there is.

    Attributes:
        field: what was asked for.
        near: names of fields that there are, and that resemble it or have its values in another form.
    """

    def __init__(self, field: str, near: tuple[str, ...], what: str = "there are no columns of the field") -> None:
        offered = f": near are {', '.join(near)}" if near else ""
        super().__init__(f"{what} {field!r}{offered}", argument="names")
        self.field = field
        self.near = near


class DisplayFilterError(InvalidArgument):
    """A text is no display filter, or asks for a field that there is not. Correct it.

    Attributes:
        filter: the text.
        text: what is wrong.
        span: where: the positions of the first character, and behind the last one; None: that is not known.
        field: the field that there is not; empty: that is not what is wrong.
        near: names of fields that there are, and that resemble it.
    """

    def __init__(
        self, filter_text: str, text: str, span: tuple[int, int] | None, field: str = "", near: tuple[str, ...] = ()
    ) -> None:
        where = f" (at character {span[0] + 1})" if span is not None else ""
        super().__init__(f"display filter: {text}{where}", argument="display_filter")
        self.filter = filter_text
        self.text = text
        self.span = span
        self.field = field
        self.near = near


class NotPermitted(ChildError):
    """This user, or this daemon, may not do that. Ask an administrator."""


class InterfaceError(ChildError):
    """The interface does not exist, is down, or went away."""


class SourceError(ChildError):
    """A stream is damaged or cut. What came before is in the file; look at who writes it."""


class UnsupportedError(ChildError):
    """The interface or the kernel cannot do that."""


class DestinationError(ChildError):
    """The file cannot be created there. Name another."""


class DiskError(ChildError):
    """The file cannot be written any further. What is in it is whole."""


class ResourceError(ChildError):
    """The daemon or the machine has no room for that now. Ask for less, or later."""


class NoSuchCapture(ChildError):
    """There is no such capture, or none that this user may see. Look at the list."""


class NameTaken(ChildError):
    """This user has a capture of that name. Choose another one, or attach to it."""


class PacketRefused(ChildError):
    """A packet was not sent."""


class PacketSizeError(PacketRefused):
    """It is shorter than an Ethernet header, or longer than the interface takes. Send another one."""


class SourceAddressError(PacketRefused):
    """Its source address is not the interface's, and the rule allows no other. Use that, or ask an administrator."""


class RateExceeded(ChildError):
    """More packets a second than the rule allows. Ask for fewer, or an administrator."""


_BY_CODE: dict[FailureCode, type[ChildError]] = {
    FailureCode.INVALID: InvalidArgument,
    FailureCode.BAD_FILTER: BadFilterError,
    FailureCode.NOT_PERMITTED: NotPermitted,
    FailureCode.NO_SUCH_INTERFACE: InterfaceError,
    FailureCode.INTERFACE_DOWN: InterfaceError,
    FailureCode.INTERFACE_LOST: InterfaceError,
    FailureCode.UNSUPPORTED: UnsupportedError,
    FailureCode.SOURCE_DAMAGED: SourceError,
    FailureCode.DESTINATION: DestinationError,
    FailureCode.DISK: DiskError,
    FailureCode.RESOURCES: ResourceError,
    FailureCode.NO_SUCH_CAPTURE: NoSuchCapture,
    FailureCode.NAME_TAKEN: NameTaken,
    FailureCode.TIMEOUT: ResourceError,
    FailureCode.STOPPING: ResourceError,
}


def error_for(failure: Failure) -> ChildError:
    """Return the exception for a failure that the daemon reported."""
    return _BY_CODE.get(failure.code, ChildError)(failure.text, failure)
