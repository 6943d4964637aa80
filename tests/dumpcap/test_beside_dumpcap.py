"""capd-dumpcap beside dumpcap: by itself, below tshark, and below a parent that goes."""

import contextlib
import grp
import os
import select
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Generator
from pathlib import Path

import pytest

from capd_client import read
from capd_client.dumpcap.__main__ import main
from tests.dumpcap.comparing import compare
from tests.dumpcap.differences import KNOWN
from tests.dumpcap.lines import PICKED, SPACED, drawn
from tests.dumpcap.running import FRAMES, OURS, said_of
from tests.support.attack import Channel, User, eventually, process_of
from tests.support.daemon import Daemon, MakeDir, running_daemon
from tests.support.namespace import veth_pair
from tests.support.tools import packets_of
from tests.support.traffic import send

ROOT = Path(__file__).parents[2]
#: Of the command lines that are compared, those that are drawn; more of them: scripts/compare-dumpcap.
SEED, DRAWN = 2026, 12
INTERFACES = ("cmpa", "cmpb")
#: Any group that is there.
CAPTURERS = grp.getgrall()[-1]


@pytest.fixture(scope="module")
def pairs() -> Generator[str, None, None]:
    """Two interfaces; the name of the other end of the first one."""
    with veth_pair("cmpa", "cmppeer"), veth_pair("cmpb", "cmpother"):
        yield "cmppeer"


@pytest.mark.parametrize("words", [*PICKED, *SPACED, *drawn(SEED, DRAWN)], ids=" ".join)
def test_the_same_words_have_the_same_outcome(
    pairs: str, daemon: Daemon, tmp_path: Path, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CAPD_SOCKET", daemon.socket_path)
    assert compare(words, tmp_path / "both", INTERFACES, pairs) == []


def test_the_differences_that_are_meant_are_in_the_documentation() -> None:
    text = (ROOT / "docs" / "dumpcap.md").read_text()
    assert [each.heading for each in KNOWN if f"**{each.heading}.**" not in text] == []


# Below tshark ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tsharks(make_dir: MakeDir) -> tuple[Path, Path]:
    """Two copies of tshark: with the real dumpcap beside it, and with ours."""
    directory = make_dir("tsharks")
    found: list[Path] = []
    for name, program in (("theirs", shutil.which("dumpcap")), ("ours", shutil.which("capd-dumpcap"))):
        assert program is not None
        (directory / name).mkdir()
        found.append(directory / name / "tshark")
        shutil.copy(shutil.which("tshark") or "", found[-1])
        (directory / name / "dumpcap").symlink_to(program)
    return found[0], found[1]


#: Where tshark finds extcap programs. It runs all of them before each capture; here it finds an empty directory.
EXTCAP = Path(shutil.which("tshark") or "/usr/bin/tshark").parent.parent / "lib"
ALONE = 'for each in "$2"/*/wireshark/extcap; do mount --bind "$1" "$each"; done; shift 2; exec "$@"'


class Tshark:
    """A tshark that runs, with either dumpcap."""

    def __init__(self, tshark: Path, words: list[str], directory: Path) -> None:
        (directory / "none").mkdir(parents=True)
        environment = {**os.environ, "TMPDIR": str(directory), "HOME": str(directory)}
        within = ["unshare", "--mount", "sh", "-euc", ALONE, "sh", str(directory / "none"), str(EXTCAP)]
        self.process = subprocess.Popen(
            [*within, str(tshark), *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=directory,
            env=environment,
        )
        self._errors = b""

    def wait_until_it_captures(self) -> None:
        """Return once it captures or has ended; where it does neither, say what all processes wait for."""
        assert self.process.stderr is not None
        deadline_s = time.monotonic() + 20
        while b'File: "' not in self._errors and self.process.poll() is None:
            if time.monotonic() > deadline_s:
                processes = subprocess.run(
                    ["ps", "-eo", "pid,ppid,stat,wchan:32,args", "--forest"], capture_output=True, check=True
                )
                pytest.fail(f"no capture; {self._errors.decode()}\n{processes.stdout.decode()}")
            if select.select([self.process.stderr], [], [], 0.2)[0]:
                self._errors += os.read(self.process.stderr.fileno(), 65536)

    def outcome(self) -> tuple[int, list[str], list[str]]:
        """Return its status, and the lines of its output and of its errors that are the same each time."""
        output, rest = self.process.communicate(timeout=30)
        lines = [line for line in (self._errors + rest).decode().splitlines() if "Running as user" not in line]
        steady = [line.partition("[Main MESSAGE]")[2] or line for line in lines]
        # dumpcap counts as dropped what it throws away when enough has come.
        said = [
            line if "File:" not in line else "File" for line in steady if line.strip() and "dropped from" not in line
        ]
        return self.process.returncode, output.decode("utf-8", "replace").splitlines(), said


@contextlib.contextmanager
def both_tsharks(tsharks: tuple[Path, Path], words: list[str], directory: Path) -> Generator[list[Tshark], None, None]:
    """Run both at the same time; none is left running."""
    both = [Tshark(each, words, directory / each.parent.name) for each in tsharks]
    try:
        yield both
    finally:
        for each in both:
            each.process.kill()
            each.process.communicate()


# Both read what the daemon or dumpcap has written in their own time.
@pytest.mark.alone
@pytest.mark.parametrize(
    "words",
    [
        "-i cmpa -c 10 -T fields -e frame.len",
        "-i cmpa -T fields -e frame.len",
        "-i cmpa -f greater\N{NO-BREAK SPACE}120 -T fields -e frame.len",
        "-i cmpa -i cmpb -c 10 -T fields -e frame.len",
        "-i cmpa -w ring.pcapng -b packets:4 -b files:2",
        "-i cmpa -a duration:5 -w a.pcapng",
        "-i cmpa -s 40 -T fields -e frame.cap_len",
    ],
)
def test_tshark_captures_the_same_with_both(pairs: str, tsharks: tuple[Path, Path], tmp_path: Path, words: str) -> None:
    split = [each.replace("\N{NO-BREAK SPACE}", " ") for each in words.split()]
    with both_tsharks(tsharks, split, tmp_path) as both:
        for each in both:
            each.wait_until_it_captures()
        if any(each.process.poll() is None for each in both):
            send(pairs, FRAMES, len(FRAMES))
            # They begin to read in their own time.
            time.sleep(1)
            for each in both:
                if "duration" not in words:
                    each.process.send_signal(signal.SIGINT)
        theirs, ours = (each.outcome() for each in both)
    assert ours == theirs
    files = [sorted(each.name[:11] for each in (tmp_path / name).glob("*.pcapng")) for name in ("theirs", "ours")]
    assert files[0] == files[1]


@pytest.mark.parametrize(
    "words",
    ["-D", "-L -i cmpa", "-i nope0", "-i cmpa -f nonsense", "-i cmpa -w nodir/a", "-i cmpa -y NOPE"],
)
def test_tshark_says_the_same_with_both(pairs: str, tsharks: tuple[Path, Path], tmp_path: Path, words: str) -> None:
    del pairs
    with both_tsharks(tsharks, words.split(), tmp_path) as both:
        theirs, ours = (each.outcome() for each in both)
    assert ours == theirs


# By itself ------------------------------------------------------------------------------------------------------------


def test_an_ordinary_user_captures_through_the_daemon(pairs: str, make_dir: MakeDir) -> None:
    directory = make_dir("ordinary")
    os.chown(directory, 23_731, 23_731)

    def run(channel: Channel) -> None:
        os.environ["CAPD_SOCKET"] = daemon.socket_path
        os.chdir(directory)
        channel.send(main(["-i", INTERFACES[0], "-w", "a.pcapng", "-c", "3", "-q"]))

    user = User(23_731, 23_731, (CAPTURERS.gr_gid,))
    with running_daemon(make_dir("through"), "--group", CAPTURERS.gr_name) as daemon, process_of(user, run) as process:
        eventually(lambda: (directory / "a.pcapng").exists() or process.channel.poll(), "it captures")
        if not process.channel.poll():
            send(pairs, FRAMES, 3)
        assert process.hear() == 0
    assert packets_of(directory / "a.pcapng") == 3


def started(words: list[str], directory: Path, parent_fd: int | None = None) -> "subprocess.Popen[bytes]":
    """Start ours; its messages go to standard error, or to another descriptor."""
    passed = () if parent_fd is None else (parent_fd,)
    return subprocess.Popen([*OURS, *words], stderr=subprocess.PIPE, cwd=directory, pass_fds=passed)


def test_it_ends_when_its_parent_has_gone_though_nothing_comes(pairs: str, tmp_path: Path) -> None:
    del pairs
    with started(["-i", INTERFACES[0], "-w", "a.pcapng", "-q", "-Z", "none"], tmp_path) as process:
        assert process.stderr is not None
        assert process.stderr.read(1) == b"F"
        process.stderr.close()
        assert process.wait(20) == 0
    assert list(read(tmp_path / "a.pcapng")) == []


def test_later_versions_name_the_descriptor_for_messages(pairs: str, tmp_path: Path) -> None:
    ours, theirs = socket.socketpair()
    words = ["-i", INTERFACES[0], "--ifdescr", "the first", "-F", "pcapng", "-w", "a.pcapng", "-c", "3", "-Z"]
    with ours, theirs, started([*words, str(theirs.fileno())], tmp_path, theirs.fileno()) as process:
        theirs.close()
        first = ours.recv(4096)
        assert first[:1] == b"F"
        send(pairs, FRAMES, 3)
        rest = b"".join(iter(lambda: ours.recv(4096), b""))
        assert process.wait(20) == 0
        assert process.stderr is not None
        assert process.stderr.read() == b""
    assert said_of(first + rest).splitlines() == ["F a.pcapng", "P 3", "Drops(drops_total=0, interface='cmpa')"]
    assert b"the first" in (tmp_path / "a.pcapng").read_bytes()[:400]


def test_an_interface_that_goes_is_no_good_end(tmp_path: Path) -> None:
    with veth_pair("cmpgone", "cmpgonep"):
        with started(["-i", "cmpgone", "-w", "a.pcapng", "-Z", "none"], tmp_path) as process:
            assert process.stderr is not None
            first = process.stderr.read(1)
            subprocess.run(["ip", "link", "delete", "cmpgone"], check=True)
            said = said_of(first + process.stderr.read())
            assert process.wait(20) == 1
        subprocess.run(["ip", "link", "add", "cmpgone", "type", "veth", "peer", "name", "cmpgonep"], check=True)
    assert 'The network adapter "cmpgone" is no longer attached; the capture has stopped.' in said
    assert said.splitlines()[0] == "F a.pcapng"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE])
def test_what_ends_dumpcap_well_ends_it_well(pairs: str, tmp_path: Path, number: int) -> None:
    with started(["-i", INTERFACES[0], "-w", "a.pcapng", "-Z", "none"], tmp_path) as process:
        assert process.stderr is not None
        first = process.stderr.read(1)
        send(pairs, FRAMES, 12)
        wait_for_packets(tmp_path / "a.pcapng", 12)
        process.send_signal(number)
        said = said_of(first + process.stderr.read())
        assert process.wait(20) == 0
    assert said.splitlines() == ["F a.pcapng", "P 12", "Drops(drops_total=0, interface='cmpa')"]


def wait_for_packets(path: Path, count: int) -> None:
    eventually(lambda: path.exists() and len(list(read(path))) == count, "packets are in the file")


LISTS = (["-D"], ["-L", "-i", "cmpa"], ["-d", "-i", "cmpa", "-f", "tcp"], ["-h"], ["-v"], ["-S"])


@pytest.mark.parametrize("words", LISTS, ids=" ".join)
def test_a_list_that_cannot_be_written_ends_in_a_sentence(pairs: str, words: list[str]) -> None:
    del pairs
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run([*OURS, *words], stdout=full, stderr=subprocess.PIPE, timeout=30, check=False)
    assert (done.returncode, done.stderr.splitlines()[-1]) == (
        1,
        b"dumpcap: Standard output can't be written to: No space left on device",
    )


@pytest.mark.parametrize("words", LISTS, ids=" ".join)
def test_a_list_that_nobody_reads_ends_quietly(pairs: str, words: list[str]) -> None:
    del pairs
    read_fd, write_fd = os.pipe()
    os.close(read_fd)
    done = subprocess.run([*OURS, *words], stdout=write_fd, stderr=subprocess.PIPE, timeout=30, check=False)
    os.close(write_fd)
    assert (done.returncode, [each for each in done.stderr.splitlines() if b"Capturing" not in each]) == (0, [])


def test_statistics_end_with_the_daemon_and_with_ctrl_c(make_dir: MakeDir, monkeypatch: pytest.MonkeyPatch) -> None:
    with running_daemon(make_dir("counting")) as daemon:
        monkeypatch.setenv("CAPD_SOCKET", daemon.socket_path)
        for end in (lambda process: process.send_signal(signal.SIGINT), lambda _: daemon.terminate()):
            with subprocess.Popen([*OURS, "-S", "-M"], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
                assert process.stdout is not None
                assert process.stdout.readline().split(b"\t")[1:] != []
                end(process)
                _, errors = process.communicate(timeout=30)
            assert b"Traceback" not in errors
            assert process.returncode in (0, 1)
