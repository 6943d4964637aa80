"""Devices of the system's libpcap as sources, with the interfaces that there are."""

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from capd_client import ChildError, InterfaceError, InvalidArgument, UnsupportedError, read
from capd_client.modules.contract import Options, Packet, Statistics
from capd_client.modules.devices.libpcap import LibpcapCapture
from tests.cli.calling import called
from tests.client.conftest import Bench
from tests.client.helpers import wait_until
from tests.client.test_modules import written
from tests.client.test_streams import typed


def test_packets_and_times_are_those_of_capds_own_ring(bench: Bench) -> None:
    with bench.session(interfaces=[f"libpcap:{bench.interface}", bench.interface]) as capture:
        bench.send(3000)
        wait_until(lambda: written(capture) >= 6000, "all are there")
    packets = list(read(bench.savefile))
    theirs, ours = ([each for each in packets if each.interface_id == number] for number in (0, 1))
    assert len(theirs) == len(ours) == 3000
    assert [(each.timestamp_ns, bytes(each.data)) for each in theirs] == [
        (each.timestamp_ns, bytes(each.data)) for each in ours
    ]


def test_options_are_those_of_libpcap(bench: Bench) -> None:
    arguments: dict[str, Any] = {"snaplen": 40, "direction": "in", "kernel_buffer_size": 1, "promiscuous": False}
    with bench.session(interfaces=f"libpcap:{bench.interface}", **arguments) as capture:
        bench.exchange()
        wait_until(lambda: written(capture) >= 4, "they are there")
    packets = list(read(bench.savefile))
    assert {len(each.data) for each in packets} == {40}
    assert {each.original_size_bytes for each in packets} == {64}
    # All that comes in, and not what goes out.
    assert len(packets) == 4
    with bench.session(interfaces="libpcap:any", link_layer_type="LINUX_SLL2") as capture:
        bench.send(2)
        wait_until(lambda: written(capture) >= 2, "they are there")
    info = subprocess.run(["capinfos", "-E", str(bench.savefile)], capture_output=True, text=True, check=True).stdout
    assert re.search("Linux cooked-mode capture v2", info), info


REFUSALS: dict[str, tuple[str, dict[str, Any], type[ChildError], str]] = {
    "nothing": ("libpcap:", {}, InvalidArgument, "such as libpcap:usbmon1: name one"),
    "no device": ("libpcap:nosuch", {}, InterfaceError, "libpcap has no device nosuch"),
    "our own": ("libpcap:nflog:5", {}, InvalidArgument, "nflog:5 is not captured from through libpcap"),
    "a queue": ("libpcap:nfqueue:5", {}, InvalidArgument, "leave its prefix out"),
    "another type": ("libpcap:any", {"link_layer_type": "DOCSIS"}, UnsupportedError, "no such link-layer type"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_what_libpcap_cannot_is_refused(bench: Bench, name: str) -> None:
    device, arguments, error, words = REFUSALS[name]
    with pytest.raises(error, match=words):
        bench.session(interfaces=device, **arguments)


def test_the_kernel_filters_and_counts_and_packets_can_be_sent(bench: Bench) -> None:
    captures = [LibpcapCapture(f"libpcap:{name}") for name in (bench.interface, bench.sender)]
    receiver, sender = captures
    try:
        for each in captures:
            assert each.activate(Options(immediate=True)) == 1
        assert not receiver.set_filter("tcp and")
        assert receiver.set_filter("ether proto 0x88b5")
        frames = [b"\xff" * 6 + b"\2" * 6 + kind + bytes(50) for kind in (b"\x88\xb5", b"\x88\xb6", b"\x88\xb5")]
        assert [sender.inject(each) for each in frames] == [64, 64, 64]
        found: list[Packet] = []

        def are_there() -> bool:
            found.extend(receiver.read(1))
            return len(found) == 2

        wait_until(are_there, "both are there")
        assert [each.data for each in found] == [frames[0], frames[2]]
        assert receiver.statistics() == Statistics(2, 0)
        assert receiver.fileno() is not None
    finally:
        for each in captures:
            each.close()


def test_the_right_that_is_missing_is_named(bench: Bench, user_dir: Path) -> None:
    done = typed(f"capctl capture -i libpcap:{bench.interface} -w a.pcapng", user_dir)
    assert "takes CAP_NET_RAW, which this user has not" in done.stderr, done
    assert not os.path.exists(user_dir / "a.pcapng")  # noqa: PTH110


def test_link_types_are_shown_and_devices_listed(bench: Bench) -> None:
    assert [line.split()[1] for line in called("linktypes", "libpcap:any").stdout.splitlines()[1:3]] == [
        *("LINUX_SLL", "LINUX_SLL2")
    ]
    theirs = subprocess.run(["tcpdump", "-D"], capture_output=True, text=True, check=True).stdout
    names = set(re.findall(r"^[0-9]+\.(\S+)", theirs, re.MULTILINE))
    listed = called("interfaces", "--modules").stdout
    assert "bluetooth-monitor" in names
    assert "libpcap:bluetooth-monitor" in listed
    assert f"libpcap:{bench.interface}" not in listed
