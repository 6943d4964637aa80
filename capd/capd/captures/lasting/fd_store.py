"""Detached captures in systemd's file-descriptor store, over restarts.

The store (https://systemd.io/FILE_DESCRIPTOR_STORE/) has two descriptors for each capture, under one name: a socket in
which the directory of the files lies unread, and a sealed file in memory with all the rest. systemd passes them to the
next daemon, also after a crash, and drops them when the service is stopped. So neither systemd nor the daemon ever
waits for a client's file system, which may not answer.
"""

import fcntl
import logging
import os
import socket
from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple

import msgspec

from capd.policy.peer import Peer
from capd.service import systemd
from capd.service.systemd import Inherited
from capd.supervisor.handover import Envelope
from capd_protocol.messages import StartCapture

_log = logging.getLogger(__name__)

_PREFIX = "capture-"
#: Only we have written it, and nobody has since.
_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """All that the next daemon must know of a capture."""

    capture_id: int
    #: Since when it runs.
    started_ns: int
    #: With the groups that it had when it asked.
    owner: Peer
    #: As it was asked for: what policy makes of it is decided anew.
    request: StartCapture
    #: Names of those that it was granted under.
    rules: tuple[str, ...]


class Kept(NamedTuple):
    """A capture that goes on, and its directory, which is to be closed."""

    record: Record
    envelope: Envelope


class Separated(NamedTuple):
    """What was passed, sorted."""

    #: Oldest first.
    kept: list[Kept]
    #: Names and descriptors that are no captures'.
    others: list[Inherited]
    #: Descriptors that are to be closed, by a ``Closer``.
    useless: list[int]


_decoder = msgspec.json.Decoder(Record)


def keep(record: Record, envelope: Envelope) -> None:
    """Have a capture kept; without a service manager, nothing.

    Raises:
        OSError: the manager does not take it.
    """
    if not systemd.has_manager():
        return
    memory = os.memfd_create("capd-capture", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.write(memory, msgspec.json.encode(record))
        fcntl.fcntl(memory, fcntl.F_ADD_SEALS, _SEALS)
        systemd.store(f"{_PREFIX}{record.capture_id}", [memory, envelope.fileno()])
    finally:
        os.close(memory)


def forget(record: Record) -> None:
    """Have a capture kept no longer."""
    systemd.remove_stored(f"{_PREFIX}{record.capture_id}")


def separate(inherited: Iterable[Inherited]) -> Separated:
    """Return the captures that were kept, and what else was passed."""
    of_captures: defaultdict[str, list[int]] = defaultdict(list)
    found = Separated([], [], [])
    for each in inherited:
        if each.name.startswith(_PREFIX):
            os.set_inheritable(each.descriptor, False)
            of_captures[each.name].append(each.descriptor)
        else:
            found.others.append(each)
    for name, descriptors in of_captures.items():
        memories = [each for each in descriptors if _is_sealed(each)]
        envelopes = [each for each in descriptors if each not in memories]
        try:
            found.kept.append(_restored(memories, envelopes))
        except (OSError, ValueError) as error:
            _log.error("what was kept as %s is of no use, and the capture does not go on: %s", name, error)
            found.useless.extend(envelopes)
            systemd.remove_stored(name)
        for descriptor in memories:
            os.close(descriptor)
    found.kept.sort(key=lambda each: each.record.started_ns)
    return found


def _is_sealed(descriptor: int) -> bool:
    """Whether a descriptor is a sealed file in memory: asked so that no other file system is."""
    try:
        return fcntl.fcntl(descriptor, fcntl.F_GET_SEALS) & _SEALS == _SEALS
    except OSError:
        return False  # EINVAL, EBADF: it is something else


def _restored(memories: list[int], envelopes: list[int]) -> Kept:
    if (len(memories), len(envelopes)) != (1, 1):
        raise ValueError(f"{len(memories)} sealed files and {len(envelopes)} others")
    record = _decoder.decode(os.pread(memories[0], os.fstat(memories[0]).st_size, 0))
    unread = socket.socket(fileno=envelopes[0])
    if (unread.family, unread.type) != (socket.AF_UNIX, socket.SOCK_SEQPACKET):
        unread.detach()
        raise ValueError("the directory is in no socket")
    return Kept(record, Envelope(unread))
