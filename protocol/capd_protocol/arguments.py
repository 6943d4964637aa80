"""Arguments of a capture: ranges, and which exclude each other.

Client and daemon ask the same function: the client so that its user learns at once, the daemon because it trusts
no client. Arguments are called by the names that ``CaptureSession`` gives them.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

from capd_protocol.formats.linktypes import DLT_LINUX_SLL, DLT_LINUX_SLL2, by_name
from capd_protocol.messages import MAX_SNAPLEN_BYTES, Conditions, InterfaceRequest, Recorder, StartCapture

MAX_INTERFACES = 64
#: IFNAMSIZ, less its NUL (linux/if.h).
MAX_INTERFACE_NAME_BYTES = 15
#: Chosen: ``[a-z]`` and the like for each byte of a name would be longer, and nobody writes that.
MAX_PATTERN_BYTES = 64
ANY = "any"
#: NAME_MAX (linux/limits.h); a ring adds ``_00001_20260131235959`` to the name.
MAX_FILE_NAME_BYTES = 255
RING_SUFFIX_BYTES = 21
#: Chosen: libpcap's own time to compile grows with it, and 4096 instructions are the kernel's limit anyway.
MAX_FILTER_BYTES = 16 * 1024
#: Of a capture: no number, no path, no option. Captures of the configuration have directories of these names.
_CAPTURE_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,63}")
#: dumpcap's RINGBUFFER_MAX_NUM_FILES.
MAX_RING_FILES = 100_000

_MAX_QUOTED_CHARACTERS = 40

_MIB = 1024 * 1024


class Range(NamedTuple):
    """The least and the greatest value that is possible, and what it counts."""

    least: float
    greatest: float
    unit: str


#: Each number that a client may send. Greatest values of sizes of files are dumpcap's (2 TB), of all together a
#: thousand times as much; of durations: ten years.
RANGES = {
    "snaplen": Range(1, MAX_SNAPLEN_BYTES, "bytes"),
    "kernel_buffer_size": Range(1, 1024, "MiB"),
    "max_packet_count": Range(1, 2**63 - 1, "packets"),
    "autostop_duration": Range(0.001, 315_360_000, "seconds"),
    "autostop_filesize": Range(1, 2_000_000_000, "kB"),
    "autostop_files": Range(1, 2**31 - 1, "files"),
    "ringbuffer_duration": Range(0.001, 315_360_000, "seconds"),
    "ringbuffer_filesize": Range(1, 2_000_000_000, "kB"),
    "ringbuffer_packets": Range(1, 2**63 - 1, "packets"),
    "ringbuffer_files": Range(1, MAX_RING_FILES, "files"),
    "ringbuffer_interval": Range(1, 315_360_000, "seconds"),
    "ringbuffer_total_filesize": Range(1, 2_000_000_000_000, "kB"),
    "ringbuffer_age": Range(0.001, 315_360_000, "seconds"),
    "ringbuffer_free_space": Range(1, 2_000_000_000_000, "kB"),
    "recorder_duration": Range(0.1, 86_400, "seconds"),
    # Eight packets of the greatest size and a little more, to begin with.
    "recorder_memory": Range(4, 65_536, "MiB"),
    "recorder_after": Range(0, 3600, "seconds"),
    "recorder_trigger_rate": Range(1, 2**31 - 1, "packets a second"),
    "after": Range(0, 3600, "seconds"),
    "update_interval": Range(0.005, 60, "seconds"),
    "interval": Range(0.05, 3600, "seconds"),
    # uid_t, but for (uid_t) -1, which no user has (chown(2)).
    "user": Range(0, 2**32 - 2, "as the number of a user"),
}


class Fault(NamedTuple):
    """One thing that is wrong with a request."""

    argument: str
    text: str


def _out_of_range(argument: str, value: float | None) -> Iterator[Fault]:
    if value is None:
        return
    least, greatest, unit = RANGES[argument]
    if not least <= value <= greatest:  # also refuses NaN
        yield Fault(argument, f"{argument} is {_shown(value)}; possible are {least} to {greatest} {unit}")


def _shown(value: float) -> str:
    """Show a number that was sent: JSON's whole numbers have no bound, what Python writes has."""
    try:
        text = str(value)
    except ValueError:
        return "a far larger number"
    return text if len(text) <= _MAX_QUOTED_CHARACTERS else text[:_MAX_QUOTED_CHARACTERS] + "…"


def _quoted(text: str) -> str:
    """Show what was sent: the beginning of it, if it is long."""
    return repr(text) if len(text) <= _MAX_QUOTED_CHARACTERS else repr(text[:_MAX_QUOTED_CHARACTERS]) + "…"


def is_pattern(name: str) -> bool:
    """Whether a name stands for all interfaces that match it."""
    return name == ANY or any(character in name for character in "*?[")


def _name_faults(name: str) -> Iterator[Fault]:
    limit = MAX_PATTERN_BYTES if is_pattern(name) else MAX_INTERFACE_NAME_BYTES
    # The kernel's own rule (net/core/dev.c, dev_valid_name), and printable, since names go into logs and files.
    size_bytes = len(name.encode("utf-8", "surrogatepass"))
    if not name or size_bytes > limit:
        yield Fault("interfaces", f"{_quoted(name)} is no interface name: one has 1 to {limit} bytes")
    elif name in (".", "..") or not name.isprintable() or any(c in "/: " for c in name):
        yield Fault(
            "interfaces",
            f"{_quoted(name)} is no interface name: one has no slash, colon, space or unprintable character",
        )


def _wifi_faults(interface: InterfaceRequest) -> Iterator[Fault]:
    if interface.wifi_channel is None:
        return
    frequency, _, channel_type = interface.wifi_channel.partition(",")
    if not (frequency.isascii() and frequency.isdecimal() and 2000 <= int(frequency[:6]) <= 8000):
        yield Fault(
            "wifi_channel", f"wifi_channel {_quoted(interface.wifi_channel)} does not begin with a frequency in MHz"
        )
    elif channel_type not in ("", "NOHT", "HT20", "HT40-", "HT40+"):
        yield Fault("wifi_channel", f"wifi_channel type {_quoted(channel_type)} is not one of NOHT, HT20, HT40-, HT40+")


def _mib(size_bytes: int) -> float:
    # Whole numbers that can be divided have a bound too.
    return max(-(2**64), min(size_bytes, 2**64)) / _MIB


def _filter_faults(argument: str, what: str, text: str) -> Iterator[Fault]:
    if len(text.encode("utf-8", "surrogatepass")) > MAX_FILTER_BYTES:
        yield Fault(argument, f"{what} is longer than {MAX_FILTER_BYTES} bytes")
    elif "\0" in text or not text.isascii():
        yield Fault(argument, f"{what} has a character that is not ASCII, or a NUL")


def _interface_faults(interface: InterfaceRequest) -> Iterator[Fault]:
    yield from _name_faults(interface.name)
    yield from _out_of_range("snaplen", interface.snaplen_bytes)
    if interface.kernel_buffer_size_bytes is not None:
        yield from _out_of_range("kernel_buffer_size", _mib(interface.kernel_buffer_size_bytes))
    yield from _wifi_faults(interface)
    yield from _filter_faults("capture_filter", "the capture filter", interface.capture_filter)
    if interface.link_layer_type is not None and by_name(interface.link_layer_type) is None:
        yield Fault(
            "link_layer_type",
            f"{_quoted(interface.link_layer_type)} is no link-layer type that libpcap knows, such as EN10MB",
        )


def _file_name_faults(name: str, ring: bool) -> Iterator[Fault]:
    limit = MAX_FILE_NAME_BYTES - (RING_SUFFIX_BYTES if ring else 0)
    try:
        size_bytes = len(name.encode())
    except UnicodeEncodeError:
        yield Fault("savefile", f"the file name {_quoted(name)} is not UTF-8")
        return
    if name in ("", ".", "..") or "/" in name or "\0" in name:
        yield Fault("savefile", f"{_quoted(name)} is not the name of a file")
    elif size_bytes > limit:
        yield Fault("savefile", f"the file name has {size_bytes} bytes; at most {limit} are possible")


_SWITCHING = "ringbuffer_duration, ringbuffer_interval, ringbuffer_filesize or ringbuffer_packets"


def is_capture_name(name: str) -> bool:
    """Whether a capture may be called so."""
    return _CAPTURE_NAME.fullmatch(name) is not None


def _stay_faults(request: StartCapture) -> Iterator[Fault]:
    if request.name is not None and not is_capture_name(request.name):
        text = "up to 64 letters, digits, dots, - and _, and begins with a letter"
        yield Fault("name", f"{_quoted(request.name)} is no name for a capture: one has {text}")
    if request.detached and request.name is None:
        yield Fault("name", "a detached capture needs a name, to find it again")
    if request.detached and request.destination.exclusive:
        yield Fault("savefile", "a detached capture needs a savefile: a temporary one would be nobody's")


def _ring_faults(ring: Conditions, autostop: Conditions) -> Iterator[Fault]:
    yield from _out_of_range("ringbuffer_duration", ring.duration_s)
    yield from _out_of_range("ringbuffer_filesize", ring.filesize_kb)
    yield from _out_of_range("ringbuffer_packets", ring.packets)
    yield from _out_of_range("ringbuffer_files", ring.files)
    yield from _out_of_range("ringbuffer_interval", ring.interval_s)
    yield from _out_of_range("ringbuffer_total_filesize", ring.total_kb)
    yield from _out_of_range("ringbuffer_age", ring.age_s)
    yield from _out_of_range("ringbuffer_free_space", ring.free_kb)
    if not ring.switches:
        yield Fault("ringbuffer_files", f"a ring needs to know when to switch: give {_SWITCHING}")
    if ring.total_kb is not None and ring.filesize_kb is not None and ring.total_kb <= ring.filesize_kb:
        yield Fault(
            "ringbuffer_total_filesize",
            f"ringbuffer_total_filesize is {_shown(ring.total_kb)} kB, no more than one file "
            f"(ringbuffer_filesize {_shown(ring.filesize_kb)}): the capture would end with its first file",
        )
    if autostop.filesize_kb is not None:
        yield Fault(
            "autostop_filesize",
            "autostop_filesize ends a single file; a ring ends with autostop_files, autostop_duration "
            "or max_packet_count",
        )


#: What cannot go together with a recorder, and why.
_NOT_RECORDED = (
    ("autostop_filesize", "filesize_kb", "files"),
    ("autostop_files", "files", "files"),
    ("max_packet_count", "packets", "packets"),
)


def _recorder_faults(recorder: Recorder, request: StartCapture) -> Iterator[Fault]:
    yield from _out_of_range("recorder_duration", recorder.duration_s)
    yield from _out_of_range("recorder_memory", _mib(recorder.memory_bytes))
    yield from _out_of_range("recorder_after", recorder.after_s)
    yield from _out_of_range("recorder_trigger_rate", recorder.trigger_pps)
    yield from _filter_faults("recorder_trigger_filter", "the trigger filter", recorder.trigger_filter)
    if request.ring is not None:
        text = "a recorder keeps its packets in memory, a ring in files: ask for one of them"
        yield Fault("recorder_memory", text)
    if request.file_format == "pcap":
        yield Fault("use_libpcap", "a recorder writes pcapng only: leave out use_libpcap")
    for argument, name, what in _NOT_RECORDED:
        if getattr(request.autostop, name) is not None:
            text = f"{argument} counts {what} as they are written, and a recorder writes none until it is asked to"
            yield Fault(argument, f"{text}: end it with autostop_duration, or stop it")
    if recorder.trigger_link_down and any(is_cooked_any(each) for each in request.interfaces):
        text = "the cooked device any has no link that could go down: capture 'any' without a link_layer_type"
        yield Fault("recorder_trigger_link_down", text)


def is_cooked_any(interface: InterfaceRequest) -> bool:
    """Whether libpcap's own device ``any`` is meant, which mixes all interfaces into one."""
    wanted = by_name(interface.link_layer_type) if interface.link_layer_type else None
    return interface.name == ANY and wanted is not None and wanted.dlt in (DLT_LINUX_SLL, DLT_LINUX_SLL2)


def _is_several(interface: InterfaceRequest) -> bool:
    return is_pattern(interface.name) and not is_cooked_any(interface)


def find_interface_faults(interface: InterfaceRequest) -> list[Fault]:
    """Return what is wrong with what is asked for on one interface."""
    return list(_interface_faults(interface))


def find_interval_faults(interval_s: float) -> list[Fault]:
    """Return what is wrong with the interval of statistics."""
    return list(_out_of_range("interval", interval_s))


def find_snapshot_faults(after_s: float | None) -> list[Fault]:
    """Return what is wrong with what a snapshot is asked to have."""
    return list(_out_of_range("after", after_s))


def find_revocation_faults(user_id: int | None) -> list[Fault]:
    """Return what is wrong with whose captures are to end."""
    return list(_out_of_range("user", user_id))


def find_faults(request: StartCapture) -> list[Fault]:
    """Return everything that is wrong with a request, whatever the machine; empty when it can be tried."""
    return list(_faults(request))


def _faults(request: StartCapture) -> Iterator[Fault]:
    interfaces, ring, autostop = request.interfaces, request.ring, request.autostop
    if not 1 <= len(interfaces) <= MAX_INTERFACES:
        yield Fault("interfaces", f"{len(interfaces)} interfaces; possible are 1 to {MAX_INTERFACES}")
    seen: set[str] = set()
    for interface in interfaces[:MAX_INTERFACES]:
        yield from _interface_faults(interface)
        if interface.name in seen:
            yield Fault("interfaces", f"the interface {_quoted(interface.name)} is named twice")
        seen.add(interface.name)
    recorder = request.recorder
    yield from _file_name_faults(request.destination.file_name, ring is not None or recorder is not None)
    yield from _stay_faults(request)
    yield from _out_of_range("update_interval", request.update_interval_s)
    yield from _out_of_range("autostop_duration", autostop.duration_s)
    yield from _out_of_range("autostop_filesize", autostop.filesize_kb)
    yield from _out_of_range("max_packet_count", autostop.packets)
    yield from _out_of_range("autostop_files", autostop.files)
    if recorder is not None:
        yield from _recorder_faults(recorder, request)
    if ring is not None:
        yield from _ring_faults(ring, autostop)
    elif autostop.files is not None and recorder is None:
        yield Fault(
            "autostop_files",
            f"autostop_files counts the files of a ring: give {_SWITCHING} too",
        )
    if (autostop.interval_s, autostop.total_kb, autostop.age_s, autostop.free_kb) != (None, None, None, None):
        text = "interval, total, age and free space are conditions of a ring, and end no capture"
        yield Fault("autostop", text)
    if request.file_format == "pcap" and request.wait_for_interfaces:
        text = "wait_for_interfaces needs pcapng: a pcap file begins with the link-layer type of an interface"
        yield Fault("wait_for_interfaces", text)
    if request.file_format == "pcap" and (len(interfaces) > 1 or any(_is_several(each) for each in interfaces)):
        yield Fault(
            "use_libpcap",
            "a pcap file cannot say which interface a packet came from: capture several interfaces as pcapng",
        )
