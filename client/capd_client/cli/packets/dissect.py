"""A packet as a line of text, as people know it from tcpdump, or as a dict. Pure.

Headers are taken apart one by one, as far as they were kept: a user who kept 40 bytes of each packet still wants to see
its ports.
"""

import socket
import struct
from collections.abc import Callable
from struct import unpack_from
from typing import Any

from capd_client.cli.packets import dns

_IPV4, _LLDP = 0x0800, 0x88CC
#: 802.1Q, 802.1ad, and what was used before that.
_TAGS = (0x8100, 0x88A8, 0x9100)
#: Below it stands the length of an 802.3 frame, not a type.
_LEAST_ETHERTYPE = 0x0600
_ICMP = 1
#: Also of mDNS, whose messages are the same.
_DNS_PORTS = (53, 5353)
#: IPv6 headers before the next one, and how many bytes each of their units has: hop-by-hop, routing, AH, options.
_EXTENSIONS = {0: 8, 43: 8, 51: 4, 60: 8}
_FRAGMENT = 44
#: Of nearly every packet: compiled, they take half as long.
_SHORT, _PORTS = struct.Struct("!H"), struct.Struct("!HH")
_IP4, _IP4_ADDRESSES = struct.Struct("!BxH2xHxB"), struct.Struct("!4s4s")
#: tcpdump's letters, in its order.
_FLAGS = "FSRP.UEW"

Found = dict[str, Any]


def dissect(data: bytes, linktype: int) -> Found:
    """Return what a packet is.

    Args:
        data: its bytes, as many as were kept.
        linktype: LINKTYPE_ number.

    Returns:
        ``protocol`` and ``info`` for people; ``src``, ``dst``, ``src_port``, ``dst_port``, ``tcp_flags``, ``vlans``,
        ``ethertype``, ``payload_size_bytes`` (of TCP and UDP) where it has them. Where a packet ends in the middle of
        its headers, what stands before is there, and ``info`` begins with "[truncated]".
    """
    found: Found = {"protocol": "unknown", "info": f"linktype {linktype}, length {len(data)}"}
    if linktype in _LINKTYPES:
        try:
            _LINKTYPES[linktype](data, found)
        except struct.error:  # the end of what was kept
            found["info"] = f"[truncated], length {len(data)}"
    return found


def to_text(found: Found, header: str = "") -> str:
    """Return what ``dissect`` found as text; what a packet says in it stands there as it came.

    Args:
        found: what it returned.
        header: of ``ip_header``.
    """
    vlans = "".join([f"vlan {each}, " for each in found["vlans"]]) if "vlans" in found else ""
    source, target = _with_port(found, "src"), _with_port(found, "dst")
    ends = f"{source} > {target}: " if source and target else ""
    return f"{vlans}{found['protocol']} {header}{ends}{found['info']}"


def quick(found: Found) -> Found:
    """Return what ``dissect`` found with less in it, as tcpdump has it."""
    if "payload_size_bytes" not in found:
        return found
    what = "tcp" if "tcp_flags" in found else "UDP, length"
    return {**found, "info": f"{what} {found['payload_size_bytes']}"}


def _with_port(found: Found, side: str) -> str:
    port = found.get(f"{side}_port")
    return found.get(side, "") if port is None else f"{found.get(side, '')}.{port}"


# Links ------------------------------------------------------------------------------------------------------------


def _ethernet(data: bytes, found: Found) -> None:
    found["protocol"] = "Ethernet"
    _network(_SHORT.unpack_from(data, 12)[0], data, 14, found, has_macs=True)


def _sll(data: bytes, found: Found) -> None:
    found["protocol"] = "SLL"
    _network(unpack_from("!14xH", data)[0], data, 16, found)


def _sll2(data: bytes, found: Found) -> None:
    found["protocol"] = "SLL2"
    _network(unpack_from("!H18x", data)[0], data, 20, found)


def _raw_ip(data: bytes, found: Found) -> None:
    found["protocol"] = "IP"
    (first,) = unpack_from("!B", data)
    (_ip6 if first >> 4 == 6 else _ip4)(data, 0, found)


#: Ethernet, SLL, SLL2; raw IP as LINKTYPE_RAW, LINKTYPE_IPV4, LINKTYPE_IPV6 and DLT_RAW.
_LINKTYPES: dict[int, Callable[[bytes, Found], None]] = {
    1: _ethernet,
    113: _sll,
    276: _sll2,
    **dict.fromkeys((12, 101, 228, 229), _raw_ip),
}


def _network(ethertype: int, data: bytes, at: int, found: Found, *, has_macs: bool = False) -> None:
    found["ethertype"] = ethertype
    while ethertype in _TAGS:
        (tag,) = unpack_from("!H", data, at)
        found.setdefault("vlans", []).append(tag & 0xFFF)
        (ethertype,) = unpack_from("!H", data, at + 2)
        found["ethertype"] = ethertype
        at += 4
    match ethertype:
        case 0x0800:
            _ip4(data, at, found)
        case 0x86DD:
            _ip6(data, at, found)
        case 0x0806:
            _arp(data, at, found)
        case _:
            name = "LLDP" if ethertype == _LLDP else f"ethertype 0x{ethertype:04x}"
            is_length = ethertype < _LEAST_ETHERTYPE
            found |= {"protocol": "802.3" if is_length else name, "info": f"length {len(data)}"}
            if has_macs:
                target, source = unpack_from("!6s6s", data)
                found |= {"src": source.hex(":"), "dst": target.hex(":")}


def _arp(data: bytes, at: int, found: Found) -> None:
    found["protocol"] = "ARP"
    hardware, protocol, hardware_size, protocol_size, operation = unpack_from("!HHBBH", data, at)
    if (hardware, protocol, hardware_size, protocol_size) != (1, _IPV4, 6, 4):
        found["info"] = f"hardware {hardware}, protocol 0x{protocol:04x}, operation {operation}"
        return
    asker_hardware, asker, _, asked = unpack_from("!6s4s6s4s", data, at + 8)
    asking, wanted = socket.inet_ntoa(asker), socket.inet_ntoa(asked)
    match operation:
        case 1:
            found["info"] = f"Request who-has {wanted} tell {asking}"
        case 2:
            found["info"] = f"Reply {asking} is-at {asker_hardware.hex(':')}"
        case _:
            found["info"] = f"operation {operation}"


# Headers in full --------------------------------------------------------------------------------------------------

#: Of Ethernet, SLL and SLL2, without tags.
_LINK_BYTES = {1: 14, 113: 16, 276: 20}
#: Where the type of what follows stands in them.
_ETHERTYPE_AT = {1: 12, 113: 14, 276: 0}
_ETHERTYPES = {_IPV4: "IPv4", 0x86DD: "IPv6", 0x0806: "ARP", 0x8100: "802.1Q", 0x88A8: "802.1ad", _LLDP: "LLDP"}
_PROTOCOLS = {1: "ICMP", 2: "IGMP", 6: "TCP", 17: "UDP", 47: "GRE", 50: "ESP", 51: "AH", 58: "ICMPv6", 132: "SCTP"}
#: Bits of the fragment field of IPv4 (RFC 791).
_MORE_FRAGMENTS, _DO_NOT_FRAGMENT = 0x2000, 0x4000


def network_offset(data: bytes, linktype: int) -> int:
    """Return where what the link layer carries begins: 0 where the link layer is not known."""
    at = _LINK_BYTES.get(linktype, 0)
    if linktype == 1:
        while at <= len(data) and _SHORT.unpack_from(data, at - 2)[0] in _TAGS:
            at += 4
    return min(at, len(data))


def link_header(data: bytes, linktype: int, original_size_bytes: int, *, is_quick: bool = False) -> str:
    """Return the link layer's header as text, with a blank behind it; empty where there is none, or not all of it."""
    if linktype not in _LINK_BYTES or len(data) < _LINK_BYTES[linktype]:
        return ""
    (ethertype,) = _SHORT.unpack_from(data, _ETHERTYPE_AT[linktype])
    if ethertype < _LEAST_ETHERTYPE:
        kind = f"802.3, length {ethertype}: "
    elif is_quick:
        kind = f"{_ETHERTYPES.get(ethertype, f'ethertype 0x{ethertype:04x}')}, length {original_size_bytes}: "
    else:
        kind = f"ethertype {_ETHERTYPES.get(ethertype, 'unknown')} (0x{ethertype:04x}), length {original_size_bytes}: "
    match linktype:
        case 1:
            return f"{data[6:12].hex(':')} > {data[:6].hex(':')}, {kind}"
        case 113:
            return f"{_DIRECTIONS.get(data[1], data[1])} {data[6 : 6 + min(data[5], 8)].hex(':')}, {kind}"
        case _:
            (index,) = unpack_from("!I", data, 4)
            return (
                f"{_DIRECTIONS.get(data[10], data[10])} if {index} {data[12 : 12 + min(data[11], 8)].hex(':')}, {kind}"
            )


#: What kind of packet the kernel says it is (packet(7), sll_pkttype), as tcpdump calls it.
_DIRECTIONS = {0: "In ", 1: "B  ", 2: "M  ", 3: "P  ", 4: "Out"}


def ip_header(data: bytes, linktype: int) -> str:
    """Return what an IP header has beside addresses, in parentheses and a blank behind; empty where there is none."""
    at = network_offset(data, linktype)
    try:
        match data[at] >> 4:
            case 4 if linktype in _LINKTYPES:
                tos, size, number, fragment, ttl, protocol = unpack_from("!xBHHHBB", data, at)
                flags = [name for bit, name in ((_MORE_FRAGMENTS, "+"), (_DO_NOT_FRAGMENT, "DF")) if fragment & bit]
                return (
                    f"(tos 0x{tos:x}, ttl {ttl}, id {number}, offset {(fragment & 0x1FFF) * 8}, "
                    f"flags [{', '.join(flags) or 'none'}], proto {_named(protocol)}, length {size}) "
                )
            case 6 if linktype in _LINKTYPES:
                first, size, protocol, hops = unpack_from("!IHBB", data, at)
                traffic_class, label = first >> 20 & 0xFF, first & 0xFFFFF
                words = [f"class 0x{traffic_class:02x}"] if traffic_class else []
                words += [f"flowlabel 0x{label:05x}"] if label else []
                words += [f"hlim {hops}", f"next-header {_named(protocol)} payload length: {size}"]
                return f"({', '.join(words)}) "
            case _:
                return ""
    except (IndexError, struct.error):  # the end of what was kept
        return ""


def _named(protocol: int) -> str:
    return f"{_PROTOCOLS.get(protocol, 'unknown')} ({protocol})"


# IP ---------------------------------------------------------------------------------------------------------------


def _ip4(data: bytes, at: int, found: Found) -> None:
    found["protocol"] = "IP"
    first, size, fragment, protocol = _IP4.unpack_from(data, at)
    header_bytes = (first & 0x0F) * 4
    if first >> 4 != 4 or header_bytes < 20:
        found["info"] = f"[bad header], length {len(data)}"
        return
    source, target = _IP4_ADDRESSES.unpack_from(data, at + 12)
    found["src"] = socket.inet_ntoa(source)
    found["dst"] = socket.inet_ntoa(target)
    # 0: longer than 16 bits can say, before it was cut into segments.
    segment_bytes = (size or len(data) - at) - header_bytes
    _transport(protocol, fragment & 0x1FFF, data, at + header_bytes, segment_bytes, found=found)


def _ip6(data: bytes, at: int, found: Found) -> None:
    found["protocol"] = "IP6"
    first, size, protocol = unpack_from("!B3xHB", data, at)
    if first >> 4 != 6:
        found["info"] = f"[bad header], length {len(data)}"
        return
    source, target = unpack_from("!16s16s", data, at + 8)
    found |= {"src": socket.inet_ntop(socket.AF_INET6, source), "dst": socket.inet_ntop(socket.AF_INET6, target)}
    at += 40
    end = at + (size or len(data) - at)
    fragment = 0
    while (protocol in _EXTENSIONS or protocol == _FRAGMENT) and not fragment:
        following, units, offset = unpack_from("!BBH", data, at)
        if protocol == _FRAGMENT:
            fragment, header_bytes = offset >> 3, 8
        else:
            header_bytes = 8 + units * _EXTENSIONS[protocol]
        protocol = following
        at += header_bytes
    _transport(protocol, fragment, data, at, end - at, found=found)


def _transport(protocol: int, fragment: int, data: bytes, at: int, size_bytes: int, *, found: Found) -> None:
    """Read what IP carries: ``size_bytes`` long before it was captured."""
    if fragment:
        found["info"] = f"fragment of protocol {protocol}, length {size_bytes}"
        return
    match protocol:
        case 6:
            _tcp(data, at, size_bytes, found)
        case 17:
            _udp(data, at, found)
        case 1 | 58:
            kind, code = unpack_from("!BB", data, at)
            found["info"] = f"{'ICMP' if protocol == _ICMP else 'ICMP6'} type {kind} code {code}"
        case _:
            found["info"] = f"protocol {protocol}, length {size_bytes}"


def _tcp(data: bytes, at: int, size_bytes: int, found: Found) -> None:
    found["src_port"], found["dst_port"] = unpack_from("!HH", data, at)
    sequence, acknowledged, offset, bits, window = unpack_from("!IIBBH", data, at + 4)
    flags = "".join(letter for bit, letter in enumerate(_FLAGS) if bits >> bit & 1) or "none"
    found["tcp_flags"] = flags
    length = found["payload_size_bytes"] = max(0, size_bytes - (offset >> 4) * 4)
    found["info"] = f"Flags [{flags}], seq {sequence}, ack {acknowledged}, win {window}, length {length}"


def _udp(data: bytes, at: int, found: Found) -> None:
    source, target = found["src_port"], found["dst_port"] = _PORTS.unpack_from(data, at)
    (size,) = _SHORT.unpack_from(data, at + 4)
    length = found["payload_size_bytes"] = max(0, size - 8)
    is_dns = source in _DNS_PORTS or target in _DNS_PORTS
    found["info"] = (is_dns and dns.to_words(data[at + 8 : at + size])) or f"UDP, length {length}"
