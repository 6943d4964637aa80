"""``capctl read`` shows packets as people know them, whatever stands in them."""

import json
from pathlib import Path

import dpkt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capd_client.cli.__main__ import main
from capd_client.cli.packets.dissect import dissect, to_text
from capd_protocol.formats import pcapng
from tests.support.traffic import build_frames

UDP = build_frames((60,))[0]
TAGGED = build_frames((64,), vlan=7)[0]
MACS = bytes.fromhex("020000000002020000000001")


def ip(protocol: int, segment: bytes) -> bytes:
    packet = dpkt.ip.IP(src=b"\x0a\0\0\1", dst=b"\x0a\0\0\2", p=protocol, data=segment)
    packet.len = len(packet)
    return MACS + b"\x08\0" + bytes(packet)


ARP = MACS + b"\x08\x06" + bytes(dpkt.arp.ARP(spa=b"\x0a\0\0\1", tpa=b"\x0a\0\0\2"))
TCP = ip(6, bytes(dpkt.tcp.TCP(sport=80, dport=1234, flags=0x12, seq=5, ack=6)))
DNS_DATA = bytes(dpkt.dns.DNS(id=1, qd=[dpkt.dns.DNS.Q(name="example.org")]))
DNS = ip(17, bytes(dpkt.udp.UDP(sport=9, dport=53, data=DNS_DATA, ulen=8 + len(DNS_DATA))))


@pytest.mark.parametrize(
    ("frame", "text"),
    [
        (UDP, "IP 198.18.0.1.50000 > 198.18.0.2.50001: UDP, length 18"),
        (TAGGED, "vlan 7, IP 198.18.0.1.50000 > 198.18.0.2.50001: UDP, length 18"),
        (ARP, "ARP Request who-has 10.0.0.2 tell 10.0.0.1"),
        (TCP, "IP 10.0.0.1.80 > 10.0.0.2.1234: Flags [S.], seq 5, ack 6, win 65535, length 0"),
        (DNS, "IP 10.0.0.1.9 > 10.0.0.2.53: DNS query A example.org"),
        (MACS + b"\x88\xccabc", "LLDP 02:00:00:00:00:01 > 02:00:00:00:00:02: length 17"),
        (MACS + b"\x88\xb5abc", "ethertype 0x88b5 02:00:00:00:00:01 > 02:00:00:00:00:02: length 17"),
        (b"short", "Ethernet [truncated], length 5"),
    ],
)
def test_a_packet_as_a_line(frame: bytes, text: str) -> None:
    assert to_text(dissect(frame, 1)) == text


@given(
    st.sampled_from([UDP, TAGGED, ARP, TCP, DNS]),
    st.binary(max_size=40),
    st.integers(0, 60),
    st.sampled_from([1, 12, 113, 147, 276]),
)
@settings(derandomize=True, deadline=None, max_examples=300)
def test_no_packet_is_an_exception(frame: bytes, noise: bytes, at: int, linktype: int) -> None:
    found = dissect(frame[:at] + noise + frame[at:], linktype)
    assert to_text(found).isprintable()
    json.dumps(found)


def test_files_are_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.pcapng"
    data = pcapng.section_header()
    for name in ("eth0", "eth1"):
        data += pcapng.interface_description(linktype=1, snaplen_bytes=96, name=name)
    data += pcapng.enhanced_packet(0, 1_700_000_000_000_001_999, UDP, 60) + pcapng.enhanced_packet(1, 0, ARP, 99)
    data += pcapng.interface_statistics(1, timestamp_ns=0, start_ns=0, end_ns=0, received=3, dropped=2, delivered=1)
    path.write_bytes(data + b"\6\0\0\0")
    assert main(["read", "--utc", str(path)]) == 1  # the last record is cut
    shown, errors = capsys.readouterr()
    assert shown.splitlines()[0] == f"22:13:20.000001 eth0 {to_text(dissect(UDP, 1))}"
    assert shown.splitlines()[1] == f"00:00:00.000000 eth1 {to_text(dissect(ARP, 1))}"
    assert "4 bytes" in errors
    assert main(["read", "-c", "1", "--json", str(path)]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    fields = json.loads(line)
    assert (fields["interface"], fields["captured_size_bytes"], fields["dst_port"]) == ("eth0", 60, 50001)
    assert main(["read", "--info", "--json", str(path)]) == 1
    shown, errors = capsys.readouterr()
    fields = json.loads(shown)
    assert (fields["packets"], fields["original_bytes"], fields["rest_bytes"]) == (2, 159, 4)
    assert "the last record is not whole (4 bytes)" in errors
    assert fields["interfaces"][1]["statistics"]["drops"] == 2
    assert main(["read", str(tmp_path / "none")]) == 1
    assert main(["read", "-c", "-1", str(path)]) == 2


def test_one_packet_is_no_packets(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.pcapng"
    data = pcapng.section_header() + pcapng.interface_description(linktype=1, snaplen_bytes=0)
    path.write_bytes(data + pcapng.enhanced_packet(0, 0, b"x", 1))
    assert main(["read", "--info", str(path)]) == 0
    assert "1 packet, 1 byte\n" in capsys.readouterr().out
    assert main(["extract", str(path), "-w", str(tmp_path / "b")]) == 0
    assert capsys.readouterr().out.endswith("1 packet\n")
