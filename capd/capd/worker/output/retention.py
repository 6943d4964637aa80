"""Retention: which files a ring may keep. Pure: files, limits, time and free bytes in, decisions out.

Only complete files are ever deleted, the oldest first, and no more of them than a limit demands. Where a limit leaves
no room and none is left to delete, nothing more may be written, or only in place of the current one.
"""

from dataclasses import dataclass

from capd_protocol.messages import Conditions, DeletionReason

_KB = 1000
_NS = 1_000_000_000
#: With a limit of free space: how much may be written until the disk is looked at again. Chosen: others write there
#: too, and a look takes a few microseconds.
LOOK_BYTES = 4 * 1024 * 1024
#: What our own files take beside their bytes: the rest of their last block, and the file system's own blocks about
#: them. Chosen: several times what ext4 takes.
OVERHEAD_BLOCKS = 16


@dataclass(frozen=True)
class Limits:
    """What the files of a ring, or a single file, may be; None: no limit.

    Attributes:
        files: how many.
        total_bytes: in all of them.
        age_ns: of a complete one.
        free_bytes: what stays free on the file system.
        policy_bytes: in all of them, and in those that earlier captures left under these names.
    """

    files: int | None = None
    total_bytes: int | None = None
    age_ns: int | None = None
    free_bytes: int | None = None
    policy_bytes: int | None = None


def limits_of(ring: Conditions | None, max_disk_bytes: int | None) -> Limits:
    """Return the limits of a ring, or of a single file, which only policy limits."""
    ring = ring or Conditions()
    return Limits(
        files=ring.files,
        total_bytes=None if ring.total_kb is None else ring.total_kb * _KB,
        age_ns=None if ring.age_s is None else round(ring.age_s * _NS),
        free_bytes=None if ring.free_kb is None else ring.free_kb * _KB,
        policy_bytes=max_disk_bytes,
    )


@dataclass(frozen=True)
class Usage:
    """What there is now.

    Attributes:
        files: of the ring, the open one among them.
        bytes: in them, with what is set aside for their ends.
        left_bytes: in files that earlier captures left, which only policy counts.
        free_bytes: on the file system, less what is set aside; None where nobody has looked, for lack of a limit.
    """

    files: int
    bytes: int
    left_bytes: int = 0
    free_bytes: int | None = None


def reason_to_delete(
    usage: Usage, limits: Limits, *, oldest_age_ns: int | None, more_bytes: int = 0, more_files: int = 0
) -> DeletionReason | None:
    """Say why the oldest complete file must go before so much more may be written; None: it need not.

    Args:
        usage: what there is now.
        limits: what there may be.
        oldest_age_ns: of the oldest complete file; None: there is none, and what is returned stands in the way.
        more_bytes: to be written.
        more_files: to be opened.
    """
    if limits.age_ns is not None and oldest_age_ns is not None and oldest_age_ns >= limits.age_ns:
        return DeletionReason.AGE
    if limits.files is not None and usage.files + more_files > limits.files:
        return DeletionReason.FILES
    return next((reason for reason, room_bytes in _rooms(usage, limits) if room_bytes < more_bytes), None)


def room(usage: Usage, limits: Limits) -> int | None:
    """Return how many bytes may be written before the next look at all this; None: as many as there are."""
    rooms = [room_bytes for _, room_bytes in _rooms(usage, limits)]
    if limits.free_bytes is not None:
        rooms.append(LOOK_BYTES)
    return min(rooms, default=None)


def _rooms(usage: Usage, limits: Limits) -> list[tuple[DeletionReason, int]]:
    """Return what each limit of bytes leaves to be written."""
    rooms: list[tuple[DeletionReason, int]] = []
    if limits.total_bytes is not None:
        rooms.append((DeletionReason.TOTAL, limits.total_bytes - usage.bytes))
    if limits.policy_bytes is not None:
        rooms.append((DeletionReason.POLICY, limits.policy_bytes - usage.bytes - usage.left_bytes))
    if limits.free_bytes is not None and usage.free_bytes is not None:
        rooms.append((DeletionReason.FREE_SPACE, usage.free_bytes - limits.free_bytes))
    return rooms
