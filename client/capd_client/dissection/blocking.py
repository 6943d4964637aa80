"""Dissections, for programs that block."""

import select
import time
from collections.abc import Sequence
from typing import Final, Generic, Protocol, Self, TypeVar, cast

from capd_client.dissection.dissecting import Dissecting
from capd_client.errors import CaptureError
from capd_protocol.batches.model import FileInterface

#: What a dissection gives.
Item_co = TypeVar("Item_co", covariant=True)
#: How often it is looked whether an engine stands still.
_LOOK_S: Final = 1.0


class Over(Exception):
    """There are no more packets."""


class Supply(Protocol):
    """What packets come from."""

    @property
    def interfaces(self) -> Sequence[FileInterface]:
        """What the interface ids of the last batch mean."""
        ...

    def next_now(self) -> object:
        """Return the batch or marker that is next; None: there is none now.

        Raises:
            Over: there will be no more.
            CaptureError: likewise, and that is why.
        """
        ...

    def fileno(self) -> int:
        """Return a descriptor that is readable when there may be more; below 0: there is more at once."""
        ...

    @property
    def rest_bytes(self) -> int:
        """How much stands behind what was read."""
        ...

    def close(self) -> None:
        """Let go of it."""
        ...


class StandstillWatch:
    """Sees whether an engine does something while somebody waits for it."""

    def __init__(self, dissecting: Dissecting) -> None:
        """Begin to wait."""
        self._dissecting = dissecting
        self._moved_bytes = -1
        self._since_s = 0.0

    def left_s(self) -> float | None:
        """Return how long one may wait until the next look; give the engine up where it stands still for too long."""
        dissecting, now_s = self._dissecting, time.monotonic()
        if dissecting.timeout_s is None:
            return None
        moved_bytes = dissecting.moved_bytes
        if moved_bytes != self._moved_bytes or not dissecting.is_busy:
            self._moved_bytes, self._since_s = moved_bytes, now_s
        left_s = self._since_s + dissecting.timeout_s - now_s
        if left_s <= 0:
            dissecting.give_up()
        return max(0.0, min(left_s, _LOOK_S))


class Dissection(Generic[Item_co]):
    """Frames of what is dissected, in the order of its packets; an iterator, and a context manager that ends it.

    It ends by itself behind the last frame, and where it raises something.
    """

    def __init__(self, dissecting: Dissecting, supply: Supply | None) -> None:
        """Take what dissects, and where packets come from; None: it reads them by itself."""
        self._dissecting = dissecting
        self._supply = supply
        self._error: CaptureError | None = None

    def __repr__(self) -> str:
        """Return whether it goes on."""
        return f"<Dissection{', ended' if self._dissecting.is_over else ''}>"

    @property
    def is_cut(self) -> bool:
        """Whether the last record of a file is not whole; known at its end."""
        return self._dissecting.is_cut or (self._supply is not None and self._supply.rest_bytes > 0)

    def __enter__(self) -> Self:
        """Return it; leaving the block ends the engine."""
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __iter__(self) -> Self:
        """Return it: there is one pass."""
        return self

    def __next__(self) -> Item_co:
        """Return the next frame, or what is between frames.

        Raises:
            DisplayFilterError: the display filter does not compile.
            InvalidArgument: Wireshark refuses a preference, a protocol of ``decode_as``, or a profile.
            EngineFailed: the engine has died, stands still, or gives no answers.
            ReadError: the file is damaged there. As with all these, what came before was given.
            CaptureError: what was read from has failed so.
        """
        try:
            item = self._dissecting.next_item()
            if item is None and not self._dissecting.is_over:
                item = self._waited_for()
        except BaseException:
            self.close()
            raise
        if item is None:
            self.close()
            error, self._error = self._error, None
            if error is not None:
                raise error
            raise StopIteration
        # What it gives is what ``dissect`` has made it for: its overloads state which.
        return cast("Item_co", item)

    def _waited_for(self) -> object:
        dissecting = self._dissecting
        watch = StandstillWatch(dissecting)
        item: object = None
        while item is None and not dissecting.is_over:
            if not (dissecting.wants_input and self._supplied()):
                self._wait(watch)
            item = dissecting.next_item()
        return item

    def _supplied(self) -> bool:
        """Pass on what comes next, or that nothing does; return whether there was something."""
        assert self._supply is not None
        try:
            return self._dissecting.accept(self._supply.next_now(), self._supply.interfaces)
        except Over:
            self._dissecting.finish()
        except CaptureError as error:  # what came before has frames
            self._error = error
            self._dissecting.finish()
        return True

    def _wait(self, watch: StandstillWatch) -> None:
        left_s = watch.left_s()
        if self._dissecting.is_over:
            return
        waiting = select.poll()
        waiting.register(self._dissecting.fileno(), select.POLLIN)
        if self._supply is not None and self._dissecting.wants_input and (supply_fd := self._supply.fileno()) >= 0:
            waiting.register(supply_fd, select.POLLIN)
        waiting.poll(None if left_s is None else left_s * 1000)

    def close(self) -> None:
        """End the engine; frames that were given stay valid."""
        self._dissecting.close()
        if self._supply is not None:
            self._supply.close()
