"""DNS messages in a few words: the same as tshark finds, and from whatever comes, bounded and printable."""

import random
import struct
import subprocess
import time
from pathlib import Path

import dpkt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capd_client.cli.packets.dissect import dissect
from capd_client.cli.packets.dns import to_words
from capd_protocol.formats import pcapng
from tests.reading.test_capctl_read import ip

QUERY, RESPONSE, NXDOMAIN = 0x0100, 0x8180, 0x8183
NAME = b"\7example\3org\0"
POINTER = b"\xc0\x0c"


def message(flags: int, name: bytes, *records: bytes, number: int = 1, questions: int = 1) -> bytes:
    header = struct.pack("!6H", 1, flags, questions, len(records), 0, 0)
    return header + (name + struct.pack("!HH", number, 1)) * questions + b"".join(records)


def record(number: int, data: bytes, name: bytes = POINTER) -> bytes:
    return name + struct.pack("!HHIH", number, 1, 300, len(data)) + data


A = record(1, b"\xc0\0\2\1")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (message(QUERY, NAME), "DNS query A example.org"),
        (message(QUERY, b"\0", number=2), "DNS query NS ."),
        (message(QUERY, NAME, number=65280), "DNS query TYPE65280 example.org"),
        (message(NXDOMAIN, NAME), "DNS response NXDomain A example.org, 0 answers"),
        (message(RESPONSE | 11, NAME), "DNS response code 11 A example.org, 0 answers"),
        (message(RESPONSE, NAME, A), "DNS response A example.org, 1 answer: A 192.0.2.1"),
        (message(RESPONSE, NAME, A, A), "DNS response A example.org, 2 answers: A 192.0.2.1"),
        (message(RESPONSE, NAME, record(1, b"\xc0\0\2\1", NAME)), "DNS response A example.org, 1 answer: A 192.0.2.1"),
        (
            message(RESPONSE, NAME, record(28, bytes(15) + b"\1"), number=28),
            "DNS response AAAA example.org, 1 answer: AAAA ::1",
        ),
        (
            message(RESPONSE, NAME, record(5, b"\3www\xc0\x0c")),
            "DNS response A example.org, 1 answer: CNAME www.example.org",
        ),
        (message(RESPONSE, NAME, record(16, b"\1x")), "DNS response A example.org, 1 answer: TXT"),
        (message(RESPONSE, NAME, A, questions=0)[:12] + A, "DNS response, 1 answer: A 192.0.2.1"),
        # The answer is cut, or none: the question is what is known.
        (message(RESPONSE, NAME, A)[:-1], "DNS response A example.org, 1 answer"),
        (message(RESPONSE, NAME, record(1, b"abc")), "DNS response A example.org, 1 answer"),
        (message(RESPONSE, NAME, record(5, b"\xc0\xff")), "DNS response A example.org, 1 answer"),
        # What would move a cursor, end a line or look like another name.
        (message(QUERY, b"\4a\x1b[m\3b.\\\2 \xff\0"), r"DNS query A a\027[m.b\.\\.\032\255"),
    ],
)
def test_words(data: bytes, words: str) -> None:
    assert to_words(data) == words


@pytest.mark.parametrize(
    "name",
    [
        POINTER,  # to itself
        b"\1a\xc0\x0c",
        b"\xc0\x0e\xc0\x0c",
        b"\xff\xff",
        b"\x40" + bytes(64),
        b"\x80" + bytes(128),
        b"\x05abc",
        (b"\1a" * 127 + b"\1a\0"),
        (b"\x3f" + b"a" * 63) * 4 + b"\0",
    ],
)
def test_what_is_no_name_is_no_dns(name: bytes) -> None:
    assert to_words(message(QUERY, name)) is None
    frame = ip(17, struct.pack("!HHHH", 9, 53, 8 + 12, 0) + message(QUERY, name)[:12])
    assert dissect(frame, 1)["info"] == "UDP, length 12"


def test_the_longest_name() -> None:
    name = (b"\x3f" + b"a" * 63) * 3 + b"\x3d" + b"a" * 61 + b"\0"
    assert len(name) == 255
    words = to_words(message(QUERY, name))
    assert words is not None
    assert len(words) < 300


@given(
    st.sampled_from([message(QUERY, NAME), message(RESPONSE, NAME, A), message(RESPONSE, NAME, record(5, POINTER))]),
    st.binary(max_size=40),
    st.integers(0, 60),
)
@settings(derandomize=True, deadline=None, max_examples=300)
def test_no_message_is_an_exception(data: bytes, noise: bytes, at: int) -> None:
    for changed in (data[:at] + noise + data[at:], data[:at] + noise + data[at + len(noise) :], noise):
        words = to_words(changed)
        assert words is None or (words.isascii() and words.isprintable() and len(words) < 2200)


def test_tshark_finds_the_same(tmp_path: Path) -> None:
    chance = random.Random(1)
    frames: list[bytes] = []
    for _ in range(200):
        labels = [bytes(chance.choices(b"abcxyz019-_", k=chance.randint(1, 20))) for _ in range(chance.randint(1, 6))]
        name = b"".join(bytes([len(label)]) + label for label in labels) + b"\0"
        records = [record(1, chance.randbytes(4)) for _ in range(chance.randint(0, 2))]
        data = message(chance.choice((QUERY, RESPONSE)) if not records else RESPONSE, name, *records)
        frames.append(ip(17, bytes(dpkt.udp.UDP(sport=9, dport=53, data=data, ulen=8 + len(data)))))
    path = tmp_path / "a.pcapng"
    blocks = [pcapng.enhanced_packet(0, i, frame, len(frame)) for i, frame in enumerate(frames)]
    description = pcapng.interface_description(linktype=1, snaplen_bytes=0)
    path.write_bytes(pcapng.section_header() + description + b"".join(blocks))
    fields = ("dns.flags.response", "dns.qry.name", "dns.count.answers", "dns.a")
    command = ["tshark", "-n", "-r", str(path), "-T", "fields", *(part for name in fields for part in ("-e", name))]
    rows = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout.splitlines()
    assert len(rows) == len(frames)
    for row, frame in zip(rows, frames, strict=True):
        is_response, asked, answers, addresses = row.split("\t")
        text = f"DNS {'response' if is_response == '1' else 'query'} A {asked}"
        if is_response == "1":
            text += f", {answers} answer{'s' * (answers != '1')}"
            text += f": A {addresses.split(',')[0]}" * bool(addresses)
        assert dissect(frame, 1)["info"] == text


def test_a_message_takes_some_microseconds() -> None:
    """The longest names there can be, in the question and in the answer."""
    name = b"\1a" * 127 + b"\0"
    data = message(RESPONSE, name, record(5, POINTER))
    began_s = time.process_time()
    for _ in range(1000):
        assert to_words(data)
    assert time.process_time() - began_s < 1
