"""One client that sends on one interface: its process, its interface, its end."""

from collections.abc import Callable

import trio

from capd.errors import RequestRefused
from capd.launch import SendLaunch
from capd.leases.leases import OnReady
from capd.linux.packet_ring import kernel_failure
from capd.network.monitor import Monitor
from capd.policy.peer import Peer
from capd.policy.rules import SendGrant
from capd.policy.sending import ANY_SOURCE
from capd.supervisor.closer import Closer
from capd.supervisor.sender import SenderProcess
from capd.supervisor.spawner import Spawner
from capd_protocol.messages import Failure, FailureCode, RevokedSender, Sending, SendingEnded
from capd_protocol.messages.interfaces import Link

#: Two addresses and a type.
_HEADER_BYTES = 14


class Sender:
    """It is granted, and runs or has ended."""

    def __init__(
        self,
        owner: Peer,
        grant: SendGrant,
        link: Link,
        *,
        decide: Callable[[Link], SendGrant],
        monitor: Monitor,
        spawner: Spawner,
        closer: Closer,
    ) -> None:
        """Nothing runs yet.

        Args:
            owner: who sends.
            grant: under which rule, and what it allows.
            link: the interface.
            decide: what policy grants on an interface that has got another name; raises RequestRefused.
            monitor: reports what becomes of the interface.
            spawner: gives the process.
            closer: closes what others may have put something in.
        """
        self.owner = owner
        self.grant = grant
        self.link = link
        self._decide = decide
        self._monitor = monitor
        self._spawner = spawner
        self._closer = closer
        self._process = SenderProcess(_launch_of(owner, grant, link), link.index, owner.person_id)
        self._stopping = trio.Event()
        #: Why it ends, or has ended; None: the client has ended it.
        self.failure: Failure | None = None
        self._is_ready = False

    @property
    def beginning(self) -> Sending:
        """What the client is sent when it can send."""
        right = self.grant.right
        own = () if self.link.mac_address is None else (self.link.mac_address,)
        return Sending(
            interface=self.link.name,
            rule=self.grant.rule.name,
            max_frame_bytes=self.link.mtu + _HEADER_BYTES,
            max_pps=right.max_pps,
            source_macs=tuple(dict.fromkeys((*own, *right.source_macs))),
        )

    @property
    def end(self) -> SendingEnded:
        """What the client is sent when it has ended."""
        report = self._process.report
        return SendingEnded(sent_total=report.sent_total, refused_total=report.refused_total, failure=self.failure)

    def revoked(self, why: str) -> RevokedSender:
        """Return its line where it is taken from its owner."""
        owner = self.owner
        return RevokedSender(user_id=owner.user_id, interface=self.link.name, why=why, is_contained=owner.is_contained)

    def grant_record(self) -> dict[str, object]:
        """Return what goes on record of the grant."""
        return {"rule": self.grant.rule.name}

    def end_record(self) -> dict[str, object]:
        """Return what goes on record of the end."""
        facts: dict[str, object] = {"rule": self.grant.rule.name}
        if self.failure is not None:
            facts |= {"code": self.failure.code, "reason": self.failure.text}
        return {**facts, "sent": self.end.sent_total, "refused": self.end.refused_total}

    @property
    def sent_total(self) -> int:
        """How many frames went out, as far as it is known."""
        return self._process.report.sent_total

    async def run(self, on_ready: OnReady) -> RequestRefused | None:
        """Send until somebody or something ends it; return why it did not begin, if it did not.

        Args:
            on_ready: is given the descriptor of the client's socket to the process.
        """

        async def ready(descriptor: int) -> None:
            self._is_ready = True
            await on_ready(self.beginning, descriptor)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch)
            nursery.start_soon(self._end_when_stopped)
            try:
                await self._process.run(self._spawner, self._closer, ready)
            except RequestRefused as refused:
                self._fail(refused.failure)
            except OSError as error:
                self._fail(kernel_failure(error, self.link.name, "send"))
            nursery.cancel_scope.cancel()
        report = self._process.report
        self._fail(report.failure)
        if not report.is_last and not self._stopping.is_set():
            text = "the process that sends ended without a word: the daemon's log may say why"
            self._fail(Failure(code=FailureCode.WORKER_DIED, text=text, interface=self.link.name))
        if self._is_ready or self.failure is None:
            return None
        failure = self.failure
        return RequestRefused(failure.code, failure.text, argument="interface", interface=failure.interface)

    def _fail(self, failure: Failure | None) -> None:
        """Take note of why it ends; what came first counts."""
        self.failure = self.failure or failure

    def stop(self, failure: Failure | None = None) -> None:
        """Have it end; None: since the client has left."""
        self._fail(failure)
        self._stopping.set()

    async def revoke(self, failure: Failure) -> None:
        """Have it end; when this returns, nothing more goes out."""
        self.stop(failure)
        await self._process.take_back()

    async def _end_when_stopped(self) -> None:
        await self._stopping.wait()
        await self._process.end()

    async def _watch(self) -> None:
        """End it with its interface, and where that gets a name under which policy does not grant the same."""
        watch = await self._monitor.watch()
        try:
            while True:
                links, removed = await watch.next_links()
                link = next((each for each in links if each.index == self.link.index), None)
                if link is None or self.link.index in removed:
                    text = f"the interface {self.link.name} has gone"
                    self.stop(Failure(code=FailureCode.INTERFACE_LOST, text=text, interface=self.link.name))
                elif link.name != self.link.name and not self._is_granted(link):
                    text = f"the interface {self.link.name} is called {link.name} now, on which another rule holds"
                    self.stop(Failure(code=FailureCode.NOT_PERMITTED, text=text, interface=link.name))
        finally:
            self._monitor.leave(watch)

    def _is_granted(self, link: Link) -> bool:
        try:
            return self._decide(link) == self.grant
        except RequestRefused:
            return False


def _launch_of(owner: Peer, grant: SendGrant, link: Link) -> SendLaunch:
    own = () if link.mac_address is None else (link.mac_address,)
    allowed = (*own, *grant.right.source_macs)
    return SendLaunch(
        user_id=owner.user_id,
        group_id=owner.group_id,
        groups=owner.groups,
        interface=link.name,
        max_frame_bytes=link.mtu + _HEADER_BYTES,
        max_pps=grant.right.max_pps,
        source_macs=None if ANY_SOURCE in allowed else tuple(map(_address, allowed)),
    )


def _address(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))
