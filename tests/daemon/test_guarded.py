"""Sockets on which bytes are received and descriptors are not."""

import socket

import pytest
import trio

from capd.supervisor.closer import Closer
from capd.supervisor.guarded import GuardedSocket


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_SEQPACKET])
async def test_what_was_said_last_is_received_though_something_was_left_unread(kind: socket.SocketKind) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, kind)
    guarded = GuardedSocket(trio.socket.from_stdlib_socket(ours), Closer())
    try:
        await guarded.send(b"never read")
        with theirs:
            theirs.send(b"said last")
        assert await guarded.receive(100) == b"said last"
        assert await guarded.receive(100) == b""
    finally:
        guarded.close(0)


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_SEQPACKET])
async def test_it_waits_for_what_is_said(kind: socket.SocketKind, autojump_clock: trio.abc.Clock) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, kind)
    guarded = GuardedSocket(trio.socket.from_stdlib_socket(ours), Closer())
    try:
        with theirs:
            with trio.move_on_after(1) as waiting:
                await guarded.receive(100)
            assert waiting.cancelled_caught
    finally:
        guarded.close(0)
