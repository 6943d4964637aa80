"""Lists of system calls, as the programs with which the kernel holds a thread to them (seccomp). Pure.

Classic BPF, which looks at the call's number and at its arguments as they are in registers: at descriptors, flags and
lengths, and never at what an argument points to. See seccomp(2), Documentation/userspace-api/seccomp_filter.rst.
"""

import struct
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from capd.worker.confinement.system_calls import Architecture, number_of

#: linux/filter.h, linux/seccomp.h.
_LOAD_WORD = 0x20
_JUMP_IF_EQUAL = 0x15
_JUMP_IF_GREATER = 0x25
_AND = 0x54
_RETURN = 0x06
_KILL_PROCESS = 0x80000000
_TRAP = 0x00030000
_ERRNO = 0x00050000
_ALLOW = 0x7FFF0000

#: struct seccomp_data: number, architecture, instruction pointer, six arguments of 64 bits, each low word first.
_NUMBER_AT, _ARCHITECTURE_AT, _ARGUMENTS_AT = 0, 4, 16
_INSTRUCTION = struct.Struct("=HBBI")
#: The value of a name that has none: no descriptor, no process.
_NOBODY = 0xFFFFFFFF
_EPERM = 1

#: A number; or the name of one, which is only known in the process that the program is for.
Value = int | str


class Among(NamedTuple):
    """An argument, as the ``int`` that the kernel takes it for, is one of these."""

    argument: int
    values: tuple[Value, ...]


class NotAmong(NamedTuple):
    """It is none of these."""

    argument: int
    values: tuple[Value, ...]


class Above(NamedTuple):
    """It is greater, as an unsigned number."""

    argument: int
    value: int


class Bits(NamedTuple):
    """Of the bits of a mask, these are set and no others."""

    argument: int
    mask: int
    value: int


class Null(NamedTuple):
    """It is a pointer to nothing."""

    argument: int


Condition = Among | NotAmong | Above | Bits | Null


class Rule(NamedTuple):
    """A system call that is let through, where all conditions hold; several rules may be about the same one."""

    name: str
    conditions: tuple[Condition, ...] = ()
    #: Not let through, but refused with this error, as nothing to wonder about.
    errno: int = 0


class _Instruction(NamedTuple):
    code: int
    #: How many instructions are skipped, if it is so, and if not; one of ``_LABELS`` until that is known.
    jump_true: int
    jump_false: int
    k: Value


#: Where the rule's next condition begins; where the rule ends that does not hold.
_HOLDS, _FAILS = -1, -2


class CallFilter:
    """A program in which the numbers are still to be filled in that differ from process to process."""

    def __init__(self, rules: Sequence[Rule], architecture: Architecture, *, is_strict: bool) -> None:
        """Put a program together.

        Args:
            rules: what is let through; the first one that holds counts. What comes often comes first.
            architecture: of the processes; one that uses another's calls is killed.
            is_strict: all else raises SIGSYS, instead of failing with EPERM.
        """
        instructions = [
            _Instruction(_LOAD_WORD, 0, 0, _ARCHITECTURE_AT),
            _Instruction(_JUMP_IF_EQUAL, 1, 0, architecture),
            _Instruction(_RETURN, 0, 0, _KILL_PROCESS),
            _Instruction(_LOAD_WORD, 0, 0, _NUMBER_AT),
        ]
        for rule in rules:
            number = number_of(rule.name, architecture)
            if number is not None:
                instructions += _assembled(rule, number)
        # Those of x32 too, which are numbered from 0x40000000 on x86-64.
        instructions.append(_Instruction(_RETURN, 0, 0, _TRAP if is_strict else _ERRNO | _EPERM))
        self._program = b"".join(
            _INSTRUCTION.pack(each.code, each.jump_true, each.jump_false, each.k if isinstance(each.k, int) else 0)
            for each in instructions
        )
        self._blanks = [
            (at * _INSTRUCTION.size + _INSTRUCTION.size - 4, each.k)
            for at, each in enumerate(instructions)
            if isinstance(each.k, str)
        ]

    def filled_in(self, values: Mapping[str, int]) -> bytes:
        """Return the program as an array of struct sock_filter; nothing is equal to a name without a value."""
        program = bytearray(self._program)
        for at, name in self._blanks:
            struct.pack_into("=I", program, at, values.get(name, _NOBODY))
        return bytes(program)


def _assembled(rule: Rule, number: int) -> list[_Instruction]:
    """Return the instructions of a rule, which begin and end with the number loaded."""
    body: list[_Instruction] = []
    for condition in rule.conditions:
        check = _check(condition)
        body += [_resolved(each, at, _HOLDS, len(check)) for at, each in enumerate(check)]
    body.append(_Instruction(_RETURN, 0, 0, _ERRNO | rule.errno if rule.errno else _ALLOW))
    body = [_resolved(each, at, _FAILS, len(body)) for at, each in enumerate(body)]
    if rule.conditions:
        body.append(_Instruction(_LOAD_WORD, 0, 0, _NUMBER_AT))
    return [_Instruction(_JUMP_IF_EQUAL, 0, len(body), number), *body]


def _resolved(instruction: _Instruction, at: int, label: int, target: int) -> _Instruction:
    """Have the jumps to a label lead to its place, as counted from where the instruction's own is counted."""
    skipped = target - at - 1
    return instruction._replace(
        jump_true=skipped if instruction.jump_true == label else instruction.jump_true,
        jump_false=skipped if instruction.jump_false == label else instruction.jump_false,
    )


def _check(condition: Condition) -> list[_Instruction]:
    low = _ARGUMENTS_AT + 8 * condition.argument
    load = _Instruction(_LOAD_WORD, 0, 0, low)
    match condition:
        case Among(values=values):
            others = [_Instruction(_JUMP_IF_EQUAL, _HOLDS, 0, value) for value in values[:-1]]
            return [load, *others, _Instruction(_JUMP_IF_EQUAL, _HOLDS, _FAILS, values[-1])]
        case NotAmong(values=values):
            return [load, *(_Instruction(_JUMP_IF_EQUAL, _FAILS, 0, value) for value in values)]
        case Above(value=value):
            return [load, _Instruction(_JUMP_IF_GREATER, 0, _FAILS, value)]
        case Bits(mask=mask, value=value):
            return [load, _Instruction(_AND, 0, 0, mask), _Instruction(_JUMP_IF_EQUAL, 0, _FAILS, value)]
        case Null():
            is_zero = _Instruction(_JUMP_IF_EQUAL, 0, _FAILS, 0)
            return [load, is_zero, _Instruction(_LOAD_WORD, 0, 0, low + 4), is_zero]
