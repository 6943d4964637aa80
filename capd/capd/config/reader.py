"""The configuration: a TOML document to rules and captures, with all its faults at once.

Keys of a capture are called as ``CaptureSession`` calls its arguments.
"""

import difflib
import grp
import ipaddress
import os
import pwd
import re
import tomllib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar, cast

import msgspec

from capd.config.toml_lines import Key, line_of
from capd.linux import trust
from capd.policy.rules import Policy, Rule
from capd.policy.sending import ANY_SOURCE, SendRight
from capd_protocol.arguments import (
    ARGUMENTS,
    SWITCHING,
    ArgumentType,
    fields_of,
    find_faults,
    find_interface_faults,
)
from capd_protocol.messages import (
    MAX_SNAPLEN_BYTES,
    Conditions,
    Destination,
    InterfaceRequest,
    Recorder,
    StartCapture,
)
from capd_protocol.targets import Target, targets_of

DEFAULT_PATH = Path("/etc/capd/capd.toml")
#: What is longer is not read. Chosen: thousands of rules.
_MAX_BYTES = 1024 * 1024

_PORT = re.compile(r"[0-9]{1,5}")
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")
#: sizeof(sun_path) less the NUL at its end.
_MAX_SOCKET_PATH_BYTES = 107

_Positive = Annotated[int, msgspec.Meta(ge=1)]
#: Less holds hardly more than headers.
_DiskBytes = Annotated[int, msgspec.Meta(ge=1_000_000)]
#: Of a user or a group. The largest number stands for none to the kernel.
_Id = Annotated[int, msgspec.Meta(ge=0, le=2**32 - 2)]
_Text = Annotated[str, msgspec.Meta(min_length=1)]


#: How tomllib ends a message.
_TOML_PLACE = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")
#: msgspec speaks of Python's types.
_TYPE = re.compile(r"`(\w+)`")
_TYPES = {
    "str": "a text",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "array": "an array",
    "object": "a table",
}


class ConfigError(Exception):
    """The configuration cannot be used. ``faults`` has a line for people for each thing that is wrong."""

    def __init__(self, faults: Iterable[str]) -> None:
        self.faults = tuple(faults)
        super().__init__("\n".join(self.faults))


class _Rule(msgspec.Struct, kw_only=True):
    """``[[rule]]``: see ``capd.policy.rules.Rule``."""

    name: _Text
    containers: bool = False
    users: tuple[str | _Id, ...] = ()
    groups: tuple[str | _Id, ...] = ()
    everybody: bool = False
    interfaces: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)] = ("*",)
    filter: str = ""
    max_snaplen_bytes: Annotated[int, msgspec.Meta(ge=1, le=MAX_SNAPLEN_BYTES)] = MAX_SNAPLEN_BYTES
    promiscuous: bool = True
    monitor_mode: bool = False
    max_captures: _Positive | None = None
    max_disk_bytes: _DiskBytes | None = None
    max_duration_s: Annotated[float, msgspec.Meta(gt=0)] | None = None
    send: bool = False
    send_interfaces: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)] | None = None
    send_source_macs: tuple[str, ...] = ()
    max_send_pps: _Positive | None = None
    devices: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)] = ()


class _OwnKeys(msgspec.Struct, kw_only=True):
    """What a capture of the configuration has beside its arguments, and the interfaces, which are one."""

    interfaces: tuple[str, ...]
    group: str | _Id
    max_disk_bytes: _DiskBytes | None = None


#: For what a table must have and has not, or has wrongly: with these, what else is wrong with it is found as well.
_STAND_INS: dict[str, Any] = {"name": "", "interfaces": ("eth0",), "group": 0}

_PYTHON_TYPES = {
    ArgumentType.TEXT: str,
    ArgumentType.WHOLE_NUMBER: int,
    ArgumentType.SECONDS: float,
    ArgumentType.YES_OR_NO: bool,
    ArgumentType.TEXTS: tuple[str, ...],
}
#: ``[captures.NAME]``: what runs as long as the daemon does, and whose members may read its files.
_Capture = cast(
    type[_OwnKeys],
    msgspec.defstruct(
        "_Capture",
        [
            # An argument of a recorder makes it one.
            (each.name, _PYTHON_TYPES[each.type], None if each.part == "recorder" else each.default)
            for each in ARGUMENTS
            if each.is_configured
        ],
        bases=(_OwnKeys,),
        kw_only=True,
    ),
)


class _Metrics(msgspec.Struct, kw_only=True):
    """``[metrics]``: where Prometheus asks for them, a Unix socket or an address."""

    socket: _Text | None = None
    group: str | _Id | None = None
    address: _Text | None = None


@dataclass(frozen=True)
class MetricsSocket:
    """A Unix socket that metrics are served on.

    Attributes:
        path: where it is.
        group_id: whose members may ask; None: only the daemon's user and root.
    """

    path: Path
    group_id: int | None = None

    def __str__(self) -> str:
        return str(self.path)


@dataclass(frozen=True)
class MetricsAddress:
    """A TCP address that metrics are served on, to whoever reaches it."""

    host: ipaddress.IPv4Address | ipaddress.IPv6Address
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if self.host.version == 6 else f"{self.host}:{self.port}"


@dataclass(frozen=True)
class ConfiguredCapture:
    """A capture that runs without anybody asking.

    Attributes:
        name: also of its directory.
        group_id: whose members may read its files.
        request: what is captured.
        max_disk_bytes: what its files may take.
    """

    name: str
    group_id: int
    request: StartCapture
    max_disk_bytes: int | None = None

    @property
    def targets(self) -> tuple[Target, ...]:
        """What its interface requests are for."""
        return targets_of(self.request.interfaces)


@dataclass(frozen=True)
class Config:
    """What the configuration says.

    Attributes:
        policy: who may do what.
        captures: what runs without anybody asking.
        metrics: where they are served; None: nowhere.
        warnings: lines for people: what has no effect, and may be meant to.
        awaited_group: whose members may capture, and which is not there yet; empty: all groups are there.
    """

    policy: Policy
    captures: tuple[ConfiguredCapture, ...] = ()
    metrics: MetricsSocket | MetricsAddress | None = None
    warnings: tuple[str, ...] = ()
    awaited_group: str = ""


def trusted_users(environment: Mapping[str, str], process_id: int, user_id: int) -> frozenset[int]:
    """Return whose configuration a process believes: root's; started by hand, also that of the user who started it.

    A service is a user of its own, which has nothing to say in what it may do. That systemd has started this very
    process it says by a variable (systemd.exec(5), since version 248).

    Args:
        environment: of the process.
        process_id: its own.
        user_id: its effective user.
    """
    is_service = environment.get("SYSTEMD_EXEC_PID") == str(process_id)
    return frozenset({0}) if is_service else frozenset({0, user_id})


def _trusted() -> frozenset[int]:
    return trusted_users(os.environ, os.getpid(), os.geteuid())


def is_absent(path: Path) -> bool:
    """Whether there is none; a link that leads nowhere is one that is gone by mistake.

    Raises:
        ConfigError: there is none, and others could have removed it.
    """
    if os.path.lexists(path):
        return False
    _check_way(path, _trusted())
    return True


def _check_way(path: Path, trusted: Collection[int]) -> None:
    """Check that nobody else can change the file, or have another one be there.

    A directory like /tmp is no danger to what is theirs: others cannot remove it there.
    """
    try:
        fault = trust.find_fault_on_way(path, trusted, sticky_is_safe=True)
    except OSError as error:
        raise ConfigError([f"{path}: cannot be read: {error.strerror}"]) from error
    if fault:
        raise _changeable(path, fault)


def _changeable(path: Path, fault: trust.Fault) -> ConfigError:
    danger = "and whoever may change the configuration decides who may capture"
    return ConfigError([f"{path}: {fault.text}, {danger}: '{fault.remedy}'"])


def _read(path: Path, trusted: Collection[int]) -> bytes:
    _check_way(path, trusted)
    try:
        with path.open("rb") as file:
            # What was on the way can have been changed by those alone whom we trust; this is what is read.
            status = os.fstat(file.fileno())
            fault = trust.find_fault(path, status.st_uid, status.st_mode, trusted)
            if fault:
                raise _changeable(path, fault)
            return file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError([f"{path}: cannot be read: {error.strerror}"]) from error


def load(path: Path, complain_about_filter: Callable[[str], str | None] = lambda _: None) -> Config:
    """Read and check a configuration.

    Args:
        path: of the TOML document.
        complain_about_filter: returns what is wrong with a filter, if anything.

    Raises:
        ConfigError: it cannot be read, others may change it, or something is wrong with it; it has all the faults.
    """
    return decode(path, _read(path, _trusted()), complain_about_filter)


def decode(path: Path, data: bytes, complain_about_filter: Callable[[str], str | None] = lambda _: None) -> Config:
    """Check a configuration that was read.

    Args:
        path: what messages say that it is.
        data: the TOML document.
        complain_about_filter: returns what is wrong with a filter, if anything.

    Raises:
        ConfigError: something is wrong with it; it has all the faults.
    """
    if len(data) > _MAX_BYTES:
        raise ConfigError([f"{path}: longer than {_MAX_BYTES} bytes"])
    try:
        text = data.decode()
        document = tomllib.loads(text)
    except ValueError as error:  # no UTF-8, or no TOML
        raise ConfigError([_syntax_fault(path, data, error)]) from error
    except RecursionError as error:
        raise ConfigError([f"{path}: arrays or tables are nested too deep"]) from error
    reader = _Reader(path, text, complain_about_filter)
    config = reader.read(document)
    if reader.faults:
        raise ConfigError(text for _, text in sorted([*reader.faults, *reader.warnings], key=_line))
    return config


def _syntax_fault(path: Path, data: bytes, error: ValueError) -> str:
    """Return what is wrong with a text that is no TOML, with its line as other faults have theirs."""
    if isinstance(error, UnicodeDecodeError):
        line = data.count(b"\n", 0, error.start) + 1
        return f"{path}:{line}: a byte that is not UTF-8: 0x{data[error.start]:02x}"
    # Before Python 3.14, tomllib has the place in its text alone.
    place = _TOML_PLACE.search(str(error))
    line = int(place[1]) if place and place[1] else len(data.splitlines())
    where = f" (column {place[2]})" if place and place[2] else " (at the end)"
    text = _TOML_PLACE.sub("", str(error))
    return f"{path}:{line}: {text[:1].lower()}{text[1:]}{where}"


_Table = TypeVar("_Table", _Rule, _OwnKeys, _Metrics)
_Entry = TypeVar("_Entry")


class _Reader:
    """Goes through a document and collects what is wrong with it."""

    def __init__(self, path: Path, text: str, complain_about_filter: Callable[[str], str | None]) -> None:
        self._path = path
        self._complain_about_filter = complain_about_filter
        self._text = text
        #: With their lines, by which they are sorted.
        self.faults: list[tuple[int, str]] = []
        self.warnings: list[tuple[int, str]] = []

    def _place(self, key: Key, text: str) -> tuple[int, str]:
        line = line_of(self._text, key)
        shown = "".join(f"[{part + 1}]" if isinstance(part, int) else f".{part}" for part in key).lstrip(".")
        return line, f"{self._path}:{line}: {shown}: {text}"

    def _fault(self, key: Key, text: str) -> None:
        self.faults.append(self._place(key, text))

    def read(self, document: dict[str, Any]) -> Config:
        self._find_unknown((), document, ("contact", "rule", "captures", "metrics"))
        contact = self._converted(("contact",), document.get("contact", ""), str) or ""
        placed = dict(self._rules(document.get("rule", [])))
        if not self.faults:  # what stands for a value that is wrong hides nothing
            self._find_hidden(placed)
        rules = tuple(placed.values())
        captures = tuple(self._captures(document.get("captures", {})))
        metrics = self._metrics(document["metrics"]) if "metrics" in document else None
        policy = Policy(rules, f"ask {contact}" if contact else "ask an administrator", contact=contact)
        return Config(policy, captures, metrics, tuple(text for _, text in sorted(self.warnings, key=_line)))

    # Tables -------------------------------------------------------------------------------------------------------

    def _find_unknown(self, key: Key, table: dict[str, Any], known: Iterable[str]) -> None:
        known = list(known)
        for name in table:
            if name not in known:
                near = difflib.get_close_matches(name, known, 1)
                advice = f"did you mean {near[0]}?" if near else f"possible are {', '.join(known)}"
                self._fault((*key, name), f"there is no such key: {advice}")

    def _converted(self, key: Key, value: Any, kind: Any) -> Any:
        """Return a value as its type; None if it cannot be, which is no value in TOML."""
        try:
            return msgspec.convert(value, kind)
        except msgspec.ValidationError as error:
            self._fault(key, _TYPE.sub(lambda found: _TYPES.get(found[1], found[0]), str(error)))
            return None

    def _table(self, key: Key, value: Any, kind: type[_Table]) -> _Table | None:
        """Return a table as a struct, with defaults for what is wrong; None if it is no table."""
        if not isinstance(value, dict):
            self._fault(key, "must be a table")
            return None
        table: dict[str, Any] = value  # pyright: ignore[reportUnknownVariableType]
        fields = msgspec.structs.fields(kind)
        self._find_unknown(key, table, (each.name for each in fields))
        for each in fields:
            if each.required and each.name not in table:
                self._fault(key, f"{each.name} is missing")
        read = {
            each.name: self._converted((*key, each.name), table[each.name], each.type)
            for each in fields
            if each.name in table
        }
        values = {each.name: _STAND_INS[each.name] for each in fields if each.required}
        return kind(**values | {name: value for name, value in read.items() if value is not None})

    def _ids(self, key: Key, names: Iterable[str | int], look_up: Callable[[str], int]) -> frozenset[int]:
        found: set[int] = set()
        for at, name in enumerate(names):
            try:
                found.add(name if isinstance(name, int) else look_up(name))
            except KeyError:
                self.warnings.append(self._place((*key, at), f"there is no {name!r} on this machine now (warning)"))
        return frozenset(found)

    # Rules --------------------------------------------------------------------------------------------------------

    def _rules(self, value: Any) -> Iterator[tuple[Key, Rule]]:
        if not isinstance(value, list):
            self._fault(("rule",), "rules are written as [[rule]]")
            return
        tables: list[Any] = value  # pyright: ignore[reportUnknownVariableType]
        names: set[str] = set()
        for at, table in enumerate(tables):
            key: Key = ("rule", at)
            rule = self._table(key, table, _Rule)
            if rule is None:
                continue
            if rule.name and rule.name in names:
                self._fault((*key, "name"), f"another rule has the name {rule.name!r} already")
            names.add(rule.name)
            if not (rule.users or rule.groups or rule.everybody):
                self._fault(key, "names nobody: add users, groups or everybody = true")
            for name in rule.interfaces:
                self._check((*key, "interfaces"), InterfaceRequest(name=name))
            self._check((*key, "filter"), InterfaceRequest(name="any", capture_filter=rule.filter))
            self._check_filter((*key, "filter"), rule.filter)
            yield (
                key,
                Rule(
                    name=rule.name,
                    containers=rule.containers,
                    user_ids=self._ids((*key, "users"), rule.users, _user_id),
                    group_ids=self._ids((*key, "groups"), rule.groups, _group_id),
                    everybody=rule.everybody,
                    interfaces=rule.interfaces,
                    filter=rule.filter,
                    max_snaplen_bytes=rule.max_snaplen_bytes,
                    promiscuous=rule.promiscuous,
                    monitor_mode=rule.monitor_mode,
                    max_captures=rule.max_captures,
                    max_disk_bytes=rule.max_disk_bytes,
                    max_duration_s=rule.max_duration_s,
                    send=self._send_right(key, rule),
                    devices=self._devices(key, rule),
                ),
            )

    def _devices(self, key: Key, rule: _Rule) -> tuple[str, ...]:
        if rule.devices and rule.filter:
            text = "a filter holds for network interfaces, and not for devices of capture modules: write two rules"
            self._fault((*key, "devices"), text)
        for name in rule.devices:
            self._check((*key, "devices"), InterfaceRequest(name=name, is_stream=True))
        return rule.devices

    def _send_right(self, key: Key, rule: _Rule) -> SendRight | None:
        for name in rule.send_interfaces or ():
            self._check((*key, "send_interfaces"), InterfaceRequest(name=name))
        macs = tuple(each.lower() for each in rule.send_source_macs)
        for at, mac in enumerate(macs):
            if mac != ANY_SOURCE and not _MAC.fullmatch(mac):
                text = f"must be a MAC address, such as 02:00:00:00:00:01, or {ANY_SOURCE!r} for any"
                self._fault((*key, "send_source_macs", at), text)
        if rule.send:
            interfaces = rule.interfaces if rule.send_interfaces is None else rule.send_interfaces
            return SendRight(interfaces=interfaces, max_pps=rule.max_send_pps, source_macs=macs)
        for name in ("send_interfaces", "send_source_macs", "max_send_pps"):
            if getattr(rule, name):
                self._fault((*key, name), "nothing may be sent: add send = true")
        return None

    def _find_hidden(self, placed: Mapping[Key, Rule]) -> None:
        """Warn of rules that never grant anything, since an earlier one does."""
        before: list[Rule] = []
        for key, rule in placed.items():
            hiding = next((each for each in before if each.hides(rule, _has_account)), None)
            if hiding is not None:
                text = (
                    f"never grants: the rule {hiding.name!r} before it grants all of this to the same users (warning)"
                )
                self.warnings.append(self._place(key, text))
            before.append(rule)

    def _check(self, key: Key, request: InterfaceRequest) -> None:
        for fault in find_interface_faults(request):
            self._fault(key, fault.text)

    def _check_filter(self, key: Key, text: str) -> None:
        complaint = self._complain_about_filter(text)
        if complaint is not None:
            self._fault(key, complaint)

    # Captures -----------------------------------------------------------------------------------------------------

    def _captures(self, value: Any) -> Iterator[ConfiguredCapture]:
        if not isinstance(value, dict):
            self._fault(("captures",), "captures are written as [captures.NAME]")
            return
        tables: dict[str, Any] = value  # pyright: ignore[reportUnknownVariableType]
        for name, table in tables.items():
            key: Key = ("captures", name)
            capture = self._table(key, table, _Capture)
            if capture is None:
                continue
            values = msgspec.structs.asdict(capture)
            self._check_filter((*key, "capture_filter"), values["capture_filter"])
            request = _request(name, capture.interfaces, values)
            for fault in find_faults(request):
                if fault.argument == "savefile":
                    continue  # it is the capture's name
                self._fault(key if fault.argument == "name" else (*key, fault.argument), fault.text)
            group_id = 0
            try:
                group_id = capture.group if isinstance(capture.group, int) else _group_id(capture.group)
            except KeyError:
                self._fault((*key, "group"), f"there is no group {capture.group!r}: its files would be nobody's")
            self._check_filter((*key, "recorder_trigger_filter"), values["recorder_trigger_filter"] or "")
            self._check_bounds(key, request)
            yield ConfiguredCapture(name, group_id, request, capture.max_disk_bytes)

    def _check_bounds(self, key: Key, request: StartCapture) -> None:
        """Check that the files of a capture that runs for ever do not become ever more."""
        if request.recorder is None:
            if request.ring is None:
                self._fault(key, f"runs for ever: give {SWITCHING}")
            return
        kept = request.recorder.kept or Conditions()
        if (kept.files, kept.total_kb, kept.age_s, kept.free_kb) == (None, None, None, None):
            text = "ringbuffer_files, ringbuffer_total_filesize, ringbuffer_age or ringbuffer_free_space"
            self._fault(key, f"writes snapshots for ever: give {text}")

    # Metrics ------------------------------------------------------------------------------------------------------

    def _metrics(self, value: Any) -> MetricsSocket | MetricsAddress | None:
        table = self._table(("metrics",), value, _Metrics)
        if table is None:
            return None
        if (table.socket is None) == (table.address is None):
            self._fault(("metrics",), "give one of socket and address")
            return None
        if table.address is not None:
            if table.group is not None:
                text = "a group is for a socket: whoever reaches an address may ask"
                self._fault(("metrics", "group"), text)
            return self._address(table.address)
        path, group_id = Path(table.socket or ""), None
        if not path.is_absolute() or len(bytes(path)) > _MAX_SOCKET_PATH_BYTES or "\0" in str(path):
            text = f"must be the whole path of a socket, of at most {_MAX_SOCKET_PATH_BYTES} bytes"
            self._fault(("metrics", "socket"), text)
        if table.group is not None:
            try:
                group_id = table.group if isinstance(table.group, int) else _group_id(table.group)
            except KeyError:
                self._fault(("metrics", "group"), f"there is no group {table.group!r}: nobody could ask")
        return MetricsSocket(path, group_id)

    def _address(self, text: str) -> MetricsAddress | None:
        host, _, port = text.rpartition(":")
        is_bracketed = host.startswith("[") and host.endswith("]")
        try:
            address = ipaddress.IPv6Address(host[1:-1]) if is_bracketed else ipaddress.IPv4Address(host)
        except ValueError:
            address = None
        if address is None or not _PORT.fullmatch(port) or not 0 < int(port) < 2**16:
            text = "must be a numeric address and a port: 127.0.0.1:9105 or [::1]:9105"
            self._fault(("metrics", "address"), text)
            return None
        return MetricsAddress(address, int(port))


def _line(fault: tuple[int, str]) -> int:
    return fault[0]


def _user_id(name: str) -> int:
    return _looked_up(pwd.getpwnam, name).pw_uid


def _has_account(user_id: int) -> bool:
    try:
        pwd.getpwuid(user_id)
    except KeyError:
        return False
    return True


def _group_id(name: str) -> int:
    return _looked_up(grp.getgrnam, name).gr_gid


def _looked_up(look_up: Callable[[str], _Entry], name: str) -> _Entry:
    """Return who has a name.

    Raises:
        KeyError: nobody has it.
    """
    try:
        return look_up(name)
    except ValueError as error:  # a NUL in it
        raise KeyError(name) from error


def _request(name: str, interfaces: Iterable[str], values: Mapping[str, Any]) -> StartCapture:
    ring = Conditions(**fields_of("ring", values))
    kept = None if ring == Conditions() else ring
    recorder = fields_of("recorder", values)
    options = fields_of("interface", values)
    return StartCapture(
        interfaces=tuple(InterfaceRequest(name=interface, **options) for interface in interfaces),
        destination=Destination(file_name=f"{name}.pcapng", group_access=True),
        ring=None if recorder else kept,
        recorder=Recorder(**recorder, kept=kept) if recorder else None,
        wait_for_interfaces=True,
        name=name,
        **fields_of("", values),
    )
