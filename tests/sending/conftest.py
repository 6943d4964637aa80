"""Fixtures: a daemon that lets users send."""

from collections.abc import Generator

import pytest

from tests.sending.helpers import OTHER, RULES, SENDER, ip
from tests.support.accounts import have_account
from tests.support.daemon import Daemon, MakeDir, running_daemon


@pytest.fixture(scope="module")
def sending(make_dir: MakeDir) -> Generator[Daemon, None, None]:
    """A daemon with rules for sending."""
    for user in (SENDER, OTHER):
        have_account(user.user_id)
    directory = make_dir("sending")
    (directory / "capd.toml").write_text(RULES)
    with running_daemon(directory, "--config", str(directory / "capd.toml")) as running:
        yield running


@pytest.fixture
def loopback() -> Generator[str, None, None]:
    """The loopback interface, which is up."""
    ip("link", "set", "lo", "up")
    yield "lo"
    ip("link", "set", "lo", "down")
