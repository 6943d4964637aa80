"""Why something was not done: what both replies and events carry."""

import enum

from capd_protocol.messages.base import JsonMessage


class FailureCode(enum.StrEnum):
    """Named by what the one who asked can do about it."""

    INVALID = "invalid"  #: ask for something else
    BAD_FILTER = "bad_filter"  #: correct the filter
    NOT_PERMITTED = "not_permitted"  #: ask an administrator
    NO_SUCH_INTERFACE = "no_such_interface"  #: name another, or wait for it
    INTERFACE_DOWN = "interface_down"  #: bring it up
    INTERFACE_LOST = "interface_lost"  #: it went away while capturing
    UNSUPPORTED = "unsupported"  #: this interface or kernel cannot do it
    DESTINATION = "destination"  #: name another file or directory
    DISK = "disk"  #: make room; what was written is whole
    RESOURCES = "resources"  #: ask for less, or later
    NO_SUCH_CAPTURE = "no_such_capture"  #: look at the list
    NAME_TAKEN = "name_taken"  #: choose another name, or attach to the capture that has it
    TIMEOUT = "timeout"  #: the capture did not answer: ask again
    PROTOCOL = "protocol"  #: the request was not understood: a bug, or two versions
    SOURCE_DAMAGED = "source_damaged"  #: what a stream brings is broken or cut: look at who writes it
    WORKER_DIED = "worker_died"  #: see the daemon's log; files up to the last event are readable
    STOPPING = "stopping"  #: the daemon is on its way down: connect again later


class Failure(JsonMessage, frozen=True):
    """Why something was not done: one sentence for people, the rest for programs.

    Attributes:
        code: what can be done about it.
        text: one sentence for people.
        argument: the argument or file name that it is about; None where it is about none.
        interface: the interface that it is about; None where it is about none.
        interface_index: its place among those asked for, from 0; with ``BAD_FILTER``.
        position: characters before the place where the filter goes wrong, where that could be found; with
            ``BAD_FILTER``.
    """

    code: FailureCode
    text: str
    argument: str | None = None
    interface: str | None = None
    interface_index: int | None = None
    position: int | None = None
