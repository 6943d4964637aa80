"""The codec: messages to frames and back."""

import re
from collections.abc import Callable
from typing import Any

import msgspec

from capd_protocol.errors import RemoteProtocolError
from capd_protocol.frames import Frame, encode_frame
from capd_protocol.messages.base import Hello, Indicator
from capd_protocol.messages.dumpcap import BadFilter, Drops, ErrorMessage, FileOpened, PacketCount, Success, Unknown
from capd_protocol.messages.events import Event
from capd_protocol.messages.replies import Reply
from capd_protocol.messages.requests import Request
from capd_protocol.text import escaped

Message = (
    FileOpened | PacketCount | Drops | ErrorMessage | BadFilter | Success | Hello | Request | Reply | Event | Unknown
)

#: Of the reason why bytes are no message, which may quote them.
_MAX_REASON_CHARACTERS = 200

_DECIMAL = re.compile(r"[0-9]{1,20}")


def _text(payload: bytes) -> str:
    # dumpcap's texts are C strings; a message without a value has no NUL either. File names may be any bytes.
    return payload.removesuffix(b"\0").decode("utf-8", "surrogateescape")


def _c_string(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape") + b"\0"


def _number(text: str) -> int:
    if not _DECIMAL.fullmatch(text):
        raise ValueError(f"{text!r} is not a number")
    return int(text)


def _decode_drops(payload: bytes) -> Drops:
    total, _, interface = _text(payload).partition(":")
    return Drops(_number(total), interface)


def _decode_bad_filter(payload: bytes) -> BadFilter:
    index, _, text = _text(payload).partition(":")
    return BadFilter(_number(index), text)


def _decode_error(payload: bytes) -> ErrorMessage:
    texts: list[str] = []
    rest = payload
    for _ in range(2):
        end = 4 + int.from_bytes(rest[1:4], "big")
        if rest[:1] != b"E" or len(rest) < end:
            raise ValueError("the two texts of an error are not whole")
        texts.append(_text(rest[4:end]))
        rest = rest[end:]
    if rest:
        raise ValueError("bytes after the two texts of an error")
    return ErrorMessage(*texts)


def _encode_error(message: ErrorMessage) -> bytes:
    return b"".join(encode_frame(Indicator.ERROR, _c_string(text)) for text in (message.primary, message.secondary))


def _decode_success(payload: bytes) -> Success:
    if payload:
        raise ValueError("a success message carries nothing")
    return Success()


def _json_decoder(type_: Any) -> Callable[[bytes], Any]:
    return msgspec.json.Decoder(type_).decode


_DECODERS: dict[int, Callable[[bytes], Message]] = {
    Indicator.FILE: lambda payload: FileOpened(_text(payload)),
    Indicator.PACKET_COUNT: lambda payload: PacketCount(_number(_text(payload))),
    Indicator.DROPS: _decode_drops,
    Indicator.ERROR: _decode_error,
    Indicator.BAD_FILTER: _decode_bad_filter,
    Indicator.SUCCESS: _decode_success,
    Indicator.HELLO: _json_decoder(Hello),
    Indicator.REQUEST: _json_decoder(Request),
    Indicator.REPLY: _json_decoder(Reply),
    Indicator.EVENT: _json_decoder(Event),
}

_JSON_INDICATORS: dict[type, Indicator] = {
    Hello: Indicator.HELLO,
    **dict.fromkeys(Request.__args__, Indicator.REQUEST),
    **dict.fromkeys(Reply.__args__, Indicator.REPLY),
    **dict.fromkeys(Event.__args__, Indicator.EVENT),
}


def encode(message: Message) -> bytes:
    """Return the bytes of the frame that carries this message.

    Raises:
        LocalProtocolError: it is longer than a frame may be.
    """
    match message:
        case FileOpened(name):
            return encode_frame(Indicator.FILE, _c_string(name))
        case PacketCount(packets_delta):
            return encode_frame(Indicator.PACKET_COUNT, _c_string(str(packets_delta)))
        case Drops(drops_total, interface):
            return encode_frame(Indicator.DROPS, _c_string(f"{drops_total}:{interface}"))
        case ErrorMessage():
            return encode_frame(Indicator.ERROR, _encode_error(message))
        case BadFilter(index, text):
            return encode_frame(Indicator.BAD_FILTER, _c_string(f"{index}:{text}"))
        case Success():
            return encode_frame(Indicator.SUCCESS, b"")
        case Unknown(indicator, payload):
            return encode_frame(indicator, payload)
        case _:
            return encode_frame(_JSON_INDICATORS[type(message)], msgspec.json.encode(message))


def decode(frame: Frame) -> Message:
    """Return what a frame means; a frame with an unknown indicator survives as ``Unknown``.

    Raises:
        RemoteProtocolError: the payload is not what its indicator promises.
    """
    decoder = _DECODERS.get(frame.indicator)
    if decoder is None:
        return Unknown(frame.indicator, frame.payload)
    try:
        return decoder(frame.payload)
    # msgspec's own and UnicodeError are ValueErrors too; JSON nested too deep is a RecursionError.
    except (ValueError, RecursionError) as error:
        # It may quote what was sent, and goes into logs: no line ends, no escape sequences.
        reason = escaped(str(error)[:_MAX_REASON_CHARACTERS])
        raise RemoteProtocolError(f"message {chr(frame.indicator)!r}: {reason}") from error
