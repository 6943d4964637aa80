"""The greeting that every connection begins with."""

from capd_protocol.messages import PROTOCOL_VERSION, Hello, encode
from capd_protocol.version import VERSION


def greeting() -> bytes:
    """Return our greeting."""
    return encode(Hello(protocol_version=PROTOCOL_VERSION, software=f"capd_client {VERSION}"))
