"""Arguments of a capture, as wirepy has them, turned into a request and a directory."""

import contextlib
import inspect
import os
import pwd
from collections.abc import Callable, Iterable, Mapping, Sequence, Set, Sized
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol, TypedDict, TypeVar, cast, runtime_checkable

from capd_client.errors import DestinationError, InvalidArgument
from capd_client.request.namespaces import Netns
from capd_client.request.streams import HasDescriptor, StreamToOpen, stream_of
from capd_protocol.arguments import (
    ARGUMENTS,
    BY_NAME,
    ArgumentType,
    fields_of,
    find_faults,
    find_revocation_faults,
    find_snapshot_faults,
    is_capture_name,
)
from capd_protocol.formats.linktypes import LinkLayerType
from capd_protocol.messages import (
    Conditions,
    Destination,
    InterfaceRequest,
    Recorder,
    SnapshotCapture,
    StartCapture,
)
from capd_protocol.targets import DEFAULT, Pattern, Stream, target_of

_MIB = 1024 * 1024
#: Of 2**32 - 1.
_MAX_ID_DIGITS = 10
#: Of 2**64 - 1.
_MAX_DIGITS = 20


@dataclass(frozen=True, kw_only=True)
class _InterfaceOptions:
    capture_filter: str | None = None
    snaplen: int | None = None
    promiscuous: bool | None = None
    monitor_mode: bool | None = None
    kernel_buffer_size: int | None = None
    link_layer_type: str | LinkLayerType | None = None
    wifi_channel: str | None = None
    direction: str | None = None


@dataclass(frozen=True, kw_only=True)
class CaptureInterface(_InterfaceOptions):
    """An interface with options of its own; what is None is as for the whole capture.

    Attributes:
        name: of the interface, or a pattern.
        capture_filter: as in ``CaptureArguments``.
        snaplen: as in ``CaptureArguments``, in bytes.
        promiscuous: as in ``CaptureArguments``.
        monitor_mode: as in ``CaptureArguments``.
        kernel_buffer_size: as in ``CaptureArguments``, in MiB.
        link_layer_type: as in ``CaptureArguments``.
        wifi_channel: as in ``CaptureArguments``.
        direction: as in ``CaptureArguments``.
        label: what files call it; None: its name.
        description: what files say of it; None: the alias that an administrator has given it, if there is one.
    """

    name: str
    label: str | None = None
    description: str | None = None


#: What a capture in memory keeps, where nothing else is said. Chosen: as much as a reader may be behind (``stream``),
#: in parts of which little is lost with one.
_IN_MEMORY = Conditions(filesize_kb=4_000, files=16)
#: Where there is memory for everybody's files (shm_overview(7)).
_SHARED_MEMORY = "/dev/shm"

#: What is captured on where nothing is named. To name the empty text is a mistake, such as that of an unset variable.
_DEFAULT_INTERFACE = CaptureInterface(name=DEFAULT)


@runtime_checkable
class HasName(Protocol):
    """What is known by a name, such as an ``Interface``."""

    @property
    def name(self) -> str:
        """What the interface is called."""
        ...


#: What can be captured on: an interface, by its name or as an object; or a stream: its name, or an open file or socket.
Source = str | CaptureInterface | HasName | HasDescriptor


@runtime_checkable
class HasWrite(Protocol):
    """What is open for writing bytes."""

    def write(self, data: bytes | memoryview, /) -> object:
        """Write some bytes, and return how many; None: all of them, or of an ``io.RawIOBase`` none now.

        Args:
            data: what is written.
        """
        ...


#: Where packets go: a file by its path, or what is open.
Savefile = str | os.PathLike[str] | HasWrite


class CaptureArguments(TypedDict, total=False):
    """The arguments of ``CaptureSession``, all optional; None is the default of each.

    As in wirepy, numbers may be given as text, True and False as numbers, an interface as an ``Interface``, and a
    link-layer type as a ``LinkLayerType``.

    Attributes:
        interfaces: names, or ``CaptureInterface`` objects with options of their own. Without any, the first one in the
            order of ``Interface.list_interfaces`` that is up and may be captured on, and is no loopback; as dumpcap
            does. A pattern such as ``veth*``, or
            ``any``, stands for all interfaces that match, also those that appear later; each is a pcapng interface
            of its own. With the link-layer type LINUX_SLL or LINUX_SLL2, ``any`` is libpcap's cooked device.
            Streams of packets, as pcap or pcapng, are called ``-`` (standard input), ``TCP@HOST[:19000]``,
            ``unix:PATH``, or by the path of a FIFO or file, with a slash; or are what is open for reading.
            ``extcap:NAME,OPTION=VALUE`` is an interface of an extcap program with options, none or several, which is
            started for the capture, and ends with it; ``replay:FILE`` is a file whose packets come when they came
            then, and ``replay@10:FILE`` the same ten times as fast. ``nflog:GROUP``, ``dbus-session``,
            ``dbus-system`` and ``dbus:ADDRESS`` are devices of capture modules, as are those of installed packages.
            This program opens them, so a capture of streams alone takes no service, and no privilege beyond what
            their devices take.
        capture_filter: in libpcap's language (pcap-filter(7)), for every interface; without host names.
        snaplen: the most bytes kept of each packet (262144); 0: the same.
        promiscuous: also packets for others (True).
        direction: ``in`` for what comes in, ``out`` for what goes out (``inout``, both).
        monitor_mode: all that the radio hears (False); wireless interfaces only, and only where the daemon may.
        kernel_buffer_size: ring of each interface, in MiB (32; 4 for each that a pattern matches).
        link_layer_type: one of those that the interface has, by name, such as ``EN10MB``.
        wifi_channel: ``FREQUENCY[,TYPE]``: MHz and one of NOHT, HT20, HT40-, HT40+.
        max_packet_count: end after so many packets, of all interfaces.
        autostop_duration: end after so many seconds.
        autostop_filesize: end when the file has so many kB (of 1000 bytes).
        autostop_files: end instead of opening one file more than these.
        savefile: path of the file, or the pattern for a ring: ``x.pcapng`` gives ``x_00001_20260131235959.pcapng``
            and so on. A file that is there is emptied, if it is the user's own and no other capture writes it. Without
            it, a temporary file. Packets go to standard output with ``-``, to a FIFO by its path, or to a file that is
            open for writing bytes, such as the input of a process, as they come: no file is written, and what is
            about files on a disk is refused. A FIFO is waited for until somebody reads it, and each reader gets the
            stream from its header on; standard output or an open file whose reader leaves ends the capture. A slow
            reader costs the capture nothing: what is further behind than 48 MB is left out, and counted in
            ``missed_packets``. Leaving the session waits until all is written, but not for a reader that takes nothing
            for 5 s.
        in_memory: keep no files, but 64 MB of packets in memory, for ``stream`` or ``open_file`` (False); more or less
            as ``ringbuffer_filesize`` and ``ringbuffer_files`` say. Implies ``pass_files``. Whatever ends, nothing is
            left behind.
        group_access: files are readable by their group (mode 0640 instead of 0600).
        ringbuffer_duration: next file after so many seconds.
        ringbuffer_filesize: next file when one has so many kB.
        ringbuffer_packets: next file after so many packets.
        ringbuffer_interval: next file whenever the wall clock shows a multiple of so many seconds (in UTC).
        ringbuffer_time_first: in the names of the files the time stands before the number (False), as in
            ``x_20260131235959_00001.pcapng``.
        ringbuffer_files: keep so many files, delete the oldest of this capture. This and the next three hold for the
            snapshots of a recorder, too.
        ringbuffer_total_filesize: keep so many kB in all files together, delete the oldest of this capture.
        ringbuffer_age: delete a complete file when its last packet is so many seconds old, or when it was closed so
            long ago, if it has no packets.
        ringbuffer_free_space: keep so many kB free on the file system, delete the oldest files of this capture. Where a
            limit leaves no room and no complete file is left to delete, the capture ends well, with ``disk_limit``;
            but where the current file alone takes what others need, it goes, and the ring goes on in a new one.
        recorder_duration: keep the last so many seconds in memory, and write no file but snapshots of them
            (``snapshot``), which are named as a ring's files are. This or ``recorder_memory`` makes a recorder.
        recorder_memory: keep as much as so many MiB hold (64). Up to twice as much is taken while a snapshot is
            written to a slow disk.
        recorder_after: a snapshot goes on for so many seconds after what has triggered it (0).
        recorder_trigger_filter: a packet that matches it triggers a snapshot, whether ``capture_filter`` takes it or
            not.
        recorder_trigger_rate: so many packets within a second, of all interfaces, trigger one.
        recorder_trigger_link_down: an interface that goes down or away, or loses its link, triggers one (False).
        recorder_cool_down: while a snapshot is written, and for so many seconds after one that was triggered, nothing
            triggers another one (``recorder_duration``, or 60). What would have is counted: ``SP_TRIGGERS_IGNORED``.
        use_pcapng: write pcapng (True).
        use_libpcap: write pcap with nanosecond timestamps (False); one interface only.
        max_buffered_packets: refused: packets wait only in the kernel's ring, whose bound is in bytes.
        max_buffered_bytes: bound of what waits to be written, for each interface: sets the kernel's ring to it,
            rounded up to MiB. Not together with ``kernel_buffer_size``.
        separate_threads: True is refused: one process reads the rings of all interfaces.
        wait_for_interfaces: interfaces need not be there, or be up, yet, and the capture goes on when the last one
            is gone (False). They are attached when they come, and again when they come back, by name.
        packet_flags: write with each packet whether it came in or went out, and to whom it was sent (False): ``flags``,
            ``direction`` and ``kind`` of packets that are read. It takes 12 bytes a packet, and pcapng.
        comments: what files say of themselves at their beginning: one text, or several (none). It takes pcapng.
        compress_type: how files are compressed: ``gzip``, ``zstd`` or ``none``; if not given, as the end of their name
            says, ``.gz`` or ``.zst``. Sizes that end a file or a capture are those before compression, sizes that bound
            what is on the disk are those of the files. A recorder's snapshots are not compressed.
        update_interval: a packet is in its file and announced within about so many seconds (0.1); from 0.005.
        pass_files: have each file passed to this process, open for reading, before it is announced (False). Then
            ``open_file`` gives it also where the path does not lead, and after its ring has deleted it.
        netns: capture in another network namespace: its name of ``ip netns``, the number of a process in it, such as a
            container's, or a path. Where an administrator has a daemon run there, its rules hold, for those who give
            the name. Else a private one captures there, which takes what entering takes, CAP_SYS_ADMIN over it: root
            has that, and so has who runs a container without root over that one. Descriptions of interfaces say where
            they are. Not together with ``socket_path``.
        name: what to call the capture, for this user's programs: up to 64 letters, digits, dots, - and _, the first a
            letter. No two of a user's captures that run have the same.
        detach: the capture stays when the session is left, until it is stopped or reaches a limit (False). It needs a
            ``name``, a ``savefile``, and a daemon that stays.
    """

    interfaces: Source | Iterable[Source] | None
    capture_filter: str | None
    snaplen: int | None
    promiscuous: bool | None
    direction: str | None
    monitor_mode: bool | None
    kernel_buffer_size: int | None
    link_layer_type: str | LinkLayerType | None
    wifi_channel: str | None
    max_packet_count: int | None
    autostop_duration: float | None
    autostop_filesize: int | None
    autostop_files: int | None
    savefile: Savefile | None
    in_memory: bool | None
    group_access: bool | None
    ringbuffer_duration: float | None
    ringbuffer_filesize: int | None
    ringbuffer_packets: int | None
    ringbuffer_interval: float | None
    ringbuffer_files: int | None
    ringbuffer_time_first: bool | None
    ringbuffer_total_filesize: int | None
    ringbuffer_age: float | None
    ringbuffer_free_space: int | None
    recorder_duration: float | None
    recorder_memory: int | None
    recorder_after: float | None
    recorder_trigger_filter: str | None
    recorder_trigger_rate: int | None
    recorder_trigger_link_down: bool | None
    recorder_cool_down: float | None
    use_pcapng: bool | None
    use_libpcap: bool | None
    max_buffered_packets: int | None
    max_buffered_bytes: int | None
    separate_threads: bool | None
    packet_flags: bool | None
    comments: str | Sequence[str] | None
    compress_type: str | None
    update_interval: float | None
    wait_for_interfaces: bool | None
    pass_files: bool | None
    netns: Netns | None
    name: str | None
    detach: bool | None


_Init = TypeVar("_Init", bound=Callable[..., object])


def shows_arguments(init: _Init) -> _Init:
    """Have ``help`` and ``inspect.signature`` show each of ``CaptureArguments`` in place of ``**arguments``."""
    return shows_arguments_but(frozenset())(init)


def shows_arguments_but(refused: Set[str]) -> Callable[[_Init], _Init]:
    """Return what does so for a function that refuses some of them."""

    def shows(init: _Init) -> _Init:
        signature = inspect.signature(init)
        shown = [each for each in signature.parameters.values() if each.kind is not inspect.Parameter.VAR_KEYWORD]
        shown += [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
            for name, annotation in CaptureArguments.__annotations__.items()
            if name not in refused
        ]
        vars(init)["__signature__"] = signature.replace(parameters=shown)
        return init

    return shows


#: What a value may be as.
_TYPES: dict[ArgumentType, tuple[type, ...]] = {
    ArgumentType.TEXT: (str,),
    ArgumentType.WHOLE_NUMBER: (int,),
    ArgumentType.SECONDS: (int, float),
    ArgumentType.YES_OR_NO: (bool,),
    ArgumentType.PATH: (str, os.PathLike),
    ArgumentType.NAMES: (object,),
    ArgumentType.NETNS: (str, int, os.PathLike),
    ArgumentType.TEXTS: (tuple,),
}


def _whole_number(value: object) -> object:
    if isinstance(value, str):
        return int(value) if value.isascii() and value.isdecimal() and len(value) <= _MAX_DIGITS else value
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _seconds(value: object) -> object:
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def _yes_or_no(value: object) -> object:
    return bool(value) if isinstance(value, int | float) else value  # a text such as "no" would be yes


def _text(value: object) -> object:
    return value.name if isinstance(value, LinkLayerType) else value


def _texts(value: object) -> object:
    if isinstance(value, str):
        return (value,)
    if not isinstance(value, Sequence):
        return value
    texts = cast(Sequence[object], value)
    return tuple(texts) if all(isinstance(each, str) for each in texts) else texts


#: What else a value may be given as: wirepy's programs have numbers as text, and values that an interface reported.
_FROM: dict[ArgumentType, Callable[[object], object]] = {
    ArgumentType.TEXT: _text,
    ArgumentType.WHOLE_NUMBER: _whole_number,
    ArgumentType.SECONDS: _seconds,
    ArgumentType.YES_OR_NO: _yes_or_no,
    ArgumentType.TEXTS: _texts,
}


def _typed(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return arguments with values of their types.

    Raises:
        InvalidArgument: there is no such argument, or its value is not valid.
    """
    return {name: _typed_value(name, value) for name, value in arguments.items()}


def _typed_value(name: str, given: Any) -> Any:
    if name not in BY_NAME:
        raise InvalidArgument(f"there is no argument {name}", argument=name)
    spec = BY_NAME[name]
    value: Any = _FROM[spec.type](given) if spec.type in _FROM else given
    types = _TYPES[spec.type]
    wrong_bool = isinstance(value, bool) and bool not in types and object not in types
    if value is not None and (wrong_bool or not isinstance(value, types)):
        raise InvalidArgument(f"{name} is {given!r}; it must be {spec.type.value}", argument=name)
    return None if spec.unset_by_zero and value == 0 else value


def _file_format(use_pcapng: bool | None, use_libpcap: bool | None) -> Literal["pcapng", "pcap"]:
    if use_pcapng is not None and use_libpcap is not None and use_pcapng == use_libpcap:
        text = f"use_pcapng and use_libpcap cannot both be {use_pcapng}: a file has one format"
        raise InvalidArgument(text, argument="use_libpcap")
    return "pcap" if use_libpcap or use_pcapng is False else "pcapng"


def _refuse_without_effect(arguments: CaptureArguments) -> None:
    if arguments.get("max_buffered_packets") is not None:
        text = (
            "max_buffered_packets has nothing to set: packets wait only in the kernel's ring, whose bound is in "
            "bytes: use max_buffered_bytes or kernel_buffer_size"
        )
        raise InvalidArgument(text, argument="max_buffered_packets")
    if arguments.get("separate_threads"):
        text = "separate_threads has nothing to set: one process reads the rings of all interfaces, in time order"
        raise InvalidArgument(text, argument="separate_threads")


def _kernel_buffer_size_mib(arguments: CaptureArguments) -> int | None:
    size_mib, buffered_bytes = arguments.get("kernel_buffer_size"), arguments.get("max_buffered_bytes")
    if buffered_bytes is None:
        return size_mib
    if size_mib is not None:
        text = "max_buffered_bytes and kernel_buffer_size set the same ring: give one of them"
        raise InvalidArgument(text, argument="max_buffered_bytes")
    if buffered_bytes < 1:
        raise InvalidArgument(
            f"max_buffered_bytes is {buffered_bytes}; it must be positive", argument="max_buffered_bytes"
        )
    return -(-buffered_bytes // _MIB)


def _interface_requests(
    arguments: CaptureArguments,
) -> tuple[tuple[InterfaceRequest, ...], tuple[StreamToOpen, ...]]:
    """Return what is captured on, and how those of them are opened that are streams."""
    given: object = arguments.get("interfaces")
    if isinstance(given, str | CaptureInterface | HasName | HasDescriptor):
        given = (given,)
    if given is None or (isinstance(given, Sized) and not given):
        given = (_DEFAULT_INTERFACE,)
    if not isinstance(given, Iterable):  # pyright: ignore[reportUnnecessaryIsInstance]  # not every caller is typed
        raise InvalidArgument(f"interfaces is {given!r}; it must be names of interfaces", argument="interfaces")
    common = {name: arguments.get(name) for name in _InterfaceOptions.__dataclass_fields__}
    common["kernel_buffer_size"] = _kernel_buffer_size_mib(arguments)
    requests: list[InterfaceRequest] = []
    streams: list[StreamToOpen] = []
    for one in given:
        stream = stream_of(one.name if isinstance(one, CaptureInterface) else one)
        if stream is None:
            requests.append(_interface_request(one, common))
            continue
        stream = stream.beside([each.name for each in requests])
        options = _stream_options(one, stream, common)
        requests.append(_stream_request(stream, options, waits=bool(arguments.get("wait_for_interfaces"))))
        # A recorder's trigger looks at what the filter leaves out, too.
        kept = {"capture_filter": None} if arguments.get("recorder_trigger_filter") is not None else {}
        streams.append(stream.with_options({**options, **kept}))
    if len(streams) == len(requests) and not any(each.takes_options for each in streams):
        _refuse_for_streams(common)
    return tuple(requests), tuple(streams)


#: What is said of a stream's packets; all else is about network interfaces.
_OF_STREAMS = ("capture_filter", "snaplen")


def _refuse_for_streams(common: Mapping[str, Any]) -> None:
    """Refuse what has no effect where no network interface is captured on."""
    for name, value in common.items():
        if name not in _OF_STREAMS and value is not None:
            text = f"{name} is about network interfaces, and only streams are captured from: leave it out"
            raise InvalidArgument(text, argument=name)


def _stream_options(given: object, stream: StreamToOpen, common: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(given, CaptureInterface):
        return common
    own = _typed({name: getattr(given, name) for name in common})
    if not stream.takes_options:
        _refuse_for_streams(own)
    return {name: common[name] if value is None else value for name, value in own.items()}


def _stream_request(stream: StreamToOpen, options: dict[str, Any], *, waits: bool) -> InterfaceRequest:
    if waits and not stream.comes_again:
        text = f"{stream.name} cannot come again when it has ended: leave out wait_for_interfaces"
        raise InvalidArgument(text, argument="wait_for_interfaces")
    of_request = fields_of("interface", {name: options[name] for name in _OF_STREAMS})
    return InterfaceRequest(name=stream.name, is_stream=True, comes_again=waits, **of_request)


def _interface_request(given: object, common: dict[str, Any]) -> InterfaceRequest:
    name: object = given.name if isinstance(given, HasName) else given
    if not isinstance(name, str) or (not name and given is not _DEFAULT_INTERFACE):
        text = f"interfaces has {given!r}; it takes names, CaptureInterface and Interface"
        raise InvalidArgument(text, argument="interfaces")
    one = given if isinstance(given, CaptureInterface) else CaptureInterface(name=name)
    own = _typed({name: getattr(one, name) for name in common})
    chosen = {name: common[name] if value is None else value for name, value in own.items()}
    return InterfaceRequest(
        name=name, label=one.label or "", description=one.description or "", **fields_of("interface", chosen)
    )


def _ring(arguments: CaptureArguments) -> Conditions | None:
    ring = Conditions(**fields_of("ring", arguments))
    in_memory = arguments.get("in_memory")
    if ring == Conditions():
        return _IN_MEMORY if in_memory else None
    if arguments.get("savefile") is None and not in_memory:
        text = "a ring buffer needs a savefile, which its files are named after"
        raise InvalidArgument(text, argument="savefile")
    return ring


def _recorder(arguments: CaptureArguments) -> Recorder | None:
    given = [each.name for each in ARGUMENTS if each.part == "recorder" and arguments.get(each.name) is not None]
    if not given:
        return None
    if arguments.get("recorder_duration") is None and arguments.get("recorder_memory") is None:
        text = f"{given[0]} is about a recorder: say what it keeps, with recorder_duration or recorder_memory"
        raise InvalidArgument(text, argument=given[0])
    if arguments.get("savefile") is None:
        text = "a recorder needs a savefile, which its snapshots are named after"
        raise InvalidArgument(text, argument="savefile")
    kept = Conditions(**fields_of("ring", arguments))
    return Recorder(**fields_of("recorder", arguments), kept=None if kept == Conditions() else kept)


@dataclass(frozen=True)
class Place:
    """Where the files go: a directory, as a path for the user and as the client opens it."""

    directory: str
    file_name: str
    is_temporary: bool
    #: No name leads to the files.
    in_memory: bool = False

    def path_of(self, file_name: str) -> str:
        """Return a file's path as the user would write it: relative, if the savefile was; in memory, the name alone."""
        if self.in_memory:
            return file_name
        return os.path.join(self.directory, file_name) if self.directory else file_name  # noqa: PTH118

    def open(self) -> int:
        """Open the directory, without the right to do more with it than to name what is in it.

        Raises:
            DestinationError: there is no such directory, or no way into it.
        """
        try:
            return os.open(self.directory or ".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            shown = self.directory if self.directory.isprintable() else repr(self.directory)
            raise DestinationError(f"the directory {shown} cannot be entered: {reason}") from error


def _what_is_captured(interfaces: Sequence[InterfaceRequest]) -> str:
    """Return what a temporary file is named after."""
    if len(interfaces) > 1:
        return f"{len(interfaces)}_interfaces"
    target = target_of(interfaces[0])
    if isinstance(target, Stream):
        return "stream"
    return "several_interfaces" if isinstance(target, Pattern) else target.request.name


def path_of_text(savefile: Savefile) -> str:
    """Return the path of a savefile that has one.

    Raises:
        InvalidArgument: it has none, or one of bytes.
    """
    path: object = os.fspath(savefile) if isinstance(savefile, str | os.PathLike) else savefile
    if not isinstance(path, str):
        raise InvalidArgument(f"savefile is {path!r:.80}; it must be a path of text", argument="savefile")
    return path


def _temporary_directory() -> str:
    import tempfile  # noqa: PLC0415  # takes 5 ms, which who names a file need not wait

    return tempfile.gettempdir()


def _place(arguments: CaptureArguments, interfaces: Sequence[InterfaceRequest], suffix: str) -> Place:
    savefile, in_memory = arguments.get("savefile"), bool(arguments.get("in_memory"))
    if savefile is not None and in_memory:
        text = "savefile names a file, and in_memory keeps none: leave out one of the two"
        raise InvalidArgument(text, argument="in_memory")
    if savefile is None:
        what = _what_is_captured(interfaces)
        directory = _SHARED_MEMORY if in_memory and os.path.isdir(_SHARED_MEMORY) else _temporary_directory()  # noqa: PTH112
        file_name = f"capd_{what}_{os.urandom(4).hex()}.{suffix}"
        return Place(directory, file_name, is_temporary=True, in_memory=in_memory)
    path = path_of_text(savefile)
    directory, file_name = os.path.split(path)
    if not file_name:
        raise InvalidArgument(f"savefile {path!r} names a directory: add the name of a file", argument="savefile")
    return Place(directory, file_name, is_temporary=False)


class Prepared(NamedTuple):
    """A capture that can be asked for.

    Attributes:
        request: what is asked for.
        place: where its files go.
        streams: how those interfaces of the request are opened that are streams, in order.
        netns: in which network namespace; None: in the daemon's.
    """

    request: StartCapture
    place: Place
    streams: tuple[StreamToOpen, ...]
    netns: Netns | None = None


def make_request(arguments: CaptureArguments) -> Prepared:
    """Return the request for these arguments, and what goes along with it.

    Raises:
        InvalidArgument: one of them is impossible; all that is wrong with the values is in the text.
    """
    arguments = cast(CaptureArguments, _typed(arguments))
    if arguments.get("in_memory") and arguments.get("pass_files") is None:
        arguments["pass_files"] = True
    _refuse_without_effect(arguments)
    interfaces, streams = _interface_requests(arguments)
    recorder = _recorder(arguments)
    file_format = _file_format(arguments.get("use_pcapng"), arguments.get("use_libpcap"))
    place = _place(arguments, interfaces, file_format)
    request = StartCapture(
        interfaces=interfaces,
        destination=Destination(
            file_name=place.file_name, exclusive=place.is_temporary, **fields_of("destination", arguments)
        ),
        file_format=file_format,
        ring=_ring(arguments) if recorder is None else None,
        recorder=recorder,
        autostop=Conditions(**fields_of("autostop", arguments)),
        **fields_of("", arguments),
    )
    faults = find_faults(request)
    if faults:
        raise InvalidArgument("; ".join(fault.text for fault in faults), argument=faults[0].argument)
    return Prepared(request, place, streams, arguments.get("netns"))


def checked_capture(capture: object) -> int | str:
    """Return what names a capture: its number, or the name that its owner gave to it.

    Raises:
        InvalidArgument: it is neither.
    """
    is_number = isinstance(capture, int) and not isinstance(capture, bool) and 0 <= capture < 2**63
    if is_number or (isinstance(capture, str) and is_capture_name(capture)):
        return capture  # type: ignore[return-value]
    text = f"{capture!r:.80} is no capture: say its number or its name, as in the list"
    raise InvalidArgument(text, argument="capture")


def checked_user(user: object) -> int:
    """Return the number of a user: of an account by its name, or the number itself, with or without an account.

    Raises:
        InvalidArgument: it is neither.
    """
    if isinstance(user, str):
        # A name may be digits, and comes first.
        with contextlib.suppress(KeyError, ValueError):  # such as a NUL in it
            return pwd.getpwnam(user).pw_uid
        user = int(user) if user.isascii() and user.isdecimal() and len(user) <= _MAX_ID_DIGITS else user
    if isinstance(user, bool) or not isinstance(user, int):
        text = f"{user!r:.80} is no user: there is no account of this name, and it is no number"
        raise InvalidArgument(text, argument="user")
    for fault in find_revocation_faults(user):
        raise InvalidArgument(fault.text, argument=fault.argument)
    return user


def checked_snapshot(capture: int | str | None, after: object) -> SnapshotCapture:
    """Return the request for a snapshot.

    Raises:
        InvalidArgument: the time is impossible.
    """
    if after is not None and (isinstance(after, bool) or not isinstance(after, int | float)):
        raise InvalidArgument(f"after is {after!r}; it must be a number of seconds", argument="after")
    for fault in find_snapshot_faults(after):
        raise InvalidArgument(fault.text, argument=fault.argument)
    return SnapshotCapture(capture=capture, after_s=after)
