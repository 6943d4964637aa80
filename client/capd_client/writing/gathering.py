"""Records gathered from where their parts lie: the kernel copies them into memory of ours, many with one call."""

import ctypes
import errno
import mmap
import os
from collections.abc import Generator

import numpy as np

from capd_client.errors import ResourceError
from capd_protocol.batches.records import U64

#: The kernel's limit of vectors in one call (UIO_MAXIOV, linux/uio.h).
_VECTORS_AT_ONCE = 1024
#: struct iovec: address and size.
_VECTOR_BYTES = 16
#: Gathered at once. Chosen: it stays in the processor's cache until it is written.
_ROOM_BYTES = 1024 * 1024

_pwritev = ctypes.CDLL(None, use_errno=True).pwritev
_pwritev.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_int64)
_pwritev.restype = ctypes.c_ssize_t


def write_gathered(descriptor: int, vectors: U64, position: int) -> int:
    """Write what vectors point at to a regular file, from a position on; return how many bytes that is.

    Args:
        descriptor: of the file.
        vectors: rows of address and size in bytes.
        position: in the file.

    Raises:
        OSError: not all of it is there.
    """
    vectors = np.ascontiguousarray(vectors)
    sizes = np.add.reduceat(vectors[:, 1], range(0, len(vectors), _VECTORS_AT_ONCE)).tolist()
    at, address = position, vectors.ctypes.data
    for number, size_bytes in enumerate(sizes):
        start = number * _VECTORS_AT_ONCE
        count = min(_VECTORS_AT_ONCE, len(vectors) - start)
        written = _pwritev(descriptor, address + start * _VECTOR_BYTES, count, at)
        if written != size_bytes:
            reason = ctypes.get_errno() if written < 0 else errno.ENOSPC
            raise OSError(reason, os.strerror(reason))
        at += size_bytes
    return at - position


def gathered(vectors: U64, sizes: U64) -> Generator[bytes, None, None]:
    """Give whole records, some at once; whoever stops early closes it.

    Args:
        vectors: for each record a row of parts, each an address and a size in bytes.
        sizes: of the records.

    Raises:
        ResourceError: there is no memory for them.
    """
    ends = np.cumsum(sizes)
    at, before = 0, 0
    try:
        descriptor = os.memfd_create("capd-gathering", os.MFD_CLOEXEC)
        with os.fdopen(descriptor, "rb"):
            while at < len(sizes):
                count = max(1, int(np.searchsorted(ends, before + _ROOM_BYTES, "right")) - at)
                size_bytes = write_gathered(descriptor, vectors[at : at + count].reshape(-1, 2), 0)
                with mmap.mmap(descriptor, size_bytes, mmap.MAP_SHARED, mmap.PROT_READ) as mapped:
                    data = mapped[:]
                yield data
                at, before = at + count, before + size_bytes
    except OSError as error:
        raise ResourceError(f"there is no memory to gather packets in: {error.strerror}") from error
