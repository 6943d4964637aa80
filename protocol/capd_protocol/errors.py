"""Errors of the protocol itself: bytes or messages that break its rules."""


class ProtocolError(Exception):
    """Base of both; never raised itself."""


class LocalProtocolError(ProtocolError):
    """We were asked to send what the protocol does not allow. A bug on this side, or too long a value."""


class RemoteProtocolError(ProtocolError):
    """The other side sent what the protocol does not allow. Close the connection: nothing after it can be trusted."""
