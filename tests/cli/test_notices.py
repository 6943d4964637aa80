"""What is said of a capture beside its events."""

import json
from typing import Any

import pytest

from capd_client.cli.notices import Notice, Notices, fifo_notice, missed, reader_notice
from capd_client.output.readers import ReaderChange, ReaderEvent

NAME = "192.0.2.1 port 5"
KNOWN = {"reader_id": 3, "reader": NAME}
LOST = {**KNOWN, "missed_packets": 1200}


@pytest.mark.parametrize(
    ("change", "text", "notice"),
    [
        (ReaderChange.CAME, "", Notice("reader_came", f"{NAME} reads", KNOWN)),
        (
            ReaderChange.REFUSED,
            "32 read already",
            Notice("reader_refused", f"{NAME} is refused: 32 read already", {**KNOWN, "text": "32 read already"}),
        ),
        (
            ReaderChange.LEFT,
            "",
            Notice(
                "reader_left",
                f"{NAME} has left: 1,200 packets not written, it was slow",
                {**LOST, "reason": "left", "text": None},
            ),
        ),
        (
            ReaderChange.STUCK,
            "",
            Notice(
                "reader_left",
                f"{NAME} took nothing any more, and is left: 1,200 packets not written",
                {**LOST, "reason": "stuck", "text": None},
            ),
        ),
        (
            ReaderChange.FAILED,
            "it is damaged",
            Notice("reader_left", f"{NAME}: it is damaged", {**LOST, "reason": "failed", "text": "it is damaged"}),
        ),
    ],
)
def test_readers_are_told_of_in_words_and_as_fields(change: ReaderChange, text: str, notice: Notice) -> None:
    assert reader_notice(ReaderEvent(3, NAME, change, 1200, text)) == notice


def test_of_a_fifo_is_said_in_words_only_that_its_reader_has_left() -> None:
    for change in ReaderChange:
        notice = fifo_notice(ReaderEvent(1, "The reader", change, 2), "fifo")
        assert notice.fields["reader"] == "fifo"
        left = "The reader has left: 2 packets not written, it was slow; the next one is waited for."
        assert notice.text == (left if change is ReaderChange.LEFT else "")


class _Sink:
    missed_because = "shown: they came too fast"

    def __init__(self, missed_packets: int) -> None:
        self.missed_packets = missed_packets


def test_what_is_missed_is_said_once_and_nothing_of_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    printed: list[dict[str, Any]] = []
    as_json, in_words = Notices(lambda fields, flush: printed.append(dict(fields))), Notices(None)
    for packets in (0, 1000):
        for notice in missed(_Sink(packets)):
            for each in (as_json, in_words):
                each.put(notice)
    for each in (as_json, in_words):
        each.say_rest()
        each.say_rest()
    assert json.dumps(printed) == json.dumps(
        [{"event": "missed", "packets": 1000, "text": "not shown: they came too fast"}]
    )
    assert capfd.readouterr().err == "1,000 packets not shown: they came too fast\n"
