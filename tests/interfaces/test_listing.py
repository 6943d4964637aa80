"""What there is to capture on, as dumpcap, tcpdump, ``ip`` and ethtool see it."""

import fcntl
import grp
import os
import re
import struct
from collections.abc import Callable, Generator
from typing import Any

import pytest

from capd_client import (
    ChildError,
    Interface,
    InterfaceError,
    UnsupportedError,
    get_capabilities,
    get_driver_counters,
)
from capd_client.transport.listening import SOCKET_VARIABLE
from capd_protocol.messages.interfaces import InterfaceInfo, InterfaceType, Link
from tests.capture.helpers import ip, kernel_setting
from tests.client.test_private_daemon import where_run_is_empty
from tests.interfaces.helpers import add_pair, cleaned, link_of, other_namespace, outcome_of, unique, wait_until
from tests.support.daemon import Daemon, as_user, children_of, running_daemon
from tests.support.tools import ip_json

STRANGER = 12345
_TUNSETIFF = 0x400454CA
_IFF_TUN, _IFF_TAP, _IFF_NO_PI = 1, 2, 0x1000


def tuntap(name: str, kind: int) -> int:
    descriptor = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(descriptor, _TUNSETIFF, struct.pack("16sH14x", name.encode(), kind | _IFF_NO_PI))
    return descriptor


@pytest.fixture
def zoo() -> Generator[str, None, None]:
    """Interfaces of every kind that there is here; gives the beginning of their names."""
    stem = unique("zo")
    ip("link", "set", "dev", "lo", "up")
    with cleaned(stem), other_namespace() as there:
        add_pair(f"{stem}v0", f"{stem}v1")
        add_pair(f"{stem}p0", f"{stem}p1")
        there.take(f"{stem}p1")
        ip("link", "add", "name", f"{stem}br", "type", "bridge", "forward_delay", "0")
        ip("link", "set", "dev", f"{stem}v1", "master", f"{stem}br")
        ip("link", "set", "dev", f"{stem}br", "up")
        ip("link", "add", "name", f"{stem}ifb", "type", "ifb")
        ip("link", "add", "link", f"{stem}v0", "name", f"{stem}mac", "type", "macvlan")
        ip("link", "set", "dev", f"{stem}mac", "up", "mtu", "1400")
        descriptors = [tuntap(f"{stem}tun", _IFF_TUN), tuntap(f"{stem}tap", _IFF_TAP), tuntap(f"{stem}off", _IFF_TUN)]
        for name in ("tun", "tap"):
            ip("link", "set", "dev", f"{stem}{name}", "up")
        # libpcap's order depends on what is running.
        wait_until(lambda: all(link_of(f"{stem}{name}")["operstate"] == "UP" for name in ("br", "mac", "v0", "v1")))
        wait_until(lambda: link_of(f"{stem}p0")["operstate"] != "UP")
        ip("link", "set", "dev", f"{stem}v0", "alias", "the way out, 100 %")
        ip("link", "set", "dev", f"{stem}v0", "addrgenmode", "none")
        with kernel_setting(f"net/ipv6/conf/{stem}v0/disable_ipv6", "0"):
            for address in ("192.0.2.1/24", "198.51.100.1/32", "2001:db8::1/64", "fe80::9/64"):
                ip("address", "add", address, "dev", f"{stem}v0", *(["nodad"] if ":" in address else []))
            ip("address", "add", "192.0.2.5", "peer", "192.0.2.6", "dev", f"{stem}tun")
            yield stem
        for descriptor in descriptors:
            os.close(descriptor)
    ip("link", "set", "dev", "lo", "down")


def listed(daemon: Daemon) -> list[Interface]:
    return Interface.list_interfaces(socket_path=daemon.socket_path)


def infos(daemon: Daemon) -> dict[str, InterfaceInfo]:
    return {each.name: each.info for each in listed(daemon) if each.info}


def links(daemon: Daemon) -> dict[str, Link]:
    return {name: info.link for name, info in infos(daemon).items() if info.link}


# The list -------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("zoo")
def test_the_list_is_dumpcaps_field_by_field(daemon: Daemon) -> None:
    shown = outcome_of("dumpcap", "-D", "-M").stdout.splitlines()
    expected = []
    for line in shown:
        numbered, vendor, friendly, kind, addresses, loopback, _ = line.split("\t")
        number, _, name = numbered.partition(". ")
        found = (int(number), name, vendor or None, friendly or None, int(kind), addresses, loopback == "loopback")
        expected.append(found)
    assert expected == [
        (
            each.number,
            each.name,
            each.vendor_name,
            # dumpcap does not look at aliases.
            None if each.info and each.info.link and each.info.link.alias else each.friendly_name,
            each.interface_type,
            ",".join(each.addresses),
            each.loopback,
        )
        for each in listed(daemon)
    ]
    assert len(expected) > 10
    assert [each.friendly_name for each in listed(daemon) if each.friendly_name] == ["the way out, 100 %", "Loopback"]


@pytest.mark.usefixtures("zoo")
def test_names_and_descriptions_are_tcpdumps(daemon: Daemon) -> None:
    lines = outcome_of("tcpdump", "-D").stdout.splitlines()
    shown = [re.sub(r" \[[^\[]*\]$", "", line) for line in lines]
    assert shown == [
        f"{each.number}.{each.name}" + (f" ({each.info.description})" if each.info and each.info.description else "")
        for each in listed(daemon)
    ]


def test_links_are_as_ip_shows_them(zoo: str, daemon: Daemon) -> None:
    found = links(daemon)
    shown: list[dict[str, Any]] = ip_json("-d", "address")
    assert sorted(found) == sorted(each["ifname"] for each in shown)
    by_name = {each["ifname"]: each["ifindex"] for each in shown}
    for each in shown:
        link = found[each["ifname"]]
        assert link.index == each["ifindex"]
        assert link.loopback == ("LOOPBACK" in each["flags"])
        assert link.is_up == ("UP" in each["flags"])
        assert link.state == each["operstate"].lower()
        assert link.mtu == each["mtu"]
        assert link.mac_address == each.get("address")
        assert link.kind == each.get("linkinfo", {}).get("info_kind")
        assert link.alias == each.get("ifalias", "")
        assert link.master_index == by_name.get(each.get("master", ""))
        assert link.addresses == tuple(address["local"] for address in each["addr_info"])
        if "link" in each:
            assert link.bound_to_index == by_name[each["link"]]
        elif "link_index" in each:
            assert (link.bound_to_index, link.bound_to_namespace) == (each["link_index"], each["link_netnsid"])
        else:
            assert link.bound_to_index in (None, link.index)
    # All that was to be seen is there.
    assert found[f"{zoo}v1"].master_index == found[f"{zoo}br"].index
    assert found[f"{zoo}mac"].bound_to_index == found[f"{zoo}v0"].index
    assert found[f"{zoo}p0"].bound_to_namespace is not None
    assert len(found[f"{zoo}v0"].addresses) == 4
    assert found[f"{zoo}v0"].alias == "the way out, 100 %"
    assert {found[f"{zoo}{name}"].kind for name in ("v0", "br", "ifb", "mac", "tun")} == {
        "veth",
        "bridge",
        "ifb",
        "macvlan",
        "tun",
    }


@pytest.mark.usefixtures("zoo")
def test_drivers_and_speeds_are_ethtools(daemon: Daemon) -> None:
    seen = set()
    for name, info in infos(daemon).items():
        if info.link is None:
            assert (info.driver, info.bus, info.speed_bits_per_s) == (None, None, None)
            continue
        shown = dict(line.partition(": ")[::2] for line in outcome_of("ethtool", "-i", name).stdout.splitlines())
        assert info.driver == shown.get("driver")
        assert info.bus == (shown.get("bus-info") or None)
        speed = re.search(r"Speed: (\d+)Mb/s", outcome_of("ethtool", name).stdout)
        assert info.speed_bits_per_s == (int(speed[1]) * 10**6 if speed else None)
        seen.add((info.driver, info.speed_bits_per_s))
    assert ("veth", 10**10) in seen
    assert (None, None) in seen


@pytest.mark.usefixtures("zoo")
def test_the_network_namespace_is_the_daemons(daemon: Daemon) -> None:
    ours = os.readlink("/proc/self/ns/net")  # noqa: PTH115  # it is no path
    for info in infos(daemon).values():
        assert info.network_namespace == (ours if info.link else None)


# What each can do -----------------------------------------------------------------------------------------------


def dumpcaps_capabilities(name: str) -> tuple[bool, list[tuple[int, str, str]], list[tuple[str, str]]] | str:
    """Return what dumpcap says of an interface, or its reason not to."""
    done = outcome_of("dumpcap", "-i", name, "-L", "--list-time-stamp-types", "-M")
    if done.returncode != 0:
        found = re.search(r"\(pcap_activate\(\) failed: ([^)]*)\)", done.stderr)
        return found[1] if found else done.stderr
    lines = outcome_of("dumpcap", "-i", name, "-L", "-M").stdout.splitlines()
    types = [line.split("\t") for line in lines[1:] if line]
    stamps = [
        line.split("\t")
        for line in outcome_of("dumpcap", "-i", name, "--list-time-stamp-types", "-M").stdout.splitlines()
    ]
    return (
        lines[0] == "1",
        [(int(dlt), words, description) for dlt, words, description in types],
        [(each[0], each[1]) for each in stamps if len(each) == 2],
    )


#: The daemon lacks that, and dumpcap, which is root here, does not.
NEED_NET_ADMIN = ("nfqueue",)
#: What a capture module says of it, in a process of its own, and not the daemon.
OF_MODULES = {"nflog": (239, "NFLOG"), "dbus-session": (231, "DBUS"), "dbus-system": (231, "DBUS")}


@pytest.mark.long
def test_capabilities_are_dumpcaps_and_tcpdumps(zoo: str, daemon: Daemon) -> None:
    failed = set()
    for each in listed(daemon):
        if each.name in NEED_NET_ADMIN:
            with pytest.raises(UnsupportedError, match=each.name):
                get_capabilities(each.name, socket_path=daemon.socket_path)
            continue
        if each.name in OF_MODULES:
            # dumpcap has a second type for nflog, and wants a bus that is there.
            (layer,) = get_capabilities(each.name, socket_path=daemon.socket_path).link_layers
            assert (layer.dlt, layer.name) == OF_MODULES[each.name]
            continue
        expected = dumpcaps_capabilities(each.name)
        if isinstance(expected, str):
            with pytest.raises(ChildError) as raised:
                get_capabilities(each.name, socket_path=daemon.socket_path)
            failed.add(each.name)
            kind = InterfaceError if "not up" in expected else UnsupportedError
            assert type(raised.value) is kind, (each.name, expected, raised.value)
            assert each.name in str(raised.value)
            with pytest.raises(kind):
                _ = each.can_rfmon
            continue
        found = get_capabilities(each.name, socket_path=daemon.socket_path)
        assert found.can_rfmon == expected[0]
        assert [(layer.dlt, layer.name, layer.description) for layer in found.link_layers] == expected[1]
        assert [(stamp.name, stamp.description) for stamp in found.timestamp_types] == expected[2]
        assert (each.can_rfmon, [(t.dlt, t.name) for t in each.supported_link_layer_types]) == (
            expected[0],
            [layer[:2] for layer in expected[1]],
        )
        done = outcome_of("tcpdump", "-i", each.name, "-L", own_sys=False)
        shown = re.findall(
            r"^  (\S+) \((.*?)\)(?: \(printing not supported\))?$", done.stdout + done.stderr, re.MULTILINE
        )
        assert sorted(shown) == sorted((layer.name, layer.description) for layer in found.link_layers)
    assert f"{zoo}off" in failed
    assert {f"{zoo}v0", f"{zoo}tun", "lo", "any"}.isdisjoint(failed)


def test_there_is_no_monitor_mode_without_a_radio(zoo: str, daemon: Daemon) -> None:
    with pytest.raises(ChildError) as raised:
        Interface.get_interface_capabilities(f"{zoo}v0", monitor_mode=True, socket_path=daemon.socket_path)
    assert type(raised.value) is UnsupportedError
    assert f"{zoo}v0" in str(raised.value)


BAD_NAMES = [
    "nothing0",
    "x" * 16,
    "x" * 5000,
    "",
    ".",
    "..",
    "a b",
    "a/b",
    "-i",
    "--help",
    "veth*",
    "a\0b",
    "a\nb",
    "ä",
    "€" * 5,
    "\udcff",
    "\ud800",
    "'; rm",
    "%d",
]


@pytest.mark.parametrize("name", BAD_NAMES, ids=ascii)
@pytest.mark.parametrize("ask", [get_capabilities, get_driver_counters])
def test_names_of_nothing_are_refused_by_name(daemon: Daemon, ask: Callable[..., object], name: str) -> None:
    with pytest.raises(InterfaceError) as raised:
        ask(name, socket_path=daemon.socket_path)
    shown = str(raised.value)
    assert "\n" not in shown
    assert len(shown) < 300
    assert repr(name[:64])[1:-1] in shown
    assert len(listed(daemon)) > 1


# Who may ask ----------------------------------------------------------------------------------------------------


def test_everybody_may_ask_and_is_told_whether_to_capture(user_dir: Any) -> None:
    group = grp.getgrall()[-1]
    with running_daemon(user_dir, "--group", group.gr_name) as daemon:

        def may_capture() -> dict[str, bool]:
            return {name: info.may_capture for name, info in infos(daemon).items()}

        everything = infos(daemon)
        for groups, expected in (((), False), ((group.gr_gid,), True)):
            found = as_user(may_capture, STRANGER, STRANGER, groups)
            assert found.keys() == everything.keys()
            assert found["lo"] is expected
        assert may_capture()["lo"]
        # What can be captured on that is no network interface.
        assert may_capture()["any"]
        assert as_user(lambda: get_capabilities("any", socket_path=daemon.socket_path).link_layers, STRANGER)
        assert as_user(lambda: get_driver_counters("lo", socket_path=daemon.socket_path), STRANGER) == {}


def test_without_a_daemon_root_has_a_private_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(SOCKET_VARIABLE, raising=False)

    def ask() -> tuple[list[str], int, list[int]]:
        names = [each.name for each in Interface.list_interfaces()]
        return names, len(get_capabilities("any").link_layers), children_of(os.getpid())

    names, link_layers, children = where_run_is_empty(ask)
    assert "lo" in names
    assert (link_layers, children) == (2, [])


@pytest.mark.parametrize("number", [*InterfaceType, 99, None])
def test_a_kind_of_interface_is_called_as_wirepy_does(number: int | None) -> None:
    constants = {value: name for name, value in vars(Interface).items() if name.startswith("IF_")}
    shown = Interface("x", interface_type=number).interface_type_string
    assert shown == constants.get(number, "IF_UNKNOWN").removeprefix("IF_")
