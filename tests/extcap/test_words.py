"""What is said to Wireshark, and what is understood of it: sentences, names, settings, the toolbar, hosts."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capd_client.extcap.configuration import (
    SETTINGS,
    Action,
    Words,
    arguments_of,
    configuration_sentences,
    parse,
    words_of,
)
from capd_client.extcap.controls import Command, Control, ControlDecoder, ControlMessage, control_sentences
from capd_client.extcap.hosts import checked_host, host_of, listed_hosts
from capd_client.extcap.offers import Kind, Limits, Offer, capture_meant, limits_of, meant, offers
from capd_client.extcap.sentences import decoded, encoded, sentence
from capd_client.sources.sentences import Option, options_of, sentences_of
from capd_protocol.messages import CaptureSummary, Permission
from capd_protocol.messages.interfaces import InterfaceInfo, Link

EVIL = "a}{b= \x1b[2J\n\u202e\\"
#: How Wireshark takes a sentence apart (extcap_parser.c).
FIELD = re.compile(r"\{([a-zA-Z_-]*?)=(.*?)\}(?=\{|$|\s)", re.IGNORECASE)


def fields_of(line: str) -> dict[str, str]:
    """Return what Wireshark reads in a line."""
    return dict(FIELD.findall(line))


# Sentences ------------------------------------------------------------------------------------------------------------


@given(st.text(), st.text())
def test_a_sentence_stays_one_whatever_it_says(display: str, tooltip: str) -> None:
    line = sentence("arg", number=1, display=display, tooltip=tooltip, required=True, range=None)
    assert line.isprintable()
    found = fields_of(line)
    assert list(found) == ["number", "display", "tooltip", "required"]
    assert (found["number"], found["required"]) == ("1", "true")
    if display.isprintable() and not set(display) & set("{}"):
        assert found["display"] == display


@given(st.text(st.characters(exclude_characters="\0")))
def test_a_name_comes_back_as_it_was(name: str) -> None:
    value = encoded(name)
    assert re.fullmatch(r"[\w.,:/@+~%-]*", value, re.ASCII)
    assert decoded(value) == name


@pytest.mark.parametrize("value", ["%", "%zz", "%FF", "a%C3"])
def test_a_value_of_somebody_else_s_stays_as_it_is(value: str) -> None:
    assert decoded(value) == value


# What is offered ------------------------------------------------------------------------------------------------------


def interface(name: str, *, may_capture: bool = True, alias: str = "") -> InterfaceInfo:
    link = Link(index=1, name=name, loopback=False, is_up=True, state="up", mtu=1500, hardware_type=1, alias=alias)
    return InterfaceInfo(name=name, number=1, may_capture=may_capture, link=link)


def capture(number: int, name: str | None, user_id: int = 1000, *, is_recorder: bool = False) -> CaptureSummary:
    return CaptureSummary(
        capture_id=number, user_id=user_id, interfaces=("eth0", "lo"), file_name="a", started_ns=0, files_total=1,
        packets_total=0, drops_total=0, name=name, is_recorder=is_recorder,
    )  # fmt: skip


def permission(*interfaces: str, snaplen: int = 262_144, promiscuous: bool = True, only: str = "") -> Permission:
    return Permission(
        rule="r", interfaces=interfaces, filter=only, max_snaplen_bytes=snaplen, promiscuous=promiscuous,
        monitor_mode=False, max_captures=None, max_disk_bytes=None, max_duration_s=None,
    )  # fmt: skip


def test_what_the_daemon_allows_and_runs_is_offered() -> None:
    found = list(
        offers(
            [interface("eth0", alias="uplink"), interface("eth1", may_capture=False), interface("we}rd")],
            [capture(1, "all"), capture(2, None), capture(3, "night", is_recorder=True), capture(4, "all", 0)],
            [permission("eth*", only="udp")],
            1000,
            ["alice@probe:2222"],
        )
    )
    assert [(each.value, each.display) for each in found] == [
        ("capd:eth0", "capd eth0 (uplink), packets that match 'udp'"),
        ("capd:we%7Drd", "capd we}rd"),
        ("capd:capture/all", "capd capture all, on eth0, lo"),
        ("capd:capture/2", "capd capture 2, on eth0, lo"),
        ("capd:recorder/night", "capd snapshot of recorder night, on eth0, lo"),
        ("capd:capture/4", "capd capture 4, on eth0, lo"),  # of somebody who calls it as another one is called
        ("capd:ssh://alice@probe:2222", "capd on alice@probe:2222, over ssh"),
        ("capd:ssh://", "capd on another host, over ssh"),
    ]
    for each in found:
        assert meant(each.value) == Offer(each.kind, each.name)


@pytest.mark.parametrize("value", ["", "eth0", "capd:", "capd:capture/", "udpdump"])
def test_what_is_none_of_ours_means_nothing(value: str) -> None:
    assert meant(value) is None


@pytest.mark.parametrize(
    ("name", "what"), [("all", "all"), ("12", 12), ("1" * 40, None), ("-x", None), ("a b", None), ("٣", None)]
)
def test_a_capture_has_a_name_or_a_number(name: str, what: int | str | None) -> None:
    assert capture_meant(Offer(Kind.CAPTURE, name)) == what


def test_limits_are_those_of_all_rules_that_fit() -> None:
    narrow, wide = permission("eth0", snaplen=96, promiscuous=False, only="udp"), permission("eth*", snaplen=500)
    assert limits_of("eth0", [narrow]) == Limits(96, False, ("udp",))
    assert limits_of("eth0", [narrow, wide]) == Limits(500, True, ())
    assert limits_of("eth1", [narrow]) == Limits()  # what is not allowed is not offered
    assert limits_of("any", [narrow]) == Limits(96, False, ("udp",))


# Settings -------------------------------------------------------------------------------------------------------------


def configured(kind: Kind, **changes: object) -> list[Option]:
    """Return what can be set, as capd itself understands other programs."""
    arguments = {"is_generic": False, "limits": Limits(), "reload": None, **changes}
    lines = list(configuration_sentences(kind, **arguments))  # type: ignore[arg-type]
    return options_of(sentences_of("\n".join(lines).encode()))


@pytest.mark.parametrize(
    ("kind", "calls"),
    [
        (Kind.INTERFACE, ["--snaplen", "--no-promiscuous", "--direction", "--netns"]),
        (Kind.HOST, ["--remote-interface", "--snaplen", "--no-promiscuous", "--direction", "--netns"]),
        (Kind.CAPTURE, ["--begin"]),
        (Kind.RECORDER, ["--after", "--go-on"]),
    ],
)
def test_each_kind_has_its_settings(kind: Kind, calls: list[str]) -> None:
    assert [each.call for each in configured(kind)] == calls
    generic = [each.call for each in configured(kind, is_generic=True)]
    assert generic == (["--host", *calls] if kind is Kind.HOST else calls)


def test_settings_are_within_the_rules() -> None:
    found = {each.call: each for each in configured(Kind.INTERFACE, limits=Limits(96, promiscuous=False))}
    assert (found["--snaplen"].least, found["--snaplen"].most, found["--snaplen"].default) == (1, 96, "96")
    assert "--no-promiscuous" not in found
    assert found["--direction"].values == ("in", "out", "inout")
    lines = configuration_sentences(Kind.INTERFACE, is_generic=False, limits=Limits(), reload=None)
    values = [each for each in map(fields_of, lines) if "value" in each]
    assert [each["value"] for each in values if each["default"] == "true"] == ["inout"]


def test_only_the_values_that_are_asked_for_are_loaded() -> None:
    lines = list(
        configuration_sentences(
            Kind.HOST, is_generic=False, limits=Limits(), reload="remote-interface", loaded=[("eth7", "eth7")]
        )
    )
    assert [fields_of(each)["value"] for each in lines] == ["", "any", "eth7"]
    assert {each.partition(" ")[0] for each in lines} == {"value"}


def test_a_command_line_is_understood_with_what_later_versions_add() -> None:
    line = "--extcap-later 3 --capture --extcap-interface capd:eth0 --fifo=/tmp/f --snaplen 96 --no-promiscuous --x"
    assert parse([*line.split(), "--extcap-capture-filter", "udp or tcp", "--direction="]) == Words(
        action=Action.CAPTURE,
        interface="capd:eth0",
        fifo="/tmp/f",
        capture_filter="udp or tcp",
        settings={"--snaplen": "96", "--no-promiscuous": "", "--direction": ""},
    )
    assert parse(["--extcap-interfaces", "--extcap-version=4.6"]).action is Action.LIST_INTERFACES
    assert parse(["--capture", "--fifo"]) == Words(action=Action.CAPTURE)


@given(st.lists(st.sampled_from([*(each.call for each in SETTINGS), "--capture", "--fifo", "--a=b", "=", ""])))
def test_any_words_are_understood_somehow(words: list[str]) -> None:
    assert isinstance(parse(words), Words)


def test_a_capture_has_what_was_set() -> None:
    settings = {"--snaplen": "96", "--no-promiscuous": "", "--direction": "in", "--netns": "blue"}
    assert arguments_of("eth0", "udp", settings) == {
        "interfaces": "eth0", "capture_filter": "udp", "snaplen": "96", "promiscuous": False, "direction": "in",
        "netns": "blue", "in_memory": True,
    }  # fmt: skip
    assert arguments_of("eth0", None, {"--netns": ""}) == {"interfaces": "eth0", "in_memory": True}
    begin = ["capctl", "capture", "--json", "-w", "-"]
    assert words_of(settings, "eth0", "-x") == [*begin, "-ieth0", "-f-x", "-s96", "-Qin", "--netns=blue", "-p"]
    assert words_of({}, None, None) == begin


# The toolbar ----------------------------------------------------------------------------------------------------------

MESSAGES = [
    ControlMessage(Control.SNAPSHOT, Command.SET),
    ControlMessage(Control.DROPPED, Command.SET, "T3 of 4\N{EURO SIGN}"),
    ControlMessage(200, Command.INITIALIZED, "x" * 65_535),
]


def test_controls_are_said_with_the_list() -> None:
    found = [fields_of(each) for each in control_sentences()]
    assert [(each["number"], each["type"]) for each in found] == [("0", "string"), ("1", "button"), ("2", "button")]


def test_messages_are_as_wireshark_has_them() -> None:
    assert ControlMessage(2, Command.STATUS_BAR, "ab").encode() == b"T\0\0\4\2\6ab"
    assert len(ControlMessage(0, Command.SET, "x" * 70_000).encode()) == 4 + 2 + 65_535


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 10**6])
def test_messages_are_understood_in_any_pieces(size: int) -> None:
    data = b"\0junk" + b"".join(each.encode() for each in MESSAGES)
    decoder, found = ControlDecoder(), list[ControlMessage]()
    for at in range(0, len(data), size):
        found += decoder.feed(data[at : at + size])
    assert found == MESSAGES


@given(st.binary(max_size=50))
def test_what_is_no_message_is_passed_over(junk: bytes) -> None:
    decoder = ControlDecoder()
    list(decoder.feed(junk.replace(b"T", b"")))
    assert list(decoder.feed(b"T\0\0\1" + b"T\xff\xff\xff" + MESSAGES[0].encode())) == MESSAGES[:1]


# Hosts ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("ssh://alice@probe:2222", ["-l", "alice", "-p", "2222", "--", "probe"]),
        ("probe", ["--", "probe"]),
        ("ssh://192.0.2.7/", ["--", "192.0.2.7"]),
        ("root@[fe80::1%eth0]:22", ["-l", "root", "-p", "22", "--", "fe80::1%eth0"]),
    ],
)
def test_a_host_is_reached_by_ssh(text: str, words: list[str]) -> None:
    command = checked_host(text).command("capctl", "a b")
    assert command[0] == "ssh"
    assert command[-len(words) - 1 :] == [*words, "capctl 'a b'"]


@pytest.mark.parametrize("text", ["", "-oProxy=x", "a@-x", "-x@a", "a b", "a;b", "ssh://", "http://a", "a\nb", EVIL])
def test_what_is_no_host_is_refused(text: str) -> None:
    assert host_of(text) is None


def test_hosts_are_those_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "hosts"
    assert listed_hosts(str(path)) == []
    path.write_bytes(b"# mine\nssh://alice@probe  # there\n\n-x\nprobe:22\nalice@probe\n\xff\n" + b"z" * 100_000)
    assert listed_hosts(str(path)) == ["alice@probe", "probe:22"]
    path.write_text("".join(f"h{number}\n" for number in range(1000)))
    assert len(listed_hosts(str(path))) == 100
