"""What a worker tells of the directory for its files: what the kernel calls it, and nothing that is too long."""

import os
from pathlib import Path

from capd.worker.directory import path_of


def opened(path: bytes | Path) -> int:
    return os.open(path, os.O_PATH | os.O_DIRECTORY)


def test_a_path_is_what_the_kernel_calls_it_now(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    one.mkdir()
    link = tmp_path / "link"
    link.symlink_to(one)
    descriptor = opened(link)
    try:
        assert path_of(descriptor) == str(one)
        one.rename(other)
        assert path_of(descriptor) == str(other)
        other.rmdir()
        assert path_of(descriptor) == f"{other} (deleted)"
    finally:
        os.close(descriptor)
    assert path_of(descriptor) is None


def test_a_path_is_text_and_can_be_shown(tmp_path: Path) -> None:
    paths = {b"d\xff": f"{tmp_path}/d\\xff", "d\u00e9\n".encode(): f"{tmp_path}/d\u00e9\n"}
    for name, shown in paths.items():
        path = os.fsencode(tmp_path) + b"/" + name
        os.mkdir(path)  # noqa: PTH102  # not every name is text
        descriptor = opened(path)
        try:
            assert path_of(descriptor) == shown
        finally:
            os.close(descriptor)


def test_a_path_that_is_too_long_to_be_shown_is_not_told(tmp_path: Path) -> None:
    path = tmp_path
    while len(os.fsencode(path)) <= 1024 - 200:
        path /= "x" * 199
    last = path / ("y" * (1024 - len(os.fsencode(path)) - 1))
    last.mkdir(parents=True)
    longer = Path(f"{last}z")
    longer.mkdir()
    for each, expected in ((last, str(last)), (longer, None)):
        descriptor = opened(each)
        try:
            assert path_of(descriptor) == expected
        finally:
            os.close(descriptor)
