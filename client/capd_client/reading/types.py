"""Which formats of capture files there are, and what packets may begin with."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from typing import NamedTuple

from capd_protocol.formats.linktypes import KNOWN, LinkLayerType


class FileType(NamedTuple):
    """A format of capture files.

    Attributes:
        name: as Wireshark calls it.
        description: in a few words.
        is_written: whether ``write`` writes it.
    """

    name: str
    description: str
    is_written: bool


_OWN = (
    FileType("pcapng", "Wireshark/... - pcapng", True),
    FileType("pcap", "Wireshark/tcpdump/... - pcap", True),
    FileType("nsecpcap", "Wireshark/tcpdump/... - nanosecond pcap", True),
    FileType("modpcap", "Modified tcpdump - pcap", False),
)
_EDITCAP = "editcap"
_ANSWER_S = 30
_LINE = re.compile(r"\s+(\S+) - (.+)")


def iter_file_types() -> Iterator[FileType]:
    """Iterate over the formats that can be read: our own ones, and those of Wireshark's ``editcap`` if it is there."""
    yield from _OWN
    program = shutil.which(_EDITCAP)
    if program is None:
        return
    try:
        done = subprocess.run(
            [program, "-F"], capture_output=True, text=True, errors="replace", timeout=_ANSWER_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return
    known = {each.name for each in _OWN}
    for line in (done.stderr + done.stdout).splitlines():
        match = _LINE.fullmatch(line)
        if match is not None and match[1] not in known:
            yield FileType(match[1], match[2], False)


def iter_encapsulation_types() -> Iterator[LinkLayerType]:
    """Iterate over what packets may begin with, as far as it has a name."""
    yield from KNOWN
