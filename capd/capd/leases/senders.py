"""The registry of clients that send: who may, how many, and who is kept from it later."""

import contextlib
from collections.abc import Callable, Generator, Mapping, Sequence
from functools import partial

from capd import limits
from capd.errors import RequestRefused
from capd.leases.leases import Bounds, Leases
from capd.leases.sender import Sender
from capd.network.monitor import Monitor
from capd.policy.peer import Peer
from capd.policy.people import People
from capd.policy.revocation import sending_objection
from capd.policy.rules import Policy, SendGrant
from capd.supervisor.closer import Closer
from capd.supervisor.spawner import Spawner
from capd_protocol.arguments import MAX_INTERFACE_NAME_BYTES
from capd_protocol.messages import FailureCode
from capd_protocol.messages.interfaces import Link
from capd_protocol.targets import ANY

#: linux/if_arp.h: ARPHRD_ETHER, ARPHRD_LOOPBACK. Their frames begin with an Ethernet header, which is checked.
_ETHERNET = (1, 772)


_BOUNDS = Bounds(limits.MAX_SENDERS_PER_USER, limits.MAX_SENDERS, "send")


class Senders(Leases[Sender]):
    """All that send."""

    def __init__(
        self, policy: Callable[[], Policy], monitor: Monitor, spawner: Spawner, closer: Closer, people: People
    ) -> None:
        """Have none yet.

        Args:
            policy: returns today's.
            monitor: knows interfaces, and reports what becomes of them.
            spawner: gives processes.
            closer: closes what others may have put something in.
            people: knows which groups users have now.
        """
        super().__init__(policy, people, _BOUNDS)
        self._monitor = monitor
        self._spawner = spawner
        self._closer = closer
        #: Frames that went out for clients that have left.
        self._sent_before = 0

    @property
    def sent_total(self) -> int:
        """How many frames have gone out since the daemon was started, as far as it is known."""
        return self._sent_before + sum(each.sent_total for each in self._running)

    async def find(self, name: str) -> Link:
        """Return the interface to send on.

        Raises:
            RequestRefused: there is none of this name, or the name stands for several.
            OSError: the kernel does not answer.
        """
        shown = name[:MAX_INTERFACE_NAME_BYTES]
        if name == ANY:
            text = f"{ANY} stands for all interfaces, and packets are sent on one: name it"
            raise RequestRefused(FailureCode.INVALID, text, argument="interface", interface=shown)
        link = (
            None
            if len(name.encode()) > MAX_INTERFACE_NAME_BYTES or "\0" in name
            else await self._monitor.interfaces.find(name)
        )
        if link is None:
            text = f"there is no interface {shown!r}: 'capctl interfaces' shows which there are"
            raise RequestRefused(FailureCode.NO_SUCH_INTERFACE, text, argument="interface", interface=shown)
        return link

    @contextlib.contextmanager
    def granted(self, peer: Peer, link: Link) -> Generator[Sender, None, None]:
        """Have a client that wants to send in the list as long as the block lasts.

        Raises:
            RequestRefused: it is not permitted, or one too many, or the interface is none to send on.
        """
        granted = self._decide(peer, link)
        if link.hardware_type not in _ETHERNET:
            text = f"{link.name} takes no Ethernet frames, and capd sends nothing else"
            raise RequestRefused(FailureCode.UNSUPPORTED, text, argument="interface", interface=link.name)
        if not link.is_up:
            text = f"the interface {link.name} is down: 'ip link set {link.name} up'"
            raise RequestRefused(FailureCode.INTERFACE_DOWN, text, argument="interface", interface=link.name)
        self._check_room(peer)
        self._check_rate(peer, granted)
        sender = Sender(
            peer,
            granted,
            link,
            decide=partial(self._decide, peer),
            monitor=self._monitor,
            spawner=self._spawner,
            closer=self._closer,
        )
        with self._listed(sender):
            try:
                yield sender
            finally:
                self._sent_before += sender.sent_total

    def _decide(self, peer: Peer, link: Link) -> SendGrant:
        return self._policy().grant_sending(peer, link.name, loopback=link.loopback)

    def _check_rate(self, peer: Peer, granted: SendGrant) -> None:
        """Check that a rate that a rule allows one person is not had twice: each process holds to it by itself."""
        rule = granted.rule
        if granted.right.max_pps is not None and any(each.grant.rule.name == rule.name for each in self._of(peer)):
            text = f"this user sends already, up to what the rule {rule.name!r} allows in a second: end that first"
            raise RequestRefused(FailureCode.RESOURCES, text)

    async def _objector(self, leases: Sequence[Sender]) -> Callable[[Sender, Peer], str | None]:
        links: Mapping[int, Link] = await self._monitor.interfaces.links() if leases else {}

        def objection(sender: Sender, owner: Peer) -> str | None:
            link = links.get(sender.link.index, sender.link)
            return sending_objection(self._policy(), owner, link.name, sender.grant, loopback=link.loopback)

        return objection
