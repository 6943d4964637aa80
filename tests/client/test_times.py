"""Times as people write them."""

from datetime import UTC, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capd_client import InvalidArgument
from capd_client.ring.times import parse_time

ZURICH = ZoneInfo("Europe/Zurich")
#: In Zurich it is an hour later, and another day.
NOW = datetime(2026, 1, 31, 23, 30, 10, tzinfo=UTC)
NOW_NS = int(NOW.timestamp()) * 10**9 + 5


def ns(*parts: int, fraction_ns: int = 0) -> int:
    return int(datetime(*parts, tzinfo=UTC).timestamp()) * 10**9 + fraction_ns  # type: ignore[misc,arg-type]


TIMES = [
    ("now", NOW_NS),
    (" NOW ", NOW_NS),
    ("2026-01-31T12:00:00Z", ns(2026, 1, 31, 12)),
    ("2026-01-31 12:00:00z", ns(2026, 1, 31, 12)),
    ("2026-01-31T12:00:00.123456789Z", ns(2026, 1, 31, 12, fraction_ns=123_456_789)),
    ("2026-01-31T12:00:00,5Z", ns(2026, 1, 31, 12, fraction_ns=500_000_000)),
    ("2026-01-31T12:00:00.1234567899Z", ns(2026, 1, 31, 12, fraction_ns=123_456_789)),
    ("2026-01-31T12:00:00+01:00", ns(2026, 1, 31, 11)),
    ("2026-01-31T12:00-0530", ns(2026, 1, 31, 17, 30)),
    ("2026-01-31T12:00:00", ns(2026, 1, 31, 11)),  # local time
    ("2026-07-31T12:00:00", ns(2026, 7, 31, 10)),  # which is another one in summer
    ("2026-01-31 12:00", ns(2026, 1, 31, 11)),
    ("2026-01-31", ns(2026, 1, 30, 23)),
    ("12:00", ns(2026, 2, 1, 11)),  # it is the first of February there
    ("00:00:30.25", ns(2026, 1, 31, 23, 0, 30, fraction_ns=250_000_000)),
    ("12:00Z", ns(2026, 1, 31, 12)),
    ("-10m", NOW_NS - 600 * 10**9),
    ("-1h30m", NOW_NS - 5400 * 10**9),
    ("-2d", NOW_NS - 2 * 86_400 * 10**9),
    ("-1d2h3m4s", NOW_NS - (86_400 + 2 * 3600 + 3 * 60 + 4) * 10**9),
    ("-0.5s", NOW_NS - 500_000_000),
    ("-90s", NOW_NS - 90 * 10**9),
    ("1769857200", ns(2026, 1, 31, 11)),
    ("1769857200.25", ns(2026, 1, 31, 11, fraction_ns=250_000_000)),
    ("1769857200.000000001", ns(2026, 1, 31, 11, fraction_ns=1)),
    ("-86400.5", -86_400_500_000_000),
    ("1969-12-31T23:59:59.5Z", -500_000_000),
]


@pytest.mark.parametrize(("text", "expected"), TIMES)
def test_a_time_is_what_a_person_means(text: str, expected: int) -> None:
    assert parse_time(text, NOW_NS, ZURICH) == expected


def test_the_systems_own_zone_is_local(monkeypatch: pytest.MonkeyPatch) -> None:
    local = datetime(2026, 7, 31, 12).astimezone()
    assert parse_time("2026-07-31T12:00", NOW_NS) == int(local.timestamp()) * 10**9


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "-", "-m", "10m", "-10", "--10m", "-1m1h", "-10x", "tomorrow", "2026", "12", "12:0", "25:00"),
        *("12:60", "2026-02-30", "2026-02-30T12:00", "0000-01-01", "2026-01-31T", "2026-01-31T12", "2026-01-31Z"),
        *(
            "12:00+99:00",
            "1769857200s",
            "1e9",
            "nan",
            "9" * 30,
            "2026-01-31T12:00 UTC",
            "\u0661\u0662:\u0660\u0660",
            "12:00\n13:00",
        ),
    ],
)
def test_what_is_no_time_is_refused_with_what_is_possible(text: str) -> None:
    with pytest.raises(InvalidArgument, match="is no time"):
        parse_time(text, NOW_NS, ZURICH)


@settings(derandomize=True, deadline=None, max_examples=300)
@given(
    since_1970_s=st.integers(-(2**31), 2**33),
    offset_min=st.integers(-14 * 60, 14 * 60),
    digits=st.integers(0, 9),
)
def test_what_isoformat_writes_is_read(since_1970_s: int, offset_min: int, digits: int) -> None:
    zone = timezone(timedelta(minutes=offset_min))
    zoned = (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=since_1970_s)).astimezone(zone)
    expected = since_1970_s * 10**9
    assert parse_time(zoned.isoformat(), NOW_NS) == expected
    fraction = "123456789"[:digits]
    text = zoned.isoformat().replace(f"{zoned:%H:%M:%S}", f"{zoned:%H:%M:%S}.{fraction}0")
    assert parse_time(text, NOW_NS) == expected + int(fraction.ljust(9, "0") or 0)


@settings(derandomize=True, deadline=None, max_examples=500)
@given(st.text(alphabet="0123456789:-+.TZ dhmsnow", max_size=24) | st.text(max_size=12))
def test_no_text_is_another_exception(text: str) -> None:
    try:
        assert isinstance(parse_time(text, NOW_NS, ZURICH), int)
    except InvalidArgument as error:
        assert str(error)  # noqa: PT017  # either is fine
