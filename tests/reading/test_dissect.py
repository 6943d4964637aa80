"""``capctl read`` says of packets what tcpdump and tshark say, however much of them was kept."""

import random
import re
import socket
import struct
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capd_client.cli.packets.dissect import dissect, to_text

_MACS = bytes.fromhex("020000000002020000000001")
_SOURCE_4, _TARGET_4 = socket.inet_aton("10.0.0.1"), socket.inet_aton("10.0.0.2")
_SOURCE_6, _TARGET_6 = (socket.inet_pton(socket.AF_INET6, each) for each in ("2001:db8::1", "2001:db8::2"))
_TCP, _UDP, _ICMP, _ICMP6 = 6, 17, 1, 58


def ethernet(ethertype: int, data: bytes, vlans: tuple[int, ...] = ()) -> bytes:
    tags = b"".join(struct.pack("!HH", 0x8100, 0x6000 | vlan) for vlan in vlans)
    return _MACS + tags + struct.pack("!H", ethertype) + data


def ip4(protocol: int, data: bytes, fragment: int = 0, options: bytes = b"", vlans: tuple[int, ...] = ()) -> bytes:
    size = 20 + len(options)
    head = struct.pack("!BBHHHBBH", 0x40 | size // 4, 0, size + len(data), 7, fragment, 64, protocol, 0)
    return ethernet(0x0800, head + _SOURCE_4 + _TARGET_4 + options + data, vlans)


def ip6(protocol: int, data: bytes, vlans: tuple[int, ...] = ()) -> bytes:
    head = struct.pack("!IHBB", 6 << 28, len(data), protocol, 64)
    return ethernet(0x86DD, head + _SOURCE_6 + _TARGET_6 + data, vlans)


def tcp(flags: int, data: bytes = b"", options: bytes = b"") -> bytes:
    size = 20 + len(options)
    head = struct.pack("!HHIIBBHHH", 40000, 40003, 1000, 2000, size // 4 << 4, flags, 512, 0, 0)
    return head + options + data


def udp(data: bytes) -> bytes:
    return struct.pack("!HHHH", 40001, 9999, 8 + len(data), 0) + data


_ARP = struct.pack("!HHBBH", 1, 0x0800, 6, 4, 1) + _MACS[6:] + _SOURCE_4 + bytes(6) + _TARGET_4
_ARP_REPLY = _ARP[:7] + b"\x02" + _ARP[8:]
_ECHO = struct.pack("!BBHHH", 8, 0, 0, 5, 6) + b"ping"
_ECHO_6 = struct.pack("!BBHHH", 128, 0, 0, 5, 6) + b"ping"
_MSS = struct.pack("!BBH", 2, 4, 1460)
_HOP_BY_HOP = struct.pack("!BBBBI", _UDP, 0, 1, 4, 0)
_FRAGMENT_6 = struct.pack("!BBHI", _UDP, 0, 100 << 3, 9)
_FIRST_FRAGMENT_6 = struct.pack("!BBHI", _UDP, 0, 1, 9)
PACKETS = {
    "ARP": ethernet(0x0806, _ARP),
    "ARP reply": ethernet(0x0806, _ARP_REPLY),
    "TCP": ip4(_TCP, tcp(0x18, b"hello")),
    "TCP options": ip4(_TCP, tcp(0x02, options=_MSS)),
    "TCP 6": ip6(_TCP, tcp(0x12, b"six", _MSS)),
    "UDP": ip4(_UDP, udp(b"datagram")),
    "UDP 6": ip6(_UDP, udp(b"datagram")),
    "UDP empty": ip4(_UDP, udp(b"")),
    "padded": ip4(_TCP, tcp(0x10)) + bytes(6),
    "options": ip4(_UDP, udp(b"datagram"), options=b"\x94\x04\0\0"),
    "ICMP": ip4(_ICMP, _ECHO),
    "ICMP6": ip6(_ICMP6, _ECHO_6),
    "vlan": ip4(_UDP, udp(b"tagged"), vlans=(7,)),
    "vlans": ip6(_TCP, tcp(0x11), vlans=(7, 8)),
    "first fragment": ip4(_UDP, udp(b"x" * 16), fragment=0x2000),
    "other fragment": ip4(_UDP, b"y" * 24, fragment=0x2003),
    "last fragment": ip4(_TCP, b"z" * 24, fragment=6),
    "first fragment 6": ip6(44, _FIRST_FRAGMENT_6 + udp(b"x" * 16)),
    "other fragment 6": ip6(44, _FRAGMENT_6 + b"y" * 24),
    "hop by hop": ip6(0, _HOP_BY_HOP + udp(b"datagram")),
    "GRE": ip4(47, bytes(12)),
    "LLDP": ethernet(0x88CC, bytes(20)),
    "802.3": _MACS + struct.pack("!H", 3) + b"\x42\x42\x03" + bytes(43),
}


def write(path: Path, frames: list[bytes], original_sizes_bytes: Iterable[int] | None = None) -> Path:
    data = struct.pack("<IHHiIII", 0xA1B23C4D, 2, 4, 0, 0, 65535, 1)
    for frame, size_bytes in zip(frames, original_sizes_bytes or map(len, frames), strict=True):
        data += struct.pack("<4I", 1, 2, len(frame), size_bytes) + frame
    path.write_bytes(data)
    return path


_FIELDS: tuple[str, ...] = ("frame.protocols", "ip.src", "ipv6.src", "ip.dst", "ipv6.dst", "tcp.srcport", "udp.srcport")
_FIELDS += ("tcp.dstport", "udp.dstport", "tcp.flags", "vlan.id", "arp.opcode", "icmp.type", "icmpv6.type")


#: First fragments have ports.
_OPTIONS = tuple(part for name in ("ip", "ipv6") for part in ("-o", f"{name}.defragment:FALSE"))


def said_by_tshark(path: Path) -> list[dict[str, str]]:
    wanted = [part for field in _FIELDS for part in ("-e", field)]
    command = ["tshark", "-n", "-r", str(path), *_OPTIONS, "-T", "fields", *wanted]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    return [dict(zip(_FIELDS, line.split("\t"), strict=True)) for line in done.stdout.splitlines()]


def check(found: dict[str, Any], expected: dict[str, str]) -> None:
    if found["protocol"] in {"IP", "IP6"} and "src" in found:
        assert found["src"] == expected["ip.src"] + expected["ipv6.src"]
        # tshark wants to see a header's options before it shows the target.
        is_short = "[truncated]" in found["info"] and not expected["ip.dst"] + expected["ipv6.dst"]
        assert is_short or found["dst"] == expected["ip.dst"] + expected["ipv6.dst"]
    else:
        assert expected["ip.dst"] == expected["ipv6.dst"] == ""
    if "src_port" in found:
        assert str(found["src_port"]) == expected["tcp.srcport"] + expected["udp.srcport"]
        assert str(found["dst_port"]) == expected["tcp.dstport"] + expected["udp.dstport"]
    else:
        assert expected["tcp.dstport"] == expected["udp.dstport"] == ""
    if "tcp_flags" in found:
        bits = int(expected["tcp.flags"], 16)
        assert found["tcp_flags"] == ("".join(each for bit, each in enumerate("FSRP.UEW") if bits >> bit & 1) or "none")
    assert ",".join(map(str, found.get("vlans", ()))) == expected["vlan.id"]
    # tshark shows a type without its code.
    if "[truncated]" not in found["info"]:
        assert (f"ICMP type {expected['icmp.type']} " in found["info"]) == bool(expected["icmp.type"])
        assert (f"ICMP6 type {expected['icmpv6.type']} " in found["info"]) == bool(expected["icmpv6.type"])


CUT = {name: [frame[:size] for size in range(1, len(frame) + 1)] for name, frame in PACKETS.items()}


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, str]]]:
    """What tshark says of packets of every length, in one run."""
    frames = [frame for cut in CUT.values() for frame in cut]
    sizes_bytes = [len(cut) for cut in CUT.values() for _ in cut]
    fields = iter(said_by_tshark(write(tmp_path_factory.mktemp("cut") / "a.pcap", frames, sizes_bytes)))
    found = {name: [next(fields) for _ in cut] for name, cut in CUT.items()}
    assert list(fields) == []
    return found


@pytest.mark.parametrize("name", PACKETS)
def test_packets_of_every_length_are_what_tshark_says(name: str, said: dict[str, list[dict[str, str]]]) -> None:
    for data, fields in zip(CUT[name], said[name], strict=True):
        check(dissect(data, 1), fields)


def test_lines_are_tcpdumps(tmp_path: Path) -> None:
    frames = [ip4(_TCP, tcp(flags, b"hello", _MSS)) for flags in range(1, 256)]
    frames += [ip6(_TCP, tcp(flags)) for flags in range(1, 256)]
    frames += [PACKETS[name] for name in ("UDP", "UDP 6", "UDP empty", "padded", "options", "first fragment", "vlan")]
    command = ["tcpdump", "-nn", "-S", "-t", "-r", str(write(tmp_path / "a.pcap", frames))]
    shown = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.splitlines()
    assert len(shown) == len(frames)
    for frame, line in zip(frames, shown, strict=True):
        found = dissect(frame, 1)
        assert line.startswith(f"{found['protocol']} {found['src']}.{found['src_port']} > ")
        assert f" > {found['dst']}.{found['dst_port']}: " in line
        assert line.endswith(re.findall(r"length \d+$", found["info"])[0])
        if "tcp_flags" in found:
            assert f"Flags [{found['tcp_flags']}]," in line


@pytest.mark.parametrize("linktype", [0, 1, 12, 101, 113, 228, 229, 276])
def test_no_bytes_are_an_exception(linktype: int) -> None:
    chance = random.Random(linktype)
    for frame in PACKETS.values():
        for _ in range(3000 // len(PACKETS)):
            data = bytearray(frame)
            for _ in range(chance.randint(0, 6)):
                data[chance.randint(0, 90) % len(data)] = chance.randrange(256)
            cut = bytes(data[: chance.randint(0, 100)])
            assert to_text(dissect(cut, linktype)).isprintable(), cut.hex()


@given(st.binary(max_size=120), st.sampled_from([1, 12, 113, 276]))
@settings(derandomize=True, deadline=None, max_examples=500)
def test_no_noise_is_an_exception(data: bytes, linktype: int) -> None:
    assert to_text(dissect(data, linktype)).isprintable()
