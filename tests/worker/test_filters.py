"""libpcap's live handles: what they are for is kept, they receive nothing, and they are gone when a capture runs."""

import contextlib
import os
import socket
import struct
import time
from collections.abc import Generator
from pathlib import Path
from typing import NoReturn

import pytest

from capd.filters.compiler import CaptureFailed, Compiler, FilterError, Kind
from capd.linux.libpcap import Handle
from capd.linux.packet_socket import SOL_PACKET, attach_filter
from capd_protocol.formats.linktypes import DLT_EN10MB, DLT_RAW, by_name
from capd_protocol.messages import FailureCode
from tests.support.traffic import build_frames, send

ETHERNET = Kind(1, DLT_EN10MB)
_SO_LOCK_FILTER = 44
_PACKET_STATISTICS = 6
_PATIENCE_S = 10.0


@contextlib.contextmanager
def packet_sockets() -> Generator[list[socket.socket], None, None]:
    """Have duplicates of the packet sockets of this process."""
    sockets: dict[str, socket.socket] = {}
    with contextlib.ExitStack() as stack:
        for entry in list(Path("/proc/self/fd").iterdir()):
            with contextlib.suppress(OSError):
                what = os.readlink(entry)  # noqa: PTH115  # it leads to no path
                if what.startswith("socket:") and what not in sockets:
                    sockets[what] = stack.enter_context(socket.socket(fileno=os.dup(int(entry.name))))
        yield [each for each in sockets.values() if each.family == socket.AF_PACKET]


def number_of_packet_sockets() -> int:
    with packet_sockets() as found:
        return len(found)


@pytest.fixture
def compiler(veth: tuple[str, str]) -> Generator[Compiler, None, None]:
    """Has a live handle for Ethernet."""
    compiler = Compiler()
    compiler.open_handle(ETHERNET, veth[1])
    assert number_of_packet_sockets() == 1
    yield compiler
    compiler.close_handles()
    until_closed()


def until_closed() -> None:
    deadline_s = time.monotonic() + _PATIENCE_S
    while number_of_packet_sockets():
        assert time.monotonic() < deadline_s, "a handle is still open"
        time.sleep(0.005)


def test_a_handle_receives_nothing_and_nobody_can_change_that(compiler: Compiler, veth: tuple[str, str]) -> None:
    assert compiler.compile("vlan 5", DLT_EN10MB)
    with packet_sockets() as (taken,):
        taken.getsockopt(SOL_PACKET, _PACKET_STATISTICS, 12)  # what came before it was disarmed
        assert send(veth[0], build_frames((64,)), 100) == 100
        received, _, _ = struct.unpack("=3I", taken.getsockopt(SOL_PACKET, _PACKET_STATISTICS, 12))
        assert received == 0
        assert taken.getsockopt(socket.SOL_SOCKET, _SO_LOCK_FILTER) == 1
        with pytest.raises(PermissionError):
            attach_filter(taken, struct.pack("=HBBI", 0x06, 0, 0, 0xFFFF))


def test_what_was_compiled_on_a_handle_is_there_when_it_is_closed(compiler: Compiler, veth: tuple[str, str]) -> None:
    handle = Handle(veth[1])
    handle.activate(snaplen_bytes=262144)
    try:
        expected = handle.compile("vlan 5")
    finally:
        handle.close()
    assert compiler.compile("vlan 5", DLT_EN10MB) == expected
    compiler.close_handles()
    assert compiler.compile("vlan 5", DLT_EN10MB) == expected
    for text, dlt in (("vlan 6", DLT_EN10MB), ("vlan 5", DLT_RAW)):
        with pytest.raises(FilterError, match="'vlan' needs an interface of its kind") as raised:
            compiler.compile(text, dlt)
        assert raised.value.code == FailureCode.UNSUPPORTED


def test_the_types_that_a_kind_has_are_known_when_its_handle_is_closed(compiler: Compiler) -> None:
    compiler.close_handles()
    for wanted in ("EN10MB", "DOCSIS"):
        assert compiler.choose_link_layer_type(ETHERNET, by_name(wanted), "eth0").name == wanted
    assert compiler.choose_link_layer_type(ETHERNET, None, "eth0").name == "EN10MB"
    # Another kind is not known, though it has the same default.
    for kind in (Kind(772, DLT_EN10MB), Kind(1, DLT_RAW)):
        with pytest.raises(CaptureFailed, match="no link-layer type DOCSIS"):
            compiler.choose_link_layer_type(kind, by_name("DOCSIS"), "lo")


def test_handles_are_closed(compiler: Compiler) -> None:
    compiler.close_handles()
    assert number_of_packet_sockets() == 0


def test_a_handle_that_cannot_be_disarmed_is_not_left_open(
    veth: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: Handle) -> NoReturn:
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(Handle, "disarm", fail)
    with pytest.raises(OSError, match="Cannot allocate"):
        Compiler().open_handle(ETHERNET, veth[1])
    assert number_of_packet_sockets() == 0
