"""malloc tuning (mallopt(3)): memory that is freed is kept."""

from capd.linux import libc

# malloc.h
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
#: More than the arrays of one block take together: 9,000 packets of 100 bytes each.
_KEPT_BYTES = 8 * 1024 * 1024


def keep_freed_memory() -> None:
    """Have malloc keep what is freed, up to 8 MiB, instead of giving it back to the system.

    Each block's arrays are freed with it. By glibc's defaults those of 128 KiB and more were mapped anew for each
    block, and the kernel's clearing of their pages took a quarter of the worker's time at 64 B.
    """
    if libc.has("mallopt"):  # another C library has its own ways
        libc.call("mallopt", _M_MMAP_THRESHOLD, _KEPT_BYTES)
        libc.call("mallopt", _M_TRIM_THRESHOLD, _KEPT_BYTES)
