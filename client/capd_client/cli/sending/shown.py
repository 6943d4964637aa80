"""What has become of packets that were sent, as lines and as JSON."""

from collections.abc import Iterator

import msgspec

from capd_client.cli.text import count, si
from capd_client.conversation.sending import SendReport
from capd_protocol.sending import Reason
from capd_protocol.text import counted

_REASONS = {
    Reason.TOO_SHORT: "shorter than an Ethernet header",
    Reason.TOO_LONG: "longer than the interface takes",
    Reason.FOREIGN_SOURCE: "with a source address that is not allowed",
    Reason.CUT: "of which the file has only a part",
}
_US_NS, _MS_NS, _S_NS = 1_000, 1_000_000, 1_000_000_000


def progress(interface: str, report: SendReport) -> str:
    """Return a line about packets that are being sent."""
    refused = f", {count(report.refused)} not" if report.refused else ""
    return f"{interface}: {counted(report.sent, 'packet')} sent{refused}, {si(report.pps)} a second"


def summary(interface: str, report: SendReport) -> Iterator[str]:
    """Give the lines about packets that were sent."""
    took = f" in {report.duration_ns / _S_NS:.2f} s, {si(report.pps)} a second" if report.pps else ""
    yield f"{interface}: {counted(report.sent, 'packet')} sent, {si(report.sent_bytes, 'B')}{took}"
    for each in report.refusals:
        which = (
            f"packet {count(each.first_index + 1)}" if each.frames == 1 else f"from packet {each.first_index + 1:,} on"
        )
        yield f"not sent: {counted(each.frames, 'packet')} {_REASONS[each.reason]} ({which})"
    late = report.lateness
    if late is not None:
        texts = (f"{time(late.median_ns)} (median)", f"{time(late.p99_ns)} (99 %)", f"{time(late.max_ns)} (most)")
        yield f"late by {', '.join(texts)}"


def time(time_ns: int) -> str:
    """Return a short time with three digits."""
    for unit_ns, unit in ((_S_NS, "s"), (_MS_NS, "ms"), (_US_NS, "µs")):
        if time_ns >= unit_ns:
            return f"{time_ns / unit_ns:.3g} {unit}" if time_ns < 1000 * unit_ns else f"{time_ns / unit_ns:.0f} {unit}"
    return f"{time_ns} ns"


def fields_of(interface: str, report: SendReport) -> dict[str, object]:
    """Return an object about packets that were sent."""
    return {
        "interface": interface,
        "sent": report.sent,
        "sent_bytes": report.sent_bytes,
        "refused": report.refused,
        "refusals": msgspec.to_builtins(report.refusals),
        "lateness": msgspec.to_builtins(report.lateness),
        "duration_ns": report.duration_ns,
    }
