"""A daemon whose rules let one user send, and what comes out at the other end of a pair of interfaces."""

import contextlib
import select
import socket
import subprocess
from collections.abc import Generator, Iterable

from capd.linux.packet_socket import ETH_P_ALL
from tests.support.attack import User
from tests.support.tools import ip_json

SENDER = User(23_711, 23_711)
OTHER = User(23_712, 23_712)
#: What rules allow beside the interface's own.
MAC = "02:00:00:00:07:11"
#: asm-generic/socket.h; Python has no name for it.
_SO_RCVBUFFORCE = 33
#: More than tests send.
_BUFFER_BYTES = 64 * 1024 * 1024

RULES = f"""
contact = "netops"

[[rule]]
name = "slow"
users = [{SENDER.user_id}]
interfaces = ["slow*"]
send = true
max_send_pps = 1000

[[rule]]
name = "send"
users = [{SENDER.user_id}]
send = true
send_interfaces = ["tx*"]
send_source_macs = ["{MAC}"]

[[rule]]
name = "capture"
users = [{SENDER.user_id}, {OTHER.user_id}]
"""


def ip(*arguments: str) -> None:
    """Do what ``ip`` does."""
    subprocess.run(["ip", *arguments], check=True, timeout=10)


def mac_of(interface: str) -> bytes:
    """Return an interface's own address."""
    return bytes.fromhex(ip_json("link", "show", "dev", interface)[0]["address"].replace(":", ""))


def frame(source: bytes, number: int = 0, size: int = 64) -> bytes:
    """Return a frame of an EtherType for experiments (IEEE 802)."""
    return (b"\xff" * 6 + source + b"\x88\xb5" + number.to_bytes(8, "big")).ljust(size, b"x")[:size]


class Outside:
    """The other end: what comes there."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener

    def take(self, count: int) -> list[bytes]:
        """Return the next frames, of which there must be so many."""
        return [self._listener.recv(70_000) for _ in range(count)]

    def is_quiet(self) -> bool:
        """Whether nothing has come beside what was taken."""
        return not select.select([self._listener], [], [], 0)[0]


@contextlib.contextmanager
def outside_of(interface: str) -> Generator[Outside, None, None]:
    """Have the frames that come to an interface."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as listener:
        listener.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER_BYTES)
        listener.settimeout(10)
        listener.bind((interface, ETH_P_ALL))
        yield Outside(listener)


def seen_in(frames: Iterable[bytes]) -> list[int]:
    """Return the numbers of frames."""
    return [int.from_bytes(each[14:22], "big") for each in frames]
