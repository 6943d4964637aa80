"""What every connection begins with."""

from functools import cache
from importlib.metadata import version

from capd_protocol.messages import PROTOCOL_VERSION, Hello, encode


@cache
def greeting() -> bytes:
    """Return our greeting. The version is looked up once: it takes longer than all else that a client does."""
    return encode(Hello(protocol_version=PROTOCOL_VERSION, software=f"capd_client {version('capd')}"))
