"""Network interfaces as the kernel describes them: rtnetlink on trio sockets, parsed by pyroute2.

pyroute2's own sockets run on asyncio; its messages do not care.
"""
# pyroute2 has no annotations: what comes from it is checked where it is turned into our own types.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownLambdaType=false, reportUnknownParameterType=false, reportMissingTypeStubs=false

import errno
import select
import socket
import struct
from collections.abc import AsyncGenerator, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
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

from capd_protocol.messages.interfaces import InterfaceChange, Link

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
#: Changes that are taken at once. Chosen: what is new of them is applied in a few milliseconds.
_MAX_MESSAGES = 50
#: For bursts of changes; the kernel doubles it, and takes less where it must.
_WATCH_BUFFER_BYTES = 4 * 1024 * 1024
#: struct ifinfomsg, but for its padding, and the flags that are read here.
_LINK = struct.Struct("=BxHiI")
_READ_FLAGS = _IFF_UP | _IFF_LOOPBACK
#: struct nlmsghdr, and where attributes begin behind it and struct ifinfomsg; struct nlattr.
_MESSAGE = struct.Struct("=IHHII")
_ATTRIBUTES_OFFSET = 32
_ATTRIBUTE = struct.Struct("=HH")
_NLA_TYPE_MASK = 0x3FFF
_IFLA_STATS64 = 23
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
        _IFLA_STATS64,
        37,  # IFLA_LINK_NETNSID
    )
)
_DEADLINE_S = 5.0
_MAX_DUMPS = 10

_ADDRESS_CHANGES = (RTM_NEWADDR, RTM_DELADDR)
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
            slimmer = _Slimmer()
            while True:
                messages += _parse(await netlink.recv(_RECEIVE_BYTES), slimmer)
                kinds = {message["header"]["type"] for message in messages[-1:]}
                if not flags & NLM_F_DUMP or not kinds.isdisjoint((NLMSG_DONE, NLMSG_ERROR)):
                    break
            for message in messages:
                if message["header"]["type"] == NLMSG_ERROR and message["header"]["error"] is not None:
                    raise cast(NetlinkError, message["header"]["error"])
            return messages
    raise OSError(errno.ETIMEDOUT, "the kernel does not describe its interfaces")


def _parse(data: bytes, slimmer: "_Slimmer") -> list[Any]:
    slim = slimmer.slim(data)
    return list(cast(Iterable[Any], MarshalRtnl().parse(slim))) if slim else []


class _Slimmer:
    """Leaves out what nobody reads here: pyroute2 parses the rest three times as fast.

    Most of a link's kilobyte are the settings of address families. And most messages about links say nothing new: each
    capture in promiscuous mode makes two.
    """

    def __init__(self) -> None:
        """Have seen nothing."""
        #: The last message about each link, by its index.
        self._last: dict[int, bytes] = {}

    def slim(self, data: bytes) -> bytes:
        """Return what is new in the kernel's messages."""
        parts: list[bytes] = []
        at = 0
        while at + _MESSAGE.size <= len(data):
            length, kind, flags, sequence, port = _MESSAGE.unpack_from(data, at)
            if length < _MESSAGE.size:
                break
            message = data[at : at + length]
            if kind in (RTM_NEWLINK, RTM_DELLINK):
                attributes = tuple(_wanted_attributes(message))
                if not self._is_news(kind, message, attributes):
                    message = b""
                else:
                    body = b"".join((message[_MESSAGE.size : _ATTRIBUTES_OFFSET], *attributes))
                    message = _MESSAGE.pack(_MESSAGE.size + len(body), kind, flags, sequence, port) + body
            parts.append(message + bytes(-len(message) % 4))
            at += length + -length % 4
        return b"".join(parts)

    def _is_news(self, kind: int, message: bytes, attributes: Iterable[bytes]) -> bool:
        family, hardware_type, index, flags = _LINK.unpack_from(message, _MESSAGE.size)
        if family != _AF_UNSPEC:  # bridges and address families send such messages too; they have a part only
            return False
        if kind == RTM_DELLINK:
            self._last.pop(index, None)
            return True
        lasting = (each for each in attributes if _ATTRIBUTE.unpack_from(each)[1] & _NLA_TYPE_MASK != _IFLA_STATS64)
        message = b"".join((struct.pack("=HI", hardware_type, flags & _READ_FLAGS), *lasting))
        if self._last.get(index) == message:
            return False
        self._last[index] = message
        return True


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
        raise OSError(error.code, "the kernel does not report its addresses") from error
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
    #: With ADDED and REMOVED, where the kernel sent them: its counters then, by rtnl_link_stats64's names.
    counters: Mapping[str, int] | None = None


class LinkTable:
    """The interfaces, as messages of the kernel report them. Pure."""

    def __init__(self) -> None:
        self.links: dict[int, Link] = {}
        #: Another one whenever anything has changed.
        self.version = 0
        self._names: dict[str, Link] = {}
        self._version_of_names = 0

    def find(self, name: str) -> Link | None:
        """Return the interface of this name; None where there is none."""
        if self._version_of_names != self.version:
            self._names, self._version_of_names = {link.name: link for link in self.links.values()}, self.version
        return self._names.get(name)

    def apply(self, message: Any) -> list[Change]:
        """Take a message; return what changed: the change, the interface, and its former name if renamed."""
        # What bridges and address families send has a part only.
        kind = message["header"]["type"]
        if kind not in (RTM_NEWLINK, RTM_DELLINK) or message["family"] != _AF_UNSPEC:
            return []
        counters = message.get_attr("IFLA_STATS64")
        if kind == RTM_DELLINK:
            old = self.links.pop(int(message["index"]), None)
            self.version += 1
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
        self.version += old != link
        return _changes(old, link, counters)

    def _complete_peer(self, link: Link) -> list[Change]:
        """Of a new veth pair, the kernel reports one end before it has the other one, and not again."""
        peer = self.links.get(link.bound_to_index or 0)
        if link.kind != "veth" or link.bound_to_namespace is not None or peer is None or peer.bound_to_index:
            return []
        return self._set(msgspec.structs.replace(peer, bound_to_index=link.index))

    def take_over(self, fresh: dict[int, Link]) -> list[Change]:
        """Replace the picture by a fresh one; return what the difference is."""
        before, self.links = self.links, dict(fresh)
        self.version += 1
        changes = [Change(InterfaceChange.REMOVED, link) for index, link in before.items() if index not in fresh]
        for index, link in fresh.items():
            changes += _changes(before.get(index), link)
        return changes


def _changes(old: Link | None, new: Link, counters: Mapping[str, int] | None = None) -> list[Change]:
    """Name the differences, the most important ones; what else differs is in the link."""
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


class LinkWatch:
    """Keeps a table current."""

    def __init__(self) -> None:
        """Have an empty table; ``batches`` fills it."""
        self.table = LinkTable()
        self._netlink: socket.socket | None = None
        self._is_applied = False
        #: How often the kernel had nothing more to report, and how often all until then was in the table.
        self._dry = self._dry_and_applied = 0

    @property
    def is_current(self) -> bool:
        """Whether all that the kernel has reported is in the table."""
        if self._netlink is None or not self._is_applied:
            return False
        poll = select.poll()
        poll.register(self._netlink, select.POLLIN)
        return not poll.poll(0)

    @property
    def next_dry(self) -> int:
        """What ``dry_and_applied`` is, at least, when all is in the table that the kernel has reported by now."""
        return self._dry + 1

    @property
    def dry_and_applied(self) -> int:
        """How often all has been in the table that the kernel had reported until then."""
        return self._dry_and_applied

    async def batches(self) -> AsyncGenerator[list[Change], None]:
        """Keep the table current, for as long as the iterator is used; yield what changes, which may be nothing.

        The first batch is everything that is there. Nothing is lost: where the kernel has more changes than its
        buffer takes, the picture is made anew, and its differences are reported.

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
                dry = self._dry = self._dry + 1
                changes = self.table.take_over(await list_links())
                with self._followed(netlink):
                    self._dry_and_applied = dry
                    yield changes
                    slimmer = _Slimmer()
                    while (messages := await self._receive(netlink, slimmer)) is not None:
                        # Their order, and whether one is there twice, is the kernel's to say. Asked for first, so that
                        # nobody sees the table between a change and its report.
                        indexes = {int(m["index"]) for m in messages if m["header"]["type"] in _ADDRESS_CHANGES}
                        addresses = [(index, await _list_addresses(index)) for index in indexes]
                        changes = [change for message in messages for change in self.table.apply(message)]
                        changes += [change for each in addresses for change in self.table.set_addresses(*each)]
                        self._is_applied = True
                        self._dry_and_applied = self._dry
                        yield changes

    @contextmanager
    def _followed(self, netlink: socket.socket) -> Generator[None, None, None]:
        self._netlink, self._is_applied = netlink, True
        try:
            yield
        finally:
            self._netlink, self._is_applied = None, False

    async def _receive(self, netlink: socket.socket, slimmer: _Slimmer) -> list[Any] | None:
        """Return what is new of what has come, as soon as anything has; None where the socket had no room for all.

        Many messages at once, so that whoever changes a thousand addresses has them looked up less than a thousand
        times.
        """
        await trio.lowlevel.wait_readable(netlink)
        self._is_applied = False
        messages: list[Any] = []
        try:
            for _ in range(_MAX_MESSAGES):
                if news := _parse(netlink.recv(_RECEIVE_BYTES), slimmer):
                    messages += news
                    await trio.lowlevel.checkpoint()
        except BlockingIOError:
            self._dry += 1
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise
            return None
        return messages
