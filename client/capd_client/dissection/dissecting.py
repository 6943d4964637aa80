"""One dissection, from packets to frames, through one engine after another. Nothing here waits."""

import os
import weakref
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from capd_client.dissection import pdml, rows, words
from capd_client.dissection.engine.ended import Ended
from capd_client.dissection.engine.process import Engine
from capd_client.dissection.engine.programs import Program, configured, found
from capd_client.dissection.feeding import Feeder, pieces
from capd_client.dissection.frames import FieldFrame, Form, Frame, Types, WholeFrame
from capd_client.dissection.garbage import NotUnderstood
from capd_client.dissection.keys import KeyLog
from capd_client.dissection.options import Asked
from capd_client.errors import CaptureError
from capd_protocol.batches.model import Batch, FileInterface

#: So many markers wait for frames behind them. Chosen: of a stream whose filter matches nothing for minutes.
_MOST_MARKERS: Final = 1000


class Restarted(NamedTuple):
    """A new engine goes on, which knows nothing of the packets before: their conversations are forgotten.

    Attributes:
        packets: how many those were.
    """

    packets: int


class Dissecting:
    """Packets and markers in, frames and markers out, in order. Its owner waits for it, and closes it."""

    def __init__(self, asked: Asked, types: Types, *, source: str, is_live: bool, source_fd: int | None = None) -> None:
        """Nothing is started before the first look at what there is.

        Args:
            asked: what to ask of the engine.
            types: what is known of fields.
            source: what is dissected, for people.
            is_live: each frame is wanted as soon as its packet has come.
            source_fd: a file that the engine reads by itself, which is taken over; None: packets come to ``take``.

        Raises:
            UnsupportedError: there is no tshark.
        """
        #: Of the file, also where nobody closes this.
        self._close_source = None if source_fd is None else weakref.finalize(self, os.close, source_fd)
        self._program = _program(asked)
        self._asked, self._types = asked, types
        self._source, self._is_live = source, is_live
        self._source_fd = source_fd
        self._names, places = _asked_of_engine(asked.names, types)
        self._form = Form(places, types.aggregator if asked.names else b"")
        self._keys = None if asked.keylog_file is None else KeyLog(asked.keylog_file)
        self._engine: Engine | None = None
        self._feeder = Feeder()
        self._parser: rows.Rows | pdml.Packets = self._new_parser()
        #: What was taken and not given, in pieces; the next of them; and what their interface ids mean.
        self._waiting: Iterator[Batch] = iter(())
        self._next: Batch | None = None
        self._interfaces: Sequence[FileInterface] = ()
        #: Frames and markers, and what is raised behind them.
        self._ready: deque[object] = deque()
        self._error: CaptureError | None = None
        #: Markers that wait, each with how many packets are before it.
        self._markers: deque[tuple[int, object]] = deque()
        #: Packets that engines before had, and those that this one was given.
        self._before, self._given = 0, 0
        #: The number of the last frame, among all, and how many this engine gave.
        self._last, self._answered = 0, 0
        self._is_finished = source_fd is not None
        #: There will be no more than what ``next_item`` returns.
        self.is_over = False
        self.is_closed = False
        #: The last record of the file, which the engine has read by itself, is not whole.
        self.is_cut = False

    # Packets in -------------------------------------------------------------------------------------------------------

    @property
    def wants_input(self) -> bool:
        """Whether it takes a batch or a marker, or is to learn that there are no more. First by ``next_item``."""
        if self._is_finished or self.is_over or self._engine is None:
            return False
        self._give()
        return self._next is None and self._engine.wants_input

    def accept(self, item: object, interfaces: Sequence[FileInterface]) -> bool:
        """Take what is next, where it wants something; return whether that was anything.

        Args:
            item: packets; or a marker, which stands between the frames of the packets before it and those behind; None
                is nothing.
            interfaces: what the interface ids of packets mean.
        """
        if isinstance(item, Batch):
            self._waiting, self._interfaces = pieces(item), interfaces
            self._give()
        elif item is not None:
            self._mark(item)
        return item is not None

    def _mark(self, marker: object) -> None:
        self._markers.append((self._before + self._given, marker))
        if self._asked.display_filter is None:
            self._pass_markers(self._last)
        if len(self._markers) > _MOST_MARKERS:
            self._ready.append(self._markers.popleft()[1])

    def finish(self) -> None:
        """Know that there are no more packets."""
        self._is_finished = True
        self._give()

    def _give(self) -> None:
        """Give the engine what it takes now."""
        engine = self._engine
        while engine is not None and engine.wants_input:
            if self._next is None:
                self._next = next(self._waiting, None)
            limit = self._asked.restart_packets
            room = None if limit is None else limit - self._given
            if (self._next is None and self._is_finished) or (self._next is not None and room == 0):
                engine.end_input()
                return
            if self._next is None:
                return
            part, self._next = self._next, None
            if room is not None and len(part.offsets) > room:
                part, self._next = part.chosen(slice(0, room)), part.chosen(slice(room, None))
            self._given += len(part.offsets)
            engine.offer(self._feeder.bytes_of(part, self._interfaces))

    # Frames out -------------------------------------------------------------------------------------------------------

    def next_item(self) -> object:
        """Return the frame or marker that is next; None: there is none now.

        Raises:
            CaptureError: the engine has refused something, or failed; what it had answered was given.
        """
        while not self._ready and not self.is_over:
            if self._engine is None:
                self._start()
            self._give()
            if not self._step():
                break
        if self._ready:
            return self._ready.popleft()
        if self._error is not None:
            error, self._error = self._error, None
            raise error
        return None

    def _start(self) -> None:
        """Start an engine.

        Raises:
            ResourceError: there is no room for it.
        """
        asked = self._asked
        path = None if self._keys is None else self._keys.path
        form = rows.words(self._names, self._form.aggregator) if asked.names else ["-T", "pdml"]
        command = [*asked.words(is_live=self._is_live, keylog_path=path), *form]
        kept = () if self._keys is None else self._keys.descriptors
        try:
            self._engine = Engine(self._program, command, source_fd=self._source_fd, kept_fds=kept)
        except BaseException:
            self._let_go()
            raise
        if self._before:
            self._pass_markers(self._before)
            self._ready.append(Restarted(self._before))
        if self._source_fd is None:
            self._engine.offer(self._feeder.begin())

    def _step(self) -> bool:
        """Take what the engine has answered; return whether there was anything."""
        assert self._engine is not None
        data = self._engine.step()
        if data:
            try:
                for number, answer in self._parser.take(data):
                    self._take_frame(number, answer)
            except NotUnderstood as error:
                self._fail(words.is_none(str(error)))
            return True
        ended = self._engine.ended
        if ended is not None:
            self._take_end(ended)
        return ended is not None

    def _take_frame(self, own_number: int, answer: "bytes | Sequence[bytes]") -> None:
        number = self._before + own_number
        if number <= self._last or (self._source_fd is None and own_number > self._given):
            raise NotUnderstood(b"frame %d" % own_number)
        self._pass_markers(number - 1)
        frame: Frame
        if isinstance(answer, bytes):
            frame = WholeFrame(number, self._types, answer)
        else:
            frame = FieldFrame(number, self._types, self._form, answer)
        self._ready.append(frame)
        self._last = number
        self._answered += 1
        if self._asked.display_filter is None:
            self._pass_markers(number)

    def _pass_markers(self, number: int) -> None:
        """Give the markers behind which no frame up to a number comes."""
        while self._markers and self._markers[0][0] <= number:
            self._ready.append(self._markers.popleft()[1])

    def _take_end(self, ended: Ended) -> None:
        self.is_cut = words.is_of_cut_file(ended)
        failure = words.failure_of(ended, self._asked, source=self._source, has_answered=self._answered > 0)
        if failure is None:
            try:
                self._parser.end()
            except NotUnderstood as error:
                failure = words.is_none(str(error))
        has_more = self._next is not None
        if failure is None and self._source_fd is None:
            is_all = self._asked.display_filter is not None or self._answered == self._given
            if not is_all or not (has_more or self._is_finished):
                failure = words.has_left_out(self._answered, self._given)
        if failure is not None:
            self._fail(failure)
        elif has_more:
            self._before += self._given
            self._given = self._answered = 0
            self._close_engine()
            self._feeder, self._parser = Feeder(), self._new_parser()
        else:
            self._end()

    def _fail(self, error: CaptureError) -> None:
        self._error = error
        self._end()

    def _end(self) -> None:
        self._pass_markers(self._before + self._given)
        self._let_go()

    def _new_parser(self) -> rows.Rows | pdml.Packets:
        return rows.Rows(len(self._names)) if self._asked.names else pdml.Packets()

    @property
    def has_ready(self) -> bool:
        """Whether ``next_item`` returns something without a look at the engine."""
        return bool(self._ready)

    # What waits -------------------------------------------------------------------------------------------------------

    def fileno(self) -> int:
        """Return a descriptor that is readable when ``next_item`` has something to do; there is one while it is None.

        Where an engine is started anew it is another one.
        """
        assert self._engine is not None
        return self._engine.fileno()

    @property
    def is_busy(self) -> bool:
        """Whether the engine has something to do, as far as that can be seen."""
        if self._engine is None or self.is_over:
            return False
        is_behind = self._asked.display_filter is None and self._answered < self._given
        return is_behind or self._engine.has_unread

    @property
    def moved_bytes(self) -> int:
        """What grows as long as the engine does something."""
        return 0 if self._engine is None else self._engine.moved_bytes

    @property
    def timeout_s(self) -> float | None:
        """How long it may stand still while it has something to do."""
        return self._asked.timeout_s

    def give_up(self) -> None:
        """End it, since the engine stands still: that is raised behind what is ready."""
        self._fail(words.stands_still(self._asked.timeout_s or 0))

    def close(self) -> None:
        """End it: nothing more is given."""
        self._ready.clear()
        self._error = None
        self._let_go()

    def _let_go(self) -> None:
        """End the engine, and let go of all that is the system's."""
        self.is_over = self.is_closed = True
        # What is mapped for them is not kept.
        self._waiting, self._next, self._interfaces = iter(()), None, ()
        self._close_engine()
        if self._keys is not None:
            self._keys.close()
        if self._close_source is not None:
            self._close_source()

    def _close_engine(self) -> None:
        engine, self._engine = self._engine, None
        if engine is not None:
            engine.close()


def _asked_of_engine(names: Sequence[str], types: Types) -> tuple[list[str], dict[str, int]]:
    """Return the names that an engine is asked for, each once, and where in its rows the values of each name are."""
    own_names = {name: types.name_here(name) for name in names}
    asked_names = [name for name in dict.fromkeys(own_names.values()) if name != rows.NUMBER]
    places = {name: place for place, name in enumerate((*asked_names, rows.NUMBER))}
    return asked_names, {name: places[own] for name, own in own_names.items()}


def _program(asked: Asked) -> Program:
    return configured(found("tshark", asked.program), asked.configuration, asked.profile)
