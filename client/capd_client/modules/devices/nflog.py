"""Netfilter's log as a device: packets of rules that log to a group, with the kernel's times and exact losses.

libpcap's own device of this name stamps packets when it reads them, and counts a loss of many packets as one.
"""

import errno
import os
import re
import socket
import time
from collections import deque
from collections.abc import Collection, Sequence

from capd_client.modules.contract import (
    Capture,
    Device,
    DeviceBusy,
    DeviceGone,
    Module,
    ModuleFailed,
    NoPermission,
    NotSupported,
    Options,
    Packet,
    Statistics,
    WrongName,
)
from capd_client.modules.devices import nflog_wire
from capd_client.modules.devices.nflog_wire import LogPacket
from capd_protocol.formats.packet_flags import Direction, PacketKind, packet_flags
from capd_protocol.messages.interfaces import MissingRight

LINKTYPE_NFLOG = 239

_NAME = re.compile(r"nflog(?::([0-9]{1,5}(?:,[0-9]{1,5})*))?")
#: As many as libpcap takes.
_MAX_GROUPS = 32
_MAX_GROUP = 0xFFFF
_NETLINK_NETFILTER = 12
#: Not in Python's socket; as on most of Linux's architectures (asm-generic/socket.h).
_SO_RCVBUFFORCE = 33
#: What waits until it is read, unless the user says otherwise. Chosen: a tenth of a second of 200,000 packets a second.
_BUFFER_BYTES = 32 * 1024 * 1024
#: More than the kernel gathers into a datagram.
_READ_BYTES = 256 * 1024
#: The kernel answers at once.
_ANSWER_S = 5.0
#: Sequence numbers begin again behind this.
_NUMBERS = 2**32


class NflogCapture(Capture):
    """The packets of some groups."""

    def __init__(self, name: str, groups: Sequence[int]) -> None:
        self._name = name
        self._groups = groups
        self._socket: socket.socket | None = None
        self._memory = bytearray(_READ_BYTES)
        self._waiting: deque[LogPacket] = deque()
        #: Of each group, the number of the packet that comes next.
        self._next = dict.fromkeys(groups, 0)
        self._direction = Direction.UNKNOWN
        self._received = self._dropped = 0

    def link_types(self) -> Sequence[int]:
        """Return the only one."""
        return (LINKTYPE_NFLOG,)

    def activate(self, options: Options) -> int:
        """Listen to the groups."""
        if options.monitor_mode:
            raise NotSupported(f"{self._name} is no radio: leave the monitor mode out")
        try:
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER)
        except OSError as error:
            raise NotSupported("this kernel has no netfilter log: load the module nfnetlink_log") from error
        self._socket.settimeout(_ANSWER_S)
        if not _may_listen(self._socket, options.buffer_size_bytes or _BUFFER_BYTES):
            text = f"{self._name} takes CAP_NET_ADMIN in the network namespace, which this user has not: become root"
            raise NoPermission(text)
        for group in self._groups:
            for request in nflog_wire.listening(group, options.timeout_s, immediate=options.immediate):
                self._set(group, request)
        self._socket.setblocking(False)
        return LINKTYPE_NFLOG

    def fileno(self) -> int | None:
        """Return the netlink socket."""
        assert self._socket is not None
        return self._socket.fileno()

    def set_direction(self, direction: Direction) -> None:
        """Leave out packets that go the other way, or pass through."""
        self._direction = direction

    def read(self, max_packets: int) -> Sequence[Packet]:
        """Return packets. What was received by the kernel has its time, and all else that of reading."""
        found: list[Packet] = []
        now_ns = time.time_ns()
        while len(found) < max_packets and (self._waiting or self._receive()):
            while self._waiting and len(found) < max_packets:
                each = self._waiting.popleft()
                self._count(each)
                if self._direction in (Direction.UNKNOWN, each.direction):
                    timestamp_ns = now_ns if each.timestamp_ns is None else each.timestamp_ns
                    flags = packet_flags(each.direction, PacketKind.UNKNOWN)
                    found.append(Packet(timestamp_ns, each.data, len(each.data), flags))
        return found

    def statistics(self) -> Statistics:
        """Return the counts: sequence numbers say exactly how many were lost, as soon as the next packet comes."""
        return Statistics(self._received, self._dropped)

    def close(self) -> None:
        """Close the socket, which listens to its groups no more."""
        if self._socket is not None:
            self._socket.close()

    def _receive(self) -> bool:
        """Read a datagram; return whether there was one."""
        assert self._socket is not None
        while True:
            try:
                size_bytes = self._socket.recv_into(self._memory)
            except BlockingIOError:
                return False
            except OSError as error:
                # Some were lost: which, their numbers will show.
                if error.errno == errno.ENOBUFS:
                    continue
                raise DeviceGone(f"{self._name} cannot be read any further: {error.strerror}") from error
            self._waiting.extend(nflog_wire.packets_of(bytes(memoryview(self._memory)[:size_bytes])))
            if self._waiting:
                return True

    def _count(self, packet: LogPacket) -> None:
        self._received += 1
        if packet.sequence is not None:
            lost = (packet.sequence - self._next[packet.group]) % _NUMBERS
            self._received += lost
            self._dropped += lost
            self._next[packet.group] = (packet.sequence + 1) % _NUMBERS

    def _set(self, group: int, request: bytes) -> None:
        """Make a request of the kernel.

        Raises:
            DeviceBusy: somebody else listens to the group.
            ModuleFailed: the kernel refuses for another reason.
        """
        assert self._socket is not None
        self._socket.send(request)
        while (number := nflog_wire.error_of(data := self._socket.recv(_READ_BYTES))) is None:
            self._waiting.extend(nflog_wire.packets_of(data))  # packets of a group that is bound already
        if number == errno.EPERM:  # and this is not for lack of the right, which was looked at before
            text = (
                f"another program listens to group {group} of netfilter's log, and only one can: log to another group"
            )
            raise DeviceBusy(text)
        if number in (errno.EINVAL, errno.EOPNOTSUPP):
            raise NotSupported("this kernel has no netfilter log: load the module nfnetlink_log")
        if number:
            raise ModuleFailed(f"the kernel refuses group {group} of netfilter's log: {os.strerror(number)}")


def _may_listen(connection: socket.socket, buffer_bytes: int) -> bool:
    """Have a socket's buffer be so large; return whether this process may, which takes the same right as to listen."""
    try:
        connection.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, buffer_bytes)
    except PermissionError:
        return False
    return True


class NflogModule(Module):
    """The groups of netfilter's log."""

    def owns(self, name: str) -> bool:
        """Return whether it is the log's."""
        return name.partition(":")[0] == "nflog"

    def create(self, name: str) -> Capture:
        """Return one or more groups; group 0 where none is named, as in libpcap."""
        found = _NAME.fullmatch(name)
        groups = [int(each) for each in (found[1] or "0").split(",")] if found is not None else []
        if not groups or len(groups) > _MAX_GROUPS or max(groups) > _MAX_GROUP or len(set(groups)) < len(groups):
            text = f"{name!r:.80} names no groups: write nflog:GROUP, or up to {_MAX_GROUPS} different ones with commas"
            raise WrongName(f"{text}; a group is a number from 0 to {_MAX_GROUP}")
        return NflogCapture(name, groups)

    def capabilities(self) -> Collection[str]:
        """Return what listening to a group may take."""
        return ("CAP_NET_ADMIN",)

    def devices(self) -> Sequence[Device]:
        """Return the log: which groups there are, the kernel does not tell."""
        try:
            with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER) as probe:
                missing = None if _may_listen(probe, 0) else MissingRight.CAP_NET_ADMIN
        except OSError:
            return ()
        return [Device("nflog", "Netfilter log: nflog:GROUP[,GROUP…]", missing_right=missing)]


MODULE = NflogModule()
