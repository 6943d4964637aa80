"""``capctl install-extcap``: the program where Wireshark looks, and away again; what is somebody else's stays."""

import os
import subprocess
from pathlib import Path

import pytest

from capd_client.extcap import installing
from capd_client.sources import programs
from tests.extcap.wireshark import PROGRAM, environment_of

PERSONAL = (".local/lib/wireshark/extcap", ".config/wireshark/extcap")


def typed(home: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    command = ["capctl", "install-extcap", *words]
    return subprocess.run(command, env=environment_of(None, home), capture_output=True, text=True, check=False)


def test_a_link_is_made_for_each_version_and_taken_away(tmp_path: Path) -> None:
    links = [tmp_path / each / "capd-extcap" for each in PERSONAL]
    done = typed(tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[:2] == [f"{each} is made" for each in links]
    assert [each.readlink() for each in links] == [PROGRAM] * 2
    assert typed(tmp_path).stdout.splitlines()[:2] == [f"{each} is there" for each in links]
    listed = subprocess.run(
        ["tshark", "-D"], env=environment_of(None, tmp_path), capture_output=True, text=True, check=True
    )
    assert "capd:ssh://" in listed.stdout
    assert typed(tmp_path, "--remove").stdout.splitlines() == [f"{each} is removed" for each in links]
    assert not any(map(os.path.lexists, links))
    assert typed(tmp_path, "--remove").stdout == "there is nothing to remove\n"


def test_one_of_another_installation_is_replaced(tmp_path: Path) -> None:
    link = tmp_path / PERSONAL[0] / "capd-extcap"
    link.parent.mkdir(parents=True)
    link.symlink_to("/opt/older/bin/capd-extcap")
    assert typed(tmp_path).returncode == 0
    assert link.readlink() == PROGRAM


@pytest.mark.parametrize("is_link", [False, True])
def test_what_is_somebody_else_s_stays(tmp_path: Path, is_link: bool) -> None:
    theirs = tmp_path / PERSONAL[1] / "capd-extcap"
    theirs.parent.mkdir(parents=True)
    if is_link:
        theirs.symlink_to("/bin/true")
    else:
        theirs.write_text("#!/bin/sh\n")
    done = typed(tmp_path)
    assert done.returncode == 1
    assert "is there already, and is not capd's" in done.stderr
    assert typed(tmp_path, "--remove").returncode == 0
    assert os.path.lexists(theirs)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory of a machine's own, and no tshark that says of another one."""
    monkeypatch.setattr(programs, "_GLOBAL", (f"{tmp_path}/lib/*-linux-*/wireshark/extcap", f"{tmp_path}/libexec"))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(installing, "_fault_on_way", lambda _: None)
    return tmp_path


def test_for_all_users_it_is_where_the_programs_of_wireshark_are(machine: Path) -> None:
    with pytest.raises(Exception, match="no Wireshark is installed for all users"):
        installing.install(for_all=True)
    older, inner = machine / "lib/x86_64-linux-gnu/wireshark/extcap", machine / "libexec/wireshark"
    for each in (older, inner):
        each.mkdir(parents=True)
    made = installing.install(for_all=True)
    links = [older / "capd-extcap", inner / "capd-extcap"]
    assert made[:2] == [f"{each} is made" for each in links]
    assert all(each.readlink() == PROGRAM for each in links)
    assert installing.remove(for_all=True) == [f"{each} is removed" for each in links]


@pytest.mark.parametrize("name", ["Extcap path", "Global Extcap path"])
def test_a_tshark_says_where_it_looks(machine: Path, name: str) -> None:
    place = machine / "opt"
    place.mkdir()
    (machine / "tshark").write_text(f"#!/bin/sh\necho 'Temp:\t/tmp'\necho '{name}:  \t{place}'\n")
    (machine / "tshark").chmod(0o755)
    assert installing.install(for_all=True)[0] == f"{place / 'capd-extcap'} is made"


def test_not_all_users_run_what_others_can_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "capd-extcap"
    program.write_text("")
    monkeypatch.setattr(installing, "_program", lambda: program)
    program.chmod(0o757)
    with pytest.raises(Exception, match="can be changed by others than root"):
        installing.install(for_all=True)
    program.chmod(0o755)
    os.chown(program, 1000, 1000)
    with pytest.raises(Exception, match="can be changed by others than root"):
        installing.install(for_all=True)
