"""What the client's tests share: files read back, processes awaited, conditions awaited that nothing announces."""

import contextlib
import os
import re
import select
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from capd_client import CaptureSession
from capd_client.conversation.events import Event
from capd_protocol.formats import pcapng
from tests.support.tools import descriptors_of

#: Longer than anything here takes on a busy machine.
PATIENCE_S = 20.0


@contextlib.contextmanager
def nothing_left(is_of_interest: Callable[[str], bool]) -> Generator[None, None, None]:
    """See that a block leaves no thread, and nothing open.

    Args:
        is_of_interest: whether what a descriptor is open on, as the kernel calls it, may not be left open.
    """
    threads, before = _own_threads(), open_here(is_of_interest)
    yield
    wait_until(lambda: not _own_threads() - threads, "all threads have ended")
    assert open_here(is_of_interest) <= before


def open_here(is_of_interest: Callable[[str], bool]) -> set[str]:
    """Return what this process's descriptors are open on, as far as it is of interest."""
    return set(filter(is_of_interest, descriptors_of(os.getpid())))


def _own_threads() -> set[threading.Thread]:
    """Return the threads but those that trio keeps for ten seconds."""
    return {each for each in threading.enumerate() if not each.name.startswith("Trio")}


@dataclass
class Contents:
    """What is in a pcapng file."""

    interfaces: list[pcapng.InterfaceDescription] = field(default_factory=list)
    packets: list[bytes] = field(default_factory=list)
    original_sizes_bytes: list[int] = field(default_factory=list)
    interface_ids: list[int] = field(default_factory=list)

    @property
    def names(self) -> list[str]:
        """The interfaces' names."""
        return [dict(each.options)[pcapng.IF_NAME].decode() for each in self.interfaces]


def read_complete(path: Path | str) -> Contents:
    """Read a file that was ended well: one section, interfaces, packets, statistics of each interface, nothing more."""
    contents = Contents()
    statistics: list[int] = []
    section, *blocks = pcapng.read_blocks(Path(path).read_bytes())
    assert isinstance(section, pcapng.SectionHeader)
    for block in blocks:
        match block:
            case pcapng.InterfaceDescription():
                assert not contents.packets
                contents.interfaces.append(block)
            case pcapng.EnhancedPacket():
                assert not statistics
                contents.packets.append(bytes(block.data))
                contents.original_sizes_bytes.append(block.original_size_bytes)
                contents.interface_ids.append(block.interface_id)
            case pcapng.InterfaceStatistics():
                statistics.append(block.interface_id)
            case _:
                raise AssertionError(f"{path} has a {type(block).__name__}")
    assert statistics == list(range(len(contents.interfaces))), f"{path} was not ended well"
    return contents


def pcap_linktype_and_sizes(path: Path | str) -> tuple[int, list[int]]:
    """Return a pcap file's link type and the sizes of its packets as captured."""
    data = Path(path).read_bytes()
    magic, _, _, _, _, _, linktype = struct.unpack_from("=IHHiIII", data)
    assert magic == pcapng.PCAP_NANOSECOND_MAGIC
    at, sizes = pcapng.PCAP_HEADER_SIZE_BYTES, list[int]()
    while at < len(data):
        (size,) = struct.unpack_from("=I", data, at + 8)
        sizes.append(size)
        at += pcapng.PCAP_RECORD_HEADER_SIZE_BYTES + size
    assert at == len(data)
    return linktype, sizes


@contextlib.contextmanager
def not_awaited(capture: CaptureSession) -> Generator[CaptureSession, None, None]:
    """Have a capture end with the block, which begins before anybody knows whether it runs."""
    try:
        yield capture
    finally:
        capture.terminate()


def drain(capture: CaptureSession) -> list[Event]:
    """Take every event, of all types, until the capture has ended; what is raised then is up to the caller."""
    events: list[Event] = []
    while not events or events[-1][0] != capture.SP_ENDED:
        events.append(capture.wait_for_event(timeout=PATIENCE_S))
    return events


def of_type(events: list[Event], event_type: int) -> list[object]:
    """Return the messages of the events of one type."""
    return [message for kind, message in events if kind == event_type]


def merged(events: Iterable[Event]) -> list[Event]:
    """Return events with counts that follow one another as one: into how many they fall is a matter of time."""
    result: list[Event] = []
    for event_type, message in events:
        if event_type == CaptureSession.SP_PACKET_COUNT and result and result[-1][0] == event_type:
            result[-1] = event_type, result[-1][1] + message
        else:
            result.append((event_type, message))
    return result


def wait_for_packets(capture: CaptureSession, packets: int) -> None:
    """Take events until so many packets are in the files."""
    deadline_s = time.monotonic() + PATIENCE_S
    while capture.packetcount < packets:
        capture.wait_for_event(timeout=max(0, deadline_s - time.monotonic()))


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Wait for something that nobody announces."""
    deadline_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline_s, f"waited in vain until {what}"
        time.sleep(0.005)


class Watched:
    """Processes that are not our children, watched by descriptor: their numbers may be used again."""

    def __init__(self, process_ids: list[int]) -> None:
        assert process_ids
        self._descriptors = [os.pidfd_open(process_id) for process_id in process_ids]

    def wait_ended(self, timeout_s: float = PATIENCE_S) -> None:
        """Wait until all of them have ended."""
        deadline_s = time.monotonic() + timeout_s
        try:
            for descriptor in self._descriptors:
                poll = select.poll()
                poll.register(descriptor, select.POLLIN)
                left_ms = max(0.0, (deadline_s - time.monotonic()) * 1000)
                assert poll.poll(left_ms), f"a process still runs after {timeout_s:g} s"
        finally:
            for descriptor in self._descriptors:
                os.close(descriptor)


def rings(process_id: int) -> dict[str, tuple[int, int]]:
    """Return a worker's rings as the kernel has them: interface to size in bytes and retire time in milliseconds."""
    shown = subprocess.run(
        ["ss", "--packet", "--processes", "--memory", "--extended", "--no-header"],
        capture_output=True,
        text=True,
        check=True,
        timeout=10,
    ).stdout
    found: dict[str, tuple[int, int]] = {}
    for socket_text in re.split(r"(?m)^(?=p_)", shown):
        interface = re.search(r"\*:(\S+)", socket_text)
        # libpcap's handles have no retire time.
        ring = re.search(r"ring_rx\(blk_size:(\d+),blk_nr:(\d+),frm_size:\d+,frm_nr:\d+,tmo:(\d+)", socket_text)
        if interface and ring and f"pid={process_id}," in socket_text:
            size, number, retire = map(int, ring.groups())
            assert interface[1] not in found
            found[interface[1]] = size * number, retire
    return found
