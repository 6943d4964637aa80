"""An SSH server for root of this machine, with a key of the tests' own, in the calling thread's network namespace."""

import contextlib
import shlex
import subprocess
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import NamedTuple

_PASSWD = Path("/etc/passwd")
_PATIENCE_S = 20.0


class Server(NamedTuple):
    """A server that listens.

    Attributes:
        command: of a client, with all options; what is to be done there follows.
    """

    command: tuple[str, ...]


@contextlib.contextmanager
def ssh_server(directory: Path, environment: Mapping[str, str], port: int = 22) -> Generator[Server, None, None]:
    """Have a server listen at the loopback address. The accounts are the tests' own (``tests.support.accounts``).

    Args:
        directory: new, for keys and as root's home.
        environment: that commands have there.
        port: at which it listens.
    """
    home = directory / "home"
    (home / ".ssh").mkdir(parents=True, mode=0o700)
    own, host = directory / "id", directory / "host"
    for path, command in (
        (own, ("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(own))),
        (host, ("dropbearkey", "-t", "ed25519", "-f", str(host))),
    ):
        subprocess.run(command, check=True, capture_output=True, timeout=_PATIENCE_S)
        path.chmod(0o600)
    (home / ".ssh/authorized_keys").write_text(own.with_suffix(".pub").read_text())
    # Which Debian's bash reads for whoever comes over ssh, too.
    (home / ".bashrc").write_text(
        "".join(f"export {name}={shlex.quote(value)}\n" for name, value in environment.items())
    )
    before = _PASSWD.read_text()
    others = [line for line in before.splitlines() if not line.startswith("root:")]
    _PASSWD.write_text("\n".join([f"root:x:0:0:root:{home}:/bin/bash", *others, ""]))
    words = ("dropbear", "-F", "-E", "-s", "-m", "-r", str(host), "-p", f"127.0.0.1:{port}")
    try:
        with subprocess.Popen((*words, "-P", str(directory / "pid")), stderr=subprocess.PIPE, text=True) as server:
            try:
                assert server.stderr is not None
                for line in server.stderr:
                    if "Not backgrounding" in line:
                        break
                yield Server(
                    (
                        *("ssh", "-F", "none", "-i", str(own), "-p", str(port), "-o", "BatchMode=yes"),
                        *("-o", "StrictHostKeyChecking=no", "-o", f"UserKnownHostsFile={directory / 'known'}"),
                        *("-o", "LogLevel=ERROR", "-l", "root", "127.0.0.1"),
                    )
                )
            finally:
                server.kill()
    finally:
        _PASSWD.write_text(before)
