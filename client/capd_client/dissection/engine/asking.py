"""Questions to Wireshark's programs that have one answer."""

import select
import time
from collections.abc import Sequence
from typing import Final

from capd_client.dissection.engine.ended import Ended
from capd_client.dissection.engine.process import Engine
from capd_client.dissection.engine.programs import Program
from capd_client.errors import EngineFailed
from capd_protocol.text import escaped

#: How long an answer may take. Chosen: a report takes a second, on a busy machine some.
_ANSWER_S: Final = 60.0
#: More is no report. Of Wireshark 4.0 the longest has 90 MB.
_MOST_BYTES: Final = 512 * 1024 * 1024
_SHOWN: Final = 300


def report(program: Program, name: str) -> bytes:
    """Return what ``tshark -G`` reports.

    Raises:
        EngineFailed: it does not, or not in time.
        ResourceError: there is no room for it.
    """
    return answer(program, ["-G", name], f"no report of {name}")


def answer(program: Program, words: Sequence[str | bytes], failing: str, *, given: bytes = b"") -> bytes:
    """Return all that a program writes.

    Args:
        program: which one.
        words: behind its name.
        failing: what it gives where it fails.
        given: its standard input, which a pipe has room for.

    Raises:
        EngineFailed: it fails, writes nothing, or does not end in time.
        ResourceError: there is no room for it.
    """
    engine = Engine(program, words)
    try:
        engine.offer(given)
        engine.end_input()
        data, ended = _all_of(engine, program)
    finally:
        engine.close()
    if ended.status or not data:
        shown = escaped(" ".join(ended.words.split()))[:_SHOWN]
        raise EngineFailed(f"{program.name} gives {failing}: status {ended.status}: {shown}", ended.status)
    return data


def _all_of(engine: Engine, program: Program) -> tuple[bytes, Ended]:
    deadline_s = time.monotonic() + _ANSWER_S
    parts: list[bytes] = []
    size_bytes = 0
    waiting = select.poll()
    waiting.register(engine.fileno(), select.POLLIN)
    while engine.ended is None:
        part = engine.step()
        parts.append(part)
        size_bytes += len(part)
        left_s = deadline_s - time.monotonic()
        if left_s <= 0 or size_bytes > _MOST_BYTES:
            raise EngineFailed(f"{program.name} gives no answer within {_ANSWER_S:g} s", None)
        if not part and engine.ended is None:
            waiting.poll(left_s * 1000)
    return b"".join(parts), engine.ended
