"""Files to dissect, and engines that are none."""

import random
import re
import struct
import subprocess
import xml.etree.ElementTree
from collections.abc import Sequence
from pathlib import Path

from scapy.layers import dns, inet, l2
from scapy.packet import Raw

from tests.fields import zoo

#: What XML has no place for.
_NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
#: Of a host in a request: what could be taken for the end of a value, of a line or of a text.
HOST = b"ex\xff\xfe\x1fp\x02le\t\x1b[31m\x7f\x85.org\xc3\xa4 \x0b\x0c\x08\x07,;\\x00\\n\"'<&>]]"


def http(lines: bytes, port: int = 80) -> bytes:
    """Return a packet with a request."""
    head = l2.Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02") / inet.IP(src="192.0.2.1", dst="192.0.2.2")
    return bytes(head / inet.TCP(sport=40000, dport=port, flags="PA", seq=7) / Raw(lines))


def query(name: bytes, number: int = 7, port: int = 53) -> bytes:
    """Return a packet with a question."""
    head = l2.Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02") / inet.IP(src="192.0.2.7", dst="192.0.2.1")
    return bytes(head / inet.UDP(sport=53124, dport=port) / dns.DNS(id=number, qd=dns.DNSQR(qname=name)))


def odd() -> list[bytes]:
    """Return packets whose values are hard to pass on."""
    tunnel = (
        l2.Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02") / inet.IP() / inet.IP(src="10.0.0.1", dst="10.0.0.2")
    )
    return [
        http(b"GET /a HTTP/1.1\r\nHost: " + HOST + b"\r\nX: y\n z\r\n\r\n"),
        http(b"GET /\x00\xf0 HTTP/1.1\r\nHost: a\x00b\r\nUser-Agent: \xe2\x80\xa8\r\n\r\n"),
        query(b"\x01\x02\xff\n\ta.example.org"),
        bytes(tunnel / inet.UDP(sport=5, dport=53) / dns.DNS(qd=dns.DNSQR(qname="tunnel.example.org"))),
        bytes(l2.Ether(dst="02:00:00:00:00:02", type=0x1234) / Raw(bytes(20))),
        bytes(l2.Ether(dst="02:00:00:00:00:02") / inet.IP(len=300) / inet.UDP(dport=123) / Raw(b"\x23" + bytes(47))),
        b"\x00",
    ]


def write(path: Path, packets: Sequence[bytes], *, linktype: int = 1) -> Path:
    """Write a pcap file, with a packet each millisecond."""
    with path.open("wb") as file:
        file.write(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 262144, linktype))
        for number, packet in enumerate(packets):
            seconds, milliseconds = divmod(number, 1000)
            file.write(struct.pack("<IIII", 1_700_000_000 + seconds, milliseconds * 1000, len(packet), len(packet)))
            file.write(packet)
    return path


def some_of_the_zoo(seed: int, count: int) -> list[bytes]:
    """Return packets of many kinds, whole, cut and damaged."""
    rng = random.Random(seed)
    link = zoo.LINKS["ethernet"]
    packets = list(zoo.strangers(rng))
    for is_ipv6, network in zoo.NETWORKS.values():
        packets += [zoo.linked(link, network, is_ipv6, upper, rng) for upper in zoo.uppers(rng)]
    rng.shuffle(packets)
    return [zoo.recorded(each, rng).data for each in packets[:count]]


def said_by_tshark(path: Path, *words: str) -> bytes:
    """Return what tshark prints of a file."""
    environment = {"PATH": "/usr/bin:/bin", "HOME": "/nonexistent", "LC_ALL": "C.UTF-8", "TZ": "UTC"}
    command = ["tshark", "-n", "-r", str(path), *words]
    return subprocess.run(command, capture_output=True, check=True, env=environment).stdout


def trees_of_tshark(path: Path) -> list[xml.etree.ElementTree.Element]:
    """Return the packets of tshark's PDML, as an XML parser has them, which takes not all that tshark writes."""
    text = _NO_XML.sub("?", said_by_tshark(path, "-T", "pdml").decode("utf-8", "backslashreplace"))
    return xml.etree.ElementTree.fromstring(text).findall("packet")


def as_xml(text: str) -> str:
    """Return a text as an XML parser has it, for which line ends in attributes are blanks."""
    return _NO_XML.sub("?", re.sub("\r\n|[\t\n\r]", " ", text))


def engine(directory: Path, script: str) -> Path:
    """Return a program in tshark's place, which asks that what versions of it have.

    Args:
        directory: that everybody may enter.
        script: what a shell runs.
    """
    path = directory / "tshark"
    path.write_text(f'#!/bin/sh\ncase "$1" in -[GE]) exec tshark "$@";; esac\n{script}\n')
    path.chmod(0o755)
    return path
