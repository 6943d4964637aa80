"""Closing of descriptors that others have opened, in a process that may be killed.

Whoever opened a descriptor decides how long closing it takes. So one that may be the last reference is passed to a
process that does nothing else (``capd.worker.helpers.closing``), and the daemon does not wait for it. A closing process
that takes too long is killed: all that it holds is closed with it, and nothing lingers for a process that ends
(inet_release() in net/ipv4/af_inet.c).
"""

import contextlib
import logging
import os
from collections import Counter, deque
from typing import NamedTuple

import trio

from capd import limits
from capd.launch import CLOSE, HOLD
from capd.linux.descriptors import rights
from capd.supervisor.spawner import Spawner, WorkerProcess

_log = logging.getLogger(__name__)

#: In one message; the kernel takes up to 253 (SCM_MAX_FD, net/scm.h).
_AT_ONCE = 250


class _Held(NamedTuple):
    descriptor: int
    person_id: int


class Closer:
    """Takes over descriptors; ``run`` has them closed."""

    def __init__(self) -> None:
        self._waiting: deque[_Held] = deque()
        self._news = trio.Event()
        self._unclosed: Counter[int] = Counter()

    def close(self, descriptor: int, person_id: int) -> None:
        """Have a descriptor closed; never waits.

        Args:
            descriptor: not to be used any more.
            person_id: who has opened what it stands for (Peer.person_id).
        """
        self._waiting.append(_Held(descriptor, person_id))
        self._unclosed[person_id] += 1
        self._news.set()

    def unclosed(self, person_id: int) -> int:
        """Return how many descriptors of a person are not closed yet."""
        return self._unclosed[person_id]

    def _note_closed(self, batch: list[_Held]) -> None:
        for each in batch:
            self._unclosed[each.person_id] -= 1
            if not self._unclosed[each.person_id]:
                del self._unclosed[each.person_id]

    async def run(self, spawner: Spawner) -> None:
        """Have everything closed, until cancelled; what is left then is closed when this process ends.

        Where no process can be had, it waits until there can be one.
        """
        async with trio.open_nursery() as nursery:
            while True:
                await self._wait_for_more()
                try:
                    process, channel = await spawner.spawn_closer()
                except OSError as error:
                    _log.warning("what clients have opened cannot be closed now: %s", error.strerror)
                    await trio.sleep(limits.SPAWNER_PAUSE_S)
                    continue
                passed: deque[list[_Held]] = deque()
                try:
                    with channel:
                        await self._pass_on(channel, passed)
                finally:
                    process.kill()
                    if passed:
                        # Cancelled or not: until it has ended, they are not closed.
                        nursery.start_soon(self._see_off, process, passed)
                    else:
                        with trio.CancelScope(shield=True), trio.move_on_after(limits.CLOSING_S):
                            await process.wait()

    async def _wait_for_more(self) -> None:
        while not self._waiting:
            self._news = trio.Event()
            await self._news.wait()

    async def _pass_on(self, channel: trio.socket.SocketType, passed: deque[list[_Held]]) -> None:
        """Pass on what comes, until nothing has come for a while, or the process does not get ahead.

        What it has not reported closed is in ``passed`` then.
        """
        while True:
            is_idle = not self._waiting and not passed
            with trio.move_on_after(limits.CLOSER_IDLE_S if is_idle else limits.CLOSING_S) as patience:
                if is_idle:
                    await self._wait_for_more()
                elif self._waiting:
                    if not await self._pass_some(channel, passed):
                        return
                elif await _is_confirmed(channel):
                    self._note_closed(passed.popleft())
                else:
                    return
            if patience.cancelled_caught:
                return

    async def _pass_some(self, channel: trio.socket.SocketType, passed: deque[list[_Held]]) -> bool:
        batch = [self._waiting.popleft() for _ in range(min(len(self._waiting), _AT_ONCE))]
        try:
            await channel.sendmsg([HOLD], rights([each.descriptor for each in batch]))
        except BaseException as error:
            self._waiting.extendleft(reversed(batch))
            if not isinstance(error, OSError):
                raise
            return False  # it has ended, or too many descriptors are under way
        # It has them, and holds them until it is ordered to close them, so none of these is the last reference.
        for each in batch:
            os.close(each.descriptor)
        passed.append(batch)
        with contextlib.suppress(OSError):
            await channel.send(CLOSE)
            return True
        return False

    async def _see_off(self, process: WorkerProcess, passed: deque[list[_Held]]) -> None:
        with trio.CancelScope(shield=True), trio.move_on_after(limits.CLOSING_S):
            await process.wait()
        if process.returncode is None:  # it waits for a file system, in the kernel
            await process.wait()
        for batch in passed:
            self._note_closed(batch)


async def _is_confirmed(channel: trio.socket.SocketType) -> bool:
    with contextlib.suppress(OSError):
        return bool(await channel.recv(1))
    return False
