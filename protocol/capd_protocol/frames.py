"""Bytes to frames and back: one indicator byte, a 3-byte big-endian length, the payload.

The framing is that of dumpcap's sync pipe (Wireshark, ``capture/capture_sync.c`` and ``sync_pipe.h``), so that a
program that reads dumpcap's messages can read ours and skip the indicators it does not know.
"""

from typing import NamedTuple

from capd_protocol.errors import LocalProtocolError, RemoteProtocolError

HEADER_SIZE_BYTES = 4
#: The limit of newer dumpcap parents (``SP_MAX_MSG_LEN``): a longer payload is a protocol error to them too.
MAX_EVENT_SIZE_BYTES = 512_000
#: What a client may send in one frame. Chosen: a request with 64 interfaces and the longest filters fits.
MAX_REQUEST_SIZE_BYTES = 256 * 1024


class Frame(NamedTuple):
    """One message as it travels: who it is for decides what ``payload`` means."""

    indicator: int
    payload: bytes


def encode_frame(indicator: int, payload: bytes) -> bytes:
    """Return the bytes of one frame.

    Raises:
        LocalProtocolError: the payload is larger than a frame may be.
    """
    if len(payload) > MAX_EVENT_SIZE_BYTES:
        raise LocalProtocolError(f"a message of {len(payload)} bytes is over the limit of {MAX_EVENT_SIZE_BYTES}")
    return bytes((indicator,)) + len(payload).to_bytes(3, "big") + payload


class FrameDecoder:
    """Collects bytes, gives frames.

    Holds at most one incomplete frame beside what was last fed: never more than ``max_size_bytes``
    and its header, since a longer one is refused as soon as its header is seen.
    """

    def __init__(self, max_size_bytes: int = MAX_EVENT_SIZE_BYTES) -> None:
        self._max_size_bytes = max_size_bytes
        self._buffer = bytearray()

    def feed(self, data: bytes) -> None:
        """Take bytes as they came, in pieces of any size."""
        self._buffer += data

    def next_frame(self) -> Frame | None:
        """Return the next whole frame, or None until more bytes are fed.

        Raises:
            RemoteProtocolError: the frame announces more than ``max_size_bytes``. It is raised again at each
                further call: there is no way to find the next frame.
        """
        if len(self._buffer) < HEADER_SIZE_BYTES:
            return None
        size_bytes = int.from_bytes(self._buffer[1:HEADER_SIZE_BYTES], "big")
        if size_bytes > self._max_size_bytes:
            raise RemoteProtocolError(f"a frame announces {size_bytes} bytes, over the limit of {self._max_size_bytes}")
        end = HEADER_SIZE_BYTES + size_bytes
        if len(self._buffer) < end:
            return None
        frame = Frame(self._buffer[0], bytes(self._buffer[HEADER_SIZE_BYTES:end]))
        del self._buffer[:end]
        return frame

    def check_end(self) -> None:
        """Say that no more bytes will come.

        Raises:
            RemoteProtocolError: the bytes ended inside a frame.
        """
        if self._buffer:
            raise RemoteProtocolError(f"the connection ended inside a frame, after {len(self._buffer)} of its bytes")
