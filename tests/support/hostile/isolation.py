"""Namespaces of which nothing is left: mounts, network and processes of their own, which go with the first process."""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Generator, Sequence
from pathlib import Path

from tests.support.attack import Channel, User, UserProcess, process_of
from tests.support.namespace import enter_private_network_namespace

# linux/sched.h
_CLONE_NEWNS = 0x00020000
_CLONE_NEWPID = 0x20000000
_PR_SET_PDEATHSIG = 1

#: Where the directory is: on each Linux (shm_open(3)), without programs in it, and short enough for sockets' paths.
_PLACE = Path("/dev/shm")

#: What ends the command; passed on to the first process inside.
_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

_libc = ctypes.CDLL(None, use_errno=True)


def _unshare(flags: int) -> None:
    if _libc.unshare(flags) != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"cannot make namespaces: {os.strerror(error)}")


def run_isolated(function: Callable[[Path], int], size_mib: int) -> int:
    """Run a function as the first process of new namespaces; return its status, 1 where it raised or was killed.

    When it ends, in whatever way, the kernel kills all processes that it has left, and all that it has mounted and
    all interfaces that it has made are gone. It also ends with the calling process, and at once with SIGINT, SIGTERM
    or SIGHUP to that one, which can start no other process afterwards (CLONE_NEWPID, unshare(2)).

    Args:
        function: gets an empty directory in memory that everybody may enter.
        size_mib: of that directory.

    Raises:
        OSError: namespaces cannot be made here.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    _unshare(_CLONE_NEWPID)  # of children, not of this process
    # Whoever is asked to end before both are ready for it is so then.
    signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            status = _run_first(function, size_mib)
        except BaseException:
            traceback.print_exc()
        finally:
            with contextlib.suppress(OSError):
                sys.stdout.flush()
            os._exit(status)

    def pass_on(number: int, _: object) -> None:
        with contextlib.suppress(ProcessLookupError):  # it has just ended
            os.kill(child, number)

    for each in _ENDING:
        signal.signal(each, pass_on)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDING)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return status if status >= 0 else 1


def _run_first(function: Callable[[Path], int], size_mib: int) -> int:
    # A terminal's Ctrl-C comes from the process outside, once.
    os.setsid()
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    for each in _ENDING:
        signal.signal(each, _give_up)
    _unshare(_CLONE_NEWNS)
    enter_private_network_namespace()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDING)
    _run("mount", "--make-rprivate", "/")
    _run("mount", "-t", "proc", "proc", "/proc")
    mount_memory(_PLACE, size_mib)
    return function(_PLACE)


def _give_up(number: int, _: object) -> None:
    """End all processes: the kernel does that when the first one ends."""
    os.write(2, f"\n{signal.strsignal(number)}: nothing is judged\n".encode())
    os._exit(1)


@contextlib.contextmanager
def logged_in(
    user: User, function: Callable[[Channel], object], *, keep: Sequence[int] = ()
) -> Generator[UserProcess, None, None]:
    """Run a function in a process of a user, as ``process_of``, in a session of its own, as users have theirs.

    The kernel divides processors among sessions (sched_autogroup, sched(7)): in one together, those who measure would
    wait for those who attack.
    """

    def run(channel: Channel) -> None:
        os.setsid()
        function(channel)

    with process_of(user, run, keep=keep) as process:
        yield process


def mount_memory(directory: Path, size_mib: int) -> None:
    """Mount a file system in memory, which root may write to and everybody may enter."""
    _run("mount", "-t", "tmpfs", "-o", f"size={size_mib}m,mode=755", "tmpfs", str(directory))


def add_accounts(place: Path, accounts: dict[str, int]) -> None:
    """Have accounts with groups of the same names and numbers; other processes of the machine do not see them."""
    for file, line in (
        ("passwd", "{name}:x:{number}:{number}::/:/usr/sbin/nologin\n"),
        ("group", "{name}:x:{number}:\n"),
    ):
        system, own = Path("/etc", file), place / file
        lines = [line.format(name=name, number=number) for name, number in accounts.items()]
        own.write_text(system.read_text() + "".join(lines))
        _run("mount", "--bind", str(own), str(system))


def _run(*command: str) -> None:
    subprocess.run(command, check=True, timeout=10, stdin=subprocess.DEVNULL)
