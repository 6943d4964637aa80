"""Whole frames have what tshark's PDML has, as an XML parser sees it; and more of it is worked out."""

import ipaddress
from collections.abc import Iterator
from pathlib import Path
from xml.etree.ElementTree import Element

import pytest

from capd_client import Item, UnknownField, WholeFrame, read
from tests.dissection.files import as_xml, http, odd, query, said_by_tshark, some_of_the_zoo, trees_of_tshark, write

pytestmark = pytest.mark.usefixtures("leaves_nothing")


def frames_of(path: Path) -> list[WholeFrame]:
    with read(path) as packets, packets.dissect() as frames:
        return list(frames)


def expected_items(layer: Element) -> Iterator[tuple[object, ...]]:
    """Give the lines of a layer, with how deep they are."""

    def walk(element: Element, depth: int) -> Iterator[tuple[object, ...]]:
        given = element.attrib
        show = given.get("show", "")
        places = int(given.get("pos", "0")), int(given.get("size", "0"))
        yield depth, given.get("name", ""), given.get("showname", show), show, *places, given.get("hide") == "yes"
        for child in element:
            yield from walk(child, depth + 1)

    return walk(layer, 0)


def found_items(layer: Item) -> Iterator[tuple[object, ...]]:
    def walk(item: Item, depth: int) -> Iterator[tuple[object, ...]]:
        yield depth, item.name, item.label, item.text, item.offset_bytes, item.size_bytes, item.is_hidden
        for child in item.children:
            yield from walk(child, depth + 1)

    return walk(layer, 0)


def plain(line: tuple[object, ...]) -> tuple[object, ...]:
    return tuple(as_xml(cell) if isinstance(cell, str) else cell for cell in line)


@pytest.mark.parametrize("seed", [1, 2])
def test_the_tree_is_that_of_tshark(tmp_path: Path, seed: int) -> None:
    path = write(tmp_path / "zoo.pcap", [*some_of_the_zoo(seed, 120), *odd()])
    frames, trees = frames_of(path), trees_of_tshark(path)
    assert [frame.number for frame in frames] == list(range(1, len(trees) + 1))
    for frame, tree in zip(frames, trees, strict=True):
        layers: list[Element] = []
        for each in list(tree)[1:]:
            layers += list(each) if each.get("name") == "fake-field-wrapper" else [each]
        assert [layer.name for layer in frame.layers] == [each.get("name") for each in layers]
        for layer, element in zip(frame.layers, layers, strict=True):
            assert list(map(plain, found_items(layer))) == list(map(plain, expected_items(element)))


def test_bytes_are_those_of_the_packet(tmp_path: Path) -> None:
    packets = some_of_the_zoo(3, 60)
    for frame, packet in zip(frames_of(write(tmp_path / "a.pcap", packets)), packets, strict=True):
        for item in frame.tree():
            if item.raw and item.name.startswith(("eth.", "ip.", "ipv6.", "tcp.", "udp.")) and len(frame.layers) < 6:
                end = item.offset_bytes + item.size_bytes
                assert packet[item.offset_bytes : end].startswith(item.raw[: end - item.offset_bytes]), item
    first = frames_of(write(tmp_path / "odd.pcap", odd()))[0]
    (host,) = first.items("http.host")
    assert host.raw.startswith(b"Host: ex\xff\xfe\x1fp\x02le\t\x1b[31m")


def test_layers_repeat_and_values_come_from_all(tmp_path: Path) -> None:
    tunnel = frames_of(write(tmp_path / "odd.pcap", odd()))[3]
    assert [layer.name for layer in tunnel.layers] == ["frame", "eth", "ip", "ip", "udp", "dns"]
    assert tunnel.all("ip.src") == [ipaddress.IPv4Address("127.0.0.1"), ipaddress.IPv4Address("10.0.0.1")]
    assert tunnel["ip.flags.df"] is False
    assert tunnel.ip.src == ipaddress.IPv4Address("127.0.0.1")
    assert tunnel.ip.flags == 0
    assert tunnel["ip.flags.df"] is False
    assert tunnel.udp.dstport == 53
    assert {"src", "flags"} <= set(dir(tunnel.ip))
    assert tunnel["ip"] is not None
    assert tunnel["tcp.flags.syn"] is None
    assert tunnel.tcp.flags is None
    assert ("tcp" in tunnel, bool(tunnel.tcp), bool(tunnel.ip)) == (False, False, True)
    with pytest.raises(UnknownField, match=r"near are ip\.src"):
        _ = tunnel["ip.scr"]
    with pytest.raises(AttributeError):
        _ = tunnel.nonsense
    with pytest.raises(AttributeError):
        _ = tunnel.ip.scr


def test_expressions_are_filters_that_match(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.pcap", [query(b"a.example.org"), http(b"GET /a HTTP/1.1\r\nHost: b\r\n\r\n"), *odd()[3:5]]
    )
    seen: set[str] = set()
    for frame in frames_of(path):
        # What is said of the frame's time depends on which others are shown.
        expressions = {frame.expression(item) for item in frame.tree() if not item.name.startswith("frame.")} - {""}
        whole = " && ".join(f"({each})" for each in (f"frame.number == {frame.number}", *sorted(expressions)))
        assert said_by_tshark(path, "-Y", whole, "-T", "fields", "-e", "frame.number").strip() == b"%d" % frame.number
        seen |= expressions
    assert {"ip", "ip.src == 192.0.2.7", 'dns.qry.name == "a.example.org"', "tcp.flags == 0x0018"} <= seen


def test_experts(tmp_path: Path) -> None:
    frames = frames_of(write(tmp_path / "odd.pcap", odd()))
    chat = frames[0].experts[0]
    assert (chat.severity, chat.group, chat.field) == ("chat", "sequence", "http.chat")
    assert ("error", "protocol") in {(each.severity, each.group) for each in frames[5].experts}
    assert [(each.severity, each.group) for each in frames[6].experts] == [("error", "malformed")]
    assert frames[4].experts == []
