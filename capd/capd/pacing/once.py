"""Single flight: what takes a while, and is asked by many at once, is done once."""

from collections.abc import AsyncGenerator, Hashable
from contextlib import asynccontextmanager

import trio


class Once:
    """Locks by what they are for, which exist while somebody has or wants them."""

    def __init__(self) -> None:
        self._locks: dict[Hashable, trio.Lock] = {}

    @asynccontextmanager
    async def alone(self, key: Hashable) -> AsyncGenerator[None, None]:
        """Keep others from the same while the block lasts; whoever comes in looks first whether it is done by then."""
        lock = self._locks.setdefault(key, trio.Lock())
        try:
            async with lock:
                yield
        finally:
            if not lock.locked() and self._locks.get(key) is lock:
                del self._locks[key]
