"""The loop of a module's process: packets of an activated device, as pcapng into a pipe."""

import os
import select
import time

from capd_client.modules.blocks import beginning, packet_blocks, statistics_block
from capd_client.modules.contract import Capture, ModuleFailed

#: Read at once. Chosen: some hundred kB, so that much is parsed together, and little is kept back.
_MAX_PACKETS = 1024
#: Between two looks at the counts, where nothing comes: what is lost shows there.
_LOOK_S = 1.0


class ReaderGone(Exception):
    """Nobody reads the packets any more."""


class Pump:
    """Packets of one device."""

    def __init__(self, capture: Capture, pipe_fd: int, linktype: int, snaplen_bytes: int) -> None:
        """Begin.

        Args:
            capture: activated.
            pipe_fd: where packets are written to.
            linktype: of the packets.
            snaplen_bytes: what is written of each packet, at most.
        """
        self._capture = capture
        self._pipe = pipe_fd
        self._snaplen_bytes = snaplen_bytes
        self._began_ns = time.time_ns()
        self._dropped = 0
        self._write(beginning(linktype, snaplen_bytes))

    def run(self) -> None:
        """Write packets until nobody reads them.

        Raises:
            ReaderGone: nobody does.
            ModuleFailed: there will be no more.
        """
        is_more_there = False
        while True:
            if not is_more_there:
                self._wait()
            packets = self._capture.read(_MAX_PACKETS)
            is_more_there = len(packets) >= _MAX_PACKETS
            if packets:
                self._write(packet_blocks(packets, self._snaplen_bytes))
            self._count()

    def _wait(self) -> None:
        descriptor, most_s = self._capture.fileno(), self._capture.poll_s()
        if descriptor is None and most_s is None:
            raise ModuleFailed("the module has neither a descriptor to wait for nor a time to wait: correct it")
        poll = select.poll()
        poll.register(self._pipe, 0)  # ready when nobody reads
        if descriptor is not None:
            poll.register(descriptor, select.POLLIN)
        ready = poll.poll(1000 * min(_LOOK_S, _LOOK_S if most_s is None else most_s))
        if any(each == self._pipe for each, _ in ready):
            raise ReaderGone

    def _count(self) -> None:
        """Write the counts where more has been lost."""
        counts = self._capture.statistics()
        if counts is not None and counts.dropped != self._dropped:
            self._dropped = counts.dropped
            self._write(statistics_block(counts, self._began_ns, time.time_ns()))

    def _write(self, data: bytes) -> None:
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[os.write(self._pipe, rest) :]
        except BrokenPipeError:
            raise ReaderGone from None
