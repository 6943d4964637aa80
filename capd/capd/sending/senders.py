"""The registry of clients that send: who may, how many, and who is kept from it later."""

import contextlib
from collections.abc import Callable, Generator, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import trio

from capd import limits
from capd.errors import RequestRefused
from capd.network.monitor import Monitor
from capd.policy.peer import Peer
from capd.policy.people import People
from capd.policy.revocation import as_of_today, persons_of, sending_objection
from capd.policy.rules import Policy, SendGrant
from capd.sending.sender import Sender
from capd.supervisor.closer import Closer
from capd.supervisor.spawner import Spawner
from capd_protocol.arguments import MAX_INTERFACE_NAME_BYTES
from capd_protocol.messages import MAX_WHY_CHARACTERS, Failure, FailureCode, RevokeCaptures, RevokedSender
from capd_protocol.messages.interfaces import Link
from capd_protocol.targets import ANY

#: linux/if_arp.h: ARPHRD_ETHER, ARPHRD_LOOPBACK. Their frames begin with an Ethernet header, which is checked.
_ETHERNET = (1, 772)


class Decided(NamedTuple):
    """A client that sends, and why it is kept from it, or is not though nobody knows whether it should be."""

    sender: Sender
    why: str

    @property
    def line(self) -> RevokedSender:
        """Its line in the answer."""
        owner = self.sender.owner
        why = self.why[:MAX_WHY_CHARACTERS]
        return RevokedSender(
            user_id=owner.user_id, interface=self.sender.link.name, why=why, is_contained=owner.is_contained
        )


class Decision(NamedTuple):
    """What becomes of clients that send; those that are not in it go on."""

    ended: Sequence[Decided] = ()
    kept: Sequence[Decided] = ()


class Senders:
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
        self._policy = policy
        self._monitor = monitor
        self._spawner = spawner
        self._closer = closer
        self._people = people
        self._running: list[Sender] = []
        self._is_stopping = False
        self._all_ended = trio.Event()
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
        if self._is_stopping:
            raise RequestRefused(FailureCode.STOPPING, "capd is stopping: try again when it runs again")
        granted = self._decide(peer, link)
        if link.hardware_type not in _ETHERNET:
            text = f"{link.name} takes no Ethernet frames, and capd sends nothing else"
            raise RequestRefused(FailureCode.UNSUPPORTED, text, argument="interface", interface=link.name)
        if not link.is_up:
            text = f"the interface {link.name} is down: 'ip link set {link.name} up'"
            raise RequestRefused(FailureCode.INTERFACE_DOWN, text, argument="interface", interface=link.name)
        self._check_number(peer, granted)
        sender = Sender(
            peer,
            granted,
            link,
            decide=partial(self._decide, peer),
            monitor=self._monitor,
            spawner=self._spawner,
            closer=self._closer,
        )
        self._running.append(sender)
        try:
            yield sender
        finally:
            self._running.remove(sender)
            self._sent_before += sender.sent_total
            self._note_if_all_ended()

    def _decide(self, peer: Peer, link: Link) -> SendGrant:
        return self._policy().grant_sending(peer, link.name, loopback=link.loopback)

    def _check_number(self, peer: Peer, granted: SendGrant) -> None:
        own = [each for each in self._running if each.owner.person_id == peer.person_id]
        if len(own) >= limits.MAX_SENDERS_PER_USER:
            text = f"{len(own)} programs of this user send already: end some"
            raise RequestRefused(FailureCode.RESOURCES, text)
        rule = granted.rule
        if granted.right.max_pps is not None and any(each.grant.rule.name == rule.name for each in own):
            # Each process holds to the rate by itself: it is one person's with one process.
            text = f"this user sends already, up to what the rule {rule.name!r} allows in a second: end that first"
            raise RequestRefused(FailureCode.RESOURCES, text)
        policy = self._policy()
        bound = [each for each in self._running if not policy.is_unbound(each.owner)]
        if not policy.is_unbound(peer) and len(bound) >= limits.MAX_SENDERS:
            raise RequestRefused(FailureCode.RESOURCES, f"{len(bound)} programs send already: try again later")

    # Ends ---------------------------------------------------------------------------------------------------------

    async def revoke(self, request: RevokeCaptures) -> Decision:
        """Decide who is kept from sending, as of captures. Unless it is a trial, nothing more of theirs goes out.

        Args:
            request: of whom, and whether it is a trial.

        Raises:
            OSError: the kernel does not list the interfaces.
        """
        decision = await self._by_rules() if request.user_id is None else self._of_user(request.user_id)
        if not request.dry_run:
            text = "an administrator has revoked this: 'capctl whoami' shows what may be sent now"
            failure = Failure(code=FailureCode.NOT_PERMITTED, text=text)
            async with trio.open_nursery() as nursery:
                for each in decision.ended:
                    nursery.start_soon(each.sender.revoke, failure)
        return decision

    def _of_user(self, user_id: int) -> Decision:
        persons = persons_of(user_id, (each.owner for each in self._running))
        why = f"all that user {user_id} has is to end"
        return Decision([Decided(each, why) for each in self._running if each.owner.person_id in persons])

    async def _by_rules(self) -> Decision:
        bound = [each for each in self._running if not self._policy().is_unbound(each.owner)]
        groups = await self._people.groups_of(each.owner for each in bound if each.owner.is_in_accounts)
        links: Mapping[int, Link] = await self._monitor.interfaces.links() if bound else {}
        ended: list[Decided] = []
        kept: list[Decided] = []
        for each in bound:
            owner = each.owner
            if owner.is_in_accounts:
                if owner.person_id not in groups:
                    kept.append(Decided(each, "which groups the user has now is not known: try again"))
                    continue
                owner = as_of_today(owner, groups[owner.person_id])
            link = links.get(each.link.index, each.link)
            why = sending_objection(self._policy(), owner, link.name, each.grant, loopback=link.loopback)
            if why is not None:
                ended.append(Decided(each, why))
        return Decision(ended, kept)

    def stop_all(self) -> None:
        """Have all end, and grant no more: the daemon is stopping."""
        self._is_stopping = True
        for each in self._running:
            each.stop(Failure(code=FailureCode.STOPPING, text="capd is stopping: try again when it runs again"))
        self._note_if_all_ended()

    def _note_if_all_ended(self) -> None:
        if self._is_stopping and not self._running:
            self._all_ended.set()

    async def wait_all_ended(self) -> None:
        """Wait until, after ``stop_all``, the last one has ended."""
        await self._all_ended.wait()
