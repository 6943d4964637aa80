"""What other people's tools say of our files."""

import contextlib
import json
import os
import socket
import struct
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.support.daemon import children_of, is_spare
from tests.support.namespace import network_namespace_of


def _run(*command: str | Path) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, f"{command}: {done.stderr}"
    complaints = [line for line in done.stderr.splitlines() if line and "Running as user" not in line]
    assert complaints == [], f"{command}: {complaints}"
    return done.stdout


def capinfos(path: Path | str, *options: str) -> dict[str, str]:
    """Return what capinfos says of a file, by its own labels; a complaint fails the test."""
    lines = _run("capinfos", "-M", *options, Path(path)).splitlines()
    return {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}


def packets_of(path: Path | str) -> int:
    """Return how many packets capinfos counts."""
    return int(capinfos(path, "-c")["Number of packets"])


def packets_of_each(paths: Sequence[Path]) -> list[int]:
    """Return the same of many files, in one run."""
    lines = [line.partition(":") for line in _run("capinfos", "-M", "-c", *paths).splitlines()]
    return [int(value) for name, _, value in lines if name == "Number of packets"]


def tshark_fields(path: Path | str, *fields: str, display_filter: str = "") -> list[tuple[str, ...]]:
    """Return these fields of each packet as tshark reads it; a complaint fails the test."""
    options = [part for field in fields for part in ("-e", field)]
    only = ["-Y", display_filter] if display_filter else []
    output = _run("tshark", "-n", "-r", Path(path), "-T", "fields", *only, *options)
    return [tuple(line.split("\t")) for line in output.splitlines()]


def tshark_packets(path: Path | str) -> list[Any]:
    """Return each packet as tshark's JSON, with raw bytes."""
    packets: list[Any] = json.loads(_run("tshark", "-n", "-r", Path(path), "-T", "jsonraw"))
    return packets


def ip_json(*arguments: str) -> Any:
    """Return what ``ip -j`` says."""
    return json.loads(_run("ip", "-j", *arguments) or "[]")


def numbered_descriptors_of(process_id: int, thread_id: int | None = None) -> dict[int, str]:
    """Return what the descriptors of a process, or of one of its threads, are open on, by their numbers."""
    found: dict[int, str] = {}
    for entry in Path(f"/proc/{process_id}/task/{thread_id or process_id}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            found[int(entry.name)] = os.readlink(entry)  # noqa: PTH115  # sockets are no paths
    return found


def descriptors_of(process_id: int) -> list[str]:
    """Return what a process's descriptors are open on."""
    return list(numbered_descriptors_of(process_id).values())


def busy_descriptors_of(process_id: int) -> list[str]:
    """Return the same of a daemon, but for what it keeps ahead for the next capture.

    That is one packet socket that receives nothing, a ring: it comes a moment after a capture was asked for, and stays
    a minute. And the process and the control socket of each worker that waits, another one soon after each capture.
    """
    while True:
        spares = list(filter(is_spare, children_of(process_id)))
        found = _busy_descriptors_of(process_id, spares)
        # One that has gone meanwhile was taken or has ended, and what is of it may be counted, or not.
        if spares == list(filter(is_spare, children_of(process_id))):
            return found


def _busy_descriptors_of(process_id: int, spares: Sequence[int]) -> list[str]:
    found = descriptors_of(process_id)
    rows = [line.split() for line in Path(f"/proc/{process_id}/net/packet").read_text().splitlines()[1:]]
    inert = {f"socket:[{inode}]" for _, _, _, protocol, *_, inode in rows if protocol == "0000"}
    ahead = [next((each for each in found if each in inert), ""), *_kept_for(process_id, spares)]
    for each in ahead:
        if each in found:
            found.remove(each)
    return found


def _kept_for(process_id: int, spares: Sequence[int]) -> list[str]:
    """Return what the daemon has open on workers that wait."""
    processes = sum(_process_of(entry) in spares for entry in Path(f"/proc/{process_id}/fdinfo").iterdir())
    kept = ["anon_inode:[pidfd]"] * processes
    peers = _peers_of_sockets(process_id) if spares else {}
    # One that has just been forked still has what its spawner has.
    inherited: set[str] = set()
    for child in children_of(process_id) if spares else ():
        if child not in spares:
            with contextlib.suppress(FileNotFoundError, PermissionError):
                inherited.update(descriptors_of(child))
    for spare in spares:
        with contextlib.suppress(FileNotFoundError, PermissionError):  # it has ended
            for theirs in descriptors_of(spare):
                if theirs in peers and theirs not in inherited:
                    kept.append(peers[theirs])
    return kept


#: linux/netlink.h, linux/sock_diag.h, linux/unix_diag.h.
_NETLINK_SOCK_DIAG, _SOCK_DIAG_BY_FAMILY = 4, 20
_NLM_F_REQUEST, _NLM_F_DUMP = 1, 0x300
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_UDIAG_SHOW_PEER, _UNIX_DIAG_PEER = 4, 2
_HEADER, _QUESTION, _ANSWER = struct.Struct("=IHHII"), struct.Struct("=BBHIIIII"), struct.Struct("=BBBBIII")
_ATTRIBUTE = struct.Struct("=HHI")


def _peers_of_sockets(process_id: int) -> dict[str, str]:
    """Return of each Unix socket in a process's network namespace what it is connected to."""
    peers: dict[str, str] = {}
    with (
        network_namespace_of(process_id),
        socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG) as netlink,
    ):
        question = _QUESTION.pack(socket.AF_UNIX, 0, 0, 0xFFFFFFFF, 0, _UDIAG_SHOW_PEER, 0, 0)
        size = _HEADER.size + len(question)
        netlink.send(_HEADER.pack(size, _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST | _NLM_F_DUMP, 1, 0) + question)
        while True:
            data, at = netlink.recv(1 << 18), 0
            while at < len(data):
                size, kind, *_ = _HEADER.unpack_from(data, at)
                assert kind != _NLMSG_ERROR
                if kind == _NLMSG_DONE:
                    return peers
                inode = _ANSWER.unpack_from(data, at + _HEADER.size)[4]
                if size > _HEADER.size + _ANSWER.size:
                    _, attribute, peer = _ATTRIBUTE.unpack_from(data, at + _HEADER.size + _ANSWER.size)
                    if attribute == _UNIX_DIAG_PEER:
                        peers[f"socket:[{inode}]"] = f"socket:[{peer}]"
                at += (size + 3) & ~3


def _process_of(fdinfo: Path) -> int:
    """Return the id of the process that a descriptor is open on; 0 if on none."""
    with contextlib.suppress(FileNotFoundError):  # closed meanwhile
        for line in fdinfo.read_text().splitlines():
            if line.startswith("Pid:"):
                return int(line.partition(":")[2])
    return 0


def unmount(mount: Path) -> None:
    """Unmount a file system as soon as nothing is open there: what a capture has left there is closed meanwhile."""
    deadline_s = time.monotonic() + 20
    while subprocess.run(["umount", str(mount)], check=False, timeout=30, capture_output=True).returncode:
        assert time.monotonic() < deadline_s, "something is still open there"
        time.sleep(0.02)
