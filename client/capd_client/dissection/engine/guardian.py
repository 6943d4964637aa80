"""Guardian of a program of Wireshark's: a process of its own that starts it, and ends it with its owner.

Run by its path, with nothing but the standard library, so that it is there within some milliseconds. A process, since
one that is killed ends nothing: here its end is seen, as that of a socket. And the kernel ends the program where the
guardian is killed: by itself, and not when a thread of the owner ends, for the guardian has one.

Its standard streams are the program's. It ends as that does: with its status, or with 128 and the number of a signal.
"""

import contextlib
import ctypes
import os
import resource
import select
import signal
import sys

#: prctl(2).
_PR_SET_PDEATHSIG = 1
#: As a shell says it: what was to be started cannot be.
EXIT_NOT_STARTED = 127
#: Of what a program says, in memory. Chosen: what matters comes first.
_MOST_SAID_BYTES = 1024 * 1024
#: Added to the number of a signal.
SIGNALLED = 128


def _become_program(user_id: int, guardian_id: int, words: list[str]) -> None:
    os.setpgid(0, 0)
    # What it has in memory is not written to disks; and what it says is not kept without end: more cannot be written
    # then, which Python has the kernel say without a signal.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (_MOST_SAID_BYTES, _MOST_SAID_BYTES))
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    if user_id >= 0:
        os.setgroups([])
        os.setgid(user_id)
        os.setuid(user_id)
    # Last, since a change of the user undoes it.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() == guardian_id:
        os.execv(words[0], words)


def _start(user_id: int, words: list[str]) -> int:
    """Start the program; return the number of its process."""
    guardian_id = os.getpid()
    child = os.fork()
    if child:
        return child
    try:
        _become_program(user_id, guardian_id, words)
    except OSError as error:
        os.write(2, f"it cannot be started: {error.strerror}\n".encode())
    os._exit(EXIT_NOT_STARTED)


def _wake(_number: int, _frame: object) -> None:
    """Do nothing: that there is a handler makes the pipe readable."""


def main() -> None:
    """Take the descriptor of the owner's socket, the user to run as (-1: this one), and the program's words."""
    lifeline, user_id, words = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
    # Whatever ends makes a pipe readable: pidfd_open(2) is not everywhere.
    ended, ends = os.pipe()
    os.set_blocking(ends, False)
    signal.set_wakeup_fd(ends)
    signal.signal(signal.SIGCHLD, _wake)
    # The program has no word here.
    os.set_inheritable(lifeline, False)
    child = _start(user_id, words)
    # The program's streams are at their ends when it has closed them.
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in range(3):
        os.dup2(nowhere, descriptor)
    waiting = select.poll()
    waiting.register(lifeline, select.POLLIN)
    waiting.register(ended, select.POLLIN)
    waiting.poll()
    for number in (-child, child):  # its group, unless it has none yet
        with contextlib.suppress(OSError):  # it has ended
            os.kill(number, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    os._exit(SIGNALLED + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status))


if __name__ == "__main__":
    main()
