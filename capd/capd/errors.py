"""What ends a request, or keeps the daemon from starting."""

import errno

from capd_protocol.messages import Failure, FailureCode


class RequestRefused(Exception):
    """A request cannot be granted or carried out; ``failure`` is what the client is sent."""

    def __init__(self, code: FailureCode, text: str, *, argument: str | None = None, interface: str | None = None):
        super().__init__(text)
        self.failure = Failure(code=code, text=text, argument=argument, interface=interface)


class StartError(Exception):
    """The daemon cannot start; the text says what to do."""


#: Where no descriptor is left: which limit it is.
_LIMITS_OF_DESCRIPTORS = {
    errno.EMFILE: "capd has as many descriptors as it may (RLIMIT_NOFILE): end captures, or raise its LimitNOFILE=",
    # Sent, and not received yet, by all processes of a user (unix(7)).
    errno.ETOOMANYREFS: "as many descriptors are on their way as may be (RLIMIT_NOFILE): try again later",
    errno.ENFILE: "the system has as many open files as it may (fs.file-max): close some, or raise that limit",
}


def is_out_of_descriptors(error: OSError) -> bool:
    """Whether an error is that a limit of descriptors is reached."""
    return error.errno in _LIMITS_OF_DESCRIPTORS


def no_room(error: OSError) -> RequestRefused:
    """Return what to say when the system gives the daemon, or a worker, no descriptor, no process, no memory."""
    text = _LIMITS_OF_DESCRIPTORS.get(
        error.errno or 0, f"capd has no room for that now ({error.strerror}): try again later"
    )
    return RequestRefused(FailureCode.RESOURCES, text)


def revoked() -> RequestRefused:
    """Return the refusal of a capture that is revoked before it runs."""
    text = "an administrator has revoked this capture: 'capctl whoami' shows what may be captured now"
    return RequestRefused(FailureCode.NOT_PERMITTED, text)
