"""One worker process: its start, its messages, its end.

A worker ends by itself when it is told to, and when its control socket closes, which is also what happens when
this daemon is killed. One that does neither in time is killed. When ``run`` returns, the process is gone.
"""

import contextlib
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Callable

import trio

from capd import limits
from capd.packet_socket import open_packet_socket
from capd.worker.launch import (
    Answer,
    Attach,
    Detach,
    Flush,
    Launch,
    LaunchInterface,
    Rotate,
    decode_answer,
    encode_attach,
    encode_detach,
    encode_launch,
    encode_order,
)
from capd_protocol.errors import RemoteProtocolError
from capd_protocol.frames import FrameDecoder
from capd_protocol.messages import Message, StopCapture, decode, encode

_log = logging.getLogger(__name__)

_RECEIVE_BYTES = 65536
#: What a worker sees of our environment: where Python finds what it imports, and nothing else.
_ENVIRONMENT = ("PATH", "PYTHONPATH", "PYTHONHOME", "LANG", "LC_ALL", "TZ")


def command(module: str, *arguments: object) -> list[str]:
    """Return the command line that runs one of our modules; nothing is imported from the working directory.

    Where the daemon is isolated (``-I``) from its user's packages and Python's variables, so is what it starts.
    """
    return [sys.executable, "-I" if sys.flags.isolated else "-P", "-m", module, *map(str, arguments)]


def environment() -> dict[str, str]:
    """Return what a process that we start sees of our environment."""
    return {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}


class Worker:
    """A worker, from ``run`` to its return."""

    def __init__(self, launch: Launch) -> None:
        self._launch = launch
        self._control: trio.SocketStream | None = None
        self._process: trio.Process | None = None
        self._is_launched = trio.Event()
        self._sending = trio.Lock()

    async def run(self, on_message: Callable[[Message | Answer], None]) -> int | None:
        """Start the process, give its messages as they come, and return its exit status; None if it cannot be killed.

        After cancellation the process has ended: well, if it could within ``limits.END_TIMEOUT_S``.

        Raises:
            OSError: it could not be started.
        """
        ours, theirs = socket.socketpair()
        self._control = trio.SocketStream(trio.socket.from_stdlib_socket(ours))
        async with self._control:
            with theirs:
                process = await trio.lowlevel.open_process(
                    command("capd.worker", theirs.fileno()),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    pass_fds=[theirs.fileno(), *self._launch.descriptors],
                    env=environment(),
                    # A Ctrl-C at our terminal is ours to handle: the worker shall end well.
                    start_new_session=True,
                )
            self._process = process
            try:
                try:
                    await self._control.send_all(encode_launch(self._launch))
                    self._is_launched.set()
                    await self._receive(self._control, on_message)
                except trio.BrokenResourceError:
                    pass  # it ended without reading; its exit status tells
            finally:
                with trio.CancelScope(shield=True):
                    await self._end(process)
        return process.returncode

    async def attach(self, interface: LaunchInterface) -> None:
        """Give the worker an interface more, with the inert socket that it can no longer open itself.

        Raises:
            OSError: the socket cannot be opened.
        """
        if self._control is None:
            return
        with open_packet_socket(cooked=interface.is_cooked) as packet_socket:
            frame = memoryview(encode_attach(Attach(interface=interface)))
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, packet_socket.fileno().to_bytes(4, sys.byteorder))]
            # Where the socket is closed the capture has ended already.
            async with self._sending:
                with contextlib.suppress(
                    BrokenPipeError, ConnectionResetError, trio.BrokenResourceError, trio.ClosedResourceError
                ):
                    sent = await self._control.socket.sendmsg([frame], rights)
                    await self._control.send_all(frame[sent:])

    async def detach(self, index: int) -> None:
        """Have the worker give up an interface."""
        await self._tell(encode_detach(Detach(index=index)))

    async def order(self, order: Rotate | Flush) -> None:
        """Have the worker do what it answers with an ``Answer``."""
        await self._tell(encode_order(order))

    async def stop(self) -> None:
        """Tell the worker to end the capture well. Its last messages come as the others did."""
        await self._is_launched.wait()
        await self._tell(encode(StopCapture()))

    async def _tell(self, frame: bytes) -> None:
        if self._control is not None:
            # Where the socket is closed it has ended already.
            async with self._sending:
                with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                    await self._control.send_all(frame)

    async def _receive(self, control: trio.SocketStream, on_message: Callable[[Message | Answer], None]) -> None:
        decoder = FrameDecoder()
        while data := await control.receive_some(_RECEIVE_BYTES):
            decoder.feed(data)
            try:
                while (frame := decoder.next_frame()) is not None:
                    on_message(decode_answer(frame) or decode(frame))
            except RemoteProtocolError as error:
                # It runs with a user's rights: whatever it says, it can only end its own capture.
                _log.error("worker of user %d breaks the protocol: %s", self._launch.user_id, error)
                return

    async def _end(self, process: trio.Process) -> None:
        if self._control is not None:
            await self._control.aclose()
        with trio.move_on_after(limits.END_TIMEOUT_S):
            await process.wait()
        if process.returncode is None:
            await self.kill()
            with trio.move_on_after(limits.END_TIMEOUT_S):
                await process.wait()
        if process.returncode is None:
            _log.critical("worker %d cannot be killed: it waits for a disk or a driver", process.pid)

    async def kill(self) -> None:
        """Kill the worker, which did not end when it was told to. What it was told last may be missing in its file."""
        process = self._process
        if process is None or process.returncode is not None:
            return
        _log.error("worker %d did not end in time and is killed", process.pid)
        try:
            process.kill()
        except PermissionError:
            # It has another user's id and we have no CAP_KILL.
            arguments = process.pid, self._launch.user_id
            await trio.run_process(command("capd.kill", *arguments), env=environment(), check=False)
