"""Packets that are shown: by ``capctl read``, as tcpdump shows them, and by ``capctl capture`` as they come."""

import contextlib
import json
import os
import re
import struct
import subprocess
from collections.abc import Generator
from pathlib import Path

import pytest

from capd_client import BadFilterError, read
from capd_client.cli.packets.dissect import ip_header, link_header, network_offset
from capd_protocol.formats import pcapng
from tests.capture.helpers import readable_packets
from tests.cli.calling import called
from tests.cli.test_capctl import CAPCTL, asked, capture_asked, command
from tests.cli.test_live import live, wait_until_armed
from tests.client.conftest import Bench
from tests.client.helpers import PATIENCE_S
from tests.reading.test_dissect import PACKETS, ip4

ETHERNET, SLL, SLL2, RAW = 1, 113, 276, 101
_START_NS = 1_700_000_000_123_456_789


def write(path: Path, packets: list[bytes], step_ns: int = 1_500_000_000) -> Path:
    """Write a file of Ethernet frames, some seconds apart."""
    data = pcapng.section_header() + pcapng.interface_description(linktype=ETHERNET, snaplen_bytes=262_144)
    for number, packet in enumerate(packets):
        data += pcapng.enhanced_packet(0, _START_NS + number * step_ns, packet, len(packet))
    path.write_bytes(data)
    return path


def tcpdump(path: Path, *options: str) -> list[str]:
    """Return tcpdump's lines, with its tabs as blanks."""
    words = ("tcpdump", "-n", "-r", str(path), *options)
    done = subprocess.run(words, capture_output=True, text=True, check=True, env={"PATH": "/usr/bin", "TZ": "UTC"})
    return [line.replace("\t", " " * 8) for line in done.stdout.splitlines()]


def shown(path: Path, *options: str) -> list[str]:
    """Return our lines."""
    done = called("read", path, "--utc", *options)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


@pytest.fixture(scope="module")
def capture_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # Behind an 802.3 header, tcpdump takes the LLC header for the link layer's, too.
    packets = [packet for packet in PACKETS.values() if packet[12:14] >= b"\x06\x00"]
    return write(tmp_path_factory.mktemp("shown") / "a.pcapng", packets)


# As tcpdump has it ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("times", "words"), [("", 1), ("-t", 0), ("-tt", 1), ("-ttt", 1), ("-tttt", 2), ("-ttttt", 1)])
def test_times_are_tcpdumps(capture_file: Path, times: str, words: int) -> None:
    options = [times] if times else []
    # Its further lines are indented; so are some of its times.
    theirs = [line for line in tcpdump(capture_file, *options) if not line.startswith(" " * 4)]
    ours = shown(capture_file, *options)
    assert len(ours) == len(theirs) > 20
    assert [line.split()[:words] for line in ours] == [line.split()[:words] for line in theirs]
    assert ours[0].split()[words] in ("IP", "ARP", "vlan")


@pytest.mark.parametrize("option", ["-x", "-xx", "-X", "-XX"])
def test_bytes_are_tcpdumps(capture_file: Path, option: str) -> None:
    def dumps(lines: list[str]) -> list[str]:
        return [line.rstrip() for line in lines if re.match(" {8}0x", line)]

    assert dumps(shown(capture_file, option)) == dumps(tcpdump(capture_file, option)) != []


def test_link_layer_headers_are_tcpdumps(capture_file: Path) -> None:
    pattern = re.compile(r"[0-9a-f:]{17} > [0-9a-f:]{17}, (?:ethertype [^,]*|802\.3), length \d+")
    theirs = [found[0] for line in tcpdump(capture_file, "-e") if (found := pattern.search(line))]
    ours = [found[0] for line in shown(capture_file, "-e") if (found := pattern.search(line))]

    def without_name(text: str) -> str:
        return re.sub(r"(?<=ethertype )[^(]*", "", text)

    assert list(map(without_name, ours)) == list(map(without_name, theirs)) != []


def test_ip_headers_are_tcpdumps(capture_file: Path) -> None:
    pattern = re.compile(r"\((tos .*?length \d+|.*?payload length: \d+)")

    def headers(lines: list[str]) -> list[str]:
        return [re.sub(r", (bad cksum|options).*", "", found[1]) for line in lines if (found := pattern.search(line))]

    ours, theirs = (headers(lines) for lines in (shown(capture_file, "-v"), tcpdump(capture_file, "-v")))
    names = re.compile(r"(?<=proto )[^(]*|(?<=next-header )[^(]*")
    assert [names.sub("", each) for each in ours] == [names.sub("", each) for each in theirs] != []


def test_quick_lines_are_tcpdumps(capture_file: Path) -> None:
    pattern = re.compile(r"\S+[.:]\S+ > \S+ (?:tcp|UDP, length) \d+$")
    ours, theirs = (
        [found[0] for line in lines if (found := pattern.search(line))]
        for lines in (shown(capture_file, "-q"), tcpdump(capture_file, "-q"))
    )
    assert {line.split()[3] for line in ours} == {"tcp", "UDP,"}
    assert set(ours) >= set(theirs)  # which has no addresses behind an extension header
    link = re.compile(r"[0-9a-f:]{17} > [0-9a-f:]{17}, (?:IPv4|IPv6|ARP|802\.1Q|LLDP), length \d+")
    ours, theirs = (
        [found[0] for line in lines if (found := link.search(line))]
        for lines in (shown(capture_file, "-q", "-e"), tcpdump(capture_file, "-q", "-e"))
    )
    assert ours == theirs != []


def test_quick_lines_of_dns_have_the_length_only(tmp_path: Path) -> None:
    query = bytes.fromhex("0001 0100 0001 0000 0000 0000 016103636f6d00 0001 0001")
    path = write(tmp_path / "a.pcapng", [ip4(17, b"\x9c\x40\x00\x35" + struct.pack("!HH", 8 + len(query), 0) + query)])
    assert "DNS query A a.com" in shown(path)[0]
    (line,), (theirs,) = shown(path, "-q"), tcpdump(path, "-q")
    assert line == theirs


def test_numbers_are_tcpdumps(capture_file: Path) -> None:
    theirs = [line[:7] for line in tcpdump(capture_file, "-#") if not line.startswith(" " * 6)]
    ours = [line[:7] for line in shown(capture_file, "--number", "-q")]
    assert ours == theirs
    assert ours[0] == "    1  "
    assert [line[:7] for line in shown(capture_file, "-#t", "-c", "2")] == ["    1  ", "    2  "]


def test_what_is_always_so_is_taken(capture_file: Path) -> None:
    assert shown(capture_file, "-nNSKlU") == shown(capture_file)
    sequence = re.compile(r"Flags .* seq (\d+)")
    theirs = [found[1] for line in tcpdump(capture_file, "-S") if (found := sequence.search(line))]
    ours = [found[1] for line in shown(capture_file, "-S") if (found := sequence.search(line))]
    assert set(ours) == set(theirs) != set()


def test_text_is_printable_and_cannot_pass_for_a_line_of_ours(tmp_path: Path) -> None:
    payload = b"GET / HTTP/1.1\r\n12:00:00.000000 IP fake\x1b[2J\ttab\xff"
    path = write(tmp_path / "a.pcapng", [bytes(12) + b"\x08\x06" + payload])
    assert shown(path, "-A")[1:] == ["        GET / HTTP/1.1", "        12:00:00.000000 IP fake.[2J tab."]


def test_a_span_goes_back_where_times_do(tmp_path: Path) -> None:
    path = write(tmp_path / "a.pcapng", [PACKETS["ARP"]] * 2, step_ns=-61_000_001_000)
    assert [line.split()[0] for line in shown(path, "-ttt")] == ["00:00:00.000000", "-00:01:01.000001"]


@pytest.mark.parametrize("linktype", [ETHERNET, SLL, SLL2, RAW, 147])
def test_headers_that_are_cut_are_left_out(linktype: int) -> None:
    data = PACKETS["TCP"]
    for size in range(len(data)):
        assert 0 <= network_offset(data[:size], linktype) <= size
        assert isinstance(link_header(data[:size], linktype, len(data)), str)
        assert isinstance(ip_header(data[:size], linktype), str)
    assert ip_header(data[:20], ETHERNET) == ""


def test_headers_of_cooked_packets() -> None:
    sll = bytes.fromhex("0004 0001 0006 020000000001 0000 0800")
    assert link_header(sll, SLL, 60) == "Out 02:00:00:00:00:01, ethertype IPv4 (0x0800), length 60: "
    sll2 = bytes.fromhex("0800 0000 00000007 0001 00 06 0200000000010000")
    assert link_header(sll2, SLL2, 60) == "In  if 7 02:00:00:00:00:01, ethertype IPv4 (0x0800), length 60: "


# Which packets ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["udp", "ip6", "arp or icmp", "tcp[tcpflags] & tcp-syn != 0", "vlan"])
def test_a_filter_leaves_what_tcpdump_leaves(capture_file: Path, text: str) -> None:
    ours = shown(capture_file, "-f", text, "-tt")
    theirs = [line for line in tcpdump(capture_file, "-tt", text) if line[0].isdigit()]
    assert [line.split()[0] for line in ours] == [line.split()[0] for line in theirs] != []
    with read(capture_file) as reader:
        assert len(list(reader.matching(text))) == len(ours)


def test_a_number_of_packets_is_of_those_that_match(capture_file: Path) -> None:
    assert len(shown(capture_file, "-f", "udp", "-c", "2")) == 2


def test_what_cannot_be_done_to_lines_is_refused(capture_file: Path) -> None:
    for words, status, text in (
        (("--json", "-x"), 2, "leave out -t, -e, -v, -q, -#, -x, -X and -A, or --json"),
        (("--info", "-f", "udp"), 2, "leave out the filter"),
        ((capture_file, "--follow"), 2, "--follow waits for more of one file"),
        (("-c", "0"), 2, "-c is 0; possible are numbers from 1"),
        (("--count=-1",), 2, "--count is -1; possible are numbers from 1"),
        (("-f", "udp and"), 1, "syntax error"),
        (("-f", "inbound"), 1, "capture filter: files do not say the direction of packets"),
        (("udp", "port", "53"), 2, "there is no file udp, nor a capture of that name: a filter stands behind -f"),
        (("udp port 53",), 2, "there is no file udp port 53, nor a capture of that name: a filter stands behind -f"),
    ):
        done = called("read", capture_file, *words)
        assert done.returncode == status
        assert text in done.stderr


@pytest.mark.parametrize("words", [(), ("--follow",)], ids=["whole", "followed"])
def test_a_filter_that_is_wrong_is_told_before_any_packet(tmp_path: Path, words: tuple[str, ...]) -> None:
    empty = write(tmp_path / "a.pcapng", [])
    for command_name in ("read", "extract")[: 2 - len(words)]:
        done = called(command_name, empty, "-f", "udp and", *words)
        assert (done.returncode, done.stdout) == (1, "")
        assert "syntax error" in done.stderr
    with read(empty) as reader, pytest.raises(BadFilterError):
        reader.matching("udp and")


@pytest.mark.parametrize("text", ["type mgt", "ifindex 1", "vpi 3", "lssu", "rnr 1"])
def test_a_filter_for_another_link_layer_type_waits_for_packets(tmp_path: Path, text: str) -> None:
    assert shown(write(tmp_path / "a.pcapng", []), "-f", text) == []


def test_what_comes_through_a_pipe_is_shown_as_it_comes(capture_file: Path) -> None:
    # Else Python buffers nothing.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with subprocess.Popen(
        [*CAPCTL, "read", "-"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(capture_file.read_bytes())
        process.stdin.flush()
        assert b"ARP" in process.stdout.readline()
        process.stdin.close()
        assert process.wait(PATIENCE_S) == 0


# As they come -----------------------------------------------------------------------------------------------------


def test_a_capture_without_a_file_shows_its_packets(bench: Bench) -> None:
    with live(bench, "-c", "3", "-e", "udp", "port", "50001") as process:
        wait_until_armed(bench)
        bench.send(3)
        output, errors = (each.decode() for each in process.communicate(timeout=PATIENCE_S))
    assert process.returncode == 0
    assert len(output.splitlines()) == 3
    assert all(re.search(r" ethertype IPv4 .*: IP .*\.50001: UDP", line) for line in output.splitlines())
    assert errors.splitlines()[0] == "3 packets captured (as many as were asked for)"
    assert list(bench.directory.iterdir()) == []


def test_packets_are_shown_beside_their_file(bench: Bench) -> None:
    with live(bench, "-c", "3", "-w", "a.pcapng", "--print", "--json") as process:
        wait_until_armed(bench)
        bench.send(3)
        output, errors = (each.decode() for each in process.communicate(timeout=PATIENCE_S))
    assert process.returncode == 0
    assert [json.loads(line)["captured_size_bytes"] for line in output.splitlines()] == [100] * 3
    assert [json.loads(line)["event"] for line in errors.splitlines()] == [
        "started",
        "file",
        "packets",
        "file_closed",
        "ended",
    ]
    assert readable_packets(bench.directory / "a.pcapng") == 3


def test_packets_that_come_too_fast_are_counted(bench: Bench) -> None:
    with live(bench, "--json") as process:
        wait_until_armed(bench)
        bench.send(60_000, 1400)
        process.terminate()
        output, errors = (each.decode() for each in process.communicate(timeout=PATIENCE_S))
    assert process.returncode == 0
    events = {event["event"]: event for event in map(json.loads, errors.splitlines())}
    missed = events.get("missed", {"packets": 0, "text": "not shown: they came too fast"})
    assert missed["text"] == "not shown: they came too fast"
    ended = events["ended"]
    assert len(output.splitlines()) + missed["packets"] == ended["interfaces"][0]["written_total"]


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("-w", "a.pcapng", "-x"), "leave out -w, or give --print"),
        (("-w", "-", "--print"), "leave out -w -, or --print"),
        (("-f", "udp", "tcp"), "there are two filters"),
        (("-w", "a.pcapng", "--print", "--detach", "--name", "a"), "--detach cannot go together with"),
        (("--print", "-b", "filesize:100"), "-b filesize is about files on a disk"),
    ],
)
def test_what_excludes_being_shown_is_refused(bench: Bench, words: tuple[str, ...], text: str) -> None:
    done = called("--socket", bench.daemon.socket_path, "capture", "-i", bench.interface, *words, cwd=bench.directory)
    assert (done.returncode, done.stdout) == (2, "")
    assert text in done.stderr
    assert list(bench.directory.iterdir()) == []


def test_interfaces_are_listed_and_have_numbers(bench: Bench) -> None:
    listed = asked(bench, "capture", "-D")
    assert listed.stdout == asked(bench, "interfaces").stdout
    number = next(line.split()[0] for line in listed.stdout.splitlines() if line.split()[1] == bench.interface)
    types = asked(bench, "capture", "-i", number, "-L")
    assert types.stdout == asked(bench, "linktypes", bench.interface).stdout
    none = asked(bench, "capture", "-i", "50001")
    assert (none.returncode, none.stderr) == (
        2,
        "capctl: there is no interface 50001: 'capctl interfaces' shows their numbers (option -i)\n",
    )
    assert "name it with -i" in asked(bench, "capture", "-L").stderr


def test_a_filter_that_is_wrong_is_refused(bench: Bench) -> None:
    done = capture_asked(bench, "udp", "prot", "53")
    assert done.returncode == 1
    assert "'prot' is no keyword" in done.stderr


def test_a_reader_that_has_enough_ends_the_capture(bench: Bench) -> None:
    words = command(bench, "capture", "-i", bench.interface)
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        wait_until_armed(bench)
        bench.send(10)
        assert process.stdout is not None
        assert process.stdout.readline()
        process.stdout.close()
        bench.send(10)
        assert process.stderr is not None
        assert process.stderr.read() == ""
        assert process.wait(PATIENCE_S) == 1


@contextlib.contextmanager
def started_reading(words: list[str]) -> Generator[subprocess.Popen[str], None, None]:
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def test_a_running_capture_is_shown_by_its_name(bench: Bench) -> None:
    with bench.running(name="shown", ringbuffer_packets=5) as capture:
        bench.send(3)
        capture.flush()
        words = command(bench, "read", "shown", "--json", "-f", "udp")
        with started_reading(words) as process:
            assert process.stdout is not None
            first = [json.loads(process.stdout.readline()) for _ in range(3)]  # of the current file
            bench.send(9)
            rest = [json.loads(process.stdout.readline()) for _ in range(9)]  # through the next ones
            some = asked(bench, "read", str(capture.capture_id), "-c", "2")
            none = asked(bench, "read", "shown", "-c", "1", "-f", "udp and")
            filtered = asked(bench, "read", "shown", "udp")
            capture.stop()
            assert process.stdout.read() == ""
            assert process.wait(PATIENCE_S) == 0
    times = [each["timestamp_ns"] for each in first + rest]
    assert times == sorted(times)
    assert len(times) == 12
    assert (some.returncode, len(some.stdout.splitlines())) == (0, 2)
    assert (none.returncode, none.stdout) == (1, "")
    assert "syntax error" in none.stderr
    assert (filtered.returncode, filtered.stdout) == (2, "")


def test_a_filter_that_fits_no_interface_of_a_capture_is_told_before_any_packet(bench: Bench) -> None:
    with bench.running(name="quiet", capture_filter="tcp port 9"):
        for text, expected in (("udp and", "syntax error"), ("type mgt", "only on 802.11")):
            done = asked(bench, "read", "quiet", "-f", text)
            assert (done.returncode, done.stdout) == (1, "")
            assert expected in done.stderr


def test_packets_of_a_running_capture_that_are_not_shown_are_counted(bench: Bench) -> None:
    with bench.running(name="much") as capture:
        bench.send(30_000, 1400)  # far more than may be behind
        capture.flush()
        with started_reading(command(bench, "read", "much", "--json")) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            process.stdout.readline()
            capture.stop()
            output, errors = process.stdout.read(), process.stderr.read()
    event = json.loads(errors)
    assert (event["event"], event["text"]) == ("missed", "not shown: they came too fast")
    # All but what the kernel had no room for.
    assert 0 < event["packets"] == capture.packetcount - 1 - len(output.splitlines())


def test_what_is_neither_a_file_nor_a_capture_is_no_file(bench: Bench) -> None:
    for name in ("nothing", "4711", "no daemon"):
        done = asked(bench, "read", name)
        assert (done.returncode, done.stderr) == (1, f"capctl: {name}: there is no such file\n")
    assert "there is no such file" in called("--socket", bench.directory / "none", "read", "nothing").stderr
