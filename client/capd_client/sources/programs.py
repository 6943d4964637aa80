"""Extcap programs: where they are, and what they answer.

Which there are is what directories have, never what a request says. They are run with this user's rights, and so only
those that belong to this user or to root.
"""

import contextlib
import glob
import os
import selectors
import signal
import stat
import subprocess
import time
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from capd_client.errors import InterfaceError
from capd_client.sources.opened import EXTCAP
from capd_client.sources.sentences import Sentence, interfaces_of, sentences_of
from capd_protocol.messages import Failure, FailureCode
from capd_protocol.text import quoted

#: What we understand: as Wireshark 4.0 calls it.
_VERSION = "--extcap-version=4.0"
#: How long programs may take to answer, all at once. Chosen: many times what one in Python takes on a busy machine.
_ANSWER_S = 5.0
#: Of an answer; what is longer is none. Chosen: many times the longest of Wireshark's own.
_MAX_ANSWER_BYTES = 1024 * 1024
_READ_BYTES = 65536

#: Under a user's home: capd's own directory, and Wireshark's, of 4.2 and later and of before.
_OUR_PERSONAL = ".local/lib/capd/extcap"
_PERSONAL = ".local/lib/wireshark/extcap"
_PERSONAL_CONFIGURATION = "wireshark/extcap"
#: Names Wireshark's global directory.
_WIRESHARK_VARIABLE = "WIRESHARK_EXTCAP_DIR"
_OUR_GLOBAL = "/usr/lib/capd/extcap"
#: Where distributions have it: with Debian in a directory of the machine's kind, since 4.6 in LIBEXECDIR.
_GLOBAL = (
    "/usr/lib/*-linux-*/wireshark/extcap",
    "/usr/lib/wireshark/extcap",
    "/usr/lib64/wireshark/extcap",
    "/usr/libexec/wireshark/extcap",
    "/usr/local/lib/wireshark/extcap",
    "/usr/local/libexec/wireshark/extcap",
)
#: Wireshark's own programs are there in 4.4.
WIRESHARKS_OWN = "wireshark"


class ExtcapInterface(NamedTuple):
    """An interface of an extcap program.

    Attributes:
        name: the program's for it.
        display: what it is, for people.
        program: its path.
    """

    name: str
    display: str
    program: str


def personal_directories() -> list[str]:
    """Return where Wireshark looks for this user's programs: 4.2 and later, and before."""
    home = os.path.expanduser("~")  # noqa: PTH111
    configuration = os.environ.get("XDG_CONFIG_HOME") or os.path.join(home, ".config")  # noqa: PTH118
    return [os.path.join(home, _PERSONAL), os.path.join(configuration, _PERSONAL_CONFIGURATION)]  # noqa: PTH118


def global_directories() -> list[str]:
    """Return where Wireshark looks for everybody's programs, as far as that is there."""
    return [path for each in _GLOBAL for path in sorted(glob.glob(each))]  # noqa: PTH207


def directories() -> list[str]:
    """Return where programs are looked for, first those that are taken first."""
    found = [os.path.join(os.path.expanduser("~"), _OUR_PERSONAL), *personal_directories(), _OUR_GLOBAL]  # noqa: PTH111, PTH118
    named = os.environ.get(_WIRESHARK_VARIABLE)
    found += [os.path.abspath(named)] if named else global_directories()  # noqa: PTH100
    return [path for each in found for path in (each, os.path.join(each, WIRESHARKS_OWN))]  # noqa: PTH118


def programs() -> list[str]:
    """Return the paths of all programs; of several of one name, the first one's."""
    found: dict[str, str] = {}
    for directory in directories():
        with contextlib.suppress(OSError):
            for each in sorted(os.listdir(directory)):  # noqa: PTH208
                path = os.path.join(directory, each)  # noqa: PTH118
                if each not in found and _may_be_run(path):
                    found[each] = path
    return list(found.values())


def _may_be_run(path: str) -> bool:
    """Whether it is a program, and nobody's whose word would be this user's then."""
    try:
        status = os.stat(path)  # noqa: PTH116
    except OSError:
        return False
    is_trusted = status.st_uid in (0, os.geteuid()) and not status.st_mode & stat.S_IWOTH
    return stat.S_ISREG(status.st_mode) and is_trusted and os.access(path, os.X_OK)


def interfaces() -> tuple[list[ExtcapInterface], list[str]]:
    """Return the interfaces of all programs, and the paths of those programs that did not answer."""
    paths = programs()
    answers = ask([[path, "--extcap-interfaces", _VERSION] for path in paths])
    found: dict[str, ExtcapInterface] = {}
    for path, answer in zip(paths, answers, strict=True):
        for name, display in interfaces_of(sentences_of(answer or b"")):
            found.setdefault(name, ExtcapInterface(name, display, path))
    return list(found.values()), [path for path, answer in zip(paths, answers, strict=True) if answer is None]


def interface_of(name: str) -> ExtcapInterface:
    """Return an interface by its name.

    Raises:
        InterfaceError: no program has one of that name.
    """
    found, silent = interfaces()
    for each in found:
        if each.name == name:
            return each
    have = f"there are {_names(each.name for each in found)}" if found else "there are none"
    text = f"no extcap program has an interface {quoted(name)}: {have}"
    if silent:
        text += f"; {_names(silent)} gave no answer within {_ANSWER_S:g} s"
    raise InterfaceError(text, Failure(code=FailureCode.NO_SUCH_INTERFACE, text=text, interface=EXTCAP + name))


def _names(names: Iterable[str]) -> str:
    return ", ".join(map(quoted, names))


def answer_of(interface: ExtcapInterface, question: str) -> list[Sentence]:
    """Return what a program says of an interface of its own.

    Args:
        interface: this one.
        question: such as ``--extcap-config``.

    Raises:
        InterfaceError: it does not answer.
    """
    (answer,) = ask([[interface.program, question, "--extcap-interface", interface.name]])
    if answer is None:
        text = f"{quoted(interface.program)} gave no answer to {question} within {_ANSWER_S:g} s"
        failure = Failure(code=FailureCode.NO_SUCH_INTERFACE, text=text, interface=EXTCAP + interface.name)
        raise InterfaceError(text, failure)
    return sentences_of(answer)


# Asking --------------------------------------------------------------------------------------------------------------


def ask(commands: Sequence[Sequence[str]]) -> list[bytes | None]:
    """Run programs side by side; return what each writes, None for one that does not end in time, or never begins."""
    deadline_s = time.monotonic() + _ANSWER_S
    answers: list[bytes | None] = [None] * len(commands)
    running: dict[int, subprocess.Popen[bytes]] = {}
    try:
        with selectors.DefaultSelector() as selector:
            for number, command in enumerate(commands):
                with contextlib.suppress(OSError):  # such as a script whose interpreter is not there
                    running[number] = _started(command)
                    selector.register(_output(running[number]), selectors.EVENT_READ, number)
            parts: dict[int, bytes] = dict.fromkeys(running, b"")
            while selector.get_map():
                ready = selector.select(max(0.0, deadline_s - time.monotonic()))
                if not ready:
                    break
                for key, _ in ready:
                    number = key.data
                    read = os.read(key.fd, _READ_BYTES)
                    parts[number] += read
                    if not read or len(parts[number]) > _MAX_ANSWER_BYTES:
                        selector.unregister(key.fileobj)
                        answers[number] = None if read else parts[number]
    finally:
        for process in running.values():
            _end(process)
    return answers


def _started(command: Sequence[str]) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def _output(process: "subprocess.Popen[bytes]") -> int:
    assert process.stdout is not None
    return process.stdout.fileno()


def _end(process: "subprocess.Popen[bytes]") -> None:
    """End a program that has answered, or has not."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    with process:  # which closes its output, and waits
        pass
