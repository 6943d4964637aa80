"""Filters with host names are found, others are not taken for such, and wrong ones are pointed at where they go wrong.

Judged by libpcap itself, on handles that capture nothing.
"""

import ctypes
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capd_protocol.filter_words import Word, find_host_name, find_position, host_name_complaint, words

DLT_EN10MB = 1
DLT_RAW = 12
DLT_IEEE802_11 = 105
DLT_LINUX_SLL = 113


class Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_uint), ("instructions", ctypes.c_void_p))


class Libpcap:
    """Compiles filters for a link-layer type, without an interface."""

    def __init__(self, dlt: int) -> None:
        self._library = ctypes.CDLL("libpcap.so.0.8")
        self._library.pcap_open_dead.restype = ctypes.c_void_p
        self._library.pcap_compile.argtypes = (
            ctypes.c_void_p,
            ctypes.POINTER(Program),
            ctypes.c_char_p,
            ctypes.c_int,
            ctypes.c_uint32,
        )
        self._library.pcap_geterr.argtypes = (ctypes.c_void_p,)
        self._library.pcap_geterr.restype = ctypes.c_char_p
        self._library.pcap_freecode.argtypes = (ctypes.POINTER(Program),)
        self._handle = self._library.pcap_open_dead(dlt, 262_144)
        self.asked = 0

    def complain(self, text: str) -> str | None:
        """Return what libpcap says of a filter; None where it compiles."""
        self.asked += 1
        program = Program()
        if self._library.pcap_compile(self._handle, ctypes.byref(program), text.encode("ascii"), 0, 0xFFFFFFFF) < 0:
            return str(self._library.pcap_geterr(self._handle).decode())
        self._library.pcap_freecode(ctypes.byref(program))
        return None

    def looks_up(self, text: str) -> bool:
        """Say whether libpcap looks a host name up: it tells when there is none, and tests run without a network."""
        complaint = self.complain(text) or ""
        return any(words in complaint for words in ("unknown host", "unknown network", "unknown ether host"))

    def position(self, text: str) -> int | None:
        """Return where a filter goes wrong. Nothing is looked up for it."""

        def complain(candidate: str) -> str | None:
            assert not self.looks_up(candidate), f"looked up for {candidate!r}"
            return self.complain(candidate)

        return find_position(text, complain)


@pytest.fixture(scope="module")
def ethernet() -> Libpcap:
    return Libpcap(DLT_EN10MB)


@pytest.fixture(scope="module")
def several() -> list[Libpcap]:
    """Provide handles of several kinds."""
    return [Libpcap(dlt) for dlt in (DLT_EN10MB, DLT_IEEE802_11, DLT_LINUX_SLL, DLT_RAW)]


# Words ----------------------------------------------------------------------------------------------------------

WORDS = [
    ("", []),
    ("  tcp\tport\n80 ", ["tcp", "port", "80"]),
    ("not(tcp or!udp)", ["not", "(", "tcp", "or", "!", "udp", ")"]),
    (
        "tcp[tcpflags]&(tcp-syn|tcp-ack)!=0",
        ["tcp", "[", "tcpflags", "]", "&", "(", "tcp-syn", "|", "tcp-ack", ")", "!=", "0"],
    ),
    ("a>=1&&b<=2||c<<3==d>>4", ["a", ">=", "1", "&&", "b", "<=", "2", "||", "c", "<<", "3", "==", "d", ">>", "4"]),
    ("net 10.0.0.0/8", ["net", "10.0.0.0", "/", "8"]),
    ("host fe80::1 or ::ffff:1.2.3.4", ["host", "fe80::1", "or", "::ffff:1.2.3.4"]),
    ("ether host 00:11:22:33:44:ff", ["ether", "host", "00:11:22:33:44:ff"]),
    ("portrange 1-1024", ["portrange", "1-1024"]),
    ("host a-b.c_d-", ["host", "a-b.c_d", "-"]),
    (r"ip proto \icmp", ["ip", "proto", r"\icmp"]),
    (r"host \tcp)", ["host", r"\tcp", ")"]),
    ("host _a_b_ or __", ["host", "_a_b_", "or", "__"]),
]


@pytest.mark.parametrize(("text", "expected"), WORDS)
def test_text_is_split_as_libpcap_splits_it(text: str, expected: list[str]) -> None:
    assert [word.text for word in words(text)] == expected


@settings(derandomize=True, deadline=None, max_examples=200)
@given(st.text(st.characters(max_codepoint=127), max_size=40))
def test_words_are_where_they_say_and_leave_only_spaces_out(text: str) -> None:
    at = 0
    for word in words(text):
        assert not text[at : word.position].strip()
        assert word.text
        at = word.position + len(word.text)
        assert text[word.position : at] == word.text
    assert not text[at:].strip()


# Host names -----------------------------------------------------------------------------------------------------

# Filters and the name in them that libpcap would look up.
NAMED = [
    ("host foo", "foo"),
    ("src or dst host foo", "foo"),
    ("src and dst foo", "foo"),
    ("ip host foo", "foo"),
    ("ip6 host foo", "foo"),
    ("arp src foo", "foo"),
    ("ether host x", "x"),
    ("ether src x", "x"),
    ("wlan host x", "x"),
    ("net foo", "foo"),
    ("dst net foo mask 255.0.0.0", "foo"),
    ("tcp and host foo.example", "foo.example"),
    ("host 3com.com", "3com.com"),
    ("host 1.2.3.4.5", "1.2.3.4.5"),
    ("host a-b.c_d", "a-b.c_d"),
    ("host a-b.c-d.e-f", "a-b.c-d.e-f"),  # no MAC address: one with two kinds of separators
    ("host foo.", "foo."),
    ("host foo-", "foo"),
    (r"host \tcp", r"\tcp"),
    (r"host \host", r"\host"),
    ("host (1.2.3.4 or foo)", "foo"),
    ("host 1.2.3.4 and foo", "foo"),
    ("port 80 and host foo", "foo"),
    ("port 80 and ip src foo", "foo"),
    ("port http or src foo", "foo"),
    ("host foo and port bar", "foo"),
    ("proto 6 and dst foo", "foo"),
    ("host tcp-foo", "tcp-foo"),  # no named number
    ("host icmp-1", "icmp-1"),
    ("host beef", "beef"),
    ("host deadbeefcafee", "deadbeefcafee"),
    ("host 0xfoo", "0xfoo"),
]

# Filters without one, which libpcap takes.
UNNAMED = [
    "",
    "tcp",
    "not tcp",
    "host 1.2.3.4",
    "src or dst host 1.2.3.4",
    "host 0x01020304",
    "host 16909060",
    "host ::1",
    "host fe80::1:2",
    "host ::ffff:1.2.3.4",
    "host 1:2:3:4:5:6:7:8",
    "ip6 net fe80::/10",
    "net 10",
    "net 10.1",
    "net 192.168.1",
    "net 10.0.0.0/8",
    "net 10.0.0.0 mask 255.0.0.0",
    "ether host 00:11:22:aa:bb:cc",
    "ether host 0:1:2:a:b:c",
    "ether host 00-11-22-aa-bb-cc",
    "ether host 00.11.22.aa.bb.cc",
    "ether host 0011.22aa.bbcc",
    "ether host 001122aabbcc",
    "ether host deadbeefcafe",
    "port 80",
    "port http",
    "port domain or ntp",
    "tcp port (http or https)",
    "tcp dst port (http or https or 8080)",
    "src port http and dst port not https",
    "portrange 1-1024",
    "portrange ftp-http",
    r"proto \icmp",
    r"ip proto \tcp or \udp",
    r"ether proto \arp",
    r"ip6 protochain \tcp",
    r"iso proto \clnp",
    "ip proto 6",
    "tcp[13] = 2",
    "tcp[tcpflags] & (tcp-syn|tcp-fin) != 0",
    "icmp[icmptype] = icmp-echo or icmp[icmptype] = icmp-echoreply",
    "icmp6[icmp6type] == icmp6-neighborsolicit or icmp6[0] = icmp6-multicastrouterterm",
    "ip[0:2] = 0x4500",
    "ip[0:0x2] = 0x4500",
    "ip[0x2:2] > 576",
    "ether[0] & 1 = 0 and ip[16] >= 224",
    "len > 100",
    "less 100 or greater 1000",
    "ether broadcast or ether multicast",
    "vlan 100 and ip",
    "vlan and tcp port http",
    "mpls 1024 and mpls",
    "pppoes 27 and ip",
    "geneve 0xb and ip",
    "inbound",
    "ifindex 3",
    "llc",
    "llc i",
    "llc s",
    "llc rr",
    "llc xid",
    "llc rnr",
    "llc ui and ether broadcast",
    "decnet src 1.2",
    "is-is and l1",
]

UNNAMED_WIRELESS = [
    "type mgt",
    "type mgt subtype beacon",
    "subtype probe-req",
    "type ctl subtype cts or type data subtype qos-data",
    "dir nods",
    "wlan dir fromds",
    "wlan addr4 00:11:22:aa:bb:cc",
    "wlan ra 00:11:22:aa:bb:cc",
]


@pytest.mark.parametrize(("text", "name"), NAMED)
def test_a_host_name_is_found(text: str, name: str) -> None:
    assert find_host_name(text) == Word(name, text.rindex(name))


@pytest.mark.parametrize(("text", "name"), NAMED)
def test_libpcap_would_look_that_name_up(several: list[Libpcap], text: str, name: str) -> None:
    assert f"'{name.removeprefix(chr(92))}'" in (several[0].complain(text) or "")
    assert several[0].looks_up(text)


@pytest.mark.parametrize("text", UNNAMED)
def test_what_is_no_host_name_is_not_taken_for_one(ethernet: Libpcap, text: str) -> None:
    assert find_host_name(text) is None
    assert ethernet.complain(text) is None


@pytest.mark.parametrize("text", UNNAMED_WIRELESS)
def test_what_is_no_host_name_is_not_taken_for_one_on_a_wireless_interface(text: str) -> None:
    assert find_host_name(text) is None
    assert Libpcap(DLT_IEEE802_11).complain(text) is None


# To libpcap a name neither begins nor ends with "_": it looks up what is left of some, and refuses the others.
UNDERSCORED = [
    ("_foo_bar", "_foo_bar"),
    ("host _foo", "_foo"),
    ("host foo_", "foo_"),
    ("src host _dmarc.example", "_dmarc.example"),
    ("host a_b_", "a_b_"),
    ("tcp and host __", "__"),
    ("tcp_", "tcp_"),
    ("host 1.2.3.4_", "1.2.3.4_"),
]


@pytest.mark.parametrize(("text", "name"), UNDERSCORED)
def test_a_name_keeps_the_underscores_that_libpcap_does_not_take(ethernet: Libpcap, text: str, name: str) -> None:
    assert find_host_name(text) == Word(name, text.rindex(name))
    assert repr(name) in host_name_complaint(Word(name, 0))
    assert ethernet.complain(text) is not None


HALF_ADDRESSES = [
    "abc:def",
    "abc:1",
    "a:b:c",
    "fe80:1",
    "a:b:c:d:e:f:0",
    "1:2:3:4:5:6:7:x",
    "fe80:::1",
    "::1.2",
    "0x1.0x2",
]


@pytest.mark.parametrize("address", HALF_ADDRESSES)
@pytest.mark.parametrize("before", ["host ", "net ", "ether src ", "ip6 dst "])
def test_what_is_half_an_address_is_not_looked_up(several: list[Libpcap], before: str, address: str) -> None:
    # Libpcap takes the first part of some of them for a name.
    if find_host_name(before + address) is None:
        assert not several[0].looks_up(before + address)


VOCABULARY = [
    *"host net port and or not src dst ether ip ip6 tcp ( ) [ ] = & ! -".split() * 6,
    *"1 80 1.2.3.4 10.0.0.0/8 0:0:0:0:0:1 ::1 fe80::1 1-2 0x1f foo foo.bar a-b \\tcp \\icmp http mgt beacon".split(),
    *"udp icmp arp rarp proto protochain portrange mask gateway broadcast multicast len less greater vlan mpls".split(),
    *"llc rr i type subtype dir wlan addr1 link fddi tr ppp slip radio sctp igmp decnet atalk iso stp l1 on".split(),
    *"ifname inbound ifindex 0 tcp-syn tcp-foo icmp-echo icmp6-echo && || != << / : a:b:c abc:def".split(),
    *"_foo foo_ _".split(),
    *"a-b.c-d.e-f deadbeefcafe a.b.c.d.e.f 1.2 eth0 in pass $1 lane geneve pppoes byte action reason tcpflags".split(),
]


@pytest.mark.parametrize("seed", range(10))
def test_no_words_in_any_order_make_libpcap_look_a_name_up(several: list[Libpcap], seed: int) -> None:
    random = Random(seed)
    for _ in range(1_000):
        text = " ".join(random.choice(VOCABULARY) for _ in range(random.randint(1, 7)))
        found = find_host_name(text)
        for libpcap in several:
            if found is None:
                assert not libpcap.looks_up(text), text
            else:
                assert libpcap.complain(text) is not None, text


# Positions ------------------------------------------------------------------------------------------------------

# Wrong filters. Where a person would point is marked with an arrow, which is no part of the filter.
WRONG = [
    "tcp port 80 and→",
    "tcp port→",
    "not→",
    "(tcp or udp→",
    "tcp[13→",
    "tcp[→",
    "tcp[13]→",
    "tcp[13] =→",
    "tcp[13] & 2 !=→",
    "src net 10.0.0.0/→",
    "net 10.0.0.0 mask→",
    "ip6 host→",
    "ether host→",
    "vlan 5 and→  ",
    "→)",
    "tcp →)",
    "(tcp or udp)→)",
    "tcp and (→)",
    "→]",
    "tcp[13→)",
    "tcp[13 →and ip",
    "tcp →tcp",
    "tcp port 80 →udp",
    "tcp or →or udp",
    "→and tcp",
    "ip6 host ::1 →)",
    "port http and port →port 80",
    "host 1.2.3.4 →5.6.7.8",
    "net 10.0.0.0/8 →/8",
    "portrange 1→-",
    "portrange 1→- and tcp",
    "tcp dst →src port 80",
    "tcp port 80 and →? and udp",
    "tcp →@",
    "tcp port →-1",
    "tcp[13] & 2 != 0 →0",
    "tcp port 80 and (((ip[2:2] - ((ip[0]&0xf)<<2)) - ((tcp[12]&0xf0)>>2)) != 0) →= 1",
    # What a phrase means is looked at when it is over.
    "tcp port →99999",
    "tcp port 80 and host →256.1.1.1 and udp",
    "host 1.2.3.4 and port →nosuchservice",
    "host 1.2.3.4 and port →nosuchservice or tcp port 80",
    r"ip proto →\nosuchprotocol",
    "vlan →5000 and ip",
    "port 80 and →1.2.3.4",
    "port 80 and →1.2.3.4 and tcp",
    "type →mgt and tcp",  # not on Ethernet
]


@pytest.mark.parametrize("marked", WRONG)
def test_a_wrong_filter_is_pointed_at_where_it_goes_wrong(ethernet: Libpcap, marked: str) -> None:
    text = marked.replace("→", "")
    assert find_host_name(text) is None
    assert ethernet.position(text) == marked.index("→")


@pytest.mark.parametrize("text", ["", " ", "\n\t "])
def test_an_empty_filter_has_no_position(ethernet: Libpcap, text: str) -> None:
    assert ethernet.position(text) is None


TYPICAL = [
    *(text for text in UNNAMED if text),
    "src host 10.0.0.1 and dst port 80",
    "tcp port 80 or udp portrange 5000-6000",
    "src net 10 or dst net 172.16/12",
    "ether src 00:11:22:33:44:55 and ip",
    "! (port 22 or port 53)",
    "tcp src port 1 && udp dst port 2 || icmp6",
    "dst host 1.2.3.4 and not (tcp port 80 and (src net 10.0.0.0/8 or dst net 10.0.0.0/8))",
    "tcp port 80 and (((ip[2:2] - ((ip[0]&0xf)<<2)) - ((tcp[12]&0xf0)>>2)) != 0)",
    "tcp[((tcp[12:1] & 0xf0) >> 2):4] = 0x47455420",
    "host 1.2.3.4 and (port 80 or (vlan and ip6))",
]


@pytest.mark.parametrize("text", TYPICAL)
def test_a_stray_word_is_pointed_at_wherever_it_stands(ethernet: Libpcap, text: str) -> None:
    for at in [*(word.position for word in words(text)), len(text)]:
        wrong = f"{text[:at]} ? {text[at:]}"
        assert ethernet.position(wrong) == at + 1, wrong


@pytest.mark.parametrize("text", TYPICAL)
def test_where_a_filter_breaks_off_is_its_end(ethernet: Libpcap, text: str) -> None:
    for word in list(words(text))[1:]:
        wrong = text[: word.position]
        complaint = ethernet.complain(wrong)
        if complaint == ethernet.complain(")"):  # a right filter in itself, or wrong for another reason, otherwise
            assert ethernet.position(wrong) == len(wrong.rstrip()), wrong


def test_a_long_filter_is_compiled_a_few_times_only() -> None:
    # Libpcap takes seconds for the longest ones.
    text = "tcp port 80 or " * 200 + "tcp )"
    libpcap = Libpcap(DLT_EN10MB)
    assert libpcap.position(text) == len(text) - 1
    assert libpcap.asked <= 50
