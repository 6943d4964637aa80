"""Who asked for what, whether it was granted, under which rule, and how it ended: a line for each, with fields.

As a service the lines go to the journal with their fields (``journalctl CAPD_VERDICT=refused``), by its native
protocol, https://systemd.io/JOURNAL_NATIVE_PROTOCOL/; else to the daemon's log.
"""

import json
import logging
import os
import socket
import syslog
from pathlib import Path

from capd.peer import Peer
from capd_protocol.messages import Failure, Request, StartCapture

_log = logging.getLogger(__name__)

_JOURNAL = Path("/run/systemd/journal/socket")
#: As for captures.
_CALLED = {"interface": "interfaces"}
#: Of texts that a client wrote. Chosen: a line that can be read.
_MAX_CHARACTERS = 1000


class Audit:
    """Writes the lines."""

    def __init__(self) -> None:
        """Find out where they go."""
        # Set by systemd where the standard error of a service is the journal's.
        self._journal: socket.socket | None = None
        if "JOURNAL_STREAM" in os.environ and _JOURNAL.exists():
            self._journal = socket.socket(
                socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
            )

    def granted(self, peer: Peer, request: Request, **details: object) -> None:
        """Note a request that is carried out."""
        self._note(syslog.LOG_INFO, "granted", peer, request, details)

    def refused(self, peer: Peer, request: Request, failure: Failure) -> None:
        """Note a request that is not; the failure names the rules that came near."""
        self._note(syslog.LOG_NOTICE, "refused", peer, request, {"code": failure.code, "reason": failure.text})

    def ended(self, peer: Peer, request: Request, **details: object) -> None:
        """Note the end of what was granted; also of what could not be carried out after all."""
        self._note(syslog.LOG_INFO, "ended", peer, request, details)

    def _note(self, priority: int, verdict: str, peer: Peer, request: Request, details: dict[str, object]) -> None:
        what = str(type(request).__struct_config__.tag)
        told = {**_told_of(request), **details}
        shown = {name: _shown(value) for name, value in told.items() if value not in ("", None)}
        rest = "".join(f" {name}={value if value.isalnum() else json.dumps(value)}" for name, value in shown.items())
        message = f"{verdict}: user {peer.user_id} (process {peer.process_id}): {what}{rest}"
        if self._journal is None:
            _log.info("%s", message)
            return
        fields = {
            "MESSAGE": message,
            "PRIORITY": str(priority),
            "SYSLOG_IDENTIFIER": "capd",
            "CAPD_VERDICT": verdict,
            "CAPD_REQUEST": what,
            "CAPD_UID": str(peer.user_id),
            "CAPD_PID": str(peer.process_id),
            **{f"CAPD_{name.upper()}": value for name, value in shown.items()},
        }
        try:
            self._journal.sendto("".join(f"{key}={value}\n" for key, value in fields.items()).encode(), str(_JOURNAL))
        except OSError as error:
            _log.warning("%s (the journal does not take it: %s)", message, error.strerror)


def _told_of(request: Request) -> dict[str, object]:
    if not isinstance(request, StartCapture):
        fields = {_CALLED.get(name, name): getattr(request, name) for name in request.__struct_fields__}
        return {name: value for name, value in fields.items() if isinstance(value, str | int)}
    filters = dict.fromkeys(each.capture_filter for each in request.interfaces if each.capture_filter)
    return {
        "interfaces": ",".join(each.name for each in request.interfaces),
        "filter": "; ".join(filters),
        "file": request.destination.file_name,
    }


def _shown(value: object) -> str:
    """Show a value on one line, whatever a client wrote: it ends up in terminals."""
    text = str(value)[:_MAX_CHARACTERS]
    return text if text.isprintable() and text.isascii() else text.encode("unicode_escape").decode("ascii")
