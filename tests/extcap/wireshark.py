"""What Wireshark does with an extcap program: it asks, makes FIFOs, reads packets, presses buttons, and stops it."""

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path

from capd_client import read
from capd_client.extcap.controls import ControlDecoder, ControlMessage
from capd_client.reading.model import Packet

PROGRAM = Path(sys.executable).with_name("capd-extcap")
PATIENCE_S = 20.0
#: How soon what is stopped has to be over. Chosen: nobody takes it for waiting; on a busy machine.
AT_ONCE_S = 2.0


def environment_of(socket_path: str | None, home: Path | None = None, **others: str) -> dict[str, str]:
    """Return the environment of a program that finds a daemon there."""
    without = {name: value for name, value in os.environ.items() if name != "XDG_CONFIG_HOME"}
    where = {"CAPD_SOCKET": socket_path or "/nowhere/capd.sock"}
    return {**without, **where, **({"HOME": str(home)} if home else {}), **others}


def asked(environment: Mapping[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    """Run the program to its end."""
    command = [str(PROGRAM), *words]
    return subprocess.run(
        command,
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
        stdin=subprocess.DEVNULL,
    )


class Running:
    """A program that captures."""

    def __init__(
        self, directory: Path, environment: Mapping[str, str], words: Sequence[str], *, has_toolbar: bool = False
    ) -> None:
        number = time.monotonic_ns()
        self._fifo, self._in, self._out = (directory / f"{name}{number}" for name in ("fifo", "in", "out"))
        os.mkfifo(self._fifo)
        controls: list[str] = []
        self._in_fd = self._out_fd = -1
        if has_toolbar:
            for path in (self._in, self._out):
                os.mkfifo(path)
            controls = ["--extcap-control-in", str(self._in), "--extcap-control-out", str(self._out)]
            self._in_fd, self._out_fd = (os.open(path, os.O_RDWR | os.O_NONBLOCK) for path in (self._in, self._out))
        command = [str(PROGRAM), "--capture", "--fifo", str(self._fifo), *controls, *words]
        self.process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL)
        self._packets_fd = os.open(self._fifo, os.O_RDONLY)
        self.data = bytearray()
        self._decoder = ControlDecoder()
        self.messages: list[ControlMessage] = []

    def read(self, is_enough: int = 1) -> bytearray:
        """Read packets, until there are so many bytes."""
        deadline_s = time.monotonic() + PATIENCE_S
        while len(self.data) < is_enough:
            assert time.monotonic() < deadline_s, f"{len(self.data)} bytes have come"
            if select.select([self._packets_fd], [], [], 0.1)[0]:
                more = os.read(self._packets_fd, 1 << 20)
                assert more, f"the end has come: {self.process.communicate()[1]!r}"
                self.data += more
        return self.data

    def packets(self, directory: Path) -> list[Packet]:
        """Return the packets that have come, in what is complete."""
        path = directory / "so-far.pcapng"
        path.write_bytes(self.data)
        return list(read(path))

    def wait_for_packets(self, directory: Path, count: int) -> list[Packet]:
        """Read until so many packets have come."""
        while True:
            with contextlib.suppress(Exception):  # it is cut within a block, yet
                found = self.packets(directory)
                if len(found) >= count:
                    return found
            self.read(len(self.data) + 1)

    def press(self, data: bytes) -> None:
        """Have a message come from the toolbar."""
        os.write(self._in_fd, data)

    def wait_for_message(self, control: int, command: int, text: str = "") -> ControlMessage:
        """Wait for a message to the toolbar that has this text in it."""
        deadline_s = time.monotonic() + PATIENCE_S
        while True:
            for each in self.messages:
                if (each.control, each.command) == (control, command) and text in each.text:
                    return each
            assert time.monotonic() < deadline_s, self.messages
            if select.select([self._out_fd], [], [], 0.1)[0]:
                self.messages += self._decoder.feed(os.read(self._out_fd, 1 << 16))

    def leave(self) -> None:
        """Read no more."""
        os.close(self._packets_fd)
        self._packets_fd = -1

    def end(self, number: signal.Signals | None = None) -> tuple[int, str, float]:
        """Have it end; return its status, what it has said, and how long that took."""
        began_s = time.monotonic()
        if number is not None:
            self.process.send_signal(number)
        while self._packets_fd >= 0 and (more := os.read(self._packets_fd, 1 << 20)):
            self.data += more
        _, said = self.process.communicate(timeout=PATIENCE_S)
        return self.process.returncode, said.decode(), time.monotonic() - began_s

    def close(self) -> None:
        """Leave nothing."""
        self.process.kill()
        self.process.wait()
        assert self.process.stderr is not None
        self.process.stderr.close()
        for each in (self._packets_fd, self._in_fd, self._out_fd):
            if each >= 0:
                os.close(each)


@contextlib.contextmanager
def capturing(
    directory: Path, environment: Mapping[str, str], *words: str, has_toolbar: bool = False
) -> Generator[Running, None, None]:
    """Have the program capture while the block lasts."""
    running = Running(directory, environment, words, has_toolbar=has_toolbar)
    try:
        yield running
    finally:
        running.close()
