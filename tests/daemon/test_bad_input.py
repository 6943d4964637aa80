"""What a capture cannot be asked for on this machine: each mistake has its exception, a sentence, and no aftermath.

Most of what the daemon refuses whatever the machine is shown without one (``tests/client/test_refusals.py``).
"""

import subprocess
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest

from capd_client import CaptureError, CaptureSession, ChildError
from capd_protocol.arguments import MAX_FILTER_BYTES, MAX_INTERFACES
from capd_protocol.messages import Conditions, Destination, FailureCode, InterfaceRequest, StartCapture
from tests.support.attack import (
    PATIENCE_S,
    RawClient,
    check_unharmed,
    leaving_nothing,
    opened,
    replaced_when_dead,
    request_for,
)
from tests.support.bad_input import BY_DAEMON, DOWN, OTHER, UP, Bad, arguments_of, check_told, prepare
from tests.support.daemon import Daemon, MakeDir, as_user
from tests.support.namespace import veth_pair


@pytest.fixture(scope="module")
def _daemons(make_dir: MakeDir) -> Generator[Callable[[], Daemon], None, None]:
    directory = make_dir("bad")
    with replaced_when_dead(directory, "--group", "daemon") as get:
        yield get


@pytest.fixture(scope="module", autouse=True)
def _links() -> Generator[None, None, None]:
    with veth_pair("txbad", UP), veth_pair("txdown", DOWN), veth_pair("txother", OTHER):
        subprocess.run(["ip", "link", "set", "dev", DOWN, "down"], check=True, timeout=10)
        # One that was there, and is no more.
        with veth_pair("txgone", "rxgone"):
            pass
        yield


@pytest.fixture
def daemon(_daemons: Callable[[], Daemon]) -> Daemon:
    """A daemon for all tests of this file: none of them should end it."""
    return _daemons()


def _attempt(daemon: Daemon, directory: Path, bad: Bad) -> tuple[CaptureError, dict[str, Any]]:
    """Return the exception, and its attributes, which do not survive the way from one process to another."""
    arguments = arguments_of(bad, directory)

    def attempt() -> tuple[CaptureError, dict[str, Any]]:
        try:
            with CaptureSession(socket_path=daemon.socket_path, **arguments) as capture:
                capture.wait_started(PATIENCE_S)
        except CaptureError as error:
            failure = error.failure if isinstance(error, ChildError) else None
            attributes = {
                name: getattr(failure, name, None)
                for name in ("code", "argument", "interface", "interface_index", "position")
            }
            attributes |= {name: value for name, value in vars(error).items() if name != "failure" and value}
            return error, attributes
        raise AssertionError("the capture was started")

    return as_user(attempt, bad.user.user_id, bad.user.group_id, bad.user.groups) if bad.user else attempt()


@pytest.mark.parametrize("name", BY_DAEMON)
def test_bad_input_is_named_and_leaves_nothing(daemon: Daemon, user_dir: Path, name: str) -> None:
    prepare(user_dir)
    with leaving_nothing(daemon, UP, OTHER, DOWN, directory=user_dir):
        error, attributes = _attempt(daemon, user_dir, BY_DAEMON[name])
    check_told(BY_DAEMON[name], error, attributes)
    assert (user_dir / "file").read_bytes() == b"precious"


# The daemon trusts no client ------------------------------------------------------------------------------------


RAW: dict[str, tuple[StartCapture, str]] = {
    "no interface": (request_for(UP, interfaces=()), "interfaces"),
    "one twice": (request_for(UP, interfaces=(InterfaceRequest(name=UP),) * 2), "interfaces"),
    "too many": (
        request_for(UP, interfaces=tuple(InterfaceRequest(name=f"if{n}") for n in range(MAX_INTERFACES + 1))),
        "interfaces",
    ),
    "a name with a slash": (request_for("../lo"), "interfaces"),
    "a long filter": (
        request_for(UP, interfaces=(InterfaceRequest(name=UP, capture_filter="u" * (MAX_FILTER_BYTES + 1)),)),
        "capture_filter",
    ),
    "a filter with a NUL": (
        request_for(UP, interfaces=(InterfaceRequest(name=UP, capture_filter="udp\0"),)),
        "capture_filter",
    ),
    "a type that nobody knows": (
        request_for(UP, interfaces=(InterfaceRequest(name=UP, link_layer_type="NOSUCH"),)),
        "link_layer_type",
    ),
    "a channel": (request_for(UP, interfaces=(InterfaceRequest(name=UP, wifi_channel="x"),)), "wifi_channel"),
    "a ring that never switches": (request_for(UP, ring=Conditions(files=2)), "ringbuffer_files"),
    "files without a ring": (request_for(UP, autostop=Conditions(files=2)), "autostop_files"),
    "an end by age": (request_for(UP, autostop=Conditions(age_s=1)), "autostop"),
    "a ring of less than two files": (
        request_for(UP, ring=Conditions(filesize_kb=5, total_kb=5)),
        "ringbuffer_total_filesize",
    ),
    "a file's size in a ring": (
        request_for(UP, autostop=Conditions(filesize_kb=2), ring=Conditions(packets=1)),
        "autostop_filesize",
    ),
    "pcap of two": (
        request_for(UP, file_format="pcap", interfaces=(InterfaceRequest(name=UP), InterfaceRequest(name=OTHER))),
        "use_libpcap",
    ),
    "a length of packets": (
        request_for(UP, interfaces=(InterfaceRequest(name=UP, snaplen_bytes=0),)),
        "snaplen",
    ),
    "an end at once": (request_for(UP, autostop=Conditions(duration_s=-1)), "autostop_duration"),
    "too many files": (request_for(UP, ring=Conditions(packets=1, files=100_001)), "ringbuffer_files"),
    "a number that no C has": (request_for(UP, autostop=Conditions(packets=2**63)), "max_packet_count"),
    "a long name": (request_for(UP, destination=Destination(file_name="x" * 256)), "savefile"),
}


@pytest.mark.parametrize("name", RAW)
def test_the_daemon_checks_every_request_itself(daemon: Daemon, user_dir: Path, name: str) -> None:
    request, argument = RAW[name]
    with (
        leaving_nothing(daemon, UP, directory=user_dir),
        opened(user_dir) as directory,
        RawClient(daemon.socket_path) as client,
    ):
        client.send(request, [directory])
        failure = client.refusal()
    assert (failure.code, failure.argument) == (FailureCode.INVALID, argument)


def test_after_all_that_the_daemon_captures_as_ever(daemon: Daemon, user_dir: Path) -> None:
    check_unharmed(daemon, ("txbad", UP), user_dir)
