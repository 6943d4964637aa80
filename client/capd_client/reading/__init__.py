"""Reading capture files, finished or growing: see ``read``.

``model`` has what is read. numpy is imported by the first call, not with the client.
"""

import os
from typing import TYPE_CHECKING, BinaryIO

from capd_client.session import CaptureSession

if TYPE_CHECKING:
    from capd_client.reading.reader import Reader


def read(source: "str | os.PathLike[str] | int | BinaryIO | CaptureSession", *, follow: bool = False) -> "Reader":
    """Read the packets of a capture file, or of a capture that runs.

    pcapng and pcap, in both byte orders and with timestamps of any resolution. A record that is not whole yet is not
    given.

    Example:
        with read("dns.pcapng") as packets:
            for packet in packets:
                print(packet.timestamp_ns, packet.interface, len(packet.data))

    Args:
        source: a path; a regular file's descriptor or binary file, of which the beginning is read and which may be
            closed afterwards; or a running session, whose events the reader takes: it follows the capture from file
            to file until it ends.
        follow: wait for more at the end of a file, until it is deleted or replaced. A session is always followed.

    Returns:
        An iterator of ``model.Packet``, and a context manager that closes the file; see ``reader.Reader``.

    Raises:
        ReadError: the file cannot be opened. While reading: it is damaged, was cut, or, followed, was deleted; or a
            session's files were missed.
        CaptureError: while reading from a session: the capture failed, or the daemon went away.
    """
    from capd_client.reading.reader import FileReader, SessionReader  # noqa: PLC0415  # numpy

    return SessionReader(source) if isinstance(source, CaptureSession) else FileReader(source, follow)
