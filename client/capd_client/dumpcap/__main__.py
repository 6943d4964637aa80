"""``capd-dumpcap``: does what dumpcap does, through capd's daemon."""

import contextlib
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from capd_client.completion import complete
from capd_client.dumpcap import capture, queries
from capd_client.dumpcap.command_line import (
    PROGRAM,
    Action,
    CommandLine,
    WrongUsage,
    completion_tree,
    parent_of,
    parse,
)
from capd_client.dumpcap.speech import Speech, ToParent, ToPeople
from capd_client.dumpcap.usage import USAGE, VERSION
from capd_client.errors import CaptureError

_EXIT_DONE, _EXIT_FAILED = 0, 1


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; return its exit status."""
    completed = complete(PROGRAM, completion_tree)
    if completed is not None:
        return completed
    words = list(sys.argv[1:] if argv is None else argv)
    parent_fd = parent_of(words)
    try:
        line = parse(words)
        if Action.HELP in line.actions:
            sys.stdout.write(f"{VERSION}\n{USAGE}")
            return _EXIT_DONE
        if Action.VERSION in line.actions:
            sys.stdout.write(f"{VERSION}\n")
            return _EXIT_DONE
        speech = _speech(parent_fd, line)
        _check_directory(line)
        return queries.run(line, speech) if line.actions else capture.run(line, speech)
    except WrongUsage as wrong:
        _speech(parent_fd if wrong.is_for_parents else None, CommandLine()).complaint(str(wrong))
        if wrong.shows_usage:
            sys.stderr.write(f"\n{USAGE}")
        return wrong.status
    except BrokenPipeError:
        # Nobody reads the list any more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return _EXIT_DONE
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        _speech(parent_fd, CommandLine()).complaint(f"Standard output can't be written to: {error.strerror}")
        return _EXIT_FAILED
    except CaptureError as error:  # of a list; a capture says its own
        _speech(parent_fd, CommandLine()).complaint(str(error))
        return _EXIT_FAILED
    except KeyboardInterrupt:
        return _EXIT_DONE


def _speech(parent_fd: int | None, line: CommandLine) -> Speech:
    if parent_fd is not None:
        return ToParent(parent_fd, quiet=line.quiet)
    return ToPeople(quiet=line.quiet, errors_only=line.errors_only)


def _check_directory(line: CommandLine) -> None:
    wanted = line.temporary_directory
    if wanted is None:
        return
    try:
        if not Path(wanted).is_dir():
            Path(wanted).stat()
            raise NotADirectoryError(20, os.strerror(20))
    except OSError as error:
        raise WrongUsage(f"Can't set temporary directory {wanted}: {error.strerror}") from error


def run() -> None:
    """Run the program, and end it."""
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    status = main()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # nobody reads it
            stream.flush()
    # A parent waits for this; and a signal that comes now must not leave a traceback among its messages.
    os._exit(status)


if __name__ == "__main__":
    run()
