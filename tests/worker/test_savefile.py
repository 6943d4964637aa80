"""A capture file is made, emptied, deleted and written over only where it is its user's own."""

import os
import time
from collections.abc import Generator
from pathlib import Path

import pytest

from capd.worker.output import savefile
from capd.worker.output.recycling import reuse
from capd.worker.output.savefile import (
    DestinationError,
    KeptFile,
    SaveFile,
    create_file,
    create_ring_file,
    files_left,
)
from capd_protocol.formats import pcapng
from capd_protocol.formats.ring_index import ring_file_name
from capd_protocol.messages import Destination

STRANGER = 23472
#: Of 28 bytes.
SECTION = pcapng.section_header()
OPENED = time.struct_time((2026, 1, 31, 3, 4, 5, 5, 31, 0))


@pytest.fixture
def directory_fd(tmp_path: Path) -> Generator[int, None, None]:
    descriptor = os.open(tmp_path, os.O_PATH | os.O_DIRECTORY)
    yield descriptor
    os.close(descriptor)


def written(file: SaveFile) -> str:
    """Write to a new file; return its name."""
    file.write(b"packets")
    file.close()
    return file.name


def plain(directory_fd: int, name: str = "a.pcapng") -> str:
    return written(create_file(directory_fd, name, group_access=False, exclusive=False))


def given_away(path: Path, text: str = "of another user", mode: int = 0o666) -> Path:
    path.write_text(text)
    path.chmod(mode)
    os.chown(path, STRANGER, STRANGER)
    return path


# Plain files ----------------------------------------------------------------------------------------------------


def test_a_file_of_ones_own_is_emptied_whoever_may_read_it(tmp_path: Path, directory_fd: int) -> None:
    path = tmp_path / "a.pcapng"
    path.write_text("what was there before, and is longer")
    path.chmod(0o644)
    inode = path.stat().st_ino
    plain(directory_fd)
    assert path.read_text() == "packets"
    assert (path.stat().st_ino, path.stat().st_mode & 0o777) == (inode, 0o644)


def test_a_file_of_another_user_is_left_alone(tmp_path: Path, directory_fd: int) -> None:
    # Which everybody may write: its owner could read what is captured.
    path = given_away(tmp_path / "a.pcapng")
    with pytest.raises(DestinationError, match=r"another user's.*remove it"):
        plain(directory_fd)
    assert path.read_text() == "of another user"


@pytest.mark.parametrize(("protected", "is_emptied"), [("1\n", True), ("0\n", False), (None, False)])
def test_a_hard_link_is_emptied_only_where_nobody_else_can_have_made_it(
    tmp_path: Path, directory_fd: int, monkeypatch: pytest.MonkeyPatch, protected: str | None, is_emptied: bool
) -> None:
    setting = tmp_path / "protected_hardlinks"
    monkeypatch.setattr(savefile, "_PROTECTED_HARDLINKS", setting)
    if protected is not None:
        setting.write_text(protected)
    precious = tmp_path / "precious"
    precious.write_text("precious")
    (tmp_path / "a.pcapng").hardlink_to(precious)
    if is_emptied:
        plain(directory_fd)
        assert precious.read_text() == "packets"
        return
    with pytest.raises(DestinationError, match="hard link"):
        plain(directory_fd)
    assert precious.read_text() == "precious"


def test_the_kernels_setting_is_found() -> None:
    assert savefile._PROTECTED_HARDLINKS.read_text().strip() in ("0", "1")


# Files of a ring ------------------------------------------------------------------------------------------------


def test_what_has_the_name_of_a_rings_next_file_stays_as_it_is(tmp_path: Path, directory_fd: int) -> None:
    names = [ring_file_name("a.pcapng", number, OPENED) for number in range(1, 6)]
    given_away(tmp_path / names[0])
    (tmp_path / names[1]).write_text("of our own")
    (tmp_path / names[2]).mkdir()
    (tmp_path / names[3]).symlink_to("nowhere")
    file = create_ring_file(directory_fd, Destination(file_name="a.pcapng", group_access=True), 1, OPENED)
    assert written(file) == names[4]
    assert (tmp_path / names[4]).stat().st_mode & 0o777 == 0o640 & ~_umask()
    assert (tmp_path / names[0]).read_text() == "of another user"
    assert (tmp_path / names[1]).read_text() == "of our own"
    assert not (tmp_path / "nowhere").exists()


def _umask() -> int:
    before = os.umask(0)
    os.umask(before)
    return before


def test_who_takes_all_names_is_told_of_in_one_line(tmp_path: Path, directory_fd: int) -> None:
    for number in range(7, 107):
        (tmp_path / ring_file_name("a\nb.pcapng", number, OPENED)).mkdir()
    with pytest.raises(DestinationError, match="and 99 others after it exist already") as raised:
        create_ring_file(directory_fd, Destination(file_name="a\nb.pcapng"), 7, OPENED)
    assert str(raised.value).isprintable()


def test_only_files_of_ones_own_count_as_left(tmp_path: Path, directory_fd: int) -> None:
    own = tmp_path / ring_file_name("a.pcapng", 1, OPENED)
    own.write_bytes(bytes(1000))
    given_away(tmp_path / ring_file_name("a.pcapng", 2, OPENED), "x" * 5000)
    (tmp_path / ring_file_name("b.pcapng", 3, OPENED)).write_bytes(bytes(300))
    (tmp_path / "a.pcapng.index.lock").write_bytes(bytes(10))
    (tmp_path / ring_file_name("a.pcapng", 4, OPENED)).symlink_to(own)
    assert {name: each.st_size for name, each in files_left(directory_fd, "a.pcapng").items()} == {own.name: 1000}


# Deleting and writing over --------------------------------------------------------------------------------------


@pytest.mark.parametrize("change", ["owner", "kind"])
def test_a_number_that_was_given_again_is_no_file_of_ours(tmp_path: Path, directory_fd: int, change: str) -> None:
    path = tmp_path / "a_00001_20260131030405.pcapng"
    path.write_text("ours")
    kept = KeptFile(directory_fd, path.name, 4, path.stat())
    # As a new file may have the inode number of one that is gone.
    if change == "owner":
        os.chown(path, STRANGER, STRANGER)
    else:
        status = list(path.stat())
        status[0] = 0o010600
        kept = KeptFile(directory_fd, path.name, 4, os.stat_result(status))
    assert kept.open_for_writing() is None
    assert kept.open_for_reading() is None
    kept.remove()
    assert path.read_text() == "ours"


@pytest.mark.parametrize("mode", [0o600, 0o660, 0o602])
def test_only_a_file_that_nobody_else_may_write_is_written_over(tmp_path: Path, directory_fd: int, mode: int) -> None:
    path = tmp_path / "old"
    path.write_bytes(SECTION + bytes(72))
    path.chmod(mode)
    file = reuse(KeptFile(directory_fd, "old", 100, path.stat()), "new", header=SECTION, group_access=False)
    assert (file is not None) is (mode == 0o600)
    assert path.exists() is (mode != 0o600)
    if file is not None:
        file.close()


def test_a_file_with_a_further_name_is_not_written_over(tmp_path: Path, directory_fd: int) -> None:
    path = tmp_path / "old"
    path.write_bytes(SECTION + bytes(72))
    path.chmod(0o600)
    (tmp_path / "link").hardlink_to(path)
    assert reuse(KeptFile(directory_fd, "old", 100, path.stat()), "new", header=SECTION, group_access=False) is None
    assert (tmp_path / "link").read_bytes() == SECTION + bytes(72)
