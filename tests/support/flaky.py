"""Tests of a bound of time that was missed: they are tried once more, and named. Hooks of pytest, for a conftest."""

from collections.abc import Generator

import pytest
from _pytest.runner import runtestprotocol

from tests.support.bounds import TimeBoundMissed

_is_missed = pytest.StashKey[bool]()
_MISSED = "missed_bound"
#: Of tests that have been tried again, in this process or in one of pytest-xdist: which, and what was missed.
_flaky: list[tuple[str, str]] = []


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    if call.excinfo is not None:
        is_missed = call.when == "call" and call.excinfo.errisinstance(TimeBoundMissed)
        item.stash[_is_missed] = is_missed and item.stash.get(_is_missed, True)
    return (yield)


def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
    """Try a test that has the marker ``alone`` once more where it has missed a bound of time, and nothing else failed.

    On a busy machine that may happen. The second attempt is what counts, and the test is named at the end.
    """
    if item.get_closest_marker("alone") is None:
        return None
    assert isinstance(item, pytest.Function)
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    reports = runtestprotocol(item, nextitem=nextitem, log=False)
    if item.stash.get(_is_missed, False):
        why = next(str(each.longrepr) for each in reports if each.failed)
        del item.stash[_is_missed]
        item._initrequest()
        reports = runtestprotocol(item, nextitem=nextitem, log=False)
        reports[0].user_properties.append((_MISSED, why))
    for report in reports:
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "setup":
        _flaky.extend((report.nodeid, str(why)) for name, why in report.user_properties if name == _MISSED)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for name, why in _flaky:
        terminalreporter.write_sep("=", f"flaky: {name}", yellow=True)
        terminalreporter.write_line(f"{why}\n\nIt has missed a bound of time, and was tried once more.")
