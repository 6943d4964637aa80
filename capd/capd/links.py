"""Network interfaces as the kernel describes them: rtnetlink on trio sockets, parsed by pyroute2.

pyroute2's own sockets run on asyncio; its messages do not care.
"""
# pyroute2 has no annotations: what comes from it is checked where it is turned into our own types.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownLambdaType=false, reportUnknownParameterType=false, reportMissingTypeStubs=false

import errno
import socket
import struct
from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any, NamedTuple, cast

import msgspec
import trio
from pyroute2.netlink import NLM_F_DUMP, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR
from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.rtnl import (
    RTM_DELADDR,
    RTM_DELLINK,
    RTM_GETADDR,
    RTM_GETLINK,
    RTM_NEWADDR,
    RTM_NEWLINK,
    RTMGRP_IPV4_IFADDR,
    RTMGRP_IPV6_IFADDR,
    RTMGRP_LINK,
)
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.netlink.rtnl.marshal import MarshalRtnl

from capd_protocol.interfaces import InterfaceChange, Link

_SOL_NETLINK = 270
#: linux/netlink.h: have the kernel look at all that a request says, such as whose addresses are wanted.
_NETLINK_GET_STRICT_CHK = 12
_IFF_UP = 1
_IFF_LOOPBACK = 8
_AF_UNSPEC = 0
#: linux/netlink.h: the tables changed while they were dumped.
_NLM_F_DUMP_INTR = 0x10
#: linux/rtnetlink.h: leave the counters out, most of a link's description.
_RTEXT_FILTER_SKIP_STATS = 1 << 3
#: Larger than the kernel's largest message, and what it fills of a dump at once.
_RECEIVE_BYTES = 256 * 1024
#: Changes that are taken at once. Chosen: they are parsed in some ten milliseconds.
_MAX_MESSAGES = 100
#: For bursts of changes; the kernel doubles it, and takes less where it must.
_WATCH_BUFFER_BYTES = 4 * 1024 * 1024
#: struct nlmsghdr, and where attributes begin behind it and struct ifinfomsg; struct nlattr.
_MESSAGE = struct.Struct("=IHHII")
_ATTRIBUTES_OFFSET = 32
_ATTRIBUTE = struct.Struct("=HH")
_NLA_TYPE_MASK = 0x3FFF
#: By their numbers in linux/if_link.h, the attributes of links that are read here.
_WANTED = frozenset(
    (
        1,  # IFLA_ADDRESS
        3,  # IFLA_IFNAME
        4,  # IFLA_MTU
        5,  # IFLA_LINK
        10,  # IFLA_MASTER
        16,  # IFLA_OPERSTATE
        18,  # IFLA_LINKINFO
        20,  # IFLA_IFALIAS
        23,  # IFLA_STATS64
        37,  # IFLA_LINK_NETNSID
    )
)
_DEADLINE_S = 5.0
_MAX_DUMPS = 10

_ADDRESS_ATTRIBUTES = ("IFA_LOCAL", "IFA_ADDRESS")


async def _exchange(request: Any, flags: int) -> list[Any]:
    """Send one request and return the messages of its answer.

    Raises:
        NetlinkError: the kernel refuses.
        OSError: it does not answer.
    """
    request["header"]["flags"] = NLM_F_REQUEST | flags
    request["header"]["sequence_number"] = 1
    request.encode()
    with trio.socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as netlink:
        with suppress(OSError):  # where the kernel does not know it, it answers with more than was asked for
            netlink.setsockopt(_SOL_NETLINK, _NETLINK_GET_STRICT_CHK, 1)
        await netlink.bind((0, 0))
        with trio.move_on_after(_DEADLINE_S):
            await netlink.send(bytes(request.data))
            messages: list[Any] = []
            while True:
                messages += _parse(await netlink.recv(_RECEIVE_BYTES))
                if not flags & NLM_F_DUMP or messages[-1]["header"]["type"] in (NLMSG_DONE, NLMSG_ERROR):
                    break
            for message in messages:
                if message["header"]["type"] == NLMSG_ERROR and message["header"]["error"] is not None:
                    raise cast(NetlinkError, message["header"]["error"])
            return messages
    raise OSError(errno.ETIMEDOUT, "the kernel does not describe its interfaces")


def _parse(data: bytes) -> list[Any]:
    return list(cast(Iterable[Any], MarshalRtnl().parse(_slim(data))))


def _slim(data: bytes) -> bytes:
    """Leave out the attributes of links that nobody reads here: pyroute2 parses the rest three times as fast.

    Most of a link's kilobyte are the settings of address families.
    """
    parts: list[bytes] = []
    at = 0
    while at + _MESSAGE.size <= len(data):
        length, kind, flags, sequence, port = _MESSAGE.unpack_from(data, at)
        if length < _MESSAGE.size:
            break
        message = data[at : at + length]
        if kind in (RTM_NEWLINK, RTM_DELLINK):
            attributes = b"".join(_wanted_attributes(message))
            size_bytes = _ATTRIBUTES_OFFSET + len(attributes)
            header = _MESSAGE.pack(size_bytes, kind, flags, sequence, port)
            message = header + message[_MESSAGE.size : _ATTRIBUTES_OFFSET] + attributes
        parts.append(message + bytes(-len(message) % 4))
        at += length + -length % 4
    return b"".join(parts)


def _wanted_attributes(message: bytes) -> Iterator[bytes]:
    at = _ATTRIBUTES_OFFSET
    while at + _ATTRIBUTE.size <= len(message):
        length, kind = _ATTRIBUTE.unpack_from(message, at)
        if length < _ATTRIBUTE.size:
            return
        if kind & _NLA_TYPE_MASK in _WANTED:
            value = message[at : at + length]
            yield value + bytes(-length % 4)
        at += length + -length % 4


async def _dump(make: type, message_type: int, index: int = 0) -> list[Any]:
    """Return all messages of a dump, or those of one interface, taken again while it was interrupted by changes."""
    messages: list[Any] = []
    for _ in range(_MAX_DUMPS):
        request: Any = make()
        request["header"]["type"] = message_type
        request["index"] = index
        if message_type == RTM_GETLINK:
            request["attrs"] = [("IFLA_EXT_MASK", _RTEXT_FILTER_SKIP_STATS)]
        messages = await _exchange(request, NLM_F_DUMP)
        if not any(message["header"]["flags"] & _NLM_F_DUMP_INTR for message in messages):
            break
    return [message for message in messages if message["header"]["type"] != NLMSG_DONE]


async def find_link(name: str) -> Link | None:
    """Return the interface of this name, without its addresses; None where there is none.

    Raises:
        OSError: the kernel does not answer as it should.
    """
    request: Any = ifinfmsg()
    request["header"]["type"] = RTM_GETLINK
    request["attrs"] = [("IFLA_IFNAME", name)]
    try:
        (message,) = await _exchange(request, 0)
    except NetlinkError as error:
        if error.code == errno.ENODEV:
            return None
        raise OSError(error.code, f"the kernel does not describe the interface {name}") from error
    return _link_of(message)


async def list_links() -> dict[int, Link]:
    """Return all interfaces with their addresses, by index.

    Raises:
        OSError: the kernel does not answer as it should.
    """
    table = LinkTable()
    for message in await _dump(ifinfmsg, RTM_GETLINK):
        table.apply(message)
    addresses: dict[int, list[str]] = {}
    for message in await _dump(ifaddrmsg, RTM_GETADDR):
        if (address := _address_of(message)) is not None:
            addresses.setdefault(int(message["index"]), []).append(address)
    for index, found in addresses.items():
        table.set_addresses(index, found)
    return table.links


async def _list_addresses(index: int) -> list[str]:
    """Return the addresses of one interface in the kernel's order; none if it is gone.

    Raises:
        OSError: the kernel does not answer as it should.
    """
    try:
        messages = await _dump(ifaddrmsg, RTM_GETADDR, index)
    except NetlinkError as error:
        if error.code == errno.ENODEV:
            return []
        raise OSError(error.code, "the kernel does not tell its addresses") from error
    found = [_address_of(message) for message in messages if message["index"] == index]
    return [address for address in found if address is not None]


def _address_of(message: Any) -> str | None:
    found = [message.get_attr(name) for name in _ADDRESS_ATTRIBUTES]
    return next((str(each) for each in found if each), None)


def _link_of(message: Any) -> Link:
    flags = int(message["flags"])
    info = message.get_attr("IFLA_LINKINFO")
    return Link(
        index=int(message["index"]),
        name=str(message.get_attr("IFLA_IFNAME")),
        loopback=bool(flags & _IFF_LOOPBACK),
        is_up=bool(flags & _IFF_UP),
        state=str(message.get_attr("IFLA_OPERSTATE") or "unknown").lower(),
        mtu=int(message.get_attr("IFLA_MTU") or 0),
        hardware_type=int(message["ifi_type"]),
        mac_address=message.get_attr("IFLA_ADDRESS"),
        kind=info.get_attr("IFLA_INFO_KIND") if info else None,
        bound_to_index=message.get_attr("IFLA_LINK"),
        bound_to_namespace=message.get_attr("IFLA_LINK_NETNSID"),
        master_index=message.get_attr("IFLA_MASTER"),
        alias=message.get_attr("IFLA_IFALIAS") or "",
    )


class Change(NamedTuple):
    """What happened to one interface."""

    kind: InterfaceChange
    link: Link
    former_name: str | None = None
    #: With ADDED and REMOVED, where the kernel told them: its counters then, by rtnl_link_stats64's names.
    counters: Mapping[str, int] | None = None


class LinkTable:
    """The interfaces, as messages of the kernel tell of them. Pure."""

    def __init__(self) -> None:
        self.links: dict[int, Link] = {}

    def apply(self, message: Any) -> list[Change]:
        """Take a message; return what changed: the change, the interface, and its former name if renamed."""
        # Bridges and address families send link messages too; they tell of a part only.
        kind = message["header"]["type"]
        if kind not in (RTM_NEWLINK, RTM_DELLINK) or message["family"] != _AF_UNSPEC:
            return []
        counters = message.get_attr("IFLA_STATS64")
        if kind == RTM_DELLINK:
            old = self.links.pop(int(message["index"]), None)
            return [Change(InterfaceChange.REMOVED, old, counters=counters)] if old else []
        link = _link_of(message)
        old = self.links.get(link.index)
        if old is not None:
            link = msgspec.structs.replace(link, addresses=old.addresses)
        return [*self._set(link, counters), *self._complete_peer(link)]

    def set_addresses(self, index: int, addresses: Iterable[str]) -> list[Change]:
        """Take the addresses of an interface; return what changed."""
        link = self.links.get(index)
        if link is None:
            return []
        return self._set(msgspec.structs.replace(link, addresses=tuple(dict.fromkeys(addresses))))

    def _set(self, link: Link, counters: Mapping[str, int] | None = None) -> list[Change]:
        old = self.links.get(link.index)
        self.links[link.index] = link
        return _changes(old, link, counters)

    def _complete_peer(self, link: Link) -> list[Change]:
        """Of a new veth pair, the kernel tells of one end before it has the other one, and not again."""
        peer = self.links.get(link.bound_to_index or 0)
        if link.kind != "veth" or link.bound_to_namespace is not None or peer is None or peer.bound_to_index:
            return []
        return self._set(msgspec.structs.replace(peer, bound_to_index=link.index))

    def take_over(self, fresh: dict[int, Link]) -> list[Change]:
        """Replace the picture by a fresh one; return what the difference is."""
        before, self.links = self.links, dict(fresh)
        changes = [Change(InterfaceChange.REMOVED, link) for index, link in before.items() if index not in fresh]
        for index, link in fresh.items():
            changes += _changes(before.get(index), link)
        return changes


def _changes(old: Link | None, new: Link, counters: Mapping[str, int] | None = None) -> list[Change]:
    """Name the differences, the most telling ones; what else differs is in the link."""
    if old is None:
        return [Change(InterfaceChange.ADDED, new, counters=counters)]
    changes: list[Change] = []
    if old.name != new.name:
        changes.append(Change(InterfaceChange.RENAMED, new, old.name))
    if old.is_up != new.is_up:
        changes.append(Change(InterfaceChange.UP if new.is_up else InterfaceChange.DOWN, new))
    if not changes and old != new:
        changes.append(Change(InterfaceChange.CHANGED, new))
    return changes


async def watch_links(table: LinkTable) -> AsyncGenerator[list[Change], None]:
    """Keep a table current, for as long as the iterator is used; yield what changes.

    The first batch is everything that is there. Nothing is lost: where the kernel has more changes than its
    buffer takes, the picture is made anew, and what became of the difference is told.

    Raises:
        OSError: the kernel does not answer as it should.
    """
    while True:
        # A new socket each time: what waits in one that has overflowed is older than the listing, and until it is
        # empty, the kernel goes on to drop messages without a word.
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as netlink:
            netlink.setblocking(False)
            netlink.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _WATCH_BUFFER_BYTES)
            # Before the listing: what changes meanwhile waits here.
            netlink.bind((0, RTMGRP_LINK | RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR))
            yield table.take_over(await list_links())
            while (messages := await _receive_changes(netlink)) is not None:
                # Their order, and whether one is there twice, is the kernel's to say. Asked for first, so that nobody
                # sees the table between a change and its being told.
                indexes = {int(m["index"]) for m in messages if m["header"]["type"] in (RTM_NEWADDR, RTM_DELADDR)}
                addresses = [(index, await _list_addresses(index)) for index in indexes]
                changes = [change for message in messages for change in table.apply(message)]
                changes += [change for each in addresses for change in table.set_addresses(*each)]
                if changes:
                    yield changes


async def _receive_changes(netlink: socket.socket) -> list[Any] | None:
    """Return the messages that have come, as soon as there are any; None where the socket had no room for all.

    Many at once, so that whoever changes a thousand addresses has them looked up less than a thousand times.
    """
    await trio.lowlevel.wait_readable(netlink)
    messages: list[Any] = []
    try:
        while len(messages) < _MAX_MESSAGES:
            messages += _parse(netlink.recv(_RECEIVE_BYTES))
    except BlockingIOError:
        pass
    except OSError as error:
        if error.errno != errno.ENOBUFS:
            raise
        return None
    return messages
