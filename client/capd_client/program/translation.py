"""What a program in dumpcap's place says, as the daemon would say it. Pure: bytes in, bytes out."""

import os
from collections.abc import Callable, Iterable, Iterator

from capd_protocol.errors import RemoteProtocolError
from capd_protocol.frames import FrameDecoder
from capd_protocol.messages import (
    PROTOCOL_VERSION,
    BadFilter,
    Drops,
    Ended,
    EndReason,
    ErrorMessage,
    Failed,
    Failure,
    FailureCode,
    FileClosed,
    FileOpened,
    Hello,
    InterfaceCounters,
    Message,
    PacketCount,
    Refused,
    StartCapture,
    Started,
    decode,
    encode,
)


class Translation:
    """One program, from its first byte to its end."""

    def __init__(
        self,
        program: str,
        request: StartCapture,
        find_failure: Callable[[], FailureCode],
        size_of: Callable[[str], int],
    ) -> None:
        """Nothing was said yet.

        Args:
            program: what people know it by.
            request: what it was asked for.
            find_failure: returns which kind of failure it is where it does not begin; its words are for people only.
            size_of: returns the size of a finished file in bytes, by its name.
        """
        self._size_of = size_of
        self._program = program
        self._request = request
        self._find_failure = find_failure
        self._decoder = FrameDecoder()
        self._drops: dict[str, int] = {}
        self._packets = self._packets_in_file = 0
        self._file: str | None = None
        self._has_begun = False
        #: It has failed, or cannot be understood, and how it ends says no more.
        self.is_decided = False
        #: The client has asked for the end.
        self.is_stopping = False

    def beginning(self) -> bytes:
        """Return what comes first."""
        return encode(Hello(protocol_version=PROTOCOL_VERSION, software=self._program))

    def translated(self, data: bytes) -> bytes:
        """Return what the daemon would have said."""
        if self.is_decided and not self._has_begun:
            return b""
        try:
            self._decoder.feed(data)
            messages: list[Message] = []
            while (frame := self._decoder.next_frame()) is not None:
                messages += self._taken(decode(frame))
        except RemoteProtocolError as error:
            return self._failed(f"{self._program} cannot be understood: {error}", FailureCode.PROTOCOL)
        return _frames(messages)

    def _taken(self, message: Message) -> Iterator[Message]:
        match message:
            case FileOpened(name=path):
                yield from self._opened(os.path.basename(path))  # noqa: PTH119
            case PacketCount(packets_delta=delta):
                self._packets += delta
                self._packets_in_file += delta
                yield message
            case Drops(drops_total=drops, interface=interface):
                self._drops[interface] = drops
                yield message
            case BadFilter(interface_index=index, text=text):
                failure = Failure(
                    code=FailureCode.BAD_FILTER,
                    text=f"capture filter: {text}",
                    argument="capture_filter",
                    interface_index=index,
                )
                yield from self._refused(failure)
            case ErrorMessage(primary=primary):
                text = " ".join(primary.split())
                if self._has_begun:
                    self.is_decided = True
                    failure = Failure(code=FailureCode.INTERFACE_LOST, text=text)
                    yield Failed(failure=failure)
                    yield ErrorMessage(text)
                else:
                    yield from self._refused(Failure(code=self._find_failure(), text=text, interface=self._only))
            case _:
                pass

    @property
    def _only(self) -> str | None:
        names = [each.name for each in self._request.interfaces]
        return names[0] if len(names) == 1 else None

    def _opened(self, name: str) -> Iterator[Message]:
        if not self._has_begun:
            self._has_begun = True
            yield Started(capture_id=0, interfaces=tuple(each.name for each in self._request.interfaces))
        yield from self._closed()
        self._file, self._packets_in_file = name, 0
        yield FileOpened(name)

    def _closed(self) -> Iterator[Message]:
        if self._file is not None:
            yield FileClosed(
                name=self._file,
                packets=self._packets_in_file,
                size_bytes=self._size_of(self._file),
                first_timestamp_ns=None,
                last_timestamp_ns=None,
                drops=0,
            )
            self._file = None

    def _refused(self, failure: Failure) -> Iterator[Message]:
        if not self.is_decided:
            self.is_decided = True
            yield Refused(failure=failure)

    def _failed(self, text: str, code: FailureCode) -> bytes:
        """Return that it has failed, however far it has come; nothing more of it counts."""
        if self.is_decided:
            return b""
        failure = Failure(code=code, text=text)
        if not self._has_begun:
            return _frames(self._refused(failure))
        self.is_decided = True
        return _frames((Failed(failure=failure), ErrorMessage(text)))

    def end(self, status: int | None, problem: str = "") -> bytes:
        """Return what is said when it has ended.

        Args:
            status: as subprocess has it; None: it was not started.
            problem: what is wrong with that; empty: its status says it.
        """
        parts = [_frames(self._closed())] if self._has_begun else []
        if not self.is_decided and (problem or status != 0 or not self._has_begun):
            text = problem or f"{self._program} has ended with status {status}"
            if not problem and status == 0:
                text = f"{self._program} has ended, and has captured nothing: it is no program in dumpcap's place"
            parts.append(self._failed(text, FailureCode.WORKER_DIED))
        if self._has_begun:
            reason = EndReason.FAILED if self.is_decided else self._reason()
            parts.append(encode(Ended(reason=reason, interfaces=self._counters())))
        return b"".join(parts)

    def _reason(self) -> EndReason:
        autostop = self._request.autostop
        if self.is_stopping:
            return EndReason.STOPPED
        if autostop.packets is not None and self._packets >= autostop.packets:
            return EndReason.PACKETS
        if autostop.files is not None:
            return EndReason.FILES
        if autostop.filesize_kb is not None:
            return EndReason.FILESIZE
        return EndReason.DURATION if autostop.duration_s is not None else EndReason.STOPPED

    def _counters(self) -> tuple[InterfaceCounters, ...]:
        """Return the counts. Packets are counted all together, so those of one among several are not known."""
        names = [each.label or each.name for each in self._request.interfaces]
        written = self._packets if len(names) == 1 else 0
        return tuple(
            InterfaceCounters(
                interface=each,
                received_total=written + self._drops.get(each, 0),
                written_total=written,
                kernel_drops_total=self._drops.get(each, 0),
            )
            for each in names
        )


def _frames(messages: Iterable[Message]) -> bytes:
    return b"".join(encode(each) for each in messages)
