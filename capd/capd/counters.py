"""The kernel's counters of all interfaces: one small netlink dump for all, and totals that outlive an interface.

RTM_GETSTATS answers for a thousand interfaces in about 2 ms. Its answers are read with struct and not by pyroute2,
whose parser would take a hundred times as long, once a second.
"""

import errno
import socket
import struct
from collections.abc import Iterator, Mapping

import trio

from capd_protocol.interfaces import InterfaceCounts

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
#: The fields of struct rtnl_link_stats64 (linux/if_link.h) up to the last that we tell of.
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
                        raise OSError(-error, "the kernel does not tell its interfaces' counters")
                    if kind == _RTM_NEWSTATS and len(message) >= _COUNTERS_OFFSET + _COUNTERS.size:
                        index = _STATS_MESSAGE.unpack_from(message, _HEADER.size)[3]
                        found[index] = message[_COUNTERS_OFFSET : _COUNTERS_OFFSET + _COUNTERS.size]
    raise OSError(errno.ETIMEDOUT, "the kernel does not tell its interfaces' counters")


def _messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + _HEADER.size <= len(data):
        length, kind, *_ = _HEADER.unpack_from(data, at)
        yield kind, data[at : at + length]
        at += length + -length % 4


class Totals:
    """What has passed through each interface, by name, since this object's first sample. Pure.

    An interface that is deleted and created again goes on with its total; one that is renamed takes it along.
    """

    def __init__(self) -> None:
        self._last: dict[int, tuple[bytes, Values]] = {}
        self._names: dict[int, str] = {}
        self._totals: dict[str, Values] = {}
        self._has_begun = False

    def sample(self, counters: Mapping[int, bytes], names: Mapping[int, str]) -> None:
        """Take counters by index, and the names of the interfaces; what is missing in either is left out."""
        for index, packed in counters.items():
            if index in names:
                self._take(index, names[index], packed)
        self._has_begun = True
        self._drop_oldest()

    def _take(self, index: int, name: str, packed: bytes) -> None:
        former = self._names.get(index)
        if former is not None and former != name:
            self._totals[name] = self._totals.pop(former, _ZEROS)
        self._names[index] = name
        last = self._last.get(index)
        if last is not None and last[0] == packed:
            return
        unpacked = _COUNTERS.unpack(packed)
        values = tuple(unpacked[position] for position in _POSITIONS)
        # What an interface had counted before the first sample is not ours; one that came later began at zero.
        before = last[1] if last is not None else (_ZEROS if self._has_begun else values)
        self._add(name, values, before)
        self._last[index] = packed, values

    def _add(self, name: str, values: Values, before: Values) -> None:
        total = self._totals.get(name, _ZEROS)
        # A driver that resets its counters begins again at zero.
        self._totals[name] = tuple(t + (v - b if v >= b else v) for t, v, b in zip(total, values, before, strict=True))

    def forget(self, index: int, name: str, last_counters: Mapping[str, int] | None) -> None:
        """Take note that an interface is gone, with its last counters if they are known."""
        self._names.pop(index, None)
        last = self._last.pop(index, None)
        if last_counters is not None and self._has_begun:
            # One that came and went between two samples has counted from zero.
            before = last[1] if last is not None else _ZEROS
            self._add(name, tuple(int(last_counters[field]) for field in _TOLD), before)

    def _drop_oldest(self) -> None:
        present = set(self._names.values())
        gone = [name for name in self._totals if name not in present]
        for name in gone[: max(len(gone) - _MAX_GONE, 0)]:
            del self._totals[name]

    def present(self) -> dict[str, Values]:
        """Return the totals of the interfaces that are there."""
        return {name: self._totals[name] for name in self._names.values() if name in self._totals}

    def all(self) -> dict[str, Values]:
        """Return the totals of all interfaces, gone ones too."""
        return dict(self._totals)


def counts_of(name: str, values: Values, base: Values | None) -> InterfaceCounts:
    """Return totals as they are told, less what they were at the beginning."""
    base = base or _ZEROS
    return InterfaceCounts(name=name, **{n: v - b for n, v, b in zip(_TOLD, values, base, strict=True)})
