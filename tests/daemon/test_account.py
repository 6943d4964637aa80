"""What has come of a capture is what its worker reported: of its files, its packets, its end."""

import logging

import pytest

from capd.captures.account import Account, log_line
from capd.captures.tally import Counts, Gauges
from capd.errors import RequestRefused
from capd.policy.peer import Peer
from capd.policy.rules import Rule, Terms
from capd_protocol.messages import (
    Attached,
    CaptureSummary,
    Conditions,
    Counters,
    DeletionReason,
    Ended,
    EndReason,
    ErrorMessage,
    Failed,
    Failure,
    FailureCode,
    FileClosed,
    FileDeleted,
    FileOpened,
    InterfaceCounters,
    InterfaceRequest,
    Message,
    PacketCount,
    Recorder,
    Recording,
    SnapshotFailed,
    StartCapture,
    Triggered,
    TriggerReason,
)
from tests.support.attack import request_for

OWNER = Peer(1, 1000, 1000, ())
TERMS = Terms((Rule(name="first", filter="udp"), Rule(name="second"), Rule(name="third", filter="tcp")), None, None)
RECORDING = Recording(memory_bytes=1000, duration_s=None)
FAILURE = Failure(code=FailureCode.DISK, text="no room", argument="savefile")
ETH0 = InterfaceCounters(
    interface="eth0", received_total=100, written_total=60, kernel_drops_total=5, writer_drops_total=7, excess_total=8
)
ETH1 = InterfaceCounters(
    interface="eth1", received_total=10, written_total=1, kernel_drops_total=2, writer_drops_total=3, excess_total=4
)


def closed(name: str, size_bytes: int) -> FileClosed:
    return FileClosed(
        name=name, packets=1, size_bytes=size_bytes, first_timestamp_ns=None, last_timestamp_ns=None, drops=0
    )


def counters(*interfaces: InterfaceCounters, file_size_bytes: int = 0, disk_bytes: int = 0) -> Counters:
    return Counters(file_size_bytes=file_size_bytes, interfaces=interfaces, disk_bytes=disk_bytes)


def account_of(*messages: Message, request: StartCapture | None = None, owner: Peer = OWNER) -> Account:
    account = Account(10_000, owner, request or request_for("eth0", "a.pcapng", name="a"), TERMS, started_ns=5)
    for message in messages:
        account.add(message)
    return account


# Files and packets ------------------------------------------------------------------------------------------------


def test_nothing_has_come_of_one_that_has_not_begun() -> None:
    interfaces = (InterfaceRequest(name="eth0"), InterfaceRequest(name="eth1"))
    account = account_of(request=request_for("", "a.pcapng", name="a", interfaces=interfaces))
    assert account.summary() == CaptureSummary(
        capture_id=10_000,
        user_id=1000,
        name="a",
        interfaces=("eth0", "eth1"),
        file_name="a.pcapng",
        started_ns=5,
        files_total=0,
        packets_total=0,
        drops_total=0,
        is_contained=False,
    )
    assert account.counts == Counts()
    assert account.gauges(0) == Gauges()
    assert account.interface_names == ("eth0", "eth1")
    assert not account.is_started


def test_the_file_is_the_one_that_was_opened_last() -> None:
    account = account_of(FileOpened("1"))
    assert (account.file_name, account.current_file, account.summary().files_total) == ("1", "1", 1)
    account.add(closed("1", 10))
    assert (account.file_name, account.current_file, account.summary().files_total) == ("1", "", 1)
    account.add(FileOpened("2"))
    assert (account.summary().file_name, account.current_file, account.summary().files_total) == ("2", "2", 2)


def test_bytes_are_those_of_closed_files_and_of_the_current_one() -> None:
    account = account_of(FileOpened("1"), counters(file_size_bytes=7))
    assert account.counts.written_bytes == 7
    account.add(closed("1", 10))
    assert account.counts.written_bytes == 10
    account.add(FileOpened("2"))
    account.add(counters(file_size_bytes=3, disk_bytes=13))
    assert account.counts.written_bytes == 13
    assert account.gauges(0).disk_bytes == 13
    assert account.attached().closed_bytes_total == 10


def test_packets_are_those_of_all_interfaces_as_they_were_told_of_last() -> None:
    account = account_of(counters(ETH0), counters(ETH0, ETH1))
    account.has_begun = account.has_worker = True
    assert (account.summary().packets_total, account.summary().drops_total) == (61, 17)
    assert account.counts == Counts(
        attempts=1,
        workers=1,
        received_packets=110,
        written_packets=61,
        kernel_drops=7,
        writer_drops=10,
        excess_packets=12,
    )
    assert account.interface_names == ("eth0", "eth1")
    account.add(Ended(reason=EndReason.PACKETS, interfaces=(ETH1,)))
    assert account.summary().packets_total == 1


def test_packets_wait_that_are_neither_written_nor_lost_nor_left_out() -> None:
    account = account_of(FileOpened("1"), counters(ETH0, ETH1))
    assert account.gauges(9) == Gauges(captures=1, waiting_packets=110 - 61 - 7 - 10 - 12, waiting_events=9)
    # Counts of several interfaces are not of one moment.
    account.add(counters(InterfaceCounters(interface="eth0", received_total=1, written_total=2)))
    assert account.gauges(0).waiting_packets == 0


def test_a_container_is_told_of_as_one() -> None:
    owner = Peer(1, 1000, 1000, (), is_contained=True)
    assert account_of(owner=owner).summary().is_contained


def test_the_list_says_what_is_a_recorder() -> None:
    recorder = request_for("eth0", "a.pcapng", recorder=Recorder(memory_bytes=1 << 22))
    assert account_of(request=recorder).summary().is_recorder
    assert not account_of().summary().is_recorder


# Who comes later --------------------------------------------------------------------------------------------------


def test_who_comes_later_is_told_where_it_stands() -> None:
    ring = request_for("eth0", "a.pcapng", ring=Conditions(packets=1), file_format="pcap")
    account = account_of(FileOpened("1"), PacketCount(3), PacketCount(4), counters(ETH0), request=ring)
    assert account.attached() == Attached(
        capture=account.summary(), file_format="pcap", is_ring=True, packets_total=7, closed_bytes_total=0
    )
    assert not account_of().attached().is_ring


NOTHING_YET = counters(InterfaceCounters(interface="eth0"))
PAST: dict[str, tuple[list[Message], list[Message]]] = {
    "not begun": ([], []),
    "in a file": (
        [FileOpened("1"), counters(ETH0, file_size_bytes=7)],
        [FileOpened("1"), counters(ETH0, file_size_bytes=7)],
    ),
    "between two files": ([FileOpened("1"), closed("1", 10)], [FileOpened("1"), NOTHING_YET]),
    "a recorder": ([RECORDING], [RECORDING, NOTHING_YET]),
    "a recorder in a snapshot": ([RECORDING, FileOpened("1")], [RECORDING, FileOpened("1"), NOTHING_YET]),
    "a recorder after a snapshot": ([RECORDING, FileOpened("1"), closed("1", 10)], [RECORDING, NOTHING_YET]),
}


@pytest.mark.parametrize("case", PAST)
def test_who_comes_later_first_hears_what_it_must_know(case: str) -> None:
    reported, heard = PAST[case]
    assert account_of(*reported).past_events() == heard


@pytest.mark.parametrize("message", [FileOpened("1"), RECORDING])
def test_it_is_started_with_a_file_or_a_recorder(message: Message) -> None:
    before: list[Message] = [counters(ETH0), PacketCount(1)]
    assert not account_of(*before).is_started
    account = account_of(*before, message)
    assert account.is_started
    assert account.gauges(0).captures == 1


# The end ----------------------------------------------------------------------------------------------------------


def test_it_is_told_to_end_once_for_the_first_reason() -> None:
    account = account_of()
    assert account.stop(EndReason.REVOKED)
    assert not account.stop(EndReason.CLIENT_LEFT)
    assert account.stopped_for == EndReason.REVOKED


REASONS = [
    # why it was stopped, why its worker ended, why it ended
    (EndReason.CLIENT_LEFT, EndReason.STOPPED, EndReason.CLIENT_LEFT),
    (None, EndReason.STOPPED, EndReason.STOPPED),  # its user has sent it a signal
    (EndReason.CLIENT_LEFT, EndReason.PACKETS, EndReason.PACKETS),  # which it reached before
    (None, EndReason.DISK_LIMIT, EndReason.DISK_LIMIT),
]


@pytest.mark.parametrize(("stopped", "reported", "ended"), REASONS)
def test_it_has_ended_for_the_reason_that_its_worker_cannot_know(
    stopped: EndReason | None, reported: EndReason, ended: EndReason
) -> None:
    account = account_of()
    if stopped is not None:
        account.stop(stopped)
    account.add(Ended(reason=reported, interfaces=(ETH0,)))
    account.close()
    assert account.end_reason == ended
    assert account.last_events() == [Ended(reason=ended, interfaces=(ETH0,))]
    assert account.counts.deaths == 0
    assert account.end_record()["end"] == ended


def test_one_whose_process_died_says_so_for_it() -> None:
    account = account_of(FileOpened("1"), counters(ETH0))
    account.close()
    assert account.counts.deaths == 1
    failed, error, ended = account.last_events()
    assert isinstance(failed, Failed)
    assert failed.failure.code == FailureCode.WORKER_DIED
    assert error == ErrorMessage(failed.failure.text)
    assert ended == Ended(reason=EndReason.FAILED, interfaces=(ETH0,))


def test_one_that_has_failed_and_said_why_has_not_died() -> None:
    account = account_of(FileOpened("1"), Failed(failure=FAILURE))
    account.close()
    assert account.counts.deaths == 0
    assert account.last_events() == [Ended(reason=EndReason.FAILED, interfaces=(InterfaceCounters(interface="eth0"),))]


def refusal_of(account: Account) -> tuple[FailureCode, str]:
    with pytest.raises(RequestRefused) as refused:
        account.check_runs()
    return refused.value.failure.code, refused.value.failure.text


@pytest.mark.parametrize("missing", ["worker", "run", "file"])
def test_it_runs_with_a_worker_that_has_begun(missing: str) -> None:
    account = account_of(*([] if missing == "file" else [FileOpened("1")]))
    account.has_worker, account.is_running = missing != "worker", missing != "run"
    code, text = refusal_of(account)
    assert code == FailureCode.RESOURCES
    assert "does not run yet, or waits to run again" in text


def test_it_runs_until_its_worker_is_gone() -> None:
    account = account_of(FileOpened("1"))
    account.has_worker = account.is_running = True
    account.check_runs()
    account.add(Ended(reason=EndReason.STOPPED, interfaces=()))
    account.is_running = False
    code, text = refusal_of(account)
    assert (code, text) == (FailureCode.NO_SUCH_CAPTURE, "the capture 10000 has ended")


def test_why_it_could_not_be_started_is_what_its_worker_said() -> None:
    assert account_of(Failed(failure=FAILURE)).why_not_started(1).failure == FAILURE
    silent = account_of().why_not_started(-9).failure
    assert silent.code == FailureCode.WORKER_DIED
    assert "(status -9)" in silent.text
    revoked = account_of(Failed(failure=FAILURE))
    revoked.stop(EndReason.REVOKED)
    assert "revoked" in revoked.why_not_started(1).failure.text


# On record --------------------------------------------------------------------------------------------------------


def test_what_goes_on_record() -> None:
    granted = {"name": "a", "capture": 10_000, "rule": "first, second, third", "policy_filter": "udp; tcp"}
    account = account_of(FileOpened("1"), counters(ETH0, ETH1), Failed(failure=FAILURE))
    assert account.grant_record() == granted
    assert account.end_record() == {
        **granted,
        "end": EndReason.FAILED,
        "code": FailureCode.DISK,
        "reason": "no room",
        "files": 1,
        "packets": 61,
        "drops": 17,
    }
    well = account_of(Ended(reason=EndReason.FILES, interfaces=())).end_record()
    assert (well["end"], well["code"], well["reason"]) == (EndReason.FILES, None, None)


LINES: dict[str, tuple[Message, int | None, str]] = {
    "deleted": (
        FileDeleted(name="a\nb", reason=DeletionReason.AGE, size_bytes=9),
        logging.INFO,
        "deleted 'a\\nb' (age, 9 bytes)",
    ),
    "triggered": (
        Triggered(reason=TriggerReason.FILTER, interface="eth0"),
        logging.INFO,
        "a snapshot is triggered (filter, eth0)",
    ),
    "triggered by all": (Triggered(reason=TriggerReason.RATE), logging.INFO, "a snapshot is triggered (rate, all)"),
    "failed": (SnapshotFailed(failure=FAILURE), logging.ERROR, "a snapshot failed: no room"),
    "opened": (FileOpened("1"), None, ""),
    "counted": (PacketCount(1), None, ""),
}


@pytest.mark.parametrize("case", LINES)
def test_what_the_log_says_of_an_event(case: str) -> None:
    message, level, text = LINES[case]
    line = log_line(message)
    assert (None if line is None else line[0]) == level
    assert ("" if line is None else line[1] % line[2]) == text
