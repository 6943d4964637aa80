"""Descriptors on Unix sockets, and calls through the C library."""

import errno
import os
import socket
from pathlib import Path

import pytest

from capd.linux import libc
from capd.linux.descriptors import DescriptorsDropped, receive, rights


def test_descriptors_come_with_the_bytes_they_were_sent_with_and_close_in_an_exec() -> None:
    ours, theirs = socket.socketpair()
    reading, writing = os.pipe()
    with ours, theirs:
        ours.sendmsg([b"ab"], rights([reading, writing]))
        ours.sendmsg([b"c"], rights([]))
        data, descriptors = receive(theirs, 10, 4)
        assert (data, len(descriptors)) == (b"ab", 2)
        assert receive(theirs, 10, 4) == (b"c", [])
        for mine, received in zip((reading, writing), descriptors, strict=True):
            assert os.path.sameopenfile(mine, received)
            assert not os.get_inheritable(received)
            os.close(mine)
            os.close(received)


def test_descriptors_beyond_the_most_are_an_error_and_none_stays_open() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, Path(os.devnull).open("rb") as file:
        ours.sendmsg([b"a"], rights([file.fileno()] * 10))
        before = os.listdir("/proc/self/fd")  # noqa: PTH208  # only which
        with pytest.raises(DescriptorsDropped) as dropped:
            receive(theirs, 1, 2)
        assert os.listdir("/proc/self/fd") == before  # noqa: PTH208
    assert dropped.value.data == b"a"


def test_nothing_to_receive_is_no_end() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        with pytest.raises(BlockingIOError):
            receive(theirs, 1, 1, socket.MSG_DONTWAIT)
        ours.close()
        assert receive(theirs, 1, 1) == (b"", [])


def test_a_call_that_fails_is_an_exception_of_its_errno() -> None:
    with pytest.raises(OSError, match=r"^\[Errno 9\] Bad file descriptor$") as failed:
        libc.call("fsync", -1)
    assert failed.value.errno == errno.EBADF
    with pytest.raises(OSError, match="flushing: Bad file descriptor"):
        libc.call("fsync", -1, what="flushing")
    assert libc.call("getpid") == os.getpid()
    assert libc.has("getpid")
    assert not libc.has("no_such_function")
