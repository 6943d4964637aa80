"""What a capture watches beside its packets: signals, whether Wireshark still reads, and Wireshark's toolbar."""

import contextlib
import os
import select
import signal
import time
from collections.abc import Callable, Generator, Iterator

from capd_client.errors import DestinationError
from capd_client.extcap.controls import Command, Control, ControlDecoder, ControlMessage
from capd_protocol.text import counted, escaped, quoted

#: How long Wireshark may take to read what it has asked for. Chosen: many times what a busy machine needs; one that has
#: been killed meanwhile never will.
_OPEN_S = 30.0
#: Between two looks of a person at a number. Chosen: it can be read.
_SHOWN_EACH_S = 0.5
_READ_BYTES = 65_536


class Told(BaseException):
    """A signal has come while there was nothing yet that could be ended."""


class Signals:
    """What ends a capture: SIGTERM, which Wireshark sends, Ctrl-C, and SIGHUP. The second one does so at once."""

    def __init__(self) -> None:
        self.is_told = False
        self._is_interrupting = False
        self.descriptor, self._wake_fd = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._take)

    def _take(self, _number: int, _frame: object) -> None:
        if self.is_told:
            os._exit(0)
        self.is_told = True
        self.wake()
        if self._is_interrupting:
            raise Told

    def wake(self) -> None:
        """Have whoever polls the descriptor look; any thread may."""
        with contextlib.suppress(BlockingIOError):  # it is awake
            os.write(self._wake_fd, b"!")

    def calm(self) -> None:
        """Have the descriptor be quiet until the next time."""
        with contextlib.suppress(BlockingIOError):
            while os.read(self.descriptor, _READ_BYTES):
                pass

    @contextlib.contextmanager
    def interrupting(self) -> Generator[None, None, None]:
        """Have a signal end what waits in the block.

        Raises:
            Told: one has come.
        """
        self._is_interrupting = True
        try:
            if self.is_told:
                raise Told
            yield
        finally:
            self._is_interrupting = False


def open_fifo(path: str) -> int:
    """Return a descriptor of Wireshark's FIFO, as soon as it is read.

    Raises:
        DestinationError: it is not, or cannot be written to.
    """

    def give_up(_number: int, _frame: object) -> None:
        raise TimeoutError(f"nobody reads within {_OPEN_S:g} s")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, _OPEN_S)
    try:
        return os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    except OSError as error:
        raise DestinationError(f"{quoted(path)} cannot be written to: {error.strerror or error}") from error
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def is_read(fifo: int) -> bool:
    """Whether a FIFO still has its reader."""
    poll = select.poll()
    poll.register(fifo, 0)
    return not poll.poll(0)


class Toolbar:
    """Wireshark's toolbar: buttons that are pressed, and what is shown there. Without one, nothing happens."""

    def __init__(self, control_in: str | None, control_out: str | None) -> None:
        """Open the FIFOs that Wireshark has made, if it has. Neither is waited for: it opens them in its own time.

        Args:
            control_in: where messages come from.
            control_out: where messages go.

        Raises:
            DestinationError: one cannot be opened.
        """
        self._decoder = ControlDecoder()
        self._shown: tuple[str, float] = ("", 0.0)
        try:
            self.descriptor = os.open(control_in, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC) if control_in else None
            # For both, since that needs no reader yet.
            self._out = os.open(control_out, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC) if control_out else None
        except OSError as error:
            raise DestinationError(f"Wireshark's toolbar cannot be reached: {error.strerror}") from error

    def allow(self, *controls: Control) -> None:
        """Have only these be pressed."""
        for each in (Control.SNAPSHOT, Control.ROTATE):
            self._send(each, Command.ENABLE if each in controls else Command.DISABLE)

    def pressed(self) -> Iterator[int]:
        """Give the buttons that were pressed, by their numbers."""
        if self.descriptor is None:
            return
        with contextlib.suppress(BlockingIOError):
            while data := os.read(self.descriptor, _READ_BYTES):
                for message in self._decoder.feed(data):
                    if message.command == Command.SET:
                        yield message.control

    def show_counts(self, packets: int, drops: int, *, is_last: bool = False) -> float | None:
        """Show how many were lost, of how many; not too often, but for the last time.

        Return in how many seconds it can be shown, where that is too early; None: it is.
        """
        text, before_s = self._shown
        shown = f"{drops:,} of {counted(packets + drops, 'packet')}"
        if self._out is None or shown == text:
            return None
        now_s = time.monotonic()
        early_s = before_s + _SHOWN_EACH_S - now_s
        if early_s > 0 and not is_last:
            return early_s
        self._shown = shown, now_s
        self._send(Control.DROPPED, Command.SET, shown)
        return None

    def tell(self, text: str) -> None:
        """Show a sentence in the status bar."""
        self._send(Control.DROPPED, Command.STATUS_BAR, text)

    def warn(self, text: str) -> None:
        """Show a sentence that is to be noticed."""
        self._send(Control.DROPPED, Command.WARNING, text)

    def _send(self, control: Control, command: Command, text: str = "") -> None:
        if self._out is not None:
            with contextlib.suppress(BlockingIOError):  # Wireshark does not look: what was shown is old by then
                os.write(self._out, ControlMessage(control, command, escaped(text)).encode())


class Watch:
    """Waits until something has happened: on descriptors, by a signal, or that nobody reads any more."""

    def __init__(self, signals: Signals, fifo: int, toolbar: Toolbar, press: Callable[[int], None]) -> None:
        """Watch.

        Args:
            signals: what ends the capture.
            fifo: where packets go.
            toolbar: whose buttons are looked at.
            press: takes the number of one that is pressed.
        """
        self._signals, self._fifo, self._toolbar, self._press = signals, fifo, toolbar, press
        self._poll = select.poll()
        self._poll.register(fifo, 0)
        self._poll.register(signals.descriptor, select.POLLIN)
        if toolbar.descriptor is not None:
            self._poll.register(toolbar.descriptor, select.POLLIN)
        #: Nobody reads the packets any more.
        self.is_left = False

    def add(self, descriptor: int) -> None:
        """Watch another one for what comes there."""
        self._poll.register(descriptor, select.POLLIN)

    def leave(self, descriptor: int) -> None:
        """Watch it no more."""
        self._poll.unregister(descriptor)

    @property
    def is_over(self) -> bool:
        """Whether the capture is to end."""
        return self.is_left or self._signals.is_told

    def wait(self, *timeouts_s: float | None) -> None:
        """Return when something has happened, or at the first of some times; buttons have had their effect by then."""
        soonest_s = min((each for each in timeouts_s if each is not None), default=None)
        events = dict(self._poll.poll(None if soonest_s is None else max(0.0, soonest_s) * 1000))
        if self._fifo in events:
            self.is_left = True
            self._poll.unregister(self._fifo)
        if self._signals.descriptor in events:
            self._signals.calm()
        if (descriptor := self._toolbar.descriptor) is not None and descriptor in events:
            for control in self._toolbar.pressed():
                self._press(control)
            if events[descriptor] & (select.POLLHUP | select.POLLERR):  # it is closed, and stays so
                self._poll.unregister(descriptor)
