"""D-Bus as a device: all messages of a bus, as a monitor of it gets them, replies and errors too.

libpcap's own devices of these names get calls and signals only, on a system bus signals only, and poll.
"""

import os
import socket
import time
from collections.abc import Sequence

from capd_client.modules.contract import (
    Capture,
    Device,
    DeviceGone,
    Module,
    ModuleFailed,
    NoPermission,
    NoSuchDevice,
    NotSupported,
    Options,
    Packet,
    Statistics,
    WrongName,
)
from capd_client.modules.devices import dbus_wire
from capd_client.modules.devices.dbus_wire import NotDbusError, WrongAddressError
from capd_protocol.messages.interfaces import MissingRight

LINKTYPE_DBUS = 231

_SESSION, _SYSTEM, _ADDRESS = "dbus-session", "dbus-system", "dbus:"
#: Where a system's bus is, unless ``DBUS_SYSTEM_BUS_ADDRESS`` says otherwise (the specification, "Well-known Message
#: Bus Instances"; /var/run is /run).
_SYSTEM_BUS = "unix:path=/run/dbus/system_bus_socket"
#: How long a bus may take for each of its answers before the capture begins. Chosen: as long as anything else that is
#: waited for then, and less than what a guardian gives.
_ANSWER_S = 5.0
_READ_BYTES = 256 * 1024
#: Of a line of the login; a bus that sends more is none.
_MAX_LINE_BYTES = 16384
_HELLO, _MONITOR = 1, 2
_KEPT_OUT = "the bus of {} does not let this user in: most take nobody but the user whose they are, and root"


class DbusCapture(Capture):
    """The messages of one bus."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._socket: socket.socket | None = None
        self._data = bytearray()
        self._snaplen_bytes = 0
        self._received = 0

    def link_types(self) -> Sequence[int]:
        """Return the only one."""
        return (LINKTYPE_DBUS,)

    def activate(self, options: Options) -> int:
        """Become a monitor of the bus."""
        if options.monitor_mode:
            raise NotSupported(f"{self._name} is no radio: leave the monitor mode out")
        self._snaplen_bytes = options.snaplen_bytes
        try:
            self._socket = self._connected()
            if options.buffer_size_bytes is not None:
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, options.buffer_size_bytes)
            self._log_in()
            self._ask(_HELLO, dbus_wire.hello(_HELLO))
            self._ask(_MONITOR, dbus_wire.become_monitor(_MONITOR))
        except (DeviceGone, ConnectionResetError, BrokenPipeError) as error:
            raise NoPermission(_KEPT_OUT.format(self._name)) from error
        except TimeoutError as error:
            raise ModuleFailed(f"the bus of {self._name} has not answered within {_ANSWER_S:g} s") from error
        except OSError as error:
            raise NoSuchDevice(f"the bus of {self._name} cannot be reached: {error.strerror or error}") from error
        except NotDbusError as error:
            raise ModuleFailed(f"what answers as the bus of {self._name} does not speak D-Bus: {error}") from error
        self._socket.setblocking(False)
        return LINKTYPE_DBUS

    def fileno(self) -> int | None:
        """Return the connection."""
        assert self._socket is not None
        return self._socket.fileno()

    def read(self, max_packets: int) -> Sequence[Packet]:
        """Return messages; their time is when they were read, since nothing else has one."""
        assert self._socket is not None
        try:
            found = self._messages(max_packets)
            if not found:
                self._receive()
                found = self._messages(max_packets)
        except NotDbusError as error:
            raise ModuleFailed(f"the bus has sent what is no D-Bus: {error}") from error
        except BlockingIOError:
            return []
        except OSError as error:
            raise DeviceGone(f"the connection to the bus has failed: {error.strerror}") from error
        now_ns = time.time_ns()
        self._received += len(found)
        return [Packet(now_ns, bytes(each[: self._snaplen_bytes]), len(each)) for each in found]

    def statistics(self) -> Statistics:
        """Return how many came; a bus loses none, but closes the connection of who is too slow."""
        return Statistics(self._received, 0)

    def close(self) -> None:
        """Close the connection."""
        if self._socket is not None:
            self._socket.close()

    # The connection --------------------------------------------------------------------------------------------------

    def _connected(self) -> socket.socket:
        """Return a connection to the first of the bus's sockets that answers."""
        failure: OSError | None = None
        for each in dbus_wire.socket_addresses(_address_of(self._name), os.environ.get("XDG_RUNTIME_DIR")):
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            connection.settimeout(_ANSWER_S)
            try:
                connection.connect(each)
            except OSError as error:
                connection.close()
                failure = error
            except BaseException:
                connection.close()
                raise
            else:
                return connection
        assert failure is not None  # there is an address
        raise failure

    def _log_in(self) -> None:
        assert self._socket is not None
        for line, wanted in dbus_wire.login(os.geteuid()):
            self._socket.sendall(line)
            answer = self._line()
            if not answer.startswith(wanted):
                raise NoPermission(_KEPT_OUT.format(self._name))
        self._socket.sendall(dbus_wire.BEGIN)

    def _line(self) -> bytes:
        while b"\n" not in self._data:
            if len(self._data) > _MAX_LINE_BYTES:
                raise NotDbusError("a line of its login has no end")
            self._receive()
        line, _, rest = bytes(self._data).partition(b"\n")
        self._data = bytearray(rest)
        return line

    def _ask(self, serial: int, request: bytes) -> None:
        """Call a method of the bus, and wait for the answer. What comes before that was before the capture.

        Raises:
            NoPermission: the bus does not let this user.
            NotSupported: the bus has no such method.
            ModuleFailed: it answers with another error.
        """
        assert self._socket is not None
        self._socket.sendall(request)
        reply = None
        while reply is None or reply.serial != serial:
            while not (found := self._messages(1)):
                self._receive()
            reply = dbus_wire.reply_of(found[0])
        if reply.error is None:
            return
        if reply.error == dbus_wire.ACCESS_DENIED:
            text = f"the bus of {self._name} does not let this user monitor it: most let root only; become root"
            raise NoPermission(f"{text} ({reply.text})")
        if reply.error in dbus_wire.UNKNOWN:
            raise NotSupported(f"the bus of {self._name} has no monitors: take a newer one ({reply.text})")
        raise ModuleFailed(f"the bus of {self._name} has refused: {reply.text or reply.error}")

    def _receive(self) -> None:
        """Read once.

        Raises:
            DeviceGone: the bus has closed the connection.
            BlockingIOError: nothing is there.
        """
        assert self._socket is not None
        # Without room for descriptors, which the kernel closes then.
        read = self._socket.recv(_READ_BYTES)
        if not read:
            raise DeviceGone(f"the bus of {self._name} has closed the connection")
        self._data += read

    def _messages(self, most: int) -> list[bytes]:
        """Take whole messages from what was read."""
        found: list[bytes] = []
        at = 0
        while len(found) < most:
            size_bytes = dbus_wire.message_bytes(self._data, at)
            if size_bytes is None or len(self._data) - at < size_bytes:
                break
            found.append(bytes(self._data[at : at + size_bytes]))
            at += size_bytes
        del self._data[:at]
        return found


def _address_of(name: str) -> str:
    if name == _SYSTEM:
        return os.environ.get("DBUS_SYSTEM_BUS_ADDRESS") or _SYSTEM_BUS
    if name == _SESSION:
        directory = os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.geteuid()}"
        return os.environ.get("DBUS_SESSION_BUS_ADDRESS") or f"unix:path={directory}/bus"
    return name.removeprefix(_ADDRESS)


class DbusModule(Module):
    """The buses of this machine."""

    def owns(self, name: str) -> bool:
        """Return whether it is one of the two names, or an address."""
        return name in (_SESSION, _SYSTEM) or name.startswith(_ADDRESS)

    def create(self, name: str) -> Capture:
        """Return a bus."""
        try:
            dbus_wire.socket_addresses(_address_of(name), os.environ.get("XDG_RUNTIME_DIR"))
        except WrongAddressError as error:
            raise WrongName(str(error)) from error
        return DbusCapture(name)

    def devices(self) -> Sequence[Device]:
        """Return the two that have names, whether they run or not."""
        needs = None if os.geteuid() == 0 else MissingRight.ROOT
        return [
            Device(_SESSION, "D-Bus session bus"),
            Device(_SYSTEM, "D-Bus system bus", missing_right=needs),
        ]


MODULE = DbusModule()
