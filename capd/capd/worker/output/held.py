"""Deleted files that others still have open: they take their room until they are closed, or cut.

A reader may keep a ring's files open, and a ring that has to keep room free on the disk would delete one after another
without gaining any. So such files are remembered, and cut where room is needed: emptied, which frees it. That is hard
on their readers, and harder on those that have mapped them: what is cut off cannot be touched any more (SIGBUS). So it
is the youngest that are cut, which a reader that follows the ring has not come to.
"""

import contextlib
import fcntl
import os

from capd.worker.output.savefile import KeptFile

#: Beyond, a file that is deleted is cut at once. Chosen: what the client library opens ahead of its reading.
_MOST = 64


class HeldFiles:
    """Those of one ring, oldest first. They have no name any more, so nobody can open them anew."""

    def __init__(self) -> None:
        self._descriptors: list[int] = []

    def delete(self, file: KeptFile) -> bool:
        """Delete a file; say whether its room is free, or will be as soon as the file system has come to it.

        It is cut even where nobody has it open: who is about to open it, by a descriptor that only names it (O_PATH),
        or about to close it, would keep its room, and no lease tells of them.

        Raises:
            DestinationError: it cannot be deleted.
        """
        descriptor = file.open_for_writing()
        try:
            file.remove()
        except BaseException:
            if descriptor is not None:
                os.close(descriptor)
            raise
        if descriptor is None:
            return True
        if os.fstat(descriptor).st_nlink:  # it has another name, and takes its room whatever we do
            os.close(descriptor)
            return False
        try:
            is_open = is_held(descriptor)
        except OSError:  # a file system without leases: it cannot be known
            is_open = False
        if not is_open:
            _cut(descriptor)
            return True
        self._descriptors.append(descriptor)
        if len(self._descriptors) > _MOST:
            _cut(self._descriptors.pop())
        return False

    def free(self, *, but: int) -> int:
        """Free the room of what has been closed meanwhile, or else of the youngest one; return how many bytes it has.

        Args:
            but: so many may go on taking theirs.
        """
        held = [each for each in self._descriptors if is_held(each)]
        closed = [each for each in self._descriptors if each not in held]
        if not closed and len(held) > but:
            closed.append(held.pop())
        self._descriptors = held
        size_bytes = sum(os.fstat(each).st_size for each in closed)
        for descriptor in closed:
            _cut(descriptor)  # at once, where a file system would free it behind our back
        return size_bytes

    def close(self) -> None:
        """Let go of all: nobody needs their room any more."""
        while self._descriptors:
            os.close(self._descriptors.pop())


def is_held(descriptor: int) -> bool:
    """Whether somebody else has a file open too.

    Raises:
        OSError: it cannot be known.
    """
    try:
        # Granted to the only one who has it open, mapped or linked (fcntl(2)); it ends with the descriptor.
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_WRLCK)
    except BlockingIOError:
        return True
    return False


def _cut(descriptor: int) -> None:
    """Empty a file that is ours alone but for its readers, and let go of it."""
    with contextlib.suppress(OSError):  # then it takes its room until they close it
        os.ftruncate(descriptor, 0)
    os.close(descriptor)
