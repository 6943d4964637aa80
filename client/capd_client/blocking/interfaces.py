"""Interfaces: which there are, what they can do, and what happens to them."""

import time
from collections.abc import Iterator
from functools import cached_property

from capd_client.blocking.questions import devices_by_rule, get_capabilities, list_interfaces
from capd_client.conversation.interface_picture import InterfaceChanged, Picture
from capd_client.conversation.message_stream import MessageStream
from capd_client.errors import NoEvents
from capd_client.request.namespaces import Netns
from capd_client.transport.connect import Program, SocketPath, connect_and_send
from capd_protocol.formats.linktypes import LinkLayerType
from capd_protocol.messages import WatchInterfaces
from capd_protocol.messages.interfaces import InterfaceInfo, InterfaceType, Link


class Interface:
    """An interface or device that packets can be captured on.

    Attributes:
        name: what ``CaptureSession`` takes.
        number: its position in libpcap's order, from 1; None where it is not libpcap's.
        vendor_name: None on Linux, where dumpcap has none either.
        friendly_name: "Loopback", or the alias that an administrator gave it; else None.
        interface_type: one of ``IF_…``.
        addresses: IPv4 and IPv6 addresses, as text.
        loopback: whether it is the loopback interface.
        info: all that the daemon knows; None where it was made by its name alone.
    """

    IF_WIRED = int(InterfaceType.WIRED)
    IF_AIRPCAP = int(InterfaceType.AIRPCAP)
    IF_PIPE = int(InterfaceType.PIPE)
    IF_STDIN = int(InterfaceType.STDIN)
    IF_BLUETOOTH = int(InterfaceType.BLUETOOTH)
    IF_WIRELESS = int(InterfaceType.WIRELESS)
    IF_DIALUP = int(InterfaceType.DIALUP)
    IF_USB = int(InterfaceType.USB)
    IF_VIRTUAL = int(InterfaceType.VIRTUAL)
    IF_EXTCAP = int(InterfaceType.EXTCAP)
    IF_MODULE = int(InterfaceType.MODULE)

    def __init__(  # noqa: PLR0917  # wirepy's arguments
        self,
        name: str,
        number: int | None = None,
        vendor_name: str | None = None,
        friendly_name: str | None = None,
        interface_type: int | None = None,
        addresses: list[str] | None = None,
        loopback: bool | None = None,
        *,
        info: InterfaceInfo | None = None,
        socket_path: SocketPath = None,
        netns: Netns | None = None,
        program: Program = None,
    ) -> None:
        """Describe an interface, as wirepy does; ``list_interfaces`` gives all that there are.

        Args:
            name: as the attribute, and so the next ones.
            number: see there.
            vendor_name: see there.
            friendly_name: see there.
            interface_type: see there.
            addresses: see there.
            loopback: see there.
            info: see there.
            socket_path: where the daemon listens that is asked for ``capabilities``.
            netns: in which network namespace a private one is asked; None: in this one.
            program: what is asked in the daemon's place, as for ``list_interfaces``.
        """
        self.name = name
        self.number = number
        self.vendor_name = vendor_name
        self.friendly_name = friendly_name
        self.interface_type = interface_type
        self.addresses = addresses if addresses is not None else []
        self.loopback = loopback
        self.info = info
        self._socket_path = socket_path
        self._netns = netns
        self._program = program

    def __str__(self) -> str:
        """Return the name."""
        return self.name

    def __repr__(self) -> str:
        """Return its name, and what it is."""
        return f"<Interface {self.name}>"

    @classmethod
    def list_interfaces(
        cls,
        *,
        socket_path: SocketPath = None,
        netns: Netns | None = None,
        extcap: bool = False,
        modules: bool = False,
        program: Program = None,
    ) -> list["Interface"]:
        """Return what can be captured on, in libpcap's order. Needs no privilege, and no running daemon.

        Args:
            socket_path: where the daemon listens; None: as for ``CaptureSession``.
            netns: in which network namespace, as for ``CaptureSession``; None: where the daemon is.
            extcap: behind these also the interfaces of extcap programs. To find them, all these programs are run at
                once, with this user's rights; one that does not answer within 5 seconds is left out.
            modules: and the devices of capture modules, found in the same way; also in place of what libpcap calls so.
            program: the words of a command in dumpcap's place, such as ``["dumpcap"]``, which is asked instead of a
                daemon. It knows less: of network interfaces no ``link``.

        Raises:
            ChildError: the daemon cannot find out.
            DaemonUnavailable: there is none at ``socket_path``.
            BrokenPipe: it does not answer.
            InvalidArgument: the program is no command, or a daemon was named as well.
        """
        infos = list_interfaces(socket_path=socket_path, netns=netns, program=program)
        if extcap:
            from capd_client.sources.extcap import extcap_interfaces  # noqa: PLC0415  # few need it

            infos += extcap_interfaces()
        if modules:
            from capd_client.sources.modules import with_devices  # noqa: PLC0415  # few need it

            infos = with_devices(infos, devices_by_rule(socket_path) if netns is None else ())
        return [cls._from_info(info, socket_path, netns, program) for info in infos]

    @classmethod
    def _from_info(
        cls, info: InterfaceInfo, socket_path: SocketPath, netns: Netns | None, program: Program
    ) -> "Interface":
        alias = info.link.alias if info.link else ""
        return cls(
            info.name,
            number=info.number or None,
            # dumpcap's own name for it.
            friendly_name="Loopback" if info.loopback else alias or None,
            interface_type=info.interface_type,
            addresses=list(info.addresses),
            loopback=info.loopback,
            info=info,
            socket_path=socket_path,
            netns=netns,
            program=program,
        )

    @staticmethod
    def get_interface_capabilities(
        interface: str,
        monitor_mode: bool = False,
        *,
        socket_path: SocketPath = None,
        netns: Netns | None = None,
        program: Program = None,
    ) -> tuple[bool, list[LinkLayerType]]:
        """Return whether an interface has a monitor mode, and its link-layer types, the default first.

        Args:
            interface: its name.
            monitor_mode: ask for the types that it has in monitor mode.
            socket_path: where the daemon listens.
            netns: in which network namespace, as for ``CaptureSession``; None: where the daemon is.
            program: what is asked instead, as for ``list_interfaces``.

        Raises:
            InterfaceError: there is no such interface, or it is down.
            UnsupportedError: libpcap cannot open it.
            NotPermitted: there is only a private daemon, without the privilege to open it.
        """
        capabilities = get_capabilities(interface, monitor_mode, socket_path=socket_path, netns=netns, program=program)
        types = [LinkLayerType(each.dlt, each.name, each.description) for each in capabilities.link_layers]
        return capabilities.can_rfmon, types

    @cached_property
    def capabilities(self) -> tuple[bool, list[LinkLayerType]]:
        """What ``get_interface_capabilities`` says of this interface; asked for once."""
        return self.get_interface_capabilities(
            self.name, socket_path=self._socket_path, netns=self._netns, program=self._program
        )

    @property
    def can_rfmon(self) -> bool:
        """Whether it has a monitor mode."""
        return self.capabilities[0]

    @property
    def supported_link_layer_types(self) -> list[LinkLayerType]:
        """Its link-layer types, the default first."""
        return self.capabilities[1]

    @property
    def interface_type_string(self) -> str:
        """The kind of interface, as wirepy calls it: the name of ``IF_…``, such as ``WIRED``; or ``UNKNOWN``."""
        try:
            return InterfaceType(self.interface_type).name if self.interface_type is not None else "UNKNOWN"
        except ValueError:
            return "UNKNOWN"


class InterfaceWatcher:
    """Tells what happens to interfaces, and which there are.

    It begins with the interfaces that are there; changes from then on are given one by one, and none is lost: where
    there are too many at once, the picture is made anew, and the difference given.

    Example:
        with InterfaceWatcher() as watcher:
            for changed in watcher:
                print(changed.change, changed.link.name)
    """

    def __init__(self, *, socket_path: SocketPath = None, netns: Netns | None = None) -> None:
        """Begin to watch.

        Args:
            socket_path: where the daemon listens; None: as for ``CaptureSession``.
            netns: in which network namespace, as for ``CaptureSession``; None: where the daemon is.

        Raises:
            DaemonUnavailable: there is no daemon at ``socket_path``.
        """
        self._picture = Picture()
        self._stream = MessageStream(WatchInterfaces())
        self._transport = connect_and_send(self._stream.opening(), socket_path, may_start=True, netns=netns)
        try:
            while not self._picture.is_complete:
                self._receive(None)
        except BaseException:
            self.terminate()
            raise

    def __enter__(self) -> "InterfaceWatcher":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.terminate()

    @property
    def interfaces(self) -> dict[str, Link]:
        """The interfaces as of the last change that was received, by name."""
        return self._picture.by_name()

    def __repr__(self) -> str:
        """Return how many interfaces there are."""
        return f"<InterfaceWatcher of {len(self.interfaces)} interfaces>"

    def _receive(self, timeout_s: float | None) -> None:
        data = self._transport.receive(timeout_s)
        if data is None:
            raise NoEvents("no interface has changed in time")
        for message in self._stream.receive(data):
            self._picture.take(message)

    def wait_for_change(self, timeout: float | None = None) -> InterfaceChanged:
        """Return the next change.

        Args:
            timeout: wait at most so many seconds.

        Raises:
            NoEvents: nothing has changed in the time given.
            BrokenPipe: the daemon went away.
        """
        deadline_s = None if timeout is None else time.monotonic() + timeout
        while (change := self._picture.next_change()) is None:
            self._receive(None if deadline_s is None else max(0, deadline_s - time.monotonic()))
        return change

    def __iter__(self) -> Iterator[InterfaceChanged]:
        """Iterate over the changes, for ever."""
        while True:
            yield self.wait_for_change()

    def terminate(self) -> None:
        """End watching."""
        self._transport.close()
