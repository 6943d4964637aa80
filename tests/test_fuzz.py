"""Inputs that are nearly right do no decoder any harm; for longer: ``python -m tests.support.fuzz``."""

import struct
from collections.abc import Callable

import pytest

from capd_protocol.errors import RemoteProtocolError
from tests.support import fuzz

#: Seconds of each, more or less.
EXECUTIONS = {"captures": 1500, "messages": 4000, "launch": 2000, "configuration": 1500, "index": 1000}


@pytest.mark.parametrize("name", fuzz.DECODERS)
def test_no_input_is_more_than_a_typed_error(name: str) -> None:
    executions, findings = fuzz.fuzz(name, 1, lambda done: done >= EXECUTIONS[name])
    assert executions == EXECUTIONS[name]
    assert findings == []


@pytest.mark.parametrize("name", [name for name in fuzz.DECODERS if name != "captures"])
def test_what_is_right_is_decoded(name: str) -> None:
    # Else every input would be refused at its beginning. Of captures there are expectations elsewhere.
    decoder = fuzz.DECODERS[name]
    for seed in decoder.seeds():
        decoder.run(seed)


@pytest.mark.parametrize(
    "take",
    [
        # More than what a test before it has left to be collected.
        lambda: bytearray(2 * fuzz.BOUND_BYTES),
        lambda: [bytes(1000 + number % 7) for number in range(fuzz.BOUND_BYTES // 100)],
    ],
    ids=["at once", "little by little"],
)
def test_a_decoder_that_takes_too_much_memory_is_found(
    monkeypatch: pytest.MonkeyPatch, take: Callable[[], object]
) -> None:
    monkeypatch.setitem(fuzz.DECODERS, "messages", fuzz.DECODERS["messages"]._replace(run=lambda _: take()))
    found = fuzz.fault_of("messages", b"")
    assert found is not None
    assert found.what.startswith("MemoryError")


def test_a_decoder_that_trips_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = fuzz.DECODERS["messages"]._replace(
        run=lambda data: struct.unpack("I", data), errors=(RemoteProtocolError,)
    )
    monkeypatch.setitem(fuzz.DECODERS, "messages", broken)
    _, findings = fuzz.fuzz("messages", 1, lambda done: done >= 3)
    assert [each.what.partition("(")[0] for each in findings] == ["error"]
