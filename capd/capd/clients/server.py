"""Listens, and serves each client in a task of its own: greeting, one request after another, a capture's events.

A connection that has started a capture belongs to it: its events go there until it ends, and when the client
closes its side, the capture ends. One that is attached to a capture only hears of it.
"""

import contextlib
import logging
import socket
from functools import partial
from typing import Any, assert_never, cast

import trio

from capd import limits
from capd.captures.capture import Capture
from capd.captures.detached import Detached
from capd.captures.registry import Captures
from capd.captures.revoker import Revoker
from capd.captures.subscribers import Subscriber
from capd.clients.admission import Admission
from capd.clients.connection import Connection
from capd.errors import RequestRefused, no_room
from capd.network.monitor import Count, Monitor, Watch
from capd.policy.audit import Audit
from capd.policy.peer import NOBODY, Peer
from capd.policy.people import People
from capd.service.listener import accepted
from capd.supervisor.closer import Closer
from capd.supervisor.handover import FromClient, channel
from capd.version import SOFTWARE
from capd_protocol.arguments import MAX_INTERFACE_NAME_BYTES, find_interval_faults
from capd_protocol.errors import LocalProtocolError, RemoteProtocolError
from capd_protocol.messages import (
    PROTOCOL_VERSION,
    AttachCapture,
    Attached,
    DirectoryWanted,
    EndReason,
    Failure,
    FailureCode,
    FlushCapture,
    Flushed,
    GetCapabilities,
    GetDriverCounters,
    Hello,
    InterfaceRequest,
    ListCaptures,
    ListInterfaces,
    Message,
    Permissions,
    Refused,
    Request,
    RevokeCaptures,
    RotateCapture,
    Rotated,
    SnapshotCapture,
    SnapshotTaken,
    StartCapture,
    Started,
    StopCapture,
    Stopping,
    Watching,
    WatchInterfaces,
    WatchStatistics,
    WhoAmI,
    encode,
)

#: What is asked of a capture that runs.
_OrderRequest = StopCapture | RotateCapture | FlushCapture | SnapshotCapture

_log = logging.getLogger(__name__)


class Server:
    """The daemon's side of all connections."""

    def __init__(
        self,
        captures: Captures,
        detached: Detached,
        monitor: Monitor,
        audit: Audit,
        closer: Closer,
        *,
        people: People | None = None,
    ) -> None:
        self._captures = captures
        self._detached = detached
        self._monitor = monitor
        self._audit = audit
        self._closer = closer
        people = people or People()
        self._admission = Admission(people, captures, closer, audit)
        self._revoker = Revoker(captures, people, monitor)

    def status(self) -> str:
        """Return what goes on, in a line for whoever looks after the service."""
        captures, users = self._captures.running_and_users()
        clients = self._admission.clients
        return f"{_number_of(captures, 'capture')} of {_number_of(users, 'user')}, {_number_of(clients, 'client')}"

    @property
    def clients(self) -> int:
        """How many clients are connected."""
        return self._admission.clients

    async def serve(self, listener: trio.socket.SocketType, *, is_contained: bool = False) -> None:
        """Serve clients until cancelled; then all their captures have ended.

        Args:
            listener: where they connect.
            is_contained: it is the containers' socket.
        """
        async with trio.open_nursery() as nursery:
            while True:
                connected = await accepted(listener)
                nursery.start_soon(partial(self.serve_client, connected, is_contained=is_contained))

    async def serve_client(self, connected: trio.socket.SocketType, *, is_contained: bool = False) -> None:
        """Serve one client until it has gone, or has broken the protocol."""
        connection = Connection(connected, self._closer)
        peer: Peer | None = None
        try:
            peer = await self._admission.introduced(cast(Any, connected), is_contained=is_contained)
            async with self._admission.admitted(peer) as peer:
                client = _Client(
                    connection,
                    peer,
                    captures=self._captures,
                    detached=self._detached,
                    monitor=self._monitor,
                    audit=self._audit,
                    closer=self._closer,
                    admission=self._admission,
                    revoker=self._revoker,
                )
                await client.run()
        except RequestRefused as refused:
            self._captures.tally.add_refused(refused.failure.code)
            await _send_last(connection, Refused(failure=refused.failure))
        except RemoteProtocolError as error:
            self._audit.misbehaved(peer, "breaks the protocol: %s", error)
            failure = Failure(code=FailureCode.PROTOCOL, text=f"capd did not understand the client: {error}")
            self._captures.tally.add_refused(failure.code)
            await _send_last(connection, Refused(failure=failure))
        except Exception:
            # A bug, here or in what is used here. It ends this client; the others' captures shall not end with it.
            self._audit.misbehaved(peer, "the task of this client failed; please report this", failed=True)
        finally:
            connection.close(NOBODY if peer is None else peer.person_id)


def _number_of(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"


async def _send_last(connection: Connection, message: Message) -> None:
    # What is raised here would end the daemon.
    with trio.move_on_after(limits.LAST_EVENTS_TIMEOUT_S), contextlib.suppress(LocalProtocolError):
        await connection.send(encode(message))


class _Client:
    """The conversation with one client."""

    def __init__(
        self,
        connection: Connection,
        peer: Peer,
        *,
        captures: Captures,
        detached: Detached,
        monitor: Monitor,
        audit: Audit,
        closer: Closer,
        admission: Admission,
        revoker: Revoker,
    ) -> None:
        self._connection = connection
        self._peer = peer
        self._captures = captures
        self._detached = detached
        self._closer = closer
        #: Something is carried out that takes a while.
        self._is_ordering = False
        self._violation: RemoteProtocolError | None = None
        self._monitor = monitor
        self._audit = audit
        self._admission = admission
        self._revoker = revoker

    async def run(self) -> None:
        """Greet, then answer requests; a capture is the last one."""
        await self._connection.send_in_time(encode(Hello(protocol_version=PROTOCOL_VERSION, software=SOFTWARE)))
        if not self._is_greeting(await self._receive_in_time()):
            return
        while (request := await self._receive_in_time()) is not None:
            if not isinstance(request, Request):
                raise RemoteProtocolError(f"{type(request).__name__} is no request")
            await self._admission.pace(self._peer, request)
            try:
                await self._admission.wait_recordable(self._peer)
                if await self._answer(request):
                    return
            except (RequestRefused, OSError) as error:
                failure = error.failure if isinstance(error, RequestRefused) else no_room(error).failure
                self._audit.refused(self._peer, request, failure)
                self._admission.note_refused(self._peer)
                self._captures.tally.add_refused(failure.code)
                await self._connection.send_in_time(encode(Refused(failure=failure)))

    async def _receive_in_time(self) -> Message | None:
        with trio.move_on_after(limits.REQUEST_TIMEOUT_S):
            return await self._connection.receive()
        text = f"no request came within {limits.REQUEST_TIMEOUT_S:g} s"
        raise RequestRefused(FailureCode.PROTOCOL, text)

    def _is_greeting(self, message: Message | None) -> bool:
        if message is None:
            return False
        if not isinstance(message, Hello):
            raise RemoteProtocolError("the first message was no greeting")
        if message.protocol_version != PROTOCOL_VERSION:
            text = (
                f"capd speaks version {PROTOCOL_VERSION} of its protocol, the client {message.protocol_version}: "
                "install the same release of both"
            )
            raise RequestRefused(FailureCode.PROTOCOL, text)
        return True

    async def _answer(self, request: Request) -> bool:
        """Carry out a request and reply. Return whether the conversation is over."""
        match request:
            case StartCapture(detached=True):
                return await self._capture_detached(request)
            case StartCapture():
                return await self._capture(request)
            case AttachCapture():
                await self._attach(request)
                return True
            case StopCapture() | RotateCapture() | FlushCapture() | SnapshotCapture():
                if request.capture is None:
                    text = "this connection has no capture: say its number or name"
                    raise RequestRefused(FailureCode.INVALID, text, argument="capture")
                capture = self._captures.find(self._peer, request.capture, to_control=True)
                await self._connection.send_in_time(encode(await _carry_out(request, capture)))
            case RevokeCaptures():
                decision = await self._revoker.revoke(self._peer, request)
                self._audit.granted(self._peer, request, **decision.record())  # whether the answer is taken or not
                for revoked in decision.answers():
                    await self._connection.send_in_time(encode(revoked))
                return False
            case ListCaptures():
                for captures in self._captures.lists_for(self._peer):
                    await self._connection.send_in_time(encode(captures))
            case WhoAmI():
                policy, peer = self._captures.policy, self._peer
                permissions = Permissions(
                    user_id=peer.user_id,
                    group_ids=tuple(dict.fromkeys((peer.group_id, *peer.groups))),
                    permissions=policy.permissions(peer),
                    advice=policy.advice_for(peer),
                    is_contained=peer.is_contained,
                )
                await self._connection.send_in_time(encode(permissions))
            case ListInterfaces():
                rules = self._captures.policy.rules_of(self._peer)  # all that it depends on
                may_capture = partial(self._captures.policy.may_capture, self._peer)
                for frame in await self._monitor.interfaces.lists(rules, may_capture):
                    await self._connection.send_in_time(frame)
            case GetCapabilities():
                if request.monitor_mode:  # libpcap switches the radio for it
                    wish = InterfaceRequest(name=request.interface[:MAX_INTERFACE_NAME_BYTES], monitor_mode=True)
                    self._captures.policy.grant(self._peer, wish)
                turn = self._admission.turn_of(self._peer)
                capabilities = await self._monitor.interfaces.capabilities(request, turn)
                await self._connection.send_in_time(encode(capabilities))
            case GetDriverCounters(interface=interface):
                turn = self._admission.turn_of(self._peer)
                counters = await self._monitor.interfaces.driver_counters(interface, turn)
                await self._connection.send_in_time(encode(counters))
            case WatchInterfaces():
                await self._follow(request, await self._monitor.watch())
                return True
            case WatchStatistics(interval_s=interval_s):
                faults = find_interval_faults(interval_s)
                if faults:
                    raise RequestRefused(FailureCode.INVALID, faults[0].text, argument=faults[0].argument)
                await self._follow(request, await self._monitor.count(interval_s))
                return True
            case _:
                assert_never(request)
        self._audit.granted(self._peer, request)
        return False

    # Interfaces ---------------------------------------------------------------------------------------------------

    async def _follow(self, request: Request, view: Watch | Count) -> None:
        """Send what a view has to tell until the client leaves."""
        self._audit.granted(self._peer, request)
        try:
            await self._connection.send_in_time(encode(Watching()))
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._send_from, view, nursery.cancel_scope)
                nursery.start_soon(self._wait_until_left, nursery.cancel_scope)
        finally:
            self._monitor.leave(view)
            self._audit.ended(self._peer, request)

    async def _wait_until_left(self, scope: trio.CancelScope) -> None:
        try:
            if await self._connection.receive() is not None:
                self._audit.misbehaved(self._peer, "a request while its connection watches")
        except RemoteProtocolError as error:
            self._audit.misbehaved(self._peer, "breaks the protocol: %s", error)
        scope.cancel()

    async def _send_from(self, view: Watch | Count, scope: trio.CancelScope) -> None:
        is_there = True
        while is_there:
            is_there = await self._connection.send(await view.next_frames())
        scope.cancel()

    # A capture ----------------------------------------------------------------------------------------------------

    async def _ask_for_directory(self, descriptor: int) -> None:
        """Ask the client for the directory, which it is to send on a socket of its own."""
        # One that does not read this, or takes no descriptor, passes none, and its worker waits only so long.
        with trio.move_on_after(limits.REQUEST_TIMEOUT_S), contextlib.suppress(RemoteProtocolError):
            await self._connection.send(encode(DirectoryWanted()), [descriptor])

    def _handover(self, request: StartCapture) -> FromClient:
        """Return how this client hands over a directory; to be closed.

        Raises:
            RequestRefused: there is no room for it.
        """
        return FromClient(
            self._ask_for_directory,
            self._closer,
            self._peer.person_id,
            passes_files=request.pass_files,
        )

    async def _capture(self, request: StartCapture) -> bool:
        """Capture until the end. Return whether the conversation is over: not, if it could not be started."""
        with (
            self._captures.granted(self._peer, request) as capture,
            contextlib.closing(self._handover(request)) as handover,
            capture.on_record(self._audit),
        ):
            refused = await self._run_capture(capture, handover)
        if refused is not None:
            self._captures.tally.add_refused(refused.failure.code)
            await self._connection.send_in_time(encode(Refused(failure=refused.failure)))
        return refused is None

    async def _run_capture(self, capture: Capture, handover: FromClient) -> RequestRefused | None:
        """Run the capture with its events on this connection; return why it could not be started."""
        subscriber = capture.subscribe()
        async with trio.open_nursery() as connection_tasks:
            all_sent = trio.Event()
            async with trio.open_nursery() as capture_task:
                scope = capture_task.cancel_scope
                connection_tasks.start_soon(self._read_during, capture, subscriber, connection_tasks, scope)
                try:
                    await capture_task.start(capture.run, handover, self._monitor)
                except RequestRefused as refused:
                    connection_tasks.cancel_scope.cancel()
                    return refused
                await self._connection.send(encode(Started(capture_id=capture.capture_id)))
                connection_tasks.start_soon(self._write_during, capture, subscriber, all_sent)
            if not capture.account.is_started:
                # The client left before; there is nobody to tell.
                connection_tasks.cancel_scope.cancel()
            with trio.move_on_after(limits.LAST_EVENTS_TIMEOUT_S):
                await all_sent.wait()
            connection_tasks.cancel_scope.cancel()
        return None

    async def _read_during(
        self, capture: Capture, subscriber: Subscriber, nursery: trio.Nursery, start: trio.CancelScope
    ) -> None:
        """Wait for the client's wish to stop, or its leaving."""
        await self._obey(capture, subscriber, nursery)
        if self._violation is not None:
            text = f"capd did not understand the client: {self._violation}"
            self._captures.tally.add_refused(FailureCode.PROTOCOL)
            subscriber.put(Refused(failure=Failure(code=FailureCode.PROTOCOL, text=text)))
        if capture.account.is_started:
            capture.stop(EndReason.CLIENT_LEFT)
        else:
            start.cancel()

    async def _obey(self, capture: Capture, subscriber: Subscriber, nursery: trio.Nursery) -> None:
        """Do what a client wants of the capture that it hears of, until it leaves or breaks the protocol."""
        own = (None, capture.capture_id, capture.name)
        try:
            while (message := await self._connection.receive()) is not None:
                if not isinstance(message, _OrderRequest) or message.capture not in own:
                    raise RemoteProtocolError(f"a {type(message).__name__} while this connection captures")
                await self._admission.pace(self._peer, message)
                if isinstance(message, StopCapture) and self._captures.may_control(self._peer, capture):
                    if capture.stop(EndReason.STOPPED):
                        subscriber.put(Stopping())
                elif self._is_ordering or subscriber.has_unsent_answer:
                    raise RemoteProtocolError(f"a {type(message).__name__} before the answer to what was asked before")
                else:
                    self._is_ordering = True
                    nursery.start_soon(self._order, message, capture, subscriber)
        except RemoteProtocolError as error:
            self._violation = error

    async def _order(self, request: _OrderRequest, capture: Capture, subscriber: Subscriber) -> None:
        """Carry out what takes a while, and answer among the events."""
        reply: Message
        try:
            await self._admission.wait_recordable(self._peer)
            self._captures.find(self._peer, capture.capture_id, to_control=True)
            reply = await _carry_out(request, capture)
            self._audit.granted(self._peer, request, capture=capture.capture_id)
        except RequestRefused as refused:
            self._audit.refused(self._peer, request, refused.failure)
            self._admission.note_refused(self._peer)
            reply = Refused(failure=refused.failure)
        subscriber.answer(reply)
        self._is_ordering = False

    async def _write_during(self, capture: Capture, subscriber: Subscriber, all_sent: trio.Event) -> None:
        """Send events until the last one."""
        is_there = True
        while (batch := await subscriber.next_batch()) is not None:
            is_there = is_there and await self._connection.send(batch)
            if not is_there:
                capture.stop(EndReason.CLIENT_LEFT)
        all_sent.set()

    # One that stays -----------------------------------------------------------------------------------------------

    async def _capture_detached(self, request: StartCapture) -> bool:
        """Start a capture that stays, and tell of it. Return whether the conversation is over."""
        refused: RequestRefused | None = None
        following = await self._detached.start(self._peer, request, self._handover(request))
        capture, subscriber = following.capture, following.subscriber
        with self._captures.followed(capture, subscriber):
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._obey_until_left, capture, subscriber, nursery)
                    refused = await following.wait_settled()
                    if refused is None:
                        await self._tell_of(following.attached, subscriber)
                    nursery.cancel_scope.cancel()
            finally:
                following.give_up()
        if self._violation is not None:
            raise self._violation
        if refused is not None:
            await self._connection.send_in_time(encode(Refused(failure=refused.failure)))
        return refused is None

    async def _attach(self, request: AttachCapture) -> None:
        """Tell of a capture that runs until it ends or the client leaves."""
        capture = self._captures.find(self._peer, request.capture, to_control=False)
        of_server, of_client = channel(takes_directory=False, passes_files=True)
        try:
            async with capture.files_served(of_server):
                attached, subscriber = capture.attach()
                with self._captures.followed(capture, subscriber):
                    which = {"capture": capture.capture_id, "name": capture.name}
                    self._audit.granted(self._peer, request, **which)
                    try:
                        async with trio.open_nursery() as nursery:
                            nursery.start_soon(self._obey_until_left, capture, subscriber, nursery)
                            await self._tell_of(attached, subscriber, of_client)
                            nursery.cancel_scope.cancel()
                    finally:
                        self._audit.ended(self._peer, request, **which)
        finally:
            self._closer.close(of_client.detach(), self._peer.person_id)
        if self._violation is not None:
            raise self._violation

    async def _obey_until_left(self, capture: Capture, subscriber: Subscriber, nursery: trio.Nursery) -> None:
        await self._obey(capture, subscriber, nursery)
        nursery.cancel_scope.cancel()

    async def _tell_of(self, attached: Attached, subscriber: Subscriber, files: socket.socket | None = None) -> None:
        """Send what a subscriber hears until the capture's end, for which a client has only so much time.

        With it goes a socket for the files, which stays the caller's.
        """
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_cancel_after_end, subscriber, nursery.cancel_scope)
            is_there = await self._connection.send(encode(attached), [] if files is None else [files.fileno()])
            while is_there and (batch := await subscriber.next_batch()) is not None:
                is_there = await self._connection.send(batch)
            nursery.cancel_scope.cancel()


async def _cancel_after_end(subscriber: Subscriber, scope: trio.CancelScope) -> None:
    await subscriber.ended.wait()
    await trio.sleep(limits.LAST_EVENTS_TIMEOUT_S)
    scope.cancel()


async def _carry_out(request: _OrderRequest, capture: Capture) -> Message:
    """Return the reply when it is done.

    Raises:
        RequestRefused: it cannot be.
    """
    match request:
        case StopCapture():
            capture.stop(EndReason.STOPPED)
            return Stopping()
        case RotateCapture():
            return Rotated(file_name=await capture.orders.rotate())
        case FlushCapture():
            await capture.orders.flush()
            return Flushed()
        case SnapshotCapture(after_s=after_s):
            return SnapshotTaken(file_name=await capture.orders.snapshot(after_s))
