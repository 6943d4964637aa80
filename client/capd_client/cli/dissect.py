"""A packet as a line of text, as people know it from tcpdump, or as a dict. Pure."""

import socket
from typing import Any

import dpkt as untyped_dpkt

#: It has no types, and those that can be inferred from its source are wrong.
dpkt: Any = untyped_dpkt

_LINKTYPES: dict[int, Any] = {1: dpkt.ethernet.Ethernet, 113: dpkt.sll.SLL, 276: dpkt.sll2.SLL2}
#: Raw IP: LINKTYPE_RAW, LINKTYPE_IPV4, LINKTYPE_IPV6, and DLT_RAW.
_RAW_IP = (12, 101, 228, 229)
_LLDP = 0x88CC
_FLAGS = ((0x02, "S"), (0x01, "F"), (0x04, "R"), (0x08, "P"), (0x10, "."), (0x20, "U"), (0x40, "E"), (0x80, "W"))


def dissect(data: bytes, linktype: int) -> dict[str, Any]:
    """Return what a packet is.

    Args:
        data: its bytes, as many as were kept.
        linktype: LINKTYPE_ number.

    Returns:
        ``protocol`` and ``info`` for people; ``src``, ``dst``, ``src_port``, ``dst_port``, ``tcp_flags``, ``vlans``,
        ``ethertype`` where it has them. One that cannot be parsed has the protocol "malformed".
    """
    try:
        if linktype in _RAW_IP:
            return _network(dpkt.ip6.IP6(data) if data[0] >> 4 == 6 else dpkt.ip.IP(data))
        if linktype not in _LINKTYPES:
            return {"protocol": "unknown", "info": f"linktype {linktype}, length {len(data)}"}
        return _link(_LINKTYPES[linktype](data), data)
    except Exception as error:  # dpkt raises whatever a packet makes it trip over
        return {"protocol": "malformed", "info": f"[cannot be parsed: {type(error).__name__}], length {len(data)}"}


def to_text(found: dict[str, Any]) -> str:
    """Return what ``dissect`` found as text without a line break."""
    vlans = "".join(f"vlan {each}, " for each in found.get("vlans", ()))
    source, target = _with_port(found, "src"), _with_port(found, "dst")
    ends = f"{source} > {target}: " if source and target else ""
    text = f"{vlans}{found['protocol']} {ends}{found['info']}"
    return "".join(each if each.isprintable() else f"\\x{ord(each):02x}" for each in text)


def _with_port(found: dict[str, Any], side: str) -> str:
    port = found.get(f"{side}_port")
    return f"{found.get(side, '')}{f'.{port}' if port is not None else ''}"


def _link(frame: Any, data: bytes) -> dict[str, Any]:
    ethertype = getattr(frame, "type", getattr(frame, "ethtype", None))
    tags = getattr(frame, "vlan_tags", ())
    if tags:
        ethertype = tags[-1].type
    found: dict[str, Any] = _network(frame.data)
    if not found:
        name = "LLDP" if ethertype == _LLDP else f"ethertype 0x{ethertype:04x}" if ethertype else "802.3"
        found = {"protocol": name, "info": f"length {len(data)}"}
        if isinstance(frame, dpkt.ethernet.Ethernet):
            found |= {"src": frame.src.hex(":"), "dst": frame.dst.hex(":")}
    if tags:
        found["vlans"] = [each.id for each in tags]
    return {**found, "ethertype": ethertype}


def _network(packet: Any) -> dict[str, Any]:
    if isinstance(packet, dpkt.arp.ARP):
        asked, asking = socket.inet_ntoa(packet.tpa), socket.inet_ntoa(packet.spa)
        is_request = packet.op == dpkt.arp.ARP_OP_REQUEST
        info = f"Request who-has {asked} tell {asking}" if is_request else f"Reply {asking} is-at {packet.sha.hex(':')}"
        return {"protocol": "ARP", "info": info}
    if not isinstance(packet, dpkt.ip.IP | dpkt.ip6.IP6):
        return {}
    is_6 = isinstance(packet, dpkt.ip6.IP6)
    family = socket.AF_INET6 if is_6 else socket.AF_INET
    found = {"src": socket.inet_ntop(family, packet.src), "dst": socket.inet_ntop(family, packet.dst)}
    return {"protocol": "IP6" if is_6 else "IP", **found, **_transport(packet.data, packet.p)}


def _transport(segment: Any, protocol: int) -> dict[str, Any]:
    match segment:
        case dpkt.tcp.TCP():
            flags = "".join(letter for bit, letter in _FLAGS if segment.flags & bit) or "none"
            info = (
                f"Flags [{flags}], seq {segment.seq}, ack {segment.ack}, win {segment.win}, length {len(segment.data)}"
            )
            return {"src_port": segment.sport, "dst_port": segment.dport, "tcp_flags": flags, "info": info}
        case dpkt.udp.UDP():
            info = f"UDP, length {max(0, segment.ulen - 8)}"
            if 53 in (segment.sport, segment.dport):
                info = _dns(segment.data) or info
            return {"src_port": segment.sport, "dst_port": segment.dport, "info": info}
        case dpkt.icmp.ICMP():
            return {"info": f"ICMP type {segment.type} code {segment.code}"}
        case dpkt.icmp6.ICMP6():
            return {"info": f"ICMP6 type {segment.type} code {segment.code}"}
        case _:
            return {"info": f"protocol {protocol}, length {len(segment)}"}


def _dns(data: bytes) -> str | None:
    try:
        message = dpkt.dns.DNS(data)
    except Exception:  # as in dissect(); then it is UDP to port 53
        return None
    names = ", ".join(each.name for each in message.qd)
    return f"DNS {'response' if message.qr else 'query'} {names}, {len(message.an)} answers"
