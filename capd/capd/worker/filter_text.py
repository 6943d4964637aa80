"""The words of a capture filter: which one is a host name, and where libpcap stops understanding.

The language is that of pcap-filter(7). libpcap itself looks host names up while it compiles, which would let the
network decide how long that takes, and says of most mistakes only that there is one.
"""

import re
from collections.abc import Callable, Iterator
from typing import NamedTuple


class Word(NamedTuple):
    """A word of the text and where it begins."""

    text: str
    position: int


_WORD = re.compile(
    r"""
    \\[^\s!()]+                                  # an escaped keyword: a name
    | [0-9A-Fa-f]*:[0-9A-Fa-f:.]*                # IPv6 and MAC addresses, slices
    | [A-Za-z0-9](?:[-_.A-Za-z0-9]*[.A-Za-z0-9])?  # keywords, numbers, names
    | >= | <= | != | == | << | >> | && | \|\|
    | \S
    """,
    re.VERBOSE,
)

_NUMERIC = re.compile(
    r"""
    (?: 0[xX][0-9A-Fa-f]+ | [0-9]+(?:\.[0-9]+){0,3} | [0-9A-Fa-f]*:[0-9A-Fa-f:.]*
    | [0-9A-Fa-f]{1,2}(?:[-.][0-9A-Fa-f]{1,2}){5} | [0-9A-Fa-f]{4}(?:\.[0-9A-Fa-f]{4}){2} | [0-9A-Fa-f]{12} )
    """,
    re.VERBOSE,
)

# After these a name is a service, a protocol, an interface: looked up in files, if at all.
_OTHER_NAMES = frozenset(
    """
    port portrange proto protochain on ifname rset ruleset reason action type subtype dir direction
    rnr rulenum srnr subrulenum
    """.split()
)

# After these, and where nothing else is said, a name is a host or a network.
_HOST_QUALIFIERS = frozenset(
    """
    src dst link ether ppp slip fddi tr wlan arp rarp ip sctp tcp udp icmp igmp igrp pim vrrp carp
    radio ip6 icmp6 ah esp atalk aarp decnet lat sca moprc mopdl iso esis es-is isis is-is clnp stp
    ipx netbeui host net mask gateway address1 addr1 address2 addr2 address3 addr3 address4 addr4 ra
    ta
    """.split()
)

_OPERATORS = frozenset(["and", "or", "not"])

_OTHER_KEYWORDS = frozenset(
    """
    l1 l2 iih lsp snp csnp psnp less greater byte broadcast multicast len length inbound outbound
    ifindex vlan mpls pppoed pppoes geneve vxlan lane llc metac bcc oam oamf4 oamf4ec oamf4sc sc
    ilmic vpi vci connectmsg metaconnect fisu lssu lsu msu hfisu hlssu hmsu sio opc dpc sls hsio
    hopc hdpc hsls tcpflags icmptype icmpcode icmp6type icmp6code
    """.split()
)

# Named numbers: icmp-echo, icmp6-packettoobig, tcp-syn …
_CONSTANT = re.compile(r"(?:icmp|icmp6|tcp)-[a-z0-9]+")

#: What can stand behind the beginning of a right filter, so that it compiles.
_COMPLETIONS = (
    "",
    " 1",
    " 1.2.3.4",
    " tcp",
    " = 1",
    "] = 1",
    " 0] = 1",
    " 1] = 1",
    " host 1.2.3.4",
    " port 1",
    " proto 1",
    " 10.0.0.0/8",
    " 255.0.0.0",
    "-2",
    " 1-2",
    " 0:0:0:0:0:1",
    " host 0:0:0:0:0:1",
    " broadcast",
    " mgt",
    " beacon",
    " fromds",
)


def words(text: str) -> Iterator[Word]:
    """Split a filter as libpcap's scanner does, near enough to tell names from the rest."""
    for match in _WORD.finditer(text):
        yield Word(match.group(), match.start())


def find_host_name(text: str) -> Word | None:
    """Return the first word that libpcap would look up as the name of a host or a network."""
    names_are_hosts = True
    for word in words(text):
        name = word.text
        if name in _OTHER_NAMES:
            names_are_hosts = False
        elif name in _HOST_QUALIFIERS:
            names_are_hosts = True
        elif name in _OPERATORS or name in _OTHER_KEYWORDS or _NUMERIC.fullmatch(name) or _CONSTANT.fullmatch(name):
            continue
        elif names_are_hosts and (name[0].isalnum() or (name[0] == "\\" and len(name) > 1)):
            return word
    return None


def find_position(text: str, compiles: Callable[[str], bool]) -> int | None:
    """Return how many characters of a wrong filter come before the word at which it goes wrong.

    Libpcap does not tell. But what comes before that word can be completed to a filter that compiles, and with
    it that can't be; the length of the text, where all of it can be completed. None for an empty filter.

    Args:
        text: a filter that does not compile.
        compiles: whether a text does.
    """
    found = list(words(text))
    if not found:
        return None

    def completable(count: int) -> bool:
        last = found[count - 1]
        start = text[: last.position + len(last.text)]
        closing = ")" * max(sum((w.text == "(") - (w.text == ")") for w in found[:count]), 0)
        return any(compiles(start + completion + closing) for completion in _COMPLETIONS)

    right, wrong = 0, len(found) + 1
    while wrong - right > 1:
        middle = (right + wrong) // 2
        if completable(middle):
            right = middle
        else:
            wrong = middle
    return found[right].position if right < len(found) else len(text.rstrip())
