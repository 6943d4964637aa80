"""Streams captured from: standard input, FIFOs, servers, open files; alone and beside interfaces."""

import contextlib
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Generator, Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest

from capd_client import (
    BadFilterError,
    Batch,
    CaptureInterface,
    CaptureSession,
    EndReason,
    InterfaceError,
    InvalidArgument,
    Packet,
    SourceError,
    UnsupportedError,
    aio,
    read,
    stream,
)
from capd_client.reading.model import packets_of
from capd_client.request.options import make_request
from capd_client.transport.listening import SOCKET_VARIABLE
from tests.capture.helpers import ip
from tests.client.conftest import Bench
from tests.client.helpers import PATIENCE_S, wait_until
from tests.support.namespace import private_network_namespace
from tests.support.traffic import build_frames
from tests.worker.test_streams import Frame, capture_file, frames, pcap

#: In the groups of nobody.
USER_ID = 23_481
PACKETS = 3_000


def many(count: int = PACKETS) -> list[Frame]:
    """Return packets as a network carries them, a millisecond apart."""
    return [Frame(bytes(12) + b"\x08\x00\x45" + bytes(45 + n % 7), 10**18 + n * 10**6) for n in range(count)]


def udp() -> list[Frame]:
    """Return packets that programs have words for."""
    return [Frame(data, 10**18 + n * 10**6) for n, data in enumerate(list(build_frames((60, 66, 70))) * (PACKETS // 3))]


@pytest.fixture
def _loopback() -> Generator[None, None, None]:
    """Have a loopback interface that is up."""
    with private_network_namespace():
        ip("link", "set", "lo", "up")
        yield


def data_of(packets: Iterable[Frame | Packet]) -> list[tuple[int, bytes]]:
    """Return what packets are, wherever they come from."""
    return [
        (each.time_ns, each.data) if isinstance(each, Frame) else (each.timestamp_ns, bytes(each.data))
        for each in packets
    ]


def read_back(capture: CaptureSession) -> list[tuple[int, bytes]]:
    """Return the packets in the files of a capture that has ended."""
    return [packet for file in capture.files for packet in data_of(read(file.name))]


@contextlib.contextmanager
def served(data: bytes, family: socket.AddressFamily, address: Any) -> Generator[Any, None, None]:
    """Have a server send this to one client, and close; give its address."""
    with socket.create_server(address, family=family) if family != socket.AF_UNIX else socket.socket(family) as server:
        if family == socket.AF_UNIX:
            server.bind(address)
            server.listen()

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.sendall(data)

        thread = threading.Thread(target=serve)
        thread.start()
        yield server.getsockname()
        thread.join(PATIENCE_S)


@contextlib.contextmanager
def as_fifo(data: bytes, directory: Path) -> Generator[str, None, None]:
    path = directory / "sharkfin"
    os.mkfifo(path)
    thread = threading.Thread(target=path.write_bytes, args=(data,))
    thread.start()
    yield str(path)
    thread.join(PATIENCE_S)


@contextlib.contextmanager
def as_bare_fifo(data: bytes, directory: Path) -> Generator[str, None, None]:
    with contextlib.chdir(directory), as_fifo(data, directory):
        yield "sharkfin"


@contextlib.contextmanager
def as_path(data: bytes, directory: Path) -> Generator[str, None, None]:
    path = directory / "in.pcap"
    path.write_bytes(data)
    yield str(path)


@contextlib.contextmanager
def as_tcp(data: bytes, _: Path, host: str = "127.0.0.1") -> Generator[str, None, None]:
    with served(data, socket.AF_INET, (host, 0)) as (_, port):
        yield f"TCP@{host}:{port}"


@contextlib.contextmanager
def as_tcp6(data: bytes, _: Path) -> Generator[str, None, None]:
    with served(data, socket.AF_INET6, ("::1", 0)) as (_, port, *_rest):
        yield f"TCP@[::1]:{port}"


@contextlib.contextmanager
def as_unix(data: bytes, directory: Path) -> Generator[str, None, None]:
    with served(data, socket.AF_UNIX, str(directory / "s")) as path:
        yield f"unix:{path}"


@contextlib.contextmanager
def as_unix_path(data: bytes, directory: Path) -> Generator[str, None, None]:
    with as_unix(data, directory) as name:
        yield name.removeprefix("unix:")


@contextlib.contextmanager
def as_file(data: bytes, directory: Path) -> Generator[Any, None, None]:
    with as_path(data, directory) as path, Path(path).open("rb") as file:
        yield file


@contextlib.contextmanager
def as_process(data: bytes, directory: Path) -> Generator[Any, None, None]:
    words = ["tcpdump", "-r", "PATH", "-w", "-"]
    with as_path(data, directory) as words[2]:
        process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    with process:
        yield process.stdout


WAYS = [as_fifo, as_bare_fifo, as_path, as_tcp, as_tcp6, as_unix, as_unix_path, as_file, as_process]
Way = Callable[[bytes, Path], "contextlib.AbstractContextManager[Any]"]


@pytest.mark.usefixtures("_loopback")
@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__.removeprefix("as_"))
def test_packets_of_a_stream_are_in_the_file_each_as_it_was(bench: Bench, way: Way) -> None:
    sent = many()
    with way(pcap(sent), bench.directory) as given, bench.session(interfaces=given) as capture:
        capture.wait(PATIENCE_S)
    assert capture.end_reason == EndReason.SOURCE_ENDED
    assert read_back(capture) == data_of(sent)
    assert capture.packetcount == PACKETS
    assert capture.dropcount == 0


@pytest.mark.parametrize("arguments", [{"ringbuffer_packets": 700}, {"use_libpcap": True}, {"max_packet_count": 2500}])
def test_a_stream_goes_where_a_capture_goes(bench: Bench, arguments: dict[str, Any]) -> None:
    sent = many()
    with as_fifo(pcap(sent), bench.directory) as path, bench.session(interfaces=path, **arguments) as capture:
        capture.wait(PATIENCE_S)
        with contextlib.suppress(OSError):  # who still writes must not wait for ever
            os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
    assert read_back(capture) == data_of(sent)[: arguments.get("max_packet_count")]
    assert len(capture.files) == (5 if "ringbuffer_packets" in arguments else 1)


def test_a_stream_that_is_read_live(bench: Bench) -> None:
    sent = many()
    with as_fifo(pcap(sent), bench.directory) as path:
        capture = bench.session(interfaces=path, savefile=None, in_memory=True)
        with capture:
            came = [packet for part in stream(capture) if isinstance(part, Batch) for packet in packets_of(part, ["-"])]
            assert data_of(came) == data_of(sent)
        assert capture.end_reason == EndReason.SOURCE_ENDED


def test_a_filter_and_a_snaplen_hold_for_a_stream(bench: Bench) -> None:
    sent = many()
    with as_fifo(pcap(sent), bench.directory) as path:
        one = CaptureInterface(name=path, capture_filter="greater 66", snaplen=30)
        with bench.session(interfaces=one) as capture:
            capture.wait(PATIENCE_S)
    assert read_back(capture) == [(time_ns, data[:30]) for time_ns, data in data_of(sent) if len(data) >= 66]


def test_streams_beside_an_interface_are_in_one_file_in_time_order(bench: Bench) -> None:
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as file, os.fdopen(writing, "wb", buffering=0) as sink:
        tcpdump = ["tcpdump", "-i", bench.interface, "-U", "-w", "-", "--immediate-mode", "-c", "200"]
        with (
            subprocess.Popen(tcpdump, stdout=sink, stderr=subprocess.PIPE) as process,
            bench.session(interfaces=[bench.interface, file]) as capture,
        ):
            sink.close()
            assert process.stderr is not None
            process.stderr.readline()
            wait_until(lambda: len(capture_names(capture)) == 2, "the stream has begun")
            bench.send(200, rate_pps=400)
            wait_until(lambda: capture_names(capture).get(file_name(file)) == 200, "all have come through it")
            capture.stop()
            capture.wait(PATIENCE_S)
    (closed,) = capture.files
    packets = list(read(closed.name))
    times = [packet.timestamp_ns for packet in packets]
    assert times == sorted(times)
    own, through = ([packet for packet in packets if packet.interface_id == number] for number in range(2))
    assert [bytes(packet.data) for packet in own] == [bytes(packet.data) for packet in through]
    # Each packet is stamped once for each of the two, at nearly the same time.
    assert all(abs(one.timestamp_ns - two.timestamp_ns) < 10**8 for one, two in zip(own, through, strict=True))


def file_name(file: Any) -> str:
    """Return what an open pipe is called."""
    return f"descriptor {file.fileno()}"


def capture_names(capture: CaptureSession) -> dict[str, int]:
    """Return how many packets of each interface were written, as of now."""
    with contextlib.suppress(Exception):
        capture.wait_for_event(timeout=0.05)
    return {each.interface: each.written_total for each in capture.interface_counters}


def test_a_stream_that_ends_beside_an_interface_is_told_and_the_capture_goes_on(bench: Bench) -> None:
    with as_fifo(pcap(many(5)), bench.directory) as path:
        with bench.session(interfaces=[bench.interface, path], events=["SP_INTERFACE_LOST"]) as capture:
            lost = next(each for event, each in capture if event == capture.SP_INTERFACE_LOST)
            bench.send(3)
            wait_until(lambda: sum(capture_names(capture).values()) == 8, "those of the interface are there, too")
        assert lost == path
    assert capture.end_reason == EndReason.CLIENT_LEFT


def test_nobody_writes_to_a_fifo_and_the_capture_runs_and_ends_when_it_is_told(bench: Bench) -> None:
    path = bench.directory / "fifo"
    os.mkfifo(path)
    with bench.session(interfaces=str(path), autostop_duration=0.5) as capture:
        capture.wait(PATIENCE_S)
    assert capture.end_reason == EndReason.DURATION
    assert read_back(capture) == []


def test_pcap_waits_for_what_a_stream_begins_with_and_can_be_left_meanwhile(bench: Bench) -> None:
    path = bench.directory / "fifo"
    os.mkfifo(path)
    savefile = bench.savefile
    savefile.write_bytes(b"old")
    capture = bench.session(interfaces=str(path), use_libpcap=True)
    with pytest.raises(Exception, match="in time"):
        capture.wait_started(0.6)
    assert savefile.read_bytes() == b"old"
    path.write_bytes(pcap(sent := many(9)))
    capture.wait(PATIENCE_S)
    capture.terminate()
    assert read_back(capture) == data_of(sent)
    again = bench.session(interfaces=str(path), use_libpcap=True)
    again.terminate()
    assert savefile.read_bytes() == pcap(sent)


def test_an_async_session_has_streams_too(bench: Bench) -> None:
    import trio  # noqa: PLC0415

    sent = many()

    async def main(path: str) -> EndReason | None:
        arguments = {"interfaces": path, "savefile": bench.savefile, "socket_path": bench.daemon.socket_path}
        async with aio.CaptureSession(**arguments) as capture:  # type: ignore[arg-type]
            await capture.wait()
            return capture.end_reason

    with as_fifo(pcap(sent), bench.directory) as path:
        assert trio.run(main, path) == EndReason.SOURCE_ENDED
    assert data_of(read(bench.savefile)) == data_of(sent)


# That come again -----------------------------------------------------------------------------------------------------


def told(capture: CaptureSession, event_type: int) -> str:
    """Return of what the next event of a type is."""
    return str(next(each for event, each in capture if event == event_type))


def test_a_fifo_is_waited_for_again_each_time_that_its_writer_has_left(bench: Bench) -> None:
    path = bench.directory / "fifo"
    events = ["SP_INTERFACE_LOST", "SP_INTERFACE_ATTACHED"]
    sent = many(9)
    # It need not even be there.
    with bench.session(interfaces=str(path), wait_for_interfaces=True, events=events) as capture:
        os.mkfifo(path)
        for number, data in enumerate((pcap(sent[:3]), capture_file(sent[3:6], order=">"), pcap(sent[6:]))):
            path.write_bytes(data)
            if number:
                assert told(capture, capture.SP_INTERFACE_ATTACHED) == str(path)
            assert told(capture, capture.SP_INTERFACE_LOST) == str(path)
        wait_until(lambda: sum(capture_names(capture).values()) == 9, "all are written")
        wait_until(lambda: bool(capture_names(capture)) and capture.is_waiting, "it waits")
    assert capture.end_reason == EndReason.CLIENT_LEFT
    assert read_back(capture) == data_of(sent)
    assert not any(thread.name == "reopening" for thread in threading.enumerate())


@pytest.mark.usefixtures("_loopback")
def test_a_server_that_goes_away_is_asked_again(bench: Bench) -> None:
    sent = many(6)
    with served(pcap(sent[:3]), socket.AF_INET, ("127.0.0.1", 0)) as (host, port):
        capture = bench.session(interfaces=f"TCP@{host}:{port}", wait_for_interfaces=True, events=["SP_INTERFACE_LOST"])
        capture.wait_started(PATIENCE_S)
        told(capture, capture.SP_INTERFACE_LOST)
    with capture, served(pcap(sent[3:]), socket.AF_INET, (host, port)):
        told(capture, capture.SP_INTERFACE_LOST)
        wait_until(lambda: sum(capture_names(capture).values()) == 6, "all are written")
    assert read_back(capture) == data_of(sent)


def test_a_filter_that_does_not_compile_ends_a_capture_that_waits(bench: Bench) -> None:
    path = bench.directory / "fifo"
    os.mkfifo(path)
    with bench.session(interfaces=str(path), wait_for_interfaces=True, capture_filter="tcp and") as capture:
        path.write_bytes(pcap(many(3)))
        with pytest.raises(BadFilterError):
            list(capture)


@pytest.mark.parametrize("given", ["-", "IN"], ids=["standard input", "file"])
def test_what_cannot_come_again_is_not_waited_for(bench: Bench, given: str) -> None:
    (bench.directory / "in").touch()
    with pytest.raises(InvalidArgument, match="cannot come again") as raised:
        bench.session(interfaces=given.replace("IN", str(bench.directory / "in")), wait_for_interfaces=True)
    assert raised.value.argument == "wait_for_interfaces"


# What cannot be ------------------------------------------------------------------------------------------------------


def whole_and(rest: bytes) -> bytes:
    return pcap(many(4)) + rest


DAMAGED = {
    "cut": (whole_and(b"\0" * 10), SourceError, "is cut: it ends within what begins at byte"),
    "impossible": (whole_and(b"\xff" * 40), SourceError, "is damaged at byte"),
}
AT_ONCE: dict[str, tuple[bytes, dict[str, Any], type[Exception], str]] = {
    "neither": (b"GET / HTTP/1.0\r\n\r\n", {}, SourceError, "neither pcapng nor pcap"),
    "nothing": (b"", {}, SourceError, "ended before anything came"),
    "half a header": (pcap([])[:10], {}, SourceError, "within its header"),
    "filter": (pcap(many(4)), {"capture_filter": "tcp and"}, BadFilterError, "capture filter"),
    "direction": (pcap(many(4)), {"capture_filter": "inbound"}, BadFilterError, "inbound"),
    "two interfaces in pcap": (
        capture_file(frames(4, 2), names=("a", "b")),
        {"use_libpcap": True},
        UnsupportedError,
        "a pcap file has packets of one interface",
    ),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damage_fails_the_capture_behind_all_whole_packets(bench: Bench, name: str) -> None:
    data, error, words = DAMAGED[name]
    with (
        as_fifo(data, bench.directory) as path,
        bench.session(interfaces=path) as capture,
        pytest.raises(error, match=words) as raised,
    ):
        list(capture)
    assert raised.value.failure is not None
    assert raised.value.failure.interface == path
    assert capture.end_reason == EndReason.FAILED
    assert read_back(capture) == data_of(many(4))


@pytest.mark.parametrize("name", AT_ONCE)
def test_what_shows_at_once_refuses_the_capture_and_leaves_an_old_file(bench: Bench, name: str) -> None:
    data, arguments, error, words = AT_ONCE[name]
    bench.savefile.write_bytes(b"old")
    with as_fifo(data, bench.directory) as path, pytest.raises(error, match=words):
        bench.running(interfaces=path, **arguments)
    assert bench.savefile.read_bytes() == b"old"


@pytest.mark.usefixtures("_loopback")
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("./nowhere", "No such file"),
        ("/", "Is a directory"),
        ("TCP@127.0.0.1:1", "refused"),
        ("tcp@127.0.0.1:1", "refused"),
        ("TCP@", "TCP@HOST"),
        ("TCP@127.0.0.1:0", "no port"),
        ("TCP@127.0.0.1:99999", "no port"),
        ("TCP@::1:19000", "in brackets"),
        ("TCP@[::1", "refused"),
        ("TCP@[::1]19000", "TCP@HOST"),
        ("unix:/nowhere", "No such file"),
        ("unix:" + "x" * 200, "too long"),
    ],
)
def test_what_cannot_be_opened_is_refused_by_name(bench: Bench, name: str, words: str) -> None:
    with pytest.raises(InterfaceError, match=words) as raised:
        bench.session(interfaces=name)
    assert raised.value.failure is not None
    assert raised.value.failure.interface == name


def test_a_file_that_is_not_open_for_reading_is_refused(bench: Bench) -> None:
    with (bench.directory / "out").open("wb") as file, pytest.raises(SourceError, match="Bad file descriptor"):
        bench.running(interfaces=file)


@pytest.mark.parametrize(
    "arguments",
    [
        {"promiscuous": True},
        {"monitor_mode": True},
        {"kernel_buffer_size": 8},
        {"link_layer_type": "EN10MB"},
        {"wifi_channel": "2412"},
        {"detach": True, "name": "a"},
        {"recorder_memory": 8, "recorder_trigger_filter": "udp"},
    ],
    ids=lambda arguments: list(arguments)[-1 if "recorder_memory" in arguments else 0],
)
def test_what_has_no_meaning_for_a_stream_is_refused_by_name(bench: Bench, arguments: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument) as raised:
        make_request({"interfaces": "-", "savefile": "a", **arguments})  # type: ignore[typeddict-item]
    assert raised.value.argument in arguments


def test_what_is_about_interfaces_is_taken_for_those_beside_a_stream(bench: Bench) -> None:
    request, *_ = make_request({"interfaces": ["lo", "-"], "promiscuous": False, "savefile": "a"})
    assert [each.promiscuous for each in request.interfaces] == [False, None]
    assert [each.is_stream for each in request.interfaces] == [False, True]


# Without a service, as an ordinary user ------------------------------------------------------------------------------


@pytest.fixture
def own_directory(user_dir: Path) -> Path:
    """A directory of an ordinary user's."""
    directory = user_dir / "own"
    directory.mkdir()
    os.chown(directory, USER_ID, USER_ID)
    return directory


def typed(words: str, directory: Path, **options: Any) -> subprocess.CompletedProcess[str]:
    """Have an ordinary user type a line into a shell, on a machine without a service."""
    bin_directory = Path(sys.executable).parent
    environment = {key: value for key, value in os.environ.items() if key not in (SOCKET_VARIABLE, "XDG_CONFIG_HOME")}
    return subprocess.run(
        ["bash", "-c", f"set -o pipefail; {words}"],
        cwd=directory,
        env=environment | {"PATH": f"{bin_directory}:{os.environ['PATH']}:/usr/sbin", "HOME": str(directory)},
        user=USER_ID,
        group=USER_ID,
        extra_groups=[],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
        **options,
    )


def check_refusal(line: str, directory: Path, status: int, words: str) -> None:
    """Check that a line ends with a status and a sentence."""
    done = typed(line, directory)
    assert done.returncode == status, line
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def prepared(directory: Path, name: str = "in.pcap", packets: Sequence[Frame] | None = None) -> Path:
    """Return a file that a user may read."""
    path = directory / name
    path.write_bytes((pcap if name.endswith(".pcap") else capture_file)(many() if packets is None else packets))
    return path


def checksums(path: Path | str, directory: Path) -> str:
    """Return what tshark has of the packets of a file."""
    words = ["tshark", "-r", str(path), "-t", "e", "-P", "-x"]
    environment = {**os.environ, "HOME": str(directory)}
    return subprocess.run(words, capture_output=True, text=True, check=True, env=environment).stdout


def test_tcpdump_into_a_ring(own_directory: Path) -> None:
    path = prepared(own_directory)
    line = "tcpdump -r in.pcap -w - | capctl capture -i - -w ring.pcapng -b filesize:100"
    done = typed(line, own_directory)
    assert done.returncode == 0, done.stderr
    assert "3,000 packets captured (the stream has ended)" in done.stdout
    files = sorted(own_directory.glob("ring_*"))
    assert len(files) > 2
    merged = own_directory / "merged.pcapng"
    subprocess.run(["mergecap", "-a", "-w", merged, *files], check=True)
    assert checksums(merged, own_directory) == checksums(path, own_directory)
    assert {file.stat().st_uid for file in files} == {USER_ID}


@pytest.mark.parametrize("name", ["in.pcap", "in.pcapng"])
@pytest.mark.parametrize("reader", ["tshark -r -", "tcpdump -nr -"])
def test_a_stream_through_a_pipe_to_the_next_program(own_directory: Path, name: str, reader: str) -> None:
    path = prepared(own_directory, name, udp())
    direct = typed(f"{reader.replace('-r -', f'-r {path}').replace('-nr -', f'-nr {path}')}", own_directory)
    done = typed(f"capctl capture -i - -w - < {name} | {reader}", own_directory)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == PACKETS
    assert done.stdout == direct.stdout


def test_process_substitution_and_lines(own_directory: Path) -> None:
    prepared(own_directory, packets=udp())
    done = typed("capctl capture -n -t -i <(cat in.pcap) -c 2 greater 66", own_directory)
    assert done.returncode == 0, done.stderr
    tcpdump = typed("tcpdump -n -t -r in.pcap -c 2 greater 66", own_directory)
    assert done.stdout.splitlines()[:2] == tcpdump.stdout.splitlines()


def test_a_growing_file_through_tail(own_directory: Path) -> None:
    prepared(own_directory)
    done = typed(
        "tail -f -c +0 in.pcap --pid $$ | capctl capture -i - -w out.pcapng -c 3000; (( ${PIPESTATUS[1]} == 0 ))",
        own_directory,
    )
    assert done.returncode == 0, done.stderr
    assert checksums(own_directory / "out.pcapng", own_directory) == checksums(own_directory / "in.pcap", own_directory)


def test_each_end_is_in_the_exit_status(own_directory: Path) -> None:
    prepared(own_directory, packets=many(50))
    for line, status, words in (
        ("head -c 300 in.pcap | capctl capture -i - -w a.pcapng", 1, "the stream - is cut"),
        ("echo hello | capctl capture -i - -w b.pcapng", 1, "neither pcapng nor pcap"),
        ("true | capctl capture -i - -w b.pcapng", 1, "ended before anything came"),
        ("capctl capture -i ./nowhere -w b.pcapng", 1, "No such file"),
        ("capctl capture -i - -p -w b.pcapng < in.pcap", 2, "-p is about network interfaces"),
        ("capctl capture -i - -w b.pcapng < in.pcap -f 'udp port'", 1, "capture filter"),
    ):
        check_refusal(line, own_directory, status, words)
    assert not (own_directory / "b.pcapng").exists()
    assert len(list(read(own_directory / "a.pcapng"))) > 0
