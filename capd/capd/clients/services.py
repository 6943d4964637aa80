"""What a client's requests are carried out by."""

from dataclasses import dataclass

from capd.captures.lasting.detached import Detached
from capd.captures.registry import Captures
from capd.captures.revoker import Revoker
from capd.clients.admission import Admission
from capd.leases.devices import Devices
from capd.leases.senders import Senders
from capd.network.monitor import Monitor
from capd.policy.audit import Audit
from capd.supervisor.closer import Closer


@dataclass(frozen=True)
class Services:
    """The parts of the daemon that all clients share."""

    captures: Captures
    detached: Detached
    monitor: Monitor
    audit: Audit
    closer: Closer
    admission: Admission
    revoker: Revoker
    senders: Senders
    devices: Devices
