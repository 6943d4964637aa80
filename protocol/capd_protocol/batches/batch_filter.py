"""Classic BPF programs run on whole batches: how many bytes a compiled capture filter takes of each packet.

Such programs jump forward only. So one pass over the instructions is enough, each done at once for all packets that
have come to it. They do what ``bpf_filter`` of libpcap has them do: numbers have 32 bits and no sign, and nothing is
taken of a packet with a load from beyond its end, a division by zero, an instruction that does not exist, or a way past
the last one.
"""

import struct
from collections.abc import Callable, Iterable
from functools import partial, reduce
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

U8 = npt.NDArray[np.uint8]
U32 = npt.NDArray[np.uint32]
I64 = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]
#: In bytes; of any width.
Sizes = npt.NDArray[Any]

#: struct sock_filter (linux/filter.h), and libpcap's struct bpf_insn.
_INSTRUCTION = struct.Struct("=HBBI")

#: How many packets are looked at together. Chosen: less is slower for the steps in Python, more for what the
#: processor's caches do not hold.
_PACKETS_AT_ONCE = 16384

#: Of one branch. Chosen: those of a list know what is behind them, and 60,000 of them take no more than 30 MB.
_MOST_COMPARISONS = 64

#: Numbers of registers; those of the words of memory come before.
_MEMORY_WORDS, _A, _X = 16, 16, 17

#: What offsets from here on stand for: what a kernel knows beside a packet (SKF_AD_OFF and SKF_AD_… in linux/filter.h).
#: libpcap has others as large for what a link type has no place for; they are beyond any packet.
_ANCILLARY = 0xFFFFF000
_ATTRIBUTES, _VLAN_TAGS = "netlink attributes that a kernel has found", "VLAN tags that a kernel has set aside"
_ANCILLARY_VALUES = {
    0: "the protocol that a kernel has found",
    4: "the direction of packets",
    8: "the interface index of packets",
    12: _ATTRIBUTES,
    16: _ATTRIBUTES,
    20: "the mark of packets",
    24: "the receive queue of packets",
    28: "the hardware type of interfaces",
    32: "the receive hash of packets",
    36: "the processor that has received packets",
    44: _VLAN_TAGS,
    48: _VLAN_TAGS,
    52: "the beginning of the payload that a kernel has found",
    56: "random numbers",
    60: _VLAN_TAGS,
}


class UnanswerableError(ValueError):
    """The program asks for what a kernel knows beside a packet while it captures it; no file and no stream has that.

    Attributes:
        value: what it asks for, such as "the direction of packets".
    """

    def __init__(self, value: str) -> None:
        super().__init__(f"the program asks for {value}")
        self.value = value


class LoopError(ValueError):
    """The program jumps backwards, as what libpcap makes of ``protochain`` does: have libpcap run it."""

    def __init__(self) -> None:
        super().__init__("the program has a loop")


class _Packets:
    """Some packets of a batch, and how many bytes are taken of each: none at first."""

    def __init__(self, data: U8, offsets: I64, captured_sizes: Sizes, original_sizes: Sizes, taken_sizes: U32) -> None:
        self.offsets = offsets
        self.captured_sizes = captured_sizes.astype(np.int64)
        self.original_sizes = original_sizes
        self.taken_sizes = taken_sizes
        #: None of them is shorter.
        self.least_bytes = int(captured_sizes.min())
        self._data = data

    def load(self, offsets: I64, at: int, size_bytes: int) -> U32:
        """Return numbers in network byte order, so far behind each of the offsets."""
        if size_bytes == 4:
            # One gather of whole words. Of one byte, and of two, a gather for each takes less time.
            every = np.ndarray((len(self._data) - 3,), np.dtype(">u4"), self._data.data, 0, (1,))
            return every[at:][offsets].astype(np.uint32)
        value = self._data[at:].take(offsets).astype(np.uint32)
        if size_bytes == 2:
            value <<= np.uint32(8)
            value |= self._data[at + 1 :].take(offsets)
        return value


class _Group:
    """Packets that have come to the same instruction.

    Attributes:
        rows: their places among all.
        values: what they have in registers and memory, an element for each. Arrays are shared, and never changed.
    """

    __slots__ = ("rows", "values")

    def __init__(self, rows: I64, values: dict[int, U32]) -> None:
        self.rows = rows
        self.values = values

    def only(self, registers: Iterable[int], places: I64 | None = None) -> "_Group":
        """Return the packets at some places of the group, or all, with what they have in some registers."""
        if places is None:
            return _Group(self.rows, {each: self.values[each] for each in registers})
        return _Group(self.rows.take(places), {each: self.values[each].take(places) for each in registers})

    def where(self, are_kept: Flags) -> "_Group":
        """Return the packets that are kept."""
        return self if are_kept.all() else self.only(self.values, np.flatnonzero(are_kept))


def _joined(groups: list[_Group]) -> _Group:
    if len(groups) == 1:
        return groups[0]
    return _Group(
        np.concatenate([each.rows for each in groups]),
        {number: np.concatenate([each.values[number] for each in groups]) for number in groups[0].values},
    )


# Steps: each changes registers of a group, and returns the packets that go on ---------------------------------------

_Step = Callable[[_Packets, _Group], _Group]


def _load(register: int, size_bytes: int, k: int, packets: _Packets, group: _Group) -> _Group:
    if packets.least_bytes < k + size_bytes:
        group = group.where(packets.captured_sizes.take(group.rows) >= k + size_bytes)
    if len(group.rows):
        group.values[register] = packets.load(packets.offsets.take(group.rows), k, size_bytes)
    return group


def _load_indirect(register: int, size_bytes: int, k: int, packets: _Packets, group: _Group) -> _Group:
    # In 64 bits: a sum that needs more than 32 is beyond any packet.
    ends = group.values[_X].astype(np.int64) + (k + size_bytes)
    are_within = ends <= packets.captured_sizes.take(group.rows)
    group, ends = group.where(are_within), ends[are_within]
    if len(group.rows):
        group.values[register] = packets.load(packets.offsets.take(group.rows) + (ends - size_bytes), 0, size_bytes)
    return group


def _load_header_length(register: int, k: int, packets: _Packets, group: _Group) -> _Group:
    group = _load(register, 1, k, packets, group)
    if len(group.rows):
        group.values[register] = (group.values[register] & np.uint32(0xF)) << np.uint32(2)
    return group


def _load_length(register: int, _k: int, packets: _Packets, group: _Group) -> _Group:
    group.values[register] = packets.original_sizes.take(group.rows).astype(np.uint32)
    return group


def _load_number(register: int, k: int, _packets: _Packets, group: _Group) -> _Group:
    group.values[register] = np.full(len(group.rows), k, np.uint32)
    return group


def _copy(register: int, source: int, _k: int, _packets: _Packets, group: _Group) -> _Group:
    group.values[register] = group.values[source]
    return group


def _negate(_k: int, _packets: _Packets, group: _Group) -> _Group:
    group.values[_A] = -group.values[_A]
    return group


_Calculation = Callable[[Any, Any], Any]


def _calculate(calculation: _Calculation, k: int, _packets: _Packets, group: _Group) -> _Group:
    group.values[_A] = calculation(group.values[_A], np.uint32(k))
    return group


def _calculate_with_x(calculation: _Calculation, _k: int, _packets: _Packets, group: _Group) -> _Group:
    group.values[_A] = calculation(group.values[_A], group.values[_X])
    return group


def _divide_by_x(calculation: _Calculation, k: int, packets: _Packets, group: _Group) -> _Group:
    return _calculate_with_x(calculation, k, packets, group.where(group.values[_X] != 0))


# Instructions by their codes, with tcpdump's words for them ---------------------------------------------------------


class _Kind(NamedTuple):
    """What instructions of a code do, but for k.

    Attributes:
        step: takes k, and then what a step takes.
        reads: registers.
        writes: a register.
    """

    step: Callable[[int, _Packets, _Group], _Group]
    reads: tuple[int, ...]
    writes: int


_LOADS = {
    0x20: _Kind(partial(_load, _A, 4), (), _A),  # ld [k]
    0x28: _Kind(partial(_load, _A, 2), (), _A),  # ldh [k]
    0x30: _Kind(partial(_load, _A, 1), (), _A),  # ldb [k]
    0x40: _Kind(partial(_load_indirect, _A, 4), (_X,), _A),  # ld [x + k]
    0x48: _Kind(partial(_load_indirect, _A, 2), (_X,), _A),  # ldh [x + k]
    0x50: _Kind(partial(_load_indirect, _A, 1), (_X,), _A),  # ldb [x + k]
    0xB1: _Kind(partial(_load_header_length, _X), (), _X),  # ldxb 4*([k]&0xf)
    0x80: _Kind(partial(_load_length, _A), (), _A),  # ld #pktlen
    0x81: _Kind(partial(_load_length, _X), (), _X),  # ldx #pktlen
    0x00: _Kind(partial(_load_number, _A), (), _A),  # ld #k
    0x01: _Kind(partial(_load_number, _X), (), _X),  # ldx #k
}
_LOADS_BY_OFFSET = (0x20, 0x28, 0x30)

#: Where to and where from; None: the word of memory with the number k.
_COPIES: dict[int, tuple[int | None, int | None]] = {
    0x60: (_A, None),  # ld M[k]
    0x61: (_X, None),  # ldx M[k]
    0x02: (None, _A),  # st M[k]
    0x03: (None, _X),  # stx M[k]
    0x07: (_X, _A),  # tax
    0x87: (_A, _X),  # txa
}

_DIVISIONS: dict[int, _Calculation] = {0x34: np.floor_divide, 0x94: np.remainder}
_WITH_X = 0x08
_CALCULATIONS: dict[int, _Calculation] = {
    0x04: np.add,
    0x14: np.subtract,
    0x24: np.multiply,
    0x44: np.bitwise_or,
    0x54: np.bitwise_and,
    # By 32 and more, numpy shifts everything out, as libpcap does.
    0x64: np.left_shift,
    0x74: np.right_shift,
    0xA4: np.bitwise_xor,
    **_DIVISIONS,
}
_KINDS = {
    **_LOADS,
    0x84: _Kind(_negate, (_A,), _A),  # neg
    **{code: _Kind(partial(_calculate, each), (_A,), _A) for code, each in _CALCULATIONS.items()},
    **{
        code | _WITH_X: _Kind(partial(_divide_by_x if code in _DIVISIONS else _calculate_with_x, each), (_A, _X), _A)
        for code, each in _CALCULATIONS.items()
    },
}


def _kind(code: int, k: int) -> _Kind | None:
    """Return what an instruction does that only changes registers; None where there is none like it."""
    if code in _DIVISIONS and not k:
        return None
    if code not in _COPIES:
        return _KINDS.get(code)
    if None in _COPIES[code] and k >= _MEMORY_WORDS:
        return None
    register, source = (k if each is None else each for each in _COPIES[code])
    return _Kind(partial(_copy, register, source), (source,), register)


_JUMP = 0x05
#: What an unconditional jump adds is a number with a sign, to libpcap.
_BACKWARDS = 1 << 31
_Test = Callable[[Any, Any], Flags]
_TESTS: dict[int, _Test] = {
    0x15: np.equal,
    0x25: np.greater,
    0x35: np.greater_equal,
    0x45: lambda value, bits: (value & bits) != 0,
}
_RETURN, _RETURN_A = 0x06, 0x16


# Programs -----------------------------------------------------------------------------------------------------------


class _Way(NamedTuple):
    """How packets come to an instruction.

    Attributes:
        to: its number.
        registers: what is read there, or behind it.
    """

    to: int
    registers: tuple[int, ...]


#: Packets that come to an instruction, and the ways that they take from there; none where nothing more is taken.
_Departures = list[tuple[_Way | None, _Group, I64 | None]]
_Act = Callable[[_Packets, _Group], _Departures]


def _step_on(step: _Step, way: _Way, packets: _Packets, group: _Group) -> _Departures:
    return [(way, step(packets, group), None)]


class _Branch(NamedTuple):
    """A conditional jump, or several that follow one another and jump to the same place, as a list of hosts does.

    Attributes:
        comparisons: of A with k, or with X where k is None. It jumps where any of them holds.
        when_true: where to.
        when_false: where packets go on of which none holds.
    """

    comparisons: tuple[tuple[_Test, np.uint32 | None], ...]
    when_true: _Way | None
    when_false: _Way | None

    def part(self, _packets: _Packets, group: _Group) -> _Departures:
        """Part the packets."""
        a, x = group.values[_A], group.values.get(_X)
        passed: Flags = reduce(np.logical_or, (test(a, x if k is None else k) for test, k in self.comparisons))
        count = np.count_nonzero(passed)
        if count == len(passed):
            return [(self.when_true, group, None)]
        if not count:
            return [(self.when_false, group, None)]
        ways = (self.when_true, passed), (self.when_false, ~passed)
        return [(way, group, np.flatnonzero(chosen)) for way, chosen in ways if way is not None]


def _take(k: int | None, packets: _Packets, group: _Group) -> _Departures:
    packets.taken_sizes[group.rows] = group.values[_A] if k is None else k
    return []


class BatchFilter:
    """A classic BPF program, to be run on packets of files and streams."""

    def __init__(self, program: bytes) -> None:
        """Prepare a program.

        Args:
            program: an array of struct sock_filter, such as libpcap compiles for a file. (For a network interface, it
                looks for VLAN tags beside the packet.)

        Raises:
            UnanswerableError: it asks for what is known only to the kernel, as ``inbound`` does.
            LoopError: it has a loop, and asks for no such thing.
        """
        instructions = list(_INSTRUCTION.iter_unpack(program))
        for code, _, _, k in instructions:
            if code in _LOADS_BY_OFFSET and k - _ANCILLARY in _ANCILLARY_VALUES:
                raise UnanswerableError(_ANCILLARY_VALUES[k - _ANCILLARY])
        if any(code == _JUMP and k >= _BACKWARDS for code, _, _, k in instructions):
            raise LoopError
        self._acts: list[_Act | None] = [None] * len(instructions)
        #: Of each instruction from which on something may be taken.
        self._ways: dict[int, _Way] = {}
        self._branches: dict[int, _Branch] = {}
        for at in reversed(range(len(instructions))):
            self._prepare(at, *instructions[at])

    def _prepare(self, at: int, code: int, jump_true: int, jump_false: int, k: int) -> None:
        """Find out what an instruction does; those behind it are known."""
        following = self._ways.get(at + 1)
        if code == _JUMP:
            if (target := self._ways.get(at + 1 + k)) is not None:
                self._ways[at] = target
        elif code == _RETURN and k:
            self._add(at, (), partial(_take, k))
        elif code == _RETURN_A:
            self._add(at, (_A,), partial(_take, None))
        elif code & ~_WITH_X in _TESTS:
            number = None if code & _WITH_X else np.uint32(k)
            ways = self._ways.get(at + 1 + jump_true), self._ways.get(at + 1 + jump_false)
            self._add_branch(at, _Branch(((_TESTS[code & ~_WITH_X], number),), *ways))
        elif following is not None and (kind := _kind(code, k)) is not None:
            read = set(following.registers) - {kind.writes}
            self._add(at, read.union(kind.reads), partial(_step_on, partial(kind.step, k), following))

    def _add_branch(self, at: int, branch: _Branch) -> None:
        following = None if branch.when_false is None else self._branches.get(branch.when_false.to)
        if (
            following is not None
            and following.when_true == branch.when_true
            and len(following.comparisons) < _MOST_COMPARISONS
        ):
            branch = following._replace(comparisons=branch.comparisons + following.comparisons)
        read = {_A} if all(k is not None for _, k in branch.comparisons) else {_A, _X}
        ways = [way for way in (branch.when_true, branch.when_false) if way is not None]
        if ways:
            self._branches[at] = branch
            self._add(at, read.union(*(way.registers for way in ways)), branch.part)

    def _add(self, at: int, registers: Iterable[int], act: _Act) -> None:
        self._ways[at] = _Way(at, tuple(sorted(registers)))
        self._acts[at] = act

    def taken_sizes(self, data: U8, offsets: I64, captured_sizes: Sizes, original_sizes: Sizes) -> U32:
        """Return how many bytes the program takes of each packet, which may be more than there are; 0: none.

        Args:
            data: contiguous, with all packets in it.
            offsets: where each packet begins.
            captured_sizes: how many bytes of each there are.
            original_sizes: how many each had.
        """
        taken_sizes = np.zeros(len(offsets), np.uint32)
        for begin in range(0, len(offsets), _PACKETS_AT_ONCE):
            part = slice(begin, begin + _PACKETS_AT_ONCE)
            self._run(_Packets(data, offsets[part], captured_sizes[part], original_sizes[part], taken_sizes[part]))
        return taken_sizes

    def matches(self, data: U8, offsets: I64, captured_sizes: Sizes, original_sizes: Sizes) -> Flags:
        """Return whether the program takes anything of each packet; see ``taken_sizes``."""
        return self.taken_sizes(data, offsets, captured_sizes, original_sizes).astype(np.bool_)

    def _run(self, packets: _Packets) -> None:
        begin = self._ways.get(0)
        if begin is None:
            return
        count = len(packets.offsets)
        everything = _Group(np.arange(count), {each: np.zeros(count, np.uint32) for each in begin.registers})
        waiting = {begin.to: [everything]}
        for at, act in enumerate(self._acts):
            if act is None or at not in waiting:
                continue
            for way, group, places in act(packets, _joined(waiting.pop(at))):
                if way is not None and len(group.rows):
                    waiting.setdefault(way.to, []).append(group.only(way.registers, places))
