"""The greeting that every connection begins with."""

from functools import cache

from capd_protocol.messages import PROTOCOL_VERSION, Hello, encode


@cache
def software_version() -> str:
    """Return our version. It is looked up once: that takes longer than all else that a client does."""
    from importlib.metadata import version  # noqa: PLC0415  # takes 10 ms, which who only reads files need not wait

    return version("capd")


def greeting() -> bytes:
    """Return our greeting."""
    return encode(Hello(protocol_version=PROTOCOL_VERSION, software=f"capd_client {software_version()}"))
