"""What a dissection is asked with, as the words of Wireshark's command lines. Pure."""

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple, TypedDict

from capd_client.errors import InvalidArgument

if TYPE_CHECKING:
    from capd_client.display_filters.filter import AnyDisplayFilter

#: How long an engine may stand still while it has something to do. Chosen: no packet takes a hundredth of that.
DEFAULT_TIMEOUT_S = 60.0


class DissectionArguments(TypedDict, total=False):
    """Arguments of ``dissect``, for files and for live streams.

    Attributes:
        display_filter: only frames that match; Wireshark does it, with all of its fields.
        preferences: Wireshark's, such as ``{"tcp.desegment_tcp_streams": False}``.
        decode_as: which protocol to take for what, such as ``{"tcp.port==8888": "http"}``.
        keylog_file: of TLS keys, as browsers write them where SSLKEYLOGFILE is set. Where root reads, what is in it at
            the beginning is used.
        profile: a profile of the user's own configuration; without it, and without ``configuration``, none is used.
        configuration: the directory of a configuration of Wireshark's; ``profile`` is one of it then.
        two_pass: look at all packets first, so that frames may tell of later ones; of files only.
        program: another ``tshark`` than that in PATH.
        timeout_s: how long the engine may stand still while it has something to do; None: for ever.
    """

    display_filter: "AnyDisplayFilter | None"
    preferences: Mapping[str, object]
    decode_as: Mapping[str, str]
    keylog_file: str | os.PathLike[str] | None
    profile: str | None
    configuration: str | os.PathLike[str] | None
    two_pass: bool
    program: str | os.PathLike[str] | None
    timeout_s: float | None


class Asked(NamedTuple):
    """The same, checked.

    Attributes:
        names: of the fields that are asked for; none: all that there is of a frame.
    """

    names: tuple[str, ...]
    display_filter: str | None = None
    preferences: tuple[tuple[str, str], ...] = ()
    decode_as: tuple[tuple[str, str], ...] = ()
    keylog_file: str | None = None
    profile: str | None = None
    configuration: str | None = None
    two_pass: bool = False
    program: str | os.PathLike[str] | None = None
    restart_packets: int | None = None
    timeout_s: float | None = DEFAULT_TIMEOUT_S

    @property
    def has_own_configuration(self) -> bool:
        """Whether there may be more, or other fields than Wireshark has by itself."""
        return self.profile is not None or self.configuration is not None

    def words(self, *, is_live: bool, keylog_path: str | None) -> list[str | bytes]:
        """Return the words behind ``tshark`` but for those of the output's form.

        Args:
            is_live: each frame is wanted as soon as its packet has come.
            keylog_path: where the TLS keys are.
        """
        # Two passes need a file that can be opened again, by its name.
        words: list[str | bytes] = ["-n", "-r", "/proc/self/fd/0" if self.two_pass else "-"]
        words += ["-l"] if is_live else []
        words += ["-2"] if self.two_pass else []
        words += ["-C", self.profile] if self.profile is not None else []
        for name, value in self.preferences:
            words += ["-o", f"{name}:{value}"]
        if keylog_path is not None:
            words += ["-o", f"tls.keylog_file:{keylog_path}"]
        for what, protocol in self.decode_as:
            words += ["-d", f"{what},{protocol}"]
        words += ["-Y", self.display_filter] if self.display_filter is not None else []
        return words


def asked(names: tuple[str, ...], restart: int | None, arguments: DissectionArguments) -> Asked:
    """Return what is asked for.

    Args:
        names: of fields; none: all that there is of a frame.
        restart: begin with a new engine after so many packets.
        arguments: the others.

    Raises:
        InvalidArgument: it cannot be.
    """
    unknown = sorted(arguments.keys() - DissectionArguments.__annotations__.keys())
    if unknown:
        raise InvalidArgument(f"dissect has no argument {unknown[0]!r}", argument=unknown[0])
    if len(set(names)) < len(names):
        raise InvalidArgument("no field is named twice", argument="names")
    if restart is not None and restart < 1:
        raise InvalidArgument(f"restart_packets is {restart}; possible are numbers from 1", argument="restart_packets")
    timeout_s = arguments.get("timeout_s", DEFAULT_TIMEOUT_S)
    if timeout_s is not None and not timeout_s > 0:
        raise InvalidArgument(f"timeout_s is {timeout_s}; it is more than 0", argument="timeout_s")
    display_filter = arguments.get("display_filter")
    preferences, decode_as = arguments.get("preferences", {}), arguments.get("decode_as", {})
    keylog, configuration = arguments.get("keylog_file"), arguments.get("configuration")
    found = Asked(
        names,
        None if display_filter is None else str(display_filter),
        tuple((name, _preference(value)) for name, value in preferences.items()),
        tuple(decode_as.items()),
        None if keylog is None else os.fspath(keylog),
        arguments.get("profile"),
        None if configuration is None else os.path.abspath(configuration),  # noqa: PTH100  # a word of a command line
        arguments.get("two_pass", False),
        arguments.get("program"),
        restart,
        timeout_s,
    )
    _refuse_nul(found)
    return found


def _preference(value: object) -> str:
    return str(value).upper() if isinstance(value, bool) else str(value)


def _refuse_nul(found: Asked) -> None:
    """Refuse what no command line can have."""
    words = {
        "names": found.names,
        "display_filter": (found.display_filter or "",),
        "preferences": [text for pair in found.preferences for text in pair],
        "decode_as": [text for pair in found.decode_as for text in pair],
        "profile": (found.profile or "",),
        "configuration": (found.configuration or "",),
    }
    for argument, texts in words.items():
        if any("\0" in text for text in texts):
            raise InvalidArgument(f"{argument} has a NUL, which no command line can have", argument=argument)
