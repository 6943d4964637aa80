"""Taking over a process, as somebody would who has found a hole in it.

By root's right to trace, any thread of it is made to do any system call, with its own descriptors, rights and bounds.
"""

import contextlib
import ctypes
import os
import platform
import struct
import time
from collections.abc import Generator
from pathlib import Path
from typing import NamedTuple, Protocol

from capd.worker.confinement.system_calls import ARCHITECTURES, number_of
from tests.support.tools import numbered_descriptors_of

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long  # an address does not fit into an int

# linux/ptrace.h, linux/elf.h, linux/wait.h.
_ATTACH, _DETACH, _SINGLE_STEP = 16, 17, 9
_GET_REGISTERS, _SET_REGISTERS = 0x4204, 0x4205
_GENERAL_REGISTERS = 1
_OF_ANY_THREAD = 0x40000000
#: Below what the stack has in use: where arguments go that are pointers.
_SCRATCH_BYTES = 32 * 1024
#: It is to be asleep by then.
_PATIENCE_S = 10.0


class _Registers(NamedTuple):
    """Where things are in the kernel's struct user_regs, by 64-bit words."""

    number: int
    arguments: tuple[int, ...]
    result: int
    program_counter: int
    stack_pointer: int
    #: What makes a system call.
    instruction: bytes
    #: Says that a system call is to be begun again; -1 says that none is.
    restart: int | None


_REGISTERS = {
    "x86_64": _Registers(10, (14, 13, 12, 7, 9, 8), 10, 16, 19, b"\x0f\x05", 15),
    "aarch64": _Registers(8, (0, 1, 2, 3, 4, 5), 0, 32, 31, b"\x01\x00\x00\xd4", None),
}


class Caller(Protocol):
    """Does system calls."""

    def put(self, data: bytes) -> int:
        """Put bytes into its memory; return the address."""
        ...

    def call(self, name: str, *arguments: int | bytes) -> int:
        """Do a system call; return what the kernel does: an error is negative. Bytes are put into memory."""
        ...


def _number(name: str) -> int:
    number = number_of(name, ARCHITECTURES[platform.machine()])
    assert number is not None, name
    return number


class OwnCaller:
    """This process."""

    def __init__(self) -> None:
        self._kept: list[ctypes.Array[ctypes.c_char]] = []

    def put(self, data: bytes) -> int:
        """Put bytes into memory; return the address."""
        self._kept.append(ctypes.create_string_buffer(data, max(len(data), 1)))
        return ctypes.addressof(self._kept[-1])

    def call(self, name: str, *arguments: int | bytes) -> int:
        """Do a system call."""
        values = [self.put(each) if isinstance(each, bytes) else each for each in arguments]
        result: int = _libc.syscall(ctypes.c_long(_number(name)), *map(ctypes.c_long, values))
        return -ctypes.get_errno() if result < 0 else result


class TakenThread:
    """A thread of a process, which is stopped meanwhile."""

    def __init__(self, process_id: int, thread_id: int) -> None:
        self._thread_id = thread_id
        self._places = _REGISTERS[platform.machine()]
        self._memory = os.open(f"/proc/{process_id}/mem", os.O_RDWR | os.O_CLOEXEC)
        deadline_s = time.monotonic() + _PATIENCE_S
        while not self._has_stopped_in_a_call():
            _trace(_DETACH, thread_id)
            assert time.monotonic() < deadline_s, "it never sleeps"
        self._before = self._registers()
        self._begin = self._before[self._places.stack_pointer] - _SCRATCH_BYTES & ~15
        self._free = self._begin

    def _has_stopped_in_a_call(self) -> bool:
        _trace(_ATTACH, self._thread_id)
        self._wait()
        instruction = self._places.instruction
        at = self._registers()[self._places.program_counter] - len(instruction)
        return os.pread(self._memory, len(instruction), at) == instruction

    def _wait(self) -> None:
        _, status = os.waitpid(self._thread_id, _OF_ANY_THREAD)
        assert os.WIFSTOPPED(status), f"it has ended: {os.waitstatus_to_exitcode(status)}"

    def _registers(self) -> list[int]:
        buffer = ctypes.create_string_buffer(8 * 64)
        vector = struct.pack("@PN", ctypes.addressof(buffer), len(buffer))
        held = ctypes.create_string_buffer(vector, len(vector))
        _trace(_GET_REGISTERS, self._thread_id, _GENERAL_REGISTERS, ctypes.addressof(held))
        (size,) = struct.unpack("@8xN", held.raw)
        return list(struct.unpack(f"={size // 8}Q", buffer.raw[:size]))

    def _set_registers(self, registers: list[int]) -> None:
        data = struct.pack(f"={len(registers)}Q", *registers)
        buffer = ctypes.create_string_buffer(data, len(data))
        vector = struct.pack("@PN", ctypes.addressof(buffer), len(data))
        held = ctypes.create_string_buffer(vector, len(vector))
        _trace(_SET_REGISTERS, self._thread_id, _GENERAL_REGISTERS, ctypes.addressof(held))

    def put(self, data: bytes) -> int:
        """Put bytes into its memory; return the address."""
        address = self._free
        self._free += len(data) + 15 & ~15
        assert self._free <= self._begin + _SCRATCH_BYTES // 2
        os.pwrite(self._memory, data, address)
        return address

    def prepare(self, name: str, *arguments: int | bytes) -> None:
        """Have the thread do a system call as soon as it goes on, and nothing that makes sense after it."""
        values = [self.put(each) if isinstance(each, bytes) else each for each in arguments]
        registers, places = list(self._before), self._places
        for place, value in zip(places.arguments, values, strict=False):
            registers[place] = value & 0xFFFFFFFFFFFFFFFF
        registers[places.number] = _number(name)
        registers[places.program_counter] -= len(places.instruction)
        if places.restart is not None:
            registers[places.restart] = 0xFFFFFFFFFFFFFFFF
        self._set_registers(registers)

    def call(self, name: str, *arguments: int | bytes) -> int:
        """Do a system call."""
        self.prepare(name, *arguments)
        _trace(_SINGLE_STEP, self._thread_id)
        self._wait()
        result = self._registers()[self._places.result]
        self._free = self._begin
        return result - (1 << 64) if result >> 63 else result

    def let_go(self, *, restored: bool = True) -> None:
        """Let it go on, where it was."""
        if restored:
            self._set_registers(self._before)
        os.close(self._memory)
        _trace(_DETACH, self._thread_id)


def _trace(request: int, thread_id: int, address: int = 0, data: int = 0) -> None:
    arguments = map(ctypes.c_long, (request, thread_id, address, data))
    if _libc.ptrace(*arguments) < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"ptrace {request}: {os.strerror(error)}")


@contextlib.contextmanager
def taken_over(process_id: int, thread_id: int | None = None) -> Generator[TakenThread, None, None]:
    """Have a process, or one of its threads, which sleeps in a system call. Afterwards it goes on where it was."""
    taken = TakenThread(process_id, thread_id or process_id)
    try:
        yield taken
    finally:
        with contextlib.suppress(ProcessLookupError):
            taken.let_go()


def threads_of(process_id: int) -> list[int]:
    """Return the ids of its threads, the first one first."""
    return sorted(int(each.name) for each in Path(f"/proc/{process_id}/task").iterdir())


def packet_sockets_of(process_id: int, thread_id: int | None = None) -> list[int]:
    """Return its descriptors that are packet sockets."""
    lines = Path(f"/proc/{process_id}/net/packet").read_text().splitlines()[1:]
    sockets = {f"socket:[{line.split()[-1]}]" for line in lines}
    return sorted(number for number, link in numbered_descriptors_of(process_id, thread_id).items() if link in sockets)
