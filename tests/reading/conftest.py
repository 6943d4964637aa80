"""What the tests of reading have in common."""

from collections.abc import Generator
from unittest import mock

import pytest

from capd_client.cli.files import ring


@pytest.fixture(scope="module", autouse=True)
def _stays_where_it_is() -> Generator[None, None, None]:
    """Commands are called in the tests' own process, which shall not have a lower priority for good."""
    with mock.patch.object(ring, "_step_back"):
        yield
