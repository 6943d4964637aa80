"""Bounds of time: what a busy machine may miss once, and nothing else may."""


class TimeBoundMissed(AssertionError):
    """Something took longer than it may, and nothing else was wrong.

    A test that has the marker ``alone`` is tried once more after it, and named at the end (``tests.support.flaky``).
    """


def check_bound(is_kept: bool, what: str) -> None:
    """Check a bound of time.

    Args:
        is_kept: whether it is.
        what: was measured, for the message.

    Raises:
        TimeBoundMissed: it is not.
    """
    if not is_kept:
        raise TimeBoundMissed(what)
