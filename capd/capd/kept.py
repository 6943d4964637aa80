"""What a service manager keeps for us of detached captures, so that they go on after a restart.

Its descriptor store (https://systemd.io/FILE_DESCRIPTOR_STORE/) has two for each, by one name: the directory of the
files, and a sealed file in memory that tells the rest. It gives them to the next daemon, also after a crash, and drops
them when the service is stopped.
"""

import fcntl
import logging
import os
import stat
from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple

import msgspec

from capd import systemd
from capd.peer import Peer
from capd.systemd import Inherited
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
    """A capture that goes on, and the descriptor of its directory, which is to be closed."""

    record: Record
    directory_fd: int


_decoder = msgspec.json.Decoder(Record)


def keep(record: Record, directory_fd: int) -> None:
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
        systemd.store(f"{_PREFIX}{record.capture_id}", [memory, directory_fd])
    finally:
        os.close(memory)


def forget(record: Record) -> None:
    """Have a capture kept no longer."""
    systemd.remove_stored(f"{_PREFIX}{record.capture_id}")


def separate(inherited: Iterable[Inherited]) -> tuple[list[Kept], list[Inherited]]:
    """Return the captures that were kept, oldest first, and what else was passed."""
    of_captures: defaultdict[str, list[int]] = defaultdict(list)
    others: list[Inherited] = []
    for each in inherited:
        if each.name.startswith(_PREFIX):
            os.set_inheritable(each.descriptor, False)
            of_captures[each.name].append(each.descriptor)
        else:
            others.append(each)
    kept: list[Kept] = []
    for name, descriptors in of_captures.items():
        try:
            kept.append(_restored(descriptors))
        except (OSError, ValueError) as error:
            _log.error("what was kept as %s is of no use, and the capture does not go on: %s", name, error)
            systemd.remove_stored(name)
    return sorted(kept, key=lambda each: each.record.started_ns), others


def _restored(descriptors: list[int]) -> Kept:
    """Return what two descriptors stand for; others are closed."""
    directories = [each for each in descriptors if stat.S_ISDIR(os.fstat(each).st_mode)]
    memories = [each for each in descriptors if each not in directories]
    try:
        if (len(directories), len(memories)) != (1, 1):
            raise ValueError(f"{len(directories)} directories and {len(memories)} files")
        if fcntl.fcntl(memories[0], fcntl.F_GET_SEALS) & _SEALS != _SEALS:
            raise ValueError("it is not sealed")
        record = _decoder.decode(os.pread(memories[0], os.fstat(memories[0]).st_size, 0))
    except (OSError, ValueError):
        for descriptor in directories:
            os.close(descriptor)
        raise
    finally:
        for descriptor in memories:
            os.close(descriptor)
    return Kept(record, directories[0])
