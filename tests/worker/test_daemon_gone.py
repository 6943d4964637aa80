"""The daemon goes without having heard the last answer: what it has had forked ends, and complains of nothing."""

import array
import multiprocessing
import os
import select
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from capd.launch import CLOSE, NO_FILE
from capd.worker import __main__ as spawner
from capd.worker.helpers import closing, serving

_PATIENCE_S = 20


def close_all(control: socket.socket, _directory: Path) -> None:
    closing.run(control, cast(Any, None))


def serve(control: socket.socket, directory: Path) -> None:
    serving._serve(control, os.open(directory, os.O_PATH | os.O_DIRECTORY), "a.pcapng")


def ask_to_close(control: socket.socket) -> None:
    control.send(CLOSE)


def bring_a_reader(control: socket.socket) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        rights = array.array("i", [theirs.fileno()])
        control.sendmsg([NO_FILE], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])


@pytest.mark.parametrize("hears", [True, False], ids=["answered", "unheard"])
@pytest.mark.parametrize(("work", "ask"), [(close_all, ask_to_close), (serve, bring_a_reader)])
def test_it_ends_well(
    tmp_path: Path,
    work: Callable[[socket.socket, Path], None],
    ask: Callable[[socket.socket], None],
    hears: bool,
) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

    def run() -> None:
        ours.close()
        work(theirs, tmp_path)

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    theirs.close()
    with ours:
        ask(ours)
        assert select.select([ours], [], [], _PATIENCE_S)[0]
        if hears:
            assert ours.recv(1)
    process.join(_PATIENCE_S)
    assert process.exitcode == 0


@pytest.mark.parametrize("wanted", [True, False], ids=["wanted", "given up"])
def test_what_nobody_wants_any_more_is_not_begun(wanted: bool) -> None:
    ours, theirs = socket.socketpair()
    begun = multiprocessing.get_context("fork").Event()

    def run() -> None:
        ours.close()
        spawner._work(lambda *_: begun.set(), theirs, cast(Any, None))

    if not wanted:
        theirs.shutdown(socket.SHUT_RDWR)  # as it is when the other end is closed
    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    theirs.close()
    process.join(_PATIENCE_S)
    ours.close()
    assert process.exitcode == 0
    assert begun.is_set() == wanted
