"""Asks libpcap what an interface can do: ``python -m capd.worker.probe NAME [monitor]``.

A process of its own, with CAP_NET_RAW and no other privilege: libpcap opens the device for it, and some devices'
modules do a lot there. Prints one frame with the reply.
"""

import sys

from capd.filters.compiler import activation_failure
from capd.linux import privileges
from capd.linux.libpcap import Handle, PcapError
from capd.printable import escape_uncaught
from capd_protocol.messages import MAX_SNAPLEN_BYTES, Capabilities, Refused, Reply, encode
from capd_protocol.messages.interfaces import LinkLayer, TimestampType


def _ask(name: str, *, monitor_mode: bool) -> Reply:
    try:
        handle = Handle(name)
        can_rfmon = handle.can_set_rfmon()
        timestamp_types = handle.timestamp_types()
        handle.activate(snaplen_bytes=MAX_SNAPLEN_BYTES, monitor_mode=monitor_mode)
        return Capabilities(
            can_rfmon=can_rfmon,
            link_layers=tuple(
                LinkLayer(dlt=t.dlt, name=t.name, description=t.description) for t in handle.link_layer_types()
            ),
            timestamp_types=tuple(TimestampType(name=n, description=d) for n, d in timestamp_types),
        )
    except PcapError as error:
        return Refused(failure=activation_failure(name, error))


def main() -> None:
    """Print what an interface can do."""
    escape_uncaught()
    kept = {privileges.Capability.NET_RAW}
    monitor_mode = sys.argv[2:] == ["monitor"]
    if monitor_mode:
        kept.add(privileges.Capability.NET_ADMIN)
    privileges.restrict_daemon(kept)
    sys.stdout.buffer.write(encode(_ask(sys.argv[1], monitor_mode=monitor_mode)))


if __name__ == "__main__":
    main()
