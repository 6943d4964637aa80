"""``capctl`` called in the tests' own process: as typed, but for the quarter of a second that an interpreter takes.

What is about the process itself, its signals, descriptors, terminal or priority, is run as one.
"""

import contextlib
import io
import os
import signal
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from capd_client.cli import __main__ as capctl
from capd_client.cli.files import ring

#: What the command sets handlers of.
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)


@dataclass(frozen=True)
class Done:
    """What a command has done, by the names of ``subprocess.CompletedProcess``."""

    returncode: int
    stdout: str
    stderr: str


def called(*words: str | Path, cwd: Path | None = None, environment: Mapping[str, str] | None = None) -> Done:
    """Run a command to its end, without a terminal.

    Args:
        *words: what is typed behind ``capctl``.
        cwd: where.
        environment: variables that are set there, beside those that there are.
    """
    status, output, errors = called_for_bytes(*words, cwd=cwd, environment=environment)
    return Done(status, output.decode(), errors)


def called_for_bytes(
    *words: str | Path, cwd: Path | None = None, environment: Mapping[str, str] | None = None
) -> tuple[int, bytes, str]:
    """Do the same; return its exit status, its output, which may be packets, and its errors."""
    stdout, stderr = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2))
    with (
        contextlib.chdir(cwd or Path.cwd()),
        mock.patch.dict(os.environ, environment or {}),
        # The tests shall not have a lower priority for good.
        mock.patch.object(ring, "_step_back"),
        contextlib.redirect_stdout(stdout),
        contextlib.redirect_stderr(stderr),
        _kept_handlers(),
    ):
        try:
            status: object = capctl.main([str(word) for word in words])
        except SystemExit as exited:  # argparse's
            status = exited.code
    assert isinstance(status, int)
    return status, _written_to(stdout), _written_to(stderr).decode()


def _written_to(stream: io.TextIOWrapper) -> bytes:
    stream.flush()
    written = stream.buffer
    assert isinstance(written, io.BytesIO)
    return written.getvalue()


@contextlib.contextmanager
def _kept_handlers() -> Generator[None, None, None]:
    handlers = {number: signal.getsignal(number) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
