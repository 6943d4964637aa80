"""The daemon while it runs: what it consists of, and what signals do."""

import contextlib
import logging
import os
import signal
import socket
from collections.abc import AsyncGenerator, Callable, Sequence
from functools import partial
from pathlib import Path

import msgspec
import trio

from capd import limits
from capd.captures.lasting.configured import Configured
from capd.captures.lasting.detached import Detached
from capd.captures.lasting.fd_store import Kept
from capd.captures.registry import Captures
from capd.clients.server import Server
from capd.config.reader import Config, ConfigError
from capd.errors import RequestRefused
from capd.leases.devices import Devices
from capd.leases.senders import Senders
from capd.metrics.switch import Metrics
from capd.network.monitor import Monitor
from capd.pacing.threads import in_thread
from capd.policy.audit import Audit
from capd.policy.peer import NOBODY, Peer
from capd.policy.people import People, find_group
from capd.service import systemd
from capd.supervisor.closer import Closer
from capd.supervisor.packet_rings import PacketRingMaker
from capd.supervisor.spawner import Spawner

_log = logging.getLogger(__name__)


class Daemon:
    """Serves until a signal, or until its only client leaves."""

    def __init__(
        self,
        load: Callable[[], Config],
        state_directory: Path,
        *,
        netns: str = "",
        strict_workers: bool = False,
    ) -> None:
        """Load the configuration; nothing runs yet.

        Args:
            load: reads the configuration, now and at SIGHUP.
            state_directory: where the files of captures of the configuration go.
            netns: what the network namespace is called, if it was entered for a client.
            strict_workers: end a capture whose process makes a system call that is refused.

        Raises:
            ConfigError: the configuration cannot be used.
        """
        self._load = load
        self._configuration = load()
        self._audit = Audit()
        self._monitor = Monitor(netns)
        self._spawner = Spawner(is_strict=strict_workers)
        self._closer = Closer()
        self._ring_maker = PacketRingMaker()
        self._captures = Captures(self._configuration.policy, self._spawner, self._closer, self._ring_maker)
        self._configured = Configured(self._captures, self._monitor, self._audit, self._closer, state_directory)
        self._detached = Detached(self._captures, self._monitor, self._audit, self._closer)
        self.people = People()
        self._senders = Senders(lambda: self._captures.policy, self._monitor, self._spawner, self._closer, self.people)
        self._devices = Devices(lambda: self._captures.policy, self._spawner, self._closer, self.people)
        self._server = Server(
            self._captures,
            self._detached,
            self._monitor,
            self._audit,
            self._closer,
            people=self.people,
            senders=self._senders,
            devices=self._devices,
        )
        self._metrics = Metrics(
            self._captures, lambda: self._server.clients, lambda: self._senders.sent_total, self._closer
        )

    async def serve(
        self,
        listener: socket.socket,
        of_containers: socket.socket | None = None,
        kept: Sequence[Kept] = (),
        useless: Sequence[int] = (),
    ) -> None:
        """Serve everybody until a signal stops the daemon.

        Args:
            listener: where clients connect.
            of_containers: where those in containers do.
            kept: detached captures that go on.
            useless: descriptors of clients' that are to be closed.
        """
        watchdog_s = systemd.watchdog_interval_s(os.environ, os.getpid())
        async with self._working() as nursery:
            await self._spawner.wait_begun()
            nursery.start_soon(self._ring_maker.run)
            nursery.start_soon(self._closer.run, self._spawner)
            for descriptor in useless:
                self._closer.close(descriptor, NOBODY)
            self._detached.open(nursery)
            await self._detached.restore(await self.identified(kept))
            self._configured.start(self._configuration.captures, nursery)
            self._metrics.switch(self._configuration.metrics, nursery)
            nursery.start_soon(self._server.serve, trio.socket.from_stdlib_socket(listener))
            if of_containers is not None:
                contained = trio.socket.from_stdlib_socket(of_containers)
                nursery.start_soon(partial(self._server.serve, contained, is_contained=True))
                _log.info("listening on %s for clients in containers", of_containers.getsockname())
            nursery.start_soon(self._await_group, nursery)
            nursery.start_soon(systemd.keep_status, self._server.status)
            if watchdog_s is not None:
                nursery.start_soon(systemd.feed_watchdog, watchdog_s)
            systemd.notify("READY=1")
            _log.info("listening on %s", listener.getsockname())

    async def identified(self, kept: Sequence[Kept]) -> list[Kept]:
        """Return captures with the persons behind their owners by now; where that cannot be known, as it was."""
        owners = {each.record.owner: each.record.owner for each in kept}

        async def identify(owner: Peer) -> None:
            with contextlib.suppress(RequestRefused):
                owners[owner] = await self.people.identified(owner)

        async with trio.open_nursery() as nursery:
            for owner in list(owners):
                nursery.start_soon(identify, owner)
        return [
            each._replace(record=msgspec.structs.replace(each.record, owner=owners[each.record.owner])) for each in kept
        ]

    async def serve_one(self, connection: socket.socket) -> None:
        """Serve one client until it leaves. What it has opened is closed when this process ends, which follows."""
        async with self._working() as nursery:
            await self._server.serve_client(trio.socket.from_stdlib_socket(connection))
            nursery.cancel_scope.cancel()

    @contextlib.asynccontextmanager
    async def _working(self) -> AsyncGenerator[trio.Nursery, None]:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._audit.run)
            await nursery.start(self.people.run)
            nursery.start_soon(self._monitor.run)
            nursery.start_soon(self._spawner.run)
            await nursery.start(self._obey_signals, nursery)
            yield nursery

    async def _obey_signals(self, nursery: trio.Nursery, task_status: trio.TaskStatus[None]) -> None:
        """Reload at SIGHUP; at the others end all captures well, then everything."""
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
            task_status.started()
            async for number in signals:
                if number == signal.SIGHUP:
                    with systemd.reloading():
                        self._reload(nursery)
                    continue
                _log.info("%s: stopping", signal.Signals(number).name)
                systemd.notify("STOPPING=1")
                self._captures.stop_all()
                self._senders.stop_all()
                self._devices.stop_all()
                # At the second signal, or when it takes too long, at once.
                with trio.move_on_after(limits.STOP_TIMEOUT_S):
                    async with trio.open_nursery() as ending:
                        ending.start_soon(self._cancel_when_ended, ending.cancel_scope)
                        async for second in signals:
                            if second != signal.SIGHUP:
                                ending.cancel_scope.cancel()
                nursery.cancel_scope.cancel()

    async def _cancel_when_ended(self, scope: trio.CancelScope) -> None:
        await self._captures.wait_all_ended()
        await self._senders.wait_all_ended()
        await self._devices.wait_all_ended()
        scope.cancel()

    async def _await_group(self, nursery: trio.Nursery) -> None:
        """Let the members of the group capture once it is made, where it was not there."""
        while group := self._configuration.awaited_group:
            await trio.sleep(limits.GROUP_LOOK_S)
            try:
                if await in_thread(partial(find_group, group), abandon_on_cancel=True) is not None:
                    self._reload(nursery)
            except Exception as error:  # whatever a module of NSS does, or no thread
                _log.warning("the group %s cannot be looked up now: %s", group, error)

    def _reload(self, nursery: trio.Nursery) -> None:
        """Take over a changed configuration for what is asked from now on; faults are logged, and change nothing."""
        try:
            self._configuration = self._load()
        except ConfigError as error:
            for fault in error.faults:
                _log.error("%s", fault)
            _log.error("the earlier configuration stays in force")
            return
        self._captures.policy = self._configuration.policy
        self._configured.start(self._configuration.captures, nursery)
        self._metrics.switch(self._configuration.metrics, nursery)
        _log.info("the configuration was read again")
