"""A request as dumpcap's command line. Pure."""

from collections.abc import Callable

from capd_client.errors import UnsupportedError
from capd_client.request.options import Prepared
from capd_protocol.formats.compression import wanted_compression
from capd_protocol.messages import MAX_SNAPLEN_BYTES, Conditions, Destination, InterfaceRequest, StartCapture
from capd_protocol.targets import NamedInterface, target_of

_MIB = 1024 * 1024
#: Of a request that does not say; a program has an interval of its own.
_UPDATE_INTERVAL_S = StartCapture(interfaces=(), destination=Destination(file_name="")).update_interval_s

#: What dumpcap does not do, and whether it is asked for.
_BEYOND: dict[str, Callable[[StartCapture], bool]] = {
    "a stream": lambda request: any(each.is_stream for each in request.interfaces),
    "a pattern": lambda request: not all(_is_plain(each) for each in request.interfaces if not each.is_stream),
    "direction": lambda request: any(each.direction != "inout" for each in request.interfaces),
    "wifi_channel": lambda request: any(each.wifi_channel for each in request.interfaces),
    "a description": lambda request: any(each.description for each in request.interfaces),
    "a recorder": lambda request: request.recorder is not None,
    "in_memory": lambda request: request.destination.unnamed,
    "pass_files": lambda request: request.pass_files,
    "packet_flags": lambda request: request.packet_flags,
    "wait_for_interfaces": lambda request: request.wait_for_interfaces,
    "compress_type": lambda request: bool(wanted_compression(request.compress_type, request.destination.file_name)),
    "name": lambda request: request.name is not None,
    "update_interval": lambda request: request.update_interval_s != _UPDATE_INTERVAL_S,
    "ringbuffer_total_filesize": lambda request: request.ring is not None and request.ring.total_kb is not None,
    "ringbuffer_age": lambda request: request.ring is not None and request.ring.age_s is not None,
    "ringbuffer_free_space": lambda request: request.ring is not None and request.ring.free_kb is not None,
}


def _is_plain(request: InterfaceRequest) -> bool:
    return isinstance(target_of(request), NamedInterface)


def words_of(prepared: Prepared) -> list[str]:
    """Return the words for a capture, behind the program's own.

    Raises:
        UnsupportedError: it asks for what dumpcap does not do.
    """
    request, place = prepared.request, prepared.place
    if prepared.netns is not None:
        raise UnsupportedError("netns is not for a program in dumpcap's place: start it there, as with 'ip netns exec'")
    for what, is_asked in _BEYOND.items():
        if is_asked(request):
            raise UnsupportedError(f"{what} is not for a program in dumpcap's place: leave it out")
    words = [word for each in request.interfaces for word in _interface_words(each)]
    words += ["-w", place.path_of(request.destination.file_name)]
    words += ["-g"] if request.destination.group_access else []
    words += ["-P"] if request.file_format == "pcap" else []
    for comment in request.comments:
        words += ["--capture-comment", comment]
    words += _autostop_words(request.autostop)
    words += ["-b", "nametimenum:2"] if request.destination.time_first else []
    return words + (_ring_words(request.ring) if request.ring is not None else [])


def _interface_words(request: InterfaceRequest) -> list[str]:
    words = ["-i", request.name]
    words += ["--ifname", request.label] if request.label else []
    words += ["-f", request.capture_filter] if request.capture_filter else []
    words += ["-s", str(request.snaplen_bytes)] if request.snaplen_bytes != MAX_SNAPLEN_BYTES else []
    words += ["-p"] if request.promiscuous is False else []
    words += ["-I"] if request.monitor_mode else []
    words += ["-y", request.link_layer_type] if request.link_layer_type else []
    if request.kernel_buffer_size_bytes is not None:
        words += ["-B", str(request.kernel_buffer_size_bytes // _MIB)]
    return words


def _autostop_words(autostop: Conditions) -> list[str]:
    return _condition_words(
        "-a",
        packets=autostop.packets,
        duration=autostop.duration_s,
        filesize=autostop.filesize_kb,
        files=autostop.files,
    )


def _ring_words(ring: Conditions) -> list[str]:
    return _condition_words(
        "-b",
        packets=ring.packets,
        duration=ring.duration_s,
        filesize=ring.filesize_kb,
        files=ring.files,
        interval=ring.interval_s,
    )


def _condition_words(option: str, **conditions: float | None) -> list[str]:
    given = {key: value for key, value in conditions.items() if value is not None}
    return [word for key, value in given.items() for word in (option, f"{key}:{_number(value)}")]


def _number(value: float) -> str:
    # To the microsecond, and without an exponent.
    return f"{value:.6f}".rstrip("0").rstrip(".")
