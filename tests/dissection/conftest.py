"""What all tests of dissection share."""

import gc
from collections.abc import Generator
from pathlib import Path

import pytest

from capd_client.dissection.registry import fields as registry
from tests.dissection.processes import MARK, descriptors, engines


@pytest.fixture(scope="session", autouse=True)
def _surroundings(tmp_path_factory: pytest.TempPathFactory) -> Generator[None, None, None]:
    """Have what is kept of Wireshark be this run's own, and engines be known by their environment."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("LD_LIBRARY_PATH", MARK)
        registry.fields.load()
        yield


@pytest.fixture(autouse=True)
def _no_engine_is_left() -> Generator[None, None, None]:
    yield
    assert engines() == []


@pytest.fixture
def leaves_nothing() -> Generator[None, None, None]:
    """See that a test ends with the descriptors that it began with."""
    gc.collect()
    before = descriptors()
    yield
    gc.collect()  # of what is mapped, a reader may be in a circle with its own iteration
    assert descriptors() == before


@pytest.fixture
def directory(user_dir: Path) -> Path:
    """A directory that everybody may enter: engines run as nobody."""
    return user_dir
