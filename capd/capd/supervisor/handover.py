"""Handover of the directory for a capture's files: from the client to the worker, past this daemon.

The client sends the directory's descriptor on one end of a socket pair; the worker has the other end before the client
has its own, and takes what comes when it has become the user. Nothing of it is ever received here.

A directory that is needed again, by a worker that goes on with a ring, lies unread in a socket: an envelope. Workers
look into it (MSG_PEEK) and leave what is there.
"""

import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol, Self

from capd.errors import no_room
from capd.launch import DirectoryComes
from capd.linux.descriptors import may_hold_rights, refuse_rights, rights
from capd.supervisor.closer import Closer

#: Of the kernel's memory for files that a client has not taken. Chosen: about a dozen. Each keeps its place on the
#: disk until then, also when its ring has deleted it.
_WAITING_FILES_BYTES = 6000


def channel(*, takes_directory: bool = True, passes_files: bool = False) -> tuple[socket.socket, socket.socket]:
    """Return the worker's and the client's end of a socket pair on which they pass descriptors to each other.

    Args:
        takes_directory: whether the client passes some.
        passes_files: whether the worker does.

    Raises:
        RequestRefused: the system has no room for it.
    """
    try:
        of_worker, of_client = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    except OSError as error:
        raise no_room(error) from error
    of_worker.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _WAITING_FILES_BYTES)
    if not takes_directory:
        refuse_rights(of_worker)
    if not passes_files:
        refuse_rights(of_client)
    return of_worker, of_client


def close_elsewhere(unread: socket.socket, closer: Closer, person_id: int) -> None:
    """Close a socket in which others may have put descriptors; here, where the kernel has let none in."""
    if may_hold_rights(unread):
        closer.close(unread.detach(), person_id)
    else:
        unread.close()


class Envelope:
    """A directory in the queue of a socket that nobody reads here."""

    def __init__(self, unread: socket.socket) -> None:
        """Take over a socket."""
        self._unread = unread

    @classmethod
    def of(cls, directory_fd: int) -> Self:
        """Return a directory of the daemon's own in an envelope; the descriptor stays the caller's.

        Raises:
            OSError: the system has no room for it.
        """
        unread, written = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with written:
            written.sendmsg([b"d"], rights([directory_fd]))
        return cls(unread)

    def fileno(self) -> int:
        """Return the socket's descriptor."""
        return self._unread.fileno()

    def detach(self) -> int:
        """Return the socket's descriptor, which is the caller's from now on."""
        return self._unread.detach()

    def close(self, closer: Closer, person_id: int) -> None:
        """Have it closed; the directory may be the last thing that keeps a file system there."""
        try:
            # Without room for descriptors nothing is received. Whoever could put something there has ended by now.
            _, _, flags, _ = self._unread.recvmsg(1, 0, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except OSError:  # nothing is there, and nothing will come
            flags = 0
        if flags & socket.MSG_CTRUNC:
            closer.close(self.detach(), person_id)
        else:
            self._unread.close()


class Handover(Protocol):
    """Where the worker of a capture gets the directory from."""

    @property
    def comes(self) -> DirectoryComes:
        """What the worker is sent about it."""
        ...

    @property
    def descriptors(self) -> Sequence[int]:
        """What goes along to the worker."""
        ...

    @property
    def envelope(self) -> Envelope:
        """Where the directory lies when the worker has it."""
        ...

    async def sent(self) -> None:
        """Do what comes next, when the worker has these."""
        ...


class FromEnvelope:
    """A handover of what was kept."""

    comes = DirectoryComes.KEPT

    def __init__(self, envelope: Envelope) -> None:
        """Of an envelope, which stays the caller's."""
        self.envelope = envelope
        self.descriptors = (envelope.fileno(),)

    async def sent(self) -> None:
        """Nothing more is needed."""


class FromClient:
    """A handover by a client, who is asked for the directory when the worker can be given it."""

    comes = DirectoryComes.PASSED

    def __init__(
        self,
        ask: Callable[[int], Awaitable[object]],
        closer: Closer,
        person_id: int,
        *,
        passes_files: bool = False,
    ) -> None:
        """Make the socket pairs: one for the directory, and one for the envelope into which the worker puts it, too.

        Args:
            ask: sends a descriptor to the client, of the socket on which it passes the directory.
            closer: closes what others may have put something in.
            person_id: who the client is (Peer.person_id).
            passes_files: the worker passes its files on the same socket.

        Raises:
            RequestRefused: the system has no room for them.
        """
        self._ask = ask
        self._closer = closer
        self._person_id = person_id
        of_worker, self._of_client = channel(passes_files=passes_files)
        self._to_worker = [of_worker]
        self._envelope: Envelope | None = None
        try:
            unread, written = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        except OSError as error:
            self.close()
            raise no_room(error) from error
        self._envelope = Envelope(unread)
        self._to_worker.append(written)

    @property
    def descriptors(self) -> Sequence[int]:
        """What goes along to the worker."""
        return [each.fileno() for each in self._to_worker]

    async def sent(self) -> None:
        """Ask the client. The worker's ends are closed here first: so none holds what a client has sent."""
        self._close_workers_ends()
        await self._ask(self._of_client.fileno())
        self._close_clients_end()

    @property
    def envelope(self) -> Envelope:
        """Where the worker puts the directory, too."""
        if self._envelope is None:
            raise AssertionError("it was taken")
        return self._envelope

    def take_envelope(self) -> Envelope:
        """Return the envelope, which is the caller's from now on."""
        envelope = self.envelope
        self._envelope = None
        return envelope

    def _close_workers_ends(self) -> None:
        for each in self._to_worker:
            each.close()

    def _close_clients_end(self) -> None:
        if self._of_client.fileno() >= 0:
            close_elsewhere(self._of_client, self._closer, self._person_id)

    def close(self) -> None:
        """Close what was not handed over."""
        self._close_workers_ends()
        self._close_clients_end()
        if self._envelope is not None:
            self._envelope.close(self._closer, self._person_id)
