"""What others have called things, in whatever ``capctl`` prints: it steers no terminal, and makes no line."""

import ast
import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from capd_client.cli import __main__ as capctl
from capd_protocol.formats import pcapng
from capd_protocol.frames import FrameDecoder
from capd_protocol.messages import (
    PROTOCOL_VERSION,
    AttachCapture,
    Attached,
    Capabilities,
    CaptureList,
    CaptureSummary,
    DeletionReason,
    DirectoryWanted,
    Ended,
    EndReason,
    ErrorMessage,
    Failure,
    FailureCode,
    FileClosed,
    FileDeleted,
    FileOpened,
    FlushCapture,
    Flushed,
    GetCapabilities,
    Hello,
    InterfaceAttached,
    InterfaceCounters,
    InterfaceEvent,
    InterfaceList,
    InterfaceLost,
    InterfaceSkipped,
    InterfaceSnapshot,
    ListCaptures,
    ListInterfaces,
    Message,
    Permission,
    Permissions,
    Refused,
    Request,
    RevokeCaptures,
    Revoked,
    RevokedCapture,
    RotateCapture,
    Rotated,
    SnapshotCapture,
    SnapshotFailed,
    SnapshotTaken,
    StartCapture,
    Started,
    Statistics,
    Triggered,
    TriggerReason,
    Watching,
    WatchInterfaces,
    WatchStatistics,
    WhoAmI,
    decode,
    encode,
)
from capd_protocol.messages.interfaces import (
    InterfaceChange,
    InterfaceCounts,
    InterfaceInfo,
    LinkLayer,
    TimestampType,
)
from capd_protocol.messages.interfaces import Link as LinkState
from tests.cli.calling import Done, called

CLI = Path(capctl.__file__).parent
CAPD = Path(__file__).parents[2] / "capd" / "capd"

#: A title for the terminal, C1's CSI, line ends of all kinds, a tab, what turns text around or has no width.
EVIL = "e\x1b]0;t\x07\x9b2J\x85\r\nforged: 1\t\u202eab\u2066\u200b\u2028forged: 2\x7f"
#: As os.fsdecode makes it of bytes that are no UTF-8.
EVIL_NAME = EVIL + "\udc9b.pcapng"
ACTIONS = ("stop", "rotate", "flush", "snapshot")


def check(done: Done, *, is_json: bool = False) -> None:
    """Check that what was printed is lines of ours."""
    assert "Traceback" not in done.stderr
    text = done.stdout + done.stderr
    assert re.search(r"x1b|u001b|\\027", text)  # else nothing was tested
    lines = text.split("\n")
    assert not [line for line in lines if not line.isprintable() or line.startswith("forged")]
    if is_json:
        assert done.stdout.isascii()
        assert all(map(json.loads, done.stdout.splitlines()))


# A daemon that says such things ---------------------------------------------------------------------------------------

_LINK = LinkState(
    index=1, name=EVIL, loopback=False, is_up=True, state=EVIL, mtu=1, hardware_type=1, mac_address=EVIL, kind=EVIL,
    alias=EVIL, addresses=(EVIL, EVIL),
)  # fmt: skip
_SUMMARY = CaptureSummary(
    capture_id=1, user_id=0, interfaces=(EVIL,), file_name=EVIL, started_ns=0, files_total=1, packets_total=1,
    drops_total=0, name=EVIL, directory=EVIL,
)  # fmt: skip
_REVOKED = RevokedCapture(capture_id=1, user_id=0, why=EVIL, name=EVIL)
_PERMISSION = Permission(
    rule=EVIL, interfaces=(EVIL,), filter=EVIL, max_snaplen_bytes=1, promiscuous=False, monitor_mode=True,
    max_captures=1, max_disk_bytes=1, max_duration_s=1.0,
)  # fmt: skip
_FAILURE = Failure(code=FailureCode.DESTINATION, text=EVIL, argument="savefile", interface=EVIL)
_EVENTS: list[Message] = [
    FileOpened(EVIL_NAME),
    InterfaceLost(interface=EVIL),
    InterfaceAttached(interface=EVIL),
    InterfaceSkipped(interface=EVIL, text=EVIL),
    Triggered(reason=TriggerReason.FILTER, interface=EVIL),
    SnapshotFailed(failure=_FAILURE),
    FileClosed(name=EVIL, packets=1, size_bytes=1, first_timestamp_ns=None, last_timestamp_ns=None, drops=1),
    FileDeleted(name=EVIL, reason=DeletionReason.AGE, size_bytes=1),
    Ended(reason=EndReason.DURATION, interfaces=(InterfaceCounters(interface=EVIL),)),
]
_ANSWERS: dict[type, list[Message]] = {
    ListCaptures: [CaptureList(captures=(_SUMMARY,), is_last=True)],
    WhoAmI: [Permissions(user_id=0, group_ids=(), permissions=(_PERMISSION,), advice=EVIL)],
    RevokeCaptures: [Revoked(ended=(_REVOKED,), kept=(_REVOKED,), is_last=True)],
    ListInterfaces: [
        InterfaceList(
            interfaces=(
                InterfaceInfo(name=EVIL, number=1, description=EVIL, addresses=(EVIL,), link=_LINK, driver=EVIL),
                InterfaceInfo(name=EVIL, number=2, description=EVIL),
            ),
            is_last=True,
        )
    ],
    GetCapabilities: [
        Capabilities(
            can_rfmon=False,
            link_layers=(LinkLayer(dlt=1, name=EVIL, description=EVIL),),
            timestamp_types=(TimestampType(name=EVIL, description=EVIL),),
        )
    ],
    WatchStatistics: [Watching(), *[Statistics(counts=(InterfaceCounts(name=EVIL),), gone=(), is_last=True)] * 3],
    WatchInterfaces: [
        Watching(),
        InterfaceSnapshot(links=(), is_first=True, is_last=True),
        *(
            InterfaceEvent(change=each, link=_LINK, former_name=EVIL if each is InterfaceChange.RENAMED else None)
            for each in InterfaceChange
        ),
    ],
    RotateCapture: [Rotated(file_name=EVIL)],
    SnapshotCapture: [SnapshotTaken(file_name=EVIL)],
    FlushCapture: [Flushed()],
    StartCapture: [Started(capture_id=1), *_EVENTS],
    AttachCapture: [
        Attached(capture=_SUMMARY, file_format="pcapng", is_ring=True, packets_total=0, closed_bytes_total=0),
        *_EVENTS,
    ],
}


class Impostor:
    """Answers every request in a daemon's words.

    Attributes:
        path: of its socket.
        refusal: what it answers instead, if anything.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.refusal: list[Message] | None = None
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()

    def _run(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                with connection:
                    self._answer(connection)

    def _answer(self, connection: socket.socket) -> None:
        connection.sendall(encode(Hello(protocol_version=PROTOCOL_VERSION, software=EVIL)))
        request = next(_requests(connection))
        answers = _ANSWERS.get(type(request), []) if self.refusal is None else self.refusal
        with contextlib.suppress(OSError):  # the client has had enough
            if isinstance(request, StartCapture) and self.refusal is None:
                ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                with ours, theirs:
                    socket.send_fds(connection, [encode(DirectoryWanted())], [theirs.fileno()])
                    _, descriptors, _, _ = socket.recv_fds(ours, 100, 1)
                    for each in descriptors:
                        os.close(each)
            if isinstance(request, AttachCapture) and self.refusal is None:
                ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                with ours, theirs:
                    socket.send_fds(connection, [encode(answers[0])], [theirs.fileno()])
                answers = answers[1:]
            for answer in answers:
                connection.sendall(encode(answer))
            if not isinstance(request, WatchStatistics) or self.refusal is not None:
                connection.shutdown(socket.SHUT_WR)
            while connection.recv(4096):
                pass


def _requests(connection: socket.socket) -> Iterator[Request]:
    decoder = FrameDecoder()
    while data := connection.recv(65536):
        decoder.feed(data)
        while (frame := decoder.next_frame()) is not None:
            message = decode(frame)
            if not isinstance(message, Hello):
                yield message  # type: ignore[misc]  # clients send nothing else


@pytest.fixture
def impostor(tmp_path: Path) -> Generator[Impostor, None, None]:
    made = Impostor(tmp_path / "capd.sock")
    try:
        yield made
    finally:
        made.close()


#: What is asked of a daemon.
ASKED = (
    ("list",),
    ("whoami",),
    ("revoke",),
    ("interfaces",),
    ("linktypes", "em1"),
    ("stats", "--once"),
    ("watch",),
    ("capture", "-i", "em1", "-w", "r.pcapng"),
    ("attach", "1"),
)


@pytest.mark.parametrize(
    "words",
    [
        ("--extcap-interfaces",),
        ("--extcap-dlts", "--extcap-interface", "capd:em1"),
        ("--extcap-config", "--extcap-interface", EVIL_NAME),
    ],
    ids=lambda words: words[0],
)
def test_what_wireshark_is_told(impostor: Impostor, words: tuple[str, ...]) -> None:
    command = [sys.executable, "-P", "-m", "capd_client.extcap", *words]
    environment = {**os.environ, "CAPD_SOCKET": str(impostor.path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=20, check=False)
    check(Done(done.returncode, done.stdout, done.stderr))


@pytest.mark.parametrize("is_json", [False, True], ids=["text", "json"])
@pytest.mark.parametrize("words", ASKED, ids=lambda words: words[0])
def test_what_the_daemon_says(impostor: Impostor, tmp_path: Path, words: tuple[str, ...], is_json: bool) -> None:
    done = called("--socket", impostor.path, *words, *(["--json"] if is_json else []), cwd=tmp_path)
    check(done, is_json=is_json)


@pytest.mark.parametrize("action", ["rotate", "snapshot"])
def test_what_it_answers_to_an_order(impostor: Impostor, action: str) -> None:
    check(called("--socket", impostor.path, action, "1"))


@pytest.mark.parametrize("answer", [Refused(failure=_FAILURE), ErrorMessage(EVIL, EVIL)], ids=["refused", "error"])
@pytest.mark.parametrize("words", [*ASKED, *((each, "1") for each in ACTIONS)], ids=lambda words: words[0])
def test_why_it_refuses(impostor: Impostor, tmp_path: Path, words: tuple[str, ...], answer: Message) -> None:
    impostor.refusal = [answer]
    done = called("--socket", impostor.path, *words, cwd=tmp_path)
    assert done.returncode == capctl.EXIT_FAILED
    if isinstance(answer, Refused):
        check(done)


# Files ----------------------------------------------------------------------------------------------------------------


def _dns_query(name: bytes) -> bytes:
    question = bytes.fromhex("000101000001000000000000") + bytes([len(name)]) + name + bytes.fromhex("0000010001")
    udp = (53).to_bytes(2, "big") * 2 + (8 + len(question)).to_bytes(2, "big") + bytes(2) + question
    ip = bytes.fromhex("4500") + (20 + len(udp)).to_bytes(2, "big") + bytes.fromhex("00000000401100000a0000010a000002")
    return bytes(12) + b"\x08\x00" + ip + udp


@pytest.fixture
def hostile_file(tmp_path: Path) -> Path:
    """A file of a hostile name, with hostile names of two interfaces in it."""
    path = tmp_path / EVIL_NAME
    packet = _dns_query(EVIL.encode())
    path.write_bytes(
        pcapng.section_header(application=EVIL)
        + pcapng.interface_description(linktype=1, snaplen_bytes=0, name=EVIL, capture_filter=EVIL)
        + pcapng.interface_description(linktype=1, snaplen_bytes=0, name=EVIL, capture_filter=EVIL)
        + pcapng.enhanced_packet(1, 10**18, packet, len(packet))
    )
    return path


@pytest.mark.parametrize("is_json", [False, True], ids=["text", "json"])
@pytest.mark.parametrize("words", [("read",), ("read", "--info"), ("extract",), ("files",)], ids=" ".join)
def test_what_a_file_says(hostile_file: Path, words: tuple[str, ...], is_json: bool) -> None:
    check(called(*words, *(["--json"] if is_json else []), hostile_file), is_json=is_json)


def test_what_files_are_called(hostile_file: Path) -> None:
    target = hostile_file.with_name("w" + EVIL_NAME)
    check(called("extract", hostile_file, "-w", target))
    check(called("extract", hostile_file, "-w", target))  # is there already
    with hostile_file.open("ab") as file:
        file.write(b"\x06")  # the beginning of a block
    check(called("read", hostile_file))
    hostile_file.write_bytes(b"no capture")
    for command in ("read", "extract"):
        check(called(command, hostile_file))
        check(called(command, hostile_file.with_name("x" + EVIL_NAME)))


# What was typed -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        (EVIL_NAME,),
        ("help", EVIL_NAME),
        ("list", EVIL_NAME),
        ("list", f"--{EVIL_NAME}"),
        ("capture", "-i", EVIL_NAME),
        ("capture", "-i", "em1", "-a", EVIL_NAME),
        ("capture", "-i", "em1", "-c", EVIL_NAME),
        ("capture", "-i", "em1", "--name", EVIL_NAME),
        ("capture", "-i", "em1", "-w", EVIL_NAME),
        ("stop", EVIL_NAME),
        ("files", "--from", EVIL_NAME, "x"),
        ("completion", EVIL_NAME),
        ("linktypes", EVIL_NAME),
        ("list", "--socket", EVIL_NAME),
        ("revoke", "--user", EVIL_NAME),
    ],
    ids=lambda words: " ".join(word for word in words if word != EVIL_NAME),
)
def test_what_was_typed(words: tuple[str, ...]) -> None:
    environment = {"CAPD_SOCKET": "/nowhere/forged"}
    done = called(*words, environment=environment)
    assert done.returncode
    check(done)


# Nobody can forget it -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("root", "apart"), [(CLI, {"output.py"}), (CAPD, {"printable.py"})], ids=["capctl", "capd"]
)  # fmt: skip
def test_all_is_printed_in_one_place(root: Path, apart: set[str]) -> None:
    """No module but one prints, or writes text to a standard stream."""
    modules = sorted(root.rglob("*.py"))
    assert apart < {each.name for each in modules}
    found = [
        f"{path.relative_to(root)}:{node.lineno}"
        for path in modules
        if path.name not in apart
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func).removeprefix("sys.")
        in {"print", "stdout.write", "stderr.write", "stdout.writelines"}
    ]
    assert found == []
