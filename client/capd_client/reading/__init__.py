"""Reading capture files, finished or growing: see ``read``.

``model`` has what is read. numpy is imported by the first call, not with the client.
"""

import os
from typing import IO, TYPE_CHECKING, Literal, overload

from capd_client.reading.event_source import EventSource
from capd_client.reading.gap import Gap, Overflow

if TYPE_CHECKING:
    from capd_client.display_filters.filter import AnyDisplayFilter
    from capd_client.reading.live import Stream
    from capd_client.reading.reader import Reader
    from capd_protocol.batches.model import Batch


def read(
    source: "str | os.PathLike[str] | int | IO[bytes] | EventSource",
    *,
    follow: bool = False,
    display_filter: "AnyDisplayFilter | None" = None,
) -> "Reader":
    """Read the packets of a capture file, or of a capture that runs.

    pcapng and pcap, in both byte orders and with timestamps of any resolution, as they are, or compressed with gzip,
    zstd, xz, bzip2 or lz4. A record that is not whole yet is not given.

    Example:
        with read("dns.pcapng") as packets:
            for packet in packets:
                print(packet.timestamp_ns, packet.interface, len(packet.data))

    Args:
        source: a path; a descriptor or binary file, which may be closed afterwards; or a running session, whose events
            the reader takes: it follows the capture from file to file until it ends. A regular file is read from its
            beginning. A pipe, a socket or a device is read from where it is, as it comes: each packet is given as soon
            as it is whole, until those who write have closed it.
        follow: wait for more at the end of a file, until it is deleted or replaced. A session is always followed, and a
            pipe has no more behind its end.
        display_filter: only packets that pass are given; in Wireshark's language, see ``DisplayFilter``.

    Returns:
        An iterator of ``Packet``, and a context manager that closes the file; see ``Reader``.

    Raises:
        DisplayFilterError: the display filter is none.
        ReadError: the file cannot be opened, or is a directory. While reading: it is no capture file, or damaged,
            was cut, or, followed, was deleted; or a session's files were missed.
        CaptureError: while reading from a session: the capture failed, or the daemon went away.
    """
    from capd_client.reading.reader import FileReader, SessionReader  # noqa: PLC0415  # numpy

    if isinstance(source, EventSource):
        return SessionReader(source, display_filter)
    return FileReader(source, follow, display_filter=display_filter)


#: How far the reader of a live stream may be behind. Chosen: some tenths of a second at 1 Gbit/s.
DEFAULT_BEHIND_BYTES = 64 * 1024 * 1024


@overload
def stream(
    session: EventSource,
    *,
    overflow: Overflow = "drop_oldest",
    max_behind_bytes: int = DEFAULT_BEHIND_BYTES,
    as_bytes: Literal[False] = False,
    display_filter: "AnyDisplayFilter | None" = None,
) -> "Stream[Batch | Gap]": ...
@overload
def stream(
    session: EventSource,
    *,
    overflow: Overflow = "drop_oldest",
    max_behind_bytes: int = DEFAULT_BEHIND_BYTES,
    as_bytes: Literal[True],
    display_filter: None = None,
) -> "Stream[memoryview | Gap]": ...
@overload
def stream(
    session: EventSource,
    *,
    overflow: Overflow = "drop_oldest",
    max_behind_bytes: int = DEFAULT_BEHIND_BYTES,
    as_bytes: bool,
    display_filter: "AnyDisplayFilter | None" = None,
) -> "Stream[Batch | memoryview | Gap]": ...
def stream(
    session: EventSource,
    *,
    overflow: Overflow = "drop_oldest",
    max_behind_bytes: int = DEFAULT_BEHIND_BYTES,
    as_bytes: bool = False,
    display_filter: "AnyDisplayFilter | None" = None,
) -> "Stream[Batch | memoryview | Gap]":
    """Give the packets of a capture that runs as they come, about an ``update_interval`` behind.

    They come from the capture's files, which both sides have in memory: nothing is sent, and a reader that is slow
    costs neither the capture nor others anything. Each file is opened when it is announced, and read also when its ring
    has deleted it; with ``pass_files=True`` none is missed for that, as long as the stream is read.

    Example:
        ring: CaptureArguments = {"savefile": "live.pcapng", "ringbuffer_filesize": 10_000, "ringbuffer_files": 3}
        with CaptureSession(interfaces="eth0", pass_files=True, **ring) as capture, stream(capture) as packets:
            for item in packets:
                if isinstance(item, Gap):
                    print(f"{item.packets} packets missed: {item.reason}")
                else:
                    print(len(item.timestamps_ns), "packets")

    Args:
        session: whose events the stream takes. Of one that is attached to a capture, from the beginning of its
            current file.
        overflow: what happens where the reader is further behind than it may be: ``drop_oldest`` leaves out what is
            oldest, and reports how much; ``disconnect`` raises ``StreamOverrun``; ``wait`` lets the files wait, as long
            as they are there.
        max_behind_bytes: how far it may be, in bytes of the files.
        as_bytes: give pcapng (or pcap) bytes instead of batches, whole records at a time and each file from its
            beginning; only whole files are left out then.
        display_filter: only packets that pass are given; in Wireshark's language, see ``DisplayFilter``. Batches
            without any are left out.

    Raises:
        DisplayFilterError: the display filter is none.
        InvalidArgument: a display filter of a stream of bytes.

    Returns:
        An iterator of ``Batch`` (with ``as_bytes``, of ``memoryview``) and of ``Gap``, with the number of packets that
        are in the capture and are not given; see ``Stream``.
    """
    from capd_client.reading.live import LiveFiles, Stream  # noqa: PLC0415  # numpy

    files = LiveFiles(session.open_file, max_behind_bytes=max_behind_bytes, overflow=overflow, as_bytes=as_bytes)
    return Stream(session, files, display_filter)
