"""Seccomp lists: the system calls of each thread of a worker, with their arguments, and of a sender. Pure.

A worker that was taken over, by a filter's text or by packets, shall read no other interface, send nothing, start
nothing, reach nobody, and hand its packet sockets to nobody. The kernel sees numbers only, so it comes to this:

- Nothing is sent but on descriptors that are known from the beginning (``PROTECTED``). They cannot be closed, and no
  call that puts another file in a descriptor's place is let through, so these numbers stay what they are.
- Files are written at a position (pwrite, pwritev), which no socket takes (ESPIPE). So nothing need be known of packet
  sockets: it holds for those that come later, and for every duplicate.
- Descriptors are passed on by a thread that has no packet socket (``passing``); the others cannot pass any.
- All else that could do harm is not in the lists. Paths are out of a filter's sight: ``landlock`` says where files may
  be opened.

Threads share their memory, so code in one of them can come to run in another. What a worker that was taken over can do
is what all of its threads can do together, each with the descriptors that it has.
"""

import enum
import errno
from collections.abc import Sequence

from capd.worker.confinement.call_filter import Above, Among, Bits, NotAmong, Null, Rule


class Role(enum.Enum):
    """What a thread is for."""

    #: A capture into files, and a recorder's.
    FILES = enum.auto()
    RECORDER = enum.auto()
    #: Of a recorder: one snapshot.
    SNAPSHOT = enum.auto()
    #: Compressing what goes into files, and writing them.
    COMPRESSING = enum.auto()
    #: Passing files to their readers.
    PASSING = enum.auto()
    #: Sending a client's packets: a process of its own.
    SENDING = enum.auto()


#: To the daemon. Sent on without an address, so that nothing can be passed along.
CONTROL = "control"
#: Where a signal is noted (``reuse.Openers``).
SIGNALLED = "signalled"
#: What the thread of a snapshot, or one that compresses, wakes the capture's own with.
TOLD = "told"
#: To the readers of files.
FILES = "files"
#: Of a process that sends: to its client, and its packet socket.
CHANNEL, PACKETS = "channel", "packets"
#: The process itself.
PROCESS = "process"
PROTECTED = (CONTROL, SIGNALLED, TOLD)

#: Standard input, output and error: what is opened is above them.
_STANDARD_ERROR = 2

# linux/socket.h, linux/if_packet.h, asm-generic/socket.h.
_AF_UNIX = 1
_SOCK_DGRAM, _SOCK_TYPES = 2, 0xF
_SOL_SOCKET, _SOL_PACKET = 1, 263
_SO_TYPE, _SO_ERROR, _SO_PROTOCOL, _SO_DOMAIN = 3, 4, 38, 39
_PACKET_RX_RING, _PACKET_STATISTICS = 5, 6
# asm-generic/ioctls.h, linux/sockios.h.
_TCGETS, _FIONBIO, _FIOCLEX = 0x5401, 0x5421, 0x5451
_SIOCGIFNAME, _SIOCGIFFLAGS, _SIOCGIFINDEX = 0x8910, 0x8913, 0x8933
_REQUESTS = (_SIOCGIFNAME, _SIOCGIFFLAGS, _SIOCGIFINDEX, _FIONBIO, _FIOCLEX, _TCGETS)
# linux/fcntl.h, linux/mman.h, linux/prctl.h, linux/seccomp.h.
_F_GETFD, _F_SETFD, _F_GETFL, _F_SETLEASE, _F_DUPFD_CLOEXEC = 1, 2, 3, 1024, 1030
_PROT_EXEC = 4
_PR_SET_NAME, _PR_SET_SECCOMP = 15, 22
_SECCOMP_MODE_FILTER = 2
# linux/sched.h: VM, FS, FILES, SIGHAND and THREAD, which a thread has; and what it may have beside them: SYSVSEM,
# SETTLS, PARENT_SETTID, CHILD_CLEARTID, DETACHED and CHILD_SETTID.
_THREAD = 0x00010F00
_OF_THREADS = 0x017C0000


def _each(names: str) -> list[Rule]:
    return [Rule(name) for name in names.split()]


def _option(name: str, level: int, *options: int) -> Rule:
    return Rule(name, (Among(1, (level,)), Among(2, options)))


#: Waiting, memory, clocks, and the end: of every thread.
_EVERYBODY = [
    *_each("futex clock_gettime gettimeofday clock_nanosleep nanosleep sched_yield restart_syscall"),
    *_each("munmap mremap madvise brk getrandom getpid gettid rt_sigprocmask rt_sigreturn exit exit_group"),
    # No code that was not there before.
    Rule("mmap", (Bits(2, _PROT_EXEC, 0),)),
    Rule("mprotect", (Bits(2, _PROT_EXEC, 0),)),
    # abort() ends it itself, and nobody else.
    Rule("tgkill", (Among(0, (PROCESS,)),)),
    # What an error has to say; getpeername: of a socket.
    *_each("getsockname getpeername"),
    Rule("write", (Among(0, (_STANDARD_ERROR,)),)),
]
_OPENING = _each("openat newfstatat fstat statx")
#: What is done to files alone: not to standard error, which is the daemon's.
_ABOVE_STANDARD = Above(0, _STANDARD_ERROR)
_WRITING = [
    # Standard error may be a file, with what the daemon has logged before.
    Rule("pwritev", (_ABOVE_STANDARD,)),
    Rule("pwrite64", (_ABOVE_STANDARD,)),
    Rule("ftruncate", (_ABOVE_STANDARD,)),
    # A file is locked while it is written.
    Rule("flock", (_ABOVE_STANDARD,)),
]
_CLOSING = [Rule("close", (_ABOVE_STANDARD, NotAmong(0, PROTECTED)))]

#: Of the thread that captures.
_CAPTURE = [
    *_each("epoll_wait epoll_pwait"),
    _option("getsockopt", _SOL_PACKET, _PACKET_STATISTICS),
    *_WRITING,
    *_EVERYBODY,
    *_OPENING,
    *_CLOSING,
    # The daemon, and the lease's signal.
    Rule("sendto", (Among(0, (CONTROL,)), Null(4))),
    Rule("write", (Among(0, (SIGNALLED,)),)),
    *_each("recvmsg recvfrom poll ppoll select pselect6 epoll_create1 epoll_ctl"),
    *_each("alarm setitimer rt_sigaction"),
    # Of itself: what compiling was held to is lifted again.
    Rule("prlimit64", (Among(0, (0,)),)),
    # Files: earlier ones, those that are deleted, the index.
    *_each("read pread64 lseek getdents64 unlinkat renameat renameat2 fstatfs faccessat faccessat2 geteuid"),
    # The lock of a ring's index, where the user or an earlier version has left it open to others.
    Rule("fchmod", (_ABOVE_STANDARD, Among(1, (0o600,)))),
    # Python's mmap keeps a duplicate of what it maps.
    Rule("fcntl", (_ABOVE_STANDARD, Among(1, (_F_SETLEASE, _F_GETFD, _F_SETFD, _F_GETFL, _F_DUPFD_CLOEXEC)))),
    # Packet sockets come bound, with filters for good (``capd.supervisor.armed_rings``): nothing of that is to be
    # changed. libpcap takes the ring of a handle that it closes, and does without an answer.
    Rule("setsockopt", (Among(1, (_SOL_PACKET,)), Among(2, (_PACKET_RX_RING,))), errno=errno.EPERM),
    _option("getsockopt", _SOL_SOCKET, _SO_ERROR, _SO_TYPE, _SO_PROTOCOL, _SO_DOMAIN),
    # Names and flags of interfaces, for which any socket will do; TCGETS: Python asks whether a file is a terminal.
    Rule("socket", (Among(0, (_AF_UNIX,)), Bits(1, _SOCK_TYPES, _SOCK_DGRAM))),
    Rule("ioctl", (_ABOVE_STANDARD, Among(1, _REQUESTS))),
    # The C library looks for a name service before it reads /etc/services, and for addresses of ours to sort by.
    Rule("socket", errno=errno.EAFNOSUPPORT),
]
#: Of a recorder's: its memory, and the threads of its snapshots.
_RECORDER = [
    *_CAPTURE,
    *_each("memfd_create"),
    # Its arguments are out of sight. The C library does without it.
    Rule("clone3", errno=errno.ENOSYS),
    Rule("clone", (Bits(0, ~_OF_THREADS & 0xFFFFFFFF, _THREAD),)),
    *_each("set_robust_list rseq sched_getaffinity"),
    Rule("prctl", (Among(0, (_PR_SET_NAME,)),)),
    Rule("prctl", (Among(0, (_PR_SET_SECCOMP,)), Among(1, (_SECCOMP_MODE_FILTER,)))),
    # Its list is in force in its threads, too.
    Rule("write", (Among(0, (TOLD,)),)),
]
_SNAPSHOT = [
    *_each("pread64"),
    *_WRITING,
    *_EVERYBODY,
    *_OPENING,
    *_CLOSING,
    *_each("unlinkat set_robust_list rseq sched_getaffinity"),
    Rule("prctl", (Among(0, (_PR_SET_NAME,)),)),
    Rule("write", (Among(0, (TOLD,)),)),
]
#: It opens and closes nothing.
_COMPRESSING = [*_WRITING, *_EVERYBODY, Rule("write", (Among(0, (TOLD,)),))]
_PASSING = [
    *_EVERYBODY,
    *_OPENING,
    Rule("close", (_ABOVE_STANDARD, NotAmong(0, (FILES,)))),
    Rule("sendmsg", (Among(0, (FILES,)),)),
]
#: It can give no address with a frame: a packet socket sends on any interface that an address names, and only without
#: one on that which it is bound to. So no call that takes a message's header from memory (sendmsg, sendmmsg) is here.
_SENDING = [
    Rule("sendto", (Among(0, (PACKETS, CHANNEL, CONTROL)), Null(4))),
    # Nothing is received from the packet socket, and no descriptor from anywhere.
    Rule("recvfrom", (Among(0, (CHANNEL, CONTROL)), Null(4))),
    *_each("poll ppoll"),
    *_EVERYBODY,
    # At its end. No call makes a new descriptor, so that nothing takes the place of one.
    Rule("close", (_ABOVE_STANDARD,)),
]

#: What may be read beside the capture's own directory: where the C library finds the names of ports and protocols, and
#: what the kernel says of hard links (``savefile``).
READABLE = ("/etc/services", "/etc/protocols", "/etc/nsswitch.conf", "/proc/sys/fs/protected_hardlinks")

LISTS: dict[Role, Sequence[Rule]] = {
    Role.FILES: _CAPTURE,
    Role.RECORDER: _RECORDER,
    Role.SNAPSHOT: _SNAPSHOT,
    Role.COMPRESSING: _COMPRESSING,
    Role.PASSING: _PASSING,
    Role.SENDING: _SENDING,
}
