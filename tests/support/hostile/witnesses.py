"""Who must not notice: alice, who records what a sender sends, and carol, who lists and captures once a second.

Each is a process of its own, and tells at the end what it has seen.
"""

import math
import time
from typing import NamedTuple

from capd_client import CaptureError, CaptureSession, NoEvents, who_am_i
from capd_protocol.messages import InterfaceCounters
from tests.support.attack import PATIENCE_S, Channel
from tests.support.hostile.world import ALICE, ALICE_PAIR, CAROL, CAROL_PAIR, World
from tests.support.traffic import build_frames, sequence_offset, transmit

#: Bytes in alice's frames: 60 is the least that Ethernet has.
SIZES = (60, 64, 96, 128)
UPDATE_INTERVAL_S = 0.1
#: How many files alice's ring keeps, and how many seconds fill one. Chosen: each is counted by capinfos meanwhile.
RING_FILES, FILE_S = 10, 2.0
#: Of an enhanced packet block, beside the packet.
_AROUND_PACKET_BYTES = 32
#: Between two marks.
MARK_S = 0.1
#: The sender was kept from sending when it does not come back for so long.
_STALL_S = 0.03
#: What was sent last is announced by then, or it never is.
_LAST_PACKETS_S = 10.0
_ASK_S = 1.0
#: How long a process sleeps that does nothing else.
SLEEP_S = 0.01


class Mark(NamedTuple):
    """A packet whose announcement is awaited: how many were sent up to it, and when (monotonic)."""

    sent: int
    at_s: float


class Stall(NamedTuple):
    """A time in which nothing was sent, since the sender did not get a processor."""

    start_s: float
    end_s: float


class Sent(NamedTuple):
    """What the sender tells."""

    packets: int
    marks: list[Mark]
    stalls: list[Stall]


def file_kb(rate_pps: float) -> int:
    """Return how large a file of alice's ring is, so that one lasts ``FILE_S``."""
    mean_bytes = sum(SIZES) / len(SIZES) + _AROUND_PACKET_BYTES
    return max(int(rate_pps * FILE_S * mean_bytes / 1000), 10)


def send(channel: Channel, rate_pps: float) -> None:
    """Send to alice's interface until asked to end."""
    marks: list[Mark] = []
    stalls: list[Stall] = []
    before_s = time.monotonic()

    def until(sent: int, now_s: float) -> bool:
        nonlocal before_s
        if now_s - before_s > _STALL_S:
            stalls.append(Stall(before_s, now_s))
        before_s = now_s
        if marks and now_s < marks[-1].at_s + MARK_S:
            return False
        marks.append(Mark(sent, now_s))
        return channel.poll()

    report = transmit(
        ALICE_PAIR[0],
        build_frames(SIZES),
        2**62,
        rate_pps,
        sequence_at=sequence_offset(),
        max_seconds=math.inf,
        until=until,
    )
    channel.send(Sent(report.sent, marks, stalls))


class Counted(NamedTuple):
    """Packets are announced: how many in all, and when (monotonic)."""

    packets: int
    at_s: float


class Closed(NamedTuple):
    """A file is complete.

    Attributes:
        name: its path.
        packets: in it.
        last_ns: when its last packet came (realtime).
        at_ns: when alice heard that the file is complete (realtime).
        at_s: the same moment (monotonic).
    """

    name: str
    packets: int
    last_ns: int | None
    at_ns: int
    at_s: float


class Opened(NamedTuple):
    """There is a new file: when alice heard of it (realtime, monotonic)."""

    at_ns: int
    at_s: float


class Heard(NamedTuple):
    """What alice has heard."""

    counted: list[Counted]
    opened: list[Opened]
    closed: list[Closed]
    #: What else came: none of it should.
    others: list[str]
    interfaces: tuple[InterfaceCounters, ...]
    end: str


def record(channel: Channel, world: World, rate_pps: float) -> None:
    """Be alice: capture until the number of sent packets comes. Sends the capture's number, each complete file, all."""
    heard = Heard([], [], [], [], (), "")
    with CaptureSession(
        interfaces=ALICE_PAIR[1],
        savefile=world.directory_of(ALICE) / "alice.pcapng",
        ringbuffer_filesize=file_kb(rate_pps),
        ringbuffer_files=RING_FILES,
        update_interval=UPDATE_INTERVAL_S,
        socket_path=world.daemon.socket_path,
        name="alice",
    ) as session:
        session.wait_started(PATIENCE_S)
        channel.send(session.capture_id)
        end = ""
        sent: int | None = None
        deadline_s = math.inf
        while not end:
            if sent is None and channel.poll():
                sent = channel.recv()
                deadline_s = time.monotonic() + _LAST_PACKETS_S
            if sent is not None and (session.packetcount >= sent or time.monotonic() > deadline_s):
                session.stop()
                sent = 2**62
            end = _hear(session, heard, channel)
        channel.send(heard._replace(interfaces=session.interface_counters, end=end))


def _hear(session: CaptureSession, heard: Heard, channel: Channel) -> str:
    """Take the next event; return what the capture has ended with, or nothing."""
    try:
        event_type, message = session.wait_for_event(timeout=UPDATE_INTERVAL_S)
    except NoEvents:
        return ""
    except CaptureError as error:
        return f"{type(error).__name__}: {error}"
    now_s, now_ns = time.monotonic(), time.time_ns()
    if event_type == session.SP_PACKET_COUNT:
        heard.counted.append(Counted(session.packetcount, now_s))
    elif event_type == session.SP_FILE:
        heard.opened.append(Opened(now_ns, now_s))
    elif event_type == session.SP_FILE_CLOSED:
        closed = Closed(message.name, message.packets, message.last_timestamp_ns, now_ns, now_s)
        heard.closed.append(closed)
        channel.send(closed)
    elif event_type not in (session.SP_FILE_DELETED, session.SP_DROPS, session.SP_ENDED):
        heard.others.append(f"{event_type}: {message!r:.200}")
    return ""


class Answer(NamedTuple):
    """What carol got.

    Attributes:
        at_s: when she asked (monotonic).
        whoami_s: how long the first answer took.
        start_s: how long her capture took to start.
        end_s: how long it took to end.
        failure: what went wrong, if anything.
    """

    at_s: float
    whoami_s: float
    start_s: float
    end_s: float
    failure: str = ""

    @property
    def started_s(self) -> float:
        """When her capture had started."""
        return self.at_s + self.whoami_s + self.start_s

    @property
    def ended_s(self) -> float:
        """When it had ended."""
        return self.started_s + self.end_s


def ask(channel: Channel, world: World) -> None:
    """Be carol: ask and capture once a second. ``"pause"`` is answered when she does neither; ``"finish"`` with all."""
    answers: list[Answer] = []
    due_s = time.monotonic()
    is_paused = False
    while True:
        if channel.poll(None if is_paused else max(due_s - time.monotonic(), 0)):
            match channel.recv():
                case "finish":
                    channel.send(answers)
                    return
                case word:
                    is_paused = word == "pause"
                    channel.send(word)
                    continue
        due_s = max(due_s + _ASK_S, time.monotonic())
        answers.append(_ask_once(world))


def _ask_once(world: World) -> Answer:
    began_s = time.monotonic()
    whoami_s = start_s = end_s = math.inf
    try:
        who_am_i(socket_path=world.daemon.socket_path)
        asked_s = time.monotonic()
        whoami_s = asked_s - began_s
        with CaptureSession(
            interfaces=CAROL_PAIR[1],
            savefile=world.directory_of(CAROL) / "carol.pcapng",
            socket_path=world.daemon.socket_path,
        ) as session:
            session.wait_started(PATIENCE_S)
            stopped_s = time.monotonic()
            start_s = stopped_s - asked_s
            session.stop()
            session.wait(PATIENCE_S)
        end_s = time.monotonic() - stopped_s
    except (CaptureError, OSError) as error:
        return Answer(began_s, whoami_s, start_s, end_s, f"{type(error).__name__}: {error}")
    return Answer(began_s, whoami_s, start_s, end_s)


class Late(NamedTuple):
    """How late a process came that only sleeps: what the machine itself makes everybody wait."""

    at_s: float
    late_s: float


def sleep_only(channel: Channel) -> None:
    """Sleep, and note how much longer that took, until asked to end."""
    late: list[Late] = []
    while not channel.poll():
        before_s = time.monotonic()
        time.sleep(SLEEP_S)
        now_s = time.monotonic()
        late.append(Late(now_s, now_s - before_s - SLEEP_S))
    channel.send(late)
