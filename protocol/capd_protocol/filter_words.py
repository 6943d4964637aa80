"""The words of a capture filter: which one is a host name, and where libpcap stops parsing.

The language is that of pcap-filter(7). libpcap itself looks host names up while it compiles, which would let the
network decide how long that takes, and says of most mistakes only that there is one.
"""

import re
from collections.abc import Callable, Iterator
from ipaddress import IPv6Address
from typing import NamedTuple


class Word(NamedTuple):
    """A word of the text and where it begins."""

    text: str
    position: int


_WORD = re.compile(
    r"""
    \\[^\s!()]+                                  # an escaped keyword: a name
    | [0-9A-Fa-f]*:[0-9A-Fa-f]*:[0-9A-Fa-f:.]*   # IPv6 and MAC addresses
    # Keywords, numbers, names. Libpcap leaves "_" out where a name begins or ends; a message shows the name whole.
    | [A-Za-z0-9_](?:[-_.A-Za-z0-9]*[._A-Za-z0-9])?
    | >= | <= | != | == | << | >> | && | \|\|
    | \S
    """,
    re.VERBOSE,
)

_NUMERIC = re.compile(
    r"""
    0[xX][0-9A-Fa-f]+ | [0-9]+(?:\.[0-9]+){0,3}
    | [0-9A-Fa-f]{1,2}(?P<separator>[-.:])[0-9A-Fa-f]{1,2}(?:(?P=separator)[0-9A-Fa-f]{1,2}){4}
    | [0-9A-Fa-f]{4}(?:\.[0-9A-Fa-f]{4}){2} | [0-9A-Fa-f]{12}
    """,
    re.VERBOSE,
)

# After these a name is a service, a protocol, an interface: looked up in files, if at all.
_OTHER_NAMES = frozenset(
    """
    port portrange proto protochain on ifname rset ruleset reason action type subtype dir direction
    llc rnr rulenum srnr subrulenum
    """.split()
)

# After these, and without any qualifier, a name is a host or a network.
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
    ifindex vlan mpls pppoed pppoes geneve lane metac bcc oam oamf4 oamf4ec oamf4sc sc
    ilmic vpi vci connectmsg metaconnect fisu lssu lsu msu hfisu hlssu hmsu sio opc dpc sls hsio
    hopc hdpc hsls tcpflags icmptype icmpcode icmp6type icmp6code
    """.split()
)

# Named numbers. All of them: a host may be called tcp-1.
_CONSTANTS = frozenset(
    """
    tcp-fin tcp-syn tcp-rst tcp-push tcp-ack tcp-urg tcp-ece tcp-cwr
    icmp-echoreply icmp-unreach icmp-sourcequench icmp-redirect icmp-echo icmp-routeradvert
    icmp-routersolicit icmp-timxceed icmp-paramprob icmp-tstamp icmp-tstampreply icmp-ireq
    icmp-ireqreply icmp-maskreq icmp-maskreply
    icmp6-destinationunreach icmp6-packettoobig icmp6-timeexceeded icmp6-parameterproblem icmp6-echo
    icmp6-echoreply icmp6-multicastlistenerquery icmp6-multicastlistenerreportv1
    icmp6-multicastlistenerdone icmp6-routersolicit icmp6-routeradvert icmp6-neighborsolicit
    icmp6-neighboradvert icmp6-redirect icmp6-routerrenum icmp6-nodeinformationquery
    icmp6-nodeinformationresponse icmp6-ineighbordiscoverysolicit icmp6-ineighbordiscoveryadvert
    icmp6-multicastlistenerreportv2 icmp6-homeagentdiscoveryrequest icmp6-homeagentdiscoveryreply
    icmp6-mobileprefixsolicit icmp6-mobileprefixadvert icmp6-certpathsolicit icmp6-certpathadvert
    icmp6-multicastrouteradvert icmp6-multicastroutersolicit icmp6-multicastrouterterm
    """.split()
)

#: libpcap's scanner refuses a number of this size with words of its own; only if the parser got so far.
_MARKER = " 99999999999"


def words(text: str) -> Iterator[Word]:
    """Split a filter as libpcap's scanner does, near enough to find the names."""
    for match in _WORD.finditer(text):
        yield Word(match.group(), match.start())


def may_say_vlan(text: str) -> bool:
    """Whether a filter could ask for VLAN tags, without taking it apart: a privileged process does no more with it."""
    return "vlan" in text


def says_vlan(text: str) -> bool:
    """Whether a filter asks for VLAN tags, which the kernel keeps aside: only a device's handle knows that."""
    return any(word.text == "vlan" for word in words(text))


def _is_numeric(name: str) -> bool:
    if _NUMERIC.fullmatch(name):
        return True
    try:
        IPv6Address(name)
    except ValueError:
        return False
    return True


def find_host_name(text: str) -> Word | None:
    """Return the first word that libpcap would look up as the name of a host or a network."""
    names_are_hosts = True
    for word in words(text):
        name = word.text
        if name in _OTHER_NAMES:
            names_are_hosts = False
        elif name in _HOST_QUALIFIERS:
            names_are_hosts = True
        elif name in _OPERATORS or name in _OTHER_KEYWORDS or name in _CONSTANTS or _is_numeric(name):
            continue
        elif names_are_hosts and (name[0].isalnum() or name[0] == "_" or (name[0] in ":\\" and len(name) > 1)):
            return word
    return None


def host_name_complaint(name: Word) -> str:
    """Return what to say about a word that would be looked up; mostly it is a keyword that is written wrongly."""
    return f"{name.text!r} is no keyword, and no address; host names are not looked up"


def find_position(text: str, complain: Callable[[str], str | None]) -> int | None:
    """Return how many characters of a wrong filter come before the word at which it goes wrong.

    Libpcap does not report it. But it reads from left to right, and stops at the first word that cannot follow the
    ones before it: a marker behind some words is reached exactly when a right filter can begin with them. The
    length of the text, where one can begin with all of it. None for an empty filter.

    Args:
        text: a filter that does not compile.
        complain: returns what libpcap says of a text, None where it compiles.
    """
    found = list(words(text))
    marked, syntax_error, complaint = complain(_MARKER), complain(")"), complain(text)
    if not found or marked in (None, syntax_error):  # the second: not a libpcap that does so
        return None

    def start(count: int) -> str:
        return text[: found[count - 1].position + len(found[count - 1].text)]

    right, wrong = 0, len(found) + 1
    while wrong - right > 1:
        middle = (right + wrong) // 2
        if complain(start(middle) + _MARKER) == marked:
            right = middle
        else:
            wrong = middle
    # What a phrase means is looked at when it is over, perhaps one word late: without that word it is as wrong.
    if right and complaint not in (None, syntax_error) and complain(start(right)) == complaint:
        right -= 1
    return found[right].position if right < len(found) else len(text.rstrip())
