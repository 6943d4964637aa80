"""The daemon's log, on standard error: a line for each thing that happens, and no line of anybody else's making."""

import logging
import sys
import threading
from types import TracebackType

from capd.printable import traceback_of
from capd_protocol.text import escaped

_log = logging.getLogger(__name__)


class Formatter(logging.Formatter):
    """Escapes what is not printable: records have texts of clients, the network and files as they came."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  # logging's name
        """Return a record's line."""
        return escaped(super().formatMessage(record))

    def formatException(  # noqa: N802
        self,
        ei: tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None],
    ) -> str:
        """Return a traceback, on lines of its own."""
        return "" if ei[1] is None else traceback_of(ei[1])


def begin(level: int, prefix: str) -> None:
    """Have everything logged that is not below a level, and what nobody has caught.

    Args:
        level: as in ``logging``.
        prefix: stands before each record.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Formatter(f"{prefix}%(message)s"))
    logging.basicConfig(level=level, handlers=[handler])
    logging.captureWarnings(capture=True)
    sys.excepthook = _log_uncaught
    threading.excepthook = _log_uncaught_in_thread
    sys.unraisablehook = _log_unraisable


def _log_uncaught(kind: type[BaseException], error: BaseException, where: TracebackType | None) -> None:
    _log.critical("an error that nothing has caught ends the daemon", exc_info=(kind, error, where))


def _log_uncaught_in_thread(arguments: threading.ExceptHookArgs) -> None:
    _log.error("an error that nothing has caught ends a thread", exc_info=arguments.exc_value)


def _log_unraisable(unraisable: "sys.UnraisableHookArgs") -> None:
    _log.error("an error that could be raised to no caller (%s)", unraisable.err_msg, exc_info=unraisable.exc_value)
