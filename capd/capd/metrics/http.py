"""HTTP/1.1 for scrapers: one request, one answer, and the connection is closed. Bounded in number, size and time.

The worst that a scraper can do is to keep others from the metrics: connections beyond the bound wait in the kernel, and
are accepted at a bounded pace.
"""

import logging
from collections.abc import Awaitable, Callable
from email.utils import formatdate
from http import HTTPStatus

import h11
import trio

from capd import limits
from capd.policy.peer import NOBODY
from capd.service.listener import accepted
from capd.supervisor.closer import Closer
from capd.supervisor.guarded import GuardedSocket
from capd_protocol.errors import RemoteProtocolError

_log = logging.getLogger(__name__)

_RECEIVE_BYTES = 4096
_PATH = b"/metrics"
_METHODS = ("GET", "HEAD")
#: The text format that prometheus_client.generate_latest() makes.
_PAGE = "text/plain; version=0.0.4; charset=utf-8"
_TEXT = "text/plain; charset=utf-8"

Page = Callable[[], Awaitable[bytes]]


async def serve(listener: trio.socket.SocketType, page: Page, closer: Closer) -> None:
    """Answer until cancelled.

    Args:
        listener: a socket that listens; stays the caller's.
        page: makes what is served.
        closer: closes connections that may hold descriptors.
    """
    room = trio.Semaphore(limits.MAX_SCRAPES)
    async with trio.open_nursery() as nursery:
        while True:
            await room.acquire()
            nursery.start_soon(_serve_one, GuardedSocket(await accepted(listener), closer), page, room)
            await trio.sleep(limits.SCRAPE_PAUSE_S)


async def _serve_one(connection: GuardedSocket, page: Page, room: trio.Semaphore) -> None:
    try:
        with trio.move_on_after(limits.SCRAPE_TIMEOUT_S):
            await _answer(connection, page)
    except (OSError, RemoteProtocolError) as error:
        _log.debug("a scraper has left: %s", error)
    finally:
        connection.close(NOBODY)
        room.release()


async def _answer(connection: GuardedSocket, page: Page) -> None:
    conversation = h11.Connection(h11.SERVER, max_incomplete_event_size=limits.MAX_SCRAPE_REQUEST_BYTES)
    request = None
    try:
        request = await _request(connection, conversation)
        if request is None:
            return
        status, body = await _content(request, page)
    except h11.RemoteProtocolError as error:
        status, body = HTTPStatus(error.error_status_hint), b""
    body = body or f"{status.value} {status.phrase}\n".encode()
    headers = [
        ("date", formatdate(usegmt=True)),
        ("content-type", _PAGE if status == HTTPStatus.OK else _TEXT),
        ("content-length", str(len(body))),
        ("connection", "close"),
    ]
    if status == HTTPStatus.METHOD_NOT_ALLOWED:
        headers.append(("allow", ", ".join(_METHODS)))
    head = conversation.send(h11.Response(status_code=status, reason=status.phrase, headers=headers)) or b""
    await connection.send(head if request is not None and request.method == b"HEAD" else head + body)


async def _request(connection: GuardedSocket, conversation: h11.Connection) -> h11.Request | None:
    """Return the request; None where the other side leaves before there is one.

    Raises:
        h11.RemoteProtocolError: it is no request, or too long.
    """
    while (event := conversation.next_event()) is h11.NEED_DATA:
        conversation.receive_data(await connection.receive(_RECEIVE_BYTES))
    return event if isinstance(event, h11.Request) else None


async def _content(request: h11.Request, page: Page) -> tuple[HTTPStatus, bytes]:
    if request.target.partition(b"?")[0] != _PATH:
        return HTTPStatus.NOT_FOUND, b"metrics are at /metrics\n"
    if request.method.decode("ascii") not in _METHODS:
        return HTTPStatus.METHOD_NOT_ALLOWED, b""
    try:
        return HTTPStatus.OK, await page()
    except Exception:
        # A bug, here or in what is used here. The captures shall not end with it.
        _log.exception("metrics cannot be made; please report this")
        return HTTPStatus.INTERNAL_SERVER_ERROR, b""
