"""One device of a capture module that is open for a client: its process, its end."""

import trio

from capd import limits
from capd.errors import RequestRefused, no_room
from capd.leases.leases import OnReady
from capd.policy.peer import Peer
from capd.policy.rules import DeviceGrant
from capd.supervisor.closer import Closer
from capd.supervisor.device import DeviceProcess
from capd.supervisor.spawner import Spawner
from capd_protocol.messages import DeviceEnded, DeviceOpened, Failure, FailureCode, RevokedDevice


class Device:
    """It is granted, and open or ended."""

    def __init__(self, owner: Peer, grant: DeviceGrant, *, spawner: Spawner, closer: Closer) -> None:
        """Nothing runs yet.

        Args:
            owner: for whom it is opened.
            grant: under which rule, and what is captured.
            spawner: gives the process.
            closer: closes what others may have put something in.
        """
        self.owner = owner
        self.grant = grant
        self._spawner = spawner
        self._closer = closer
        self._process = DeviceProcess(owner, grant.request)
        self._is_open = False
        self._stopping = trio.Event()
        self._failure: Failure | None = None

    @property
    def name(self) -> str:
        """What the device is called."""
        return self.grant.request.name

    @property
    def end(self) -> DeviceEnded:
        """What the client is sent when it has ended."""
        return DeviceEnded(failure=self._failure)

    def revoked(self, why: str) -> RevokedDevice:
        """Return its line where it is taken from its owner."""
        owner = self.owner
        return RevokedDevice(user_id=owner.user_id, device=self.name, why=why, is_contained=owner.is_contained)

    def grant_record(self) -> dict[str, object]:
        """Return what goes on record of the grant."""
        return {"device": self.name, "filter": self.grant.request.capture_filter, "rule": self.grant.rule.name}

    def end_record(self) -> dict[str, object]:
        """Return what goes on record of the end."""
        facts: dict[str, object] = {"device": self.name, "rule": self.grant.rule.name}
        if self._failure is not None:
            facts |= {"code": self._failure.code, "reason": self._failure.text}
        return facts

    async def run(self, on_ready: OnReady) -> RequestRefused | None:
        """Capture until somebody or something ends it; return why it did not begin, if it did not.

        Args:
            on_ready: is given the descriptor of the pipe with the packets.
        """

        async def ready(descriptor: int) -> None:
            self._is_open = True
            await on_ready(DeviceOpened(rule=self.grant.rule.name), descriptor)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._end_when_stopped)
            nursery.start_soon(self._end_when_late)
            try:
                await self._process.run(self._spawner, self._closer, ready)
            except RequestRefused as refused:
                self._fail(refused.failure)
            except OSError as error:
                self._fail(no_room(error).failure)
            nursery.cancel_scope.cancel()
        self._fail(self._process.failure)
        if not self._stopping.is_set() and (self._process.status or not self._is_open):
            text = f"the process that had {self.name} open ended without a word (status {self._process.status})"
            self._fail(Failure(code=FailureCode.WORKER_DIED, text=text, interface=self.name))
        if self._is_open or self._failure is None:
            return None
        failure = self._failure
        return RequestRefused(failure.code, failure.text, argument="interfaces", interface=self.name)

    def _fail(self, failure: Failure | None) -> None:
        """Take note of why it ends; what came first counts."""
        self._failure = self._failure or failure

    def close(self) -> None:
        """Have the packets end; the client has been sent ``end``."""
        self._process.close()

    def stop(self, failure: Failure | None = None) -> None:
        """Have it end; None: since the client has left."""
        self._fail(failure)
        self._stopping.set()

    async def _end_when_stopped(self) -> None:
        await self._stopping.wait()
        await self._process.end()

    async def _end_when_late(self) -> None:
        await trio.sleep(limits.DEVICE_TIMEOUT_S)
        if not self._is_open:
            text = f"the module of {self.name} has not opened it within {limits.DEVICE_TIMEOUT_S:g} s"
            self.stop(Failure(code=FailureCode.TIMEOUT, text=text, interface=self.name))

    async def revoke(self, failure: Failure) -> None:
        """Have it end; when this returns, it has: what is in the pipe may still be read."""
        self.stop(failure)
        await self._process.end()
