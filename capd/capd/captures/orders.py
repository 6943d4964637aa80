"""Orders to a capture's worker: rotate, flush, snapshot; numbered, answered, timed out."""

import itertools
from collections.abc import Awaitable, Callable

import trio

from capd import limits
from capd.captures.account import Account
from capd.errors import RequestRefused
from capd.launch import Answer, Flush, NumberedOrder, Rotate, Snapshot
from capd_protocol.arguments import find_snapshot_faults
from capd_protocol.messages import FailureCode


class _Order:
    """An order that a worker has not answered yet."""

    def __init__(self) -> None:
        self.is_decided = trio.Event()
        self.answer: Answer | None = None
        #: The current one, when the answer came.
        self.file_name = ""


class Orders:
    """Those of one capture."""

    def __init__(self, account: Account, send: Callable[[NumberedOrder], Awaitable[None]]) -> None:
        """None is given yet.

        Args:
            account: of the capture.
            send: gives an order to the worker of a capture that runs.
        """
        self._account = account
        self._send = send
        self._pending: dict[int, _Order] = {}
        self._numbers = itertools.count(1)

    async def rotate(self) -> str:
        """Have the ring go on in its next file; return the file's name when it has its header.

        Raises:
            RequestRefused: there is no next file, or it was not opened, or not in time.
        """
        if self._account.request.recorder is not None:
            text = f"{self._which} is a recorder, which has no file to switch: take a snapshot"
            raise RequestRefused(FailureCode.INVALID, text, argument="capture")
        if self._account.request.ring is None:
            text = f"{self._which} has a single file, and no next one: only a ring is rotated"
            raise RequestRefused(FailureCode.INVALID, text, argument="capture")
        return await self._carried_out(lambda number: Rotate(number=number), limits.ORDER_TIMEOUT_S)

    async def flush(self) -> None:
        """Have every packet that the kernel has now written and announced.

        Raises:
            RequestRefused: they were not, or not in time.
        """
        await self._carried_out(lambda number: Flush(number=number), limits.ORDER_TIMEOUT_S)

    async def snapshot(self, after_s: float | None) -> str:
        """Have the recorder write what it has, and what comes within so many seconds; return the complete file's name.

        Raises:
            RequestRefused: it has none, or the time is impossible, or a snapshot is being written already, or this one
                was not completed, or not in time.
        """
        recorder = self._account.request.recorder
        if recorder is None:
            text = f"{self._which} is no recorder: its packets are in its files"
            raise RequestRefused(FailureCode.INVALID, text, argument="capture")
        for fault in find_snapshot_faults(after_s):
            raise RequestRefused(FailureCode.INVALID, fault.text, argument=fault.argument)
        window_s = recorder.after_s if after_s is None else after_s
        return await self._carried_out(
            lambda number: Snapshot(number=number, after_s=window_s), window_s + limits.SNAPSHOT_TIMEOUT_S
        )

    async def _carried_out(self, make: Callable[[int], NumberedOrder], timeout_s: float) -> str:
        """Give an order; return the name of the file that it was about, when it is carried out."""
        self._account.check_runs()
        number, order = next(self._numbers), _Order()
        self._pending[number] = order
        try:
            with trio.move_on_after(timeout_s) as timeout:
                await self._send(make(number))
                await order.is_decided.wait()
        finally:
            del self._pending[number]
        if timeout.cancelled_caught:
            raise RequestRefused(
                FailureCode.TIMEOUT, f"{self._which} has not answered within {timeout_s:g} s: ask again"
            )
        if order.answer is None:
            raise RequestRefused(FailureCode.NO_SUCH_CAPTURE, f"{self._which} has ended meanwhile")
        if order.answer.failure is not None:
            failure = order.answer.failure
            raise RequestRefused(failure.code, failure.text, argument=failure.argument)
        return order.file_name

    @property
    def _which(self) -> str:
        return f"the capture {self._account.capture_id}"

    def take_answer(self, answer: Answer) -> None:
        """Take what the worker answers to an order."""
        order = self._pending.get(answer.number)
        if order is not None:  # who asked may have lost patience
            order.answer, order.file_name = answer, answer.file_name or self._account.file_name
            order.is_decided.set()

    def end(self) -> None:
        """Take note that the worker is gone: it answers no more."""
        for order in self._pending.values():
            order.is_decided.set()
