"""What engines write is taken apart however it is cut into pieces; what is no answer is refused."""

import contextlib
import random
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address, IPv6Address
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as some

from capd_client.dissection import pdml, rows
from capd_client.dissection.engine.ended import Ended
from capd_client.dissection.garbage import NotUnderstood
from capd_client.dissection.options import asked
from capd_client.dissection.values import Value, nanoseconds_of, value_of
from capd_client.dissection.words import failure_of
from capd_client.errors import CaptureError, DisplayFilterError, EngineFailed, InvalidArgument, ReadError


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})
    return [data[begin:end] for begin, end in pairwise(edges)]


#: Without those that are escaped, or end a text.
TEXTS = some.text(some.characters(exclude_characters="\0\t\r", exclude_categories=["Cs"]), min_size=1, max_size=8)


@given(some.lists(some.lists(some.lists(TEXTS, max_size=3), min_size=2, max_size=2)), some.lists(some.integers(0)))
def test_rows_with_any_values_and_line_ends_in_them(frames: list[list[list[str]]], places: list[int]) -> None:
    lines = [
        b"\t".join([*(b"\r".join(map(str.encode, values)) for values in cells), b"%d" % number]) + b"\n"
        for number, cells in enumerate(frames, 1)
    ]
    parser = rows.Rows(2)
    found = [row for part in cut(b"".join(lines), places) for row in parser.take(part)]
    parser.end()
    assert [number for number, _ in found] == list(range(1, len(frames) + 1))
    assert [[rows.texts(cell, rows.AGGREGATOR) for cell in cells[:-1]] for _, cells in found] == frames


@given(some.binary(), some.lists(some.integers(0)))
def test_no_row_and_no_packet_is_made_of_anything(data: bytes, places: list[int]) -> None:
    for parser in (rows.Rows(2), pdml.Packets()):
        with contextlib.suppress(NotUnderstood):
            for part in cut(data, places):
                list(parser.take(part))
            parser.end()
    assert str(NotUnderstood(data)).isprintable()


PACKET = (
    b'<packet>\n  <proto name="geninfo" pos="0" showname="General information" size="1">\n'
    b'    <field name="num" pos="0" show="%d" showname="Number" value="1" size="1"/>\n  </proto>\n'
    b'  <proto name="x" showname="A &lt;b&gt; &amp;amp; &quot;c&#x27;" size="2" pos="3">\n'
    b'    <field name="x.y" showname="\xff" size="1" pos="2" show="a\nb" value="zz" unmaskedvalue="0f"/>\n'
    b"  </proto>\n</packet>\n\n"
)


@given(some.lists(some.integers(0)))
def test_packets_however_they_are_cut(places: list[int]) -> None:
    data = b'<?xml version="1.0"?>\n<pdml>\n' + PACKET % 1 + PACKET % 2 + b"</pdml>\n"
    parser = pdml.Packets()
    found = [packet for part in cut(data, places) for packet in parser.take(part)]
    parser.end()
    assert [number for number, _ in found] == [1, 2]
    (layer,) = pdml.layers_of(found[0][1])
    assert (layer.name, layer.label) == ("x", "A <b> &amp; \"c'")
    (field,) = layer.children
    assert (field.name, field.label, field.text, field.raw, field.has_mask) == ("x.y", "\\xff", "a\nb", b"\x0f", True)


def test_what_is_cut_off_is_no_answer() -> None:
    parser = pdml.Packets()
    assert list(parser.take(b"<pdml>\n" + (PACKET % 1)[:-20])) == []
    with pytest.raises(NotUnderstood):
        parser.end()
    with pytest.raises(NotUnderstood):
        list(pdml.Packets().take(b"x" * 100_000))
    with pytest.raises(NotUnderstood):
        pdml.layers_of(b'<proto name="x"><field name="y">')
    with pytest.raises(NotUnderstood):
        pdml.layers_of(b"</proto>")


@pytest.mark.parametrize(
    ("text", "type_name", "value"),
    [
        ("0x0018", "FT_UINT16", 24),
        ("-5", "FT_INT32", -5),
        ("007", "FT_UINT8", 7),
        ("18446744073709551615", "FT_UINT64", 2**64 - 1),
        ("'a'", "FT_CHAR", 97),
        ("'\\x00'", "FT_CHAR", 0),
        ("tcp", "FT_UINT8", "tcp"),
        ("1", "FT_BOOLEAN", True),
        ("False", "FT_BOOLEAN", False),
        ("True", "FT_BOOLEAN", True),
        ("1.5", "FT_DOUBLE", 1.5),
        ("192.0.2.1", "FT_IPv4", IPv4Address("192.0.2.1")),
        ("2001:db8::1", "FT_IPv6", IPv6Address("2001:db8::1")),
        ("192.0.2.0/24", "FT_IPv4", "192.0.2.0/24"),
        ("00ff10", "FT_BYTES", b"\0\xff\x10"),
        ("00:ff:10", "FT_BYTES", b"\0\xff\x10"),
        ("<MISSING>", "FT_BYTES", b""),
        ("02:00:00:00:00:01", "FT_ETHER", "02:00:00:00:00:01"),
        ("Nov 29, 2026 22:48:06.097838000 UTC", "FT_ABSOLUTE_TIME", datetime(2026, 11, 29, 22, 48, 6, 97838, UTC)),
        ("Nov  9, 2026 22:48:06 UTC", "FT_ABSOLUTE_TIME", datetime(2026, 11, 9, 22, 48, 6, 0, UTC)),
        ("2026-11-29T22:48:06.097838000Z", "FT_ABSOLUTE_TIME", datetime(2026, 11, 29, 22, 48, 6, 97838, UTC)),
        ("Nov 31, 2026 22:48:06 UTC", "FT_ABSOLUTE_TIME", "Nov 31, 2026 22:48:06 UTC"),
        ("1700000000.000001000", "FT_ABSOLUTE_TIME", datetime(2023, 11, 14, 22, 13, 20, 1, UTC)),
        ("99999999999999999999", "FT_ABSOLUTE_TIME", "99999999999999999999"),
        ("-0.000001", "FT_RELATIVE_TIME", timedelta(microseconds=-1)),
        ("a.example", "FT_STRING", "a.example"),
        ("anything", "FT_OF_TOMORROW", "anything"),
    ],
)
def test_values_by_their_types(text: str, type_name: str, value: Value) -> None:
    found = value_of(text, type_name)
    assert (found, type(found)) == (value, type(value))


@given(some.text(), some.sampled_from(["FT_UINT8", "FT_CHAR", "FT_BYTES", "FT_ABSOLUTE_TIME", "FT_IPv4", "FT_FLOAT"]))
def test_any_text_has_a_value(text: str, type_name: str) -> None:
    value_of(text, type_name)


def test_nanoseconds_are_kept() -> None:
    assert nanoseconds_of("1700000000.123456789") == 1_700_000_000_123_456_789
    assert nanoseconds_of("Nov 14, 2023 22:13:20.123456789 UTC") == 1_700_000_000_123_456_789
    assert nanoseconds_of("-0.5") == -500_000_000
    with pytest.raises(ValueError, match="soon"):
        nanoseconds_of("soon")


@pytest.mark.parametrize(
    "case",
    [
        (0, "anything", False, None, ""),
        (2, 'tshark: The file "-" appears to have been cut short in the middle of a packet.\n', True, None, ""),
        (2, "tshark: The standard input appears to be damaged or corrupt.\n(pcap: x)\n", True, ReadError, "damaged"),
        (-11, "", True, EngineFailed, "signal 11"),
        (2, "some words\x1b[31m\n", True, EngineFailed, r"status 2: some words\\x1b\[31m"),
        (4, "tshark: Filter is bad.\n    ip.x == 1\n    ^~~~\n", False, DisplayFilterError, "Filter is bad"),
        (1, 'tshark: -o flag "a:b" specifies unknown preference\n', False, InvalidArgument, "preferences"),
        (1, "tshark: Some fields aren't valid:\n\tfoo.bar\n", False, InvalidArgument, "foo.bar"),
        (1, "", False, EngineFailed, "status 1$"),
        (127, "it cannot be started: Exec format error\n", False, EngineFailed, "Exec format error"),
    ],
)
def test_words_of_programs_are_errors(case: tuple[int, str, bool, type[CaptureError] | None, str]) -> None:
    status, words, has_answered, kind, text = case
    question = asked((), None, {"display_filter": "ip.x == 1"} if kind is DisplayFilterError else {})
    error = failure_of(Ended(status, words), question, source="a", has_answered=has_answered)
    if kind is None:
        assert error is None
        return
    assert isinstance(error, kind)
    with pytest.raises(kind, match=text):
        raise error
    assert str(error).isprintable()


def test_many_words_are_cut() -> None:
    rng = random.Random(1)
    words = "".join(chr(rng.randrange(1, 0x3000)) for _ in range(20_000))
    error = failure_of(Ended(1, words), asked((), None, {}), source="a", has_answered=False)
    assert len(str(error)) < 2000
