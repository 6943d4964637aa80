"""What the daemon holds, and whether that is, after an attack, what it was before."""

import contextlib
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from capd_client import CaptureError, InterfaceWatcher, list_captures, stop_capture
from tests.support.daemon import Daemon, children_of, is_closer, status_of
from tests.support.tools import busy_descriptors_of, descriptors_of

_LOOK_S = 0.1
#: Of what is shown of many.
_SHOWN = 5


@dataclass(frozen=True)
class Footprint:
    """What daemon and spawner have.

    Attributes:
        descriptors: how many the daemon has, but for the ring that it keeps ahead.
        open_on: what they are open on.
        threads: of the daemon.
        closers: processes that close what clients have opened.
        workers: of captures, and those that answer questions.
        resident_kb: memory of the daemon.
        spawner: its process.
        spawner_descriptors: of that process.
        spawner_threads: of that process.
        spawner_resident_kb: memory of that process.
    """

    descriptors: int
    open_on: frozenset[str]
    threads: int
    closers: int
    workers: int
    resident_kb: int
    spawner: int
    spawner_descriptors: int
    spawner_threads: int
    spawner_resident_kb: int

    @property
    def figures(self) -> dict[str, int]:
        """For programs."""
        return {name: value for name, value in vars(self).items() if isinstance(value, int)}


def footprint_of(daemon: Daemon) -> Footprint:
    """Return what a daemon that runs has now."""
    process_id, spawner = daemon.process.pid, daemon.spawner()
    own, spawners = status_of(process_id), status_of(spawner)
    descriptors = busy_descriptors_of(process_id)
    return Footprint(
        descriptors=len(descriptors),
        open_on=frozenset(descriptors),
        threads=int(own["Threads"]),
        closers=sum(map(is_closer, children_of(process_id))),
        workers=len(daemon.workers()),
        resident_kb=_kb(own["VmRSS"]),
        spawner=spawner,
        spawner_descriptors=len(descriptors_of(spawner)),
        spawner_threads=int(spawners["Threads"]),
        spawner_resident_kb=_kb(spawners["VmRSS"]),
    )


def _kb(text: str) -> int:
    return int(text.removesuffix(" kB"))


#: While a daemon has nothing to do, the fewest descriptors that it is seen with in this time are what it has.
_BASE_S = 0.5


def base_of(daemon: Daemon, own: Collection[int], timeout_s: float, meanwhile: Callable[[], None]) -> Footprint:
    """Return what the daemon has while nobody asks anything; with the arguments of ``settled``."""
    with InterfaceWatcher(socket_path=daemon.socket_path):
        pass  # from the first one on, the daemon itself keeps watching
    found, _ = settled(daemon, own, None, timeout_s, meanwhile)
    end_s = time.monotonic() + _BASE_S
    while time.monotonic() < end_s:
        meanwhile()
        now = footprint_of(daemon)
        found = now if now.descriptors < found.descriptors else found
        time.sleep(_LOOK_S)
    return found


def settled(
    daemon: Daemon,
    own: Collection[int],
    base: Footprint | None,
    timeout_s: float,
    meanwhile: Callable[[], None],
) -> tuple[Footprint, str]:
    """Have all captures but one's own end, and wait until nothing is left of others.

    Args:
        daemon: that was attacked.
        own: numbers of the captures that stay; each has a worker.
        base: what it had before, but for memory; None: whatever it has when others' processes are gone.
        timeout_s: how long to wait.
        meanwhile: called again and again.

    Returns:
        What it has then, and what is left of others: nothing, or a line for people.
    """
    deadline_s = time.monotonic() + timeout_s
    seen: set[int] = set()
    others: set[int] | None = None
    while True:
        meanwhile()
        if others is None or others:  # each question has the daemon do something, too
            others = {each.capture_id for each in list_captures(socket_path=daemon.socket_path)}.difference(own)
            for each in others - seen:
                seen.add(each)
                with contextlib.suppress(CaptureError):  # it has ended meanwhile
                    stop_capture(each, socket_path=daemon.socket_path)
        now = footprint_of(daemon)
        left = _left(now, len(own), base)
        if others:
            left.append(f"{len(others)} captures")
        if not left or time.monotonic() > deadline_s:
            return now, ", ".join(left)
        time.sleep(_LOOK_S)


def _left(now: Footprint, workers: int, base: Footprint | None) -> list[str]:
    """Return what is there beside so many workers, and beside what was there before."""
    counts = {"workers": now.workers - workers, "processes that close": now.closers}
    if base is not None:
        # Of threads only the first one stays when there is nothing to do.
        counts["threads"] = now.threads - 1
        new = ", ".join(sorted(now.open_on - base.open_on)[:_SHOWN])
        counts[f"descriptors ({new})"] = now.descriptors - base.descriptors
        counts["descriptors of the spawner"] = now.spawner_descriptors - base.spawner_descriptors
        counts["threads of the spawner"] = now.spawner_threads - base.spawner_threads
    return [f"{count} {what}" for what, count in counts.items() if count > 0]


def foreign_files(directory: Path, user_id: int) -> list[str]:
    """Return the files of others below somebody's directory."""
    return [str(path) for path in sorted(directory.rglob("*")) if path.lstat().st_uid != user_id]
