"""Capture files in formats that Wireshark knows: its ``editcap`` converts them as a child, and is read like a pipe."""

import os
import shutil
import subprocess

from capd_client.reading.files.buffered import Buffered
from capd_client.reading.files.incoming import Received, Unreadable
from capd_protocol.batches.record_offsets import U8
from capd_protocol.text import escaped

#: What converts, and the packages that have it.
EDITCAP = "editcap"
_PACKAGES = "wireshark-common on Debian, wireshark-cli on Fedora"
#: How long it may take to end when its output has. Chosen: it has nothing more to do.
_END_S = 5.0
#: Of what it says, so much is shown.
_MOST_WORDS_BYTES = 300
#: Whom it runs as where we are root: its parsers have met many a file that was made for them.
_NOBODY = 65534


class Converted:
    """What ``editcap`` makes of a file: pcapng."""

    def __init__(self, descriptor: int) -> None:
        """Read an open descriptor, which stays its owner's. Nothing is started before something is received."""
        self._source_fd = descriptor
        self._process: subprocess.Popen[bytes] | None = None
        self._said_fd = self._output_fd = -1
        self._received_bytes = 0

    def receive(self, room: U8) -> int:
        """Wait for some bytes."""
        try:
            if self._process is None:
                self._process = self._started()
            came_bytes = Received(self._output_fd).receive(room)
            self._received_bytes += came_bytes
            if not came_bytes:
                self._check(self._process)
        except Unreadable:
            self.close()
            raise
        return came_bytes

    def rest_bytes(self) -> int:
        """Return 0: what will come is not known."""
        return 0

    def _started(self) -> "subprocess.Popen[bytes]":
        program = shutil.which(EDITCAP)
        if program is None:
            text = f"neither pcapng nor pcap: other formats are read by Wireshark's {EDITCAP}, which is not there"
            raise Unreadable(f"{text} ({_PACKAGES})")
        # From its beginning, wherever the descriptor that was given stands.
        again = os.open(f"/proc/self/fd/{self._source_fd}", os.O_RDONLY | os.O_CLOEXEC)
        self._said_fd = os.memfd_create("editcap", os.MFD_CLOEXEC)
        self._output_fd, output = os.pipe()
        somebody = _NOBODY if os.geteuid() == 0 else None
        try:
            return subprocess.Popen(
                [program, "-F", "pcapng", "-", "-"],
                stdin=again,
                stdout=output,
                stderr=self._said_fd,
                user=somebody,
                group=somebody,
                extra_groups=None if somebody is None else [],
                # A Ctrl-C at our terminal is ours to handle.
                start_new_session=True,
            )
        except OSError as error:
            raise Unreadable(f"neither pcapng nor pcap, and {EDITCAP} cannot be started: {error.strerror}") from error
        finally:
            os.close(again)
            os.close(output)

    def _check(self, process: "subprocess.Popen[bytes]") -> None:
        try:
            status = process.wait(_END_S)
        except subprocess.TimeoutExpired:
            raise Unreadable(f"{EDITCAP} does not end") from None
        if not status:
            return
        said = os.pread(self._said_fd, _MOST_WORDS_BYTES, 0).decode("utf-8", "replace").strip()
        words = escaped(" ".join(said.removeprefix(f"{EDITCAP}: ").split()))
        begin = "the rest cannot be read" if self._received_bytes else "neither pcapng nor pcap"
        raise Unreadable(f"{begin}; Wireshark's {EDITCAP} says: {words}")

    def close(self) -> None:
        """End the program."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        for descriptor in (self._said_fd, self._output_fd):
            if descriptor >= 0:
                os.close(descriptor)
        self._said_fd = self._output_fd = -1


class Foreign(Buffered):
    """A file of a format that only ``editcap`` knows, or that is no capture file at all."""

    #: It is converted once.
    can_grow = False

    def __init__(self, descriptor: int, name: str) -> None:
        """Take over an open descriptor of a regular file."""
        self._converted = Converted(descriptor)
        super().__init__(descriptor, name, self._converted)

    @property
    def file_type(self) -> str | None:
        """None: what it is converted into is no matter of the file."""
        return None

    def stored_read_bytes(self) -> int | None:
        """Return None: what of it was converted is not known."""
        return None

    def close(self) -> None:
        """Close it, and end the program; what was given stays valid."""
        super().close()
        self._converted.close()
