"""Opening of capture files: each by what it is, mapped, compressed, or a pipe."""

import errno
import os
import stat
from collections.abc import Callable
from typing import BinaryIO

from capd_client.reading.files.buffered import Compressed, Pipe
from capd_client.reading.files.file import GONE, File
from capd_client.reading.files.foreign import Foreign
from capd_protocol.batches.recognition import MAGIC_BYTES, is_foreign
from capd_protocol.formats.compression import compression_of


def file_of(descriptor: int, name: str) -> File:
    """Return a file that reads what a descriptor has, which it takes over."""
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        return Pipe(descriptor, name)
    begin = os.pread(descriptor, MAGIC_BYTES, 0)
    compression = compression_of(begin)
    if compression is not None:
        return Compressed(descriptor, name, compression)
    return Foreign(descriptor, name) if is_foreign(begin) else File(descriptor, name)


def open_passed(open_file: Callable[[str], BinaryIO], path: str) -> File:
    """Open a file of a session.

    Raises:
        OSError: it cannot be opened.
    """
    with open_file(path) as opened:
        if not os.fstat(opened.fileno()).st_size:  # when it was announced, there was a header in it
            raise FileNotFoundError(errno.ENOENT, f"it was {GONE}", path)
        return file_of(os.dup(opened.fileno()), path)
