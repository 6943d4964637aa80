"""One client: a greeting, then one request after another; following a capture, or interfaces, is the last one.

A connection that has started a capture belongs to it: its events go there until it ends, and when the client
closes its side, the capture ends. One that is attached to a capture only follows it.
"""

import contextlib
from collections.abc import Callable
from functools import partial
from typing import cast

import msgspec
import trio

from capd import limits
from capd.captures.capture import Capture
from capd.captures.subscribers import Subscriber
from capd.clients.connection import Connection
from capd.clients.following import Following, carry_out
from capd.clients.leasing import LeasingClient
from capd.clients.questions import answer
from capd.clients.services import Services
from capd.clients.states import Conversation, OrderRequest, State, Step, failure_of
from capd.errors import RequestRefused, no_room
from capd.leases.leases import Lease
from capd.network.monitor import Count, Watch
from capd.policy.peer import Peer
from capd.supervisor.handover import FromClient, channel
from capd.version import SOFTWARE
from capd_protocol.arguments import find_interval_faults
from capd_protocol.errors import RemoteProtocolError
from capd_protocol.messages import (
    PROTOCOL_VERSION,
    AttachCapture,
    DirectoryWanted,
    EndReason,
    Failure,
    FailureCode,
    FlushCapture,
    Hello,
    Message,
    OpenDevice,
    Refused,
    Request,
    RevokeCaptures,
    RotateCapture,
    SnapshotCapture,
    StartCapture,
    Started,
    StartSending,
    StopCapture,
    Watching,
    WatchInterfaces,
    WatchStatistics,
    encode,
)
from capd_protocol.targets import DEFAULT


class Client:
    """The conversation with one client."""

    def __init__(self, services: Services, peer: Peer, connection: Connection) -> None:
        """Say nothing yet.

        Args:
            services: who carries out requests.
            peer: the client.
            connection: to it; stays the caller's.
        """
        self._services = services
        self._captures = services.captures
        self._monitor = services.monitor
        self._audit = services.audit
        self._peer = peer
        self._connection = connection
        self._conversation = Conversation()

    async def run(self) -> None:
        """Greet, then answer requests until the client leaves, or the last one is over.

        Raises:
            RequestRefused: it says nothing, or speaks another version.
            RemoteProtocolError: it breaks the protocol.
        """
        admission = self._services.admission
        await self._say(Hello(protocol_version=PROTOCOL_VERSION, software=SOFTWARE))
        if (greeting := await self._heard_in_time()) is None:
            return
        _check_version(cast(Hello, greeting))
        while self._conversation.state == State.ASKING and (message := await self._heard_in_time()) is not None:
            request = cast(Request, message)
            await admission.pace(self._peer, request)
            try:
                await admission.wait_recordable(self._peer)
                await self._answer(request)
            except (RequestRefused, OSError) as error:
                failure = error.failure if isinstance(error, RequestRefused) else no_room(error).failure
                self._audit.refused(self._peer, request, failure)
                admission.note_refused(self._peer)
                self._captures.tally.add_refused(failure.code)
                await self._refuse(failure)

    async def _heard_in_time(self) -> Message | None:
        """Return the next message, which may come now; None when the client has left."""
        with trio.move_on_after(limits.REQUEST_TIMEOUT_S):
            if (message := await self._connection.receive()) is not None:
                self._conversation.hear(message)
            return message
        text = f"no request came within {limits.REQUEST_TIMEOUT_S:g} s"
        raise RequestRefused(FailureCode.PROTOCOL, text)

    async def _say(self, message: Message) -> None:
        await self._connection.send_in_time(encode(message))

    async def _refuse(self, failure: Failure) -> None:
        self._conversation.take(Step.REFUSED)
        await self._say(Refused(failure=failure))

    async def _answer(self, request: Request) -> None:
        """Carry out a request and reply.

        Raises:
            RequestRefused: it cannot be carried out.
            OSError: the system has no room to carry it out.
        """
        match request:
            case StartCapture(detached=True):
                await self._capture_detached(await self._with_interface(request))
            case StartCapture():
                await self._capture(await self._with_interface(request))
            case AttachCapture():
                await self._attach(request)
            case WatchInterfaces():
                await self._watch(request, await self._monitor.watch())
            case WatchStatistics(interval_s=interval_s):
                for fault in find_interval_faults(interval_s):
                    raise RequestRefused(FailureCode.INVALID, fault.text, argument=fault.argument)
                await self._watch(request, await self._monitor.count(interval_s))
            case RevokeCaptures():
                await self._revoke(request)
            case StartSending():
                self._captures.policy.rules_or_refuse(self._peer)
                link = await self._services.senders.find(request.interface)
                await self._lease(request, self._services.senders.granted(self._peer, link))
            case OpenDevice():
                await self._lease(request, self._services.devices.granted(self._peer, request.interface))
            case StopCapture() | RotateCapture() | FlushCapture() | SnapshotCapture():
                await self._order(request)
            case _:
                for frame in await answer(request, self._peer, self._services):
                    await self._connection.send_in_time(frame)
                self._audit.granted(self._peer, request)

    async def _order(self, order: OrderRequest) -> None:
        if order.capture is None:
            text = "this connection has no capture: say its number or name"
            raise RequestRefused(FailureCode.INVALID, text, argument="capture")
        capture = self._captures.find(self._peer, order.capture, to_control=True)
        await self._say(await carry_out(order, capture))
        self._audit.granted(self._peer, order)

    async def _revoke(self, request: RevokeCaptures) -> None:
        services = self._services
        decision = await services.revoker.revoke(self._peer, request)
        of_senders = await services.senders.revoke(request)
        of_devices = await services.devices.revoke(request)
        leases = {
            "senders_ended": tuple(each.lease.revoked(each.why) for each in of_senders.ended),
            "senders_kept": tuple(each.lease.revoked(each.why) for each in of_senders.kept),
            "devices_ended": tuple(each.lease.revoked(each.why) for each in of_devices.ended),
            "devices_kept": tuple(each.lease.revoked(each.why) for each in of_devices.kept),
        }
        ended = {name: len(lines) for name, lines in leases.items() if name.endswith("ended")}
        # Whether the answer is taken or not.
        self._audit.granted(self._peer, request, **decision.record(), **ended)
        for revoked in decision.answers():
            await self._say(msgspec.structs.replace(revoked, **leases) if revoked.is_last else revoked)

    async def _lease(self, request: Request, granted: contextlib.AbstractContextManager[Lease]) -> None:
        """Let the client have what it asked for until the end, unless that cannot be begun."""
        leasing = LeasingClient(self._services, self._peer, self._connection, self._conversation)
        refused = await leasing.run(request, granted)
        if refused is not None:
            self._captures.tally.add_refused(refused.failure.code)
            await self._refuse(refused.failure)

    # Interfaces ---------------------------------------------------------------------------------------------------

    async def _watch(self, request: Request, view: Watch | Count) -> None:
        """Send what a view reports until the client leaves."""
        with self._audit.on_record(self._peer, request):
            try:
                await self._say(Watching())
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._send_from, view, nursery.cancel_scope)
                    nursery.start_soon(self._wait_until_left, nursery.cancel_scope)
            finally:
                self._monitor.leave(view)

    async def _wait_until_left(self, scope: trio.CancelScope) -> None:
        try:
            if (message := await self._connection.receive()) is not None:
                self._conversation.hear(message)
        except RemoteProtocolError as error:
            self._audit.misbehaved(self._peer, "breaks the protocol: %s", error)
        scope.cancel()

    async def _send_from(self, view: Watch | Count, scope: trio.CancelScope) -> None:
        is_there = True
        while is_there:
            is_there = await self._connection.send(await view.next_frames())
        scope.cancel()

    # Captures -----------------------------------------------------------------------------------------------------

    def _handover(self, request: StartCapture) -> FromClient:
        """Return how this client hands over a directory; to be closed.

        Raises:
            RequestRefused: there is no room for it.
        """
        return FromClient(
            self._ask_for_directory,
            self._services.closer,
            self._peer.person_id,
            passes_files=request.pass_files,
        )

    async def _ask_for_directory(self, descriptor: int) -> None:
        """Ask the client for the directory, which it is to send on a socket of its own."""
        # One that does not read this, or takes no descriptor, passes none, and its worker waits only so long.
        with trio.move_on_after(limits.REQUEST_TIMEOUT_S), contextlib.suppress(RemoteProtocolError):
            await self._connection.send(encode(DirectoryWanted()), [descriptor])

    async def _with_interface(self, request: StartCapture) -> StartCapture:
        """Return the request with an interface, where it leaves that open.

        Raises:
            RequestRefused: there is none that this client may capture on.
            OSError: the system cannot list them.
        """
        if [each.name for each in request.interfaces] != [DEFAULT]:
            return request
        may_capture = partial(self._captures.policy.may_capture, self._peer)
        self._captures.policy.rules_or_refuse(self._peer)
        name = await self._monitor.interfaces.first(may_capture)
        if name is None:
            text = f"no interface is up that {self._peer} may capture on: 'capctl interfaces' shows which there are"
            raise RequestRefused(FailureCode.NO_SUCH_INTERFACE, text, argument="interfaces")
        (interface,) = request.interfaces
        return msgspec.structs.replace(request, interfaces=(msgspec.structs.replace(interface, name=name),))

    async def _capture(self, request: StartCapture) -> None:
        """Capture until the end, unless it cannot be started."""
        with (
            self._captures.granted(self._peer, request) as capture,
            contextlib.closing(self._handover(request)) as handover,
            capture.on_record(self._audit),
        ):
            refused = await self._run_capture(capture, handover)
        if refused is not None:
            self._captures.tally.add_refused(refused.failure.code)
            await self._refuse(refused.failure)

    async def _run_capture(self, capture: Capture, handover: FromClient) -> RequestRefused | None:
        """Run a capture that ends when the client leaves; return why it could not be started, if the client waits."""
        subscriber = capture.subscribe()
        async with trio.open_nursery() as nursery:

            def end(violation: RemoteProtocolError | None) -> None:
                if violation is not None:
                    failure = failure_of(violation)
                    self._captures.tally.add_refused(failure.code)
                    subscriber.put(Refused(failure=failure))
                if capture.account.has_worker:
                    capture.stop(EndReason.CLIENT_LEFT)  # which may have its file already
                else:
                    nursery.cancel_scope.cancel()  # nobody is left to send to

            async def settled() -> RequestRefused | None:
                try:
                    await nursery.start(capture.run, handover, self._monitor)
                except RequestRefused as error:
                    return error
                return None

            following = self._following(capture, subscriber, end)
            names = tuple(each.name for each in capture.request.interfaces)
            return await following.run(Started(capture.capture_id, names), settled=settled)

    async def _capture_detached(self, request: StartCapture) -> None:
        """Start a capture that stays, and announce it, unless it cannot be started."""
        begun = await self._services.detached.start(self._peer, request, self._handover(request))
        with self._captures.followed(begun.capture, begun.subscriber):
            try:
                following = self._following(begun.capture, begun.subscriber)
                refused = await following.run(begun.attached, settled=begun.wait_settled)
            finally:
                begun.give_up()
        if refused is not None:
            await self._refuse(refused.failure)

    async def _attach(self, request: AttachCapture) -> None:
        """Tell of a capture that runs until it ends or the client leaves."""
        capture = self._captures.find(self._peer, request.capture, to_control=False)
        which = {"capture": capture.capture_id, "name": capture.name}
        of_server, of_client = channel(takes_directory=False, passes_files=True)
        try:
            async with capture.files_served(of_server):
                attached, subscriber = capture.attach()
                with (
                    self._captures.followed(capture, subscriber),
                    self._audit.on_record(self._peer, request, lambda: which),
                ):
                    await self._following(capture, subscriber).run(attached, of_client)
        finally:
            self._services.closer.close(of_client.detach(), self._peer.person_id)

    def _following(
        self,
        capture: Capture,
        subscriber: Subscriber,
        on_left: Callable[[RemoteProtocolError | None], None] | None = None,
    ) -> Following:
        return Following(
            self._services,
            self._peer,
            self._connection,
            self._conversation,
            capture=capture,
            subscriber=subscriber,
            on_left=on_left,
        )


def _check_version(greeting: Hello) -> None:
    if greeting.protocol_version != PROTOCOL_VERSION:
        text = (
            f"capd speaks version {PROTOCOL_VERSION} of its protocol, the client {greeting.protocol_version}: "
            "install the same release of both"
        )
        raise RequestRefused(FailureCode.PROTOCOL, text)
