"""Classic BPF programs: joined, and kept from looking at more of a packet than they may. Pure.

A program is an array of struct sock_filter (linux/filter.h). What instructions do, and which values the kernel adds
to the packet, is in Documentation/networking/filter.rst.
"""

import struct
from itertools import accumulate
from typing import NamedTuple

#: struct sock_filter.
INSTRUCTION = struct.Struct("=HBBI")

CLASS, LOAD, LOAD_X, JUMP, RETURN = 0x07, 0x00, 0x01, 0x05, 0x06
_STORE, _STORE_X, _CALCULATE, _COPY = 0x02, 0x03, 0x04, 0x07  # BPF_ST, BPF_STX, BPF_ALU, BPF_MISC
MODE, ABSOLUTE, INDIRECT, HEADER_LENGTH = 0xE0, 0x20, 0x40, 0xA0  # BPF_ABS, BPF_IND, BPF_MSH
_MEMORY = 0x60
_WITH_X = 0x08
LOAD_WORD = 0x20  # BPF_LD | BPF_W | BPF_ABS
JUMP_ALWAYS, JUMP_IF_EQUAL, JUMP_IF_GREATER = 0x05, 0x15, 0x25
_ADD, _A_FROM_X = 0x04, 0x87  # BPF_ALU | BPF_ADD | BPF_K, BPF_MISC | BPF_TXA
_SIZE = 0x18
_SIZES_BYTES = {0x00: 4, 0x08: 2, 0x10: 1}
#: A conditional jump has eight bits for each of its ways.
_LONGEST_JUMP = 255

#: Values that the kernel adds to the packet, as if they stood in it from here on (SKF_AD_…).
ANCILLARY = 0xFFFFF000
PROTOCOL, PACKET_TYPE, INTERFACE_INDEX, HARDWARE_TYPE = (ANCILLARY + offset for offset in (0, 4, 8, 28))
_NETLINK_ATTRIBUTES = ANCILLARY + 12, ANCILLARY + 16
_XOR_WITH_X, _VLAN_TAG, VLAN_TAG_PRESENT, _RANDOM, _VLAN_TYPE = (ANCILLARY + offset for offset in (40, 44, 48, 56, 60))
#: The bytes of a frame that say which protocol it has, or that it has a VLAN tag, end here.
_TYPE_END_BYTES = 14
#: How much of a packet has the same values. All else is worked out from the packet (a hash of its ports, where its
#: payload begins, its netlink attributes), or may be (the processor and queue that it came by, its mark).
_ANCILLARY_END_BYTES = {
    PROTOCOL: _TYPE_END_BYTES,
    PACKET_TYPE: 0,
    INTERFACE_INDEX: 0,
    HARDWARE_TYPE: 0,
    _XOR_WITH_X: 0,
    _VLAN_TAG: _TYPE_END_BYTES,
    VLAN_TAG_PRESENT: _TYPE_END_BYTES,
    _RANDOM: 0,
    _VLAN_TYPE: _TYPE_END_BYTES,
}


#: What the kernel makes of an instruction, at most, in instructions of its own (bpf_convert_filter() in
#: net/core/filter.c; measured on 6.18): loads by class and mode, values beside the packet, divisions, all others.
_KERNEL_LOADS = {(LOAD, ABSOLUTE): 16, (LOAD, INDIRECT): 9, (LOAD_X, HEADER_LENGTH): 19}
_KERNEL_ANCILLARY, _KERNEL_DIVISION, _KERNEL_OTHERS = 4, 5, 1
_DIVISIONS = (0x3C, 0x9C)  # BPF_ALU | BPF_DIV | BPF_X, BPF_ALU | BPF_MOD | BPF_X
_KERNEL_INSTRUCTION_BYTES = 8
_LARGEST_IMMEDIATE = 2**31 - 1
#: struct bpf_prog, and what stands before every program. Measured: 120; it has grown over the years.
_KERNEL_PROGRAM_BYTES = 256


class Instruction(NamedTuple):
    """One of a program."""

    code: int
    jump_true: int = 0
    jump_false: int = 0
    k: int = 0

    @property
    def is_load_from_packet(self) -> bool:
        """Whether it loads a byte or more of the packet, or a value that the kernel adds."""
        return self.code & CLASS in (LOAD, LOAD_X) and self.code & MODE in (ABSOLUTE, INDIRECT, HEADER_LENGTH)

    @property
    def size_bytes(self) -> int:
        """How much of the packet it loads."""
        return _SIZES_BYTES[self.code & _SIZE]

    @property
    def is_conditional(self) -> bool:
        """Whether it is a jump with two ways."""
        return self.code & CLASS == JUMP and self.code != JUMP_ALWAYS


_TAKE_NOTHING = Instruction(RETURN, k=0)


def parse(program: bytes) -> list[Instruction]:
    """Return the instructions of a program."""
    return [Instruction(*fields) for fields in INSTRUCTION.iter_unpack(program)]


def assemble(instructions: list[Instruction]) -> bytes:
    """Return the program of these instructions."""
    return b"".join([INSTRUCTION.pack(*instruction) for instruction in instructions])


def count(program: bytes) -> int:
    """Return how many instructions a program has."""
    return len(program) // INSTRUCTION.size


def kernel_bytes(program: bytes) -> int:
    """Return how much memory the kernel takes for a program, about: a little less than this."""
    made = sum(_in_kernel(instruction) for instruction in parse(program))
    return _KERNEL_PROGRAM_BYTES + made * _KERNEL_INSTRUCTION_BYTES


def _in_kernel(instruction: Instruction) -> int:
    if instruction.is_load_from_packet:
        if instruction.code & MODE == ABSOLUTE and instruction.k >= ANCILLARY:
            return _KERNEL_ANCILLARY
        return _KERNEL_LOADS.get((instruction.code & CLASS, instruction.code & MODE), _KERNEL_OTHERS)
    if instruction.code in _DIVISIONS:
        return _KERNEL_DIVISION
    # Jumps have one way there, and return takes a move; numbers beyond 31 bits are loaded first.
    is_two = (instruction.jump_true and instruction.jump_false) or instruction.code & CLASS == RETURN
    return _KERNEL_OTHERS + bool(is_two) + (instruction.k > _LARGEST_IMMEDIATE)


def joined(first: bytes, second: bytes) -> bytes:
    """Return a program that takes what both take, and of it as much as the second one does.

    Programs are joined and not texts: so nothing that the second text says can change what the first one means, not
    even ``vlan``, which shifts the offsets of all that follows it.
    """
    instructions = parse(first)
    for at, instruction in enumerate(instructions):
        if instruction.code == RETURN and instruction.k:
            instructions[at] = Instruction(JUMP_ALWAYS, k=len(instructions) - at - 1)
    return assemble(instructions) + second


def is_without_loops(program: bytes) -> bool:
    """Whether a program only goes forward, as the kernel wants it; libpcap makes a loop of ``protochain``."""
    instructions = parse(program)
    # A jump backwards is one by nearly 2^32.
    return all(
        instruction.code != JUMP_ALWAYS or at + 1 + instruction.k < len(instructions)
        for at, instruction in enumerate(instructions)
    )


def is_self_contained(program: bytes) -> bool:
    """Whether a program without loops reads no register and no memory that it has not written, whatever way it takes.

    Behind another one it would find there what that one has seen. The kernel looks at the memory only, and at all that
    is joined together. libpcap makes such programs of some filters that say ``geneve``.
    """
    instructions = parse(program)
    #: Before each instruction, what has been written on all ways that lead there; None: none leads there.
    written: list[int | None] = [0] + [None] * len(instructions)
    for at, instruction in enumerate(instructions):
        before = written[at]
        if before is None:
            continue
        reads, writes = _uses(instruction)
        if reads & ~before:
            return False
        for to in _next(at, instruction):
            known = written[to]
            written[to] = before | writes if known is None else known & (before | writes)
    return True


#: Bits for the registers, above those for the words of memory.
_A, _X = 1 << 16, 1 << 17


def _uses(instruction: Instruction) -> tuple[int, int]:
    """Return what an instruction reads, and what it writes."""
    code, _, _, k = instruction
    kind, mode = code & CLASS, code & MODE
    both = _A | _X if code & _WITH_X else _A
    if kind in (LOAD, LOAD_X):
        reads = {_MEMORY: 1 << k % 16, INDIRECT: _X}.get(mode, 0)
        if mode == ABSOLUTE and k in (_XOR_WITH_X, *_NETLINK_ATTRIBUTES):
            reads = _A | _X
        return reads, _A if kind == LOAD else _X
    if kind in (_STORE, _STORE_X):
        return _A if kind == _STORE else _X, 1 << k % 16
    if kind == _CALCULATE:
        return both, _A
    if kind == _COPY:
        return (_X, _A) if code == _A_FROM_X else (_A, _X)
    return both if instruction.is_conditional else 0 if code in (JUMP_ALWAYS, RETURN) else _A, 0


def _next(at: int, instruction: Instruction) -> tuple[int, ...]:
    """Return the instructions that may come after the one at a place."""
    if instruction.code & CLASS == RETURN:
        return ()
    if instruction.code == JUMP_ALWAYS:
        return (at + 1 + instruction.k,)
    if instruction.is_conditional:
        return at + 1 + instruction.jump_true, at + 1 + instruction.jump_false
    return (at + 1,)


#: PACKET_OUTGOING (linux/if_packet.h): of all types the only one that does not come in.
PACKET_OUTGOING = 4


def of_direction(program: bytes, *, is_outgoing: bool) -> bytes:
    """Return a program that takes of the same packets those that go out, or those that come in."""
    start = [
        Instruction(LOAD_WORD, k=PACKET_TYPE),
        Instruction(JUMP_IF_EQUAL, int(is_outgoing), int(not is_outgoing), PACKET_OUTGOING),
        _TAKE_NOTHING,
    ]
    return assemble(start) + program


def keeping(program: bytes, snaplen_bytes: int) -> bytes:
    """Return a program that takes the same packets, and of each no more than so much."""
    instructions = parse(program)
    for at, instruction in enumerate(instructions):
        if instruction.code == RETURN:
            instructions[at] = instruction._replace(k=min(instruction.k, snaplen_bytes))
    return assemble(instructions)


def bounded(program: bytes, limit_bytes: int, *, tag_bytes: int = 0) -> bytes:
    """Return a program that does to a packet what this one would do if it were cut to so many bytes.

    A program takes nothing of a packet with a load from beyond its end: so it does here with one from beyond the bound.
    The length of a packet stays its original one, which is no secret: the file has it, however little it has of the
    packet. A value that the kernel adds can be loaded where the bytes within the bound have it too, and otherwise lies
    beyond the end, like any offset as large.

    Args:
        program: from libpcap; its offsets count from the first byte that is kept.
        limit_bytes: how much of a packet it may look at.
        tag_bytes: so much less where the kernel has set a VLAN tag aside: the file has the tag among its first bytes.
    """
    whole = _bounded(parse(program), limit_bytes)
    if not tag_bytes:
        return assemble(whole)
    with_tag = _bounded(parse(program), max(limit_bytes - tag_bytes, 0))
    if with_tag == whole:
        return assemble(whole)
    choice = [
        Instruction(LOAD_WORD, k=VLAN_TAG_PRESENT),
        Instruction(JUMP_IF_EQUAL, 0, 1, 0),
        Instruction(JUMP_ALWAYS, k=len(with_tag)),
    ]
    return assemble(choice + with_tag + whole)


def _bounded(instructions: list[Instruction], limit_bytes: int) -> list[Instruction]:
    return _with_jumps(instructions, [_checked(instruction, limit_bytes) for instruction in instructions])


def _checked(instruction: Instruction, limit_bytes: int) -> list[Instruction]:
    """Return what takes the place of an instruction."""
    code, _, _, k = instruction
    if not instruction.is_load_from_packet:
        return [instruction]
    size_bytes = instruction.size_bytes
    if code & MODE == INDIRECT:
        if limit_bytes < size_bytes:
            return [_TAKE_NOTHING]
        # The load itself writes to A, so that A is free until then. The kernel adds up modulo 2^32 too.
        return [
            Instruction(_A_FROM_X),
            Instruction(_ADD, k=k),
            Instruction(JUMP_IF_GREATER, 0, 1, limit_bytes - size_bytes),
            _TAKE_NOTHING,
            instruction,
        ]
    end_bytes = _ANCILLARY_END_BYTES.get(k, k + size_bytes) if code & MODE == ABSOLUTE else k + size_bytes
    return [instruction] if end_bytes <= limit_bytes else [_TAKE_NOTHING]


def _with_jumps(instructions: list[Instruction], replaced: list[list[Instruction]]) -> list[Instruction]:
    """Put together what takes the place of each instruction, with jumps that lead where they led."""
    is_far = [False] * len(instructions)
    while True:
        starts = list(
            accumulate((3 if far else len(each) for each, far in zip(replaced, is_far, strict=True)), initial=0)
        )
        too_far = [
            at
            for at, instruction in enumerate(instructions)
            if instruction.is_conditional
            and not is_far[at]
            and starts[at + 1 + max(instruction.jump_true, instruction.jump_false)] - starts[at] - 1 > _LONGEST_JUMP
        ]
        if not too_far:
            break
        for at in too_far:
            is_far[at] = True
    made: list[Instruction] = []
    for at, (code, jump_true, jump_false, k) in enumerate(instructions):
        start = starts[at]
        if code == JUMP_ALWAYS:
            made.append(Instruction(code, k=starts[at + 1 + k] - start - 1))
        elif not instructions[at].is_conditional:
            made += replaced[at]
        elif is_far[at]:
            # By way of unconditional jumps, which reach as far as one likes.
            made += [
                Instruction(code, 0, 1, k),
                Instruction(JUMP_ALWAYS, k=starts[at + 1 + jump_true] - start - 2),
                Instruction(JUMP_ALWAYS, k=starts[at + 1 + jump_false] - start - 3),
            ]
        else:
            made.append(
                Instruction(code, starts[at + 1 + jump_true] - start - 1, starts[at + 1 + jump_false] - start - 1, k)
            )
    return made
