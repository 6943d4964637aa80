"""Sums for metrics: they add up, and never go down."""

import dataclasses

import pytest

from capd.captures.tally import Counts, Gauges, Tally, total_counts, total_gauges
from capd_protocol.messages import EndReason, FailureCode


@pytest.mark.parametrize(("kind", "total"), [(Counts, total_counts), (Gauges, total_gauges)])
def test_every_field_is_added_up(kind: type, total: object) -> None:
    fields = len(dataclasses.fields(kind))
    assert callable(total)
    assert total(()) == kind()
    assert total([kind(*range(fields)), kind(*range(100, 100 + fields))]) == kind(*range(100, 100 + 2 * fields, 2))


def test_what_has_ended_is_kept_for_each_name() -> None:
    tally = Tally()
    tally.add_ended("dns", Counts(attempts=1, written_packets=5), EndReason.STOPPED)
    tally.add_ended("dns", Counts(attempts=1, written_packets=7), EndReason.FAILED)
    tally.add_ended("", Counts(attempts=1, written_packets=1), EndReason.FAILED)
    assert tally.ended == {
        "dns": Counts(attempts=2, written_packets=12),
        "": Counts(attempts=1, written_packets=1),
    }
    assert tally.ends == {("dns", "stopped"): 1, ("dns", "failed"): 1, ("", "failed"): 1}


def test_refusals_are_counted_by_code() -> None:
    tally = Tally()
    for code in (FailureCode.INVALID, FailureCode.DISK, FailureCode.INVALID):
        tally.add_refused(code)
    assert tally.refused == {"invalid": 2, "disk": 1}
