"""Lists of system calls as programs: run here as the kernel runs them, for both architectures."""

import ctypes
import errno
import struct
from collections.abc import Sequence

import pytest

from capd.worker.confinement.call_filter import Above, Among, Bits, CallFilter, NotAmong, Null, Rule
from capd.worker.confinement.lists import CHANNEL, CONTROL, FILES, LISTS, PACKETS, PROCESS, SIGNALLED, TOLD, Role
from capd.worker.confinement.system_calls import Architecture, name_of, number_of

ALLOW, KILL, TRAP, ERRNO = 0x7FFF0000, 0x80000000, 0x00030000, 0x00050000
REFUSE = ERRNO | errno.EPERM
X86_64, AARCH64 = Architecture
#: AUDIT_ARCH_I386, and the bit that marks calls of x32.
I386, X32 = 0x40000003, 0x40000000
#: The kernel's limit (BPF_MAXINSNS).
MOST_INSTRUCTIONS = 4096
VALUES = {CONTROL: 3, SIGNALLED: 7, TOLD: 9, FILES: 5, PROCESS: 4711, CHANNEL: 11, PACKETS: 13}


def run(program: bytes, number: int, architecture: int, arguments: Sequence[int] = ()) -> int:
    """Return what a program says to a system call."""
    data = struct.pack("=IIQ6Q", number, architecture, 0, *arguments, *[0] * (6 - len(arguments)))
    instructions = list(struct.iter_unpack("=HBBI", program))
    accumulator, at = 0, 0
    while True:
        code, jump_true, jump_false, k = instructions[at]
        at += 1
        match code:
            case 0x20:
                (accumulator,) = struct.unpack_from("=I", data, k)
            case 0x54:
                accumulator &= k
            case 0x15:
                at += jump_true if accumulator == k else jump_false
            case 0x25:
                at += jump_true if accumulator > k else jump_false
            case 0x06:
                return int(k)
            case _:
                raise AssertionError(f"no instruction that there is: {code:#x}")


def verdict(rules: Sequence[Rule], name: str, *arguments: int, architecture: Architecture = X86_64) -> int:
    """Return what a list says to a system call."""
    number = number_of(name, architecture)
    assert number is not None
    program = CallFilter(rules, architecture, is_strict=False).filled_in(VALUES)
    return run(program, number, architecture, [argument & 0xFFFFFFFFFFFFFFFF for argument in arguments])


# Programs -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", Architecture)
def test_what_is_in_the_list_is_let_through_and_nothing_else(architecture: Architecture) -> None:
    rules = [Rule("read"), Rule("openat"), Rule("epoll_wait"), Rule("futex")]
    named = {number_of(rule.name, architecture) for rule in rules} - {None}
    assert len(named) == (4 if architecture == X86_64 else 3)
    program = CallFilter(rules, architecture, is_strict=False).filled_in({})
    for number in [*range(500), X32, X32 + 1, 0xFFFFFFFF]:
        assert run(program, number, architecture) == (ALLOW if number in named else REFUSE)


@pytest.mark.parametrize("architecture", Architecture)
def test_who_uses_the_calls_of_another_architecture_is_killed(architecture: Architecture) -> None:
    program = CallFilter([Rule("read")], architecture, is_strict=False).filled_in({})
    for other in {*Architecture, I386, 0} - {architecture}:
        for number in (0, 63):
            assert run(program, number, other) == KILL


def test_a_strict_program_signals_but_where_it_refuses_quietly() -> None:
    program = CallFilter([Rule("clone3", errno=errno.ENOSYS)], X86_64, is_strict=True).filled_in({})
    assert run(program, 435, X86_64) == ERRNO | errno.ENOSYS
    assert run(program, 0, X86_64) == TRAP


@pytest.mark.parametrize(
    ("condition", "let_through", "refused"),
    [
        (Among(1, (5, CONTROL, 7)), [5, 3, 7, 5 | 1 << 32], [0, 4, 6, 8, -1]),
        (Among(1, (5,)), [5], [4, 6]),
        (Among(1, ("nothing",)), [], [0, 5, 0x7FFFFFFF]),
        (NotAmong(1, (5, CONTROL)), [0, 4, 6, -1], [5, 3, 3 | 1 << 32]),
        (Above(1, 2), [3, 900, -1], [0, 1, 2, 2 | 1 << 32]),
        (Bits(1, 0x0F, 2), [2, 0x80002, 0xF2], [0, 1, 3, 6]),
        (Null(1), [0], [1, 1 << 32, -1]),
    ],
)
def test_an_argument_is_looked_at(condition: Among, let_through: list[int], refused: list[int]) -> None:
    rules = [Rule("read"), Rule("sendto", (Above(0, 2), condition, Above(2, 2))), Rule("write")]
    for value in let_through:
        assert verdict(rules, "sendto", 3, value, 3) == ALLOW, value
        assert verdict(rules, "sendto", 0, value, 3) == REFUSE
        assert verdict(rules, "sendto", 3, value, 0) == REFUSE
    for value in refused:
        assert verdict(rules, "sendto", 3, value, 3) == REFUSE, value
    assert verdict(rules, "write") == ALLOW


def test_of_several_rules_about_a_call_one_must_hold_and_the_first_counts() -> None:
    rules = [Rule("socket", (Among(0, (1,)),)), Rule("socket", (Among(0, (2,)),), 97), Rule("socket", (Above(0, 8),))]
    verdicts = [verdict(rules, "socket", family) for family in (1, 2, 3, 9)]
    assert verdicts == [ALLOW, ERRNO | 97, REFUSE, ALLOW]


# Numbers --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", Architecture)
def test_the_numbers_are_those_of_libseccomp(architecture: Architecture) -> None:
    library = ctypes.CDLL("libseccomp.so.2")  # systemd's
    library.seccomp_syscall_resolve_num_arch.restype = ctypes.c_void_p
    checked = 0
    for number in range(430):  # it may be older than others
        address = library.seccomp_syscall_resolve_num_arch(ctypes.c_uint32(architecture), ctypes.c_int(number))
        if address:
            name = ctypes.string_at(address).decode()
            assert (name_of(number, architecture), number_of(name, architecture)) == (name, number)
            checked += 1
    assert checked >= 280


def test_an_unknown_name_is_a_mistake() -> None:
    with pytest.raises(KeyError):
        number_of("raed", X86_64)
    assert number_of("epoll_wait", AARCH64) is None
    assert name_of(9999, X86_64) == "number 9999"


# The lists of workers -------------------------------------------------------------------------------------------------

EVERYWHERE = (
    "execve execveat ptrace kill tkill connect listen accept4 unshare setns mount io_uring_setup sendfile splice"
)


@pytest.mark.parametrize("architecture", Architecture)
@pytest.mark.parametrize("role", [each for each in Role if each != Role.SENDING])
def test_a_worker_may_do_its_work_and_nothing_else(role: Role, architecture: Architecture) -> None:
    rules = LISTS[role]
    program = CallFilter(rules, architecture, is_strict=False).filled_in(VALUES)
    assert len(program) // 8 <= MOST_INSTRUCTIONS

    def of(name: str, *arguments: int) -> int:
        return verdict(rules, name, *arguments, architecture=architecture)

    for name in [*EVERYWHERE.split(), "dup", "dup3", "close_range", "pwritev2", "sendmmsg", "writev", "socketpair"]:
        assert of(name) == REFUSE, name
    for name in ("futex", "munmap", "exit_group"):
        assert of(name) == ALLOW, name
    for name in ("openat", "newfstatat"):
        assert of(name) == (REFUSE if role == Role.COMPRESSING else ALLOW), name
    assert of("tgkill", VALUES[PROCESS]) == ALLOW
    assert of("tgkill", 1) == REFUSE
    assert of("mmap", 0, 4096, 3) == ALLOW
    assert of("mmap", 0, 4096, 7) == of("mprotect", 0, 4096, 4) == REFUSE
    captures = role in (Role.FILES, Role.RECORDER)
    for number in (0, 1, 2, *VALUES.values(), 8, 100):
        may_write = {
            Role.FILES: (2, 7),
            Role.RECORDER: (2, 7, 9),
            Role.SNAPSHOT: (2, 9),
            Role.COMPRESSING: (2, 9),
            Role.PASSING: (2,),
        }[role]
        assert of("write", number) == (ALLOW if number in may_write else REFUSE)
        assert of("sendmsg", number) == (ALLOW if role == Role.PASSING and number == 5 else REFUSE)
        assert of("sendto", number, 0, 0, 0, 0) == (ALLOW if captures and number == 3 else REFUSE)
        assert of("sendto", number, 0, 0, 0, 1) == of("sendto", number, 0, 0, 0, 1 << 40) == REFUSE
        protected = (5,) if role == Role.PASSING else (3, 7, 9)
        may_close = role != Role.COMPRESSING and number > 2 and number not in protected
        assert of("close", number) == (ALLOW if may_close else REFUSE)
        assert of("pwrite64", number) == (ALLOW if number > 2 and role != Role.PASSING else REFUSE)
    assert of("recvmsg") == (ALLOW if captures else REFUSE)
    threads = ALLOW if role == Role.RECORDER else REFUSE
    assert of("clone", 0x003D0F00) == threads  # as glibc starts one
    assert of("clone", 0x007D8F00 | 0x10000) == REFUSE  # with CLONE_PARENT
    assert of("clone", 17) == of("clone", 0x00010F00 | 0x20000000) == REFUSE
    assert of("clone3") == (ERRNO | errno.ENOSYS if role == Role.RECORDER else REFUSE)


@pytest.mark.parametrize("architecture", Architecture)
def test_a_process_that_sends_may_do_that_and_nothing_else(architecture: Architecture) -> None:
    rules = LISTS[Role.SENDING]

    def of(name: str, *arguments: int) -> int:
        return verdict(rules, name, *arguments, architecture=architecture)

    others = "dup dup3 close_range pwritev2 pwrite64 pwritev sendmsg sendmmsg writev socketpair recvmsg recvmmsg read"
    others += " openat socket bind setsockopt getsockopt ioctl fcntl epoll_create1 clone clone3 prctl memfd_create"
    for name in [*EVERYWHERE.split(), *others.split()]:
        assert of(name) == REFUSE, name
    for number in (0, 1, 2, *VALUES.values(), 8, 100):
        assert of("sendto", number, 0, 0, 0, 0) == (ALLOW if number in (3, 11, 13) else REFUSE)
        assert of("recvfrom", number, 0, 0, 0, 0) == (ALLOW if number in (3, 11) else REFUSE)
        assert of("write", number) == (ALLOW if number == 2 else REFUSE)
        for address in (1, 1 << 40):
            assert of("sendto", number, 0, 0, 0, address) == REFUSE
    assert of("mmap", 0, 4096, 7) == of("mprotect", 0, 4096, 4) == REFUSE
    assert of("ppoll") == ALLOW
