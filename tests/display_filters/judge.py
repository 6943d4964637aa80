"""What Wireshark says of display filters: sharkd, which answers in milliseconds, with the engine of ``tshark -Y``."""

import json
import os
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from capd_client import DisplayFilter, DisplayFilterError, read
from capd_protocol.batches.model import Batch
from capd_protocol.batches.progress import Progress
from tests.fields.judge import PREFERENCES

#: What a filter that is refused gives; its words are each side's own.
REFUSED = "refused"
#: Where it ends by a signal.
CRASHED = "crashed"
Answer = list[int] | str


class Sharkd:
    """Wireshark's engine, with a file; a context manager that ends it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._process = self._started()

    def _started(self) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            ["sharkd", "-"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "TZ": "UTC"},
            text=True,
            errors="replace",
        )
        for preference in PREFERENCES:
            name, _, value = preference.partition(":")
            _ask(process, "setconf", name=name, value=value)
        _ask(process, "load", file=str(self._path))
        return process

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()

    def numbers(self, text: str) -> Answer:
        """Return the numbers of the packets that pass a filter, or that it is refused."""
        try:
            if "error" in _ask(self._process, "check", filter=text):
                return REFUSED
            answer = _ask(self._process, "frames", filter=text)
        except EOFError:
            self._process.communicate()
            self._process = self._started()
            return CRASHED
        return [each["num"] for each in answer["result"]]


def _ask(process: "subprocess.Popen[str]", method: str, **arguments: str) -> dict[str, Any]:
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": arguments}) + "\n")
        process.stdin.flush()
    except BrokenPipeError:
        raise EOFError from None
    line = process.stdout.readline()
    if not line:
        raise EOFError
    answer: dict[str, Any] = json.loads(line)
    return answer


class Ours:
    """The same here."""

    def __init__(self, path: Path) -> None:
        with read(path) as reader:
            self._batches: list[Batch] = list(reader.batches())
            self._interfaces = reader.interfaces

    def numbers(self, text: str) -> Answer:
        """Return the numbers of the packets that pass a filter, or that it is refused."""
        try:
            display_filter = DisplayFilter(text)
        except DisplayFilterError:
            return REFUSED
        progress, found = Progress(), list[int]()
        for batch in self._batches:
            mask = display_filter.program.mask(batch, self._interfaces, progress)
            found += (np.flatnonzero(mask) + 1 + progress.packets).tolist()
            progress.note(batch)
        return found


def difference(text: str, theirs: Answer, ours: Answer) -> str:
    """Return what is not the same; empty: nothing."""
    if theirs == ours:
        return ""
    if isinstance(theirs, str) or isinstance(ours, str):
        counts = [each if isinstance(each, str) else f"{len(each)} packets" for each in (theirs, ours)]
        return f"{text!r}: there {counts[0]}, here {counts[1]}"
    only_there, only_here = sorted({*theirs} - {*ours}), sorted({*ours} - {*theirs})
    return f"{text!r}: only there {only_there[:5]} of {len(only_there)}, only here {only_here[:5]} of {len(only_here)}"
