"""Times as people write them. Pure: a text and the present time go in, nanoseconds come out."""

import re
from datetime import UTC, date, datetime, tzinfo

from capd_client.errors import InvalidArgument

_NS = 1_000_000_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_POSSIBLE = "possible are 2026-01-31T12:00:00 (with or without a zone), 12:00, -1h30m, now, or seconds since 1970"

_SECONDS = re.compile(r"(?P<whole>-?\d{1,11})(?:\.(?P<fraction>\d+))?", re.ASCII)
#: Before the time, a date may stand; behind it, a zone.
_CLOCK = re.compile(
    r"(?:(?P<date>\d{4}-\d{2}-\d{2})(?:[T ](?=\d)|$))?"
    r"(?:(?P<hour>\d{2}):(?P<minute>\d{2})(?::(?P<second>\d{2})(?:[.,](?P<fraction>\d+))?)?)?"
    r"(?P<zone>Z|[+-]\d{2}:?\d{2})?",
    re.IGNORECASE | re.ASCII,
)
_AGO = re.compile(
    r"-(?:(?P<d>\d+)d)?(?:(?P<h>\d+)h)?(?:(?P<m>\d+)m)?(?:(?P<s>\d+)(?:\.(?P<fraction>\d+))?s)?", re.ASCII
)
_UNITS_S = {"d": 86_400, "h": 3600, "m": 60, "s": 1}


def parse_time(text: str, now_ns: int, zone: tzinfo | None = None) -> int:
    """Return the time that a person means, in nanoseconds since 1970-01-01 00:00 UTC.

    Args:
        text: ``2026-01-31T12:00:00.5``, also with a space, without seconds, or without a time, which is midnight; with
            ``Z`` or ``+01:00`` behind it, else local time. ``12:00`` and ``12:00:30`` are today's. ``-10m``,
            ``-1h30m`` and ``-2d`` are before now. ``now``. ``1769857200.25``: seconds since 1970, of at least
            five digits.
        now_ns: the present time.
        zone: what local time is; None: as the system has it.

    Raises:
        InvalidArgument: it is no time.
    """
    stripped = text.strip()
    if stripped.lower() == "now":
        return now_ns
    try:
        found = _ago(stripped, now_ns)
        if found is None:
            found = _since_1970(stripped)
        if found is None:
            found = _clock(stripped, now_ns, zone)
    except (ValueError, OverflowError) as error:  # the 31st of February, or the year 0
        raise InvalidArgument(f"{text!r} is no time: {error}") from error
    if found is None:
        raise InvalidArgument(f"{text!r} is no time: {_POSSIBLE}")
    return found


def _fraction_ns(digits: str | None) -> int:
    return int((digits or "0")[:9].ljust(9, "0"))


def _ago(text: str, now_ns: int) -> int | None:
    match = _AGO.fullmatch(text)
    if match is None or len(text) < 3:
        return None
    ago_s = sum(int(match[unit] or 0) * size_s for unit, size_s in _UNITS_S.items())
    return now_ns - ago_s * _NS - _fraction_ns(match["fraction"])


def _since_1970(text: str) -> int | None:
    match = _SECONDS.fullmatch(text)
    if match is None or len(match["whole"]) < 5:  # a year, say
        return None
    fraction_ns = _fraction_ns(match["fraction"])
    return int(match["whole"]) * _NS + (-fraction_ns if text[0] == "-" else fraction_ns)


def _clock(text: str, now_ns: int, zone: tzinfo | None) -> int | None:
    match = _CLOCK.fullmatch(text)
    if match is None or (match["date"] is None and match["hour"] is None):
        return None
    if match["zone"] is not None:
        if match["hour"] is None:
            return None
        zone = datetime.strptime(match["zone"].upper(), "%z").tzinfo
    if match["date"] is None:
        day = datetime.fromtimestamp(now_ns // _NS, UTC).astimezone(zone).date()
    else:
        day = date.fromisoformat(match["date"])
    hour, minute, second = (int(match[name] or 0) for name in ("hour", "minute", "second"))
    moment = datetime(day.year, day.month, day.day, hour, minute, second, tzinfo=zone)
    # Without a zone of its own, astimezone() takes it for the system's.
    since = moment.astimezone(UTC) - _EPOCH
    return (since.days * 86_400 + since.seconds) * _NS + _fraction_ns(match["fraction"])
