"""Interfaces that send nothing of their own accord."""

from collections.abc import Generator

import pytest

from tests.capture.helpers import kernel_setting


@pytest.fixture(autouse=True)
def _silent_interfaces() -> Generator[None, None, None]:
    """Whatever a test makes has no IPv6, unless the test gives it some: that would ask for routers."""
    with kernel_setting("net/ipv6/conf/default/disable_ipv6", "1"):
        yield
