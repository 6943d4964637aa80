"""What a ring deletes: the oldest complete file, when a limit demands it, and no more than that."""

from collections import deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capd.worker.output.retention import LOOK_BYTES, Limits, Usage, limits_of, reason_to_delete, room
from capd_protocol.messages import Conditions, DeletionReason

REPEATABLE = settings(derandomize=True, deadline=None, max_examples=300)
SECOND_NS = 10**9


def test_limits_are_those_of_the_ring_and_of_policy() -> None:
    ring = Conditions(files=3, total_kb=4, age_s=0.5, free_kb=6, filesize_kb=1)
    assert limits_of(ring, 7) == Limits(
        files=3, total_bytes=4_000, age_ns=SECOND_NS // 2, free_bytes=6_000, policy_bytes=7
    )
    assert limits_of(Conditions(packets=1, interval_s=5), None) == limits_of(None, None) == Limits()


USAGE = Usage(files=3, bytes=1_000, left_bytes=100, free_bytes=500)

# Limits, the oldest's age in seconds, bytes and files to come, and why the oldest must go.
REASONS = [
    (Limits(), 10**9, 10**15, 10**6, None),
    (Limits(files=3), 0, 10**15, 0, None),
    (Limits(files=3), 0, 0, 1, DeletionReason.FILES),
    (Limits(files=2), 0, 0, 0, DeletionReason.FILES),
    (Limits(total_bytes=1_500), 0, 500, 1, None),
    (Limits(total_bytes=1_500), 0, 501, 0, DeletionReason.TOTAL),
    (Limits(total_bytes=1_000), 0, 0, 0, None),
    (Limits(total_bytes=999), 0, 0, 0, DeletionReason.TOTAL),
    (Limits(policy_bytes=1_500), 0, 400, 0, None),
    (Limits(policy_bytes=1_500), 0, 401, 0, DeletionReason.POLICY),  # what others have left counts
    (Limits(total_bytes=1_500, policy_bytes=1_500), 0, 450, 0, DeletionReason.POLICY),
    (Limits(free_bytes=400), 0, 100, 0, None),
    (Limits(free_bytes=400), 0, 101, 0, DeletionReason.FREE_SPACE),
    (Limits(free_bytes=501), 0, 0, 0, DeletionReason.FREE_SPACE),  # others have taken it
    (Limits(age_ns=60 * SECOND_NS), 59, 0, 0, None),
    (Limits(age_ns=60 * SECOND_NS), 60, 0, 0, DeletionReason.AGE),
    (Limits(age_ns=60 * SECOND_NS), -5, 0, 0, None),  # the clock was set
    (Limits(age_ns=60 * SECOND_NS, files=3, total_bytes=1), 61, 9, 1, DeletionReason.AGE),
    # Without a complete file: what stands in the way. Age never does.
    (Limits(age_ns=0), None, 10, 1, None),
    (Limits(total_bytes=1_000), None, 1, 0, DeletionReason.TOTAL),
]


@pytest.mark.parametrize(("limits", "age_s", "more_bytes", "more_files", "reason"), REASONS)
def test_a_limit_that_would_be_passed_is_the_reason(
    limits: Limits, age_s: int | None, more_bytes: int, more_files: int, reason: DeletionReason | None
) -> None:
    age_ns = None if age_s is None else age_s * SECOND_NS
    found = reason_to_delete(USAGE, limits, oldest_age_ns=age_ns, more_bytes=more_bytes, more_files=more_files)
    assert found == reason


ROOMS = [
    (Limits(), None),
    (Limits(files=1, age_ns=1), None),
    (Limits(total_bytes=1_500), 500),
    (Limits(total_bytes=900), -100),
    (Limits(total_bytes=1_500, policy_bytes=1_200), 100),
    (Limits(free_bytes=400), 100),
]


@pytest.mark.parametrize(("limits", "expected"), ROOMS)
def test_room_is_what_the_nearest_limit_leaves(limits: Limits, expected: int | None) -> None:
    assert room(USAGE, limits) == expected


def test_a_disk_that_others_use_is_looked_at_again_soon() -> None:
    assert room(Usage(files=1, bytes=0, free_bytes=10**12), Limits(free_bytes=1)) == LOOK_BYTES


@REPEATABLE
@given(
    limits=st.builds(
        Limits,
        files=st.none() | st.integers(1, 6),
        total_bytes=st.none() | st.integers(1, 3_000),
        age_ns=st.none() | st.integers(1, 50),
        free_bytes=st.none() | st.integers(1, 5_000),
        policy_bytes=st.none() | st.integers(1, 3_000),
    ),
    left_bytes=st.integers(0, 500),
    packets=st.lists(st.tuples(st.integers(1, 400), st.booleans()), max_size=60),
)
def test_no_limit_is_ever_passed_and_nothing_goes_that_could_stay(
    limits: Limits, left_bytes: int, packets: list[tuple[int, bool]]
) -> None:
    disk_bytes = 6_000
    complete: deque[tuple[int, int]] = deque()  # bytes, when it ended
    open_bytes = 0

    def usage() -> Usage:
        used_bytes = sum(size for size, _ in complete) + open_bytes
        return Usage(len(complete) + 1, used_bytes, left_bytes, disk_bytes - left_bytes - used_bytes)

    def broken(now: Usage) -> list[bool]:
        return [
            limits.files is not None and now.files > limits.files,
            limits.total_bytes is not None and now.bytes > limits.total_bytes,
            limits.policy_bytes is not None and now.bytes + left_bytes > limits.policy_bytes,
            limits.free_bytes is not None and now.free_bytes is not None and now.free_bytes < limits.free_bytes,
        ]

    if any(broken(usage())):
        return  # it would never have begun
    for now_ns, (size_bytes, switches) in enumerate(packets):
        if switches:
            complete.append((open_bytes, now_ns))
            open_bytes = 0
        while True:
            age_ns = now_ns - complete[0][1] if complete else None
            # A switch has opened a file already, which has no byte yet.
            reason = reason_to_delete(usage(), limits, oldest_age_ns=age_ns, more_bytes=size_bytes)
            if reason is None or age_ns is None:
                break
            # One that stayed would be too old, or break a limit.
            if reason == DeletionReason.AGE:
                assert limits.age_ns is not None
                assert age_ns >= limits.age_ns
            else:
                open_bytes += size_bytes
                assert any(broken(usage()))
                open_bytes -= size_bytes
            complete.popleft()
        if reason is not None:
            open_bytes += size_bytes
            assert any(broken(usage()))  # so it ends
            return
        left = room(usage(), limits)
        assert left is None or left >= size_bytes
        open_bytes += size_bytes
        assert not any(broken(usage()))
        assert all(limits.age_ns is None or now_ns - ended_ns < limits.age_ns for _, ended_ns in complete)
