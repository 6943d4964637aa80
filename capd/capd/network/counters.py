"""The kernel's counters of all interfaces: one small netlink dump for all, and totals that outlive an interface.

RTM_GETSTATS answers for a thousand interfaces in about 2 ms. Its answers are read with struct and not by pyroute2,
whose parser would take a hundred times as long, once a second.
"""

import errno
import socket
import struct
from collections.abc import Iterator, Mapping

import trio

from capd_protocol.messages.interfaces import InterfaceCounts

_RTM_NEWSTATS = 92
_RTM_GETSTATS = 94
_NLM_F_REQUEST = 0x1
_NLM_F_DUMP = 0x300
_NLMSG_ERROR = 2
_NLMSG_DONE = 3
#: 1 << (IFLA_STATS_LINK_64 - 1), see IFLA_STATS_FILTER_BIT in linux/if_link.h.
_FILTER_LINK_64 = 1
_HEADER = struct.Struct("=IHHII")
#: struct if_stats_msg: family, padding, ifindex, filter_mask.
_STATS_MESSAGE = struct.Struct("=BBHII")
#: Headers of message, of statistics and of their one attribute.
_COUNTERS_OFFSET = _HEADER.size + _STATS_MESSAGE.size + 4
#: The fields of struct rtnl_link_stats64 (linux/if_link.h) up to the last that clients get.
_FIELDS: tuple[str, ...] = (
    *(
        "rx_packets tx_packets rx_bytes tx_bytes rx_errors tx_errors rx_dropped tx_dropped multicast collisions "
        "rx_length_errors rx_over_errors rx_crc_errors rx_frame_errors rx_fifo_errors rx_missed_errors "
        "tx_aborted_errors tx_carrier_errors tx_fifo_errors"
    ).split(),
)
_COUNTERS = struct.Struct(f"={len(_FIELDS)}Q")
_TOLD = tuple(name for name in InterfaceCounts.__struct_fields__ if name != "name")
_POSITIONS = tuple(_FIELDS.index(name) for name in _TOLD)
_RECEIVE_BYTES = 256 * 1024
_DEADLINE_S = 5.0
#: Interfaces that are gone, whose totals are kept for when they come back. Chosen: a day of busy containers.
_MAX_GONE = 10_000

Values = tuple[int, ...]
_ZEROS: Values = (0,) * len(_TOLD)


async def read_counters() -> dict[int, bytes]:
    """Return every interface's counters by its index, packed as the kernel gives them.

    Raises:
        OSError: the kernel does not answer as it should.
    """
    request = _STATS_MESSAGE.pack(0, 0, 0, 0, _FILTER_LINK_64)
    header = _HEADER.pack(_HEADER.size + len(request), _RTM_GETSTATS, _NLM_F_REQUEST | _NLM_F_DUMP, 1, 0)
    found: dict[int, bytes] = {}
    with trio.socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as netlink:
        await netlink.bind((0, 0))
        with trio.move_on_after(_DEADLINE_S):
            await netlink.send(header + request)
            while True:
                for kind, message in _messages(await netlink.recv(_RECEIVE_BYTES)):
                    if kind == _NLMSG_DONE:
                        return found
                    if kind == _NLMSG_ERROR:
                        (error,) = struct.unpack_from("=i", message, _HEADER.size)
                        raise OSError(-error, "the kernel does not report its interfaces' counters")
                    if kind == _RTM_NEWSTATS and len(message) >= _COUNTERS_OFFSET + _COUNTERS.size:
                        index = _STATS_MESSAGE.unpack_from(message, _HEADER.size)[3]
                        found[index] = message[_COUNTERS_OFFSET : _COUNTERS_OFFSET + _COUNTERS.size]
    raise OSError(errno.ETIMEDOUT, "the kernel does not report its interfaces' counters")


async def counts_by_index(names: Mapping[int, str]) -> list[InterfaceCounts]:
    """Return what the kernel has counted on these interfaces since they came.

    Args:
        names: by index.

    Raises:
        OSError: the kernel does not answer as it should.
    """
    found = await read_counters()
    return [counts_of(name, _values(found[index]), None) for index, name in names.items() if index in found]


def _messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + _HEADER.size <= len(data):
        length, kind, *_ = _HEADER.unpack_from(data, at)
        yield kind, data[at : at + length]
        at += length + -length % 4


class Account:
    """What has passed through one interface. It stays the same object whatever the interface is named."""

    def __init__(self) -> None:
        self.values: Values = _ZEROS

    def add(self, values: Values, before: Values) -> None:
        """Add what the kernel has counted since its counters were ``before``; a driver may have begun again at zero."""
        pairs = zip(self.values, values, before, strict=True)
        self.values = tuple(total + (v - b if v >= b else v) for total, v, b in pairs)


class Totals:
    """What has passed through each interface since this object's first sample. Pure.

    An interface that is deleted, and another one of its name, have one account; one that is renamed takes it along.
    """

    def __init__(self) -> None:
        self._last: dict[int, tuple[bytes, Values]] = {}
        self._names: dict[int, str] = {}
        self._accounts: dict[int, Account] = {}
        #: By the names of interfaces that are gone, the oldest first.
        self._gone: dict[str, Account] = {}
        self._has_begun = False

    def sample(self, counters: Mapping[int, bytes], names: Mapping[int, str]) -> None:
        """Take counters by index, and the names of the interfaces; what is missing in either is left out."""
        for index, packed in counters.items():
            if index in names:
                self._take(index, names[index], packed)
        self._has_begun = True

    def _account(self, index: int, name: str) -> Account:
        former = self._gone.pop(name, None)
        self._names[index] = name
        if index not in self._accounts:
            self._accounts[index] = former or Account()
        return self._accounts[index]

    def _take(self, index: int, name: str, packed: bytes) -> None:
        account = self._account(index, name)
        last = self._last.get(index)
        if last is not None and last[0] == packed:
            return
        values = _values(packed)
        # What an interface had counted before the first sample is not ours; one that came later began at zero.
        before = last[1] if last is not None else (_ZEROS if self._has_begun else values)
        account.add(values, before)
        self._last[index] = packed, values

    def begin(self, index: int, counters: Mapping[str, int] | None) -> None:
        """Take note of an interface that has come, with what it has counted elsewhere if that is known."""
        if counters is not None and self._has_begun:
            self._last[index] = b"", _told(counters)

    def forget(self, index: int, name: str, last_counters: Mapping[str, int] | None) -> None:
        """Take note that an interface is gone, with its last counters if they are known."""
        account = self._account(index, name)
        del self._names[index], self._accounts[index]
        last = self._last.pop(index, None)
        if last_counters is not None and self._has_begun:
            # One that came and went between two samples has counted from zero.
            account.add(_told(last_counters), last[1] if last is not None else _ZEROS)
        self._gone[name] = account
        if len(self._gone) > _MAX_GONE:
            del self._gone[next(iter(self._gone))]

    def present(self) -> dict[str, Account]:
        """Return the accounts of the interfaces that are there, by name."""
        return {name: self._accounts[index] for index, name in self._names.items()}

    def all(self) -> dict[Account, Values]:
        """Return the totals of all interfaces, gone ones too."""
        return {account: account.values for account in (*self._accounts.values(), *self._gone.values())}


def _values(packed: bytes) -> Values:
    unpacked = _COUNTERS.unpack(packed)
    return tuple(unpacked[position] for position in _POSITIONS)


def _told(counters: Mapping[str, int]) -> Values:
    return tuple(int(counters[field]) for field in _TOLD)


def counts_of(name: str, values: Values, base: Values | None) -> InterfaceCounts:
    """Return totals as clients get them, less what they were at the beginning."""
    base = base or _ZEROS
    return InterfaceCounts(name=name, **{n: v - b for n, v, b in zip(_TOLD, values, base, strict=True)})
