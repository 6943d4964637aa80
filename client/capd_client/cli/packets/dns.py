"""A DNS message as a few words: what it asks, and the first answer (RFC 1035). Pure.

Of the message only its header, its first question and its first answer are read.
"""

import re
import socket
import struct

from capd_protocol.text import counted

_HEADER = struct.Struct("!2xHHH4x")
#: Of a question, whose class stands behind it; of a record, with the size of its data.
_TYPE, _QUESTION_BYTES = struct.Struct("!H"), 4
_RECORD = struct.Struct("!H6xH")
_RESPONSE = 0x8000
#: RFC 1035, 3.1: of a name on the wire, its labels' lengths and the root's included; of a label.
_MAX_NAME_BYTES, _MAX_LABEL_BYTES = 255, 63
#: The two bits that make a length the beginning of a pointer.
_POINTER = 0xC0
#: Where the questions begin: behind the header.
_QUESTION_AT = 12
#: Those that people meet, of the IANA's registry; the others go by number, as in RFC 3597.
_TYPES = {
    1: "A",
    2: "NS",
    5: "CNAME",
    6: "SOA",
    12: "PTR",
    15: "MX",
    16: "TXT",
    28: "AAAA",
    33: "SRV",
    35: "NAPTR",
    39: "DNAME",
    41: "OPT",
    43: "DS",
    46: "RRSIG",
    47: "NSEC",
    48: "DNSKEY",
    52: "TLSA",
    64: "SVCB",
    65: "HTTPS",
    251: "IXFR",
    252: "AXFR",
    255: "ANY",
    257: "CAA",
}
#: As tcpdump calls them; 0 says that all went well.
_CODES = {1: " FormErr", 2: " ServFail", 3: " NXDomain", 4: " NotImp", 5: " Refused"}
#: Types whose data is an address of this family, or a name.
_ADDRESSES = {1: socket.AF_INET, 28: socket.AF_INET6}
_NAMES = {2, 5, 12, 39}
#: What needs no escape, but that a dot within a label does.
_PLAIN = re.compile(rb"[!-\[\]-~]*").fullmatch
_ODD = re.compile(rb"[^!-~]|[.\\]")
#: What reading raises at the end of what was kept, and at what is no name or no address.
_CUT_OR_WRONG = (IndexError, ValueError, OSError, struct.error)


def to_words(message: bytes) -> str | None:
    r"""Return what a message says; None where its header or question is none, or was not kept whole.

    Nothing in it is raw: what is no letter of a host's name stands as ``\DDD``, as in zone files.
    """
    try:
        flags, questions, answers = _HEADER.unpack_from(message)
        asked, at = "", _QUESTION_AT
        if questions:
            name, at = _name(message, at)
            (number,) = _TYPE.unpack_from(message, at)
            at += _QUESTION_BYTES
            asked = f" {_TYPES.get(number) or f'TYPE{number}'} {name}"
    except _CUT_OR_WRONG:
        return None
    is_response, code = flags & _RESPONSE, flags & 0xF
    words = f"DNS {'response' if is_response else 'query'}{_CODES.get(code) or f' code {code}' if code else ''}{asked}"
    if not answers:
        return f"{words}, 0 answers" if is_response else words
    return f"{words}, {counted(answers, 'answer')}{_answer(message, at) if questions <= 1 else ''}"


def _answer(message: bytes, at: int) -> str:
    """Return the record at an offset; nothing where it is none, or was not kept."""
    try:
        at = at + 2 if message[at] >= _POINTER else _name(message, at)[1]
        number, size = _RECORD.unpack_from(message, at)
        at += _RECORD.size
        data = ""
        if number in _ADDRESSES:
            data = f" {socket.inet_ntop(_ADDRESSES[number], message[at : at + size])}"
        elif number in _NAMES:
            data = f" {_name(message, at)[0]}"
    except _CUT_OR_WRONG:
        return ""
    return f": {_TYPES.get(number) or f'TYPE{number}'}{data}"


def _name(message: bytes, at: int) -> tuple[str, int]:
    """Return a name, without the root's dot, and where the bytes behind it are.

    Raises:
        IndexError: it ends behind the message.
        ValueError: it is longer than a name may be, or what a label begins with is no length. A loop of pointers ends
            like this as well, as each pointer counts as a label.
    """
    labels: list[bytes] = []
    end = 0
    left_bytes = _MAX_NAME_BYTES - 1
    while length := message[at]:
        at += 1
        if length <= _MAX_LABEL_BYTES:
            labels.append(message[at : at + length])
            at += length
        elif length >= _POINTER:
            end = end or at + 1
            at = (length & ~_POINTER) << 8 | message[at]
            length = 1
        else:
            raise ValueError("a label that is none")
        left_bytes -= 1 + length
        if left_bytes < 0:
            raise ValueError("a name that is too long")
    name = b".".join(labels)
    # Looked at once, as nearly all names have nothing to escape.
    if not _PLAIN(name) or name.count(b".") >= len(labels):
        name = b".".join(_ODD.sub(_in_zone_file, label) for label in labels)
    return name.decode("ascii") or ".", end or at + 1


def _in_zone_file(odd: re.Match[bytes]) -> bytes:
    r"""Return a byte of a label as RFC 1035, 5.1 writes it: ``\.``, ``\032``."""
    return b"\\" + odd[0] if odd[0] in b".\\" else b"\\%03d" % ord(odd[0])
