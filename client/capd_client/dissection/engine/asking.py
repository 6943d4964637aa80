"""Questions to Wireshark's programs that have one answer."""

import select
import time
from typing import Final

from capd_client.dissection.engine.process import Engine
from capd_client.dissection.engine.programs import Program
from capd_client.errors import EngineFailed
from capd_protocol.text import escaped

#: How long a report may take. Chosen: it takes a second, on a busy machine some.
_REPORT_S: Final = 60.0
#: More is no report. Of Wireshark 4.0 the longest has 90 MB.
_MOST_BYTES: Final = 512 * 1024 * 1024
_SHOWN: Final = 300


def report(program: Program, name: str, *, timeout_s: float = _REPORT_S) -> bytes:
    """Return what ``tshark -G`` reports.

    Raises:
        EngineFailed: it does not, or not in time.
        ResourceError: there is no room for it.
    """
    engine = Engine(program, ["-G", name])
    deadline_s = time.monotonic() + timeout_s
    parts: list[bytes] = []
    size_bytes = 0
    waiting = select.poll()
    waiting.register(engine.fileno(), select.POLLIN)
    try:
        while engine.ended is None:
            part = engine.step()
            parts.append(part)
            size_bytes += len(part)
            left_s = deadline_s - time.monotonic()
            if left_s <= 0 or size_bytes > _MOST_BYTES:
                raise EngineFailed(f"{program.name} gives no report within {timeout_s:g} s", None)
            if not part and engine.ended is None:
                waiting.poll(left_s * 1000)
        status, words = engine.ended
        if status or not size_bytes:
            shown = escaped(" ".join(words.split()))[:_SHOWN]
            raise EngineFailed(f"{program.name} gives no report: it has ended with status {status}: {shown}", status)
    finally:
        engine.close()
    return b"".join(parts)
