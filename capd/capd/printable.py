"""What is printed where there is no log: lines and tracebacks, with others' text in them escaped."""

import sys
import threading
import traceback
from collections.abc import Iterator

from capd_protocol.text import escaped


def show(*lines: str, is_error: bool = False) -> None:
    """Print lines to standard output, or to standard error."""
    for line in lines:
        print(escaped(line), file=sys.stderr if is_error else sys.stdout, flush=is_error)


def traceback_of(error: BaseException) -> str:
    """Return an exception's traceback; the only line ends in it are its own, none is of what exceptions say."""
    return "\n".join(_lines(traceback.TracebackException.from_exception(error)))


def print_traceback(error: BaseException) -> None:
    """Print an exception's traceback to standard error."""
    show(*traceback_of(error).split("\n"), is_error=True)


def escape_uncaught() -> None:
    """From now on, have tracebacks of what nothing catches printed so, in threads too: in a process without a log."""
    sys.excepthook = lambda _kind, error, _where: print_traceback(error)
    threading.excepthook = lambda arguments: print_traceback(arguments.exc_value) if arguments.exc_value else None


def _lines(error: traceback.TracebackException) -> Iterator[str]:
    # As traceback.TracebackException.format writes it; that one puts what exceptions say there as it is.
    for earlier, remark in _chain(error):
        yield "Traceback (most recent call last):"
        for entry in earlier.stack.format():
            yield from map(escaped, entry.rstrip("\n").split("\n"))
        yield escaped("".join(earlier.format_exception_only()).rstrip("\n"))
        for number, inner in enumerate(earlier.exceptions or (), 1):
            yield f"  ---------------- {number} ----------------"
            yield from (f"  | {line}" for line in _lines(inner))
        if remark:
            yield from ("", remark, "")


def _chain(error: traceback.TracebackException) -> list[tuple[traceback.TracebackException, str]]:
    """Return what has led to an exception, the first cause first, and the line between it and the next one."""
    chain = [(error, "")]
    while True:
        if error.__cause__ is not None:
            error, remark = error.__cause__, "The above exception was the direct cause of the following exception:"
        elif error.__context__ is not None and not error.__suppress_context__:
            error = error.__context__
            remark = "During handling of the above exception, another exception occurred:"
        else:
            return chain[::-1]
        chain.append((error, remark))
