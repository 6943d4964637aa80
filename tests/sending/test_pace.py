"""When frames go, which may, and what is said of it: values in, values out."""

import random

import numpy as np
import pytest

from capd.worker.sending.checks import Checks
from capd.worker.sending.pace import MAX_CATCH_UP_NS, Pace
from capd.worker.sending.tally import Tally
from capd_protocol.sending import Frames, Reason, Refusal, decode, encode_frames

NOW_NS = 10**15
SECOND_NS = 10**9
OWN = bytes.fromhex("020000000001")


def releases(pace: Pace, due_ns: list[int] | None, now_ns: int, count: int = 0) -> list[int]:
    due = None if due_ns is None else np.array(due_ns, np.int64)
    found = pace.releases(count or len(due_ns or ()), due, now_ns)
    assert found is not None
    return [int(each) for each in found]


def test_without_a_rate_each_goes_at_its_time_and_none_before_the_one_in_front() -> None:
    assert Pace(None).releases(3, None, NOW_NS) is None
    assert releases(Pace(None), [5, 3, 9], NOW_NS) == [5, 5, 9]


def test_a_rate_spaces_what_is_to_go_at_once() -> None:
    pace = Pace(1000)
    first = releases(pace, None, NOW_NS, 5)
    assert first == [NOW_NS + at * 10**6 for at in range(5)]
    # Those of the next batch are a gap behind these, however soon they come.
    assert releases(pace, None, NOW_NS + 1, 2) == [NOW_NS + 5 * 10**6, NOW_NS + 6 * 10**6]


def test_what_was_late_is_made_up_for_within_a_bound() -> None:
    pace = Pace(1000)
    releases(pace, None, NOW_NS, 1)
    later_ns = NOW_NS + 10 * SECOND_NS
    due = [NOW_NS + at for at in range(200)]
    found = releases(pace, due, later_ns)
    assert found[0] == later_ns - MAX_CATCH_UP_NS
    assert sum(each <= later_ns for each in found) == MAX_CATCH_UP_NS // 10**6 + 1


def test_no_errors_add_up() -> None:
    pace = Pace(3)
    now_ns = NOW_NS
    for batch in range(1000):
        found = releases(pace, None, now_ns, 3)
        assert abs(found[0] - (NOW_NS + batch * SECOND_NS)) <= 1000
        now_ns = found[-1]


def test_in_any_second_no_more_goes_than_the_rate_and_what_is_made_up_for() -> None:
    chance, pace, now_ns, went = random.Random(7), Pace(1000), NOW_NS, list[int]()
    for _ in range(200):
        count = chance.randrange(1, 60)
        due = [now_ns + chance.randrange(-(10**8), 10**8) for _ in range(count)] if chance.random() < 0.5 else None
        went += [max(each, now_ns) for each in releases(pace, due, now_ns, count)]
        now_ns = max(now_ns, went[-1]) + chance.choice((0, 0, 10**6, 10**8, SECOND_NS))
    assert went == sorted(went)
    for at, begin_ns in enumerate(went):
        within = sum(each < begin_ns + SECOND_NS for each in went[at:])
        assert within <= 1000 + 2 * MAX_CATCH_UP_NS // 10**6


# Checks ---------------------------------------------------------------------------------------------------------------


def checked(frames: list[bytes], sources: list[bytes] | None = None) -> tuple[list[bool], dict[Reason, list[bool]]]:
    batch = decode(encode_frames(frames))
    assert isinstance(batch, Frames)
    found = Checks(100, sources).check(batch)
    assert [(int(a), int(b)) for a, b in zip(found.starts, found.ends, strict=True)] == [
        (sum(map(len, frames[:at])), sum(map(len, frames[: at + 1]))) for at in range(len(frames))
    ]
    return found.allowed.tolist(), {reason: mask.tolist() for reason, mask in found.refused}


@pytest.mark.parametrize("tag", [b"\x81\x00", b"\x88\xa8"])
def test_a_tag_of_a_virtual_lan_comes_on_top(tag: bytes) -> None:
    plain, tagged = bytes(12) + b"\x08\x00", bytes(12) + tag
    frames = [each.ljust(size, b"x") for each in (plain, tagged) for size in (14, 100, 101, 104, 105)]
    assert checked(frames)[0] == [True, True, False, False, False, True, True, True, True, False]


@pytest.mark.parametrize("frames", [[], [b""], [b"x" * 13], [b"", b"x" * 14], [bytes(14), b""]])
def test_what_has_no_header_is_not_looked_into(frames: list[bytes]) -> None:
    allowed, refused = checked(frames, [bytes(6), b"x" * 6])
    assert allowed == [len(each) == 14 for each in frames]
    assert set(refused) <= {Reason.TOO_SHORT}


def test_each_source_address_is_looked_at_where_it_is() -> None:
    chance = random.Random(3)
    frames = []
    for _ in range(300):
        source = chance.choice((OWN, bytes.fromhex("020000000002"), bytes.fromhex("030000000001"), bytes(6)))
        frames.append((chance.randbytes(6) + source + chance.randbytes(2)).ljust(chance.randrange(14, 101), b"y"))
    allowed, refused = checked(frames, [OWN, bytes(6)])
    assert allowed == [each[6:12] in (OWN, bytes(6)) for each in frames]
    assert refused[Reason.FOREIGN_SOURCE] == [not each for each in allowed]
    assert all(checked(frames)[0])
    assert not any(checked(frames, [])[0])


# Reports --------------------------------------------------------------------------------------------------------------


def test_lateness_is_within_two_percent_and_the_most_exact() -> None:
    chance = random.Random(5)
    late = sorted(int(10 ** chance.uniform(0, 11)) for _ in range(10_001))
    tally = Tally()
    for at in range(0, len(late), 1000):
        tally.be_late(np.array(late[at : at + 1000], np.int64))
    found = tally.report(1, is_last=True).lateness
    assert found is not None
    assert late[5000] <= found.median_ns <= late[5000] * 1.02 + 1
    assert late[9900] <= found.p99_ns <= late[9900] * 1.02 + 1
    assert found.max_ns == late[-1]
    assert tally.report(2, is_last=True).lateness is None


def test_a_lateness_of_nothing_is_one_nanosecond() -> None:
    tally = Tally()
    tally.be_late(np.array([0, 0], np.int64))
    late = tally.report(1, is_last=True).lateness
    assert late is not None
    assert (late.median_ns, late.p99_ns, late.max_ns) == (1, 1, 1)


def test_places_are_counted_since_the_last_report() -> None:
    tally = Tally()
    for _ in range(2):
        tally.refuse(Reason.TOO_LONG, 2, 3)
        tally.refuse(Reason.TOO_SHORT, 1, 0)
        tally.see(10)
    tally.send(5, 300, 1, 9)
    report = tally.report(1, is_last=False)
    assert report.refusals == (
        Refusal(reason=Reason.TOO_SHORT, frames=2, first_index=0),
        Refusal(reason=Reason.TOO_LONG, frames=4, first_index=3),
    )
    assert (report.sent, report.sent_bytes, report.duration_ns) == (5, 300, 8)
    tally.refuse(Reason.FOREIGN_SOURCE, 1, 4)
    assert tally.report(2, is_last=True).refusals[-1].first_index == 24
    tally.refuse(Reason.TOO_LONG, 1, 4)
    assert tally.report(3, is_last=True).refusals == (Refusal(reason=Reason.TOO_LONG, frames=1, first_index=4),)
    assert (tally.sent_total, tally.refused_total) == (5, 8)
