"""Clients that break the protocol, or the daemon's patience: they get an error, and harm nobody else."""

import contextlib
import os
import signal
import socket
from collections.abc import Callable, Generator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from capd import limits
from capd_client import list_captures
from capd_protocol.frames import MAX_REQUEST_SIZE_BYTES, encode_frame
from capd_protocol.messages import (
    PROTOCOL_VERSION,
    CaptureList,
    Conditions,
    DirectoryWanted,
    Ended,
    EndReason,
    FailureCode,
    FileClosed,
    FileDeleted,
    FileOpened,
    Hello,
    Indicator,
    InterfaceRequest,
    Lagged,
    ListCaptures,
    Message,
    PacketCount,
    Refused,
    Started,
    Statistics,
    StopCapture,
    WatchStatistics,
    encode,
)
from tests.support.attack import (
    FRAMES,
    HELLO,
    Channel,
    RawClient,
    User,
    await_end,
    beginning_worker,
    check_complete,
    check_unharmed,
    eventually,
    leaving_nothing,
    opened,
    process_of,
    replaced_when_dead,
    request_for,
    resident_kb,
    slow_request_for,
    traffic,
    with_limits,
)
from tests.support.daemon import Daemon, MakeDir, as_user, running_daemon
from tests.support.tools import busy_descriptors_of
from tests.support.traffic import send


@pytest.fixture(scope="module")
def _daemons(make_dir: MakeDir) -> Generator[Callable[[], Daemon], None, None]:
    directory = make_dir("abused")
    with replaced_when_dead(directory) as get:
        yield get


@pytest.fixture
def abused(_daemons: Callable[[], Daemon]) -> Daemon:
    """The daemon of this file's tests. None of them should end it; if one does, the others get a new one."""
    return _daemons()


def _json(text: str | bytes, indicator: int = Indicator.REQUEST) -> bytes:
    return encode_frame(indicator, text if isinstance(text, bytes) else text.encode())


def _answers(daemon: Daemon, timeout_s: float = 3.0) -> bool:
    """Whether the daemon answers a question in time."""
    with contextlib.suppress(EOFError, TimeoutError, OSError), RawClient(daemon.socket_path) as client:
        client.send(ListCaptures())
        return isinstance(client.receive(CaptureList, timeout_s), CaptureList)
    return False


# What is no conversation ----------------------------------------------------------------------------------------

_REQUEST = encode(request_for("lo"))
_NESTED = b"[" * 100_000
_DESTINATION = b'"destination":{"file_name":"x"}'

MISUSES: dict[str, tuple[bytes, str]] = {
    # name: (bytes after the connection was made, a part of the refusal's text)
    "garbage": (b"GET / HTTP/1.1\r\nHost: capd\r\n\r\n", "understand"),
    "zeros": (bytes(64), "understand"),
    "an oversized greeting": (bytes([Indicator.HELLO]) + (MAX_REQUEST_SIZE_BYTES + 1).to_bytes(3, "big"), "limit"),
    "the largest header": (b"\xff\xff\xff\xff", "limit"),
    "an oversized request": (HELLO + bytes([Indicator.REQUEST]) + b"\xff\xff\xff", "limit"),
    "a header cut short": (HELLO[:3], "inside a frame"),
    "a greeting cut short": (HELLO[:-1], "inside a frame"),
    "a request cut short": (HELLO + _REQUEST[:-1], "inside a frame"),
    "a request before the greeting": (_REQUEST, "greeting"),
    "an event as the greeting": (encode(FileOpened("x")), "greeting"),
    "another version": (encode(Hello(protocol_version=PROTOCOL_VERSION + 1, software="x")), "version"),
    "an earlier version": (encode(Hello(protocol_version=1, software="x")), "version"),
    "version 0": (encode(Hello(protocol_version=0, software="x")), "version"),
    "a negative version": (encode(Hello(protocol_version=-1, software="x")), "version"),
    "an unknown indicator": (HELLO + _json("{}", ord("?")), "no request"),
    "a second greeting": (HELLO + HELLO, "no request"),
    "an event": (HELLO + encode(PacketCount(1)), "no request"),
    "a reply": (HELLO + encode(Started(capture_id=1)), "no request"),
    "an empty request": (HELLO + _json(""), "understand"),
    "a request that is no object": (HELLO + _json("[]"), "understand"),
    "a request without a type": (HELLO + _json("{}"), "understand"),
    "a request of an unknown type": (HELLO + _json('{"type":"reboot"}'), "understand"),
    "an unknown field": (HELLO + _json('{"type":"list","verbose":true}'), "understand"),
    "a field of the wrong type": (HELLO + _json('{"type":"stop","capture":{}}'), "understand"),
    "a fraction for a whole number": (HELLO + _json('{"type":"stop","capture":1.5}'), "understand"),
    "bytes that are no UTF-8": (HELLO + _json(b'{"type":"\xff"}'), "understand"),
    "half a surrogate pair": (
        HELLO + _json(b'{"type":"start","interfaces":[{"name":"\\ud800"}],' + _DESTINATION + b"}"),
        "understand",
    ),
    "no destination": (HELLO + _json('{"type":"start","interfaces":[{"name":"lo"}]}'), "understand"),
    "an infinite number": (
        HELLO + _json(b'{"type":"start","interfaces":[],"update_interval_s":1e999,' + _DESTINATION + b"}"),
        "understand",
    ),
    "deep nesting": (HELLO + _json(b'{"a":' + _NESTED + b"}"), "understand"),
    "deep nesting in place of a list": (HELLO + _json(b'{"type":"start","interfaces":' + _NESTED), "understand"),
}


@pytest.mark.parametrize("misuse", MISUSES)
def test_what_is_no_conversation_is_refused(abused: Daemon, misuse: str) -> None:
    data, words = MISUSES[misuse]
    with leaving_nothing(abused), RawClient(abused.socket_path, greet=False) as client:
        with contextlib.suppress(BrokenPipeError):
            client.send(data)
        messages = client.finish()
        assert isinstance(messages[0], Hello)
        assert isinstance(messages[-1], Refused), messages
        failure = messages[-1].failure
        assert failure.code == FailureCode.PROTOCOL
        assert words in failure.text
        assert "\n" not in failure.text
        assert len(failure.text) < 1000


# What no client may be able to do -------------------------------------------------------------------------------


def _huge_number(path: str) -> bytes:
    numbers = {"snaplen_bytes": "65535", "kernel_buffer_size_bytes": "2097152", path: "9" * 400}
    fields = ",".join(f'"{name}":{value}' for name, value in numbers.items())
    return _json(f'{{"type":"start","interfaces":[{{"name":"lo",{fields}}}],"destination":{{"file_name":"x"}}}}')


BOMBS: dict[str, bytes] = {
    "a snaplen of 400 digits": _huge_number("snaplen_bytes"),
    "a buffer size of 400 digits": _huge_number("kernel_buffer_size_bytes"),
    "a packet count of 400 digits": encode(request_for("lo", autostop=Conditions(packets=10**400))),
    "a file count of 400 digits": encode(request_for("lo", ring=Conditions(packets=1, files=10**400))),
    "a name that is long to tell of": encode(request_for("\U0010ffff" * 65_000)),
    "a file name that is long to tell of": encode(request_for("lo", "\U0010ffff" * 64_000)),
    "a link-layer type that is long to tell of": encode(
        request_for("lo", interfaces=(InterfaceRequest(name="lo", link_layer_type="\U0010ffff" * 64_000),))
    ),
    "a channel that is long to tell of": encode(
        request_for("lo", interfaces=(InterfaceRequest(name="lo", wifi_channel="\U0010ffff" * 64_000),))
    ),
    "ten thousand wrong interfaces": _json(
        b'{"type":"start","interfaces":[' + b",".join([b'{"name":""}'] * 10_000) + b"]," + _DESTINATION + b"}"
    ),
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_value_of_any_size_is_refused(abused: Daemon, user_dir: Path, bomb: str) -> None:
    with leaving_nothing(abused), opened(user_dir) as directory, RawClient(abused.socket_path) as client:
        client.send(BOMBS[bomb], [directory])
        failure = client.refusal()
        assert failure.code == FailureCode.INVALID
        assert len(failure.text) < 10_000
    assert _answers(abused)


def test_a_number_of_a_capture_may_have_any_size(abused: Daemon) -> None:
    with RawClient(abused.socket_path) as client:
        client.send(_json('{"type":"stop","capture":' + "9" * 4000 + "}"))
        assert client.refusal().code in (FailureCode.NO_SUCH_CAPTURE, FailureCode.PROTOCOL)
    assert _answers(abused)


@pytest.mark.parametrize("what", ["a\ncapd: user 0: forged", "a\x1b[2Jb"], ids=["newline", "escape"])
def test_a_client_cannot_write_lines_of_its_own_into_the_log(abused: Daemon, user_dir: Path, what: str) -> None:
    requests = [
        encode(request_for("lo", what + "/x")),
        encode(request_for("lo", interfaces=(InterfaceRequest(name="lo", link_layer_type=what),))),
        encode(request_for("lo", interfaces=(InterfaceRequest(name="lo", wifi_channel=what),))),
        encode(request_for(what[:15])),
    ]
    (user_dir / what).mkdir()
    before = len(abused.log)
    for request in [*requests, encode(request_for("lo", what))]:
        with opened(user_dir) as directory, RawClient(abused.socket_path) as client:
            client.send(request, [directory])
            assert "\n" not in client.refusal().text
    escaped = what.replace("\n", "\\n").replace("\x1b", "\\u001b")
    for text in (f'{{"type":"{escaped}"}}', f'{{"type":"list","{escaped}":1}}'):
        with RawClient(abused.socket_path) as client:
            client.send(_json(text))
            assert "\n" not in client.refusal().text
    logged = abused.log[before:]
    assert "\x1b" not in logged
    assert "\ncapd: user 0: forged" not in logged


def test_endless_requests_to_stop_cost_the_daemon_nothing(
    abused: Daemon, veth: tuple[str, str], user_dir: Path
) -> None:
    stops = encode(StopCapture()) * 2000
    with opened(user_dir) as directory, RawClient(abused.socket_path) as client:
        client.send(request_for(veth[1]), [directory])
        client.receive(Started)
        (worker,) = abused.workers()
        os.kill(worker, signal.SIGSTOP)  # as its user may
        try:
            before_kb = resident_kb(abused)
            for _ in range(100):
                client.send(stops)
            assert _answers(abused)
            assert resident_kb(abused) < before_kb + 10_000
        finally:
            os.kill(worker, signal.SIGCONT)
    await_end([worker])


@pytest.mark.alone  # what others have in flight counts too
def test_without_descriptors_the_daemon_refuses_and_goes_on(veth: tuple[str, str], user_dir: Path) -> None:
    where = user_dir / "daemon"
    where.mkdir()
    with (
        running_daemon(where, prefix=("prlimit", "--nofile=40")) as daemon,
        opened(user_dir) as directory,
        RawClient(daemon.socket_path) as watcher,
        contextlib.ExitStack() as stack,
    ):
        # Who needs a descriptor now and then.
        watcher.send(WatchStatistics(interval_s=0.05))
        watcher.receive(Statistics)
        for number in range(20):
            client = stack.enter_context(RawClient(daemon.socket_path))
            client.send(request_for(veth[1], f"{number}.pcapng"), [directory])
            message = client.receive()
            while not isinstance(message, Started | Refused):
                message = client.receive()
            if isinstance(message, Refused):
                break
        assert isinstance(message, Refused)
        assert message.failure.code == FailureCode.RESOURCES
        stack.close()
        eventually(lambda: not daemon.workers(), "the workers' end")
        watcher.receive(Statistics)
        watcher.close()
        check_unharmed(daemon, veth, user_dir)


# Slow clients, and many -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def impatient(make_dir: MakeDir) -> Generator[Daemon, None, None]:
    """A daemon that waits for nobody longer than half a second."""
    directory = make_dir("impatient")
    with running_daemon(directory, prefix=with_limits(REQUEST_TIMEOUT_S=0.5, LAST_EVENTS_TIMEOUT_S=0.5)) as running:
        yield running


@pytest.mark.parametrize("data", [b"", HELLO[:5], HELLO, HELLO + _REQUEST[:9]], ids=range(4))
def test_a_client_that_says_nothing_is_cut_off(impatient: Daemon, data: bytes) -> None:
    with leaving_nothing(impatient), RawClient(impatient.socket_path, greet=False) as client:
        client.send(data)
        (_, refused) = client.rest()
        assert isinstance(refused, Refused)
        assert "0.5 s" in refused.failure.text


def test_a_client_that_takes_no_answers_is_cut_off(impatient: Daemon) -> None:
    with leaving_nothing(impatient), RawClient(impatient.socket_path) as client:
        client.socket.settimeout(5)
        requests = encode(ListCaptures()) * 100_000  # more than both sides' buffers have room for
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            client.send(requests)


def test_a_client_that_never_reads_costs_no_packet_and_no_memory(
    abused: Daemon, veth: tuple[str, str], user_dir: Path
) -> None:
    packets = 6000
    with opened(user_dir) as directory, RawClient(abused.socket_path) as client:
        interface = InterfaceRequest(name=veth[1], kernel_buffer_size_bytes=16 << 20)  # none of them is lost
        request = request_for(veth[1], interfaces=(interface,), ring=Conditions(packets=1, files=3))
        client.send(request, [directory])
        client.receive(DirectoryWanted)
        eventually(lambda: len(list(user_dir.iterdir())) > 0, "the first file")
        before_kb = resident_kb(abused)
        assert send(veth[0], FRAMES, packets) == packets
        eventually(lambda: _packets_of_first(abused) == packets, "all packets in files")
        assert resident_kb(abused) < before_kb + 20_000
        messages: list[Message] = []
        while sum(each.packets_delta for each in messages if isinstance(each, PacketCount)) < packets:
            messages.append(client.receive())
        client.send(StopCapture())
        messages += client.rest()
    lagged = sum(message.events for message in messages if isinstance(message, Lagged))
    files = sum(isinstance(message, FileOpened | FileClosed | FileDeleted) for message in messages)
    assert lagged > 0
    # Each packet ends a file; the last one is empty. All but three are deleted again.
    assert lagged + files == 3 * (packets + 1) - 3
    assert sum(each.packets_delta for each in messages if isinstance(each, PacketCount)) == packets
    ended = messages[-1]
    assert isinstance(ended, Ended)
    assert ended.reason == EndReason.STOPPED
    assert ended.interfaces[0].written_total == ended.interfaces[0].received_total == packets
    assert len(list(user_dir.iterdir())) == 3


def _packets_of_first(daemon: Daemon) -> int:
    return list_captures(socket_path=daemon.socket_path)[0].packets_total


def _connect_many(channel: Channel, socket_path: str, count: int) -> None:
    """In a user's process: hold so many connections; say how many of them the daemon has refused."""
    clients = [RawClient(socket_path) for _ in range(count)]
    channel.send(sum(isinstance(client.receive(), Refused) for client in clients))
    channel.recv()


def test_of_too_many_connections_the_surplus_is_told_to_come_later(
    abused: Daemon, veth: tuple[str, str], user_dir: Path
) -> None:
    with leaving_nothing(abused), contextlib.ExitStack() as stack:
        clients = [stack.enter_context(RawClient(abused.socket_path)) for _ in range(300)]
        first = [client.receive() for client in clients]
        refused = [message.failure for message in first if isinstance(message, Refused)]
        assert sum(isinstance(message, Hello) for message in first) == limits.MAX_CLIENTS_PER_USER
        assert len(refused) == 300 - limits.MAX_CLIENTS_PER_USER
        assert {failure.code for failure in refused} == {FailureCode.RESOURCES}
        assert all("later" in failure.text for failure in refused)
        # Those that are in, and other users, are served.
        clients[0].send(ListCaptures())
        assert isinstance(clients[0].receive(), CaptureList)
        assert as_user(lambda: list_captures(socket_path=abused.socket_path), 12345) == ()
    check_unharmed(abused, veth, user_dir)


def test_users_who_may_not_capture_cannot_keep_those_out_who_may(abused: Daemon) -> None:
    with contextlib.ExitStack() as stack:
        for user_id in (12345, 12346, 12347):
            process = stack.enter_context(
                process_of(
                    User(user_id, user_id),
                    lambda channel: _connect_many(channel, abused.socket_path, limits.MAX_CLIENTS_PER_USER),
                )
            )
            process.hear()
        assert _answers(abused)


# A conversation, whole and broken off ---------------------------------------------------------------------------


def test_a_conversation_may_come_byte_by_byte(abused: Daemon, veth: tuple[str, str], user_dir: Path) -> None:
    with opened(user_dir) as directory, RawClient(abused.socket_path, greet=False) as client:
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
        data = HELLO + encode(request_for(veth[1]))
        client.send(data[:1], [directory])
        for at in range(1, len(data)):
            client.send(data[at : at + 1])
        client.receive(Started)
        send(veth[0], FRAMES, 10)
        count = client.receive(PacketCount)
        for byte in encode(StopCapture()):
            client.send(bytes([byte]))
        assert isinstance(client.rest()[-1], Ended)
    assert isinstance(count, PacketCount)
    check_complete(user_dir / "raw.pcapng", 10)


def test_a_conversation_goes_on_after_refusals(abused: Daemon, veth: tuple[str, str], user_dir: Path) -> None:
    with opened(user_dir) as directory, RawClient(abused.socket_path) as client:
        client.send(StopCapture())
        assert client.refusal().code == FailureCode.INVALID
        client.send(StopCapture(capture=4_000_000_000))
        assert client.refusal().code == FailureCode.NO_SUCH_CAPTURE
        client.send(request_for("nosuch0"), [directory])
        assert client.refusal().code == FailureCode.NO_SUCH_INTERFACE
        client.send(request_for(veth[1], "a/b"), [directory])
        assert client.refusal().code == FailureCode.INVALID
        client.send(ListCaptures())
        assert client.receive() == CaptureList(captures=(), is_last=True)
        client.send(request_for(veth[1]), [directory])
        client.receive(Started)
        client.send(StopCapture())
        assert isinstance(client.rest()[-1], Ended)
    check_complete(user_dir / "raw.pcapng", 0)


def test_a_second_start_ends_the_first(abused: Daemon, veth: tuple[str, str], user_dir: Path) -> None:
    with (
        leaving_nothing(abused, veth[1]),
        opened(user_dir) as directory,
        RawClient(abused.socket_path) as client,
    ):
        client.send(request_for(veth[1]), [directory])
        client.receive(Started)
        client.send(request_for(veth[1], "second.pcapng"), [directory])
        assert client.refusal().code == FailureCode.PROTOCOL
        ended = client.rest()[-1]
        assert isinstance(ended, Ended)
        assert ended.reason == EndReason.CLIENT_LEFT
    assert [entry.name for entry in user_dir.iterdir()] == ["raw.pcapng"]
    check_complete(user_dir / "raw.pcapng", 0)


def test_a_capture_can_be_stopped_in_the_breath_that_starts_it(
    abused: Daemon, veth: tuple[str, str], user_dir: Path
) -> None:
    with leaving_nothing(abused, veth[1]), opened(user_dir) as directory, RawClient(abused.socket_path) as client:
        client.send(encode(request_for(veth[1])) + encode(StopCapture()), [directory])
        messages = client.rest()
        assert isinstance(messages[-1], Ended), messages
        assert messages[-1].reason == EndReason.STOPPED
    check_complete(user_dir / "raw.pcapng", 0)


POINTS = {
    "after connecting": b"",
    "inside the greeting": HELLO[:7],
    "after the greeting": HELLO,
    "inside the request": HELLO + _REQUEST[:30],
}


@pytest.mark.parametrize("shut", [False, True], ids=["closes", "shuts down"])
@pytest.mark.parametrize("point", POINTS)
def test_a_client_may_vanish_before_it_asked(abused: Daemon, user_dir: Path, point: str, shut: bool) -> None:
    with leaving_nothing(abused, directory=user_dir), opened(user_dir) as directory:
        client = RawClient(abused.socket_path, greet=False)
        if data := POINTS[point]:
            client.send(data, [directory])
        if shut:
            assert all(isinstance(message, Hello | Refused) for message in client.finish())
        client.close()


@pytest.mark.parametrize("shut", [False, True], ids=["closes", "shuts down"])
def test_a_client_that_vanishes_after_asking_leaves_nothing(
    abused: Daemon, veth: tuple[str, str], user_dir: Path, shut: bool
) -> None:
    with leaving_nothing(abused, veth[1], directory=user_dir, timeout_s=3), opened(user_dir) as directory:
        client = RawClient(abused.socket_path)
        client.send(request_for(veth[1]), [directory])
        if shut:
            assert not any(isinstance(message, Started) for message in client.finish(timeout_s=3))
        client.close()
    check_unharmed(abused, veth, user_dir)


def test_a_client_that_vanishes_while_the_worker_begins_leaves_nothing(
    make_dir: MakeDir, veth: tuple[str, str], user_dir: Path
) -> None:
    def descriptors() -> int:
        return len(busy_descriptors_of(daemon.process.pid))

    with (
        running_daemon(make_dir("vanished"), prefix=with_limits(END_TIMEOUT_S=1)) as daemon,
        leaving_nothing(daemon, veth[1], directory=user_dir, timeout_s=5),
        opened(user_dir) as directory,
    ):
        client = RawClient(daemon.socket_path)
        client.send(slow_request_for(veth[1]), [directory])
        worker = beginning_worker(daemon)
        os.kill(worker, signal.SIGSTOP)
        before = descriptors()
        client.close()
        # It is ordered to end, and killed since it does not.
        eventually(lambda: descriptors() < before, "its end")
        await_end([worker])


@pytest.mark.parametrize("reads", ["Started", "the first count"])
@pytest.mark.parametrize("shut", [False, True], ids=["closes", "shuts down"])
def test_a_client_that_vanishes_while_capturing_leaves_a_whole_file(
    abused: Daemon, veth: tuple[str, str], user_dir: Path, reads: str, shut: bool
) -> None:
    with (
        traffic(veth[0]),
        leaving_nothing(abused, veth[1]),
        opened(user_dir) as directory,
        RawClient(abused.socket_path) as client,
    ):
        client.send(request_for(veth[1]), [directory])
        client.receive(Started if reads == "Started" else PacketCount)
        if shut:
            ended = client.finish()[-1]
            assert isinstance(ended, Ended)
            assert ended.reason == EndReason.CLIENT_LEFT
    assert check_complete(user_dir / "raw.pcapng") >= (reads == "the first count")
    check_unharmed(abused, veth, user_dir)


# Anything at all ------------------------------------------------------------------------------------------------

_VALID = HELLO + encode(ListCaptures()) + encode(request_for("nosuch0")) + encode(StopCapture(capture=7))


@st.composite
def _mutated(draw: st.DrawFn) -> bytes:
    data = bytearray(_VALID)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        cut = draw(st.integers(0, 20))
        data[at : at + cut] = draw(st.binary(max_size=20))
    return bytes(data)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.one_of(_mutated(), st.binary(max_size=300)), with_descriptor=st.booleans())
def test_no_bytes_harm_the_daemon(abused: Daemon, data: bytes, with_descriptor: bool) -> None:
    with leaving_nothing(abused), RawClient(abused.socket_path, greet=False) as client:
        with contextlib.suppress(BrokenPipeError), opened(Path("/")) as directory:
            if data:
                client.send(data, [directory] if with_descriptor else [])
        messages = client.finish()
        assert not any(isinstance(message, Started) for message in messages)
    assert _answers(abused)
