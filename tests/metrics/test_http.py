"""What scrapers get over HTTP, and that whoever connects can neither keep the server busy nor stay."""

import contextlib
import logging
import socket
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
import trio

from capd import limits
from capd.linux.descriptors import refuse_rights
from capd.metrics.http import Page, serve
from capd.supervisor.closer import Closer

_PATIENCE_S = 10.0
_GET = b"GET /metrics HTTP/1.1\r\nHost: capd\r\n\r\n"


class Served:
    """A server of a page, and how often the page was made."""

    def __init__(self, path: Path, page: bytes) -> None:
        self.path = path
        self.made = 0
        self._page = page

    async def page(self) -> bytes:
        self.made += 1
        return self._page

    async def connect(self) -> trio.SocketStream:
        return await trio.open_unix_socket(str(self.path))

    async def answer(self, request: bytes) -> bytes:
        """Send a request; return all that comes until the other side closes."""
        with trio.fail_after(_PATIENCE_S):
            async with await self.connect() as stream:
                await stream.send_all(request)
                return await rest(stream)


async def rest(stream: trio.SocketStream) -> bytes:
    data = b""
    with contextlib.suppress(trio.BrokenResourceError):
        while part := await stream.receive_some(65536):
            data += part
    return data


@contextlib.asynccontextmanager
async def serving(path: Path, page: bytes = b"capd_up 1\n", make: Page | None = None) -> AsyncGenerator[Served, None]:
    served = Served(path / "metrics.sock", page)
    with trio.socket.socket(socket.AF_UNIX) as listener:
        refuse_rights(listener)
        await listener.bind(str(served.path))
        listener.listen(16)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve, listener, make or served.page, Closer())
            yield served
            nursery.cancel_scope.cancel()


async def test_a_get_is_answered_and_the_connection_closed(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        head, _, body = (await served.answer(_GET)).partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    assert lines[0] == b"HTTP/1.1 200 OK"
    assert {b"content-type: text/plain; version=0.0.4; charset=utf-8", b"content-length: 10", b"connection: close"} < {
        *lines
    }
    assert body == b"capd_up 1\n"


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GET /metrics?name[]=capd HTTP/1.1\r\nHost: a\r\n\r\n", b"200 OK"),
        (b"GET /metrics HTTP/1.0\r\n\r\n", b"200 OK"),
        (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"404 Not Found"),
        (b"GET /metrics/../../etc/passwd HTTP/1.1\r\nHost: a\r\n\r\n", b"404 Not Found"),
        (b"POST /metrics HTTP/1.1\r\nHost: a\r\nContent-Length: 9999999999\r\n\r\nx", b"405 Method Not Allowed"),
        (b"GET /metrics HTTP/1.1\r\n\r\n", b"400 Bad Request"),
        (b"GET /metrics\r\n\r\n", b"400 Bad Request"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", b"400 Bad Request"),
        (bytes(range(256)) * 16 + b"\n\n", b"400 Bad Request"),
        (b"GET /metrics HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n", b"501 Not Implemented"),
        (b"GET /" + b"a" * limits.MAX_SCRAPE_REQUEST_BYTES, b"431 Request Header Fields Too Large"),
    ],
)
async def test_whatever_is_asked_gets_an_answer(tmp_path: Path, request_bytes: bytes, status: bytes) -> None:
    async with serving(tmp_path) as served:
        answer = await served.answer(request_bytes)
    assert answer.startswith(b"HTTP/1.1 " + status + b"\r\n")
    assert b"\r\nconnection: close\r\n" in answer.lower()
    assert served.made == (status == b"200 OK")


async def test_a_head_has_no_body(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        answer = await served.answer(_GET.replace(b"GET", b"HEAD"))
    assert b"content-length: 10\r\n" in answer
    assert answer.endswith(b"\r\n\r\n")


async def test_who_leaves_early_disturbs_nobody(tmp_path: Path) -> None:
    async with serving(tmp_path, bytes(10_000_000)) as served:
        for sent in (b"", _GET[:10], _GET):
            async with await served.connect() as stream:
                await stream.send_all(sent)
        assert (await served.answer(_GET)).endswith(bytes(10_000_000))


async def test_a_bug_in_the_page_ends_no_more_than_the_answer(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def broken() -> bytes:
        raise ZeroDivisionError

    async with serving(tmp_path, make=broken) as served:
        for _ in range(2):
            assert (await served.answer(_GET)).startswith(b"HTTP/1.1 500 Internal Server Error\r\n")
    assert [record.levelno for record in caplog.records] == [logging.ERROR] * 2


@pytest.mark.parametrize("sent", [b"", b"GET /metrics HTTP/1.1\r\nHost:", _GET])
async def test_who_is_slow_or_never_reads_is_cut_off(
    tmp_path: Path, sent: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "SCRAPE_TIMEOUT_S", 0.2)
    async with serving(tmp_path, bytes(10_000_000)) as served, await served.connect() as stream:
        await stream.send_all(sent)
        # Nothing is read until the server has gone.
        with trio.fail_after(_PATIENCE_S):
            while True:
                try:
                    await stream.send_all(b"X")
                except trio.BrokenResourceError:
                    break
                await trio.sleep(0.01)
            assert len(await rest(stream)) < 10_000_000


async def test_who_sends_byte_after_byte_is_cut_off_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "SCRAPE_TIMEOUT_S", 0.2)
    async with serving(tmp_path) as served, await served.connect() as stream:
        began_s = trio.current_time()
        with trio.fail_after(_PATIENCE_S), contextlib.suppress(trio.BrokenResourceError):
            while True:
                await stream.send_all(b"A")
                await trio.sleep(0.01)
        assert trio.current_time() - began_s >= 0.2
    assert served.made == 0


async def test_no_more_than_the_bound_are_served_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "SCRAPE_TIMEOUT_S", 60.0)
    async with serving(tmp_path) as served, contextlib.AsyncExitStack() as stack:
        idle = [await stack.enter_async_context(await served.connect()) for _ in range(limits.MAX_SCRAPES)]
        one_more = await stack.enter_async_context(await served.connect())
        await one_more.send_all(_GET)
        with trio.move_on_after(0.5) as waiting:
            await one_more.receive_some(1)
        assert waiting.cancelled_caught
        await idle[0].aclose()
        with trio.fail_after(_PATIENCE_S):
            assert await one_more.receive_some(8) == b"HTTP/1.1"
