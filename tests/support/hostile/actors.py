"""What hostile clients do: one process of an account after another, each doing one thing after another, at random.

An actor does what it does with blocking sockets, and keeps for a while what it has made, a bounded number of things.
It is killed at some moment, whatever it is doing then. It tells what it has done on a pipe, a line each; and what it
should never have been granted, in a line that begins with ``VIOLATION``.
"""

import contextlib
import os
import random
import signal
import socket
import struct
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from capd_protocol.errors import RemoteProtocolError
from capd_protocol.frames import MAX_REQUEST_SIZE_BYTES
from capd_protocol.messages import (
    AttachCapture,
    Attached,
    CaptureList,
    Destination,
    DirectoryWanted,
    FlushCapture,
    Hello,
    InterfaceList,
    InterfaceRequest,
    ListCaptures,
    ListInterfaces,
    Message,
    Permissions,
    Refused,
    StartCapture,
    Started,
    StopCapture,
    WhoAmI,
    encode,
)
from tests.support.attack import HELLO, Channel, RawClient, request_for
from tests.support.daemon import status_of
from tests.support.hostile import values
from tests.support.hostile.world import ALICE, ALICE_PAIR, ATTACK_PAIRS, CAROL_PAIR, Account, World

#: Things that one actor keeps at once. Chosen: those of both accounts that may capture leave room among the daemon's
#: 256 clients, those of the others would be more than it takes of such.
_MAX_KEPT = 10
_LONGEST_KEPT_S = 12.0
#: Between two things that an actor does, on average.
_PAUSE_S = 0.15
#: An actor waits no longer for an answer: it has something else to do.
_PATIENCE_S = 2.0
#: Between two filters that take libpcap long, of one account: each may take a processor for 20 s.
_COSTLY_PAUSE_S = 8.0
#: How long a socket lingers that an actor passes on; longer than anybody here waits.
_LINGER_S = 60
#: In one message; the kernel takes no more (SCM_MAX_FD, net/scm.h).
_MAX_DESCRIPTORS = 253

#: What both accounts that may capture may do so on.
OWN_INTERFACES = (ATTACK_PAIRS[0][0], ATTACK_PAIRS[0][1], ATTACK_PAIRS[0][1], "attack*0", "guest*", "guest0")
#: What a capture's processes are called.
_OF_CAPTURES = ("capd-worker", "capd-server")
#: Patterns, what there is now and then, what others have, and what nobody may have.
INTERFACES = (
    *(name for pair in ATTACK_PAIRS for name in pair),
    *("attack*", "attack*", "attack*0", "guest*", "guest*", "guest0", "guest1", "any", "*", "[ag]*"),
    *("lo", ALICE_PAIR[1], CAROL_PAIR[1], "nosuch0"),
)


class _Closable(Protocol):
    def close(self) -> None: ...


class Client(RawClient):
    """A raw client that checks that it gets nothing which its account must not hear."""

    def __init__(self, actor: "Actor", *, greet: bool = True) -> None:
        super().__init__(actor.world.daemon.socket_path, greet=greet)
        self.socket.settimeout(_PATIENCE_S)
        self._actor = actor

    def receive(self, kind: type[Message] | None = None, timeout_s: float = _PATIENCE_S) -> Message:
        """Return the next message, or the next of this kind, or a refusal."""
        deadline_s = time.monotonic() + timeout_s
        while True:
            message = super().receive(None, max(deadline_s - time.monotonic(), 0.001))
            self._check(message)
            if kind is None or isinstance(message, kind | Refused):
                return message

    def _check(self, message: Message) -> None:
        account = self._actor.account
        owners: set[int] = set()
        match message:
            case CaptureList(captures=captures):
                owners = {each.user_id for each in captures}
            case Attached(capture=capture):
                owners = {capture.user_id}
            case Permissions(user_id=user_id):
                owners = {user_id}
            case Started() | DirectoryWanted() if not account.may_capture:
                self._actor.tell(f"VIOLATION {account.name} got {type(message).__name__}")
            case _:
                pass
        if owners - {account.user_id}:
            self._actor.tell(f"VIOLATION {account.name} was shown users {sorted(owners)}")


@dataclass
class Actor:
    """One process of a hostile account.

    Attributes:
        world: where it is.
        account: whose it is.
        choose: where its chances come from.
        number: among the account's actors.
        alice: the number of alice's capture.
        report: where it tells what it does.
    """

    world: World
    account: Account
    choose: random.Random
    number: int
    alice: int
    report: int

    def __post_init__(self) -> None:
        self._kept: list[tuple[float, _Closable]] = []
        self._stopped: list[int] = []
        self._costly_s = 0.0
        self._captures: list[int] = []
        self.make = values.Chooser(self.choose, OWN_INTERFACES, INTERFACES, [self.alice])

    def run(self) -> None:
        """Do one thing after another until killed."""
        acts = [each for each in ACTS if self.account.may_capture or not each.needs_rule]
        weights = [each.weight for each in acts]
        while True:
            (act,) = self.choose.choices(acts, weights)
            try:
                act.do(self)
                outcome = "done"
            except EOFError:
                outcome = "closed"
            except TimeoutError:
                outcome = "unanswered"
            except RemoteProtocolError as error:
                self.tell(f"VIOLATION {self.account.name} does not understand capd: {error}")
                continue
            except OSError as error:
                outcome = os.strerror(error.errno or 0)
            self.tell(f"{act.name} {outcome}")
            self._let_go()
            time.sleep(min(self.choose.expovariate(1 / _PAUSE_S), 1.0))

    def tell(self, line: str) -> None:
        """Tell what was done, in a line."""
        os.write(self.report, f"{line}\n".encode())

    def keep(self, thing: _Closable) -> None:
        """Keep something for a while, then close it."""
        self._kept.append((time.monotonic() + self.choose.uniform(0.1, _LONGEST_KEPT_S), thing))

    def _let_go(self) -> None:
        now_s = time.monotonic()
        over = [each for each in self._kept if each[0] <= now_s]
        over += self._kept[: max(len(self._kept) - _MAX_KEPT, 0)]
        for each in over:
            if each in self._kept:
                self._kept.remove(each)
                each[1].close()

    def keep_or_close(self, client: _Closable) -> None:
        """Vanish, or stay for a while."""
        if self.choose.random() < 0.5:
            self.keep(client)
        else:
            client.close()

    def learn(self, captures: Sequence[int]) -> None:
        """Remember captures, to make use of their numbers."""
        self._captures = [*self._captures, *captures][-8:]
        self.make = values.Chooser(self.choose, OWN_INTERFACES, INTERFACES, [self.alice, *self._captures])

    @property
    def directory(self) -> Path:
        """Its account's own."""
        return self.world.directory_of(self.account)

    def opened_directory(self) -> int:
        """Open the directory that files are to go to: mostly one where the account may write."""
        paths = (
            *[self.directory] * 8,
            self.world.shared,
            self.world.directory_of(ALICE),
            Path("/etc"),
            Path("/proc/self"),
        )
        return os.open(self.choose.choice(paths), os.O_PATH | os.O_DIRECTORY)

    def start(self, request: StartCapture) -> tuple[Client, Message]:
        """Ask for a capture with a directory; return the client, and what comes of it."""
        client = Client(self)
        try:
            directory = self.opened_directory()
            try:
                client.send(request, [directory])
            finally:
                os.close(directory)
            return client, self.started(client)
        except BaseException:
            client.close()
            raise

    def started(self, client: Client, timeout_s: float = _PATIENCE_S) -> Message:
        """Return what comes of a request for a capture."""
        message = client.receive(Started | Attached, timeout_s)  # type: ignore[arg-type]  # isinstance takes both
        if isinstance(message, Started):
            self.learn([message.capture_id])
        elif isinstance(message, Attached):
            self.learn([message.capture.capture_id])
        return message

    def may_be_costly(self) -> bool:
        """Whether it is time for a filter that takes libpcap long; of each account only the first actor has such."""
        now_s = time.monotonic()
        if self.number != 0 or now_s < self._costly_s:
            return False
        self._costly_s = now_s + _COSTLY_PAUSE_S
        return True

    def own_workers(self) -> list[int]:
        """Return the processes of the daemon's that are this account's by now."""
        found: list[int] = []
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError, KeyError):
                if entry.name.isdecimal() and (entry / "comm").read_text().strip() in _OF_CAPTURES:
                    uid = status_of(int(entry.name))["Uid"].split()[0]
                    found += [int(entry.name)] if int(uid) == self.account.user_id else []
        return found


# What is no conversation ----------------------------------------------------------------------------------------------


def silent(actor: Actor) -> None:
    """Connect, and say nothing."""
    for _ in range(actor.choose.choice((1, 1, 3))):
        actor.keep(Client(actor, greet=False))


def half_greeting(actor: Actor) -> None:
    """Begin to greet."""
    client = Client(actor, greet=False)
    client.send(HELLO[: actor.choose.randrange(1, len(HELLO))])
    actor.keep_or_close(client)


def half_request(actor: Actor) -> None:
    """Begin to ask."""
    client = Client(actor)
    request = encode(actor.make.request())
    client.send(request[: actor.choose.randrange(1, len(request))])
    actor.keep_or_close(client)


def nonsense(actor: Actor) -> None:
    """Say something that means nothing."""
    client = Client(actor, greet=actor.choose.random() < 0.5)
    for _ in range(actor.choose.choice((1, 1, 20))):
        client.send(values.nonsense(actor.choose))
    actor.keep_or_close(client)


def oversized(actor: Actor) -> None:
    """Announce more than a frame may have, and begin with it."""
    with Client(actor, greet=actor.choose.random() < 0.5) as client:
        client.send(values.oversized(actor.choose))
        client.rest(_PATIENCE_S)


def largest(actor: Actor) -> None:
    """Send as much as a frame may have."""
    with Client(actor) as client:
        padding = MAX_REQUEST_SIZE_BYTES - len(encode(request_for("", ""))) - 100
        client.send(request_for(ATTACK_PAIRS[0][1], "x" * padding))
        client.receive(Refused)


def byte_by_byte(actor: Actor) -> None:
    """Greet and ask, one byte after another."""
    with Client(actor, greet=False) as client:
        for byte in HELLO + encode(actor.make.question()):
            client.send(bytes([byte]))
            time.sleep(actor.choose.choice((0, 0, 0.001, 0.01)))
        client.receive(Hello)
        client.receive()


def broken_requests(actor: Actor) -> None:
    """Ask with a field or two of a wrong type, a wild value, missing, or more than there are."""
    with Client(actor) as client:
        for _ in range(actor.choose.choice((1, 1, 3))):
            client.send(actor.make.broken())
        client.finish(_PATIENCE_S)


def half_closed(actor: Actor) -> None:
    """Ask, and say at once that nothing more comes, or that nothing more is heard."""
    client = Client(actor)
    client.send(actor.make.request())
    client.socket.shutdown(actor.choose.choice((socket.SHUT_RD, socket.SHUT_WR)))
    actor.keep_or_close(client)


# Requests -------------------------------------------------------------------------------------------------------------


def questions(actor: Actor) -> None:
    """Ask one thing after another."""
    with Client(actor) as client:
        for _ in range(actor.choose.choice((1, 3, 10))):
            client.send(actor.make.question())
            client.receive(Refused | CaptureList | Permissions | InterfaceList)  # type: ignore[arg-type]


def unread_answers(actor: Actor) -> None:
    """Ask many things, and read no answer."""
    client = Client(actor)
    question = actor.choose.choice((WhoAmI(), ListInterfaces(), ListCaptures()))
    client.socket.settimeout(0.1)
    with contextlib.suppress(TimeoutError):
        for _ in range(actor.choose.choice((10, 100, 300))):
            client.send(question)
    actor.keep(client)


def any_requests(actor: Actor) -> None:
    """Ask for anything, in any order, with the directory at hand."""
    with Client(actor) as client:
        for _ in range(actor.choose.choice((1, 2, 5))):
            directory = actor.opened_directory()
            try:
                client.send(actor.make.request(), [directory])
            finally:
                os.close(directory)
            client.receive()
            client.receive()
        client.finish(actor.choose.choice((0.0, _PATIENCE_S)))


def watch(actor: Actor) -> None:
    """Watch interfaces or statistics, and read nothing of it."""
    client = Client(actor)
    client.send(actor.make.watch())
    actor.keep(client)


def attach(actor: Actor) -> None:
    """Attach to a capture, one's own or another's, by number or by name."""
    client = Client(actor)
    with contextlib.suppress(TimeoutError):
        client.send(AttachCapture(capture=actor.make.capture()))
        if isinstance(client.receive(Attached), Attached) and client.channel is not None:
            for name in ("../../alice/alice.pcapng", "x" * 255, "ring-1.pcapng.index", "", "/etc/shadow"):
                client.channel.setblocking(False)
                with contextlib.suppress(OSError):
                    client.channel.send(name.encode())
            if actor.choose.random() < 0.5:
                client.send(FlushCapture())
    actor.keep_or_close(client)


def orders(actor: Actor) -> None:
    """Stop, rotate, flush, or have a snapshot taken, of one's own captures and of others'."""
    with Client(actor) as client:
        client.send(ListCaptures())
        listed = client.receive(CaptureList)
        if isinstance(listed, CaptureList):
            actor.learn([each.capture_id for each in listed.captures])
        for _ in range(actor.choose.choice((1, 3))):
            order = actor.make.order()
            client.send(order)
            answer = client.receive()
            is_alices = getattr(order, "capture", None) in (actor.alice, "alice")
            if is_alices and not isinstance(answer, Refused):
                actor.tell(f"VIOLATION {actor.account.name}: {order} brought {answer}")


# Captures -------------------------------------------------------------------------------------------------------------


def capture(actor: Actor) -> None:
    """Capture for a while, reading what comes of it, or not."""
    client, message = actor.start(actor.make.start())
    if isinstance(message, Refused):
        client.close()
    else:
        actor.keep(client)
        if actor.choose.random() < 0.3:
            with contextlib.suppress(TimeoutError):
                for _ in range(30):
                    client.receive(timeout_s=0.1)


def leave_at_once(actor: Actor) -> None:
    """Ask for a capture and vanish, at some moment of its start."""
    client = Client(actor)
    directory = actor.opened_directory()
    try:
        client.send(actor.make.start(), [directory])
    finally:
        os.close(directory)
    with contextlib.suppress(TimeoutError, EOFError):
        for _ in range(actor.choose.randrange(4)):
            client.receive(timeout_s=actor.choose.choice((0.001, 0.02)))
    client.close()


def collide(actor: Actor) -> None:
    """Ask for two captures of one name, into one ring."""
    request = actor.make.start(name=actor.make.name(), destination=Destination(file_name="same.pcapng"))
    for _ in range(2):
        client, _ = actor.start(request)
        actor.keep_or_close(client)


def detach(actor: Actor) -> None:
    """Start a capture that stays, and leave it; others of this account stop it, or nobody does."""
    request = actor.make.start(name=actor.make.name(), detached=True)
    client, message = actor.start(request)
    client.close()
    if isinstance(message, Attached) and actor.choose.random() < 0.7:
        with Client(actor) as other:
            other.send(StopCapture(capture=message.capture.capture_id))
            other.receive()


def bad_filter(actor: Actor) -> None:
    """Capture with a filter that is none, or long, or takes long."""
    text = actor.choose.choice(values.BAD_FILTERS)
    if actor.choose.random() < 0.3:
        text = values.long_filter(actor.choose)
    if actor.may_be_costly():
        text = values.costly_filter(actor.choose)
    one = InterfaceRequest(name=ATTACK_PAIRS[0][1], capture_filter=text, kernel_buffer_size_bytes=1 << 20)
    request = StartCapture(interfaces=(one,), destination=Destination(file_name="filtered.pcapng"))
    client, _ = actor.start(request)
    actor.keep_or_close(client)


def stop_workers(actor: Actor) -> None:
    """Stop the own captures' processes as the kernel does (SIGSTOP), have them go on, or kill them."""
    for process_id in actor.own_workers():
        what = actor.choose.choice((signal.SIGSTOP, signal.SIGSTOP, signal.SIGCONT, signal.SIGCONT, signal.SIGKILL))
        with contextlib.suppress(OSError):  # it has ended, or is not this account's yet
            os.kill(process_id, what)


def meddle(actor: Actor) -> None:
    """Take files from under a capture, put others in their place, and forge a ring's index."""
    entries = list(actor.directory.iterdir())
    for path in actor.choose.sample(entries, min(len(entries), 5)):
        with contextlib.suppress(OSError):
            match actor.choose.randrange(7):
                case 0:
                    path.unlink()
                case 1:
                    os.truncate(path, actor.choose.choice((0, 5, 10**9)))
                case 2:
                    path.rename(path.with_name("raw.pcapng"))
                case 3:
                    path.chmod(actor.choose.choice((0, 0o400, 0o666)))
                case 4:
                    path.unlink()
                    path.symlink_to(actor.world.directory_of(ALICE) / "alice.pcapng.index")
                case 5:
                    path.unlink()
                    path.mkdir()
                case _:
                    forged = (
                        b'{"type":"opened","name":"../../alice/alice.pcapng.index","device":1,"inode":1,"opened_ns":1}'
                    )
                    path.write_bytes(forged + b"\n" + values.nonsense(actor.choose))
    # Room for others, or none is left after a while.
    for path in entries if actor.choose.random() < 0.2 else ():
        with contextlib.suppress(OSError):
            path.rmdir() if path.is_dir() else path.unlink()


# Descriptors ----------------------------------------------------------------------------------------------------------


def stuck_socket(actor: Actor) -> socket.socket:
    """Return a TCP connection that whoever closes it last waits for; its other side is kept for a while."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        made = socket.create_connection(listener.getsockname())
        actor.keep(listener.accept()[0])
    made.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    made.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            made.send(bytes(4096))
    made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, _LINGER_S))
    return made


def take_back(stuck: Sequence[socket.socket]) -> None:
    """Close sockets for which nobody shall wait: they were not passed on."""
    for each in stuck:
        each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        each.close()


def descriptors(actor: Actor) -> None:
    """Send descriptors along, some or as many as can be, of which some take long to close."""
    client = Client(actor, greet=actor.choose.random() < 0.5)
    stuck = [stuck_socket(actor) for _ in range(actor.choose.choice((0, 1, 2)))]
    others = [actor.opened_directory(), *os.pipe()]
    count = actor.choose.choice((1, 2, 4, 60, _MAX_DESCRIPTORS - len(stuck)))
    chosen = [actor.choose.choice((*others, client.socket.fileno())) for _ in range(count)]
    data = actor.choose.choice((b"h", HELLO, b"\xff" * 4, encode(WhoAmI()), encode(actor.make.request())))
    try:
        client.send_along(data, [*chosen, *(each.fileno() for each in stuck)])
    except OSError:  # the kernel refuses them, or the daemon has closed
        take_back(stuck)
        raise
    finally:
        for descriptor in others:
            os.close(descriptor)
        for each in stuck:
            each.close()
        actor.keep_or_close(client)


def wrong_directory(actor: Actor) -> None:
    """Pass something else where the directory is asked for, or something behind it."""
    client = Client(actor)
    stuck, behind = stuck_socket(actor), actor.choose.random() < 0.5
    directory, pipe = actor.opened_directory(), os.pipe()
    wrong = actor.choose.choice((stuck.fileno(), stuck.fileno(), *pipe, client.socket.fileno()))
    is_passed = False
    try:
        client.send(actor.make.start(), [directory if behind else wrong])
        client.receive(DirectoryWanted)
        is_passed = client.channel is not None
        if behind and client.channel is not None:
            socket.send_fds(client.channel, [b"d"], [wrong] * actor.choose.choice((1, 10, _MAX_DESCRIPTORS)))
    except OSError:
        is_passed = False
        raise
    finally:
        for each in (directory, *pipe):
            os.close(each)
        if is_passed:
            stuck.close()
        else:
            take_back([stuck])
        actor.keep_or_close(client)


def readers_channel(actor: Actor) -> None:
    """Attach, and send descriptors on the socket on which files come."""
    with Client(actor) as client:
        client.send(AttachCapture(capture=actor.make.capture()))
        if not isinstance(client.receive(Attached), Attached) or client.channel is None:
            return
        stuck = stuck_socket(actor)
        client.channel.setblocking(False)
        try:
            for _ in range(10):
                socket.send_fds(client.channel, [b"ring-1.pcapng"], [stuck.fileno()])
        except OSError:
            take_back([stuck])
        stuck.close()


@dataclass(frozen=True)
class Act:
    """Something to do.

    Attributes:
        do: does it.
        weight: how often, beside the others.
        needs_rule: those that no rule names are only refused, which ``any_requests`` has them be.
    """

    do: Callable[[Actor], None]
    weight: int = 4
    needs_rule: bool = False

    @property
    def name(self) -> str:
        """For people."""
        return self.do.__name__


ACTS = (
    *(Act(silent), Act(half_greeting), Act(half_request), Act(nonsense), Act(oversized), Act(largest, 1)),
    *(Act(byte_by_byte), Act(broken_requests, 8), Act(half_closed)),
    *(Act(questions, 2), Act(unread_answers, 2), Act(any_requests, 8), Act(watch), Act(attach, 5), Act(orders, 6)),
    *(Act(capture, 12, needs_rule=True), Act(leave_at_once, 6, needs_rule=True), Act(collide, 3, needs_rule=True)),
    *(Act(detach, 4, needs_rule=True), Act(bad_filter, 3, needs_rule=True), Act(stop_workers, 2, needs_rule=True)),
    *(Act(meddle, 2, needs_rule=True), Act(descriptors, 6), Act(wrong_directory, 4, needs_rule=True)),
    Act(readers_channel, 3, needs_rule=True),
)


def act(channel: Channel, actor: Actor) -> None:
    """Be an actor, in a process of its own, until killed."""
    del channel  # what is raised is sent there
    actor.run()
