"""The registry of devices of capture modules that are open for clients: who may, how many, and who loses one later."""

import contextlib
from collections.abc import Callable, Generator, Sequence

from capd import limits
from capd.errors import RequestRefused
from capd.leases.device import Device
from capd.leases.leases import Bounds, Leases
from capd.policy.peer import Peer
from capd.policy.people import People
from capd.policy.revocation import device_objection
from capd.policy.rules import Policy
from capd.supervisor.closer import Closer
from capd.supervisor.spawner import Spawner
from capd_protocol.arguments import find_interface_faults
from capd_protocol.messages import FailureCode, InterfaceRequest

_BOUNDS = Bounds(limits.MAX_DEVICES_PER_USER, limits.MAX_DEVICES, "have devices of capture modules")


class Devices(Leases[Device]):
    """All that are open."""

    def __init__(self, policy: Callable[[], Policy], spawner: Spawner, closer: Closer, people: People) -> None:
        """Have none yet.

        Args:
            policy: returns today's.
            spawner: gives processes.
            closer: closes what others may have put something in.
            people: knows which groups users have now.
        """
        super().__init__(policy, people, _BOUNDS)
        self._spawner = spawner
        self._closer = closer

    @contextlib.contextmanager
    def granted(self, peer: Peer, request: InterfaceRequest) -> Generator[Device, None, None]:
        """Have a device that a client wants in the list as long as the block lasts.

        Raises:
            RequestRefused: it is not permitted, or one too many, or asks for what is not possible.
        """
        if not request.is_stream:
            raise RequestRefused(FailureCode.INVALID, "it is not asked for as a device of a capture module")
        for fault in find_interface_faults(request):
            raise RequestRefused(FailureCode.INVALID, fault.text, argument=fault.argument)
        granted = self._policy().grant_device(peer, request)
        size_bytes = request.kernel_buffer_size_bytes or 0
        if size_bytes > limits.MAX_DEVICE_BUFFER_BYTES and not self._policy().is_unbound(peer):
            text = f"kernel_buffer_size is at most {limits.MAX_DEVICE_BUFFER_BYTES >> 20} MiB here: ask for less"
            raise RequestRefused(FailureCode.RESOURCES, text, argument="kernel_buffer_size")
        self._check_room(peer)
        with self._listed(Device(peer, granted, spawner=self._spawner, closer=self._closer)) as device:
            try:
                yield device
            finally:
                device.close()

    async def _objector(self, leases: Sequence[Device]) -> Callable[[Device, Peer], str | None]:
        del leases

        def objection(device: Device, owner: Peer) -> str | None:
            return device_objection(self._policy(), owner, device.grant)

        return objection
