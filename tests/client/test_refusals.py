"""What is wrong whatever the machine is refused in the process that asks: no daemon gets it, and nothing is left.

The daemon would refuse the same: its clients may be anybody's.
"""

import json
import re
import threading
from pathlib import Path
from typing import Any

import msgspec
import pytest

from capd_client import CaptureError, CaptureSession, InvalidArgument
from capd_client.request import options
from capd_protocol.arguments import Fault, find_faults
from capd_protocol.errors import RemoteProtocolError
from capd_protocol.frames import Frame
from capd_protocol.messages import StartCapture, decode
from capd_protocol.messages.base import Indicator
from tests.support.bad_input import BY_CLIENT, Bad, arguments_of, check_told, prepare


def _left(directory: Path) -> tuple[object, ...]:
    files = sorted((path.name, path.lstat().st_size) for path in directory.rglob("*"))
    return files, sorted(Path("/proc/self/fd").iterdir()), threading.active_count()


@pytest.mark.parametrize("name", BY_CLIENT)
def test_it_is_refused_before_anybody_is_asked(tmp_path: Path, name: str) -> None:
    bad = BY_CLIENT[name]
    prepare(tmp_path)
    before = _left(tmp_path)
    # To ask would be another error: nobody listens.
    with pytest.raises(CaptureError) as raised:
        CaptureSession(socket_path="/nowhere/capd.sock", **arguments_of(bad, tmp_path))
    check_told(bad, raised.value, vars(raised.value))
    assert _left(tmp_path) == before
    assert (tmp_path / "file").read_bytes() == b"precious"


# The daemon trusts no client ------------------------------------------------------------------------------------

#: What no message can say: it has one of what the client has two words for, or the client alone knows of it.
_UNSAID = {
    "interface: empty",
    "interface: nothing among names",
    "interface: a number",
    "interface: a number among names",
    "interface: bytes",
    "interface: a name that is a number",
    "number: max_buffered_bytes=0",
    "number: max_buffered_bytes=-1",
    "contradiction: a ring without a name",
    "contradiction: two formats",
    "contradiction: no format",
    "contradiction: two sizes of the ring",
    "contradiction: what has no effect",
    "contradiction: what has no effect, 0",
    "contradiction: threads",
    "contradiction: an argument that there is not",
    "destination: a directory's name",
    "destination: no name",
    "destination: bytes",
    "destination: a path of bytes",
} | {name for name in BY_CLIENT if name.startswith("type: ")}
#: Numbers that JSON has not, or that are too large for one with a fraction; and what is no Unicode.
_NO_MESSAGE = re.compile(
    r"number: .*=-?(nan|inf)|number: (.*_(duration|age|interval|after|cool_down))=-?HUGE"
    "|interface: (a byte that is no UTF-8|half a surrogate pair)|filter: half a surrogate pair|destination: no UTF-8"
)
_CAN_BE_SAID = [name for name, bad in BY_CLIENT.items() if bad.kind is InvalidArgument and name not in _UNSAID]


def _unchecked(bad: Bad, monkeypatch: pytest.MonkeyPatch) -> StartCapture:
    """Return what a client would send that does not look at what it sends."""
    with monkeypatch.context() as patched:
        patched.setattr(options, "find_faults", lambda _: [])
        arguments: Any = arguments_of(bad, Path("/nowhere"))
        return options.make_request(arguments)[0]


def _received(request: StartCapture) -> list[Fault]:
    """Return what the daemon finds wrong with a request as it arrives, written as no client of ours would write it."""
    fields = msgspec.to_builtins(request)
    message = decode(Frame(Indicator.REQUEST, json.dumps(fields).encode()))
    assert isinstance(message, StartCapture)
    return find_faults(message)


@pytest.mark.parametrize("name", _CAN_BE_SAID)
def test_the_daemon_finds_the_same_in_what_it_receives(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    bad = BY_CLIENT[name]
    request = _unchecked(bad, monkeypatch)
    if _NO_MESSAGE.fullmatch(name):
        with pytest.raises(RemoteProtocolError):
            _received(request)
        return
    faults = _received(request)
    assert faults
    if bad.argument is not None:
        assert faults[0].argument == bad.argument
        assert all(words in "; ".join(fault.text for fault in faults) for words in bad.words)


@pytest.mark.parametrize("name", sorted(_UNSAID))
def test_what_no_message_can_say_is_the_clients_alone(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    with pytest.raises(InvalidArgument):
        _unchecked(BY_CLIENT[name], monkeypatch)
