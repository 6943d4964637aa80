"""What ends a request, or keeps the daemon from starting."""

from capd_protocol.messages import Failure, FailureCode


class RequestRefused(Exception):
    """A request cannot be granted or carried out; ``failure`` is what the client is sent."""

    def __init__(self, code: FailureCode, text: str, *, argument: str | None = None, interface: str | None = None):
        super().__init__(text)
        self.failure = Failure(code=code, text=text, argument=argument, interface=interface)


class StartError(Exception):
    """The daemon cannot start; the text says what to do."""


def no_room(error: OSError) -> RequestRefused:
    """Return what to say when the system gives the daemon no descriptor, no process, no memory."""
    return RequestRefused(FailureCode.RESOURCES, f"capd has no room for that now ({error.strerror}): try again later")


def revoked() -> RequestRefused:
    """Return the refusal of a capture that is revoked before it runs."""
    text = "an administrator has revoked this capture: 'capctl whoami' shows what may be captured now"
    return RequestRefused(FailureCode.NOT_PERMITTED, text)
