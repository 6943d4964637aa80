"""Quotas: captures at once, time, memory, bytes on disk. Pure: terms and requests in, decisions out."""

from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from capd import limits
from capd.errors import RequestRefused
from capd.policy.rules import Terms
from capd_protocol.arguments import MAX_INTERFACES
from capd_protocol.messages import (
    DEFAULT_KERNEL_BUFFER_SIZE_BYTES,
    MAX_SNAPLEN_BYTES,
    PATTERN_KERNEL_BUFFER_SIZE_BYTES,
    STREAM_BUFFER_BYTES,
    FailureCode,
    StartCapture,
)
from capd_protocol.targets import Pattern, Stream, Target
from capd_protocol.text import counted

_KB = 1000
_MIB = 1024 * 1024
#: What a file may have beyond the size that it is closed at: its last packet, its header, its statistics.
_OVERSHOOT_BYTES = 2 * MAX_SNAPLEN_BYTES


def check_number(terms: Terms, running: Sequence[Terms]) -> None:
    """Check whether one capture more may run beside those of the same user.

    Raises:
        RequestRefused: it is one too many.
    """
    if len(running) >= limits.MAX_CAPTURES_PER_USER:
        text = f"{len(running)} captures of this user run already, as many as one may have: stop one first"
        raise RequestRefused(FailureCode.RESOURCES, text)
    for rule in terms.rules:
        at_once = sum(rule.name in (each.name for each in other.rules) for other in running)
        if rule.max_captures is not None and at_once >= rule.max_captures:
            text = f"policy allows {counted(rule.max_captures, 'capture')} at once (rule {rule.name!r}): stop one first"
            raise RequestRefused(FailureCode.RESOURCES, text)


def check_numbers_of_all(request: StartCapture, own: Sequence[StartCapture], of_all: Sequence[StartCapture]) -> None:
    """Check whether one capture more may run beside those of all users.

    Args:
        request: what is asked for.
        own: what runs of the same user.
        of_all: what runs of all users whom rules bind, these among them.

    Raises:
        RequestRefused: it is one too many.
    """
    if len(of_all) >= limits.MAX_CAPTURES:
        text = f"{len(of_all)} captures of all users run already, as many as there may be: try again later"
        raise RequestRefused(FailureCode.RESOURCES, text)
    if not request.detached:
        return
    for running, most, whose, advice in (
        (own, limits.MAX_DETACHED_PER_USER, "this user", "stop one first"),
        (of_all, limits.MAX_DETACHED - limits.DETACHED_OF_ROOT, "all users", "try again later"),
    ):
        detached = sum(each.detached for each in running)
        if detached >= most:
            text = f"{detached} detached captures of {whose} run already, as many as there may be: {advice}"
            raise RequestRefused(FailureCode.RESOURCES, text, argument="detach")


def starts_of(targets: Sequence[Target]) -> int:
    """Return for how many captures one of these counts where only so many may start at once."""
    interfaces = MAX_INTERFACES if any(isinstance(each, Pattern) for each in targets) else len(targets)
    return -(-interfaces // limits.INTERFACES_OF_ONE_START)


def ring_bytes(targets: Sequence[Target]) -> int:
    """Return what the rings and streams of a capture may come to take; a pattern may take in all that there can be."""
    patterns = [each.request for each in targets if isinstance(each, Pattern)]
    single = [each for each in targets if not isinstance(each, Pattern)]
    of_single = sum(
        STREAM_BUFFER_BYTES
        if isinstance(each, Stream)
        else each.request.kernel_buffer_size_bytes or DEFAULT_KERNEL_BUFFER_SIZE_BYTES
        for each in single
    )
    of_patterns = (each.kernel_buffer_size_bytes or PATTERN_KERNEL_BUFFER_SIZE_BYTES for each in patterns)
    return of_single + (MAX_INTERFACES - len(single)) * max(of_patterns, default=0)


def recorder_bytes(request: StartCapture) -> int:
    """Return what a capture may keep in memory, but for its rings."""
    return request.recorder.memory_bytes if request.recorder is not None else 0


def check_recorder(request: StartCapture, memory_bytes: int) -> None:
    """Check whether the machine, with so much memory, may have such a recorder at all.

    Raises:
        RequestRefused: it is too large.
    """
    allowed_bytes = round(memory_bytes * limits.RECORDER_SHARE)
    if recorder_bytes(request) > allowed_bytes:
        text = (
            f"a recorder of {recorder_bytes(request) // _MIB:,} MiB is more than a machine with "
            f"{memory_bytes // _MIB:,} MiB of memory may have, {allowed_bytes // _MIB:,}: ask for a smaller one"
        )
        raise RequestRefused(FailureCode.RESOURCES, text, argument="recorder_memory")


class Memory(NamedTuple):
    """What a capture may take.

    Attributes:
        ring_bytes: of its rings.
        recorder_bytes: of its flight recorder.
    """

    ring_bytes: int
    recorder_bytes: int

    @property
    def total_bytes(self) -> int:
        """Of both."""
        return self.ring_bytes + self.recorder_bytes


def memory_of(request: StartCapture, targets: Sequence[Target]) -> Memory:
    """Return what a capture of these targets may take."""
    return Memory(ring_bytes(targets), recorder_bytes(request))


def check_memory(needed: Memory, own_bytes: int, all_bytes: int, memory_bytes: int) -> None:
    """Check whether there is room for rings and recorder beside those that there are.

    Args:
        needed: what is asked for.
        own_bytes: what those of the same user may take.
        all_bytes: what those of everybody may, these among them.
        memory_bytes: the machine's memory.

    Raises:
        RequestRefused: there is not.
    """
    needed_bytes = needed.total_bytes
    for share, taken_bytes, whose, advice in (
        (limits.RING_SHARE_PER_USER, own_bytes, "a user", "stop a capture"),
        (limits.RING_SHARE, all_bytes, "all users and the configuration", "try again later"),
    ):
        allowed_bytes = round(memory_bytes * share)
        left_bytes = allowed_bytes - taken_bytes
        if needed_bytes > left_bytes:
            what, argument = "the kernel's rings of this capture", "kernel_buffer_size"
            if needed.recorder_bytes > needed.ring_bytes:
                what, argument = "the recorder and the kernel's rings of this capture", "recorder_memory"
            text = (
                f"{what} may take {needed_bytes // _MIB:,} MiB, and "
                f"{max(left_bytes, 0) // _MIB:,} are left of the {allowed_bytes // _MIB:,} that {whose} may have here: "
                f"ask for a smaller {argument}, or {advice}"
            )
            raise RequestRefused(FailureCode.RESOURCES, text, argument=argument)


def within_duration(terms: Terms, request: StartCapture) -> StartCapture:
    """Return the request with an end in time, where policy wants one.

    Raises:
        RequestRefused: a longer time is asked for.
    """
    if terms.max_duration_s is None:
        return request
    asked_s = request.autostop.duration_s
    if asked_s is not None and asked_s > terms.max_duration_s:
        text = f"policy allows captures of up to {terms.max_duration_s:g} s, not of {asked_s:g} s"
        raise RequestRefused(FailureCode.NOT_PERMITTED, text, argument="autostop_duration")
    duration_s = terms.max_duration_s if asked_s is None else asked_s
    return msgspec.structs.replace(request, autostop=msgspec.structs.replace(request.autostop, duration_s=duration_s))


def check_time_left(request: StartCapture, elapsed_s: float) -> None:
    """Check whether a capture that goes on has not had its time yet.

    Raises:
        RequestRefused: it has.
    """
    duration_s = request.autostop.duration_s
    if duration_s is not None and elapsed_s >= duration_s:
        text = f"the capture was to last {duration_s:g} s, which are over"
        raise RequestRefused(FailureCode.INVALID, text, argument="autostop_duration")


def reserve(terms: Terms, request: StartCapture, running: Sequence[Terms]) -> Terms:
    """Return the terms with the bytes on disk that this capture may take: all that it could, or all that is left.

    Raises:
        RequestRefused: nothing is left, or less than it could take.
    """
    if terms.max_disk_bytes is None:
        return terms
    left_bytes = terms.max_disk_bytes - sum(other.max_disk_bytes or 0 for other in running)
    needed_bytes = _most_bytes(request)
    if left_bytes <= 0 or (needed_bytes is not None and needed_bytes > left_bytes):
        asked = "" if needed_bytes is None else f", and this one could take {needed_bytes:,}"
        text = (
            f"policy allows {terms.max_disk_bytes:,} bytes on disk, of which captures that run leave "
            f"{max(left_bytes, 0):,}{asked}: captures that shall run beside others need bounds (autostop_filesize, "
            "ringbuffer_total_filesize, or ringbuffer_filesize and ringbuffer_files)"
        )
        raise RequestRefused(FailureCode.RESOURCES, text)
    return Terms(terms.rules, terms.max_duration_s, left_bytes if needed_bytes is None else needed_bytes)


def _most_bytes(request: StartCapture) -> int | None:
    """Return what the files of a capture can take at once; None if that is not bounded."""
    if request.ring is None:
        counts, filesize_kb = [1], request.autostop.filesize_kb
    else:
        counts = [count for count in (request.ring.files, request.autostop.files) if count is not None]
        filesize_kb = request.ring.filesize_kb
    bounds = [min(counts) * (filesize_kb * _KB + _OVERSHOOT_BYTES)] if counts and filesize_kb is not None else []
    kept = request.recorder.kept if request.recorder is not None else request.ring
    if kept is not None and kept.total_kb is not None:
        bounds.append(kept.total_kb * _KB)
    return min(bounds, default=None)
