"""The daemon's side of the process that forks workers (``capd.worker``), and of the workers that it forks."""

import contextlib
import errno
import logging
import os
import signal
import socket
import subprocess

import trio

from capd import limits
from capd.launch import HELLO, Job
from capd.linux.descriptors import refuse_rights, rights
from capd.linux.privileges import adopt_orphans
from capd.pacing.threads import no_thread_as_oserror
from capd.service.processes import command, environment

_log = logging.getLogger(__name__)

#: How often a process is looked at where there is no pidfd_open(2) to wait with: it came with Linux 5.3.
_LOOK_S = 0.02


class WorkerProcess:
    """A worker: our child, though another process has forked it."""

    def __init__(self, process_id: int) -> None:
        self.pid = process_id
        #: As subprocess has it: negative for a signal; None while it runs.
        self.returncode: int | None = None
        self._waiting = trio.Lock()
        try:
            self._pidfd: int | None = os.pidfd_open(process_id)
        except OSError:  # an older kernel, a sandbox, or no descriptor is left
            self._pidfd = None

    async def wait(self) -> None:
        """Wait until it has ended."""
        async with self._waiting:
            if self.returncode is not None:
                return
            if self._pidfd is not None:
                await trio.lowlevel.wait_readable(self._pidfd)
                os.close(self._pidfd)
            while not self._is_to_be_reaped():  # noqa: ASYNC110  # nothing reports it
                await trio.sleep(_LOOK_S)
            self.returncode = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])  # noqa: ASYNC222  # nor this

    def has_ended(self) -> bool:
        """Whether it has ended, waited for or not."""
        return self.returncode is not None or self._is_to_be_reaped()

    def _is_to_be_reaped(self) -> bool:
        try:
            return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
        except ChildProcessError:
            return False  # it has ended before the process in between has: it becomes ours when that one ends

    def kill(self) -> None:
        """Kill it.

        Raises:
            PermissionError: it has become another user's.
        """
        if self.returncode is None:
            os.kill(self.pid, signal.SIGKILL)  # not waited for yet: its number is still its own


class _Spare:
    """A worker that waits for a capture, and our end of its control socket."""

    def __init__(self, process: WorkerProcess, control: trio.socket.SocketType) -> None:
        self.process = process
        self.control = control
        self.was_taken = trio.Event()


class Spawner:
    """Has workers forked; ``run`` keeps the process that does it, and what it forks becomes ours.

    Forking takes a third of a start's time, so the next capture's worker is forked before anybody asks for one.
    """

    def __init__(self, *, is_strict: bool = False) -> None:
        """Nothing runs yet.

        Args:
            is_strict: whether a worker ends at a system call that is refused.
        """
        self._options = ["strict"] if is_strict else []
        self._requests: trio.socket.SocketType | None = None
        self._process: trio.Process | None = None
        self._nursery: trio.Nursery | None = None
        self._spares: list[_Spare] = []
        self._is_ready = trio.Event()
        self._has_begun = trio.Event()

    async def wait_begun(self) -> None:
        """Wait until the first process is ready, or has failed."""
        await self._has_begun.wait()

    async def run(self) -> None:
        """Keep the process running until cancelled; then it has ended.

        One that ends is started anew after ``limits.SPAWNER_PAUSE_S``; workers that it has forked go on.
        """
        adopt_orphans()
        async with trio.open_nursery() as self._nursery:
            for _ in range(limits.SPARE_WORKERS):
                self._nursery.start_soon(self._keep_spare)
            while True:
                try:
                    await self._run_once()
                except OSError as error:
                    _log.error("the process that starts captures cannot be started: %s", error)
                self._has_begun.set()
                await trio.sleep(limits.SPAWNER_PAUSE_S)

    async def _run_once(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with trio.socket.from_stdlib_socket(ours) as requests:
            with theirs, no_thread_as_oserror():
                process = await trio.lowlevel.open_process(
                    command("capd.worker", theirs.fileno(), *self._options),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    pass_fds=[theirs.fileno()],
                    env=environment(),
                    # A Ctrl-C at our terminal is ours to handle: workers shall end well.
                    start_new_session=True,
                )
            is_ready = False
            try:
                with trio.move_on_after(limits.START_TIMEOUT_S):
                    is_ready = bool(await requests.recv(1))
                if is_ready:
                    self._requests, self._process = requests, process
                    self._is_ready.set()
                    self._has_begun.set()
                    await process.wait()
            finally:
                if is_ready:
                    self._is_ready = trio.Event()  # the old one is what others wait for, if it has never been set
                requests.close()  # which ends it, if it has not ended
                with trio.CancelScope(shield=True):
                    await _end(process)
        _log.error("the process that starts captures has ended (status %s): another one is started", process.returncode)

    async def _keep_spare(self) -> None:
        """Keep a worker forked that waits for a capture, until cancelled; then it has ended."""
        while True:
            # Where there cannot be one, the next capture asks for its own, and is refused in words.
            with contextlib.suppress(OSError):
                spare = _Spare(*await self._fork_worker())
                self._spares.append(spare)
                try:
                    await _wait_taken_or_ended(spare)
                finally:
                    if not spare.was_taken.is_set():
                        self._spares.remove(spare)
                        spare.control.close()
                        spare.process.kill()  # nothing is lost with it
                        with trio.CancelScope(shield=True):
                            await spare.process.wait()
            await trio.sleep(limits.SPARE_PAUSE_S)

    async def spawn_worker(self) -> tuple[WorkerProcess, trio.socket.SocketType]:
        """Return a worker, and our end of its control socket (SOCK_STREAM), which takes no descriptors from it.

        Raises:
            OSError: there cannot be one now.
        """
        spare = next((each for each in self._spares if not each.process.has_ended()), None)
        if spare is None:
            return await self._fork_worker()
        self._spares.remove(spare)
        spare.was_taken.set()
        return spare.process, spare.control

    async def _fork_worker(self) -> tuple[WorkerProcess, trio.socket.SocketType]:
        ours, theirs = socket.socketpair()
        refuse_rights(ours)
        return await self._spawn(Job.CAPTURE, ours, theirs)

    async def spawn_closer(self) -> tuple[WorkerProcess, trio.socket.SocketType]:
        """Return a process that closes descriptors, and our end of the socket (SOCK_SEQPACKET) to pass them on.

        Raises:
            OSError: there cannot be one now.
        """
        return await self._spawn(Job.CLOSING, *socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET))

    async def spawn_server(self) -> tuple[WorkerProcess, trio.socket.SocketType]:
        """Return a process that passes files, and our end of its control socket (SOCK_SEQPACKET).

        Raises:
            OSError: there cannot be one now.
        """
        return await self._spawn_helper(Job.SERVING)

    async def spawn_sender(self) -> tuple[WorkerProcess, trio.socket.SocketType]:
        """Return a process that sends packets, and our end of its control socket (SOCK_SEQPACKET).

        Raises:
            OSError: there cannot be one now.
        """
        return await self._spawn_helper(Job.SENDING)

    async def spawn_device(self) -> tuple[WorkerProcess, trio.socket.SocketType]:
        """Return a process that becomes a capture module's, and our end of its control socket (SOCK_SEQPACKET).

        Raises:
            OSError: there cannot be one now.
        """
        return await self._spawn_helper(Job.DEVICE)

    async def _spawn_helper(self, job: Job) -> tuple[WorkerProcess, trio.socket.SocketType]:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        refuse_rights(ours)
        return await self._spawn(job, ours, theirs)

    async def _spawn(
        self, job: Job, ours: socket.socket, theirs: socket.socket
    ) -> tuple[WorkerProcess, trio.socket.SocketType]:
        control = trio.socket.from_stdlib_socket(ours)
        with theirs:
            try:
                with trio.move_on_after(limits.START_TIMEOUT_S):
                    await self._is_ready.wait()
                    return WorkerProcess(await self._ask(job, control, theirs)), control
            except BaseException:
                control.close()
                raise
        control.close()
        raise TimeoutError(errno.ETIMEDOUT, "the process that starts captures does not begin")

    async def _ask(self, job: Job, control: trio.socket.SocketType, theirs: socket.socket) -> int:
        """Return a new process's id, by its own word."""
        requests, process = self._requests, self._process
        if requests is None or process is None or self._nursery is None:
            raise AssertionError("it is ready")
        hello = b""
        # Once asked for, a worker is waited for, so that none is without an owner. It takes milliseconds.
        with trio.CancelScope(shield=True), trio.move_on_after(limits.FORK_TIMEOUT_S) as timeout:
            try:
                await requests.sendmsg([job], rights([theirs.fileno()]))
            except trio.ClosedResourceError as error:  # it has ended meanwhile
                raise ConnectionError(errno.ECONNRESET, "the process that starts captures has ended") from error
            theirs.close()
            hello = await control.recv(HELLO.size)
        if timeout.cancelled_caught:
            process.kill()  # another one is started
            self._nursery.start_soon(_see_off, trio.socket.socket(fileno=control.detach()))
        if not hello:
            raise ConnectionError(errno.ECONNRESET, "the process that starts captures does not answer")
        (number,) = HELLO.unpack(hello)
        if number < 0:
            raise OSError(-number, os.strerror(-number))
        return int(number)


async def _wait_taken_or_ended(spare: _Spare) -> None:
    async with trio.open_nursery() as nursery:

        async def wait_ended() -> None:
            await spare.process.wait()
            nursery.cancel_scope.cancel()

        nursery.start_soon(wait_ended)
        await spare.was_taken.wait()
        nursery.cancel_scope.cancel()


async def _see_off(control: trio.socket.SocketType) -> None:
    """Wait for the end of a worker that comes too late, if it ever comes: it finds its socket closed."""
    with control:
        hello = await control.recv(HELLO.size)
    number = HELLO.unpack(hello)[0] if hello else 0
    if number > 0:
        await WorkerProcess(number).wait()


async def _end(process: trio.Process) -> None:
    """Wait for the process, and for those of its group, which are ours now: no worker that somebody knows is there."""
    with trio.move_on_after(limits.END_TIMEOUT_S) as timeout:
        await process.wait()
    if timeout.cancelled_caught:
        process.kill()
        await process.wait()
    with trio.move_on_after(limits.END_TIMEOUT_S):
        while True:
            try:
                os.waitid(os.P_PGID, process.pid, os.WEXITED | os.WNOHANG)  # noqa: ASYNC222  # it does not block
            except ChildProcessError:
                return
            await trio.sleep(_LOOK_S)
